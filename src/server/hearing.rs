//! The clock of this server: it counts the time in which a heartbeat would have been heard, and no other.
//!
//! Time counts once something was heard after it: a record in the database and, where there is a canary, a heartbeat of
//! that client of our own, which goes through the real nginx. So nobody is called late for a silence of ours, however
//! short their interval is. Readers compare the readings (`store::presence`).

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_std::task;

use super::pulse::{Lack, Pulse};
use crate::cli::{Timespan, now_ns};
use crate::http::outage::Outage;
use crate::protocol::keys::PublicKey;
use crate::protocol::status::Email;
use crate::store::presence::LONGEST_EVERY;
use crate::store::{self, Store};

/// Between two readings.
const TICK: Duration = Duration::from_secs(1);
/// A longer step counts nothing: the canary beats every 2 s, and a process that was stopped heard nobody. Somebody who beats
/// every second is late after 3.1 s.
const LONGEST_STEP: Duration = Duration::from_secs(3);
/// Without hearing for this long, hearing begins again.
const DEAF_AFTER: Duration = Duration::from_secs(5);
/// A canary that was started after the server is waited for in silence.
const START: Duration = Duration::from_secs(30);
/// A clock of this host that is this far off the database's is wrong.
const BROKEN: Duration = Duration::from_secs(60);
/// Between two looks for a server with the same key.
const LOOK: Duration = Duration::from_secs(10);
/// Between two counts of the people.
const COUNT: Duration = Duration::from_secs(60);

/// A clock's two readings in milliseconds, and for how long nothing counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Reading {
    heard_ms: u64,
    resumed_ms: u64,
    deaf: Duration,
}

impl Reading {
    /// So much time has passed since the last step, by the monotonic clock; did anything of it count?
    fn step(&mut self, passed: Duration, hears: bool) {
        if !hears || passed > LONGEST_STEP {
            self.deaf += passed;
            return;
        }
        if passed.is_zero() {
            return;
        }
        if self.deaf >= DEAF_AFTER {
            self.resumed_ms = self.heard_ms;
        }
        self.deaf = Duration::ZERO;
        self.heard_ms += passed.as_millis() as u64;
    }
}

/// The clock, as requests and the committer use it.
pub struct Hearing {
    /// Of this server, in the table `servers`.
    name: String,
    canary: Option<Email>,
    /// That signs its announcements.
    key: Option<PublicKey>,
    /// 0 until the clock goes.
    epoch: AtomicI64,
    /// The last reading, and when that was, in milliseconds since the start.
    heard_ms: AtomicU64,
    stepped_ms: AtomicU64,
    start: Instant,
    /// Did the database take the last thing that it was handed?
    records: AtomicBool,
    /// Did it take the clock?
    pulse: Pulse,
    accepts: Arc<AtomicBool>,
    canary_seen: Mutex<Instant>,
    /// Heartbeats a second that all clients together may send, if that is limited.
    max_rate: Option<f64>,
    /// 0: clients are asked for nothing.
    reannounce_after_s: AtomicU32,
}

impl Hearing {
    /// `accepts` says whether connections are accepted.
    pub fn new(
        name: String,
        canary: Option<Email>,
        key: Option<PublicKey>,
        max_rate: Option<f64>,
        accepts: Arc<AtomicBool>,
    ) -> Self {
        let start = Instant::now();
        Self {
            name,
            canary,
            key,
            epoch: AtomicI64::new(0),
            heard_ms: AtomicU64::new(0),
            stepped_ms: AtomicU64::new(0),
            start,
            records: AtomicBool::new(true),
            pulse: Pulse::default(),
            accepts,
            canary_seen: Mutex::new(start),
            max_rate,
            reannounce_after_s: AtomicU32::new(0),
        }
    }

    /// The reading now, as it is if this moment counts. `None`: the clock does not go yet, so that nothing can be
    /// recorded.
    pub fn reading(&self) -> Option<u64> {
        if self.epoch.load(Ordering::Acquire) == 0 {
            return None;
        }
        let since = self.start_ms(Instant::now()).saturating_sub(self.stepped_ms.load(Ordering::Relaxed));
        Some(self.heard_ms.load(Ordering::Relaxed) + since.min(LONGEST_STEP.as_millis() as u64))
    }

    /// The database has taken heartbeats, or has not.
    pub fn recorded(&self, done: bool) {
        self.records.store(done, Ordering::Relaxed);
    }

