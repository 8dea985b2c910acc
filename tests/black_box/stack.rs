//! A stack of its own for each test, and the tools that drive it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rollcall::cli::now_ns;
use rollcall::lan::sockets;
use rollcall::protocol;
use rollcall::protocol::status::Status;

/// Longest wait for anything that should happen; reached only when a test fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Stack {
    pub state: PathBuf,
    pub certs: PathBuf,
    pub https_port: u16,
    pub listen: String,
    pub broadcast_port: u16,
    settings: Vec<(String, String)>,
    /// The network namespace that everything runs in.
    namespace: Option<String>,
}

/// What `stack/up` is told, before it runs.
pub struct Builder(Stack);

impl Builder {
    pub fn new() -> Self {
        let state =
            std::env::temp_dir().join(format!("rollcall-test-{}-{}", std::process::id(), free_port()));
        fs::create_dir(&state).unwrap();
        // PostgreSQL and the server run as other users when the tests run as root.
        Command::new("chmod").arg("755").arg(&state).status().unwrap();
        Self(Stack {
            certs: state.join("certs"),
            https_port: free_port(),
            listen: format!("127.0.0.1:{}", free_port()),
            broadcast_port: free_port(),
            settings: Vec::new(),
            namespace: None,
            state,
        })
    }

    pub fn state(&self) -> &Path {
        &self.0.state
    }

    pub fn broadcast_port(&self) -> u16 {
        self.0.broadcast_port
    }

    pub fn set(mut self, variable: &str, value: impl Into<String>) -> Self {
        let value = value.into();
        if variable == "ROLLCALL_LISTEN" {
            self.0.listen.clone_from(&value);
        }
        self.0.settings.push((variable.to_owned(), value));
        self
    }

    pub fn in_namespace(mut self, name: &str) -> Self {
        self.0.namespace = Some(name.to_owned());
        self
    }

    /// A stack whose folder and ports are chosen and of which nothing runs yet.
    pub fn stopped(self) -> Stack {
        self.0
    }

    #[track_caller]
    pub fn up(self) -> Stack {
        let stack = self.0;
        let output = stack.script("stack/up");
        assert!(output.status.success(), "stack/up: {}", text(&output));
        stack
    }
}

impl Stack {
    #[track_caller]
    pub fn up() -> Self {
        Builder::new().up()
    }

    /// Runs one of the project's scripts with this stack's settings.
    pub fn script(&self, path: &str) -> Output {
        self.command(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).output().unwrap()
    }

    pub fn script_with(&self, path: &str, arguments: &[&str]) -> Output {
        self.command(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).args(arguments).output().unwrap()
    }

    /// One of our programs.
    pub fn program(&self, name: &str) -> Command {
        self.command(binaries().join(name))
    }

