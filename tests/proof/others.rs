//! Claims that other programs show: tests of tests/it, and the benchmark.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::ROOT;
use crate::claims::{Came, Verdict};
use crate::program::text;

/// All with one of these in their names; each of these is in the name of one.
pub fn tests(names: &[&str]) -> Came {
    let mut command = Command::new("just");
    command.args(["test", "--test", "it", "--"]).args(names).current_dir(ROOT);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = text(&output);
    let number = |after: &str| -> Option<usize> {
        let line = text.lines().find(|line| line.starts_with("test result: "))?;
        line.split([';', '.']).find_map(|part| part.trim().strip_suffix(after)?.trim().parse().ok())
    };
    let (passed, failed) = (number("passed").unwrap_or(0), number("failed").unwrap_or(0));
    let mut skipped = text.lines().skip_while(|line| !line.starts_with("SKIPPED ")).skip(1);
    let skipped: Vec<&str> = skipped.by_ref().take_while(|line| !line.is_empty()).collect();
    let failures = text.lines().filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"));
    let failures: Vec<&str> = failures.collect();
    let ran: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("test ")).collect();
    let are_there = names.iter().all(|name| ran.iter().any(|line| line.contains(name)));
    let verdict = match output.status.success() && failed == 0 && are_there {
        true if !skipped.is_empty() => Verdict::NotMeasured,
        held => Verdict::of(held),
    };
    let came = match (verdict, failures.is_empty()) {
        (Verdict::NotMeasured, _) => format!("{} of {passed} were skipped: {}", skipped.len(), skipped[0]),
        (Verdict::Broken, true) => text.lines().last().unwrap_or_default().to_owned(),
        (Verdict::Broken, false) => {
            format!("{passed} tests passed, {failed} failed: {}", failures.join(", "))
        }
        (Verdict::Held, _) => format!("{passed} tests passed, 0 failed"),
    };
    (verdict, came)
}

/// Only where all is built: the first time takes many minutes, and packages from the network.
pub fn bench() -> Came {
    let file = |name: &str| format!("{ROOT}/{name}");
    let needs = fs::read(file("bench/peers/django/requirements.txt")).unwrap();
    let is_there = fs::read(file("target/bench/venv/installed")).is_ok_and(|installed| installed == needs)
        && ["target/release/rollcall-server", "target/bench/build/release/rollcall-bench"]
            .iter()
            .all(|program| Path::new(&file(program)).exists());
    if !is_there {
        let why = "the peers are not there: stack/setup --bench, then just bench --quick".to_owned();
        return (Verdict::NotMeasured, why);
    }
    let output = Command::new(file("bench/run"))
        .arg("--quick")
        .stdin(Stdio::null())
        .current_dir(ROOT)
        .output()
        .unwrap();
    if !output.status.success() {
        return (Verdict::Broken, text(&output).lines().last().unwrap_or_default().to_owned());
    }
    let summary = fs::read(file("target/bench/summary.json")).unwrap();
    let summary: Value = serde_json::from_slice(&summary).unwrap();
    let says = |aim: &&Value, word| aim["aim"].as_str().unwrap().contains(word);
    let aims = summary["aims"].as_array().unwrap().iter();
    let aims: Vec<&Value> = aims.filter(|aim| says(aim, "axum's") && says(aim, "at 256, ")).collect();
    let came =
        aims.iter().map(|aim| format!("{}: {}", aim["aim"].as_str().unwrap(), aim["came"].as_str().unwrap()));
    let came = came.collect::<Vec<_>>().join("; ");
    (Verdict::of(aims.len() > 1 && aims.iter().all(|aim| aim["held"] == true)), came)
}
