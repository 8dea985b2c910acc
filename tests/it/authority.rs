//! Certificates under faults: a signer that lies, a full disk, a kill at each step, a restored dump, another CA.

use std::fs;
use std::io::Write;
use std::process::Command;

use crate::disk::Disk;
use crate::stack::{Builder, Pair, Stack, date, expect, needs, needs_root, text, wait_until};

const MINUTE: i64 = 60;

#[track_caller]
fn admin(stack: &Stack, arguments: &[&str], exit: i32, said: &str) {
    expect(&mut stack.administer(arguments), exit, said);
}

#[track_caller]
fn openssl(stack: &Stack, script: &str) {
    expect(stack.command("bash").current_dir(&stack.certs).args(["-euo", "pipefail", "-c", script]), 0, "");
}

#[track_caller]
fn beats(stack: &Stack, name: &str) {
    expect(&mut stack.client(&stack.pair(name)), 0, "Success!");
}

#[track_caller]
fn is_refused(stack: &Stack, name: &str, detail: &str) {
    let answer = stack.curl(Some(&stack.pair(name)), &[]);
    assert!(answer.status != 204 && answer.detail().contains(detail), "{answer:?}");
}

/// The serial numbers on the CRL that nginx reads.
#[track_caller]
fn listed(stack: &Stack) -> usize {
    let mut command = stack.command("openssl");
    let output =
        command.args(["crl", "-noout", "-text", "-in"]).arg(stack.state.join("nginx/crl.pem")).output();
    text(&output.unwrap()).matches("Serial Number: ").count()
}

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

#[test]
fn a_restored_dump_forgets_no_revocation() {
    let stack = Stack::with_its_own_cluster();
    admin(&stack, &["enrol", "a@example.com", "--name", "early"], 0, "enrolled");
    let dump = stack.state.join("dump");
    let mut command = stack.command("pg_dump");
    command.args(["-Fc", "-U", "rollcall", "-h"]).arg(stack.cluster()).arg("-f").arg(&dump).arg("rollcall");
    expect(&mut command, 0, "");
    admin(&stack, &["enrol", "b@example.com", "--name", "late"], 0, "enrolled");
    for name in ["early", "late"] {
        beats(&stack, name);
    }
    admin(&stack, &["revoke", "early", "late"], 0, "revoked");
    let restore = || {
        let mut command = stack.command("pg_restore");
        command
            .args(["--clean", "--if-exists", "-U", "rollcall", "-d", "rollcall", "-h"])
            .arg(stack.cluster());
        expect(command.arg(&dump), 0, "");
        expect(&mut stack.tool("stack/up"), 0, "");
    };
    // `just up` looks at the list that this host has published.
    restore();
    let certs = text(&stack.admin(&["certs"]));
    assert!(certs.lines().any(|line| line.contains(" early ") && line.contains(" revoked ")), "{certs}");
    assert_eq!(stack.sql("select count(*) from revoked_serials"), "1", "no row describes the other");
    assert_eq!(listed(&stack), 2);
    // The server alone refuses both, also the one that has no row.
    admin(&stack, &["user", "add", "b@example.com"], 0, "enrolled");
    fs::write(stack.state.join("nginx/nginx.conf"), stack.log("nginx/nginx.conf").replace("ssl_crl ", "# "))
        .unwrap();
    expect(&mut stack.tool("stack/reload"), 0, "");
    for name in ["early", "late"] {
        is_refused(&stack, name, "this certificate is revoked");
    }
    admin(&stack, &["enrol", "b@example.com", "--name", "late"], 1, "late.crt is revoked: just renew late");
    is_refused(&stack, "late", "this certificate is revoked");
    // The administrator knows that the dump is right.
    restore();
    admin(&stack, &["crl", "--drop-forgotten"], 0, "CRL valid for");
    assert_eq!(listed(&stack), 2, "the rows know them by now");
    stack.sql("update certificates set revoked_at = null; delete from revoked_serials");
    admin(&stack, &["crl", "--drop-forgotten"], 0, "CRL valid for");
    assert_eq!(listed(&stack), 0);
    beats(&stack, "early");
}

