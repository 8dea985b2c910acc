//! `rollcall-board`: the calls, the rights, the stream.

use std::fs;

use serde_json::Value;

use crate::stack::{Answer, Builder, Pair, Stack, expect, text, wait_until};

mod contract;
mod readers;
mod states;
mod streams;

/// A stack with a board.
pub fn up() -> Stack {
    Builder::new().set("ROLLCALL_BOARD", "on").up()
}

/// The answer behind nginx.
#[track_caller]
pub fn read(stack: &Stack, pair: &Pair, options: &[&str], path: &str) -> Answer {
    stack.curl(Some(pair), &[&["-X", "GET"], options, &[path]].concat())
}

/// The answer on the board's own port.
#[track_caller]
pub fn direct(stack: &Stack, options: &[&str], path: &str) -> Answer {
    let mut curl = stack.command("curl");
    curl.args(["-qsSig", "--max-time", "40", "--noproxy", "*"]).args(options);
    let output = curl.arg(format!("http://{}{path}", stack.board_listen)).output().unwrap();
    assert!(output.status.success(), "{path}: {}", text(&output));
    Answer::parse(&String::from_utf8_lossy(&output.stdout))
}

pub fn token(stack: &Stack) -> String {
    fs::read_to_string(stack.state.join("board/token")).unwrap().trim().to_owned()
}

/// The answer to whoever has the token.
#[track_caller]
pub fn host(stack: &Stack, path: &str) -> Answer {
    direct(stack, &["-H", &format!("Authorization: Bearer {}", token(stack))], path)
}

#[track_caller]
pub fn json(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.head.to_lowercase().contains("content-type: application/json"), "{answer:?}");
    serde_json::from_str(&answer.body).unwrap()
}

#[track_caller]
fn person(stack: &Stack, email: &str) -> Value {
    json(&host(stack, &format!("/api/who/{email}")))
}

fn emails(list: &Value) -> Vec<&str> {
    list["people"].as_array().unwrap().iter().map(|person| person["email"].as_str().unwrap()).collect()
}

fn let_read(stack: &Stack, email: &str, reads: &str) {
    expect(&mut stack.administer(&["user", "reads", email, reads]), 0, "");
}

/// Starts it again, as `stack/up` does.
fn restart_board(stack: &Stack) {
    let up = stack.script("stack/up");
    assert!(up.status.success(), "{}", text(&up));
}

#[test]
fn who_is_here_is_told_to_those_who_may_know() {
    let stack = up();
    let pair = stack.pair("client");
    let me = json(&read(&stack, &pair, &[], "/api/me"));
    assert_eq!((&me["state"], &me["last_seen"]), (&"never".into(), &Value::Null));

    expect(&mut stack.client(&pair), 0, "Success!");
    wait_until("the board has heard it", || person(&stack, "valid_user@qt-test.com")["state"] == "online");
    let me = json(&read(&stack, &pair, &[], "/api/me"));
    assert_eq!(me, json(&read(&stack, &pair, &[], "/api/who/Valid_User%40qt-test.com")));
    let seen_ns = stack.sql("select last_seen_ns from users");
    assert_eq!(me["last_seen_ns"], seen_ns);
    assert!(me["due"].as_str().unwrap() > me["last_seen"].as_str().unwrap());
    assert!(me["certificate"]["serial"].is_string() && me["ip"] == "127.0.0.1", "{me}");

    // By default everybody sees themselves, and nobody else.
    for path in
        ["/api/who", "/api/counts", "/api/changes?after=x", "/api/stream", "/", "/api/who/a@example.com"]
    {
        let answer = read(&stack, &pair, &[], path);
        assert_eq!(answer.status, 403, "{path}");
        assert_eq!(
            answer.detail(),
            "valid_user@qt-test.com may not see this; the administrator of rollcall allows it with: just user reads \
             valid_user@qt-test.com all"
        );
        assert!(answer.body.contains("\"by\":\"rollcall-board\""), "{answer:?}");
    }
    let_read(&stack, "valid_user@qt-test.com", "none");
    assert_eq!(read(&stack, &pair, &[], "/api/me").status, 403);
    let_read(&stack, "valid_user@qt-test.com", "all");
    let who = json(&read(&stack, &pair, &[], "/api/who"));
    assert_eq!(emails(&who), ["valid_user@qt-test.com"]);
    assert_eq!(who["counts"]["online"], 1);
    assert_eq!(who["servers"][0]["hears"], true);
    assert_eq!(read(&stack, &pair, &[], "/").status, 200);

    // The one that is proven counts, and no header of the client.
    stack.member("victim@example.com");
    let forged = read(&stack, &pair, &["-H", "X-Subject-CN: victim@example.com"], "/api/me");
    assert_eq!(json(&forged)["email"], "valid_user@qt-test.com");
    let forged = read(&stack, &pair, &["-H", &format!("Authorization: Bearer {}", token(&stack))], "/api/me");
    assert_eq!(json(&forged)["email"], "valid_user@qt-test.com");
}

