//! The stream of events.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;
use socket2::{Domain, Socket, Type};

use super::{host, json, let_read, person, read, restart_board, token, up};
use crate::program::signal;
use crate::stack::{Builder, PATIENCE, Pair, Running, Stack, expect, text, wait_until};

/// A stream behind nginx.
fn stream(stack: &Stack, pair: &Pair, options: &[&str]) -> Running {
    let mut curl = stack.command("curl");
    curl.args(["-qsSN", "--max-time", "50", "--cacert"]).arg(stack.certs.join("ca.crt"));
    curl.arg("--cert").arg(&pair.cert).arg("--key").arg(&pair.key);
    curl.args(options).arg(format!("{}/api/stream", stack.url()));
    Running::start(stack, curl)
}

/// The events that came, but for those that only show that the stream lives: each with its kind, its position and its data.
fn events(stream: &Running) -> Vec<(String, String, Value)> {
    let out = stream.out().replace("\r\n", "\n");
    let whole = out.rsplit_once("\n\n").map_or("", |(whole, _)| whole);
    let field = |event: &str, name: &str| {
        event
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
            .unwrap_or_default()
            .to_owned()
    };
    let events = whole.split("\n\n").filter(|event| event.contains("event: "));
    let events = events.filter(|event| !event.contains("event: ping"));
    events
        .map(|event| {
            let data = serde_json::from_str(&field(event, "data"))
                .unwrap_or_else(|error| panic!("{error}: {event}"));
            (field(event, "event"), field(event, "id"), data)
        })
        .collect()
}

fn transitions(stream: &Running) -> Vec<String> {
    let states = events(stream).into_iter().filter(|(kind, ..)| kind == "state");
    let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    states.map(|(.., change)| format!("{} {}", word(&change["email"]), word(&change["to"]))).collect()
}

fn reader(stack: &Stack) -> Pair {
    let_read(stack, "valid_user@qt-test.com", "all");
    stack.pair("client")
}

#[test]
fn each_change_comes_once_and_a_reader_comes_back_where_it_was() {
    let stack = up();
    let pair = reader(&stack);
    let first = stream(&stack, &pair, &[]);
    wait_until("it begins with the counts", || events(&first).len() == 1);
    let (kind, begin, counts) = events(&first).remove(0);
    assert_eq!((kind.as_str(), &counts["never"]), ("counts", &1.into()));
    expect(&mut stack.client(&pair), 0, "Success!");
    wait_until("it is online", || transitions(&first) == ["valid_user@qt-test.com online"]);
    wait_until("the counts follow", || events(&first).last().unwrap().2["online"] == 1);
    let (_, id, change) = events(&first).into_iter().find(|(kind, ..)| kind == "state").unwrap();
    assert_eq!(change["position"], id);
    assert_eq!(change["person"], person(&stack, "valid_user@qt-test.com"));

    let again = stream(&stack, &pair, &["-H", &format!("Last-Event-ID: {begin}")]);
    wait_until("it is told again", || transitions(&again) == ["valid_user@qt-test.com online"]);
    let present = stream(&stack, &pair, &["-H", &format!("Last-Event-ID: {id}")]);
    wait_until("it begins with the counts", || events(&present).len() == 1);
    for lost in ["00000000.1", "nonsense", &"9".repeat(300), "\u{1f511}"] {
        let lost = stream(&stack, &pair, &["-H", &format!("Last-Event-ID: {lost}")]);
        wait_until("it is told to read everybody again", || events(&lost).len() == 2);
        assert_eq!((events(&lost)[0].0.as_str(), events(&lost)[1].0.as_str()), ("reset", "counts"));
    }
    assert!(transitions(&present).is_empty());
    // A comment shows that it lives.
    wait_until("it says something", || present.out().matches("\n\n:\n\nevent: ping\ndata: {").count() == 2);
}

/// The server, the database and nginx come and go; the board ends its streams at once.
#[test]
fn over_restarts() {
    let stack = Builder::new().set("ROLLCALL_BOARD", "on").up_with_its_own_cluster();
    let pair = reader(&stack);
    let mut stream = stream(&stack, &pair, &[]);
    let comes = |what: &str, came: &dyn Fn() -> bool| wait_until(what, came);
    signal("STOP", &[stack.pid("server/pid")]);
    let hears = |stream: &Running, hears: bool| {
        let mut servers = events(stream).into_iter().filter(|(kind, ..)| kind == "server");
        servers.next_back().is_some_and(|(.., server)| server["hears"] == hears)
    };
    comes("the server is deaf", &|| hears(&stream, false));
    signal("CONT", &[stack.pid("server/pid")]);
    comes("it hears", &|| hears(&stream, true));
    signal("TERM", &[stack.pid("server/pid")]);
    signal("INT", &[stack.pid("postgres/data/postmaster.pid")]);
    comes("nobody can look", &|| hears(&stream, false));
    assert_eq!(stream.child.try_wait().unwrap(), None, "{}", stream.err());
    // The board itself ends; and everything is there again.
    let began = Instant::now();
    signal("TERM", &[stack.pid("board/pid")]);
    assert_eq!(stream.exit(), 0, "{}", stream.err());
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    restart_board(&stack);
    let id = events(&stream).last().unwrap().1.clone();
    let again = self::stream(&stack, &pair, &["-H", &format!("Last-Event-ID: {id}")]);
    wait_until("it is told to read everybody again", || {
        events(&again).first().is_some_and(|event| event.0 == "reset")
    });
    expect(&mut stack.client(&pair), 0, "Success!");
    wait_until("it is online", || transitions(&again) == ["valid_user@qt-test.com online"]);
}

