//! `rollcall-board`: the calls, the rights, the stream.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use serde_json::Value;

use crate::program::signal;
use crate::stack::{Answer, Builder, Pair, Stack, expect, text, wait_until};

mod contract;
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
fn who_may_not_read() {
    let stack = up();
    assert_eq!(stack.curl(None, &["-X", "GET", "/api/who"]).status, 400);
    let stranger = stack.certificate("stranger@example.com", &[]);
    assert!(read(&stack, &stranger, &[], "/api/me").detail().contains("is not enrolled"));
    let pair = stack.member("a@example.com");
    let_read(&stack, "a@example.com", "all");
    assert_eq!(read(&stack, &pair, &[], "/api/who").status, 200);
    expect(&mut stack.administer(&["user", "disable", "a@example.com"]), 0, "");
    assert!(read(&stack, &pair, &[], "/api/who").detail().contains("disabled"));
    expect(&mut stack.administer(&["user", "enable", "a@example.com"]), 0, "");
    // Without a reload of nginx: the row is asked.
    stack.sql(
        "insert into certificates (serial_number, email, fingerprint, not_after)
         select 'AB', 'valid_user@qt-test.com', repeat('0', 40), 1",
    );
    expect(&mut stack.client(&pair), 0, "Success!");
    stack.sql("update certificates set revoked_at = now() where email = 'a@example.com'");
    let answer = read(&stack, &pair, &[], "/api/who");
    assert_eq!((answer.status, answer.detail().contains("is revoked")), (403, true), "{answer:?}");
    // nginx tells the board its own credential; the server's means nothing here.
    let header = format!("X-Proxy-Credential: {}", stack.credential());
    assert_eq!(direct(&stack, &["-H", &header], "/api/me").status, 401);
}

#[test]
fn the_token_of_this_host() {
    let stack = up();
    let file = stack.state.join("board/token");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let token = token(&stack);
    assert_eq!(json(&host(&stack, "/api/counts"))["counts"]["never"], 1);
    assert!(host(&stack, "/api/me").detail().contains("the token is nobody's"));

    let bearer = format!("Authorization: Bearer {token}");
    for (options, status) in [
        (&[][..], 401),
        (&["-H", "Authorization: Bearer x"], 401),
        (&["-H", &format!("Authorization: Bearer {}", &token[1..])], 401),
        (&["-H", &format!("Authorization: Bearer {token}{token}")], 401),
        (&["-H", &format!("Authorization: Basic {token}")], 401),
        (&["-H", "Authorization: Bearer"], 401),
        (&["-H", "Authorization: "], 401),
        (&["-H", &bearer, "-H", &bearer], 401),
        (&["-H", &format!("Cookie: rollcall-board-1={token}")], 401),
        (&["-H", &format!("authorization: bearer {token}")], 200),
        (&["-H", &bearer, "-H", "Host: evil.example"], 421),
        (&["-H", &bearer, "-H", "Host: 127.0.0.1.evil.example"], 421),
        (&["-H", &bearer, "-H", "Host: localhost:1"], 200),
        (&["-H", &bearer, "-H", "X-Forwarded-Host: evil.example"], 200),
    ] {
        let answer = direct(&stack, options, "/api/counts");
        assert_eq!(answer.status, status, "{options:?}: {answer:?}");
    }
    for path in ["/", "/api/who", "/code", "/elsewhere", "/api/openapi.json"] {
        assert_eq!(direct(&stack, &[], path).status, 401, "{path}");
    }

    // The same after a restart; and in no log.
    restart_board(&stack);
    assert_eq!(self::token(&stack), token);
    assert_eq!(host(&stack, "/api/counts").status, 200);
    for log in ["board/log", "server/log", "nginx/access.log", "nginx/error.log"] {
        assert!(!stack.log(log).contains(&token), "{log}");
    }
    // An old one opens nothing.
    fs::remove_file(&file).unwrap();
    restart_board(&stack);
    assert_ne!(self::token(&stack), token);
    assert_eq!(direct(&stack, &["-H", &bearer], "/api/counts").status, 401);
}

