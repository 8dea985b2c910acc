//! Who is here: the rule, and the rows that it is asked of.
//!
//! A server counts the time in which it could have heard ([`Clock`]). A heartbeat writes, in readings of that clock,
//! until when silence is normal and until when it is tolerated ([`Window`]). [`State::of`] compares the two, and nothing
//! else decides who is late: no wall clock is asked.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Instant;

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::{Error, Store};
use crate::protocol::status::Email;

/// Seconds between two heartbeats of somebody whose client does not say and whose administrator did not.
pub const EVERY: u32 = 30;
/// The longest interval.
pub const LONGEST_EVERY: u32 = 86_400;

/// The most that somebody who was not late gets when a server hears again.
const LONGEST_GRACE_MS: u64 = 5 * 60 * 1000;

/// How long silence is normal, and how long it is tolerated, in milliseconds.
const fn good_ms(every_s: u32) -> u64 {
    let every_ms = every_s as u64 * 1000;
    every_ms * 11 / 10 + 2000
}
const fn gone_ms(every_s: u32) -> u64 {
    let every_ms = every_s as u64 * 1000;
    every_ms + if 2 * every_ms > 15_000 { 2 * every_ms } else { 15_000 }
}

/// The same two in SQL, of an interval in seconds.
macro_rules! good_ms {
    ($every:expr) => {
        concat!("(", $every, " * 1100::bigint + 2000)")
    };
}
macro_rules! gone_ms {
    ($every:expr) => {
        concat!("(", $every, " * 1000::bigint + greatest(2000::bigint * ", $every, ", 15000))")
    };
}
pub(super) use {gone_ms as gone_ms_sql, good_ms as good_ms_sql};

/// A person's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    Offline,
    Late,
    /// The server that saw them last cannot hear.
    Unknown,
    Online,
    /// Enrolled, and not seen yet.
    Never,
}

impl State {
    /// The most troubling first.
    pub const ALL: [State; 5] = [State::Offline, State::Late, State::Unknown, State::Online, State::Never];

    pub const fn word(self) -> &'static str {
        match self {
            State::Offline => "offline",
            State::Late => "late",
            State::Unknown => "unknown",
            State::Online => "online",
            State::Never => "never",
        }
    }

    /// The rule.
    pub fn of(window: Option<&Window>, server: Clock) -> State {
        let Some(window) = window else { return State::Never };
        if server.is_deaf {
            return State::Unknown;
        }
        // Whoever was not late when the server went deaf, and beat into its silence, gets one more chance.
        let again = |until: u64, grace: u64| match until >= server.resumed_ms {
            true => until.max(server.resumed_ms + grace.min(LONGEST_GRACE_MS)),
            false => until,
        };
        if server.heard_ms <= again(window.good_until_ms, good_ms(window.every_s)) {
            State::Online
        } else if server.heard_ms <= again(window.gone_after_ms, gone_ms(window.every_s)) {
            State::Late
        } else {
            State::Offline
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for State {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|state| state.word() == word).ok_or(())
    }
}

/// Until when silence is normal, and tolerated: readings of the clock of the server that saw the person last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    pub good_until_ms: u64,
    pub gone_after_ms: u64,
    /// Seconds between two heartbeats.
    pub every_s: u32,
}

/// A server's clock as a reader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    pub heard_ms: u64,
    pub resumed_ms: u64,
    /// It has stood still for 5 s.
    pub is_deaf: bool,
}

/// Whom somebody may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    None,
    Themselves,
    All,
}

impl Reads {
    pub const fn word(self) -> &'static str {
        match self {
            Reads::None => "none",
            Reads::Themselves => "self",
            Reads::All => "all",
        }
    }
}

impl FromStr for Reads {
    type Err = &'static str;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let all = [Reads::None, Reads::Themselves, Reads::All];
        all.into_iter().find(|reads| reads.word() == word).ok_or("it is none, self or all")
    }
}

