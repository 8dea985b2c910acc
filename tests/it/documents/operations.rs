//! docs/operations.md: backup, keys, certificates and pseudonyms, on one stack, step by step.

use std::fs;

use super::Clone;
use super::page::{self, Page, block, shape};
use crate::stack::{Running, free_port, text, wait_until};

const RESTORE: &str =
    "psql -1 -v ON_ERROR_STOP=1 -h \"$PWD/.run/postgres\" -U rollcall -d rollcall -f rollcall.sql";
const ALICE: &str = "just client --cert certs/alice@example.com.crt --key certs/alice@example.com.key";

#[test]
fn operations_step_by_step() {
    let clone = Clone::new();
    clone.runs("just up", 0, "nginx        ready");
    clone.types_as("just enrol EMAIL", "just enrol alice@example.com", 0, "alice@example.com.crt made");
    clone.runs(ALICE, 0, "Success!");
    logs(&clone);
    backup_and_restore(&clone);
    devices(&clone);
    revocation(&clone);
    forgotten_revocations(&clone);
    list_of_an_earlier_version(&clone);
    authority(&clone);
    signer(&clone);
    company(&clone);
    announcing_key(&clone);
    pseudonyms(&clone);
    json(&clone);
    clone.types("rm .run/proxy-credential", 0, "");
    clone.runs("just up", 0, "settings changed: restarting");
    seen(&clone);
}

const EC: &str = "ec -pkeyopt ec_paramgen_curve:P-256";

/// For a moment after a reload, nginx's old workers still answer.
fn seen(clone: &Clone) {
    wait_until("the client is let in", || clone.shell("just client").output().unwrap().status.success());
}

fn logs(clone: &Clone) {
    let stack = &clone.stack;
    let _ = stack.curl(Some(&stack.pair("bad_client")), &[]);
    let blocks = Page::read("docs/operations.md").blocks();
    let examples: Vec<_> =
        blocks.into_iter().filter(|block| block.language.is_empty()).map(|block| block.text).collect();
    let access = examples.iter().find(|text| text.contains("verify=")).unwrap();
    let access =
        shape(&access.trim_end().replace('\n', " ").replace("valid_user@qt-test.com", "alice@example.com"));
    wait_until("nginx has written it", || {
        shape(&stack.log("nginx/access.log")).lines().any(|line| line == access)
    });
    let refusal = shape(examples.iter().find(|text| text.contains(" 401: ")).unwrap());
    let refusal = refusal.split_once(" 0: ").unwrap().0;
    assert!(shape(&stack.log("server/log")).lines().any(|line| line.starts_with(refusal)), "{refusal}");
    clone.types("just logs 100", 0, "verify=\"SUCCESS\"");
    page::documented("just logs -f");
    let follows = Running::start(stack, clone.shell("just logs -f"));
    clone.runs("just client", 0, "Success!");
    wait_until("it follows", || follows.out().contains("CN=valid_user@qt-test.com"));
}

