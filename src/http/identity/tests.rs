use super::*;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// The second in which the certificate below ends.
const NOW: u64 = 1_826_999_456_000_000_000;

fn once(value: &str) -> Values<'_> {
    [value].into_iter().collect()
}

fn forwarded(subject_cn: &str) -> Forwarded<'_> {
    Forwarded {
        proxy_credential: once(SECRET),
        subject_cn: once(subject_cn),
        real_ip: once("192.0.2.10"),
        real_port: once("41234"),
        serial: once("0AFF"),
        fingerprint: once("0123456789abcdef0123456789abcdef01234567"),
        not_after: once("Nov 23 19:50:56 2027 GMT"),
        request_start: once("1826999455.999"),
        every: once("300"),
        ..Forwarded::default()
    }
}

fn by_cn(forwarded: &Forwarded<'_>, now_ns: u64) -> Result<Sighting, Refusal> {
    forwarded.sighting(forwarded.common_name()?, now_ns, 7000)
}

#[track_caller]
fn refused(forwarded: &Forwarded<'_>, message: &str) {
    assert_eq!(by_cn(forwarded, NOW).unwrap_err().to_string(), message);
}

#[test]
fn reads_the_escaped_name() {
    for (cn, email) in [
        ("valid_user@qt-test.com", "valid_user@qt-test.com"),
        (r"a\+tag@example.com", "a+tag@example.com"),
        (r"\61\2btag@Example.com", "a+tag@example.com"),
        (r"a=b@example.com", "a=b@example.com"),
        (r"\#a@example.com", "#a@example.com"),
    ] {
        let status = by_cn(&forwarded(cn), NOW).unwrap().status;
        assert_eq!(status.email.as_str(), email);
        assert_eq!((status.ip, status.port), ("192.0.2.10".parse().unwrap(), 41234));
    }
}

