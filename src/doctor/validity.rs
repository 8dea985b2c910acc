//! When the CRL and the certificates of the stack begin and end.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustls_pemfile::Item;
use x509_cert::Certificate;
use x509_cert::der::asn1::AnyRef;
use x509_cert::der::{self, Decode, Reader};
use x509_cert::time::Time;

use super::{Finding, Level, Settings};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// A certificate that ends within this is to be renewed.
pub const SOON: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// A timer renews the CRL when it has 20 days left. With fewer than this, it did not run.
const CRL_SOON: Duration = Duration::from_secs(10 * 24 * 60 * 60);

/// No CRL is longer than this. Something that has no end is not read to it.
const LARGEST: u64 = 64 << 20;

/// One file, what its end means, and what to do.
struct Paper {
    path: PathBuf,
    what: &'static str,
    /// From DER, when it begins and ends.
    read: fn(&Item) -> Option<der::Result<Span>>,
    soon: Duration,
    then: &'static str,
    renew: String,
}

/// From when until when something holds. A CRL without an end goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    begin: SystemTime,
    end: Option<SystemTime>,
}

pub fn check(settings: &Settings) -> Vec<Finding> {
    let now = SystemTime::now();
    let certificate = |name: &str, then, renew: &str| {
        let path = settings.certs.join(name);
        let renew = renew.replace("FILE", &path.display().to_string());
        Paper { path, what: "the certificate", read: certificate, soon: SOON, then, renew }
    };
    let crl = Paper {
        path: settings.server.state.join("nginx/crl.pem"),
        what: "the CRL",
        read: crl,
        soon: CRL_SOON,
        then: "nginx refuses everybody",
        renew: "just crl; a timer should do that (deploy/)".to_owned(),
    };
    let ca = certificate("ca.crt", "nobody believes any certificate", "rm FILE, and just up; the key stays");
    let server = certificate("server.crt", "no client speaks to this server", "just renew-server");
    let client = certificate("client.crt", "just client stops at it", "certs/ca renew client, and just up");
    let mut findings = vec![of(&crl, now), of(&ca, now), of(&server, now)];
    // Only the walkthrough has this one, and nobody else depends on it.
    if client.path.exists() {
        let finding = of(&client, now);
        findings.push(Finding { level: finding.level.min(Level::Yellow), ..finding });
    }
    findings
}

