//! A stack of its own for each test, and the tools that drive it. The cluster and the certificates of most are those
//! of the first stack of a run, which has no other job.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{LazyLock, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use rollcall::cli::now_ns;
use rollcall::lan::sockets;
use rollcall::protocol;
use rollcall::protocol::status::Status;

use crate::guardian;
pub use crate::program::{PATIENCE, Running, expect, is_root, needs, needs_root, text, wait_until};
use crate::program::{children, has_ended, signal};

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

/// A certificate for clients, as openssl-req(1) reads it.
const CLIENT: &str = "[request]
distinguished_name = empty
prompt = no
[empty]
[client]
basicConstraints = critical, CA:false
keyUsage = critical, digitalSignature
extendedKeyUsage = clientAuth
";

/// The settings of a stack, before anything runs.
pub struct Builder(Stack);

/// The stack whose cluster, as `stack/up` makes it, and certificates the others share. Its own database is their template.
fn origin() -> &'static Stack {
    static ORIGIN: OnceLock<Stack> = OnceLock::new();
    ORIGIN.get_or_init(|| {
        let origin = Builder::new().up_with_its_own_cluster();
        for file in ["keep-logs.pid", "signer.pid", "nginx/nginx.pid", "server/pid"] {
            let pid = origin.pid(file);
            signal("TERM", &[pid]);
            wait_until("it ended", || has_ended(pid));
        }
        // Each has a server with a name of its own.
        origin.sql("delete from servers");
        // The limit is for the server of one stack.
        for role in ["rollcall_server", "rollcall_reader"] {
            origin.sql_as("postgres", "postgres", &format!("alter role {role} connection limit -1"));
        }
        origin
    })
}

