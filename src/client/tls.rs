//! Why there is no TLS, in words. rustls says it with the names of its own types, which tell a user nothing.

use std::fmt;
use std::io;

use rustls::{AlertDescription as Alert, CertificateError as Bad, Error};

/// A failure of TLS, as a user can act on it.
pub struct Why<'a>(pub &'a io::Error);

impl fmt::Display for Why<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(error) = self.0.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
            return match self.0.kind() {
                io::ErrorKind::UnexpectedEof => f.write_str(
                    "the other end closed the connection before TLS began; are host and port of the URL right?",
                ),
                _ => write!(f, "{}", self.0),
            };
        };
        match error {
            Error::InvalidCertificate(Bad::NotValidForName) => f.write_str(
                "its certificate is not for the name in the URL; \
                 just renew-server NAME, on its host, makes one that is",
            ),
            Error::InvalidCertificate(Bad::NotValidYet) => {
                f.write_str("its certificate is not valid yet; is this device's clock right?")
            }
            Error::InvalidCertificate(Bad::Expired) => f.write_str(
                "its certificate has ended, or this device's clock is wrong; \
                 just renew-server, on its host, makes a new one",
            ),
            Error::InvalidCertificate(Bad::UnknownIssuer | Bad::BadSignature) => f.write_str(
                "no CA in the --ca file signed its certificate; is it our server, and is the file from its host?",
            ),
            Error::InvalidCertificate(Bad::Other(why)) => unusable(f, &why.to_string()),
            Error::InvalidCertificate(why) => unusable(f, &format!("{why:?}")),
            Error::AlertReceived(alert) => refused(f, *alert),
            Error::PeerIncompatible(why) => nothing_in_common(f, &format!("{why:?}")),
            Error::InvalidMessage(_) | Error::InappropriateMessage { .. } => {
                f.write_str("the other end does not speak TLS; are host and port of the URL right?")
            }
            Error::PeerMisbehaved(why) => {
                write!(f, "the other end breaks the rules of TLS ({})", spaced(&format!("{why:?}")))
            }
            // rustls has a sentence for each of the rest.
            error => write!(f, "{error}"),
        }
    }
}

/// An alert is the server's word about us, so that no advice about its certificate helps.
fn refused(f: &mut fmt::Formatter<'_>, alert: Alert) -> fmt::Result {
    match alert {
        Alert::ProtocolVersion | Alert::HandshakeFailure | Alert::InsufficientSecurity => {
            nothing_in_common(f, &format!("{alert:?}"))
        }
        Alert::UnrecognisedName => f.write_str("the server does not know the name in the URL"),
        Alert::NoCertificate
        | Alert::BadCertificate
        | Alert::UnsupportedCertificate
        | Alert::CertificateRevoked
        | Alert::CertificateExpired
        | Alert::CertificateUnknown
        | Alert::CertificateRequired
        | Alert::UnknownCA
        | Alert::AccessDenied => write!(
            f,
            "the server does not accept this client's certificate ({}); is it the server that the certificate is for?",
            spaced(&format!("{alert:?}"))
        ),
        Alert::Unknown(number) => write!(f, "the server refused the connection (alert {number})"),
        _ => write!(f, "the server refused the connection ({})", spaced(&format!("{alert:?}"))),
    }
}

fn nothing_in_common(f: &mut fmt::Formatter<'_>, why: &str) -> fmt::Result {
    write!(f, "the server and this client share no version or cipher of TLS ({})", spaced(why))
}

fn unusable(f: &mut fmt::Formatter<'_>, why: &str) -> fmt::Result {
    write!(
        f,
        "its certificate cannot be a server's ({}); just renew-server, on its host, makes one that can",
        spaced(why)
    )
}

/// `UnknownCA` is "unknown CA".
fn spaced(name: &str) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut after_small = true;
    for letter in name.chars() {
        match words.last_mut() {
            Some(word) if !(letter.is_ascii_uppercase() && after_small) => word.push(letter),
            _ => words.push(letter.to_string()),
        }
        after_small = !letter.is_ascii_uppercase();
    }
    let word =
        |word: String| if word.chars().any(|c| c.is_ascii_lowercase()) { word.to_lowercase() } else { word };
    words.into_iter().map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_words() {
        for (name, words) in [
            ("UnknownCA", "unknown CA"),
            ("CaUsedAsEndEntity", "ca used as end entity"),
            ("HandshakeFailure", "handshake failure"),
            ("already in words", "already in words"),
            ("", ""),
        ] {
            assert_eq!(spaced(name), words);
        }
    }

    #[test]
    fn no_name_of_a_type_is_shown() {
        let said = |error: Error| Why(&io::Error::new(io::ErrorKind::InvalidData, error)).to_string();
        for number in 0..=255 {
            let alert = said(Error::AlertReceived(Alert::from(number)));
            assert!(alert.starts_with("the server "), "{alert}");
            let inside = alert.split(['(', ')']).nth(1).unwrap_or_default();
            let is_word = |word: &str| {
                word.chars().skip(1).all(|c| c.is_lowercase() || c.is_numeric())
                    || word == "CA"
                    || word == "PSK"
            };
            assert!(inside.split(' ').all(is_word), "{alert}");
        }
        assert_eq!(
            said(Error::InvalidCertificate(Bad::UnknownIssuer)),
            "no CA in the --ca file signed its certificate; is it our server, and is the file from its host?"
        );
        let end = Why(&io::ErrorKind::UnexpectedEof.into()).to_string();
        assert!(end.starts_with("the other end closed the connection before TLS began"), "{end}");
        assert_eq!(Why(&io::Error::other("as it is")).to_string(), "as it is");
    }
}
