//! Connections that have not yet sent a request that came through nginx.
//!
//! Any user of this host can open them. A new one beyond the bound ends the oldest, so that nobody keeps
//! nginx out, whose own are no newcomers for longer than it takes to read one request.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::connection::Stream;

/// Fewer than the descriptors that a process has. So many that a flood needs longer to push one of nginx's out than
/// the server to read its request.
const MAX: usize = 4096;
/// How long a connection may be there before its first request is whole. nginx opens one to send one.
const FIRST_REQUEST: Duration = Duration::from_secs(10);

pub struct Newcomers<S>(Mutex<Line<S>>);

/// In the order of their arrival.
struct Line<S> {
    next: u64,
    streams: BTreeMap<u64, S>,
}

/// A place in the line. Dropped, it leaves it.
pub struct Newcomer<S> {
    line: Arc<Newcomers<S>>,
    number: u64,
    end: Instant,
}

impl<S> Default for Newcomers<S> {
    fn default() -> Self {
        Self(Mutex::new(Line { next: 0, streams: BTreeMap::new() }))
    }
}

impl<S: Stream> Newcomers<S> {
    pub fn admit(self: &Arc<Self>, stream: S) -> Newcomer<S> {
        let mut line = self.lock();
        if line.streams.len() >= MAX
            && let Some((_, oldest)) = line.streams.pop_first()
        {
            oldest.shutdown();
        }
        let number = line.next;
        line.next += 1;
        line.streams.insert(number, stream);
        Newcomer { line: Arc::clone(self), number, end: Instant::now() + FIRST_REQUEST }
    }
}

impl<S> Newcomers<S> {
    fn lock(&self) -> MutexGuard<'_, Line<S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> Newcomer<S> {
    /// Until its first request must be whole.
    pub fn time_left(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }
}

impl<S> Drop for Newcomer<S> {
    fn drop(&mut self) {
        self.line.lock().streams.remove(&self.number);
    }
}
