//! The results, three times: on the terminal, in target/bench/summary.json, and as docs/benchmarks.md with its plot.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::io;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::measure::{Results, SYSTEMS, Sample, Table, WHOLE, median, median_of};
use crate::plot::{self, Line};

/// The aims: at 64 and at 256 connections, over axum, over Django, and of our server without a database.
const AIMS: [(&str, f64); 3] = [("axum", 3.0), ("django", 20.0), ("server_204", 0.8)];
const AIMED_AT: [usize; 2] = [64, 256];

fn rate(table: &Table, name: &'static str, parameter: usize) -> f64 {
    table.get(&(name, parameter)).map_or(f64::NAN, |samples| median(samples, |sample| sample.rate))
}

fn latency(results: &Results, name: &'static str, of: impl Fn(&Sample) -> f64) -> f64 {
    results.latency.get(&(name, 0)).map_or(f64::NAN, |samples| median(samples, of))
}

fn parameters(table: &Table) -> Vec<usize> {
    let mut all: Vec<usize> = table.keys().map(|(_, parameter)| *parameter).collect();
    all.sort();
    all.dedup();
    all
}

/// Each aim: what it says, what came, and whether that is enough.
fn aims(results: &Results) -> Vec<(String, String, bool)> {
    let mut lines = Vec::new();
    for connections in AIMED_AT {
        for (name, aim) in AIMS {
            let factor = rate(&results.throughput, "rollcall", connections)
                / rate(&results.throughput, name, connections);
            lines.push((
                format!("at least {aim} × {name} at {connections} connections"),
                format!("{factor:.2} ×"),
                factor >= aim,
            ));
        }
    }
    let p99 = |name| latency(results, name, |sample| sample.latency.p99);
    let (ours, theirs) = (p99("rollcall"), p99("axum"));
    lines.push((
        format!("p99 no worse than axum's at {:.0} requests a second", results.offered),
        format!("{ours:.2} ms beside {theirs:.2} ms"),
        ours <= theirs,
    ));
    lines
}

pub fn print(results: &Results) {
    println!("\nMedians, requests a second:\n{}", throughput_table(results));
    println!("Latency at {:.0} requests a second, ms:\n{}", results.offered, latency_table(results));
    for (aim, came, met) in aims(results) {
        println!("{} {aim}: {came}", if met { "met   " } else { "MISSED" });
    }
    for error in &results.errors {
        println!("ERROR {error}");
    }
}

pub fn write_summary(results: &Results, file: &Path) -> io::Result<()> {
    let by_system = |of: &dyn Fn(&'static str) -> Value| -> Value {
        SYSTEMS.iter().map(|name| (name.to_string(), of(name))).collect::<Map<_, _>>().into()
    };
    let throughput = by_system(&|name| {
        let connections = parameters(&results.throughput);
        let rates =
            connections.iter().map(|n| (n.to_string(), json!(rate(&results.throughput, name, *n).round())));
        rates.collect::<Map<_, _>>().into()
    });
    let ms = |value: f64| json!((value * 1000.0).round() / 1000.0);
    let latency_ms = by_system(&|name| {
        json!({
            "p50": ms(latency(results, name, |sample| sample.latency.p50)),
            "p99": ms(latency(results, name, |sample| sample.latency.p99)),
            "p999": ms(latency(results, name, |sample| sample.latency.p999)),
        })
    });
    let unfinished = by_system(&|name| json!(latency(results, name, |sample| sample.unfinished as f64)));
    let aims: Vec<Value> = aims(results)
        .into_iter()
        .map(|(aim, came, met)| json!({ "aim": aim, "came": came, "met": met }))
        .collect();
    let summary = json!({
        "quick": results.quick,
        "throughput": throughput,
        "latency_ms": latency_ms,
        // What every system was offered while its latency was measured, and what it had not answered by the end.
        "latency_offered_rate": results.offered.round(),
        "latency_unfinished": unfinished,
        "pgbench_16_clients": pgbench(results, 1000).round(),
        "aims": aims,
        "noise": (worst_noise(results) * 100.0).round() / 100.0,
        "errors": results.errors,
    });
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(file, serde_json::to_string_pretty(&summary)? + "\n")?;
    println!("wrote {}", file.display());
    Ok(())
}

fn pgbench(results: &Results, users: usize) -> f64 {
    median_of(results.pgbench.get(&users).cloned().unwrap_or_default())
}

fn samples(results: &Results) -> impl Iterator<Item = &Sample> {
    let tables =
        [&results.throughput, &results.latency, &results.heard, &results.handshakes, &results.table_size];
    tables.into_iter().flat_map(|table| table.values().flatten())
}

fn worst_noise(results: &Results) -> f64 {
    samples(results).map(|sample| sample.noise).fold(0.0, f64::max)
}

// --- tables ---------------------------------------------------------------------------------------

fn table(head: &[String], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "| {} |", head.join(" | "));
    let _ = writeln!(text, "|---|{}", "---:|".repeat(head.len() - 1));
    for row in rows {
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
    text
}

