//! Several servers on one database.

use std::fs;
use std::process::Command;
use std::time::Duration;

use async_std::task::block_on;
use rollcall::cli::now_ns;
use rollcall::keyfile;
use rollcall::store::Store;
use serde_json::Value;

use crate::group_commit::sighting;
use crate::keys::Keys;
use crate::program::{Running, children, needs, signal};
use crate::server::{answer, ask, claims, heartbeat, start};
use crate::stack::{Builder, PATIENCE, Stack, binaries, expect, free_port, text, wait_until};

mod join;

const VALID: &str = "valid_user@qt-test.com";

/// A second server of this stack, with a name, a key and a port of its own.
pub struct Second {
    pub running: Running,
    pub listen: String,
}

impl Second {
    #[track_caller]
    pub fn start(stack: &Stack, name: &str, key: &str, settings: &[(&str, &str)]) -> Self {
        let listen = format!("127.0.0.1:{}", free_port());
        let own =
            [("ROLLCALL_LISTEN", listen.as_str()), ("ROLLCALL_NAME", name), ("ROLLCALL_BROADCAST_KEY", key)];
        let running = start(stack, &[&own[..], settings].concat());
        wait_until("the second server is ready", || running.err().contains("the database is ready"));
        Self { running, listen }
    }

    #[track_caller]
    pub fn beat(&self, stack: &Stack, email: &str, port: usize) {
        let said = answer(ask(stack, &self.listen, &(claims(email, port, port) + "Connection: close\r\n")));
        assert!(said.starts_with("HTTP/1.1 204"), "{said} {}", self.running.err());
    }
}

/// The keys of all servers are one file, and a listener that has it believes each of them.
#[test]
fn one_file_has_the_keys_of_all_servers() {
    let stack = Builder::new().set("ROLLCALL_NAME", "one").server();
    let keys = Keys::new();
    let second = Second::start(&stack, "two", &keys.file("two.key"), &[]);
    let own = keyfile::public_key(&stack.certs.join("broadcast.pub")).unwrap();
    let other = *keys.signer("two").public();

    let file = stack.admin(&["keys"]);
    let printed = text(&file);
    assert_eq!(keyfile::parse_public_keys(&printed).unwrap(), [own, other], "{printed}");
    assert!(
        printed.contains(&format!("# the server one, key {own}\n-----BEGIN PUBLIC KEY-----\n")),
        "{printed}"
    );
    assert!(printed.contains(&format!("# the server two, key {other}\n")), "{printed}");
    let json = text(&stack.admin(&["keys", "--json"]));
    let lines: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines.len(), &lines[1]["server"], &lines[1]["signs"]), (2, &"two".into(), &true.into()));
    assert_eq!(lines[1]["key"], other.to_string());

    // While the key of this host's server is replaced, the next one is in the file too.
    expect(
        stack.tool("stack/rotate").env("ROLLCALL_NAME", "one").env("DATABASE_URL", stack.database_url()),
        0,
        "keys prints, which has both",
    );
    let next = keyfile::public_key(&stack.certs.join("broadcast.next.pub")).unwrap();
    let printed = text(&stack.admin(&["keys"]));
    assert_eq!(keyfile::parse_public_keys(&printed).unwrap(), [own, next, other], "{printed}");
    let folder = keyfile::public_keys_in(&stack.certs).unwrap();
    assert!(
        [own, next, other].iter().all(|key| folder.contains(key)),
        "just listen believes them: {folder:?}"
    );
    // The second host does not take them back.
    let elsewhere = stack.state.join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::copy(keys.file("two.pub"), elsewhere.join("broadcast.pub")).unwrap();
    let mut theirs = stack.administer(&["keys"]);
    theirs.env("ROLLCALL_NAME", "two").env("ROLLCALL_CERTS", &elsewhere);
    assert_eq!(keyfile::parse_public_keys(text(&theirs.output().unwrap())).unwrap(), [own, next, other]);

    let all = stack.state.join("all.pub");
    fs::write(&all, printed).unwrap();
    let port = stack.broadcast_port.to_string();
    let mut listen = Command::new(binaries().join("rollcall-listen"));
    listen.args(["--json", "--port", &port, "--timeout", "60s", "--key"]).arg(&all);
    let listener =
        Running::bound(&stack, listen, stack.broadcast_port, || fs::read_to_string("/proc/net/udp").unwrap());
    assert!(answer(heartbeat(&stack, VALID, 7, 7)).starts_with("HTTP/1.1 204"));
    let line = listener.next();
    assert_eq!((&line["key"], &line["verified"]), (&own.to_string().into(), &true.into()));
    second.beat(&stack, VALID, 8);
    let line = listener.next();
    assert_eq!((&line["key"], &line["port"]), (&other.to_string().into(), &8.into()));
    let (rest, said, _) = listener.end();
    assert!(rest.is_empty() && said.contains("unverified 0"), "{rest:?} {said}");
    assert_eq!(stack.sql("select server from users where last_seen_ns is not null"), "two");
}

