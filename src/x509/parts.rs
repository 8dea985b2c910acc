//! DER (X.690), element by element. The tags are written as their octets.
//!
//! The types of x509-cert do not read the whole of a certificate or CRL here: they refuse version 1 of a CRL, times
//! before 1970 and the long object identifiers that are made of UUIDs; and they do not keep the bytes of a name.

use x509_cert::der::asn1::AnyRef;
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::oid::db::DB;
use x509_cert::der::{DateTime, Decode, Encode, Reader, Result, SliceReader, Tag, Tagged};

pub const BITS: u8 = 0x03;
pub const INTEGER: u8 = 0x02;
pub const OCTETS: u8 = 0x04;
pub const OID: u8 = 0x06;
pub const UTF8: u8 = 0x0c;
pub const UTC: u8 = 0x17;
pub const TIME: u8 = 0x18;
pub const SEQUENCE: u8 = 0x30;
pub const SET: u8 = 0x31;

/// The content of the only element in these bytes, which has this tag.
pub fn only(bytes: &[u8], tag: u8) -> Result<SliceReader<'_>> {
    let mut reader = SliceReader::new(bytes)?;
    let content = enter(&mut reader, tag)?;
    reader.finish(content)
}

/// The content of the next element, which has this tag.
pub fn enter<'a>(reader: &mut SliceReader<'a>, tag: u8) -> Result<SliceReader<'a>> {
    SliceReader::new(next(reader, tag)?)
}

/// The same, as bytes.
pub fn next<'a>(reader: &mut SliceReader<'a>, tag: u8) -> Result<&'a [u8]> {
    let element = AnyRef::decode(reader)?;
    if element.tag().octet() != tag {
        return Err(element.tag().unexpected_error(Tag::try_from(tag).ok()));
    }
    Ok(element.value())
}

/// The content of the next element, if it has this tag.
pub fn optional<'a>(reader: &mut SliceReader<'a>, tag: u8) -> Result<Option<&'a [u8]>> {
    if reader.peek_byte() == Some(tag) { next(reader, tag).map(Some) } else { Ok(None) }
}

/// An element of this tag and these contents.
pub fn element(tag: u8, contents: &[&[u8]]) -> Result<Vec<u8>> {
    AnyRef::new(Tag::try_from(tag)?, &contents.concat())?.to_der()
}

/// An INTEGER of any length in upper-case hex, as openssl's i2a_ASN1_INTEGER writes it: no byte stands there for the
/// sign alone, and a minus stands before a negative one. (openssl breaks the line after 35 bytes; nobody has such a
/// serial.)
pub fn integer(integer: &[u8]) -> Result<String> {
    match *integer {
        [] => Err(Tag::Integer.length_error()),
        [0, next, ..] if next < 0x80 => Err(Tag::Integer.non_canonical_error()),
        [0xff, next, ..] if next >= 0x80 => Err(Tag::Integer.non_canonical_error()),
        [0, _, ..] => Ok(hex::encode_upper(&integer[1..])),
        [first, ..] if first >= 0x80 => {
            let positive = negative(integer);
            let zeros = positive.iter().take_while(|byte| **byte == 0).count();
            Ok(format!("-{}", hex::encode_upper(&positive[zeros..])))
        }
        _ => Ok(hex::encode_upper(integer)),
    }
}

/// Two's complement.
fn negative(integer: &[u8]) -> Vec<u8> {
    let (mut bytes, mut carry) = (integer.to_vec(), true);
    for byte in bytes.iter_mut().rev() {
        (*byte, carry) = (!*byte).overflowing_add(carry.into());
    }
    bytes
}

/// The next element, a time in the form of RFC 5280, section 4.1.2.5, as seconds since the Unix epoch; 0 if it is
/// before that.
pub fn time(reader: &mut SliceReader<'_>) -> Result<u64> {
    let element = AnyRef::decode(reader)?;
    let (tag, text) = (element.tag(), element.value());
    let fault = tag.value_error();
    let digits = text.strip_suffix(b"Z").filter(|text| text.iter().all(u8::is_ascii_digit)).ok_or(fault)?;
    let numbers: Vec<u8> =
        digits.chunks(2).map(|pair| pair.iter().fold(0, |sum, digit| sum * 10 + digit - b'0')).collect();
    let (year, rest) = match (tag.octet(), digits.len(), &numbers[..]) {
        (UTC, 12, [year, rest @ ..]) if *year >= 50 => (1900 + u16::from(*year), rest),
        (UTC, 12, [year, rest @ ..]) => (2000 + u16::from(*year), rest),
        (TIME, 14, [century, year, rest @ ..]) => (u16::from(*century) * 100 + u16::from(*year), rest),
        _ => return Err(fault),
    };
    let [month, day, hour, minute, second] = *rest else { return Err(fault) };
    // `DateTime` knows no year before 1970; a leap year has every day.
    let time = DateTime::new(if year < 1970 { 1972 } else { year }, month, day, hour, minute, second)?;
    Ok(if year < 1970 { 0 } else { time.unix_duration().as_secs() })
}

/// The number of an algorithm or extension, and its name if there is one.
pub fn oid(bytes: &[u8]) -> String {
    match ObjectIdentifier::from_bytes(bytes) {
        Ok(oid) => match DB.by_oid(&oid) {
            Some(name) => format!("{name} ({oid})"),
            None => oid.to_string(),
        },
        Err(_) => number(bytes),
    }
}

/// An object identifier's digits and dots; its bytes, if it is too long for those.
pub fn number(oid: &[u8]) -> String {
    ObjectIdentifier::from_bytes(oid)
        .map_or_else(|_| format!("#{}", hex::encode_upper(oid)), |oid| oid.to_string())
}

/// Fails if something is left.
pub fn finish(reader: SliceReader<'_>) -> Result<()> {
    reader.finish(())
}
