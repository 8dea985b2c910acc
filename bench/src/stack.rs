//! The running stack, as `bench/run` laid it out: who listens where, which processes belong to whom,
//! and what those processes have spent.
//!
//! `$STATE/bench/` holds a folder for each system with the files `port`, which speaks TLS, and, where there is one,
//! `nginx.pid` and `pid` (the server). Of several servers that are one system each has a line.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;
use std::thread;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

pub struct System {
    pub name: String,
    /// Connections take turns on them.
    pub addresses: Vec<SocketAddr>,
    pub nginx: Vec<u32>,
    pub server: Vec<u32>,
}

impl System {
    /// After the last one the server closes.
    pub fn request(&self, is_last: bool) -> &'static [u8] {
        match (self.name.as_str(), is_last) {
            ("discosrv", _) => ANNOUNCEMENT,
            (_, false) => HEARTBEAT,
            (_, true) => LAST_HEARTBEAT,
        }
    }

    /// Proportional set size of server and nginx.
    pub fn memory(&self) -> io::Result<(u64, u64)> {
        let of = |pids: &[u32]| pids.iter().copied().map(memory_bytes).sum::<io::Result<u64>>();
        Ok((of(&self.server)?, of(&self.nginx)?))
    }
}

const HEARTBEAT: &[u8] = b"PATCH /api/client HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n";
const LAST_HEARTBEAT: &[u8] =
    b"PATCH /api/client HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
