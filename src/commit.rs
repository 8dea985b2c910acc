//! Group commit: requests that arrive together are committed together.
//!
//! A request that finds no commit under way is committed at once. Those that arrive meanwhile wait in a
//! bounded queue and are the next batch: so the batches grow with the load by themselves, and no timer
//! delays anybody. What was committed is announced before its requests are answered.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_std::channel::{self, Receiver, Sender};
use async_std::task;

use crate::broadcast::Broadcaster;
use crate::certificate::Sighting;
use crate::outage::Outage;
use crate::status::Email;
use crate::store::{Recorder, Verdict};

/// Most sightings in one commit.
pub const MAX_BATCH: usize = 512;
/// Requests that may wait for a commit. Past that they are refused at once.
const MAX_WAITING: usize = 8 * MAX_BATCH;

/// Where requests hand in what they saw.
pub struct Commits {
    queue: Sender<Waiting>,
}

struct Waiting {
    sighting: Sighting,
    answer: Sender<Verdict>,
    since: Instant,
}

/// Second requests of people that are in the batch, who may wait for the next: one person with many
/// certificates must not crowd out the others.
const MAX_REPEATS: usize = 64;

/// Nothing is known to be recorded: the database is away or slow, or too many wait for it.
#[derive(Debug, PartialEq, Eq)]
pub struct Unavailable;

/// Starts the committer.
///
/// A request that waited for `patience` when its turn comes is refused; the store's own deadline bounds
/// what comes then. So no request needs a timer.
pub fn start(recorder: Recorder, broadcaster: Arc<Broadcaster>, patience: Duration) -> Commits {
    let (queue, waiting) = channel::bounded(MAX_WAITING);
    task::spawn(async move {
        let _guard = EndTogether;
        commit_all(waiting, recorder, broadcaster, patience).await;
    });
    Commits { queue }
}

impl Commits {
    /// Waits for the commit that holds this sighting.
    pub async fn record(&self, sighting: Sighting) -> Result<Verdict, Unavailable> {
        let (answer, verdict) = channel::bounded(1);
        self.queue.try_send(Waiting { sighting, answer, since: Instant::now() }).map_err(|_| Unavailable)?;
        match verdict.recv().await {
            Ok(Verdict::Locked) | Err(_) => Err(Unavailable),
            Ok(verdict) => Ok(verdict),
        }
    }
}

/// A server that goes on without its committer would refuse everybody for ever: better that it ends, and
/// is started again.
struct EndTogether;

impl Drop for EndTogether {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

async fn commit_all(
    waiting: Receiver<Waiting>,
    mut recorder: Recorder,
    broadcaster: Arc<Broadcaster>,
    patience: Duration,
) {
    let outage = Outage::of("the database");
    let mut repeats = Vec::new();
    loop {
        let mut batch = std::mem::take(&mut repeats);
        if batch.is_empty() {
            match waiting.recv().await {
                Ok(first) => batch.push(first),
                Err(_) => return,
            }
        }
        let room = MAX_BATCH - batch.len();
        batch.extend(std::iter::from_fn(|| waiting.try_recv().ok()).take(room));
        // To a request, a closed channel is the answer that there is none.
        batch.retain(|one| one.since.elapsed() < patience);
        (batch, repeats) = split_repeats(batch);
        repeats.truncate(MAX_REPEATS);
        if batch.is_empty() {
            continue;
        }
        let sightings: Vec<&Sighting> = batch.iter().map(|one| &one.sighting).collect();
        match recorder.record(&sightings).await {
            Ok(recorded) => {
                outage.worked();
                broadcaster.send(&recorded.committed);
                for (one, verdict) in batch.iter().zip(recorded.verdicts) {
                    // A request whose client hung up no longer waits; it is recorded all the same.
                    let _ = one.answer.try_send(verdict);
                }
            }
            Err(error) => {
                outage.failed(&error);
                // Whoever waits behind a commit that failed has waited long enough too.
                repeats.clear();
                while waiting.try_recv().is_ok() {}
            }
        }
    }
}

/// One person's second request waits for the next commit, so that each has an answer of its own and the
/// newest is written last. The first ones come in the order of their emails, as the store wants them.
fn split_repeats(mut batch: Vec<Waiting>) -> (Vec<Waiting>, Vec<Waiting>) {
    batch.sort_by(|a, b| a.email().cmp(b.email()));
    let mut firsts: Vec<Waiting> = Vec::with_capacity(batch.len());
    let mut repeats = Vec::new();
    for one in batch {
        match firsts.last() {
            Some(last) if last.email() == one.email() => repeats.push(one),
            _ => firsts.push(one),
        }
    }
    (firsts, repeats)
}

impl Waiting {
    fn email(&self) -> &Email {
        &self.sighting.status.email
    }
}
