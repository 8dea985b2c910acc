//! The settings of the server, from flags and environment, and the files that they name.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use super::Error;
use super::epoch::LastEpoch;
use crate::cli::{ArgsInfo, FromArgs, ServerName, SettingError, Timespan, logging, setting};
use crate::files;
use crate::http::identity::{Canary, Credential, Identity};
use crate::keyfile;
use crate::lan::destination::{self, Destination};
use crate::protocol::keys::Signer;
pub(crate) use crate::protocol::pseudonym::Privacy;
use crate::protocol::status::Email;

/// A lock is waited for a part of the shortest; nginx gives up before the longest.
pub(super) const MIN_DEADLINE: Duration = Duration::from_millis(500);
pub(super) const MAX_DEADLINE: Duration = Duration::from_secs(60);

/// `HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address(pub String);

impl FromStr for Address {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            Some(("unix", _)) => {
                Err("nginx has a Unix socket already, ROLLCALL_SOCKET; here the form is HOST:PORT")
            }
            Some(_) => Ok(Self(text.to_owned())),
            None => Err("the form is HOST:PORT"),
        }
    }
}

/// Nothing, or heartbeats a second.
struct MaxRate(Option<f64>);

impl FromStr for MaxRate {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        match text.parse() {
            _ if text.is_empty() => Ok(Self(None)),
            Ok(rate) if is_number && (0.001..=1_000_000.0).contains(&rate) => Ok(Self(Some(rate))),
            _ => Err("it is a number from 0.001 to 1000000, heartbeats a second of all clients together"),
        }
    }
}

/// Records sightings and announces them. Runs behind nginx, which checks the certificates. The
/// database is DATABASE_URL; the log's detail is ROLLCALL_LOG (error, warn, info, debug), its form
/// ROLLCALL_LOG_FORMAT (text, json). Announcements
/// carry emails or, with ROLLCALL_PRIVACY=pseudonym, what ROLLCALL_PRIVACY_KEY makes of them. A certificate is
/// that of its CN or, by ROLLCALL_IDENTITY, of its rfc822Name (san) or its row in the database (registered).
#[derive(ArgsInfo, Default, FromArgs)]
pub struct Options {
    /// the Unix socket for nginx (ROLLCALL_SOCKET, default $ROLLCALL_STATE/clerk/socket)
    #[argh(option)]
    socket: Option<PathBuf>,
    /// where to listen for those on this host: HOST:PORT (ROLLCALL_LISTEN, default 127.0.0.1:8000)
    #[argh(option)]
    listen: Option<Address>,
    /// where to announce: auto, or interfaces and addresses, separated by commas (ROLLCALL_BROADCAST, default auto)
    #[argh(option)]
    broadcast: Option<String>,
    /// file with the secret that nginx presents (default $ROLLCALL_STATE/proxy-credential)
    #[argh(option)]
    proxy_credential: Option<PathBuf>,
    /// private key that signs announcements (ROLLCALL_BROADCAST_KEY; without one they are not signed)
    #[argh(option)]
    broadcast_key: Option<PathBuf>,
    /// how long the database may take (ROLLCALL_DEADLINE, default 2s)
    #[argh(option)]
    deadline: Option<Timespan>,
    /// read the settings, report the first mistake in them, and start nothing
    #[argh(switch)]
    pub(super) check: bool,
    #[argh(subcommand)]
    pub command: Option<Command>,
}

/// Another job than to serve, with the same settings.
#[derive(ArgsInfo, FromArgs)]
#[argh(subcommand)]
pub enum Command {
    Doctor(Doctor),
}

/// find the faults that keep announcements from being heard or clients from being let in: a line each, green,
/// yellow or red, with a remedy. Exits with 1 if one is red. Starts nothing; the flags above hold, before the word doctor
#[derive(ArgsInfo, FromArgs)]
#[argh(subcommand, name = "doctor")]
pub struct Doctor {
    /// only these: network, nginx, server, database, certificates, keys, disk
    #[argh(positional)]
    pub checks: Vec<String>,
}

