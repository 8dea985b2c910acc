//! The client: proves itself over mutual TLS and says that it is here, once or every so often.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use async_std::channel::Receiver;
use async_std::future::timeout;
use async_std::net::TcpStream;
use async_std::task;
use async_tls::TlsConnector;
use async_tls::client::TlsStream;
use http::Uri;

use crate::cli::{ArgsInfo, Exit, Fatal, FromArgs, SettingError, Timespan, note, setting, signals};

mod board;
mod cadence;
mod connect;
mod convert;
mod credentials;
mod exchange;
mod renewal;
mod replace;
mod table;
mod tls;
mod watch;
mod who;

use cadence::{Cadence, Every};
use credentials::{Contents, Files, Loaded};
use exchange::Answer;
use renewal::Renewal;
use who::Who;

/// First wait before another attempt; it doubles up to [`MAX_BACKOFF`].
const BACKOFF: Duration = Duration::from_millis(500);
const MAX_BACKOFF: Duration = Duration::from_secs(60);
/// How often a client that waits for its clock looks at it.
const CLOCK: Duration = Duration::from_secs(1);
/// However long a server asks us to wait, this is the longest that we do.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60 * 60);
/// Longer intervals are a mistake.
const MAX_EVERY: Duration = Duration::from_secs(366 * 24 * 60 * 60);
/// Shorter intervals would only meet the rate limit of nginx.
const MIN_EVERY: Duration = Duration::from_millis(50);

/// Says "I am here" over mutual TLS, once or again and again. With the word who: asks who is here.
#[derive(ArgsInfo, FromArgs)]
pub struct Options {
    /// client certificate, PEM or DER, with its chain (default $ROLLCALL_CERTS/client.crt)
    #[argh(option)]
    cert: Option<PathBuf>,
    /// private key of the certificate, PEM or DER (default $ROLLCALL_CERTS/client.key)
    #[argh(option)]
    key: Option<PathBuf>,
    /// certificate of the CA that signed the server's, PEM or DER (default $ROLLCALL_CERTS/ca.crt)
    #[argh(option)]
    ca: Option<PathBuf>,
    /// https://HOST:PORT of the server (ROLLCALL_URL, default https://localhost:$ROLLCALL_HTTPS_PORT)
    #[argh(option)]
    url: Option<String>,
    /// keep the connection and say it again after this long, such as 30s, until stopped; auto: every 30s, or less often
    /// if the server asks for that
    #[argh(option)]
    every: Option<Every>,
    /// ask for the next certificate when two thirds of this one's lifetime are over, with a new key, and put both in
    /// the place of the old files
    #[argh(switch)]
    renew: bool,
    /// how long one attempt may take (default 10s)
    #[argh(option, default = "Timespan(Duration::from_secs(10))")]
    timeout: Timespan,
    /// attempts before an unreachable server is given up on, without --every (default 3)
    #[argh(option, default = "3")]
    attempts: u32,
    #[argh(subcommand)]
    command: Option<Command>,
}

/// Another job than to beat.
#[derive(ArgsInfo, FromArgs)]
#[argh(subcommand)]
enum Command {
    Who(Who),
}

/// Beats, or asks for others.
pub fn run(options: &Options) -> Result<ExitCode, Error> {
    match &options.command {
        Some(Command::Who(who)) => who::run(options, who),
        None => beat(options).map(|()| ExitCode::SUCCESS),
    }
}

/// The files that prove, and the server that they are shown to.
fn files_and_server(
    cert: Option<&PathBuf>,
    key: Option<&PathBuf>,
    ca: Option<&PathBuf>,
    url: Option<&String>,
) -> Result<(Files, ServerUrl), Error> {
    let port: u16 = setting(None, "ROLLCALL_HTTPS_PORT", "443")?;
    let url = setting(url.cloned(), "ROLLCALL_URL", &format!("https://localhost:{port}"))?;
    let certs: PathBuf = setting(None, "ROLLCALL_CERTS", "certs")?;
    let file = |option: Option<&PathBuf>, name| option.cloned().unwrap_or_else(|| certs.join(name));
    let files =
        Files { cert: file(cert, "client.crt"), key: file(key, "client.key"), ca: file(ca, "ca.crt") };
    Ok((files, ServerUrl::parse(&url)?))
}

