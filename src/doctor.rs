//! `rollcall-server doctor`: the faults that keep announcements from being heard or clients from being let in.
//!
//! Each check is a function that looks and changes nothing, and hands out findings: green, yellow or red, one
//! line each, with a remedy. The checks run beside each other, and one that hangs holds up no other.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use crate::cli::{Exit, Fatal, here, printable};
use crate::server::{self, Options, Settings};

mod database;
mod disk;
mod hearing;
mod network;
mod port;
mod readiness;
mod secrets;
mod validity;

/// Longest wait for a check, counted from the start of all. Each is done earlier unless something hangs that
/// it cannot give up by itself, such as a file on a disk that does not answer.
const LIMIT: Duration = Duration::from_secs(5);

/// The column in which the text of a line begins.
const COLUMN: usize = 8;

type Check = fn(&Settings) -> Vec<Finding>;

/// In the order of the report.
const CHECKS: [(&str, Check); 7] = [
    ("network", network::check),
    ("nginx", secrets::check_nginx),
    ("server", readiness::check),
    ("database", database::check),
    ("certificates", validity::check),
    ("keys", secrets::check),
    ("disk", disk::check),
];

/// Prints the findings of these checks, or of all if none is named, and returns the worst level among them.
pub fn run(options: Options, only: &[String]) -> Result<Level, Error> {
    if let Some(unknown) = only.iter().find(|name| CHECKS.iter().all(|(known, _)| known != name)) {
        return Err(Error::NoSuchCheck(unknown.clone()));
    }
    let settings = Arc::new(Settings::read(options).map_err(Error::Settings)?);
    let end = Instant::now() + LIMIT;
    let wanted =
        CHECKS.into_iter().filter(|(name, _)| only.is_empty() || only.iter().any(|only| only == name));
    let running: Vec<_> = wanted
        .map(|(name, check)| {
            let (done, findings) = mpsc::channel();
            let settings = Arc::clone(&settings);
            thread::spawn(move || done.send(check(&settings)));
            (name, findings)
        })
        .collect();
    let mut report = Report::to_stdout();
    for (name, findings) in running {
        match findings.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(findings) => findings.iter().try_for_each(|finding| report.say(finding))?,
            Err(RecvTimeoutError::Timeout) => report.say(&Finding::red(
                format!("{name}: this check did not come to an end within {LIMIT:?}"),
                "look for a file of rollcall's on a disk that does not answer",
            ))?,
            Err(RecvTimeoutError::Disconnected) => report.say(&Finding::red(
                format!("{name}: this check ended without a result"),
                "this is a mistake in rollcall; report it with the lines above this one on standard error",
            ))?,
        }
    }
    if only.is_empty() {
        print(&report.summary())?;
    }
    Ok(report.worst())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Green,
    Yellow,
    Red,
}

impl Level {
    fn word(self) -> &'static str {
        match self {
            Level::Green => "green",
            Level::Yellow => "yellow",
            Level::Red => "red",
        }
    }

    /// ECMA-48, as terminals understand it.
    fn escape(self) -> &'static str {
        match self {
            Level::Green => "\x1b[32m",
            Level::Yellow => "\x1b[33m",
            Level::Red => "\x1b[31m",
        }
    }
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    level: Level,
    text: String,
    advice: Option<String>,
}

impl Finding {
    fn green(text: impl Into<String>) -> Self {
        Self { level: Level::Green, text: text.into(), advice: None }
    }

    fn yellow(text: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { level: Level::Yellow, text: text.into(), advice: Some(advice.into()) }
    }

    fn red(text: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { level: Level::Red, text: text.into(), advice: Some(advice.into()) }
    }

    fn line(&self, coloured: bool) -> String {
        let word = self.level.word();
        // Escapes have no width, so that the padding comes after them.
        let mut line = match coloured {
            true => format!("{}{word}\x1b[0m", self.level.escape()),
            false => word.to_owned(),
        };
        line.push_str(&" ".repeat(COLUMN - word.len()));
        let advice = self.advice.iter().flat_map(|advice| ["; do: ", advice]);
        for text in [self.text.as_str()].into_iter().chain(advice) {
            // Names of interfaces and the database's errors are not ours: neither breaks the line or colours it.
            line.push_str(&printable(text));
        }
        line
    }
}

/// The levels so far.
struct Report {
    coloured: bool,
    said: Vec<Level>,
}

impl Report {
    fn to_stdout() -> Self {
        // https://no-color.org: any value but an empty one.
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { coloured: io::stdout().is_terminal() && !unwanted, said: Vec::new() }
    }

    fn say(&mut self, finding: &Finding) -> Result<(), Error> {
        self.said.push(finding.level);
        print(&finding.line(self.coloured))
    }

    fn summary(&self) -> String {
        let count = |level| self.said.iter().filter(|said| **said == level).count();
        let [green, yellow, red] = [Level::Green, Level::Yellow, Level::Red].map(count);
        format!("{green} green, {yellow} yellow, {red} red; just status tells whether each part runs")
    }

    fn worst(&self) -> Level {
        self.said.iter().copied().max().unwrap_or(Level::Green)
    }
}

/// A reader that closed the pipe has seen enough.
fn print(line: &str) -> Result<(), Error> {
    match writeln!(io::stdout(), "{}", here(line)) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Error::Output(error)),
        _ => Ok(()),
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// One that the server does not start with either.
    #[error(transparent)]
    Settings(server::Error),
    #[error("there is no check {0:?}; there are {names}", names = CHECKS.map(|(name, _)| name).join(", "))]
    NoSuchCheck(String),
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
}

impl Fatal for Error {
    fn exit(&self) -> Exit {
        match self {
            Error::Settings(error) => error.exit(),
            Error::NoSuchCheck(_) => Exit::Usage,
            Error::Output(_) => Exit::Failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_line_whatever_it_says() {
        let finding = Finding::yellow("eth\x1b[2J0\nred     \u{202e}all is \"well\"", "look\rhere");
        let text = "eth\\u{1b}[2J0\\nred     \\u{202e}all is \"well\"; do: look\\rhere";
        assert_eq!(finding.line(false), format!("yellow  {text}"));
        assert_eq!(finding.line(true), format!("\x1b[33myellow\x1b[0m  {text}"));
        assert_eq!(Finding::green("fine").line(false), "green   fine");
        assert_eq!(Finding::red("broken", "mend").line(true), "\x1b[31mred\x1b[0m     broken; do: mend");
    }

    #[test]
    fn the_worst_level_counts() {
        let (green, yellow, red) = (Level::Green, Level::Yellow, Level::Red);
        for (said, worst, summary) in [
            (vec![], green, "0 green, 0 yellow, 0 red; "),
            (vec![green, yellow, green], yellow, "2 green, 1 yellow, 0 red; "),
            (vec![yellow, red, green], red, "1 green, 1 yellow, 1 red; "),
        ] {
            let report = Report { coloured: false, said };
            assert_eq!(report.worst(), worst);
            assert!(report.summary().starts_with(summary), "{}", report.summary());
        }
    }
}
