//! The one request that nearly all are, read where it lies: no header is copied and nothing is allocated for one.
//!
//! Only the exact bytes that our nginx writes are taken (`nginx/rollcall.conf.in`): anything else is left to async-h1,
//! which reads it as if this had never looked. So no request is taken for another by the two.

use super::identity::Forwarded;

/// The headers of a whole request without a body, if it begins with this line and is all that there is in these bytes:
/// each header once, each by the name that nginx writes, each value plain.
pub fn read<'a>(line: &str, bytes: &'a [u8]) -> Option<Forwarded<'a>> {
    let mut rest = str::from_utf8(bytes).ok()?.strip_prefix(line)?.strip_prefix("\r\n")?;
    let mut forwarded = Forwarded::default();
    let (mut host, mut length) = (false, false);
    loop {
        // A lone CR or LF is in no plain value and in no name.
        let (header, after) = rest.split_once('\n')?;
        let header = header.strip_suffix('\r')?;
        rest = after;
        if header.is_empty() {
            break;
        }
        let (name, value) = header.split_once(':')?;
        let value = value.strip_prefix(' ')?;
        let is_plain = value.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        if !is_plain || value.is_empty() || value.starts_with(' ') || value.ends_with(' ') {
            return None;
        }
        match (name, value) {
            ("Host", "rollcall") if !host => host = true,
            ("Content-Length", "0") if !length => length = true,
            _ => {
                let header = forwarded.header(name).filter(|header| header.is_none())?;
                header.push(value);
            }
        }
    }
    (host && length && rest.is_empty()).then_some(forwarded)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "PATCH /api/client HTTP/1.1";
    const REQUEST: &str = "PATCH /api/client HTTP/1.1\r\nHost: rollcall\r\nContent-Length: 0\r\n\
                           X-Subject-CN: a@b\r\nX-Client-Not-After: Nov  3 19:50:56 2027 GMT\r\n\r\n";

    #[test]
    fn the_request_of_nginx_is_read() {
        let forwarded = read(LINE, REQUEST.as_bytes()).unwrap();
        assert_eq!(forwarded.subject_cn.one(), Some("a@b"));
        assert_eq!(forwarded.not_after.one(), Some("Nov  3 19:50:56 2027 GMT"));
        assert!(forwarded.real_ip.is_none());
    }

    #[test]
    fn the_configuration_of_nginx_sends_nothing_else() {
        let configuration = include_str!("../../nginx/rollcall.conf.in");
        let (_, location) = configuration.split_once("location = /api/client {").unwrap();
        let (location, _) = location.split_once("proxy_pass http://clerk/api/client;").unwrap();
        let headers =
            location.lines().filter_map(|line| line.split_once("proxy_set_header ")).map(|(_, header)| {
                let (name, value) = header.trim_end_matches(';').split_once(' ').unwrap();
                let value = value.trim();
                (name, if value.starts_with(['$', '@']) { "x" } else { value })
            });
        // nginx does not send a header that is empty.
        let sent: String = headers
            .filter(|(_, value)| *value != "\"\"")
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        let request = format!("{LINE}\r\n{sent}\r\n");
        assert!(sent.lines().count() > 10 && read(LINE, request.as_bytes()).is_some(), "{request}");
    }

    #[test]
    fn anything_else_is_left_alone() {
        for end in 0..REQUEST.len() {
            assert!(read(LINE, &REQUEST.as_bytes()[..end]).is_none(), "the first {end} bytes");
        }
        for (from, to) in [
            ("PATCH", "patch"),
            ("PATCH", "POST"),
            ("/api/client", "/api/client?a"),
            ("/api/client", "/api/client/"),
            ("/api/client", "//api/client"),
            ("HTTP/1.1", "HTTP/1.0"),
            ("HTTP/1.1\r\n", "HTTP/1.1\n"),
            ("Host: rollcall\r\n", ""),
            ("Host: rollcall", "Host: other"),
            ("Host: rollcall", "Host: rollcall\r\nHost: rollcall"),
            ("Content-Length: 0\r\n", ""),
            ("Content-Length: 0", "Content-Length: 1"),
            ("Content-Length: 0", "Content-Length: 00"),
            ("Content-Length: 0", "Content-Length: +0"),
            ("Content-Length: 0", "Content-Length: 0, 0"),
            ("Content-Length: 0", "Content-Length: 0\r\nContent-Length: 0"),
            ("Content-Length: 0", "Content-Length: 0\r\nTransfer-Encoding: chunked"),
            ("Content-Length: 0", "Content-Length: 0\r\nConnection: close"),
            ("Content-Length: 0", "Content-Length: 0\r\nExpect: 100-continue"),
            ("Content-Length: 0", "Content-Length: 0\n"),
            ("Content-Length: 0\r\n", "Content-Length: 0\n"),
            ("Content-Length: 0\r\n", "Content-Length: 0\r"),
            ("X-Subject-CN", "x-subject-cn"),
            ("X-Subject-CN", "X-Subject-CN "),
            ("X-Subject-CN", " X-Subject-CN"),
            ("X-Subject-CN: a@b", "X-Subject-CN:a@b"),
            ("X-Subject-CN: a@b", "X-Subject-CN:  a@b"),
            ("X-Subject-CN: a@b", "X-Subject-CN: a@b "),
            ("X-Subject-CN: a@b", "X-Subject-CN: a@b\r\n c"),
            ("X-Subject-CN: a@b", "X-Subject-CN: a@b\n"),
            ("X-Subject-CN: a@b", "X-Subject-CN: a\t@b"),
            ("X-Subject-CN: a@b", "X-Subject-CN: a\u{e9}@b"),
            ("X-Subject-CN: a@b", "X-Subject-CN: "),
            ("X-Subject-CN: a@b", "X-Subject-CN: a@b\r\nX-Subject-CN: c@d"),
            ("\r\n\r\n", "\r\n\r\nx"),
            ("\r\n\r\n", "\r\n\r\n\r\n"),
            ("\r\n\r\n", "\r\n\r\nPATCH /api/client HTTP/1.1\r\n"),
        ] {
            let other = REQUEST.replacen(from, to, 1);
            assert_ne!(other, REQUEST);
            assert!(read(LINE, other.as_bytes()).is_none(), "{other:?}");
        }
        assert!(read(LINE, &REQUEST.repeat(2).into_bytes()).is_none());
    }
}
