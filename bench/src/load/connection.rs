//! One person's connection: TLS, one request after the other.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::Instant;

use mio::net::TcpStream;
use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use crate::certificates::Identity;

#[derive(Clone, Copy, PartialEq)]
pub enum Phase {
    Closed,
    Handshake,
    Idle,
    /// Waiting for the answer, or for its datagram.
    Busy,
    /// Answered; the server closes.
    Ending,
}

pub struct Connection {
    stream: Option<(TcpStream, ClientConnection)>,
    pub phase: Phase,
    /// The request that is being answered: when it was due.
    pub due: Option<Instant>,
    pub answered: Option<Instant>,
    pub heard: bool,
    /// `last_seen_ns` of the newest datagram: a repeated one announces nothing new.
    pub last_heard_ns: u64,
    received: Vec<u8>,
}

impl Connection {
    pub fn closed() -> Self {
        Self {
            stream: None,
            phase: Phase::Closed,
            due: None,
            answered: None,
            heard: false,
            last_heard_ns: 0,
            received: Vec::new(),
        }
    }

    /// Begins to connect; the caller waits for the stream.
    pub fn open(&mut self, address: SocketAddr, who: &Identity) -> io::Result<&mut TcpStream> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("localhost").expect("a valid name");
        let tls = ClientConnection::new(who.tls.clone(), name).map_err(io::Error::other)?;
        self.phase = Phase::Handshake;
        self.received.clear();
        Ok(&mut self.stream.insert((stream, tls)).0)
    }

    pub fn close(&mut self) {
        self.stream = None;
        self.due = None;
        self.phase = Phase::Closed;
    }

    /// Moves bytes both ways as far as they go. `Err` says what came instead of what should have.
    pub fn advance(&mut self) -> Result<(), String> {
        let Some((stream, tls)) = &mut self.stream else { return Ok(()) };
        let mut ended = false;
        loop {
            match tls.read_tls(stream) {
                Ok(0) => {
                    ended = true;
                    break;
                }
                Ok(read) => {
                    tls.process_new_packets().map_err(|error| format!("TLS: {error}"))?;
                    // An answer is small. When this much came, the socket is empty and will tell when it is not.
                    if read < 1024 && self.phase == Phase::Busy {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::NotConnected => return Ok(()),
                Err(error) => return Err(format!("reading: {}", error.kind())),
            }
        }
        write(stream, tls)?;
        if self.phase == Phase::Handshake && !tls.is_handshaking() {
            self.phase = Phase::Idle;
        }
        if self.phase == Phase::Busy {
            let mut chunk = [0; 1024];
            while let Ok(read @ 1..) = tls.reader().read(&mut chunk) {
                self.received.extend_from_slice(&chunk[..read]);
            }
        }
        if ended && self.phase == Phase::Ending {
            self.close();
        } else if ended && !self.is_answered() {
            return Err("closed before the answer".to_owned());
        }
        Ok(())
    }

    pub fn send(&mut self, request: &[u8], due: Instant) -> Result<(), String> {
        self.phase = Phase::Busy;
        self.due = Some(due);
        self.answered = None;
        self.heard = false;
        self.received.clear();
        let Some((stream, tls)) = &mut self.stream else { return Err("not connected".to_owned()) };
        tls.writer().write_all(request).map_err(|error| format!("writing: {}", error.kind()))?;
        write(stream, tls)
    }

    pub fn is_204(&self) -> Result<(), String> {
        if self.received.starts_with(b"HTTP/1.1 204") {
            return Ok(());
        }
        let status = self.received.get(9..12).unwrap_or(b"???");
        Err(format!("answered {}", String::from_utf8_lossy(status)))
    }

    /// The head has come whole. A 204 has no body; of any other answer only the status counts.
    pub fn is_answered(&self) -> bool {
        self.received.ends_with(b"\r\n\r\n") || self.received.windows(4).any(|end| end == b"\r\n\r\n")
    }
}

fn write(stream: &mut TcpStream, tls: &mut ClientConnection) -> Result<(), String> {
    while tls.wants_write() {
        match tls.write_tls(stream) {
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => break,
            Err(error) => return Err(format!("writing: {}", error.kind())),
        }
    }
    Ok(())
}
