//! The record: the only SQL of the programs. Each file has the questions of one asker.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_std::future::timeout;
use async_std::prelude::FutureExt;
use async_std::sync::Mutex;
use async_std::task;
use sqlx::postgres::{PgConnection, PgPoolOptions};
use sqlx::{Connection, Executor, Row};

use crate::protocol::status::AHEAD;

/// The database's clock, to the microsecond, which is all that PostgreSQL keeps.
macro_rules! now_ns {
    () => {
        "(extract(epoch from clock_timestamp()) * 1000000)::bigint * 1000"
    };
}

mod aid;
mod alarm;
mod certificates;
mod connection;
mod crls;
mod error;
pub mod events;
mod forget;
mod heartbeat;
mod joins;
mod journal;
mod people;
pub mod presence;
mod readers;
mod renewals;
mod servers;
pub mod sighting;
mod time;
mod tls;
mod url;

use aid::{Aid, Lent};
pub use certificates::{CertificateRow, Found, Noted, Revocation};
use connection::{Connector, Session};
pub use connection::{Guarantee, SETTINGS};
pub use crls::{CrlNumber, PublishedCrl};
pub use error::Error;
pub use forget::Forgotten;
pub use heartbeat::{Outcome, RECORD, RECORD_ONE, Recorded, Recorder};
pub use joins::{Joining, NewRole};
pub use journal::{Journal, Served};
pub use people::UserRow;
pub use renewals::{PAUSE, Renewal, Standing, Waiting};
pub use servers::ServerKeys;
use time::DatabaseTime;

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("./sql");

/// A wait that is worth a word.
const PATIENCE: Duration = Duration::from_secs(1);
/// For the end of a backend in doubt, before a program ends.
const FAREWELL: Duration = Duration::from_secs(2);

/// One database, and one connection to it that is kept. Cloning it is cheap and shares the connection.
#[derive(Clone)]
pub struct Store {
    connector: Connector,
    deadline: Duration,
    kept: Arc<Mutex<Option<Session>>>,
    aid: Aid,
    time: Arc<DatabaseTime>,
    /// Is told of each wait of more than a second, and how it ends.
    tell: Option<fn(&str)>,
}

impl Store {
    /// Checks the URL and connects to nothing yet; the first use does.
    ///
    /// `deadline` bounds each use, and PostgreSQL cancels a statement that takes longer.
    pub fn open(url: &str, deadline: Duration) -> Result<Self, Error> {
        let connector = Connector::new(url, deadline)?;
        let aid = Aid::new(connector.clone(), deadline);
        Ok(Self { connector, deadline, kept: Arc::default(), aid, time: Arc::default(), tell: None })
    }

    /// For somebody who waits at a terminal: `tell` hears of each use that takes more than a second.
    pub fn told_by(self, tell: fn(&str)) -> Self {
        Self { tell: Some(tell), ..self }
    }

    /// Opens the connection that ends backends in doubt, while there is one to be had.
    pub async fn prepare(&self) -> Result<(), Error> {
        self.aid.prepare().await
    }

    /// Waits a moment for the end of the backends that are in doubt.
    pub async fn finish(&self) {
        self.aid.finish(FAREWELL).await;
    }

    /// Did a commit wait for a synchronous standby in vain just now?
    pub fn waits_for_standby(&self) -> bool {
        self.aid.waits_for_standby()
    }

    /// Brings the schema up to date; does nothing when it already is.
    ///
    /// Looks first: the server's own role may read the applied migrations and change nothing.
    pub async fn migrate(&self) -> Result<(), Error> {
        let applied = self
            .run(async |connection| {
                let there = sqlx::query_scalar("select to_regclass('_sqlx_migrations') is not null");
                if !there.fetch_one(&mut *connection).await? {
                    return Ok(Vec::new());
                }
                let versions =
                    sqlx::query_scalar::<_, i64>("select version from _sqlx_migrations where success");
                Ok(versions.fetch_all(connection).await?)
            })
            .await
            .map_err(|error| match error.is_denied() {
                true => Error::CannotRecord(format!(
                    "the role {} lacks rights of deploy/grants.sql",
                    self.connector.role()
                )),
                false => error,
            })?;
        if MIGRATIONS.iter().all(|migration| applied.contains(&migration.version)) {
            return Ok(());
        }
        let pool = PgPoolOptions::new().max_connections(1).connect_lazy_with(self.connector.patient());
        let running = async { MIGRATIONS.run(&pool).await.map_err(Error::from) };
        running
            .race(self.telling("to bring the schema up to date, however long that takes".to_owned()))
            .await?;
        pool.close().await;
        Ok(())
    }

