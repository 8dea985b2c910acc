//! A sighting: somebody seen, and the certificate that proved it.

use std::fmt;
use std::time::SystemTime;

use crate::protocol::status::Status;

/// A serial number as nginx and openssl(1) write it: upper-case hex, two digits for each byte and none too many, at most
/// 32 bytes. RFC 5280, section 4.1.2.2 allows 20; CAs in the field exceed that.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(String);

impl Serial {
    pub fn new(text: &str) -> Result<Self, Error> {
        let hex = (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !hex {
            return Err(Error::Serial(clip(text)));
        }
        let digits = text.trim_start_matches('0').to_ascii_uppercase();
        Ok(Self(match digits.len() {
            0 => "00".to_owned(),
            len if len % 2 == 1 => format!("0{digits}"),
            _ => digits,
        }))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One verified certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    pub serial: Serial,
    /// SHA-1 as lower-case hex: a name for the certificate, never a proof of it.
    pub fingerprint: String,
    /// Seconds since the Unix epoch.
    pub not_after: u64,
}

impl Certificate {
    /// Reads the three values as nginx and openssl(1) write them: `$ssl_client_serial`,
    /// `$ssl_client_fingerprint` (colons are skipped) and `$ssl_client_v_end`.
    pub fn read(serial: &str, fingerprint: &str, not_after: &str) -> Result<Self, Error> {
        let mut hex = String::with_capacity(40);
        hex.extend(fingerprint.chars().filter(|c| *c != ':').map(|c| c.to_ascii_lowercase()).take(41));
        if hex.len() != 40 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(Error::Fingerprint(clip(fingerprint)));
        }
        let not_after = seconds(not_after).ok_or_else(|| Error::NotAfter(clip(not_after)))?;
        Ok(Self { serial: Serial::new(serial)?, fingerprint: hex, not_after })
    }
}

/// A status, and the certificate that proved it, as a request hands it in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// Its time is the database's, as this server knows it ([`super::Store::time`]).
    pub status: Status,
    pub certificate: Certificate,
    /// The reading of the server's clock when the request arrived.
    pub heard_ms: u64,
    /// Seconds until the next one, as the client says.
    pub every_s: Option<u32>,
}

/// `Nov  3 19:50:56 2027 GMT`, the form of ASN1_TIME_print(3), as seconds since the Unix epoch.
pub fn seconds(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let [month, day, time, year, "GMT"] = words[..] else { return None };
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    let day: u8 = day.parse().ok()?;
    let moment = humantime::parse_rfc3339(&format!("{year}-{month:02}-{day:02}T{time}Z")).ok()?;
    Some(moment.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs())
}

/// Enough of a hostile text to recognise it.
fn clip(text: &str) -> String {
    text.chars().take(80).collect()
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("not a serial number in hex: {0:?}")]
    Serial(String),
    #[error("not a SHA-1 fingerprint in hex: {0:?}")]
    Fingerprint(String),
    #[error("not a date as openssl writes it: {0:?}")]
    NotAfter(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA1: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn both_forms_of_nginx_and_openssl_are_read() {
        for (text, seconds) in [
            ("Nov 23 19:50:56 2027 GMT", 1_826_999_456),
            ("Jan  1 00:00:00 1970 GMT", 0),
            ("Dec 31 23:59:59 9999 GMT", 253_402_300_799),
            ("Feb 29 12:00:00 2028 GMT", 1_835_438_400),
        ] {
            let certificate = Certificate::read("0aFF", SHA1, text).unwrap();
            assert_eq!(certificate.not_after, seconds, "{text}");
            assert_eq!(certificate.serial.as_str(), "0AFF");
        }
        let colons = "01:23:45:67:89:AB:CD:EF:01:23:45:67:89:AB:CD:EF:01:23:45:67";
        assert_eq!(Certificate::read("1", colons, "Jan 1 00:00:00 1970 GMT").unwrap().fingerprint, SHA1);
    }

    #[test]
    fn an_error_names_the_unreadable_value() {
        let end = "Nov 23 19:50:56 2027 GMT";
        for (serial, fingerprint, not_after, message) in [
            ("", SHA1, end, r#"not a serial number in hex: """#),
            ("-1", SHA1, end, r#"not a serial number in hex: "-1""#),
            ("1", "0123", end, r#"not a SHA-1 fingerprint in hex: "0123""#),
            ("1", SHA1, "", r#"not a date as openssl writes it: """#),
            ("1", SHA1, "2027-11-23", r#"not a date as openssl writes it: "2027-11-23""#),
            (
                "1",
                SHA1,
                "Feb 30 00:00:00 2027 GMT",
                r#"not a date as openssl writes it: "Feb 30 00:00:00 2027 GMT""#,
            ),
            (
                "1",
                SHA1,
                "Nov 23 19:50:56 2027 CET",
                r#"not a date as openssl writes it: "Nov 23 19:50:56 2027 CET""#,
            ),
        ] {
            let error = Certificate::read(serial, fingerprint, not_after).unwrap_err();
            assert_eq!(error.to_string(), message);
        }
        assert!(Serial::new(&"F".repeat(64)).is_ok());
        for (text, serial) in [("0", "00"), ("1", "01"), ("00ab", "AB"), ("0abc", "0ABC"), ("000", "00")] {
            assert_eq!(Serial::new(text).unwrap().as_str(), serial);
        }
        assert_eq!(Serial::new(&"F".repeat(1000)).unwrap_err().to_string().len(), 110);
    }
}
