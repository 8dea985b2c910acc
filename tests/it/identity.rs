//! Nobody else's name: hostile certificates, made by our own CA and by a foreign one, and what must
//! come out for each.

use crate::stack::{Builder, Ear, Stack, date, expect, is_root, text, wait_until};
use rollcall::protocol::status::Email;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const VICTIM: &str = "victim@example.com";

/// The result that must come out.
enum Out {
    /// Accepted as this email, and as nobody else.
    Is(&'static str),
    /// Refused by nginx or by the server with this status; the detail holds this text.
    No(u16, &'static str),
}
use Out::{Is, No};

const NOT_ONE: &str = "does not hold exactly one CN";
const NO_EMAIL: &str = "is not an email address";
const NOT_ESCAPED: &str = "is not an escaped RFC 4514 value";
const UNKNOWN: &str = "this email is not enrolled";
const UNVERIFIED: &str = "the client certificate does not verify";

/// Subjects as openssl(1) takes them: `/` separates, `+` joins, `\` escapes.
const SUBJECTS: &[(&str, Out)] = &[
    // One CN, whatever stands around it.
    ("/CN=victim@example.com", Is(VICTIM)),
    ("/CN=VICTIM@EXAMPLE.COM", Is(VICTIM)),
    ("/CN=a\\+tag@example.com", Is("a+tag@example.com")),
    ("/CN=a@example.com", Is("a@example.com")),
    ("/C=DE/O=Example/OU=Lab/CN=a@example.com", Is("a@example.com")),
    ("/CN=a@example.com/O=Example", Is("a@example.com")),
    ("/CN=a@example.com+O=Example", Is("a@example.com")),
    ("/O=Example+CN=a@example.com+OU=Lab", Is("a@example.com")),
    ("/CN=a@example.com/emailAddress=victim@example.com", Is("a@example.com")),
    ("/UID=victim@example.com/CN=a@example.com", Is("a@example.com")),
    ("/1.2.3.4=victim@example.com/CN=a@example.com", Is("a@example.com")),
    // The victim's name in another attribute's value, dressed as a CN.
    ("/O=CN=victim@example.com/CN=a@example.com", Is("a@example.com")),
    ("/O=x,CN=victim@example.com/CN=a@example.com", Is("a@example.com")),
    ("/O=x\\+CN=victim@example.com/CN=a@example.com", Is("a@example.com")),
    ("/O=x\\\\,CN=victim@example.com/CN=a@example.com", Is("a@example.com")),
    ("/O=\"CN=victim@example.com\"/CN=a@example.com", Is("a@example.com")),
    ("/O=x;CN=victim@example.com/CN=a@example.com", Is("a@example.com")),
    ("/O=x\nCN=victim@example.com/CN=a@example.com", Is("a@example.com")),
    ("/O=\\/CN=victim@example.com/CN=a@example.com", Is("a@example.com")),
    ("/O=CN=victim@example.com", No(400, NOT_ONE)),
    ("/O=x,CN=victim@example.com", No(400, NOT_ONE)),
    ("/emailAddress=victim@example.com", No(400, NOT_ONE)),
    ("/SN=victim@example.com", No(400, NOT_ONE)),
    ("/UID=victim@example.com", No(400, NOT_ONE)),
    // Two of them.
    ("/CN=a@example.com/CN=victim@example.com", No(400, NOT_ONE)),
    ("/CN=victim@example.com/CN=a@example.com", No(400, NOT_ONE)),
    ("/CN=victim@example.com/CN=victim@example.com", No(400, NOT_ONE)),
    ("/CN=a@example.com+CN=victim@example.com", No(400, NOT_ONE)),
    ("/CN=a@example.com/O=x/CN=victim@example.com", No(400, NOT_ONE)),
    // One CN that is more or less than an email.
    ("/CN=victim@example.com,CN=a@example.com", No(400, NO_EMAIL)),
    ("/CN=victim@example.com,O=x", No(400, NO_EMAIL)),
    ("/CN=CN=victim@example.com", No(403, UNKNOWN)),
    ("/CN=victim@example.com\\+", No(400, NO_EMAIL)),
    ("/CN=\"victim@example.com\"", No(400, NO_EMAIL)),
    ("/CN=<victim@example.com>", No(400, NO_EMAIL)),
    ("/CN=Victim <victim@example.com>", No(400, NO_EMAIL)),
    ("/CN=victim@example.com;a@example.com", No(400, NO_EMAIL)),
    ("/CN=victim@example.com a@example.com", No(400, NO_EMAIL)),
    ("/CN= victim@example.com", No(400, NO_EMAIL)),
    ("/CN=victim@example.com ", No(400, NOT_ESCAPED)),
    ("/CN=#victim@example.com", No(403, UNKNOWN)),
    ("/CN=victim@example.com\\\\", No(400, NO_EMAIL)),
    ("/CN=\\\\victim@example.com", No(400, NO_EMAIL)),
    ("/CN=victim@example.com\n", No(400, NO_EMAIL)),
    ("/CN=victim@example.com\r\nX-Subject-CN: a@example.com", No(400, NO_EMAIL)),
    ("/CN=victim@example.com\u{1b}[2J", No(400, NO_EMAIL)),
    ("/CN=victim@example.com\u{7f}", No(400, NO_EMAIL)),
    ("/CN=v\u{456}ctim@example.com", No(400, NO_EMAIL)),
    ("/CN=victim\u{ff20}example.com", No(400, NO_EMAIL)),
    ("/CN=victim@example.com\u{200b}", No(400, NO_EMAIL)),
    ("/CN=victim@example.com.", No(400, NO_EMAIL)),
    ("/CN=victim.@example.com", No(400, NO_EMAIL)),
    ("/CN=victim@@example.com", No(400, NO_EMAIL)),
    ("/CN=victim", No(400, NO_EMAIL)),
    ("/CN=*@example.com", No(403, UNKNOWN)),
    ("/CN=%@example.com", No(403, UNKNOWN)),
    ("/CN=victim%40example.com", No(400, NO_EMAIL)),
    ("/CN=victim@example.com'--", No(400, NO_EMAIL)),
    ("/CN=$subject_cn@example.com", No(403, UNKNOWN)),
];

fn members(stack: &Stack) -> [&'static str; 3] {
    let members = [VICTIM, "a@example.com", "a+tag@example.com"];
    let arguments: Vec<&str> = ["user", "add"].into_iter().chain(members).collect();
    assert!(stack.admin(&arguments).status.success());
    members
}

#[track_caller]
fn check(stack: &Stack, ear: &Ear, ca: &Path, subject: &str, out: &Out) {
    let pair = stack.certificate_of(ca, subject);
    let answer = stack.curl(Some(&pair), &[]);
    match out {
        Is(email) => {
            assert_eq!(answer.status, 204, "{subject:?}: {answer:?}");
            assert_eq!(ear.hear().email.as_str(), *email, "{subject:?}");
        }
        No(status, detail) => {
            assert_eq!(answer.status, *status, "{subject:?}: {answer:?}");
            assert!(answer.detail().contains(detail), "{subject:?}: {answer:?}");
        }
    }
}

#[test]
fn every_hostile_subject_is_refused_or_is_the_one_that_was_signed() {
    let stack = Stack::up();
    members(&stack);
    let foreign = Builder::new().stopped();
    expect(foreign.program("rollcall-admin").args(["ca", "init"]), 0, "");
    let ear = stack.ear();
    for (i, (subject, out)) in SUBJECTS.iter().enumerate() {
        check(&stack, &ear, &stack.certs, subject, out);
        // Whatever a foreign CA signs is nothing; a few of them are enough to show it.
        if i % 8 == 0 {
            check(&stack, &ear, &foreign.certs, subject, &No(400, UNVERIFIED));
        }
    }
    ear.hears_nothing();
    let log = stack.log("server/log");
    assert!(
        !log.contains('\u{1b}') && !log.contains('\r'),
        "text from strangers came into the log as it was"
    );
}

/// A value of the characters that mean something in a subject.
fn random_value(next: &mut impl FnMut(usize) -> usize) -> String {
    const PIECES: [&str; 16] = [
        VICTIM,
        "a@example.com",
        "a+tag@example.com",
        "CN=",
        ",",
        "+",
        "=",
        "\\",
        "\"",
        "/",
        ";",
        "<",
        "#",
        " ",
        "\u{e9}",
        "x",
    ];
    (0..1 + next(3)).map(|_| PIECES[next(PIECES.len())]).collect()
}

#[test]
fn a_random_subject_is_exactly_its_one_cn_or_nobody() {
    let stack = Stack::up();
    let members: BTreeSet<_> = members(&stack).into();
    let ear = stack.ear();
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 16) as usize % below
    };
    let mut accepted = 0;
    for _ in 0..100 {
        let attributes: Vec<(&str, String)> = (0..1 + next(3))
            .map(|_| {
                let plain = next(2) == 0;
                let value = if plain { "a+tag@example.com".to_owned() } else { random_value(&mut next) };
                (["CN", "CN", "O", "OU", "UID"][next(5)], value)
            })
            .collect();
        let subject: String = attributes
            .iter()
            .enumerate()
            .map(|(i, (name, value))| {
                let escaped = value.replace('\\', "\\\\").replace('/', "\\/").replace('+', "\\+");
                format!("{}{name}={escaped}", if i > 0 && next(3) == 0 { '+' } else { '/' })
            })
            .collect();
        let names: Vec<&String> =
            attributes.iter().filter(|(name, _)| *name == "CN").map(|(_, cn)| cn).collect();
        let expected = match names[..] {
            [cn] => Email::new(cn).ok().filter(|email| members.contains(email.as_str())),
            _ => None,
        };
        let pair = stack.certificate_of(&stack.certs, &subject);
        let answer = stack.curl(Some(&pair), &[]);
        match expected {
            Some(email) => {
                assert_eq!(answer.status, 204, "{subject:?}: {answer:?}");
                assert_eq!(ear.hear().email, email, "{subject:?}");
                accepted += 1;
            }
            None => assert!(matches!(answer.status, 400 | 403), "{subject:?}: {answer:?}"),
        }
    }
    ear.hears_nothing();
    assert!((10..90).contains(&accepted), "the subjects were too much alike: {accepted} of 100 accepted");
}

