//! The last epoch of a server, in a file that outlives the process.

use std::io;
use std::path::{Path, PathBuf};

use crate::files::{self, FileError, OwnFile};

const ROLE: &str = "the last epoch";
const DAMAGED: &str = "it must hold one number and a line end; if the clock is right, remove the file";

pub struct LastEpoch {
    path: PathBuf,
    epoch: u64,
}

impl LastEpoch {
    /// In `KEY.epoch`, beside the key that signs.
    pub fn beside(key: &Path) -> Result<Self, EpochError> {
        let mut path = key.as_os_str().to_owned();
        path.push(".epoch");
        Self::load(Path::new(&path))
    }

    /// 0 if there is no file yet.
    fn load(path: &Path) -> Result<Self, EpochError> {
        let error = EpochError::of(ROLE, path);
        let epoch = match files::read(path, files::SMALL) {
            Ok(text) => {
                let number =
                    str::from_utf8(&text).ok().and_then(|text| text.strip_suffix('\n')?.parse().ok());
                number.filter(|epoch| *epoch < u64::MAX).ok_or_else(|| error(OwnFile::Damaged(DAMAGED)))?
            }
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => 0,
            Err(cause) => return Err(error(OwnFile::Read(cause))),
        };
        Ok(Self { path: path.to_owned(), epoch })
    }

    /// The epoch of a server that starts now: its time, or one more than the last epoch when the clock stepped
    /// back since. It is on the disk before this returns.
    pub fn next(self, now_ns: u64) -> Result<u64, EpochError> {
        let epoch = u64::max(now_ns, self.epoch + 1);
        files::replace(&self.path, format!("{epoch}\n").as_bytes())
            .map_err(|cause| EpochError::of(ROLE, &self.path)(OwnFile::Write(cause)))?;
        Ok(epoch)
    }
}

/// The file of the last epoch cannot be used.
pub type EpochError = FileError<OwnFile>;

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn epochs_only_grow() {
        let next = |path: &Path, now_ns| LastEpoch::load(path).and_then(|last| last.next(now_ns));
        let file = std::env::temp_dir().join(format!("rollcall-epoch-{}", std::process::id()));
        for (now, epoch) in [(1000, 1000), (2000, 2000), (500, 2001), (2001, 2002), (2003, 2003), (0, 2004)] {
            assert_eq!(next(&file, now).unwrap(), epoch);
        }
        for damaged in [&b""[..], b"\n", b"12", b"12\n\n", b"-1\n", b"18446744073709551615\n", b"\xff\n"] {
            fs::write(&file, damaged).unwrap();
            assert_eq!(
                LastEpoch::load(&file).err().unwrap().to_string(),
                format!(
                    "the last epoch, {}: it is damaged: it must hold one number and a line end; \
                     if the clock is right, remove the file",
                    file.display()
                )
            );
            assert_eq!(fs::read(&file).unwrap(), damaged);
        }
        fs::remove_file(&file).unwrap();
        assert_eq!(
            next(Path::new("no/such/epoch"), 1).unwrap_err().to_string(),
            "the last epoch, no/such/epoch: cannot write it: No such file or directory (os error 2)"
        );
    }
}
