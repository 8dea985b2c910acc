//! The listener: receives, judges, prints, and survives anything on the wire.
//!
//! [`Judge`] has its conclusions, without a socket; `examples/heard.rs` shows both in another program.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::cli::{ArgsInfo, FromArgs, Timespan, note, now_ns, setting, signals};
use crate::keyfile;
use crate::lan::destination::Destinations;
use crate::lan::{Group, proc, sockets};
use crate::protocol::announcer;
use crate::protocol::judge::{Gap, Ignored, Judge, Policy, Verdict};
use crate::protocol::keys::PublicKey;
use crate::protocol::prefix;
use crate::protocol::pseudonym::People;
use crate::protocol::status::Status;

mod error;
mod output;
mod print;
mod relay;
pub mod state;
mod stats;

pub use error::Error;

use output::Output;
use print::Provenance;
use relay::Relay;
use stats::Counted;

/// How often strangers on the port may be mentioned.
const MENTION: Duration = Duration::from_secs(60);
/// How long nothing comes before that is said.
const SILENCE: Duration = Duration::from_secs(5);
/// How often missing announcements are looked for, and a relay looks at the interfaces.
const SETTLE: Duration = Duration::from_secs(1);
/// How often the state file is written while there is news.
const SAVE: Duration = Duration::from_secs(5);
/// How often `--stats` tells the counts.
const STATS: Duration = Duration::from_secs(60);
/// How often the file of `--stats-file` is written: about as often as Prometheus looks.
const STATS_FILE: Duration = Duration::from_secs(15);
/// More than any datagram holds: 65,507 bytes are the most that UDP over IPv4 carries.
const BUFFER: usize = 1 << 16;
/// Bytes of output that are written at once while more datagrams wait.
const PAGE: usize = 1 << 16;

/// Prints each status that is announced on the network, until interrupted.
#[derive(ArgsInfo, FromArgs)]
pub struct Options {
    /// address to bind (default 0.0.0.0: a unicast address hears no broadcast)
    #[argh(option, default = "IpAddr::V4(Ipv4Addr::UNSPECIFIED)")]
    pub bind: IpAddr,
    /// UDP port (ROLLCALL_PORT, default 6667)
    #[argh(option)]
    pub port: Option<u16>,
    /// multicast group to hear as well, ADDRESS[%INTERFACE]; again for each further one
    #[argh(option)]
    pub join: Vec<Group>,
    /// one JSON object per line
    #[argh(switch)]
    pub json: bool,
    /// stop after this many statuses
    #[argh(option)]
    pub count: Option<u64>,
    /// stop after this long, such as 30s; with --count, exit 1 if fewer came
    #[argh(option)]
    pub timeout: Option<Timespan>,
    /// public key of a server, or of several (just keys), PEM; again for each further file. Then only verified statuses
    /// are printed (ROLLCALL_KEYS: a folder with servers.pub, broadcast.pub, broadcast.next.pub or broadcast.old.pub)
    #[argh(option)]
    pub key: Vec<PathBuf>,
    /// print unverified statuses, too, and mark them
    #[argh(switch)]
    pub accept_unsigned: bool,
    /// file that remembers the announcements over a restart, so that no replay passes for news
    #[argh(option)]
    pub state: Option<PathBuf>,
    /// refuse sightings that are older than this, such as 5m
    #[argh(option)]
    pub max_age: Option<Timespan>,
    /// file with the key of the pseudonyms (privacy.key), to show the emails of those in --people
    #[argh(option)]
    pub privacy_key: Option<PathBuf>,
    /// file with the emails to show in the place of their pseudonyms, one a line
    #[argh(option)]
    pub people: Option<PathBuf>,
    /// verify, and pass on what is new to these destinations (as in ROLLCALL_BROADCAST), byte for byte: for another
    /// site; again for further ones. Needs a --key
    #[argh(option)]
    pub relay: Vec<Destinations>,
    /// announcements a second that are passed on at most (default 50000)
    #[argh(option)]
    pub relay_rate: Option<u32>,
    /// report every minute the datagrams received, missed and dropped; the end reports them in any case
    #[argh(switch)]
    pub stats: bool,
    /// file in which node_exporter finds the same counts (NAME.prom), replaced every 15 s and at the end
    #[argh(option)]
    pub stats_file: Option<PathBuf>,
}

