//! Requests that are wrong, huge, late or forged, through nginx and straight to the server.

use crate::stack::{Answer, Stack, expect, text, wait_until};
use std::io::{Read, Write};

/// Headers that a hostile client would love the server to believe.
const FORGED: [&str; 12] = [
    "X-Subject-CN: victim@example.com",
    "x-subject-cn: victim@example.com",
    "X_Subject_CN: victim@example.com",
    "X-Subject-CN : victim@example.com",
    "X-Real-IP: 192.0.2.99",
    "X-Real-Port: 99",
    "X-Forwarded-For: 192.0.2.99",
    "Forwarded: for=192.0.2.99",
    "X-Client-Serial: 00",
    "X-Request-Id: forged",
    "X-Proxy-Credential: forged",
    "Connection: X-Subject-CN",
];

#[test]
fn headers_of_the_client_change_nothing() {
    let stack = Stack::up();
    stack.member("victim@example.com");
    let pair = stack.pair("client");
    let ear = stack.ear();
    let mut all = Vec::new();
    for header in FORGED {
        let answer = stack.curl(Some(&pair), &["-H", header]);
        // nginx refuses a space before the colon (RFC 9112, section 5.1); everything else it ignores.
        if header.contains(" :") {
            assert_eq!(answer.status, 400, "{header}");
            continue;
        }
        assert_eq!(answer.status, 204, "{header}");
        let heard = ear.hear();
        assert_eq!(heard.email.as_str(), "valid_user@qt-test.com", "{header}");
        assert!(heard.ip.is_loopback() && heard.port != 99, "{header}");
        // And each twice, in one request with all the others.
        all.extend(["-H", header, "-H", header]);
    }
    assert_eq!(stack.curl(Some(&pair), &all).status, 204);
    assert_eq!(ear.hear().email.as_str(), "valid_user@qt-test.com");
    assert_eq!(stack.row("victim@example.com"), "||");
}

#[test]
fn only_patch_and_only_the_one_path() {
    let stack = Stack::up();
    let pair = stack.pair("client");
    for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW"] {
        let answer = stack.curl(Some(&pair), &["-X", method]);
        assert_eq!(
            (answer.status, answer.detail().as_str()),
            (405, "only PATCH is answered here"),
            "{method}"
        );
        assert!(answer.head.contains("\r\nAllow: PATCH"), "{method}: {answer:?}");
    }
    for path in ["/", "/api/client/", "/api/clients", "/api/who"] {
        let answer = stack.curl(Some(&pair), &[path]);
        assert_eq!(
            (answer.status, answer.detail().as_str()),
            (405, "only GET and HEAD are answered here"),
            "{path}"
        );
    }
    for path in ["/api", "/apis", "/livez", "/readyz", "/code", "/api/client/../../livez"] {
        let answer = stack.curl(Some(&pair), &["--path-as-is", path]);
        assert_eq!(answer.status, 404, "{path}");
        assert_eq!(answer.detail(), "there is nothing here; the path of a heartbeat is /api/client");
    }
    assert_eq!(stack.curl(None, &["/livez"]).status, 400);
    assert_eq!(stack.row("valid_user@qt-test.com"), "||");
}

#[test]
fn bodies_and_heads_that_are_too_large() {
    let stack = Stack::up();
    let pair = stack.pair("client");
    for (small, status) in [("", 204), ("{}", 204), (&"x".repeat(1024), 204), (&"x".repeat(1025), 413)] {
        assert_eq!(stack.curl(Some(&pair), &["-d", small]).status, status, "{} bytes", small.len());
        let chunked = ["-H", "Transfer-Encoding: chunked", "-d", small];
        assert_eq!(stack.curl(Some(&pair), &chunked).status, status, "{} bytes, chunked", small.len());
    }
    let answer = stack.curl(Some(&pair), &["-H", &format!("X: {}", "x".repeat(100_000))]);
    assert_eq!((answer.status, answer.detail().as_str()), (431, "the request line or a header is too large"));
    let many: Vec<String> = (0..2000).map(|i| format!("X-{i}: {}", "x".repeat(40))).collect();
    let many: Vec<&str> = many.iter().flat_map(|header| ["-H", header.as_str()]).collect();
    assert_eq!(stack.curl(Some(&pair), &many).status, 431);
    assert_eq!(stack.curl(Some(&pair), &[&format!("/{}", "x".repeat(20_000))]).status, 431);
    assert_eq!(stack.curl(Some(&pair), &[]).status, 204);
}

#[test]
fn half_a_request_and_silence_hold_nobody_up() {
    let stack = Stack::up();
    let pair = stack.pair("client");
    let mut silent: Vec<_> = (0..20)
        .map(|_| stack.over_tls(Some(&pair), &["-quiet"], b"PATCH /api/client HTTP/1.1\r\nHost: local"))
        .collect();
    expect(&mut stack.client(&pair), 0, "Success!");
    // nginx loses patience after 5 s (client_header_timeout).
    for running in &mut silent {
        running.exit();
    }
    expect(&mut stack.client(&pair), 0, "Success!");
}

