//! `rollcall-server doctor`, as `just doctor` runs it: its findings on a stack that is well, and on broken ones.

use crate::namespace::Namespace;
use crate::program::signal;
use crate::stack::{Builder, Running, Stack, date, expect, free_port, text, wait_until};
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;

const REPOSITORY: &str = env!("CARGO_MANIFEST_DIR");

/// Its output, line by line, and its exit code.
fn doctor(stack: &Stack, settings: &[(&str, &str)]) -> (Vec<String>, i32) {
    let mut command = stack.command(Path::new(REPOSITORY).join("stack/run"));
    let output = command.args(["rollcall-server", "doctor"]).envs(settings.iter().copied()).output().unwrap();
    assert!(output.stderr.is_empty(), "{}", text(&output));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(!said.contains('\u{1b}'), "a pipe gets no colours: {said}");
    (said.lines().map(str::to_owned).collect(), output.status.code().unwrap())
}

/// Exactly one line begins so.
#[track_caller]
fn says(lines: &[String], expected: &str) {
    let said = lines.iter().filter(|line| line.starts_with(expected)).count();
    assert_eq!(said, 1, "{expected}\n{lines:#?}");
}

/// A certificate of the stack's CA with these dates, in the place of another.
#[track_caller]
fn put(stack: &Stack, name: &str, dates: &[(&str, &str)]) {
    let made = stack.certificate("valid_user@qt-test.com", dates);
    fs::rename(made.cert, stack.pair(name).cert).unwrap();
    fs::rename(made.key, stack.pair(name).key).unwrap();
}

