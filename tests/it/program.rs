//! Programs: their output while they run and afterwards, and signals to them.

use std::borrow::BorrowMut;
use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::guardian;

/// Longest wait for anything that should happen; reached only when a test fails.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// A program that runs while the test goes on; ended, at the latest, when it is dropped.
pub struct Running {
    pub child: Child,
    /// Its standard output and its standard error.
    pub stdout: Printed,
    pub stderr: Printed,
}

/// A file that a program writes, and a reader of its own for those who want line after line.
pub struct Printed {
    file: PathBuf,
    reader: RefCell<BufReader<File>>,
}

impl Printed {
    fn new(file: PathBuf) -> (Self, File) {
        let writer = File::create(&file).unwrap();
        let reader = RefCell::new(BufReader::new(File::open(&file).unwrap()));
        (Self { file, reader }, writer)
    }

    fn all(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.file).unwrap()).into_owned()
    }

    /// The next line.
    #[track_caller]
    pub fn line(&self) -> String {
        let (mut reader, mut line) = (self.reader.borrow_mut(), String::new());
        wait_until("it prints a further line", || {
            reader.read_line(&mut line).unwrap();
            line.ends_with('\n')
        });
        line.pop();
        line
    }

    /// The lines that are left.
    pub fn rest(&self) -> String {
        let mut rest = String::new();
        self.reader.borrow_mut().read_to_string(&mut rest).unwrap();
        rest
    }
}

impl Running {
    /// Its output is written to files in the folder of the test.
    #[track_caller]
    pub fn start(folder: impl AsRef<Path>, mut command: impl BorrowMut<Command>) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = folder.as_ref().join(format!("running-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        let (stdout, out) = Printed::new(name.with_extension("out"));
        let (stderr, err) = Printed::new(name.with_extension("err"));
        let child = command.borrow_mut().process_group(0).stdout(out).stderr(err).spawn().unwrap();
        Self { child, stdout, stderr }
    }

    /// Returns once it has bound the UDP port, or has ended. `sockets` is /proc/net/udp, where it runs.
    #[track_caller]
    pub fn bound(
        folder: impl AsRef<Path>,
        command: Command,
        port: u16,
        sockets: impl Fn() -> String,
    ) -> Self {
        let bound = || sockets().matches(&format!(":{port:04X} ")).count();
        let before = bound();
        let mut running = Self::start(folder, command);
        // One that ends at this moment may hide it among the sockets.
        wait_until("it listens", || {
            bound() > before
                || running.err().contains("listening on")
                || running.child.try_wait().unwrap().is_some()
        });
        running
    }

    pub fn out(&self) -> String {
        self.stdout.all()
    }

    pub fn err(&self) -> String {
        self.stderr.all()
    }

    /// The next line that it prints, which is JSON.
    #[track_caller]
    pub fn next(&self) -> Value {
        json(&self.stdout.line())
    }

    /// The signal may go to timeout(1), which passes it on to the program that it runs.
    pub fn signal(&self, name: &str) {
        signal(name, &[self.child.id()]);
    }

    /// The exit code, once it has ended by itself.
    #[track_caller]
    pub fn exit(&mut self) -> i32 {
        wait_until("the program ends", || self.child.try_wait().unwrap().is_some());
        self.child.wait().unwrap().code().unwrap()
    }

    /// Interrupts it: the rest of its output, of its diagnostics, and its exit code.
    #[track_caller]
    pub fn end(self) -> (Vec<Value>, String, i32) {
        self.signal("INT");
        self.ended()
    }

    /// The same when it ends by itself.
    #[track_caller]
    pub fn ended(mut self) -> (Vec<Value>, String, i32) {
        let exit = self.exit();
        (self.stdout.rest().lines().map(json).collect(), self.stderr.rest(), exit)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // With those that it started; and it may be stopped.
            let group = format!("-{}", self.child.id());
            for name in ["TERM", "CONT"] {
                let _ = Command::new("kill").args(["-s", name, "--", &group]).status();
            }
            let _ = self.child.wait();
        }
    }
}

#[track_caller]
fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
}

#[track_caller]
pub fn wait_until(event: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "waited {PATIENCE:?} in vain until {event}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Everything that a program said.
pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[track_caller]
pub fn expect(command: &mut Command, exit: i32, said: &str) {
    let output = command.output().unwrap();
    let text = text(&output);
    assert_eq!(output.status.code(), Some(exit), "{text}");
    assert!(text.contains(said), "{text:?} does not contain {said:?}");
}

/// `None` where a program is not installed: the test is skipped.
#[track_caller]
pub fn needs(program: &str) -> Option<()> {
    let found =
        Command::new("sh").args(["-c", "PATH=$PATH:/usr/sbin; command -v \"$0\"", program]).output().unwrap();
    if found.status.success() {
        return Some(());
    }
    guardian::skip(&format!("{program} is missing; stack/setup --tests installs it"));
    None
}

pub fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

/// `None` for an ordinary user: the test is skipped.
#[track_caller]
pub fn needs_root(purpose: &str) -> Option<()> {
    if is_root() {
        return Some(());
    }
    guardian::skip(&format!("it needs root, {purpose}"));
    None
}

pub fn signal(name: &str, pids: &[u32]) {
    let pids = pids.iter().map(u32::to_string);
    assert!(Command::new("kill").args(["-s", name]).args(pids).status().unwrap().success());
}

/// The program lives through its time faster than we do. `None` without faketime(1): the test is skipped.
#[track_caller]
pub fn hurry(command: &mut Command, times: u32) -> Option<()> {
    needs("faketime")?;
    // faketime(1) itself is no part of it: it would stay between the program and the signals to it.
    let library = ["-f", "+0", "sh", "-c", "printf %s \"$LD_PRELOAD\""];
    let library = Command::new("faketime").args(library).output().unwrap().stdout;
    command.env("LD_PRELOAD", String::from_utf8(library).unwrap()).env("FAKETIME", format!("+0 x{times}"));
    Some(())
}

/// The processes that this one started, as far as their command line matches.
pub fn children(parent: u32, title: &str) -> Vec<u32> {
    let found = Command::new("pgrep").args(["-P", &parent.to_string(), "-f", title]).output().unwrap();
    String::from_utf8(found.stdout).unwrap().lines().map(|pid| pid.parse().unwrap()).collect()
}

/// One that waits to be reaped has no command line.
pub fn has_ended(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default().is_empty()
}