/// The settings as they are written, before any file is opened. `rollcall-server doctor` reads the same.
pub(crate) struct Settings {
    /// nginx comes by it.
    pub socket: PathBuf,
    /// For `/metrics`, `/readyz` and `stack/up`.
    pub listen: Address,
    /// As it is written.
    pub broadcast: String,
    pub destinations: Vec<Destination>,
    pub deadline: Duration,
    pub database_url: Option<String>,
    /// `None` if announcements are not signed.
    pub broadcast_key: Option<PathBuf>,
    /// `None` if announcements carry the email.
    pub privacy_key: Option<PathBuf>,
    pub identity: Identity,
    /// Of this server, among several on one database.
    pub name: String,
    /// The client of our own whose heartbeats tell that nginx works.
    pub canary: Option<Email>,
    /// Heartbeats a second of all clients together, if that is limited.
    pub max_rate: Option<f64>,
    pub proxy_credential: PathBuf,
    pub state: PathBuf,
    /// The folder of the certificates, as far as the server may read it.
    pub certs: PathBuf,
    pub log: logging::Log,
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
            socket: socket(options.socket, &state)?,
            listen: setting(options.listen, "ROLLCALL_LISTEN", "127.0.0.1:8000")?,
            destinations: destination::parse(&text).map_err(Error::Destination)?,
            broadcast: text,
            deadline,
            database_url: Some(database_url).filter(|url| !url.is_empty()),
            broadcast_key: path(options.broadcast_key, "ROLLCALL_BROADCAST_KEY")?,
            privacy_key,
            identity: setting(None, "ROLLCALL_IDENTITY", "cn")?,
            name: setting::<ServerName>(None, "ROLLCALL_NAME", "")?.0,
            canary: setting::<Canary>(None, "ROLLCALL_CANARY", "")?.0,
            max_rate: setting::<MaxRate>(None, "ROLLCALL_MAX_RATE", "")?.0,
            proxy_credential: options.proxy_credential.unwrap_or_else(|| state.join("proxy-credential")),
            state,
            certs: setting(None, "ROLLCALL_CERTS", "certs")?,
            log: logging::Log {
                filter: setting(None, "ROLLCALL_LOG", logging::DEFAULT)?,
                format: setting(None, "ROLLCALL_LOG_FORMAT", "text")?,
            },
        })
    }

    /// As `ROLLCALL_PRIVACY` says it.
    pub fn privacy(&self) -> &'static str {
        if self.privacy_key.is_some() { "pseudonym" } else { "clear" }
    }

    /// nginx's word for a caller's name counts with it. The file must be the server's alone: a reader of the secret can
    /// name anybody.
    pub fn credential(&self) -> Result<Credential, Error> {
        let path = &self.proxy_credential;
        let text = files::read_secret(path).map_err(|error| Error::CredentialFile(path.clone(), error))?;
        Credential::new(&String::from_utf8_lossy(&text))
            .map_err(|error| Error::Credential(path.clone(), error))
    }

    /// Whoever can put a socket in the place of ours hears the credential.
    pub fn check_folder(&self) -> Result<(), Error> {
        let folder = match self.socket.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        let mode = fs::metadata(folder).map_err(|error| Error::Folder(folder.to_owned(), error))?.mode();
        if mode & 0o022 != 0 {
            return Err(Error::FolderExposed(folder.to_owned(), mode & 0o777));
        }
        Ok(())
    }
}

/// The socket by which nginx comes to the server.
pub(crate) fn socket(flag: Option<PathBuf>, state: &Path) -> Result<PathBuf, SettingError> {
    let path: PathBuf = setting(flag, "ROLLCALL_SOCKET", "")?;
    Ok(if path.as_os_str().is_empty() { state.join("clerk/socket") } else { path })
}

/// The key that signs announcements, and the last epoch, which is remembered beside it.
pub(super) fn load_signing(key: &Path) -> Result<(Signer, LastEpoch), Error> {
    let signer = keyfile::signing_key(key).map_err(Error::BroadcastKey)?;
    Ok((signer, LastEpoch::beside(key).map_err(Error::Epoch)?))
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