#[test]
fn a_reader_who_may_no_longer_read_is_cut_off() {
    let stack = up();
    for (email, end) in [
        (
            "revoked@example.com",
            "update certificates set revoked_at = now() where email = 'revoked@example.com'",
        ),
        ("disabled@example.com", "update users set disabled_at = now() where email = 'disabled@example.com'"),
        ("less@example.com", "update users set reads = 'self' where email = 'less@example.com'"),
    ] {
        let pair = stack.member(email);
        let_read(&stack, email, "all");
        expect(&mut stack.client(&pair), 0, "Success!");
        let mut stream = stream(&stack, &pair, &[]);
        wait_until("it begins", || !events(&stream).is_empty());
        let began = Instant::now();
        stack.sql(end);
        assert_eq!(stream.exit(), 0, "{}", stream.err());
        assert!(began.elapsed() < Duration::from_secs(15), "{email}: {:?}", began.elapsed());
        assert_eq!(read(&stack, &pair, &[], "/api/stream").status, 403);
    }
}

#[test]
fn one_person_has_so_many_streams() {
    let stack = up();
    let pair = reader(&stack);
    let mut streams: Vec<Running> = (0..20).map(|_| stream(&stack, &pair, &[])).collect();
    for stream in &streams {
        wait_until("it begins", || !events(stream).is_empty());
    }
    let answer = read(&stack, &pair, &[], "/api/stream");
    assert_eq!(
        (answer.status, answer.detail().contains("too many streams are open: 20 of one person")),
        (429, true)
    );
    assert_eq!(read(&stack, &pair, &[], "/api/who").status, 200);
    // nginx tells the board that one has gone, and the board notices when it next says something.
    streams.pop();
    wait_until("there is room again", || {
        let stream = stream(&stack, &pair, &[]);
        wait_until("it begins, or is refused", || !stream.out().is_empty());
        !events(&stream).is_empty()
    });
}

/// A stream on the board's own port, whose reader has next to no room for what it does not read.
fn raw(stack: &Stack) -> TcpStream {
    let address: SocketAddr = stack.board_listen.parse().unwrap();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&address.into()).unwrap();
    let mut stream = TcpStream::from(socket);
    let request = format!(
        "GET /api/stream HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\r\n",
        token(stack)
    );
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

#[test]
fn readers_that_stop_reading_slow_nobody() {
    const PEOPLE: usize = 2000;
    let stack = up();
    stack.sql(&format!(
        "insert into users (email) select 'p' || n || '@example.com' from generate_series(1, {PEOPLE}) n"
    ));
    wait_until("they are there", || json(&host(&stack, "/api/counts"))["counts"]["never"] == PEOPLE + 1);
    let mut lazy: Vec<TcpStream> = (0..100).map(|_| raw(&stack)).collect();
    let readers: Vec<_> = (0..100)
        .map(|_| {
            let mut stream = raw(&stack);
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            std::thread::spawn(move || {
                let (mut changes, mut buffer, mut rest) = (0, [0; 16 * 1024], Vec::new());
                while changes < PEOPLE {
                    let len = stream.read(&mut buffer).unwrap();
                    assert_ne!(len, 0, "it was dropped after {changes} changes");
                    rest.extend_from_slice(&buffer[..len]);
                    let text = String::from_utf8_lossy(&rest).into_owned();
                    changes += text.matches("event: state").count();
                    // The beginning of a further one may be there.
                    rest = text.as_bytes()[text.len().saturating_sub(11)..].to_vec();
                }
            })
        })
        .collect();
    stack.sql("update users set every_s = 77");
    for reader in readers {
        reader.join().unwrap();
    }
    // Those that read nothing are dropped, with a part of it.
    let mut got = Vec::new();
    for stream in &mut lazy {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    std::thread::sleep(Duration::from_secs(12));
    for stream in &mut lazy {
        let mut all = Vec::new();
        match stream.read_to_end(&mut all) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(error) => panic!("it was not dropped: {error}"),
        }
        got.push(String::from_utf8_lossy(&all).matches("event: state").count());
    }
    assert!(got.iter().all(|changes| *changes < PEOPLE), "{got:?}");
    assert_eq!(json(&host(&stack, "/api/counts"))["counts"]["never"], PEOPLE + 1);
    let down = stack.script("stack/down");
    assert!(down.status.success(), "{}", text(&down));
}
