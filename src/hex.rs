//! Hexadecimal, in which keys, key ids, pseudonyms and state files are written.

use std::fmt::{self, Write};

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Displays two lower-case digits for each byte.
pub struct Hex<'a>(pub &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = self.0.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        digits.try_for_each(|digit| f.write_char(char::from(DIGITS[usize::from(digit)])))
    }
}

pub fn encode(bytes: &[u8]) -> String {
    Hex(bytes).to_string()
}

/// Digits of either case, exactly two for each byte, and nothing else.
pub fn decode<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    if digits.len() != 2 * N {
        return None;
    }
    let value = |digit: &u8| char::from(*digit).to_digit(16);
    let mut bytes = [0; N];
    for (byte, [high, low]) in bytes.iter_mut().zip(digits.as_chunks().0) {
        *byte = (value(high)? << 4 | value(low)?) as u8;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_both_directions() {
        assert_eq!(encode(&[0, 0x0f, 0xa9, 0xff]), "000fa9ff");
        assert_eq!(decode(b"000fa9ff"), Some([0, 0x0f, 0xa9, 0xff]));
        assert_eq!(decode(b"000FA9fF"), Some([0, 0x0f, 0xa9, 0xff]));
        assert_eq!((encode(&[]), decode(b"")), (String::new(), Some([])));
    }

    #[test]
    fn whatever_is_not_two_digits_a_byte_is_refused() {
        for text in ["", "0", "000", "0000ff", "+a00", "0x00", " 000", "00 0", "00\n", "é00", "0g00"] {
            assert_eq!(decode::<2>(text.as_bytes()), None, "{text:?}");
        }
    }
}
