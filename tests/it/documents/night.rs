//! The table "At 3 a.m." of docs/operations.md: each fault is brought about, seen by its text, and mended by its line.

use std::fs;
use std::time::Instant;

use super::Clone;
use super::page::{self, Page};
use crate::stack::{PATIENCE, Running, text, wait_until};

/// The dates of something that has ended, or has not begun.
const ENDED: &str = "export ROLLCALL_SIGN_FROM=20200101000000Z ROLLCALL_SIGN_UNTIL=20200201000000Z";
const EARLY: &str = "export ROLLCALL_SIGN_FROM=20990101000000Z ROLLCALL_SIGN_UNTIL=20990201000000Z";
const CLIENT: &str = "just client --attempts 1";
const ALICE: &str = "just client --attempts 1 --cert certs/alice.crt --key certs/alice.key";
const BRANCH: &str = "just client --cert certs/branch.crt --key certs/branch.key";
const RELOAD: &str = "kill -HUP $(cat .run/nginx/nginx.pid)";

/// A CA below ours, with a list of its own, and a certificate of Alice's that it signed.
const BRANCH_CA: &str = r#"
    mkdir -p certs/crl.d branch && cd branch && : >index.txt && echo 01 >crlnumber
    printf '[ca]\ndefault_ca=d\n[d]\ndatabase=index.txt\ncrlnumber=crlnumber\ncertificate=ca.crt\nprivate_key=ca.key\ndefault_md=sha256\n' >cnf
    printf 'basicConstraints=critical,CA:true,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\n' >authority
    printf 'basicConstraints=critical,CA:false\n' >leaf
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -subj '/CN=branch CA' |
        openssl x509 -req -CA ../certs/ca.crt -CAkey ../certs/ca.key -days 30 -out ca.crt -extfile authority
    openssl ca -config cnf -gencrl -crldays 9 -out crl.pem
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ../certs/branch.key -subj /CN=alice@example.com |
        openssl x509 -req -CA ca.crt -CAkey ca.key -days 9 -out leaf.crt -extfile leaf
    cat leaf.crt ca.crt >../certs/branch.crt"#;

/// A certificate for the key of ours, of the same name, with the dates of the environment.
const CA: &str = r#"
    openssl req -new -key certs/ca.key -subj / -out ca.csr
    export ROLLCALL_SIGN_CN="$(openssl x509 -in certs/ca.crt -noout -subject -nameopt multiline | sed -n 's/.*commonName *= //p')"
    ROLLCALL_SIGN_USAGE=authority certs/ca sign <ca.csr >ca.new; cp ca.new certs/ca.crt"#;

/// A certificate for the key of a pair, with the dates of the environment.
fn signed(name: &str, cn: &str) -> String {
    format!(
        "openssl req -new -key certs/{name}.key -subj / -out {name}.csr; \
         ROLLCALL_SIGN_CN={cn} certs/ca sign <{name}.csr >{name}.new; cp {name}.new certs/{name}.crt"
    )
}

struct Night {
    clone: Clone,
    /// The rows that are still to come: the first column and the last.
    rows: Vec<(String, String)>,
}

impl Night {
    /// The next row is this one, and it says to do this.
    #[track_caller]
    fn comes(&mut self, first_column: &str, advice: &str) {
        assert!(!self.rows.is_empty(), "the table has no row {first_column}");
        let (said, to_do) = self.rows.remove(0);
        assert_eq!(said, first_column, "the next row of the table");
        assert!(to_do.contains(advice), "{first_column}: {to_do}");
    }

    /// The next row is this one; with the fault that is there now, the client prints the text.
    #[track_caller]
    fn prints(&mut self, first_column: &str, advice: &str, client: &str, exit: i32) {
        self.comes(first_column, advice);
        for said in first_column.split(", or ").flat_map(|texts| texts.split('`').nth(1)).take(1) {
            self.says(said, client, exit);
        }
    }

    /// For a moment after a reload, nginx's old workers still answer.
    #[track_caller]
    fn says(&self, said: &str, client: &str, exit: i32) {
        let end = Instant::now() + PATIENCE;
        loop {
            let output = self.clone.shell(client).output().unwrap();
            if page::says(&text(&output), said) && output.status.code() == Some(exit) {
                return;
            }
            assert!(Instant::now() < end, "{client} never says {said:?}, but {}", text(&output));
        }
    }

    /// After this the client is let in.
    #[track_caller]
    fn mends(&self, line: &str, client: &str) {
        self.clone.runs(line, 0, "");
        self.says("Success!", client, 0);
    }

    #[track_caller]
    fn breaks(&self, script: &str) {
        self.clone.runs(script, 0, "");
    }
}

