use super::*;
use crate::protocol::announcer::Announcer;
use crate::protocol::keys::Signer;
use crate::protocol::status::Email;
use crate::protocol::{Batch, encode_batch, prefix};

mod gaps;
mod times;

const HOUR: u64 = 3_600_000_000_000;

fn signer(key: usize) -> Signer {
    Signer::of_seed(key as u8 + 1)
}

fn public(key: usize) -> PublicKey {
    *signer(key).public()
}

fn statuses(from: u64, count: u64) -> Vec<Status> {
    let status = |i| Status {
        email: Email::new(&format!("user{i}@example.com")).unwrap(),
        last_seen_ns: 10 * HOUR + i,
        ip: "192.0.2.1".parse().unwrap(),
        port: 7,
    };
    (from..from + count).map(status).collect()
}

/// The datagrams of a server with this key in an epoch, in batches of `size`.
fn said(key: usize, epoch: u64, count: u64, size: u64) -> Vec<Vec<u8>> {
    let mut announcer = Announcer::new(signer(key), epoch);
    let from = |i| statuses(i, size.min(count - i));
    (0..count).step_by(size as usize).flat_map(|i| announcer.announce(&from(i))).collect()
}

fn believing(keys: &[usize]) -> Judge {
    let policy = Policy { keys: keys.iter().map(|key| public(*key)).collect(), ..Policy::default() };
    Judge::new(policy, Vec::new(), 0)
}

/// The verdict in one word.
fn word(judge: &mut Judge, datagram: &[u8]) -> String {
    match judge.judge(datagram, 10 * HOUR) {
        Verdict::New(_) => "new".to_owned(),
        Verdict::Unverified(_, doubt) => format!("shown: {}", doubt.word()),
        Verdict::Ignored(ignored) => ignored.word().to_owned(),
    }
}

#[track_caller]
fn hears(judge: &mut Judge, datagrams: &[Vec<u8>], expected: &str) {
    for (i, datagram) in datagrams.iter().enumerate() {
        assert_eq!(word(judge, datagram), expected, "number {i}");
    }
}

