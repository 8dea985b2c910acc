//! Questions over HTTP, and their answers.

use std::io::{Read, Write};

use super::{Pair, Stack};
use crate::program::{PATIENCE, text};

/// One answer over HTTP.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    #[track_caller]
    pub fn parse(text: &str) -> Self {
        let text = text.strip_prefix("HTTP/1.1 100 Continue\r\n\r\n").unwrap_or(text);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("not an answer: {text:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head: head.to_owned(), body: body.to_owned() }
    }

    /// The `detail` of a problem body, which must be one that a program can read.
    #[track_caller]
    pub fn detail(&self) -> String {
        assert!(
            self.head.contains("Content-Type: application/problem+json")
                || self.head.contains("content-type: application/problem+json"),
            "{self:?}"
        );
        let problem: serde_json::Value = serde_json::from_str(&self.body).unwrap();
        assert_eq!(problem["status"], self.status, "{self:?}");
        problem["detail"].as_str().unwrap().to_owned()
    }
}

impl Stack {
    /// The answer of nginx to curl.
    #[track_caller]
    pub fn curl(&self, pair: Option<&Pair>, arguments: &[&str]) -> Answer {
        let mut command = self.command("curl");
        if let Some(pair) = pair {
            command.arg("--cert").arg(&pair.cert).arg("--key").arg(&pair.key);
        }
        let path =
            if arguments.last().is_some_and(|last| last.starts_with('/')) { "" } else { "/api/client" };
        let (options, last) = match arguments.split_last() {
            Some((last, options)) if path.is_empty() => (options, *last),
            _ => (arguments, path),
        };
        let url = format!("{}{last}", self.url());
        command
            .args(["-sS", "--max-time", "30", "-i", "-X", "PATCH", "--cacert"])
            .arg(self.certs.join("ca.crt"));
        let output = command.args(options).arg(url).output().unwrap();
        assert!(output.status.success(), "curl {arguments:?}: {}", text(&output));
        Answer::parse(&String::from_utf8_lossy(&output.stdout))
    }

    /// Bytes straight to the server's own port, and everything that it answers until it closes.
    #[track_caller]
    pub fn to_server(&self, request: &[u8]) -> String {
        let mut stream = std::net::TcpStream::connect(&self.listen).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // It may answer and close before all was written: only the answer counts.
        let _ = stream.write_all(request);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }
}
