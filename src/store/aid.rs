//! Backends that nobody waits for any more.
//!
//! A backend that waits for a synchronous standby does not notice that its client gave it up: it stays, with the locks of
//! its rows. So it is told to end, over a connection that is kept for this. `pg_terminate_backend` ends that wait without
//! an acknowledgement. `pg_cancel_backend` would turn it into a success on one disk, and is never sent.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_std::future::timeout;
use async_std::task;
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Row};

use super::Error;
use super::connection::{Connector, Session};

/// Those that are not known to have ended. Past that no further connection is opened: with the three that a server
/// uses they are eight.
const MOST: usize = 5;
/// Between two looks at them.
const AGAIN: Duration = Duration::from_millis(300);
/// So long after it was seen last, the wait for a standby says nothing about a failure of now.
const RECENT: Duration = Duration::from_secs(5);

/// One backend, and no later one that got its process id: the moment at which it began comes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    pub pid: i32,
    pub began: String,
}

#[derive(Clone)]
pub struct Aid(Arc<Inner>);

struct Inner {
    connector: Connector,
    deadline: Duration,
    abandoned: Mutex<Vec<Backend>>,
    /// Does a task look after them?
    is_at_work: AtomicBool,
    kept: async_std::sync::Mutex<Option<PgConnection>>,
    /// When one of them was last seen in the wait for a standby.
    standby: Mutex<Option<Instant>>,
}

impl Aid {
    pub fn new(connector: Connector, deadline: Duration) -> Self {
        Self(Arc::new(Inner {
            connector,
            deadline,
            abandoned: Mutex::default(),
            is_at_work: AtomicBool::new(false),
            kept: async_std::sync::Mutex::default(),
            standby: Mutex::default(),
        }))
    }

    /// Opens its connection before it is needed: when it is, there may be none left.
    pub async fn prepare(&self) -> Result<(), Error> {
        let mut kept = self.0.kept.lock().await;
        if kept.is_none() {
            let opened = timeout(self.0.deadline, self.0.connector.connect()).await;
            *kept = Some(opened.map_err(|_| Error::Deadline(self.0.deadline))??.connection);
        }
        Ok(())
    }

    /// Is there room for one more backend?
    pub fn has_room(&self) -> Result<(), Error> {
        match self.abandoned().len() {
            waiting if waiting >= MOST => Err(Error::Unended(waiting)),
            _ => Ok(()),
        }
    }

    /// Sees to it that the backend ends, however long that takes.
    pub fn end(&self, backend: Backend) {
        self.abandoned().push(backend);
        if !self.0.is_at_work.swap(true, Ordering::SeqCst) {
            let aid = self.clone();
            task::spawn(async move { aid.work().await });
        }
    }

    /// Waits until none is left, but no longer than this.
    pub async fn finish(&self, patience: Duration) {
        let end = Instant::now() + patience;
        while !self.abandoned().is_empty() && Instant::now() < end {
            task::sleep(AGAIN / 10).await;
        }
    }

    pub async fn close(&self) {
        if let Some(connection) = self.0.kept.lock().await.take() {
            let _ = timeout(self.0.deadline, connection.close()).await;
        }
    }

    /// Did a commit wait for a standby just now?
    pub fn waits_for_standby(&self) -> bool {
        let standby = self.0.standby.lock().unwrap_or_else(PoisonError::into_inner);
        standby.is_some_and(|seen| seen.elapsed() < RECENT)
    }

    async fn work(&self) {
        loop {
            let told = self.abandoned().clone();
            if told.is_empty() {
                self.0.is_at_work.store(false, Ordering::SeqCst);
                // One that came meanwhile found somebody at work.
                if self.abandoned().is_empty() || self.0.is_at_work.swap(true, Ordering::SeqCst) {
                    return;
                }
                continue;
            }
            match timeout(self.0.deadline, self.tell(&told)).await {
                Ok(Ok(left)) => self.abandoned().retain(|one| !told.contains(one) || left.contains(one)),
                Ok(Err(error)) => log::debug!("cannot end backends yet: {error}"),
                Err(_) => log::debug!("cannot end backends yet: the database does not answer"),
            }
            if !self.abandoned().is_empty() {
                task::sleep(AGAIN).await;
            }
        }
    }

    /// Tells them to end, and returns those that were still there.
    async fn tell(&self, backends: &[Backend]) -> Result<Vec<Backend>, Error> {
        let mut kept = self.0.kept.lock().await;
        // Only a connection that has answered is used again.
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => self.0.connector.connect().await?.connection,
        };
        let pids: Vec<i32> = backends.iter().map(|backend| backend.pid).collect();
        let began: Vec<&str> = backends.iter().map(|backend| backend.began.as_str()).collect();
        let rows = sqlx::query(
            "select pid, given.began, wait_event is not distinct from 'SyncRep', pg_terminate_backend(pid)
               from pg_stat_activity join unnest($1::integer[], $2::text[]) as given (pid, began) using (pid)
              where backend_start = given.began::timestamptz",
        )
        .bind(pids)
        .bind(began)
        .fetch_all(&mut connection)
        .await?;
        *kept = Some(connection);
        let mut left = Vec::new();
        for row in rows {
            if row.try_get(2)? {
                self.note_standby();
            }
            left.push(Backend { pid: row.try_get(0)?, began: row.try_get(1)? });
        }
        Ok(left)
    }

    fn note_standby(&self) {
        let mut standby = self.0.standby.lock().unwrap_or_else(PoisonError::into_inner);
        if standby.is_none_or(|seen| seen.elapsed() >= RECENT) {
            log::warn!(
                "a commit waits for the synchronous standby: it is given up, and its backend ended; nothing of it was \
                 acknowledged or announced"
            );
        }
        *standby = Some(Instant::now());
    }

    fn abandoned(&self) -> MutexGuard<'_, Vec<Backend>> {
        self.0.abandoned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session at work. Unless it is returned, as after a deadline or when nobody waits for the answer any more, its
/// backend ends.
pub struct Lent<'a> {
    aid: &'a Aid,
    session: Option<Session>,
}

impl<'a> Lent<'a> {
    pub fn new(aid: &'a Aid, session: Session) -> Self {
        Self { aid, session: Some(session) }
    }

    pub fn connection(&mut self) -> &mut PgConnection {
        &mut self.session.as_mut().expect("it is there until it is returned").connection
    }

    pub fn returned(mut self) -> Session {
        self.session.take().expect("it is returned once")
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            self.aid.end(session.backend);
        }
    }
}
