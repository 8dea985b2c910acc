//! Puts the server together: settings in, sockets opened, signals heard, the database waited for.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use async_std::channel;
use async_std::net::TcpListener;
use async_std::os::unix::net::{UnixListener, UnixStream};
use async_std::task;

use crate::announce::{Announcer, EpochError, LastEpoch};
use crate::broadcast::destination::{self, Destination};
use crate::broadcast::{self, Broadcaster};
use crate::cli::{Exit, Fatal, SettingError, Timespan, setting};
use crate::clock::now_ns;
use crate::commit;
use crate::files;
use crate::http::{self, State};
use crate::identity::{Credential, CredentialError, Trust};
use crate::privacy::{self, Privacy};
use crate::sign::{self, Signer};
use crate::signals;
use crate::store::{self, Recorder, Store};

mod logging;

/// A lock is waited for a part of the shortest; nginx gives up before the longest.
const MIN_DEADLINE: Duration = Duration::from_millis(500);
const MAX_DEADLINE: Duration = Duration::from_secs(60);
/// How long to wait between two tries to reach a database that is not there yet.
const RETRY: Duration = Duration::from_millis(500);

/// The settings of `rollcall-server`; what is `None` comes from the environment or its default.
#[derive(Default)]
pub struct Options {
    pub listen: Option<Address>,
    pub broadcast: Option<String>,
    pub proxy_credential: Option<PathBuf>,
    /// Private key that signs announcements; beside it, `KEY.epoch` remembers the last epoch.
    pub broadcast_key: Option<PathBuf>,
    pub deadline: Option<Timespan>,
    /// Read the settings, say what is wrong with them, and start nothing.
    pub check: bool,
}

/// `HOST:PORT`, or `unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Tcp(String),
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some("") => Err("there is no path after unix:".to_owned()),
            Some(path) => Ok(Address::Unix(path.into())),
            None if text.contains(':') => Ok(Address::Tcp(text.to_owned())),
            None => Err("the form is HOST:PORT or unix:PATH".to_owned()),
        }
    }
}

/// What the server is told, before any file is opened. `rollcall-server doctor` reads the same.
pub(crate) struct Settings {
    pub listen: Address,
    pub destinations: Vec<Destination>,
    pub deadline: Duration,
    pub database_url: Option<String>,
    /// `None` if announcements are not signed.
    pub broadcast_key: Option<PathBuf>,
    /// `None` if announcements carry the email.
    pub privacy_key: Option<PathBuf>,
    pub proxy_credential: PathBuf,
    pub state: PathBuf,
    pub log: logging::Filter,
}

impl Settings {
    pub fn read(options: Options) -> Result<Self, Error> {
        let path = |flag, variable| {
            let path: PathBuf = setting(flag, variable, "")?;
            Ok::<_, Error>(Some(path).filter(|path| !path.as_os_str().is_empty()))
        };
        let text: String = setting(options.broadcast, "ROLLCALL_BROADCAST", "auto")?;
        let database_url: String = setting(None, "DATABASE_URL", "")?;
        let privacy_key = match setting(None, "ROLLCALL_PRIVACY", "clear")? {
            Privacy::Clear => None,
            Privacy::Pseudonym => Some(path(None, "ROLLCALL_PRIVACY_KEY")?.ok_or(Error::NoPrivacyKey)?),
        };
        let state: PathBuf = setting(None, "ROLLCALL_STATE", ".run")?;
        let Timespan(deadline) = setting(options.deadline, "ROLLCALL_DEADLINE", "2s")?;
        if !(MIN_DEADLINE..=MAX_DEADLINE).contains(&deadline) {
            return Err(Error::Deadline(deadline));
        }
        Ok(Self {
            listen: setting(options.listen, "ROLLCALL_LISTEN", "127.0.0.1:8000")?,
            destinations: destination::parse(&text).map_err(Error::Destination)?,
            deadline,
            database_url: Some(database_url).filter(|url| !url.is_empty()),
            broadcast_key: path(options.broadcast_key, "ROLLCALL_BROADCAST_KEY")?,
            privacy_key,
            proxy_credential: options.proxy_credential.unwrap_or_else(|| state.join("proxy-credential")),
            state,
            log: setting(None, "ROLLCALL_LOG", logging::DEFAULT)?,
        })
    }

    /// Whom to believe the name of a caller from.
    pub fn trust(&self) -> Result<Trust, Error> {
        match &self.listen {
            Address::Unix(path) => check_folder(path).map(|()| Trust::SocketFolder),
            Address::Tcp(_) => read_credential(&self.proxy_credential).map(Trust::Credential),
        }
    }
}

