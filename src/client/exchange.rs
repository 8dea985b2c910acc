//! One HTTP/1.1 request and its answer over a connected stream. The answer comes from a server that
//! proved its name, and is still read as if it were hostile: bounded, and nothing assumed.

use std::fmt;
use std::io;

use async_std::io::prelude::*;

use crate::cli::printable;

const USER_AGENT: &str = concat!("User-Agent: rollcall-client/", env!("CARGO_PKG_VERSION"), "\r\n");
const MAX_HEAD: usize = 16 * 1024;
const MAX_BODY: usize = 64 * 1024;
const READ: usize = 8 * 1024;

/// An answer, as far as the client acts on it.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub reason: String,
    /// `detail` and `by` of an RFC 9457 body; empty when there is none.
    pub detail: String,
    pub by: String,
    /// Seconds of `Retry-After`.
    pub retry_after: Option<u64>,
    /// Seconds of `Reannounce-After`: how often the server wants to hear from everybody.
    pub reannounce_after: Option<u64>,
    /// May the connection carry another request?
    pub reusable: bool,
}

/// Sends the PATCH, with the seconds until the next one if there will be one, and reads the answer.
pub async fn patch<S: Read + Write + Unpin>(
    stream: &mut S,
    authority: &str,
    path: &str,
    every_s: Option<u64>,
    keep: bool,
) -> Result<Answer, Error> {
    let connection = if keep { "keep-alive" } else { "close" };
    let every = every_s.map_or_else(String::new, |seconds| format!("Rollcall-Every: {seconds}\r\n"));
    let request = format!(
        "PATCH {path} HTTP/1.1\r\nHost: {authority}\r\n{USER_AGENT}Accept: application/problem+json\r\n\
         {every}Content-Length: 0\r\nConnection: {connection}\r\n\r\n"
    );
    Ok(send(stream, &request, MAX_BODY).await?.0)
}

/// Sends a body that is a text, and reads the answer and its body.
pub async fn post<S: Read + Write + Unpin>(
    stream: &mut S,
    authority: &str,
    path: &str,
    content_type: &str,
    body: &str,
) -> Result<(Answer, Vec<u8>), Error> {
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {authority}\r\n{USER_AGENT}Content-Type: {content_type}\r\n\
         Content-Transfer-Encoding: base64\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    send(stream, &request, MAX_BODY).await.map(|(answer, body)| (answer, body.unwrap_or_default()))
}

/// Asks for a document of at most so many bytes, with a token for those who have no certificate to show.
pub async fn get<S: Read + Write + Unpin>(
    stream: &mut S,
    authority: &str,
    path: &str,
    token: Option<&str>,
    most: usize,
) -> Result<(Answer, Vec<u8>), Error> {
    let token = token.map_or_else(String::new, |token| format!("Authorization: Bearer {token}\r\n"));
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {authority}\r\n{USER_AGENT}Accept: application/json\r\n{token}\
         Connection: keep-alive\r\n\r\n"
    );
    match send(stream, &request, most).await? {
        (answer, Some(body)) => Ok((answer, body)),
        // A refusal is one without its reason, too.
        (answer, None) if answer.status != 200 => Ok((answer, Vec::new())),
        (_, None) => Err(Error::NoEnd(most)),
    }
}

async fn send<S: Read + Write + Unpin>(
    stream: &mut S,
    request: &str,
    most: usize,
) -> Result<(Answer, Option<Vec<u8>>), Error> {
    // An answer may be waiting although the write fails: a refusal that closed the connection.
    let written = match stream.write_all(request.as_bytes()).await {
        Ok(()) => stream.flush().await,
        failed => failed,
    };
    match (read_answer(stream, most).await, written) {
        (Err(Error::Closed), Err(error)) => Err(Error::Io(error)),
        (answer, _) => answer,
    }
}

/// The body is `None` where it is longer than that, or its end is not known.
async fn read_answer<S: Read + Unpin>(
    stream: &mut S,
    most: usize,
) -> Result<(Answer, Option<Vec<u8>>), Error> {
    let mut received = Vec::with_capacity(1024);
    let (mut answer, body_start, body) = loop {
        match read_head(&received)? {
            // Informational (RFC 9110, section 15.2): the answer is still to come.
            Some((answer, len, _)) if matches!(answer.status, 100..=199) => {
                received.drain(..len);
                continue;
            }
            Some(head) => break head,
            None if received.len() >= MAX_HEAD => return Err(Error::TooLarge),
            None => {}
        }
        if read_some(stream, &mut received).await? == 0 {
            return Err(if received.is_empty() { Error::Closed } else { Error::Truncated });
        }
    };
    received.drain(..body_start);
    let body = match body {
        Body::Length(len) if len <= most => {
            read_to(stream, &mut received, len).await?;
            Some(received.drain(..len).collect())
        }
        Body::Chunked => read_chunks(stream, &mut received, most).await?,
        Body::Length(_) | Body::Unknown => None,
    };
    // Bytes that nobody asked for: the next answer on this connection could not be trusted.
    answer.reusable &= body.is_some() && received.is_empty();
    if answer.status >= 300 {
        answer.read_problem(body.as_deref().unwrap_or_default());
    }
    Ok((answer, body))
}