    /// Any program, with this stack's settings and not those of whoever runs the tests. None may hang.
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
        for (variable, _) in std::env::vars_os() {
            let name = variable.to_string_lossy();
            if name.starts_with("ROLLCALL_") || name.starts_with("PG") || name == "DATABASE_URL" {
                command.env_remove(&variable);
            }
        }
        command
            .env("ROLLCALL_STATE", &self.state)
            .env("ROLLCALL_CERTS", &self.certs)
            .env("ROLLCALL_BIN", binaries())
            .env("ROLLCALL_HTTPS_PORT", self.https_port.to_string())
            .env("ROLLCALL_LISTEN", &self.listen)
            .env("ROLLCALL_BROADCAST", format!("127.255.255.255:{}", self.broadcast_port))
            .envs(self.settings.iter().cloned())
            .stdin(Stdio::null());
        command
    }

    pub fn database_url(&self) -> String {
        format!("postgres://rollcall@localhost/rollcall?host={}/postgres", self.state.display())
    }

    /// As the server connects.
    pub fn server_database_url(&self) -> String {
        self.database_url().replace("rollcall@", "rollcall_server@")
    }

    /// A program that talks to the stack's database: `rollcall-admin user …`.
    pub fn admin(&self, arguments: &[&str]) -> Output {
        let mut command = self.program("rollcall-admin");
        command.env("DATABASE_URL", self.database_url()).args(arguments).output().unwrap()
    }

    /// What one SQL statement answers, columns separated by `|`.
    #[track_caller]
    pub fn sql(&self, statement: &str) -> String {
        let output = self.psql().args(["-c", statement]).output().unwrap();
        assert!(output.status.success(), "{statement}: {}", text(&output));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    pub fn psql(&self) -> Command {
        let mut command = self.command("psql");
        command.args(["-qXAt", "-v", "ON_ERROR_STOP=1", "-U", "rollcall", "-d", "rollcall", "-h"]);
        command.arg(self.state.join("postgres"));
        command
    }

    /// Makes a client certificate with this CN; `dates` may hold NOT_BEFORE and NOT_AFTER.
    #[track_caller]
    pub fn certificate(&self, cn: &str, dates: &[(&str, &str)]) -> Pair {
        let name = format!("made-{}", free_port());
        let mut command = self.command(Path::new(env!("CARGO_MANIFEST_DIR")).join("certs/ca"));
        let output = command.args(["client", cn, &name]).envs(dates.iter().copied()).output().unwrap();
        assert!(output.status.success(), "certs/ca: {}", text(&output));
        self.pair(&name)
    }

    /// A certificate with any subject that openssl(1) can express, signed by the CA in `folder`.
    #[track_caller]
    pub fn certificate_of(&self, folder: &Path, subject: &str) -> Pair {
        let name = format!("made-{}", free_port());
        let script = r#"
            openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$2.key" -subj "$3" -utf8 |
            openssl x509 -req -CA "$1/ca.crt" -CAkey "$1/ca.key" -days 1 -out "$2.crt""#;
        let output = self
            .command("sh")
            .args(["-ec", script, "sh"])
            .args([folder, &self.certs.join(&name)])
            .arg(subject)
            .output()
            .unwrap();
        assert!(output.status.success(), "openssl: {}", text(&output));
        self.pair(&name)
    }

    pub fn pair(&self, name: &str) -> Pair {
        Pair { cert: self.certs.join(format!("{name}.crt")), key: self.certs.join(format!("{name}.key")) }
    }

    /// Enrols the email and makes a certificate for it.
    #[track_caller]
    pub fn member(&self, email: &str) -> Pair {
        let output = self.admin(&["user", "add", email]);
        assert!(output.status.success(), "{}", text(&output));
        self.certificate(email, &[])
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

    /// What nginx answers to curl: the status and the body.
    #[track_caller]
    pub fn curl(&self, pair: Option<&Pair>, arguments: &[&str]) -> Answer {
        let mut command = self.command("curl");
        if let Some(pair) = pair {
            command.arg("--cert").arg(&pair.cert).arg("--key").arg(&pair.key);
        }
        let path =
            if arguments.last().is_some_and(|last| last.starts_with('/')) { "" } else { "/api/client" };
        let (options, last) = match arguments.split_last() {
            Some((last, options)) if path.is_empty() => (options, *last),
            _ => (arguments, path),
        };
        let url = format!("{}{last}", self.url());
        command
            .args(["-sS", "--max-time", "30", "-i", "-X", "PATCH", "--cacert"])
            .arg(self.certs.join("ca.crt"));
        let output = command.args(options).arg(url).output().unwrap();
        assert!(output.status.success(), "curl {arguments:?}: {}", text(&output));
        Answer::parse(&String::from_utf8_lossy(&output.stdout))
    }

    /// Bytes straight to the server's own port, and everything that it answers until it closes.
    #[track_caller]
    pub fn to_server(&self, request: &[u8]) -> String {
        let mut stream = std::net::TcpStream::connect(&self.listen).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // It may answer and close before all was written: the answer is what counts.
        let _ = stream.write_all(request);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
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

    /// Hears this stack's datagrams from now on.
    pub fn ear(&self) -> Ear {
        let socket = sockets::receiver((Ipv4Addr::UNSPECIFIED, self.broadcast_port).into()).unwrap();
        let opened_ns = now_ns();
        Ear { socket, opened_ns, heard: Mutex::default() }
    }

    /// The row as the datagram would say it.
    pub fn row(&self, email: &str) -> String {
        self.sql(&format!("select last_seen_ns, host(ip), port from users where email = '{email}'"))
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        let down = self.script("stack/down");
        if std::thread::panicking() {
            for log in ["server/log", "nginx/error.log", "nginx/access.log", "postgres/log"] {
                eprintln!("--- {log}\n{}", self.log(log));
            }
        } else {
            assert!(down.status.success(), "stack/down: {}", text(&down));
        }
        let _ = fs::remove_dir_all(&self.state);
    }
}

pub struct Pair {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// One answer over HTTP.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    #[track_caller]
    pub fn parse(text: &str) -> Self {
        let text = text.strip_prefix("HTTP/1.1 100 Continue\r\n\r\n").unwrap_or(text);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("not an answer: {text:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head: head.to_owned(), body: body.to_owned() }
    }

    /// The `detail` of a problem body, which must be one that a program can read.
    #[track_caller]
    pub fn detail(&self) -> String {
        assert!(
            self.head.contains("Content-Type: application/problem+json")
                || self.head.contains("content-type: application/problem+json"),
            "{self:?}"
        );
        let problem: serde_json::Value = serde_json::from_str(&self.body).unwrap();
        assert_eq!(problem["status"], self.status, "{self:?}");
        problem["detail"].as_str().unwrap().to_owned()
    }
}

/// A socket on the broadcast port.
pub struct Ear {
    socket: UdpSocket,
    opened_ns: u64,
    /// The newest is said again and again (docs/wire.md): byte for byte the same.
    heard: Mutex<BTreeSet<Vec<u8>>>,
}

impl Ear {
    /// The next status that is new.
    #[track_caller]
    pub fn hear(&self) -> Status {
        self.hear_within(PATIENCE).expect("nothing was announced")
    }

    #[track_caller]
    pub fn hear_within(&self, patience: Duration) -> Option<Status> {
        let mut buffer = [0; 2048];
        let end = Instant::now() + patience;
        while Instant::now() < end {
            // The socket's own timeout is shorter and only ends one turn of this loop.
            if let Ok(len) = self.socket.recv(&mut buffer) {
                let (status, trailer) = protocol::decode(&buffer[..len]).unwrap();
                assert!(trailer.starts_with(b"RC\x02"), "{trailer:?}");
                let is_new = self.heard.lock().unwrap().insert(buffer[..len].to_vec());
                if is_new && status.last_seen_ns >= self.opened_ns {
                    return Some(status);
                }
            }
        }
        None
    }

    /// Nothing new comes for long enough to be sure that nothing will.
    #[track_caller]
    pub fn hears_nothing(&self) {
        assert_eq!(self.hear_within(Duration::from_millis(500)), None);
    }
}

/// A program that runs while the test goes on; killed, at the latest, when it is dropped.
pub struct Running {
    pub child: Child,
    pub stdout: PathBuf,
    pub stderr: PathBuf,
}

impl Running {
    #[track_caller]
    pub fn start(stack: &Stack, mut command: impl std::borrow::BorrowMut<Command>) -> Self {
        let command = command.borrow_mut();
        let name = free_port();
        let stdout = stack.state.join(format!("{name}.out"));
        let stderr = stack.state.join(format!("{name}.err"));
        command.stdout(File::create(&stdout).unwrap()).stderr(File::create(&stderr).unwrap());
        Self { child: command.spawn().unwrap(), stdout, stderr }
    }

    pub fn out(&self) -> String {
        fs::read_to_string(&self.stdout).unwrap()
    }

    pub fn err(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap()
    }

    pub fn signal(&self, name: &str) {
        // The signal goes to timeout(1), which passes it on to the program that it runs.
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// The exit code, once it has ended by itself.
    #[track_caller]
    pub fn exit(&mut self) -> i32 {
        wait_until("the program ends", || self.child.try_wait().unwrap().is_some());
        self.child.wait().unwrap().code().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.signal("TERM");
            let _ = self.child.wait();
        }
    }
}

#[track_caller]
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "waited {PATIENCE:?} in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Everything that a program said.
pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[track_caller]
pub fn expect(command: &mut Command, exit: i32, said: &str) {
    let output = command.output().unwrap();
    let text = text(&output);
    assert_eq!(output.status.code(), Some(exit), "{text}");
    assert!(text.contains(said), "{text:?} does not contain {said:?}");
}

/// `None` where a program is not installed; then it says that the test was skipped, and which one.
pub fn needs(program: &str) -> Option<()> {
    let found =
        Command::new("sh").args(["-c", "PATH=$PATH:/usr/sbin; command -v \"$0\"", program]).output().unwrap();
    if found.status.success() {
        return Some(());
    }
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let _ =
        writeln!(std::io::stderr(), "SKIPPED {test}: {program} is missing; stack/setup --tests installs it");
    None
}

pub fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

pub fn binaries() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_rollcall-server")).parent().unwrap()
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
