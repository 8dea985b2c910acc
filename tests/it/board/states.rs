//! Late, offline, unknown, and how many are.

use std::time::Duration;

use serde_json::Value;

use super::{direct, host, json, person, read, restart_board, up};
use crate::program::signal;
use crate::stack::{Builder, expect, wait_until};

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
