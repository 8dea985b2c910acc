//! The history: one row for each time that somebody turned online, late or offline.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Executor, Row};

use super::presence::State;
use super::{Error, Store};
use crate::protocol::status::Email;

/// Months whose partitions are made ahead, with the present one.
const AHEAD: i32 = 3;
/// Rows that are deleted at once.
const PART: i64 = 10_000;

/// The kind of a transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Online,
    Late,
    Offline,
    /// A server cannot hear, so that its people are unknown. One event, however many they are.
    Deaf,
    Hears,
}

impl Kind {
    const ALL: [Kind; 5] = [Kind::Online, Kind::Late, Kind::Offline, Kind::Deaf, Kind::Hears];

    pub const fn word(self) -> &'static str {
        match self {
            Kind::Online => "online",
            Kind::Late => "late",
            Kind::Offline => "offline",
            Kind::Deaf => "deaf",
            Kind::Hears => "hears",
        }
    }

    /// `None` of a state that has no event: nobody turned anything.
    pub const fn of(state: State) -> Option<Kind> {
        match state {
            State::Online => Some(Kind::Online),
            State::Late => Some(Kind::Late),
            State::Offline => Some(Kind::Offline),
            State::Unknown | State::Never => None,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Kind {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|kind| kind.word() == word).ok_or(())
    }
}

/// One transition. Times are nanoseconds since the Unix epoch; the database keeps microseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// 0 until it is written.
    pub id: i64,
    /// Somebody noticed it then.
    pub at_ns: u64,
    /// `None`: it is about the server.
    pub email: Option<String>,
    pub kind: Kind,
    /// It came to pass between then and `at_ns`.
    pub since_ns: Option<u64>,
    pub ip: Option<IpAddr>,
    pub server: Option<String>,
}

/// A time as the database has it, of nanoseconds.
pub(super) fn microseconds(ns: u64) -> i64 {
    (ns / 1000).cast_signed()
}

/// A column with a time, in microseconds.
macro_rules! us {
    ($column:literal) => {
        concat!("(extract(epoch from ", $column, ") * 1000000)::bigint")
    };
}
pub(super) use us;

/// Events, by this condition.
macro_rules! events {
    ($rest:literal) => {
        concat!(
            "select id, ",
            super::events::us!("at"),
            ", events.email, kind, ",
            super::events::us!("since"),
            ", host(events.ip), events.server from ",
            $rest
        )
    };
}
pub(super) use events;

/// A time in a statement, of microseconds.
macro_rules! at_us {
    ($value:literal) => {
        concat!("(timestamptz 'epoch' + ", $value, "::bigint * interval '1 microsecond')")
    };
}
pub(super) use at_us;

impl Event {
    pub(super) fn from_row(row: &PgRow) -> Result<Self, Error> {
        let ns = |us: i64| u64::try_from(us).map(|us| us.saturating_mul(1000)).map_err(|_| Error::BadRow);
        let ip: Option<&str> = row.try_get(5)?;
        Ok(Self {
            id: row.try_get(0)?,
            at_ns: ns(row.try_get(1)?)?,
            email: row.try_get(2)?,
            kind: row.try_get::<&str, _>(3)?.parse().map_err(|()| Error::BadRow)?,
            since_ns: row.try_get::<Option<i64>, _>(4)?.map(ns).transpose()?,
            ip: ip.map(str::parse).transpose().map_err(|_| Error::BadRow)?,
            server: row.try_get(6)?,
        })
    }

    pub(super) fn all(rows: &[PgRow]) -> Result<Vec<Self>, Error> {
        rows.iter().map(Self::from_row).collect()
    }
}

/// The change that [`Store::maintain_events`] made.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Maintained {
    pub made: Vec<String>,
    pub dropped: Vec<String>,
    /// Rows that were too old, of months that go on.
    pub deleted: u64,
}

impl Store {
    /// The events of a person since this time, in the order in which they were written, at most so many of the newest.
    pub async fn history(&self, email: &Email, since_ns: u64, most: u32) -> Result<Vec<Event>, Error> {
        self.run(async |connection| {
            let rows = sqlx::query(concat!(
                "select * from (",
                events!("events where email = $1 and at >= "),
                at_us!("$2"),
                " order by id desc limit $3) as newest order by 1"
            ))
            .bind(email.as_str())
            .bind(microseconds(since_ns))
            .bind(i64::from(most))
            .fetch_all(&mut *connection)
            .await?;
            if rows.is_empty() {
                super::people::must_be_enrolled(connection, email).await?;
            }
            Event::all(&rows)
        })
        .await
    }

    /// When each server could not hear since this time, and when it heard again.
    pub async fn turns_of_servers(&self, since_ns: u64) -> Result<Vec<Event>, Error> {
        self.run(async |connection| {
            let rows = sqlx::query(concat!(
                events!("events where email is null and at >= "),
                at_us!("$1"),
                " order by id"
            ));
            Event::all(&rows.bind(microseconds(since_ns)).fetch_all(connection).await?)
        })
        .await
    }

