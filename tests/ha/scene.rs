//! Two servers on the bed, under load, watched; and that which one fault did to it.

use std::process::Command;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rollcall::cli::now_ns;
use serde_json::Value;

use crate::PATIENCE;
use crate::bed::Bed;
use crate::faults::{Fault, Lasts};
use crate::ledger::{HISTORY, History, TRIGGER};
use crate::load::{self, Beat, Load};
use crate::program::{Running, expect, text};
use crate::stack::{Builder, Stack, binaries, free_port};
use crate::watch::{Sample, Watch};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const PEOPLE: usize = 6;

/// They end in this order.
pub struct Scene {
    load: Arc<Load>,
    watch: Watch,
    listener: Running,
    _second: Stack,
    pub stack: Arc<Stack>,
    pub bed: Bed,
    played: u32,
}

/// What one fault did.
#[derive(Debug)]
pub struct Played {
    /// Without a 204 of the first server.
    pub silence: Duration,
    /// From a primary that takes writes, and an HAProxy that runs, to one that leads there.
    pub shown_after: Option<Duration>,
    /// From then to the first 204, or from somebody else's commit if that came first.
    pub after_both: Option<Duration>,
    pub acknowledged: usize,
    pub lost: Vec<Beat>,
    pub announced_only: Vec<Value>,
    pub refused: usize,
    pub slowest_refusal: Duration,
    pub looks: usize,
    /// After 3 s in which nothing was committed.
    pub wrongly_green: Vec<Sample>,
    pub backends: usize,
    /// An administrator's command in the middle of it said that it succeeded, and the primary that is left does not know.
    pub told_wrongly: bool,
    pub told_after: Duration,
}

const SECOND: u64 = 1_000_000_000;

