//! `rollcall-admin`: who is enrolled.

use std::process::ExitCode;

use argh::FromArgs;
use rollcall::{admin, cli};

/// Enrols, lists and disables people and devices in the database of DATABASE_URL.
#[derive(FromArgs)]
struct Args {
    #[argh(subcommand)]
    command: Command,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Command {
    User(User),
    Migrate(Migrate),
}

/// bring the database's schema up to date; the server does the same when it starts
#[derive(FromArgs)]
#[argh(subcommand, name = "migrate")]
struct Migrate {}

/// who may be seen
#[derive(FromArgs)]
#[argh(subcommand, name = "user")]
struct User {
    #[argh(subcommand)]
    command: UserCommand,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum UserCommand {
    Add(Add),
    List(List),
    Disable(Disable),
    Enable(Enable),
}

/// enrol; one that is enrolled already stays as it is
#[derive(FromArgs)]
#[argh(subcommand, name = "add")]
struct Add {
    #[argh(positional)]
    email: Vec<String>,
}

/// show everybody, the most recently seen first
#[derive(FromArgs)]
#[argh(subcommand, name = "list")]
struct List {
    /// one JSON object per line
    #[argh(switch)]
    json: bool,
}

/// refuse from the next request on; the row stays
#[derive(FromArgs)]
#[argh(subcommand, name = "disable")]
struct Disable {
    #[argh(positional)]
    email: Vec<String>,
}

/// lift a disable
#[derive(FromArgs)]
#[argh(subcommand, name = "enable")]
struct Enable {
    #[argh(positional)]
    email: Vec<String>,
}

fn main() -> ExitCode {
    const PROGRAM: &str = "rollcall-admin";
    let Args { command } = cli::arguments(PROGRAM);
    let command = match command {
        Command::Migrate(Migrate {}) => admin::Command::Migrate,
        Command::User(User { command }) => match command {
            UserCommand::Add(Add { email }) => admin::Command::Add(email),
            UserCommand::List(List { json }) => admin::Command::List { json },
            UserCommand::Disable(Disable { email }) => admin::Command::Disable(email),
            UserCommand::Enable(Enable { email }) => admin::Command::Enable(email),
        },
    };
    cli::finish(PROGRAM, admin::run(command))
}
