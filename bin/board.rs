//! `rollcall-board`: who is here, for those who may know.

use std::process::ExitCode;

use rollcall::{board, cli};

fn main() -> ExitCode {
    cli::main("rollcall-board", board::run)
}