impl Scene {
    /// `disk` bounds the disks of the databases.
    pub fn up(disk: bool) -> Self {
        let bed = Bed::up(disk);
        let stack = server(&bed, "s1", free_port(), None);
        bed.sql(&format!("{TRIGGER}; grant insert on witness to rollcall"));
        let people = load::enrol(&stack, PEOPLE);
        let second = server(&bed, "s2", stack.broadcast_port, Some(&stack));
        // It goes on for longer than the other programs of a test.
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &bed.namespace("s1")]).arg(binaries().join("rollcall-listen"));
        command.args(["--json", "--port", &stack.broadcast_port.to_string()]);
        for stack in [&stack, &second] {
            command.arg("--key").arg(stack.certs.join("broadcast.pub"));
        }
        let listener = Running::start(&stack, command);
        let (at_first, at_second) = people.split_at(PEOPLE / 2);
        let mut load = Load::new(Duration::from_millis(40));
        load.add(&stack, Some(bed.namespace("s1")), "s1", at_first);
        load.add(&second, Some(bed.namespace("s2")), "s2", at_second);
        let (load, stack) = (Arc::new(load), Arc::new(stack));
        let watch = watch(&bed, &stack, &load);
        let scene = Self { load, watch, listener, _second: second, stack, bed, played: 0 };
        scene.until_acknowledged_for(Duration::from_secs(2));
        // Looks that are never green would show nothing.
        scene.until("each look is green", || {
            let samples = scene.watch.seen.samples.lock().unwrap();
            ["/readyz", "status", "doctor"]
                .iter()
                .all(|of| samples.iter().any(|one| one.of == *of && one.is_green))
        });
        scene
    }

    #[track_caller]
    fn until(&self, event: &str, mut done: impl FnMut() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !done() {
            assert!(Instant::now() < end, "waited {PATIENCE:?} in vain until {event}: {}", self.last_lines());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Heartbeats are acknowledged, without a pause, for so long.
    #[track_caller]
    pub fn until_acknowledged_for(&self, time: Duration) {
        assert!(
            self.load.goes_on("s1", time, PATIENCE),
            "no heartbeats are acknowledged: {}",
            self.last_lines()
        );
    }

    /// Neither server has acknowledged anything for so long, and the first says why.
    #[track_caller]
    pub fn assert_nothing_is_acknowledged_for(&self, time: Duration) {
        for host in ["s1", "s2"] {
            let ago = now_ns() - self.load.last_acknowledged_ns(host);
            assert!(ago > time.as_nanos() as u64, "{host} acknowledged something {ago} ns ago");
        }
        let mut status = self.stack.tool("stack/status");
        expect(&mut status, 1, "a commit waits for the synchronous standby");
    }

    fn last_lines(&self) -> String {
        self.stack.log("server/log").lines().rev().take(5).collect::<Vec<_>>().join("\n")
    }

    pub fn play(&mut self, fault: &Fault) -> Played {
        self.bed.until_whole();
        self.until_acknowledged_for(Duration::from_secs(1));
        self.watch.seen.backends.lock().unwrap().clear();
        self.played += 1;
        let begun_ns = now_ns();
        let host = (fault.act)(self);
        let every_s = 100 + self.played;
        let administrator = self.administrator(every_s);
        match fault.lasts {
            Lasts::For(time) => thread::sleep(time),
            Lasts::UntilAcknowledged(least) => {
                thread::sleep(least);
                self.until_acknowledged_for(Duration::from_secs(1));
            }
        }
        (fault.heal)(self, &host);
        self.until_acknowledged_for(Duration::from_secs(2));
        self.bed.until_whole();
        let (was_told, told_after) = administrator.join().unwrap();
        let kept = self.bed.sql("select every_s from users where email = 'valid_user@qt-test.com'");
        let played = self.judge(begun_ns, told_after, was_told && kept != every_s.to_string());
        println!("{}: {played:?}", fault.name);
        played
    }

    /// Somebody who, in the middle of it, sets an interval: does the command say that it succeeded, and after which time?
    fn administrator(&self, every_s: u32) -> JoinHandle<(bool, Duration)> {
        let mut command = self.stack.program("rollcall-admin");
        command.args(["user", "every", "valid_user@qt-test.com", &format!("{every_s}s")]);
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(1500));
            let began = Instant::now();
            let output = command.output().unwrap();
            let succeeded = output.status.success();
            assert!(succeeded || !text(&output).is_empty(), "it says nothing");
            (succeeded, began.elapsed())
        })
    }

    fn judge(&self, begun_ns: u64, told_after: Duration, told_wrongly: bool) -> Played {
        // What was acknowledged and heard so far is in the history that is read afterwards, or it is lost.
        let beats = self.load.beats();
        let heard: Vec<Value> =
            self.listener.stdout.rest().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let history = History::read(&self.bed.sql(HISTORY));
        assert!(history.len() > 100 && !heard.is_empty(), "{} and {}", history.len(), heard.len());
        let announced_only = history.lacks_announced(&heard);
        let beats: Vec<Beat> = beats.into_iter().filter(|beat| beat.began_ns > begun_ns - SECOND).collect();
        // The looks are at the first server.
        let of_first = beats.iter().filter(|beat| beat.is_acknowledged() && beat.to == "s1");
        let acknowledged: Vec<u64> = of_first.map(|beat| beat.ended_ns).collect();
        let refused: Vec<&Beat> = beats.iter().filter(|beat| beat.status == 503).collect();
        let silences: Vec<(u64, u64)> = acknowledged.windows(2).map(|two| (two[0], two[1])).collect();
        let (from, to) = *silences.iter().max_by_key(|(from, to)| to.saturating_sub(*from)).unwrap();
        let witnessed = self.watch.seen.witnessed_ns.lock().unwrap().clone();
        let first_commit = |from: u64, to: u64| witnessed.iter().copied().find(|at| (from..to).contains(at));
        let (shown, able) = self.begins(from, to);
        let both = shown.max(able).into_iter().chain(first_commit(from, to)).min();
        let samples = self.watch.seen.samples.lock().unwrap().clone();
        let samples: Vec<Sample> = samples.into_iter().filter(|one| one.began_ns > begun_ns).collect();
        // The server's own write of each second may be the first that goes through again. A heartbeat that waits meanwhile
        // has its answer within a second.
        let is_wrong = |one: &&Sample| {
            let in_silence = |(from, to): &(u64, u64)| {
                one.began_ns > from + 3 * SECOND
                    && one.ended_ns + SECOND < first_commit(*from, *to).unwrap_or(*to)
            };
            one.is_green && silences.iter().any(in_silence)
        };
        Played {
            silence: Duration::from_nanos(to - from),
            shown_after: shown
                .zip(able)
                .map(|(shown, able)| Duration::from_nanos(shown.saturating_sub(able))),
            after_both: both.map(|at| Duration::from_nanos(to - at)),
            acknowledged: beats.iter().filter(|beat| beat.is_acknowledged()).count(),
            lost: history.lacks_acknowledged(&beats),
            announced_only,
            refused: refused.len(),
            slowest_refusal: Duration::from_nanos(
                refused.iter().map(|beat| beat.ended_ns - beat.began_ns).max().unwrap_or(0),
            ),
            looks: samples.len(),
            wrongly_green: samples.iter().filter(is_wrong).cloned().collect(),
            backends: self.watch.seen.backends.lock().unwrap().values().copied().max().unwrap_or(0),
            told_wrongly,
            told_after,
        }
    }

    /// When HAProxy of the first server began to lead to the primary that took the commit at `to`, and when it could have:
    /// HAProxy ran, and the primary took writes. As far as that happened in this time.
    fn begins(&self, from: u64, to: u64) -> (Option<u64>, Option<u64>) {
        let shown = self.watch.seen.shown.lock().unwrap().clone();
        let before: Vec<_> = shown.into_iter().rev().filter(|(at, _)| *at < to).collect();
        let alone = before
            .iter()
            .find_map(|(at, hosts)| Some((*at, hosts.as_ref()?)))
            .filter(|(_, hosts)| hosts.len() == 1);
        let Some((shown, hosts)) = alone else { return (None, None) };
        let writes = self.bed.takes_writes_ns(&hosts[0]).range(from..to).last().copied();
        // The first answer after it did not run.
        let runs = before.windows(2).find(|two| two[1].1.is_none()).map(|two| two[0].0);
        let within = |at: &u64| (from..to).contains(at);
        (Some(shown).filter(within), writes.max(runs.filter(within)))
    }
}

