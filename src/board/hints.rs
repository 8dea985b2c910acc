//! The announcements of the servers, as hints: whoever is named has a row that is worth reading.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::people::People;
use crate::cli::now_ns;
use crate::keyfile;
use crate::lan::sockets;
use crate::protocol::judge::{Judge, Policy, Verdict};
use crate::protocol::keys::PublicKey;

/// How often the keys are looked for, since one of them may be replaced.
const LOOK: Duration = Duration::from_secs(30);
/// More than any datagram holds.
const BUFFER: usize = 1 << 16;

/// Listens for as long as the program lives. Without it every row is still read in turn.
pub fn listen(port: u16, folder: Option<PathBuf>, keys: Vec<PublicKey>, people: Arc<People>, began_ns: u64) {
    let Some(folder) = folder.filter(|_| !keys.is_empty()) else {
        log::warn!(
            "announcements are not heard, as ROLLCALL_KEYS has no key: changes are found within a minute"
        );
        return;
    };
    let socket = match sockets::receiver((Ipv4Addr::UNSPECIFIED, port).into()) {
        Ok(socket) => socket,
        Err(error) => {
            log::warn!(
                "announcements are not heard, as UDP port {port} cannot be bound: {error}; changes are found within a minute"
            );
            return;
        }
    };
    thread::spawn(move || {
        let mut keys = keys;
        let judge = |keys: &[PublicKey]| {
            Judge::new(Policy { keys: keys.to_vec(), ..Policy::default() }, Vec::new(), began_ns)
        };
        let mut hears = judge(&keys);
        let mut looked = Instant::now();
        let mut buffer = vec![0; BUFFER];
        loop {
            if let Ok((len, _)) = socket.recv_from(&mut buffer)
                && let Verdict::New(announcement) = hears.judge(&buffer[..len], now_ns())
            {
                people.heard_of(&announcement.verified.status().email);
            }
            if looked.elapsed() >= LOOK {
                looked = Instant::now();
                match keyfile::public_keys_in(&folder) {
                    Ok(found) if found != keys && !found.is_empty() => {
                        hears = judge(&found);
                        keys = found;
                    }
                    // Half of a replacement: the old ones do until the next look.
                    _ => {}
                }
            }
        }
    });
}