#[test]
fn the_ca_is_renewed_lost_replaced_and_protected() {
    let stack = Stack::up();
    for name in ["old", "new"] {
        admin(&stack, &["enrol", &format!("{name}@example.com"), "--name", name], 0, "enrolled");
    }
    let before = stack.certs.join("before.crt");
    fs::copy(stack.certs.join("ca.crt"), &before).unwrap();
    let with_old_ca = |name: &str| {
        let Pair { cert, key } = stack.pair(name);
        let mut command = stack.program("rollcall-client");
        command.arg("--cert").arg(cert).arg("--key").arg(key).arg("--ca").arg(&before);
        command
    };
    // Renewed it keeps its name: all goes on, and one whose certificate was lost is made again.
    admin(&stack, &["ca", "renew"], 0, "ca.crt renewed until ");
    beats(&stack, "old");
    expect(&mut with_old_ca("old"), 0, "Success!");
    fs::remove_file(stack.certs.join("ca.crt")).unwrap();
    expect(&mut stack.tool("stack/up"), 0, "ca.crt made again (CN=rollcall CA ");
    beats(&stack, "old");
    expect(&mut with_old_ca("old"), 0, "Success!");
    // Without its key nothing is made that nobody could believe.
    fs::rename(stack.certs.join("ca.key"), stack.certs.join("away")).unwrap();
    fs::rename(stack.certs.join("server.key"), stack.certs.join("server.away")).unwrap();
    expect(
        &mut stack.tool("stack/up"),
        1,
        "put the key back; or, if the CA is somebody else's, set ROLLCALL_CA=external",
    );
    assert!(!stack.certs.join("server.key").exists());
    fs::rename(stack.certs.join("away"), stack.certs.join("ca.key")).unwrap();
    fs::rename(stack.certs.join("server.away"), stack.certs.join("server.key")).unwrap();

    admin(&stack, &["renew", "--server", "rollcall.example.com"], 0, "DNS:rollcall.example.com");
    admin(&stack, &["ca", "replace", "--finish"], 1, "no CA is being replaced");
    admin(
        &stack,
        &["ca", "replace"],
        0,
        "stays trusted until just ca replace --finish, with 3 of its certificates",
    );
    beats(&stack, "old");
    expect(&mut with_old_ca("old"), 0, "Success!");
    admin(&stack, &["renew", "new"], 0, "renewed");
    beats(&stack, "new");
    let in_use =
        "1 certificates of the old CA were used within 30 days, and would be refused: old@example.com (old)";
    admin(&stack, &["ca", "replace", "--finish"], 1, in_use);
    beats(&stack, "old");
    admin(&stack, &["ca", "replace", "--finish", "--yes"], 0, "is not trusted any more, with 3 certificates");
    beats(&stack, "new");
    is_refused(&stack, "old", "does not verify");
    expect(&mut with_old_ca("new"), 76, "no CA in the --ca file signed its certificate");
    let certs = text(&stack.admin(&["certs"]));
    assert!(certs.lines().any(|line| line.contains(" old ") && line.contains(" untrusted ")), "{certs}");
    let doctor = text(&stack.script("stack/status"));
    assert!(doctor.contains("certificates in the database are of a CA that is not in ca.crt"), "{doctor}");
    assert!(!doctor.contains("CRL of another CA"), "{doctor}");
    // The server keeps its names.
    openssl(
        &stack,
        "openssl x509 -in server.crt -noout -ext subjectAltName | grep -q DNS:rollcall.example.com",
    );

    let protected = |arguments: &[&str], passphrase: &str, exit, said: &str| {
        let mut command = stack.administer(arguments);
        expect(command.env("PASS", passphrase).env("ROLLCALL_CA_PASSIN", "env:PASS"), exit, said);
    };
    protected(&["ca", "protect"], "", 1, "an empty passphrase protects nothing; the key is as it was");
    protected(&["ca", "protect"], "secret", 0, "ca.key encrypted");
    protected(&["ca", "protect"], "secret", 1, "it is encrypted already");
    protected(&["enrol", "wrong@example.com"], "wrong", 1, "openssl ca failed");
    assert_eq!(stack.sql("select count(*) from users where email = 'wrong@example.com'"), "0");
    protected(&["renew", "old"], "secret", 0, "renewed");
    protected(&["revoke", "new"], "secret", 0, "revoked");
    beats(&stack, "old");
    is_refused(&stack, "new", "certificate revoked");
    protected(&["ca", "renew"], "secret", 0, "renewed until");
    beats(&stack, "old");
}

