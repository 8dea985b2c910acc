//! Whose server answers where ours should, and with which settings.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use ring::rand::{SecureRandom, SystemRandom};

use super::{Error, print};
use crate::cli::printable;
use crate::lan::proc::{self, Holders};
use crate::server::proof::{self, Challenge, Proof};
use crate::server::{self, Address};

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a server may take until it is ready.
const STARTING: Duration = Duration::from_secs(15);
const BETWEEN: Duration = Duration::from_millis(100);
/// Bytes of an answer.
const MOST: u64 = 1 << 14;

/// The program at the address.
enum Found {
    Nobody(io::Error),
    Silent(io::Error),
    /// One without our credential.
    Stranger,
    /// One with it, in its own words.
    Ours(String),
}

/// Prints the finding, for `stack/env` to read: a line each, `NAME=VALUE`.
///
/// `is` is `nobody`; `stranger`, which has another credential or none; `older`, ours as it was started with other
/// settings; or `current`. `pids` and `holder` tell which processes have the port, `announces` how and whereto, and
/// `lacks` why it is not ready.
pub fn server(wait_for: Option<u32>) -> Result<(), Error> {
    let settings = server::Settings::read(server::Options::default())?;
    // The program that `stack/up` starts lies beside this one.
    let own = std::env::current_exe().map_err(Error::of(Path::new("/proc/self/exe")))?;
    let ours = Proof::of(&settings, &own.with_file_name("rollcall-server"))?;
    let lack = || lacking(&settings.listen, PATIENCE).unwrap_or_else(|error| Some(error.to_string()));
    let end = Instant::now() + STARTING;
    loop {
        let found = meet(&ours, |request| ask_port(&settings.listen, request, PATIENCE));
        let (is, announces, lacks) = match &found {
            Found::Nobody(_) => ("nobody", "", None),
            Found::Silent(_) | Found::Stranger => ("stranger", "", None),
            Found::Ours(statement) => {
                let announces = statement.lines().find_map(|line| line.strip_prefix("announces "));
                let (is, lacks) = match statement == ours.statement() {
                    false => ("older", lack()),
                    true => match meet(&ours, |request| ask_socket(&settings.socket, request)) {
                        Found::Ours(_) => ("current", lack()),
                        // Whatever has become of the socket: only a new start mends it.
                        _ => (
                            "older",
                            Some(format!("nginx does not reach it by {}", settings.socket.display())),
                        ),
                    },
                };
                (is, announces.unwrap_or_default(), lacks)
            }
        };
        let waits = || wait_for.is_some_and(lives) && Instant::now() < end;
        if (is == "current" && lacks.is_none()) || !waits() {
            let (holder, pids) = holders(&settings.listen);
            let pids = pids.iter().fold(String::new(), |mut all, pid| {
                let _ = write!(all, "{pid} ");
                all
            });
            let lacks = lacks.unwrap_or_default();
            return print(format_args!(
                "is={is}\npids={}\nholder={holder}\nannounces={announces}\nlacks={}",
                pids.trim_end(),
                printable(&lacks)
            ));
        }
        thread::sleep(BETWEEN);
    }
}

/// One that waits to be reaped does not (proc(5), `state`). Its command line would not tell: that is empty for a moment
/// of each execve(2), too.
fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with(['Z', 'X']))
}

fn meet(ours: &Proof, ask: impl Fn(&str) -> io::Result<String>) -> Found {
    let mut challenge = Challenge::default();
    if SystemRandom::new().fill(&mut challenge).is_err() {
        return Found::Stranger;
    }
    let header = format!("{}: {}\r\n", proof::HEADER, hex::encode(challenge));
    match ask(&get("/proof", &header)) {
        Err(error) if is_nobody(&error) => Found::Nobody(error),
        Err(error) => Found::Silent(error),
        Ok(answer) => {
            let body = answer.strip_prefix("HTTP/1.1 200 ").and_then(|answer| answer.split_once("\r\n\r\n"));
            let statement = body.and_then(|(_, body)| ours.verify(&challenge, body));
            statement.map_or(Found::Stranger, |statement| Found::Ours(statement.to_owned()))
        }
    }
}

