//! Lists of revoked certificates.

use super::*;

#[test]
fn crls_of_openssl_are_read() {
    let folder = Folder::new();
    let authority = folder.certificate("ca", "ca", P256, "/CN=ca", AUTHORITY);
    folder.write("index", "");
    folder.write("number", "0100");
    // openssl makes version 1 of it, unless it numbers it.
    let one = folder.crl("ca", "-crldays 3", "");
    let two = folder.crl("ca", "-crldays 5", "crlnumber=number\n");
    for (crl, number, days) in [(&one, None, 3), (&two, Some("0100"), 5)] {
        assert_eq!((crl.number.as_deref(), &crl.revoked[..]), (number, &[][..]));
        assert_eq!(crl.next_update.unwrap() - crl.this_update, days * 24 * 60 * 60);
        assert_eq!((&crl.issuer, crl.issuer_text.as_str()), (&authority.subject, "CN=ca"));
        crl.is_signed_by(&authority).unwrap();
    }
    folder.write(
        "index",
        "R\t301231235959Z\t270101000000Z\t01\tunknown\t/CN=a\n\
         R\t301231235959Z\t270102000000Z,keyCompromise\tA0FF\tunknown\t/CN=b\n\
         V\t301231235959Z\t\t02\tunknown\t/CN=c\n",
    );
    let some = folder.crl("ca", "-crldays 3", "crlnumber=number\n");
    let revoked = |serial: &str, at| Revoked { serial: serial.to_owned(), at };
    assert_eq!(some.revoked, [revoked("01", 1_798_761_600), revoked("A0FF", 1_798_848_000)]);
    some.is_signed_by(&authority).unwrap();
    for name in ["-lastupdate", "-nextupdate"] {
        let shown = folder.openssl(&format!("crl -in crl -noout {name} -dateopt iso_8601"));
        let shown = shown.trim().split_once('=').unwrap().1.replace(' ', "T");
        let shown = humantime::parse_rfc3339(&shown).unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
        let read = if name == "-lastupdate" { some.this_update } else { some.next_update.unwrap() };
        assert_eq!(read, shown.as_secs());
    }

    let namesake = folder.certificate("namesake", "namesake", P256, "/CN=ca", AUTHORITY);
    let other = folder.certificate("other", "other", P256, "/CN=other", AUTHORITY);
    let modest = "basicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign";
    let modest = folder.sign("ca", "ca", "/CN=ca", modest, "-days 1");
    assert!(matches!(some.is_signed_by(&namesake), Err(Error::Signature)));
    assert!(matches!(some.is_signed_by(&other), Err(Error::Issuer { .. })));
    assert!(matches!(some.is_signed_by(&modest), Err(Error::Authority(_))));

    let file =
        [pem("X509 CRL", &one.der), pem("CERTIFICATE", &authority.der), pem("X509 CRL", &two.der)].concat();
    assert_eq!(crls(file.as_bytes()).unwrap(), [one.clone(), two.clone()]);
    assert_eq!(crls(&[&one.der[..], &two.der].concat()).unwrap(), [one, two]);
    assert_eq!(crls(b"").unwrap(), []);
    assert!(crls(pem("X509 CRL", b"\x30\x00").as_bytes()).is_err());
}

/// A CRL that nobody signed, of these entries.
fn crl_of(times: &[&str], entries: &[u8], extensions: &[&[u8]]) -> Vec<u8> {
    let times: Vec<u8> = times.iter().flat_map(|time| time_of(time)).collect();
    let entries = if entries.is_empty() { Vec::new() } else { part(SEQUENCE, &[entries]) };
    let extensions = part(0xa0, &[&part(SEQUENCE, extensions)]);
    let issuer = name_of(&[(CN, UTF8, b"nobody")]);
    let contents = part(SEQUENCE, &[&[2, 1, 1], ED25519, &issuer, &times, &entries, &extensions]);
    part(SEQUENCE, &[&contents, ED25519, &part(BITS, &[&[0; 65]])])
}

#[test]
fn a_crl_without_an_end_is_read_and_a_partial_one_is_not() {
    let reason: &[u8] = &extension(21, false, &[0x0a, 0x01, 0x01]);
    let at = time_of("20270101000000Z");
    let entry = part(SEQUENCE, &[&part(INTEGER, &[&[0, 0xff]]), &at, &part(SEQUENCE, &[reason])]);
    let number = extension(20, false, &part(INTEGER, &[&[0; 1]]));
    let read = Crl::read(&crl_of(&[DAY[0]], &entry, &[&number])).unwrap();
    assert_eq!((read.next_update, read.number.as_deref()), (None, Some("00")));
    assert_eq!(read.revoked, [Revoked { serial: "FF".to_owned(), at: 1_798_761_600 }]);

    let of = |extensions: &[&[u8]]| Crl::read(&crl_of(&DAY, &entry, extensions));
    // issuingDistributionPoint: onlyContainsUserCerts, and indirectCRL.
    let point = |contents: &[u8]| extension(28, true, &part(SEQUENCE, &[contents]));
    of(&[&point(&[]), &number]).unwrap();
    of(&[&point(&[0xa0, 0x00, 0x81, 0x01, 0xff])]).unwrap();
    assert!(matches!(of(&[&point(&[0x81, 0x01, 0xff, 0x84, 0x01, 0xff])]), Err(Error::Indirect)));
    // deltaCRLIndicator.
    assert_eq!(
        said(of(&[&extension(27, true, &part(INTEGER, &[&[1]]))])),
        "its extension id-ce-deltaCRLIndicator (2.5.29.27) is critical, and unknown here; its author must issue a \
         complete CRL without it"
    );
    assert!(matches!(of(&[&number, &number]), Err(Error::Twice(_))));
}

#[test]
fn a_million_revoked_certificates_are_read() {
    let at = time_of(DAY[0]);
    let mut entries = Vec::new();
    for number in 0..1_000_000_u32 {
        // As step-ca and openssl make them: 16 random bytes.
        let serial = [&[0x7a; 12][..], &number.to_be_bytes()].concat();
        let serial = [&[0x02, 0x10][..], &serial].concat();
        entries.extend_from_slice(&[SEQUENCE, (serial.len() + at.len()) as u8]);
        entries.extend_from_slice(&serial);
        entries.extend_from_slice(&at);
    }
    let file = pem("X509 CRL", &crl_of(&DAY, &entries, &[]));
    let read = crls(file.as_bytes()).unwrap().remove(0);
    assert_eq!(read.revoked.len(), 1_000_000);
    assert!(read.revoked[999_999].serial.ends_with("7A000F423F"));
}