/// One enrolled person or device.
#[derive(Clone, Debug, PartialEq)]
pub struct Person {
    pub email: String,
    pub disabled: bool,
    /// When and from where, if ever.
    pub seen: Option<(u64, IpAddr, u16)>,
    /// The server that saw them last. `None` with a sighting: one of the version before did.
    pub server: Option<String>,
    /// `None`: not seen yet.
    pub window: Option<Window>,
    /// Seconds between two heartbeats, as set, said or assumed.
    pub every_s: u32,
    /// Serial number and end, in seconds since the Unix epoch, of the certificate that was used last.
    pub certificate: Option<(String, u64)>,
}

/// A server, as it last told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerRow {
    pub name: String,
    pub epoch: i64,
    pub heard_ms: u64,
    pub resumed_ms: u64,
    /// Milliseconds since its last word, by the database's clock.
    pub silent_ms: u64,
}

/// People, by this condition.
macro_rules! people {
    ($condition:literal) => {
        concat!(
            "select users.email, disabled_at is not null, last_seen_ns, host(ip), port, server, good_until_ms, gone_after_ms,
        coalesce(every_s, said_every_s, $1), used.serial_number, used.not_after
   from users left join lateral (
       select serial_number, not_after from certificates
        where certificates.email = users.email and last_used_ns is not null
        order by last_used_ns desc limit 1
   ) as used on true
  where ",
            $condition
        )
    };
}

impl Person {
    fn from_row(row: &PgRow) -> Result<Self, Error> {
        let unsigned =
            |column: usize| Ok::<_, Error>(row.try_get::<Option<i64>, _>(column)?.map(i64::cast_unsigned));
        let seen = match unsigned(2)? {
            None => None,
            Some(last_seen_ns) => {
                let ip = row.try_get::<&str, _>(3)?.parse().map_err(|_| Error::BadRow)?;
                Some((last_seen_ns, ip, u16::try_from(row.try_get::<i32, _>(4)?).map_err(|_| Error::BadRow)?))
            }
        };
        let every_s = row.try_get::<i32, _>(8)?.cast_unsigned();
        // Seen by a server of the version before, which has no clock: as if at the beginning of all clocks.
        let (good, gone) = (unsigned(6)?.unwrap_or(0), unsigned(7)?.unwrap_or(0));
        let window = Window { good_until_ms: good, gone_after_ms: gone, every_s };
        let serial: Option<String> = row.try_get(9)?;
        Ok(Self {
            email: row.try_get(0)?,
            disabled: row.try_get(1)?,
            window: seen.map(|_| window),
            seen,
            server: row.try_get(5)?,
            every_s,
            certificate: serial.zip(unsigned(10)?),
        })
    }
}

impl Store {
    /// The people after this email (after "": from the first on), in the order of their emails, at most so many. A
    /// page is a transaction of its own: an old snapshot would end the pruning of rows.
    pub async fn people_after(&self, email: &str, most: u32) -> Result<Vec<Person>, Error> {
        self.run(async |connection| {
            let page = sqlx::query(people!("users.email > $2 order by users.email limit $3"));
            let page = page.bind(EVERY.cast_signed()).bind(email).bind(i64::from(most));
            page.fetch_all(connection).await?.iter().map(Person::from_row).collect()
        })
        .await
    }

    /// These people, as their rows say now. One that was deleted is missing.
    pub async fn people(&self, emails: &[&str]) -> Result<Vec<Person>, Error> {
        self.run(async |connection| {
            let named = sqlx::query(people!("users.email = any($2)")).bind(EVERY.cast_signed()).bind(emails);
            named.fetch_all(connection).await?.iter().map(Person::from_row).collect()
        })
        .await
    }

