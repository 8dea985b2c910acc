//! The right to write the history, and to serve the hooks. One board has it at a time: the lock is the connection's, and
//! all is written over that connection, so that a board that lost the lock writes nothing any more.

use std::future::Future;
use std::time::Duration;

use async_std::future::timeout;
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor, Row};

use super::events::{Event, at_us, events, microseconds, us};
use super::{Error, Store};

/// "rollcall" in ASCII. The lock is one of this database.
const LOCK: i64 = 0x726f_6c6c_6361_6c6c;

/// A host that vanishes is noticed by PostgreSQL within half a minute, and the lock is free.
const KEEPALIVE: &str =
    "set tcp_keepalives_idle = 10; set tcp_keepalives_interval = 5; set tcp_keepalives_count = 3";

/// The lock and its connection. After an error it is of no use, and dropped.
pub struct Journal {
    connection: PgConnection,
    deadline: Duration,
}

/// The last event that a hook has been served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    pub event: i64,
    /// It knows of all that left until then.
    pub mass_until_ns: Option<u64>,
}

impl Store {
    /// Takes the lock. `None`: another board has it.
    pub async fn journal(&self) -> Result<Option<Journal>, Error> {
        let connection = self
            .within_deadline(async {
                let mut connection = self.connector.connect().await?.connection;
                connection.execute(KEEPALIVE).await?;
                let taken = sqlx::query_scalar("select pg_try_advisory_lock($1)").bind(LOCK);
                if taken.fetch_one(&mut connection).await? {
                    return Ok(Some(connection));
                }
                connection.close().await?;
                Ok(None)
            })
            .await?;
        Ok(connection.map(|connection| Journal { connection, deadline: self.deadline }))
    }
}

impl Journal {
    /// Frees the lock.
    pub async fn close(self) {
        let _ = timeout(self.deadline, self.connection.close()).await;
    }

    /// Writes these, in this order, in one transaction. One that is there already is not written twice, and one of
    /// somebody who was deleted meanwhile not at all.
    pub async fn append(&mut self, events: &[Event]) -> Result<(), Error> {
        let column = |value: fn(&Event) -> Option<String>| events.iter().map(value).collect::<Vec<_>>();
        let times = |value: fn(&Event) -> Option<u64>| -> Vec<Option<i64>> {
            events.iter().map(|event| value(event).map(microseconds)).collect()
        };
        let query = sqlx::query(concat!(
            "insert into events (at, email, kind, since, ip, server)
             select ",
            at_us!("given.at"),
            ", given.email, given.kind, ",
            at_us!("given.since"),
            ", given.ip::inet, given.server
               from unnest($1::bigint[], $2::text[], $3::text[], $4::bigint[], $5::text[], $6::text[])
               with ordinality as given (at, email, kind, since, ip, server, n)
              where given.email is null
                 or exists (select from users where users.email = given.email)
                    and not exists (select from events where events.email = given.email and events.at = ",
            at_us!("given.at"),
            ")
              order by n"
        ))
        .bind(times(|event| Some(event.at_ns)))
        .bind(column(|event| event.email.clone()))
        .bind(column(|event| Some(event.kind.word().to_owned())))
        .bind(times(|event| event.since_ns))
        .bind(column(|event| event.ip.map(|ip| ip.to_string())))
        .bind(column(|event| event.server.clone()));
        within(self.deadline, query.execute(&mut self.connection)).await?;
        Ok(())
    }

    /// This board looks now. Also tells whether the lock is still ours.
    pub async fn watch(&mut self, board: &str) -> Result<(), Error> {
        let query = sqlx::query(
            "insert into journal (board, watched_until) values ($1, clock_timestamp())
                 on conflict (is_here) do update set board = $1, watched_until = excluded.watched_until",
        )
        .bind(board);
        within(self.deadline, query.execute(&mut self.connection)).await?;
        Ok(())
    }

    /// The last board that looked, and when, in nanoseconds since the Unix epoch. `None`: none ever did.
    pub async fn watched(&mut self) -> Result<Option<(String, u64)>, Error> {
        let query = sqlx::query(concat!("select board, ", us!("watched_until"), " from journal"));
        let row = within(self.deadline, query.fetch_optional(&mut self.connection)).await?;
        row.map(|row| Ok((row.try_get(0)?, nanoseconds(row.try_get(1)?)))).transpose()
    }

    /// The place of this hook. A new one begins after the newest event.
    pub async fn served(&mut self, hook: &str) -> Result<Served, Error> {
        let query = sqlx::query(concat!(
            "with new as (
                 insert into hooks (name, event) values ($1, coalesce((select max(id) from events), 0))
                     on conflict (name) do nothing returning event, mass_until
             )
             select event, ",
            us!("mass_until"),
            " from new union all select event, ",
            us!("mass_until"),
            " from hooks where name = $1"
        ))
        .bind(hook);
        let row = within(self.deadline, query.fetch_one(&mut self.connection)).await?;
        let mass_until = row.try_get::<Option<i64>, _>(1)?;
        Ok(Served { event: row.try_get(0)?, mass_until_ns: mass_until.map(nanoseconds) })
    }

    pub async fn set_served(&mut self, hook: &str, served: Served) -> Result<(), Error> {
        let query = sqlx::query(concat!(
            "update hooks set event = $2, mass_until = ",
            at_us!("$3"),
            " where name = $1"
        ))
        .bind(hook)
        .bind(served.event)
        .bind(served.mass_until_ns.map(microseconds));
        within(self.deadline, query.execute(&mut self.connection)).await?;
        Ok(())
    }

    /// How many turned offline in this time, from this event on, and the first of their emails.
    pub async fn left(
        &mut self,
        id: i64,
        from_ns: u64,
        to_ns: u64,
        most: u32,
    ) -> Result<(u64, Vec<String>), Error> {
        let query = sqlx::query(concat!(
            "select count(*), (array_agg(email order by id))[1:$4] from events
              where id >= $1 and kind = 'offline' and at between ",
            at_us!("$2"),
            " and ",
            at_us!("$3")
        ))
        .bind(id)
        .bind(microseconds(from_ns))
        .bind(microseconds(to_ns))
        .bind(most.cast_signed());
        let row = within(self.deadline, query.fetch_one(&mut self.connection)).await?;
        let emails = row.try_get::<Option<Vec<String>>, _>(1)?.unwrap_or_default();
        Ok((row.try_get::<i64, _>(0)?.cast_unsigned(), emails))
    }

    /// The events after this one, at most so many, of no longer ago than this.
    pub async fn events_after(&mut self, id: i64, most: u32, ago: Duration) -> Result<Vec<Event>, Error> {
        let query = sqlx::query(events!(
            "events where id > $1 and at > now() - $3::bigint * interval '1 second' order by id limit $2"
        ))
        .bind(id)
        .bind(i64::from(most))
        .bind(ago.as_secs().cast_signed());
        Event::all(&within(self.deadline, query.fetch_all(&mut self.connection)).await?)
    }
}

fn nanoseconds(us: i64) -> u64 {
    us.cast_unsigned().saturating_mul(1000)
}

async fn within<T>(
    deadline: Duration,
    answer: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, Error> {
    match timeout(deadline, answer).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Error::Deadline(deadline)),
    }
}
