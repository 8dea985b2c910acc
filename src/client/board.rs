//! The board, asked: over nginx with the client's certificate, or on its own host with a token. Its answers are read as
//! if they were hostile.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use async_std::future::timeout;
use async_std::io::{Read, Write};
use serde_json::Value;

use super::credentials::Files;
use super::{Error, ServerUrl, connect, connection, exchange};
use crate::files;

/// Bytes of all pages of one reading: 100,000 people are about 40 MB.
pub const MOST: usize = 64 << 20;
/// The most people that the board puts on a page.
pub const PAGE: usize = 1000;

/// The way to the board.
pub enum Way {
    /// Over nginx.
    Certificate { server: Box<ServerUrl>, files: Files },
    /// Its own port, which answers those who have the token in this file.
    Token { host: String, port: u16, authority: String, file: PathBuf },
}

impl Way {
    /// The board's own port.
    pub fn token(address: String, file: PathBuf) -> Result<Self, Error> {
        let (host, port) = match address.rsplit_once(':').map(|(host, port)| (host, port.parse())) {
            Some((host, Ok(port)))
                if !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_graphic()) =>
            {
                (host.trim_start_matches('[').trim_end_matches(']').to_owned(), port)
            }
            _ => return Err(Error::BoardAddress(address)),
        };
        Ok(Way::Token { host, port, authority: address, file })
    }
}

trait Stream: Read + Write + Unpin + Send {}
impl<S: Read + Write + Unpin + Send> Stream for S {}

/// A connection that is kept between two questions.
pub struct Board {
    way: Way,
    /// For one answer, a new connection included.
    limit: Duration,
    kept: Option<Box<dyn Stream>>,
}

impl Board {
    pub fn new(way: Way, limit: Duration) -> Self {
        Self { way, limit, kept: None }
    }

    /// The document at this path, of at most so many bytes, and its length. The board may take `patience` before it
    /// begins to answer.
    pub async fn get(
        &mut self,
        path: &str,
        most: usize,
        patience: Duration,
    ) -> Result<(Value, usize), Error> {
        let token = match &self.way {
            Way::Certificate { .. } => None,
            Way::Token { file, .. } => Some(read_token(file)?),
        };
        let token = token.as_deref();
        // One that turns out to be closed is replaced once.
        if let Some(kept) = self.kept.take() {
            match self.exchange(kept, path, token, most, patience).await {
                Err(Error::Exchange(exchange::Error::Closed | exchange::Error::Io(_))) => {}
                other => return other,
            }
        }
        let stream = self.connect().await?;
        self.exchange(stream, path, token, most, patience).await
    }

    /// The files are read for each connection: they may have been replaced.
    async fn connect(&self) -> Result<Box<dyn Stream>, Error> {
        match &self.way {
            Way::Certificate { server, files } => {
                let loaded = files.load(&files.read()?, SystemTime::now())?;
                Ok(Box::new(connection(server, &loaded.tls, self.limit).await?))
            }
            Way::Token { host, port, .. } => {
                Ok(Box::new(connect::connect(host, *port, self.limit).await.map_err(Error::Connect)?))
            }
        }
    }

    async fn exchange(
        &mut self,
        mut stream: Box<dyn Stream>,
        path: &str,
        token: Option<&str>,
        most: usize,
        patience: Duration,
    ) -> Result<(Value, usize), Error> {
        let authority = match &self.way {
            Way::Certificate { server, .. } => &server.authority,
            Way::Token { authority, .. } => authority,
        };
        let limit = self.limit + patience;
        let (answer, body) = timeout(limit, exchange::get(&mut stream, authority, path, token, most))
            .await
            .map_err(|_| Error::Timeout { step: "waiting for the answer", after: limit })?
            .map_err(Error::of_exchange)?;
        if answer.reusable {
            self.kept = Some(stream);
        }
        if answer.status != 200 {
            return Err(Error::Refused(answer));
        }
        let value = serde_json::from_slice(&body).map_err(|error| Error::Malformed(error.to_string()))?;
        Ok((value, body.len()))
    }
}

fn read_token(file: &Path) -> Result<String, Error> {
    let bytes = files::read_secret(file).map_err(|error| Error::Token(file.to_owned(), error.to_string()))?;
    let token = bytes.trim_ascii();
    match !token.is_empty() && token.iter().all(u8::is_ascii_graphic) {
        true => Ok(String::from_utf8_lossy(token).into_owned()),
        false => Err(Error::Token(file.to_owned(), "it holds no token".to_owned())),
    }
}

