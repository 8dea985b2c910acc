//! `rollcall-listen`: prints the stream of who is here.

use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;

use argh::FromArgs;
use rollcall::{cli, listen};

/// Prints each status that is announced on the network, until interrupted.
#[derive(FromArgs)]
struct Args {
    /// address to bind (default 0.0.0.0: a unicast address hears no broadcast)
    #[argh(option, default = "IpAddr::V4(Ipv4Addr::UNSPECIFIED)")]
    bind: IpAddr,
    /// UDP port (default 6667)
    #[argh(option, default = "6667")]
    port: u16,
    /// one JSON object per line
    #[argh(switch)]
    json: bool,
    /// stop after this many statuses
    #[argh(option)]
    count: Option<u64>,
    /// stop after this long, such as 30s; with --count, exit 1 if fewer came
    #[argh(option)]
    timeout: Option<humantime::Duration>,
}

fn main() -> ExitCode {
    const PROGRAM: &str = "rollcall-listen";
    let Args { bind, port, json, count, timeout } = cli::arguments(PROGRAM);
    let timeout = timeout.map(Into::into);
    cli::finish(PROGRAM, listen::run(&listen::Options { bind, port, json, count, timeout }))
}
