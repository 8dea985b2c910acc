//! The broadcaster: sockets opened once, that shout what was committed on every network of the host.
//!
//! With a key it numbers and signs what it says, and repeats the newest (docs/wire.md, version 2). Where it
//! says it is `ROLLCALL_BROADCAST`: [`destination`] reads that, and interfaces are followed as they come,
//! go and change their address.

use std::fmt;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use async_std::channel::{self, Receiver, Sender};
use async_std::future::timeout;
use async_std::task;
use socket2::{Domain, Protocol, Socket, Type};

use crate::announce::{Announcer, Repetition};
use crate::interfaces::{self, Interface};
use crate::outage::Outage;
use crate::privacy;
use crate::status::Status;
use crate::wire;

pub mod destination;

use destination::{Absent, Destination, Target};

/// How often the interfaces are looked at: what changes is followed within twice this.
const LOOK: Duration = Duration::from_secs(1);
/// How long after the last commit a server that ends says the newest once more.
const PAUSE: Duration = Duration::from_millis(50);
/// The send buffer that is asked for, for an interface that takes its time with a full batch. The kernel takes
/// twice as much (socket(7)) and counts 1,280 bytes for a signed datagram, so this holds three such batches, if
/// `net.core.wmem_max` allows it.
pub const SEND_BUFFER: usize = 1 << 20;

/// Sends each status to every destination. A send that fails is counted and never fails a request.
pub struct Broadcaster {
    destinations: Vec<Destination>,
    /// `None`: emails are announced in clear.
    privacy: Option<privacy::Key>,
    /// One lock, so that the order on the wire is the order of the numbers.
    voice: Mutex<Voice>,
    /// Wakes the repeater when there is something to repeat earlier than it planned.
    news: Sender<()>,
}

#[derive(Default)]
struct Voice {
    outlets: Vec<Outlet>,
    /// Why destinations have no socket now, as the log was told.
    complaints: Vec<String>,
    /// `None`: version 1, which anybody could have said.
    announcer: Option<Announcer>,
    repetition: Repetition,
}

/// One socket, and what became of what was sent by it.
struct Outlet {
    target: Target,
    socket: UdpSocket,
    outage: Outage,
    sent: u64,
    failed: u64,
}

impl Broadcaster {
    /// Opens the sockets, and follows the interfaces as long as it lives.
    pub fn open(
        destinations: Vec<Destination>,
        announcer: Option<Announcer>,
        privacy: Option<privacy::Key>,
    ) -> Result<Arc<Self>, Error> {
        let mut voice = Voice { announcer, ..Voice::default() };
        voice.follow(&destinations, &interfaces::list().map_err(Error)?);
        let is_signed = voice.announcer.is_some();
        let (news, heard) = channel::bounded(1);
        let broadcaster = Arc::new(Self { destinations, privacy, voice: Mutex::new(voice), news });
        if is_signed {
            task::spawn(repeat(Arc::downgrade(&broadcaster), heard));
        }
        task::spawn(follow(Arc::downgrade(&broadcaster)));
        Ok(broadcaster)
    }

