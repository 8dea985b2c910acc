//! `rollcall-admin`: enrols people and certificates.

use std::process::ExitCode;

use rollcall::{admin, cli};

fn main() -> ExitCode {
    cli::main("rollcall-admin", admin::run)
}
