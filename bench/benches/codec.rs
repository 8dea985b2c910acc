//! Our codec beside three that somebody might have taken instead, on the same status: time to encode and
//! to decode, and the size of what goes over the network.
//!
//! Each is used as it would be: the email and the address arrive as values of rollcall's own types and
//! leave as such, checks included, because a listener needs them checked whoever did the decoding.

use std::hint::black_box;
use std::net::IpAddr;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use prost::Message;
use rollcall::protocol;
use rollcall::protocol::status::{Email, Status};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct SerdeStatus<'a> {
    #[serde(borrow)]
    email: &'a str,
    last_seen_ns: u64,
    ip: IpAddr,
    port: u16,
}

impl<'a> From<&'a Status> for SerdeStatus<'a> {
    fn from(status: &'a Status) -> Self {
        Self {
            email: status.email.as_str(),
            last_seen_ns: status.last_seen_ns,
            ip: status.ip,
            port: status.port,
        }
    }
}

impl From<SerdeStatus<'_>> for Status {
    fn from(read: SerdeStatus<'_>) -> Self {
        Status {
            email: Email::new(read.email).expect("an email"),
            last_seen_ns: read.last_seen_ns,
            ip: read.ip,
            port: read.port,
        }
    }
}

/// As a .proto file would have it: fixed64 for a number that never is small, an address as its bytes.
#[derive(Message)]
struct ProstStatus {
    #[prost(string, tag = "1")]
    email: String,
    #[prost(fixed64, tag = "2")]
    last_seen_ns: u64,
    #[prost(bytes = "vec", tag = "3")]
    ip: Vec<u8>,
    #[prost(uint32, tag = "4")]
    port: u32,
}

fn encode_prost(status: &Status, out: &mut Vec<u8>) {
    let message = ProstStatus {
        email: status.email.as_str().to_owned(),
        last_seen_ns: status.last_seen_ns,
        ip: match status.ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        },
        port: u32::from(status.port),
    };
    message.encode(out).expect("a Vec takes every write");
}

fn decode_prost(bytes: &[u8]) -> Status {
    let read = ProstStatus::decode(bytes).expect("our own bytes");
    let ip = match <[u8; 4]>::try_from(read.ip.as_slice()) {
        Ok(octets) => IpAddr::from(octets),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(read.ip.as_slice()).expect("4 or 16 bytes")),
    };
    Status {
        email: Email::new(&read.email).expect("an email"),
        last_seen_ns: read.last_seen_ns,
        ip,
        port: u16::try_from(read.port).expect("a port"),
    }
}

type Encode = fn(&Status, &mut Vec<u8>);
type Decode = fn(&[u8]) -> Status;

const CODECS: [(&str, Encode, Decode); 4] = [
    ("rollcall", protocol::encode, |bytes| protocol::decode(bytes).expect("our own bytes").0),
    (
        "postcard",
        |status, out| {
            let bytes = std::mem::take(out);
            *out = postcard::to_extend(&SerdeStatus::from(status), bytes).expect("a Vec takes every write");
        },
        |bytes| postcard::from_bytes::<SerdeStatus>(bytes).expect("our own bytes").into(),
    ),
    ("prost", encode_prost, decode_prost),
    (
        "rmp-serde",
        |status, out| {
            rmp_serde::encode::write(out, &SerdeStatus::from(status)).expect("a Vec takes every write")
        },
        |bytes| rmp_serde::from_slice::<SerdeStatus>(bytes).expect("our own bytes").into(),
    ),
];

fn codecs(criterion: &mut Criterion) {
    let status = Status {
        email: Email::new("valid_user@qt-test.com").expect("an email"),
        last_seen_ns: 1_770_000_000_123_456_789,
        ip: IpAddr::from([192, 0, 2, 10]),
        port: 41234,
    };
    let mut encoding = criterion.benchmark_group("encode");
    for (name, encode, decode) in CODECS {
        let mut out = Vec::with_capacity(512);
        encode(&status, &mut out);
        assert_eq!(decode(&out), status, "{name} lost something");
        encoding.throughput(Throughput::Bytes(out.len() as u64));
        encoding.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter(|| {
                out.clear();
                encode(black_box(&status), &mut out);
                black_box(out.len())
            });
        });
    }
    encoding.finish();
    let mut decoding = criterion.benchmark_group("decode");
    for (name, encode, decode) in CODECS {
        let mut bytes = Vec::new();
        encode(&status, &mut bytes);
        decoding.throughput(Throughput::Bytes(bytes.len() as u64));
        decoding.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter(|| decode(black_box(&bytes)));
        });
    }
    decoding.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(std::time::Duration::from_secs(1))
        .measurement_time(std::time::Duration::from_secs(3));
    targets = codecs
}
criterion_main!(benches);
