//! Who is here: the clock of the server, the windows that heartbeats write, and the states that follow.

use std::time::{Duration, Instant};

use async_std::task::block_on;
use rollcall::store::presence::{Clock, State};
use rollcall::store::{Recorder, Store};

use crate::group_commit::sighting;
use crate::program::signal;
use crate::server::{answer, heartbeat, start};
use crate::stack::{Builder, PATIENCE, Stack, expect, text, wait_until};

fn store(stack: &Stack) -> Store {
    Store::open(&stack.database_url(), PATIENCE).unwrap()
}

/// As a reader that looks now sees it.
pub fn state(stack: &Stack, email: &str) -> State {
    let store = store(stack);
    let person = block_on(store.people(&[email])).unwrap().remove(0);
    let servers = block_on(store.servers()).unwrap();
    let server = servers.iter().find(|row| Some(&row.name) == person.server.as_ref()).unwrap_or(&servers[0]);
    let clock =
        Clock { heard_ms: server.heard_ms, resumed_ms: server.resumed_ms, is_deaf: server.silent_ms > 5000 };
    State::of(person.window.as_ref(), clock)
}

/// `good_until_ms`, `gone_after_ms` and `said_every_s`, in relation to the clock of the server that the row names.
fn window(stack: &Stack, email: &str) -> String {
    stack.sql(&format!(
        "select concat_ws(' ', good_until_ms - 1000, gone_after_ms - 1000, coalesce(said_every_s, 0))
           from users where email = '{email}'"
    ))
}

fn heard_ms(stack: &Stack) -> u64 {
    stack.sql("select max(heard_ms) from servers").parse().unwrap_or_default()
}

#[test]
fn a_heartbeat_says_until_when_silence_is_normal() {
    let stack = Stack::database();
    stack.sql("insert into users (email) values ('a@example.com')");
    let mut here = Recorder::new(store(&stack), "here".to_owned());
    let beat = |recorder: &mut Recorder, heard_ms, every_s| {
        let mut one = sighting("a@example.com", 1, 1, "01");
        (one.heard_ms, one.every_s) = (heard_ms, every_s);
        assert_eq!(block_on(recorder.record(&[&one])).unwrap().committed.len(), 1);
    };
    assert_eq!(state_without_server(&stack), State::Never);
    // Nobody said an interval: 30 s.
    beat(&mut here, 1000, None);
    assert_eq!(window(&stack, "a@example.com"), "35000 90000 0");
    // The intervals in SQL and in Rust are the same.
    for every_s in [1, 7, 8, 300, 86_400] {
        stack.sql("update users set good_until_ms = null, gone_after_ms = null");
        beat(&mut here, 1000, Some(every_s));
        let every = u64::from(every_s) * 1000;
        let (good, gone) = (every * 11 / 10 + 2000, every + u64::max(2 * every, 15_000));
        assert_eq!(window(&stack, "a@example.com"), format!("{good} {gone} {every_s}"));
    }
    // A laptop at 30 s beside a phone at 5 min: the longer window stays.
    stack.sql("update users set good_until_ms = null, gone_after_ms = null");
    beat(&mut here, 1000, Some(300));
    beat(&mut here, 2000, Some(30));
    assert_eq!(window(&stack, "a@example.com"), "332000 900000 30");
    // A statement that runs late credits no more than was true.
    beat(&mut here, 1000, Some(300));
    assert_eq!(window(&stack, "a@example.com"), "332000 900000 300");
    // Another server has another clock: that which was left is carried over.
    stack.sql("insert into servers (name, epoch, heard_ms, resumed_ms) values ('here', 1, 101000, 0)");
    let mut there = Recorder::new(store(&stack), "there".to_owned());
    beat(&mut there, 7_001_000, Some(30));
    assert_eq!(window(&stack, "a@example.com"), "7232000 7800000 30");
    assert_eq!(stack.sql("select server from users where email = 'a@example.com'"), "there");
    // An administrator's interval counts more than the client's, and begins anew.
    stack.sql("insert into servers (name, epoch, heard_ms, resumed_ms) values ('there', 1, 7001000, 0)");
    let admin = |arguments: &[&str], exit, said: &str| expect(&mut stack.administer(arguments), exit, said);
    admin(&["user", "every", "a@example.com", "10s"], 0, "a@example.com is expected every 10s");
    assert_eq!(window(&stack, "a@example.com"), "7210000 7227000 30");
    stack.sql("update users set good_until_ms = null, gone_after_ms = null");
    beat(&mut there, 7_002_000, Some(300));
    assert_eq!(window(&stack, "a@example.com"), "7014000 7031000 300");
    admin(&["user", "every", "a@example.com", "client"], 0, "a@example.com is expected as its client says");
    assert_eq!(window(&stack, "a@example.com"), "7333000 7901000 300");
    // It counts from the last heartbeat: a shorter one makes nobody online again.
    stack.sql("update servers set heard_ms = 9000000");
    admin(&["user", "every", "a@example.com", "1d"], 0, "every 1day");
    admin(&["user", "every", "a@example.com", "10s"], 0, "every 10s");
    assert_eq!(window(&stack, "a@example.com"), "7014000 7031000 300");
    for wrong in ["", "0s", "2d", "1500ms", "auto", "30"] {
        admin(&["user", "every", "a@example.com", wrong], 2, "it is client, or whole seconds from 1s to 1d");
    }
    admin(&["user", "every", "b@example.com", "30s"], 1, "b@example.com is not enrolled");
    admin(&["user", "reads", "a@example.com", "all"], 0, "a@example.com may see: all");
    assert_eq!(stack.sql("select reads from users where email = 'a@example.com'"), "all");
    admin(&["user", "reads", "a@example.com", "everything"], 2, "it is none, self or all");
    admin(&["user", "reads", "b@example.com", "none"], 1, "b@example.com is not enrolled");
}

