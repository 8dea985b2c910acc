//! The heartbeat: many sightings written by one statement, durable when it returns.

use sqlx::Row;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgRow, Postgres};

use super::{Error, Store};
use crate::certificate::Sighting;
use crate::status::Status;

/// What became of a batch.
pub struct Recorded {
    /// The rows as they were committed.
    pub committed: Vec<Status>,
    /// One for each sighting, in their order.
    pub verdicts: Vec<Verdict>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Committed,
    /// No row: nobody enrolled this address.
    NotEnrolled,
    Disabled,
    Revoked,
    /// Somebody else holds the row's lock; the others did not wait for it.
    Locked,
}

/// The parameters are arrays, one element for each sighting, each email once and in their order: rows are
/// visited in the order of the arrays, so two batches cannot wait for each other.
///
/// * Whom an administrator disabled, or whose certificate was revoked, before the statement began is
///   not touched by it.
/// * `last_seen_ns` never goes backwards.
/// * A certificate's row is written when it is new and then at most once a minute, so that the usual
///   heartbeat writes one row and reads another.
macro_rules! record {
    ($free:literal, $from:literal, $used:literal) => {
        concat!(
            "with seen as (
    select * from unnest($1::text[], $2::bigint[], $3::text[], $4::integer[], $5::text[], $6::text[], $7::bigint[])
      with ordinality as seen (email, last_seen_ns, ip, port, serial, fingerprint, not_after, n)
),
",
            $free,
            "committed as (
    update users
       set last_seen_ns = greatest(users.last_seen_ns, seen.last_seen_ns), ip = seen.ip::inet, port = seen.port
      from ",
            $from,
            " seen left join certificates using (serial)
     where users.email = seen.email and users.disabled_at is null and certificates.revoked_at is null
 returning seen.*, users.last_seen_ns as committed_ns,
           coalesce(certificates.last_used_ns < seen.last_seen_ns - 60000000000, true) as stale
)",
            $used,
            "
select n, committed_ns from committed"
        )
    };
}

/// The statement of a heartbeat, public so that anybody can ask PostgreSQL for its plan.
pub const RECORD: &str = record!(
    "",
    "seen",
    ",
used as (
    insert into certificates (serial, email, fingerprint, not_after, last_used_ns)
    select distinct on (serial) serial, email, fingerprint, not_after, last_seen_ns from committed where stale
        on conflict (serial) do update set last_used_ns = excluded.last_used_ns
)"
);
/// The same, but a row whose lock somebody holds is passed over, and certificates are left to a later
/// heartbeat: theirs may be the row that is locked. It costs a lock for each row, so it is only for the
/// batch that found one.
const RECORD_UNLOCKED: &str = record!(
    "free as (
    select seen.* from seen join users using (email) for no key update of users skip locked
),
",
    "free",
    ""
);

/// Why nothing was written: asked only for those to whom it happened.
const WHY_NOT: &str = "
select users.email is not null, users.disabled_at is not null, certificates.revoked_at is not null
  from unnest($1::text[], $2::text[]) with ordinality as seen (email, serial, n)
  left join users using (email) left join certificates using (serial)
 order by n";

/// Writes heartbeats over a connection that it keeps: to take one from the pool and give it back each time
/// costs more than the statement, and the pool would take turns with its connections.
pub struct Recorder {
    store: Store,
    connection: Connection,
}

impl Recorder {
    pub fn new(store: Store) -> Self {
        Self { store, connection: None }
    }

    /// Records the sightings, each email once and in their order, in one commit. An error means that none
    /// of them is known to be: the database may have been cut off after the commit.
    pub async fn record(&mut self, sightings: &[&Sighting]) -> Result<Recorded, Error> {
        debug_assert!(sightings.is_sorted_by(|a, b| a.status.email < b.status.email));
        let Self { store, connection } = self;
        let mut recorded = None;
        let recording = async {
            let kept = connection.is_some();
            let mut rows = write(open(connection, store).await?, sightings).await;
            if kept && rows.as_ref().is_err_and(Error::is_lost) {
                // It ended while nobody beat: no reason to refuse the first who does. What was written
                // already is written again, and is the same.
                close(connection);
                rows = write(open(connection, store).await?, sightings).await;
            }
            let recorded = recorded.insert(Recorded::read(&rows?, sightings)?);
            if recorded.committed.len() < sightings.len() {
                judge(open(connection, store).await?, sightings, &mut recorded.verdicts).await?;
            }
            Ok(())
        };
        let done = store.within_deadline(recording).await;
        if done.is_err() {
            // An answer may still come over it, or never: nobody may use or wait for it again.
            close(connection);
        }
        match (recorded, done) {
            (Some(recorded), Ok(())) => Ok(recorded),
            // The commit stands; those whose refusal could not be explained try again.
            (Some(recorded), Err(error)) => {
                log::warn!("cannot ask why some were not recorded: {error}");
                Ok(recorded)
            }
            (None, done) => Err(done.expect_err("without an error there is a record")),
        }
    }
}

