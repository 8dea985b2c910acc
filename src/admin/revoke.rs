//! `rollcall-admin revoke`: the rows first, which the server asks at each request; then the CRL, which nginx reads.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::desk::{Desk, Settings};
use super::folder::{Folder, read_certificates};
use super::issue::rfc3339;
use super::{Error, Revoke, crl, import, report};
use crate::cli::{note, seconds};
use crate::protocol::status::Email;
use crate::store::sighting::Serial;
use crate::store::{CertificateRow, Revocation, Store};

/// By fingerprint and serial number.
type Rows = BTreeMap<(String, Serial), CertificateRow>;

pub async fn revoke(store: &Store, Revoke { names, unknown }: &Revoke) -> Result<(), Error> {
    if names.is_empty() {
        return Err(Error::NoNames);
    }
    let settings = Settings::read()?;
    if settings.certs.join("issued").exists() {
        import::import(store, &Desk::open()?).await?;
    }
    let (mut rows, mut numbers) = (Rows::new(), Vec::new());
    // The server refuses them now, whatever another command does in the folder for how long.
    mark(store, &settings, names, *unknown, &mut rows, &mut numbers).await?;
    let marked = rows.len();
    let half = |error| Error::HalfRevoked(marked, Box::new(error));
    let desk = Desk::open().map_err(half)?;
    // That command may have noted a new certificate of theirs.
    mark(store, &settings, names, *unknown, &mut rows, &mut numbers).await.map_err(half)?;
    let at = seconds(SystemTime::now());
    let entry = |issuer: &Option<String>, serial: &Serial| Revocation {
        serial: serial.clone(),
        issuer: issuer.clone(),
        at,
    };
    let authorities = desk.own().into_iter().map(|own| Some(own.certificate.subject_text));
    let entries: Vec<Revocation> = authorities
        .flat_map(|issuer| numbers.iter().map(|serial| entry(&issuer, serial)).collect::<Vec<_>>())
        .collect();
    store.revoke_again(&entries).await?;
    // Also those that were revoked already, by a command that was given up.
    store.confirm().await.map_err(|error| half(error.into()))?;
    crl::refresh(store, &desk, crl::When::Revoked, crl::Forgotten::Revoke).await.map_err(half)?;
    for CertificateRow { certificate, email, device, revoked_at, .. } in rows.values() {
        let device = device.as_ref().map(|device| format!(", {device}")).unwrap_or_default();
        let done = if revoked_at.is_none() { "revoked" } else { "was revoked already" };
        report(&format_args!("{} ({email}{device})", certificate.serial), done)?;
    }
    for serial in &numbers {
        report(serial, "revoked by its number, for no row describes it")?;
    }
    others(store, &rows).await
}

/// All certificates of a device.
pub async fn revoke_device(store: &Store, name: &str) -> Result<(), Error> {
    let rows = store.certificates_on(name).await?;
    let living = rows.into_iter().filter(|row| row.revoked_at.is_none());
    let living: Vec<_> = living.map(|row| row.certificate).collect();
    if !living.is_empty() {
        store.revoke(&living).await?;
        report(&name, "its certificate is revoked")?;
    }
    Ok(())
}

/// Revokes the rows of these names. Another look finds a certificate that a signer elsewhere was about to note.
async fn mark(
    store: &Store,
    settings: &Settings,
    names: &[String],
    unknown: bool,
    rows: &mut Rows,
    numbers: &mut Vec<Serial>,
) -> Result<(), Error> {
    loop {
        numbers.clear();
        let mut fresh = Vec::new();
        // All names are understood before the first is acted on.
        for name in names {
            let found = find(store, name).await?;
            if found.is_empty() {
                match Serial::new(name) {
                    Ok(serial) if unknown => {
                        is_no_file_of_ours(settings, &serial)?;
                        numbers.push(serial);
                    }
                    _ if Folder::check_name(name).is_err() => return Err(Error::Unknown(name.clone())),
                    _ if settings.certs.join(format!("{name}.crt")).is_file() => {
                        return Err(Error::OnlyAFile(name.clone()));
                    }
                    _ => return Err(Error::Unknown(name.clone())),
                }
            }
            for row in found {
                let key = (row.certificate.fingerprint.clone(), row.certificate.serial.clone());
                if row.revoked_at.is_none() && !rows.contains_key(&key) {
                    fresh.push(row.certificate.clone());
                }
                rows.entry(key).or_insert(row);
            }
        }
        if fresh.is_empty() {
            return Ok(());
        }
        store.revoke(&fresh).await?;
    }
}

