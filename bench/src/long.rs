//! The rate of 100,000 people with a cadence of 30 s, for minutes; and the cost of a heartbeat in a table of ten million.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use serde_json::{Value, json};

use crate::certificates::Authority;
use crate::load::{Load, Outcome, Pace, Run};
use crate::measure;
use crate::results::{PerHeartbeat, Results, cpu, quantiles};
use crate::section;
use crate::stack::{Stack, System};
use crate::summary::{rounded, write_json};

/// Below target/bench/.
pub const FILE: &str = "long.json";
const HEADING: &str = "## A long run\n";

const PEOPLE: usize = 100_000;
const CADENCE_S: f64 = 30.0;
/// Each has a connection of its own. One of nginx's workers may get nearly all, and has 16,384 places.
const MOST_CONNECTIONS: usize = 15_000;
/// Between two looks at the memory.
const MINUTE: Duration = Duration::from_secs(60);
/// Before anything is counted.
const WARM: Duration = Duration::from_secs(10);
/// What counts as flat: of a table the end over the start, of memory the most of the last two thirds over the end of the
/// first.
const FLAT: f64 = 1.1;
const HOT_SHARE: f64 = 0.95;
/// Rows, WAL and index of the largest table.
const MANY_ROWS: usize = 10_000_000;
const MANY_ROWS_BYTES: u64 = 20 << 30;

/// What must not grow, in bytes.
struct Sizes {
    table: u64,
    indexes: u64,
}

impl Sizes {
    fn read(stack: &Stack) -> io::Result<Self> {
        let number = |sql: &str| stack.sql(sql)?.parse::<u64>().map_err(io::Error::other);
        Ok(Self {
            table: number("select pg_table_size('users')")?,
            indexes: number("select pg_indexes_size('users')")?,
        })
    }

    fn json(&self) -> Value {
        json!({ "table": mb(self.table), "indexes": mb(self.indexes) })
    }
}

fn mb(bytes: u64) -> Value {
    rounded(bytes as f64 / 1e6, 10.0)
}

/// The memory of server and nginx in MB, from the start of a run to its end.
#[derive(Default)]
struct Memory {
    server: Vec<Value>,
    nginx: Vec<Value>,
}

impl Memory {
    fn look(&mut self, system: &System) -> io::Result<()> {
        let (server, nginx) = system.memory()?;
        self.server.push(mb(server));
        self.nginx.push(mb(nginx));
        Ok(())
    }

    /// Looks each minute until nobody holds `running`, and then once more.
    fn watch(system: &System, running: &Receiver<()>) -> io::Result<Self> {
        let mut memory = Self::default();
        loop {
            memory.look(system)?;
            if running.recv_timeout(MINUTE) != Err(RecvTimeoutError::Timeout) {
                memory.look(system)?;
                return Ok(memory);
            }
        }
    }
}

/// At the start, at the end of the first third, and the most since then. A program is warm after a third: pools have
/// their places, and the allocator has what the first stalls took.
fn thirds(memory: &[f64]) -> [f64; 3] {
    let after = memory.len().saturating_sub(1).div_ceil(3);
    let most = memory.iter().skip(after).copied().fold(f64::NAN, f64::max);
    [memory.first(), memory.get(after), Some(&most)].map(|mb| mb.copied().unwrap_or(f64::NAN))
}

pub fn all(stack: &Stack, root: &Path, minutes: f64, rows: usize) -> io::Result<()> {
    let target = root.join("target/bench");
    let authority = Authority::read(&stack.certs)?;
    let mut found = endurance(stack, &authority, minutes, rows)?;
    // What comes next takes minutes too.
    write_json(&found, &target.join(FILE))?;
    found["cpu_us_by_rows"] = by_rows(stack, &authority)?;
    write_json(&found, &target.join(FILE))?;
    let document = root.join("docs/benchmarks.md");
    let text = section::replace(&fs::read_to_string(&document)?, HEADING, &section(&found));
    fs::write(&document, text)?;
    println!("wrote a section of {}", document.display());
    match found["refused"].as_u64() {
        Some(0) => Ok(()),
        _ => Err(io::Error::other(format!("refused: {}", found["errors"]))),
    }
}

