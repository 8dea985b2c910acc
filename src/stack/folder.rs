//! The state folder, and the obstacles to a start: it looks for them before it changes anything.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use super::prepare;
use super::users::Users;
use super::{Error, Settings, print};
use crate::cli::note;
use crate::files;
use crate::keyfile;

/// A Unix socket's path has 107 bytes (unix(7)), and the name of PostgreSQL's is in the folder.
const LONGEST: usize = 80;
/// Where a folder goes whose own place is closed to others, such as a clone in /root.
const OPEN_TO_ALL: &str = "/var/lib/rollcall";

pub fn make(or_link: bool) -> Result<(), Error> {
    let settings = Settings::read()?;
    let state = &settings.state;
    if run_by_services(state) {
        return Err(Error::Services(state.clone()));
    }
    keep_key(&settings)?;
    let is_new = !state.exists();
    let usable = usable(state, is_new && or_link);
    if is_new && usable.is_err() {
        let _ = fs::remove_dir(state);
    }
    print(usable?.display())
}

/// The folder, or the one that a link in its place leads to.
fn usable(state: &Path, or_link: bool) -> Result<PathBuf, Error> {
    let users = Users::find()?;
    make_open(state).map_err(Error::of(state))?;
    let folder = match users.must_enter(state) {
        Err(_) if or_link => elsewhere(state)?,
        entered => entered.map(|()| state.to_owned())?,
    };
    users.must_enter(&folder)?;
    if folder.as_os_str().len() > LONGEST {
        return Err(Error::TooLong(folder));
    }
    Ok(folder)
}

/// Makes a folder and its missing parents, which others may enter with any umask of the caller.
pub fn make_open(folder: &Path) -> io::Result<()> {
    if folder.is_dir() || folder.as_os_str().is_empty() {
        return Ok(());
    }
    folder.parent().map_or(Ok(()), make_open)?;
    fs::create_dir(folder)?;
    fs::set_permissions(folder, Permissions::from_mode(0o755))
}

/// systemd starts the program in its own place, and `stack/up` a copy that it puts into this folder first.
fn run_by_services(state: &Path) -> bool {
    state.join("nginx/nginx.conf").exists() && !state.join("server/rollcall-server").exists()
}

/// Puts a link to another folder in the place of this new one.
fn elsewhere(state: &Path) -> Result<PathBuf, Error> {
    let folder = Path::new(OPEN_TO_ALL).join(format!("stack.{}", std::process::id()));
    let make = || {
        make_open(&folder)?;
        fs::remove_dir(state)?;
        symlink(&folder, state)
    };
    make().map_err(Error::of(&folder))?;
    Ok(folder)
}

/// Listeners believe the public half of the key. So a lost key is never replaced by one of another pair: the server's
/// good copy comes back, or nothing is started.
fn keep_key(settings: &Settings) -> Result<(), Error> {
    let [key, public] = ["broadcast.key", "broadcast.pub"].map(|name| settings.certs.join(name));
    if fs::metadata(&key).is_ok_and(|key| key.len() > 0) {
        return Ok(());
    }
    let copy = settings.state.join(prepare::OWN).join("broadcast.key");
    let believed = public.exists().then(|| keyfile::public_key(&public).ok());
    let kept = read_no_link(&copy).ok();
    let signer = kept.as_ref().and_then(|kept| keyfile::parse_signing_key(kept).ok());
    match (kept, signer, believed) {
        (None, _, None) => Ok(()),
        (Some(kept), Some(signer), believed)
            if believed.is_none_or(|believed| believed.as_ref() == Some(signer.public())) =>
        {
            files::replace(&key, &kept).map_err(Error::of(&key))?;
            fs::set_permissions(&key, Permissions::from_mode(0o600)).map_err(Error::of(&key))?;
            note(format_args!("{} was missing: it is made again from the server's copy", key.display()));
            Ok(())
        }
        (_, _, Some(_)) => Err(Error::LostKey { key, half: public }),
        (_, _, None) => Err(Error::LostKey { key, half: copy }),
    }
}

/// The folder is the server's, and a file of it must neither lead elsewhere nor hold anybody up.
pub fn read_no_link(path: &Path) -> io::Result<Vec<u8>> {
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
    let mut content = Vec::new();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    file.take(files::SMALL).read_to_end(&mut content)?;
    Ok(content)
}
