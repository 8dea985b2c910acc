//! Where announcements leave this host: by which interfaces, by which not and why, and whether they are heard.

use std::io;
use std::net::IpAddr;

use super::hearing::{self, Outcome};
use super::link::{self, Link};
use super::{Finding, Settings, buffers, container, port};
use crate::lan::destination::{self, Absent, Destination, Target};
use crate::lan::interfaces::{self, Interface, Unused};
use crate::protocol::MAX_DATAGRAM;

/// IPv6 and UDP put 48 bytes before a datagram, IPv4 and UDP 28. In less room than this the longest is cut into
/// fragments, and is lost with each of them.
const LEAST_MTU: u32 = MAX_DATAGRAM as u32 + 48;

pub fn check(settings: &Settings) -> Vec<Finding> {
    let lists = interfaces::list().and_then(|interfaces| Ok((interfaces, link::list()?)));
    let (interfaces, links) = match lists {
        Ok(lists) => lists,
        Err(error) => {
            let what = format!("cannot list the network's interfaces: {error}");
            return vec![Finding::red(
                what,
                "allow sockets of AF_NETLINK (RestrictAddressFamilies of systemd)",
            )];
        }
    };
    let destinations = &settings.server.destinations;
    let (targets, absent) = destination::targets(destinations, &interfaces);
    // Before we hold the port ourselves.
    let port = port::check(&targets);
    let used = used(&targets, &interfaces, &links);

    let mut findings = Vec::new();
    let outcomes = hearing::try_each(&targets);
    for (target, outcome) in targets.iter().zip(&outcomes) {
        let index = target.interface.as_ref().map(|(_, index)| *index);
        let link = links.iter().find(|link| Some(link.index) == index);
        findings.push(of_target(target, outcome, link.and_then(|link| link.mtu)));
    }
    findings.extend(used.iter().filter_map(|(name, link)| of_mtu(name, link.mtu?)));
    findings.extend(absent.iter().map(of_absent));
    findings.extend(of_fallback(destinations, &interfaces));
    findings.extend(unused(destinations, &targets, &absent, &interfaces));
    let sent = outcomes.iter().filter(|outcome| !matches!(outcome, Outcome::Unsent(_))).count();
    if sent > 0 {
        let plural = if sent == 1 { "" } else { "s" };
        let mut what =
            format!("this test sent {sent} datagram{plural}, which listeners count as foreign and skip");
        if !used.is_empty() {
            what.push_str(
                "; what is heard here is the kernel's own copy: that it crossed the wire, \
                 only rollcall-listen on another machine can prove",
            );
        }
        findings.push(Finding::green(what));
    }
    findings.extend(container::check(&used));
    findings.extend(port);
    findings.extend(buffers::check(&targets));
    findings
}

/// The interfaces that lead off this host and that announcements may leave by. For an address without one the
/// routing table chooses.
fn used<'a>(targets: &[Target], interfaces: &'a [Interface], links: &[Link]) -> Vec<(&'a str, Link)> {
    let carries = |target: &Target, candidate: &Interface| match &target.interface {
        Some((name, _)) => *name == candidate.name,
        None => !target.to.ip().is_loopback() && candidate.left_out().is_none(),
    };
    interfaces
        .iter()
        .filter(|candidate| {
            !candidate.is_loopback() && targets.iter().any(|target| carries(target, candidate))
        })
        .filter_map(|used| Some((used.name.as_str(), *links.iter().find(|link| link.index == used.index)?)))
        .collect()
}

