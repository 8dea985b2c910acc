//! The man pages and the completions: they have the commands and flags of `--help`, and their readers take them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use crate::guardian;
use crate::stack::{binaries, text};

#[allow(dead_code, reason = "its main is for the command line")]
#[path = "../../examples/manual.rs"]
mod manual;

/// The flags of each command of a program; its own are those of the empty command.
type Flags = BTreeMap<String, BTreeSet<String>>;

static WRITTEN: LazyLock<PathBuf> = LazyLock::new(|| {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("manual-{}", std::process::id()));
    manual::write_to(&target).unwrap();
    target
});

fn page(program: &str, section: u8) -> PathBuf {
    WRITTEN.join(format!("man/{program}.{section}"))
}

/// Runs it; `None` where it is not installed.
fn runs(program: &str, arguments: &[&str]) -> Option<String> {
    match Command::new(program).args(arguments).env("TERM", "dumb").output() {
        Ok(output) => {
            assert!(output.status.success(), "{program} {arguments:?}: {}", text(&output));
            Some(text(&output))
        }
        Err(_) => {
            guardian::skip(&format!("there is no {program}"));
            None
        }
    }
}

/// By asking the program itself, command by command.
fn flags_of_help(program: &str, command: &str, flags: &mut Flags) {
    let words: Vec<&str> = command.split_whitespace().chain(["--help"]).collect();
    let help = runs(binaries().join(program).to_str().unwrap(), &words).unwrap();
    let (options, commands) = help.split_once("\nCommands:\n").unwrap_or((&help, ""));
    let first_words = |text: &str| {
        // Further lines of a description stand further to the right.
        let lines =
            text.lines().filter_map(|line| line.strip_prefix("  ")).filter(|line| !line.starts_with(' '));
        lines
            .map(|line| line.split(' ').next().unwrap().trim_end_matches(',').to_owned())
            .collect::<BTreeSet<_>>()
    };
    let own = first_words(options).into_iter().filter(|word| word.starts_with("--"));
    flags.insert(command.to_owned(), own.collect());
    for below in first_words(commands) {
        flags_of_help(program, format!("{command} {below}").trim(), flags);
    }
}

fn flags_of_page(page: &str) -> Flags {
    let mut flags = Flags::new();
    let mut command = String::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if let Some(name) = line.strip_prefix(".SS ") {
            command = name.replace('\\', "");
        } else if line.starts_with(".SH ") {
            command.clear();
        }
        let own = flags.entry(command.clone()).or_default();
        if line == ".TP"
            && let Some(flag) = lines.next().unwrap().strip_prefix(r"\fB\-\-")
        {
            own.insert(format!("--{}", flag.split(r"\fR").next().unwrap().replace('\\', "")));
        }
    }
    flags
}

#[test]
fn a_page_has_the_commands_and_flags_of_help_and_no_others() {
    for (program, section, ..) in manual::PROGRAMS {
        let mut wanted = Flags::new();
        flags_of_help(program, "", &mut wanted);
        for (command, flags) in &mut wanted {
            // They stand there once.
            match command.is_empty() {
                true => flags.insert("--version".to_owned()),
                false => flags.remove("--help"),
            };
        }
        let page = fs::read_to_string(page(program, section)).unwrap();
        assert_eq!(flags_of_page(&page), wanted, "{program}");
        assert!(!page.contains("just "), "{program}: a package has no just");
    }
}

#[test]
fn the_page_of_the_script_has_its_options() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/stack/install");
    let help = runs(script, &["--help"]).unwrap();
    let words = help.split(|c: char| !(c.is_ascii_lowercase() || c == '-'));
    let wanted: BTreeSet<String> = words.filter(|word| word.starts_with("--")).map(str::to_owned).collect();
    let page = fs::read_to_string(page("rollcall-setup", 8)).unwrap();
    let mut named = flags_of_page(&page).remove("").unwrap();
    assert!(named.remove("--help") && named.len() > 4, "{named:?}");
    assert_eq!(named, wanted);
}

/// Each would work for minutes, or install something.
#[test]
fn scripts_begin_nothing_for_an_option_that_they_have_not() {
    for script in ["bench/run", "stack/image", "stack/setup"] {
        let script = format!("{}/{script}", env!("CARGO_MANIFEST_DIR"));
        let output = Command::new(&script).arg("--nonsense").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && output.stdout.is_empty(), "{script}: {said}");
        assert!(said.lines().count() < 9, "{script}: {said}");
    }
}

#[test]
fn man_shows_each_page_without_a_warning() {
    let programs = manual::PROGRAMS.iter().map(|(program, section, ..)| (*program, *section));
    for (program, section) in programs.chain([("rollcall-setup", 8)]) {
        let page = page(program, section);
        let Some(shown) = runs("man", &["--warnings", "-l", page.to_str().unwrap()]) else { return };
        assert!(!shown.contains("warning"), "{program}: {shown}");
        for heading in ["NAME", "SYNOPSIS", "OPTIONS", "EXIT STATUS", "ENVIRONMENT", "EXAMPLES"] {
            assert!(shown.contains(&format!("\n{heading}\n")), "{program} has no {heading}: {shown}");
        }
    }
}

/// A line that ends with a space asks for the next word.
const COMPLETED: [(&str, &[&str]); 5] = [
    ("rollcall-admin user e", &["enable", "every", "export"]),
    ("rollcall-admin ca renew --", &["--help"]),
    ("rollcall-admin renew --w", &["--without"]),
    ("rollcall-listen --rel", &["--relay", "--relay-rate"]),
    ("rollcall-client --url https://localhost wh", &["who"]),
];

fn completes(shell: &str, script: impl Fn(&str, &str) -> String) {
    for (line, words) in COMPLETED {
        let program = line.split(' ').next().unwrap();
        let Some(said) = runs(shell, &["-c", &script(program, line)]) else { return };
        let said: Vec<&str> = said.lines().map(|line| line.split('\t').next().unwrap()).collect();
        assert_eq!(said, words, "{shell}: {line}");
    }
}

#[test]
fn bash_completes_commands_and_flags() {
    let folder = WRITTEN.join("completions/bash");
    completes("bash", |program, line| {
        let function = program.replace('-', "_");
        format!(
            ". {folder}/{program} && read -ra COMP_WORDS <<<'{line}' && COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)) \
             && _{function} && printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            folder = folder.display()
        )
    });
}

#[test]
fn fish_completes_commands_and_flags() {
    let folder = WRITTEN.join("completions/fish");
    completes("fish", |program, line| {
        format!("source {}/{program}.fish; complete -C '{line}'", folder.display())
    });
}

#[test]
fn zsh_takes_each_completion() {
    for (program, ..) in manual::PROGRAMS {
        let file = WRITTEN.join(format!("completions/zsh/_{program}"));
        // Outside of its completion system the file only defines functions, and gives them to compdef.
        let script = format!("compdef() {{ print $2: $functions[$1] }}; source {}", file.display());
        let Some(said) = runs("zsh", &["-f", "-c", &script]) else { return };
        assert!(said.starts_with(&format!("{program}: ")) && said.contains("--help"), "{program}: {said}");
    }
}
