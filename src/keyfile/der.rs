//! DER and BER (X.690): told apart by the tags of an element's children, and not checked beyond them.

use super::ItemKind;

const INTEGER: u8 = 0x02;
const BITS: u8 = 0x03;
const OCTETS: u8 = 0x04;
const OID: u8 = 0x06;
const UTC: u8 = 0x17;
const TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
/// `[0]`, explicit.
const ZERO: u8 = 0xa0;
/// `[1]`, explicit, and implicit.
#[cfg(feature = "protocol")]
const ONE: u8 = 0xa1;
#[cfg(feature = "protocol")]
const ONE_BITS: u8 = 0x81;

/// The first element, if it is of a kind that has a name here, and the bytes after it.
pub fn first(bytes: &[u8]) -> Option<(ItemKind, &[u8], &[u8])> {
    let (SEQUENCE, content, rest) = element(bytes)? else { return None };
    let kind = match tags(content)?[..] {
        [SEQUENCE, SEQUENCE, BITS] => signed(element(content)?.1)?,
        [SEQUENCE, BITS] | [INTEGER, INTEGER] => ItemKind::PublicKey,
        [SEQUENCE, OCTETS] => ItemKind::EncryptedKey,
        // PKCS #8, SEC 1, and the numbers of an RSA or DSA key.
        [INTEGER, SEQUENCE, OCTETS, ..]
        | [INTEGER, OCTETS, ..]
        | [INTEGER, INTEGER, INTEGER, INTEGER, INTEGER, INTEGER, ..] => ItemKind::PrivateKey,
        [INTEGER, SEQUENCE, ..] => ItemKind::Pkcs12,
        [OID, ZERO, ..] => ItemKind::Pkcs7,
        _ => return None,
    };
    Some((kind, &bytes[..bytes.len() - rest.len()], rest))
}

/// Certificate, request and CRL have the same outer form.
fn signed(content: &[u8]) -> Option<ItemKind> {
    match tags(content)?[..] {
        [ZERO, ..] | [INTEGER, SEQUENCE, SEQUENCE, SEQUENCE, ..] => Some(ItemKind::Certificate),
        [INTEGER, SEQUENCE, SEQUENCE] | [INTEGER, SEQUENCE, SEQUENCE, ZERO] => Some(ItemKind::Request),
        [SEQUENCE, SEQUENCE, UTC | TIME, ..] | [INTEGER, SEQUENCE, SEQUENCE, UTC | TIME, ..] => {
            Some(ItemKind::Crl)
        }
        _ => None,
    }
}

/// Bytes of a private key that are in its certificate, too: the modulus of RSA, the x of a point, a key of Edwards. Not every
/// key tells them.
#[cfg(feature = "protocol")]
pub fn public_half(key: &[u8]) -> Option<&[u8]> {
    let (SEQUENCE, content, _) = element(key)? else { return None };
    let half = match children(content)?[..] {
        // PKCS #8, with another form in it, or with a half of its own.
        [(INTEGER, _), (SEQUENCE, _), (OCTETS, inner), ref more @ ..] => {
            let own = more.iter().find(|(tag, _)| *tag == ONE_BITS);
            return public_half(inner).or(own.and_then(|(_, bits)| bits.get(1..)));
        }
        // SEC 1: a point, uncompressed or compressed.
        [(INTEGER, _), (OCTETS, _), ref more @ ..] => {
            let (_, point) = more.iter().find(|(tag, _)| *tag == ONE)?;
            let (BITS, bits, _) = element(point)? else { return None };
            match bits.get(1..)?.split_first()? {
                (4, both) => &both[..both.len() / 2],
                (_, x) => x,
            }
        }
        // PKCS #1.
        [(INTEGER, _), (INTEGER, modulus), (INTEGER, _), ref more @ ..] if more.len() > 5 => modulus,
        _ => return None,
    };
    (!half.is_empty()).then_some(half)
}

fn tags(content: &[u8]) -> Option<Vec<u8>> {
    Some(children(content)?.into_iter().map(|(tag, _)| tag).collect())
}

/// Tag and content of each.
fn children(mut content: &[u8]) -> Option<Vec<(u8, &[u8])>> {
    let mut children = Vec::new();
    while !content.is_empty() {
        let (tag, inner, rest) = element(content)?;
        children.push((tag, inner));
        content = rest;
    }
    Some(children)
}

/// Tag, content, and the bytes after it. Of an indefinite length, which BER allows, the content is all that follows.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, length], after) = bytes.split_first_chunk()?;
    let (length, after) = match length {
        0..0x80 => (length.into(), after),
        0x80 => (after.len(), after),
        _ => {
            let (digits, after) = after.split_at_checked((length & 0x7f).into())?;
            let length = digits
                .iter()
                .try_fold(0_usize, |length, digit| length.checked_mul(0x100)?.checked_add((*digit).into()))?;
            (length, after)
        }
    };
    let (content, rest) = after.split_at_checked(length)?;
    Some((tag, content, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_that_lies_is_no_element() {
        for bytes in [
            &b""[..],
            b"\x30",
            b"\x30\x01",
            b"\x30\x82\x01",
            b"\x30\x84\xff\xff\xff\xff\x02\x01\x00",
            b"\x30\x89\x01\0\0\0\0\0\0\0\0\x02\x01\x00",
            b"\x30\xff\x02\x01\x00",
            b"\x30\x06\x02\x7f\x01\x02\x01\x01",
        ] {
            assert!(first(bytes).is_none(), "{bytes:?}");
        }
        assert_eq!(element(b"\x30\x81\x01xyz"), Some((0x30, &b"x"[..], &b"yz"[..])));
        assert_eq!(element(b"\x30\x80xyz"), Some((0x30, &b"xyz"[..], &b""[..])));
        // Firefox writes PKCS #12 of indefinite length.
        let keystore = b"\x30\x80\x02\x01\x03\x30\x80\x06\x01\x2a\0\0\0\0";
        assert_eq!(first(keystore), Some((ItemKind::Pkcs12, &keystore[..], &b""[..])));
        let (kind, element, rest) = first(b"\x30\x06\x02\x01\x01\x02\x01\x01rest").unwrap();
        assert_eq!((kind, element.len(), rest), (ItemKind::PublicKey, 8, &b"rest"[..]));
    }
}
