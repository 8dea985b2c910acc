//! The clock of this server: it counts the time in which a heartbeat would have been heard, and no other.
//!
//! It stands still while the database takes nothing, while connections are not accepted, and while the canary, a client of
//! our own that goes through the real nginx, is silent. Readers compare its readings (`store::presence`).

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_std::task;

use crate::http::outage::Outage;
use crate::protocol::status::Email;
use crate::store::{self, Store};

/// Between two readings.
const TICK: Duration = Duration::from_secs(1);
/// A tick counts for no more than this: a process that was stopped heard nothing.
const LONGEST_TICK: Duration = Duration::from_secs(2);
/// Without hearing for this long, hearing begins again.
const DEAF_AFTER: Duration = Duration::from_secs(5);
/// The canary beats every 10 s.
const CANARY: Duration = Duration::from_secs(25);

/// A clock's two readings in milliseconds, and how long it has stood still.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Reading {
    heard_ms: u64,
    resumed_ms: u64,
    deaf: Duration,
}

impl Reading {
    /// So much time has passed, by the monotonic clock.
    fn tick(&mut self, passed: Duration, hears: bool) {
        let counted = if hears { passed.min(LONGEST_TICK) } else { Duration::ZERO };
        self.deaf += passed - counted;
        if !hears {
            return;
        }
        if self.deaf >= DEAF_AFTER {
            self.resumed_ms = self.heard_ms;
        }
        self.deaf = Duration::ZERO;
        self.heard_ms += counted.as_millis() as u64;
    }
}

/// The clock, as requests and the committer use it.
pub struct Hearing {
    /// Of this server, in the table `servers`.
    pub name: String,
    /// The person whose heartbeats tell that nginx works. Nobody else is told of them.
    pub canary: Option<Email>,
    heard_ms: AtomicU64,
    /// 0 until the clock goes.
    epoch: AtomicI64,
    /// Did the database take the last thing that it was handed?
    records: AtomicBool,
    accepts: Arc<AtomicBool>,
    canary_seen: Mutex<Option<Instant>>,
}

impl Hearing {
    /// `accepts` says whether connections are accepted.
    pub fn new(name: String, canary: Option<Email>, accepts: Arc<AtomicBool>) -> Self {
        Self {
            name,
            canary,
            heard_ms: AtomicU64::new(0),
            epoch: AtomicI64::new(0),
            records: AtomicBool::new(true),
            accepts,
            canary_seen: Mutex::new(None),
        }
    }

    /// `None`: it does not go yet, so that nothing can be recorded.
    pub fn reading(&self) -> Option<u64> {
        (self.epoch.load(Ordering::Acquire) != 0).then(|| self.heard_ms.load(Ordering::Relaxed))
    }

    /// The database has taken heartbeats, or has not.
    pub fn recorded(&self, done: bool) {
        self.records.store(done, Ordering::Relaxed);
    }

    pub fn is_canary(&self, email: &Email) -> bool {
        self.canary.as_ref() == Some(email)
    }

    pub fn canary_beat(&self) {
        *self.canary_seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Takes the next epoch. Afterwards [`Hearing::run`] moves the clock.
    pub async fn start(&self, store: &Store) -> Result<(), store::Error> {
        let (epoch, heard_ms) = store.start_clock(&self.name).await?;
        self.heard_ms.store(heard_ms, Ordering::Relaxed);
        self.epoch.store(epoch, Ordering::Release);
        Ok(())
    }

    /// Moves the clock for ever, or until another process of the name has taken it.
    pub async fn run(&self, store: &Store) {
        let outage = Outage::of("telling the clock of this server");
        let epoch = self.epoch.load(Ordering::Acquire);
        let heard_ms = self.heard_ms.load(Ordering::Relaxed);
        let mut reading = Reading { heard_ms, resumed_ms: heard_ms, deaf: Duration::ZERO };
        let mut last = Instant::now();
        let mut said = true;
        loop {
            task::sleep(TICK).await;
            let now = Instant::now();
            let deaf_for = self.deafness();
            reading.tick(now - last, deaf_for.is_none());
            last = now;
            self.heard_ms.store(reading.heard_ms, Ordering::Relaxed);
            match (deaf_for, said) {
                (Some(why), true) => log::warn!("nobody is called late or offline: {why}"),
                (None, false) => log::info!("hears again"),
                _ => {}
            }
            said = deaf_for.is_none();
            match store.tell_clock(&self.name, epoch, reading.heard_ms, reading.resumed_ms).await {
                Ok(true) => {
                    outage.worked();
                    self.recorded(true);
                }
                Ok(false) => {
                    log::warn!("another process has the clock of {}; this one moves it no more", self.name);
                    return;
                }
                Err(error) => {
                    outage.failed(&error);
                    self.recorded(false);
                }
            }
        }
    }

    /// The reason why a heartbeat would not be heard.
    fn deafness(&self) -> Option<&'static str> {
        let seen = *self.canary_seen.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.records.load(Ordering::Relaxed) {
            Some("the database takes nothing")
        } else if !self.accepts.load(Ordering::Relaxed) {
            Some("connections are not accepted")
        } else if self.canary.is_some() && seen.is_none_or(|seen| seen.elapsed() > CANARY) {
            Some("the canary is silent; does nginx answer?")
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_clock_counts_what_could_be_heard() {
        let mut reading = Reading { heard_ms: 1000, resumed_ms: 1000, deaf: Duration::ZERO };
        reading.tick(SECOND, true);
        assert_eq!((reading.heard_ms, reading.resumed_ms), (2000, 1000));
        // Deaf for a moment: nothing is counted, and hearing does not begin again.
        reading.tick(SECOND * 3, false);
        reading.tick(SECOND, true);
        assert_eq!((reading.heard_ms, reading.resumed_ms), (3000, 1000));
        // For longer.
        for _ in 0..5 {
            reading.tick(SECOND, false);
        }
        assert_eq!(reading.heard_ms, 3000);
        reading.tick(SECOND, true);
        assert_eq!((reading.heard_ms, reading.resumed_ms), (4000, 3000));
        // The process was stopped for a minute (SIGSTOP, a suspended machine).
        reading.tick(SECOND * 61, true);
        assert_eq!((reading.heard_ms, reading.resumed_ms), (6000, 4000));
        assert_eq!(reading.deaf, Duration::ZERO);
    }
}
