//! The sending half: numbers and signs each commit, and repeats the newest.
//!
//! No socket and no clock: statuses and times in, datagrams out. The broadcaster keeps an [`Announcer`] and
//! a [`Repetition`] under one lock. While a commit is under way it may hand the expected statuses to
//! [`Announcer::prepare`], so that the signature is ready. After the commit it sends the result of
//! [`Announcer::announce`] and hands the last datagram to [`Repetition::sent`]; a task sleeps until [`Repetition::next`] and sends the one that is
//! [`Repetition::due`]. One lock, so that the order on the wire is the order of the numbers.

use std::time::{Duration, Instant};

use super::keys::Signer;
use super::status::Status;
use super::trailer::{Batch, KeyId, Kind, MAX_COUNT, encode_batch};

/// Gives every status its sequence, and every batch its signature. One per key at a time.
pub struct Announcer {
    signer: Signer,
    key_id: KeyId,
    epoch: u64,
    sequence: u64,
    prepared: Option<Prepared>,
}

/// The announcement of a commit that is under way, which nobody has sent.
struct Prepared {
    expected: Vec<Status>,
    datagrams: Vec<Vec<u8>>,
}

impl Announcer {
    /// `epoch` is higher than every epoch before it of this key.
    pub fn new(signer: Signer, epoch: u64) -> Self {
        let key_id = signer.public().id();
        Self { signer, key_id, epoch, sequence: 0, prepared: None }
    }

    /// The newest number; 0 before the first.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Makes the datagrams of the commit that is expected next. [`Announcer::announce`] gives them out if exactly that was
    /// committed, and otherwise makes others: they have no number yet.
    pub fn prepare(&mut self, expected: Vec<Status>) {
        let datagrams = self.encode(&expected);
        self.prepared = Some(Prepared { expected, datagrams });
    }

    /// The datagrams that announce one commit, in its order. They have to be sent, all of them
    /// and in this order: a number that is not heard is reported as missing.
    pub fn announce(&mut self, committed: &[Status]) -> Vec<Vec<u8>> {
        let datagrams = match self.prepared.take() {
            Some(Prepared { expected, datagrams }) if expected == committed => datagrams,
            _ => self.encode(committed),
        };
        self.sequence += committed.len() as u64;
        datagrams
    }

    fn encode(&self, statuses: &[Status]) -> Vec<Vec<u8>> {
        let mut datagrams = Vec::with_capacity(statuses.len());
        for statuses in statuses.chunks(MAX_COUNT.into()) {
            let batch = Batch {
                kind: Kind::SEEN,
                key_id: self.key_id,
                epoch: self.epoch,
                first_sequence: self.sequence + datagrams.len() as u64 + 1,
                statuses,
            };
            datagrams.extend(encode_batch(&batch, |message| self.signer.sign(message)));
        }
        datagrams
    }
}

/// When the newest datagram is said again: so long after it was new, and then every [`EVERY`].
const AFTER: [Duration; 4] =
    [Duration::from_millis(50), Duration::from_millis(250), Duration::from_secs(1), Duration::from_secs(4)];
pub const EVERY: Duration = Duration::from_secs(30);

/// The repetition of the newest datagram, by which listeners notice that the newest was lost.
#[derive(Default)]
pub struct Repetition {
    newest: Option<Newest>,
}

struct Newest {
    datagram: Vec<u8>,
    /// When it was new.
    sent: Instant,
    /// How long after that it is due again.
    due: Duration,
}

impl Repetition {
    /// `datagram`, the last of a batch, was sent for the first time.
    pub fn sent(&mut self, datagram: Vec<u8>, now: Instant) {
        self.newest = Some(Newest { datagram, sent: now, due: AFTER[0] });
    }

    /// When to ask [`Repetition::due`] next; `None` before anything was sent.
    pub fn next(&self) -> Option<Instant> {
        self.newest.as_ref().map(|newest| newest.sent + newest.due)
    }

    /// The newest, due or not: a server that ends says it once more, for nobody will repeat it.
    pub fn newest(&self) -> Option<&[u8]> {
        self.newest.as_ref().map(|newest| &newest.datagram[..])
    }

    /// The datagram to send again now. However late the call is, one datagram makes up for all that were due.
    pub fn due(&mut self, now: Instant) -> Option<&[u8]> {
        let newest = self.newest.as_mut()?;
        let age = now.saturating_duration_since(newest.sent);
        if age < newest.due {
            return None;
        }
        newest.due = after(age);
        Some(&newest.datagram)
    }
}

