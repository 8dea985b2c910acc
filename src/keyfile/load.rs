//! The keys of the broadcast and of pseudonyms, and the list of people, from their files.

use std::io;
use std::path::{Path, PathBuf};

use hex::FromHex;

use super::{Damaged, ItemKind, der, items};
use crate::files::{self, FileError};
use crate::protocol::keys::{NotEd25519, PublicKey, Signer};
use crate::protocol::pseudonym::{self, People};
use crate::protocol::status::{Email, EmailError};

/// Bytes of a list of people: some millions.
const MOST_PEOPLE: u64 = 1 << 28;
/// Bytes of a file of public keys: some thousands.
const MOST_KEYS: u64 = 1 << 20;

/// Reads the private key that signs announcements from a file that nobody else may read.
pub fn signing_key(path: &Path) -> Result<Signer, Error> {
    let error = Error::of("the private key of the broadcast", path);
    let bytes = files::read_secret(path).map_err(|cause| error(Fault::Unreadable(cause)))?;
    parse_signing_key(&bytes).map_err(error)
}

pub fn public_key(path: &Path) -> Result<PublicKey, Error> {
    let error = Error::of("the public key of the broadcast", path);
    let bytes = files::read(path, files::SMALL).map_err(|cause| error(Fault::Unreadable(cause)))?;
    parse_public_key(&bytes).map_err(error)
}

/// Every public key in a file, such as one of `rollcall-admin keys`.
pub fn public_keys(path: &Path) -> Result<Vec<PublicKey>, Error> {
    let error = Error::of("the public key of the broadcast", path);
    let bytes = files::read(path, MOST_KEYS).map_err(|cause| error(Fault::Unreadable(cause)))?;
    parse_public_keys(&bytes).map_err(error)
}

/// Those of several files, each once.
pub fn public_keys_in_all(files: &[PathBuf]) -> Result<Vec<PublicKey>, Error> {
    let mut keys = Vec::new();
    for file in files {
        for key in public_keys(file)? {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
    }
    Ok(keys)
}

/// The public keys of the server of this host, also while the one that signs is replaced.
const OWN: [&str; 3] = ["broadcast.pub", "broadcast.next.pub", "broadcast.old.pub"];
/// Those of all servers, as `rollcall-admin keys` prints them.
const ALL: &str = "servers.pub";

/// The files with the public keys of servers in a folder of keys.
pub fn public_keys_of(folder: &Path) -> Vec<PathBuf> {
    in_folder(folder, OWN.into_iter().chain([ALL]))
}

/// The keys in them.
pub fn public_keys_in(folder: &Path) -> Result<Vec<PublicKey>, Error> {
    public_keys_in_all(&public_keys_of(folder))
}

/// Those of this host's server alone.
pub fn own_public_keys(folder: &Path) -> Result<Vec<PublicKey>, Error> {
    public_keys_in_all(&in_folder(folder, OWN))
}

fn in_folder<'a>(folder: &Path, names: impl IntoIterator<Item = &'a str>) -> Vec<PathBuf> {
    let keys = names.into_iter().map(|name| folder.join(name));
    keys.filter(|key| key.metadata().is_ok_and(|key| key.len() > 0)).collect()
}

/// Reads PKCS #8 as PEM or DER.
pub fn parse_signing_key(file: impl AsRef<[u8]>) -> Result<Signer, Fault> {
    Ok(Signer::from_der(&first(file.as_ref(), ItemKind::PrivateKey)?)?)
}

/// `false`: the public half of the private key is known, and the certificate has another. Both are DER.
pub fn may_be_pair(certificate: &[u8], key: &[u8]) -> bool {
    let holds = |half: &[u8]| certificate.windows(half.len()).any(|part| part == half);
    match (der::public_half(key), Signer::from_der(key)) {
        (Some(half), _) => holds(half),
        (None, Ok(signer)) => holds(signer.public().as_bytes()),
        (None, Err(_)) => true,
    }
}

/// Reads a SubjectPublicKeyInfo as PEM or DER.
pub fn parse_public_key(file: impl AsRef<[u8]>) -> Result<PublicKey, Fault> {
    Ok(PublicKey::from_der(&first(file.as_ref(), ItemKind::PublicKey)?)?)
}

/// Reads each SubjectPublicKeyInfo of a file.
pub fn parse_public_keys(file: impl AsRef<[u8]>) -> Result<Vec<PublicKey>, Fault> {
    let items = items(file.as_ref())?;
    // That which there is instead has a name.
    first(file.as_ref(), ItemKind::PublicKey)?;
    let keys = items.iter().filter(|item| item.kind == ItemKind::PublicKey);
    keys.map(|item| Ok(PublicKey::from_der(&item.bytes)?)).collect()
}