/// nginx would refuse everybody, if the list of a CA held the CA itself.
fn is_no_file_of_ours(settings: &Settings, serial: &Serial) -> Result<(), Error> {
    for (name, remedy) in
        [("ca", "just ca replace"), ("ca.old", "just ca replace --finish"), ("server", "just renew-server")]
    {
        let certificates = read_certificates(&settings.certs.join(format!("{name}.crt")))?;
        if certificates.iter().any(|one| Serial::new(&one.serial).is_ok_and(|number| number == *serial)) {
            return Err(Error::NoDevices(serial.clone(), format!("{name}.crt"), remedy));
        }
    }
    Ok(())
}

/// Names the certificates that the devices still have: a thief may have renewed the one that was given by its number.
async fn others(store: &Store, rows: &Rows) -> Result<(), Error> {
    let now = seconds(SystemTime::now());
    let mut devices: Vec<&String> = rows.values().filter_map(|row| row.device.as_ref()).collect();
    devices.sort_unstable();
    devices.dedup();
    for device in devices {
        for CertificateRow { certificate, email, revoked_at, .. } in store.certificates_on(device).await? {
            if revoked_at.is_none() && certificate.not_after > now {
                note(format_args!(
                    "rollcall-admin: {device} of {email} has another certificate, {}, until {}: just revoke {device} \
                     revokes all of them",
                    certificate.serial,
                    rfc3339(certificate.not_after)
                ));
            }
        }
    }
    Ok(())
}

/// The certificates of a person, of a device, or of a number. An email is a person, also where a device has it as
/// its name.
async fn find(store: &Store, name: &str) -> Result<Vec<CertificateRow>, Error> {
    if name.contains('@') {
        return Ok(store.certificates_of(&Email::new(name).map_err(Error::Email)?).await?);
    }
    let on_device = store.certificates_on(name).await?;
    let mut people: Vec<&str> = on_device.iter().map(|row| row.email.as_str()).collect();
    people.sort_unstable();
    people.dedup();
    match people.len() {
        0 => numbered(store, name).await,
        1 => Ok(on_device),
        _ => Err(Error::SeveralPeople(name.to_owned(), people.join(", "))),
    }
}

/// The one certificate of this serial number or fingerprint. Both may have 40 digits.
async fn numbered(store: &Store, text: &str) -> Result<Vec<CertificateRow>, Error> {
    let rows = match Serial::new(text) {
        Ok(serial) => store.certificates_numbered(&serial).await?,
        Err(_) => Vec::new(),
    };
    match (&rows[..], fingerprint(text)) {
        ([], Some(fingerprint)) => Ok(store.certificates_with(&fingerprint).await?),
        ([] | [_], _) => Ok(rows),
        // Several CAs gave that number.
        _ => {
            let each = rows.iter().map(|row| format!("{} ({})", row.certificate.fingerprint, row.email));
            Err(Error::SeveralCertificates(text.to_owned(), each.collect::<Vec<_>>().join(", ")))
        }
    }
}

/// A SHA-1 in hex, with or without colons.
fn fingerprint(text: &str) -> Option<String> {
    let hex = text.replace(':', "").to_ascii_lowercase();
    (hex.len() == 40 && hex.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(hex)
}