#[test]
fn parameters_that_cannot_be_are_named() {
    let stack = up();
    let pair = stack.pair("client");
    let_read(&stack, "valid_user@qt-test.com", "all");
    let long = format!("/api/who?q={}", "x".repeat(300));
    for (path, status, said) in [
        (
            "/api/who?state=late,gone",
            400,
            "state is \"gone\": the states are offline, late, unknown, online, never, and disabled",
        ),
        ("/api/who?state=", 400, "state is \"\""),
        ("/api/who?limit=0", 400, "limit is \"0\": it is a number from 1 to 1000"),
        ("/api/who?limit=-1", 400, "limit is \"-1\""),
        ("/api/who?limit=%2B1", 400, "limit is \"+1\""),
        ("/api/who?limit=1000000", 400, "limit is \"1000000\""),
        ("/api/who?limit=99999999999999999999999", 400, "limit is"),
        ("/api/who?sort=name", 400, "sort is \"name\": it is trouble, email or seen"),
        ("/api/who?after=x", 400, "it is the text of next in an answer"),
        ("/api/who?after=MDAwMDAwMDAuMCAwIDAgMCAwIGE", 410, "of another board"),
        ("/api/who?q=%00", 400, "q is \"\\0\": no email has control characters"),
        ("/api/who?q=%1b[2J", 400, "no email has control characters"),
        ("/api/who?q=%", 400, "is not percent-encoded"),
        ("/api/who?q=%zz", 400, "is not percent-encoded"),
        ("/api/who?q=%ff", 400, "does not decode to UTF-8"),
        (&long, 400, "q has 300 bytes, and an email 254 at the most"),
        ("/api/who?q=a&q=b", 400, "the parameter q is there more than once"),
        ("/api/who?name=a", 400, "this call has no parameter \"name\": state, q, sort, limit, after"),
        ("/api/counts?x", 400, "this call has no parameter \"x\": it has none"),
        ("/api/me?email=a@b", 400, "no parameter"),
        ("/api/changes", 400, "after is missing"),
        ("/api/changes?after=00000000.0", 410, "read /api/who again"),
        ("/api/changes?after=", 410, "of another board"),
        ("/api/who/nobody@example.com", 404, "nobody@example.com is not enrolled"),
        ("/api/who/nobody", 400, "not an email address: \"nobody\""),
        ("/api/who/%3Cb%3E@example.com", 400, "not an email address"),
        ("/api/who/", 404, "/api/openapi.json has the calls"),
        ("/api/nothing", 404, "/api/openapi.json has the calls"),
    ] {
        for answer in [read(&stack, &pair, &["-g"], path), host(&stack, path)] {
            assert_eq!(answer.status, status, "{path}: {answer:?}");
            assert!(answer.detail().contains(said), "{path}: {answer:?}");
        }
    }
    let present = json(&host(&stack, "/api/counts"))["position"].as_str().unwrap().to_owned();
    for wait in ["soon", "31s", "-1s", "1", "99999999999999999999s"] {
        let answer = host(&stack, &format!("/api/changes?after={present}&wait={wait}"));
        assert!(answer.detail().starts_with("wait is "), "{wait}: {answer:?}");
    }
    // A position that is yet to come.
    let later = format!("{}.999", present.split('.').next().unwrap());
    assert_eq!(host(&stack, &format!("/api/changes?after={later}")).status, 410);

    // 10 kB: nginx, and the board's own port.
    let huge = format!("/api/who?q={}", "x".repeat(10_000));
    assert_eq!(read(&stack, &pair, &[], &huge).status, 431);
    assert_eq!(host(&stack, &huge).status, 400);
    let large = format!("/api/who?q={}", "x".repeat(2500));
    assert_eq!(read(&stack, &pair, &[], &large).status, 431);
    assert_eq!(
        (host(&stack, &large).status, host(&stack, &large).detail().as_str()),
        (414, "the query has 2502 bytes, and may have 2048")
    );

    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"] {
        let answer = read(&stack, &pair, &["-X", method], "/api/who");
        assert_eq!(
            (answer.status, answer.detail().as_str()),
            (405, "only GET and HEAD are answered here"),
            "{method}"
        );
        assert!(answer.head.contains("\r\nAllow: GET, HEAD"), "{answer:?}");
    }
    let bearer = format!("Authorization: Bearer {}", token(&stack));
    let answer = direct(&stack, &["-H", &bearer, "-X", "DELETE"], "/api/who");
    assert_eq!((answer.status, answer.head.contains("allow: GET, HEAD")), (405, true), "{answer:?}");
    let answer = direct(&stack, &["-H", &bearer], "/code");
    assert_eq!((answer.status, answer.head.contains("allow: POST")), (405, true), "{answer:?}");
    // nginx leads to no path of the board's own.
    for path in ["/api/../readyz", "/api/%2e%2e/readyz", "/api/\\..\\..\\readyz", "/api/..%5c../code"] {
        let answer = read(&stack, &pair, &["--path-as-is", "-g"], path);
        assert_ne!(answer.status, 200, "{path}");
    }
    let head = read(&stack, &pair, &["-I", "-X", "HEAD"], "/api/who");
    assert_eq!((head.status, head.body.as_str()), (200, ""), "{head:?}");
    let head = read(&stack, &pair, &["-I", "-X", "HEAD"], "/api/stream");
    assert_eq!((head.status, head.body.as_str()), (200, ""), "{head:?}");
}