fn is_nobody(error: &io::Error) -> bool {
    use io::ErrorKind::{AddrNotAvailable, ConnectionRefused, HostUnreachable, NetworkUnreachable, NotFound};
    matches!(
        error.kind(),
        ConnectionRefused | NotFound | AddrNotAvailable | NetworkUnreachable | HostUnreachable
    )
}

/// The programs that have this port, and their processes.
fn holders(address: &Address) -> (String, Vec<u32>) {
    let Holders { programs, pids, unseen } = proc::listeners_on(&address.to_string());
    let mut holder = programs.join(", ");
    if holder.is_empty() && unseen > 0 {
        holder.push_str("a program of another user");
    }
    (holder, pids)
}

pub enum Readiness {
    Ready,
    /// In the server's own words.
    Lacks(String),
    Silent(io::Error),
    /// Another program has its port.
    Taken(String),
}

/// Of the server with our credential. Nobody else is believed.
pub(crate) fn readiness(settings: &server::Settings, patience: Duration) -> Result<Readiness, server::Error> {
    let listen = &settings.listen;
    // Its settings do not count here.
    let ours = Proof::of(settings, Path::new("/proc/self/exe"))?;
    Ok(match meet(&ours, |request| ask_port(listen, request, patience)) {
        Found::Nobody(error) | Found::Silent(error) => Readiness::Silent(error),
        Found::Stranger => Readiness::Taken(holders(listen).0),
        Found::Ours(_) => match lacking(listen, patience) {
            Ok(None) => Readiness::Ready,
            Ok(Some(detail)) => Readiness::Lacks(detail),
            Err(error) => Readiness::Silent(error),
        },
    })
}

/// Why the server is not ready; `None` if it is.
fn lacking(address: &Address, patience: Duration) -> io::Result<Option<String>> {
    let answer = ask_port(address, &get("/readyz", ""), patience)?;
    if answer.starts_with("HTTP/1.1 204 ") {
        return Ok(None);
    }
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let problem: Option<serde_json::Value> = serde_json::from_str(body).ok();
    let detail = problem.as_ref().and_then(|problem| problem["detail"].as_str());
    Ok(Some(detail.unwrap_or("it does not say why").to_owned()))
}

fn get(path: &str, header: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: rollcall\r\n{header}Connection: close\r\n\r\n")
}

fn ask_port(address: &Address, request: &str, patience: Duration) -> io::Result<String> {
    let (address, request) = (address.clone(), request.to_owned());
    within(2 * patience, move || {
        let mut result = Err(io::ErrorKind::AddrNotAvailable.into());
        for address in address.0.to_socket_addrs()? {
            result = TcpStream::connect_timeout(&address, patience);
            if result.is_ok() {
                break;
            }
        }
        let stream: TcpStream = result?;
        stream.set_read_timeout(Some(patience))?;
        exchange(stream, &request, patience)
    })
}

fn ask_socket(socket: &Path, request: &str) -> io::Result<String> {
    let (socket, request) = (socket.to_owned(), request.to_owned());
    within(2 * PATIENCE, move || {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        exchange(stream, &request, PATIENCE)
    })
}

/// A name may take its time, and connect(2) to a Unix socket with a full backlog has no timeout: so a thread waits.
fn within(limit: Duration, ask: impl FnOnce() -> io::Result<String> + Send + 'static) -> io::Result<String> {
    let (done, answer) = mpsc::channel();
    thread::spawn(move || done.send(ask()));
    answer.recv_timeout(limit).unwrap_or(Err(io::ErrorKind::TimedOut.into()))
}

/// The answer, until the other end closes or patience is over.
fn exchange(mut stream: impl Read + Write, request: &str, patience: Duration) -> io::Result<String> {
    let end = Instant::now() + patience;
    stream.write_all(request.as_bytes())?;
    let (mut answer, mut buffer) = (Vec::new(), [0; 1024]);
    while (answer.len() as u64) < MOST && Instant::now() < end {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => answer.extend_from_slice(&buffer[..len]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
