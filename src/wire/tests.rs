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
        // What was in the buffer stays, and every byte after it is written.
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
fn what_follows_the_prefix_is_handed_back() {
    for (bytes, status) in golden() {
        let longer = [bytes.as_slice(), b"x"].concat();
        assert_eq!(decode(&longer), Ok((status, &b"x"[..])));
    }
}

#[test]
fn every_byte_set_to_every_value_decodes_to_what_encodes_the_same_or_is_refused() {
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
