//! What happens to a request when its broadcast cannot leave.

use crate::namespace::Namespace;
use crate::stack::{Builder, expect, wait_until};

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
    wait_until("it says that it works", || {
        stack.log("server/log").contains("broadcast to 255.255.255.255:6667 works again after 3 failures")
    });
}
