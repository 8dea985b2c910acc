//! Shows a status: as the block of the walkthrough, or as one line of JSON.
//!
//! Written straight into a buffer of bytes, which at 100,000 statuses a second is most of the time saved.

use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use crate::protocol::judge::{Announcement, Doubt};
use crate::protocol::status::{Email, Status};

const FITS: &str = "a Vec takes every write";

/// May the reader believe it?
pub enum Provenance<'a> {
    Verified(&'a Announcement),
    Doubted(Doubt),
}

/// `person` is the owner of the pseudonym, if we know. An unverified status is marked.
pub fn block(
    page: &mut Vec<u8>,
    source: SocketAddr,
    status: &Status,
    person: Option<&Email>,
    provenance: &Provenance,
) {
    const LINE: &str = "----------------------------------------";
    let email = person.unwrap_or(&status.email);
    write!(page, "{LINE}\nSource Packet: {source}\nUser Email   : {email}\nLast Seen    : ").expect(FITS);
    let start = page.len();
    push_time(page, status);
    // 2026-11-23T17:54:02.123456789Z becomes 2026-11-23 17:54:02.123456789 UTC.
    page[start + 10] = b' ';
    page.pop();
    let Status { last_seen_ns, ip, port, .. } = status;
    write!(page, " UTC ({last_seen_ns})\nClient IP    : {ip}\nClient Port  : {port}\n").expect(FITS);
    if let Provenance::Doubted(doubt) = provenance {
        writeln!(page, "Unverified   : {doubt}").expect(FITS);
    }
    writeln!(page, "{LINE}").expect(FITS);
}

/// Numbers of 64 bits are strings: they do not fit the double that most readers of JSON use. Nothing
/// needs an escape: an `Email` has neither quotes nor backslashes nor control characters.
pub fn json(
    page: &mut Vec<u8>,
    source: SocketAddr,
    status: &Status,
    person: Option<&Email>,
    provenance: &Provenance,
) {
    let Status { email, last_seen_ns, ip, port } = status;
    match person {
        Some(person) => write!(page, r#"{{"email":"{person}","pseudonym":"{email}""#),
        None => write!(page, r#"{{"email":"{email}""#),
    }
    .expect(FITS);
    write!(page, r#","ip":"{ip}","last_seen":""#).expect(FITS);
    push_time(page, status);
    write!(page, r#"","last_seen_ns":"{last_seen_ns}","port":{port},"source":"{source}","#).expect(FITS);
    match provenance {
        Provenance::Verified(Announcement { key, verified }) => {
            let (epoch, sequence) = (verified.epoch(), verified.sequence());
            write!(page, r#""verified":true,"key":"{key}","epoch":"{epoch}","sequence":"{sequence}""#)
        }
        Provenance::Doubted(doubt) => write!(page, r#""verified":false,"doubt":"{}""#, doubt.word()),
    }
    .expect(FITS);
    page.extend_from_slice(b"}\n");
}

/// RFC 3339. Nanoseconds in 64 bits end in the year 2554, so that it always has 30 bytes.
fn push_time(page: &mut Vec<u8>, status: &Status) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(status.last_seen_ns);
    write!(page, "{}", humantime::format_rfc3339_nanos(time)).expect(FITS);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::keys::PublicKey;
    use crate::protocol::{Batch, Datagram, Kind, encode_batch};

    const SOURCE: &str = "192.0.2.10:41234";

    fn status() -> Status {
        Status {
            email: Email::new("valid_user@qt-test.com").unwrap(),
            last_seen_ns: 1_795_456_442_123_456_789,
            ip: "127.0.0.1".parse().unwrap(),
            port: 62453,
        }
    }

    /// As a server announces it, whose key we believe.
    fn announcement(status: &Status) -> Announcement {
        let statuses = std::slice::from_ref(status);
        let batch = Batch { kind: Kind::SEEN, key_id: [0; 4], epoch: 1, first_sequence: 2, statuses };
        let datagram = encode_batch(&batch, |_| [0; 64]).remove(0);
        let Ok(Datagram::Signed(claim)) = Datagram::decode(&datagram) else { panic!("not signed") };
        Announcement { key: PublicKey::from_bytes([0; 32]), verified: claim.verify(|_, _| true).unwrap() }
    }

    fn shown(show: impl Fn(&mut Vec<u8>, SocketAddr)) -> String {
        let mut page = Vec::new();
        show(&mut page, SOURCE.parse().unwrap());
        String::from_utf8(page).unwrap()
    }

    #[test]
    fn the_block_is_the_one_of_the_walkthrough() {
        let announcement = announcement(&status());
        assert_eq!(
            shown(|page, source| block(page, source, &status(), None, &Provenance::Verified(&announcement))),
            "\
----------------------------------------
Source Packet: 192.0.2.10:41234
User Email   : valid_user@qt-test.com
Last Seen    : 2026-11-23 17:54:02.123456789 UTC (1795456442123456789)
Client IP    : 127.0.0.1
Client Port  : 62453
----------------------------------------
"
        );
    }

    #[test]
    fn a_doubted_status_is_marked_inside_the_block() {
        let block = shown(|page, source| {
            let doubt = Doubt::UnknownKey([2, 0x98, 0xa8, 0xe8]);
            block(page, source, &status(), None, &Provenance::Doubted(doubt))
        });
        let end = "Client Port  : 62453\nUnverified   : signed with key 0298a8e8, which is not ours\n-----";
        assert!(block.contains(end), "{block}");
    }

    #[test]
    fn times_at_both_ends() {
        for (last_seen_ns, time) in
            [(0, "1970-01-01 00:00:00.000000000 UTC (0)"), (u64::MAX, "2554-07-21 23:34:33.709551615 UTC (1")]
        {
            let status = Status { last_seen_ns, ..status() };
            let doubted = Provenance::Doubted(Doubt::Unsigned);
            let block = shown(|page, source| block(page, source, &status, None, &doubted));
            assert!(block.contains(time), "{block}");
        }
    }

    #[test]
    fn a_person_stands_in_the_place_of_the_pseudonym() {
        let person = Some(Email::new("a@example.com").unwrap());
        let doubted = Provenance::Doubted(Doubt::Unsigned);
        let block = shown(|page, source| block(page, source, &status(), person.as_ref(), &doubted));
        assert!(block.contains("\nUser Email   : a@example.com\nLast Seen "), "{block}");
        assert!(block.ends_with("\nUnverified   : not signed\n----------------------------------------\n"));
        let line = shown(|page, source| json(page, source, &status(), person.as_ref(), &doubted));
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&value["email"], &value["port"]), (&"a@example.com".into(), &62453.into()));
        assert_eq!(value["pseudonym"], "valid_user@qt-test.com");
    }

    #[test]
    fn the_json_is_one_line_with_the_nanoseconds_as_text() {
        let email = Email::new("!#$%&'*+-/=?^_`{|}~@x").unwrap();
        let status = Status { email, ..status() };
        let doubted = Provenance::Doubted(Doubt::Unchecked);
        let line = shown(|page, source| json(page, source, &status, None, &doubted));
        assert_eq!(line.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            value,
            serde_json::json!({
                "source": SOURCE,
                "email": "!#$%&'*+-/=?^_`{|}~@x",
                "last_seen": "2026-11-23T17:54:02.123456789Z",
                "last_seen_ns": "1795456442123456789",
                "ip": "127.0.0.1",
                "port": 62453,
                "verified": false,
                "doubt": "unchecked",
            })
        );
    }
}
