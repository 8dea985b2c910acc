//! docs/operations.md: backup, keys, certificates and pseudonyms, on one stack, step by step.

use std::fs;

use super::Clone;
use super::page::{self, Page, block, shape};
use crate::stack::{Running, text, wait_until};

const ALICE: &str = "just client --cert certs/alice@example.com.crt --key certs/alice@example.com.key";

#[test]
fn operations_step_by_step() {
    let clone = Clone::new();
    clone.runs("just up", 0, "nginx        ready");
    clone.types_as("just enrol EMAIL", "just enrol alice@example.com", 0, "noted");
    clone.runs(ALICE, 0, "Success!");
    logs(&clone);
    backup_and_restore(&clone);
    devices(&clone);
    revocation(&clone);
    authority(&clone);
    announcing_key(&clone);
    pseudonyms(&clone);
    json(&clone);
    clone.types("rm .run/proxy-credential", 0, "");
    clone.runs("just up", 0, "settings changed: restarting");
    seen(&clone);
}

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
    clone.types(
        "psql -1 -v ON_ERROR_STOP=1 -h \"$PWD/.run/postgres\" -U rollcall -d rollcall -f rollcall.sql",
        0,
        "",
    );
    assert_eq!(stack.row("alice@example.com"), row);
    clone.runs(ALICE, 0, "Success!");
    assert_ne!(stack.row("alice@example.com"), row);
}

fn devices(clone: &Clone) {
    clone.runs("openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj / -keyout own.key -out own.csr", 0, "");
    clone.types_as(
        "just enrol EMAIL --name phone",
        "just enrol alice@example.com --name phone",
        0,
        "made phone.crt",
    );
    let tablet = "just enrol alice@example.com --name tablet --csr own.csr";
    clone.types_as("just enrol EMAIL --name tablet --csr FILE", tablet, 0, "made tablet.crt");
    clone.runs("just client --cert certs/tablet.crt --key own.key", 0, "Success!");
    clone.types_as(
        "just enrol EMAIL --name OTHER",
        "just enrol alice@example.com --name other",
        0,
        "made other.crt",
    );
    clone.types_as("just enrol", "just enrol alice@example.com --name other", 0, "");
    clone.types("just certs --expiring 30d", 0, "");
    clone.types_as(
        "certs/ca client CN NAME",
        "certs/ca client somebody@example.com somebody",
        0,
        "made somebody.crt",
    );
    clone.runs("just client --cert certs/somebody.crt --key certs/somebody.key", 77, "is not enrolled");
    clone.types_as("just user", "just user list", 0, "alice@example.com");
    clone.types("just renew-server", 0, "renewed server.crt");
    clone.types_as(
        "just renew-server NAME…",
        "just renew-server rollcall.example.com 192.0.2.1",
        0,
        "renewed",
    );
    clone.runs(
        "openssl x509 -in certs/server.crt -noout -ext subjectAltName",
        0,
        "DNS:rollcall.example.com…192.0.2.1",
    );
}

fn revocation(clone: &Clone) {
    let serial = |name: &str| {
        let script = format!("openssl x509 -in certs/{name}.crt -noout -serial | sed 's/serial=//'");
        clone.runs(&script, 0, "").trim().to_owned()
    };
    clone.types_as("just revoke NAME…", "just revoke phone", 0, "revoked");
    clone.runs("just client --cert certs/phone.crt --key certs/phone.key", 77, "refused by");
    clone.types_as("just revoke SERIAL…", &format!("just revoke {}", serial("other")), 0, "revoked");
    // While the database is away nginx alone is told, and the server later.
    let away = "export DATABASE_URL=postgres://rollcall@127.0.0.1:1/rollcall; just revoke tablet";
    clone.runs(away, 1, "without the database nothing is revoked");
    let revoke = format!("certs/ca revoke {}", serial("tablet"));
    clone.types_as("certs/ca revoke SERIAL", &revoke, 0, "");
    clone.types_as("certs/ca revoke", &revoke, 0, "");
    clone.types("just crl", 0, "valid for");
    let tablet = || clone.shell("just client --cert certs/tablet.crt --key own.key").output().unwrap();
    wait_until("nginx refuses it", || text(&tablet()).contains("FAILED:certificate revoked"));
    clone.types_as("just revoke SERIAL", &format!("just revoke {}", serial("tablet")), 0, "revoked");
    clone.types_as("just revoke EMAIL…", "just revoke alice@example.com", 0, "revoked");
    clone.types_as("just revoke", "just revoke alice@example.com", 0, "");
    clone.runs(ALICE, 77, "refused by");
    clone.runs("just renew alice@example.com", 0, "renewed");
    clone.runs(ALICE, 0, "Success!");
}

/// The CA is renewed with its key, and replaced.
fn authority(clone: &Clone) {
    clone.runs("cp certs/ca.crt old-ca.crt", 0, "");
    let renew = block("openssl x509 -in certs/ca.crt -signkey certs/ca.key -days 3650 -out certs/ca.crt.new");
    clone.runs(&renew, 0, "settings changed: reloading");
    seen(clone);
    clone.runs(&format!("{ALICE} --ca old-ca.crt"), 0, "Success!");

    clone.runs("just down && cp -R certs before && cp -R .run/server/own own", 0, "stopped");
    let kept = "find certs -mindepth 1 ! -name ca ! -name openssl.cnf ! -name .gitignore ! -name 'broadcast.*' ! -name privacy.key -delete";
    clone.runs(kept, 0, "");
    clone.runs("just up", 0, "made ca.crt");
    seen(clone);
    clone.runs("just client --cert before/client.crt --key before/client.key", 77, "refused by nginx");
    clone.runs("just client --ca before/ca.crt", 76, "no TLS with the server");
    clone.runs("just enrol alice@example.com", 0, "noted");
    clone.runs(ALICE, 0, "Success!");
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
