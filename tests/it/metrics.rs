//! What Prometheus reads: the server's page, the listener's file, and the rules over both.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::listener::{Voice, bound};
use crate::program::{has_ended, hurry, signal};
use crate::server::{answer, heartbeat};
use crate::stack::{Answer, Builder, Stack, expect, is_root, needs, text, wait_until};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

#[track_caller]
fn page(stack: &Stack) -> String {
    let answer =
        Answer::parse(&stack.to_server(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.head.contains("content-type: text/plain;charset=utf-8;version=0.0.4"), "{answer:?}");
    answer.body
}

/// The value of each sample, by its name and labels.
fn samples(page: &str) -> BTreeMap<String, f64> {
    let samples = page.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(name, value)| (name.into(), value.parse().unwrap()))
        .collect()
}

/// The type of each metric, by its name.
fn types(page: &str) -> BTreeMap<String, String> {
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    types.map(|(name, kind)| (name.into(), kind.into())).collect()
}

#[test]
fn the_server_counts_what_happened() {
    let stack = Builder::new().up_with_its_own_cluster();
    let client = stack.pair("client");
    let stranger = stack.certificate("stranger@qt-test.com", &[]);
    for _ in 0..2 {
        expect(&mut stack.client(&client), 0, "Success!");
    }
    expect(&mut stack.client(&stack.pair("bad_client")), 77, "400");
    expect(&mut stack.client(&stranger), 77, "403");
    let answer = stack.to_server(b"PATCH /api/client HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");

    let before = page(&stack);
    assert!(!before.contains('@'), "an email in {before}");
    let told = samples(&before);
    for (sample, value) in [
        ("rollcall_heartbeats_total{result=\"recorded\"}", 2.0),
        ("rollcall_heartbeats_total{result=\"malformed\"}", 1.0),
        ("rollcall_heartbeats_total{result=\"refused\"}", 1.0),
        ("rollcall_heartbeats_total{result=\"unproven\"}", 1.0),
        ("rollcall_heartbeats_total{result=\"too_many\"}", 0.0),
        ("rollcall_heartbeats_total{result=\"unavailable\"}", 0.0),
        // Nothing was committed for the stranger.
        ("rollcall_commit_seconds_count", 2.0),
        ("rollcall_commit_batch_size_sum", 2.0),
        ("rollcall_commit_batch_size_bucket{le=\"1\"}", 2.0),
        ("rollcall_commit_batch_size_bucket{le=\"+Inf\"}", 2.0),
        ("rollcall_sequence", 2.0),
        ("rollcall_waiting_requests", 0.0),
        ("rollcall_database_up", 1.0),
        ("rollcall_announcements_total{interface=\"\",result=\"failed\"}", 0.0),
        (concat!("rollcall_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"}"), 1.0),
    ] {
        assert_eq!(told.get(sample), Some(&value), "{sample}:\n{before}");
    }
    let sent = told["rollcall_announcements_total{interface=\"\",result=\"sent\"}"];
    assert!(sent >= 2.0, "{sent}");
    let took = told["rollcall_commit_seconds_sum"];
    assert!(took > 0.0 && took < 3.0 * 30.0, "{took}");
    the_process_is_this_one(&stack, &told);
    the_certificates_end_as_they_say(&stack);

    // Whoever comes through nginx sees none of it.
    let answer = stack.curl(Some(&client), &["-X", "GET", "/metrics"]);
    assert_eq!((answer.status, answer.body.contains("rollcall_heartbeats")), (404, false), "{answer:?}");

    let postmaster = fs::read_to_string(stack.cluster().join("data/postmaster.pid")).unwrap();
    let postmaster = postmaster.lines().next().unwrap().parse().unwrap();
    signal("INT", &[postmaster]);
    wait_until("PostgreSQL has ended", || has_ended(postmaster));
    expect(stack.client(&client).args(["--attempts", "1"]), 75, "the database is unreachable");
    let up = || samples(&page(&stack))["rollcall_database_up"];
    wait_until("it is down", || up() == 0.0);
    let told = samples(&page(&stack));
    assert_eq!(told["rollcall_heartbeats_total{result=\"unavailable\"}"], 1.0);
    assert_eq!(told["rollcall_commit_seconds_count"], 2.0);
    assert_eq!(told["rollcall_sequence"], 2.0);
    expect(&mut stack.tool("stack/up"), 0, "");
    expect(&mut stack.client(&client), 0, "Success!");
    wait_until("it is up", || up() == 1.0);
    let told = samples(&page(&stack));
    assert_eq!(told["rollcall_heartbeats_total{result=\"recorded\"}"], 3.0);
}

fn the_process_is_this_one(stack: &Stack, told: &BTreeMap<String, f64>) {
    let pid = stack.pid("server/pid");
    let of_proc = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    let field = |text: &str, name: &str, at: usize| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().nth(at).unwrap().parse().unwrap()
    };
    assert_eq!(told["process_max_fds"], field(&of_proc("limits"), "Max open files", 0));
    let resident = told["process_resident_memory_bytes"] / 1024.0;
    let now = field(&of_proc("status"), "VmRSS:", 0);
    assert!(resident > now / 2.0 && resident < now * 2.0, "{resident} kB then, {now} kB now");
    assert!(told["process_virtual_memory_bytes"] > told["process_resident_memory_bytes"]);
    // Three of them are standard input, output and error.
    let open = told["process_open_fds"];
    assert!(open > 3.0 && open < 100.0, "{open}");
    let cpu = told["process_cpu_seconds_total"];
    assert!(cpu > 0.0 && cpu < 60.0, "{cpu}");
    let folder = fs::metadata(stack.state.join("server/pid")).unwrap().modified().unwrap();
    let started = folder.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let told = told["process_start_time_seconds"];
    assert!((told - started).abs() < 20.0, "{told}, and its pid was written at {started}");
}

