//! The way of a renewal: the server writes the request of a device, the signer answers it.

use std::time::Duration;

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Executor, Row};

use super::certificates::{Noted, note};
use super::sighting::{Certificate, Sighting};
use super::{CertificateRow, Error, Store};

/// A further key may be asked for with the same certificate after this long, and a refusal may be asked about again. It
/// bounds the number of certificates that one device can get.
pub const PAUSE: Duration = Duration::from_secs(60);

/// A device that has not asked again within this does not wait for its answer any more.
const PATIENCE: Duration = Duration::from_secs(2 * 60 * 60);

/// Most requests that the signer takes at once.
const MOST: i64 = 1000;

/// May the holder of a certificate renew it?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Good,
    NotEnrolled,
    Disabled,
    Revoked,
    /// No row describes the certificate, or one of another person does.
    Unknown,
}

/// A request, and its answer if there is one.
#[derive(Clone, Debug)]
pub struct Renewal {
    /// PKCS #10, DER.
    pub request: Vec<u8>,
    pub age: Duration,
    /// PEM of the certificate and the CAs above it; or the reason why there is none.
    pub answer: Option<Result<String, String>>,
}

/// A request that the signer has not answered, and the certificate that asks.
#[derive(Clone, Debug)]
pub struct Waiting {
    pub holder: CertificateRow,
    pub is_disabled: bool,
    pub request: Vec<u8>,
}

impl Store {
    /// The same that a heartbeat is asked, and whether the certificate is known as this person's.
    pub async fn standing(&self, sighting: &Sighting) -> Result<Standing, Error> {
        let Certificate { serial, fingerprint, .. } = &sighting.certificate;
        self.run(async |connection| {
            let row = sqlx::query(
                "select users.email is not null, users.disabled_at is not null,
                        certificates.revoked_at is not null, certificates.email = given.email
                   from (select $1::text as email, $2::text as fingerprint, $3::text as serial_number) as given
                   left join users using (email) left join certificates using (fingerprint, serial_number)",
            )
            .bind(sighting.status.email.as_str())
            .bind(fingerprint)
            .bind(serial.as_str())
            .fetch_one(connection)
            .await?;
            Ok(match (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?) {
                (_, _, true, _) => Standing::Revoked,
                (false, ..) => Standing::NotEnrolled,
                (_, true, ..) => Standing::Disabled,
                (_, _, _, Some(true)) => Standing::Good,
                (_, _, _, Some(false) | None) => Standing::Unknown,
            })
        })
        .await
    }

    /// The last request that was made with this certificate.
    pub async fn renewal(&self, certificate: &Certificate) -> Result<Option<Renewal>, Error> {
        self.run(async |connection| {
            let row = sqlx::query(
                "select request, extract(epoch from clock_timestamp() - asked_at)::double precision, certificate, refused
                   from renewals where fingerprint = $1 and serial_number = $2",
            )
            .bind(&certificate.fingerprint)
            .bind(certificate.serial.as_str())
            .fetch_optional(connection)
            .await?;
            row.as_ref().map(Renewal::from_row).transpose()
        })
        .await
    }

    /// Hands a request to the signer, in the place of one that is older than [`PAUSE`]. A younger one stays, and so does
    /// the same one that has its certificate.
    pub async fn ask(&self, certificate: &Certificate, request: &[u8]) -> Result<(), Error> {
        self.run(async |connection| {
            sqlx::query(
                "insert into renewals (fingerprint, serial_number, request) values ($1, $2, $3)
                     on conflict (fingerprint, serial_number) do update set request = excluded.request
                  where renewals.asked_at < clock_timestamp() - make_interval(secs => $4)
                    and (renewals.certificate is null or renewals.request <> excluded.request)",
            )
            .bind(&certificate.fingerprint)
            .bind(certificate.serial.as_str())
            .bind(request)
            .bind(PAUSE.as_secs_f64())
            .execute(connection)
            .await?;
            Ok(())
        })
        .await
    }

