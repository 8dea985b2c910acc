//! A multicast group to join: `ADDRESS[%INTERFACE]`. A broadcast needs none.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::str::FromStr;

use socket2::{InterfaceIndexOrAddress, SockRef};

/// Without an interface, the routing table chooses one (ip(7), ipv6(7)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    ip: IpAddr,
    interface: Option<String>,
}

impl Group {
    pub fn join(&self, socket: &UdpSocket) -> io::Result<()> {
        join(socket, self.ip, self.interface.as_deref().map(index_of).transpose()?)
    }
}

/// Joins by the index of an interface.
pub fn join(socket: &UdpSocket, ip: IpAddr, index: Option<u32>) -> io::Result<()> {
    match ip {
        IpAddr::V4(ip) => {
            let any = InterfaceIndexOrAddress::Address(Ipv4Addr::UNSPECIFIED);
            let interface = index.map_or(any, InterfaceIndexOrAddress::Index);
            SockRef::from(socket).join_multicast_v4_n(&ip, &interface)
        }
        IpAddr::V6(ip) => socket.join_multicast_v6(&ip, index.unwrap_or(0)),
    }
}

/// if_nametoindex(3), by way of the zone of an IPv6 address (RFC 4007, section 11), which getaddrinfo(3) looks up
/// here: /sys may show another namespace.
fn index_of(name: &str) -> io::Result<u32> {
    let absent = || io::Error::other(format!("there is no interface {name}"));
    let found = (format!("fe80::1%{name}"), 0).to_socket_addrs().map_err(|_| absent())?.next();
    match found {
        Some(SocketAddr::V6(address)) if address.scope_id() != 0 => Ok(address.scope_id()),
        _ => Err(absent()),
    }
}

impl FromStr for Group {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (ip, interface) = match text.split_once('%') {
            Some((_, name)) if name.is_empty() || name.contains('/') || name.starts_with('.') => {
                return Err("after % stands the name of an interface");
            }
            Some((ip, name)) => (ip, Some(name.to_owned())),
            None => (text, None),
        };
        match ip.parse::<IpAddr>() {
            Ok(ip) if ip.is_multicast() => Ok(Self { ip, interface }),
            _ => Err("the form is ADDRESS[%INTERFACE], and the address is a multicast one"),
        }
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.interface {
            Some(name) => write!(f, "{}%{name}", self.ip),
            None => write!(f, "{}", self.ip),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_groups_and_nothing_else() {
        for text in ["239.1.2.3", "239.1.2.3%eth0", "ff02::6667%eth0", "ff05::1"] {
            assert_eq!(text.parse::<Group>().unwrap().to_string(), text);
        }
        for text in ["", "eth0", "192.0.2.255", "::1", "239.1.2.3:6667", "239.1.2.3%", "239.1.2.3%../lo"] {
            assert!(text.parse::<Group>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_joined_group_is_heard_on_its_interface() {
        let receiver = crate::lan::sockets::receiver((Ipv4Addr::UNSPECIFIED, 0).into()).unwrap();
        "239.255.66.67%lo".parse::<Group>().unwrap().join(&receiver).unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.send_to(b"hello", ("239.255.66.67", receiver.local_addr().unwrap().port())).unwrap();
        let mut buffer = [0; 10];
        assert_eq!(receiver.recv(&mut buffer).unwrap(), 5);
        assert!("239.255.66.67%nothing0".parse::<Group>().unwrap().join(&receiver).is_err());
    }
}
