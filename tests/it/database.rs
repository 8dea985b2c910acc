//! The database goes away and comes back; nothing is acknowledged or announced that was not committed.

use crate::program::{children, signal};
use crate::server::{answer, heartbeat};
use crate::stack::{Stack, expect, text, wait_until};
use std::time::Instant;

const AWAY: &str = "not now, says rollcall-server (503 Service Unavailable): \
                    the database is unreachable or too slow; nothing was announced, try again";

/// PostgreSQL's fast shutdown.
pub fn stop(stack: &Stack) {
    signal("INT", &[stack.pid("postgres/data/postmaster.pid")]);
    wait_until("PostgreSQL has ended", || !stack.state.join("postgres/data/postmaster.pid").exists());
}

#[test]
fn stopped_and_back() {
    let stack = Stack::with_its_own_cluster();
    let client = stack.pair("client");
    expect(&mut stack.client(&client), 0, "Success!");
    let before = stack.row("valid_user@qt-test.com");
    let ear = stack.ear();

    stop(&stack);
    expect(&mut stack.client(&client), 75, AWAY);
    let answer = stack.curl(Some(&client), &[]);
    assert_eq!(answer.status, 503);
    assert!(answer.head.to_lowercase().contains("\r\nretry-after: 2"));
    assert!(!answer.body.contains("postgres") && !answer.body.contains(".s.PGSQL"), "{answer:?}");
    wait_until("it says why", || {
        let answer = crate::cluster::readyz(&stack);
        answer.status == 503
            && answer.detail().ends_with("there is no connection to it; just doctor says more")
    });
    let status = text(&stack.script("stack/status"));
    assert!(
        status.contains(&format!("NOT ready on {}: the database is unreachable", stack.listen)),
        "{status}"
    );
    assert!(
        stack
            .to_server(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .starts_with("HTTP/1.1 204")
    );
    ear.hears_nothing();

    // The same server process finds it again by itself.
    let server = stack.pid("server/pid");
    assert!(stack.script("stack/up").status.success());
    assert_eq!(stack.pid("server/pid"), server);
    assert_eq!(stack.row("valid_user@qt-test.com"), before);
    expect(&mut stack.client(&client), 0, "Success!");
    ear.hear();
    let log = stack.log("server/log");
    assert_eq!(log.matches("the database fails").count(), 1, "{log}");
    assert_eq!(log.matches("the database works again").count(), 1, "{log}");
    // However often somebody asked.
    assert_eq!(log.matches("telling the clock of this server fails").count(), 1, "{log}");
    assert!(!log.contains("not ready") && !log.contains(" - 503"), "{log}");
}

#[test]
fn frozen_and_back() {
    let stack = Stack::with_its_own_cluster();
    let client = stack.pair("client");
    expect(&mut stack.client(&client), 0, "Success!");
    let ear = stack.ear();

    let postmaster = stack.pid("postgres/data/postmaster.pid");
    // It starts no other then, and buries none that ends.
    signal("STOP", &[postmaster]);
    let frozen = [vec![postmaster], children(postmaster, "")].concat();
    signal("STOP", &frozen);
    let start = Instant::now();
    expect(&mut stack.client(&client), 75, AWAY);
    let waited = start.elapsed().as_secs_f32();
    signal("CONT", &frozen);
    // Half of the deadline of 2 s for a commit, as much again for one before it. The rest of the bound is
    // for a machine that is busy with other tests.
    assert!((0.9..10.0).contains(&waited), "{waited} s");
    wait_until("the server answers again", || stack.curl(Some(&client), &[]).status == 204);
    // A statement that was on its way when it froze may have been committed; it was not acknowledged.
    ear.hear();
    ear.hears_nothing();
}

#[test]
fn connections_that_ended_while_nobody_asked() {
    let stack = Stack::up();
    let client = stack.pair("client");
    expect(&mut stack.client(&client), 0, "Success!");
    stack.end_sessions();
    // The client tries once: the first request after the outage pays for nothing.
    expect(&mut stack.client(&client), 0, "Success!");
    assert!(!stack.log("server/log").contains("the database fails"), "{}", stack.log("server/log"));
}

#[test]
fn a_locked_row_is_told_to_its_person_and_holds_up_nobody_else() {
    const HELD: &str = "503 Service Unavailable): somebody else holds the row of this email in the database: \
                        a commit of another server, or an administrator's session; nothing was announced, try again";
    let stack = Stack::up();
    let pair = stack.member("a@example.com");
    let lock = stack.lock_row("a@example.com");
    expect(&mut stack.client(&pair), 75, HELD);
    // The later one of two waits for the first.
    let both = [1, 2].map(|port| heartbeat(&stack, "a@example.com", port, 10));
    for one in both.map(answer) {
        assert!(one.starts_with("HTTP/1.1 503") && one.contains("somebody else holds the row"), "{one}");
    }
    expect(&mut stack.client(&stack.pair("client")), 0, "Success!");
    drop(lock);
    wait_until("the lock is gone", || stack.curl(Some(&pair), &[]).status == 204);
}

#[test]
fn not_there_yet_when_the_server_starts() {
    let stack = Stack::with_its_own_cluster();
    stop(&stack);
    let server = crate::server::start(&stack, &[]);
    wait_until("it says that it waits", || server.err().contains("waiting for the database"));
    assert!(stack.script("stack/up").status.success());
    wait_until("it finds the database", || server.err().contains("the database is ready"));
    // "The database system is starting up" may be another reason, for a moment.
    assert_eq!(server.err().matches("waiting for the database: database: error communicating").count(), 1);
}
