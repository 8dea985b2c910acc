//! A second host joins, takes each CRL from the database, and leaves: two real stacks on one database.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use async_std::task::block_on;
use rollcall::admin::scram::verifier;
use rollcall::keyfile;
use rollcall::store::{self, NewRole, Store};

use crate::board::{host, json};
use crate::cluster::{self, Cluster};
use crate::program::{Running, signal};
use crate::stack::{Builder, PATIENCE, Stack, binaries, expect, free_port, needs_root, text, wait_until};

const VALID: &str = "valid_user@qt-test.com";
const THERE: &str = "do that on the host with the key of the CA";
const BIRD: &str = "bird@example.com";

/// The URL of an owner that may make roles, with the rights of deploy/README.md and no others.
fn as_owner(stack: &Stack, name: &str) -> String {
    let owner = format!("owner_{}", name.replace('-', "_"));
    stack.sql_as("postgres", "postgres", &format!("create role {owner} login createrole in role rollcall"));
    stack.sql_as(
        "postgres",
        "postgres",
        &format!("grant rollcall_server, rollcall_reader to {owner} with admin option"),
    );
    stack.database_url().replace("rollcall@", &format!("{owner}@"))
}

/// The passwords of the roles of a server.
fn passwords(stack: &Stack, name: &str) -> String {
    let roles = format!(
        "select string_agg(rolname || rolpassword, ' ' order by 1) from pg_authid where rolname like 'rollcall%{name}'"
    );
    stack.sql_as("postgres", "postgres", &roles)
}

/// The cluster of the tests has peer authentication: the roles of this server may come in, too.
fn let_in(stack: &Stack, name: &str) {
    let file = stack.cluster().join("data/pg_ident.conf");
    let user = text(&stack.command("id").arg("-un").output().unwrap());
    let mut lines = String::new();
    let owner = format!("owner_{}", name.replace('-', "_"));
    for role in [format!("rollcall_server_{name}"), format!("rollcall_reader_{name}"), owner] {
        for system in [user.trim(), "rollcall"] {
            lines += &format!("rollcall {system} {role}\n");
        }
    }
    use std::io::Write;
    fs::OpenOptions::new().append(true).open(file).unwrap().write_all(lines.as_bytes()).unwrap();
    stack.sql_as("postgres", "postgres", "select pg_reload_conf()");
}

/// That which `just invite` prints after the flag.
fn invite(stack: &Stack, name: &str, hosts: &[&str]) -> String {
    let mut command = stack.administer(&[&["invite", name], hosts].concat());
    let output = command.env("ROLLCALL_CANARY", BIRD).output().unwrap();
    let warned = String::from_utf8_lossy(&output.stderr);
    // The cluster of the tests is reached by its socket alone.
    assert!(
        warned.contains("WARNING: no other host reaches this database: it listens on no address"),
        "{warned}"
    );
    let said = String::from_utf8(output.stdout).unwrap();
    said.trim_end().rsplit_once("--invitation ").unwrap_or_else(|| panic!("{said}")).1.to_owned()
}

fn served_by(stack: &Stack) -> String {
    stack.sql(&format!("select server from users where email = '{VALID}'"))
}

/// Whoever reads the log of the database cannot log in with it.
#[test]
fn the_log_of_the_database_holds_no_password() {
    let stack = cluster::stack(&[]);
    let access = "host all all 127.0.0.1/32 scram-sha-256";
    let cluster = Cluster::primary(&stack, "log_statement = all\nlog_min_duration_statement = 0", access);
    cluster.sql("postgres", "alter role rollcall createrole");
    cluster.sql("postgres", "grant rollcall_server to rollcall with admin option");
    let owner = cluster.url_over_tcp("127.0.0.1", "sslmode=disable");
    let enter = |password: &str| {
        let url = owner.replace("rollcall:secret@", &format!("rollcall_server_two:{password}@"));
        block_on(Store::open(&url, PATIENCE).unwrap().clock())
    };
    // It is made, and then changed.
    for (password, before) in [("0123456789abcdef", "secret"), ("fedcba9876543210", "0123456789abcdef")] {
        let name = "rollcall_server_two".to_owned();
        let role =
            NewRole { name, verifier: verifier(password, b"sixteen of them."), group: "rollcall_server" };
        block_on(Store::open(&owner, PATIENCE).unwrap().make_roles(&[role])).unwrap();
        assert!(enter(password).is_ok(), "{:?}", enter(password));
        assert!(matches!(enter(before), Err(store::Error::Refused(_))), "{:?}", enter(before));
    }
    let log = fs::read_to_string(cluster.folder.join("primary.log")).unwrap();
    for statement in ["create", "alter"] {
        let logged = format!("{statement} role rollcall_server_two login password 'SCRAM-SHA-256$4096:");
        assert!(log.contains(&logged), "{log}");
    }
    assert!(!log.contains("0123456789abcdef") && !log.contains("fedcba9876543210"), "{log}");
}

