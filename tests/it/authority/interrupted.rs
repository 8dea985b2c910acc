//! A kill at each step, a full disk, and a database or an nginx that is not there.

use std::fs;
use std::process::Command;

use super::{admin, beats, is_refused, listed};
use crate::disk::Disk;
use crate::stack::{Builder, Stack, expect, needs, needs_root, text, wait_until};

/// Runs the command again and again, and kills it at its first, second … call of each of these; then runs it once more,
/// and looks. Returns how often it was killed. `reload` may stand for the command that tells nginx.
#[track_caller]
fn killed(
    stack: &Stack,
    (calls, reload): (&[&str], Option<&str>),
    arguments: impl Fn(&str) -> Vec<String>,
    look: impl Fn(&str),
) -> usize {
    let mut kills = 0;
    for call in calls {
        for step in 1..60 {
            let name = format!("{call}-{step}");
            let arguments = arguments(&name);
            // Each thread of each process has a count of its own; so a program that it starts may be the one that ends.
            let inject = format!("inject={call}:signal=KILL:when={step}");
            let mut strace = stack.command("strace");
            strace.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &inject]);
            strace.arg(crate::stack::binaries().join("rollcall-admin")).args(&arguments);
            strace.envs(reload.map(|command| ("ROLLCALL_RELOAD", command)));
            if strace.env("DATABASE_URL", stack.database_url()).output().unwrap().status.success() {
                break;
            }
            kills += 1;
            beats(stack, "stays");
            let again = stack.administer(&[]).args(&arguments).output().unwrap();
            // It may have been killed after its last step.
            let was_over = text(&again).contains("no CA is being replaced");
            assert!(again.status.success() || was_over, "{arguments:?}: {}", text(&again));
            look(&name);
            let files = fs::read_dir(&stack.certs).unwrap().map(|file| file.unwrap().file_name());
            let left: Vec<_> = files.filter(|name| name.to_string_lossy().contains(".staged")).collect();
            assert!(left.is_empty(), "{arguments:?}: {left:?}");
        }
    }
    kills
}

/// nginx is told when the command is run again.
const LATER: (&[&str], Option<&str>) = (&["rename", "fsync", "sendto"], Some("true"));
/// nginx is told before the old CA goes, so that this takes far more steps.
const AT_ONCE: (&[&str], Option<&str>) = (&["rename"], None);

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

#[test]
fn killed_at_any_step_each_command_goes_on_when_it_is_run_again() {
    let Some(()) = needs("strace") else { return };
    let stack = Stack::up();
    for name in ["stays", "renewed"] {
        admin(&stack, &["enrol", &format!("{name}@example.com"), "--name", name], 0, "enrolled");
    }
    let enrol = |name: &str| words(&format!("enrol {name}@example.com --name {name}"));
    let mut kills = killed(&stack, LATER, enrol, |name| beats(&stack, name));
    kills += killed(&stack, LATER, |_| words("renew renewed"), |_| beats(&stack, "renewed"));
    let revoke = |name: &str| {
        admin(
            &stack,
            &["enrol", &format!("{name}@example.org"), "--name", &format!("r-{name}")],
            0,
            "enrolled",
        );
        words(&format!("revoke r-{name}"))
    };
    kills +=
        killed(&stack, LATER, revoke, |name| is_refused(&stack, &format!("r-{name}"), "certificate revoked"));
    kills += killed(&stack, LATER, |_| words("renew --server"), |_| {});
    assert!(kills > 40, "{kills}");
}

#[test]
fn killed_at_any_step_a_replacement_of_the_ca_goes_on_when_it_is_run_again() {
    let Some(()) = needs("strace") else { return };
    let stack = Stack::up();
    admin(&stack, &["enrol", "stays@example.com", "--name", "stays"], 0, "enrolled");
    let finish = words("ca replace --finish --yes");
    let renew = || admin(&stack, &["renew", "stays"], 0, "renewed");
    let end = || expect(stack.administer(&[]).args(&finish), 0, "is not trusted any more");
    // Each begins with a CA that is alone.
    let kills = killed(
        &stack,
        LATER,
        |_| words("ca replace"),
        |_| {
            renew();
            end();
        },
    );
    assert!(kills > 10, "{kills}");
    renew();
    end();
    let begin = |_: &str| {
        admin(&stack, &["ca", "replace"], 0, "stays trusted until just ca replace --finish");
        renew();
        finish.clone()
    };
    let kills = killed(&stack, AT_ONCE, begin, |_| {});
    assert!(kills > 4, "{kills}");
    assert!(!stack.certs.join("ca.old.key").exists());
}

