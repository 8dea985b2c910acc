//! Renewal by the device: EST (RFC 7030) through nginx, the server, the database and the signer.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rollcall::x509::{self, Certificate};

use crate::program::{has_ended, signal};
use crate::stack::{Answer, Builder, Pair, Running, Stack, date, expect, is_root, text, wait_until};

const PATH: &str = "/.well-known/est/simplereenroll";
const EMAIL: &str = "sensor@example.com";
const DAY: i64 = 24 * 60 * 60;

/// The certificate of a device that is known by this name, of which nine tenths of the lifetime are over.
#[track_caller]
fn ripe(stack: &Stack, email: &str, device: &str) -> Pair {
    let dates = [("ROLLCALL_SIGN_FROM", &*date(-9 * DAY)), ("ROLLCALL_SIGN_UNTIL", &*date(DAY))];
    let pair = stack.certificate(email, &dates);
    let cert = pair.cert.to_str().unwrap();
    expect(&mut stack.administer(&["enrol", email, "--cert", cert, "--name", device]), 0, "noted");
    pair
}

fn certificate(file: &Path) -> Certificate {
    x509::certificates(&fs::read(file).unwrap()).unwrap().swap_remove(0)
}

/// Makes a request as a client of somebody else's does: base64 of DER.
#[track_caller]
fn request(stack: &Stack, subject: &str, options: &[&str]) -> PathBuf {
    let file = stack.state.join(format!("{}.request", crate::stack::free_port()));
    let mut openssl = stack.command("sh");
    openssl.args([
        "-c",
        "openssl req -new -nodes -keyout \"$0.key\" -outform DER \"$@\" | openssl base64 >\"$0\"",
    ]);
    openssl.arg(&file).args(["-subj", subject]).args(options);
    expect(&mut openssl, 0, "");
    assert!(fs::metadata(&file).unwrap().len() > 100, "{subject} {options:?}");
    file
}

const EC: [&str; 4] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];

#[track_caller]
fn post(stack: &Stack, pair: Option<&Pair>, body: &Path) -> Answer {
    let body = format!("@{}", body.display());
    let options = ["-X", "POST", "-H", "Content-Type: application/pkcs10", "--data-binary", &body, PATH];
    stack.curl(pair, &options)
}

/// The first certificate of the answer, read by openssl.
#[track_caller]
fn granted(stack: &Stack, answer: &Answer) -> Certificate {
    assert_eq!(answer.status, 200, "{answer:?}");
    let head = answer.head.to_ascii_lowercase();
    assert!(head.contains("content-type: application/pkcs7-mime; smime-type=certs-only"), "{head}");
    assert!(head.contains("content-transfer-encoding: base64"), "{head}");
    let file = stack.state.join("answer.p7");
    fs::write(&file, &answer.body).unwrap();
    let mut openssl = stack.command("sh");
    openssl.args(["-c", "openssl base64 -d -in \"$0\" | openssl pkcs7 -inform DER -print_certs"]).arg(file);
    let output = openssl.output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    x509::certificates(&output.stdout).unwrap().swap_remove(0)
}

#[track_caller]
fn stop_signer(stack: &Stack) {
    let signer = stack.pid("signer.pid");
    signal("TERM", &[signer]);
    wait_until("the signer ended", || has_ended(signer));
}

fn certificates_of(stack: &Stack, email: &str) -> usize {
    stack.sql(&format!("select count(*) from certificates where email = '{email}'")).parse().unwrap()
}

fn renewing(stack: &Stack, pair: &Pair) -> Command {
    let mut client = stack.client(pair);
    client.arg("--renew");
    client
}

