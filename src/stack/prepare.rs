//! Fills a state folder: the folders in it, the proxy credential, the server's keys, nginx's configuration.
//!
//! Each thing is made once and mended each time. Run it again after a change of the settings.

use std::fs::{self, DirBuilder, File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::sys::stat::{Mode, umask};
use ring::rand::{SecureRandom, SystemRandom};

use super::folder::{make_open, read_no_link};
use super::trust::{Lists, Trust};
use super::users::{Part, Users};
use super::{Error, Settings, print};
use crate::cli::setting;
use crate::files;
use crate::http::identity::Identity;
use crate::keyfile;
use crate::server::{self, Privacy};

/// The folder is the part's, which may have put anything there: so the part's user writes.
/// A copy that was the same keeps its time, by which rollcall-setup starts a part anew.
const TAKE: &str = r#"[ ! -d "$1" ] || rm -rf -- "$1"
    rm -rf -- "$1.new" && cat >"$1.new" || exit
    if [ -f "$1" ] && cmp -s -- "$1" "$1.new"; then touch -r "$1" -- "$1.new"; fi
    mv -fT -- "$1.new" "$1""#;

/// nginx shows the first to the server and the second to the board, a reader on this host shows the third to the board.
const CREDENTIALS: [(Part, &str); 3] = [
    (Part::Server, "proxy-credential"),
    (Part::Board, "board/proxy-credential"),
    (Part::Board, "board/token"),
];
/// Copies of keys in a folder of the part alone.
const COPIES: [(Part, &str, &str); 3] =
    [(Part::Server, OWN, SIGNING), (Part::Server, OWN, PSEUDONYMS), (Part::Board, BOARDS_OWN, PSEUDONYMS)];
/// The server remembers its epoch in there, too.
pub const OWN: &str = "server/own";
const BOARDS_OWN: &str = "board/own";
const SIGNING: &str = "broadcast.key";
const PSEUDONYMS: &str = "privacy.key";

pub fn prepare(template: &Path) -> Result<(), Error> {
    umask(Mode::from_bits_truncate(0o077));
    let settings = Settings::read()?;
    let users = Users::find()?;
    folders(&settings, &users)?;
    let [server, board, token] = CREDENTIALS.map(|of| credential(&settings, of, &users));
    token?;
    let credentials = [server?, board?];
    keys(&settings, &users)?;
    let configuration = configuration(template, &settings, &users, credentials)?;
    // nginx has to take it first.
    let file = settings.state.join("nginx/nginx.conf.new");
    files::replace(&file, configuration.as_bytes()).map_err(Error::of(&file))
}

/// Prints the files that `prepare` would make or change.
pub fn check(template: &Path) -> Result<(), Error> {
    let settings = Settings::read()?;
    let users = Users::find()?;
    let found = |path: &Path| read_no_link(path).unwrap_or_default();
    for (_, folder, key) in COPIES {
        let copy = settings.state.join(folder).join(key);
        if found(&settings.certs.join(key)) != found(&copy) || !copy.exists() {
            print(copy.display())?;
        }
    }
    for (part, name) in CREDENTIALS {
        let path = settings.state.join(name);
        let stays = fs::symlink_metadata(&path).is_ok_and(|found| {
            found.is_file() && found.len() > 0 && is_closed(&found) && users.owns(part, found.uid())
        });
        if !stays {
            print(path.display())?;
        }
    }
    let [server, board, _] = CREDENTIALS
        .map(|(_, name)| String::from_utf8_lossy(&found(&settings.state.join(name))).trim().to_owned());
    let file = settings.state.join("nginx/nginx.conf");
    if configuration(template, &settings, &users, [server, board])?.as_bytes() != found(&file) {
        print(file.display())?;
    }
    Ok(())
}

fn folders(settings: &Settings, users: &Users) -> Result<(), Error> {
    let state = &settings.state;
    let entered = if users.is_root() { 0o710 } else { 0o700 };
    // nginx's workers open their logs anew by themselves, with a mode that lets everybody read.
    let nginx = folder(&state.join("nginx"), entered)?;
    users.let_nginx_in(&nginx).map_err(Error::of(&nginx))?;
    folder(&state.join("nginx/tmp"), 0o700)?;
    folder(&state.join("server"), 0o755)?;
    folder(&state.join("board"), 0o755)?;
    for (part, own) in [(Part::Server, OWN), (Part::Board, BOARDS_OWN)] {
        let own = folder(&state.join(own), 0o700)?;
        users.give_to(part, &own).map_err(Error::of(&own))?;
    }
    let database_url: String = setting(None, "DATABASE_URL", "")?;
    if database_url.is_empty() {
        // Closed to others: each connection to the socket, also one that is refused, takes one of PostgreSQL's.
        let postgres = folder(&state.join("postgres"), if users.is_root() { 0o750 } else { 0o700 })?;
        users.give_to_postgres(&postgres).map_err(Error::of(&postgres))?;
    }
    // One that was there before is somebody else's to look after.
    let is_ours = |place: &&Path| **place == state.join("clerk") || !place.is_dir();
    if let Some(place) = settings.socket.parent().filter(is_ours) {
        place.parent().map_or(Ok(()), make_open).map_err(Error::of(place))?;
        let place = folder(place, 0o750)?;
        users.give_to_server_and_nginx(&place).map_err(Error::of(&place))?;
    }
    Ok(())
}

fn folder(path: &Path, mode: u32) -> Result<PathBuf, Error> {
    let make = || {
        DirBuilder::new().recursive(true).create(path)?;
        fs::set_permissions(path, Permissions::from_mode(mode))
    };
    make().map_err(Error::of(path))?;
    Ok(path.to_owned())
}

/// A secret that nginx shows to the server or to the board, or a reader on this host; a new one if there is none, or if
/// others could read it.
fn credential(settings: &Settings, (part, name): (Part, &str), users: &Users) -> Result<String, Error> {
    let path = &settings.state.join(name);
    let error = Error::of(path);
    let exposed = match fs::symlink_metadata(path) {
        Ok(found) if !found.is_file() => return Err(Error::NoFile(path.to_owned())),
        Ok(found) if found.len() > 0 && is_closed(&found) => {
            if !users.owns(part, found.uid()) {
                users.give_to(part, path).map_err(error)?;
            }
            return read(path);
        }
        Ok(found) if found.len() > 0 => Some(found.mode() & 0o777),
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(Error::File(path.to_owned(), error));
        }
        _ => None,
    };
    let mut secret = [0; 32];
    SystemRandom::new().fill(&mut secret).map_err(|_| error(io::Error::other("no randomness")))?;
    let new = path.with_extension("new");
    let make = || {
        files::replace(&new, (hex::encode(secret) + "\n").as_bytes())?;
        users.give_to(part, &new)?;
        fs::rename(&new, path)
    };
    make().map_err(&error)?;
    if let Some(mode) = exposed {
        print(format_args!(
            "  credential   others could read {} (mode {mode:04o}): it is replaced",
            path.display()
        ))?;
    }
    read(path)
}

