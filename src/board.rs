//! rollcall-board: who is here, for those who may know. A process of its own, so that no reader slows a heartbeat.
//!
//! | to change | look in |
//! |---|---|
//! | a state, a change of one, the order of a list, the JSON of a person | [`people`] |
//! | the reading of rows, by key and in turns | [`follow`] |
//! | the announcements, which tell whose row to read | `hints` |
//! | a call, its parameters, its errors | [`routes`], `query` |
//! | who may read, the token and the code of `just board` | [`readers`] |
//! | the stream of events | `stream` |
//! | the history: a row a transition, and one call | `journal`, `history` |
//! | the programs that are told of each event | `hooks` |
//! | the page | `page` |
//! | the counts for Prometheus | `metrics` |

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use async_std::channel;
use async_std::future::timeout;
use async_std::net::TcpListener;
use async_std::task;
use ring::rand::{SecureRandom, SystemRandom};

use crate::cli::{Exit, Fatal, SettingError, now_ns, signals};
use crate::http::connection;
use crate::http::identity::CredentialError;
use crate::keyfile;
use crate::lan::sockets;
use crate::store::{self, Store};

pub mod follow;
mod hints;
mod history;
mod hooks;
mod journal;
mod link;
mod metrics;
mod page;
pub mod people;
mod query;
pub mod readers;
pub mod routes;
mod settings;
mod stream;

use journal::{Held, Keeper};
use people::People;
use readers::Readers;
use settings::Settings;
pub use settings::{Command, Options};

/// Bytes of answers and streams that a reader may leave unread.
const UNREAD: usize = 128 * 1024;
/// How long the database may take for a page of rows: less than a clock may stand still.
const DEADLINE: Duration = Duration::from_secs(2);

/// Runs until SIGTERM or SIGINT; or prints the link, or checks the settings.
pub fn run(options: Options) -> Result<(), Error> {
    let (check, command) = (options.check, options.command);
    let settings = Settings::read(options.listen, options.proxy_credential)?;
    if let Some(Command::Link(_)) = command {
        return link::print(&settings);
    }
    settings.log.start();
    let url = settings.database_url.as_deref().ok_or(Error::NoDatabase)?;
    // Two connections: whoever waits for the rows of everybody keeps no reader waiting.
    let [store, readers] = [(); 2].map(|()| Store::open(url, DEADLINE));
    let (store, readers) = (store.map_err(Error::Store)?, readers.map_err(Error::Store)?);
    let credential = settings.credential()?;
    let keys = settings.keys()?;
    let pseudonyms = settings.pseudonyms()?;
    if check {
        return Ok(());
    }
    let token = settings.token()?;
    let board = hex::encode(random::<4>()?);
    let (people, transitions) = People::new(board.clone(), settings.canary.clone(), pseudonyms);
    let people = Arc::new(people);
    let shutdown = signals::stop(Some(|| {
        log::info!("SIGHUP: there is nothing to read anew, and the log is on standard error; going on");
    }))
    .map_err(Error::Signals)?;
    let believed = hints::Believed::new(keys);
    hints::listen(settings.port, Arc::clone(&believed), Arc::clone(&people), now_ns());
    task::block_on(async {
        let listen = settings.listen;
        let listener = sockets::listener(listen, UNREAD).map_err(|error| Error::Listen(listen, error))?;
        let listener = TcpListener::from(listener);
        let history = readers.clone();
        let readers = Readers::new(credential, settings.identity, readers, token, listen.port());
        task::spawn(follow::rows(store.clone(), Arc::clone(&people), believed));
        let (running, stopped) = channel::bounded(1);
        let held = Held::default();
        let keeper = Keeper::new(store.clone(), Arc::clone(&people), board, transitions, Arc::clone(&held));
        let keeper = task::spawn(keeper.run(stopped.clone()));
        task::spawn(hooks::run(held, Arc::clone(&people), settings.hooks, stopped));
        let app = routes::app(routes::State::new(Arc::clone(&people), readers, history));
        let stop = async {
            let _ = shutdown.recv().await;
            log::info!("stopping: the streams end");
            people.end();
        };
        log::info!("rollcall-board {} listens on {listen}", env!("CARGO_PKG_VERSION"));
        connection::serve(listener, app, &AtomicBool::new(true), stop).await;
        // What waits is written, if the database takes it at once.
        drop(running);
        let _ = timeout(DEADLINE, keeper).await;
        hooks::end();
        Ok(())
    })
}

/// A time as the answers have it.
fn time(ns: u64) -> String {
    humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + Duration::from_nanos(ns)).to_string()
}

fn random<const LEN: usize>() -> Result<[u8; LEN], Error> {
    let mut bytes = [0; LEN];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Error::Randomness)?;
    Ok(bytes)
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Setting(#[from] SettingError),
    #[error("DATABASE_URL is not set (postgres://USER@HOST/DATABASE); `just up` sets it")]
    NoDatabase,
    #[error(
        "ROLLCALL_BOARD_LISTEN, or --listen: {0} is no loopback address; from elsewhere the board is read through nginx"
    )]
    NotLoopback(SocketAddr),
    #[error("ROLLCALL_PRIVACY is pseudonym, and ROLLCALL_PRIVACY_KEY, the file with the key, is not set")]
    NoPrivacyKey,
    #[error("ROLLCALL_PRIVACY_KEY: {0}")]
    PrivacyKey(keyfile::Error),
    #[error("ROLLCALL_KEYS: {0}")]
    Keys(keyfile::Error),
    #[error(
        "cannot read the proxy credential {path}: {1}; `just up` creates it, nginx and the board share it",
        path = .0.display()
    )]
    CredentialFile(PathBuf, io::Error),
    #[error("the proxy credential {path}: {1}", path = .0.display())]
    Credential(PathBuf, CredentialError),
    #[error(
        "cannot read the token {path}: {1}; just up makes it, and the board's user and root may read it",
        path = .0.display()
    )]
    TokenFile(PathBuf, io::Error),
    #[error("the token {path}: {1}; remove it, then just up makes another", path = .0.display())]
    Token(PathBuf, CredentialError),
    #[error("cannot listen for signals: {0}")]
    Signals(io::Error),
    #[error("the system gives no random bytes")]
    Randomness,
    #[error(transparent)]
    Store(store::Error),
    #[error("cannot listen on {0}: {1}; ROLLCALL_BOARD_LISTEN sets another address")]
    Listen(SocketAddr, io::Error),
    #[error("the board on {0} does not answer: {1}; is it up? just up")]
    Unreachable(SocketAddr, io::Error),
    #[error("the board on {0} gives no code: {1}")]
    NoCode(SocketAddr, String),
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
}

impl Fatal for Error {
    fn exit(&self) -> Exit {
        match self {
            Error::Signals(_) | Error::Listen(..) | Error::Randomness | Error::Output(_) => Exit::Failure,
            Error::Unreachable(..) => Exit::Unavailable,
            Error::NoCode(..) => Exit::Refused,
            Error::Store(error) if error.is_configuration() => Exit::Config,
            Error::Store(_) => Exit::Failure,
            _ => Exit::Config,
        }
    }
}
