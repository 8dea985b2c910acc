//! `rollcall-listen` with keys, as a program: what it prints, counts and remembers. On loopback.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use rollcall::announce::Announcer;
use rollcall::sign::Signer;
use rollcall::status::{Email, Status};
use rollcall::wire;
use serde_json::Value;

/// A folder with two key pairs, a port that nobody has, and a voice.
struct Scene {
    folder: PathBuf,
    port: u16,
    voice: UdpSocket,
}

impl Scene {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("rollcall-believed-{}-{name}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let scene = Self { folder, port, voice: UdpSocket::bind("127.0.0.1:0").unwrap() };
        for name in ["one", "two"] {
            openssl(&["genpkey", "-algorithm", "ed25519", "-out", &scene.file(&format!("{name}.key"))]);
            let (key, public) = (scene.file(&format!("{name}.key")), scene.file(&format!("{name}.pub")));
            openssl(&["pkey", "-in", &key, "-pubout", "-out", &public]);
        }
        scene
    }

    fn file(&self, name: &str) -> String {
        self.folder.join(name).to_str().unwrap().to_owned()
    }

    fn announcer(&self, name: &str, epoch: u64) -> Announcer {
        Announcer::new(Signer::load(&self.folder.join(format!("{name}.key"))).unwrap(), epoch)
    }

    fn say(&self, datagrams: &[Vec<u8>]) {
        for datagram in datagrams {
            self.voice.send_to(datagram, ("127.0.0.1", self.port)).unwrap();
        }
    }

