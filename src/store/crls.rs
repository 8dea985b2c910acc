//! The CRLs of our own CA, for the hosts that have no key of it.

use sqlx::Row;

use super::{Error, Store};

/// The newest CRL of a CA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedCrl {
    /// The name of the CA, as RFC 4514 writes it.
    pub issuer: String,
    pub number: CrlNumber,
    pub der: Vec<u8>,
}

/// Upper-case hex without leading zeros, which a longer one exceeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrlNumber(String);

impl CrlNumber {
    pub fn new(hex: &str) -> Self {
        Self(hex.trim_start_matches('0').to_ascii_uppercase())
    }

    pub fn is_above(&self, other: &Self) -> bool {
        (self.0.len(), &self.0) > (other.0.len(), &other.0)
    }

    /// If it fits.
    pub fn value(&self) -> Option<u64> {
        u64::from_str_radix(&self.0, 16).ok()
    }
}

impl Store {
    pub async fn published_crls(&self) -> Result<Vec<PublishedCrl>, Error> {
        self.run(async |connection| {
            let rows = sqlx::query("select issuer, number, der from crls order by issuer");
            let rows = rows.fetch_all(connection).await?;
            rows.iter()
                .map(|row| {
                    let number = CrlNumber(row.try_get(1)?);
                    Ok(PublishedCrl { issuer: row.try_get(0)?, number, der: row.try_get(2)? })
                })
                .collect()
        })
        .await
    }

    /// Forgets the list of a CA that nobody trusts any more.
    pub async fn forget_crl(&self, issuer: &str) -> Result<(), Error> {
        self.run(async |connection| {
            sqlx::query("delete from crls where issuer = $1").bind(issuer).execute(connection).await?;
            Ok(())
        })
        .await
    }

    /// The numbers alone, for somebody who looks again and again.
    pub async fn published_numbers(&self) -> Result<Vec<(String, CrlNumber)>, Error> {
        self.run(async |connection| {
            let rows =
                sqlx::query("select issuer, number from crls order by issuer").fetch_all(connection).await?;
            rows.iter().map(|row| Ok((row.try_get(0)?, CrlNumber(row.try_get(1)?)))).collect()
        })
        .await
    }

    /// Hands it to the other hosts. Its author alone does that, whose numbers only grow.
    pub async fn publish_crl(&self, crl: &PublishedCrl) -> Result<(), Error> {
        self.run(async |connection| {
            sqlx::query(
                "insert into crls (issuer, number, der) values ($1, $2, $3)
                     on conflict (issuer) do update
                    set number = excluded.number, der = excluded.der, published_at = clock_timestamp()
                  where crls.der <> excluded.der or crls.number <> excluded.number",
            )
            .bind(&crl.issuer)
            .bind(&crl.number.0)
            .bind(&crl.der)
            .execute(connection)
            .await?;
            Ok(())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_compared_as_numbers() {
        let number = CrlNumber::new;
        for (above, below) in
            [("0100", "FF"), ("0b", "0A"), ("10000000000000000", "FFFFFFFFFFFFFFFF"), ("1", "0")]
        {
            assert!(
                number(above).is_above(&number(below)) && !number(below).is_above(&number(above)),
                "{above}"
            );
        }
        assert!(!number("00AB").is_above(&number("ab")));
        assert_eq!((number("00ff").value(), number("10000000000000000").value()), (Some(255), None));
    }
}
