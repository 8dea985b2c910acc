//! The promises about a row: one fact, only forward, never in the future, and durable.

use std::fs;
use std::io::Write;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use async_std::task::block_on;
use rollcall::cli::now_ns;
use rollcall::store::{Outcome, Recorder, Store};

use crate::group_commit::{recorder, sighting};
use crate::keys::Keys;
use crate::program::signal;
use crate::server::{answer, ask, claims, heartbeat, is_recorded};
use crate::stack::{Builder, PATIENCE, Running, Stack, expect, is_root, needs, text, wait_until};

const DAY_NS: u64 = 24 * 60 * 60 * 1_000_000_000;
const ALICE: &str = "alice@example.com";

fn enrol(stack: &Stack) {
    assert!(stack.admin(&["user", "add", ALICE]).status.success());
}

#[test]
fn a_statement_that_runs_late_changes_nothing_of_a_newer_row() {
    let stack = Stack::database();
    enrol(&stack);
    let now = now_ns();
    // The first use opens the connection, whose backend then stands still.
    let mut late = recorder(&stack);
    block_on(late.record(&[&sighting(ALICE, now, 1, "01")])).unwrap();
    let frozen = stack.backends("rollcall");
    signal("STOP", &frozen);
    let (older, newer) = (sighting(ALICE, now + 1, 2, "02"), sighting(ALICE, now + 2, 3, "03"));
    let recorded = thread::scope(|scope| {
        let waiting = scope.spawn(|| block_on(late.record(&[&older])).unwrap());
        // Its statement is under way before the newer one comes.
        thread::sleep(Duration::from_millis(300));
        let recorded = block_on(recorder(&stack).record(&[&newer])).unwrap();
        assert_eq!(recorded.committed[0], newer.status);
        signal("CONT", &frozen);
        waiting.join().unwrap()
    });
    assert_eq!(recorded.outcomes, [Outcome::Committed]);
    assert_eq!(recorded.committed[0], newer.status, "the row as it stands is announced");
    assert_eq!(stack.row(ALICE), format!("{}|192.0.2.1|3", now + 2));
}

/// Two servers whose clocks differ write and announce one order: that of the database's clock.
#[test]
fn the_time_of_a_sighting_is_the_databases() {
    let stack = Stack::database();
    enrol(&stack);
    const HOUR: u64 = 3_600_000_000_000;
    let server = |name: &str, off: i64| {
        let store = Store::open(&stack.database_url(), PATIENCE).unwrap();
        let now = Instant::now();
        store.time().learn(now, now, now_ns().saturating_add_signed(off));
        (Recorder::new(store.clone(), name.to_owned()), store)
    };
    for off in [0, 500_000_000, 5_000_000_000, -5_000_000_000, HOUR as i64, -(HOUR as i64)] {
        stack.sql("update users set last_seen_ns = null, ip = null, port = null, server = null");
        let (mut right, right_knows) = server("right", 0);
        let (mut wrong, wrong_knows) = server("wrong", off);
        let given = wrong_knows.time().now_ns();
        let recorded = block_on(wrong.record(&[&sighting(ALICE, given, 1, "01")])).unwrap();
        let first = recorded.committed[0].last_seen_ns;
        // While it is right to a second, the server knew it before.
        let is_near = off.abs() < 1_000_000_000;
        assert_eq!(first == given, is_near, "{off}");
        assert_eq!(recorded.doubt, None, "{off}: {recorded:?}");
        assert!(now_ns().abs_diff(first) < 60_000_000_000, "{off}");
        if is_near {
            continue;
        }
        // It has learned.
        assert!(wrong_knows.time().now_ns().abs_diff(now_ns()) < 1_000_000_000);
        let given = right_knows.time().now_ns();
        let recorded = block_on(right.record(&[&sighting(ALICE, given, 2, "02")])).unwrap();
        let second = &recorded.committed[0];
        assert_eq!((second.last_seen_ns, second.port, recorded.doubt), (given, 2, None), "{off}");
        assert!(second.last_seen_ns > first);
        assert_eq!(stack.sql("select server from users where last_seen_ns is not null"), "right");
    }
}