    fn listen(&self, arguments: &[&str]) -> Listener {
        let mut child = Command::new(env!("CARGO_BIN_EXE_rollcall-listen"))
            .args(["--bind", "127.0.0.1", "--port", &self.port.to_string(), "--json", "--timeout", "60s"])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let local = format!("0100007F:{:04X} ", self.port);
        let start = Instant::now();
        while !fs::read_to_string("/proc/net/udp").unwrap().contains(&local) {
            if child.try_wait().unwrap().is_some() || start.elapsed() > Duration::from_secs(20) {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Listener { child, out }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

struct Listener {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Listener {
    /// The next status that it prints.
    fn next(&mut self) -> Value {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    /// Interrupts it. What else did it print, what did it say, and what was its exit code?
    fn end(self) -> (Vec<Value>, String, i32) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        self.ended()
    }

    fn ended(mut self) -> (Vec<Value>, String, i32) {
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        let rest = self.out.lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
        (rest, said, self.child.wait().unwrap().code().unwrap())
    }
}

fn openssl(arguments: &[&str]) {
    let output = Command::new("openssl").args(arguments).output().expect("this test needs openssl");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn now_ns() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64
}

fn statuses(names: &[&str]) -> Vec<Status> {
    let status = |name: &&str| Status {
        email: Email::new(&format!("{name}@example.com")).unwrap(),
        last_seen_ns: now_ns(),
        ip: "192.0.2.1".parse().unwrap(),
        port: 7,
    };
    names.iter().map(status).collect()
}

fn unsigned(name: &str) -> Vec<u8> {
    let mut datagram = Vec::new();
    wire::encode(&statuses(&[name])[0], &mut datagram);
    datagram
}

#[test]
fn only_what_verifies_is_printed_and_everything_is_counted() {
    let scene = Scene::new("verifies");
    let mut listener = scene.listen(&["--key", &scene.file("one.pub")]);
    let mut announcer = scene.announcer("one", now_ns());
    let said = announcer.announce(&statuses(&["a", "b", "c", "d", "e"]));
    let mut flipped = said[0].clone();
    flipped[1] ^= 1;
    scene.say(&[unsigned("forger"), flipped, b"\0\0\x55\xaa".to_vec()]);
    scene.say(&scene.announcer("two", u64::MAX).announce(&statuses(&["stranger"])));
    scene.say(&said[1..2]);
    scene.say(&said[1..2]);
    scene.say(&said[4..]);
    scene.say(&scene.announcer("one", 1).announce(&statuses(&["replay"])));
    scene.say(&said[..1]);
    for (email, sequence) in [("b@example.com", "2"), ("e@example.com", "5"), ("a@example.com", "1")] {
        let line = listener.next();
        assert_eq!((line["email"].as_str(), line["sequence"].as_str()), (Some(email), Some(sequence)));
        assert_eq!(line["verified"], true);
    }
    let (rest, said, exit) = listener.end();
    assert_eq!((rest, exit), (vec![], 0));
    let public = *Signer::load(&scene.folder.join("one.key")).unwrap().public();
    assert!(
        said.contains(&format!("rollcall-listen: 2 announcements of key {public} never came\n")),
        "{said}"
    );
    let totals = "rollcall-listen: received 9, new 3, duplicate 1, replayed 1, too old 0, other kind 0, \
        unverified 3 (unsigned 1, unchecked 0, unknown key 1, forged 1), foreign 1, missing 2, printed 3, \
        dropped by the kernel 0 (receive buffer ";
    assert!(said.contains(totals), "{said}");
    assert_eq!(said.matches("not signed (said at most once a minute)").count(), 1, "{said}");
}

#[test]
fn both_keys_are_believed_while_they_rotate() {
    let scene = Scene::new("rotation");
    let mut listener = scene.listen(&[
        "--key",
        &scene.file("one.pub"),
        "--key",
        &scene.file("two.pub"),
        "--accept-unsigned",
    ]);
    scene.say(&scene.announcer("one", now_ns()).announce(&statuses(&["old"])));
    scene.say(&scene.announcer("two", now_ns()).announce(&statuses(&["new"])));
    scene.say(&[unsigned("anybody")]);
    for (email, verified) in
        [("old@example.com", true), ("new@example.com", true), ("anybody@example.com", false)]
    {
        let line = listener.next();
        assert_eq!((line["email"].as_str(), line["verified"].as_bool()), (Some(email), Some(verified)));
        assert_eq!(line.get("doubt").is_some(), !verified);
    }
    assert_eq!(listener.end().2, 0);
}

#[test]
fn a_restart_forgets_nothing() {
    let scene = Scene::new("state");
    let arguments = &["--key", &scene.file("one.pub"), "--state", &scene.file("state")];
    let mut announcer = scene.announcer("one", now_ns());
    let heard = announcer.announce(&statuses(&["a", "b"]));
    let missed = announcer.announce(&statuses(&["c", "d", "e"]));
    let after = announcer.announce(&statuses(&["f"]));
    let mut listener = scene.listen(arguments);
    scene.say(&heard);
    listener.next();
    listener.next();
    assert_eq!(listener.end().2, 0);
    let mut listener = scene.listen(arguments);
    scene.say(&heard);
    scene.say(&after);
    assert_eq!(listener.next()["email"], "f@example.com");
    scene.say(&missed[..1]);
    assert_eq!(listener.next()["email"], "c@example.com");
    let (rest, said, _) = listener.end();
    assert_eq!(rest, Vec::<Value>::new());
    assert!(said.contains("new 2, duplicate 2, replayed 0"), "{said}");
    assert!(said.contains("2 announcements of key "), "{said}");

    fs::write(scene.file("state"), "nonsense").unwrap();
    let (_, said, exit) = scene.listen(arguments).ended();
    assert_eq!(exit, 78);
    assert_eq!(
        said,
        format!(
            "rollcall-listen: the state file {} is damaged, and without it a replay can pass for news; remove \
             it to start afresh\n",
            scene.file("state")
        )
    );
}

#[test]
fn old_news_and_bad_keys_are_refused() {
    let scene = Scene::new("age");
    let mut listener = scene.listen(&["--key", &scene.file("one.pub"), "--max-age", "1m"]);
    let mut old = statuses(&["old", "new"]);
    old[0].last_seen_ns -= 61_000_000_000;
    scene.say(&scene.announcer("one", now_ns()).announce(&old));
    assert_eq!(listener.next()["email"], "new@example.com");
    let (_, said, _) = listener.end();
    assert!(said.contains("new 1, duplicate 0, replayed 0, too old 1"), "{said}");
    let (_, said, exit) = scene.listen(&["--key", &scene.file("one.key")]).ended();
    assert_eq!(exit, 78);
    let file = scene.file("one.key");
    let expected = format!(
        "rollcall-listen: the public key of the broadcast, {file}: it has no -----BEGIN PUBLIC KEY-----\n"
    );
    assert_eq!(said, expected);
}