    /// The last event of each person after this email (after "": from the first on), of at most so many people, in the
    /// order of their emails. Returns the email of the last one that was asked for, too; `None` after the last.
    pub async fn last_events_after(
        &self,
        email: &str,
        most: u32,
    ) -> Result<(Vec<Event>, Option<String>), Error> {
        self.run(async |connection| {
            let to: Option<String> = sqlx::query_scalar(
                "select max(email) from (select email from users where email > $1 order by email limit $2) as page",
            )
            .bind(email)
            .bind(i64::from(most))
            .fetch_one(&mut *connection)
            .await?;
            let Some(to) = to else { return Ok((Vec::new(), None)) };
            let rows = sqlx::query(events!(
                "users cross join lateral (
                     select * from events where events.email = users.email order by id desc limit 1
                 ) as events
                 where users.email > $1 and users.email <= $2 order by users.email"
            ))
            .bind(email)
            .bind(&to)
            .fetch_all(connection)
            .await?;
            Ok((Event::all(&rows)?, Some(to)))
        })
        .await
    }

    /// The last event of each server.
    pub async fn last_events_of_servers(&self) -> Result<Vec<Event>, Error> {
        self.run(async |connection| {
            let rows = sqlx::query(events!(
                "servers cross join lateral (
                     select * from events where events.server = servers.name and events.email is null
                      order by id desc limit 1
                 ) as events
                 order by servers.name"
            ));
            Event::all(&rows.fetch_all(connection).await?)
        })
        .await
    }

    /// Makes the partitions of this month and of those to come, and drops what is older than `keep`.
    pub async fn maintain_events(&self, keep: Duration) -> Result<Maintained, Error> {
        let mut done = self
            .transaction(async |connection| {
                // One at a time. A board that writes waits for it.
                connection.execute("lock table events in share row exclusive mode").await?;
                let (present, last) = months(connection, keep).await?;
                let mut done = Maintained::default();
                let there: Vec<String> = sqlx::query_scalar(
                    "select relname::text from pg_inherits join pg_class on pg_class.oid = inhrelid
                      where inhparent = 'events'::regclass and relname ~ '^events_[0-9]{4}_[0-9]{2}$' order by 1",
                )
                .fetch_all(&mut *connection)
                .await?;
                for month in (0..AHEAD).map(|ahead| present.plus(ahead)) {
                    if !there.contains(&month.name()) {
                        make(connection, month).await?;
                        done.made.push(month.name());
                    }
                }
                for name in there {
                    if name < last.name() {
                        let drop = format!("drop table {name}");
                        connection.execute(sqlx::AssertSqlSafe(drop)).await?;
                        done.dropped.push(name);
                    }
                }
                Ok(done)
            })
            .await?;
        loop {
            let deleted = self.delete_older(keep).await?;
            done.deleted += deleted;
            if deleted < PART.cast_unsigned() {
                return Ok(done);
            }
        }
    }

    async fn delete_older(&self, keep: Duration) -> Result<u64, Error> {
        self.transaction(async |connection| {
            let deleted = sqlx::query(
                "delete from events where (id, at) in (
                     select id, at from events where at < now() - $1::bigint * interval '1 second' order by id limit $2)",
            )
            .bind(keep.as_secs().cast_signed())
            .bind(PART)
            .execute(connection)
            .await?;
            Ok(deleted.rows_affected())
        })
        .await
    }
}

/// A month of UTC, counted since the year 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Month(i32);

impl Month {
    fn plus(self, months: i32) -> Self {
        Self(self.0 + months)
    }

    fn name(self) -> String {
        format!("events_{:04}_{:02}", self.0.div_euclid(12), self.0.rem_euclid(12) + 1)
    }

    fn begin(self) -> String {
        format!("{:04}-{:02}-01 00:00:00+00", self.0.div_euclid(12), self.0.rem_euclid(12) + 1)
    }
}

/// The present month, and the first of which something is kept.
async fn months(connection: &mut PgConnection, keep: Duration) -> Result<(Month, Month), Error> {
    let row = sqlx::query(
        "select (extract(year from present) * 12 + extract(month from present) - 1)::integer,
                (extract(year from last) * 12 + extract(month from last) - 1)::integer
           from (select now() at time zone 'utc' as present,
                        (now() - $1::bigint * interval '1 second') at time zone 'utc' as last) as times",
    )
    .bind(keep.as_secs().cast_signed())
    .fetch_one(connection)
    .await?;
    Ok((Month(row.try_get(0)?), Month(row.try_get(1)?)))
}

/// The rows that the default partition has of that month move.
async fn make(connection: &mut PgConnection, month: Month) -> Result<(), Error> {
    let (name, begin, end) = (month.name(), month.begin(), month.plus(1).begin());
    for statement in [
        // One that an interrupted restore has left beside the others.
        format!("drop table if exists {name}"),
        format!("create table {name} (like events including defaults including constraints)"),
        format!(
            "with moved as (delete from events_default where at >= '{begin}' and at < '{end}' returning *)
             insert into {name} select * from moved"
        ),
        format!("alter table events attach partition {name} for values from ('{begin}') to ('{end}')"),
    ] {
        connection.execute(sqlx::AssertSqlSafe(statement)).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_follow_each_other() {
        let november = Month(2026 * 12 + 10);
        assert_eq!(
            (november.name().as_str(), november.plus(1).name().as_str()),
            ("events_2026_11", "events_2026_12")
        );
        assert_eq!(november.plus(2).begin(), "2027-01-01 00:00:00+00");
    }

    #[test]
    fn words_are_read_as_they_are_written() {
        for kind in Kind::ALL {
            assert_eq!(kind.word().parse(), Ok(kind));
        }
        assert!("mass".parse::<Kind>().is_err());
    }
}
