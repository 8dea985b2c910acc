//! The settings of the board, from flags and environment, and the files that they name.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::Error;
use crate::cli::{ArgsInfo, FromArgs, logging, setting};
use crate::files;
use crate::http::identity::{Canary, Credential, Identity};
use crate::keyfile;
use crate::protocol::keys::PublicKey;
use crate::protocol::pseudonym::{self, Privacy};
use crate::protocol::status::Email;

/// Says who is here: over nginx to holders of certificates that may read, on its own port to holders of its token. The
/// database is DATABASE_URL, the folder with the token ROLLCALL_STATE; the log's detail is ROLLCALL_LOG, its form
/// ROLLCALL_LOG_FORMAT. It hears the announcements on UDP port ROLLCALL_PORT, of the servers whose keys are in
/// ROLLCALL_KEYS. It tells each executable in ROLLCALL_HOOKS of each event.
#[derive(ArgsInfo, Default, FromArgs)]
pub struct Options {
    /// where to listen: IP:PORT (ROLLCALL_BOARD_LISTEN, default 127.0.0.1:8001)
    #[argh(option)]
    pub(super) listen: Option<SocketAddr>,
    /// file with the secret that nginx presents (default $ROLLCALL_STATE/board/proxy-credential)
    #[argh(option)]
    pub(super) proxy_credential: Option<PathBuf>,
    /// read the settings, report the first mistake in them, and start nothing
    #[argh(switch)]
    pub(super) check: bool,
    #[argh(subcommand)]
    pub(super) command: Option<Command>,
}

/// Another job than to serve, with the same settings.
#[derive(ArgsInfo, FromArgs)]
#[argh(subcommand)]
pub enum Command {
    Link(Link),
}

/// print the address of the page, with a code that is good once and for 60 s
#[derive(ArgsInfo, FromArgs)]
#[argh(subcommand, name = "link")]
pub struct Link {}

pub(super) struct Settings {
    pub listen: SocketAddr,
    pub database_url: Option<String>,
    pub identity: Identity,
    pub canary: Option<Email>,
    /// Of the announcements.
    pub port: u16,
    /// `None`: announcements are not heard.
    pub keys_folder: Option<PathBuf>,
    privacy_key: Option<PathBuf>,
    proxy_credential: PathBuf,
    folder: PathBuf,
    /// The folder of the hooks.
    pub hooks: PathBuf,
    pub log: logging::Log,
}

impl Settings {
    pub fn read(listen: Option<SocketAddr>, proxy_credential: Option<PathBuf>) -> Result<Self, Error> {
        let path = |variable| {
            let path: PathBuf = setting(None, variable, "")?;
            Ok::<_, Error>(Some(path).filter(|path| !path.as_os_str().is_empty()))
        };
        let database_url: String = setting(None, "DATABASE_URL", "")?;
        let state: PathBuf = setting(None, "ROLLCALL_STATE", ".run")?;
        let folder = state.join("board");
        let listen: SocketAddr = setting(listen, "ROLLCALL_BOARD_LISTEN", "127.0.0.1:8001")?;
        // There is no TLS on this port.
        if !listen.ip().is_loopback() {
            return Err(Error::NotLoopback(listen));
        }
        let hooks = path("ROLLCALL_HOOKS")?.unwrap_or_else(|| state.join("hooks"));
        Ok(Self {
            listen,
            database_url: Some(database_url).filter(|url| !url.is_empty()),
            identity: setting(None, "ROLLCALL_IDENTITY", "cn")?,
            canary: setting::<Canary>(None, "ROLLCALL_CANARY", "")?.0,
            port: setting(None, "ROLLCALL_PORT", "6667")?,
            keys_folder: path("ROLLCALL_KEYS")?,
            privacy_key: match setting(None, "ROLLCALL_PRIVACY", "clear")? {
                Privacy::Clear => None,
                Privacy::Pseudonym => Some(path("ROLLCALL_PRIVACY_KEY")?.ok_or(Error::NoPrivacyKey)?),
            },
            proxy_credential: proxy_credential.unwrap_or_else(|| folder.join("proxy-credential")),
            folder,
            // A hook works elsewhere.
            hooks: std::path::absolute(&hooks).unwrap_or(hooks),
            log: logging::Log {
                filter: setting(None, "ROLLCALL_LOG", logging::DEFAULT)?,
                format: setting(None, "ROLLCALL_LOG_FORMAT", "text")?,
            },
        })
    }

    /// nginx's word for a reader's name counts with it.
    pub fn credential(&self) -> Result<Credential, Error> {
        let path = &self.proxy_credential;
        let text = files::read_secret(path).map_err(|error| Error::CredentialFile(path.clone(), error))?;
        Credential::new(&String::from_utf8_lossy(&text))
            .map_err(|error| Error::Credential(path.clone(), error))
    }

    /// The keys of the servers.
    pub fn keys(&self) -> Result<Vec<PublicKey>, Error> {
        self.keys_folder.as_deref().map_or(Ok(Vec::new()), keyfile::public_keys_in).map_err(Error::Keys)
    }

    pub fn pseudonyms(&self) -> Result<Option<pseudonym::Key>, Error> {
        self.privacy_key.as_deref().map(keyfile::pseudonym_key).transpose().map_err(Error::PrivacyKey)
    }

    /// The secret of the readers on this host.
    pub fn token(&self) -> Result<Credential, Error> {
        let path = self.folder.join("token");
        let text = files::read_secret(&path).map_err(|error| Error::TokenFile(path.clone(), error))?;
        Credential::new(&String::from_utf8_lossy(&text)).map_err(|error| Error::Token(path, error))
    }
}
