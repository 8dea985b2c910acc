//! Everybody in memory: the state of each, and every change of one.
//!
//! Rows come in, in any order and as often as one likes; [`State::of`] decides. A state gets worse by a row alone that was
//! read for it: [`People::doubtful`] names those whose rows have to be read.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use async_std::channel::{self, Receiver, Sender};
use serde_json::{Value, json};

mod memory;

use memory::{DEAF_AFTER, Entry, Memory, PlaceOf, began, borrowed, describe};

use super::time;
use crate::cli::now_ns;
use crate::protocol::pseudonym::Key;
use crate::protocol::status::Email;
use crate::store::presence::{Clock, Person, ServerRow, State};

/// A transition of one person.
#[derive(Clone, Debug)]
pub struct Change {
    /// The number of the change, of this board.
    pub position: u64,
    /// When the board noticed, in nanoseconds since the Unix epoch.
    pub at_ns: u64,
    pub email: String,
    /// `None`: enrolled meanwhile.
    pub from: Option<State>,
    /// `None`: deleted meanwhile. The same as `from`: an administrator changed something else.
    pub to: Option<State>,
    /// Since when `to` holds.
    pub since_ns: Option<u64>,
    /// As the row says; of one that was deleted, as it said.
    pub person: Arc<Person>,
}

/// Everybody, shared by the loops that read and the routes that answer.
pub struct People {
    /// Random for each start: positions of another one mean nothing here.
    board: String,
    /// The client of our own, which nobody is shown.
    canary: Option<Email>,
    /// Where each transition goes.
    transitions: Sender<Change>,
    memory: Mutex<Memory>,
}

#[derive(Clone)]
pub enum Event {
    /// The JSON of a [`Change`].
    State(Arc<str>),
    /// The JSON of a server.
    Server(Arc<str>),
}

/// How many are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Of the enabled, in the order of [`State::ALL`].
    pub states: [u64; 5],
    pub disabled: u64,
}

impl Counts {
    pub fn json(&self) -> Value {
        let mut json: Value =
            State::ALL.iter().zip(self.states).map(|(state, count)| (state.word(), count)).collect();
        json["disabled"] = self.disabled.into();
        json
    }
}

/// The order of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// The worst first, then the newest.
    Trouble,
    Email,
    /// The last seen first.
    Seen,
}

/// A place in a list: that of its last person. Disabled, rank, time, email.
pub type Place = (bool, u8, Reverse<u64>, String);

/// Everybody, and the state of each.
pub type States = Vec<(Arc<Person>, State)>;

/// A part of the list.
pub struct Query {
    /// Empty: all of them.
    pub states: Vec<State>,
    /// The disabled too, if states are chosen.
    pub disabled: bool,
    /// A part of the email, in lower case.
    pub part: String,
    pub sort: Sort,
    pub limit: usize,
    pub after: Option<Place>,
}

/// What was true at one moment.
pub struct Look {
    pub position: u64,
    pub as_of_ns: u64,
    pub counts: Counts,
    pub servers: Value,
}