    /// How the last writes of the clock went.
    pub fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    /// Seconds after which each client is asked to beat again, so that all together keep the rate.
    pub fn reannounce_after(&self) -> Option<u32> {
        Some(self.reannounce_after_s.load(Ordering::Relaxed)).filter(|seconds| *seconds > 0)
    }

    /// Nobody is told of the canary.
    pub fn is_canary(&self, email: &Email) -> bool {
        self.canary.as_ref() == Some(email)
    }

    /// Is it the canary's heartbeat that was recorded? Then it was heard.
    pub fn hears_canary(&self, email: &Email) -> bool {
        let is_canary = self.is_canary(email);
        if is_canary {
            *self.canary_seen.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
        is_canary
    }

    /// Takes the next epoch, unless another server signs with the same key. Afterwards [`Hearing::run`] moves the clock.
    pub async fn start(&self, store: &Store) -> Result<(), store::Error> {
        self.has_a_key_of_its_own(store).await?;
        let (epoch, heard_ms) = store.start_clock(&self.name, self.heard_ms.load(Ordering::Relaxed)).await?;
        self.heard_ms.store(heard_ms, Ordering::Relaxed);
        self.stepped_ms.store(self.start_ms(Instant::now()), Ordering::Relaxed);
        store.tell_key(&self.name, self.key.as_ref().map(PublicKey::as_bytes)).await?;
        self.epoch.store(epoch, Ordering::Release);
        self.pulse.ends(None);
        Ok(())
    }

    /// Of two servers with one key listeners believe the one that was started last.
    async fn has_a_key_of_its_own(&self, store: &Store) -> Result<(), store::Error> {
        let Some(key) = &self.key else { return Ok(()) };
        match store.other_with_key(&self.name, key.as_bytes()).await? {
            None => Ok(()),
            Some(other) => Err(store::Error::SameKey(other)),
        }
    }

    /// Moves the clock for ever, or until a newer process of the name has taken it: then nothing can be recorded here,
    /// since nobody would compare its readings.
    pub async fn run(&self, store: &Store) {
        let outage = Outage::of("telling the clock of this server");
        let clock = Outage::of("the clock of this host");
        let their_clock = Outage::of("the clock of the database");
        let key = Outage::of("signing announcements");
        let mut looked = Instant::now();
        let begun = || {
            let heard_ms = self.heard_ms.load(Ordering::Relaxed);
            Reading { heard_ms, resumed_ms: heard_ms, deaf: Duration::ZERO }
        };
        let mut reading = begun();
        let (mut stepped, mut said) = (Instant::now(), true);
        let mut counted: Option<Instant> = None;
        loop {
            if let Some(rate) = self.max_rate
                && counted.is_none_or(|at| at.elapsed() >= COUNT)
            {
                counted = Some(Instant::now());
                // A database that does not answer is told of below.
                if let Ok(people) = store.count_enabled().await {
                    self.reannounce_after_s.store(reannounce_after(people, rate), Ordering::Relaxed);
                }
            }
            task::sleep(TICK).await;
            let now = Instant::now();
            let seen = *self.canary_seen.lock().unwrap_or_else(PoisonError::into_inner);
            let hears = self.records.load(Ordering::Relaxed) && self.accepts.load(Ordering::Relaxed);
            let until = if hears && self.canary.is_some() { seen.max(stepped) } else { now };
            reading.step(until - stepped, hears);
            stepped = until;
            self.heard_ms.store(reading.heard_ms, Ordering::Relaxed);
            self.stepped_ms.store(self.start_ms(stepped), Ordering::Relaxed);
            match (now - stepped + reading.deaf >= DEAF_AFTER, said) {
                (true, true) if self.start.elapsed() > START => {
                    log::warn!("everybody is unknown: {}", self.deafness());
                    said = false;
                }
                (false, false) => {
                    log::info!("could hear again");
                    said = true;
                }
                _ => {}
            }
            self.pulse.begins();
            let told = async {
                // A right that was taken away would show at a heartbeat only.
                store.may_record().await?;
                let epoch = self.epoch.load(Ordering::Acquire);
                if store.tell_clock(&self.name, epoch, reading.heard_ms, reading.resumed_ms).await? {
                    return Ok::<_, store::Error>(true);
                }
                if store.is_superseded(&self.name, epoch).await? {
                    return Ok(false);
                }
                log::warn!(
                    "the clock of {} was lost or set back, as by a restored dump; it begins again",
                    self.name
                );
                self.start(store).await?;
                reading = begun();
                stepped = Instant::now();
                Ok(true)
            };
            match told.await {
                Ok(true) => {
                    outage.worked();
                    self.pulse.ends(None);
                    self.recorded(true);
                    match apart(now_ns(), store.time().now_ns()) {
                        None => clock.worked(),
                        Some(apart) => clock.failed(&apart),
                    }
                    match store.time().step() {
                        None => their_clock.worked(),
                        Some(step) => their_clock.failed(&step),
                    }
                    // Both may have been started at once.
                    if looked.elapsed() >= LOOK {
                        looked = Instant::now();
                        match self.has_a_key_of_its_own(store).await {
                            Err(same @ store::Error::SameKey(_)) => key.failed(&same),
                            _ => key.worked(),
                        }
                    }
                }
                Ok(false) => {
                    self.epoch.store(0, Ordering::Release);
                    self.pulse.ends(Some(Lack::Superseded));
                    log::error!(
                        "a newer server has the name {0}: this one records nothing more; end it, or give it a \
                         ROLLCALL_NAME of its own",
                        self.name
                    );
                    return;
                }
                Err(error) => {
                    outage.failed(&error);
                    self.pulse.ends(Some(Lack::of(&error)));
                    self.recorded(false);
                }
            }
        }
    }

    fn deafness(&self) -> &'static str {
        if !self.records.load(Ordering::Relaxed) {
            "the database takes nothing"
        } else if !self.accepts.load(Ordering::Relaxed) {
            "connections are not accepted"
        } else {
            "the canary is silent; does nginx answer?"
        }
    }

