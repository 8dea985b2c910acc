//! Hears what is broadcast, as rollcall-listen does.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};

use crate::certificates::Identity;

pub struct Ear {
    pub socket: UdpSocket,
    by_email: HashMap<String, usize>,
}

impl Ear {
    /// A socket that hears every broadcast to `port`, with room for bursts. Person number n has connection number n.
    pub fn new(port: u16, people: &[Identity]) -> io::Result<Self> {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.set_recv_buffer_size(8 << 20)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SocketAddr::from(([0, 0, 0, 0], port)).into())?;
        let by_email = people.iter().enumerate().map(|(n, who)| (who.email.clone(), n)).collect();
        Ok(Self { socket: socket.into(), by_email })
    }

    /// The next datagram that is about one of ours: the connection, and `last_seen_ns`.
    pub fn next(&self) -> io::Result<Option<(usize, u64)>> {
        let mut datagram = [0; 2048];
        loop {
            let len = match self.socket.recv(&mut datagram) {
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            };
            let Ok((status, _)) = rollcall::protocol::decode(&datagram[..len]) else { continue };
            if let Some(&n) = self.by_email.get(status.email.as_str()) {
                return Ok(Some((n, status.last_seen_ns)));
            }
        }
    }
}