fn of_target(target: &Target, outcome: &Outcome, mtu: Option<u32>) -> Finding {
    let Target { from, to, .. } = target;
    let mut what = match &target.interface {
        Some((name, _)) if from.is_unspecified() => format!("{name}: "),
        Some((name, _)) => format!("{name} {from}: "),
        None => String::new(),
    };
    what.push_str(&format!("a datagram to {to} "));
    let mut tail = mtu.map_or(String::new(), |mtu| format!(", MTU {mtu}"));
    if to.ip().is_loopback() {
        tail.push_str("; it is for programs on this host only");
    }
    match outcome {
        Outcome::Heard => Finding::green(what + "was sent and heard" + &tail),
        Outcome::ToOneHost if matches!(to.ip(), IpAddr::V4(ip) if ip.octets()[3] == 255) => Finding::yellow(
            what + "was sent" + &tail + "; it looks like a directed broadcast, and is one of no network here",
            "compare it with brd in ip addr, or write the interface's name in its place",
        ),
        Outcome::ToOneHost => Finding::green(
            what + "was sent" + &tail + "; it goes to one host, and only a listener there can tell",
        ),
        // Nobody else could have.
        Outcome::Unheard if to.ip().is_loopback() => Finding::red(
            what + "was sent, and nobody heard it" + &tail,
            "ip link set lo up, and let UDP through the firewall of this host (nft list ruleset)",
        ),
        Outcome::Unheard => Finding::yellow(
            what + "was sent, and not heard here" + &tail,
            "let UDP in through the firewall of this host (nft list ruleset); others may hear all the same",
        ),
        Outcome::NoEar(error) if error.kind() == io::ErrorKind::AddrInUse => Finding::yellow(
            what + "was sent; whether it is heard cannot be tested while the port is held" + &tail,
            "see the line of the port",
        ),
        Outcome::NoEar(error) => Finding::yellow(
            what + &format!("was sent; it cannot be listened to here: {error}") + &tail,
            "name the interface in ROLLCALL_BROADCAST, as in 239.1.2.3%eth0 or [ff02::6667%eth0]",
        ),
        Outcome::Unsent(error) => Finding::red(
            what + &format!("cannot be sent: {error}"),
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
    let longest = MAX_DATAGRAM;
    let what =
        format!("{name}: its MTU is {mtu}, so that a datagram of {longest} bytes is cut into fragments");
    (mtu < LEAST_MTU)
        .then(|| Finding::yellow(what, format!("ip link set {name} mtu 1500, if the network allows it")))
}

/// Named in `ROLLCALL_BROADCAST`, and not there.
fn of_absent(absent: &Absent) -> Finding {
    let advice = match absent {
        Absent::NoSuch(_) => "look for its name with ip link, and correct ROLLCALL_BROADCAST".to_owned(),
        Absent::Unable(name, Unused::Down) => format!("ip link set {name} up"),
        Absent::Unable(_, Unused::NoCarrier) => "plug in its cable, or join its wireless network".to_owned(),
        Absent::Unable(name, Unused::NoAddress) => {
            format!("give it an address: ip addr add ADDRESS/BITS dev {name}")
        }
        Absent::Unable(..) => "name another interface in ROLLCALL_BROADCAST".to_owned(),
        Absent::NoNetwork => "look at ip addr; after ip link set lo up at least this host hears".to_owned(),
    };
    Finding::red(format!("{absent}; nothing is announced there"), advice)
}

fn is_auto(destinations: &[Destination]) -> bool {
    destinations.iter().any(|destination| matches!(destination, Destination::Auto { .. }))
}

/// Nothing leaves this host although it should.
fn of_fallback(destinations: &[Destination], interfaces: &[Interface]) -> Option<Finding> {
    let fell_back = is_auto(destinations)
        && interfaces.iter().any(|interface| interface.is_loopback() && interface.address.is_some())
        && interfaces.iter().all(|interface| interface.left_out().is_some());
    fell_back.then(|| {
        Finding::yellow(
            "auto finds no network and takes the loopback interface: by it only programs on this host hear",
            "look at ip addr; name an interface in ROLLCALL_BROADCAST if the right one is left out",
        )
    })
}

/// The interfaces that carry nothing, those with the same reason in one line.
fn unused(
    destinations: &[Destination],
    targets: &[Target],
    absent: &[Absent],
    interfaces: &[Interface],
) -> Vec<Finding> {
    let is_auto = is_auto(destinations);
    let is_told = |interface: &Interface| {
        let is_used = |target: &Target| match &target.interface {
            Some((name, _)) => *name == interface.name,
            None => target.to.ip().is_loopback() && interface.is_loopback(),
        };
        let is_absent =
            |absent: &Absent| matches!(absent, Absent::Unable(name, _) if *name == interface.name);
        targets.iter().any(is_used) || absent.iter().any(is_absent)
    };
    let mut reasons: Vec<(String, Vec<&str>)> = Vec::new();
    for interface in interfaces.iter().filter(|interface| !is_told(interface)) {
        let reason = match interface.left_out().filter(|_| is_auto) {
            Some(why @ (Unused::Loopback | Unused::Own)) => {
                format!("{why}; naming it in ROLLCALL_BROADCAST uses it")
            }
            Some(why @ (Unused::Down | Unused::NoCarrier | Unused::NoAddress)) => {
                format!("{why}; the server takes it within 2 seconds of a change")
            }
            Some(why) => why.to_string(),
            None => {
                "ROLLCALL_BROADCAST does not name it; where an address leaves, ip route get ADDRESS tells"
                    .to_owned()
            }
        };
        match reasons.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, names)) => names.push(&interface.name),
            None => reasons.push((reason, vec![&interface.name])),
        }
    }
    let finding = |(reason, names): (String, Vec<&str>)| {
        Finding::green(format!("{}: not used: {reason}", names.join(", ")))
    };
    reasons.into_iter().map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    /// What is said of the interfaces when nothing is sent.
    fn said(broadcast: &str, interfaces: &[Interface]) -> Vec<String> {
        let destinations = destination::parse(broadcast).unwrap();
        let (targets, absent) = destination::targets(&destinations, interfaces);
        let mut findings: Vec<Finding> = absent.iter().map(of_absent).collect();
        findings.extend(of_fallback(&destinations, interfaces));
        findings.extend(unused(&destinations, &targets, &absent, interfaces));
        findings.iter().map(|finding| finding.line(false)).collect()
    }

    #[test]
    fn each_interface_is_told_and_why() {
        let own = "by its name it leads to this host's own containers, machines or tunnels";
        assert_eq!(
            said("auto", &Interface::host()),
            [
                "green   lo: not used: it is the loopback interface; naming it in ROLLCALL_BROADCAST uses it"
                    .to_owned(),
                format!("green   docker0, veth12: not used: {own}; naming it in ROLLCALL_BROADCAST uses it"),
                "green   eth2: not used: it has no carrier; the server takes it within 2 seconds of a change"
                    .to_owned(),
            ]
        );
        let others = "not used: ROLLCALL_BROADCAST does not name it; where an address leaves, ip route get ADDRESS tells";
        assert_eq!(
            said("docker0,eth2,eth9", &Interface::host()),
            [
                "red     the interface eth2 is not used: it has no carrier; nothing is announced there; do: plug in its cable, \
                 or join its wireless network"
                    .to_owned(),
                "red     there is no interface eth9; nothing is announced there; do: look for its name with ip link, \
                 and correct ROLLCALL_BROADCAST"
                    .to_owned(),
                format!("green   lo, eth0, eth1, veth12: {others}"),
            ]
        );
        assert_eq!(
            said("127.255.255.255", &Interface::host()),
            [format!("green   eth0, eth1, docker0, eth2, veth12: {others}")]
        );
    }

    #[test]
    fn without_a_network_there_is_a_warning() {
        let warns = |broadcast: &str, interfaces: &[Interface]| {
            of_fallback(&destination::parse(broadcast).unwrap(), interfaces).is_some()
        };
        let host = Interface::host();
        assert!(!warns("auto", &host));
        assert!(warns("auto", &host[..1]));
        assert!(warns("192.0.2.7,docker0,auto", &[&host[..1], &host[3..]].concat()), "auto is meant, too");
        assert!(!warns("lo", &host[..1]), "it is what was asked for");
        assert_eq!(
            said("auto", &[]),
            [
                "red     no interface can be used, not even lo: it has no IPv4 address; nothing is announced there; do: look at ip addr; after ip link set lo up at least this host hears"
            ]
        );
    }

    #[test]
    fn only_what_leaves_the_host_is_used() {
        let links: Vec<Link> = (1..=6).map(|index| Link { index, ..Link::default() }).collect();
        let interfaces = Interface::host();
        for (broadcast, expected) in [
            ("auto", &["eth0", "eth1"][..]),
            ("docker0,lo", &["docker0"]),
            ("255.255.255.255", &["eth0", "eth1"]),
            ("127.255.255.255", &[]),
            ("eth2", &[]),
        ] {
            let (targets, _) = destination::targets(&destination::parse(broadcast).unwrap(), &interfaces);
            let names: Vec<&str> =
                used(&targets, &interfaces, &links).iter().map(|(name, _)| *name).collect();
            assert_eq!(names, expected, "{broadcast}");
        }
    }

    #[test]
    fn what_became_of_a_datagram_decides() {
        let (targets, _) = destination::targets(&destination::parse("auto").unwrap(), &Interface::host());
        let say = |outcome| of_target(&targets[0], &outcome, Some(1500)).line(false);
        let error = io::Error::from;
        let datagram = "eth0 192.0.2.10: a datagram to 255.255.255.255:6667";
        assert_eq!(say(Outcome::Heard), format!("green   {datagram} was sent and heard, MTU 1500"));
        for (outcome, expected) in [
            (
                Outcome::Unheard,
                format!("yellow  {datagram} was sent, and not heard here, MTU 1500; do: let UDP in"),
            ),
            (
                Outcome::NoEar(error(io::ErrorKind::AddrInUse)),
                format!(
                    "yellow  {datagram} was sent; whether it is heard cannot be tested while the port is held"
                ),
            ),
            (
                Outcome::NoEar(error(io::ErrorKind::InvalidInput)),
                format!(
                    "yellow  {datagram} was sent; it cannot be listened to here: invalid input parameter"
                ),
            ),
            (
                Outcome::Unsent(error(io::ErrorKind::NetworkUnreachable)),
                format!(
                    "red     {datagram} cannot be sent: network unreachable; do: look at ROLLCALL_BROADCAST, ip addr"
                ),
            ),
            (
                Outcome::Unsent(error(io::ErrorKind::PermissionDenied)),
                format!("red     {datagram} cannot be sent: permission denied; do: let UDP out"),
            ),
        ] {
            let said = say(outcome);
            assert!(said.starts_with(&expected), "{said}");
        }
        let (targets, _) =
            destination::targets(&destination::parse("192.0.2.7,192.0.2.255").unwrap(), &Interface::host());
        let levels = targets.iter().map(|target| of_target(target, &Outcome::ToOneHost, None).level);
        assert_eq!(levels.collect::<Vec<_>>(), [Level::Green, Level::Yellow], "a wrong mask");
    }

    #[test]
    fn a_small_mtu_cuts_the_longest_datagram() {
        assert_eq!(of_mtu("eth0", 733), None);
        assert_eq!(of_mtu("eth0", 732).unwrap().level, Level::Yellow);
    }
}
