//! TLS to PostgreSQL: real certificates, each `sslmode`, and each way in which they can be wrong.

use std::fs::{self, File, Permissions};
use std::io::Read;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cluster::{self, Cluster};
use crate::stack::{Stack, date, expect, is_root, text, wait_until};

const ACCESS: &str = "hostssl all rollcall_server 127.0.0.1/32 cert\nhostssl all all 127.0.0.1/32 scram-sha-256\n\
                      hostssl all all ::1/128 scram-sha-256";

/// A certificate and its key, signed by the CA of the stack.
fn signed(stack: &Stack, name: &str, settings: &[(&str, &str)]) -> (PathBuf, PathBuf) {
    let [cert, key] = ["crt", "key"].map(|extension| stack.state.join(format!("{name}.{extension}")));
    let mut sign = stack.tool("certs/ca");
    sign.arg("sign").envs(settings.iter().copied()).stdin(File::open(stack.request(&key)).unwrap());
    let output = sign.output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    fs::write(&cert, output.stdout).unwrap();
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    (cert, key)
}

/// Gives the cluster this certificate.
fn show(cluster: &Cluster, (cert, key): &(PathBuf, PathBuf)) {
    for (from, to) in [(cert, "server.crt"), (key, "server.key")] {
        let to = cluster.folder.join(to);
        fs::copy(from, &to).unwrap();
        fs::set_permissions(&to, Permissions::from_mode(0o600)).unwrap();
        if is_root() {
            expect(Command::new("chown").arg("postgres:").arg(&to), 0, "");
        }
    }
}

fn of_database(stack: &Stack, name: &str, until: i64) -> (PathBuf, PathBuf) {
    let (from, until) = (date(-7200), date(until));
    let settings = [
        ("ROLLCALL_SIGN_CN", "database"),
        ("ROLLCALL_SIGN_SAN", "DNS:localhost"),
        ("ROLLCALL_SIGN_USAGE", "serverAuth"),
        ("ROLLCALL_SIGN_FROM", &from),
        ("ROLLCALL_SIGN_UNTIL", &until),
    ];
    signed(stack, name, &settings)
}

fn secure(stack: &Stack) -> Cluster {
    let cluster = Cluster::primary(stack, "password_encryption = scram-sha-256", ACCESS);
    show(&cluster, &of_database(stack, "database", 7200));
    let ca = cluster.folder.join("ca.crt");
    fs::copy(stack.certs.join("ca.crt"), &ca).unwrap();
    fs::set_permissions(&ca, Permissions::from_mode(0o644)).unwrap();
    for (name, value) in
        [("ssl_cert_file", "server.crt"), ("ssl_key_file", "server.key"), ("ssl_ca_file", "ca.crt")]
    {
        let file = cluster.folder.join(value);
        cluster.sql("postgres", &format!("alter system set {name} = '{}'", file.display()));
    }
    turn(&cluster, "on");
    cluster.furnish(stack, "alice@example.com");
    cluster
}

fn turn(cluster: &Cluster, ssl: &str) {
    cluster.sql("postgres", &format!("alter system set ssl = {ssl}"));
    reload(cluster);
}

/// New sessions have the new settings once the postmaster has read them.
fn reload(cluster: &Cluster) {
    let loaded = cluster.sql("postgres", "select pg_conf_load_time()");
    cluster.sql("postgres", "select pg_reload_conf()");
    wait_until("it has read its files", || cluster.sql("postgres", "select pg_conf_load_time()") != loaded);
}