/// Reads 64 hex digits from a file that nobody else may read.
pub fn pseudonym_key(path: &Path) -> Result<pseudonym::Key, Error> {
    let error = Error::of("the privacy key", path);
    let bytes = files::read_secret(path).map_err(|cause| error(Fault::Unreadable(cause)))?;
    let text = files::text(&bytes);
    let digits = text.strip_suffix('\n').unwrap_or(&text);
    let digits = digits.strip_suffix('\r').unwrap_or(digits);
    FromHex::from_hex(digits).map(|bytes| pseudonym::Key::new(&bytes)).map_err(|_| error(Fault::NotHex))
}

/// Reads one email a line. Empty lines, and those that start with `#`, do not count.
pub fn people(key: &pseudonym::Key, path: &Path) -> Result<People, Error> {
    let error = Error::of("the list of people", path);
    let bytes = files::read(path, MOST_PEOPLE).map_err(|cause| error(Fault::Unreadable(cause)))?;
    let text = files::text(&bytes);
    // Some spreadsheets end a line with a carriage return alone.
    let end = if text.contains('\n') { '\n' } else { '\r' };
    let lines = text.split(end).map(str::trim_ascii).zip(1..);
    let emails = lines.filter(|(line, _)| !line.is_empty() && !line.starts_with('#'));
    let emails =
        emails.map(|(line, number)| Email::new(line).map_err(|cause| error(Fault::Line(number, cause))));
    Ok(People::new(key, emails.collect::<Result<Vec<_>, _>>()?))
}

/// The first item of this kind.
fn first(bytes: &[u8], wanted: ItemKind) -> Result<Vec<u8>, Fault> {
    let items = items(bytes)?;
    let instead = items.first().map(|item| item.kind);
    let found = items.into_iter().find(|item| item.kind == wanted);
    found.map(|item| item.bytes).ok_or(match instead {
        None => Fault::Missing(wanted),
        Some(instead) => Fault::Other { wanted, instead },
    })
}

/// A key or a list that cannot be used.
pub type Error = FileError<Fault>;

