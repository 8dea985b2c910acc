//! The hooks: each executable in a folder is told of each event, as JSON on its standard input.
//!
//! The database says up to which event each was served, and an event counts as served when the hook exits with 0: so each
//! gets it at least once, also over a crash. One hook gets the events one after the other.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use async_std::channel::{self, Receiver};
use async_std::future::timeout;
use async_std::task;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getuid};
use serde_json::{Value, json};

use super::journal::Held;
use super::people::People;
use super::time;
use crate::cli::{now_ns, printable};
use crate::http::outage::Outage;
use crate::store::events::{Event, Kind};
use crate::store::presence::State;
use crate::store::{Error, Journal, Served};

/// Between two looks at the folder, and at what has come.
const TICK: Duration = Duration::from_millis(500);
/// Hooks that run at once.
const AT_ONCE: usize = 4;
/// How long one may run, and then has to end.
const TIME: Duration = Duration::from_secs(10);
const GRACE: Duration = Duration::from_secs(1);
/// Between two looks at one that runs.
const LOOK: Duration = Duration::from_millis(10);
/// Attempts for one event. The pauses between them are 1 s, 2 s, 4 s and so on: 17 minutes in all.
const ATTEMPTS: u32 = 11;
/// No hook is told of what is older.
const FRESH: Duration = Duration::from_secs(24 * 60 * 60);
/// Bytes of the output that the log gets.
const OUTPUT: usize = 1024;

/// Those who leave within this time may be a mass, if they are more than so many or than this part of all.
const MASS: Duration = Duration::from_secs(60);
const MASS_FLOOR: u64 = 5;
const MASS_PART: u64 = 5;
/// Events that are read at once.
const PART: u32 = 100;
/// Emails that the event of a mass has.
const NAMED: u32 = 100;

/// Serves every hook in the folder, while this board has the right to, until `stop` closes.
pub async fn run(held: Held, people: Arc<People>, folder: PathBuf, stop: Receiver<()>) {
    let (give, permits) = channel::bounded(AT_ONCE);
    for _ in 0..AT_ONCE {
        let _ = give.try_send(());
    }
    let hooks =
        Arc::new(Hooks { held, people, folder, permits, give, outage: Outage::of("serving the hooks") });
    let served: Arc<std::sync::Mutex<HashSet<String>>> = Arc::default();
    let mut told = HashMap::new();
    while timeout(TICK, stop.recv()).await.is_err() {
        if hooks.held.lock().await.is_none() {
            continue;
        }
        let hooks_there = hooks.there(&mut told);
        let mut running = served.lock().unwrap_or_else(PoisonError::into_inner);
        for name in hooks_there {
            if running.insert(name.clone()) {
                let (hooks, served) = (Arc::clone(&hooks), Arc::clone(&served));
                task::spawn(async move {
                    hooks.serve(&name).await;
                    served.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
                });
            }
        }
    }
}

struct Hooks {
    held: Held,
    people: Arc<People>,
    folder: PathBuf,
    permits: Receiver<()>,
    give: channel::Sender<()>,
    outage: Outage,
}

/// That which a hook gets next.
enum Next {
    /// This, and then its place is there.
    Tell(Value, Served),
    /// It need not know of this.
    Pass(Served),
    /// There is nothing, or it may be a part of a mass that goes on.
    Nothing,
}

