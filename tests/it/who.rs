//! `rollcall-client who`: the real board behind the real nginx, and on its own port.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::program::signal;
use crate::stack::{Builder, Pair, Running, Stack, expect, text, wait_until};

const VALID: &str = "valid_user@qt-test.com";

fn with_board() -> Builder {
    Builder::new().set("ROLLCALL_BOARD", "on")
}

/// Over nginx.
fn asks(stack: &Stack, pair: &Pair, arguments: &[&str]) -> Command {
    let mut command = stack.client(pair);
    command.arg("who").args(arguments);
    command
}

/// On the host, as `just who` does.
fn asks_here(stack: &Stack, arguments: &[&str]) -> Command {
    let mut command = stack.tool("stack/run");
    command.args(["rollcall-client", "who"]).args(arguments);
    command
}

#[track_caller]
fn out(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// The table has this, at some time: the board looks once a second.
#[track_caller]
fn comes(stack: &Stack, arguments: &[&str], said: &str) {
    let mut came = String::new();
    wait_until(said, || {
        came = text(&asks_here(stack, arguments).output().unwrap());
        came.contains(said)
    });
}

#[test]
fn it_is_asked_over_nginx_and_on_the_host() {
    let stack = with_board().up();
    let pair = stack.pair("client");
    expect(&mut stack.client(&pair), 0, "Success!");
    comes(&stack, &[], "1 online, 0 late, 0 offline, 0 unknown, 0 never");
    let table = out(&mut asks_here(&stack, &[]));
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["STATE", "SINCE", "PERSON", "LAST", "SEEN", "DUE", "ADDRESS", "CERTIFICATE"]);
    assert_eq!(
        (lines[1][0], lines[1][2], lines[1][4], lines[1][5]),
        ("online", VALID, "ago", "in"),
        "{table}"
    );
    assert_eq!(lines[1][7..], ["127.0.0.1", "364", "d"], "{table}");
    assert!(!table.contains('\x1b'), "{table:?}");

    // Whoever may see themselves may see themselves.
    expect(&mut asks(&stack, &pair, &[]), 77, &format!("just user reads {VALID} all"));
    let own = out(&mut asks(&stack, &pair, &[VALID]));
    assert!(own.lines().count() == 2 && own.contains("online"), "{own}");
    let stranger = stack.member("b@example.com");
    expect(&mut asks(&stack, &stranger, &[VALID]), 77, "refused by rollcall-board (403 Forbidden): ");
    expect(&mut stack.administer(&["user", "reads", VALID, "all"]), 0, "");
    wait_until("the right is there", || asks(&stack, &pair, &[]).status().unwrap().success());
    comes(&stack, &[], "1 online, 0 late, 0 offline, 0 unknown, 1 never");

    // The person of the API, unchanged, over both ways.
    for mut command in [asks(&stack, &pair, &["--json"]), asks_here(&stack, &["--json"])] {
        let lines = out(&mut command);
        let people: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let api = stack.curl(Some(&pair), &["-X", "GET", "/api/who"]).body;
        let api: Value = serde_json::from_str(&api).unwrap();
        assert_eq!(&Value::from(people), &api["people"], "{lines}");
    }
    // Any character of an email.
    let odd = "a/b?c%41#d&e=+@example.com";
    expect(&mut stack.administer(&["user", "add", odd]), 0, "");
    comes(&stack, &[odd], &format!("never  -      {odd}"));
    assert!(out(&mut asks(&stack, &pair, &[odd])).contains(odd));
    expect(&mut asks(&stack, &pair, &["nobody@example.com"]), 1, "nobody@example.com is not enrolled");
    expect(&mut asks(&stack, &pair, &["../counts"]), 77, "not an email address: \"../counts\"");
    expect(&mut asks(&stack, &pair, &["no\u{1b}[2Jemail"]), 77, "(400 Bad Request): ");

    expect(&mut stack.administer(&["user", "disable", "b@example.com"]), 0, "");
    comes(&stack, &[], "never (disabled)");
    comes(&stack, &["--state", "never"], ", 1 disabled");
    let late = out(&mut asks_here(&stack, &["--state", "late,offline"]));
    assert_eq!(late.lines().count(), 2, "{late}");
    // Flags may stand before the word who, and after it.
    let mut after = stack.program("rollcall-client");
    after.args(["who", "--cert"]).arg(&pair.cert).arg("--key").arg(&pair.key).args(["--url", &stack.url()]);
    expect(&mut after, 0, "online");
    // The path of the URL is that of heartbeats.
    let url = format!("{}/api/client", stack.url());
    expect(asks(&stack, &pair, &["--url", &url]).env("ROLLCALL_STATE", ""), 0, "online");
    // Whoever is refused or goes is told so.
    expect(&mut stack.administer(&["revoke", VALID]), 0, "");
    expect(&mut asks(&stack, &pair, &[]), 77, "refused by ");
}