/// discosrv's own request. It keeps no loopback address.
const ANNOUNCEMENT: &[u8] = b"POST /v2/ HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
    Content-Length: 42\r\n\r\n{\"addresses\":[\"tcp://198.51.100.7:22000\"]}";

pub struct Stack {
    pub certs: PathBuf,
    pub broadcast_port: u16,
    systems: Vec<System>,
    cluster: PathBuf,
    postmaster: u32,
}

impl Stack {
    pub fn read(state: &Path) -> io::Result<Self> {
        let mut systems = Vec::new();
        for entry in fs::read_dir(state.join("bench"))? {
            let folder = entry?.path();
            if !folder.is_dir() {
                continue;
            }
            let process = |name: &str| {
                let file = folder.join(name);
                if file.exists() { lines(&file) } else { Ok(Vec::new()) }
            };
            let port = |port| SocketAddr::from(([127, 0, 0, 1], port));
            systems.push(System {
                name: folder.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                addresses: lines(&folder.join("port"))?.into_iter().map(port).collect(),
                nginx: process("nginx.pid")?,
                server: process("pid")?,
            });
        }
        let cluster = state.join("postgres");
        Ok(Self {
            certs: state.join("certs"),
            broadcast_port: first_line(&state.join("bench/broadcast-port"))?,
            systems,
            postmaster: first_line(&cluster.join("data/postmaster.pid"))?,
            cluster,
        })
    }

    pub fn system(&self, name: &str) -> io::Result<&System> {
        self.systems.iter().find(|system| system.name == name).ok_or_else(|| {
            let names: Vec<_> = self.systems.iter().map(|system| system.name.as_str()).collect();
            io::Error::other(format!("there is no system {name}; there are {}", names.join(", ")))
        })
    }

    pub fn has(&self, name: &str) -> bool {
        self.systems.iter().any(|system| system.name == name)
    }

    /// Runs SQL and returns its unaligned output.
    pub fn sql(&self, statement: &str) -> io::Result<String> {
        self.sql_as("rollcall", statement)
    }

    fn sql_as(&self, role: &str, statement: &str) -> io::Result<String> {
        let output = Command::new("psql")
            .args(["-qXAt", "-v", "ON_ERROR_STOP=1", "-U", role, "-d", "rollcall", "-h"])
            .arg(&self.cluster)
            .args(["-c", statement])
            .output()?;
        if !output.status.success() {
            return Err(io::Error::other(format!(
                "psql: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            )));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    pub fn users(&self) -> io::Result<usize> {
        // Whatever else is enrolled, such as stack/up's own user, is not ours.
        let count = self.sql("select count(*) from users where email like 'device-%@bench.example'")?;
        count.parse().map_err(io::Error::other)
    }

    /// Makes the table hold exactly so many of our people, none seen yet, and leaves it as autovacuum would.
    pub fn fill(&self, users: usize) -> io::Result<()> {
        self.sql("truncate users cascade")?;
        self.sql(&format!(
            "insert into users (email) select 'device-' || lpad(n::text, 7, '0') || '@bench.example'
               from generate_series(0, {users} - 1) n"
        ))?;
        self.settle()
    }

    /// Nobody was seen yet, and no dead rows or dirty pages are left from whoever was measured before.
    pub fn reset(&self) -> io::Result<()> {
        self.sql(
            "update users set last_seen_ns = null, ip = null, port = null where last_seen_ns is not null",
        )?;
        self.settle()
    }

    fn settle(&self) -> io::Result<()> {
        self.sql("vacuum (analyze)")?;
        self.sql_as("postgres", "checkpoint").map(|_| ())
    }

    /// Statements a second of PostgreSQL's own load generator: the update of a heartbeat as one statement and one commit,
    /// by so many clients, with nothing in front of it.
    pub fn pgbench(&self, users: usize, clients: usize, measure: Duration) -> io::Result<f64> {
        let script = std::env::temp_dir().join(format!("rollcall-bench-{}.sql", std::process::id()));
        // Random rows of the whole table.
        let sql = format!(
            "\\set n random(0, {users} - 1)\n\
             update users set last_seen_ns = greatest(last_seen_ns, (extract(epoch from clock_timestamp()) * 1e9)::bigint), \
             ip = '127.0.0.1'::inet, port = 40000 \
             where email = 'device-' || lpad(:n::text, 7, '0') || '@bench.example' and disabled_at is null \
             returning last_seen_ns;\n"
        );
        fs::write(&script, sql)?;
        let output = Command::new("pgbench")
            .args(["-n", "-M", "prepared", "-U", "rollcall", "-h"])
            .arg(&self.cluster)
            .args(["-c", &clients.to_string(), "-j", "1", "-T", &measure.as_secs().max(1).to_string(), "-f"])
            .arg(&script)
            .arg("rollcall")
            .output();
        fs::remove_file(&script)?;
        let output = output?;
        let text = String::from_utf8_lossy(&output.stdout);
        let tps = text.lines().find_map(|line| line.strip_prefix("tps = "));
        let tps = tps.and_then(|rest| rest.split(' ').next()?.parse().ok());
        tps.ok_or_else(|| io::Error::other(format!("pgbench: {}", String::from_utf8_lossy(&output.stderr))))
    }

    /// What the processes on this system's path have spent so far. psql, which asks for the position of the WAL, is
    /// not between `start` and `stop`.
    pub fn start(&self, system: &System) -> io::Result<Costs> {
        let wal_bytes = self.wal_bytes()?;
        Ok(Costs { wal_bytes, ..self.spent(system)? })
    }

    /// What they have spent since.
    pub fn stop(&self, system: &System, start: &Costs) -> io::Result<Costs> {
        let spent = self.spent(system)?;
        Ok(Costs { wal_bytes: self.wal_bytes()?, ..spent }.since(start))
    }

    fn spent(&self, system: &System) -> io::Result<Costs> {
        let processes = Processes::read()?;
        let clock = clock_gettime(ClockId::Monotonic);
        let of = |pids: &[u32]| pids.iter().map(|pid| processes.cpu_seconds(*pid)).sum();
        Ok(Costs {
            server: of(&system.server),
            nginx: of(&system.nginx),
            postgres: of(&[self.postmaster]),
            generator: of(&[std::process::id()]),
            machine: busy_seconds()?,
            seconds: clock.tv_sec as f64 + clock.tv_nsec as f64 / 1e9,
            wal_bytes: 0.0,
        })
    }

    fn wal_bytes(&self) -> io::Result<f64> {
        self.sql("select pg_current_wal_insert_lsn() - '0/0'")?.parse().map_err(io::Error::other)
    }
}

pub struct Costs {
    /// On the clock.
    pub seconds: f64,
    pub server: f64,
    pub nginx: f64,
    pub postgres: f64,
    pub generator: f64,
    /// CPU-seconds of everything on this machine, ours or not.
    pub machine: f64,
    pub wal_bytes: f64,
}

impl Costs {
    fn since(&self, before: &Costs) -> Costs {
        Costs {
            seconds: self.seconds - before.seconds,
            server: self.server - before.server,
            nginx: self.nginx - before.nginx,
            postgres: self.postgres - before.postgres,
            generator: self.generator - before.generator,
            machine: self.machine - before.machine,
            wal_bytes: self.wal_bytes - before.wal_bytes,
        }
    }

    /// Spent by processes that have nothing to do with the measurement. The kernel's own work outside any process is in it
    /// too.
    fn foreign(&self) -> f64 {
        (self.machine - self.server - self.nginx - self.postgres - self.generator).max(0.0)
    }

    /// The share of the machine that went there.
    pub fn noise(&self) -> f64 {
        let cores = thread::available_parallelism().map_or(1, usize::from) as f64;
        self.foreign() / (self.seconds * cores)
    }
}

impl fmt::Display for Costs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "CPU server {:.2} nginx {:.2} postgres {:.2} generator {:.2} others {:.2} s, WAL {:.1} MB",
            self.server,
            self.nginx,
            self.postgres,
            self.generator,
            self.foreign(),
            self.wal_bytes / 1e6
        )
    }
}

/// One look at /proc.
struct Processes {
    children: HashMap<u32, Vec<u32>>,
    ticks: HashMap<u32, u64>,
}

impl Processes {
    fn read() -> io::Result<Self> {
        let (mut children, mut ticks) = (HashMap::<u32, Vec<u32>>::new(), HashMap::new());
        for entry in fs::read_dir("/proc")? {
            let Ok(pid) = entry?.file_name().to_string_lossy().parse::<u32>() else { continue };
            // It may have ended meanwhile; then its time is with its parent.
            let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
            // The name, field 2, may hold anything; the fields count from after its last parenthesis.
            let Some((_, fields)) = stat.rsplit_once(") ") else { continue };
            let fields: Vec<&str> = fields.split(' ').collect();
            let number =
                |field: usize| fields.get(field - 3).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
            children.entry(number(4) as u32).or_default().push(pid);
            // utime, stime, and those of children that have ended (proc(5)).
            ticks.insert(pid, number(14) + number(15) + number(16) + number(17));
        }
        Ok(Self { children, ticks })
    }

    /// Of a process and all that descend from it.
    fn cpu_seconds(&self, pid: u32) -> f64 {
        let own = self.ticks.get(&pid).copied().unwrap_or(0) as f64
            / rustix::param::clock_ticks_per_second() as f64;
        own + self.children.get(&pid).into_iter().flatten().map(|child| self.cpu_seconds(*child)).sum::<f64>()
    }
}

/// Proportional set size of a process and all that descend from it: shared pages are divided among
/// those who share them, so that the sum is what the machine is short of.
fn memory_bytes(pid: u32) -> io::Result<u64> {
    let processes = Processes::read()?;
    let mut pids = vec![pid];
    let mut total = 0;
    while let Some(pid) = pids.pop() {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap_or_default();
        total += pss.trim().trim_end_matches(" kB").trim().parse::<u64>().map_err(io::Error::other)? * 1024;
        pids.extend(processes.children.get(&pid).into_iter().flatten());
    }
    Ok(total)
}

fn busy_seconds() -> io::Result<f64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let fields: Vec<f64> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .filter_map(|text| text.parse().ok())
        .collect();
    // user, nice, system, idle, iowait, irq, softirq, steal (proc(5)): all but the two that wait.
    let busy: f64 =
        fields.iter().take(8).enumerate().filter(|(n, _)| !matches!(n, 3 | 4)).map(|(_, ticks)| ticks).sum();
    Ok(busy / rustix::param::clock_ticks_per_second() as f64)
}

fn first_line<T: FromStr>(file: &Path) -> io::Result<T> {
    let text =
        fs::read_to_string(file).map_err(|error| io::Error::other(format!("{}: {error}", file.display())))?;
    let line = text.lines().next().unwrap_or_default().trim();
    line.parse().map_err(|_| io::Error::other(format!("{} holds {line:?}", file.display())))
}

fn lines<T: FromStr>(file: &Path) -> io::Result<Vec<T>> {
    let text = fs::read_to_string(file)?;
    let parse = |line: &str| {
        line.trim().parse().map_err(|_| io::Error::other(format!("{} holds {line:?}", file.display())))
    };
    text.lines().map(parse).collect()
}
