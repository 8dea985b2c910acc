//! `rollcall-admin crl`: the list of the revoked, derived from the rows, and the file that nginx reads.
//!
//! A list is signed, read back and compared with the rows before it replaces the old one. It loses no entry that this
//! host has published: the rows of a restored dump may have forgotten some.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use ring::digest;

use super::desk::Desk;
use super::import::PART;
use super::signer::{Entries, Issuer, has_these};
use super::{Crl, Error, report};
use crate::cli::{note, seconds};
use crate::files;
use crate::stack::trust::Lists;
use crate::store::sighting::Serial;
use crate::store::{PublishedCrl, Revocation, Store};
use crate::x509::{self, LARGEST_CRL};

/// Days. A host that was off over a long holiday still finds it valid.
const LIFETIME: u64 = 30;
const DAY: u64 = 24 * 60 * 60;
/// One that ends within this is made anew.
const DUE: u64 = 20 * DAY;

/// In nginx's configuration.
const RESUMES: &str = "shared:tls:";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    Now,
    /// Unless the one that is published says the same and lives for long enough.
    IfDue,
    /// The same, and the lists of other CAs stay as they are: a revocation does not wait for their hosts.
    Revoked,
}

/// Entries of the published list that the rows do not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgotten {
    Revoke,
    /// The rows are right.
    Drop,
}

pub async fn crl(store: &Store, options: &Crl) -> Result<(), Error> {
    let desk = Desk::open()?;
    super::import::import(store, &desk).await?;
    let when = if options.if_due { When::IfDue } else { When::Now };
    let forgotten = if options.drop_forgotten { Forgotten::Drop } else { Forgotten::Revoke };
    let problems = refresh(store, &desk, when, forgotten).await?;
    if let Some(end) = end(&desk) {
        report(&"CRL", &format!("valid for {} days", end.saturating_sub(seconds(SystemTime::now())) / DAY))?;
    }
    // Each was told.
    if problems.is_empty() { Ok(()) } else { Err(Error::Lists(problems.len())) }
}

/// Brings the list to the rows, and nginx to the list. Returns the faults of other CAs' lists, which keep nothing of
/// ours back.
pub async fn refresh(
    store: &Store,
    desk: &Desk,
    when: When,
    forgotten: Forgotten,
) -> Result<Vec<Error>, Error> {
    if desk.is_joined() {
        super::taken::take(store, desk).await?;
        return publish(desk, when);
    }
    let own = desk.folder.path("crl.pem");
    let issuers = desk.own();
    if !issuers.is_empty() {
        match forgotten {
            Forgotten::Revoke => remember(store, &published(desk)?).await?,
            // That which cannot be read is dropped.
            Forgotten::Drop => {
                for entry in unknown(store, &published(desk).unwrap_or_default()).await? {
                    report(&entry.serial, "lifted, for the database does not know of its revocation")?;
                }
            }
        }
        let now = seconds(SystemTime::now());
        // One that ended needs no entry (RFC 5280, section 3.3). A day is for clocks.
        let revocations = store.revocations(now.saturating_sub(DAY)).await?;
        let present = read(&own).unwrap_or_default();
        let elsewhere = store.published_crls().await?;
        let mut text = String::new();
        for issuer in &issuers {
            let name = &issuer.certificate.subject_text;
            let entries: Entries = revocations
                .iter()
                .filter(|revocation| revocation.issuer.as_ref().is_none_or(|issuer| issuer == name))
                .map(|revocation| (revocation.serial.as_str(), revocation.at))
                .collect();
            let found = present.iter().find(|crl| crl.is_signed_by(&issuer.certificate).is_ok());
            let (last, is_due) = match found {
                None => (0, true),
                Some(crl) => {
                    let is_same = has_these(crl, &entries);
                    let lives = crl.this_update <= now && crl.next_update.is_some_and(|end| end > now + DUE);
                    let number = crl.number.as_deref().and_then(|hex| u64::from_str_radix(hex, 16).ok());
                    (number.unwrap_or(0), !is_same || !lives)
                }
            };
            // The database may have had one that this host has lost.
            let theirs = elsewhere.iter().find(|crl| crl.issuer == *name && is_ours(crl, issuer));
            let theirs = theirs.and_then(|crl| crl.number.value());
            let last = last.max(theirs.unwrap_or(0));
            text += &match found {
                Some(crl) if when != When::Now && !is_due => x509::pem("X509 CRL", &crl.der),
                // A number never comes twice, however often a second has one.
                _ => desk.signer()?.crl(
                    issuer,
                    &entries,
                    LIFETIME,
                    (now * 1000).max(last.saturating_add(1)),
                )?,
            };
        }
        desk.folder.publish(&own, text.as_bytes())?;
        for crl in x509::crls(text.as_bytes()).map_err(|error| Error::X509(own, error))? {
            store.publish_crl(&super::taken::published(&crl)).await?;
        }
    }
    publish(desk, when)
}