fn of(paper: &Paper, now: SystemTime) -> Finding {
    let Paper { path, what, read, soon, then, renew } = paper;
    let what = format!("{what} {}", path.display());
    match spans(path, *read) {
        Ok(spans) => of_spans(&spans, &what, *soon, then, renew, now),
        Err(Problem::Unreadable(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
            Finding::yellow(
                format!("{what} was not checked: {error}"),
                "run this as root, or as the user that runs the stack",
            )
        }
        Err(Problem::Unreadable(error)) if error.kind() == io::ErrorKind::NotFound => Finding::red(
            format!("{what} is missing: {then}"),
            "just up, with the same ROLLCALL_STATE and ROLLCALL_CERTS",
        ),
        Err(problem) => Finding::red(format!("{what} cannot be used: {problem}: {then}"), renew),
    }
}

/// A file holds as long as everything in it.
fn of_spans(spans: &[Span], what: &str, soon: Duration, then: &str, renew: &str, now: SystemTime) -> Finding {
    let days = |duration: Duration| duration.as_secs() / DAY.as_secs();
    if let Some(begin) = spans.iter().map(|span| span.begin).filter(|begin| *begin > now).max() {
        let begin = humantime::format_rfc3339_seconds(begin);
        return Finding::red(
            format!("{what} does not hold before {begin}: {then}"),
            "set the clock of this host (timedatectl set-ntp true), or make it anew: ".to_owned() + renew,
        );
    }
    let Some(end) = spans.iter().filter_map(|span| span.end).min() else {
        return Finding::green(format!("{what} has no end"));
    };
    let time = humantime::format_rfc3339_seconds(end);
    match end.duration_since(now) {
        Err(over) => {
            Finding::red(format!("{what} ended {} days ago ({time}): {then}", days(over.duration())), renew)
        }
        Ok(left) if left < soon => {
            Finding::yellow(format!("{what} ends in {} days ({time}); then {then}", days(left)), renew)
        }
        Ok(left) => Finding::green(format!("{what} ends in {} days ({time})", days(left))),
    }
}

/// At least one, in the order of the file.
fn spans(path: &Path, read: fn(&Item) -> Option<der::Result<Span>>) -> Result<Vec<Span>, Problem> {
    let mut text = Vec::new();
    let file = File::open(path).map_err(Problem::Unreadable)?;
    file.take(LARGEST).read_to_end(&mut text).map_err(Problem::Unreadable)?;
    let items = rustls_pemfile::read_all(&mut text.as_slice()).map_err(|_| Problem::NotPem)?;
    let spans: Vec<Span> =
        items.iter().filter_map(read).collect::<der::Result<_>>().map_err(Problem::Damaged)?;
    if spans.is_empty() { Err(Problem::Empty) } else { Ok(spans) }
}

fn certificate(item: &Item) -> Option<der::Result<Span>> {
    let Item::X509Certificate(der) = item else { return None };
    let validity = Certificate::from_der(der).map(|certificate| certificate.tbs_certificate.validity);
    Some(
        validity
            .map(|validity| Span { begin: time(validity.not_before), end: Some(time(validity.not_after)) }),
    )
}

/// RFC 5280, section 5.1. Taken apart here, because `CertificateList` of x509-cert refuses version 1, which is
/// what `openssl ca -gencrl` makes unless it numbers its CRLs.
fn crl(item: &Item) -> Option<der::Result<Span>> {
    let Item::Crl(der) = item else { return None };
    let span = || {
        let tbs = AnyRef::from_der(der)?.sequence(|list| {
            let tbs = AnyRef::decode(list)?;
            let (_algorithm, _signature) = (AnyRef::decode(list)?, AnyRef::decode(list)?);
            Ok(tbs)
        })?;
        tbs.sequence(|tbs| {
            let _version = Option::<u8>::decode(tbs)?;
            let (_algorithm, _issuer) = (AnyRef::decode(tbs)?, AnyRef::decode(tbs)?);
            let (this_update, next_update) = (Time::decode(tbs)?, Option::<Time>::decode(tbs)?);
            while !tbs.is_finished() {
                AnyRef::decode(tbs)?;
            }
            Ok(Span { begin: time(this_update), end: next_update.map(time) })
        })
    };
    Some(span())
}

fn time(time: Time) -> SystemTime {
    SystemTime::UNIX_EPOCH + time.to_unix_duration()
}

#[derive(Debug)]
enum Problem {
    Unreadable(io::Error),
    NotPem,
    Empty,
    Damaged(der::Error),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Unreadable(error) => write!(f, "{error}"),
            Problem::NotPem => f.write_str("it is not PEM text (RFC 7468)"),
            Problem::Empty => f.write_str("there is none in the file"),
            Problem::Damaged(error) => write!(f, "what it holds is damaged: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::process::Command;

    #[test]
    fn the_first_to_end_decides() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_456_442);
        let span = |end: SystemTime| Span { begin: now - DAY, end: Some(end) };
        let early = Span { begin: now + DAY, end: Some(now + 90 * DAY) };
        let endless = Span { begin: now - DAY, end: None };
        for (spans, level, said) in [
            (
                &[span(now + 31 * DAY), span(now + 90 * DAY)][..],
                Level::Green,
                "it ends in 31 days (2026-12-24T17:54:02Z)",
            ),
            (
                &[span(now + 90 * DAY), span(now + 29 * DAY)],
                Level::Yellow,
                "it ends in 29 days (2026-12-22T17:54:02Z); then woe",
            ),
            (
                &[span(now + 90 * DAY), span(now - 2 * DAY)],
                Level::Red,
                "it ended 2 days ago (2026-11-21T17:54:02Z): woe",
            ),
            (&[endless, span(now + 90 * DAY)], Level::Green, "it ends in 90 days (2027-02-21T17:54:02Z)"),
            (&[endless], Level::Green, "it has no end"),
            (&[span(now + 90 * DAY), early], Level::Red, "it does not hold before 2026-11-24T17:54:02Z: woe"),
        ] {
            let finding = of_spans(spans, "it", SOON, "woe", "renew", now);
            assert_eq!((finding.level, finding.what.as_str()), (level, said));
            assert_eq!(finding.advice.is_some(), level > Level::Green);
        }
    }

    /// A CA in a folder of its own, and what openssl(1) makes with it.
    struct Authority(PathBuf);

    impl Authority {
        fn new(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("rollcall-{name}-{}", std::process::id()));
            fs::create_dir(&folder).unwrap();
            // A CRL that is numbered is of version 2.
            let configuration = "[ca]\ndefault_ca=ca\ndatabase=index\ndefault_md=sha256\n";
            let numbered = configuration.to_owned() + "crlnumber=number\n";
            for (file, text) in
                [("index", ""), ("number", "01"), ("one.cnf", configuration), ("two.cnf", &numbered)]
            {
                fs::write(folder.join(file), text).unwrap();
            }
            let authority = Self(folder);
            authority.openssl(
                "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 7 -subj /CN=x -keyout key -out cert -batch",
            );
            authority
        }

        fn openssl(&self, arguments: &str) {
            let output =
                Command::new("openssl").args(arguments.split(' ')).current_dir(&self.0).output().unwrap();
            assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
        }

        fn spans(
            &self,
            file: &str,
            read: fn(&Item) -> Option<der::Result<Span>>,
        ) -> Result<Vec<Span>, String> {
            spans(&self.0.join(file), read).map_err(|problem| problem.to_string())
        }
    }

    impl Drop for Authority {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn what_openssl_makes_is_read_and_what_is_broken_is_not() {
        let authority = Authority::new("validity");
        let left = |span: Span| (span.end.unwrap().duration_since(span.begin).unwrap().as_secs(), span.begin);
        for (version, days) in [("one", 3), ("two", 5)] {
            authority.openssl(&format!(
                "ca -gencrl -config {version}.cnf -keyfile key -cert cert -crldays {days} -out {version}"
            ));
            let [span] = authority.spans(version, crl).unwrap()[..] else { panic!("there is one") };
            let (lasts, begin) = left(span);
            assert_eq!(lasts, days * DAY.as_secs(), "{version}");
            assert!(begin.elapsed().is_ok_and(|age| age < DAY), "{version}");
        }
        let [span] = authority.spans("cert", certificate).unwrap()[..] else { panic!("there is one") };
        assert_eq!(left(span).0, 7 * DAY.as_secs());

        let file = |name: &str, bytes: &[u8]| fs::write(authority.0.join(name), bytes).unwrap();
        let text = |name: &str| fs::read_to_string(authority.0.join(name)).unwrap();
        file("both", (text("one") + &text("cert") + &text("two")).as_bytes());
        assert_eq!(authority.spans("both", crl).unwrap().len(), 2);
        assert_eq!(authority.spans("both", certificate).unwrap().len(), 1);

        // Four characters of base64 are three bytes.
        let (label, body) = (text("two").lines().next().unwrap().len() + 1, text("two"));
        file("shorter", (body[..label].to_owned() + &body[label + 4..]).as_bytes());
        file("swapped", text("cert").replace("CERTIFICATE", "X509 CRL").as_bytes());
        for name in ["shorter", "swapped"] {
            let problem = authority.spans(name, crl).unwrap_err();
            assert!(problem.starts_with("what it holds is damaged: "), "{name}: {problem}");
        }
        file("empty", b"");
        file("binary", &[0xff; 100_000]);
        file("base64", b"-----BEGIN X509 CRL-----\n!\n-----END X509 CRL-----\n");
        assert_eq!(authority.spans("empty", crl).unwrap_err(), "there is none in the file");
        assert_eq!(authority.spans("binary", crl).unwrap_err(), "there is none in the file");
        assert_eq!(authority.spans("cert", crl).unwrap_err(), "there is none in the file");
        assert_eq!(authority.spans("base64", crl).unwrap_err(), "it is not PEM text (RFC 7468)");
    }

    #[test]
    fn no_truncated_or_changed_crl_panics() {
        let authority = Authority::new("changed");
        authority.openssl("ca -gencrl -config two.cnf -keyfile key -cert cert -crldays 5 -out two");
        let text = fs::read(authority.0.join("two")).unwrap();
        let items = rustls_pemfile::read_all(&mut text.as_slice()).unwrap();
        let [Item::Crl(der)] = &items[..] else { panic!("there is one CRL") };
        for at in 0..der.len() {
            assert!(crl(&Item::Crl(der[..at].to_vec())).unwrap().is_err(), "{at}");
            for bit in 0..8 {
                let mut changed = der.clone();
                changed[at] ^= 1 << bit;
                let _ = crl(&Item::Crl(changed));
            }
        }
    }
}
