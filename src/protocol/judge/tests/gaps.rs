//! Numbers that are missing: which of them are reported, and when.

use super::*;

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
