//! All that is held about one person: to show it, and to remove it.

use sqlx::Executor;

use super::certificates::{COLUMNS, query_rows};
use super::{CertificateRow, Error, Store};
use crate::protocol::status::Email;

/// That which was removed with a person.
pub struct Forgotten {
    pub certificates: Vec<CertificateRow>,
    pub events: u64,
}

impl Store {
    /// Removes a person and all that names them. Their certificates stay refused, by their serial numbers, until they end:
    /// those that were revoked, and the others, too.
    pub async fn forget(&self, email: &Email) -> Result<Forgotten, Error> {
        self.transaction(async |connection| {
            // A board writes no event before this is over, and afterwards it finds that nobody has this email.
            connection.execute("lock table events in share row exclusive mode").await?;
            let of_them = |statement: &'static str| sqlx::query(statement).bind(email.as_str());
            let events = of_them("delete from events where email = $1").execute(&mut *connection).await?;
            // A heartbeat that notes a further certificate waits, and then finds nobody.
            let user = of_them("select from users where email = $1 for update").fetch_optional(&mut *connection).await?;
            if user.is_none() && events.rows_affected() == 0 {
                return Err(Error::NotEnrolled(email.clone()));
            }
            let select = format!("{COLUMNS} where email = $1 order by not_after, serial_number");
            let certificates =
                query_rows(connection, sqlx::query(sqlx::AssertSqlSafe(select)).bind(email.as_str())).await?;
            for statement in [
                // A day is for clocks.
                "insert into revoked_serials (serial_number, issuer, revoked_at)
                 select serial_number, coalesce(issuer, ''), min(coalesce(revoked_at, now())) from certificates
                  where email = $1 and not_after >= extract(epoch from now()) - 86400 group by 1, 2
                     on conflict do nothing",
                "delete from renewals using certificates
                  where certificates.email = $1 and renewals.fingerprint = certificates.fingerprint
                    and renewals.serial_number = certificates.serial_number",
                "delete from certificates where email = $1",
                "delete from users where email = $1",
            ] {
                of_them(statement).execute(&mut *connection).await?;
            }
            Ok(Forgotten { certificates, events: events.rows_affected() })
        })
        .await
    }

    /// Everything that is held about a person, as a JSON object: the rows as they are.
    pub async fn export(&self, email: &Email) -> Result<String, Error> {
        self.run(async |connection| {
            let all: Option<String> = sqlx::query_scalar(
                "select jsonb_build_object(
                    'user', to_jsonb(person),
                    'certificates', (
                        select coalesce(jsonb_agg(to_jsonb(held) order by not_after, serial_number), '[]')
                          from certificates as held where held.email = $1
                    ),
                    'renewals', (
                        select coalesce(jsonb_agg(to_jsonb(asked) order by asked_at), '[]')
                          from renewals as asked join certificates using (fingerprint, serial_number)
                         where certificates.email = $1
                    ),
                    'events', (
                        select coalesce(jsonb_agg(to_jsonb(noticed) order by id), '[]')
                          from events as noticed where noticed.email = $1
                    ))::text
                   from (select $1::text as email) as given left join users as person using (email)
                  where person.email is not null or exists (select from events where events.email = $1)",
            )
            .bind(email.as_str())
            .fetch_optional(connection)
            .await?;
            all.ok_or_else(|| Error::NotEnrolled(email.clone()))
        })
        .await
    }
}
