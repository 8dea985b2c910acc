//! `who --watch`: the table again and again on a terminal, and each transition as a line elsewhere.
//!
//! It asks for the changes after a position, and the board answers when there is one (`/api/changes`). A position that is
//! too old, or of another board, is answered with 410: then everybody is read again.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::future::poll_fn;
use std::io::{self, Write};
use std::pin::pin;
use std::process::{Command, ExitCode};
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use async_std::future::timeout;
use async_std::task;
use serde_json::{Value, json};

use super::board::{self, Board, Counts, Page, Person, State, encoded, text};
use super::who::{self, Who};
use super::{BACKOFF, Error, jittered, table};
use crate::cli::{Exit, Fatal, note, printable, signals};

/// How long the board may wait for a change before it answers.
const WAIT: Duration = Duration::from_secs(30);
/// Between two looks at one person, whose reader may see no other's changes.
const LOOK: Duration = Duration::from_secs(5);
/// Ages grow, and nobody reads a table that changes more often.
const FRAME: Duration = Duration::from_secs(1);
/// The board is asked again after this at the latest.
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// Until a signal, or a refusal.
pub fn run(mut board: Board, who: &Who) -> Result<ExitCode, Error> {
    let stop = signals::stop(None).map_err(Error::Signals)?;
    task::block_on(async {
        let mut stopped = pin!(stop.recv());
        let mut watching = pin!(async {
            match who::is_terminal() && !who.json {
                true => draw(&mut board, who).await,
                false => tell(&mut board, who).await,
            }
        });
        poll_fn(|cx| match stopped.as_mut().poll(cx) {
            Poll::Ready(_) => Poll::Ready(Ok(ExitCode::SUCCESS)),
            Poll::Pending => watching.as_mut().poll(cx),
        })
        .await
    })
}

/// An outage of the board.
struct Away {
    /// Did it ever answer?
    answered: bool,
    since: Option<(SystemTime, String)>,
    backoff: Duration,
}

impl Away {
    fn new() -> Self {
        Self { answered: false, since: None, backoff: BACKOFF }
    }

    /// The wait until the next try, or the error if that would not mend it. A mistake in the settings, which shows at
    /// the first try, ends it: later the same may be a file that is being replaced.
    fn failed(&mut self, error: Error) -> Result<Duration, Error> {
        match error.exit() {
            Exit::Unavailable | Exit::TryLater => {}
            Exit::Protocol | Exit::Config if self.answered => {}
            _ => return Err(error),
        }
        let wait = jittered(self.backoff.max(error.asked_to_wait()));
        self.backoff = (self.backoff * 2).min(MAX_BACKOFF);
        let since = self.since.take().map_or_else(SystemTime::now, |(since, _)| since);
        self.since = Some((since, error.to_string()));
        Ok(wait)
    }

    /// It has answered. Since when had it not?
    fn answered(&mut self) -> Option<SystemTime> {
        let since = self.since.take().map(|(since, _)| since);
        *self = Self { answered: true, ..Self::new() };
        since
    }

    fn words(&self) -> Option<String> {
        let (since, why) = self.since.as_ref()?;
        let ago = table::age(*since, SystemTime::now());
        Some(format!("the board does not answer since {}, for {ago} now: {why}", clock(*since)))
    }
}

fn clock(time: SystemTime) -> impl std::fmt::Display {
    humantime::format_rfc3339_seconds(time)
}

/// The changes after this position, when there are some or the time is over. `None`: read everybody again.
async fn changes(board: &mut Board, position: &str) -> Result<Option<Value>, Error> {
    let path = format!("/api/changes?after={}&wait={}s", encoded(position), WAIT.as_secs());
    match board.get(&path, board::MOST, WAIT).await {
        Ok((changes, _)) => Ok(Some(changes)),
        Err(Error::Refused(answer)) if answer.status == 410 => Ok(None),
        Err(error) => Err(error),
    }
}