/// The server's role can note a certificate, and ask for another one: its word alone must not be enough.
#[test]
fn a_server_that_was_taken_over_gets_no_certificate_for_one_that_it_made_up() {
    let stack = Stack::up();
    assert!(stack.admin(&["user", "add", "a@example.com"]).status.success());
    let request = stack.request(&stack.certs.join("mallory.key"));
    let der = stack.certs.join("mallory.der");
    let mut command = stack.command("openssl");
    command.args(["req", "-outform", "DER", "-in"]).arg(request).arg("-out").arg(&der);
    expect(&mut command, 0, "");
    let hex: String = fs::read(der).unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
    stack.sql_as(
        "rollcall_server",
        &stack.database,
        &format!(
            "insert into certificates (serial_number, email, fingerprint, not_after)
                  values ('0BAD', 'a@example.com', repeat('0', 40), 9999999999);
             insert into renewals (fingerprint, serial_number, request)
                  values (repeat('0', 40), '0BAD', decode('{hex}', 'hex'))"
        ),
    );
    wait_until("it is refused", || {
        let _ = stack.admin(&["sign"]);
        !stack.sql("select refused from renewals where refused is not null").is_empty()
    });
    assert!(stack.sql("select refused from renewals").contains("was noted at its first use"));
    assert_eq!(stack.sql("select count(*) from certificates where email = 'a@example.com'"), "1");
}

#[test]
fn the_folder_of_the_certificates_may_be_a_relative_path() {
    let stack = Builder::new().stopped();
    let mut init = stack.program("rollcall-admin");
    init.args(["ca", "init"]);
    expect(init.current_dir(&stack.state).env("ROLLCALL_CERTS", "here"), 0, "ca.crt made");
    assert!(stack.state.join("here/server.crt").exists());
}

#[test]
fn a_signer_that_lies_replaces_nothing() {
    let stack = Stack::up();
    admin(&stack, &["enrol", "a@example.com", "--name", "a"], 0, "enrolled");
    let pair = ["a.crt", "a.key"].map(|file| fs::read(stack.certs.join(file)).unwrap());
    openssl(
        &stack,
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout /dev/null -subj /CN=a@example.com -days 9 -out lie.crt",
    );
    let ca = concat!(env!("CARGO_MANIFEST_DIR"), "/certs/ca sign");
    let own = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout /dev/null -subj /CN=x 2>/dev/null";
    for (command, said) in [
        ("true".to_owned(), "it printed no certificate"),
        ("echo rubbish".to_owned(), "it printed no certificate"),
        ("yes".to_owned(), "more than 65536 bytes"),
        ("exit 3".to_owned(), "exit status: 3"),
        ("cat lie.crt".to_owned(), "it printed a certificate of another key"),
        (own.to_owned(), "it printed a certificate of another key"),
        ("cat a.crt".to_owned(), "it printed a certificate of another key"),
        (
            format!("ROLLCALL_SIGN_CN=b@example.com {ca}"),
            "its names are [\"b@example.com\"], and \"a@example.com\" was asked for",
        ),
        (
            format!("ROLLCALL_SIGN_SAN=email:b@example.com {ca}"),
            "it names [\"b@example.com\"] beside a@example.com",
        ),
        (format!("ROLLCALL_SIGN_UNTIL=20991231235959Z {ca}"), "it lives for longer than was asked"),
        (
            format!("ROLLCALL_SIGN_FROM=20990101000000Z ROLLCALL_SIGN_UNTIL=20991231235959Z {ca}"),
            "it is not valid now",
        ),
        (format!("ROLLCALL_SIGN_USAGE=serverAuth {ca}"), "its extensions do not make it one for clientAuth"),
        (format!("{ca} | head -c 300"), "it is damaged"),
    ] {
        let mut renew = stack.administer(&["renew", "a"]);
        expect(renew.env("ROLLCALL_SIGN", &command), 1, said);
        let mut enrol = stack.administer(&["enrol", "new@example.com"]);
        let failed = enrol.env("ROLLCALL_SIGN", &command).output().unwrap();
        assert_eq!(failed.status.code(), Some(1), "{command}: {}", text(&failed));
        let after = ["a.crt", "a.key"].map(|file| fs::read(stack.certs.join(file)).unwrap());
        assert!(after == pair, "{command}");
    }
    assert_eq!(stack.sql("select count(*) from users where email = 'new@example.com'"), "0");
    assert_eq!(stack.sql("select count(*) from certificates where device = 'a'"), "1");
    // One of one's own that is honest, with a chain, and without our key.
    fs::rename(stack.certs.join("ca.key"), stack.certs.join("elsewhere.key")).unwrap();
    let mut renew = stack.administer(&["renew", "a"]);
    let honest = format!("ROLLCALL_SIGN_KEY=elsewhere.key {ca}; cat ca.crt");
    expect(renew.env("ROLLCALL_SIGN", honest), 0, "a.crt renewed");
    beats(&stack, "a");
}