impl People {
    /// With nobody in it, and the place where each transition arrives.
    pub fn new(board: String, canary: Option<Email>, pseudonyms: Option<Key>) -> (Self, Receiver<Change>) {
        let (transitions, arriving) = channel::unbounded();
        let memory = Memory {
            people: BTreeMap::new(),
            servers: Vec::new(),
            pseudonyms: pseudonyms.map(|key| (key, HashMap::new())),
            position: 0,
            transitions: [0; 5],
            log: VecDeque::new(),
            doubtful: HashSet::new(),
            waiting: Vec::new(),
            woken: 0,
            as_of_ns: None,
            is_ready: false,
            sees_clocks: false,
            counts: None,
            is_over: false,
        };
        (Self { board, canary, transitions, memory: Mutex::new(memory) }, arriving)
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Since when people were online when the board began, as the record of the boards before has it.
    pub fn begin(&self, online_since: HashMap<String, u64>) {
        let mut memory = self.lock();
        for (email, since_ns) in online_since {
            if let Some(entry) = memory.people.get_mut(&email)
                && entry.state == State::Online
                && entry.since_ns.is_none()
            {
                entry.since_ns = Some(since_ns);
            }
        }
    }

    /// Everybody has been read.
    pub fn ready(&self) {
        let mut memory = self.lock();
        memory.is_ready = true;
    }

    /// Rows that were read just now.
    pub fn apply(&self, rows: Vec<Person>) {
        let now_ns = now_ns();
        let mut memory = self.lock();
        for row in rows {
            if self.canary.as_ref().is_some_and(|canary| canary.as_str() == row.email) {
                continue;
            }
            memory.doubtful.remove(&row.email);
            self.place(&mut memory, row, now_ns);
        }
        memory.wake();
    }

    fn place(&self, memory: &mut Memory, row: Person, now_ns: u64) {
        let server = memory.server_of(row.server.as_deref());
        let clock = memory.clock(server);
        let heard = State::of(row.window.as_ref(), Clock { is_deaf: false, ..clock });
        let Some(entry) = memory.people.get(&row.email) else {
            let since_ns = match (heard, memory.is_ready) {
                // Only the record knows.
                (State::Online, false) => None,
                _ => began(heard, &row, now_ns),
            };
            if let Some((key, emails)) = &mut memory.pseudonyms
                && let Ok(email) = Email::new(&row.email)
            {
                emails.insert(key.pseudonym(&email), row.email.clone());
            }
            let person = Arc::new(row);
            let entry = Entry { person: Arc::clone(&person), server, state: heard, since_ns };
            memory.people.insert(person.email.clone(), entry);
            memory.counts = None;
            if memory.is_ready {
                self.note(memory, &person, None, Some(heard), since_ns, now_ns);
            }
            return;
        };
        let from = entry.state;
        let gets_worse = matches!(heard, State::Late | State::Offline) && heard != from;
        let state = if gets_worse && clock.is_deaf { from } else { heard };
        let old = &entry.person;
        let is_changed = old.disabled != row.disabled || old.every_s != row.every_s;
        if state == from && !is_changed && **old == row {
            return;
        }
        let since_ns = if state == from { entry.since_ns } else { began(state, &row, now_ns) };
        let person = Arc::new(row);
        let email = person.email.clone();
        memory.people.insert(email, Entry { person: Arc::clone(&person), server, state, since_ns });
        if state != from || is_changed {
            memory.counts = None;
            self.note(memory, &person, Some(from), Some(state), since_ns, now_ns);
        }
    }

    /// These have no row any more.
    pub fn remove<'a>(&self, emails: impl Iterator<Item = &'a str>) {
        let now_ns = now_ns();
        let mut memory = self.lock();
        for email in emails {
            memory.doubtful.remove(email);
            if let Some(entry) = memory.people.remove(email) {
                memory.counts = None;
                if let Some((key, known)) = &mut memory.pseudonyms
                    && let Ok(email) = Email::new(email)
                {
                    known.remove(&key.pseudonym(&email));
                }
                // Whoever was forgotten is in no answer any more; readers of older positions begin anew.
                memory.log.clear();
                self.note(&mut memory, &entry.person, Some(entry.state), None, None, now_ns);
            }
        }
        memory.wake();
    }

    /// The one way of every transition.
    fn note(
        &self,
        memory: &mut Memory,
        person: &Arc<Person>,
        from: Option<State>,
        to: Option<State>,
        since_ns: Option<u64>,
        at_ns: u64,
    ) {
        memory.position += 1;
        if let Some(to) = to.filter(|to| from != Some(*to)) {
            memory.transitions
                [State::ALL.iter().position(|state| *state == to).expect("it is one of all")] += 1;
        }
        let position = memory.position;
        let email = person.email.clone();
        let change = Change { position, at_ns, email, from, to, since_ns, person: Arc::clone(person) };
        let json = json!({
            "position": self.name(position),
            "at": time(at_ns),
            "email": change.email,
            "from": from.map(State::word),
            "to": to.map(State::word),
            "person": to.map(|state| describe(person, state, since_ns)),
        });
        memory.remember(Event::State(json.to_string().into()));
        // Nobody takes them any more: the board ends.
        let _ = self.transitions.try_send(change);
    }

