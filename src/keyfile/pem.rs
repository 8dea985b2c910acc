//! PEM (RFC 7468): the labelled blocks of a text.
//!
//! Written out because the reader that is in the tree, rustls-pemfile 1, skips `PUBLIC KEY` and `TRUSTED
//! CERTIFICATE`, and loses a block when a text stands before it in its line.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::Damaged;

const BEGIN: &str = "-----BEGIN ";

/// A label, and all that stands between its BEGIN and its END.
pub struct Block<'a> {
    pub label: &'a str,
    body: &'a str,
}

/// Every block, in the order of the text; the text around them is ignored, as openssl does.
pub fn blocks(mut text: &str) -> Result<Vec<Block<'_>>, Damaged> {
    let mut blocks = Vec::new();
    while let Some((_, begun)) = text.split_once(BEGIN) {
        text = begun;
        let Some((label, after)) = begun.split_once("-----").filter(|(label, _)| is_label(label)) else {
            continue;
        };
        let (body, rest) = after
            .split_once(&format!("-----END {label}-----"))
            .filter(|(body, _)| !body.contains(BEGIN))
            .ok_or_else(|| Damaged::NoEnd(label.to_owned()))?;
        blocks.push(Block { label, body });
        text = rest;
    }
    Ok(blocks)
}

/// People are shown it, so it is short and plain. Lower case is prose that mentions BEGIN.
fn is_label(text: &str) -> bool {
    let plain = |byte: u8| byte == b' ' || byte.is_ascii_graphic() && !byte.is_ascii_lowercase();
    !text.is_empty() && text.len() < 64 && !text.ends_with(' ') && text.bytes().all(plain)
}

impl Block<'_> {
    /// As openssl encrypted keys before PKCS #8 (RFC 1421, section 4.6.1.1).
    pub fn is_encrypted(&self) -> bool {
        self.body.contains("Proc-Type: 4,ENCRYPTED")
    }

    pub fn decode(&self) -> Result<Vec<u8>, Damaged> {
        // A header has a colon in its line, and base64 has none.
        let body = match self.body.rsplit_once(':') {
            Some((_, last)) => last.split_once(['\n', '\r']).map_or("", |(_, body)| body),
            None => self.body,
        };
        base64(body).ok_or_else(|| Damaged::NotBase64(self.label.to_owned()))
    }
}

/// RFC 4648, section 4, with padding. The bits that it leaves over are zero, so that there is one
/// spelling only.
fn base64(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    STANDARD.decode(digits).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vectors_of_rfc_4648() {
        for (text, bytes) in [
            ("", ""),
            ("Zg==", "f"),
            ("Zm8=", "fo"),
            ("Zm9v", "foo"),
            ("Zm9vYg==", "foob"),
            ("Zm9v\n YmE=\r\n", "fooba"),
            ("Zm9vYmFy", "foobar"),
        ] {
            assert_eq!(base64(text).unwrap(), bytes.as_bytes());
        }
        for text in ["Z", "Zg", "Zg=", "Zg===", "====", "Zh==", "Zm9=", "Z=g=", "Zm9v!A==", "Zm\u{e9}v"] {
            assert_eq!(base64(text), None, "{text}");
        }
    }

    #[test]
    fn finds_the_blocks_in_any_text() {
        let found = |text: &str| {
            let blocks = blocks(text)?.into_iter().map(|block| Ok((block.label.to_owned(), block.decode()?)));
            blocks.collect::<Result<Vec<_>, Damaged>>()
        };
        let [foo, bar] = [("A KEY".to_owned(), b"foo".to_vec()), ("B".to_owned(), b"foobar".to_vec())];
        let text = "It is between -----BEGIN and -----END.\n-----BEGIN A KEY-----\nZm9v\n-----END A KEY-----\n\
                    and \u{feff}-----BEGIN B-----\nComment: it\nBy: me\n\nZm9v\nYmFy\n-----END B-----";
        for text in [
            text.to_owned(),
            text.replace('\n', "\r\n"),
            text.replace('\n', "\r"),
            text.replace('\n', "\n  "),
        ] {
            assert_eq!(found(&text).unwrap(), [foo.clone(), bar.clone()], "{text:?}");
        }
        assert_eq!(found("").unwrap(), []);
        assert_eq!(found("-----BEGIN \u{1b}[2J-----").unwrap(), []);
        for (text, problem) in [
            ("-----BEGIN A-----\nZm9v\n", Damaged::NoEnd("A".into())),
            ("-----BEGIN A-----\nZm9v\n-----END B-----\n", Damaged::NoEnd("A".into())),
            ("-----BEGIN A-----\n-----BEGIN A-----\nZm9v\n-----END A-----\n", Damaged::NoEnd("A".into())),
            ("-----BEGIN A-----\nZm9\n-----END A-----\n", Damaged::NotBase64("A".into())),
            ("-----BEGIN A-----\n> Zm9v\n-----END A-----\n", Damaged::NotBase64("A".into())),
        ] {
            assert_eq!(found(text).unwrap_err(), problem, "{text:?}");
        }
    }
}
