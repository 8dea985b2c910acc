//! `rollcall-client`: proves itself and says that it is here.

use std::process::ExitCode;

use rollcall::{cli, client};

fn main() -> ExitCode {
    cli::main("rollcall-client", |options| client::run(&options))
}
