//! The history of who was here when: its table, the visits, and the end of it.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use serde_json::Value;

use crate::board;
use crate::program::{has_ended, signal};
use crate::stack::{Builder, Running, Stack, expect, free_port, text, wait_until};

const EVE: &str = "eve@example.com";

/// A row as a board writes it, so many days and minutes ago.
fn event(stack: &Stack, email: &str, kind: &str, ago: &str, since: &str) {
    stack.sql(&format!(
        "insert into events (at, email, kind, since, ip, server)
         values (now() - interval '{ago}', '{email}', '{kind}', now() - interval '{since}', '192.0.2.7', 'host')"
    ));
}

#[test]
fn the_months_are_made_and_dropped_and_no_insert_fails() {
    let stack = Stack::database();
    let partitions = || {
        stack
            .sql("select count(*) from pg_inherits where inhparent = 'events'::regclass")
            .parse::<u32>()
            .unwrap()
    };
    // `stack/up` has done it for the template.
    assert_eq!(partitions(), 4);
    expect(&mut stack.administer(&["maintain"]), 0, "");
    assert_eq!(partitions(), 4);
    // A dump of the version before was restored: the table stays, and the list of migrations does not have it.
    stack.sql("delete from _sqlx_migrations where version = 6");
    expect(&mut stack.administer(&["migrate"]), 0, "");
    assert_eq!(partitions(), 4);
    // Nobody ran it for long: the default partition has the row, and the month that comes takes it over.
    stack.sql(
        "do $$ declare name text; begin
             for name in select inhrelid::regclass::text from pg_inherits
                          where inhparent = 'events'::regclass and inhrelid <> 'events_default'::regclass loop
                 execute 'drop table ' || name;
             end loop;
         end $$",
    );
    stack.sql("insert into users (email) values ('eve@example.com')");
    event(&stack, EVE, "online", "1 second", "1 second");
    event(&stack, EVE, "late", "100 days", "100 days");
    assert_eq!(stack.sql("select count(*) from events_default"), "2");
    expect(&mut stack.administer(&["maintain"]), 0, "1 events deleted, older than 90 days");
    assert_eq!(stack.sql("select count(*) from events_default"), "0");
    assert_eq!(stack.sql("select kind from events"), "online");
    // A month of which nothing is kept goes as a whole, and a row of the month of the border by itself.
    stack.sql(
        "create table events_2020_02 partition of events for values from ('2020-02-01 00:00+00') to ('2020-03-01 00:00+00');
         insert into events (at, email, kind) values ('2020-02-29 12:00+00', 'eve@example.com', 'online')",
    );
    event(&stack, EVE, "late", "3 days", "3 days");
    event(&stack, EVE, "offline", "1 day", "3 days");
    let mut maintain = stack.administer(&["maintain"]);
    expect(
        maintain.env("ROLLCALL_KEEP", "2d"),
        0,
        "events_2020_02 dropped\n1 events deleted, older than 2 days",
    );
    assert_eq!(stack.sql("select string_agg(kind, ',' order by at) from events"), "offline,online");
    for (keep, exit) in [("1h", 78), ("90", 78), ("", 0), ("-1d", 78), ("99999d", 78), ("1\u{1b}[2Jd", 78)] {
        expect(
            stack.administer(&["maintain"]).env("ROLLCALL_KEEP", keep),
            exit,
            if exit == 0 { "" } else { "ROLLCALL_KEEP" },
        );
    }
}

