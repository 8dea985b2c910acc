//! The listener: receives, decides what to believe, prints, and survives anything on the wire.
//!
//! [`Judge`] is what it concludes, without a socket; `examples/heard.rs` shows both in another program.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use socket2::{Domain, Protocol, Socket, Type};

use crate::announce;
use crate::cli::{self, Exit, Fatal, Timespan, note};
use crate::clock::now_ns;
use crate::privacy::{self, People};
use crate::sign::{self, PublicKey};
use crate::sockets;
use crate::status::Status;

mod group;
mod judge;
pub mod memory;
mod print;
mod roots;
mod window;

pub use group::Group;
pub use judge::{Announcement, Counters, Doubt, Gap, Ignored, Judge, Policy, Verdict};
use print::Proof;

/// Longest wait for a datagram before signals and time are looked at again.
const TICK: Duration = Duration::from_millis(200);
/// How often strangers on the port may be mentioned.
const MENTION: Duration = Duration::from_secs(60);
/// How long nothing comes before that is said.
const SILENCE: Duration = Duration::from_secs(5);
/// How often what is missing is looked at.
const SETTLE: Duration = Duration::from_secs(1);
/// How often the state file is written while there is news.
const SAVE: Duration = Duration::from_secs(5);
/// How often `--stats` tells the counts.
const STATS: Duration = Duration::from_secs(60);
/// More than any datagram holds: 65,507 bytes are the most that UDP over IPv4 carries.
const BUFFER: usize = 1 << 16;
/// The receive buffer that is asked for. The kernel takes twice as much (socket(7)) and counts 1,280 bytes for a
/// datagram of a large batch, so this holds an eighth of a second at 100,000 a second, if `net.core.rmem_max` allows it.
pub const RECEIVE_BUFFER: usize = 8 << 20;
/// Bytes of output that are written at once while more datagrams wait.
const PAGE: usize = 1 << 16;

/// The settings of `rollcall-listen`.
pub struct Options {
    pub bind: IpAddr,
    pub port: u16,
    /// Multicast groups to hear besides what is broadcast.
    pub join: Vec<Group>,
    pub json: bool,
    /// Stop after this many statuses.
    pub count: Option<u64>,
    /// Stop after this long.
    pub timeout: Option<Duration>,
    /// Files of public keys. With one, only what verifies is printed; without, everything is.
    pub keys: Vec<PathBuf>,
    /// Print what does not verify, too, and mark it.
    pub accept_unsigned: bool,
    /// Remembers epoch and window over a restart.
    pub state: Option<PathBuf>,
    pub max_age: Option<Duration>,
    /// With the list of people: shows the emails behind pseudonyms.
    pub privacy_key: Option<PathBuf>,
    pub people: Option<PathBuf>,
    /// Tell the counts every minute.
    pub stats: bool,
}

