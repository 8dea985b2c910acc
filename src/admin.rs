//! Enrolment: the people and certificates that count. The commands behind `rollcall-admin`.

use std::fmt::Display;
use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use async_std::task;

use crate::cli::{Exit, Fatal, FromArgs, SettingError, Timespan, seconds, setting};
use crate::protocol::status::{Email, EmailError};
use crate::stack;
use crate::store::sighting::{self, Certificate, Serial};
use crate::store::{self, CertificateRow, Store, UserRow};

/// Enrols, lists and disables people and devices in the database of DATABASE_URL.
#[derive(FromArgs)]
pub struct Options {
    #[argh(subcommand)]
    command: Command,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Command {
    User(User),
    Cert(Cert),
    Migrate(Migrate),
    Stack(stack::Options),
}

/// bring the database's schema up to date; the server does the same when it starts
#[derive(FromArgs)]
#[argh(subcommand, name = "migrate")]
struct Migrate {}

/// the people that are enrolled
#[derive(FromArgs)]
#[argh(subcommand, name = "user")]
struct User {
    #[argh(subcommand)]
    command: UserCommand,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum UserCommand {
    Add(Add),
    List(List),
    Disable(Disable),
    Enable(Enable),
    Mend(Mend),
}

/// set times in the future to now, after a clock was wrong; the doctor finds them
#[derive(FromArgs)]
#[argh(subcommand, name = "mend")]
struct Mend {}

/// enrol; one that is enrolled already stays as it is
#[derive(FromArgs)]
#[argh(subcommand, name = "add")]
struct Add {
    #[argh(positional)]
    email: Vec<String>,
}

/// show everybody, the most recently seen first
#[derive(FromArgs)]
#[argh(subcommand, name = "list")]
struct List {
    /// one JSON object per line
    #[argh(switch)]
    json: bool,
}

/// refuse from the next request on; the row stays
#[derive(FromArgs)]
#[argh(subcommand, name = "disable")]
struct Disable {
    #[argh(positional)]
    email: Vec<String>,
}

/// lift a disable
#[derive(FromArgs)]
#[argh(subcommand, name = "enable")]
struct Enable {
    #[argh(positional)]
    email: Vec<String>,
}

/// which certificates may prove somebody
#[derive(FromArgs)]
#[argh(subcommand, name = "cert")]
struct Cert {
    #[argh(subcommand)]
    command: CertCommand,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum CertCommand {
    List(CertList),
    Revoke(CertRevoke),
    Add(CertAdd),
}

/// show every certificate that was enrolled or seen, the soonest end first
#[derive(FromArgs)]
#[argh(subcommand, name = "list")]
struct CertList {
    /// only those that end within this time, such as 30d
    #[argh(option)]
    expiring: Option<Timespan>,
    /// one JSON object per line
    #[argh(switch)]
    json: bool,
}

/// refuse from the next request on, for good: serial numbers, or emails for all of their certificates
#[derive(FromArgs)]
#[argh(subcommand, name = "revoke")]
struct CertRevoke {
    #[argh(positional)]
    name: Vec<String>,
}

/// note a certificate before its first use, as openssl x509 prints it; `just enrol` does this
#[derive(FromArgs)]
#[argh(subcommand, name = "add")]
struct CertAdd {
    #[argh(positional)]
    email: String,
    #[argh(positional)]
    serial: String,
    #[argh(positional)]
    fingerprint: String,
    #[argh(positional)]
    not_after: String,
}

/// Runs one command: against `DATABASE_URL`, unless it is about a stack's folder.
pub fn run(options: Options) -> Result<(), Error> {
    match options.command {
        Command::Stack(options) => Ok(stack::run(options)?),
        Command::Migrate(Migrate {}) => with_store(async |_| Ok(())),
        Command::User(User { command }) => with_store(async |store| match command {
            UserCommand::Add(Add { email }) => enrol(store, &email).await,
            UserCommand::List(List { json }) => list_users(&store.users().await?, json),
            UserCommand::Enable(Enable { email }) => set_disabled(store, &email, false).await,
            UserCommand::Disable(Disable { email }) => set_disabled(store, &email, true).await,
            UserCommand::Mend(Mend {}) => mend(store).await,
        }),
        Command::Cert(Cert { command }) => with_store(async |store| match command {
            CertCommand::List(CertList { expiring, json }) => {
                list_certificates(&store.certificates(None).await?, expiring, json)
            }
            CertCommand::Revoke(CertRevoke { name }) => revoke(store, &name).await,
            CertCommand::Add(certificate) => register(store, &certificate).await,
        }),
    }
}

fn with_store(act: impl AsyncFnOnce(&Store) -> Result<(), Error>) -> Result<(), Error> {
    let url: String = setting(None, "DATABASE_URL", "")?;
    if url.is_empty() {
        return Err(Error::NoDatabase);
    }
    task::block_on(async {
        let store = Store::open(&url, Duration::from_secs(10))?;
        store.migrate().await?;
        let done = act(&store).await;
        store.close().await;
        done
    })
}

async fn enrol(store: &Store, emails: &[String]) -> Result<(), Error> {
    for email in check(emails)? {
        let added = store.enrol(&email).await?;
        report(&email, if added { "enrolled" } else { "was enrolled already" })?;
    }
    Ok(())
}

async fn mend(store: &Store) -> Result<(), Error> {
    for name in store.mend_times().await? {
        report(&name, "was in the future, is set to now")?;
    }
    Ok(())
}

async fn register(store: &Store, certificate: &CertAdd) -> Result<(), Error> {
    let CertAdd { email, serial, fingerprint, not_after } = certificate;
    let email = Email::new(email).map_err(Error::Email)?;
    let certificate = Certificate::read(serial, fingerprint, not_after)?;
    let added = store.register(&email, &certificate).await?;
    report(&certificate.serial, if added { "noted" } else { "was known already" })
}

async fn set_disabled(store: &Store, emails: &[String], disabled: bool) -> Result<(), Error> {
    let word = if disabled { "disabled" } else { "enabled" };
    for email in check(emails)? {
        let changed = store.set_disabled(&email, disabled).await?;
        report(&email, &if changed { word.to_owned() } else { format!("was {word} already") })?;
    }
    Ok(())
}

fn check(emails: &[String]) -> Result<Vec<Email>, Error> {
    if emails.is_empty() {
        return Err(Error::NoEmails);
    }
    emails.iter().map(|text| Email::new(text).map_err(Error::Email)).collect()
}

/// All names are checked before the first is acted on.
async fn revoke(store: &Store, names: &[String]) -> Result<(), Error> {
    if names.is_empty() {
        return Err(Error::NoSerials);
    }
    let mut serials = Vec::new();
    for name in names {
        if name.contains('@') {
            let email = Email::new(name).map_err(Error::Email)?;
            let known = store.certificates(Some(&email)).await?;
            if known.is_empty() {
                return Err(Error::NoCertificate(email));
            }
            serials.extend(known.into_iter().map(|known| known.certificate.serial));
        } else {
            serials.push(Serial::new(name)?);
        }
    }
    for serial in serials {
        let revoked = store.revoke(&serial).await?;
        report(&serial, if revoked { "revoked" } else { "was revoked already" })?;
    }
    Ok(())
}

fn report(subject: &impl Display, change: &str) -> Result<(), Error> {
    unless_closed(writeln!(io::stdout(), "{subject} {change}"))
}

fn list_users(users: &[UserRow], json: bool) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    for user in users {
        let seen = user.seen.map(|(ns, ip, port)| (time(ns), ns, ip, port));
        unless_closed(if json {
            let (time, ns, ip, port) = seen.map_or((None, None, None, None), |(time, ns, ip, port)| {
                (Some(time), Some(ns.to_string()), Some(ip.to_string()), Some(port))
            });
            let line = serde_json::json!({
                "email": user.email, "disabled": user.disabled,
                "last_seen": time, "last_seen_ns": ns, "ip": ip, "port": port,
            });
            writeln!(out, "{line}")
        } else {
            let state = if user.disabled { "disabled" } else { "enabled" };
            let seen = seen.map_or("never seen".to_owned(), |(time, _, ip, port)| {
                format!("{time}  {}", std::net::SocketAddr::new(ip, port))
            });
            writeln!(out, "{:<40} {state:<8} {seen}", user.email)
        })?;
    }
    Ok(())
}

fn list_certificates(all: &[CertificateRow], expiring: Option<Timespan>, json: bool) -> Result<(), Error> {
    let before = expiring.map(|Timespan(time)| seconds(SystemTime::now()).saturating_add(time.as_secs()));
    let mut out = io::stdout().lock();
    for CertificateRow { certificate, email, last_used_ns, revoked } in all {
        let Certificate { serial, fingerprint, not_after } = certificate;
        if before.is_some_and(|before| *revoked || *not_after >= before) {
            continue;
        }
        let not_after =
            humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + Duration::from_secs(*not_after));
        let used = last_used_ns.map(time);
        unless_closed(if json {
            let line = serde_json::json!({
                "serial": serial.as_str(), "email": email, "fingerprint": fingerprint,
                "not_after": not_after.to_string(), "last_used": used, "revoked": revoked,
            });
            writeln!(out, "{line}")
        } else {
            let state = if *revoked { "revoked" } else { "valid" };
            let used = used.map_or("never used".to_owned(), |used| format!("used {used}"));
            writeln!(out, "{not_after}  {serial:<40}  {email:<40} {state:<7}  {used}")
        })?;
    }
    Ok(())
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
    #[error("no serial number or email was given")]
    NoSerials,
    #[error("no certificate of {0} is known")]
    NoCertificate(Email),
    #[error(transparent)]
    Email(EmailError),
    #[error(transparent)]
    Certificate(#[from] sighting::Error),
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
}

impl Fatal for Error {
    fn exit(&self) -> Exit {
        match self {
            Error::Stack(error) => error.exit(),
            Error::Setting(_) | Error::NoDatabase => Exit::Config,
            Error::Store(error) if error.is_configuration() => Exit::Config,
            Error::NoEmails | Error::NoSerials | Error::Email(_) | Error::Certificate(_) => Exit::Usage,
            Error::Store(error) if error.is_transient() => Exit::Unavailable,
            Error::Store(_) | Error::Output(_) | Error::NoCertificate(_) => Exit::Failure,
        }
    }
}