/// A CRL of the stack's CA with these dates.
#[track_caller]
fn list(stack: &Stack, dates: &[(&str, &str)]) -> String {
    let output = stack.tool("certs/ca").arg("crl").envs(dates.iter().copied()).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_stack_that_is_well_is_green_and_is_not_disturbed() {
    let stack = Stack::up();
    let mut command = stack.program("rollcall-listen");
    command.args(["--port", &stack.broadcast_port.to_string(), "--count", "1"]);
    let mut listener = Running::start(&stack, command);
    let shared = format!("green   UDP port {}: shared with rollcall-listen (pid ", stack.broadcast_port);
    wait_until("the listener has bound", || {
        doctor(&stack, &[]).0.iter().any(|line| line.starts_with(&shared))
    });

    let (lines, exit) = doctor(&stack, &[("NO_COLOR", "1")]);
    let datagram = format!("a datagram to 127.255.255.255:{}", stack.broadcast_port);
    says(&lines, &format!("green   {datagram} was sent and heard; it is for programs on this host only"));
    says(&lines, "green   this test sent 1 datagram, which listeners count as foreign and skip");
    says(&lines, &shared);
    says(&lines, "green   the database's clock is ");
    says(&lines, "green   the database knows no certificate that ends within 30 days");
    for (file, days) in
        [("nginx/crl.pem", 29), ("certs/ca.crt", 3649), ("certs/server.crt", 396), ("certs/client.crt", 364)]
    {
        let path = stack.state.join(file);
        assert!(
            lines.iter().any(|line| line.contains(&format!("{} ends in {days} days", path.display()))),
            "{lines:#?}"
        );
    }
    says(&lines, "green   announcements are signed with the key ");
    let counts = format!("{} green, 0 yellow, 0 red; ", lines.len() - 1);
    assert!(lines.last().unwrap().starts_with(&counts), "{lines:#?}");
    assert_eq!(exit, 0);

    let socket = stack.state.join("clerk/socket");
    says(&lines, &format!("green   only nginx can name callers to the server, on {}", socket.display()));

    // Everything goes on, and the listener counts the doctor's datagrams as somebody else's.
    expect(&mut stack.client(&stack.pair("client")), 0, "Success!");
    assert_eq!(listener.exit(), 0, "{}", listener.err());
    assert!(listener.err().contains("unverified 1 (unsigned 0, unchecked 1,"), "{}", listener.err());
    assert!(!listener.err().contains("foreign 0"), "{}", listener.err());
    // And says that it is a test.
    assert!(
        listener.err().contains("heard a test of rollcall-server doctor from 127."),
        "{}",
        listener.err()
    );
    assert!(!listener.err().contains("ignored a datagram"), "{}", listener.err());
    assert_eq!(listener.out().matches("User Email").count(), 1, "{}", listener.out());
}

#[test]
fn the_state_of_the_database_is_judged() {
    let stack = Stack::up();
    says(&doctor(&stack, &[]).0, "green   the server may record in the database");
    stack.sql("revoke update on users from rollcall_server");
    let (lines, exit) = doctor(&stack, &[]);
    says(
        &lines,
        "red     the server cannot record in the database: the role rollcall_server lacks rights of deploy/grants.sql",
    );
    assert_eq!(exit, 1, "{lines:#?}");
    let grants = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/grants.sql");
    expect(stack.psql().arg("-f").arg(grants), 0, "");
    let alter = |change: &str| stack.sql(&format!("alter database {} {change}", stack.database));
    alter("set default_transaction_read_only = on");
    says(&doctor(&stack, &[]).0, "red     the server cannot record in the database: it is read-only");
    stack.sql(&format!(
        "begin read write; alter database {} reset default_transaction_read_only; commit",
        stack.database
    ));

    // A clock that is wrong, as far as a new connection can see.
    stack.sql("create schema wrong; grant usage on schema wrong to rollcall_server");
    alter("set search_path = wrong, public, pg_catalog");
    for (ahead, line, code) in [
        ("30 seconds", "yellow  the database's clock is 30.0s ahead of ours, give or take ", 0),
        ("-10 minutes", "red     the database's clock is 600.0s behind ours, give or take ", 1),
    ] {
        stack.sql(&format!(
            "create or replace function wrong.clock_timestamp() returns timestamptz language sql as \
             $$ select pg_catalog.clock_timestamp() + interval '{ahead}' $$"
        ));
        let (lines, exit) = doctor(&stack, &[]);
        says(&lines, line);
        assert_eq!(exit, code, "{lines:#?}");
    }
    alter("reset search_path");
    stack.sql("update certificates set not_after = extract(epoch from now()) + 29 * 86400");
    let (lines, exit) = doctor(&stack, &[]);
    says(
        &lines,
        "yellow  1 of the certificates in the database end within 30 days; do: just certs --expiring 30d",
    );
    assert_eq!(exit, 0, "{lines:#?}");
    stack.sql("update certificates set revoked_at = now()");
    says(&doctor(&stack, &[]).0, "green   the database knows no certificate that ends within 30 days");

    // A port that nobody answers on.
    let nobody = format!("postgres://rollcall@127.0.0.1:{}/rollcall?sslmode=disable", free_port());
    let (lines, exit) = doctor(&stack, &[("ROLLCALL_SERVER_DATABASE_URL", &nobody)]);
    says(&lines, "red     the database is unreachable or too slow: ");
    let red = lines.iter().filter(|line| line.starts_with("red ")).count();
    assert_eq!((red, exit), (1, 1), "{lines:#?}");
}

#[test]
fn a_server_that_is_not_ready_is_red() {
    let stack = Stack::up();
    let doctor = || {
        let output = stack.program("rollcall-server").args(["doctor", "server"]).output().unwrap();
        (text(&output), output.status.code())
    };
    let server = format!("the server on {}", stack.listen);
    wait_until("it is ready", || doctor() == (format!("green   {server} is ready\n"), Some(0)));
    stack.sql("revoke update on servers from rollcall_server");
    let lacks = format!(
        "red     {server} is not ready: the database does not take heartbeats: the server's role lacks rights of \
         deploy/grants.sql; do: look at the lines of the database; "
    );
    wait_until("it is not ready", || doctor().0.starts_with(&lacks));
    assert_eq!(doctor().1, Some(1));
    signal("STOP", &[stack.pid("server/pid")]);
    let silent = doctor();
    signal("CONT", &[stack.pid("server/pid")]);
    assert!(
        silent.0.starts_with(&format!("red     {server} does not answer: timed out; do: ")),
        "{silent:?}"
    );

    let refused = "does not answer: Connection refused (os error 111); do: just up; ";
    expect(&mut stack.tool("stack/down"), 0, "");
    assert!(doctor().0.starts_with(&format!("red     {server} {refused}")), "{:?}", doctor());
    // Somebody else's word does not count.
    let listener = TcpListener::bind(&stack.listen).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
        }
    });
    let taken = doctor().0;
    let says = format!("red     {} is taken by it-", stack.listen);
    assert!(taken.starts_with(&says) && taken.contains("does not have this stack's credential"), "{taken}");
}

