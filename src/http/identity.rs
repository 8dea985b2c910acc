//! Header values in, a proven [`Sighting`] out, or a typed refusal. Pure: no clock, no log, no I/O.
//!
//! nginx verified the certificate and wrote its findings into headers. This module decides whether
//! the request came from nginx at all, and reads those headers with no tolerance: each exactly
//! once, and each in its one form.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use subtle::ConstantTimeEq;

use crate::protocol::status::{Email, EmailError, Status};
use crate::store::presence::LONGEST_EVERY;
use crate::store::sighting::{self, Certificate, Sighting};
use crate::x509;

/// The values of `ROLLCALL_IDENTITY`: whose a certificate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// The one CN in its subject is the email.
    Cn,
    /// The one rfc822Name in its subjectAltName is.
    San,
    /// The database has the email beside the certificate.
    Registered,
}

impl FromStr for Identity {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "cn" => Ok(Identity::Cn),
            "san" => Ok(Identity::San),
            "registered" => Ok(Identity::Registered),
            _ => Err("it is cn, san or registered"),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Identity::Cn => "cn",
            Identity::San => "san",
            Identity::Registered => "registered",
        })
    }
}

/// The value of `ROLLCALL_CANARY`: nothing, or an email.
pub struct Canary(pub Option<Email>);

impl FromStr for Canary {
    type Err = EmailError;

    fn from_str(text: &str) -> Result<Self, EmailError> {
        if text.is_empty() { Ok(Self(None)) } else { Email::new(text).map(Some).map(Self) }
    }
}

impl fmt::Display for Canary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|email| email.fmt(f))
    }
}

/// The secret that nginx shows with each request: by it a program knows that nobody else on the host made the request. It
/// has no `Debug`, so that it cannot reach a log.
pub struct Credential(String);

impl Credential {
    pub const MIN_LEN: usize = 32;

    /// The content of the credential file; white space around it is not part of the secret.
    pub fn new(text: &str) -> Result<Self, CredentialError> {
        let secret = text.trim_ascii();
        if secret.len() < Self::MIN_LEN {
            return Err(CredentialError::TooShort { len: secret.len() });
        }
        if !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(CredentialError::NotPrintable);
        }
        Ok(Self(secret.to_owned()))
    }

    /// To make another secret of it.
    pub fn secret(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// Did this request come through nginx?
    pub fn admit(&self, forwarded: &Forwarded<'_>) -> Result<(), Refusal> {
        match forwarded.proxy_credential.one() {
            Some(presented) if self.matches(presented) => Ok(()),
            _ => Err(Refusal::NotThroughProxy),
        }
    }

    /// Takes as long for a wrong secret as for the right one.
    pub fn matches(&self, presented: &str) -> bool {
        self.0.as_bytes().ct_eq(presented.as_bytes()).into()
    }
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    #[error("the secret has {len} bytes, at least {} are needed", Credential::MIN_LEN)]
    TooShort { len: usize },
    #[error("the secret holds white space or characters outside printable ASCII")]
    NotPrintable,
}

/// The values of one header: the first, and how many there are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Values<'a> {
    first: &'a str,
    count: usize,
}

impl<'a> Values<'a> {
    pub fn push(&mut self, value: &'a str) {
        if self.count == 0 {
            self.first = value;
        }
        self.count += 1;
    }

    pub fn is_none(&self) -> bool {
        self.count == 0
    }

    /// The one value.
    pub fn one(&self) -> Option<&'a str> {
        (self.count == 1).then_some(self.first)
    }

    /// Is there nothing to read? An empty value says as little as none.
    fn is_void(&self) -> bool {
        self.is_none() || self.one() == Some("")
    }
}

impl<'a> FromIterator<&'a str> for Values<'a> {
    fn from_iter<I: IntoIterator<Item = &'a str>>(values: I) -> Self {
        let mut read = Self::default();
        values.into_iter().for_each(|value| read.push(value));
        read
    }
}

