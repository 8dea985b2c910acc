//! The datagram's bytes. `docs/wire.md` is the contract.
//!
//! Version 1 is the prefix that every listener understands:
//!
//! | field | size | meaning |
//! |---|---|---|
//! | email length | 1 | bytes of the next field, 1..=254 |
//! | email | n | UTF-8 |
//! | last seen | 8 | unsigned, nanoseconds since the Unix epoch |
//! | ip length | 1 | bytes of the next field |
//! | ip | m | the client's address as text, IPv4 or IPv6 (RFC 5952) |
//! | port | 2 | the client's source port |
//!
//! A version-1 datagram ends there. Version 2 adds a [`trailer`] that makes it believable: what
//! [`Datagram::decode`] finds there is a [`Claim`], and only [`Claim::verify`] makes it [`Verified`].
//! [`encode_batch`] makes the datagrams of one batch, which share one signature.
//!
//! All integers are big-endian. No socket, no clock, no log, and no keys: bytes in, values out.

use std::fmt;
use std::net::IpAddr;

use byteorder::{BigEndian, ByteOrder, WriteBytesExt};

use crate::status::{Email, EmailError, Status};

pub mod merkle;
pub mod trailer;

use trailer::Trailer;
pub use trailer::{Batch, BatchMessage, Claim, KeyId, Kind, SignatureBytes, Verified, encode_batch};

/// The longest datagram that there can be: the longest email and address, in a full batch.
pub const MAX_DATAGRAM: usize = MAX_PREFIX + trailer::MAX_TRAILER;
/// The contract, so that it fits one packet on every network.
const _: () = assert!(MAX_DATAGRAM <= 1_200);
/// Bytes of the longest prefix: the longest email, and the longest text of an IPv6 address (39).
pub const MAX_PREFIX: usize = 1 + Email::MAX_LEN + 8 + 1 + 39 + 2;

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

/// What a datagram says, before anybody has checked whether it is true.
#[derive(Debug)]
pub enum Datagram<'a> {
    /// Version 1: anybody on the network can have made it.
    Unsigned(Status),
    /// Version 2.
    Signed(Claim<'a>),
    /// It says that it is of version 2, and no server makes such a trailer.
    Broken(Status, trailer::Error),
}

impl<'a> Datagram<'a> {
    pub fn decode(datagram: &'a [u8]) -> Result<Self, Error> {
        let (status, rest) = decode(datagram)?;
        match rest {
            [] => Ok(Datagram::Unsigned(status)),
            [b'R', b'C', trailer::VERSION, ..] => Ok(match Trailer::decode(rest) {
                Ok(trailer) => {
                    Datagram::Signed(Claim::new(datagram, datagram.len() - rest.len(), status, trailer))
                }
                Err(error) => Datagram::Broken(status, error),
            }),
            _ => Err(Error::Unknown { len: rest.len() }),
        }
    }
}

/// A position in the datagram. Every length is compared with what is left before it is used.
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    EmailLength,
    Email,
    LastSeen,
    IpLength,
    Ip,
    Port,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Field::EmailLength => "email length",
            Field::Email => "email",
            Field::LastSeen => "last seen",
            Field::IpLength => "ip length",
            Field::Ip => "ip",
            Field::Port => "port",
        })
    }
}

/// Why bytes are not a datagram of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    Truncated {
        field: Field,
        at: usize,
        need: usize,
        left: usize,
    },
    NotUtf8 {
        field: Field,
    },
    Email(EmailError),
    Ip(String),
    /// What follows the prefix is not a trailer of ours.
    Unknown {
        len: usize,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Truncated { field, at, need, left } => {
                write!(f, "truncated {field} at byte {at}: {need} bytes needed, {left} left")
            }
            Error::NotUtf8 { field } => write!(f, "the {field} is not UTF-8"),
            Error::Email(error) => write!(f, "{error}"),
            Error::Ip(text) => write!(f, "not an IP address: {text:?}"),
            Error::Unknown { len } => write!(f, "{len} unknown bytes follow the status"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Email(error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
