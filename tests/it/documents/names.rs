//! Every line is run somewhere; recipes, flags, settings, files and links that are named exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::page::{self, Page, is_variable};
use super::{PROGRAMS_OF_RECIPES, ROOT};
use crate::image::COMPOSED;
use crate::stack::{binaries, text};

/// The script of image.rs has these lines, and a test below looks that it does.
const IN_DOCKER: &str = "image.rs, where there is a Docker";
/// The lines that no test types, and why.
const NOT_RUN: [(&str, &str); 55] = [
    ("eval \"$(just ha env)\"", "tests/ha reads what it prints"),
    ("just ha in s1 target/release/rollcall-admin migrate", "tests/ha starts each server in this way"),
    (
        "export DATABASE_URL='postgres://rollcall:PASSWORD@127.0.0.1:5432/rollcall?sslmode=verify-ca&sslrootcert=/etc/haproxy/rollcall-db.crt'",
        "tests/ha connects with it",
    ),
    (
        "export ROLLCALL_SERVER_DATABASE_URL='postgres://rollcall_server:PASSWORD@127.0.0.1:5432/rollcall?sslmode=verify-ca&sslrootcert=/etc/haproxy/rollcall-db.crt'",
        "tests/ha connects with it",
    ),
    (
        "export ROLLCALL_BOARD_DATABASE_URL='postgres://rollcall_reader:PASSWORD@127.0.0.1:5432/rollcall?sslmode=verify-ca&sslrootcert=/etc/haproxy/rollcall-db.crt'",
        "tests/ha connects with it",
    ),
    ("just ha test --long", "it takes the better part of an hour; just test runs its short form"),
    (
        "deploy/ha/files new /etc/rollcall-db 192.0.2.11 192.0.2.12 192.0.2.13",
        "tests/ha/bed reads the line and runs it",
    ),
    ("deploy/ha/files database 1 /etc/rollcall-db", "tests/ha/bed reads the line and runs it"),
    ("deploy/ha/files proxy /etc/rollcall-db", "tests/ha/bed reads the line and runs it"),
    (
        "python3 -m pip install --no-deps --target /opt/patroni 'patroni==4.1.*' ydiff",
        "tests/ha/bed reads the line and runs it",
    ),
    (
        "PYTHONPATH=/opt/patroni patronictl -c /etc/patroni/config.yml list",
        "tests/ha/bed reads the line and runs it",
    ),
    (". /etc/rollcall-db/passwords", "tests/ha/bed reads the line and runs it"),
    (
        "cat deploy/roles.sql deploy/ha/passwords.sql | setpriv --reuid postgres --regid postgres --clear-groups psql -v owner=\"$OWNER\" -v server=\"$SERVER\" -v reader=\"$READER\"",
        "tests/ha/bed reads the line and runs it",
    ),
    (
        "apt-get install postgresql etcd-server patroni python3-psycopg2 python3-idna python3-pip",
        "it installs packages; stack/setup --tests installs the same",
    ),
    ("apt-get install haproxy", "it installs a package; stack/setup --tests installs the same"),
    ("rm -rf /var/lib/etcd/default", "Debian's own; a host of tests/ha/bed begins with an empty folder"),
    (
        "stack/setup && just demo",
        "it may install packages; .ci/run runs the first half, walkthrough.rs the second",
    ),
    ("stack/setup --package", "it may install packages; stack/setup --tests does the same"),
    ("stack/setup --bench", "it may install packages"),
    ("just bench --quick", "it builds the peers, and takes four minutes"),
    ("just bench --long --minutes 30 --rows 1000000", "it takes half an hour"),
    ("just test", "it runs these tests"),
    ("just lint", ".ci/run runs it"),
    ("just prove", "it takes ten minutes; proof.rs runs parts of it"),
    ("just prove --long HOURS", "it takes hours"),
    ("just fuzz NAME", "it builds for minutes; tests/corpus.rs runs the inputs that it begins with"),
    ("sysctl -w net.core.rmem_max=8388608", "it would change the host that the tests run on"),
    ("cargo install", "it loads a package; stack/setup does it where just is missing"),
    (
        "cargo build --release --no-default-features --features listen",
        "it takes minutes; just lint builds it unoptimized",
    ),
    (
        "cargo build --release --no-default-features --features client",
        "it takes minutes; just lint builds it unoptimized",
    ),
    ("rollcall-admin maintain", "history.rs runs it"),
    ("rollcall-admin migrate", "just up and rollcall-setup run it"),
    ("just package", "deployment.rs runs its script, on the programs of the tests"),
    ("just client --every 30s --renew", "renewal.rs runs the client in this way"),
    ("rollcall-client --renew", "renewal.rs runs it"),
    ("rollcall-admin sign [--watch]", "renewal.rs runs both"),
    ("rollcall-admin sign --watch", "just up runs it"),
    ("systemd-analyze security --offline=true", "it is a measurement, not a step"),
    ("export ROLLCALL_HTTPS_PORT=8443", "every test here sets a port of its own in this way"),
    ("rollcall-server doctor", "it names what just doctor runs"),
    ("target/release/rollcall-admin migrate", "night.rs moves a stack to another database in this way"),
    (
        "psql \"$DATABASE_URL\" -v ON_ERROR_STOP=1 -f deploy/grants.sql",
        "night.rs moves a stack to another database in this way",
    ),
    (
        "export ROLLCALL_SERVER_DATABASE_URL='postgres://rollcall_server:PASSWORD@127.0.0.1/rollcall?sslmode=disable'",
        "night.rs moves a stack to another database in this way",
    ),
    (
        "export ROLLCALL_BOARD_DATABASE_URL='postgres://rollcall_reader:PASSWORD@127.0.0.1/rollcall?sslmode=disable'",
        "every test of the board moves it to another database in this way",
    ),
    ("just image", "image.rs runs stack/image"),
    ("just manual", "manuals.rs writes the same"),
    ("docker load -i rollcall.tar", IN_DOCKER),
    ("docker compose up -d", IN_DOCKER),
    ("docker compose up -d --force-recreate", IN_DOCKER),
    ("docker compose exec nginx rollcall-admin enrol alice@example.com", IN_DOCKER),
    ("docker compose exec nginx rollcall-server doctor", IN_DOCKER),
    ("docker compose logs listen", IN_DOCKER),
    ("docker compose cp nginx:/etc/rollcall/certs/alice@example.com.crt .", IN_DOCKER),
    (
        "docker run --rm --network host -v \"$PWD/broadcast.pub:/key.pub:ro\" --entrypoint rollcall-listen localhost/rollcall --key /key.pub",
        IN_DOCKER,
    ),
    ("install -m 0600 /dev/null stack.env", IN_DOCKER),
];
/// These need systemd as the first process; deployment.rs has it.
const OF_SYSTEMD: [&str; 2] = ["systemctl ", "journalctl "];