/// The chunks in one piece (RFC 9112, section 7.1), unless they are longer than that.
async fn read_chunks<S: Read + Unpin>(
    stream: &mut S,
    received: &mut Vec<u8>,
    most: usize,
) -> Result<Option<Vec<u8>>, Error> {
    let mut body = Vec::new();
    loop {
        let (line, size) = match httparse::parse_chunk_size(received) {
            Ok(httparse::Status::Complete(found)) => found,
            Ok(httparse::Status::Partial) => {
                read_line(stream, received).await?;
                continue;
            }
            Err(_) => return Err(Error::BadChunk),
        };
        received.drain(..line);
        if size == 0 {
            break;
        }
        let left = most - body.len();
        let Some(size) = usize::try_from(size).ok().filter(|size| *size <= left) else { return Ok(None) };
        read_to(stream, received, size + 2).await?;
        body.extend_from_slice(&received[..size]);
        if received[size..size + 2] != *b"\r\n" {
            return Err(Error::BadChunk);
        }
        received.drain(..size + 2);
    }
    // Trailers may follow.
    loop {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        if let httparse::Status::Complete((len, _)) =
            httparse::parse_headers(received, &mut headers).map_err(Error::NotHttp)?
        {
            received.drain(..len);
            return Ok(Some(body));
        }
        read_line(stream, received).await?;
    }
}

/// More of a line, or of some, that are not whole.
async fn read_line<S: Read + Unpin>(stream: &mut S, received: &mut Vec<u8>) -> Result<(), Error> {
    if received.len() >= MAX_HEAD {
        return Err(Error::TooLarge);
    }
    let len = received.len() + 1;
    read_to(stream, received, len).await
}

/// Until so many bytes are there.
async fn read_to<S: Read + Unpin>(stream: &mut S, received: &mut Vec<u8>, len: usize) -> Result<(), Error> {
    while received.len() < len {
        if read_some(stream, received).await? == 0 {
            return Err(Error::Truncated);
        }
    }
    Ok(())
}

async fn read_some<S: Read + Unpin>(stream: &mut S, received: &mut Vec<u8>) -> Result<usize, Error> {
    let mut chunk = [0; READ];
    let read = stream.read(&mut chunk).await.map_err(Error::Io)?;
    received.extend_from_slice(&chunk[..read]);
    Ok(read)
}

enum Body {
    Length(usize),
    Chunked,
    /// Until the end of the connection: of no interest beyond the status.
    Unknown,
}

/// The answer, where its body starts and where that ends; `None` while the head is incomplete.
fn read_head(received: &[u8]) -> Result<Option<(Answer, usize, Body)>, Error> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut headers);
    let body_start = match head.parse(received).map_err(Error::NotHttp)? {
        httparse::Status::Complete(len) => len,
        httparse::Status::Partial => return Ok(None),
    };
    let status = head.code.unwrap_or_default();
    let header = |name: &str| {
        let found = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.and_then(|header| std::str::from_utf8(header.value).ok())
    };
    let body = match (header("Transfer-Encoding"), header("Content-Length").map(str::parse)) {
        _ if matches!(status, 100..=199 | 204 | 304) => Body::Length(0),
        (Some(coding), None) if coding.eq_ignore_ascii_case("chunked") => Body::Chunked,
        (None, Some(Ok(len))) => Body::Length(len),
        _ => Body::Unknown,
    };
    let close = header("Connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    let answer = Answer {
        status,
        reason: printable(head.reason.unwrap_or_default()),
        detail: String::new(),
        by: String::new(),
        retry_after: header("Retry-After").and_then(|value| value.parse().ok()),
        reannounce_after: header("Reannounce-After").and_then(|value| value.parse().ok()),
        reusable: !close && head.version == Some(1),
    };
    Ok(Some((answer, body_start, body)))
}

impl Answer {
    /// A refusal that another try may not meet.
    pub fn is_for_now(&self) -> bool {
        matches!(self.status, 429 | 502..=504)
    }

    fn read_problem(&mut self, body: &[u8]) {
        let Ok(problem) = serde_json::from_slice::<serde_json::Value>(body) else { return };
        let text = |name: &str| printable(problem[name].as_str().unwrap_or_default());
        self.detail = text("detail");
        self.by = text("by");
    }
}

