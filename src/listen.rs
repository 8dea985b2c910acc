//! The listener: receives, decodes and prints, and survives anything on the wire.

use std::fmt;
use std::io::{self, BufWriter, Write};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use signal_hook::consts::{SIGINT, SIGTERM};
use socket2::{Domain, Protocol, Socket, Type};

use crate::cli::{Exit, Fatal, SettingError};
use crate::status::Status;
use crate::wire;

mod holder;
mod judge;
mod memory;
mod roots;
mod window;

pub use judge::{Announcement, Counters, Doubt, Gap, Ignored, Judge, Policy, Verdict};
pub use memory::Heard;

/// Longest wait for a datagram before signals and time are looked at again.
const TICK: Duration = Duration::from_millis(200);
/// How often strangers on the port may be mentioned.
const MENTION: Duration = Duration::from_secs(60);
/// More than any datagram holds: 65,507 bytes are the most that UDP over IPv4 carries.
const BUFFER: usize = 1 << 16;

/// The settings of `rollcall-listen`.
pub struct Options {
    pub bind: IpAddr,
    pub port: u16,
    pub json: bool,
    /// Stop after this many statuses.
    pub count: Option<u64>,
    /// Stop after this long.
    pub timeout: Option<Duration>,
}

/// Prints what is announced until a signal, a closed pipe, the count or the timeout ends it.
pub fn run(options: &Options) -> Result<(), Error> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted)).map_err(Error::Signals)?;
    }
    let socket = bind(options.bind, options.port)?;
    let mut out = BufWriter::new(io::stdout().lock());
    let mut totals = Totals::default();
    let result = receive(&socket, options, &mut out, &mut totals, &interrupted);
    eprintln!("rollcall-listen: {totals}");
    match result {
        // The reader of a pipe has seen enough.
        Err(Error::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Opens the port so that other listeners can share it: with both options set before the bind, each
/// socket receives every broadcast (socket(7)).
pub fn bind(ip: IpAddr, port: u16) -> Result<UdpSocket, Error> {
    let address = SocketAddr::new(ip, port);
    let open = || {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        let socket = UdpSocket::from(socket);
        // Besides bounding the wait, a timeout makes a signal end it (signal(7)).
        socket.set_read_timeout(Some(TICK))?;
        Ok(socket)
    };
    open().map_err(|error: io::Error| {
        let holder = (error.kind() == io::ErrorKind::AddrInUse).then(|| holder::of_udp_port(port)).flatten();
        Error::Bind { address, error, holder }
    })
}

fn receive(
    socket: &UdpSocket,
    options: &Options,
    out: &mut impl Write,
    totals: &mut Totals,
    interrupted: &AtomicBool,
) -> Result<(), Error> {
    let end = options.timeout.map(|timeout| Instant::now() + timeout);
    let mut mentioned = None;
    let mut buffer = vec![0; BUFFER];
    while !interrupted.load(Ordering::Relaxed) {
        if options.count.is_some_and(|count| totals.printed >= count) {
            return Ok(());
        }
        if end.is_some_and(|end| Instant::now() >= end) {
            return match options.count {
                Some(count) => Err(Error::TooFew { printed: totals.printed, count }),
                None => Ok(()),
            };
        }
        let (len, source) = match socket.recv_from(&mut buffer) {
            Ok(received) => received,
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted => continue,
                _ => return Err(Error::Receive(error)),
            },
        };
        totals.received += 1;
        match wire::decode(&buffer[..len]) {
            Ok((status, [])) => {
                let written = match options.json {
                    true => print_json(out, source, &status),
                    false => print_block(out, source, &status),
                };
                written.and_then(|()| out.flush()).map_err(Error::Output)?;
                totals.printed += 1;
            }
            Ok((_, rest)) => {
                totals.foreign += 1;
                mention(
                    &mut mentioned,
                    source,
                    &format_args!("{} unknown bytes follow the status", rest.len()),
                );
            }
            Err(error) => {
                totals.malformed += 1;
                mention(&mut mentioned, source, &error);
            }
        }
    }
    Ok(())
}

/// Says that something else is on the port, at most once a minute: others may share it rightly.
fn mention(last: &mut Option<Instant>, source: SocketAddr, what: &dyn fmt::Display) {
    if last.is_none_or(|last| last.elapsed() >= MENTION) {
        *last = Some(Instant::now());
        eprintln!("rollcall-listen: ignored a datagram from {source}: {what} (said at most once a minute)");
    }
}

fn time(status: &Status) -> humantime::Rfc3339Timestamp {
    humantime::format_rfc3339_nanos(SystemTime::UNIX_EPOCH + Duration::from_nanos(status.last_seen_ns))
}

fn print_block(out: &mut impl Write, source: SocketAddr, status: &Status) -> io::Result<()> {
    const LINE: &str = "----------------------------------------";
    let time = time(status).to_string().replace('T', " ").replace('Z', " UTC");
    writeln!(out, "{LINE}")?;
    writeln!(out, "Source Packet: {source}")?;
    writeln!(out, "User Email   : {}", status.email)?;
    writeln!(out, "Last Seen    : {time} ({})", status.last_seen_ns)?;
    writeln!(out, "Client IP    : {}", status.ip)?;
    writeln!(out, "Client Port  : {}", status.port)?;
    writeln!(out, "{LINE}")
}

/// The nanoseconds are a string: they do not fit the double that most readers of JSON use.
fn print_json(out: &mut impl Write, source: SocketAddr, status: &Status) -> io::Result<()> {
    let line = serde_json::json!({
        "source": source.to_string(),
        "email": status.email.as_str(),
        "last_seen": time(status).to_string(),
        "last_seen_ns": status.last_seen_ns.to_string(),
        "ip": status.ip.to_string(),
        "port": status.port,
    });
    writeln!(out, "{line}")
}

#[derive(Default)]
struct Totals {
    received: u64,
    printed: u64,
    malformed: u64,
    foreign: u64,
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { received, printed, malformed, foreign } = self;
        write!(f, "received {received}, printed {printed}, malformed {malformed}, foreign {foreign}")
    }
}

