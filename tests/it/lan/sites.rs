//! Sites that relays join: each is a LAN, and a further network lies between them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::process::Command;
use std::thread;
use std::time::Duration;

use rollcall::cli::now_ns;
use rollcall::protocol::{Batch, Kind, encode_batch};

use crate::keys::{Keys, statuses};
use crate::lan::forger::forgeries;
use crate::lan::{PORT, Voice, count, gaps, has_read, listen};
use crate::namespace::{Lan, Namespace};
use crate::program::{PATIENCE, Running, expect, signal, wait_until};

/// A LAN with a server, a listener, and relays that are on the network between the sites, too.
struct Site {
    _lan: Lan,
    server: Namespace,
    home: Namespace,
    relays: Vec<Namespace>,
}

impl Site {
    /// The relays have these addresses between the sites.
    fn new(between: &mut Lan, relays: &[&str]) -> Self {
        let mut lan = Lan::new().expect("the network between could be made");
        let (server, home) = (lan.host(), lan.host());
        let relays = relays.iter().map(|address| {
            let relay = lan.host();
            between.plug(&relay, "wan0", &format!("{address}/24"));
            relay
        });
        let relays = relays.collect();
        Self { _lan: lan, server, home, relays }
    }
}

/// The listener, which believes both servers.
fn believing(host: &Namespace, keys: &Keys, arguments: &[&str]) -> Running {
    let (one, two) = (keys.file("one.pub"), keys.file("two.pub"));
    listen(host, keys, &[&["--key", &one, "--key", &two], arguments].concat())
}

/// Those whom a listener printed, in the order of their names.
fn people(listener: &Running, expected: usize) -> Vec<String> {
    let printed = (0..expected).map(|_| listener.next()["email"].as_str().unwrap().to_owned());
    let mut people: Vec<String> = printed.collect();
    people.sort();
    people
}

fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{prefix}{number:03}")).collect()
}

fn emails(names: &[String]) -> Vec<String> {
    names.iter().map(|name| format!("{name}@example.com")).collect()
}

/// How many datagrams the LANs of these hosts, which have one listener each, carried within three seconds.
fn traffic(homes: &[&Namespace]) -> u64 {
    let all = || homes.iter().map(|home| home.counter("Udp", "InDatagrams")).sum::<u64>();
    let before = all();
    thread::sleep(Duration::from_secs(3));
    all() - before
}

/// Everybody hears everybody, each relay passes each announcement on once, and then there is peace.
#[track_caller]
fn all_hear_all_once(sites: &[&Site], relays: Vec<Running>, keys: &Keys) {
    const EACH: usize = 40;
    let listeners: Vec<Running> = sites.iter().map(|site| believing(&site.home, keys, &[])).collect();
    let epoch = now_ns();
    let (a, b) = (names("a", EACH), names("b", EACH));
    let said = [
        keys.announcer("one", epoch).announce(&statuses(&a)),
        keys.announcer("two", epoch).announce(&statuses(&b)),
    ];
    let [one, two] = [sites[0], sites[sites.len() - 1]].map(|site| Voice::of(&site.server));
    for at in 0..EACH {
        one.say(&said[0][at..=at]);
        two.say(&said[1][at..=at]);
    }
    let everybody = emails(&[a, b].concat());
    for listener in &listeners {
        assert_eq!(people(listener, 2 * EACH), everybody);
    }
    let homes: Vec<&Namespace> = sites.iter().map(|site| &site.home).collect();
    // Of each of two keys each relay repeats the newest on its LAN, at most three times in this time.
    let most = 2 * 3 * relays.len() as u64;
    wait_until("there is peace", || traffic(&homes) <= most);
    for relay in relays {
        let (_, said, exit) = relay.end();
        assert_eq!(
            (exit, count(&said, "relayed"), count(&said, "held back")),
            (0, 2 * EACH as u64, 0),
            "{said}"
        );
        assert_eq!((count(&said, "failed"), count(&said, "missing")), (0, 0), "{said}");
        assert_eq!(count(&said, "sent") % 2, 0, "by both sockets: {said}");
    }
    for listener in listeners {
        let (rest, said, exit) = listener.end();
        assert_eq!((rest.len(), exit, gaps(&said)), (0, 0, vec![]), "{said}");
        assert_eq!((count(&said, "new"), count(&said, "unverified")), (2 * EACH as u64, 0), "{said}");
    }
}

