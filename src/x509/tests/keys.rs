//! Keys, and requests for them.

use super::*;

#[test]
fn only_keys_that_both_sides_take_are_usable() {
    let folder = Folder::new();
    let public = |words: &str| {
        folder.openssl(&format!("genpkey {words} -out any.key"));
        folder.openssl("pkey -in any.key -pubout -outform DER -out any.pub");
        folder.read("any.pub")
    };
    for words in [RSA, P256, P384, "-algorithm ED25519"] {
        usable(&public(words)).unwrap();
    }
    folder.openssl("genpkey -genparam -algorithm DSA -pkeyopt dsa_paramgen_bits:1024 -out dsa");
    let curve = |name| format!("-algorithm EC -pkeyopt ec_paramgen_curve:{name}");
    let is = |found: &str| {
        format!(
            "its key is {found}; rollcall takes RSA with 2048, 3072 or 4096 bits, ECDSA on the curve P-256 or \
             P-384, and Ed25519: make such a key"
        )
    };
    for (words, found) in [
        ("-algorithm RSA -pkeyopt rsa_keygen_bits:512", "RSA with 512 bits"),
        ("-algorithm RSA -pkeyopt rsa_keygen_bits:1024", "RSA with 1024 bits"),
        ("-algorithm RSA-PSS -pkeyopt rsa_keygen_bits:2048", "RSA for RSASSA-PSS alone"),
        (&curve("P-224"), "ECDSA on the curve P-224"),
        (&curve("P-521"), "ECDSA on the curve P-521"),
        (&curve("secp256k1"), "ECDSA on the curve secp256k1"),
        (&curve("brainpoolP256r1"), "ECDSA on the curve brainpoolP256r1"),
        (&curve("brainpoolP384r1"), "ECDSA on the curve 1.3.36.3.3.2.8.1.1.11"),
        (
            &(curve("P-256") + " -pkeyopt ec_param_enc:explicit"),
            "ECDSA with explicit parameters in the place of a curve's name",
        ),
        ("-algorithm ED448", "Ed448"),
        ("-algorithm X25519", "X25519, which cannot sign"),
        ("-paramfile dsa", "DSA"),
    ] {
        assert_eq!(said(usable(&public(words))), is(found));
    }
    for (bits, exponent, fault) in [
        (2048, &[1, 0, 1][..], None),
        (3072, &[1, 0, 1], None),
        (4096, &[1, 0, 1], None),
        (2047, &[1, 0, 1], Some("RSA with 2047 bits")),
        (2049, &[1, 0, 1], Some("RSA with 2049 bits")),
        (8192, &[1, 0, 1], Some("RSA with 8192 bits")),
        (16384, &[1, 0, 1], Some("RSA with 16384 bits")),
        (2048, &[3], Some("RSA with an unusual exponent (65537 is usual)")),
        (2048, &[0x02, 0, 0, 0, 1], Some("RSA with an unusual exponent (65537 is usual)")),
        (2048, &[0x7f, 0xff], Some("RSA with an unusual exponent (65537 is usual)")),
    ] {
        let found = usable(&rsa_key(bits, exponent)).err().map(|error| error.to_string());
        assert_eq!(found, fault.map(is));
    }
    // ring, with which the client signs, says the same.
    for (words, is_usable) in [
        (RSA, true),
        ("-algorithm RSA -pkeyopt rsa_keygen_bits:3072", true),
        ("-algorithm RSA -pkeyopt rsa_keygen_bits:2560", false),
        (&format!("{RSA} -pkeyopt rsa_keygen_pubexp:3"), false),
    ] {
        assert_eq!(usable(&public(words)).is_ok(), is_usable, "{words}");
        folder.openssl("pkcs8 -topk8 -nocrypt -in any.key -outform DER -out any.der");
        assert_eq!(rsa::KeyPair::from_pkcs8(&folder.read("any.der")).is_ok(), is_usable, "{words}");
    }
    let whole = public(P256);
    folder.openssl("ec -in any.key -conv_form compressed -pubout -outform DER -out any.pub");
    assert_eq!(said(usable(&folder.read("any.pub"))), is("ECDSA with a compressed or damaged point"));
    for damaged in [&b""[..], b"\x30\x00", &whole[..80]] {
        assert!(said(usable(damaged)).starts_with("it is damaged: "));
    }
}

