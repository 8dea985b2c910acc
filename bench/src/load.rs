//! The load generator: many people with a certificate each, on one thread.
//!
//! Closed loop: every connection sends its next request when its last one was answered, so the rate is
//! what the system can do. Open loop: requests are due at times that do not depend on the system, and a
//! latency counts from when the request was due, so a stall shows in every request that it delayed.
//!
//! It shares the cores with what it measures, so it does little: a request is one write, one read and its share of a wait.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant, SystemTime};

use hdrhistogram::Histogram;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use crate::certificates::Identity;
use crate::stack::System;
use connection::{Connection, Phase};
use ear::Ear;

mod connection;
mod ear;

/// Handshakes under way at once while the connections are being opened.
const OPENING: usize = 64;
/// After the last request is due, this long for what is still unanswered.
const PATIENCE: Duration = Duration::from_secs(2);
/// A datagram that is not heard this long after the answer never comes.
const DEAF_AFTER: Duration = Duration::from_secs(1);
/// A run with more errors than this, and than a tenth of its answers, measures nothing and ends.
const MAX_ERRORS: u64 = 1000;

const TIMER: Token = Token(usize::MAX - 1);
const EAR: Token = Token(usize::MAX - 2);

#[derive(Clone, Copy, PartialEq)]
pub enum Pace {
    /// As fast as the answers come.
    Closed,
    /// So many requests a second, at exponentially distributed distances: independent devices.
    Open(f64),
}

