//! The prefix that every listener understands; a datagram of version 1 ends after it.
//!
//! | field | size | meaning |
//! |---|---|---|
//! | email length | 1 | bytes of the next field, 1..=254 |
//! | email | n | UTF-8 |
//! | last seen | 8 | unsigned, nanoseconds since the Unix epoch |
//! | ip length | 1 | bytes of the next field |
//! | ip | m | the client's address as text, IPv4 or IPv6 (RFC 5952) |
//! | port | 2 | the client's source port |

use std::net::IpAddr;

use byteorder::{BigEndian, ByteOrder, WriteBytesExt};

use super::status::{Email, EmailError, Status};

/// Bytes of the longest prefix: the longest email, and the longest text of an IPv6 address (39).
pub const MAX_PREFIX: usize = 1 + Email::MAX_LEN + 8 + 1 + 39 + 2;

/// How a test of `rollcall-server doctor` begins. 0xff says that an email of 255 bytes follows, one more than any has, and
/// fewer do follow: a listener of any version takes it for foreign and can make no status of it. The text is for people.
pub const TEST: &[u8] = b"\xffrollcall-server doctor ";

/// Appends the datagram that announces `status` to `out`.
pub fn encode(status: &Status, out: &mut Vec<u8>) {
    push_text(out, status.email.as_str());
    out.write_u64::<BigEndian>(status.last_seen_ns).expect("a Vec takes every write");
    push_text(out, &status.ip.to_string());
    out.write_u16::<BigEndian>(status.port).expect("a Vec takes every write");
}

fn push_text(out: &mut Vec<u8>, text: &str) {
    let len = u8::try_from(text.len()).expect("an Email has at most 254 bytes, an IP address at most 39");
    out.push(len);
    out.extend_from_slice(text.as_bytes());
}

/// Reads the fields from the front; also returns the bytes that follow them, which version 1 has not.
pub fn decode(datagram: &[u8]) -> Result<(Status, &[u8]), Error> {
    let mut reader = Reader { datagram, at: 0 };
    let email = reader.text(Field::EmailLength, Field::Email)?;
    let email = Email::new(email).map_err(Error::Email)?;
    let last_seen_ns = BigEndian::read_u64(reader.take(Field::LastSeen, 8)?);
    let ip = reader.text(Field::IpLength, Field::Ip)?;
    let ip: IpAddr = ip.parse().map_err(|_| Error::Ip(ip.to_owned()))?;
    let port = BigEndian::read_u16(reader.take(Field::Port, 2)?);
    Ok((Status { email, last_seen_ns, ip, port }, &datagram[reader.at..]))
}

/// A position in the datagram. Every length is compared with the bytes that are left before it is used.
struct Reader<'a> {
    datagram: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, field: Field, len: usize) -> Result<&'a [u8], Error> {
        let left = &self.datagram[self.at..];
        if left.len() < len {
            return Err(Error::Truncated { field, at: self.at, need: len, left: left.len() });
        }
        self.at += len;
        Ok(&left[..len])
    }

    fn text(&mut self, length: Field, field: Field) -> Result<&'a str, Error> {
        let len = usize::from(self.take(length, 1)?[0]);
        let bytes = self.take(field, len)?;
        std::str::from_utf8(bytes).map_err(|_| Error::NotUtf8 { field })
    }
}

/// A field of the prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    EmailLength,
    Email,
    LastSeen,
    IpLength,
    Ip,
    Port,
}

impl Field {
    fn name(self) -> &'static str {
        match self {
            Field::EmailLength => "email length",
            Field::Email => "email",
            Field::LastSeen => "last seen",
            Field::IpLength => "ip length",
            Field::Ip => "ip",
            Field::Port => "port",
        }
    }
}

/// Bytes that are no datagram of rollcall.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("truncated {} at byte {at}: {need} bytes needed, {left} left", field.name())]
    Truncated { field: Field, at: usize, need: usize, left: usize },
    #[error("the {} is not UTF-8", field.name())]
    NotUtf8 { field: Field },
    #[error(transparent)]
    Email(EmailError),
    #[error("not an IP address: {0:?}")]
    Ip(String),
    /// The bytes after the prefix are no trailer of rollcall.
    #[error("{len} unknown bytes follow the status")]
    Unknown { len: usize },
}