fn the_certificates_end_as_they_say(stack: &Stack) {
    let name = |which| format!("rollcall_certificate_not_after_timestamp_seconds{{which=\"{which}\"}}");
    if is_root() {
        // The server is another user, which may not enter the folder before it is told.
        assert!(!samples(&page(stack)).contains_key(&name("ca")));
        let given = Command::new("sh")
            .args(["-c", "chgrp rollcall \"$0\" && chmod 0710 \"$0\""])
            .arg(&stack.certs)
            .status();
        assert!(given.unwrap().success());
    }
    let told = samples(&page(stack));
    for which in ["server", "ca"] {
        let mut openssl = stack.command("openssl");
        openssl.args(["x509", "-noout", "-enddate", "-dateopt", "iso_8601", "-in"]);
        let output = openssl.arg(stack.certs.join(format!("{which}.crt"))).output().unwrap();
        let end = text(&output).trim().strip_prefix("notAfter=").unwrap().replace(' ', "T");
        let end = humantime::parse_rfc3339(&end).unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
        assert_eq!(told.get(&name(which)), Some(&end.as_secs_f64()), "{which}");
    }
}

#[test]
fn requests_that_wait_are_seen() {
    let stack = Builder::new().set("ROLLCALL_DEADLINE", "60s").server();
    let backends = stack.backends("rollcall_server");
    signal("STOP", &backends);
    let beat = |port| heartbeat(&stack, "valid_user@qt-test.com", port, 10);
    let mut streams = vec![beat(1)];
    // Its commit is under way.
    thread::sleep(Duration::from_millis(300));
    streams.extend([beat(2), beat(3)]);
    wait_until("they are seen, and the database is down", || {
        let told = samples(&page(&stack));
        (told["rollcall_waiting_requests"], told["rollcall_database_up"]) == (2.0, 0.0)
    });
    signal("CONT", &backends);
    for stream in streams {
        answer(stream);
    }
}

/// A file of a listener that heard one status and one foreign datagram.
fn listened(stack: &Stack) -> String {
    let file = stack.state.join("rollcall.prom");
    let mut command = stack.command("sh");
    // node_exporter is another user.
    command
        .args(["-c", "umask 077; exec \"$0\" \"$@\""])
        .arg(crate::stack::binaries().join("rollcall-listen"));
    command.args(["--json", "--stats-file"]).arg(&file);
    let listener = bound(stack, command);
    let voice = Voice::of(stack);
    voice.say(&crate::listener::datagram());
    voice.say(b"\xff");
    listener.next();
    let (_, said, exit) = listener.end();
    assert_eq!(exit, 0, "{said}");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
    fs::read_to_string(file).unwrap()
}