    /// The rows of the servers, or `None` if they could not be read: no clock moves then.
    pub fn clocks(&self, rows: Option<Vec<ServerRow>>) {
        let (now, now_ns) = (Instant::now(), now_ns());
        let mut memory = self.lock();
        memory.sees_clocks = rows.is_some();
        if let Some(rows) = rows {
            memory.as_of_ns = Some(now_ns);
            for server in &mut memory.servers {
                server.is_there = rows.iter().any(|row| row.name == server.name);
            }
            for row in rows {
                memory.set_clock(row, now);
            }
        }
        let mut events = Vec::new();
        for server in &mut memory.servers {
            let is_deaf = now.saturating_duration_since(server.moved) >= DEAF_AFTER;
            if server.is_there && mem::replace(&mut server.clock.is_deaf, is_deaf) != is_deaf {
                server.since_ns = Some(now_ns);
                events.push(server.json());
            }
        }
        for event in events {
            memory.counts = None;
            memory.position += 1;
            memory.remember(Event::Server(event.to_string().into()));
        }
        memory.doubt();
        memory.wake();
    }

    /// The people whose rows have to be read, at most so many.
    pub fn doubtful(&self, most: usize) -> Vec<String> {
        self.lock().doubtful.iter().take(most).cloned().collect()
    }

    /// Somebody was heard of, by the name in an announcement.
    pub fn heard_of(&self, name: &Email) {
        let mut memory = self.lock();
        let email = match &memory.pseudonyms {
            Some((_, emails)) => emails.get(name).cloned(),
            None => Some(name.as_str().to_owned()),
        };
        let is_canary = |email: &str| self.canary.as_ref().is_some_and(|canary| canary.as_str() == email);
        if let Some(email) = email.filter(|email| !is_canary(email)) {
            memory.doubtful.insert(email);
        }
    }

    /// Somebody is asked for, of whom no row was read.
    pub fn ask_for(&self, email: &Email) {
        if self.canary.as_ref() != Some(email) {
            self.lock().doubtful.insert(email.as_str().to_owned());
        }
    }

    /// A page of all rows was read, from after this email on; the last one, if `is_last`. Those that it lacks are in doubt.
    pub fn page(&self, after: &str, rows: Vec<Person>, is_last: bool) {
        {
            let mut memory = self.lock();
            let last = rows.last().map(|row| row.email.as_str()).filter(|_| !is_last);
            let known: HashSet<&str> = rows.iter().map(|row| row.email.as_str()).collect();
            let missing: Vec<String> = memory
                .people
                .range::<str, _>((std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded))
                .map(|(email, _)| email)
                .take_while(|email| last.is_none_or(|last| email.as_str() <= last))
                .filter(|email| !known.contains(email.as_str()))
                .cloned()
                .collect();
            memory.doubtful.extend(missing);
        }
        self.apply(rows);
    }

    pub fn number_of_all(&self) -> usize {
        self.lock().people.len()
    }

    /// Everybody's state, and the position of the last change that it has. `None` until everybody was read.
    pub fn states(&self) -> Option<(u64, States)> {
        let memory = self.lock();
        let states =
            || memory.people.values().map(|entry| (Arc::clone(&entry.person), entry.state)).collect();
        memory.is_ready.then(|| (memory.position, states()))
    }

    /// The servers, and whether each hears.
    pub fn hearing(&self) -> Vec<(String, bool)> {
        let memory = self.lock();
        if !memory.sees_clocks {
            return Vec::new();
        }
        let there = memory.servers.iter().filter(|server| server.is_there);
        there.map(|server| (server.name.clone(), !server.clock.is_deaf)).collect()
    }

