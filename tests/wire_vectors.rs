//! docs/wire-vectors.json is the contract with every other implementation. These tests assert it of this one
//! and of the Python decoder. If one of these fails, the code is wrong and not the file.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use hex::FromHex;
use rollcall::keyfile;
use rollcall::protocol::judge::{Judge, Policy, Verdict};
use rollcall::protocol::status::{Email, Status};
use rollcall::protocol::{self, Datagram};
use serde_json::Value;

#[allow(dead_code, reason = "its main is for the command line")]
#[path = "../examples/wire_vectors.rs"]
mod writer;

fn vectors() -> Value {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/wire-vectors.json");
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_else(|| panic!("no {name} in {value}"))
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().unwrap_or_else(|| panic!("no {name} in {value}"))
}

fn number(value: &Value, name: &str) -> u64 {
    text(value, name).parse().unwrap()
}

fn bytes(value: &Value, name: &str) -> Vec<u8> {
    hex::decode(text(value, name)).unwrap()
}

fn status(value: &Value) -> Status {
    Status {
        email: Email::new(text(value, "email")).unwrap(),
        last_seen_ns: number(value, "last_seen_ns"),
        ip: text(value, "ip").parse().unwrap(),
        port: value["port"].as_u64().unwrap().try_into().unwrap(),
    }
}

fn members(vectors: &Value) -> impl Iterator<Item = (&Value, &Value)> {
    list(vectors, "version_2")
        .iter()
        .flat_map(|batch| list(batch, "members").iter().map(move |member| (batch, member)))
}

fn believing(vectors: &Value) -> Judge {
    let keys = vec![keyfile::parse_public_key(text(&vectors["key"], "public_pem")).unwrap()];
    Judge::new(Policy { keys, ..Policy::default() }, Vec::new(), u64::MAX)
}

/// The vectors name a verdict by one word.
fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::New(_) => "new",
        Verdict::Unverified(_, doubt) => doubt.word(),
        Verdict::Ignored(ignored) => ignored.word(),
    }
}

#[test]
fn the_code_writes_the_same_file() {
    assert!(vectors() == writer::vectors(), "cargo run --example wire_vectors shows what differs");
}

/// The bytes in a line of docs/wire.md: pairs of digits from its beginning, a space between two of them.
fn bytes_of_line(line: &str) -> Vec<u8> {
    line.split(' ').map_while(|pair| <[u8; 1]>::from_hex(pair).ok()).flatten().collect()
}

#[test]
fn the_document_has_the_same_bytes() {
    let vectors = vectors();
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/wire.md");
    let document: Vec<u8> =
        std::fs::read_to_string(document).unwrap().lines().flat_map(bytes_of_line).collect();
    let has = |datagram: &[u8]| document.windows(datagram.len()).any(|bytes| bytes == datagram);
    let datagram = |vector: &Value| bytes(vector, "datagram");
    assert!(has(&datagram(&vectors["version_1"][0])));
    for batch in list(&vectors, "version_2") {
        assert!(list(batch, "members").iter().map(datagram).any(|member| has(&member)), "{}", batch["count"]);
    }
    let batch_of_one = &vectors["version_2"][0];
    assert!(has(&bytes(batch_of_one, "root")) && has(&bytes(&vectors["key"], "public")));
    for (name, why) in [("forged", "another key under our key id"), ("replay", "of an epoch before")] {
        let vector = list(&vectors, name).iter().find(|vector| vector["why"] == why).unwrap();
        assert!(has(&datagram(vector)), "{why}");
    }
}

#[test]
fn the_keys_belong_together() {
    let vectors = vectors();
    let key = &vectors["key"];
    let public = keyfile::parse_public_key(text(key, "public_pem")).unwrap();
    assert_eq!(public.as_bytes()[..], bytes(key, "public"));
    assert_eq!(public.to_string(), text(key, "id"));
    assert_eq!(*keyfile::parse_signing_key(text(key, "private_pem")).unwrap().public(), public);
}

#[test]
fn version_1_in_both_directions() {
    let vectors = vectors();
    assert_eq!(list(&vectors, "version_1").len(), 3);
    for vector in list(&vectors, "version_1") {
        let (datagram, status) = (bytes(vector, "datagram"), status(vector));
        let mut out = Vec::new();
        protocol::encode(&status, &mut out);
        assert_eq!(out, datagram);
        assert_eq!(protocol::decode(&datagram), Ok((status, &[][..])));
        assert!(matches!(Datagram::decode(&datagram), Ok(Datagram::Unsigned(_))));
    }
}

