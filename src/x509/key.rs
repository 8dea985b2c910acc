//! Which public keys are taken.

use x509_cert::der::asn1::{AnyRef, UintRef};
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::oid::db::{rfc5912, rfc8410};
use x509_cert::der::{Decode, Tag};
use x509_cert::spki::SubjectPublicKeyInfoRef;

use super::Error;
use super::parts::{self, SEQUENCE};

/// A key that can verify a signature.
pub enum Kind {
    /// The bits are those of the modulus. The usual exponent is 65537; ring signs with none below, and with none of
    /// more than 33 bits.
    Rsa {
        bits: usize,
        has_usual_exponent: bool,
    },
    P256,
    P384,
    Ed25519,
}

pub const TAKEN: &str = "RSA with 2048, 3072 or 4096 bits, ECDSA on the curve P-256 or P-384, and Ed25519";

/// Of those whose signatures are verified.
pub const VERIFIED: &str = "RSA with 2048 to 8192 bits, ECDSA on the curve P-256 or P-384, or Ed25519";

/// Do nginx and `rollcall-client` both take this key (DER of SubjectPublicKeyInfo)?
///
/// nginx, with OpenSSL 3.0, takes RSA of 2048 bits and more, and the curves that its configuration lists. The client,
/// with ring, signs with RSA of 2048, 3072 and 4096 bits only.
pub fn usable(public_key: &[u8]) -> Result<(), Error> {
    match kind(&SubjectPublicKeyInfoRef::from_der(public_key)?)? {
        Kind::Rsa { has_usual_exponent: false, .. } => {
            Err(Error::Key("RSA with an unusual exponent (65537 is usual)".to_owned()))
        }
        Kind::Rsa { bits: 2048 | 3072 | 4096, .. } | Kind::P256 | Kind::P384 | Kind::Ed25519 => Ok(()),
        Kind::Rsa { bits, .. } => Err(Error::Key(format!("RSA with {bits} bits"))),
    }
}

pub fn kind(key: &SubjectPublicKeyInfoRef<'_>) -> Result<Kind, Error> {
    let parameters = key.algorithm.parameters;
    let bits = key.subject_public_key.as_bytes().ok_or(Tag::BitString.value_error())?;
    let found = match key.algorithm.oid {
        rfc5912::RSA_ENCRYPTION if parameters.is_some_and(AnyRef::is_null) => return rsa(bits),
        rfc5912::RSA_ENCRYPTION => "RSA with parameters (RFC 3279, section 2.3.1 wants NULL)".to_owned(),
        rfc5912::ID_EC_PUBLIC_KEY => match parameters.map(|curve| curve.decode_as::<ObjectIdentifier>()) {
            Some(Ok(rfc5912::SECP_256_R_1)) if is_point(bits, 32) => return Ok(Kind::P256),
            Some(Ok(rfc5912::SECP_384_R_1)) if is_point(bits, 48) => return Ok(Kind::P384),
            Some(Ok(rfc5912::SECP_256_R_1 | rfc5912::SECP_384_R_1)) => {
                "ECDSA with a compressed or damaged point".to_owned()
            }
            Some(Ok(curve)) => format!("ECDSA on the curve {}", curve_name(curve)),
            _ => "ECDSA with explicit parameters in the place of a curve's name".to_owned(),
        },
        rfc8410::ID_ED_25519 if parameters.is_none() && bits.len() == 32 => return Ok(Kind::Ed25519),
        rfc8410::ID_ED_25519 => "a damaged Ed25519 key".to_owned(),
        rfc8410::ID_ED_448 => "Ed448".to_owned(),
        rfc8410::ID_X_25519 => "X25519, which cannot sign".to_owned(),
        rfc8410::ID_X_448 => "X448, which cannot sign".to_owned(),
        rfc5912::ID_RSASSA_PSS => "RSA for RSASSA-PSS alone".to_owned(),
        rfc5912::ID_DSA => "DSA".to_owned(),
        other => format!("of the algorithm {}", parts::oid(other.as_bytes())),
    };
    Err(Error::Key(found))
}

/// RFC 8017, appendix A.1.1.
fn rsa(key: &[u8]) -> Result<Kind, Error> {
    let mut numbers = parts::only(key, SEQUENCE)?;
    let (modulus, exponent) = (UintRef::decode(&mut numbers)?, UintRef::decode(&mut numbers)?);
    parts::finish(numbers)?;
    let bits =
        |number: &[u8]| number.len() * 8 - number.first().map_or(0, |byte| byte.leading_zeros() as usize);
    let has_usual_exponent = (17..=33).contains(&bits(exponent.as_bytes()));
    Ok(Kind::Rsa { bits: bits(modulus.as_bytes()), has_usual_exponent })
}

/// Uncompressed (SEC 1, section 2.3.3), with coordinates of this length.
fn is_point(bytes: &[u8], coordinate: usize) -> bool {
    bytes.first() == Some(&4) && bytes.len() == 1 + 2 * coordinate
}

fn curve_name(curve: ObjectIdentifier) -> String {
    const NAMES: [(&str, &str); 5] = [
        ("1.2.840.10045.3.1.1", "P-192"),
        ("1.3.132.0.10", "secp256k1"),
        ("1.3.132.0.33", "P-224"),
        ("1.3.132.0.35", "P-521"),
        ("1.3.36.3.3.2.8.1.1.7", "brainpoolP256r1"),
    ];
    let number = curve.to_string();
    NAMES.iter().find(|(known, _)| *known == number).map_or(number, |(_, name)| (*name).to_owned())
}
