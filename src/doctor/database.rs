//! The database: may the server record there, is its clock right, which certificates end soon?

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use async_std::{future, task};

use super::validity::SOON;
use super::{Finding, Settings};
use crate::cli::{seconds, setting};
use crate::files;
use crate::stack::trust::{Authority, Trust};
use crate::store::sighting::Serial;
use crate::store::{self, CertificateRow, CrlNumber, Guarantee, Revocation, Store};
use crate::x509::{self, LARGEST_CRL};

/// Clocks that are kept by NTP differ by less.
const TOLERATED: Duration = Duration::from_secs(1);
/// With a clock this far off, --max-age of a listener, certificates and CRLs fail.
const BROKEN: Duration = Duration::from_secs(60);
/// It gets no longer than this for an answer, even if the server is patient.
const DEADLINE: Duration = Duration::from_secs(2);
/// Longest wait for all its answers together.
const PATIENCE: Duration = Duration::from_secs(4);
/// How often the clock is asked for: the fastest answer says most.
const QUESTIONS: u32 = 3;

pub fn check(settings: &Settings) -> Vec<Finding> {
    let Some(url) = &settings.database_url else {
        return vec![Finding::yellow(
            "DATABASE_URL is not set: the database was not checked",
            "just doctor sets it; elsewhere set it as for the server",
        )];
    };
    let mut findings = Vec::new();
    let asking = async {
        let store = &Store::open(url, settings.deadline.min(DEADLINE))?;
        findings.push(of_guarantee(&store.guarantee().await?));
        let ready = store.ready().await;
        if ready.is_err() {
            store.finish().await;
        }
        findings.push(of_recording(ready, store.waits_for_standby())?);
        findings.push(of_clocks(&clocks(store).await?));
        findings.extend(of_the_future(store.in_the_future().await?));
        let known = store.certificates().await?;
        findings.push(of_certificates(&known, SystemTime::now(), soon()));
        let trusted = trusted(settings);
        findings.extend(of_issuers(&known, &trusted, SystemTime::now()));
        let authority = Trust::read().map(|trust| trust.authority);
        if let Ok(Authority::Own) = authority {
            findings.extend(of_another(&store.published_numbers().await?, &trusted));
        }
        let is_own = authority.is_ok_and(|authority| authority != Authority::External);
        if let Some(authority) = trusted.first().filter(|_| is_own) {
            // Of the living, as `rollcall-admin crl` lists them.
            let revocations = store.revocations(seconds(SystemTime::now())).await?;
            findings.extend(of_the_list(&revocations, authority, &settings.state.join("nginx/crl.pem")));
        }
        store.close().await;
        Ok(())
    };
    let done = task::block_on(future::timeout(PATIENCE, asking));
    let done = done.unwrap_or(Err(store::Error::Deadline(PATIENCE)));
    findings.extend(done.err().map(|error: store::Error| {
        let advice = "look at DATABASE_URL, if you have set it; the stack's own just up mends, as the user of the stack";
        let text = match error.is_transient() {
            true => format!("the database is unreachable or too slow: {error}"),
            false => error.to_string(),
        };
        Finding::red(text, advice)
    }));
    findings
}

fn of_guarantee(guarantee: &Guarantee) -> Finding {
    match guarantee.holds() {
        true => Finding::green(guarantee.to_string()),
        false => Finding::red(guarantee.to_string(), "turn both on in postgresql.conf, and reload"),
    }
}

fn of_recording(ready: Result<(), store::Error>, waits_for_standby: bool) -> Result<Finding, store::Error> {
    match ready {
        Err(_) if waits_for_standby => Ok(Finding::red(
            "nothing can be recorded in the database: a commit waits for its synchronous standby",
            "look at the standby, and at pg_stat_replication of the primary; each heartbeat is answered with 503 meanwhile",
        )),
        Ok(()) => Ok(Finding::green("the server may record in the database")),
        Err(store::Error::CannotRecord(why)) => Ok(Finding::red(
            format!("the server cannot record in the database: {why}"),
            "just up grants the rights in the private cluster; elsewhere run deploy/grants.sql as the owner, and \
             look at default_transaction_read_only",
        )),
        Err(error) => Err(error),
    }
}

fn of_the_future((people, certificates): (u64, u64)) -> Option<Finding> {
    (people + certificates > 0).then(|| {
        Finding::yellow(
            format!(
                "{people} people were seen, and {certificates} certificates used, in the future: a clock was wrong then"
            ),
            "the next heartbeat of each mends it; just user mend, for those that never come",
        )
    })
}

/// Both at one moment, and how exactly that moment is known.
struct Clocks {
    theirs: SystemTime,
    ours: SystemTime,
    within: Duration,
}

async fn clocks(store: &Store) -> Result<Clocks, store::Error> {
    let mut best = ask(store).await?;
    for _ in 1..QUESTIONS {
        let next = ask(store).await?;
        if next.within < best.within {
            best = next;
        }
    }
    Ok(best)
}

/// The database read its clock at some time between question and answer.
async fn ask(store: &Store) -> Result<Clocks, store::Error> {
    let (asked, start) = (SystemTime::now(), Instant::now());
    let theirs = store.clock().await?;
    let within = start.elapsed() / 2;
    Ok(Clocks { theirs, ours: asked + within, within })
}