/// Did this CA sign it?
fn is_ours(crl: &PublishedCrl, issuer: &Issuer) -> bool {
    x509::Crl::read(&crl.der).is_ok_and(|crl| crl.is_signed_by(&issuer.certificate).is_ok())
}

/// The published entries that the rows do not have.
pub async fn unknown(store: &Store, published: &[Revocation]) -> Result<Vec<Revocation>, Error> {
    let mut rows: BTreeMap<Serial, Vec<Option<String>>> = BTreeMap::new();
    for Revocation { serial, issuer, .. } in store.revocations(0).await? {
        rows.entry(serial).or_default().push(issuer);
    }
    let is_known = |entry: &Revocation| {
        let issuers = rows.get(&entry.serial).into_iter().flatten();
        issuers.into_iter().any(|issuer| issuer.is_none() || *issuer == entry.issuer)
    };
    Ok(published.iter().filter(|entry| !is_known(entry)).cloned().collect())
}

/// Revokes again that which an older dump has forgotten.
async fn remember(store: &Store, published: &[Revocation]) -> Result<(), Error> {
    let forgotten = unknown(store, published).await?;
    if forgotten.is_empty() {
        return Ok(());
    }
    let (mut rows, mut without_row) = (Vec::new(), 0);
    for part in forgotten.chunks(PART) {
        let (known, unknown) = store.revoke_again(part).await?;
        rows.extend(known);
        without_row += unknown;
    }
    note(format_args!(
        "rollcall-admin: the published CRL holds {} revocations that the database has forgotten (a restored dump?); \
         they are revoked again",
        forgotten.len()
    ));
    for row in rows {
        let device = row.device.map(|device| format!(", {device}")).unwrap_or_default();
        report(&format_args!("{} ({}{device})", row.certificate.serial, row.email), "revoked again")?;
    }
    if without_row > 0 {
        report(&without_row, "revoked again by their serial numbers, for no row describes them")?;
    }
    Ok(())
}

/// The entries of our own lists that this host has published: the one beside the certificates, and nginx's. One of the
/// two may be damaged.
pub fn published(desk: &Desk) -> Result<Vec<Revocation>, Error> {
    let (mut entries, mut damaged, mut is_there) = (BTreeMap::new(), None, false);
    let issuers = desk.authorities();
    for file in [desk.folder.path("crl.pem"), desk.settings.state.join("nginx/crl.pem")] {
        let crls = match files::read(&file, LARGEST_CRL).map(|bytes| x509::crls(&bytes)) {
            Ok(Ok(crls)) if !crls.is_empty() => crls,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            _ => {
                damaged = Some(file);
                continue;
            }
        };
        is_there = true;
        for crl in crls {
            let issuer = issuers.iter().find(|issuer| crl.is_signed_by(issuer).is_ok());
            let Some(certificate) = issuer else { continue };
            for entry in &crl.revoked {
                let Ok(serial) = Serial::new(&entry.serial) else { continue };
                entries.insert((serial, certificate.subject_text.clone()), entry.at);
            }
        }
    }
    match damaged {
        Some(file) if !is_there => Err(Error::DamagedCrl(file)),
        _ => Ok(entries
            .into_iter()
            .map(|((serial, issuer), at)| Revocation { serial, issuer: Some(issuer), at })
            .collect()),
    }
}

