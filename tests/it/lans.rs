//! Every network that the host is attached to hears every announcement.

use std::fs;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use crate::namespace::{Lan, Namespace};
use crate::stack::{Builder, Ear, PATIENCE, Running, Stack, expect, wait_until};

/// A host with a stack.
struct Host {
    /// Goes down before the namespace that it runs in.
    stack: Stack,
    namespace: Namespace,
}

impl Host {
    /// `None` where namespaces cannot be made. `destinations` may say PORT.
    fn up(lans: &mut [(&mut Lan, &str, &str)], destinations: &str) -> Option<Self> {
        let namespace = Namespace::new()?;
        for (lan, interface, address) in lans {
            lan.plug(&namespace, interface, address);
            let has_carrier = || namespace.ip(&format!("link show {interface}")).contains("state UP");
            wait_until("it has a carrier", has_carrier);
        }
        let builder = Builder::new().in_namespace(&namespace.name).set("ROLLCALL_RATE", "1000000");
        let destinations = destinations.replace("PORT", &builder.broadcast_port().to_string());
        Some(Self { stack: builder.set("ROLLCALL_BROADCAST", destinations).up(), namespace })
    }

    fn ear(&self, on: &Namespace) -> Ear {
        on.inside(|| self.stack.ear())
    }

    fn patch(&self) {
        expect(&mut self.stack.client(&self.stack.pair("client")), 0, "Success!");
    }

    /// The server follows within 2 s; the rest is for a machine that has other things to do, too.
    #[track_caller]
    fn wait_for_log(&self, said: &str) {
        let start = Instant::now();
        wait_until(said, || self.stack.log("server/log").contains(said));
        assert!(start.elapsed() < Duration::from_secs(10), "{said} came after {:?}", start.elapsed());
    }
}

#[test]
fn every_lan_hears_without_a_default_route_as_they_come_and_go() {
    let (Some(mut one), Some(mut two), Some(mut three)) = (Lan::new(), Lan::new(), Lan::new()) else {
        return;
    };
    let lans = &mut [(&mut one, "lan0", "192.0.2.101/24"), (&mut two, "lan1", "198.51.100.101/24")];
    let Some(host) = Host::up(lans, "auto:PORT") else { return };
    assert_eq!(host.namespace.ip("route show default"), "");
    let hosts = [one.host(), two.host(), three.host()];
    let ears = hosts.each_ref().map(|listener| host.ear(listener));
    let own = host.ear(&host.namespace);

    host.patch();
    let announced = ears[0].hear();
    assert_eq!(ears[1].hear(), announced);
    assert_eq!(own.hear(), announced, "the copy for the programs of the host itself");
    ears[2].hears_nothing();

    host.namespace.ip("link set lan1 down");
    host.patch();
    let announced = ears[0].hear();
    assert_eq!(own.hear(), announced);
    ears[1].hears_nothing();
    host.wait_for_log("no longer announcing to 255.255.255.255");

    three.plug(&host.namespace, "lan2", "203.0.113.101/24");
    host.wait_for_log("by lan2 (203.0.113.101)");
    host.patch();
    let announced = ears[0].hear();
    // The newest that there was when the network came is repeated there first.
    wait_until("the third LAN hears it", || ears[2].hear() == announced);

    host.namespace.ip("addr del 192.0.2.101/24 dev lan0");
    host.namespace.ip("addr add 192.0.2.102/24 dev lan0");
    host.wait_for_log("by lan0 (192.0.2.102)");
    host.patch();
    let announced = ears[0].hear();
    assert_eq!(ears[2].hear(), announced);

    // With the last interface gone, the host's own programs still hear.
    for interface in ["lan0", "lan2"] {
        host.namespace.ip(&format!("link delete {interface}"));
    }
    host.wait_for_log("by lo (127.0.0.1)");
    host.patch();
    wait_until("this host hears it", || own.hear().last_seen_ns > announced.last_seen_ns);
}

#[test]
fn two_lans_on_which_the_host_has_the_same_address_both_hear() {
    let (Some(mut one), Some(mut two)) = (Lan::new(), Lan::new()) else { return };
    let lans = &mut [(&mut one, "lan0", "192.0.2.101/24"), (&mut two, "lan1", "192.0.2.101/24")];
    let Some(host) = Host::up(lans, "auto:PORT") else { return };
    let hosts = [one.host(), two.host()];
    let ears = hosts.each_ref().map(|listener| host.ear(listener));
    host.patch();
    assert_eq!(ears[0].hear(), ears[1].hear());
}

#[test]
fn a_label_is_no_interface() {
    let (Some(mut lan), Some(host)) = (Lan::new(), Namespace::new()) else { return };
    lan.plug(&host, "lan0", "192.0.2.101/24");
    host.ip("addr add 198.51.100.101/24 dev lan0 label lan0foo");
    let names: Vec<String> = host.inside(|| {
        let interfaces = rollcall::lan::interfaces::list().unwrap();
        interfaces.into_iter().map(|interface| interface.name).collect()
    });
    assert_eq!(names, ["lo", "lan0"]);
}

