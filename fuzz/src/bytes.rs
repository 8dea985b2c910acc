//! Values that are taken from the fuzzer's bytes.

/// What is left of the bytes.
pub struct Bytes<'a>(pub &'a [u8]);

impl Bytes<'_> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// 0 at the end.
    pub fn byte(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    pub fn number(&mut self) -> u64 {
        u64::from_be_bytes(self.array())
    }

    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let (mut array, len) = ([0; N], self.0.len().min(N));
        array[..len].copy_from_slice(&self.0[..len]);
        self.0 = &self.0[len..];
        array
    }
}
