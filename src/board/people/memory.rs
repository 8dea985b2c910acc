//! The memory of the board: everybody by email, the servers and their clocks, and the log of the changes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_std::channel::Sender;
use serde_json::{Value, json};

use super::{Counts, Event, Look, Place, Sort};
use crate::board::time;
use crate::protocol::pseudonym::Key;
use crate::protocol::status::Email;
use crate::store::presence::{Clock, Person, ServerRow, State};

/// A clock that has stood still for this long is that of a server that cannot hear.
pub const DEAF_AFTER: Duration = Duration::from_secs(5);
/// Changes that are remembered for those who come back.
pub const REMEMBERED: usize = 10_000;
/// No server of the table: nobody speaks for whom it saw.
const NO_SERVER: u32 = u32::MAX;

pub struct Memory {
    pub people: BTreeMap<String, Entry>,
    pub servers: Vec<Server>,
    /// The emails behind the pseudonyms of the announcements, with the key.
    pub pseudonyms: Option<(Key, HashMap<Email, String>)>,
    pub position: u64,
    /// Changes to each state, in the order of [`State::ALL`].
    pub transitions: [u64; 5],
    pub log: VecDeque<Logged>,
    /// Their rows have to be read.
    pub doubtful: HashSet<String>,
    pub waiting: Vec<Sender<()>>,
    /// The position of which those who wait were told.
    pub woken: u64,
    /// The last good look at the database. `None`: not everybody has been read yet.
    pub as_of_ns: Option<u64>,
    pub is_ready: bool,
    /// Were the clocks of the servers read the last time? Otherwise the board is deaf, and not a server.
    pub sees_clocks: bool,
    pub counts: Option<Counts>,
    pub is_over: bool,
}

/// What is needed each second stands here, and the rest behind a pointer.
pub struct Entry {
    pub person: Arc<Person>,
    pub server: u32,
    /// By the clock of the server as far as that was read, also while it stands still. Never unknown.
    pub state: State,
    pub since_ns: Option<u64>,
}

pub struct Server {
    pub name: String,
    pub clock: Clock,
    pub moved: Instant,
    /// Since when it hears, or does not; `None`: since before the board began.
    pub since_ns: Option<u64>,
    /// Its row is there.
    pub is_there: bool,
}

/// An event of the log, as it is handed out.
pub struct Logged {
    pub position: u64,
    pub event: Event,
}

pub type PlaceOf<'a> = (bool, u8, Reverse<u64>, &'a str);

pub fn borrowed(place: &Place) -> PlaceOf<'_> {
    (place.0, place.1, place.2, &place.3)
}

impl Memory {
    pub fn server_of(&self, name: Option<&str>) -> u32 {
        let at = name.and_then(|name| self.servers.iter().position(|server| server.name == name));
        at.map_or(NO_SERVER, |at| at as u32)
    }

    /// An administrator said that the server is gone, or it is one of the version before: its clock has run out.
    pub fn clock(&self, server: u32) -> Clock {
        let known = self.servers.get(server as usize).filter(|server| server.is_there);
        known.map_or(Clock { heard_ms: u64::MAX, resumed_ms: 0, is_deaf: false }, |server| server.clock)
    }

    pub fn set_clock(&mut self, row: ServerRow, now: Instant) {
        let ServerRow { name, heard_ms, resumed_ms, silent_ms, .. } = row;
        match self.servers.iter_mut().find(|server| server.name == name) {
            Some(server) => {
                // A start alone hears nobody.
                if server.clock.heard_ms != heard_ms {
                    server.moved = now;
                }
                server.clock = Clock { heard_ms, resumed_ms, ..server.clock };
            }
            None => {
                let silent = Duration::from_millis(silent_ms);
                let is_deaf = silent >= DEAF_AFTER;
                let moved = now.checked_sub(silent.min(DEAF_AFTER)).unwrap_or(now);
                let clock = Clock { heard_ms, resumed_ms, is_deaf };
                self.servers.push(Server { name, clock, moved, since_ns: None, is_there: true });
                self.counts = None;
                // Whoever it saw was nobody's until now.
                let at = (self.servers.len() - 1) as u32;
                let name = &self.servers[at as usize].name;
                for entry in self.people.values_mut() {
                    if entry.person.server.as_ref() == Some(name) {
                        entry.server = at;
                    }
                }
            }
        }
    }

    /// Everybody whose state is not what the rule says now, by what is known.
    pub fn doubt(&mut self) {
        let clocks: Vec<Clock> = (0..self.servers.len() as u32).map(|server| self.clock(server)).collect();
        let nobodys = self.clock(NO_SERVER);
        for (email, entry) in &self.people {
            let clock = *clocks.get(entry.server as usize).unwrap_or(&nobodys);
            if !clock.is_deaf && State::of(entry.person.window.as_ref(), clock) != entry.state {
                self.doubtful.insert(email.clone());
            }
        }
    }

