//! The readers: holders of certificates, as nginx names them, and holders of the token on this host.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ring::hmac::{self, HMAC_SHA256};
use tide::StatusCode;
use tide::http::Headers;

use super::{Error, random};
use crate::cli::{here, now_ns};
use crate::http::identity::{Credential, Forwarded, Identity};
use crate::http::outage::Outage;
use crate::http::problem::{self, Problem};
use crate::protocol::status::Email;
use crate::store::presence::Reads;
use crate::store::sighting::{Certificate, Serial};
use crate::store::{Standing, Store};

/// How long a code is good for.
const CODE: Duration = Duration::from_secs(60);
/// Codes that wait to be used. The next one makes the oldest worthless.
const MAX_CODES: usize = 16;
/// Rights that are remembered for an outage of the database. The next ones make it forget all of them.
const MAX_KNOWN: usize = 10_000;
/// How long they stand while the database is away.
const STANDS: Duration = Duration::from_secs(600);
/// Keeps the cookie apart from any other use of the token.
const COOKIE: &[u8] = b"rollcall board cookie\0";

/// A proven reader.
#[derive(Clone, Debug)]
pub enum Reader {
    /// Has the token, or a cookie that was made from it.
    Host,
    Person {
        email: Email,
        certificate: Certificate,
    },
}

impl Reader {
    pub fn email(&self) -> Option<&Email> {
        match self {
            Reader::Host => None,
            Reader::Person { email, .. } => Some(email),
        }
    }
}

pub struct Readers {
    /// nginx's.
    credential: Credential,
    identity: Identity,
    store: Store,
    token: Credential,
    cookie: Credential,
    cookie_name: String,
    codes: Mutex<Vec<(Credential, Instant)>>,
    known: Mutex<HashMap<(String, Serial), Known>>,
    outage: Outage,
}

/// The last answer of the database about a certificate.
#[derive(Clone)]
struct Known {
    email: Email,
    reads: Reads,
    at: Instant,
}

impl Readers {
    pub fn new(
        credential: Credential,
        identity: Identity,
        store: Store,
        token: Credential,
        port: u16,
    ) -> Self {
        let key = hmac::Key::new(HMAC_SHA256, token.secret());
        let cookie = Credential::new(&hex::encode(hmac::sign(&key, COOKIE))).expect("64 digits are a secret");
        Self {
            credential,
            identity,
            store,
            token,
            cookie,
            // Cookies know hosts and no ports.
            cookie_name: format!("rollcall-board-{port}"),
            codes: Mutex::default(),
            known: Mutex::default(),
            outage: Outage::of("asking the database who may read"),
        }
    }

    /// Did nginx send it?
    pub fn knows(&self, forwarded: &Forwarded<'_>) -> bool {
        self.credential.admit(forwarded).is_ok()
    }

    /// Did a holder of the token send it, or of a cookie that was made from it?
    pub fn is_host(&self, headers: &impl AsRef<Headers>) -> bool {
        self.has_token(headers) || self.has_cookie(headers)
    }

    /// Is the request from this host, and not from nginx?
    pub fn is_direct(headers: &impl AsRef<Headers>) -> bool {
        headers.as_ref().get("X-Proxy-Credential").is_none()
    }

    /// The reader behind a request, or the answer to one that proves none.
    pub async fn reader(&self, headers: &(impl AsRef<Headers> + Sync)) -> Result<Reader, Problem> {
        if !Self::is_direct(headers) {
            let forwarded = Forwarded::of(headers);
            self.credential.admit(&forwarded)?;
            let certificate = forwarded.certificate()?;
            let email = match self.identity {
                Identity::Cn => forwarded.common_name()?,
                Identity::San => forwarded.alternative_name()?,
                Identity::Registered => self.holder(&certificate).await?,
            };
            // Expired ones too are refused there.
            forwarded.sighting(email.clone(), now_ns(), 0)?;
            return Ok(Reader::Person { email, certificate });
        }
        self.must_be_here(headers)?;
        if self.is_host(headers) {
            return Ok(Reader::Host);
        }
        Err(Problem::new(
            StatusCode::Unauthorized,
            here(
                "this port answers to the token of the state folder alone (Authorization: Bearer); just board opens \
                 the page, and https://HOST/ answers to certificates",
            ),
        )
        .with_header("WWW-Authenticate", "Bearer"))
    }

    /// A page of somebody else may lead a browser here under a name of its own (DNS rebinding).
    pub fn must_be_here(&self, headers: &impl AsRef<Headers>) -> Result<(), Problem> {
        match values(headers, "Host")[..] {
            [host] if is_loopback(host) => Ok(()),
            _ => Err(Problem::new(
                StatusCode::MisdirectedRequest,
                "this port is localhost, 127.0.0.1 or [::1], and no other Host",
            )),
        }
    }

    /// Whom the reader may see, by the database; while that is away, by its last word.
    pub async fn rights(&self, reader: &Reader) -> Result<Reads, Problem> {
        let Reader::Person { email, certificate } = reader else { return Ok(Reads::All) };
        let forbidden = |detail| Err(Problem::new(StatusCode::Forbidden, detail));
        if certificate.not_after < now_ns() / 1_000_000_000 {
            return forbidden("the certificate has expired; get one from the administrator of rollcall");
        }
        let asked = self.store.may_read(email, certificate).await;
        let key = (certificate.fingerprint.clone(), certificate.serial.clone());
        let (standing, reads) = match asked {
            Ok(answer) => {
                self.outage.worked();
                answer
            }
            Err(error) => {
                self.outage.failed(&error);
                let known = lock(&self.known).get(&key).cloned();
                return match known.filter(|known| known.email == *email && known.at.elapsed() < STANDS) {
                    Some(known) => Ok(known.reads),
                    None => Err(away()),
                };
            }
        };
        let mut known = lock(&self.known);
        if standing != Standing::Good {
            known.remove(&key);
        }
        match standing {
            Standing::Good => {}
            Standing::NotEnrolled => return forbidden(problem::NOT_ENROLLED),
            Standing::Disabled => return forbidden(problem::DISABLED),
            Standing::Revoked => return forbidden(problem::REVOKED),
            Standing::Unknown => {
                return forbidden(
                    "this certificate is noted as somebody else's; ask the administrator of rollcall for a new one",
                );
            }
        }
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(key, Known { email: email.clone(), reads, at: Instant::now() });
        Ok(reads)
    }

