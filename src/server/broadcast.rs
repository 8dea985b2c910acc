//! The broadcaster: sockets that are opened once announce each commit on every network of the host.
//!
//! With a key it numbers and signs its announcements, and repeats the newest (docs/wire.md, version 2).
//! `ROLLCALL_BROADCAST` names the destinations; the broadcaster follows interfaces as they come, go and change their
//! address.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::UdpSocket;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use async_std::channel::{self, Receiver, Sender};
use async_std::future::timeout;
use async_std::task;

use crate::http::outage::Outage;
use crate::lan::destination::{self, Absent, Destination, Target};
use crate::lan::interfaces::{self, Interface};
use crate::lan::sockets;
use crate::prometheus::Page;
use crate::protocol::announcer::{Announcer, Repetition};
use crate::protocol::pseudonym;
use crate::protocol::status::Status;
use crate::protocol::{MAX_PREFIX, encode};

/// How often the interfaces are looked at: the broadcaster follows a change within twice this.
const LOOK: Duration = Duration::from_secs(1);
/// How long after the last commit a server that ends says the newest once more.
const PAUSE: Duration = Duration::from_millis(50);
/// Sends each status to every destination. A send that fails is counted and never fails a request.
pub struct Broadcaster {
    destinations: Vec<Destination>,
    /// `None`: emails are announced in clear.
    privacy: Option<pseudonym::Key>,
    /// One lock, so that the order on the wire is the order of the numbers.
    outbound: Mutex<Outbound>,
    /// Wakes the repeater when there is something to repeat earlier than it planned.
    news: Sender<()>,
}

#[derive(Default)]
struct Outbound {
    endpoints: Vec<Endpoint>,
    /// The counts of those that were closed, by interface.
    closed: BTreeMap<String, Counts>,
    /// Why destinations have no socket now, as the log was told.
    complaints: Vec<String>,
    /// `None`: version 1, which anybody could have said.
    announcer: Option<Announcer>,
    repetition: Repetition,
}

/// One socket.
struct Endpoint {
    target: Target,
    socket: UdpSocket,
    outage: Outage,
    counts: Counts,
}

/// Datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    sent: u64,
    failed: u64,
}

impl Broadcaster {
    /// Opens the sockets, and follows the interfaces as long as it lives.
    pub fn open(
        destinations: Vec<Destination>,
        announcer: Option<Announcer>,
        privacy: Option<pseudonym::Key>,
    ) -> Result<Arc<Self>, Error> {
        let mut outbound = Outbound { announcer, ..Outbound::default() };
        outbound.follow(&destinations, &interfaces::list().map_err(Error)?);
        let is_signed = outbound.announcer.is_some();
        let (news, heard) = channel::bounded(1);
        let broadcaster = Arc::new(Self { destinations, privacy, outbound: Mutex::new(outbound), news });
        if is_signed {
            task::spawn(repeat(Arc::downgrade(&broadcaster), heard));
        }
        task::spawn(follow(Arc::downgrade(&broadcaster)));
        Ok(broadcaster)
    }

    /// Signs the announcement of a commit that is under way, so that the wait for the database is used. Nothing is sent.
    pub fn prepare(&self, expected: Vec<Status>) {
        if let Some(announcer) = &mut self.lock().announcer {
            let hidden = self.privacy.as_ref().map(|key| key.hide(&expected));
            announcer.prepare(hidden.unwrap_or(expected));
        }
    }

    /// Announces one commit.
    pub fn send(&self, committed: &[Status]) {
        let hidden = self.privacy.as_ref().map(|key| key.hide(committed));
        let committed = hidden.as_deref().unwrap_or(committed);
        let mut outbound = self.lock();
        let Outbound { endpoints, announcer, repetition, .. } = &mut *outbound;
        let Some(announcer) = announcer else {
            let mut datagram = Vec::with_capacity(MAX_PREFIX);
            for status in committed {
                datagram.clear();
                encode(status, &mut datagram);
                send_to_all(endpoints, &datagram);
            }
            return;
        };
        let datagrams = announcer.announce(committed);
        for datagram in &datagrams {
            send_to_all(endpoints, datagram);
        }
        if let Some(newest) = datagrams.into_iter().next_back() {
            let planned = repetition.next();
            repetition.sent(newest, Instant::now());
            // Under load the repeater wakes soon enough by itself. A full channel has woken it already.
            if planned.is_none_or(|planned| Some(planned) > repetition.next()) {
                let _ = self.news.try_send(());
            }
        }
    }

