//! A log on standard error: how much of it `ROLLCALL_LOG` lets through, and in which form.

use std::fmt;
use std::io::Write;
use std::str::FromStr;
use std::time::SystemTime;

use log::{LevelFilter, Record};
use serde_json::Value;

use super::here;

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

/// The values of `ROLLCALL_LOG_FORMAT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people: time, level, message.
    Text,
    /// For programs: one object a line.
    Json,
}

impl FromStr for Format {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Format::Text),
            "json" => Ok(Format::Json),
            _ => Err("it is either text or json"),
        }
    }
}

#[derive(Debug)]
pub struct Log {
    pub filter: Filter,
    pub format: Format,
}

impl Log {
    pub fn start(&self) {
        let format = self.format;
        env_logger::Builder::new()
            .parse_filters(&self.filter.0)
            .format(move |out, record| {
                // humantime panics at a time before the epoch, which a clock without a battery shows.
                let time = humantime::format_rfc3339_millis(SystemTime::now().max(SystemTime::UNIX_EPOCH));
                let message = record.args().to_string();
                let message = here(&message);
                match format {
                    Format::Text => writeln!(out, "{time} {:5} {message}", record.level()),
                    Format::Json => writeln!(out, "{}", json(&time, record, &message)),
                }
            })
            .init();
    }
}

/// The message comes last, and `stack/up` finds it there.
fn json(time: &dyn fmt::Display, record: &Record<'_>, message: &str) -> String {
    let level = record.level().as_str().to_ascii_lowercase();
    let [target, message] = [record.target(), message].map(Value::from);
    format!(r#"{{"time":"{time}","level":"{level}","target":{target},"message":{message}}}"#)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_object_whatever_it_says() {
        let hostile = "\"}\n{\"level\":\"error\"}\r\u{1b}[2J\0\\u0041\u{2028}\u{202e}\u{7f}\u{1f511}";
        let record = |message: &str| {
            json(&"T", &Record::builder().level(log::Level::Warn).target("a\"b").build(), message)
        };
        let line = record(hostile);
        assert!(!line.contains(['\n', '\r', '\u{1b}', '\0']), "{line:?}");
        let read: Value = serde_json::from_str(&line).unwrap();
        let written = serde_json::json!({"time": "T", "level": "warn", "target": "a\"b", "message": hostile});
        assert_eq!(read, written);
        assert_eq!(record("plain"), r#"{"time":"T","level":"warn","target":"a\"b","message":"plain"}"#);
    }

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
