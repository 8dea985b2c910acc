//! The rotation of the key that signs announcements, with both keys believed for a time.

use crate::listener::{Voice, bound, listening};
use crate::program::has_ended;
use crate::stack::{Builder, Running, Stack, expect, free_port, wait_until};
use rollcall::cli::now_ns;
use rollcall::keyfile;
use rollcall::protocol::announcer::Announcer;
use rollcall::protocol::status::{Email, Status};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

fn rotate(stack: &Stack, arguments: &[&str], exit: i32, said: &str) {
    expect(stack.tool("stack/rotate").args(arguments), exit, said);
}

fn authority(stack: &Stack, arguments: &[&str]) -> Command {
    let mut command = stack.tool("certs/ca");
    command.args(arguments);
    command
}

/// The listener of `just listen`.
fn just_listen(stack: &Stack) -> Running {
    let mut command = stack.tool("stack/run");
    command.args(["rollcall-listen", "--json"]);
    bound(stack, command)
}

fn key_id(stack: &Stack, file: &str) -> String {
    keyfile::public_key(&stack.certs.join(file)).unwrap().to_string()
}

/// The key ids of the announcements that it printed, each of which it verified.
fn heard(listener: &Running) -> Vec<String> {
    let out = listener.out();
    let keys = out.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).map(|line| {
        assert_eq!((&line["email"], &line["verified"]), (&"valid_user@qt-test.com".into(), &true.into()));
        line["key"].as_str().unwrap().to_owned()
    });
    keys.collect()
}

#[test]
fn a_listener_with_both_keys_hears_everything_over_the_switch() {
    let stack = Stack::up();
    let pair = stack.pair("client");
    let seen = || expect(&mut stack.client(&pair), 0, "Success!");
    let old = key_id(&stack, "broadcast.pub");
    // The key of a listener that nobody told anything, and the one of a thief.
    let [kept, stolen] = ["kept.pub", "stolen.key"].map(|name| stack.state.join(name));
    fs::copy(stack.certs.join("broadcast.pub"), &kept).unwrap();
    fs::copy(stack.certs.join("broadcast.key"), &stolen).unwrap();
    let server = stack.pid("server/pid");

    for _ in 0..2 {
        rotate(&stack, &[], 0, "Copy it to every listener");
        assert_eq!(stack.pid("server/pid"), server);
    }
    let new = key_id(&stack, "broadcast.next.pub");
    assert_ne!(new, old);
    let mut both = just_listen(&stack);
    let mut unaware = listening(&stack, &["--json", "--key", kept.to_str().unwrap()]);
    seen();
    wait_until("both hear it", || heard(&both).len() == 1 && heard(&unaware).len() == 1);

    rotate(&stack, &["--switch"], 0, "settings changed: restarting");
    assert_eq!(
        [key_id(&stack, "broadcast.pub"), key_id(&stack, "broadcast.old.pub")],
        [new.clone(), old.clone()]
    );
    let server = stack.pid("server/pid");
    rotate(&stack, &["--switch"], 0, "just rotate-key --finish");
    assert_eq!(stack.pid("server/pid"), server, "a second switch restarted it");
    seen();
    wait_until("one goes on", || heard(&both).len() == 2);
    wait_until("one does not", || unaware.err().contains("which is not ours"));
    assert_eq!(heard(&both), [old.clone(), new.clone()]);
    assert_eq!(heard(&unaware), std::slice::from_ref(&old));
    for listener in [&mut both, &mut unaware] {
        listener.signal("INT");
        assert_eq!(listener.exit(), 0);
    }
    assert!(
        both.err().contains("unverified 0 ") && both.err().contains(" missing 0, printed 2"),
        "{}",
        both.err()
    );
    let said = unaware.err();
    assert!(said.contains(" printed 1, ") && !said.contains("unknown key 0,"), "{said}");

    // Until the end, `just listen` believes the old key too, and from then on it does not. In between the
    // server repeats its newest, which is news to a listener that has just been started.
    let status = Status {
        email: Email::new("valid_user@qt-test.com").unwrap(),
        last_seen_ns: 1,
        ip: "192.0.2.1".parse().unwrap(),
        port: 7,
    };
    let epoch = now_ns();
    let mut thief = Announcer::new(keyfile::signing_key(&stolen).unwrap(), epoch);
    let listener = just_listen(&stack);
    Voice::of(&stack).say(&thief.announce(std::slice::from_ref(&status))[0]);
    wait_until("the old key is believed", || heard(&listener).contains(&old));
    drop(listener);
    rotate(&stack, &["--finish"], 0, "believes");
    rotate(&stack, &["--finish"], 0, "nothing to do");
    let listener = just_listen(&stack);
    Voice::of(&stack).say(&thief.announce(&[status])[0]);
    wait_until("the old key is a stranger's", || listener.err().contains("which is not ours"));
    seen();
    wait_until("the new one is believed", || heard(&listener).contains(&new));
    assert!(!heard(&listener).contains(&old));
}