/// Prints what is announced until a signal, a closed pipe, the count or the timeout ends it.
pub fn run(options: &Options) -> Result<(), Error> {
    if options.state.is_some() && options.keys.is_empty() {
        return Err(Error::NothingToRemember);
    }
    let keys = options.keys.iter().map(|file| PublicKey::load(file));
    let policy = Policy {
        keys: keys.collect::<Result<_, _>>().map_err(Error::Key)?,
        accept_unverified: options.accept_unsigned,
        max_age: options.max_age,
    };
    let people = match (&options.privacy_key, &options.people) {
        (None, None) => People::default(),
        (Some(key), Some(list)) => {
            let key = privacy::Key::load(key).map_err(Error::Privacy)?;
            People::load(&key, list).map_err(Error::Privacy)?
        }
        _ => return Err(Error::HalfOfPrivacy),
    };
    let remember = |file| {
        let memory = memory::load(file)?;
        // A file that cannot be written is known now, and not after what it should have remembered.
        memory::save(file, &memory).map(|()| memory)
    };
    let memory = options.state.as_deref().map_or(Ok(Vec::new()), remember).map_err(Error::State)?;
    // Only now, for a file may be a pipe in which nothing comes: one signal has to end that.
    let interrupted = Arc::new(AtomicBool::new(false));
    let hangup = (!cli::ignores_hangup()).then_some(SIGHUP);
    for signal in [SIGINT, SIGTERM].into_iter().chain(hangup) {
        // The second one ends it whatever it does, such as waiting for a pipe that nobody reads.
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&interrupted))
            .map_err(Error::Signals)?;
        signal_hook::flag::register(signal, Arc::clone(&interrupted)).map_err(Error::Signals)?;
    }
    // Before the port is ours: who sees that it is, and then starts a server, has started it after us.
    let began_ns = now_ns();
    let socket = bind(options.bind, options.port)?;
    for group in &options.join {
        group.join(&socket).map_err(|error| Error::Join(group.clone(), error))?;
    }
    let mut listener = Listener {
        options,
        socket,
        judge: Judge::new(policy, memory, began_ns),
        people,
        out: io::stdout().lock(),
        page: Vec::with_capacity(2 * PAGE),
        printed: 0,
        mentioned: HashMap::new(),
        dropped: 0,
    };
    note(format_args!("rollcall-listen: {}", listener.beginning()));
    let result = listener.receive(&interrupted).and(listener.flush());
    listener.tell_dropped();
    tell(&listener.judge.finish());
    let saved = match result {
        // What was not printed must not be remembered as heard: better that some is printed again.
        Err(Error::Output(_)) => Ok(()),
        _ => listener.save(),
    };
    note(format_args!("rollcall-listen: {}", listener.totals()));
    match result {
        // The reader of a pipe has seen enough.
        Err(Error::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => saved,
        other => other.and(saved),
    }
}

/// Opens the port, and names who keeps us from it. Reading gives up after 200 ms (`WouldBlock`), so that there is
/// time for other things; the receive buffer is as large as the kernel allows, up to 8 MiB.
pub fn bind(ip: IpAddr, port: u16) -> Result<UdpSocket, Error> {
    let address = SocketAddr::new(ip, port);
    share(address).map_err(|error| {
        let is_held = error.kind() == io::ErrorKind::AddrInUse;
        let holders = if is_held { sockets::holders_of(port) } else { None };
        let programs = holders.map_or(Vec::new(), |holders| holders.programs);
        let holder = (!programs.is_empty()).then(|| programs.join(", "));
        Error::Bind { address, error, holder }
    })
}

/// Opens the port so that other listeners can share it: with both options set before the bind, each
/// socket receives every broadcast (socket(7)).
pub fn share(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    socket.bind(&address.into())?;
    let socket = UdpSocket::from(socket);
    // Besides bounding the wait, a timeout makes a signal end it (signal(7)).
    socket.set_read_timeout(Some(TICK))?;
    Ok(socket)
}

struct Listener<'a> {
    options: &'a Options,
    socket: UdpSocket,
    judge: Judge,
    /// Whose pseudonyms are resolved, where they are printed and nowhere before.
    people: People,
    out: io::StdoutLock<'static>,
    /// What is yet to be written to `out`.
    page: Vec<u8>,
    printed: u64,
    /// When each kind of stranger was last mentioned, by its word.
    mentioned: HashMap<&'static str, Instant>,
    /// What the kernel had dropped when that was last told.
    dropped: u64,
}

