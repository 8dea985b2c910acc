//! The log of a program behind nginx, on standard error, and how much of it `ROLLCALL_LOG` lets through.

use std::io::Write;
use std::str::FromStr;
use std::time::SystemTime;

use log::LevelFilter;

/// Below an error, sqlx only repeats our own lines.
pub const DEFAULT: &str = "info,sqlx=error";

/// Levels, separated by commas: for everything, or `TARGET=LEVEL` for a part. env_logger by itself takes a level
/// that it does not know for the name of a part, and then shows nothing else.
#[derive(Debug)]
pub struct Filter(String);

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut for_everything = false;
        for part in text.split(',') {
            let (target, level) = part.rsplit_once('=').unwrap_or(("", part));
            level.trim().parse::<LevelFilter>().map_err(|_| {
                format!(
                    "{level:?} is no level; error, warn, info, debug, trace and off are, also as TARGET=LEVEL"
                )
            })?;
            for_everything |= target.is_empty();
        }
        // env_logger takes the text behind a slash for a regular expression, which this build does not read.
        if text.contains('/') || !for_everything {
            return Err(format!("it needs a level for everything, as in {DEFAULT}"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl Filter {
    pub fn start(&self) {
        env_logger::Builder::new()
            .parse_filters(&self.0)
            .format(|out, record| {
                // humantime panics at a time before the epoch, which a clock without a battery shows.
                let time = humantime::format_rfc3339_millis(SystemTime::now().max(SystemTime::UNIX_EPOCH));
                writeln!(out, "{time} {:5} {}", record.level(), record.args())
            })
            .init();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_level_that_it_does_not_know() {
        for text in [DEFAULT, "warn", "DEBUG", "off", "rollcall::http=trace, info, sqlx=off"] {
            assert!(text.parse::<Filter>().is_ok(), "{text}");
        }
        for text in ["sqlx=error", "nonsense=info,sqlx=info", "info/x=info,info", "rollcall=info/z=info"] {
            assert!(
                text.parse::<Filter>().unwrap_err().starts_with("it needs a level for everything"),
                "{text}"
            );
        }
        for (text, level) in
            [("warning", "warning"), ("info,sqlx", "sqlx"), ("x=", ""), ("info,", ""), ("info/x", "info/x")]
        {
            let said = text.parse::<Filter>().unwrap_err();
            assert!(said.starts_with(&format!("{level:?} is no level; ")), "{text}: {said}");
        }
    }
}
