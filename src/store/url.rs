//! `DATABASE_URL`, taken apart once. Whatever it says has an effect, or is an error that says so: whoever wrote
//! `connect_timeout` counts on it.
//!
//! No error holds anything of the URL but names that are known here, for the rest may be the password.

use std::borrow::Cow;
use std::path::PathBuf;
use std::str::FromStr;

use sqlx::postgres::{PgConnectOptions, PgSslMode};

use super::Error;
use super::tls::Files;

const FORM: &str = "its form is postgres://USER@HOST/DATABASE";
const MODES: &str = "sslmode is verify-full, verify-ca or disable";
const ENCODE: &str = "it has a / in the password, or an @ in the database: in user, password and database each of \
                      / : @ ? # [ ] % is percent-encoded (RFC 3986): %2F %3A %40 %3F %23 %5B %5D %25";
const SEVERAL: &str =
    "it names several hosts; put HAProxy or a virtual address in front of them and name that";
const ENCRYPT: &str = "sslmode=verify-full&sslrootcert=FILE, with the authority of the database's certificate (to a \
                       HAProxy on this host sslmode=verify-ca), encrypts and proves; sslmode=disable is clear text on purpose";

/// The parameters that sqlx reads.
const PARAMETERS: [&str; 12] = [
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "options",
];

/// Those of libpq and of older versions that would have no effect, and the remedy.
const INEFFECTIVE: [(&[&str], &str); 7] = [
    (
        &["ssl-mode", "ssl-root-cert", "ssl-ca", "ssl-cert", "ssl-key"],
        "the names are those of libpq: sslmode, sslrootcert, sslcert, sslkey",
    ),
    (
        &["target_session_attrs"],
        "leave it out: each new connection is asked whether the database may be written",
    ),
    (&["connect_timeout"], "leave it out: ROLLCALL_DEADLINE bounds that too"),
    (
        &["keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout"],
        "leave it out: a connection whose answer is late is thrown away",
    ),
    (&["load_balance_hosts"], "leave it out, and name one host"),
    (&["application_name", "fallback_application_name"], "leave it out: the name is always rollcall"),
    (
        &[
            "channel_binding",
            "client_encoding",
            "gssdelegation",
            "gssencmode",
            "gsslib",
            "krbsrvname",
            "max_protocol_version",
            "min_protocol_version",
            "passfile",
            "replication",
            "require_auth",
            "requirepeer",
            "requiressl",
            "service",
            "ssl_max_protocol_version",
            "ssl_min_protocol_version",
            "sslcertmode",
            "sslcompression",
            "sslcrl",
            "sslcrldir",
            "sslkeylogfile",
            "sslnegotiation",
            "sslpassword",
            "sslsni",
        ],
        "leave it out",
    ),
];

/// How to connect, and the files that this needs. Looks at no file.
pub fn read(url: &str) -> Result<(PgConnectOptions, Option<Files>), Error> {
    let parameters = parameters(url)?;
    let value = |wanted| parameters.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value.as_str());
    let mode = value("sslmode").map(str::to_ascii_lowercase);
    if mode.as_deref().is_some_and(|mode| PgSslMode::from_str(mode).is_err()) {
        return Err(malformed(MODES));
    }
    let options = PgConnectOptions::from_str(url).map_err(|_| malformed(FORM))?;
    // sqlx itself says where the URL leads.
    let is_socket = options.get_socket().is_some() || options.get_host().starts_with('/');
    if !is_socket && options.get_host().contains(',') {
        return Err(malformed(SEVERAL));
    }
    let file = |name: &'static str| match value(name) {
        Some(path) if path.starts_with('/') => Ok(Some(PathBuf::from(path))),
        Some(_) => Err(malformed(format!("{name} is not an absolute path"))),
        None => Ok(None),
    };
    let (sslrootcert, sslcert, sslkey) = (file("sslrootcert")?, file("sslcert")?, file("sslkey")?);
    let mode = match mode.as_deref() {
        Some("disable") => PgSslMode::Disable,
        None if is_socket => PgSslMode::Disable,
        Some("require" | "verify-ca" | "verify-full" | "prefer" | "allow") if is_socket => {
            return Err(malformed(
                "it leads to a Unix socket, where PostgreSQL has no TLS: leave sslmode out",
            ));
        }
        Some("verify-ca") => PgSslMode::VerifyCa,
        Some("verify-full") => PgSslMode::VerifyFull,
        Some("require") => {
            return Err(malformed(format!("sslmode=require encrypts for anybody who answers; {ENCRYPT}")));
        }
        Some("prefer" | "allow") => {
            return Err(malformed(format!(
                "sslmode=prefer and allow are clear text whenever the other end likes; {ENCRYPT}"
            )));
        }
        Some(_) => return Err(malformed(MODES)),
        None => return Err(malformed(format!("it leads over TCP and has no sslmode; {ENCRYPT}"))),
    };
    // sqlx has one name to connect to and to check, which hostaddr would be; libpq checks the one of host.
    if matches!(mode, PgSslMode::VerifyFull) && value("hostaddr").is_some() {
        return Err(malformed(
            "with hostaddr the certificate would be checked against that address; leave hostaddr out, and name the host of the \
             certificate, with its address in /etc/hosts if nobody else knows it; or sslmode=verify-ca",
        ));
    }
    let options = options.ssl_mode(mode);
    if matches!(mode, PgSslMode::Disable) {
        return match (sslrootcert, sslcert, sslkey) {
            (None, None, None) => Ok((options, None)),
            _ => Err(malformed(
                "sslrootcert, sslcert and sslkey would have no effect without TLS: leave them out",
            )),
        };
    }
    let own = match (sslcert, sslkey) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        _ => return Err(malformed("sslcert and sslkey are given together")),
    };
    let Some(sslrootcert) = sslrootcert else {
        return Err(malformed(
            "sslrootcert is not given, and no authority is trusted by itself: name the file with that of the database",
        ));
    };
    let files = Files { sslrootcert, own };
    Ok((files.apply(options), Some(files)))
}

