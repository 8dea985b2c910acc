//! The inputs that `just fuzz` begins with, and those that it found, by themselves: one second instead of a build of
//! minutes.

#[path = "../fuzz/src/lib.rs"]
mod fuzz;

use std::fs;
use std::path::Path;

use fuzz::{datagram, headers, judge, settings, state, subject, x509};

type Check = fn(&[u8]);

/// Each name is a folder of fuzz/corpus and a program of fuzz/fuzz_targets.
const CHECKS: [(&str, Check); 7] = [
    ("datagram", datagram::check),
    ("headers", headers::check),
    ("judge", judge::check),
    ("settings", settings::check),
    ("state", state::check),
    ("subject", subject::check),
    ("x509", x509::check),
];

fn names(folder: &str) -> Vec<String> {
    let files = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap();
    let mut names: Vec<String> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn each_input_keeps_each_promise() {
    let targets = names("fuzz/fuzz_targets");
    assert_eq!(targets, CHECKS.map(|(name, _)| format!("{name}.rs")), "a target is missing here or there");
    for (name, check) in CHECKS {
        let folder = format!("fuzz/corpus/{name}");
        let inputs = names(&folder);
        assert!(inputs.len() >= 5, "{folder}: {inputs:?}");
        for input in inputs {
            // A panic comes after the name of its input.
            println!("{folder}/{input}");
            check(&fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(&folder).join(input)).unwrap());
        }
    }
}

/// Every datagram of docs/wire-vectors.json, and each cut and each flipped bit of some.
#[test]
fn the_vectors_of_the_wire_keep_each_promise() {
    let text = include_str!("../docs/wire-vectors.json");
    let vectors: serde_json::Value = serde_json::from_str(text).unwrap();
    let mut datagrams = Vec::new();
    collect(&vectors, &mut datagrams);
    assert!(datagrams.len() > 40, "{}", datagrams.len());
    for bytes in &datagrams {
        datagram::check(bytes);
    }
    for bytes in datagrams.iter().step_by(20) {
        for at in 0..bytes.len() {
            datagram::check(&bytes[..at]);
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (at % 8);
            datagram::check(&changed);
        }
    }
}

fn collect(value: &serde_json::Value, datagrams: &mut Vec<Vec<u8>>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                match value.as_str().filter(|_| name == "datagram") {
                    Some(digits) => datagrams.push(hex(digits)),
                    None => collect(value, datagrams),
                }
            }
        }
        serde_json::Value::Array(values) => values.iter().for_each(|value| collect(value, datagrams)),
        _ => {}
    }
}

fn hex(digits: &str) -> Vec<u8> {
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}