type Connection = Option<PoolConnection<Postgres>>;

async fn open<'a>(connection: &'a mut Connection, store: &Store) -> Result<&'a mut PgConnection, Error> {
    if connection.is_none() {
        *connection = Some(store.pool.acquire().await?);
    }
    Ok(connection.as_mut().expect("there is one now"))
}

fn close(connection: &mut Connection) {
    drop(connection.take().map(PoolConnection::detach));
}

impl Recorded {
    fn read(rows: &[PgRow], sightings: &[&Sighting]) -> Result<Self, Error> {
        let mut verdicts = vec![Verdict::Locked; sightings.len()];
        let mut committed = Vec::with_capacity(rows.len());
        for row in rows {
            let i = row.try_get::<i64, _>(0)? as usize - 1;
            let last_seen_ns = row.try_get::<i64, _>(1)? as u64;
            verdicts[i] = Verdict::Committed;
            committed.push(Status { last_seen_ns, ..sightings[i].status.clone() });
        }
        Ok(Self { committed, verdicts })
    }
}

async fn write(connection: &mut PgConnection, sightings: &[&Sighting]) -> Result<Vec<PgRow>, Error> {
    match run(connection, RECORD, sightings).await {
        Err(error) if error.is_locked() => run(connection, RECORD_UNLOCKED, sightings).await,
        done => done,
    }
}

async fn run(
    connection: &mut PgConnection,
    statement: &'static str,
    sightings: &[&Sighting],
) -> Result<Vec<PgRow>, Error> {
    fn column<'a, T>(sightings: &[&'a Sighting], value: impl Fn(&'a Sighting) -> T) -> Vec<T> {
        sightings.iter().map(|sighting| value(sighting)).collect()
    }
    // Past the year 2262 the clock does not fit the column; the newest that does stands for it.
    let bounded = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let rows = sqlx::query(statement)
        .bind(column(sightings, |sighting| sighting.status.email.as_str()))
        .bind(column(sightings, |sighting| bounded(sighting.status.last_seen_ns)))
        .bind(column(sightings, |sighting| sighting.status.ip.to_string()))
        .bind(column(sightings, |sighting| i32::from(sighting.status.port)))
        .bind(column(sightings, |sighting| sighting.certificate.serial.as_str()))
        .bind(column(sightings, |sighting| sighting.certificate.fingerprint.as_str()))
        .bind(column(sightings, |sighting| bounded(sighting.certificate.not_after)))
        .fetch_all(connection)
        .await?;
    Ok(rows)
}

/// Finds the reason for each that was not committed; one without a reason was locked.
async fn judge(
    connection: &mut PgConnection,
    sightings: &[&Sighting],
    verdicts: &mut [Verdict],
) -> Result<(), Error> {
    let missed: Vec<usize> = (0..verdicts.len()).filter(|i| verdicts[*i] == Verdict::Locked).collect();
    let emails: Vec<&str> = missed.iter().map(|i| sightings[*i].status.email.as_str()).collect();
    let serials: Vec<&str> = missed.iter().map(|i| sightings[*i].certificate.serial.as_str()).collect();
    let rows = sqlx::query(WHY_NOT).bind(emails).bind(serials).fetch_all(connection).await?;
    for (i, row) in missed.into_iter().zip(&rows) {
        verdicts[i] = if row.try_get(2)? {
            Verdict::Revoked
        } else if !row.try_get::<bool, _>(0)? {
            Verdict::NotEnrolled
        } else if row.try_get(1)? {
            Verdict::Disabled
        } else {
            Verdict::Locked
        };
    }
    Ok(())
}
