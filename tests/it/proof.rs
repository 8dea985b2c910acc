//! Parts of `just prove`: a claim that holds, one that does not, and one that there is not.

use std::process::Command;

use serde_json::Value;

use crate::stack::{expect, text};

/// Types it in the repository.
fn prove(arguments: &[&str]) -> Command {
    let mut command = Command::new("just");
    command.arg("prove").args(arguments).current_dir(env!("CARGO_MANIFEST_DIR"));
    command
}

#[test]
fn each_claim_is_a_sentence_of_the_readme_and_only_if_all_hold_it_exits_with_0() {
    expect(&mut prove(&["nonsense"]), 2, "there is no claim nonsense; just prove --list has all");
    let list = text(&prove(&["--list"]).output().unwrap());
    // Each point of "Why to trust it" has one, and the section of the board.
    let readme = include_str!("../../README.md").split_whitespace().collect::<Vec<_>>().join(" ");
    let (_, trust) = readme.split_once("## Why to trust it ").unwrap();
    let (trust, _) = trust.split_once(" ## ").unwrap();
    for point in trust.split("- ").skip(1) {
        let is_shown = list.lines().any(|line| {
            line.split_once(' ')
                .is_some_and(|(_, says)| !says.trim().is_empty() && point.contains(says.trim()))
        });
        assert!(is_shown, "no claim of just prove is in {point:?}: {list}");
    }

    // One that a test shows, and one that it measures by itself.
    let held = prove(&["--json", "least-right", "loss-server"]).output().unwrap();
    assert_eq!(held.status.code(), Some(0), "{}", text(&held));
    let lines: Vec<Value> = String::from_utf8(held.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    for line in &lines {
        assert_eq!(line["verdict"], "held", "{line}");
    }
    let came = lines.iter().find(|line| line["claim"] == "loss-server").unwrap()["came"].as_str().unwrap();
    assert!(came.contains(" acknowledged, 0 lost; "), "{came}");
    assert!(came.contains(" announced, 0 without a row, "), "{came}");

    // A database that loses one commit.
    let mut losing = prove(&["loss-nginx"]);
    let losing = losing.env("ROLLCALL_PROVE_LOSE", "1").output().unwrap();
    assert_eq!(losing.status.code(), Some(1), "{}", text(&losing));
    let said = text(&losing);
    assert!(said.starts_with("BROKEN ") && said.contains(" acknowledged, 1 lost; "), "{said}");
    assert!(said.contains("0 of 1 claims hold\n"), "{said}");
}
