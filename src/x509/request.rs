//! A certificate request (PKCS #10, RFC 2986): a key, and the names that its owner asks for.

use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::oid::db::rfc5912;
use x509_cert::der::{Reader, SliceReader};

use super::extensions::Extensions;
use super::parts::{self, INTEGER, OID, SEQUENCE, SET};
use super::signed::Signed;
use super::{Error, name, usable};
use crate::keyfile::{self, ItemKind};

/// Its owner has the private key; the names are wishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub der: Vec<u8>,
    /// DER of SubjectPublicKeyInfo; a key that is [`usable`].
    pub public_key: Vec<u8>,
    /// DER of a name.
    pub subject: Vec<u8>,
    /// Each CN of the subject that is a string of a type that we read.
    pub common_names: Vec<String>,
    /// Each rfc822Name of the subjectAltName that it asks for.
    pub emails: Vec<String>,
}

/// Windows has this beside the one of PKCS #9.
const MICROSOFT_EXTENSIONS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.2.1.14");

impl Request {
    /// Reads PEM or DER with exactly one request in it, and verifies its signature.
    pub fn read(bytes: &[u8]) -> Result<Self, Error> {
        let items = keyfile::items(bytes)?;
        let instead = items.first().map(|item| item.kind.to_string());
        let mut requests = items.into_iter().filter(|item| item.kind == ItemKind::Request);
        match (requests.next(), requests.count()) {
            (Some(request), 0) => Self::of_der(request.bytes),
            (Some(_), others) => Err(Error::ManyRequests(1 + others)),
            (None, _) => Err(Error::NoRequest {
                instead: instead.unwrap_or_else(|| "neither PEM (RFC 7468) nor DER".to_owned()),
            }),
        }
    }

    fn of_der(der: Vec<u8>) -> Result<Self, Error> {
        let signed = Signed::read(&der)?;
        let mut contents = parts::only(signed.contents, SEQUENCE)?;
        let _version = parts::next(&mut contents, INTEGER)?;
        let (subject, public_key) = (contents.tlv_bytes()?, contents.tlv_bytes()?);
        let attributes = parts::optional(&mut contents, 0xa0)?;
        parts::finish(contents)?;
        let emails = attributes.map_or(Ok(Vec::new()), emails)?;
        usable(public_key)?;
        signed.verify(public_key)?;
        let (subject, public_key) = (subject.to_vec(), public_key.to_vec());
        let common_names = name::read(&subject)?.common_names;
        Ok(Self { public_key, subject, common_names, emails, der })
    }

    /// The first email in it, also as a CN, that is not this one. The request of some clients names nobody.
    pub fn other_name(&self, email: &str) -> Option<&str> {
        let emails = self.common_names.iter().filter(|name| name.contains('@')).chain(&self.emails);
        emails.into_iter().find(|name| !name.eq_ignore_ascii_case(email)).map(String::as_str)
    }
}

/// Those of the one attribute that asks for extensions.
pub(super) fn emails(attributes: &[u8]) -> Result<Vec<String>, Error> {
    let mut attributes = SliceReader::new(attributes)?;
    let mut found = None;
    while !attributes.is_finished() {
        let mut attribute = parts::enter(&mut attributes, SEQUENCE)?;
        let kind = parts::next(&mut attribute, OID)?;
        let mut values = parts::enter(&mut attribute, SET)?;
        parts::finish(attribute)?;
        if kind == rfc5912::ID_EXTENSION_REQ.as_bytes() || kind == MICROSOFT_EXTENSIONS.as_bytes() {
            while !values.is_finished() {
                if found.replace(Extensions::read(values.tlv_bytes()?)?).is_some() {
                    return Err(Error::Twice(parts::oid(rfc5912::ID_EXTENSION_REQ.as_bytes())));
                }
            }
        }
    }
    Ok(found.unwrap_or_default().names()?.emails)
}
