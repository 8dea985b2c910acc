//! The keys of the announcements, and the secret that nginx and the server share.

use std::fs::File;
use std::io;
use std::path::Path;

use super::{Finding, Settings};
use crate::keyfile;
use crate::server::epoch::LastEpoch;

pub fn check(settings: &Settings) -> Vec<Finding> {
    let signing = match &settings.broadcast_key {
        Some(key) => of_signing(key, &settings.certs),
        None => Finding::yellow(
            "announcements are not signed: ROLLCALL_BROADCAST_KEY is not set, and anybody can forge them",
            "just up makes a key and sets it",
        ),
    };
    let pseudonyms = settings.privacy_key.as_deref().map(of_pseudonyms);
    [signing].into_iter().chain(pseudonyms).collect()
}

/// The server believes the name of a caller from nginx alone, by a secret that nobody else hears.
pub fn check_nginx(settings: &Settings) -> Vec<Finding> {
    let judged = || match settings.credential().and_then(|_| settings.check_folder()) {
        Ok(()) => Finding::green(format!(
            "only nginx can name callers to the server, on {}",
            settings.socket.display()
        )),
        Err(error) => no_start(error, "just up"),
    };
    vec![hidden(&settings.proxy_credential, "the proxy credential").unwrap_or_else(judged)]
}

fn of_signing(key: &Path, certs: &Path) -> Finding {
    if let Some(finding) = hidden(key, "the key that signs announcements") {
        return finding;
    }
    let signer = match keyfile::signing_key(key) {
        Ok(signer) => signer,
        Err(error) => return no_start(error, "just up gives the server its copy of certs/broadcast.key"),
    };
    if let Err(error) = LastEpoch::beside(key) {
        return no_start(error, format!("if the clock is right, rm {}.epoch; then just up", key.display()));
    }
    let own = signer.public();
    let file = certs.join("broadcast.pub");
    let given = if file.exists() { keyfile::public_key(&file).map(Some) } else { Ok(None) };
    let file = file.display();
    let remedy = format!("just up; if that does not help, rm {file}, just up, and copy it to the listeners");
    match given {
        Ok(Some(given)) if given != *own => Finding::red(
            format!(
                "announcements are signed with the key {own}, and {file} is the key {given}: listeners that got \
                 this file believe nothing"
            ),
            remedy,
        ),
        Ok(_) => Finding::green(format!("announcements are signed with the key {own}")),
        Err(error) => Finding::red(format!("{error}: listeners that got this file do not start"), remedy),
    }
}

fn of_pseudonyms(key: &Path) -> Finding {
    let judged = || match keyfile::pseudonym_key(key) {
        Ok(_) => Finding::green("announcements carry pseudonyms"),
        Err(error) => no_start(error, "just up gives the server its copy of certs/privacy.key"),
    };
    hidden(key, "the key of the pseudonyms").unwrap_or_else(judged)
}

fn no_start(error: impl std::fmt::Display, advice: impl Into<String>) -> Finding {
    Finding::red(format!("{error}; the server does not start with it"), advice)
}

/// A secret that this user may not see is as it should be.
fn hidden(key: &Path, name: &str) -> Option<Finding> {
    let error = File::open(key).err().filter(|error| error.kind() == io::ErrorKind::PermissionDenied)?;
    Some(Finding::yellow(
        format!("{name}, {}, was not checked: {error}", key.display()),
        "run this as root, or as the user that runs the server",
    ))
}
