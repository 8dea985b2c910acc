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
use crate::status::Email;
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
        (batch, repeats) = split_repeats(batch);
        let sightings: Vec<&Sighting> = batch.iter().map(|one| &one.sighting).collect();
        match store.record(&sightings).await {
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
                // To the requests, a closed channel is the answer. Whoever waits behind a commit that
                // failed has waited long enough too.
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
