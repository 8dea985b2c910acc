//! Numbers, times and names in a certificate.

use super::*;

#[test]
fn a_serial_is_written_as_openssl_writes_it() {
    let folder = Folder::new();
    let of = |serial: &[u8]| unsigned(serial, &name_of(&[]), DAY, &[]);
    for serial in [
        &[0][..],
        &[1],
        &[0x0f],
        &[0x7f],
        &[0, 0x80],
        &[0, 0xff, 0],
        &[0x80],
        &[0xff],
        &[0xff, 0x7f],
        &[0xff, 0],
        &[0x80, 0, 0],
        &[0xa5; 16],
        &[0x12; 20],
        &[0x7e; 35],
    ] {
        let read = Certificate::read(&of(serial)).unwrap();
        assert_eq!(read.serial, folder.shown(&read.der, "-serial"), "{serial:x?}");
    }
    assert_eq!(Certificate::read(&of(&[0])).unwrap().serial, "00");
    assert_eq!(Certificate::read(&of(&[1])).unwrap().serial, "01");
    for serial in [&[][..], &[0, 0], &[0, 0x7f], &[0xff, 0x80]] {
        assert!(said(Certificate::read(&of(serial))).starts_with("it is damaged: "), "{serial:x?}");
    }
}

#[test]
fn times_are_read_and_those_before_1970_are_0() {
    let folder = Folder::new();
    let of = |begin, end| Certificate::read(&unsigned(&[1], &name_of(&[]), [begin, end], &[]));
    let both = |begin, end| of(begin, end).map(|it| (it.not_before, it.not_after)).unwrap();
    assert_eq!(both("700101000000Z", "19700101000001Z"), (0, 1));
    assert_eq!(both("500101000000Z", "491231235959Z"), (0, 2_524_607_999));
    assert_eq!(both("19691231235959Z", "99991231235959Z"), (0, 253_402_300_799));
    assert_eq!(both("00000101000000Z", "20280229120000Z"), (0, 1_835_438_400));
    for bad in [
        "",
        "Z",
        "2701010000Z",
        "270101000000",
        "270101000000+",
        "202701010000Z",
        "20270101000000.5Z",
        "270001000000Z",
        "271301000000Z",
        "270230000000Z",
        "270101240000Z",
        "2701010000\u{e9}Z",
    ] {
        assert!(said(of(bad, "491231235959Z")).starts_with("it is damaged: "), "{bad}");
    }
    let read = of("270101000000Z", "20991231235959Z").unwrap();
    let end = folder.shown(&read.der, "-enddate -dateopt iso_8601").replace(' ', "T");
    let end = humantime::parse_rfc3339(&end).unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(read.not_after, end.as_secs());
}

