//! A listener that was not there, or not fast enough: it says how many announcements it lost.

use rollcall::cli::now_ns;

use crate::keys::{Keys, statuses};
use crate::lan::{Voice, count, gaps, has_read, listen};
use crate::namespace::Lan;
use crate::program::wait_until;

#[test]
fn announcements_of_its_absence_are_reported_once() {
    let Some((_lan, [server, home])) = Lan::of() else { return };
    let keys = Keys::new();
    let arguments = ["--key", &keys.file("one.pub"), "--state", &keys.file("state")];
    let (voice, mut announcer) = (Voice::of(&server), keys.announcer("one", now_ns()));

    let listener = listen(&home, &keys, &arguments);
    voice.say(&announcer.announce(&statuses(["a", "b"])));
    assert_eq!([listener.next()["sequence"].clone(), listener.next()["sequence"].clone()], ["1", "2"]);
    assert_eq!(listener.end().2, 0);
    voice.say(&announcer.announce(&statuses((0..3000).map(|number| format!("user{number}")))));

    let listener = listen(&home, &keys, &arguments);
    let newest = announcer.announce(&statuses(["c"]));
    voice.say(&newest);
    assert_eq!(listener.next()["sequence"], "3003");
    let key = keys.signer("one").public().to_string();
    let begin = listener.stderr.line();
    let expected = format!("rollcall-listen: listening on 0.0.0.0:6667, believes key {key}; receive buffer ");
    assert!(begin.starts_with(&expected), "{begin}");
    let reported = listener.stderr.line();
    assert_eq!(gaps(&reported), [(3000, &*key)]);
    voice.say(&newest);
    has_read(&home, 4);
    let (rest, said, _) = listener.end();
    assert_eq!((rest, gaps(&said)), (vec![], vec![]), "{said}");
    assert_eq!((count(&said, "new"), count(&said, "duplicate"), count(&said, "missing")), (1, 1, 3000));
}

#[test]
fn datagrams_dropped_by_the_kernel_are_missing() {
    let Some((_lan, [server, home])) = Lan::of() else { return };
    let keys = Keys::new();
    let listener = listen(&home, &keys, &["--key", &keys.file("one.pub")]);
    let (voice, mut announcer) = (Voice::of(&server), keys.announcer("one", now_ns()));

    listener.signal("STOP");
    // Until the buffer is full, however much of one net.core.rmem_max allows, and then some.
    let mut said = Vec::new();
    while home.counter("Udp", "RcvbufErrors") < 500 {
        let lot = (0..256).map(|number| format!("user{}", said.len() + number));
        let lot = announcer.announce(&statuses(lot));
        voice.say(&lot);
        said.extend(lot);
        wait_until("the lot is there", || home.counter("Ip", "InDelivers") >= said.len() as u64);
    }
    let dropped = home.counter("Udp", "RcvbufErrors");
    listener.signal("CONT");
    has_read(&home, said.len() as u64 - dropped);
    // The newest were dropped, and nobody can miss them before the next has come.
    voice.say(&announcer.announce(&statuses(["next"])));
    let arrived = said.len() as u64 + 1 - dropped;
    has_read(&home, arrived);
    listener.stderr.line();
    // Told while it goes on, and not only at the end.
    let reason = listener.stderr.line();
    let expected = format!(
        "rollcall-listen: the kernel dropped {dropped} datagrams: they came faster than they were read"
    );
    assert!(reason.starts_with(&expected), "{reason}");
    let (printed, said, _) = listener.end();
    assert_eq!((count(&said, "new"), printed.len() as u64), (arrived, arrived), "{said}");
    assert_eq!(
        (count(&said, "dropped by the kernel"), count(&said, "missing")),
        (dropped, dropped),
        "{said}"
    );
    assert_eq!(gaps(&said).iter().map(|(missing, _)| missing).sum::<u64>(), dropped, "{said}");
}