    /// Says goodbye to the database, which would note a connection that just ends as lost.
    pub async fn close(&self) {
        if let Some(session) = self.kept.lock().await.take() {
            let _ = self.within_deadline(async { Ok(session.connection.close().await?) }).await;
        }
        self.aid.finish(FAREWELL).await;
        self.aid.close().await;
    }

    /// Could a heartbeat be recorded now? Waits for a commit that writes, as a heartbeat does.
    pub async fn ready(&self) -> Result<(), Error> {
        self.may_record().await?;
        self.confirm().await
    }

    /// Has this role the rights that a heartbeat needs, and is the database one for writing?
    pub async fn may_record(&self) -> Result<(), Error> {
        self.run(async |connection| {
            cannot_record(connection).await?.map_or(Ok(()), |why| Err(Error::CannotRecord(why)))
        })
        .await
    }

    /// Waits for a commit that writes: then all that was committed before is as safe as the synchronous standbys make it,
    /// also where somebody else committed it or gave its commit up.
    pub async fn confirm(&self) -> Result<(), Error> {
        self.run(async |connection| {
            // A record in the write-ahead log that means nothing to anybody: no table changes.
            connection.execute("select pg_logical_emit_message(true, 'rollcall', '')").await?;
            Ok(())
        })
        .await
    }

    /// The faults that an acknowledged commit survives.
    pub async fn guarantee(&self) -> Result<Guarantee, Error> {
        self.run(async |connection| self.connector.ask(connection).await).await
    }

    /// The time of the database as it was known last: a server tells each second, and so learns it.
    pub fn time(&self) -> &DatabaseTime {
        &self.time
    }

    /// The time of the database.
    pub async fn clock(&self) -> Result<SystemTime, Error> {
        self.run(async |connection| {
            let now = sqlx::query_scalar::<_, i64>(concat!("select ", now_ns!()));
            let now_ns = u64::try_from(now.fetch_one(connection).await?).unwrap_or_default();
            Ok(SystemTime::UNIX_EPOCH + Duration::from_nanos(now_ns))
        })
        .await
    }

    /// How many people were seen, and how many certificates used, later than now by more than clocks differ.
    pub async fn in_the_future(&self) -> Result<(u64, u64), Error> {
        self.run(async |connection| {
            let row = sqlx::query(concat!(
                "select (select count(*) from users where last_seen_ns > $1 + now_ns),
                        (select count(*) from certificates where last_used_ns > $1 + now_ns)
                   from (select ",
                now_ns!(),
                " as now_ns) as clock"
            ))
            .bind(AHEAD.as_nanos() as i64)
            .fetch_one(connection)
            .await?;
            Ok((row.try_get::<i64, _>(0)? as u64, row.try_get::<i64, _>(1)? as u64))
        })
        .await
    }

    /// Sets times in the future to now, the latest that they can have been. Returns the emails, and the serial
    /// numbers, that were.
    pub async fn mend_times(&self) -> Result<Vec<String>, Error> {
        self.run(async |connection| {
            let mended = sqlx::query_scalar(concat!(
                "with clock as materialized (select ",
                now_ns!(),
                " as now_ns),
                 people as (
                     update users set last_seen_ns = now_ns from clock
                      where last_seen_ns > $1 + now_ns returning email
                 ),
                 used as (
                     update certificates set last_used_ns = now_ns from clock
                      where last_used_ns > $1 + now_ns returning serial_number
                 )
                 select email from people union all select serial_number from used"
            ));
            Ok(mended.bind(AHEAD.as_nanos() as i64).fetch_all(connection).await?)
        })
        .await
    }

    /// Works with the connection that is kept, or with a new one if that ended meanwhile. After an error nobody
    /// uses it again: an answer may still come over it, or never.
    async fn run<T>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut is_asked = false;
        let done = self.within_deadline(async {
            let mut kept = self.kept.lock().await;
            let mut older = kept.take();
            if let Some(session) = &mut older
                && self.connector.ask(&mut session.connection).await.is_err()
            {
                older = None;
            }
            let session = match older {
                Some(session) => session,
                None => {
                    self.aid.has_room()?;
                    self.connector.connect().await?
                }
            };
            let mut lent = Lent::new(&self.aid, session);
            is_asked = true;
            let done = work(lent.connection()).await;
            match done {
                Ok(done) => {
                    *kept = Some(lent.returned());
                    Ok(done)
                }
                Err(error) if error.is_silence() => Err(error),
                // It has answered, and ends with its connection.
                Err(error) => {
                    drop(lent.returned());
                    Err(error)
                }
            }
        });
        match done.await {
            Err(error) if is_asked && error.is_silence() => Err(Error::InDoubt(Box::new(error))),
            done => done,
        }
    }

