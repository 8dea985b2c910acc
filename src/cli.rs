//! The command lines' common part: arguments and settings in, one line of error and an exit code out; the log; the time;
//! signals.

use std::error::Error;
use std::fmt::Display;
use std::io::{self, Write};
use std::process::{ExitCode, Termination};
use std::str::FromStr;
use std::time::{Duration, SystemTime};

pub use argh::{ArgsInfo, FromArgs};

#[cfg(feature = "server")]
pub mod logging;
mod recipes;
#[cfg(any(feature = "client", feature = "listen", feature = "server"))]
pub mod signals;

pub use recipes::{here, program_of};

/// The exit codes, after sysexits.h where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Failure = 1,
    Usage = 2,
    /// `EX_UNAVAILABLE`: unreachable after retries.
    Unavailable = 69,
    /// `EX_TEMPFAIL`: try later (429, 502, 503, 504).
    TryLater = 75,
    /// `EX_PROTOCOL`
    Protocol = 76,
    /// `EX_NOPERM`: refused (400, 401, 403).
    Refused = 77,
    /// `EX_CONFIG`: an unreadable key, a bad setting.
    Config = 78,
}

/// An error that ends a program.
pub trait Fatal: Error {
    fn exit(&self) -> Exit;
}

/// Parses the arguments; on `--help`, `--version` or a mistake this prints a text and exits.
pub fn arguments<T: FromArgs>(program: &str) -> T {
    let arguments: Vec<String> =
        std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned()).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let ["--version" | "-V"] = arguments[..] {
        asked(format_args!("{program} {}", env!("CARGO_PKG_VERSION")));
    }
    T::from_args(&[program], &arguments).unwrap_or_else(|early| match early.status {
        Ok(()) => asked(early.output),
        Err(()) => {
            note(format_args!("{program}: {}\nRun {program} --help for more.", early.output.trim_end()));
            std::process::exit(Exit::Usage as i32);
        }
    })
}

/// Prints the requested text and exits. `println!` would panic where nobody reads.
fn asked(text: impl Display) -> ! {
    let written = writeln!(io::stdout(), "{}", here(&text.to_string()));
    std::process::exit(if written.is_ok() { 0 } else { Exit::Failure as i32 });
}

/// One line on standard error. Its reader may be gone or its disk full, which would make `eprintln!` panic:
/// that ends no program and changes no exit code.
pub fn note(line: impl Display) {
    let _ = writeln!(io::stderr(), "{}", here(&line.to_string()));
}

/// A program: arguments in, one call of the library, an exit code out.
pub fn main<T: FromArgs, R: Termination, E: Fatal>(
    program: &str,
    run: impl FnOnce(T) -> Result<R, E>,
) -> ExitCode {
    finish(program, run(arguments(program)))
}

/// Ends `main`: a success is silent, an error is one line on stderr and its exit code.
pub fn finish<R: Termination, E: Fatal>(program: &str, result: Result<R, E>) -> ExitCode {
    match result {
        Ok(done) => done.report(),
        Err(error) => {
            note(format_args!("{program}: {error}"));
            ExitCode::from(error.exit() as u8)
        }
    }
}

/// A setting: the flag beats the environment, the environment beats the default.
pub fn setting<T>(flag: Option<T>, variable: &'static str, default: &str) -> Result<T, SettingError>
where
    T: FromStr,
    T::Err: Display,
{
    if let Some(value) = flag {
        return Ok(value);
    }
    let text = match std::env::var(variable) {
        Ok(text) if !text.is_empty() => text,
        Ok(_) | Err(std::env::VarError::NotPresent) => default.to_owned(),
        Err(error) => return Err(SettingError { variable, problem: error.to_string() }),
    };
    text.parse().map_err(|error: T::Err| SettingError { variable, problem: format!("{text:?}: {error}") })
}

/// How long, as a flag or a variable has it and as messages say it: `30s`, `5m`, `1h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timespan(pub Duration);

impl FromStr for Timespan {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        humantime::parse_duration(text).map(Self).map_err(|_| "the form is 30s, 5m, 1h or 30d")
    }
}

impl Display for Timespan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

/// The name of a server, among several on one database: by default that of its host.
pub struct ServerName(pub String);

impl FromStr for ServerName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let host = match text {
            "" => std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default(),
            _ => text.to_owned(),
        };
        match host.trim() {
            // Two of one name would take each other for one.
            "" => Err("the name of this host cannot be read here: give one"),
            name if name.len() <= 253 && !name.contains(|c: char| c.is_control() || c.is_whitespace()) => {
                Ok(Self(name.to_owned()))
            }
            _ => Err("it has 1 to 253 characters, and neither spaces nor control characters"),
        }
    }
}

/// Nanoseconds since the Unix epoch, never before it.
pub fn now_ns() -> u64 {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX)
}

/// Seconds since the Unix epoch, never before it.
pub fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Text from a stranger as a terminal may see it: control characters stand there as escapes.
pub fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for character in text.chars() {
        match is_hidden(character) {
            true => printable.extend(character.escape_default()),
            false => printable.push(character),
        }
    }
    printable
}

/// JSON from a stranger as a terminal may see it. It means the same: these characters stand in strings only.
pub fn printable_json(json: &str) -> String {
    let mut printable = String::with_capacity(json.len());
    for character in json.chars() {
        match is_hidden(character) {
            true => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    printable += &format!("\\u{unit:04x}");
                }
            }
            false => printable.push(character),
        }
    }
    printable
}

/// Does it move the cursor, turn the direction of text, or hide?
fn is_hidden(character: char) -> bool {
    // Marks that turn the direction, and line separators, are not control characters.
    let mark = matches!(character, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    character.is_control() || mark
}

/// A setting in the environment that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the setting {variable} is {problem}")]
pub struct SettingError {
    variable: &'static str,
    problem: String,
}

impl Fatal for SettingError {
    fn exit(&self) -> Exit {
        Exit::Config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_a_stranger_moves_no_cursor() {
        for (text, shown) in [
            ("it's \"fine\" \\ \u{e9}", "it's \"fine\" \\ \u{e9}"),
            ("\x1b[2J\r\n\0", "\\u{1b}[2J\\r\\n\\u{0}"),
            ("\u{202e}\u{2028}\u{feff}", "\\u{202e}\\u{2028}\\u{feff}"),
            ("\u{2066}a\u{2069}\u{61c}", "\\u{2066}a\\u{2069}\\u{61c}"),
        ] {
            assert_eq!(printable(text), shown);
        }
        assert_eq!(printable_json("\"\u{9b}2J\u{202e}\u{7f}\u{e9}\""), "\"\\u009b2J\\u202e\\u007f\u{e9}\"");
    }

    #[test]
    fn a_timespan_has_a_unit_and_is_said_as_it_is_read() {
        for text in ["0s", "50ms", "30s", "5m", "1h", "1day", "1m 30s"] {
            assert_eq!(text.parse::<Timespan>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "5",
            "-5s",
            "s",
            "1e9s",
            "5 ",
            "99999999999999999d",
            "99999999999999999999999999s",
            "\u{665}s",
            "5s\0",
        ] {
            assert_eq!(text.parse::<Timespan>(), Err("the form is 30s, 5m, 1h or 30d"), "{text:?}");
        }
    }
}
