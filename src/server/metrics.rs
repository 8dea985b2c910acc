//! `GET /metrics` on the server's own port: counts of heartbeats, commits and announcements, and the state of the
//! database and of the process.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use tide::StatusCode;

use super::routes::State;
use crate::files;
use crate::prometheus::histogram::Histogram;
use crate::prometheus::{Page, process};
use crate::x509;

/// Bytes of a file with certificates.
const LARGEST: u64 = 1 << 20;

/// Answers to heartbeats.
#[derive(Default)]
pub struct Heartbeats {
    recorded: AtomicU64,
    malformed: AtomicU64,
    unproven: AtomicU64,
    refused: AtomicU64,
    too_many: AtomicU64,
    unavailable: AtomicU64,
}

impl Heartbeats {
    pub fn count(&self, status: StatusCode) {
        let counter = match status {
            StatusCode::NoContent => &self.recorded,
            StatusCode::Unauthorized => &self.unproven,
            StatusCode::Forbidden => &self.refused,
            StatusCode::TooManyRequests => &self.too_many,
            StatusCode::ServiceUnavailable => &self.unavailable,
            _ => &self.malformed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn tell(&self, page: &mut Page) {
        let mut family =
            page.counter("rollcall_heartbeats_total", "Heartbeats that were answered, by result.");
        for (result, counter) in [
            ("recorded", &self.recorded),
            ("malformed", &self.malformed),
            ("unproven", &self.unproven),
            ("refused", &self.refused),
            ("too_many", &self.too_many),
            ("unavailable", &self.unavailable),
        ] {
            family.with(&[("result", result)], counter.load(Ordering::Relaxed));
        }
    }
}

/// The commits that succeeded.
pub struct Committed {
    seconds: Histogram,
    batch_size: Histogram,
}

impl Default for Committed {
    fn default() -> Self {
        let micros = [500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000];
        let sizes = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512];
        Self { seconds: Histogram::new(&micros, 1_000_000), batch_size: Histogram::new(&sizes, 1) }
    }
}

impl Committed {
    pub fn count(&self, took: Duration, requests: usize) {
        self.seconds.observe(took.as_micros() as u64);
        self.batch_size.observe(requests as u64);
    }
}

/// What is told beside the state.
pub struct About {
    started: SystemTime,
    certificates: PathBuf,
}

impl About {
    /// This process, which starts now. `certificates` is the folder of them.
    pub fn this(certificates: PathBuf) -> Self {
        Self { started: SystemTime::now(), certificates }
    }
}

pub fn text(state: &State) -> String {
    let mut page = Page::default();
    state.heartbeats.tell(&mut page);
    let committed = state.commits.committed();
    committed.seconds.write(&mut page, "rollcall_commit_seconds", "How long a commit of heartbeats took.");
    committed.batch_size.write(&mut page, "rollcall_commit_batch_size", "Heartbeats in one commit.");
    page.gauge("rollcall_waiting_requests", "Heartbeats that wait for the next commit.")
        .is(state.commits.waiting());
    let up = u8::from(state.hearing.pulse().lacks(&state.store).is_none());
    page.gauge(
        "rollcall_database_up",
        "1 if the last commit that writes, one a second, came back from the database.",
    )
    .is(up);
    if let Some(heard_ms) = state.hearing.reading() {
        page.counter("rollcall_hearing_seconds_total", "The clock of this server: how long it could hear.")
            .is(heard_ms / 1000);
    }
    state.broadcaster.tell(&mut page);
    let mut ends = page.gauge(
        "rollcall_certificate_not_after_timestamp_seconds",
        "When the first of the certificates in a file ends, since the Unix epoch.",
    );
    for which in ["server", "ca"] {
        if let Some(end) = first_end(&state.about.certificates.join(format!("{which}.crt"))) {
            ends.with(&[("which", which)], end);
        }
    }
    let version = ("version", env!("CARGO_PKG_VERSION"));
    page.gauge("rollcall_build_info", "1, and the version of the program.").with(&[version], 1);
    let started = state.about.started.duration_since(SystemTime::UNIX_EPOCH);
    process::write(&mut page, started.unwrap_or_default());
    page.text()
}

/// `None` where the server may not read the file: its folder is the administrator's.
fn first_end(file: &Path) -> Option<u64> {
    let certificates = x509::certificates(&files::read(file, LARGEST).ok()?).ok()?;
    certificates.iter().map(|certificate| certificate.not_after).min()
}
