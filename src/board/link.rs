//! `rollcall-board link`: asks the board that runs for a code, and prints the address of its page.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::Error;
use super::settings::Settings;

const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of an answer.
const MOST: u64 = 1 << 14;

pub fn print(settings: &Settings) -> Result<(), Error> {
    let token = settings.token()?;
    let listen = settings.listen;
    let request = format!(
        "POST /code HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        String::from_utf8_lossy(token.secret())
    );
    let answer = ask(listen, &request).map_err(|error| Error::Unreachable(listen, error))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let body: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    let Some(code) = body["code"].as_str().filter(|_| head.starts_with("HTTP/1.1 200 ")) else {
        let why = body["detail"].as_str().unwrap_or("its answer is not that of rollcall-board");
        return Err(Error::NoCode(listen, why.to_owned()));
    };
    let written = writeln!(io::stdout(), "http://{listen}/?code={code}");
    written.map_err(Error::Output)
}

fn ask(listen: SocketAddr, request: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&listen, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(MOST).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
