//! A TLS session that is kept in a file and resumed.

use crate::stack::{Answer, Pair, Stack};

/// One PATCH through `openssl s_client`; `-sess_out FILE` and `-sess_in FILE` keep and resume a session. Was it resumed?
#[track_caller]
pub fn patch(stack: &Stack, pair: &Pair, options: &[&str]) -> (bool, Answer) {
    let request = "PATCH /api/client HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let mut running = stack.over_tls(Some(pair), &[&["-ign_eof"], options].concat(), request.as_bytes());
    running.exit();
    let out = running.out();
    let start = out.find("HTTP/1.1 ").unwrap_or_else(|| panic!("no answer: {out} {}", running.err()));
    // After the answer s_client adds its own lines; the body is one line of JSON.
    let (head, body) = out[start..].split_once("\r\n\r\n").unwrap();
    let body = body.split_once('\n').map_or(body, |(line, _)| line);
    let end = body.rfind('}').map_or(0, |end| end + 1);
    (out.contains("Reused, TLS"), Answer::parse(&format!("{head}\r\n\r\n{}", &body[..end])))
}