impl Listener<'_> {
    fn receive(&mut self, interrupted: &AtomicBool) -> Result<(), Error> {
        let start = Instant::now();
        // Too long to add is longer than anybody waits.
        let end = self.options.timeout.and_then(|timeout| start.checked_add(timeout));
        let (mut settle, mut save, mut stats) = (start + SETTLE, start + SAVE, start + STATS);
        // While datagrams wait, none is waited for: output is written when there is no more to add to it.
        let mut draining = false;
        let mut waits_aloud = false;
        let mut buffer = vec![0; BUFFER];
        while !interrupted.load(Ordering::Relaxed) {
            if self.options.count.is_some_and(|count| self.printed >= count) {
                return Ok(());
            }
            let now = Instant::now();
            if end.is_some_and(|end| now >= end) {
                return match self.options.count {
                    Some(count) => Err(Error::TooFew { printed: self.printed, count }),
                    None => Ok(()),
                };
            }
            if now >= settle {
                settle = now + SETTLE;
                // In a flood there is always more to read, and what was printed must not wait for its end.
                self.flush()?;
                self.tell_dropped();
                tell(&self.judge.settle(now));
            }
            if !waits_aloud && self.judge.counters().received == 0 && now >= start + SILENCE {
                waits_aloud = true;
                note(format_args!("rollcall-listen: {}", waiting(end.map(|end| end - now))));
            }
            if now >= save {
                save = now + SAVE;
                // What is remembered as heard has been printed.
                self.flush()?;
                self.save()?;
            }
            if now >= stats {
                stats = now + STATS;
                if self.options.stats {
                    note(format_args!("rollcall-listen: {}", self.totals()));
                }
            }
            match self.socket.recv_from(&mut buffer) {
                Ok((len, source)) => {
                    if !draining {
                        self.socket.set_nonblocking(true).map_err(Error::Receive)?;
                        draining = true;
                    }
                    self.hear(&buffer[..len], source);
                    if self.page.len() >= PAGE {
                        self.flush()?;
                    }
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock if draining => {
                        self.flush()?;
                        self.socket.set_nonblocking(false).map_err(Error::Receive)?;
                        draining = false;
                    }
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted => {}
                    _ => return Err(Error::Receive(error)),
                },
            }
        }
        Ok(())
    }

    fn hear(&mut self, datagram: &[u8], source: SocketAddr) {
        match self.judge.judge(datagram, now_ns()) {
            Verdict::New(announcement) => {
                self.print(source, announcement.verified.status(), Proof::Verified(&announcement));
            }
            Verdict::Unverified(status, doubt) => self.print(source, &status, Proof::Doubted(doubt)),
            Verdict::Ignored(ignored) => self.mention(source, &ignored),
        }
    }

    fn print(&mut self, source: SocketAddr, status: &Status, proof: Proof) {
        let person = self.people.resolve(&status.email);
        match self.options.json {
            true => print::json(&mut self.page, source, status, person, &proof),
            false => print::block(&mut self.page, source, status, person, &proof),
        }
        self.printed += 1;
    }

    /// Says that something else is on the port, each kind at most once a minute: others may share it rightly,
    /// and must not drown what matters.
    fn mention(&mut self, source: SocketAddr, ignored: &Ignored) {
        let said;
        let what: &dyn fmt::Display = match ignored {
            Ignored::Foreign(error) => error,
            Ignored::Refused(doubt) => doubt,
            Ignored::Ahead(ahead) => {
                said = format!(
                    "its time is {} ahead of this clock; one of the two is wrong",
                    Timespan(whole(*ahead))
                );
                &said
            }
            _ => return,
        };
        if self.mentioned.get(ignored.word()).is_none_or(|last| last.elapsed() >= MENTION) {
            self.mentioned.insert(ignored.word(), Instant::now());
            note(format_args!(
                "rollcall-listen: ignored a datagram from {source}: {what} (said at most once a minute)"
            ));
        }
    }

    fn flush(&mut self) -> Result<(), Error> {
        if self.page.is_empty() {
            return Ok(());
        }
        let written = self.out.write_all(&self.page).and_then(|()| self.out.flush());
        self.page.clear();
        written.map_err(Error::Output)
    }

    fn save(&mut self) -> Result<(), Error> {
        if let Some(file) = self.options.state.as_deref().filter(|_| self.judge.has_changed()) {
            memory::save(file, &self.judge.memory()).map_err(Error::Save)?;
            self.judge.remembered();
        }
        Ok(())
    }

    /// Before the gaps that it explains. Nobody but the kernel knows whose datagrams these were.
    fn tell_dropped(&mut self) {
        let dropped = sockets::dropped_by(&self.socket).unwrap_or(self.dropped);
        let more = dropped.saturating_sub(self.dropped);
        if more > 0 {
            let plural = if more == 1 { "" } else { "s" };
            note(format_args!(
                "rollcall-listen: the kernel dropped {more} datagram{plural}: they came faster than they were read ({})",
                self.room()
            ));
        }
        self.dropped = dropped;
    }

    /// Where it listens, whom it believes, and what room it got for what comes at once.
    fn beginning(&self) -> String {
        let Options { bind, port, .. } = self.options;
        let place = SocketAddr::new(*bind, *port);
        let keys: Vec<String> = self.judge.keys().map(PublicKey::to_string).collect();
        let believed = match keys.is_empty() {
            true => "everybody: there is no --key".to_owned(),
            false => format!("key {}", keys.join(", ")),
        };
        format!("listening on {place}, believes {believed}; {}", self.room())
    }

    fn totals(&self) -> String {
        let dropped = sockets::dropped_by(&self.socket);
        format!(
            "{}, printed {}, dropped by the kernel {} ({})",
            self.judge.counters(),
            self.printed,
            dropped.map_or("unknown".to_owned(), |dropped| dropped.to_string()),
            self.room(),
        )
    }

    /// For what comes faster than it is read.
    fn room(&self) -> String {
        let granted = sockets::receive_buffer(&self.socket).unwrap_or_default();
        format!("receive buffer {granted} of {RECEIVE_BUFFER} bytes asked for")
    }
}