#[test]
fn ended_broken_or_missing_certificates_are_red() {
    let stack = Builder::new().stopped();
    let (lines, exit) = doctor(&stack, &[]);
    says(&lines, &format!("red     the CRL {}/nginx/crl.pem is missing: ", stack.state.display()));
    for name in ["ca", "server"] {
        says(&lines, &format!("red     the certificate {}/{name}.crt is missing: ", stack.certs.display()));
    }
    says(&lines, "yellow  announcements are not signed: ROLLCALL_BROADCAST_KEY is not set");
    says(&lines, &format!("yellow  the server on {} was not asked: ", stack.listen));
    assert_eq!(exit, 1);

    expect(stack.program("rollcall-admin").args(["ca", "init"]), 0, "");
    let ended = [("ROLLCALL_SIGN_FROM", "20200101000000Z"), ("ROLLCALL_SIGN_UNTIL", "20200201000000Z")];
    put(&stack, "server", &ended);
    put(&stack, "client", &ended);
    fs::create_dir(stack.state.join("nginx")).unwrap();
    let crl = stack.state.join("nginx/crl.pem");
    fs::write(&crl, list(&stack, &ended)).unwrap();
    let (lines, exit) = doctor(&stack, &[]);
    for (level, what, file, consequence, advice) in [
        ("red   ", "the CRL", &crl, "nginx refuses everybody", "just crl"),
        (
            "red   ",
            "the certificate",
            &stack.certs.join("server.crt"),
            "no client speaks to this server",
            "just renew-server",
        ),
        (
            "yellow",
            "the certificate",
            &stack.certs.join("client.crt"),
            "just client stops at it",
            "just renew client",
        ),
    ] {
        let line = lines.iter().find(|line| line.contains(&format!("{} ended ", file.display()))).unwrap();
        assert!(line.starts_with(&format!("{level}  {what} ")), "{line}");
        assert!(
            line.contains(&format!("days ago (2020-02-01T00:00:00Z): {consequence}; do: {advice}")),
            "{line}"
        );
    }
    says(
        &lines,
        &format!("green   the certificate {} ends in 3649 days", stack.certs.join("ca.crt").display()),
    );
    assert_eq!(exit, 1);

    // One that holds beside one that has ended changes nothing.
    let until = date(30 * 24 * 60 * 60 - 60);
    let ours = list(&stack, &[("ROLLCALL_SIGN_UNTIL", &until)]);
    fs::write(&crl, ours.clone() + &fs::read_to_string(&crl).unwrap()).unwrap();
    says(&doctor(&stack, &[]).0, &format!("red     the CRL {} ended ", crl.display()));
    fs::write(&crl, ours.replacen("-----\n", "-----\nAAAA", 1)).unwrap();
    says(&doctor(&stack, &[]).0, &format!("red     the CRL {} cannot be used: ", crl.display()));
    fs::write(&crl, ours).unwrap();
    says(&doctor(&stack, &[]).0, &format!("green   the CRL {} ends in 29 days", crl.display()));
}

#[test]
fn the_key_that_signs_is_the_one_that_listeners_were_given() {
    let stack = Builder::new().with_certificates().stopped();
    let key = stack.certs.join("broadcast.key");
    let look = || doctor(&stack, &[("ROLLCALL_BROADCAST_KEY", key.to_str().unwrap())]).0;
    says(&look(), "green   announcements are signed with the key ");
    fs::rename(&key, key.with_extension("old")).unwrap();
    says(&look(), "red     the private key of the broadcast, ");
    // Another key, and another public half with it.
    expect(stack.tool("certs/ca").arg("keys"), 0, "");
    says(&look(), "green   announcements are signed with the key ");
    fs::rename(key.with_extension("old"), &key).unwrap();
    says(&look(), "red     announcements are signed with the key ");
    fs::write(stack.certs.join("broadcast.pub"), "garbage").unwrap();
    says(&look(), "red     the public key of the broadcast, ");
}

