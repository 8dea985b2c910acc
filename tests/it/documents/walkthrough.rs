//! README.md from top to bottom, on one stack.

use std::fs;

use super::Clone;
use super::page::{self, Page, shape};
use crate::stack::{Running, expect, free_port, text, wait_until};

#[test]
fn readme_from_top_to_bottom() {
    let clone = Clone::new();
    let stack = &clone.stack;
    clone.types("just", 0, "list the recipes");
    clone.types("just demo", 0, "All as expected.");
    clone.types("just status", 1, "nginx        does not run");
    clone.types("just up", 0, "nginx        ready on https://localhost");
    clone.types("just up", 0, "nginx        ready on https://localhost");
    clone.types("just status", 0, "announces clear to 127.255.255.255");
    clone.types("just logs", 0, "server/log");

    let listener = clone.listens_as("just listen", "just listen");
    clone.types("just client", 0, &promised("prints `", "`"));
    let example = example("Source Packet");
    wait_until("the listener prints it", || listener.out().lines().count() == example.lines().count());
    assert_eq!(shape(&listener.out()), shape(&example));
    drop(listener);

    clone.types("just enrol alice@example.com", 0, "alice@example.com.crt made");
    clone.types(
        "just client --cert certs/alice@example.com.crt --key certs/alice@example.com.key",
        0,
        "Success! (204 No Content)",
    );
    clone.types("just enrol alice@example.com --name phone", 0, "phone.crt made");
    clone.types("just certs", 0, "alice@example.com");
    clone.types("just renew phone", 0, "phone.crt renewed");
    clone.runs("just client --cert certs/phone.crt --key certs/phone.key", 0, "Success!");
    clone.types_as("just revoke NAME", "just revoke phone", 0, "revoked");
    clone.runs("just renew phone", 0, "phone.crt renewed");
    clone.types("just revoke alice@example.com", 0, "revoked");
    clone.types("just client --cert certs/phone.crt --key certs/phone.key", 77, "refused by");
    clone.runs("just client --cert certs/bad_client.crt --key certs/bad_client.key", 77, "refused by");

    clients(&clone);
    who(&clone);
    listeners(&clone);
    certificates(&clone);
    people(&clone);
    page::documented("just doctor");
    // A commit of a busy machine may take longer than the doctor waits for it.
    wait_until("nothing is red", || text(&clone.shell("just doctor").output().unwrap()).contains(" 0 red"));
    for check in ["network", "nginx", "server", "database", "certificates", "keys", "disk"] {
        let line = format!("just doctor {check}");
        clone.types_as(
            "just doctor [network|nginx|server|database|certificates|keys|disk]",
            &line,
            0,
            "green ",
        );
    }
    clone.types("just doctor disk", 0, "are free on the disk of");
    settings(&clone);

    // Moved after `just down`, the clone is the same as before.
    let row = stack.row("valid_user@qt-test.com");
    clone.types("just down", 0, "PostgreSQL   stopped");
    clone.types("just down", 0, "PostgreSQL   stopped");
    moved(&clone, &row);
}

/// The words of README.md between these.
fn promised(before: &str, after: &str) -> String {
    let prose = Page::read("README.md").prose();
    prose.split_once(before).unwrap().1.split_once(after).unwrap().0.to_owned()
}

/// The example of README.md that holds this.
fn example(text: &str) -> String {
    let blocks = Page::read("README.md").blocks();
    blocks.into_iter().find(|block| block.language.is_empty() && block.text.contains(text)).unwrap().text
}

fn clients(clone: &Clone) {
    let stack = &clone.stack;
    page::documented("just client --every 30s");
    let kept = Running::start(stack, clone.shell("just client --every 30s"));
    wait_until("it was seen", || kept.out().contains("Success!"));
    assert_eq!(kept.err(), "");
    drop(kept);
    let line = format!("just client --url {} --ca certs/ca.crt --timeout 10s --attempts 3", stack.url());
    let shape = "just client --url https://HOST:PORT --ca FILE --timeout 10s --attempts 3";
    clone.types_as(shape, &line, 0, "Success!");
}