/// Hands nginx its file: our own lists, and the last good one of each other CA.
pub fn publish(desk: &Desk, when: When) -> Result<Vec<Error>, Error> {
    let nginx = desk.settings.state.join("nginx");
    if desk.settings.trust.crl == Lists::Off || !nginx.is_dir() {
        return Ok(Vec::new());
    }
    let kept = nginx.join("crl");
    fs::create_dir_all(&kept).map_err(Error::file(&kept))?;
    let (others, problems) = others(desk, &kept, when)?;
    let own = if desk.is_own() || desk.is_joined() {
        read_text(&desk.folder.path("crl.pem"))?
    } else {
        String::new()
    };
    let text = own + &others;
    let resumes = fs::read_to_string(nginx.join("nginx.conf")).is_ok_and(|conf| conf.contains(RESUMES));
    if resumes && desk.settings.trust.rests_on_lists(&desk.settings.certs) {
        note(
            "rollcall-admin: nginx resumes TLS sessions, in which it looks at no CRL: just up, so that the lists of other \
             CAs hold there, too",
        );
    }
    if text.is_empty() {
        return Err(problems.into_iter().next().unwrap_or(Error::NoCrl));
    }
    let file = nginx.join("crl.pem");
    let old = fs::read(&file).ok();
    if old.as_deref() != Some(text.as_bytes()) {
        desk.folder.publish(&file, text.as_bytes())?;
    }
    if let Err(error) = desk.settings.reload_nginx() {
        // nginx goes on with the old one; a file that it does not take must not wait for its next start.
        if let Some(old) = old {
            desk.folder.publish(&file, &old)?;
        }
        return Err(error);
    }
    Ok(problems)
}

/// The lists of other CAs, and the faults of those whose last good copy stands in.
fn others(desk: &Desk, kept: &Path, when: When) -> Result<(String, Vec<Error>), Error> {
    let (mut text, mut problems, mut names) = (String::new(), Vec::new(), BTreeSet::new());
    for source in sources(desk)? {
        let copy = kept.join(source.name());
        names.insert(copy.clone());
        let old = read_text(&copy)?;
        if when == When::Revoked && !old.is_empty() {
            text += &old;
            continue;
        }
        match source.read(desk, &x509::crls(old.as_bytes()).unwrap_or_default()) {
            Ok(good) => {
                desk.folder.publish(&copy, good.as_bytes())?;
                text += &good;
            }
            Err(error) => {
                let instead = if old.is_empty() {
                    "there is no earlier copy"
                } else {
                    "its last good copy stays in use"
                };
                note(format_args!("rollcall-admin: {error}; {instead}"));
                problems.push(error);
                text += &old;
            }
        }
    }
    // A list that was taken out is out of use.
    for entry in fs::read_dir(kept).map_err(Error::file(kept))?.flatten() {
        if !names.contains(&entry.path()) {
            desk.folder.remove(&entry.path())?;
        }
    }
    Ok((text, problems))
}

enum Source {
    File(PathBuf),
    Url(String),
}

fn sources(desk: &Desk) -> Result<Vec<Source>, Error> {
    match &desk.settings.trust.crl {
        Lists::Off => Ok(Vec::new()),
        Lists::Urls(urls) => Ok(urls.iter().cloned().map(Source::Url).collect()),
        Lists::Files => {
            let folder = desk.folder.path("crl.d");
            let mut files = match fs::read_dir(&folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                entries => entries
                    .and_then(|entries| {
                        entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()
                    })
                    .map_err(Error::file(&folder))?,
            };
            files.retain(|file| {
                let is_named = |extension: &OsStr| extension == "pem" || extension == "crl";
                file.is_file() && file.extension().is_some_and(is_named)
            });
            files.sort();
            Ok(files.into_iter().map(Source::File).collect())
        }
    }
}

