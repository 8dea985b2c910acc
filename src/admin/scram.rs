//! A password as PostgreSQL keeps it (RFC 5802, RFC 7677). It goes to the database in this form alone, so that no log of
//! statements there holds a password.

use std::num::NonZeroU32;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use ring::hmac::{self, HMAC_SHA256};
use ring::pbkdf2::{self, PBKDF2_HMAC_SHA256};

/// As many as PostgreSQL makes. Nobody guesses 24 random bytes, however few there are.
const ITERATIONS: NonZeroU32 = NonZeroU32::new(4096).expect("more than zero");

/// `SCRAM-SHA-256$4096:SALT$STORED_KEY:SERVER_KEY`.
///
/// The password is printable ASCII, which SASLprep (RFC 4013) leaves as it is.
pub fn verifier(password: &str, salt: &[u8]) -> String {
    debug_assert!(password.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
    let mut salted = [0; SHA256_OUTPUT_LEN];
    pbkdf2::derive(PBKDF2_HMAC_SHA256, ITERATIONS, salt, password.as_bytes(), &mut salted);
    let salted = hmac::Key::new(HMAC_SHA256, &salted);
    let stored_key = digest(&SHA256, hmac::sign(&salted, b"Client Key").as_ref());
    let server_key = hmac::sign(&salted, b"Server Key");
    format!(
        "SCRAM-SHA-256${ITERATIONS}:{}${}:{}",
        STANDARD.encode(salt),
        STANDARD.encode(stored_key),
        STANDARD.encode(server_key)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7677, section 3: both proofs of its exchange are made with, and checked against, these two keys.
    #[test]
    fn the_exchange_of_the_rfc_is_verified() {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let verifier = verifier("pencil", &salt);
        let keys = verifier.strip_prefix("SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$").expect(&verifier);
        let (stored_key, server_key) = keys.split_once(':').unwrap();
        let key = |text| hmac::Key::new(HMAC_SHA256, &STANDARD.decode(text).unwrap());
        let exchange = b"n=user,r=rOprNGfwEbeRWgbNEkqO,\
            r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,\
            c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let signature = hmac::sign(&key(server_key), exchange);
        assert_eq!(STANDARD.encode(signature), "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        // The client proves that it knows the key of which ours is the digest.
        let signature = hmac::sign(&key(stored_key), exchange);
        let proof = STANDARD.decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=").unwrap();
        let client_key: Vec<u8> = proof.iter().zip(signature.as_ref()).map(|(a, b)| a ^ b).collect();
        assert_eq!(STANDARD.encode(digest(&SHA256, &client_key)), stored_key);
    }
}
