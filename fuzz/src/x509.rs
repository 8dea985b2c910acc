//! Files with keys, certificates, requests and CRLs, in PEM or DER. Whatever is read, is written as PEM and as a bundle,
//! and read again.

use rollcall::keyfile::{self, ItemKind};
use rollcall::x509::{self, Certificate, Request};

pub fn check(bytes: &[u8]) {
    if let Ok(items) = keyfile::items(bytes) {
        for item in items.iter().filter(|item| !item.bytes.is_empty()) {
            let pem = x509::pem("CERTIFICATE", &item.bytes);
            let again = keyfile::items(pem.as_bytes()).unwrap();
            assert!(again.len() == 1 && again[0].bytes == item.bytes);
            let _ = keyfile::may_be_pair(&item.bytes, &item.bytes);
            if item.kind == ItemKind::PublicKey {
                let _ = x509::usable(&item.bytes);
            }
        }
    }
    if let Ok(certificates) = x509::certificates(bytes) {
        let bundle = x509::bundle(certificates.iter().map(|one| one.der.as_slice())).unwrap();
        assert_eq!(x509::in_bundle(&bundle).unwrap(), certificates);
        for one in &certificates {
            let Certificate { der, serial, fingerprint, subject_text, issuer_text, .. } = one;
            assert_eq!(
                x509::certificates(x509::pem("CERTIFICATE", der).as_bytes()).unwrap(),
                std::slice::from_ref(one)
            );
            assert!(
                fingerprint.len() == 40
                    && serial.trim_start_matches('-').bytes().all(|byte| byte.is_ascii_hexdigit())
            );
            assert!(!subject_text.contains(char::is_control) && !issuer_text.contains(char::is_control));
            let _ = one.is_signed_by(&certificates[0]).map_err(|error| error.to_string());
        }
    }
    if let Ok(crls) = x509::crls(bytes) {
        for crl in &crls {
            assert_eq!(
                x509::crls(x509::pem("X509 CRL", &crl.der).as_bytes()).unwrap(),
                std::slice::from_ref(crl)
            );
        }
    }
    match Request::read(bytes) {
        Ok(request) => assert_eq!(Request::read(&request.der).unwrap(), request),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    let _ = x509::in_bundle(bytes).map_err(|error| error.to_string());
    let _ = keyfile::parse_public_keys(bytes).map_err(|error| error.to_string());
    let _ = keyfile::parse_signing_key(bytes).map_err(|error| error.to_string());
    if let Some(der) = x509::from_base64(bytes) {
        assert_eq!(x509::from_base64(x509::base64(&der).as_bytes()), Some(der));
    }
}
