//! `rollcall-server`: the clerk behind nginx.

use std::process::ExitCode;

use rollcall::cli::{self, Exit};
use rollcall::doctor::{self, Level};
use rollcall::server::{self, Command, Doctor, Options};

fn main() -> ExitCode {
    const PROGRAM: &str = "rollcall-server";
    let mut options: Options = cli::arguments(PROGRAM);
    match options.command.take() {
        None => cli::finish(PROGRAM, server::run(options)),
        Some(Command::Doctor(Doctor { checks })) => match doctor::run(options, &checks) {
            Ok(Level::Red) => ExitCode::from(Exit::Failure as u8),
            other => cli::finish(PROGRAM, other.map(drop)),
        },
    }
}
