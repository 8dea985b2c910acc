//! A network that loses, repeats, reorders and garbles: an arrival is printed once, the rest is counted.

use std::collections::BTreeSet;

use serde_json::Value;

use rollcall::cli::now_ns;

use crate::keys::{Keys, statuses};
use crate::lan::relay::{Random, Relay};
use crate::lan::{Voice, count, gaps, has_read, listen};
use crate::namespace::Lan;

/// A server on one LAN and a listener on another, which gets only datagrams that the relay lets through.
fn relayed(seed: u64) {
    // Shown when the test fails.
    eprintln!("seed {seed}");
    let Some(mut near) = Lan::new() else { return };
    let mut far = Lan::new().expect("the near one could be made");
    let (server, ear, mouth, home) = (near.host(), near.host(), far.host(), far.host());
    let keys = Keys::new();
    let listener = listen(&home, &keys, &["--key", &keys.file("one.pub")]);
    let mut relay = Relay::new(&ear, Voice::of(&mouth), &home, seed);

    let (voice, mut announcer) = (Voice::of(&server), keys.announcer("one", now_ns()));
    let (mut said, mut sizes) = (Vec::new(), Random(seed));
    let say = |datagram: &Vec<u8>, relay: &mut Relay| {
        voice.say(std::slice::from_ref(datagram));
        relay.carry();
    };
    for batch in 0..150 {
        let size = if batch == 75 { 512 } else { 1 + sizes.below(64) as usize };
        let names = (said.len() + 1..=said.len() + size).map(|number| format!("user{number}"));
        let datagrams = announcer.announce(&statuses(names));
        datagrams.iter().for_each(|datagram| say(datagram, &mut relay));
        said.extend(datagrams);
    }
    // The newest is said again, byte for byte, until it has got through: as the server would in time.
    let newest = said.last().expect("150 batches");
    while !relay.intact.contains(newest) {
        say(newest, &mut relay);
    }
    relay.say_until(u64::MAX);
    has_read(&home, relay.said);
    let (printed, words, exit) = listener.end();

    let arrived: BTreeSet<(String, String)> = (1..)
        .zip(&said)
        .filter(|(_, datagram)| relay.intact.contains(*datagram))
        .map(|(number, _)| (format!("user{number}@example.com"), number.to_string()))
        .collect();
    let text = |line: &Value, name: &str| line[name].as_str().unwrap().to_owned();
    let once: BTreeSet<(String, String)> =
        printed.iter().map(|line| (text(line, "email"), text(line, "sequence"))).collect();
    assert!(
        once == arrived,
        "not both: {:?}",
        once.symmetric_difference(&arrived).take(9).collect::<Vec<_>>()
    );
    assert_eq!((printed.len(), exit), (once.len(), 0), "{words}");
    assert!(printed.iter().all(|line| line["verified"] == true));

    let count = |name| count(&words, name);
    let missing = (said.len() - arrived.len()) as u64;
    assert_eq!((count("received"), count("dropped by the kernel")), (relay.said, 0), "{words}");
    assert_eq!((count("new"), count("printed")), (arrived.len() as u64, count("new")), "{words}");
    assert_eq!(count("duplicate"), relay.copies - relay.flipped - count("new"), "{words}");
    assert_eq!(count("unverified") + count("foreign"), relay.flipped, "{words}");
    let all = ["new", "duplicate", "replayed", "too old", "ahead", "other kind", "unverified", "foreign"];
    assert_eq!(all.iter().map(|name| count(name)).sum::<u64>(), relay.said, "{words}");
    assert_eq!(count("missing"), missing, "{words}");
    assert_eq!(gaps(&words).iter().map(|(gap, _)| gap).sum::<u64>(), missing, "{words}");
    // The relay was as bad as it should be.
    assert!(missing > 1000 && relay.flipped > 20 && count("duplicate") > 200, "{words}");
}

#[test]
fn intact_datagrams_are_printed_once() {
    (1..=3).for_each(relayed);
}
