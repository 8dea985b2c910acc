//! Looks, again and again, at that which an operator looks at: is it green while nothing is committed?

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rollcall::cli::now_ns;

use crate::bed::{Bed, DATABASES};
use crate::namespace::enter;

/// One look.
#[derive(Clone, Debug)]
pub struct Sample {
    pub of: &'static str,
    pub began_ns: u64,
    pub ended_ns: u64,
    pub is_green: bool,
}

#[derive(Default)]
pub struct Seen {
    pub samples: Mutex<Vec<Sample>>,
    /// Commits of somebody else than rollcall, while no heartbeat is acknowledged.
    pub witnessed_ns: Mutex<Vec<u64>>,
    /// The most backends of each server's role, by host.
    pub backends: Mutex<BTreeMap<(&'static str, &'static str), usize>>,
    /// Since when HAProxy held these for primaries; `None` while it does not run. It leads to one that it shows alone.
    pub shown: Mutex<Vec<(u64, Option<Vec<String>>)>>,
}

pub struct Watch {
    pub seen: Arc<Seen>,
    ends: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Watch {
    pub fn start() -> Self {
        Self { seen: Arc::default(), ends: Arc::default(), threads: Vec::new() }
    }

    /// Does this again and again on a thread of its own.
    pub fn every(&mut self, pause: Duration, mut look: impl FnMut(&Seen) + Send + 'static) {
        let (seen, ends) = (Arc::clone(&self.seen), Arc::clone(&self.ends));
        self.threads.push(thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                look(&seen);
                thread::sleep(pause);
            }
        }));
    }

    /// `GET /readyz` of the server's own port, in this network.
    pub fn readyz(&mut self, namespace: String, listen: String) {
        let mut is_inside = false;
        self.every(Duration::from_millis(200), move |seen| {
            if !std::mem::replace(&mut is_inside, true) {
                enter(&namespace);
            }
            seen.sample("/readyz", || is_ready(&listen).unwrap_or(false));
        });
    }

    /// A command that exits with 0 when it finds all well.
    pub fn command(
        &mut self,
        of: &'static str,
        pause: Duration,
        mut make: impl FnMut() -> Command + Send + 'static,
    ) {
        self.every(pause, move |seen| {
            seen.sample(of, || make().output().unwrap().status.success());
        });
    }

    pub fn backends(&mut self, folder: String) {
        self.every(Duration::from_millis(300), move |seen| {
            for host in DATABASES {
                let Some(first) = Bed::first_process(&folder, host) else { continue };
                let Some(own) = namespace_of(first) else { continue };
                let here: Vec<u32> = processes().filter(|pid| namespace_of(*pid) == Some(own)).collect();
                for role in ["rollcall_server", "rollcall_s2"] {
                    let count = here.iter().filter(|pid| is_backend(**pid, role)).count();
                    let mut most = seen.backends.lock().unwrap();
                    let most = most.entry((host, role)).or_default();
                    *most = count.max(*most);
                }
            }
        });
    }

    pub fn haproxy(&mut self, folder: String) {
        self.every(Duration::from_millis(20), move |seen| {
            let now = Bed::shown(&folder);
            let mut shown = seen.shown.lock().unwrap();
            if shown.last().is_none_or(|(_, last)| *last != now) {
                shown.push((now_ns(), now));
            }
        });
    }
}

impl Seen {
    fn sample(&self, of: &'static str, look: impl FnOnce() -> bool) {
        let began_ns = now_ns();
        let is_green = look();
        self.samples.lock().unwrap().push(Sample { of, began_ns, ended_ns: now_ns(), is_green });
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn is_ready(listen: &str) -> Option<bool> {
    let mut stream = TcpStream::connect(listen).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer.starts_with("HTTP/1.1 204"))
}

fn processes() -> impl Iterator<Item = u32> {
    let names = fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.file_name()));
    names.filter_map(|name| name.to_str()?.parse().ok())
}

/// By its title: `postgres: rollcall: rollcall_server rollcall 192.0.2.1(40000) idle`. One that has not let its client in
/// yet holds nothing, and the role's limit may refuse it.
fn is_backend(pid: u32, role: &str) -> bool {
    let title = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let title = String::from_utf8_lossy(&title);
    let title = title.trim_end_matches(['\0', ' ']);
    title.starts_with("postgres: ")
        && title.contains(&format!(" {role} rollcall "))
        && !title.ends_with("startup")
        && !title.ends_with("authentication")
}

fn namespace_of(pid: u32) -> Option<u64> {
    fs::metadata(format!("/proc/{pid}/ns/pid")).ok().map(|file| file.ino())
}
