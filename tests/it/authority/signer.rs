//! Who signs, and of which keys: a signer that lies, keys that a door refuses, a clock that is behind.

use std::fs;

use super::{MINUTE, admin, beats, is_refused, openssl};
use crate::stack::{Stack, date, expect, text};

#[test]
fn a_signer_that_lies_replaces_nothing() {
    let stack = Stack::up();
    admin(&stack, &["enrol", "a@example.com", "--name", "a"], 0, "enrolled");
    let pair = ["a.crt", "a.key"].map(|file| fs::read(stack.certs.join(file)).unwrap());
    openssl(
        &stack,
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout /dev/null -subj /CN=a@example.com -days 9 -out lie.crt",
    );
    let ca = concat!(env!("CARGO_MANIFEST_DIR"), "/certs/ca sign");
    let own = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout /dev/null -subj /CN=x 2>/dev/null";
    for (command, said) in [
        ("true".to_owned(), "it printed no certificate"),
        ("echo rubbish".to_owned(), "it printed no certificate"),
        ("yes".to_owned(), "more than 65536 bytes"),
        ("exit 3".to_owned(), "exit status: 3"),
        ("cat lie.crt".to_owned(), "it printed a certificate of another key"),
        (own.to_owned(), "it printed a certificate of another key"),
        ("cat a.crt".to_owned(), "it printed a certificate of another key"),
        (
            format!("ROLLCALL_SIGN_CN=b@example.com {ca}"),
            "its names are [\"b@example.com\"], and \"a@example.com\" was asked for",
        ),
        (
            format!("ROLLCALL_SIGN_SAN=email:b@example.com {ca}"),
            "it names [\"b@example.com\"] beside a@example.com",
        ),
        (format!("ROLLCALL_SIGN_UNTIL=20991231235959Z {ca}"), "it lives for longer than was asked"),
        (
            format!("ROLLCALL_SIGN_FROM=20990101000000Z ROLLCALL_SIGN_UNTIL=20991231235959Z {ca}"),
            "it is not valid now",
        ),
        (format!("ROLLCALL_SIGN_USAGE=serverAuth {ca}"), "its extensions do not make it one for clientAuth"),
        (format!("{ca} | head -c 300"), "it is damaged"),
    ] {
        let mut renew = stack.administer(&["renew", "a"]);
        expect(renew.env("ROLLCALL_SIGN", &command), 1, said);
        let mut enrol = stack.administer(&["enrol", "new@example.com"]);
        let failed = enrol.env("ROLLCALL_SIGN", &command).output().unwrap();
        assert_eq!(failed.status.code(), Some(1), "{command}: {}", text(&failed));
        let after = ["a.crt", "a.key"].map(|file| fs::read(stack.certs.join(file)).unwrap());
        assert!(after == pair, "{command}");
    }
    assert_eq!(stack.sql("select count(*) from users where email = 'new@example.com'"), "0");
    assert_eq!(stack.sql("select count(*) from certificates where device = 'a'"), "1");
    // One of one's own that is honest, with a chain, and without our key.
    fs::rename(stack.certs.join("ca.key"), stack.certs.join("elsewhere.key")).unwrap();
    let mut renew = stack.administer(&["renew", "a"]);
    let honest = format!("ROLLCALL_SIGN_KEY=elsewhere.key {ca}; cat ca.crt");
    expect(renew.env("ROLLCALL_SIGN", honest), 0, "a.crt renewed");
    beats(&stack, "a");
}

