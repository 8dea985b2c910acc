//! A person or device, seen at a time from an address: the one record that travels through the whole program.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

/// A time so far beyond the clock is known to be wrong.
pub const AHEAD: Duration = Duration::from_secs(600);

/// An email address that has been checked and normalised; there is no other way to make one.
///
/// **Accepted:** the `Dot-string@Domain` form of RFC 5321, section 4.1.2: ASCII, a local part of at most
/// 64 bytes, a domain of host-name labels (RFC 1123, section 2.1), 254 bytes in all so that its
/// length fits the datagram's length byte. Quoted local parts, address literals and
/// non-ASCII addresses (RFC 6531) are refused: two spellings that look alike must never be two people.
///
/// **Normalised:** ASCII upper case becomes lower case, in the local part too. Nothing else changes:
/// `a+tag@example.com` and `a@example.com` are two people.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Email(String);

impl Email {
    /// Bytes of the longest address: RFC 5321 allows a path of 256, which includes `<` and `>`.
    pub const MAX_LEN: usize = 254;
    const MAX_LOCAL: usize = 64;
    const MAX_LABEL: usize = 63;

    pub fn new(text: &str) -> Result<Self, EmailError> {
        let error = |violation| EmailError { violation, text: text.chars().take(Self::MAX_LEN).collect() };
        if text.is_empty() {
            return Err(error(Violation::Empty));
        }
        if let Some(at) = text.find(|c: char| !c.is_ascii()) {
            return Err(error(Violation::NotAscii { at }));
        }
        if text.len() > Self::MAX_LEN {
            return Err(error(Violation::TooLong { len: text.len(), max: Self::MAX_LEN }));
        }
        let (local, domain) = text.split_once('@').ok_or_else(|| error(Violation::NoAt))?;
        if local.len() > Self::MAX_LOCAL {
            return Err(error(Violation::LocalTooLong { len: local.len() }));
        }
        check_dotted(local, 0, is_atext).map_err(|violation| error(violation.in_part("local part")))?;
        check_dotted(domain, local.len() + 1, |b| b.is_ascii_alphanumeric() || b == b'-')
            .map_err(|violation| error(violation.in_part("domain")))?;
        for label in domain.split('.') {
            if label.len() > Self::MAX_LABEL || label.starts_with('-') || label.ends_with('-') {
                return Err(error(Violation::BadLabel { label: label.to_owned() }));
            }
        }
        Ok(Self(text.to_ascii_lowercase()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// `atext` of RFC 5322, section 3.2.3.
fn is_atext(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte)
}

/// Checks that `part`, which starts `offset` bytes into the address, is atoms joined by single dots.
fn check_dotted(part: &str, offset: usize, allowed: impl Fn(u8) -> bool) -> Result<(), Violation> {
    let mut atom_is_empty = true;
    for (i, byte) in part.bytes().enumerate() {
        match byte {
            b'.' if atom_is_empty => return Err(Violation::EmptyAtom { part: "", at: offset + i }),
            b'.' => atom_is_empty = true,
            _ if allowed(byte) => atom_is_empty = false,
            _ => return Err(Violation::BadCharacter { part: "", at: offset + i, found: byte as char }),
        }
    }
    if atom_is_empty { Err(Violation::EmptyAtom { part: "", at: offset + part.len() }) } else { Ok(()) }
}

impl fmt::Display for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that is no email address. It is quoted with escapes, so that it is safe in a terminal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an email address: {text:?}: {violation}")]
pub struct EmailError {
    violation: Violation,
    text: String,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Violation {
    #[error("it is empty")]
    Empty,
    #[error("non-ASCII character at byte {at}")]
    NotAscii { at: usize },
    #[error("{len} bytes, at most {max} fit")]
    TooLong { len: usize, max: usize },
    #[error("there is no '@'")]
    NoAt,
    #[error("{len} bytes before the '@', at most {} fit", Email::MAX_LOCAL)]
    LocalTooLong { len: usize },
    #[error("nothing between dots in the {part} at byte {at}")]
    EmptyAtom { part: &'static str, at: usize },
    #[error("unexpected character {found:?} in the {part} at byte {at}")]
    BadCharacter { part: &'static str, at: usize, found: char },
    #[error("{label:?} is not a host-name label")]
    BadLabel { label: String },
}

impl Violation {
    fn in_part(self, name: &'static str) -> Self {
        match self {
            Violation::EmptyAtom { at, .. } => Violation::EmptyAtom { part: name, at },
            Violation::BadCharacter { at, found, .. } => Violation::BadCharacter { part: name, at, found },
            other => other,
        }
    }
}

/// One sighting, as a row of `users` holds it and a datagram carries it.
///
/// The store returns the `Status` that it committed and the broadcaster sends nothing else, but that a
/// pseudonym may stand for the email; so every announced status was stored, and every stored one came with a
/// checked [`Email`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub email: Email,
    /// Nanoseconds since the Unix epoch, by the server's clock.
    pub last_seen_ns: u64,
    /// The client's end of the connection, as nginx saw it.
    pub ip: IpAddr,
    pub port: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(text: &str, message: &str) {
        assert_eq!(Email::new(text).unwrap_err().to_string(), message);
    }

    #[test]
    fn normalises_only_the_case() {
        for (text, expected) in [
            ("valid_user@qt-test.com", "valid_user@qt-test.com"),
            ("A+Tag@Example.COM", "a+tag@example.com"),
            ("!#$%&'*+-/=?^_`{|}~@x", "!#$%&'*+-/=?^_`{|}~@x"),
            ("a.b.c@1.2.3.example", "a.b.c@1.2.3.example"),
        ] {
            assert_eq!(Email::new(text).unwrap().as_str(), expected);
        }
    }

    #[test]
    fn an_error_names_the_fault_and_its_place() {
        refused("", r#"not an email address: "": it is empty"#);
        refused("not_an_email", r#"not an email address: "not_an_email": there is no '@'"#);
        refused("@x", r#"not an email address: "@x": nothing between dots in the local part at byte 0"#);
        refused("a@", r#"not an email address: "a@": nothing between dots in the domain at byte 2"#);
        refused(
            "a..b@x",
            r#"not an email address: "a..b@x": nothing between dots in the local part at byte 2"#,
        );
        refused(
            "a@b@c",
            r#"not an email address: "a@b@c": unexpected character '@' in the domain at byte 3"#,
        );
        refused(
            "a b@c",
            r#"not an email address: "a b@c": unexpected character ' ' in the local part at byte 1"#,
        );
        refused("a@-b.c", r#"not an email address: "a@-b.c": "-b" is not a host-name label"#);
        refused("jos\u{e9}@x", "not an email address: \"jos\u{e9}@x\": non-ASCII character at byte 3");
        refused(
            "a\u{1b}[2J@x",
            r#"not an email address: "a\u{1b}[2J@x": unexpected character '\u{1b}' in the local part at byte 1"#,
        );
        refused(
            "\"a b\"@x",
            r#"not an email address: "\"a b\"@x": unexpected character '"' in the local part at byte 0"#,
        );
    }

    #[test]
    fn lengths_end_where_the_rfc_says() {
        let label = "d".repeat(63);
        assert!(Email::new(&format!("{}@x", "l".repeat(64))).is_ok());
        assert!(Email::new(&format!("{}@x", "l".repeat(65))).is_err());
        assert!(Email::new(&format!("a@{label}")).is_ok());
        assert!(Email::new(&format!("a@{label}d")).is_err());
        let longest = format!("{}@{label}.{label}.{}", "l".repeat(64), "d".repeat(61));
        assert_eq!(longest.len(), Email::MAX_LEN);
        assert!(Email::new(&longest).is_ok());
        assert!(Email::new(&format!("{longest}d")).is_err());
    }

    #[test]
    fn a_huge_text_makes_a_small_error() {
        let error = Email::new(&"x".repeat(1 << 20)).unwrap_err();
        assert!(error.to_string().len() < 400, "{}", error.to_string().len());
    }
}