#[test]
fn two_sites_hear_each_other() {
    let Some(mut between) = Lan::new() else { return };
    let keys = Keys::new();
    let a = Site::new(&mut between, &["198.51.100.1"]);
    let b = Site::new(&mut between, &["198.51.100.2"]);
    let relays = vec![
        believing(&a.relays[0], &keys, &["--relay", "lan0,198.51.100.2"]),
        believing(&b.relays[0], &keys, &["--relay", "lan0", "--relay", "198.51.100.1"]),
    ];
    all_hear_all_once(&[&a, &b], relays, &keys);
}

#[test]
fn two_relays_between_the_same_sites_make_no_storm() {
    let Some(mut between) = Lan::new() else { return };
    let keys = Keys::new();
    let a = Site::new(&mut between, &["198.51.100.1", "198.51.100.3"]);
    let b = Site::new(&mut between, &["198.51.100.2", "198.51.100.4"]);
    let relays = vec![
        believing(&a.relays[0], &keys, &["--relay", "lan0,198.51.100.2"]),
        believing(&b.relays[0], &keys, &["--relay", "lan0,198.51.100.1"]),
        believing(&a.relays[1], &keys, &["--relay", "lan0,198.51.100.4"]),
        believing(&b.relays[1], &keys, &["--relay", "lan0,198.51.100.3"]),
    ];
    all_hear_all_once(&[&a, &b], relays, &keys);
}

#[test]
fn a_ring_of_three_sites_ends() {
    let Some(mut between) = Lan::new() else { return };
    let keys = Keys::new();
    let [a, b, c] =
        ["198.51.100.1", "198.51.100.2", "198.51.100.3"].map(|address| Site::new(&mut between, &[address]));
    let relays = vec![
        believing(&a.relays[0], &keys, &["--relay", "lan0,198.51.100.2"]),
        believing(&b.relays[0], &keys, &["--relay", "lan0,198.51.100.3"]),
        believing(&c.relays[0], &keys, &["--relay", "lan0,198.51.100.1"]),
    ];
    all_hear_all_once(&[&a, &b, &c], relays, &keys);
}

/// Each direction has a relay of its own, which believes the servers of the one site only: nothing comes back.
#[test]
fn keys_give_relays_a_direction() {
    let Some(mut between) = Lan::new() else { return };
    let keys = Keys::new();
    let a = Site::new(&mut between, &["198.51.100.1"]);
    let b = Site::new(&mut between, &["198.51.100.2", "198.51.100.4"]);
    let one = keys.file("one.pub");
    let out = listen(&a.relays[0], &keys, &["--key", &one, "--relay", "198.51.100.2:6668"]);
    let mut command = b.relays[0].command(env!("CARGO_BIN_EXE_rollcall-listen"));
    command.args(["--port", "6668", "--key", &one, "--relay", "lan0", "--timeout", "60s", "--json"]);
    let into = Running::bound(&keys, command, 6668, || b.relays[0].proc_net("udp"));
    let listeners = [&a, &b].map(|site| believing(&site.home, &keys, &[]));
    let said = keys.announcer("one", now_ns()).announce(&statuses(["a", "b", "c"]));
    Voice::of(&a.server).say(&said);
    for listener in &listeners {
        assert_eq!(people(listener, 3), emails(&["a", "b", "c"].map(str::to_owned)));
    }
    let [at_home, far] = listeners.map(|listener| listener.end().1);
    // The LAN of the server carries what the server said, and no copies.
    assert_eq!((count(&at_home, "received"), count(&far, "new")), (3, 3), "{at_home}");
    for relay in [out, into] {
        let (_, said, _) = relay.end();
        assert_eq!((count(&said, "relayed"), count(&said, "unverified")), (3, 0), "{said}");
    }
}

/// Hears everything on a LAN.
struct Ear(UdpSocket);

