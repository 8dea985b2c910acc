//! A stack believes of a process, a port or a file only that it is its own part when that is so, and says of all else
//! that it is not or cannot be seen.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::program::{children, has_ended, signal};
use crate::stack::{Builder, Stack, expect, needs_root, text, wait_until};

const UP: &str = "stack/up";
const DOWN: &str = "stack/down";
const STATUS: &str = "stack/status";

fn stops(stack: &Stack) {
    let server = stack.pid("server/pid");
    signal("TERM", &[server]);
    wait_until("the server ended", || has_ended(server));
}

#[test]
fn a_port_of_another_stack_is_taken_and_its_server_sees_no_credential() {
    let first = Stack::up();
    let second = Builder::new().set("ROLLCALL_LISTEN", first.listen.clone()).with_certificates().stopped();
    let taken = format!("{} is taken: stop who holds it (rollcall-server (pid ", first.listen);
    expect(&mut second.tool(UP), 1, &taken);
    assert!(!second.state.join("nginx/nginx.pid").exists(), "no nginx shows its credential there");
    expect(&mut second.tool(STATUS), 1, &format!("{} IS TAKEN by rollcall-server", first.listen));
    expect(&mut second.tool(DOWN), 0, "server       stopped");
    expect(&mut first.client(&first.pair("client")), 0, "Success!");
    expect(&mut first.tool(STATUS), 0, "ready on");
}

#[test]
fn the_port_of_a_server_that_ended_is_taken_by_the_next_one_and_nobody_is_sent_there() {
    let stack = Stack::up();
    stops(&stack);
    let other = Builder::new().set("ROLLCALL_LISTEN", stack.listen.clone()).server();
    expect(&mut stack.tool(STATUS), 1, "IS TAKEN by rollcall-server");
    expect(&mut stack.client(&stack.pair("client")), 75, "503");
    expect(&mut stack.tool(UP), 1, "is taken: stop who holds it (rollcall-server (pid ");
    drop(other);
    expect(&mut stack.tool(UP), 0, "server       ready");
    expect(&mut stack.client(&stack.pair("client")), 0, "Success!");
}

#[test]
fn up_and_down_keep_their_hands_off_a_stack_of_systemds() {
    let stack = Builder::new().with_certificates().stopped();
    // Its folder, as rollcall-setup makes it: nginx's file, and no program beside the server's keys.
    fs::create_dir_all(stack.state.join("server/own")).unwrap();
    fs::create_dir(stack.state.join("nginx")).unwrap();
    fs::write(stack.state.join("nginx/nginx.conf"), "# of the service").unwrap();
    for script in [UP, DOWN, STATUS] {
        expect(&mut stack.tool(script), 1, "systemd's services run the stack in");
    }
    assert_eq!(fs::read_to_string(stack.state.join("nginx/nginx.conf")).unwrap(), "# of the service");
    assert!(!stack.state.join("proxy-credential").exists());
    fs::remove_dir_all(stack.state.join("nginx")).unwrap();
}

/// As in a container that sees the processes of its host.
#[test]
fn parts_of_a_folder_that_has_the_same_path_elsewhere_are_not_ours() {
    if needs_root("for a mount").is_none() {
        return;
    }
    let stack = Stack::up();
    let elsewhere = |script: &str| {
        let there = format!(
            "mount -t tmpfs tmpfs \"$ROLLCALL_STATE\" && exec {}/{script}",
            env!("CARGO_MANIFEST_DIR")
        );
        let mut command = stack.command("unshare");
        command.args(["--mount", "bash", "-c", &there]);
        command
    };
    expect(&mut elsewhere(STATUS), 1, "nginx        does not run");
    expect(&mut elsewhere(DOWN), 0, "nginx        stopped");
    expect(&mut stack.tool(STATUS), 0, "nginx        runs, pid ");
    expect(&mut stack.client(&stack.pair("client")), 0, "Success!");
}

