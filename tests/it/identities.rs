//! `ROLLCALL_IDENTITY`: certificates as CAs of others make them, and the person that each mode finds in them.

use crate::stack::{Builder, Ear, Pair, Stack, expect, text};
use std::fs;
use std::path::Path;

const ALICE: &str = "alice@example.com";

/// The result that must come out.
enum Out {
    /// Accepted as this email, and as nobody else.
    Is(&'static str),
    /// Refused with this status by this program; the detail holds this text.
    No(u16, &'static str, &'static str),
}
use Out::{Is, No};

const NGINX: &str = "nginx";
const SERVER: &str = "rollcall-server";
const NOT_ONE_CN: Out = No(400, NGINX, "does not hold exactly one CN");
const NO_EMAIL: Out = No(400, SERVER, "the certificate's rfc822Name is not an email address");
const NO_RFC822_NAME: Out =
    No(400, SERVER, "must hold exactly one email (rfc822Name in its subjectAltName), and holds 0");
const TWO_RFC822_NAMES: Out =
    No(400, SERVER, "must hold exactly one email (rfc822Name in its subjectAltName), and holds 2");
const NOT_REGISTERED: Out = No(403, SERVER, "rollcall-admin enrol EMAIL --cert FILE");

const EC: &[&str] = &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
const RSA: &[&str] = &["-newkey", "rsa:2048"];
const AUTHORITY: &str = "basicConstraints=critical,CA:true\nkeyUsage=critical,keyCertSign,cRLSign\n";
const CLIENT: &str = "basicConstraints=critical,CA:false\nkeyUsage=critical,digitalSignature\n\
                      extendedKeyUsage=clientAuth\n";
/// The name of a person in Active Directory.
const UPN: &str = "otherName:1.3.6.1.4.1.311.20.2.3;UTF8:alice@corp.example";

/// A certificate with the serial number 01, which openssl makes in the folder of the stack.
#[track_caller]
fn made(stack: &Stack, by: Option<&Pair>, key: &[&str], subject: &str, extensions: &str) -> Pair {
    let pair = stack.pair(&format!("made-{}", crate::stack::free_port()));
    let config = pair.cert.with_extension("cnf");
    fs::write(&config, format!("[req]\ndistinguished_name=none\n[none]\n[these]\n{extensions}")).unwrap();
    let mut command = stack.command("openssl");
    command.args([
        "req",
        "-x509",
        "-nodes",
        "-days",
        "2",
        "-utf8",
        "-set_serial",
        "1",
        "-extensions",
        "these",
    ]);
    command.args(key).args(["-subj", subject, "-config"]).arg(config);
    command.arg("-keyout").arg(&pair.key).arg("-out").arg(&pair.cert);
    if let Some(by) = by {
        command.arg("-CA").arg(&by.cert).arg("-CAkey").arg(&by.key);
    }
    expect(&mut command, 0, "");
    pair
}

fn append(file: &Path, other: &Path) {
    fs::write(file, fs::read_to_string(file).unwrap() + &fs::read_to_string(other).unwrap()).unwrap();
}

#[track_caller]
fn enrolled(stack: &Stack, emails: &[&str]) {
    let output = stack.admin(&[&["user", "add"], emails].concat());
    assert!(output.status.success(), "{}", text(&output));
}

#[track_caller]
fn check(stack: &Stack, ear: &Ear, name: &str, pair: &Pair, out: &Out) {
    let answer = stack.curl(Some(pair), &[]);
    match out {
        Is(email) => {
            assert_eq!(answer.status, 204, "{name}: {answer:?}");
            assert_eq!(ear.hear().email.as_str(), *email, "{name}");
        }
        No(status, by, detail) => {
            assert_eq!(answer.status, *status, "{name}: {answer:?}");
            assert!(answer.detail().contains(detail), "{name}: {answer:?}");
            assert!(answer.body.contains(&format!(r#""by":"{by}""#)), "{name}: {answer:?}");
        }
    }
}

fn fingerprint(stack: &Stack, pair: &Pair) -> String {
    let mut command = stack.command("openssl");
    let output = command.args(["x509", "-noout", "-fingerprint", "-sha1", "-in"]).arg(&pair.cert).output();
    let line = text(&output.unwrap());
    line.trim().rsplit('=').next().unwrap().replace(':', "").to_lowercase()
}

#[track_caller]
fn switch(stack: &Stack, identity: &str) {
    let mut up = stack.tool("stack/up");
    expect(up.env("ROLLCALL_IDENTITY", identity), 0, "settings changed: restarting");
    // No header is sent that this mode does not need.
    let conf = stack.log("nginx/nginx.conf");
    let sends = |header: &str| {
        let line = format!("proxy_set_header {header} ");
        conf.lines().any(|sent| sent.trim_start().starts_with(&line))
    };
    let sent = ["X-Subject-CN", "X-Client-Certificate", "X-Client-Fingerprint"].map(sends);
    assert_eq!(sent, [identity == "cn", identity == "san", true], "{identity}");
}

/// One serial number three times, by three CAs whose ways differ.
#[test]
fn certificates_of_three_cas_in_each_mode() {
    let stack = Builder::new().set("ROLLCALL_CA", "external").set("ROLLCALL_IDENTITY", "registered").up();
    let root = |key, subject| made(&stack, None, key, subject, AUTHORITY);
    // Active Directory: the subject is the way to the person in the directory.
    let domain = root(RSA, "/DC=example/DC=corp/CN=corp-CA");
    let names = format!("{CLIENT}subjectAltName={UPN},email:Alice@Example.com\n");
    let directory = made(&stack, Some(&domain), RSA, "/DC=example/DC=corp/CN=Users/CN=Alice", &names);
    // step-ca: an intermediate CA, and a CN that is whatever the person chose.
    let smallstep = root(EC, "/CN=Smallstep Root CA");
    let between = made(&stack, Some(&smallstep), EC, "/CN=Smallstep Intermediate CA", AUTHORITY);
    let names = format!("{CLIENT}subjectAltName=email:{ALICE}\n");
    let step = made(&stack, Some(&between), EC, "/CN=the laptop of Alice", &names);
    append(&step.cert, &between.cert);
    // easy-rsa: a CN, and no other name.
    let easy = root(RSA, "/CN=Easy-RSA CA");
    let easy_rsa = made(&stack, Some(&easy), RSA, &format!("/CN={ALICE}"), CLIENT);
    for authority in [&domain, &smallstep, &easy] {
        append(&stack.certs.join("ca.crt"), &authority.cert);
    }
    expect(&mut stack.tool("stack/up"), 0, "settings changed: reloading");
    let ear = stack.ear();
    let ours = [("directory", &directory), ("step", &step), ("easy-rsa", &easy_rsa)];

    // By the row, which may name anybody.
    let people = ["directory@example.com", "step@example.com", "easy@example.com"];
    enrolled(&stack, &[&people[1..], &[ALICE]].concat());
    for (name, pair) in ours {
        check(&stack, &ear, name, pair, &NOT_REGISTERED);
    }
    // As the refusal says it.
    let file = directory.cert.display().to_string();
    expect(&mut stack.administer(&["enrol", people[0], "--cert", &file]), 0, "");
    for (pair, email) in [(&step, people[1]), (&easy_rsa, people[2])] {
        // The server's role, were it stolen, could write such a row.
        let row = format!("'01', '{email}', '{}', 4000000000", fingerprint(&stack, pair));
        let columns = "insert into certificates (serial_number, email, fingerprint, not_after";
        stack.sql_as("rollcall_server", &stack.database, &format!("{columns}) values ({row})"));
        check(&stack, &ear, email, pair, &NOT_REGISTERED);
        let mut issuer = stack.psql_as("rollcall_server", &stack.database);
        issuer.args(["-c", &format!("{columns}, issuer) values ({row}, 'CN=x')")]);
        expect(&mut issuer, 1, "permission denied for table certificates");
        expect(&mut stack.administer(&["enrol", email, "--cert", &pair.cert.display().to_string()]), 0, "");
    }
    let known = people.map(Is);
    // The second time from memory.
    for _ in 0..2 {
        for ((name, pair), out) in ours.into_iter().zip(&known) {
            check(&stack, &ear, name, pair, out);
        }
    }
    assert_eq!(
        stack.sql(
            "select count(*), count(distinct serial_number) from certificates where serial_number = '01'"
        ),
        "3|1"
    );
    let set_revoked = |pair: &Pair, value: &str| {
        let fingerprint = fingerprint(&stack, pair);
        stack.sql(&format!(
            "update certificates set revoked_at = {value} where fingerprint = '{fingerprint}'"
        ));
    };
    for (_, revoked) in ours {
        set_revoked(revoked, "now()");
        for ((name, pair), out) in ours.into_iter().zip(&known) {
            let is_revoked = std::ptr::eq(pair, revoked);
            check(&stack, &ear, name, pair, if is_revoked { &No(403, SERVER, "is revoked") } else { out });
        }
        set_revoked(revoked, "null");
    }
    stack.admin(&["user", "disable", people[0]]);
    check(&stack, &ear, "disabled", &directory, &No(403, SERVER, "disabled"));

    switch(&stack, "san");
    let outs = [Is(ALICE), Is(ALICE), NO_RFC822_NAME];
    for ((name, pair), out) in ours.into_iter().zip(&outs) {
        check(&stack, &ear, name, pair, out);
    }
    set_revoked(&step, "now()");
    check(&stack, &ear, "step", &step, &No(403, SERVER, "is revoked"));
    check(&stack, &ear, "directory", &directory, &outs[0]);

    switch(&stack, "cn");
    let no_email = No(400, SERVER, "the certificate's CN is not an email address");
    for ((name, pair), out) in ours.into_iter().zip([NOT_ONE_CN, no_email, Is(ALICE)]) {
        check(&stack, &ear, name, pair, &out);
    }
    ear.hears_nothing();
    let mut up = stack.tool("stack/up");
    let mistake = "the setting ROLLCALL_IDENTITY is \"SAN\": it is cn, san or registered";
    expect(up.env("ROLLCALL_IDENTITY", "SAN"), 1, mistake);
}

/// subjectAltName with one rfc822Name of these bytes, as openssl takes it.
fn rfc822_name(bytes: &[u8]) -> String {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("DER:30{:02x}81{:02x}{digits}", bytes.len() + 2, bytes.len())
}

#[test]
fn the_rfc822_name_is_one_plain_email_or_nobody() {
    let stack = Builder::new().set("ROLLCALL_IDENTITY", "san").up();
    enrolled(&stack, &[ALICE, "victim@example.com"]);
    let ear = stack.ear();
    let own = stack.pair("ca");
    for (names, out) in [
        ("email:alice@example.com", Is(ALICE)),
        ("email:ALICE@example.com,DNS:victim.example.com,URI:mailto:victim@example.com", Is(ALICE)),
        (&format!("{UPN},email:alice@example.com"), Is(ALICE)),
        ("email:alice@example.com,email:victim@example.com", TWO_RFC822_NAMES),
        ("email:alice@example.com,email:alice@example.com", TWO_RFC822_NAMES),
        (UPN, NO_RFC822_NAME),
        ("otherName:1.3.6.1.5.5.7.8.9;UTF8:alice@example.com", NO_RFC822_NAME),
        ("DNS:alice@example.com", NO_RFC822_NAME),
        ("URI:mailto:alice@example.com", NO_RFC822_NAME),
        (&rfc822_name(b"alice@example.com\0.evil.example"), NO_EMAIL),
        (&rfc822_name(b"alice@example.com\r\nX-Real-IP: 192.0.2.9"), NO_EMAIL),
        (&rfc822_name(b"alice@example.com\x1b[2J"), NO_EMAIL),
        (&rfc822_name("\u{e1}lice@example.com".as_bytes()), NO_EMAIL),
        (&rfc822_name(b"\xe1lice@example.com"), NO_EMAIL),
        (&rfc822_name(b"Alice <alice@example.com>"), NO_EMAIL),
        (&rfc822_name(b""), NO_EMAIL),
        ("email:nobody@example.com", No(403, SERVER, "this email is not enrolled")),
    ] {
        let extensions = format!("{CLIENT}subjectAltName={names}\n");
        let pair = made(&stack, Some(&own), EC, "/CN=victim@example.com", &extensions);
        check(&stack, &ear, names, &pair, &out);
    }
    let pair = made(&stack, Some(&own), EC, "/CN=victim@example.com", CLIENT);
    check(&stack, &ear, "no subjectAltName", &pair, &NO_RFC822_NAME);
    let named = format!("{CLIENT}subjectAltName=email:{ALICE}\n");
    for subject in ["/", "/O=Example", "/CN=victim@example.com/CN=x", "/CN=#1303", "/CN=jos\u{e9}"] {
        let pair = made(&stack, Some(&own), EC, subject, &named);
        check(&stack, &ear, subject, &pair, &Is(ALICE));
    }
    // The server reads 8 kB of headers.
    for (len, out) in [(3500, Is(ALICE)), (6000, No(400, SERVER, "the certificate is too large"))] {
        let comment = format!("{named}nsComment={}\n", "x".repeat(len));
        let pair = made(&stack, Some(&own), EC, "/CN=x", &comment);
        check(&stack, &ear, "large", &pair, &out);
    }
    // A header of the client's is none of nginx's.
    let forged = ["-H", "X-Client-Certificate: x", "-H", "X-Subject-CN: victim@example.com"];
    let pair = made(&stack, Some(&own), EC, "/CN=x", &named);
    assert_eq!(stack.curl(Some(&pair), &forged).status, 204);
    assert_eq!(ear.hear().email.as_str(), ALICE);
    ear.hears_nothing();
    assert_eq!(stack.row("victim@example.com"), "||");
    let log = stack.log("server/log");
    assert!(!log.contains('\u{1b}') && !log.contains('\r') && !log.contains('\0'), "{log}");
}

#[test]
fn two_certificates_of_one_serial_number_have_a_limit_each() {
    let stack = Builder::new().set("ROLLCALL_RATE", "1").up();
    enrolled(&stack, &[ALICE]);
    let own = stack.pair("ca");
    let [busy, other] = [(); 2].map(|()| made(&stack, Some(&own), EC, &format!("/CN={ALICE}"), CLIENT));
    let statuses: Vec<u16> = (0..10).map(|_| stack.curl(Some(&busy), &[]).status).collect();
    assert!(statuses.contains(&429), "{statuses:?}");
    assert_eq!(stack.curl(Some(&other), &[]).status, 204);
}