fn state_without_server(stack: &Stack) -> State {
    let person = block_on(store(stack).people(&["a@example.com"])).unwrap().remove(0);
    State::of(person.window.as_ref(), Clock { heard_ms: 0, resumed_ms: 0, is_deaf: false })
}

/// No wall clock is asked: a sighting that is an hour older, or in the future, moves the window like any other.
#[test]
fn a_wall_clock_that_steps_changes_no_state() {
    let stack = Stack::database();
    stack.sql("insert into users (email) values ('a@example.com')");
    let mut here = Recorder::new(store(&stack), "here".to_owned());
    const HOUR: u64 = 3_600_000_000_000;
    let now = rollcall::cli::now_ns();
    for (heard_ms, last_seen_ns) in [(1000, now), (31_000, now - HOUR), (61_000, now + HOUR), (91_000, now)] {
        let mut one = sighting("a@example.com", last_seen_ns, 1, "01");
        one.heard_ms = heard_ms;
        block_on(here.record(&[&one])).unwrap();
        assert_eq!(window(&stack, "a@example.com"), format!("{} {} 0", heard_ms + 34_000, heard_ms + 89_000));
    }
}

#[test]
fn a_client_says_how_often_it_beats() {
    let stack = Stack::up();
    let pair = stack.pair("client");
    let said =
        || stack.sql("select coalesce(said_every_s, 0) from users where email = 'valid_user@qt-test.com'");
    for (value, every_s) in [("300", "300"), ("1", "1"), ("86400", "86400"), ("007", "7")] {
        assert_eq!(stack.curl(Some(&pair), &["-H", &format!("Rollcall-Every: {value}")]).status, 204);
        assert_eq!(said(), every_s);
    }
    // Anything else says nothing.
    for value in ["0", "86401", "99999", "-1", "+5", "1e3", "30s", "3 0", "1.5", "300;x", &"9".repeat(2000)] {
        assert_eq!(
            stack.curl(Some(&pair), &["-H", &format!("Rollcall-Every: {value}")]).status,
            204,
            "{value}"
        );
        assert_eq!(said(), "0", "{value}");
    }
    let twice = ["-H", "Rollcall-Every: 5", "-H", "Rollcall-Every: 6"];
    assert_eq!(stack.curl(Some(&pair), &twice).status, 204);
    assert!(["0", "5"].contains(&said().as_str()), "{}", said());
}

