//! The broadcaster: one UDP socket, opened once, that shouts what was committed.
//!
//! With a key it numbers and signs what it says, and repeats the newest (docs/wire.md, version 2).

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Instant;

use async_std::channel::{self, Receiver, Sender};
use async_std::future::timeout;
use async_std::task;

use crate::announce::{Announcer, Repetition};
use crate::outage::Outage;
use crate::privacy;
use crate::status::Status;
use crate::wire;

/// Sends each status to every destination. A send that fails is counted and never fails a request.
pub struct Broadcaster {
    socket: UdpSocket,
    destinations: Vec<Destination>,
    /// `None`: version 1, which anybody could have said.
    signed: Option<Signed>,
    /// `None`: emails are announced in clear.
    privacy: Option<privacy::Key>,
}

struct Signed {
    /// One lock for both, so that the order on the wire is the order of the numbers.
    voice: Mutex<(Announcer, Repetition)>,
    /// Wakes the repeater when there is something to repeat earlier than it planned.
    news: Sender<()>,
}

struct Destination {
    address: SocketAddr,
    outage: Outage,
}

impl Broadcaster {
    /// Opens the socket. `destinations` is the comma-separated list of `ROLLCALL_BROADCAST`.
    pub fn open(
        destinations: &str,
        announcer: Option<Announcer>,
        privacy: Option<privacy::Key>,
    ) -> Result<Arc<Self>, Error> {
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
        let (news, heard) = channel::bounded(1);
        let signed =
            announcer.map(|announcer| Signed { voice: Mutex::new((announcer, Repetition::default())), news });
        let broadcaster = Arc::new(Self { socket, destinations, signed, privacy });
        if broadcaster.signed.is_some() {
            task::spawn(repeat(Arc::downgrade(&broadcaster), heard));
        }
        Ok(broadcaster)
    }

    /// Announces what one commit held.
    pub fn send(&self, committed: &[Status]) {
        let hidden = self.privacy.as_ref().map(|key| key.hide(committed));
        let committed = hidden.as_deref().unwrap_or(committed);
        if let Some(signed) = &self.signed {
            let mut voice = signed.lock();
            let (announcer, repetition) = &mut *voice;
            let datagrams = announcer.announce(committed);
            for datagram in &datagrams {
                self.send_datagram(datagram);
            }
            if let Some(newest) = datagrams.into_iter().next_back() {
                let planned = repetition.next();
                repetition.sent(newest, Instant::now());
                // Under load the repeater wakes soon enough by itself. A full channel has woken it already.
                if planned.is_none_or(|planned| Some(planned) > repetition.next()) {
                    let _ = signed.news.try_send(());
                }
            }
            return;
        }
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

impl Signed {
    fn lock(&self) -> MutexGuard<'_, (Announcer, Repetition)> {
        self.voice.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Says the newest datagram again when it is due, for as long as there is a broadcaster.
async fn repeat(broadcaster: Weak<Broadcaster>, news: Receiver<()>) {
    let mut next: Option<Instant> = None;
    loop {
        let news = match next {
            None => news.recv().await,
            Some(next) => {
                timeout(next.saturating_duration_since(Instant::now()), news.recv()).await.unwrap_or(Ok(()))
            }
        };
        let (Ok(()), Some(broadcaster)) = (news, broadcaster.upgrade()) else { return };
        let Some(signed) = &broadcaster.signed else { return };
        let mut voice = signed.lock();
        if let Some(datagram) = voice.1.due(Instant::now()) {
            broadcaster.send_datagram(datagram);
        }
        next = voice.1.next();
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
        let mut broadcaster = Broadcaster::open(&format!("{first}, {last}"), None, None).unwrap();
        // An IPv4 socket cannot send to IPv6: the kernel refuses, as it does where there is no route.
        let destinations = &mut Arc::get_mut(&mut broadcaster).unwrap().destinations;
        destinations.insert(1, Destination::new("[::1]:9".parse().unwrap()));
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
            let error = Broadcaster::open(text, None, None).err().unwrap().to_string();
            assert!(error.starts_with("not a broadcast destination: \""), "{error}");
        }
    }
}