    /// The requests that have no answer, in no order: one that fails again and again keeps nobody back.
    pub async fn waiting(&self) -> Result<Vec<Waiting>, Error> {
        self.run(async |connection| {
            sqlx::query(
                "select certificates.serial_number, certificates.email, fingerprint, not_after, last_used_ns, issuer,
                        device, extract(epoch from revoked_at)::bigint, disabled_at is not null, request
                   from renewals join certificates using (fingerprint, serial_number) join users using (email)
                  where answered_at is null and asked_at > clock_timestamp() - make_interval(secs => $1)
                  order by random() limit $2",
            )
            .bind(PATIENCE.as_secs_f64())
            .bind(MOST)
            .fetch_all(connection)
            .await?
            .iter()
            .map(|row| {
                Ok(Waiting {
                    holder: CertificateRow::from_row(row)?,
                    is_disabled: row.try_get(8)?,
                    request: row.try_get(9)?,
                })
            })
            .collect()
        })
        .await
    }

    /// Notes the new certificate and hands it out, in one transaction. `false` if the request is not to be answered any
    /// more: another one took its place, or the person or the certificate that asked is refused meanwhile.
    pub async fn grant(&self, waiting: &Waiting, noted: &Noted, pem: &str) -> Result<bool, Error> {
        self.transaction(async |connection| {
            if !still_stands(connection, waiting).await? || !answer(connection, waiting, Ok(pem)).await? {
                return Ok(false);
            }
            note(connection, noted).await?;
            forget(connection).await?;
            Ok(true)
        })
        .await
    }

    /// Answers with the reason why there is no certificate.
    pub async fn refuse(&self, waiting: &Waiting, reason: &str) -> Result<bool, Error> {
        self.transaction(async |connection| answer(connection, waiting, Err(reason)).await).await
    }
}

impl Renewal {
    fn from_row(row: &PgRow) -> Result<Self, Error> {
        let (granted, refused): (Option<String>, Option<String>) = (row.try_get(2)?, row.try_get(3)?);
        Ok(Self {
            request: row.try_get(0)?,
            age: Duration::try_from_secs_f64(row.try_get(1)?).unwrap_or_default(),
            answer: granted.map(Ok).or(refused.map(Err)),
        })
    }
}

/// Locks the certificate that asks, so that a revocation comes before or after this transaction.
async fn still_stands(connection: &mut PgConnection, waiting: &Waiting) -> Result<bool, Error> {
    let Certificate { serial, fingerprint, .. } = &waiting.holder.certificate;
    let row = sqlx::query(
        "select from certificates join users using (email)
          where fingerprint = $1 and serial_number = $2 and email = $3 and revoked_at is null and disabled_at is null
            for update of certificates",
    )
    .bind(fingerprint)
    .bind(serial.as_str())
    .bind(&waiting.holder.email)
    .fetch_optional(connection)
    .await?;
    Ok(row.is_some())
}

/// `false` if this request does not wait any more.
async fn answer(
    connection: &mut PgConnection,
    waiting: &Waiting,
    answer: Result<&str, &str>,
) -> Result<bool, Error> {
    let Certificate { serial, fingerprint, .. } = &waiting.holder.certificate;
    let done = sqlx::query(
        "update renewals set certificate = $4, refused = $5, answered_at = clock_timestamp()
          where fingerprint = $1 and serial_number = $2 and request = $3 and answered_at is null",
    )
    .bind(fingerprint)
    .bind(serial.as_str())
    .bind(&waiting.request)
    .bind(answer.ok())
    .bind(answer.err())
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// A certificate that has ended asks for nothing more.
async fn forget(connection: &mut PgConnection) -> Result<(), Error> {
    connection
        .execute(
            "delete from renewals using certificates
              where renewals.fingerprint = certificates.fingerprint
                and renewals.serial_number = certificates.serial_number
                and certificates.not_after < extract(epoch from now())",
        )
        .await?;
    Ok(())
}
