//! A stack with a database of its own, under load, whose every commit is noted and whose every announcement is heard.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use rollcall::cli::now_ns;
use serde_json::Value;

use crate::disk::Disk;
use crate::ledger::{HISTORY, History, TRIGGER};
use crate::load::{self, Beat, Load};
use crate::program::Running;
use crate::stack::{Builder, Pair, Stack, binaries};

const PATIENCE: Duration = Duration::from_secs(60);

/// They end in this order.
pub struct Scene {
    listener: Running,
    /// The lines that it printed since the last account.
    heard: String,
    /// Those in which nobody heard, in nanoseconds since the Unix epoch.
    deaf: Vec<(u64, u64)>,
    people: Vec<(String, Pair)>,
    pub stack: Stack,
    pub disk: Option<Disk>,
    /// Of the listener: the disk may be full.
    folder: Folder,
}

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The answers that clients got, beside the database and the listener.
#[derive(Default)]
pub struct Account {
    pub acknowledged: usize,
    pub refused: usize,
    /// Acknowledged, and not in the database.
    pub lost: Vec<Beat>,
    /// Acknowledged, and not heard by a listener that was there.
    pub unheard: Vec<Beat>,
    pub announced: usize,
    /// Announced, and not in the database.
    pub announced_only: Vec<Value>,
}

impl Scene {
    /// `size` bounds the disk, as root.
    pub fn up(people: usize, size: Option<&str>) -> Self {
        let builder = Builder::new().set("ROLLCALL_RATE", "1000000").set("ROLLCALL_LOG_SIZE", "1");
        let disk = size.map(|size| Disk::mount(builder.state(), size));
        let stack = builder.up_with_its_own_cluster();
        stack.sql(TRIGGER);
        let people = load::enrol(&stack, people);
        let folder = std::env::temp_dir().join(format!("rollcall-heard-{}", stack.broadcast_port));
        fs::create_dir(&folder).unwrap();
        crate::guardian::watch(&folder);
        let folder = Folder(folder);
        let listener = listener(&stack, &folder);
        Self { listener, heard: String::new(), deaf: Vec::new(), people, stack, disk, folder }
    }

    /// Everybody beats, so long after each answer.
    pub fn load(&self, between: Duration) -> Load {
        let mut load = Load::new(between);
        load.add(&self.stack, None, "stack", &self.people);
        self.goes_on(&load);
        load
    }

    #[track_caller]
    pub fn goes_on(&self, load: &Load) {
        let goes_on = load.goes_on("stack", Duration::from_secs(1), PATIENCE);
        assert!(goes_on, "no heartbeats are acknowledged after {PATIENCE:?}");
    }

    /// Another listener, with the memory of this one; `signal` ends this one.
    pub fn restart_the_listener(&mut self, signal: &str) {
        let told_ns = now_ns();
        self.listener.signal(signal);
        let _ = self.listener.child.wait();
        self.hear();
        // The kernel held announcements for it that it had not read yet. It was never a second behind.
        let whole = self.heard.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let last = whole.lines().last().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let last = last.and_then(|line| line["last_seen_ns"].as_str()?.parse().ok()).unwrap_or(told_ns);
        self.heard.truncate(whole.len() + usize::from(!whole.is_empty()));
        self.listener = listener(&self.stack, &self.folder);
        self.deaf.push((last.max(told_ns - 1_000_000_000), now_ns()));
    }

    /// Takes the lines that were printed. Were there any?
    fn hear(&mut self) -> bool {
        let lines = self.listener.stdout.rest();
        self.heard += &lines;
        !lines.is_empty()
    }

    pub fn listener_process(&self) -> u32 {
        self.listener.child.id()
    }

    /// Ends the load and compares. The next account begins anew.
    pub fn account(&mut self, load: Load) -> Account {
        let beats = load.end();
        // A line of its own may be half written meanwhile.
        while self.hear() || !(self.heard.is_empty() || self.heard.ends_with('\n')) {
            thread::sleep(Duration::from_millis(300));
        }
        // Its own file, for hours: nothing is left to be read, and nothing comes.
        let file = format!("/proc/{}/fd/1", self.listener_process());
        File::options().write(true).open(file).unwrap().set_len(0).unwrap();
        let lines = std::mem::take(&mut self.heard);
        let heard: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        if std::env::var_os("ROLLCALL_PROVE_LOSE").is_some() {
            self.stack.sql("delete from history where ctid = (select min(ctid) from history)");
        }
        let history = History::read(&self.stack.sql(HISTORY));
        self.stack.sql("truncate history");
        let deaf = std::mem::take(&mut self.deaf);
        let was_there =
            |beat: &Beat| !deaf.iter().any(|(from, to)| beat.began_ns <= *to && beat.ended_ns >= *from);
        let announced_only = history.lacks_announced(&heard);
        let unheard = History::of_announced(&heard).lacks_acknowledged(&beats);
        Account {
            acknowledged: beats.iter().filter(|beat| beat.is_acknowledged()).count(),
            refused: beats.iter().filter(|beat| !beat.is_acknowledged()).count(),
            lost: history.lacks_acknowledged(&beats),
            unheard: unheard.into_iter().filter(was_there).collect(),
            announced: heard.len(),
            announced_only,
        }
    }
}

impl Account {
    pub fn held(&self) -> bool {
        // That which nobody did proves nothing.
        self.acknowledged > 100
            && self.announced > 0
            && self.lost.is_empty()
            && self.announced_only.is_empty()
    }

    pub fn add(&mut self, other: Account) {
        self.acknowledged += other.acknowledged;
        self.refused += other.refused;
        self.announced += other.announced;
        self.lost.extend(other.lost);
        self.unheard.extend(other.unheard);
        self.announced_only.extend(other.announced_only);
    }
}

/// It goes on for longer than the other programs of a test, and on no small disk.
fn listener(stack: &Stack, folder: &Folder) -> Running {
    let mut command = Command::new("setpriv");
    // Nobody else would end it if this process were killed.
    command.args(["--pdeathsig", "TERM"]).arg(binaries().join("rollcall-listen"));
    command.args(["--json", "--port", &stack.broadcast_port.to_string()]);
    command.arg("--key").arg(stack.certs.join("broadcast.pub")).arg("--state").arg(folder.0.join("state"));
    let sockets = || fs::read_to_string("/proc/net/udp").unwrap();
    Running::bound(&folder.0, command, stack.broadcast_port, sockets)
}
