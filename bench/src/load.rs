//! The load generator: many people with a certificate each, on one thread.
//!
//! Closed loop: every connection sends its next request when its last one was answered, so the rate is
//! what the system can do. Open loop: requests are due at times that do not depend on the system, and a
//! latency counts from when the request was due, so a stall shows in every request that it delayed.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use crate::certificates::Identity;

const REQUEST: &[u8] = b"PATCH /api/client HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n";
const LAST_REQUEST: &[u8] =
    b"PATCH /api/client HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
/// Handshakes under way at once while the connections are being opened.
const OPENING: usize = 64;
/// After the last request is due, this long for what is still unanswered.
const PATIENCE: Duration = Duration::from_secs(2);
/// A datagram that is not heard this long after the answer never comes.
const DEAF_AFTER: Duration = Duration::from_secs(1);
/// A run with more errors than this measures nothing, and ends.
const MAX_ERRORS: u64 = 1000;

const TIMER: Token = Token(usize::MAX - 1);
const EAR: Token = Token(usize::MAX - 2);

#[derive(Clone, Copy)]
pub enum Pace {
    /// As fast as the answers come.
    Closed,
    /// So many requests a second, at exponentially distributed distances: independent devices.
    Open(f64),
    /// One request on each connection and no more.
    Once,
}

#[derive(Clone, Copy)]
pub struct Run {
    pub pace: Pace,
    /// Load that is not counted yet: connections, prepared statements and caches settle.
    pub warm: Duration,
    pub measure: Duration,
    /// A new connection with a whole handshake for each request.
    pub handshake_each: bool,
}

/// What a run found. Whatever was not answered 204 is in `errors`, by what came instead.
pub struct Outcome {
    pub answered: u64,
    /// With those of the warm-up: what the costs of the whole run are divided by.
    pub answered_in_all: u64,
    pub seconds: f64,
    /// Nanoseconds from due to answered.
    pub latency: Histogram<u64>,
    /// Nanoseconds from due to heard, where somebody listens.
    pub heard: Histogram<u64>,
    /// Answered, but no datagram came.
    pub unheard: u64,
    /// Due but not answered in the end; in `latency` with the time they had waited by then.
    pub unfinished: u64,
    pub errors: BTreeMap<String, u64>,
}

impl Outcome {
    fn new() -> Self {
        let histogram = || Histogram::new_with_bounds(1_000, 120_000_000_000, 3).expect("valid bounds");
        Self {
            answered: 0,
            answered_in_all: 0,
            seconds: 0.0,
            latency: histogram(),
            heard: histogram(),
            unheard: 0,
            unfinished: 0,
            errors: BTreeMap::new(),
        }
    }

    pub fn rate(&self) -> f64 {
        self.answered as f64 / self.seconds
    }

    pub fn error_count(&self) -> u64 {
        self.errors.values().sum()
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    Closed,
    Handshake,
    Idle,
    /// Waiting for the answer, or for its datagram.
    Busy,
    /// Answered; the server closes.
    Ending,
}

struct Connection {
    stream: Option<(TcpStream, ClientConnection)>,
    phase: Phase,
    /// The request that is being answered: when it was due.
    due: Option<Instant>,
    answered: Option<Instant>,
    heard: bool,
    /// `last_seen_ns` of the newest datagram: a repeated one announces nothing new.
    last_heard_ns: u64,
    received: Vec<u8>,
}

pub struct Load<'a> {
    address: SocketAddr,
    identities: &'a [Identity],
    connections: Vec<Connection>,
    poll: Poll,
    timer: OwnedFd,
    ear: Option<Ear>,
    idle: VecDeque<usize>,
}

/// Hears what is broadcast, as rollcall-listen does.
struct Ear {
    socket: UdpSocket,
    by_email: HashMap<String, usize>,
}

impl<'a> Load<'a> {
    /// Opens a connection for each identity, `connections` in all.
    pub fn connect(address: SocketAddr, identities: &'a [Identity], connections: usize) -> io::Result<Self> {
        let mut load = Self::new(address, identities, connections, None)?;
        load.open_all()?;
        Ok(load)
    }