#[test]
fn only_keys_that_every_door_takes_are_signed() {
    let stack = Stack::up();
    for (i, (key, taken)) in [
        ("rsa:2048", true),
        ("rsa:3072", true),
        ("rsa:4096", true),
        ("ec -pkeyopt ec_paramgen_curve:P-256", true),
        ("ec -pkeyopt ec_paramgen_curve:P-384", true),
        ("ed25519", true),
        ("rsa:512", false),
        ("rsa:1024", false),
        ("ec -pkeyopt ec_paramgen_curve:P-224", false),
        ("ec -pkeyopt ec_paramgen_curve:P-521", false),
        ("ec -pkeyopt ec_paramgen_curve:secp256k1", false),
        ("ec -pkeyopt ec_paramgen_curve:brainpoolP256r1", false),
        ("ec -pkeyopt ec_paramgen_curve:P-256 -pkeyopt ec_param_enc:explicit", false),
        ("ed448", false),
        ("rsa-pss -pkeyopt rsa_keygen_bits:2048", false),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("key{i}");
        openssl(
            &stack,
            &format!("openssl req -new -newkey {key} -nodes -subj / -keyout {name}.key -out {name}.csr"),
        );
        let csr = stack.certs.join(format!("{name}.csr")).display().to_string();
        let enrol = ["enrol", &format!("{name}@example.com"), "--name", &name, "--csr", &csr];
        match taken {
            true => {
                admin(&stack, &enrol, 0, "made");
                for version in ["1.2", "1.3"] {
                    let options = [&format!("--tlsv{version}"), "--tls-max", version];
                    assert_eq!(
                        stack.curl(Some(&stack.pair(&name)), &options).status,
                        204,
                        "{key} over TLS {version}"
                    );
                }
                beats(&stack, &name);
            }
            false => admin(&stack, &enrol, 1, "rollcall takes"),
        }
    }
    // None of those that were refused left a row behind.
    assert_eq!(stack.sql("select count(*) from users where email like 'key%'"), "6");
}

#[test]
fn nothing_that_is_made_now_is_too_early_for_a_clock_that_is_behind() {
    let stack = Stack::up();
    admin(&stack, &["enrol", "a@example.com", "--name", "a"], 0, "enrolled");
    openssl(
        &stack,
        "test $(($(date +%s) - $(date -d \"$(openssl x509 -in a.crt -noout -startdate | cut -d = -f 2)\" +%s))) -gt 280",
    );
    openssl(
        &stack,
        "test $(($(date +%s) - $(date -d \"$(openssl crl -in crl.pem -noout -lastupdate | cut -d = -f 2)\" +%s))) -gt 280",
    );
    // A list from a clock that was ahead is told of, and made anew.
    let list =
        stack.tool("certs/ca").arg("crl").env("ROLLCALL_SIGN_FROM", date(10 * MINUTE)).output().unwrap();
    for file in [stack.certs.join("crl.pem"), stack.state.join("nginx/crl.pem")] {
        fs::write(file, &list.stdout).unwrap();
    }
    expect(&mut stack.tool("stack/reload"), 0, "");
    is_refused(&stack, "a", "CRL is not yet valid");
    expect(&mut stack.tool("stack/status"), 1, "does not hold before ");
    admin(&stack, &["crl", "--if-due"], 0, "CRL valid for");
    beats(&stack, "a");
    expect(&mut stack.tool("stack/status"), 0, "");
}

#[test]
fn certificates_of_one_number_are_three_certificates() {
    let stack = Stack::up();
    for name in ["one", "two", "three"] {
        let email = format!("{name}@example.com");
        assert!(stack.admin(&["user", "add", &email]).status.success());
        openssl(
            &stack,
            &format!(
                "openssl req -new -newkey rsa:2048 -nodes -subj /CN={email} -keyout {name}.key |
                openssl x509 -req -CA ca.crt -CAkey ca.key -set_serial 01 -days 9 -extfile <(echo extendedKeyUsage=clientAuth) -out {name}.crt"
            ),
        );
        beats(&stack, name);
    }
    let rows = text(&stack.admin(&["certs", "--json"]));
    let rows: Vec<serde_json::Value> = rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |email: &str| rows.iter().find(|row| row["email"] == email).unwrap();
    let fingerprint = of("two@example.com")["fingerprint"].as_str().unwrap();
    assert_eq!(rows.iter().filter(|row| row["serial"] == "01").count(), 3, "{rows:#?}");
    admin(
        &stack,
        &["revoke", "01"],
        1,
        "several CAs gave the serial number 01: give one of the fingerprints",
    );
    admin(&stack, &["revoke", fingerprint], 0, "01 (two@example.com) revoked");
    // The CRL can only name the number: so nginx refuses all three, which is told.
    let known = stack.sql("select string_agg(email, ' ') from certificates where revoked_at is not null");
    assert_eq!(known, "two@example.com");
    is_refused(&stack, "two", "revoked");
}

