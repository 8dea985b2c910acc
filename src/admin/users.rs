//! `rollcall-admin user`: the people that are enrolled.

use std::io::{self, Write};
use std::time::Duration;

use super::{
    Add, Cadence, Disable, Enable, Error, Every, Export, Forget, List, Mend, SetReads, UserCommand, forget,
    report, time, unless_closed,
};
use crate::cli::{Timespan, setting};
use crate::protocol::status::Email;
use crate::store::{Store, UserRow};

pub async fn run(store: &Store, command: UserCommand) -> Result<(), Error> {
    match command {
        UserCommand::List(List { json }) => list_users(&store.users().await?, json),
        UserCommand::Export(Export { email }) => {
            forget::export(store, &Email::new(&email).map_err(Error::Email)?).await
        }
        UserCommand::Add(Add { email }) => add(store, &email).await,
        UserCommand::Enable(Enable { email }) => set_disabled(store, &email, false).await,
        UserCommand::Disable(Disable { email }) => set_disabled(store, &email, true).await,
        UserCommand::Every(Every { email, every: Cadence(every_s) }) => {
            store.set_every(&Email::new(&email).map_err(Error::Email)?, every_s).await?;
            let every = every_s.map_or("as its client says".to_owned(), |every_s| {
                format!("every {}", Timespan(Duration::from_secs(every_s.into())))
            });
            report(&email, &format!("is expected {every}"))
        }
        UserCommand::Reads(SetReads { email, reads }) => {
            store.set_reads(&Email::new(&email).map_err(Error::Email)?, reads).await?;
            report(&email, &format!("may see: {}", reads.word()))
        }
        UserCommand::Mend(Mend {}) => mend(store).await,
        UserCommand::Forget(Forget { email }) => forget_all(store, &email).await,
    }
}

async fn add(store: &Store, emails: &[String]) -> Result<(), Error> {
    for email in check(emails)? {
        let added = store.enrol(&email).await?;
        if !added {
            store.confirm().await?;
        }
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

async fn set_disabled(store: &Store, emails: &[String], disabled: bool) -> Result<(), Error> {
    let word = if disabled { "disabled" } else { "enabled" };
    for email in check(emails)? {
        let changed = store.set_disabled(&email, disabled).await?;
        if !changed {
            store.confirm().await?;
        }
        report(&email, &if changed { word.to_owned() } else { format!("was {word} already") })?;
    }
    Ok(())
}

async fn forget_all(store: &Store, emails: &[String]) -> Result<(), Error> {
    for email in check(emails)? {
        forget::forget(store, &email).await?;
    }
    Ok(())
}

fn check(emails: &[String]) -> Result<Vec<Email>, Error> {
    if emails.is_empty() {
        return Err(Error::NoEmails);
    }
    emails.iter().map(|text| Email::new(text).map_err(Error::Email)).collect()
}

fn list_users(users: &[UserRow], json: bool) -> Result<(), Error> {
    let canary: String = setting(None, "ROLLCALL_CANARY", "")?;
    let mut out = io::stdout().lock();
    for user in users.iter().filter(|user| user.email != canary) {
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
