//! deploy/README.md, in Debians of their own on one LAN, with systemd as the first process: from `apt-get install` to a
//! purge.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use super::page::{Page, block, documented, documented_as};
use super::{ROOT, binaries};
use crate::machine::Machine;
use crate::namespace::Lan;
use crate::program::{needs, text};
use crate::stack::Builder;

const PACKAGES: [&str; 3] = ["rollcall-server", "rollcall-client", "rollcall-listen"];

/// Makes the packages of the programs under test, in a folder.
fn package(folder: &Path, version: &str) -> [PathBuf; 3] {
    let mut make = Command::new(Path::new(ROOT).join("stack/package"));
    make.args(["--fast", "--deb-version", version]).env("ROLLCALL_BIN", binaries()).env("PACKAGES", folder);
    let output = make.output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    PACKAGES.map(|name| {
        let said = text(&output);
        let made = said.lines().find(|line| line.contains(&format!("/{name}_"))).unwrap();
        folder.join(Path::new(made).file_name().unwrap())
    })
}

/// A machine with packages of ours in the folder where it starts.
fn give(machine: &Machine, packages: &[&PathBuf]) {
    for package in packages {
        let name = package.file_name().unwrap().to_str().unwrap();
        machine.put(package, &format!("/srv/{name}"));
    }
}

/// Types a line of the document, in the folder of the packages.
#[track_caller]
fn types(machine: &Machine, line: &str) -> String {
    documented(line);
    machine.runs(&format!("cd /srv; {line}"))
}

#[track_caller]
fn types_as(machine: &Machine, line: &str, typed: &str) -> String {
    documented_as(line, typed);
    machine.runs(&format!("cd /srv; {typed}"))
}

fn certificates(machine: &Machine, folder: &Path, files: &[&str]) {
    for file in files {
        let content = machine.shell(&format!("cat '/etc/rollcall/certs/{file}'")).output().unwrap();
        fs::write(folder.join(file), content.stdout).unwrap();
    }
}

/// Fails, with these words.
#[track_caller]
fn refuses(machine: &Machine, script: &str, words: &str) {
    let output = machine.shell(script).output().unwrap();
    assert!(!output.status.success() && text(&output).contains(words), "{script}: {}", text(&output));
}

/// Fails with a line in stack.env, with these words; then the line goes.
#[track_caller]
fn refuses_with(machine: &Machine, line: &str, words: &str) {
    machine.runs(&format!("cp /etc/rollcall/stack.env /srv/good; echo '{line}' >>/etc/rollcall/stack.env"));
    refuses(machine, "rollcall-setup --yes", words);
    refuses(machine, "rollcall-setup --dry-run", words);
    machine.runs("cp /srv/good /etc/rollcall/stack.env");
}

#[test]
fn packages_are_clean_and_the_same_twice() {
    let (Some(()), Some(())) = (needs("cargo-deb"), needs("lintian")) else { return };
    let folder = Builder::new().stopped().state.clone();
    documented("just package");
    let [one, two] = ["one", "two"].map(|name| package(&folder.join(name), "0.1.0-1"));
    for (one, two) in one.iter().zip(&two) {
        assert!(fs::read(one).unwrap() == fs::read(two).unwrap(), "{} differs", one.display());
    }
    let mut lintian = Command::new("lintian");
    lintian.args(["--allow-root", "--fail-on", "error,warning"]);
    let output = lintian.args(&one).output().unwrap();
    assert!(output.status.success() && text(&output).is_empty(), "{}", text(&output));
}

