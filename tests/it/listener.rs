//! The listener: its output, the datagrams that it survives, its end.

use crate::program::hurry;
use crate::stack::{Builder, Running, Stack, expect, wait_until};
use rollcall::protocol;
use rollcall::protocol::status::{Email, Status};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::process::{Command, Stdio};

pub fn datagram() -> Vec<u8> {
    datagram_at(1_795_456_442_123_456_789)
}

fn datagram_at(last_seen_ns: u64) -> Vec<u8> {
    let status = Status {
        email: Email::new("a@example.com").unwrap(),
        last_seen_ns,
        ip: "2001:db8::1".parse().unwrap(),
        port: 62453,
    };
    let mut bytes = Vec::new();
    protocol::encode(&status, &mut bytes);
    bytes
}

/// Sends to everybody who listens on this host and stack.
pub struct Voice {
    socket: UdpSocket,
    to: SocketAddr,
}

impl Voice {
    pub fn of(stack: &Stack) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_broadcast(true).unwrap();
        Self { socket, to: format!("127.255.255.255:{}", stack.broadcast_port).parse().unwrap() }
    }

    pub fn say(&self, bytes: &[u8]) {
        self.socket.send_to(bytes, self.to).unwrap();
    }
}

/// A listener that has bound its port.
pub fn listening(stack: &Stack, arguments: &[&str]) -> Running {
    let mut command = stack.program("rollcall-listen");
    command.args(arguments);
    bound(stack, command)
}

/// The same, of a command that ends in becoming one.
pub fn bound(stack: &Stack, mut command: Command) -> Running {
    command.args(["--port", &stack.broadcast_port.to_string()]);
    Running::bound(stack, command, stack.broadcast_port, || fs::read_to_string("/proc/net/udp").unwrap())
}

#[test]
fn survives_everything_and_counts_it() {
    let stack = Builder::new().stopped();
    let mut block = listening(&stack, &[]);
    let mut json = listening(&stack, &["--json", "--count", "2"]);
    let voice = Voice::of(&stack);
    let good = datagram();
    voice.say(&good);
    voice.say(b"");
    voice.say(&[0, 0, 0x55, 0xaa, 0, 0, 0, 0]);
    voice.say(&vec![0xff; 65_000]);
    for len in 1..good.len() {
        voice.say(&good[..len]);
    }
    voice.say(b"\x09\x1b[2J@x.yz\0\0\0\0\0\0\0\0\x02::\0\0");
    voice.say(&[good.as_slice(), b"more"].concat());
    // The same bytes are the same announcement, as a host on two networks hears it.
    voice.say(&good);
    voice.say(&datagram_at(1_795_456_442_123_456_790));

    assert_eq!(json.exit(), 0, "two came, and that was the count");
    let line = concat!(
        r#""last_seen":"2026-11-23T17:54:02.123456789Z","last_seen_ns":"1795456442123456789","port":62453,"#,
        r#""source":"127.0.0.1:"#
    );
    assert_eq!((json.out().matches(line).count(), json.out().lines().count()), (1, 2), "{}", json.out());

    wait_until("both were printed", || block.out().matches("User Email   : a@example.com").count() == 2);
    block.signal("INT");
    assert_eq!(block.exit(), 0);
    let foreign = 3 + (good.len() - 1) + 1 + 1;
    let received = foreign + 3;
    let totals = format!(
        "rollcall-listen: received {received}, new 0, duplicate 0, replayed 0, too old 0, ahead 0, other kind 0, unverified 3 \
         (unsigned 3, unchecked 0, unknown key 0, forged 0), foreign {foreign}, missing 0, printed 2, "
    );
    assert!(block.err().contains(&totals), "{} {totals}", block.err());
    assert_eq!(block.err().matches("said at most once a minute").count(), 1, "{}", block.err());
    assert!(!block.out().contains('\u{1b}') && !block.err().contains('\u{1b}'));
}

#[test]
fn a_closed_pipe_is_a_quiet_end() {
    let stack = Builder::new().stopped();
    let mut command = stack.program("rollcall-listen");
    command.args(["--port", &stack.broadcast_port.to_string()]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let port = format!(":{:04X} ", stack.broadcast_port);
    wait_until("the listener has bound", || fs::read_to_string("/proc/net/udp").unwrap().contains(&port));
    let voice = Voice::of(&stack);
    voice.say(&datagram());
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert_eq!(first, format!("{}\n", "-".repeat(40)));
    let mut last_seen_ns = 0;
    wait_until("it notices that nobody reads", || {
        last_seen_ns += 1;
        voice.say(&datagram_at(last_seen_ns));
        child.try_wait().unwrap().is_some()
    });
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    let [begin, end] = said.lines().collect::<Vec<_>>()[..] else { panic!("{said}") };
    let place = format!("listening on 0.0.0.0:{}", stack.broadcast_port);
    let expected =
        format!("rollcall-listen: {place}, believes everybody: there is no --key; receive buffer ");
    assert!(begin.starts_with(&expected), "{begin}");
    assert!(end.starts_with("rollcall-listen: received "), "{said}");
}

/// The diagnostics may go to a full disk, or to a reader who is gone.
#[test]
fn nobody_has_to_read_the_diagnostics() {
    let stack = Builder::new().stopped();
    let mut command = stack.program("rollcall-listen");
    command.args(["--port", &stack.broadcast_port.to_string(), "--timeout", "300ms"]);
    let full = File::options().write(true).open("/dev/full").unwrap();
    assert_eq!(command.stderr(full).status().unwrap().code(), Some(0));
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(command.stderr(writer).status().unwrap().code(), Some(0));
    let missing = File::options().write(true).open("/dev/full").unwrap();
    assert_eq!(command.args(["--key", "no/such.pub"]).stderr(missing).status().unwrap().code(), Some(78));
    for asked in ["--help", "--version"] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let exit = stack.program("rollcall-listen").arg(asked).stdout(full).status().unwrap();
        assert_eq!(exit.code(), Some(1));
    }
}

