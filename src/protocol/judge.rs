//! A listener's conclusion from a datagram. No socket and no clock: bytes and times in, verdicts out.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use super::datagram::Datagram;
use super::keys::PublicKey;
use super::prefix;
use super::roots::Roots;
use super::status::{AHEAD, Status};
use super::trailer::{self, KeyId, Kind, Verified};
use super::window::{Bits, Place, WINDOW, Window};

/// How long a number may be late before it is reported as missing.
const GRACE: Duration = Duration::from_secs(1);
/// Datagrams that nobody vouches for and that were shown, so that a repetition is not shown again.
const SHOWN: usize = 64;

/// The keys to believe, and the other statuses to show.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// The keys of the servers, any of which is believed. Without one nothing can be verified.
    pub keys: Vec<PublicKey>,
    /// Hand out unverified statuses, too. Without a key there are no others.
    pub accept_unverified: bool,
    /// Refuse sightings that are older than this, by our clock.
    pub max_age: Option<Duration>,
}

/// The verdict on one datagram.
#[derive(Debug)]
pub enum Verdict {
    /// Signed by a key that we believe, and not heard before.
    New(Announcement),
    /// Anybody on the network can have made it. Only if the policy accepts such.
    Unverified(Status, Doubt),
    Ignored(Ignored),
}

/// A verified status, and the key of the server that announced it.
#[derive(Debug)]
pub struct Announcement {
    pub key: PublicKey,
    pub verified: Verified,
}

/// Why a status is not verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// Version 1.
    Unsigned,
    /// Signed, and we have no key at all.
    Unchecked,
    /// Signed, so it says, with a key that we do not have.
    UnknownKey(KeyId),
    /// Says that it is signed with a key of ours, and is not.
    Forged,
    /// Says that it is signed, in a way that no server does; counted as forged.
    Broken(trailer::Error),
}

impl Doubt {
    /// In the words of [`Counters`].
    pub fn word(self) -> &'static str {
        match self {
            Doubt::Unsigned => "unsigned",
            Doubt::Unchecked => "unchecked",
            Doubt::UnknownKey(_) => "unknown key",
            Doubt::Forged | Doubt::Broken(_) => "forged",
        }
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Doubt::Unsigned => "not signed",
            Doubt::Unchecked => "signed, but there is no --key to verify it with",
            Doubt::UnknownKey(id) => {
                return write!(f, "signed with key {:08x}, which is not ours", u32::from_be_bytes(*id));
            }
            Doubt::Forged => "the signature is forged",
            Doubt::Broken(error) => return write!(f, "the trailer is broken: {error}"),
        })
    }
}

/// Why there is nothing to show.
#[derive(Debug)]
pub enum Ignored {
    Duplicate,
    /// An older epoch, or further back than the window reaches.
    Replayed,
    /// Verified and new to us, but older than the policy wants.
    TooOld,
    /// So far beyond our clock that one of the two is wrong: as untimely as one that is too old.
    Ahead(Duration),
    /// Verified and new, but not a kind that we know.
    OtherKind(Box<Announcement>),
    /// Not verified, and the policy wants verified ones only.
    Refused(Doubt),
    /// Shown already, byte for byte.
    Repeated,
    /// Nothing of ours.
    Foreign(prefix::Error),
}

impl Ignored {
    /// In the words of [`Counters`]. A repetition counts as itself, and so does an unverified one that is too old
    /// besides.
    pub fn word(&self) -> &'static str {
        match self {
            Ignored::Duplicate => "duplicate",
            Ignored::Replayed => "replayed",
            Ignored::TooOld => "too old",
            Ignored::Ahead(_) => "ahead",
            Ignored::OtherKind(_) => "other kind",
            Ignored::Refused(doubt) => doubt.word(),
            Ignored::Repeated => "repeated",
            Ignored::Foreign(_) => "foreign",
        }
    }
}

