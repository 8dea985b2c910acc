//! The heartbeat: many sightings written by one statement, durable when it returns.

use std::time::Instant;

use sqlx::Row;
use sqlx::postgres::{PgConnection, PgRow};

use super::alarm::Alarm;
use super::connection::Session;
use super::presence::{EVERY, gone_ms_sql, good_ms_sql};
use super::sighting::Sighting;
use super::time::{DatabaseTime, step_ns};
use super::{Error, Store};
use crate::protocol::status::{AHEAD, Status};

/// The fate of a batch.
#[derive(Debug)]
pub struct Recorded {
    /// The rows as they stand after the commit.
    pub committed: Vec<Status>,
    /// One for each sighting, in their order.
    pub outcomes: Vec<Outcome>,
    /// Why a time that was handed in cannot be right.
    pub doubt: Option<&'static str>,
}

const BEHIND_THE_ROW: &str =
    "somebody's row is more than 10 minutes newer than this sighting, and stands; was a request late?";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Committed,
    /// No row: nobody enrolled this address.
    NotEnrolled,
    Disabled,
    Revoked,
    /// Somebody else holds the row's lock; the others did not wait for it.
    Locked,
}

/// Is the row newer than the sighting, so that it stands? A statement may run late. A row in the future yields: a clock
/// was wrong. That of a server which is no more yields, too: nobody counts the silence after it.
macro_rules! stands {
    () => {
        "users.last_seen_ns > seen.seen_ns and users.last_seen_ns <= seen.future_ns
              and (users.server = $11 or users.server is null
                   or exists (select from servers where name = users.server and left_at is null))"
    };
}

/// Is the certificate revoked? One whose issuer no row names is, if its number was revoked.
macro_rules! revoked {
    () => {
        "(certificates.revoked_at is not null or (certificates.issuer is null
              and exists (select from revoked_serials where revoked_serials.serial_number = seen.serial_number)))"
    };
}

pub(super) use revoked;

/// Until then silence is as usual (or tolerated), by the clock of the server that the row names afterwards: never sooner
/// than the row says. What is counted by the clock of the other server is carried over.
macro_rules! until {
    ($column:literal, $new:expr) => {
        concat!(
            "greatest(case when ",
            stands!(),
            " and users.server <> $11 then (select heard_ms from servers where name = users.server)
                           else seen.heard_ms end + ",
            $new,
            ", case when ",
            stands!(),
            " or users.server = $11 then users.",
            $column,
            " else seen.heard_ms + users.",
            $column,
            " - (select heard_ms from servers where name = users.server) end)"
        )
    };
}

/// Seconds between two heartbeats.
macro_rules! every {
    () => {
        "coalesce(users.every_s, seen.every_s, $12)"
    };
}

/// The first parameters are arrays, one element for each sighting, each email once and in their order: rows are
/// visited in the order of the arrays, so two batches cannot wait for each other. $8 is how far a row may be ahead of
/// the database's clock, $11 the name of this server, $12 the interval of somebody without one. $13 is the database's
/// time now as this server knows it, and $2 are times by the same clock, none of them later: they count as they are if it
/// is right to a second, and are moved with it otherwise ([`super::time`]).
/// [`RECORD_ONE`] has the elements themselves.
///
/// * Whom an administrator disabled, or whose certificate was revoked, before the statement began is
///   not touched by it.
/// * Time, address, port and server are one fact: they change together, and only forward.
/// * The window of silence is another one, which no wall clock moves.
/// * A certificate's row is written when it is new and then at most once a minute, so that the usual
///   heartbeat writes one row and reads another.
macro_rules! record {
    ($given:expr, $free:literal, $from:literal, $used:expr) => {
        concat!(
            "with clock as materialized (
    select now_ns, now_ns + $8 as future_ns,
           case when abs(now_ns - $13::bigint) <= ",
            step_ns!(),
            " then 0 else now_ns - $13 end as shift_ns
      from (select ",
            now_ns!(),
            " as now_ns) as clock
),
seen as (
    select email, greatest(last_seen_ns + shift_ns, 0) as seen_ns, ip::inet, port, serial_number, fingerprint, not_after,
           heard_ms, every_s, n, future_ns, case when shift_ns <> 0 then now_ns end as stepped_to_ns
      from clock, ",
            $given,
            " as given (email, last_seen_ns, ip, port, serial_number, fingerprint, not_after, heard_ms, every_s, n)
),
",
            $free,
            "committed as (
    update users
       set last_seen_ns = case when ",
            stands!(),
            " then users.last_seen_ns else seen.seen_ns end,
           ip = case when ",
            stands!(),
            " then users.ip else seen.ip end,
           port = case when ",
            stands!(),
            " then users.port else seen.port end,
           server = case when ",
            stands!(),
            " then coalesce(users.server, $11) else $11 end,
           said_every_s = seen.every_s,
           good_until_ms = ",
            until!("good_until_ms", good_ms_sql!(every!())),
            ",
           gone_after_ms = ",
            until!("gone_after_ms", gone_ms_sql!(every!())),
            "
      from ",
            $from,
            " seen left join certificates using (fingerprint, serial_number)
     where users.email = seen.email and users.disabled_at is null and not ",
            revoked!(),
            "
 returning seen.*, users.last_seen_ns as committed_ns, host(users.ip) as committed_ip,
           users.port as committed_port,
           certificates.last_used_ns between seen.seen_ns - 60000000000 and seen.future_ns as fresh
)",
            $used,
            "
select n, committed_ns, committed_ip, committed_port, stepped_to_ns from committed"
        )
    };
}

