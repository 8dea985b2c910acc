//! A new key and its certificate in the place of the old ones. A crash at any moment leaves a pair, or that which the
//! next start completes.
//!
//! The new key lies in KEY.new before anybody is asked for its certificate. When that is there, it is written to
//! CERT.new; then the two are renamed, the key first.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::credentials::Files;
use crate::cli::note;
use crate::files;
use crate::keyfile::{self, Form, ItemKind};
use crate::x509::{self, Certificate, NewKey};

/// The file of a secret is its owner's alone.
const SECRET: u32 = 0o600;

/// The two files themselves, where the paths are links to them. One file may hold both.
pub struct Place {
    cert: PathBuf,
    key: PathBuf,
}

impl Place {
    /// Finds them, and sees that both can be replaced, which is a right to their folders.
    pub fn of(files: &Files) -> Result<Self, Error> {
        let place = Self::find(files)?;
        for file in [&place.key, &place.cert] {
            let probe = beside(file, &format!(".{}.probe", std::process::id()));
            let _ = fs::remove_file(&probe);
            let made = File::options().write(true).create_new(true).mode(SECRET).open(&probe);
            made.and_then(|_| fs::remove_file(&probe)).map_err(Error::of(file))?;
        }
        Ok(place)
    }

    fn find(files: &Files) -> Result<Self, Error> {
        let real = |path: &Path| fs::canonicalize(path).map_err(Error::of(path));
        Ok(Self { cert: real(&files.cert)?, key: real(&files.key)? })
    }

    /// The key of a request that was not answered yet, or a new one. It is on the disk when this returns.
    pub fn pending_key(&self) -> Result<NewKey, Error> {
        let file = self.new_key();
        if let Some(key) = files::read_secret(&file).ok().and_then(|bytes| key(&bytes)) {
            return Ok(key);
        }
        let key = NewKey::generate().map_err(Error::Key)?;
        files::replace_with_mode(&file, &self.key_as_before(&key), SECRET).map_err(Error::of(&file))?;
        Ok(key)
    }

    /// Both files as they will be. The format stays: PEM or DER.
    pub fn contents(&self, key: &NewKey, chain: &[Certificate]) -> (Vec<u8>, Vec<u8>) {
        let key = self.key_as_before(key);
        let chain = match is_binary(&self.cert) {
            true => chain.iter().flat_map(|certificate| certificate.der.clone()).collect(),
            false => chain
                .iter()
                .map(|certificate| x509::pem("CERTIFICATE", &certificate.der))
                .collect::<String>()
                .into_bytes(),
        };
        match self.is_one_file() {
            true => {
                let both = [key, chain].concat();
                (both.clone(), both)
            }
            false => (chain, key),
        }
    }

    /// Puts both in their places. Another client may have put another key into KEY.new meanwhile.
    pub fn take(&self, cert: &[u8], key: &[u8]) -> Result<(), Error> {
        if self.is_one_file() {
            files::replace_with_mode(&self.key, key, SECRET).map_err(Error::of(&self.key))?;
            let _ = fs::remove_file(self.new_key());
            return Ok(());
        }
        let mode = fs::metadata(&self.cert).map_err(Error::of(&self.cert))?.permissions().mode() & 0o777;
        let (new_key, new_cert) = (self.new_key(), self.new_cert());
        files::replace_with_mode(&new_cert, cert, mode).map_err(Error::of(&new_cert))?;
        files::replace_with_mode(&new_key, key, SECRET).map_err(Error::of(&new_key))?;
        for (from, to) in [(new_key, &self.key), (new_cert, &self.cert)] {
            rename(&from, to)?;
        }
        Ok(())
    }

    fn is_one_file(&self) -> bool {
        self.cert == self.key
    }

    fn key_as_before(&self, key: &NewKey) -> Vec<u8> {
        if is_binary(&self.key) { key.der().to_vec() } else { key.pem().into_bytes() }
    }

    fn new_key(&self) -> PathBuf {
        beside(&self.key, ".new")
    }

    fn new_cert(&self) -> PathBuf {
        beside(&self.cert, ".new")
    }
}

/// A crash between the two renames has left a new key beside the old certificate, and the new one in CERT.new.
pub fn complete(files: &Files) {
    let Ok(place) = Place::find(files) else { return };
    let Ok(new) = files::read(&place.new_cert(), files::SMALL) else { return };
    let key = files::read(&place.key, files::SMALL).ok().and_then(|bytes| key(&bytes));
    let is_its = |bytes: &[u8]| {
        let certificates = x509::certificates(bytes).unwrap_or_default();
        let key = key.as_ref().map(NewKey::public_key);
        certificates.iter().any(|certificate| Some(&certificate.public_key) == key.as_ref())
    };
    if is_its(&new) && !files::read(&place.cert, files::SMALL).is_ok_and(|old| is_its(&old)) {
        match rename(&place.new_cert(), &place.cert) {
            Ok(()) => note("rollcall-client: completed a renewal that was interrupted"),
            Err(error) => note(format_args!("rollcall-client: {error}")),
        }
    }
}