#[test]
fn one_connection_many_identities_are_impossible() {
    let stack = Stack::up();
    stack.member("victim@example.com");
    let pair = stack.pair("client");
    let ear = stack.ear();
    // Three requests in one write; the second hides another behind its body.
    let smuggled = "PATCH /api/client HTTP/1.1\r\nHost: x\r\nX-Subject-CN: victim@example.com\r\n\r\n";
    let requests = format!(
        "PATCH /api/client HTTP/1.1\r\nHost: x\r\n\r\n\
         PATCH /api/client HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{smuggled}\
         PATCH /api/client HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        smuggled.len()
    );
    let running = stack.over_tls(Some(&pair), &["-quiet"], requests.as_bytes());
    wait_until("three answers came", || running.out().matches("HTTP/1.1 204").count() == 3);
    for _ in 0..3 {
        assert_eq!(ear.hear().email.as_str(), "valid_user@qt-test.com");
    }
    ear.hears_nothing();
    assert_eq!(stack.row("victim@example.com"), "||");
}

#[test]
fn the_servers_own_port_believes_nobody_without_the_credential() {
    let stack = Stack::server();
    let credential = stack.credential();
    let request = |method: &str, path: &str, headers: &str| {
        format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n")
    };
    let name = crate::server::claims("valid_user@qt-test.com", 1, 10);
    let with = format!("X-Proxy-Credential: {credential}\r\n");
    let no_proxy = "the request did not come through nginx: no proxy credential, or a wrong one";
    for (method, path, headers, status, detail) in [
        ("PATCH", "/api/client", name.clone(), 401, no_proxy),
        ("PATCH", "/api/client", format!("{name}X-Proxy-Credential: {}\r\n", "0".repeat(64)), 401, no_proxy),
        ("PATCH", "/api/client", format!("{name}X-Proxy-Credential: \r\n"), 401, no_proxy),
        ("PATCH", "/api/client", format!("{name}{with}{with}"), 401, no_proxy),
        ("GET", "/api/client", name.clone(), 401, no_proxy),
        ("GET", "/elsewhere", name.clone(), 401, no_proxy),
        ("GET", "/", String::new(), 401, no_proxy),
        ("PATCH", "/api/client", with.clone(), 401, "there is no X-Subject-CN"),
        (
            "PATCH",
            "/api/client",
            format!("{with}{name}X-Subject-CN: victim@example.com\r\n"),
            400,
            "X-Subject-CN must be there once, it was there 2 times",
        ),
        (
            "PATCH",
            "/api/client",
            format!("{with}X-Subject-CN: a@b\r\n"),
            400,
            "X-Real-IP must be there once, it was there 0 times",
        ),
        ("GET", "/api/client", with.clone(), 405, "only PATCH is answered here"),
        (
            "PATCH",
            "/elsewhere",
            with.clone(),
            404,
            "there is nothing here; the path of a heartbeat is /api/client",
        ),
    ] {
        let answer = Answer::parse(&stack.to_server(request(method, path, &headers).as_bytes()));
        assert_eq!((answer.status, answer.detail().as_str()), (status, detail), "{method} {path} {headers}");
        assert_eq!(status == 405, answer.head.to_lowercase().contains("\r\nallow: patch"));
    }
    assert_eq!(stack.row("valid_user@qt-test.com"), "||");
    for path in ["/livez", "/readyz"] {
        assert!(stack.to_server(request("GET", path, "").as_bytes()).starts_with("HTTP/1.1 204"));
    }
    assert!(!stack.log("server/log").contains(&credential));
}

#[test]
fn bytes_that_are_not_http_straight_to_the_server() {
    let stack = Stack::server();
    for garbage in [
        "\r\n\r\n".to_owned(),
        "GET\r\n\r\n".to_owned(),
        "GET / HTTP/1.0\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\n\r\n".to_owned(),
        "BREW / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
        "\u{16}\u{3}\u{1}\u{2}\r\n\r\n".to_owned(),
        format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(100_000)),
        "x".repeat(10_000_000),
        "PATCH /api/client HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
            .to_owned(),
        "PATCH /api/client HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx".to_owned(),
    ] {
        let answer = stack.to_server(garbage.as_bytes());
        // Closed without a word, when the peer was still writing, or a refusal; never an acceptance.
        assert!(!answer.starts_with("HTTP/1.1 2"), "{answer}");
        if garbage.len() < 1000 {
            let answer = Answer::parse(&answer);
            assert!(matches!(answer.status, 400 | 401), "{answer:?}");
        }
    }
    // Half a request and silence: the connection is kept for a minute and costs nobody else anything.
    let mut half = std::net::TcpStream::connect(&stack.listen).unwrap();
    half.write_all(b"PATCH /api/cl").unwrap();
    crate::server::is_recorded(&stack);
    half.shutdown(std::net::Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    assert_eq!(half.read_to_end(&mut rest).unwrap(), 0);
}

#[test]
fn too_many_requests_with_one_certificate() {
    let stack = crate::stack::Builder::new().set("ROLLCALL_RATE", "1").up();
    let pair = stack.pair("client");
    let _crowd = stack.crowding(&pair);
    let mut refused = stack.curl(Some(&pair), &[]);
    wait_until("it is too many", || {
        refused = stack.curl(Some(&pair), &[]);
        refused.status != 204
    });
    assert_eq!(
        (refused.status, refused.detail().as_str()),
        (429, "more than 1 requests a second, or 32 bodies at once, with one certificate")
    );
    assert!(refused.head.contains("\r\nRetry-After: 1"));
    wait_until("the client is told so", || {
        let output = stack.client(&pair).output().unwrap();
        let is_told = text(&output).contains("not now, says nginx (429 Too Many Requests)");
        assert!(
            output.status.success() || (is_told && output.status.code() == Some(75)),
            "{}",
            text(&output)
        );
        is_told
    });
    // Somebody else is not held up.
    assert_eq!(stack.curl(Some(&stack.member("a@example.com")), &[]).status, 204);
}
