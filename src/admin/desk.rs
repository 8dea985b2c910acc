//! The place where certificates are made: the settings, the folder, the CAs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::Error;
use super::folder::{self, Folder};
use super::invite;
use super::signer::{Issuer, Signer};
use crate::cli::{note, setting};
use crate::files;
use crate::http::identity::Identity;
use crate::keyfile::{self, ItemKind};
use crate::stack::trust::{Authority, Trust};
use crate::store::Store;
use crate::x509::{Certificate, NewKey};

pub struct Settings {
    pub certs: PathBuf,
    pub state: PathBuf,
    pub trust: Trust,
    pub identity: Identity,
    /// The command that lets nginx read its files.
    reload: Option<String>,
}

/// All of it, while nobody else is at work there.
pub struct Desk {
    pub settings: Settings,
    pub folder: Folder,
    /// The CAs that nginx believes, in the order of ca.crt: our own is the first.
    pub trusted: Vec<Certificate>,
}

impl Settings {
    pub fn read() -> Result<Self, Error> {
        let reload: String = setting(None, "ROLLCALL_RELOAD", "")?;
        let certs: PathBuf = setting(None, "ROLLCALL_CERTS", "certs")?;
        // A signer works in the folder itself.
        let certs = std::path::absolute(&certs).map_err(Error::file(&certs))?;
        Ok(Self {
            certs,
            state: setting(None, "ROLLCALL_STATE", ".run")?,
            trust: Trust::read()?,
            identity: setting(None, "ROLLCALL_IDENTITY", "cn")?,
            reload: Some(reload).filter(|command| !command.is_empty()),
        })
    }

    /// Lets nginx read its files, if it runs, and waits until it has.
    pub fn reload_nginx(&self) -> Result<(), Error> {
        let Some(command) = &self.reload else {
            if self.state.join("nginx").exists() {
                note(
                    "rollcall-admin: nginx was not told: ROLLCALL_RELOAD names no command; stack/run sets it",
                );
            }
            return Ok(());
        };
        match Command::new("sh").args(["-c", command]).status() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(Error::Reload(status.to_string())),
            Err(error) => Err(Error::Reload(error.to_string())),
        }
    }
}

impl Desk {
    pub fn open() -> Result<Self, Error> {
        Self::open_within(folder::PATIENCE)
    }

    /// Waits no longer than this for another command that is at work there.
    pub fn open_within(patience: Duration) -> Result<Self, Error> {
        let settings = Settings::read()?;
        let folder = Folder::open(&settings.certs, patience)?;
        for name in ["ca", "server", "bad_client"] {
            finish_pair(&folder, name)?;
        }
        invite::forget_ended(&folder);
        let trusted = folder.read("ca")?;
        Ok(Self { settings, folder, trusted })
    }

    pub fn signer(&self) -> Result<Signer<'_>, Error> {
        Signer::new(&self.folder)
    }

    pub fn is_own(&self) -> bool {
        self.settings.trust.authority == Authority::Own
    }

    /// Is the CA ours, and its key elsewhere?
    pub fn is_joined(&self) -> bool {
        self.settings.trust.authority == Authority::Joined
    }

    /// The CAs whose lists our own administrators make.
    pub fn authorities(&self) -> Vec<Certificate> {
        match self.is_joined() {
            true => self.trusted.clone(),
            false => self.own().into_iter().map(|issuer| issuer.certificate).collect(),
        }
    }

    /// The CA that signs: ours, or the command of `ROLLCALL_SIGN`, which needs no key here.
    pub fn issuer(&self) -> Result<Option<Issuer>, Error> {
        if self.signer()?.is_elsewhere() {
            return Ok(None);
        }
        match (self.settings.trust.authority, self.own().into_iter().next()) {
            (Authority::Own, Some(issuer)) => Ok(Some(issuer)),
            (Authority::Own, None) => Err(Error::NoAuthority(self.folder.certificate("ca"))),
            (Authority::Joined, _) => Err(Error::Joined),
            (Authority::External, _) => Err(Error::NoSigner),
        }
    }

    /// The CAs whose keys are ours. A second one is on its way out.
    pub fn own(&self) -> Vec<Issuer> {
        if !self.is_own() {
            return Vec::new();
        }
        let current = self
            .trusted
            .first()
            .map(|certificate| Issuer { certificate: certificate.clone(), key: self.folder.key("ca") });
        let is_trusted =
            |old: &Issuer| self.trusted.iter().any(|one| one.public_key == old.certificate.public_key);
        current.into_iter().chain(self.old().filter(is_trusted)).collect()
    }

    /// The CA that another is about to replace, or has just replaced.
    pub fn old(&self) -> Option<Issuer> {
        let certificate = self.folder.read("ca.old").ok()?.into_iter().next()?;
        let is_current = self.trusted.first().is_some_and(|first| first.public_key == certificate.public_key);
        (!is_current).then(|| Issuer { certificate, key: self.folder.key("ca.old") })
    }

    /// Completes a command for this device that was stopped before its end.
    pub async fn settle(&self, store: &Store, name: &str) -> Result<(), Error> {
        let Some((staged, certificates)) = self.folder.staged(name)? else { return Ok(()) };
        match store.certificates_with(&certificates[0].fingerprint).await?.is_empty() {
            // Nobody else can have it, and nobody noted it.
            true => self.folder.discard(&staged),
            false => self.folder.place(&staged),
        }
    }
}

/// Completes a pair that no row describes, of which the key may be in its place already.
fn finish_pair(folder: &Folder, name: &str) -> Result<(), Error> {
    let Some((staged, certificates)) = folder.staged(name)? else { return Ok(()) };
    let public = public_key(&folder.key(name));
    match public.is_some_and(|public| public == certificates[0].public_key) {
        true => folder.place(&staged),
        false => folder.discard(&staged),
    }
}

/// That of a private key of ours, in this file.
pub fn public_key(file: &Path) -> Option<Vec<u8>> {
    let items = keyfile::items(&files::read(file, files::SMALL).ok()?).ok()?;
    let key = items.iter().find(|item| item.kind == ItemKind::PrivateKey)?;
    Some(NewKey::read(&key.bytes).ok()?.public_key())
}
