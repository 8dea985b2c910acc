//! `--relay`: passes on what is new to the networks of another site, byte for byte, and repeats each key's newest.
//!
//! A signature is the server's own, so whoever hears a relay verifies as before and has to trust nobody in between. A
//! number goes on once, on its first arrival; a repetition is a duplicate to every other relay. So what two relays, or a
//! ring of them, say to each other ends by itself, and no datagram needs a count of hops.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use crate::cli::note;
use crate::lan::destination::{Destination, Destinations, Target};
use crate::lan::endpoints::{Counts, Endpoint, Endpoints, Witness};
use crate::lan::{interfaces, sockets};
use crate::protocol::announcer::Repetition;
use crate::protocol::judge::{Announcement, Ignored, Verdict};
use crate::protocol::keys::PublicKey;

use super::{Error, MENTION};

/// Announcements a second that go on, unless `--relay-rate` says otherwise: more than a million people say who beat
/// every 30 s.
const RATE: u32 = 50_000;
/// A burst may be as long as this at the full rate.
const BURST: Duration = Duration::from_secs(1);
/// How long the newest is repeated after it was last heard from there whence it came first: two repetitions may be lost. A
/// server that has ended repeats nothing, and a relay must not speak for it; nor for a server that began anew unheard, whose
/// listeners would take it for a replay. Two relays cannot keep each other at it: one of them was the first.
const REPEATED: Duration = Duration::from_secs(75);
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
    /// Opens the sockets. The port at `place` is the one that is listened on.
    pub fn open(lists: &[Destinations], per_second: Option<u32>, place: SocketAddr) -> Result<Self, Error> {
        let destinations: Vec<Destination> = lists.iter().flat_map(|list| list.0.clone()).collect();
        if let Some(own) = destinations.iter().find_map(|destination| own(destination, place)) {
            return Err(Error::RelayToItself(own));
        }
        let mut endpoints = Endpoints::default();
        endpoints.follow(&destinations, &interfaces::list().map_err(Error::Relay)?);
        let course = Course::at_most(per_second.unwrap_or(RATE));
        Ok(Self { destinations, endpoints, course, passed: 0, held_back: 0 })
    }

    /// Passes on a verified datagram that was not heard before, of whatever kind, and nothing else.
    pub fn pass_on(&mut self, datagram: &[u8], from: SocketAddr, verdict: &Verdict, now: Instant) {
        let Announcement { key, verified } = match verdict {
            Verdict::New(announcement) => announcement,
            // Without it the other site would miss a number.
            Verdict::Ignored(Ignored::OtherKind(announcement)) => announcement,
            Verdict::Ignored(Ignored::Duplicate) => {
                return self.course.hears_again(datagram, from, now, sockets::is_own);
            }
            _ => return,
        };
        match self.course.takes(key, (verified.epoch(), verified.sequence()), datagram, from, now) {
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

/// The destination, if it is the port on which this host listens itself.
fn own(destination: &Destination, place: SocketAddr) -> Option<SocketAddr> {
    let Destination::Address { ip, port, .. } = destination else { return None };
    let is_heard = place.ip() == *ip || place.ip().is_unspecified() && sockets::is_own(*ip);
    (is_heard && *port == place.port()).then_some(SocketAddr::new(*ip, *port))
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
    /// Whence it came first, and when it came from there last.
    from: SocketAddr,
    heard: Instant,
    is_repeated: bool,
    repetition: Repetition,
}

impl Course {
    fn at_most(per_second: u32) -> Self {
        Self { newest: Vec::new(), cost: Duration::from_secs(1) / per_second.max(1), used: None }
    }

    /// An announcement is new here. May it go on now? One that may not is repeated all the same if it is the newest, so
    /// that the other site learns what it lost.
    fn takes(
        &mut self,
        key: &PublicKey,
        number: (u64, u64),
        datagram: &[u8],
        from: SocketAddr,
        now: Instant,
    ) -> bool {
        let known = self.newest.iter().position(|newest| newest.key == *key);
        // One that came late is passed on, and what is repeated tells more.
        if known.is_none_or(|at| self.newest[at].number < number) {
            let mut repetition = Repetition::default();
            repetition.sent(datagram.to_vec(), now);
            let newest = Newest { key: *key, number, from, heard: now, is_repeated: true, repetition };
            match known {
                Some(at) => self.newest[at] = newest,
                None => self.newest.push(newest),
            }
        }
        let used = self.used.map_or(now, |used| used.max(now));
        let has_room = used.saturating_duration_since(now) + self.cost <= BURST.max(self.cost);
        if has_room {
            self.used = Some(used + self.cost);
        }
        has_room
    }

    /// A port may change on the way (NAT). On this host it does not, and tells the server from the relays beside it.
    fn hears_again(
        &mut self,
        datagram: &[u8],
        from: SocketAddr,
        now: Instant,
        is_own: impl Fn(IpAddr) -> bool,
    ) {
        let is_it = |newest: &&mut Newest| {
            newest.repetition.newest() == Some(datagram)
                && newest.from.ip() == from.ip()
                && (newest.from == from || !is_own(from.ip()))
        };
        if let Some(newest) = self.newest.iter_mut().find(is_it) {
            (newest.heard, newest.is_repeated) = (now, true);
        }
    }

    fn repeat(&mut self, now: Instant, mut say: impl FnMut(&[u8])) {
        for newest in self.newest.iter_mut().filter(|newest| newest.is_repeated) {
            if now.saturating_duration_since(newest.heard) > REPEATED {
                newest.is_repeated = false;
            } else if let Some(datagram) = newest.repetition.due(now) {
                say(datagram);
            }
        }
    }

    /// When to ask [`Course::repeat`] next.
    fn next(&self) -> Option<Instant> {
        self.repeated().filter_map(|newest| newest.repetition.next()).min()
    }

    fn newest(&self) -> impl Iterator<Item = &[u8]> {
        self.repeated().filter_map(|newest| newest.repetition.newest())
    }

    fn repeated(&self) -> impl Iterator<Item = &Newest> {
        self.newest.iter().filter(|newest| newest.is_repeated)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 40_000);
    const RELAY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)), 40_000);

    fn elsewhere(_: IpAddr) -> bool {
        false
    }

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
            assert!(course.takes(&key, number, datagram.as_bytes(), SERVER, at(ms)));
        }
        assert_eq!(course.next(), Some(at(50)));
        assert_eq!(said(&mut course, at(49)), [b""; 0]);
        assert_eq!(said(&mut course, at(50)), [b"one 2"]);
        assert_eq!(course.next(), Some(at(70)));
        assert_eq!(said(&mut course, at(70)), [b"two 5"]);
        // The server restarted.
        assert!(course.takes(&one, (8, 1), b"one 1", SERVER, at(100)));
        for ms in [150, 350, 1100, 4100, 34_100] {
            assert!(said(&mut course, at(ms)).contains(&b"one 1".to_vec()), "{ms}");
            assert!(!said(&mut course, at(ms)).contains(&b"one 1".to_vec()), "{ms}");
        }
        assert_eq!(course.newest().collect::<Vec<_>>(), [b"one 1", b"two 5"]);
    }

    #[test]
    fn the_newest_is_repeated_while_it_comes_again_from_where_it_came_first() {
        let [one, _] = keys();
        let (mut course, start) = (Course::at_most(RATE), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        course.takes(&one, (1, 2), b"one", SERVER, start);
        for minute in 1..120 {
            course.hears_again(b"one", SERVER, at(60 * minute), elsewhere);
            assert_eq!(said(&mut course, at(60 * minute)).len(), 1, "{minute}");
        }
        let last = 119 * 60;
        // Another relay repeats it, and somebody an older one.
        course.hears_again(b"one", RELAY, at(last + 60), elsewhere);
        course.hears_again(b"older", SERVER, at(last + 60), elsewhere);
        assert_eq!(said(&mut course, at(last + 75)).len(), 1);
        assert_eq!(said(&mut course, at(last + 76)).len(), 0);
        assert_eq!((course.next(), course.newest().count()), (None, 0));
        // The server is back, and goes on.
        course.hears_again(b"one", SERVER, at(last + 600), elsewhere);
        assert_eq!(said(&mut course, at(last + 600)), [b"one"]);
        assert!(course.next().is_some_and(|next| next > at(last + 600)));
        assert!(course.takes(&one, (2, 1), b"new", RELAY, at(last + 601)));
        course.hears_again(b"one", SERVER, at(last + 602), elsewhere);
        assert_eq!(course.newest().collect::<Vec<_>>(), [b"new"]);
    }

    /// It hears itself where its destination is this host, too.
    #[test]
    fn a_relay_on_the_servers_host_does_not_speak_for_one_that_ended() {
        let [one, _] = keys();
        let start = Instant::now();
        let beside = SocketAddr::new(SERVER.ip(), 50_000);
        for (from, is_own, goes_on) in
            [(SERVER, true, 1), (SERVER, false, 1), (beside, true, 0), (beside, false, 1), (RELAY, false, 0)]
        {
            let mut course = Course::at_most(RATE);
            course.takes(&one, (1, 2), b"one", SERVER, start);
            course.hears_again(b"one", from, start + Duration::from_secs(60), |_| is_own);
            assert_eq!(said(&mut course, start + Duration::from_secs(76)).len(), goes_on, "{from} {is_own}");
        }
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
                    course.takes(&one, (1, number), format!("{number}").as_bytes(), SERVER, now)
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