/// The sources of this folder, in which each line is typed, and of tests/ha.
fn sources() -> String {
    let folders = ["tests/it/documents", "tests/ha"].map(|folder| Path::new(ROOT).join(folder));
    let files =
        folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()));
    files.filter(|file| !file.ends_with("names.rs")).map(|file| fs::read_to_string(file).unwrap()).collect()
}

#[test]
fn every_line_is_run() {
    let sources = sources().replace("\\\"", "\"");
    // A block that is run as one is found by its first line.
    let is_run_whole = |first: &str| sources.contains(&format!("block(\"{first}\")"));
    let lines: BTreeSet<String> = page::pages().iter().flat_map(|page| page.lines(&is_run_whole)).collect();
    assert!(lines.len() > 60, "{lines:#?}");
    let not_run: BTreeSet<&str> = NOT_RUN.into_iter().map(|(line, _)| line).collect();
    let missing: Vec<_> = lines
        .iter()
        .filter(|line| {
            !sources.contains(&format!("\"{line}\""))
                && !not_run.contains(line.as_str())
                && !OF_SYSTEMD.iter().any(|begin| line.starts_with(begin))
        })
        .collect();
    assert!(missing.is_empty(), "no test types these lines of the documents: {missing:#?}");
    let all: BTreeSet<String> = page::pages().iter().flat_map(|page| page.lines(&|_| false)).collect();
    for line in not_run {
        assert!(all.contains(line), "no document has the line {line:?} any more");
    }
}

