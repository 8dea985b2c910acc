//! The certificates that may prove somebody, and those that no longer may.

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::people::must_be_enrolled;
use super::sighting::{Certificate, Serial};
use super::{Error, Store};
use crate::protocol::status::Email;

/// One certificate as `rollcall-admin cert list` shows it.
pub struct CertificateRow {
    pub certificate: Certificate,
    pub email: String,
    /// Up to a minute before its last use.
    pub last_used_ns: Option<u64>,
    pub revoked: bool,
}

impl CertificateRow {
    fn from_row(row: &PgRow) -> Result<Self, Error> {
        let serial: String = row.try_get(0)?;
        let last_used_ns: Option<i64> = row.try_get(4)?;
        Ok(Self {
            certificate: Certificate {
                serial: Serial::new(&serial).map_err(|_| Error::BadRow)?,
                fingerprint: row.try_get(2)?,
                not_after: row.try_get::<i64, _>(3)? as u64,
            },
            email: row.try_get(1)?,
            last_used_ns: last_used_ns.map(|ns| ns as u64),
            revoked: row.try_get(5)?,
        })
    }
}

impl Store {
    /// Notes a certificate before its first use; `false` if it was known.
    pub async fn register(&self, email: &Email, certificate: &Certificate) -> Result<bool, Error> {
        self.run(async |connection| {
            must_be_enrolled(connection, email).await?;
            let done = sqlx::query(
                "insert into certificates (serial, email, fingerprint, not_after) values ($1, $2, $3, $4)
                     on conflict do nothing",
            )
            .bind(certificate.serial.as_str())
            .bind(email.as_str())
            .bind(&certificate.fingerprint)
            .bind(certificate.not_after as i64)
            .execute(connection)
            .await?;
            Ok(done.rows_affected() == 1)
        })
        .await
    }

    /// Revokes for good; `false` if it already was. Holds from the next request on.
    pub async fn revoke(&self, serial: &Serial) -> Result<bool, Error> {
        self.run(async |connection| {
            let row = sqlx::query(
                "update certificates set revoked_at = coalesce(certificates.revoked_at, now())
                   from certificates as before
                  where certificates.serial = $1 and before.serial = $1
              returning before.revoked_at is null",
            )
            .bind(serial.as_str())
            .fetch_optional(connection)
            .await?;
            match row {
                Some(row) => Ok(row.try_get(0)?),
                None => Err(Error::UnknownCertificate(serial.clone())),
            }
        })
        .await
    }

    /// Every known certificate, or one email's; the soonest end first.
    pub async fn certificates(&self, email: Option<&Email>) -> Result<Vec<CertificateRow>, Error> {
        self.run(async |connection| {
            sqlx::query(
                "select serial, email, fingerprint, not_after, last_used_ns, revoked_at is not null
                   from certificates where $1::text is null or email = $1 order by not_after, serial",
            )
            .bind(email.map(Email::as_str))
            .fetch_all(connection)
            .await?
            .iter()
            .map(CertificateRow::from_row)
            .collect()
        })
        .await
    }
}
