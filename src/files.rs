//! Small files: keys, secrets, and the memory of a program.

use std::borrow::Cow;
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Bytes that a key or a secret has at the most.
pub const SMALL: u64 = 1 << 16;

/// Reads all of it, if that is no more than `most` bytes: a file may be huge, or have no end.
pub fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    read_from(File::open(path)?, most)
}

fn read_from(file: File, most: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    file.take(most + 1).read_to_end(&mut content)?;
    match content.len() as u64 > most {
        true => Err(io::Error::new(io::ErrorKind::InvalidData, format!("it has more than {most} bytes"))),
        false => Ok(content),
    }
}

/// Reads a secret, which is one only if the file's mode lets nobody else read it.
pub fn read_secret(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    match file.metadata()?.mode() & 0o777 {
        mode if mode & 0o077 != 0 => {
            Err(io::Error::other(format!("mode {mode:04o}: others can read it; chmod 0600")))
        }
        _ => read_from(file, SMALL),
    }
}

/// The text of a file that may come from Windows: without a byte order mark, and decoded if it is UTF-16. A text
/// of ours begins with an ASCII character, so a zero beside its first byte tells UTF-16 that has no mark. U+FFFD
/// stands for a byte that is no text.
pub fn text(bytes: &[u8]) -> Cow<'_, str> {
    match bytes {
        [0xef, 0xbb, 0xbf, rest @ ..] => String::from_utf8_lossy(rest),
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes).into(),
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes).into(),
        [1..=0xff, 0, ..] => utf16(bytes, u16::from_le_bytes).into(),
        [0, 1..=0xff, ..] => utf16(bytes, u16::from_be_bytes).into(),
        _ => String::from_utf8_lossy(bytes),
    }
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> String {
    const TORN: u16 = char::REPLACEMENT_CHARACTER as u16;
    let units = bytes.chunks(2).map(|pair| pair.try_into().map_or(TORN, unit));
    char::decode_utf16(units).map(|char| char.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
}

/// Replaces it as a whole: a crash leaves the old content or the new one, and nothing between. Writes beside
/// the file and renames; both are on the disk when this returns.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    replace_as(path, content, None)
}

/// The same, with this mode whatever the umask says.
pub fn replace_with_mode(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    replace_as(path, content, Some(mode))
}

fn replace_as(path: &Path, content: &[u8], mode: Option<u32>) -> io::Result<()> {
    // Its own name per process, so that two of them never write into one file.
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.new", std::process::id()));
    let beside = Path::new(&beside);
    let write = || {
        // A process that was killed left it, or somebody put it there to make us write elsewhere.
        let _ = fs::remove_file(beside);
        // Nobody else reads it before it has its mode.
        let first = mode.map_or(0o666, |_| 0o600);
        let mut file = File::options().write(true).create_new(true).mode(first).open(beside)?;
        if let Some(mode) = mode {
            file.set_permissions(Permissions::from_mode(mode))?;
        }
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(beside, path)?;
        // The rename is in the folder.
        let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(beside);
    })
}

/// A file that cannot be used: its role, its path, and the fault.
#[derive(Debug, thiserror::Error)]
#[error("{role}, {}: {problem}", path.display())]
pub struct FileError<P> {
    role: &'static str,
    path: PathBuf,
    problem: P,
}

impl<P> FileError<P> {
    /// For `map_err`.
    pub fn of(role: &'static str, path: &Path) -> impl Fn(P) -> Self {
        move |problem| Self { role, path: path.to_owned(), problem }
    }
}

impl FileError<OwnFile> {
    /// May the same succeed later, with no change to any setting? A disk can be full, or be away.
    pub fn may_pass(&self) -> bool {
        use io::ErrorKind::{InvalidData, IsADirectory, NotADirectory, NotFound, PermissionDenied};
        match &self.problem {
            OwnFile::Read(error) | OwnFile::Write(error) => !matches!(
                error.kind(),
                InvalidData | IsADirectory | NotADirectory | NotFound | PermissionDenied
            ),
            OwnFile::Damaged(_) => false,
        }
    }
}

/// The fault of a file that a program wrote itself.
#[derive(Debug, thiserror::Error)]
pub enum OwnFile {
    #[error("{0}")]
    Read(io::Error),
    #[error("cannot write it: {0}")]
    Write(io::Error),
    /// Its content is not ours any more; the text is the remedy.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_a_full_disk_refused_may_work_later() {
        // errno(3), on Linux.
        let [enoent, eio, eacces, enotdir, eisdir, enospc, erofs, edquot] = [2, 5, 13, 20, 21, 28, 30, 122];
        let error = |problem| FileError::of("the test", Path::new("x"))(problem).may_pass();
        for number in [eio, enospc, erofs, edquot] {
            assert!(error(OwnFile::Write(io::Error::from_raw_os_error(number))), "{number}");
        }
        for number in [enoent, eacces, enotdir, eisdir] {
            assert!(!error(OwnFile::Write(io::Error::from_raw_os_error(number))), "{number}");
            assert!(!error(OwnFile::Read(io::Error::from_raw_os_error(number))), "{number}");
        }
        assert!(!error(OwnFile::Damaged("")));
        assert!(!error(OwnFile::Read(read(Path::new("/dev/zero"), 10).unwrap_err())));
    }

    #[test]
    fn text_is_the_same_in_every_encoding() {
        for sample in ["", "a", "# Jos\u{e9} \u{1f511}\r\na@example.com\n"] {
            let units = |mark: &str, unit: fn(u16) -> [u8; 2]| {
                (mark.to_owned() + sample).encode_utf16().flat_map(unit).collect::<Vec<u8>>()
            };
            for bytes in [
                sample.into(),
                format!("\u{feff}{sample}").into(),
                units("\u{feff}", u16::to_le_bytes),
                units("\u{feff}", u16::to_be_bytes),
                units("", u16::to_le_bytes),
                units("", u16::to_be_bytes),
            ] {
                assert_eq!(text(&bytes), sample, "{bytes:?}");
            }
        }
        for (bytes, read) in [
            (&b"\xff\xfea\0\0\xd8b\0c"[..], "a\u{fffd}b\u{fffd}"),
            (b"caf\xe9", "caf\u{fffd}"),
            (b"\0\0", "\0\0"),
            (b"\xff", "\u{fffd}"),
        ] {
            assert_eq!(text(bytes), read);
        }
    }

    #[test]
    fn replaces_and_leaves_nothing_beside() {
        let folder = std::env::temp_dir().join(format!("rollcall-replace-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let path = folder.join("file");
        for content in [&b"a longer one"[..], b"short", b""] {
            replace(&path, content).unwrap();
            assert_eq!(fs::read(&path).unwrap(), content);
        }
        let (trap, elsewhere) =
            (format!("{}.{}.new", path.display(), std::process::id()), folder.join("elsewhere"));
        std::os::unix::fs::symlink(&elsewhere, trap).unwrap();
        replace(&path, b"here").unwrap();
        assert!(!elsewhere.exists() && fs::symlink_metadata(&path).unwrap().is_file());
        let taken = folder.join("folder");
        fs::create_dir(&taken).unwrap();
        assert!(replace(&taken, b"a folder is no file").is_err());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
        fs::remove_dir_all(&folder).unwrap();
    }
}
