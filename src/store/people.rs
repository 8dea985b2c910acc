//! The people and devices that may be seen.

use std::net::IpAddr;

use sqlx::Row;
use sqlx::postgres::{PgConnection, PgRow};

use super::{Error, Store};
use crate::protocol::status::Email;

/// One enrolled person or device, as `rollcall-admin user list` shows it.
pub struct UserRow {
    pub email: String,
    pub disabled: bool,
    /// When and from where, if ever.
    pub seen: Option<(u64, IpAddr, u16)>,
}

impl UserRow {
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

impl Store {
    /// Enrols; `false` if the row was there before, which stays as it was, disabled or not.
    pub async fn enrol(&self, email: &Email) -> Result<bool, Error> {
        self.run(async |connection| insert(connection, email).await).await
    }

    /// Disables or enables; `false` if it already was.
    pub async fn set_disabled(&self, email: &Email, disabled: bool) -> Result<bool, Error> {
        self.run(async |connection| {
            let done = sqlx::query(
                "update users set disabled_at = case when $2 then now() end
                  where email = $1 and (disabled_at is not null) <> $2",
            )
            .bind(email.as_str())
            .bind(disabled)
            .execute(&mut *connection)
            .await?;
            if done.rows_affected() == 1 {
                return Ok(true);
            }
            must_be_enrolled(connection, email).await.map(|()| false)
        })
        .await
    }

    /// How many are enrolled and not disabled.
    pub async fn count_enabled(&self) -> Result<u64, Error> {
        self.run(async |connection| {
            let row = sqlx::query("select count(*) from users where disabled_at is null")
                .fetch_one(connection)
                .await?;
            Ok(row.try_get::<i64, _>(0)?.cast_unsigned())
        })
        .await
    }

    /// Everybody, the most recently seen first.
    pub async fn users(&self) -> Result<Vec<UserRow>, Error> {
        self.run(async |connection| {
            sqlx::query(
                "select email, disabled_at is not null, last_seen_ns, host(ip), port
                   from users order by last_seen_ns desc nulls last, email",
            )
            .fetch_all(connection)
            .await?
            .iter()
            .map(UserRow::from_row)
            .collect()
        })
        .await
    }
}

pub(super) async fn insert(connection: &mut PgConnection, email: &Email) -> Result<bool, Error> {
    let done = sqlx::query("insert into users (email) values ($1) on conflict do nothing")
        .bind(email.as_str())
        .execute(connection)
        .await?;
    Ok(done.rows_affected() == 1)
}

pub(super) async fn must_be_enrolled(connection: &mut PgConnection, email: &Email) -> Result<(), Error> {
    let row = sqlx::query("select from users where email = $1")
        .bind(email.as_str())
        .fetch_optional(connection)
        .await?;
    row.map(|_| ()).ok_or_else(|| Error::NotEnrolled(email.clone()))
}
