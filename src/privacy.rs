//! Pseudonyms: what an announcement says in the place of an email, and who can tell whose it is.
//!
//! docs/wire.md, "Privacy", has the construction, what it protects and what it does not.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::Path;
use std::str::FromStr;

use ring::hmac::{self, HMAC_SHA256};

use crate::files;
use crate::hex;
use crate::status::{Email, EmailError, Status};

/// Keeps a pseudonym apart from any other use that the key may be put to.
const LABEL: &[u8] = b"rollcall pseudonym\0";
/// Bytes of the HMAC that a pseudonym shows. At 128 bits two people never share one.
const SHOWN: usize = 16;
const KEY_LEN: usize = 32;
/// Bytes of a list of people: some millions.
const MOST_PEOPLE: u64 = 1 << 28;

/// What `ROLLCALL_PRIVACY` may be.
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

/// The secret behind the pseudonyms: the server's, and of those listeners that may know who is who.
pub struct Key(hmac::Key);

impl Key {
    /// Reads 64 hex digits from a file that nobody else may read.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let error = Error::of("the privacy key", path);
        let text = files::read_secret(path).map_err(|cause| error(Problem::Unreadable(cause)))?;
        Self::from_hex(files::text(&text).as_bytes()).ok_or_else(|| error(Problem::NotKey))
    }

    fn from_hex(text: &[u8]) -> Option<Self> {
        let digits = text.strip_suffix(b"\n").unwrap_or(text);
        let digits = digits.strip_suffix(b"\r").unwrap_or(digits);
        let bytes: [u8; KEY_LEN] = hex::decode(digits)?;
        Some(Self(hmac::Key::new(HMAC_SHA256, &bytes)))
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

    /// What may be announced of one commit. A commit holds its rows in the order of their emails, which
    /// would tell who is who; sorted by pseudonym the order tells nothing.
    pub fn hide(&self, committed: &[Status]) -> Vec<Status> {
        let hide = |status: &Status| Status { email: self.pseudonym(&status.email), ..*status };
        let mut hidden: Vec<Status> = committed.iter().map(hide).collect();
        hidden.sort_unstable_by(|a, b| a.email.cmp(&b.email));
        hidden
    }
}

/// Who is behind which pseudonym, of those that are on a list: there is no way back but to try.
#[derive(Default)]
pub struct People(HashMap<Email, Email>);

impl People {
    /// Reads a file with one email a line. Empty lines, and those that start with `#`, do not count.
    pub fn load(key: &Key, path: &Path) -> Result<Self, Error> {
        let error = Error::of("the list of people", path);
        let bytes = files::read(path, MOST_PEOPLE).map_err(|cause| error(Problem::Unreadable(cause)))?;
        let text = files::text(&bytes);
        // Some spreadsheets end a line with a carriage return alone.
        let end = if text.contains('\n') { '\n' } else { '\r' };
        let mut people = HashMap::new();
        for (line, number) in text.split(end).zip(1..) {
            let line = line.trim_ascii();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let email = Email::new(line).map_err(|cause| error(Problem::Line(number, cause)))?;
            people.insert(key.pseudonym(&email), email);
        }
        Ok(Self(people))
    }

    pub fn resolve(&self, pseudonym: &Email) -> Option<&Email> {
        self.0.get(pseudonym)
    }
}

/// A key or a list that cannot be used.
pub type Error = files::Error<Problem>;

/// Why a text is no key or no list, or a file cannot be read.
#[derive(Debug)]
pub enum Problem {
    Unreadable(io::Error),
    NotKey,
    /// Its number, from 1.
    Line(usize, EmailError),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Unreadable(error) => write!(f, "{error}"),
            Problem::NotKey => {
                f.write_str("it is not 64 hex digits and a line end; openssl rand -hex 32 makes them")
            }
            Problem::Line(number, error) => write!(f, "line {number}: {error}"),
        }
    }
}

impl std::error::Error for Problem {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Problem::Unreadable(error) => Some(error),
            Problem::Line(_, error) => Some(error),
            Problem::NotKey => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    /// The bytes 0 to 31, as in docs/wire.md.
    const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n";

    fn key() -> Key {
        Key::from_hex(KEY.as_bytes()).unwrap()
    }

    fn email(text: &str) -> Email {
        Email::new(text).unwrap()
    }

    fn file(name: &str, bytes: &[u8], mode: u32) -> PathBuf {
        let path = std::env::temp_dir().join(format!("rollcall-privacy-{}-{name}", std::process::id()));
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[track_caller]
    fn said(loaded: Result<impl Sized, Error>, path: &Path) -> String {
        loaded.err().unwrap().to_string().replace(path.to_str().unwrap(), "FILE")
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
        let other = Key::from_hex(KEY.replace('0', "1").as_bytes()).unwrap();
        assert_ne!(other.pseudonym(&email("a@b")), key().pseudonym(&email("a@b")));
    }

    #[test]
    fn what_is_hidden_is_decoded_by_version_1_and_in_no_order_of_emails() {
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
            wire::encode(status, &mut datagram);
            assert_eq!(wire::decode(&datagram), Ok((expected, &[][..])));
        }
    }

