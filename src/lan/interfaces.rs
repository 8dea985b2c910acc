//! The networks that this host is attached to, and which of them a broadcast of ours is meant for.

use std::fmt;
use std::fs;
use std::io;
use std::net::Ipv4Addr;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

/// Names of interfaces behind which there is no LAN but this host's own containers, virtual machines and
/// tunnels. `ROLLCALL_BROADCAST` can name one of them.
const OWN: [&str; 17] = [
    "veth", "docker", "br-", "podman", "cni", "cali", "flannel", "kube", "lxc", "lxd", "incusbr", "virbr",
    "vnet", "vmnet", "vboxnet", "tap", "wg",
];

/// One network interface, as netdevice(7) describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    pub index: u32,
    /// The first, if it has several.
    pub address: Option<Ipv4Addr>,
    pub flags: InterfaceFlags,
}

/// Why an interface is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unused {
    Down,
    NoCarrier,
    NoBroadcast,
    NoAddress,
    Loopback,
    Own,
}

/// All interfaces, in the kernel's order.
pub fn list() -> io::Result<Vec<Interface>> {
    let mut interfaces: Vec<Interface> = Vec::new();
    for entry in getifaddrs()? {
        // A second address may have a label of its own: eth0:1 is eth0 (ip-address(8)).
        let name = entry.interface_name.split(':').next().unwrap_or_default();
        let known = interfaces.iter().position(|interface| interface.name == name);
        let at = known.unwrap_or_else(|| {
            let (name, flags) = (name.to_owned(), entry.flags);
            interfaces.push(Interface { name, index: 0, address: None, flags });
            interfaces.len() - 1
        });
        let Some(address) = entry.address else { continue };
        if let Some(link) = address.as_link_addr() {
            interfaces[at].index = u32::try_from(link.ifindex()).unwrap_or_default();
        } else if let Some(ipv4) = address.as_sockaddr_in() {
            interfaces[at].address.get_or_insert(ipv4.ip());
        }
    }
    // A label may be any text of its owner: a name without a link is no interface.
    interfaces.retain(|interface| interface.index != 0);
    Ok(interfaces)
}

impl Interface {
    /// Why it cannot carry a broadcast at all. The loopback interface can, in its way.
    pub fn unable(&self) -> Option<Unused> {
        if !self.flags.contains(InterfaceFlags::IFF_UP) {
            Some(Unused::Down)
        } else if !self.flags.contains(InterfaceFlags::IFF_RUNNING) {
            Some(Unused::NoCarrier)
        } else if !self.flags.contains(InterfaceFlags::IFF_BROADCAST) && !self.is_loopback() {
            Some(Unused::NoBroadcast)
        } else if self.address.is_none() {
            Some(Unused::NoAddress)
        } else {
            None
        }
    }

    /// Why `auto` does not take it.
    pub fn left_out(&self) -> Option<Unused> {
        if self.is_loopback() {
            Some(Unused::Loopback)
        } else if OWN.iter().any(|prefix| self.name.starts_with(prefix)) {
            Some(Unused::Own)
        } else {
            self.unable()
        }
    }

    /// `None` where /sys does not show it (sysfs(5)), as in some containers.
    pub fn mtu(&self) -> Option<u32> {
        fs::read_to_string(format!("/sys/class/net/{}/mtu", self.name)).ok()?.trim_end().parse().ok()
    }

    pub fn is_loopback(&self) -> bool {
        self.flags.contains(InterfaceFlags::IFF_LOOPBACK)
    }
}

impl fmt::Display for Unused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unused::Down => "it is down",
            Unused::NoCarrier => "it has no carrier",
            Unused::NoBroadcast => "it cannot broadcast",
            Unused::NoAddress => "it has no IPv4 address",
            Unused::Loopback => "it is the loopback interface",
            Unused::Own => "by its name it leads to this host's own containers, machines or tunnels",
        })
    }
}

#[cfg(test)]
impl Interface {
    /// A network card that works.
    pub fn card(name: &str, index: u32, address: [u8; 4]) -> Self {
        let flags = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING | InterfaceFlags::IFF_BROADCAST;
        Self { name: name.to_owned(), index, address: Some(address.into()), flags }
    }

    /// A host with two networks, a card without a cable, and two that lead to containers.
    pub fn host() -> Vec<Self> {
        let loopback = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING | InterfaceFlags::IFF_LOOPBACK;
        let mut unplugged = Self::card("eth2", 5, [203, 0, 113, 10]);
        unplugged.flags -= InterfaceFlags::IFF_RUNNING;
        vec![
            Self { flags: loopback, ..Self::card("lo", 1, [127, 0, 0, 1]) },
            Self::card("eth0", 2, [192, 0, 2, 10]),
            Self::card("eth1", 3, [198, 51, 100, 10]),
            Self::card("docker0", 4, [172, 17, 0, 1]),
            unplugged,
            Self::card("veth12", 6, [172, 18, 0, 1]),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_is_there() {
        let interfaces = list().unwrap();
        let lo = interfaces.iter().find(|interface| interface.is_loopback()).unwrap();
        assert_eq!(lo.address, Some(Ipv4Addr::LOCALHOST));
        assert_ne!(lo.index, 0);
        assert_eq!((lo.unable(), lo.left_out()), (None, Some(Unused::Loopback)));
    }

    #[test]
    fn each_reason_is_told() {
        let (all, none) = (InterfaceFlags::all(), InterfaceFlags::empty());
        for (name, flags, has_address, left_out) in [
            ("eth0", none, true, None),
            ("wlp3s0", none, true, None),
            ("br0", none, true, None),
            ("eth0", none, false, Some(Unused::NoAddress)),
            ("eth0", InterfaceFlags::IFF_UP, true, Some(Unused::Down)),
            ("eth0", InterfaceFlags::IFF_RUNNING, true, Some(Unused::NoCarrier)),
            ("ppp0", InterfaceFlags::IFF_BROADCAST, true, Some(Unused::NoBroadcast)),
            ("docker0", none, true, Some(Unused::Own)),
            ("br-1f2e3d4c5b6a", none, true, Some(Unused::Own)),
            ("veth1234567", none, true, Some(Unused::Own)),
        ] {
            let mut interface = Interface::card(name, 1, [192, 0, 2, 10]);
            interface.flags &= all - flags;
            interface.address = interface.address.filter(|_| has_address);
            assert_eq!(interface.left_out(), left_out, "{name}");
            if left_out == Some(Unused::Own) {
                assert_eq!(interface.unable(), None, "{name} can be named");
            }
        }
    }
}