fn malformed(why: impl Into<Cow<'static, str>>) -> Error {
    Error::Url(why.into())
}

/// The parameters by name, each once, decoded. All of them have an effect.
fn parameters(url: &str) -> Result<Vec<(&str, String)>, Error> {
    let rest = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://"));
    let rest = rest.ok_or_else(|| malformed(FORM))?;
    if rest.contains('#') {
        return Err(malformed(
            "it has a #, after which nothing would have an effect; in a password it is %23",
        ));
    }
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = place.split_once('/').unwrap_or((place, ""));
    if !authority.is_empty() && database.contains('@') {
        return Err(malformed(ENCODE));
    }
    let hosts = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let mut known: Vec<(&str, String)> = Vec::new();
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let is_option = name.starts_with("options[") && name.ends_with(']');
        if !is_option && !PARAMETERS.contains(&name) {
            return Err(no_effect(name));
        }
        if known.iter().any(|(before, _)| *before == name) {
            return Err(malformed("it has a parameter twice, of which the first would have no effect"));
        }
        let value = decoded(value);
        if matches!(name, "host" | "hostaddr" | "port") && !value.starts_with('/') && value.contains(',') {
            return Err(malformed(SEVERAL));
        }
        known.push((name, value));
    }
    let host = decoded(hosts);
    if !host.starts_with('/') && host.contains(',') {
        return Err(malformed(SEVERAL));
    }
    Ok(known)
}

fn no_effect(name: &str) -> Error {
    let known = INEFFECTIVE.iter().find_map(|(names, remedy)| {
        names
            .iter()
            .find(|known| **known == name)
            .map(|known| format!("{known} would have no effect; {remedy}"))
    });
    malformed(known.unwrap_or_else(|| {
        "it has a parameter that would have no effect; a ? in a password is %3F".to_owned()
    }))
}