#[test]
fn other_faults_that_keep_the_server_from_starting_are_red() {
    let stack = Builder::new().with_certificates().stopped();
    let (key, credential) = (stack.certs.join("broadcast.key"), stack.state.join("proxy-credential"));
    let settings =
        [("ROLLCALL_BROADCAST_KEY", key.to_str().unwrap()), ("DATABASE_URL", "mysql://a:hunter2@b/c")];
    let look = |expected: &str| {
        let (lines, exit) = doctor(&stack, &settings);
        says(&lines, expected);
        assert!(!lines.iter().any(|line| line.contains("hunter2")) && exit == 1, "{lines:#?}");
    };
    look("red     DATABASE_URL is malformed");
    fs::create_dir(stack.state.join("clerk")).unwrap();
    look(&format!("red     cannot read the proxy credential {}: No such file", credential.display()));
    fs::write(&credential, "ab".repeat(32)).unwrap();
    fs::set_permissions(&credential, fs::Permissions::from_mode(0o644)).unwrap();
    look(&format!("red     cannot read the proxy credential {}: mode 0644", credential.display()));
    fs::set_permissions(&credential, fs::Permissions::from_mode(0o600)).unwrap();
    look("green   only nginx can name callers to the server, on ");
    look("green   announcements are signed with the key ");
    let epoch = stack.certs.join("broadcast.key.epoch");
    fs::write(&epoch, "garbage").unwrap();
    look(&format!("red     the last epoch, {}: it is damaged", epoch.display()));
}

#[test]
fn a_key_of_pseudonyms_that_the_server_does_not_start_with_is_red() {
    let stack = Builder::new().stopped();
    let key = stack.state.join("privacy.key");
    let text = key.to_str().unwrap();
    let settings = [("ROLLCALL_PRIVACY", "pseudonym"), ("ROLLCALL_PRIVACY_KEY", text)];
    let says = |level: &str, what: &str| says(&doctor(&stack, &settings).0, &format!("{level}{what}"));
    says("red     ", &format!("the privacy key, {text}: No such file or directory"));
    fs::write(&key, "ab".repeat(32)).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    says("red     ", &format!("the privacy key, {text}: mode 0644: others can read it"));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    says("green   ", "announcements carry pseudonyms");
}

#[test]
fn a_port_held_without_sharing_is_red_and_names_the_holder() {
    let stack = Builder::new().stopped();
    let _holder = UdpSocket::bind(("0.0.0.0", stack.broadcast_port)).unwrap();
    let (lines, exit) = doctor(&stack, &[]);
    let port = stack.broadcast_port;
    let me = std::process::id();
    let line = lines.iter().find(|line| line.contains(&format!("UDP port {port}: "))).unwrap();
    assert!(line.starts_with("red     ") && line.contains(&format!("(pid {me}); do: stop it")), "{line}");
    says(
        &lines,
        &format!(
            "yellow  a datagram to 127.255.255.255:{port} was sent; whether it is heard cannot be tested"
        ),
    );
    assert_eq!(exit, 1);
}

#[test]
fn settings_that_cannot_be_read_end_it_before_it_looks() {
    let stack = Builder::new().stopped();
    for (settings, arguments, exit, said) in [
        (
            &[("ROLLCALL_BROADCAST", "eth0:0")][..],
            &["doctor"][..],
            78,
            "ROLLCALL_BROADCAST: not a broadcast destination: \"eth0:0\"",
        ),
        (&[], &["--broadcast", "a/b", "doctor"], 78, "not a broadcast destination: \"a/b\""),
        (&[("ROLLCALL_DEADLINE", "soon")], &["doctor"], 78, "the setting ROLLCALL_DEADLINE is \"soon\""),
        (&[("ROLLCALL_LISTEN", "x")], &["doctor"], 78, "the setting ROLLCALL_LISTEN is \"x\""),
        (&[], &["doctor", "--broadcast", "auto"], 2, "Unrecognized argument: --broadcast"),
        (&[], &["docter"], 2, "Unrecognized argument: docter"),
        (&[], &["doctor", "--help"], 0, "Exits with 1 if one is red"),
    ] {
        let output =
            stack.program("rollcall-server").envs(settings.iter().copied()).args(arguments).output().unwrap();
        let all = text(&output);
        assert_eq!(output.status.code(), Some(exit), "{arguments:?}: {all}");
        assert!(all.contains(said) && !all.contains("green "), "{arguments:?}: {all}");
    }
}

