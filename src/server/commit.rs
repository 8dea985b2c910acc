//! Group commit: requests that arrive together are committed together.
//!
//! A request that finds no commit under way is committed at once. Those that arrive meanwhile wait in a
//! bounded queue and are the next batch: so the batches grow with the load by themselves, and no timer
//! delays anybody. A commit is announced before its requests are answered.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_std::channel::{self, Receiver, Sender};
use async_std::future::timeout;
use async_std::prelude::FutureExt;
use async_std::task;

use super::broadcast::Broadcaster;
use super::hearing::Hearing;
use super::metrics::Committed;
use super::supervisor::Watchdog;
use crate::http::outage::Outage;
use crate::protocol::status::Email;
use crate::store::sighting::Sighting;
use crate::store::{Outcome, Recorder};

/// Most sightings in one commit.
pub const MAX_BATCH: usize = 512;
/// Requests that may wait for a commit. Past that they are refused at once.
const MAX_WAITING: usize = 8 * MAX_BATCH;

/// Between two tries at a row that somebody else holds: another server, say, whose commit waits for a standby.
const AGAIN: Duration = Duration::from_millis(20);

/// Second requests of one person that may wait for their turn: nobody is in a batch twice.
pub const MAX_REPEATS: usize = 32;

/// Requests hand in their sightings here.
pub struct Commits {
    queue: Sender<Waiting>,
    committed: Arc<Committed>,
}

struct Waiting {
    sighting: Sighting,
    answer: Sender<Result<(), Refused>>,
    since: Instant,
    /// Somebody else holds the row of this person.
    is_held: bool,
}

/// A sighting that is not known to be recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    NotEnrolled,
    Disabled,
    Revoked,
    /// The database does not know whose the certificate is ([`super::registry`]).
    NotRegistered,
    /// The database is away or slow, or too many wait for it.
    Unavailable,
    /// Somebody else holds the row.
    Held,
    /// This person has [`MAX_REPEATS`] requests waiting.
    TooMany,
}

impl Refused {
    /// The answer. `None`: there is none yet, since somebody else holds the row for now.
    fn unless_committed(outcome: Outcome) -> Option<Result<(), Self>> {
        Some(match outcome {
            Outcome::Committed => Ok(()),
            Outcome::NotEnrolled => Err(Refused::NotEnrolled),
            Outcome::Disabled => Err(Refused::Disabled),
            Outcome::Revoked => Err(Refused::Revoked),
            Outcome::Locked => return None,
        })
    }
}

/// Starts the committer.
///
/// A request that waited for `patience` when its turn comes is refused; the store's own deadline bounds
/// what comes then. So no request needs a timer.
///
/// Each turn feeds the watchdog, also while the database is away or nobody beats.
pub fn start(
    recorder: Recorder,
    broadcaster: Arc<Broadcaster>,
    hearing: Arc<Hearing>,
    patience: Duration,
    watchdog: Option<Watchdog>,
) -> Commits {
    let (queue, waiting) = channel::bounded(MAX_WAITING);
    let committed = Arc::new(Committed::default());
    let commits = Commits { queue, committed: Arc::clone(&committed) };
    task::spawn(async move {
        let _guard = EndTogether;
        commit_all(waiting, recorder, broadcaster, hearing, patience, watchdog, committed).await;
    });
    commits
}