#[test]
fn every_value_but_one_escaped_email_is_refused() {
    refused(&forwarded(""), "there is no X-Subject-CN");
    refused(&forwarded("a@b,O=x"), r#"X-Subject-CN is not an escaped RFC 4514 value: "a@b,O=x""#);
    refused(&forwarded("a@b+CN=c@d"), r#"X-Subject-CN is not an escaped RFC 4514 value: "a@b+CN=c@d""#);
    refused(&forwarded("#1303"), r##"X-Subject-CN is not an escaped RFC 4514 value: "#1303""##);
    refused(&forwarded(r"a@b\"), r#"X-Subject-CN is not an escaped RFC 4514 value: "a@b\\""#);
    refused(&forwarded(r"a@b\C"), r#"X-Subject-CN is not an escaped RFC 4514 value: "a@b\\C""#);
    refused(&forwarded(r"a@b\zz"), r#"X-Subject-CN is not an escaped RFC 4514 value: "a@b\\zz""#);
    refused(&forwarded(r"a@b\FF"), r#"X-Subject-CN is not an escaped RFC 4514 value: "a@b\\FF""#);
    refused(
        &forwarded(r"jos\C3\A9@x"),
        "the certificate's CN is not an email address: \"jos\u{e9}@x\": non-ASCII character at byte 3",
    );
    refused(
        &forwarded(r"a@b\00"),
        r#"the certificate's CN is not an email address: "a@b\0": unexpected character '\0' in the domain at byte 3"#,
    );
}

#[test]
fn every_header_must_be_there_exactly_once() {
    let mut twice = forwarded("a@b");
    twice.subject_cn.push("c@d");
    refused(&twice, "X-Subject-CN must be there once, it was there 2 times");
    refused(&Forwarded { subject_cn: Values::default(), ..forwarded("") }, "there is no X-Subject-CN");
    refused(
        &Forwarded { real_ip: Values::default(), ..forwarded("a@b") },
        "X-Real-IP must be there once, it was there 0 times",
    );
    refused(
        &Forwarded { real_ip: once("::1%lo"), ..forwarded("a@b") },
        r#"X-Real-IP is malformed: "::1%lo""#,
    );
    refused(
        &Forwarded { serial: ["0AFF", "0AFF"].into_iter().collect(), ..forwarded("a@b") },
        "X-Client-Serial must be there once, it was there 2 times",
    );
    refused(
        &Forwarded { not_after: once("soon"), ..forwarded("a@b") },
        r#"X-Client-Not-After from nginx is not a date as openssl writes it: "soon""#,
    );
    refused(
        &Forwarded { real_port: once("65536"), ..forwarded("a@b") },
        r#"X-Real-Port is malformed: "65536""#,
    );
}

/// DER.
fn element(tag: u8, contents: &[&[u8]]) -> Vec<u8> {
    let content = contents.concat();
    let [high, low] = (content.len() as u16).to_be_bytes();
    let length = match content.len() {
        0..128 => vec![low],
        128..256 => vec![0x81, low],
        _ => vec![0x82, high, low],
    };
    [&[tag], &length[..], &content].concat()
}

/// A certificate that nobody signed, with this subjectAltName.
fn certificate(names: &[(u8, &[u8])]) -> Vec<u8> {
    const P_256_WITH_SHA_256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
    const SUBJECT_ALT_NAME: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x11];
    let algorithm = element(0x30, &[P_256_WITH_SHA_256]);
    let names: Vec<u8> = names.iter().flat_map(|(tag, content)| element(*tag, &[content])).collect();
    let names = element(0x04, &[&element(0x30, &[&names])]);
    let extensions = element(0x30, &[&element(0x30, &[SUBJECT_ALT_NAME, &names])]);
    let (begin, end) = (element(0x17, &[b"260101000000Z"]), element(0x17, &[b"360101000000Z"]));
    let nobody = element(0x30, &[]);
    let contents = element(
        0x30,
        &[
            &element(0xa0, &[&[0x02, 0x01, 0x02]]),
            &[0x02, 0x01, 0x01],
            &algorithm,
            &nobody,
            &element(0x30, &[&begin, &end]),
            &nobody,
            &element(0x30, &[&algorithm, &[0x03, 0x01, 0x00]]),
            &element(0xa3, &[&extensions]),
        ],
    );
    element(0x30, &[&contents, &algorithm, &[0x03, 0x01, 0x00]])
}

/// As nginx does it.
fn escape(pem: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    pem.bytes()
        .map(|byte| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// The person of the one certificate in this DER, to which the fingerprint belongs.
fn by_san(der: &[u8], escaped: &[&str]) -> Result<String, String> {
    let fingerprint = x509::Certificate::read(der).unwrap().fingerprint;
    let forwarded = Forwarded {
        subject_cn: Values::default(),
        certificate: escaped.iter().copied().collect(),
        fingerprint: once(&fingerprint),
        ..forwarded("not_an_email")
    };
    let email = forwarded.alternative_name().map_err(|refusal| refusal.to_string())?;
    let sighting = forwarded.sighting(email, NOW, 7000).unwrap();
    assert_eq!(sighting.certificate.fingerprint, fingerprint);
    Ok(sighting.status.email.to_string())
}

const EMAIL: u8 = 0x81;
/// otherName: a UPN, and an SmtpUTF8Mailbox (RFC 9598).
const OTHER: u8 = 0xa0;
const UPN: &[u8] = b"\x06\x0a\x2b\x06\x01\x04\x01\x82\x37\x14\x02\x03\xa0\x07\x0c\x05eve@x";
const SMTP_UTF8: &[u8] = b"\x06\x08\x2b\x06\x01\x05\x05\x07\x08\x09\xa0\x07\x0c\x05eve@x";

#[test]
fn the_one_rfc822_name_is_the_person() {
    for names in [
        &[(EMAIL, &b"Alice@Example.com"[..])][..],
        &[(OTHER, UPN), (EMAIL, b"alice@example.com"), (0x82, b"host.example.com"), (OTHER, SMTP_UTF8)],
    ] {
        let der = certificate(names);
        let escaped = escape(&x509::pem("CERTIFICATE", &der));
        assert_eq!(by_san(&der, &[&escaped]).as_deref(), Ok("alice@example.com"));
    }
}

#[test]
fn every_san_but_one_plain_rfc822_name_is_refused() {
    let not_one = |count| {
        format!(
            "the certificate must hold exactly one email (rfc822Name in its subjectAltName), and holds {count}; \
             get another from the administrator of rollcall"
        )
    };
    let no_email = |text: &str| format!("the certificate's rfc822Name is not an email address: {text}");
    for (names, message) in [
        (&[][..], not_one(0)),
        (&[(OTHER, UPN)], not_one(0)),
        (&[(OTHER, SMTP_UTF8)], not_one(0)),
        (&[(0x82, b"alice@example.com")], not_one(0)),
        (&[(0x86, b"mailto:alice@example.com")], not_one(0)),
        (&[(EMAIL, b"a@x"), (EMAIL, b"b@x")], not_one(2)),
        (&[(EMAIL, b"a@x"), (EMAIL, b"a@x")], not_one(2)),
        (&[(EMAIL, b"")], no_email(r#""": it is empty"#)),
        (
            &[(EMAIL, b"a@x\0.example.com")],
            no_email(r#""a@x\0.example.com": unexpected character '\0' in the domain at byte 3"#),
        ),
        (&[(EMAIL, b"a\n@x")], no_email(r#""a\n@x": unexpected character '\n' in the local part at byte 1"#)),
        (&[(EMAIL, "jos\u{e9}@x".as_bytes())], no_email("\"jos\u{e9}@x\": non-ASCII character at byte 3")),
        (&[(EMAIL, b"jos\xe9@x")], no_email("\"jos\u{fffd}@x\": non-ASCII character at byte 3")),
        (&[(EMAIL, b"<a@x>")], no_email(r#""<a@x>": unexpected character '<' in the local part at byte 0"#)),
    ] {
        let der = certificate(names);
        let escaped = escape(&x509::pem("CERTIFICATE", &der));
        assert_eq!(by_san(&der, &[&escaped]), Err(message), "{names:?}");
    }
}

#[test]
fn the_certificate_has_one_form_and_is_the_one_of_the_fingerprint() {
    let der = certificate(&[(EMAIL, b"a@x")]);
    let pem = x509::pem("CERTIFICATE", &der);
    let good = escape(&pem);
    assert!(by_san(&der, &[&good]).is_ok());
    let refused = |escaped: &[&str], message: &str| {
        assert_eq!(by_san(&der, escaped), Err(message.to_owned()), "{escaped:?}");
    };
    refused(&[], "there is no X-Client-Certificate");
    refused(&[""], "there is no X-Client-Certificate");
    refused(&[&good, &good], "X-Client-Certificate must be there once, it was there 2 times");
    let not_pem = "X-Client-Certificate is not one certificate in PEM with the escapes of a URL";
    let text = pem.replace("-----BEGIN", "x\n-----BEGIN");
    let [twice, crlf, label] =
        [pem.repeat(2), pem.replace('\n', "\r\n"), pem.replace("CERTIFICATE", "X509 CERTIFICATE")];
    for pem in ["x", pem.trim_end(), &text, &twice, &crlf, &label] {
        refused(&[&escape(pem)], not_pem);
    }
    for escaped in [&pem, &good.replace("%0A", "+"), &format!("{good}%"), &format!("{good}%2"), "%zz", "%+A"]
    {
        refused(&[escaped], not_pem);
    }
    let other = certificate(&[(EMAIL, b"b@x")]);
    refused(
        &[&escape(&x509::pem("CERTIFICATE", &other))],
        "X-Client-Certificate and X-Client-Fingerprint are of two certificates",
    );
    let damaged = x509::pem("CERTIFICATE", &der[..der.len() - 1]);
    let message = by_san(&der, &[&escape(&damaged)]).unwrap_err();
    assert!(message.starts_with("the certificate cannot be read: it is damaged: "), "{message}");
    let fits = certificate(&[(EMAIL, b"a@x"), (0x82, &[b'x'; 4000])]);
    let escaped = escape(&x509::pem("CERTIFICATE", &fits));
    assert_eq!(by_san(&fits, &[&escaped]).as_deref(), Ok("a@x"));
    let large = certificate(&[(EMAIL, b"a@x"), (0x82, &[b'x'; 5200])]);
    let escaped = escape(&x509::pem("CERTIFICATE", &large));
    let message = "the certificate is too large: in PEM with the escapes of a URL it must have fewer than 7000 \
                   bytes; get a smaller one from the administrator of rollcall";
    assert_eq!(by_san(&large, &[&escaped]), Err(message.to_owned()));
    assert_eq!(by_san(&large, &[&escaped[..MAX_CERTIFICATE]]), Err(message.to_owned()), "nginx cut it");
}

#[test]
fn a_certificate_ends_also_on_a_connection_that_is_kept() {
    assert!(by_cn(&forwarded("a@b"), NOW).is_ok());
    assert_eq!(by_cn(&forwarded("a@b"), NOW + 1_000_000_000), Err(Refusal::Expired));
}

#[test]
fn a_request_that_lay_for_long_tells_of_then() {
    let seen = |start: &[&'static str]| {
        let forwarded = Forwarded { request_start: start.iter().copied().collect(), ..forwarded("a@b") };
        by_cn(&forwarded, NOW).map(|sighting| sighting.status.last_seen_ns)
    };
    assert_eq!(seen(&["1826999414.123"]), Ok(1_826_999_414_123_000_000));
    for start in [&[][..], &["1826999455.000"], &["1826999456.001"], &["1999999999.999"]] {
        assert_eq!(seen(start), Ok(NOW), "{start:?}");
    }
    let bad =
        ["", "soon", "1", "1.", ".123", "1.12", "1.1234", "-1.123", "+1.123", "18446744073709551615.000"];
    for start in bad {
        let message = format!("X-Request-Start is malformed: {start:?}");
        assert_eq!(seen(&[start]).unwrap_err().to_string(), message);
    }
    assert!(seen(&["1.000", "1.000"]).is_err());
}

#[test]
fn only_the_one_secret_admits() {
    let credential = Credential::new(&format!("{SECRET}\n")).unwrap();
    let with = |values: Vec<&'static str>| Forwarded {
        proxy_credential: values.into_iter().collect(),
        ..Forwarded::default()
    };
    assert_eq!(credential.admit(&with(vec![SECRET])), Ok(()));
    for values in [vec![], vec![""], vec![&SECRET[1..]], vec![SECRET, SECRET], vec!["x"]] {
        assert_eq!(credential.admit(&with(values)), Err(Refusal::NotThroughProxy));
    }
}

#[test]
fn a_weak_secret_is_no_secret() {
    let error = |text: &str| Credential::new(text).err().unwrap().to_string();
    assert_eq!(error(""), "the secret has 0 bytes, at least 32 are needed");
    assert_eq!(error(&SECRET[1..]), "the secret has 31 bytes, at least 32 are needed");
    assert_eq!(
        error(&format!("{SECRET}\n{SECRET}")),
        "the secret holds white space or characters outside printable ASCII"
    );
}