/// The first moment of the schedule that is later than `age`.
fn after(age: Duration) -> Duration {
    let last = AFTER[AFTER.len() - 1];
    AFTER.into_iter().find(|moment| *moment > age).unwrap_or_else(|| {
        let rounds = age.saturating_sub(last).as_secs() / EVERY.as_secs() + 1;
        last + Duration::from_secs(rounds * EVERY.as_secs())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::status::Email;
    use crate::protocol::{Datagram, Verified};

    fn announcer(epoch: u64) -> Announcer {
        Announcer::new(Signer::of_seed(1), epoch)
    }

    fn statuses(count: usize) -> Vec<Status> {
        let status = |i| Status {
            email: Email::new(&format!("user{i}@example.com")).unwrap(),
            last_seen_ns: i as u64,
            ip: "192.0.2.1".parse().unwrap(),
            port: 1,
        };
        (0..count).map(status).collect()
    }

    fn verified(announcer: &Announcer, datagram: &[u8]) -> Verified {
        let Datagram::Signed(claim) = Datagram::decode(datagram).unwrap() else { panic!("unsigned") };
        claim
            .verify(|message, signature| announcer.signer.public().verify(message, signature))
            .expect("our own signature")
    }

    #[test]
    fn numbers_go_on_without_a_gap_and_everything_verifies() {
        let mut announcer = announcer(77);
        let mut expected = 0;
        for count in [1, 0, 3, 512, 513, 1100, 2] {
            let statuses = statuses(count);
            let datagrams = announcer.announce(&statuses);
            assert_eq!(datagrams.len(), count);
            for (datagram, status) in datagrams.iter().zip(&statuses) {
                let verified = verified(&announcer, datagram);
                expected += 1;
                assert_eq!((verified.epoch(), verified.sequence()), (77, expected));
                assert_eq!(verified.status(), status);
            }
        }
    }

    #[test]
    fn what_was_prepared_is_announced_only_if_exactly_that_was_committed() {
        let (mut one, mut other) = (announcer(5), announcer(5));
        let all = statuses(3);
        let mut newer = all.clone();
        newer[1].last_seen_ns += 1;
        let commits = [&all[..], &all[..2], &newer, &[], &all, &all];
        for (expected, committed) in
            commits.iter().zip(commits.iter().skip(1)).chain([(&commits[0], &commits[0])])
        {
            one.prepare(expected.to_vec());
            // Ed25519 signs one message always in one way.
            assert_eq!(one.announce(committed), other.announce(committed));
            assert_eq!(one.sequence(), other.sequence());
        }
        // A commit that failed was announced by nobody, and the next one has other datagrams.
        one.prepare(newer);
        one.prepare(all.clone());
        assert_eq!(one.announce(&all), other.announce(&all));
        assert_eq!(one.announce(&all), other.announce(&all), "prepared once, announced once");
    }

    #[test]
    fn the_newest_is_repeated_when_the_contract_says() {
        let start = Instant::now();
        let mut repetition = Repetition::default();
        assert_eq!((repetition.next(), repetition.due(start)), (None, None));
        repetition.sent(b"one".to_vec(), start);
        for ms in [50, 250, 1000, 4000, 34_000, 64_000, 94_000] {
            let moment = start + Duration::from_millis(ms);
            assert_eq!(repetition.next(), Some(moment));
            assert_eq!(repetition.due(moment - Duration::from_millis(1)), None);
            assert_eq!(repetition.due(moment), Some(&b"one"[..]), "{ms}");
            assert_eq!(repetition.due(moment), None);
        }
        let later = start + Duration::from_secs(95);
        repetition.sent(b"two".to_vec(), later);
        assert_eq!(repetition.next(), Some(later + Duration::from_millis(50)));
    }

    #[test]
    fn asked_late_it_is_repeated_once() {
        let start = Instant::now();
        let mut repetition = Repetition::default();
        repetition.sent(b"one".to_vec(), start);
        assert!(repetition.due(start + Duration::from_secs(3)).is_some());
        assert_eq!(repetition.next(), Some(start + Duration::from_secs(4)));
        assert!(repetition.due(start + Duration::from_secs(3600)).is_some());
        assert_eq!(repetition.next(), Some(start + Duration::from_secs(3604)));
        assert!(repetition.due(start + Duration::from_secs(3601)).is_none());
    }
}
