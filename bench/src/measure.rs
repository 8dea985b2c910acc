//! What is measured, and in which order: every system takes its turn before any has its second, so that
//! a machine that is slow for a while is slow for all of them.

use std::collections::BTreeMap;
use std::io;
use std::process::Command;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::certificates::{Authority, Identity};
use crate::load::{self, Load, Outcome, Pace, Run};
use crate::stack::{Costs, Stack, System, memory_bytes};

/// The three that do the whole job, and the two limits of what is possible around it.
pub const WHOLE: [&str; 3] = ["rollcall", "axum", "django"];
pub const SYSTEMS: [&str; 5] = ["rollcall", "axum", "django", "nginx_204", "server_204"];
/// Rows of the table, unless its size is what is varied.
const USERS: usize = 1000;
/// Connections of the open loop and of the varied table.
const MANY: usize = 256;
const WARM: Duration = Duration::from_millis(400);

pub struct Scale {
    pub quick: bool,
    pub connections: &'static [usize],
    pub rounds: usize,
    pub throughput: Duration,
    pub latency_rounds: usize,
    pub other_rounds: usize,
    pub latency: Duration,
    pub table_sizes: &'static [usize],
    pub open_connections: &'static [usize],
    pub handshakes: bool,
}

pub const QUICK: Scale = Scale {
    quick: true,
    connections: &[1, 64, 256],
    rounds: 3,
    throughput: Duration::from_millis(1250),
    latency_rounds: 2,
    other_rounds: 0,
    latency: Duration::from_millis(2500),
    table_sizes: &[],
    open_connections: &[],
    handshakes: false,
};

pub const FULL: Scale = Scale {
    quick: false,
    connections: &[1, 16, 64, 256],
    rounds: 5,
    throughput: Duration::from_secs(4),
    latency_rounds: 5,
    other_rounds: 3,
    latency: Duration::from_secs(8),
    table_sizes: &[1_000, 100_000, 1_000_000],
    open_connections: &[1_000, 5_000],
    handshakes: true,
};

/// One run of one system.
pub struct Sample {
    pub rate: f64,
    /// Milliseconds from due to answered, and from due to heard.
    pub latency: Quantiles,
    pub heard: Quantiles,
    pub unheard: u64,
    pub unfinished: u64,
    pub per_heartbeat: PerHeartbeat,
    /// The share of the two cores that went to processes which are no part of this.
    pub noise: f64,
}

#[derive(Clone, Copy, Default)]
pub struct Quantiles {
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
}

/// CPU in microseconds, WAL in bytes.
#[derive(Clone, Copy, Default)]
pub struct PerHeartbeat {
    pub server: f64,
    pub nginx: f64,
    pub postgres: f64,
    pub wal: f64,
}

/// Samples by system and by what was varied.
pub type Table = BTreeMap<(&'static str, usize), Vec<Sample>>;

#[derive(Default)]
pub struct Results {
    pub quick: bool,
    pub rounds: usize,
    pub throughput: Table,
    /// Half of the axum peer's best rate, which every system is offered; and half of Django's own.
    pub offered: f64,
    pub offered_django: f64,
    pub latency: Table,
    pub django_at_own_rate: Vec<Sample>,
    pub heard: Table,
    pub handshakes: Table,
    pub table_size: Table,
    /// Statements a second of pgbench by table size, with 16 clients.
    pub pgbench: BTreeMap<usize, Vec<f64>>,
    /// Proportional set size of server and nginx by open connections; 0 is before the first.
    pub memory: BTreeMap<(&'static str, usize), (u64, u64)>,
    /// What came instead of 204, by run.
    pub errors: Vec<String>,
}

pub fn all(stack: &Stack, scale: &Scale) -> io::Result<Results> {
    let authority = Authority::read(&stack.certs)?;
    let mut results = Results { quick: scale.quick, rounds: scale.rounds, ..Results::default() };
    // First, before anything has made the servers' heaps grow.
    memory(stack, &authority, scale, &mut results)?;
    let identities = authority.identities(MANY, USERS)?;
    let bench = Bench { stack, identities: &identities };
    throughput(&bench, scale, &mut results)?;
    latency(&bench, scale, &mut results)?;
    if !scale.quick {
        heard(&bench, scale, &mut results)?;
    }
    if scale.handshakes {
        handshakes(&bench, scale, &mut results)?;
    }
    table_sizes(stack, &authority, scale, &mut results)?;
    Ok(results)
}

struct Bench<'a> {
    stack: &'a Stack,
    identities: &'a [Identity],
}

struct Cell<'a> {
    what: &'a str,
    name: &'static str,
    parameter: usize,
    connections: usize,
    hear: bool,
    run: Run,
}

