//! The hooks: real programs, of which some are hostile.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::Value;

use crate::board;
use crate::history::{kill_board, restart_board, silence};
use crate::stack::{Stack, expect, needs, wait_until};

const EVE: &str = "eve@example.com";

/// A stack with a board, a folder for its hooks, and one that they may write to.
fn up() -> (Stack, PathBuf) {
    let stack = board::up();
    let told = stack.state.join("told");
    fs::create_dir(&told).unwrap();
    fs::set_permissions(&told, PermissionsExt::from_mode(0o777)).unwrap();
    (stack, told)
}

/// Puts a hook there as a whole.
fn hook(stack: &Stack, name: &str, script: &str) {
    let (file, beside) = (stack.state.join("hooks").join(name), stack.state.join("hook.new"));
    fs::write(&beside, format!("#!/bin/bash\n{script}\n")).unwrap();
    fs::set_permissions(&beside, PermissionsExt::from_mode(0o755)).unwrap();
    fs::rename(beside, file).unwrap();
    wait_until("it has a place", || {
        stack.sql(&format!("select count(*) from hooks where name = '{name}'")) == "1"
    });
}

fn lines(file: &PathBuf) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

fn kinds(file: &PathBuf) -> Vec<String> {
    lines(file).iter().map(|event| event["kind"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn each_event_is_told_in_order_and_again_until_it_is_taken() {
    let (stack, told) = up();
    let pair = stack.member(EVE);
    let (all, runs, environment) = (told.join("all"), told.join("runs"), told.join("environment"));
    // It fails twice for each event; the second time it has taken a part.
    hook(
        &stack,
        "fails",
        &format!(
            "env >{env}; event=$(cat); echo run >>{runs}; (( $(wc -l <{runs}) % 3 == 0 )) || {{ echo $'no\\e[2J'; exit 3; }}
             printf '%s\\n' \"$event\" >>{all}",
            env = environment.display(),
            runs = runs.display(),
            all = all.display()
        ),
    );
    expect(&mut stack.client(&pair), 0, "Success!");
    silence_after_online(&stack);
    wait_until("both are told", || kinds(&all) == ["online", "offline"]);
    let event = lines(&all).remove(0);
    assert_eq!((&event["email"], &event["ip"]), (&EVE.into(), &"127.0.0.1".into()));
    assert!(event["id"].is_number() && event["at"].as_str() >= event["since"].as_str(), "{event}");
    let log = stack.log("board/log");
    assert!(log.contains("hook fails: exit status: 3: no\\u{1b}[2J; again in 1 s"), "{log}");
    let environment = fs::read_to_string(environment).unwrap();
    let names: Vec<&str> = environment.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    // Bash itself sets the rest.
    assert!(names.iter().all(|name| ["PATH", "PWD", "SHLVL", "_", "OLDPWD"].contains(name)), "{environment}");
    // A hook that comes later is not told of what was before.
    let late = told.join("late");
    hook(&stack, "late", &format!("cat >>{}", late.display()));
    expect(&mut stack.client(&pair), 0, "Success!");
    wait_until("it is told", || kinds(&late) == ["online"]);
}

fn silence_after_online(stack: &Stack) {
    wait_until("she is online", || stack.sql("select count(*) from events where kind = 'online'") != "0");
    silence(stack, EVE);
}

#[test]
fn over_a_crash_of_the_board_each_event_is_told() {
    let (stack, told) = up();
    let pair = stack.member(EVE);
    let (all, runs) = (told.join("all"), told.join("runs"));
    // It has not ended when the board is killed.
    hook(
        &stack,
        "slow",
        &format!(
            "echo run >>{runs}; [ $(wc -l <{runs}) != 1 ] || sleep 8; cat >>{all}",
            runs = runs.display(),
            all = all.display()
        ),
    );
    expect(&mut stack.client(&pair), 0, "Success!");
    wait_until("it runs", || runs.exists());
    kill_board(&stack);
    assert_eq!(kinds(&all), [""; 0]);
    silence(&stack, EVE);
    restart_board(&stack);
    // The first run may have gone on by itself.
    wait_until("both are told", || {
        let mut kinds = kinds(&all);
        kinds.dedup();
        kinds == ["online", "offline"] || kinds == ["online", "offline", "online"]
    });
}

#[test]
fn a_hostile_hook_keeps_nobody_waiting() {
    let (stack, told) = up();
    let good = told.join("good");
    let pids = told.join("pids");
    for (name, script) in [
        ("a-never-ends", format!("trap '' TERM; echo $$ >>{}; while :; do sleep 1; done", pids.display())),
        ("b-prints", "yes".to_owned()),
        ("c-closes", "exec <&- ; exit 0".to_owned()),
        ("d-forks", format!("sleep 1000 & echo $! >>{}; exit 0", pids.display())),
        ("e-good", format!("cat >>{}", good.display())),
    ] {
        hook(&stack, name, &script);
    }
    let ours = |name: &str, mode| {
        let file = stack.state.join("hooks").join(name);
        fs::write(&file, "#!/bin/sh\ntouch told-nobody").unwrap();
        fs::set_permissions(file, PermissionsExt::from_mode(mode)).unwrap();
    };
    ours("f-open", 0o757);
    ours("g-note.txt", 0o644);
    wait_until("the log says so", || {
        stack
            .log("board/log")
            .contains("the hook f-open does not run: mode 0757: others can write it; chmod go-w")
    });
    expect(&mut stack.client(&stack.member(EVE)), 0, "Success!");
    wait_until("the good one is told", || kinds(&good) == ["online"]);
    wait_until("the others are ended", || {
        let log = stack.log("board/log");
        ["a-never-ends", "b-prints"]
            .iter()
            .all(|name| log.contains(&format!("hook {name}: it did not end within 10 s; again in 1 s")))
    });
    // None of the first event's processes is left.
    let first: Vec<u32> =
        fs::read_to_string(&pids).unwrap().lines().take(2).map(|pid| pid.parse().unwrap()).collect();
    wait_until("they are gone", || first.iter().all(|pid| crate::program::has_ended(*pid)));
    assert_eq!(stack.sql("select count(*) from hooks where name in ('f-open', 'g-note.txt')"), "0");
    let log = stack.log("board/log");
    assert!(log.len() < 100_000, "{}", log.len());
    // Nobody is told anything if others can write the folder.
    fs::set_permissions(stack.state.join("hooks"), PermissionsExt::from_mode(0o777)).unwrap();
    wait_until("the log says so", || stack.log("board/log").contains("no hook runs: "));
    silence_after_online(&stack);
    wait_until("it is written", || stack.sql("select count(*) from events where kind = 'offline'") == "1");
    fs::set_permissions(stack.state.join("hooks"), PermissionsExt::from_mode(0o755)).unwrap();
    wait_until("the good one is told", || kinds(&good) == ["online", "offline"]);

    expect(&mut stack.tool("stack/down"), 0, "");
    let all = fs::read_to_string(&pids).unwrap();
    wait_until("none outlives the board", || {
        all.lines().all(|pid| crate::program::has_ended(pid.parse().unwrap()))
    });
}

#[test]
fn many_who_leave_are_one_event() {
    let (stack, told) = up();
    let all = told.join("all");
    hook(&stack, "all", &format!("cat >>{}", all.display()));
    stack.sql(
        "insert into users (email, last_seen_ns, ip, port, server, good_until_ms, gone_after_ms)
         select 'device' || n || '@example.com', extract(epoch from now())::bigint * 1000000000, '192.0.2.1', 1,
                (select name from servers limit 1), 1000000000, 1000000000 from generate_series(1, 20) as n",
    );
    restart_board(&stack);
    wait_until("all are told", || kinds(&all).iter().filter(|kind| *kind == "online").count() == 20);
    silence(&stack, "device%");
    wait_until("each has a row", || stack.sql("select count(*) from events where kind = 'offline'") == "20");
    // The minute is over.
    stack.sql("update events set at = at - interval '2 minutes' where kind = 'offline'");
    wait_until("the mass is told", || kinds(&all).len() > 20);
    let mass = lines(&all).remove(20);
    assert_eq!((&mass["kind"], &mass["people"]), (&"mass".into(), &20.into()), "{mass}");
    assert_eq!(mass["emails"].as_array().unwrap().len(), 20);
    expect(&mut stack.client(&stack.member(EVE)), 0, "Success!");
    wait_until("what follows is told", || kinds(&all).len() > 21);
    assert_eq!(lines(&all)[21]["email"], EVE, "and none of the mass by themselves");
}

#[test]
fn the_example_sends_a_webhook() {
    let Some(()) = needs("curl") else { return };
    let (stack, told) = up();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = told.join("url");
    fs::write(&url, format!("http://{}/hook?a=b\n", listener.local_addr().unwrap())).unwrap();
    let example = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/hooks/webhook")).unwrap();
    let example = example.replace("/etc/rollcall/webhook.url", url.to_str().unwrap());
    hook(&stack, "webhook", example.strip_prefix("#!/bin/sh\n").unwrap());
    expect(&mut stack.client(&stack.member(EVE)), 0, "Success!");
    let request = crate::hooks::request(&listener);
    assert!(request.starts_with("POST /hook?a=b HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("Content-Type: application/json\r\n"), "{request}");
    let body: Value = serde_json::from_str(request.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!((&body["kind"], &body["email"]), (&"online".into(), &EVE.into()));
    wait_until("it counts as served", || {
        stack.sql("select event = (select max(id) from events) from hooks") == "t"
    });
}

/// One request, which is answered with 204.
fn request(listener: &std::net::TcpListener) -> String {
    use std::io::{Read, Write};
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(crate::stack::PATIENCE)).unwrap();
    let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
    while !request.ends_with(b"}\n") && !request.ends_with(b"}") {
        let len = stream.read(&mut buffer).unwrap();
        assert!(len > 0, "{request:?}");
        request.extend_from_slice(&buffer[..len]);
    }
    stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").unwrap();
    String::from_utf8(request).unwrap()
}
