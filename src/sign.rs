//! The key pair of the broadcast: Ed25519, by ring. Files in, signatures and verdicts out.
//!
//! `openssl genpkey -algorithm ed25519` makes the private key and `openssl pkey -pubout` the public one.

use std::fmt;
use std::io;
use std::path::Path;

use ring::digest::{SHA256, digest};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use crate::credential::{self, Damaged, Kind};
use crate::files;
use crate::hex::Hex;
use crate::wire::{BatchMessage, KeyId, SignatureBytes};

/// What stands before the 32 bytes of an Ed25519 key in its SubjectPublicKeyInfo (RFC 8410, section 4).
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The private key, which the server alone has.
pub struct Signer {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl Signer {
    /// Reads a PKCS#8 PEM file that nobody else may read.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let error = Error::of("the private key of the broadcast", path);
        let bytes = files::read_secret(path).map_err(|cause| error(Problem::Unreadable(cause)))?;
        Self::from_pem(bytes).map_err(error)
    }

    pub fn from_pem(text: impl AsRef<[u8]>) -> Result<Self, Problem> {
        let der = first(text.as_ref(), Kind::PrivateKey)?;
        // openssl writes PKCS#8 version 1, which does not hold the public key that ring could compare.
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).map_err(|_| Problem::NotEd25519)?;
        let bytes = pair.public_key().as_ref().try_into().map_err(|_| Problem::NotEd25519)?;
        Ok(Self { pair, public: PublicKey::from_bytes(bytes) })
    }

    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    pub fn sign(&self, message: &BatchMessage) -> SignatureBytes {
        self.pair.sign(message).as_ref().try_into().expect("an Ed25519 signature has 64 bytes")
    }
}

/// The public key, by which listeners believe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublicKey {
    bytes: [u8; 32],
    id: KeyId,
}

impl PublicKey {
    /// Reads a SubjectPublicKeyInfo PEM file.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let error = Error::of("the public key of the broadcast", path);
        let bytes = files::read(path, files::SMALL).map_err(|cause| error(Problem::Unreadable(cause)))?;
        Self::from_pem(bytes).map_err(error)
    }

    pub fn from_pem(text: impl AsRef<[u8]>) -> Result<Self, Problem> {
        let der = first(text.as_ref(), Kind::PublicKey)?;
        let key = der.strip_prefix(&SPKI).and_then(|key| key.try_into().ok());
        key.map(Self::from_bytes).ok_or(Problem::NotEd25519)
    }

    /// For what was written down as bytes. Whether they are a point of the curve shows at the first
    /// signature: none verifies if they are not.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        let mut id = KeyId::default();
        let len = id.len();
        id.copy_from_slice(&digest(&SHA256, &bytes).as_ref()[..len]);
        Self { bytes, id }
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.bytes
    }

    /// Which of several keys a datagram means. It is four bytes: a hint, and no proof.
    pub fn id(&self) -> KeyId {
        self.id
    }

    pub fn verify(&self, message: &BatchMessage, signature: &SignatureBytes) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.bytes).verify(message, signature).is_ok()
    }
}

/// The key id, in hexadecimal.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hex(&self.id).fmt(f)
    }
}

/// The first item of this kind.
fn first(bytes: &[u8], wanted: Kind) -> Result<Vec<u8>, Problem> {
    let items = credential::items(bytes).map_err(Problem::Damaged)?;
    let instead = items.first().map(|item| item.kind);
    let found = items.into_iter().find(|item| item.kind == wanted);
    found.map(|item| item.bytes).ok_or(Problem::Missing { wanted, instead })
}

/// A key file that cannot be used.
pub type Error = files::Error<Problem>;

/// Why a text is no key, or a file cannot be read.
#[derive(Debug)]
pub enum Problem {
    Unreadable(io::Error),
    Damaged(Damaged),
    Missing { wanted: Kind, instead: Option<Kind> },
    NotEd25519,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Unreadable(error) => write!(f, "{error}"),
            Problem::Damaged(damaged) => write!(f, "{damaged}"),
            Problem::Missing { wanted, instead: None } => {
                write!(f, "it holds neither PEM (RFC 7468) nor DER of {wanted}")
            }
            Problem::Missing { wanted, instead: Some(kind) } => {
                write!(f, "it holds {kind}, and {wanted} is needed")?;
                match (wanted, kind) {
                    (Kind::PublicKey, Kind::PrivateKey) => {
                        f.write_str("; openssl pkey -pubout makes one of it")
                    }
                    _ => Ok(()),
                }
            }
            Problem::NotEd25519 => {
                f.write_str("it is not an Ed25519 key; openssl genpkey -algorithm ed25519 makes one")
            }
        }
    }
}