/// As one of a container, from a service that may not look into processes.
#[test]
fn a_process_of_another_namespace_whose_links_are_hidden_is_not_ours() {
    if needs_root("for a namespace of processes").is_none() {
        return;
    }
    let stack = Builder::new().with_certificates().stopped();
    let nginx = stack.state.join("nginx");
    fs::copy("/usr/bin/tail", &nginx).unwrap();
    let status = || {
        let mut command = stack.command("setpriv");
        command.args(["--bounding-set", "-sys_ptrace"]);
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(STATUS));
        command
    };
    let mut plain = Command::new(&nginx).arg("-f").arg(stack.certs.join("ca.crt")).spawn().unwrap();
    expect(&mut status(), 1, &format!("nginx        HAS LOST ITS MASTER: the workers, pid {}", plain.id()));
    signal("KILL", &[plain.id()]);
    plain.wait().unwrap();
    let mut unshare = Command::new("unshare");
    unshare.args(["--pid", "--fork", "--kill-child"]).arg(&nginx).arg("-f").arg(stack.certs.join("ca.crt"));
    let mut unshare = unshare.spawn().unwrap();
    wait_until("it runs", || !children(unshare.id(), "^/").is_empty());
    expect(&mut status(), 1, "nginx        does not run");
    signal("KILL", &[unshare.id()]);
    unshare.wait().unwrap();
}

#[test]
fn workers_without_their_master_are_nginx_all_the_same() {
    let stack = Stack::up();
    let orphaned = || {
        let master = stack.pid("nginx/nginx.pid");
        let workers = children(master, "nginx: worker process");
        signal("KILL", &[master]);
        wait_until("the master ended", || has_ended(master));
        assert!(!workers.is_empty());
        workers
    };
    let workers = orphaned();
    expect(&mut stack.tool(STATUS), 1, "nginx        HAS LOST ITS MASTER: the workers, pid ");
    expect(&mut stack.tool(UP), 0, "nginx        ready");
    assert!(workers.iter().all(|worker| has_ended(*worker)));
    expect(&mut stack.tool(STATUS), 0, "nginx        runs, pid ");

    // A revocation reaches them, too.
    let phone = stack.member("phone@example.com");
    expect(&mut stack.client(&phone), 0, "Success!");
    orphaned();
    expect(&mut stack.administer(&["revoke", "phone@example.com"]), 0, "revoked");
    expect(&mut stack.client(&phone), 77, "FAILED:certificate revoked");

    let workers = orphaned();
    expect(&mut stack.tool(DOWN), 0, "nginx        stopped");
    assert!(workers.iter().all(|worker| has_ended(*worker)));
}

#[test]
fn down_stops_the_parts_of_a_folder_that_was_moved() {
    let stack = Stack::with_its_own_cluster();
    let parts =
        ["nginx/nginx.pid", "server/pid", "postgres/data/postmaster.pid", "signer.pid", "keep-logs.pid"];
    let pids = parts.map(|file| stack.pid(file));
    let elsewhere = stack.state.with_extension("moved");
    fs::rename(&stack.state, &elsewhere).unwrap();
    let with = |script| {
        let mut command = stack.tool(script);
        command.env("ROLLCALL_STATE", &elsewhere).env("ROLLCALL_CERTS", elsewhere.join("certs"));
        command
    };
    let up = with(UP).output().unwrap();
    let stopped = with(DOWN).output().unwrap();
    // First back, so that a failure leaves nothing behind.
    fs::rename(&elsewhere, &stack.state).unwrap();
    assert!(text(&up).contains("the folder was moved: restarting"), "{}", text(&up));
    assert!(up.status.success(), "{}", text(&up));
    assert!(stopped.status.success(), "{}", text(&stopped));
    assert!(pids.iter().all(|pid| has_ended(*pid)), "{}", text(&stopped));
    expect(&mut stack.tool(STATUS), 1, "PostgreSQL   does not run");
}

#[test]
fn a_folder_that_is_moved_and_stopped_at_once_leaves_nothing_running() {
    let stack = Stack::with_its_own_cluster();
    let parts = ["nginx/nginx.pid", "server/pid", "postgres/data/postmaster.pid"];
    let pids = parts.map(|file| stack.pid(file));
    let elsewhere = stack.state.with_extension("moved");
    fs::rename(&stack.state, &elsewhere).unwrap();
    let down = stack.tool(DOWN).env("ROLLCALL_STATE", &elsewhere).output().unwrap();
    fs::rename(&elsewhere, &stack.state).unwrap();
    assert!(down.status.success(), "{}", text(&down));
    assert!(pids.iter().all(|pid| has_ended(*pid)), "{}", text(&down));
}