#[test]
fn the_visits_are_printed_with_the_newest_last() {
    let stack = Stack::database();
    stack.admin(&["user", "add", EVE]);
    expect(&mut stack.administer(&["history", EVE]), 0, "no visits of eve@example.com are known");
    for (kind, ago, since) in [
        ("online", "50 hours", "50 hours"),
        ("late", "40 hours", "41 hours"),
        ("offline", "39 hours", "41 hours"),
        ("online", "3 hours", "4 hours"),
    ] {
        event(&stack, EVE, kind, ago, since);
    }
    stack.sql(
        "insert into events (at, kind, server) values
             (now() - interval '45 hours', 'deaf', 'host'), (now() - interval '43 hours', 'hears', 'host')",
    );
    let lines = text(&stack.admin(&["history", EVE]));
    let lines: Vec<&str> = lines.lines().collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines[1].ends_with("  host  (for 2h of it this server heard nobody)"), "{lines:?}");
    assert!(!lines[2].contains("heard nobody"), "{lines:?}");
    assert!(lines[1].contains("  9h          192.0.2.7        host"), "{lines:?}");
    assert!(lines[2].contains("  here now") && lines[2].contains("no board looked then"), "{lines:?}");
    let json = text(&stack.admin(&["history", EVE, "--since", "2d", "--json"]));
    let visits: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(visits.len(), 2, "{json}");
    assert_eq!((&visits[0]["from"], &visits[0]["state"]), (&Value::Null, &"offline".into()));
    assert_eq!((&visits[0]["unheard_seconds"], &visits[1]["unheard_seconds"]), (&7200.into(), &0.into()));
    assert_eq!((&visits[1]["to"], &visits[1]["ip"]), (&Value::Null, &"192.0.2.7".into()));
    event(&stack, EVE, "late", "1 second", "1 minute");
    assert!(text(&stack.admin(&["history", EVE])).trim_end().contains("  late  "));

    expect(
        &mut stack.administer(&["history", "nobody@example.com"]),
        1,
        "nobody@example.com is not enrolled",
    );
    expect(&mut stack.administer(&["history", "nobody"]), 2, "not an email address");
    expect(&mut stack.administer(&["history"]), 2, "email");
    for since in ["", "7", "-7d", "7 days\u{1b}[2J", "99999999999999999d"] {
        expect(&mut stack.administer(&["history", EVE, "--since", since]), 2, "--since");
    }
}

/// No table has the email afterwards, and no dump.
#[test]
fn whoever_is_forgotten_is_in_no_table_and_stays_refused() {
    let stack = Stack::up();
    let dump = || {
        let mut dump = stack.command("pg_dump");
        dump.args(["-U", "rollcall", "-h"]).arg(stack.cluster()).arg(&stack.database);
        text(&dump.output().unwrap())
    };
    expect(&mut stack.administer(&["enrol", EVE]), 0, "");
    expect(&mut stack.administer(&["enrol", EVE, "--name", "phone"]), 0, "");
    let noted = stack.certificate(EVE, &[]);
    for pair in [&stack.pair(EVE), &stack.pair("phone"), &noted] {
        expect(&mut stack.client(pair), 0, "Success!");
    }
    expect(&mut stack.administer(&["revoke", "phone"]), 0, "revoked");
    stack.sql(&format!(
        "insert into renewals (fingerprint, serial_number, request)
         select fingerprint, serial_number, convert_to(email, 'UTF8') from certificates where email = '{EVE}'"
    ));
    event(&stack, EVE, "online", "1 minute", "1 minute");
    event(&stack, "valid_user@qt-test.com", "online", "1 minute", "1 minute");
    assert!(dump().contains(EVE));
    let serials =
        stack.sql(&format!("select serial_number from certificates where email = '{EVE}' order by 1"));
    assert_eq!(serials.lines().count(), 3);

    let export = text(&stack.admin(&["user", "export", EVE]));
    let all: Value = serde_json::from_str(&export).unwrap();
    assert_eq!(all["user"]["email"], EVE);
    for (member, count) in [("certificates", 3), ("renewals", 3), ("events", 1), ("files", 4)] {
        assert_eq!(all[member].as_array().unwrap().len(), count, "{member}: {all}");
    }

    let output = text(&stack.admin(&["user", "forget", EVE]));
    assert!(
        output.contains(
            "eve@example.com forgotten, with 3 certificates, which stay refused until they end, and 1 events"
        ),
        "{output}"
    );
    let command = output.split_once("rm -- ").unwrap().1;
    assert_eq!(command.matches("'/").count(), 4, "{output}");
    let after = dump();
    assert!(!after.contains(EVE) && !after.contains("eve@"), "{}", after.len());
    assert!(after.contains("valid_user@qt-test.com"));
    assert_eq!(stack.sql("select count(*) from events"), "1");
    assert_eq!(stack.sql("select serial_number from revoked_serials order by 1"), serials);
    let crl = stack
        .command("openssl")
        .args(["crl", "-noout", "-text", "-in"])
        .arg(stack.state.join("nginx/crl.pem"))
        .output();
    let crl = text(&crl.unwrap());
    for serial in serials.lines() {
        assert!(crl.contains(serial), "{serial}: {crl}");
    }
    for pair in [&stack.pair(EVE), &stack.pair("phone"), &noted] {
        expect(&mut stack.client(pair), 77, "(400 Bad Request)");
    }
    expect(&mut stack.administer(&["user", "forget", EVE]), 1, "eve@example.com is not enrolled");
    expect(&mut stack.administer(&["user", "export", EVE]), 1, "eve@example.com is not enrolled");
    expect(&mut stack.administer(&["user", "forget"]), 2, "no email was given");
    expect(&mut stack.administer(&["user", "forget", "%"]), 2, "not an email address");

    // Enrolled again, they are somebody new; the old certificates stay refused, by the server alone, too.
    expect(&mut stack.administer(&["user", "add", EVE]), 0, "enrolled");
    let mut crl = stack.administer(&["crl"]);
    expect(&mut crl, 0, "valid for");
    for pair in [&stack.pair(EVE), &noted] {
        expect(&mut stack.client(pair), 77, "(400 Bad Request)");
    }
    assert_eq!(stack.sql(&format!("select last_seen_ns is null from users where email = '{EVE}'")), "t");
    let files: Vec<&str> = command.trim().split(' ').map(|file| file.trim_matches('\'')).collect();
    assert!(files.iter().all(|file| fs::metadata(file).is_ok()), "{files:?}");
}

