//! The extensions that matter here (RFC 5280, section 4.2). The others are skipped.

use std::net::{Ipv4Addr, Ipv6Addr};

use x509_cert::der::asn1::{AnyRef, BitStringRef};
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::oid::db::rfc5280;
use x509_cert::der::{Decode, Reader, Tagged};

use super::Error;
use super::parts::{self, INTEGER, OCTETS, OID, SEQUENCE};

pub struct Extension<'a> {
    pub oid: &'a [u8],
    pub is_critical: bool,
    /// DER.
    pub value: &'a [u8],
}

#[derive(Default)]
pub struct Extensions<'a>(pub Vec<Extension<'a>>);

/// Bits of keyUsage, in their first byte.
pub const DIGITAL_SIGNATURE: u8 = 0x80;
pub const CERT_SIGN: u8 = 0x04;
pub const CRL_SIGN: u8 = 0x02;

/// The names in subjectAltName that somebody here asks for.
#[derive(Default)]
pub struct Names {
    pub emails: Vec<String>,
    pub hosts: Vec<String>,
}

impl<'a> Extensions<'a> {
    /// Reads a SEQUENCE of them.
    pub fn read(der: &'a [u8]) -> Result<Self, Error> {
        let mut list = parts::only(der, SEQUENCE)?;
        let mut extensions = Vec::new();
        while !list.is_finished() {
            let mut extension = parts::enter(&mut list, SEQUENCE)?;
            let oid = parts::next(&mut extension, OID)?;
            let is_critical = Option::<bool>::decode(&mut extension)?.unwrap_or(false);
            let value = parts::next(&mut extension, OCTETS)?;
            parts::finish(extension)?;
            extensions.push(Extension { oid, is_critical, value });
        }
        Ok(Self(extensions))
    }

    /// Two of one kind could be read in two ways.
    pub fn get(&self, oid: ObjectIdentifier) -> Result<Option<&'a [u8]>, Error> {
        let mut found = self.0.iter().filter(|extension| extension.oid == oid.as_bytes());
        match (found.next(), found.next()) {
            (_, Some(_)) => Err(Error::Twice(parts::oid(oid.as_bytes()))),
            (found, None) => Ok(found.map(|extension| extension.value)),
        }
    }

    /// Does basicConstraints say CA:TRUE?
    pub fn is_ca(&self) -> Result<bool, Error> {
        let Some(value) = self.get(rfc5280::ID_CE_BASIC_CONSTRAINTS)? else { return Ok(false) };
        let mut constraints = parts::only(value, SEQUENCE)?;
        let is_ca = Option::<bool>::decode(&mut constraints)?.unwrap_or(false);
        let _longest_path = parts::optional(&mut constraints, INTEGER)?;
        parts::finish(constraints)?;
        Ok(is_ca)
    }

    /// The first byte of keyUsage; every bit if there is none.
    pub fn uses(&self) -> Result<u8, Error> {
        let Some(value) = self.get(rfc5280::ID_CE_KEY_USAGE)? else { return Ok(0xff) };
        Ok(BitStringRef::from_der(value)?.raw_bytes().first().copied().unwrap_or(0))
    }

    /// Each purpose of extendedKeyUsage, if there is one.
    pub fn purposes(&self) -> Result<Option<Vec<&'a [u8]>>, Error> {
        let Some(value) = self.get(rfc5280::ID_CE_EXT_KEY_USAGE)? else { return Ok(None) };
        let mut list = parts::only(value, SEQUENCE)?;
        let mut purposes = Vec::new();
        while !list.is_finished() {
            purposes.push(parts::next(&mut list, OID)?);
        }
        Ok(Some(purposes))
    }

    /// An email or a host's name must be ASCII. One that is not comes with U+FFFD, for the caller to refuse.
    pub fn names(&self) -> Result<Names, Error> {
        let mut names = Names::default();
        let Some(value) = self.get(rfc5280::ID_CE_SUBJECT_ALT_NAME)? else { return Ok(names) };
        let mut list = parts::only(value, SEQUENCE)?;
        while !list.is_finished() {
            let name = AnyRef::decode(&mut list)?;
            let text = || String::from_utf8_lossy(name.value());
            match name.tag().octet() {
                0x81 => names.emails.push(text().into_owned()),
                0x82 => names.hosts.push(format!("DNS:{}", text())),
                0x87 => {
                    if let Ok(ip) = <[u8; 4]>::try_from(name.value()) {
                        names.hosts.push(format!("IP:{}", Ipv4Addr::from(ip)));
                    } else if let Ok(ip) = <[u8; 16]>::try_from(name.value()) {
                        names.hosts.push(format!("IP:{}", Ipv6Addr::from(ip)));
                    }
                }
                _ => {}
            }
        }
        Ok(names)
    }
}
