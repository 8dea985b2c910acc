//! `rollcall-listen`: prints the stream of announcements.

use std::process::ExitCode;

use rollcall::{cli, listener};

fn main() -> ExitCode {
    cli::main("rollcall-listen", |options| listener::run(&options))
}
