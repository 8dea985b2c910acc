//! The time of the database, as this process knows it between two answers: a monotonic clock, and its distance to the
//! database's.
//!
//! The time of a sighting is the database's, so that the clocks of two servers cannot disagree about who came last. A
//! server that asked the database for it would know the time only with the answer; but it signs an announcement while the
//! commit is under way, so it must know the time before. So it says the time that it estimates, and its estimate of now;
//! the statement takes the first as it is while the second is right to a second, and moves it otherwise.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Instant, SystemTime};

pub struct DatabaseTime {
    start: Instant,
    /// The database's time at the start, in nanoseconds since the Unix epoch.
    origin_ns: AtomicI64,
}

impl Default for DatabaseTime {
    /// Until the database has said its time, that of this host stands in for it.
    fn default() -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { start: Instant::now(), origin_ns: AtomicI64::new(ns(now.as_nanos())) }
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
        let _ = self.origin_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within);
    }
}

fn ns(ns: u128) -> i64 {
    i64::try_from(ns).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

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
        // A commit that took a second agrees with that.
        time.learn(after(20), after(1020), 1000 * SECOND + 500 * MS);
        assert_eq!(time.at(after(12)), first);
        // Its clock was set back.
        time.learn(after(2000), after(2000), 500 * SECOND);
        assert_eq!(time.at(after(2000)), 500 * SECOND);
        for far in [0, u64::MAX] {
            time.learn(after(3000), after(3000), far);
            assert!(time.at(after(3000)).abs_diff(far.min(i64::MAX as u64)) <= 3 * SECOND);
        }
    }
}
