//! Version 2: the trailer that makes a datagram believable.
//!
//! | offset | field | size | meaning |
//! |---|---|---|---|
//! | 0 | magic | 2 | `52 43` ("RC") |
//! | 2 | version | 1 | 2 |
//! | 3 | kind | 1 | 0 = seen |
//! | 4 | key id | 4 | first four bytes of SHA-256 of the Ed25519 public key |
//! | 8 | epoch | 8 | when this server process started |
//! | 16 | sequence | 8 | 1, 2, 3, … within the epoch |
//! | 24 | index | 2 | this datagram's place in its batch, from 0 |
//! | 26 | count | 2 | datagrams in the batch, 1..=512 |
//! | 28 | path | 32 × k | the Merkle audit path |
//! | end-64 | signature | 64 | Ed25519 over epoch, count and root of the batch |
//!
//! A leaf is everything before the index. Index and count are not in it, and need not be: the index
//! decides how the path is walked, and the signature covers the count.

use std::ops::Range;

use byteorder::{BigEndian, ByteOrder, WriteBytesExt};

use super::datagram::MAX_DATAGRAM;
use super::merkle::{self, HASH_LEN, Hash, Tree};
use super::prefix::encode;
use super::status::Status;

pub const VERSION: u8 = 2;
/// Datagrams that one signature can serve.
pub const MAX_COUNT: u16 = 512;

/// The fields by their place in the trailer.
mod field {
    use super::Range;

    pub const KIND: usize = 3;
    pub const KEY_ID: Range<usize> = 4..8;
    pub const EPOCH: Range<usize> = 8..16;
    pub const SEQUENCE: Range<usize> = 16..24;
    pub const INDEX: Range<usize> = 24..26;
    pub const COUNT: Range<usize> = 26..28;
}

/// Bytes before the path.
const HEAD: usize = field::COUNT.end;
const SIGNATURE: usize = 64;
/// Bytes of the trailer in a full batch, whose paths have nine nodes.
pub(super) const MAX_TRAILER: usize = HEAD + 9 * HASH_LEN + SIGNATURE;

pub type KeyId = [u8; 4];
pub type SignatureBytes = [u8; SIGNATURE];

/// The bytes that the signature of a batch covers: `"rollcall/2 batch" ‖ 00 ‖ epoch ‖ count ‖ root`.
pub type BatchMessage = [u8; 17 + 8 + 2 + HASH_LEN];

fn batch_message(epoch: u64, count: u16, root: &Hash) -> BatchMessage {
    let mut message = *b"rollcall/2 batch\0EEEEEEEECCRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRR";
    BigEndian::write_u64(&mut message[17..25], epoch);
    BigEndian::write_u16(&mut message[25..27], count);
    message[27..].copy_from_slice(root);
    message
}

/// The meaning of an announcement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind(pub u8);

impl Kind {
    /// Somebody was seen.
    pub const SEEN: Kind = Kind(0);
}

/// The common part of the datagrams of one batch, and the status of each.
pub struct Batch<'a> {
    pub kind: Kind,
    pub key_id: KeyId,
    pub epoch: u64,
    /// The sequence of the first status; the others follow.
    pub first_sequence: u64,
    /// 1 to [`MAX_COUNT`] of them.
    pub statuses: &'a [Status],
}

/// Makes the datagrams of a batch, in the order of its statuses. `sign` is called once.
///
/// Panics when there are no statuses or more than [`MAX_COUNT`].
pub fn encode_batch(batch: &Batch, sign: impl FnOnce(&BatchMessage) -> SignatureBytes) -> Vec<Vec<u8>> {
    let count = u16::try_from(batch.statuses.len()).ok().filter(|count| (1..=MAX_COUNT).contains(count));
    let count = count.expect("a batch has 1 to 512 statuses");
    let mut datagrams: Vec<Vec<u8>> = batch
        .statuses
        .iter()
        .enumerate()
        .map(|(index, status)| {
            let mut out = Vec::with_capacity(MAX_DATAGRAM);
            encode(status, &mut out);
            out.extend_from_slice(&[b'R', b'C', VERSION, batch.kind.0]);
            out.extend_from_slice(&batch.key_id);
            out.write_u64::<BigEndian>(batch.epoch).expect("a Vec takes every write");
            out.write_u64::<BigEndian>(batch.first_sequence + index as u64).expect("a Vec takes every write");
            out
        })
        .collect();
    let tree = Tree::new(datagrams.iter().map(|bytes| merkle::leaf(bytes)).collect());
    let signature = sign(&batch_message(batch.epoch, count, &tree.root()));
    for (index, out) in (0..count).zip(&mut datagrams) {
        out.write_u16::<BigEndian>(index).expect("a Vec takes every write");
        out.write_u16::<BigEndian>(count).expect("a Vec takes every write");
        tree.path(index.into()).for_each(|node| out.extend_from_slice(node));
        out.extend_from_slice(&signature);
    }
    datagrams
}