impl Bench<'_> {
    /// One run. The table is as it was before every other run.
    fn measure(&self, cell: &Cell, results: &mut Results) -> io::Result<Sample> {
        let system = self.stack.system(cell.name)?;
        if WHOLE.contains(&cell.name) {
            self.stack.reset()?;
        }
        let ear = if cell.hear { Some(load::ear(self.stack.broadcast_port)?) } else { None };
        let mut load = Load::new(system.address, self.identities, cell.connections, ear)?;
        let before = self.stack.costs(system)?;
        let outcome = load.run(cell.run).map_err(|error| {
            io::Error::other(format!("{} of {} at {}: {error}", cell.what, cell.name, cell.parameter))
        })?;
        let costs = self.stack.costs(system)?.since(&before);
        for (what, count) in &outcome.errors {
            let error = format!("{} of {} at {}: {count} × {what}", cell.what, cell.name, cell.parameter);
            println!("  ERROR {error}");
            results.errors.push(error);
        }
        let sample = sample(&outcome, &costs, cell.run);
        println!(
            "  {:12} {:10} {:>8}  {:>8.0}/s  p50 {:>8.3}  p99 {:>8.3}  p99.9 {:>8.3} ms  noise {:>3.0} %",
            cell.what,
            cell.name,
            cell.parameter,
            sample.rate,
            sample.latency.p50,
            sample.latency.p99,
            sample.latency.p999,
            sample.noise * 100.0
        );
        Ok(sample)
    }
}

fn sample(outcome: &Outcome, costs: &Costs, run: Run) -> Sample {
    let heartbeats = outcome.answered_in_all.max(1) as f64;
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    Sample {
        rate: outcome.rate(),
        latency: quantiles(&outcome.latency),
        heard: quantiles(&outcome.heard),
        unheard: outcome.unheard,
        unfinished: outcome.unfinished,
        per_heartbeat: PerHeartbeat {
            server: costs.server / heartbeats * 1e6,
            nginx: costs.nginx / heartbeats * 1e6,
            postgres: costs.postgres / heartbeats * 1e6,
            wal: costs.wal_bytes / heartbeats,
        },
        noise: costs.foreign() / ((run.warm + run.measure).as_secs_f64() * cores),
    }
}

fn quantiles(histogram: &Histogram<u64>) -> Quantiles {
    let ms = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e6;
    Quantiles { p50: ms(0.5), p99: ms(0.99), p999: ms(0.999) }
}

