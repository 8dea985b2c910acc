//! Certificates, requests and lists of revoked certificates (RFC 5280, RFC 2986): bytes in, facts out; new keys,
//! requests and bundles.
//!
//! Facts only: no file, no clock, no log. The caller judges them, and asks whose signature it is.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use x509_cert::der;

use crate::keyfile::{self, Damaged, ItemKind};

mod bundle;
mod certificate;
mod crl;
mod extensions;
mod key;
mod name;
mod new;
mod parts;
mod request;
mod signed;

pub use bundle::{bundle, in_bundle};
pub use certificate::Certificate;
pub use crl::{Crl, Revoked};
pub use key::usable;
pub use new::NewKey;
pub use request::Request;

/// Bytes of a CRL with a million entries, and room.
pub const LARGEST_CRL: u64 = 1 << 27;

/// Every certificate of a file's bytes, PEM or DER, in its order. There may be none.
pub fn certificates(bytes: &[u8]) -> Result<Vec<Certificate>, Error> {
    each(bytes, ItemKind::Certificate, Certificate::read)
}

/// Every CRL of a file's bytes, PEM or DER, in its order. There may be none.
pub fn crls(bytes: &[u8]) -> Result<Vec<Crl>, Error> {
    each(bytes, ItemKind::Crl, Crl::read)
}

fn each<T>(bytes: &[u8], kind: ItemKind, read: fn(&[u8]) -> Result<T, Error>) -> Result<Vec<T>, Error> {
    let items = keyfile::items(bytes)?;
    items.iter().filter(|item| item.kind == kind).map(|item| read(&item.bytes)).collect()
}

/// PEM (RFC 7468) of this DER.
pub fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}-----END {label}-----\n", base64(der))
}

/// Lines of base64, with 64 columns.
pub fn base64(der: &[u8]) -> String {
    let mut text = String::new();
    // 48 bytes are 64 digits.
    for line in der.chunks(48) {
        STANDARD.encode_string(line, &mut text);
        text.push('\n');
    }
    text
}

/// When two thirds of a lifetime are over, and a renewal is due. Seconds since the Unix epoch.
pub fn due(not_before: u64, not_after: u64) -> u64 {
    not_before + not_after.saturating_sub(not_before) / 3 * 2
}

/// The bytes that base64 stands for, with any white space in it.
pub fn from_base64(text: &[u8]) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    STANDARD.decode(digits).ok()
}

/// Something that cannot be read, or is not as it must be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("it is damaged: {0}")]
    Text(#[from] Damaged),
    #[error("it is damaged: {0}")]
    Der(der::Error),
    #[error("it is damaged: the extension {0} stands in it twice")]
    Twice(String),
    #[error("it is damaged: it names one algorithm inside its signature, and another outside")]
    TwoAlgorithms,
    #[error("its key is {0}; rollcall takes {taken}: make such a key", taken = key::TAKEN)]
    Key(String),
    #[error(
        "its signature is of the algorithm {0}; its author must sign with RSA (SHA-256, SHA-384, SHA-512), \
         ECDSA (SHA-256, SHA-384) or Ed25519"
    )]
    Algorithm(String),
    #[error("the key of its issuer is {0}; the issuer must have {verified}", verified = key::VERIFIED)]
    IssuerKey(String),
    #[error("its signature does not verify; it was changed, or another key signed it")]
    Signature,
    #[error("its issuer is {issuer}, and not {authority}; take the certificate of that issuer")]
    Issuer { issuer: String, authority: String },
    #[error("{0} is no authority: its certificate lacks CA:TRUE, or the key usage that this needs")]
    Authority(String),
    #[error(
        "its extension {0} is critical, and unknown here; its author must issue a complete CRL without it"
    )]
    Critical(String),
    #[error("it lists certificates of other issuers (an indirect CRL); each issuer's own CRL is needed")]
    Indirect,
    #[error("it holds {instead}, and a certificate request is needed")]
    NoRequest { instead: String },
    #[error("it holds {0}, and certificates in PKCS #7 are needed")]
    NoBundle(String),
    #[error("it holds {0} certificate requests; one file must hold exactly one")]
    ManyRequests(usize),
    #[error(
        "it is not a P-256 key in PKCS #8 with its public half; openssl pkcs8 -topk8 -nocrypt converts one, and \
         openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 makes one"
    )]
    NotOurKey,
    #[error("{0:?} cannot stand in a request: a name must not be empty, and an email must be ASCII")]
    Name(String),
    #[error("the system gives no random numbers")]
    Random,
}

impl From<der::Error> for Error {
    fn from(error: der::Error) -> Self {
        Error::Der(error)
    }
}

#[cfg(test)]
mod tests;
