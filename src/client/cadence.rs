//! How often a client beats: as it was told, or as the server asks it to.

use std::str::FromStr;
use std::time::Duration;

use crate::cli::Timespan;

/// The interval of `auto`, unless the server asks for a longer one.
const AUTO: Duration = Duration::from_secs(30);
/// Seconds that a server is told, or may ask for: up to a day.
const LONGEST: u64 = 86_400;

/// The flag `--every`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Every {
    Auto,
    Fixed(Duration),
}

impl FromStr for Every {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text.parse() {
            Ok(Timespan(every)) => Ok(Every::Fixed(every)),
            Err(_) if text == "auto" => Ok(Every::Auto),
            Err(_) => Err("the form is auto, 30s, 5m or 1h"),
        }
    }
}

/// The interval, and the one that it becomes.
pub struct Cadence {
    every: Duration,
    /// A longer one is said before it is used: a server that did not know of it would call us late.
    next: Duration,
    obeys: bool,
}

impl Cadence {
    pub fn new(every: Every) -> Self {
        let (every, obeys) = match every {
            Every::Auto => (AUTO, true),
            Every::Fixed(every) => (every, false),
        };
        Self { every, next: every, obeys }
    }

    /// Between two heartbeats.
    pub fn every(&self) -> Duration {
        self.every
    }

    /// To be said with the next heartbeat: whole seconds, rounded up. A server takes none outside its range.
    pub fn to_say(&self) -> Option<u64> {
        let seconds = self.next.as_secs() + u64::from(self.next.subsec_nanos() > 0);
        (1..=LONGEST).contains(&seconds).then_some(seconds)
    }

    /// A heartbeat was accepted, and the server asks for this many seconds. Returns the wait for the next one.
    pub fn accepted(&mut self, asked: Option<u64>) -> Duration {
        self.every = self.next;
        if self.obeys {
            let asked = asked.filter(|seconds| (1..=LONGEST).contains(seconds));
            self.next = asked.map_or(AUTO, |seconds| Duration::from_secs(seconds).max(AUTO));
            self.every = self.every.min(self.next);
        }
        self.every
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn an_interval_is_auto_or_a_timespan() {
        assert_eq!("auto".parse(), Ok(Every::Auto));
        assert_eq!("30s".parse(), Ok(Every::Fixed(seconds(30))));
        for text in ["", "Auto", "auto ", "30", "-1s"] {
            assert_eq!(text.parse::<Every>(), Err("the form is auto, 30s, 5m or 1h"), "{text:?}");
        }
    }

    #[test]
    fn whole_seconds_are_said_within_the_range() {
        for (every, said) in [
            (Duration::from_millis(50), Some(1)),
            (seconds(1), Some(1)),
            (Duration::from_nanos(1_000_000_001), Some(2)),
            (seconds(30), Some(30)),
            (seconds(86_400), Some(86_400)),
            (Duration::from_millis(86_400_001), None),
            (seconds(366 * 86_400), None),
        ] {
            assert_eq!(Cadence::new(Every::Fixed(every)).to_say(), said, "{every:?}");
        }
    }

    #[test]
    fn a_longer_interval_is_said_before_it_is_used_and_a_shorter_one_is_used_at_once() {
        let mut cadence = Cadence::new(Every::Auto);
        assert_eq!((cadence.to_say(), cadence.every()), (Some(30), seconds(30)));
        assert_eq!((cadence.accepted(Some(300)), cadence.to_say()), (seconds(30), Some(300)));
        assert_eq!((cadence.accepted(Some(300)), cadence.to_say()), (seconds(300), Some(300)));
        assert_eq!((cadence.accepted(Some(120)), cadence.to_say()), (seconds(120), Some(120)));
        // Not more often than without a word of the server, and as without one if there is no sense in it.
        for nothing in [Some(1), Some(0), Some(86_401), Some(u64::MAX), None] {
            cadence.accepted(Some(120));
            cadence.accepted(Some(120));
            assert_eq!((cadence.accepted(nothing), cadence.to_say()), (seconds(30), Some(30)), "{nothing:?}");
        }
    }

    #[test]
    fn a_fixed_interval_stays() {
        let mut cadence = Cadence::new(Every::Fixed(seconds(10)));
        assert_eq!((cadence.accepted(Some(300)), cadence.to_say()), (seconds(10), Some(10)));
    }
}
