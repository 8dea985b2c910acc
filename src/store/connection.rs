//! Connections to PostgreSQL: the settings that the server's promise rests on, and the look, on each new connection,
//! whether they are in force.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{Connection, Row};

use super::aid::Backend;
use super::{Error, READ_ONLY, STANDBY, url};

/// * A commit is on the disk before it is acknowledged, with any setting of the role.
/// * Two servers that write the same row wait for each other, and neither fails.
/// * The statements of a heartbeat are planned once per connection and always by the index, whatever the
///   statistics say: a plan that scans the table once the batch grows would be the end of the server.
/// * A batch waits for a locked row no longer than this.
pub const SETTINGS: [(&str, &str); 8] = [
    ("synchronous_commit", "on"),
    ("default_transaction_isolation", "read committed"),
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("jit", "off"),
    ("lock_timeout", "200ms"),
];

/// How to connect to one database.
#[derive(Clone)]
pub struct Connector {
    options: PgConnectOptions,
    /// Are the settings in force, and which faults does an acknowledged commit survive?
    question: Arc<str>,
    /// The last connection's guarantee, as the log has it.
    logged: Arc<Mutex<Option<Guarantee>>>,
}

/// A connection on which the settings are in force, and the process at its other end.
pub struct Session {
    pub connection: PgConnection,
    pub backend: Backend,
    /// Nothing can be written there, for this reason.
    pub is_closed: Option<&'static str>,
}

/// The faults that an acknowledged commit survives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guarantee {
    version: String,
    standbys: String,
    fsync: bool,
    full_page_writes: bool,
}

impl Connector {
    /// Checks the URL and connects to nothing.
    ///
    /// PostgreSQL cancels a statement that takes longer than `deadline`.
    pub fn new(url: &str, deadline: Duration) -> Result<Self, Error> {
        let (options, files) = url::read(url)?;
        if let Some(files) = files {
            files.check()?;
        }
        let timeout = format!("{}ms", deadline.as_millis().max(1));
        let settings = SETTINGS.into_iter().chain([("statement_timeout", timeout.as_str())]);
        let options = options.application_name("rollcall").options(settings.clone());
        let wanted: Vec<String> = settings.map(|(name, value)| format!("('{name}', '{value}')")).collect();
        // PostgreSQL writes 2000ms as 2s.
        let question = format!(
            "select (select string_agg(name, ', ') from (values {}) as wanted (name, value)
                      where case when value ~ '^[0-9]+ms$' then current_setting(name)::interval <> value::interval
                                 else current_setting(name) <> value end),
                    current_setting('server_version'), current_setting('synchronous_standby_names'),
                    current_setting('fsync'), current_setting('full_page_writes')",
            wanted.join(", ")
        );
        Ok(Self { options, question: question.into(), logged: Arc::default() })
    }

    /// A new connection. Its guarantee is in the log once, and again when it differs.
    pub async fn connect(&self) -> Result<Session, Error> {
        let mut connection = PgConnection::connect_with(&self.options).await?;
        let guarantee = self.ask(&mut connection).await?;
        let row = sqlx::raw_sql(
            "select pid, backend_start::text, pg_is_in_recovery(),
                    current_setting('transaction_read_only')::boolean
               from pg_stat_activity where pid = pg_backend_pid()",
        )
        .fetch_one(&mut connection)
        .await?;
        let backend = Backend { pid: row.try_get(0)?, began: row.try_get(1)? };
        let is_closed = match (row.try_get(2)?, row.try_get(3)?) {
            (true, _) => Some(STANDBY),
            (_, true) => Some(READ_ONLY),
            _ => None,
        };
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.as_ref() != Some(&guarantee) {
            let level = if guarantee.holds() { log::Level::Info } else { log::Level::Warn };
            log::log!(level, "{guarantee}");
            *logged = Some(guarantee);
        }
        Ok(Session { connection, backend, is_closed })
    }

    /// Who connects.
    pub fn role(&self) -> &str {
        self.options.get_username()
    }

    /// For a statement that may take its time: a migration of a large table.
    pub fn patient(&self) -> PgConnectOptions {
        self.options.clone().options([("statement_timeout", "0"), ("lock_timeout", "0")])
    }

    /// Asks in one simple query (no prepared statement, which a pooler might have already), so that this also tells
    /// whether an older connection still works.
    pub async fn ask(&self, connection: &mut PgConnection) -> Result<Guarantee, Error> {
        let row = sqlx::raw_sql(sqlx::AssertSqlSafe(&*self.question)).fetch_one(connection).await?;
        if let Some(dropped) = row.try_get::<Option<String>, _>(0)? {
            return Err(Error::Dropped(dropped));
        }
        let is_on = |column| Ok::<_, sqlx::Error>(row.try_get::<&str, _>(column)? == "on");
        Ok(Guarantee {
            version: row.try_get(1)?,
            standbys: row.try_get(2)?,
            fsync: is_on(3)?,
            full_page_writes: is_on(4)?,
        })
    }
}

impl Guarantee {
    pub fn holds(&self) -> bool {
        self.fsync && self.full_page_writes
    }
}

impl fmt::Display for Guarantee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgreSQL {}: ", self.version)?;
        match (self.fsync, self.full_page_writes) {
            (false, _) => f.write_str("fsync is off: a crash of its host loses acknowledged commits"),
            (_, false) => {
                f.write_str("full_page_writes is off: a crash of its host may damage acknowledged commits")
            }
            _ if self.standbys.is_empty() => f.write_str("a commit is on its disk before it is acknowledged"),
            _ => write!(
                f,
                "a commit is on its disk and on those of its synchronous standbys ({}) before it is acknowledged",
                self.standbys
            ),
        }
    }
}
