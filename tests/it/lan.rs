//! The listener on networks as they are: 255.255.255.255:6667, between hosts that are network namespaces. That needs
//! root and ip(8).

mod decoders;
mod forger;
mod lossy;
mod relay;
mod servers;
mod sites;
mod stopped;

use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::process::Command;

use crate::namespace::Namespace;
use crate::program::{Running, wait_until};

pub const PORT: u16 = 6667;

/// A socket of a host that says things to the whole LAN.
pub struct Voice(UdpSocket);

impl Voice {
    pub fn of(host: &Namespace) -> Self {
        let socket = host.inside(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap());
        socket.set_broadcast(true).unwrap();
        Self(socket)
    }

    pub fn say(&self, datagrams: &[Vec<u8>]) {
        for datagram in datagrams {
            self.0.send_to(datagram, (Ipv4Addr::BROADCAST, PORT)).unwrap();
        }
    }
}

/// The real listener on a host, with JSON for us to read.
#[track_caller]
pub fn listen(host: &Namespace, folder: impl AsRef<Path>, arguments: &[&str]) -> Running {
    let mut command = host.command(env!("CARGO_BIN_EXE_rollcall-listen"));
    command.args(["--json", "--timeout", "60s"]).args(arguments);
    hearing(host, folder, command)
}

/// A program that listens, from when it does.
#[track_caller]
pub fn hearing(host: &Namespace, folder: impl AsRef<Path>, command: Command) -> Running {
    Running::bound(folder, command, PORT, || host.proc_net("udp"))
}

/// Waits until the one listener of this host has read so many datagrams in all.
#[track_caller]
pub fn has_read(host: &Namespace, datagrams: u64) {
    wait_until("the listener has read everything", || host.counter("Udp", "InDatagrams") >= datagrams);
}

/// A number of the listener's last words: `count(&said, "unknown key")`.
#[track_caller]
pub fn count(said: &str, name: &str) -> u64 {
    let totals = said.lines().last().unwrap_or_default().trim_start_matches("rollcall-listen: ");
    let mut counts = totals.split([',', '(', ')']).map(str::trim);
    let number = counts.find_map(|count| count.strip_prefix(name)?.strip_prefix(' '));
    number.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no count of {name} in {said:?}"))
}

/// Every gap that it reported, in order: how many announcements, and of which key.
pub fn gaps(said: &str) -> Vec<(u64, &str)> {
    let gap = |line| -> Option<(u64, &str)> {
        let gap = str::strip_prefix(line, "rollcall-listen: ")?.strip_suffix(" never came")?;
        let (number, key) = gap.rsplit_once(" of key ")?;
        Some((number.split(' ').next()?.parse().ok()?, key))
    };
    said.lines().filter_map(gap).collect()
}
