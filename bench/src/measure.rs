//! What is measured, and in which order: every system takes its turn before any has its second, so that
//! a machine that is slow for a while is slow for all of them.

use std::io;
use std::time::Duration;

use crate::aims::IDLE;
use crate::certificates::{Authority, Identity};
use crate::load::{Load, Pace, Run};
use crate::results::{PAIR, Results, SYSTEMS, Sample, WHOLE, sample};
use crate::stack::Stack;

/// Rows of the table, unless its size is what is varied.
const USERS: usize = 1000;
/// Connections where their number is not what is varied.
const MANY: usize = 256;
const WARM: Duration = Duration::from_millis(400);

pub struct Scale {
    pub quick: bool,
    pub connections: &'static [usize],
    /// Rounds of `PAIR`, and of the others.
    pub rounds: usize,
    pub other_rounds: usize,
    pub throughput: Duration,
    pub latency_connections: &'static [usize],
    pub latency_rounds: usize,
    pub other_latency_rounds: usize,
    pub latency: Duration,
    pub heard: Duration,
    pub table_sizes: &'static [usize],
    pub open_connections: &'static [usize],
    pub handshakes: bool,
}

pub const QUICK: Scale = Scale {
    quick: true,
    connections: &[1, 16, 64, 256],
    rounds: 3,
    other_rounds: 2,
    throughput: Duration::from_millis(1250),
    latency_connections: &[64],
    latency_rounds: 3,
    other_latency_rounds: 1,
    latency: Duration::from_millis(2500),
    heard: Duration::from_secs(3),
    table_sizes: &[],
    open_connections: &[],
    handshakes: false,
};

pub const FULL: Scale = Scale {
    quick: false,
    connections: &[1, 16, 64, 256, 1000],
    rounds: 5,
    other_rounds: 3,
    throughput: Duration::from_secs(2),
    latency_connections: &[64, 256],
    latency_rounds: 5,
    other_latency_rounds: 2,
    latency: Duration::from_secs(3),
    heard: Duration::from_secs(3),
    table_sizes: &[1_000, 100_000, 1_000_000],
    open_connections: &[1_000, 5_000],
    handshakes: true,
};

pub fn all(stack: &Stack, scale: &Scale) -> io::Result<Results> {
    let authority = Authority::read(&stack.certs)?;
    let mut results = Results {
        quick: scale.quick,
        rounds: scale.rounds,
        other_rounds: scale.other_rounds,
        latency_rounds: scale.latency_rounds,
        systems: SYSTEMS.into_iter().filter(|name| stack.has(name)).collect(),
        ..Results::default()
    };
    // First, before anything has made the servers' heaps grow.
    memory(stack, &authority, scale, &mut results)?;
    let most = scale.connections.iter().copied().max().unwrap_or(MANY).max(MANY);
    let identities = authority.identities(most, USERS)?;
    let mut bench = Bench { stack, identities: &identities, results: &mut results };
    bench.throughput(scale)?;
    bench.latency(scale)?;
    bench.heard(scale)?;
    if scale.handshakes {
        bench.handshakes(scale)?;
    }
    for &users in scale.table_sizes {
        table_size(stack, &authority, users, scale.other_rounds, scale.throughput, &mut results)?;
    }
    Ok(results)
}