#[test]
fn version_2_is_verified_and_agrees_with_the_file() {
    let vectors = vectors();
    let counts: Vec<_> =
        list(&vectors, "version_2").iter().map(|batch| batch["count"].as_u64().unwrap()).collect();
    assert_eq!(counts, [1, 2, 3, 7, 512]);
    let key = keyfile::parse_public_key(text(&vectors["key"], "public_pem")).unwrap();
    for (batch, member) in members(&vectors) {
        let datagram = bytes(member, "datagram");
        let Datagram::Signed(claim) = Datagram::decode(&datagram).unwrap() else { panic!("unsigned") };
        assert_eq!(claim.key_id(), key.id());
        let verified = claim
            .verify(|message, signature| {
                assert_eq!(message[27..], bytes(batch, "root"));
                assert_eq!(signature[..], bytes(batch, "signature"));
                key.verify(message, signature)
            })
            .unwrap_or_else(|_| panic!("not verified: {member}"));
        assert_eq!(*verified.status(), status(member));
        assert_eq!(verified.epoch(), number(batch, "epoch"));
        assert_eq!(verified.sequence(), number(member, "sequence"));
        let index = member["index"].as_u64().unwrap();
        assert_eq!(verified.sequence(), number(batch, "first_sequence") + index);
    }
}

#[test]
fn the_forged_are_refused_and_change_nothing() {
    let vectors = vectors();
    let mut judge = believing(&vectors);
    for forged in list(&vectors, "forged") {
        assert_eq!(
            word(judge.judge(&bytes(forged, "datagram"), 0)),
            text(forged, "verdict"),
            "{}",
            forged["why"]
        );
    }
    assert!(judge.memory().is_empty());
    for (_, member) in members(&vectors) {
        assert_eq!(word(judge.judge(&bytes(member, "datagram"), 0)), "new");
    }
}

#[test]
fn the_replay() {
    let vectors = vectors();
    let mut judge = believing(&vectors);
    for step in list(&vectors, "replay") {
        assert_eq!(word(judge.judge(&bytes(step, "datagram"), 0)), text(step, "verdict"), "{}", step["why"]);
    }
    assert_eq!(judge.counters().missing, 513 + 3580);
}

/// The output of a Python program for these datagrams, given to it as lines of hexadecimal digits.
fn python(arguments: &[&str], datagrams: &[&str]) -> Vec<Value> {
    let mut python = Command::new("python3")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("this test needs python3; stack/setup installs it");
    let mut input = python.stdin.take().unwrap();
    let lines = datagrams.join("\n") + "\n";
    let writer = std::thread::spawn(move || input.write_all(lines.as_bytes()));
    let output = python.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success());
    let lines = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), datagrams.len());
    lines
}

#[test]
fn the_python_decoder_agrees() {
    let vectors = vectors();
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples/decode.py");
    let lines = std::fs::read_to_string(&program).unwrap().lines().count();
    assert!(lines <= 60, "{lines} lines");
    let key = std::env::temp_dir().join(format!("rollcall-vectors-{}.pub", std::process::id()));
    std::fs::write(&key, text(&vectors["key"], "public_pem")).unwrap();
    let verified = members(&vectors).map(|(_, member)| (member, "verified"));
    let unsigned = list(&vectors, "version_1").iter().map(|vector| (vector, "unsigned"));
    let forged = list(&vectors, "forged").iter().map(|vector| (vector, text(vector, "verdict")));
    let cases: Vec<(&Value, &str)> = verified.chain(unsigned).chain(forged).collect();
    let datagrams: Vec<&str> = cases.iter().map(|(vector, _)| text(vector, "datagram")).collect();
    let decoded = python(&[program.to_str().unwrap(), key.to_str().unwrap()], &datagrams);
    std::fs::remove_file(key).unwrap();
    for ((vector, verdict), decoded) in cases.iter().zip(&decoded) {
        assert_eq!(decoded["verdict"], *verdict, "{vector}");
        for name in ["email", "last_seen_ns", "ip", "port", "sequence", "index"] {
            if let Some(expected) = vector.get(name) {
                assert_eq!(decoded[name], *expected, "{name} of {vector}");
            }
        }
    }
}

/// A listener of the first version, as there are in the field: the fields from the front, and no look at
/// what follows.
const VERSION_1: &str = r#"
import json, struct, sys
for line in sys.stdin:
    data = bytes.fromhex(line)
    offset = 0
    (length,) = struct.unpack("!B", data[offset : offset + 1])
    offset += 1
    email = data[offset : offset + length].decode("utf-8")
    offset += length
    (last_seen_ns,) = struct.unpack("!Q", data[offset : offset + 8])
    offset += 8
    (length,) = struct.unpack("!B", data[offset : offset + 1])
    offset += 1
    ip = data[offset : offset + length].decode("utf-8")
    offset += length
    (port,) = struct.unpack("!H", data[offset : offset + 2])
    print(json.dumps({"email": email, "last_seen_ns": str(last_seen_ns), "ip": ip, "port": port}))
"#;

#[test]
fn a_listener_of_the_first_version_reads_both() {
    let vectors = vectors();
    let both: Vec<&Value> =
        list(&vectors, "version_1").iter().chain(members(&vectors).map(|(_, member)| member)).collect();
    let datagrams: Vec<&str> = both.iter().map(|vector| text(vector, "datagram")).collect();
    for (decoded, vector) in python(&["-c", VERSION_1], &datagrams).iter().zip(both) {
        for name in ["email", "last_seen_ns", "ip", "port"] {
            assert_eq!(decoded[name], vector[name], "{vector}");
        }
    }
}