/// The rename is on the disk when this returns. Another client with the same files may have been first.
fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    match fs::rename(from, to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Error::of(to)(error)),
        _ => {}
    }
    let folder = to.parent().unwrap_or(Path::new("/"));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::of(folder))
}

fn key(bytes: &[u8]) -> Option<NewKey> {
    let items = keyfile::items(bytes).ok()?;
    let item = items.iter().find(|item| item.kind == ItemKind::PrivateKey)?;
    NewKey::read(&item.bytes).ok()
}

fn is_binary(file: &Path) -> bool {
    let items = files::read(file, files::SMALL).ok().and_then(|bytes| keyfile::items(&bytes).ok());
    items.is_some_and(|items| items.first().is_some_and(|item| item.form == Form::Binary))
}

fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path} cannot be replaced: {1}; let rollcall-client write into its folder", path = .0.display())]
    File(PathBuf, io::Error),
    #[error(transparent)]
    Key(x509::Error),
}

impl Error {
    /// For `map_err`.
    fn of(path: &Path) -> impl Fn(io::Error) -> Self {
        move |error| Error::File(path.to_owned(), error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with a pair whose certificate is that of RFC 8410, section 10.2, which has nothing to do with the key.
    fn files(name: &str) -> Files {
        let folder = std::env::temp_dir().join(format!("rollcall-replace-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).unwrap();
        let file = |name: &str| folder.join(name);
        fs::write(file("c.key"), NewKey::generate().unwrap().pem()).unwrap();
        fs::write(file("c.crt"), "old").unwrap();
        fs::set_permissions(file("c.crt"), PermissionsExt::from_mode(0o440)).unwrap();
        Files { cert: file("c.crt"), key: file("c.key"), ca: file("ca.crt") }
    }

    fn mode(file: &Path) -> u32 {
        fs::metadata(file).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn both_are_replaced_and_nothing_stays_beside_them() {
        let files = files("both");
        let place = Place::of(&files).unwrap();
        let key = place.pending_key().unwrap();
        assert_eq!(place.pending_key().unwrap().public_key(), key.public_key(), "it is asked for again");
        assert_eq!(mode(&place.new_key()), 0o600);
        let (cert, pem) = place.contents(&key, &[]);
        fs::write(place.new_key(), "another").unwrap();
        place.take(&[&cert[..], b"new"].concat(), &pem).unwrap();
        assert_eq!(fs::read(&files.cert).unwrap(), b"new");
        assert_eq!(fs::read_to_string(&files.key).unwrap(), key.pem());
        assert_eq!((mode(&files.cert), mode(&files.key)), (0o440, 0o600));
        let folder = files.cert.parent().unwrap();
        assert_eq!(fs::read_dir(folder).unwrap().count(), 2);
        // A link goes on to lead there.
        let link = Files { cert: folder.join("link"), ..files.clone() };
        std::os::unix::fs::symlink("c.crt", &link.cert).unwrap();
        let place = Place::of(&link).unwrap();
        let key = place.pending_key().unwrap();
        place.take(b"newer", key.pem().as_bytes()).unwrap();
        assert!(link.cert.is_symlink() && fs::read(&files.cert).unwrap() == b"newer");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn one_file_of_both_stays_one() {
        let files = files("one");
        let one = Files { cert: files.key.clone(), ..files.clone() };
        let place = Place::of(&one).unwrap();
        let key = place.pending_key().unwrap();
        let (cert, pem) = place.contents(&key, &[]);
        assert_eq!(cert, pem);
        place.take(&cert, &pem).unwrap();
        complete(&one);
        assert_eq!(fs::read_to_string(&one.key).unwrap(), key.pem());
        assert!(!place.new_key().exists());
        fs::remove_dir_all(files.key.parent().unwrap()).unwrap();
    }

    #[test]
    fn der_stays_der() {
        let files = files("der");
        fs::write(&files.key, NewKey::generate().unwrap().der()).unwrap();
        let place = Place::of(&files).unwrap();
        let key = place.pending_key().unwrap();
        assert_eq!(fs::read(place.new_key()).unwrap(), key.der());
        assert_eq!(place.pending_key().unwrap().public_key(), key.public_key());
        fs::remove_dir_all(files.key.parent().unwrap()).unwrap();
    }

    #[test]
    fn a_file_that_cannot_be_replaced_is_named() {
        let files = files("absent");
        fs::remove_file(&files.cert).unwrap();
        let said = Place::of(&files).err().unwrap().to_string();
        assert!(said.contains("c.crt cannot be replaced: No such file"), "{said}");
        fs::remove_dir_all(files.key.parent().unwrap()).unwrap();
    }
}