/// Runs until SIGTERM or SIGINT.
pub fn run(options: Options) -> Result<(), Error> {
    let check = options.check;
    let settings = Settings::read(options)?;
    settings.log.start();
    let Settings { ref listen, deadline, .. } = settings;
    let url = settings.database_url.as_deref().ok_or(Error::NoDatabase)?;
    // A request may have to wait for the commit before its own.
    let store = Store::open(url, deadline / 2).map_err(Error::Store)?;
    let signing = settings.broadcast_key.as_deref().map(load_signing).transpose()?;
    let privacy =
        settings.privacy_key.as_deref().map(privacy::Key::load).transpose().map_err(Error::PrivacyKey)?;
    let trust = settings.trust()?;
    if check {
        return Ok(());
    }
    let announcer = match signing {
        Some((signer, last)) => Some(Announcer::new(signer, last.next(now_ns()).map_err(Error::Epoch)?)),
        None => {
            log::warn!("announcements are not signed: ROLLCALL_BROADCAST_KEY is not set");
            None
        }
    };
    let broadcaster =
        Broadcaster::open(settings.destinations.clone(), announcer, privacy).map_err(Error::Broadcast)?;
    let shutdown = signals::stop(Some(|| {
        log::info!("SIGHUP: there is nothing to read anew, and the log is on standard error; going on");
    }))
    .map_err(Error::Signals)?;
    task::block_on(async {
        let commits = commit::start(Recorder::new(store.clone()), broadcaster.clone(), deadline / 2);
        let app = http::app(State { trust, commits, store: store.clone(), clock: now_ns });
        let (fail, failed) = channel::bounded(1);
        task::spawn(async move {
            if let Err(error) = wait_for_database(&store).await {
                let _ = fail.send(error).await;
            }
        });
        let mut failure = None;
        let stop = async {
            let signal = async { shutdown.recv().await.map(|()| None).unwrap_or(None) };
            // Once the database is there the sender is gone, and only a signal is left to wait for.
            let broken = async {
                match failed.recv().await {
                    Ok(error) => Some(error),
                    Err(_) => std::future::pending().await,
                }
            };
            failure = async_std::prelude::FutureExt::race(signal, broken).await;
            log::info!("stopping: finishing the requests that are being answered");
        };
        let listens = || log::info!("rollcall-server {} listens on {listen}", env!("CARGO_PKG_VERSION"));
        match listen {
            Address::Tcp(address) => {
                let bound = TcpListener::bind(address).await;
                let listener = bound.map_err(|error| Error::Listen(listen.clone(), error))?;
                if listener.local_addr().is_ok_and(|own| !own.ip().is_loopback()) {
                    log::warn!(
                        "{address} is no loopback address: what nginx sends, the proxy credential too, can be read on the way"
                    );
                }
                listens();
                http::serve(listener, app, http::came_through_nginx, stop).await;
            }
            Address::Unix(path) => {
                let listener = bind_unix(path).await?;
                listens();
                http::serve(listener, app, http::came_through_nginx, stop).await;
                let _ = fs::remove_file(path);
            }
        }
        broadcaster.end().await;
        failure.map_or(Ok(()), |error| Err(Error::Store(error)))
    })
}

