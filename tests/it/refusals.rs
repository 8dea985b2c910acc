//! The refusals of nginx: always with a reason that a program can read, never often enough to hurt.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::program::{children, signal};
use crate::stack::{Answer, Builder, PATIENCE, Pair, Running, Stack, expect, text, wait_until};

/// Bytes over TLS, with a certificate or without, and the answers of nginx until it closes.
#[track_caller]
fn over_tls(stack: &Stack, pair: Option<&Pair>, request: &[u8]) -> String {
    let mut running = stack.over_tls(pair, &["-quiet", "-ign_eof"], request);
    wait_until("nginx has closed", || running.child.try_wait().unwrap().is_some());
    running.out()
}

#[track_caller]
fn over_tcp(stack: &Stack, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", stack.https_port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

#[test]
fn every_refusal_is_a_problem_that_a_program_can_read() {
    let stack = Stack::up();
    let pair = stack.pair("client");
    let close = "Host: localhost\r\nConnection: close\r\n";
    let case = "the names of methods are case-sensitive: write PATCH";
    let malformed = "not a well-formed HTTP request";
    for (request, status, detail) in [
        (format!("patch /api/client HTTP/1.1\r\n{close}\r\n"), 400, case),
        (format!("Patch /api/client HTTP/1.1\r\n{close}\r\n"), 400, case),
        (format!("PATCH /api/client HTTP/2.0\r\n{close}\r\n"), 505, "the versions are HTTP/1.0 and HTTP/1.1"),
        (
            format!("PATCH /api/client HTTP/1.1\r\n{close}Transfer-Encoding: gzip\r\n\r\n"),
            501,
            "the only transfer coding is chunked",
        ),
        ("PATCH /api/client HTTP/1.1\r\n\r\n".to_owned(), 400, malformed),
        ("PATCH /api/client HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned(), 400, malformed),
        (format!("CONNECT a:1 HTTP/1.1\r\n{close}\r\n"), 400, malformed),
        (format!("PATCH /api/client HTTP/1.1\r\n{close}Content-Length: x\r\n\r\n"), 400, malformed),
        (format!("PATCH /%00 HTTP/1.1\r\n{close}\r\n"), 400, malformed),
        ("GET /api/client HTTP/1.0\r\n\r\n".to_owned(), 405, "only PATCH is answered here"),
    ] {
        let answer = Answer::parse(&over_tls(&stack, Some(&pair), request.as_bytes()));
        assert_eq!((answer.status, answer.detail().as_str()), (status, detail), "{request:?}");
    }
    // HTTP/0.9 has no head: its whole answer is the body.
    for (pair, request, detail) in [
        (Some(&pair), "GET /none\r\n", "there is nothing here"),
        (None, "GET /\r\n", "no client certificate was sent"),
        (Some(&pair), "PATCH /api/client\r\n", "well-formed"),
    ] {
        let answer = over_tls(&stack, pair, request.as_bytes());
        let problem: serde_json::Value = serde_json::from_str(&answer).unwrap_or_else(|_| panic!("{answer}"));
        assert!(problem["detail"].as_str().unwrap().contains(detail), "{answer}");
    }
    assert_eq!(stack.row("valid_user@qt-test.com"), "||");
}

/// A stranger without a certificate once wrote 1 GB of log in ten seconds.
#[test]
fn nobody_can_fill_the_log() {
    let stack = Builder::new().set("ROLLCALL_RATE", "5").up();
    let odd = [b"GET /".as_slice(), &[0xff; 7900], b" HTTP/1.1\r\nHost: x\r\n\r\n"].concat();
    let refused = (0..600).filter(|_| over_tcp(&stack, &odd).starts_with(b"HTTP/1.1 429")).count();
    assert!(refused > 100, "{refused}");
    // A body that is too large is noticed before anything is counted.
    let (path, large) = ("a".repeat(2000), "x".repeat(2000));
    let body = format!("PATCH /{path} HTTP/1.1\r\nHost: x\r\nContent-Length: 2000\r\n\r\n{large}");
    over_tcp(&stack, body.as_bytes());
    // The holder of a certificate asks over one connection for pages that are not there.
    let pair = stack.pair("client");
    let get = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "%ff".repeat(2000));
    let last = "GET /none HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    over_tls(&stack, Some(&pair), body.replace("/aaa", "/api/client?").as_bytes());
    let answers = over_tls(&stack, Some(&pair), (get.repeat(300) + last).as_bytes());
    let count = |status: &str| answers.matches(&format!("HTTP/1.1 {status}")).count();
    assert!(count("404") >= 10 && count("429") > 200, "{} and {}", count("404"), count("429"));
    assert_eq!(
        answers.matches("more than 5 requests a second, or 32 bodies at once, with one certificate").count(),
        count("429")
    );

    // A certificate that is not ours, with a subject of 30 kB.
    let long: String = (1..=400).map(|number| format!("/OU={number:060}")).collect();
    let serial = format!("0x7f{:0200}", 1);
    let foreign = stack.self_signed(&format!("{long}/CN=valid_user@qt-test.com"), &["-set_serial", &serial]);
    assert_eq!(stack.curl(Some(&foreign), &[]).status, 400);
    wait_until("it is logged", || stack.log("nginx/access.log").contains("serial=7F0000"));

    let log = stack.log("nginx/access.log");
    let longest = log.lines().map(str::len).max().unwrap();
    assert!(longest <= 1500, "{longest}");
    assert!(log.lines().count() < 900 + 2 - refused / 2, "{} lines for 900 requests", log.lines().count());
    assert_eq!(stack.log("nginx/error.log"), "");

    let _crowd = stack.crowding(&pair);
    wait_until("the client is told to wait", || {
        text(&stack.client(&pair).output().unwrap()).contains("not now, says nginx (429")
    });
}

/// Any user of the host reaches the server's own port.
#[test]
fn nobody_can_fill_the_servers_log() {
    let stack = Stack::server();
    let start = std::time::Instant::now();
    let refuse =
        || assert!(stack.to_server(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").starts_with("HTTP/1.1 401"));
    (0..2000).for_each(|_| refuse());
    let seconds = start.elapsed().as_secs() as usize + 2;
    std::thread::sleep(std::time::Duration::from_secs(1));
    refuse();
    let long = format!("GET / HTTP/1.1\r\nHost: x\r\nX-Request-Id: {}\r\n\r\n", "\"".repeat(7600));
    stack.to_server(long.as_bytes());
    let log = stack.log("server/log");
    assert!(log.lines().all(|line| line.len() < 300), "{log}");
    let lines = log.matches(" 401: ").count();
    let more = log
        .lines()
        .filter_map(|line| line.split_once(" more refusals were not logged")?.0.rsplit(' ').next());
    let skipped: usize = more.map(|number| number.parse::<usize>().unwrap()).sum();
    assert_eq!(lines + skipped, 2002, "{log}");
    assert!(lines <= 100 * seconds, "{lines} lines in {seconds} s");
}

#[test]
fn a_strangers_serial_number_takes_nothing_from_its_holder() {
    let stack = Builder::new().set("ROLLCALL_RATE", "1").up();
    let pair = stack.pair("client");
    let serial = text(
        &stack
            .command("openssl")
            .args(["x509", "-noout", "-serial", "-in"])
            .arg(&pair.cert)
            .output()
            .unwrap(),
    );
    let serial = serial.trim().replace("serial=", "0x");
    let foreign = stack.self_signed("/CN=valid_user@qt-test.com", &["-set_serial", &serial]);
    for _ in 0..10 {
        assert_eq!(stack.curl(Some(&foreign), &[]).status, 400);
    }
    assert_eq!(stack.curl(Some(&pair), &[]).status, 204);
}

#[test]
fn slow_bodies_are_few_and_hold_up_no_stop() {
    let stack = Stack::up();
    let pair = stack.pair("client");
    let request = b"PATCH /api/client HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{";
    // nginx gives up each after a while, so that a slow machine needs more of them.
    let mut slow: Vec<Running> = Vec::new();
    wait_until("those beyond the bound are refused", || {
        slow.push(stack.over_tls(Some(&pair), &["-quiet"], request));
        slow.iter().filter(|slow| slow.out().contains("HTTP/1.1 429")).count() >= 4
    });
    // Without a body the same certificate goes on.
    expect(&mut stack.client(&pair), 0, "Success!");
    let down = stack.script("stack/down");
    assert!(down.status.success(), "{}", text(&down));
    assert!(stack.script("stack/up").status.success());
    expect(&mut stack.client(&pair), 0, "Success!");
}

/// A count in memory that workers share outlives them: one of requests under way never came down again.
#[test]
fn workers_that_die_leave_nobody_refused() {
    let stack = Builder::new().set("ROLLCALL_RATE", "100").set("ROLLCALL_DEADLINE", "20s").up();
    let pair = stack.pair("client");
    expect(&mut stack.client(&pair), 0, "Success!");
    for _ in 0..2 {
        let backends = stack.backends("rollcall_server");
        signal("STOP", &backends);
        let waiting: Vec<Running> = (0..20)
            .map(|_| {
                let mut client = stack.client(&pair);
                client.args(["--attempts", "1", "--timeout", "5s"]);
                Running::start(&stack, client)
            })
            .collect();
        let workers = || children(stack.pid("nginx/nginx.pid"), "");
        // The server's ends have the name of the socket; the first of them takes connections.
        let socket = stack.state.join("clerk/socket").display().to_string();
        wait_until("they wait for the server", || {
            let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
            sockets.lines().filter(|line| line.ends_with(&socket)).count() > 20
        });
        let dead = workers();
        signal("KILL", &dead);
        wait_until("there are new ones", || {
            workers().iter().filter(|pid| !dead.contains(pid)).count() >= dead.len()
        });
        signal("CONT", &backends);
        drop(waiting);
    }
    wait_until("the limit by rate is over", || stack.curl(Some(&pair), &[]).status == 204);
    expect(&mut stack.client(&pair), 0, "Success!");
}
