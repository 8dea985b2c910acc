//! Keys and certificates in files, whichever tool wrote them: bytes in, items out.
//!
//! PEM is read in every encoding that [`files::text`] knows, with any line ends and any text around it; DER is told
//! by its structure. A format that nobody here reads has a name at least.

use std::fmt;

use crate::files;

mod der;
#[cfg(feature = "protocol")]
mod load;
mod pem;

#[cfg(feature = "protocol")]
pub use load::{
    Error, may_be_pair, own_public_keys, parse_public_key, parse_public_keys, parse_signing_key, people,
    pseudonym_key, public_key, public_keys, public_keys_in, public_keys_in_all, public_keys_of, signing_key,
};

/// One thing that a file holds. There is no `Debug`: it may be a secret.
pub struct Item {
    pub kind: ItemKind,
    pub form: Form,
    /// DER, of the kinds that have one.
    pub bytes: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ItemKind {
    Certificate,
    Request,
    Crl,
    /// PKCS #8, SEC 1 or PKCS #1.
    PrivateKey,
    EncryptedKey,
    OpenSshKey,
    PublicKey,
    Pkcs7,
    Pkcs12,
    JavaKeystore,
}

/// How it stands in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// No text.
    Binary,
    /// PEM that openssl reads.
    Pem,
    /// PEM in UTF-16, or with a byte order mark.
    Encoded,
    /// PEM whose lines end with a carriage return alone.
    LoneCr,
}

/// Everything that the file holds, in its order; nothing, if none of it is known.
pub fn items(bytes: &[u8]) -> Result<Vec<Item>, Damaged> {
    let binary = binary(bytes);
    if !binary.is_empty() {
        return Ok(binary);
    }
    let text = files::text(bytes);
    let form = match () {
        () if !text.contains('\n') => Form::LoneCr,
        () if text.len() != bytes.len() => Form::Encoded,
        () => Form::Pem,
    };
    let mut items = Vec::new();
    for block in pem::blocks(&text)? {
        let Some(kind) = labelled(block.label) else { continue };
        if block.is_encrypted() {
            items.push(Item { kind: ItemKind::EncryptedKey, form, bytes: Vec::new() });
            continue;
        }
        let bytes = block.decode()?;
        // The label may be wrong: certutil(1) of Windows calls everything a certificate.
        items.push(match der::first(&bytes) {
            Some((kind, element, _)) => Item { kind, form, bytes: element.to_vec() },
            None => Item { kind, form, bytes },
        });
    }
    Ok(items)
}

fn binary(mut bytes: &[u8]) -> Vec<Item> {
    // JKS and JCEKS.
    if let [0xfe, 0xed, 0xfe, 0xed, ..] | [0xce, 0xce, 0xce, 0xce, ..] = bytes {
        return vec![Item { kind: ItemKind::JavaKeystore, form: Form::Binary, bytes: Vec::new() }];
    }
    let mut items = Vec::new();
    while let Some((kind, element, rest)) = der::first(bytes) {
        items.push(Item { kind, form: Form::Binary, bytes: element.to_vec() });
        bytes = rest;
    }
    items
}

fn labelled(label: &str) -> Option<ItemKind> {
    Some(match label {
        "CERTIFICATE" | "X509 CERTIFICATE" | "TRUSTED CERTIFICATE" => ItemKind::Certificate,
        "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST" => ItemKind::Request,
        "X509 CRL" => ItemKind::Crl,
        "PRIVATE KEY" | "RSA PRIVATE KEY" | "EC PRIVATE KEY" | "DSA PRIVATE KEY" => ItemKind::PrivateKey,
        "ENCRYPTED PRIVATE KEY" => ItemKind::EncryptedKey,
        "OPENSSH PRIVATE KEY" => ItemKind::OpenSshKey,
        "PUBLIC KEY" | "RSA PUBLIC KEY" => ItemKind::PublicKey,
        "PKCS7" | "PKCS #7 SIGNED DATA" | "CMS" => ItemKind::Pkcs7,
        _ => return None,
    })
}