#[test]
fn names_are_written_as_openssl_writes_them() {
    let folder = Folder::new();
    let organisation: &[u8] = &[0x06, 0x03, 0x55, 0x04, 0x0a];
    let component: &[u8] = &[0x06, 0x0a, 0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 0x01, 0x19];
    let email: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x01];
    let number: &[u8] = &[0x06, 0x03, 0x55, 0x04, 0x05];
    let unknown: &[u8] = &[0x06, 0x03, 0x2a, 0x03, 0x04];
    let cases: [(&[Pair<'_>], &str, &[&str]); 11] = [
        (&[], "", &[]),
        (
            &[
                (component, 0x16, b"example"),
                (component, 0x16, b"corp"),
                (CN, UTF8, b"Users"),
                (CN, 0x13, b"Alice"),
            ],
            "CN=Alice,CN=Users,DC=corp,DC=example",
            &["Users", "Alice"],
        ),
        (&[(CN, UTF8, b"a\0b\n\x7f\x1b[2J")], "CN=a\\00b\\0A\\7F\\1B[2J", &["a\0b\n\x7f\x1b[2J"]),
        (&[(CN, UTF8, b" \"#+,;<=>\\ ")], "CN=\\ \\\"#\\+\\,\\;\\<=\\>\\\\\\ ", &[" \"#+,;<=>\\ "]),
        (&[(CN, UTF8, b"#1"), (organisation, 0x13, b" ")], "O=\\ ,CN=\\#1", &["#1"]),
        (&[(CN, UTF8, b"")], "CN=", &[""]),
        (&[(CN, UTF8, "Zo\u{eb}".as_bytes())], "CN=Zo\u{eb}", &["Zo\u{eb}"]),
        (&[(CN, 0x14, b"Zo\xeb")], "CN=Zo\u{eb}", &["Zo\u{eb}"]),
        (&[(CN, 0x1e, b"\0Z\0o\0\xeb")], "CN=Zo\u{eb}", &["Zo\u{eb}"]),
        (&[(email, 0x16, b"a@b"), (number, 0x13, b"7")], "serialNumber=7,emailAddress=a@b", &[]),
        (&[(unknown, UTF8, b"x")], "1.2.3.4=#0C0178", &[]),
    ];
    let of = |subject: &[u8]| Certificate::read(&unsigned(&[1], subject, DAY, &[])).unwrap();
    for (pairs, text, common_names) in cases {
        let read = of(&name_of(pairs));
        assert_eq!(read.subject_text, text);
        assert_eq!(folder.shown(&read.der, "-subject -nameopt RFC2253,-esc_msb"), text);
        assert_eq!(read.common_names, common_names);
        assert_eq!((read.subject, read.issuer_text.as_str()), (name_of(pairs), "CN=nobody"));
    }
    // One that is no text shows its bytes, and is no CN.
    for (tag, bytes, text) in [
        (UTF8, &b"\xff"[..], "CN=#0C01FF"),
        (0x13, b"\xe9", "CN=#1301E9"),
        (0x1e, b"\xd8\0", "CN=#1E02D800"),
        (0x1e, b"\0", "CN=#1E0100"),
        (INTEGER, b"\x01", "CN=#020101"),
    ] {
        let read = of(&name_of(&[(CN, tag, bytes)]));
        assert_eq!((read.subject_text.as_str(), read.common_names.len()), (text, 0));
    }
    // Several pairs in one set; and an object identifier that is made of a UUID.
    let pair = |kind: &[u8], value: &[u8]| part(SEQUENCE, &[kind, &part(UTF8, &[value])]);
    let uuid = part(OID, &[&[0x69, 0x83, 0xd9, 0x83, 0xd9, 0x83, 0xd9, 0x83, 0xd9, 0x83, 0xd9, 0x01]]);
    let set = part(SET, &[&pair(CN, b"a"), &pair(organisation, b"b"), &pair(&uuid, b"c")]);
    let read = of(&part(SEQUENCE, &[&set]));
    assert_eq!(read.subject_text, "CN=a+O=b+#6983D983D983D983D983D901=#0C0163");
    assert_eq!(read.common_names, ["a"]);
}

#[test]
fn subject_alt_names_are_read_as_they_are() {
    let email = |text: &[u8]| part(0x81, &[text]);
    assert_eq!(with_names(&[email(b"a@b"), email(b"c@d")].concat()).emails, ["a@b", "c@d"]);
    // A principal's name (UPN) and a directory name are no email.
    let upn: &[u8] = &[0x06, 0x0a, 0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x14, 0x02, 0x03];
    let upn = part(0xa0, &[upn, &part(0xa0, &[&part(UTF8, &[b"x@corp"])])]);
    let directory = part(0xa4, &[&name_of(&[(CN, UTF8, b"y@corp")])]);
    let mixed = with_names(&[upn, directory, email(b"A@B\0\n"), email(b"\xe9@b"), email(b"")].concat());
    assert_eq!(mixed.emails, ["A@B\0\n", "\u{fffd}@b", ""]);
    assert!(mixed.hosts.is_empty());
    let address = |bytes: &[u8]| part(0x87, &[bytes]);
    let loopback = std::net::Ipv6Addr::LOCALHOST.octets();
    let hosts = [part(0x82, &[b"localhost"]), address(&[127, 0, 0, 1]), address(&loopback), address(&[1; 5])];
    let hosts = with_names(&hosts.concat());
    assert_eq!(hosts.hosts, ["DNS:localhost", "IP:127.0.0.1", "IP:::1"]);
    assert!(hosts.emails.is_empty());
    // The second could hide the first.
    let names = extension(17, false, &part(SEQUENCE, &[&email(b"a@b")]));
    let twice = Certificate::read(&unsigned(&[1], &name_of(&[]), DAY, &[&names, &names]));
    assert_eq!(
        said(twice),
        "it is damaged: the extension id-ce-subjectAltName (2.5.29.17) stands in it twice"
    );
}