#[test]
fn many_people_come_in_pages() {
    let stack = with_board().up();
    stack.sql(
        "insert into users (email) select 'p' || n || '@example.com' from generate_series(1, 5500) as n",
    );
    comes(&stack, &[], "5501 never");
    let table = out(&mut asks_here(&stack, &[]));
    assert_eq!(table.lines().count(), 5503);
    let json = out(&mut asks_here(&stack, &["--json", "--state", "never"]));
    let emails: std::collections::BTreeSet<&str> = json.lines().collect();
    assert_eq!(emails.len(), 5501);
    // A reader that has seen enough is no failure.
    let head =
        format!("{} rollcall-client who | head -n 1", env!("CARGO_MANIFEST_DIR").to_owned() + "/stack/run");
    expect(stack.command("bash").args(["-o", "pipefail", "-c", &head]), 0, "STATE");
}

#[test]
fn transitions_are_told_once_over_a_restart_of_the_board() {
    let stack = with_board().up();
    let pair = stack.pair("client");
    expect(&mut stack.administer(&["user", "reads", VALID, "all"]), 0, "");
    let code = |arguments: &[&str]| asks_here(&stack, arguments).status().unwrap().code().unwrap();
    let client = stack.beating(&pair, "1s");
    comes(&stack, &[], "1 online");
    assert_eq!((code(&["--exit-code"]), code(&[VALID, "--exit-code"])), (0, 0));
    let watch = |arguments: &[&str]| Running::start(&stack, asks(&stack, &pair, arguments));
    let here = Running::start(&stack, asks_here(&stack, &["--watch"]));
    let mut over_nginx = watch(&["--watch", "--json"]);
    let only_offline = watch(&["--watch", "--state", "offline"]);
    let own = watch(&["--watch", VALID]);
    // They have read everybody by then.
    thread::sleep(Duration::from_secs(2));
    drop(client);
    wait_until("it is late", || code(&["--exit-code"]) == 1);
    let line = here.stdout.line();
    assert!(line.contains("Z ") && line.ends_with(&format!("Z {VALID} online -> late")), "{line}");
    let change = over_nginx.next();
    assert_eq!((&change["from"], &change["to"]), (&"online".into(), &"late".into()), "{change}");
    assert_eq!(change["person"]["email"], VALID);
    let table = out(&mut asks_here(&stack, &[]));
    assert!(
        table.contains("late") && table.ends_with("0 online, 1 late, 0 offline, 0 unknown, 0 never\n"),
        "{table}"
    );

    // The board goes, and another comes.
    signal("TERM", &[stack.pid("board/pid")]);
    wait_until("they say so", || {
        here.err().contains("the board does not answer since 2")
            && over_nginx.err().contains("rollcall-board does not answer")
    });
    expect(&mut stack.tool("stack/up"), 0, "");
    wait_until("they say so", || {
        here.err().contains("the board answers again, after ")
            && over_nginx.err().contains("the board answers again")
    });
    wait_until("it is offline", || code(&["--exit-code"]) == 2);
    assert!(here.stdout.line().ends_with(&format!("Z {VALID} late -> offline")));
    assert_eq!(over_nginx.next()["to"], "offline");
    assert!(only_offline.stdout.line().ends_with("late -> offline"));
    // One person is looked at every 5 s.
    assert!(own.stdout.line().ends_with("online -> late"));
    assert!(own.stdout.line().ends_with("late -> offline"));
    let first = asks_here(&stack, &["--exit-code"]).output().unwrap();
    assert!(
        text(&first).starts_with("0 online, 0 late, 1 offline, 0 unknown, 0 never\n"),
        "{}",
        text(&first)
    );

    // Somebody new, and back again.
    expect(&mut stack.administer(&["user", "add", "new@example.com"]), 0, "");
    expect(&mut stack.client(&pair), 0, "Success!");
    wait_until("all of it is told", || here.out().lines().count() == 4);
    for line in ["Z new@example.com - -> never\n", &format!("Z {VALID} offline -> online\n")] {
        assert!(here.out().contains(line), "{}", here.out());
    }
    assert!(own.stdout.line().ends_with("offline -> online"));
    assert_eq!(here.err().lines().count(), 2, "{}", here.err());
    assert_eq!(only_offline.out().lines().count(), 1, "{}", only_offline.out());

    // Whoever loses the right is told, and it ends.
    expect(&mut stack.administer(&["user", "reads", VALID, "self"]), 0, "");
    expect(&mut stack.administer(&["user", "disable", "new@example.com"]), 0, "");
    assert_eq!(over_nginx.exit(), 77);
    assert!(over_nginx.err().contains("refused by rollcall-board (403 Forbidden)"), "{}", over_nginx.err());
    let mut here = here;
    here.signal("INT");
    assert_eq!(here.exit(), 0);
}