#[test]
fn a_device_renews_by_itself_and_loses_no_beat() {
    let stack = Builder::new().set("ROLLCALL_CERT_DAYS", "7").up();
    let pair = ripe(&stack, EMAIL, "sensor-1");
    let (old, old_key) = (certificate(&pair.cert), fs::read(&pair.key).unwrap());
    let mut client = Running::start(&stack, renewing(&stack, &pair).args(["--every", "200ms"]));
    wait_until("it goes on with the new one", || {
        client.err().contains("rollcall-client: goes on with the new certificate")
    });
    let beats = client.out().lines().count();
    wait_until("it beats", || client.out().lines().count() > beats + 3);
    client.signal("TERM");
    assert_eq!(client.exit(), 0);
    // No line but these: each heartbeat was accepted.
    let lines: Vec<String> = client.err().lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 3, "{lines:#?}");
    assert!(lines[0].contains("warning: the certificate ends in"), "{lines:#?}");
    assert!(lines[1].starts_with("rollcall-client: renewed the certificate, until "), "{lines:#?}");
    assert!(client.out().lines().all(|line| line == "Success! (204 No Content)"), "{}", client.out());

    let new = certificate(&pair.cert);
    let lifetime = new.not_after - new.not_before;
    assert!((7 * DAY as u64..=7 * DAY as u64 + 600).contains(&lifetime), "{lifetime}");
    assert_eq!((&new.common_names, &new.emails), (&old.common_names, &old.emails));
    assert!(new.public_key != old.public_key && fs::read(&pair.key).unwrap() != old_key);
    assert_eq!(fs::metadata(&pair.key).unwrap().permissions().mode() & 0o777, 0o600);
    let row = format!(
        "select device, last_used_ns is not null from certificates where fingerprint = '{}'",
        new.fingerprint
    );
    assert_eq!(stack.sql(&row), "sensor-1|t");
    assert_eq!(certificates_of(&stack, EMAIL), 2);
    assert!(stack.log("signer.log").contains("sensor@example.com (sensor-1) renewed: "));
    for left in ["key.new", "crt.new"] {
        assert!(!pair.key.with_extension(left).exists(), "{left}");
    }
    // Once more without --every: it is too early, and the heartbeat is all.
    expect(&mut renewing(&stack, &pair), 0, "the certificate is not due for renewal; it is from 20");
    // The old one works until it ends: whoever has a copy is not surprised.
    assert_eq!(
        stack.sql(&format!(
            "select revoked_at is null from certificates where fingerprint = '{}'",
            old.fingerprint
        )),
        "t"
    );
    expect(&mut stack.tool("stack/status"), 0, "signer       runs, pid ");
}

#[test]
fn a_client_of_somebody_else_renews_and_is_given_one_certificate_for_one_key() {
    let stack = Stack::up();
    let pair = ripe(&stack, EMAIL, "sensor-1");
    let san = ["-addext", "subjectAltName=email:sensor@example.com"];
    let asked = request(&stack, "/CN=sensor@example.com", &[&EC[..], &san].concat());
    let first = granted(&stack, &post(&stack, Some(&pair), &asked));
    assert_eq!((first.common_names.len(), first.common_names[0].as_str()), (1, EMAIL));
    assert_eq!(first.emails, [EMAIL]);
    let again = granted(&stack, &post(&stack, Some(&pair), &asked));
    assert_eq!(first, again);
    assert_eq!(certificates_of(&stack, EMAIL), 2);
    // Another key has to wait for a minute, so that nobody collects certificates.
    let another = request(&stack, "/CN=sensor@example.com", &EC);
    let answer = post(&stack, Some(&pair), &another);
    assert_eq!(answer.status, 429, "{answer:?}");
    assert!(answer.detail().contains("another key") && answer.head.contains("retry-after: 60"), "{answer:?}");
    stack.sql("update renewals set asked_at = asked_at - interval '61 s'");
    let second = granted(&stack, &post(&stack, Some(&pair), &another));
    assert_ne!(first.public_key, second.public_key);
    assert_eq!(certificates_of(&stack, EMAIL), 3);

    // The new one proves the same person.
    let key = PathBuf::from(format!("{}.key", asked.display()));
    let cert = key.with_extension("crt");
    fs::write(&cert, x509::pem("CERTIFICATE", &first.der)).unwrap();
    assert_eq!(stack.curl(Some(&Pair { cert, key }), &[]).status, 204);

    // PEM and RSA, and requests that name nobody, or a device.
    stack.sql("update renewals set asked_at = asked_at - interval '61 s'");
    let csr = stack.request(&stack.state.join("pem.key"));
    granted(&stack, &post(&stack, Some(&pair), &csr));
    stack.sql("update renewals set asked_at = asked_at - interval '61 s'");
    let rsa = request(&stack, "/CN=device 7", &["-newkey", "rsa:4096"]);
    granted(&stack, &post(&stack, Some(&pair), &rsa));
}