/// Nobody turns late whom a server could not have heard, and everybody comes back as they were.
#[test]
fn a_server_that_was_stopped_calls_nobody_late() {
    let stack = Stack::server();
    stack.sql("insert into users (email) values ('a@example.com')");
    wait_until("the clock goes", || heard_ms(&stack) > 1000);
    assert!(answer(heartbeat(&stack, "a@example.com", 1, 1)).starts_with("HTTP/1.1 204"));
    assert_eq!(state(&stack, "a@example.com"), State::Online);
    let server = stack.pid("server/pid");
    signal("STOP", &[server]);
    let before = heard_ms(&stack);
    wait_until("its silence is seen", || state(&stack, "a@example.com") == State::Unknown);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(heard_ms(&stack), before, "a process that is stopped hears nothing");
    signal("CONT", &[server]);
    wait_until("it hears again", || heard_ms(&stack) > before);
    assert_eq!(state(&stack, "a@example.com"), State::Online);
    let resumed: u64 = stack.sql("select resumed_ms from servers").parse().unwrap();
    assert!(
        (before..before + 3000).contains(&resumed),
        "{resumed} after {before}: a tick counts for 2 s at most"
    );
}

#[test]
fn a_start_takes_the_next_epoch_and_goes_on_from_the_reading() {
    let stack = Builder::new().set("ROLLCALL_NAME", "one").server();
    let clock =
        || stack.sql("select concat_ws(' ', name, epoch, resumed_ms) from servers where name = 'one'");
    let heard_ms = |_: &Stack| {
        stack.sql("select coalesce(max(heard_ms), 0) from servers where name = 'one'").parse::<u64>().unwrap()
    };
    wait_until("the clock goes", || heard_ms(&stack) > 2000);
    assert_eq!(clock(), "one 1 0");
    // A second process of the name: the first one records nothing more, since nobody would compare its readings.
    let listen = format!("127.0.0.1:{}", crate::stack::free_port());
    let second = start(&stack, &[("ROLLCALL_LISTEN", listen.as_str()), ("ROLLCALL_NAME", "one")]);
    wait_until("the first one has noticed", || {
        stack.log("server/log").contains("a newer server has the name one: this one records nothing more")
    });
    let resumed: u64 = stack.sql("select resumed_ms from servers where name = 'one'").parse().unwrap();
    assert!(clock().starts_with("one 2 ") && resumed >= 2000, "{}", clock());
    wait_until("it goes on from there", || heard_ms(&stack) > resumed + 1000);
    stack.sql("insert into users (email) values ('a@example.com')");
    let refused = answer(heartbeat(&stack, "a@example.com", 1, 1));
    assert!(
        refused.starts_with("HTTP/1.1 503") && refused.contains("a newer server has the name"),
        "{refused}"
    );
    let asked = stack.to_server(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert!(asked.starts_with("HTTP/1.1 503"), "{asked}");
    drop(second);
}

#[test]
fn the_clock_stands_while_the_database_takes_nothing() {
    let stack = Stack::with_its_own_cluster();
    wait_until("the clock goes", || heard_ms(&stack) > 1000);
    let began = Instant::now();
    let before = heard_ms(&stack);
    expect(&mut stack.tool("stack/down"), 0, "");
    std::thread::sleep(Duration::from_secs(6));
    expect(&mut stack.tool("stack/up"), 0, "");
    wait_until("the clock goes", || heard_ms(&stack) > before);
    let heard = heard_ms(&stack) - before;
    let passed = began.elapsed().as_millis() as u64;
    assert!(heard + 3000 < passed, "{heard} of {passed} ms: the time without a database does not count");
}

/// The canary goes through the real nginx: without nginx nobody could be heard.
#[test]
fn without_nginx_everybody_is_unknown_and_nobody_late() {
    let stack = Builder::new().set("ROLLCALL_CANARY", "bird@example.com").up();
    let pair = stack.member("a@example.com");
    assert_eq!(stack.curl(Some(&pair), &["-H", "Rollcall-Every: 1"]).status, 204);
    wait_until("the clock goes", || heard_ms(&stack) > 1000);
    // It is in the table, and shown nowhere.
    assert_eq!(
        stack.sql("select count(*) from users where email = 'bird@example.com' and server is not null"),
        "1"
    );
    let mut list = stack.administer(&["user", "list"]);
    list.env("ROLLCALL_CANARY", "bird@example.com");
    let listed = text(&list.output().unwrap());
    assert!(listed.contains("a@example.com") && !listed.contains("bird"), "{listed}");
    expect(&mut stack.tool("stack/status"), 0, "canary       runs, pid ");
    assert_eq!(stack.curl(Some(&pair), &["-H", "Rollcall-Every: 1"]).status, 204);
    let ear = stack.ear();
    let nginx = stack.pid("nginx/nginx.pid");
    signal("TERM", &[nginx]);
    let gone = Instant::now();
    let before = heard_ms(&stack);
    std::thread::sleep(Duration::from_secs(8));
    assert!(heard_ms(&stack) < before + 3000, "the clock stands from the canary's last heartbeat on");
    assert_eq!(state(&stack, "a@example.com"), State::Online, "who beats every second is not even late");
    wait_until("the log says why", || {
        stack.log("server/log").contains("everybody is unknown: the canary is silent")
    });
    // The server tells all the same: the board sees that the clock stands.
    assert!(gone.elapsed() > Duration::from_secs(8));
    let before = heard_ms(&stack);
    expect(&mut stack.tool("stack/up"), 0, "canary       is heard through nginx every 2 s");
    wait_until("the clock goes on", || heard_ms(&stack) > before);
    let resumed: u64 = stack.sql("select resumed_ms from servers").parse().unwrap();
    assert_eq!(resumed, before);
    ear.hears_nothing();
}

/// A restored dump may have an older clock, or none.
#[test]
fn a_clock_that_was_lost_begins_where_the_last_heartbeat_was() {
    let stack = Builder::new().set("ROLLCALL_NAME", "one").server();
    stack.sql("insert into users (email) values ('a@example.com'), ('dead@example.com')");
    wait_until("the clock goes", || heard_ms(&stack) > 0);
    stack.sql("update servers set heard_ms = 5000000, epoch = epoch - 1 where name = 'one'");
    wait_until("it goes on", || heard_ms(&stack) > 5_001_000);
    let resumed = stack.sql("select resumed_ms from servers where name = 'one'");
    assert_eq!(resumed, "5000000");
    for email in ["a@example.com", "dead@example.com"] {
        assert!(answer(heartbeat(&stack, email, 1, 1)).starts_with("HTTP/1.1 204"));
    }
    // Gone for a long time by then.
    stack.sql("update users set good_until_ms = 1000, gone_after_ms = 2000 where email = 'dead@example.com'");
    stack.sql("delete from servers");
    wait_until("it goes on from there", || heard_ms(&stack) > 5_001_000);
    assert_eq!(state(&stack, "a@example.com"), State::Online);
    assert_eq!(state(&stack, "dead@example.com"), State::Offline);
    assert!(answer(heartbeat(&stack, "a@example.com", 1, 1)).starts_with("HTTP/1.1 204"));
    // The same for a server that starts without its row.
    let server = stack.pid("server/pid");
    signal("KILL", &[server]);
    wait_until("it ended", || crate::program::has_ended(server));
    stack.sql("delete from servers");
    let _server = start(&stack, &[("ROLLCALL_NAME", "one")]);
    wait_until("it goes on from there", || heard_ms(&stack) > 5_001_000);
    assert_eq!(state(&stack, "dead@example.com"), State::Offline);
}