/// The fields of a trailer that a server can have made.
#[derive(Debug)]
pub(super) struct Trailer<'a> {
    kind: Kind,
    key_id: KeyId,
    epoch: u64,
    sequence: u64,
    index: u16,
    count: u16,
    path: &'a [u8],
    signature: &'a SignatureBytes,
}

impl<'a> Trailer<'a> {
    /// `bytes` is the end of the datagram, from the magic on, which the caller has looked at.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Error> {
        let len = bytes.len();
        if len < HEAD + SIGNATURE {
            return Err(Error::Short { len });
        }
        let (head, tail) = bytes.split_at(HEAD);
        let (path, signature) = tail.split_last_chunk().ok_or(Error::Short { len })?;
        let sequence = BigEndian::read_u64(&head[field::SEQUENCE]);
        let index = BigEndian::read_u16(&head[field::INDEX]);
        let count = BigEndian::read_u16(&head[field::COUNT]);
        if sequence == 0 {
            return Err(Error::Sequence);
        }
        if !(1..=MAX_COUNT).contains(&count) {
            return Err(Error::Count { count });
        }
        if index >= count {
            return Err(Error::Index { index, count });
        }
        if path.len() != HASH_LEN * merkle::path_len(index, count) {
            return Err(Error::Path { len: path.len(), index, count });
        }
        let mut key_id = KeyId::default();
        key_id.copy_from_slice(&head[field::KEY_ID]);
        let (kind, epoch) = (Kind(head[field::KIND]), BigEndian::read_u64(&head[field::EPOCH]));
        Ok(Self { kind, key_id, epoch, sequence, index, count, path, signature })
    }
}

/// A version-2 datagram that nobody has verified. Only [`Claim::verify`] gives its content.
#[derive(Debug)]
pub struct Claim<'a> {
    status: Status,
    leaf: &'a [u8],
    trailer: Trailer<'a>,
}

impl<'a> Claim<'a> {
    /// In `datagram`, `prefix` bytes stand before the trailer.
    pub(super) fn new(datagram: &'a [u8], prefix: usize, status: Status, trailer: Trailer<'a>) -> Self {
        Self { status, leaf: &datagram[..prefix + field::INDEX.start], trailer }
    }

    /// Which key it says that it was signed with.
    pub fn key_id(&self) -> KeyId {
        self.trailer.key_id
    }

    /// Asks `believes` whether the signature is one over the batch that this datagram says it belongs to.
    /// If not, an unverified status is left.
    pub fn verify(
        self,
        believes: impl FnOnce(&BatchMessage, &SignatureBytes) -> bool,
    ) -> Result<Verified, Status> {
        let Self { status, leaf, trailer } = self;
        let Trailer { kind, epoch, sequence, index, count, path, signature, .. } = trailer;
        match merkle::root_of_path(merkle::leaf(leaf), index, count, path) {
            Some(root) if believes(&batch_message(epoch, count, &root), signature) => {
                Ok(Verified { status, kind, epoch, sequence })
            }
            _ => Err(status),
        }
    }

    /// For a listener without a key: the status, which nobody vouches for.
    pub fn into_unverified(self) -> Status {
        self.status
    }
}

/// The content of a datagram whose signature was verified; [`Claim::verify`] alone makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    status: Status,
    kind: Kind,
    epoch: u64,
    sequence: u64,
}

impl Verified {
    pub fn status(&self) -> &Status {
        &self.status
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    pub fn sequence(&self) -> u64 {
        self.sequence
    }
}

/// A trailer that no server makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("truncated trailer: {} bytes needed, {len} left", HEAD + SIGNATURE)]
    Short { len: usize },
    #[error("sequence 0: the first is 1")]
    Sequence,
    #[error("a batch of {count}: it has 1 to {MAX_COUNT}")]
    Count { count: u16 },
    #[error("index {index} in a batch of {count}")]
    Index { index: u16, count: u16 },
    #[error(
        "{len} bytes of audit path for index {index} of {count}, which has {}",
        HASH_LEN * merkle::path_len(*index, *count)
    )]
    Path { len: usize, index: u16, count: u16 },
}
