//! The table of `who`: one line a person, and the counts.

use std::time::{Duration, SystemTime};

use super::Error;
use super::board::{Page, Person, Server, State};
use crate::cli::printable;

const HEAD: [&str; 7] = ["STATE", "SINCE", "PERSON", "LAST SEEN", "DUE", "ADDRESS", "CERTIFICATE"];
const NOTHING: &str = "-";
const DAY: u64 = 24 * 60 * 60;

/// The lines of these people, with a head. Every text of the board is escaped.
pub fn table(people: &[Person], now: SystemTime, coloured: bool) -> Vec<String> {
    let rows: Vec<[String; 7]> = people.iter().map(|person| row(person, now)).collect();
    let mut widths = HEAD.map(str::len);
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: [&str; 7], colour: Option<&str>| {
        let mut line = String::new();
        for (at, (cell, width)) in cells.into_iter().zip(widths).enumerate() {
            // The last one is not filled up.
            let width = if at + 1 == cells.len() { 0 } else { width };
            let cell = format!("{cell:width$}");
            line += &match colour {
                Some(colour) if at == 0 => format!("\x1b[{colour}m{cell}\x1b[0m"),
                _ => cell,
            };
            line += "  ";
        }
        line.trim_end().to_owned()
    };
    let mut lines = vec![line(HEAD, None)];
    for (person, row) in people.iter().zip(&rows) {
        lines.push(line(row.each_ref().map(String::as_str), coloured.then(|| colour(person.state))));
    }
    lines
}

/// The lines below the table: each server that cannot hear, and the counts.
pub fn foot(page: &Page, now: SystemTime) -> Vec<String> {
    let deaf = page.servers.iter().filter(|server| !server.hears).map(|server| deaf(server, now));
    deaf.chain([page.counts.to_string()]).collect()
}

fn deaf(server: &Server, now: SystemTime) -> String {
    let name = printable(&server.name);
    match server.since {
        Some(since) => format!("the server {name} hears nobody, for {} now", age(since, now)),
        None => format!("the server {name} hears nobody"),
    }
}

/// The people of an answer.
pub fn people(values: &[serde_json::Value]) -> Result<Vec<Person>, Error> {
    values.iter().map(Person::read).collect()
}

fn row(person: &Person, now: SystemTime) -> [String; 7] {
    let or_nothing = |text: Option<String>| text.unwrap_or_else(|| NOTHING.to_owned());
    let state =
        if person.disabled { format!("{} (disabled)", person.state) } else { person.state.to_string() };
    let due = |due: SystemTime| match due.duration_since(now) {
        Ok(left) => format!("in {}", words(left)),
        Err(_) => format!("{} ago", age(due, now)),
    };
    [
        state,
        or_nothing(person.since.map(|since| age(since, now))),
        printable(&person.email),
        or_nothing(person.last_seen.map(|seen| format!("{} ago", age(seen, now)))),
        or_nothing(person.due.map(due)),
        or_nothing(person.ip.as_deref().map(printable)),
        or_nothing(person.not_after.map(|end| remaining(end, now))),
    ]
}

/// Red, yellow, magenta, green; none.
const fn colour(state: State) -> &'static str {
    match state {
        State::Offline => "31",
        State::Late => "33",
        State::Unknown => "35",
        State::Online => "32",
        State::Never => "0",
    }
}

/// So long ago. What is to come is now: the two clocks may differ a little.
pub fn age(then: SystemTime, now: SystemTime) -> String {
    words(now.duration_since(then).unwrap_or_default())
}

/// `40s`, `1m10s`, `3h12m`, `2d`.
fn words(time: Duration) -> String {
    let two = |large: u64, unit: char, small: u64, smaller: char| match small {
        0 => format!("{large}{unit}"),
        _ => format!("{large}{unit}{small}{smaller}"),
    };
    match time.as_secs() {
        seconds @ ..60 => format!("{seconds}s"),
        seconds @ ..3600 => two(seconds / 60, 'm', seconds % 60, 's'),
        seconds @ ..DAY => two(seconds / 3600, 'h', seconds % 3600 / 60, 'm'),
        seconds => format!("{}d", seconds / DAY),
    }
}

