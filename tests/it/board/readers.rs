//! Who may read, and by which door.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;

use super::{direct, host, json, let_read, read, restart_board, token, up};
use crate::program::signal;
use crate::stack::{expect, text, wait_until};

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
    // The board only reads it.
    let elsewhere = stack.state.join("elsewhere");
    fs::create_dir_all(elsewhere.join("board")).unwrap();
    let credential = "board/proxy-credential";
    fs::copy(stack.state.join(credential), elsewhere.join(credential)).unwrap();
    let mut board = stack.program("rollcall-board");
    board.env("ROLLCALL_STATE", &elsewhere).env("DATABASE_URL", stack.database_url());
    expect(&mut board, 78, "board/token: No such file or directory (os error 2); just up makes it");
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