/// A CA that is no work of ours, as a company has it: a root, a CA between, and certificates of several shapes.
const COMPANY: &str = r#"
    mkdir company && cd company
    openssl req -x509 -newkey rsa:2048 -nodes -keyout root.key -out root.crt -days 99 -subj "/DC=example/DC=corp/CN=Corp Root"
    sign() { # NAME SUBJECT EXTENSIONS
        openssl req -new -newkey ${4:-rsa:2048} -nodes -keyout "$1.key" -subj "$2" |
            openssl x509 -req -CA root.crt -CAkey root.key -days 9 -out "$1.crt" -extfile <(printf "$3")
    }
    sign server "/CN=presence.corp.example" "subjectAltName=DNS:presence.corp.example,DNS:localhost\nextendedKeyUsage=serverAuth"
    sign alice "/DC=example/DC=corp/CN=Users/CN=Alice" "extendedKeyUsage=clientAuth\nsubjectAltName=otherName:1.3.6.1.4.1.311.20.2.3;UTF8:alice@corp.example"
    sign bob "/CN=bob@corp.example" "extendedKeyUsage=clientAuth"
    cat >cnf <<END
[ca]
default_ca = d
[d]
database = index
crlnumber = number
default_md = sha256
END
    : >index; echo 01 >number
    crl() { openssl ca -config cnf -gencrl -keyfile root.key -cert root.crt -crldays ${1:-9} -out root.crl; }
    crl
    cp root.crt ../ca.crt
    cp server.crt server.key bob.crt bob.key alice.crt alice.key ..
"#;

#[test]
fn a_companys_ca_works_without_its_key() {
    let stack = Builder::new().set("ROLLCALL_CA", "external").stopped();
    fs::create_dir(&stack.certs).unwrap();
    expect(&mut stack.tool("stack/up"), 1, "ca.crt is missing or empty: give it");
    assert_eq!(
        fs::read_dir(&stack.certs)
            .unwrap()
            .filter(|file| { !file.as_ref().unwrap().file_name().to_string_lossy().starts_with('.') })
            .count(),
        0,
        "nothing was made"
    );
    openssl(&stack, COMPANY);
    expect(&mut stack.tool("stack/up"), 0, "nginx        ready");
    assert!(!stack.certs.join("ca.key").exists() && !stack.certs.join("client.crt").exists());
    let doctor = text(&stack.script("stack/status"));
    assert!(stack.script("stack/status").status.success(), "{doctor}");
    // A person of theirs is enrolled, and noted at the first use; or before, by the certificate.
    let database = format!("postgres://rollcall@localhost/rollcall?host={}/postgres", stack.state.display());
    let admin = |arguments: &[&str], exit, said: &str| {
        expect(stack.administer(arguments).env("DATABASE_URL", &database), exit, said);
    };
    is_refused(&stack, "bob", "not enrolled");
    let bob = stack.certs.join("bob.crt").display().to_string();
    admin(&["enrol", "eve@corp.example", "--cert", &bob], 1, "it proves another name");
    admin(&["enrol", "bob@corp.example", "--cert", &bob, "--name", "laptop"], 0, "noted");
    beats(&stack, "bob");
    admin(&["enrol", "carol@corp.example"], 78, "ROLLCALL_CA is external, so that this host cannot sign");
    admin(&["ca", "renew"], 1, "ROLLCALL_CA is external: its CA does that");
    admin(&["renew", "--server"], 78, "ROLLCALL_CA is external, so that this host cannot sign");
    admin(&["crl"], 0, "");
    admin(&["revoke", "laptop"], 0, "(bob@corp.example, laptop) revoked");
    is_refused(&stack, "bob", "this certificate is revoked");
    admin(&["enrol", "bob@corp.example", "--cert", &bob], 1, "it is revoked, for good");
}

