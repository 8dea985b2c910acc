//! Whose certificates nginx believes, and whose lists of the revoked: `ROLLCALL_CA` and `ROLLCALL_CRL`.

use std::path::Path;
use std::str::FromStr;

use super::Error;
use crate::cli::setting;

pub struct Trust {
    pub authority: Authority,
    pub crl: Lists,
}

/// The values of `ROLLCALL_CA`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authority {
    /// Ours: its key is `ca.key`.
    Own,
    /// Ours, and its key is on the host whose stack this server has joined.
    Joined,
    /// Somebody else's: `ca.crt`, `server.crt` and `server.key` are given.
    External,
}

/// The values of `ROLLCALL_CRL`: the CRLs of other CAs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lists {
    /// nginx reads no CRL.
    Off,
    /// Those in `crl.d`.
    Files,
    Urls(Vec<String>),
}

impl Trust {
    pub fn read() -> Result<Self, Error> {
        let authority = setting(None, "ROLLCALL_CA", "own")?;
        let default = if authority == Authority::External { "off" } else { "files" };
        let crl = setting(None, "ROLLCALL_CRL", default)?;
        match (authority, &crl) {
            (Authority::Own | Authority::Joined, Lists::Off) => Err(Error::OwnWithoutCrl),
            _ => Ok(Self { authority, crl }),
        }
    }

    /// Can a certificate be revoked by a list alone? nginx looks at none when a session is resumed.
    pub fn rests_on_lists(&self, certs: &Path) -> bool {
        match (self.authority, &self.crl) {
            (_, Lists::Off) => false,
            (Authority::Own | Authority::Joined, Lists::Files) => {
                std::fs::read_dir(certs.join("crl.d")).is_ok_and(|mut files| files.next().is_some())
            }
            _ => true,
        }
    }
}

impl FromStr for Authority {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "own" => Ok(Authority::Own),
            "joined" => Ok(Authority::Joined),
            "external" => Ok(Authority::External),
            _ => Err("it is own, joined or external"),
        }
    }
}

impl FromStr for Lists {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "off" => Ok(Lists::Off),
            "files" => Ok(Lists::Files),
            _ => {
                let urls: Vec<String> =
                    text.split([' ', ',']).filter(|url| !url.is_empty()).map(str::to_owned).collect();
                let is_url = |url: &String| url.starts_with("http://") || url.starts_with("https://");
                match urls.is_empty() || !urls.iter().all(is_url) {
                    true => Err("it is off, files, or URLs that begin with http:// or https://"),
                    false => Ok(Lists::Urls(urls)),
                }
            }
        }
    }
}
