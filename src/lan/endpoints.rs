//! The sockets that a list of destinations means, opened once each, as the interfaces of the host come and go.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::UdpSocket;
use std::time::Duration;

use super::destination::{self, Absent, Destination, Target};
use super::interfaces::Interface;
use super::sockets;

/// How often to look at the interfaces: a change is followed within twice this. netlink(7) would tell of each change at
/// once, and can lose one.
pub const LOOK: Duration = Duration::from_secs(1);

/// Tells the program's reader of one socket.
pub trait Witness {
    /// The socket of this target is open.
    fn opened(target: &Target) -> Self;
    /// A datagram left.
    fn worked(&self);
    /// A datagram could not be sent.
    fn failed(&self, error: &io::Error);
    /// The target is gone, and this was its socket.
    fn closed(endpoint: &Endpoint<Self>)
    where
        Self: Sized;
    /// Why a destination has no socket now; once, until the reason changes.
    fn complain(complaint: &str);
}

/// Every socket.
pub struct Endpoints<W> {
    endpoints: Vec<Endpoint<W>>,
    /// The counts of those that were closed, by interface.
    closed: BTreeMap<String, Counts>,
    /// Why destinations have no socket now, as the witness was told.
    complaints: Vec<String>,
}

/// One socket.
pub struct Endpoint<W> {
    target: Target,
    socket: UdpSocket,
    witness: W,
    counts: Counts,
}

/// Datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub sent: u64,
    pub failed: u64,
}

impl<W: Witness> Endpoints<W> {
    /// By every socket. One that fails is counted and stops none of the others.
    pub fn send(&mut self, datagram: &[u8]) {
        for endpoint in &mut self.endpoints {
            endpoint.send(datagram);
        }
    }

    /// Closes the sockets of targets that are gone and opens those of new ones. It tries a failed one again next time.
    pub fn follow(&mut self, destinations: &[Destination], interfaces: &[Interface]) {
        let (targets, absent) = destination::targets(destinations, interfaces);
        let mut complaints: Vec<String> = absent.iter().map(Absent::to_string).collect();
        self.endpoints.retain(|endpoint| {
            let stays = targets.contains(&endpoint.target);
            if !stays {
                W::closed(endpoint);
                self.closed.entry(endpoint.interface()).or_default().add(endpoint.counts);
            }
            stays
        });
        for target in targets {
            if self.endpoints.iter().any(|endpoint| endpoint.target == target) {
                continue;
            }
            match sockets::sender(&target) {
                Ok(socket) => self.endpoints.push(Endpoint::new(target, socket)),
                Err(error) => complaints.push(format!("cannot open a socket for {target}: {error}")),
            }
        }
        for complaint in complaints.iter().filter(|complaint| !self.complaints.contains(complaint)) {
            W::complain(complaint);
        }
        self.complaints = complaints;
    }

    pub fn iter(&self) -> impl Iterator<Item = &Endpoint<W>> {
        self.endpoints.iter()
    }

    /// Of all sockets, those that are closed too. The interface has no name where the routing table chooses it.
    pub fn by_interface(&self) -> BTreeMap<String, Counts> {
        let mut counts = self.closed.clone();
        for endpoint in &self.endpoints {
            counts.entry(endpoint.interface()).or_default().add(endpoint.counts);
        }
        counts
    }
}

impl<W> Default for Endpoints<W> {
    fn default() -> Self {
        Self { endpoints: Vec::new(), closed: BTreeMap::new(), complaints: Vec::new() }
    }
}

impl<W: Witness> Endpoint<W> {
    fn new(target: Target, socket: UdpSocket) -> Self {
        let witness = W::opened(&target);
        Self { target, socket, witness, counts: Counts::default() }
    }

    /// Its name, or nothing where the routing table chooses one.
    fn interface(&self) -> String {
        self.target.interface.as_ref().map(|(name, _)| name.clone()).unwrap_or_default()
    }