#[test]
fn each_fault_of_the_table_is_mended_by_its_line() {
    let clone = Clone::new();
    clone.runs("just up && just enrol alice@example.com --name alice", 0, "alice.crt made");
    let prose = Page::read("docs/operations.md").prose();
    let table = prose.split_once("| the client prints |").unwrap().1.split_once("\n\n").unwrap().0;
    let rows = table.lines().skip(2).map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        (cells[0].trim().to_owned(), cells[2].trim().to_owned())
    });
    let mut night = Night { rows: rows.collect(), clone };
    lists(&mut night);
    certificates(&mut night);
    programs(&mut night);
    people(&mut night);
    assert!(night.rows.is_empty(), "no test has these rows: {:#?}", night.rows);
}

fn lists(night: &mut Night) {
    night.breaks(&format!("{ENDED}; certs/ca crl </dev/null >old.pem"));
    night.breaks(&format!("cp old.pem certs/crl.pem; cp old.pem .run/nginx/crl.pem; {RELOAD}"));
    night.prints("`FAILED:CRL has expired`", "`just crl`", CLIENT, 77);
    night.clone.runs("just status", 1, "the CRL…ended…days ago");
    night.mends("just crl", CLIENT);

    night.breaks(BRANCH_CA);
    night.breaks("cp branch/crl.pem certs/crl.d/branch.pem; just crl");
    night.comes("`just crl` says `crl.d/… has ended` or `is not a CRL`", "remove it; then `just crl`");
    night.mends("true", BRANCH);
    // One that is broken, or has ended, costs nobody anything as long as the last good copy lives.
    night.clone.runs("echo garbage >certs/crl.d/branch.pem; just crl", 1, "crl.d/…is not a CRL");
    night.clone.runs(BRANCH, 0, "Success!");
    night.clone.runs("cp old.pem certs/crl.d/branch.pem; just crl", 1, "crl.d/…has ended");
    night.clone.runs(BRANCH, 0, "Success!");
    night.mends("cp branch/crl.pem certs/crl.d/branch.pem; just crl", BRANCH);
    night.breaks("rm certs/crl.d/branch.pem; just crl");

    night.prints("`FAILED:unable to get certificate CRL`", "then `just crl`", BRANCH, 77);
    night.mends("true", CLIENT);
    night.mends("cp branch/crl.pem certs/crl.d/branch.pem; just crl", BRANCH);
}

fn certificates(night: &mut Night) {
    night.breaks(&format!("{ENDED}; {CA}; {RELOAD}"));
    night.prints("`FAILED:certificate has expired`, for everybody", "`just ca renew`", CLIENT, 77);
    night.says("FAILED:certificate has expired", ALICE, 77);
    night.mends("just ca renew", CLIENT);
    night.clone.runs(ALICE, 0, "Success!");

    night.breaks("just ca replace && just ca replace --finish --yes && just renew client");
    night.prints("`FAILED:unable to verify the first certificate`", "`just renew NAME`", ALICE, 77);
    night.clone.runs("just certs", 0, "untrusted");
    night.mends("just renew alice", ALICE);

    night.breaks(&format!("{ENDED}; {}", signed("alice", "alice@example.com")));
    night.prints("`the certificate … has expired` (exit code 78)", "`just renew NAME`", ALICE, 78);
    night.mends("just renew alice", ALICE);

    night.breaks("just revoke alice");
    night.prints(
        "`FAILED:certificate revoked`, or 403 `this certificate is revoked`",
        "`just renew NAME`",
        ALICE,
        77,
    );
    night.mends("just renew alice", ALICE);

    night.breaks(&format!(
        "{ENDED}; export ROLLCALL_SIGN_USAGE=serverAuth ROLLCALL_SIGN_SAN=DNS:localhost; {}; {RELOAD}",
        signed("server", "localhost")
    ));
    night.prints("`no TLS with the server: its certificate has ended, …`", "`just renew-server`", CLIENT, 76);
    night.clone.runs("just status", 1, "the certificate…/server.crt ended…days ago");
    night.clone.runs("just up", 1, "server.crt has ended: just renew-server");
    night.mends("just renew-server", CLIENT);

    let url = format!("{CLIENT} --url https://127.0.0.2:{}", night.clone.stack.https_port);
    night.prints(
        "`no TLS with the server: its certificate is not for …`",
        "`just renew-server NAME`",
        &url,
        76,
    );
    night.mends("just renew-server 127.0.0.2", &url);

    let other = Clone::new();
    other.runs("just ca init", 0, "ca.crt made");
    let theirs = other.folder.join("certs/ca.crt");
    night.breaks(&format!("cp {} theirs.crt", theirs.display()));
    night.prints(
        "`no TLS with the server: no CA in the --ca file signed its certificate`",
        "the `ca.crt` of now",
        &format!("{CLIENT} --ca theirs.crt"),
        76,
    );
    night.mends("cp certs/ca.crt theirs.crt", &format!("{CLIENT} --ca theirs.crt"));
}

