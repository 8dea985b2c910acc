//! What the command lines share: arguments and environment in, one line of error and an exit code out.

use std::error::Error;
use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;
use std::str::FromStr;

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

/// Parses the arguments; on `--help`, `--version` or a mistake this prints what is due and exits.
pub fn arguments<T: argh::FromArgs>(program: &str) -> T {
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

/// Prints what was asked for and exits. `println!` would panic where nobody reads.
fn asked(text: impl Display) -> ! {
    let written = writeln!(io::stdout(), "{text}");
    std::process::exit(if written.is_ok() { 0 } else { Exit::Failure as i32 });
}

/// Was SIGHUP ignored when the program began, as nohup(1) has it? Then it stays so (proc(5), SigIgn).
pub fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // Bit 0 is signal 1.
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

/// One line on standard error. Its reader may be gone or its disk full, which would make `eprintln!` panic:
/// that ends no program and changes no exit code.
pub fn note(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Ends `main`: a success is silent, an error is one line on stderr and its exit code.
pub fn finish<E: Fatal>(program: &str, result: Result<(), E>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
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
#[cfg(any(feature = "client", feature = "listen"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timespan(pub std::time::Duration);

#[cfg(any(feature = "client", feature = "listen"))]
impl FromStr for Timespan {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        humantime::parse_duration(text).map(Self).map_err(|_| "the form is 30s, 5m or 1h")
    }
}

#[cfg(any(feature = "client", feature = "listen"))]
impl Display for Timespan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

/// A setting that the environment holds and that cannot be read.
#[derive(Debug)]
pub struct SettingError {
    variable: &'static str,
    problem: String,
}

impl Display for SettingError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the setting {} is {}", self.variable, self.problem)
    }
}

impl Error for SettingError {}

impl Fatal for SettingError {
    fn exit(&self) -> Exit {
        Exit::Config
    }
}

#[cfg(all(test, any(feature = "client", feature = "listen")))]
mod tests {
    use super::*;

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
            assert_eq!(text.parse::<Timespan>(), Err("the form is 30s, 5m or 1h"), "{text:?}");
        }
    }
}
