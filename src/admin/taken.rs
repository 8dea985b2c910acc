//! The CRL on a host without the CA's key: it comes from the database, is verified, and goes forward only.

use std::time::SystemTime;

use super::desk::Desk;
use super::{Error, crl, report};
use crate::cli::{note, seconds};
use crate::store::{CrlNumber, PublishedCrl, Store};
use crate::x509::{self, Certificate, Crl};

/// As it goes into the database.
pub fn published(crl: &Crl) -> PublishedCrl {
    PublishedCrl { issuer: crl.issuer_text.clone(), number: number(crl), der: crl.der.clone() }
}

fn number(crl: &Crl) -> CrlNumber {
    CrlNumber::new(crl.number.as_deref().unwrap_or_default())
}

/// Puts the lists of the database into crl.pem. A restored database may have an older one, or have forgotten revocations:
/// then this host keeps that which it has published, and says so. Was every list good?
pub async fn take(store: &Store, desk: &Desk) -> Result<bool, Error> {
    let file = desk.folder.path("crl.pem");
    let present = crl::read(&file).unwrap_or_default();
    let theirs = store.published_crls().await?;
    let (mut text, mut lacking, mut refused) = (String::new(), None, false);
    for authority in &desk.trusted {
        let here = present.iter().find(|crl| crl.is_signed_by(authority).is_ok());
        let there = match theirs.iter().find(|crl| crl.issuer == authority.subject_text) {
            Some(published) => verified(published, authority).map(Some),
            None => Ok(None),
        };
        let there = match (there, here) {
            (Ok(there), _) => there,
            // The one that this host has is good.
            (Err(error), Some(_)) => {
                note(format_args!("rollcall-admin: {error}; the one before stays in use"));
                refused = true;
                None
            }
            (Err(error), None) => return Err(error),
        };
        text += &match (&there, here) {
            (Some(there), Some(here)) if number(here).is_above(&number(there)) => {
                note(format_args!(
                    "rollcall-admin: the CRL of {} in the database is older than that of this host (a restored dump?), \
                     which stays in use: just crl on the host with the CA",
                    authority.subject_text
                ));
                x509::pem("X509 CRL", &here.der)
            }
            (Some(there), here) => {
                if here.is_none_or(|here| here.der != there.der) {
                    report(&"CRL", &format!("taken from the database ({} revoked)", there.revoked.len()))?;
                }
                x509::pem("X509 CRL", &there.der)
            }
            (None, Some(here)) => x509::pem("X509 CRL", &here.der),
            (None, None) => {
                lacking.get_or_insert_with(|| authority.subject_text.clone());
                String::new()
            }
        };
    }
    if let Some(name) = lacking {
        return Err(Error::NoPublishedCrl(name));
    }
    desk.folder.publish(&file, text.as_bytes())?;
    // Before nginx gets a list that lacks them, the files still say what this host has published.
    let forgotten = crl::unknown(store, &crl::published(desk)?).await?;
    if !forgotten.is_empty() {
        let serials: Vec<&str> = forgotten.iter().take(10).map(|entry| entry.serial.as_str()).collect();
        note(format_args!(
            "rollcall-admin: the CRL that this host has published holds {} revocations that the database has forgotten (a \
             restored dump?): {}. just crl on the host with the CA revokes again what its own list has, and just revoke \
             SERIAL --unknown the rest",
            forgotten.len(),
            serials.join(", ")
        ));
    }
    Ok(!refused)
}

fn verified(published: &PublishedCrl, authority: &Certificate) -> Result<Crl, Error> {
    let wrong = |why: String| Error::PublishedCrl(published.issuer.clone(), why);
    let crl = Crl::read(&published.der).map_err(|error| wrong(error.to_string()))?;
    crl.is_signed_by(authority).map_err(|error| wrong(error.to_string()))?;
    let now = seconds(SystemTime::now());
    match crl.next_update {
        Some(end) if end <= now => Err(wrong("it has ended: just crl on the host with the CA".to_owned())),
        _ if crl.this_update > now => Err(wrong("it does not hold yet; is a clock wrong?".to_owned())),
        _ => Ok(crl),
    }
}
