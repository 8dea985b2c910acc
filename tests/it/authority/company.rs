//! A CA that is no work of ours, as a company has it.

use std::fs;
use std::io::Write;

use super::{admin, beats, is_refused, openssl};
use crate::stack::{Builder, Stack, expect, text, wait_until};

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