/// Datagrams, each counted in `received` and in one of the others; and the missing ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub received: u64,
    /// Verified, and not heard before.
    pub new: u64,
    /// Verified, and heard before: repeated by the server, or heard on two networks.
    pub duplicate: u64,
    /// Verified, and of an older epoch or further back than the window reaches.
    pub replayed: u64,
    /// Verified and new, but older than the policy wants.
    pub too_old: u64,
    /// Verified and new, but further ahead of our clock than clocks differ, and the policy asks for the age.
    pub ahead: u64,
    /// Verified and new, but of a kind that we do not know.
    pub other_kind: u64,
    /// Version 1.
    pub unsigned: u64,
    /// Version 2, and we have no key at all.
    pub unchecked: u64,
    /// Version 2, by its key id signed with a key that we do not have.
    pub unknown_key: u64,
    /// Version 2, and the server with that key did not sign it.
    pub forged: u64,
    /// Not a datagram of rollcall.
    pub foreign: u64,
    /// Announcements, by their numbers.
    pub missing: u64,
}

impl Counters {
    pub fn unverified(&self) -> u64 {
        self.unsigned + self.unchecked + self.unknown_key + self.forged
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { received, new, duplicate, replayed, too_old, ahead, other_kind, .. } = self;
        let Self { unsigned, unchecked, unknown_key, forged, foreign, missing, .. } = self;
        let unverified = self.unverified();
        write!(
            f,
            "received {received}, new {new}, duplicate {duplicate}, replayed {replayed}, too old {too_old}, \
             ahead {ahead}, other kind {other_kind}, unverified {unverified} (unsigned {unsigned}, unchecked {unchecked}, \
             unknown key {unknown_key}, forged {forged}), foreign {foreign}, missing {missing}"
        )
    }
}

/// Announcements of one key that did not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    pub key: PublicKey,
    pub missing: u64,
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.missing == 1 { "" } else { "s" };
        write!(f, "{} announcement{plural} of key {} never came", self.missing, self.key)
    }
}

/// How far one key has been heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    pub key: PublicKey,
    /// The highest that this key has signed, in nanoseconds since the Unix epoch.
    pub epoch: u64,
    /// The highest sequence of that epoch that came.
    pub highest: u64,
    /// Up to which sequence everything has come or been reported as missing; of the last 4,096.
    pub settled: u64,
    /// Which of the last 4,096 sequences came: number `n` is bit `n % 64` of word `n % 4096 / 64`.
    pub seen: Bits,
}

/// All that a listener knows: per key the epoch and the window, the batches that were verified, the counts.
pub struct Judge {
    accept_unverified: bool,
    max_age: Option<Duration>,
    tracks: Vec<Track>,
    /// Memory of keys that are not in use now, kept for when they are again.
    unused: Vec<Heard>,
    roots: Roots,
    shown: VecDeque<Vec<u8>>,
    counters: Counters,
    /// When listening began, in nanoseconds since the Unix epoch.
    began_ns: u64,
    changed: bool,
}

/// One key that we believe.
struct Track {
    key: PublicKey,
    epoch: Option<Epoch>,
    /// Have we listened since before one of its epochs began? Then we miss the start of each further one.
    followed: bool,
    /// Missing in the epochs that are over, and how many of those are yet to be reported.
    missing_before: u64,
    unreported_before: u64,
}

struct Epoch {
    number: u64,
    window: Window,
    /// The highest number at a moment: a number below it that is missing a while later is late.
    noted: Option<(u64, Instant)>,
}

impl Judge {
    /// `memory` is the result of [`Judge::memory`] before a restart, `began_ns` when listening began, in nanoseconds
    /// since the Unix epoch.
    pub fn new(policy: Policy, memory: Vec<Heard>, began_ns: u64) -> Self {
        let mut tracks: Vec<Track> = Vec::new();
        for key in policy.keys {
            if !tracks.iter().any(|track| track.key == key) {
                tracks.push(Track::of(key));
            }
        }
        let mut unused = Vec::new();
        for heard in memory {
            match tracks.iter_mut().find(|track| track.key == heard.key) {
                Some(track) => {
                    let window = Window::resumed(heard.highest, heard.seen, heard.settled);
                    track.epoch = Some(Epoch { number: heard.epoch, window, noted: None });
                    track.followed = true;
                }
                None => unused.push(heard),
            }
        }
        Self {
            // Without a key there is nothing else to show.
            accept_unverified: policy.accept_unverified || tracks.is_empty(),
            max_age: policy.max_age,
            tracks,
            unused,
            roots: Roots::default(),
            shown: VecDeque::new(),
            counters: Counters::default(),
            began_ns,
            changed: false,
        }
    }

    /// The keys that it believes.
    pub fn keys(&self) -> impl Iterator<Item = &PublicKey> {
        self.tracks.iter().map(|track| &track.key)
    }