    // --- answers ----------------------------------------------------------------------------------

    /// A position as it is handed out.
    pub fn name(&self, position: u64) -> String {
        format!("{}.{position}", self.board)
    }

    /// Changes to each state, in the order of [`State::ALL`].
    pub fn transitions_to(&self) -> [u64; 5] {
        self.lock().transitions
    }

    /// The number of a position that this board handed out.
    pub fn number(&self, name: &str) -> Option<u64> {
        let number = name.strip_prefix(&self.board)?.strip_prefix('.')?;
        let is_plain = number == "0" || !number.starts_with(['0', '+']);
        number.parse().ok().filter(|number| is_plain && *number <= self.lock().position)
    }

    /// `None` until everybody was read.
    pub fn look(&self) -> Option<Look> {
        self.lock().look()
    }

    /// One person as JSON, and the position.
    pub fn person(&self, email: &str) -> (u64, Option<Value>) {
        let memory = self.lock();
        (memory.position, memory.people.get(email).map(|entry| memory.describe(entry)))
    }

    /// A part of the list, and the place of its end if more follow.
    pub fn list(&self, query: &Query) -> Option<(Look, Vec<Value>, Option<Place>)> {
        let mut memory = self.lock();
        let look = memory.look()?;
        let chosen = |entry: &&Entry| {
            let person = &entry.person;
            let is_wanted = match (query.states.is_empty() && !query.disabled, person.disabled) {
                (true, _) => true,
                (false, true) => query.disabled,
                (false, false) => query.states.contains(&memory.shown(entry)),
            };
            is_wanted && person.email.contains(&query.part)
        };
        let mut found: Vec<(PlaceOf<'_>, &Entry)> = memory
            .people
            .values()
            .filter(chosen)
            .map(|entry| (memory.place_of(entry, query.sort), entry))
            .filter(|(place, _)| query.after.as_ref().is_none_or(|after| *place > borrowed(after)))
            .collect();
        let more = found.len() > query.limit;
        if more {
            found.select_nth_unstable_by_key(query.limit, |(place, _)| *place);
            found.truncate(query.limit);
        }
        found.sort_unstable_by_key(|(place, _)| *place);
        let end = found
            .last()
            .filter(|_| more)
            .map(|((disabled, rank, at, email), _)| (*disabled, *rank, *at, (*email).to_owned()));
        let people = found.iter().map(|(_, entry)| memory.describe(entry)).collect();
        Some((look, people, end))
    }

    /// The events after this position, at most so many, and the position that they lead to. `None`: it is too old.
    pub fn since(&self, position: u64, most: usize) -> Option<(Vec<(u64, Event)>, u64)> {
        let memory = self.lock();
        let oldest = memory.position - memory.log.len() as u64;
        let skipped = position.checked_sub(oldest)? as usize;
        let events: Vec<_> = memory
            .log
            .iter()
            .skip(skipped)
            .take(most)
            .map(|logged| (logged.position, logged.event.clone()))
            .collect();
        let end = events.last().map_or(position, |(position, _)| *position);
        Some((events, end))
    }

    /// Wakes its receiver after each change; closed when the board ends.
    pub fn wait(&self) -> Receiver<()> {
        let (wake, woken) = channel::bounded(1);
        let mut memory = self.lock();
        if !memory.is_over {
            // Where nothing changes, nobody else removes those who wait no more.
            if memory.waiting.len() == memory.waiting.capacity() {
                memory.waiting.retain(|waiting| !waiting.is_closed());
            }
            memory.waiting.push(wake);
        }
        woken
    }

    /// Whoever waits for a change waits no more.
    pub fn end(&self) {
        let mut memory = self.lock();
        memory.is_over = true;
        memory.waiting.clear();
    }
}

#[cfg(test)]
mod tests;
