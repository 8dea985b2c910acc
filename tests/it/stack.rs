//! A stack of its own for each test, and the tools that drive it. The cluster and the certificates of most are those
//! of the first stack of a run, which has no other job.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, SystemTime};

use crate::program::children;
pub use crate::program::{PATIENCE, Running, expect, is_root, needs, needs_root, text, wait_until};

// Other tests take this file by its path too, and would look for these beside it.
#[path = "stack/answer.rs"]
mod answer;
#[path = "stack/builder.rs"]
mod builder;
#[path = "stack/ear.rs"]
mod ear;
#[path = "stack/pairs.rs"]
mod pairs;

pub use answer::Answer;
pub use builder::Builder;
use builder::origin;
pub use ear::Ear;
pub use pairs::Pair;

pub struct Stack {
    pub state: PathBuf,
    pub certs: PathBuf,
    pub https_port: u16,
    pub listen: String,
    pub board_listen: String,
    pub broadcast_port: u16,
    pub database: String,
    has_its_own_cluster: bool,
    settings: Vec<(String, String)>,
    /// The network namespace that everything runs in.
    namespace: Option<String>,
    /// A server without nginx is a child of the test.
    server: Option<Child>,
}

impl Stack {
    /// Runs one of the project's scripts with this stack's settings.
    pub fn script(&self, path: &str) -> Output {
        self.tool(path).output().unwrap()
    }

    /// One of the project's scripts.
    pub fn tool(&self, path: &str) -> Command {
        self.command(Path::new(env!("CARGO_MANIFEST_DIR")).join(path))
    }

    /// One of our programs.
    pub fn program(&self, name: &str) -> Command {
        self.command(binaries().join(name))
    }

    /// Any program, with this stack's settings and not those of the test run. None may hang.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut words: Vec<PathBuf> = match &self.namespace {
            Some(name) => ["ip", "netns", "exec", name].iter().map(PathBuf::from).collect(),
            None => Vec::new(),
        };
        // In the foreground it passes a signal on once; otherwise a second one goes to its whole group.
        words.extend(["timeout", "--foreground", "60"].map(PathBuf::from));
        words.push(program.as_ref().to_owned());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        self.settle(&mut command);
        command
    }

    fn settle(&self, command: &mut Command) {
        for (variable, _) in std::env::vars_os() {
            let name = variable.to_string_lossy();
            if name.starts_with("ROLLCALL_") || name.starts_with("PG") || name == "DATABASE_URL" {
                command.env_remove(&variable);
            }
        }
        // An ordinary user's PATH may lack the folder of nginx, pgbouncer and ip (Debian).
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin";
        command
            .env("PATH", path)
            // As stack/env says it in a clone.
            .env("ROLLCALL_JUST", "1")
            .env("ROLLCALL_STATE", &self.state)
            .env("ROLLCALL_CERTS", &self.certs)
            .env("ROLLCALL_BIN", binaries())
            .env("ROLLCALL_RELOAD", concat!(env!("CARGO_MANIFEST_DIR"), "/stack/reload"))
            .env("ROLLCALL_HTTPS_PORT", self.https_port.to_string())
            .env("ROLLCALL_LISTEN", &self.listen)
            .env("ROLLCALL_BROADCAST", format!("127.255.255.255:{}", self.broadcast_port))
            // Only the tests of presence need one.
            .env("ROLLCALL_CANARY", "")
            // Only the tests of the board need it.
            .env("ROLLCALL_BOARD", "off")
            .env("ROLLCALL_BOARD_LISTEN", &self.board_listen)
            .envs(self.settings.iter().cloned())
            .stdin(Stdio::null());
    }

    /// Where the socket and the data of PostgreSQL are.
    pub fn cluster(&self) -> PathBuf {
        if self.has_its_own_cluster { self.state.join("postgres") } else { origin().cluster() }
    }

    /// The processes of PostgreSQL that answer this role.
    pub fn backends(&self, role: &str) -> Vec<u32> {
        let postmaster = fs::read_to_string(self.cluster().join("data/postmaster.pid")).unwrap();
        let title = format!("postgres: {role} {} ", self.database);
        children(postmaster.lines().next().unwrap().parse().unwrap(), &title)
    }

    /// Ends the server's connections to the database.
    pub fn end_sessions(&self) {
        let backends = self.backends("rollcall_server");
        // One may end by itself meanwhile, and another begin.
        for backend in &backends {
            let _ = Command::new("kill").arg(backend.to_string()).output();
        }
        wait_until("they are gone", || {
            !self.backends("rollcall_server").iter().any(|backend| backends.contains(backend))
        });
    }

    pub fn database_url(&self) -> String {
        format!("postgres://rollcall@localhost/{}?host={}", self.database, self.cluster().display())
    }

    /// As the server connects.
    pub fn server_database_url(&self) -> String {
        self.database_url().replace("rollcall@", "rollcall_server@")
    }

    /// A program that talks to the stack's database: `rollcall-admin user …`.
    pub fn admin(&self, arguments: &[&str]) -> Output {
        self.administer(arguments).output().unwrap()
    }

    pub fn administer(&self, arguments: &[&str]) -> Command {
        let mut command = self.program("rollcall-admin");
        command.env("DATABASE_URL", self.database_url()).args(arguments);
        command
    }

    /// The answer to one SQL statement, columns separated by `|`.
    #[track_caller]
    pub fn sql(&self, statement: &str) -> String {
        self.sql_as("rollcall", &self.database, statement)
    }

    #[track_caller]
    pub fn sql_as(&self, role: &str, database: &str, statement: &str) -> String {
        let output = self.psql_as(role, database).args(["-c", statement]).output().unwrap();
        assert!(output.status.success(), "{statement}: {}", text(&output));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    pub fn psql(&self) -> Command {
        self.psql_as("rollcall", &self.database)
    }

    pub fn psql_as(&self, role: &str, database: &str) -> Command {
        let mut command = self.command("psql");
        command
            .args(["-qXAt", "-v", "ON_ERROR_STOP=1", "-U", role, "-d", database, "-h"])
            .arg(self.cluster());
        command
    }

    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.https_port)
    }

    /// The client with this certificate.
    pub fn client(&self, pair: &Pair) -> Command {
        let mut command = self.program("rollcall-client");
        command.arg("--cert").arg(&pair.cert).arg("--key").arg(&pair.key);
        command.arg("--ca").arg(self.certs.join("ca.crt"));
        command
    }

    /// A client that goes on.
    pub fn beating(&self, pair: &Pair, every: &str) -> Running {
        let mut command = self.client(pair);
        command.args(["--every", every]);
        Running::start(self, command)
    }

    /// Requests with this certificate, one after the other until it is dropped.
    pub fn crowding(&self, pair: &Pair) -> Running {
        let mut command = self.command("curl");
        command.arg("--cert").arg(&pair.cert).arg("--key").arg(&pair.key);
        command.arg("--cacert").arg(self.certs.join("ca.crt"));
        command.args(["-sS", "-o", "/dev/null", &format!("{}/none?[1-10000000]", self.url())]);
        Running::start(self, command)
    }

    /// Bytes over TLS, on a connection that stays open.
    #[track_caller]
    pub fn over_tls(&self, pair: Option<&Pair>, options: &[&str], bytes: &[u8]) -> Running {
        let mut command = self.command("openssl");
        command.args(["s_client", "-connect", &format!("localhost:{}", self.https_port)]).args(options);
        if let Some(pair) = pair {
            command.arg("-cert").arg(&pair.cert).arg("-key").arg(&pair.key);
        }
        let mut running = Running::start(self, command.stdin(Stdio::piped()));
        running.child.stdin.as_mut().unwrap().write_all(bytes).unwrap();
        running
    }

    /// Keeps somebody's row locked until it is dropped.
    pub fn lock_row(&self, email: &str) -> Running {
        let mut lock = Running::start(self, self.psql().stdin(Stdio::piped()));
        let statement = format!("begin; select 'locked' from users where email = '{email}' for update;\n");
        lock.child.stdin.as_mut().unwrap().write_all(statement.as_bytes()).unwrap();
        wait_until("the row is locked", || lock.out().contains("locked"));
        lock
    }

    pub fn credential(&self) -> String {
        fs::read_to_string(self.state.join("proxy-credential")).unwrap().trim().to_owned()
    }

    pub fn log(&self, name: &str) -> String {
        fs::read_to_string(self.state.join(name)).unwrap_or_default()
    }

    pub fn pid(&self, file: &str) -> u32 {
        let text = fs::read_to_string(self.state.join(file)).unwrap();
        text.lines().next().unwrap().trim().parse().unwrap()
    }

    /// The rows of everybody, by email.
    pub fn rows(&self) -> BTreeMap<String, String> {
        let rows = self.sql("select email, last_seen_ns, host(ip), port from users");
        rows.lines()
            .map(|row| row.split_once('|').unwrap())
            .map(|(email, row)| (email.into(), row.into()))
            .collect()
    }

    /// The row as the datagram would say it.
    pub fn row(&self, email: &str) -> String {
        self.sql(&format!("select last_seen_ns, host(ip), port from users where email = '{email}'"))
    }
}

