//! Writes the history. One board at a time has the right to: the others watch, and one of them goes on when it ends.
//!
//! What the record says of somebody is compared with their state whenever a board gets the right, and written where the two
//! differ: so nothing is missed for good, and a restart by itself is no event.

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_std::channel::Receiver;
use async_std::future::timeout;
use async_std::sync::Mutex;

use super::people::{Change, People};
use crate::cli::now_ns;
use crate::http::outage::Outage;
use crate::store::events::{Event, Kind};
use crate::store::presence::Person;
use crate::store::{Error, Journal, Store};

/// Between two looks at what has changed.
const TICK: Duration = Duration::from_millis(200);
/// Between two attempts to get the right.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often it is noted that a board looks.
const WATCH: Duration = Duration::from_secs(10);
/// Events that wait for the database. Beyond this the states tell what is to be written.
const MOST: usize = 10_000;
/// Events of one statement, and people whose last event is read at once.
const PART: usize = 1000;

/// The right to write, while this board has it and the record is up to date. The hooks are served with it.
pub type Held = Arc<Mutex<Option<Journal>>>;

pub struct Keeper {
    store: Store,
    people: Arc<People>,
    /// The name of this run.
    board: String,
    changes: Receiver<Change>,
    held: Held,
    waiting: Vec<Event>,
    /// What the record says of each server, with that which waits.
    hears: HashMap<String, bool>,
}

impl Keeper {
    pub fn new(
        store: Store,
        people: Arc<People>,
        board: String,
        changes: Receiver<Change>,
        held: Held,
    ) -> Self {
        Self { store, people, board, changes, held, waiting: Vec::new(), hears: HashMap::new() }
    }

    /// Writes until `stop` closes.
    pub async fn run(mut self, stop: Receiver<()>) {
        let outage = Outage::of("writing the history");
        let (mut next_try, mut next_watch) = (Instant::now(), Instant::now());
        let mut waits = false;
        while timeout(TICK, stop.recv()).await.is_err() {
            self.take();
            if self.held.lock().await.is_none() {
                if Instant::now() < next_try {
                    continue;
                }
                next_try = Instant::now() + PATIENCE;
                match self.begin().await {
                    Ok(Some(journal)) => {
                        log::info!("writes the history");
                        *self.held.lock().await = Some(journal);
                        (next_watch, waits) = (Instant::now(), false);
                    }
                    Ok(None) if self.people.look().is_some() && !mem::replace(&mut waits, true) => {
                        log::info!("another board writes the history; this one waits for its end");
                    }
                    Ok(None) => {}
                    Err(error) => outage.failed(&error),
                }
                continue;
            }
            let is_due = Instant::now() >= next_watch;
            match self.write(is_due).await {
                Ok(()) if is_due => next_watch = Instant::now() + WATCH,
                Ok(()) => {}
                Err(error) => outage.failed(&error),
            }
            if self.held.lock().await.is_some() {
                outage.worked();
            }
        }
        self.take();
        let _ = self.write(true).await;
        if let Some(journal) = self.held.lock().await.take() {
            journal.close().await;
        }
    }

    /// What has changed since the last look.
    fn take(&mut self) {
        while let Ok(change) = self.changes.try_recv() {
            self.waiting.extend(event_of(&change));
        }
        let turned = self.turned(now_ns());
        self.noted(&turned);
        self.waiting.extend(turned);
        if self.waiting.len() > MOST {
            self.waiting.clear();
        }
    }

    /// Writes what waits. After an error the right is gone: it was the connection's.
    async fn write(&mut self, watch: bool) -> Result<(), Error> {
        let held = Arc::clone(&self.held);
        let mut held = held.lock().await;
        let Some(journal) = &mut *held else { return Ok(()) };
        let done = async {
            append(journal, &self.waiting).await?;
            self.waiting.clear();
            if watch {
                journal.watch(&self.board).await?;
            }
            Ok(())
        };
        let done = done.await;
        if done.is_err() {
            *held = None;
        }
        done
    }