#[test]
fn a_second_host_joins_takes_each_crl_and_leaves() {
    let first = Builder::new()
        .set("ROLLCALL_NAME", "one")
        .set("ROLLCALL_CANARY", BIRD)
        .set("ROLLCALL_BOARD", "on")
        .up();
    let broadcast = format!("127.255.255.255:{}", first.broadcast_port);
    let second = Builder::new()
        .set("ROLLCALL_BROADCAST", broadcast)
        .set("ROLLCALL_CANARY", BIRD)
        .set("ROLLCALL_BOARD", "on")
        .stopped();
    let name = format!("two-{}", free_port());
    let_in(&first, &name);
    let owner = as_owner(&first, &name);
    let logs = format!("alter role owner_{} set log_statement = 'all'", name.replace('-', "_"));
    first.sql_as("postgres", "postgres", &logs);
    let invitation = invite(&first, &name, &["second.example.com"]);
    let join = |invitation: &str| {
        let mut command = second.program("rollcall-admin");
        command.args(["join", &owner, "--invitation", invitation]);
        command
    };
    // Whoever writes into the database without the secret gets nothing.
    let (_, secret) = invitation.split_once(':').unwrap();
    let wrong = format!("{name}:{}", secret.chars().rev().collect::<String>());
    expect(&mut join(&wrong), 1, "the first host refuses it");
    let said = first.log("signer.log");
    assert!(
        said.contains(&format!("{name} cannot join: its request was made with another invitation")),
        "{said}"
    );
    assert_eq!(passwords(&first, &name), "");
    assert!(!second.state.join("settings").exists() && !second.certs.join("server.key").exists());
    // Neither stands on the command line.
    let mut quietly = second.program("rollcall-admin");
    quietly.arg("join").env("DATABASE_URL", &owner).env("ROLLCALL_INVITATION", &invitation);
    expect(&mut quietly, 0, &format!("{name} has joined"));
    // It is good once. The roles of a server that runs stay as they are when somebody asks in vain.
    let before = passwords(&first, &name);
    for refused in [&wrong, &invitation] {
        expect(&mut join(refused), 1, "the first host refuses it");
    }
    assert_eq!(passwords(&first, &name), before);
    assert_eq!(first.sql("select count(*) from joins where answer is null"), "0");
    expect(&mut join("two"), 1, "which just invite NAME on the first host prints");
    let settings = fs::read_to_string(second.state.join("settings")).unwrap();
    assert!(
        settings.contains("ROLLCALL_CA=joined\n") && settings.contains(&format!("ROLLCALL_NAME={name}\n")),
        "{settings}"
    );
    assert_eq!(fs::metadata(second.state.join("settings")).unwrap().permissions().mode() & 0o777, 0o600);
    let log = fs::read_to_string(first.cluster().join("log")).unwrap();
    assert!(
        log.contains(&format!("role \"rollcall_server_{name}\" login password 'SCRAM-SHA-256$4096:")),
        "{settings}"
    );
    for url in settings.lines().filter(|line| line.contains("DATABASE_URL=")) {
        let password = url.split_once('@').and_then(|(before, _)| before.rsplit_once(':')).unwrap().1;
        assert!(password.len() == 48 && !log.contains(password), "{url}");
    }
    assert!(!second.certs.join("ca.key").exists());
    let hosts = text(
        &second
            .command("openssl")
            .args(["x509", "-noout", "-ext", "subjectAltName", "-in"])
            .arg(second.certs.join("server.crt"))
            .output()
            .unwrap(),
    );
    assert!(hosts.contains("DNS:second.example.com") && hosts.contains("DNS:localhost"), "{hosts}");
    expect(&mut second.tool("stack/up"), 0, "takes each new CRL from the database");
    expect(&mut second.tool("stack/status"), 0, "ready");
    let limits =
        "select string_agg(rolconnlimit::text, ' ') from pg_roles where rolname like 'rollcall\\_%\\_";
    assert_eq!(first.sql(&format!("{limits}{name}'")), "8 8");
    let pair = first.pair("client");
    let ear = first.ear();
    assert_eq!(second.curl(Some(&pair), &[]).status, 204);
    assert_eq!(ear.hear().email.as_str(), VALID);
    assert_eq!(served_by(&first), name);
    // Each board has everybody.
    for stack in [&first, &second] {
        wait_until("the board has them", || {
            json(&host(stack, &format!("/api/who/{VALID}")))["state"] == "online"
        });
        let mut who = stack.tool("stack/run");
        expect(who.args(["rollcall-client", "who"]), 0, "1 online");
    }
    let own = |stack: &Stack| keyfile::public_key(&stack.certs.join("broadcast.pub")).unwrap();
    for stack in [&first, &second] {
        let mut keys = stack.tool("stack/run");
        let printed = text(&keys.args(["rollcall-admin", "keys"]).output().unwrap());
        assert_eq!(keyfile::parse_public_keys(&printed).unwrap(), [own(&first), own(&second)], "{printed}");
    }
    // Without the key of the CA it signs nothing.
    let mut enrol = second.tool("stack/run");
    expect(enrol.args(["rollcall-admin", "enrol", "x@example.com"]), 1, THERE);
    for command in [
        &["user", "disable", VALID][..],
        &["user", "every", VALID, "5m"],
        &["user", "forget", VALID],
        &["revoke", VALID],
        &["leave", "one"],
        &["leave", &name, "--forget"],
        &["maintain"],
        &["history", VALID],
        &["ca", "renew"],
    ] {
        let mut denied = second.tool("stack/run");
        let said = text(&denied.arg("rollcall-admin").args(command).output().unwrap());
        let is_own = command.contains(&name.as_str());
        assert!(is_own || said.contains(THERE), "{command:?}: {said}");
        assert!(!said.contains("permission denied"), "{command:?}: {said}");
    }
    // On the first host it is the role of the URL.
    let mut disable = first.administer(&["user", "disable", VALID]);
    disable.env("DATABASE_URL", first.server_database_url());
    expect(&mut disable, 1, "permission denied for table users: this needs the rights of the owner");

    // A URL that the stack hands on is called by its own name, and nothing is stopped for it.
    for variable in ["ROLLCALL_SERVER_DATABASE_URL", "ROLLCALL_BOARD_DATABASE_URL"] {
        let mut up = first.tool("stack/up");
        up.env(variable, "postgres://a:hunter2@b/c");
        expect(&mut up, 1, &format!("{variable} is malformed: it leads over TCP"));
        assert_eq!(host(&first, "/readyz").status, 204);
    }

    // A revocation holds in the nginx of both.
    let doomed = first.member("doomed@example.com");
    assert_eq!(second.curl(Some(&doomed), &[]).status, 204);
    let list = || fs::read_to_string(second.state.join("nginx/crl.pem")).unwrap();
    let before = list();
    expect(&mut first.administer(&["revoke", "doomed@example.com"]), 0, "revoked");
    wait_until("nginx of the second refuses it", || second.curl(Some(&doomed), &[]).status == 400);
    let newest = list();
    assert_ne!(newest, before);

    // A restored dump may have an older list, somebody in the database a forged one: the host keeps its own.
    let was = first.sql("select number || ' ' || encode(der, 'hex') from crls");
    let (number, der) = was.split_once(' ').unwrap();
    let crl = |said: &str| {
        let mut crl = second.tool("stack/run");
        expect(crl.args(["rollcall-admin", "crl"]), 0, said);
        assert_eq!(list(), newest);
    };
    first.sql("update crls set number = 'FFFFFFFFFFFFFFFFFF', der = overlay(der placing '\\x00' from length(der) - 3)");
    crl("is not taken: its signature does not verify");
    let old = rollcall::x509::crls(before.as_bytes()).unwrap().remove(0);
    first.sql(&format!(
        "update crls set number = '{}', der = '\\x{}'",
        old.number.unwrap().trim_start_matches('0'),
        hex::encode(&old.der)
    ));
    first.sql("update certificates set revoked_at = null where email = 'doomed@example.com'");
    crl("is older than that of this host (a restored dump?)");
    crl("holds 1 revocations that the database has forgotten (a restored dump?)");
    // The host with the CA has published it, too.
    expect(&mut first.administer(&["crl"]), 0, "revoked again");
    let after = first.sql("select number from crls");
    assert!(
        (after.len(), after.as_str()) > (number.len(), number) && !der.is_empty(),
        "{after} after {number}"
    );
    crl_comes(&second, &newest);

    // It leaves, whatever its role has made that would hold it: nobody is offline by that.
    for role in ["server", "reader"].map(|group| format!("rollcall_{group}_{name}")) {
        let mut makes = first.psql_as("postgres", &first.database);
        let set = format!("set session authorization \"{role}\"");
        makes.args(["-c", &set, "-c", "select lo_create(0)"]);
        makes.args(["-c", "alter default privileges grant select on tables to public"]);
        expect(&mut makes, 0, "");
    }
    let mut leave = first.administer(&["leave", &name]);
    leave.env("DATABASE_URL", &owner).env("ROLLCALL_NAME", "one");
    expect(&mut leave, 0, &format!("{name} has left"));
    assert_eq!(first.sql(&format!("select count(*) from pg_roles where rolname like '%{name}'")), "0");
    wait_until("it records nothing more", || second.curl(Some(&pair), &[]).status == 503);
    let printed = text(&first.admin(&["keys"]));
    assert_eq!(keyfile::parse_public_keys(&printed).unwrap(), [own(&first)], "{printed}");
    first.sql(&format!(
        "update users set server = '{name}', good_until_ms = 0, gone_after_ms = 0 where email = '{VALID}'"
    ));
    wait_until("they are unknown", || {
        json(&host(&first, &format!("/api/who/{VALID}")))["state"] == "unknown"
    });
    assert_eq!(first.curl(Some(&pair), &[]).status, 204);
    wait_until("they are here", || json(&host(&first, &format!("/api/who/{VALID}")))["state"] == "online");
    let mut forget = first.administer(&["leave", &name, "--forget"]);
    forget.env("DATABASE_URL", &owner).env("ROLLCALL_NAME", "one");
    expect(&mut forget, 0, "");
    assert_eq!(first.sql(&format!("select count(*) from servers where name = '{name}'")), "0");
    let mut own_name = first.administer(&["leave", "one"]);
    expect(own_name.env("ROLLCALL_NAME", "one"), 1, "one is the server of this host");
    let mut file = first.administer(&["leave", "../ca.crt"]);
    expect(file.env("ROLLCALL_NAME", "one"), 1, "there is no server ../ca.crt");
    assert!(first.certs.join("ca.crt").exists());
    first.sql_as("postgres", "postgres", &format!("drop role owner_{}", name.replace('-', "_")));
}

