//! A program that runs while the test goes on: what it prints and says, line by line.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest wait for anything that should happen; reached only when a test fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Killed, at the latest, when it is dropped.
pub struct Program {
    child: Child,
    /// Lines of its standard output and of its standard error, read as they come: it never waits for us.
    pub printed: Receiver<String>,
    pub said: Receiver<String>,
}

impl Program {
    /// Returns once it has bound `port`, or has ended. `sockets` is /proc/net/udp, where it runs.
    #[track_caller]
    pub fn listening(mut command: Command, port: u16, sockets: impl Fn() -> String) -> Self {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let printed = lines(child.stdout.take().unwrap());
        let said = lines(child.stderr.take().unwrap());
        let mut program = Self { child, printed, said };
        let bound = format!(":{port:04X} ");
        wait_until("it listens", || {
            sockets().contains(&bound) || program.child.try_wait().unwrap().is_some()
        });
        program
    }

    /// The next line that it prints.
    #[track_caller]
    pub fn line(&self) -> String {
        self.printed.recv_timeout(PATIENCE).unwrap_or_else(|_| {
            let said: Vec<String> = self.said.try_iter().collect();
            panic!("it printed no more lines, and said {said:#?}")
        })
    }

    /// The next line that it prints, which is JSON.
    #[track_caller]
    pub fn next(&self) -> Value {
        json(&self.line())
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// Interrupts it. What else did it print, what did it say, and what was its exit code?
    #[track_caller]
    pub fn end(self) -> (Vec<Value>, String, i32) {
        self.signal("INT");
        self.ended()
    }

    /// The same when it ends by itself.
    #[track_caller]
    pub fn ended(mut self) -> (Vec<Value>, String, i32) {
        let rest = self.printed.iter().map(|line| json(&line)).collect();
        let said = self.said.iter().map(|line| line + "\n").collect();
        (rest, said, self.child.wait().unwrap().code().expect("no signal ended it"))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        BufReader::new(pipe).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
    });
    lines
}

#[track_caller]
fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
}

#[track_caller]
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "waited {PATIENCE:?} in vain until {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