/// Beats once, or until a signal ends it.
fn beat(options: &Options) -> Result<(), Error> {
    if let Some(Every::Fixed(every)) = options.every
        && !(MIN_EVERY..=MAX_EVERY).contains(&every)
    {
        return Err(Error::Every(every));
    }
    let Timespan(timeout) = options.timeout;
    if timeout.is_zero() {
        return Err(Error::NoTime);
    }
    let Options { cert, key, ca, url, .. } = options;
    let (files, server) = files_and_server(cert.as_ref(), key.as_ref(), ca.as_ref(), url.as_ref())?;
    let server = Arc::new(server);
    replace::complete(&files);
    let client = |contents, loaded: Loaded| Client {
        server,
        renewal: options.renew.then(Renewal::new),
        loaded,
        files: files.clone(),
        contents,
        reported: String::new(),
        timeout,
        kept: None,
    };
    let Some(every) = options.every else {
        let contents = files.read()?;
        let loaded = files.load(&contents, SystemTime::now())?;
        return task::block_on(client(contents, loaded).once(options.attempts));
    };
    let stop = signals::stop(None).map_err(Error::Signals)?;
    let beating = async {
        match valid_in_time(&files, &stop).await? {
            Some((contents, loaded)) => client(contents, loaded).forever(Cadence::new(every), &stop).await,
            None => Ok(()),
        }
    };
    match task::block_on(beating) {
        // The reader of a pipe has seen enough.
        Err(Error::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        ended => ended,
    }
}

/// Waits for a clock that is not set yet, as on a device that was just switched on: `None` if a signal came first.
async fn valid_in_time(files: &Files, stop: &Receiver<()>) -> Result<Option<(Contents, Loaded)>, Error> {
    let mut said = false;
    loop {
        let contents = files.read()?;
        match files.load(&contents, SystemTime::now()) {
            Ok(loaded) => return Ok(Some((contents, loaded))),
            Err(error) if error.is_too_early() => {
                if !said {
                    note(format_args!("rollcall-client: {error} Waiting until the certificate is valid"));
                    said = true;
                }
            }
            Err(error) => return Err(error.into()),
        }
        if timeout(CLOCK, stop.recv()).await.is_ok() {
            return Ok(None);
        }
    }
}

/// Where to: taken apart once, so that a mistake in the URL shows before anything is sent.
struct ServerUrl {
    host: String,
    port: u16,
    /// As the `Host` header has it.
    authority: String,
    path: String,
}

impl ServerUrl {
    fn parse(url: &str) -> Result<Self, Error> {
        let bad = |why| Error::Url { url: url.to_owned(), why };
        let uri: Uri = url.parse().map_err(|_| bad("it is not a URL"))?;
        if uri.scheme_str() != Some("https") {
            return Err(bad("it does not start with https://"));
        }
        let authority = uri.authority().ok_or_else(|| bad("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(bad("it holds a user name, and the certificate has the name already"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = match authority.port() {
            Some(port) => port.as_u16(),
            None if authority.as_str().ends_with(authority.host()) => 443,
            None => return Err(bad("its port is not a number up to 65535")),
        };
        let path = match uri.path() {
            "" | "/" => "/api/client",
            path => path,
        };
        Ok(Self { host, port, authority: authority.to_string(), path: path.to_owned() })
    }
}

struct Client {
    server: Arc<ServerUrl>,
    /// `None` unless it renews its certificate by itself.
    renewal: Option<Renewal>,
    files: Files,
    /// The files as they were when they were last used.
    contents: Contents,
    /// The last report of files that cannot be used.
    reported: String,
    loaded: Loaded,
    timeout: Duration,
    kept: Option<TlsStream<TcpStream>>,
}

impl Client {
    /// Picks up files that were replaced. Certificate and key may be replaced one after the other: what
    /// does not fit yet is said once, and the old pair stays.
    fn refresh(&mut self, now: SystemTime) {
        let Ok(contents) = self.files.read() else { return };
        if contents != self.contents {
            match self.files.load(&contents, now) {
                Ok(loaded) => {
                    note(format_args!("rollcall-client: goes on with the new certificate"));
                    self.loaded = loaded;
                    self.kept = None;
                    self.contents = contents;
                    self.reported.clear();
                }
                // It may fit at the next look: the other file comes, or the clock does.
                Err(error) => {
                    let report = error.to_string();
                    if report != self.reported {
                        note(format_args!("rollcall-client: {report}; goes on with the one it has"));
                        self.reported = report;
                    }
                }
            }
        }
        self.loaded.warn(now);
    }

    async fn once(&mut self, attempts: u32) -> Result<(), Error> {
        self.loaded.warn(SystemTime::now());
        let mut backoff = BACKOFF;
        for left in (0..attempts.max(1)).rev() {
            match self.beat(None, false).await {
                Ok(answer) => {
                    print(&answer)?;
                    return self.renew_once().await;
                }
                Err(error) if left > 0 && error.exit() == Exit::Unavailable => {
                    note(format_args!("rollcall-client: {error}; trying again in {}", Timespan(backoff)));
                    task::sleep(backoff).await;
                    backoff = (backoff * 2).min(MAX_BACKOFF);
                }
                Err(error) => return Err(error),
            }
        }
        unreachable!("the last attempt returns")
    }

    /// One heartbeat after another. No refusal ends it: a person that is refused today may be enrolled tomorrow.
    async fn forever(&mut self, mut cadence: Cadence, stop: &Receiver<()>) -> Result<(), Error> {
        let mut backoff = BACKOFF;
        self.check_place();
        loop {
            self.renew(SystemTime::now());
            self.refresh(SystemTime::now());
            let wait = match self.beat(cadence.to_say(), true).await {
                Ok(answer) => {
                    print(&answer)?;
                    backoff = BACKOFF;
                    jittered(cadence.accepted(answer.reannounce_after))
                }
                Err(error) => {
                    let (every, asked) = (cadence.every(), error.asked_to_wait());
                    let wait = match error.exit() {
                        Exit::Unavailable | Exit::TryLater | Exit::Protocol => jittered(backoff.max(asked)),
                        _ => jittered(every.max(asked)),
                    };
                    backoff = (backoff * 2).min(every.clamp(BACKOFF, MAX_BACKOFF));
                    note(format_args!(
                        "rollcall-client: {error}; trying again in {:.1} s",
                        wait.as_secs_f32()
                    ));
                    wait
                }
            };
            // A message is a signal; the end of the wait is the usual case.
            if timeout(wait, stop.recv()).await.is_ok() {
                return Ok(());
            }
        }
    }

    /// One accepted heartbeat, or why not. A kept connection that turns out to be closed (nginx
    /// reloaded, say) is replaced once, at once: the PATCH is idempotent.
    async fn beat(&mut self, every_s: Option<u64>, keep: bool) -> Result<Answer, Error> {
        if let Some(kept) = self.kept.take() {
            match self.exchange(kept, every_s, keep).await {
                Err(Error::Exchange(exchange::Error::Closed | exchange::Error::Io(_))) => {}
                other => return other,
            }
        }
        let stream = connection(&self.server, &self.loaded.tls, self.timeout).await?;
        self.exchange(stream, every_s, keep).await
    }

    async fn exchange(
        &mut self,
        mut stream: TlsStream<TcpStream>,
        every_s: Option<u64>,
        keep: bool,
    ) -> Result<Answer, Error> {
        let ServerUrl { authority, path, .. } = &*self.server;
        let answer = timeout(self.timeout, exchange::patch(&mut stream, authority, path, every_s, keep))
            .await
            .map_err(|_| Error::Timeout { step: "waiting for the answer", after: self.timeout })?
            .map_err(Error::of_exchange)?;
        if keep && answer.reusable {
            self.kept = Some(stream);
        }
        if answer.status == 204 { Ok(answer) } else { Err(Error::Refused(answer)) }
    }
}

/// A new connection, within this time.
async fn connection(
    server: &ServerUrl,
    tls: &TlsConnector,
    limit: Duration,
) -> Result<TlsStream<TcpStream>, Error> {
    let ServerUrl { host, port, .. } = server;
    let began = Instant::now();
    let tcp = connect::connect(host, *port, limit).await.map_err(Error::Connect)?;
    tcp.set_nodelay(true).map_err(Error::Handshake)?;
    let left = limit.saturating_sub(began.elapsed());
    timeout(left, tls.connect(host, tcp))
        .await
        .map_err(|_| Error::Timeout { step: "connecting", after: limit })?
        .map_err(Error::Handshake)
}

fn print(answer: &Answer) -> Result<(), Error> {
    writeln!(io::stdout(), "Success! ({} {})", answer.status, answer.reason).map_err(Error::Output)
}

/// Up to a tenth more or less, so that a fleet that was started at once does not beat at once.
fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(0.9 + 0.2 * fastrand::f64())
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Setting(#[from] SettingError),
    #[error("cannot listen for signals: {0}")]
    Signals(io::Error),
    #[error(transparent)]
    Credentials(#[from] credentials::Error),
    #[error("{url:?} cannot be called: {why}; the form is https://HOST[:PORT]")]
    Url { url: String, why: &'static str },
    #[error("--every {} is not between {} and a year", Timespan(*.0), Timespan(MIN_EVERY))]
    Every(Duration),
    #[error("{0}")]
    Usage(&'static str),
    #[error("ROLLCALL_BOARD_LISTEN is {0:?}, and the form is HOST:PORT")]
    BoardAddress(String),
    #[error(
        "cannot read the token of the board, {path}: {1}; just up makes it, and the board's user and root may read it. \
         With --cert and --key the board is asked over nginx",
        path = .0.display()
    )]
    Token(PathBuf, String),
    #[error("the board's answer is not understood: {0}")]
    Malformed(String),
    #[error("--timeout 0s leaves no time for an attempt")]
    NoTime,
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
    #[error(transparent)]
    Connect(connect::Error),
    #[error("no TLS with the server: {}", tls::Why(.0))]
    Handshake(io::Error),
    #[error("gave up {step} after {}", Timespan(*.after))]
    Timeout { step: &'static str, after: Duration },
    #[error(transparent)]
    Exchange(exchange::Error),
    #[error("{0}")]
    Refused(Answer),
    /// Files of a renewal.
    #[error(transparent)]
    Replace(#[from] replace::Error),
    #[error("the present certificate has no name (CN) that could be asked for again")]
    NoName,
    /// `Retry-After`, in seconds.
    #[error("the request for a new certificate waits for the signer")]
    NotYet(u64),
    #[error("the new certificate from the server is not used: {0}")]
    NotUsed(String),
}

impl Error {
    /// As `Retry-After` says it, and never for longer than we are willing to.
    fn asked_to_wait(&self) -> Duration {
        let seconds = match self {
            Error::NotYet(seconds) => *seconds,
            Error::Refused(answer) => answer.retry_after.unwrap_or(0),
            _ => 0,
        };
        Duration::from_secs(seconds).min(MAX_RETRY_AFTER)
    }

    fn of_exchange(error: exchange::Error) -> Self {
        match error {
            // In TLS 1.3 the server's word about our certificate comes when the handshake seems to be over.
            exchange::Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
                Error::Handshake(error)
            }
            error => Error::Exchange(error),
        }
    }
}

impl Fatal for Error {
    fn exit(&self) -> Exit {
        match self {
            Error::Signals(_) | Error::Output(_) => Exit::Failure,
            Error::Every(_) | Error::NoTime | Error::Usage(_) => Exit::Usage,
            Error::Setting(_) | Error::Credentials(_) | Error::Url { .. } => Exit::Config,
            Error::BoardAddress(_) | Error::Token(..) | Error::Replace(_) | Error::NoName => Exit::Config,
            Error::NotYet(_) => Exit::TryLater,
            Error::Malformed(_) | Error::NotUsed(_) => Exit::Protocol,
            Error::Connect(_) | Error::Timeout { .. } => Exit::Unavailable,
            Error::Exchange(exchange::Error::Closed | exchange::Error::Io(_)) => Exit::Unavailable,
            // rustls reports a fault of the peer as invalid data; the rest is the network.
            Error::Handshake(error) if error.kind() != io::ErrorKind::InvalidData => Exit::Unavailable,
            Error::Handshake(_) | Error::Exchange(_) => Exit::Protocol,
            Error::Refused(answer) if answer.is_for_now() => Exit::TryLater,
            Error::Refused(answer) if matches!(answer.status, 400 | 401 | 403) => Exit::Refused,
            // The board knows nobody of that email.
            Error::Refused(answer) if answer.status == 404 && answer.by == "rollcall-board" => Exit::Failure,
            Error::Refused(_) => Exit::Protocol,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart_once() {
        for (url, host, port, authority, path) in [
            ("https://localhost", "localhost", 443, "localhost", "/api/client"),
            ("https://localhost:8443/", "localhost", 8443, "localhost:8443", "/api/client"),
            ("https://[::1]:9", "::1", 9, "[::1]:9", "/api/client"),
            ("https://127.0.0.1/elsewhere", "127.0.0.1", 443, "127.0.0.1", "/elsewhere"),
        ] {
            let server = ServerUrl::parse(url).unwrap();
            assert_eq!((server.host.as_str(), server.port), (host, port));
            assert_eq!((server.authority.as_str(), server.path.as_str()), (authority, path));
        }
    }

    #[test]
    fn a_bad_url_says_why() {
        for (url, why) in [
            ("", "it is not a URL"),
            ("localhost", "it does not start with https://"),
            ("http://localhost", "it does not start with https://"),
            ("https://a@localhost", "it holds a user name, and the certificate has the name already"),
            ("https://localhost:99999", "its port is not a number up to 65535"),
        ] {
            let error = ServerUrl::parse(url).err().unwrap().to_string();
            assert_eq!(error, format!("{url:?} cannot be called: {why}; the form is https://HOST[:PORT]"));
        }
    }

    #[test]
    fn jitter_stays_within_a_tenth() {
        let waits: Vec<_> = (0..1000).map(|_| jittered(Duration::from_secs(10)).as_secs_f64()).collect();
        assert!(waits.iter().all(|wait| (9.0..=11.0).contains(wait)));
        assert!(waits.iter().any(|wait| *wait < 9.5) && waits.iter().any(|wait| *wait > 10.5));
    }
}
