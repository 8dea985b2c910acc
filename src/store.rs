//! The record: the only SQL of the program.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions, PgRow};
use sqlx::{Executor, Row};

use crate::certificate::{Certificate, Serial};
use crate::status::Email;

mod record;
pub use record::{RECORD, Recorded, Recorder, Verdict};

/// The statements of a heartbeat are planned once per connection and always by the index, whatever the
/// statistics say: a plan that scans the table once the batch grows would be the end of the server.
/// A batch waits for a locked row no longer than this.
pub const PLANNER: [(&str, &str); 6] = [
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("jit", "off"),
    ("lock_timeout", "200ms"),
];

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("./sql");

/// A pool of connections to one database. Cloning it is cheap and shares the pool.
#[derive(Clone)]
pub struct Store {
    pool: PgPool,
    deadline: Duration,
}

/// One enrolled person or device, as `rollcall-admin user list` shows it.
pub struct User {
    pub email: String,
    pub disabled: bool,
    /// When and from where, if ever.
    pub seen: Option<(u64, IpAddr, u16)>,
}

/// One certificate as `rollcall-admin cert list` shows it.
pub struct Known {
    pub certificate: Certificate,
    pub email: String,
    /// Up to a minute before its last use.
    pub last_used_ns: Option<u64>,
    pub revoked: bool,
}