    /// The same without opening anything, for runs with a handshake for each request.
    pub fn new(
        address: SocketAddr,
        identities: &'a [Identity],
        connections: usize,
        ear: Option<UdpSocket>,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        poll.registry().register(&mut SourceFd(&timer.as_raw_fd()), TIMER, Interest::READABLE)?;
        let ear = match ear {
            Some(socket) => {
                socket.set_nonblocking(true)?;
                poll.registry().register(&mut SourceFd(&socket.as_raw_fd()), EAR, Interest::READABLE)?;
                let by_email = identities.iter().take(connections).enumerate();
                Some(Ear { socket, by_email: by_email.map(|(n, who)| (who.email.clone(), n)).collect() })
            }
            None => None,
        };
        let connections = (0..connections)
            .map(|_| Connection {
                stream: None,
                phase: Phase::Closed,
                due: None,
                answered: None,
                heard: false,
                last_heard_ns: 0,
                received: Vec::new(),
            })
            .collect();
        Ok(Self { address, identities, connections, poll, timer, ear, idle: VecDeque::new() })
    }

    fn open_all(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        let deadline = Instant::now() + Duration::from_secs(30);
        let (mut next, mut open) = (0, 0);
        while open < self.connections.len() {
            while next < self.connections.len() && next - open < OPENING {
                self.open(next)?;
                next += 1;
            }
            self.poll.poll(&mut events, Some(Duration::from_secs(1)))?;
            for event in &events {
                if event.token().0 < self.connections.len() {
                    self.advance(event.token().0).map_err(io::Error::other)?;
                }
            }
            open =
                self.connections[..next].iter().filter(|connection| connection.phase == Phase::Idle).count();
            if Instant::now() > deadline {
                return Err(io::Error::other(format!("only {open} connections after 30 s")));
            }
        }
        self.idle = (0..self.connections.len()).collect();
        Ok(())
    }

    fn open(&mut self, n: usize) -> io::Result<()> {
        let who = &self.identities[n % self.identities.len()];
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("localhost").expect("a valid name");
        let tls = ClientConnection::new(who.tls.clone(), name).map_err(io::Error::other)?;
        self.poll.registry().register(&mut stream, Token(n), Interest::READABLE | Interest::WRITABLE)?;
        let connection = &mut self.connections[n];
        connection.stream = Some((stream, tls));
        connection.phase = Phase::Handshake;
        connection.received.clear();
        Ok(())
    }

    /// Moves bytes both ways as far as they go. `Err` says what came instead of what should have.
    fn advance(&mut self, n: usize) -> Result<(), String> {
        let connection = &mut self.connections[n];
        let Some((stream, tls)) = &mut connection.stream else { return Ok(()) };
        let mut ended = false;
        loop {
            match tls.read_tls(stream) {
                Ok(0) => {
                    ended = true;
                    break;
                }
                Ok(read) => {
                    tls.process_new_packets().map_err(|error| format!("TLS: {error}"))?;
                    // An answer is small. When this much came, the socket is empty and will tell when it is not.
                    if read < 1024 && connection.phase == Phase::Busy {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::NotConnected => return Ok(()),
                Err(error) => return Err(format!("reading: {}", error.kind())),
            }
        }
        while tls.wants_write() {
            match tls.write_tls(stream) {
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                    break;
                }
                Err(error) => return Err(format!("writing: {}", error.kind())),
            }
        }
        if connection.phase == Phase::Handshake && !tls.is_handshaking() {
            connection.phase = Phase::Idle;
        }
        if connection.phase == Phase::Busy {
            let mut chunk = [0; 1024];
            while let Ok(read @ 1..) = tls.reader().read(&mut chunk) {
                connection.received.extend_from_slice(&chunk[..read]);
            }
        }
        if ended && !(connection.phase == Phase::Ending || complete(&connection.received)) {
            return Err("closed before the answer".to_owned());
        }
        if ended && connection.phase == Phase::Ending {
            connection.stream = None;
            connection.phase = Phase::Closed;
        }
        Ok(())
    }

    fn send(&mut self, n: usize, due: Instant, last: bool) -> Result<(), String> {
        let connection = &mut self.connections[n];
        connection.phase = Phase::Busy;
        connection.due = Some(due);
        connection.answered = None;
        connection.heard = false;
        connection.received.clear();
        let Some((stream, tls)) = &mut connection.stream else { return Err("not connected".to_owned()) };
        let request = if last { LAST_REQUEST } else { REQUEST };
        tls.writer().write_all(request).map_err(|error| format!("writing: {}", error.kind()))?;
        while tls.wants_write() {
            match tls.write_tls(stream) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(format!("writing: {}", error.kind())),
            }
        }
        Ok(())
    }

