//! Writes the test vectors of the datagram: `cargo run --example wire_vectors >docs/wire-vectors.json`.
//!
//! Every key and number is fixed, and Ed25519 has no randomness, so the same bytes come out each time;
//! tests/wire_vectors.rs compares them with the file.

use rollcall::keyfile;
use rollcall::protocol::announcer::Announcer;
use rollcall::protocol::keys::PublicKey;
use rollcall::protocol::status::{Email, Status};
use rollcall::protocol::{self, Batch, Kind, encode_batch, merkle};
use serde_json::{Value, json};

/// For tests only: everybody knows them. The seeds are 32 times `07`, and 32 times `09`.
const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\n\
    MC4CAQAwBQYDK2VwBCIEIAcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH\n-----END PRIVATE KEY-----\n";
const OTHER: &str = "-----BEGIN PRIVATE KEY-----\n\
    MC4CAQAwBQYDK2VwBCIEIAkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJ\n-----END PRIVATE KEY-----\n";

const EPOCH: u64 = 1_795_456_400_000_000_000;
/// The members that are written down of a large batch: both ends, and both sides of the middle.
const OF_512: [usize; 6] = [0, 1, 255, 256, 510, 511];

fn main() {
    println!("{}", serde_json::to_string_pretty(&vectors()).expect("a Value is JSON"));
}

pub fn vectors() -> Value {
    let signer = || keyfile::parse_signing_key(PRIVATE).expect("the constant is a key");
    let mut announcer = Announcer::new(signer(), EPOCH);
    let mut next = 0;
    let batches: Vec<(usize, u64, Vec<Vec<u8>>)> = [1, 2, 3, 7, 512]
        .into_iter()
        .map(|count| {
            let statuses: Vec<Status> = (next..next + count).map(status).collect();
            next += count;
            (count, (next - count) as u64 + 1, announcer.announce(&statuses))
        })
        .collect();
    let seven = &batches[3].2;
    let public = signer();
    json!({
        "about": "Test vectors of docs/wire.md. Binary is hexadecimal; numbers of 64 bits are strings. The keys \
            are public, and for tests only. Regenerate: cargo run --example wire_vectors",
        "key": {
            "private_pem": PRIVATE,
            "public_pem": public_pem(public.public()),
            "public": hex::encode(public.public().as_bytes()),
            "id": public.public().to_string(),
        },
        "version_1": version_1(),
        "version_2": batches.iter().map(|(count, first, datagrams)| batch(*count, *first, datagrams)).collect::<Vec<_>>(),
        "forged": forged(seven),
        "replay": replay(seven, &batches[4].2[511]),
    })
}

fn status(i: usize) -> Status {
    let (email, ip) = match i % 3 {
        0 => (format!("user{i}@example.com"), format!("192.0.2.{}", i % 250 + 1)),
        1 => (format!("a+tag{i}@qt-test.com"), format!("2001:db8::{i:x}")),
        _ => {
            (format!("{}{i}@{}.example", "l".repeat(40), "d".repeat(60)), format!("2001:db8:1:2:3:4:5:{i:x}"))
        }
    };
    Status {
        email: Email::new(&email).expect("these are addresses"),
        last_seen_ns: EPOCH + 1_000_000_007 * i as u64,
        ip: ip.parse().expect("these are addresses"),
        port: 40_000 + i as u16,
    }
}

fn described(datagram: &[u8], status: &Status) -> Value {
    json!({
        "datagram": hex::encode(datagram),
        "email": status.email.as_str(),
        "last_seen_ns": status.last_seen_ns.to_string(),
        "ip": status.ip.to_string(),
        "port": status.port,
    })
}

fn version_1() -> Vec<Value> {
    let longest = format!("{}@{}.{}.{}", "l".repeat(64), "d".repeat(63), "e".repeat(63), "f".repeat(61));
    let walkthrough = |email: &str, last_seen_ns, ip: &str, port| Status {
        email: Email::new(email).expect("these are addresses"),
        last_seen_ns,
        ip: ip.parse().expect("these are addresses"),
        port,
    };
    [
        walkthrough("valid_user@qt-test.com", 1_795_456_442_123_456_789, "127.0.0.1", 62453),
        walkthrough("a@b", 0, "::", 0),
        walkthrough(&longest, u64::MAX, "2001:1db8:1111:2222:3333:4444:5555:6666", 65535),
    ]
    .iter()
    .map(|status| {
        let mut datagram = Vec::new();
        protocol::encode(status, &mut datagram);
        described(&datagram, status)
    })
    .collect()
}

