//! Certificate, key and CA from their files: the client proves itself with two, and believes a server by the third.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_tls::TlsConnector;
use rustls::sign::any_supported_type;
use rustls::{Certificate, ClientConfig, PrivateKey, RootCertStore};
use webpki::{EndEntityCert, KeyUsage, SignatureAlgorithm, Time};

use super::convert::{self, Conversion};
use crate::cli::{Timespan, note, seconds};
use crate::files;
use crate::keyfile::{self, Damaged, Item, ItemKind};
use crate::x509;

/// Bytes of a file: the CAs of all the world are a quarter of a million.
const MOST: u64 = 1 << 22;

/// Where the three files are.
#[derive(Clone)]
pub struct Files {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub ca: PathBuf,
}

/// The three files at one moment, to notice later that one was replaced.
#[derive(PartialEq, Eq)]
pub struct Contents {
    cert: Vec<u8>,
    key: Vec<u8>,
    ca: Vec<u8>,
}

/// A pair that fits, and until when.
pub struct Loaded {
    pub tls: TlsConnector,
    /// `None` when the certificate is of a form that only TLS reads.
    pub leaf: Option<x509::Certificate>,
    warned: bool,
}

/// One of the three.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Cert,
    Key,
    Ca,
}

impl Role {
    pub fn option(self) -> &'static str {
        match self {
            Role::Cert => "--cert",
            Role::Key => "--key",
            Role::Ca => "--ca",
        }
    }

    fn wanted(self) -> ItemKind {
        match self {
            Role::Cert | Role::Ca => ItemKind::Certificate,
            Role::Key => ItemKind::PrivateKey,
        }
    }
}

impl Contents {
    /// The same with another pair.
    pub fn with(&self, cert: &[u8], key: &[u8]) -> Self {
        Self { cert: cert.to_vec(), key: key.to_vec(), ca: self.ca.clone() }
    }
}

impl Files {
    pub fn read(&self) -> Result<Contents, Error> {
        let read =
            |path: &Path| files::read(path, MOST).map_err(|error| Error::new(path, Fault::Unreadable(error)));
        Ok(Contents { cert: read(&self.cert)?, key: read(&self.key)?, ca: read(&self.ca)? })
    }

    /// Checks all that can be known before connecting: that each file holds the right items, that key
    /// and certificate are a pair, and that the certificate is valid at `now`.
    pub fn load(&self, contents: &Contents, now: SystemTime) -> Result<Loaded, Error> {
        let Self { cert, key, ca } = self;
        let mut roots = RootCertStore::empty();
        for authority in items(Role::Ca, ca, &contents.ca)? {
            roots.add(&Certificate(authority.bytes)).map_err(|_| Error::new(ca, Fault::NotACertificate))?;
        }
        let (chain, keys) =
            match (items(Role::Cert, cert, &contents.cert), items(Role::Key, key, &contents.key)) {
                (Err(one), Err(other))
                    if one.found(ItemKind::PrivateKey) && other.found(ItemKind::Certificate) =>
                {
                    return Err(Error::new(cert, Fault::Swapped { key: key.clone() }));
                }
                (chain, keys) => (chain?, keys?),
            };
        let mut chain: Vec<_> = chain.into_iter().map(|item| Certificate(item.bytes)).collect();
        let private = PrivateKey(keys[0].bytes.clone());
        let bad_key = || Error::new(key, Fault::BadKey(convert::completed(&keys[0], key)));
        let (algorithm, signature) = sign(&private).ok_or_else(bad_key)?;
        let leaf = chain.iter().position(|certificate| {
            let certificate = EndEntityCert::try_from(certificate.0.as_slice());
            certificate.is_ok_and(|it| it.verify_signature(algorithm, MESSAGE, &signature).is_ok())
        });
        let Some(leaf) = leaf else {
            let is_x509 =
                |certificate: &Certificate| EndEntityCert::try_from(certificate.0.as_slice()).is_ok();
            return Err(Error::new(
                cert,
                match chain.iter().all(is_x509) {
                    true => Fault::NotAPair { key: key.clone() },
                    false => Fault::NotACertificate,
                },
            ));
        };
        // TLS wants it first, wherever it stands in the file.
        chain[..=leaf].rotate_right(1);
        check_validity(&chain[0], now).map_err(|fault| Error::new(cert, fault))?;
        let leaf = x509::Certificate::read(&chain[0].0).ok();
        let config = ClientConfig::builder()
            .with_safe_defaults()
            .with_root_certificates(Arc::new(roots))
            .with_client_auth_cert(chain, private)
            .map_err(|_| bad_key())?;
        Ok(Loaded { tls: TlsConnector::from(config), leaf, warned: false })
    }
}