    /// Judges one datagram. An unverified one changes nothing but the counters. `now_ns` is the time, in
    /// nanoseconds since the Unix epoch.
    pub fn judge(&mut self, datagram: &[u8], now_ns: u64) -> Verdict {
        self.counters.received += 1;
        match Datagram::decode(datagram) {
            Ok(Datagram::Unsigned(status)) => {
                self.counters.unsigned += 1;
                self.doubt(datagram, status, Doubt::Unsigned, now_ns)
            }
            Ok(Datagram::Signed(claim)) if self.tracks.is_empty() => {
                self.counters.unchecked += 1;
                self.doubt(datagram, claim.into_unverified(), Doubt::Unchecked, now_ns)
            }
            Ok(Datagram::Signed(claim)) => {
                // The id has four bytes, so that two keys may have the same one.
                let id = claim.key_id();
                let mut asked = None;
                let verified = claim.verify(|message, signature| {
                    self.tracks.iter().enumerate().filter(|(_, track)| track.key.id() == id).any(
                        |(at, track)| {
                            asked = Some(at);
                            self.roots.believes(&track.key, message, signature)
                        },
                    )
                });
                match (verified, asked) {
                    (Ok(verified), Some(at)) => self.place(at, verified, now_ns),
                    (Ok(_), None) => unreachable!("a claim is verified by a key"),
                    (Err(status), Some(_)) => {
                        self.counters.forged += 1;
                        self.doubt(datagram, status, Doubt::Forged, now_ns)
                    }
                    (Err(status), None) => {
                        self.counters.unknown_key += 1;
                        self.doubt(datagram, status, Doubt::UnknownKey(id), now_ns)
                    }
                }
            }
            Ok(Datagram::Broken(status, error)) => {
                self.counters.forged += 1;
                self.doubt(datagram, status, Doubt::Broken(error), now_ns)
            }
            Err(error) => {
                self.counters.foreign += 1;
                Verdict::Ignored(Ignored::Foreign(error))
            }
        }
    }

    /// A verified one: is it new?
    fn place(&mut self, at: usize, verified: Verified, now_ns: u64) -> Verdict {
        let untimely = self.untimely(verified.status(), now_ns);
        let track = &mut self.tracks[at];
        let (number, sequence) = (verified.epoch(), verified.sequence());
        if track.epoch.as_ref().is_none_or(|epoch| epoch.number < number) {
            // A recording does not tell where the server is now.
            if let Some(untimely) = untimely {
                return self.ignore(untimely);
            }
            // We missed the earlier numbers if we were there, and we were if the server started after us. To
            // have heard an older epoch proves nothing: that can be a recording. An epoch that is still to come
            // proves nothing either: the server's clock had been ahead, or is. The bound on the sequence keeps
            // clocks that differ from making it a huge number.
            track.followed |= (self.began_ns..=now_ns).contains(&number) && sequence <= WINDOW;
            let first = if track.followed { 1 } else { sequence };
            track.begin(Epoch { number, window: Window::starting_at(first), noted: None });
        }
        let Some(epoch) = track.epoch.as_mut().filter(|epoch| epoch.number == number) else {
            self.counters.replayed += 1;
            return Verdict::Ignored(Ignored::Replayed);
        };
        match epoch.window.insert(sequence) {
            Place::Duplicate => {
                self.counters.duplicate += 1;
                return Verdict::Ignored(Ignored::Duplicate);
            }
            Place::Behind => {
                self.counters.replayed += 1;
                return Verdict::Ignored(Ignored::Replayed);
            }
            Place::New => self.changed = true,
        }
        if let Some(untimely) = untimely {
            return self.ignore(untimely);
        }
        let announcement = Announcement { key: self.tracks[at].key, verified };
        if announcement.verified.kind() != Kind::SEEN {
            self.counters.other_kind += 1;
            return Verdict::Ignored(Ignored::OtherKind(Box::new(announcement)));
        }
        self.counters.new += 1;
        Verdict::New(announcement)
    }

