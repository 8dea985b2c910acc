//! What happens to a request when its broadcast cannot leave.

use crate::stack::{Builder, expect, is_root, wait_until};
use std::process::Command;

/// A network namespace with `lo` up and nothing else, so that 255.255.255.255 has no route.
struct Namespace(String);

impl Namespace {
    /// `None` where namespaces cannot be made.
    fn new() -> Option<Self> {
        let name = format!("rollcall-{}-{}", std::process::id(), crate::stack::free_port());
        let ip = |arguments: &[&str]| {
            Command::new("ip").args(arguments).output().is_ok_and(|output| output.status.success())
        };
        if !is_root() || !ip(&["netns", "add", &name]) {
            return None;
        }
        let namespace = Self(name);
        assert!(ip(&["-n", &namespace.0, "link", "set", "lo", "up"]));
        Some(namespace)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.0]).status();
    }
}

#[test]
fn no_route_never_fails_a_request_and_is_said_once() {
    let Some(namespace) = Namespace::new() else {
        eprintln!("SKIPPED no_route_never_fails_a_request_and_is_said_once: it needs root, for ip netns add");
        return;
    };
    let stack = Builder::new()
        .in_namespace(&namespace.0)
        .set("ROLLCALL_BROADCAST", "255.255.255.255:6667,127.255.255.255:6667")
        .up();
    let client = stack.pair("client");
    for _ in 0..3 {
        expect(&mut stack.client(&client), 0, "Success!");
    }
    let said = "broadcast to 255.255.255.255:6667 fails: Network is unreachable";
    assert_eq!(stack.log("server/log").matches(said).count(), 1, "{}", stack.log("server/log"));

    // With a route it works again, and that is said too.
    let ip = |arguments: &[&str]| {
        let output = Command::new("ip").args(["-n", &namespace.0]).args(arguments).output().unwrap();
        assert!(output.status.success(), "ip {arguments:?}: {}", crate::stack::text(&output));
    };
    ip(&["link", "add", "lan0", "type", "veth", "peer", "name", "lan1"]);
    ip(&["addr", "add", "198.51.100.1/24", "dev", "lan0"]);
    ip(&["link", "set", "lan0", "up"]);
    ip(&["link", "set", "lan1", "up"]);
    ip(&["route", "add", "default", "dev", "lan0"]);
    expect(&mut stack.client(&client), 0, "Success!");
    wait_until("it says that it works", || {
        stack.log("server/log").contains("broadcast to 255.255.255.255:6667 works again after 3 failures")
    });
}