/// The events of somebody, without times.
fn kinds(stack: &Stack, email: &str) -> String {
    stack.sql(&format!(
        "select coalesce(string_agg(kind, ',' order by id), '') from events where email = '{email}'"
    ))
}

/// Silence for long enough: as if the server that saw them were gone for good.
pub fn silence(stack: &Stack, emails: &str) {
    stack.sql(&format!(
        "update users set server = null, good_until_ms = 0, gone_after_ms = 0 where email like '{emails}'"
    ));
}

/// As if the process crashed.
pub fn kill_board(stack: &Stack) {
    let pid = stack.pid("board/pid");
    signal("KILL", &[pid]);
    wait_until("the board is gone", || has_ended(pid));
}

/// Keeps them online for days of silence, however long a test takes.
fn expect_for_days(stack: &Stack, email: &str) {
    stack.sql(&format!(
        "update users set server = (select name from servers), good_until_ms = 1000000000, gone_after_ms = 1000000000
         where email = '{email}'"
    ));
}

/// Starts it again, and waits until it has compared everybody with the record.
pub fn restart_board(stack: &Stack) {
    let before = stack.log("board/log").matches("INFO  writes the history").count();
    let up = stack.script("stack/up");
    assert!(up.status.success(), "{}", text(&up));
    wait_until("it writes the history", || {
        stack.log("board/log").matches("INFO  writes the history").count() > before
    });
}