#[test]
fn a_companys_lists_are_fetched_and_checked() {
    let stack = Builder::new().set("ROLLCALL_CA", "external").set("ROLLCALL_CRL", "files").stopped();
    fs::create_dir(&stack.certs).unwrap();
    openssl(&stack, COMPANY);
    expect(&mut stack.tool("stack/up"), 1, "there is no CRL for nginx: put the one of the CA into crl.d");
    openssl(&stack, "mkdir crl.d; cp company/root.crl crl.d/root.pem");
    expect(&mut stack.tool("stack/up"), 0, "nginx        ready");
    assert!(stack.log("nginx/nginx.conf").contains("ssl_session_cache       off;"), "no session is resumed");
    // The timer fetches them from a web server.
    let served = crate::stack::free_port();
    let mut python = stack.command("python3");
    python
        .args(["-m", "http.server", "--bind", "127.0.0.1", &served.to_string()])
        .current_dir(stack.certs.join("company"));
    let _python = crate::stack::Running::start(&stack, python);
    wait_until("it serves", || std::net::TcpStream::connect(("127.0.0.1", served)).is_ok());
    let database = format!("postgres://rollcall@localhost/rollcall?host={}/postgres", stack.state.display());
    let crl = |file: &str, exit, said: &str| {
        let mut command = stack.administer(&["crl", "--if-due"]);
        command
            .env("DATABASE_URL", &database)
            .env("ROLLCALL_CRL", format!("http://127.0.0.1:{served}/{file}"));
        expect(&mut command, exit, said);
    };
    crl("root.crl", 0, "CRL valid for");
    let enrol = ["enrol", "bob@corp.example"];
    expect(stack.administer(&["user", "add", enrol[1]]).env("DATABASE_URL", &database), 0, "");
    beats(&stack, "bob");
    // Each that is of no use leaves the last good one of its place.
    openssl(&stack, "cd company; openssl req -x509 -newkey rsa:2048 -nodes -keyout other.key -out other.crt -days 9 -subj '/DC=example/DC=corp/CN=Corp Root'
        openssl ca -config cnf -gencrl -keyfile other.key -cert other.crt -crldays 9 -out forged.crl
        openssl ca -config cnf -gencrl -keyfile root.key -cert root.crt -crl_lastupdate 20990101000000Z -crl_nextupdate 20990201000000Z -out future.crl
        openssl ca -config cnf -gencrl -keyfile root.key -cert root.crt -crl_lastupdate 20200101000000Z -crl_nextupdate 20200201000000Z -out ended.crl
        openssl ca -config cnf -gencrl -keyfile root.key -cert root.crt -crl_lastupdate $(date -u -d yesterday +%Y%m%d%H%M%SZ) -crl_nextupdate 20990201000000Z -out older.crl
        cp root.crl good.crl");
    for (file, said) in [
        ("forged.crl", "its signature does not verify"),
        ("future.crl", "it does not hold yet"),
        ("ended.crl", "it has ended"),
        ("older.crl", "it is older than the one that is in use"),
        ("bob.crt", "it is not a CRL"),
        ("nothing.crl", "404"),
    ] {
        openssl(&stack, &format!("cd company; rm -f root.crl; test ! -e {file} || cp {file} root.crl"));
        crl("root.crl", 1, said);
        beats(&stack, "bob");
    }
    openssl(
        &stack,
        "cd company; openssl ca -config cnf -keyfile root.key -cert root.crt -revoke bob.crt; openssl ca -config cnf -gencrl -keyfile root.key -cert root.crt -crldays 9 -out root.crl",
    );
    crl("root.crl", 0, "CRL valid for");
    is_refused(&stack, "bob", "certificate revoked");
    // A server that sends without an end.
    let endless = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = endless.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = endless.accept().unwrap();
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        while stream.write_all(&[b'x'; 1 << 16]).is_ok() {}
    });
    let mut command = stack.administer(&["crl"]);
    command.env("DATABASE_URL", &database).env("ROLLCALL_CRL", format!("http://{address}/endless"));
    expect(&mut command, 1, "it has more than 134217728 bytes; there is no earlier copy");
    is_refused(&stack, "bob", "certificate revoked");
}