#[test]
fn an_unchanged_board_costs_a_304() {
    let stack = up();
    let pair = stack.pair("client");
    let_read(&stack, "valid_user@qt-test.com", "all");
    for path in ["/api/who", "/api/counts", "/api/me"] {
        let first = read(&stack, &pair, &[], path);
        let tag =
            first.head.lines().find_map(|line| line.strip_prefix("ETag: ").or(line.strip_prefix("etag: ")));
        let tag = tag.unwrap_or_else(|| panic!("{first:?}"));
        if path != "/api/me" {
            assert_eq!(tag.trim_matches('"'), json(&first)["position"].as_str().unwrap());
        }
        for (asked, status) in [
            (tag.to_owned(), 304),
            (format!("W/{tag}"), 304),
            (format!("\"x\", {tag}"), 304),
            ("*".to_owned(), 304),
            ("\"x\"".to_owned(), 200),
            ("x".repeat(1000), 200),
        ] {
            let answer = read(&stack, &pair, &["-H", &format!("If-None-Match: {asked}")], path);
            assert_eq!(answer.status, status, "{path} {asked}: {answer:?}");
            assert_eq!(answer.body.is_empty(), status == 304, "{answer:?}");
        }
    }
    let tag =
        format!("If-None-Match: \"{}\"", json(&host(&stack, "/api/counts"))["position"].as_str().unwrap());
    expect(&mut stack.client(&pair), 0, "Success!");
    wait_until("it changes", || read(&stack, &pair, &["-H", &tag], "/api/counts").status == 200);
}