#[derive(Debug)]
pub enum Error {
    Setting(SettingError),
    Signals(io::Error),
    Bind { address: SocketAddr, error: io::Error, holder: Option<String> },
    Receive(io::Error),
    Output(io::Error),
    TooFew { printed: u64, count: u64 },
}

impl From<SettingError> for Error {
    fn from(error: SettingError) -> Self {
        Error::Setting(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Setting(error) => write!(f, "{error}"),
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
            Error::Setting(error) => Some(error),
            Error::Signals(error)
            | Error::Bind { error, .. }
            | Error::Receive(error)
            | Error::Output(error) => Some(error),
            Error::TooFew { .. } => None,
        }
    }
}

impl Fatal for Error {
    fn exit(&self) -> Exit {
        match self {
            Error::Setting(_) => Exit::Config,
            _ => Exit::Failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Email;

    const SOURCE: &str = "192.0.2.10:41234";

    fn printed(print: fn(&mut Vec<u8>, SocketAddr, &Status) -> io::Result<()>) -> String {
        let status = Status {
            email: Email::new("valid_user@qt-test.com").unwrap(),
            last_seen_ns: 1_795_456_442_123_456_789,
            ip: "127.0.0.1".parse().unwrap(),
            port: 62453,
        };
        let mut out = Vec::new();
        print(&mut out, SOURCE.parse().unwrap(), &status).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_block_is_the_one_of_the_walkthrough() {
        assert_eq!(
            printed(print_block),
            "\
----------------------------------------
Source Packet: 192.0.2.10:41234
User Email   : valid_user@qt-test.com
Last Seen    : 2026-11-23 17:54:02.123456789 UTC (1795456442123456789)
Client IP    : 127.0.0.1
Client Port  : 62453
----------------------------------------
"
        );
    }

    #[test]
    fn the_json_is_one_line_with_the_nanoseconds_as_text() {
        let line = printed(print_json);
        assert_eq!(line.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            value,
            serde_json::json!({
                "source": SOURCE,
                "email": "valid_user@qt-test.com",
                "last_seen": "2026-11-23T17:54:02.123456789Z",
                "last_seen_ns": "1795456442123456789",
                "ip": "127.0.0.1",
                "port": 62453,
            })
        );
    }
}