    /// Runs the load and counts what is answered (closed loop) or due (open loop) after the warm-up.
    pub fn run(&mut self, run: Run) -> io::Result<Outcome> {
        if !run.handshake_each && self.idle.is_empty() {
            self.open_all()?;
        }
        let mut outcome = Outcome::new();
        let mut events = Events::with_capacity(1024);
        let start = Instant::now();
        let from = start + run.warm;
        let until = from + run.measure;
        // The same arrivals for every system.
        let mut random = fastrand::Rng::with_seed(4);
        let mut next_due = match run.pace {
            Pace::Open(_) => Some(start),
            _ => None,
        };
        let mut waiting: VecDeque<Instant> = VecDeque::new();
        let mut starting = match run.pace {
            Pace::Closed | Pace::Once => self.connections.len(),
            Pace::Open(_) => 0,
        };
        let mut once_left = self.connections.len();
        let mut last_look = start;
        let mut armed = None;
        loop {
            let now = Instant::now();
            // What is due.
            while let (Some(due), Pace::Open(rate)) = (next_due, run.pace) {
                if due > now {
                    break;
                }
                waiting.push_back(due);
                let gap = -(1.0 - random.f64()).ln() / rate;
                next_due = Some(due + Duration::from_secs_f64(gap)).filter(|due| *due < until);
            }
            if run.handshake_each {
                // Every slot is a person who connects, sends and leaves.
                if now < until && !matches!(run.pace, Pace::Open(_)) {
                    for n in 0..self.connections.len() {
                        if self.connections[n].phase == Phase::Closed {
                            self.connections[n].due = Some(now);
                            self.open(n)?;
                        }
                    }
                }
            } else {
                let at_once = if matches!(run.pace, Pace::Once) { OPENING } else { usize::MAX };
                let under_way = self.connections.len() - self.idle.len() + waiting.len();
                for _ in 0..starting.min(at_once.saturating_sub(under_way)) {
                    waiting.push_back(now);
                    starting -= 1;
                }
                while let Some(due) = waiting.front().copied() {
                    let Some(n) = self.idle.pop_front() else { break };
                    waiting.pop_front();
                    if let Err(what) = self.send(n, due, false) {
                        self.fail(n, what, &mut outcome)?;
                    }
                }
            }
            let finished = match run.pace {
                Pace::Once => once_left == 0 || now >= until + PATIENCE,
                _ => {
                    now >= until
                        && (now >= until + PATIENCE
                            || waiting.is_empty() && self.connections.iter().all(|c| c.phase != Phase::Busy))
                }
            };
            if finished {
                break;
            }
            if outcome.error_count() > MAX_ERRORS {
                let errors = outcome.errors.iter().map(|(what, count)| format!("{count} × {what}"));
                return Err(io::Error::other(format!(
                    "too many errors: {}",
                    errors.collect::<Vec<_>>().join(", ")
                )));
            }
            let wake = next_due.unwrap_or(if now < until { until } else { until + PATIENCE });
            if armed != Some(wake) {
                self.wake_at(wake)?;
                armed = Some(wake);
            }
            match self.poll.poll(&mut events, Some(Duration::from_millis(200))) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other?,
            }
            for event in &events {
                let n = match event.token() {
                    TIMER => {
                        let _ = rustix::io::read(&self.timer, &mut [0; 8]);
                        continue;
                    }
                    EAR => {
                        self.hear(from, until, &mut outcome, run)?;
                        continue;
                    }
                    Token(n) => n,
                };
                if let Err(what) = self.advance(n) {
                    self.fail(n, what, &mut outcome)?;
                    continue;
                }
                let connection = &self.connections[n];
                match connection.phase {
                    // Only where each request has a connection of its own: it is open now.
                    Phase::Idle if run.handshake_each => {
                        let due = connection.due.unwrap_or_else(Instant::now);
                        if let Err(what) = self.send(n, due, true) {
                            self.fail(n, what, &mut outcome)?;
                        }
                    }
                    // Opened again after an error.
                    Phase::Idle if !self.idle.contains(&n) => {
                        self.idle.push_back(n);
                        if matches!(run.pace, Pace::Closed) {
                            waiting.push_back(Instant::now());
                        }
                    }
                    Phase::Busy if connection.answered.is_none() && complete(&connection.received) => {
                        self.answered(n, from, until, run, &mut outcome, &mut waiting)?;
                        once_left = once_left.saturating_sub(1);
                    }
                    _ => {}
                }
            }
            if self.ear.is_some() && last_look.elapsed() > Duration::from_millis(100) {
                last_look = Instant::now();
                self.give_up_hearing(&mut outcome);
            }
        }
        // What never came counts with the time it has waited so far, which is less than it would have.
        let now = Instant::now();
        let unanswered = self.connections.iter().filter(|c| c.phase == Phase::Busy && c.answered.is_none());
        for due in
            unanswered.filter_map(|connection| connection.due).chain(waiting).filter(|due| *due >= from)
        {
            outcome.unfinished += 1;
            outcome.latency.saturating_record((now - due).as_nanos() as u64);
        }
        outcome.seconds = run.measure.as_secs_f64();
        Ok(outcome)
    }

    fn answered(
        &mut self,
        n: usize,
        from: Instant,
        until: Instant,
        run: Run,
        outcome: &mut Outcome,
        waiting: &mut VecDeque<Instant>,
    ) -> io::Result<()> {
        let connection = &mut self.connections[n];
        let status = connection.received.get(9..12).unwrap_or(b"???");
        if !connection.received.starts_with(b"HTTP/1.1 204") {
            let what = format!("answered {}", String::from_utf8_lossy(status));
            return self.fail(n, what, outcome);
        }
        let now = Instant::now();
        connection.answered = Some(now);
        outcome.answered_in_all += 1;
        let Some(due) = connection.due else { return Ok(()) };
        let counts = match run.pace {
            Pace::Open(_) => due >= from,
            _ => now >= from && now < until,
        };
        if counts {
            outcome.answered += 1;
            outcome.latency.saturating_record((now - due).as_nanos() as u64);
        }
        if run.handshake_each {
            connection.phase = Phase::Ending;
            connection.due = None;
            // The end of the stream may have come with the answer.
            return match self.advance(n) {
                Ok(()) => Ok(()),
                Err(what) => self.fail(n, what, outcome),
            };
        }
        if self.ear.is_some() && !connection.heard {
            return Ok(());
        }
        self.release(n);
        if matches!(run.pace, Pace::Closed) && now < until {
            waiting.push_back(now);
        }
        Ok(())
    }

    fn release(&mut self, n: usize) {
        self.connections[n].phase = Phase::Idle;
        self.connections[n].due = None;
        self.idle.push_back(n);
    }

    fn hear(&mut self, from: Instant, until: Instant, outcome: &mut Outcome, run: Run) -> io::Result<()> {
        let mut datagram = [0; 2048];
        loop {
            let Some(ear) = &self.ear else { return Ok(()) };
            let len = match ear.socket.recv(&mut datagram) {
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            let now = Instant::now();
            let Ok((status, _)) = rollcall::protocol::decode(&datagram[..len]) else { continue };
            let Some(&n) = ear.by_email.get(status.email.as_str()) else { continue };
            let connection = &mut self.connections[n];
            if status.last_seen_ns <= connection.last_heard_ns {
                continue;
            }
            connection.last_heard_ns = status.last_seen_ns;
            let Some(due) = connection.due else { continue };
            connection.heard = true;
            if due >= from && (matches!(run.pace, Pace::Open(_)) || now < until) {
                outcome.heard.saturating_record((now - due).as_nanos() as u64);
            }
            if connection.answered.is_some() {
                self.release(n);
            }
        }
    }

    fn give_up_hearing(&mut self, outcome: &mut Outcome) {
        for n in 0..self.connections.len() {
            let connection = &self.connections[n];
            if connection.phase == Phase::Busy
                && !connection.heard
                && connection.answered.is_some_and(|answered| answered.elapsed() > DEAF_AFTER)
            {
                outcome.unheard += 1;
                self.release(n);
            }
        }
    }

    /// Counts what went wrong and opens the connection again.
    fn fail(&mut self, n: usize, what: String, outcome: &mut Outcome) -> io::Result<()> {
        *outcome.errors.entry(what).or_default() += 1;
        self.connections[n].stream = None;
        self.connections[n].due = None;
        self.connections[n].phase = Phase::Closed;
        self.open(n)
    }

    fn wake_at(&self, time: Instant) -> io::Result<()> {
        // Zero would switch the timer off.
        let left = time.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        let value = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        timerfd_settime(self.timer.as_fd(), TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }
}

/// The head has come whole. A 204 has no body; of any other answer only the status counts.
fn complete(received: &[u8]) -> bool {
    received.ends_with(b"\r\n\r\n") || received.windows(4).any(|end| end == b"\r\n\r\n")
}

/// A socket that hears every broadcast to `port`, with room for bursts.
pub fn ear(port: u16) -> io::Result<UdpSocket> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_recv_buffer_size(8 << 20)?;
    socket.bind(&SocketAddr::from(([0, 0, 0, 0], port)).into())?;
    Ok(socket.into())
}
