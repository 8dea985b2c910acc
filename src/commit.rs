//! Group commit: requests that arrive together are committed together.
//!
//! A request that finds no commit under way is committed at once. Those that arrive meanwhile wait in a
//! bounded queue and are the next batch: so the batches grow with the load by themselves, and no timer
//! delays anybody. What was committed is announced before its requests are answered.

use std::time::Duration;

use async_std::channel::{self, Receiver, Sender};
use async_std::future::timeout;
use async_std::task;

use crate::broadcast::Broadcaster;
use crate::certificate::Sighting;
use crate::outage::Outage;
use crate::store::{Store, Verdict};

/// Most sightings in one commit.
pub const MAX_BATCH: usize = 512;
/// Requests that may wait for a commit. Past that they are refused at once.
const MAX_WAITING: usize = 8 * MAX_BATCH;

/// Where requests hand in what they saw. The committer ends when the last of these is dropped.
pub struct Commits {
    queue: Sender<Waiting>,
    deadline: Duration,
}

struct Waiting {
    sighting: Sighting,
    /// Closed when the request stopped waiting.
    answer: Sender<Verdict>,
}

/// Nothing is known to be recorded: the database is away or slow, or too many wait for it.
#[derive(Debug, PartialEq, Eq)]
pub struct Unavailable;

/// Starts the committer; the task ends once all `Commits` are dropped and all is announced.
pub fn start(store: Store, broadcaster: Broadcaster, deadline: Duration) -> (Commits, task::JoinHandle<()>) {
    let (queue, waiting) = channel::bounded(MAX_WAITING);
    (Commits { queue, deadline }, task::spawn(commit_all(waiting, store, broadcaster)))
}

impl Commits {
    /// Waits for the commit that holds this sighting, at most until the deadline.
    pub async fn record(&self, sighting: Sighting) -> Result<Verdict, Unavailable> {
        let (answer, verdict) = channel::bounded(1);
        self.queue.try_send(Waiting { sighting, answer }).map_err(|_| Unavailable)?;
        match timeout(self.deadline, verdict.recv()).await {
            Ok(Ok(Verdict::Locked)) | Ok(Err(_)) | Err(_) => Err(Unavailable),
            Ok(Ok(verdict)) => Ok(verdict),
        }
    }
}

async fn commit_all(waiting: Receiver<Waiting>, store: Store, broadcaster: Broadcaster) {
    let outage = Outage::of("the database");
    let mut sightings = Vec::with_capacity(MAX_BATCH);
    let mut answers = Vec::with_capacity(MAX_BATCH);
    while let Ok(first) = waiting.recv().await {
        let others = std::iter::from_fn(|| waiting.try_recv().ok());
        // Whoever stopped waiting was answered 503; a commit now would contradict that for no gain.
        let batch = std::iter::once(first).chain(others).filter(|one| !one.answer.is_closed());
        for Waiting { sighting, answer } in batch.take(MAX_BATCH) {
            sightings.push(sighting);
            answers.push(answer);
        }
        if !sightings.is_empty() {
            match store.record(&sightings).await {
                Ok(recorded) => {
                    outage.worked();
                    broadcaster.send(&recorded.committed);
                    for (answer, verdict) in answers.iter().zip(recorded.verdicts) {
                        // Whoever no longer waits is recorded all the same.
                        let _ = answer.try_send(verdict);
                    }
                }
                Err(error) => outage.failed(&error),
            }
        }
        sightings.clear();
        // To those of a batch that failed, this closes the channel, which is their answer.
        answers.clear();
    }
}
