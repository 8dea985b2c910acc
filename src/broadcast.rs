//! The broadcaster: one UDP socket, opened once, that shouts what was committed.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use crate::outage::Outage;
use crate::status::Status;
use crate::wire;

/// Sends each status to every destination. A send that fails is counted and never fails a request.
pub struct Broadcaster {
    socket: UdpSocket,
    destinations: Vec<Destination>,
}

struct Destination {
    address: SocketAddr,
    outage: Outage,
}

impl Broadcaster {
    /// Opens the socket. `destinations` is the comma-separated list of `ROLLCALL_BROADCAST`.
    pub fn open(destinations: &str) -> Result<Self, Error> {
        let destinations = destinations
            .split(',')
            .map(|text| match text.trim().parse() {
                Ok(address @ SocketAddr::V4(_)) if address.port() != 0 => Ok(Destination::new(address)),
                _ => Err(Error::Destination(text.to_owned())),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(Error::Socket)?;
        socket.set_broadcast(true).map_err(Error::Socket)?;
        // A full send buffer drops this datagram; it must not stall the request behind it.
        socket.set_nonblocking(true).map_err(Error::Socket)?;
        Ok(Self { socket, destinations })
    }

    /// Announces what one commit held.
    pub fn send(&self, committed: &[Status]) {
        let mut datagram = Vec::with_capacity(wire::MAX_PREFIX);
        for status in committed {
            datagram.clear();
            wire::encode(status, &mut datagram);
            self.send_datagram(&datagram);
        }
    }

    fn send_datagram(&self, datagram: &[u8]) {
        for destination in &self.destinations {
            match self.socket.send_to(datagram, destination.address) {
                Ok(_) => destination.outage.worked(),
                Err(error) => destination.outage.failed(&error),
            }
        }
    }
}

impl Destination {
    fn new(address: SocketAddr) -> Self {
        Self { address, outage: Outage::of(format!("broadcast to {address}")) }
    }
}

#[derive(Debug)]
pub enum Error {
    Destination(String),
    Socket(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Destination(text) => write!(
                f,
                "not a broadcast destination: {text:?}; the form is IPV4:PORT, several separated by commas \
                 (255.255.255.255:6667)"
            ),
            Error::Socket(error) => write!(f, "cannot open the broadcast socket: {error}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Destination(_) => None,
            Error::Socket(error) => Some(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Email;
    use std::time::Duration;

    fn status() -> Status {
        Status {
            email: Email::new("a@b").unwrap(),
            last_seen_ns: 1,
            ip: "192.0.2.1".parse().unwrap(),
            port: 2,
        }
    }

    #[test]
    fn every_destination_hears_and_a_dead_one_stops_nobody() {
        let ears = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        let [first, last] = ears.each_ref().map(|ear| ear.local_addr().unwrap());
        let mut broadcaster = Broadcaster::open(&format!("{first}, {last}")).unwrap();
        // An IPv4 socket cannot send to IPv6: the kernel refuses, as it does where there is no route.
        broadcaster.destinations.insert(1, Destination::new("[::1]:9".parse().unwrap()));
        broadcaster.send(&[status(), status()]);
        assert_eq!(broadcaster.destinations[1].outage.failures(), 2);
        for ear in &ears {
            ear.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            for _ in 0..2 {
                let mut buffer = [0; 100];
                let len = ear.recv(&mut buffer).unwrap();
                assert_eq!(wire::decode(&buffer[..len]), Ok((status(), &[][..])));
            }
        }
    }

    #[test]
    fn names_the_bad_destination() {
        for text in ["", "255.255.255.255", "127.0.0.1:0", "host:6667", "[::1]:6667", "127.0.0.1:1,,"] {
            let error = Broadcaster::open(text).err().unwrap().to_string();
            assert!(error.starts_with("not a broadcast destination: \""), "{error}");
        }
    }
}
