//! The form that certificates, requests and CRLs share: contents, an algorithm, and a signature of the contents.

use ring::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use x509_cert::der::asn1::BitStringRef;
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::oid::db::{rfc5912, rfc8410};
use x509_cert::der::{Decode, Encode, Reader, SliceReader, Tag};
use x509_cert::spki::{AlgorithmIdentifierRef, SubjectPublicKeyInfoRef};

use super::Error;
use super::key::{self, Kind};
use super::parts::{self, INTEGER, OID, SEQUENCE, element};

pub struct Signed<'a> {
    /// DER of the contents.
    pub contents: &'a [u8],
    /// DER of the algorithm.
    algorithm: &'a [u8],
    signature: &'a [u8],
}

impl<'a> Signed<'a> {
    pub fn read(der: &'a [u8]) -> Result<Self, Error> {
        let mut reader = parts::only(der, SEQUENCE)?;
        let (contents, algorithm) = (reader.tlv_bytes()?, reader.tlv_bytes()?);
        let signature = BitStringRef::decode(&mut reader)?;
        let signature = signature.as_bytes().ok_or(Tag::BitString.value_error())?;
        Ok(reader.finish(Self { contents, algorithm, signature })?)
    }

    /// Reads the algorithm that certificates and CRLs name a second time, in their contents.
    pub fn same_algorithm(&self, contents: &mut SliceReader<'a>) -> Result<(), Error> {
        if contents.tlv_bytes()? == self.algorithm { Ok(()) } else { Err(Error::TwoAlgorithms) }
    }

    /// Did the owner of this key (DER of SubjectPublicKeyInfo) sign it?
    pub fn verify(&self, public_key: &[u8]) -> Result<(), Error> {
        let key = SubjectPublicKeyInfoRef::from_der(public_key)?;
        let kind = match key::kind(&key) {
            Ok(Kind::Rsa { bits, .. }) if !(2048..=8192).contains(&bits) => {
                return Err(Error::IssuerKey(format!("RSA with {bits} bits")));
            }
            Err(Error::Key(found)) => return Err(Error::IssuerKey(found)),
            kind => kind?,
        };
        let algorithm = AlgorithmIdentifierRef::from_der(self.algorithm)?;
        let verification = verification(&algorithm, &kind)?
            .ok_or_else(|| Error::Algorithm(parts::oid(algorithm.oid.as_bytes())))?;
        let key = UnparsedPublicKey::new(verification, key.subject_public_key.raw_bytes());
        key.verify(self.contents, self.signature).map_err(|_| Error::Signature)
    }
}

type Verification = &'static dyn VerificationAlgorithm;

/// `None` if the algorithm is unknown, or another kind of key's.
fn verification(algorithm: &AlgorithmIdentifierRef<'_>, key: &Kind) -> Result<Option<Verification>, Error> {
    Ok(Some(match (key, algorithm.oid) {
        (Kind::Rsa { .. }, rfc5912::SHA_256_WITH_RSA_ENCRYPTION) => &signature::RSA_PKCS1_2048_8192_SHA256,
        (Kind::Rsa { .. }, rfc5912::SHA_384_WITH_RSA_ENCRYPTION) => &signature::RSA_PKCS1_2048_8192_SHA384,
        (Kind::Rsa { .. }, rfc5912::SHA_512_WITH_RSA_ENCRYPTION) => &signature::RSA_PKCS1_2048_8192_SHA512,
        (Kind::Rsa { .. }, rfc5912::ID_RSASSA_PSS) => {
            let parameters = algorithm.parameters.to_der()?;
            let hashes: [(_, _, Verification); 3] = [
                (rfc5912::ID_SHA_256, 32, &signature::RSA_PSS_2048_8192_SHA256),
                (rfc5912::ID_SHA_384, 48, &signature::RSA_PSS_2048_8192_SHA384),
                (rfc5912::ID_SHA_512, 64, &signature::RSA_PSS_2048_8192_SHA512),
            ];
            for (hash, salt, verification) in hashes {
                if parameters == pss(hash, salt)? {
                    return Ok(Some(verification));
                }
            }
            return Ok(None);
        }
        (Kind::P256, rfc5912::ECDSA_WITH_SHA_256) => &signature::ECDSA_P256_SHA256_ASN1,
        (Kind::P256, rfc5912::ECDSA_WITH_SHA_384) => &signature::ECDSA_P256_SHA384_ASN1,
        (Kind::P384, rfc5912::ECDSA_WITH_SHA_256) => &signature::ECDSA_P384_SHA256_ASN1,
        (Kind::P384, rfc5912::ECDSA_WITH_SHA_384) => &signature::ECDSA_P384_SHA384_ASN1,
        (Kind::Ed25519, rfc8410::ID_ED_25519) => &signature::ED25519,
        _ => return Ok(None),
    }))
}

/// The parameters of RSASSA-PSS (RFC 4055, section 3.1) that ring verifies: one hash, and a salt of its length.
fn pss(hash: ObjectIdentifier, salt: u8) -> Result<Vec<u8>, Error> {
    let hash = element(SEQUENCE, &[&element(OID, &[hash.as_bytes()])?, &[0x05, 0x00]])?;
    let mask = element(SEQUENCE, &[&element(OID, &[rfc5912::ID_MGF_1.as_bytes()])?, &hash])?;
    let (hash, mask, salt) =
        (element(0xa0, &[&hash])?, element(0xa1, &[&mask])?, element(INTEGER, &[&[salt]])?);
    Ok(element(SEQUENCE, &[&hash, &mask, &element(0xa2, &[&salt])?])?)
}
