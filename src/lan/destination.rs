//! The grammar of `ROLLCALL_BROADCAST` and `--relay`, and the sockets that it means on a host as it is now.
//!
//! Text and interfaces in, targets out; [`super::sockets`] opens them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::str::FromStr;

use super::interfaces::{Interface, Unused};

const PORT: u16 = 6667;
/// IFNAMSIZ without the byte that ends it (netdevice(7)).
const LONGEST_NAME: usize = 15;

/// One entry of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Every network that the host is attached to.
    Auto { port: u16 },
    /// Everybody on the network of one interface.
    Interface { name: String, port: u16 },
    /// Directed broadcast, unicast, or multicast: `ADDRESS[%INTERFACE][:PORT][/TTL]`.
    Address { ip: IpAddr, interface: Option<String>, port: u16, ttl: Option<u8> },
}

/// The whole list, as a flag takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destinations(pub Vec<Destination>);

/// The target of one socket. Equal targets share a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Name and index.
    pub interface: Option<(String, u32)>,
    /// The address to bind: the interface's own makes 255.255.255.255 and multicast leave by it (ip(7)).
    pub from: IpAddr,
    pub to: SocketAddr,
    pub ttl: Option<u8>,
}

/// Why a destination means no socket now. It may later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Absent {
    NoSuch(String),
    Unable(String, Unused),
    /// There is nothing that `auto` could take.
    NoNetwork,
}

/// Reads the whole setting.
pub fn parse(text: &str) -> Result<Vec<Destination>, ParseError> {
    text.split(',').map(|entry| entry.trim().parse()).collect()
}

/// The sockets that `destinations` mean while the host has these interfaces, each once.
pub fn targets(destinations: &[Destination], interfaces: &[Interface]) -> (Vec<Target>, Vec<Absent>) {
    let (mut targets, mut absent) = (Vec::new(), Vec::new());
    for destination in destinations {
        match destination.targets(interfaces) {
            Ok(more) => {
                for target in more {
                    if !targets.contains(&target) {
                        targets.push(target);
                    }
                }
            }
            Err(why) => absent.push(why),
        }
    }
    (targets, absent)
}

impl Destination {
    pub fn port(&self) -> u16 {
        match self {
            Destination::Auto { port }
            | Destination::Interface { port, .. }
            | Destination::Address { port, .. } => *port,
        }
    }

    fn targets(&self, interfaces: &[Interface]) -> Result<Vec<Target>, Absent> {
        match self {
            Destination::Auto { port } => {
                let used = interfaces.iter().filter(|interface| interface.left_out().is_none());
                let used: Vec<Target> = used.filter_map(|interface| Target::all(interface, *port)).collect();
                // Without a network the programs of this host still hear.
                let own = interfaces.iter().find(|interface| interface.is_loopback());
                match used.is_empty() {
                    true => Ok(vec![own.and_then(|own| Target::all(own, *port)).ok_or(Absent::NoNetwork)?]),
                    false => Ok(used),
                }
            }
            Destination::Interface { name, port } => {
                let interface = find(interfaces, name)?;
                usable(interface, interface.unable())?;
                Ok(Target::all(interface, *port).into_iter().collect())
            }
            Destination::Address { ip, interface, port, ttl } => {
                let interface = interface.as_deref().map(|name| find(interfaces, name)).transpose()?;
                let mut index = 0;
                let mut from = match ip {
                    IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                    IpAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
                };
                if let Some(interface) = interface {
                    index = interface.index;
                    match (ip, interface.unable()) {
                        // Neither needs the broadcast, and IPv6 needs no IPv4 address.
                        (_, Some(Unused::NoBroadcast)) | (IpAddr::V6(_), Some(Unused::NoAddress)) => {}
                        (_, unable) => usable(interface, unable)?,
                    }
                    if let (IpAddr::V4(_), Some(own)) = (ip, interface.address) {
                        from = own.into();
                    }
                }
                let to = match ip {
                    IpAddr::V4(ip) => SocketAddr::from((*ip, *port)),
                    IpAddr::V6(ip) => SocketAddrV6::new(*ip, *port, 0, index).into(),
                };
                let interface = interface.map(|interface| (interface.name.clone(), index));
                Ok(vec![Target { interface, from, to, ttl: *ttl }])
            }
        }
    }
}