#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error(transparent)]
    Unreadable(io::Error),
    #[error(transparent)]
    Damaged(#[from] Damaged),
    #[error("it holds neither PEM (RFC 7468) nor DER of {0}")]
    Missing(ItemKind),
    #[error("it holds {instead}, and {wanted} is needed{}", remedy(*wanted, *instead))]
    Other { wanted: ItemKind, instead: ItemKind },
    #[error(transparent)]
    NotEd25519(#[from] NotEd25519),
    #[error("it is not 64 hex digits and a line end; openssl rand -hex 32 makes them")]
    NotHex,
    /// The number counts from 1.
    #[error("line {0}: {1}")]
    Line(usize, EmailError),
}

fn remedy(wanted: ItemKind, instead: ItemKind) -> &'static str {
    match (wanted, instead) {
        (ItemKind::PublicKey, ItemKind::PrivateKey) => "; openssl pkey -pubout makes one of it",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    /// The key of RFC 8410, section 10.3, and its public half, section 10.1.
    const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
        -----END PRIVATE KEY-----\n";
    const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\n\
        MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n\
        -----END PUBLIC KEY-----\n";
    const EC_PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\n\
        MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEn1LlwLN/KBYQRVH6HfIMTzfEqJOVztLe\n\
        kLchp2hi78cCaMY81FBlYs8J9l7krc+M4aBeCGYFjba+hiXttJWPL7ydlE+5UG4U\n\
        -----END PUBLIC KEY-----\n";

    /// The bytes 0 to 31, as in docs/wire.md.
    const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n";

    fn key() -> pseudonym::Key {
        pseudonym::Key::new(&std::array::from_fn(|i| i as u8))
    }

    fn email(text: &str) -> Email {
        Email::new(text).unwrap()
    }

    fn keyfile_der(pem: &str) -> Vec<u8> {
        items(pem.as_bytes()).unwrap().remove(0).bytes
    }

    fn file(name: &str, bytes: impl AsRef<[u8]>, mode: u32) -> PathBuf {
        let path = std::env::temp_dir().join(format!("rollcall-keyfile-{}-{name}", std::process::id()));
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[track_caller]
    fn said(loaded: Result<impl Sized, Error>, path: &Path) -> String {
        loaded.err().unwrap().to_string().replace(path.to_str().unwrap(), "FILE")
    }

    #[test]
    fn keys_that_openssl_makes_are_read() {
        let path = file("openssl.key", "", 0o600);
        let openssl = |arguments: &[&str]| {
            let out = std::process::Command::new("openssl").args(arguments).arg(&path).output().unwrap();
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            String::from_utf8(out.stdout).unwrap()
        };
        openssl(&["genpkey", "-algorithm", "ed25519", "-out"]);
        let public = openssl(&["pkey", "-pubout", "-in"]);
        assert_eq!(*signing_key(&path).unwrap().public(), parse_public_key(&public).unwrap());
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_key_that_went_through_windows_is_read() {
        let mail = format!("Dear all,\r\n{}\r\nBye", PUBLIC.replace('\n', "\r\n"));
        let utf16 = |unit: fn(u16) -> [u8; 2]| mail.encode_utf16().flat_map(unit).collect::<Vec<u8>>();
        let public = parse_public_key(PUBLIC).unwrap();
        for bytes in [
            mail.clone().into_bytes(),
            format!("\u{feff}{mail}").into_bytes(),
            format!("\u{feff}{PUBLIC}").into_bytes(),
            PUBLIC.replace('\n', "\r").into_bytes(),
            utf16(u16::to_le_bytes),
            [&b"\xff\xfe"[..], &utf16(u16::to_le_bytes)].concat(),
            [&b"\xfe\xff"[..], &utf16(u16::to_be_bytes)].concat(),
            keyfile_der(PUBLIC),
        ] {
            assert_eq!(parse_public_key(&bytes).unwrap(), public, "{bytes:?}");
        }
        assert_eq!(*parse_signing_key(format!("\u{feff}{PRIVATE}")).unwrap().public(), public);
    }

    #[test]
    fn a_file_may_have_the_keys_of_several_servers() {
        let other = PublicKey::from_bytes([7; 32]);
        let pem = "-----BEGIN PUBLIC KEY-----\n\
            MCowBQYDK2VwAyEABwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\n\
            -----END PUBLIC KEY-----\n";
        let both = [parse_public_key(PUBLIC).unwrap(), other];
        for text in [
            format!("{PUBLIC}{pem}"),
            format!("# the server one\n{PUBLIC}# the server two\n{pem}"),
            format!("{PUBLIC}{pem}").replace('\n', "\r\n"),
        ] {
            assert_eq!(parse_public_keys(&text).unwrap(), both, "{text}");
        }
        let der = [keyfile_der(PUBLIC), other.to_der()].concat();
        assert_eq!(parse_public_keys(der).unwrap(), both);
        // One that cannot be used is not passed over.
        assert!(matches!(parse_public_keys(format!("{PUBLIC}{EC_PUBLIC}")), Err(Fault::NotEd25519(_))));
        assert!(parse_public_keys(format!("{PUBLIC}{}", &pem[..40])).is_err());
        let private = parse_public_keys(PRIVATE).unwrap_err().to_string();
        assert!(private.ends_with("openssl pkey -pubout makes one of it"), "{private}");
    }

    #[test]
    fn a_file_of_something_else_says_so() {
        let certificate = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
        let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n";
        for (text, said) in [
            ("", "it holds neither PEM (RFC 7468) nor DER of a public key"),
            (certificate, "it holds a certificate, and a public key is needed"),
            (
                PRIVATE,
                "it holds a private key, and a public key is needed; openssl pkey -pubout makes one of it",
            ),
            (&PUBLIC[..60], "its -----BEGIN PUBLIC KEY----- has no -----END PUBLIC KEY-----"),
        ] {
            assert_eq!(parse_public_key(text).unwrap_err().to_string(), said);
        }
        assert_eq!(
            parse_signing_key(encrypted).err().unwrap().to_string(),
            "it holds an encrypted private key, and a private key is needed"
        );
    }

    #[test]
    fn a_bad_file_is_named() {
        let exposed = file("exposed.key", PRIVATE, 0o640);
        let swapped = file("swapped.key", PUBLIC, 0o600);
        let other = file("other.pub", EC_PUBLIC, 0o644);
        let absent = PathBuf::from("no/such.key");
        for (error, message) in [
            (
                signing_key(&exposed).err(),
                format!(
                    "the private key of the broadcast, {}: mode 0640: others can read it; chmod 0600",
                    exposed.display()
                ),
            ),
            (
                signing_key(&swapped).err(),
                format!(
                    "the private key of the broadcast, {}: it holds a public key, and a private key is needed",
                    swapped.display()
                ),
            ),
            (
                signing_key(&absent).err(),
                "the private key of the broadcast, no/such.key: No such file or directory (os error 2)"
                    .into(),
            ),
            (
                public_key(&other).err(),
                format!(
                    "the public key of the broadcast, {}: it is not an Ed25519 key; \
                     openssl genpkey -algorithm ed25519 makes one",
                    other.display()
                ),
            ),
            (
                public_key(&absent).err(),
                "the public key of the broadcast, no/such.key: No such file or directory (os error 2)".into(),
            ),
        ] {
            assert_eq!(error.unwrap().to_string(), message);
        }
        // It has no end.
        let endless = public_key(Path::new("/dev/zero")).err().unwrap().to_string();
        assert_eq!(endless, "the public key of the broadcast, /dev/zero: it has more than 65536 bytes");
        for path in [exposed, swapped, other] {
            fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn the_list_resolves_those_that_are_on_it() {
        let path =
            file("list", b"# staff\r\n\r\nA@example.com\r\n  b@example.com\na@example.com\n\xff#\n", 0o644);
        assert_eq!(
            said(people(&key(), &path), &path),
            "the list of people, FILE: line 6: not an email address: \"\u{fffd}#\": \
             non-ASCII character at byte 0"
        );
        fs::write(&path, "# staff\r\n\r\nA@example.com\r\n  b@example.com\na@example.com").unwrap();
        let listed = people(&key(), &path).unwrap();
        for text in ["a@example.com", "b@example.com"] {
            assert_eq!(listed.resolve(&key().pseudonym(&email(text))), Some(&email(text)));
        }
        assert_eq!(listed.resolve(&key().pseudonym(&email("c@example.com"))), None);
        // An email that came in clear is not a pseudonym of anybody's.
        assert_eq!(listed.resolve(&email("a@example.com")), None);
        fs::write(&path, "").unwrap();
        assert!(people(&key(), &path).unwrap().resolve(&key().pseudonym(&email("a@example.com"))).is_none());
        fs::write(&path, [b"a@example.com\n", "x".repeat(1 << 20).as_bytes()].concat()).unwrap();
        let huge = said(people(&key(), &path), &path);
        assert!(huge.starts_with("the list of people, FILE: line 2: not an email address: \"xxx"), "{huge}");
        assert!(huge.len() < 400, "{}", huge.len());
        fs::remove_file(&path).unwrap();
        assert_eq!(
            said(people(&key(), &path), &path),
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
                let listed = people(&key(), &path).unwrap();
                for text in ["a@b", "c@d"] {
                    assert_eq!(
                        listed.resolve(&key().pseudonym(&email(text))),
                        Some(&email(text)),
                        "{bytes:?}"
                    );
                }
            }
        }
        for text in [format!("\u{feff}{KEY}"), KEY.replace('\n', "\r\n")] {
            for bytes in [text.as_bytes().to_vec(), utf16(&text)] {
                fs::write(&path, &bytes).unwrap();
                let loaded = pseudonym_key(&path).unwrap();
                assert_eq!(loaded.pseudonym(&email("a@b")), key().pseudonym(&email("a@b")), "{bytes:?}");
            }
        }
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_key_that_cannot_be_used_is_named() {
        let path = file("key", KEY.as_bytes(), 0o600);
        assert!(pseudonym_key(&path).is_ok());
        fs::write(&path, KEY.trim().to_uppercase() + "\r\n").unwrap();
        let upper = pseudonym_key(&path).unwrap();
        assert_eq!(upper.pseudonym(&email("a@b")), key().pseudonym(&email("a@b")));
        let digits = KEY.trim();
        for bad in
            ["", "\n", &digits[1..], &format!("{digits}0"), &format!("{KEY}\n"), &digits.replace("0a", "+a")]
        {
            fs::write(&path, bad).unwrap();
            assert_eq!(
                said(pseudonym_key(&path), &path),
                "the privacy key, FILE: it is not 64 hex digits and a line end; openssl rand -hex 32 makes them",
                "{bad:?}"
            );
        }
        fs::write(&path, [0xff; 1 << 20]).unwrap();
        assert_eq!(said(pseudonym_key(&path), &path), "the privacy key, FILE: it has more than 65536 bytes");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(
            said(pseudonym_key(&path), &path),
            "the privacy key, FILE: mode 0640: others can read it; chmod 0600"
        );
        fs::remove_file(&path).unwrap();
        assert_eq!(
            said(pseudonym_key(&path), &path),
            "the privacy key, FILE: No such file or directory (os error 2)"
        );
        let folder = std::env::temp_dir();
        assert_eq!(
            said(people(&key(), &folder), &folder),
            "the list of people, FILE: Is a directory (os error 21)"
        );
    }
}
