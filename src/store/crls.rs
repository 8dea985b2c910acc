//! The CRLs of our own CA, for the hosts that have no key of it; and the requests of hosts that join.

use std::net::IpAddr;

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Executor, Row};

use super::{Error, Store};

/// The newest CRL of a CA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedCrl {
    /// The name of the CA, as RFC 4514 writes it.
    pub issuer: String,
    pub number: CrlNumber,
    pub der: Vec<u8>,
}

/// A role that may log in, and the group whose rights it has.
pub struct NewRole {
    pub name: String,
    /// Of its password. The password itself could come into the log of the database.
    pub verifier: String,
    pub group: &'static str,
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

/// A run of a host that joins, and waits.
#[derive(Clone, Debug)]
pub struct Joining {
    id: i64,
    pub name: String,
    pub request: String,
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

    /// Forgets the lists of all CAs but these. Returns whose they were.
    pub async fn forget_crls_but(&self, issuers: &[&str]) -> Result<Vec<String>, Error> {
        self.run(async |connection| {
            let forgotten = sqlx::query_scalar("delete from crls where issuer <> all($1) returning issuer");
            Ok(forgotten.bind(issuers).fetch_all(connection).await?)
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

    /// Does PostgreSQL listen on an address that other hosts may reach?
    pub async fn is_on_the_network(&self) -> Result<bool, Error> {
        self.run(async |connection| {
            let addresses: String = sqlx::query_scalar("select current_setting('listen_addresses')")
                .fetch_one(connection)
                .await?;
            Ok(is_on_the_network(&addresses))
        })
        .await
    }

    /// Asks to join. Requests that nobody waits for any more go.
    pub async fn ask_to_join(&self, name: &str, request: String) -> Result<Joining, Error> {
        self.run(async |connection| {
            let id = sqlx::query_scalar(
                "with old as (delete from joins where asked_at < clock_timestamp() - interval '10 minutes')
                 insert into joins (name, request) values ($1, $2) returning id",
            );
            let id = id.bind(name).bind(&request).fetch_one(connection).await?;
            Ok(Joining { id, name: name.to_owned(), request })
        })
        .await
    }

    /// `None`: the request is gone, for it was refused.
    pub async fn answer_to(&self, joining: &Joining) -> Result<Option<Option<String>>, Error> {
        self.run(async |connection| {
            let answer = sqlx::query_scalar::<_, Option<String>>("select answer from joins where id = $1");
            Ok(answer.bind(joining.id).fetch_optional(connection).await?)
        })
        .await
    }

    /// Those without an answer, the first that asked first.
    pub async fn joining(&self) -> Result<Vec<Joining>, Error> {
        self.run(async |connection| {
            let rows = sqlx::query(
                "select id, name, request from joins
                  where answer is null and asked_at > clock_timestamp() - interval '10 minutes' order by id limit 100",
            );
            let rows = rows.fetch_all(connection).await?;
            rows.iter()
                .map(|row| {
                    Ok(Joining { id: row.try_get(0)?, name: row.try_get(1)?, request: row.try_get(2)? })
                })
                .collect()
        })
        .await
    }

    /// Takes a request back, or its answer. It was refused, or nobody waits for it.
    pub async fn end_join(&self, joining: &Joining) -> Result<(), Error> {
        self.run(async |connection| {
            sqlx::query("delete from joins where id = $1").bind(joining.id).execute(connection).await?;
            Ok(())
        })
        .await
    }

    /// `false`: it was taken back meanwhile, or answered by another.
    pub async fn answer_join(&self, joining: &Joining, answer: &str) -> Result<bool, Error> {
        self.run(async |connection| {
            let answered = sqlx::query(
                "update joins set answer = $2, answered_at = clock_timestamp() where id = $1 and answer is null",
            );
            let answered = answered.bind(joining.id).bind(answer).execute(connection).await?;
            Ok(answered.rows_affected() == 1)
        })
        .await
    }

    /// Makes roles that may log in, each with a password and the rights of another, or gives them these. Each server has its
    /// own, so that the connections of one do not use up those of another.
    pub async fn make_roles(&self, roles: &[NewRole]) -> Result<(), Error> {
        self.transaction(async |connection| make(connection, roles).await).await
    }

    /// Could they be made? Nothing of it stays.
    pub async fn may_make_roles(&self, roles: &[NewRole]) -> Result<(), Error> {
        self.run(async |connection| {
            let mut transaction = connection.begin().await?;
            make(&mut transaction, roles).await?;
            Ok(transaction.rollback().await?)
        })
        .await
    }

    /// Ends the sessions of a role, and lets it begin none.
    pub async fn close_role(&self, role: &str) -> Result<(), Error> {
        // Only a member may end them.
        self.of_role(role, "grant %1$I to current_user; alter role %1$I nologin").await?;
        self.run(async |connection| {
            sqlx::query("select pg_terminate_backend(pid) from pg_stat_activity where usename = $1")
                .bind(role)
                .execute(connection)
                .await?;
            Ok(())
        })
        .await
    }

    /// Drops a role that is closed, with that which it made in this database. `false` if there is none.
    pub async fn drop_role(&self, role: &str) -> Result<bool, Error> {
        self.of_role(role, "drop owned by %1$I; drop role %1$I").await
    }

    /// Executes statements if there is such a role.
    async fn of_role(&self, role: &str, statements: &str) -> Result<bool, Error> {
        self.run(async |connection| {
            let of_it = sqlx::query_scalar::<_, String>(
                "select format($2, rolname) from pg_roles where rolname = $1",
            );
            let of_it = of_it.bind(role).bind(statements).fetch_optional(&mut *connection).await?;
            let Some(of_it) = of_it else { return Ok(false) };
            connection.execute(sqlx::raw_sql(AssertSqlSafe(of_it))).await?;
            Ok(true)
        })
        .await
    }

    /// Takes a server out: its process records nothing more, and nobody believes its key. Returns how many people it saw
    /// last, or `None` if there is no such server. Its row goes if they are to be forgotten; without the row a process that
    /// still runs would begin again.
    pub async fn leave(&self, name: &str, forget: bool) -> Result<Option<i64>, Error> {
        self.transaction(async |connection| {
            let left = sqlx::query(
                "update servers set epoch = epoch + 1, public_key = null, further_keys = '{}',
                        left_at = coalesce(left_at, clock_timestamp()), told_at = least(told_at, clock_timestamp() - interval '1 minute')
                  where name = $1",
            );
            let left = left.bind(name).execute(&mut *connection).await?;
            sqlx::query("delete from joins where name = $1").bind(name).execute(&mut *connection).await?;
            if left.rows_affected() == 0 {
                return Ok(None);
            }
            let seen = sqlx::query_scalar::<_, i64>("select count(*) from users where server = $1");
            let seen = seen.bind(name).fetch_one(&mut *connection).await?;
            if forget {
                sqlx::query("delete from servers where name = $1").bind(name).execute(connection).await?;
            }
            Ok(Some(seen))
        })
        .await
    }
}

/// Is one of the `listen_addresses` none of the loopback interface?
fn is_on_the_network(addresses: &str) -> bool {
    let is_own = |address: &str| {
        address.is_empty()
            || address == "localhost"
            || address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    };
    !addresses.split(',').all(|address| is_own(address.trim()))
}

async fn make(connection: &mut PgConnection, roles: &[NewRole]) -> Result<(), Error> {
    for NewRole { name, verifier, group } in roles {
        let statements = sqlx::query_scalar::<_, String>(
            "select format(case when exists (select from pg_roles where rolname = $1)
                                then 'alter role %1$I login password %2$L connection limit 8; grant %3$I to %1$I'
                                else 'create role %1$I login password %2$L connection limit 8 in role %3$I' end,
                           $1::text, $2::text, $3::text)",
        );
        let statements = statements.bind(name).bind(verifier).bind(group).fetch_one(&mut *connection).await?;
        connection.execute(sqlx::raw_sql(AssertSqlSafe(statements))).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_hosts_reach_an_address_that_is_not_of_the_loopback_interface() {
        for (addresses, reach) in [
            ("", false),
            ("localhost", false),
            ("127.0.0.1, ::1", false),
            ("*", true),
            ("localhost,192.0.2.1", true),
            ("db1.example.com", true),
            ("::", true),
        ] {
            assert_eq!(is_on_the_network(addresses), reach, "{addresses}");
        }
    }

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