fn backup_and_restore(clone: &Clone) {
    let stack = &clone.stack;
    clone.types("psql -h \"$PWD/.run/postgres\" -U rollcall rollcall", 0, "");
    let row = stack.row("alice@example.com");
    clone.types(
        "(umask 077; pg_dump --clean --if-exists -h \"$PWD/.run/postgres\" -U rollcall rollcall > rollcall.sql)",
        0,
        "",
    );
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &fs::metadata(clone.folder.join("rollcall.sql")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    // A new state folder.
    clone.types("just down", 0, "stopped");
    fs::remove_dir_all(&stack.state).unwrap();
    clone.types("just up", 0, "making a cluster");
    assert_eq!(stack.row("alice@example.com"), "");
    clone.types(RESTORE, 0, "");
    clone.types("just crl", 0, "valid for");
    assert_eq!(stack.row("alice@example.com"), row);
    clone.runs(ALICE, 0, "Success!");
    assert_ne!(stack.row("alice@example.com"), row);
}

fn devices(clone: &Clone) {
    let request = |key: &str| {
        clone.runs(
            &format!("openssl req -new -newkey {key} -nodes -subj / -keyout own.key -out own.csr"),
            0,
            "",
        )
    };
    let phone = "just enrol alice@example.com --name phone";
    clone.types_as("just enrol EMAIL --name phone", phone, 0, "phone.crt made");
    // The keys that are taken; client and nginx agree with each.
    let keys = ["rsa:2048", "rsa:3072", "rsa:4096", "ed25519", "ec -pkeyopt ec_paramgen_curve:P-384", EC]
        .into_iter();
    for (number, key) in keys.enumerate() {
        request(key);
        let enrol = format!("just enrol alice@example.com --name tablet{number} --csr own.csr");
        let made = format!("tablet{number}.crt made");
        clone.runs(&enrol, 0, &made);
        clone.runs(&format!("just client --cert certs/tablet{number}.crt --key own.key"), 0, "Success!");
    }
    let tablet = "just enrol alice@example.com --name tablet --csr own.csr";
    clone.types_as("just enrol EMAIL --name tablet --csr FILE", tablet, 0, "tablet.crt made");
    let next = "just renew tablet --csr own.csr";
    clone.types_as("just renew NAME --csr FILE", next, 0, "tablet.crt renewed");
    request("rsa:1024");
    let weak = "just enrol alice@example.com --name weak --csr own.csr";
    clone.runs(weak, 1, "RSA with 1024 bits; rollcall takes RSA with 2048, 3072 or 4096 bits");

    let other = "just enrol alice@example.com --name other";
    clone.runs(other, 0, "other.crt made");
    clone.runs(other, 0, "was enrolled already");
    let noted = "just enrol alice@example.com --cert certs/other.crt";
    clone.types_as("just enrol EMAIL --cert FILE", noted, 0, "noted");
    let bundle = "export ROLLCALL_P12_PASSWORD=secret; just enrol alice@example.com --p12";
    clone.types_as("just enrol EMAIL --p12", bundle, 0, "alice@example.com.p12 made");
    clone.runs(&format!("{bundle}-legacy"), 0, "whose encryption (RC2, 3DES) is weak");
    clone.types("just certs --expiring 30d", 0, "");
    clone.types_as("just user", "just user list", 0, "alice@example.com");
    clone.types("just renew-server", 0, "server.crt made");
    clone.types(
        "just renew-server rollcall.example.com 192.0.2.1",
        0,
        "DNS:rollcall.example.com…IP:192.0.2.1",
    );
    clone.runs("just renew-server --without 192.0.2.1", 0, "DNS:rollcall.example.com");
}

fn revocation(clone: &Clone) {
    let serial = |name: &str| {
        let script = format!("openssl x509 -in certs/{name}.crt -noout -serial | sed 's/serial=//'");
        clone.runs(&script, 0, "").trim().to_owned()
    };
    clone.types_as("just revoke NAME…", "just revoke phone", 0, "revoked");
    clone.runs("just client --cert certs/phone.crt --key certs/phone.key", 77, "refused by");
    clone.types_as("just revoke SERIAL…", &format!("just revoke {}", serial("other")), 0, "revoked");
    let away =
        "export DATABASE_URL='postgres://rollcall@127.0.0.1:1/rollcall?sslmode=disable'; just revoke tablet";
    clone.runs(away, 69, "Connection refused");
    clone.types_as("just revoke EMAIL…", "just revoke alice@example.com", 0, "revoked");
    clone.types_as("just revoke", "just revoke alice@example.com", 0, "was revoked already");
    clone.types_as(
        "just revoke SERIAL --unknown",
        "just revoke ABCDEF --unknown",
        0,
        "ABCDEF revoked by its number",
    );
    clone.runs(ALICE, 77, "refused by");
    clone.runs("just enrol alice@example.com", 1, "alice@example.com.crt is revoked");
    clone.types_as("just renew NAME", "just renew alice@example.com", 0, "renewed");
    let gone = "rm certs/alice@example.com.key; just renew alice@example.com --new-key";
    clone.types_as("just renew NAME --new-key", gone, 0, "renewed");
    clone.runs(ALICE, 0, "Success!");
}

/// A dump from before a revocation is restored, twice.
fn forgotten_revocations(clone: &Clone) {
    clone.runs("just enrol erin@example.com --name erin", 0, "erin.crt made");
    let dump = "pg_dump --clean --if-exists -h \"$PWD/.run/postgres\" -U rollcall rollcall > rollcall.sql";
    clone.runs(dump, 0, "");
    clone.runs("just revoke erin", 0, "revoked");
    let erin = "just client --cert certs/erin.crt --key certs/erin.key";
    clone.runs(RESTORE, 0, "");
    clone.types("just crl", 0, "(erin@example.com, erin) revoked again");
    clone.runs(erin, 77, "refused by");
    clone.runs(RESTORE, 0, "");
    clone.types("just crl --drop-forgotten", 0, "valid for");
    wait_until("nginx has the list", || clone.shell(erin).output().unwrap().status.success());
}

/// `certs/issued` as the version before left it: a copy of each certificate, the devices, and the index of openssl.
fn list_of_an_earlier_version(clone: &Clone) {
    let before = r#"
        openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj / -keyout gina.key -out gina.csr
        ROLLCALL_SIGN_CN=erin@example.com certs/ca sign <gina.csr >gina.crt
        serial=$(openssl x509 -in gina.crt -noout -serial | sed 's/serial=//')
        mkdir certs/issued; cp gina.crt certs/issued/$serial.pem; echo "$serial tablet-of-erin" >certs/issued/names
        printf 'R\t351231235959Z\t260101000000Z\t%s\tunknown\t/CN=erin@example.com\n' $serial >certs/issued/index.txt"#;
    clone.runs(before, 0, "");
    clone.runs("just crl", 0, "imported: 1 certificates");
    clone.runs("just certs --json | grep tablet-of-erin", 0, "\"state\":\"revoked\"");
    assert!(clone.folder.join("certs/issued.imported").exists());
    clone.runs("just client --cert gina.crt --key gina.key", 77, "FAILED:certificate revoked");
}

/// The CA is renewed with its key, replaced, and its key encrypted.
fn authority(clone: &Clone) {
    let kept = "cp certs/ca.crt old-ca.crt";
    clone.runs(kept, 0, "");
    clone.types("just ca renew", 0, "ca.crt renewed until");
    seen(clone);
    clone.runs(&format!("{ALICE} --ca old-ca.crt"), 0, "Success!");

    clone.runs(&format!("{kept}; cp certs/client.crt old.crt; cp certs/client.key old.key"), 0, "");
    clone.runs("just ca replace --finish", 1, "no CA is being replaced");
    clone.types("just ca replace", 0, "stays trusted until just ca replace --finish");
    clone.runs("just ca replace", 0, "stays trusted until just ca replace --finish");
    seen(clone);
    clone.runs("just client --ca old-ca.crt", 0, "Success!");
    clone.runs("just renew client && just client", 0, "Success!");
    // Alice has no new certificate yet.
    clone.types("just ca replace --finish", 1, "alice@example.com");
    clone.types("just ca replace --finish --yes", 0, "is not trusted any more");
    page::documented("just ca replace [--finish] [--yes]");
    seen(clone);
    clone.runs("just client --cert old.crt --key old.key", 77, "refused by nginx");
    clone.runs("just client --ca old-ca.crt", 76, "no TLS with the server");
    clone.runs("just certs", 0, "untrusted");
    clone.runs(ALICE, 77, "refused by nginx");
    clone.runs("just renew alice@example.com", 0, "renewed");
    clone.runs(ALICE, 0, "Success!");

    clone.runs("just renew client", 0, "renewed");
    clone.runs("cp certs/ca.crt kept.crt; rm certs/ca.crt; just up", 0, "ca.crt made again");
    clone.runs("mv certs/ca.key away.key; just up", 1, "put the key back");
    clone.runs("mv away.key certs/ca.key", 0, "");
    let passphrase = "(umask 077; echo secret >passphrase); export ROLLCALL_CA_PASSIN=file:$PWD/passphrase; ";
    clone.types_as("just ca protect", &format!("{passphrase}just ca protect"), 0, "ca.key encrypted");
    clone.runs("grep -q 'BEGIN ENCRYPTED PRIVATE KEY' certs/ca.key", 0, "");
    clone.runs(&format!("{passphrase}just crl"), 0, "valid for");
    clone.runs(
        "setsid -w stack/run rollcall-admin crl",
        1,
        "ROLLCALL_CA_PASSIN says where its passphrase is",
    );
    clone.runs(&format!("{passphrase}just renew alice@example.com"), 0, "renewed");
    seen(clone);
    clone.runs(ALICE, 0, "Success!");
    // The steps below need no passphrase.
    clone.runs(
        "openssl pkey -in certs/ca.key -passin pass:secret -out open && cat open >certs/ca.key",
        0,
        "",
    );
}

/// The command in ROLLCALL_SIGN gets its order in the variables of the table, and its answer is checked.
fn signer(clone: &Clone) {
    let prose = Page::read("docs/reference.md").prose();
    let table = prose.split_once("## The order of a signer").unwrap().1;
    let table = table.split_once("| variable |").unwrap().1.split_once("\n\n").unwrap().0;
    let order = table.lines().skip(2).filter(|row| !row.contains("`certs/ca` alone"));
    let names = order.flat_map(|row| row.split('|').nth(1).unwrap().split(','));
    let mut documented: Vec<&str> = names.map(|name| name.trim().trim_matches('`')).collect();
    documented.sort_unstable();

    let script = "pwd >../order; env | grep -o '^ROLLCALL_SIGN_[A-Z]*' | sort >>../order; exec bash ca sign";
    fs::write(clone.folder.join("sign"), script).unwrap();
    let with = |command: &str, exit, said: &str| {
        let enrol = "just enrol frank@example.com --name frank";
        clone.runs(&format!("export ROLLCALL_SIGN='{command}'; {enrol}"), exit, said);
    };
    // These are no answers to the order.
    with("exit 3", 1, "failed: exit status: 3");
    with("cat client.crt", 1, "a certificate of another key");
    for (other, said) in [
        ("CN=b@example.com", "was asked for"),
        ("SAN=email:b@example.com", "beside frank@example.com"),
        ("USAGE=serverAuth", "do not make it one for clientAuth"),
        ("UNTIL=20990101000000Z", "it lives for longer than was asked"),
        ("UNTIL=20250101000000Z ROLLCALL_SIGN_FROM=20240101000000Z", "it is not valid now"),
    ] {
        with(&format!("ROLLCALL_SIGN_{other} bash ca sign"), 1, said);
    }
    assert!(!clone.folder.join("certs/frank.crt").exists());
    with("bash ../sign", 0, "frank.crt made");
    clone.runs("just client --cert certs/frank.crt --key certs/frank.key", 0, "Success!");
    let order = fs::read_to_string(clone.folder.join("order")).unwrap();
    let (folder, names) = order.split_once('\n').unwrap();
    assert_eq!(folder, clone.folder.join("certs").to_str().unwrap());
    assert_eq!(names.lines().collect::<Vec<_>>(), documented);
    clone.runs("export ROLLCALL_CERT_DAYS=2; just renew frank; just certs --expiring 3d", 0, "frank@");
    clone.runs("export ROLLCALL_CERT_DAYS=0; just renew frank", 78, "ROLLCALL_CERT_DAYS");
}

/// A stack of somebody else's CA.
fn company(clone: &Clone) {
    let other = Clone::new();
    let theirs = clone.folder.join("certs").display().to_string();
    let external = "export ROLLCALL_CA=external; ";
    other.runs(&format!("{external}just up"), 1, "ca.crt is missing or empty: give it");
    other.runs(&format!("cp {theirs}/{{ca.crt,server.crt,server.key}} certs"), 0, "");
    other.runs(&format!("{external}just up"), 0, "nginx        ready");
    let enrol = "just enrol alice@example.com";
    other.runs(&format!("{external}{enrol}"), 78, "this host cannot sign");
    let certificate = format!("{theirs}/alice@example.com.crt");
    other.runs(&format!("{external}{enrol} --cert {certificate}"), 0, "noted");
    let alice = format!("just client --cert {certificate} --key {theirs}/alice@example.com.key");
    other.runs(&alice, 0, "Success!");
    // nginx reads their CRL once it is there.
    let files = format!("{external}export ROLLCALL_CRL=files; ");
    other.runs(&format!("{files}just up"), 1, "there is no CRL for nginx");
    let given = format!("mkdir -p certs/crl.d; cp {theirs}/crl.pem certs/crl.d; {files}");
    other.runs(&format!("{given}just up"), 0, "CRL          valid");
    other.runs("grep -q 'ssl_session_cache *off;' .run/nginx/nginx.conf", 0, "");
    other.runs(&alice, 0, "Success!");
    clone.runs("just revoke alice@example.com", 0, "revoked");
    other.runs(&format!("{given}just crl"), 0, "valid for");
    let refused = || text(&other.shell(&alice).output().unwrap()).contains("FAILED:certificate revoked");
    wait_until("nginx refuses it", refused);
    // The same list at a server of theirs, which goes away.
    let fetch = format!(
        "{external}(cd {theirs}; exec python3 -m http.server {port} --bind 127.0.0.1) & \
         export ROLLCALL_CRL=http://127.0.0.1:{port}/crl.pem; \
         until curl -fsS -o /dev/null $ROLLCALL_CRL; do sleep 0.1; done; just crl; kill $!; wait $! || true; just crl",
        port = free_port()
    );
    other.runs(&fetch, 1, "its last good copy stays in use");
    other.runs(&format!("{external}just revoke alice@example.com"), 0, "revoked");
}

fn announcing_key(clone: &Clone) {
    let public = || fs::read_to_string(clone.folder.join("certs/broadcast.pub")).unwrap();
    let first = public();
    // Called off, lost, then rotated in its steps, then at once.
    clone.types("just rotate-key", 0, "Copy it to every listener");
    clone.types("rm certs/broadcast.next.*", 0, "");
    clone.runs("just rotate-key --switch", 1, "there is no broadcast.next.pub");
    clone.runs("rm certs/broadcast.key", 0, "");
    clone.types("install -m 0600 .run/server/own/broadcast.key certs/", 0, "");
    clone.runs("just up", 0, "ready");
    assert_eq!(public(), first);

    clone.types("just rotate-key", 0, "Copy it to every listener");
    let both = format!(
        "cd certs; rollcall-listen --key broadcast.pub --key broadcast.next.pub --port {}",
        clone.stack.broadcast_port
    );
    let listener = clone.listens_as("rollcall-listen --key broadcast.pub --key broadcast.next.pub", &both);
    seen(clone);
    wait_until("it hears the old key", || listener.out().matches("valid_user").count() == 1);
    clone.types("just rotate-key --switch", 0, "settings changed: restarting");
    seen(clone);
    wait_until("it hears the new key", || listener.out().matches("valid_user").count() == 2);
    drop(listener);
    clone.types("just rotate-key --finish", 0, "believes");
    let second = public();
    assert_ne!(second, first);
    clone.types("just rotate-key && just rotate-key --switch && just rotate-key --finish", 0, "believes");
    assert_ne!(public(), second);
}

fn pseudonyms(clone: &Clone) {
    let lines = block("export ROLLCALL_PRIVACY=pseudonym");
    for line in lines.lines() {
        page::documented(line.split("  #").next().unwrap());
    }
    let resolves = Running::start(&clone.stack, clone.shell(&lines));
    let hears = || {
        let pseudonym = clone.shell("export ROLLCALL_PRIVACY=pseudonym; just client").output().unwrap();
        pseudonym.status.success() && resolves.out().contains("User Email   : valid_user@qt-test.com")
    };
    wait_until("it shows the person", hears);
    let other = clone.listens_as("just listen", "just listen");
    seen(clone);
    wait_until("others see the pseudonym", || other.out().contains("@pseudonym.invalid"));
    clone.runs("just status", 0, "announces pseudonym");
    drop(resolves);
    clone.types("rm certs/privacy.key", 0, "");
    clone.runs("export ROLLCALL_PRIVACY=pseudonym; just up", 0, "settings changed: restarting");
    clone.runs("just up", 0, "WARNING: it announced pseudonyms; from now on it announces emails");
    clone.runs("just status", 0, "announces clear");
}

/// The members that are always there, in the order of the table.
fn json(clone: &Clone) {
    let listener = clone.listens_as("just listen --json", "just listen --json");
    seen(clone);
    wait_until("it prints a line", || listener.out().contains('\n'));
    let line = listener.out();
    let prose = Page::read("docs/operations.md").prose();
    let table = prose.split_once("| member |").unwrap().1.split_once("\n\n").unwrap().0;
    let members = table.lines().skip(2).flat_map(|row| row.split('|').nth(1).unwrap().split(','));
    let mut rest = line.as_str();
    for member in members
        .map(|name| name.trim().trim_matches('`'))
        .filter(|name| !["pseudonym", "doubt"].contains(name))
    {
        rest = rest
            .split_once(&format!("\"{member}\":"))
            .unwrap_or_else(|| panic!("{member} is not next in {line}"))
            .1;
    }
    assert!(!rest.contains("\":"), "{rest}");
}

#[test]
fn the_board_of_this_host() {
    let clone = Clone::new();
    clone.runs("ROLLCALL_BOARD=on just up", 0, "ready on http://");
    clone.types("just board", 0, "/?code=");
}