#[test]
fn whoever_may_not_is_refused_with_the_reason() {
    let stack = Stack::up();
    let pair = ripe(&stack, EMAIL, "sensor-1");
    let good = request(&stack, "/CN=sensor@example.com", &EC);
    let refused = |pair: Option<&Pair>, body: &Path, status: u16, detail: &str| {
        let answer = post(&stack, pair, body);
        assert_eq!(answer.status, status, "{answer:?}");
        assert!(answer.detail().contains(detail), "{answer:?}");
    };
    let file = |name: &str, bytes: &str| {
        let file = stack.state.join(name);
        fs::write(&file, bytes).unwrap();
        file
    };
    for (subject, options) in [
        ("/CN=b@example.com", &EC[..]),
        ("/CN=sensor@example.com/CN=b@example.com", &EC),
        ("/", &[&EC[..], &["-addext", "subjectAltName=email:b@example.com"]].concat()),
    ] {
        let other = request(&stack, subject, options);
        refused(
            Some(&pair),
            &other,
            400,
            "the request is for \"b@example.com\", and the certificate that asks is",
        );
    }
    let weak = request(&stack, "/CN=sensor@example.com", &["-newkey", "rsa:1024"]);
    refused(Some(&pair), &weak, 400, "the request: its key is RSA with 1024 bits");
    let text_of = fs::read_to_string(&good).unwrap();
    let changed = text_of.replacen("MI", "NI", 1);
    for (name, body) in [("none", ""), ("text", "hello"), ("half", &text_of[..200]), ("changed", &changed)] {
        refused(Some(&pair), &file(name, body), 400, "the request: ");
    }
    let large = file("large", &"A".repeat(9 * 1024));
    refused(Some(&pair), &large, 413, "a request for a certificate of more than 8 kB is refused");
    refused(None, &good, 400, "no client certificate was sent");
    let answer = stack.curl(Some(&pair), &["-X", "GET", PATH]);
    assert_eq!((answer.status, answer.detail().as_str()), (405, "only POST is answered here"));
    assert!(answer.head.contains("Allow: POST"), "{answer:?}");
    let body = format!("@{}", good.display());
    let answer = stack.curl(Some(&pair), &["-X", "POST", "--data-binary", &body, PATH]);
    assert_eq!(answer.status, 415, "{answer:?}");
    // A body of the one path is none of the other's.
    let answer = stack.curl(Some(&pair), &["--data-binary", &format!("@{}", large.display()), "/api/client"]);
    assert_eq!(answer.detail(), "a PATCH needs no body, and more than 1 kB is refused");

    // A certificate that is fresh, and one that nobody knows yet.
    expect(&mut stack.administer(&["enrol", "new@example.com"]), 0, "made");
    let fresh = stack.pair("new@example.com");
    let asked = request(&stack, "/CN=new@example.com", &EC);
    refused(Some(&fresh), &asked, 403, "the certificate can be renewed from 20");
    let body = format!("@{}", asked.display());
    let long = format!("Content-Type: application/pkcs10; x={}", "x".repeat(7000));
    let forged = ["X-Client-Not-Before: Jan  1 00:00:00 2020 GMT", "X-Client-Fingerprint: 09", &long];
    let mut arguments = vec!["-X", "POST", "--data-binary", &body];
    arguments.extend(forged.iter().flat_map(|header| ["-H", header]));
    arguments.push(PATH);
    let answer = stack.curl(Some(&fresh), &arguments);
    assert!(answer.status == 403 && answer.detail().contains("can be renewed from 20"), "{answer:?}");
    expect(&mut renewing(&stack, &fresh), 0, "the certificate is not due for renewal");
    let dates = [("ROLLCALL_SIGN_FROM", &*date(-9 * DAY)), ("ROLLCALL_SIGN_UNTIL", &*date(DAY))];
    let unknown = stack.certificate("new@example.com", &dates);
    refused(Some(&unknown), &asked, 403, "is not known as this person's");
    let stranger = stack.certificate("nobody@example.com", &dates);
    refused(Some(&stranger), &asked, 403, "this email is not enrolled");

    expect(&mut stack.administer(&["user", "disable", EMAIL]), 0, "");
    refused(Some(&pair), &good, 403, "disabled");
    expect(&mut stack.administer(&["user", "enable", EMAIL]), 0, "");
    // The row alone: nginx would refuse at once.
    stack.sql("update certificates set revoked_at = now() where email = 'sensor@example.com'");
    refused(Some(&pair), &good, 403, "this certificate is revoked");
    assert_eq!(stack.sql("select count(*) from renewals"), "0", "the signer was asked");
    expect(&mut renewing(&stack, &pair), 77, "this certificate is revoked");

    // A server that is away, and not the body, is the reason.
    let server = stack.pid("server/pid");
    signal("KILL", &[server]);
    wait_until("it is gone", || has_ended(server));
    refused(Some(&pair), &file("middle", &"A".repeat(4000)), 503, "rollcall-server does not answer");
}