/// Rotates, killed before the `at`-th rename. Was it?
fn killed(stack: &Stack, arguments: &[&str], at: u32) -> bool {
    let mut command = stack.tool("stack/rotate");
    command.args(arguments);
    killed_at(stack, command, "mv", at)
}

/// A script that is killed before it runs `program` for the `at`-th time. Was it?
fn killed_at(stack: &Stack, mut script: Command, program: &str, at: u32) -> bool {
    let folder = stack.state.join(format!("killer-{}", free_port()));
    fs::create_dir(&folder).unwrap();
    let shim = "#!/bin/sh\necho >>\"$0.calls\"\nif [ \"$(wc -l <\"$0.calls\")\" = \"$AT\" ]; then kill -9 $PPID; else exec \"/bin/${0##*/}\" \"$@\"; fi\n";
    fs::write(folder.join(program), shim).unwrap();
    fs::set_permissions(folder.join(program), fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    !script.env("PATH", path).env("AT", at.to_string()).output().unwrap().status.success()
}

#[test]
fn killed_at_any_moment_each_step_goes_on_when_it_is_run_again() {
    let stack = Builder::new().with_certificates().stopped();
    let public = |name: &str| keyfile::public_key(&stack.certs.join(name)).ok();
    let (mut making, mut switching) = (0, 0);
    for at in 1.. {
        let old = public("broadcast.pub").unwrap();
        let made = killed(&stack, &[], at);
        if made {
            making += 1;
            rotate(&stack, &["--switch"], 1, "there is no broadcast.next.pub");
            rotate(&stack, &[], 0, "Copy it");
        }
        let next = public("broadcast.next.pub").unwrap();
        let switched = killed(&stack, &["--switch"], at);
        if switched {
            switching += 1;
            // Whatever is started now finds a pair: the server its key, and listeners both.
            expect(&mut authority(&stack, &["keys"]), 0, "");
            let signer = keyfile::signing_key(&stack.certs.join("broadcast.key")).unwrap();
            let believed = ["broadcast.pub", "broadcast.next.pub", "broadcast.old.pub"].map(public);
            assert!([old, next].contains(signer.public()), "{at}");
            assert!(believed.contains(&Some(old)) && believed.contains(&Some(next)), "{at}: {believed:?}");
            rotate(&stack, &["--finish"], 1, "the switch to the next key comes first");
            rotate(&stack, &["--switch"], 0, "it signs with the new key when it starts");
        }
        let signer = keyfile::signing_key(&stack.certs.join("broadcast.key")).unwrap();
        assert_eq!((*signer.public(), public("broadcast.pub")), (next, Some(next)));
        assert_eq!((public("broadcast.next.pub"), public("broadcast.old.pub")), (None, Some(old)));
        rotate(&stack, &["--finish"], 0, "believes");
        if !made && !switched {
            break;
        }
    }
    assert_eq!((making, switching), (2, 3), "the renames of each step");
}

#[test]
fn a_lost_key_never_leaves_the_public_half_of_another() {
    let stack = Builder::new().with_certificates().stopped();
    let init = || authority(&stack, &["keys"]);
    for program in ["rm", "mv"] {
        fs::remove_file(stack.certs.join("broadcast.key")).unwrap();
        assert!(killed_at(&stack, init(), program, 1));
        expect(&mut init(), 0, "");
        let signer = keyfile::signing_key(&stack.certs.join("broadcast.key")).unwrap();
        assert_eq!(*signer.public(), keyfile::public_key(&stack.certs.join("broadcast.pub")).unwrap());
    }
}

#[test]
fn the_steps_come_in_their_order() {
    let stack = Builder::new().with_certificates().stopped();
    let certs = |name: &str| stack.certs.join(name);
    rotate(&stack, &["--switch"], 1, "there is no broadcast.next.pub to switch to: just rotate-key makes it");
    rotate(&stack, &["--finish"], 0, "nothing to do");
    rotate(&stack, &["--back"], 1, "usage: just rotate-key ");
    rotate(&stack, &["--switch", "--finish"], 1, "usage: just rotate-key ");
    rotate(&stack, &[], 0, "Copy it");
    rotate(&stack, &["--finish"], 1, "the switch to the next key comes first: just rotate-key --switch");
    // A damaged half never takes the server's place.
    let [present, next] = ["broadcast.key", "broadcast.next.key"].map(|name| fs::read(certs(name)).unwrap());
    fs::write(certs("broadcast.next.key"), &present).unwrap();
    rotate(&stack, &["--switch"], 1, "broadcast.next.pub is not the public half of broadcast.next.key");
    fs::write(certs("broadcast.next.key"), "").unwrap();
    rotate(&stack, &["--switch"], 1, "broadcast.next.pub is not the public half of broadcast.key");
    assert_eq!(fs::read(certs("broadcast.key")).unwrap(), present);
    fs::write(certs("broadcast.next.key"), &next).unwrap();
    rotate(&stack, &["--switch"], 0, "it signs with the new key when it starts");
    rotate(&stack, &[], 1, "the last rotation is not over: just rotate-key --switch, if that");
    rotate(&stack, &["--finish"], 0, "believes");
}

/// The server's folder is the server's user's, who may put a pipe in the way of a key.
#[test]
fn a_pipe_in_the_servers_folder_holds_nobody_up() {
    let stack = Stack::up();
    let copy = stack.state.join("server/own/privacy.key");
    fs::remove_file(&copy).unwrap();
    expect(stack.command("mkfifo").arg(&copy), 0, "");
    expect(&mut stack.tool("stack/up"), 0, "nginx        ready");
    assert_eq!(fs::read(&copy).unwrap(), fs::read(stack.certs.join("privacy.key")).unwrap());
    assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_switch_that_was_killed_while_the_server_was_down_brings_it_back() {
    let stack = Stack::up();
    rotate(&stack, &[], 0, "Copy it");
    rotate(&stack, &["--switch"], 0, "The new public key");
    // As a kill -9 between its end and its start leaves it.
    let pid = stack.pid("server/pid");
    expect(stack.command("kill").arg(pid.to_string()), 0, "");
    wait_until("the server ended", || has_ended(pid));
    rotate(&stack, &["--switch"], 0, "server       ready");
    expect(&mut stack.client(&stack.pair("client")), 0, "Success!");
    // Under systemd nginx runs without a server of just up: nothing here is to be started.
    assert!(stack.script("stack/down").status.success());
    expect(&mut stack.tool("stack/up"), 0, "nginx        ready");
    let pid = stack.pid("server/pid");
    expect(stack.command("kill").arg(pid.to_string()), 0, "");
    wait_until("the server ended", || has_ended(pid));
    fs::remove_file(stack.state.join("server/pid")).unwrap();
    rotate(&stack, &["--switch"], 0, "The server of just up does not run");
    assert!(!stack.state.join("server/pid").exists());
}

#[test]
fn a_damaged_key_costs_neither_the_server_nor_its_good_copy() {
    let stack = Stack::up();
    let (key, copy) = (stack.certs.join("broadcast.key"), stack.state.join("server/own/broadcast.key"));
    let good = fs::read(&copy).unwrap();
    fs::write(&key, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").unwrap();
    let mut up = stack.tool("stack/up");
    expect(&mut up, 1, "it is not an Ed25519 key");
    expect(&mut up, 1, "the server that runs goes on with the old settings");
    // A last epoch that cannot be read costs no more.
    fs::write(&key, &good).unwrap();
    let epoch = copy.with_file_name("broadcast.key.epoch");
    let last = fs::read(&epoch).unwrap();
    fs::write(&epoch, "garbage").unwrap();
    let mut other = stack.tool("stack/up");
    expect(other.env("ROLLCALL_DEADLINE", "3s"), 1, "broadcast.key.epoch: it is damaged");
    fs::write(&epoch, last).unwrap();
    fs::write(&key, "nonsense").unwrap();
    let ear = stack.ear();
    expect(&mut stack.client(&stack.pair("client")), 0, "Success!");
    ear.hear();
    assert!(stack.script("stack/down").status.success());
    expect(&mut up, 1, "the server was not started");
    assert_eq!(fs::read(&copy).unwrap(), good);
    fs::write(&key, good).unwrap();
    expect(&mut up, 0, "nginx        ready");
}