    fn send(&mut self, datagram: &[u8]) {
        match self.socket.send_to(datagram, self.target.to) {
            Ok(_) => {
                self.counts.sent += 1;
                self.witness.worked();
            }
            Err(error) => {
                self.counts.failed += 1;
                self.witness.failed(&error);
            }
        }
    }
}

impl Counts {
    pub fn add(&mut self, more: Self) {
        self.sent += more.sent;
        self.failed += more.failed;
    }
}

impl<W> fmt::Display for Endpoint<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { target, counts: Counts { sent, failed }, .. } = self;
        write!(f, "{target}: {sent} datagrams sent, {failed} failed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lan::interfaces;
    use std::cell::Cell;

    /// Counts the calls that worked and failed.
    #[derive(Default)]
    struct Calls(Cell<(u64, u64)>);

    impl Witness for Calls {
        fn opened(_: &Target) -> Self {
            Self::default()
        }

        fn worked(&self) {
            let (worked, failed) = self.0.get();
            self.0.set((worked + 1, failed));
        }

        fn failed(&self, _: &io::Error) {
            let (worked, failed) = self.0.get();
            self.0.set((worked, failed + 1));
        }

        fn closed(_: &Endpoint<Self>) {}

        fn complain(_: &str) {}
    }

    #[test]
    fn every_destination_hears_and_a_dead_one_stops_nobody() {
        let receivers = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        let [first, last] = receivers.each_ref().map(|receiver| receiver.local_addr().unwrap());
        // The documentation's network has no route from loopback: the kernel refuses.
        let dead = Target {
            interface: None,
            from: "127.0.0.1".parse().unwrap(),
            to: "192.0.2.1:9".parse().unwrap(),
            ttl: None,
        };
        let mut endpoints = Endpoints::<Calls>::default();
        endpoints.follow(&destination::parse(&format!("{first}, {last}")).unwrap(), &[]);
        let socket = sockets::sender(&dead).unwrap();
        endpoints.endpoints.insert(1, Endpoint::new(dead, socket));
        for said in [b"one", b"two"] {
            endpoints.send(said);
        }
        let counts: Vec<_> = endpoints.iter().map(|endpoint| endpoint.counts).collect();
        let heard = Counts { sent: 2, failed: 0 };
        assert_eq!(counts, [heard, Counts { sent: 0, failed: 2 }, heard]);
        let witnessed: Vec<_> = endpoints.iter().map(|endpoint| endpoint.witness.0.get()).collect();
        assert_eq!(witnessed, [(2, 0), (0, 2), (2, 0)]);
        // What was counted stays counted when its socket is gone.
        let all = BTreeMap::from([(String::new(), Counts { sent: 4, failed: 2 })]);
        assert_eq!(endpoints.by_interface(), all);
        endpoints.follow(&[], &[]);
        assert_eq!((endpoints.iter().count(), endpoints.by_interface()), (0, all));
        for receiver in &receivers {
            receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            for said in [b"one", b"two"] {
                let mut buffer = [0; 100];
                let len = receiver.recv(&mut buffer).unwrap();
                assert_eq!(&buffer[..len], said);
            }
        }
    }

    #[test]
    fn targets_that_are_gone_are_closed() {
        let mut endpoints = Endpoints::<Calls>::default();
        let interfaces = interfaces::list().unwrap();
        let both = destination::parse("lo,127.0.0.1:9,nothing0").unwrap();
        let bound = |endpoints: &Endpoints<Calls>| -> Vec<_> {
            endpoints.iter().map(|endpoint| endpoint.socket.local_addr().unwrap()).collect()
        };
        endpoints.follow(&both, &interfaces);
        let opened = bound(&endpoints);
        assert_eq!((opened.len(), endpoints.complaints.len()), (2, 1));
        endpoints.follow(&both, &interfaces);
        endpoints.follow(&both[1..], &[]);
        assert_eq!(bound(&endpoints), opened[1..], "the same socket");
    }
}
