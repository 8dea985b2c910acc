//! Says in the log when something starts to fail and when it works again, and nothing in between.
//!
//! What fails and works in turns, such as a full send buffer, is told once in a while.

use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// An outage that starts sooner after the last one that was told is told only if it goes on.
const QUIET: Duration = Duration::from_secs(10);

/// One thing that can fail over and over: a destination, the database.
pub struct Outage {
    what: String,
    /// Since it was last said that it works.
    failures: AtomicU64,
    told: Mutex<Told>,
}

/// What the log knows.
#[derive(Default)]
struct Told {
    fails: bool,
    since: Option<Instant>,
}

impl Outage {
    pub fn of(what: impl Into<String>) -> Self {
        Self { what: what.into(), failures: AtomicU64::new(0), told: Mutex::default() }
    }

    pub fn failed(&self, error: &dyn Display) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        let mut told = self.told();
        if !told.fails && told.since.is_none_or(|since| since.elapsed() >= QUIET) {
            *told = Told { fails: true, since: Some(Instant::now()) };
            log::warn!("{} fails: {error}; this is not repeated until it works again", self.what);
        }
    }

    pub fn worked(&self) {
        // Where nothing failed since it was told, a load is all that it costs.
        if self.failures.load(Ordering::Relaxed) != 0 {
            let mut told = self.told();
            if told.fails {
                told.fails = false;
                let failures = self.failures.swap(0, Ordering::Relaxed);
                log::info!("{} works again after {failures} failures", self.what);
            }
        }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    #[cfg(test)]
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_until_it_works() {
        let outage = Outage::of("the test");
        outage.worked();
        assert_eq!(outage.failures(), 0);
        outage.failed(&"no route");
        outage.failed(&"no route");
        assert_eq!(outage.failures(), 2);
        outage.worked();
        assert_eq!(outage.failures(), 0);
    }

    #[test]
    fn what_fails_in_turns_is_not_told_each_time() {
        let outage = Outage::of("the test");
        for _ in 0..3 {
            outage.failed(&"no buffer space");
            outage.worked();
        }
        assert_eq!(outage.failures(), 2, "since the one time that it was told");
        outage.told().since = Instant::now().checked_sub(QUIET);
        outage.failed(&"no buffer space");
        outage.worked();
        assert_eq!(outage.failures(), 0);
    }
}
