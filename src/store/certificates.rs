//! The certificates that may prove somebody, and those that no longer may: the one home of these facts.

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Connection, Executor, Row};

use super::sighting::{Certificate, Serial};
use super::{Error, Store};
use crate::protocol::status::Email;

/// How long a command waits for a row that somebody else has locked. The server's own statements do not wait.
const PATIENT: &str = "set local lock_timeout = '8s'";

/// One certificate as `rollcall-admin certs` shows it.
#[derive(Clone, Debug)]
pub struct CertificateRow {
    pub certificate: Certificate,
    pub email: String,
    /// `None`: noted at its first use.
    pub issuer: Option<String>,
    pub device: Option<String>,
    /// Up to a minute before its last use.
    pub last_used_ns: Option<u64>,
    /// Seconds since the Unix epoch.
    pub revoked_at: Option<u64>,
}

/// A certificate that is made or given here, and the device that it is for.
pub struct Noted {
    pub email: Email,
    pub certificate: Certificate,
    pub issuer: String,
    pub device: Option<String>,
    /// Of an earlier version's list. Seconds since the Unix epoch.
    pub revoked_at: Option<u64>,
}

/// The rows as [`Store::note`] found them.
pub struct Found {
    pub is_new_person: bool,
    /// With all that is noted of it. A server that met the certificate first has noted neither CA nor device.
    pub was_noted: bool,
    /// Only its number may have been known.
    pub is_revoked: bool,
}

/// An entry of a CRL.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Revocation {
    pub serial: Serial,
    /// The name of the CA. `None`: the row does not know it, so that it goes on the CRL of each CA.
    pub issuer: Option<String>,
    /// Seconds since the Unix epoch.
    pub at: u64,
}

pub(super) const COLUMNS: &str =
    "select serial_number, email, fingerprint, not_after, last_used_ns, issuer, device,
        extract(epoch from revoked_at)::bigint
   from certificates";

impl CertificateRow {
    pub(super) fn from_row(row: &PgRow) -> Result<Self, Error> {
        let serial: String = row.try_get(0)?;
        let positive =
            |column: usize| Ok::<_, Error>(row.try_get::<Option<i64>, _>(column)?.map(i64::cast_unsigned));
        Ok(Self {
            certificate: Certificate {
                serial: Serial::new(&serial).map_err(|_| Error::BadRow)?,
                fingerprint: row.try_get(2)?,
                not_after: positive(3)?.ok_or(Error::BadRow)?,
            },
            email: row.try_get(1)?,
            last_used_ns: positive(4)?,
            issuer: row.try_get(5)?,
            device: row.try_get(6)?,
            revoked_at: positive(7)?,
        })
    }
}

impl Store {
    /// Notes the certificate, and enrols its holder if `enrol` says so, in one transaction.
    pub async fn note(&self, noted: &Noted, enrol: bool) -> Result<Found, Error> {
        self.transaction(async |connection| {
            let is_new_person = enrol && super::people::insert(connection, &noted.email).await?;
            let (holder, was_noted, is_revoked) = note(connection, noted).await?;
            if holder != noted.email.as_str() {
                return Err(Error::SomebodyElses(noted.certificate.serial.clone(), holder));
            }
            Ok(Found { is_new_person, was_noted, is_revoked })
        })
        .await
    }

    /// Takes over a part of the list of an earlier version: certificates of the enrolled. A row that names another
    /// holder stays as it is.
    pub async fn import(&self, certificates: &[Noted]) -> Result<(), Error> {
        self.transaction(async |connection| {
            for noted in certificates {
                note(connection, noted).await?;
            }
            Ok(())
        })
        .await
    }

    /// Revokes for good, from the next request on.
    pub async fn revoke(&self, certificates: &[Certificate]) -> Result<(), Error> {
        self.transaction(async |connection| revoke(connection, certificates).await).await
    }

