//! docs/wire.md as code: bytes and times in, bytes and verdicts out. No socket, no file, no clock, no log.
//!
//! A server numbers and signs its announcements with an [`announcer::Announcer`]; [`trailer::encode_batch`] makes the
//! datagrams of one batch, which share one signature. A listener hands each datagram to a [`judge::Judge`].
//! All integers are big-endian.

pub mod announcer;
pub mod datagram;
pub mod judge;
pub mod keys;
pub mod merkle;
pub mod prefix;
pub mod pseudonym;
mod roots;
pub mod status;
pub mod trailer;
pub mod window;

pub use datagram::{Datagram, MAX_DATAGRAM};
pub use prefix::{Error, MAX_PREFIX, decode, encode};
pub use trailer::{Batch, BatchMessage, Claim, KeyId, Kind, SignatureBytes, Verified, encode_batch};

#[cfg(test)]
mod tests;
