//! `rollcall-listen` with keys, as a program: its output, its counts and its memory. On loopback.

use std::fs;
use std::net::UdpSocket;
use std::process::Command;

use crate::keys::{Keys, statuses, unsigned};
use crate::program::{Running, hurry, wait_until};
use crate::stack::free_port;
use rollcall::cli::now_ns;
use serde_json::Value;

/// Two key pairs, a port that nobody has, and a voice.
struct Scene {
    keys: Keys,
    port: u16,
    voice: UdpSocket,
}

impl Scene {
    fn new() -> Self {
        Self { keys: Keys::new(), port: free_port(), voice: UdpSocket::bind("127.0.0.1:0").unwrap() }
    }

    fn say(&self, datagrams: &[Vec<u8>]) {
        for datagram in datagrams {
            self.voice.send_to(datagram, ("127.0.0.1", self.port)).unwrap();
        }
    }

    fn listen(&self, arguments: &[&str]) -> Running {
        self.run(Command::new(env!("CARGO_BIN_EXE_rollcall-listen")), arguments)
    }

    fn run(&self, mut command: Command, arguments: &[&str]) -> Running {
        command
            .args(["--bind", "127.0.0.1", "--port", &self.port.to_string(), "--json", "--timeout", "60s"])
            .args(arguments);
        Running::bound(&self.keys, command, self.port, || fs::read_to_string("/proc/net/udp").unwrap())
    }
}

#[test]
fn only_verified_statuses_are_printed_and_everything_is_counted() {
    let scene = Scene::new();
    let listener = scene.listen(&["--key", &scene.keys.file("one.pub")]);
    let mut announcer = scene.keys.announcer("one", now_ns());
    let said = announcer.announce(&statuses(&["a", "b", "c", "d", "e"]));
    let mut flipped = said[0].clone();
    flipped[1] ^= 1;
    scene.say(&[unsigned("forger"), flipped, b"\0\0\x55\xaa".to_vec()]);
    scene.say(&scene.keys.announcer("two", u64::MAX).announce(&statuses(&["stranger"])));
    scene.say(&said[1..2]);
    scene.say(&said[1..2]);
    scene.say(&said[4..]);
    scene.say(&scene.keys.announcer("one", 1).announce(&statuses(&["replay"])));
    scene.say(&said[..1]);
    for (email, sequence) in [("b@example.com", "2"), ("e@example.com", "5"), ("a@example.com", "1")] {
        let line = listener.next();
        assert_eq!((line["email"].as_str(), line["sequence"].as_str()), (Some(email), Some(sequence)));
        assert_eq!(line["verified"], true);
    }
    let (rest, said, exit) = listener.end();
    assert_eq!((rest, exit), (vec![], 0));
    let public = *scene.keys.signer("one").public();
    assert!(
        said.contains(&format!("rollcall-listen: 2 announcements of key {public} never came\n")),
        "{said}"
    );
    let totals = "rollcall-listen: received 9, new 3, duplicate 1, replayed 1, too old 0, ahead 0, other kind 0, \
        unverified 3 (unsigned 1, unchecked 0, unknown key 1, forged 1), foreign 1, missing 2, printed 3, \
        dropped by the kernel 0 (receive buffer ";
    assert!(said.contains(totals), "{said}");
    assert_eq!(said.matches("not signed (said at most once a minute)").count(), 1, "{said}");
}

#[test]
fn both_keys_are_believed_while_they_rotate() {
    let scene = Scene::new();
    let listener = scene.listen(&[
        "--key",
        &scene.keys.file("one.pub"),
        "--key",
        &scene.keys.file("two.pub"),
        "--accept-unsigned",
    ]);
    scene.say(&scene.keys.announcer("one", now_ns()).announce(&statuses(&["old"])));
    scene.say(&scene.keys.announcer("two", now_ns()).announce(&statuses(&["new"])));
    scene.say(&[unsigned("anybody")]);
    for (email, verified) in
        [("old@example.com", true), ("new@example.com", true), ("anybody@example.com", false)]
    {
        let line = listener.next();
        assert_eq!((line["email"].as_str(), line["verified"].as_bool()), (Some(email), Some(verified)));
        assert_eq!(line.get("doubt").map(|doubt| doubt == "unsigned"), (!verified).then_some(true));
    }
    assert_eq!(listener.end().2, 0);
}

