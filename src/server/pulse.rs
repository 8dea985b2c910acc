//! Does the database take what is written? `/readyz` and the metrics read it here, and write nothing themselves.
//!
//! The clock of this server is written each second ([`super::hearing`]), and waits for all that a heartbeat waits for. So
//! within 3 s of the last commit that was possible this says no, and why.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::store::{self, Store};

/// A write that takes longer has not succeeded.
const PATIENCE: Duration = Duration::from_secs(2);

/// The last writes.
pub struct Pulse(Mutex<Last>);

struct Last {
    /// The one that is under way.
    began: Option<Instant>,
    lacks: Option<Lack>,
}

/// A reason, without anything of the database's own words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    Away,
    Unreachable,
    Untrusted,
    NoPrimary,
    Slow,
    Standby,
    ReadOnly,
    Rights,
    Superseded,
    Refused,
}

/// Nothing was written yet.
impl Default for Pulse {
    fn default() -> Self {
        Self(Mutex::new(Last { began: None, lacks: Some(Lack::Away) }))
    }
}

impl Pulse {
    pub fn begins(&self) {
        self.last().began = Some(Instant::now());
    }

    pub fn ends(&self, lacks: Option<Lack>) {
        *self.last() = Last { began: None, lacks };
    }

    /// The reason why nothing can be recorded, if it cannot.
    pub fn lacks(&self, store: &Store) -> Option<Lack> {
        let last = self.last();
        let is_late = last.began.is_some_and(|began| began.elapsed() > PATIENCE);
        let lacks = last.lacks.or(is_late.then_some(Lack::Slow));
        lacks.map(|lack| match lack {
            Lack::Away | Lack::Slow if store.waits_for_standby() => Lack::Standby,
            lack => lack,
        })
    }

    fn last(&self) -> MutexGuard<'_, Last> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lack {
    pub fn of(error: &store::Error) -> Self {
        match error {
            store::Error::CannotRecord(_) if !error.is_read_only() => Lack::Rights,
            store::Error::Refused(_) => Lack::Refused,
            store::Error::NoPrimary => Lack::NoPrimary,
            _ if error.is_read_only() => Lack::ReadOnly,
            _ if error.is_late() => Lack::Slow,
            _ if error.is_untrusted() => Lack::Untrusted,
            _ if error.is_unreachable() => Lack::Unreachable,
            _ => Lack::Away,
        }
    }

    pub fn text(self) -> &'static str {
        match self {
            Lack::Away => "the database is unreachable or too slow",
            Lack::Unreachable => "the database is unreachable: there is no connection to it",
            Lack::Untrusted => {
                "the database is unreachable: TLS with it fails, as with a certificate that does not verify"
            }
            Lack::NoPrimary => "the database is unreachable: no primary is behind its address",
            Lack::Slow => "the database is too slow: it did not answer in time",
            Lack::Standby => "the database is too slow: a commit waits for the synchronous standby",
            Lack::ReadOnly => "the database takes no writes: it is read-only, or a standby",
            Lack::Rights => {
                "the database does not take heartbeats: the server's role lacks rights of deploy/grants.sql"
            }
            Lack::Refused => "the database does not let the server's role in",
            Lack::Superseded => "a newer server has the name of this one, which records nothing more",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_does_not_come_back_is_none() {
        let store = Store::open("postgres:///none?host=/nowhere", PATIENCE).unwrap();
        let pulse = Pulse::default();
        assert_eq!(pulse.lacks(&store), Some(Lack::Away));
        pulse.begins();
        pulse.ends(None);
        assert_eq!(pulse.lacks(&store), None);
        pulse.begins();
        assert_eq!(pulse.lacks(&store), None);
        pulse.last().began = Instant::now().checked_sub(PATIENCE);
        assert_eq!(pulse.lacks(&store), Some(Lack::Slow));
        pulse.ends(Some(Lack::ReadOnly));
        pulse.begins();
        assert_eq!(pulse.lacks(&store), Some(Lack::ReadOnly), "until a write has succeeded");
    }
}
