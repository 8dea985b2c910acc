//! When the CRL and the certificates of the stack begin and end.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{Finding, Level, Settings};
use crate::files;
use crate::keyfile::ItemKind;
use crate::stack::trust::{Authority, Lists, Trust};
use crate::x509;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// A certificate that ends within this needs a successor.
pub const SOON: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// A timer renews the CRL when it has 20 days left. With fewer than this, it did not run.
const CRL_SOON: Duration = Duration::from_secs(10 * 24 * 60 * 60);
const CRL_LATE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// A file that ends some day, the consequence of that, and the remedy.
struct Dated {
    path: PathBuf,
    name: &'static str,
    kind: ItemKind,
    soon: Duration,
    /// A fault from now on.
    late: Duration,
    consequence: &'static str,
    remedy: String,
}

/// From when until when something holds. A CRL without an end goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    begin: SystemTime,
    end: Option<SystemTime>,
}

pub fn check(settings: &Settings) -> Vec<Finding> {
    let now = SystemTime::now();
    let trust = Trust::read().ok();
    let is_external = trust.as_ref().is_some_and(|trust| trust.authority == Authority::External);
    let certificate = |file: &str, consequence, remedy: &str| {
        let path = settings.certs.join(file);
        let remedy = if is_external { "get a new one from its CA, and just up" } else { remedy }.to_owned();
        let (name, kind) = ("the certificate", ItemKind::Certificate);
        Dated { path, name, kind, soon: SOON, late: Duration::ZERO, consequence, remedy }
    };
    let path = settings.state.join("nginx/crl.pem");
    let is_one_of_several = spans(&path, ItemKind::Crl).is_ok_and(|spans| spans.len() > 1);
    let crl = Dated {
        path,
        name: "the CRL",
        kind: ItemKind::Crl,
        soon: CRL_SOON,
        late: CRL_LATE,
        consequence: if is_one_of_several {
            "nginx refuses everybody of its CA"
        } else {
            "nginx refuses everybody"
        },
        remedy: "just crl; a timer should do that (deploy/)".to_owned(),
    };
    let ca = certificate("ca.crt", "nobody believes any certificate", "just ca renew");
    let server = certificate("server.crt", "no client speaks to this server", "just renew-server");
    let client = certificate("client.crt", "just client stops at it", "just renew client");
    let mut findings = vec![of(&ca, now), of(&server, now)];
    // nginx reads none where somebody else's CA has none.
    if trust.is_none_or(|trust| trust.crl != Lists::Off) {
        findings.insert(0, of(&crl, now));
    }
    // Only the walkthrough has this one, and nobody else depends on it.
    if client.path.exists() {
        let finding = of(&client, now);
        findings.push(Finding { level: finding.level.min(Level::Yellow), ..finding });
    }
    findings
}

fn of(dated: &Dated, now: SystemTime) -> Finding {
    let Dated { path, name, kind, consequence, remedy, .. } = dated;
    let name = format!("{name} {}", path.display());
    match spans(path, *kind) {
        Ok(spans) => of_spans(&spans, &name, dated, now),
        Err(Fault::Unreadable(error)) if error.kind() == io::ErrorKind::PermissionDenied => Finding::yellow(
            format!("{name} was not checked: {error}"),
            "run this as root, or as the user that runs the stack",
        ),
        Err(Fault::Unreadable(error)) if error.kind() == io::ErrorKind::NotFound => Finding::red(
            format!("{name} is missing: {consequence}"),
            "just up, with the same ROLLCALL_STATE and ROLLCALL_CERTS",
        ),
        Err(fault) => Finding::red(format!("{name} cannot be used: {fault}: {consequence}"), remedy),
    }
}

/// A file holds as long as everything in it.
fn of_spans(spans: &[Span], name: &str, dated: &Dated, now: SystemTime) -> Finding {
    let Dated { soon, late, consequence, remedy, .. } = dated;
    let days = |duration: Duration| duration.as_secs() / DAY.as_secs();
    if let Some(begin) = spans.iter().map(|span| span.begin).filter(|begin| *begin > now).max() {
        let begin = humantime::format_rfc3339_seconds(begin);
        return Finding::red(
            format!("{name} does not hold before {begin}: {consequence}"),
            format!("set the clock of this host (timedatectl set-ntp true), or make it anew: {remedy}"),
        );
    }
    let Some(end) = spans.iter().filter_map(|span| span.end).min() else {
        return Finding::green(format!("{name} has no end"));
    };
    let time = humantime::format_rfc3339_seconds(end);
    match end.duration_since(now) {
        Err(over) => Finding::red(
            format!("{name} ended {} days ago ({time}): {consequence}", days(over.duration())),
            remedy,
        ),
        Ok(left) if left < *soon => {
            let text = format!("{name} ends in {} days ({time}); then {consequence}", days(left));
            if left < *late { Finding::red(text, remedy) } else { Finding::yellow(text, remedy) }
        }
        Ok(left) => Finding::green(format!("{name} ends in {} days ({time})", days(left))),
    }
}