    /// Revokes each entry of our CRL that the rows do not have. Returns the certificates that have a row, and the number
    /// of those that have none.
    pub async fn revoke_again(
        &self,
        forgotten: &[Revocation],
    ) -> Result<(Vec<CertificateRow>, usize), Error> {
        self.transaction(async |connection| {
            let serials: Vec<&str> = forgotten.iter().map(|revocation| revocation.serial.as_str()).collect();
            let known = query_rows(
                connection,
                sqlx::query(sqlx::AssertSqlSafe(format!("{COLUMNS} where serial_number = any($1)")))
                    .bind(serials),
            )
            .await?;
            let known: Vec<_> = known
                .into_iter()
                .filter(|row| forgotten.iter().any(|revocation| revocation.is_of(row)))
                .collect();
            let certificates: Vec<_> = known.iter().map(|row| row.certificate.clone()).collect();
            revoke(connection, &certificates).await?;
            let mut without_row = 0;
            for revocation in forgotten {
                if !known.iter().any(|row| revocation.is_of(row)) {
                    without_row += usize::from(revoke_serial(connection, revocation).await?);
                }
            }
            Ok((known, without_row))
        })
        .await
    }

    /// Every revocation whose certificate has not ended before this time, in seconds since the Unix epoch.
    pub async fn revocations(&self, ended: u64) -> Result<Vec<Revocation>, Error> {
        self.run(async |connection| {
            sqlx::query(
                "select serial_number, issuer, extract(epoch from revoked_at)::bigint from certificates
                  where revoked_at is not null and not_after >= $1
                  union all
                 select serial_number, nullif(issuer, ''), extract(epoch from revoked_at)::bigint from revoked_serials
                  order by 1, 2",
            )
            .bind(ended.cast_signed())
            .fetch_all(connection)
            .await?
            .iter()
            .map(|row| {
                Ok(Revocation {
                    serial: Serial::new(row.try_get(0)?).map_err(|_| Error::BadRow)?,
                    issuer: row.try_get(1)?,
                    at: row.try_get::<i64, _>(2)?.cast_unsigned(),
                })
            })
            .collect()
        })
        .await
    }

    /// Every known certificate, the soonest end first.
    pub async fn certificates(&self) -> Result<Vec<CertificateRow>, Error> {
        let query =
            || sqlx::query(sqlx::AssertSqlSafe(format!("{COLUMNS} order by not_after, serial_number")));
        self.run(async |connection| query_rows(connection, query()).await).await
    }

    pub async fn certificates_of(&self, email: &Email) -> Result<Vec<CertificateRow>, Error> {
        self.select("email = $1", email.as_str()).await
    }

    /// All that a device ever had.
    pub async fn certificates_on(&self, device: &str) -> Result<Vec<CertificateRow>, Error> {
        self.select("device = $1", device).await
    }

    /// Several, if several CAs gave the number.
    pub async fn certificates_numbered(&self, serial: &Serial) -> Result<Vec<CertificateRow>, Error> {
        self.select("serial_number = $1", serial.as_str()).await
    }

    /// By the SHA-1 in lower-case hex.
    pub async fn certificates_with(&self, fingerprint: &str) -> Result<Vec<CertificateRow>, Error> {
        self.select("fingerprint = $1", fingerprint).await
    }

    /// The email that an administrator noted beside this certificate. It never changes. `None`: it has no row, or one that a
    /// server noted at its first use, whose role cannot write the issuer. Its word says nothing to another server.
    pub async fn holder(&self, certificate: &Certificate) -> Result<Option<Email>, Error> {
        self.run(async |connection| {
            let found: Option<String> = sqlx::query_scalar(
                "select email from certificates
                  where fingerprint = $1 and serial_number = $2 and issuer is not null",
            )
            .bind(&certificate.fingerprint)
            .bind(certificate.serial.as_str())
            .fetch_optional(connection)
            .await?;
            found.map(|email| Email::new(&email).map_err(|_| Error::BadRow)).transpose()
        })
        .await
    }

    async fn select(&self, condition: &str, value: &str) -> Result<Vec<CertificateRow>, Error> {
        let statement = format!("{COLUMNS} where {condition} order by not_after, serial_number");
        self.run(async |connection| {
            query_rows(connection, sqlx::query(sqlx::AssertSqlSafe(statement)).bind(value)).await
        })
        .await
    }

