//! The errors of `rollcall-admin`, and the exit code of each.

use std::io;
use std::path::{Path, PathBuf};

use crate::cli::{Exit, Fatal, SettingError, Timespan};
use crate::keyfile;
use crate::protocol::status::{Email, EmailError};
use crate::stack;
use crate::store;
use crate::store::sighting::{self, Serial};
use crate::x509;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Stack(#[from] stack::Error),
    #[error(transparent)]
    Setting(#[from] SettingError),
    #[error(
        "DATABASE_URL is not set (postgres://USER@HOST/DATABASE); `just user …` sets it for the private cluster"
    )]
    NoDatabase,
    #[error("no email was given")]
    NoEmails,
    #[error("no email, name of a device, serial number or fingerprint was given")]
    NoNames,
    #[error("give the name of one device")]
    OneName,
    #[error("{0}")]
    Flags(&'static str),
    #[error("the new certificate is not used: {0}")]
    Unverified(String),
    #[error("cannot listen for signals: {0}")]
    Signals(io::Error),
    #[error(transparent)]
    Email(EmailError),
    #[error(transparent)]
    Certificate(sighting::Error),
    #[error(transparent)]
    Store(store::Error),
    #[error("{0}; this was not done. just doctor says more")]
    Away(store::Error),
    #[error(
        "{0}; it is not known whether this was done. Once just status is green run it again, which changes nothing that was"
    )]
    InDoubt(store::Error),
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
    #[error("{path}: {1}", path = .0.display())]
    File(PathBuf, io::Error),
    #[error("{path}: {1}", path = .0.display())]
    X509(PathBuf, x509::Error),
    #[error(transparent)]
    Key(x509::Error),
    #[error("the system gives no random numbers")]
    Random,

    #[error("another command is at work in {path}; try again when it has ended", path = .0.display())]
    Busy(PathBuf),
    #[error("the name {0:?} cannot be a device's: {1}; take another --name")]
    Name(String, &'static str),
    #[error("ROLLCALL_CERT_DAYS is {0}: a certificate lives for 1 to 3650 days")]
    Days(u64),

    #[error("a CN holds at most 64 characters (RFC 5280, ub-common-name), and {0} has {1}")]
    LongCn(Email, usize),
    #[error("{path} is there already, with another key or for somebody else ({1}); take another --name", path = .0.display())]
    NameTaken(PathBuf, String),
    #[error("the name {0} is that of a device of {1}; take another --name, or revoke that one")]
    DeviceTaken(String, String),
    #[error("{0}.crt is revoked: just renew {0} makes a new one, and so does another --name")]
    IsRevoked(String),
    #[error("{0}.crt has ended: just renew {0}")]
    HasEnded(String),
    #[error("no CA in ca.crt has signed {0}.crt: just renew {0}")]
    AnotherAuthority(String),
    #[error("there is no certificate in {path} to renew; just enrol makes one", path = .0.display())]
    NothingToRenew(PathBuf),
    #[error(
        "the key of {0} is on its device: let it make a request, and just renew {0} --csr FILE; or just renew {0} --new-key, \
         and copy both files to it"
    )]
    KeyElsewhere(String),
    #[error("{path} cannot be noted: {1}", path = .0.display())]
    Given(PathBuf, String),
    #[error("the key of {0} is on its device, so there can be no bundle here")]
    NoKeyForBundle(String),
    #[error("cannot make {path}: {1}", path = .0.display())]
    Bundle(PathBuf, String),
    #[error("not a host's name or address: {0}")]
    NotAHost(String),
    #[error("server.crt is not for {0}, but for {1}")]
    NotItsName(String, String),

    #[error("{0} requests were not answered, for the reasons above; they wait")]
    Unanswered(usize),
    #[error("the signer {0:?} failed: {1}")]
    Signer(String, io::Error),
    #[error("that which the signer {0:?} made is not used: {1}")]
    Signed(String, String),
    #[error(
        "ROLLCALL_CA is external, so that this host cannot sign: ROLLCALL_SIGN names a command that can; or let the CA \
         sign, and just enrol EMAIL --cert FILE"
    )]
    NoSigner,

    #[error(
        "ROLLCALL_CA is joined: do that on the host with the key of the CA, whose stack this server has joined"
    )]
    Joined,
    #[error(
        "{0}: this needs the rights of the owner of the tables; DATABASE_URL names another role, or one without those of \
         deploy/grants.sql"
    )]
    Denied(store::Error),
    #[error("the host with the CA has put no CRL of {0} into the database: just crl there")]
    NoPublishedCrl(String),
    #[error("the CRL of {0} in the database is not taken: {1}")]
    PublishedCrl(String, String),
    #[error(
        "DATABASE_URL is the database of another CA ({0}), whose key is on another host, and the server of each would refuse \
         the devices of the other. This host becomes one more server of that database by just invite NAME on that one and \
         just join here, with folders in which there is no CA (docs/operations.md, \"Several servers\"). Only if that CA is \
         lost: just ca init --forget-others"
    )]
    AnothersDatabase(String),
    #[error("{0}")]
    Join(String),
    #[error(transparent)]
    PublicKeys(keyfile::Error),
    #[error("there is no CA in {path}; just up makes one", path = .0.display())]
    NoAuthority(PathBuf),
    #[error("ROLLCALL_CA is not own, and {path} is missing or empty: give it (just join does, where it is joined)", path = .0.display())]
    NotGiven(PathBuf),
    #[error(
        "{authority} is there, and its key {key} is not: put the key back; or, if the CA is somebody else's, set \
         ROLLCALL_CA=external",
        authority = authority.display(), key = key.display()
    )]
    NoKey { authority: PathBuf, key: PathBuf },
    #[error(
        "{path} is there, and ca.crt is not, and no certificate here still tells the CA's name: put ca.crt back; or \
         remove the key, and a new CA is made that knows nobody",
        path = .0.display()
    )]
    LostName(PathBuf),
    #[error("{path} is encrypted, and ca.crt is lost: put ca.crt back", path = .0.display())]
    LockedName(PathBuf),
    #[error("the last --finish ended early: run it again")]
    NotFinished,
    #[error("ROLLCALL_CA is external: its CA does that")]
    NotOurs,
    #[error("server.crt has ended: just renew-server; of somebody else's CA, put a new one there")]
    ServerEnded,
    #[error("no CA is being replaced: just ca replace begins that")]
    NotReplacing,
    #[error(
        "{0} certificates of the old CA were used within 30 days, and would be refused: {1}. Renew them, and let each device \
         use its new one first; or --finish --yes"
    )]
    InUse(usize, String),
    #[error("cannot encrypt {path}: {1}", path = .0.display())]
    Protect(PathBuf, String),

    #[error(
        "no certificate {0} is known: no email, device, serial number or fingerprint; just certs shows them. A number \
         that only our CA knows is revoked with --unknown"
    )]
    Unknown(String),
    #[error(
        "the database does not know {0}.crt (a restored dump?): just enrol EMAIL --name {0} notes it, and then it can be \
         revoked"
    )]
    OnlyAFile(String),
    #[error("{0} is the number of {1}, and of no device: {2} puts another in its place")]
    NoDevices(Serial, String, &'static str),
    #[error("{0} was the name of several people's devices ({1}): give a serial number (just certs)")]
    SeveralPeople(String, String),
    #[error("several CAs gave the serial number {0}: give one of the fingerprints {1}")]
    SeveralCertificates(String, String),
    #[error(
        "the server refuses them from now on (certificates: {0}), but nginx does not know of it: {1}. Run just crl"
    )]
    HalfRevoked(usize, Box<Error>),
    #[error(
        "{0} is forgotten, and the server refuses them, but nginx does not know of it: {1}. Run just crl"
    )]
    HalfForgotten(Email, Box<Error>),
    #[error("ROLLCALL_KEEP is {0}: events are kept for 1d to 3650d")]
    Keep(Timespan),
    #[error("the database did not answer with JSON")]
    NotJson,
    #[error("the CRL {0}: {1}")]
    List(String, String),
    #[error(
        "{path} is damaged, and with it the list of the revoked that this host has published: put it back; or, if the \
         database knows them all, crl --drop-forgotten",
        path = .0.display()
    )]
    DamagedCrl(PathBuf),
    #[error("{0} CRLs of other CAs could not be taken; see above")]
    Lists(usize),
    #[error("there is no CRL for nginx: put the one of the CA into crl.d, or set ROLLCALL_CRL")]
    NoCrl,
    #[error("nginx does not take the new files, and goes on with the old: {0}")]
    Reload(String),
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::InDoubt(_) => Error::InDoubt(error),
            _ if error.is_transient() => Error::Away(error),
            _ => Error::Store(error),
        }
    }
}

impl Error {
    /// For `map_err`.
    pub(super) fn file(path: &Path) -> impl Fn(io::Error) -> Self {
        move |error| Error::File(path.to_owned(), error)
    }
}

impl Fatal for Error {
    fn exit(&self) -> Exit {
        match self {
            Error::Stack(error) => error.exit(),
            Error::Setting(_) | Error::NoDatabase | Error::Days(_) | Error::Keep(_) | Error::NoSigner => {
                Exit::Config
            }
            Error::Store(error) if error.is_configuration() => Exit::Config,
            Error::NoEmails
            | Error::NoNames
            | Error::OneName
            | Error::Flags(_)
            | Error::Email(_)
            | Error::Name(..) => Exit::Usage,
            Error::NotAHost(_) | Error::NotItsName(..) => Exit::Usage,
            Error::Away(_) => Exit::Unavailable,
            Error::InDoubt(_) => Exit::TryLater,
            _ => Exit::Failure,
        }
    }
}
