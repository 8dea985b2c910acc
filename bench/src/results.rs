//! What was found: a sample of each run, and medians over them.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use crate::load::Outcome;
use crate::stack::Costs;

/// The two whose ratio matters most: they are measured most often.
pub const PAIR: [&str; 2] = ["rollcall", "axum"];
/// The three that do the whole job.
pub const WHOLE: [&str; 3] = ["rollcall", "axum", "django"];
/// With one that people really run, and the two limits of what is possible around ours.
pub const SYSTEMS: [&str; 6] = ["rollcall", "axum", "django", "discosrv", "nginx_204", "server_204"];
pub const LIMITS: [&str; 2] = ["nginx_204", "server_204"];

/// One run of one system.
pub struct Sample {
    pub rate: f64,
    /// Milliseconds from due to answered, and from due to heard.
    pub latency: Quantiles,
    pub heard: Quantiles,
    pub unheard: u64,
    pub unfinished: u64,
    pub per_heartbeat: PerHeartbeat,
    /// The share of the machine that went to processes which are no part of this.
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
    /// The client's half, which is no part of the system.
    pub generator: f64,
    pub wal: f64,
}

impl PerHeartbeat {
    pub fn new(costs: &Costs, heartbeats: u64) -> Self {
        let each = |total: f64| total / heartbeats.max(1) as f64;
        Self {
            server: each(costs.server * 1e6),
            nginx: each(costs.nginx * 1e6),
            postgres: each(costs.postgres * 1e6),
            generator: each(costs.generator * 1e6),
            wal: each(costs.wal_bytes),
        }
    }

    /// CPU of server, nginx and PostgreSQL.
    pub fn cpu(&self) -> f64 {
        self.server + self.nginx + self.postgres
    }
}

/// Samples by system and by what was varied.
pub type Table = BTreeMap<(&'static str, usize), Vec<Sample>>;

#[derive(Default)]
pub struct Results {
    pub quick: bool,
    pub rounds: usize,
    pub other_rounds: usize,
    pub latency_rounds: usize,
    /// Those of `SYSTEMS` that run.
    pub systems: Vec<&'static str>,
    /// By connections, each as fast as its answers come.
    pub throughput: Table,
    /// Half of the axum peer's best rate, which every system is offered; and half of Django's own.
    pub offered: f64,
    pub offered_django: f64,
    /// By connections, at the rate `offered`.
    pub latency: Table,
    pub django_at_own_rate: Vec<Sample>,
    /// By requests offered a second.
    pub heard: Table,
    pub handshakes: Table,
    /// By rows.
    pub table_size: Table,
    /// Statements a second of pgbench, with 16 clients.
    pub pgbench: Vec<f64>,
    /// Proportional set size of server and nginx by open connections; 0 is before the first.
    pub memory: BTreeMap<(&'static str, usize), (u64, u64)>,
    /// What came instead of 204, by run.
    pub errors: Vec<String>,
}

impl Results {
    pub fn samples(&self) -> impl Iterator<Item = &Sample> {
        let tables = [&self.throughput, &self.latency, &self.heard, &self.handshakes, &self.table_size];
        tables.into_iter().flat_map(|table| table.values().flatten())
    }

    pub fn worst_noise(&self) -> f64 {
        self.samples().map(|sample| sample.noise).fold(0.0, f64::max)
    }

    /// The highest of a system's medians, in requests a second.
    pub fn best(&self, name: &str) -> f64 {
        let of_system = self.throughput.iter().filter(|((system, _), _)| *system == name);
        of_system.map(|(_, samples)| median(samples, |sample| sample.rate)).fold(0.0, f64::max)
    }
}

pub fn sample(outcome: &Outcome, costs: &Costs) -> Sample {
    Sample {
        rate: outcome.rate(),
        latency: quantiles(&outcome.latency),
        heard: quantiles(&outcome.heard),
        unheard: outcome.unheard,
        unfinished: outcome.unfinished,
        per_heartbeat: PerHeartbeat::new(costs, outcome.answered_in_all),
        noise: costs.noise(),
    }
}

pub fn quantiles(histogram: &Histogram<u64>) -> Quantiles {
    let ms = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e6;
    Quantiles { p50: ms(0.5), p99: ms(0.99), p999: ms(0.999) }
}

/// The median of a system's samples; NaN where there are none.
pub fn of(table: &Table, name: &'static str, parameter: usize, value: impl Fn(&Sample) -> f64) -> f64 {
    table.get(&(name, parameter)).map_or(f64::NAN, |samples| median(samples, value))
}

pub fn rate(table: &Table, name: &'static str, parameter: usize) -> f64 {
    of(table, name, parameter, |sample| sample.rate)
}

pub fn cpu(table: &Table, name: &'static str, parameter: usize) -> f64 {
    of(table, name, parameter, |sample| sample.per_heartbeat.cpu())
}

/// What was varied, each once.
pub fn parameters(table: &Table) -> Vec<usize> {
    let mut all: Vec<usize> = table.keys().map(|(_, parameter)| *parameter).collect();
    all.sort();
    all.dedup();
    all
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
