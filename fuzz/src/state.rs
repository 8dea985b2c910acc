//! A listener's state file, which has the sum that belongs to it, so that its lines are read. Whatever is loaded, is
//! saved and loaded again, and a listener goes on with it.

use std::fmt::Write;
use std::fs;
use std::time::Instant;

use rollcall::listener::state::{load, save};
use rollcall::protocol::judge::{Judge, Policy};
use rollcall::protocol::merkle::sha256;

pub fn check(bytes: &[u8]) {
    let path = std::env::temp_dir().join(format!("rollcall-fuzz-{}", std::process::id()));
    fs::write(&path, bytes).unwrap();
    let _ = load(&path);
    let mut whole = bytes.to_vec();
    let sum = sha256(bytes).iter().fold("sha256 ".to_owned(), |mut sum, byte| {
        write!(sum, "{byte:02x}").unwrap();
        sum
    });
    whole.extend_from_slice(sum.as_bytes());
    whole.push(b'\n');
    fs::write(&path, &whole).unwrap();
    if let Ok(heard) = load(&path) {
        save(&path, &heard).unwrap();
        assert_eq!(load(&path).unwrap(), heard);
        let keys: Vec<_> = heard.iter().map(|heard| heard.key).collect();
        let mut judge = Judge::new(Policy { keys, ..Policy::default() }, heard, 0);
        judge.settle(Instant::now());
        judge.finish();
        let memory = judge.memory();
        save(&path, &memory).unwrap();
        assert_eq!(load(&path).unwrap(), memory, "it takes its own memory for damaged");
    }
    fs::remove_file(&path).unwrap();
}
