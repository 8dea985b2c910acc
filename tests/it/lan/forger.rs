//! A forger who hears everything and can say anything: nothing of it is printed, and no state changes.

use std::collections::BTreeMap;

use rollcall::cli::now_ns;
use rollcall::protocol::{self, Batch, Kind, encode_batch};

use crate::keys::{Keys, statuses, unsigned};
use crate::lan::{Voice, count, gaps, has_read, listen};
use crate::namespace::Lan;

const HOUR: u64 = 3_600_000_000_000;

/// Where the trailer of a datagram begins.
fn trailer(datagram: &[u8]) -> usize {
    let (_, rest) = protocol::decode(datagram).unwrap();
    datagram.len() - rest.len()
}

fn changed(datagram: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut changed = datagram.to_vec();
    changed[at..][..bytes.len()].copy_from_slice(bytes);
    assert_ne!(changed, datagram, "at {at}");
    changed
}

/// The forgeries of a batch of seven, each with the count in which a listener with key `one` has it.
pub fn forgeries(keys: &Keys, batch: &[Vec<u8>], other_batch: &[Vec<u8>]) -> Vec<(&'static str, Vec<u8>)> {
    let (a, b) = (&batch[2], &batch[5]);
    let (t, end) = (trailer(a), a.len());
    // As the server would announce it after a restart, but for the key.
    let (key_id, lies) = (keys.signer("one").public().id(), statuses(["liar", "loser"]));
    let lie = Batch { kind: Kind::SEEN, key_id, epoch: u64::MAX, first_sequence: 1, statuses: &lies };
    let impostor = encode_batch(&lie, |message| keys.signer("two").sign(message));
    let mut forgeries = vec![
        ("unsigned", unsigned("forger")),
        ("unsigned", a[..t].to_vec()),
        ("unknown key", keys.announcer("two", u64::MAX).announce(&lies).remove(0)),
        ("unknown key", changed(a, t + 4, &[0; 4])),
        ("forged", impostor[0].clone()),
        ("forged", changed(a, 1, b"loser")),
        ("forged", changed(a, t + 3, &[1])),
        ("forged", changed(a, t + 8, &[0xff; 8])),
        ("forged", changed(a, t + 16, &[0xff; 8])),
        ("forged", changed(a, t + 16, &[0; 8])),
        // Another leaf of the batch, of a batch of another size, and of none that there can be.
        ("forged", changed(a, t + 24, &[0, 3])),
        ("forged", changed(a, t + 24, &[0, 6])),
        ("forged", changed(a, t + 26, &[0, 8])),
        ("forged", changed(a, t + 26, &[0, 2])),
        ("forged", changed(a, t + 26, &[0, 0])),
        ("forged", changed(a, t + 26, &[2, 1])),
        ("forged", changed(a, end - 64, &[0; 64])),
        ("forged", changed(a, end - 64, &other_batch[2][end - 64..])),
        // One status with the trailer of another, and with the path of another.
        ("forged", [&a[..t], &b[t..]].concat()),
        ("forged", [&a[..t + 28], &b[t + 28..]].concat()),
        ("forged", [&a[..t], &other_batch[2][t..]].concat()),
        ("forged", [a, &b"\0"[..]].concat()),
        ("forged", [a, &[0; 32][..]].concat()),
        ("forged", [&a[..], b].concat()),
        ("foreign", changed(a, t, b"XX")),
        ("foreign", changed(a, t + 2, &[3])),
        ("foreign", b"\0\0\x55\xaa\0\0\0\0".to_vec()),
        ("foreign", Vec::new()),
    ];
    forgeries.extend((0..t).map(|len| ("foreign", a[..len].to_vec())));
    forgeries.extend((t + 1..t + 3).map(|len| ("foreign", a[..len].to_vec())));
    forgeries.extend((t + 3..end).map(|len| ("forged", a[..len].to_vec())));
    forgeries
}

#[test]
fn a_forger_changes_nothing() {
    let Some((_lan, [server, forger, home])) = Lan::of() else { return };
    let keys = Keys::new();
    let listener = listen(&home, &keys, &["--key", &keys.file("one.pub")]);
    let mut announcer = keys.announcer("one", now_ns());
    let names: Vec<String> = (1..=21).map(|number| format!("user{number:02}")).collect();
    let batches =
        [&names[..7], &names[7..14], &names[14..]].map(|names| announcer.announce(&statuses(names)));
    let forgeries = forgeries(&keys, &batches[0], &batches[1]);

    let (server, forger) = (Voice::of(&server), Voice::of(&forger));
    server.say(&batches[0]);
    has_read(&home, 7);
    let mut expected = BTreeMap::from([("new", 21)]);
    for (counter, datagram) in &forgeries {
        *expected.entry(counter).or_default() += 1;
        forger.say(std::slice::from_ref(datagram));
    }
    has_read(&home, 7 + forgeries.len() as u64);
    server.say(&batches[1]);
    server.say(&batches[2]);
    for (number, name) in (1..).zip(&names) {
        let line = listener.next();
        assert_eq!(line["email"], format!("{name}@example.com"));
        assert_eq!(line["sequence"], number.to_string());
    }
    let (rest, said, exit) = listener.end();
    assert_eq!((rest, exit, gaps(&said)), (vec![], 0, vec![]), "{said}");
    for counter in [
        "new",
        "unsigned",
        "unknown key",
        "forged",
        "foreign",
        "unchecked",
        "duplicate",
        "replayed",
        "too old",
        "ahead",
        "other kind",
        "missing",
        "dropped by the kernel",
    ] {
        assert_eq!(count(&said, counter), *expected.get(counter).unwrap_or(&0), "{counter} in {said}");
    }
}