/// Prints announcements until a signal, a closed pipe, the count or the timeout ends it.
pub fn run(options: &Options) -> Result<(), Error> {
    let port = setting(options.port, "ROLLCALL_PORT", "6667")?;
    let folder: PathBuf = setting(None, "ROLLCALL_KEYS", "")?;
    let files = match options.key.is_empty() && !folder.as_os_str().is_empty() {
        true => keyfile::public_keys_of(&folder),
        false => options.key.clone(),
    };
    if let Some(missing) = files.iter().find(|file| matches!(file.try_exists(), Ok(false))) {
        return Err(Error::NoKey(missing.clone()));
    }
    if options.state.is_some() && files.is_empty() {
        return Err(Error::NothingToRemember);
    }
    let is_relay = !options.relay.is_empty();
    if is_relay && files.is_empty() {
        return Err(Error::NothingToRelay);
    }
    if options.relay_rate.is_some_and(|rate| !is_relay || !(1..=1_000_000).contains(&rate)) {
        return Err(Error::RelayRate);
    }
    let is_read = |file: &PathBuf| file.extension().is_some_and(|extension| extension == "prom");
    if let Some(file) = options.stats_file.as_ref().filter(|file| !is_read(file)) {
        return Err(Error::StatsFile(file.clone()));
    }
    let policy = Policy {
        keys: keyfile::public_keys_in_all(&files)?,
        accept_unverified: options.accept_unsigned,
        max_age: options.max_age.map(|Timespan(age)| age),
    };
    let people = match (&options.privacy_key, &options.people) {
        (None, None) => People::default(),
        (Some(key), Some(list)) => keyfile::people(&keyfile::pseudonym_key(key)?, list)?,
        _ => return Err(Error::HalfOfPrivacy),
    };
    let remember = |file| {
        let memory = state::load(file)?;
        // An unwritable file ends the program now, and not when it should remember something.
        state::save(file, &memory).map(|()| memory)
    };
    let memory = options.state.as_deref().map_or(Ok(Vec::new()), remember).map_err(Error::State)?;
    // Only now, for a file may be a pipe in which nothing comes: one signal has to end that.
    let interrupted = signals::flag().map_err(Error::Signals)?;
    // Before the port is ours: a server that starts once the port is seen has started after us.
    let began_ns = now_ns();
    let socket = bind(options.bind, port)?;
    for group in &options.join {
        group.join(&socket).map_err(|error| Error::Join(group.clone(), error))?;
    }
    let place = SocketAddr::new(options.bind, port);
    let relay = is_relay.then(|| Relay::open(&options.relay, options.relay_rate, place));
    let mut listener = Listener {
        options,
        place,
        socket,
        judge: Judge::new(policy, memory, began_ns),
        relay: relay.transpose()?,
        people,
        out: Output::new(is_relay),
        page: Vec::with_capacity(2 * PAGE),
        paged: 0,
        printed: 0,
        unprinted: 0,
        mentioned: HashMap::new(),
        dropped: 0,
        is_counted: true,
    };
    listener.write_stats().map_err(Error::State)?;
    note(format_args!("rollcall-listen: {}", listener.beginning()));
    let result = listener.receive(&interrupted).and(listener.flush());
    if let Some(relay) = &mut listener.relay {
        relay.end();
    }
    let result = result.and(listener.out.finish().map_err(Error::Output));
    listener.tell_dropped();
    tell(&listener.judge.finish());
    let saved = match result {
        // An announcement that was not printed must not count as heard: better to print some again.
        Err(Error::Output(_)) => Ok(()),
        _ => listener.save(),
    };
    if !listener.out.is_written() {
        note("rollcall-listen: the end of the output was not read");
    }
    note(format_args!("rollcall-listen: {}", listener.totals()));
    listener.tell_stats();
    match result {
        // The reader of a pipe has seen enough.
        Err(Error::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => saved,
        other => other.and(saved),
    }
}

struct Listener<'a> {
    options: &'a Options,
    /// Where it listens.
    place: SocketAddr,
    socket: UdpSocket,
    judge: Judge,
    relay: Option<Relay>,
    /// Whose pseudonyms are resolved, where they are printed and nowhere before.
    people: People,
    out: Output,
    /// Output that waits for `out`, and the statuses in it.
    page: Vec<u8>,
    paged: u64,
    printed: u64,
    /// Nobody read the output of a relay in time.
    unprinted: u64,
    /// When each kind of trouble was last mentioned, by its word.
    mentioned: HashMap<&'static str, Instant>,
    /// The kernel's count of drops at the last report.
    dropped: u64,
    /// Was the file of `--stats-file` written when it was last tried?
    is_counted: bool,
}