/// Listeners believe one of two servers with the same key: the second one does not start, and two that were started at
/// once say so.
#[test]
fn the_same_key_on_two_servers_is_refused() {
    let stack = Builder::new().set("ROLLCALL_NAME", "one").server();
    let key = stack.certs.join("broadcast.key").display().to_string();
    let copied = stack.state.join("copied.key");
    fs::copy(&key, &copied).unwrap();
    let copied = copied.display().to_string();
    let mut copy = start(&stack, &[("ROLLCALL_NAME", "two"), ("ROLLCALL_BROADCAST_KEY", &copied)]);
    assert_eq!(copy.exit(), 78, "{}", copy.err());
    assert!(copy.err().contains("the server one signs with the same key"), "{}", copy.err());
    assert_eq!(stack.sql("select count(*) from servers where name = 'two'"), "0");
    assert!(answer(heartbeat(&stack, VALID, 7, 7)).starts_with("HTTP/1.1 204"));

    // Another row tells with the same key, as that of a server that was started at the same moment.
    let tell = "insert into servers (name, epoch, heard_ms, resumed_ms, public_key)
                select 'three', 1, 0, 0, public_key from servers where name = 'one'
                    on conflict (name) do update set told_at = clock_timestamp()";
    wait_until("the first one says so", || {
        stack.sql(tell);
        stack
            .log("server/log")
            .contains("signing announcements fails: the server three signs with the same key")
    });

    // The same server under a new name waits until the row of the old one is silent.
    stack.sql("delete from servers where name = 'three'");
    let pid = stack.pid("server/pid");
    signal("KILL", &[pid]);
    let renamed = start(&stack, &[("ROLLCALL_NAME", "renamed"), ("ROLLCALL_BROADCAST_KEY", &copied)]);
    wait_until("it is ready", || renamed.err().contains("the database is ready"));
}