/// The sightings of a batch, and the place of each in it.
macro_rules! arrays {
    () => {
        "unnest($1::text[], $2::bigint[], $3::text[], $4::integer[], $5::text[], $6::text[], $7::bigint[], $9::bigint[],
                $10::integer[]) with ordinality"
    };
}

/// A certificate's row, when it is due.
macro_rules! used {
    () => {
        ",
used as (
    insert into certificates (serial_number, email, fingerprint, not_after, last_used_ns)
    select distinct on (fingerprint, serial_number) serial_number, email, fingerprint, not_after, seen_ns
      from committed where fresh is not true
        on conflict (fingerprint, serial_number) do update set last_used_ns =
           case when certificates.last_used_ns between excluded.last_used_ns and (select future_ns from clock)
                then certificates.last_used_ns else excluded.last_used_ns end
)"
    };
}

/// The statement of a heartbeat, public so that anybody can ask PostgreSQL for its plan.
pub const RECORD: &str = record!(arrays!(), "", "seen", used!());
/// The same for one sighting, whose parameters are no arrays: nearly every commit of a quiet server is of one.
pub const RECORD_ONE: &str = record!(
    "(select $1::text, $2::bigint, $3::text, $4::integer, $5::text, $6::text, $7::bigint, $9::bigint, $10::integer,
             1::bigint)",
    "",
    "seen",
    used!()
);
/// The same, but a row whose lock somebody holds is passed over, and certificates are left to a later
/// heartbeat: theirs may be the row that is locked. It costs a lock for each row, so it is only for the
/// batch that found one.
const RECORD_UNLOCKED: &str = record!(
    arrays!(),
    "free as (
    select seen.* from seen join users using (email) for no key update of users skip locked
),
",
    "free",
    ""
);

/// The reason why nothing was written, for those alone to whom it happened.
const WHY_NOT: &str = concat!(
    "
select users.email is not null, users.disabled_at is not null, ",
    revoked!(),
    "
  from unnest($1::text[], $2::text[], $3::text[]) with ordinality as seen (email, serial_number, fingerprint, n)
  left join users using (email) left join certificates using (fingerprint, serial_number)
 order by n"
);

/// Writes heartbeats over a connection of its own, that it keeps.
pub struct Recorder {
    store: Store,
    /// The name of this server.
    server: String,
    session: Option<Session>,
    alarm: Alarm,
}

impl Recorder {
    pub fn new(store: Store, server: String) -> Self {
        let alarm = Alarm::new(store.deadline);
        Self { store, server, session: None, alarm }
    }

    /// Opens the connection, so that the first heartbeat does not wait for it. If it cannot, that one tries again.
    pub async fn connect(&mut self) {
        let Self { store, session, .. } = self;
        let opened = store.within_deadline(async { open(session, store).await.map(|_| ()) }).await;
        if let Err(error) = opened {
            log::debug!("no connection for heartbeats yet: {error}");
        }
    }

