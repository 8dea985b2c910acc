//! May the holder of a certificate read, and whom?

use sqlx::Row;

use super::heartbeat::revoked;
use super::presence::Reads;
use super::renewals::Standing;
use super::sighting::Certificate;
use super::{Error, Store};
use crate::protocol::status::Email;

impl Store {
    /// The same that a heartbeat is asked, and whom the person may see. A certificate that no row describes may prove
    /// somebody, as it may in a heartbeat.
    pub async fn may_read(
        &self,
        email: &Email,
        certificate: &Certificate,
    ) -> Result<(Standing, Reads), Error> {
        self.run(async |connection| {
            let row = sqlx::query(concat!(
                "select users.email is not null, users.disabled_at is not null, ",
                revoked!(),
                ", coalesce(certificates.email, seen.email) = seen.email, coalesce(users.reads, 'none')
                   from (select $1::text as email, $2::text as fingerprint, $3::text as serial_number) as seen
                   left join users using (email) left join certificates using (fingerprint, serial_number)"
            ))
            .bind(email.as_str())
            .bind(&certificate.fingerprint)
            .bind(certificate.serial.as_str())
            .fetch_one(connection)
            .await?;
            let standing = match (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?) {
                (_, _, true, _) => Standing::Revoked,
                (_, _, _, false) => Standing::Unknown,
                (false, ..) => Standing::NotEnrolled,
                (_, true, ..) => Standing::Disabled,
                _ => Standing::Good,
            };
            Ok((standing, row.try_get::<&str, _>(4)?.parse().map_err(|_| Error::BadRow)?))
        })
        .await
    }
}