/// A server behind nginx on this host, as docs/scale.md says. A second one has the CA of the first, and a role and a key
/// pair of its own.
fn server(bed: &Bed, host: &str, broadcast_port: u16, first: Option<&Stack>) -> Stack {
    let mut own = bed.url("ROLLCALL_SERVER_DATABASE_URL", "SERVER");
    if first.is_some() {
        let password = own.split([':', '@']).nth(2).unwrap();
        // The limit is for the connections of one server.
        bed.sql(&format!(
            "create role rollcall_s2 login password '{password}' connection limit 8 in role rollcall_server"
        ));
        own = own.replace("rollcall_server:", "rollcall_s2:");
    }
    let database = bed.url("DATABASE_URL", "OWNER");
    let builder = Builder::new()
        .in_namespace(&bed.namespace(host))
        .set("ROLLCALL_NAME", host)
        .set("ROLLCALL_RATE", "1000000")
        .set("ROLLCALL_BROADCAST", format!("192.0.2.255:{broadcast_port}"))
        .set("DATABASE_URL", &database)
        .set("ROLLCALL_SERVER_DATABASE_URL", own)
        .set("ROLLCALL_BOARD_DATABASE_URL", bed.url("ROLLCALL_BOARD_DATABASE_URL", "READER"));
    let mut stack = builder.stopped();
    stack.broadcast_port = broadcast_port;
    match first {
        None => {
            expect(stack.program("rollcall-admin").arg("migrate"), 0, "");
            let grants = format!("{ROOT}/deploy/grants.sql");
            expect(stack.command("psql").args([&database, "-v", "ON_ERROR_STOP=1", "-qf", &grants]), 0, "");
        }
        Some(first) => {
            let script = "cp -a \"$0\" \"$1\" && rm \"$1\"/broadcast.*";
            expect(stack.command("bash").args(["-c", script]).args([&first.certs, &stack.certs]), 0, "");
        }
    }
    expect(&mut stack.tool("stack/up"), 0, "nginx        ready");
    stack
}

/// Everything that looks at the first server.
fn watch(bed: &Bed, stack: &Arc<Stack>, load: &Arc<Load>) -> Watch {
    let mut watch = Watch::start();
    watch.readyz(bed.namespace("s1"), stack.listen.clone());
    let own = Arc::clone(stack);
    watch.command("status", Duration::from_secs(3), move || own.tool("stack/status"));
    let own = Arc::clone(stack);
    watch.command("doctor", Duration::from_secs(1), move || {
        let mut command = own.tool("stack/run");
        command.args(["rollcall-server", "doctor", "database"]);
        command
    });
    watch.backends(bed.folder());
    watch.haproxy(bed.folder());
    // While no heartbeat is acknowledged, does the database commit for others?
    let (own, load, database) = (Arc::clone(stack), Arc::clone(load), bed.url("DATABASE_URL", "OWNER"));
    watch.every(Duration::from_millis(20), move |seen| {
        if now_ns().saturating_sub(load.last_acknowledged_ns("s1")) > SECOND * 2 / 5 {
            let mut psql = own.command("psql");
            psql.env("PGCONNECT_TIMEOUT", "2").args([
                "-qXAt",
                &database,
                "-c",
                "insert into witness default values",
            ]);
            if psql.output().unwrap().status.success() {
                seen.witnessed_ns.lock().unwrap().push(now_ns());
            }
        }
    });
    watch
}