impl Ear {
    fn on(host: &Namespace) -> Self {
        let ear = host.inside(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)).unwrap());
        ear.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(ear)
    }

    #[track_caller]
    fn hear(&self) -> Vec<u8> {
        let mut buffer = [0; 2048];
        let len = self.0.recv(&mut buffer).expect("a datagram in time");
        buffer[..len].to_vec()
    }

    /// So many further ones.
    #[track_caller]
    fn hear_all(&self, count: u64) -> Vec<Vec<u8>> {
        (0..count).map(|_| self.hear()).collect()
    }
}

/// A server and a relay on the near LAN; whatever the relay says is on the far one.
fn near_and_far() -> Option<(Lan, Lan, Namespace, Namespace, Namespace)> {
    let (mut near, mut far) = (Lan::new()?, Lan::new()?);
    let (server, relay, home) = (near.host(), near.host(), far.host());
    far.plug(&relay, "lan1", "198.51.100.1/24");
    Some((near, far, server, relay, home))
}

#[test]
fn the_far_side_learns_that_the_end_of_a_burst_was_lost_on_the_link() {
    let Some((_near, _link, server, relay, end_of_link)) = near_and_far() else { return };
    let Some((mut lan, [mouth, home])) = Lan::of() else { return };
    let keys = Keys::new();
    let beyond = lan.host();
    let relay = believing(&relay, &keys, &["--relay", "lan1"]);
    let beyond_relay = believing(&beyond, &keys, &["--relay", "lan0"]);
    let listener = believing(&home, &keys, &[]);
    let (ear, mouth) = (Ear::on(&end_of_link), Voice::of(&mouth));
    let said = keys.announcer("one", now_ns()).announce(&statuses(names("a", 10)));
    // The server says each once: what is said again is the relay's.
    Voice::of(&server).say(&said);
    for datagram in &said {
        // A slow relay may repeat one before it comes to the next.
        wait_until("each comes", || ear.hear() == *datagram);
    }
    mouth.say(&said[..4]);
    assert_eq!(people(&listener, 4), emails(&names("a", 4)));
    let newest = ear.hear();
    assert_eq!(newest, said[9]);
    mouth.say(&[newest]);
    assert_eq!(listener.next()["email"], "a009@example.com");
    let key = keys.signer("one").public().to_string();
    wait_until("it says that five are lost", || gaps(&listener.err()) == [(5, &*key)]);
    assert_eq!(ear.hear(), said[9], "and again, later");
    for (relay, passed) in [(relay, 10), (beyond_relay, 5)] {
        let (_, said, _) = relay.end();
        assert_eq!(count(&said, "relayed"), passed, "{said}");
    }
}

#[test]
fn nothing_forged_or_stale_or_replayed_is_passed_on() {
    let Some((near, _far, server, relay, home)) = near_and_far() else { return };
    let mut near = near;
    let forger = near.host();
    let keys = Keys::new();
    let ear = Ear::on(&home);
    let (key, file) = (keys.file("one.pub"), keys.file("stats.prom"));
    // What is printed besides is not verified, and stays here.
    let arguments =
        ["--key", &key, "--accept-unsigned", "--max-age", "5m", "--relay", "lan1", "--stats-file", &file];
    let running = listen(&relay, &keys, &arguments);
    let epoch = now_ns();
    let before = keys.announcer("one", epoch - 1).announce(&statuses(names("before", 3)));
    let mut announcer = keys.announcer("one", epoch);
    let first = announcer.announce(&statuses(names("a", 7)));
    let second = announcer.announce(&statuses(names("b", 7)));
    let mut old = statuses(names("old", 2));
    old.iter_mut().for_each(|status| status.last_seen_ns -= 301_000_000_000);
    let old = announcer.announce(&old);
    // Of a kind that this version does not know: the other site would miss its number.
    let others = statuses(["other"]);
    let (key_id, first_sequence) = (keys.signer("one").public().id(), announcer.sequence() + 1);
    let other = Batch { kind: Kind(9), key_id, epoch, first_sequence, statuses: &others };
    let other = encode_batch(&other, |message| keys.signer("one").sign(message));

    let (server, forger) = (Voice::of(&server), Voice::of(&forger));
    let mut read = 0;
    let mut say = |voice: &Voice, datagrams: &[Vec<u8>]| {
        for lot in datagrams.chunks(50) {
            voice.say(lot);
            read += lot.len() as u64;
            has_read(&relay, read);
        }
    };
    say(&server, &first);
    let forged: Vec<Vec<u8>> =
        forgeries(&keys, &first, &second).into_iter().map(|(_, forged)| forged).collect();
    say(&forger, &forged);
    say(&forger, &before);
    say(&forger, &first);
    say(&server, &old);
    // Late and in another order, each is passed on once.
    let shuffled: Vec<Vec<u8>> = [4, 2, 2, 6, 0, 1, 4, 3, 5].map(|at| second[at].clone()).to_vec();
    say(&server, &shuffled);
    say(&server, &other);
    let (printed, said, exit) = running.end();
    assert_eq!(exit, 0, "{said}");
    assert_eq!(count(&said, "relayed"), 7 + 7 + 1, "{said}");
    assert_eq!((count(&said, "replayed"), count(&said, "too old")), (3, 2), "{said}");
    assert!(count(&said, "forged") > 200 && printed.len() > 200, "{said}");
    let heard: BTreeSet<Vec<u8>> = ear.hear_all(count(&said, "sent")).into_iter().collect();
    assert!(heard == [first, second, other].concat().into_iter().collect(), "{} heard", heard.len());
    let stats = fs::read_to_string(&file).unwrap();
    let place = "listener=\"0.0.0.0:6667\"";
    for sample in [
        format!("rollcall_listener_relayed_total{{{place},result=\"passed\"}} 15"),
        format!("rollcall_listener_relayed_total{{{place},result=\"held_back\"}} 0"),
        format!("rollcall_listener_sent_total{{{place},interface=\"lan1\",result=\"failed\"}} 0"),
    ] {
        assert!(stats.contains(&sample), "{sample}: {stats}");
    }
}

