//! One HTTP/1.1 request and its answer over a connected stream. The answer comes from a server that
//! proved its name, and is still read as if it were hostile: bounded, and nothing assumed.

use std::fmt;
use std::io;

use async_std::io::prelude::*;

use crate::cli::printable;

const USER_AGENT: &str = concat!("User-Agent: rollcall-client/", env!("CARGO_PKG_VERSION"), "\r\n");
const MAX_HEAD: usize = 16 * 1024;
const MAX_BODY: usize = 64 * 1024;

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
    Ok(send(stream, &request).await?.0)
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
    send(stream, &request).await
}

async fn send<S: Read + Write + Unpin>(stream: &mut S, request: &str) -> Result<(Answer, Vec<u8>), Error> {
    // An answer may be waiting although the write fails: a refusal that closed the connection.
    let written = match stream.write_all(request.as_bytes()).await {
        Ok(()) => stream.flush().await,
        failed => failed,
    };
    match (read_answer(stream).await, written) {
        (Err(Error::Closed), Err(error)) => Err(Error::Io(error)),
        (answer, _) => answer,
    }
}

/// The body is empty where its length is not known.
async fn read_answer<S: Read + Unpin>(stream: &mut S) -> Result<(Answer, Vec<u8>), Error> {
    let mut received = Vec::with_capacity(1024);
    let (mut answer, body_start, body_len) = loop {
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
    match body_len {
        Body::Length(len) if len <= MAX_BODY => {
            while received.len() < body_start + len {
                if read_some(stream, &mut received).await? == 0 {
                    return Err(Error::Truncated);
                }
            }
            let body = received[body_start..body_start + len].to_vec();
            answer.read_problem(&body);
            // Bytes that nobody asked for: the next answer on this connection could not be trusted.
            answer.reusable &= received.len() == body_start + len;
            Ok((answer, body))
        }
        Body::Length(_) | Body::Unknown => {
            answer.reusable = false;
            Ok((answer, Vec::new()))
        }
    }
}

async fn read_some<S: Read + Unpin>(stream: &mut S, received: &mut Vec<u8>) -> Result<usize, Error> {
    let mut chunk = [0; 2048];
    let read = stream.read(&mut chunk).await.map_err(Error::Io)?;
    received.extend_from_slice(&chunk[..read]);
    Ok(read)
}

enum Body {
    Length(usize),
    /// Chunked, or until the end of the connection: of no interest beyond the status.
    Unknown,
}

/// The answer, where its body starts and how long that is; `None` while the head is incomplete.
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
    let body = match header("Content-Length").map(str::parse) {
        _ if matches!(status, 100..=199 | 204 | 304) => Body::Length(0),
        Some(Ok(len)) => Body::Length(len),
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
        block_on(read_answer(&mut Cursor::new(answer.as_bytes()))).map(|(answer, _)| answer)
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
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello",
            "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
            "HTTP/1.0 204 No Content\r\n\r\n",
        ] {
            assert!(!read(not_reusable).unwrap().reusable, "{not_reusable:?}");
        }
    }
}
