//! Other programs that hear the same datagrams: the examples, in Python and in Rust.

use std::path::{Path, PathBuf};

use rollcall::cli::now_ns;
use rollcall::protocol::status::Status;
use serde_json::{Value, json};

use crate::keys::{Keys, statuses, unsigned};
use crate::lan::{PORT, Voice, hearing};
use crate::namespace::Lan;

fn python(script: &str) -> [PathBuf; 2] {
    ["python3".into(), Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples").join(script)]
}

/// The fields as the decoders print them.
fn fields(status: &Status) -> Value {
    let Status { email, last_seen_ns, ip, port } = status;
    let (ip, last_seen_ns) = (ip.to_string(), last_seen_ns.to_string());
    json!({ "email": email.as_str(), "last_seen_ns": last_seen_ns, "ip": ip, "port": port })
}

#[test]
fn a_program_of_version_1_reads_version_2() {
    let Some((_lan, [server, home])) = Lan::of() else { return };
    let [python, script] = python("decode_v1.py");
    let mut command = home.command(python);
    command.arg(script).arg(PORT.to_string());
    let keys = Keys::new();
    let decoder = hearing(&home, &keys, command);

    let voice = Voice::of(&server);
    let mut announcer = keys.announcer("one", now_ns());
    let batches = [statuses(["alone"]), statuses((0..64).map(|number| format!("user{number}")))];
    voice.say(&[b"\0\0\x55\xaa\0\0\0\0".to_vec(), Vec::new(), vec![0xff; 9]]);
    for batch in &batches {
        voice.say(&announcer.announce(batch));
    }
    for status in batches.iter().flatten() {
        assert_eq!(decoder.next(), fields(status));
    }
    voice.say(&[unsigned("version1")]);
    assert_eq!(decoder.next()["email"], "version1@example.com");
}

#[test]
fn the_decoder_in_python_verifies_datagrams() {
    let Some((_lan, [server, home])) = Lan::of() else { return };
    let keys = Keys::new();
    let [python, script] = python("decode.py");
    let mut command = home.command(python);
    command.arg(script).arg(keys.file("one.pub")).arg(PORT.to_string());
    let decoder = hearing(&home, &keys, command);

    let (voice, epoch) = (Voice::of(&server), now_ns());
    let batch = statuses(["a", "b", "c"]);
    let said = keys.announcer("one", epoch).announce(&batch);
    voice.say(&said);
    for (index, status) in batch.iter().enumerate() {
        let mut expected = fields(status);
        expected["verdict"] = "verified".into();
        expected["kind"] = 0.into();
        expected["epoch"] = epoch.to_string().into();
        expected["sequence"] = (index + 1).to_string().into();
        expected["index"] = index.into();
        assert_eq!(decoder.next(), expected);
    }
    let mut flipped = said[1].clone();
    *flipped.last_mut().unwrap() ^= 1;
    let stranger = keys.announcer("two", epoch).announce(&batch).remove(0);
    for (datagram, verdict) in [
        (flipped, "forged"),
        (said[1][..100].to_vec(), "forged"),
        (stranger, "unknown key"),
        (unsigned("d"), "unsigned"),
        (b"\0\0\x55\xaa\0\0\0\0".to_vec(), "foreign"),
        (Vec::new(), "foreign"),
        (said[2].clone(), "verified"),
    ] {
        voice.say(&[datagram]);
        assert_eq!(decoder.next()["verdict"], verdict);
    }
}

#[test]
fn the_example_in_rust_lists_the_people_who_are_here() {
    let Some((_lan, [server, home])) = Lan::of() else { return };
    let keys = Keys::new();
    // This test's own program is in target/PROFILE/deps, and cargo has no variable for an example.
    let own = std::env::current_exe().unwrap();
    let heard = own.ancestors().nth(2).unwrap().join("examples/heard");
    assert!(heard.exists(), "{} is missing: `cargo build --example heard` makes it", heard.display());
    let mut command = home.command(heard);
    command.arg(keys.file("one.pub"));
    let heard = hearing(&home, &keys, command);

    let voice = Voice::of(&server);
    let said = keys.announcer("one", now_ns()).announce(&statuses(["a", "b", "c", "a"]));
    voice.say(&[unsigned("forger"), b"\0\0\x55\xaa".to_vec(), said[0].clone(), said[1].clone()]);
    voice.say(&said[..1]);
    voice.say(&said[3..]);
    for line in [
        "a@example.com is here, as are 0 others",
        "b@example.com is here, as are 1 others",
        "a@example.com is here, as are 1 others",
        &format!("1 announcement of key {} never came", keys.signer("one").public()),
    ] {
        assert_eq!(heard.stdout.line(), line);
    }
}