/// The headers that nginx sends with each request.
#[derive(Clone, Copy, Default)]
pub struct Forwarded<'a> {
    pub proxy_credential: Values<'a>,
    pub subject_cn: Values<'a>,
    /// The certificate itself, which nginx sends with `ROLLCALL_IDENTITY=san` alone.
    pub certificate: Values<'a>,
    pub real_ip: Values<'a>,
    pub real_port: Values<'a>,
    pub request_id: Values<'a>,
    pub request_start: Values<'a>,
    pub serial: Values<'a>,
    pub fingerprint: Values<'a>,
    pub not_after: Values<'a>,
    /// The client's own word, which nginx passes on.
    pub every: Values<'a>,
}

/// A request that lay for longer than this before it was read, in a process that was stopped or a machine that was
/// suspended, tells of then and not of now.
const LATE_NS: u64 = 1_000_000_000;

/// Bytes of X-Client-Certificate. nginx cuts a longer one here, since async-h1 reads a head of 8 kB.
const MAX_CERTIFICATE: usize = 7000;

impl<'a> Forwarded<'a> {
    pub fn of(request: &'a impl AsRef<tide::http::Headers>) -> Self {
        let mut forwarded = Self::default();
        for name in Self::NAMES {
            if let Some(header) = forwarded.header(name) {
                *header = values(request, name);
            }
        }
        forwarded
    }

    const NAMES: [&'static str; 11] = [
        "X-Proxy-Credential",
        "X-Subject-CN",
        "X-Client-Certificate",
        "X-Real-IP",
        "X-Real-Port",
        "X-Request-Id",
        "X-Request-Start",
        "X-Client-Serial",
        "X-Client-Fingerprint",
        "X-Client-Not-After",
        "Rollcall-Every",
    ];

