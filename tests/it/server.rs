//! The server as a process: settings, signals, sockets.

use crate::program::{self, is_root};
use crate::stack::{Builder, PATIENCE, Running, Stack, expect, free_port, text, wait_until};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

/// The headers of nginx about a client.
pub fn claims(email: &str, port: usize, serial: usize) -> String {
    format!(
        "X-Subject-CN: {email}\r\nX-Real-IP: 192.0.2.1\r\nX-Real-Port: {port}\r\nX-Client-Serial: 0{serial:X}\r\n\
         X-Client-Fingerprint: 0123456789abcdef0123456789abcdef01234567\r\n\
         X-Client-Not-After: Nov 23 19:50:56 2099 GMT\r\n"
    )
}

/// A heartbeat straight to a server, as nginx forwards it.
pub fn ask(stack: &Stack, listen: &str, claims: &str) -> TcpStream {
    let mut stream = TcpStream::connect(listen).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let credential = stack.credential();
    let request =
        format!("PATCH /api/client HTTP/1.1\r\nHost: x\r\nX-Proxy-Credential: {credential}\r\n{claims}\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

/// Everything until the server closes the connection.
pub fn answer(mut stream: TcpStream) -> String {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// A heartbeat to the stack's own server.
pub fn heartbeat(stack: &Stack, email: &str, port: usize, serial: usize) -> TcpStream {
    ask(stack, &stack.listen, &(claims(email, port, serial) + "Connection: close\r\n"))
}

#[track_caller]
pub fn is_recorded(stack: &Stack) {
    let answer = answer(heartbeat(stack, "valid_user@qt-test.com", 1, 10));
    assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
}

/// A second server beside the stack's own, as a child of the test and on a port of its own.
pub fn start(stack: &Stack, settings: &[(&str, &str)]) -> Running {
    let mut command = stack.program("rollcall-server");
    let port = free_port();
    command.env("ROLLCALL_LISTEN", format!("127.0.0.1:{port}"));
    command.env("ROLLCALL_SOCKET", stack.state.join(format!("clerk/socket-{port}")));
    // Of one name only the newest records.
    command.env("ROLLCALL_NAME", "second");
    command.env("DATABASE_URL", stack.database_url()).envs(settings.iter().copied());
    Running::start(stack, command)
}

#[test]
fn a_signal_lets_the_request_that_is_being_answered_finish() {
    let stack = Stack::server();
    for signal in ["TERM", "INT"] {
        let listen = format!("127.0.0.1:{}", free_port());
        let mut server = start(&stack, &[("ROLLCALL_LISTEN", &listen), ("ROLLCALL_DEADLINE", "20s")]);
        wait_until("it listens", || server.err().contains("the database is ready"));
        // A database that stands still keeps a request waiting for as long as the test likes.
        let backends = [stack.backends("rollcall"), stack.backends("rollcall_server")].concat();
        program::signal("STOP", &backends);
        let waiting = ask(&stack, &listen, &claims("valid_user@qt-test.com", 1, 10));
        let idle = TcpStream::connect(&listen).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(300));

        server.signal(signal);
        wait_until("it stops accepting", || TcpStream::connect(&listen).is_err());
        assert!(server.child.try_wait().unwrap().is_none(), "it did not wait for the request");
        program::signal("CONT", &backends);
        let answer = answer(waiting);
        assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
        assert!(answer.to_lowercase().contains("connection: close"), "{answer}");
        assert_eq!(server.exit(), 0, "{}", server.err());
        drop(idle);
    }
}

/// nginx opens a connection for each request that waits, and keeps hundreds of them.
#[test]
fn a_request_that_waits_takes_little_memory() {
    const COUNT: usize = 400;
    const MOST: usize = 1000;
    let stack = Builder::new().set("ROLLCALL_DEADLINE", "60s").server();
    stack.sql(&format!(
        "insert into users (email) select 'm' || n || '@example.com' from generate_series(0, {MOST}) n"
    ));
    let credential = stack.credential();
    let beat = |stream: &mut UnixStream, person: usize| {
        let claims = claims(&format!("m{person}@example.com"), 1, 10);
        let head = "PATCH /api/client HTTP/1.1\r\nHost: rollcall\r\nContent-Length: 0";
        write!(stream, "{head}\r\nX-Proxy-Credential: {credential}\r\n{claims}\r\n").unwrap();
    };
    let begin = |person: usize| {
        let mut stream = UnixStream::connect(stack.state.join("clerk/socket")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        beat(&mut stream, person);
        stream
    };
    let is_recorded = |stream: &mut UnixStream| {
        let mut answer = [0; 27];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 204 No Content\r\n\r\n");
    };
    let memory_kb = || -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", stack.pid("server/pid"))).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    is_recorded(&mut begin(MOST));
    let before = memory_kb();
    let backends = stack.backends("rollcall_server");
    program::signal("STOP", &backends);
    let mut waiting: Vec<_> = (0..COUNT).map(begin).collect();
    // Some are in the commit that stands still, however many that took; others take their place.
    wait_until("they wait", || {
        let metrics = stack.to_server(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let found = metrics.lines().find_map(|line| line.strip_prefix("rollcall_waiting_requests "));
        let is_enough = found.is_some_and(|found| found.parse::<usize>().unwrap() >= COUNT * 3 / 4);
        if !is_enough && waiting.len() < MOST {
            waiting.push(begin(waiting.len()));
        }
        is_enough
    });
    let each = (memory_kb() - before) * 1024 / waiting.len();
    program::signal("CONT", &backends);
    waiting.iter_mut().for_each(is_recorded);
    // And each can ask again.
    for (person, stream) in waiting.iter_mut().enumerate().step_by(100) {
        beat(stream, person);
        is_recorded(stream);
    }
    assert!(each < 8 * 1024, "{each} bytes for each");
}

/// logrotate(8) sends SIGHUP, and so does a terminal that closes.
#[test]
fn sighup_is_said_and_ends_nothing() {
    let stack = Stack::server();
    program::signal("HUP", &[stack.pid("server/pid")]);
    wait_until("it says so", || stack.log("server/log").contains("SIGHUP: there is nothing to read anew"));
    is_recorded(&stack);
}

/// nginx shows the credential on the socket: nobody else may put one in its place, whether the server runs or not.
#[test]
fn the_socket_of_nginx_is_the_servers_alone() {
    let stack = Stack::up();
    let folder = stack.state.join("clerk");
    let mode = || fs::metadata(&folder).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(), 0o750, "{:o}", mode());
    if is_root() {
        for (user, group) in [("nobody", "nogroup"), ("www-data", "www-data")] {
            let mut stranger = stack.command("setpriv");
            stranger.args(["--reuid", user, "--regid", group, "--clear-groups", "touch"]);
            expect(stranger.arg(folder.join("other")), 1, "Permission denied");
        }
    }
    // Whoever speaks on it without the credential is nobody.
    let mut direct = stack.command("curl");
    direct.args(["-sS", "-X", "PATCH", "-H", "X-Subject-CN: valid_user@qt-test.com", "--unix-socket"]);
    expect(direct.arg(folder.join("socket")).arg("http://localhost/api/client"), 0, "\"status\":401");

    // `just up` mends the folder; a server does not start with one that others may write in.
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o770)).unwrap();
    let mut server = start(&stack, &[]);
    assert_eq!(server.exit(), 78);
    assert!(
        server.err().contains("has mode 0770: others may put a socket of their own there"),
        "{}",
        server.err()
    );
    expect(&mut stack.tool("stack/up"), 0, "");
    assert_eq!(mode(), 0o750, "{:o}", mode());
    // The socket of a server that runs stays its own, and that of one that was killed is taken.
    let socket = folder.join("socket").display().to_string();
    let mut server = start(&stack, &[("ROLLCALL_SOCKET", &socket)]);
    assert_eq!(server.exit(), 1);
    assert!(server.err().contains("ROLLCALL_SOCKET sets another path"), "{}", server.err());
    // One that is stopped is not gone.
    let pid = stack.pid("server/pid");
    program::signal("STOP", &[pid]);
    let mut server = start(&stack, &[("ROLLCALL_SOCKET", &socket)]);
    assert_eq!(server.exit(), 1);
    program::signal("CONT", &[pid]);
    expect(&mut stack.client(&stack.pair("client")), 0, "Success!");
    // Without its socket a server is none, whatever it says on its port.
    fs::remove_file(&socket).unwrap();
    expect(&mut stack.tool("stack/status"), 1, "nginx does not reach it by ");
    expect(&mut stack.tool("stack/up"), 0, "settings changed: restarting");
    expect(&mut stack.tool("stack/status"), 0, "ready");
    let pid = stack.pid("server/pid");
    program::signal("KILL", &[pid]);
    wait_until("it is gone", || program::has_ended(pid));
    expect(&mut stack.client(&stack.pair("client")), 75, "503");
    expect(&mut stack.tool("stack/up"), 0, "");
    expect(&mut stack.client(&stack.pair("client")), 0, "Success!");
}

/// Without deploy/grants.sql, as before somebody has run it.
#[test]
fn a_role_without_rights_is_waited_for() {
    let stack = Stack::server();
    stack.sql("revoke select on _sqlx_migrations from rollcall_server");
    let server = start(&stack, &[("DATABASE_URL", &stack.server_database_url())]);
    wait_until("it says why it waits", || {
        server.err().contains(
            "waiting for the database: nothing can be recorded in the database: the role rollcall_server lacks rights of \
             deploy/grants.sql",
        )
    });
    stack.sql("grant select on _sqlx_migrations to rollcall_server");
    wait_until("it goes on", || server.err().contains("the database is ready"));
}

#[test]
fn settings_that_cannot_work_end_it_at_once() {
    let stack = Stack::server();
    let exposed = stack.state.join("exposed");
    fs::write(&exposed, "x".repeat(64)).unwrap();
    fs::set_permissions(&exposed, fs::Permissions::from_mode(0o644)).unwrap();
    let weak = stack.state.join("weak");
    fs::write(&weak, "secret").unwrap();
    fs::set_permissions(&weak, fs::Permissions::from_mode(0o600)).unwrap();
    let (exposed, weak) = (exposed.display(), weak.display());
    for (settings, arguments, exit, said) in [
        ("ROLLCALL_DEADLINE=soon", "", 78, "the setting ROLLCALL_DEADLINE is \"soon\": "),
        ("ROLLCALL_LISTEN=nowhere", "", 78, "ROLLCALL_LISTEN is \"nowhere\": the form is HOST:PORT"),
        (
            "ROLLCALL_LISTEN=unix:/run/rollcall/socket",
            "",
            78,
            "nginx has a Unix socket already, ROLLCALL_SOCKET",
        ),
        (
            "ROLLCALL_SOCKET=nowhere/socket",
            "--check",
            78,
            "the folder of ROLLCALL_SOCKET, nowhere: No such file",
        ),
        (
            "ROLLCALL_BROADCAST=255.255.255.256",
            "",
            78,
            "BROADCAST: not a broadcast destination: \"255.255.255.256\"",
        ),
        ("ROLLCALL_DEADLINE=0s", "--check", 78, "ROLLCALL_DEADLINE, is 0s: it must be between 500ms and 1m"),
        ("", "--check --deadline 2h", 78, "is 2h: it must be between 500ms and 1m"),
        (
            "ROLLCALL_LOG=warning",
            "--check",
            78,
            "is \"warning\": \"warning\" is no level; error, warn, info, debug, trace and off are",
        ),
        ("ROLLCALL_LOG=debug,sqlx=off", "--check", 0, ""),
        ("ROLLCALL_LOG=sqlx=error", "--check", 78, "it needs a level for everything"),
        ("ROLLCALL_LOG_FORMAT=json", "--check", 0, ""),
        ("ROLLCALL_LOG_FORMAT=JSON", "--check", 78, "_LOG_FORMAT is \"JSON\": it is either text or json"),
        (
            "DATABASE_URL=postgres://rollcall:hunter2@one,two/rollcall",
            "--check",
            78,
            "is malformed: it names several hosts",
        ),
        (
            "DATABASE_URL=postgres://rollcall:hunter2@one/rollcall?target_session_attrs=any",
            "--check",
            78,
            "DATABASE_URL is malformed: target_session_attrs would have no effect; leave it out",
        ),
        (
            "DATABASE_URL=postgres://rollcall:hunter2@one/rollcall?sslmode=require",
            "--check",
            78,
            "DATABASE_URL is malformed: sslmode=require encrypts for anybody who answers; sslmode=verify-full",
        ),
        (
            "DATABASE_URL=postgres://rollcall:hunter2@one/rollcall?sslmode=verify-full&sslrootcert=/nowhere",
            "--check",
            78,
            "DATABASE_URL: sslrootcert, /nowhere: No such file",
        ),
        ("DATABASE_URL=", "", 78, "DATABASE_URL is not set"),
        ("DATABASE_URL=mysql://user:hunter2@host/db", "", 78, "DATABASE_URL is malformed"),
        ("", "--proxy-credential nowhere", 78, "cannot read the proxy credential nowhere: No such file"),
        ("", &format!("--proxy-credential {exposed}"), 78, "mode 0644: others can read it; chmod 0600"),
        ("", &format!("--proxy-credential {weak}"), 78, "the secret has 6 bytes, at least 32 are needed"),
        ("", &format!("--listen {}", stack.listen), 1, "cannot listen on 127.0.0.1:"),
        ("", "--nonsense", 2, "Unrecognized argument: --nonsense"),
        ("", "--help", 0, "ROLLCALL_LISTEN"),
        ("", "--version", 0, concat!("rollcall-server ", env!("CARGO_PKG_VERSION"))),
    ] {
        let mut command = stack.program("rollcall-server");
        command.env("ROLLCALL_LISTEN", format!("127.0.0.1:{}", free_port()));
        command.env("DATABASE_URL", stack.database_url()).envs(settings.split_once('='));
        let output = command.args(arguments.split_whitespace()).output().unwrap();
        let said_all = text(&output);
        assert_eq!(output.status.code(), Some(exit), "{settings} {arguments}: {said_all}");
        assert!(said_all.contains(said), "{settings} {arguments}: {said_all}");
        assert!(!said_all.contains("hunter2"), "{said_all}");
    }
}