#[test]
fn each_sslmode_proves_what_it_says() {
    let stack = cluster::stack(&[]);
    let cluster = secure(&stack);
    let ca = stack.certs.join("ca.crt");
    let other = stack.self_signed("/CN=database", &["-addext", "subjectAltName=DNS:localhost"]).cert;
    let list = |host: &str, parameters: &str, exit: i32, said: &str| {
        let url = cluster.url_over_tcp(host, parameters);
        let mut command = stack.administer(&["user", "list"]);
        let output = command.env("DATABASE_URL", url).output().unwrap();
        let all = text(&output);
        assert_eq!(output.status.code(), Some(exit), "{host} {parameters}: {all}");
        assert!(all.contains(said), "{host} {parameters}: {all}");
        assert!(!all.contains("secret"), "{all}");
    };
    let with = |mode: &str, ca: &Path| format!("sslmode={mode}&sslrootcert={}", ca.display());
    list("localhost", &with("verify-full", &ca), 0, "alice@example.com");
    list("localhost", &with("verify-ca", &ca), 0, "alice@example.com");
    // The certificate names localhost alone.
    list("127.0.0.1", &with("verify-ca", &ca), 0, "alice@example.com");
    list("127.0.0.1", &with("verify-full", &ca), 69, "certificate not valid for name");
    // The name that is checked would be the address.
    let address = |mode: &str| format!("{}&hostaddr=127.0.0.1", with(mode, &ca));
    list("localhost", &address("verify-full"), 78, "leave hostaddr out");
    list("elsewhere.invalid", &address("verify-ca"), 0, "alice@example.com");
    for mode in ["verify-ca", "verify-full"] {
        list("localhost", &with(mode, &other), 69, "UnknownIssuer");
        list("localhost", &format!("sslmode={mode}"), 78, "sslrootcert is not given");
    }
    for mode in ["require", "prefer", "allow", "no"] {
        list("localhost", &with(mode, &ca), 78, "verify-full");
    }
    list("localhost", "", 78, "over TCP and has no sslmode");
    list("127.0.0.1", "sslmode=disable", 78, "no encryption");
    let verified = cluster.url_over_tcp("localhost", &with("verify-full", &ca));
    for (from, to) in [(":secret@", ":wrong@"), ("//rollcall:", "//nobody:")] {
        let mut wrong = stack.administer(&["user", "list"]);
        wrong.env("DATABASE_URL", verified.replace(from, to));
        let output = wrong.output().unwrap();
        let said = text(&output);
        assert_eq!(output.status.code(), Some(78), "{said}");
        assert!(
            said.contains("does not let the role of DATABASE_URL in (password authentication failed"),
            "{said}"
        );
        assert!(!said.contains("at line") && !said.contains("wrong"), "{said}");
    }
    // HAProxy takes a connection, and ends it when there is no primary that it could hand it to.
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    let away = verified
        .replace(&format!(":{}/", cluster.port), &format!(":{}/", proxy.local_addr().unwrap().port()));
    std::thread::spawn(move || {
        let (mut stream, _) = proxy.accept().unwrap();
        stream.read_exact(&mut [0; 8]).unwrap();
    });
    let mut list_there = stack.administer(&["user", "list"]);
    expect(list_there.env("DATABASE_URL", away), 69, "there is no primary behind it now");

    // A mistake in the database that may be mended is no mistake in the settings.
    show(&cluster, &of_database(&stack, "ended", -3600));
    reload(&cluster);
    for mode in ["verify-ca", "verify-full"] {
        list("localhost", &with(mode, &ca), 69, "certificate expired");
    }
    let key = stack.certs.join("broadcast.key");
    let url = cluster.url_over_tcp("localhost", &with("verify-full", &ca));
    let settings = [
        ("DATABASE_URL", url.as_str()),
        ("ROLLCALL_LISTEN", &stack.listen),
        ("ROLLCALL_BROADCAST_KEY", key.to_str().unwrap()),
    ];
    let server = crate::server::start(&stack, &settings);
    wait_until("it waits", || server.err().contains("waiting for the database: database: "));
    assert!(server.err().contains("certificate expired"), "{}", server.err());
    assert!(cluster::readyz(&stack).detail().contains("TLS with it fails"), "{:?}", cluster::readyz(&stack));
    turn(&cluster, "off");
    wait_until("it says so", || server.err().contains("server does not support TLS"));
    turn(&cluster, "on");
    show(&cluster, &of_database(&stack, "renewed", 7200));
    reload(&cluster);
    wait_until("it goes on", || server.err().contains("the database is ready"));
    wait_until("it is ready", || cluster::readyz(&stack).status == 204);
    let encrypted = "select count(*) > 0 and bool_and(ssl) from pg_stat_ssl join pg_stat_activity using (pid)
                      where usename = 'rollcall'";
    assert_eq!(cluster.sql("postgres", encrypted), "t");

    // A role may be mended while a server waits.
    drop(server);
    cluster.sql("postgres", "alter role rollcall password 'other'");
    let server = crate::server::start(&stack, &settings);
    wait_until("it waits", || {
        server
            .err()
            .contains("waiting for the database: the database does not let the role of DATABASE_URL in")
    });
    assert!(cluster::readyz(&stack).body.contains("does not let the server's role in"));
    cluster.sql("postgres", "alter role rollcall password 'secret'");
    wait_until("it goes on", || server.err().contains("the database is ready"));
}

