//! `--relay`: passes on what is new to the networks of another site, byte for byte, and repeats each key's newest.
//!
//! A signature is the server's own, so whoever hears a relay verifies as before and has to trust nobody in between. A
//! number goes on once, on its first arrival; a repetition is a duplicate to every other relay. So what two relays, or a
//! ring of them, say to each other ends by itself, and no datagram needs a count of hops.

use std::cell::Cell;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use crate::cli::note;
use crate::lan::destination::{Destination, Target};
use crate::lan::endpoints::{Counts, Endpoint, Endpoints, Witness};
use crate::lan::interfaces;
use crate::protocol::announcer::Repetition;
use crate::protocol::judge::{Announcement, Ignored, Verdict};
use crate::protocol::keys::PublicKey;

use super::MENTION;

/// Announcements a second that go on, unless `--relay-rate` says otherwise: more than a million people say who beat
/// every 30 s.
pub const RATE: u32 = 50_000;
/// A burst may be as long as this at the full rate.
const BURST: Duration = Duration::from_secs(1);
/// How long the newest is repeated. A server that has ended repeats nothing, and a relay must not speak for it for good.
const REPEATED: Duration = Duration::from_secs(3600);
/// How long after the last announcement a relay that ends says the newest once more.
const PAUSE: Duration = Duration::from_millis(50);

/// The sockets of the other networks, and the turns on them.
pub struct Relay {
    destinations: Vec<Destination>,
    endpoints: Endpoints<Mentions>,
    course: Course,
    /// Announcements that went on, and those that were too many.
    pub passed: u64,
    pub held_back: u64,
}

impl Relay {
    /// Opens the sockets.
    pub fn open(destinations: Vec<Destination>, per_second: u32) -> io::Result<Self> {
        let mut endpoints = Endpoints::default();
        endpoints.follow(&destinations, &interfaces::list()?);
        Ok(Self { destinations, endpoints, course: Course::at_most(per_second), passed: 0, held_back: 0 })
    }

    /// Passes on a verified datagram that was not heard before, of whatever kind, and nothing else.
    pub fn pass_on(&mut self, datagram: &[u8], verdict: &Verdict, now: Instant) {
        let Announcement { key, verified } = match verdict {
            Verdict::New(announcement) => announcement,
            // Without it the other site would miss a number.
            Verdict::Ignored(Ignored::OtherKind(announcement)) => announcement,
            _ => return,
        };
        match self.course.takes(key, (verified.epoch(), verified.sequence()), datagram, now) {
            true => {
                self.passed += 1;
                self.endpoints.send(datagram);
            }
            false => self.held_back += 1,
        }
    }

    /// Says again whatever is due.
    pub fn repeat(&mut self, now: Instant) {
        self.course.repeat(now, |datagram| self.endpoints.send(datagram));
    }

    /// How long there is nothing to say, at most.
    pub fn rests(&self, now: Instant) -> Option<Duration> {
        self.course.next().map(|next| next.saturating_duration_since(now))
    }

    /// Looks at the interfaces. A list that fails now comes the next time.
    pub fn follow(&mut self) {
        if let Ok(interfaces) = interfaces::list() {
            self.endpoints.follow(&self.destinations, &interfaces);
        }
    }

    /// Says each newest once more, for nobody here will repeat it, and how much was said.
    pub fn end(&mut self) {
        if self.course.newest().next().is_some() {
            // A receive buffer that was full a moment ago has room again.
            thread::sleep(PAUSE);
        }
        for datagram in self.course.newest() {
            self.endpoints.send(datagram);
        }
        for endpoint in self.endpoints.iter() {
            note(format_args!("rollcall-listen: relayed to {endpoint}"));
        }
    }

    /// By interface: datagrams, repetitions too.
    pub fn counts(&self) -> impl IntoIterator<Item = (String, Counts)> {
        self.endpoints.by_interface()
    }

    /// For the last line of `--stats`.
    pub fn totals(&self) -> String {
        let mut all = Counts::default();
        self.counts().into_iter().for_each(|(_, counts)| all.add(counts));
        let (Self { passed, held_back, .. }, Counts { sent, failed }) = (self, all);
        format!("relayed {passed} (sent {sent}, failed {failed}, held back {held_back})")
    }
}

/// When a socket's failure was last mentioned.
struct Mentions {
    target: String,
    last: Cell<Option<Instant>>,
}

impl Witness for Mentions {
    fn opened(target: &Target) -> Self {
        note(format_args!("rollcall-listen: relaying to {target}"));
        Self { target: target.to_string(), last: Cell::new(None) }
    }

    fn worked(&self) {}

    fn failed(&self, error: &io::Error) {
        if self.last.get().is_none_or(|last| last.elapsed() >= MENTION) {
            self.last.set(Some(Instant::now()));
            note(format_args!(
                "rollcall-listen: cannot relay to {}: {error} (said at most once a minute)",
                self.target
            ));
        }
    }

    fn closed(endpoint: &Endpoint<Self>) {
        note(format_args!("rollcall-listen: no longer relaying to {endpoint}"));
    }

    fn complain(complaint: &str) {
        note(format_args!("rollcall-listen: {complaint}"));
    }
}

/// Which announcements go on, and when each key's newest is said again. No socket and no clock.
struct Course {
    newest: Vec<Newest>,
    /// The time that one announcement takes of the limit.
    cost: Duration,
    /// Until when those that went on have used the limit up.
    used: Option<Instant>,
}