/// The folder for the files of a test.
impl AsRef<Path> for Stack {
    fn as_ref(&self) -> &Path {
        &self.state
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
        let down = self.script("stack/down");
        if std::thread::panicking() {
            for log in [
                "server/log",
                "board/log",
                "signer.log",
                "nginx/error.log",
                "nginx/access.log",
                "postgres/log",
            ] {
                eprintln!("--- the end of {log}\n{}", end_of(&self.log(log)));
            }
        } else {
            assert!(down.status.success(), "stack/down: {}", text(&down));
        }
        let _ = fs::remove_dir_all(&self.state);
    }
}

/// Its last lines, short enough to read beside those of other tests.
fn end_of(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    let last = &lines[lines.len().saturating_sub(10)..];
    last.iter().map(|line| line.chars().take(240).chain(['\n']).collect::<String>()).collect()
}

/// A time in seconds from now, as `certs/ca` reads it.
pub fn date(seconds: i64) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(now.strict_add_signed(seconds));
    humantime::format_rfc3339_seconds(at).to_string().replace(['-', ':', 'T'], "")
}

/// ROLLCALL_BIN: those that were built already.
pub fn binaries() -> &'static Path {
    static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| match std::env::var_os("ROLLCALL_BIN") {
        Some(folder) => fs::canonicalize(folder).unwrap(),
        None => Path::new(env!("CARGO_BIN_EXE_rollcall-server")).parent().unwrap().to_owned(),
    });
    &FOLDER
}

/// A port that nobody holds, for TCP and for UDP, below those that the kernel hands out itself. No
/// two calls of this process get the same, and other processes start elsewhere.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 10_000 + ((std::process::id() as u16).wrapping_mul(251).wrapping_add(step)) % 20_000;
        let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            return port;
        }
    }
}
