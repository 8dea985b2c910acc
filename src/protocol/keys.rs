//! The key pair of the broadcast: Ed25519, by ring. DER in, signatures and answers out.

use std::fmt;

use ring::digest::{SHA256, digest};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use super::trailer::{BatchMessage, KeyId, SignatureBytes};

/// The bytes before the 32 of an Ed25519 key in its SubjectPublicKeyInfo (RFC 8410, section 4).
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The private key. The server alone has it.
pub struct Signer {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl Signer {
    /// Reads PKCS #8 (RFC 8410, section 7).
    pub fn from_der(der: &[u8]) -> Result<Self, NotEd25519> {
        // openssl writes PKCS #8 version 1, which does not hold the public key that ring could compare.
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).map_err(|_| NotEd25519)?;
        let bytes = pair.public_key().as_ref().try_into().map_err(|_| NotEd25519)?;
        Ok(Self { pair, public: PublicKey::from_bytes(bytes) })
    }

    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    pub fn sign(&self, message: &BatchMessage) -> SignatureBytes {
        self.pair.sign(message).as_ref().try_into().expect("an Ed25519 signature has 64 bytes")
    }
}

/// The public key, by which listeners believe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublicKey {
    bytes: [u8; 32],
    id: KeyId,
}

impl PublicKey {
    /// Reads a SubjectPublicKeyInfo (RFC 8410, section 4).
    pub fn from_der(der: &[u8]) -> Result<Self, NotEd25519> {
        let key = der.strip_prefix(&SPKI).and_then(|key| key.try_into().ok());
        key.map(Self::from_bytes).ok_or(NotEd25519)
    }

    /// Takes any 32 bytes. If they are no point of the curve, no signature ever verifies.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        let mut id = KeyId::default();
        let len = id.len();
        id.copy_from_slice(&digest(&SHA256, &bytes).as_ref()[..len]);
        Self { bytes, id }
    }

    /// Its SubjectPublicKeyInfo.
    pub fn to_der(&self) -> Vec<u8> {
        [&SPKI[..], &self.bytes].concat()
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.bytes
    }

    /// Tells which of several keys a datagram means. It is four bytes: a hint, and no proof.
    pub fn id(&self) -> KeyId {
        self.id
    }

    pub fn verify(&self, message: &BatchMessage, signature: &SignatureBytes) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.bytes).verify(message, signature).is_ok()
    }
}

/// The key id, in hexadecimal.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", u32::from_be_bytes(self.id))
    }
}

#[derive(Debug, thiserror::Error)]
#[error("it is not an Ed25519 key; openssl genpkey -algorithm ed25519 makes one")]
pub struct NotEd25519;

#[cfg(test)]
impl Signer {
    /// A key pair for tests, from a seed that repeats one byte.
    pub fn of_seed(byte: u8) -> Self {
        let der =
            [&b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20"[..], &[byte; 32]].concat();
        Self::from_der(&der).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key of RFC 8410, section 10.3, and its public half, section 10.1.
    const PRIVATE: &[u8; 96] =
        b"302e020100300506032b657004220420d4ee72dbf913584ad5b6d8f1f769f8ad3afe7c28cbf1d4fbe097a88f44755842";
    const PUBLIC: &[u8; 88] =
        b"302a300506032b657003210019bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1";

    #[test]
    fn the_two_halves_of_the_rfc_belong_together() {
        let signer = Signer::from_der(&hex::decode(PRIVATE).unwrap()).unwrap();
        let public = PublicKey::from_der(&hex::decode(PUBLIC).unwrap()).unwrap();
        assert_eq!(*signer.public(), public);
        assert_eq!(public.to_string(), "e744c079");
        let message = [7; 59];
        let signature = signer.sign(&message);
        assert!(public.verify(&message, &signature));
        assert!(!public.verify(&[8; 59], &signature));
        for at in 0..64 {
            let mut changed = signature;
            changed[at] ^= 1;
            assert!(!public.verify(&message, &changed), "{at}");
        }
        assert!(!PublicKey::from_bytes([0xff; 32]).verify(&message, &signature));
    }
}
