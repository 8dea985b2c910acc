//! A list of revoked certificates (CRL): whose, from when until when, and which.

use x509_cert::der::oid::db::rfc5280;
use x509_cert::der::{Reader, SliceReader};

use super::extensions::{Extension, Extensions};
use super::parts::{self, INTEGER, SEQUENCE, TIME, UTC};
use super::signed::Signed;
use super::{Certificate, Error, name};

/// A complete list of its issuer's own certificates, of version 1 or 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crl {
    pub der: Vec<u8>,
    /// DER of its name.
    pub issuer: Vec<u8>,
    /// RFC 4514.
    pub issuer_text: String,
    /// Its number in hex, as that of a certificate's serial.
    pub number: Option<String>,
    /// Seconds since the Unix epoch.
    pub this_update: u64,
    /// Seconds since the Unix epoch. A list without it does not end.
    pub next_update: Option<u64>,
    /// In the order of the list.
    pub revoked: Vec<Revoked>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoked {
    /// As nginx and openssl(1) write it: upper-case hex.
    pub serial: String,
    /// Seconds since the Unix epoch.
    pub at: u64,
}

impl Crl {
    pub fn read(der: &[u8]) -> Result<Self, Error> {
        let signed = Signed::read(der)?;
        let mut contents = parts::only(signed.contents, SEQUENCE)?;
        let _version = parts::optional(&mut contents, INTEGER)?;
        signed.same_algorithm(&mut contents)?;
        let issuer = contents.tlv_bytes()?;
        let this_update = parts::time(&mut contents)?;
        let next_update = match contents.peek_byte() {
            Some(UTC | TIME) => Some(parts::time(&mut contents)?),
            _ => None,
        };
        let revoked = match parts::optional(&mut contents, SEQUENCE)? {
            Some(list) => revoked(list)?,
            None => Vec::new(),
        };
        let extensions =
            parts::optional(&mut contents, 0xa0)?.map(Extensions::read).transpose()?.unwrap_or_default();
        parts::finish(contents)?;
        for Extension { oid, value, .. } in extensions.0.iter().filter(|extension| extension.is_critical) {
            // A delta CRL, for one, has another.
            if *oid != rfc5280::ID_CE_ISSUING_DISTRIBUTION_POINT.as_bytes() {
                return Err(Error::Critical(parts::oid(oid)));
            }
            if is_indirect(value)? {
                return Err(Error::Indirect);
            }
        }
        let number = extensions.get(rfc5280::ID_CE_CRL_NUMBER)?;
        let number = number
            .map(|der| parts::integer(parts::next(&mut SliceReader::new(der)?, INTEGER)?))
            .transpose()?;
        let issuer_text = name::read(issuer)?.text;
        Ok(Self {
            der: der.to_vec(),
            issuer: issuer.to_vec(),
            issuer_text,
            number,
            this_update,
            next_update,
            revoked,
        })
    }

    /// Is the authority its issuer, and did it sign this? Looks at no time.
    pub fn is_signed_by(&self, authority: &Certificate) -> Result<(), Error> {
        authority.is_named(&self.issuer, &self.issuer_text)?;
        if !authority.signs_crls {
            return Err(Error::Authority(authority.subject_text.clone()));
        }
        Signed::read(&self.der)?.verify(&authority.public_key)
    }
}

fn revoked(list: &[u8]) -> Result<Vec<Revoked>, Error> {
    let mut list = SliceReader::new(list)?;
    let mut revoked = Vec::new();
    while !list.is_finished() {
        let mut entry = parts::enter(&mut list, SEQUENCE)?;
        let serial = parts::integer(parts::next(&mut entry, INTEGER)?)?;
        let at = parts::time(&mut entry)?;
        let _extensions = parts::optional(&mut entry, SEQUENCE)?;
        parts::finish(entry)?;
        revoked.push(Revoked { serial, at });
    }
    Ok(revoked)
}

/// Does issuingDistributionPoint (RFC 5280, section 5.2.5) say indirectCRL?
fn is_indirect(value: &[u8]) -> Result<bool, Error> {
    let mut point = parts::only(value, SEQUENCE)?;
    let _name = parts::optional(&mut point, 0xa0)?;
    for tag in [0x81, 0x82, 0x83] {
        parts::optional(&mut point, tag)?;
    }
    Ok(parts::optional(&mut point, 0x84)?.is_some_and(|value| value != [0]))
}