    /// Announces what one commit held.
    pub fn send(&self, committed: &[Status]) {
        let hidden = self.privacy.as_ref().map(|key| key.hide(committed));
        let committed = hidden.as_deref().unwrap_or(committed);
        let mut voice = self.lock();
        let Voice { outlets, announcer, repetition, .. } = &mut *voice;
        let Some(announcer) = announcer else {
            let mut datagram = Vec::with_capacity(wire::MAX_PREFIX);
            for status in committed {
                datagram.clear();
                wire::encode(status, &mut datagram);
                say(outlets, &datagram);
            }
            return;
        };
        let datagrams = announcer.announce(committed);
        for datagram in &datagrams {
            say(outlets, datagram);
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

    /// The last words: the newest once more, for who lost the end of a burst and will hear no repetition. And in
    /// the log how much was sent by which socket, and how much could not be.
    pub async fn end(&self) {
        // A receive buffer that was full a moment ago has room again.
        task::sleep(PAUSE).await;
        let mut voice = self.lock();
        let Voice { outlets, repetition, .. } = &mut *voice;
        if let Some(newest) = repetition.newest() {
            say(outlets, newest);
        }
        for outlet in outlets {
            log::info!("announced to {outlet}");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Voice> {
        self.voice.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// By every socket.
fn say(outlets: &mut [Outlet], datagram: &[u8]) {
    for outlet in outlets {
        outlet.send(datagram);
    }
}

impl Voice {
    /// Closes what is no longer meant and opens what is. What cannot be opened is tried again next time.
    fn follow(&mut self, destinations: &[Destination], interfaces: &[Interface]) {
        let (targets, absent) = destination::targets(destinations, interfaces);
        let mut complaints: Vec<String> = absent.iter().map(Absent::to_string).collect();
        self.outlets.retain(|outlet| {
            let stays = targets.contains(&outlet.target);
            if !stays {
                log::info!("no longer announcing to {outlet}");
            }
            stays
        });
        for target in targets {
            if self.outlets.iter().any(|outlet| outlet.target == target) {
                continue;
            }
            match target.open() {
                Ok(socket) => {
                    log::info!("announcing to {target}");
                    self.outlets.push(Outlet::new(target, socket));
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

impl Outlet {
    fn new(target: Target, socket: UdpSocket) -> Self {
        let outage = Outage::of(format!("broadcast to {target}"));
        Self { target, socket, outage, sent: 0, failed: 0 }
    }

    fn send(&mut self, datagram: &[u8]) {
        match self.socket.send_to(datagram, self.target.to) {
            Ok(_) => {
                self.sent += 1;
                self.outage.worked();
            }
            Err(error) => {
                self.failed += 1;
                self.outage.failed(&error);
            }
        }
    }
}

impl Target {
    /// The socket that sends to this target and to nobody else.
    pub fn open(&self) -> io::Result<UdpSocket> {
        let socket = Socket::new(Domain::for_address(self.to), Type::DGRAM, Some(Protocol::UDP))?;
        // A full send buffer drops this datagram; it must not stall the request behind it.
        socket.set_nonblocking(true)?;
        socket.set_send_buffer_size(SEND_BUFFER)?;
        let index = self.interface.as_ref().map_or(0, |(_, index)| *index);
        match self.to {
            SocketAddr::V4(_) => {
                socket.set_broadcast(true)?;
                socket.set_multicast_ttl_v4(self.ttl.unwrap_or(1).into())?;
            }
            SocketAddr::V6(_) => {
                socket.set_multicast_hops_v6(self.ttl.unwrap_or(1).into())?;
                socket.set_multicast_if_v6(index)?;
            }
        }
        socket.bind(&SocketAddr::new(self.from, 0).into())?;
        // Two interfaces with one address: by the address alone both sockets would send by the same one. A
        // kernel older than 5.7 refuses this to an ordinary user, and then the address has to do.
        if let Some((name, _)) = &self.interface {
            let _ = socket.bind_device(Some(name.as_bytes()));
        }
        Ok(socket.into())
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
        let mut voice = broadcaster.lock();
        let Voice { outlets, repetition, .. } = &mut *voice;
        if let Some(datagram) = repetition.due(Instant::now()) {
            say(outlets, datagram);
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

impl fmt::Display for Outlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { target, sent, failed, .. } = self;
        write!(f, "{target}: {sent} datagrams sent, {failed} failed")
    }
}

/// The interfaces cannot be listed.
#[derive(Debug)]
pub struct Error(io::Error);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot list the network's interfaces: {}", self.0)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Email;

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
        // The documentation's network has no route from loopback: the kernel refuses.
        let dead = Target {
            interface: None,
            from: "127.0.0.1".parse().unwrap(),
            to: "192.0.2.1:9".parse().unwrap(),
            ttl: None,
        };
        let destinations = destination::parse(&format!("{first}, {last}")).unwrap();
        let broadcaster = Broadcaster::open(destinations, None, None).unwrap();
        let socket = dead.open().unwrap();
        broadcaster.lock().outlets.insert(1, Outlet::new(dead, socket));
        broadcaster.send(&[status(), status()]);
        let counts: Vec<_> =
            broadcaster.lock().outlets.iter().map(|outlet| (outlet.sent, outlet.failed)).collect();
        assert_eq!(counts, [(2, 0), (0, 2), (2, 0)]);
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
    fn a_server_that_ends_says_the_newest_once_more() {
        let ear = UdpSocket::bind("127.0.0.1:0").unwrap();
        ear.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut voice = Voice::default();
        let destinations = destination::parse(&ear.local_addr().unwrap().to_string()).unwrap();
        voice.follow(&destinations, &[]);
        voice.repetition.sent(b"the newest".to_vec(), Instant::now());
        // Without the repeater, so that nobody else says anything.
        let broadcaster = Broadcaster {
            destinations,
            privacy: None,
            voice: Mutex::new(voice),
            news: channel::bounded(1).0,
        };
        task::block_on(broadcaster.end());
        let mut buffer = [0; 100];
        assert_eq!(ear.recv(&mut buffer).map(|len| &buffer[..len]).unwrap(), b"the newest");
        assert_eq!(broadcaster.lock().outlets[0].sent, 1);
    }

    #[test]
    fn how_far_multicast_goes_is_as_it_is_written() {
        let interfaces = interfaces::list().unwrap();
        for (text, hops) in
            [("239.255.66.67%lo", 1), ("239.255.66.67/4", 4), ("ff05::1%lo", 1), ("ff05::1%lo/9", 9)]
        {
            let (targets, _) = destination::targets(&destination::parse(text).unwrap(), &interfaces);
            let socket = targets[0].open().unwrap();
            let socket = socket2::SockRef::from(&socket);
            let set =
                if text.starts_with("ff") { socket.multicast_hops_v6() } else { socket.multicast_ttl_v4() };
            assert_eq!(set.unwrap(), hops, "{text}");
        }
    }

    #[test]
    fn what_is_no_longer_meant_is_closed() {
        let mut voice = Voice::default();
        let interfaces = interfaces::list().unwrap();
        let both = destination::parse("lo,127.0.0.1:9,nothing0").unwrap();
        voice.follow(&both, &interfaces);
        let opened: Vec<_> = voice.outlets.iter().map(|outlet| outlet.socket.local_addr().unwrap()).collect();
        assert_eq!((opened.len(), voice.complaints.len()), (2, 1));
        voice.follow(&both, &interfaces);
        voice.follow(&both[1..], &[]);
        let left: Vec<_> = voice.outlets.iter().map(|outlet| outlet.socket.local_addr().unwrap()).collect();
        assert_eq!(left, opened[1..], "the same socket");
    }
}
