//! Room on the disks that a stack writes to.
//!
//! PostgreSQL ends when it cannot write, and stays down when there is room again.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::statvfs::{Statvfs, statvfs};

use super::{Finding, Settings};

/// PostgreSQL writes its log of changes in files of 16 MiB, and needs some at once.
const LITTLE: u64 = 128 << 20;
/// From here on somebody should look, on a disk of which it is less than a tenth.
const SOME: u64 = 1 << 30;

pub fn check(settings: &Settings) -> Vec<Finding> {
    let state = &settings.state;
    let below = ["postgres", "postgres/data", "nginx", "server"].map(|name| state.join(name));
    let folders = [state, &settings.certs].into_iter().chain(&below);
    let mut seen = BTreeSet::new();
    let disks = folders.filter_map(|folder| match fs::metadata(folder) {
        Ok(found) => {
            seen.insert(found.dev()).then(|| of(folder, statvfs(folder.as_path()).map_err(io::Error::from)))
        }
        // The others are not there with a database or an nginx from elsewhere.
        Err(error) if folder == state || folder == &settings.certs => Some(of(folder, Err(error))),
        Err(_) => None,
    });
    disks.collect()
}

fn of(folder: &Path, disk: io::Result<Statvfs>) -> Finding {
    match disk {
        // The reserve of root is of no use to PostgreSQL.
        Ok(disk) => {
            let bytes = |blocks: u64| blocks.saturating_mul(disk.fragment_size());
            of_room(
                folder,
                bytes(disk.blocks_available()),
                bytes(disk.blocks()),
                disk.files() > 0 && disk.files_available() == 0,
            )
        }
        Err(error) => {
            let text = format!("the room on the disk of {} was not checked: {error}", folder.display());
            Finding::yellow(text, "run this as root, or as the user of the stack; just up makes its folders")
        }
    }
}

fn of_room(folder: &Path, free: u64, size: u64, no_inodes: bool) -> Finding {
    let folder = folder.display();
    let text = match no_inodes {
        true => format!("no more files fit on the disk of {folder}"),
        false => format!("{} MiB are free on the disk of {folder}", free >> 20),
    };
    let advice = "make room, then just up: PostgreSQL ends on a full disk and does not start again by itself";
    if no_inodes || free < LITTLE {
        Finding::red(text, advice)
    } else if free < SOME && free < size / 10 {
        Finding::yellow(text, advice)
    } else {
        Finding::green(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn little_room_is_told_before_there_is_none() {
        let of = |free, size| of_room(Path::new("/x"), free, size, false);
        for (free, size, level) in [
            (0, SOME, Level::Red),
            (LITTLE - 1, SOME, Level::Red),
            (LITTLE, 10 * LITTLE, Level::Green),
            (LITTLE, 11 * LITTLE, Level::Yellow),
            (SOME, 100 * SOME, Level::Green),
        ] {
            assert_eq!(of(free, size).level, level, "{free} of {size}");
        }
        assert_eq!(of(SOME, SOME).text, "1024 MiB are free on the disk of /x");
        assert_eq!(of_room(Path::new("/x"), SOME, SOME, true).level, Level::Red);
    }
}