    /// The place of the header with this name, as nginx writes it.
    pub fn header(&mut self, name: &str) -> Option<&mut Values<'a>> {
        Some(match name {
            "X-Proxy-Credential" => &mut self.proxy_credential,
            "X-Subject-CN" => &mut self.subject_cn,
            "X-Client-Certificate" => &mut self.certificate,
            "X-Real-IP" => &mut self.real_ip,
            "X-Real-Port" => &mut self.real_port,
            "X-Request-Id" => &mut self.request_id,
            "X-Request-Start" => &mut self.request_start,
            "X-Client-Serial" => &mut self.serial,
            "X-Client-Fingerprint" => &mut self.fingerprint,
            "X-Client-Not-After" => &mut self.not_after,
            "Rollcall-Every" => &mut self.every,
            _ => return None,
        })
    }

    /// The id that nginx logged too. Anybody can say anything here, and only nginx's own is worth a place in the log.
    pub fn id(&self) -> Option<&'a str> {
        self.request_id.one().filter(|id| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()))
    }

    /// The person by the CN. Like the rest, call it only for a request that [`Credential::admit`] let in.
    pub fn common_name(&self) -> Result<Email, Refusal> {
        if self.subject_cn.is_void() {
            return Err(Refusal::NoName);
        }
        let subject_cn = exactly_one("X-Subject-CN", self.subject_cn)?;
        let name = unescape(subject_cn).ok_or_else(|| Refusal::BadEscape(subject_cn.to_owned()))?;
        Email::new(&name).map_err(Refusal::NotAnEmail)
    }

    /// The person by the rfc822Name in the certificate itself.
    pub fn alternative_name(&self) -> Result<Email, Refusal> {
        if self.certificate.is_void() {
            return Err(Refusal::NoCertificate);
        }
        let escaped = exactly_one("X-Client-Certificate", self.certificate)?;
        if escaped.len() >= MAX_CERTIFICATE {
            return Err(Refusal::LargeCertificate);
        }
        let certificate = read_certificate(escaped)?;
        if certificate.fingerprint != self.certificate()?.fingerprint {
            return Err(Refusal::TwoCertificates);
        }
        match certificate.emails.as_slice() {
            [email] => Email::new(email).map_err(Refusal::NotAnRfc822Name),
            emails => Err(Refusal::NotOneRfc822Name(emails.len())),
        }
    }

    pub fn certificate(&self) -> Result<Certificate, Refusal> {
        Certificate::read(
            exactly_one("X-Client-Serial", self.serial)?,
            exactly_one("X-Client-Fingerprint", self.fingerprint)?,
            exactly_one("X-Client-Not-After", self.not_after)?,
        )
        .map_err(Refusal::Certificate)
    }

    /// The sighting of this person at `now_ns`, which is `heard_ms` on the server's own clock, by the certificate.
    ///
    /// nginx looks at a certificate's end in the handshake only;
    /// a connection that is kept or a session that is resumed outlives it.
    pub fn sighting(&self, email: Email, now_ns: u64, heard_ms: u64) -> Result<Sighting, Refusal> {
        let ip = exactly_one("X-Real-IP", self.real_ip)?;
        let ip: IpAddr = ip.parse().map_err(|_| Refusal::bad("X-Real-IP", ip))?;
        let port = exactly_one("X-Real-Port", self.real_port)?;
        let port = port.parse().map_err(|_| Refusal::bad("X-Real-Port", port))?;
        let certificate = self.certificate()?;
        if certificate.not_after < now_ns / 1_000_000_000 {
            return Err(Refusal::Expired);
        }
        let last_seen_ns = if self.request_start.is_none() {
            // nginx has a configuration that did not say it yet.
            now_ns
        } else {
            let text = exactly_one("X-Request-Start", self.request_start)?;
            let start_ns = milliseconds(text).ok_or_else(|| Refusal::bad("X-Request-Start", text))?;
            if now_ns.saturating_sub(start_ns) > LATE_NS { start_ns } else { now_ns }
        };
        let status = Status { email, last_seen_ns, ip, port };
        Ok(Sighting { status, certificate, heard_ms, every_s: self.every_s() })
    }

    /// The interval that a client says: anything else than whole seconds, up to a day, says nothing.
    fn every_s(&self) -> Option<u32> {
        let text = self.every.one()?;
        let is_number = !text.is_empty() && text.len() <= 5 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|every| is_number && (1..=LONGEST_EVERY).contains(every))
    }
}

/// Since when the certificate holds, in seconds since the Unix epoch. Only renewals ask, and nginx says it only there.
pub fn not_before(request: &impl AsRef<tide::http::Headers>) -> Result<u64, Refusal> {
    const HEADER: &str = "X-Client-Not-Before";
    let text = exactly_one(HEADER, values(request, HEADER))?;
    sighting::seconds(text).ok_or_else(|| Refusal::bad(HEADER, text))
}

fn values<'a>(request: &'a impl AsRef<tide::http::Headers>, name: &str) -> Values<'a> {
    request.as_ref().get(name).into_iter().flatten().map(|value| value.as_str()).collect()
}

fn exactly_one<'a>(header: &'static str, values: Values<'a>) -> Result<&'a str, Refusal> {
    values.one().ok_or(Refusal::NotOnce { header, count: values.count })
}

/// `1795456442.123`, the form of nginx's `$msec`, in nanoseconds.
fn milliseconds(text: &str) -> Option<u64> {
    let (seconds, millis) = text.split_once('.')?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(seconds) || !is_number(millis) || millis.len() != 3 {
        return None;
    }
    let millis = seconds.parse::<u64>().ok()?.checked_mul(1000)?.checked_add(millis.parse().ok()?)?;
    millis.checked_mul(1_000_000)
}

