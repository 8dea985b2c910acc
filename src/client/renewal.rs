//! Renewal: when two thirds of its certificate's lifetime are over, the client asks for the next one over mutual TLS
//! (EST, RFC 7030, section 4.2.2), with a new key that nobody else ever has.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use async_std::channel::{self, Receiver, TryRecvError};
use async_std::future::timeout;
use async_std::task;

use super::exchange::{self, Answer};
use super::replace::{self, Place};
use super::{Client, Error, MAX_RETRY_AFTER, ServerUrl, connection, jittered};
use crate::cli::{Timespan, note, seconds};
use crate::x509::{self, Certificate, NewKey};

const PATH: &str = "/.well-known/est/simplereenroll";
/// First wait before it asks again; it doubles up to [`MAX_BACKOFF`].
const BACKOFF: Duration = Duration::from_secs(5);
const MAX_BACKOFF: Duration = Duration::from_secs(60 * 60);
/// How long the answer may take: the server waits for the signer.
const PATIENCE: Duration = Duration::from_secs(30);

/// The state of the renewal, beside the heartbeats.
pub struct Renewal {
    asking: Option<Asking>,
    not_before: Instant,
    backoff: Duration,
}

/// A request that is under way, on a connection of its own.
struct Asking {
    place: Place,
    key: NewKey,
    answer: Receiver<Result<(Answer, Vec<u8>), Error>>,
}

impl Renewal {
    pub fn new() -> Self {
        Self { asking: None, not_before: Instant::now(), backoff: BACKOFF }
    }

    /// Asks again after this.
    fn wait(&mut self, asked: Duration) -> Duration {
        let wait = jittered(self.backoff.max(asked.min(MAX_RETRY_AFTER)));
        self.backoff = (self.backoff * 2).min(MAX_BACKOFF);
        self.not_before = Instant::now() + wait;
        wait
    }
}

impl Client {
    /// Says now that a file cannot be replaced, and not after two thirds of a lifetime.
    pub fn check_place(&self) {
        if let (Some(_), Err(error)) = (&self.renewal, Place::of(&self.files)) {
            note(format_args!("rollcall-client: warning: it will not renew: {error}"));
        }
    }

    /// Takes an answer that has come, or asks if it is time. Never waits: heartbeats go on meanwhile.
    pub fn renew(&mut self, now: SystemTime) {
        let Some(renewal) = &mut self.renewal else { return };
        let done = match renewal.asking.take() {
            Some(asking) => match asking.answer.try_recv() {
                Ok(answer) => answer.and_then(|answer| self.take(&asking, answer)),
                Err(TryRecvError::Empty) => {
                    renewal.asking = Some(asking);
                    return;
                }
                Err(TryRecvError::Closed) => return,
            },
            None if Instant::now() < renewal.not_before || !self.loaded.is_due(now) => return,
            None => match self.ask() {
                Ok(asking) => {
                    self.renewal.get_or_insert_with(Renewal::new).asking = Some(asking);
                    return;
                }
                Err(error) => Err(error),
            },
        };
        let Some(renewal) = &mut self.renewal else { return };
        match done {
            Ok(until) => {
                *renewal = Renewal::new();
                renewal.wait(Duration::ZERO);
                renewed(until);
            }
            Err(error) => {
                let wait = renewal.wait(error.asked_to_wait()).as_secs();
                note(format_args!(
                    "rollcall-client: not renewed: {error}; trying again in {}",
                    Timespan(Duration::from_secs(wait))
                ));
            }
        }
    }

    /// The same, to its end.
    pub async fn renew_once(&mut self) -> Result<(), Error> {
        if self.renewal.is_none() {
            return Ok(());
        }
        if !self.loaded.is_due(SystemTime::now()) {
            let due =
                self.loaded.due().map_or_else(String::new, |due| format!("; it is from {} on", time(due)));
            note(format_args!("rollcall-client: the certificate is not due for renewal{due}"));
            return Ok(());
        }
        let asking = self.ask()?;
        let answer = asking.answer.recv().await.unwrap_or(Err(Error::Exchange(exchange::Error::Closed)))?;
        renewed(self.take(&asking, answer)?);
        Ok(())
    }