impl Commits {
    /// Waits for the commit that holds this sighting.
    pub async fn record(&self, sighting: Sighting) -> Result<(), Refused> {
        let (answer, answered) = channel::bounded(1);
        let waiting = Waiting { sighting, answer, since: Instant::now(), is_held: false };
        self.queue.try_send(waiting).map_err(|_| Refused::Unavailable)?;
        answered.recv().await.unwrap_or(Err(Refused::Unavailable))
    }

    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    pub fn committed(&self) -> &Committed {
        &self.committed
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
    hearing: Arc<Hearing>,
    patience: Duration,
    mut watchdog: Option<Watchdog>,
    committed: Arc<Committed>,
) {
    recorder.connect().await;
    let outage = Outage::of("the database");
    let clock = Outage::of("the time of a row");
    let mut pending = Pending::default();
    loop {
        if let Some(watchdog) = &mut watchdog {
            watchdog.feed();
        }
        if pending.is_locked {
            // Somebody else is at work there, and everybody else is not kept waiting for that.
            if let Ok(Ok(first)) = timeout(AGAIN, waiting.recv()).await {
                pending.waiting.push(first);
                pending.people += 1;
            }
        } else if pending.waiting.is_empty() {
            let next = match &mut watchdog {
                Some(watchdog) => watchdog.wait_for(waiting.recv()).await,
                None => Some(waiting.recv().await),
            };
            match next {
                Some(Ok(first)) => pending = Pending { waiting: vec![first], people: 1, is_locked: false },
                Some(Err(_)) => return,
                None => continue,
            }
        }
        // Each person of those has a place in this batch. The others have the rest of the room.
        let room = MAX_BATCH.saturating_sub(pending.people);
        let waits = !pending.is_locked;
        let mut batch = pending.waiting;
        batch.extend(std::iter::from_fn(|| waiting.try_recv().ok()).take(room));
        batch.retain(|one| one.waits(patience));
        (batch, pending) = split_repeats(batch);
        if batch.is_empty() {
            continue;
        }
        let sightings: Vec<&Sighting> = batch.iter().map(|one| &one.sighting).collect();
        let began = Instant::now();
        // The database has the statement by the time that the signature is made.
        let preparing = async {
            let statuses = sightings.iter().map(|sighting| &sighting.status);
            let announced = statuses.filter(|status| !hearing.is_canary(&status.email));
            broadcaster.prepare(announced.cloned().collect());
        };
        let recording = async {
            match waits {
                true => recorder.record(&sightings).await,
                false => recorder.record_unlocked(&sightings).await,
            }
        };
        let (recorded, ()) = recording.join(preparing).await;
        match recorded {
            Ok(mut recorded) => {
                // Where nothing was committed, nothing was shown to work.
                if !recorded.committed.is_empty() {
                    committed.count(began.elapsed(), recorded.committed.len());
                    outage.worked();
                    hearing.recorded(true);
                }
                match recorded.doubt {
                    None => clock.worked(),
                    Some(doubt) => clock.failed(&doubt),
                }
                recorded.committed.retain(|status| !hearing.hears_canary(&status.email));
                broadcaster.send(&recorded.committed);
                let mut locked = Vec::new();
                for (one, outcome) in batch.into_iter().zip(recorded.outcomes) {
                    match Refused::unless_committed(outcome) {
                        None => locked.push(one),
                        // A request whose client hung up no longer waits; it is recorded all the same.
                        Some(answer) => drop(one.answer.try_send(answer)),
                    }
                }
                pending.hold(locked);
            }
            Err(error) => {
                outage.failed(&error);
                hearing.recorded(false);
                // Requests behind a commit that failed have waited long enough too.
                pending = Pending::default();
                while waiting.try_recv().is_ok() {}
            }
        }
    }
}

/// Requests whose turn is next.
#[derive(Default)]
struct Pending {
    waiting: Vec<Waiting>,
    /// How many people they are of, or more.
    people: usize,
    /// Somebody's row was locked.
    is_locked: bool,
}

impl Pending {
    /// Those whose rows are locked are tried again, before the later ones of the same people.
    fn hold(&mut self, mut locked: Vec<Waiting>) {
        self.is_locked = !locked.is_empty();
        self.people += locked.len();
        // Locked they are in the order of their emails, as the batch was.
        for later in &mut self.waiting {
            later.is_held = locked.binary_search_by(|one| one.email().cmp(later.email())).is_ok();
        }
        for one in &mut locked {
            one.is_held = true;
        }
        locked.append(&mut self.waiting);
        self.waiting = locked;
    }
}

/// One person's second request waits for the next commit, so that each has an answer of its own and the
/// newest is written last. The first ones come in the order of their emails, as the store wants them.
fn split_repeats(mut batch: Vec<Waiting>) -> (Vec<Waiting>, Pending) {
    batch.sort_by(|a, b| a.email().cmp(b.email()));
    let mut firsts: Vec<Waiting> = Vec::with_capacity(batch.len());
    let mut repeats = Pending::default();
    let mut of_this_one = 0;
    for one in batch {
        match firsts.last() {
            Some(last) if last.email() == one.email() => {
                if of_this_one == MAX_REPEATS {
                    let _ = one.answer.try_send(Err(Refused::TooMany));
                    continue;
                }
                repeats.people += usize::from(of_this_one == 0);
                repeats.waiting.push(one);
                of_this_one += 1;
            }
            _ => {
                firsts.push(one);
                of_this_one = 0;
            }
        }
    }
    (firsts, repeats)
}

impl Waiting {
    fn email(&self) -> &Email {
        &self.sighting.status.email
    }

    /// Does it wait for its turn still? To a request, a closed channel is the answer that the database was too slow.
    fn waits(&self, patience: Duration) -> bool {
        let waits = self.since.elapsed() < patience;
        if !waits && self.is_held {
            let _ = self.answer.try_send(Err(Refused::Held));
        }
        waits
    }
}