#[test]
fn the_listener_counts_into_its_file() {
    let stack = Builder::new().stopped();
    let counts = listened(&stack);
    let told = samples(&counts);
    let place = format!("listener=\"0.0.0.0:{}\"", stack.broadcast_port);
    for (sample, value) in [
        (format!("rollcall_listener_datagrams_total{{{place},kind=\"unsigned\"}}"), 1.0),
        (format!("rollcall_listener_datagrams_total{{{place},kind=\"foreign\"}}"), 1.0),
        (format!("rollcall_listener_datagrams_total{{{place},kind=\"new\"}}"), 0.0),
        (format!("rollcall_listener_printed_total{{{place}}}"), 1.0),
        (format!("rollcall_listener_missing_total{{{place}}}"), 0.0),
        (format!("rollcall_listener_dropped_total{{{place}}}"), 0.0),
    ] {
        assert_eq!(told.get(&sample), Some(&value), "{sample}:\n{counts}");
    }
    assert!(told[&format!("rollcall_listener_receive_buffer_bytes{{{place}}}")] > 0.0);
    assert!(!counts.contains('@'), "{counts}");
    let mut listener = stack.program("rollcall-listen");
    listener.args(["--stats-file", "/no/such/folder/rollcall.prom"]);
    expect(
        &mut listener,
        78,
        "the file of --stats-file, /no/such/folder/rollcall.prom: cannot write it: No such file or directory",
    );
}

#[test]
fn the_listener_counts_while_it_runs_and_survives_a_file_that_cannot_be_written() {
    let stack = Builder::new().stopped();
    let folder = stack.state.join("textfile");
    fs::create_dir(&folder).unwrap();
    let file = folder.join("rollcall.prom");
    let mut command = stack.program("rollcall-listen");
    command.args(["--json", "--stats-file"]).arg(&file);
    let Some(()) = hurry(&mut command, 30) else { return };
    let listener = bound(&stack, command);
    let is_told = |count: u32| {
        let told = fs::read_to_string(&file).unwrap_or_default();
        told.lines().any(|line| {
            line.starts_with("rollcall_listener_printed_total{") && line.ends_with(&format!(" {count}"))
        })
    };
    wait_until("it begins with nothing", || is_told(0));
    Voice::of(&stack).say(&crate::listener::datagram());
    wait_until("it tells of one", || is_told(1));
    fs::remove_dir_all(&folder).unwrap();
    wait_until("it says so", || listener.err().contains("rollcall.prom: cannot write it: No such file"));
    fs::create_dir(&folder).unwrap();
    wait_until("it tells again", || is_told(1));
    let (_, said, exit) = listener.end();
    assert_eq!((exit, said.matches("cannot write it").count()), (0, 1), "{said}");
}

/// Of the server and of a listener.
fn all_types(stack: &Stack) -> BTreeMap<String, String> {
    let mut types = types(&page(stack));
    types.extend(self::types(&listened(stack)));
    types.extend(self::types(&crate::board::host(stack, "/metrics").body));
    types
}

#[test]
fn the_documents_and_the_rules_name_the_metrics_that_exist() {
    let stack = crate::board::up();
    let types = all_types(&stack);
    let read = |file: &str| fs::read_to_string(Path::new(ROOT).join(file)).unwrap();
    let table: BTreeMap<String, String> = read("docs/reference.md")
        .lines()
        .filter_map(|line| {
            let (name, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
            let kind = rest.split(" | ").next()?;
            ["counter", "gauge", "histogram"].contains(&kind).then(|| (name.to_owned(), kind.to_owned()))
        })
        .collect();
    assert_eq!(table, types);
    let rules = read("deploy/prometheus/rules.yml");
    let words = rules.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let named: BTreeSet<&str> = words.filter(|word| word.starts_with("rollcall_")).collect();
    assert!(named.len() > 5, "{named:?}");
    for name in named {
        assert!(types.contains_key(name), "deploy/prometheus/rules.yml: there is no {name}");
    }
}

#[test]
fn promtool_takes_the_pages_and_the_rules() {
    let Some(()) = needs("promtool") else { return };
    let stack = Stack::server();
    for page in [page(&stack), listened(&stack)] {
        let file = stack.state.join("page");
        fs::write(&file, &page).unwrap();
        let mut check = stack.command("promtool");
        let output =
            check.args(["check", "metrics"]).stdin(Stdio::from(File::open(&file).unwrap())).output().unwrap();
        assert!(output.status.success(), "{}\n{page}", text(&output));
    }
    let deploy = Path::new(ROOT).join("deploy/prometheus");
    expect(
        stack
            .command("promtool")
            .args(["check", "config", "--syntax-only"])
            .arg(deploy.join("prometheus.yml")),
        0,
        "SUCCESS",
    );
    // Each alert fires where it should, and not where it should not.
    let rules = Path::new(ROOT).join("tests/it/rules.yml");
    expect(stack.command("promtool").args(["test", "rules"]).arg(rules), 0, "SUCCESS");
}
