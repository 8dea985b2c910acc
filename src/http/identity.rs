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

/// How the server knows that a request came through nginx and not from a neighbour on the host.
pub enum Trust {
    /// nginx presents this secret with each request.
    Credential(Credential),
    /// The server listens on a Unix socket in a folder that only nginx and the server may enter.
    SocketFolder,
}

/// The secret that nginx shares with a program. It has no `Debug`, so that it cannot reach a log.
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

impl Trust {
    /// Did this request come through nginx?
    pub fn admit(&self, forwarded: &Forwarded<'_>) -> Result<(), Refusal> {
        match self {
            Trust::SocketFolder => Ok(()),
            Trust::Credential(credential) => match forwarded.proxy_credential.one() {
                Some(presented) if credential.matches(presented) => Ok(()),
                _ => Err(Refusal::NotThroughProxy),
            },
        }
    }
}

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

    /// The person by the CN. Like the rest, call it only for a request that [`Trust::admit`] let in.
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
mod tests {
    use super::*;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    /// The second in which the certificate below ends.
    const NOW: u64 = 1_826_999_456_000_000_000;

    fn once(value: &str) -> Values<'_> {
        [value].into_iter().collect()
    }

    fn forwarded(subject_cn: &str) -> Forwarded<'_> {
        Forwarded {
            proxy_credential: once(SECRET),
            subject_cn: once(subject_cn),
            real_ip: once("192.0.2.10"),
            real_port: once("41234"),
            serial: once("0AFF"),
            fingerprint: once("0123456789abcdef0123456789abcdef01234567"),
            not_after: once("Nov 23 19:50:56 2027 GMT"),
            request_start: once("1826999455.999"),
            every: once("300"),
            ..Forwarded::default()
        }
    }

    fn by_cn(forwarded: &Forwarded<'_>, now_ns: u64) -> Result<Sighting, Refusal> {
        forwarded.sighting(forwarded.common_name()?, now_ns, 7000)
    }

    #[track_caller]
    fn refused(forwarded: &Forwarded<'_>, message: &str) {
        assert_eq!(by_cn(forwarded, NOW).unwrap_err().to_string(), message);
    }

    #[test]
    fn reads_the_escaped_name() {
        for (cn, email) in [
            ("valid_user@qt-test.com", "valid_user@qt-test.com"),
            (r"a\+tag@example.com", "a+tag@example.com"),
            (r"\61\2btag@Example.com", "a+tag@example.com"),
            (r"a=b@example.com", "a=b@example.com"),
            (r"\#a@example.com", "#a@example.com"),
        ] {
            let status = by_cn(&forwarded(cn), NOW).unwrap().status;
            assert_eq!(status.email.as_str(), email);
            assert_eq!((status.ip, status.port), ("192.0.2.10".parse().unwrap(), 41234));
        }
    }

    #[test]
    fn every_value_but_one_escaped_email_is_refused() {
        refused(&forwarded(""), "there is no X-Subject-CN");
        refused(&forwarded("a@b,O=x"), r#"X-Subject-CN is not an escaped RFC 4514 value: "a@b,O=x""#);
        refused(&forwarded("a@b+CN=c@d"), r#"X-Subject-CN is not an escaped RFC 4514 value: "a@b+CN=c@d""#);
        refused(&forwarded("#1303"), r##"X-Subject-CN is not an escaped RFC 4514 value: "#1303""##);
        refused(&forwarded(r"a@b\"), r#"X-Subject-CN is not an escaped RFC 4514 value: "a@b\\""#);
        refused(&forwarded(r"a@b\C"), r#"X-Subject-CN is not an escaped RFC 4514 value: "a@b\\C""#);
        refused(&forwarded(r"a@b\zz"), r#"X-Subject-CN is not an escaped RFC 4514 value: "a@b\\zz""#);
        refused(&forwarded(r"a@b\FF"), r#"X-Subject-CN is not an escaped RFC 4514 value: "a@b\\FF""#);
        refused(
            &forwarded(r"jos\C3\A9@x"),
            "the certificate's CN is not an email address: \"jos\u{e9}@x\": non-ASCII character at byte 3",
        );
        refused(
            &forwarded(r"a@b\00"),
            r#"the certificate's CN is not an email address: "a@b\0": unexpected character '\0' in the domain at byte 3"#,
        );
    }

    #[test]
    fn every_header_must_be_there_exactly_once() {
        let mut twice = forwarded("a@b");
        twice.subject_cn.push("c@d");
        refused(&twice, "X-Subject-CN must be there once, it was there 2 times");
        refused(&Forwarded { subject_cn: Values::default(), ..forwarded("") }, "there is no X-Subject-CN");
        refused(
            &Forwarded { real_ip: Values::default(), ..forwarded("a@b") },
            "X-Real-IP must be there once, it was there 0 times",
        );
        refused(
            &Forwarded { real_ip: once("::1%lo"), ..forwarded("a@b") },
            r#"X-Real-IP is malformed: "::1%lo""#,
        );
        refused(
            &Forwarded { serial: ["0AFF", "0AFF"].into_iter().collect(), ..forwarded("a@b") },
            "X-Client-Serial must be there once, it was there 2 times",
        );
        refused(
            &Forwarded { not_after: once("soon"), ..forwarded("a@b") },
            r#"X-Client-Not-After from nginx is not a date as openssl writes it: "soon""#,
        );
        refused(
            &Forwarded { real_port: once("65536"), ..forwarded("a@b") },
            r#"X-Real-Port is malformed: "65536""#,
        );
    }

    /// DER.
    fn element(tag: u8, contents: &[&[u8]]) -> Vec<u8> {
        let content = contents.concat();
        let [high, low] = (content.len() as u16).to_be_bytes();
        let length = match content.len() {
            0..128 => vec![low],
            128..256 => vec![0x81, low],
            _ => vec![0x82, high, low],
        };
        [&[tag], &length[..], &content].concat()
    }

    /// A certificate that nobody signed, with this subjectAltName.
    fn certificate(names: &[(u8, &[u8])]) -> Vec<u8> {
        const P_256_WITH_SHA_256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
        const SUBJECT_ALT_NAME: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x11];
        let algorithm = element(0x30, &[P_256_WITH_SHA_256]);
        let names: Vec<u8> = names.iter().flat_map(|(tag, content)| element(*tag, &[content])).collect();
        let names = element(0x04, &[&element(0x30, &[&names])]);
        let extensions = element(0x30, &[&element(0x30, &[SUBJECT_ALT_NAME, &names])]);
        let (begin, end) = (element(0x17, &[b"260101000000Z"]), element(0x17, &[b"360101000000Z"]));
        let nobody = element(0x30, &[]);
        let contents = element(
            0x30,
            &[
                &element(0xa0, &[&[0x02, 0x01, 0x02]]),
                &[0x02, 0x01, 0x01],
                &algorithm,
                &nobody,
                &element(0x30, &[&begin, &end]),
                &nobody,
                &element(0x30, &[&algorithm, &[0x03, 0x01, 0x00]]),
                &element(0xa3, &[&extensions]),
            ],
        );
        element(0x30, &[&contents, &algorithm, &[0x03, 0x01, 0x00]])
    }

    /// As nginx does it.
    fn escape(pem: &str) -> String {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        pem.bytes()
            .map(|byte| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
            .collect()
    }

    /// The person of the one certificate in this DER, to which the fingerprint belongs.
    fn by_san(der: &[u8], escaped: &[&str]) -> Result<String, String> {
        let fingerprint = x509::Certificate::read(der).unwrap().fingerprint;
        let forwarded = Forwarded {
            subject_cn: Values::default(),
            certificate: escaped.iter().copied().collect(),
            fingerprint: once(&fingerprint),
            ..forwarded("not_an_email")
        };
        let email = forwarded.alternative_name().map_err(|refusal| refusal.to_string())?;
        let sighting = forwarded.sighting(email, NOW, 7000).unwrap();
        assert_eq!(sighting.certificate.fingerprint, fingerprint);
        Ok(sighting.status.email.to_string())
    }

    const EMAIL: u8 = 0x81;
    /// otherName: a UPN, and an SmtpUTF8Mailbox (RFC 9598).
    const OTHER: u8 = 0xa0;
    const UPN: &[u8] = b"\x06\x0a\x2b\x06\x01\x04\x01\x82\x37\x14\x02\x03\xa0\x07\x0c\x05eve@x";
    const SMTP_UTF8: &[u8] = b"\x06\x08\x2b\x06\x01\x05\x05\x07\x08\x09\xa0\x07\x0c\x05eve@x";

    #[test]
    fn the_one_rfc822_name_is_the_person() {
        for names in [
            &[(EMAIL, &b"Alice@Example.com"[..])][..],
            &[(OTHER, UPN), (EMAIL, b"alice@example.com"), (0x82, b"host.example.com"), (OTHER, SMTP_UTF8)],
        ] {
            let der = certificate(names);
            let escaped = escape(&x509::pem("CERTIFICATE", &der));
            assert_eq!(by_san(&der, &[&escaped]).as_deref(), Ok("alice@example.com"));
        }
    }

    #[test]
    fn every_san_but_one_plain_rfc822_name_is_refused() {
        let not_one = |count| {
            format!(
                "the certificate must hold exactly one email (rfc822Name in its subjectAltName), and holds {count}; \
                 get another from the administrator of rollcall"
            )
        };
        let no_email = |text: &str| format!("the certificate's rfc822Name is not an email address: {text}");
        for (names, message) in [
            (&[][..], not_one(0)),
            (&[(OTHER, UPN)], not_one(0)),
            (&[(OTHER, SMTP_UTF8)], not_one(0)),
            (&[(0x82, b"alice@example.com")], not_one(0)),
            (&[(0x86, b"mailto:alice@example.com")], not_one(0)),
            (&[(EMAIL, b"a@x"), (EMAIL, b"b@x")], not_one(2)),
            (&[(EMAIL, b"a@x"), (EMAIL, b"a@x")], not_one(2)),
            (&[(EMAIL, b"")], no_email(r#""": it is empty"#)),
            (
                &[(EMAIL, b"a@x\0.example.com")],
                no_email(r#""a@x\0.example.com": unexpected character '\0' in the domain at byte 3"#),
            ),
            (
                &[(EMAIL, b"a\n@x")],
                no_email(r#""a\n@x": unexpected character '\n' in the local part at byte 1"#),
            ),
            (
                &[(EMAIL, "jos\u{e9}@x".as_bytes())],
                no_email("\"jos\u{e9}@x\": non-ASCII character at byte 3"),
            ),
            (&[(EMAIL, b"jos\xe9@x")], no_email("\"jos\u{fffd}@x\": non-ASCII character at byte 3")),
            (
                &[(EMAIL, b"<a@x>")],
                no_email(r#""<a@x>": unexpected character '<' in the local part at byte 0"#),
            ),
        ] {
            let der = certificate(names);
            let escaped = escape(&x509::pem("CERTIFICATE", &der));
            assert_eq!(by_san(&der, &[&escaped]), Err(message), "{names:?}");
        }
    }

    #[test]
    fn the_certificate_has_one_form_and_is_the_one_of_the_fingerprint() {
        let der = certificate(&[(EMAIL, b"a@x")]);
        let pem = x509::pem("CERTIFICATE", &der);
        let good = escape(&pem);
        assert!(by_san(&der, &[&good]).is_ok());
        let refused = |escaped: &[&str], message: &str| {
            assert_eq!(by_san(&der, escaped), Err(message.to_owned()), "{escaped:?}");
        };
        refused(&[], "there is no X-Client-Certificate");
        refused(&[""], "there is no X-Client-Certificate");
        refused(&[&good, &good], "X-Client-Certificate must be there once, it was there 2 times");
        let not_pem = "X-Client-Certificate is not one certificate in PEM with the escapes of a URL";
        let text = pem.replace("-----BEGIN", "x\n-----BEGIN");
        let [twice, crlf, label] =
            [pem.repeat(2), pem.replace('\n', "\r\n"), pem.replace("CERTIFICATE", "X509 CERTIFICATE")];
        for pem in ["x", pem.trim_end(), &text, &twice, &crlf, &label] {
            refused(&[&escape(pem)], not_pem);
        }
        for escaped in
            [&pem, &good.replace("%0A", "+"), &format!("{good}%"), &format!("{good}%2"), "%zz", "%+A"]
        {
            refused(&[escaped], not_pem);
        }
        let other = certificate(&[(EMAIL, b"b@x")]);
        refused(
            &[&escape(&x509::pem("CERTIFICATE", &other))],
            "X-Client-Certificate and X-Client-Fingerprint are of two certificates",
        );
        let damaged = x509::pem("CERTIFICATE", &der[..der.len() - 1]);
        let message = by_san(&der, &[&escape(&damaged)]).unwrap_err();
        assert!(message.starts_with("the certificate cannot be read: it is damaged: "), "{message}");
        let fits = certificate(&[(EMAIL, b"a@x"), (0x82, &[b'x'; 4000])]);
        let escaped = escape(&x509::pem("CERTIFICATE", &fits));
        assert_eq!(by_san(&fits, &[&escaped]).as_deref(), Ok("a@x"));
        let large = certificate(&[(EMAIL, b"a@x"), (0x82, &[b'x'; 5200])]);
        let escaped = escape(&x509::pem("CERTIFICATE", &large));
        let message = "the certificate is too large: in PEM with the escapes of a URL it must have fewer than 7000 \
                       bytes; get a smaller one from the administrator of rollcall";
        assert_eq!(by_san(&large, &[&escaped]), Err(message.to_owned()));
        assert_eq!(by_san(&large, &[&escaped[..MAX_CERTIFICATE]]), Err(message.to_owned()), "nginx cut it");
    }

    #[test]
    fn a_certificate_ends_also_on_a_connection_that_is_kept() {
        assert!(by_cn(&forwarded("a@b"), NOW).is_ok());
        assert_eq!(by_cn(&forwarded("a@b"), NOW + 1_000_000_000), Err(Refusal::Expired));
    }

    #[test]
    fn a_request_that_lay_for_long_tells_of_then() {
        let seen = |start: &[&'static str]| {
            let forwarded = Forwarded { request_start: start.iter().copied().collect(), ..forwarded("a@b") };
            by_cn(&forwarded, NOW).map(|sighting| sighting.status.last_seen_ns)
        };
        assert_eq!(seen(&["1826999414.123"]), Ok(1_826_999_414_123_000_000));
        for start in [&[][..], &["1826999455.000"], &["1826999456.001"], &["1999999999.999"]] {
            assert_eq!(seen(start), Ok(NOW), "{start:?}");
        }
        let bad =
            ["", "soon", "1", "1.", ".123", "1.12", "1.1234", "-1.123", "+1.123", "18446744073709551615.000"];
        for start in bad {
            let message = format!("X-Request-Start is malformed: {start:?}");
            assert_eq!(seen(&[start]).unwrap_err().to_string(), message);
        }
        assert!(seen(&["1.000", "1.000"]).is_err());
    }

    #[test]
    fn only_the_one_secret_admits() {
        let trust = Trust::Credential(Credential::new(&format!("{SECRET}\n")).unwrap());
        let with = |values: Vec<&'static str>| Forwarded {
            proxy_credential: values.into_iter().collect(),
            ..Forwarded::default()
        };
        assert_eq!(trust.admit(&with(vec![SECRET])), Ok(()));
        for values in [vec![], vec![""], vec![&SECRET[1..]], vec![SECRET, SECRET], vec!["x"]] {
            assert_eq!(trust.admit(&with(values)), Err(Refusal::NotThroughProxy));
        }
        assert_eq!(Trust::SocketFolder.admit(&with(vec![])), Ok(()));
    }

    #[test]
    fn a_weak_secret_is_no_secret() {
        let error = |text: &str| Credential::new(text).err().unwrap().to_string();
        assert_eq!(error(""), "the secret has 0 bytes, at least 32 are needed");
        assert_eq!(error(&SECRET[1..]), "the secret has 31 bytes, at least 32 are needed");
        assert_eq!(
            error(&format!("{SECRET}\n{SECRET}")),
            "the secret holds white space or characters outside printable ASCII"
        );
    }
}
