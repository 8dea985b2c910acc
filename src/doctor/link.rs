//! What the kernel tells of each interface over rtnetlink(7): its MTU, its kind, and where its other end is.
//!
//! /sys/class/net tells less: a veth has no type there, and its `iflink` is the index that the other end has in
//! another namespace, which may well be the index that this end has here. And in a container /sys may be
//! another namespace's.

use std::io::{self, Read};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

// The numbers of linux/netlink.h, linux/rtnetlink.h and linux/if_link.h.
const AF_NETLINK: i32 = 16;
const NLM_F_REQUEST_DUMP: u16 = 0x301;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
/// A flag in the type of an attribute that holds attributes.
const NLA_F_NESTED: u16 = 1 << 15;
const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_LINK_NETNSID: u16 = 37;

/// Bytes of a message's header, `nlmsghdr`, and of the `ifinfomsg` that follows it.
const HEADER: usize = 16;
const INFO: usize = 16;
/// No dump comes in larger pieces.
const BUFFER: usize = 1 << 16;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// The number of the interface, as in [`crate::lan::interfaces::Interface`].
    pub index: u32,
    pub mtu: Option<u32>,
    pub is_veth: bool,
    /// What it is attached to is in another network namespace.
    pub leads_elsewhere: bool,
}

/// All interfaces of this network namespace.
pub fn list() -> io::Result<Vec<Link>> {
    let mut socket = Socket::new(Domain::from(AF_NETLINK), Type::RAW, None)?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut request = ((HEADER + INFO) as u32).to_ne_bytes().to_vec();
    request.extend_from_slice(&RTM_GETLINK.to_ne_bytes());
    request.extend_from_slice(&NLM_F_REQUEST_DUMP.to_ne_bytes());
    request.resize(HEADER + INFO, 0);
    socket.send(&request)?;
    let (mut links, mut buffer) = (Vec::new(), vec![0; BUFFER]);
    loop {
        let len = socket.read(&mut buffer)?;
        for (kind, message) in records(&buffer[..len], 4) {
            match kind {
                NLMSG_DONE => return Ok(links),
                NLMSG_ERROR => return Err(io::Error::other("rtnetlink(7) refuses to list the interfaces")),
                RTM_NEWLINK => links.extend(link(message)),
                _ => {}
            }
        }
    }
}

/// What follows the length and the type of an RTM_NEWLINK message.
fn link(message: &[u8]) -> Option<Link> {
    let (_, message) = message.split_at_checked(HEADER - 6)?;
    let (info, attributes) = message.split_at_checked(INFO)?;
    let mut link = Link { index: number(&info[4..8])?, ..Link::default() };
    for (kind, value) in records(attributes, 2) {
        match kind {
            IFLA_MTU => link.mtu = number(value),
            IFLA_LINK_NETNSID => link.leads_elsewhere = true,
            IFLA_LINKINFO => {
                link.is_veth = records(value, 2)
                    .any(|(kind, value)| kind == IFLA_INFO_KIND && value.strip_suffix(&[0]) == Some(b"veth"));
            }
            _ => {}
        }
    }
    Some(link)
}

/// Messages and attributes are packed alike: the length of the whole record in `width` bytes, a type of two
/// bytes, content, and padding to four bytes (netlink(7), rtnetlink(7)).
fn records(mut bytes: &[u8], width: usize) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (length, rest) = bytes.split_at_checked(width)?;
        let length =
            if width == 2 { short(length)?.into() } else { usize::try_from(number(length)?).ok()? };
        let kind = short(rest.get(..2)?)? & !NLA_F_NESTED;
        let content = bytes.get(width + 2..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, content))
    })
}

fn number(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_ne_bytes)
}

fn short(bytes: &[u8]) -> Option<u16> {
    bytes.try_into().ok().map(u16::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_knows_the_same_interfaces_twice() {
        let links = list().unwrap();
        let mut known: Vec<u32> = links.iter().map(|link| link.index).collect();
        known.sort();
        let mut expected: Vec<u32> =
            crate::lan::interfaces::list().unwrap().iter().map(|interface| interface.index).collect();
        expected.sort();
        assert_eq!(known, expected);
        for interface in crate::lan::interfaces::list().unwrap() {
            let mtu = std::fs::read_to_string(format!("/sys/class/net/{}/mtu", interface.name)).unwrap();
            let link = links.iter().find(|link| link.index == interface.index).unwrap();
            assert_eq!(link.mtu, mtu.trim_end().parse().ok(), "{}", interface.name);
            assert!(!(interface.is_loopback() && (link.is_veth || link.leads_elsewhere)));
        }
    }

    /// An attribute of a made-up message, padded.
    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = (4 + value.len() as u16).to_ne_bytes().to_vec();
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn a_message_is_read_and_a_broken_one_is_not() {
        let kind = attribute(IFLA_INFO_KIND, b"veth\0");
        let mut message = vec![0; HEADER - 6 + INFO];
        message[HEADER - 6 + 4..][..4].copy_from_slice(&7_u32.to_ne_bytes());
        for attribute in [
            attribute(3, b"eth0\0"),
            attribute(IFLA_LINKINFO | NLA_F_NESTED, &kind),
            attribute(IFLA_LINK_NETNSID, &0_i32.to_ne_bytes()),
            attribute(IFLA_MTU, &1500_u32.to_ne_bytes()),
        ] {
            message.extend_from_slice(&attribute);
        }
        let whole = Link { index: 7, mtu: Some(1500), is_veth: true, leads_elsewhere: true };
        assert_eq!(link(&message), Some(whole));
        for len in 0..message.len() {
            assert_ne!(link(&message[..len]), Some(whole), "{len}");
        }
        for length in [0, 1, 3, u16::MAX] {
            message[HEADER - 6 + INFO..][..2].copy_from_slice(&u16::to_ne_bytes(length));
            assert_eq!(link(&message), Some(Link { index: 7, ..Link::default() }), "{length}");
        }
    }
}
