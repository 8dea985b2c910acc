//! Why the listener ends, and with which exit code.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::cli::{Exit, Fatal, SettingError};
use crate::files::{FileError, OwnFile};
use crate::keyfile;
use crate::lan::Group;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Setting(#[from] SettingError),
    #[error(transparent)]
    Key(#[from] keyfile::Error),
    #[error(
        "there is no public key {path}: copy certs/broadcast.pub of the server's host to it, or that which just keys prints there",
        path = .0.display()
    )]
    NoKey(PathBuf),
    #[error("--privacy-key and --people resolve pseudonyms together; one is missing")]
    HalfOfPrivacy,
    #[error("--stats-file {path}: node_exporter reads files alone whose names end in .prom", path = .0.display())]
    StatsFile(PathBuf),
    #[error("--state remembers verified announcements, and without a --key there are none")]
    NothingToRemember,
    #[error("--relay passes on verified announcements, and without a --key there are none")]
    NothingToRelay,
    #[error(
        "--relay {0} is the port of this listener itself: name the address of the relay at the other site, or another port"
    )]
    RelayToItself(SocketAddr),
    #[error("--relay-rate bounds what --relay passes on, at 1 to 1000000 a second")]
    RelayRate,
    #[error("cannot list the network's interfaces: {0}")]
    Relay(io::Error),
    #[error(transparent)]
    State(FileError<OwnFile>),
    /// The memory of the announcements that were heard can no longer be kept.
    #[error(transparent)]
    Save(FileError<OwnFile>),
    #[error("cannot listen for signals: {0}")]
    Signals(io::Error),
    #[error("cannot bind {address}: {error}")]
    Bind { address: SocketAddr, error: io::Error },
    #[error(
        "cannot bind {address}: {error}; {programs} holds the port without sharing it: stop it, or listen with \
         another --port"
    )]
    Held { address: SocketAddr, error: io::Error, programs: String },
    #[error("cannot join {0}: {1}; the interface is named as in 239.1.2.3%eth0, and IPv6 needs --bind ::")]
    Join(Group, io::Error),
    #[error("cannot receive: {0}")]
    Receive(io::Error),
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
    #[error("the time is over and {printed} of {count} statuses came")]
    TooFew { printed: u64, count: u64 },
}

impl Fatal for Error {
    fn exit(&self) -> Exit {
        match self {
            Error::HalfOfPrivacy
            | Error::NothingToRemember
            | Error::NothingToRelay
            | Error::RelayToItself(_)
            | Error::RelayRate
            | Error::StatsFile(_) => Exit::Usage,
            Error::State(error) if error.may_pass() => Exit::Failure,
            Error::Setting(_) | Error::Key(_) | Error::NoKey(_) | Error::State(_) => Exit::Config,
            _ => Exit::Failure,
        }
    }
}
