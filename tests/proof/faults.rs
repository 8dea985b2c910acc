//! The faults of a stack on one machine: kill -9 of its parts, a full disk.

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use crate::program::{children, signal, wait_until};
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
    let processes: Vec<String> =
        parts.iter().flat_map(|part| part.processes(scene)).map(|pid| pid.to_string()).collect();
    // One may have ended by itself meanwhile, with its parent.
    let _ = scene.stack.command("kill").args(["-s", "KILL"]).args(&processes).output();
    let is_there = |pid: &String| PathBuf::from(format!("/proc/{pid}/exe")).read_link().is_ok();
    thread::sleep(Duration::from_secs(1));
    assert!(!processes.iter().any(is_there), "{parts:?}: kill -9 ended them");
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
    let grow =
        "select pg_logical_emit_message(false, 'test', repeat('x', 1000000)) from generate_series(1, 100)";
    let _ = scene.stack.psql().args(["-c", grow]).output();
    wait_until("PostgreSQL has ended", || !scene.stack.state.join("postgres/data/postmaster.pid").exists());
    disk.clear();
    mend(scene);
}