#[test]
fn a_role_may_show_a_certificate_and_its_files_are_looked_at_first() {
    let stack = cluster::stack(&[]);
    let cluster = secure(&stack);
    let ca = stack.certs.join("ca.crt");
    let (cert, key) = signed(&stack, "role", &[("ROLLCALL_SIGN_CN", "rollcall_server")]);
    let try_it = |ca: &Path, cert: &Path, key: &Path| {
        let parameters = format!(
            "sslmode=verify-full&sslrootcert={}&sslcert={}&sslkey={}",
            ca.display(),
            cert.display(),
            key.display()
        );
        let url =
            cluster.url_over_tcp("localhost", &parameters).replace("rollcall:secret", "rollcall_server");
        let mut doctor = stack.program("rollcall-server");
        doctor.env("DATABASE_URL", &url).args(["doctor", "database"]);
        let mut check = stack.program("rollcall-server");
        let check = check.env("DATABASE_URL", url).arg("--check").output().unwrap();
        (text(&doctor.output().unwrap()), check)
    };
    let (doctor, check) = try_it(&ca, &cert, &key);
    assert!(doctor.contains("green   the server may record in the database"), "{doctor}");
    assert_eq!(check.status.code(), Some(0), "{}", text(&check));

    let file = |name: &str, content: &[u8], mode: u32| {
        let path = stack.state.join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    };
    let pem = fs::read(&key).unwrap();
    let exposed = file("exposed.key", &pem, 0o644);
    let empty = file("empty", b" \n", 0o600);
    let prose = file("prose", b"no certificate", 0o600);
    let damaged = file("damaged", b"-----BEGIN CERTIFICATE-----\nAAAA\n", 0o600);
    let nowhere = stack.state.join("nowhere");
    let binary = stack.state.join("binary.der");
    let mut openssl = stack.command("openssl");
    openssl.args(["x509", "-outform", "DER", "-in"]).arg(&ca).arg("-out").arg(&binary);
    expect(&mut openssl, 0, "");
    let locked = stack.state.join("locked.key");
    let mut openssl = stack.command("openssl");
    openssl.args(["pkey", "-aes256", "-passout", "pass:x", "-in"]).arg(&key).arg("-out").arg(&locked);
    expect(&mut openssl, 0, "");
    fs::set_permissions(&locked, Permissions::from_mode(0o600)).unwrap();
    let stranger = signed(&stack, "stranger", &[("ROLLCALL_SIGN_CN", "rollcall_server")]).1;
    for (ca, cert, key, parameter, said) in [
        (&nowhere, &cert, &key, "sslrootcert", "No such file"),
        (&stack.state, &cert, &key, "sslrootcert", "Is a directory"),
        (&empty, &cert, &key, "sslrootcert", "it is empty"),
        (&prose, &cert, &key, "sslrootcert", "there is nothing in it that is a certificate"),
        (&damaged, &cert, &key, "sslrootcert", "it is damaged"),
        (&key, &cert, &key, "sslrootcert", "it holds a private key, and not a certificate"),
        (&binary, &cert, &key, "sslrootcert", "openssl x509 -in FILE writes it"),
        (&ca, &nowhere, &key, "sslcert", "No such file"),
        (&ca, &key, &key, "sslcert", "it holds a private key, and not a certificate"),
        (&ca, &cert, &nowhere, "sslkey", "No such file"),
        (&ca, &cert, &exposed, "sslkey", "mode 0644: others can read it"),
        (&ca, &cert, &empty, "sslkey", "it is empty"),
        (&ca, &cert, &locked, "sslkey", "it is encrypted"),
        (&ca, &cert, &stranger, "sslkey", &format!("the certificate in sslcert, {}", cert.display())),
    ] {
        let (doctor, check) = try_it(ca, cert, key);
        let all = text(&check);
        assert_eq!(check.status.code(), Some(78), "{all}");
        let wrong = match parameter {
            "sslrootcert" => ca,
            "sslcert" => cert,
            _ => key,
        };
        assert!(all.contains(&format!("DATABASE_URL: {parameter}, {}: ", wrong.display())), "{all}");
        assert!(all.contains(said), "{all}");
        assert!(doctor.contains(said), "{doctor}");
    }

    // Each form of a key.
    for (form, command) in [
        ("rsa", "openssl genrsa -traditional 2048"),
        ("rsa8", "openssl genpkey -algorithm RSA"),
        ("sec1", "openssl ecparam -genkey -noout -name prime256v1"),
        ("p384", "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384"),
        ("ed25519", "openssl genpkey -algorithm ED25519"),
    ] {
        let [own, other] = ["own", "other"].map(|name| {
            let path = stack.state.join(format!("{form}.{name}"));
            let mut make = stack.command("sh");
            make.args(["-ec", &format!("umask 077; {command} >{}", path.display())]);
            expect(&mut make, 0, "");
            path
        });
        let cert = stack.state.join(format!("{form}.crt"));
        let mut openssl = stack.command("openssl");
        openssl
            .args(["req", "-x509", "-subj", "/CN=rollcall_server", "-key"])
            .arg(&own)
            .arg("-out")
            .arg(&cert);
        expect(&mut openssl, 0, "");
        for (key, exit) in [(&own, 0), (&other, 78)] {
            let (_, check) = try_it(&ca, &cert, key);
            assert_eq!(check.status.code(), Some(exit), "{form}: {}", text(&check));
        }
    }
}
