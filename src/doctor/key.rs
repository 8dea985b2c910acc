//! The keys of the announcements: the one that signs, whether listeners were given its other half, and the one
//! of the pseudonyms.

use std::fs::File;
use std::io;
use std::path::Path;

use super::{Finding, Settings};
use crate::keyfile;
use crate::server::epoch::LastEpoch;

pub fn check(settings: &Settings) -> Vec<Finding> {
    let signing = match &settings.server.broadcast_key {
        Some(key) => of_signing(key, &settings.certs),
        None => Finding::yellow(
            "announcements are not signed: ROLLCALL_BROADCAST_KEY is not set, and anybody can forge them",
            "just up makes a key and sets it",
        ),
    };
    let pseudonyms = settings.server.privacy_key.as_deref().map(of_pseudonyms);
    [signing].into_iter().chain(pseudonyms).collect()
}

fn of_signing(key: &Path, certs: &Path) -> Finding {
    if let Some(finding) = hidden(key, "the key that signs announcements") {
        return finding;
    }
    let signer = match keyfile::signing_key(key) {
        Ok(signer) => signer,
        Err(error) => {
            let what = format!("{error}; the server does not start with it");
            return Finding::red(what, "just up gives the server its copy of certs/broadcast.key");
        }
    };
    if let Err(error) = LastEpoch::beside(key) {
        let what = format!("{error}; the server does not start with it");
        return Finding::red(
            what,
            format!("if the clock is right, rm {}.epoch; then just up", key.display()),
        );
    }
    let ours = signer.public();
    let file = certs.join("broadcast.pub");
    let given = if file.exists() { keyfile::public_key(&file).map(Some) } else { Ok(None) };
    let mend = format!(
        "just up; if that does not help, rm {}, just up, and copy it to the listeners",
        file.display()
    );
    match given {
        Ok(Some(given)) if given != *ours => Finding::red(
            format!(
                "announcements are signed with the key {ours}, and {} is the key {given}: listeners that got \
                 this file believe nothing",
                file.display()
            ),
            mend,
        ),
        Ok(_) => Finding::green(format!("announcements are signed with the key {ours}")),
        Err(error) => Finding::red(format!("{error}: listeners that got this file do not start"), mend),
    }
}

fn of_pseudonyms(key: &Path) -> Finding {
    if let Some(finding) = hidden(key, "the key of the pseudonyms") {
        return finding;
    }
    match keyfile::pseudonym_key(key) {
        Ok(_) => Finding::green("announcements carry pseudonyms"),
        Err(error) => Finding::red(
            format!("{error}; the server does not start with it"),
            "just up gives the server its copy of certs/privacy.key",
        ),
    }
}

/// A secret that we may not see is as it should be.
pub fn hidden(key: &Path, what: &str) -> Option<Finding> {
    let error = File::open(key).err().filter(|error| error.kind() == io::ErrorKind::PermissionDenied)?;
    Some(Finding::yellow(
        format!("{what}, {}, was not checked: {error}", key.display()),
        "run this as root, or as the user that runs the server",
    ))
}
