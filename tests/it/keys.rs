//! The key pairs of two servers, `one` and `two`, made by openssl; and the datagrams of such servers.

use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};

use rollcall::cli::now_ns;
use rollcall::keyfile;
use rollcall::protocol;
use rollcall::protocol::announcer::Announcer;
use rollcall::protocol::keys::Signer;
use rollcall::protocol::status::{Email, Status};

use crate::guardian;

/// A folder with `one.key`, `one.pub`, `two.key`, `two.pub`, and whatever else a test puts there.
pub struct Keys {
    folder: PathBuf,
}

impl Keys {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("rollcall-keys-{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let keys = Self { folder: std::env::temp_dir().join(name) };
        fs::create_dir(&keys.folder).unwrap();
        guardian::watch(&keys.folder);
        for name in ["one", "two"] {
            let (key, public) = (keys.file(&format!("{name}.key")), keys.file(&format!("{name}.pub")));
            openssl(&["genpkey", "-algorithm", "ed25519", "-out", &key]);
            openssl(&["pkey", "-in", &key, "-pubout", "-out", &public]);
        }
        keys
    }

    pub fn file(&self, name: &str) -> String {
        self.folder.join(name).to_str().unwrap().to_owned()
    }

    pub fn signer(&self, name: &str) -> Signer {
        keyfile::signing_key(&self.folder.join(format!("{name}.key"))).unwrap()
    }

    pub fn announcer(&self, name: &str, epoch: u64) -> Announcer {
        Announcer::new(self.signer(name), epoch)
    }
}

/// The folder for the files of a test.
impl AsRef<Path> for Keys {
    fn as_ref(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn openssl(arguments: &[&str]) {
    let output = Command::new("openssl").args(arguments).output().expect("this test needs openssl");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// NAME@example.com, seen now, for each name.
pub fn statuses(names: impl IntoIterator<Item: Display>) -> Vec<Status> {
    let status = |name| Status {
        email: Email::new(&format!("{name}@example.com")).unwrap(),
        last_seen_ns: now_ns(),
        ip: "192.0.2.1".parse().unwrap(),
        port: 7,
    };
    names.into_iter().map(status).collect()
}

pub fn unsigned(name: &str) -> Vec<u8> {
    let mut datagram = Vec::new();
    protocol::encode(&statuses([name])[0], &mut datagram);
    datagram
}
