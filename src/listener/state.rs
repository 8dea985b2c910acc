//! `--state FILE` keeps over a restart, per key, the epoch, and the window of sequence numbers.
//!
//! ```text
//! rollcall-listen state 1
//! key <64 hex digits> epoch <number> highest <number> settled <number> seen <1024 hex digits>
//! sha256 <64 hex digits, over every byte before this line>
//! ```

use std::fmt::Write;
use std::io;
use std::path::Path;

use hex::FromHex;

use crate::files::{self, FileError, OwnFile};
use crate::protocol::judge::Heard;
use crate::protocol::keys::PublicKey;
use crate::protocol::merkle::sha256;
use crate::protocol::window::{Bits, WINDOW, Window};

const ROLE: &str = "the state file";
const DAMAGED: &str = "without it a replay can pass for news; remove it to start afresh";
/// Bytes: a key takes 1,200.
const MOST: u64 = 1 << 24;
const TITLE: &str = "rollcall-listen state 1\n";

/// The content of the file; nothing, if there is no file yet.
pub fn load(path: &Path) -> Result<Vec<Heard>, Error> {
    let error = Error::of(ROLE, path);
    match files::read(path, MOST) {
        Ok(bytes) => parse(&bytes).ok_or_else(|| error(OwnFile::Damaged(DAMAGED))),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(cause) => Err(error(OwnFile::Read(cause))),
    }
}

pub fn save(path: &Path, heard: &[Heard]) -> Result<(), Error> {
    let text = render(heard);
    files::replace(path, text.as_bytes()).map_err(|cause| Error::of(ROLE, path)(OwnFile::Write(cause)))
}

fn render(heard: &[Heard]) -> String {
    let mut text = TITLE.to_owned();
    for Heard { key, epoch, highest, settled, seen } in heard {
        let key = hex::encode(key.as_bytes());
        write!(text, "key {key} epoch {epoch} highest {highest} settled {settled} seen ")
            .expect("a String takes every write");
        for word in seen {
            write!(text, "{word:016x}").expect("a String takes every write");
        }
        text.push('\n');
    }
    let sum = hex::encode(sha256(text.as_bytes()));
    text + "sha256 " + &sum + "\n"
}

fn parse(bytes: &[u8]) -> Option<Vec<Heard>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (body, sum) = text.split_at_checked(text.rfind("sha256 ")?)?;
    if sum != format!("sha256 {}\n", hex::encode(sha256(body.as_bytes()))) {
        return None;
    }
    body.strip_prefix(TITLE)?.lines().map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Heard> {
    let words: Vec<&str> = line.split(' ').collect();
    let ["key", key, "epoch", epoch, "highest", highest, "settled", settled, "seen", digits] = words[..]
    else {
        return None;
    };
    let key = PublicKey::from_bytes(FromHex::from_hex(key).ok()?);
    let window = <[u8; size_of::<Bits>()]>::from_hex(digits).ok()?;
    let mut seen = [0; size_of::<Bits>() / 8];
    for (word, bytes) in seen.iter_mut().zip(window.as_chunks().0) {
        *word = u64::from_be_bytes(*bytes);
    }
    let (highest, settled): (u64, u64) = (highest.parse().ok()?, settled.parse().ok()?);
    let has_highest = Window::resumed(highest, seen, settled).has(highest);
    let is_whole = has_highest && highest.checked_sub(settled).is_some_and(|open| open <= WINDOW);
    is_whole.then_some(Heard { key, epoch: epoch.parse().ok()?, highest, settled, seen })
}

/// A state file that cannot be used.
pub type Error = FileError<OwnFile>;

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn heard() -> Vec<Heard> {
        let mut seen = [0; 64];
        seen[0] = 2;
        seen[63] = u64::MAX;
        let (highest, settled) = (u64::MAX, u64::MAX - 4096);
        vec![
            Heard { key: PublicKey::from_bytes([0xab; 32]), epoch: u64::MAX, highest: 1, settled: 0, seen },
            Heard { key: PublicKey::from_bytes([1; 32]), epoch: 0, highest, settled, seen },
        ]
    }

    #[test]
    fn a_saved_state_is_loaded() {
        let path = std::env::temp_dir().join(format!("rollcall-memory-{}", std::process::id()));
        assert_eq!(load(&path).unwrap(), []);
        for heard in [heard(), Vec::new()] {
            save(&path, &heard).unwrap();
            assert_eq!(load(&path).unwrap(), heard);
        }
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn every_cut_and_every_changed_byte_is_damage() {
        let text = render(&heard()).into_bytes();
        assert_eq!(parse(&text), Some(heard()));
        for at in 0..text.len() {
            assert_eq!(parse(&text[..at]), None, "cut at {at}");
            let mut changed = text.clone();
            changed[at] ^= 1;
            assert_eq!(parse(&changed), None, "changed at {at}");
        }
        assert_eq!(parse(&[text.as_slice(), b"\n"].concat()), None);
    }

    #[test]
    fn numbers_that_do_not_fit_each_other_are_damage() {
        for (highest, settled) in [(0, 0), (2, 1), (1, 2), (u64::MAX, u64::MAX - 4097), (u64::MAX, 0)] {
            let heard = Heard { highest, settled, ..heard().remove(0) };
            assert_eq!(parse(render(&[heard]).as_bytes()), None, "{highest} {settled}");
        }
    }

    #[test]
    fn a_bad_file_is_named() {
        let path = std::env::temp_dir().join(format!("rollcall-damaged-{}", std::process::id()));
        fs::write(&path, "rollcall-listen state 1\n").unwrap();
        assert_eq!(
            load(&path).unwrap_err().to_string(),
            format!(
                "the state file, {}: it is damaged: without it a replay can pass for news; \
                 remove it to start afresh",
                path.display()
            )
        );
        fs::remove_file(path).unwrap();
        let endless = load(Path::new("/dev/zero")).unwrap_err().to_string();
        assert_eq!(endless, "the state file, /dev/zero: it has more than 16777216 bytes");
        assert_eq!(
            save(Path::new("no/such/folder"), &[]).unwrap_err().to_string(),
            "the state file, no/such/folder: cannot write it: No such file or directory (os error 2)"
        );
    }
}
