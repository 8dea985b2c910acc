//! The announcements of the servers, as hints: whoever is named has a row that is worth reading.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::people::People;
use crate::cli::now_ns;
use crate::lan::sockets;
use crate::protocol::judge::{Judge, Policy, Verdict};
use crate::protocol::keys::PublicKey;
use crate::store::ServerKeys;

/// More than any datagram holds.
const BUFFER: usize = 1 << 16;

/// The keys that are believed: those of the files, and those that servers have told the database since.
pub struct Believed {
    files: Vec<PublicKey>,
    all: Mutex<Vec<PublicKey>>,
}

impl Believed {
    pub fn new(files: Vec<PublicKey>) -> Arc<Self> {
        Arc::new(Self { all: Mutex::new(files.clone()), files })
    }

    /// A server joins or leaves while the board runs.
    pub fn told(&self, servers: &[ServerKeys]) {
        let told = servers.iter().flat_map(|server| server.public_key.iter().chain(&server.further));
        let told = told.map(|key| PublicKey::from_bytes(*key));
        let mut all: Vec<PublicKey> = self.files.iter().copied().chain(told).collect();
        all.sort_unstable();
        all.dedup();
        *self.all.lock().unwrap_or_else(PoisonError::into_inner) = all;
    }

    fn all(&self) -> Vec<PublicKey> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Listens for as long as the program lives. Without it every row is still read in turn.
pub fn listen(port: u16, believed: Arc<Believed>, people: Arc<People>, began_ns: u64) {
    const INSTEAD: &str = "each change is found within a minute";
    let keys = believed.all();
    if keys.is_empty() {
        log::warn!("announcements are not heard, as no key is in ROLLCALL_KEYS: {INSTEAD}");
        return;
    }
    let socket = match sockets::receiver((Ipv4Addr::UNSPECIFIED, port).into()) {
        Ok(socket) => socket,
        Err(error) => {
            log::warn!(
                "announcements are not heard, as UDP port {port} cannot be bound ({error}): {INSTEAD}"
            );
            return;
        }
    };
    let mut judge = Judge::new(Policy { keys: keys.clone(), ..Policy::default() }, Vec::new(), began_ns);
    thread::spawn(move || {
        let mut keys = keys;
        let mut buffer = vec![0; BUFFER];
        loop {
            let now = believed.all();
            if now != keys {
                // It forgets what it has heard, which can only make it look at a row once more.
                keys.clone_from(&now);
                judge = Judge::new(Policy { keys: now, ..Policy::default() }, Vec::new(), began_ns);
            }
            // Its own timeout ends a wait in which nothing comes.
            if let Ok((len, _)) = socket.recv_from(&mut buffer)
                && let Verdict::New(announcement) = judge.judge(&buffer[..len], now_ns())
            {
                people.heard_of(&announcement.verified.status().email);
            }
        }
    });
}
