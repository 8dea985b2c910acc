//! The key that signs announcements, and whether listeners were given its other half.

use std::fs::File;
use std::io;

use super::{Finding, Settings};
use crate::sign::{PublicKey, Signer};

pub fn check(settings: &Settings) -> Vec<Finding> {
    let Settings { key, certs, .. } = settings;
    if key.as_os_str().is_empty() {
        return vec![Finding::yellow(
            "announcements are not signed: ROLLCALL_BROADCAST_KEY is not set, and anybody can forge them",
            "just up makes a key and sets it",
        )];
    }
    if let Err(error) = File::open(key)
        && error.kind() == io::ErrorKind::PermissionDenied
    {
        return vec![Finding::yellow(
            format!("the key that signs announcements, {}, was not checked: {error}", key.display()),
            "run this as root, or as the user that runs the server",
        )];
    }
    let signer = match Signer::load(key) {
        Ok(signer) => signer,
        Err(error) => {
            let what = format!("{error}; the server does not start with it");
            return vec![Finding::red(what, "just up gives the server its copy of certs/broadcast.key")];
        }
    };
    let ours = signer.public();
    let file = certs.join("broadcast.pub");
    let given = if file.exists() { PublicKey::load(&file).map(Some) } else { Ok(None) };
    let mend = format!(
        "just up; if that does not help, rm {}, just up, and copy it to the listeners",
        file.display()
    );
    vec![match given {
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
    }]
}