fn endurance(stack: &Stack, authority: &Authority, minutes: f64, rows: usize) -> io::Result<Value> {
    let files = getrlimit(Resource::Nofile).current.map_or(MOST_CONNECTIONS, |files| files as usize);
    let connections = files.saturating_sub(1000).min(MOST_CONNECTIONS);
    let rate = PEOPLE as f64 / CADENCE_S;
    println!("{connections} connections, {rate:.0} requests a second, {rows} rows, {minutes} minutes");
    stack.fill(rows)?;
    let identities = authority.identities(connections, rows)?;
    let system = stack.system("rollcall")?;
    let mut load = Load::connect(system, &identities)?;
    let run = |measure| Run { pace: Pace::Open(rate), warm: Duration::ZERO, measure, handshake_each: false };
    load.run(run(WARM))?;
    let sizes = Sizes::read(stack)?;
    let updates = updates(stack)?;
    let start = stack.start(system)?;
    let (runs, running) = mpsc::channel();
    let (outcome, memory) = thread::scope(|scope| {
        let watching = scope.spawn(move || Memory::watch(system, &running));
        let outcome = load.run(run(Duration::from_secs_f64(minutes * 60.0)));
        drop::<Sender<()>>(runs);
        (outcome, watching.join())
    });
    let (outcome, memory) = (outcome?, memory.map_err(|_| io::Error::other("the memory was not read"))??);
    let costs = stack.stop(system, &start)?;
    let [all, hot] = self::updates(stack)?;
    let each = PerHeartbeat::new(&costs, outcome.answered_in_all);
    let latency = quantiles(&outcome.latency);
    Ok(json!({
        "minutes": minutes,
        "connections": connections,
        "rows": rows,
        "rate": rounded(outcome.rate(), 1.0),
        "answered": outcome.answered,
        "refused": refused(&outcome),
        "errors": outcome.errors,
        "latency_ms": {
            "p50": rounded(latency.p50, 1000.0),
            "p99": rounded(latency.p99, 1000.0),
            "p999": rounded(latency.p999, 1000.0),
        },
        "hot_share": rounded((hot - updates[1]) / (all - updates[0]), 10_000.0),
        "wal_bytes": rounded(each.wal, 1.0),
        "cpu_us": rounded(each.cpu(), 10.0),
        "cpu_us_of": {
            "server": rounded(each.server, 10.0),
            "nginx": rounded(each.nginx, 10.0),
            "postgres": rounded(each.postgres, 10.0),
            "generator": rounded(each.generator, 10.0),
        },
        "mb_start": sizes.json(),
        "mb_end": Sizes::read(stack)?.json(),
        "mb_each_minute": { "server": memory.server, "nginx": memory.nginx },
        "noise": rounded(costs.noise(), 100.0),
    }))
}

/// Whatever was not answered 204, or not at all.
fn refused(outcome: &Outcome) -> u64 {
    outcome.error_count() + outcome.unfinished
}

/// All updates of rows, and those that touched no index.
fn updates(stack: &Stack) -> io::Result<[f64; 2]> {
    // A connection tells what it did once a second.
    thread::sleep(Duration::from_secs(2));
    let number = |column: &str| -> io::Result<f64> {
        let sql = format!("select {column} from pg_stat_user_tables where relname = 'users'");
        stack.sql(&sql)?.parse().map_err(io::Error::other)
    };
    Ok([number("n_tup_upd")?, number("n_tup_hot_upd")?])
}

/// Microseconds of a heartbeat by rows, if the disk has room for the largest table.
fn by_rows(stack: &Stack, authority: &Authority) -> io::Result<Value> {
    let disk = rustix::fs::statvfs(&stack.certs)?;
    if disk.f_bavail * disk.f_frsize < MANY_ROWS_BYTES {
        println!("{MANY_ROWS} rows are left out: they need {} GB on the disk", MANY_ROWS_BYTES >> 30);
        return Ok(json!({}));
    }
    let mut results = Results::default();
    let sizes = [1_000, MANY_ROWS];
    for rows in sizes {
        measure::table_size(stack, authority, rows, 3, Duration::from_secs(4), &mut results)?;
    }
    if !results.errors.is_empty() {
        return Err(io::Error::other(results.errors.join(", ")));
    }
    let of = |name| {
        sizes.map(|rows| (rows.to_string(), rounded(cpu(&results.table_size, name, rows), 10.0))).into_iter()
    };
    Ok(json!({
        "rollcall": of("rollcall").collect::<serde_json::Map<_, _>>(),
        "axum": of("axum").collect::<serde_json::Map<_, _>>(),
    }))
}