#[test]
fn no_location_of_nginx_lets_a_client_name_itself() {
    let stack = Stack::up();
    members(&stack);
    let pair = stack.member("own@example.com");
    let configuration = stack.log("nginx/nginx.conf");
    let locations: Vec<&str> = configuration
        .lines()
        .filter_map(|line| line.trim().strip_prefix("location "))
        .map(|line| line.trim_end_matches(" {").trim_start_matches("= "))
        // A name that no request can have.
        .filter(|line| !line.starts_with('@'))
        // The board's, whose rights are tested in board.rs.
        .flat_map(|line| if line == "~ ^/(api/|$)" { vec!["/", "/api/me"] } else { vec![line] })
        // These were locations of their own.
        .chain(["/problem/busy", "/problem/method"])
        .collect();
    assert!(locations.len() > 4 && locations.iter().all(|path| path.starts_with('/')), "{locations:?}");
    let credential = stack.credential();
    let forged = [
        format!("X-Subject-CN: {VICTIM}"),
        format!("x-subject-cn: {VICTIM}"),
        format!("X_Subject_CN: {VICTIM}"),
        format!("X-Proxy-Credential: {credential}"),
        "X-Real-IP: 192.0.2.9".to_owned(),
        "X-Real-Port: 9".to_owned(),
        "X-Client-Serial: 09".to_owned(),
        "X-Forwarded-For: 192.0.2.9".to_owned(),
        "Forwarded: for=192.0.2.9".to_owned(),
        format!("X-Long: {}", "x".repeat(7000)),
    ];
    let mut headers: Vec<&str> = Vec::new();
    for header in &forged {
        headers.extend(["-H", header, "-H", header]);
    }
    for location in &locations {
        for path in [location.to_string(), format!("{location}/"), format!("{location}?x")] {
            let mut arguments = headers.clone();
            arguments.push(&path);
            let with = stack.curl(Some(&pair), &arguments);
            let without = stack.curl(None, &arguments);
            assert_eq!(without.status, 400, "{path}");
            let expected = match path.trim_end_matches("?x") {
                "/api/client" => 204,
                // It takes a POST alone; renewal.rs forges headers there.
                "/.well-known/est/simplereenroll" => 405,
                "/" | "//" | "/api/me" | "/api/me/" | "/api/client/" => 405,
                _ => 404,
            };
            assert_eq!(with.status, expected, "{path}: {with:?}");
        }
    }
    assert_eq!(stack.row(VICTIM), "||");
    assert!(!stack.row("own@example.com").contains("192.0.2.9"));
    assert_eq!(stack.sql("select count(*) from certificates where serial_number = '09'"), "0");
}

#[test]
fn a_certificate_ends_on_a_kept_connection_too() {
    let stack = Stack::up();
    let pair = stack.certificate("valid_user@qt-test.com", &[("ROLLCALL_SIGN_UNTIL", &date(4))]);
    let client = stack.beating(&pair, "200ms");
    wait_until("it beats", || client.out().contains("Success!"));
    wait_until("it is refused", || {
        client.err().contains("refused by rollcall-server (400 Bad Request): the certificate has expired")
    });
}

#[test]
fn an_interrupted_first_start_is_begun_again() {
    let stack = Builder::new().stopped();
    for milliseconds in ["0.3", "0.5", "0.8"] {
        let mut command = stack.command("timeout");
        command.args(["-s", "KILL", milliseconds, concat!(env!("CARGO_MANIFEST_DIR"), "/stack/up")]);
        let _ = command.output().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
    let up = stack.script("stack/up");
    assert!(up.status.success(), "as root: {}: {}", is_root(), text(&up));
    assert!(
        fs::read_dir(&stack.certs)
            .unwrap()
            .all(|entry| { !entry.unwrap().file_name().to_string_lossy().ends_with(".new") })
    );
}