    /// Sends the request. The key is on the disk by then, so that the answer to it is of use after a crash, too.
    fn ask(&self) -> Result<Asking, Error> {
        let place = Place::of(&self.files)?;
        let old = self.loaded.leaf.as_ref().ok_or(Error::NoName)?;
        let cn = old.common_names.first().ok_or(Error::NoName)?;
        let key = place.pending_key()?;
        let request = key.request(cn, old.emails.first().map(String::as_str)).map_err(replace::Error::Key)?;
        let (send, answer) = channel::bounded(1);
        let (server, tls, limit) = (Arc::clone(&self.server), self.loaded.tls.clone(), self.timeout);
        task::spawn(async move {
            let _ = send.send(post(&server, &tls, limit, &x509::base64(&request)).await).await;
        });
        Ok(Asking { place, key, answer })
    }

    /// Checks the answer, and puts the new pair in the place of the old one. Returns the end of the certificate.
    fn take(&self, asking: &Asking, (answer, body): (Answer, Vec<u8>)) -> Result<u64, Error> {
        match answer.status {
            200 => {}
            202 => return Err(Error::NotYet(answer.retry_after.unwrap_or(0))),
            _ => return Err(Error::Refused(answer)),
        }
        let now = SystemTime::now();
        let old = self.loaded.leaf.as_ref().ok_or(Error::NoName)?;
        let chain = judge(old, &asking.key.public_key(), &body, seconds(now)).map_err(Error::NotUsed)?;
        let (cert, key) = asking.place.contents(&asking.key, &chain);
        // As it would be read.
        self.files
            .load(&self.contents.with(&cert, &key), now)
            .map_err(|error| Error::NotUsed(error.to_string()))?;
        asking.place.take(&cert, &key)?;
        Ok(chain[0].not_after)
    }
}

async fn post(
    server: &ServerUrl,
    tls: &async_tls::TlsConnector,
    limit: Duration,
    body: &str,
) -> Result<(Answer, Vec<u8>), Error> {
    let mut stream = connection(server, tls, limit).await?;
    timeout(PATIENCE, exchange::post(&mut stream, &server.authority, PATH, "application/pkcs10", body))
        .await
        .map_err(|_| Error::Timeout { step: "waiting for the new certificate", after: PATIENCE })?
        .map_err(Error::of_exchange)
}

/// The certificate of this key first, if it is the next one of the old one's holder.
fn judge(old: &Certificate, key: &[u8], body: &[u8], now: u64) -> Result<Vec<Certificate>, String> {
    let der = x509::from_base64(body).ok_or("it is not base64")?;
    let mut chain = x509::in_bundle(&der).map_err(|error| error.to_string())?;
    let at = chain.iter().position(|certificate| certificate.public_key == key);
    let at = at.ok_or("there is no certificate of the new key in it")?;
    chain[..=at].rotate_right(1);
    let new = &chain[0];
    // A CA elsewhere may have named the device alone; the person is then known to the server only.
    let names_somebody = names(old).any(|name| name.contains('@'));
    let is_old = |name: &&String| names(old).any(|old| old.eq_ignore_ascii_case(name));
    if let Some(other) = names(new).find(|name| names_somebody && !is_old(name)) {
        return Err(format!("the certificate is for {other:?}, and the present one is not"));
    }
    if names(new).next().is_none() {
        return Err("the certificate has no name".to_owned());
    }
    if new.not_before > now || new.not_after <= now {
        return Err("the certificate is not valid now; is this device's clock right?".to_owned());
    }
    if new.is_authority || !new.for_clients {
        return Err("the certificate is not one for clients".to_owned());
    }
    Ok(chain)
}