    /// A frozen database neither answers nor fails: only our own clock ends that wait.
    async fn within_deadline<T>(&self, answer: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let telling = self.telling(format!("up to {}", humantime::format_duration(self.deadline)));
        match timeout(self.deadline, answer.race(telling)).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::Deadline(self.deadline)),
        }
    }

    async fn telling<T>(&self, wait: String) -> T {
        let Some(tell) = self.tell else { return std::future::pending().await };
        task::sleep(PATIENCE).await;
        tell(&wait);
        std::future::pending().await
    }
}

/// Why nothing can be recorded.
const STANDBY: &str = "it is a standby";
const READ_ONLY: &str = "it is read-only";

/// The reason why such a connection cannot record, if there is one.
async fn cannot_record(connection: &mut PgConnection) -> Result<Option<String>, Error> {
    let why = sqlx::query_scalar(
        "select case
            when pg_is_in_recovery() then 'it is a standby'
            when current_setting('transaction_read_only')::boolean then 'it is read-only'
            when not (
                select bool_and(has_column_privilege(tab, col, may))
                  from (values
                      ('_sqlx_migrations', 'version', 'select'),
                      ('users', 'email', 'select'), ('users', 'disabled_at', 'select'),
                      ('users', 'last_seen_ns', 'update'), ('users', 'ip', 'update'), ('users', 'port', 'update'),
                      ('users', 'server', 'update'), ('users', 'good_until_ms', 'update'),
                      ('users', 'gone_after_ms', 'update'), ('users', 'said_every_s', 'update'),
                      ('servers', 'heard_ms', 'select'), ('servers', 'epoch', 'insert'), ('servers', 'epoch', 'update'), ('servers', 'public_key', 'update'),
                      ('certificates', 'serial_number', 'select'), ('certificates', 'revoked_at', 'select'),
                      ('certificates', 'serial_number', 'insert'), ('certificates', 'email', 'insert'),
                      ('revoked_serials', 'serial_number', 'select'),
                      ('renewals', 'request', 'insert'), ('renewals', 'certificate', 'select'),
                      ('certificates', 'fingerprint', 'insert'), ('certificates', 'not_after', 'insert'),
                      ('certificates', 'last_used_ns', 'insert'), ('certificates', 'last_used_ns', 'update')
                  ) as needed (tab, col, may)
            ) then 'the role ' || current_user || ' lacks rights of deploy/grants.sql'
        end",
    );
    Ok(why.fetch_one(connection).await?)
}

#[cfg(test)]
mod tests {
    /// A file that was added to sql/ alone must be built into the programs (build.rs).
    #[test]
    fn every_migration_is_embedded() {
        let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/sql")).unwrap().count();
        assert_eq!(super::MIGRATIONS.iter().count(), files);
    }
}