#[test]
fn down_says_nothing_of_a_database_that_is_not_its_own() {
    let stack = Stack::up();
    let down = stack.script(DOWN);
    assert!(
        down.status.success() && text(&down).contains("PostgreSQL   the one of DATABASE_URL goes on"),
        "{down:?}"
    );
    assert_eq!(stack.sql("select 1"), "1");
}

#[test]
fn a_user_who_cannot_see_the_processes_is_told_so() {
    let Some(()) = needs_root("to be another user") else { return };
    let stack = Stack::up();
    for script in [STATUS, DOWN, UP] {
        let mut words = stack.command("setpriv");
        words.args(["--reuid", "nobody", "--regid", "nogroup", "--clear-groups", "--", "bash"]);
        let output = words.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(script)).output().unwrap();
        let said = text(&output);
        assert!(
            !output.status.success() && !said.contains("does not run") && !said.contains("stopped"),
            "{said}"
        );
    }
    expect(&mut stack.client(&stack.pair("client")), 0, "Success!");
}

#[test]
fn a_key_that_listeners_believe_is_never_replaced_silently() {
    let stack = Stack::up();
    let [key, public] = ["broadcast.key", "broadcast.pub"].map(|name| stack.certs.join(name));
    let copy = stack.state.join("server/own/broadcast.key");
    let good = [&key, &public].map(|file| fs::read(file).unwrap());
    fs::remove_file(&key).unwrap();
    expect(&mut stack.tool(UP), 0, "was missing: it is made again from the server's copy");
    assert_eq!([&key, &public].map(|file| fs::read(file).unwrap()), good);
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    // Without the copy nothing is left of the key, and listeners have its public half.
    fs::remove_file(&key).unwrap();
    fs::remove_file(&copy).unwrap();
    expect(&mut stack.tool(UP), 1, "put the key back");
    assert_eq!(fs::read(&public).unwrap(), good[1]);
    expect(&mut stack.client(&stack.pair("client")), 0, "Success!");
}

