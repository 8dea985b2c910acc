//! Certificates that do not prove anybody, and names that are not anybody's: each with its status and message.

use crate::stack::{Builder, Pair, Stack, expect};

#[track_caller]
fn refused(stack: &Stack, pair: Option<&Pair>, status: u16, detail: &str) {
    let answer = stack.curl(pair, &[]);
    assert_eq!((answer.status, answer.detail().as_str()), (status, detail));
}

#[test]
fn an_unverified_certificate_never_reaches_the_server() {
    let stack = Stack::up();
    let foreign = Builder::new().stopped();
    expect(foreign.program("rollcall-admin").args(["ca", "init"]), 0, "");
    let ear = stack.ear();

    refused(&stack, None, 400, "no client certificate was sent; this server answers nobody without one");
    let unverified = |why| {
        format!(
            "the client certificate does not verify (FAILED:{why}); get one from the administrator of rollcall"
        )
    };
    // The same name, signed by somebody else.
    let stranger = foreign.certificate("valid_user@qt-test.com", &[]);
    refused(&stack, Some(&stranger), 400, &unverified("unable to verify the first certificate"));
    let dates = [("ROLLCALL_SIGN_FROM", "20200101000000Z"), ("ROLLCALL_SIGN_UNTIL", "20200201000000Z")];
    let expired = stack.certificate("valid_user@qt-test.com", &dates);
    refused(&stack, Some(&expired), 400, &unverified("certificate has expired"));
    let dates = [("ROLLCALL_SIGN_FROM", "20990101000000Z"), ("ROLLCALL_SIGN_UNTIL", "20990201000000Z")];
    let early = stack.certificate("valid_user@qt-test.com", &dates);
    refused(&stack, Some(&early), 400, &unverified("certificate is not yet valid"));
    // A certificate for servers proves no client.
    let server = stack.pair("server");
    refused(&stack, Some(&server), 400, &unverified("unsuitable certificate purpose"));
    // Nobody may be their own authority.
    let own = stack.self_signed("/CN=valid_user@qt-test.com", &[]);
    // The first fault that OpenSSL finds depends on the CRL.
    let answer = stack.curl(Some(&own), &[]);
    assert_eq!(answer.status, 400);
    assert!(answer.detail().starts_with("the client certificate does not verify (FAILED:"), "{answer:?}");

    ear.hears_nothing();
    assert_eq!(stack.row("valid_user@qt-test.com"), "||");
    assert!(!stack.log("server/log").contains(" 400: "), "the server was asked");

    // The client says the same in its own words.
    expect(
        &mut stack.client(&stranger),
        77,
        "refused by nginx (400 Bad Request): the client certificate does not verify (FAILED:unable to verify",
    );
}

#[test]
fn names_that_belong_to_nobody() {
    let stack = Stack::up();
    let ear = stack.ear();
    let no_single_cn = "the subject of the client certificate does not hold exactly one CN";
    let sixty_four = format!("{}@example.com", "x".repeat(52));
    for (subject, status, detail) in [
        ("/O=valid_user@qt-test.com", 400, no_single_cn.to_owned()),
        ("/O=x, CN=valid_user@qt-test.com", 400, no_single_cn.to_owned()),
        ("/CN=a@example.com/CN=valid_user@qt-test.com", 400, no_single_cn.to_owned()),
        ("/CN=a@example.com+CN=valid_user@qt-test.com", 400, no_single_cn.to_owned()),
        ("/CN=not_an_email", 400, "the certificate's CN is not an email address: \"not_an_email\": there is no '@'".to_owned()),
        ("/CN=jos\u{e9}@example.com", 400, "the certificate's CN is not an email address: \"jos\u{e9}@example.com\": non-ASCII character at byte 3".to_owned()),
        ("/CN=valid_user@qt-test.com ", 400, "X-Subject-CN is not an escaped RFC 4514 value: \"valid_user@qt-test.com\\\\\"".to_owned()),
        ("/CN=valid_user@qt-test.com,O=x", 400, "the certificate's CN is not an email address: \"valid_user@qt-test.com,O=x\": unexpected character ',' in the domain at byte 22".to_owned()),
        ("/CN=nobody@example.com", 403, "this email is not enrolled; ask the administrator of rollcall to add it".to_owned()),
        (&format!("/CN={sixty_four}"), 403, "this email is not enrolled; ask the administrator of rollcall to add it".to_owned()),
    ] {
        let pair = stack.certificate_of(&stack.certs, subject);
        let answer = stack.curl(Some(&pair), &[]);
        assert_eq!((answer.status, answer.detail()), (status, detail), "{subject}");
    }
    ear.hears_nothing();
    assert_eq!(stack.row("valid_user@qt-test.com"), "||");
}

