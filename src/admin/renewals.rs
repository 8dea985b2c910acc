//! `rollcall-admin sign`: the CA's side of a renewal. The server, which takes the requests of devices, has no key of
//! the CA; it leaves them in the table `renewals`.
//!
//! The certificate that asks, its holder and its state are read from the rows, and the request is verified anew. An
//! administrator must have made or noted the certificate. That its holder made the request, the server says alone (EST
//! has no proof by the old key). A new certificate is for the holder's email, by the name of the same device.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use async_std::channel::Receiver;
use async_std::future::timeout;
use async_std::prelude::FutureExt;
use async_std::task;

use super::desk::{Desk, Settings};
use super::issue::{LONGEST_CN, noted, pem, rfc3339};
use super::signer::{self, Subject};
use super::{DEADLINE, Error, crl, folder, invite, report, taken};
use crate::cli::{note, seconds, signals};
use crate::protocol::status::Email;
use crate::stack::trust::Authority;
use crate::store::{CrlNumber, Store, Waiting};
use crate::x509::Request;

/// The lists of the database that were looked at last, and when one of them was refused.
type Taken = Arc<Mutex<(Vec<(String, CrlNumber)>, Option<Instant>)>>;

/// How often the table is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Until a list that was refused is tried again: a clock may have been wrong.
const AGAIN: Duration = Duration::from_secs(60);
/// The longest wait after failures: each one doubles it.
const LONGEST_LOOK: Duration = Duration::from_secs(30);
/// A command that is at work in the folder is waited for at the next look.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long it keeps the folder from other commands at a time.
const TURN: Duration = Duration::from_secs(2);
/// How long a signal waits for the end of that which is under way.
const GRACE: Duration = Duration::from_secs(10);

/// Answers the requests that wait now.
pub async fn sign(store: &Store) -> Result<(), Error> {
    match answer_all(store, folder::PATIENCE, Duration::MAX).await? {
        0 => Ok(()),
        failed => Err(Error::Unanswered(failed)),
    }
}

/// Answers requests as they come, also after the database or the CA was away, until a signal ends it.
pub fn watch(url: &str) -> Result<(), Error> {
    let store = Store::open(url, DEADLINE)?;
    // A mistake in the settings shows now, and not at the first request.
    let (command, _) = signer::settings()?;
    if Settings::read()?.trust.authority == Authority::External && command.is_none() {
        return Err(Error::NoSigner);
    }
    let stop = signals::stop(None).map_err(Error::Signals)?;
    task::block_on(async {
        go_on(&store, &stop).await;
        store.close().await;
    });
    Ok(())
}

async fn go_on(store: &Store, stop: &Receiver<()>) {
    let (mut wait, mut said, mut has_schema) = (LOOK, String::new(), false);
    let lists = Taken::default();
    loop {
        let (pass, lists) = (store.clone(), Arc::clone(&lists));
        // A command of somebody else may sign for a minute: a signal is not kept waiting by it.
        let pass = task::spawn_blocking(move || task::block_on(look(&pass, has_schema, &lists)));
        wait = match ended_first(pass, stop).await {
            None => return,
            Some(Ok(0)) => {
                (said, has_schema) = (String::new(), true);
                LOOK
            }
            Some(Ok(_)) => (wait * 2).min(LONGEST_LOOK),
            Some(Err(error)) => {
                let failed = error.to_string();
                if failed != said {
                    note(format_args!("rollcall-admin: {failed}; going on"));
                    said = failed;
                }
                (wait * 2).min(LONGEST_LOOK)
            }
        };
        if timeout(wait, stop.recv()).await.is_ok() {
            return;
        }
    }
}

/// `None` if a signal came; the work had a while to end by then.
async fn ended_first<T>(mut work: task::JoinHandle<T>, stop: &Receiver<()>) -> Option<T> {
    let signal = async {
        let _ = stop.recv().await;
        None
    };
    let ended = async { Some((&mut work).await) }.race(signal).await;
    if ended.is_none() {
        let _ = timeout(GRACE, work).await;
    }
    ended
}

async fn look(store: &Store, has_schema: bool, lists: &Taken) -> Result<usize, Error> {
    if !has_schema {
        store.migrate().await?;
    }
    match Settings::read()?.trust.authority {
        Authority::Joined => take_lists(store, lists).await,
        _ => answer_all(store, PATIENCE, TURN).await,
    }
}

/// Waits for the folder no longer than `patience`, and keeps it for one `turn`. Returns how many could not be answered;
/// standard error has the reasons.
async fn answer_all(store: &Store, patience: Duration, turn: Duration) -> Result<usize, Error> {
    let (waiting, joining) = (store.waiting().await?, store.joining().await?);
    if waiting.is_empty() && joining.is_empty() {
        return Ok(0);
    }
    let desk = Desk::open_within(patience)?;
    let (mut failed, began) = (invite::answer_all(store, &desk, &joining).await?, Instant::now());
    for waiting in waiting.iter().take_while(|_| began.elapsed() < turn) {
        match answer(store, &desk, waiting).await {
            Ok(()) => {}
            // Nobody can be answered. A row that somebody has locked is another matter.
            Err(Error::Away(error)) if !error.is_locked() => return Err(Error::Away(error)),
            Err(Error::InDoubt(error)) => return Err(Error::InDoubt(error)),
            Err(error) => {
                note(format_args!("rollcall-admin: {} ({}): {error}", waiting.holder.email, device(waiting)));
                failed += 1;
            }
        }
    }
    Ok(failed)
}

