//! Pseudonyms stand for emails in announcements. A holder of the key can tell whose they are.
//!
//! docs/wire.md, "Privacy", has the construction, the protection that it gives and its limits.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use ring::hmac::{self, HMAC_SHA256};

use super::status::{Email, Status};

/// Keeps a pseudonym apart from any other use that the key may be put to.
const LABEL: &[u8] = b"rollcall pseudonym\0";
/// Bytes of the HMAC that a pseudonym shows. At 128 bits two people never share one.
const SHOWN: usize = 16;
pub const KEY_LEN: usize = 32;

/// The values of `ROLLCALL_PRIVACY`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privacy {
    /// Announcements carry the email, as version 1 does.
    Clear,
    Pseudonym,
}

impl FromStr for Privacy {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "clear" => Ok(Privacy::Clear),
            "pseudonym" => Ok(Privacy::Pseudonym),
            _ => Err("it is either clear or pseudonym"),
        }
    }
}

impl fmt::Display for Privacy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Privacy::Clear => "clear",
            Privacy::Pseudonym => "pseudonym",
        })
    }
}

/// The secret behind the pseudonyms. The server has it, and so do the listeners that may resolve them.
pub struct Key(hmac::Key);

impl Key {
    pub fn new(bytes: &[u8; KEY_LEN]) -> Self {
        Self(hmac::Key::new(HMAC_SHA256, bytes))
    }

    /// The name that stands for this email for as long as the key lives. It is itself an [`Email`], so that
    /// every listener decodes it, and one that can be nobody's (RFC 2606: `.invalid`).
    pub fn pseudonym(&self, email: &Email) -> Email {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(LABEL);
        context.update(email.as_str().as_bytes());
        let text = hex::encode(&context.sign().as_ref()[..SHOWN]) + "@pseudonym.invalid";
        Email::new(&text).expect("hex digits are a local part, and pseudonym.invalid is a domain")
    }

    /// The statuses of one commit, with pseudonyms. A commit holds its rows in the order of their emails, which
    /// would give people away; sorted by pseudonym the order says nothing.
    pub fn hide(&self, committed: &[Status]) -> Vec<Status> {
        let hide = |status: &Status| Status { email: self.pseudonym(&status.email), ..*status };
        let mut hidden: Vec<Status> = committed.iter().map(hide).collect();
        hidden.sort_unstable_by(|a, b| a.email.cmp(&b.email));
        hidden
    }
}

/// The people of a list by their pseudonyms. There is no way back but to try each.
#[derive(Default)]
pub struct People(HashMap<Email, Email>);

impl People {
    pub fn new(key: &Key, emails: impl IntoIterator<Item = Email>) -> Self {
        Self(emails.into_iter().map(|email| (key.pseudonym(&email), email)).collect())
    }

    pub fn resolve(&self, pseudonym: &Email) -> Option<&Email> {
        self.0.get(pseudonym)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol;

    /// The bytes 0 to 31, as in docs/wire.md.
    fn key() -> Key {
        Key::new(&std::array::from_fn(|i| i as u8))
    }

    fn email(text: &str) -> Email {
        Email::new(text).unwrap()
    }

    /// Computed with Python's hmac module, the first with openssl dgst -mac hmac too.
    #[test]
    fn the_pseudonyms_are_those_that_others_compute() {
        let longest = format!("{}@{}.{}.{}", "x".repeat(64), "d".repeat(63), "d".repeat(63), "d".repeat(61));
        for (text, pseudonym) in [
            ("valid_user@qt-test.com", "b51cb3d88a03dce55445dfa6edee9110@pseudonym.invalid"),
            ("Valid_User@QT-test.com", "b51cb3d88a03dce55445dfa6edee9110@pseudonym.invalid"),
            ("a@b", "9a46e53e505b0ba2b5b08033c90c3832@pseudonym.invalid"),
            (&longest, "4a093ddd7749b39841d523de7fd9cde0@pseudonym.invalid"),
        ] {
            assert_eq!(key().pseudonym(&email(text)).as_str(), pseudonym);
        }
        let other = Key::new(&[1; KEY_LEN]);
        assert_ne!(other.pseudonym(&email("a@b")), key().pseudonym(&email("a@b")));
    }

    #[test]
    fn version_1_decodes_pseudonyms_in_no_order_of_emails() {
        let status = |text: &str, port| Status {
            email: email(text),
            last_seen_ns: u64::from(port),
            ip: "192.0.2.1".parse().unwrap(),
            port,
        };
        let committed = [status("a@example.com", 1), status("b@example.com", 2), status("c@example.com", 3)];
        let hidden = key().hide(&committed);
        // Their pseudonyms begin with 1b, b2 and 81.
        assert_eq!(hidden.iter().map(|status| status.port).collect::<Vec<_>>(), [1, 3, 2]);
        for status in &hidden {
            let original = &committed[usize::from(status.port) - 1];
            let expected = Status { email: key().pseudonym(&original.email), ..*original };
            assert_eq!(*status, expected);
            let mut datagram = Vec::new();
            protocol::encode(status, &mut datagram);
            assert_eq!(protocol::decode(&datagram), Ok((expected, &[][..])));
        }
    }
}
