use super::status::{Email, Status};
use super::*;

fn status(email: &str, last_seen_ns: u64, ip: &str, port: u16) -> Status {
    Status { email: Email::new(email).unwrap(), last_seen_ns, ip: ip.parse().unwrap(), port }
}

/// The contract, asserted in both directions. If one fails, the code is wrong and not the table.
fn golden() -> Vec<(Vec<u8>, Status)> {
    let mut longest = vec![254];
    let email = format!("{}@{}.{}.{}", "l".repeat(64), "d".repeat(63), "e".repeat(63), "f".repeat(61));
    longest.extend_from_slice(email.as_bytes());
    longest.extend_from_slice(&[0xff; 8]);
    longest.push(39);
    longest.extend_from_slice(b"2001:db8:1111:2222:3333:4444:5555:6666\xff\xff");
    longest[1 + 254 + 8] = 38;
    vec![
        (
            b"\x16valid_user@qt-test.com\x18\xea\xc0\xf1\x51\x0e\x8d\x15\x09127.0.0.1\xf3\xf5".to_vec(),
            status("valid_user@qt-test.com", 0x18ea_c0f1_510e_8d15, "127.0.0.1", 62453),
        ),
        (b"\x03a@b\0\0\0\0\0\0\0\0\x02::\0\0".to_vec(), status("a@b", 0, "::", 0)),
        (b"\x03a@b\0\0\0\0\0\0\0\x01\x0b2001:db8::1\0\x01".to_vec(), status("a@b", 1, "2001:db8::1", 1)),
        (longest, status(&email, u64::MAX, "2001:db8:1111:2222:3333:4444:5555:6666", 65535)),
    ]
}

#[test]
fn golden_bytes_in_both_directions() {
    for (bytes, status) in golden() {
        // The buffer keeps its content, and every byte after it is written.
        let mut out = vec![0xa5; 3];
        encode(&status, &mut out);
        assert_eq!(out, [&[0xa5; 3], bytes.as_slice()].concat());
        assert_eq!(decode(&bytes), Ok((status, &[][..])));
        assert!(bytes.len() <= MAX_PREFIX);
    }
}

#[test]
fn every_prefix_is_truncated() {
    for (bytes, _) in golden() {
        for len in 0..bytes.len() {
            assert!(
                matches!(decode(&bytes[..len]), Err(Error::Truncated { .. })),
                "{len} of {} bytes",
                bytes.len()
            );
        }
    }
}

#[test]
fn the_bytes_after_the_prefix_are_handed_back() {
    for (bytes, status) in golden() {
        let longer = [bytes.as_slice(), b"x"].concat();
        assert_eq!(decode(&longer), Ok((status, &b"x"[..])));
    }
}

#[test]
fn every_byte_set_to_every_value_decodes_to_an_equal_encoding_or_is_refused() {
    for (bytes, _) in golden() {
        for at in 0..bytes.len() {
            for value in 0..=255 {
                let mut changed = bytes.clone();
                changed[at] = value;
                let Ok((status, rest)) = decode(&changed) else { continue };
                let mut again = Vec::new();
                encode(&status, &mut again);
                // Case is normalised and an address may be spelt differently; the values are the same.
                let (reread, _) = decode(&again).unwrap();
                assert_eq!(reread, status);
                assert!(rest.len() < changed.len());
            }
        }
    }
}

