//! Where there is no justfile, as in a package, messages name the programs behind its recipes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use rollcall::cli::program_of;

use super::page::Page;
use super::{Clone, ROOT};
use crate::stack::{binaries, text};

/// Recipes of a clone alone, which no message of a program names.
const OF_A_CLONE: [&str; 3] = ["demo", "build", "layers"];

#[test]
fn messages_name_programs_where_there_is_no_just() {
    let clone = Clone::new();
    fs::remove_file(clone.folder.join("justfile")).unwrap();
    let says = |line: &str, exit: i32, said: &str| {
        let text = clone.runs(line, exit, said);
        assert!(!text.contains("just "), "{line}: {text}");
    };
    says("rollcall-admin invite --help", 0, "(rollcall-setup --join there)");
    says("rollcall-listen --help", 0, "(rollcall-admin keys)");
    says("rollcall-server --check", 78, "`rollcall-setup` sets it");
    says("stack/up", 0, "behind nginx");
    says("ROLLCALL_BOARD_LISTEN=127.0.0.1:1 stack/run rollcall-board link", 69, "is it up? rollcall-setup");
    says("stack/run rollcall-admin renew phone", 1, "rollcall-admin enrol makes one");
    says(
        "stack/run rollcall-admin invite two",
        0,
        "there: rollcall-setup --join DATABASE_URL --invitation two:",
    );
    says(
        "stack/run rollcall-client --url https://localhost:1 --attempts 1",
        69,
        "systemctl status \"rollcall-*\" tells",
    );
    says("stack/rotate --switch", 1, "to switch to: … /stack/rotate makes it");
    says("curl -sS http://$ROLLCALL_BOARD_LISTEN/api/who", 0, "; rollcall-board link opens the page");
    says("cat .run/*/log .run/*.log", 0, "rollcall-server … listens on");
}

#[test]
fn the_reference_has_the_program_of_each_recipe() {
    let blocks = Page::read("docs/reference.md").blocks();
    let block = blocks.iter().find(|block| block.text.starts_with("just board ")).unwrap();
    let rows: BTreeMap<&str, &str> = block
        .text
        .lines()
        .map(|line| line["just ".len()..].split_once(' ').unwrap())
        .map(|(recipe, program)| (recipe, program.trim()))
        .collect();
    for recipe in recipes() {
        let line = format!("just {recipe}");
        let program = program_of(&line);
        assert_eq!(
            rows.get(recipe.as_str()).copied(),
            Some(&*program).filter(|named| *named != line),
            "{recipe}"
        );
    }
}

fn recipes() -> BTreeSet<String> {
    let summary = text(&Command::new("just").arg("--summary").current_dir(ROOT).output().unwrap());
    summary.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn each_recipe_that_a_message_names_has_a_program() {
    let recipes = recipes();
    let find = ["-rhoE", "just [a-z-]+", "src", "deploy/prometheus"];
    let named = text(&Command::new("grep").args(find).current_dir(ROOT).output().unwrap());
    let named: BTreeSet<&str> =
        named.lines().map(|words| &words["just ".len()..]).filter(|name| recipes.contains(*name)).collect();
    assert!(named.len() > 15, "{named:?}");
    for recipe in named.into_iter().filter(|recipe| !OF_A_CLONE.contains(recipe)) {
        let line = format!("just {recipe}");
        let program = program_of(&line);
        assert_ne!(program, line, "src/cli/recipes.rs has no program for it");
        let mut words = program.split(' ');
        let name = words.next().unwrap();
        if ["rollcall-setup", "systemctl", "journalctl", "dpkg-reconfigure"].contains(&name) {
            continue;
        }
        let help = Command::new(binaries().join(name)).args(words.clone()).arg("--help").output().unwrap();
        assert!(help.status.success(), "{program}: {}", text(&help));
    }
}
