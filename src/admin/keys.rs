//! `rollcall-admin keys`: the public keys of all servers, as one file for listeners.

use std::io::{self, Write};

use super::desk::Settings;
use super::{Error, unless_closed};
use crate::cli::{ArgsInfo, FromArgs, ServerName, note, printable, printable_json, setting};
use crate::keyfile;
use crate::protocol::keys::PublicKey;
use crate::store::{ServerKeys, Store};
use crate::x509;

/// print the public keys of all servers, as one file for listeners (rollcall-listen --key FILE)
#[derive(ArgsInfo, FromArgs)]
#[argh(subcommand, name = "keys")]
pub struct Keys {
    /// one JSON object per line
    #[argh(switch)]
    json: bool,
}

pub async fn keys(store: &Store, &Keys { json }: &Keys) -> Result<(), Error> {
    let servers = tell_own(store, store.keys().await?).await?;
    let mut out = io::stdout().lock();
    for ServerKeys { name, public_key, further, silent_ms } in &servers {
        let shown = printable(name);
        if public_key.is_none() {
            note(format_args!(
                "rollcall-admin: the server {shown} has told no key: it does not sign, or is of an older version"
            ));
        }
        for (key, signs) in
            public_key.iter().map(|key| (key, true)).chain(further.iter().map(|key| (key, false)))
        {
            let key = PublicKey::from_bytes(*key);
            let pem = x509::pem("PUBLIC KEY", &key.to_der());
            unless_closed(match json {
                true => {
                    let line = serde_json::json!({
                        "server": name, "key": key.to_string(), "signs": signs, "silent_ms": silent_ms, "public_key": pem,
                    });
                    writeln!(out, "{}", printable_json(&line.to_string()))
                }
                false => {
                    let beside = if signs { "" } else { ", beside it while its key is replaced" };
                    write!(out, "# the server {shown}, key {key}{beside}\n{pem}")
                }
            })?;
        }
    }
    Ok(())
}

/// The server of this host cannot see the next key, nor the last one: so this command tells them.
async fn tell_own(store: &Store, mut servers: Vec<ServerKeys>) -> Result<Vec<ServerKeys>, Error> {
    let name = setting::<ServerName>(None, "ROLLCALL_NAME", "")?.0;
    let files = keyfile::own_public_keys(&Settings::read()?.certs).map_err(Error::PublicKeys)?;
    if let Some(own) = servers.iter_mut().find(|server| server.name == name)
        && let Some(signs) = own.public_key
        // Those of another server's folder say nothing of this one.
        && files.iter().any(|key| *key.as_bytes() == signs)
    {
        let further: Vec<[u8; 32]> =
            files.iter().map(|key| *key.as_bytes()).filter(|key| *key != signs).collect();
        if further != own.further {
            store.tell_further_keys(&name, &further).await?;
            own.further = further;
        }
    }
    Ok(servers)
}
