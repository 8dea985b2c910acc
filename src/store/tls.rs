//! The files of TLS that `DATABASE_URL` names. sqlx reads them at each new connection, so that one that is replaced
//! counts from then on; a mistake in them is found when a program starts.

use std::io;
use std::path::{Path, PathBuf};

use sqlx::postgres::PgConnectOptions;

use crate::files::{self, FileError};
use crate::keyfile::{self, Form, ItemKind};

/// Bytes of a file with the authorities of a whole system.
const LARGEST: u64 = 1 << 20;

/// The paths, by the name of their parameter.
#[derive(Debug, PartialEq, Eq)]
pub struct Files {
    pub sslrootcert: PathBuf,
    /// Certificate and key of a role that shows one in the place of a password.
    pub own: Option<(PathBuf, PathBuf)>,
}

/// The fault of such a file.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("{0}")]
    Read(io::Error),
    #[error("it is empty")]
    Empty,
    #[error("it is damaged: {0}")]
    Damaged(keyfile::Damaged),
    #[error("it holds {0}, and not {1}")]
    Another(ItemKind, ItemKind),
    #[error("there is nothing in it that is {0}")]
    Nothing(ItemKind),
    #[error("it is not the PEM that sqlx reads; openssl {0} -in FILE writes it")]
    NotPem(&'static str),
    #[error(
        "it is encrypted, and nobody could type the passphrase; openssl pkey -in FILE writes it without one"
    )]
    Encrypted,
    #[error("it is not the key of the certificate in sslcert, {path}", path = .0.display())]
    NoPair(PathBuf),
}

impl Files {
    /// Finds what is missing, unreadable, exposed or of another kind.
    pub fn check(&self) -> Result<(), FileError<Fault>> {
        certificate("DATABASE_URL: sslrootcert", &self.sslrootcert)?;
        if let Some((sslcert, sslkey)) = &self.own {
            let certificate = certificate("DATABASE_URL: sslcert", sslcert)?;
            let read = files::read_secret(sslkey).map_err(Fault::Read);
            let key = read.and_then(|bytes| holds(&bytes, ItemKind::PrivateKey, "pkey"));
            let pair = key.and_then(|key| match keyfile::may_be_pair(&certificate, &key) {
                true => Ok(()),
                false => Err(Fault::NoPair(sslcert.clone())),
            });
            pair.map_err(FileError::of("DATABASE_URL: sslkey", sslkey))?;
        }
        Ok(())
    }

    pub fn apply(&self, options: PgConnectOptions) -> PgConnectOptions {
        let options = options.ssl_root_cert(&self.sslrootcert);
        match &self.own {
            Some((sslcert, sslkey)) => options.ssl_client_cert(sslcert).ssl_client_key(sslkey),
            None => options,
        }
    }
}

fn certificate(role: &'static str, path: &Path) -> Result<Vec<u8>, FileError<Fault>> {
    let read = files::read(path, LARGEST).map_err(Fault::Read);
    read.and_then(|bytes| holds(&bytes, ItemKind::Certificate, "x509")).map_err(FileError::of(role, path))
}

/// The DER of the first that is wanted.
fn holds(bytes: &[u8], wanted: ItemKind, command: &'static str) -> Result<Vec<u8>, Fault> {
    if bytes.trim_ascii().is_empty() {
        return Err(Fault::Empty);
    }
    let mut items = keyfile::items(bytes).map_err(Fault::Damaged)?;
    match items.iter().position(|item| item.kind == wanted) {
        Some(at) if items[at].form == Form::Pem => Ok(items.swap_remove(at).bytes),
        Some(_) => Err(Fault::NotPem(command)),
        None => Err(match items.first().map(|item| item.kind) {
            Some(ItemKind::EncryptedKey) => Fault::Encrypted,
            Some(other) => Fault::Another(other, wanted),
            None => Fault::Nothing(wanted),
        }),
    }
}
