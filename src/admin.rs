//! Enrolment: who may be seen at all. The commands behind `rollcall-admin`.

use std::fmt;
use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use async_std::task;

use crate::cli::{Exit, Fatal, SettingError, setting};
use crate::status::{Email, EmailError};
use crate::store::{self, Store, User};

/// One command. Emails are text until the library has checked them, all before the first is acted on.
pub enum Command {
    Migrate,
    Add(Vec<String>),
    Enable(Vec<String>),
    Disable(Vec<String>),
    List { json: bool },
}

/// Runs one command against `DATABASE_URL`.
pub fn run(command: Command) -> Result<(), Error> {
    let url: String = setting(None, "DATABASE_URL", "")?;
    if url.is_empty() {
        return Err(Error::NoDatabase);
    }
    task::block_on(async {
        let store = Store::open(&url, Duration::from_secs(10), 1)?;
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
            Command::Enable(emails) => set_disabled(&store, &emails, false).await,
            Command::Disable(emails) => set_disabled(&store, &emails, true).await,
            Command::List { json } => list(&store.users().await?, json),
        }
    })
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

fn say(email: &Email, what: &str) -> Result<(), Error> {
    unless_closed(writeln!(io::stdout(), "{email} {what}"))
}

fn list(users: &[User], json: bool) -> Result<(), Error> {
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
    Email(EmailError),
    Store(store::Error),
    Output(io::Error),
}

impl From<SettingError> for Error {
    fn from(error: SettingError) -> Self {
        Error::Setting(error)
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
            Error::Email(error) => write!(f, "{error}"),
            Error::Store(error) => write!(f, "{error}"),
            Error::Output(error) => write!(f, "cannot write to standard output: {error}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::NoDatabase | Error::NoEmails => None,
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
            Error::Setting(_) | Error::NoDatabase | Error::Store(store::Error::Url) => Exit::Config,
            Error::NoEmails | Error::Email(_) => Exit::Usage,
            Error::Store(error) if error.is_transient() => Exit::Unavailable,
            Error::Store(_) | Error::Output(_) => Exit::Failure,
        }
    }
}
