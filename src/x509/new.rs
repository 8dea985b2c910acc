//! A new key, and the request for its certificate.

use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::oid::db::{rfc4519, rfc5280, rfc5912};

use super::parts::{BITS, INTEGER, OCTETS, OID, SEQUENCE, SET, UTF8, element};
use super::{Error, pem};

/// ECDSA, P-256. There is no `Debug`: it is a secret.
pub struct NewKey {
    pkcs8: Vec<u8>,
    pair: EcdsaKeyPair,
}

/// The bytes before the 65 of a P-256 key in its SubjectPublicKeyInfo (RFC 5480, section 2).
const SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

impl NewKey {
    pub fn generate() -> Result<Self, Error> {
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new());
        Self::read(pkcs8.map_err(|_| Error::Random)?.as_ref())
    }

    /// Reads PKCS #8 that holds the public half, too, as [`NewKey::pem`] and openssl(1) write it.
    pub fn read(pkcs8: &[u8]) -> Result<Self, Error> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8, &SystemRandom::new());
        Ok(Self { pkcs8: pkcs8.to_vec(), pair: pair.map_err(|_| Error::NotOurKey)? })
    }

    /// PKCS #8. This is the secret.
    pub fn pem(&self) -> String {
        pem("PRIVATE KEY", &self.pkcs8)
    }

    /// The same in DER.
    pub fn der(&self) -> &[u8] {
        &self.pkcs8
    }

    /// DER of SubjectPublicKeyInfo.
    pub fn public_key(&self) -> Vec<u8> {
        [&SPKI[..], self.pair.public_key().as_ref()].concat()
    }

    /// DER of a request (PKCS #10) for a certificate of this name, and of this email in its subjectAltName.
    pub fn request(&self, cn: &str, email: Option<&str>) -> Result<Vec<u8>, Error> {
        if cn.is_empty() {
            return Err(Error::Name(cn.to_owned()));
        }
        if let Some(email) = email.filter(|email| email.is_empty() || !email.is_ascii()) {
            return Err(Error::Name(email.to_owned()));
        }
        let oid = |oid: ObjectIdentifier| element(OID, &[oid.as_bytes()]);
        let pair = element(SEQUENCE, &[&oid(rfc4519::COMMON_NAME)?, &element(UTF8, &[cn.as_bytes()])?])?;
        let subject = element(SEQUENCE, &[&element(SET, &[&pair])?])?;
        let attributes = match email {
            None => Vec::new(),
            Some(email) => {
                let names = element(SEQUENCE, &[&element(0x81, &[email.as_bytes()])?])?;
                let names = element(
                    SEQUENCE,
                    &[&oid(rfc5280::ID_CE_SUBJECT_ALT_NAME)?, &element(OCTETS, &[&names])?],
                )?;
                let extensions = element(SET, &[&element(SEQUENCE, &[&names])?])?;
                element(SEQUENCE, &[&oid(rfc5912::ID_EXTENSION_REQ)?, &extensions])?
            }
        };
        let version = element(INTEGER, &[&[0]])?;
        let contents =
            element(SEQUENCE, &[&version, &subject, &self.public_key(), &element(0xa0, &[&attributes])?])?;
        let signature = self.pair.sign(&SystemRandom::new(), &contents).map_err(|_| Error::Random)?;
        let algorithm = element(SEQUENCE, &[&oid(rfc5912::ECDSA_WITH_SHA_256)?])?;
        Ok(element(SEQUENCE, &[&contents, &algorithm, &element(BITS, &[&[0], signature.as_ref()])?])?)
    }
}
