//! Where announcements leave this host: by which interfaces, by which not and why, and whether they are heard.

use std::io;
use std::net::IpAddr;

use super::hearing::{self, Outcome};
use super::{Finding, Settings, port};
use crate::lan::destination::{self, Absent, Destination, Target};
use crate::lan::interfaces::{self, Interface, Unused};
use crate::protocol::MAX_DATAGRAM;

/// IPv6 and UDP put 48 bytes before a datagram, IPv4 and UDP 28. In less room than this the longest is cut into
/// fragments, and is lost with each of them.
const LEAST_MTU: u32 = MAX_DATAGRAM as u32 + 48;

pub fn check(settings: &Settings) -> Vec<Finding> {
    let interfaces = match interfaces::list() {
        Ok(interfaces) => interfaces,
        Err(error) => {
            return vec![Finding::red(
                format!("cannot list the network's interfaces: {error}"),
                "allow sockets of AF_NETLINK (RestrictAddressFamilies of systemd)",
            )];
        }
    };
    let destinations = &settings.destinations;
    let (targets, absent) = destination::targets(destinations, &interfaces);
    // Before this check holds the port itself.
    let port = port::check(&targets);
    let outcomes = hearing::try_each(&targets);
    let mut findings: Vec<Finding> =
        targets.iter().zip(&outcomes).map(|(target, outcome)| of_target(target, outcome)).collect();
    let leaving: Vec<&Interface> = interfaces
        .iter()
        .filter(|one| !one.is_loopback() && targets.iter().any(|to| carries(one, to)))
        .collect();
    findings.extend(leaving.iter().filter_map(|interface| of_mtu(&interface.name, interface.mtu()?)));
    findings.extend(absent.iter().map(of_absent));
    if destinations.iter().any(|destination| matches!(destination, Destination::Auto { .. })) {
        findings.extend(left_out(&interfaces));
    }
    let sent = outcomes.iter().filter(|outcome| !matches!(outcome, Outcome::Unsent(_))).count();
    if sent > 0 {
        let plural = if sent == 1 { "" } else { "s" };
        let copy = match leaving.is_empty() {
            true => "",
            false => {
                "; what is heard here is the kernel's own copy: that it crossed the wire, only rollcall-listen on \
                 another machine can prove"
            }
        };
        findings.push(Finding::green(format!(
            "this test sent {sent} datagram{plural}, which listeners count as foreign and skip{copy}"
        )));
    }
    findings.extend(port);
    findings
}

/// May a datagram to the target leave by this interface? For an address without one the routing table chooses.
fn carries(interface: &Interface, target: &Target) -> bool {
    match &target.interface {
        Some((name, _)) => *name == interface.name,
        None => target.to.ip().is_loopback() == interface.is_loopback() && interface.unable().is_none(),
    }
}

fn of_target(target: &Target, outcome: &Outcome) -> Finding {
    let Target { from, to, .. } = target;
    let by = match &target.interface {
        Some((name, _)) if from.is_unspecified() => format!("{name}: "),
        Some((name, _)) => format!("{name} {from}: "),
        None => String::new(),
    };
    let local = if to.ip().is_loopback() { "; it is for programs on this host only" } else { "" };
    let sent = |more: &str| format!("{by}a datagram to {to} was sent{more}{local}");
    match outcome {
        Outcome::Heard => Finding::green(sent(" and heard")),
        Outcome::ToOneHost if matches!(to.ip(), IpAddr::V4(ip) if ip.octets()[3] == 255) => Finding::yellow(
            sent("; it looks like a directed broadcast, and is one of no network here"),
            "compare it with brd in ip addr, or write the interface's name in its place",
        ),
        Outcome::ToOneHost => {
            Finding::green(sent("; it goes to one host, and only a listener there can tell"))
        }
        // Nobody else could have.
        Outcome::Unheard if to.ip().is_loopback() => Finding::red(
            sent(", and nobody heard it"),
            "ip link set lo up, and let UDP through the firewall of this host (nft list ruleset)",
        ),
        Outcome::Unheard => Finding::yellow(
            sent(", and not heard here"),
            "let UDP in through the firewall of this host (nft list ruleset); others may hear all the same",
        ),
        Outcome::NoReceiver(error) => Finding::yellow(
            sent(&format!("; whether it is heard cannot be tested here: {error}")),
            "see the line of the port; a multicast address may need its interface, as in 239.1.2.3%eth0",
        ),
        Outcome::Unsent(error) => Finding::red(
            format!("{by}a datagram to {to} cannot be sent: {error}"),
            match error.kind() {
                io::ErrorKind::PermissionDenied => {
                    "let UDP out through the firewall of this host (nft list ruleset)"
                }
                io::ErrorKind::NetworkUnreachable if target.interface.is_none() => {
                    "no route leads there: write auto or the interface's name in ROLLCALL_BROADCAST"
                }
                _ => "look at ROLLCALL_BROADCAST, ip addr and ip route",
            },
        ),
    }
}

