//! A disk of a size that can be filled. Only root may mount it.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

pub struct Disk(PathBuf);

impl Disk {
    pub fn mount(folder: &Path, size: &str) -> Self {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size},mode=755"), "tmpfs"]).arg(folder);
        assert!(mount.status().unwrap().success());
        Self(folder.to_owned())
    }

    /// Leaves about so many bytes free.
    pub fn fill(&self, free: u64) {
        let mut file = OpenOptions::new().append(true).create(true).open(self.0.join("filler")).unwrap();
        let block = vec![0; 1 << 20];
        loop {
            let room = nix::sys::statvfs::statvfs(&self.0).unwrap();
            if room.blocks_available() * room.fragment_size() <= free || file.write_all(&block).is_err() {
                return;
            }
        }
    }

    pub fn clear(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        let _ = fs::remove_dir(&self.0);
    }
}