    pub fn shown(&self, entry: &Entry) -> State {
        match entry.state != State::Never && self.clock(entry.server).is_deaf {
            true => State::Unknown,
            false => entry.state,
        }
    }

    /// The state that is shown, and since when.
    fn shown_since(&self, entry: &Entry) -> (State, Option<u64>) {
        match self.shown(entry) {
            State::Unknown => (State::Unknown, self.servers[entry.server as usize].since_ns),
            state => (state, entry.since_ns),
        }
    }

    pub fn describe(&self, entry: &Entry) -> Value {
        let (state, since_ns) = self.shown_since(entry);
        describe(&entry.person, state, since_ns)
    }

    pub fn place_of<'a>(&self, entry: &'a Entry, sort: Sort) -> PlaceOf<'a> {
        let person = &entry.person;
        let (rank, at) = match sort {
            Sort::Email => (0, 0),
            Sort::Seen => (0, person.seen.map_or(0, |(seen_ns, ..)| seen_ns)),
            Sort::Trouble => {
                let (state, since_ns) = self.shown_since(entry);
                (rank(state), since_ns.unwrap_or(0))
            }
        };
        (person.disabled, rank, Reverse(at), &person.email)
    }

    pub fn look(&mut self) -> Option<Look> {
        let as_of_ns = self.as_of_ns.filter(|_| self.is_ready)?;
        let counts = match self.counts {
            Some(counts) => counts,
            None => *self.counts.insert(self.count()),
        };
        let servers = self.servers.iter().filter(|server| server.is_there).map(Server::json).collect();
        Some(Look { position: self.position, as_of_ns, counts, servers })
    }

    fn count(&self) -> Counts {
        let mut counts = Counts::default();
        for entry in self.people.values() {
            match entry.person.disabled {
                true => counts.disabled += 1,
                false => counts.states[usize::from(rank(self.shown(entry)))] += 1,
            }
        }
        counts
    }

    /// The event of the present position.
    pub fn remember(&mut self, event: Event) {
        if self.log.len() >= REMEMBERED {
            self.log.pop_front();
        }
        self.log.push_back(Logged { position: self.position, event });
    }

    /// A full channel already holds the message, and one whose reader is gone goes too.
    pub fn wake(&mut self) {
        let last = self.log.back().map_or(0, |logged| logged.position);
        if last != mem::replace(&mut self.woken, last) {
            self.waiting.retain(|waiting| {
                !waiting.is_closed() && {
                    let _ = waiting.try_send(());
                    true
                }
            });
        }
    }
}

impl Server {
    pub fn json(&self) -> Value {
        json!({ "name": self.name, "hears": !self.clock.is_deaf, "since": self.since_ns.map(time) })
    }
}

/// The most troubling first.
fn rank(state: State) -> u8 {
    State::ALL.iter().position(|other| *other == state).unwrap_or_default() as u8
}

/// Since when somebody is in a state that begins now: a silence began before it was noticed.
pub fn began(state: State, person: &Person, now_ns: u64) -> Option<u64> {
    let (seen_ns, ..) = person.seen?;
    Some(match state {
        State::Late => due_ns(person, seen_ns).min(now_ns),
        State::Offline => seen_ns,
        State::Online => seen_ns.min(now_ns),
        _ => now_ns,
    })
}

fn due_ns(person: &Person, seen_ns: u64) -> u64 {
    seen_ns.saturating_add(u64::from(person.every_s) * 1_000_000_000)
}

/// A person as every answer has them.
pub fn describe(person: &Person, state: State, since_ns: Option<u64>) -> Value {
    let seen_ns = person.seen.map(|(seen_ns, ..)| seen_ns);
    let due = matches!(state, State::Online | State::Late);
    json!({
        "email": person.email,
        "state": state.word(),
        "since": since_ns.map(time),
        "last_seen": seen_ns.map(time),
        "last_seen_ns": seen_ns.map(|seen_ns| seen_ns.to_string()),
        "due": seen_ns.filter(|_| due).map(|seen_ns| time(due_ns(person, seen_ns))),
        "every": person.every_s,
        "ip": person.seen.map(|(_, ip, _)| ip.to_string()),
        "port": person.seen.map(|(.., port)| port),
        "server": person.server,
        "disabled": person.disabled,
        "certificate": person.certificate.as_ref().map(|(serial, not_after)| {
            json!({ "serial": serial, "not_after": time(not_after.saturating_mul(1_000_000_000)) })
        }),
    })
}