fn head(first: &str, rest: impl IntoIterator<Item = String>) -> Vec<String> {
    std::iter::once(first.to_owned()).chain(rest).collect()
}

fn throughput_table(results: &Results) -> String {
    let connections = parameters(&results.throughput);
    let rows = SYSTEMS.iter().map(|&name| {
        let cells = connections.iter().map(|n| {
            let ratio = rate(&results.throughput, "rollcall", *n) / rate(&results.throughput, name, *n);
            let spread = results.throughput.get(&(name, *n)).map_or(0.0, |samples| {
                let rates = samples.iter().map(|sample| sample.rate);
                let (low, high) =
                    rates.fold((f64::MAX, 0.0_f64), |(low, high), rate| (low.min(rate), high.max(rate)));
                (high - low) / 2.0 / median(samples, |sample| sample.rate) * 100.0
            });
            let ratio = if name == "rollcall" { String::new() } else { format!(" (× {ratio:.2})") };
            format!("{:.0} ± {spread:.0} %{ratio}", rate(&results.throughput, name, *n))
        });
        head(name, cells)
    });
    table(&head("connections", connections.iter().map(usize::to_string)), rows)
}

fn latency_table(results: &Results) -> String {
    let cell = |value: f64| format!("{value:.2}");
    let row = |name: &str, samples: &[Sample]| {
        vec![
            name.to_owned(),
            cell(median(samples, |sample| sample.latency.p50)),
            cell(median(samples, |sample| sample.latency.p99)),
            cell(median(samples, |sample| sample.latency.p999)),
            format!("{:.0}", median(samples, |sample| sample.unfinished as f64)),
        ]
    };
    let mut rows: Vec<_> =
        SYSTEMS.iter().filter_map(|&name| Some(row(name, results.latency.get(&(name, 0))?))).collect();
    if !results.django_at_own_rate.is_empty() {
        let name = format!("django, offered {:.0}/s", results.offered_django);
        rows.push(row(&name, &results.django_at_own_rate));
    }
    table(&["system", "p50", "p99", "p99.9", "never answered"].map(str::to_owned), rows)
}

fn heard_table(results: &Results) -> String {
    let rows = results.heard.iter().map(|((name, rate), samples)| {
        vec![
            format!("{name}, offered {rate}/s"),
            format!("{:.2}", median(samples, |sample| sample.heard.p50)),
            format!("{:.2}", median(samples, |sample| sample.heard.p99)),
            format!("{:.0}", samples.iter().map(|sample| sample.unheard as f64).sum::<f64>()),
        ]
    });
    table(&["system", "p50 ms", "p99 ms", "not heard"].map(str::to_owned), rows)
}

fn handshake_table(results: &Results) -> String {
    let rows = results.handshakes.iter().map(|((name, _), samples)| {
        vec![
            name.to_string(),
            format!("{:.0}", median(samples, |sample| sample.rate)),
            format!("{:.1}", median(samples, |sample| sample.latency.p50)),
            format!("{:.0}", median(samples, |sample| sample.per_heartbeat.nginx)),
        ]
    });
    table(&["system", "requests/s", "p50 ms", "nginx CPU µs each"].map(str::to_owned), rows)
}

fn memory_table(results: &Results) -> String {
    let connections: Vec<usize> =
        results.memory.keys().filter(|(name, _)| *name == "rollcall").map(|(_, n)| *n).collect();
    let rows = WHOLE.iter().map(|&name| {
        let cells = connections.iter().map(|n| {
            let (server, nginx) = results.memory.get(&(name, *n)).copied().unwrap_or_default();
            format!("{:.1} + {:.1}", server as f64 / 1e6, nginx as f64 / 1e6)
        });
        head(name, cells)
    });
    table(&head("open connections", connections.iter().map(usize::to_string)), rows)
}

fn table_size_table(results: &Results) -> String {
    let sizes = parameters(&results.table_size);
    let mut rows: Vec<Vec<String>> = WHOLE
        .iter()
        .map(|&name| head(name, sizes.iter().map(|n| format!("{:.0}", rate(&results.table_size, name, *n)))))
        .collect();
    rows.push(head("pgbench, any row", sizes.iter().map(|n| format!("{:.0}", pgbench(results, *n)))));
    table(&head("rows", sizes.iter().map(usize::to_string)), rows)
}

fn cost(samples: &[Sample]) -> [f64; 4] {
    [
        median(samples, |sample| sample.per_heartbeat.server),
        median(samples, |sample| sample.per_heartbeat.nginx),
        median(samples, |sample| sample.per_heartbeat.postgres),
        median(samples, |sample| sample.per_heartbeat.wal),
    ]
}