#[test]
fn a_row_is_written_for_a_transition_and_none_for_a_restart() {
    let stack = board::up();
    let pair = stack.member(EVE);
    expect(&mut stack.client(&pair), 0, "Success!");
    wait_until("she is online", || kinds(&stack, EVE) == "online");
    expect_for_days(&stack, EVE);
    assert_eq!(stack.sql("select since <= at and ip = '127.0.0.1' and server is not null from events where email is not null"), "t");

    kill_board(&stack);
    restart_board(&stack);
    assert_eq!(kinds(&stack, EVE), "online");
    let noted = stack.sql("select to_char(at at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS') from events where kind = 'online'");
    wait_until("the record tells since when", || {
        let since = &board::json(&board::host(&stack, &format!("/api/who/{EVE}")))["since"];
        since.as_str().is_some_and(|since| since.starts_with(&noted))
    });
    // Further heartbeats write no row.
    for _ in 0..3 {
        expect(&mut stack.client(&pair), 0, "Success!");
    }

    // She leaves and comes back while no board looks.
    kill_board(&stack);
    silence(&stack, EVE);
    restart_board(&stack);
    wait_until("it is written", || kinds(&stack, EVE) == "online,offline");
    assert_eq!(
        stack.sql("select since = to_timestamp(last_seen_ns / 1000 / 1e6) from events join users using (email) where kind = 'offline'"),
        "t",
        "since the last sighting"
    );
    kill_board(&stack);
    wait_until("its last statement has ended", || stack.backends("rollcall_reader").is_empty());
    let dead = stack.sql("select watched_until from journal");
    expect_for_days(&stack, EVE);
    restart_board(&stack);
    assert_eq!(kinds(&stack, EVE), "online,offline,online");
    assert_eq!(
        stack.sql("select since from events where email is not null order by id desc limit 1"),
        dead,
        "since when nobody looked"
    );
    // A busy machine may make the server deaf for a moment. It is told once, whatever the board does.
    let told = "select kind = 'deaf' from events where email is null order by id";
    let told = stack.sql(told);
    assert!(told.lines().enumerate().all(|(index, deaf)| (deaf == "t") == (index % 2 == 0)), "{told}");

    let history = board::json(&board::host(&stack, &format!("/api/history/{EVE}")));
    let mut told = history["events"].as_array().unwrap().clone();
    told.retain(|event| event["kind"] != "deaf" && event["kind"] != "hears");
    let told: Vec<(&str, &str)> =
        told.iter().map(|event| (event["kind"].as_str().unwrap(), event["at"].as_str().unwrap())).collect();
    let [("online", _), ("offline", _), ("online", last)] = told[..] else { panic!("{history}") };
    let since = |since: &str| board::host(&stack, &format!("/api/history/{EVE}?since={since}"));
    assert_eq!(board::json(&since(last))["events"].as_array().unwrap().len(), 1);
    assert_eq!(board::json(&since("2999-01-01T00:00:00Z"))["events"].as_array().unwrap().len(), 0);
    for (wrong, said) in [
        ("yesterday", "such as 2026-11-28T09:00:00Z"),
        ("", "such as"),
        ("1960-01-01T00:00:00Z", "such as"),
        ("%00", "such as"),
        ("x&limit=1", "no parameter"),
    ] {
        let answer = since(wrong);
        assert!(answer.status == 400 && answer.detail().contains(said), "{wrong}: {answer:?}");
    }
    assert_eq!(board::host(&stack, "/api/history/nobody@example.com").status, 404);
    assert_eq!(board::host(&stack, "/api/history/nobody").status, 400);
    assert_eq!(board::read(&stack, &pair, &[], &format!("/api/history/{EVE}")).status, 200);
    let other = board::read(&stack, &stack.pair("client"), &[], &format!("/api/history/{EVE}"));
    assert!(other.status == 403 && other.detail().contains("just user reads"), "{other:?}");
    // Whoever is forgotten leaves no trace behind a board that runs.
    expect(&mut stack.administer(&["user", "forget", EVE]), 0, "and 3 events");
    wait_until("the board forgot her", || board::host(&stack, &format!("/api/who/{EVE}")).status == 404);
    assert_eq!(kinds(&stack, EVE), "");
}

/// A board beside that of the stack.
fn second_board(stack: &Stack) -> Running {
    second_board_on(stack, free_port())
}

fn second_board_on(stack: &Stack, port: u16) -> Running {
    let state = stack.state.join("second");
    fs::create_dir_all(state.join("board")).unwrap();
    let copied = stack
        .command("cp")
        .arg("-a")
        .args(["proxy-credential", "token"].map(|file| stack.state.join("board").join(file)))
        .arg(state.join("board"))
        .status();
    assert!(copied.unwrap().success());
    let mut second = stack.program("rollcall-board");
    second
        .env("ROLLCALL_STATE", &state)
        .env("ROLLCALL_BOARD_LISTEN", format!("127.0.0.1:{port}"))
        .env("DATABASE_URL", stack.database_url());
    Running::start(stack, second)
}

