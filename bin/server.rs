//! `rollcall-server`: the clerk behind nginx.

use std::path::PathBuf;
use std::process::ExitCode;

use argh::FromArgs;
use rollcall::cli::Exit;
use rollcall::doctor::Level;
use rollcall::{cli, doctor, server};

/// Records who was seen and announces it. Runs behind nginx, which checks the certificates. The
/// database is DATABASE_URL; the log's detail is ROLLCALL_LOG (error, warn, info, debug). Announcements
/// carry emails or, with ROLLCALL_PRIVACY=pseudonym, what ROLLCALL_PRIVACY_KEY makes of them.
#[derive(FromArgs)]
struct Args {
    /// where to listen: HOST:PORT or unix:PATH (ROLLCALL_LISTEN, default 127.0.0.1:8000)
    #[argh(option)]
    listen: Option<server::Address>,
    /// where to announce: auto, or interfaces and addresses, separated by commas (ROLLCALL_BROADCAST, default auto)
    #[argh(option)]
    broadcast: Option<String>,
    /// file with the secret that nginx presents (default $ROLLCALL_STATE/proxy-credential)
    #[argh(option)]
    proxy_credential: Option<PathBuf>,
    /// private key that signs announcements (ROLLCALL_BROADCAST_KEY; without one they are not signed)
    #[argh(option)]
    broadcast_key: Option<PathBuf>,
    /// how long the database may take (ROLLCALL_DEADLINE, default 2s)
    #[argh(option)]
    deadline: Option<cli::Timespan>,
    /// read the settings, say what is wrong with them, and start nothing
    #[argh(switch)]
    check: bool,
    #[argh(subcommand)]
    command: Option<Command>,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Command {
    Doctor(Doctor),
}

/// say what keeps announcements from being heard or clients from being let in: a line each, green, yellow or
/// red, with what to do. Exits with 1 if one is red. Starts nothing; the flags above hold, before the word doctor
#[derive(FromArgs)]
#[argh(subcommand, name = "doctor")]
struct Doctor {
    /// only these: network, nginx, database, certificates, keys, disk
    #[argh(positional)]
    checks: Vec<String>,
}

fn main() -> ExitCode {
    const PROGRAM: &str = "rollcall-server";
    let Args { listen, broadcast, proxy_credential, broadcast_key, deadline, check, command } =
        cli::arguments(PROGRAM);
    let options = server::Options { listen, broadcast, proxy_credential, broadcast_key, deadline, check };
    match command {
        None => cli::finish(PROGRAM, server::run(options)),
        Some(Command::Doctor(Doctor { checks })) => match doctor::run(options, &checks) {
            Ok(Level::Red) => ExitCode::from(Exit::Failure as u8),
            other => cli::finish(PROGRAM, other.map(drop)),
        },
    }
}