    #[test]
    fn the_list_resolves_those_that_are_on_it() {
        let path =
            file("list", b"# staff\r\n\r\nA@example.com\r\n  b@example.com\na@example.com\n\xff#\n", 0o644);
        assert_eq!(
            said(People::load(&key(), &path), &path),
            "the list of people, FILE: line 6: not an email address: \"\u{fffd}#\": \
             non-ASCII character at byte 0"
        );
        fs::write(&path, "# staff\r\n\r\nA@example.com\r\n  b@example.com\na@example.com").unwrap();
        let people = People::load(&key(), &path).unwrap();
        for text in ["a@example.com", "b@example.com"] {
            assert_eq!(people.resolve(&key().pseudonym(&email(text))), Some(&email(text)));
        }
        assert_eq!(people.resolve(&key().pseudonym(&email("c@example.com"))), None);
        // An email that came in clear is not a pseudonym of anybody's.
        assert_eq!(people.resolve(&email("a@example.com")), None);
        fs::write(&path, "").unwrap();
        assert!(People::load(&key(), &path).unwrap().0.is_empty());
        fs::write(&path, [b"a@example.com\n", "x".repeat(1 << 20).as_bytes()].concat()).unwrap();
        let huge = said(People::load(&key(), &path), &path);
        assert!(huge.starts_with("the list of people, FILE: line 2: not an email address: \"xxx"), "{huge}");
        assert!(huge.len() < 400, "{}", huge.len());
        fs::remove_file(&path).unwrap();
        assert_eq!(
            said(People::load(&key(), &path), &path),
            "the list of people, FILE: No such file or directory (os error 2)"
        );
    }

    /// A spreadsheet, an editor or PowerShell wrote them.
    #[test]
    fn lists_and_keys_come_from_windows_too() {
        let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
        let path = file("windows", b"", 0o600);
        for list in ["\u{feff}a@b\r\nc@d\r\n", "a@b\nc@d", "a@b\rc@d\r"] {
            for bytes in [list.as_bytes().to_vec(), utf16(list)] {
                fs::write(&path, &bytes).unwrap();
                let people = People::load(&key(), &path).unwrap();
                for text in ["a@b", "c@d"] {
                    assert_eq!(
                        people.resolve(&key().pseudonym(&email(text))),
                        Some(&email(text)),
                        "{bytes:?}"
                    );
                }
            }
        }
        for text in [format!("\u{feff}{KEY}"), KEY.replace('\n', "\r\n")] {
            for bytes in [text.as_bytes().to_vec(), utf16(&text)] {
                fs::write(&path, &bytes).unwrap();
                let loaded = Key::load(&path).unwrap();
                assert_eq!(loaded.pseudonym(&email("a@b")), key().pseudonym(&email("a@b")), "{bytes:?}");
            }
        }
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_key_that_cannot_be_used_is_named() {
        let path = file("key", KEY.as_bytes(), 0o600);
        assert!(Key::load(&path).is_ok());
        fs::write(&path, KEY.trim().to_uppercase() + "\r\n").unwrap();
        let upper = Key::load(&path).unwrap();
        assert_eq!(upper.pseudonym(&email("a@b")), key().pseudonym(&email("a@b")));
        let digits = KEY.trim();
        for bad in
            ["", "\n", &digits[1..], &format!("{digits}0"), &format!("{KEY}\n"), &digits.replace("0a", "+a")]
        {
            fs::write(&path, bad).unwrap();
            assert_eq!(
                said(Key::load(&path), &path),
                "the privacy key, FILE: it is not 64 hex digits and a line end; openssl rand -hex 32 makes them",
                "{bad:?}"
            );
        }
        fs::write(&path, [0xff; 1 << 20]).unwrap();
        assert_eq!(said(Key::load(&path), &path), "the privacy key, FILE: it has more than 65536 bytes");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(
            said(Key::load(&path), &path),
            "the privacy key, FILE: mode 0640: others can read it; chmod 0600"
        );
        fs::remove_file(&path).unwrap();
        assert_eq!(
            said(Key::load(&path), &path),
            "the privacy key, FILE: No such file or directory (os error 2)"
        );
        let folder = std::env::temp_dir();
        assert_eq!(
            said(People::load(&key(), &folder), &folder),
            "the list of people, FILE: Is a directory (os error 21)"
        );
    }
}