#[test]
fn a_full_disk_leaves_the_old_good_state_at_each_step() {
    let Some(()) = needs_root("to mount a small disk") else { return };
    let builder = Builder::new().with_certificates();
    let folder = builder.state().join("certs");
    let aside = builder.state().join("aside");
    fs::rename(&folder, &aside).unwrap();
    fs::create_dir(&folder).unwrap();
    let disk = Disk::mount(&folder, "400k");
    assert!(Command::new("cp").arg("-a").arg(aside.join(".")).arg(&folder).status().unwrap().success());
    let stack = builder.up();
    for name in ["stays", "revoked"] {
        admin(&stack, &["enrol", &format!("{name}@example.com"), "--name", name], 0, "enrolled");
    }
    admin(&stack, &["revoke", "revoked"], 0, "revoked");
    let mut failures = 0;
    for free in (0..=40).step_by(4) {
        let name = format!("new{free}");
        disk.fill(free << 10);
        let commands = [
            vec!["enrol", "new@example.com", "--name", &name],
            vec!["renew", "stays"],
            vec!["crl"],
            vec!["renew", "--server"],
            vec!["ca", "renew"],
        ];
        for command in &commands {
            let output = stack.admin(command);
            if !output.status.success() {
                failures += 1;
                assert!(text(&output).contains("No space left on device"), "{command:?}: {}", text(&output));
            }
            beats(&stack, "stays");
            is_refused(&stack, "revoked", "certificate revoked");
        }
        // The row says revoked, and nginx learns of it as soon as there is room.
        let output = stack.admin(&["revoke", "stays"]);
        let half = text(&output).contains(", but nginx does not know of it");
        assert!(output.status.success() || half, "{}", text(&output));
        is_refused(&stack, "stays", if half { "this certificate is revoked" } else { "certificate revoked" });
        disk.clear();
        admin(&stack, &["crl", "--if-due"], 0, "CRL valid for");
        is_refused(&stack, "stays", "certificate revoked");
        admin(&stack, &["enrol", "new@example.com", "--name", &name], 0, "");
        beats(&stack, &name);
        admin(&stack, &["renew", "stays"], 0, "renewed");
    }
    assert!(failures > 8, "{failures}");
    drop(stack);
    drop(disk);
}

#[test]
fn a_revocation_says_done_only_when_it_holds() {
    let stack = Stack::with_its_own_cluster();
    for name in ["a", "b"] {
        admin(&stack, &["enrol", &format!("{name}@example.com"), "--name", name], 0, "enrolled");
        beats(&stack, name);
    }
    let lock = |seconds: u32| {
        let mut psql = stack.psql();
        let statement =
            format!("begin; select 'locked' from certificates for update; select pg_sleep({seconds}); end");
        let lock = crate::stack::Running::start(&stack, psql.args(["-c", &statement]));
        wait_until("the rows are locked", || {
            !stack.sql(
            "select 1 from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()"
        ).is_empty()
        });
        lock
    };
    // A row that somebody has locked: it waits, and then it gives up.
    let _short = lock(2);
    admin(&stack, &["revoke", "a"], 0, "(a@example.com, a) revoked");
    is_refused(&stack, "a", "certificate revoked");
    let long = lock(30);
    admin(&stack, &["revoke", "b"], 69, "lock timeout");
    drop(long);
    stack.sql_as(
        "postgres",
        "postgres",
        "select pg_terminate_backend(pid) from pg_stat_activity where wait_event = 'PgSleep'",
    );
    beats(&stack, "b");
    // A database that takes no writes, that does not answer, and that ends.
    let database = &stack.database;
    stack.sql_as(
        "postgres",
        "postgres",
        &format!("alter database {database} set default_transaction_read_only = on"),
    );
    admin(&stack, &["revoke", "b"], 69, "read-only transaction");
    admin(&stack, &["enrol", "c@example.com"], 69, "read-only transaction");
    stack.sql_as(
        "postgres",
        "postgres",
        &format!("alter database {database} reset default_transaction_read_only"),
    );
    let postmaster = fs::read_to_string(stack.cluster().join("data/postmaster.pid")).unwrap();
    let postmaster: u32 = postmaster.lines().next().unwrap().parse().unwrap();
    crate::program::signal("STOP", &[postmaster]);
    admin(&stack, &["revoke", "b"], 69, "the database did not answer within 10s");
    crate::program::signal("CONT", &[postmaster]);
    beats(&stack, "b");
    let killing = lock(30);
    let mut revoke = crate::stack::Running::start(&stack, stack.administer(&["revoke", "b"]));
    wait_until("it waits for the lock", || {
        !stack.sql(
        "select 1 from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
    ).is_empty()
    });
    crate::program::signal("INT", &[postmaster]);
    assert_eq!(revoke.exit(), 69, "{}", revoke.err());
    assert!(!revoke.out().contains("revoked"));
    drop(killing);
    expect(&mut stack.tool("stack/up"), 0, "");
    beats(&stack, "b");
    assert_eq!(listed(&stack), 1);
    admin(&stack, &["revoke", "b"], 0, "(b@example.com, b) revoked");
    is_refused(&stack, "b", "certificate revoked");
    // Two at once wait for each other.
    for name in ["c", "d"] {
        admin(&stack, &["enrol", &format!("{name}@example.com"), "--name", name], 0, "enrolled");
    }
    let mut both =
        ["c", "d"].map(|name| crate::stack::Running::start(&stack, stack.administer(&["revoke", name])));
    for one in &mut both {
        assert_eq!(one.exit(), 0, "{}", one.err());
    }
    assert_eq!(listed(&stack), 4);
}