/// It may be large, and nobody waits for it.
#[test]
fn a_board_is_ready_before_it_has_read_the_record() {
    let stack = board::up();
    let mut lock = Running::start(&stack, stack.psql().stdin(Stdio::piped()));
    let statement = b"begin; lock table events in access exclusive mode; select 'locked';\n";
    lock.child.stdin.as_mut().unwrap().write_all(statement).unwrap();
    wait_until("the record is locked", || lock.out().contains("locked"));
    let port = free_port();
    let _second = second_board_on(&stack, port);
    let readyz = format!("http://127.0.0.1:{port}/readyz");
    wait_until("the second board is ready", || {
        text(
            &stack
                .command("curl")
                .args(["-qsS", "--noproxy", "*", "-w", "%{http_code}", &readyz])
                .output()
                .unwrap(),
        ) == "204"
    });
}

#[test]
fn of_two_boards_one_writes_and_the_other_goes_on() {
    let stack = board::up();
    let pair = stack.member(EVE);
    expect(&mut stack.client(&pair), 0, "Success!");
    wait_until("she is online", || kinds(&stack, EVE) == "online");
    let second = second_board(&stack);
    wait_until("it waits", || second.err().contains("another board writes the history"));
    silence(&stack, EVE);
    wait_until("she is offline", || kinds(&stack, EVE) == "online,offline");
    kill_board(&stack);
    wait_until("the second one writes", || second.err().contains("INFO  writes the history"));
    expect(&mut stack.client(&pair), 0, "Success!");
    wait_until("she is back", || kinds(&stack, EVE) == "online,offline,online");
}

#[test]
fn an_outage_of_the_database_costs_no_transition() {
    let stack = Builder::new().set("ROLLCALL_BOARD", "on").up_with_its_own_cluster();
    let pair = stack.member(EVE);
    expect(&mut stack.client(&pair), 0, "Success!");
    wait_until("she is online", || kinds(&stack, EVE) == "online");
    let board = stack.pid("board/pid");
    crate::database::stop(&stack);
    wait_until("it cannot write", || stack.log("board/log").contains("fails: "));
    let mut start = stack.command("bash");
    start.args(["-c", ". \"$0\"/stack/env; \"${as_postgres[@]}\" pg_ctl start -s -w -D \"$state/postgres/data\" -l \"$state/postgres/log\" -o \"-c listen_addresses= -c port=5432 -c unix_socket_directories='$state/postgres'\"", env!("CARGO_MANIFEST_DIR")]);
    expect(&mut start, 0, "");
    silence(&stack, EVE);
    wait_until("she is offline", || kinds(&stack, EVE) == "online,offline");
    assert_eq!(stack.pid("board/pid"), board);
    wait_until("it has said so", || stack.log("board/log").matches("INFO  writes the history").count() >= 2);
    // The server could not hear meanwhile: one event for it, if the outage was long enough, and none a person.
    assert_eq!(stack.sql("select count(*) from events where email = 'valid_user@qt-test.com'"), "0");
}

#[test]
fn a_server_that_cannot_hear_is_one_event() {
    let stack = board::up();
    let emails: Vec<String> = (0..5).map(|i| format!("device{i}@example.com")).collect();
    for email in &emails {
        expect(&mut stack.client(&stack.member(email)), 0, "Success!");
    }
    wait_until("all are online", || stack.sql("select count(*) from events where kind = 'online'") == "5");
    let server = stack.pid("server/pid");
    signal("STOP", &[server]);
    wait_until("it is deaf", || stack.sql("select count(*) from events where kind = 'deaf'") == "1");
    kill_board(&stack);
    signal("CONT", &[server]);
    restart_board(&stack);
    wait_until("it hears", || stack.sql("select kind from events order by id desc limit 1") == "hears");
    assert_eq!(stack.sql("select count(*) from events"), "7");
    assert_eq!(stack.sql("select count(distinct server) from events"), "1");
}
