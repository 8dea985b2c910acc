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
    Cert(Cert),
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
    Mend(Mend),
}

/// set to now what was seen or used in the future, when a clock was wrong; the doctor says if there is any
#[derive(FromArgs)]
#[argh(subcommand, name = "mend")]
struct Mend {}

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

/// which certificates may prove somebody
#[derive(FromArgs)]
#[argh(subcommand, name = "cert")]
struct Cert {
    #[argh(subcommand)]
    command: CertCommand,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum CertCommand {
    List(CertList),
    Revoke(CertRevoke),
    Add(CertAdd),
}

/// show every certificate that was enrolled or seen, the soonest end first
#[derive(FromArgs)]
#[argh(subcommand, name = "list")]
struct CertList {
    /// only those that end within this time, such as 30d
    #[argh(option)]
    expiring: Option<cli::Timespan>,
    /// one JSON object per line
    #[argh(switch)]
    json: bool,
}

/// refuse from the next request on, for good: serial numbers, or emails for all of their certificates
#[derive(FromArgs)]
#[argh(subcommand, name = "revoke")]
struct CertRevoke {
    #[argh(positional)]
    name: Vec<String>,
}

/// note a certificate before its first use, from what openssl x509 prints of it; `just enrol` does this
#[derive(FromArgs)]
#[argh(subcommand, name = "add")]
struct CertAdd {
    #[argh(positional)]
    email: String,
    #[argh(positional)]
    serial: String,
    #[argh(positional)]
    fingerprint: String,
    #[argh(positional)]
    not_after: String,
}

fn main() -> ExitCode {
    const PROGRAM: &str = "rollcall-admin";
    let Args { command } = cli::arguments(PROGRAM);
    let command = match command {
        Command::Migrate(Migrate {}) => admin::Command::Migrate,
        Command::Cert(Cert { command }) => match command {
            CertCommand::List(CertList { expiring, json }) => {
                admin::Command::CertList { expiring: expiring.map(|expiring| expiring.0), json }
            }
            CertCommand::Revoke(CertRevoke { name }) => admin::Command::CertRevoke(name),
            CertCommand::Add(CertAdd { email, serial, fingerprint, not_after }) => {
                admin::Command::CertAdd { email, serial, fingerprint, not_after }
            }
        },
        Command::User(User { command }) => match command {
            UserCommand::Add(Add { email }) => admin::Command::Add(email),
            UserCommand::List(List { json }) => admin::Command::List { json },
            UserCommand::Disable(Disable { email }) => admin::Command::Disable(email),
            UserCommand::Enable(Enable { email }) => admin::Command::Enable(email),
            UserCommand::Mend(Mend {}) => admin::Command::Mend,
        },
    };
    cli::finish(PROGRAM, admin::run(command))
}
