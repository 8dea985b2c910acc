//! `rollcall-listen`: prints the stream of who is here.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
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
    /// multicast group to hear as well, ADDRESS[%INTERFACE]; again for each further one
    #[argh(option)]
    join: Vec<listen::Group>,
    /// one JSON object per line
    #[argh(switch)]
    json: bool,
    /// stop after this many statuses
    #[argh(option)]
    count: Option<u64>,
    /// stop after this long, such as 30s; with --count, exit 1 if fewer came
    #[argh(option)]
    timeout: Option<cli::Timespan>,
    /// public key of a server, PEM; again for each further one. Then only what verifies is printed
    #[argh(option)]
    key: Vec<PathBuf>,
    /// print what does not verify, too, and mark it
    #[argh(switch)]
    accept_unsigned: bool,
    /// file that remembers what was heard over a restart, so that no replay passes for news
    #[argh(option)]
    state: Option<PathBuf>,
    /// refuse what was seen longer ago than this, such as 5m
    #[argh(option)]
    max_age: Option<cli::Timespan>,
    /// file with the key of the pseudonyms (privacy.key), to show the emails of those in --people
    #[argh(option)]
    privacy_key: Option<PathBuf>,
    /// file with the emails to show in the place of their pseudonyms, one a line
    #[argh(option)]
    people: Option<PathBuf>,
    /// tell every minute what was received, missed and dropped; the end tells it in any case
    #[argh(switch)]
    stats: bool,
}

fn main() -> ExitCode {
    const PROGRAM: &str = "rollcall-listen";
    let args: Args = cli::arguments(PROGRAM);
    let options = listen::Options {
        bind: args.bind,
        port: args.port,
        join: args.join,
        json: args.json,
        count: args.count,
        timeout: args.timeout.map(|timeout| timeout.0),
        keys: args.key,
        accept_unsigned: args.accept_unsigned,
        state: args.state,
        max_age: args.max_age.map(|max_age| max_age.0),
        privacy_key: args.privacy_key,
        people: args.people,
        stats: args.stats,
    };
    cli::finish(PROGRAM, listen::run(&options))
}
