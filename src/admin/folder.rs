//! The folder of the certificates, whose files are derived: each can be made again, and is replaced in one step.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::Error;
use crate::files;
use crate::x509::{self, Certificate};

/// Bytes of a file with certificates.
const MOST: u64 = 1 << 22;

/// A public file, and one that its owner alone may read.
const PUBLIC: u32 = 0o644;
pub const SECRET: u32 = 0o600;

/// How long a command waits for another one that is at work in the folder.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Names that files of the stack have.
const TAKEN: [&str; 8] = ["ca", "ca.old", "server", "bad_client", "crl", "broadcast", "privacy", "joining"];

/// `$ROLLCALL_CERTS`, in which one command at a time is at work.
pub struct Folder {
    path: PathBuf,
    /// The kernel lifts the lock when this is closed, however the process ends.
    _lock: File,
}

/// A key and a certificate that are whole, and not yet in the place of the old ones.
pub struct Staged {
    name: String,
}

impl Folder {
    pub fn open(path: &Path, patience: Duration) -> Result<Self, Error> {
        let lock = path.join(".lock");
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(Error::file(path))?;
        let file =
            File::options().create(true).append(true).mode(SECRET).open(&lock).map_err(Error::file(&lock))?;
        let end = Instant::now() + patience;
        loop {
            match file.try_lock() {
                Ok(()) => {
                    sweep(path).map_err(Error::file(path))?;
                    return Ok(Self { path: path.to_owned(), _lock: file });
                }
                Err(TryLockError::Error(error)) => return Err(Error::file(&lock)(error)),
                Err(TryLockError::WouldBlock) if Instant::now() > end => {
                    return Err(Error::Busy(path.to_owned()));
                }
                Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.path.join(file)
    }

    pub fn certificate(&self, name: &str) -> PathBuf {
        self.path(&format!("{name}.crt"))
    }

    pub fn key(&self, name: &str) -> PathBuf {
        self.path(&format!("{name}.key"))
    }

    /// Can a device have this name?
    pub fn check_name(name: &str) -> Result<(), Error> {
        let wrong = |why| Err(Error::Name(name.to_owned(), why));
        match name {
            "" => wrong("it is empty"),
            _ if TAKEN.contains(&name) || name.starts_with("broadcast.") => wrong("the stack has it"),
            _ if name.starts_with(['.', '-']) || name.contains('/') || name.contains(char::is_control) => {
                wrong("it cannot be a file name")
            }
            // With the ends .crt and .key, and the process id that a new file has for a moment (NAME_MAX is 255).
            _ if name.len() > 200 => wrong("it has more than 200 bytes"),
            _ => Ok(()),
        }
    }

    /// The certificates of NAME.crt, or nothing if there is no such file.
    pub fn read(&self, name: &str) -> Result<Vec<Certificate>, Error> {
        read_certificates(&self.certificate(name))
    }

    /// Puts both beside their places. The key is `None` if the device keeps it.
    pub fn stage(&self, name: &str, key: Option<&str>, certificate: &str) -> Result<Staged, Error> {
        let staged = Staged { name: name.to_owned() };
        if let Some(key) = key {
            self.write(&self.staged_key(name), key.as_bytes(), SECRET)?;
        }
        self.write(&self.staged_certificate(name), certificate.as_bytes(), PUBLIC)?;
        Ok(staged)
    }

    /// The key first: a reader between the two steps finds an old certificate with a new key, which are no pair, and
    /// tries again.
    pub fn place(&self, staged: &Staged) -> Result<(), Error> {
        let Staged { name } = staged;
        for (from, to) in
            [(self.staged_key(name), self.key(name)), (self.staged_certificate(name), self.certificate(name))]
        {
            match fs::rename(&from, &to) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                done => done.map_err(Error::file(&to))?,
            }
        }
        File::open(&self.path).and_then(|folder| folder.sync_all()).map_err(Error::file(&self.path))
    }

    /// That which a command has left that was stopped between the two.
    pub fn staged(&self, name: &str) -> Result<Option<(Staged, Vec<Certificate>)>, Error> {
        let certificates = read_certificates(&self.staged_certificate(name))?;
        let staged = Staged { name: name.to_owned() };
        if certificates.is_empty() {
            self.discard(&staged)?;
            return Ok(None);
        }
        Ok(Some((staged, certificates)))
    }

    pub fn discard(&self, staged: &Staged) -> Result<(), Error> {
        for file in [self.staged_certificate(&staged.name), self.staged_key(&staged.name)] {
            self.remove(&file)?;
        }
        Ok(())
    }

    pub fn remove(&self, file: &Path) -> Result<(), Error> {
        match fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::file(file)(error)),
            _ => Ok(()),
        }
    }

    /// Replaces a file that everybody may read.
    pub fn publish(&self, file: &Path, content: &[u8]) -> Result<(), Error> {
        self.write(file, content, PUBLIC)
    }

    /// Replaces a file that its owner alone may read.
    pub fn hide(&self, file: &Path, content: &[u8]) -> Result<(), Error> {
        self.write(file, content, SECRET)
    }

    fn write(&self, file: &Path, content: &[u8], mode: u32) -> Result<(), Error> {
        files::replace_with_mode(file, content, mode).map_err(Error::file(file))
    }

    fn staged_key(&self, name: &str) -> PathBuf {
        self.path(&format!("{name}.key.staged"))
    }

    fn staged_certificate(&self, name: &str) -> PathBuf {
        self.path(&format!("{name}.crt.staged"))
    }
}

/// Removes the parts of files that a command has left that was killed: FILE.PID.new, and a key whose certificate was
/// not made yet. Each may hold a key.
fn sweep(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_dead = match name.split('.').collect::<Vec<_>>()[..] {
            [.., "crt" | "key" | "pem" | "p12" | "staged", pid, "new"] => pid.parse::<u32>().is_ok(),
            [.., "key", "staged"] => !folder.join(name.replace(".key.staged", ".crt.staged")).exists(),
            _ => false,
        };
        if is_dead {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Every certificate of the file; nothing, if there is none.
pub fn read_certificates(path: &Path) -> Result<Vec<Certificate>, Error> {
    let bytes = match files::read(path, MOST) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read.map_err(Error::file(path))?,
    };
    x509::certificates(&bytes).map_err(|error| Error::X509(path.to_owned(), error))
}
