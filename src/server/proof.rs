//! How a server proves that it is this stack's, and names the settings that it was started with.
//!
//! A port that answers does not say whose it is. The asker sends a challenge. The proxy credential binds the answer to
//! it: only nginx, the server and `stack/up` have the credential, and nobody shows it to the owner of the port.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use hex::FromHex;
use ring::hmac::{self, Context, HMAC_SHA256, Key};

use super::{Error, Settings};
use crate::files;
use crate::protocol::status::Email;

/// These labels keep the two uses of the credential apart.
const ANSWER: &[u8] = b"rollcall answer\0";
const SETTINGS: &[u8] = b"rollcall settings\0";
/// The header of the request, and how many bytes its hexadecimal digits stand for.
pub const HEADER: &str = "Rollcall-Challenge";
pub type Challenge = [u8; 16];

/// A statement of the server about itself, and the key to prove it with.
pub struct Proof {
    key: Key,
    statement: String,
}

impl Proof {
    /// By these settings, for this program.
    pub(crate) fn of(settings: &Settings, program: &Path) -> Result<Self, Error> {
        let credential = files::read_secret(&settings.proxy_credential)
            .map_err(|error| Error::CredentialFile(settings.proxy_credential.clone(), error))?;
        let key = Key::new(HMAC_SHA256, credential.trim_ascii());
        let announces = format!("{} to {}", settings.privacy(), settings.broadcast);
        let mut digest = Context::with_key(&key);
        let mut add = |part: &[u8]| {
            digest.update(&(part.len() as u64).to_be_bytes());
            digest.update(part);
        };
        add(SETTINGS);
        add(settings.socket.as_os_str().as_encoded_bytes());
        add(settings.listen.to_string().as_bytes());
        add(announces.as_bytes());
        add(settings.identity.to_string().as_bytes());
        add(settings.name.as_bytes());
        add(settings.canary.as_ref().map(Email::as_str).unwrap_or_default().as_bytes());
        add(&settings.max_rate.unwrap_or_default().to_be_bytes());
        add(&settings.deadline.as_nanos().to_be_bytes());
        add(settings.database_url.as_deref().unwrap_or_default().as_bytes());
        add(format!("{:?}", settings.log).as_bytes());
        add(settings.certs.as_os_str().as_encoded_bytes());
        let keys = [&settings.broadcast_key, &settings.privacy_key];
        for key in keys.map(|key| key.as_deref().map(|key| files::read(key, files::SMALL))) {
            // One that cannot be read is none: the server does not start with it.
            add(&key.and_then(Result::ok).unwrap_or_default());
        }
        let unreadable = |error| Error::Program(program.to_owned(), error);
        feed(&mut digest, program).map_err(unreadable)?;
        let settings = hex::encode(digest.sign());
        Ok(Self { key, statement: format!("settings {settings}\nannounces {announces}\n") })
    }

    pub fn statement(&self) -> &str {
        &self.statement
    }

    /// The statement, below a line that proves it.
    pub fn answer(&self, challenge: &Challenge) -> String {
        let proof = hmac::sign(&self.key, &proven(challenge, &self.statement));
        format!("proof {}\n{}", hex::encode(proof), self.statement)
    }

    /// The statement in an answer, if the credential made it.
    pub fn verify<'a>(&self, challenge: &Challenge, answer: &'a str) -> Option<&'a str> {
        let (proof, statement) = answer.strip_prefix("proof ")?.split_once('\n')?;
        let proof = <[u8; 32]>::from_hex(proof).ok()?;
        hmac::verify(&self.key, &proven(challenge, statement), &proof).ok()?;
        Some(statement)
    }
}

fn proven(challenge: &Challenge, statement: &str) -> Vec<u8> {
    [ANSWER, challenge, statement.as_bytes()].concat()
}

/// A program is too large to be held as a whole.
fn feed(digest: &mut Context, file: &Path) -> io::Result<()> {
    let mut file = BufReader::with_capacity(1 << 16, File::open(file)?);
    loop {
        let read = file.fill_buf()?;
        if read.is_empty() {
            return Ok(());
        }
        digest.update(read);
        let len = read.len();
        file.consume(len);
    }
}
