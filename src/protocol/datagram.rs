//! One datagram of either version. [`Datagram::decode`] finds a [`Claim`] in the trailer of version 2; only
//! [`Claim::verify`] makes it [`Verified`](super::Verified).

use super::prefix::{self, Error, MAX_PREFIX};
use super::status::Status;
use super::trailer::{self, Claim, Trailer};

/// Bytes of the longest datagram: the longest email and address, in a full batch.
pub const MAX_DATAGRAM: usize = MAX_PREFIX + trailer::MAX_TRAILER;
/// The contract, so that it fits one packet on every network.
const _: () = assert!(MAX_DATAGRAM <= 1_200);

/// The content of a datagram, before anybody has verified it.
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
        let (status, rest) = prefix::decode(datagram)?;
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
