//! What an earlier version has left: its rows, its server that still runs, its lists.

use std::fs;

use super::{admin, beats, is_refused, listed, openssl};
use crate::stack::{Pair, Stack, expect};

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
