//! Certificates under faults: a signer that lies, a full disk, a kill at each step, a restored dump, another CA.

use std::fs;

use crate::stack::{Builder, Pair, Stack, expect, text, wait_until};

mod company;
mod earlier;
mod interrupted;
mod signer;

const MINUTE: i64 = 60;

#[track_caller]
fn admin(stack: &Stack, arguments: &[&str], exit: i32, said: &str) {
    expect(&mut stack.administer(arguments), exit, said);
}

#[track_caller]
fn openssl(stack: &Stack, script: &str) {
    expect(stack.command("bash").current_dir(&stack.certs).args(["-euo", "pipefail", "-c", script]), 0, "");
}

#[track_caller]
fn beats(stack: &Stack, name: &str) {
    expect(&mut stack.client(&stack.pair(name)), 0, "Success!");
}

#[track_caller]
fn is_refused(stack: &Stack, name: &str, detail: &str) {
    let answer = stack.curl(Some(&stack.pair(name)), &[]);
    assert!(answer.status != 204 && answer.detail().contains(detail), "{answer:?}");
}

/// The serial numbers on the CRL that nginx reads.
#[track_caller]
fn listed(stack: &Stack) -> usize {
    let mut command = stack.command("openssl");
    let output =
        command.args(["crl", "-noout", "-text", "-in"]).arg(stack.state.join("nginx/crl.pem")).output();
    text(&output.unwrap()).matches("Serial Number: ").count()
}

#[test]
fn a_restored_dump_forgets_no_revocation() {
    let stack = Stack::with_its_own_cluster();
    admin(&stack, &["enrol", "a@example.com", "--name", "early"], 0, "enrolled");
    let dump = stack.state.join("dump");
    let mut command = stack.command("pg_dump");
    command.args(["-Fc", "-U", "rollcall", "-h"]).arg(stack.cluster()).arg("-f").arg(&dump).arg("rollcall");
    expect(&mut command, 0, "");
    admin(&stack, &["enrol", "b@example.com", "--name", "late"], 0, "enrolled");
    for name in ["early", "late"] {
        beats(&stack, name);
    }
    admin(&stack, &["revoke", "early", "late"], 0, "revoked");
    let restore = || {
        let mut command = stack.command("pg_restore");
        command
            .args(["--clean", "--if-exists", "-U", "rollcall", "-d", "rollcall", "-h"])
            .arg(stack.cluster());
        expect(command.arg(&dump), 0, "");
        expect(&mut stack.tool("stack/up"), 0, "");
    };
    // `just up` looks at the list that this host has published.
    restore();
    let certs = text(&stack.admin(&["certs"]));
    assert!(certs.lines().any(|line| line.contains(" early ") && line.contains(" revoked ")), "{certs}");
    assert_eq!(stack.sql("select count(*) from revoked_serials"), "1", "no row describes the other");
    assert_eq!(listed(&stack), 2);
    // The server alone refuses both, also the one that has no row.
    admin(&stack, &["user", "add", "b@example.com"], 0, "enrolled");
    fs::write(stack.state.join("nginx/nginx.conf"), stack.log("nginx/nginx.conf").replace("ssl_crl ", "# "))
        .unwrap();
    expect(&mut stack.tool("stack/reload"), 0, "");
    for name in ["early", "late"] {
        is_refused(&stack, name, "this certificate is revoked");
    }
    admin(&stack, &["enrol", "b@example.com", "--name", "late"], 1, "late.crt is revoked: just renew late");
    is_refused(&stack, "late", "this certificate is revoked");
    // The administrator knows that the dump is right.
    restore();
    admin(&stack, &["crl", "--drop-forgotten"], 0, "CRL valid for");
    assert_eq!(listed(&stack), 2, "the rows know them by now");
    stack.sql("update certificates set revoked_at = null; delete from revoked_serials");
    admin(&stack, &["crl", "--drop-forgotten"], 0, "CRL valid for");
    assert_eq!(listed(&stack), 0);
    beats(&stack, "early");
}