/// Its part of the document.
pub fn section(found: &Value) -> String {
    let number = |pointer: &str| found.pointer(pointer).and_then(Value::as_f64).unwrap_or(f64::NAN);
    let held = |held: bool| if held { "held" } else { "**missed**" };
    let mut text = format!(
        "{HEADING}\n\
         The rate of 100,000 people with a cadence of 30 s, for {minutes} minutes, in the open loop: {connections} people,\n\
         as many as the load generator holds connections, spread evenly over {rows} rows. `just bench --long` measures it.\n\n\
         | | result | aim | |\n|---|---:|---|---|\n",
        minutes = number("/minutes"),
        connections = number("/connections"),
        rows = number("/rows"),
    );
    let mut line = |what: &str, came: String, aim: &str, held: &str| {
        text += &format!("| {what} | {came} | {aim} | {held} |\n");
    };
    line("answered, requests a second", format!("{:.0}", number("/rate")), "", "");
    let refused = number("/refused");
    line("not answered 204", format!("{refused:.0}"), "none", held(refused == 0.0));
    for quantile in ["p50", "p99", "p999"] {
        let name = format!("{}, ms", quantile.replace("p999", "p99.9"));
        line(&name, format!("{:.2}", number(&format!("/latency_ms/{quantile}"))), "", "");
    }
    let hot = number("/hot_share");
    line("updates that touched no index (HOT)", format!("{hot:.4}"), "above 0.95", held(hot > HOT_SHARE));
    line("WAL bytes of a heartbeat", format!("{:.0}", number("/wal_bytes")), "", "");
    let part = |name: &str| number(&format!("/cpu_us_of/{name}"));
    let sum = format!(
        "{:.0} + {:.0} + {:.0} = {:.0}",
        part("server"),
        part("nginx"),
        part("postgres"),
        number("/cpu_us")
    );
    line("CPU µs of a heartbeat: server + nginx + PostgreSQL", sum, "", "");
    for name in ["table", "indexes"] {
        let (start, end) = (number(&format!("/mb_start/{name}")), number(&format!("/mb_end/{name}")));
        let came = format!("{start:.1} → {end:.1}");
        line(&format!("{name}, MB, start → end"), came, "at most a tenth more", held(end <= start * FLAT));
    }
    for name in ["server", "nginx"] {
        let each = found.pointer(&format!("/mb_each_minute/{name}")).and_then(Value::as_array);
        let each: Vec<f64> = each.into_iter().flatten().filter_map(Value::as_f64).collect();
        let [start, third, most] = thirds(&each);
        line(
            &format!("memory of {name}, MB, start → after a third → most since"),
            format!("{start:.1} → {third:.1} → {most:.1}"),
            "since then at most a tenth more",
            held(most <= third * FLAT),
        );
    }
    text += "\nnginx opens a connection to the server for each request that waits, so a stall of the disk takes memory, and malloc keeps\n\
             it: the server's memory is that of the longest stall so far. It is judged on the last two thirds of the run.\n";
    text += &format!("\nOther processes used {:.0} % of the machine.\n", number("/noise") * 100.0);
    let rows = |name: &str, rows: usize| number(&format!("/cpu_us_by_rows/{name}/{rows}"));
    if rows("rollcall", MANY_ROWS).is_finite() {
        text += &format!(
            "\nIn the same run, with 256 connections in the closed loop, a heartbeat took {:.0} µs of CPU in a table of 1,000\n\
             rows and {:.0} µs in one of ten million; axum's {:.0} and {:.0} µs.\n",
            rows("rollcall", 1000),
            rows("rollcall", MANY_ROWS),
            rows("axum", 1000),
            rows("axum", MANY_ROWS),
        );
    }
    text
}

/// The section of the last long run, if there was one.
pub fn last_section(file: &Path) -> io::Result<String> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(section(&serde_json::from_str(&text)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok(format!("{HEADING}\nNot measured yet: `just bench --long` does.\n"))
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_flat_if_it_is_after_a_third() {
        let minutes: Vec<f64> = (0..=10).map(f64::from).collect();
        assert_eq!(thirds(&minutes), [0.0, 4.0, 10.0]);
        assert_eq!(thirds(&[8.0, 40.0, 41.0, 39.0]), [8.0, 40.0, 41.0]);
        assert_eq!(thirds(&[8.0, 9.0]), [8.0, 9.0, 9.0]);
        assert!(thirds(&[]).iter().all(|mb| mb.is_nan()));
        let found = |server: [f64; 4]| {
            section(&json!({ "mb_each_minute": { "server": server, "nginx": [1, 1, 1, 1] } }))
        };
        let line = "| memory of server, MB, start → after a third → most since | 8.0 → 40.0 → ";
        assert!(
            found([8.0, 40.0, 41.0, 39.0])
                .contains(&format!("{line}41.0 | since then at most a tenth more | held |"))
        );
        assert!(
            found([8.0, 40.0, 45.0, 39.0])
                .contains(&format!("{line}45.0 | since then at most a tenth more | **missed** |"))
        );
    }
}