/// A judge's memory and everything that it reports, so that "changes no state at all" can be compared.
fn state(judge: &mut Judge) -> (Vec<Heard>, u64, Vec<Gap>) {
    (judge.memory(), judge.counters().missing, judge.finish())
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

#[test]
fn each_is_new_once() {
    let said = said(0, 5, 40, 7);
    let mut judge = believing(&[0]);
    hears(&mut judge, &said, "new");
    hears(&mut judge, &said, "duplicate");
    let expected = Counters { received: 80, new: 40, duplicate: 40, ..Counters::default() };
    assert_eq!(judge.counters(), expected);
    assert_eq!(
        judge.counters().to_string(),
        "received 80, new 40, duplicate 40, replayed 0, too old 0, ahead 0, other kind 0, unverified 0 (unsigned 0, \
         unchecked 0, unknown key 0, forged 0), foreign 0, missing 0"
    );
}

#[test]
fn a_batch_costs_one_signature_check() {
    let said = said(0, 5, 2048, 512);
    let mut judge = believing(&[1, 0]);
    // Two batches at once, as two servers or a network that reorders make them.
    for at in 0..512 {
        hears(&mut judge, &[said[at].clone(), said[512 + at].clone()], "new");
    }
    hears(&mut judge, &said[1024..], "new");
    hears(&mut judge, &said, "duplicate");
    assert_eq!(judge.signature_checks(), 4);
}

#[test]
fn a_forger_changes_nothing() {
    let said = said(0, 5, 21, 7);
    let mut judge = believing(&[0]);
    hears(&mut judge, &said[..10], "new");
    let before = state(&mut judge);
    let mut hostile: Vec<(Vec<u8>, &str)> = Vec::new();
    for datagram in &said {
        let (_, rest) = prefix::decode(datagram).unwrap();
        let trailer = datagram.len() - rest.len();
        hostile.push((datagram[..trailer].to_vec(), "unsigned"));
        let mut change = |at: usize, bytes: &[u8], expected| {
            let mut changed = datagram.clone();
            changed[at..][..bytes.len()].copy_from_slice(bytes);
            if changed != *datagram {
                hostile.push((changed, expected));
            }
        };
        change(trailer + 3, b"\x01", "forged");
        change(trailer + 4, b"\0\0\0\0", "unknown key");
        change(trailer + 8, &[0xff; 8], "forged");
        change(trailer + 16, &[0xff; 8], "forged");
        change(trailer + 16, &[0; 8], "forged");
        change(trailer + 26, b"\0\x08", "forged");
        change(trailer + 26, b"\xff\xff", "forged");
        change(trailer, b"XX", "foreign");
        change(datagram.len() - 64, &[0; 64], "forged");
        change(1, b"loser", "forged");
    }
    hostile.push((b"\0\0\x55\xaa\0\0\0\0".to_vec(), "foreign"));
    hostile
        .extend(super::tests::said(1, u64::MAX, 3, 3).into_iter().map(|datagram| (datagram, "unknown key")));
    // Another key's signature under our key's id.
    let key_id = public(0).id();
    let batch = Batch { kind: Kind::SEEN, key_id, epoch: 6, first_sequence: 1, statuses: &statuses(0, 2) };
    let impostor = encode_batch(&batch, |message| signer(1).sign(message));
    hostile.extend(impostor.into_iter().map(|datagram| (datagram, "forged")));
    for (datagram, expected) in &hostile {
        assert_eq!(word(&mut judge, datagram), *expected);
    }
    assert_eq!(state(&mut judge), before);
    let counters = judge.counters();
    assert_eq!((counters.new, counters.duplicate, counters.replayed), (10, 0, 0));
    assert_eq!(counters.unverified() + counters.foreign, hostile.len() as u64);
    hears(&mut judge, &said[10..], "new");
}

#[test]
fn every_index_and_splice_is_refused() {
    let said = said(0, 5, 7, 7);
    let mut judge = believing(&[0]);
    hears(&mut judge, &said[..1], "new");
    for one in &said {
        for other in &said {
            for at in 1..one.len().min(other.len()) {
                let spliced = [&one[..at], &other[at..]].concat();
                if said.contains(&spliced) {
                    continue;
                }
                let taken = word(&mut judge, &spliced);
                assert!(matches!(&taken[..], "forged" | "foreign"), "{taken} at {at}");
            }
        }
    }
    assert_eq!(judge.counters().new, 1);
    hears(&mut judge, &said[1..], "new");
}

#[test]
fn two_servers_do_not_disturb_each_other() {
    let (one, other) = (said(0, 5, 30, 4), said(1, 900, 30, 5));
    let mut judge = believing(&[0, 1]);
    for (a, b) in one.iter().zip(&other) {
        hears(&mut judge, &[a.clone(), b.clone()], "new");
    }
    assert_eq!(judge.counters().missing, 0);
    let mut single = believing(&[1]);
    hears(&mut single, &one, "unknown key");
    hears(&mut single, &other, "new");
}

#[test]
fn memory_outlives_a_restart() {
    let (old, new) = (said(0, 5, 5000, 50), said(0, 6, 10, 1));
    let mut judge = believing(&[0, 0, 1]);
    hears(&mut judge, &old[..100], "new");
    assert!(judge.has_changed());
    judge.remembered();
    assert!(!judge.has_changed());
    let policy = Policy { keys: vec![public(0)], ..Policy::default() };
    let mut again = Judge::new(policy.clone(), judge.memory(), HOUR);
    assert_eq!(again.memory(), judge.memory());
    hears(&mut again, &old[..100], "duplicate");
    assert!(!again.has_changed());
    hears(&mut again, &old[3100..3101], "new");
    assert_eq!(again.finish(), [Gap { key: public(0), missing: 3000 }]);
    hears(&mut again, &new, "new");
    // Replay after both have restarted.
    let mut third = Judge::new(policy, again.memory(), 2 * HOUR);
    hears(&mut third, &old[..100], "replayed");
    hears(&mut third, &new, "duplicate");
}

#[test]
fn a_key_that_is_not_used_now_is_not_forgotten() {
    let mut judge = believing(&[0]);
    hears(&mut judge, &said(0, 5, 3, 3), "new");
    let policy = Policy { keys: vec![public(1)], ..Policy::default() };
    let mut rotated = Judge::new(policy, judge.memory(), 0);
    hears(&mut rotated, &said(1, 5, 3, 3), "new");
    assert_eq!(rotated.memory().len(), 2);
    assert!(rotated.memory().contains(&judge.memory()[0]));
}

#[test]
fn another_kind_is_counted_and_leaves_no_gap() {
    let key_id = public(0).id();
    let batch = Batch { kind: Kind(9), key_id, epoch: 5, first_sequence: 1, statuses: &statuses(0, 1) };
    let other = encode_batch(&batch, |message| signer(0).sign(message));
    let mut judge = believing(&[0]);
    hears(&mut judge, &other, "other kind");
    hears(&mut judge, &other, "duplicate");
    hears(&mut judge, &said(0, 5, 3, 1)[1..], "new");
    assert_eq!((judge.counters().other_kind, judge.counters().missing), (1, 0));
}

#[test]
fn without_a_key_everything_is_shown_with_its_doubt() {
    let said = said(0, 5, 2, 2);
    let mut unsigned = Vec::new();
    prefix::encode(&statuses(0, 1)[0], &mut unsigned);
    let mut judge = believing(&[]);
    let before = judge.memory();
    hears(&mut judge, &said, "shown: unchecked");
    hears(&mut judge, &said, "repeated");
    hears(&mut judge, std::slice::from_ref(&unsigned), "shown: unsigned");
    // A host on two networks says it on both.
    hears(&mut judge, &[unsigned], "repeated");
    hears(&mut judge, &[b"\0\0\x55\xaa".to_vec()], "foreign");
    assert_eq!(judge.memory(), before);
    let expected = Counters { received: 7, unsigned: 2, unchecked: 4, foreign: 1, ..Counters::default() };
    assert_eq!(judge.counters(), expected);
}

#[test]
fn an_accepted_unverified_status_keeps_its_mark() {
    let (ours, other) = (said(0, 5, 2, 2), said(1, 5, 2, 2));
    let mut forged = ours[1].clone();
    forged[1] ^= 1;
    let mut unsigned = Vec::new();
    prefix::encode(&statuses(0, 1)[0], &mut unsigned);
    let policy = Policy { keys: vec![public(0)], accept_unverified: true, ..Policy::default() };
    let mut judge = Judge::new(policy, Vec::new(), 0);
    hears(&mut judge, &ours[..1], "new");
    hears(&mut judge, &[forged], "shown: forged");
    hears(&mut judge, &[ours[1][..100].to_vec()], "shown: forged");
    hears(&mut judge, &other, "shown: unknown key");
    hears(&mut judge, &other, "repeated");
    hears(&mut judge, &[unsigned], "shown: unsigned");
    hears(&mut judge, &ours[..1], "duplicate");
    hears(&mut judge, &ours[1..], "new");
}

#[test]
fn the_memory_of_shown_statuses_is_bounded() {
    let mut judge = believing(&[]);
    hears(&mut judge, &said(0, 5, 10_000, 500), "shown: unchecked");
    assert_eq!(judge.shown.len(), SHOWN);
}