/// An older sighting of another server changes nothing of the fact, and its window is by the clock that the row names.
#[test]
fn an_older_sighting_leaves_the_row_whole_and_counts_for_the_window() {
    let stack = Stack::database();
    enrol(&stack);
    stack.sql(
        "insert into servers (name, epoch, heard_ms, resumed_ms) values ('here', 1, 5000000, 0), ('there', 1, 1000, 0)",
    );
    let store = || Store::open(&stack.database_url(), PATIENCE).unwrap();
    let [mut here, mut there] = ["here", "there"].map(|name| Recorder::new(store(), name.to_owned()));
    let now = now_ns();
    let mut newer = sighting(ALICE, now - 1_000_000_000, 1, "01");
    newer.heard_ms = 5_000_000;
    block_on(here.record(&[&newer])).unwrap();
    let row = || {
        stack.sql("select last_seen_ns, host(ip), port, server, good_until_ms, gone_after_ms from users where server is not null")
    };
    let fact = format!("{}|192.0.2.1|1|here", now - 1_000_000_000);
    assert_eq!(row(), format!("{fact}|5035000|5090000"));
    let mut older = sighting(ALICE, now - 2_000_000_000, 2, "02");
    (older.heard_ms, older.every_s) = (1000, Some(300));
    let recorded = block_on(there.record(&[&older])).unwrap();
    assert_eq!((recorded.outcomes, &recorded.committed[0]), (vec![Outcome::Committed], &newer.status));
    assert_eq!(row(), format!("{fact}|5332000|5900000"));
    // That of a newer one is by the clock of its server.
    let mut newest = sighting(ALICE, now, 3, "02");
    newest.heard_ms = 1000;
    block_on(there.record(&[&newest])).unwrap();
    assert_eq!(row(), format!("{now}|192.0.2.1|3|there|333000|901000"));
}

#[test]
fn no_time_is_in_the_future_or_stays_there() {
    let stack = Stack::database();
    enrol(&stack);
    let mut recorder = recorder(&stack);
    let is_now = |ns: u64| now_ns().abs_diff(ns) < 60_000_000_000;
    for far in [now_ns() + 500_000_000_000, now_ns() + 100 * DAY_NS, u64::MAX] {
        stack.sql("update users set last_seen_ns = null, ip = null, port = null");
        let recorded = block_on(recorder.record(&[&sighting(ALICE, far, 2, "02")])).unwrap();
        assert!(is_now(recorded.committed[0].last_seen_ns), "{recorded:?}");
    }
    let used = "select last_used_ns from certificates where serial_number = '02'";
    assert!(is_now(stack.sql(used).parse().unwrap()));

    // A row that an older version left in the future yields to the next heartbeat, and so does its certificate.
    let future = now_ns() + 100 * DAY_NS;
    stack.sql(&format!("update users set last_seen_ns = {future} where email = '{ALICE}'"));
    stack.sql(&format!("update certificates set last_used_ns = {future} where serial_number = '02'"));
    let now = now_ns();
    let recorded = block_on(recorder.record(&[&sighting(ALICE, now, 4, "02")])).unwrap();
    assert_eq!((recorded.committed[0].last_seen_ns, recorded.committed[0].port), (now, 4));
    assert_eq!(stack.sql(used).parse(), Ok(now));

    // The doctor tells of those who never come again, and a command mends them.
    stack.sql(&format!("update users set last_seen_ns = {future} where email = '{ALICE}'"));
    stack.sql(&format!("update certificates set last_used_ns = {future} where serial_number = '02'"));
    let mut doctor = stack.tool("stack/run");
    doctor.args(["rollcall-server", "doctor", "database"]);
    let told = "yellow  1 people were seen, and 1 certificates used, in the future";
    expect(&mut doctor, 0, told);
    let mended = text(&stack.admin(&["user", "mend"]));
    assert_eq!(
        mended,
        format!("{ALICE} was in the future, is set to now\n02 was in the future, is set to now\n")
    );
    assert_eq!(text(&stack.admin(&["user", "mend"])), "");
    assert!(!text(&doctor.output().unwrap()).contains("in the future"));
    assert!(is_now(stack.row(ALICE).split('|').next().unwrap().parse().unwrap()));
}

