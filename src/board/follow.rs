//! The reading of rows: of those in doubt by their keys, of everybody in turn. No transaction is long.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_std::task;

use super::hints::Believed;
use super::journal;
use super::people::People;
use crate::http::outage::Outage;
use crate::store::{Error, Store};

/// Between two looks at what is in doubt.
const TICK: Duration = Duration::from_millis(200);
/// Between two looks at the servers' clocks.
const SECOND: Duration = Duration::from_secs(1);
/// Between two looks at the servers' keys.
const KEYS: Duration = Duration::from_secs(10);
/// Rows that are read at once.
const PAGE: u32 = 1000;
/// Everybody's row is read once in about this time, and a page no sooner than [`PAUSE`] after the one before.
const TURN: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_secs(2);

/// Reads for ever.
pub async fn rows(store: Store, people: Arc<People>, believed: Arc<Believed>) {
    let outage = Outage::of("reading who is here");
    let mut turn = Turn { after: String::new(), due: Instant::now() };
    let mut clocks_due = Instant::now();
    let mut keys_due = clocks_due;
    let mut is_ready = false;
    loop {
        let read = async {
            if !is_ready {
                everybody(&store, &people).await?;
                is_ready = true;
                task::spawn(since(store.clone(), Arc::clone(&people)));
            }
            in_doubt(&store, &people).await?;
            turn.go_on(&store, &people).await
        };
        let mut read = read.await;
        if Instant::now() >= clocks_due {
            clocks_due = Instant::now() + SECOND;
            let servers = store.servers().await;
            people.clocks(servers.as_ref().ok().cloned());
            read = read.and(servers.map(drop));
            if Instant::now() >= keys_due {
                keys_due = Instant::now() + KEYS;
                read = read.and(store.keys().await.map(|servers| believed.told(&servers)));
            }
        }
        match read {
            Ok(()) => outage.worked(),
            Err(error) => outage.failed(&error),
        }
        task::sleep(TICK).await;
    }
}

/// The first look: the clocks, by which states are told, then everybody.
async fn everybody(store: &Store, people: &People) -> Result<(), Error> {
    let began = Instant::now();
    people.clocks(Some(store.servers().await?));
    let mut after = String::new();
    loop {
        let page = store.people_after(&after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after.clone_from(&last.email);
        people.apply(page);
    }
    people.ready();
    log::info!("knows {} people, read in {} ms", people.number_of_all(), began.elapsed().as_millis());
    Ok(())
}

/// Asks the record since when the people are online. Nobody waits for it.
async fn since(store: Store, people: Arc<People>) {
    match journal::online_since(&store).await {
        Ok(since) => people.begin(since),
        Err(error) => log::warn!("since when people are online is not known: {error}"),
    }
}

async fn in_doubt(store: &Store, people: &People) -> Result<(), Error> {
    let emails = people.doubtful(PAGE as usize);
    if emails.is_empty() {
        return Ok(());
    }
    let asked: Vec<&str> = emails.iter().map(String::as_str).collect();
    let rows = store.people(&asked).await?;
    let found: HashSet<String> = rows.iter().map(|row| row.email.clone()).collect();
    people.apply(rows);
    people.remove(asked.into_iter().filter(|email| !found.contains(*email)));
    Ok(())
}

/// A round through all rows: it finds what no announcement told.
struct Turn {
    after: String,
    due: Instant,
}

impl Turn {
    async fn go_on(&mut self, store: &Store, people: &People) -> Result<(), Error> {
        if Instant::now() < self.due {
            return Ok(());
        }
        let pages = people.number_of_all() as u32 / PAGE + 1;
        self.due = Instant::now() + (TURN / pages).min(PAUSE);
        let rows = store.people_after(&self.after, PAGE).await?;
        let is_last = rows.len() < PAGE as usize;
        let next = rows.last().filter(|_| !is_last).map(|row| row.email.clone()).unwrap_or_default();
        people.page(&std::mem::replace(&mut self.after, next), rows, is_last);
        Ok(())
    }
}
