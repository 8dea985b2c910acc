//! The results on the terminal, and as docs/benchmarks.md with its plot.

use std::fmt::Write;
use std::fs;
use std::io;
use std::path::Path;

use crate::aims::{Aim, aims};
use crate::long;
use crate::plot::{self, Line};
use crate::results::{LIMITS, PAIR, Results, Sample, WHOLE, cpu, median, median_of, of, parameters, rate};
use crate::section;

pub mod codec;

pub fn print(results: &Results) {
    println!("\nCPU µs of a heartbeat, medians, by connections:\n{}", cpu_table(results));
    println!("Requests a second, medians, by connections:\n{}", throughput_table(results));
    println!("Latency at {:.0} requests a second, ms:\n{}", results.offered, latency_table(results));
    println!("From PATCH sent to datagram heard, ms:\n{}", heard_table(results));
    for Aim { says, came, held } in aims(results) {
        println!("{} {says}: {came}", if held { "held  " } else { "MISSED" });
    }
    for error in &results.errors {
        println!("ERROR {error}");
    }
}

// --- tables ---------------------------------------------------------------------------------------

fn markdown(head: &[String], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "| {} |", head.join(" | "));
    let _ = writeln!(text, "|---|{}", "---:|".repeat(head.len() - 1));
    for row in rows {
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
    text
}

fn row(first: &str, rest: impl IntoIterator<Item = String>) -> Vec<String> {
    std::iter::once(first.to_owned()).chain(rest).collect()
}

fn cpu_table(results: &Results) -> String {
    let connections = parameters(&results.throughput);
    let mut rows = Vec::new();
    for &name in &results.systems {
        let cell = |n: &usize| {
            let part = |value: fn(&Sample) -> f64| of(&results.throughput, name, *n, value);
            format!(
                "{:.0} + {:.0} + {:.0} = **{:.0}**",
                part(|sample| sample.per_heartbeat.server),
                part(|sample| sample.per_heartbeat.nginx),
                part(|sample| sample.per_heartbeat.postgres),
                cpu(&results.throughput, name, *n)
            )
        };
        rows.push(row(name, connections.iter().map(cell)));
    }
    let generator =
        |n: &usize| of(&results.throughput, "rollcall", *n, |sample| sample.per_heartbeat.generator);
    rows.push(row("load generator", connections.iter().map(|n| format!("{:.0}", generator(n)))));
    markdown(&row("connections", connections.iter().map(usize::to_string)), rows)
}

fn throughput_table(results: &Results) -> String {
    let connections = parameters(&results.throughput);
    let rows = results.systems.iter().map(|&name| {
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
        row(name, cells)
    });
    markdown(&row("connections", connections.iter().map(usize::to_string)), rows)
}

fn latency_table(results: &Results) -> String {
    let cell = |value: f64| format!("{value:.2}");
    let line = |name: &str, samples: &[Sample]| {
        vec![
            name.to_owned(),
            cell(median(samples, |sample| sample.latency.p50)),
            cell(median(samples, |sample| sample.latency.p99)),
            cell(median(samples, |sample| sample.latency.p999)),
            format!("{:.0}", median(samples, |sample| sample.unfinished as f64)),
        ]
    };
    let mut rows = Vec::new();
    for connections in parameters(&results.latency) {
        for &name in &results.systems {
            if let Some(samples) = results.latency.get(&(name, connections)) {
                rows.push(line(&format!("{name}, {connections} connections"), samples));
            }
        }
    }
    if !results.django_at_own_rate.is_empty() {
        let name = format!("django, 256 connections, offered {:.0} a second", results.offered_django);
        rows.push(line(&name, &results.django_at_own_rate));
    }
    markdown(&["system", "p50", "p99", "p99.9", "never answered"].map(str::to_owned), rows)
}

fn heard_table(results: &Results) -> String {
    let rows = parameters(&results.heard).into_iter().flat_map(|rate| {
        results.systems.iter().filter_map(move |name| {
            let samples = results.heard.get(&(*name, rate))?;
            Some(vec![
                format!("{name}, offered {rate} a second"),
                format!("{:.2}", median(samples, |sample| sample.heard.p50)),
                format!("{:.2}", median(samples, |sample| sample.heard.p99)),
                format!("{:.0}", samples.iter().map(|sample| sample.unheard as f64).sum::<f64>()),
            ])
        })
    });
    markdown(&["system", "p50 ms", "p99 ms", "not heard"].map(str::to_owned), rows)
}

/// At half of axum's best rate.
fn cost_table(results: &Results) -> String {
    let connections = parameters(&results.latency).last().copied().unwrap_or_default();
    // Offered so much, Django is overrun.
    let others = results.systems.iter().filter(|name| **name != "django");
    let rows = others.filter_map(|name| {
        let samples = results.latency.get(&(*name, connections))?;
        let part = |value: fn(&Sample) -> f64| format!("{:.0}", median(samples, value));
        Some(vec![
            name.to_string(),
            part(|sample| sample.per_heartbeat.server),
            part(|sample| sample.per_heartbeat.nginx),
            part(|sample| sample.per_heartbeat.postgres),
            part(|sample| sample.per_heartbeat.cpu()),
            part(|sample| sample.per_heartbeat.generator),
            part(|sample| sample.per_heartbeat.wal),
        ])
    });
    let head = ["system", "server", "nginx", "PostgreSQL", "together", "load generator", "WAL bytes"];
    markdown(&head.map(str::to_owned), rows)
}