#[test]
fn a_server_whose_clock_is_wrong_records_and_announces_the_databases_time() {
    let Some(()) = needs("faketime") else { return };
    let stack = Stack::server();
    let keys = Keys::new();
    for (clock, said) in [
        ("+100d", " ahead of the database's, which counts"),
        ("@1969-07-20 20:17:40", " behind the database's"),
    ] {
        let ear = stack.ear();
        let mut command = stack.command("faketime");
        let listen = format!("127.0.0.1:{}", crate::stack::free_port());
        // Timers go by the other clock, which nobody sets.
        command
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("ROLLCALL_NAME", "wrong")
            .env("ROLLCALL_BROADCAST_KEY", keys.file("one.key"))
            .args(["-f", clock])
            .arg(crate::stack::binaries().join("rollcall-server"));
        command.env("DATABASE_URL", stack.database_url()).env("ROLLCALL_LISTEN", &listen);
        command.env("ROLLCALL_SOCKET", stack.state.join("clerk/other"));
        // Of one name only the newest records.
        command.env("ROLLCALL_NAME", "second");
        let server = Running::start(&stack, command);
        wait_until("it is ready", || server.err().contains("the database is ready"));
        if clock.starts_with('@') {
            // There is a row that was seen by a clock that is right.
            is_recorded(&stack);
            ear.hear();
        }
        let before = now_ns();
        let claims = claims("valid_user@qt-test.com", 1, 10) + "Connection: close\r\n";
        let answer = answer(ask(&stack, &listen, &claims));
        assert!(answer.starts_with("HTTP/1.1 204"), "{answer} {}", server.err());
        let row: u64 = stack.row("valid_user@qt-test.com").split('|').next().unwrap().parse().unwrap();
        assert!(row.abs_diff(before) < 60_000_000_000, "{row}");
        assert_eq!(ear.hear().last_seen_ns, row);
        wait_until("it says so", || {
            server
                .err()
                .lines()
                .any(|line| line.contains("the clock of this host fails: it is ") && line.contains(said))
        });
    }
}

#[test]
fn a_request_that_lay_in_a_stopped_server_is_one_of_then() {
    let stack = Stack::up();
    let server = stack.pid("server/pid");
    signal("STOP", &[server]);
    let mut client = stack.client(&stack.pair("client"));
    // Its sender goes away long before it is read.
    expect(client.args(["--timeout", "500ms", "--attempts", "1"]), 69, "gave up");
    let asked = now_ns();
    thread::sleep(Duration::from_secs(2));
    signal("CONT", &[server]);
    let row = || stack.row("valid_user@qt-test.com");
    wait_until("it is recorded", || row() != "||");
    let seen: u64 = row().split('|').next().unwrap().parse().unwrap();
    assert!(seen <= asked, "{} ms later", (seen - asked) / 1_000_000);
}

/// The role's own settings do not weaken the server's promises, and the log names the faults that a commit survives.
#[test]
fn a_commit_is_durable_whatever_is_set_for_the_role() {
    let stack = Stack::with_its_own_cluster();
    let as_postgres = |statement: &str| drop(stack.sql_as("postgres", "rollcall", statement));
    // A trigger sees the settings of the session that writes.
    stack.sql(
        "create table witness (setting text);
         create function witness() returns trigger language plpgsql security definer as $$
           begin
             insert into witness values
               (current_setting('synchronous_commit') || ', ' || current_setting('transaction_isolation'));
             return new;
           end $$;
         create trigger witness before update on users for each row execute function witness()",
    );
    as_postgres("alter role rollcall_server set synchronous_commit = off");
    as_postgres("alter role rollcall_server set default_transaction_isolation = 'serializable'");
    stack.end_sessions();
    expect(&mut stack.client(&stack.pair("client")), 0, "Success!");
    assert_eq!(stack.sql("select distinct setting from witness"), "on, read committed");
    let log = stack.log("server/log");
    assert_eq!(log.matches("a commit is on its disk before it is acknowledged").count(), 1, "{log}");

    as_postgres("alter system set fsync = off");
    as_postgres("select pg_reload_conf()");
    let server = crate::server::start(&stack, &[]);
    wait_until("it warns", || {
        server.err().contains("fsync is off: a crash of its host loses acknowledged commits")
    });
    let mut doctor = stack.tool("stack/run");
    expect(doctor.args(["rollcall-server", "doctor", "database"]), 1, "fsync is off");
}

