//! Enrolment: who may be seen at all. The commands behind `rollcall-admin`.

use std::fmt;
use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use async_std::task;

use crate::certificate::{self, Certificate, Serial};
use crate::cli::{Exit, Fatal, SettingError, setting};
use crate::clock::seconds;
use crate::status::{Email, EmailError};
use crate::store::{self, Known, Store, User};

/// One command. Emails are text until the library has checked them, all before the first is acted on.
pub enum Command {
    Migrate,
    Add(Vec<String>),
    Enable(Vec<String>),
    Disable(Vec<String>),
    List {
        json: bool,
    },
    /// What was seen or used in the future.
    Mend,
    /// Notes a certificate before its first use: what openssl(1) prints of it.
    CertAdd {
        email: String,
        serial: String,
        fingerprint: String,
        not_after: String,
    },
    /// Serial numbers, or emails for all of their certificates.
    CertRevoke(Vec<String>),
    CertList {
        expiring: Option<Duration>,
        json: bool,
    },
}

/// Runs one command against `DATABASE_URL`.
pub fn run(command: Command) -> Result<(), Error> {
    let url: String = setting(None, "DATABASE_URL", "")?;
    if url.is_empty() {
        return Err(Error::NoDatabase);
    }
    task::block_on(async {
        let store = Store::open(&url, Duration::from_secs(10))?;
        let done = act(&store, command).await;
        store.close().await;
        done
    })
}

async fn act(store: &Store, command: Command) -> Result<(), Error> {
    store.migrate().await?;
    match command {
        Command::Migrate => Ok(()),
        Command::Add(emails) => {
            for email in check(&emails)? {
                let added = store.enrol(&email).await?;
                say(&email, if added { "enrolled" } else { "was enrolled already" })?;
            }
            Ok(())
        }
        Command::Enable(emails) => set_disabled(store, &emails, false).await,
        Command::Disable(emails) => set_disabled(store, &emails, true).await,
        Command::Mend => {
            for name in store.mend_times().await? {
                say(&name, "was in the future, is set to now")?;
            }
            Ok(())
        }
        Command::List { json } => list_users(&store.users().await?, json),
        Command::CertAdd { email, serial, fingerprint, not_after } => {
            let email = Email::new(&email).map_err(Error::Email)?;
            let certificate = Certificate::read(&serial, &fingerprint, &not_after)?;
            let added = store.register(&email, &certificate).await?;
            say(&certificate.serial, if added { "noted" } else { "was known already" })
        }
        Command::CertRevoke(names) => revoke(store, &names).await,
        Command::CertList { expiring, json } => {
            let known = store.certificates(None).await?;
            let before =
                expiring.map(|expiring| seconds(SystemTime::now()).saturating_add(expiring.as_secs()));
            let shown = known.iter().filter(|known| {
                before.is_none_or(|before| known.certificate.not_after < before && !known.revoked)
            });
            list_certificates(shown, json)
        }
    }
}

async fn set_disabled(store: &Store, emails: &[String], disabled: bool) -> Result<(), Error> {
    let word = if disabled { "disabled" } else { "enabled" };
    for email in check(emails)? {
        let changed = store.set_disabled(&email, disabled).await?;
        say(&email, &if changed { word.to_owned() } else { format!("was {word} already") })?;
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
        say(&serial, if revoked { "revoked" } else { "was revoked already" })?;
    }
    Ok(())
}

fn say(subject: &impl fmt::Display, what: &str) -> Result<(), Error> {
    unless_closed(writeln!(io::stdout(), "{subject} {what}"))
}

fn list_users(users: &[User], json: bool) -> Result<(), Error> {
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

fn list_certificates<'a>(certificates: impl Iterator<Item = &'a Known>, json: bool) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    for Known { certificate, email, last_used_ns, revoked } in certificates {
        let Certificate { serial, fingerprint, not_after } = certificate;
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

#[derive(Debug)]
pub enum Error {
    Setting(SettingError),
    NoDatabase,
    NoEmails,
    NoSerials,
    NoCertificate(Email),
    Email(EmailError),
    Certificate(certificate::Error),
    Store(store::Error),
    Output(io::Error),
}

impl From<SettingError> for Error {
    fn from(error: SettingError) -> Self {
        Error::Setting(error)
    }
}

impl From<certificate::Error> for Error {
    fn from(error: certificate::Error) -> Self {
        Error::Certificate(error)
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        Error::Store(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Setting(error) => write!(f, "{error}"),
            Error::NoDatabase => f.write_str(
                "DATABASE_URL is not set (postgres://USER@HOST/DATABASE); `just user …` sets it for the private cluster",
            ),
            Error::NoEmails => f.write_str("no email was given"),
            Error::NoSerials => f.write_str("no serial number or email was given"),
            Error::NoCertificate(email) => write!(f, "no certificate of {email} is known"),
            Error::Email(error) => write!(f, "{error}"),
            Error::Certificate(error) => write!(f, "{error}"),
            Error::Store(error) => write!(f, "{error}"),
            Error::Output(error) => write!(f, "cannot write to standard output: {error}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::NoDatabase | Error::NoEmails | Error::NoSerials | Error::NoCertificate(_) => None,
            Error::Certificate(error) => Some(error),
            Error::Setting(error) => Some(error),
            Error::Email(error) => Some(error),
            Error::Store(error) => Some(error),
            Error::Output(error) => Some(error),
        }
    }
}

impl Fatal for Error {
    fn exit(&self) -> Exit {
        match self {
            Error::Setting(_) | Error::NoDatabase => Exit::Config,
            Error::Store(error) if error.is_configuration() => Exit::Config,
            Error::NoEmails | Error::NoSerials | Error::Email(_) | Error::Certificate(_) => Exit::Usage,
            Error::Store(error) if error.is_transient() => Exit::Unavailable,
            Error::Store(_) | Error::Output(_) | Error::NoCertificate(_) => Exit::Failure,
        }
    }
}