#[test]
fn the_link_is_good_once() {
    let stack = up();
    let output = stack.tool("stack/run").args(["rollcall-board", "link"]).output().unwrap();
    let said = text(&output);
    let code = said
        .trim()
        .strip_prefix(&format!("http://{}/?code=", stack.board_listen))
        .unwrap_or_else(|| panic!("{said}"));
    let path = format!("/?code={code}");
    // Not behind nginx, and not under another name.
    assert_eq!(read(&stack, &stack.pair("client"), &[], &path).status, 403);
    assert_eq!(direct(&stack, &["-H", "Host: evil.example"], &path).status, 421);
    let answer = direct(&stack, &[], &path);
    assert_eq!(answer.status, 303, "{answer:?}");
    let header = |name: &str| {
        let line = answer.head.lines().find(|line| line.to_lowercase().starts_with(&format!("{name}: ")));
        line.unwrap_or_else(|| panic!("{name}: {answer:?}"))[name.len() + 2..].to_owned()
    };
    assert_eq!((header("location"), header("cache-control")), ("/".to_owned(), "no-store".to_owned()));
    let cookie = header("set-cookie");
    let port = stack.board_listen.rsplit_once(':').unwrap().1;
    assert!(cookie.starts_with(&format!("rollcall-board-{port}=")), "{cookie}");
    for attribute in ["HttpOnly", "SameSite=Strict", "Path=/"] {
        assert!(cookie.contains(attribute), "{cookie}");
    }
    let cookie = format!("Cookie: other=1; {}", cookie.split(';').next().unwrap());
    assert_eq!(direct(&stack, &["-H", &cookie], "/").status, 200);
    assert_eq!(direct(&stack, &["-H", &cookie], "/api/who").status, 200);
    // A page may read with the cookie, and makes no codes.
    assert_eq!(direct(&stack, &["-H", &cookie, "-X", "POST"], "/code").status, 404);

    let again = direct(&stack, &[], &path);
    assert_eq!(
        (again.status, again.detail().contains("just board prints another")),
        (403, true),
        "{again:?}"
    );
    assert_eq!(direct(&stack, &[], "/?code=").status, 403);
    assert!(!stack.log("board/log").contains(code));

    // Nobody is there.
    signal("TERM", &[stack.pid("board/pid")]);
    wait_until("it has ended", || TcpStream::connect(&stack.board_listen).is_err());
    expect(stack.tool("stack/run").args(["rollcall-board", "link"]), 69, "does not answer");
    // The heartbeats go on, and nginx says who is missing.
    let answer = read(&stack, &stack.pair("client"), &[], "/api/me");
    assert_eq!((answer.status, answer.detail().as_str()), (503, "rollcall-board does not answer; try again"));
    expect(&mut stack.client(&stack.pair("client")), 0, "Success!");
    let status = stack.script("stack/status");
    assert!(text(&status).contains("board        does not run: just up"), "{}", text(&status));
    restart_board(&stack);
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

#[test]
fn silence_becomes_late_then_offline_and_ends() {
    let stack = up();
    let pair = stack.pair("client");
    // Late after 3.1 s, offline after 16 s.
    expect(&mut stack.administer(&["user", "every", "valid_user@qt-test.com", "1s"]), 0, "");
    let begin = json(&host(&stack, "/api/counts"))["position"].as_str().unwrap().to_owned();
    expect(&mut stack.client(&pair), 0, "Success!");
    let mut position = begin;
    let mut seen = Vec::new();
    while seen.last().is_none_or(|(_, to)| to != "offline") {
        let answer = json(&host(&stack, &format!("/api/changes?after={position}&wait=30s")));
        for change in answer["changes"].as_array().unwrap() {
            if change["from"] != change["to"] {
                let word = |name: &str| change[name].as_str().unwrap().to_owned();
                assert_eq!(change["person"]["state"], change["to"]);
                seen.push((word("from"), word("to")));
            }
        }
        position = answer["position"].as_str().unwrap().to_owned();
    }
    let expected = [("never", "online"), ("online", "late"), ("late", "offline")];
    assert_eq!(seen, expected.map(|(from, to)| (from.to_owned(), to.to_owned())));
    let offline = person(&stack, "valid_user@qt-test.com");
    assert_eq!((&offline["since"], &offline["due"]), (&offline["last_seen"], &Value::Null));
    // The same after a restart of the board.
    restart_board(&stack);
    assert_eq!(person(&stack, "valid_user@qt-test.com")["since"], offline["since"]);
    assert_eq!(host(&stack, &format!("/api/changes?after={position}")).status, 410);
    // A transition is seen within a second.
    let position = json(&host(&stack, "/api/counts"))["position"].as_str().unwrap().to_owned();
    expect(&mut stack.client(&pair), 0, "Success!");
    let change = json(&host(&stack, &format!("/api/changes?after={position}&wait=30s")));
    assert_eq!(change["changes"][0]["to"], "online", "{change}");
}

/// Without its clock nobody is called late; the same when the board itself cannot look.
#[test]
fn a_server_that_stands_still_makes_its_people_unknown() {
    let stack = Builder::new().set("ROLLCALL_BOARD", "on").up_with_its_own_cluster();
    expect(&mut stack.administer(&["user", "every", "valid_user@qt-test.com", "1s"]), 0, "");
    let state = || person(&stack, "valid_user@qt-test.com")["state"].as_str().unwrap().to_owned();
    let beats = stack.beating(&stack.pair("client"), "1s");
    wait_until("it is online", || state() == "online");
    let server = stack.pid("server/pid");
    signal("STOP", &[server]);
    wait_until("nobody can tell", || state() == "unknown");
    let counts = json(&host(&stack, "/api/counts"));
    assert_eq!((&counts["counts"]["unknown"], &counts["servers"][0]["hears"]), (&1.into(), &false.into()));
    signal("CONT", &[server]);
    wait_until("it hears again", || state() == "online");

    let reader = stack.member("reader@example.com");
    assert_eq!(read(&stack, &reader, &[], "/api/me").status, 200);
    // The database goes away: the board goes on with what it has, and says how old that is.
    let as_of = || json(&host(&stack, "/api/counts"))["as_of"].as_str().unwrap().to_owned();
    signal("INT", &[stack.pid("postgres/data/postmaster.pid")]);
    wait_until("nobody can tell", || state() == "unknown");
    let old = as_of();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(as_of(), old);
    // Whoever was let in before may go on, and nobody else.
    assert_eq!(read(&stack, &reader, &[], "/api/me").status, 200);
    let answer = read(&stack, &stack.pair("client"), &[], "/api/me");
    assert_eq!(
        (answer.status, answer.detail().contains("the database is unreachable or too slow")),
        (503, true)
    );
    let board = stack.pid("board/pid");
    restart_board(&stack);
    assert_ne!(stack.pid("board/pid"), board);
    wait_until("it is online again", || state() == "online");
    drop(beats);
}

#[test]
fn prometheus_is_told_how_many_are_in_which_state() {
    let stack = up();
    let client = stack.pair("client");
    expect(&mut stack.client(&client), 0, "Success!");
    wait_until("it is counted", || {
        let page = host(&stack, "/metrics");
        assert_eq!(page.status, 200, "{page:?}");
        assert!(!page.body.contains('@'), "an email in {}", page.body);
        let has = |line: &str| page.body.lines().any(|one| one == line);
        has("rollcall_people{state=\"online\"} 1")
            && has("rollcall_people{state=\"never\"} 0")
            && has("rollcall_people{state=\"disabled\"} 0")
            && has("rollcall_transitions_total{to=\"online\"} 1")
            && page.body.contains("rollcall_server_hears{server=\"")
    });
    assert_eq!(direct(&stack, &[], "/metrics").status, 401);
    // nginx forwards none of it.
    assert_eq!(read(&stack, &client, &[], "/metrics").status, 404);
}

/// nginx forwards a fixed list of headers that it wrote itself.
#[test]
fn nobody_reads_by_another_name() {
    let stack = up();
    let pair = stack.member("own@example.com");
    stack.member("other@example.com");
    let token = format!("Authorization: Bearer {}", token(&stack));
    let credential = fs::read_to_string(stack.state.join("board/proxy-credential")).unwrap();
    let credential = format!("X-Proxy-Credential: {}", credential.trim());
    let forged =
        ["X-Subject-CN: other@example.com", "X-Client-Serial: 09", "Host: 127.0.0.1", &token, &credential];
    let headers: Vec<&str> = forged.iter().flat_map(|header| ["-H", header]).collect();
    wait_until("the board knows them", || read(&stack, &pair, &[], "/api/me").status == 200);
    assert_eq!(json(&read(&stack, &pair, &headers, "/api/me"))["email"], "own@example.com");
    assert_eq!(read(&stack, &pair, &headers, "/api/who/other@example.com").status, 403);
    assert_eq!(read(&stack, &pair, &headers, "/metrics").status, 404);
}