#[test]
fn a_database_that_takes_no_writes_is_not_ready() {
    let stack = Stack::with_its_own_cluster();
    let client = stack.pair("client");
    let readyz = || stack.to_server(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")[9..12].to_owned();
    assert_eq!(readyz(), "204");
    for (take, give, lacks) in [
        (
            "alter database rollcall set default_transaction_read_only = on",
            "alter database rollcall reset default_transaction_read_only",
            "the database takes no writes",
        ),
        ("revoke update on users from rollcall_server", "", "the server's role lacks rights"),
    ] {
        stack.sql(take);
        stack.end_sessions();
        wait_until("it is not ready", || readyz() == "503");
        expect(&mut stack.client(&client), 75, "the database is unreachable or too slow");
        let status = stack.script("stack/status");
        assert_eq!(status.status.code(), Some(1), "{}", text(&status));
        assert!(text(&status).contains(lacks), "{}", text(&status));
        // A server that starts now waits, and goes on by itself.
        let server = crate::server::start(&stack, &[("DATABASE_URL", &stack.server_database_url())]);
        wait_until("it waits", || server.err().contains("waiting for the database: nothing can be recorded"));
        if give.is_empty() {
            assert!(stack.script("stack/up").status.success(), "up grants");
        } else {
            let mut psql = stack.psql();
            expect(psql.env("PGOPTIONS", "-c default_transaction_read_only=off").args(["-c", give]), 0, "");
            stack.end_sessions();
        }
        wait_until("it goes on", || server.err().contains("the database is ready"));
        wait_until("it is ready", || readyz() == "204");
        expect(&mut stack.client(&client), 0, "Success!");
    }
}

#[test]
fn the_servers_role_makes_no_tables_and_the_socket_is_closed_to_others() {
    let stack = Stack::with_its_own_cluster();
    let mut psql = stack.psql_as("rollcall_server", "rollcall");
    let refused = "permission denied to create temporary tables";
    expect(psql.args(["-c", "create temporary table t ()"]), 1, refused);
    let folder = fs::metadata(stack.state.join("postgres")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&folder) & 0o007, 0);
    if is_root() {
        let mut stranger = stack.command("setpriv");
        stranger.args(["--reuid", "nobody", "--regid", "nogroup", "--clear-groups", "psql", "-h"]);
        expect(stranger.arg(stack.state.join("postgres")).args(["-c", "select"]), 2, "Permission denied");
    }
}