/// A new host of this stack's database, with the URL of an owner and the name of its server.
fn newcomer(first: &Stack) -> (Stack, String, String) {
    let broadcast = format!("127.255.255.255:{}", first.broadcast_port);
    let second = Builder::new().set("ROLLCALL_BROADCAST", broadcast).stopped();
    let name = format!("two-{}", free_port());
    let_in(first, &name);
    let owner = as_owner(first, &name);
    (second, name, owner)
}

fn forget_roles(stack: &Stack, name: &str) {
    let roles = ["rollcall_server_", "rollcall_reader_"]
        .map(|group| format!("drop role if exists \"{group}{name}\""));
    let owner = format!("drop role owner_{}", name.replace('-', "_"));
    stack.sql_as("postgres", "postgres", &format!("{}; {owner}", roles.join("; ")));
}

#[test]
fn of_two_runs_with_one_invitation_one_joins() {
    let first = Builder::new().set("ROLLCALL_NAME", "one").up();
    let (one, name, owner) = newcomer(&first);
    let other = Builder::new().stopped();
    let invitation = invite(&first, &name, &[]);
    // Both have asked before anybody is answered.
    signal("STOP", &[first.pid("signer.pid")]);
    let runs = [&one, &other].map(|stack| {
        let mut join = stack.program("rollcall-admin");
        join.args(["join", &owner, "--invitation", &invitation]);
        Running::start(stack, join)
    });
    let waiting = "select count(*) from joins where answer is null";
    wait_until("both wait", || first.sql(waiting) == "2");
    signal("CONT", &[first.pid("signer.pid")]);
    let mut ends = runs.map(|mut run| (run.exit(), run.out(), run.err()));
    ends.sort();
    let [(0, joined, _), (1, _, refused)] = &ends else { panic!("{ends:?}") };
    assert!(joined.contains(&format!("{name} has joined")), "{ends:?}");
    assert!(refused.contains("the first host refuses it"), "{ends:?}");
    let said = first.log("signer.log");
    assert!(said.contains(&format!("{name} cannot join: its invitation was used by another run")), "{said}");
    let has_joined = |stack: &&Stack| stack.state.join("settings").exists();
    assert_eq!([&one, &other].into_iter().filter(has_joined).count(), 1);
    assert_eq!(first.sql("select count(*) from joins"), "0");
    forget_roles(&first, &name);
}

