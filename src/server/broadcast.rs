//! The broadcaster: sockets that are opened once announce each commit on every network of the host.
//!
//! With a key it numbers and signs its announcements, and repeats the newest (docs/wire.md, version 2).
//! `ROLLCALL_BROADCAST` names the destinations; the broadcaster follows interfaces as they come, go and change their
//! address.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use async_std::channel::{self, Receiver, Sender};
use async_std::future::timeout;
use async_std::task;

use crate::http::outage::Outage;
use crate::lan::destination::{Destination, Target};
use crate::lan::endpoints::{Counts, Endpoint, Endpoints, LOOK, Witness};
use crate::lan::interfaces;
use crate::prometheus::Page;
use crate::protocol::announcer::{Announcer, Repetition};
use crate::protocol::pseudonym;
use crate::protocol::status::Status;
use crate::protocol::{MAX_PREFIX, encode};

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
    endpoints: Endpoints<Outage>,
    /// `None`: version 1, which anybody could have said.
    announcer: Option<Announcer>,
    repetition: Repetition,
}

impl Broadcaster {
    /// Opens the sockets, and follows the interfaces as long as it lives.
    pub fn open(
        destinations: Vec<Destination>,
        announcer: Option<Announcer>,
        privacy: Option<pseudonym::Key>,
    ) -> Result<Arc<Self>, Error> {
        let mut outbound = Outbound { announcer, ..Outbound::default() };
        outbound.endpoints.follow(&destinations, &interfaces::list().map_err(Error)?);
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
                endpoints.send(&datagram);
            }
            return;
        };
        let datagrams = announcer.announce(committed);
        for datagram in &datagrams {
            endpoints.send(datagram);
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
            endpoints.send(newest);
        }
        for endpoint in endpoints.iter() {
            log::info!("announced to {endpoint}");
        }
    }

    /// For Prometheus: the datagrams by interface, and the newest number.
    pub fn tell(&self, page: &mut Page) {
        let outbound = self.lock();
        let help = "Datagrams by interface, which is empty where the routing table chooses it.";
        let mut family = page.counter("rollcall_announcements_total", help);
        for (interface, Counts { sent, failed }) in &outbound.endpoints.by_interface() {
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

impl Witness for Outage {
    fn opened(target: &Target) -> Self {
        log::info!("announcing to {target}");
        Outage::of(format!("broadcast to {target}"))
    }

    fn worked(&self) {
        Outage::worked(self);
    }

    fn failed(&self, error: &io::Error) {
        Outage::failed(self, error);
    }

    fn closed(endpoint: &Endpoint<Self>) {
        log::info!("no longer announcing to {endpoint}");
    }

    fn complain(complaint: &str) {
        log::warn!("{complaint}");
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
            endpoints.send(datagram);
        }
        next = repetition.next();
    }
}

/// Looks at the interfaces every second.
async fn follow(broadcaster: Weak<Broadcaster>) {
    let trouble = Outage::of("following the network's interfaces");
    loop {
        task::sleep(LOOK).await;
        let Some(broadcaster) = broadcaster.upgrade() else { return };
        match interfaces::list() {
            Ok(interfaces) => {
                trouble.worked();
                broadcaster.lock().endpoints.follow(&broadcaster.destinations, &interfaces);
            }
            Err(error) => trouble.failed(&error),
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("cannot list the network's interfaces: {0}")]
pub struct Error(io::Error);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lan::destination;
    use crate::protocol::{self, status::Email};
    use std::net::UdpSocket;

    fn listening() -> (UdpSocket, Vec<Destination>) {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let address = receiver.local_addr().unwrap().to_string();
        (receiver, destination::parse(&address).unwrap())
    }

    #[test]
    fn each_status_is_sent_and_counted() {
        let (receiver, destinations) = listening();
        let status = Status {
            email: Email::new("a@b").unwrap(),
            last_seen_ns: 1,
            ip: "192.0.2.1".parse().unwrap(),
            port: 2,
        };
        let broadcaster = Broadcaster::open(destinations, None, None).unwrap();
        broadcaster.send(&[status.clone(), status.clone()]);
        let mut page = Page::default();
        broadcaster.tell(&mut page);
        let told = page.text();
        assert!(told.contains("{interface=\"\",result=\"sent\"} 2\n"), "{told}");
        assert!(told.contains("{interface=\"\",result=\"failed\"} 0\n"), "{told}");
        for _ in 0..2 {
            let mut buffer = [0; 100];
            let len = receiver.recv(&mut buffer).unwrap();
            assert_eq!(protocol::decode(&buffer[..len]), Ok((status.clone(), &[][..])));
        }
    }

    #[test]
    fn a_server_that_ends_says_the_newest_once_more() {
        let (receiver, destinations) = listening();
        let mut outbound = Outbound::default();
        outbound.endpoints.follow(&destinations, &[]);
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
        let counts = broadcaster.lock().endpoints.by_interface();
        assert_eq!(counts[""], Counts { sent: 1, failed: 0 });
    }
}