/// The systems in another order each round: nobody always comes after the same neighbour.
fn turns(systems: &[&'static str], round: usize) -> impl Iterator<Item = &'static str> {
    (0..systems.len()).map(move |n| systems[(n + round) % systems.len()]).collect::<Vec<_>>().into_iter()
}

fn throughput(bench: &Bench, scale: &Scale, results: &mut Results) -> io::Result<()> {
    println!("Throughput, closed loop: connections");
    bench.stack.fill(USERS)?;
    let run = Run { pace: Pace::Closed, warm: WARM, measure: scale.throughput, handshake_each: false };
    for round in 0..scale.rounds {
        for &connections in scale.connections {
            for name in turns(&SYSTEMS, round) {
                let cell =
                    Cell { what: "throughput", name, parameter: connections, connections, hear: false, run };
                let sample = bench.measure(&cell, results)?;
                results.throughput.entry((name, connections)).or_default().push(sample);
            }
        }
        pgbench(bench.stack, USERS, scale.throughput, results)?;
    }
    Ok(())
}

/// The highest of a system's medians.
fn best(results: &Results, name: &str) -> f64 {
    let of_system = results.throughput.iter().filter(|((system, _), _)| *system == name);
    of_system.map(|(_, samples)| median(samples, |sample| sample.rate)).fold(0.0, f64::max)
}

fn latency(bench: &Bench, scale: &Scale, results: &mut Results) -> io::Result<()> {
    results.offered = best(results, "axum") / 2.0;
    results.offered_django = best(results, "django") / 2.0;
    println!("Latency, open loop: requests offered per second");
    for round in 0..scale.latency_rounds {
        for name in turns(&SYSTEMS, round) {
            let run = open(results.offered, scale.latency);
            let parameter = results.offered as usize;
            let cell = Cell { what: "latency", name, parameter, connections: MANY, hear: false, run };
            let sample = bench.measure(&cell, results)?;
            results.latency.entry((name, 0)).or_default().push(sample);
        }
        // Offered half of what axum takes, Django falls behind without end; so also at a rate it can take.
        if !scale.quick {
            let run = open(results.offered_django, scale.latency);
            let parameter = results.offered_django as usize;
            let cell =
                Cell { what: "latency", name: "django", parameter, connections: MANY, hear: false, run };
            let sample = bench.measure(&cell, results)?;
            results.django_at_own_rate.push(sample);
        }
    }
    Ok(())
}

fn open(rate: f64, measure: Duration) -> Run {
    Run { pace: Pace::Open(rate), warm: WARM, measure, handshake_each: false }
}

/// From PATCH sent to datagram heard, at a rate that all three can take and at half of axum's best.
fn heard(bench: &Bench, scale: &Scale, results: &mut Results) -> io::Result<()> {
    println!("From PATCH sent to datagram heard, open loop: requests offered per second");
    let (common, high) = (results.offered_django, results.offered);
    for round in 0..scale.other_rounds {
        for (rate, systems) in [(common, &WHOLE[..]), (high, &WHOLE[..2])] {
            for name in turns(systems, round) {
                let parameter = rate as usize;
                let run = open(rate, scale.latency / 2);
                let cell = Cell { what: "heard", name, parameter, connections: MANY, hear: true, run };
                let sample = bench.measure(&cell, results)?;
                results.heard.entry((name, parameter)).or_default().push(sample);
            }
        }
    }
    Ok(())
}

fn handshakes(bench: &Bench, scale: &Scale, results: &mut Results) -> io::Result<()> {
    println!("One handshake per request, closed loop: people at once");
    let run = Run { pace: Pace::Closed, warm: WARM, measure: scale.throughput, handshake_each: true };
    for round in 0..scale.other_rounds {
        for name in turns(&["rollcall", "axum", "django", "nginx_204"], round) {
            let cell = Cell { what: "handshakes", name, parameter: 32, connections: 32, hear: false, run };
            let sample = bench.measure(&cell, results)?;
            results.handshakes.entry((name, 32)).or_default().push(sample);
        }
    }
    Ok(())
}

fn table_sizes(stack: &Stack, authority: &Authority, scale: &Scale, results: &mut Results) -> io::Result<()> {
    if !scale.table_sizes.is_empty() {
        println!("Throughput against rows in the table, closed loop with {MANY} connections: rows");
    }
    for &users in scale.table_sizes {
        stack.fill(users)?;
        let identities = authority.identities(MANY, users)?;
        let bench = Bench { stack, identities: &identities };
        let run = Run { pace: Pace::Closed, warm: WARM, measure: scale.throughput, handshake_each: false };
        for round in 0..scale.other_rounds {
            for name in turns(&WHOLE, round) {
                let cell =
                    Cell { what: "table size", name, parameter: users, connections: MANY, hear: false, run };
                let sample = bench.measure(&cell, results)?;
                results.table_size.entry((name, users)).or_default().push(sample);
            }
            if users != USERS {
                pgbench(stack, users, scale.throughput, results)?;
            }
        }
    }
    Ok(())
}

/// The same update from PostgreSQL's own load generator: one statement and one commit per heartbeat, by 16
/// clients as in the peers' pools, with nothing in front of it.
fn pgbench(stack: &Stack, users: usize, measure: Duration, results: &mut Results) -> io::Result<()> {
    stack.reset()?;
    let rate = stack.pgbench(users, 16, measure)?;
    println!("  {:12} {:10} {users:>8}  {rate:>8.0}/s", "throughput", "pgbench");
    results.pgbench.entry(users).or_default().push(rate);
    Ok(())
}

/// Everybody connects, sends one PATCH and stays.
fn memory(stack: &Stack, authority: &Authority, scale: &Scale, results: &mut Results) -> io::Result<()> {
    let Some(&most) = scale.open_connections.iter().max() else { return Ok(()) };
    println!("Memory: open connections, server and nginx in MB");
    stack.fill(most)?;
    let identities = authority.identities(most, most)?;
    let of = |system: &System| -> io::Result<(u64, u64)> {
        Ok((system.server.map_or(Ok(0), memory_bytes)?, memory_bytes(system.nginx)?))
    };
    for &connections in [0].iter().chain(scale.open_connections) {
        for name in WHOLE {
            let system = stack.system(name)?;
            let mut load;
            if connections > 0 {
                load = Load::connect(system.address, &identities, connections)?;
                let run = Run {
                    pace: Pace::Once,
                    warm: Duration::ZERO,
                    measure: Duration::from_secs(60),
                    handshake_each: false,
                };
                let outcome = load.run(run)?;
                if outcome.answered as usize != connections {
                    let error = format!("memory of {name}: {} of {connections} answered", outcome.answered);
                    println!("  ERROR {error}");
                    results.errors.push(error);
                }
            }
            let (server, nginx) = of(system)?;
            println!(
                "  {name:10} {connections:>6}  {:>6.1} {:>6.1}",
                server as f64 / 1e6,
                nginx as f64 / 1e6
            );
            results.memory.insert((name, connections), (server, nginx));
        }
    }
    Ok(())
}

pub fn median(samples: &[Sample], of: impl Fn(&Sample) -> f64) -> f64 {
    median_of(samples.iter().map(of).collect())
}

pub fn median_of(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => values[len / 2],
        len => (values[len / 2 - 1] + values[len / 2]) / 2.0,
    }
}

impl Stack {
    /// Statements a second.
    fn pgbench(&self, users: usize, clients: usize, measure: Duration) -> io::Result<f64> {
        let script = std::env::temp_dir().join(format!("rollcall-bench-{}.sql", std::process::id()));
        // Random rows of the whole table.
        let sql = format!(
            "\\set n random(0, {users} - 1)\n\
             update users set last_seen_ns = greatest(last_seen_ns, (extract(epoch from clock_timestamp()) * 1e9)::bigint), \
             ip = '127.0.0.1'::inet, port = 40000 \
             where email = 'device-' || lpad(:n::text, 7, '0') || '@bench.example' and disabled_at is null \
             returning last_seen_ns;\n"
        );
        std::fs::write(&script, sql)?;
        let output = Command::new("pgbench")
            .args(["-n", "-M", "prepared", "-U", "rollcall", "-h"])
            .arg(self.cluster())
            .args(["-c", &clients.to_string(), "-j", "1", "-T", &measure.as_secs().max(1).to_string(), "-f"])
            .arg(&script)
            .arg("rollcall")
            .output();
        std::fs::remove_file(&script)?;
        let output = output?;
        let text = String::from_utf8_lossy(&output.stdout);
        let tps = text.lines().find_map(|line| line.strip_prefix("tps = "));
        let tps = tps.and_then(|rest| rest.split(' ').next()?.parse().ok());
        tps.ok_or_else(|| io::Error::other(format!("pgbench: {}", String::from_utf8_lossy(&output.stderr))))
    }
}