#[test]
fn a_join_that_failed_half_way_is_repeated_with_the_same_invitation() {
    let first = Builder::new().set("ROLLCALL_NAME", "one").up();
    let (second, name, owner) = newcomer(&first);
    let invitation = invite(&first, &name, &[]);
    let join = || {
        let mut join = second.program("rollcall-admin");
        join.args(["join", &owner, "--invitation", &invitation]);
        join
    };
    // It has its certificates by then.
    let settings = second.state.join("settings");
    fs::create_dir(&settings).unwrap();
    expect(&mut join(), 1, &settings.display().to_string());
    let key = fs::read(second.certs.join("server.key")).unwrap();
    fs::remove_dir(&settings).unwrap();
    expect(&mut join(), 0, &format!("{name} has joined"));
    assert_eq!(fs::read(second.certs.join("server.key")).unwrap(), key);
    assert!(settings.is_file() && !second.certs.join("joining.key").exists());
    // Another host cannot, and this one no more.
    expect(&mut join(), 1, "the first host refuses it");

    // It goes when its hour is over; one that has not ended stays.
    let file = first.certs.join("invited").join(&name);
    let text = fs::read_to_string(&file).unwrap();
    let mut ended: serde_json::Value = serde_json::from_str(&text).unwrap();
    ended["until"] = 0.into();
    fs::write(&file, ended.to_string()).unwrap();
    let other = first.certs.join("invited/other");
    fs::copy(&file, &other).unwrap();
    fs::write(&other, text).unwrap();
    expect(&mut first.administer(&["crl", "--if-due"]), 0, "");
    assert!(!file.exists() && other.exists());

    // One that is gone when its answer is ready gets none.
    let store = Store::open(&first.database_url(), PATIENCE).unwrap();
    block_on(async {
        let joining = store.ask_to_join("three", "nonsense".to_owned()).await.unwrap();
        let again = store.ask_to_join("three", "nonsense".to_owned()).await.unwrap();
        store.end_join(&joining).await.unwrap();
        assert!(!store.answer_join(&joining, "late").await.unwrap());
        assert_eq!(store.answer_to(&joining).await.unwrap(), None);
        let refused = || block_on(store.answer_to(&again)).unwrap().is_none();
        wait_until("the other has its own", refused);
    });
    forget_roles(&first, &name);
}

