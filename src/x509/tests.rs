//! openssl(1) makes them, and says the same about them as this room does.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs, process};

use ring::rsa;

use super::parts::{BITS, INTEGER, OCTETS, OID, SEQUENCE, SET, TIME, UTC, UTF8, element};
use super::*;

mod crls;
mod keys;
mod values;

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
    assert!(root.is_signed_by(&root).is_ok() && between.is_signed_by(&between).is_err());
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