#[test]
fn openssl_takes_our_keys_and_requests() {
    let folder = Folder::new();
    let key = NewKey::generate().unwrap();
    folder.write("our.key", key.pem());
    assert!(folder.openssl("pkey -in our.key -check -noout").contains("Key is valid"));
    assert_eq!(folder.openssl("pkey -in our.key -pubout"), pem("PUBLIC KEY", &key.public_key()));
    usable(&key.public_key()).unwrap();
    assert_ne!(NewKey::generate().unwrap().public_key(), key.public_key());

    let pkcs8 = keyfile::items(key.pem().as_bytes()).unwrap().remove(0).bytes;
    assert_eq!(NewKey::read(&pkcs8).unwrap().public_key(), key.public_key());
    // DER of genpkey is SEC 1.
    folder.openssl(&format!("genpkey {P256} -outform DER -out its.sec1"));
    folder.openssl("pkey -in its.sec1 -pubout -outform DER -out its.pub");
    folder.openssl("pkcs8 -topk8 -nocrypt -in its.sec1 -outform DER -out its.key");
    assert_eq!(NewKey::read(&folder.read("its.key")).unwrap().public_key(), folder.read("its.pub"));
    for other in [&b""[..], &pkcs8[..100], &key.public_key(), &folder.read("its.sec1")] {
        assert_eq!(
            said(NewKey::read(other)),
            "it is not a P-256 key in PKCS #8 with its public half; openssl pkcs8 -topk8 -nocrypt converts one, and \
             openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 makes one"
        );
    }

    for (name, email) in [
        ("alice@example.com", None),
        ("alice@example.com", Some("alice@example.com")),
        ("Zo\u{eb}, her \"laptop\"", Some("a+b@c")),
    ] {
        let der = key.request(name, email).unwrap();
        folder.write("our.csr", &der);
        let text = folder.openssl("req -in our.csr -inform DER -verify -noout -text");
        assert!(text.contains("Version: 1 (0x0)"), "{text}");
        assert_eq!(text.contains("X509v3 Subject Alternative Name"), email.is_some(), "{text}");
        assert!(email.is_none_or(|email| text.contains(&format!("email:{email}\n"))), "{text}");
        for bytes in [der.clone(), pem("CERTIFICATE REQUEST", &der).into_bytes()] {
            let request = Request::read(&bytes).unwrap();
            assert_eq!((&request.der, &request.public_key), (&der, &key.public_key()));
            assert_eq!(request.common_names, [name]);
            assert_eq!(request.emails, Vec::from_iter(email));
            assert_eq!(request.subject, name_of(&[(CN, UTF8, name.as_bytes())]));
        }
    }
    for (name, email) in [("", None), ("x", Some("")), ("x", Some("zo\u{eb}@example.com"))] {
        let fault = said(key.request(name, email));
        assert!(
            fault.ends_with(
                " cannot stand in a request: a name must not be empty, and an email must be ASCII"
            )
        );
    }
}