/// Applies the migrations as soon as there is a database; meanwhile requests are answered with 503.
async fn wait_for_database(store: &Store) -> Result<(), store::Error> {
    let mut said = String::new();
    loop {
        let ready = async {
            store.migrate().await?;
            store.ready().await
        };
        match ready.await {
            Ok(()) => {
                log::info!("the database is ready");
                return Ok(());
            }
            Err(error) if error.is_transient() => {
                let waiting = format!("waiting for the database: {error}");
                if waiting != said {
                    log::warn!("{waiting}");
                    said = waiting;
                }
                task::sleep(RETRY).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// The key that signs announcements, and the last epoch, which is remembered beside it.
fn load_signing(key: &Path) -> Result<(Signer, LastEpoch), Error> {
    let signer = Signer::load(key).map_err(Error::BroadcastKey)?;
    Ok((signer, LastEpoch::beside(key).map_err(Error::Epoch)?))
}

/// The file must be the server's alone: whoever can read the secret can name anybody.
fn read_credential(path: &Path) -> Result<Credential, Error> {
    let text = files::read_secret(path).map_err(|error| Error::CredentialFile(path.to_owned(), error))?;
    Credential::new(&String::from_utf8_lossy(&text))
        .map_err(|error| Error::Credential(path.to_owned(), error))
}

/// On a Unix socket nobody shows a credential: only the folder keeps strangers out.
fn check_folder(socket: &Path) -> Result<(), Error> {
    let folder = match socket.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let mode = fs::metadata(folder).map_err(|error| Error::Folder(folder.to_owned(), error))?.mode();
    if mode & 0o007 != 0 {
        return Err(Error::FolderExposed(folder.to_owned(), mode & 0o777));
    }
    Ok(())
}

async fn bind_unix(path: &Path) -> Result<UnixListener, Error> {
    let error = |error| Error::Listen(Address::Unix(path.to_owned()), error);
    // A socket file outlives a server that was killed; it is stale if nobody answers on it.
    if fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket()) {
        if UnixStream::connect(path).await.is_ok() {
            return Err(error(io::ErrorKind::AddrInUse.into()));
        }
        fs::remove_file(path).map_err(error)?;
    }
    let listener = UnixListener::bind(path).await.map_err(error)?;
    // Connecting needs the right to write; who gets that far was decided by the folder.
    fs::set_permissions(path, fs::Permissions::from_mode(0o666)).map_err(error)?;
    Ok(listener)
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => f.write_str(address),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[derive(Debug)]
pub enum Error {
    Setting(SettingError),
    NoDatabase,
    Deadline(Duration),
    Destination(destination::ParseError),
    Broadcast(broadcast::Error),
    BroadcastKey(sign::Error),
    NoPrivacyKey,
    PrivacyKey(privacy::Error),
    Epoch(EpochError),
    Signals(io::Error),
    Store(store::Error),
    CredentialFile(PathBuf, io::Error),
    Credential(PathBuf, CredentialError),
    Folder(PathBuf, io::Error),
    FolderExposed(PathBuf, u32),
    Listen(Address, io::Error),
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
            Error::NoDatabase => {
                f.write_str("DATABASE_URL is not set (postgres://USER@HOST/DATABASE); `just up` sets it")
            }
            Error::Deadline(deadline) => write!(
                f,
                "--deadline, or ROLLCALL_DEADLINE, is {}: it must be between {} and {}",
                Timespan(*deadline),
                Timespan(MIN_DEADLINE),
                Timespan(MAX_DEADLINE)
            ),
            Error::BroadcastKey(error) => write!(f, "--broadcast-key, or ROLLCALL_BROADCAST_KEY: {error}"),
            Error::NoPrivacyKey => f.write_str(
                "ROLLCALL_PRIVACY is pseudonym, and ROLLCALL_PRIVACY_KEY, the file with the key, is not set",
            ),
            Error::PrivacyKey(error) => write!(f, "ROLLCALL_PRIVACY_KEY: {error}"),
            Error::Epoch(error) => write!(f, "{error}"),
            Error::Destination(error) => write!(f, "--broadcast, or ROLLCALL_BROADCAST: {error}"),
            Error::Broadcast(error) => write!(f, "{error}"),
            Error::Signals(error) => write!(f, "cannot listen for signals: {error}"),
            Error::Store(error) => write!(f, "{error}"),
            Error::CredentialFile(path, error) => write!(
                f,
                "cannot read the proxy credential {}: {error}; `just up` creates it, nginx and the server share it",
                path.display()
            ),
            Error::Credential(path, error) => write!(f, "the proxy credential {}: {error}", path.display()),
            Error::Folder(path, error) => {
                write!(f, "the folder of the socket, {}: {error}", path.display())
            }
            Error::FolderExposed(path, mode) => write!(
                f,
                "the folder of the socket, {}, has mode {mode:04o}: everybody may enter and name anybody; chmod 0750",
                path.display()
            ),
            Error::Listen(address, error) => {
                write!(f, "cannot listen on {address}: {error}; ROLLCALL_LISTEN sets another address")
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::NoDatabase | Error::NoPrivacyKey | Error::Deadline(_) | Error::FolderExposed(..) => None,
            Error::Setting(error) => Some(error),
            Error::Destination(error) => Some(error),
            Error::Broadcast(error) => Some(error),
            Error::BroadcastKey(error) => Some(error),
            Error::PrivacyKey(error) => Some(error),
            Error::Epoch(error) => Some(error),
            Error::Store(error) => Some(error),
            Error::Credential(_, error) => Some(error),
            Error::Signals(error)
            | Error::CredentialFile(_, error)
            | Error::Folder(_, error)
            | Error::Listen(_, error) => Some(error),
        }
    }
}

impl Fatal for Error {
    fn exit(&self) -> Exit {
        match self {
            Error::Broadcast(_) | Error::Signals(_) | Error::Listen(..) => Exit::Failure,
            Error::Epoch(error) if error.may_pass() => Exit::Failure,
            Error::Store(error) if error.is_configuration() => Exit::Config,
            Error::Store(_) => Exit::Failure,
            _ => Exit::Config,
        }
    }
}
