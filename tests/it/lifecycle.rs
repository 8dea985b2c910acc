//! The life of a certificate: enrolled, renewed, listed, revoked.

use crate::stack::{Pair, Stack, date, expect, text, wait_until};
use std::fs;

mod revocation;

/// rollcall-admin with the settings of the stack.
#[track_caller]
fn admin(stack: &Stack, arguments: &[&str], exit: i32, said: &str) {
    let mut command = stack.program("rollcall-admin");
    command.env("DATABASE_URL", stack.database_url()).env("ROLLCALL_P12_PASSWORD", "secret");
    expect(command.args(arguments), exit, said);
}

fn serial(stack: &Stack, pair: &Pair) -> String {
    let mut command = stack.command("openssl");
    let output = command.args(["x509", "-noout", "-serial", "-in"]).arg(&pair.cert).output().unwrap();
    text(&output).trim().strip_prefix("serial=").unwrap().to_owned()
}

#[test]
fn enrolling_is_one_command_and_safe_to_repeat() {
    let stack = Stack::up();
    for _ in 0..2 {
        admin(&stack, &["enrol", "Alice@example.com"], 0, "");
    }
    admin(
        &stack,
        &["enrol", "alice@example.com", "--name", "phone", "--p12"],
        0,
        "phone.p12 made; a system that calls",
    );
    expect(&mut stack.client(&stack.pair("alice@example.com")), 0, "Success!");
    expect(&mut stack.client(&stack.pair("phone")), 0, "Success!");
    assert_eq!(stack.sql("select count(*) from certificates where email = 'alice@example.com'"), "2");
    let mut command = stack.command("openssl");
    command
        .args(["pkcs12", "-info", "-nodes", "-passin", "pass:secret", "-in"])
        .arg(stack.certs.join("phone.p12"));
    expect(&mut command, 0, "BEGIN PRIVATE KEY");

    // A request that asks for another name and for the right to sign: only its key counts.
    let folder = stack.state.join("device");
    fs::create_dir(&folder).unwrap();
    let request = folder.join("device.csr").display().to_string();
    let key = folder.join("device.key");
    let mut command = stack.command("openssl");
    command.args(["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]);
    command.args(["-subj", "/CN=victim@example.com", "-addext", "basicConstraints=critical,CA:true"]);
    command
        .args(["-addext", "subjectAltName=email:victim@example.com", "-out", &request, "-keyout"])
        .arg(&key);
    expect(&mut command, 0, "");
    admin(
        &stack,
        &["enrol", "device@example.com", "--csr", &request, "--name", "device"],
        0,
        "device.crt made",
    );
    let pair = Pair { cert: stack.certs.join("device.crt"), key };
    let ear = stack.ear();
    expect(&mut stack.client(&pair), 0, "Success!");
    assert_eq!(ear.hear().email.as_str(), "device@example.com");
    let mut command = stack.command("openssl");
    let shown = command.args(["x509", "-noout", "-text", "-in"]).arg(&pair.cert).output().unwrap();
    assert!(text(&shown).contains("CA:FALSE") && !text(&shown).contains("victim"), "{}", text(&shown));

    fs::write(folder.join("forged.csr"), "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n").unwrap();
    let forged = folder.join("forged.csr").display().to_string();
    admin(
        &stack,
        &["enrol", "x@example.com", "--csr", &forged],
        1,
        "forged.csr: it is damaged: its -----BEGIN CERTIFICATE REQUEST----- has no -----END",
    );
    admin(
        &stack,
        &["enrol", &format!("{}@example.com", "x".repeat(53))],
        1,
        "a CN holds at most 64 characters",
    );
    admin(&stack, &["enrol", "jos\u{e9}@example.com"], 2, "non-ASCII character at byte 3");
    admin(
        &stack,
        &["enrol", "y@example.com", "--name", "ca"],
        2,
        "the name \"ca\" cannot be a device's: the stack has it",
    );
    // None of those left a row behind.
    assert_eq!(stack.sql("select count(*) from users where email ~ '^(xx|jos|y@)'"), "0");
    admin(&stack, &["enrol", "nobody"], 2, "there is no '@'");
    admin(&stack, &["enrol", "a/x@example.com"], 2, "it cannot be a file name; take another --name");
    admin(&stack, &["enrol", "y@example.com", "--name", "broadcast.next"], 2, "the stack has it");
    admin(&stack, &["enrol"], 2, "Required positional arguments not provided");
}

#[test]
fn certificates_are_listed_with_their_end_and_last_use() {
    let stack = Stack::up();
    stack.member("a@example.com");
    // One that nobody told the server about, which ends tomorrow.
    let pair = stack.certificate_of(&stack.certs, "/CN=a@example.com");
    assert_eq!(stack.curl(Some(&pair), &[]).status, 204);
    let list = text(&stack.admin(&["certs", "--json"]));
    let first: serde_json::Value = serde_json::from_str(list.lines().next().unwrap()).unwrap();
    assert_eq!(first["serial"], serial(&stack, &pair), "the soonest end comes first: {list}");
    assert_eq!((&first["email"], &first["revoked"]), (&"a@example.com".into(), &false.into()));
    assert!(first["last_used"].is_string(), "{list}");
    let expiring = text(&stack.admin(&["certs", "--expiring", "30d"]));
    assert_eq!(expiring.lines().count(), 1, "{expiring}");
    assert!(expiring.contains(&serial(&stack, &pair)));
    let never = text(&stack.admin(&["certs"]));
    assert_eq!(never.matches("never used").count(), 1, "{never}");
}

#[test]
fn renewing_overlaps_and_a_running_client_picks_it_up() {
    let stack = Stack::up();
    admin(&stack, &["enrol", "a@example.com", "--name", "a"], 0, "a.crt made (CN a@example.com)");
    let pair = stack.pair("a");
    let old = Pair { cert: stack.certs.join("old.crt"), key: stack.certs.join("old.key") };
    fs::copy(&pair.cert, &old.cert).unwrap();
    fs::copy(&pair.key, &old.key).unwrap();
    let client = stack.beating(&pair, "100ms");
    wait_until("it beats", || client.out().contains("Success!"));
    admin(&stack, &["renew", "a"], 0, "a.crt renewed (CN a@example.com)");
    wait_until("it has the new one", || client.err().contains("goes on with the new certificate"));
    let new = serial(&stack, &pair);
    assert_ne!(new, serial(&stack, &old));
    wait_until("it used the new one", || {
        stack.sql(&format!("select last_used_ns is not null from certificates where serial_number = '{new}'"))
            == "t"
    });
    expect(&mut stack.client(&old), 0, "Success!");

    // Key and certificate one after the other: in between it keeps the old pair.
    fs::copy(&old.key, &pair.key).unwrap();
    wait_until("it says that they do not fit", || {
        client.err().contains("are not a pair; goes on with the one it has")
    });
    let beats = client.out().matches("Success!").count();
    wait_until("it goes on", || client.out().matches("Success!").count() > beats + 3);
    fs::copy(&old.cert, &pair.cert).unwrap();
    wait_until("it has the old pair", || {
        client.err().matches("goes on with the new certificate").count() == 2
    });
    assert!(!client.err().contains("refused"), "{}", client.err());
}

#[test]
fn the_client_warns_before_its_certificate_ends() {
    let stack = Stack::up();
    const HOUR: i64 = 60 * 60;
    let (from, until) = (date(-11 * HOUR), date(HOUR));
    let pair = stack.certificate(
        "valid_user@qt-test.com",
        &[("ROLLCALL_SIGN_FROM", &from), ("ROLLCALL_SIGN_UNTIL", &until)],
    );
    expect(&mut stack.client(&pair), 0, "warning: the certificate ends in 59m");
    let from = date(-8 * HOUR);
    let pair = stack.certificate(
        "valid_user@qt-test.com",
        &[("ROLLCALL_SIGN_FROM", &from), ("ROLLCALL_SIGN_UNTIL", &until)],
    );
    let output = stack.client(&pair).output().unwrap();
    assert_eq!(text(&output), "Success! (204 No Content)\n");
}

#[test]
fn the_servers_certificate_is_renewed_without_a_lost_beat() {
    let stack = Stack::up();
    let client = stack.beating(&stack.pair("client"), "50ms");
    wait_until("it beats", || client.out().contains("Success!"));
    let before = fs::read(stack.certs.join("server.crt")).unwrap();
    admin(&stack, &["renew", "--server"], 0, "server.crt made for DNS:");
    assert_ne!(fs::read(stack.certs.join("server.crt")).unwrap(), before);
    let beats = client.out().matches("Success!").count();
    wait_until("it goes on", || client.out().matches("Success!").count() > beats + 10);
    assert_eq!(client.err(), "");
}

#[test]
fn the_server_gets_the_names_that_clients_call_it_by_and_keeps_them() {
    let stack = Stack::up();
    let call = || {
        let mut command = stack.client(&stack.pair("client"));
        command.args(["--url", &format!("https://127.0.0.2:{}", stack.https_port)]);
        command
    };
    expect(&mut call(), 76, "its certificate is not for the name in the URL");
    admin(&stack, &["renew", "--server", "127.0.0.2", "rollcall.example.com"], 0, "IP:127.0.0.2");
    // For a moment nginx's old workers still answer with the old one.
    wait_until("nginx has it", || call().status().unwrap().success());
    admin(&stack, &["renew", "--server"], 0, "server.crt made for DNS:");
    let mut openssl = stack.command("openssl");
    openssl.args(["x509", "-noout", "-ext", "subjectAltName", "-in"]).arg(stack.certs.join("server.crt"));
    expect(&mut openssl, 0, "DNS:rollcall.example.com, ");
    admin(&stack, &["renew", "--server", "two words"], 2, "not a host's name or address: two words");
    let without = ["renew", "--server", "--without", "127.0.0.2"];
    admin(&stack, &without, 0, "server.crt made for DNS:");
    expect(&mut call(), 76, "its certificate is not for the name in the URL");
    admin(&stack, &without, 2, "server.crt is not for IP:127.0.0.2, but for DNS:");
}

/// The documents advise to delete a key here that is on its device.
#[test]
fn a_device_whose_key_is_not_here_gets_a_new_pair() {
    let stack = Stack::up();
    admin(&stack, &["enrol", "a@example.com", "--name", "phone"], 0, "phone.crt made");
    fs::remove_file(stack.certs.join("phone.key")).unwrap();
    let elsewhere =
        "the key of phone is on its device: let it make a request, and just renew phone --csr FILE; or";
    admin(&stack, &["renew", "phone"], 1, elsewhere);
    admin(&stack, &["revoke", "phone"], 0, "revoked");
    admin(&stack, &["renew", "phone", "--new-key"], 0, "phone.crt renewed");
    expect(&mut stack.client(&stack.pair("phone")), 0, "Success!");
    // The key of a certificate before is of no use beside the request of a device.
    let key = stack.state.join("own.key");
    let request = stack.request(&key).display().to_string();
    admin(&stack, &["renew", "phone", "--csr", &request], 0, "phone.key removed");
    let device = ["enrol", "b@example.com", "--csr", &request, "--p12"];
    admin(&stack, &device, 2, "with --csr the device keeps it: no --p12 goes with it");
    // An empty password would be none; there is nobody to ask here.
    let mut command = stack.command("setsid");
    command.arg("-w").arg(crate::stack::binaries().join("rollcall-admin"));
    command.args(["enrol", "b@example.com", "--p12"]).env("DATABASE_URL", stack.database_url());
    expect(command.env("ROLLCALL_P12_PASSWORD", ""), 1, "cannot make ");
    assert!(!stack.certs.join("b@example.com.p12").exists());
}

#[test]
fn the_servers_database_role_can_do_its_job_and_no_more() {
    let stack = Stack::server();
    crate::server::is_recorded(&stack);
    for statement in [
        "insert into users (email) values ('mallory@example.com')",
        "update users set disabled_at = null",
        "update users set email = 'mallory@example.com'",
        "delete from users",
        "truncate users",
        "drop table users",
        "update certificates set revoked_at = null",
        "insert into certificates (serial, email, fingerprint, not_after, revoked_at) values ('0B', 'valid_user@qt-test.com', repeat('0', 40), 0, null)",
        "delete from certificates",
        "delete from _sqlx_migrations",
        "create table t ()",
        "create role mallory",
    ] {
        let output =
            stack.psql_as("rollcall_server", &stack.database).args(["-c", statement]).output().unwrap();
        let refused = text(&output).contains("permission denied") || text(&output).contains("must be owner");
        assert!(refused, "{statement}: {}", text(&output));
    }
}
