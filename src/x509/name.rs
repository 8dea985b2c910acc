//! Names (RFC 5280, section 4.1.2.4), and their text (RFC 4514).

use std::fmt::Write;

use x509_cert::der::asn1::AnyRef;
use x509_cert::der::{Decode, Reader, Result, Tagged};

use super::parts::{self, OID, SEQUENCE, SET, UTF8};

pub struct Name {
    /// As openssl(1) writes it with `-nameopt RFC2253,-esc_msb`.
    pub text: String,
    /// Each CN that is a string of a type that we read, in the order of the name.
    pub common_names: Vec<String>,
}

const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

/// The object identifiers of RFC 4514, section 3, and some more that openssl has a short name for.
const TYPES: [(&[u8], &str); 15] = [
    (COMMON_NAME, "CN"),
    (&[0x55, 0x04, 0x04], "SN"),
    (&[0x55, 0x04, 0x05], "serialNumber"),
    (&[0x55, 0x04, 0x06], "C"),
    (&[0x55, 0x04, 0x07], "L"),
    (&[0x55, 0x04, 0x08], "ST"),
    (&[0x55, 0x04, 0x09], "street"),
    (&[0x55, 0x04, 0x0a], "O"),
    (&[0x55, 0x04, 0x0b], "OU"),
    (&[0x55, 0x04, 0x0c], "title"),
    (&[0x55, 0x04, 0x29], "name"),
    (&[0x55, 0x04, 0x2a], "GN"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 0x01, 0x01], "UID"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 0x01, 0x19], "DC"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x01], "emailAddress"),
];

/// Reads the DER of a name.
pub fn read(der: &[u8]) -> Result<Name> {
    let (mut texts, mut common_names) = (Vec::new(), Vec::new());
    let mut name = parts::only(der, SEQUENCE)?;
    while !name.is_finished() {
        let mut set = parts::enter(&mut name, SET)?;
        let mut text = String::new();
        while !set.is_finished() {
            let mut pair = parts::enter(&mut set, SEQUENCE)?;
            let (kind, der) = (parts::next(&mut pair, OID)?, pair.tlv_bytes()?);
            parts::finish(pair)?;
            let value = string(der)?;
            if !text.is_empty() {
                text.push('+');
            }
            describe(&mut text, kind, der, value.as_deref());
            if kind == COMMON_NAME {
                common_names.extend(value);
            }
        }
        texts.push(text);
    }
    // The text begins at the end of the name.
    texts.reverse();
    Ok(Name { text: texts.join(","), common_names })
}

/// The text of an element, if it is a string of a type that we read.
fn string(der: &[u8]) -> Result<Option<String>> {
    let element = AnyRef::from_der(der)?;
    let bytes = element.value();
    Ok(match element.tag().octet() {
        UTF8 => str::from_utf8(bytes).ok().map(str::to_owned),
        // NumericString, PrintableString, IA5String and VisibleString.
        0x12 | 0x13 | 0x16 | 0x1a if bytes.is_ascii() => str::from_utf8(bytes).ok().map(str::to_owned),
        // TeletexString; everybody wrote Latin-1 into it.
        0x14 => Some(bytes.iter().copied().map(char::from).collect()),
        // BMPString.
        0x1e if bytes.len() % 2 == 0 => {
            let units = bytes.chunks(2).map(|unit| u16::from_be_bytes([unit[0], unit[1]]));
            char::decode_utf16(units).collect::<std::result::Result<_, _>>().ok()
        }
        _ => None,
    })
}

/// `type=value`, RFC 4514, sections 2.3 and 2.4.
fn describe(text: &mut String, kind: &[u8], der: &[u8], value: Option<&str>) {
    let name = TYPES.iter().find(|(oid, _)| *oid == kind).map(|(_, name)| *name);
    let (Some(name), Some(value)) = (name, value) else {
        *text += &format!(
            "{}=#{}",
            name.map_or_else(|| parts::number(kind), str::to_owned),
            hex::encode_upper(der)
        );
        return;
    };
    *text += name;
    text.push('=');
    let last = value.chars().count().saturating_sub(1);
    for (at, c) in value.chars().enumerate() {
        match c {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' => text.extend(['\\', c]),
            '#' if at == 0 => text.push_str("\\#"),
            ' ' if at == 0 || at == last => text.push_str("\\ "),
            c if c.is_control() => {
                for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                    let _ = write!(text, "\\{byte:02X}");
                }
            }
            c => text.push(c),
        }
    }
}