    /// Records the sightings, each email once and in their order, in one commit. An error means that none
    /// of them is known to be: the database may have been cut off after the commit.
    ///
    /// A row that somebody else holds is waited for, for a moment.
    pub async fn record(&mut self, sightings: &[&Sighting]) -> Result<Recorded, Error> {
        self.record_as(sightings, true).await
    }

    /// The same without that wait.
    pub async fn record_unlocked(&mut self, sightings: &[&Sighting]) -> Result<Recorded, Error> {
        self.record_as(sightings, false).await
    }

    async fn record_as(&mut self, sightings: &[&Sighting], waits: bool) -> Result<Recorded, Error> {
        debug_assert!(sightings.is_sorted_by(|a, b| a.status.email < b.status.email));
        let Self { store, server, session, alarm } = self;
        let mut recorded = None;
        let recording = async {
            let kept = session.is_some();
            let mut rows = write(open(session, store).await?, sightings, server, &store.time, waits).await;
            if kept && rows.as_ref().is_err_and(Error::is_lost) {
                // It ended while nobody beat: no reason to refuse the next one. What was written
                // already is written again, and is the same.
                if let Some(lost) = session.take() {
                    store.aid.end(lost.backend);
                }
                rows = write(open(session, store).await?, sightings, server, &store.time, waits).await;
            }
            let recorded = recorded.insert(Recorded::read(&rows?, sightings)?);
            if recorded.committed.len() < sightings.len() {
                judge(open(session, store).await?, sightings, &mut recorded.outcomes).await?;
            }
            Ok(())
        };
        let done = alarm.within_deadline(recording).await;
        if let Err(error) = &done
            && let Some(session) = session.take()
            && error.is_silence()
        {
            // An answer may still come over it, or never: nobody may use or wait for it again.
            store.aid.end(session.backend);
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

async fn open<'a>(session: &'a mut Option<Session>, store: &Store) -> Result<&'a mut PgConnection, Error> {
    if session.is_none() {
        store.aid.has_room()?;
        let opened = store.connector.connect().await?;
        if let Some(why) = opened.is_closed {
            return Err(Error::CannotRecord(why.to_owned()));
        }
        *session = Some(opened);
    }
    Ok(&mut session.as_mut().expect("there is one now").connection)
}

impl Recorded {
    fn read(rows: &[PgRow], sightings: &[&Sighting]) -> Result<Self, Error> {
        let mut outcomes = vec![Outcome::Locked; sightings.len()];
        let mut committed = Vec::with_capacity(rows.len());
        let mut doubt = None;
        for row in rows {
            let i = row.try_get::<i64, _>(0)? as usize - 1;
            let given = &sightings[i].status;
            let last_seen_ns = row.try_get::<i64, _>(1)? as u64;
            let stepped_to_ns = row.try_get::<Option<i64>, _>(4)?;
            if stepped_to_ns.is_none()
                && last_seen_ns.saturating_sub(given.last_seen_ns) > AHEAD.as_nanos() as u64
            {
                doubt = Some(BEHIND_THE_ROW);
            }
            let ip: &str = row.try_get(2)?;
            outcomes[i] = Outcome::Committed;
            committed.push(Status {
                email: given.email.clone(),
                last_seen_ns,
                ip: ip.parse().map_err(|_| Error::BadRow)?,
                port: u16::try_from(row.try_get::<i32, _>(3)?).map_err(|_| Error::BadRow)?,
            });
        }
        Ok(Self { committed, outcomes, doubt })
    }
}

async fn write(
    connection: &mut PgConnection,
    sightings: &[&Sighting],
    server: &str,
    time: &DatabaseTime,
    waits: bool,
) -> Result<Vec<PgRow>, Error> {
    let mut asked = Instant::now();
    let now_ns = time.at(asked);
    let done = match sightings {
        _ if !waits => run(connection, RECORD_UNLOCKED, sightings, server, now_ns).await,
        [one] => run_one(connection, one, server, now_ns).await,
        _ => run(connection, RECORD, sightings, server, now_ns).await,
    };
    let rows = match done {
        Err(error) if waits && error.is_locked() => {
            asked = Instant::now();
            run(connection, RECORD_UNLOCKED, sightings, server, time.at(asked)).await?
        }
        done => done?,
    };
    if let Some(row) = rows.first()
        && let Some(now_ns) = row.try_get::<Option<i64>, _>(4)?
    {
        time.learn(asked, Instant::now(), now_ns.cast_unsigned());
    }
    Ok(rows)
}

/// Past the year 2262 the clock does not fit the column; the newest that does stands for it.
fn bounded(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

async fn run_one(
    connection: &mut PgConnection,
    sighting: &Sighting,
    server: &str,
    now_ns: u64,
) -> Result<Vec<PgRow>, Error> {
    let Sighting { status, certificate, heard_ms, every_s } = sighting;
    let rows = sqlx::query(RECORD_ONE)
        .bind(status.email.as_str())
        .bind(bounded(status.last_seen_ns.min(now_ns)))
        .bind(status.ip.to_string())
        .bind(i32::from(status.port))
        .bind(certificate.serial.as_str())
        .bind(&certificate.fingerprint)
        .bind(bounded(certificate.not_after))
        .bind(AHEAD.as_nanos() as i64)
        .bind(bounded(*heard_ms))
        .bind(every_s.map(u32::cast_signed))
        .bind(server)
        .bind(EVERY.cast_signed())
        .bind(bounded(now_ns))
        .fetch_all(connection)
        .await?;
    Ok(rows)
}

async fn run(
    connection: &mut PgConnection,
    statement: &'static str,
    sightings: &[&Sighting],
    server: &str,
    now_ns: u64,
) -> Result<Vec<PgRow>, Error> {
    fn column<'a, T>(sightings: &[&'a Sighting], value: impl Fn(&'a Sighting) -> T) -> Vec<T> {
        sightings.iter().map(|sighting| value(sighting)).collect()
    }
    let rows = sqlx::query(statement)
        .bind(column(sightings, |sighting| sighting.status.email.as_str()))
        .bind(column(sightings, |sighting| bounded(sighting.status.last_seen_ns.min(now_ns))))
        .bind(column(sightings, |sighting| sighting.status.ip.to_string()))
        .bind(column(sightings, |sighting| i32::from(sighting.status.port)))
        .bind(column(sightings, |sighting| sighting.certificate.serial.as_str()))
        .bind(column(sightings, |sighting| sighting.certificate.fingerprint.as_str()))
        .bind(column(sightings, |sighting| bounded(sighting.certificate.not_after)))
        .bind(AHEAD.as_nanos() as i64)
        .bind(column(sightings, |sighting| bounded(sighting.heard_ms)))
        .bind(column(sightings, |sighting| sighting.every_s.map(u32::cast_signed)))
        .bind(server)
        .bind(EVERY.cast_signed())
        .bind(bounded(now_ns))
        .fetch_all(connection)
        .await?;
    Ok(rows)
}

/// Finds the reason for each that was not committed; one without a reason was locked.
async fn judge(
    connection: &mut PgConnection,
    sightings: &[&Sighting],
    outcomes: &mut [Outcome],
) -> Result<(), Error> {
    let missed: Vec<usize> = (0..outcomes.len()).filter(|i| outcomes[*i] == Outcome::Locked).collect();
    let column =
        |value: fn(&Sighting) -> &str| -> Vec<&str> { missed.iter().map(|i| value(sightings[*i])).collect() };
    let rows = sqlx::query(WHY_NOT)
        .bind(column(|sighting| sighting.status.email.as_str()))
        .bind(column(|sighting| sighting.certificate.serial.as_str()))
        .bind(column(|sighting| &sighting.certificate.fingerprint))
        .fetch_all(connection)
        .await?;
    for (i, row) in missed.into_iter().zip(&rows) {
        outcomes[i] = if row.try_get(2)? {
            Outcome::Revoked
        } else if !row.try_get::<bool, _>(0)? {
            Outcome::NotEnrolled
        } else if row.try_get(1)? {
            Outcome::Disabled
        } else {
            Outcome::Locked
        };
    }
    Ok(())
}
