//! target/bench/summary.json: the numbers of a run for programs.

use std::fs;
use std::io;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::aims::aims;
use crate::results::{Results, Table, cpu, median_of, of, parameters, rate};

pub fn write(results: &Results, file: &Path) -> io::Result<()> {
    let by_system = |table: &Table, value: &dyn Fn(&'static str, usize) -> Value| -> Value {
        let measured = |name: &'static str| -> Value {
            let all = parameters(table).into_iter().filter(|n| table.contains_key(&(name, *n)));
            all.map(|n| (n.to_string(), value(name, n))).collect::<Map<_, _>>().into()
        };
        results.systems.iter().map(|&name| (name.to_string(), measured(name))).collect::<Map<_, _>>().into()
    };
    let (throughput, latency) = (&results.throughput, &results.latency);
    let (tenths, thousandths) = (|value: f64| rounded(value, 10.0), |value: f64| rounded(value, 1000.0));
    let aims: Vec<Value> = aims(results)
        .into_iter()
        .map(|aim| json!({ "aim": aim.says, "came": aim.came, "held": aim.held }))
        .collect();
    let summary = json!({
        "quick": results.quick,
        // Microseconds of server, nginx and PostgreSQL together, and each by itself. The load generator's own is beside them.
        "cpu_us": by_system(throughput, &|name, n| tenths(cpu(throughput, name, n))),
        "cpu_us_of": by_system(throughput, &|name, n| json!({
            "server": tenths(of(throughput, name, n, |sample| sample.per_heartbeat.server)),
            "nginx": tenths(of(throughput, name, n, |sample| sample.per_heartbeat.nginx)),
            "postgres": tenths(of(throughput, name, n, |sample| sample.per_heartbeat.postgres)),
            "generator": tenths(of(throughput, name, n, |sample| sample.per_heartbeat.generator)),
        })),
        "throughput": by_system(throughput, &|name, n| json!(rate(throughput, name, n).round())),
        // At this rate, half of axum's best, through so many connections.
        "latency_offered_rate": results.offered.round(),
        "latency_ms": by_system(latency, &|name, n| json!({
            "p50": thousandths(of(latency, name, n, |sample| sample.latency.p50)),
            "p99": thousandths(of(latency, name, n, |sample| sample.latency.p99)),
            "p999": thousandths(of(latency, name, n, |sample| sample.latency.p999)),
            "unfinished": of(latency, name, n, |sample| sample.unfinished as f64),
        })),
        "heard_ms": by_system(&results.heard, &|name, rate| json!({
            "p50": thousandths(of(&results.heard, name, rate, |sample| sample.heard.p50)),
            "p99": thousandths(of(&results.heard, name, rate, |sample| sample.heard.p99)),
        })),
        "pgbench_16_clients": median_of(results.pgbench.clone()).round(),
        "aims": aims,
        "noise": rounded(results.worst_noise(), 100.0),
        "errors": results.errors,
    });
    write_json(&summary, file)
}

pub fn write_json(value: &Value, file: &Path) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(file, serde_json::to_string_pretty(value)? + "\n")?;
    println!("wrote {}", file.display());
    Ok(())
}

/// Rounded to one part of `parts`.
pub fn rounded(value: f64, parts: f64) -> Value {
    json!((value * parts).round() / parts)
}