/// A mount in its place keeps it there.
#[test]
fn an_ended_invitation_that_cannot_be_removed_holds_up_nobody_and_lets_nobody_in() {
    let Some(()) = needs_root("for a mount") else { return };
    let first = Builder::new().set("ROLLCALL_NAME", "one").up();
    // It would remove it.
    signal("KILL", &[first.pid("signer.pid")]);
    invite(&first, "two", &[]);
    expect(&mut first.administer(&["enrol", VALID, "--name", "phone"]), 0, "phone.crt made");
    let file = first.certs.join("invited/two");
    let mut ended: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    ended["until"] = 0.into();
    fs::write(&file, ended.to_string()).unwrap();
    let administer = |arguments: &[&str]| {
        let mut command = first.command("unshare");
        command.args(["--mount", "bash", "-c", "mount --bind \"$0\" \"$0\" && exec \"$@\""]);
        command.arg(&file).arg(binaries().join("rollcall-admin")).args(arguments);
        command.env("DATABASE_URL", first.database_url()).output().unwrap()
    };
    let said = text(&administer(&["revoke", "phone"]));
    assert!(
        said.contains("WARNING: an invitation that has ended stays") && said.contains("revoked"),
        "{said}"
    );
    assert_eq!(first.curl(Some(&first.pair("phone")), &[]).status, 400);
    let store = Store::open(&first.database_url(), PATIENCE).unwrap();
    let joining = block_on(store.ask_to_join("two", "nonsense".to_owned())).unwrap();
    let said = text(&administer(&["sign"]));
    assert!(said.contains("two cannot join: it is not invited here, or its invitation has ended"), "{said}");
    assert_eq!(block_on(store.answer_to(&joining)).unwrap(), None);
    assert!(file.exists());
}

