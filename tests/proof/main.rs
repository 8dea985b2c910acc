//! `just prove`: the claims of README.md, each with the command behind it, what was expected and what came. It shares the
//! load and the ledger with tests/ha, and runs tests of tests/it.

#[allow(unused)]
#[path = "../it/disk.rs"]
mod disk;
#[allow(unused)]
#[path = "../it/guardian.rs"]
mod guardian;
#[allow(unused)]
#[path = "../ha/ledger.rs"]
mod ledger;
#[allow(unused)]
#[path = "../ha/load.rs"]
mod load;
#[allow(unused)]
#[path = "../it/namespace.rs"]
mod namespace;
#[allow(unused)]
#[path = "../it/program.rs"]
mod program;
#[allow(unused)]
#[path = "../../bench/src/section.rs"]
mod section;
#[path = "../it/session.rs"]
mod session;
#[allow(unused)]
#[path = "../it/stack.rs"]
mod stack;

mod claims;
mod faults;
mod loss;
mod others;
mod revocation;
mod scene;
mod sizes;
mod soak;

use std::io::{IsTerminal, stdout};
use std::process::ExitCode;
use std::time::Instant;

use rollcall::cli::{self, Exit, FromArgs};
use serde_json::json;

use claims::{CLAIMS, Claim, Verdict};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Shows on this machine that the claims of README.md hold: a line for each. Exits with 0 only if all of them do. It takes
/// about ten minutes, and has folders, ports and a database of its own.
#[derive(FromArgs)]
struct Options {
    /// list the claims, and try none
    #[argh(switch)]
    list: bool,
    /// one JSON object per line
    #[argh(switch)]
    json: bool,
    /// instead of the claims: load and faults for so many hours, which may be a fraction
    #[argh(option)]
    long: Option<f64>,
    /// with --long: chooses the faults and their times (default: another each time)
    #[argh(option)]
    seed: Option<u64>,
    /// only these
    #[argh(positional)]
    claims: Vec<String>,
}

fn main() -> ExitCode {
    let options: Options = cli::arguments("just prove");
    if let Some(hours) = options.long {
        let seed = options.seed.unwrap_or_else(|| cli::now_ns() % 1_000_000);
        return if soak::run(hours, seed) { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    if let Some(unknown) = options.claims.iter().find(|name| CLAIMS.iter().all(|claim| claim.name != **name))
    {
        cli::note(format_args!("just prove: there is no claim {unknown}; just prove --list has all"));
        return ExitCode::from(Exit::Usage as u8);
    }
    let is_wanted =
        |claim: &&Claim| options.claims.is_empty() || options.claims.iter().any(|name| name == claim.name);
    let (mut all, mut held) = (0, 0);
    for claim in CLAIMS.iter().filter(is_wanted) {
        if options.list {
            println!("{:<16} {}", claim.name, claim.says);
            continue;
        }
        let began = Instant::now();
        let (verdict, came) = claim.settle();
        let seconds = began.elapsed().as_secs();
        all += 1;
        held += usize::from(verdict == Verdict::Held);
        if options.json {
            println!(
                "{}",
                json!({
                    "claim": claim.name, "says": claim.says, "verdict": verdict.word(), "expected": claim.expected,
                    "came": came, "command": claim.command(), "seconds": seconds,
                })
            );
        } else {
            let (on, off) = if stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
                (verdict.colour(), "\x1b[0m")
            } else {
                ("", "")
            };
            println!(
                "{on}{:<12}{off} {:<16} {} | expected: {} | came: {came} | {seconds} s | {}",
                verdict.word(),
                claim.name,
                claim.says,
                claim.expected,
                claim.command()
            );
        }
    }
    if options.list {
        return ExitCode::SUCCESS;
    }
    if !options.json {
        println!("{held} of {all} claims hold");
    }
    if held == all { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
