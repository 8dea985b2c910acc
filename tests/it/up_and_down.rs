//! `stack/up` and `stack/down`, the scripts behind `just up` and `just down`.

use crate::program::has_ended;
use crate::stack::{Builder, Stack, expect, text};
use std::net::TcpListener;

#[test]
fn both_can_be_run_twice_and_status_tells() {
    let stack = Stack::with_its_own_cluster();
    let pids =
        || ["server/pid", "nginx/nginx.pid", "postgres/data/postmaster.pid"].map(|file| stack.pid(file));
    let before = pids();
    assert!(stack.script("stack/up").status.success());
    assert_eq!(pids(), before, "up restarted something that was running");
    let status = stack.script("stack/status");
    assert_eq!(status.status.code(), Some(0), "{}", text(&status));

    expect(&mut stack.client(&stack.pair("client")), 0, "Success!");
    let row = stack.row("valid_user@qt-test.com");
    for _ in 0..2 {
        let down = stack.script("stack/down");
        assert!(down.status.success(), "{}", text(&down));
    }
    let status = stack.script("stack/status");
    assert_eq!(status.status.code(), Some(1));
    assert_eq!(text(&status).matches("does not run").count(), 3, "{}", text(&status));
    for pid in before {
        assert!(has_ended(pid), "{pid} still runs");
    }

    // The record is still there after the next up.
    assert!(stack.script("stack/up").status.success());
    assert_eq!(stack.row("valid_user@qt-test.com"), row);
}

/// Of the private cluster, too.
#[test]
fn down_names_each_part_that_it_stops() {
    let stack = Builder::new()
        .set("ROLLCALL_CANARY", "bird@example.com")
        .set("ROLLCALL_BOARD", "on")
        .up_with_its_own_cluster();
    let said = text(&stack.script("stack/down"));
    let lines: Vec<Vec<&str>> = said.lines().map(|line| line.split_whitespace().collect()).collect();
    let parts = ["signer", "canary", "board", "nginx", "server", "PostgreSQL"];
    assert_eq!(lines, parts.map(|part| vec![part, "stopped"]), "{said}");
}

/// The folder of the server's keys is the server's, and a link in it must not lead root anywhere.
#[test]
fn a_link_in_the_servers_folder_is_not_followed() {
    let stack = Stack::up();
    let (key, elsewhere) = (stack.state.join("server/own/broadcast.key"), stack.state.join("elsewhere"));
    std::fs::create_dir(&elsewhere).unwrap();
    std::fs::remove_file(&key).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &key).unwrap();
    let up = stack.script("stack/up");
    assert!(up.status.success(), "{}", text(&up));
    assert_eq!(std::fs::read_dir(elsewhere).unwrap().count(), 0);
    assert!(std::fs::symlink_metadata(key).unwrap().is_file());
}

#[test]
fn two_stacks_side_by_side_do_not_meet() {
    let (first, second) = (Stack::up(), Stack::with_its_own_cluster());
    let (ear, other) = (first.ear(), second.ear());
    expect(&mut first.client(&first.pair("client")), 0, "Success!");
    ear.hear();
    other.hears_nothing();
    assert_eq!(second.row("valid_user@qt-test.com"), "||");
    // One CA's certificates are nothing to the other.
    let answer = second.curl(Some(&first.pair("client")), &[]);
    assert_eq!(answer.status, 400, "{answer:?}");
    drop(first);
    expect(&mut second.client(&second.pair("client")), 0, "Success!");
}

#[test]
fn a_port_that_is_taken_is_named_with_the_setting() {
    let stack = Builder::new().stopped();
    let holder = TcpListener::bind(("0.0.0.0", stack.https_port)).unwrap();
    let up = stack.script("stack/up");
    assert!(!up.status.success());
    let said = format!(
        "port {} is taken: stop who holds it, or set ROLLCALL_HTTPS_PORT to another",
        stack.https_port
    );
    assert!(text(&up).contains(&said), "{}", text(&up));
    drop(holder);
    let stack = Builder::new().stopped();
    let holder = TcpListener::bind(&stack.listen).unwrap();
    // It hangs up, so that nobody waits for its answer.
    std::thread::spawn(move || holder.incoming().for_each(drop));
    let up = stack.script("stack/up");
    assert!(!up.status.success());
    let said = format!("{} is taken: stop who holds it (", stack.listen);
    assert!(text(&up).contains(&said), "{}", text(&up));
}

#[test]
fn a_database_of_ones_own() {
    let owner = Stack::database();
    // No CA has put its list there yet.
    owner.sql("delete from crls");
    let stack = Builder::new()
        .set("DATABASE_URL", owner.database_url())
        .set("ROLLCALL_SERVER_DATABASE_URL", owner.server_database_url())
        .up_with_its_own_cluster();
    assert!(!stack.state.join("postgres").exists());
    expect(&mut stack.client(&stack.pair("client")), 0, "Success!");
    assert_ne!(owner.row("valid_user@qt-test.com"), "||");
    expect(&mut stack.tool("stack/down"), 0, "the one of DATABASE_URL goes on");
    assert_ne!(owner.row("valid_user@qt-test.com"), "||");
}

#[test]
fn a_changed_setting_restarts_the_part_that_it_concerns() {
    let stack = Stack::with_its_own_cluster();
    let server = stack.pid("server/pid");
    let postgres = stack.pid("postgres/data/postmaster.pid");
    let mut command = stack.command(concat!(env!("CARGO_MANIFEST_DIR"), "/stack/up"));
    expect(command.env("ROLLCALL_DEADLINE", "3s"), 0, "settings changed: restarting");
    assert_ne!(stack.pid("server/pid"), server);
    assert_eq!(stack.pid("postgres/data/postmaster.pid"), postgres);
    expect(&mut stack.client(&stack.pair("client")), 0, "Success!");

    // A port that is taken costs nobody anything. This holder takes connections and never answers.
    let server = stack.pid("server/pid");
    let holder = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = holder.local_addr().unwrap().port().to_string();
    let mut command = stack.command(concat!(env!("CARGO_MANIFEST_DIR"), "/stack/up"));
    command.env("ROLLCALL_DEADLINE", "3s").env("ROLLCALL_LISTEN", format!("127.0.0.1:{port}"));
    expect(&mut command, 1, &format!("127.0.0.1:{port} is taken: stop who holds it"));
    let mut command = stack.command(concat!(env!("CARGO_MANIFEST_DIR"), "/stack/up"));
    command.env("ROLLCALL_DEADLINE", "3s").env("ROLLCALL_HTTPS_PORT", &port);
    expect(&mut command, 1, &format!("port {port} is taken: stop who holds it"));
    assert_eq!(stack.pid("server/pid"), server);
    expect(&mut stack.client(&stack.pair("client")), 0, "Success!");
}

#[test]
fn files_that_another_command_reloaded_are_not_reloaded_again() {
    let stack = Stack::up();
    for command in [&["crl"][..], &["renew", "--server"]] {
        expect(&mut stack.administer(command), 0, "");
        let up = stack.script("stack/up");
        assert!(up.status.success() && !text(&up).contains("reloading"), "{command:?}: {}", text(&up));
    }
}