/// Undoes the escapes of RFC 4514, section 2.4: nginx hands the CN on as it stands in the subject's
/// string form, where `+` is `\+` and a byte outside ASCII is `\C3`. `None` if it is not that form.
fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'\\' => match rest.next()? {
                special @ (b' ' | b'"' | b'#' | b'+' | b',' | b';' | b'<' | b'=' | b'>' | b'\\') => {
                    bytes.push(special);
                }
                high => bytes.push(pair(high, rest.next()?)?),
            },
            // Unescaped, these would end the value: somebody else's text follows.
            b'"' | b'+' | b',' | b';' | b'<' | b'>' | b'\0' => return None,
            // A leading '#' is a hex dump of a value that is not a string.
            b'#' if bytes.is_empty() => return None,
            plain => bytes.push(plain),
        }
    }
    String::from_utf8(bytes).ok()
}

/// Reads nginx's `$ssl_client_escaped_cert`: PEM as openssl writes it, in which the bytes that a URL has another use for
/// are escaped.
fn read_certificate(escaped: &str) -> Result<x509::Certificate, Refusal> {
    let pem = percent_decode(escaped).ok_or(Refusal::NotPem)?;
    let certificates =
        x509::certificates(&pem).map_err(|error| Refusal::DamagedCertificate(error.to_string()))?;
    match <[_; 1]>::try_from(certificates) {
        Ok([certificate]) if x509::pem("CERTIFICATE", &certificate.der).as_bytes() == pem => Ok(certificate),
        _ => Err(Refusal::NotPem),
    }
}

/// Undoes the escapes of RFC 3986, section 2.1. `None` if a byte that needs one has none.
fn percent_decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => pair(rest.next()?, rest.next()?)?,
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => byte,
            _ => return None,
        });
    }
    Some(bytes)
}

/// The byte of two hexadecimal digits.
fn pair(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    Some((digit(high)? * 16 + digit(low)?) as u8)
}

/// A request that proves nobody.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the request did not come through nginx: no proxy credential, or a wrong one")]
    NotThroughProxy,
    #[error("there is no X-Subject-CN")]
    NoName,
    #[error("{header} must be there once, it was there {count} times")]
    NotOnce { header: &'static str, count: usize },
    #[error("X-Subject-CN is not an escaped RFC 4514 value: {0:?}")]
    BadEscape(String),
    #[error("the certificate's CN is {0}")]
    NotAnEmail(EmailError),
    #[error("there is no X-Client-Certificate")]
    NoCertificate,
    #[error(
        "the certificate is too large: in PEM with the escapes of a URL it must have fewer than {MAX_CERTIFICATE} \
         bytes; get a smaller one from the administrator of rollcall"
    )]
    LargeCertificate,
    #[error("X-Client-Certificate is not one certificate in PEM with the escapes of a URL")]
    NotPem,
    #[error("the certificate cannot be read: {0}; get another from the administrator of rollcall")]
    DamagedCertificate(String),
    #[error("X-Client-Certificate and X-Client-Fingerprint are of two certificates")]
    TwoCertificates,
    #[error(
        "the certificate must hold exactly one email (rfc822Name in its subjectAltName), and holds {0}; get another \
         from the administrator of rollcall"
    )]
    NotOneRfc822Name(usize),
    #[error("the certificate's rfc822Name is {0}")]
    NotAnRfc822Name(EmailError),
    #[error("{header} is malformed: {value:?}")]
    BadValue { header: &'static str, value: String },
    #[error("{header} from nginx is {0}", header = header_of(.0))]
    Certificate(sighting::Error),
    #[error("the certificate has expired; get one from the administrator of rollcall")]
    Expired,
}

impl Refusal {
    fn bad(header: &'static str, value: &str) -> Self {
        Refusal::BadValue { header, value: value.to_owned() }
    }
}

fn header_of(error: &sighting::Error) -> &'static str {
    match error {
        sighting::Error::Serial(_) => "X-Client-Serial",
        sighting::Error::Fingerprint(_) => "X-Client-Fingerprint",
        sighting::Error::NotAfter(_) => "X-Client-Not-After",
    }
}

#[cfg(test)]
mod tests;