#[test]
fn a_relay_that_restarts_passes_nothing_twice() {
    let Some((_near, _far, server, host, home)) = near_and_far() else { return };
    let keys = Keys::new();
    let (key, state) = (keys.file("one.pub"), keys.file("state"));
    let arguments = ["--key", &key, "--state", &state, "--relay", "lan1", "--count"];
    let (ear, server) = (Ear::on(&home), Voice::of(&server));
    let mut announcer = keys.announcer("one", now_ns());
    let first = announcer.announce(&statuses(["a", "b", "c"]));
    let relay = listen(&host, &keys, &[&arguments[..], &["3"]].concat());
    server.say(&first);
    let (printed, said, exit) = relay.ended();
    assert_eq!((printed.len(), exit, count(&said, "relayed")), (3, 0, 3), "{said}");
    let mut heard = ear.hear_all(count(&said, "sent"));
    assert!(heard.len() > 3, "the newest once more at its end");
    // A repetition comes before anything newer.
    heard.dedup();
    assert_eq!(heard, first);

    let relay = listen(&host, &keys, &[&arguments[..], &["1"]].concat());
    server.say(&first);
    let next = announcer.announce(&statuses(["d"]));
    server.say(&next);
    let (printed, said, exit) = relay.ended();
    assert_eq!(
        (printed.len(), exit, count(&said, "relayed"), count(&said, "duplicate")),
        (1, 0, 1, 3),
        "{said}"
    );
    assert!(ear.hear_all(count(&said, "sent")).iter().all(|datagram| *datagram == next[0]));
}

#[test]
fn networks_come_and_go_under_a_relay() {
    let Some(mut near) = Lan::new() else { return };
    let mut far = Lan::new().expect("the near one could be made");
    let (server, host, home) = (near.host(), near.host(), far.host());
    let keys = Keys::new();
    let relay = believing(&host, &keys, &["--relay", "lan1,198.51.100.9"]);
    wait_until("it says so", || relay.err().contains("rollcall-listen: there is no interface lan1"));
    let (ear, server) = (Ear::on(&home), Voice::of(&server));
    let mut announcer = keys.announcer("one", now_ns());
    let first = announcer.announce(&statuses(["a"]));
    server.say(&first);
    relay.next();
    far.plug(&host, "lan1", "198.51.100.1/24");
    wait_until("it follows", || relay.err().contains("relaying to 255.255.255.255:6667 by lan1"));
    let second = announcer.announce(&statuses(["b"]));
    server.say(&second);
    // The first may be repeated there before the second comes.
    wait_until("the network hears it", || ear.hear() == second[0]);
    host.ip("link delete lan1");
    wait_until("it stops", || {
        relay.err().contains("no longer relaying to 255.255.255.255:6667 by lan1 (198.51.100.1): ")
    });
    let (_, said, exit) = relay.end();
    assert_eq!((exit, count(&said, "relayed")), (0, 2), "{said}");
    assert!(said.contains("rollcall-listen: relayed to 198.51.100.9:6667: "), "{said}");
}

