//! The users of the parts. PostgreSQL refuses to run as root, and the server has no need to: as root each gets a user of
//! its own. Of another user everything is that user's.

use std::env;
use std::io;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;

use nix::unistd::{Group, User, geteuid};

use super::Error;
use crate::cli::setting;

const POSTGRES: &str = "postgres";
const SERVER: &str = "rollcall";
const NGINX: &str = "www-data";

/// `None` unless root asks.
pub struct Users(Option<Ids>);

struct Ids {
    /// Of a cluster of our own. With a database elsewhere this host may have no such user.
    postgres: Option<User>,
    server: User,
    board: User,
    nginx: Group,
}

/// Whose a file is.
#[derive(Clone, Copy)]
pub enum Part {
    Server,
    Board,
}

impl Ids {
    fn of(&self, part: Part) -> &User {
        match part {
            Part::Server => &self.server,
            Part::Board => &self.board,
        }
    }
}

impl Users {
    pub fn find() -> Result<Self, Error> {
        if !geteuid().is_root() {
            return Ok(Self(None));
        }
        let user =
            |name: &str| User::from_name(name).ok().flatten().ok_or_else(|| Error::NoUser(name.to_owned()));
        let group =
            |name: &str| Group::from_name(name).ok().flatten().ok_or_else(|| Error::NoUser(name.to_owned()));
        let elsewhere = !setting::<String>(None, "DATABASE_URL", "")?.is_empty();
        let postgres = if elsewhere { None } else { Some(user(POSTGRES)?) };
        let board: String = setting(None, "ROLLCALL_BOARD_USER", SERVER)?;
        Ok(Self(Some(Ids { postgres, server: user(SERVER)?, board: user(&board)?, nginx: group(NGINX)? })))
    }

    pub fn is_root(&self) -> bool {
        self.0.is_some()
    }

    pub fn give_to(&self, part: Part, path: &Path) -> io::Result<()> {
        self.0.iter().try_for_each(|ids| chown(path, Some(ids.of(part).uid.as_raw()), None))
    }

    /// The server's, and nginx may enter.
    pub fn give_to_server_and_nginx(&self, path: &Path) -> io::Result<()> {
        let give = |ids: &Ids| chown(path, Some(ids.server.uid.as_raw()), Some(ids.nginx.gid.as_raw()));
        self.0.iter().try_for_each(give)
    }

    /// PostgreSQL's, and the server may enter.
    pub fn give_to_postgres(&self, path: &Path) -> io::Result<()> {
        let give = |ids: &Ids| {
            let postgres = ids.postgres.as_ref().map(|postgres| postgres.uid.as_raw());
            chown(path, postgres, Some(ids.server.gid.as_raw()))
        };
        self.0.iter().try_for_each(give)
    }

    pub fn let_nginx_in(&self, path: &Path) -> io::Result<()> {
        self.0.iter().try_for_each(|ids| chown(path, None, Some(ids.nginx.gid.as_raw())))
    }

    pub fn owns(&self, part: Part, uid: u32) -> bool {
        uid == self.0.as_ref().map_or(geteuid(), |ids| ids.of(part).uid).as_raw()
    }

    /// A command that runs as the part does.
    pub fn run_as(&self, part: Part, program: &str) -> Command {
        self.0.as_ref().map_or_else(|| Command::new(program), |ids| as_user(ids.of(part), program))
    }

    /// May each of them enter the folder?
    pub fn must_enter(&self, folder: &Path) -> Result<(), Error> {
        let can_enter = |user: &User| {
            let mut test = as_user(user, "test");
            test.arg("-x").arg(folder).current_dir("/");
            test.status().is_ok_and(|status| status.success())
        };
        let mut all = self.0.iter().flat_map(|ids| ids.postgres.iter().chain([&ids.server, &ids.board]));
        match all.find(|user| !can_enter(user)) {
            Some(user) => Err(Error::CannotEnter(user.name.clone(), folder.to_owned())),
            None => Ok(()),
        }
    }
}

/// In a session of its own before it is that user's, who could otherwise trace it and type into root's terminal
/// (ioctl_tty(2), TIOCSTI). That user also reads its environment, and root's has passwords.
fn as_user(user: &User, program: &str) -> Command {
    let mut command = Command::new("setsid");
    command.env_clear().envs(env::var_os("PATH").map(|path| ("PATH", path)));
    command
        .args(["--wait", "setpriv", "--reuid"])
        .arg(user.uid.to_string())
        .arg("--regid")
        .arg(user.gid.to_string())
        .args(["--clear-groups", "--no-new-privs", "--", program]);
    command
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Only root may give a process to another user.
    #[test]
    fn a_process_of_another_user_has_no_terminal_of_roots() {
        let Some(user) = User::from_name("nobody").unwrap().filter(|_| geteuid().is_root()) else { return };
        let output = as_user(&user, "cat").args(["/proc/self/stat", "/proc/self/status"]).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        // pid (comm) state ppid pgrp session (proc(5)).
        let session = |stat: &str| stat.split(' ').nth(5).unwrap().to_owned();
        assert_ne!(session(&said), session(&fs::read_to_string("/proc/self/stat").unwrap()));
        let ids = format!("Uid:\t{0}\t{0}\t{0}\t{0}\n", user.uid);
        assert!(said.contains(&ids) && said.contains("Groups:\t \n"), "{said}");
        assert_eq!(as_user(&user, "false").status().unwrap().code(), Some(1));
        let output = as_user(&user, "env").output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.lines().all(|line| line.starts_with("PATH=")), "{said}");
    }
}
