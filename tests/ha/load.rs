//! Clients over TLS through nginx, each of which notes every answer that it got.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rollcall::cli::now_ns;
use rustls::{Certificate, ClientConfig, ClientConnection, PrivateKey, RootCertStore, StreamOwned};

use crate::namespace::enter;
use crate::program::{expect, text};
use crate::stack::{Pair, Stack};

/// One request and its answer.
#[derive(Clone, Debug)]
pub struct Beat {
    /// The host of the server that it went to.
    pub to: &'static str,
    pub email: String,
    /// The client's own end of the connection.
    pub port: u16,
    pub began_ns: u64,
    pub ended_ns: u64,
    /// 0: the connection ended without one.
    pub status: u16,
}

impl Beat {
    pub fn is_acknowledged(&self) -> bool {
        self.status == 204
    }
}

pub struct Load {
    /// From an answer to the next request.
    between: Duration,
    beats: Arc<Mutex<Vec<Beat>>>,
    ends: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

/// Longer than any answer of the server takes.
const PATIENCE: Duration = Duration::from_secs(15);

/// Enrols so many people, each with a certificate.
pub fn enrol(stack: &Stack, count: usize) -> Vec<(String, Pair)> {
    let one = |n| {
        let (email, name) = (format!("p{n}@example.com"), format!("p{n}"));
        let mut command = stack.tool("stack/run");
        expect(command.args(["rollcall-admin", "enrol", &email, "--name", &name]), 0, "");
        (email, stack.pair(&name))
    };
    (0..count).map(one).collect()
}

impl Load {
    pub fn new(between: Duration) -> Self {
        Self { between, beats: Arc::default(), ends: Arc::default(), clients: Vec::new() }
    }

    /// A client for each of these people, in this network, on one connection as long as that lasts.
    pub fn add(
        &mut self,
        stack: &Stack,
        namespace: Option<String>,
        to: &'static str,
        people: &[(String, Pair)],
    ) {
        for (email, pair) in people {
            let (beats, ends, between) = (Arc::clone(&self.beats), Arc::clone(&self.ends), self.between);
            let (config, port) = (config(&stack.certs.join("ca.crt"), pair), stack.https_port);
            let (email, namespace) = (email.clone(), namespace.clone());
            self.clients.push(thread::spawn(move || {
                if let Some(namespace) = namespace {
                    enter(&namespace);
                }
                while !ends.load(Ordering::Relaxed) {
                    if connection(&config, port, (to, &email), between, &beats, &ends).is_none() {
                        thread::sleep(between);
                    }
                }
            }));
        }
    }

    pub fn beats(&self) -> Vec<Beat> {
        self.beats.lock().unwrap().clone()
    }

    pub fn last_acknowledged_ns(&self, to: &str) -> u64 {
        let beats = self.beats.lock().unwrap();
        let last = beats.iter().rev().find(|beat| beat.is_acknowledged() && beat.to == to);
        last.map_or(0, |beat| beat.ended_ns)
    }

    /// Waits until heartbeats are acknowledged, without a pause, for so long. `false` if that does not come in time.
    pub fn goes_on(&self, to: &str, time: Duration, patience: Duration) -> bool {
        let began = Instant::now();
        let mut since = began;
        while since.elapsed() <= time {
            if now_ns().saturating_sub(self.last_acknowledged_ns(to)) > 500_000_000 {
                since = Instant::now();
            }
            if began.elapsed() > patience {
                return false;
            }
            thread::sleep(Duration::from_millis(50));
        }
        true
    }

    /// Every answer, after the last.
    pub fn end(mut self) -> Vec<Beat> {
        self.join();
        std::mem::take(&mut self.beats.lock().unwrap())
    }

    fn join(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            let _ = client.join();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.join();
    }
}

/// Heartbeats until the connection ends.
fn connection(
    config: &Arc<ClientConfig>,
    port: u16,
    (to, email): (&'static str, &str),
    between: Duration,
    beats: &Mutex<Vec<Beat>>,
    ends: &AtomicBool,
) -> Option<()> {
    let stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    let own_port = stream.local_addr().unwrap().port();
    let session = ClientConnection::new(Arc::clone(config), "localhost".try_into().unwrap()).unwrap();
    let mut stream = StreamOwned::new(session, stream);
    while !ends.load(Ordering::Relaxed) {
        let began_ns = now_ns();
        let status = exchange(&mut stream).unwrap_or(0);
        let beat = Beat { to, email: email.to_owned(), port: own_port, began_ns, ended_ns: now_ns(), status };
        beats.lock().unwrap().push(beat);
        if status == 0 {
            return None;
        }
        thread::sleep(between);
    }
    Some(())
}

/// The status of one answer, read to its end.
fn exchange(stream: &mut (impl Read + Write)) -> Option<u16> {
    stream.write_all(b"PATCH /api/client HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n").ok()?;
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).ok()?.to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).ok()?;
    head.split(' ').nth(1)?.parse().ok()
}

fn config(ca: &Path, pair: &Pair) -> Arc<ClientConfig> {
    let certificate = |file: &Path| Certificate(der(&["x509"], file));
    let mut roots = RootCertStore::empty();
    roots.add(&certificate(ca)).unwrap();
    let key = PrivateKey(der(&["pkcs8", "-topk8", "-nocrypt"], &pair.key));
    let config = ClientConfig::builder().with_safe_defaults().with_root_certificates(roots);
    Arc::new(config.with_client_auth_cert(vec![certificate(&pair.cert)], key).unwrap())
}

fn der(openssl: &[&str], file: &Path) -> Vec<u8> {
    let mut command = Command::new("openssl");
    let output = command.args(openssl).args(["-outform", "DER", "-in"]).arg(file).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    output.stdout
}