    /// Every server that ever told.
    pub async fn servers(&self) -> Result<Vec<ServerRow>, Error> {
        self.run(async |connection| {
            sqlx::query(
                "select name, epoch, heard_ms, resumed_ms,
                        greatest(extract(epoch from clock_timestamp() - told_at) * 1000, 0)::bigint
                   from servers order by name",
            )
            .fetch_all(connection)
            .await?
            .iter()
            .map(|row| {
                Ok(ServerRow {
                    name: row.try_get(0)?,
                    epoch: row.try_get(1)?,
                    heard_ms: row.try_get::<i64, _>(2)?.cast_unsigned(),
                    resumed_ms: row.try_get::<i64, _>(3)?.cast_unsigned(),
                    silent_ms: row.try_get::<i64, _>(4)?.cast_unsigned(),
                })
            })
            .collect()
        })
        .await
    }

    /// A server starts: takes the next epoch of its name, and goes on from the clock's reading, or from its own if that
    /// is later, which is where hearing begins again. A row that was lost is made with the reading at the last heartbeat:
    /// whoever was gone by then stays so. Returns the epoch and the reading.
    pub async fn start_clock(&self, name: &str, own_ms: u64) -> Result<(i64, u64), Error> {
        self.run(async |connection| {
            let asked = Instant::now();
            let row = sqlx::query(concat!(
                "insert into servers (name, epoch, heard_ms, resumed_ms)
                 select $1, 1, heard_ms, heard_ms
                   from (select greatest($2, case when not exists (select from servers where name = $1) then (
                             select max(good_until_ms - ",
                good_ms!("coalesce(every_s, said_every_s, $3)"),
                ") from users where server = $1
                         ) end) as heard_ms) as lost
                     on conflict (name) do update
                    set epoch = servers.epoch + 1, role = session_user, heard_ms = greatest(servers.heard_ms, $2),
                        resumed_ms = greatest(servers.heard_ms, $2), told_at = clock_timestamp()
              returning epoch, heard_ms, ",
                now_ns!()
            ))
            .bind(name)
            .bind(own_ms.cast_signed())
            .bind(EVERY.cast_signed())
            .fetch_one(connection)
            .await?;
            self.time.learn(asked, Instant::now(), row.try_get::<i64, _>(2)?.cast_unsigned());
            Ok((row.try_get(0)?, row.try_get::<i64, _>(1)?.cast_unsigned()))
        })
        .await
    }

    /// Sets the clock of this epoch. `false`: the row is gone, or has another epoch.
    pub async fn tell_clock(
        &self,
        name: &str,
        epoch: i64,
        heard_ms: u64,
        resumed_ms: u64,
    ) -> Result<bool, Error> {
        self.run(async |connection| {
            let asked = Instant::now();
            let told = sqlx::query_scalar::<_, i64>(concat!(
                "update servers set heard_ms = $3, resumed_ms = $4, told_at = clock_timestamp()
                  where name = $1 and epoch = $2 returning ",
                now_ns!()
            ))
            .bind(name)
            .bind(epoch)
            .bind(heard_ms.cast_signed())
            .bind(resumed_ms.cast_signed())
            .fetch_optional(connection)
            .await?;
            if let Some(now_ns) = told {
                self.time.learn(asked, Instant::now(), now_ns.cast_unsigned());
            }
            Ok(told.is_some())
        })
        .await
    }

    /// Has a newer process of this name started?
    pub async fn is_superseded(&self, name: &str, epoch: i64) -> Result<bool, Error> {
        self.run(async |connection| {
            let newer =
                sqlx::query_scalar("select exists (select from servers where name = $1 and epoch > $2)");
            Ok(newer.bind(name).bind(epoch).fetch_one(connection).await?)
        })
        .await
    }

    /// Sets the interval of a person, `None` for that which the client says. It counts from the last heartbeat on.
    pub async fn set_every(&self, email: &Email, every_s: Option<u32>) -> Result<(), Error> {
        self.run(async |connection| {
            sqlx::query(concat!(
                "update users set every_s = $2,
                        good_until_ms = greatest(good_until_ms - ",
                good_ms!("coalesce(every_s, said_every_s, $3)"),
                ", 0) + ",
                good_ms!("coalesce($2, said_every_s, $3)"),
                ", gone_after_ms = greatest(good_until_ms - ",
                good_ms!("coalesce(every_s, said_every_s, $3)"),
                ", 0) + ",
                gone_ms!("coalesce($2, said_every_s, $3)"),
                " where email = $1"
            ))
            .bind(email.as_str())
            .bind(every_s.map(u32::cast_signed))
            .bind(EVERY.cast_signed())
            .execute(&mut *connection)
            .await?;
            super::people::must_be_enrolled(connection, email).await
        })
        .await
    }

    /// Sets whom a person may see.
    pub async fn set_reads(&self, email: &Email, reads: Reads) -> Result<(), Error> {
        self.run(async |connection| {
            sqlx::query("update users set reads = $2 where email = $1")
                .bind(email.as_str())
                .bind(reads.word())
                .execute(&mut *connection)
                .await?;
            super::people::must_be_enrolled(connection, email).await
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(window: (u64, u64, u32), heard_ms: u64, resumed_ms: u64) -> State {
        let (good_until_ms, gone_after_ms, every_s) = window;
        let window = Window { good_until_ms, gone_after_ms, every_s };
        State::of(Some(&window), Clock { heard_ms, resumed_ms, is_deaf: false })
    }

    #[test]
    fn silence_is_normal_then_tolerated_then_over() {
        let window = (135_000, 190_000, 30);
        for (heard_ms, expected) in [
            (100_000, State::Online),
            (135_000, State::Online),
            (135_001, State::Late),
            (190_000, State::Late),
            (190_001, State::Offline),
        ] {
            assert_eq!(state(window, heard_ms, 0), expected, "{heard_ms}");
        }
        let deaf = Clock { heard_ms: 500_000, resumed_ms: 0, is_deaf: true };
        let window = Window { good_until_ms: 135_000, gone_after_ms: 190_000, every_s: 30 };
        assert_eq!(State::of(Some(&window), deaf), State::Unknown);
        assert_eq!(State::of(None, deaf), State::Never);
    }

    #[test]
    fn whoever_was_not_late_when_a_server_went_deaf_gets_one_more_chance() {
        // The server went deaf at 120,000, with 15 s left: a whole interval counts from there.
        let window = (135_000, 190_000, 30);
        assert_eq!(state(window, 155_000, 120_000), State::Online);
        assert_eq!(state(window, 155_001, 120_000), State::Late);
        assert_eq!(state(window, 210_000, 120_000), State::Late);
        assert_eq!(state(window, 210_001, 120_000), State::Offline);
        // Late already.
        assert_eq!(state(window, 140_000, 136_000), State::Late);
        assert_eq!(state(window, 226_000, 136_000), State::Late);
        assert_eq!(state(window, 226_001, 136_000), State::Offline);
        // Offline already: for good.
        assert_eq!(state(window, 191_000, 190_500), State::Offline);
    }

    /// Restarts do not add up: a device that beats once a day, and died, is late a day later.
    #[test]
    fn a_daily_device_that_died_goes_late_however_often_the_server_restarts() {
        const HOUR: u64 = 3_600_000;
        let window = (good_ms(86_400), gone_ms(86_400), 86_400);
        let at = |heard_ms: u64| state(window, heard_ms, heard_ms - heard_ms % HOUR);
        assert_eq!(at(26 * HOUR), State::Online);
        // It has until 26.4 h, and 5 minutes after a restart at 26 h are over.
        assert_eq!(at(26 * HOUR + HOUR / 2), State::Late);
        assert_eq!(at(71 * HOUR), State::Late);
        assert_eq!(at(73 * HOUR), State::Offline);
    }

    #[test]
    fn words_are_read_as_they_are_written() {
        for state in State::ALL {
            assert_eq!(state.word().parse(), Ok(state));
        }
        assert!("Online".parse::<State>().is_err() && "".parse::<State>().is_err());
    }
}
