//! `rollcall-admin certs`: every certificate that was made, given or seen.

use std::io::{self, Write};
use std::time::SystemTime;

use super::desk::{Desk, Settings};
use super::issue::rfc3339;
use super::{Certs, Error, time, unless_closed};
use crate::cli::{Timespan, seconds};
use crate::store::sighting::Certificate;
use crate::store::{CertificateRow, Store};

pub async fn list(store: &Store, options: &Certs) -> Result<(), Error> {
    let settings = Settings::read()?;
    if settings.certs.join("issued").exists() {
        super::import::import(store, &Desk::open()?).await?;
    }
    // Every issuer may be believed if there is no file.
    let trusted = super::folder::read_certificates(&settings.certs.join("ca.crt")).unwrap_or_default();
    let now = seconds(SystemTime::now());
    let before = options.expiring.map(|Timespan(time)| now.saturating_add(time.as_secs()));
    let mut out = io::stdout().lock();
    for row in store.certificates().await? {
        let CertificateRow { certificate, email, last_used_ns, issuer, device, revoked_at } = &row;
        let Certificate { serial, fingerprint, not_after } = certificate;
        if before.is_some_and(|before| revoked_at.is_some() || *not_after >= before) {
            continue;
        }
        let is_known =
            |issuer: &String| trusted.is_empty() || trusted.iter().any(|ca| ca.subject_text == *issuer);
        let state = match issuer {
            _ if revoked_at.is_some() => "revoked",
            _ if *not_after <= now => "ended",
            Some(issuer) if !is_known(issuer) => "untrusted",
            _ => "valid",
        };
        let used = last_used_ns.map(time);
        unless_closed(if options.json {
            let line = serde_json::json!({
                "serial": serial.as_str(), "email": email, "device": device, "fingerprint": fingerprint,
                "issuer": issuer, "not_after": rfc3339(*not_after), "last_used": used, "state": state,
                "revoked": revoked_at.is_some(),
            });
            writeln!(out, "{line}")
        } else {
            let used = used.map_or("never used".to_owned(), |used| format!("used {used}"));
            let device = device.as_deref().unwrap_or("-");
            writeln!(
                out,
                "{}  {device:<24} {email:<32} {state:<9}  {serial:<40}  {used}",
                rfc3339(*not_after)
            )
        })?;
    }
    Ok(())
}