impl Store {
    /// Checks the URL and connects to nothing yet; the first use does.
    ///
    /// `deadline` bounds the wait for a connection, and the server cancels a statement that takes longer.
    pub fn open(url: &str, deadline: Duration, connections: u32) -> Result<Self, Error> {
        let timeout = format!("{}ms", deadline.as_millis().max(1));
        if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
            return Err(Error::Url);
        }
        let options = PgConnectOptions::from_str(url)
            .map_err(|_| Error::Url)?
            .application_name("rollcall")
            .options([("statement_timeout", timeout.as_str())])
            .options(PLANNER);
        let pool = PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(deadline)
            .connect_lazy_with(options);
        Ok(Self { pool, deadline })
    }

    /// Brings the schema up to date; does nothing when it already is.
    ///
    /// Looks first: the server's own role may read what was applied and change nothing.
    pub async fn migrate(&self) -> Result<(), Error> {
        let applied = sqlx::query_scalar::<_, i64>("select version from _sqlx_migrations where success");
        if let Ok(applied) = applied.fetch_all(&self.pool).await
            && MIGRATIONS.iter().all(|migration| applied.contains(&migration.version))
        {
            return Ok(());
        }
        MIGRATIONS.run(&self.pool).await.map_err(Error::from)
    }

    /// Says goodbye to the database, which would note a connection that just ends as lost.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Does the database answer?
    pub async fn ready(&self) -> Result<(), Error> {
        self.within_deadline(async { Ok(self.pool.execute("select from users limit 0").await?) })
            .await
            .map(|_| ())
    }

    /// Why whoever connects like this cannot do what a request needs, if so.
    pub async fn cannot_record(&self) -> Result<Option<String>, Error> {
        let why = sqlx::query_scalar(
            "select case
                when current_setting('transaction_read_only')::boolean then 'it is read-only'
                when not (
                    select bool_and(has_column_privilege(tab, col, may))
                      from (values
                          ('_sqlx_migrations', 'version', 'select'),
                          ('users', 'email', 'select'), ('users', 'disabled_at', 'select'),
                          ('users', 'last_seen_ns', 'update'), ('users', 'ip', 'update'), ('users', 'port', 'update'),
                          ('certificates', 'serial', 'select'), ('certificates', 'revoked_at', 'select'),
                          ('certificates', 'serial', 'insert'), ('certificates', 'email', 'insert'),
                          ('certificates', 'fingerprint', 'insert'), ('certificates', 'not_after', 'insert'),
                          ('certificates', 'last_used_ns', 'insert'), ('certificates', 'last_used_ns', 'update')
                      ) as needed (tab, col, may)
                ) then 'the role ' || current_user || ' lacks rights of deploy/grants.sql'
            end",
        );
        self.within_deadline(async { Ok(why.fetch_one(&self.pool).await?) }).await
    }

    /// What time is it there? To the microsecond, which is all that PostgreSQL keeps.
    pub async fn clock(&self) -> Result<SystemTime, Error> {
        let now =
            sqlx::query_scalar::<_, i64>("select (extract(epoch from clock_timestamp()) * 1000000)::bigint");
        let micros = self.within_deadline(async { Ok(now.fetch_one(&self.pool).await?) }).await?;
        Ok(SystemTime::UNIX_EPOCH + Duration::from_micros(u64::try_from(micros).unwrap_or_default()))
    }

    /// Enrols; `false` if the row was there before, which stays as it was, disabled or not.
    pub async fn enrol(&self, email: &Email) -> Result<bool, Error> {
        let done = sqlx::query("insert into users (email) values ($1) on conflict do nothing")
            .bind(email.as_str())
            .execute(&self.pool)
            .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Disables or enables; `false` if it already was.
    pub async fn set_disabled(&self, email: &Email, disabled: bool) -> Result<bool, Error> {
        let done = sqlx::query(
            "update users set disabled_at = case when $2 then now() end
              where email = $1 and (disabled_at is not null) <> $2",
        )
        .bind(email.as_str())
        .bind(disabled)
        .execute(&self.pool)
        .await?;
        if done.rows_affected() == 1 {
            return Ok(true);
        }
        self.must_be_enrolled(email).await.map(|()| false)
    }

    /// Everybody, the most recently seen first.
    pub async fn users(&self) -> Result<Vec<User>, Error> {
        sqlx::query(
            "select email, disabled_at is not null, last_seen_ns, host(ip), port
               from users order by last_seen_ns desc nulls last, email",
        )
        .fetch_all(&self.pool)
        .await?
        .iter()
        .map(User::from_row)
        .collect()
    }

    async fn must_be_enrolled(&self, email: &Email) -> Result<(), Error> {
        let row = sqlx::query("select from users where email = $1")
            .bind(email.as_str())
            .fetch_optional(&self.pool)
            .await?;
        row.map(|_| ()).ok_or_else(|| Error::NotEnrolled(email.clone()))
    }

    /// Notes a certificate before its first use; `false` if it was known.
    pub async fn register(&self, email: &Email, certificate: &Certificate) -> Result<bool, Error> {
        self.must_be_enrolled(email).await?;
        let done = sqlx::query(
            "insert into certificates (serial, email, fingerprint, not_after) values ($1, $2, $3, $4)
                 on conflict do nothing",
        )
        .bind(certificate.serial.as_str())
        .bind(email.as_str())
        .bind(&certificate.fingerprint)
        .bind(certificate.not_after as i64)
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Revokes for good; `false` if it already was. Holds from the next request on.
    pub async fn revoke(&self, serial: &Serial) -> Result<bool, Error> {
        let row = sqlx::query(
            "update certificates set revoked_at = coalesce(certificates.revoked_at, now())
               from certificates as before
              where certificates.serial = $1 and before.serial = $1
          returning before.revoked_at is null",
        )
        .bind(serial.as_str())
        .fetch_optional(&self.pool)
        .await?;
        match row {
            Some(row) => Ok(row.try_get(0)?),
            None => Err(Error::UnknownCertificate(serial.clone())),
        }
    }

    /// Every known certificate, or one email's; the soonest end first.
    pub async fn certificates(&self, email: Option<&Email>) -> Result<Vec<Known>, Error> {
        sqlx::query(
            "select serial, email, fingerprint, not_after, last_used_ns, revoked_at is not null
               from certificates where $1::text is null or email = $1 order by not_after, serial",
        )
        .bind(email.map(Email::as_str))
        .fetch_all(&self.pool)
        .await?
        .iter()
        .map(Known::from_row)
        .collect()
    }

    /// A frozen database neither answers nor fails: only our own clock ends that wait.
    async fn within_deadline<T>(&self, answer: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        match async_std::future::timeout(self.deadline, answer).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::Deadline(self.deadline)),
        }
    }
}