fn remaining(end: SystemTime, now: SystemTime) -> String {
    match end.duration_since(now) {
        Err(_) => "ended".to_owned(),
        Ok(left) if left.as_secs() < DAY => words(left),
        Ok(left) => format!("{} d", left.as_secs() / DAY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn now() -> SystemTime {
        humantime::parse_rfc3339("2026-11-28T12:00:00Z").unwrap()
    }

    fn shown(values: &[serde_json::Value], coloured: bool) -> String {
        table(&people(values).unwrap(), now(), coloured).join("\n")
    }

    #[test]
    fn the_table_is_that_of_the_design() {
        let people = [
            json!({"email": "bob@example.com", "state": "offline", "since": "2026-11-28T08:48:00Z",
                "last_seen": "2026-11-28T08:48:00Z", "due": null, "ip": "192.0.2.7",
                "certificate": {"serial": "1", "not_after": "2027-02-25T12:00:00Z"}}),
            json!({"email": "carol@example.com", "state": "late", "since": "2026-11-28T11:59:20Z",
                "last_seen": "2026-11-28T11:58:50Z", "due": "2026-11-28T11:59:20Z", "ip": "192.0.2.9",
                "certificate": {"serial": "2", "not_after": "2026-12-10T12:00:01Z"}}),
            json!({"email": "alice@example.com", "state": "online", "since": "2026-11-26T11:00:00Z",
                "last_seen": "2026-11-28T11:59:56Z", "due": "2026-11-28T12:00:26Z", "ip": "192.0.2.5",
                "certificate": null}),
            json!({"email": "new@example.com", "state": "never", "disabled": true}),
        ];
        assert_eq!(
            shown(&people, false),
            "\
STATE             SINCE  PERSON             LAST SEEN  DUE      ADDRESS    CERTIFICATE
offline           3h12m  bob@example.com    3h12m ago  -        192.0.2.7  89 d
late              40s    carol@example.com  1m10s ago  40s ago  192.0.2.9  12 d
online            2d     alice@example.com  4s ago     in 26s   192.0.2.5  -
never (disabled)  -      new@example.com    -          -        -          -"
        );
        assert!(shown(&people[..1], true).contains("\n\x1b[31moffline\x1b[0m  3h12m  bob@"));
        assert_eq!(shown(&[], true), HEAD.join("  "));
    }

    #[test]
    fn no_text_of_the_board_moves_the_cursor() {
        let evil = json!({"email": "\u{1b}[2J<b>\u{202e}\n@x", "state": "late", "ip": "\u{9b}1A\u{2066}"});
        let shown = shown(&[evil], false);
        assert!(
            shown.contains("\\u{1b}[2J<b>\\u{202e}\\n@x") && shown.contains("\\u{9b}1A\\u{2066}"),
            "{shown}"
        );
        assert!(!shown.contains(|c: char| c.is_control() && c != '\n' || c == '\u{202e}' || c == '\u{2066}'));
        assert_eq!(shown.lines().count(), 2);
    }

    #[test]
    fn ages_have_two_units_at_most() {
        for (seconds, shown) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (70, "1m10s"),
            (3599, "59m59s"),
            (3600, "1h"),
            (11_520, "3h12m"),
            (86_399, "23h59m"),
            (86_400, "1d"),
            (40 * 86_400, "40d"),
        ] {
            assert_eq!(words(Duration::from_secs(seconds)), shown);
        }
        assert_eq!(age(now() + Duration::from_secs(9), now()), "0s");
        assert_eq!(remaining(now() - Duration::from_secs(1), now()), "ended");
        assert_eq!(remaining(now() + Duration::from_secs(86_399), now()), "23h59m");
    }
}
