//! The faults of a stack on one machine: kill -9 of its parts, a full disk.

use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::program::{children, has_ended, signal, wait_until};
use crate::scene::Scene;
use crate::stack::expect;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Server,
    Nginx,
    Postgres,
}

impl Part {
    pub const ALL: [Part; 3] = [Part::Server, Part::Nginx, Part::Postgres];

    /// The first process and its children.
    pub fn processes(self, scene: &Scene) -> Vec<u32> {
        let (file, title) = match self {
            Part::Server => ("server/pid", "rollcall-server"),
            Part::Nginx => ("nginx/nginx.pid", "nginx"),
            Part::Postgres => ("postgres/data/postmaster.pid", "postgres"),
        };
        let first = scene.stack.pid(file);
        [vec![first], children(first, title)].concat()
    }
}

/// `just up` is the remedy, as the operations' page says.
fn mend(scene: &Scene) {
    expect(&mut scene.stack.tool("stack/up"), 0, "nginx        ready");
}

/// kill -9 of all of these at once, and a second later `just up`.
pub fn kill(scene: &Scene, parts: &[Part]) {
    let processes = parts.iter().flat_map(|part| part.processes(scene)).collect::<Vec<_>>();
    let numbers = processes.iter().map(u32::to_string);
    // One may have ended by itself meanwhile, with its parent.
    let _ = scene.stack.command("kill").args(["-s", "KILL"]).args(numbers).output();
    thread::sleep(Duration::from_secs(1));
    wait_until("they have ended", || processes.iter().all(|pid| has_ended(*pid)));
    // PostgreSQL takes one that waits to be reaped for one that runs.
    let is_there = |pid: &u32| Path::new(&format!("/proc/{pid}")).exists();
    wait_until("they are reaped", || !processes.iter().any(is_there));
    mend(scene);
}

/// Lets the server stand still, as a machine that is suspended.
pub fn freeze(scene: &Scene, time: Duration) {
    let processes = Part::Server.processes(scene);
    signal("STOP", &processes);
    thread::sleep(time);
    signal("CONT", &processes);
}

/// Until PostgreSQL has ended, whose write-ahead log cannot grow; then there is room again.
pub fn fill_the_disk(scene: &Scene) {
    let disk = scene.disk.as_ref().expect("a scene with a small disk");
    disk.fill(0);
    // More than the segments that it has in store.
    let grow =
        "select pg_logical_emit_message(false, 'test', repeat('x', 1000000)) from generate_series(1, 999)";
    let _ = scene.stack.psql().args(["-c", grow]).output();
    wait_until("PostgreSQL has ended", || !scene.stack.state.join("postgres/data/postmaster.pid").exists());
    disk.clear();
    mend(scene);
}
