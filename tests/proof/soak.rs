//! `just prove --long HOURS`: load, every fault at a random time, a listener that must have heard each acknowledged
//! heartbeat; and sizes that are flat.

use std::fmt::Write;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use crate::claims::{Verdict, or_panics};
use crate::faults::{self, Part};
use crate::program::is_root;
use crate::scene::{Account, Scene};
use crate::sizes::{self, NAMES, Sizes};
use crate::{ROOT, section};

const PEOPLE: usize = 8;
const BETWEEN: Duration = Duration::from_millis(50);
const HEADING: &str = "## A soak\n";
/// What counts as flat: the most of the last third over the most of the first, and so much besides, in the units of the
/// sizes.
const FLAT: f64 = 1.1;
const BESIDES: f64 = 2.0;

struct Fault {
    name: &'static str,
    act: fn(&mut Scene, &mut fastrand::Rng),
    needs_root: bool,
}

const FAULTS: [Fault; 9] = [
    Fault { name: "none", act: |_, random| pause(random, 5), needs_root: false },
    Fault { name: "server killed", act: |scene, _| faults::kill(scene, &[Part::Server]), needs_root: false },
    Fault { name: "nginx killed", act: |scene, _| faults::kill(scene, &[Part::Nginx]), needs_root: false },
    Fault {
        name: "PostgreSQL killed",
        act: |scene, _| faults::kill(scene, &[Part::Postgres]),
        needs_root: false,
    },
    Fault {
        name: "all three killed at once",
        act: |scene, _| faults::kill(scene, &Part::ALL),
        needs_root: false,
    },
    Fault {
        name: "server stopped for a while",
        act: |scene, random| faults::freeze(scene, Duration::from_millis(random.u64(500..6000))),
        needs_root: false,
    },
    Fault {
        name: "listener restarted",
        act: |scene, _| scene.restart_the_listener("TERM"),
        needs_root: false,
    },
    Fault { name: "listener killed", act: |scene, _| scene.restart_the_listener("KILL"), needs_root: false },
    Fault { name: "disk full", act: |scene, _| faults::fill_the_disk(scene), needs_root: true },
];

/// Did everything hold?
pub fn run(hours: f64, seed: u64) -> bool {
    println!("just prove --long {hours} --seed {seed}");
    let (verdict, text) = or_panics(move || {
        let soak = Soak::of(Duration::from_secs_f64(hours * 3600.0), seed);
        let held = soak.held();
        publish(&soak.section());
        (Verdict::of(held), soak.section())
    });
    println!("{}: {text}", verdict.word());
    verdict == Verdict::Held
}

/// Into docs/benchmarks.md, unless that has a longer run.
fn publish(section: &str) {
    let document = format!("{ROOT}/docs/benchmarks.md");
    let text = fs::read_to_string(&document).unwrap();
    let hours =
        |section: &str| -> Option<f64> { section.split_once("--long ")?.1.split_once(' ')?.0.parse().ok() };
    if section::read(&text, HEADING).and_then(hours) > hours(section) {
        println!("docs/benchmarks.md has a longer run, and stays");
    } else {
        fs::write(&document, section::replace(&text, HEADING, section)).unwrap();
        println!("wrote its section of docs/benchmarks.md");
    }
}

struct Soak {
    took: Duration,
    seed: u64,
    account: Account,
    /// How often each fault was played.
    played: [usize; FAULTS.len()],
    /// After each.
    sizes: Vec<Sizes>,
    /// The machine's load average, after each.
    loads: Vec<f64>,
}

