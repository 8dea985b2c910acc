//! The history that the primary which is left has, beside the answers that the clients got and the announcements that
//! the listener heard.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::load::Beat;

/// Keeps every committed sighting. The last row of each person would not show a loss: the next heartbeat covers it.
pub const TRIGGER: &str = "
create table history (email text not null, last_seen_ns bigint not null, port integer not null);
create function note_history() returns trigger language plpgsql security definer as
$$ begin insert into history values (new.email, new.last_seen_ns, new.port); return null; end $$;
create trigger note_history after update on users for each row
    when (new.last_seen_ns is distinct from old.last_seen_ns) execute function note_history();
create table witness (at timestamptz not null default clock_timestamp())";

pub const HISTORY: &str = "select email, last_seen_ns, port from history";

/// The times of the sightings, by email and port.
pub struct History(BTreeMap<(String, u16), BTreeSet<u64>>);

/// nginx tells in milliseconds when it got a request.
const COARSE_NS: u64 = 2_000_000;

impl History {
    /// The output of psql.
    pub fn read(rows: &str) -> Self {
        let mut history = BTreeMap::<_, BTreeSet<u64>>::new();
        for row in rows.lines() {
            let mut columns = row.split('|');
            let mut next = || columns.next().unwrap();
            let (email, seen, port) = (next().to_owned(), next().parse().unwrap(), next().parse().unwrap());
            history.entry((email, port)).or_default().insert(seen);
        }
        Self(history)
    }

    /// As a listener heard it.
    pub fn of_announced(heard: &[Value]) -> Self {
        let mut history = BTreeMap::<_, BTreeSet<u64>>::new();
        for one in heard {
            let (key, seen) = sighting(one);
            history.entry(key).or_default().insert(seen);
        }
        Self(history)
    }

    pub fn len(&self) -> usize {
        self.0.values().map(BTreeSet::len).sum()
    }

    /// The acknowledged heartbeats that it does not hold. Each needs a sighting of its own: of its person and connection,
    /// while it was under way.
    pub fn lacks_acknowledged(mut self, beats: &[Beat]) -> Vec<Beat> {
        let is_lost = |beat: &&Beat| {
            let Some(seen) = self.0.get_mut(&(beat.email.clone(), beat.port)) else { return true };
            let found = seen.range(beat.began_ns - COARSE_NS..=beat.ended_ns).next().copied();
            found.is_none_or(|found| !seen.remove(&found))
        };
        beats.iter().filter(|beat| beat.is_acknowledged()).filter(is_lost).cloned().collect()
    }

    /// The announcements that it does not hold.
    pub fn lacks_announced(&self, heard: &[Value]) -> Vec<Value> {
        let is_kept = |one: &Value| {
            let (key, seen) = sighting(one);
            self.0.get(&key).is_some_and(|times| times.contains(&seen))
        };
        heard.iter().filter(|one| !is_kept(one)).cloned().collect()
    }
}

/// A line of the listener.
fn sighting(one: &Value) -> ((String, u16), u64) {
    let email = one["email"].as_str().unwrap().to_owned();
    let seen = one["last_seen_ns"].as_str().unwrap().parse().unwrap();
    ((email, one["port"].as_u64().unwrap() as u16), seen)
}

#[test]
fn a_loss_is_seen() {
    let beat = |began_ns, ended_ns, status| {
        let email = "a@example.com".to_owned();
        Beat { to: "s1", email, port: 7, began_ns, ended_ns, status }
    };
    let history = || History::read("a@example.com|1000000050|7\na@example.com|1000000450|7");
    let beats = [beat(1_000_000_000, 1_000_000_100, 204), beat(1_000_000_400, 1_000_000_500, 204)];
    assert!(history().lacks_acknowledged(&beats).is_empty());
    // A refusal may have been committed or not.
    let refused = beat(1_000_000_600, 1_000_000_700, 503);
    assert!(history().lacks_acknowledged(&[refused]).is_empty());
    // One sighting does not answer for two heartbeats, nor for another connection.
    let twice = [beats[0].clone(), beats[1].clone(), beats[1].clone()];
    assert_eq!(history().lacks_acknowledged(&twice).len(), 1);
    let elsewhere = Beat { port: 8, ..beats[0].clone() };
    assert_eq!(history().lacks_acknowledged(&[elsewhere]).len(), 1);
    let announced =
        |seen: &str| serde_json::json!({"email": "a@example.com", "last_seen_ns": seen, "port": 7});
    let heard = [announced("1000000050"), announced("1000000051")];
    assert_eq!(history().lacks_announced(&heard), heard[1..]);
    // The listener did not hear the second one.
    assert_eq!(History::of_announced(&heard[..1]).lacks_acknowledged(&beats).len(), 1);
}