#[test]
fn a_recording_is_no_news() {
    let Some((_lan, [server, forger, home])) = Lan::of() else { return };
    let keys = Keys::new();
    let listener = listen(&home, &keys, &["--key", &keys.file("one.pub")]);
    let epoch = now_ns();
    let before = keys.announcer("one", epoch - HOUR).announce(&statuses(["before", "restart"]));
    let mut announcer = keys.announcer("one", epoch);
    let recorded = announcer.announce(&statuses(["a", "b", "c"]));
    // More than the 4,096 numbers that a listener tells apart.
    let others = announcer.announce(&statuses((0..5000).map(|number| format!("user{number}"))));

    let (server, forger) = (Voice::of(&server), Voice::of(&forger));
    server.say(&recorded);
    forger.say(&recorded);
    let mut read = 6;
    for lot in others.chunks(50) {
        server.say(lot);
        read += lot.len() as u64;
        has_read(&home, read);
    }
    forger.say(&before);
    forger.say(&recorded);
    forger.say(&others[4500..4510]);
    has_read(&home, read + 15);
    server.say(&announcer.announce(&statuses(["last"])));
    let printed: Vec<String> =
        (0..5004).map(|_| listener.next()["email"].as_str().unwrap().to_owned()).collect();
    assert_eq!(printed[..3], ["a@example.com", "b@example.com", "c@example.com"]);
    assert_eq!(printed[5003], "last@example.com");
    let (rest, said, _) = listener.end();
    assert_eq!((rest, gaps(&said), count(&said, "missing")), (vec![], vec![], 0), "{said}");
    assert_eq!((count(&said, "duplicate"), count(&said, "replayed")), (3 + 10, 2 + 3), "{said}");
}

#[test]
fn a_recording_is_no_news_after_both_restarted() {
    let Some((_lan, [server, forger, home])) = Lan::of() else { return };
    let keys = Keys::new();
    let arguments = ["--key", &keys.file("one.pub"), "--state", &keys.file("state")];
    let (server, forger) = (Voice::of(&server), Voice::of(&forger));

    let listener = listen(&home, &keys, &arguments);
    let mut announcer = keys.announcer("one", now_ns());
    let heard = announcer.announce(&statuses(["a", "b", "c"]));
    server.say(&heard);
    (0..3).for_each(|_| drop(listener.next()));
    assert_eq!(listener.end().2, 0);

    let recorded = announcer.announce(&statuses(["d", "e"]));
    let mut restarted = keys.announcer("one", now_ns());
    let listener = listen(&home, &keys, &arguments);
    forger.say(&heard);
    server.say(&restarted.announce(&statuses(["f"])));
    assert_eq!(listener.next()["email"], "f@example.com");
    forger.say(&heard);
    forger.say(&recorded);
    server.say(&restarted.announce(&statuses(["g"])));
    assert_eq!(listener.next()["email"], "g@example.com");
    let (rest, said, _) = listener.end();
    assert_eq!((rest, gaps(&said)), (vec![], vec![]), "{said}");
    assert_eq!((count(&said, "duplicate"), count(&said, "replayed")), (3, 3 + 2), "{said}");
}

#[test]
fn an_old_recording_opens_no_gap_for_a_listener_that_just_began() {
    let Some((_lan, [server, forger, home])) = Lan::of() else { return };
    let keys = Keys::new();
    // The server has run for an hour, and had run before that.
    let start = now_ns() - HOUR;
    let seen = |names: &[&str], last_seen_ns| {
        let mut statuses = statuses(names);
        statuses.iter_mut().for_each(|status| status.last_seen_ns = last_seen_ns);
        statuses
    };
    let before = keys.announcer("one", start - HOUR).announce(&seen(&["a", "b"], start - HOUR));
    let mut announcer = keys.announcer("one", start);
    let recorded = announcer.announce(&seen(&["c", "d"], start));
    announcer.announce(&statuses((0..1000).map(|number| format!("user{number}"))));

    let (server, forger) = (Voice::of(&server), Voice::of(&forger));
    let listener = listen(&home, &keys, &["--key", &keys.file("one.pub"), "--max-age", "5m"]);
    forger.say(&before);
    forger.say(&recorded);
    has_read(&home, 4);
    server.say(&announcer.announce(&statuses(["e", "f"])));
    assert_eq!(listener.next()["email"], "e@example.com");
    assert_eq!(listener.next()["email"], "f@example.com");
    let (rest, said, _) = listener.end();
    assert_eq!((rest, gaps(&said)), (vec![], vec![]), "{said}");
    assert_eq!((count(&said, "too old"), count(&said, "missing")), (4, 0), "{said}");
}
