//! Enrolment: the people and certificates that count. The commands behind `rollcall-admin`.
//!
//! The database is the only place that knows which certificates exist. Every file is derived from it, checked before
//! it replaces the old one, and can be made again.

use std::fmt::Display;
use std::io::{self, Write};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use async_std::task;

use crate::cli::{ArgsInfo, FromArgs, Timespan, here, note, setting};
use crate::stack;
use crate::stack::trust::{Authority, Trust};
use crate::store::Store;
use crate::store::presence::{LONGEST_EVERY, Reads};

mod authority;
mod crl;
mod desk;
mod error;
mod folder;
mod forget;
mod history;
mod import;
mod invite;
mod issue;
mod join;
mod keys;
mod list;
mod renewals;
mod revoke;
pub mod scram;
mod signer;
mod taken;
mod users;

pub use error::Error;

/// How long the database may take for one question.
const DEADLINE: Duration = Duration::from_secs(10);

/// Keeps people, certificates, CRL and CA by the database of DATABASE_URL, and signs for devices that renew.
#[derive(ArgsInfo, FromArgs)]
pub struct Options {
    #[argh(subcommand)]
    command: Command,
}

#[derive(ArgsInfo, FromArgs)]
#[argh(subcommand)]
enum Command {
    User(User),
    Enrol(Enrol),
    Renew(Renew),
    Revoke(Revoke),
    Certs(Certs),
    Keys(keys::Keys),
    Invite(invite::Invite),
    Join(join::Join),
    Leave(join::Leave),
    Crl(Crl),
    Ca(Ca),
    Sign(Sign),
    History(History),
    Maintain(Maintain),
    Migrate(Migrate),
    Stack(stack::Options),
}

/// bring the database's schema up to date; the server does the same when it starts
#[derive(ArgsInfo, FromArgs)]
#[argh(subcommand, name = "migrate")]
struct Migrate {}

/// the people that are enrolled
#[derive(ArgsInfo, FromArgs)]
#[argh(subcommand, name = "user")]
struct User {
    #[argh(subcommand)]
    command: UserCommand,
}

#[derive(ArgsInfo, FromArgs)]
#[argh(subcommand)]
enum UserCommand {
    Add(Add),
    List(List),
    Disable(Disable),
    Enable(Enable),
    Every(Every),
    Reads(SetReads),
    Mend(Mend),
    Export(Export),
    Forget(Forget),
}

/// set times in the future to now, after a clock was wrong; the doctor finds them
#[derive(ArgsInfo, FromArgs)]
#[argh(subcommand, name = "mend")]
struct Mend {}

/// enrol; one that is enrolled already stays as it is
#[derive(ArgsInfo, FromArgs)]
#[argh(subcommand, name = "add")]
struct Add {
    #[argh(positional)]
    email: Vec<String>,
}

/// show everybody, the most recently seen first
#[derive(ArgsInfo, FromArgs)]
#[argh(subcommand, name = "list")]
struct List {
    /// one JSON object per line
    #[argh(switch)]
    json: bool,
}

/// refuse from the next request on; the row stays
#[derive(ArgsInfo, FromArgs)]
#[argh(subcommand, name = "disable")]
struct Disable {
    #[argh(positional)]
    email: Vec<String>,
}

/// lift a disable
#[derive(ArgsInfo, FromArgs)]
#[argh(subcommand, name = "enable")]
struct Enable {
    #[argh(positional)]
    email: Vec<String>,
}

/// set the time between two heartbeats of a person, by which silence is judged
#[derive(ArgsInfo, FromArgs)]
#[argh(subcommand, name = "every")]
struct Every {
    #[argh(positional)]
    email: String,
    /// such as 5m, from 1s to 1d; or client, for that which the client says (30s, if it does not)
    #[argh(positional)]
    every: Cadence,
}

/// set whom a person may see: none, self (the default) or all
#[derive(ArgsInfo, FromArgs)]
#[argh(subcommand, name = "reads")]
struct SetReads {
    #[argh(positional)]
    email: String,
    #[argh(positional)]
    reads: Reads,
}

/// Seconds between two heartbeats; `None` for those that the client says.
struct Cadence(Option<u32>);

impl FromStr for Cadence {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "it is client, or whole seconds from 1s to 1d, such as 5m";
        if text == "client" {
            return Ok(Self(None));
        }
        let Timespan(every) = text.parse().map_err(|_| FORM)?;
        let seconds =
            u32::try_from(every.as_secs()).ok().filter(|seconds| (1..=LONGEST_EVERY).contains(seconds));
        seconds.filter(|_| every.subsec_nanos() == 0).map(|seconds| Self(Some(seconds))).ok_or(FORM)
    }
}

/// print everything that is held about a person, as one JSON object
#[derive(ArgsInfo, FromArgs)]
#[argh(subcommand, name = "export")]
struct Export {
    #[argh(positional)]
    email: String,
}