impl Hooks {
    /// The names of the hooks that may run. The log says once of each other why it may not.
    fn there(&self, told: &mut HashMap<String, String>) -> Vec<String> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            // No folder, no hooks.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => {
                tell(told, "", format!("cannot read the folder of the hooks: {error}"));
                return Vec::new();
            }
        };
        if let Err(why) = is_ours(&self.folder) {
            tell(told, "", format!("no hook runs: {}: {why}", self.folder.display()));
            return Vec::new();
        }
        told.remove("");
        let mut names: Vec<String> =
            entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort_unstable();
        names.retain(|name| {
            let file = self.folder.join(name);
            // Notes and samples lie there, too.
            let is_executable = fs::metadata(&file)
                .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0);
            if !is_executable || name.starts_with('.') {
                return false;
            }
            match is_ours(&file) {
                Ok(()) => {
                    told.remove(name);
                    true
                }
                Err(why) => {
                    tell(told, name, format!("the hook {} does not run: {why}", printable(name)));
                    false
                }
            }
        });
        names
    }

    /// Tells one hook of all that there is. Ends when there is nothing more, or after a failure of the database.
    async fn serve(&self, name: &str) {
        loop {
            let next = self.with(async |journal| self.next(journal, name).await).await;
            let served = match next {
                Some(Next::Tell(event, served)) => {
                    if !self.tell(name, &event).await {
                        return;
                    }
                    served
                }
                Some(Next::Pass(served)) => served,
                Some(Next::Nothing) | None => return,
            };
            if self.with(async |journal| journal.set_served(name, served).await).await.is_none() {
                return;
            }
        }
    }

    /// `None`: this board has not the right any more.
    async fn with<T>(&self, work: impl AsyncFnOnce(&mut Journal) -> Result<T, Error>) -> Option<T> {
        let mut held = self.held.lock().await;
        match work(held.as_mut()?).await {
            Ok(done) => {
                self.outage.worked();
                Some(done)
            }
            Err(error) => {
                self.outage.failed(&error);
                *held = None;
                None
            }
        }
    }

    async fn next(&self, journal: &mut Journal, name: &str) -> Result<Next, Error> {
        let served = journal.served(name).await?;
        let events = journal.events_after(served.event, PART, FRESH).await?;
        let is_known = |event: &&Event| {
            event.kind == Kind::Offline
                && served.mass_until_ns.is_some_and(|until_ns| event.at_ns <= until_ns)
        };
        if let Some(last) = events.iter().take_while(is_known).last() {
            return Ok(Next::Pass(Served { event: last.id, ..served }));
        }
        let Some(event) = events.first() else { return Ok(Next::Nothing) };
        let after = Served { event: event.id, ..served };
        if event.kind != Kind::Offline {
            return Ok(Next::Tell(describe(event), after));
        }
        let until_ns = event.at_ns.saturating_add(MASS.as_nanos() as u64);
        let (left, emails) = journal.left(event.id, event.at_ns, until_ns, NAMED).await?;
        let (late, all) = self.people.look().map_or((0, 0), |look| {
            let count = |state| {
                State::ALL.iter().position(|other| *other == state).map_or(0, |at| look.counts.states[at])
            };
            let seen = State::ALL.into_iter().filter(|state| *state != State::Never).map(count).sum();
            (count(State::Late), seen)
        });
        // A clock that stepped back holds nothing up.
        let now_ns = now_ns();
        let is_over = now_ns >= until_ns || now_ns < event.at_ns;
        Ok(match judge(left, late, all, is_over) {
            Leaving::One => Next::Tell(describe(event), after),
            Leaving::Mass => {
                let mass = json!({
                    "id": event.id, "at": time(until_ns), "kind": "mass", "since": time(event.at_ns),
                    "people": left, "emails": emails,
                });
                Next::Tell(mass, Served { mass_until_ns: Some(until_ns), ..after })
            }
            Leaving::Unclear => Next::Nothing,
        })
    }

    /// Until it is served, or is given up. `false`: this board lost the right meanwhile.
    async fn tell(&self, name: &str, event: &Value) -> bool {
        let shown = printable(name);
        let mut pause = Duration::from_secs(1);
        for attempt in 1..=ATTEMPTS {
            let Ok(()) = self.permits.recv().await else { return false };
            let (file, input) = (self.folder.join(name), format!("{event}\n"));
            let done = task::spawn_blocking(move || execute(&file, &input)).await;
            let _ = self.give.try_send(());
            match done {
                Ok(output) if output.is_empty() => return true,
                Ok(output) => {
                    log::info!("hook {shown}: {output}");
                    return true;
                }
                Err(why) if attempt == ATTEMPTS => {
                    log::warn!(
                        "hook {shown}: {why}; event {} is given up after {attempt} attempts",
                        event["id"]
                    );
                }
                Err(why) => {
                    log::warn!("hook {shown}: {why}; again in {} s", pause.as_secs());
                    task::sleep(pause).await;
                    pause *= 2;
                }
            }
            // It is gone, or another board has the right.
            if self.held.lock().await.is_none() || !self.folder.join(name).exists() {
                return false;
            }
        }
        true
    }
}

/// What to say of somebody who left.
#[derive(Debug, PartialEq, Eq)]
enum Leaving {
    One,
    Mass,
    /// The minute is not over, and those who are late may follow.
    Unclear,
}

/// So many left within the minute until now, so many are late, of so many in all.
fn judge(left: u64, late: u64, all: u64, is_over: bool) -> Leaving {
    let most = MASS_FLOOR.max(all / MASS_PART);
    match is_over {
        true if left > most => Leaving::Mass,
        true => Leaving::One,
        false if left + late <= most => Leaving::One,
        false => Leaving::Unclear,
    }
}

fn describe(event: &Event) -> Value {
    json!({
        "id": event.id, "at": time(event.at_ns), "kind": event.kind.word(), "email": event.email,
        "since": event.since_ns.map(time), "ip": event.ip, "server": event.server,
    })
}

/// Says it once, until it is another.
fn tell(told: &mut HashMap<String, String>, name: &str, text: String) {
    if told.get(name) != Some(&text) {
        log::warn!("{text}");
        told.insert(name.to_owned(), text);
    }
}