/// The systems in another order each round: nobody always comes after the same neighbour.
fn turns(systems: &[&'static str], round: usize) -> Vec<&'static str> {
    (0..systems.len()).map(|n| systems[(n + round) % systems.len()]).collect()
}

struct Bench<'a> {
    stack: &'a Stack,
    identities: &'a [Identity],
    results: &'a mut Results,
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
    fn measure(&mut self, cell: &Cell) -> io::Result<Sample> {
        let system = self.stack.system(cell.name)?;
        if WHOLE.contains(&cell.name) {
            self.stack.reset()?;
        }
        let identities = &self.identities[..cell.connections];
        // Connections that stay are open before anything is counted.
        let mut load = if cell.run.handshake_each {
            Load::new(system, identities)?
        } else {
            Load::connect(system, identities)?
        };
        if cell.hear {
            load.hear(self.stack.broadcast_port)?;
        }
        let start = self.stack.start(system)?;
        let outcome = load.run(cell.run).map_err(|error| {
            io::Error::other(format!("{} of {} at {}: {error}", cell.what, cell.name, cell.parameter))
        })?;
        let costs = self.stack.stop(system, &start)?;
        for (what, count) in &outcome.errors {
            let error = format!("{} of {} at {}: {count} × {what}", cell.what, cell.name, cell.parameter);
            println!("  ERROR {error}");
            self.results.errors.push(error);
        }
        let sample = sample(&outcome, &costs);
        println!(
            "  {:11} {:10} {:>8} {:>7.0} µs {:>7.0}/s  p50 {:>7.2}  p99 {:>7.2} ms  noise {:>3.0} %",
            cell.what,
            cell.name,
            cell.parameter,
            sample.per_heartbeat.cpu(),
            sample.rate,
            sample.latency.p50,
            sample.latency.p99,
            sample.noise * 100.0
        );
        Ok(sample)
    }

    /// Those whose turn it is in this round.
    fn systems(&self, round: usize, other_rounds: usize) -> Vec<&'static str> {
        if round < other_rounds { turns(&self.results.systems, round) } else { turns(&PAIR, round) }
    }

    fn throughput(&mut self, scale: &Scale) -> io::Result<()> {
        println!("CPU and throughput, closed loop: connections");
        self.stack.fill(USERS)?;
        let run = closed(scale.throughput);
        for round in 0..scale.rounds {
            for &connections in scale.connections {
                for name in self.systems(round, scale.other_rounds) {
                    let what = "throughput";
                    let cell = Cell { what, name, parameter: connections, connections, hear: false, run };
                    let sample = self.measure(&cell)?;
                    self.results.throughput.entry((name, connections)).or_default().push(sample);
                }
            }
            if round < scale.other_rounds {
                self.stack.reset()?;
                let rate = self.stack.pgbench(USERS, 16, scale.throughput)?;
                println!("  {:11} {:10} {:>8} {:>18.0}/s", "throughput", "pgbench", 16, rate);
                self.results.pgbench.push(rate);
            }
        }
        Ok(())
    }

    fn latency(&mut self, scale: &Scale) -> io::Result<()> {
        self.results.offered = self.results.best("axum") / 2.0;
        self.results.offered_django = self.results.best("django") / 2.0;
        println!("Latency at {:.0} requests a second, open loop: connections", self.results.offered);
        let run = open(self.results.offered, scale.latency);
        for round in 0..scale.latency_rounds {
            for &connections in scale.latency_connections {
                for name in self.systems(round, scale.other_latency_rounds) {
                    let what = "latency";
                    let cell = Cell { what, name, parameter: connections, connections, hear: false, run };
                    let sample = self.measure(&cell)?;
                    self.results.latency.entry((name, connections)).or_default().push(sample);
                }
            }
            // Offered half of what axum takes, Django falls behind without end; so also at a rate it can take.
            if !scale.quick && round < scale.other_latency_rounds {
                let run = open(self.results.offered_django, scale.latency);
                let cell = Cell {
                    what: "latency",
                    name: "django",
                    parameter: MANY,
                    connections: MANY,
                    hear: false,
                    run,
                };
                let sample = self.measure(&cell)?;
                self.results.django_at_own_rate.push(sample);
            }
        }
        Ok(())
    }

    /// From PATCH sent to datagram heard: nearly idle, and at half of axum's best rate, which is too much for Django.
    fn heard(&mut self, scale: &Scale) -> io::Result<()> {
        println!("From PATCH sent to datagram heard, open loop: requests offered a second");
        let high = self.results.offered as usize;
        let offers: &[(usize, &[&str])] =
            if scale.quick { &[(IDLE, &PAIR)] } else { &[(IDLE, &WHOLE), (high, &PAIR)] };
        for round in 0..scale.other_rounds {
            for &(parameter, systems) in offers {
                for name in turns(systems, round) {
                    let run = open(parameter as f64, scale.heard);
                    let cell = Cell { what: "heard", name, parameter, connections: 64, hear: true, run };
                    let sample = self.measure(&cell)?;
                    self.results.heard.entry((name, parameter)).or_default().push(sample);
                }
            }
        }
        Ok(())
    }

    fn handshakes(&mut self, scale: &Scale) -> io::Result<()> {
        println!("One handshake per request, closed loop: people at once");
        let run = Run { handshake_each: true, ..closed(scale.throughput) };
        for round in 0..scale.other_rounds {
            for name in turns(&["rollcall", "axum", "django", "nginx_204"], round) {
                let cell =
                    Cell { what: "handshakes", name, parameter: 32, connections: 32, hear: false, run };
                let sample = self.measure(&cell)?;
                self.results.handshakes.entry((name, 32)).or_default().push(sample);
            }
        }
        Ok(())
    }
}

fn closed(measure: Duration) -> Run {
    Run { pace: Pace::Closed, warm: WARM, measure, handshake_each: false }
}

fn open(rate: f64, measure: Duration) -> Run {
    Run { pace: Pace::Open(rate), warm: WARM, measure, handshake_each: false }
}

/// The cost of a heartbeat of people spread evenly over a table of `users` rows.
pub fn table_size(
    stack: &Stack,
    authority: &Authority,
    users: usize,
    rounds: usize,
    measure: Duration,
    results: &mut Results,
) -> io::Result<()> {
    println!("CPU against rows in the table, closed loop with {MANY} connections: rows");
    stack.fill(users)?;
    let identities = authority.identities(MANY, users)?;
    let mut bench = Bench { stack, identities: &identities, results };
    for round in 0..rounds {
        for name in turns(&PAIR, round) {
            let cell = Cell {
                what: "rows",
                name,
                parameter: users,
                connections: MANY,
                hear: false,
                run: closed(measure),
            };
            let sample = bench.measure(&cell)?;
            bench.results.table_size.entry((name, users)).or_default().push(sample);
        }
    }
    Ok(())
}

/// Everybody connects, sends one PATCH and stays.
fn memory(stack: &Stack, authority: &Authority, scale: &Scale, results: &mut Results) -> io::Result<()> {
    let Some(&most) = scale.open_connections.iter().max() else { return Ok(()) };
    println!("Memory: open connections, server and nginx in MB");
    stack.fill(most)?;
    let identities = authority.identities(most, most)?;
    for &connections in [0].iter().chain(scale.open_connections) {
        for name in WHOLE {
            let system = stack.system(name)?;
            let _load = Load::connect(system, &identities[..connections])?;
            let (server, nginx) = system.memory()?;
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