/// Of one key.
struct Newest {
    key: PublicKey,
    /// Epoch and sequence.
    number: (u64, u64),
    since: Instant,
    repetition: Repetition,
}

impl Course {
    fn at_most(per_second: u32) -> Self {
        Self { newest: Vec::new(), cost: Duration::from_secs(1) / per_second.max(1), used: None }
    }

    /// An announcement is new here. May it go on now? One that may not is repeated all the same if it is the newest, so
    /// that the other site learns what it lost.
    fn takes(&mut self, key: &PublicKey, number: (u64, u64), datagram: &[u8], now: Instant) -> bool {
        match self.newest.iter_mut().find(|newest| newest.key == *key) {
            // It came late, and what is repeated tells more.
            Some(newest) if newest.number >= number => {}
            Some(newest) => {
                (newest.number, newest.since) = (number, now);
                newest.repetition.sent(datagram.to_vec(), now);
            }
            None => {
                let mut repetition = Repetition::default();
                repetition.sent(datagram.to_vec(), now);
                self.newest.push(Newest { key: *key, number, since: now, repetition });
            }
        }
        let used = self.used.map_or(now, |used| used.max(now));
        let has_room = used.saturating_duration_since(now) + self.cost <= BURST.max(self.cost);
        if has_room {
            self.used = Some(used + self.cost);
        }
        has_room
    }

    fn repeat(&mut self, now: Instant, mut say: impl FnMut(&[u8])) {
        for newest in &mut self.newest {
            if now.saturating_duration_since(newest.since) > REPEATED {
                newest.repetition = Repetition::default();
            } else if let Some(datagram) = newest.repetition.due(now) {
                say(datagram);
            }
        }
    }

    /// When to ask [`Course::repeat`] next.
    fn next(&self) -> Option<Instant> {
        self.newest.iter().filter_map(|newest| newest.repetition.next()).min()
    }

    fn newest(&self) -> impl Iterator<Item = &[u8]> {
        self.newest.iter().filter_map(|newest| newest.repetition.newest())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> [PublicKey; 2] {
        [1, 2].map(|byte| PublicKey::from_bytes([byte; 32]))
    }

    fn said(course: &mut Course, now: Instant) -> Vec<Vec<u8>> {
        let mut said = Vec::new();
        course.repeat(now, |datagram| said.push(datagram.to_vec()));
        said
    }

    #[test]
    fn each_keys_newest_is_repeated_as_the_server_does() {
        let [one, two] = keys();
        let (mut course, start) = (Course::at_most(RATE), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!((course.next(), course.newest().count()), (None, 0));
        for (key, number, datagram, ms) in [
            (one, (7, 2), "one 2", 0),
            // Late, of an epoch that is over, and of another key.
            (one, (7, 1), "one 1", 10),
            (one, (6, 9), "one before", 10),
            (two, (1, 5), "two 5", 20),
        ] {
            assert!(course.takes(&key, number, datagram.as_bytes(), at(ms)));
        }
        assert_eq!(course.next(), Some(at(50)));
        assert_eq!(said(&mut course, at(49)), [b""; 0]);
        assert_eq!(said(&mut course, at(50)), [b"one 2"]);
        assert_eq!(course.next(), Some(at(70)));
        assert_eq!(said(&mut course, at(70)), [b"two 5"]);
        // The server restarted.
        assert!(course.takes(&one, (8, 1), b"one 1", at(100)));
        for ms in [150, 350, 1100, 4100, 34_100] {
            assert!(said(&mut course, at(ms)).contains(&b"one 1".to_vec()), "{ms}");
            assert!(!said(&mut course, at(ms)).contains(&b"one 1".to_vec()), "{ms}");
        }
        assert_eq!(course.newest().collect::<Vec<_>>(), [b"one 1", b"two 5"]);
    }

    #[test]
    fn nothing_is_repeated_for_good() {
        let [one, _] = keys();
        let (mut course, start) = (Course::at_most(RATE), Instant::now());
        course.takes(&one, (1, 2), b"one", start);
        assert_eq!(said(&mut course, start + REPEATED).len(), 1);
        assert_eq!(said(&mut course, start + REPEATED + Duration::from_secs(30)).len(), 0);
        assert_eq!((course.next(), course.newest().count()), (None, 0));
        assert!(course.takes(&one, (1, 3), b"one", start + 2 * REPEATED));
        assert_eq!(course.next(), Some(start + 2 * REPEATED + Duration::from_millis(50)));
    }

    #[test]
    fn a_burst_goes_on_and_a_flood_at_the_rate() {
        let [one, _] = keys();
        let (mut course, start) = (Course::at_most(100), Instant::now());
        let mut number = 0;
        let mut passed = |course: &mut Course, count, now| {
            (0..count)
                .filter(|_| {
                    number += 1;
                    course.takes(&one, (1, number), format!("{number}").as_bytes(), now)
                })
                .count()
        };
        assert_eq!(passed(&mut course, 250, start), 100);
        let later = start + Duration::from_millis(500);
        assert_eq!(passed(&mut course, 250, later), 50);
        // The newest was held back, and is said when it is due.
        assert_eq!(said(&mut course, later + Duration::from_millis(50)), [b"500"]);
        assert_eq!(passed(&mut course, 250, start + Duration::from_secs(60)), 100);
        let mut slowest = Course::at_most(1);
        assert_eq!(
            [0, 500, 1000].map(|ms| passed(&mut slowest, 2, start + Duration::from_millis(ms))),
            [1, 0, 1]
        );
    }
}