impl Loaded {
    /// Warns once per certificate that it ends soon.
    pub fn warn(&mut self, now: SystemTime) {
        if let (false, Some(left)) = (self.warned, self.ends_soon(now)) {
            let left = Timespan(Duration::from_secs(left.as_secs()));
            note(format_args!(
                "rollcall-client: warning: the certificate ends in {left}; ask the administrator of rollcall for a new one"
            ));
            self.warned = true;
        }
    }

    /// The remaining time, once it is less than a tenth of the certificate's lifetime.
    fn ends_soon(&self, now: SystemTime) -> Option<Duration> {
        let x509::Certificate { not_before, not_after, .. } = *self.leaf.as_ref()?;
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(not_after);
        let left = end.duration_since(now).unwrap_or_default();
        (left < Duration::from_secs(not_after.saturating_sub(not_before)) / 10).then_some(left)
    }

    /// From when on it can be renewed, in seconds since the Unix epoch.
    pub fn due(&self) -> Option<u64> {
        self.leaf.as_ref().map(|leaf| x509::due(leaf.not_before, leaf.not_after))
    }

    pub fn is_due(&self, now: SystemTime) -> bool {
        self.due().is_some_and(|due| seconds(now) >= due)
    }
}

/// At least one item of the kind that is wanted, in the order of the file.
fn items(role: Role, path: &Path, bytes: &[u8]) -> Result<Vec<Item>, Error> {
    if files::text(bytes).trim().is_empty() {
        return Err(Error::new(path, Fault::Empty));
    }
    let items = keyfile::items(bytes).map_err(|damaged| Error::new(path, Fault::Damaged(damaged)))?;
    let (wanted, others): (Vec<_>, Vec<_>) = items.into_iter().partition(|item| item.kind == role.wanted());
    if !wanted.is_empty() {
        return Ok(wanted);
    }
    // Another item may be of use, such as the encrypted key that follows a certificate.
    let useful = others.iter().find_map(|item| Some((item.kind, Some(advice(item, role, path)?))));
    let instead = useful.or_else(|| others.first().map(|item| (item.kind, None)));
    Err(Error::new(path, Fault::Missing { wanted: role.wanted(), instead }))
}

fn advice(item: &Item, role: Role, path: &Path) -> Option<Advice> {
    let conversion = convert::to_pem(item, role, path).map(Advice::Convert);
    conversion.or(match (item.kind, role) {
        (ItemKind::Request, Role::Cert) => Some(Advice::Words(
            "the administrator of rollcall makes a certificate of it (just enrol EMAIL --csr FILE)",
        )),
        (ItemKind::PublicKey, Role::Key) => {
            Some(Advice::Words("the private key that was made with it is in another file"))
        }
        (ItemKind::OpenSshKey, Role::Key) => Some(Advice::Words(
            "ssh-keygen converts no Ed25519 key: another key and its certificate are needed",
        )),
        _ => None,
    })
}

const MESSAGE: &[u8] = b"rollcall: are these a pair?";

/// Signs with the key, for a certificate to verify: a pair passes with any algorithm. `None` if the
/// key cannot sign.
fn sign(key: &PrivateKey) -> Option<(&'static SignatureAlgorithm, Vec<u8>)> {
    let offered: Vec<_> = ALGORITHMS.iter().map(|(scheme, _)| *scheme).collect();
    let signer = any_supported_type(key).ok()?.choose_scheme(&offered)?;
    let (_, algorithm) = ALGORITHMS.iter().find(|(scheme, _)| *scheme == signer.scheme())?;
    Some((algorithm, signer.sign(MESSAGE).ok()?))
}

static ALGORITHMS: [(rustls::SignatureScheme, &SignatureAlgorithm); 4] = [
    (rustls::SignatureScheme::ECDSA_NISTP256_SHA256, &webpki::ECDSA_P256_SHA256),
    (rustls::SignatureScheme::ECDSA_NISTP384_SHA384, &webpki::ECDSA_P384_SHA384),
    (rustls::SignatureScheme::ED25519, &webpki::ED25519),
    (rustls::SignatureScheme::RSA_PKCS1_SHA256, &webpki::RSA_PKCS1_2048_8192_SHA256),
];

