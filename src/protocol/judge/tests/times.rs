//! Epochs and clocks: old news, replays, and times to come.

use super::*;

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