fn of_mtu(name: &str, mtu: u32) -> Option<Finding> {
    let text =
        format!("{name}: its MTU is {mtu}, so that a datagram of {MAX_DATAGRAM} bytes is cut into fragments");
    (mtu < LEAST_MTU)
        .then(|| Finding::yellow(text, format!("ip link set {name} mtu 1500, if the network allows it")))
}

/// Named in `ROLLCALL_BROADCAST`, and not there or not able.
fn of_absent(absent: &Absent) -> Finding {
    let advice = match absent {
        Absent::Unable(name, Unused::Down) => format!("ip link set {name} up"),
        _ => "look at ip link and ip addr, and correct ROLLCALL_BROADCAST if it means another interface"
            .to_owned(),
    };
    Finding::red(format!("{absent}; nothing is announced there"), advice)
}

/// The interfaces that `auto` leaves out, and whether it left out all.
fn left_out(interfaces: &[Interface]) -> Vec<Finding> {
    let left_out = interfaces.iter().filter_map(|interface| Some((&interface.name, interface.left_out()?)));
    let mut findings: Vec<Finding> =
        left_out.map(|(name, why)| Finding::green(format!("{name}: auto does not use it: {why}"))).collect();
    if findings.len() == interfaces.len() {
        findings.push(Finding::yellow(
            "auto finds no network and takes the loopback interface: by it only programs on this host hear",
            "look at ip addr; name an interface in ROLLCALL_BROADCAST if the right one is left out",
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn each_interface_that_auto_leaves_out_has_a_reason() {
        let lines = |interfaces: &[Interface]| -> Vec<String> {
            left_out(interfaces).iter().map(|finding| finding.line(false)).collect()
        };
        let host = Interface::host();
        let said = lines(&host);
        assert_eq!(said[0], "green   lo: auto does not use it: it is the loopback interface");
        assert_eq!(said[2], "green   eth2: auto does not use it: it has no carrier");
        assert_eq!(said.len(), 4);
        assert!(lines(&host[..1])[1].starts_with("yellow  auto finds no network and takes the loopback"));
    }

    #[test]
    fn the_outcome_of_a_datagram_decides() {
        let (targets, _) = destination::targets(
            &destination::parse("auto,192.0.2.7,192.0.2.255").unwrap(),
            &Interface::host(),
        );
        let [first, .., host, wrong_mask] = &targets[..] else { panic!("{targets:?}") };
        let line = |target, outcome| of_target(target, &outcome).line(false);
        let error = io::Error::from;
        let datagram = "eth0 192.0.2.10: a datagram to 255.255.255.255:6667";
        for (outcome, level, end) in [
            (Outcome::Heard, "green  ", "was sent and heard"),
            (Outcome::Unheard, "yellow ", "was sent, and not heard here; do: let UDP in"),
            (
                Outcome::NoReceiver(error(io::ErrorKind::AddrInUse)),
                "yellow ",
                "was sent; whether it is heard",
            ),
            (
                Outcome::Unsent(error(io::ErrorKind::NetworkUnreachable)),
                "red    ",
                "cannot be sent: network unreachable",
            ),
        ] {
            let line = line(first, outcome);
            assert!(line.starts_with(&format!("{level} {datagram} {end}")), "{line}");
        }
        assert_eq!(of_target(host, &Outcome::ToOneHost).level, Level::Green);
        assert_eq!(of_target(wrong_mask, &Outcome::ToOneHost).level, Level::Yellow);
        assert!(of_mtu("eth0", 733).is_none() && of_mtu("eth0", 732).is_some());
    }
}
