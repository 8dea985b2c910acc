//! Announcements when the network or the clock is not as it should be.

use crate::listener::listening;
use crate::namespace::Namespace;
use crate::stack::{Builder, Stack, expect, wait_until};
use serde_json::Value;
use std::fs;

/// The clock of the host stepped back by a day between two starts.
#[test]
fn a_server_whose_clock_stepped_back_is_still_news() {
    let stack = Stack::up();
    let remembered = stack.state.join("server/own/broadcast.key.epoch");
    let epoch = || fs::read_to_string(&remembered).unwrap().trim_end().parse::<u64>().unwrap();
    let ahead = epoch() + 24 * 60 * 60 * 1_000_000_000;
    let public = stack.certs.join("broadcast.pub");
    let listener = listening(&stack, &["--json", "--key", public.to_str().unwrap()]);
    let pair = stack.pair("client");
    for start in 1..=2 {
        assert!(stack.script("stack/down").status.success());
        if start == 1 {
            fs::write(&remembered, format!("{ahead}\n")).unwrap();
        }
        assert!(stack.script("stack/up").status.success());
        assert_eq!(epoch(), ahead + start);
        expect(&mut stack.client(&pair), 0, "Success!");
        wait_until("it is heard", || listener.out().lines().count() == start as usize);
        let line: Value = serde_json::from_str(listener.out().lines().last().unwrap()).unwrap();
        assert_eq!(line["epoch"], (ahead + start).to_string());
        assert_eq!((&line["sequence"], &line["verified"]), (&"1".into(), &true.into()));
    }
}

#[test]
fn no_route_never_fails_a_request_and_is_said_once() {
    let Some(namespace) = Namespace::new() else { return };
    let stack = Builder::new()
        .in_namespace(&namespace.name)
        .set("ROLLCALL_BROADCAST", "255.255.255.255:6667,127.255.255.255:6667")
        .up();
    let client = stack.pair("client");
    for _ in 0..3 {
        expect(&mut stack.client(&client), 0, "Success!");
    }
    let said = "broadcast to 255.255.255.255:6667 fails: Network is unreachable";
    assert_eq!(stack.log("server/log").matches(said).count(), 1, "{}", stack.log("server/log"));

    // With a route it works again, and that is said too.
    namespace.ip("link add lan0 type veth peer name lan1");
    namespace.ip("addr add 198.51.100.1/24 dev lan0");
    namespace.ip("link set lan0 up");
    namespace.ip("link set lan1 up");
    namespace.ip("route add default dev lan0");
    expect(&mut stack.client(&client), 0, "Success!");
    // Three requests failed to be announced, and repetitions of the newest as often as there was time.
    let mut failures = 0;
    wait_until("it says that it works", || {
        let log = stack.log("server/log");
        let rest = log.split_once("broadcast to 255.255.255.255:6667 works again after ");
        failures = rest.map_or(0, |(_, rest)| rest.split(' ').next().unwrap().parse().unwrap());
        failures > 0
    });
    assert!(failures >= 3, "{failures}");
    assert_eq!(stack.log("server/log").matches(said).count(), 1);
}