impl FromStr for Destinations {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        parse(text).map(Self)
    }
}

fn find<'a>(interfaces: &'a [Interface], name: &str) -> Result<&'a Interface, Absent> {
    let found = interfaces.iter().find(|interface| interface.name == name);
    found.ok_or_else(|| Absent::NoSuch(name.to_owned()))
}

fn usable(interface: &Interface, unable: Option<Unused>) -> Result<(), Absent> {
    unable.map_or(Ok(()), |why| Err(Absent::Unable(interface.name.clone(), why)))
}

impl Target {
    /// Everybody on the network of one interface; `None` if it has no IPv4 address.
    fn all(interface: &Interface, port: u16) -> Option<Self> {
        let from = interface.address?;
        // 255.255.255.255 does not go by the loopback interface, its directed broadcast does.
        let to =
            if interface.is_loopback() { Ipv4Addr::new(127, 255, 255, 255) } else { Ipv4Addr::BROADCAST };
        Some(Self {
            interface: Some((interface.name.clone(), interface.index)),
            from: from.into(),
            to: (to, port).into(),
            ttl: None,
        })
    }
}

impl FromStr for Destination {
    type Err = ParseError;

    fn from_str(entry: &str) -> Result<Self, ParseError> {
        let error = |mistake| ParseError { entry: entry.to_owned(), mistake };
        let (rest, ttl) = match entry.rsplit_once('/') {
            Some((rest, ttl)) => match ttl.parse() {
                Ok(ttl @ 1..) => (rest, Some(ttl)),
                _ => return Err(error(Mistake::Ttl)),
            },
            None => (entry, None),
        };
        let (host, port) = split_port(rest).ok_or_else(|| match rest.rsplit_once('%') {
            // The interface stands before the port.
            Some((_, end)) if !end.contains(':') => error(Mistake::Form),
            _ => error(Mistake::Port),
        })?;
        let (name, interface) = match host.split_once('%') {
            Some((address, interface)) if is_name(interface) => (address, Some(interface.to_owned())),
            Some(_) => return Err(error(Mistake::Form)),
            None => (host, None),
        };
        let looks_like_ip = name.contains(':') || name.chars().all(|c| c.is_ascii_digit() || c == '.');
        // ::ffff:192.0.2.255 is 192.0.2.255 (RFC 4291, section 2.5.5.2).
        match name.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
            Ok(ip) if ip.is_unspecified() => Err(error(Mistake::Unspecified)),
            Ok(ip) if ttl.is_some() && !ip.is_multicast() => Err(error(Mistake::NotMulticast)),
            Ok(ip) if interface.is_some() && !takes_interface(&ip) => Err(error(Mistake::NotScoped)),
            Ok(IpAddr::V6(ip)) if interface.is_none() && is_link_local(&ip) => Err(error(Mistake::Scope)),
            Ok(ip) => Ok(Destination::Address { ip, interface, port, ttl }),
            Err(_) if ttl.is_some() => Err(error(Mistake::NotMulticast)),
            Err(_) if looks_like_ip || interface.is_some() || !is_name(name) => Err(error(Mistake::Form)),
            Err(_) if name.eq_ignore_ascii_case("auto") => Ok(Destination::Auto { port }),
            Err(_) => Ok(Destination::Interface { name: name.to_owned(), port }),
        }
    }
}