#[test]
fn a_list_that_was_taken_out_is_out_of_use() {
    let stack = Stack::up();
    openssl(&stack, "mkdir crl.d; openssl req -x509 -newkey rsa:2048 -nodes -keyout o.key -out o.crt -days 9 -subj /CN=other
        printf '[ca]\ndefault_ca=d\n[d]\ndatabase=index\ndefault_md=sha256\n' >cnf; : >index
        openssl ca -config cnf -gencrl -keyfile o.key -cert o.crt -crldays 9 -out crl.d/other.pem");
    admin(&stack, &["crl"], 0, "CRL valid for ");
    assert_eq!(stack.log("nginx/crl.pem").matches("BEGIN X509 CRL").count(), 2);
    // A revocation does not read it again, and one that has no end is no file.
    openssl(&stack, "echo broken >crl.d/other.pem; mkfifo crl.d/pipe.pem");
    admin(&stack, &["revoke", "client"], 0, "client) revoked");
    assert_eq!(stack.log("nginx/crl.pem").matches("BEGIN X509 CRL").count(), 2);
    admin(&stack, &["crl"], 1, "crl.d/other.pem: it is not a CRL; its last good copy stays in use");
    fs::remove_file(stack.certs.join("crl.d/other.pem")).unwrap();
    admin(&stack, &["crl"], 0, "CRL valid for ");
    assert_eq!(stack.log("nginx/crl.pem").matches("BEGIN X509 CRL").count(), 1);
}

#[test]
fn a_servers_certificate_of_another_ca_and_for_another_name_is_taken() {
    let stack = Builder::new().with_certificates().stopped();
    openssl(
        &stack,
        "openssl req -x509 -newkey rsa:2048 -nodes -keyout other.key -out other.crt -days 99 -subj /CN=other
        openssl req -new -newkey rsa:2048 -nodes -keyout server.key -subj /CN=presence.corp.example |
            openssl x509 -req -CA other.crt -CAkey other.key -days 99 -out server.crt \
                -extfile <(printf 'subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth')",
    );
    expect(&mut stack.tool("stack/up"), 0, "nginx        ready");
    let mut client = stack.program("rollcall-client");
    expect(client.arg("--ca").arg(stack.certs.join("other.crt")), 0, "Success!");
    expect(&mut stack.tool("stack/status"), 0, "");
}

/// The statements of a server of the version before (sql/0002 was the last that it knew).
#[test]
fn the_migration_keeps_each_row_and_a_server_of_the_version_before_goes_on() {
    let stack = Stack::database();
    let old = format!("{}_old", stack.database);
    stack.sql_as("postgres", "postgres", &format!("create database {old} owner rollcall"));
    let file = |name: &str| {
        let mut psql = stack.psql_as("rollcall", &old);
        expect(psql.arg("-f").arg(concat!(env!("CARGO_MANIFEST_DIR"), "/").to_owned() + name), 0, "");
    };
    let sql = |statement: &str| stack.sql_as("rollcall", &old, statement);
    let mut migrations: Vec<String> = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/sql"))
        .unwrap()
        .map(|entry| format!("sql/{}", entry.unwrap().file_name().display()))
        .collect();
    migrations.sort();
    let (before, since) = migrations.split_at(2);
    before.iter().for_each(|name| file(name));
    // deploy/grants.sql names it.
    sql("create table _sqlx_migrations ()");
    sql("insert into users (email) values ('a@example.com'), ('b@example.com')");
    // Two of one fingerprint can only have been written by hand, and are kept.
    sql("insert into certificates (serial, email, fingerprint, not_after, last_used_ns, revoked_at) values
            ('01', 'a@example.com', repeat('1', 40), 9999999999, 7, null),
            ('02', 'a@example.com', repeat('1', 40), 9999999999, null, now()),
            ('03', 'b@example.com', repeat('3', 40), 1, null, null)");
    since.iter().for_each(|name| file(name));
    file("deploy/grants.sql");
    assert_eq!(
        sql("select string_agg(serial_number || email || left(fingerprint, 1) || coalesce(last_used_ns, 0)
                || (revoked_at is null), ' ' order by serial_number) from certificates"),
        "01a@example.com17true 02a@example.com10false 03b@example.com30true"
    );
    let as_the_old_server = |serial: &str, fingerprint: char| {
        let statement = format!(
            "insert into certificates (serial, email, fingerprint, not_after, last_used_ns)
             values ('{serial}', 'a@example.com', repeat('{fingerprint}', 40), 9999999999, 8)
                 on conflict (serial) do update set last_used_ns = excluded.last_used_ns"
        );
        stack.sql_as("rollcall_server", &old, &statement);
        sql(&format!("select bool_or(revoked_at is not null) from certificates where serial = '{serial}'"))
    };
    // The new server has noted one that it meets, and another CA has given a number again.
    sql("insert into certificates (serial_number, email, fingerprint, not_after) values
            ('04', 'a@example.com', repeat('4', 40), 9999999999), ('01', 'b@example.com', repeat('5', 40), 9999999999)");
    for (serial, fingerprint, is_revoked) in
        [("01", '1', "f"), ("02", '1', "t"), ("06", '6', "f"), ("04", '4', ""), ("01", '5', "f")]
    {
        assert_eq!(as_the_old_server(serial, fingerprint), is_revoked, "{serial} {fingerprint}");
    }
    assert_eq!(sql("select count(*) from certificates"), "6");
    // The new one revokes, and the old one refuses.
    let store = format!("postgres://rollcall@localhost/{old}?host={}", stack.cluster().display());
    let revoked = async_std::task::block_on(async {
        let store = rollcall::store::Store::open(&store, std::time::Duration::from_secs(9)).unwrap();
        let rows = store.certificates_with(&"4".repeat(40)).await.unwrap();
        let certificates: Vec<_> = rows.into_iter().map(|row| row.certificate).collect();
        store.revoke(&certificates).await
    });
    revoked.unwrap();
    assert_eq!(as_the_old_server("04", '4'), "t");
    stack.sql_as("postgres", "postgres", &format!("drop database {old} with (force)"));
}

/// As the version before has left it.
#[test]
fn the_lists_of_an_earlier_version_are_taken_over_once() {
    let stack = Stack::up();
    for name in ["a", "b", "c"] {
        assert!(stack.admin(&["user", "add", &format!("{name}@example.com")]).status.success());
    }
    let make = |name: &str, email: &str| -> Pair {
        let made = stack.certificate(email, &[]);
        let pair = stack.pair(name);
        fs::rename(made.cert, &pair.cert).unwrap();
        fs::rename(made.key, &pair.key).unwrap();
        pair
    };
    for (name, email) in
        [("phone", "a@example.com"), ("b", "b@example.com"), ("c", "c@example.com"), ("x", "x@example.com")]
    {
        make(name, email);
        beats_if(&stack, name, email != "x@example.com");
    }
    // `b` is revoked in the index alone, `x` is nobody's, `gone` has no copy, and an empty copy is of a full disk.
    openssl(
        &stack,
        r#"mkdir issued; : >issued/index.txt; : >issued/00.pem
        serial() { openssl x509 -in $1.crt -noout -serial | cut -d = -f 2; }
        for name in phone b c x; do cp $name.crt issued/$(serial $name).pem; echo "$(serial $name) $name" >>issued/names; done
        for name in b x; do printf 'R\t271125221457Z\t261120101112Z\t%s\tunknown\t/CN=x\n' $(serial $name) >>issued/index.txt; done
        printf 'R\t271125221457Z\t261120101112Z,superseded\tABCDEF\tunknown\t/CN=x\n' >>issued/index.txt
        printf 'R\t271125221457Z\t20261120101112Z\tABCD\tunknown\t/CN=x\nR\tx\tx\tno-number\tunknown\t\n' >>issued/index.txt
        mkdir issued/folder.pem issued.imported
        printf 'V\t271125221457Z\t\t%s\tunknown\t/CN=x\n' $(serial c) >>issued/index.txt"#,
    );
    admin(&stack, &["certs"], 0, "issued imported: 3 certificates; it is now ");
    assert!(stack.certs.join("issued.imported.2").exists());
    assert!(!stack.certs.join("issued").exists() && stack.certs.join("issued.imported").exists());
    assert_eq!(
        stack.sql("select email || ' ' || (revoked_at is not null) from certificates where device = 'b'"),
        "b@example.com true"
    );
    assert_eq!(stack.sql("select count(*) from revoked_serials"), "3");
    admin(&stack, &["crl"], 0, "");
    assert_eq!(listed(&stack), 4);
    is_refused(&stack, "b", "certificate revoked");
    beats(&stack, "phone");
    // The name is known: a device is revoked by it.
    admin(&stack, &["revoke", "phone"], 0, "(a@example.com, phone) revoked");
    is_refused(&stack, "phone", "certificate revoked");
    beats(&stack, "c");
}

#[track_caller]
fn beats_if(stack: &Stack, name: &str, enrolled: bool) {
    match enrolled {
        true => beats(stack, name),
        false => is_refused(stack, name, "not enrolled"),
    }
}