#[test]
fn names_that_reach_the_right_person() {
    let stack = Stack::up();
    let ear = stack.ear();
    let sixty_four = format!("{}@example.com", "x".repeat(52));
    assert_eq!(sixty_four.len(), 64);
    let emails =
        ["a+tag@example.com", "a@example.com", "upper@example.com", "o'brien=x@example.com", &sixty_four];
    let arguments: Vec<&str> = ["user", "add"].into_iter().chain(emails).collect();
    assert!(stack.admin(&arguments).status.success());
    for (subject, email) in [
        ("/CN=a\\+tag@example.com", "a+tag@example.com"),
        ("/CN=UPPER@Example.COM", "upper@example.com"),
        ("/CN=o'brien=x@example.com", "o'brien=x@example.com"),
        ("/C=DE/O=CN=nobody@example.com/OU=a\\, b+serialNumber=7/CN=a@example.com", "a@example.com"),
        (&format!("/CN={sixty_four}"), sixty_four.as_str()),
    ] {
        let pair = stack.certificate_of(&stack.certs, subject);
        assert_eq!(stack.curl(Some(&pair), &[]).status, 204, "{subject}");
        assert_eq!(ear.hear().email.as_str(), email);
    }
}

#[test]
fn a_disabled_person_is_refused_from_the_next_request_on() {
    let stack = Stack::up();
    let pair = stack.member("a@example.com");
    assert_eq!(stack.curl(Some(&pair), &[]).status, 204);
    assert!(stack.admin(&["user", "disable", "a@example.com"]).status.success());
    let detail = "this email is enrolled and disabled; ask the administrator of rollcall to enable it";
    refused(&stack, Some(&pair), 403, detail);
    expect(&mut stack.client(&pair), 77, &format!("refused by rollcall-server (403 Forbidden): {detail}"));
    assert!(stack.admin(&["user", "enable", "a@example.com"]).status.success());
    assert_eq!(stack.curl(Some(&pair), &[]).status, 204);
}

#[test]
fn tls_1_2_and_1_3_and_nothing_older() {
    let stack = Stack::up();
    let pair = stack.pair("client");
    for version in ["1.2", "1.3"] {
        let flag = format!("--tlsv{version}");
        assert_eq!(stack.curl(Some(&pair), &[&flag, "--tls-max", version]).status, 204);
    }
    let output = stack
        .command("openssl")
        .args(["s_client", "-tls1_1", "-cipher", "ALL:@SECLEVEL=0", "-connect"])
        .arg(format!("localhost:{}", stack.https_port))
        .output()
        .unwrap();
    assert!(!output.status.success());
}

#[test]
fn the_authority_changes_nothing_when_it_runs_again() {
    let stack = Builder::new().stopped();
    let init = || {
        expect(stack.program("rollcall-admin").args(["ca", "init"]), 0, "");
        expect(stack.tool("certs/ca").arg("keys"), 0, "");
        let mut files: Vec<_> = std::fs::read_dir(&stack.certs)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| (path.clone(), std::fs::read(&path).unwrap()))
            .collect();
        files.sort();
        files
    };
    let first = init();
    assert_eq!(init(), first);
    for (path, _) in first {
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&path).unwrap()) & 0o777;
        let public = path.extension().is_some_and(|extension| extension == "crt" || extension == "pub");
        assert_eq!(mode, if public { 0o644 } else { 0o600 }, "{}", path.display());
    }
}
