//! The record: the only SQL of the programs. Each file has the questions of one asker.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_std::future::timeout;
use async_std::prelude::FutureExt;
use async_std::sync::Mutex;
use async_std::task;
use sqlx::migrate::MigrateError;
use sqlx::postgres::{PgConnection, PgPoolOptions};
use sqlx::{Connection, Executor, Row};

use crate::files::FileError;
use crate::protocol::status::{AHEAD, Email};

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
pub mod events;
mod forget;
mod heartbeat;
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
pub use certificates::{CertificateRow, Noted, Revocation};
use connection::{Connector, Session};
pub use connection::{Guarantee, SETTINGS};
pub use crls::{CrlNumber, Joining, NewRole, PublishedCrl};
pub use forget::Forgotten;
pub use heartbeat::{Outcome, RECORD, RECORD_ONE, Recorded, Recorder};
pub use journal::{Journal, Served};
pub use people::UserRow;
pub use renewals::{PAUSE, Renewal, Standing, Waiting};
pub use servers::ServerKeys;
use sighting::Serial;
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

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0} is not enrolled; `rollcall-admin user add {0}` enrols")]
    NotEnrolled(Email),
    #[error("the certificate {0} is noted as {1}'s, and stays so; revoke it, and make another")]
    SomebodyElses(Serial, String),
    #[error("the database did not answer within {}", humantime::format_duration(*.0))]
    Deadline(Duration),
    #[error(
        "the server {0} signs with the same key, and listeners believe one of the two: give this one a pair of its own \
         (docs/operations.md, \"Several servers\")"
    )]
    SameKey(String),
    /// It was asked for something, and may have done it.
    #[error("{0}")]
    InDoubt(Box<Error>),
    #[error("{0} of its processes do not end, which are in doubt: no further connection is opened")]
    Unended(usize),
    #[error("a row breaks the constraints of its table")]
    BadRow,
    /// The text never holds the URL, which may hold the password.
    #[error("DATABASE_URL is malformed: {0}")]
    Url(Cow<'static, str>),
    #[error(transparent)]
    File(#[from] FileError<tls::Fault>),
    /// Settings that are not in force.
    #[error("DATABASE_URL leads to a connection pooler that drops the settings {0}: {DIRECTLY}")]
    Dropped(String),
    /// Statements of somebody else on our connection, or a protocol that is not PostgreSQL's.
    #[error("DATABASE_URL leads to a connection pooler ({}): {DIRECTLY}", plain(.0))]
    Pooler(sqlx::Error),
    #[error(
        "the database does not let the role of DATABASE_URL in ({}): look at its name and password there, at the role, and at \
         pg_hba.conf", plain(.0)
    )]
    Refused(sqlx::Error),
    /// HAProxy ends a connection that it can hand to nobody.
    #[error("the database ended the connection without a word: there is no primary behind it now")]
    NoPrimary,
    #[error("nothing can be recorded in the database: {0}")]
    CannotRecord(String),
    #[error("cannot bring the schema up to date: {}", plain_migration(.0))]
    Migrate(#[from] MigrateError),
    #[error("database: {}", plain(.0))]
    Database(sqlx::Error),
}

/// Without the line of PostgreSQL's source, which sqlx adds.
fn plain(error: &sqlx::Error) -> String {
    error.as_database_error().map_or_else(|| error.to_string(), |error| error.message().to_owned())
}

fn plain_migration(error: &MigrateError) -> String {
    match error {
        MigrateError::Execute(error) => plain(error),
        MigrateError::ExecuteMigration(error, version) => format!("migration {version}: {}", plain(error)),
        other => other.to_string(),
    }
}

const DIRECTLY: &str = "name PostgreSQL itself; the server needs three connections and no more";

impl Error {
    /// Is it the database that is away, so that the same call may succeed later?
    pub fn is_transient(&self) -> bool {
        let error = match self {
            Error::Deadline(_)
            | Error::InDoubt(_)
            | Error::Unended(_)
            | Error::CannotRecord(_)
            | Error::NoPrimary => {
                return true;
            }
            Error::Database(error) | Error::Migrate(MigrateError::Execute(error)) => error,
            _ => return false,
        };
        match error {
            // A handshake may succeed once the other end has a certificate that is good, or has one at all.
            sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::WorkerCrashed => true,
            sqlx::Error::Database(error) => error.code().is_some_and(is_transient_sqlstate),
            _ => false,
        }
    }

    /// Is it a mistake in the settings, or in a file that they name?
    pub fn is_configuration(&self) -> bool {
        matches!(
            self,
            Error::Url(_)
                | Error::File(_)
                | Error::Dropped(_)
                | Error::Pooler(_)
                | Error::Refused(_)
                | Error::SameKey(_)
                | Error::Database(sqlx::Error::Configuration(_))
        )
    }

    /// Does the role lack a right?
    pub fn is_denied(&self) -> bool {
        let (Error::Database(error)
        | Error::Migrate(MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _))) = self
        else {
            return false;
        };
        error.as_database_error().is_some_and(|error| error.code().as_deref() == Some("42501"))
    }

    /// Did no answer come, so that a commit may have been done and may still wait for a standby?
    fn is_silence(&self) -> bool {
        matches!(self, Error::Deadline(_) | Error::Database(sqlx::Error::Io(_)))
    }

    /// Did the connection end, so that another one may do?
    fn is_lost(&self) -> bool {
        match self {
            Error::Database(sqlx::Error::Io(_)) => true,
            // The last word of a backend that is told to go: admin shutdown, crash, idle session timeout.
            Error::Database(sqlx::Error::Database(error)) => {
                error.code().is_some_and(|code| code.starts_with("57P"))
            }
            _ => false,
        }
    }

    /// Does the database take no writes from anybody?
    pub fn is_read_only(&self) -> bool {
        match self {
            Error::CannotRecord(why) => why == STANDBY || why == READ_ONLY,
            Error::Database(sqlx::Error::Database(error)) => error.code().as_deref() == Some("25006"),
            _ => false,
        }
    }

    /// Did a statement wait too long for somebody else's lock?
    pub fn is_locked(&self) -> bool {
        matches!(self, Error::Database(sqlx::Error::Database(error)) if error.code().as_deref() == Some("55P03"))
    }
}

/// PostgreSQL, appendix A: connection exceptions (08), read-only, as a standby is until it is promoted (25006),
/// out of resources (53), operator intervention (57, starting up and cancelled by timeout among them), lock not
/// available.
fn is_transient_sqlstate(code: Cow<'_, str>) -> bool {
    ["08", "25006", "53", "57"].iter().any(|class| code.starts_with(class)) || code == "55P03"
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        if let sqlx::Error::Protocol(text) = &error
            && text.contains("unexpected response from SSLRequest: 0x00")
        {
            return Error::NoPrimary;
        }
        let code = error.as_database_error().and_then(|error| error.code());
        match code.as_deref() {
            // Our prepared statement is there before we prepared it, or is gone.
            Some("42P05" | "26000") => Error::Pooler(error),
            Some("08P01") if plain(&error).contains("startup parameter") => Error::Pooler(error),
            // The password; the role, or the way in which it comes.
            Some("28P01" | "28000") => Error::Refused(error),
            _ => Error::Database(error),
        }
    }
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