/// As a form is decoded (WHATWG URL, application/x-www-form-urlencoded).
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let digits = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        let byte = digits.filter(|two| two.bytes().all(|digit| digit.is_ascii_hexdigit()));
        rest = after;
        bytes.push(match (first, byte.and_then(|two| u8::from_str_radix(two, 16).ok())) {
            (b'%', Some(byte)) => {
                rest = &after[2..];
                byte
            }
            (b'+', _) => b' ',
            _ => *first,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(url: &str, why: &str) {
        let error = read(url).expect_err(url).to_string();
        assert!(error.starts_with("DATABASE_URL is malformed: ") && error.contains(why), "{url}: {error}");
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[test]
    fn a_url_says_nothing_that_would_have_no_effect() {
        for url in [
            "postgresql://a:p,w@b:5432/c?sslmode=disable&options[search_path]=x",
            "postgres://a@localhost/c?host=/run/a,b&user=x",
            "postgres://a@localhost/c?host=%2Frun%2Fa,b",
            "postgres://a@%2Frun%2Fa/c",
            "postgres://a@b/c?sslmode=DISABLE",
            "postgres://a:x%2Fy%40%3F%23%25@b/c%40d?sslmode=disable",
            "postgres://a@b/c?sslmode=disable&hostaddr=192.0.2.1",
            "postgres:///c@d?host=/run/a",
        ] {
            let (options, files) = read(url).expect(url);
            assert!(matches!(options.get_ssl_mode(), PgSslMode::Disable) && files.is_none(), "{url}");
        }
        for (url, why) in [
            ("mysql://a@b/c", FORM),
            ("", FORM),
            ("postgres://a@b:port/c?sslmode=disable", FORM),
            ("postgres://a@b,c/d", "several hosts"),
            ("postgres://a@b:1,c:2/d", "several hosts"),
            ("postgres://a@b%2Cc/d", "several hosts"),
            ("postgres:///d?host=b,c", "several hosts"),
            ("postgres:///d?host=b%2cc", "several hosts"),
            ("postgres://a@b/c?sslmode=disable&sslmode=verify-full", "twice"),
            ("postgres://a:hunter2#x@b/c?sslmode=disable", "%23"),
            ("postgres://a:hunter2/x@b/c?sslmode=disable", "it has a / in the password"),
            (
                "postgres://a:12/hunter2@b/c?sslmode=disable",
                "/ : @ ? # [ ] % is percent-encoded (RFC 3986): %2F %3A",
            ),
            ("postgres://a:x@hunter2/x@b/c?sslmode=disable", ENCODE),
            ("postgres://a:x?hunter2@b/c", "it has a parameter that would have no effect"),
            ("postgres://a@b/c?optionsx=1", "no effect"),
            ("postgres://a@b/c?options[x=1", "no effect"),
        ] {
            refused(url, why);
        }
        for (names, remedy) in INEFFECTIVE {
            for name in names {
                assert!(!PARAMETERS.contains(name));
                let said = format!("{name} would have no effect; {remedy}");
                refused(&format!("postgres://a:hunter2@b/c?sslmode=disable&{name}=hunter2"), &said);
            }
        }
    }

    #[test]
    fn over_tcp_clear_text_is_written_out() {
        for (query, why) in [
            ("", "over TCP and has no sslmode; sslmode=verify-full&sslrootcert=FILE"),
            ("?sslmode=prefer", "clear text whenever the other end likes; sslmode=verify-full"),
            ("?sslmode=allow", "clear text whenever the other end likes; sslmode=verify-full"),
            ("?sslmode=require", "encrypts for anybody who answers; sslmode=verify-full"),
            ("?sslmode=require&sslrootcert=/ca", "encrypts for anybody who answers"),
            ("?sslmode=", "sslmode is verify-full, verify-ca or disable"),
            ("?sslmode=verify", "sslmode is verify-full, verify-ca or disable"),
            ("?sslmode=verify-ca", "sslrootcert is not given"),
            ("?sslmode=verify-full&sslcert=/a&sslkey=/b", "sslrootcert is not given"),
            ("?sslmode=verify-full&sslrootcert=ca.crt", "sslrootcert is not an absolute path"),
            ("?sslmode=verify-full&sslrootcert=", "sslrootcert is not an absolute path"),
            ("?sslmode=verify-full&sslrootcert=/ca&sslcert=/a", "given together"),
            ("?sslmode=verify-full&sslrootcert=/ca&sslkey=/a", "given together"),
            ("?sslmode=disable&sslrootcert=/ca", "no effect without TLS"),
            ("?sslmode=verify-full&sslrootcert=/ca&hostaddr=192.0.2.1", "checked against that address"),
            ("?sslmode=verify-full&host=/run/x", "Unix socket"),
            ("?sslmode=require&host=/run/x", "Unix socket"),
        ] {
            refused(&format!("postgres://a:hunter2@127.0.0.1/c{query}"), why);
        }
        let query = "sslmode=verify-full&sslrootcert=/c%20a+b&sslcert=/c%25&sslkey=/k";
        let (options, files) = read(&format!("postgres://a@b/c?{query}")).unwrap();
        let own = Some(("/c%".into(), "/k".into()));
        assert_eq!(files, Some(Files { sslrootcert: "/c a b".into(), own }));
        assert!(matches!(options.get_ssl_mode(), PgSslMode::VerifyFull));
    }
}
