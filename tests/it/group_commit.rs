//! Group commit: many in one, and nobody's answer is anybody else's.

use crate::program::signal;
use crate::server::{answer, heartbeat};
use crate::stack::{Builder, PATIENCE, Stack, wait_until};
use async_std::task::block_on;
use rollcall::protocol::status::{Email, Status};
use rollcall::store::sighting::{Certificate, Sighting};
use rollcall::store::{Outcome, RECORD, RECORD_ONE, Recorder, SETTINGS, Store};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub fn recorder(stack: &Stack) -> Recorder {
    Recorder::new(Store::open(&stack.database_url(), PATIENCE).unwrap(), "here".to_owned())
}

pub fn sighting(email: &str, last_seen_ns: u64, port: u16, serial: &str) -> Sighting {
    let fingerprint = "0123456789abcdef0123456789abcdef01234567";
    Sighting {
        status: Status {
            email: Email::new(email).unwrap(),
            last_seen_ns,
            ip: "192.0.2.1".parse().unwrap(),
            port,
        },
        certificate: Certificate::read(serial, fingerprint, "Nov 23 19:50:56 2099 GMT").unwrap(),
        heard_ms: 1000,
        every_s: None,
    }
}

/// `count` members m0@example.com … and as many rows.
fn members(stack: &Stack, count: usize) {
    stack.sql(&format!(
        "insert into users (email) select 'm' || n || '@example.com' from generate_series(0, {count} - 1) n"
    ));
}

#[test]
fn each_sighting_of_a_batch_has_its_own_verdict() {
    let stack = Stack::database();
    members(&stack, 4);
    stack.sql("update users set disabled_at = now() where email = 'm1@example.com'");
    stack.sql(
        "insert into certificates (serial_number, email, fingerprint, not_after, revoked_at)
         values ('0BAD', 'm2@example.com', repeat('0123456789abcdef', 2) || '01234567', 0, now())",
    );
    let mut recorder = recorder(&stack);
    let batch = [
        sighting("m0@example.com", 20, 1, "01"),
        sighting("m1@example.com", 20, 2, "02"),
        sighting("m2@example.com", 20, 3, "0BAD"),
        sighting("m3@example.com", 40, 4, "04"),
        sighting("nobody@example.com", 20, 5, "05"),
    ];
    let recorded = block_on(recorder.record(&batch.iter().collect::<Vec<_>>())).unwrap();
    use Outcome::{Committed, Disabled, NotEnrolled, Revoked};
    assert_eq!(recorded.outcomes, [Committed, Disabled, Revoked, Committed, NotEnrolled]);
    assert_eq!(recorded.committed, [batch[0].status.clone(), batch[3].status.clone()]);
    for status in &recorded.committed {
        let row = format!("{}|{}|{}", status.last_seen_ns, status.ip, status.port);
        assert_eq!(stack.row(status.email.as_str()), row);
    }
    assert_eq!(stack.row("m1@example.com"), "||");
    let used = "select string_agg(serial_number, ',' order by serial_number) from certificates where last_used_ns is not null";
    assert_eq!(stack.sql(used), "01,04");

    // One that comes late changes nothing: time, address and port are one fact.
    let recorded = block_on(recorder.record(&[&sighting("m3@example.com", 10, 9, "06")])).unwrap();
    assert_eq!(recorded.outcomes, [Committed]);
    assert_eq!(recorded.committed, [batch[3].status.clone()]);
    assert_eq!(stack.row("m3@example.com"), "40|192.0.2.1|4");
}

#[test]
fn a_locked_row_holds_up_only_itself() {
    let stack = Stack::database();
    members(&stack, 3);
    let lock = stack.lock_row("m1@example.com");
    let mut recorder = recorder(&stack);
    let batch: Vec<_> = (0..3).map(|i| sighting(&format!("m{i}@example.com"), 9, i, "01")).collect();
    let batch: Vec<_> = batch.iter().collect();
    let recorded = block_on(recorder.record(&batch)).unwrap();
    assert_eq!(recorded.outcomes, [Outcome::Committed, Outcome::Locked, Outcome::Committed]);
    assert_eq!(recorded.committed.len(), 2);
    drop(lock);
    wait_until("the lock is gone", || {
        block_on(recorder.record(&batch)).unwrap().outcomes == [Outcome::Committed; 3]
    });
}