/// Beside a good server, one whose clock is 5 s or an hour off: the rows and announcements are in one order.
#[test]
fn a_server_with_a_wrong_clock_mixes_no_rows() {
    let Some(()) = needs("faketime") else { return };
    let stack = Builder::new().set("ROLLCALL_NAME", "right").server();
    let keys = Keys::new();
    let library = Command::new("faketime")
        .args(["-f", "+0", "sh", "-c", "printf %s \"$LD_PRELOAD\""])
        .output()
        .unwrap();
    let library = text(&library);
    for (clock, key) in [("+5s", "one"), ("-5s", "one"), ("+3600s", "two"), ("-3600s", "two")] {
        let settings =
            [("LD_PRELOAD", library.as_str()), ("FAKETIME", clock), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")];
        let wrong = Second::start(&stack, clock, &keys.file(&format!("{key}.key")), &settings);
        let ear = stack.ear();
        // An ear takes what was seen since, and the servers know the time to some milliseconds.
        std::thread::sleep(Duration::from_millis(200));
        let mut last = 0;
        for i in 0..6_u16 {
            let before = now_ns();
            let (port, server) = match i % 2 {
                0 => (1000 + i, clock),
                _ => (2000 + i, "right"),
            };
            match i % 2 {
                0 => wrong.beat(&stack, VALID, port.into()),
                _ => {
                    let said = answer(heartbeat(&stack, VALID, port.into(), port.into()));
                    assert!(said.starts_with("HTTP/1.1 204"), "{said}");
                }
            }
            let heard = ear.hear();
            // Each is the newest: its own time, address and server, and announced once.
            assert_eq!(heard.port, port, "{clock}");
            assert!(heard.last_seen_ns > last, "{clock}");
            assert!(
                (before - 1_000_000_000..=now_ns() + 1_000_000_000).contains(&heard.last_seen_ns),
                "{clock}"
            );
            let row = format!("{}|{port}|{server}", heard.last_seen_ns);
            assert_eq!(
                stack.sql("select last_seen_ns, port, server from users where last_seen_ns is not null"),
                row
            );
            last = heard.last_seen_ns;
        }
        ear.hears_nothing();
        if clock.ends_with("3600s") {
            wait_until("it says so", || wrong.running.err().contains("the clock of this host fails: it is "));
        }
    }
}

/// A step of the database's clock is one line in the log, also while nobody beats.
#[test]
fn a_clock_of_the_database_that_steps_back_is_told_once() {
    let stack = Builder::new().server();
    let says = "the clock of the database fails: it is ";
    let set = |ahead: &str| {
        stack.sql(&format!(
            "create or replace function wrong.clock_timestamp() returns timestamptz language sql as \
             $$ select pg_catalog.clock_timestamp() + interval '{ahead}' $$"
        ));
    };
    stack.sql("create schema wrong; grant usage on schema wrong to rollcall_server");
    set("0");
    stack.sql(&format!("alter database {} set search_path = wrong, public, pg_catalog", stack.database));
    stack.end_sessions();
    wait_until("it goes on", || crate::cluster::readyz(&stack).status == 204);
    std::thread::sleep(Duration::from_secs(2));
    assert!(!stack.log("server/log").contains(says), "{}", stack.log("server/log"));
    set("-5 seconds");
    wait_until("it says so", || stack.log("server/log").contains(says));
    for port in [1, 2] {
        let said = answer(heartbeat(&stack, VALID, port, port));
        assert!(said.starts_with("HTTP/1.1 204"), "{said}");
    }
    std::thread::sleep(Duration::from_secs(2));
    let log = stack.log("server/log");
    assert_eq!(log.matches("the clock of the database fails").count(), 1, "{log}");
    assert!(log.contains("s behind where this server knew it, and counts; did it step?"), "{log}");
}

/// A server that died calls nobody offline: its people are unknown, until another one hears them.
#[test]
fn the_people_of_a_dead_server_are_unknown() {
    let stack = Builder::new().set("ROLLCALL_NAME", "one").server();
    stack.sql("insert into users (email) values ('a@example.com'), ('b@example.com')");
    let keys = Keys::new();
    let second = Second::start(&stack, "two", &keys.file("two.key"), &[]);
    second.beat(&stack, "a@example.com", 7);
    second.beat(&stack, "b@example.com", 8);
    // The child of timeout(1).
    signal("KILL", &children(second.running.child.id(), "rollcall-server"));
    drop(second);
    let state = |email: &str| crate::presence::state(&stack, email).word();
    wait_until("it is deaf", || state("a@example.com") == "unknown" && state("b@example.com") == "unknown");
    // Their windows end meanwhile.
    stack.sql("update users set good_until_ms = 0, gone_after_ms = 0 where server = 'two'");
    assert_eq!(state("a@example.com"), "unknown");
    assert!(answer(heartbeat(&stack, "a@example.com", 9, 9)).starts_with("HTTP/1.1 204"));
    assert_eq!((state("a@example.com"), state("b@example.com")), ("online", "unknown"));
}

/// A server of the version before goes on with the new schema, and the new one with that which it writes.
#[test]
fn a_server_of_the_version_before_goes_on() {
    let stack = Builder::new().set("ROLLCALL_NAME", "new").server();
    let text_of = |name: &str| {
        fs::read_to_string(format!("{}/tests/it/servers/{name}.sql", env!("CARGO_MANIFEST_DIR"))).unwrap()
    };
    // It starts, and tells its clock.
    let old = |statement: &str| stack.sql_as("rollcall_server", &stack.database, statement);
    old("insert into servers (name, epoch, heard_ms, resumed_ms) values ('old', 1, 5000, 0)
             on conflict (name) do update set epoch = servers.epoch + 1, told_at = clock_timestamp()");
    old(
        "update servers set heard_ms = 6000, resumed_ms = 0, told_at = clock_timestamp() where name = 'old' and epoch = 1",
    );
    let now = now_ns();
    let fingerprint = "0".repeat(40);
    let record = |seen: u64, port: u16| {
        old(&format!(
            "prepare beat (text, bigint, text, integer, text, text, bigint, bigint, bigint, integer, text, integer) as {};
             execute beat ('{VALID}', {seen}, '192.0.2.9', {port}, '0A', '{fingerprint}', 7, 600000000000, 6000, 30, 'old', 30)",
            text_of("record_one")
        ))
    };
    let row =
        || stack.sql("select last_seen_ns, host(ip), port, server from users where last_seen_ns is not null");
    assert_eq!(record(now, 7), format!("1|{now}|192.0.2.9|7|f"));
    assert_eq!(row(), format!("{now}|192.0.2.9|7|old"));
    assert!(answer(heartbeat(&stack, VALID, 8, 8)).starts_with("HTTP/1.1 204"));
    assert!(row().ends_with("|192.0.2.1|8|new"), "{}", row());
    // Its clock is its own: one that is ahead stands until the database's has caught up.
    let ahead = now_ns() + 60_000_000_000;
    record(ahead, 9);
    let store = Store::open(&stack.database_url(), PATIENCE).unwrap();
    let mut new = rollcall::store::Recorder::new(store, "new".to_owned());
    let recorded = block_on(new.record(&[&sighting(VALID, now_ns(), 10, "0B")])).unwrap();
    assert_eq!((recorded.committed[0].last_seen_ns, recorded.committed[0].port), (ahead, 9));
    assert_eq!(row(), format!("{ahead}|192.0.2.9|9|old"));
    // It has no key to tell.
    let printed = text(&stack.admin(&["keys"]));
    assert!(
        printed.contains("the server old has told no key: it does not sign, or is of an older version"),
        "{printed}"
    );
}

/// Each server has a role, and the role of one is no way to the others.
#[test]
fn a_servers_role_writes_its_own_row_and_no_other() {
    let stack = Builder::new().set("ROLLCALL_NAME", "one").server();
    let role = format!("rollcall_server_two{}", free_port());
    let name = role.strip_prefix("rollcall_server_").unwrap();
    stack.sql_as("postgres", &stack.database, &format!("create role {role} in role rollcall_server"));
    // As if it had logged in.
    let as_role_set = |set: &str, statement: &str| {
        let mut psql = stack.psql_as("postgres", &stack.database);
        psql.args(["-c", &format!("set session authorization {role}"), "-c", set, "-c", statement]);
        psql
    };
    let as_role = |statement: &str| as_role_set("", statement);
    let begin = |name: &str| {
        format!(
            "insert into servers (name, epoch, heard_ms, resumed_ms, public_key)
             values ('{name}', 1, 0, 0, '\\x{}')",
            "ab".repeat(32)
        )
    };
    let before = stack.sql("select name, epoch, role, encode(public_key, 'hex') from servers");
    // Each is a member of the group, and so may call itself that.
    for set in ["", "set role rollcall_server"] {
        expect(&mut as_role_set(set, &begin("evil")), 1, "row-level security");
        expect(
            &mut as_role_set(
                set,
                "insert into servers (name, epoch, heard_ms, resumed_ms, role) values ('two', 1, 0, 0, 'rollcall_server')",
            ),
            1,
            "row-level security",
        );
        for change in
            ["epoch = 9223372036854775807", "public_key = null", "left_at = clock_timestamp()", "name = 'x'"]
        {
            let changed = format!(
                "with changed as (update servers set {change} where name = 'one' returning 1) select count(*) from changed"
            );
            expect(&mut as_role_set(set, &changed), 0, "0");
        }
    }
    assert_eq!(stack.sql("select name, epoch, role, encode(public_key, 'hex') from servers"), before);
    expect(&mut as_role(&begin(name)), 0, "");
    expect(
        &mut as_role(&format!("update servers set name = 'one2' where name = '{name}'")),
        1,
        "row-level security",
    );
    // Whatever it says of itself, the others' keys are still printed.
    expect(
        &mut as_role(&format!(
            "update servers set further_keys = array['\\x01'::bytea, null] where name = '{name}'"
        )),
        0,
        "",
    );
    let printed = text(&stack.admin(&["keys"]));
    assert!(
        printed.contains("# the server one, key ") && printed.contains(&format!("# the server {name}, ")),
        "{printed}"
    );
}

/// A server that left counts no silence any more: whoever it saw last is with the server that hears them.
#[test]
fn a_row_of_a_server_that_is_no_more_yields() {
    let stack = Builder::new().set("ROLLCALL_NAME", "one").server();
    stack.sql(
        "insert into servers (name, epoch, heard_ms, resumed_ms, left_at)
         values ('left', 1, 0, 0, clock_timestamp()), ('here', 1, 0, 0, null)",
    );
    for (server, row) in [("'gone'", "one|1"), ("'left'", "one|1"), ("null", "one|9"), ("'here'", "here|9")] {
        // Of a clock that has been set back since.
        stack.sql(&format!(
            "update users set last_seen_ns = (extract(epoch from clock_timestamp()) * 1e9)::bigint + 500000000000,
                    ip = '192.0.2.9', port = 9, server = {server} where email = '{VALID}'"
        ));
        crate::server::is_recorded(&stack);
        let came = stack.sql(&format!("select server, port from users where email = '{VALID}'"));
        assert_eq!(came, row, "{server}");
    }
}
