//! `rollcall-admin user forget` and `export`: what is held about one person.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::PathBuf;

use serde_json::Value;

use super::desk::{Desk, Settings};
use super::{Error, crl, import, report, unless_closed};
use crate::protocol::status::Email;
use crate::store::{CertificateRow, Store};

/// Endings of the files of a device.
const ENDINGS: [&str; 4] = ["crt", "key", "p12", "csr"];

pub async fn forget(store: &Store, email: &Email) -> Result<(), Error> {
    let settings = Settings::read()?;
    if settings.certs.join("issued").exists() {
        import::import(store, &Desk::open()?).await?;
    }
    let forgotten = store.forget(email).await?;
    let half = |error| Error::HalfForgotten(email.clone(), Box::new(error));
    let desk = Desk::open().map_err(half)?;
    crl::refresh(store, &desk, crl::When::Revoked, crl::Forgotten::Revoke).await.map_err(half)?;
    let (certificates, events) = (forgotten.certificates.len(), forgotten.events);
    report(
        email,
        &format!(
            "forgotten, with {certificates} certificates, which stay refused until they end, and {events} events"
        ),
    )?;
    let files = files(&settings, email, &forgotten.certificates);
    if !files.is_empty() {
        let files: Vec<String> = files.iter().map(|file| quoted(&file.display().to_string())).collect();
        unless_closed(writeln!(
            io::stdout(),
            "files are left; this removes them: rm -- {}",
            files.join(" ")
        ))?;
    }
    Ok(())
}

/// One JSON object.
pub async fn export(store: &Store, email: &Email) -> Result<(), Error> {
    let settings = Settings::read()?;
    let mut all: Value = serde_json::from_str(&store.export(email).await?).map_err(|_| Error::NotJson)?;
    let files = files(&settings, email, &store.certificates_of(email).await?);
    all["files"] = files.iter().map(|file| file.display().to_string()).collect();
    unless_closed(writeln!(io::stdout(), "{all}"))
}

/// Those in the folder of certificates that are a device's of this person, by their names.
fn files(settings: &Settings, email: &Email, certificates: &[CertificateRow]) -> Vec<PathBuf> {
    let mut devices: BTreeSet<&str> = certificates.iter().filter_map(|row| row.device.as_deref()).collect();
    devices.insert(email.as_str());
    let file = |device: &str, ending| settings.certs.join(format!("{device}.{ending}"));
    let all = devices.iter().flat_map(|device| ENDINGS.map(|ending| file(device, ending)));
    all.filter(|file| file.is_file()).collect()
}

/// As a shell takes it.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