/// Only its owner may read it.
fn is_closed(file: &Metadata) -> bool {
    file.mode() & 0o077 == 0
}

fn read(path: &Path) -> Result<String, Error> {
    let text = files::read_secret(path).map_err(Error::of(path))?;
    Ok(String::from_utf8_lossy(&text).trim().to_owned())
}

/// The copies of the key that signs announcements and of the key of the pseudonyms. A key that is none does not take the
/// place of a good copy.
fn keys(settings: &Settings, users: &Users) -> Result<(), Error> {
    let [signing, pseudonyms] = [SIGNING, PSEUDONYMS].map(|name| settings.certs.join(name));
    keyfile::signing_key(&signing).map_err(server::Error::BroadcastKey)?;
    if let Ok(Privacy::Pseudonym) = setting(None, "ROLLCALL_PRIVACY", "clear") {
        keyfile::pseudonym_key(&pseudonyms).map_err(server::Error::PrivacyKey)?;
    }
    // One that is damaged waits for the day when it is needed.
    let has_pseudonyms = keyfile::pseudonym_key(&pseudonyms).is_ok();
    for (part, folder, key) in COPIES.into_iter().filter(|(.., key)| *key != PSEUDONYMS || has_pseudonyms) {
        let copy = settings.state.join(folder).join(key);
        let take = || {
            let mut shell = users.run_as(part, "sh");
            shell.args(["-c", TAKE, "sh"]).arg(&copy).current_dir(&settings.state);
            shell.stdin(Stdio::from(File::open(settings.certs.join(key))?)).status()
        };
        if !take().map_err(Error::of(&copy))?.success() {
            return Err(Error::File(copy, io::Error::other("its user cannot write it")));
        }
    }
    Ok(())
}

fn configuration(
    template: &Path,
    settings: &Settings,
    users: &Users,
    [credential, board_credential]: [String; 2],
) -> Result<String, Error> {
    let mut text = fs::read_to_string(template).map_err(Error::of(template))?;
    let port = settings.https_port;
    let ipv6 = match Path::new("/proc/net/if_inet6").exists() {
        true => format!("listen [::]:{port} ssl backlog=4096;"),
        false => String::new(),
    };
    let trust = Trust::read()?;
    let crl = match trust.crl {
        Lists::Off => String::new(),
        _ => format!("ssl_crl \"{}/nginx/crl.pem\";", settings.state.display()),
    };
    let sessions = if trust.rests_on_lists(&settings.certs) { "off" } else { "shared:tls:10m" };
    // Lines of another identity become comments.
    let only = |identity| if settings.identity == identity { "" } else { "#" }.to_owned();
    for (name, value) in [
        ("CN", only(Identity::Cn)),
        ("SAN", only(Identity::San)),
        ("CRL", crl),
        ("SESSIONS", sessions.to_owned()),
        ("USER", if users.is_root() { "user www-data;" } else { "" }.to_owned()),
        ("OPEN_FILES", open_files().to_string()),
        ("STATE", settings.state.display().to_string()),
        ("CERTS", settings.certs.display().to_string()),
        ("HTTPS_PORT", port.to_string()),
        ("LISTEN_IPV6", ipv6),
        ("SERVER", settings.socket.display().to_string()),
        ("RATE", settings.rate.to_string()),
        ("BURST", (2 * settings.rate).to_string()),
        ("CREDENTIAL", credential),
        // Whoever holds the port of a board that is switched off is sent nothing.
        ("BOARD", settings.board.map_or("127.0.0.1:1 down".to_owned(), |board| board.to_string())),
        ("BOARD_CREDENTIAL", board_credential),
    ] {
        text = text.replace(&format!("@{name}@"), &value);
    }
    Ok(text)
}

/// The hard limit (proc(5)).
fn open_files() -> u64 {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    line.and_then(|line| line.split_ascii_whitespace().nth(1)?.parse().ok()).unwrap_or(1 << 20)
}