    /// Gets the right, and brings the record up to date. `None`: another board has it, or not everybody has been read.
    async fn begin(&mut self) -> Result<Option<Journal>, Error> {
        if self.people.look().is_none() {
            return Ok(None);
        }
        let Some(mut journal) = self.store.journal().await? else {
            // The other one writes them.
            self.waiting.clear();
            return Ok(None);
        };
        let watched = journal.watched().await?;
        // Nobody else wrote meanwhile: what waits is not written yet, or is found again.
        if watched.as_ref().is_some_and(|(board, _)| *board == self.board) {
            append(&mut journal, &self.waiting).await?;
        }
        self.waiting.clear();
        let last = self.last_events().await?;
        let Some((position, states)) = self.people.states() else { return Ok(None) };
        // A change that came meanwhile is in the states.
        while let Ok(change) = self.changes.try_recv() {
            if change.position > position {
                self.waiting.extend(event_of(&change));
            }
        }
        let at_ns = now_ns();
        let differ = states.iter().filter_map(|(person, state)| {
            let kind = Kind::of(*state)?;
            let is_same = last.get(&person.email).is_some_and(|event| event.kind == kind);
            (!is_same).then(|| {
                let since_ns = match (kind, &watched) {
                    // Nobody looked when they came.
                    (Kind::Online, watched) => watched.as_ref().map(|(_, until_ns)| *until_ns),
                    _ => person.seen.map(|(seen_ns, ..)| seen_ns),
                };
                about(person, kind, at_ns, since_ns)
            })
        });
        let differ: Vec<Event> = differ.collect();
        append(&mut journal, &differ).await?;
        let servers = self.store.last_events_of_servers().await?;
        self.hears = HashMap::new();
        self.noted(&servers);
        journal.watch(&self.board).await?;
        Ok(Some(journal))
    }

    async fn last_events(&self) -> Result<HashMap<String, Event>, Error> {
        let mut last = HashMap::new();
        let mut after = String::new();
        loop {
            let (events, to) = self.store.last_events_after(&after, PART as u32).await?;
            last.extend(events.into_iter().filter_map(|event| Some((event.email.clone()?, event))));
            match to {
                Some(to) => after = to,
                None => return Ok(last),
            }
        }
    }

    /// The servers that turned. One of which nothing is written hears.
    fn turned(&self, at_ns: u64) -> Vec<Event> {
        let servers = self.people.hearing().into_iter();
        let turned = servers.filter(|(name, hears)| self.hears.get(name).copied().unwrap_or(true) != *hears);
        turned
            .map(|(name, hears)| Event {
                id: 0,
                at_ns,
                email: None,
                kind: if hears { Kind::Hears } else { Kind::Deaf },
                since_ns: None,
                ip: None,
                server: Some(name),
            })
            .collect()
    }

    fn noted(&mut self, servers: &[Event]) {
        for event in servers {
            if let Some(name) = &event.server {
                self.hears.insert(name.clone(), event.kind == Kind::Hears);
            }
        }
    }
}

/// Since when everybody is online of whom the record says so.
pub async fn online_since(store: &Store) -> Result<HashMap<String, u64>, Error> {
    let (mut since, mut after) = (HashMap::new(), String::new());
    loop {
        let (events, to) = store.last_events_after(&after, PART as u32).await?;
        let online = events.into_iter().filter(|event| event.kind == Kind::Online);
        since.extend(online.filter_map(|event| Some((event.email?, event.at_ns))));
        match to {
            Some(to) => after = to,
            None => return Ok(since),
        }
    }
}

async fn append(journal: &mut Journal, events: &[Event]) -> Result<(), Error> {
    for part in events.chunks(PART) {
        journal.append(part).await?;
    }
    Ok(())
}

/// Nothing, if nobody turned anything: somebody was enrolled, deleted, or set otherwise.
fn event_of(change: &Change) -> Option<Event> {
    let kind = Kind::of(change.to.filter(|to| change.from != Some(*to))?)?;
    let seen_ns = change.person.seen.map(|(seen_ns, ..)| seen_ns);
    Some(about(&change.person, kind, change.at_ns, seen_ns))
}

fn about(person: &Person, kind: Kind, at_ns: u64, since_ns: Option<u64>) -> Event {
    Event {
        id: 0,
        at_ns,
        email: Some(person.email.clone()),
        kind,
        // Clocks of two hosts differ.
        since_ns: since_ns.map(|since_ns| since_ns.min(at_ns)),
        ip: person.seen.map(|(_, ip, _)| ip),
        server: person.server.clone(),
    }
}