#[test]
fn only_keys_that_every_door_takes_are_signed() {
    let stack = Stack::up();
    for (i, (key, taken)) in [
        ("rsa:2048", true),
        ("rsa:3072", true),
        ("rsa:4096", true),
        ("ec -pkeyopt ec_paramgen_curve:P-256", true),
        ("ec -pkeyopt ec_paramgen_curve:P-384", true),
        ("ed25519", true),
        ("rsa:512", false),
        ("rsa:1024", false),
        ("ec -pkeyopt ec_paramgen_curve:P-224", false),
        ("ec -pkeyopt ec_paramgen_curve:P-521", false),
        ("ec -pkeyopt ec_paramgen_curve:secp256k1", false),
        ("ec -pkeyopt ec_paramgen_curve:brainpoolP256r1", false),
        ("ec -pkeyopt ec_paramgen_curve:P-256 -pkeyopt ec_param_enc:explicit", false),
        ("ed448", false),
        ("rsa-pss -pkeyopt rsa_keygen_bits:2048", false),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("key{i}");
        openssl(
            &stack,
            &format!("openssl req -new -newkey {key} -nodes -subj / -keyout {name}.key -out {name}.csr"),
        );
        let csr = stack.certs.join(format!("{name}.csr")).display().to_string();
        let enrol = ["enrol", &format!("{name}@example.com"), "--name", &name, "--csr", &csr];
        match taken {
            true => {
                admin(&stack, &enrol, 0, "made");
                for version in ["1.2", "1.3"] {
                    let options = [&format!("--tlsv{version}"), "--tls-max", version];
                    assert_eq!(
                        stack.curl(Some(&stack.pair(&name)), &options).status,
                        204,
                        "{key} over TLS {version}"
                    );
                }
                beats(&stack, &name);
            }
            false => admin(&stack, &enrol, 1, "rollcall takes"),
        }
    }
    // None of those that were refused left a row behind.
    assert_eq!(stack.sql("select count(*) from users where email like 'key%'"), "6");
}

#[test]
fn nothing_that_is_made_now_is_too_early_for_a_clock_that_is_behind() {
    let stack = Stack::up();
    admin(&stack, &["enrol", "a@example.com", "--name", "a"], 0, "enrolled");
    openssl(
        &stack,
        "test $(($(date +%s) - $(date -d \"$(openssl x509 -in a.crt -noout -startdate | cut -d = -f 2)\" +%s))) -gt 280",
    );
    openssl(
        &stack,
        "test $(($(date +%s) - $(date -d \"$(openssl crl -in crl.pem -noout -lastupdate | cut -d = -f 2)\" +%s))) -gt 280",
    );
    // A list from a clock that was ahead is told of, and made anew.
    let list =
        stack.tool("certs/ca").arg("crl").env("ROLLCALL_SIGN_FROM", date(10 * MINUTE)).output().unwrap();
    for file in [stack.certs.join("crl.pem"), stack.state.join("nginx/crl.pem")] {
        fs::write(file, &list.stdout).unwrap();
    }
    expect(&mut stack.tool("stack/reload"), 0, "");
    is_refused(&stack, "a", "CRL is not yet valid");
    expect(&mut stack.tool("stack/status"), 1, "does not hold before ");
    admin(&stack, &["crl", "--if-due"], 0, "CRL valid for");
    beats(&stack, "a");
    expect(&mut stack.tool("stack/status"), 0, "");
}

#[test]
fn certificates_of_one_number_are_three_certificates() {
    let stack = Stack::up();
    for name in ["one", "two", "three"] {
        let email = format!("{name}@example.com");
        assert!(stack.admin(&["user", "add", &email]).status.success());
        openssl(
            &stack,
            &format!(
                "openssl req -new -newkey rsa:2048 -nodes -subj /CN={email} -keyout {name}.key |
                openssl x509 -req -CA ca.crt -CAkey ca.key -set_serial 01 -days 9 -extfile <(echo extendedKeyUsage=clientAuth) -out {name}.crt"
            ),
        );
        beats(&stack, name);
    }
    let rows = text(&stack.admin(&["certs", "--json"]));
    let rows: Vec<serde_json::Value> = rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |email: &str| rows.iter().find(|row| row["email"] == email).unwrap();
    let fingerprint = of("two@example.com")["fingerprint"].as_str().unwrap();
    assert_eq!(rows.iter().filter(|row| row["serial"] == "01").count(), 3, "{rows:#?}");
    admin(
        &stack,
        &["revoke", "01"],
        1,
        "several CAs gave the serial number 01: give one of the fingerprints",
    );
    admin(&stack, &["revoke", fingerprint], 0, "01 (two@example.com) revoked");
    // The CRL can only name the number: so nginx refuses all three, which is told.
    let known = stack.sql("select string_agg(email, ' ') from certificates where revoked_at is not null");
    assert_eq!(known, "two@example.com");
    is_refused(&stack, "two", "revoked");
}
