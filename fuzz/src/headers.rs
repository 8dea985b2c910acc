//! The headers of a request, one a line. Whoever is taken for seen, is so again by headers that say the same.

use rollcall::http::identity::{Credential, Forwarded};
use rollcall::store::sighting::Sighting;

const SECRET: &str = "c0ffee00c0ffee00c0ffee00c0ffee00";
const NOW_NS: u64 = 1_795_456_442_000_000_000;

pub fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let credential = Credential::new(SECRET).unwrap();
    if let Ok(other) = Credential::new(text) {
        assert_eq!(other.matches(SECRET), text.trim_ascii() == SECRET);
    }
    let forwarded = read(text);
    let is_let_in = credential.admit(&forwarded).is_ok();
    assert_eq!(
        is_let_in,
        text.split('\n')
            .filter(|line| line.starts_with("X-Proxy-Credential: "))
            .eq(["X-Proxy-Credential: c0ffee00c0ffee00c0ffee00c0ffee00"])
    );
    assert!(forwarded.id().is_none_or(|id| id.len() == 32));
    let _ = forwarded.alternative_name().map_err(|refusal| refusal.to_string());
    let Ok(email) = forwarded.common_name() else { return };
    let Ok(sighting) = forwarded.sighting(email, NOW_NS, 5000) else { return };
    let Sighting { status, certificate, heard_ms, every_s } = &sighting;
    assert!(*heard_ms == 5000 && status.last_seen_ns <= NOW_NS);
    assert!(certificate.not_after >= NOW_NS / 1_000_000_000);
    assert!(every_s.is_none_or(|every| (1..=86_400).contains(&every)));
    let mut again = forwarded;
    let (serial, ip, port) = (certificate.serial.as_str(), status.ip.to_string(), status.port.to_string());
    let cn: String = status.email.as_str().bytes().map(|byte| format!("\\{byte:02x}")).collect();
    for (name, value) in [
        ("X-Client-Serial", serial),
        ("X-Client-Fingerprint", &certificate.fingerprint),
        ("X-Real-IP", &ip),
        ("X-Real-Port", &port),
        ("X-Subject-CN", &cn),
    ] {
        *again.header(name).unwrap() = [value].into_iter().collect();
    }
    let email = again.common_name().unwrap();
    assert_eq!(again.sighting(email, NOW_NS, 5000).unwrap(), sighting);
}

fn read(text: &str) -> Forwarded<'_> {
    let mut forwarded = Forwarded::default();
    for (name, value) in text.split('\n').filter_map(|line| line.split_once(": ")) {
        if let Some(values) = forwarded.header(name) {
            values.push(value);
        }
    }
    forwarded
}
