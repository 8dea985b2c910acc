//! The client: exit codes, messages that name the file, and beats that go on.

use crate::namespace::Namespace;
use crate::stack::{Builder, Pair, Running, Stack, date, expect, wait_until};
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

#[test]
fn files_that_prove_nothing_are_named() {
    let stack = Builder::new().with_certificates().stopped();
    let certs = &stack.certs;
    let dates = [("ROLLCALL_SIGN_FROM", "20200101000000Z"), ("ROLLCALL_SIGN_UNTIL", "20200201000000Z")];
    let expired = stack.certificate("a@example.com", &dates);
    let dates = [("ROLLCALL_SIGN_FROM", "20990101000000Z"), ("ROLLCALL_SIGN_UNTIL", "20990201000000Z")];
    let early = stack.certificate("a@example.com", &dates);
    fs::write(certs.join("empty"), " \n").unwrap();
    fs::write(certs.join("text"), "hello").unwrap();
    fs::write(certs.join("torn"), "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n").unwrap();
    fs::write(certs.join("wrong"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    fs::write(certs.join("bad-key"), "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
        .unwrap();
    let (cert, key, ca) = (certs.join("client.crt"), certs.join("client.key"), certs.join("ca.crt"));
    let (other, missing) = (certs.join("bad_client.key"), certs.join("missing"));
    let file = |name: &str| certs.join(name);
    let advice = "os error 2); just enrol on the server's host makes the files of a device";
    let cases: Vec<(&Path, &Path, &Path, String)> = vec![
        (
            &missing,
            &key,
            &ca,
            format!("cannot read {}: No such file or directory ({advice}", missing.display()),
        ),
        (&cert, &missing, &ca, format!("cannot read {}: No such file", missing.display())),
        (&cert, &key, &missing, format!("cannot read {}: No such file", missing.display())),
        (certs, &key, &ca, format!("cannot read {}: Is a directory", certs.display())),
        (&cert, &key, &key, format!("there is no certificate in {}", key.display())),
        (&cert, &cert, &ca, format!("there is no private key in {}", cert.display())),
        (
            &cert,
            &other,
            &ca,
            format!("the certificate {} and the key {} are not a pair", cert.display(), other.display()),
        ),
        (&expired.cert, &expired.key, &ca, format!("the certificate {} has expired", expired.cert.display())),
        (&early.cert, &early.key, &ca, format!("the certificate {} is not valid yet", early.cert.display())),
    ];
    for (cert, key, ca, said) in cases {
        let mut command = stack.program("rollcall-client");
        expect(command.arg("--cert").arg(cert).arg("--key").arg(key).arg("--ca").arg(ca), 78, &said);
    }
    for (name, said) in [
        ("empty", "is empty"),
        ("text", "there is no certificate in"),
        ("torn", "is damaged: the text between BEGIN CERTIFICATE and END CERTIFICATE is not base64"),
        ("wrong", "holds something that is not an X.509 v3 certificate"),
    ] {
        for (cert, ca) in [(&file(name), &ca), (&cert, &file(name))] {
            let mut command = stack.program("rollcall-client");
            expect(command.arg("--cert").arg(cert).arg("--key").arg(&key).arg("--ca").arg(ca), 78, said);
        }
    }
    let bad_key = Pair { cert: cert.clone(), key: file("bad-key") };
    expect(&mut stack.client(&bad_key), 78, "is damaged, or none of RSA (2048 bits and more)");
    let good = Pair { cert, key };
    expect(stack.client(&good).args(["--url", "http://localhost"]), 78, "it does not start with https://");
    expect(stack.client(&good).args(["--every", "often"]), 2, "often");
}

#[test]
fn keys_of_every_usual_kind_are_accepted() {
    let stack = Stack::up();
    for (name, generate) in [
        ("rsa", "openssl genrsa -traditional -out $1 2048"),
        ("rsa8", "openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out $1"),
        ("sec1", "openssl ecparam -name prime256v1 -genkey -noout -out $1"),
        ("p384", "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out $1"),
        ("ed25519", "openssl genpkey -algorithm ed25519 -out $1"),
    ] {
        let pair = stack.pair(name);
        let script = format!(
            "{generate}; echo basicConstraints=CA:false >v3; openssl req -new -key $1 -subj /CN=valid_user@qt-test.com |
             openssl x509 -req -CA ca.crt -CAkey ca.key -extfile v3 -days 1 -out $2"
        );
        let mut command = stack.command("sh");
        command.current_dir(&stack.certs).args(["-ec", &script, "sh"]).arg(&pair.key).arg(&pair.cert);
        expect(&mut command, 0, "");
        expect(&mut stack.client(&pair), 0, "Success! (204 No Content)");
    }
}

#[test]
fn a_server_that_is_not_ours_or_not_there() {
    let stack = Stack::up();
    let client = stack.pair("client");
    let foreign = Builder::new().stopped();
    expect(foreign.program("rollcall-admin").args(["ca", "init"]), 0, "");
    let mut command = stack.program("rollcall-client");
    command.arg("--cert").arg(&client.cert).arg("--key").arg(&client.key);
    command.arg("--ca").arg(foreign.certs.join("ca.crt"));
    expect(&mut command, 76, "no TLS with the server: no CA in the --ca file signed its certificate");
    // The right CA and another name: localhost's certificate does not speak for a neighbour's.
    let url = format!("https://127.0.0.2:{}", stack.https_port);
    expect(
        stack.client(&client).args(["--url", &url]),
        76,
        "no TLS with the server: its certificate is not for the name in the URL",
    );
    // Not TLS at all.
    let plain = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", plain.local_addr().unwrap());
    std::thread::spawn(move || plain.accept().unwrap().0.write_all(b"SSH-2.0-OpenSSH_9.2\r\n"));
    let other =
        "no TLS with the server: the other end does not speak TLS; are host and port of the URL right?";
    expect(stack.client(&client).args(["--url", &url]), 76, other);
    // Nobody there: three attempts, then it gives up.
    let url = format!("https://localhost:{}", foreign.https_port);
    let output = stack.client(&client).args(["--url", &url]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(69), "{said}");
    assert_eq!(said.matches("127.0.0.1: Connection refused").count(), 3, "{said}");
    assert!(!said.contains("os error"), "{said}");
    assert!(said.contains("trying again in 500ms") && said.contains("trying again in 1s"), "{said}");
    // There, and silent.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", silent.local_addr().unwrap());
    let mut command = stack.client(&client);
    expect(
        command.args(["--url", &url, "--timeout", "300ms", "--attempts", "1"]),
        69,
        "gave up connecting after 300ms",
    );
}

#[test]
fn beats_go_on_over_one_connection_and_survive_a_reload_and_an_outage() {
    let stack = Stack::up();
    let ear = stack.ear();
    let mut client = stack.beating(&stack.pair("client"), "200ms");
    let first = ear.hear();
    for _ in 0..5 {
        let next = ear.hear();
        assert_eq!(next.port, first.port, "the connection was not kept");
        assert!(next.last_seen_ns > first.last_seen_ns);
    }

    // A reload closes idle connections; the beat that finds out goes over a new one at once.
    crate::program::signal("HUP", &[stack.pid("nginx/nginx.pid")]);
    wait_until("a beat comes over another connection", || ear.hear().port != first.port);
    assert_eq!(client.err(), "", "no beat was lost");

    // nginx away, and back.
    assert!(stack.script("stack/down").status.success());
    wait_until("it says so", || client.err().contains("Connection refused"));
    assert!(stack.script("stack/up").status.success());
    while ear.hear_within(Duration::from_millis(50)).is_some() {}
    ear.hear();
    client.signal("INT");
    assert_eq!(client.exit(), 0);
}

/// One person at one heartbeat in 40 s. A longer interval is said with the heartbeat after 30 s, and only then used.
#[test]
fn a_cadence_is_said_and_a_server_asks_for_a_longer_one() {
    let stack = Builder::new().set("ROLLCALL_MAX_RATE", "0.025").up();
    let pair = stack.pair("client");
    let said = || stack.sql("select coalesce(said_every_s, 0) from users");
    wait_until("the people are counted", || {
        stack.curl(Some(&pair), &[]).head.contains("reannounce-after: 40")
    });
    expect(&mut stack.client(&pair), 0, "Success!");
    assert_eq!(said(), "0", "a single heartbeat says that there will be another");
    let auto = stack.beating(&pair, "auto");
    wait_until("it says its interval", || said() == "30");
    for (every, seconds) in [("100ms", "1"), ("1500ms", "2"), ("25h", "0")] {
        let client = stack.beating(&pair, every);
        wait_until("it beats", || client.out().contains("Success!"));
        assert_eq!(said(), seconds, "--every {every}");
    }
    assert_eq!(auto.out().lines().count(), 1);
    std::thread::sleep(Duration::from_secs(20));
    wait_until("it says the longer one", || said() == "40");
    assert_eq!(auto.out().lines().count(), 2);
    // The answer without the setting is the shortest one, and comes over the same connection.
    assert!(stack.script("stack/down").status.success());
    expect(stack.tool("stack/up").env("ROLLCALL_MAX_RATE", ""), 0, "");
    let answer = stack.curl(Some(&pair), &[]);
    assert!(answer.status == 204 && !answer.head.contains("reannounce"), "{answer:?}");
    for wrong in ["0", "-1", "1e3", "nan", "inf", "1000001", "ten"] {
        let mut server = stack.program("rollcall-server");
        server.arg("--check").env("ROLLCALL_MAX_RATE", wrong);
        expect(&mut server, 78, "the setting ROLLCALL_MAX_RATE is");
    }
}

#[test]
fn a_refusal_does_not_end_the_beats() {
    let stack = Stack::up();
    let pair = stack.certificate("late@example.com", &[]);
    let client = stack.beating(&pair, "100ms");
    wait_until("it was refused", || client.err().contains("refused by rollcall-server (403 Forbidden)"));
    assert!(stack.admin(&["user", "add", "late@example.com"]).status.success());
    wait_until("it was accepted", || client.out().contains("Success! (204 No Content)"));
}

#[test]
fn a_dead_address_beside_a_live_one_costs_little() {
    let Some(namespace) = Namespace::new() else { return };
    namespace.ip("link add lan0 type veth peer name lan1");
    namespace.ip("link set lan0 up");
    namespace.ip("link set lan1 up");
    namespace.ip("addr add 192.0.2.1/24 dev lan0");
    namespace.ip("addr add 2001:db8::1/64 dev lan0 nodad");
    // A packet to these is never answered: somebody is there, it seems, and says nothing.
    for (address, name) in [("2001:db8::dead", "inet6"), ("192.0.2.66", "inet")] {
        namespace.ip(&format!("-f {name} neigh add {address} lladdr 02:00:00:00:00:01 dev lan0"));
    }
    let folder = std::path::PathBuf::from("/etc/netns").join(&namespace.name);
    fs::create_dir_all(&folder).unwrap();
    let names =
        "127.0.0.1 localhost\n2001:db8::dead half\n192.0.2.1 half\n2001:db8::dead dead\n192.0.2.66 dead\n";
    fs::write(folder.join("hosts"), names).unwrap();
    let stack = Builder::new().in_namespace(&namespace.name).up();
    expect(&mut stack.administer(&["renew", "--server", "half", "dead"]), 0, "");
    let client = stack.pair("client");
    let url = |name: &str, port: u16| format!("https://{name}:{port}");
    let call = |url: &str, timeout: &str, exit, said: &str| {
        let options = ["--url", url, "--timeout", timeout, "--attempts", "1"];
        expect(stack.client(&client).args(options), exit, said);
    };
    // Half of the time that one dead address would take up.
    call(&url("half", stack.https_port), "20s", 0, "Success!");
    let refused = "cannot reach half port 1: 192.0.2.1: Connection refused, 2001:db8::dead: no answer within 1s; \
                   on the server's host, just status tells whether it is up";
    call(&url("half", 1), "1s", 69, refused);
    let silent =
        "cannot reach dead port 1: 2001:db8::dead: no answer within 1s, 192.0.2.66: no answer within 1s; ";
    call(&url("dead", 1), "1s", 69, silent);
    call("https://nowhere.invalid", "5s", 69, "the name nowhere.invalid has no address: ");
    drop(stack);
    let _ = fs::remove_dir_all(folder);
}

#[test]
fn a_client_that_is_started_before_the_clock_is_set_waits() {
    let stack = Stack::up();
    let pair = stack.certificate("valid_user@qt-test.com", &[("ROLLCALL_SIGN_FROM", &date(3))]);
    let start = || {
        let client = stack.beating(&pair, "200ms");
        wait_until("it says so", || {
            client.err().contains("is not valid yet; is this machine's clock right?")
        });
        client
    };
    let (mut stopped, client) = (start(), start());
    stopped.signal("TERM");
    assert_eq!((stopped.exit(), stopped.out().as_str()), (0, ""));
    wait_until("it goes on", || client.out().contains("Success!"));
    assert_eq!(client.err().matches("is not valid yet").count(), 1, "{}", client.err());
}

#[test]
fn a_terminal_that_closes_ends_it_but_nohup_keeps_it() {
    let stack = Stack::up();
    let start = |arguments: &[&str]| {
        let mut command = stack.command("sh");
        command.args(["-c", arguments[0], "sh"]).arg(crate::stack::binaries().join("rollcall-client"));
        let pair = stack.pair("client");
        command.arg("--cert").arg(&pair.cert).arg("--key").arg(&pair.key);
        let running = Running::start(&stack, command.args(["--every", "100ms"]));
        wait_until("it beats", || running.out().contains("Success!"));
        running
    };
    let mut closed = start(&["exec \"$@\""]);
    closed.signal("HUP");
    assert_eq!(closed.exit(), 0);
    let mut kept = start(&["trap '' HUP; exec \"$@\""]);
    kept.signal("HUP");
    let beats = kept.out().lines().count();
    wait_until("it goes on", || kept.out().lines().count() > beats + 3);
    assert!(kept.child.try_wait().unwrap().is_none());
    kept.signal("TERM");
    assert_eq!(kept.exit(), 0);
}

/// Another TLS server than nginx refuses with an alert. In TLS 1.3 that alert comes when the handshake seems to be over.
#[test]
fn an_alert_is_told_in_words_and_is_no_outage() {
    let stack = Builder::new().with_certificates().stopped();
    let foreign = Builder::new().stopped();
    expect(foreign.program("rollcall-admin").args(["ca", "init"]), 0, "");
    let own = foreign.certs.join("ca.crt").display().to_string();
    let stranger = ["-Verify", "1", "-verify_return_error", "-CAfile", &own];
    let not_accepted =
        "no TLS with the server: the server does not accept this client's certificate (unknown CA)";
    let not_shared = "no TLS with the server: the server and this client share no version or cipher of TLS (";
    for (options, said) in [
        ([&stranger[..], &["-tls1_3"]].concat(), not_accepted),
        ([&stranger[..], &["-tls1_2"]].concat(), not_accepted),
        (vec!["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], not_shared),
        (vec!["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-CCM"], not_shared),
    ] {
        let (_server, url) = tls_server(&stack, &options);
        let output = stack.client(&stack.pair("client")).args(["--url", &url]).output().unwrap();
        let said_all = crate::stack::text(&output);
        assert_eq!(output.status.code(), Some(76), "{options:?}: {said_all}");
        assert!(said_all.contains(said) && !said_all.contains("--ca"), "{options:?}: {said_all}");
        assert_eq!(said_all.lines().count(), 1, "it was tried again: {said_all}");
    }
}

/// openssl(1) with the stack's server certificate, and its URL.
#[track_caller]
fn tls_server(stack: &Stack, options: &[&str]) -> (Running, String) {
    let pair = stack.pair("server");
    let mut command = stack.command("openssl");
    command.args(["s_server", "-www", "-accept", "127.0.0.1:0", "-cert"]).arg(&pair.cert);
    let server = Running::start(stack, command.arg("-key").arg(&pair.key).args(options));
    loop {
        if let Some(port) = server.stdout.line().strip_prefix("ACCEPT 127.0.0.1:") {
            return (server, format!("https://localhost:{port}"));
        }
    }
}