    fn start_ms(&self, moment: Instant) -> u64 {
        moment.duration_since(self.start).as_millis() as u64
    }
}

/// How the clock of this host is wrong, if it is.
fn apart(ours_ns: u64, theirs_ns: u64) -> Option<String> {
    let apart = Duration::from_secs(Duration::from_nanos(ours_ns.abs_diff(theirs_ns)).as_secs());
    let which = if ours_ns > theirs_ns { "ahead of" } else { "behind" };
    (apart >= BROKEN).then(|| format!("it is {} {which} the database's, which counts", Timespan(apart)))
}

/// Seconds after which so many people may all beat again at this rate.
fn reannounce_after(people: u64, rate: f64) -> u32 {
    (people as f64 / rate).ceil().clamp(1.0, LONGEST_EVERY.into()) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn people_share_the_rate() {
        for (people, rate, seconds) in [
            (0, 1.0, 1),
            (1, 1000.0, 1),
            (30, 1.0, 30),
            (31, 10.0, 4),
            (3, 0.1, 30),
            (100_000, 0.001, 86_400),
            (u64::MAX, f64::MIN_POSITIVE, 86_400),
        ] {
            assert_eq!(reannounce_after(people, rate), seconds, "{people} at {rate}");
        }
    }

    #[test]
    fn the_clock_counts_what_was_heard() {
        let mut reading = Reading { heard_ms: 1000, resumed_ms: 1000, deaf: Duration::ZERO };
        reading.step(SECOND, true);
        assert_eq!((reading.heard_ms, reading.resumed_ms), (2000, 1000));
        // Deaf for a moment: nothing is counted, and hearing does not begin again.
        reading.step(SECOND * 3, false);
        reading.step(SECOND, true);
        assert_eq!((reading.heard_ms, reading.resumed_ms), (3000, 1000));
        // For longer.
        for _ in 0..5 {
            reading.step(SECOND, false);
        }
        assert_eq!(reading.heard_ms, 3000);
        reading.step(SECOND, true);
        assert_eq!((reading.heard_ms, reading.resumed_ms), (4000, 3000));
        // The canary is silent for a minute, or the process was stopped (SIGSTOP, a suspended machine).
        reading.step(Duration::ZERO, true);
        reading.step(SECOND * 60, true);
        reading.step(Duration::ZERO, true);
        assert_eq!((reading.heard_ms, reading.deaf), (4000, SECOND * 60));
        reading.step(SECOND * 2, true);
        assert_eq!((reading.heard_ms, reading.resumed_ms), (6000, 4000));
        assert_eq!(reading.deaf, Duration::ZERO);
    }
}