#[derive(Clone, Copy)]
pub struct Run {
    pub pace: Pace,
    /// Load that is not counted yet: prepared statements and caches settle.
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
    fn new(run: Run) -> Self {
        let histogram = || Histogram::new_with_bounds(1_000, 120_000_000_000, 3).expect("valid bounds");
        Self {
            answered: 0,
            answered_in_all: 0,
            seconds: run.measure.as_secs_f64(),
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

/// A run under way.
struct Progress {
    run: Run,
    from: Instant,
    until: Instant,
    outcome: Outcome,
    /// When the requests were due that no connection was free for.
    waiting: VecDeque<Instant>,
    /// The next arrival of the open loop.
    next_due: Option<Instant>,
    /// The same arrivals for every system.
    random: fastrand::Rng,
}

impl Progress {
    fn new(run: Run, connections: usize) -> Self {
        let start = Instant::now();
        let is_open = matches!(run.pace, Pace::Open(_));
        // In the closed loop each connection has its first request.
        let sets_out = !is_open && !run.handshake_each;
        Self {
            run,
            from: start + run.warm,
            until: start + run.warm + run.measure,
            outcome: Outcome::new(run),
            waiting: if sets_out { vec![start; connections].into() } else { VecDeque::new() },
            next_due: is_open.then_some(start),
            random: fastrand::Rng::with_seed(4),
        }
    }

    fn arrive(&mut self, now: Instant) {
        while let (Some(due), Pace::Open(rate)) = (self.next_due, self.run.pace) {
            if due > now {
                break;
            }
            self.waiting.push_back(due);
            let gap = -(1.0 - self.random.f64()).ln() / rate;
            self.next_due = Some(due + Duration::from_secs_f64(gap)).filter(|due| *due < self.until);
        }
    }

    fn wake(&self, now: Instant) -> Instant {
        self.next_due.unwrap_or(if now < self.until { self.until } else { self.until + PATIENCE })
    }

    /// Does a request that was due then count, if it is answered now?
    fn counts(&self, due: Instant, now: Instant) -> bool {
        match self.run.pace {
            Pace::Open(_) => due >= self.from,
            _ => now >= self.from && now < self.until,
        }
    }
}

pub struct Load<'a> {
    system: &'a System,
    identities: &'a [Identity],
    connections: Vec<Connection>,
    poll: Poll,
    timer: OwnedFd,
    ear: Option<Ear>,
    idle: VecDeque<usize>,
}

impl<'a> Load<'a> {
    /// Opens a connection for each identity, on which it was answered once: nginx keeps no connection for long that has sent
    /// nothing.
    pub fn connect(system: &'a System, identities: &'a [Identity]) -> io::Result<Self> {
        let mut load = Self::new(system, identities)?;
        load.open_all()?;
        Ok(load)
    }

    /// The same without opening anything, for runs with a handshake for each request.
    pub fn new(system: &'a System, identities: &'a [Identity]) -> io::Result<Self> {
        let poll = Poll::new()?;
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        poll.registry().register(&mut SourceFd(&timer.as_raw_fd()), TIMER, Interest::READABLE)?;
        let connections = identities.iter().map(|_| Connection::closed()).collect();
        Ok(Self { system, identities, connections, poll, timer, ear: None, idle: VecDeque::new() })
    }

    /// A request is done when its datagram was heard too. Repeated ones of what was before are not news.
    pub fn hear(&mut self, port: u16) -> io::Result<()> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_err(io::Error::other)?;
        for connection in &mut self.connections {
            connection.last_heard_ns = now.as_nanos() as u64;
        }
        let ear = self.ear.insert(Ear::new(port, self.identities)?);
        self.poll.registry().register(&mut SourceFd(&ear.socket.as_raw_fd()), EAR, Interest::READABLE)
    }

    fn open_all(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        let all = self.connections.len();
        let deadline = Instant::now() + Duration::from_secs(30) + Duration::from_millis(10) * all as u32;
        let mut next = 0;
        while self.idle.len() < all {
            while next < all && next - self.idle.len() < OPENING {
                self.open(next)?;
                next += 1;
            }
            self.poll.poll(&mut events, Some(Duration::from_secs(1)))?;
            for Token(n) in events.iter().map(|event| event.token()).filter(|token| token.0 < all) {
                self.greet(n).map_err(io::Error::other)?;
            }
            if Instant::now() > deadline {
                return Err(io::Error::other(format!(
                    "only {} of {all} connections opened",
                    self.idle.len()
                )));
            }
        }
        Ok(())
    }

    fn greet(&mut self, n: usize) -> Result<(), String> {
        let connection = &mut self.connections[n];
        let was = connection.phase;
        connection.advance()?;
        match connection.phase {
            Phase::Idle if was == Phase::Handshake => {
                connection.send(self.system.request(false), Instant::now())
            }
            Phase::Busy if connection.is_answered() => {
                connection.is_204()?;
                connection.phase = Phase::Idle;
                connection.due = None;
                self.idle.push_back(n);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn open(&mut self, n: usize) -> io::Result<()> {
        let addresses = &self.system.addresses;
        let stream = self.connections[n].open(addresses[n % addresses.len()], &self.identities[n])?;
        self.poll.registry().register(stream, Token(n), Interest::READABLE | Interest::WRITABLE)
    }

    /// Runs the load and counts what is answered (closed loop) or due (open loop) after the warm-up.
    pub fn run(&mut self, run: Run) -> io::Result<Outcome> {
        let mut events = Events::with_capacity(1024);
        let mut at = Progress::new(run, self.connections.len());
        let (mut armed, mut last_look) = (None, Instant::now());
        loop {
            let now = Instant::now();
            at.arrive(now);
            if run.handshake_each {
                self.open_closed(now, &at)?;
            } else {
                self.send_waiting(&mut at)?;
            }
            if self.is_finished(now, &at) {
                break;
            }
            let errors = at.outcome.error_count();
            if errors > MAX_ERRORS && errors > at.outcome.answered_in_all / 10 {
                let errors = at.outcome.errors.iter().map(|(what, count)| format!("{count} × {what}"));
                let errors = errors.collect::<Vec<_>>().join(", ");
                return Err(io::Error::other(format!("too many errors: {errors}")));
            }
            let wake = at.wake(now);
            if armed != Some(wake) {
                self.wake_at(wake)?;
                armed = Some(wake);
            }
            match self.poll.poll(&mut events, Some(Duration::from_millis(200))) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other?,
            }
            for event in &events {
                match event.token() {
                    // Each expiry is an edge, also if nobody reads how many there were.
                    TIMER => {}
                    EAR => self.hear_all(&mut at)?,
                    Token(n) => self.progress(n, &mut at)?,
                }
            }
            if self.ear.is_some() && last_look.elapsed() > Duration::from_millis(100) {
                last_look = Instant::now();
                self.give_up_hearing(&mut at);
            }
        }
        // What never came counts with the time it has waited so far, which is less than it would have.
        let now = Instant::now();
        let unanswered = self.connections.iter().filter(|c| c.phase == Phase::Busy && c.answered.is_none());
        let due = unanswered.filter_map(|connection| connection.due).chain(at.waiting);
        for due in due.filter(|due| *due >= at.from) {
            at.outcome.unfinished += 1;
            at.outcome.latency.saturating_record((now - due).as_nanos() as u64);
        }
        Ok(at.outcome)
    }

    /// Every slot is a person who connects, sends and leaves.
    fn open_closed(&mut self, now: Instant, at: &Progress) -> io::Result<()> {
        for n in 0..self.connections.len() {
            if now < at.until && self.connections[n].phase == Phase::Closed {
                self.connections[n].due = Some(now);
                self.open(n)?;
            }
        }
        Ok(())
    }

    fn send_waiting(&mut self, at: &mut Progress) -> io::Result<()> {
        while let Some(due) = at.waiting.front().copied() {
            let Some(n) = self.idle.pop_front() else { break };
            at.waiting.pop_front();
            self.send(n, due, at)?;
        }
        Ok(())
    }

    fn send(&mut self, n: usize, due: Instant, at: &mut Progress) -> io::Result<()> {
        match self.connections[n].send(self.system.request(at.run.handshake_each), due) {
            Ok(()) => Ok(()),
            Err(what) => self.fail(n, what, &mut at.outcome),
        }
    }

    fn is_finished(&self, now: Instant, at: &Progress) -> bool {
        let nobody_waits =
            || at.waiting.is_empty() && self.connections.iter().all(|c| c.phase != Phase::Busy);
        now >= at.until && (now >= at.until + PATIENCE || nobody_waits())
    }

    /// Something came on a connection.
    fn progress(&mut self, n: usize, at: &mut Progress) -> io::Result<()> {
        let connection = &mut self.connections[n];
        let was = connection.phase;
        if let Err(what) = connection.advance() {
            return self.fail(n, what, &mut at.outcome);
        }
        match connection.phase {
            // Where each request has a connection of its own: it is open now.
            Phase::Idle if at.run.handshake_each => {
                let due = connection.due.unwrap_or_else(Instant::now);
                self.send(n, due, at)
            }
            // Opened again after an error.
            Phase::Idle if was == Phase::Handshake => {
                self.idle.push_back(n);
                if at.run.pace == Pace::Closed {
                    at.waiting.push_back(Instant::now());
                }
                Ok(())
            }
            Phase::Busy if connection.answered.is_none() && connection.is_answered() => self.answered(n, at),
            _ => Ok(()),
        }
    }

    fn answered(&mut self, n: usize, at: &mut Progress) -> io::Result<()> {
        let connection = &mut self.connections[n];
        if let Err(what) = connection.is_204() {
            return self.fail(n, what, &mut at.outcome);
        }
        let now = Instant::now();
        connection.answered = Some(now);
        at.outcome.answered_in_all += 1;
        let Some(due) = connection.due else { return Ok(()) };
        if at.counts(due, now) {
            at.outcome.answered += 1;
            at.outcome.latency.saturating_record((now - due).as_nanos() as u64);
        }
        if at.run.handshake_each {
            connection.phase = Phase::Ending;
            connection.due = None;
            // The end of the stream may have come with the answer.
            return match connection.advance() {
                Ok(()) => Ok(()),
                Err(what) => self.fail(n, what, &mut at.outcome),
            };
        }
        if self.ear.is_some() && !connection.heard {
            return Ok(());
        }
        self.release(n, now, at);
        Ok(())
    }

    /// The request is done with: the connection is free for the next.
    fn release(&mut self, n: usize, now: Instant, at: &mut Progress) {
        self.connections[n].phase = Phase::Idle;
        self.connections[n].due = None;
        self.idle.push_back(n);
        if at.run.pace == Pace::Closed && now < at.until {
            at.waiting.push_back(now);
        }
    }

    fn hear_all(&mut self, at: &mut Progress) -> io::Result<()> {
        while let Some(ear) = &self.ear {
            let Some((n, last_seen_ns)) = ear.next()? else { break };
            let now = Instant::now();
            let connection = &mut self.connections[n];
            if last_seen_ns <= connection.last_heard_ns {
                continue;
            }
            connection.last_heard_ns = last_seen_ns;
            let Some(due) = connection.due else { continue };
            connection.heard = true;
            if due >= at.from && (matches!(at.run.pace, Pace::Open(_)) || now < at.until) {
                at.outcome.heard.saturating_record((now - due).as_nanos() as u64);
            }
            if connection.answered.is_some() {
                self.release(n, now, at);
            }
        }
        Ok(())
    }

    fn give_up_hearing(&mut self, at: &mut Progress) {
        let now = Instant::now();
        for n in 0..self.connections.len() {
            let connection = &self.connections[n];
            if connection.phase == Phase::Busy
                && !connection.heard
                && connection.answered.is_some_and(|answered| now - answered > DEAF_AFTER)
            {
                at.outcome.unheard += 1;
                self.release(n, now, at);
            }
        }
    }

    /// Counts what went wrong and opens the connection again.
    fn fail(&mut self, n: usize, what: String, outcome: &mut Outcome) -> io::Result<()> {
        *outcome.errors.entry(what).or_default() += 1;
        self.connections[n].close();
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