/// Without the part of a second, which nobody wants to know.
fn whole(time: Duration) -> Duration {
    Duration::from_secs(time.as_secs())
}

/// Nothing came yet, which may be as it should.
fn waiting(left: Option<Duration>) -> String {
    let until = left
        .map_or("until it is interrupted".to_owned(), |left| format!("for {} more", Timespan(whole(left))));
    format!(
        "heard nothing within {}, waits {until}; a server that announced anything since its start says the newest again \
         every {}",
        Timespan(SILENCE),
        Timespan(announce::EVERY)
    )
}

fn tell(gaps: &[Gap]) {
    for gap in gaps {
        note(format_args!("rollcall-listen: {gap}"));
    }
}

#[derive(Debug)]
pub enum Error {
    Key(sign::Error),
    Privacy(privacy::Error),
    HalfOfPrivacy,
    NothingToRemember,
    State(memory::Error),
    /// What was heard can no longer be remembered.
    Save(memory::Error),
    Signals(io::Error),
    Bind {
        address: SocketAddr,
        error: io::Error,
        holder: Option<String>,
    },
    Join(Group, io::Error),
    Receive(io::Error),
    Output(io::Error),
    TooFew {
        printed: u64,
        count: u64,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Key(error) => write!(f, "{error}"),
            Error::Privacy(error) => write!(f, "{error}"),
            Error::HalfOfPrivacy => {
                f.write_str("--privacy-key and --people resolve pseudonyms together; one is missing")
            }
            Error::NothingToRemember => {
                f.write_str("--state remembers what was verified, and without a --key nothing is")
            }
            Error::State(error) | Error::Save(error) => write!(f, "{error}"),
            Error::Signals(error) => write!(f, "cannot listen for signals: {error}"),
            Error::Bind { address, error, holder } => {
                write!(f, "cannot bind {address}: {error}")?;
                match holder {
                    Some(holder) => write!(
                        f,
                        "; {holder} holds the port without sharing it: stop it, or listen with another --port"
                    ),
                    None => Ok(()),
                }
            }
            Error::Join(group, error) => write!(
                f,
                "cannot join {group}: {error}; the interface is named as in 239.1.2.3%eth0, and IPv6 needs --bind ::"
            ),
            Error::Receive(error) => write!(f, "cannot receive: {error}"),
            Error::Output(error) => write!(f, "cannot write to standard output: {error}"),
            Error::TooFew { printed, count } => {
                write!(f, "the time is over and {printed} of {count} statuses came")
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Key(error) => Some(error),
            Error::Privacy(error) => Some(error),
            Error::State(error) | Error::Save(error) => Some(error),
            Error::Signals(error)
            | Error::Bind { error, .. }
            | Error::Join(_, error)
            | Error::Receive(error)
            | Error::Output(error) => Some(error),
            Error::HalfOfPrivacy | Error::NothingToRemember | Error::TooFew { .. } => None,
        }
    }
}

impl Fatal for Error {
    fn exit(&self) -> Exit {
        match self {
            Error::HalfOfPrivacy | Error::NothingToRemember => Exit::Usage,
            Error::State(error) if error.may_pass() => Exit::Failure,
            Error::Key(_) | Error::Privacy(_) | Error::State(_) => Exit::Config,
            _ => Exit::Failure,
        }
    }
}
