//! A listener hears datagrams of two servers in any order, changed ones too, and restarts: nothing is news twice, and
//! only that which was signed is news.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use rollcall::keyfile::parse_signing_key;
use rollcall::protocol::judge::{Counters, Judge, Policy, Verdict};
use rollcall::protocol::keys::Signer;
use rollcall::protocol::status::{Email, Status};
use rollcall::protocol::{Batch, Kind, encode_batch};

use super::bytes::Bytes;

const NOW_NS: u64 = 1_795_456_442_000_000_000;

/// A key pair that everybody knows.
pub fn signer(seed: u8) -> Signer {
    let der = [&[0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20][..], &[seed; 32]];
    parse_signing_key(der.concat()).unwrap()
}

/// A server's number, its epoch, and a sequence in it.
type Number = (u8, u64, u64);

pub fn check(bytes: &[u8]) {
    let mut bytes = Bytes(bytes);
    let flags = bytes.byte();
    let signers = [signer(1), signer(2)];
    let policy = || Policy {
        keys: signers.iter().take(usize::from(flags % 3)).map(|signer| *signer.public()).collect(),
        accept_unverified: flags & 4 != 0,
        max_age: (flags & 8 != 0).then_some(Duration::from_secs(60)),
    };
    let began_ns = NOW_NS - u64::from(flags >> 4);
    let mut judge = Judge::new(policy(), Vec::new(), began_ns);
    let (mut heard, mut received, mut now) = (BTreeSet::new(), 0, Instant::now());
    while !bytes.is_empty() {
        match bytes.byte() {
            0..=0xdf => {
                let number = number(&mut bytes);
                let (mut datagram, status) = announced(&signers, number);
                let change = bytes.byte();
                let is_changed = change & 0xc0 == 0xc0;
                if is_changed {
                    let at = usize::from(bytes.byte()) % datagram.len();
                    datagram[at] ^= 1 << (change % 8);
                }
                received += 1;
                if let Verdict::New(announcement) = judge.judge(&datagram, NOW_NS) {
                    assert!(!is_changed, "it was signed otherwise");
                    assert_eq!(announcement.verified.status(), &status);
                    assert_eq!(announcement.key, *signers[usize::from(number.0)].public());
                    assert!(heard.insert(number), "{number:?} is news twice");
                }
            }
            0xe0..=0xef => {
                now += Duration::from_millis(u64::from(bytes.byte()) * 10);
                let missing = judge.counters().missing;
                assert!(judge.settle(now).iter().all(|gap| gap.missing <= missing));
            }
            0xf0..=0xf7 => {
                let len = usize::from(bytes.byte()).min(bytes.0.len());
                let (any, rest) = bytes.0.split_at(len);
                bytes.0 = rest;
                received += 1;
                assert!(!matches!(judge.judge(any, NOW_NS), Verdict::New(_)), "nobody signed it");
            }
            _ => {
                assert_counts(&judge.counters(), received);
                received = 0;
                judge.finish();
                judge = Judge::new(policy(), judge.memory(), began_ns);
            }
        }
    }
    assert_counts(&judge.counters(), received);
}

/// Each is counted once, by its first trait.
fn assert_counts(counters: &Counters, received: u64) {
    let Counters { new, duplicate, replayed, too_old, ahead, other_kind, foreign, .. } = counters;
    let sum = new + duplicate + replayed + too_old + ahead + other_kind + foreign + counters.unverified();
    assert_eq!((counters.received, sum), (received, received), "{counters}");
}

/// Near each other, so that they meet, and at times at the ends.
fn number(bytes: &mut Bytes) -> Number {
    let which = bytes.byte();
    let epoch = match which >> 1 & 7 {
        0 => bytes.number(),
        near => NOW_NS - 4 + u64::from(near),
    };
    let sequence = match which >> 4 {
        0 => bytes.number().clamp(1, u64::MAX - 1),
        1 => u64::MAX - 1 - u64::from(bytes.byte()),
        2..=6 => 1 + u64::from(u16::from_be_bytes(bytes.array())),
        _ => 1 + u64::from(bytes.byte()),
    };
    (which & 1, epoch, sequence)
}

/// Signing takes longer than all the rest.
fn announced(signers: &[Signer; 2], number @ (server, epoch, sequence): Number) -> (Vec<u8>, Status) {
    thread_local! {
        static MADE: RefCell<HashMap<Number, Vec<u8>>> = RefCell::default();
    }
    let status = Status {
        email: Email::new("a@example.com").unwrap(),
        last_seen_ns: NOW_NS.wrapping_sub(sequence.wrapping_mul(1_000_000_000) % 100_000_000_000),
        ip: [192, 0, 2, server].into(),
        port: sequence as u16,
    };
    let signer = &signers[usize::from(server)];
    let make = || {
        let batch = Batch {
            kind: Kind((sequence % 17 == 0).into()),
            key_id: signer.public().id(),
            epoch,
            first_sequence: sequence,
            statuses: std::slice::from_ref(&status),
        };
        encode_batch(&batch, |message| signer.sign(message)).remove(0)
    };
    let datagram = MADE.with_borrow_mut(|made| {
        if made.len() > 100_000 {
            made.clear();
        }
        made.entry(number).or_insert_with(make).clone()
    });
    (datagram, status)
}