#[test]
fn lengths_that_lie() {
    for (bytes, message) in [
        (&b""[..], "truncated email length at byte 0: 1 bytes needed, 0 left"),
        (b"\x00", r#"not an email address: "": it is empty"#),
        (b"\xff", "truncated email at byte 1: 255 bytes needed, 0 left"),
        (b"\x04a@b", "truncated email at byte 1: 4 bytes needed, 3 left"),
        (
            b"\x02a@b\0\0\0\0\0\0\0\0\x02::\0\0",
            r#"not an email address: "a@": nothing between dots in the domain at byte 2"#,
        ),
        (b"\x03a@b\0\0\0\0\0\0\0\0\x00\0\0", r#"not an IP address: """#),
        (b"\x03a@b\0\0\0\0\0\0\0\0\xff::\0\0", "truncated ip at byte 13: 255 bytes needed, 4 left"),
        (b"\x03a@b\0\0\0\0\0\0\0\0\x01::\0\0", r#"not an IP address: ":""#),
        (b"\x03a@b\0\0\0\0\0\0\0\0\x03::\0\0", r#"not an IP address: "::\0""#),
        (b"\x03a@b\0\0\0\0\0\0\0\0\x02::\0", "truncated port at byte 15: 2 bytes needed, 1 left"),
        (b"\x03\xff@b\0\0\0\0\0\0\0\0\x02::\0\0", "the email is not UTF-8"),
        (b"\0\0\x55\xaa\0\0\0\0\0\0\0\0\0\0\0\0", r#"not an email address: "": it is empty"#),
    ] {
        assert_eq!(decode(bytes).unwrap_err().to_string(), message, "{bytes:?}");
    }
}

#[test]
fn random_bytes_never_panic() {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let mut refused = 0;
    for _ in 0..100_000 {
        let len = (next() % 400) as usize;
        let bytes: Vec<u8> = (0..len).map(|_| (next() >> 32) as u8).collect();
        refused += u32::from(decode(&bytes).is_err());
    }
    assert!(refused > 99_000, "{refused}");
}

const SIGNATURE: SignatureBytes = [0x5a; 64];

fn batch(count: usize) -> (Vec<Status>, Vec<Vec<u8>>, BatchMessage) {
    let statuses: Vec<Status> =
        (0..count).map(|i| status(&format!("user{i}@example.com"), 7 + i as u64, "192.0.2.7", 9)).collect();
    let batch = Batch {
        kind: Kind::SEEN,
        key_id: *b"\xaa\xbb\xcc\xdd",
        epoch: 0x0102_0304_0506_0708,
        first_sequence: 1000,
        statuses: &statuses,
    };
    let mut signed = None;
    let datagrams = encode_batch(&batch, |message| {
        signed = Some(*message);
        SIGNATURE
    });
    (statuses, datagrams, signed.unwrap())
}

#[track_caller]
fn claim(datagram: &[u8]) -> Claim<'_> {
    match Datagram::decode(datagram).unwrap() {
        Datagram::Signed(claim) => claim,
        other => panic!("{other:?}"),
    }
}

/// Why no server made it.
#[track_caller]
fn refusal(datagram: &[u8]) -> String {
    match Datagram::decode(datagram) {
        Err(error) => error.to_string(),
        Ok(Datagram::Broken(_, error)) => error.to_string(),
        Ok(other) => panic!("{other:?}"),
    }
}

#[test]
fn a_batch_of_one_byte_by_byte() {
    let (_, datagrams, message) = batch(1);
    let prefix = b"\x11user0@example.com\0\0\0\0\0\0\0\x07\x09192.0.2.7\0\x09";
    let trailer = b"RC\x02\0\xaa\xbb\xcc\xdd\x01\x02\x03\x04\x05\x06\x07\x08\0\0\0\0\0\0\x03\xe8\0\0\0\x01";
    assert_eq!(datagrams, [[&prefix[..], trailer, &SIGNATURE].concat()]);
    let root = merkle::leaf(&[&prefix[..], &trailer[..24]].concat());
    assert_eq!(
        message[..],
        [&b"rollcall/2 batch\0\x01\x02\x03\x04\x05\x06\x07\x08\0\x01"[..], &root].concat()
    );
}

#[test]
fn every_member_of_a_batch_is_verified_by_the_same_message() {
    for count in (1..=17).chain([512]) {
        let (statuses, datagrams, message) = batch(count);
        for (i, (datagram, status)) in datagrams.iter().zip(&statuses).enumerate() {
            let claim = claim(datagram);
            assert_eq!(claim.key_id(), *b"\xaa\xbb\xcc\xdd");
            let verified = claim
                .verify(|asked, signature| (asked, signature) == (&message, &SIGNATURE))
                .unwrap_or_else(|_| panic!("{i} of {count}"));
            assert_eq!(verified.status(), status);
            assert_eq!(verified.kind(), Kind::SEEN);
            assert_eq!(verified.epoch(), 0x0102_0304_0506_0708);
            assert_eq!(verified.sequence(), 1000 + i as u64);
            // A listener of the first version reads the same status and leaves the rest.
            assert_eq!(decode(datagram).unwrap().0, *status);
        }
    }
}

#[test]
fn no_changed_bit_is_verified() {
    for count in [1, 2, 3, 7] {
        let (_, datagrams, message) = batch(count);
        for datagram in &datagrams {
            for bit in 0..datagram.len() * 8 {
                let mut changed = datagram.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                let Ok(Datagram::Signed(claim)) = Datagram::decode(&changed) else { continue };
                let verified = claim.verify(|asked, signature| (asked, signature) == (&message, &SIGNATURE));
                // Case is normalised, so two spellings of one status must still count as two.
                assert!(verified.is_err(), "bit {bit} of {} in a batch of {count}", datagram.len() * 8);
            }
        }
    }
}

#[test]
fn splices_are_not_verified() {
    let (_, datagrams, message) = batch(7);
    for (one, other) in [(0, 1), (0, 6), (5, 4), (6, 5)] {
        let (one, other) = (&datagrams[one], &datagrams[other]);
        for at in 1..one.len() {
            let spliced = [&one[..at], &other[at.min(other.len())..]].concat();
            if spliced == *one || spliced == *other {
                continue;
            }
            let Ok(Datagram::Signed(claim)) = Datagram::decode(&spliced) else { continue };
            assert!(claim.verify(|asked, _| *asked == message).is_err(), "cut at {at}");
        }
    }
}

#[test]
fn every_cut_trailer_is_refused() {
    for count in [1, 3] {
        let (_, datagrams, _) = batch(count);
        let datagram = &datagrams[0];
        let (_, rest) = decode(datagram).unwrap();
        let prefix = datagram.len() - rest.len();
        for len in prefix + 1..datagram.len() {
            refusal(&datagram[..len]);
        }
        assert!(matches!(Datagram::decode(&datagram[..prefix]), Ok(Datagram::Unsigned(_))));
    }
}

#[test]
fn trailers_that_lie() {
    let (_, datagrams, _) = batch(3);
    let datagram = &datagrams[1];
    let trailer = datagram.len() - decode(datagram).unwrap().1.len();
    for (at, bytes, message) in [
        (0, &b"X"[..], "156 unknown bytes follow the status"),
        (2, b"\x01", "156 unknown bytes follow the status"),
        (2, b"\x03", "156 unknown bytes follow the status"),
        (16, &[0; 8], "sequence 0: the first is 1"),
        (24, b"\0\x03", "index 3 in a batch of 3"),
        (24, b"\xff\xff", "index 65535 in a batch of 3"),
        (24, b"\0\x02", "64 bytes of audit path for index 2 of 3, which has 32"),
        (26, b"\0\0", "a batch of 0: it has 1 to 512"),
        (26, b"\x02\x01", "a batch of 513: it has 1 to 512"),
        (26, b"\x02\0", "64 bytes of audit path for index 1 of 512, which has 288"),
    ] {
        let mut changed = datagram.clone();
        changed[trailer + at..][..bytes.len()].copy_from_slice(bytes);
        assert_eq!(refusal(&changed), message);
    }
    let short = &datagram[..trailer + 91];
    let message = "truncated trailer: 92 bytes needed, 91 left";
    assert_eq!(refusal(short), message);
    let longer = [datagram.as_slice(), b"x"].concat();
    let message = "65 bytes of audit path for index 1 of 3, which has 64";
    assert_eq!(refusal(&longer), message);
}

#[test]
fn random_trailers_never_panic_and_never_verify() {
    let prefix = &golden()[1].0;
    let mut seed = 0x1234_5678_9abc_def1_u64;
    let mut next = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let mut claims = 0;
    for _ in 0..50_000 {
        let (index, count) = (next() % 12, next() % 12);
        let path = merkle::path_len(index as u16, count as u16) * 32;
        let mut datagram = [prefix.as_slice(), b"RC\x02"].concat();
        datagram.extend((0..25 + path + 64 + (next() % 8 / 7) as usize).map(|_| (next() >> 32) as u8));
        let at = prefix.len() + 24;
        datagram[at..at + 4].copy_from_slice(&[0, index as u8, 0, count as u8]);
        if let Ok(Datagram::Signed(claim)) = Datagram::decode(&datagram) {
            claims += 1;
            assert!(claim.verify(|_, _| false).is_err());
        }
    }
    assert!(claims > 10_000, "{claims}");
}

#[test]
fn the_longest_datagram_fits() {
    let (_, longest) = golden().pop().unwrap();
    // RFC 5952 writes 39 bytes when no group can be shortened.
    let ip = "2001:1db8:1111:2222:3333:4444:5555:6666".parse().unwrap();
    let statuses = vec![Status { ip, ..longest }; 512];
    let batch = Batch { kind: Kind::SEEN, key_id: [0; 4], epoch: 1, first_sequence: 1, statuses: &statuses };
    let datagrams = encode_batch(&batch, |_| SIGNATURE);
    assert_eq!(datagrams.iter().map(Vec::len).max(), Some(685));
    assert_eq!(MAX_DATAGRAM, 685);
}

#[test]
#[should_panic(expected = "a batch has 1 to 512 statuses")]
fn a_batch_of_none_is_a_mistake() {
    batch(0);
}

#[test]
#[should_panic(expected = "a batch has 1 to 512 statuses")]
fn a_batch_past_the_limit_is_a_mistake() {
    batch(513);
}
