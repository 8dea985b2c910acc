//! `rollcall-client`: proves who it is and says that it is here.

use std::path::PathBuf;
use std::process::ExitCode;

use argh::FromArgs;
use rollcall::{cli, client};

/// Says "I am here" over mutual TLS, once or again and again.
#[derive(FromArgs)]
struct Args {
    /// client certificate, PEM or DER, with its chain (default $ROLLCALL_CERTS/client.crt)
    #[argh(option)]
    cert: Option<PathBuf>,
    /// private key of the certificate, PEM or DER (default $ROLLCALL_CERTS/client.key)
    #[argh(option)]
    key: Option<PathBuf>,
    /// certificate of the CA that signed the server's, PEM or DER (default $ROLLCALL_CERTS/ca.crt)
    #[argh(option)]
    ca: Option<PathBuf>,
    /// https://HOST:PORT of the server (ROLLCALL_URL, default https://localhost:$ROLLCALL_HTTPS_PORT)
    #[argh(option)]
    url: Option<String>,
    /// keep the connection and say it again after this long, such as 30s, until stopped
    #[argh(option)]
    every: Option<cli::Timespan>,
    /// how long one attempt may take (default 10s)
    #[argh(option, default = "cli::Timespan(std::time::Duration::from_secs(10))")]
    timeout: cli::Timespan,
    /// attempts before an unreachable server is given up on, without --every (default 3)
    #[argh(option, default = "3")]
    attempts: u32,
}

fn main() -> ExitCode {
    const PROGRAM: &str = "rollcall-client";
    let Args { cert, key, ca, url, every, timeout, attempts } = cli::arguments(PROGRAM);
    let options = client::Options {
        cert,
        key,
        ca,
        url,
        every: every.map(|every| every.0),
        timeout: timeout.0,
        attempts,
    };
    cli::finish(PROGRAM, client::run(&options))
}
