//! The servers of one database: the keys that listeners believe.

use sqlx::Row;

use super::{Error, Store};

/// A server that has not told for so long may have ended.
const SILENT_S: f64 = 5.0;

/// The keys of a server, and when it told last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerKeys {
    pub name: String,
    /// The one that it signs with, if it says one.
    pub public_key: Option<[u8; 32]>,
    /// Those beside it, while its key is replaced.
    pub further: Vec<[u8; 32]>,
    /// Milliseconds since its last word, by the database's clock.
    pub silent_ms: u64,
}

impl Store {
    /// The keys of every server.
    pub async fn keys(&self) -> Result<Vec<ServerKeys>, Error> {
        self.run(async |connection| {
            sqlx::query(
                "select name, public_key, further_keys,
                        greatest(extract(epoch from clock_timestamp() - told_at) * 1000, 0)::bigint
                   from servers where left_at is null order by name",
            )
            .fetch_all(connection)
            .await?
            .iter()
            .map(|row| {
                let key = |bytes: Vec<u8>| bytes.try_into().map_err(|_| Error::BadRow);
                // Its own server wrote them, and no other's keys wait for what is none.
                let further = row.try_get::<Vec<Option<Vec<u8>>>, _>(2)?;
                Ok(ServerKeys {
                    name: row.try_get(0)?,
                    public_key: row.try_get::<Option<Vec<u8>>, _>(1)?.map(key).transpose()?,
                    further: further.into_iter().flatten().filter_map(|key| key.try_into().ok()).collect(),
                    silent_ms: row.try_get::<i64, _>(3)?.cast_unsigned(),
                })
            })
            .collect()
        })
        .await
    }

    /// The key that this server signs with. Its row is there.
    pub async fn tell_key(&self, name: &str, key: Option<&[u8; 32]>) -> Result<(), Error> {
        self.run(async |connection| {
            sqlx::query(
                "update servers set public_key = $2, left_at = null
                  where name = $1 and (public_key is distinct from $2 or left_at is not null)",
            )
            .bind(name)
            .bind(key.map(|key| &key[..]))
            .execute(connection)
            .await?;
            Ok(())
        })
        .await
    }

    /// The keys beside it.
    pub async fn tell_further_keys(&self, name: &str, keys: &[[u8; 32]]) -> Result<(), Error> {
        self.run(async |connection| {
            sqlx::query(
                "update servers set further_keys = $2 where name = $1 and further_keys is distinct from $2",
            )
            .bind(name)
            .bind(keys.iter().map(|key| &key[..]).collect::<Vec<_>>())
            .execute(connection)
            .await?;
            Ok(())
        })
        .await
    }

    /// Another server that signs with the same key, and goes on.
    pub async fn other_with_key(&self, name: &str, key: &[u8; 32]) -> Result<Option<String>, Error> {
        self.run(async |connection| {
            let other = sqlx::query_scalar(
                "select name from servers
                  where name <> $1 and public_key = $2 and told_at > clock_timestamp() - make_interval(secs => $3)
                  order by name limit 1",
            );
            Ok(other.bind(name).bind(&key[..]).bind(SILENT_S).fetch_optional(connection).await?)
        })
        .await
    }
}
