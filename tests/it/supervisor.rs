//! The server and the service manager above it, which is a socket of the test (sd_notify(3)).

use std::fs;
use std::io::ErrorKind;
use std::net::TcpStream;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::thread;
use std::time::{Duration, Instant};

use crate::program::{has_ended, signal};
use crate::server::{answer, ask, claims, start};
use crate::stack::{Builder, PATIENCE, Running, Stack, free_port, wait_until};

/// What systemd would hear.
struct Manager(UnixDatagram);

impl Manager {
    /// In the file system, or with an `@` in the abstract namespace.
    fn at(name: &str) -> Self {
        let socket = match name.strip_prefix('@') {
            Some(name) => UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name).unwrap()),
            None => UnixDatagram::bind(name),
        };
        Self(socket.unwrap())
    }

    fn heard_within(&self, patience: Duration) -> Option<String> {
        let mut buffer = [0; 100];
        self.0.set_read_timeout(Some(patience)).unwrap();
        loop {
            return match self.0.recv(&mut buffer) {
                Ok(len) => Some(String::from_utf8(buffer[..len].to_vec()).unwrap()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => None,
                // A child of another test has ended.
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => panic!("{error}"),
            };
        }
    }

    #[track_caller]
    fn hears(&self, state: &str) {
        assert_eq!(self.heard_within(PATIENCE).as_deref(), Some(state));
    }

    /// Forgets what was said until now.
    fn drain(&self) {
        while self.heard_within(Duration::from_millis(1)).is_some() {}
    }
}

/// A second server beside the stack's own, its address, and its manager, which has heard that it is ready.
fn supervised(stack: &Stack, settings: &[(&str, &str)]) -> (Running, String, Manager) {
    let path = stack.state.join(format!("notify-{}", free_port())).display().to_string();
    let manager = Manager::at(&path);
    let listen = format!("127.0.0.1:{}", free_port());
    let own = [("NOTIFY_SOCKET", path.as_str()), ("ROLLCALL_LISTEN", &listen)];
    let server = start(stack, &[&own, settings].concat());
    manager.hears("READY=1");
    TcpStream::connect(&listen).expect("it takes connections");
    (server, listen, manager)
}

#[test]
fn the_committer_feeds_the_watchdog_while_the_database_is_away() {
    let stack = Builder::new().up_with_its_own_cluster();
    let (mut server, listen, manager) = supervised(&stack, &[("WATCHDOG_USEC", "400000")]);
    wait_until("the database is ready", || server.err().contains("the database is ready"));
    for _ in 0..3 {
        manager.hears("WATCHDOG=1");
    }
    let postmaster = fs::read_to_string(stack.cluster().join("data/postmaster.pid")).unwrap();
    let postmaster = postmaster.lines().next().unwrap().parse().unwrap();
    signal("INT", &[postmaster]);
    wait_until("PostgreSQL has ended", || has_ended(postmaster));
    manager.drain();
    // While nobody beats, and while somebody does.
    for _ in 0..3 {
        manager.hears("WATCHDOG=1");
    }
    for port in 1..4 {
        let claims = claims("valid_user@qt-test.com", port, 10) + "Connection: close\r\n";
        let answer = answer(ask(&stack, &listen, &claims));
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        manager.drain();
        manager.hears("WATCHDOG=1");
    }
    manager.drain();
    server.signal("TERM");
    let end = Instant::now() + PATIENCE;
    while manager.heard_within(PATIENCE).as_deref() != Some("STOPPING=1") {
        assert!(Instant::now() < end, "it never said that it stops");
    }
    assert_eq!(server.exit(), 0, "{}", server.err());
}

#[test]
fn a_committer_that_hangs_starves_the_watchdog() {
    let stack = Stack::server();
    let (server, listen, manager) =
        supervised(&stack, &[("WATCHDOG_USEC", "400000"), ("ROLLCALL_DEADLINE", "40s")]);
    wait_until("the database is ready", || server.err().contains("the database is ready"));
    let backends = stack.backends("rollcall");
    assert!(!backends.is_empty());
    signal("STOP", &backends);
    let waiting = ask(&stack, &listen, &(claims("valid_user@qt-test.com", 1, 10) + "Connection: close\r\n"));
    thread::sleep(Duration::from_millis(500));
    manager.drain();
    let said = manager.heard_within(Duration::from_secs(2));
    signal("CONT", &backends);
    assert_eq!(said, None, "nobody but the committer may feed it");
    let answer = answer(waiting);
    assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
    manager.hears("WATCHDOG=1");
}

#[test]
fn a_watchdog_of_another_process_is_left_alone() {
    let stack = Stack::server();
    let (_server, _, manager) = supervised(&stack, &[("WATCHDOG_USEC", "400000"), ("WATCHDOG_PID", "1")]);
    assert_eq!(manager.heard_within(Duration::from_secs(1)), None);
    let (_server, _, manager) = supervised(&stack, &[]);
    assert_eq!(manager.heard_within(Duration::from_secs(1)), None);
}

#[test]
fn a_socket_without_a_file_is_told_and_one_that_nobody_reads_stops_nothing() {
    let stack = Stack::server();
    let name = format!("@rollcall-test-{}", free_port());
    let manager = Manager::at(&name);
    let _server = start(&stack, &[("NOTIFY_SOCKET", &name)]);
    manager.hears("READY=1");
    for (socket, said) in [
        ("/no/such/socket", "cannot tell the service manager READY=1: No such file or directory"),
        ("/\u{1b}".repeat(100).as_str(), "NOTIFY_SOCKET is \"/\\u{1b}/"),
    ] {
        let server = start(&stack, &[("NOTIFY_SOCKET", socket)]);
        wait_until("it goes on", || server.err().contains("the database is ready"));
        assert!(server.err().contains(said), "{}", server.err());
    }
}
