//! Refusals in the log: so many a second, and how many more there were. Any user of this host can be refused as often
//! as it likes, and must not fill the disk with it.

use std::fmt::Arguments;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const WINDOW: Duration = Duration::from_secs(1);
const MAX_LINES: u32 = 100;

static TOLD: Mutex<Told> = Mutex::new(Told { since: None, lines: 0, skipped: 0 });

struct Told {
    /// When the present window began.
    since: Option<Instant>,
    lines: u32,
    skipped: u64,
}

pub fn tell(line: Arguments<'_>) {
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    if told.since.is_none_or(|since| since.elapsed() >= WINDOW) {
        if told.skipped > 0 {
            log::info!("{} more refusals were not logged", told.skipped);
        }
        *told = Told { since: Some(Instant::now()), lines: 0, skipped: 0 };
    }
    if told.lines < MAX_LINES {
        told.lines += 1;
        log::info!("{line}");
    } else {
        told.skipped += 1;
    }
}
