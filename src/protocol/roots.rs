//! The batches whose signature was verified, so that a batch costs one check and not one per datagram.

use super::keys::PublicKey;
use super::trailer::{BatchMessage, SignatureBytes};

/// More than the batches that are under way at one time; few enough to look through.
const ROOTS: usize = 64;

/// The verified roots, the latest used first. Only a root that a key of ours signed gets in, so that a forger
/// pushes nothing out.
#[derive(Default)]
pub struct Roots {
    /// The comparison covers the signature: one with a flipped bit was never verified.
    verified: Vec<(PublicKey, BatchMessage, SignatureBytes)>,
    #[cfg(test)]
    checks: u64,
}

impl Roots {
    /// Does `key` vouch for `message`?
    pub fn believes(&mut self, key: &PublicKey, message: &BatchMessage, signature: &SignatureBytes) -> bool {
        let known = self.verified.iter().position(|(k, m, s)| m == message && s == signature && k == key);
        if let Some(at) = known {
            self.verified[..=at].rotate_right(1);
            return true;
        }
        #[cfg(test)]
        {
            self.checks += 1;
        }
        if !key.verify(message, signature) {
            return false;
        }
        self.verified.truncate(ROOTS - 1);
        self.verified.insert(0, (*key, *message, *signature));
        true
    }

    /// Signatures that were computed.
    #[cfg(test)]
    pub fn checks(&self) -> u64 {
        self.checks
    }
}