fn of_clocks(&Clocks { theirs, ours, within }: &Clocks) -> Finding {
    let (apart, which) = match theirs.duration_since(ours) {
        Ok(ahead) => (ahead, "ahead of"),
        Err(behind) => (behind.duration(), "behind"),
    };
    let text = format!("the database's clock is {apart:.1?} {which} ours, give or take {within:.1?}");
    let advice = "set the clocks of both hosts (timedatectl set-ntp true)";
    // The time of the answer explains the rest.
    match apart.saturating_sub(within) {
        surely if surely > BROKEN => Finding::red(text, advice),
        surely if surely > TOLERATED => Finding::yellow(text, advice),
        _ => Finding::green(text),
    }
}

/// Certificates that live for a week are renewed by their devices when a third of it is left.
fn soon() -> Duration {
    let days: u32 = setting(None, "ROLLCALL_CERT_DAYS", "365").unwrap_or(365);
    SOON.min(Duration::from_secs(24 * 60 * 60) * days / 4)
}

/// One that has ended already was replaced, or nobody misses it.
fn of_certificates(known: &[CertificateRow], now: SystemTime, soon: Duration) -> Finding {
    let said = match soon.as_secs() / 3600 {
        hours @ 0..72 => format!("{hours} hours"),
        hours => format!("{} days", hours / 24),
    };
    let soon = seconds(now)..seconds(now + soon);
    let ending = known
        .iter()
        .filter(|known| known.revoked_at.is_none() && soon.contains(&known.certificate.not_after));
    match ending.count() {
        0 => Finding::green(format!("the database knows no certificate that ends within {said}")),
        count => Finding::yellow(
            format!("{count} of the certificates in the database end within {said}"),
            "just certs --expiring 30d, and just renew NAME for those that are still in use",
        ),
    }
}

/// The names of the CAs that nginx believes; none, if they cannot be read.
fn trusted(settings: &Settings) -> Vec<String> {
    let bytes = files::read(&settings.certs.join("ca.crt"), files::SMALL).unwrap_or_default();
    x509::certificates(&bytes).unwrap_or_default().into_iter().map(|ca| ca.subject_text).collect()
}

fn of_issuers(known: &[CertificateRow], trusted: &[String], now: SystemTime) -> Option<Finding> {
    let is_refused = |row: &&CertificateRow| {
        let lives = row.revoked_at.is_none() && row.certificate.not_after > seconds(now);
        lives && row.issuer.as_ref().is_some_and(|issuer| !trusted.contains(issuer))
    };
    let count = if trusted.is_empty() { 0 } else { known.iter().filter(is_refused).count() };
    (count > 0).then(|| {
        Finding::yellow(
            format!(
                "{count} certificates in the database are of a CA that is not in ca.crt: nginx refuses them"
            ),
            "just certs says untrusted; just renew NAME for those that are still in use",
        )
    })
}

/// A host that shares the database already, with a CA of its own, publishes its list there too.
fn of_another(published: &[(String, CrlNumber)], trusted: &[String]) -> Option<Finding> {
    let others: Vec<&str> = published
        .iter()
        .map(|(issuer, _)| issuer.as_str())
        .filter(|issuer| !trusted.iter().any(|own| own == issuer))
        .collect();
    (!trusted.is_empty() && !others.is_empty()).then(|| {
        Finding::yellow(
            format!(
                "the database has the CRL of another CA too ({}), of a host that shares it (each refuses the devices of \
                 the other) or of a CA that was replaced",
                others.join(", ")
            ),
            "give the other host a database of its own, or make it one more server of this one (just invite NAME here, \
             just join there); if that CA is no more, just ca init --forget-others on the host with the key of ours",
        )
    })
}

/// Does our own CA's list have every revocation? That of another CA need not, and one that is missing or cannot be read is
/// a finding of its own.
fn of_the_list(revocations: &[Revocation], authority: &str, file: &Path) -> Option<Finding> {
    let crls = x509::crls(&files::read(file, LARGEST_CRL).ok()?).ok()?;
    let ours = crls.iter().find(|crl| crl.issuer_text == authority)?;
    let listed: BTreeSet<Serial> = ours.revoked.iter().flat_map(|entry| Serial::new(&entry.serial)).collect();
    let is_missing = |revocation: &&Revocation| {
        let is_ours = revocation.issuer.as_ref().is_none_or(|issuer| issuer == authority);
        is_ours && !listed.contains(&revocation.serial)
    };
    let count = revocations.iter().filter(is_missing).count();
    (count > 0).then(|| {
        Finding::red(
            format!(
                "the CRL of nginx lacks {count} of the revocations; the server refuses those certificates"
            ),
            "just crl",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn the_time_of_the_answer_explains_a_part() {
        let ours = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_456_442);
        let ms = Duration::from_millis;
        for (theirs, within, level, text) in [
            (ours + ms(2), ms(1), Level::Green, "is 2.0ms ahead of ours, give or take 1.0ms"),
            (ours - ms(1_400), ms(500), Level::Green, "is 1.4s behind ours"),
            (ours - ms(1_600), ms(500), Level::Yellow, "is 1.6s behind ours"),
            (ours + ms(60_400), ms(500), Level::Yellow, "is 60.4s ahead of ours"),
            (ours + ms(60_600), ms(500), Level::Red, "is 60.6s ahead of ours"),
        ] {
            let finding = of_clocks(&Clocks { theirs, ours, within });
            assert_eq!(finding.level, level, "{finding:?}");
            assert!(finding.text.contains(text), "{finding:?}");
        }
    }
}
