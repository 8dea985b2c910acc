//! PEM (RFC 7468): the one block of a file that has the wanted label.
//!
//! Written out because the reader that is in the tree, rustls-pemfile 1, skips `PUBLIC KEY` blocks.

use super::Problem;

/// The bytes of the first block labelled `label`; text around it is ignored, as openssl does.
pub fn decode(text: &str, label: &'static str) -> Result<Vec<u8>, Problem> {
    let (_, block) = text.split_once(&format!("-----BEGIN {label}-----")).ok_or(Problem::NoBlock(label))?;
    let (body, _) = block.split_once(&format!("-----END {label}-----")).ok_or(Problem::NoEnd(label))?;
    base64(body).ok_or(Problem::NotBase64)
}

/// RFC 4648, section 4, with padding. The bits that it leaves over are zero, so that there is one
/// spelling only.
fn base64(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let unpadded = digits.strip_suffix(b"==").or_else(|| digits.strip_suffix(b"=")).unwrap_or(&digits);
    if !digits.len().is_multiple_of(4) {
        return None;
    }
    let mut bytes = Vec::with_capacity(digits.len() / 4 * 3);
    let (mut pending, mut bits) = (0_u32, 0);
    for digit in unpadded {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        pending = pending << 6 | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((pending >> bits) as u8);
            pending &= (1 << bits) - 1;
        }
    }
    (pending == 0).then_some(bytes)
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
    fn finds_the_labelled_block() {
        let text = "note\n-----BEGIN OTHER-----\nAAAA\n-----END OTHER-----\n\
                    -----BEGIN KEY-----\nZm9v\n-----END KEY-----\n";
        assert_eq!(decode(text, "KEY").unwrap(), b"foo");
        for (text, message) in [
            ("", "it has no -----BEGIN KEY-----"),
            ("-----BEGIN KEY-----\nZm9v\n", "it has no -----END KEY-----"),
            ("-----BEGIN KEY-----\nZm9\n-----END KEY-----\n", "what is between BEGIN and END is not base64"),
        ] {
            assert_eq!(decode(text, "KEY").unwrap_err().to_string(), message);
        }
    }
}