/// `HOST`, `HOST:PORT` or `[IPV6]:PORT`; an IPv6 address without a port needs no brackets.
fn split_port(text: &str) -> Option<(&str, u16)> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, rest)) => (host, Some(rest.strip_prefix(':')?)),
        None => match text.split_once(':') {
            Some((host, port)) if !port.contains(':') => (host, Some(port)),
            _ => (text, None),
        },
    };
    match port.map_or(Ok(PORT), str::parse) {
        Ok(port @ 1..) => Some((host, port)),
        _ => None,
    }
}

/// The same address on every link: it means nothing without one (RFC 4007, section 6).
fn is_link_local(ip: &Ipv6Addr) -> bool {
    ip.is_unicast_link_local() || ip.octets()[0] == 0xff && ip.octets()[1] & 0x0f == 2
}

/// Only these leave by an interface that the routing table does not choose.
fn takes_interface(ip: &IpAddr) -> bool {
    ip.is_multicast() || matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

fn is_name(name: &str) -> bool {
    (1..=LONGEST_NAME).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_graphic() && !"/:;%[]".contains(c))
}

/// For the log: `255.255.255.255:6667 by eth0 (192.0.2.10)`, or the address alone.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.to)?;
        match &self.interface {
            // A container's user may choose an interface's name: it reaches no terminal as it is.
            Some((name, _)) if self.from.is_unspecified() => write!(f, " by {}", name.escape_debug()),
            Some((name, _)) => write!(f, " by {} ({})", name.escape_debug(), self.from),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Absent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Absent::NoSuch(name) => {
                write!(f, "there is no interface {name} (of another host write the address)")
            }
            Absent::Unable(name, why) => {
                write!(f, "the interface {} is not used: {why}", name.escape_debug())
            }
            Absent::NoNetwork => f.write_str("no interface can be used, not even lo: it has no IPv4 address"),
        }
    }
}