#[test]
fn a_flood_goes_on_at_the_rate_and_its_end_is_told() {
    let Some((_near, _far, server, host, home)) = near_and_far() else { return };
    let keys = Keys::new();
    let relay = believing(&host, &keys, &["--relay", "lan1", "--relay-rate", "1"]);
    let ear = Ear::on(&home);
    let said = keys.announcer("one", now_ns()).announce(&statuses(names("a", 200)));
    Voice::of(&server).say(&said);
    assert_eq!(ear.hear(), said[0]);
    wait_until("the newest comes", || ear.hear() == said[199]);
    let (_, words, _) = relay.end();
    assert_eq!(count(&words, "relayed") + count(&words, "held back"), 200, "{words}");
    assert!(count(&words, "held back") > 100, "{words}");
}

#[test]
fn a_relay_whose_output_nobody_reads_goes_on() {
    const COUNT: usize = 2000;
    let Some((_near, _far, server, host, home)) = near_and_far() else { return };
    let keys = Keys::new();
    let listener = believing(&home, &keys, &[]);
    let (unread, out) = io::pipe().unwrap();
    let err = keys.file("relay.err");
    let mut command = host.command(env!("CARGO_BIN_EXE_rollcall-listen"));
    command.args(["--json", "--timeout", "60s", "--key", &keys.file("one.pub"), "--relay", "lan1"]);
    let mut relay = command.stdout(out).stderr(File::create(&err).unwrap()).spawn().unwrap();
    wait_until("it listens", || fs::read_to_string(&err).unwrap().contains("listening on"));
    let said = keys.announcer("one", now_ns()).announce(&statuses(names("a", COUNT)));
    let server = Voice::of(&server);
    for (at, lot) in said.chunks(50).enumerate() {
        server.say(lot);
        has_read(&host, 50 * (at as u64 + 1));
    }
    // Many times that which a pipe holds.
    assert_eq!(people(&listener, COUNT).len(), COUNT);
    signal("TERM", &[relay.id()]);
    wait_until("it ends", || relay.try_wait().unwrap().is_some());
    let words = fs::read_to_string(&err).unwrap();
    assert_eq!(relay.wait().unwrap().code(), Some(0), "{words}");
    assert!(words.contains("rollcall-listen: the end of the output was not read"), "{words}");
    assert_eq!((count(&words, "relayed"), count(&words, "not printed")), (COUNT as u64, 0), "{words}");
    drop(unread);
}

#[test]
fn a_relay_needs_keys_and_destinations() {
    let keys = Keys::new();
    let key = keys.file("one.pub");
    let refused = |arguments: &[&str], said: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rollcall-listen"));
        expect(command.args(arguments).env_remove("ROLLCALL_KEYS"), 2, said);
    };
    let nothing = "--relay passes on verified announcements, and without a --key there are none";
    refused(&["--relay", "auto"], nothing);
    refused(&["--relay", "auto", "--accept-unsigned"], nothing);
    refused(&["--key", &key, "--relay", "eth0/4"], "a TTL is for multicast addresses");
    refused(&["--key", &key, "--relay", ""], "not a broadcast destination");
    refused(&["--key", &key, "--relay", "relay.b.example.com"], "the name of a host is none");
    for (own, listens) in [("127.0.0.1:6999", "0.0.0.0"), ("127.0.0.2:6999", "127.0.0.2")] {
        let arguments =
            ["--key", &key, "--port", "6999", "--bind", listens, "--relay", "192.0.2.9", "--relay", own];
        refused(&arguments, &format!("--relay {own} is the port of this listener itself"));
    }
    let rate = "--relay-rate bounds what --relay passes on, at 1 to 1000000 a second";
    refused(&["--key", &key, "--relay-rate", "5"], rate);
    refused(&["--key", &key, "--relay", "auto", "--relay-rate", "0"], rate);
}