/// Each transition as a line. The states that were told are remembered, so that none is told twice, and none is missed
/// while the board was away or is another one.
async fn tell(board: &mut Board, who: &Who) -> Result<ExitCode, Error> {
    let mut told = Told::default();
    let mut position: Option<String> = None;
    let mut away = Away::new();
    loop {
        let step = async {
            match (&who.email, &position) {
                (Some(email), _) => {
                    let (person, _) = board.get(&Who::path_of(email), board::MOST, Duration::ZERO).await?;
                    told.see(who, &person)?;
                    Ok(None)
                }
                (None, None) => told.see_everybody(board, who).await.map(Some),
                (None, Some(after)) => match changes(board, after).await? {
                    Some(changes) => told.take(who, &changes).map(Some),
                    None => Ok(None),
                },
            }
        };
        let wait = match step.await {
            Ok(next) => {
                if let Some(since) = away.answered() {
                    let after = table::age(since, SystemTime::now());
                    note(format_args!("rollcall-client: the board answers again, after {after}"));
                }
                position = next;
                match (&who.email, &position) {
                    (Some(_), _) => jittered(LOOK),
                    (None, None) => jittered(BACKOFF),
                    (None, Some(_)) => Duration::ZERO,
                }
            }
            Err(error) => {
                let is_new = away.since.is_none();
                let wait = away.failed(error)?;
                if let (true, Some(words)) = (is_new, away.words()) {
                    note(format_args!("rollcall-client: {words}; trying again"));
                }
                wait
            }
        };
        task::sleep(wait).await;
    }
}

/// The states that were told.
#[derive(Default)]
struct Told {
    states: HashMap<String, State>,
    /// Those of the first reading are no transitions.
    has_begun: bool,
    /// People whose server could not hear.
    unknown: u64,
}

impl Told {
    /// Reads everybody. Returns the position of the first page: a change since then may be on a later page already.
    async fn see_everybody(&mut self, board: &mut Board, who: &Who) -> Result<String, Error> {
        let mut first = None;
        let mut people = Vec::new();
        // Of somebody who leaves the states of --state nothing is said, and it must be known.
        who::each_page(board, None, |page| {
            people.extend(page.people);
            first.get_or_insert((page.position, page.counts));
            Ok(())
        })
        .await?;
        let (position, counts) = first.ok_or_else(|| Error::Malformed("it has no page".to_owned()))?;
        for person in &people {
            self.look(who, person)?;
        }
        let there: HashSet<&str> = people.iter().filter_map(|person| person["email"].as_str()).collect();
        let gone = self.states.keys().filter(|email| !there.contains(email.as_str())).cloned();
        for email in gone.collect::<Vec<_>>() {
            let from = self.states.remove(&email);
            tell_difference(who, &email, SystemTime::now(), from, None, &Value::Null)?;
        }
        self.has_begun = true;
        self.count(counts);
        Ok(position)
    }

    fn see(&mut self, who: &Who, person: &Value) -> Result<(), Error> {
        self.look(who, person)?;
        self.has_begun = true;
        Ok(())
    }

    /// Tells how a person's state differs from the one that was told.
    fn look(&mut self, who: &Who, value: &Value) -> Result<(), Error> {
        let person = Person::read(value)?;
        // That is said of the server, and not of each person.
        if person.state == State::Unknown && self.has_begun {
            return Ok(());
        }
        let from = self.states.insert(person.email.clone(), person.state);
        if !self.has_begun || from == Some(person.state) {
            return Ok(());
        }
        let at = person.since.unwrap_or_else(SystemTime::now);
        tell_difference(who, &person.email, at, from, Some(person.state), value)
    }

    /// Tells these changes. Returns the position after them.
    fn take(&mut self, who: &Who, changes: &Value) -> Result<String, Error> {
        let list = changes["changes"]
            .as_array()
            .ok_or_else(|| Error::Malformed("it has no \"changes\"".to_owned()))?;
        for change in list {
            let (from, to) = (board::state(change, "from")?, board::state(change, "to")?);
            let email = text(change, "email")?;
            let told = match to {
                Some(to) => self.states.insert(email.to_owned(), to),
                None => self.states.remove(email),
            };
            if told != to {
                print_change(who, change, from, to)?;
            }
        }
        self.count(Counts::read(&changes["counts"])?);
        Ok(text(changes, "position")?.to_owned())
    }

    /// Silence must not look as if all were well.
    fn count(&mut self, counts: Counts) {
        let unknown = counts.unknown();
        match (self.unknown, unknown) {
            (0, 1..) => note(format_args!(
                "rollcall-client: {unknown} unknown: the server that saw them last hears nobody; just status, on its host, tells more"
            )),
            (1.., 0) => note("rollcall-client: nobody is unknown any more"),
            _ => {}
        }
        self.unknown = unknown;
    }
}