#[test]
fn requests_of_others_are_read() {
    let folder = Folder::new();
    folder.openssl(&format!("genpkey {P256} -out any.key"));
    let make = |words: &str| {
        folder.openssl(&format!("req -new -key any.key -out any.csr {words}"));
        Request::read(&folder.read("any.csr"))
    };
    let empty = make("-subj /").unwrap();
    assert_eq!((empty.common_names.len(), empty.emails.len()), (0, 0));
    let two = make("-subj /CN=a/O=x/CN=b -addext subjectAltName=email:a@b,DNS:c,email:d@e").unwrap();
    assert_eq!(two.common_names, ["a", "b"]);
    assert_eq!(two.emails, ["a@b", "d@e"]);
    // A password is an attribute, too.
    let attributes = "attributes=more\nprompt=no\n[dn]\nCN=a\n[more]\nchallengePassword=secret\n";
    folder.write("cnf", format!("[req]\ndistinguished_name=dn\n{attributes}"));
    assert_eq!(make("-addext subjectAltName=email:a@b").unwrap().emails, ["a@b"]);

    for (key, fault) in [
        (RSA, ""),
        (P384, ""),
        ("-algorithm ED25519", ""),
        ("-algorithm RSA -pkeyopt rsa_keygen_bits:1024", "its key is RSA with 1024 bits; "),
        ("-algorithm ED448", "its key is Ed448; "),
    ] {
        folder.openssl(&format!("genpkey {key} -out any.key"));
        let found = make("").err().map(|error| error.to_string()).unwrap_or_default();
        assert!(found.starts_with(fault) && found.is_empty() == fault.is_empty(), "{key}: {found}");
    }

    // Somebody put another's key into it.
    let [one, other] = [(); 2].map(|()| NewKey::generate().unwrap());
    let der = one.request("a", Some("a@b")).unwrap();
    let at = der.windows(91).position(|part| one.public_key() == part).unwrap();
    let stolen = [&der[..at], &other.public_key(), &der[at + 91..]].concat();
    assert_eq!(
        said(Request::read(&stolen)),
        "its signature does not verify; it was changed, or another key signed it"
    );
    for at in 0..der.len() {
        let mut changed = der.clone();
        changed[at] ^= 1;
        assert!(Request::read(&changed).is_err(), "{at}");
    }

    let text = pem("CERTIFICATE REQUEST", &der);
    for (file, fault) in [
        ("", "it holds neither PEM (RFC 7468) nor DER, and a certificate request is needed"),
        (&one.pem(), "it holds a private key, and a certificate request is needed"),
        (&text.repeat(2), "it holds 2 certificate requests; one file must hold exactly one"),
        (
            &text[..60],
            "it is damaged: its -----BEGIN CERTIFICATE REQUEST----- has no -----END CERTIFICATE REQUEST-----",
        ),
    ] {
        assert_eq!(said(Request::read(file.as_bytes())), fault);
    }
}

/// openssl makes most of these for nobody.
#[test]
fn one_attribute_asks_for_extensions() {
    let names =
        |email: &[u8]| part(SEQUENCE, &[&extension(17, false, &part(SEQUENCE, &[&part(0x81, &[email])]))]);
    let attribute =
        |kind: &[u8], values: &[&[u8]]| part(SEQUENCE, &[&part(OID, &[kind]), &part(SET, values)]);
    let pkcs9: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x0e];
    let microsoft: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x02, 0x01, 0x0e];
    let (a, c) = (names(b"a@b"), names(b"c@d"));
    for (attributes, emails) in [
        (vec![], Ok(&[][..])),
        (vec![attribute(pkcs9, &[&a])], Ok(&["a@b"])),
        (vec![attribute(microsoft, &[&a])], Ok(&["a@b"])),
        (vec![attribute(pkcs9, &[])], Ok(&[])),
        (vec![attribute(&[0x2a, 3], &[b"\x05\x00"]), attribute(pkcs9, &[&c])], Ok(&["c@d"])),
        (vec![attribute(pkcs9, &[&a, &c])], Err(())),
        (vec![attribute(pkcs9, &[&a]), attribute(microsoft, &[&c])], Err(())),
    ] {
        match (request::emails(&attributes.concat()), emails) {
            (Ok(found), Ok(emails)) => assert_eq!(found, emails),
            (found, emails) => {
                emails.unwrap_err();
                let fault =
                    "it is damaged: the extension id-ExtensionReq (1.2.840.113549.1.9.14) stands in it twice";
                assert_eq!(said(found), fault);
            }
        }
    }
}
