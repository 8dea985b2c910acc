//! The holder of a certificate by its row in the database, for `ROLLCALL_IDENTITY=registered`.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::commit::Refused;
use crate::http::outage::Outage;
use crate::protocol::status::Email;
use crate::store::Store;
use crate::store::sighting::{Certificate, Serial};

/// Certificates that are remembered. The next one makes it forget all of them.
const MAX_KNOWN: usize = 100_000;

/// Remembers each holder that the database named: a row's email never changes. The record statement still looks at the
/// revocation, and at the person, with each request.
pub struct Registry {
    known: Mutex<HashMap<Key, Email>>,
    outage: Outage,
}

/// The primary key of the row.
type Key = (String, Serial);

impl Default for Registry {
    fn default() -> Self {
        Self { known: Mutex::default(), outage: Outage::of("asking the database whose a certificate is") }
    }
}

impl Registry {
    pub async fn holder(&self, store: &Store, certificate: Certificate) -> Result<Email, Refused> {
        let key = (certificate.fingerprint.clone(), certificate.serial.clone());
        let known = self.known().get(&key).cloned();
        if let Some(email) = known {
            return Ok(email);
        }
        // Boxed, for the question is large and every request would have a place for it, asked or not.
        match Box::pin(store.holder(&certificate)).await {
            Ok(found) => {
                self.outage.worked();
                let email = found.ok_or(Refused::NotRegistered)?;
                self.remember(key, email.clone());
                Ok(email)
            }
            Err(error) => {
                self.outage.failed(&error);
                Err(Refused::Unavailable)
            }
        }
    }

    fn remember(&self, key: Key, email: Email) {
        let mut known = self.known();
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(key, email);
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Key, Email>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use async_std::task::block_on;

    use super::*;

    fn certificate(number: usize) -> Certificate {
        Certificate {
            serial: Serial::new("01").unwrap(),
            fingerprint: format!("{number:040x}"),
            not_after: 1_826_999_456,
        }
    }

    fn key(number: usize) -> Key {
        let Certificate { fingerprint, serial, .. } = certificate(number);
        (fingerprint, serial)
    }

    #[test]
    fn a_known_holder_needs_no_database() {
        let away = Store::open("postgres://nobody@127.0.0.1:1/none?sslmode=disable", Duration::from_secs(2))
            .unwrap();
        let registry = Registry::default();
        let ask = |number| block_on(registry.holder(&away, certificate(number)));
        assert_eq!(ask(1), Err(Refused::Unavailable));
        let email = Email::new("alice@example.com").unwrap();
        registry.remember(key(1), email.clone());
        assert_eq!(ask(1), Ok(email));
        // One that shares the serial number is another certificate.
        assert_eq!(ask(2), Err(Refused::Unavailable));
    }

    #[test]
    fn the_memory_is_bounded() {
        let registry = Registry::default();
        let email = Email::new("alice@example.com").unwrap();
        for number in 0..MAX_KNOWN {
            registry.remember(key(number), email.clone());
        }
        assert_eq!(registry.known().len(), MAX_KNOWN);
        registry.remember(key(MAX_KNOWN), email);
        assert_eq!(registry.known().len(), 1);
    }
}
