//! Takes over the lists of an earlier version, once: `certs/issued` had a copy of each certificate, the names that
//! they were made for, and openssl's index.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use super::desk::Desk;
use super::{Error, crl, issue, report};
use crate::cli::{note, seconds};
use crate::files;
use crate::protocol::status::Email;
use crate::store::sighting::Serial;
use crate::store::{Revocation, Store};
use crate::x509::{self, Certificate};

/// Rows of one transaction.
pub const PART: usize = 500;

/// Bytes of an index.
const MOST: u64 = 1 << 26;

pub async fn import(store: &Store, desk: &Desk) -> Result<(), Error> {
    let folder = desk.folder.path("issued");
    if !folder.is_dir() {
        return Ok(());
    }
    // The name of the CA stands with each revocation.
    let authority = desk.trusted.first().ok_or_else(|| Error::NoAuthority(desk.folder.certificate("ca")))?;
    let names = names(&folder.join("names"))?;
    let mut revoked = index(&folder.join("index.txt"))?;
    let enrolled: BTreeSet<String> = store.users().await?.into_iter().map(|user| user.email).collect();
    let (mut certificates, mut revocations) = (Vec::new(), Vec::new());
    let mut entries: Vec<_> = fs::read_dir(&folder)
        .and_then(|entries| entries.collect::<Result<Vec<_>, _>>())
        .map_err(Error::file(&folder))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != "pem") || !path.is_file() {
            continue;
        }
        let bytes = files::read(&path, files::SMALL).map_err(Error::file(&path))?;
        // A full disk has left empty ones.
        for certificate in x509::certificates(&bytes).unwrap_or_default() {
            let at = revoked.remove(&certificate.serial);
            match holder(&certificate).filter(|email| enrolled.contains(email.as_str())) {
                Some(email) => {
                    let device = names.get(&certificate.serial).cloned();
                    let mut noted = issue::noted(&email, &certificate, authority, device)?;
                    noted.revoked_at = at;
                    certificates.push(noted);
                }
                None => revocations.extend(at.map(|at| of(&certificate, at)).transpose()?),
            }
        }
    }
    // The index, and a CRL that was published, may hold more than the copies do.
    for (serial, at) in revoked {
        match Serial::new(&serial) {
            Ok(serial) => {
                revocations.push(Revocation { serial, issuer: Some(authority.subject_text.clone()), at });
            }
            Err(error) => {
                note(format_args!("rollcall-admin: {serial:?} in index.txt is passed over: {error}"))
            }
        }
    }
    revocations.extend(crl::published(desk)?);
    // Each part within the time that the database has.
    for part in certificates.chunks(PART) {
        store.import(part).await?;
    }
    for part in revocations.chunks(PART) {
        store.revoke_again(part).await?;
    }
    // A copy of the old folder that somebody put back comes beside the first.
    let names =
        ["issued.imported".to_owned()].into_iter().chain((2..).map(|n| format!("issued.imported.{n}")));
    let mut places = names.map(|name| desk.folder.path(&name));
    let done = places.find(|place| !place.exists()).expect("the numbers have no end");
    fs::rename(&folder, &done).map_err(Error::file(&done))?;
    report(
        &folder.display(),
        &format!("imported: {} certificates; it is now {}", certificates.len(), done.display()),
    )
}

fn holder(certificate: &Certificate) -> Option<Email> {
    certificate.emails.iter().chain(&certificate.common_names).find_map(|name| Email::new(name).ok())
}

fn of(certificate: &Certificate, at: u64) -> Result<Revocation, Error> {
    let serial = Serial::new(&certificate.serial).map_err(Error::Certificate)?;
    Ok(Revocation { serial, issuer: Some(certificate.issuer_text.clone()), at })
}

/// Serial number, space, name.
fn names(path: &Path) -> Result<BTreeMap<String, String>, Error> {
    let text = read(path)?;
    Ok(text
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(serial, name)| (serial.into(), name.into()))
        .collect())
}

/// openssl-ca(1): state, end, time of the revocation with its reason, serial number. A time that cannot be read is now.
fn index(path: &Path) -> Result<BTreeMap<String, u64>, Error> {
    let text = read(path)?;
    let entry = |line: &str| match line.split('\t').collect::<Vec<_>>()[..] {
        ["R", _, at, serial, ..] => {
            Some((serial.to_owned(), moment(at).unwrap_or_else(|| seconds(SystemTime::now()))))
        }
        _ => None,
    };
    Ok(text.lines().filter_map(entry).collect())
}

/// YYMMDDHHMMSSZ, in this century.
fn moment(text: &str) -> Option<u64> {
    let part = |at: usize| text.get(at..at + 2);
    let date = format!("20{}-{}-{}T{}:{}:{}Z", part(0)?, part(2)?, part(4)?, part(6)?, part(8)?, part(10)?);
    humantime::parse_rfc3339(&date).ok().map(seconds)
}

fn read(path: &Path) -> Result<String, Error> {
    match files::read(path, MOST) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        read => Ok(String::from_utf8_lossy(&read.map_err(Error::file(path))?).into_owned()),
    }
}
