//! The announcements of the servers, as hints: whoever is named has a row that is worth reading.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::thread;

use super::people::People;
use crate::cli::now_ns;
use crate::lan::sockets;
use crate::protocol::judge::{Judge, Policy, Verdict};
use crate::protocol::keys::PublicKey;

/// More than any datagram holds.
const BUFFER: usize = 1 << 16;

/// Listens for as long as the program lives. Without it every row is still read in turn.
pub fn listen(port: u16, keys: Vec<PublicKey>, people: Arc<People>, began_ns: u64) {
    const INSTEAD: &str = "each change is found within a minute";
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
    let mut judge = Judge::new(Policy { keys, ..Policy::default() }, Vec::new(), began_ns);
    thread::spawn(move || {
        let mut buffer = vec![0; BUFFER];
        loop {
            // Its own timeout ends a wait in which nothing comes.
            if let Ok((len, _)) = socket.recv_from(&mut buffer)
                && let Verdict::New(announcement) = judge.judge(&buffer[..len], now_ns())
            {
                people.heard_of(&announcement.verified.status().email);
            }
        }
    });
}