impl Source {
    fn name(&self) -> String {
        match self {
            Source::File(path) => path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            Source::Url(url) => {
                let digest = digest::digest(&digest::SHA256, url.as_bytes());
                format!("url-{}.pem", hex::encode(&digest.as_ref()[..8]))
            }
        }
    }

    /// PEM of every list in it, of which each holds today.
    fn read(&self, desk: &Desk, kept: &[x509::Crl]) -> Result<String, Error> {
        let (name, bytes) = match self {
            Source::File(path) => {
                let bytes = files::read(path, LARGEST_CRL);
                (path.display().to_string(), bytes.map_err(|error| error.to_string()))
            }
            Source::Url(url) => (url.clone(), fetch(url)),
        };
        let wrong = |why: String| Error::List(name.clone(), why);
        let crls =
            x509::crls(&bytes.map_err(wrong)?).map_err(|error| wrong(format!("it is not a CRL: {error}")))?;
        if crls.is_empty() {
            return Err(wrong("it is not a CRL".to_owned()));
        }
        let now = seconds(SystemTime::now());
        for crl in &crls {
            if crl.this_update > now {
                return Err(wrong("it does not hold yet; is a clock wrong?".to_owned()));
            }
            if crl.next_update.is_some_and(|end| end <= now) {
                return Err(wrong("it has ended: nginx refuses every certificate of its CA".to_owned()));
            }
            // An older one may be sent by somebody on the way, to lift a revocation.
            let is_older = |kept: &x509::Crl| kept.issuer == crl.issuer && kept.this_update > crl.this_update;
            if kept.iter().any(is_older) {
                return Err(wrong("it is older than the one that is in use".to_owned()));
            }
            // A CA may have kept its name with another key.
            let of_its_name = || desk.trusted.iter().filter(|authority| authority.subject == crl.issuer);
            match of_its_name().next() {
                Some(_) if of_its_name().any(|authority| crl.is_signed_by(authority).is_ok()) => {}
                Some(first) => crl.is_signed_by(first).map_err(|error| wrong(error.to_string()))?,
                // The CA between ours and a device need not be in ca.crt.
                None if matches!(self, Source::File(_)) => {}
                None => return Err(wrong(format!("it is of {}, which is not in ca.crt", crl.issuer_text))),
            }
        }
        Ok(crls.iter().map(|crl| x509::pem("X509 CRL", &crl.der)).collect())
    }
}

/// No more of it than a list may have: a server need not say how much it sends.
fn fetch(url: &str) -> Result<Vec<u8>, String> {
    let failed = |error: io::Error| format!("curl: {error}");
    let mut curl = Command::new("curl")
        .args(["-q", "-fsSL", "--proto", "=http,https", "--max-time", "60", "--", url])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let mut list = Vec::new();
    let read = curl.stdout.take().expect("it is piped").take(LARGEST_CRL + 1).read_to_end(&mut list);
    // This closed the pipe, which ends a curl that has more to say.
    let output = curl.wait_with_output().map_err(failed)?;
    read.map_err(failed)?;
    match output.status.success() {
        _ if list.len() as u64 > LARGEST_CRL => Err(format!("it has more than {LARGEST_CRL} bytes")),
        true => Ok(list),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

/// When the first of the lists that nginx reads ends.
fn end(desk: &Desk) -> Option<u64> {
    let crls =
        read(&desk.settings.state.join("nginx/crl.pem")).or_else(|| read(&desk.folder.path("crl.pem")))?;
    crls.iter().filter_map(|crl| crl.next_update).min()
}

/// Nothing, if there is no file or it is broken.
pub fn read(file: &Path) -> Option<Vec<x509::Crl>> {
    x509::crls(&files::read(file, LARGEST_CRL).ok()?).ok()
}

fn read_text(file: &Path) -> Result<String, Error> {
    match files::read(file, LARGEST_CRL) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        read => Ok(String::from_utf8_lossy(&read.map_err(Error::file(file))?).into_owned()),
    }
}