#[test]
fn a_server_that_hears_nobody_is_said() {
    let stack = with_board().up();
    expect(&mut stack.client(&stack.pair("client")), 0, "Success!");
    comes(&stack, &[], "1 online");
    let watch = Running::start(&stack, asks_here(&stack, &["--watch"]));
    thread::sleep(Duration::from_secs(2));
    let server = stack.pid("server/pid");
    signal("STOP", &[server]);
    comes(&stack, &[], "0 online, 0 late, 0 offline, 1 unknown, 0 never");
    comes(&stack, &[], "hears nobody, for ");
    let code = asks_here(&stack, &["--exit-code"]).status().unwrap().code();
    signal("CONT", &[server]);
    assert_eq!(code, Some(3));
    comes(&stack, &[], "1 online");
    assert_eq!(watch.out(), "");
}

#[test]
fn a_terminal_shows_a_table_that_is_drawn_again() {
    let stack = with_board().up();
    expect(&mut stack.client(&stack.pair("client")), 0, "Success!");
    comes(&stack, &[], "1 online");
    let run = format!("{}/stack/run rollcall-client who", env!("CARGO_MANIFEST_DIR"));
    let on_terminal = |line: &str| {
        let mut command = stack.command("script");
        command.env("TERM", "xterm").args(["-qefc", line, "/dev/null"]);
        command
    };
    let coloured = out(&mut on_terminal(&run));
    assert!(coloured.contains("\x1b[32monline\x1b[0m  "), "{coloured:?}");
    let plain = out(on_terminal(&run).env("NO_COLOR", "1"));
    assert!(plain.contains("online") && !plain.contains('\x1b'), "{plain:?}");
    let watch = Running::start(&stack, on_terminal(&format!("stty rows 6; exec {run} --watch")));
    wait_until("it is drawn twice", || watch.out().matches("\x1b[H").count() > 2);
    assert!(watch.out().starts_with("\x1b[2J"), "{:?}", watch.out());
    stack.sql("insert into users (email) select 'p' || n || '@example.com' from generate_series(1, 9) as n");
    wait_until("it has no room", || {
        watch.out().contains("\u{2026}\x1b[K\r\n1 online, 0 late, 0 offline, 0 unknown, 9 never")
    });
    signal("TERM", &[stack.pid("board/pid")]);
    wait_until("it says so", || watch.out().contains("the board does not answer since 2"));
}