#[test]
fn the_signer_believes_the_rows_and_not_the_server() {
    let stack = Stack::up();
    stop_signer(&stack);
    let pair = ripe(&stack, EMAIL, "sensor-1");
    let fingerprint = certificate(&pair.cert).fingerprint;
    let serial =
        stack.sql(&format!("select serial_number from certificates where fingerprint = '{fingerprint}'"));
    let as_server = |statement: &str, exit| {
        let output =
            stack.psql_as("rollcall_server", &stack.database).args(["-c", statement]).output().unwrap();
        assert_eq!(output.status.code(), Some(exit), "{statement}: {}", text(&output));
    };
    let ask = |subject: &str| {
        let request = fs::read_to_string(request(&stack, subject, &EC)).unwrap().replace('\n', "");
        as_server(
            &format!(
                "insert into renewals (fingerprint, serial_number, request)
                 values ('{fingerprint}', '{serial}', decode('{request}', 'base64'))
                     on conflict (fingerprint, serial_number) do update set request = excluded.request"
            ),
            0,
        );
    };
    let sign = |said: &str| expect(&mut stack.administer(&["sign"]), 0, said);
    sign("");
    ask("/CN=b@example.com");
    for statement in [
        "update renewals set certificate = 'x', answered_at = now()",
        "update renewals set refused = null",
        "update renewals set asked_at = now()",
        "insert into renewals (fingerprint, serial_number, request, certificate, answered_at) values ('', '', '', '', now())",
        "delete from renewals",
    ] {
        as_server(statement, 1);
    }
    sign("sensor@example.com (sensor-1) is not renewed: the request is for \"b@example.com\"");
    assert_eq!(stack.sql("select certificate is null, refused like '%b@example.com%' from renewals"), "t|t");
    // Another request takes the answer with it.
    ask("/CN=sensor@example.com");
    assert_eq!(stack.sql("select num_nulls(certificate, refused, answered_at) from renewals"), "3");
    stack.sql("update users set disabled_at = now() where email = 'sensor@example.com'");
    sign("is not renewed: this email is enrolled and disabled");
    stack.sql("update users set disabled_at = null");
    ask("/CN=sensor@example.com");
    stack.sql("update certificates set revoked_at = now() where email = 'sensor@example.com'");
    sign("is not renewed: this certificate is revoked");
    stack.sql("update certificates set revoked_at = null");
    as_server("update renewals set request = 'no request'", 0);
    sign("is not renewed: the request: it holds neither PEM");
    // An old one, whose device has gone.
    ask("/CN=sensor@example.com");
    stack.sql("update renewals set asked_at = asked_at - interval '1 day'");
    sign("");
    assert_eq!(certificates_of(&stack, EMAIL), 1);
    // Without the key of the CA it waits.
    ask("/CN=sensor@example.com");
    let (key, away) = (stack.certs.join("ca.key"), stack.certs.join("ca.key.away"));
    fs::rename(&key, &away).unwrap();
    expect(&mut stack.administer(&["sign"]), 1, "1 requests were not answered");
    fs::rename(&away, &key).unwrap();
    sign("sensor@example.com (sensor-1) renewed: ");
    assert_eq!(certificates_of(&stack, EMAIL), 2);
    assert_eq!(
        stack.sql(
            "select device, count(*) from certificates where email = 'sensor@example.com' group by device"
        ),
        "sensor-1|2"
    );
}