    /// May the reader see everybody?
    pub async fn must_see_all(&self, reader: &Reader) -> Result<(), Problem> {
        match self.rights(reader).await? {
            Reads::All => Ok(()),
            _ => Err(too_little(reader)),
        }
    }

    /// May the reader see this person?
    pub async fn must_see(&self, reader: &Reader, email: &Email) -> Result<(), Problem> {
        match self.rights(reader).await? {
            Reads::All => Ok(()),
            Reads::Themselves if reader.email() == Some(email) => Ok(()),
            _ => Err(too_little(reader)),
        }
    }

    async fn holder(&self, certificate: &Certificate) -> Result<Email, Problem> {
        match self.store.holder(certificate).await {
            Ok(Some(email)) => Ok(email),
            Ok(None) => Err(Problem::new(StatusCode::Forbidden, problem::NOT_REGISTERED)),
            Err(error) => {
                self.outage.failed(&error);
                let key = (certificate.fingerprint.clone(), certificate.serial.clone());
                lock(&self.known).get(&key).map(|known| known.email.clone()).ok_or_else(away)
            }
        }
    }

    // --- on this host -----------------------------------------------------------------------------

    /// The text itself is read: the type of http-types for this header cuts it at a byte (RUSTSEC-2026-0174).
    pub fn has_token(&self, headers: &impl AsRef<Headers>) -> bool {
        match values(headers, "Authorization")[..] {
            [value] => value.split_once(' ').is_some_and(|(scheme, token)| {
                scheme.eq_ignore_ascii_case("Bearer") && self.token.matches(token)
            }),
            _ => false,
        }
    }

    fn has_cookie(&self, headers: &impl AsRef<Headers>) -> bool {
        let cookies = values(headers, "Cookie");
        let mut cookies = cookies.iter().flat_map(|cookies| cookies.split(';'));
        cookies.any(|cookie| {
            let pair = cookie.trim().split_once('=');
            pair.is_some_and(|(name, value)| name == self.cookie_name && self.cookie.matches(value))
        })
    }

    /// A code that is good once, and not for long.
    pub fn new_code(&self) -> Result<String, Error> {
        let code = hex::encode(random::<16>()?);
        let mut codes = lock(&self.codes);
        codes.retain(|(_, made)| made.elapsed() < CODE);
        if codes.len() >= MAX_CODES {
            codes.remove(0);
        }
        codes.push((Credential::new(&code).expect("32 digits are a secret"), Instant::now()));
        Ok(code)
    }

    /// The cookie for a code, which is used up by it.
    pub fn redeem(&self, code: &str) -> Result<String, Problem> {
        let mut codes = lock(&self.codes);
        codes.retain(|(_, made)| made.elapsed() < CODE);
        let Some(at) = codes.iter().position(|(known, _)| known.matches(code)) else {
            return Err(Problem::new(
                StatusCode::Forbidden,
                here("this code was used, or is older than 60 s: just board prints another"),
            ));
        };
        codes.remove(at);
        let value = String::from_utf8_lossy(self.cookie.secret()).into_owned();
        Ok(format!("{}={value}; HttpOnly; SameSite=Strict; Path=/", self.cookie_name))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn values<'a>(headers: &'a impl AsRef<Headers>, name: &str) -> Vec<&'a str> {
    let values = headers.as_ref().get(name);
    values.map(|values| values.iter().map(|value| value.as_str()).collect()).unwrap_or_default()
}

fn too_little(reader: &Reader) -> Problem {
    let email = reader.email().map(Email::as_str).unwrap_or_default();
    Problem::new(
        StatusCode::Forbidden,
        format!(
            "{email} may not see this; the administrator of rollcall allows it with: {} {email} all",
            here("just user reads")
        ),
    )
}

/// The log has the reason: database text stays on this side.
fn away() -> Problem {
    Problem::new(
        StatusCode::ServiceUnavailable,
        "whether you may read cannot be looked up: the database is unreachable or too slow; try again",
    )
    .with_header("Retry-After", "2")
}

/// `localhost`, `127.0.0.1` or `[::1]`, with or without a port.
fn is_loopback(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((name, port)) => (name, port),
            None => return false,
        },
        None => host.find(':').map_or((host, ""), |at| host.split_at(at)),
    };
    let is_port = port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
    is_port
        && (name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(|ip: IpAddr| ip.is_loopback()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_loopback_is_a_name_of_nobody_else() {
        for host in ["localhost", "LOCALHOST:8001", "127.0.0.1:8001", "127.1.2.3", "[::1]", "[::1]:8001"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "",
            ":8001",
            "evil.example",
            "localhost.evil.example",
            "localhost:8001@evil",
            "127.0.0.1.evil.example",
            "192.0.2.1",
            "[::2]",
            "[::1",
            "::1",
            "localhost:",
            "localhost:99999",
            "rollcall",
            "0.0.0.0",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
