//! The errors of the record: whose mistake each is, and whether it may pass.

use std::borrow::Cow;
use std::io;
use std::time::Duration;

use sqlx::migrate::MigrateError;

use super::sighting::Serial;
use super::{READ_ONLY, STANDBY, tls};
use crate::files::FileError;
use crate::protocol::status::Email;

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
        "the database does not let the role of DATABASE_URL in ({}): one of the stack's own just up mends, as the user of the \
         stack; for another look at the name and the password in DATABASE_URL, at the role, and at pg_hba.conf", plain(.0)
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

/// PostgreSQL, appendix A.
fn code(error: &sqlx::Error) -> Option<Cow<'_, str>> {
    error.as_database_error().and_then(|error| error.code())
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
    pub(super) fn is_silence(&self) -> bool {
        matches!(self, Error::Deadline(_) | Error::Database(sqlx::Error::Io(_)))
    }

    /// Was the answer late?
    pub fn is_late(&self) -> bool {
        match self {
            Error::Deadline(_) | Error::Unended(_) => true,
            Error::InDoubt(error) => error.is_late(),
            // PostgreSQL cancels a statement that takes longer than we wait.
            Error::Database(error) => code(error).as_deref() == Some("57014"),
            _ => false,
        }
    }

    /// Is nobody there to connect to, or did the connection end?
    pub fn is_unreachable(&self) -> bool {
        match self {
            Error::InDoubt(error) => error.is_unreachable(),
            error => error.is_lost(),
        }
    }

    /// Could no TLS be agreed on, for whichever reason?
    pub fn is_untrusted(&self) -> bool {
        match self {
            Error::Database(sqlx::Error::Tls(_)) => true,
            // The form in which rustls says that it does not trust a certificate.
            Error::Database(sqlx::Error::Io(error)) => error.kind() == io::ErrorKind::InvalidData,
            _ => false,
        }
    }

    /// Did the connection end, so that another one may do?
    pub(super) fn is_lost(&self) -> bool {
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
        match code(&error).as_deref() {
            // Our prepared statement is there before we prepared it, or is gone.
            Some("42P05" | "26000") => Error::Pooler(error),
            Some("08P01") if plain(&error).contains("startup parameter") => Error::Pooler(error),
            // The password; the role, or the way in which it comes.
            Some("28P01" | "28000") => Error::Refused(error),
            _ => Error::Database(error),
        }
    }
}