fn handshake_table(results: &Results) -> String {
    let rows = results.handshakes.iter().map(|((name, _), samples)| {
        vec![
            name.to_string(),
            format!("{:.0}", median(samples, |sample| sample.rate)),
            format!("{:.1}", median(samples, |sample| sample.latency.p50)),
            format!("{:.0}", median(samples, |sample| sample.per_heartbeat.nginx)),
            format!("{:.0}", median(samples, |sample| sample.per_heartbeat.generator)),
        ]
    });
    let head = ["system", "requests/s", "p50 ms", "nginx CPU µs each", "load generator CPU µs each"];
    markdown(&head.map(str::to_owned), rows)
}

fn memory_table(results: &Results) -> String {
    let connections: Vec<usize> =
        results.memory.keys().filter(|(name, _)| *name == "rollcall").map(|(_, n)| *n).collect();
    let rows = WHOLE.iter().map(|&name| {
        let cells = connections.iter().map(|n| {
            let (server, nginx) = results.memory.get(&(name, *n)).copied().unwrap_or_default();
            format!("{:.1} + {:.1}", server as f64 / 1e6, nginx as f64 / 1e6)
        });
        row(name, cells)
    });
    markdown(&row("open connections", connections.iter().map(usize::to_string)), rows)
}

fn table_size_table(results: &Results) -> String {
    let sizes = parameters(&results.table_size);
    let rows = PAIR
        .map(|name| row(name, sizes.iter().map(|n| format!("{:.0}", cpu(&results.table_size, name, *n)))));
    markdown(&row("rows", sizes.iter().map(usize::to_string)), rows)
}

// --- plots ----------------------------------------------------------------------------------------

fn throughput_plot(results: &Results) -> String {
    let connections = parameters(&results.throughput);
    let most = connections.last().copied().unwrap_or_default();
    let lines: Vec<Line> = results
        .systems
        .iter()
        .map(|&name| Line {
            name,
            label: format!("{name}  {:.0}/s", rate(&results.throughput, name, most)),
            is_limit: LIMITS.contains(&name),
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

pub fn write_docs(results: &Results, codecs: &codec::Codecs, long_run: &Path, docs: &Path) -> io::Result<()> {
    let plots = docs.join("bench");
    fs::create_dir_all(&plots)?;
    fs::write(plots.join("throughput.svg"), throughput_plot(results))?;
    let aims: String = aims(results)
        .into_iter()
        .map(|aim| {
            let held = if aim.held { "held" } else { "**missed**" };
            format!("| {} | {} | {held} |\n", aim.says, aim.came)
        })
        .collect();
    let errors = match results.errors.as_slice() {
        [] => "No request of any run was answered with anything but 204.".to_owned(),
        errors => format!("These were not answered 204:\n\n- {}", errors.join("\n- ")),
    };
    let discosrv = if results.systems.contains(&"discosrv") {
        ""
    } else {
        " It was not installed when these tables were measured; `stack/setup --bench` installs it."
    };
    let offered = results.offered;
    let generator = of(&results.throughput, "rollcall", 256, |sample| sample.per_heartbeat.generator);
    let (ours, theirs) = (cpu(&results.throughput, "rollcall", 256), cpu(&results.throughput, "axum", 256));
    let file = docs.join("benchmarks.md");
    // `just prove --long` writes it.
    let before = fs::read_to_string(&file)?;
    let soak = section::read(&before, "## A soak\n").unwrap_or_default();
    let text = format!(
        include_str!("benchmarks.md.in"),
        cores = std::thread::available_parallelism().map_or(0, usize::from),
        noise = results.worst_noise() * 100.0,
        median_noise = median_of(results.samples().map(|sample| sample.noise * 100.0).collect()),
        rounds = results.rounds,
        other_rounds = results.other_rounds,
        latency_rounds = results.latency_rounds,
        discosrv = discosrv,
        ours = ours,
        theirs = theirs,
        alone = rate(&results.throughput, "rollcall", 1) / rate(&results.throughput, "axum", 1),
        together = rate(&results.throughput, "rollcall", 256) / rate(&results.throughput, "axum", 256),
        generator = generator,
        generator_share = generator / (generator + ours) * 100.0,
        aims = aims.trim_end(),
        errors = errors,
        cpu = cpu_table(results).trim_end(),
        throughput = throughput_table(results).trim_end(),
        pgbench = median_of(results.pgbench.clone()),
        offered = offered,
        latency = latency_table(results).trim_end(),
        heard = heard_table(results).trim_end(),
        cost = cost_table(results).trim_end(),
        handshakes = handshake_table(results).trim_end(),
        memory = memory_table(results).trim_end(),
        table_size = table_size_table(results).trim_end(),
        soak = soak.trim_end(),
        long_run = long::last_section(long_run)?.trim_end(),
        codecs = codec::table(codecs).trim_end(),
    );
    fs::write(&file, text)?;
    println!("wrote {} and its plot", file.display());
    Ok(())
}
