//! `rollcall-client who`: who is here, as the board says it. Once, or again and again ([`watch`](super::watch)).

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use async_std::task;
use serde_json::Value;

use super::board::{self, Board, Page, Person, State, Way, encoded};
use super::{Error, Options, files_and_server, jittered, replace, table, watch};
use crate::cli::{ArgsInfo, FromArgs, Timespan, here, printable_json, setting};

/// Between two tries for a page, and how many there are.
const BUSY: Duration = Duration::from_secs(1);
const PATIENCE: u32 = 10;

/// who is online, late, offline or unknown. Asks the board over nginx with the client's certificate; or, with
/// ROLLCALL_STATE and none of --cert, --key, --ca, --url and ROLLCALL_URL, on this host with the token of that folder
#[derive(ArgsInfo, FromArgs)]
#[argh(subcommand, name = "who")]
pub struct Who {
    /// only this person or device
    #[argh(positional)]
    pub email: Option<String>,
    /// only these states, separated by commas: online, late, offline, unknown, never
    #[argh(option)]
    pub state: Option<States>,
    /// go on: draw the table again and again on a terminal, and print each transition as a line elsewhere
    #[argh(switch)]
    pub watch: bool,
    /// one JSON object a line
    #[argh(switch)]
    pub json: bool,
    /// exit with 0 if all is well, 1 if somebody is late, 2 offline, 3 unknown or the board cannot be asked, as a
    /// plugin of Nagios does, and print the counts first
    #[argh(switch)]
    pub exit_code: bool,
    /// client certificate, as for a heartbeat
    #[argh(option)]
    cert: Option<PathBuf>,
    /// private key of the certificate
    #[argh(option)]
    key: Option<PathBuf>,
    /// certificate of the CA that signed the server's
    #[argh(option)]
    ca: Option<PathBuf>,
    /// https://HOST:PORT of the server; a path is that of heartbeats, and not used
    #[argh(option)]
    url: Option<String>,
    /// how long an answer may take (default 10s)
    #[argh(option)]
    timeout: Option<Timespan>,
}

/// States, separated by commas.
pub struct States(Vec<State>);