impl Listener<'_> {
    fn receive(&mut self, interrupted: &AtomicBool) -> Result<(), Error> {
        let start = Instant::now();
        // Too long to add is longer than anybody waits.
        let end = self.options.timeout.and_then(|Timespan(timeout)| start.checked_add(timeout));
        let (mut settle, mut save, mut stats) = (start + SETTLE, start + SAVE, start + STATS);
        let mut stats_file = start + STATS_FILE;
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
                // In a flood there is always more to read, and output must not wait for its end.
                self.flush()?;
                self.tell_dropped();
                tell(&self.judge.settle(now));
                if let Some(relay) = &mut self.relay {
                    relay.follow();
                }
            }
            if let Some(relay) = &mut self.relay {
                relay.repeat(now);
                if !draining {
                    let rests = relay.rests(now).map_or(sockets::TICK, |rest| rest.min(sockets::TICK));
                    // Nothing at all would be for good (socket(7)).
                    let rests = rests.max(Duration::from_millis(1));
                    self.socket.set_read_timeout(Some(rests)).map_err(Error::Receive)?;
                }
            }
            if !waits_aloud && self.judge.counters().received == 0 && now >= start + SILENCE {
                waits_aloud = true;
                note(format_args!("rollcall-listen: {}", waiting(end.map(|end| end - now))));
            }
            if now >= save {
                save = now + SAVE;
                // Everything that the file remembers has been printed, or given up.
                self.flush()?;
                self.save()?;
            }
            if now >= stats {
                stats = now + STATS;
                if self.options.stats {
                    note(format_args!("rollcall-listen: {}", self.totals()));
                }
            }
            if now >= stats_file {
                stats_file = now + STATS_FILE;
                self.tell_stats();
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
        let verdict = self.judge.judge(datagram, now_ns());
        if let Some(relay) = &mut self.relay {
            relay.pass_on(datagram, source, &verdict, Instant::now());
        }
        match verdict {
            Verdict::New(announcement) => {
                self.print(source, announcement.verified.status(), Provenance::Verified(&announcement));
            }
            Verdict::Unverified(status, doubt) => self.print(source, &status, Provenance::Doubted(doubt)),
            Verdict::Ignored(Ignored::Foreign(_)) if datagram.starts_with(prefix::TEST) => {
                if self.may_mention("test") {
                    note(format_args!(
                        "rollcall-listen: heard a test of rollcall-server doctor from {source} (said at most once a minute)"
                    ));
                }
            }
            Verdict::Ignored(ignored) => self.mention(source, &ignored),
        }
    }

    fn print(&mut self, source: SocketAddr, status: &Status, provenance: Provenance) {
        let person = self.people.resolve(&status.email);
        match self.options.json {
            true => print::json(&mut self.page, source, status, person, &provenance),
            false => print::block(&mut self.page, source, status, person, &provenance),
        }
        self.printed += 1;
        self.paged += 1;
    }

    /// Says that something else is on the port, each kind at most once a minute: others may share it rightly,
    /// and must not drown the important lines.
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
        if self.may_mention(ignored.word()) {
            note(format_args!(
                "rollcall-listen: ignored a datagram from {source}: {what} (said at most once a minute)"
            ));
        }
    }

    fn may_mention(&mut self, kind: &'static str) -> bool {
        let may = self.mentioned.get(kind).is_none_or(|last| last.elapsed() >= MENTION);
        if may {
            self.mentioned.insert(kind, Instant::now());
        }
        may
    }

    fn flush(&mut self) -> Result<(), Error> {
        if self.page.is_empty() {
            return Ok(());
        }
        let written = self.out.write(&self.page);
        self.page.clear();
        let paged = std::mem::take(&mut self.paged);
        if !written.map_err(Error::Output)? {
            (self.printed, self.unprinted) = (self.printed - paged, self.unprinted + paged);
            if self.may_mention("unprinted") {
                note(
                    "rollcall-listen: statuses go on and are not printed: nobody reads the output (said at most once a minute)",
                );
            }
        }
        Ok(())
    }

    fn save(&mut self) -> Result<(), Error> {
        if let Some(file) = self.options.state.as_deref().filter(|_| self.judge.has_changed()) {
            state::save(file, &self.judge.memory()).map_err(Error::Save)?;
            self.judge.remembered();
        }
        Ok(())
    }

    fn write_stats(&self) -> Result<(), stats::Error> {
        let Some(file) = &self.options.stats_file else { return Ok(()) };
        let counted = Counted {
            place: self.place,
            judged: self.judge.counters(),
            printed: self.printed,
            unprinted: self.unprinted,
            relay: self.relay.as_ref(),
            dropped: proc::dropped_by(&self.socket),
            buffer: sockets::receive_buffer(&self.socket).unwrap_or_default(),
        };
        stats::save(file, &counted)
    }

    /// A full disk ends no listener. It is said once, and the file's age tells the rest.
    fn tell_stats(&mut self) {
        let written = self.write_stats();
        if let Err(error) = &written
            && self.is_counted
        {
            note(format_args!("rollcall-listen: {error} (said once until it works again)"));
        }
        self.is_counted = written.is_ok();
    }

    /// Before the gaps that it explains. Nobody but the kernel knows whose datagrams these were.
    fn tell_dropped(&mut self) {
        let dropped = proc::dropped_by(&self.socket).unwrap_or(self.dropped);
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

    /// The address, the keys that it believes, and the receive buffer that it was granted.
    fn beginning(&self) -> String {
        let place = self.place;
        let keys: Vec<String> = self.judge.keys().map(PublicKey::to_string).collect();
        let believed = match keys.is_empty() {
            true => "everybody: there is no --key".to_owned(),
            false => format!("key {}", keys.join(", ")),
        };
        format!("listening on {place}, believes {believed}; {}", self.room())
    }

    fn totals(&self) -> String {
        let dropped = proc::dropped_by(&self.socket);
        let unprinted = self.unprinted;
        let relayed = self
            .relay
            .as_ref()
            .map_or(String::new(), |relay| format!(", not printed {unprinted}, {}", relay.totals()));
        format!(
            "{}, printed {}{relayed}, dropped by the kernel {} ({})",
            self.judge.counters(),
            self.printed,
            dropped.map_or("unknown".to_owned(), |dropped| dropped.to_string()),
            self.room(),
        )
    }

    /// For datagrams that come faster than it reads them.
    fn room(&self) -> String {
        let granted = sockets::receive_buffer(&self.socket).unwrap_or_default();
        format!("receive buffer {granted} of {} bytes asked for", sockets::RECEIVE_BUFFER)
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
        Timespan(announcer::EVERY)
    )
}

fn tell(gaps: &[Gap]) {
    for gap in gaps {
        note(format_args!("rollcall-listen: {gap}"));
    }
}

/// Opens the port, and names the program that keeps us from it.
fn bind(ip: IpAddr, port: u16) -> Result<UdpSocket, Error> {
    let address = SocketAddr::new(ip, port);
    sockets::receiver(address).map_err(|error| {
        let is_held = error.kind() == io::ErrorKind::AddrInUse;
        let programs =
            if is_held { proc::holders_of(port) } else { None }.map_or(Vec::new(), |held| held.programs);
        match programs.is_empty() {
            true => Error::Bind { address, error },
            false => Error::Held { address, error, programs: programs.join(", ") },
        }
    })
}
