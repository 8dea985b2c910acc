use super::*;
use crate::protocol::announcer::Announcer;
use crate::protocol::keys::Signer;
use crate::protocol::status::Email;
use crate::protocol::{Batch, encode_batch, prefix};

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
fn a_lossy_network_loses_nothing_else() {
    for (seed, size) in [(1, 1), (2, 3), (3, 64), (4, 512)] {
        let mut random = Random(seed);
        let said = said(0, 5, 3000, size);
        let mut sent: Vec<(u64, Vec<u8>, bool)> = Vec::new();
        for (i, datagram) in said.iter().enumerate() {
            if random.below(100) < 30 {
                continue;
            }
            for _ in 0..=u64::from(random.below(100) < 10) {
                let (mut datagram, flipped) = (datagram.clone(), random.below(100) < 1);
                if flipped {
                    let bit = random.below(datagram.len() as u64 * 8) as usize;
                    datagram[bit / 8] ^= 1 << (bit % 8);
                }
                sent.push((i as u64 + random.below(20), datagram, !flipped));
            }
        }
        sent.sort_by_key(|(moment, ..)| *moment);
        let mut intact: Vec<&[u8]> =
            sent.iter().filter(|(_, _, intact)| *intact).map(|(_, datagram, _)| &datagram[..]).collect();
        let mut judge = believing(&[0]);
        let mut new: Vec<&[u8]> = Vec::new();
        for (_, datagram, _) in &sent {
            if matches!(judge.judge(datagram, 10 * HOUR), Verdict::New(_)) {
                new.push(datagram);
            }
        }
        new.sort();
        intact.sort();
        intact.dedup();
        assert!(new == intact, "seed {seed}: {} new, {} arrived intact", new.len(), intact.len());
        let counters = judge.counters();
        // A number beyond the last that arrived cannot be missed: the last that arrived is the end.
        let last = said.iter().rposition(|datagram| intact.binary_search(&&datagram[..]).is_ok()).unwrap();
        assert_eq!(counters.missing, (last + 1 - intact.len()) as u64, "seed {seed}");
        let reported: u64 = judge.finish().iter().map(|gap| gap.missing).sum();
        assert_eq!(reported, counters.missing);
        assert_eq!(counters.received, sent.len() as u64);
        let sum = counters.new + counters.duplicate + counters.unverified() + counters.foreign;
        assert_eq!(sum, counters.received);
    }
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
fn a_lower_epoch_is_a_replay_and_a_higher_one_starts_again() {
    let (old, new) = (said(0, 5, 20, 4), said(0, 6, 20, 4));
    let mut judge = believing(&[0]);
    hears(&mut judge, &old[..15], "new");
    hears(&mut judge, &new[3..], "new");
    hears(&mut judge, &old, "replayed");
    // The new server's first three, and nothing that is unknown of the old one's end.
    assert_eq!(judge.counters().missing, 3);
    assert_eq!(judge.finish(), [Gap { key: public(0), missing: 3 }]);
    hears(&mut judge, &new[..3], "new");
    assert_eq!((judge.counters().missing, judge.finish()), (0, vec![]));
}

#[test]
fn an_old_epochs_gap_is_still_reported() {
    let (old, new) = (said(0, 5, 20, 4), said(0, 6, 20, 4));
    let mut judge = believing(&[0]);
    hears(&mut judge, &old[..4], "new");
    hears(&mut judge, &old[14..16], "new");
    hears(&mut judge, &new[..4], "new");
    let start = Instant::now();
    assert_eq!(judge.settle(start), [Gap { key: public(0), missing: 10 }]);
    assert_eq!((judge.settle(start), judge.counters().missing), (vec![], 10));
    assert_eq!(
        Gap { key: public(0), missing: 10 }.to_string(),
        "10 announcements of key 34750f98 never came"
    );
    assert_eq!(Gap { key: public(0), missing: 1 }.to_string(), "1 announcement of key 34750f98 never came");
}

#[test]
fn a_gap_is_reported_once_and_not_while_it_may_still_come() {
    let said = said(0, 5, 100, 1);
    let mut judge = believing(&[0]);
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let missing = |count| vec![Gap { key: public(0), missing: count }];
    hears(&mut judge, &said[..10], "new");
    assert_eq!(judge.settle(at(0)), []);
    hears(&mut judge, &said[20..30], "new");
    assert_eq!(judge.settle(at(100)), []);
    hears(&mut judge, &said[10..12], "new");
    hears(&mut judge, &said[35..40], "new");
    assert_eq!(judge.settle(at(1099)), []);
    // Eight of the first gap; the second was seen later and waits for its own second.
    assert_eq!(judge.settle(at(1100)), missing(8));
    assert_eq!(judge.settle(at(1200)), []);
    assert_eq!(judge.settle(at(2200)), missing(5));
    assert_eq!(judge.settle(at(9999)), []);
    hears(&mut judge, &said[12..20], "new");
    assert_eq!((judge.counters().missing, judge.finish()), (5, vec![]));
}

#[test]
fn the_repeated_newest_shows_that_the_tail_was_lost() {
    let said = said(0, 5, 10, 10);
    let mut judge = believing(&[0]);
    hears(&mut judge, &said[..6], "new");
    assert_eq!(judge.counters().missing, 0);
    let newest = &said[9..];
    hears(&mut judge, newest, "new");
    hears(&mut judge, newest, "duplicate");
    assert_eq!(judge.finish(), [Gap { key: public(0), missing: 3 }]);
}

#[test]
fn a_listener_that_came_late_does_not_miss_earlier_numbers() {
    let said = said(0, 500, 60, 1);
    let policy = || Policy { keys: vec![public(0)], ..Policy::default() };
    for (began_ns, missing) in [(501, 0), (500, 49), (0, 49)] {
        let mut judge = Judge::new(policy(), Vec::new(), began_ns);
        hears(&mut judge, &said[49..], "new");
        assert_eq!(judge.counters().missing, missing, "{began_ns}");
        // Reordered on the way, it is news in both cases.
        hears(&mut judge, &said[40..49], "new");
    }
}

/// The server's clock stepped back, so that its epoch is still to come: whether it began after us is not known.
#[test]
fn regression_an_epoch_ahead_of_the_clock_opened_a_gap() {
    let said = said(0, 11 * HOUR, 60, 1);
    let policy = Policy { keys: vec![public(0)], ..Policy::default() };
    let mut judge = Judge::new(policy, Vec::new(), 9 * HOUR);
    hears(&mut judge, &said[49..], "new");
    assert_eq!((judge.counters().missing, judge.finish()), (0, vec![]));
}

#[test]
fn a_replay_after_an_hour_is_no_news() {
    let said = said(0, 5, 5000, 500);
    let mut judge = believing(&[0]);
    let start = Instant::now();
    hears(&mut judge, &said, "new");
    judge.settle(start);
    judge.settle(start + Duration::from_secs(3600));
    hears(&mut judge, &said[4999..], "duplicate");
    hears(&mut judge, &said[904..905], "duplicate");
    hears(&mut judge, &said[903..904], "replayed");
    assert_eq!((judge.counters().new, judge.counters().missing), (5000, 0));
}

#[test]
fn regression_a_recording_opened_a_gap_for_a_listener_that_just_began() {
    let (before, said) = (said(0, 5, 2, 1), said(0, 500, 60, 1));
    let policy = Policy { keys: vec![public(0)], ..Policy::default() };
    let mut judge = Judge::new(policy.clone(), Vec::new(), 501);
    hears(&mut judge, &before, "new");
    hears(&mut judge, &said[49..], "new");
    assert_eq!((judge.counters().missing, judge.finish()), (0, vec![]));
    // One that is too old does not even say where the epoch is, neither an older one nor this.
    let policy = Policy { max_age: Some(Duration::from_secs(60)), ..policy };
    let mut judge = Judge::new(policy, Vec::new(), 501);
    for recorded in before.iter().chain(&said[..2]) {
        assert!(matches!(judge.judge(recorded, 11 * HOUR), Verdict::Ignored(Ignored::TooOld)));
    }
    hears(&mut judge, &said[49..], "new");
    assert_eq!((judge.counters().missing, judge.counters().too_old), (0, 4));
}

#[test]
fn further_ahead_than_clocks_differ_is_as_untimely_as_too_old() {
    const MINUTE: u64 = 60_000_000_000;
    let said = said(0, 11 * HOUR, 60, 1);
    let policy =
        Policy { keys: vec![public(0)], max_age: Some(Duration::from_secs(60)), ..Policy::default() };
    let time = match Datagram::decode(&said[0]).unwrap() {
        Datagram::Signed(claim) => claim.into_unverified().last_seen_ns,
        other => panic!("{other:?}"),
    };
    let mut judge = Judge::new(policy.clone(), Vec::new(), 0);
    for _ in 0..2 {
        let ahead = judge.judge(&said[0], time - 11 * MINUTE);
        assert!(
            matches!(ahead, Verdict::Ignored(Ignored::Ahead(by)) if by == Duration::from_secs(660)),
            "{ahead:?}"
        );
    }
    assert_eq!(judge.counters().ahead, 2, "it begins no epoch");
    // Clocks may differ by nine minutes; and without an age to keep, nobody looks at them.
    assert!(matches!(judge.judge(&said[0], time - 9 * MINUTE), Verdict::New(_)));
    let mut judge = Judge::new(Policy { max_age: None, ..policy.clone() }, Vec::new(), 0);
    assert!(matches!(judge.judge(&said[0], time - 11 * MINUTE), Verdict::New(_)));
    // The same for unverified ones.
    let mut judge = Judge::new(Policy { keys: Vec::new(), ..policy }, Vec::new(), 0);
    assert!(matches!(judge.judge(&said[0], time - 11 * MINUTE), Verdict::Ignored(Ignored::Ahead(_))));
    assert_eq!((judge.counters().ahead, judge.counters().unchecked), (0, 1));
}

#[test]
fn a_server_that_was_followed_is_followed_over_its_restarts() {
    let (policy, said) =
        (Policy { keys: vec![public(0)], ..Policy::default() }, |epoch| said(0, epoch, 60, 1));
    // Followed because it started after us, and because we remember it.
    let mut judge = Judge::new(policy.clone(), Vec::new(), 400);
    hears(&mut judge, &said(300)[10..], "new");
    hears(&mut judge, &said(400)[1..], "new");
    hears(&mut judge, &said(401)[59..], "new");
    assert_eq!(judge.counters().missing, 1 + 59);
    assert!(!judge.finish().is_empty());
    let mut again = Judge::new(policy, judge.memory(), 1000);
    hears(&mut again, &said(900)[20..], "new");
    assert_eq!(again.counters().missing, 20);
}

#[test]
fn a_huge_number_that_is_signed_costs_nothing() {
    let sign = |sequence| {
        let (key_id, statuses) = (public(0).id(), statuses(0, 1));
        let batch =
            Batch { kind: Kind::SEEN, key_id, epoch: 5, first_sequence: sequence, statuses: &statuses };
        encode_batch(&batch, |message| signer(0).sign(message))
    };
    let mut judge = believing(&[0]);
    hears(&mut judge, &sign(1), "new");
    hears(&mut judge, &sign(u64::MAX), "new");
    hears(&mut judge, &sign(u64::MAX - 1), "new");
    hears(&mut judge, &sign(2), "replayed");
    assert_eq!(judge.finish(), [Gap { key: public(0), missing: u64::MAX - 3 }]);
    let mut other = Announcer::new(signer(0), 6);
    hears(&mut judge, &other.announce(&statuses(0, 1)), "new");
    assert_eq!(judge.counters().missing, u64::MAX - 3);
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
fn a_gap_that_was_not_reported_before_a_crash_is_reported_after_it() {
    let said = said(0, 5, 30, 1);
    let mut judge = believing(&[0]);
    hears(&mut judge, &said[..9], "new");
    hears(&mut judge, &said[19..20], "new");
    let policy = Policy { keys: vec![public(0)], ..Policy::default() };
    let mut again = Judge::new(policy.clone(), judge.memory(), HOUR);
    hears(&mut again, &said[9..10], "new");
    assert_eq!(again.finish(), [Gap { key: public(0), missing: 9 }]);
    // And once is enough.
    assert!(again.has_changed());
    let mut third = Judge::new(policy, again.memory(), HOUR);
    assert_eq!((third.finish(), third.counters().missing), (vec![], 0));
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
fn old_news_is_refused() {
    let said = said(0, 5, 3, 1);
    let mut policy =
        Policy { keys: vec![public(0)], max_age: Some(Duration::from_secs(60)), ..Policy::default() };
    let mut judge = Judge::new(policy.clone(), Vec::new(), 0);
    // The first was seen at hour 10.
    for (datagram, now_ns) in said.iter().zip([10 * HOUR - 1, 10 * HOUR, 10 * HOUR + 60_000_000_001]) {
        assert!(matches!(judge.judge(datagram, now_ns), Verdict::New(_)), "{now_ns}");
    }
    let mut judge = Judge::new(policy.clone(), Vec::new(), 0);
    hears(&mut judge, &said[..1], "new");
    assert!(matches!(judge.judge(&said[1], 11 * HOUR), Verdict::Ignored(Ignored::TooOld)));
    // It has been heard all the same.
    hears(&mut judge, &said[1..2], "duplicate");
    assert_eq!((judge.counters().too_old, judge.counters().new), (1, 1));
    policy.keys.clear();
    let mut judge = Judge::new(policy, Vec::new(), 0);
    assert!(matches!(judge.judge(&said[0], 11 * HOUR), Verdict::Ignored(Ignored::TooOld)));
    assert!(matches!(judge.judge(&said[0], 10 * HOUR), Verdict::Unverified(_, Doubt::Unchecked)));
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