/// Can nobody but root and us have written it?
fn is_ours(path: &Path) -> Result<(), String> {
    // The owner of a link could lead it elsewhere.
    let metadata = fs::symlink_metadata(path).map_err(|error| error.to_string())?;
    if metadata.is_symlink() {
        return Err("it is a link; put the file itself there".to_owned());
    }
    let mode = metadata.mode() & 0o7777;
    if ![0, getuid().as_raw()].contains(&metadata.uid()) {
        return Err(format!("it belongs to the user {}; chown it to root", metadata.uid()));
    }
    match mode & 0o022 {
        0 => Ok(()),
        _ => Err(format!("mode {mode:04o}: others can write it; chmod go-w")),
    }
}

/// The process groups of the hooks that run.
fn running() -> MutexGuard<'static, BTreeSet<i32>> {
    static RUNNING: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends them with the board, which tells them of their event again when it is back.
pub fn end() {
    for group in running().iter() {
        let _ = killpg(Pid::from_raw(*group), Signal::SIGKILL);
    }
}

/// Runs it to its end. Returns its output as the log may have it, or why it failed.
fn execute(file: &Path, input: &str) -> Result<String, String> {
    let failed = |error: io::Error| error.to_string();
    file.parent().map_or(Ok(()), is_ours)?;
    is_ours(file)?;
    let (reader, writer) = io::pipe().map_err(failed)?;
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    let mut child = Command::new(file)
        .env_clear()
        .env("PATH", path)
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(writer.try_clone().map_err(failed)?)
        .stderr(writer)
        .spawn()
        .map_err(failed)?;
    fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|error| error.to_string())?;
    if let Some(mut stdin) = child.stdin.take() {
        // A pipe takes all of it. One that does not want it has closed it.
        let _ = stdin.write_all(input.as_bytes());
    }
    let mut output = Output { reader, kept: Vec::new(), dropped: 0 };
    let group = child.id().cast_signed();
    running().insert(group);
    let status = wait(&mut child, &mut output);
    // What it has left behind in its group goes with it.
    let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    running().remove(&group);
    output.read();
    let said = output.text();
    match status {
        Some(status) if status.success() => Ok(said),
        Some(status) if said.is_empty() => Err(status.to_string()),
        Some(status) => Err(format!("{status}: {said}")),
        None => Err(format!("it did not end within {} s", TIME.as_secs())),
    }
}

/// `None`: it had to be ended.
fn wait(child: &mut Child, output: &mut Output) -> Option<ExitStatus> {
    let group = Pid::from_raw(child.id().cast_signed());
    let begin = Instant::now();
    let mut ended = None;
    loop {
        output.read();
        match child.try_wait() {
            Ok(None) => {}
            Ok(Some(status)) => return ended.is_none().then_some(status),
            Err(_) => return None,
        }
        let sent = match begin.elapsed() {
            time if time >= TIME + GRACE => Some(Signal::SIGKILL),
            time if time >= TIME => Some(Signal::SIGTERM),
            _ => None,
        };
        if let Some(signal) = sent.filter(|_| ended != sent) {
            let _ = killpg(group, signal);
            ended = sent;
        }
        thread::sleep(LOOK);
    }
}

/// The beginning of what a hook prints. The rest is read and dropped, so that it does not wait.
struct Output {
    reader: io::PipeReader,
    kept: Vec<u8>,
    dropped: usize,
}

impl Output {
    /// What is there now, and no more than a pipe holds: it may never end.
    fn read(&mut self) {
        let mut buffer = [0; 1 << 14];
        for _ in 0..8 {
            let Ok(len @ 1..) = self.reader.read(&mut buffer) else { return };
            let kept = len.min(OUTPUT - self.kept.len());
            self.kept.extend_from_slice(&buffer[..kept]);
            self.dropped += len - kept;
        }
    }

    fn text(&self) -> String {
        let text = printable(String::from_utf8_lossy(&self.kept).trim_end());
        match self.dropped {
            0 => text,
            dropped => format!("{text} … and {dropped} bytes more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_leave_are_a_mass_beyond_a_fifth_of_all() {
        for (left, late, all, is_over, expected) in [
            (1, 0, 3, false, Leaving::One),
            (3, 2, 10, false, Leaving::One),
            (3, 3, 10, false, Leaving::Unclear),
            (3, 3, 10, true, Leaving::One),
            (5, 0, 10, true, Leaving::One),
            (6, 0, 10, true, Leaving::Mass),
            (6, 0, 10, false, Leaving::Unclear),
            (20, 0, 100, true, Leaving::One),
            (21, 0, 100, true, Leaving::Mass),
        ] {
            assert_eq!(judge(left, late, all, is_over), expected, "{left} {late} {all} {is_over}");
        }
    }
}
