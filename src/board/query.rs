//! The parameters of a call: each is known, is there once, and has its one form.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tide::StatusCode;

use super::people::{People, Place, Query, Sort};
use crate::cli::Timespan;
use crate::http::problem::Problem;
use crate::protocol::status::Email;
use crate::store::presence::State;

/// Bytes of a query.
const MOST: usize = 2048;
const LIMIT: usize = 200;
const MAX_LIMIT: usize = 1000;
const MAX_WAIT: Duration = Duration::from_secs(30);

/// The parameters of a call, decoded.
pub struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// `known` are the names that the call has.
    pub fn of(query: Option<&str>, known: &[&str]) -> Result<Self, Problem> {
        let query = query.unwrap_or_default();
        if query.len() > MOST {
            return Err(Problem::new(
                StatusCode::UriTooLong,
                format!("the query has {} bytes, and may have {MOST}", query.len()),
            ));
        }
        let mut parameters: Vec<(String, String)> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decode(name)?, decode(value)?);
            if !known.contains(&name.as_str()) {
                let list = known.join(", ");
                let known = if known.is_empty() { "it has none" } else { &list };
                return Err(bad(format!("this call has no parameter {name:?}: {known}")));
            }
            if parameters.iter().any(|(other, _)| *other == name) {
                return Err(bad(format!("the parameter {name} is there more than once")));
            }
            parameters.push((name, value));
        }
        Ok(Self(parameters))
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// The part of the list that `who` asks for.
    pub fn list(&self, people: &People) -> Result<Query, Problem> {
        let (mut states, mut disabled) = (Vec::new(), false);
        for word in self.get("state").into_iter().flat_map(|words| words.split(',')) {
            match word.parse() {
                Ok(state) => states.push(state),
                Err(()) if word == "disabled" => disabled = true,
                Err(()) => {
                    let words: Vec<&str> = State::ALL.iter().map(|state| state.word()).collect();
                    let words = words.join(", ");
                    return Err(bad(format!("state is {word:?}: the states are {words}, and disabled")));
                }
            }
        }
        let part = self.get("q").unwrap_or_default();
        if part.len() > Email::MAX_LEN {
            let most = Email::MAX_LEN;
            return Err(bad(format!("q has {} bytes, and an email {most} at the most", part.len())));
        }
        if part.contains(|character: char| character.is_control()) {
            return Err(bad(format!("q is {part:?}: no email has control characters")));
        }
        let sort = match self.get("sort").unwrap_or("trouble") {
            "trouble" => Sort::Trouble,
            "email" => Sort::Email,
            "seen" => Sort::Seen,
            other => return Err(bad(format!("sort is {other:?}: it is trouble, email or seen"))),
        };
        let limit = match self.get("limit") {
            None => LIMIT,
            Some(text) => match text.parse() {
                Ok(limit @ 1..=MAX_LIMIT) if text.bytes().all(|byte| byte.is_ascii_digit()) => limit,
                _ => return Err(bad(format!("limit is {text:?}: it is a number from 1 to {MAX_LIMIT}"))),
            },
        };
        let after = self.get("after").map(|cursor| place(people, sort, cursor)).transpose()?;
        Ok(Query { states, disabled, part: part.to_lowercase(), sort, limit, after })
    }

    /// How long to wait for a change.
    pub fn wait(&self) -> Result<Duration, Problem> {
        let Some(text) = self.get("wait") else { return Ok(Duration::ZERO) };
        match text.parse() {
            Ok(Timespan(wait)) if wait <= MAX_WAIT => Ok(wait),
            _ => {
                Err(bad(format!("wait is {text:?}: it is a time up to {}, such as 10s", Timespan(MAX_WAIT))))
            }
        }
    }
}

/// The number of a position of this board.
pub fn position(people: &People, name: &str) -> Result<u64, Problem> {
    people.number(name).ok_or_else(gone)
}

/// Another board's, or too old.
pub fn gone() -> Problem {
    Problem::new(
        StatusCode::Gone,
        "this position is too old, or of another board (each start is a new one): read /api/who again",
    )
}

fn bad(detail: String) -> Problem {
    Problem::new(StatusCode::BadRequest, detail)
}

/// Undoes the escapes of RFC 3986, section 2.1. A plus stays one, as emails have it.
pub fn decode(text: &str) -> Result<String, Problem> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => match (digit(rest.next()), digit(rest.next())) {
                (Some(high), Some(low)) => (high * 16 + low) as u8,
                _ => {
                    return Err(bad(format!(
                        "{text:?} is not percent-encoded: two hex digits follow each %"
                    )));
                }
            },
            _ => byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| bad(format!("{text:?} does not decode to UTF-8")))
}

/// A cursor: the place where the next page begins, for this board and order alone.
pub fn cursor(people: &People, sort: Sort, place: &Place) -> String {
    let (disabled, rank, at, email) = place;
    let text = format!("{} {} {} {rank} {} {email}", people.name(0), sort as u8, u8::from(*disabled), at.0);
    URL_SAFE_NO_PAD.encode(text)
}

fn place(people: &People, sort: Sort, cursor: &str) -> Result<Place, Problem> {
    let unread = || bad(format!("after is {cursor:?}: it is the text of next in an answer"));
    let text = URL_SAFE_NO_PAD.decode(cursor).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let text = text.ok_or_else(unread)?;
    let parts: Vec<&str> = text.splitn(6, ' ').collect();
    let [board, order, disabled, rank, at, email] = parts[..] else { return Err(unread()) };
    if people.number(board).is_none() {
        return Err(gone());
    }
    if order.parse() != Ok(sort as u8) {
        return Err(bad("after is a cursor of another sort: begin without it".to_owned()));
    }
    match (disabled, rank.parse(), at.parse()) {
        ("0" | "1", Ok(rank), Ok(at)) => Ok((disabled == "1", rank, std::cmp::Reverse(at), email.to_owned())),
        _ => Err(unread()),
    }
}
