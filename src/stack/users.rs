//! The users of the parts. PostgreSQL refuses to run as root, and the server has no need to: as root each gets a user of
//! its own. Of another user everything is that user's.

use std::io;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::unistd::{Group, User, geteuid};

use super::Error;
use crate::cli::setting;

pub const POSTGRES: &str = "postgres";
pub const SERVER: &str = "rollcall";
const NGINX: &str = "www-data";

/// `None` unless root asks.
pub struct Users(Option<Ids>);

struct Ids {
    /// Of a cluster of our own. With a database elsewhere this host may have no such user.
    postgres: Option<User>,
    server: User,
    nginx: Group,
}

impl Users {
    pub fn find() -> Result<Self, Error> {
        if !geteuid().is_root() {
            return Ok(Self(None));
        }
        let user = |name| User::from_name(name).ok().flatten().ok_or(Error::NoUser(name));
        let group = |name| Group::from_name(name).ok().flatten().ok_or(Error::NoUser(name));
        let elsewhere = !setting::<String>(None, "DATABASE_URL", "")?.is_empty();
        let postgres = if elsewhere { None } else { Some(user(POSTGRES)?) };
        Ok(Self(Some(Ids { postgres, server: user(SERVER)?, nginx: group(NGINX)? })))
    }

    pub fn is_root(&self) -> bool {
        self.0.is_some()
    }

    pub fn give_to_server(&self, path: &Path) -> io::Result<()> {
        self.0.iter().try_for_each(|ids| chown(path, Some(ids.server.uid.as_raw()), None))
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

    pub fn owns_as_server(&self, uid: u32) -> bool {
        uid == self.0.as_ref().map_or(geteuid(), |ids| ids.server.uid).as_raw()
    }

    /// A command that runs as the server does.
    pub fn as_server(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        if let Some(ids) = &self.0 {
            command.uid(ids.server.uid.as_raw()).gid(ids.server.gid.as_raw());
        }
        command
    }

    /// May PostgreSQL and the server enter the folder?
    pub fn can_enter(&self, folder: &Path) -> bool {
        self.0.iter().flat_map(|ids| ids.postgres.iter().chain([&ids.server])).all(|user| {
            let mut test = Command::new("test");
            test.arg("-x").arg(folder).current_dir("/").uid(user.uid.as_raw()).gid(user.gid.as_raw());
            test.status().is_ok_and(|status| status.success())
        })
    }
}