/// One segment of a path, or one value of a query (RFC 3986, section 2.1).
pub fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            true => encoded.push(byte.into()),
            false => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// A person's state, the most troubling first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    Offline,
    Late,
    Unknown,
    Online,
    Never,
}

impl State {
    /// In the order of the counts.
    pub const ALL: [State; 5] = [State::Online, State::Late, State::Offline, State::Unknown, State::Never];

    pub const fn word(self) -> &'static str {
        match self {
            State::Offline => "offline",
            State::Late => "late",
            State::Unknown => "unknown",
            State::Online => "online",
            State::Never => "never",
        }
    }
}

impl FromStr for State {
    type Err = &'static str;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|state| state.word() == word);
        found.ok_or("the states are online, late, offline, unknown and never, separated by commas")
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A page of people, with all that stands around it.
pub struct Page {
    pub position: String,
    /// When the board looked, by its own clock.
    pub as_of: SystemTime,
    pub counts: Counts,
    pub servers: Vec<Server>,
    pub people: Vec<Value>,
    pub next: Option<String>,
}

impl Page {
    pub fn read(mut value: Value) -> Result<Self, Error> {
        let people = value.get_mut("people").map(Value::take);
        let Some(Value::Array(people)) = people else { return Err(missing("people")) };
        Ok(Self {
            position: text(&value, "position")?.to_owned(),
            as_of: time(&value, "as_of")?.ok_or_else(|| missing("as_of"))?,
            counts: Counts::read(&value["counts"])?,
            servers: Server::read(&value)?,
            people,
            next: value["next"].as_str().map(str::to_owned),
        })
    }
}

/// A server, and whether it could hear.
pub struct Server {
    pub name: String,
    pub hears: bool,
    pub since: Option<SystemTime>,
}

impl Server {
    fn read(value: &Value) -> Result<Vec<Self>, Error> {
        let servers = value["servers"].as_array().ok_or_else(|| missing("servers"))?;
        let server = |value: &Value| {
            Ok(Self {
                name: text(value, "name")?.to_owned(),
                hears: value["hears"].as_bool().ok_or_else(|| missing("hears"))?,
                since: time(value, "since")?,
            })
        };
        servers.iter().map(server).collect()
    }
}

/// How many are in each state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    of: [u64; State::ALL.len()],
    disabled: u64,
}

impl Counts {
    pub fn read(value: &Value) -> Result<Self, Error> {
        let count = |name: &str| value[name].as_u64().ok_or_else(|| missing(name));
        let mut of = [0; State::ALL.len()];
        for (count_of, state) in of.iter_mut().zip(State::ALL) {
            *count_of = count(state.word())?;
        }
        Ok(Self { of, disabled: count("disabled")? })
    }

    pub fn unknown(&self) -> u64 {
        State::ALL
            .iter()
            .zip(self.of)
            .filter(|(state, _)| **state == State::Unknown)
            .map(|(_, count)| count)
            .sum()
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<_> =
            self.of.iter().zip(State::ALL).map(|(count, state)| format!("{count} {state}")).collect();
        f.write_str(&words.join(", "))?;
        if self.disabled > 0 { write!(f, ", {} disabled", self.disabled) } else { Ok(()) }
    }
}

/// A person, as far as the table shows it.
pub struct Person {
    pub email: String,
    pub state: State,
    pub disabled: bool,
    pub since: Option<SystemTime>,
    pub last_seen: Option<SystemTime>,
    pub due: Option<SystemTime>,
    pub ip: Option<String>,
    /// The end of the certificate.
    pub not_after: Option<SystemTime>,
}

impl Person {
    pub fn read(value: &Value) -> Result<Self, Error> {
        Ok(Self {
            email: text(value, "email")?.to_owned(),
            state: state(value, "state")?.ok_or_else(|| missing("state"))?,
            disabled: value["disabled"].as_bool().unwrap_or(false),
            since: time(value, "since")?,
            last_seen: time(value, "last_seen")?,
            due: time(value, "due")?,
            ip: value["ip"].as_str().map(str::to_owned),
            not_after: time(&value["certificate"], "not_after")?,
        })
    }
}

/// The member of an object that is a text.
pub fn text<'a>(value: &'a Value, name: &str) -> Result<&'a str, Error> {
    value[name].as_str().ok_or_else(|| missing(name))
}