#[test]
fn without_its_signer_the_answer_comes_later() {
    let stack = Stack::up();
    stop_signer(&stack);
    expect(&mut stack.tool("stack/status"), 1, "signer       DOES NOT RUN");
    let pair = ripe(&stack, EMAIL, "sensor-1");
    expect(&mut renewing(&stack, &pair), 75, "the request for a new certificate waits for the signer");
    let key = fs::read(pair.key.with_extension("key.new")).unwrap();
    expect(&mut stack.administer(&["sign"]), 0, "renewed: ");
    // The same key as before, so that nothing is signed twice.
    expect(&mut renewing(&stack, &pair), 0, "renewed the certificate, until ");
    assert_eq!(fs::read(&pair.key).unwrap(), key);
    assert_eq!(certificates_of(&stack, EMAIL), 2);
    expect(&mut stack.client(&pair), 0, "Success!");

    // As a heartbeat, one more is asked while the database loses its sessions and the signer comes back.
    expect(&mut stack.tool("stack/up"), 0, "signer");
    let second = ripe(&stack, "b@example.com", "b");
    let sessions = stack.backends("rollcall");
    if !sessions.is_empty() {
        signal("TERM", &sessions);
    }
    expect(&mut renewing(&stack, &second), 0, "renewed the certificate, until ");
    let signer = stack.pid("signer.pid");
    expect(&mut stack.tool("stack/down"), 0, "");
    assert!(has_ended(signer));
}

#[test]
fn a_crash_leaves_what_the_next_start_completes() {
    let stack = Stack::up();
    let (old, new) = (ripe(&stack, EMAIL, "sensor-1"), stack.certificate(EMAIL, &[]));
    // It came between the two renames.
    fs::copy(&new.key, &old.key).unwrap();
    let beside = old.cert.with_extension("crt.new");
    fs::copy(&new.cert, &beside).unwrap();
    expect(&mut stack.client(&old), 0, "completed a renewal that was interrupted");
    assert_eq!(fs::read(&old.cert).unwrap(), fs::read(&new.cert).unwrap());
    assert!(!beside.exists());
    // It came before them: the old pair is whole.
    let pair = ripe(&stack, EMAIL, "sensor-2");
    fs::write(pair.cert.with_extension("crt.new"), fs::read(&new.cert).unwrap()).unwrap();
    fs::write(pair.key.with_extension("key.new"), "half a k").unwrap();
    expect(&mut renewing(&stack, &pair), 0, "renewed the certificate, until ");
    expect(&mut stack.client(&pair), 0, "Success!");
    // The files are links to others, which are replaced.
    let pair = ripe(&stack, EMAIL, "sensor-3");
    let link = Pair { cert: stack.state.join("link.crt"), key: stack.state.join("link.key") };
    symlink(&pair.cert, &link.cert).unwrap();
    symlink(&pair.key, &link.key).unwrap();
    expect(&mut renewing(&stack, &link), 0, "renewed the certificate, until ");
    assert!(link.cert.is_symlink() && link.key.is_symlink());
    expect(&mut stack.client(&pair), 0, "Success!");
}