fn batch(count: usize, first: u64, datagrams: &[Vec<u8>]) -> Value {
    let tree = merkle::Tree::new(
        datagrams.iter().map(|bytes| merkle::leaf(&bytes[..trailer(bytes) + 24])).collect(),
    );
    let members = datagrams.iter().enumerate().filter(|(i, _)| count < 512 || OF_512.contains(i));
    let members = members.map(|(i, datagram)| {
        let (status, _) = protocol::decode(datagram).expect("it was encoded here");
        let mut member = described(datagram, &status);
        member["index"] = json!(i);
        member["sequence"] = json!((first + i as u64).to_string());
        member
    });
    json!({
        "count": count,
        "epoch": EPOCH.to_string(),
        "first_sequence": first.to_string(),
        "root": hex::encode(tree.root()),
        "signature": hex::encode(&datagrams[0][datagrams[0].len() - 64..]),
        "members": members.collect::<Vec<_>>(),
    })
}

/// Datagrams that a listener with the key and nothing else must refuse.
fn forged(seven: &[Vec<u8>]) -> Vec<Value> {
    let changed = |why: &str, verdict: &str, at: usize, bytes: &[u8]| {
        let mut datagram = seven[2].clone();
        let at = trailer(&datagram) + at;
        datagram[at..][..bytes.len()].copy_from_slice(bytes);
        json!({ "why": why, "verdict": verdict, "datagram": hex::encode(&datagram) })
    };
    let one = seven[2].as_slice();
    let mut email = one.to_vec();
    email[1] = b'x';
    let mut signature = one.to_vec();
    *signature.last_mut().expect("it has a signature") ^= 1;
    let spliced = [&one[..trailer(one)], &seven[3][trailer(&seven[3])..]].concat();
    let other = keyfile::parse_signing_key(OTHER).expect("the constant is a key");
    let impostor = encode_batch(
        &Batch {
            kind: Kind::SEEN,
            key_id: keyfile::parse_signing_key(PRIVATE).expect("the constant is a key").public().id(),
            epoch: EPOCH,
            first_sequence: 1000,
            statuses: &[status(0)],
        },
        |message| other.sign(message),
    );
    let stranger = Announcer::new(other, EPOCH).announce(&[status(0)]);
    let mut broken_stranger = stranger[0].clone();
    let sequence = trailer(&broken_stranger) + 16;
    broken_stranger[sequence..][..8].fill(0);
    vec![
        json!({ "why": "the email is another", "verdict": "forged", "datagram": hex::encode(&email) }),
        json!({ "why": "one bit of the signature is flipped", "verdict": "forged", "datagram": hex::encode(&signature) }),
        json!({ "why": "the prefix of one and the trailer of another", "verdict": "forged", "datagram": hex::encode(&spliced) }),
        json!({ "why": "the trailer is cut off: version 1", "verdict": "unsigned", "datagram": hex::encode(&one[..trailer(one)]) }),
        json!({ "why": "another key under our key id", "verdict": "forged", "datagram": hex::encode(&impostor[0]) }),
        json!({ "why": "another key under its own id", "verdict": "unknown key", "datagram": hex::encode(&stranger[0]) }),
        json!({ "why": "another key under its own id, and sequence 0", "verdict": "forged", "datagram": hex::encode(&broken_stranger) }),
        json!({ "why": "a trailer of 91 bytes", "verdict": "forged", "datagram": hex::encode(&one[..trailer(one) + 91]) }),
        json!({ "why": "nothing after the version", "verdict": "forged", "datagram": hex::encode(&one[..trailer(one) + 3]) }),
        json!({ "why": "nothing after the magic", "verdict": "foreign", "datagram": hex::encode(&one[..trailer(one) + 2]) }),
        changed("another kind", "forged", 3, &[1]),
        changed("another epoch", "forged", 8, &(EPOCH + 1).to_be_bytes()),
        changed("a huge sequence", "forged", 16, &u64::MAX.to_be_bytes()),
        changed("sequence 0", "forged", 16, &[0; 8]),
        changed("index 3 instead of 2", "forged", 24, &[0, 3]),
        changed("index 7 of 7", "forged", 24, &[0, 7]),
        changed("count 8 instead of 7, whose path is as long", "forged", 26, &[0, 8]),
        changed("count 0", "forged", 26, &[0, 0]),
        changed("count 513", "forged", 26, &[2, 1]),
        changed("version 3", "foreign", 2, &[3]),
        changed("another magic", "foreign", 0, b"XX"),
        json!({ "why": "a Tuya device", "verdict": "foreign", "datagram": "000055aa00000000000000130000000c00000000" }),
        prefix("an empty email", b"", b"192.0.2.1"),
        prefix("an email without a domain", b"a@", b"192.0.2.1"),
        prefix("an email with a control character", b"a\x1bb@c", b"192.0.2.1"),
        prefix(
            "an email of 255 bytes",
            &[&[b'l'; 64][..], b"@", &b"d.".repeat(94), b"dd"].concat(),
            b"192.0.2.1",
        ),
        prefix("an email that is not ASCII", "\u{e9}@c".as_bytes(), b"192.0.2.1"),
        prefix("an IPv6 address with a zone", b"a@b", b"fe80::1%1"),
        prefix("no IP address", b"a@b", b""),
    ]
}