impl Soak {
    fn of(time: Duration, seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let began = Instant::now();
        let mut scene = Scene::up(PEOPLE, is_root().then_some("700m"));
        let mut soak = Self {
            took: time,
            seed,
            account: Account::default(),
            played: [0; FAULTS.len()],
            sizes: Vec::new(),
            loads: Vec::new(),
        };
        while began.elapsed() < time || soak.sizes.len() < 3 {
            let which = loop {
                let which = random.usize(0..FAULTS.len());
                if !FAULTS[which].needs_root || is_root() {
                    break which;
                }
            };
            let load = scene.load(BETWEEN);
            pause(&mut random, 10);
            (FAULTS[which].act)(&mut scene, &mut random);
            scene.goes_on(&load);
            pause(&mut random, 5);
            soak.sizes.push(sizes::read(&scene));
            let account = scene.account(load);
            println!(
                "{:6.0} s  {:<26} {:6} acknowledged, {} lost, {} not heard, {:5} announced, {} without a row",
                began.elapsed().as_secs_f64(),
                FAULTS[which].name,
                account.acknowledged,
                account.lost.len(),
                account.unheard.len(),
                account.announced,
                account.announced_only.len()
            );
            for unheard in &account.unheard {
                println!("          not heard: {unheard:?}");
            }
            soak.played[which] += 1;
            soak.loads.push(load_average());
            soak.account.add(account);
        }
        soak.took = began.elapsed();
        soak
    }

    /// The most of the first and of the last third.
    fn ends(&self, size: usize) -> (f64, f64) {
        let third = self.sizes.len().div_ceil(3);
        let most = |of: &[Sizes]| of.iter().map(|sizes| sizes[size]).fold(0.0, f64::max);
        (most(&self.sizes[..third]), most(&self.sizes[self.sizes.len() - third..]))
    }

    fn is_flat(&self, size: usize) -> bool {
        let (start, end) = self.ends(size);
        // Half a megabyte of a table; two of a log, which begins anew beyond one and is looked at once a second.
        let besides = if NAMES[size].contains("kB") { 500.0 } else { BESIDES };
        end <= start * FLAT + besides
    }

    fn held(&self) -> bool {
        self.account.held()
            && self.account.unheard.is_empty()
            && (0..NAMES.len()).all(|size| self.is_flat(size))
    }

    /// Its part of the document.
    fn section(&self) -> String {
        let held = |held: bool| if held { "held" } else { "**missed**" };
        let Account { acknowledged, refused, lost, unheard, announced, announced_only } = &self.account;
        let played = FAULTS.iter().zip(self.played);
        let played: Vec<String> = played.map(|(fault, times)| format!("{} {times}", fault.name)).collect();
        let programs =
            std::env::var("ROLLCALL_BIN").map_or(String::new(), |bin| format!("ROLLCALL_BIN={bin} "));
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let mut text = format!(
            "{HEADING}\n`{programs}just prove --long {:.2} --seed {}`: {PEOPLE} people beat through nginx, a fault comes at a random time, \
             and a listener\nhears. Each heartbeat that was answered 204 must be in the database, and must have been heard \
             unless the\nlistener itself was down or had not read it yet when it ended. The machine's load average was {:.0} to {:.0}, on {cores} cores. Times of each fault: {}.\n\n| | result | aim | |\n|---|---:|---|---|\n",
            self.took.as_secs_f64() / 3600.0,
            self.seed,
            self.loads.iter().copied().fold(f64::MAX, f64::min),
            self.loads.iter().copied().fold(0.0, f64::max),
            played.join(", ")
        );
        writeln!(text, "| acknowledged | {acknowledged} |  |  |").unwrap();
        writeln!(text, "| answered otherwise, or not at all | {refused} |  |  |").unwrap();
        writeln!(text, "| announced and heard | {announced} |  |  |").unwrap();
        for (name, count) in [
            ("acknowledged and lost", lost.len()),
            ("acknowledged and not heard", unheard.len()),
            ("announced without a row", announced_only.len()),
        ] {
            writeln!(text, "| {name} | {count} | none | {} |", held(count == 0)).unwrap();
        }
        for (size, name) in NAMES.iter().enumerate() {
            let (start, end) = self.ends(size);
            let is_flat = held(self.is_flat(size));
            writeln!(
                text,
                "| {name}: most of the first third → of the last | {start:.1} → {end:.1} | flat | {is_flat} |"
            )
            .unwrap();
        }
        text
    }
}

/// Of the last minute.
fn load_average() -> f64 {
    fs::read_to_string("/proc/loadavg").unwrap().split(' ').next().unwrap().parse().unwrap()
}

fn pause(random: &mut fastrand::Rng, seconds: u64) {
    thread::sleep(Duration::from_millis(1000 + random.u64(0..seconds * 1000)));
}
