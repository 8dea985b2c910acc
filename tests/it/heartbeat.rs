//! The main job: proven, stored, heard.

use crate::stack::{Stack, expect, wait_until};
use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn a_heartbeat_is_stored_and_every_listener_hears_it() {
    let stack = Stack::up();
    let ears = [stack.ear(), stack.ear()];
    let client = stack.pair("client");
    for host in ["localhost", "127.0.0.1", "[::1]"] {
        let url = format!("https://{host}:{}", stack.https_port);
        expect(stack.client(&client).args(["--url", &url]), 0, "Success! (204 No Content)");
        let heard = ears[0].hear();
        assert_eq!(ears[1].hear(), heard);
        assert_eq!(heard.email.as_str(), "valid_user@qt-test.com");
        assert_eq!(
            stack.row("valid_user@qt-test.com"),
            format!("{}|{}|{}", heard.last_seen_ns, heard.ip, heard.port)
        );
        match host {
            "[::1]" => assert!(heard.ip.is_ipv6()),
            "127.0.0.1" => assert!(heard.ip.is_ipv4()),
            _ => assert!(heard.ip.is_loopback()),
        }
    }
    ears[0].hears_nothing();
}

#[test]
fn a_hundred_clients_at_once_each_end_with_their_own_row() {
    let stack = Stack::up();
    let emails: Vec<String> = (0..100).map(|i| format!("device{i}@example.com")).collect();
    let arguments: Vec<&str> = ["user", "add"].into_iter().chain(emails.iter().map(String::as_str)).collect();
    assert!(stack.admin(&arguments).status.success());
    let subject = |email| format!("/CN={email}");
    let pairs: Vec<_> =
        emails.iter().map(|email| stack.certificate_of(&stack.certs, &subject(email))).collect();
    let ear = stack.ear();
    let heard = thread::scope(|scope| {
        let listener = scope.spawn(|| (0..100).map(|_| ear.hear()).collect::<Vec<_>>());
        for pair in &pairs {
            scope.spawn(|| expect(&mut stack.client(pair), 0, "Success! (204 No Content)"));
        }
        listener.join().unwrap()
    });
    let heard: BTreeMap<_, _> = heard.into_iter().map(|status| (status.email.to_string(), status)).collect();
    assert_eq!(heard.len(), 100);
    let rows = stack.rows();
    for email in &emails {
        let status = &heard[email];
        assert_eq!(rows[email], format!("{}|{}|{}", status.last_seen_ns, status.ip, status.port));
    }
}

#[test]
fn last_seen_never_goes_backwards() {
    let stack = Stack::up();
    // As far ahead as clocks may be of each other.
    let future = rollcall::cli::now_ns() + 500_000_000_000;
    stack.sql(&format!(
        "update users set last_seen_ns = {future}, ip = '192.0.2.1', port = 1 where email = 'valid_user@qt-test.com'"
    ));
    let ear = stack.ear();
    expect(&mut stack.client(&stack.pair("client")), 0, "Success!");
    let announced = ear.hear();
    assert_eq!((announced.last_seen_ns, announced.port), (future, 1), "the row as it stands");
    assert_eq!(stack.row("valid_user@qt-test.com"), format!("{future}|192.0.2.1|1"));
}

#[test]
fn the_newest_is_said_again_byte_for_byte() {
    let stack = Stack::up();
    let socket = rollcall::lan::sockets::receiver(([0, 0, 0, 0], stack.broadcast_port).into()).unwrap();
    let mut buffer = [0; 2048];
    let mut hear = || {
        let mut len = 0;
        // The socket's own timeout is shorter than the patience of the test.
        wait_until("something is said", || {
            len = socket.recv(&mut buffer).unwrap_or(0);
            len > 0
        });
        buffer[..len].to_vec()
    };
    // Twice, so that the second also interrupts the first one's schedule.
    for _ in 0..2 {
        expect(&mut stack.client(&stack.pair("client")), 0, "Success!");
        let (newest, start) = (hear(), Instant::now());
        assert_eq!([hear(), hear(), hear()], [newest.clone(), newest.clone(), newest]);
        // The third comes after a second. By the first one's schedule it would come after more than half a minute.
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    }
}