/// A PgBouncer between the server and the cluster, as the user that the server runs as.
fn pooler(stack: &Stack, settings: &str) -> (Running, String) {
    let folder = stack.state.join(format!("pooler-{}", crate::stack::free_port()));
    fs::create_dir(&folder).unwrap();
    let port = crate::stack::free_port();
    let users = folder.join("users.txt");
    fs::write(&users, "\"rollcall_server\" \"\"\n").unwrap();
    let file = folder.join("pgbouncer.ini");
    let text = format!(
        "[databases]\nrollcall = host={} dbname={} user=rollcall_server\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
         listen_port = {port}\nunix_socket_dir =\nauth_type = trust\nauth_file = {}\nlogfile =\npidfile =\n{settings}\n",
        stack.cluster().display(),
        stack.database,
        users.display()
    );
    fs::write(&file, text).unwrap();
    let mut command = match is_root() {
        true => {
            let mut command = stack.command("setpriv");
            expect(stack.command("chmod").arg("-R").arg("a+rX").arg(&folder), 0, "");
            command.args(["--reuid", "rollcall", "--regid", "rollcall", "--clear-groups", "pgbouncer"]);
            command
        }
        false => stack.command("pgbouncer"),
    };
    command.arg(&file).stdin(Stdio::null());
    let pooler = Running::start(stack, command);
    wait_until("the pooler listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    (pooler, format!("postgres://rollcall_server@127.0.0.1:{port}/rollcall?sslmode=disable"))
}

#[test]
fn a_connection_pooler_is_refused_in_one_sentence() {
    let Some(()) = needs("pgbouncer") else { return };
    let stack = Stack::server();
    let refused = |url: &str, said: &str| {
        let mut server = crate::server::start(&stack, &[("DATABASE_URL", url)]);
        assert_eq!(server.exit(), 78, "{}", server.err());
        assert!(server.err().contains(said), "{}", server.err());
        assert!(server.err().contains("name PostgreSQL itself"), "{}", server.err());
    };
    let (_pooler, url) = pooler(&stack, "");
    refused(&url, "DATABASE_URL leads to a connection pooler (");
    let ignoring = "ignore_startup_parameters = extra_float_digits, options";
    let (_pooler, url) = pooler(&stack, &format!("{ignoring}\npool_mode = session"));
    refused(&url, "DATABASE_URL leads to a connection pooler that drops the settings ");
    // Even where the role has all settings itself, statements that were prepared by somebody else are in the way.
    let settings: Vec<String> = rollcall::store::SETTINGS
        .iter()
        .chain(&[("statement_timeout", "1s")])
        .map(|(name, value)| {
            format!("alter role rollcall_server in database {} set {name} = '{value}'", stack.database)
        })
        .collect();
    stack.sql_as("postgres", &stack.database, &settings.join(";"));
    let (_pooler, url) =
        pooler(&stack, &format!("{ignoring}\npool_mode = transaction\ndefault_pool_size = 1"));
    let first = crate::server::start(&stack, &[("DATABASE_URL", &url)]);
    wait_until("the first one is through", || {
        let err = first.err();
        assert!(!err.contains("pooler") && !err.contains("waiting"), "{err}");
        err.contains("the database is ready")
    });
    drop(first);
    refused(&url, "DATABASE_URL leads to a connection pooler (");
}

#[test]
fn one_person_with_many_requests_holds_up_nobody_else() {
    let stack = Builder::new().set("ROLLCALL_DEADLINE", "40s").server();
    stack.sql("insert into users (email) values ('busy@example.com'), ('other@example.com')");
    let backends = stack.backends("rollcall_server");
    signal("STOP", &backends);
    let ask = |email: &str, serial| heartbeat(&stack, email, 1, serial);
    // The first one is alone in its batch; the others come while that waits for the database.
    let mut streams = vec![ask("busy@example.com", 1)];
    thread::sleep(Duration::from_millis(300));
    streams.extend((0..96).map(|i| ask("busy@example.com", 2 + i % 3)));
    let others: Vec<_> = (0..2).map(|i| ask("other@example.com", 8 + i)).collect();
    thread::sleep(Duration::from_millis(500));
    signal("CONT", &backends);
    for other in others {
        assert!(answer(other).starts_with("HTTP/1.1 204"));
    }
    let answers: Vec<String> = streams.into_iter().map(answer).collect();
    let count = |status: &str| answers.iter().filter(|answer| answer.starts_with(status)).count();
    assert_eq!((count("HTTP/1.1 204"), count("HTTP/1.1 429")), (1 + 1 + 32, 63), "{answers:#?}");
    let refused = answers.iter().find(|answer| answer.starts_with("HTTP/1.1 429")).unwrap();
    assert!(refused.contains("more than 32 requests at once of one person"), "{refused}");
    assert!(refused.to_lowercase().contains("\r\nretry-after: 1"), "{refused}");
}

#[test]
fn connections_without_a_request_neither_stay_nor_keep_nginx_out() {
    let stack = Stack::up();
    let client = stack.pair("client");
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    // One that does not fit into the queue of those that wait to be accepted would be tried again a second later.
    let is_behind = || {
        let mut ss = stack.command("ss");
        let waiting =
            ss.args(["-Hltn", &format!("sport = :{}", stack.listen.rsplit(':').next().unwrap())]).output();
        let waiting = String::from_utf8(waiting.unwrap().stdout).unwrap();
        waiting.split_whitespace().nth(1).unwrap() != "0"
    };
    let half_open: Vec<_> = (0..6000)
        .map(|number| {
            if number % 100 == 0 {
                wait_until("the server has accepted those before", || !is_behind());
            }
            let mut stream = std::net::TcpStream::connect(&stack.listen).unwrap();
            stream.write_all(b"PATCH /api/client HTTP/1.1\r\n").unwrap();
            stream
        })
        .collect();
    expect(&mut stack.client(&client), 0, "Success!");
    let open = || fs::read_dir(format!("/proc/{}/fd", stack.pid("server/pid"))).unwrap().count();
    wait_until("the oldest were ended", || open() < 4200);
    wait_until("the newest were ended, too", || open() < 60);
    drop(half_open);
    // An answer without the credential ends its connection.
    let mut stream = std::net::TcpStream::connect(&stack.listen).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut stream, &mut answer).unwrap();
    assert_eq!(answer, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
    expect(&mut stack.client(&client), 0, "Success!");
}
