//! Whom the server believes the name of a caller from: nginx, by a secret that both have or by the folder of a socket.

use super::{Finding, Settings, key};
use crate::server::Address;

pub fn check(settings: &Settings) -> Vec<Finding> {
    let server = &settings.server;
    let hidden = match server.listen {
        Address::Tcp(_) => key::hidden(&server.proxy_credential, "the proxy credential"),
        Address::Unix(_) => None,
    };
    let judged = || match server.trust() {
        Ok(_) => Finding::green(format!("only nginx can name callers to the server, on {}", server.listen)),
        Err(error) => Finding::red(format!("{error}; the server does not start with it"), "just up"),
    };
    vec![hidden.unwrap_or_else(judged)]
}