fn programs(night: &mut Night) {
    let gone = |night: &Night, file: &str| {
        let pid = night.clone.stack.pid(file);
        wait_until("it ended", || fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default().is_empty());
    };
    night.breaks("kill $(cat .run/nginx/nginx.pid)");
    night.prints("`cannot reach … Connection refused`", "`just up`", CLIENT, 69);
    night.mends("just up", CLIENT);

    night.breaks("kill $(cat .run/server/pid)");
    gone(night, "server/pid");
    night.prints("`not now, says nginx (503 …): rollcall-server does not answer`", "`just up`", CLIENT, 75);
    night.mends("just up", CLIENT);

    night.breaks("kill -s INT $(head -n 1 .run/postgres/data/postmaster.pid)");
    let cluster = night.clone.stack.state.join("postgres/data/postmaster.pid");
    wait_until("PostgreSQL has ended", || !cluster.exists());
    night.prints(
        "`not now, says rollcall-server (503 …): the database is unreachable or too slow`",
        "`just up`",
        CLIENT,
        75,
    );
    night.mends("just up", CLIENT);

    let psql = "psql -qX -h \"$PWD/.run/postgres\" -U postgres rollcall -c";
    night.breaks(&format!(
        "{psql} \"begin; select from users where email = 'valid_user@qt-test.com' for update; select pg_sleep(600)\" \
         >/dev/null 2>&1 &"
    ));
    night.prints(
        "`not now, says rollcall-server (503 …): somebody else holds the row of this email`",
        "`pg_stat_activity`",
        CLIENT,
        75,
    );
    let end = "select pg_terminate_backend(pid) from pg_stat_activity where query ~ 'pg_sleep' and pid <> pg_backend_pid()";
    night.mends(&format!("{psql} \"{end}\""), CLIENT);

    // nginx has read another credential than the server, and its configuration is that of the last `just up`.
    night.breaks(
        "cd .run/nginx; cp nginx.conf good; sed -i \"s/$(cat ../proxy-credential)/$(openssl rand -hex 32)/\" nginx.conf; \
         kill -HUP $(cat nginx.pid)",
    );
    night.prints(
        "`refused by rollcall-server (401 …): the request did not come through nginx`",
        "`just down && just up`",
        CLIENT,
        77,
    );
    night.mends("just down && just up", CLIENT);
}

fn people(night: &mut Night) {
    let stack = &night.clone.stack;
    let url = stack.database_url();
    let psql = "psql -qX -h \"$PWD/.run/postgres\" -U postgres postgres -c";
    night.breaks(&format!("{psql} 'create database other owner rollcall'"));
    let other = url.replace("/rollcall?", "/other?");
    let of_role = |role: &str| other.replace("//rollcall@", &format!("//{role}@"));
    let (servers, boards) = (of_role("rollcall_server"), of_role("rollcall_reader"));
    night.breaks(&format!(
        "export DATABASE_URL='{other}' ROLLCALL_SERVER_DATABASE_URL='{servers}' \
         ROLLCALL_BOARD_DATABASE_URL='{boards}'; rollcall-admin migrate; \
         psql \"$DATABASE_URL\" -qX -f deploy/grants.sql; just up"
    ));
    night.prints("403 `is not enrolled` or `is disabled` for everybody", "`DATABASE_URL`", ALICE, 77);
    night.mends("just up", ALICE);

    night.breaks(&format!("{EARLY}; {}", signed("alice", "alice@example.com")));
    night.prints(
        "`the certificate … is not valid yet`, or `FAILED:certificate is not yet valid`",
        "set the clock",
        ALICE,
        78,
    );
    // No test sets a clock. nginx's answer is seen with a client that does not look.
    let alice = night.clone.stack.pair("alice");
    let answer = night.clone.stack.curl(Some(&alice), &[]);
    assert!(answer.detail().contains("FAILED:certificate is not yet valid"), "{answer:?}");
    night.mends("just renew alice", ALICE);

    night.breaks("export ROLLCALL_RATE=1; just up");
    night.comes("`not now, says nginx (429 …)`", "`ROLLCALL_RATE` and `just up`");
    let often = || Running::start(&night.clone.stack, night.clone.shell("just client --every 50ms"));
    let client = often();
    wait_until("it asks too often", || page::says(&client.err(), "not now, says nginx (429 …)"));
    drop(client);
    night.breaks("export ROLLCALL_RATE=1000000; just up");
    wait_until("nobody asks too often", || {
        let client = often();
        wait_until("it beats", || client.out().matches("Success!").count() > 10);
        !client.err().contains("429")
    });

    // The walkthrough's own certificate stops nobody else.
    night.breaks(&format!("{ENDED}; {}", signed("client", "valid_user@qt-test.com")));
    night.clone.runs("just up", 0, "client.crt has ended");
    night.clone.runs("just client", 78, "has expired");
    night.clone.types("just renew client", 0, "client.crt renewed");
    night.says("Success!", CLIENT, 0);
}
