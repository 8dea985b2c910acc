//! The life of a certificate: enrolled, renewed, listed, revoked.

use crate::session::patch;
use crate::stack::{Pair, Stack, date, expect, free_port, text, wait_until};
use std::fs;

const REVOKED: &str = "this certificate is revoked; ask the administrator of rollcall for a new one";

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
fn a_revocation_holds_from_the_next_request_on_however_it_comes() {
    let stack = Stack::up();
    let pair = stack.member("a@example.com");
    let other = stack.certificate("a@example.com", &[]);
    let session = |version: &str| stack.state.join(format!("session{version}")).display().to_string();
    for version in ["-tls1_2", "-tls1_3"] {
        let (_, answer) = patch(&stack, &pair, &[version, "-sess_out", &session(version)]);
        assert_eq!(answer.status, 204);
        let (reused, answer) = patch(&stack, &pair, &[version, "-sess_in", &session(version)]);
        assert_eq!((reused, answer.status), (true, 204), "{version}: the session should be resumed");
    }
    let kept = stack.beating(&pair, "100ms");
    wait_until("it beats", || kept.out().contains("Success!"));
    // The connection that is in the log again and again is the kept one.
    let mut connection = String::new();
    wait_until("it is logged", || {
        let log = stack.log("nginx/access.log");
        let connections: Vec<&str> = log.lines().filter_map(|line| line.split(' ').nth(1)).collect();
        let kept = connections.iter().find(|one| connections.iter().filter(|other| other == one).count() > 2);
        connection = kept.unwrap_or(&"").to_string();
        !connection.is_empty()
    });

    // The server alone, so that nginx knows nothing yet.
    stack.sql(&format!(
        "update certificates set revoked_at = now() where serial_number = '{}'",
        serial(&stack, &pair)
    ));
    for version in ["-tls1_2", "-tls1_3"] {
        let (reused, answer) = patch(&stack, &pair, &[version, "-sess_in", &session(version)]);
        assert_eq!((reused, answer.status, answer.detail().as_str()), (true, 403, REVOKED), "{version}");
    }
    let answer = stack.curl(Some(&pair), &[]);
    assert_eq!((answer.status, answer.detail().as_str()), (403, REVOKED));
    wait_until("the kept connection is refused", || kept.err().contains(REVOKED));
    wait_until("the refusal over that same connection is logged", || {
        let log = stack.log("nginx/access.log");
        log.lines().any(|line| line.contains(&connection) && line.contains(" 403 "))
    });
    // The other device of the same person goes on.
    assert_eq!(stack.curl(Some(&other), &[]).status, 204);

    // With the CRL, nginx refuses before the server is asked.
    admin(&stack, &["revoke", &serial(&stack, &pair)], 0, "was revoked already");
    wait_until("nginx has the CRL", || {
        let answer = stack.curl(Some(&pair), &[]);
        answer.status == 400 && answer.detail().contains("FAILED:certificate revoked")
    });
    assert_eq!(stack.curl(Some(&other), &[]).status, 204);
    admin(&stack, &["revoke", "a@example.com"], 0, "revoked");
    wait_until("nginx has the CRL", || stack.curl(Some(&other), &[]).status == 400);
    assert_eq!(stack.curl(Some(&stack.pair("client")), &[]).status, 204);
    admin(&stack, &["revoke", "00FF"], 1, "no certificate 00FF is known");
    admin(&stack, &["revoke", "nobody@example.com"], 1, "no certificate nobody@example.com is known");
    admin(
        &stack,
        &["revoke", "x;y"],
        1,
        "no certificate x;y is known: no email, device, serial number or fingerprint",
    );
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

#[test]
fn one_device_is_revoked_by_the_name_of_its_files() {
    let stack = Stack::up();
    admin(&stack, &["enrol", "Alice@Example.com"], 0, "alice@example.com enrolled");
    admin(&stack, &["enrol", "alice@example.com", "--name", "phone"], 0, "was enrolled already");
    admin(&stack, &["revoke", "phone"], 0, "revoked");
    expect(&mut stack.client(&stack.pair("phone")), 77, "refused");
    expect(&mut stack.client(&stack.pair("alice@example.com")), 0, "Success!");
    // A stolen device has its certificate from before the renewal, too.
    admin(&stack, &["enrol", "alice@example.com", "--name", "laptop"], 0, "laptop.crt made");
    for end in ["crt", "key"] {
        let file = |name: &str| stack.certs.join(format!("{name}.{end}"));
        fs::copy(file("laptop"), file("stolen")).unwrap();
    }
    admin(&stack, &["renew", "laptop"], 0, "laptop.crt renewed");
    expect(&mut stack.client(&stack.pair("stolen")), 0, "Success!");
    admin(&stack, &["revoke", "laptop"], 0, "revoked");
    for name in ["stolen", "laptop"] {
        expect(&mut stack.client(&stack.pair(name)), 77, "refused");
    }
    expect(&mut stack.client(&stack.pair("alice@example.com")), 0, "Success!");
    // A name is one person's, as long as the device has a certificate that is let in.
    admin(&stack, &["enrol", "bob@example.com", "--name", "shared"], 0, "shared.crt made");
    fs::remove_file(stack.certs.join("shared.crt")).unwrap();
    let taken = "the name shared is that of a device of bob@example.com";
    admin(&stack, &["enrol", "carol@example.com", "--name", "shared"], 1, taken);
    assert_eq!(stack.sql("select count(*) from users where email = 'carol@example.com'"), "0");
    admin(&stack, &["revoke", "shared"], 0, "(bob@example.com, shared) revoked");
    admin(&stack, &["enrol", "carol@example.com", "--name", "shared"], 0, "shared.crt made");
    let several = "shared was the name of several people's devices (bob@example.com, carol@example.com)";
    admin(&stack, &["revoke", "shared"], 1, several);
    expect(&mut stack.client(&stack.pair("shared")), 0, "Success!");
    // Without the database nothing changes: a CRL beside a row that says valid would look as if it had been done.
    let crl = fs::read(stack.certs.join("crl.pem")).unwrap();
    let nobody = format!("postgres://rollcall@127.0.0.1:{}/rollcall?sslmode=disable", free_port());
    let mut revoke = stack.administer(&["revoke", "carol@example.com"]);
    expect(revoke.env("DATABASE_URL", nobody), 69, "Connection refused");
    assert_eq!(fs::read(stack.certs.join("crl.pem")).unwrap(), crl);
    admin(&stack, &["revoke", "shared", "tablet"], 1, "shared was the name");
    admin(&stack, &["revoke", "carol@example.com", "tablet"], 1, "no certificate tablet is known");
    expect(&mut stack.client(&stack.pair("shared")), 0, "Success!");
}

/// A command that waits for a passphrase, say, keeps the folder of the certificates.
#[test]
fn a_revocation_holds_in_the_server_while_another_command_is_at_work() {
    let stack = Stack::up();
    admin(&stack, &["enrol", "a@example.com", "--name", "phone"], 0, "phone.crt made");
    expect(&mut stack.client(&stack.pair("phone")), 0, "Success!");
    let lock = fs::File::open(stack.certs.join(".lock")).unwrap();
    lock.lock().unwrap();
    let revoke = crate::stack::Running::start(&stack, stack.administer(&["revoke", "phone"]));
    wait_until("the server refuses", || stack.curl(Some(&stack.pair("phone")), &[]).status == 403);
    assert_eq!(revoke.out(), "", "nginx does not know of it yet");
    drop(lock);
    wait_until("it ends", || revoke.out().contains("(a@example.com, phone) revoked"));
    wait_until("nginx knows", || stack.curl(Some(&stack.pair("phone")), &[]).status == 400);
}

#[test]
fn a_certificate_that_no_row_describes_is_revoked_by_its_number_alone() {
    let stack = Stack::up();
    admin(&stack, &["enrol", "a@example.com", "--name", "phone"], 0, "phone.crt made");
    let serial = serial(&stack, &stack.pair("phone"));
    // A dump of before was restored.
    stack.sql("delete from certificates where device = 'phone'");
    admin(
        &stack,
        &["revoke", "phone"],
        1,
        "the database does not know phone.crt (a restored dump?): just enrol EMAIL",
    );
    admin(&stack, &["revoke", &serial], 1, "A number that only our CA knows is revoked with --unknown");
    expect(&mut stack.client(&stack.pair("phone")), 0, "Success!");
    stack.sql(&format!("delete from certificates where serial_number = '{serial}'"));
    let said = format!("{serial} revoked by its number, for no row describes it");
    admin(&stack, &["revoke", &serial, "--unknown"], 0, &said);
    wait_until("nginx knows", || stack.curl(Some(&stack.pair("phone")), &[]).status == 400);
    admin(&stack, &["crl"], 0, "CRL valid for ");
    assert_eq!(stack.curl(Some(&stack.pair("phone")), &[]).status, 400);
    // Our CA is the one that gave the number.
    assert_eq!(stack.sql("select issuer ~ '^CN=rollcall CA [0-9a-f]{8}$' from revoked_serials"), "t");
    admin(&stack, &["revoke", "nothing", "--unknown"], 1, "no certificate nothing is known");
    // The list of a CA that holds the CA itself would refuse everybody.
    for name in ["ca", "server"] {
        let number = self::serial(&stack, &stack.pair(name));
        admin(&stack, &["revoke", &number, "--unknown"], 1, &format!("{number} is the number of {name}.crt"));
    }
    admin(&stack, &["revoke", "server"], 1, "no certificate server is known");
    expect(&mut stack.client(&stack.pair("client")), 0, "Success!");
    // Rows that changed without the CRL are seen, and so is a revocation that is lifted.
    stack.sql("update certificates set revoked_at = now() where device = 'client'");
    expect(&mut stack.tool("stack/status"), 1, "the CRL of nginx lacks 1 of the revocations");
    admin(&stack, &["crl"], 0, "CRL valid for ");
    expect(&mut stack.tool("stack/status"), 0, "");
    stack.sql("delete from revoked_serials");
    admin(&stack, &["crl", "--drop-forgotten"], 0, &format!("{serial} lifted"));
    expect(&mut stack.client(&stack.pair("phone")), 0, "Success!");
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

/// A thief may have renewed the certificate whose number somebody has written down.
#[test]
fn a_revocation_by_number_names_the_certificates_that_are_left() {
    let stack = Stack::up();
    admin(&stack, &["enrol", "a@example.com", "--name", "phone"], 0, "phone.crt made");
    let first = serial(&stack, &stack.pair("phone"));
    admin(&stack, &["renew", "phone"], 0, "phone.crt renewed");
    let second = serial(&stack, &stack.pair("phone"));
    let left = format!("phone of a@example.com has another certificate, {second}, until ");
    admin(&stack, &["revoke", &first], 0, &left);
    admin(&stack, &["revoke", "phone"], 0, &format!("{second} (a@example.com, phone) revoked"));
    // An email is a person for revoke, and so cannot be the name of somebody else's device.
    let wrong = "just revoke would take it for a person's email";
    admin(&stack, &["enrol", "a@example.com", "--name", "b@example.com"], 2, wrong);
    let missing = stack.certs.join("missing.crt").display().to_string();
    admin(&stack, &["enrol", "a@example.com", "--cert", &missing], 1, "No such file");
}

#[test]
fn a_crl_that_is_broken_missing_or_over_stops_nobody() {
    let stack = Stack::up();
    let pair = stack.pair("client");
    let crl = stack.certs.join("crl.pem");
    // Our own is made anew.
    for broken in ["", "garbage", "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"] {
        fs::write(&crl, broken).unwrap();
        admin(&stack, &["crl", "--if-due"], 0, "CRL valid for ");
        assert_eq!(stack.curl(Some(&pair), &[]).status, 204);
    }
    fs::remove_file(&crl).unwrap();
    admin(&stack, &["crl", "--if-due"], 0, "CRL valid for ");
    // One that ends soon is warned of.
    let until = date(5 * 24 * 60 * 60);
    let output = stack.tool("certs/ca").arg("crl").env("ROLLCALL_SIGN_UNTIL", until).output().unwrap();
    for file in [&crl, &stack.state.join("nginx/crl.pem")] {
        fs::write(file, &output.stdout).unwrap();
    }
    expect(&mut stack.tool("stack/status"), 1, "then nginx refuses everybody; do: just crl");
    admin(&stack, &["crl", "--if-due"], 0, "valid for");
    expect(&mut stack.tool("stack/status"), 0, "CRL");
    // Somebody else's cannot be repaired by us: it is refused, and nginx goes on with its last good one.
    fs::create_dir(stack.certs.join("crl.d")).unwrap();
    fs::write(stack.certs.join("crl.d/other.pem"), "garbage").unwrap();
    admin(&stack, &["crl"], 1, "other.pem: it is not a CRL; there is no earlier copy");
    expect(&mut stack.tool("stack/up"), 0, "nginx        ready");
    // And it keeps no revocation of ours out.
    admin(&stack, &["enrol", "a@example.com"], 0, "enrolled");
    admin(&stack, &["revoke", "a@example.com"], 0, "other.pem: it is not a CRL");
    assert_eq!(stack.curl(Some(&stack.pair("a@example.com")), &[]).status, 400);
    expect(&mut stack.client(&pair), 0, "Success!");
}

#[test]
fn an_intermediate_authority_with_a_crl_for_each() {
    let stack = Stack::up();
    stack.member("a@example.com");
    let script_text = r#"
        mkdir -p crl.d inter && cd inter && : >index.txt && echo 01 >crlnumber
        printf '[ca]\ndefault_ca=d\n[d]\ndatabase=index.txt\ncrlnumber=crlnumber\ncertificate=ca.crt\nprivate_key=ca.key\ndefault_md=sha256\n' >cnf
        openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -subj '/CN=branch CA' |
            openssl x509 -req -CA ../ca.crt -CAkey ../ca.key -days 30 -out ca.crt -extfile /proc/self/fd/3 3<<END
basicConstraints=critical,CA:true,pathlen:0
keyUsage=critical,keyCertSign,cRLSign
END
        openssl ca -config cnf -gencrl -crldays 9 -out ../crl.d/branch.pem
        openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ../branch.key -subj /CN=a@example.com |
            openssl x509 -req -CA ca.crt -CAkey ca.key -days 9 -out leaf.crt -extfile /proc/self/fd/3 3<<END
basicConstraints=critical,CA:false
END
        cat leaf.crt ca.crt >../branch.crt
    "#;
    let mut command = stack.command("bash");
    expect(command.current_dir(&stack.certs).args(["-euc", script_text]), 0, "");
    admin(&stack, &["crl"], 0, "valid for ");
    let pair = stack.pair("branch");
    wait_until("nginx has both CRLs", || stack.curl(Some(&pair), &[]).status == 204);
    expect(&mut stack.client(&pair), 0, "Success!");
    assert_eq!(stack.curl(Some(&stack.pair("client")), &[]).status, 204);
    // The CA in ca.crt stands behind it.
    let file = pair.cert.display().to_string();
    admin(&stack, &["enrol", "a@example.com", "--cert", &file, "--name", "branch"], 0, " noted");
    admin(&stack, &["enrol", "a@example.com", "--cert", &file], 0, "was noted already");
    let certs = text(&stack.admin(&["certs"]));
    assert!(certs.lines().any(|line| line.contains(" branch ") && line.contains(" valid ")), "{certs}");
    // The server revokes a certificate that our own CA did not issue.
    admin(&stack, &["revoke", "a@example.com"], 0, "revoked");
    assert_eq!(stack.curl(Some(&pair), &[]).detail(), REVOKED);
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
