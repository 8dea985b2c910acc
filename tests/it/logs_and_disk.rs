//! Logs that are kept small, and disks that are full.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;

use crate::disk::Disk;
use crate::stack::{Builder, Stack, expect, needs_root, text, wait_until};

#[test]
fn a_log_that_has_grown_gives_way_to_a_new_one() {
    let stack = Builder::new().set("ROLLCALL_LOG_SIZE", "1").up_with_its_own_cluster();
    let logs = ["nginx/access.log", "nginx/error.log", "server/log", "postgres/log"];
    for log in logs {
        let mut file = OpenOptions::new().append(true).open(stack.state.join(log)).unwrap();
        file.write_all("old line\n".repeat(150_000).as_bytes()).unwrap();
    }
    wait_until("they were moved", || {
        logs.iter().all(|log| {
            let size = |name: String| fs::metadata(stack.state.join(name)).map_or(0, |file| file.len());
            size(format!("{log}.1")) > 1 << 20 && size(log.to_string()) < 1 << 20
        })
    });
    // Each program goes on writing, into the new one.
    expect(&mut stack.client(&stack.pair("client")), 0, "Success!");
    stack.curl(Some(&stack.pair("bad_client")), &[]);
    wait_until("nginx writes", || stack.log("nginx/access.log").contains("CN=valid_user@qt-test.com"));
    wait_until("the server writes", || stack.log("server/log").contains("is not an email address"));
    let _ = stack.psql().args(["-c", "select nonsense"]).output();
    wait_until("PostgreSQL writes", || stack.log("postgres/log").contains("select nonsense"));
    // One that was moved while nobody told nginx is left behind at the next look.
    fs::rename(stack.state.join("nginx/access.log"), stack.state.join("nginx/access.log.1")).unwrap();
    wait_until("nginx writes into a new one", || {
        stack.curl(Some(&stack.pair("bad_client")), &[]);
        stack.log("nginx/access.log").contains("CN=not_an_email")
    });
    // Strangers on the host read none of them.
    let nginx = fs::metadata(stack.state.join("nginx")).unwrap();
    assert_eq!(nginx.mode() & 0o007, 0);

    let status = stack.script("stack/status");
    assert_eq!(status.status.code(), Some(0), "{}", text(&status));
    assert!(text(&status).contains(" MiB, and at most 2 x 1 MiB for each of server"), "{}", text(&status));
    crate::program::signal("KILL", &[stack.pid("keep-logs.pid")]);
    wait_until("the status says so", || {
        text(&stack.script("stack/status")).contains("NOBODY KEEPS THEM SMALL: just up")
    });
    expect(&mut stack.tool("stack/up"), 0, "");
    assert!(!text(&stack.script("stack/status")).contains("NOBODY"));
    let mut up = stack.tool("stack/up");
    expect(
        up.env("ROLLCALL_LOG_SIZE", "1 GB"),
        1,
        "ROLLCALL_LOG_SIZE is \"1 GB\": it must be a whole number of MiB",
    );
}