#[test]
fn the_ca_is_renewed_lost_replaced_and_protected() {
    let stack = Stack::up();
    for name in ["old", "new"] {
        admin(&stack, &["enrol", &format!("{name}@example.com"), "--name", name], 0, "enrolled");
    }
    let before = stack.certs.join("before.crt");
    fs::copy(stack.certs.join("ca.crt"), &before).unwrap();
    let with_old_ca = |name: &str| {
        let Pair { cert, key } = stack.pair(name);
        let mut command = stack.program("rollcall-client");
        command.arg("--cert").arg(cert).arg("--key").arg(key).arg("--ca").arg(&before);
        command
    };
    // Renewed it keeps its name: all goes on, and one whose certificate was lost is made again.
    admin(&stack, &["ca", "renew"], 0, "ca.crt renewed until ");
    beats(&stack, "old");
    expect(&mut with_old_ca("old"), 0, "Success!");
    fs::remove_file(stack.certs.join("ca.crt")).unwrap();
    expect(&mut stack.tool("stack/up"), 0, "ca.crt made again (CN=rollcall CA ");
    beats(&stack, "old");
    expect(&mut with_old_ca("old"), 0, "Success!");
    // Without its key nothing is made that nobody could believe.
    fs::rename(stack.certs.join("ca.key"), stack.certs.join("away")).unwrap();
    fs::rename(stack.certs.join("server.key"), stack.certs.join("server.away")).unwrap();
    expect(
        &mut stack.tool("stack/up"),
        1,
        "put the key back; or, if the CA is somebody else's, set ROLLCALL_CA=external",
    );
    assert!(!stack.certs.join("server.key").exists());
    fs::rename(stack.certs.join("away"), stack.certs.join("ca.key")).unwrap();
    fs::rename(stack.certs.join("server.away"), stack.certs.join("server.key")).unwrap();

    admin(&stack, &["renew", "--server", "rollcall.example.com"], 0, "DNS:rollcall.example.com");
    admin(&stack, &["ca", "replace", "--finish"], 1, "no CA is being replaced");
    admin(
        &stack,
        &["ca", "replace"],
        0,
        "stays trusted until just ca replace --finish, with 3 of its certificates",
    );
    beats(&stack, "old");
    expect(&mut with_old_ca("old"), 0, "Success!");
    admin(&stack, &["renew", "new"], 0, "renewed");
    beats(&stack, "new");
    let in_use =
        "1 certificates of the old CA were used within 30 days, and would be refused: old@example.com (old)";
    admin(&stack, &["ca", "replace", "--finish"], 1, in_use);
    beats(&stack, "old");
    admin(&stack, &["ca", "replace", "--finish", "--yes"], 0, "is not trusted any more, with 3 certificates");
    beats(&stack, "new");
    is_refused(&stack, "old", "does not verify");
    expect(&mut with_old_ca("new"), 76, "no CA in the --ca file signed its certificate");
    let certs = text(&stack.admin(&["certs"]));
    assert!(certs.lines().any(|line| line.contains(" old ") && line.contains(" untrusted ")), "{certs}");
    let doctor = text(&stack.script("stack/status"));
    assert!(doctor.contains("certificates in the database are of a CA that is not in ca.crt"), "{doctor}");
    assert!(!doctor.contains("CRL of another CA"), "{doctor}");
    // The server keeps its names.
    openssl(
        &stack,
        "openssl x509 -in server.crt -noout -ext subjectAltName | grep -q DNS:rollcall.example.com",
    );

    let protected = |arguments: &[&str], passphrase: &str, exit, said: &str| {
        let mut command = stack.administer(arguments);
        expect(command.env("PASS", passphrase).env("ROLLCALL_CA_PASSIN", "env:PASS"), exit, said);
    };
    protected(&["ca", "protect"], "", 1, "an empty passphrase protects nothing; the key is as it was");
    protected(&["ca", "protect"], "secret", 0, "ca.key encrypted");
    protected(&["ca", "protect"], "secret", 1, "it is encrypted already");
    protected(&["enrol", "wrong@example.com"], "wrong", 1, "openssl ca failed");
    assert_eq!(stack.sql("select count(*) from users where email = 'wrong@example.com'"), "0");
    protected(&["renew", "old"], "secret", 0, "renewed");
    protected(&["revoke", "new"], "secret", 0, "revoked");
    beats(&stack, "old");
    is_refused(&stack, "new", "certificate revoked");
    protected(&["ca", "renew"], "secret", 0, "renewed until");
    beats(&stack, "old");
}

/// The server's role can note a certificate, and ask for another one: its word alone must not be enough.
#[test]
fn a_server_that_was_taken_over_gets_no_certificate_for_one_that_it_made_up() {
    let stack = Stack::up();
    assert!(stack.admin(&["user", "add", "a@example.com"]).status.success());
    let request = stack.request(&stack.certs.join("mallory.key"));
    let der = stack.certs.join("mallory.der");
    let mut command = stack.command("openssl");
    command.args(["req", "-outform", "DER", "-in"]).arg(request).arg("-out").arg(&der);
    expect(&mut command, 0, "");
    let hex: String = fs::read(der).unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
    stack.sql_as(
        "rollcall_server",
        &stack.database,
        &format!(
            "insert into certificates (serial_number, email, fingerprint, not_after)
                  values ('0BAD', 'a@example.com', repeat('0', 40), 9999999999);
             insert into renewals (fingerprint, serial_number, request)
                  values (repeat('0', 40), '0BAD', decode('{hex}', 'hex'))"
        ),
    );
    wait_until("it is refused", || {
        let _ = stack.admin(&["sign"]);
        !stack.sql("select refused from renewals where refused is not null").is_empty()
    });
    assert!(stack.sql("select refused from renewals").contains("was noted at its first use"));
    assert_eq!(stack.sql("select count(*) from certificates where email = 'a@example.com'"), "1");
}

#[test]
fn the_folder_of_the_certificates_may_be_a_relative_path() {
    let stack = Builder::new().stopped();
    let mut init = stack.program("rollcall-admin");
    init.args(["ca", "init"]);
    expect(init.current_dir(&stack.state).env("ROLLCALL_CERTS", "here"), 0, "ca.crt made");
    assert!(stack.state.join("here/server.crt").exists());
}