impl Builder {
    pub fn new() -> Self {
        let state =
            std::env::temp_dir().join(format!("rollcall-test-{}-{}", std::process::id(), free_port()));
        fs::create_dir(&state).unwrap();
        // PostgreSQL and the server run as other users when the tests run as root.
        Command::new("chmod").arg("755").arg(&state).status().unwrap();
        guardian::watch(&state);
        Self(Stack {
            certs: state.join("certs"),
            https_port: free_port(),
            listen: format!("127.0.0.1:{}", free_port()),
            board_listen: format!("127.0.0.1:{}", free_port()),
            broadcast_port: free_port(),
            database: "rollcall".to_owned(),
            has_its_own_cluster: true,
            settings: Vec::new(),
            namespace: None,
            server: None,
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

    /// The same with certificates.
    pub fn with_certificates(self) -> Self {
        let copied = Command::new("cp").arg("-a").args([&origin().certs, &self.0.certs]).status().unwrap();
        assert!(copied.success());
        self
    }

    /// A database of its own in the shared cluster, in which valid_user@qt-test.com is enrolled.
    fn with_database(mut self) -> Self {
        self.0.database = format!("rollcall_{}", free_port());
        self.0.has_its_own_cluster = false;
        let create = format!("create database {} template rollcall owner rollcall", self.0.database);
        origin().sql_as("postgres", "postgres", &create);
        let (owners, servers) = (self.0.database_url(), self.0.server_database_url());
        let readers = owners.replace("rollcall@", "rollcall_reader@");
        self.set("DATABASE_URL", owners)
            .set("ROLLCALL_SERVER_DATABASE_URL", servers)
            .set("ROLLCALL_BOARD_DATABASE_URL", readers)
    }

    /// Only the server and its database: nothing of nginx and TLS.
    #[track_caller]
    pub fn server(self) -> Stack {
        let mut stack = self.with_certificates().with_database().0;
        let file = |name: &str| stack.state.join(name);
        stack.furnish_a_server();
        let mut command = Command::new(binaries().join("rollcall-server"));
        stack.settle(&mut command);
        // By the folder in its command line, `stack/down` knows it.
        command.arg("--proxy-credential").arg(file("proxy-credential"));
        command.env("ROLLCALL_BROADCAST_KEY", stack.certs.join("broadcast.key"));
        command.env("DATABASE_URL", stack.server_database_url());
        command.stdout(Stdio::null()).stderr(File::create(file("server/log")).unwrap());
        let child = command.spawn().unwrap();
        fs::write(file("server/pid"), child.id().to_string()).unwrap();
        stack.server = Some(child);
        wait_until("the server is ready", || stack.log("server/log").contains("the database is ready"));
        stack
    }

    #[track_caller]
    pub fn up(self) -> Stack {
        self.with_certificates().with_database().up_with_its_own_cluster()
    }

    /// As in a fresh clone of the repository: for a test whose subject is the cluster, or the first start.
    #[track_caller]
    pub fn up_with_its_own_cluster(self) -> Stack {
        expect(&mut self.0.tool("stack/up"), 0, "");
        self.0
    }
}

impl Stack {
    #[track_caller]
    pub fn up() -> Self {
        Builder::new().up()
    }

    /// A stack of which nothing runs but its database.
    #[track_caller]
    pub fn database() -> Self {
        Builder::new().with_database().stopped()
    }

    /// The needs of a server that is started without `stack/up`.
    pub fn furnish_a_server(&self) {
        let credential = self.state.join("proxy-credential");
        fs::write(&credential, "c0ffee00".repeat(8)).unwrap();
        fs::set_permissions(&credential, PermissionsExt::from_mode(0o600)).unwrap();
        for (folder, mode) in [("server", 0o755), ("clerk", 0o750)] {
            fs::create_dir(self.state.join(folder)).unwrap();
            fs::set_permissions(self.state.join(folder), PermissionsExt::from_mode(mode)).unwrap();
        }
    }

    /// A stack of which nothing runs but its server and its database.
    #[track_caller]
    pub fn server() -> Self {
        Builder::new().server()
    }

    #[track_caller]
    pub fn with_its_own_cluster() -> Self {
        Builder::new().up_with_its_own_cluster()
    }

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

    /// A client certificate with this CN that no row knows; `dates` may hold ROLLCALL_SIGN_FROM and ROLLCALL_SIGN_UNTIL.
    #[track_caller]
    pub fn certificate(&self, cn: &str, dates: &[(&str, &str)]) -> Pair {
        let pair = self.pair(&format!("made-{}", free_port()));
        let request = self.request(&pair.key);
        let mut sign = self.tool("certs/ca");
        sign.arg("sign").envs(dates.iter().copied()).env("ROLLCALL_SIGN_CN", cn);
        if cn.contains('@') {
            sign.env("ROLLCALL_SIGN_SAN", format!("email:{cn}"));
        }
        let output = sign.stdin(File::open(request).unwrap()).output().unwrap();
        assert!(output.status.success(), "certs/ca: {}", text(&output));
        fs::write(&pair.cert, output.stdout).unwrap();
        pair
    }

    /// A request (PKCS #10) of a new key that is put into this file, and names nobody.
    #[track_caller]
    pub fn request(&self, key: &Path) -> PathBuf {
        let request = key.with_extension("csr");
        let mut openssl = self.command("openssl");
        openssl.args(["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]);
        openssl.args(["-subj", "/", "-keyout"]).arg(key).arg("-out").arg(&request);
        expect(&mut openssl, 0, "");
        request
    }

    /// A certificate with any subject that openssl(1) can express, signed by the CA in `folder`.
    #[track_caller]
    pub fn certificate_of(&self, folder: &Path, subject: &str) -> Pair {
        let [ca, key] = ["ca.crt", "ca.key"].map(|file| folder.join(file).display().to_string());
        let config = self.state.join("client.cnf");
        fs::write(&config, CLIENT).unwrap();
        let extensions =
            ["-config", config.to_str().unwrap(), "-section", "request", "-extensions", "client"];
        self.self_signed(subject, &[&extensions[..], &["-CA", &ca, "-CAkey", &key]].concat())
    }

    /// A certificate that is its own authority.
    #[track_caller]
    pub fn self_signed(&self, subject: &str, options: &[&str]) -> Pair {
        let pair = self.pair(&format!("made-{}", free_port()));
        let mut command = self.command("openssl");
        command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]);
        command.args(["-days", "1", "-utf8", "-subj", subject, "-keyout"]).arg(&pair.key);
        expect(command.arg("-out").arg(&pair.cert).args(options), 0, "");
        pair
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

    /// A client that goes on.
    pub fn beating(&self, pair: &Pair, every: &str) -> Running {
        let mut command = self.client(pair);
        command.args(["--every", every]);
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

    /// The answer of nginx to curl.
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
        // It may answer and close before all was written: only the answer counts.
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
