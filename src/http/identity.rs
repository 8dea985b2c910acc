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
use crate::store::sighting::{self, Certificate, Sighting};

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

/// How the server knows that a request came through nginx and not from a neighbour on the host.
pub enum Trust {
    /// nginx presents this secret with each request.
    Credential(Credential),
    /// The server listens on a Unix socket in a folder that only nginx and the server may enter.
    SocketFolder,
}

/// The secret that nginx shares with the server. It has no `Debug`, so that it cannot reach a log.
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

    /// Takes as long for a wrong secret as for the right one.
    fn matches(&self, presented: &str) -> bool {
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

/// Every value of every header by which nginx names the caller, in order.
#[derive(Default)]
pub struct Forwarded<'a> {
    pub proxy_credential: Vec<&'a str>,
    pub subject_cn: Vec<&'a str>,
    pub real_ip: Vec<&'a str>,
    pub real_port: Vec<&'a str>,
    pub serial: Vec<&'a str>,
    pub fingerprint: Vec<&'a str>,
    pub not_after: Vec<&'a str>,
    pub request_start: Vec<&'a str>,
}

/// A request that lay for longer than this before it was read, in a process that was stopped or a machine that was
/// suspended, tells of then and not of now.
const LATE_NS: u64 = 1_000_000_000;

impl Trust {
    /// Did this request come through nginx?
    pub fn admit(&self, forwarded: &Forwarded<'_>) -> Result<(), Refusal> {
        match self {
            Trust::SocketFolder => Ok(()),
            Trust::Credential(credential) => match forwarded.proxy_credential.as_slice() {
                [presented] if credential.matches(presented) => Ok(()),
                _ => Err(Refusal::NotThroughProxy),
            },
        }
    }
}

impl<'a> Forwarded<'a> {
    pub fn of(request: &'a impl AsRef<tide::http::Headers>) -> Self {
        let values = |name: &str| {
            let values = request.as_ref().get(name);
            values.map(|values| values.iter().map(|value| value.as_str()).collect()).unwrap_or_default()
        };
        Self {
            proxy_credential: values("X-Proxy-Credential"),
            subject_cn: values("X-Subject-CN"),
            real_ip: values("X-Real-IP"),
            real_port: values("X-Real-Port"),
            serial: values("X-Client-Serial"),
            fingerprint: values("X-Client-Fingerprint"),
            not_after: values("X-Client-Not-After"),
            request_start: values("X-Request-Start"),
        }
    }

    /// The sighting at `now_ns`, by the certificate. Call it only for a request that [`Trust::admit`] let in.
    ///
    /// nginx looks at a certificate's end in the handshake only;
    /// a connection that is kept or a session that is resumed outlives it.
    pub fn sighting(&self, now_ns: u64) -> Result<Sighting, Refusal> {
        let subject_cn = match self.subject_cn.as_slice() {
            [] | [""] => return Err(Refusal::NoName),
            values => exactly_one("X-Subject-CN", values)?,
        };
        let name = unescape(subject_cn).ok_or_else(|| Refusal::BadEscape(subject_cn.to_owned()))?;
        let email = Email::new(&name).map_err(Refusal::NotAnEmail)?;
        let ip = exactly_one("X-Real-IP", &self.real_ip)?;
        let ip: IpAddr = ip.parse().map_err(|_| Refusal::bad("X-Real-IP", ip))?;
        let port = exactly_one("X-Real-Port", &self.real_port)?;
        let port = port.parse().map_err(|_| Refusal::bad("X-Real-Port", port))?;
        let certificate = Certificate::read(
            exactly_one("X-Client-Serial", &self.serial)?,
            exactly_one("X-Client-Fingerprint", &self.fingerprint)?,
            exactly_one("X-Client-Not-After", &self.not_after)?,
        )
        .map_err(Refusal::Certificate)?;
        if certificate.not_after < now_ns / 1_000_000_000 {
            return Err(Refusal::Expired);
        }
        let last_seen_ns = match self.request_start.as_slice() {
            // nginx has a configuration that did not say it yet.
            [] => now_ns,
            values => {
                let text = exactly_one("X-Request-Start", values)?;
                let start_ns = milliseconds(text).ok_or_else(|| Refusal::bad("X-Request-Start", text))?;
                if now_ns.saturating_sub(start_ns) > LATE_NS { start_ns } else { now_ns }
            }
        };
        Ok(Sighting { status: Status { email, last_seen_ns, ip, port }, certificate })
    }
}

