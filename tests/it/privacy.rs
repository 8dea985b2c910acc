//! Pseudonyms in the place of emails: the bytes that leave the host, and the listeners that can resolve them.

use crate::listener::listening;
use crate::server::start;
use crate::stack::{Builder, expect, text, wait_until};
use rollcall::lan::sockets;
use rollcall::protocol;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;

#[test]
fn only_key_and_list_together_show_the_email() {
    const ALICE: &str = "alice.liddell@qt-test.com";
    let stack = Builder::new().set("ROLLCALL_PRIVACY", "pseudonym").up();
    let alice = stack.member(ALICE);
    let list = text(&stack.admin(&["user", "list"]));
    let people: Vec<&str> = list.lines().map(|line| line.split_once(' ').unwrap().0).collect();
    assert_eq!(people.len(), 2, "{list}");
    fs::write(stack.state.join("people"), people.join("\n")).unwrap();
    fs::write(stack.state.join("others"), "valid_user@qt-test.com\n").unwrap();
    let path = |folder: &std::path::Path, name: &str| folder.join(name).display().to_string();
    let (public, key) = (path(&stack.certs, "broadcast.pub"), path(&stack.certs, "privacy.key"));
    let with = |list: &str, more: &[&str]| {
        let list = path(&stack.state, list);
        let arguments = ["--key", &public, "--privacy-key", &key, "--people", &list];
        listening(&stack, &[&arguments, more].concat())
    };
    let knows = with("people", &["--json", "--count", "1"]);
    let block = with("people", &["--count", "1"]);
    let other = with("others", &["--json", "--count", "1"]);
    let stranger = listening(&stack, &["--key", &public, "--json", "--count", "1"]);
    let ear = sockets::receiver((Ipv4Addr::UNSPECIFIED, stack.broadcast_port).into()).unwrap();

    expect(&mut stack.client(&alice), 0, "Success!");
    let mut datagram = [0; 2048];
    let mut len = None;
    wait_until("it is announced", || {
        len = ear.recv(&mut datagram).ok();
        len.is_some()
    });
    let datagram = &datagram[..len.unwrap()];
    for part in ALICE.as_bytes().windows(5) {
        assert!(!datagram.windows(5).any(|bytes| bytes == part), "{part:?} is on the air: {datagram:?}");
    }
    // A decoder of version 1 reads it as before.
    let (status, _) = protocol::decode(datagram).unwrap();
    let pseudonym = status.email.as_str();
    assert!(pseudonym.ends_with("@pseudonym.invalid") && pseudonym.len() == 50, "{pseudonym}");

    let mut listeners = [knows, block, other, stranger];
    assert_eq!(listeners.each_mut().map(|listener| listener.exit()), [0; 4]);
    let [knows, block, other, stranger] = listeners.map(|listener| listener.out());
    let known: serde_json::Value = serde_json::from_str(&knows).unwrap();
    assert_eq!((&known["email"], &known["verified"]), (&ALICE.into(), &true.into()), "{known}");
    assert_eq!(known["pseudonym"], pseudonym);
    assert_eq!(
        (block.lines().count(), block.lines().nth(2).unwrap()),
        (7, &*format!("User Email   : {ALICE}"))
    );
    for line in [other, stranger] {
        let seen: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&seen["email"], seen.get("pseudonym")), (&pseudonym.into(), None), "{line}");
    }

    // Behind the broadcast nothing changes: row, list and log know the person.
    assert_eq!(stack.row(ALICE), format!("{}|127.0.0.1|{}", status.last_seen_ns, status.port));
    wait_until("it is logged", || stack.log("nginx/access.log").contains(&format!("CN={ALICE}")));
    assert!(!text(&stack.admin(&["user", "list"])).contains("pseudonym"));

    // The setting is one of those that `just up` compares, and so is the key.
    fs::write(stack.certs.join("privacy.key"), "ab".repeat(32) + "\n").unwrap();
    expect(&mut stack.tool("stack/up"), 0, "settings changed: restarting");
    let ear = stack.ear();
    expect(&mut stack.client(&alice), 0, "Success!");
    let replaced = ear.hear().email;
    assert!(replaced.as_str().ends_with("@pseudonym.invalid") && replaced != status.email, "{replaced}");
    expect(stack.tool("stack/up").env("ROLLCALL_PRIVACY", "clear"), 0, "settings changed: restarting");
    expect(&mut stack.client(&alice), 0, "Success!");
    assert_eq!(ear.hear().email.as_str(), ALICE);
}

#[test]
fn settings_that_would_give_emails_away_or_nothing_at_all_end_it() {
    let stack = Builder::new().stopped();
    let key = stack.state.join("privacy.key");
    fs::write(&key, "ab".repeat(32)).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let (exposed, key) = (
        format!("ROLLCALL_PRIVACY_KEY: the privacy key, {}: mode 0644", key.display()),
        key.to_str().unwrap(),
    );
    for (privacy, key, said) in [
        ("on", key, "the setting ROLLCALL_PRIVACY is \"on\": it is either clear or pseudonym\n"),
        (
            "Pseudonym",
            key,
            "the setting ROLLCALL_PRIVACY is \"Pseudonym\": it is either clear or pseudonym\n",
        ),
        (
            "pseudonym",
            "",
            "ROLLCALL_PRIVACY is pseudonym, and ROLLCALL_PRIVACY_KEY, the file with the key, is not set\n",
        ),
        ("pseudonym", key, &exposed),
        ("pseudonym", "/no/such.key", "ROLLCALL_PRIVACY_KEY: the privacy key, /no/such.key: No such file"),
        ("pseudonym", "/dev/null", "ROLLCALL_PRIVACY_KEY: the privacy key, /dev/null: mode 0666"),
    ] {
        let mut server = start(&stack, &[("ROLLCALL_PRIVACY", privacy), ("ROLLCALL_PRIVACY_KEY", key)]);
        assert_eq!(server.exit(), 78, "{privacy} {key}: {}", server.err());
        assert!(server.err().contains(said), "{privacy} {key}: {}", server.err());
    }

    let listen = |arguments: &[&str], exit, said: &str| {
        expect(stack.program("rollcall-listen").args(arguments), exit, said);
    };
    let both = "--privacy-key and --people resolve pseudonyms together; one is missing";
    listen(&["--privacy-key", key], 2, both);
    listen(&["--people", key], 2, both);
    listen(&["--people", "no/such", "--privacy-key", key], 78, "mode 0644: others can read it; chmod 0600");
    fs::set_permissions(key, fs::Permissions::from_mode(0o600)).unwrap();
    listen(&["--people", "no/such", "--privacy-key", key], 78, "the list of people, no/such: No such file");
    listen(&["--people", key, "--privacy-key", key], 78, ": line 1: not an email address: \"abab");
}
