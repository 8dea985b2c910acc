//! Revocations, by the database and by the CRL.

use std::fs;

use super::{admin, serial};
use crate::session::patch;
use crate::stack::{Stack, date, expect, free_port, text, wait_until};

const REVOKED: &str = "this certificate is revoked; ask the administrator of rollcall for a new one";

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
    admin(&stack, &["enrol", "a@example.com", "--cert", &file, "--name", "branch"], 0, " noted\n");
    admin(&stack, &["enrol", "a@example.com", "--cert", &file], 0, "was noted already");
    let certs = text(&stack.admin(&["certs"]));
    assert!(certs.lines().any(|line| line.contains(" branch ") && line.contains(" valid ")), "{certs}");
    // The server revokes a certificate that our own CA did not issue.
    admin(&stack, &["revoke", "a@example.com"], 0, "revoked");
    assert_eq!(stack.curl(Some(&pair), &[]).detail(), REVOKED);
}