/// Another server's commit may take longer than a lock is waited for.
#[test]
fn a_request_waits_for_a_locked_row_and_others_do_not() {
    let stack = Builder::new().set("ROLLCALL_DEADLINE", "60s").server();
    members(&stack, 3);
    let ear = stack.ear();
    let lock = stack.lock_row("m1@example.com");
    // Two of the same person: the later one is written and announced last.
    let waiting: Vec<_> = [1, 2].map(|port| heartbeat(&stack, "m1@example.com", port, 10)).into();
    for port in 0..20 {
        for person in ["m0@example.com", "m2@example.com"] {
            assert!(answer(heartbeat(&stack, person, port, 10)).starts_with("HTTP/1.1 204"));
            assert_eq!(ear.hear().email.as_str(), person);
        }
    }
    drop(lock);
    for waiting in waiting {
        assert!(answer(waiting).starts_with("HTTP/1.1 204"));
    }
    let heard = [ear.hear(), ear.hear()];
    let last = format!("{}|{}|{}", heard[1].last_seen_ns, heard[1].ip, heard[1].port);
    assert!(heard.iter().all(|status| status.email.as_str() == "m1@example.com"), "{heard:?}");
    assert_eq!(stack.row("m1@example.com"), last);
    let log = stack.log("server/log");
    assert!(!log.contains("the database fails"), "{log}");
}

#[test]
fn a_commit_stands_whatever_comes_after_it() {
    let stack = Stack::database();
    members(&stack, 2);
    stack.sql("update users set disabled_at = now() where email = 'm1@example.com'");
    // From the first commit on, its session reads a table of users that takes a minute.
    stack.sql(
        "create schema slow; create view slow.users as select users.* from public.users, pg_sleep(60);
         create function then_slow() returns trigger language plpgsql as $$
           begin perform set_config('search_path', 'slow, public', false); return new; end $$;
         create trigger then_slow before update on users for each row execute function then_slow()",
    );
    let store = Store::open(&stack.database_url(), Duration::from_secs(2)).unwrap();
    let batch = [sighting("m0@example.com", 20, 1, "01"), sighting("m1@example.com", 20, 2, "02")];
    let recorded =
        block_on(Recorder::new(store, "here".to_owned()).record(&batch.iter().collect::<Vec<_>>())).unwrap();
    assert_eq!(recorded.committed, [batch[0].status.clone()]);
    assert_eq!(recorded.outcomes, [Outcome::Committed, Outcome::Locked]);
    assert_eq!(stack.row("m0@example.com"), "20|192.0.2.1|1");
}

#[test]
fn two_committers_with_the_same_people_do_not_deadlock() {
    let stack = Stack::database();
    members(&stack, 256);
    let people: Vec<_> = (100..256).map(|i| sighting(&format!("m{i}@example.com"), 9, 1, "01")).collect();
    let odd: Vec<_> = people.iter().skip(1).step_by(2).collect();
    let all: Vec<_> = people.iter().collect();
    std::thread::scope(|scope| {
        for batch in [&all, &odd] {
            let mut recorder = recorder(&stack);
            scope.spawn(move || {
                for _ in 0..100 {
                    let recorded = block_on(recorder.record(batch)).unwrap();
                    // On a slow disk one may find the other's lock; that is no deadlock.
                    let fine = |verdict| matches!(verdict, Outcome::Committed | Outcome::Locked);
                    assert!(recorded.outcomes.into_iter().all(fine));
                }
            });
        }
    });
    assert_eq!(stack.sql("select deadlocks from pg_stat_database where datname = current_database()"), "0");
}

#[test]
fn updates_stay_heap_only() {
    let stack = Stack::database();
    members(&stack, 2000);
    let mut recorder = recorder(&stack);
    let mut people: Vec<_> = (0..2000).map(|i| sighting(&format!("m{i}@example.com"), 0, 1, "01")).collect();
    people.sort_by(|one, other| one.status.email.as_str().cmp(other.status.email.as_str()));
    // 100,352 heartbeats in batches of 512, from people in a scattered order.
    for round in 0..196 {
        let batch: BTreeSet<_> = (0..512).map(|i| (round * 512 + i) * 7919 % 2000).collect();
        batch.iter().for_each(|&at: &usize| people[at].status.last_seen_ns = round as u64);
        block_on(recorder.record(&batch.iter().map(|&at| &people[at]).collect::<Vec<_>>())).unwrap();
    }
    let mut ratio = 0.0;
    wait_until("the statistics have arrived", || {
        let counted =
            stack.sql("select n_tup_upd, n_tup_hot_upd from pg_stat_user_tables where relname = 'users'");
        let (updated, hot) = counted.split_once('|').unwrap();
        let (updated, hot): (f64, f64) = (updated.parse().unwrap(), hot.parse().unwrap());
        ratio = hot / updated;
        updated >= 100_352.0
    });
    assert!(ratio > 0.95, "{ratio}");
}

