//! The aims, and whether a run holds them.

use crate::results::{Results, cpu, of, parameters, rate};

/// Throughput of rollcall over that of another: system, connections, at least.
const FASTER: [(&str, usize, f64); 7] = [
    ("axum", 1, 1.1),
    ("axum", 16, 1.6),
    ("axum", 64, 3.0),
    ("axum", 256, 3.0),
    ("django", 64, 20.0),
    ("django", 256, 20.0),
    ("server_204", 256, 0.75),
];
/// CPU of a heartbeat beside that of another: system, connections, at most.
const CHEAPER: (&str, usize, f64) = ("axum", 256, 0.3);
/// Milliseconds from PATCH sent to datagram heard, idle: p50 and p99 are below.
const HEARD_MS: (f64, f64) = (1.0, 3.0);
/// Requests a second that count as idle: hardly ever are two under way at once.
pub const IDLE: usize = 100;

pub struct Aim {
    pub says: String,
    pub came: String,
    pub held: bool,
}

/// Each aim about what was measured.
pub fn aims(results: &Results) -> Vec<Aim> {
    let mut aims = Vec::new();
    for (name, connections, least) in FASTER {
        let ratio =
            rate(&results.throughput, "rollcall", connections) / rate(&results.throughput, name, connections);
        aims.push(Aim {
            says: format!("throughput at {connections}, over {name}'s: at least {least}"),
            came: format!("{ratio:.2}"),
            held: ratio >= least,
        });
    }
    let (name, connections, most) = CHEAPER;
    let ratio =
        cpu(&results.throughput, "rollcall", connections) / cpu(&results.throughput, name, connections);
    aims.push(Aim {
        says: format!("CPU of a heartbeat at {connections}, beside {name}'s: at most {most}"),
        came: format!("{ratio:.2}"),
        held: ratio <= most,
    });
    for connections in parameters(&results.latency) {
        let p50 = |name| of(&results.latency, name, connections, |sample| sample.latency.p50);
        let p99 = |name| of(&results.latency, name, connections, |sample| sample.latency.p99);
        for (what, ours, theirs) in
            [("p50", p50("rollcall"), p50("axum")), ("p99", p99("rollcall"), p99("axum"))]
        {
            aims.push(Aim {
                says: format!(
                    "{what} at half of axum's best rate, {connections} connections: at most axum's"
                ),
                came: format!("{ours:.2} ms beside {theirs:.2} ms"),
                held: ours <= theirs,
            });
        }
    }
    let heard_p50 = of(&results.heard, "rollcall", IDLE, |sample| sample.heard.p50);
    let heard_p99 = of(&results.heard, "rollcall", IDLE, |sample| sample.heard.p99);
    for (what, came, below) in [("p50", heard_p50, HEARD_MS.0), ("p99", heard_p99, HEARD_MS.1)] {
        aims.push(Aim {
            says: format!("PATCH sent to datagram heard, idle, {what}: below {below} ms"),
            came: format!("{came:.2} ms"),
            held: came < below,
        });
    }
    // What a run did not measure is not in it.
    aims.retain(|aim| !aim.came.contains("NaN"));
    aims
}