/// A refusal in words.
impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = if self.by.is_empty() { "the server" } else { &self.by };
        let word = if self.is_for_now() { "not now, says" } else { "refused by" };
        write!(f, "{word} {by} ({} {})", self.status, self.reason)?;
        if self.detail.is_empty() { Ok(()) } else { write!(f, ": {}", self.detail) }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection ended before the first byte of an answer.
    #[error("the connection was closed without an answer")]
    Closed,
    #[error("the connection was closed in the middle of the answer")]
    Truncated,
    #[error("the answer's headers are longer than {MAX_HEAD} bytes")]
    TooLarge,
    #[error("the answer's body has more than {0} bytes, or no end")]
    NoEnd(usize),
    #[error("the answer's body is damaged between two chunks")]
    BadChunk,
    #[error("the answer is not HTTP: {0}")]
    NotHttp(httparse::Error),
    #[error("{0}")]
    Io(io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_std::io::Cursor;
    use async_std::task::block_on;

    fn read(answer: &str) -> Result<Answer, Error> {
        read_whole(answer, MAX_BODY).map(|(answer, _)| answer)
    }

    fn read_whole(answer: &str, most: usize) -> Result<(Answer, Option<Vec<u8>>), Error> {
        block_on(read_answer(&mut Cursor::new(answer.as_bytes()), most))
    }

    #[test]
    fn chunks_become_one_body() {
        const HEAD: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n";
        for (chunks, most, body, reusable) in [
            ("0\r\n\r\n", 0, Some(""), true),
            ("3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nA: b\r\n\r\n", 5, Some("abcde"), true),
            ("3\r\nabc\r\n0\r\n\r\nmore", 5, Some("abc"), false),
            ("3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n", 5, None, false),
            ("7FFFFFFFFFFFFFFF\r\n", 5, None, false),
        ] {
            let (answer, came) = read_whole(&format!("{HEAD}{chunks}"), most).unwrap();
            assert_eq!((came.as_deref(), answer.reusable), (body.map(str::as_bytes), reusable), "{chunks:?}");
        }
        for (chunks, message) in [
            ("", "the connection was closed in the middle of the answer"),
            ("5\r\nhello", "the connection was closed in the middle of the answer"),
            ("0\r\n", "the connection was closed in the middle of the answer"),
            ("2\r\nabc\r\n", "the answer's body is damaged between two chunks"),
            ("-1\r\n", "the answer's body is damaged between two chunks"),
            ("FFFFFFFFFFFFFFFFF\r\n", "the answer's body is damaged between two chunks"),
        ] {
            let said = read_whole(&format!("{HEAD}{chunks}"), 5).unwrap_err().to_string();
            assert_eq!(said, message, "{chunks:?}");
        }
        for endless in [
            format!("1;{}", "x".repeat(100_000)),
            format!("0\r\nA: {}", "x".repeat(100_000)),
            "0".repeat(100),
        ] {
            assert!(read_whole(&format!("{HEAD}{endless}"), 5).is_err(), "{:?}", &endless[..9]);
        }
    }

    #[test]
    fn success_has_no_body() {
        let answer = read("HTTP/1.1 204 No Content\r\n\r\n").unwrap();
        assert_eq!((answer.status, answer.reason.as_str(), answer.reusable), (204, "No Content", true));
    }

    #[test]
    fn informational_answers_come_before_the_one() {
        let answer = read("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n").unwrap();
        assert_eq!((answer.status, answer.reusable), (204, true));
        assert!(matches!(read("HTTP/1.1 100 Continue\r\n\r\n"), Err(Error::Closed)));
    }

    #[test]
    fn a_refusal_is_read_with_its_reason() {
        let body = r#"{"detail":"it's \u001b not","by":"nginx"}"#;
        let answer = read(&format!(
            "HTTP/1.1 403 Forbidden\r\nContent-Length: {}\r\nRetry-After: 7\r\nConnection: close\r\n\r\n{body}",
            body.len()
        ))
        .unwrap();
        assert_eq!(answer.detail, r"it's \u{1b} not");
        assert_eq!((answer.by.as_str(), answer.retry_after, answer.reusable), ("nginx", Some(7), false));
    }

    #[test]
    fn hostile_answers_end_in_an_error() {
        for (answer, message) in [
            ("", "the connection was closed without an answer"),
            ("HTTP/1.1 204", "the connection was closed in the middle of the answer"),
            (
                "HTTP/1.1 403 No\r\nContent-Length: 10\r\n\r\nshort",
                "the connection was closed in the middle of the answer",
            ),
            ("SSH-2.0-OpenSSH_9.2\r\n", "the answer is not HTTP: invalid HTTP version"),
        ] {
            assert_eq!(read(answer).unwrap_err().to_string(), message, "{answer:?}");
        }
        let endless = format!("HTTP/1.1 204 No Content\r\nX: {}", "x".repeat(100_000));
        assert_eq!(
            read(&endless).unwrap_err().to_string(),
            "the answer's headers are longer than 16384 bytes"
        );
        for not_reusable in [
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\nuntil the end",
            "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
            "HTTP/1.0 204 No Content\r\n\r\n",
        ] {
            assert!(!read(not_reusable).unwrap().reusable, "{not_reusable:?}");
        }
    }
}
