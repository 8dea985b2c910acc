//! Enrolment on the command line.

use crate::stack::{Stack, expect, text};

#[test]
fn add_list_disable_enable() {
    let stack = Stack::server();
    let admin = |arguments: &[&str], exit, said: &str| {
        let mut command = stack.program("rollcall-admin");
        expect(command.env("DATABASE_URL", stack.database_url()).args(arguments), exit, said);
    };
    admin(
        &["user", "add", "B@Example.com", "c@example.com"],
        0,
        "b@example.com enrolled\nc@example.com enrolled\n",
    );
    admin(&["user", "add", "b@example.com"], 0, "b@example.com was enrolled already");
    admin(&["user", "disable", "b@example.com"], 0, "b@example.com disabled");
    admin(&["user", "disable", "b@example.com"], 0, "b@example.com was disabled already");
    // Adding again is no way around a disable.
    admin(&["user", "add", "b@example.com"], 0, "b@example.com was enrolled already");
    assert_eq!(stack.sql("select count(*) from users where disabled_at is not null"), "1");
    admin(&["user", "enable", "b@example.com"], 0, "b@example.com enabled");
    admin(&["user", "enable", "b@example.com"], 0, "b@example.com was enabled already");
    admin(&["user", "disable", "nobody@example.com"], 1, "nobody@example.com is not enrolled");
    // All are checked before the first is acted on.
    admin(
        &["user", "add", "d@example.com", "nobody"],
        2,
        "not an email address: \"nobody\": there is no '@'",
    );
    admin(&["user", "add", "d@example.com'; drop table users; --"], 2, "not an email address");
    admin(&["user", "add"], 2, "no email was given");
    assert_eq!(stack.sql("select count(*) from users"), "3");

    crate::server::is_recorded(&stack);
    let list = text(&stack.admin(&["user", "list"]));
    let lines: Vec<&str> = list.lines().collect();
    assert_eq!(lines.len(), 3, "{list}");
    assert!(lines[0].starts_with("valid_user@qt-test.com ") && lines[0].contains(" enabled "), "{list}");
    assert!(lines[1].starts_with("b@example.com ") && lines[1].ends_with("never seen"), "{list}");
    let json = text(&stack.admin(&["user", "list", "--json"]));
    let first: serde_json::Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
    let row = format!(
        "{}|{}|{}",
        first["last_seen_ns"].as_str().unwrap(),
        first["ip"].as_str().unwrap(),
        first["port"]
    );
    assert_eq!(row, stack.row("valid_user@qt-test.com"));
}

#[test]
fn without_a_database_it_says_so() {
    let stack = crate::stack::Builder::new().stopped();
    let mut command = stack.program("rollcall-admin");
    expect(command.args(["user", "list"]), 78, "DATABASE_URL is not set");
    let mut command = stack.program("rollcall-admin");
    command.env("DATABASE_URL", stack.database_url());
    expect(command.args(["user", "list"]), 69, "No such file or directory");
    let mut command = stack.program("rollcall-admin");
    expect(command.args(["user", "remove", "a@b"]), 2, "remove");
}