impl FromStr for States {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.split(',').map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

impl States {
    pub fn has(&self, state: State) -> bool {
        self.0.contains(&state)
    }
}

impl Who {
    /// The path of one person.
    pub fn path_of(email: &str) -> String {
        format!("/api/who/{}", encoded(email))
    }
}

/// The path of a page of those in these states, after this cursor.
pub fn page(states: Option<&States>, limit: usize, after: Option<&str>) -> String {
    let mut path = format!("/api/who?limit={limit}");
    if let Some(States(states)) = states {
        let words: Vec<_> = states.iter().map(|state| state.word()).collect();
        path += &format!("&state={}", words.join(","));
    }
    if let Some(after) = after {
        path += &format!("&after={}", encoded(after));
    }
    path
}

/// The answer, printed. Its exit code is that of `--exit-code`.
pub fn run(options: &Options, who: &Who) -> Result<ExitCode, Error> {
    if options.every.is_some() || options.renew {
        return Err(Error::Usage("--every and --renew are for heartbeats, and not for who"));
    }
    if who.watch && who.exit_code {
        return Err(Error::Usage("--watch goes on, and has no state to exit with: leave out --exit-code"));
    }
    if who.email.is_some() && who.state.is_some() {
        return Err(Error::Usage("--state chooses among all: leave out the email, or --state"));
    }
    if who.email.as_deref().is_some_and(|email| email.trim().is_empty()) {
        return Err(Error::Usage("the email is empty"));
    }
    let Timespan(limit) = who.timeout.unwrap_or(options.timeout);
    if limit.is_zero() {
        return Err(Error::NoTime);
    }
    let asked = way(options, who).map(|way| Board::new(way, limit)).and_then(|board| match who.watch {
        true => watch::run(board, who),
        false => task::block_on(once(board, who)),
    });
    match asked {
        // The reader of a pipe has seen enough.
        Err(Error::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        Err(error) if who.exit_code => {
            // Nagios shows standard output.
            writeln!(io::stdout(), "rollcall-client: {}", here(&error.to_string())).map_err(Error::Output)?;
            Ok(plugin_code([State::Unknown]))
        }
        asked => asked,
    }
}

/// On its own host the board is asked with the token, unless something says which certificate or server is meant.
fn way(options: &Options, who: &Who) -> Result<Way, Error> {
    let [cert, key, ca] = [(&who.cert, &options.cert), (&who.key, &options.key), (&who.ca, &options.ca)]
        .map(|(own, other)| own.as_ref().or(other.as_ref()));
    let url = who.url.as_ref().or(options.url.as_ref());
    let elsewhere: String = setting(None, "ROLLCALL_URL", "")?;
    let state: PathBuf = setting(None, "ROLLCALL_STATE", "")?;
    let is_named = [cert, key, ca].iter().any(Option::is_some) || url.is_some() || !elsewhere.is_empty();
    if is_named || state.as_os_str().is_empty() {
        let (files, server) = files_and_server(cert, key, ca, url)?;
        replace::complete(&files);
        return Ok(Way::Certificate { server: Box::new(server), files });
    }
    let address = setting(None, "ROLLCALL_BOARD_LISTEN", "127.0.0.1:8001")?;
    Way::token(address, state.join("board/token"))
}

async fn once(mut board: Board, who: &Who) -> Result<ExitCode, Error> {
    let coloured = is_coloured();
    if let Some(email) = &who.email {
        let (value, _) = board.get(&Who::path_of(email), board::MOST, Duration::ZERO).await?;
        let people = table::people(std::slice::from_ref(&value))?;
        let mut lines = match who.json {
            true => vec![json(&value)],
            false => table::table(&people, SystemTime::now(), coloured),
        };
        if who.exit_code && !who.json {
            // Nagios shows the first line.
            lines.remove(0);
        }
        print(&lines)?;
        return Ok(code(who, &people));
    }
    let mut people = Vec::new();
    let mut first = None;
    each_page(&mut board, who.state.as_ref(), |page| {
        let read = table::people(&page.people)?;
        if who.json {
            print(&page.people.iter().map(json).collect::<Vec<_>>())?;
        }
        people.extend(read);
        first.get_or_insert(page);
        Ok(())
    })
    .await?;
    if let (Some(page), false) = (first, who.json) {
        let mut lines = table::table(&people, page.as_of, coloured);
        lines.extend(table::foot(&page, page.as_of));
        // Nagios shows the first line.
        if who.exit_code {
            lines.rotate_right(1);
        }
        print(&lines)?;
    }
    Ok(code(who, &people))
}

/// Hands out the pages, one after the other.
pub async fn each_page(
    board: &mut Board,
    states: Option<&States>,
    mut take: impl FnMut(Page) -> Result<(), Error>,
) -> Result<(), Error> {
    let (mut after, mut left, mut patience) = (None, board::MOST, PATIENCE);
    loop {
        let path = page(states, board::PAGE, after.as_deref());
        let (value, len) = match board.get(&path, left, Duration::ZERO).await {
            // Many pages are more requests than nginx lets through at once.
            Err(Error::Refused(answer)) if answer.status == 429 && after.is_some() && patience > 0 => {
                task::sleep(jittered(BUSY)).await;
                patience -= 1;
                continue;
            }
            answer => answer?,
        };
        left -= len;
        patience = PATIENCE;
        let mut page = Page::read(value)?;
        after = page.next.take();
        if after.is_some() && page.people.is_empty() {
            return Err(Error::Malformed("a page of nobody has a next one".to_owned()));
        }
        take(page)?;
        if after.is_none() {
            return Ok(());
        }
    }
}

fn code(who: &Who, people: &[Person]) -> ExitCode {
    match who.exit_code {
        true => plugin_code(people.iter().filter(|person| !person.disabled).map(|person| person.state)),
        false => ExitCode::SUCCESS,
    }
}

/// The worst of them, as a plugin of Nagios says it: warning, critical, unknown.
fn plugin_code(states: impl IntoIterator<Item = State>) -> ExitCode {
    ExitCode::from(match states.into_iter().min() {
        Some(State::Offline) => 2,
        Some(State::Late) => 1,
        Some(State::Unknown) => 3,
        Some(State::Online | State::Never) | None => 0,
    })
}

pub fn json(value: &Value) -> String {
    printable_json(&value.to_string())
}

pub fn print(lines: &[String]) -> Result<(), Error> {
    let text: String = lines.iter().flat_map(|line| [line, "\n"]).collect();
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Error::Output)
}

/// Colours are for a terminal whose owner has not said otherwise.
pub fn is_coloured() -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    is_terminal() && !unwanted
}

pub fn is_terminal() -> bool {
    io::stdout().is_terminal() && std::env::var_os("TERM").is_some_and(|term| term != "dumb")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(arguments: &[&str]) -> Result<Who, String> {
        Who::from_args(&["who"], arguments).map_err(|early| early.output)
    }

    #[test]
    fn states_are_words_with_commas() {
        let states = who(&["--state", "late,offline"]).unwrap().state.unwrap();
        assert_eq!(page(Some(&states), 5, None), "/api/who?limit=5&state=late,offline");
        assert_eq!(page(None, 5, Some("a b&")), "/api/who?limit=5&after=a%20b%26");
        assert!(states.has(State::Late) && !states.has(State::Online));
        for wrong in ["", "Late", "late,", "late offline", "late,\u{1b}"] {
            let said = super::tests::who(&["--state", wrong]).err().unwrap();
            assert!(said.contains("the states are online, late, offline, unknown and never"), "{said}");
        }
    }

    #[test]
    fn the_worst_state_is_the_exit_code() {
        use State::{Late, Never, Offline, Online, Unknown};
        let code = |states: &[State]| format!("{:?}", plugin_code(states.iter().copied()));
        for (states, expected) in [
            (&[][..], 0),
            (&[Online, Never], 0),
            (&[Online, Unknown], 3),
            (&[Unknown, Late, Online], 1),
            (&[Late, Offline, Unknown], 2),
        ] {
            assert_eq!(code(states), format!("{:?}", ExitCode::from(expected)), "{states:?}");
        }
    }
}