#[test]
fn files_that_cannot_be_replaced_are_named_before_anybody_is_asked() {
    let stack = Stack::up();
    let pair = ripe(&stack, EMAIL, "sensor-1");
    let folder = stack.state.join("closed");
    fs::create_dir(&folder).unwrap();
    let closed = Pair { cert: folder.join("client.crt"), key: folder.join("client.key") };
    for (from, to) in [(&pair.cert, &closed.cert), (&pair.key, &closed.key)] {
        fs::copy(from, to).unwrap();
        fs::set_permissions(to, PermissionsExt::from_mode(0o444)).unwrap();
    }
    let ca = folder.join("ca.crt");
    fs::copy(stack.certs.join("ca.crt"), &ca).unwrap();
    let program = folder.join("rollcall-client");
    fs::copy(crate::stack::binaries().join("rollcall-client"), &program).unwrap();
    fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    for (path, mode) in [(&ca, 0o444), (&folder, 0o555)] {
        fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }
    // Root can write everywhere.
    let user: &[&str] =
        if is_root() { &["setpriv", "--reuid", "nobody", "--clear-groups", "--"] } else { &["env"] };
    let command = |options: &[&str]| {
        let mut client = stack.command(user[0]);
        client.args(&user[1..]).arg(&program).arg("--cert").arg(&closed.cert).arg("--key").arg(&closed.key);
        client.arg("--ca").arg(&ca).arg("--renew").args(options).current_dir("/");
        client
    };
    let said = format!(
        "{} cannot be replaced: Permission denied (os error 13); let rollcall-client write into its folder",
        closed.key.display()
    );
    expect(&mut command(&[]), 78, &said);
    let mut beating = Running::start(&stack, command(&["--every", "100ms"]));
    wait_until("it beats", || beating.out().lines().count() > 3);
    beating.signal("TERM");
    assert_eq!(beating.exit(), 0);
    let warning = format!("rollcall-client: warning: it will not renew: {said}\n");
    assert!(beating.err().starts_with(&warning), "{}", beating.err());
    assert!(beating.err().contains(&format!("rollcall-client: not renewed: {said}; trying again in ")));
    assert_eq!(stack.sql("select count(*) from renewals"), "0");
    fs::set_permissions(&folder, PermissionsExt::from_mode(0o755)).unwrap();
}

#[test]
fn the_signer_waits_for_its_database_and_ends_well() {
    let stack = Builder::new().stopped();
    let mut signer = Running::start(&stack, stack.administer(&["sign", "--watch"]));
    wait_until("it says so", || signer.err().contains("; going on"));
    signer.signal("TERM");
    assert_eq!((signer.exit(), signer.out().as_str()), (0, ""));
    assert_eq!(signer.err().lines().count(), 1, "{}", signer.err());
    let mut external = stack.administer(&["sign", "--watch"]);
    expect(external.env("ROLLCALL_CA", "external"), 78, "ROLLCALL_SIGN names a command that can");
    let mut days = stack.administer(&["sign", "--watch"]);
    expect(days.env("ROLLCALL_CERT_DAYS", "0"), 78, "a certificate lives for 1 to 3650 days");
}

#[test]
fn a_device_whose_cn_is_no_email_renews_too() {
    for (identity, san) in [("san", "email:sensor@example.com"), ("registered", "")] {
        let stack = Builder::new().set("ROLLCALL_IDENTITY", identity).up();
        let dates = [
            ("ROLLCALL_SIGN_FROM", &*date(-9 * DAY)),
            ("ROLLCALL_SIGN_UNTIL", &*date(DAY)),
            ("ROLLCALL_SIGN_SAN", san),
        ];
        let pair = stack.certificate("device 7", &dates);
        let cert = pair.cert.to_str().unwrap();
        expect(&mut stack.administer(&["enrol", EMAIL, "--cert", cert, "--name", "device-7"]), 0, "noted");
        expect(&mut renewing(&stack, &pair), 0, "renewed the certificate, until ");
        let new = certificate(&pair.cert);
        assert_eq!(
            (&new.common_names[..], &new.emails[..]),
            (&[EMAIL.to_owned()][..], &[EMAIL.to_owned()][..])
        );
        expect(&mut stack.client(&pair), 0, "Success!");
    }
}
