//! Says in the log when something starts to fail and when it works again, and nothing in between.
//!
//! A full send buffer, say, fails and works in turns; the log names that once in a while.

use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// An outage that starts sooner after the last one in the log is logged only if it goes on.
const QUIET: Duration = Duration::from_secs(10);

/// One thing that can fail over and over: a destination, the database.
pub struct Outage {
    name: String,
    /// Since it was last said that it works.
    failures: AtomicU64,
    reported: Mutex<Reported>,
}

/// The state that the log has.
#[derive(Default)]
struct Reported {
    fails: bool,
    since: Option<Instant>,
}

impl Outage {
    pub fn of(name: impl Into<String>) -> Self {
        Self { name: name.into(), failures: AtomicU64::new(0), reported: Mutex::default() }
    }

    pub fn failed(&self, error: &dyn Display) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        let mut reported = self.reported();
        if !reported.fails && reported.since.is_none_or(|since| since.elapsed() >= QUIET) {
            *reported = Reported { fails: true, since: Some(Instant::now()) };
            log::warn!("{} fails: {error}; this is not repeated until it works again", self.name);
        }
    }

    pub fn worked(&self) {
        // Where nothing failed since the last line, a load is all that it costs.
        if self.failures.load(Ordering::Relaxed) != 0 {
            let mut reported = self.reported();
            if reported.fails {
                reported.fails = false;
                let failures = self.failures.swap(0, Ordering::Relaxed);
                log::info!("{} works again after {failures} failures", self.name);
            }
        }
    }

    fn reported(&self) -> MutexGuard<'_, Reported> {
        self.reported.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
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
    fn turns_of_failure_and_success_make_one_line() {
        let outage = Outage::of("the test");
        for _ in 0..3 {
            outage.failed(&"no buffer space");
            outage.worked();
        }
        assert_eq!(outage.failures(), 2, "since the only line of the log");
        outage.reported().since = Instant::now().checked_sub(QUIET);
        outage.failed(&"no buffer space");
        outage.worked();
        assert_eq!(outage.failures(), 0);
    }
}