#[test]
fn docker_runs_the_lines_of_its_document() {
    for (line, _) in NOT_RUN.into_iter().filter(|(_, why)| *why == IN_DOCKER) {
        assert!(COMPOSED.contains(line), "image.rs does not run {line}");
    }
}

#[test]
fn recipes_and_flags_exist() {
    let run = |program: &Path, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).current_dir(ROOT).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        text(&output)
    };
    let summary = run(Path::new("just"), &["--summary"]);
    let recipes: BTreeSet<&str> = summary.split_whitespace().collect();
    let help = |program: &str, subcommands: &[&str]| {
        run(&binaries().join(program), &[subcommands, &["--help"]].concat())
    };
    let under = |program: &str, arguments: &[&str]| {
        let words = 1 + usize::from(arguments.first() == Some(&"ca"));
        help(program, &arguments[..words.min(arguments.len())])
    };
    let script = |name: &str| fs::read_to_string(Path::new(ROOT).join(name)).unwrap();
    for page in page::pages() {
        for line in page.lines(&|_| false) {
            let words: Vec<&str> = line.split(' ').skip_while(|word| word.contains('=')).collect();
            let (program, arguments) = words.split_first().unwrap();
            let known = match (*program, arguments.first()) {
                ("just", None) => continue,
                ("just", Some(recipe)) => {
                    assert!(recipes.contains(recipe), "{}: {line}: there is no recipe {recipe}", page.name);
                    match PROGRAMS_OF_RECIPES.iter().find(|(name, _)| name == recipe) {
                        Some((_, [program, group, default]))
                            if *recipe == *group && ["user", "ca"].contains(group) =>
                        {
                            help(program, &[group, arguments.get(1).unwrap_or(default)])
                        }
                        Some((_, [program, subcommands @ ..])) => help(program, subcommands),
                        _ => script("justfile") + &script(&format!("stack/{}", script_of(recipe))),
                    }
                }
                ("stack/run", Some(program)) => under(program, &arguments[1..]),
                ("rollcall-admin", _) => under("rollcall-admin", arguments),
                ("rollcall-setup", _) => script("stack/install"),
                (program, _) if program.starts_with("rollcall-") => {
                    let subcommands =
                        ["doctor", "link", "sign", "who"].into_iter().filter(|word| arguments.contains(word));
                    help(program, &subcommands.collect::<Vec<_>>()) + &help(program, &[])
                }
                (program, _) if program.starts_with("stack/") || program == "certs/ca" => script(program),
                _ => continue,
            };
            for flag in flags(&arguments.join(" ")) {
                assert!(known.contains(&flag), "{}: {line}: there is no {flag}", page.name);
            }
        }
    }
    // Flags by themselves: some program of ours has each.
    let mut known = String::new();
    for (_, command) in PROGRAMS_OF_RECIPES {
        known += &help(command[0], &command[1..]);
    }
    known +=
        &(help("rollcall-server", &[]) + &help("rollcall-board", &[]) + &help("rollcall-admin", &["sign"]));
    for program in
        ["rollcall-server", "rollcall-board", "rollcall-admin", "rollcall-client", "rollcall-listen"]
    {
        known += &format!("--version {}", run(&binaries().join(program), &["--version"]));
    }
    for name in ["rotate", "logs", "install"] {
        known += &script(&format!("stack/{name}"));
    }
    for page in page::pages() {
        for span in page.spans().into_iter().filter(|span| span.starts_with("--")) {
            for flag in flags(&span) {
                assert!(known.contains(&flag), "{}: `{span}`: no program has {flag}", page.name);
            }
        }
    }
}