    pub(super) async fn transaction<T>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.run(async |connection| {
            let mut transaction = connection.begin().await?;
            transaction.execute(PATIENT).await?;
            let done = work(&mut transaction).await?;
            transaction.commit().await?;
            Ok(done)
        })
        .await
    }
}

impl Revocation {
    /// Is it of this certificate? A row that does not know its issuer may be.
    pub fn is_of(&self, row: &CertificateRow) -> bool {
        let same_issuer = self.issuer.is_none() || row.issuer.is_none() || self.issuer == row.issuer;
        same_issuer && self.serial == row.certificate.serial
    }
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;

pub(super) async fn query_rows(
    connection: &mut PgConnection,
    query: Query<'_>,
) -> Result<Vec<CertificateRow>, Error> {
    query.fetch_all(connection).await?.iter().map(CertificateRow::from_row).collect()
}

/// A certificate that was noted at its first use gets its issuer and its device. Returns the holder that the row has,
/// whether all was noted before, and whether it is revoked.
pub(super) async fn note(
    connection: &mut PgConnection,
    noted: &Noted,
) -> Result<(String, bool, bool), Error> {
    super::people::must_be_enrolled(connection, &noted.email).await?;
    let Certificate { serial, fingerprint, not_after } = &noted.certificate;
    let row = sqlx::query(
        "insert into certificates (serial_number, serial, email, fingerprint, not_after, issuer, device, revoked_at)
         values ($1, case when not exists (select from certificates where serial = $1) then $1 end, $2, $3, $4, $5, $6,
                 coalesce(to_timestamp($7::double precision),
                          (select min(revoked_at) from revoked_serials where serial_number = $1 and issuer in ($5, ''))))
             on conflict (fingerprint, serial_number) do update
            set issuer = excluded.issuer, device = coalesce(certificates.device, excluded.device),
                revoked_at = coalesce(certificates.revoked_at, excluded.revoked_at)
          where certificates.email = excluded.email
      returning email,
                -- It sees the row as it was.
                exists (select from certificates as before
                         where fingerprint = $3 and serial_number = $1
                           and issuer is not null and (device is not null or $6 is null)),
                revoked_at is not null",
    )
    .bind(serial.as_str())
    .bind(noted.email.as_str())
    .bind(fingerprint)
    .bind(not_after.cast_signed())
    .bind(&noted.issuer)
    .bind(&noted.device)
    .bind(noted.revoked_at.map(|at| at as f64))
    .fetch_optional(&mut *connection)
    .await?;
    match row {
        Some(row) => Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?)),
        None => {
            let holder = sqlx::query_scalar(
                "select email from certificates where fingerprint = $1 and serial_number = $2",
            );
            Ok((holder.bind(fingerprint).bind(serial.as_str()).fetch_one(connection).await?, false, false))
        }
    }
}

async fn revoke(connection: &mut PgConnection, certificates: &[Certificate]) -> Result<(), Error> {
    let column = |value: fn(&Certificate) -> &str| -> Vec<&str> { certificates.iter().map(value).collect() };
    sqlx::query(
        // A server of the version before looks certificates up by `serial`.
        "update certificates set revoked_at = now(),
                serial = coalesce(serial, case when not exists (
                    select from certificates as other where other.serial = certificates.serial_number
                ) then certificates.serial_number end)
           from unnest($1::text[], $2::text[]) as given (fingerprint, serial_number)
          where certificates.fingerprint = given.fingerprint
            -- Somebody may have written one by hand with zeros before it.
            and ltrim(certificates.serial_number, '0') = ltrim(given.serial_number, '0')
            and revoked_at is null",
    )
    .bind(column(|certificate| &certificate.fingerprint))
    .bind(column(|certificate| certificate.serial.as_str()))
    .execute(connection)
    .await?;
    Ok(())
}

/// `false` if it was known.
async fn revoke_serial(connection: &mut PgConnection, revocation: &Revocation) -> Result<bool, Error> {
    let done = sqlx::query(
        "insert into revoked_serials (serial_number, issuer, revoked_at)
         values ($1, $2, to_timestamp($3::double precision)) on conflict do nothing",
    )
    .bind(revocation.serial.as_str())
    .bind(revocation.issuer.as_deref().unwrap_or_default())
    .bind(revocation.at as f64)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}
