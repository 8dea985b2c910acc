//! `rollcall-admin stack`: prepares the folder of a stack, and tells its parts from strangers. The scripts in `stack/`
//! ask; they start and end the processes.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::cli::{ArgsInfo, Exit, Fatal, FromArgs, SettingError, setting};
use crate::http::identity::Identity;
use crate::lan::destination;
use crate::server;

pub mod ask;
mod folder;
mod prepare;
pub mod trust;
mod users;

/// for the scripts in stack/, with the settings that they export; not for people
#[derive(ArgsInfo, FromArgs)]
#[argh(subcommand, name = "stack")]
pub struct Options {
    #[argh(subcommand)]
    command: Command,
}

#[derive(ArgsInfo, FromArgs)]
#[argh(subcommand)]
enum Command {
    Folder(Folder),
    Prepare(Prepare),
    Server(Server),
    Port(Port),
}

/// make the state folder and print its path, or say why nothing can be started in it
#[derive(ArgsInfo, FromArgs)]
#[argh(subcommand, name = "folder")]
struct Folder {
    /// if its users cannot enter it, make it a link to one in /var/lib/rollcall
    #[argh(switch)]
    or_link: bool,
}

/// make the folders, the credential and the server's keys in the state folder, and nginx.conf.new from its template
#[derive(ArgsInfo, FromArgs)]
#[argh(subcommand, name = "prepare")]
struct Prepare {
    #[argh(positional)]
    template: PathBuf,
    /// change nothing, and print the files that it would
    #[argh(switch)]
    check: bool,
}

/// tell whose server has ROLLCALL_LISTEN, and whether it was started with these settings
#[derive(ArgsInfo, FromArgs)]
#[argh(subcommand, name = "server")]
struct Server {
    /// wait up to 15 s until ours is ready, as long as this process lives
    #[argh(option)]
    wait_for: Option<u32>,
}

/// print the UDP port of the first destination in ROLLCALL_BROADCAST
#[derive(ArgsInfo, FromArgs)]
#[argh(subcommand, name = "port")]
struct Port {}

pub fn run(options: Options) -> Result<(), Error> {
    match options.command {
        Command::Folder(Folder { or_link }) => folder::make(or_link),
        Command::Prepare(Prepare { template, check: false }) => prepare::prepare(&template),
        Command::Prepare(Prepare { template, check: true }) => prepare::check(&template),
        Command::Server(Server { wait_for }) => ask::server(wait_for),
        Command::Port(Port {}) => {
            let text: String = setting(None, "ROLLCALL_BROADCAST", "auto")?;
            let destinations = destination::parse(&text)
                .map_err(|error| Error::Server(server::Error::Destination(error)))?;
            destinations.first().map_or(Ok(()), |first| print(first.port()))
        }
    }
}

/// The settings of a stack, beside those of its server.
struct Settings {
    state: PathBuf,
    certs: PathBuf,
    /// Of nginx and the server.
    socket: PathBuf,
    https_port: u16,
    /// Requests a second.
    rate: u32,
    identity: Identity,
    /// Of rollcall-board; `None` if it is switched off.
    board: Option<SocketAddr>,
}

impl Settings {
    fn read() -> Result<Self, Error> {
        whole("ROLLCALL_LOG_SIZE", "64", "MiB", 999_999)?;
        let state: PathBuf = setting(None, "ROLLCALL_STATE", ".run")?;
        let socket = server::socket(None, &state)?;
        let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._@%+=:-".contains(byte);
        if !socket.as_os_str().as_encoded_bytes().iter().all(is_plain) {
            return Err(Error::Misread(socket));
        }
        Ok(Self {
            state,
            certs: setting(None, "ROLLCALL_CERTS", "certs")?,
            socket,
            https_port: setting(None, "ROLLCALL_HTTPS_PORT", "443")?,
            rate: whole("ROLLCALL_RATE", "20", "requests a second", 9_999_999)?,
            identity: setting(None, "ROLLCALL_IDENTITY", "cn")?,
            board: match setting(None, "ROLLCALL_BOARD", "on")? {
                Switch(true) => Some(setting(None, "ROLLCALL_BOARD_LISTEN", "127.0.0.1:8001")?),
                Switch(false) => None,
            },
        })
    }
}

/// The values of `ROLLCALL_BOARD`.
struct Switch(bool);

impl FromStr for Switch {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "on" => Ok(Self(true)),
            "off" => Ok(Self(false)),
            _ => Err("it is either on or off"),
        }
    }
}

fn whole(variable: &'static str, default: &str, unit: &'static str, most: u32) -> Result<u32, Error> {
    let text: String = setting(None, variable, default)?;
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    match text.parse() {
        Ok(number) if is_plain && number <= most => Ok(number),
        _ => Err(Error::NotWhole { variable, text, unit, most }),
    }
}

fn print(line: impl fmt::Display) -> Result<(), Error> {
    use io::Write;
    writeln!(io::stdout(), "{line}").map_err(Error::Output)
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Setting(#[from] SettingError),
    #[error("{variable} is {text:?}: it must be a whole number of {unit}, {most} at the most")]
    NotWhole { variable: &'static str, text: String, unit: &'static str, most: u32 },
    #[error(
        "ROLLCALL_SOCKET is {path}: nginx would misread it; letters, digits and /._@%+=:- are fine",
        path = .0.display()
    )]
    Misread(PathBuf),
    #[error("ROLLCALL_CRL=off is for ROLLCALL_CA=external: our own CA has its CRL always")]
    OwnWithoutCrl,
    #[error(transparent)]
    Server(#[from] server::Error),
    /// PostgreSQL's socket lies in the folder.
    #[error(
        "the path {path} is too long for a Unix socket (unix(7)): set ROLLCALL_STATE to a shorter one",
        path = .0.display()
    )]
    TooLong(PathBuf),
    #[error("the user {0} is missing: just setup makes it")]
    NoUser(String),
    #[error(
        "the user {0} cannot enter {path}: choose a ROLLCALL_STATE that the users of all parts can",
        path = .1.display()
    )]
    CannotEnter(String, PathBuf),
    /// systemd runs the parts in this folder.
    #[error(
        "systemd's services run the stack in {path} (deploy/README.md): use systemctl, or set ROLLCALL_STATE to \
         another folder",
        path = .0.display()
    )]
    Services(PathBuf),
    #[error(
        "{key} is missing, and {half} is there: put the key back. Or remove both halves, also the server's copy: \
         then a new pair is made, and every listener needs its public half",
        key = key.display(), half = half.display()
    )]
    LostKey { key: PathBuf, half: PathBuf },
    #[error("{path} is not a file: remove it, then just up makes it anew", path = .0.display())]
    NoFile(PathBuf),
    #[error("{path}: {1}", path = .0.display())]
    File(PathBuf, io::Error),
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
}

impl Error {
    /// For `map_err`.
    fn of(path: &Path) -> impl Fn(io::Error) -> Self {
        move |error| Error::File(path.to_owned(), error)
    }
}

impl Fatal for Error {
    fn exit(&self) -> Exit {
        match self {
            Error::Setting(_) | Error::NotWhole { .. } | Error::Misread(_) | Error::OwnWithoutCrl => {
                Exit::Config
            }
            Error::Server(error) => error.exit(),
            _ => Exit::Failure,
        }
    }
}