/// remove a person and their history for good; their certificates stay refused, without the email
#[derive(ArgsInfo, FromArgs)]
#[argh(subcommand, name = "forget")]
struct Forget {
    #[argh(positional)]
    email: Vec<String>,
}

/// enrol a person or device: the row, a key and a certificate; run again it changes nothing
#[derive(ArgsInfo, FromArgs)]
#[argh(subcommand, name = "enrol")]
struct Enrol {
    #[argh(positional)]
    email: String,
    /// name of the device and of its files (default: the email), so that one person can have several
    #[argh(option)]
    name: Option<String>,
    /// sign this request (PKCS #10) of a device that keeps its key; the key alone is taken from it
    #[argh(option)]
    csr: Option<PathBuf>,
    /// note this certificate, which a CA in ca.crt has signed
    #[argh(option)]
    cert: Option<PathBuf>,
    /// add a bundle for browsers, NAME.p12; openssl asks for its password (or ROLLCALL_P12_PASSWORD)
    #[argh(switch)]
    p12: bool,
    /// the same in the form that older systems read
    #[argh(switch)]
    p12_legacy: bool,
}

/// put a new key and certificate in the place of NAME.crt and NAME.key; the old one works until it ends
#[derive(ArgsInfo, FromArgs)]
#[argh(subcommand, name = "renew")]
struct Renew {
    /// the name of a device; with --server further names and addresses that clients call the server by
    #[argh(positional)]
    names: Vec<String>,
    /// sign this request (PKCS #10) of a device that keeps its key
    #[argh(option)]
    csr: Option<PathBuf>,
    /// make a new key here, though the one of the certificate before is on the device
    #[argh(switch)]
    new_key: bool,
    /// renew the server's, and let nginx read it
    #[argh(switch)]
    server: bool,
    /// with --server: a name or address to leave out; repeat for several
    #[argh(option)]
    without: Vec<String>,
}

/// refuse certificates from the next request on, for good: all of a person, of a device, or one by its serial number
/// or fingerprint
#[derive(ArgsInfo, FromArgs)]
#[argh(subcommand, name = "revoke")]
struct Revoke {
    #[argh(positional)]
    names: Vec<String>,
    /// also a serial number that no row describes, of our own CA
    #[argh(switch)]
    unknown: bool,
}

/// show every certificate that was made, given or seen, the soonest end first
#[derive(ArgsInfo, FromArgs)]
#[argh(subcommand, name = "certs")]
struct Certs {
    /// only those that end within this time, such as 30d
    #[argh(option)]
    expiring: Option<Timespan>,
    /// one JSON object per line
    #[argh(switch)]
    json: bool,
}

/// make a fresh list of the revoked, and let nginx read it
#[derive(ArgsInfo, FromArgs)]
#[argh(subcommand, name = "crl")]
struct Crl {
    /// only if it lacks a revocation, or ends within 20 days
    #[argh(switch)]
    if_due: bool,
    /// lift revocations that the last published list has and the database does not, instead of revoking again
    #[argh(switch)]
    drop_forgotten: bool,
}

/// our certificate authority
#[derive(ArgsInfo, FromArgs)]
#[argh(subcommand, name = "ca")]
struct Ca {
    #[argh(subcommand)]
    command: CaCommand,
}

#[derive(ArgsInfo, FromArgs)]
#[argh(subcommand)]
enum CaCommand {
    Init(Init),
    Renew(RenewCa),
    Replace(Replace),
    Protect(Protect),
}

/// make the CA and the server's certificate, unless they are there; just up does this
#[derive(ArgsInfo, FromArgs)]
#[argh(subcommand, name = "init")]
struct Init {
    /// also if the database of DATABASE_URL is that of another CA, which is lost: it forgets that one's list
    #[argh(switch)]
    forget_others: bool,
}

/// ten further years for the CA, with its name and its key: all that it signed goes on
#[derive(ArgsInfo, FromArgs)]
#[argh(subcommand, name = "renew")]
struct RenewCa {}

/// a new CA beside the old one, which stays trusted until --finish
#[derive(ArgsInfo, FromArgs)]
#[argh(subcommand, name = "replace")]
struct Replace {
    /// end the trust in the old one
    #[argh(switch)]
    finish: bool,
    /// also if certificates of the old one are in use
    #[argh(switch)]
    yes: bool,
}

/// encrypt the key of the CA with a passphrase
#[derive(ArgsInfo, FromArgs)]
#[argh(subcommand, name = "protect")]
struct Protect {}

/// answer the requests of devices that renew their certificates by themselves (rollcall-client --renew)
#[derive(ArgsInfo, FromArgs)]
#[argh(subcommand, name = "sign")]
struct Sign {
    /// go on, and look each second, until SIGTERM or SIGINT; just up starts this
    #[argh(switch)]
    watch: bool,
}

/// the visits of a person: from when to when, from where; the newest last
#[derive(ArgsInfo, FromArgs)]
#[argh(subcommand, name = "history")]
struct History {
    #[argh(positional)]
    email: String,
    /// only what happened within this time, such as 7d (default: all that is kept)
    #[argh(option)]
    since: Option<Timespan>,
    /// one JSON object per line
    #[argh(switch)]
    json: bool,
}

