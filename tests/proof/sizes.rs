//! That which must not grow: memory, descriptors, tables, logs.

use std::fs;

use crate::faults::Part;
use crate::scene::Scene;

pub const NAMES: [&str; 9] = [
    "memory of the server, MB",
    "memory of nginx, MB",
    "memory of the listener, MB",
    "descriptors of the server",
    "descriptors of nginx",
    "descriptors of the listener",
    "table of people and its indexes, kB",
    "the other tables, kB",
    "the largest log, MB",
];

/// In the order of the names.
pub type Sizes = [f64; NAMES.len()];

pub fn read(scene: &Scene) -> Sizes {
    let processes =
        [Part::Server.processes(scene), Part::Nginx.processes(scene), vec![scene.listener_process()]];
    let sum = |of: fn(u32) -> f64| processes.each_ref().map(|pids| pids.iter().map(|pid| of(*pid)).sum());
    let [server, nginx, listener]: [f64; 3] = sum(memory);
    let [server_files, nginx_files, listener_files]: [f64; 3] = sum(descriptors);
    let table = |sql: &str| scene.stack.sql(sql).parse::<f64>().unwrap() / 1000.0;
    let others = "select sum(pg_total_relation_size(oid)) from pg_class where relkind = 'r' \
        and relnamespace = 'public'::regnamespace and relname not in ('users', 'history')";
    [
        server / 1e6,
        nginx / 1e6,
        listener / 1e6,
        server_files,
        nginx_files,
        listener_files,
        table("select pg_total_relation_size('users')"),
        table(others),
        largest_log(scene) / 1e6,
    ]
}

/// Bytes of its own and its part of those that it shares. One that has just ended has none.
fn memory(pid: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    kilobytes.unwrap_or(0.0) * 1024.0
}

fn descriptors(pid: u32) -> f64 {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count) as f64
}

fn largest_log(scene: &Scene) -> f64 {
    let logs = ["nginx/access.log", "nginx/error.log", "server/log", "postgres/log", "signer.log"];
    let sizes = logs.map(|log| fs::metadata(scene.stack.state.join(log)).map_or(0, |file| file.len()));
    sizes.into_iter().max().unwrap_or(0) as f64
}