/// Rows as they may be: an email that looks like HTML, deleted while it is shown, the canary.
#[test]
fn rows_that_are_made_changed_and_deleted() {
    let stack =
        Builder::new().set("ROLLCALL_BOARD", "on").set("ROLLCALL_CANARY", "canary@rollcall.internal").up();
    let html = "'{x}/*`&#?=%25|~'+a@example.com";
    expect(&mut stack.administer(&["user", "add", html, "b@example.com", "c@example.com"]), 0, "");
    let list = |query: &str| json(&host(&stack, &format!("/api/who{query}")));
    wait_until("they are there", || emails(&list("")).len() == 4);
    assert_eq!(
        emails(&list("?sort=email")),
        [html, "b@example.com", "c@example.com", "valid_user@qt-test.com"]
    );
    let encoded: String = html.bytes().map(|byte| format!("%{byte:02x}")).collect();
    assert_eq!(person(&stack, &encoded)["email"], html);
    assert_eq!(json(&read(&stack, &stack.pair("client"), &[], "/api/me"))["email"], "valid_user@qt-test.com");
    for (q, found) in [
        ("%25", vec![html]),
        ("%2525", vec![html]),
        ("_", vec!["valid_user@qt-test.com"]),
        ("B@", vec!["b@example.com"]),
        ("'+A@", vec![html]),
        ("%5c", vec![]),
    ] {
        assert_eq!(emails(&list(&format!("?q={q}"))), found, "{q}");
    }
    // Pages.
    let mut seen = Vec::new();
    let mut after = String::new();
    loop {
        let page = list(&format!("?sort=email&limit=3{after}"));
        seen.extend(emails(&page).into_iter().map(str::to_owned));
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    assert_eq!(seen, emails(&list("?sort=email")));
    let next = list("?sort=email&limit=1")["next"].as_str().unwrap().to_owned();
    assert!(host(&stack, &format!("/api/who?after={next}")).detail().contains("of another sort"));

    // Disabled: beside the others, and last.
    expect(&mut stack.administer(&["user", "disable", "b@example.com"]), 0, "");
    wait_until("b is disabled", || list("")["counts"]["disabled"] == 1);
    let all = list("?sort=email");
    assert_eq!(*emails(&all).last().unwrap(), "b@example.com");
    assert_eq!(all["counts"]["never"], 3);
    assert_eq!(emails(&list("?state=disabled")), ["b@example.com"]);
    assert!(!emails(&list("?state=never")).contains(&"b@example.com"));

    let position = all["position"].as_str().unwrap().to_owned();
    let changes = || json(&host(&stack, &format!("/api/changes?after={position}&wait=30s")));
    stack.sql("delete from users where email = 'c@example.com'");
    let change = changes()["changes"][0].clone();
    assert_eq!(change["email"], "c@example.com");
    assert_eq!(
        (&change["from"], &change["to"], &change["person"]),
        (&"never".into(), &Value::Null, &Value::Null)
    );
    assert_eq!(host(&stack, "/api/who/c@example.com").status, 404);
    expect(&mut stack.administer(&["user", "every", "b@example.com", "5m"]), 0, "");
    wait_until("the interval is there", || person(&stack, "b@example.com")["every"] == 300);
    assert!(
        list("")["people"]
            .as_array()
            .unwrap()
            .iter()
            .all(|person| person["email"] != "canary@rollcall.internal")
    );
    assert_eq!(host(&stack, "/api/who/canary@rollcall.internal").status, 404);
}