#[test]
fn a_credential_that_others_could_read_is_replaced() {
    let stack = Stack::up();
    let file = stack.state.join("proxy-credential");
    let exposed = stack.credential();
    // As rollcall-setup asks for its plan.
    let plan = || {
        let template = concat!(env!("CARGO_MANIFEST_DIR"), "/nginx/rollcall.conf.in");
        let mut check = stack.tool("stack/run");
        let output =
            check.args(["rollcall-admin", "stack", "prepare", "--check", template]).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(plan(), "");
    let token = stack.state.join("board/token");
    for exposed in [&file, &token] {
        fs::set_permissions(exposed, PermissionsExt::from_mode(0o644)).unwrap();
    }
    assert_eq!(plan(), format!("{}\n{}\n", file.display(), token.display()));
    fs::set_permissions(&token, PermissionsExt::from_mode(0o600)).unwrap();
    // The folder is the server's, who may put there whatever it likes.
    let copy = stack.state.join("server/own/broadcast.key");
    let good = fs::read(&copy).unwrap();
    for trap in ["mkfifo", "ln -s /dev/zero"] {
        fs::remove_file(&copy).unwrap();
        let mut make = stack.command("sh");
        expect(make.args(["-c", &format!("{trap} \"$0\"")]).arg(&copy), 0, "");
        assert_eq!(plan(), format!("{}\n{}\n", copy.display(), file.display()));
    }
    fs::remove_file(&copy).unwrap();
    fs::write(&copy, good).unwrap();
    expect(&mut stack.tool(UP), 0, "others could read");
    assert_ne!(stack.credential(), exposed);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    expect(&mut stack.client(&stack.pair("client")), 0, "Success!");
    expect(&mut stack.tool(STATUS), 0, "ready");
}

#[test]
fn no_old_worker_answers_once_a_command_has_reloaded_nginx() {
    let stack = Stack::up();
    let served = || {
        let mut command = stack.command("openssl");
        command.args(["s_client", "-connect", &format!("localhost:{}", stack.https_port)]);
        let shown = text(&command.output().unwrap());
        shown
            .split_once("-----BEGIN CERTIFICATE-----")
            .unwrap()
            .1
            .split_once("-----END")
            .unwrap()
            .0
            .to_owned()
    };
    for _ in 0..5 {
        expect(&mut stack.administer(&["renew", "--server"]), 0, "server.crt made for");
        let wanted = fs::read_to_string(stack.certs.join("server.crt")).unwrap();
        let wanted = wanted.split_once("-----BEGIN CERTIFICATE-----").unwrap().1;
        assert!(wanted.starts_with(&served()), "an old worker answered");
    }
}

#[test]
fn the_callers_shell_changes_nothing() {
    let stack = Builder::new().with_certificates().stopped();
    let own = stack.state.join("bashrc");
    fs::write(&own, "shopt -s nocasematch failglob; set -f").unwrap();
    // As a recipe calls it: by a relative path, which CDPATH concerns.
    let with = |script| {
        let mut command = stack.command("bash");
        command.arg(script).current_dir(env!("CARGO_MANIFEST_DIR"));
        command.envs([("CDPATH", "."), ("LC_ALL", "tr_TR.UTF-8"), ("IFS", "/"), ("POSIXLY_CORRECT", "1")]);
        command.env("BASH_ENV", &own);
        command
    };
    expect(&mut with(UP), 0, "nginx        ready");
    // Turkish has another lower case of I.
    let enrol = ["rollcall-admin", "enrol", "IRIS@example.com", "--name", "iris"];
    expect(with("stack/run").args(enrol), 0, "iris.crt made (CN iris@example.com)");
    expect(&mut stack.client(&stack.pair("iris")), 0, "Success!");
    assert_eq!(stack.sql("select count(*) from users where email = 'iris@example.com'"), "1");
    expect(&mut with(STATUS), 0, "nginx        runs");
    expect(&mut with(DOWN), 0, "nginx        stopped");
}

#[test]
fn the_folder_is_one_that_all_users_of_the_parts_can_enter_or_none_is_made() {
    let Some(()) = needs_root("for other users") else { return };
    let stack = Builder::new().stopped();
    let folder = |path: &Path, option: &str| {
        let mut command = stack.command("bash");
        command
            .args(["-c", "umask 077; \"$0\" stack folder $1"])
            .arg(crate::stack::binaries().join("rollcall-admin"));
        command.arg(option).env("ROLLCALL_STATE", path).output().unwrap()
    };
    let can_enter = |path: &Path| {
        let mut command = stack.command("setpriv");
        command
            .args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups", "test", "-x"])
            .arg(path);
        command.status().unwrap().success()
    };
    let deep = stack.state.join("a/new/one");
    assert!(folder(&deep, "").status.success() && can_enter(&deep));

    let closed = stack.state.join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, PermissionsExt::from_mode(0o700)).unwrap();
    let refused = folder(&closed.join(".run"), "");
    assert!(text(&refused).contains("cannot enter"), "{}", text(&refused));
    assert!(!closed.join(".run").exists(), "nothing is left of a try that failed");
    // Those of PostgreSQL and of the server can, and that of the board cannot.
    let halved = stack.state.join("halved");
    fs::create_dir(&halved).unwrap();
    fs::set_permissions(&halved, PermissionsExt::from_mode(0o710)).unwrap();
    expect(stack.command("chown").arg("postgres:rollcall").arg(&halved), 0, "");
    assert!(folder(&halved.join("server"), "").status.success());
    let mut board = stack.command(crate::stack::binaries().join("rollcall-admin"));
    board.args(["stack", "folder"]).env("ROLLCALL_STATE", halved.join("board"));
    let refused = format!("the user nobody cannot enter {}", halved.join("board").display());
    expect(board.env("ROLLCALL_BOARD_USER", "nobody"), 1, &refused);
    let linked = folder(&closed.join(".run"), "--or-link");
    let target = fs::read_link(closed.join(".run")).unwrap();
    let entered = can_enter(&target);
    fs::remove_dir(&target).unwrap();
    assert!(linked.status.success() && entered, "{}", text(&linked));
}