#[test]
fn a_host_that_has_not_joined_makes_no_ca_beside_that_of_the_database() {
    let first = Builder::new().set("ROLLCALL_NAME", "one").up();
    let second = Builder::new().set("ROLLCALL_NAME", "two").stopped();
    let up = || {
        let mut up = second.tool("stack/up");
        up.env("DATABASE_URL", first.database_url());
        up.env("ROLLCALL_SERVER_DATABASE_URL", first.server_database_url());
        up
    };
    let theirs = first.sql("select issuer from crls");
    let refused = format!(
        "DATABASE_URL is the database of another CA ({theirs}), whose key is on another host, and the server of each would \
         refuse the devices of the other. This host becomes one more server of that database by just invite NAME on that \
         one and just join here"
    );
    expect(&mut up(), 1, &refused);
    assert!(!second.certs.join("ca.crt").exists() && !second.certs.join("ca.key").exists());
    // It has one from before.
    expect(second.program("rollcall-admin").args(["ca", "init"]), 0, "ca.crt made");
    let before = first.sql("select count(*) from certificates");
    expect(&mut up(), 1, &refused);
    assert_eq!(first.sql("select count(*) from certificates"), before);
    // The owner of the database is not held up.
    expect(&mut first.tool("stack/up"), 0, "");
    let doctor = || text(&first.script("stack/status"));
    assert!(!doctor().contains("CRL of another CA"), "{}", doctor());
    // Both have shared it since before that was refused.
    let mut crl = second.program("rollcall-admin");
    expect(crl.arg("crl").env("DATABASE_URL", first.database_url()), 0, "");
    assert!(doctor().contains("the database has the CRL of another CA too (CN=rollcall CA "), "{}", doctor());
    // Nor does that of a CA that was replaced go by itself.
    assert!(doctor().contains("or of a CA that was replaced"), "{}", doctor());
    let forget = || {
        let mut forget = first.tool("stack/run");
        forget.args(["rollcall-admin", "ca", "init", "--forget-others"]);
        forget
    };
    expect(&mut forget(), 0, "is forgotten: nobody takes its list from the database any more");
    assert_eq!(first.sql("select issuer from crls"), theirs);
    assert!(!doctor().contains("CRL of another CA"), "{}", doctor());
    // The key of the other one is lost for good.
    let mut anew = second.program("rollcall-admin");
    anew.args(["ca", "init", "--forget-others"]).env("DATABASE_URL", first.database_url());
    expect(&mut anew, 0, &format!("{theirs} is forgotten"));
    expect(&mut up(), 0, "ready on https://localhost");
    assert_ne!(first.sql("select issuer from crls"), theirs);
    expect(&mut first.tool("stack/up"), 1, "DATABASE_URL is the database of another CA");
}

/// The signer of the second host takes it by itself.
fn crl_comes(second: &Stack, before: &str) {
    wait_until("the next list comes", || {
        fs::read_to_string(second.state.join("nginx/crl.pem")).unwrap() != before
    });
}