/// The script behind a recipe that is none of a program.
fn script_of(recipe: &str) -> &str {
    match recipe {
        "rotate-key" => "rotate",
        "ha" => "../tests/ha/bed",
        "build" | "manual" | "test" | "bench" | "lint" | "ci" | "docs-check" => "env",
        other => other,
    }
}

fn flags(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
    words.filter(|word| word.starts_with("--") && word.len() > 2).map(str::to_owned).collect()
}

/// Names like `ROLLCALL_LISTEN` in a text.
fn variables(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words
        .filter(|word| is_variable(word) && !word.ends_with('_'))
        .filter(|word| word.starts_with("ROLLCALL_") || *word == "DATABASE_URL")
        .map(str::to_owned)
        .collect()
}

#[test]
fn settings_are_documented_and_read() {
    let prose = Page::read("docs/reference.md").prose();
    let table: BTreeSet<String> = prose
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(name, _)| name.to_owned())
        .filter(|name| is_variable(name) && name.contains('_'))
        .collect();
    let mut read = BTreeSet::new();
    for file in tracked()
        .filter(|file| ["bin/", "src/", "stack/", "certs/"].iter().any(|room| file.starts_with(room)))
    {
        read.extend(variables(&fs::read_to_string(Path::new(ROOT).join(file)).unwrap()));
    }
    for name in &table {
        assert!(read.contains(name), "docs/reference.md documents {name}, and nothing reads it");
    }
    let missing: Vec<_> = read.difference(&table).collect();
    assert!(missing.is_empty(), "these are read, and the table of docs/reference.md lacks them: {missing:?}");
    for page in page::pages() {
        let all = page.prose() + &page.blocks().into_iter().map(|block| block.text).collect::<String>();
        for name in variables(&all) {
            assert!(table.contains(&name), "{}: nothing reads {name}", page.name);
        }
    }
}

/// The files of the repository.
fn tracked() -> impl Iterator<Item = String> {
    let mut folders = vec![Path::new(ROOT).to_owned()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(ROOT).unwrap().to_str().unwrap().to_owned();
            let generated = ["target", ".git", ".run", "bench/target"].contains(&name.as_str())
                || name.starts_with("certs/") && name != "certs/ca";
            match path.is_dir() {
                _ if generated => {}
                true if !path.is_symlink() => folders.push(path),
                _ => files.push(name),
            }
        }
    }
    files.into_iter()
}

#[test]
fn files_and_links_exist() {
    let root = Path::new(ROOT);
    let documents = ["CHANGELOG.md", "docs/wire.md", "docs/benchmarks.md"];
    for page in documents.map(Page::read).into_iter().chain(page::pages()) {
        let here = root.join(page.name);
        let prose = page.prose();
        for link in prose.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0)) {
            let file = link.split('#').next().unwrap();
            let exists =
                file.is_empty() || link.contains("://") || here.parent().unwrap().join(file).exists();
            assert!(exists, "{}: the link {link} leads nowhere", page.name);
        }
        let rooms = [
            "bench/",
            "bin/",
            "deploy/",
            "docs/",
            "examples/",
            "nginx/",
            "sql/",
            "src/",
            "stack/",
            "tests/",
            ".ci/",
        ];
        for word in prose.split(|c: char| !(c.is_ascii_alphanumeric() || "/._-*".contains(c))) {
            let name = word.trim_end_matches(['.', '-']);
            let named = rooms.iter().any(|room| name.starts_with(room)) && !name.contains('*')
                || name == "certs/ca"
                || !name.contains('/') && name.ends_with(".md");
            let exists = root.join(name).exists() || here.parent().unwrap().join(name).exists();
            assert!(!named || exists, "{}: there is no {name}", page.name);
        }
    }
}
