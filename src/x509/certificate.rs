//! A certificate: whose it is, from when until when, for which uses, and by whom.

use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use x509_cert::der::Reader;
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::oid::db::rfc5280;

use super::Error;
use super::extensions::{CERT_SIGN, CRL_SIGN, DIGITAL_SIGNATURE, Extensions};
use super::name;
use super::parts::{self, INTEGER, SEQUENCE};
use super::signed::Signed;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    pub der: Vec<u8>,
    /// As nginx and openssl(1) write it: upper-case hex.
    pub serial: String,
    /// SHA-1 as lower-case hex: a name for the certificate, never a proof of it.
    pub fingerprint: String,
    /// DER of its name.
    pub issuer: Vec<u8>,
    /// DER of its name.
    pub subject: Vec<u8>,
    /// RFC 4514.
    pub issuer_text: String,
    /// RFC 4514.
    pub subject_text: String,
    /// Each CN of the subject that is a string of a type that we read.
    pub common_names: Vec<String>,
    /// Each rfc822Name of subjectAltName, as is.
    pub emails: Vec<String>,
    /// Each dNSName and iPAddress of subjectAltName, as openssl takes them: `DNS:localhost`, `IP:::1`.
    pub hosts: Vec<String>,
    /// Seconds since the Unix epoch.
    pub not_before: u64,
    /// Seconds since the Unix epoch.
    pub not_after: u64,
    /// It may sign certificates.
    pub is_authority: bool,
    /// It may sign CRLs.
    pub signs_crls: bool,
    /// nginx lets a client in with it, as far as its uses go.
    pub for_clients: bool,
    /// A client believes a server with it, as far as its uses go.
    pub for_servers: bool,
    /// DER of SubjectPublicKeyInfo.
    pub public_key: Vec<u8>,
}

impl Certificate {
    pub fn read(der: &[u8]) -> Result<Self, Error> {
        let signed = Signed::read(der)?;
        let mut contents = parts::only(signed.contents, SEQUENCE)?;
        let _version = parts::optional(&mut contents, 0xa0)?;
        let serial = parts::integer(parts::next(&mut contents, INTEGER)?)?;
        signed.same_algorithm(&mut contents)?;
        let issuer = contents.tlv_bytes()?;
        let mut validity = parts::enter(&mut contents, SEQUENCE)?;
        let (not_before, not_after) = (parts::time(&mut validity)?, parts::time(&mut validity)?);
        parts::finish(validity)?;
        let (subject, public_key) = (contents.tlv_bytes()?, contents.tlv_bytes()?);
        let (_issuer_id, _subject_id) =
            (parts::optional(&mut contents, 0x81)?, parts::optional(&mut contents, 0x82)?);
        let extensions =
            parts::optional(&mut contents, 0xa3)?.map(Extensions::read).transpose()?.unwrap_or_default();
        parts::finish(contents)?;

        let (name, names) = (name::read(subject)?, extensions.names()?);
        let (is_ca, uses, purposes) = (extensions.is_ca()?, extensions.uses()?, extensions.purposes()?);
        // anyExtendedKeyUsage does not count: neither openssl nor webpki takes it for one of these.
        let is_for = |purpose: ObjectIdentifier| {
            uses & DIGITAL_SIGNATURE != 0
                && purposes.as_ref().is_none_or(|purposes| purposes.contains(&purpose.as_bytes()))
        };
        Ok(Self {
            der: der.to_vec(),
            serial,
            fingerprint: hex::encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, der)),
            issuer: issuer.to_vec(),
            subject: subject.to_vec(),
            issuer_text: name::read(issuer)?.text,
            subject_text: name.text,
            common_names: name.common_names,
            emails: names.emails,
            hosts: names.hosts,
            not_before,
            not_after,
            is_authority: is_ca && uses & CERT_SIGN != 0,
            signs_crls: is_ca && uses & CRL_SIGN != 0,
            for_clients: is_for(rfc5280::ID_KP_CLIENT_AUTH),
            for_servers: is_for(rfc5280::ID_KP_SERVER_AUTH),
            public_key: public_key.to_vec(),
        })
    }

    /// Is the authority its issuer, and did it sign this? Looks at no time, and at no other certificate.
    pub fn is_signed_by(&self, authority: &Certificate) -> Result<(), Error> {
        authority.is_named(&self.issuer, &self.issuer_text)?;
        if !authority.is_authority {
            return Err(Error::Authority(authority.subject_text.clone()));
        }
        Signed::read(&self.der)?.verify(&authority.public_key)
    }

    pub(super) fn is_named(&self, issuer: &[u8], text: &str) -> Result<(), Error> {
        if self.subject == issuer {
            return Ok(());
        }
        Err(Error::Issuer { issuer: text.to_owned(), authority: self.subject_text.clone() })
    }
}