impl std::error::Error for Problem {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Problem::Unreadable(error) => Some(error),
            Problem::Damaged(damaged) => Some(damaged),
            _ => None,
        }
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

    fn file(name: &str, text: &str, mode: u32) -> PathBuf {
        let path = std::env::temp_dir().join(format!("rollcall-sign-{}-{name}", std::process::id()));
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn the_two_halves_of_the_rfc_belong_together() {
        let signer = Signer::from_pem(PRIVATE).unwrap();
        let public = PublicKey::from_pem(PUBLIC).unwrap();
        assert_eq!(*signer.public(), public);
        assert_eq!(public.to_string(), "e744c079");
        let message = [7; 59];
        let signature = signer.sign(&message);
        assert!(public.verify(&message, &signature));
        assert!(!public.verify(&[8; 59], &signature));
        for at in 0..64 {
            let mut changed = signature;
            changed[at] ^= 1;
            assert!(!public.verify(&message, &changed), "{at}");
        }
        assert!(!PublicKey::from_bytes([0xff; 32]).verify(&message, &signature));
    }

    #[test]
    fn what_openssl_makes_is_read() {
        let path = file("openssl.key", "", 0o600);
        let openssl = |arguments: &[&str]| {
            let out = std::process::Command::new("openssl").args(arguments).arg(&path).output().unwrap();
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            String::from_utf8(out.stdout).unwrap()
        };
        openssl(&["genpkey", "-algorithm", "ed25519", "-out"]);
        let public = openssl(&["pkey", "-pubout", "-in"]);
        assert_eq!(*Signer::load(&path).unwrap().public(), PublicKey::from_pem(&public).unwrap());
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_key_that_went_through_windows_is_read() {
        let mail = format!("Dear all,\r\n{}\r\nBye", PUBLIC.replace('\n', "\r\n"));
        let utf16 = |unit: fn(u16) -> [u8; 2]| mail.encode_utf16().flat_map(unit).collect::<Vec<u8>>();
        let public = PublicKey::from_pem(PUBLIC).unwrap();
        for bytes in [
            mail.clone().into_bytes(),
            format!("\u{feff}{mail}").into_bytes(),
            format!("\u{feff}{PUBLIC}").into_bytes(),
            PUBLIC.replace('\n', "\r").into_bytes(),
            utf16(u16::to_le_bytes),
            [&b"\xff\xfe"[..], &utf16(u16::to_le_bytes)].concat(),
            [&b"\xfe\xff"[..], &utf16(u16::to_be_bytes)].concat(),
            [&SPKI[..], public.as_bytes()].concat(),
        ] {
            assert_eq!(PublicKey::from_pem(&bytes).unwrap(), public, "{bytes:?}");
        }
        assert_eq!(*Signer::from_pem(format!("\u{feff}{PRIVATE}")).unwrap().public(), public);
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
            assert_eq!(PublicKey::from_pem(text).unwrap_err().to_string(), said);
        }
        assert_eq!(
            Signer::from_pem(encrypted).err().unwrap().to_string(),
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
                Signer::load(&exposed).err(),
                format!(
                    "the private key of the broadcast, {}: mode 0640: others can read it; chmod 0600",
                    exposed.display()
                ),
            ),
            (
                Signer::load(&swapped).err(),
                format!(
                    "the private key of the broadcast, {}: it holds a public key, and a private key is needed",
                    swapped.display()
                ),
            ),
            (
                Signer::load(&absent).err(),
                "the private key of the broadcast, no/such.key: No such file or directory (os error 2)"
                    .into(),
            ),
            (
                PublicKey::load(&other).err(),
                format!(
                    "the public key of the broadcast, {}: it is not an Ed25519 key; \
                     openssl genpkey -algorithm ed25519 makes one",
                    other.display()
                ),
            ),
            (
                PublicKey::load(&absent).err(),
                "the public key of the broadcast, no/such.key: No such file or directory (os error 2)".into(),
            ),
        ] {
            assert_eq!(error.unwrap().to_string(), message);
        }
        // It has no end.
        let endless = PublicKey::load(Path::new("/dev/zero")).err().unwrap().to_string();
        assert_eq!(endless, "the public key of the broadcast, /dev/zero: it has more than 65536 bytes");
        for path in [exposed, swapped, other] {
            fs::remove_file(path).unwrap();
        }
    }
}