#[test]
fn the_counts_are_told_every_minute() {
    let stack = Builder::new().stopped();
    let mut command = Command::new(env!("CARGO_BIN_EXE_rollcall-listen"));
    let Some(()) = hurry(&mut command, 30) else { return };
    command.args(["--port", &stack.broadcast_port.to_string(), "--stats", "--timeout", "90s"]);
    let output = command.output().unwrap();
    assert!(output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.matches("rollcall-listen: received 0, new 0, duplicate 0, ").count(), 2, "{said}");
}

#[test]
fn time_and_count_end_it() {
    let stack = Builder::new().stopped();
    let port = stack.broadcast_port.to_string();
    let listen = |arguments: &[&str], exit, said| {
        let mut command = stack.program("rollcall-listen");
        expect(command.args(["--port", &port]).args(arguments), exit, said);
    };
    listen(
        &["--timeout", "300ms"],
        0,
        "foreign 0, missing 0, printed 0, dropped by the kernel 0 (receive buffer ",
    );
    listen(&["--timeout", "300ms", "--count", "2"], 1, "the time is over and 0 of 2 statuses came");
    listen(&["--count", "0"], 0, "printed 0");
    listen(&["--count", "0", "--timeout", "500000000000years"], 0, "printed 0");
    listen(&["--count", "many"], 2, "many");
    listen(
        &["--state", "state"],
        2,
        "--state remembers verified announcements, and without a --key there are none",
    );
    listen(&["--port", "66667"], 2, "66667");
    listen(&["--bind", "192.0.2.1"], 1, "cannot bind 192.0.2.1:");
}

#[test]
fn the_holder_of_an_unshared_port_is_named() {
    let stack = Builder::new().stopped();
    let _holder = UdpSocket::bind(("0.0.0.0", stack.broadcast_port)).unwrap();
    let mut command = stack.program("rollcall-listen");
    let me = format!("(pid {}) holds the port without sharing it", std::process::id());
    expect(command.args(["--port", &stack.broadcast_port.to_string()]), 1, &me);
}

#[test]
fn a_terminal_that_closes_ends_it_as_a_signal_does() {
    let stack = Builder::new().stopped();
    let mut listener = listening(&stack, &[]);
    Voice::of(&stack).say(&datagram());
    wait_until("it has heard", || listener.out().contains("a@example.com"));
    listener.signal("HUP");
    assert_eq!(listener.exit(), 0);
    assert!(listener.err().contains("rollcall-listen: received 1, "), "{}", listener.err());

    let mut command = stack.command("sh");
    command
        .args(["-c", "trap '' HUP; exec \"$@\"", "sh"])
        .arg(crate::stack::binaries().join("rollcall-listen"));
    let mut kept = bound(&stack, command);
    kept.signal("HUP");
    Voice::of(&stack).say(&datagram());
    wait_until("it goes on", || kept.out().contains("a@example.com"));
    kept.signal("TERM");
    assert_eq!(kept.exit(), 0);
}

#[test]
fn a_listener_that_hears_nothing_says_once_that_it_waits() {
    let stack = Builder::new().stopped();
    let said = "rollcall-listen: heard nothing within 5s, waits ";
    let again = "; a server that announced anything since its start says the newest again every 30s";
    let listening = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rollcall-listen"));
        hurry(&mut command, 5)?;
        command.args(arguments);
        Some(bound(&stack, command))
    };
    let Some(mut short) = listening(&["--timeout", "8s"]) else { return };
    let long = listening(&[]).unwrap();
    wait_until("it says so", || long.err().contains(&format!("{said}until it is interrupted{again}")));
    assert_eq!(short.exit(), 0);
    let left = short.err().split_once(said).unwrap().1.split_once(again).unwrap().0.to_owned();
    assert!(left.starts_with("for ") && left.ends_with("s more"), "{left}");
    assert_eq!(short.err().matches(said).count(), 1);
    // One that hears something is not told.
    let heard = listening(&["--count", "2"]).unwrap();
    Voice::of(&stack).say(&datagram());
    std::thread::sleep(std::time::Duration::from_millis(1300));
    assert!(!heard.err().contains(said), "{}", heard.err());
}

#[test]
fn a_time_that_cannot_be_is_refused_with_its_distance() {
    let stack = Builder::new().stopped();
    let listener = listening(&stack, &["--max-age", "5s"]);
    let now = rollcall::cli::now_ns();
    Voice::of(&stack).say(&datagram_at(now + 100 * 24 * 60 * 60 * 1_000_000_000));
    wait_until("it says so", || listener.err().contains("of this clock; one of the two is wrong"));
    assert!(listener.err().contains("its time is 3months "), "{}", listener.err());
    Voice::of(&stack).say(&datagram_at(rollcall::cli::now_ns()));
    wait_until("it hears what is of now", || listener.out().contains("a@example.com"));
    assert_eq!(listener.out().matches("a@example.com").count(), 1);
}