/// Since when the certificate holds, in seconds since the Unix epoch. Only renewals ask, and nginx says it only there.
pub fn not_before(request: &impl AsRef<tide::http::Headers>) -> Result<u64, Refusal> {
    const HEADER: &str = "X-Client-Not-Before";
    let values = request.as_ref().get(HEADER);
    let values: Vec<&str> =
        values.map(|values| values.iter().map(|value| value.as_str()).collect()).unwrap_or_default();
    let text = exactly_one(HEADER, &values)?;
    sighting::seconds(text).ok_or_else(|| Refusal::bad(HEADER, text))
}

fn exactly_one<'a>(header: &'static str, values: &[&'a str]) -> Result<&'a str, Refusal> {
    match values {
        [value] => Ok(value),
        _ => Err(Refusal::NotOnce { header, count: values.len() }),
    }
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
                high => {
                    let digit = |byte: u8| char::from(byte).to_digit(16);
                    bytes.push((digit(high)? * 16 + digit(rest.next()?)?) as u8);
                }
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

    fn forwarded(subject_cn: &str) -> Forwarded<'_> {
        Forwarded {
            proxy_credential: vec![SECRET],
            subject_cn: vec![subject_cn],
            real_ip: vec!["192.0.2.10"],
            real_port: vec!["41234"],
            serial: vec!["0AFF"],
            fingerprint: vec!["0123456789abcdef0123456789abcdef01234567"],
            not_after: vec!["Nov 23 19:50:56 2027 GMT"],
            request_start: vec!["1826999455.999"],
        }
    }

    #[track_caller]
    fn refused(forwarded: &Forwarded<'_>, message: &str) {
        assert_eq!(forwarded.sighting(NOW).unwrap_err().to_string(), message);
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
            let status = forwarded(cn).sighting(NOW).unwrap().status;
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
        refused(&Forwarded { subject_cn: vec![], ..forwarded("") }, "there is no X-Subject-CN");
        refused(
            &Forwarded { real_ip: vec![], ..forwarded("a@b") },
            "X-Real-IP must be there once, it was there 0 times",
        );
        refused(
            &Forwarded { real_ip: vec!["::1%lo"], ..forwarded("a@b") },
            r#"X-Real-IP is malformed: "::1%lo""#,
        );
        refused(
            &Forwarded { serial: vec!["0AFF", "0AFF"], ..forwarded("a@b") },
            "X-Client-Serial must be there once, it was there 2 times",
        );
        refused(
            &Forwarded { not_after: vec!["soon"], ..forwarded("a@b") },
            r#"X-Client-Not-After from nginx is not a date as openssl writes it: "soon""#,
        );
        refused(
            &Forwarded { real_port: vec!["65536"], ..forwarded("a@b") },
            r#"X-Real-Port is malformed: "65536""#,
        );
    }

    #[test]
    fn a_certificate_ends_also_on_a_connection_that_is_kept() {
        assert!(forwarded("a@b").sighting(NOW).is_ok());
        assert_eq!(forwarded("a@b").sighting(NOW + 1_000_000_000), Err(Refusal::Expired));
    }

    #[test]
    fn a_request_that_lay_for_long_tells_of_then() {
        let seen = |start: &[&'static str]| {
            let forwarded = Forwarded { request_start: start.to_vec(), ..forwarded("a@b") };
            forwarded.sighting(NOW).map(|sighting| sighting.status.last_seen_ns)
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
        let with = |values: Vec<&'static str>| Forwarded { proxy_credential: values, ..Forwarded::default() };
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
