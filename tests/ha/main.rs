//! A PostgreSQL that fails over under load: real Patroni, etcd, HAProxy and PostgreSQL on hosts that are namespaces
//! (tests/ha/bed, with the files of deploy/ha), real nginx, clients and listeners.
//!
//! The short form runs with all tests. `just ha test --long` runs each fault five times and prints the table of docs/scale.md.

#[allow(unused)]
#[path = "../it/guardian.rs"]
mod guardian;
#[allow(unused)]
#[path = "../it/namespace.rs"]
mod namespace;
#[allow(unused)]
#[path = "../it/program.rs"]
mod program;
#[allow(unused)]
#[path = "../it/stack.rs"]
mod stack;

mod bed;
mod faults;
// tests/proof has them, too.
#[allow(unused)]
mod ledger;
#[allow(unused)]
mod load;
mod scene;
mod table;
mod watch;

use std::time::Duration;

use faults::{FULL, Fault, LONG, SHORT};
use scene::Scene;
use table::Row;

/// One bed for all faults, one after the other: it takes half a minute to come up.
#[test]
fn nothing_acknowledged_is_lost() {
    let Some(()) = program::needs_root("for network namespaces") else { return };
    for package in ["etcd", "haproxy", "patronictl"] {
        let Some(()) = program::needs(package) else { return };
    }
    let long = std::env::var("ROLLCALL_HA_LONG").ok();
    let (on_large, times): (&[Fault], _) = if long.is_some() { (&LONG, times()) } else { (&SHORT, 1) };
    let on_small: &[Fault] = if long.is_some() { &[FULL] } else { &[] };
    let words: Vec<&str> = long.iter().flat_map(|words| words.split('|')).collect();
    let is_wanted = |fault: &&Fault| words.is_empty() || words.iter().any(|word| fault.name.contains(word));
    let mut rows = Vec::new();
    for (faults, disk) in [(on_large, false), (on_small, true)] {
        let faults: Vec<&Fault> = faults.iter().filter(is_wanted).collect();
        if faults.is_empty() {
            continue;
        }
        let mut scene = Scene::up(disk);
        for fault in faults {
            rows.push(Row::of(fault.name, (0..times).map(|_| scene.play(fault)).collect()));
            table::write(&rows);
        }
    }
    assert!(!rows.is_empty(), "no fault has one of these in its name: {words:?}");
    for row in &rows {
        row.assert();
    }
}

/// How often the long form plays each.
fn times() -> usize {
    std::env::var("ROLLCALL_HA_TIMES").map_or(5, |times| times.parse().unwrap())
}

/// Longest wait for the cluster to be whole again.
const PATIENCE: Duration = Duration::from_secs(120);