    /// An unverified one. Without numbers to believe, only its bytes tell that it was shown: its sender
    /// repeats the newest, and says everything once on each network.
    fn doubt(&mut self, datagram: &[u8], status: Status, doubt: Doubt, now_ns: u64) -> Verdict {
        if !self.accept_unverified {
            return Verdict::Ignored(Ignored::Refused(doubt));
        }
        if let Some(untimely) = self.untimely(&status, now_ns) {
            return Verdict::Ignored(untimely);
        }
        if self.shown.iter().any(|shown| shown == datagram) {
            return Verdict::Ignored(Ignored::Repeated);
        }
        self.shown.truncate(SHOWN - 1);
        self.shown.push_front(datagram.to_owned());
        Verdict::Unverified(status, doubt)
    }

    /// Is it older than the policy wants, or further ahead than clocks differ?
    fn untimely(&self, status: &Status, now_ns: u64) -> Option<Ignored> {
        let max_age = self.max_age?;
        let age = Duration::from_nanos(now_ns.saturating_sub(status.last_seen_ns));
        let ahead = Duration::from_nanos(status.last_seen_ns.saturating_sub(now_ns));
        match () {
            () if age > max_age => Some(Ignored::TooOld),
            () if ahead > AHEAD => Some(Ignored::Ahead(ahead)),
            () => None,
        }
    }

    fn ignore(&mut self, untimely: Ignored) -> Verdict {
        match untimely {
            Ignored::Ahead(_) => self.counters.ahead += 1,
            _ => self.counters.too_old += 1,
        }
        Verdict::Ignored(untimely)
    }

    /// Reports numbers that are missing and no longer awaited. Call it about every second.
    pub fn settle(&mut self, now: Instant) -> Vec<Gap> {
        self.gaps(|epoch| {
            let (number, since) = *epoch.noted.get_or_insert((epoch.window.highest(), now));
            if now.saturating_duration_since(since) < GRACE {
                return 0;
            }
            epoch.noted = None;
            epoch.window.settle(number)
        })
    }

    /// Reports all missing numbers, late or not: nobody will be there when they come.
    pub fn finish(&mut self) -> Vec<Gap> {
        self.gaps(|epoch| epoch.window.settle(u64::MAX))
    }

    fn gaps(&mut self, mut settle: impl FnMut(&mut Epoch) -> u64) -> Vec<Gap> {
        let gaps = self.tracks.iter_mut().map(|track| {
            let before = std::mem::take(&mut track.unreported_before);
            let now =
                track.epoch.as_mut().filter(|epoch| epoch.window.unreported() > 0).map_or(0, &mut settle);
            Gap { key: track.key, missing: before.saturating_add(now) }
        });
        let gaps: Vec<Gap> = gaps.filter(|gap| gap.missing > 0).collect();
        // That they were reported is remembered, too.
        self.changed |= !gaps.is_empty();
        gaps
    }

    pub fn counters(&self) -> Counters {
        let missing = self.tracks.iter().fold(0_u64, |sum, track| {
            let now = track.epoch.as_ref().map_or(0, |epoch| epoch.window.missing());
            sum.saturating_add(track.missing_before).saturating_add(now)
        });
        Counters { missing, ..self.counters }
    }

    /// Signatures that were computed: one per batch, and one per forgery.
    #[cfg(test)]
    fn signature_checks(&self) -> u64 {
        self.roots.checks()
    }

    /// Has anything new come since [`Judge::remembered`]? Then [`Judge::memory`] differs.
    pub fn has_changed(&self) -> bool {
        self.changed
    }

    /// The memory was saved.
    pub fn remembered(&mut self) {
        self.changed = false;
    }

    /// The state that has to outlive a restart, so that nothing is believed twice.
    pub fn memory(&self) -> Vec<Heard> {
        let heard = self.tracks.iter().filter_map(|track| {
            let Epoch { number, window, .. } = track.epoch.as_ref()?;
            Some(Heard {
                key: track.key,
                epoch: *number,
                highest: window.highest(),
                settled: window.settled(),
                seen: *window.seen(),
            })
        });
        heard.chain(self.unused.iter().cloned()).collect()
    }
}

impl Track {
    fn of(key: PublicKey) -> Self {
        Self { key, epoch: None, followed: false, missing_before: 0, unreported_before: 0 }
    }

    /// A new epoch: the missing numbers of the last one will not come any more.
    fn begin(&mut self, epoch: Epoch) {
        if let Some(over) = self.epoch.replace(epoch) {
            self.missing_before = self.missing_before.saturating_add(over.window.missing());
            self.unreported_before = self.unreported_before.saturating_add(over.window.unreported());
        }
    }
}

#[cfg(test)]
mod tests;
