//! openssl(1) makes them, and says the same about them as this room does.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs, process};

use ring::rsa;

use super::parts::{BITS, INTEGER, OCTETS, OID, SEQUENCE, SET, TIME, UTC, UTF8, element};
use super::*;

const P256: &str = "-algorithm EC -pkeyopt ec_paramgen_curve:P-256";
const P384: &str = "-algorithm EC -pkeyopt ec_paramgen_curve:P-384";
const RSA: &str = "-algorithm RSA -pkeyopt rsa_keygen_bits:2048";
const AUTHORITY: &str = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n";

/// openssl works in it; it goes with its owner.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("rollcall-x509-{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = Self(env::temp_dir().join(name));
        fs::create_dir(&folder.0).unwrap();
        folder.write("cnf", "[req]\ndistinguished_name=dn\n[dn]\n");
        folder
    }

    fn write(&self, name: &str, contents: impl AsRef<[u8]>) {
        fs::write(self.0.join(name), contents).unwrap();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.0.join(name)).unwrap()
    }

    /// Runs it with these words.
    fn try_openssl(&self, words: &str) -> Output {
        let mut command = Command::new("openssl");
        command.args(words.split_ascii_whitespace()).env("OPENSSL_CONF", "cnf").current_dir(&self.0);
        command.output().unwrap()
    }

    #[track_caller]
    fn openssl(&self, words: &str) -> String {
        let output = self.try_openssl(words);
        assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Makes NAME.key and NAME.crt, which the key of ISSUER signs: another's, or its own.
    fn certificate(
        &self,
        name: &str,
        issuer: &str,
        key: &str,
        subject: &str,
        extensions: &str,
    ) -> Certificate {
        self.openssl(&format!("genpkey {key} -out {name}.key"));
        self.sign(name, issuer, subject, extensions, "-days 1")
    }

    /// The same of an existing key.
    fn sign(&self, name: &str, issuer: &str, subject: &str, extensions: &str, options: &str) -> Certificate {
        self.write("ext", extensions);
        self.openssl(&format!("req -new -utf8 -key {name}.key -subj {subject} -out {name}.csr"));
        let by = match name == issuer {
            true => format!("-key {name}.key"),
            false => format!("-CA {issuer}.crt -CAkey {issuer}.key"),
        };
        self.openssl(&format!("x509 -req -in {name}.csr {by} -extfile ext {options} -out {name}.crt"));
        self.one(name)
    }

    fn one(&self, name: &str) -> Certificate {
        let mut all = certificates(&self.read(&format!("{name}.crt"))).unwrap();
        assert_eq!(all.len(), 1);
        all.remove(0)
    }

    /// One fact about the certificate, as openssl prints it.
    fn shown(&self, der: &[u8], option: &str) -> String {
        self.write("shown.der", der);
        let line = self.openssl(&format!("x509 -inform DER -in shown.der -noout {option}"));
        line.split_once('=').unwrap().1.trim_end_matches('\n').to_owned()
    }

    /// A CRL of the authority, with these words of openssl-ca(1) and lines of its configuration.
    fn crl(&self, authority: &str, words: &str, lines: &str) -> Crl {
        self.write(
            "ca.cnf",
            format!("[ca]\ndefault_ca=ca\n[ca]\ndatabase=index\ndefault_md=sha256\n{lines}"),
        );
        let by = format!("-keyfile {authority}.key -cert {authority}.crt");
        self.openssl(&format!("ca -gencrl -config ca.cnf {by} {words} -out crl"));
        let mut all = crls(&self.read("crl")).unwrap();
        assert_eq!(all.len(), 1);
        all.remove(0)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[track_caller]
fn said<T>(result: Result<T, Error>) -> String {
    result.err().unwrap().to_string()
}

fn part(tag: u8, contents: &[&[u8]]) -> Vec<u8> {
    element(tag, contents).unwrap()
}

const CN: &[u8] = &[0x06, 0x03, 0x55, 0x04, 0x03];
const ED25519: &[u8] = &[0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70];

/// The DER of a type, and the tag and bytes of its value.
type Pair<'a> = (&'a [u8], u8, &'a [u8]);

/// A name of one set for each pair.
fn name_of(pairs: &[Pair<'_>]) -> Vec<u8> {
    let set = |(kind, tag, value): &Pair<'_>| part(SET, &[&part(SEQUENCE, &[kind, &part(*tag, &[value])])]);
    part(SEQUENCE, &[&pairs.iter().flat_map(set).collect::<Vec<_>>()])
}

/// The extension `2.5.29.number`.
fn extension(number: u8, is_critical: bool, value: &[u8]) -> Vec<u8> {
    let critical: &[u8] = if is_critical { &[0x01, 0x01, 0xff] } else { &[] };
    part(SEQUENCE, &[&[0x06, 0x03, 0x55, 0x1d, number], critical, &part(OCTETS, &[value])])
}

fn time_of(text: &str) -> Vec<u8> {
    part(if text.len() == 13 { UTC } else { TIME }, &[text.as_bytes()])
}

/// A certificate that nobody signed.
fn unsigned(serial: &[u8], subject: &[u8], [begin, end]: [&str; 2], extensions: &[&[u8]]) -> Vec<u8> {
    let contents = part(
        SEQUENCE,
        &[
            &[0xa0, 0x03, 0x02, 0x01, 0x02],
            &part(INTEGER, &[serial]),
            ED25519,
            &name_of(&[(CN, UTF8, b"nobody")]),
            &part(SEQUENCE, &[&time_of(begin), &time_of(end)]),
            subject,
            &part(SEQUENCE, &[ED25519, &part(BITS, &[&[0; 33]])]),
            &part(0xa3, &[&part(SEQUENCE, extensions)]),
        ],
    );
    part(SEQUENCE, &[&contents, ED25519, &part(BITS, &[&[0; 65]])])
}

const DAY: [&str; 2] = ["270101000000Z", "270102000000Z"];

fn with_names(names: &[u8]) -> Certificate {
    let names = extension(17, false, &part(SEQUENCE, &[names]));
    Certificate::read(&unsigned(&[1], &name_of(&[]), DAY, &[&names])).unwrap()
}

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

#[test]
fn certificates_of_usual_authorities_are_read() {
    let folder = Folder::new();
    let check = |certificate: &Certificate, name: &str, authority: &Certificate| {
        let der = &certificate.der;
        assert_eq!(certificate.serial, folder.shown(der, "-serial"));
        let fingerprint = folder.shown(der, "-fingerprint -sha1").replace(':', "").to_lowercase();
        assert_eq!(certificate.fingerprint, fingerprint);
        assert_eq!(certificate.issuer_text, folder.shown(der, "-issuer -nameopt RFC2253,-esc_msb"));
        assert_eq!(certificate.issuer, authority.subject);
        let public = folder.openssl(&format!("x509 -in {name}.crt -noout -pubkey"));
        assert_eq!(pem("PUBLIC KEY", &certificate.public_key), public);
        assert_eq!(pem("CERTIFICATE", der).into_bytes(), folder.read(&format!("{name}.crt")));
        usable(&certificate.public_key).unwrap();
        certificate.is_signed_by(authority).unwrap();
    };

    // step-ca: P-256, an intermediate, 24 hours, an extension of its own.
    let root = folder.certificate("root", "root", P256, "/O=Home/CN=Home-Root-CA", AUTHORITY);
    let between = "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\n";
    let between = folder.certificate("between", "root", P256, "/O=Home/CN=Home-Intermediate-CA", between);
    let leaf = "keyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\n\
        subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n\
        subjectAltName=email:alice@example.com,DNS:laptop.example.com,IP:192.0.2.7\n\
        1.3.6.1.4.1.37476.9000.64.1=DER:30:06:02:01:01:04:01:61\n";
    let leaf = folder.certificate("leaf", "between", P256, "/CN=alice@example.com", leaf);
    check(&root, "root", &root);
    check(&between, "between", &root);
    check(&leaf, "leaf", &between);
    assert_eq!((&leaf.common_names[..], &leaf.emails[..]), (&leaf.emails[..], &leaf.common_names[..]));
    assert_eq!(leaf.emails, ["alice@example.com"]);
    assert_eq!(leaf.hosts, ["DNS:laptop.example.com", "IP:192.0.2.7"]);
    assert_eq!(leaf.not_after - leaf.not_before, 24 * 60 * 60);
    assert!(leaf.for_clients && leaf.for_servers && !leaf.is_authority && !leaf.signs_crls);
    assert!(between.is_authority && between.signs_crls && !between.for_clients && !between.for_servers);
    assert!(root.is_self_signed() && !between.is_self_signed() && !leaf.is_self_signed());
    assert!(leaf.is_signed_by(&root).is_err());

    // easy-rsa: RSA 2048, a key identifier that names issuer and serial.
    let authority =
        format!("{AUTHORITY}subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid,issuer:always\n");
    let authority = folder.certificate("easy", "easy", RSA, "/CN=Easy-RSA-CA", &authority);
    let leaf = "basicConstraints=CA:FALSE\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid,issuer:always\n\
        extendedKeyUsage=clientAuth\nkeyUsage=digitalSignature\n";
    let leaf = folder.certificate("client1", "easy", RSA, "/CN=client1", leaf);
    check(&authority, "easy", &authority);
    check(&leaf, "client1", &authority);
    assert_eq!((leaf.subject_text.as_str(), leaf.emails.len()), ("CN=client1", 0));
    assert!(leaf.for_clients && !leaf.for_servers && !leaf.is_authority);

    // Active Directory: the person's place in the directory, a UPN, an email, a template.
    let authority = folder.certificate("ad", "ad", RSA, "/DC=example/DC=corp/CN=corp-CA", AUTHORITY);
    let leaf = "keyUsage=critical,digitalSignature,keyEncipherment\n\
        extendedKeyUsage=1.3.6.1.4.1.311.10.3.4,emailProtection,clientAuth\n\
        1.3.6.1.4.1.311.21.7=DER:30:0d:06:08:2b:06:01:04:01:82:37:15:02:01:64\n\
        subjectAltName=otherName:1.3.6.1.4.1.311.20.2.3;UTF8:alice@corp.example,email:Alice@corp.example\n\
        crlDistributionPoints=URI:ldap:///CN=corp-CA\n";
    let leaf = folder.certificate("alice", "ad", RSA, "/DC=example/DC=corp/CN=Users/CN=Alice", leaf);
    check(&leaf, "alice", &authority);
    assert_eq!(leaf.subject_text, "CN=Alice,CN=Users,DC=corp,DC=example");
    assert_eq!(leaf.common_names, ["Users", "Alice"]);
    assert_eq!(leaf.emails, ["Alice@corp.example"]);
    assert!(leaf.for_clients && !leaf.for_servers);

    // Several in one file, and things that are no certificate.
    let all = ["leaf.crt", "leaf.key", "between.crt", "root.crt"].map(|name| folder.read(name)).concat();
    assert_eq!(certificates(&all).unwrap(), [folder.one("leaf"), between.clone(), root.clone()]);
    assert_eq!(certificates(&[&root.der[..], &between.der].concat()).unwrap(), [root, between]);
    assert_eq!(certificates(b"").unwrap(), []);
    assert_eq!(certificates(&folder.read("leaf.key")).unwrap(), []);
    assert!(certificates(&[all, pem("CERTIFICATE", b"\x30\x00").into_bytes()].concat()).is_err());
}

#[test]
fn the_uses_are_those_of_openssl() {
    let folder = Folder::new();
    let authority = folder.certificate("ca", "ca", P256, "/CN=ca", AUTHORITY);
    assert!(authority.is_authority && authority.signs_crls);
    folder.openssl(&format!("genpkey {P256} -out leaf.key"));
    for (extensions, for_clients, for_servers) in [
        ("", true, true),
        ("keyUsage=digitalSignature", true, true),
        ("keyUsage=keyEncipherment,digitalSignature\nextendedKeyUsage=clientAuth", true, false),
        ("extendedKeyUsage=serverAuth", false, true),
        ("extendedKeyUsage=emailProtection,clientAuth,serverAuth", true, true),
        ("extendedKeyUsage=emailProtection", false, false),
        ("extendedKeyUsage=anyExtendedKeyUsage", false, false),
        ("keyUsage=nonRepudiation", false, false),
        ("keyUsage=keyCertSign\nextendedKeyUsage=clientAuth", false, false),
    ] {
        let leaf = folder.sign("leaf", "ca", "/CN=leaf", extensions, "-days 1");
        assert_eq!((leaf.for_clients, leaf.for_servers), (for_clients, for_servers), "{extensions}");
        for (purpose, is_for) in [("sslclient", for_clients), ("sslserver", for_servers)] {
            let verified = folder.try_openssl(&format!("verify -CAfile ca.crt -purpose {purpose} leaf.crt"));
            assert_eq!(verified.status.success(), is_for, "{extensions} {purpose}");
        }
    }
    for (extensions, is_authority, signs_crls) in [
        ("", false, false),
        ("basicConstraints=CA:FALSE\nkeyUsage=keyCertSign", false, false),
        ("basicConstraints=CA:TRUE", true, true),
        ("basicConstraints=CA:TRUE,pathlen:3\nkeyUsage=keyCertSign", true, false),
        ("basicConstraints=CA:TRUE\nkeyUsage=cRLSign", false, true),
        ("basicConstraints=CA:TRUE\nkeyUsage=digitalSignature", false, false),
    ] {
        let leaf = folder.sign("leaf", "ca", "/CN=leaf", extensions, "-days 1");
        assert_eq!((leaf.is_authority, leaf.signs_crls), (is_authority, signs_crls), "{extensions}");
    }
    // Version 1 has no extension.
    folder.openssl("x509 -req -in leaf.csr -CA ca.crt -CAkey ca.key -out leaf.crt");
    let leaf = folder.one("leaf");
    assert!(leaf.for_clients && leaf.for_servers && !leaf.is_authority);
}

#[test]
fn signatures_of_each_algorithm_verify() {
    let folder = Folder::new();
    let pss = |hash, salt| format!("-{hash} -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:{salt}");
    let rsa_3 = format!("{RSA} -pkeyopt rsa_keygen_pubexp:3");
    let rsa_1024 = "-algorithm RSA -pkeyopt rsa_keygen_bits:1024";
    let p521 = "-algorithm EC -pkeyopt ec_paramgen_curve:P-521";
    let algorithm = "its signature is of the algorithm ";
    for (key, options, fault) in [
        (RSA, "-sha256", ""),
        (RSA, "-sha384", ""),
        (RSA, "-sha512", ""),
        (&rsa_3, "-sha256", ""),
        (RSA, &pss("sha256", 32), ""),
        (RSA, &pss("sha384", 48), ""),
        (RSA, &pss("sha512", 64), ""),
        (P256, "-sha256", ""),
        (P256, "-sha384", ""),
        (P384, "-sha256", ""),
        (P384, "-sha384", ""),
        ("-algorithm ED25519", "", ""),
        (RSA, "-sha1", &format!("{algorithm}sha1WithRSAEncryption (1.2.840.113549.1.1.5); ")),
        (RSA, &pss("sha256", 20), &format!("{algorithm}id-RSASSA-PSS (1.2.840.113549.1.1.10); ")),
        (P256, "-sha512", &format!("{algorithm}ecdsa-with-SHA512 (1.2.840.10045.4.3.4); ")),
        ("-algorithm ED448", "", "the key of its issuer is Ed448; "),
        (rsa_1024, "-sha256", "the key of its issuer is RSA with 1024 bits; "),
        (p521, "-sha256", "the key of its issuer is ECDSA on the curve P-521; "),
    ] {
        folder.openssl(&format!("genpkey {key} -out ca.key"));
        let root = folder.sign("ca", "ca", "/CN=ca", AUTHORITY, &format!("-days 1 {options}"));
        let found = root.is_signed_by(&root).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(found.starts_with(fault) && found.is_empty() == fault.is_empty(), "{key} {options}: {found}");
        assert_eq!(root.is_self_signed(), fault.is_empty(), "{key} {options}");
    }
}

#[test]
fn only_the_issuer_is_the_issuer() {
    let folder = Folder::new();
    let authority = folder.certificate("ca", "ca", P256, "/CN=ca", AUTHORITY);
    let leaf = folder.certificate("leaf", "ca", P256, "/CN=leaf", "basicConstraints=CA:FALSE");
    let namesake = folder.certificate("namesake", "namesake", P256, "/CN=ca", AUTHORITY);
    let other = folder.certificate("other", "other", P256, "/CN=other", AUTHORITY);
    let modest = folder.sign("ca", "ca", "/CN=ca", "basicConstraints=CA:FALSE", "-days 1");
    leaf.is_signed_by(&authority).unwrap();
    for (authority, fault) in [
        (&namesake, "its signature does not verify; it was changed, or another key signed it"),
        (&other, "its issuer is CN=ca, and not CN=other; take the certificate of that issuer"),
        (&modest, "CN=ca is no authority: its certificate lacks CA:TRUE, or the key usage that this needs"),
    ] {
        assert_eq!(said(leaf.is_signed_by(authority)), fault);
    }
    for at in 0..leaf.der.len() {
        let mut changed = leaf.der.clone();
        changed[at] ^= 1;
        let verified = Certificate::read(&changed).and_then(|changed| changed.is_signed_by(&authority));
        assert!(verified.is_err(), "{at}");
    }
}

fn rsa_key(bits: usize, exponent: &[u8]) -> Vec<u8> {
    let mut modulus = vec![0xff; bits.div_ceil(8)];
    modulus[0] >>= modulus.len() * 8 - bits;
    if modulus[0] >= 0x80 {
        modulus.insert(0, 0);
    }
    let numbers = part(SEQUENCE, &[&part(INTEGER, &[&modulus]), &part(INTEGER, &[exponent])]);
    let algorithm = part(OID, &[&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01]]);
    let algorithm = part(SEQUENCE, &[&algorithm, &[0x05, 0x00]]);
    part(SEQUENCE, &[&algorithm, &part(BITS, &[&[0], &numbers])])
}

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

#[test]
fn no_truncated_or_changed_one_panics() {
    let folder = Folder::new();
    let extensions = format!(
        "{AUTHORITY}extendedKeyUsage=clientAuth\nsubjectAltName=email:a@b,DNS:c,IP:::1,otherName:1.2;UTF8:d\n"
    );
    let authority = folder.certificate("ca", "ca", P256, "/DC=b/CN=ca", &extensions);
    folder.write("number", "01");
    folder.write("index", "R\t301231235959Z\t270102000000Z,keyCompromise\tA0FF\tunknown\t/CN=b\n");
    let crl = folder.crl("ca", "-crldays 3", "crlnumber=number\n");
    let key = NewKey::generate().unwrap();
    let request = key.request("a@b", Some("a@b")).unwrap();
    let pkcs8 = keyfile::items(key.pem().as_bytes()).unwrap().remove(0).bytes;
    let try_all = |bytes: &[u8]| {
        let _ = Certificate::read(bytes)
            .map(|it| (it.is_signed_by(&authority).is_ok(), usable(&it.public_key).is_ok()));
        let _ = Crl::read(bytes).map(|it| it.is_signed_by(&authority).is_ok());
        let _ = (Request::read(bytes).is_ok(), NewKey::read(bytes).is_ok(), usable(bytes).is_ok());
        let _ = (certificates(bytes).is_ok(), crls(bytes).is_ok());
    };
    for whole in
        [&authority.der, &crl.der, &request, &pkcs8, &authority.public_key, &rsa_key(2048, &[1, 0, 1])]
    {
        for at in 0..whole.len() {
            try_all(&whole[..at]);
            assert!(Certificate::read(&whole[..at]).is_err() && Crl::read(&whole[..at]).is_err(), "{at}");
            for bit in 0..8 {
                let mut changed = whole.clone();
                changed[at] ^= 1 << bit;
                try_all(&changed);
            }
            for byte in [0x00, 0x7f, 0x80, 0xff] {
                let mut changed = whole.clone();
                changed[at] = byte;
                try_all(&changed);
            }
        }
    }
}
