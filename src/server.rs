//! rollcall-server, in the order of the flow: a request comes in by [`routes`], [`commit`] records it with others,
//! [`broadcast`] announces it.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use async_std::channel;
use async_std::net::TcpListener;
use async_std::os::unix::net::{UnixListener, UnixStream};
use async_std::prelude::FutureExt;
use async_std::task;

use crate::cli::{Exit, Fatal, SettingError, Timespan, now_ns, signals};
use crate::files::{FileError, OwnFile};
use crate::http::connection;
use crate::http::identity::CredentialError;
use crate::keyfile;
use crate::lan::destination;
use crate::protocol::announcer::Announcer;
use crate::store::{self, Recorder, Store};

pub mod broadcast;
pub mod commit;
pub mod epoch;
pub mod hearing;
pub mod metrics;
pub mod proof;
pub mod pulse;
pub mod registry;
mod renewal;
pub mod routes;
mod settings;
pub mod supervisor;

use broadcast::Broadcaster;
use hearing::Hearing;
use metrics::{About, Heartbeats};
use proof::Proof;
use pulse::Lack;
use registry::Registry;
use routes::State;
use settings::{MAX_DEADLINE, MIN_DEADLINE, load_signing};
use supervisor::{Supervisor, Watchdog};

pub(crate) use settings::{Address, Privacy, Settings, socket};
pub use settings::{Command, Doctor, Options};

/// How long another server that signs with our key may take to end.
const SAME_KEY: Duration = Duration::from_secs(10);
/// How long to wait between two tries to reach a database that is not there yet.
const RETRY: Duration = Duration::from_millis(500);