#[test]
fn packages_make_servers_and_devices() {
    let (Some(()), Some(())) = (Machine::possible(), needs("cargo-deb")) else { return };
    let Some((_lan, [one, two, three])) = Lan::of() else { return };
    let stack = Builder::new().stopped();
    let folder = &stack.state;
    let packages = package(&folder.join("old"), "0.1.0-1");
    let newer = package(&folder.join("new"), "0.1.0-2");
    let [server, client, listen] = &packages;
    let boot = |name, namespace| Machine::boot(name, folder, namespace);
    let (host, device, second) = (boot("rollcall", one), boot("device", two), boot("second", three));
    give(&host, &[server, client]);
    give(&device, &[client, listen]);
    give(&second, &[server]);

    // From nothing to the first heartbeat.
    thread::scope(|scope| {
        scope.spawn(|| {
            types_as(
                &device,
                "apt-get install ./rollcall-client_*.deb",
                "apt-get install ./rollcall-client_*.deb -y",
            );
            types_as(
                &device,
                "apt-get install ./rollcall-listen_*.deb",
                "apt-get install ./rollcall-listen_*.deb -y",
            );
            second.runs("cd /srv; apt-get install -y --no-install-recommends ./rollcall-server_*.deb");
        });
        types_as(
            &host,
            "apt-get install ./rollcall-server_*.deb",
            "apt-get install ./rollcall-server_*.deb -y",
        );
    });
    host.runs(
        "test -z \"$(pidof rollcall-server rollcall-board)\"; ! systemctl is-enabled -q rollcall-server",
    );
    let listed = types(&host, "rollcall-setup --dry-run");
    assert!(listed.contains("pg_hba.conf") && !listed.contains("204"), "{listed}");
    refuses_before_it_changes_anything(&host);
    host.runs("[ ! -e /var/lib/rollcall/nginx ]; [ ! -e /etc/rollcall/certs/ca.key ]");
    let refused = text(&host.shell("rollcall-setup").output().unwrap());
    assert!(refused.contains("nobody can be asked here"), "{refused}");
    let setup = types_as(
        &host,
        "rollcall-setup --operator boss@example.com",
        "ROLLCALL_P12_PASSWORD=secret rollcall-setup --operator boss@example.com --yes",
    );
    assert!(setup.contains("Success! (204 No Content)") && setup.contains(" 0 red"), "{setup}");
    documented("rollcall-setup --yes");
    let again = host.runs("rollcall-setup --yes --operator boss@example.com");
    assert!(again.contains("nothing has to be changed"), "{again}");
    host.runs("openssl pkcs12 -in /etc/rollcall/certs/boss@example.com.p12 -passin pass:secret -nokeys -out /dev/null");

    is_not_started_by_hand(&host);
    board_is_no_server(&host);
    sees_a_part_that_ended(&host);

    for line in
        ["rollcall-admin enrol alice@example.com", "rollcall-admin user list", "rollcall-server doctor"]
    {
        types(&host, line);
    }
    types(&host, "rollcall-admin renew --server rollcall.example.com");
    documented("rollcall-board link");
    host.runs("curl -sSo /dev/null -w '%{http_code}' \"$(rollcall-board link)\" | grep -qx 303");

    // The server may read the ends of the certificates; the logs rotate; systemd finds no fault in the units.
    host.runs("for which in server ca; do curl -fsS http://127.0.0.1:8000/metrics | grep '_not_after_timestamp_seconds{which=\"'$which'\"} '; done");
    host.runs("logrotate -f /etc/logrotate.d/rollcall-server; test -s /var/lib/rollcall/nginx/access.log.1");
    host.until("curl -ks -o /dev/null https://localhost; test -s /var/lib/rollcall/nginx/access.log");
    for machine in [&host, &device] {
        machine.runs("systemd-analyze verify --man=no /lib/systemd/system/rollcall-*.service");
    }

    // A device on the LAN beats, and hears the server.
    certificates(
        &host,
        folder,
        &["alice@example.com.crt", "alice@example.com.key", "ca.crt", "broadcast.pub"],
    );
    for (file, name) in [
        ("alice@example.com.crt", "NAME.crt"),
        ("alice@example.com.key", "NAME.key"),
        ("ca.crt", "ca.crt"),
        ("broadcast.pub", "broadcast.pub"),
    ] {
        device.put(&folder.join(file), &format!("/srv/{name}"));
    }
    device.runs("echo 192.0.2.1 rollcall.example.com >>/etc/hosts");
    let listener = block("install -m 0644 broadcast.pub /etc/rollcall/broadcast.pub");
    device.runs(&format!("cd /srv; {listener}"));
    device.until("journalctl -u rollcall-listen -o cat | grep 'listening on'");
    let beats = block("install -o rollcall-client -m 0400 NAME.crt /etc/rollcall/client/client.crt");
    device.runs(&format!("cd /srv; {beats}"));
    documented("journalctl -u rollcall-listen -o cat");
    device.until(
        "journalctl -u rollcall-listen -o cat | grep '\"email\":\"alice@example.com\",\"ip\":\"192.0.2.2\".*\"verified\":true'",
    );
    let boss = "cd /etc/rollcall/certs; pair='--cert boss@example.com.crt --key boss@example.com.key'";
    give(&host, &[client]);
    host.runs("cd /srv; apt-get install -y ./rollcall-client_*.deb");
    let who = host.runs(&format!("{boss}; rollcall-client who $pair --ca ca.crt --url https://localhost"));
    assert!(who.contains("online") && who.contains("alice@example.com"), "{who}");
    host.runs(&format!(
        "{boss}; curl -fsS --cacert ca.crt $pair https://localhost/api/who | grep -q alice@example.com"
    ));
    types(&host, "ROLLCALL_STATE=/var/lib/rollcall rollcall-client who");
    types_as(
        &device,
        "ROLLCALL_CERTS=/etc/rollcall/client rollcall-client who NAME --url https://rollcall.example.com",
        "ROLLCALL_CERTS=/etc/rollcall/client rollcall-client who alice@example.com --url https://rollcall.example.com",
    );
    documented("apt-get remove rollcall-client");
    device.runs(
        "cd /srv; apt-get remove -y rollcall-client rollcall-listen; [ -z \"$(pidof rollcall-client rollcall-listen)\" ]
        apt-get install -y ./rollcall-client_*.deb ./rollcall-listen_*.deb; systemctl is-active rollcall-client rollcall-listen",
    );

    // A relay, whose destination is this host.
    let relay = Page::read("deploy/README.md")
        .blocks()
        .into_iter()
        .find(|block| block.text.contains("DESTINATIONS="));
    let relay = relay.unwrap().text.replace("auto,198.51.100.2", "127.0.0.1:7000");
    device.runs(&format!("cp /etc/rollcall/broadcast.pub /etc/rollcall/other.pub; cat >/etc/rollcall/relay.env <<'END'\n{relay}END"));
    device.runs("systemctl enable --now rollcall-relay");
    device.until("journalctl -u rollcall-relay -o cat | grep 'listening on'");
    let beat = "cd /srv; rollcall-client --cert NAME.crt --key NAME.key --ca ca.crt --url";
    device.runs(&format!("{beat} https://rollcall.example.com; sleep 1; systemctl stop rollcall-relay"));
    device.runs("journalctl -u rollcall-relay -o cat | grep ', relayed [1-9]'; test -s /var/lib/private/rollcall-relay/state");

    // systemd watches the committer.
    host.runs(
        "mkdir /run/systemd/system/rollcall-server.service.d; printf '[Service]\\nWatchdogSec=2\\n' >/run/systemd/system/rollcall-server.service.d/soon.conf
        systemctl daemon-reload; systemctl restart rollcall-server; kill -STOP $(systemctl show -P MainPID rollcall-server)",
    );
    host.until("[ \"$(systemctl show -P NRestarts rollcall-server)\" = 1 ] && systemctl is-active -q rollcall-server");
    host.runs(
        "rm -r /run/systemd/system/rollcall-server.service.d; systemctl daemon-reload; rollcall-setup --yes",
    );

    // The daily job, in its sandbox, reaches nginx; also with a key that is encrypted.
    host.runs(
        "list=/var/lib/rollcall/nginx/crl.pem; before=$(sha256sum <$list); rm /etc/rollcall/certs/crl.pem
        systemctl start rollcall-crl; [ \"$before\" != \"$(sha256sum <$list)\" ]",
    );
    documented("rollcall-admin ca protect");
    host.runs(
        "echo secret >/etc/rollcall/passphrase; export ROLLCALL_CA_PASSIN=file:/etc/rollcall/passphrase; rollcall-admin ca protect
        echo ROLLCALL_CA_PASSIN=$ROLLCALL_CA_PASSIN >>/etc/rollcall/stack.env; rm /etc/rollcall/certs/crl.pem; systemctl start rollcall-crl",
    );
    is_read_by_prometheus(&host);
    makes_roles(&host);
    host.runs(&block("install -d -m 0755 /etc/rollcall/hooks"));
    host.runs("echo ROLLCALL_HOOKS=/etc/rollcall/hooks >>/etc/rollcall/stack.env; rollcall-setup --yes | grep 'board.service starts anew'");

    // The keys of the announcements are replaced.
    let rotate = "/usr/share/rollcall/stack/rotate";
    host.runs(&format!("{rotate}; {rotate} --switch; {rotate} --finish"));
    certificates(&host, folder, &["broadcast.pub"]);
    device.put(&folder.join("broadcast.pub"), "/srv/broadcast.pub");
    device.runs(&format!("cd /srv; {listener} systemctl restart rollcall-listen"));
    documented("rm /etc/rollcall/certs/privacy.key");
    host.runs("rm /etc/rollcall/certs/privacy.key; rollcall-setup --yes | grep -q 204");

    joins(&host, &second);
    device.runs(&format!("echo 192.0.2.3 second >>/etc/hosts; {beat} https://second"));

    host.runs("cd /srv; rm ./*.deb");
    give(&host, &[&newer[0], &newer[1]]);
    is_upgraded(&host);

    documented("rollcall-admin revoke");
    host.runs("rollcall-admin revoke alice@example.com");
    device.until(&format!("if {beat} https://rollcall.example.com; then exit 1; fi"));
    device.runs("systemctl restart rollcall-client");
    device.until("journalctl -u rollcall-client -o cat | grep 'certificate revoked'");
    gives_its_key_away(&host);

    drop(second);
    documented("apt-get purge rollcall-server");
    host.runs(
        "apt-get purge -y rollcall-server; [ ! -e /var/lib/rollcall ]; test -s /etc/rollcall/certs/server.key
        [ -z \"$(pidof rollcall-server rollcall-board rollcall-admin rollcall-client)\" ]; ! curl -sk https://localhost",
    );
    has_lost_its_ca(&host);
    host.runs(&block("rm -r /etc/rollcall"));
    device.runs(
        "apt-get purge -y rollcall-client rollcall-listen; test -s /etc/rollcall/client/client.key
        [ ! -e /var/lib/private/rollcall-relay ]",
    );
    types(&device, "rm -r /etc/rollcall/client");
    goes_without_systemd(&host);
}

fn refuses_before_it_changes_anything(host: &Machine) {
    let output = host.shell("rollcall-setup --yes --join postgres://nowhere").output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(text(&output).contains("needs --invitation"), "{}", text(&output));
    refuses(host, "ROLLCALL_INVITATION=a:b rollcall-setup --yes", "needs --join");
    for command in ["rollcall-admin user list", "rollcall-server doctor", "rollcall-board link"] {
        refuses(host, command, "run rollcall-setup first");
        refuses(host, &as_user("daemon", command), "run this as root");
        host.runs(&as_user("daemon", &format!("{command} --help")));
    }
    refuses(host, "/usr/share/rollcall/stack/rotate", "run rollcall-setup first");
    refuses(host, &as_user("daemon", "rollcall-setup --dry-run"), "run this as root");
    for user in ["rollcall", "rollcall-board"] {
        host.runs(&format!("sed -i /^{user}:/d /etc/passwd"));
        refuses(host, "rollcall-setup --yes", "dpkg-reconfigure rollcall-server makes it");
        host.runs(&format!("dpkg-reconfigure rollcall-server; id {user}"));
    }
    refuses(host, "rollcall-setup --dry-run --operator boss", "not an email address");
    refuses(host, "ROLLCALL_HTTPS_PORT=8443 rollcall-setup --yes", "set for this command alone");
    for line in ["this is no line", "ROLLCALL_RATE = 3", "export ROLLCALL_RATE=3"] {
        refuses_with(host, line, "of /etc/rollcall/stack.env is no setting");
    }
    refuses_with(host, "ROLLCALL_RATE=30\nROLLCALL_RATE=40", "sets ROLLCALL_RATE again");
    refuses_with(host, "ROLLCALL_RATE=some", "ROLLCALL_RATE");
    refuses_with(host, "ROLLCALL_CA=mine", "ROLLCALL_CA");
    refuses_with(host, "ROLLCALL_BOARD_LISTEN=0.0.0.0:8001", "no loopback address");
    host.runs(
        "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=db -keyout /srv/board.key -out /srv/board.crt",
    );
    let url = "postgres://rollcall_reader@db/rollcall?sslmode=verify-full&sslrootcert=/srv/board.crt&sslcert=/srv/board.crt&sslkey=/srv/board.key";
    refuses_with(host, &format!("ROLLCALL_BOARD_DATABASE_URL={url}"), "/srv/board.key: Permission denied");
    host.runs("systemd-run -q --unit=taken systemd-socket-activate -l 443 cat");
    host.until("ss -Htln sport = :443 | grep .");
    refuses(host, "rollcall-setup --yes", "443 is taken: stop who holds it (\"systemd-socket");
    host.runs("systemctl stop taken");
    let postgresql = "/etc/postgresql/15/main";
    host.runs(&format!(
        "cd {postgresql}; cp -a pg_hba.conf /srv; sed -i 's/^local  *all  *postgres  *peer/local all postgres md5/' pg_hba.conf
        systemctl restart postgresql@15-main"
    ));
    refuses(host, "rollcall-setup --yes", "no password supplied");
    host.runs(&format!("cp -a /srv/pg_hba.conf {postgresql}; systemctl restart postgresql@15-main"));
}

/// With the file that its example names.
fn is_read_by_prometheus(host: &Machine) {
    host.runs("install -d /etc/prometheus; id prometheus || adduser --quiet --system --group --no-create-home prometheus");
    host.runs(&block(
        "install -o prometheus -m 0400 /var/lib/rollcall/board/token /etc/prometheus/rollcall-board.token",
    ));
    let example = "/usr/share/doc/rollcall-server/examples/prometheus/prometheus.yml";
    let read = as_user("prometheus", "cat $(sed -n 's/.*credentials_file: //p' EXAMPLE)")
        .replace("EXAMPLE", example);
    let counts =
        host.runs(&format!("curl -fsS -H \"Authorization: Bearer $({read})\" http://127.0.0.1:8001/metrics"));
    assert!(counts.contains("rollcall_people{"), "{counts}");
}

/// Again, and nothing changes. Whoever may not is told so.
fn makes_roles(host: &Machine) {
    let line = block("setpriv --reuid postgres --regid postgres --clear-groups psql <deploy/roles.sql");
    host.runs(&format!("cd /usr/share/rollcall; {line}"));
    let roles = "/usr/share/rollcall/deploy/roles.sql";
    refuses(host, &format!("psql -U rollcall_server rollcall <{roles}"), "permission denied");
}

fn as_user(user: &str, command: &str) -> String {
    format!("setpriv --reuid {user} --regid {user} --clear-groups {command}")
}

/// Its files would be root's.
fn is_not_started_by_hand(host: &Machine) {
    for program in ["rollcall-server", "rollcall-board"] {
        refuses(host, program, &format!("systemd runs {program}, as a user of its own"));
        host.runs(&format!("{program} --check"));
    }
}

/// Neither in the database nor by its files.
fn board_is_no_server(host: &Machine) {
    host.runs("[ $(stat -c %U /proc/$(systemctl show -P MainPID rollcall-board)) = rollcall-board ]");
    let (server, board) = (("rollcall", "rollcall_server"), ("rollcall-board", "rollcall_reader"));
    let enters_database = |user: &str, role: &str, database: &str| {
        let url = format!("postgres://{role}@localhost/{database}?host=/var/run/postgresql");
        as_user(user, &format!("psql -qXAt -c 'select 1' '{url}'"))
    };
    let enters = |user: &str, role: &str| enters_database(user, role, "rollcall");
    for (user, role) in [server, board] {
        host.runs(&enters(user, role));
    }
    // There the role of its own name would set itself a password.
    refuses(host, &enters_database(server.0, "rollcall", "postgres"), "Peer authentication failed");
    for (user, role) in
        [(board.0, server.1), (board.0, "rollcall"), (server.0, board.1), (server.0, "rollcall")]
    {
        refuses(host, &enters(user, role), "Peer authentication failed");
    }
    for (user, file) in [
        (board.0, "proxy-credential"),
        (board.0, "server/own/broadcast.key"),
        (server.0, "board/token"),
        (server.0, "board/proxy-credential"),
    ] {
        refuses(host, &as_user(user, &format!("cat /var/lib/rollcall/{file}")), "Permission denied");
    }
}

/// Also a wrong setting ends none that runs.
fn sees_a_part_that_ended(host: &Machine) {
    let pids = "systemctl show -P MainPID rollcall-server rollcall-board | xargs";
    let before = host.runs(pids);
    refuses_with(host, "ROLLCALL_PRIVACY=hidden", "either clear or pseudonym");
    let upgrade = host.runs(
        "echo ROLLCALL_PRIVACY=hidden >>/etc/rollcall/stack.env; /var/lib/dpkg/info/rollcall-server.postinst configure 0.1.0-1
        cp /srv/good /etc/rollcall/stack.env",
    );
    assert!(upgrade.contains("the parts that run go on"), "{upgrade}");
    assert_eq!(host.runs(pids), before);

    // Secrets that somebody has seen are replaced.
    host.runs("cd /var/lib/rollcall; rm proxy-credential board/proxy-credential board/token; rollcall-setup --yes | grep 204");
    host.runs(
        "cd /etc/rollcall/certs; curl -fsS --cacert ca.crt --cert boss@example.com.crt --key boss@example.com.key https://localhost/api/who
        ROLLCALL_STATE=/var/lib/rollcall /usr/libexec/rollcall/rollcall-client who",
    );

    // An interrupted rollcall-setup has left a start to the next.
    for owed in ["touch server/own/broadcast.key", "rm clerk/socket"] {
        host.runs(&format!("sleep 1; cd /var/lib/rollcall; {owed}; rollcall-setup --yes | grep 'server.service starts anew'; test -S clerk/socket"));
    }

    let folder = "/run/systemd/system/rollcall-canary.service.d";
    host.runs(&format!(
        "mkdir {folder}; printf '[Service]\\nExecStart=\\nExecStart=/bin/false\\nRestart=no\\n' >{folder}/wrong.conf
        systemctl daemon-reload; systemctl stop rollcall-canary"
    ));
    refuses(host, "rollcall-setup --yes", "journalctl -u rollcall-canary.service");
    host.runs(&format!("rm -r {folder}; systemctl daemon-reload; rollcall-setup --yes"));

    // A bundle for somebody who has none.
    host.runs(
        "cd /etc/rollcall/certs; mv boss@example.com.p12 /srv; ROLLCALL_P12_PASSWORD=secret rollcall-setup --yes --operator boss@example.com
        test -s boss@example.com.p12",
    );
}

/// The second host has the database by TCP.
fn joins(host: &Machine, second: &Machine) {
    let rights = block("alter role rollcall createrole;");
    host.runs(&format!(
        "setpriv --reuid postgres --regid postgres --clear-groups psql -q <<'END'
{rights}alter role rollcall password 'secret'; alter system set listen_addresses = '*';
END
        echo 'host rollcall all 192.0.2.0/24 scram-sha-256' >>/etc/postgresql/15/main/pg_hba.conf; systemctl restart postgresql"
    ));
    documented("rollcall-admin invite NAME");
    let invitation = host.runs("rollcall-admin invite second | grep -o 'second:[^ ]*' | head -n 1");
    let database = "'postgres://rollcall:secret@192.0.2.1/rollcall?sslmode=disable'";
    let joined = types_as(
        second,
        "rollcall-setup --join DATABASE_URL --invitation NAME:SECRET",
        &format!("rollcall-setup --join {database} --invitation {} --yes", invitation.trim()),
    );
    assert!(joined.contains("Success! (204 No Content)"), "{joined}");
    second.runs("systemctl start rollcall-crl");
    let again = "rollcall-setup --yes --join postgres://nowhere --invitation second:secret";
    refuses(second, again, "has joined already");
    refuses(host, again, "cannot join");
    second.runs("cd /srv; apt-get purge -y rollcall-server; apt-get install -y --no-install-recommends ./rollcall-server_*.deb");
    let settings = "/var/lib/rollcall/settings";
    refuses(second, &format!("mv {settings} /srv; rollcall-setup --yes"), "needs --join");
    second.runs(&format!("mv /srv/settings {settings}; rollcall-setup --yes | grep 204"));
}

/// Nothing that was acknowledged is lost, and every part is the new one.
fn is_upgraded(host: &Machine) {
    let seen = || {
        let row = host.runs("rollcall-admin user list | grep alice@example.com");
        row.split_whitespace().nth(2).unwrap().to_owned()
    };
    let pids =
        "systemctl show -P MainPID rollcall-server rollcall-board rollcall-canary rollcall-signer | xargs";
    let (before, old) = (seen(), host.runs(pids));
    // The board had the server's user once.
    host.runs(
        "cd /var/lib/rollcall/board; chown rollcall token proxy-credential; rm -r own
        sed -i s/rollcall-board/rollcall/ /etc/postgresql/15/main/pg_ident.conf",
    );
    host.runs("cd /srv; apt-get install -y ./*.deb");
    assert!(seen() >= before, "{before}");
    let new = host.runs(pids);
    let old: Vec<&str> = old.split_whitespace().collect();
    assert!(new.split_whitespace().all(|pid| pid != "0" && !old.contains(&pid)), "{old:?} {new}");
    assert!(host.runs("rollcall-setup").contains("nothing has to be changed"));
    assert_eq!(host.runs("systemctl --failed --no-legend"), "");
    board_is_no_server(host);
}

/// Somebody else makes the list of the revoked.
fn gives_its_key_away(host: &Machine) {
    let external = Page::read("deploy/README.md")
        .blocks()
        .into_iter()
        .find(|block| block.text.contains("ROLLCALL_CA=external"));
    host.runs(&format!("cat >>/etc/rollcall/stack.env <<'END'\n{}END", external.unwrap().text));
    documented("certs/ca crl");
    host.runs(
        "cd /etc/rollcall/certs; mv ca.key /srv; mkdir crl.d; export ROLLCALL_CERTS=$PWD
        ROLLCALL_CA_PASSIN=file:/etc/rollcall/passphrase ROLLCALL_SIGN_KEY=/srv/ca.key /usr/share/rollcall/certs/ca crl </dev/null >crl.d/ca.pem
        rollcall-setup --yes; cmp crl.d/ca.pem /var/lib/rollcall/nginx/crl.pem; ! systemctl is-active rollcall-signer",
    );
}

/// The database has its list of the revoked.
fn has_lost_its_ca(host: &Machine) {
    host.runs("mv /etc/rollcall /srv; cd /srv; apt-get install -y ./rollcall-server_*.deb");
    refuses(host, "rollcall-setup --yes", "rollcall-admin ca init --forget-others");
    host.runs("rollcall-admin ca init --forget-others; rollcall-setup --yes | grep 204; apt-get purge -y rollcall-server");
}

/// All is prepared, and each part runs by the command that is printed. PostgreSQL has another port.
fn goes_without_systemd(host: &Machine) {
    host.runs("sed -i 's/^port = 5432/port = 5433/' /etc/postgresql/15/main/postgresql.conf; systemctl restart postgresql@15-main");
    host.runs(
        "unshare -m bash -euo pipefail -c '
        mount -t tmpfs tmpfs /run/systemd; cd /srv
        apt-get install -y ./rollcall-server_*.deb
        rollcall-setup --yes | sed -n \"s:^  /usr:/usr:p\" >parts
        while read -r part; do case $part in *daily) ;; *) $part >>log 2>&1 & ;; esac; done <parts
        canary=/etc/rollcall/certs/canary@rollcall.internal
        beat=\"/usr/libexec/rollcall/rollcall-client --ca /etc/rollcall/certs/ca.crt --cert $canary.crt --key $canary.key\"
        for _ in $(seq 100); do ! $beat || exit 0; sleep 0.2; done
        cat log; exit 1'",
    );
}
