//! Whom the server believes the name of a caller from: nginx, by a secret that both have or by the folder of a socket.

use std::io;

use super::{Finding, Settings};
use crate::server::Error;

pub fn check(settings: &Settings) -> Vec<Finding> {
    let listen = &settings.server.listen;
    vec![match settings.server.trust() {
        Ok(_) => Finding::green(format!("only nginx can name callers to the server, on {listen}")),
        // A secret that we may not see is as it should be.
        Err(error @ Error::CredentialFile(..)) if is_hidden(&error) => Finding::yellow(
            format!("{error}: it was not checked"),
            "run this as root, or as the user that runs the server",
        ),
        Err(error) => Finding::red(format!("{error}; the server does not start with it"), "just up"),
    }]
}

fn is_hidden(error: &Error) -> bool {
    matches!(error, Error::CredentialFile(_, cause) if cause.kind() == io::ErrorKind::PermissionDenied)
}
