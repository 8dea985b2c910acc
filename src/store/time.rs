//! The time of the database, as this process knows it between two answers: a monotonic clock, and its distance to the
//! database's.
//!
//! The time of a sighting is the database's, so that the clocks of two servers cannot disagree about who came last. A
//! server that asked the database for it would know the time only with the answer; but it signs an announcement while the
//! commit is under way, so it must know the time before. So it says the time that it estimates, and its estimate of now;
//! the statement takes the first as it is while the second is right to a second, and moves it otherwise.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// A clock that drifts stays within this between two answers, and the estimate of it in a heartbeat's statement counts.
macro_rules! step_ns {
    () => {
        1_000_000_000
    };
}
pub(super) use step_ns;

const STEP: Duration = Duration::from_nanos(step_ns!());

pub struct DatabaseTime {
    start: Instant,
    /// The database's time at the start, in nanoseconds since the Unix epoch.
    origin_ns: AtomicI64,
    /// Has the database said its time?
    is_known: AtomicBool,
    /// How far its clock stepped since somebody asked for that, in nanoseconds; 0: it did not.
    stepped_ns: AtomicI64,
}

impl Default for DatabaseTime {
    /// Until the database has said its time, that of this host stands in for it.
    fn default() -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self {
            start: Instant::now(),
            origin_ns: AtomicI64::new(ns(now.as_nanos())),
            is_known: AtomicBool::new(false),
            stepped_ns: AtomicI64::new(0),
        }
    }
}

impl DatabaseTime {
    pub fn now_ns(&self) -> u64 {
        self.at(Instant::now())
    }

    pub fn at(&self, moment: Instant) -> u64 {
        let since = ns(moment.duration_since(self.start).as_nanos());
        u64::try_from(self.origin_ns.load(Ordering::Relaxed).saturating_add(since)).unwrap_or_default()
    }

    /// The database read its clock at some time between these two moments. An estimate that agrees with that stays as it
    /// is, so that a slow answer does not spoil it.
    pub fn learn(&self, asked: Instant, answered: Instant, now_ns: u64) {
        let at_start = |moment: Instant| {
            i64::try_from(now_ns)
                .unwrap_or(i64::MAX)
                .saturating_sub(ns(moment.duration_since(self.start).as_nanos()))
        };
        let (earliest, latest) = (at_start(answered), at_start(asked));
        let width = latest.saturating_sub(earliest);
        let within = |origin: i64| {
            Some(match origin {
                // A clock that drifts leaves the interval a little, and one that stepped far.
                _ if origin < earliest.saturating_sub(width) || origin > latest.saturating_add(width) => {
                    earliest.saturating_add(width / 2)
                }
                _ => origin.clamp(earliest.min(latest), latest),
            })
        };
        let before = self.origin_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within);
        let moved = before.ok().and_then(|before| Some(within(before)?.saturating_sub(before)));
        let stepped_ns = moved.unwrap_or_default();
        // The first answer corrects the clock of this host.
        let was_known = self.is_known.swap(true, Ordering::Relaxed);
        if was_known && Duration::from_nanos(stepped_ns.unsigned_abs()) > STEP {
            self.stepped_ns.store(stepped_ns, Ordering::Relaxed);
        }
    }

    /// How the database's clock stepped since this was asked last, if it did.
    pub fn step(&self) -> Option<Step> {
        let stepped_ns = self.stepped_ns.swap(0, Ordering::Relaxed);
        (stepped_ns != 0).then_some(Step(stepped_ns))
    }
}

/// So many nanoseconds, forward or back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step(i64);

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let far = Duration::from_nanos(self.0.unsigned_abs());
        let which = if self.0 < 0 { "behind" } else { "ahead of" };
        write!(f, "it is {far:.1?} {which} where this server knew it, and counts; did it step?")
    }
}

fn ns(ns: u128) -> i64 {
    i64::try_from(ns).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_bounds_the_estimate_and_a_slow_one_does_not_spoil_it() {
        let time = DatabaseTime::default();
        let after = |ms| time.start + Duration::from_millis(ms);
        const SECOND: u64 = 1_000_000_000;
        const MS: u64 = 1_000_000;
        // The database is in another year, and says 1000 s between 10 and 12 ms after the start.
        time.learn(after(10), after(12), 1000 * SECOND);
        let first = time.at(after(12));
        assert!((1000 * SECOND..=1000 * SECOND + 2 * MS).contains(&first), "{first}");
        assert_eq!(time.step(), None, "the clock of this host is another");
        // A commit that took a second agrees with that.
        time.learn(after(20), after(1020), 1000 * SECOND + 500 * MS);
        assert_eq!((time.at(after(12)), time.step()), (first, None));
        // Its clock was set back.
        time.learn(after(7000), after(7000), 500 * SECOND);
        assert_eq!(time.at(after(7000)), 500 * SECOND);
        assert!(time.step().is_some());
        for (seconds, said) in [(505, "5.0s ahead of"), (500, "5.0s behind")] {
            time.learn(after(7000), after(7000), seconds * SECOND);
            let step = time.step().map(|step| step.to_string());
            assert_eq!(
                step,
                Some(format!("it is {said} where this server knew it, and counts; did it step?"))
            );
            assert_eq!(time.step(), None, "it is told once");
        }
        time.learn(after(7000), after(7000), 500 * SECOND + 900 * MS);
        assert_eq!(time.step(), None, "it drifts");
        for far in [0, u64::MAX] {
            time.learn(after(3000), after(3000), far);
            assert!(time.at(after(3000)).abs_diff(far.min(i64::MAX as u64)) <= 3 * SECOND);
        }
    }
}
