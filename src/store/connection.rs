//! Connections to PostgreSQL: the settings that the server's promise rests on, and the look, on each new connection,
//! whether they are in force.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{Connection, Row};

use super::Error;

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

/// The parameters of a URL. sqlx passes over any other, and somebody wrote it for a reason.
const PARAMETERS: [&str; 18] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
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
        check(url).map_err(Error::Url)?;
        let timeout = format!("{}ms", deadline.as_millis().max(1));
        let settings = SETTINGS.into_iter().chain([("statement_timeout", timeout.as_str())]);
        let options = PgConnectOptions::from_str(url)
            .map_err(|_| Error::Url(FORM))?
            .application_name("rollcall")
            .options(settings.clone());
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

    /// A new connection on which the settings are in force. Its guarantee is in the log once, and again when it differs.
    pub async fn connect(&self) -> Result<PgConnection, Error> {
        let mut connection = PgConnection::connect_with(&self.options).await?;
        let guarantee = self.ask(&mut connection).await?;
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.as_ref() != Some(&guarantee) {
            let level = if guarantee.holds() { log::Level::Info } else { log::Level::Warn };
            log::log!(level, "{guarantee}");
            *logged = Some(guarantee);
        }
        Ok(connection)
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

const FORM: &str = "its form is postgres://USER@HOST/DATABASE";

/// Finds the parameters that sqlx would pass over. The answer holds nothing of the URL, which may hold the password.
fn check(url: &str) -> Result<(), &'static str> {
    let rest = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://")).ok_or(FORM)?;
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = place.split_once('/').map_or(place, |(authority, _)| authority);
    let mut hosts = authority.rsplit_once('@').map_or(authority, |(_, host)| host).to_owned();
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if !PARAMETERS.contains(&name) && !name.starts_with("options[") {
            return Err("it has a parameter that would have no effect; those of sqlx and of \
                        options[NAME]=VALUE have one");
        }
        let is_path = value.starts_with('/') || value.to_ascii_lowercase().starts_with("%2f");
        if matches!(name, "host" | "hostaddr" | "port") && !is_path {
            hosts.push_str(value);
        }
    }
    if hosts.contains(',') || hosts.to_ascii_lowercase().contains("%2c") {
        return Err(
            "it names several hosts; put HAProxy or a virtual address in front of them and name that",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_nothing_that_would_have_no_effect() {
        for url in [
            "postgres://a@b/c",
            "postgresql://a:p,w@b:5432/c?sslmode=disable&options[search_path]=x",
            "postgres://a@localhost/c?host=/run/a,b&user=x",
            "postgres://a@localhost/c?host=%2Frun%2Fa,b",
        ] {
            assert_eq!(check(url), Ok(()), "{url}");
        }
        for (url, why) in [
            ("mysql://a@b/c", FORM),
            ("", FORM),
            ("postgres://a@b,c/d", "several hosts"),
            ("postgres://a@b:1,c:2/d", "several hosts"),
            ("postgres://a@b%2Cc/d", "several hosts"),
            ("postgres:///d?host=b,c", "several hosts"),
            ("postgres://a@b/c?target_session_attrs=read-write", "no effect"),
            ("postgres://a@b/c?connect_timeout=3", "no effect"),
            ("postgres://a@b/c?sslmode=disable&keepalives", "no effect"),
            ("postgres://a@b/c?optionsx=1", "no effect"),
        ] {
            assert!(check(url).is_err_and(|said| said.contains(why)), "{url}");
        }
    }
}