#[test]
fn named_networks_are_used_and_those_of_containers_only_if_named() {
    let (Some(mut lan), Some(mut bridge)) = (Lan::new(), Lan::new()) else { return };
    let lans = &mut [(&mut lan, "lan0", "192.0.2.101/24"), (&mut bridge, "docker0", "198.51.100.101/24")];
    let Some(host) = Host::up(lans, "auto:PORT") else { return };
    let (listener, container) = (lan.host(), bridge.host());
    let (ear, inside) = (host.ear(&listener), host.ear(&container));
    host.patch();
    ear.hear();
    inside.hears_nothing();

    let lans = &mut [(&mut bridge, "docker0", "198.51.100.102/24")];
    let host = Host::up(lans, "docker0:PORT,lan9:PORT").unwrap();
    let (ear, inside) = (host.ear(&listener), host.ear(&container));
    host.wait_for_log("there is no interface lan9");
    host.patch();
    inside.hear();
    ear.hears_nothing();
    lan.plug(&host.namespace, "lan9", "192.0.2.109/24");
    host.wait_for_log("by lan9 (192.0.2.109)");
    host.patch();
    inside.hear();
    ear.hear();
}

#[test]
fn addresses_of_every_kind_are_reached() {
    let Some(mut lan) = Lan::new() else { return };
    let listener = lan.host();
    let own = listener.ip("-4 -br addr show lan0").split_ascii_whitespace().nth(2).unwrap().to_owned();
    let unicast = own.split('/').next().unwrap();
    for (destination, arguments) in [
        ("192.0.2.255:PORT", vec![]),
        (&format!("{unicast}:PORT")[..], vec!["--bind", unicast]),
        ("239.255.66.67%lan0:PORT/4", vec!["--join", "239.255.66.67%lan0"]),
        ("[ff02::6667%lan0]:PORT", vec!["--bind", "::", "--join", "ff02::6667%lan0"]),
    ] {
        let lans = &mut [(&mut lan, "lan0", "192.0.2.101/24")];
        let host = Host::up(lans, destination).unwrap();
        let port = host.stack.broadcast_port.to_string();
        let mut command = listener.command(env!("CARGO_BIN_EXE_rollcall-listen"));
        command.args(["--port", &port, "--json", "--key"]).arg(host.stack.certs.join("broadcast.pub"));
        command.args(arguments);
        let mut heard = Running::start(&host.stack, command);
        let port = format!(":{:04X} ", host.stack.broadcast_port);
        wait_until("it listens", || {
            ["udp", "udp6"].iter().any(|table| listener.proc_net(table).contains(&port))
        });
        // An IPv6 address may be used a second after the interface came up (RFC 4862, section 5.4).
        wait_until(destination, || {
            host.patch();
            thread::sleep(Duration::from_millis(100));
            heard.out().contains(r#""verified":true"#)
        });
        heard.signal("INT");
        assert_eq!(heard.exit(), 0, "{}", heard.err());
    }
}

#[test]
fn a_slow_network_stalls_neither_requests_nor_the_other_networks() {
    const PATCHES: usize = 3000;
    let (Some(mut slow), Some(mut fast)) = (Lan::new(), Lan::new()) else { return };
    let lans = &mut [(&mut slow, "lan0", "192.0.2.101/24"), (&mut fast, "lan1", "198.51.100.101/24")];
    let Some(host) = Host::up(lans, "auto:PORT") else { return };
    // A bit a second leaves; the rest waits in the queue, and the send buffer fills.
    let queue = "qdisc add dev lan0 root tbf rate 8bit burst 1600 limit 100000000";
    let mut tc = host.namespace.command("tc");
    expect(tc.args(queue.split(' ')), 0, "");
    let listener = fast.host();
    let ear = host.ear(&listener);
    let mut curl = host.stack.command("curl");
    let pair = host.stack.pair("client");
    curl.args(["-sS", "-X", "PATCH", "-o", "/dev/null", "-w", "%{http_code}\n", "--cacert"]);
    curl.arg(host.stack.certs.join("ca.crt")).arg("--cert").arg(&pair.cert).arg("--key").arg(&pair.key);
    curl.arg(format!("{}/api/client?[1-{PATCHES}]", host.stack.url()));
    let curl = curl.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // At once: no receive buffer has to hold them all.
    let heard = (0..PATCHES).take_while(|_| ear.hear_within(PATIENCE).is_some()).count();
    let output = curl.wait_with_output().unwrap();
    let answers = String::from_utf8(output.stdout).unwrap();
    assert_eq!(answers.matches("204\n").count(), PATCHES, "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(heard, PATCHES);
    let full = "by lan0 (192.0.2.101) fails: Resource temporarily unavailable";
    assert_eq!(host.stack.log("server/log").matches(full).count(), 1, "{}", host.stack.log("server/log"));
    expect(&mut host.stack.tool("stack/down"), 0, "stopped");
    let log = fs::read_to_string(host.stack.state.join("server/log")).unwrap();
    let counts = |interface: &str| -> (usize, usize) {
        let (_, counts) = log.rsplit_once(&format!("{interface}): ")).expect(&log);
        let (sent, failed) = counts.split_once(" datagrams sent, ").expect(&log);
        (sent.parse().unwrap(), failed.split(' ').next().unwrap().parse().unwrap())
    };
    let (slow, fast) = (counts("by lan0 (192.0.2.101"), counts("by lan1 (198.51.100.101"));
    assert!(fast.0 >= PATCHES && fast.1 == 0, "{log}");
    assert!(slow.1 > 0 && slow.0 + slow.1 == fast.0, "{log}");
}
