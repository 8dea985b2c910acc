//! The datagrams of a stack, heard.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rollcall::cli::now_ns;
use rollcall::lan::sockets;
use rollcall::protocol;
use rollcall::protocol::status::Status;

use super::Stack;
use crate::program::PATIENCE;

/// A socket on the broadcast port.
pub struct Ear {
    socket: UdpSocket,
    opened_ns: u64,
    /// The newest is said again and again (docs/wire.md): byte for byte the same.
    heard: Mutex<BTreeSet<Vec<u8>>>,
}

impl Ear {
    /// The next status that is new.
    #[track_caller]
    pub fn hear(&self) -> Status {
        self.hear_within(PATIENCE).expect("nothing was announced")
    }

    #[track_caller]
    pub fn hear_within(&self, patience: Duration) -> Option<Status> {
        let mut buffer = [0; 2048];
        let end = Instant::now() + patience;
        while Instant::now() < end {
            // The socket's own timeout is shorter and only ends one turn of this loop.
            if let Ok(len) = self.socket.recv(&mut buffer) {
                let (status, trailer) = protocol::decode(&buffer[..len]).unwrap();
                assert!(trailer.starts_with(b"RC\x02"), "{trailer:?}");
                let is_new = self.heard.lock().unwrap().insert(buffer[..len].to_vec());
                if is_new && status.last_seen_ns >= self.opened_ns {
                    return Some(status);
                }
            }
        }
        None
    }

    /// Nothing new comes for long enough to be sure that nothing will.
    #[track_caller]
    pub fn hears_nothing(&self) {
        assert_eq!(self.hear_within(Duration::from_millis(500)), None);
    }
}

impl Stack {
    /// Hears this stack's datagrams from now on.
    pub fn ear(&self) -> Ear {
        let socket = sockets::receiver((Ipv4Addr::UNSPECIFIED, self.broadcast_port).into()).unwrap();
        let opened_ns = now_ns();
        Ear { socket, opened_ns, heard: Mutex::default() }
    }
}