/// Whoever has the port may be anybody.
#[test]
fn an_answer_that_is_no_boards_ends_in_words() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = port.local_addr().unwrap().to_string();
    let stack = Builder::new().set("ROLLCALL_BOARD_LISTEN", &address).stopped();
    let asks = |arguments: &[&str]| {
        let mut command = stack.program("rollcall-client");
        command.arg("who").args(arguments);
        command
    };
    let token = stack.state.join("board/token");
    expect(&mut asks(&[]), 78, "cannot read the token of the board, ");
    fs::create_dir(stack.state.join("board")).unwrap();
    let write = |content: &str, mode| {
        fs::write(&token, content).unwrap();
        fs::set_permissions(&token, PermissionsExt::from_mode(mode)).unwrap();
    };
    write("c0ffee", 0o644);
    expect(&mut asks(&[]), 78, "mode 0644: others can read it");
    for content in ["", " \n", "a b", "a\r\nHost: b", "\u{e9}"] {
        write(content, 0o600);
        expect(&mut asks(&[]), 78, "it holds no token");
    }
    write("c0ffee\n", 0o600);

    let whole = |status: &str, body: &str| {
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    };
    let page = |people: &str, next: &str| {
        format!(
            r#"{{"position":"a.1","as_of":"2026-11-28T12:00:00Z","counts":{{"online":1,"late":0,"offline":0,"unknown":0,
            "never":0,"disabled":0}},"servers":[{{"name":"\u001b[2J","hears":false,"since":null}}],
            "people":[{people}],"next":{next}}}"#
        )
    };
    let evil = r#"{"email":"\u001b[2J\u202e<b>@x","state":"online","since":null,"ip":"\u009b1A"}"#;
    let chunked = |body: &str| {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        format!("{head}{:x}\r\n{body}\r\n0\r\n\r\n", body.len()).into_bytes()
    };
    // A question, and the answer that the port has for it.
    let answered = |answer: Vec<u8>, arguments: &[&str]| {
        thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = port.accept().unwrap();
                let mut request = [0; 4096];
                let len = stream.read(&mut request).unwrap();
                let request = String::from_utf8_lossy(&request[..len]).into_owned();
                assert!(
                    request.starts_with("GET /api/who")
                        && request.contains("Authorization: Bearer c0ffee\r\n")
                );
                assert!(request.contains(&format!("\r\nHost: {address}\r\n")), "{request}");
                let _ = stream.write_all(&answer);
            });
            asks(arguments).output().unwrap()
        })
    };
    for (answer, arguments, exit, said) in [
        (chunked(&page(evil, "null")), &[][..], 0, r"\u{1b}[2J\u{202e}<b>@x  -          -    \u{9b}1A"),
        (whole("200 OK", &page(evil, "null")), &["--json"], 0, r#""email":"\u001b[2J\u202e<b>@x""#),
        (whole("200 OK", &page("", "\"x\"")), &[], 76, "a page of nobody has a next one"),
        (whole("200 OK", &page("7", "null")), &[], 76, "not understood: it has no \"email\""),
        (whole("200 OK", "<html>"), &[], 76, "the board's answer is not understood: expected value"),
        (whole("200 OK", "[]"), &["a@b.c"], 76, "it has no \"email\""),
        (whole("200 OK", "<html>"), &["--exit-code"], 3, "the board's answer is not understood"),
        (whole("302 Found", ""), &[], 76, "refused by the server (302 Found)"),
        (
            whole("429 Slow \u{1b}[1m", r#"{"detail":"later\u001b","by":"nginx"}"#),
            &[],
            76,
            "the answer is not HTTP",
        ),
        (
            whole("429 Slow", r#"{"detail":"later\u001b","by":"nginx"}"#),
            &[],
            75,
            r"not now, says nginx (429 Slow): later\u{1b}",
        ),
        (whole("503 No", ""), &["--exit-code"], 3, "not now, says the server (503 No)"),
        (b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), &[], 76, "the answer is not HTTP"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n".to_vec(),
            &[],
            76,
            "more than 67108864 bytes, or no end",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n".to_vec(),
            &[],
            76,
            "closed in the middle of the answer",
        ),
        (vec![], &[], 69, "closed without an answer"),
    ] {
        let output = answered(answer, arguments);
        let came = text(&output);
        assert!(output.status.code() == Some(exit) && came.contains(said), "{exit} {said}: {came}");
        assert!(!came.contains(['\x1b', '\u{9b}', '\u{202e}']), "{came:?}");
    }
    // It takes the question, and says nothing.
    let output = asks(&["--timeout", "300ms"]).output().unwrap();
    assert_eq!(output.status.code(), Some(69), "{}", text(&output));
    assert!(text(&output).contains("gave up waiting for the answer after 300ms"), "{}", text(&output));
    drop(port);
    expect(&mut asks(&[]), 69, "Connection refused");
    expect(&mut asks(&["--exit-code"]), 3, "Connection refused");
    expect(asks(&[]).env("ROLLCALL_BOARD_LISTEN", "8001"), 78, "ROLLCALL_BOARD_LISTEN is \"8001\"");
    for (arguments, said) in [
        (&["--state", "here"][..], "the states are online, late, offline, unknown and never"),
        (&["--watch", "--exit-code"], "leave out --exit-code"),
        (&["a@b.c", "--state", "late"], "leave out the email"),
        (&[""], "the email is empty"),
        (&["--timeout", "0s"], "leaves no time"),
        (&["--every", "30s"], "Unrecognized argument: --every"),
    ] {
        expect(&mut asks(arguments), 2, said);
    }
    expect(
        stack.program("rollcall-client").args(["--every", "30s", "who"]),
        2,
        "--every and --renew are for heartbeats",
    );
}
