//! Certificates in a bundle: PKCS #7 with no content and no signature, "certs-only" (RFC 5652, section 5; RFC 5751,
//! section 3.8).

use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::oid::db::rfc5911;
use x509_cert::der::{Reader, SliceReader};

use super::parts::{self, INTEGER, OID, SEQUENCE, SET, element};
use super::{Certificate, Error};

/// Bundles these certificates (DER), in their order.
pub fn bundle<'a>(certificates: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<u8>, Error> {
    let oid = |oid: ObjectIdentifier| element(OID, &[oid.as_bytes()]);
    let certificates = element(0xa0, &certificates.into_iter().collect::<Vec<_>>())?;
    let nothing = element(SET, &[])?;
    let content = element(SEQUENCE, &[&oid(rfc5911::ID_DATA)?])?;
    let version = element(INTEGER, &[&[1]])?;
    let data = element(SEQUENCE, &[&version, &nothing, &content, &certificates, &nothing])?;
    Ok(element(SEQUENCE, &[&oid(rfc5911::ID_SIGNED_DATA)?, &element(0xa0, &[&data])?])?)
}

/// Every certificate of a bundle (DER), in its order. Its content and its signatures do not count.
pub fn in_bundle(der: &[u8]) -> Result<Vec<Certificate>, Error> {
    let mut bundle = parts::only(der, SEQUENCE)?;
    let kind = parts::next(&mut bundle, OID)?;
    if kind != rfc5911::ID_SIGNED_DATA.as_bytes() {
        return Err(Error::NoBundle(parts::oid(kind)));
    }
    let data = parts::next(&mut bundle, 0xa0)?;
    parts::finish(bundle)?;
    let mut data = parts::only(data, SEQUENCE)?;
    let _version = parts::next(&mut data, INTEGER)?;
    let _algorithms = parts::next(&mut data, SET)?;
    let _content = parts::next(&mut data, SEQUENCE)?;
    let mut list = SliceReader::new(parts::optional(&mut data, 0xa0)?.unwrap_or_default())?;
    let _crls = parts::optional(&mut data, 0xa1)?;
    let _signers = parts::next(&mut data, SET)?;
    parts::finish(data)?;
    let mut certificates = Vec::new();
    while !list.is_finished() {
        certificates.push(Certificate::read(list.tlv_bytes()?)?);
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::x509::{base64, certificates, from_base64};

    /// RFC 8410, section 10.2.
    const PEM: &str = "-----BEGIN CERTIFICATE-----\n\
        MIIBLDCB36ADAgECAghWAUdKKo3DMDAFBgMrZXAwGTEXMBUGA1UEAwwOSUVURiBUZX\n\
        N0IERlbW8wHhcNMTYwODAxMTIxOTI0WhcNNDAxMjMxMjM1OTU5WjAZMRcwFQYDVQQD\n\
        DA5JRVRGIFRlc3QgRGVtbzAqMAUGAytlbgMhAIUg8AmJMKdUdIt93LQ+91oNvzoNJj\n\
        ga9OukqY6qm05qo0UwQzAPBgNVHRMBAf8EBTADAQEAMA4GA1UdDwEBAAQEAwIDCDAg\n\
        BgNVHQ4BAQAEFgQUmx9e7e0EM4Xk97xiPFl1uQvIuzswBQYDK2VwA0EAryMB/t3J5v\n\
        /BzKc9dNZIpDmAgs3babFOTQbs+BolzlDUwsPrdGxO3YNGhW7Ibz3OGhhlxXrCe1Cg\n\
        w1AH9efZBw==\n\
        -----END CERTIFICATE-----\n";

    fn certificate() -> Certificate {
        certificates(PEM.as_bytes()).unwrap().remove(0)
    }

    fn openssl(arguments: &[&str], input: &[u8]) -> Vec<u8> {
        let mut command = Command::new("openssl");
        let mut child = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "openssl {arguments:?}");
        output.stdout
    }

    #[test]
    fn openssl_reads_ours_and_we_read_its() {
        let one = certificate();
        for count in 0..3 {
            let bundled = bundle(vec![one.der.as_slice(); count]).unwrap();
            assert_eq!(in_bundle(&bundled).unwrap(), vec![one.clone(); count]);
            let printed = openssl(&["pkcs7", "-inform", "DER", "-print_certs"], &bundled);
            assert_eq!(certificates(&printed).unwrap(), vec![one.clone(); count]);
        }
        let file = std::env::temp_dir().join(format!("rollcall-bundle-{}.pem", std::process::id()));
        std::fs::write(&file, PEM.repeat(2)).unwrap();
        let arguments = ["crl2pkcs7", "-nocrl", "-certfile", file.to_str().unwrap(), "-outform", "DER"];
        assert_eq!(in_bundle(&openssl(&arguments, b"")).unwrap(), [one.clone(), one]);
        std::fs::remove_file(file).unwrap();
    }

    #[test]
    fn no_truncated_or_changed_bundle_panics() {
        let whole = bundle([certificate().der.as_slice()]).unwrap();
        assert!((0..whole.len()).all(|len| in_bundle(&whole[..len]).is_err()), "a part is no bundle");
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut changed = whole.clone();
                changed[at] ^= 1 << bit;
                let _ = in_bundle(&changed);
            }
        }
        let data = element(OID, &[rfc5911::ID_DATA.as_bytes()]).unwrap();
        let said = in_bundle(&element(SEQUENCE, &[&data]).unwrap()).unwrap_err().to_string();
        assert!(said.ends_with(", and certificates in PKCS #7 are needed"), "{said}");
    }

    #[test]
    fn base64_is_read_with_any_white_space() {
        for len in [0, 1, 47, 48, 49, 500] {
            let bytes = vec![0xa5; len];
            let text = base64(&bytes);
            assert!(text.lines().all(|line| line.len() <= 64), "{text}");
            for text in
                [text.clone(), text.replace('\n', "\r\n"), text.replace('\n', ""), format!(" {text}\t")]
            {
                assert_eq!(from_base64(text.as_bytes()), Some(bytes.clone()), "{text:?}");
            }
        }
        for bad in ["Zg", "Zg=", "Z", "Zh==", "Zg==Zg==", "-----", "\u{e9}"] {
            assert_eq!(from_base64(bad.as_bytes()), None, "{bad:?}");
        }
    }
}