/// A status that is none, in a datagram of version 1.
fn prefix(why: &str, email: &[u8], ip: &[u8]) -> Value {
    let len = |bytes: &[u8]| [u8::try_from(bytes.len()).expect("these are short")];
    let datagram = [&len(email), email, &EPOCH.to_be_bytes(), &len(ip), ip, &[0, 7]].concat();
    json!({ "why": why, "verdict": "foreign", "datagram": hex::encode(&datagram) })
}

/// A listener with the key hears these one after the other, and nothing before.
fn replay(seven: &[Vec<u8>], last_of_512: &[u8]) -> Vec<Value> {
    let signer = keyfile::parse_signing_key(PRIVATE).expect("the constant is a key");
    let key_id = signer.public().id();
    let far = Batch { kind: Kind::SEEN, key_id, epoch: EPOCH, first_sequence: 4106, statuses: &[status(1)] };
    let far = encode_batch(&far, |message| signer.sign(message)).remove(0);
    let before =
        Announcer::new(keyfile::parse_signing_key(PRIVATE).expect("the constant is a key"), EPOCH - 1)
            .announce(&[status(2)])
            .remove(0);
    let after = Announcer::new(signer, EPOCH + 1).announce(&[status(3)]).remove(0);
    [
        (&seven[3][..], "new", "sequence 10"),
        (&seven[3], "duplicate", "the same again"),
        (&before, "replayed", "of an epoch before"),
        (last_of_512, "new", "sequence 525: the 514 between are missing"),
        (&seven[4], "new", "sequence 11, late: 513 are missing"),
        (&far, "new", "sequence 4106: another 3580 are missing"),
        (&seven[3], "replayed", "sequence 10 again, which the window no longer holds"),
        (&seven[4], "duplicate", "sequence 11 again, which it does"),
        (&after, "new", "a new epoch"),
        (&seven[5], "replayed", "sequence 12 of the epoch that is over, which never came before"),
    ]
    .map(|(datagram, verdict, why)| json!({ "why": why, "verdict": verdict, "datagram": hex::encode(datagram) }))
    .to_vec()
}

/// Where the trailer starts.
fn trailer(datagram: &[u8]) -> usize {
    datagram.len() - protocol::decode(datagram).expect("it was encoded here").1.len()
}

fn public_pem(key: &PublicKey) -> String {
    // SubjectPublicKeyInfo is 12 bytes and the key: 44 bytes, 60 digits of base64.
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let der = [&b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00"[..], key.as_bytes(), &[0]].concat();
    let digits: String = der
        .chunks(3)
        .flat_map(|bytes| {
            let bits = bytes.iter().fold(0, |bits, byte| bits << 8 | usize::from(*byte));
            [18, 12, 6, 0].map(|shift| char::from(DIGITS[bits >> shift & 63]))
        })
        .collect();
    format!("-----BEGIN PUBLIC KEY-----\n{}=\n-----END PUBLIC KEY-----\n", &digits[..59])
}