#[test]
fn each_interface_of_a_host_is_told() {
    let Some(host) = Namespace::new() else { return };
    let Some(lan) = Namespace::new() else { return };
    let stack = Builder::new().in_namespace(&host.name).stopped();
    let look = |broadcast: &str| doctor(&stack, &[("ROLLCALL_BROADCAST", broadcast)]).0;

    let lines = look("auto");
    says(&lines, "green   lo 127.0.0.1: a datagram to 127.255.255.255:6667 was sent and heard");
    says(
        &lines,
        "yellow  auto finds no network and takes the loopback interface: by it only programs on this host hear",
    );
    host.ip("link set lo down");
    says(
        &look("auto"),
        "red     lo 127.0.0.1: a datagram to 127.255.255.255:6667 cannot be sent: Network is unreachable",
    );
    host.ip("addr flush dev lo");
    says(
        &look("auto"),
        "red     no interface can be used, not even lo: it has no IPv4 address; nothing is announced",
    );
    says(
        &look("255.255.255.255"),
        "red     a datagram to 255.255.255.255:6667 cannot be sent: Network is unreachable",
    );
    host.ip("addr add 127.0.0.1/8 dev lo");
    host.ip("link set lo up");

    host.ip(&format!("link add eth0 type veth peer name port netns {}", lan.name));
    lan.ip("link add bridge type bridge");
    lan.ip("link set port master bridge");
    lan.ip("link set bridge up");
    lan.ip("link set port up");
    host.ip("addr add 198.51.100.1/24 brd + dev eth0");
    host.ip("link set eth0 up");
    host.ip("link add docker0 type bridge");
    host.ip("link add one type veth peer name two");
    let heard = "green   eth0 198.51.100.1: a datagram to 255.255.255.255:6667 was sent and heard";
    wait_until("eth0 has a carrier", || look("auto").iter().any(|line| line == heard));
    let lines = look("auto");
    says(
        &lines,
        "green   this test sent 1 datagram, which listeners count as foreign and skip; what is heard here is the kernel's",
    );
    says(&lines, "green   lo: auto does not use it: it is the loopback interface");
    says(&lines, "green   docker0: auto does not use it: by its name it leads to this host's own containers");
    says(&lines, "green   one: auto does not use it: it is down");
    host.ip("addr add 203.0.113.1/24 brd + dev one");
    host.ip("link set one up");
    host.ip("link set two up");
    let heard = "green   one 203.0.113.1: a datagram to 255.255.255.255:6667 was sent and heard";
    wait_until("one has a carrier", || look("auto").iter().any(|line| line == heard));

    host.ip("link set eth0 mtu 700");
    let lines = look("eth0,one,eth9,docker0,239.255.66.67%eth0,198.51.100.255,198.51.100.9");
    says(&lines, "yellow  eth0: its MTU is 700, so that a datagram of 685 bytes is cut into fragments");
    says(
        &lines,
        "red     there is no interface eth9 (of another host write the address); nothing is announced there",
    );
    says(
        &lines,
        "red     the interface docker0 is not used: it is down; nothing is announced there; do: ip link set docker0 up",
    );
    says(&lines, "green   one 203.0.113.1: a datagram to 255.255.255.255:6667 was sent and heard");
    says(&lines, "green   eth0 198.51.100.1: a datagram to 239.255.66.67:6667 was sent and heard");
    says(&lines, "green   a datagram to 198.51.100.255:6667 was sent and heard");
    says(
        &lines,
        "green   a datagram to 198.51.100.9:6667 was sent; it goes to one host, and only a listener there can tell",
    );
}