    /// Sends the newest once more, for a listener that lost the end of a burst and will hear no repetition. Logs how many
    /// datagrams each socket sent, and how many it could not send.
    pub async fn end(&self) {
        // A receive buffer that was full a moment ago has room again.
        task::sleep(PAUSE).await;
        let mut outbound = self.lock();
        let Outbound { endpoints, repetition, .. } = &mut *outbound;
        if let Some(newest) = repetition.newest() {
            send_to_all(endpoints, newest);
        }
        for endpoint in endpoints {
            log::info!("announced to {endpoint}");
        }
    }

    /// For Prometheus: the datagrams by interface, and the newest number.
    pub fn tell(&self, page: &mut Page) {
        let outbound = self.lock();
        let mut counts = outbound.closed.clone();
        for endpoint in &outbound.endpoints {
            counts.entry(endpoint.interface()).or_default().add(endpoint.counts);
        }
        let help = "Datagrams by interface, which is empty where the routing table chooses it.";
        let mut family = page.counter("rollcall_announcements_total", help);
        for (interface, Counts { sent, failed }) in &counts {
            family.with(&[("interface", interface), ("result", "sent")], sent);
            family.with(&[("interface", interface), ("result", "failed")], failed);
        }
        if let Some(announcer) = &outbound.announcer {
            let help = "The number of the newest announcement since the start.";
            page.gauge("rollcall_sequence", help).is(announcer.sequence());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Outbound> {
        self.outbound.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// By every socket.
fn send_to_all(endpoints: &mut [Endpoint], datagram: &[u8]) {
    for endpoint in endpoints {
        endpoint.send(datagram);
    }
}

impl Outbound {
    /// Closes the sockets of targets that are gone and opens those of new ones. It tries a failed one again next time.
    fn follow(&mut self, destinations: &[Destination], interfaces: &[Interface]) {
        let (targets, absent) = destination::targets(destinations, interfaces);
        let mut complaints: Vec<String> = absent.iter().map(Absent::to_string).collect();
        self.endpoints.retain(|endpoint| {
            let stays = targets.contains(&endpoint.target);
            if !stays {
                log::info!("no longer announcing to {endpoint}");
                self.closed.entry(endpoint.interface()).or_default().add(endpoint.counts);
            }
            stays
        });
        for target in targets {
            if self.endpoints.iter().any(|endpoint| endpoint.target == target) {
                continue;
            }
            match sockets::sender(&target) {
                Ok(socket) => {
                    log::info!("announcing to {target}");
                    self.endpoints.push(Endpoint::new(target, socket));
                }
                Err(error) => complaints.push(format!("cannot open a socket for {target}: {error}")),
            }
        }
        for complaint in complaints.iter().filter(|complaint| !self.complaints.contains(complaint)) {
            log::warn!("{complaint}");
        }
        self.complaints = complaints;
    }
}

impl Endpoint {
    fn new(target: Target, socket: UdpSocket) -> Self {
        let outage = Outage::of(format!("broadcast to {target}"));
        Self { target, socket, outage, counts: Counts::default() }
    }

    /// Its name, or nothing where the routing table chooses one.
    fn interface(&self) -> String {
        self.target.interface.as_ref().map(|(name, _)| name.clone()).unwrap_or_default()
    }

    fn send(&mut self, datagram: &[u8]) {
        match self.socket.send_to(datagram, self.target.to) {
            Ok(_) => {
                self.counts.sent += 1;
                self.outage.worked();
            }
            Err(error) => {
                self.counts.failed += 1;
                self.outage.failed(&error);
            }
        }
    }
}

impl Counts {
    fn add(&mut self, more: Self) {
        self.sent += more.sent;
        self.failed += more.failed;
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
        let mut outbound = broadcaster.lock();
        let Outbound { endpoints, repetition, .. } = &mut *outbound;
        if let Some(datagram) = repetition.due(Instant::now()) {
            send_to_all(endpoints, datagram);
        }
        next = repetition.next();
    }
}

/// Looks at the interfaces every second. netlink(7) would tell of each change at once, and can lose one.
async fn follow(broadcaster: Weak<Broadcaster>) {
    let trouble = Outage::of("following the network's interfaces");
    loop {
        task::sleep(LOOK).await;
        let Some(broadcaster) = broadcaster.upgrade() else { return };
        match interfaces::list() {
            Ok(interfaces) => {
                trouble.worked();
                broadcaster.lock().follow(&broadcaster.destinations, &interfaces);
            }
            Err(error) => trouble.failed(&error),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { target, counts: Counts { sent, failed }, .. } = self;
        write!(f, "{target}: {sent} datagrams sent, {failed} failed")
    }
}

#[derive(Debug, thiserror::Error)]
#[error("cannot list the network's interfaces: {0}")]
pub struct Error(io::Error);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{self, status::Email};

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
        let receivers = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        let [first, last] = receivers.each_ref().map(|receiver| receiver.local_addr().unwrap());
        // The documentation's network has no route from loopback: the kernel refuses.
        let dead = Target {
            interface: None,
            from: "127.0.0.1".parse().unwrap(),
            to: "192.0.2.1:9".parse().unwrap(),
            ttl: None,
        };
        let destinations = destination::parse(&format!("{first}, {last}")).unwrap();
        let broadcaster = Broadcaster::open(destinations, None, None).unwrap();
        let socket = sockets::sender(&dead).unwrap();
        broadcaster.lock().endpoints.insert(1, Endpoint::new(dead, socket));
        broadcaster.send(&[status(), status()]);
        let counts: Vec<_> = broadcaster.lock().endpoints.iter().map(|endpoint| endpoint.counts).collect();
        let heard = Counts { sent: 2, failed: 0 };
        assert_eq!(counts, [heard, Counts { sent: 0, failed: 2 }, heard]);
        // What was counted stays counted when its socket is gone.
        let told = || {
            let mut page = Page::default();
            broadcaster.tell(&mut page);
            page.text()
        };
        let before = told();
        assert!(before.contains("{interface=\"\",result=\"sent\"} 4\n"), "{before}");
        assert!(before.contains("{interface=\"\",result=\"failed\"} 2\n"), "{before}");
        broadcaster.lock().follow(&[], &[]);
        assert_eq!(told(), before);
        for receiver in &receivers {
            receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            for _ in 0..2 {
                let mut buffer = [0; 100];
                let len = receiver.recv(&mut buffer).unwrap();
                assert_eq!(protocol::decode(&buffer[..len]), Ok((status(), &[][..])));
            }
        }
    }

    #[test]
    fn a_server_that_ends_says_the_newest_once_more() {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut outbound = Outbound::default();
        let destinations = destination::parse(&receiver.local_addr().unwrap().to_string()).unwrap();
        outbound.follow(&destinations, &[]);
        outbound.repetition.sent(b"the newest".to_vec(), Instant::now());
        // Without the repeater, so that nobody else says anything.
        let broadcaster = Broadcaster {
            destinations,
            privacy: None,
            outbound: Mutex::new(outbound),
            news: channel::bounded(1).0,
        };
        task::block_on(broadcaster.end());
        let mut buffer = [0; 100];
        assert_eq!(receiver.recv(&mut buffer).map(|len| &buffer[..len]).unwrap(), b"the newest");
        assert_eq!(broadcaster.lock().endpoints[0].counts.sent, 1);
    }

    #[test]
    fn targets_that_are_gone_are_closed() {
        let mut outbound = Outbound::default();
        let interfaces = interfaces::list().unwrap();
        let both = destination::parse("lo,127.0.0.1:9,nothing0").unwrap();
        outbound.follow(&both, &interfaces);
        let opened: Vec<_> =
            outbound.endpoints.iter().map(|endpoint| endpoint.socket.local_addr().unwrap()).collect();
        assert_eq!((opened.len(), outbound.complaints.len()), (2, 1));
        outbound.follow(&both, &interfaces);
        outbound.follow(&both[1..], &[]);
        let left: Vec<_> =
            outbound.endpoints.iter().map(|endpoint| endpoint.socket.local_addr().unwrap()).collect();
        assert_eq!(left, opened[1..], "the same socket");
    }
}
