//! `rollcall-admin revoke`: the row first, which the server asks at each request; then the CRL, which nginx reads.

use std::collections::BTreeMap;

use super::desk::Desk;
use super::{Error, crl, report};
use crate::protocol::status::Email;
use crate::store::sighting::Serial;
use crate::store::{CertificateRow, Store};

pub async fn revoke(store: &Store, names: &[String]) -> Result<(), Error> {
    if names.is_empty() {
        return Err(Error::NoNames);
    }
    let desk = Desk::open()?;
    super::import::import(store, &desk).await?;
    let mut rows = BTreeMap::new();
    loop {
        // All names are understood before the first is acted on. Another look finds a certificate that a signer on
        // another host was about to note.
        let mut fresh = Vec::new();
        for name in names {
            for row in find(store, name).await? {
                let key = (row.certificate.fingerprint.clone(), row.certificate.serial.clone());
                if row.revoked_at.is_none() && !rows.contains_key(&key) {
                    fresh.push(row.certificate.clone());
                }
                rows.entry(key).or_insert(row);
            }
        }
        if fresh.is_empty() {
            break;
        }
        store.revoke(&fresh).await?;
    }
    crl::refresh(store, &desk, crl::When::IfDue, crl::Forgotten::Revoke)
        .await
        .map_err(|error| Error::HalfRevoked(rows.len(), Box::new(error)))?;
    for CertificateRow { certificate, email, device, revoked_at, .. } in rows.values() {
        let device = device.as_ref().map(|device| format!(", {device}")).unwrap_or_default();
        let done = if revoked_at.is_none() { "revoked" } else { "was revoked already" };
        report(&format_args!("{} ({email}{device})", certificate.serial), done)?;
    }
    Ok(())
}

/// The certificates of a person, of a device, or of a number. An email is a person, also where a device has it as
/// its name.
async fn find(store: &Store, name: &str) -> Result<Vec<CertificateRow>, Error> {
    let rows = if name.contains('@') {
        store.certificates_of(&Email::new(name).map_err(Error::Email)?).await?
    } else {
        let on_device = store.certificates_on(name).await?;
        let mut people: Vec<&str> = on_device.iter().map(|row| row.email.as_str()).collect();
        people.sort_unstable();
        people.dedup();
        match people.len() {
            0 => numbered(store, name).await?,
            1 => on_device,
            _ => return Err(Error::SeveralPeople(name.to_owned(), people.join(", "))),
        }
    };
    if rows.is_empty() { Err(Error::Unknown(name.to_owned())) } else { Ok(rows) }
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