/// Runs until SIGTERM or SIGINT.
pub fn run(options: Options) -> Result<(), Error> {
    let check = options.check;
    let settings = Settings::read(options)?;
    let about = About::this(settings.certs.clone());
    settings.log.start();
    let Settings { ref socket, ref listen, deadline, .. } = settings;
    let url = settings.database_url.as_deref().ok_or(Error::NoDatabase)?;
    // A request may have to wait for the commit before its own.
    let store = Store::open(url, deadline / 2).map_err(Error::Store)?;
    let signing = settings.broadcast_key.as_deref().map(load_signing).transpose()?;
    let privacy =
        settings.privacy_key.as_deref().map(keyfile::pseudonym_key).transpose().map_err(Error::PrivacyKey)?;
    let credential = settings.credential()?;
    settings.check_folder()?;
    if check {
        return Ok(());
    }
    let proof = Proof::of(&settings, Path::new("/proc/self/exe"))
        .inspect_err(|error| {
            log::warn!("{error}: `just up` and `just status` cannot tell this server from a stranger");
        })
        .ok();
    let key = signing.as_ref().map(|(signer, _)| *signer.public());
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
    let supervisor = Supervisor::of_this_process();
    task::block_on(async {
        let watchdog = supervisor.as_ref().and_then(Watchdog::of);
        let accepts = Arc::new(AtomicBool::new(true));
        let hearing = Arc::new(Hearing::new(
            settings.name.clone(),
            settings.canary.clone(),
            key,
            settings.max_rate,
            Arc::clone(&accepts),
        ));
        let recorder = Recorder::new(store.clone(), settings.name.clone());
        let commits =
            commit::start(recorder, broadcaster.clone(), Arc::clone(&hearing), deadline / 2, watchdog);
        let app = routes::app(State {
            credential,
            identity: settings.identity,
            registry: Registry::default(),
            proof,
            commits,
            hearing: Arc::clone(&hearing),
            store: store.clone(),
            broadcaster: broadcaster.clone(),
            heartbeats: Heartbeats::default(),
            about,
        });
        let (fail, failed) = channel::bounded(1);
        task::spawn(async move {
            match wait_for_database(&store, &hearing).await {
                Ok(()) => hearing.run(&store).await,
                Err(error) => fail.send(error).await.unwrap_or_default(),
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
            failure = signal.race(broken).await;
            if let Some(supervisor) = &supervisor {
                supervisor.stopping();
            }
            log::info!("stopping: finishing the requests that are being answered");
        };
        let port = TcpListener::bind(&listen.0).await;
        let port = port.map_err(|error| Error::Listen(listen.clone(), error))?;
        if port.local_addr().is_ok_and(|own| !own.ip().is_loopback()) {
            log::warn!(
                "{listen} is no loopback address: others than those of this host can ask for /metrics"
            );
        }
        let for_nginx = bind(socket).await.map_err(|error| Error::Socket(socket.clone(), error))?;
        log::info!(
            "rollcall-server {} listens on {listen}, and for nginx on {}",
            env!("CARGO_PKG_VERSION"),
            socket.display()
        );
        if let Some(supervisor) = &supervisor {
            supervisor.ready();
        }
        let (running, stopped) = channel::bounded::<()>(1);
        let both_stop = async {
            stop.await;
            drop(running);
        };
        let stopped = async {
            let _ = stopped.recv().await;
        };
        let of_port = AtomicBool::new(true);
        connection::serve(for_nginx, app.clone(), &accepts, both_stop)
            .join(connection::serve(port, app, &of_port, stopped))
            .await;
        broadcaster.end().await;
        failure.map_or(Ok(()), |error| Err(Error::Store(error)))
    })
}

/// Applies the migrations as soon as there is a database; meanwhile requests are answered with 503.
async fn wait_for_database(store: &Store, hearing: &Hearing) -> Result<(), store::Error> {
    let mut said = String::new();
    let began = Instant::now();
    loop {
        let ready = async {
            store.migrate().await?;
            store.ready().await?;
            // When it is needed, there may be no other connection left.
            store.prepare().await?;
            hearing.start(store).await
        };
        match ready.await {
            Ok(()) => {
                log::info!("the database is ready");
                return Ok(());
            }
            // One that has just ended, as when this one has got another name, is silent soon.
            Err(error)
                if error.is_transient()
                    // The role may come yet, or be mended.
                    || matches!(error, store::Error::Refused(_))
                    || matches!(error, store::Error::SameKey(_)) && began.elapsed() < SAME_KEY =>
            {
                hearing.pulse().ends(Some(Lack::of(&error)));
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

async fn bind(socket: &Path) -> io::Result<UnixListener> {
    // The file outlives a server, and then nobody answers on it. One that is stopped, or has too many callers, is not gone.
    if fs::symlink_metadata(socket).is_ok_and(|file| file.file_type().is_socket()) {
        match UnixStream::connect(socket).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(socket)?,
            _ => return Err(io::ErrorKind::AddrInUse.into()),
        }
    }
    let listener = UnixListener::bind(socket).await?;
    // Connecting needs the right to write; the folder decides about the rest.
    fs::set_permissions(socket, fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Setting(#[from] SettingError),
    #[error("DATABASE_URL is not set (postgres://USER@HOST/DATABASE); `just up` sets it")]
    NoDatabase,
    #[error(
        "--deadline, or ROLLCALL_DEADLINE, is {}: it must be between {} and {}",
        Timespan(*.0), Timespan(MIN_DEADLINE), Timespan(MAX_DEADLINE)
    )]
    Deadline(Duration),
    #[error("--broadcast, or ROLLCALL_BROADCAST: {0}")]
    Destination(destination::ParseError),
    #[error(transparent)]
    Broadcast(broadcast::Error),
    #[error("--broadcast-key, or ROLLCALL_BROADCAST_KEY: {0}")]
    BroadcastKey(keyfile::Error),
    #[error("ROLLCALL_PRIVACY is pseudonym, and ROLLCALL_PRIVACY_KEY, the file with the key, is not set")]
    NoPrivacyKey,
    #[error("ROLLCALL_PRIVACY_KEY: {0}")]
    PrivacyKey(keyfile::Error),
    #[error(transparent)]
    Epoch(FileError<OwnFile>),
    #[error("cannot listen for signals: {0}")]
    Signals(io::Error),
    #[error(transparent)]
    Store(store::Error),
    #[error(
        "cannot read the proxy credential {path}: {1}; `just up` creates it, nginx and the server share it",
        path = .0.display()
    )]
    CredentialFile(PathBuf, io::Error),
    #[error("the proxy credential {path}: {1}", path = .0.display())]
    Credential(PathBuf, CredentialError),
    #[error("the folder of ROLLCALL_SOCKET, {path}: {1}; `just up` makes it", path = .0.display())]
    Folder(PathBuf, io::Error),
    #[error(
        "the folder of the socket, {path}, has mode {1:04o}: others may put a socket of their own there, and hear the \
         proxy credential; chmod 0750",
        path = .0.display()
    )]
    FolderExposed(PathBuf, u32),
    #[error("cannot listen on {0}: {1}; ROLLCALL_LISTEN sets another address")]
    Listen(Address, io::Error),
    #[error("cannot listen on {path}: {1}; ROLLCALL_SOCKET sets another path", path = .0.display())]
    Socket(PathBuf, io::Error),
    #[error("cannot read the program {path}: {1}", path = .0.display())]
    Program(PathBuf, io::Error),
}

impl Fatal for Error {
    fn exit(&self) -> Exit {
        match self {
            Error::Broadcast(_)
            | Error::Signals(_)
            | Error::Listen(..)
            | Error::Socket(..)
            | Error::Program(..) => Exit::Failure,
            Error::Epoch(error) if error.may_pass() => Exit::Failure,
            Error::Store(error) if error.is_configuration() => Exit::Config,
            Error::Store(_) => Exit::Failure,
            _ => Exit::Config,
        }
    }
}
