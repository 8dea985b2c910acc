//! Refusals in the log: so many a second, and how many more there were. Any user of this host can be refused as often
//! as it likes, and must not fill the disk with it.

use std::fmt::Arguments;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const WINDOW: Duration = Duration::from_secs(1);
const MAX_LINES: u32 = 100;

static LOGGED: Mutex<Logged> = Mutex::new(Logged { since: None, lines: 0, skipped: 0 });

struct Logged {
    /// When the present window began.
    since: Option<Instant>,
    lines: u32,
    skipped: u64,
}

pub fn log(line: Arguments<'_>) {
    let mut logged = LOGGED.lock().unwrap_or_else(PoisonError::into_inner);
    if logged.since.is_none_or(|since| since.elapsed() >= WINDOW) {
        if logged.skipped > 0 {
            log::info!("{} more refusals were not logged", logged.skipped);
        }
        *logged = Logged { since: Some(Instant::now()), lines: 0, skipped: 0 };
    }
    if logged.lines < MAX_LINES {
        logged.lines += 1;
        log::info!("{line}");
    } else {
        logged.skipped += 1;
    }
}
