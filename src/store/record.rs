//! The heartbeat: many sightings judged and written by one statement, durable when it returns.

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::{Error, Store};
use crate::certificate::Sighting;
use crate::status::Status;

/// What became of a batch.
pub struct Recorded {
    /// The rows as they were committed, each once.
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

/// The parameters are arrays, one element for each sighting.
///
/// * Whom an administrator disabled, or whose certificate was revoked, before the statement began is
///   refused by it; judged first, so that a refused request never hides the good one of the same person.
/// * Of two sightings of one person the newest is written. `last_seen_ns` never goes backwards.
/// * Rows are visited in the order of their emails, so that two batches cannot wait for each other.
/// * A certificate's row is written when it is new and then at most once a minute, so that the usual
///   heartbeat writes one row and reads another.
macro_rules! record {
    ($locked:literal, $from_locked:literal) => {
        concat!(
            "with seen as (
    select * from unnest($1::text[], $2::bigint[], $3::text[], $4::integer[], $5::text[], $6::text[], $7::bigint[])
      with ordinality as seen (email, last_seen_ns, ip, port, serial, fingerprint, not_after, n)
),
judged as (
    select seen.*, users.email is not null as enrolled, users.disabled_at is not null as disabled,
           certificates.revoked_at is not null as revoked,
           coalesce(certificates.last_used_ns < seen.last_seen_ns - 60000000000, true) as stale
      from seen left join users using (email) left join certificates using (serial)
),
newest as (
    select distinct on (email) email, last_seen_ns, ip, port from judged
     where enrolled and not disabled and not revoked order by email, last_seen_ns desc, n desc
),
",
            $locked,
            "committed as (
    update users
       set last_seen_ns = greatest(users.last_seen_ns, newest.last_seen_ns), ip = newest.ip::inet, port = newest.port
      from newest",
            $from_locked,
            "
     where users.email = newest.email and users.disabled_at is null
 returning users.email, users.last_seen_ns, users.ip, users.port
),
used as (
    insert into certificates (serial, email, fingerprint, not_after, last_used_ns)
    select distinct on (serial) serial, email, fingerprint, not_after, judged.last_seen_ns
      from judged join committed using (email) where stale and not revoked order by serial, judged.last_seen_ns desc
        on conflict (serial) do update set last_used_ns = excluded.last_used_ns
)
select enrolled, disabled, revoked, committed.last_seen_ns, host(committed.ip), committed.port,
       n = max(n) filter (where not revoked) over (partition by email) as newest
  from judged left join committed using (email) order by n"
        )
    };
}

/// The statement of a heartbeat, public so that anybody can ask PostgreSQL for its plan.
pub const RECORD: &str = record!("", "");
/// The same, but a row whose lock somebody holds is passed over. It costs a lock for each row, so it is
/// only for the batch that found one.
const RECORD_UNLOCKED: &str = record!(
    "free as (
    select users.email from newest join users using (email) order by email for no key update of users skip locked
),
",
    " join free using (email)"
);

impl Store {
    /// Records the sightings in one commit. An error means that none of them was.
    pub async fn record(&self, sightings: &[Sighting]) -> Result<Recorded, Error> {
        self.within_deadline(async {
            match self.run(RECORD, sightings).await {
                Err(error) if error.is_locked() => self.run(RECORD_UNLOCKED, sightings).await,
                done => done,
            }
        })
        .await
    }

    async fn run(&self, statement: &'static str, sightings: &[Sighting]) -> Result<Recorded, Error> {
        fn column<'a, T>(sightings: &'a [Sighting], value: impl Fn(&'a Sighting) -> T) -> Vec<T> {
            sightings.iter().map(value).collect()
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
            .fetch_all(&self.pool)
            .await?;
        let mut recorded = Recorded { committed: Vec::new(), verdicts: Vec::with_capacity(rows.len()) };
        for (sighting, row) in sightings.iter().zip(&rows) {
            let verdict = judge(row)?;
            if verdict == Verdict::Committed && row.try_get("newest")? {
                let ip: String = row.try_get(4)?;
                recorded.committed.push(Status {
                    email: sighting.status.email.clone(),
                    last_seen_ns: row.try_get::<i64, _>(3)? as u64,
                    ip: ip.parse().map_err(|_| Error::BadRow)?,
                    port: u16::try_from(row.try_get::<i32, _>(5)?).map_err(|_| Error::BadRow)?,
                });
            }
            recorded.verdicts.push(verdict);
        }
        if recorded.verdicts.len() != sightings.len() {
            return Err(Error::BadRow);
        }
        Ok(recorded)
    }
}

fn judge(row: &PgRow) -> Result<Verdict, Error> {
    Ok(if row.try_get("revoked")? {
        Verdict::Revoked
    } else if !row.try_get::<bool, _>("enrolled")? {
        Verdict::NotEnrolled
    } else if row.try_get("disabled")? {
        Verdict::Disabled
    } else if row.try_get::<Option<i64>, _>(3)?.is_none() {
        Verdict::Locked
    } else {
        Verdict::Committed
    })
}