fn cost_table(results: &Results) -> String {
    let most = parameters(&results.throughput).last().copied().unwrap_or_default();
    let mut rows = Vec::new();
    let mut row = |name: String, samples: &[Sample]| {
        let [server, nginx, postgres, wal] = cost(samples);
        rows.push(vec![
            name,
            format!("{server:.0}"),
            format!("{nginx:.0}"),
            format!("{postgres:.0}"),
            format!("{:.0}", server + nginx + postgres),
            format!("{wal:.0}"),
        ]);
    };
    for name in SYSTEMS {
        if let Some(samples) = results.latency.get(&(name, 0)).filter(|_| name != "django") {
            row(format!("{name}, offered {:.0}/s", results.offered), samples);
        }
    }
    for name in SYSTEMS {
        if let Some(samples) = results.throughput.get(&(name, most)) {
            row(format!("{name}, {most} connections"), samples);
        }
    }
    let head = ["system", "server CPU µs", "nginx CPU µs", "PostgreSQL CPU µs", "together", "WAL bytes"];
    table(&head.map(str::to_owned), rows)
}

/// Median nanoseconds and bytes by (direction, codec), as Criterion left them.
pub type Codecs = BTreeMap<(String, String), (f64, u64)>;

pub fn read_codecs(folder: &Path) -> io::Result<Codecs> {
    let mut codecs = Codecs::new();
    for direction in ["encode", "decode"] {
        for codec in ["rollcall", "postcard", "prost", "rmp-serde"] {
            let json = |file: &str| -> io::Result<Value> {
                let path = folder.join(direction).join(codec).join("new").join(file);
                let text = fs::read_to_string(&path)
                    .map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?;
                Ok(serde_json::from_str(&text)?)
            };
            let ns = json("estimates.json")?["median"]["point_estimate"].as_f64().unwrap_or(f64::NAN);
            let bytes = json("benchmark.json")?["throughput"]["Bytes"].as_u64().unwrap_or_default();
            codecs.insert((direction.to_owned(), codec.to_owned()), (ns, bytes));
        }
    }
    Ok(codecs)
}

fn codec_table(codecs: &Codecs) -> String {
    let rows = ["rollcall", "postcard", "prost", "rmp-serde"].map(|codec| {
        let of = |direction: &str| {
            codecs.get(&(direction.to_owned(), codec.to_owned())).copied().unwrap_or((f64::NAN, 0))
        };
        vec![
            codec.to_owned(),
            format!("{:.0}", of("encode").0),
            format!("{:.0}", of("decode").0),
            of("encode").1.to_string(),
        ]
    });
    table(&["codec", "encode ns", "decode ns", "bytes"].map(str::to_owned), rows)
}

// --- plots ----------------------------------------------------------------------------------------

fn throughput_plot(results: &Results) -> String {
    let connections = parameters(&results.throughput);
    let most = connections.last().copied().unwrap_or_default();
    let lines: Vec<Line> = SYSTEMS
        .iter()
        .map(|&name| Line {
            name,
            label: format!("{name}  {:.0}/s", rate(&results.throughput, name, most)),
            is_limit: !WHOLE.contains(&name),
            points: connections.iter().map(|n| (*n as f64, rate(&results.throughput, name, *n))).collect(),
        })
        .collect();
    let factor = |name| rate(&results.throughput, "rollcall", most) / rate(&results.throughput, name, most);
    plot::lines(
        &format!(
            "With {most} people at once: {:.1} × the heartbeats of axum, {:.0} × those of Django",
            factor("axum"),
            factor("django")
        ),
        "Heartbeats per second over open connections, both logarithmic. Dashed: limits, no database. Only ratios count.",
        &lines,
    )
}

// --- the document ---------------------------------------------------------------------------------

pub fn write_docs(results: &Results, codecs: &Codecs, docs: &Path) -> io::Result<()> {
    let plots = docs.join("bench");
    fs::create_dir_all(&plots)?;
    fs::write(plots.join("throughput.svg"), throughput_plot(results))?;
    let aims: String = aims(results)
        .into_iter()
        .map(|(aim, came, met)| format!("| {aim} | {came} | {} |\n", if met { "met" } else { "**missed**" }))
        .collect();
    let rounds = match results.rounds {
        1 => "one round".to_owned(),
        rounds => format!("{rounds} rounds"),
    };
    let errors = match results.errors.as_slice() {
        [] => "No request of any run was answered with anything but 204.".to_owned(),
        errors => format!("These were not answered 204:\n\n- {}", errors.join("\n- ")),
    };
    let text = format!(
        include_str!("benchmarks.md.in"),
        rounds = rounds,
        cores = std::thread::available_parallelism().map_or(0, usize::from),
        noise = worst_noise(results) * 100.0,
        median_noise = median_of(samples(results).map(|sample| sample.noise * 100.0).collect()),
        aims = aims.trim_end(),
        errors = errors,
        throughput = throughput_table(results).trim_end(),
        pgbench = pgbench(results, 1000),
        offered = results.offered,
        latency = latency_table(results).trim_end(),
        heard = heard_table(results).trim_end(),
        cost = cost_table(results).trim_end(),
        handshakes = handshake_table(results).trim_end(),
        memory = memory_table(results).trim_end(),
        table_size = table_size_table(results).trim_end(),
        codecs = codec_table(codecs).trim_end(),
    );
    let file = docs.join("benchmarks.md");
    fs::write(&file, text)?;
    println!("wrote {} and its plot", file.display());
    Ok(())
}