/// At least one, in the order of the file.
fn spans(path: &Path, kind: ItemKind) -> Result<Vec<Span>, Fault> {
    let bytes = files::read(path, x509::LARGEST_CRL)?;
    let time = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let span = |begin, end: Option<u64>| Span { begin: time(begin), end: end.map(time) };
    let spans: Vec<Span> = if kind == ItemKind::Crl {
        x509::crls(&bytes)?.iter().map(|crl| span(crl.this_update, crl.next_update)).collect()
    } else {
        x509::certificates(&bytes)?.iter().map(|it| span(it.not_before, Some(it.not_after))).collect()
    };
    if spans.is_empty() { Err(Fault::Empty) } else { Ok(spans) }
}

#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Unreadable(#[from] io::Error),
    #[error("there is none in the file")]
    Empty,
    #[error(transparent)]
    Damaged(#[from] x509::Error),
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::process::Command;

    #[test]
    fn the_first_end_decides() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_456_442);
        let dated = Dated {
            path: PathBuf::new(),
            name: "",
            kind: ItemKind::Crl,
            soon: SOON,
            late: 5 * DAY,
            consequence: "woe",
            remedy: "renew".to_owned(),
        };
        let span = |end: SystemTime| Span { begin: now - DAY, end: Some(end) };
        let early = Span { begin: now + DAY, end: Some(now + 90 * DAY) };
        let endless = Span { begin: now - DAY, end: None };
        let (later, soon, over) = (span(now + 90 * DAY), span(now + 29 * DAY), span(now - 2 * DAY));
        for (spans, level, text) in [
            (&[span(now + 31 * DAY), later][..], Level::Green, "it ends in 31 days (2026-12-24T17:54:02Z)"),
            (&[span(now + 4 * DAY)], Level::Red, "it ends in 4 days (2026-11-27T17:54:02Z); then woe"),
            (&[later, soon], Level::Yellow, "it ends in 29 days (2026-12-22T17:54:02Z); then woe"),
            (&[later, over], Level::Red, "it ended 2 days ago (2026-11-21T17:54:02Z): woe"),
            (&[endless, later], Level::Green, "it ends in 90 days (2027-02-21T17:54:02Z)"),
            (&[endless], Level::Green, "it has no end"),
            (&[later, early], Level::Red, "it does not hold before 2026-11-24T17:54:02Z: woe"),
        ] {
            let finding = of_spans(spans, "it", &dated, now);
            assert_eq!((finding.level, finding.text.as_str()), (level, text));
            assert_eq!(finding.advice.is_some(), level > Level::Green);
        }
    }

    #[test]
    fn openssls_files_are_read_and_broken_ones_are_not() {
        let folder = std::env::temp_dir().join(format!("rollcall-validity-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let openssl = |arguments: &str| {
            let output =
                Command::new("openssl").args(arguments.split(' ')).current_dir(&folder).output().unwrap();
            assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
        };
        let write = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
        let text = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
        let read = |name: &str, kind| spans(&folder.join(name), kind).map_err(|fault| fault.to_string());
        let lasts = |span: Span| span.end.unwrap().duration_since(span.begin).unwrap();

        openssl(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 7 -subj /CN=x -keyout key -out cert -batch",
        );
        assert_eq!(lasts(read("cert", ItemKind::Certificate).unwrap()[0]), 7 * DAY);
        // A CRL that is numbered is of version 2.
        let configuration = "[ca]\ndefault_ca=ca\ndatabase=index\ndefault_md=sha256\n";
        write("index", "");
        write("number", "01");
        for (version, numbered, days) in [("one", "", 3), ("two", "crlnumber=number\n", 5)] {
            write("cnf", &(configuration.to_owned() + numbered));
            openssl(&format!(
                "ca -gencrl -config cnf -keyfile key -cert cert -crldays {days} -out {version}"
            ));
            let [span] = read(version, ItemKind::Crl).unwrap()[..] else { panic!("there is one") };
            assert_eq!(lasts(span), days * DAY, "{version}");
            assert!(span.begin.elapsed().is_ok_and(|age| age < DAY), "{version}");
        }
        write("both", &(text("one") + &text("cert") + &text("two")));
        assert_eq!(read("both", ItemKind::Crl).unwrap().len(), 2);
        assert_eq!(read("both", ItemKind::Certificate).unwrap().len(), 1);

        // Four characters of base64 are three bytes.
        write("shorter", &text("two").replacen("-----\n", "-----\nAAAA", 1));
        write("base64", "-----BEGIN X509 CRL-----\n!\n-----END X509 CRL-----\n");
        write("empty", "");
        for (name, fault) in [
            ("shorter", "it is damaged: "),
            ("base64", "it is damaged: "),
            ("empty", "there is none in the file"),
            ("cert", "there is none in the file"),
        ] {
            let found = read(name, ItemKind::Crl).unwrap_err();
            assert!(found.starts_with(fault), "{name}: {found}");
        }
        fs::remove_dir_all(&folder).unwrap();
    }
}
