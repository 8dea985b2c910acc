//! What the client proves itself with, and whom it believes: certificate, key and CA from PEM files.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::sign::any_supported_type;
use rustls::{Certificate, ClientConfig, PrivateKey, RootCertStore};
use rustls_pemfile::Item;
use webpki::{EndEntityCert, KeyUsage, Time};
use x509_cert::der::Decode;

/// Where the three files are.
#[derive(Clone)]
pub struct Files {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub ca: PathBuf,
}

/// What the three files held at one moment, to notice later that one was replaced.
#[derive(PartialEq, Eq)]
pub struct Contents {
    cert: Vec<u8>,
    key: Vec<u8>,
    ca: Vec<u8>,
}

/// A pair that fits, and until when.
pub struct Loaded {
    pub config: ClientConfig,
    /// `None` when the certificate does not say it in a form that we read.
    pub validity: Option<(SystemTime, SystemTime)>,
}

impl Files {
    pub fn read(&self) -> Result<Contents, Error> {
        let read = |path: &Path| fs::read(path).map_err(|error| Error::new(path, Kind::Unreadable(error)));
        Ok(Contents { cert: read(&self.cert)?, key: read(&self.key)?, ca: read(&self.ca)? })
    }

    /// Checks all that can be known before connecting: that each file holds what it should, that key
    /// and certificate are a pair, and that the certificate is valid at `now`.
    pub fn load(&self, contents: &Contents, now: SystemTime) -> Result<Loaded, Error> {
        let Self { cert, key, ca } = self;
        let mut roots = RootCertStore::empty();
        for authority in certificates(ca, &contents.ca)? {
            roots.add(&authority).map_err(|_| Error::new(ca, Kind::NotACertificate))?;
        }
        let chain = certificates(cert, &contents.cert)?;
        let private = private_key(key, &contents.key)?;
        let end_entity = EndEntityCert::try_from(chain[0].0.as_slice())
            .map_err(|_| Error::new(cert, Kind::NotACertificate))?;
        if !is_pair(&end_entity, &private).ok_or_else(|| Error::new(key, Kind::BadKey))? {
            return Err(Error::new(cert, Kind::NotAPair { key: key.clone() }));
        }
        check_validity(&end_entity, now).map_err(|kind| Error::new(cert, kind))?;
        let validity = validity(&chain[0]);
        let config = ClientConfig::builder()
            .with_safe_defaults()
            .with_root_certificates(Arc::new(roots))
            .with_client_auth_cert(chain, private)
            .map_err(|_| Error::new(key, Kind::BadKey))?;
        Ok(Loaded { config, validity })
    }
}

impl Loaded {
    /// What is left, once it is less than a tenth of the certificate's lifetime.
    pub fn ends_soon(&self, now: SystemTime) -> Option<Duration> {
        let (not_before, not_after) = self.validity?;
        let left = not_after.duration_since(now).unwrap_or_default();
        let lifetime = not_after.duration_since(not_before).unwrap_or_default();
        (left < lifetime / 10).then_some(left)
    }
}

fn validity(certificate: &Certificate) -> Option<(SystemTime, SystemTime)> {
    let validity = x509_cert::Certificate::from_der(&certificate.0).ok()?.tbs_certificate.validity;
    let time = |time: x509_cert::time::Time| SystemTime::UNIX_EPOCH + time.to_unix_duration();
    Some((time(validity.not_before), time(validity.not_after)))
}