fn names(certificate: &Certificate) -> impl Iterator<Item = &String> {
    certificate.common_names.iter().chain(&certificate.emails)
}

fn renewed(until: u64) {
    note(format_args!("rollcall-client: renewed the certificate, until {}", time(until)));
}

fn time(seconds: u64) -> String {
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8410, section 10.2; it holds from 2016-08-01 to 2040-12-31. Its key cannot sign.
    const PEM: &str = "-----BEGIN CERTIFICATE-----\n\
        MIIBLDCB36ADAgECAghWAUdKKo3DMDAFBgMrZXAwGTEXMBUGA1UEAwwOSUVURiBUZX\n\
        N0IERlbW8wHhcNMTYwODAxMTIxOTI0WhcNNDAxMjMxMjM1OTU5WjAZMRcwFQYDVQQD\n\
        DA5JRVRGIFRlc3QgRGVtbzAqMAUGAytlbgMhAIUg8AmJMKdUdIt93LQ+91oNvzoNJj\n\
        ga9OukqY6qm05qo0UwQzAPBgNVHRMBAf8EBTADAQEAMA4GA1UdDwEBAAQEAwIDCDAg\n\
        BgNVHQ4BAQAEFgQUmx9e7e0EM4Xk97xiPFl1uQvIuzswBQYDK2VwA0EAryMB/t3J5v\n\
        /BzKc9dNZIpDmAgs3babFOTQbs+BolzlDUwsPrdGxO3YNGhW7Ibz3OGhhlxXrCe1Cg\n\
        w1AH9efZBw==\n\
        -----END CERTIFICATE-----\n";
    const NOW: u64 = 1_800_000_000;

    #[test]
    fn only_the_next_certificate_of_the_same_holder_is_taken() {
        let old = x509::certificates(PEM.as_bytes()).unwrap().remove(0);
        let body = x509::base64(&x509::bundle([old.der.as_slice()]).unwrap());
        let judge = |old: &Certificate, key: &[u8], body: &str, now| {
            judge(old, key, body.as_bytes(), now).map(|_| ()).unwrap_err()
        };
        let key = &old.public_key;
        let named = |name: &str| Certificate { common_names: vec![name.to_owned()], ..old.clone() };
        let (other, device) = (named("b@example.com"), named("device 7"));
        for (said, expected) in [
            (judge(&old, key, "-", NOW), "it is not base64"),
            (judge(&old, key, "", NOW), "it is damaged: "),
            (judge(&old, key, &x509::base64(b"0"), NOW), "it is damaged: "),
            (
                judge(&old, key, &x509::base64(&x509::bundle([]).unwrap()), NOW),
                "no certificate of the new key",
            ),
            (judge(&old, b"another", &body, NOW), "no certificate of the new key"),
            (judge(&other, key, &body, NOW), "for \"IETF Test Demo\", and the present one is not"),
            (judge(&device, key, &body, NOW), "not one for clients"),
            (judge(&old, key, &body, 1_400_000_000), "not valid now"),
            (judge(&old, key, &body, 2_300_000_000), "not valid now"),
            (judge(&old, key, &body, NOW), "not one for clients"),
        ] {
            assert!(said.contains(expected), "{said}");
        }
    }

    #[test]
    fn it_asks_less_and_less_often_and_not_before_it_is_told_to() {
        let mut renewal = Renewal::new();
        let around = |wait: Duration, seconds: u64| {
            let seconds = seconds as f64;
            assert!((0.89 * seconds..1.11 * seconds).contains(&wait.as_secs_f64()), "{wait:?}");
        };
        for seconds in [5, 10, 20] {
            around(renewal.wait(Duration::ZERO), seconds);
        }
        around(renewal.wait(Duration::from_secs(600)), 600);
        for _ in 0..10 {
            renewal.wait(Duration::ZERO);
        }
        around(renewal.wait(Duration::from_secs(1 << 40)), 3600);
        assert!(renewal.not_before > Instant::now() + Duration::from_secs(3000));
    }
}