#[test]
fn a_restart_forgets_nothing() {
    let scene = Scene::new();
    let arguments = &["--key", &scene.keys.file("one.pub"), "--state", &scene.keys.file("state")];
    let mut announcer = scene.keys.announcer("one", now_ns());
    let heard = announcer.announce(&statuses(&["a", "b"]));
    let missed = announcer.announce(&statuses(&["c", "d", "e"]));
    let after = announcer.announce(&statuses(&["f"]));
    let listener = scene.listen(arguments);
    scene.say(&heard);
    listener.next();
    listener.next();
    assert_eq!(listener.end().2, 0);
    let listener = scene.listen(arguments);
    scene.say(&heard);
    scene.say(&after);
    assert_eq!(listener.next()["email"], "f@example.com");
    scene.say(&missed[..1]);
    assert_eq!(listener.next()["email"], "c@example.com");
    let (rest, said, _) = listener.end();
    assert_eq!(rest, Vec::<Value>::new());
    assert!(said.contains("new 2, duplicate 2, replayed 0"), "{said}");
    assert!(said.contains("2 announcements of key "), "{said}");

    // A file that cannot be written is refused at the start, and not after the first status to remember.
    let nowhere = scene.listen(&["--key", &scene.keys.file("one.pub"), "--state", "no/such/state"]);
    let (_, said, exit) = nowhere.ended();
    assert!(said.starts_with("rollcall-listen: the state file, no/such/state: cannot write it: "), "{said}");
    assert_eq!(exit, 78);

    fs::write(scene.keys.file("state"), "nonsense").unwrap();
    let (_, said, exit) = scene.listen(arguments).ended();
    assert_eq!(exit, 78);
    assert_eq!(
        said,
        format!(
            "rollcall-listen: the state file, {}: it is damaged: without it a replay can pass for news; remove \
             it to start afresh\n",
            scene.keys.file("state")
        )
    );
}

#[test]
fn a_killed_listener_remembers_everything_but_the_last_five_seconds() {
    let scene = Scene::new();
    let (key, state) = (scene.keys.file("one.pub"), scene.keys.file("state"));
    let arguments = ["--key", &key, "--state", &state];
    let said = scene.keys.announcer("one", now_ns()).announce(&statuses(&["a"]));
    let mut command = Command::new(env!("CARGO_BIN_EXE_rollcall-listen"));
    let Some(()) = hurry(&mut command, 5) else { return };
    let listener = scene.run(command, &arguments);
    scene.say(&said);
    listener.next();
    wait_until("it is remembered", || {
        fs::read_to_string(&state).is_ok_and(|state| state.contains(" highest 1 "))
    });
    listener.signal("KILL");
    drop(listener);
    let listener = scene.listen(&arguments);
    scene.say(&said);
    scene.say(&scene.keys.announcer("one", now_ns()).announce(&statuses(&["b"])));
    assert_eq!(listener.next()["email"], "b@example.com");
    assert!(listener.end().1.contains("new 1, duplicate 1, "));
}

#[test]
fn a_status_that_was_not_printed_is_not_remembered_as_heard() {
    let scene = Scene::new();
    let (key, state) = (scene.keys.file("one.pub"), scene.keys.file("state"));
    let arguments = ["--key", &key, "--state", &state];
    let said = scene.keys.announcer("one", now_ns()).announce(&statuses(&["a"]));
    let mut full = Command::new("sh");
    full.args(["-c", "exec \"$0\" \"$@\" >/dev/full", env!("CARGO_BIN_EXE_rollcall-listen")]);
    let listener = scene.run(full, &arguments);
    scene.say(&said);
    let (_, complaint, exit) = listener.ended();
    assert!(complaint.contains("No space left on device"), "{complaint}");
    assert_eq!(exit, 1);
    let listener = scene.listen(&arguments);
    scene.say(&said);
    assert_eq!(listener.next()["email"], "a@example.com");
}

#[test]
fn old_news_and_bad_keys_are_refused() {
    let scene = Scene::new();
    let listener = scene.listen(&["--key", &scene.keys.file("one.pub"), "--max-age", "1m"]);
    let mut old = statuses(&["old", "new"]);
    old[0].last_seen_ns -= 61_000_000_000;
    scene.say(&scene.keys.announcer("one", now_ns()).announce(&old));
    assert_eq!(listener.next()["email"], "new@example.com");
    let (_, said, _) = listener.end();
    assert!(said.contains("new 1, duplicate 0, replayed 0, too old 1"), "{said}");
    let (_, said, exit) = scene.listen(&["--key", &scene.keys.file("one.key")]).ended();
    assert_eq!(exit, 78);
    let file = scene.keys.file("one.key");
    let expected = format!(
        "rollcall-listen: the public key of the broadcast, {file}: it holds a private key, and a public key is \
         needed; openssl pkey -pubout makes one of it\n"
    );
    assert_eq!(said, expected);
    let (_, said, exit) = scene.listen(&["--key", "/no/such.pub"]).ended();
    assert!(
        exit == 78 && said.contains("there is no public key /no/such.pub: copy certs/broadcast.pub "),
        "{said}"
    );
}