/// An entry that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a broadcast destination: {entry:?}: {mistake}")]
pub struct ParseError {
    entry: String,
    mistake: Mistake,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Mistake {
    #[error(
        "write auto, the name of an interface (eth0), or an address (192.0.2.255:6667, \
         239.255.66.67%eth0:6667/4, [ff02::6667%eth0]:6667), several separated by commas; the name of a host is none"
    )]
    Form,
    #[error("the port is a number from 1 to 65535")]
    Port,
    #[error("the TTL after the slash is a number from 1 to 255")]
    Ttl,
    #[error("this address is nobody's")]
    Unspecified,
    #[error("a TTL is for multicast addresses")]
    NotMulticast,
    #[error(
        "%INTERFACE is for multicast and link-local IPv6 addresses; for everybody on the network of an \
         interface, write its name alone"
    )]
    NotScoped,
    #[error("this address is on every link: name the interface, as in [ff02::6667%eth0]:6667")]
    Scope,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(ip: &str, interface: Option<&str>, port: u16, ttl: Option<u8>) -> Destination {
        let interface = interface.map(str::to_owned);
        Destination::Address { ip: ip.parse().unwrap(), interface, port, ttl }
    }

    #[test]
    fn reads_every_form() {
        let named = |name: &str, port| Destination::Interface { name: name.to_owned(), port };
        for (text, expected) in [
            ("auto", Destination::Auto { port: 6667 }),
            ("auto:7000", Destination::Auto { port: 7000 }),
            ("eth0", named("eth0", 6667)),
            ("br-lan.5:7000", named("br-lan.5", 7000)),
            ("255.255.255.255:6667", address("255.255.255.255", None, 6667, None)),
            ("192.0.2.255", address("192.0.2.255", None, 6667, None)),
            ("239.1.2.3", address("239.1.2.3", None, 6667, None)),
            ("239.1.2.3%eth0:7000/4", address("239.1.2.3", Some("eth0"), 7000, Some(4))),
            ("AUTO", Destination::Auto { port: 6667 }),
            ("ff05::1", address("ff05::1", None, 6667, None)),
            ("ff05::1%eth1/255", address("ff05::1", Some("eth1"), 6667, Some(255))),
            ("[ff02::1%eth0]:7000", address("ff02::1", Some("eth0"), 7000, None)),
            ("[fe80::1%eth0]", address("fe80::1", Some("eth0"), 6667, None)),
            ("[::ffff:192.0.2.255]:6667", address("192.0.2.255", None, 6667, None)),
            ("[2001:db8::1]:6667", address("2001:db8::1", None, 6667, None)),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        assert_eq!(parse(" auto , 192.0.2.255:7000 ").unwrap().len(), 2);
    }

    #[test]
    fn names_the_bad_entry_and_why() {
        for (text, why) in [
            ("", "write auto"),
            ("auto,,eth0", "write auto"),
            ("256.0.0.1", "write auto"),
            ("192.0.2:6667", "write auto"),
            ("fe80:::1", "write auto"),
            ("eth0%eth1", "write auto"),
            ("239.1.2.3%", "write auto"),
            ("an interface", "write auto"),
            ("auto;eth0", "write auto"),
            ("239.1.2.3:6667%eth0", "write auto"),
            ("ff02::1", "this address is on every link"),
            ("[fe80::1]:6667", "this address is on every link"),
            ("sixteen-letters-", "write auto"),
            ("eth0:0", "the port is"),
            ("127.0.0.1:66667", "the port is"),
            ("127.0.0.1:", "the port is"),
            ("[::1]6667", "the port is"),
            ("239.1.2.3/0", "the TTL after the slash"),
            ("239.1.2.3/256", "the TTL after the slash"),
            ("192.0.2.1/24", "a TTL is for multicast"),
            ("eth0/4", "a TTL is for multicast"),
            ("0.0.0.0:6667", "this address is nobody's"),
            ("192.0.2.255%eth0", "%INTERFACE is for multicast"),
            ("2001:db8::1%eth0", "%INTERFACE is for multicast"),
        ] {
            let said = parse(text).unwrap_err().to_string();
            assert!(
                said.starts_with("not a broadcast destination: \"") && said.contains(why),
                "{text}: {said}"
            );
        }
    }

    fn said(text: &str, interfaces: &[Interface]) -> (Vec<String>, Vec<String>) {
        let (targets, absent) = targets(&parse(text).unwrap(), interfaces);
        let texts = targets.iter().map(|target| format!("{} > {}", target.from, target.to)).collect();
        (texts, absent.iter().map(Absent::to_string).collect())
    }

    #[test]
    fn auto_is_every_network_and_else_loopback() {
        let both = ["192.0.2.10 > 255.255.255.255:6667", "198.51.100.10 > 255.255.255.255:6667"];
        assert_eq!(said("auto", &Interface::host()).0, both);
        assert_eq!(said("eth0,auto,eth1", &Interface::host()).0, both, "each once");
        assert_eq!(said("auto", &Interface::host()[..1]).0, ["127.0.0.1 > 127.255.255.255:6667"]);
        let nobody = "no interface can be used, not even lo: it has no IPv4 address";
        assert_eq!(said("auto", &[]), (vec![], vec![nobody.to_owned()]));
    }

    #[test]
    fn a_named_interface_is_used_if_it_can_be() {
        let (targets, absent) =
            said("docker0:7000,eth2,eth9,lo,239.1.2.3%eth1/2,ff02::1%eth1", &Interface::host());
        assert_eq!(
            targets,
            [
                "172.17.0.1 > 255.255.255.255:7000",
                "127.0.0.1 > 127.255.255.255:6667",
                "198.51.100.10 > 239.1.2.3:6667",
                ":: > [ff02::1%3]:6667",
            ]
        );
        assert_eq!(
            absent,
            [
                "the interface eth2 is not used: it has no carrier",
                "there is no interface eth9 (of another host write the address)"
            ]
        );
    }
}