impl Known {
    fn from_row(row: &PgRow) -> Result<Self, Error> {
        let serial: String = row.try_get(0)?;
        let last_used_ns: Option<i64> = row.try_get(4)?;
        Ok(Self {
            certificate: Certificate {
                serial: Serial::new(&serial).map_err(|_| Error::BadRow)?,
                fingerprint: row.try_get(2)?,
                not_after: row.try_get::<i64, _>(3)? as u64,
            },
            email: row.try_get(1)?,
            last_used_ns: last_used_ns.map(|ns| ns as u64),
            revoked: row.try_get(5)?,
        })
    }
}

impl User {
    fn from_row(row: &PgRow) -> Result<Self, Error> {
        let seen = match row.try_get::<Option<i64>, _>(2)? {
            None => None,
            Some(last_seen_ns) => {
                let ip: String = row.try_get(3)?;
                let ip = ip.parse().map_err(|_| Error::BadRow)?;
                let port = u16::try_from(row.try_get::<i32, _>(4)?).map_err(|_| Error::BadRow)?;
                Some((last_seen_ns as u64, ip, port))
            }
        };
        Ok(Self { email: row.try_get(0)?, disabled: row.try_get(1)?, seen })
    }
}

#[derive(Debug)]
pub enum Error {
    NotEnrolled(Email),
    UnknownCertificate(Serial),
    Deadline(Duration),
    BadRow,
    Url,
    Migrate(sqlx::migrate::MigrateError),
    Database(sqlx::Error),
}

impl Error {
    /// Is it the database that is away, so that the same call may succeed later?
    pub fn is_transient(&self) -> bool {
        let error = match self {
            Error::Deadline(_) => return true,
            Error::Database(error) | Error::Migrate(sqlx::migrate::MigrateError::Execute(error)) => error,
            _ => return false,
        };
        match error {
            sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed => true,
            sqlx::Error::Database(error) => error.code().is_some_and(is_transient_sqlstate),
            _ => false,
        }
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

    /// Did a statement wait too long for somebody else's lock?
    fn is_locked(&self) -> bool {
        matches!(self, Error::Database(sqlx::Error::Database(error)) if error.code().as_deref() == Some("55P03"))
    }
}

/// PostgreSQL, appendix A: connection exceptions (08), out of resources (53), operator
/// intervention (57, starting up and cancelled by timeout among them), lock not available.
fn is_transient_sqlstate(code: Cow<'_, str>) -> bool {
    ["08", "53", "57"].iter().any(|class| code.starts_with(class)) || code == "55P03"
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Error::Database(error)
    }
}

impl From<sqlx::migrate::MigrateError> for Error {
    fn from(error: sqlx::migrate::MigrateError) -> Self {
        Error::Migrate(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NotEnrolled(email) => {
                write!(f, "{email} is not enrolled; `rollcall-admin user add {email}` enrols")
            }
            Error::UnknownCertificate(serial) => {
                write!(f, "no certificate {serial} is known; `rollcall-admin cert list` shows those that are")
            }
            Error::Deadline(deadline) => write!(f, "the database did not answer within {deadline:?}"),
            Error::BadRow => f.write_str("a row of users holds what its constraints forbid"),
            // Without the URL or the reason: either may hold the password.
            Error::Url => f.write_str(
                "DATABASE_URL is malformed; its form is postgres://USER@HOST/DATABASE (PostgreSQL 14 or newer)",
            ),
            Error::Migrate(error) => write!(f, "cannot bring the schema up to date: {error}"),
            Error::Database(error) => write!(f, "database: {error}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Migrate(error) => Some(error),
            Error::Database(error) => Some(error),
            _ => None,
        }
    }
}