fn check_validity(certificate: &Certificate, now: SystemTime) -> Result<(), Fault> {
    let cert = EndEntityCert::try_from(certificate.0.as_slice()).map_err(|_| Fault::NotACertificate)?;
    let now = Time::try_from(now).map_err(|_| Fault::NotValidYet)?;
    // No anchors: nginx judges the issuer. webpki checks the validity before that.
    match cert.verify_for_usage(&[], &[], &[], now, KeyUsage::client_auth(), &[]) {
        Err(webpki::Error::CertExpired) => Err(Fault::Expired),
        Err(webpki::Error::CertNotValidYet) => Err(Fault::NotValidYet),
        _ => Ok(()),
    }
}

/// A file, and its fault.
#[derive(Debug)]
pub struct Error {
    path: PathBuf,
    fault: Fault,
}

#[derive(Debug)]
enum Fault {
    Unreadable(io::Error),
    Empty,
    Damaged(Damaged),
    /// It may hold something else, about which there may be something to do.
    Missing {
        wanted: ItemKind,
        instead: Option<(ItemKind, Option<Advice>)>,
    },
    Swapped {
        key: PathBuf,
    },
    NotACertificate,
    /// It may be one that can be completed.
    BadKey(Option<Conversion>),
    NotAPair {
        key: PathBuf,
    },
    Expired,
    NotValidYet,
}

#[derive(Debug)]
enum Advice {
    Convert(Conversion),
    Words(&'static str),
}

impl Error {
    /// Will it do when the clock is right?
    pub fn is_too_early(&self) -> bool {
        matches!(self.fault, Fault::NotValidYet)
    }

    fn new(path: &Path, fault: Fault) -> Self {
        Self { path: path.to_owned(), fault }
    }

    /// Is this there in the place of another thing?
    fn found(&self, kind: ItemKind) -> bool {
        matches!(&self.fault, Fault::Missing { instead: Some((found, _)), .. } if *found == kind)
    }
}

fn way_out(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => {
            "; just enrol on the server's host makes the files of a device, and --cert, --key and --ca, or the folder \
             ROLLCALL_CERTS, say where they are"
        }
        io::ErrorKind::PermissionDenied => "; run this as its owner, or as root",
        _ => "",
    }
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Advice::Convert(conversion) => conversion.fmt(f),
            Advice::Words(words) => f.write_str(words),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.fault {
            Fault::Unreadable(error) => write!(f, "cannot read {path}: {error}{}", way_out(error)),
            Fault::Empty => write!(f, "{path} is empty"),
            Fault::Damaged(damaged) => write!(f, "{path} is damaged: {damaged}"),
            Fault::Missing { wanted, instead } => {
                let wanted = if *wanted == ItemKind::PrivateKey { "private key" } else { "certificate" };
                write!(f, "there is no {wanted} in {path}: it holds ")?;
                match instead {
                    None => f.write_str("neither PEM (RFC 7468) nor DER"),
                    Some((kind, None)) => write!(f, "{kind}"),
                    Some((kind, Some(advice))) => write!(f, "{kind}; {advice}"),
                }
            }
            Fault::Swapped { key } => {
                let key = key.display();
                write!(f, "{path} holds the key and {key} the certificate: --cert {key} --key {path}")
            }
            Fault::NotACertificate => {
                write!(f, "{path} holds something that is not an X.509 v3 certificate")
            }
            Fault::BadKey(completed) => {
                write!(
                    f,
                    "the key in {path} is damaged, or none of RSA (2048 bits and more), ECDSA (P-256, P-384) and \
                     Ed25519"
                )?;
                match completed {
                    Some(completed) => {
                        write!(f, "; if it lacks only its public half or the name of its curve, {completed}")
                    }
                    None => Ok(()),
                }
            }
            Fault::NotAPair { key } => {
                write!(f, "the certificate {path} and the key {} are not a pair", key.display())
            }
            Fault::Expired => {
                write!(
                    f,
                    "the certificate {path} has expired; ask the administrator of rollcall for a new one"
                )
            }
            Fault::NotValidYet => {
                write!(f, "the certificate {path} is not valid yet; is this machine's clock right?")
            }
        }
    }
}

impl std::error::Error for Error {}