/// At least one certificate, in the order of the file.
fn certificates(path: &Path, text: &[u8]) -> Result<Vec<Certificate>, Error> {
    let certificates: Vec<_> = items(path, text)?
        .into_iter()
        .filter_map(|item| match item {
            Item::X509Certificate(der) => Some(Certificate(der)),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err(Error::new(path, Kind::NoCertificate));
    }
    Ok(certificates)
}

/// The first private key: PKCS #8, SEC 1 or PKCS #1.
fn private_key(path: &Path, text: &[u8]) -> Result<PrivateKey, Error> {
    let key = items(path, text)?.into_iter().find_map(|item| match item {
        Item::PKCS8Key(der) | Item::ECKey(der) | Item::RSAKey(der) => Some(PrivateKey(der)),
        _ => None,
    });
    key.ok_or_else(|| Error::new(path, Kind::NoKey))
}

fn items(path: &Path, mut text: &[u8]) -> Result<Vec<Item>, Error> {
    if text.trim_ascii().is_empty() {
        return Err(Error::new(path, Kind::Empty));
    }
    rustls_pemfile::read_all(&mut text).map_err(|_| Error::new(path, Kind::NotPem))
}

/// Signs with the key and verifies with the certificate: whatever the algorithm, a pair passes.
/// `None` if the key cannot sign.
fn is_pair(cert: &EndEntityCert<'_>, key: &PrivateKey) -> Option<bool> {
    const MESSAGE: &[u8] = b"rollcall: are these a pair?";
    let offered: Vec<_> = ALGORITHMS.iter().map(|(scheme, _)| *scheme).collect();
    let signer = any_supported_type(key).ok()?.choose_scheme(&offered)?;
    let signature = signer.sign(MESSAGE).ok()?;
    let (_, algorithm) = ALGORITHMS.iter().find(|(scheme, _)| *scheme == signer.scheme())?;
    Some(cert.verify_signature(algorithm, MESSAGE, &signature).is_ok())
}

static ALGORITHMS: [(rustls::SignatureScheme, &webpki::SignatureAlgorithm); 4] = [
    (rustls::SignatureScheme::ECDSA_NISTP256_SHA256, &webpki::ECDSA_P256_SHA256),
    (rustls::SignatureScheme::ECDSA_NISTP384_SHA384, &webpki::ECDSA_P384_SHA384),
    (rustls::SignatureScheme::ED25519, &webpki::ED25519),
    (rustls::SignatureScheme::RSA_PKCS1_SHA256, &webpki::RSA_PKCS1_2048_8192_SHA256),
];

fn check_validity(cert: &EndEntityCert<'_>, now: SystemTime) -> Result<(), Kind> {
    let now = Time::try_from(now).map_err(|_| Kind::NotValidYet)?;
    // No anchors: who signed it is for nginx to judge. The validity is looked at before that.
    match cert.verify_for_usage(&[], &[], &[], now, KeyUsage::client_auth(), &[]) {
        Err(webpki::Error::CertExpired) => Err(Kind::Expired),
        Err(webpki::Error::CertNotValidYet) => Err(Kind::NotValidYet),
        _ => Ok(()),
    }
}

/// What is wrong with which file.
#[derive(Debug)]
pub struct Error {
    path: PathBuf,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Unreadable(io::Error),
    Empty,
    NotPem,
    NoCertificate,
    NotACertificate,
    NoKey,
    BadKey,
    NotAPair { key: PathBuf },
    Expired,
    NotValidYet,
}

impl Error {
    /// Will it do when the clock is right?
    pub fn is_too_early(&self) -> bool {
        matches!(self.kind, Kind::NotValidYet)
    }

    fn new(path: &Path, kind: Kind) -> Self {
        Self { path: path.to_owned(), kind }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.kind {
            Kind::Unreadable(error) => write!(f, "cannot read {path}: {error}"),
            Kind::Empty => write!(f, "{path} is empty"),
            Kind::NotPem => write!(f, "{path} is not PEM text (RFC 7468)"),
            Kind::NoCertificate => write!(f, "there is no certificate in {path}"),
            Kind::NotACertificate => write!(f, "{path} holds something that is not an X.509 v3 certificate"),
            Kind::NoKey => write!(f, "there is no private key in {path}"),
            Kind::BadKey => write!(f, "the key in {path} is damaged, encrypted or of an unsupported kind"),
            Kind::NotAPair { key } => {
                write!(f, "the certificate {path} and the key {} are not a pair", key.display())
            }
            Kind::Expired => {
                write!(f, "the certificate {path} has expired; ask whoever runs rollcall for a new one")
            }
            Kind::NotValidYet => {
                write!(f, "the certificate {path} is not valid yet; is this machine's clock right?")
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.kind {
            Kind::Unreadable(error) => Some(error),
            _ => None,
        }
    }
}