/// once a day: make room for the events to come, and drop those older than ROLLCALL_KEEP
#[derive(ArgsInfo, FromArgs)]
#[argh(subcommand, name = "maintain")]
struct Maintain {}

/// Runs one command: against `DATABASE_URL`, unless it is about a stack's folder.
pub fn run(options: Options) -> Result<(), Error> {
    match options.command {
        Command::Stack(options) => Ok(stack::run(options)?),
        Command::Migrate(Migrate {}) => with_store(async |_| Ok(())),
        Command::User(User { command }) => with_store(async |store| {
            let changes = !matches!(command, UserCommand::List(_) | UserCommand::Export(_));
            users::run(store, command).await?;
            if changes { Ok(store.confirm().await?) } else { Ok(()) }
        }),
        Command::Enrol(options) => changing(async |store| issue::enrol(store, &options).await),
        Command::Renew(options) if options.server => issue::renew_server(&options),
        Command::Renew(options) => changing(async |store| issue::renew(store, &options).await),
        Command::Revoke(options) => changing(async |store| revoke::revoke(store, &options).await),
        Command::Certs(options) => with_store(async |store| list::list(store, &options).await),
        Command::Invite(options) => with_store(async |store| invite::invite(store, &options).await),
        Command::Join(join::Join { database_url: given, invitation }) => {
            let url = given.map_or_else(database_url, Ok)?;
            with_store_at(&url, async |store| join::join(store, &url, invitation).await)
        }
        Command::Leave(options) => changing(async |store| join::leave(store, &options).await),
        Command::Keys(options) => with_store(async |store| keys::keys(store, &options).await),
        Command::History(options) => with_store(async |store| history::history(store, &options).await),
        Command::Maintain(Maintain {}) => with_store(async |store| history::maintain(store).await),
        Command::Crl(options) => with_store(async |store| crl::crl(store, &options).await),
        Command::Sign(Sign { watch: false }) => with_store(async |store| renewals::sign(store).await),
        Command::Sign(Sign { watch: true }) => renewals::watch(&database_url()?),
        Command::Ca(Ca { command }) => match command {
            CaCommand::Init(Init { forget_others }) => authority::init(forget_others),
            CaCommand::Renew(RenewCa {}) => authority::renew(),
            CaCommand::Replace(options) => {
                with_store(async |store| authority::replace(store, &options).await)
            }
            CaCommand::Protect(Protect {}) => authority::protect(),
        },
    }
}

/// An end like that of [`with_store`] says that it was done. Where nothing had to be changed, another command that was
/// given up may have changed it, and its commit may still wait for a standby: so it is waited for once more.
fn changing(act: impl AsyncFnOnce(&Store) -> Result<(), Error>) -> Result<(), Error> {
    with_store(async |store| {
        act(store).await?;
        Ok(store.confirm().await?)
    })
}

fn with_store(act: impl AsyncFnOnce(&Store) -> Result<(), Error>) -> Result<(), Error> {
    with_store_at(&database_url()?, act)
}

fn with_store_at(url: &str, act: impl AsyncFnOnce(&Store) -> Result<(), Error>) -> Result<(), Error> {
    task::block_on(async {
        let store = Store::open(url, DEADLINE)?.told_by(|wait| {
            note(format_args!("rollcall-admin: waiting for the database, {wait}"));
        });
        let done = async {
            store.migrate().await?;
            act(&store).await
        };
        let done = done.await;
        if matches!(done, Err(Error::InDoubt(_))) {
            // Whatever it has locked is free then.
            store.finish().await;
            if store.waits_for_standby() {
                note("rollcall-admin: a commit waits for the synchronous standby of the database");
            }
        }
        store.close().await;
        done.map_err(denied)
    })
}

/// A server's own role may do little, and a host that has joined has no other.
fn denied(error: Error) -> Error {
    match error {
        Error::Store(error) if error.is_denied() => match is_joined() {
            true => Error::Joined,
            false => Error::Denied(error),
        },
        error => error,
    }
}

/// Is the key of the CA on another host, which administers?
fn is_joined() -> bool {
    Trust::read().is_ok_and(|trust| trust.authority == Authority::Joined)
}

fn database_url() -> Result<String, Error> {
    let url: String = setting(None, "DATABASE_URL", "")?;
    if url.is_empty() { Err(Error::NoDatabase) } else { Ok(url) }
}

fn report(subject: &impl Display, change: &str) -> Result<(), Error> {
    unless_closed(writeln!(io::stdout(), "{subject} {}", here(change)))
}

fn time(ns: u64) -> String {
    humantime::format_rfc3339_nanos(SystemTime::UNIX_EPOCH + Duration::from_nanos(ns)).to_string()
}

/// A reader that closed the pipe has seen enough: `rollcall-admin user list | head` is a success.
fn unless_closed(written: io::Result<()>) -> Result<(), Error> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(Error::Output),
    }
}
