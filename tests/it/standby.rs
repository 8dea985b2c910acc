//! A real synchronous standby that stalls: nothing is acknowledged or announced, everybody says so, nothing piles up, and
//! all of it comes back by itself.

use std::time::{Duration, Instant};

use crate::cluster::{self, Cluster, readyz};
use crate::server::{answer, heartbeat};
use crate::stack::{Stack, expect, text, wait_until};

const ALICE: &str = "alice@example.com";

fn beat(stack: &Stack, email: &str) -> String {
    answer(heartbeat(stack, email, 1, 10))[9..12].to_owned()
}

#[test]
fn while_the_standby_stalls_nothing_is_green_and_nothing_piles_up() {
    let stack = cluster::stack(&[]);
    let cluster = Cluster::pair(&stack);
    cluster.furnish(&stack, ALICE);
    let people: Vec<String> = (0..20).map(|number| format!("m{number}@example.com")).collect();
    for email in &people {
        cluster.sql("rollcall", &format!("insert into users (email) values ('{email}')"));
    }
    let url = cluster.url("rollcall_server");
    let server = cluster::serve(&stack, &url);
    let ear = stack.ear();
    assert_eq!(beat(&stack, ALICE), "204");
    ear.hear();
    wait_until("it is ready", || readyz(&stack).status == 204);

    cluster.freeze_standby();
    let frozen = Instant::now();
    wait_until("it is not ready, and says why", || {
        let answer = readyz(&stack);
        answer.status == 503 && answer.detail().contains("waits for the synchronous standby")
    });
    let mut most = 0;
    while frozen.elapsed() < Duration::from_secs(12) {
        // Of the same people again and again: their rows are locked by the commit before, until its backend has ended.
        let streams: Vec<_> = people.iter().map(|email| heartbeat(&stack, email, 1, 10)).collect();
        for stream in streams {
            let answer = answer(stream);
            assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        }
        assert_eq!(readyz(&stack).status, 503);
        most = most.max(cluster.backends("rollcall_server").0);
    }
    assert!(most <= 8, "{most} backends");
    assert_eq!(ear.hear_within(Duration::from_millis(200)), None, "nothing of it was announced");
    let log = server.err();
    assert!(log.contains("a commit waits for the synchronous standby"), "{log}");
    assert_eq!(log.matches("the database fails").count(), 1, "{log}");
    assert!(!log.contains("works again after"), "nothing was committed: {log}");
    let metrics = stack.to_server(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert!(metrics.contains("\nrollcall_database_up 0\n"), "{metrics}");
    let mut doctor = stack.program("rollcall-server");
    doctor.env("DATABASE_URL", &url).args(["doctor", "database"]);
    expect(
        &mut doctor,
        1,
        "red     nothing can be recorded in the database: a commit waits for its synchronous standby",
    );

    cluster.thaw_standby();
    wait_until("it is taken again", || beat(&stack, ALICE) == "204");
    assert_eq!(ear.hear().email.as_str(), ALICE);
    wait_until("it is ready", || readyz(&stack).status == 204);
    for email in &people {
        assert_eq!(beat(&stack, email), "204");
    }
    wait_until("the others have ended", || cluster.backends("rollcall_server") <= (3, 0));
    assert_eq!(server.err().matches("the database works again after").count(), 1, "{}", server.err());
}

#[test]
fn an_administrator_is_told_and_waits_for_an_end() {
    let stack = cluster::stack(&[]);
    let cluster = Cluster::pair(&stack);
    cluster.furnish(&stack, ALICE);
    let admin = |arguments: &[&str]| {
        let mut command = stack.administer(arguments);
        command.env("DATABASE_URL", cluster.url("rollcall"));
        command
    };
    cluster.freeze_standby();
    // The second one changes nothing, and the third does not know whether it does.
    for arguments in [
        ["user", "add", "bob@example.com"],
        ["user", "add", ALICE],
        ["user", "add", "bob@example.com"],
        ["user", "disable", ALICE],
    ] {
        let output = admin(&arguments).output().unwrap();
        let said = text(&output);
        assert_eq!(output.status.code(), Some(75), "{arguments:?}: {said}");
        for part in [
            "rollcall-admin: waiting for the database, up to 10s\n",
            "it is not known whether this was done",
            "a commit waits for the synchronous standby",
        ] {
            assert!(said.contains(part), "{arguments:?}: {said}");
        }
        assert!(output.stdout.is_empty(), "{said}");
        wait_until("its backend has ended", || cluster.backends("rollcall").0 == 0);
    }
    // Nobody holds the row.
    cluster.sql(
        "rollcall",
        &format!("set lock_timeout = '5s'; update users set every_s = 7 where email = '{ALICE}'"),
    );
    let mut list = admin(&["user", "list"]);
    expect(&mut list, 0, ALICE);
    cluster.thaw_standby();
    expect(&mut admin(&["user", "add", "bob@example.com"]), 0, "bob@example.com was enrolled already");
    expect(&mut admin(&["user", "disable", ALICE]), 0, "alice@example.com was disabled already");
}

#[test]
fn a_standby_is_no_place_to_record() {
    let stack = cluster::stack(&[]);
    let cluster = Cluster::pair(&stack);
    cluster.furnish(&stack, ALICE);
    let settings = [("DATABASE_URL", cluster.url_of_standby("rollcall_server"))];
    let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    wait_until("the standby has the schema", || {
        let server = crate::server::start(&stack, &settings);
        let mut said = String::new();
        wait_until("it waits", || {
            said = server.err();
            said.contains("waiting for the database")
        });
        said.contains("nothing can be recorded in the database: it is a standby")
    });
}
