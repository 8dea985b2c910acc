//! Says in the log when something starts to fail and when it works again, and nothing in between.

use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};

/// One thing that can fail over and over: a destination, the database.
pub struct Outage {
    what: String,
    /// Failures in a row; 0 while it works.
    failures: AtomicU64,
}

impl Outage {
    pub fn of(what: impl Into<String>) -> Self {
        Self { what: what.into(), failures: AtomicU64::new(0) }
    }

    pub fn failed(&self, error: &dyn Display) {
        if self.failures.fetch_add(1, Ordering::Relaxed) == 0 {
            log::warn!("{} fails: {error}; this is not repeated until it works again", self.what);
        }
    }

    pub fn worked(&self) {
        // The load keeps the usual case free of a write that every thread would share.
        if self.failures.load(Ordering::Relaxed) != 0 {
            let failures = self.failures.swap(0, Ordering::Relaxed);
            if failures != 0 {
                log::info!("{} works again after {failures} failures", self.what);
            }
        }
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
}