/// On a host without the CA's key there is nothing to sign, and its nginx needs each new CRL.
async fn take_lists(store: &Store, lists: &Taken) -> Result<usize, Error> {
    let there = store.published_numbers().await?;
    let looked = || lists.lock().unwrap_or_else(PoisonError::into_inner);
    let is_due = {
        let (numbers, refused) = &*looked();
        *numbers != there || refused.is_some_and(|refused| refused.elapsed() >= AGAIN)
    };
    if is_due {
        let desk = Desk::open_within(PATIENCE)?;
        let is_whole = taken::take(store, &desk).await?;
        crl::publish(&desk, crl::When::Revoked)?;
        *looked() = (there, (!is_whole).then(Instant::now));
    }
    Ok(0)
}

async fn answer(store: &Store, desk: &Desk, waiting: &Waiting) -> Result<(), Error> {
    match judge(waiting) {
        Ok((email, request)) => {
            let issuer = desk.issuer()?;
            let chain = desk.signer()?.sign(
                &Subject::Client(&email),
                &request.der,
                issuer.as_ref(),
                &desk.trusted,
            )?;
            let authority = signer::verify(&chain, &desk.trusted).map_err(Error::Unverified)?;
            let noted = noted(&email, &chain[0], authority, waiting.holder.device.clone())?;
            let granted = store.grant(waiting, &noted, &pem(&chain)).await?;
            report(
                &format_args!("{email} ({})", device(waiting)),
                &match granted {
                    true => format!("renewed: {}, until {}", chain[0].serial, rfc3339(chain[0].not_after)),
                    false => "is not renewed: it was refused, or asked anew, meanwhile".to_owned(),
                },
            )
        }
        Err(reason) => {
            // Its author is a device.
            let reason: String = reason.chars().take(300).collect();
            store.refuse(waiting, &reason).await?;
            report(
                &format_args!("{} ({})", waiting.holder.email, device(waiting)),
                &format!("is not renewed: {reason}"),
            )
        }
    }
}

/// Whose certificate it will be, and the request; or the reason that its device is told.
fn judge(waiting: &Waiting) -> Result<(Email, Request), String> {
    let Waiting { holder, is_disabled, request } = waiting;
    let admin = "ask the administrator of rollcall";
    if holder.revoked_at.is_some() {
        return Err(format!("this certificate is revoked; {admin} for a new one"));
    }
    if *is_disabled {
        return Err(format!("this email is enrolled and disabled; {admin} to enable it"));
    }
    if holder.certificate.not_after <= seconds(SystemTime::now()) {
        return Err(format!("this certificate has expired; {admin} for a new one"));
    }
    // The server may note any certificate at its first use, and its word is not enough.
    if holder.issuer.is_none() {
        return Err(format!(
            "this certificate was noted at its first use; {admin} to note it: enrol EMAIL --cert FILE"
        ));
    }
    let email = Email::new(&holder.email).map_err(|error| error.to_string())?;
    if email.as_str().len() > LONGEST_CN {
        return Err(Error::LongCn(email.clone(), email.as_str().len()).to_string());
    }
    let request = Request::read(request).map_err(|error| format!("the request: {error}"))?;
    match request.other_name(email.as_str()) {
        Some(other) => {
            Err(format!("the request is for {other:?}, and the certificate that asks is {email}'s"))
        }
        None => Ok((email, request)),
    }
}

fn device(waiting: &Waiting) -> &str {
    waiting.holder.device.as_deref().unwrap_or("-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::CertificateRow;
    use crate::store::sighting::{Certificate, Serial};
    use crate::x509::NewKey;

    fn waiting(cn: &str, email: Option<&str>) -> Waiting {
        Waiting {
            holder: CertificateRow {
                certificate: Certificate {
                    serial: Serial::new("0AFF").unwrap(),
                    fingerprint: "0".repeat(40),
                    not_after: u64::MAX,
                },
                email: "a@example.com".to_owned(),
                issuer: Some("CN=ca".to_owned()),
                device: None,
                last_used_ns: None,
                revoked_at: None,
            },
            is_disabled: false,
            request: NewKey::generate().unwrap().request(cn, email).unwrap(),
        }
    }

    #[test]
    fn the_rows_and_the_request_decide() {
        for (cn, email) in [("a@example.com", None), ("A@Example.com", Some("a@example.com"))] {
            let waiting = waiting(cn, email);
            let (holder, request) = judge(&waiting).unwrap();
            assert_eq!((holder.as_str(), &request.der), ("a@example.com", &waiting.request));
        }
        let refused = |change: fn(&mut Waiting), said: &str| {
            let mut waiting = waiting("a@example.com", Some("a@example.com"));
            change(&mut waiting);
            let reason = judge(&waiting).unwrap_err();
            assert!(reason.contains(said), "{reason}");
        };
        refused(|waiting| waiting.holder.revoked_at = Some(1), "is revoked");
        refused(|waiting| waiting.is_disabled = true, "disabled");
        refused(|waiting| waiting.holder.certificate.not_after = 1, "has expired");
        refused(|waiting| waiting.holder.issuer = None, "was noted at its first use");
        refused(|waiting| waiting.holder.email = "b@example.com".to_owned(), "\"a@example.com\"");
        refused(|waiting| waiting.holder.email = format!("{}@example.com", "x".repeat(60)), "64 characters");
        refused(|waiting| waiting.request = b"no request".to_vec(), "the request: ");
        // The last byte is of the signature.
        refused(|waiting| *waiting.request.last_mut().unwrap() ^= 1, "its signature does not verify");
        for (cn, email) in [("b@example.com", None), ("a@example.com", Some("b@example.com"))] {
            assert!(judge(&waiting(cn, email)).unwrap_err().contains("\"b@example.com\""));
        }
    }
}