#[test]
fn the_plan_is_by_index_whatever_the_statistics_say() {
    let stack = Stack::database();
    members(&stack, 100_000);
    let settings: String = SETTINGS.iter().map(|(name, value)| format!("set {name} = '{value}';")).collect();
    let plan = |mode: &str, size: usize| {
        let array = |element: fn(usize) -> String| {
            let elements: Vec<String> = (0..size).map(element).collect();
            format!("'{{{}}}'", elements.join(","))
        };
        let arguments = [
            array(|n| format!("m{n}@example.com")),
            array(|n| n.to_string()),
            array(|_| "192.0.2.1".to_owned()),
            array(|n| n.to_string()),
            array(|n| format!("{n:X}")),
            array(|_| "0".repeat(40)),
            array(|n| n.to_string()),
            "600000000000".to_owned(),
            array(|n| n.to_string()),
            array(|_| "30".to_owned()),
            "'here'".to_owned(),
            "30".to_owned(),
        ];
        stack.sql(&format!(
            "{settings} set plan_cache_mode = {mode};
             prepare heartbeat (text[], bigint[], text[], integer[], text[], text[], bigint[], bigint, bigint[],
                                integer[], text, integer) as {RECORD};
             explain execute heartbeat ({})",
            arguments.join(", ")
        ))
    };
    let plan_of_one = |mode: &str| {
        stack.sql(&format!(
            "{settings} set plan_cache_mode = {mode};
             prepare heartbeat (text, bigint, text, integer, text, text, bigint, bigint, bigint, integer, text, integer)
                  as {RECORD_ONE};
             explain execute heartbeat ('m7@example.com', 7, '192.0.2.1', 7, '07', '{}', 7, 600000000000, 7, 30, 'here', 30)",
            "0".repeat(40)
        ))
    };
    for analyzed in [false, true] {
        if analyzed {
            stack.sql("analyze");
        }
        for mode in ["force_generic_plan", "force_custom_plan"] {
            let one = plan_of_one(mode);
            assert!(!one.contains("Seq Scan"), "analyzed {analyzed}, {mode}, one:\n{one}");
            assert!(one.contains("using users_pkey"), "analyzed {analyzed}, {mode}, one:\n{one}");
            for size in [1, 64, 512] {
                let plan = plan(mode, size);
                assert!(!plan.contains("Seq Scan"), "analyzed {analyzed}, {mode}, {size}:\n{plan}");
                assert!(plan.contains("using users_pkey"), "analyzed {analyzed}, {mode}, {size}:\n{plan}");
            }
        }
    }
}

#[test]
fn requests_that_arrive_together_are_committed_together() {
    let stack = Builder::new().set("ROLLCALL_DEADLINE", "40s").server();
    members(&stack, 201);
    stack.sql("update users set disabled_at = now() where email = 'm7@example.com'");
    let connect = |email: &str, port| heartbeat(&stack, email, port, 10);
    // While the database stands still, requests collect; one of them hangs up.
    let backends = stack.backends("rollcall_server");
    let ear = stack.ear();
    signal("STOP", &backends);
    let mut streams: Vec<_> = (0..200).map(|i| connect(&format!("m{i}@example.com"), 1000 + i)).collect();
    // One person three times at once: each is answered.
    streams.extend([connect("m5@example.com", 2001), connect("m5@example.com", 2002)]);
    drop(connect("m200@example.com", 999));
    let stranger = connect("stranger@example.com", 1);
    std::thread::sleep(std::time::Duration::from_millis(500));
    signal("CONT", &backends);
    let status = |stream| answer(stream)[9..12].parse::<u16>().unwrap();
    for (i, stream) in streams.into_iter().enumerate() {
        assert_eq!(status(stream), if i == 7 { 403 } else { 204 }, "m{i}");
    }
    assert_eq!(status(stranger), 403);
    let heard: Vec<_> = (0..202).map(|_| ear.hear()).collect();
    assert_eq!(heard.iter().filter(|status| status.email.as_str() == "m5@example.com").count(), 3);
    // The last announcement about somebody is the row.
    let last: BTreeMap<_, _> = heard.into_iter().map(|status| (status.email.clone(), status)).collect();
    assert_eq!(last.len(), 200);
    let rows = stack.rows();
    for (email, status) in last {
        let row = format!("{}|{}|{}", status.last_seen_ns, status.ip, status.port);
        assert_eq!(rows[email.as_str()], row);
    }
    assert_eq!(rows["m7@example.com"], "||");
    // A row's xmin is the transaction that wrote it.
    let commits = stack.sql("select count(distinct xmin::text) from users where last_seen_ns is not null");
    assert!(commits.parse::<u32>().unwrap() <= 5, "{commits} commits for 200 requests");
}
