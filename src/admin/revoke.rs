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
    // All names are understood before the first is acted on.
    let mut rows = BTreeMap::new();
    for name in names {
        for row in find(store, name).await? {
            rows.insert((row.certificate.fingerprint.clone(), row.certificate.serial.clone()), row);
        }
    }
    let certificates: Vec<_> = rows.values().map(|row| row.certificate.clone()).collect();
    let revoked = store.revoke(&certificates).await?;
    crl::refresh(store, &desk, crl::When::IfDue, crl::Forgotten::Revoke)
        .await
        .map_err(|error| Error::HalfRevoked(certificates.len(), Box::new(error)))?;
    for CertificateRow { certificate, email, device, .. } in rows.values() {
        let new = revoked.contains(&certificate.serial);
        let device = device.as_ref().map(|device| format!(", {device}")).unwrap_or_default();
        let done = if new { "revoked" } else { "was revoked already" };
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
        people.dedup();
        match (people.len(), fingerprint(name), Serial::new(name)) {
            (1, ..) => on_device,
            (2.., ..) => return Err(Error::SeveralPeople(name.to_owned(), people.join(", "))),
            (0, Some(fingerprint), _) => store.certificates_with(&fingerprint).await?,
            (0, None, Ok(serial)) => store.certificates_numbered(&serial).await?,
            (0, None, Err(_)) => Vec::new(),
        }
    };
    match &rows[..] {
        [] => Err(Error::Unknown(name.to_owned())),
        // Several CAs gave that number: one of them is meant.
        [first, .., last]
            if fingerprint(name).is_none()
                && first.device.as_deref() != Some(name)
                && !name.contains('@')
                && first.certificate.fingerprint != last.certificate.fingerprint =>
        {
            let each = rows.iter().map(|row| format!("{} ({})", row.certificate.fingerprint, row.email));
            Err(Error::SeveralCertificates(name.to_owned(), each.collect::<Vec<_>>().join(", ")))
        }
        _ => Ok(rows),
    }
}

/// A SHA-1 in hex, with or without colons.
fn fingerprint(text: &str) -> Option<String> {
    let hex = text.replace(':', "").to_ascii_lowercase();
    (hex.len() == 40 && hex.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(hex)
}