fn who(clone: &Clone) {
    let stack = &clone.stack;
    // Nobody else is expected, however long the lines above took.
    clone.runs("just user disable alice@example.com", 0, "disabled");
    page::documented("just client --every auto");
    let auto = Running::start(stack, clone.shell("just client --every auto"));
    wait_until("it was seen", || auto.out().contains("Success!"));
    page::documented("just who --exit-code");
    wait_until("the board has read it", || clone.shell("just who --exit-code").status().unwrap().success());
    clone.types("just who", 0, "online");
    clone.runs("just user reads alice@example.com all", 0, "may see: all");
    let shape = "just who [EMAIL] [--state late,offline] [--watch] [--json] [--exit-code]";
    let json = "just who valid_user@qt-test.com --json";
    clone.types_as(shape, json, 0, r#""email":"valid_user@qt-test.com""#);
    let head = "just who --state late,offline";
    assert_eq!(clone.types_as(shape, head, 0, "STATE").lines().count(), 2);
    // Without the folder of the state it asks over nginx.
    // A program that was started without just names programs.
    clone.types("rollcall-client who", 77, "rollcall-admin user reads valid_user@qt-test.com all");
    let shape = "rollcall-client who --cert FILE --key FILE --ca FILE --url https://HOST:PORT";
    let own = format!(
        "rollcall-client who valid_user@qt-test.com --cert certs/client.crt --key certs/client.key --ca certs/ca.crt --url {}",
        stack.url()
    );
    clone.types_as(shape, &own, 0, "online");
    page::documented("just who --watch");
    let watch = Running::start(stack, clone.shell("just who --watch"));
    let mut number = 0;
    wait_until("it tells of somebody new", || {
        number += 1;
        clone.runs(&format!("just user add new{number}@example.com"), 0, "enrolled");
        watch.out().contains("@example.com - -> never")
    });
}

fn listeners(clone: &Clone) {
    let stack = &clone.stack;
    fs::write(clone.folder.join("people"), "valid_user@qt-test.com\n").unwrap();
    let port = format!("just listen --port {} --bind 0.0.0.0 --join 239.255.66.67%lo", stack.broadcast_port);
    for (documented, line) in [
        ("just listen --json", "just listen --json"),
        ("just listen --count 1 --timeout 20s", "just listen --count 1 --timeout 20s"),
        ("just listen --key FILE", "just listen --key certs/broadcast.pub --accept-unsigned"),
        ("just listen --stats-file FILE", "just listen --stats-file heard.prom"),
        ("just listen --state FILE --max-age 5m --stats", "just listen --state heard --max-age 5m --stats"),
        (
            "just listen --privacy-key certs/privacy.key --people FILE",
            "just listen --privacy-key certs/privacy.key --people people",
        ),
        ("just listen --port 6667 --bind 0.0.0.0 --join GROUP", &port),
        ("just listen --port", &port),
    ] {
        let listener = clone.listens_as(documented, line);
        clone.runs("just client", 0, "Success!");
        wait_until("it prints the status", || listener.out().contains("valid_user@qt-test.com"));
    }
    let nobody = format!("rollcall-listen --count 1 --timeout 1ms --port {}", free_port());
    clone.types_as("rollcall-listen --count", &nobody, 1, "received 0");
}

fn certificates(clone: &Clone) {
    clone.runs(&request("tablet"), 0, "");
    let shape = "just enrol EMAIL [--name NAME] [--csr FILE | --cert FILE] [--p12 | --p12-legacy]";
    clone.types_as(shape, "just enrol bob@example.com --name tablet --csr tablet.csr", 0, "tablet.crt made");
    clone.runs("just enrol bob@example.com --cert certs/tablet.crt", 0, "noted");
    let bundle = "ROLLCALL_P12_PASSWORD=secret; export ROLLCALL_P12_PASSWORD; just enrol bob@example.com --name desk --p12";
    clone.runs(bundle, 0, "desk.p12 made");
    assert!(clone.folder.join("certs/desk.p12").exists());
    let json = "just certs --expiring 366d --json";
    let certs = clone.types_as("just certs [--expiring 30d] [--json]", json, 0, "\"serial\"");
    members(&certs);
    clone.types("just certs --json", 0, "\"state\":\"valid\"");
    clone.types_as("just renew NAME", "just renew desk", 0, "desk.crt renewed");
    clone.types_as("just renew", "just renew tablet", 1, "the key of tablet is on its device");
    let next = "just renew tablet --csr tablet.csr";
    clone.types_as("just renew NAME [--csr FILE | --new-key]", next, 0, "tablet.crt renewed");
    clone.types_as("just renew --csr", next, 0, "tablet.crt renewed");
    let more = "just renew-server 127.0.0.3 127.0.0.2";
    clone.types_as("just renew-server NAME", more, 0, "IP:127.0.0.3");
    let shape = "just renew-server [NAME…] [--without NAME]";
    let output = clone.types_as(shape, "just renew-server --without 127.0.0.3", 0, "IP:127.0.0.2");
    assert!(!output.contains("127.0.0.3"), "{output}");
    clone.types_as("just revoke EMAIL|NAME|SERIAL… [--unknown]", "just revoke desk tablet", 0, "revoked");
    clone.types("just crl", 0, "valid for");
    clone.types_as("just crl [--if-due] [--drop-forgotten]", "just crl --if-due", 0, "valid for");
    clone.types("stack/run rollcall-admin crl --if-due", 0, "valid for");
    clone.runs("just ca init", 0, "");
    clone.types_as("just rotate-key [--switch|--finish]", "just rotate-key --finish", 0, "nothing to do");
}

/// Makes NAME.key and NAME.csr.
fn request(name: &str) -> String {
    format!(
        "openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj / -keyout {name}.key -out {name}.csr"
    )
}

/// The members of docs/reference.md, and no others.
fn members(certs: &str) {
    let line = certs.lines().find(|line| line.starts_with('{')).unwrap();
    let object: serde_json::Value = serde_json::from_str(line).unwrap();
    let prose = Page::read("docs/reference.md").prose();
    let table = prose.split_once("| member |").unwrap().1.split_once("\n\n").unwrap().0;
    let documented: Vec<&str> =
        table.lines().skip(2).map(|row| row.split('|').nth(1).unwrap().trim().trim_matches('`')).collect();
    let members: Vec<&str> = object.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(members, documented, "{line}");
}

fn people(clone: &Clone) {
    // The CA has signed it, and no row knows the person.
    clone.runs(&request("carol"), 0, "");
    page::documented("certs/ca sign");
    clone.runs("ROLLCALL_SIGN_CN=carol@example.com certs/ca sign <carol.csr >carol.crt", 0, "");
    let carol = "just client --cert carol.crt --key carol.key";
    clone.runs(carol, 77, "is not enrolled");
    clone.types_as("just user add EMAIL…", "just user add carol@example.com dave@example.com", 0, "enrolled");
    clone.runs("just user add carol@example.com", 0, "was enrolled already");
    clone.runs(carol, 0, "Success!");
    clone.types_as("just user disable EMAIL…", "just user disable carol@example.com", 0, "disabled");
    clone.runs(carol, 77, "disabled");
    clone.types_as("just user enable EMAIL…", "just user enable carol@example.com", 0, "enabled");
    clone.runs("just user enable carol@example.com", 0, "was enabled already");
    clone.runs(carol, 0, "Success!");
    clone.types_as("just user list [--json]", "just user list --json", 0, "carol@example.com");
    clone.types("just user mend", 0, "");
    for line in ["just user every EMAIL 5m", "just user every EMAIL 5m|client"] {
        clone.types_as(line, "just user every carol@example.com 5m", 0, "is expected every 5m");
    }
    let client = "just user every carol@example.com client";
    clone.types_as("just user every EMAIL client", client, 0, "is expected as its client says");
    for line in ["just user reads EMAIL all", "just user reads EMAIL none|self|all"] {
        clone.types_as(line, "just user reads carol@example.com all", 0, "carol@example.com may see: all");
    }
    for line in ["just history EMAIL", "just history EMAIL [--since 7d] [--json]"] {
        clone.types_as(line, "just history carol@example.com --since 7d", 0, "");
    }
    clone.types_as("just user export EMAIL", "just user export carol@example.com", 0, "\"certificates\":[");
    for line in ["just user forget EMAIL", "just user forget EMAIL…"] {
        clone.types_as(
            line,
            "just user add erin@example.com; just user forget erin@example.com",
            0,
            "forgotten",
        );
    }
    clone.types("just user disable valid_user@qt-test.com", 0, "disabled");
    clone.runs("just up && just client", 77, "disabled");
    clone.runs("just user enable valid_user@qt-test.com && just client", 0, "Success!");
}

/// `--check` says one thing, the first; nothing if all is well.
fn settings(clone: &Clone) {
    let database = "export DATABASE_URL=postgres://rollcall@localhost/rollcall?sslmode=disable; ";
    let check = "target/release/rollcall-server --check";
    assert_eq!(clone.runs(&format!("{database}{check}"), 0, ""), "");
    let wrong = "export ROLLCALL_DEADLINE=2m ROLLCALL_LOG=warning; ";
    let said = clone.runs(&format!("{database}{wrong}{check}"), 78, "ROLLCALL_DEADLINE");
    assert!(said.contains("must be between 500ms and 1m") && said.lines().count() == 1, "{said}");
    for (setting, said) in [
        ("ROLLCALL_LOG=warning", "error, warn, info, debug, trace and off are, also as TARGET=LEVEL"),
        ("DATABASE_URL=postgres://a@b,c/d", "several hosts"),
        ("DATABASE_URL=postgres://a@b/c?connect_timeout=3", "no effect; leave it out: ROLLCALL_DEADLINE"),
        ("DATABASE_URL=postgres://a@b/c", "over TCP and has no sslmode; sslmode=verify-full"),
    ] {
        clone.runs(&format!("{database}export {setting}; {check}"), 78, said);
    }
    clone.runs("ROLLCALL_LOG_SIZE=1.5 stack/up", 1, "ROLLCALL_LOG_SIZE");
    // Another port than 8000, as the answer to the question about it says.
    // For a moment after the reload, nginx's old workers still ask at the old port.
    for up in [format!("export ROLLCALL_LISTEN=127.0.0.1:{}; just up", free_port()), "just up".to_owned()] {
        clone.runs(&up, 0, "nginx        ready");
        wait_until("it answers", || clone.shell("just client").output().unwrap().status.success());
    }
}

fn moved(clone: &Clone, row: &str) {
    let folder = clone.folder.with_extension("moved");
    fs::rename(&clone.folder, &folder).unwrap();
    let shell = |script: &str, exit, said: &str| {
        let mut command = clone.shell(script);
        expect(command.current_dir(&folder), exit, said);
    };
    shell("just up", 0, "nginx        ready");
    shell("just user list", 0, "valid_user@qt-test.com");
    shell("just client", 0, "Success!");
    let last: u64 = row.split('|').next().unwrap().parse().unwrap();
    let rows = "psql -qXAt -h \"$PWD/.run/postgres\" -U rollcall rollcall -c \"select last_seen_ns from users where email = 'valid_user@qt-test.com'\"";
    let output = clone.shell(rows).current_dir(&folder).output().unwrap();
    assert!(text(&output).trim().parse::<u64>().unwrap() > last, "{}", text(&output));

    // Deleted while it runs, it leaves its programs behind.
    page::documented_as("pgrep -af CLONE/.run", "pgrep -af clone");
    fs::remove_dir_all(&folder).unwrap();
    let left = || {
        let output = clone.stack.command("pgrep").arg("-af").arg(folder.join(".run")).output().unwrap();
        let text = text(&output);
        // The line itself has the folder in it.
        text.lines().filter(|line| !line.contains("pgrep")).map(str::to_owned).collect::<Vec<_>>()
    };
    for program in ["postgres", "rollcall-server", "nginx", "rollcall-signer", "keep-logs"] {
        assert!(left().iter().any(|line| line.contains(program)), "{program}: {:#?}", left());
    }
    for process in left() {
        expect(clone.stack.command("kill").arg(process.split(' ').next().unwrap()), 0, "");
    }
    wait_until("they have ended", || left().is_empty());
    fs::create_dir(&clone.folder).unwrap();
}