impl fmt::Display for ItemKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ItemKind::Certificate => "a certificate",
            ItemKind::Request => "a certificate request",
            ItemKind::Crl => "a list of revoked certificates (CRL)",
            ItemKind::PrivateKey => "a private key",
            ItemKind::EncryptedKey => "an encrypted private key",
            ItemKind::OpenSshKey => "an OpenSSH private key",
            ItemKind::PublicKey => "a public key",
            ItemKind::Pkcs7 => "a PKCS #7 bundle",
            ItemKind::Pkcs12 => "a PKCS #12 keystore",
            ItemKind::JavaKeystore => "a Java keystore",
        })
    }
}

/// PEM that cannot be read. The label is the one after BEGIN.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damaged {
    #[error("its -----BEGIN {0}----- has no -----END {0}-----")]
    NoEnd(String),
    #[error("the text between BEGIN {0} and END {0} is not base64")]
    NotBase64(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A certificate of RFC 8410, section 10.2, and the key of section 10.3.
    const PEM: &str = "-----BEGIN CERTIFICATE-----\n\
        MIIBLDCB36ADAgECAghWAUdKKo3DMDAFBgMrZXAwGTEXMBUGA1UEAwwOSUVURiBUZX\n\
        N0IERlbW8wHhcNMTYwODAxMTIxOTI0WhcNNDAxMjMxMjM1OTU5WjAZMRcwFQYDVQQD\n\
        DA5JRVRGIFRlc3QgRGVtbzAqMAUGAytlbgMhAIUg8AmJMKdUdIt93LQ+91oNvzoNJj\n\
        ga9OukqY6qm05qo0UwQzAPBgNVHRMBAf8EBTADAQEAMA4GA1UdDwEBAAQEAwIDCDAg\n\
        BgNVHQ4BAQAEFgQUmx9e7e0EM4Xk97xiPFl1uQvIuzswBQYDK2VwA0EAryMB/t3J5v\n\
        /BzKc9dNZIpDmAgs3babFOTQbs+BolzlDUwsPrdGxO3YNGhW7Ibz3OGhhlxXrCe1Cg\n\
        w1AH9efZBw==\n\
        -----END CERTIFICATE-----\n\
        -----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
        -----END PRIVATE KEY-----\n";

    fn kinds(bytes: &[u8]) -> Vec<(ItemKind, Form)> {
        items(bytes).unwrap().iter().map(|item| (item.kind, item.form)).collect()
    }

    #[test]
    fn the_form_is_told_and_der_is_the_same_in_each() {
        let both = |form| [(ItemKind::Certificate, form), (ItemKind::PrivateKey, form)];
        let utf16: Vec<u8> = PEM.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let binary: Vec<u8> =
            items(PEM.as_bytes()).unwrap().into_iter().flat_map(|item| item.bytes).collect();
        assert_eq!(kinds(PEM.as_bytes()), both(Form::Pem));
        assert_eq!(kinds(PEM.replace('\n', "\r\n").as_bytes()), both(Form::Pem));
        assert_eq!(kinds(PEM.replace('\n', "\r").as_bytes()), both(Form::LoneCr));
        assert_eq!(kinds(format!("\u{feff}{PEM}").as_bytes()), both(Form::Encoded));
        assert_eq!(kinds(&utf16), both(Form::Encoded));
        assert_eq!(kinds(&binary), both(Form::Binary));
        // The bytes tell more than a label.
        assert_eq!(kinds(PEM.replace("CERTIFICATE", "PRIVATE KEY").as_bytes()), both(Form::Pem));
        assert_eq!(kinds(PEM.replace("CERTIFICATE", "PGP MESSAGE").as_bytes()), both(Form::Pem)[1..]);
        assert_eq!(kinds(b""), []);
    }

    #[test]
    fn no_truncated_or_changed_file_panics() {
        let der = items(PEM.as_bytes()).unwrap().swap_remove(0).bytes;
        let utf16: Vec<u8> = PEM.encode_utf16().flat_map(u16::to_be_bytes).collect();
        for whole in [PEM.as_bytes(), &utf16, &der] {
            for at in 0..whole.len() {
                let _ = items(&whole[..at]);
                for bit in 0..8 {
                    let mut changed = whole.to_vec();
                    changed[at] ^= 1 << bit;
                    let _ = items(&changed);
                }
            }
        }
        assert!((1..der.len()).all(|len| items(&der[..len]).unwrap().is_empty()), "a part is no certificate");
    }
}
