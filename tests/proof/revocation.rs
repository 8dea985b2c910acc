//! How long after a revocation somebody is still let in, whichever way they come.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rollcall::cli::now_ns;

use crate::claims::{Came, Verdict};
use crate::load::{self, Load};
use crate::session::patch;
use crate::stack::{Builder, Pair, Stack, expect};

const PEOPLE: usize = 4;
const WAYS: [&str; 4] = ["new", "kept", "resumed (TLS 1.2)", "resumed (TLS 1.3)"];
const SECOND: u64 = 1_000_000_000;

/// A request: when it began, and whether it was acknowledged.
type Request = (u64, bool);

pub fn latency() -> Came {
    let stack = Builder::new().set("ROLLCALL_RATE", "1000000").up_with_its_own_cluster();
    let mut latest = [0; WAYS.len()];
    let (mut requests, mut late) = (0, 0);
    for person in load::enrol(&stack, PEOPLE) {
        let (revoked_ns, done_ns, ways) = one(&stack, person);
        for ((way, latest), name) in ways.iter().zip(&mut latest).zip(WAYS) {
            let count = |is_before: bool, acknowledged| {
                way.iter().filter(|one| (one.0 < revoked_ns) == is_before && one.1 == acknowledged).count()
            };
            assert!(count(true, true) > 0, "{name}: nobody was let in before");
            assert!(count(false, false) > 0, "{name}: nobody was refused afterwards");
            let last = way.iter().filter(|one| one.1).map(|one| one.0.saturating_sub(revoked_ns)).max();
            *latest = last.unwrap_or(0).max(*latest);
            requests += way.len();
            late += way.iter().filter(|one| one.1 && one.0 > done_ns.min(revoked_ns + SECOND)).count();
        }
    }
    let latest: Vec<String> =
        latest.iter().zip(WAYS).map(|(ns, way)| format!("{way} {:.2} s", *ns as f64 / 1e9)).collect();
    let text = format!(
        "{PEOPLE} x, {requests} requests, {late} late; the last 204 was to a request so long after the row says revoked: {}",
        latest.join(", ")
    );
    (Verdict::of(late == 0), text)
}

/// One person comes in all ways, over and over, and is revoked meanwhile: since when by the row, when the command was done,
/// and the requests.
fn one(stack: &Stack, person: (String, Pair)) -> (u64, u64, [Vec<Request>; WAYS.len()]) {
    let email = person.0.clone();
    let session = |version: &str| stack.state.join(format!("{email}{version}")).display().to_string();
    for version in ["-tls1_2", "-tls1_3"] {
        assert_eq!(patch(stack, &person.1, &[version, "-sess_out", &session(version)]).1.status, 204);
    }
    let people = [person];
    let pair = &people[0].1;
    let mut load = Load::new(Duration::from_millis(2));
    load.add(stack, None, "stack", &people);
    let ends = AtomicBool::new(false);
    let again = |ask: &dyn Fn() -> Option<u16>| {
        let mut requests = Vec::new();
        while !ends.load(Ordering::Relaxed) {
            let began_ns = now_ns();
            requests.extend(ask().map(|status| (began_ns, status == 204)));
        }
        requests
    };
    let resumed = |version: &str| {
        again(&|| {
            let (is_resumed, answer) = patch(stack, pair, &[version, "-sess_in", &session(version)]);
            // nginx forgets its sessions when it reads the list of revoked ones: then it is a new connection.
            (is_resumed || answer.status != 204).then_some(answer.status)
        })
    };
    thread::scope(|scope| {
        let new = scope.spawn(|| again(&|| Some(stack.curl(Some(pair), &[]).status)));
        let tls_1_2 = scope.spawn(|| resumed("-tls1_2"));
        let tls_1_3 = scope.spawn(|| resumed("-tls1_3"));
        thread::sleep(Duration::from_millis(1200));
        expect(stack.tool("stack/run").args(["rollcall-admin", "revoke", &email]), 0, "revoked");
        let done_ns = now_ns();
        let revoked = "select max(extract(epoch from revoked_at) * 1000000000)::bigint from certificates";
        let revoked_ns = stack.sql(&format!("{revoked} where email = '{email}'")).parse().unwrap();
        // They go on for a while after the command is done.
        thread::sleep(Duration::from_secs(2));
        ends.store(true, Ordering::Relaxed);
        let ways = [new, tls_1_2, tls_1_3].map(|way| way.join().unwrap());
        let kept = load.end().iter().map(|beat| (beat.began_ns, beat.is_acknowledged())).collect();
        let [new, tls_1_2, tls_1_3] = ways;
        (revoked_ns, done_ns, [new, kept, tls_1_2, tls_1_3])
    })
}
