//! Group commit: requests that arrive together are committed together.
//!
//! A request that finds no commit under way is committed at once. Those that arrive meanwhile wait in a
//! bounded queue and are the next batch: so the batches grow with the load by themselves, and no timer
//! delays anybody. What was committed is announced before its requests are answered.

use async_std::channel::{self, Receiver, Sender};
use async_std::task;

use crate::broadcast::Broadcaster;
use crate::certificate::Sighting;
use crate::outage::Outage;
use crate::store::{Store, Verdict};

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
}

/// Nothing is known to be recorded: the database is away or slow, or too many wait for it.
#[derive(Debug, PartialEq, Eq)]
pub struct Unavailable;

/// Starts the committer.
pub fn start(store: Store, broadcaster: Broadcaster) -> Commits {
    let (queue, waiting) = channel::bounded(MAX_WAITING);
    task::spawn(commit_all(waiting, store, broadcaster));
    Commits { queue }
}

impl Commits {
    /// Waits for the commit that holds this sighting. That is bounded without a timer for each request:
    /// by the store's deadline for the commit under way, and once more for our own.
    pub async fn record(&self, sighting: Sighting) -> Result<Verdict, Unavailable> {
        let (answer, verdict) = channel::bounded(1);
        self.queue.try_send(Waiting { sighting, answer }).map_err(|_| Unavailable)?;
        match verdict.recv().await {
            Ok(Verdict::Locked) | Err(_) => Err(Unavailable),
            Ok(verdict) => Ok(verdict),
        }
    }
}

async fn commit_all(waiting: Receiver<Waiting>, store: Store, broadcaster: Broadcaster) {
    let outage = Outage::of("the database");
    let mut sightings = Vec::with_capacity(MAX_BATCH);
    let mut answers = Vec::with_capacity(MAX_BATCH);
    while let Ok(first) = waiting.recv().await {
        let others = std::iter::from_fn(|| waiting.try_recv().ok());
        for Waiting { sighting, answer } in std::iter::once(first).chain(others).take(MAX_BATCH) {
            sightings.push(sighting);
            answers.push(answer);
        }
        match store.record(&sightings).await {
            Ok(recorded) => {
                outage.worked();
                broadcaster.send(&recorded.committed);
                for (answer, verdict) in answers.iter().zip(recorded.verdicts) {
                    // A request whose client hung up no longer waits; it is recorded all the same.
                    let _ = answer.try_send(verdict);
                }
            }
            Err(error) => {
                outage.failed(&error);
                // Whoever waits behind a commit that failed has waited long enough.
                while waiting.try_recv().is_ok() {}
            }
        }
        sightings.clear();
        // To those of a batch that failed, this closes the channel, which is their answer.
        answers.clear();
    }
}
