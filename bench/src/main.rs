//! Measures rollcall beside its peers and its limits. `bench/run` starts everything and calls this.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use argh::FromArgs;

use certificates::Authority;
use load::{Load, Pace, Run};
use stack::Stack;

mod aims;
mod certificates;
mod load;
mod long;
mod measure;
mod plot;
mod report;
mod results;
mod section;
mod stack;
mod summary;

/// Measures a running stack: bench/run starts one.
#[derive(FromArgs)]
struct Args {
    #[argh(subcommand)]
    command: Command,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Command {
    Fill(FillCommand),
    Load(LoadCommand),
    Long(LongCommand),
    Measure(MeasureCommand),
}

/// Measure everything and write down what was found.
#[derive(FromArgs)]
#[argh(subcommand, name = "measure")]
struct MeasureCommand {
    /// state folder of the stack
    #[argh(positional)]
    state: PathBuf,
    /// repository, for target/bench/ and docs/
    #[argh(positional)]
    root: PathBuf,
    /// under four minutes: CPU, throughput and latency, to target/bench/summary.json only
    #[argh(switch)]
    quick: bool,
    /// how often each is measured
    #[argh(option)]
    rounds: Option<usize>,
}

/// Measure 100,000 people at a cadence of 30 s, and write target/bench/long.json and its section of docs/benchmarks.md.
#[derive(FromArgs)]
#[argh(subcommand, name = "long")]
struct LongCommand {
    /// state folder of the stack
    #[argh(positional)]
    state: PathBuf,
    /// repository, for target/bench/ and docs/
    #[argh(positional)]
    root: PathBuf,
    /// how long (default 10)
    #[argh(option, default = "10.0")]
    minutes: f64,
    /// how many people are enrolled (default 100000)
    #[argh(option, default = "100_000")]
    rows: usize,
}

/// Enrol so many people, and nobody else.
#[derive(FromArgs)]
#[argh(subcommand, name = "fill")]
struct FillCommand {
    /// state folder of the stack
    #[argh(positional)]
    state: PathBuf,
    /// rows
    #[argh(positional)]
    users: usize,
}

/// One load on one system, for looking closer.
#[derive(FromArgs)]
#[argh(subcommand, name = "load")]
struct LoadCommand {
    /// state folder that `bench/run --hold` printed
    #[argh(positional)]
    state: PathBuf,
    /// rollcall, axum, django, discosrv, nginx_204 or server_204
    #[argh(positional)]
    systems: Vec<String>,
    /// connections, each with a certificate of its own (default 64)
    #[argh(option, default = "64")]
    connections: usize,
    /// requests a second at times of their own; without it, as fast as the answers come
    #[argh(option)]
    rate: Option<f64>,
    /// seconds that are measured (default 3)
    #[argh(option, default = "3.0")]
    seconds: f64,
    /// times each system is measured, taking turns (default 1)
    #[argh(option, default = "1")]
    rounds: usize,
    /// a connection with a whole handshake for each request
    #[argh(switch)]
    handshakes: bool,
    /// also hear the datagrams
    #[argh(switch)]
    hear: bool,
}

fn main() -> ExitCode {
    let Args { command } = argh::from_env();
    let result = match command {
        Command::Fill(FillCommand { state, users }) => {
            Stack::read(&state).and_then(|stack| stack.fill(users))
        }
        Command::Long(LongCommand { state, root, minutes, rows }) => {
            Stack::read(&state).and_then(|stack| long::all(&stack, &root, minutes, rows))
        }
        Command::Measure(command) => measure_all(&command),
        Command::Load(command) => load_once(&command),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rollcall-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure_all(command: &MeasureCommand) -> io::Result<()> {
    let mut scale = if command.quick { measure::QUICK } else { measure::FULL };
    if let Some(rounds) = command.rounds {
        scale.rounds = rounds.max(1);
        scale.other_rounds = rounds.max(1);
        scale.latency_rounds = rounds.max(1);
        scale.other_latency_rounds = rounds.max(1);
    }
    let results = measure::all(&Stack::read(&command.state)?, &scale)?;
    let target = command.root.join("target/bench");
    report::print(&results);
    summary::write(&results, &target.join("summary.json"))?;
    if !command.quick {
        let codecs = report::codec::read(&target.join("build/criterion"))?;
        report::write_docs(&results, &codecs, &target.join(long::FILE), &command.root.join("docs"))?;
    }
    match results.errors.len() {
        0 => Ok(()),
        runs => Err(io::Error::other(format!(
            "{runs} runs had errors: they are listed above and in summary.json"
        ))),
    }
}

fn load_once(command: &LoadCommand) -> io::Result<()> {
    let stack = Stack::read(&command.state)?;
    let identities = Authority::read(&stack.certs)?.identities(command.connections, stack.users()?)?;
    let run = Run {
        pace: command.rate.map_or(Pace::Closed, Pace::Open),
        warm: Duration::from_millis(500),
        measure: Duration::from_secs_f64(command.seconds),
        handshake_each: command.handshakes,
    };
    for _ in 0..command.rounds {
        for name in &command.systems {
            let system = stack.system(name)?;
            let mut load = if command.handshakes {
                Load::new(system, &identities)?
            } else {
                Load::connect(system, &identities)?
            };
            if command.hear {
                load.hear(stack.broadcast_port)?;
            }
            let start = stack.start(system)?;
            let outcome = load.run(run)?;
            let spent = stack.stop(system, &start)?;
            let quantile = |q| outcome.latency.value_at_quantile(q) as f64 / 1e6;
            println!(
                "{name:10} {:>8.0}/s  p50 {:.2} p99 {:.2} p99.9 {:.2} ms  {spent}  errors {:?} unfinished {}",
                outcome.rate(),
                quantile(0.5),
                quantile(0.99),
                quantile(0.999),
                outcome.errors,
                outcome.unfinished,
            );
            if command.hear {
                let quantile = |q| outcome.heard.value_at_quantile(q) as f64 / 1e6;
                println!(
                    "           heard {}  p50 {:.2} p99 {:.2} ms, not heard {}",
                    outcome.heard.len(),
                    quantile(0.5),
                    quantile(0.99),
                    outcome.unheard
                );
            }
        }
    }
    Ok(())
}