#[test]
fn little_room_is_told_and_a_full_disk_does_not_end_a_stack_for_good() {
    let Some(()) = needs_root("to mount a small disk") else { return };
    let builder = Builder::new();
    let folder = builder.state().to_owned();
    let disk = Disk::mount(&folder, "400m");
    let stack = builder.up_with_its_own_cluster();
    let client = stack.pair("client");
    expect(&mut stack.client(&client), 0, "Success!");
    let status = || {
        let output = stack.script("stack/status");
        (output.status.code().unwrap(), text(&output))
    };
    assert_eq!(status().0, 0, "{}", status().1);

    disk.fill(16 << 20);
    let (exit, said) = status();
    assert!(exit == 1 && said.contains("make room, then just up"), "{said}");
    let mut doctor = stack.tool("stack/run");
    doctor.args(["rollcall-server", "doctor", "disk"]);
    expect(&mut doctor, 1, "red     ");
    doctor.env("ROLLCALL_STATE", "/no/such/folder");
    expect(&mut doctor, 1, "the room on the disk of /no/such/folder was not checked");

    // PostgreSQL ends when its write-ahead log cannot grow.
    disk.fill(0);
    let grow =
        "select pg_logical_emit_message(false, 'test', repeat('x', 1000000)) from generate_series(1, 100)";
    let _ = stack.psql().args(["-c", grow]).output();
    wait_until("it has ended", || !stack.state.join("postgres/data/postmaster.pid").exists());
    expect(stack.client(&client).args(["--attempts", "1"]), 75, "the database is unreachable");
    disk.clear();
    let (exit, said) = status();
    assert!(exit == 1 && said.contains("it stays down when there is room again"), "{said}");
    expect(&mut stack.tool("stack/up"), 0, "");
    expect(&mut stack.client(&client), 0, "Success!");
    assert_eq!(status().0, 0, "{}", status().1);
    drop(stack);
    drop(disk);
}

/// Exit code 78 would keep a service manager from trying again.
#[test]
fn a_full_disk_is_no_mistake_in_the_settings() {
    let Some(()) = needs_root("to mount a small disk") else { return };
    let stack = Stack::server();
    let folder = stack.state.join("full");
    fs::create_dir(&folder).unwrap();
    let disk = Disk::mount(&folder, "1m");
    fs::copy(stack.certs.join("broadcast.key"), folder.join("key")).unwrap();
    disk.fill(0);
    let key = folder.join("key").display().to_string();
    let mut server = crate::server::start(&stack, &[("ROLLCALL_BROADCAST_KEY", &key)]);
    assert_eq!(server.exit(), 1, "{}", server.err());
    assert!(server.err().contains("cannot write it: No space left on device"), "{}", server.err());
    let mut listener = stack.program("rollcall-listen");
    listener.arg("--state").arg(folder.join("state")).arg("--key").arg(stack.certs.join("broadcast.pub"));
    expect(&mut listener, 1, "cannot write it: No space left on device");
    // A folder that is not there is one.
    let mut listener = stack.program("rollcall-listen");
    listener.args(["--state", "/no/such/folder/state", "--key"]).arg(stack.certs.join("broadcast.pub"));
    expect(&mut listener, 78, "cannot write it: No such file or directory");
    drop(disk);
}

#[test]
fn a_log_of_objects_stays_one_whatever_a_stranger_says() {
    let stack = Stack::up();
    let broadcast = format!("127.255.255.255:{},nothing0", stack.broadcast_port);
    let before = stack.log("server/log").len();
    let mut up = stack.tool("stack/up");
    up.env("ROLLCALL_LOG_FORMAT", "json").env("ROLLCALL_BROADCAST", &broadcast);
    let output = up.output().unwrap();
    let said = text(&output);
    assert!(output.status.success() && said.contains("settings changed: restarting"), "{said}");
    assert!(said.contains("               warning: ") && said.contains("nothing0"), "{said}");
    let after = stack.log("server/log").len();
    for name in ["\"},{\"level\":\"error\"", "\\5C\"\\0D\\0A{}", "a\\22b\\1B[2J@example.com"] {
        let answer = crate::server::answer(crate::server::heartbeat(&stack, name, 1, 10));
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
    let log = stack.log("server/log");
    // The server before has written its last lines as text.
    assert!(log[before..].contains("INFO  stopping: "), "{log}");
    let lines: Vec<serde_json::Value> =
        log[after..].lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    for line in &lines {
        assert_eq!(line.as_object().unwrap().len(), 4, "{line}");
        assert_eq!(
            (line["level"].as_str(), line["target"].as_str()),
            (Some("info"), Some("rollcall::http::refusals"))
        );
        assert!(humantime::parse_rfc3339(line["time"].as_str().unwrap()).is_ok(), "{line}");
        assert!(line["message"].as_str().unwrap().contains(" 400: "), "{line}");
    }
}