/// `None` where it is null.
pub fn state(value: &Value, name: &str) -> Result<Option<State>, Error> {
    match &value[name] {
        Value::Null => Ok(None),
        state => {
            let state = state.as_str().and_then(|word| word.parse().ok());
            state.map(Some).ok_or_else(|| Error::Malformed(format!("its {name:?} is no state that we know")))
        }
    }
}

/// `None` where it is null, or not there.
fn time(value: &Value, name: &str) -> Result<Option<SystemTime>, Error> {
    match &value[name] {
        Value::Null => Ok(None),
        time => {
            let time = time.as_str().and_then(|text| humantime::parse_rfc3339(text).ok());
            time.map(Some).ok_or_else(|| Error::Malformed(format!("its {name:?} is no time of RFC 3339")))
        }
    }
}

fn missing(name: &str) -> Error {
    Error::Malformed(format!("it has no {name:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn page() -> Value {
        json!({
            "position": "ab12.7", "as_of": "2026-11-28T23:00:00.5Z",
            "counts": {"online": 41, "late": 1, "offline": 1, "unknown": 0, "never": 3, "disabled": 0},
            "servers": [{"name": "host", "hears": false, "since": null}],
            "people": [{"email": "a@example.com", "state": "never"}], "next": null
        })
    }

    #[test]
    fn a_page_is_read() {
        let page = Page::read(page()).unwrap();
        assert_eq!((page.position.as_str(), page.next), ("ab12.7", None));
        assert_eq!(page.counts.to_string(), "41 online, 1 late, 1 offline, 0 unknown, 3 never");
        assert_eq!((page.servers[0].name.as_str(), page.servers[0].hears), ("host", false));
        let person = Person::read(&page.people[0]).unwrap();
        assert_eq!((person.state, person.due, person.not_after), (State::Never, None, None));
    }

    #[test]
    fn what_is_no_page_is_named() {
        type Spoil = fn(&mut Value);
        let cases: [(Spoil, &str); 9] = [
            (|page| *page = json!([]), "it has no \"people\""),
            (|page| *page = json!(null), "it has no \"people\""),
            (|page| page["people"] = json!({}), "it has no \"people\""),
            (|page| page["position"] = json!(7), "it has no \"position\""),
            (|page| page["as_of"] = json!(null), "it has no \"as_of\""),
            (|page| page["as_of"] = json!("yesterday"), "its \"as_of\" is no time of RFC 3339"),
            (|page| page["counts"]["late"] = json!(-1), "it has no \"late\""),
            (|page| page["servers"] = json!("host"), "it has no \"servers\""),
            (|page| page["servers"][0]["hears"] = json!(1), "it has no \"hears\""),
        ];
        for (spoil, why) in cases {
            let mut page = page();
            spoil(&mut page);
            let said = Page::read(page).err().unwrap().to_string();
            assert_eq!(said, format!("the board's answer is not understood: {why}"));
        }
        for (person, why) in [
            (json!({"state": "late"}), "it has no \"email\""),
            (json!({"email": "a@b", "state": "Late\u{1b}"}), "its \"state\" is no state that we know"),
            (json!({"email": "a@b", "state": "late", "due": 5}), "its \"due\" is no time of RFC 3339"),
        ] {
            let said = Person::read(&person).err().unwrap().to_string();
            assert_eq!(said, format!("the board's answer is not understood: {why}"));
        }
    }

    #[test]
    fn a_text_stays_one_segment() {
        assert_eq!(encoded("a/b?c=d&e%f#g@example.com"), "a%2Fb%3Fc%3Dd%26e%25f%23g%40example.com");
        assert_eq!(encoded("A.1-2_3~ \r\n\u{e9}"), "A.1-2_3~%20%0D%0A%C3%A9");
    }

    #[test]
    fn the_boards_own_port_has_an_address() {
        for (address, host, port) in [("127.0.0.1:8001", "127.0.0.1", 8001), ("[::1]:9", "::1", 9)] {
            let Ok(Way::Token { host: its, port: its_port, .. }) =
                Way::token(address.to_owned(), PathBuf::new())
            else {
                panic!("{address}")
            };
            assert_eq!((its.as_str(), its_port), (host, port));
        }
        for address in ["", "8001", ":8001", "localhost", "localhost:x", "a\r\nb:1", "unix:/run/board"] {
            assert!(Way::token(address.to_owned(), PathBuf::new()).is_err(), "{address:?}");
        }
    }
}