/// A transition that was seen by two readings, and is no change of the board's.
fn tell_difference(
    who: &Who,
    email: &str,
    at: SystemTime,
    from: Option<State>,
    to: Option<State>,
    person: &Value,
) -> Result<(), Error> {
    let change = json!({
        "position": null, "at": humantime::format_rfc3339_millis(at).to_string(), "email": email,
        "from": from.map(State::word), "to": to.map(State::word), "person": person,
    });
    print_change(who, &change, from, to)
}

/// `None`: not enrolled yet, or no longer.
fn print_change(who: &Who, change: &Value, from: Option<State>, to: Option<State>) -> Result<(), Error> {
    let is_left_out = |states: &who::States| !to.is_some_and(|to| states.has(to));
    if who.state.as_ref().is_some_and(is_left_out) {
        return Ok(());
    }
    let line = match who.json {
        true => who::json(change),
        false => {
            let (at, email) = (printable(text(change, "at")?), printable(text(change, "email")?));
            let [from, to] = [from, to].map(|state| state.map_or("-", State::word));
            format!("{at} {email} {from} -> {to}")
        }
    };
    who::print(&[line])
}

/// What a frame shows.
struct View {
    people: Vec<Person>,
    /// `None`: it is of one person.
    page: Option<Page>,
    as_of: SystemTime,
    taken: Instant,
}

/// The table on a terminal: as much of it as there is room for, trouble first.
async fn draw(board: &mut Board, who: &Who) -> Result<ExitCode, Error> {
    let mut view: Option<View> = None;
    let mut away = Away::new();
    let mut wait = Duration::ZERO;
    who::print(&["\x1b[2J".to_owned()])?;
    loop {
        let rows = terminal_rows();
        let position = match (&away.since, &view) {
            (None, Some(View { page: Some(page), .. })) => Some(page.position.clone()),
            _ => None,
        };
        let next = {
            let mut next = pin!(async {
                task::sleep(wait).await;
                if let Some(position) = &position {
                    changes(board, position).await?;
                }
                look(board, who, rows).await
            });
            loop {
                frame(view.as_ref(), &away, rows)?;
                if let Ok(next) = timeout(FRAME, &mut next).await {
                    break next;
                }
            }
        };
        wait = match next {
            Ok(next) => {
                let is_one = next.page.is_none();
                view = Some(next);
                away.answered();
                if is_one { jittered(LOOK) } else { FRAME }
            }
            Err(error) => away.failed(error)?,
        };
    }
}

async fn look(board: &mut Board, who: &Who, rows: usize) -> Result<View, Error> {
    let taken = Instant::now();
    if let Some(email) = &who.email {
        let (person, _) = board.get(&Who::path_of(email), board::MOST, Duration::ZERO).await?;
        let people = vec![Person::read(&person)?];
        return Ok(View { people, page: None, as_of: SystemTime::now(), taken });
    }
    let (value, _) = board
        .get(&who::page(who.state.as_ref(), rows.clamp(1, board::PAGE), None), board::MOST, Duration::ZERO)
        .await?;
    let page = Page::read(value)?;
    Ok(View { people: table::people(&page.people)?, as_of: page.as_of, page: Some(page), taken })
}

fn frame(view: Option<&View>, away: &Away, rows: usize) -> Result<(), Error> {
    let mut lines: Vec<String> = away.words().into_iter().collect();
    if let Some(view) = view {
        let now = view.as_of + view.taken.elapsed();
        let foot = view.page.as_ref().map_or_else(Vec::new, |page| table::foot(page, now));
        // One line for the head, one for the cursor.
        let room = rows.saturating_sub(lines.len() + foot.len() + 2);
        let more = view.people.len() > room || view.page.as_ref().is_some_and(|page| page.next.is_some());
        let room = room.saturating_sub(usize::from(more)).min(view.people.len());
        lines.extend(table::table(&view.people[..room], now, who::is_coloured()));
        if more {
            lines.push("…".to_owned());
        }
        lines.extend(foot);
    }
    // Long lines are cut, and not broken, which would move those below.
    let body: String = lines.iter().map(|line| format!("{line}\x1b[K\n")).collect();
    let mut out = io::stdout().lock();
    out.write_all(format!("\x1b[?7l\x1b[H{body}\x1b[J\x1b[?7h").as_bytes())
        .and_then(|()| out.flush())
        .map_err(Error::Output)
}

/// As stty(1) says it.
fn terminal_rows() -> usize {
    let asked = File::open("/dev/tty").and_then(|tty| Command::new("stty").arg("size").stdin(tty).output());
    let said = asked.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    said.split(' ').next().and_then(|rows| rows.parse().ok()).filter(|rows| *rows > 0).unwrap_or(24)
}
