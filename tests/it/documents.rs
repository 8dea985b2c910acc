//! The documents' promises: each line that a reader may type runs here, and each name in them exists.
//!
//! A line is run as it stands, in a clone of this repository with the folders that the documents name. A new line in a
//! document fails `names::every_line_is_run` until a test of this folder runs it.

mod deployment;
mod justless;
mod names;
mod night;
mod operations;
mod page;
mod servers;
mod walkthrough;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::listener::bound;
use crate::stack::{Builder, Running, Stack, binaries, text};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The recipes that are a program of ours, whose flags they take.
const PROGRAMS_OF_RECIPES: [(&str, &[&str]); 18] = [
    ("board", &["rollcall-board", "link"]),
    ("client", &["rollcall-client"]),
    ("who", &["rollcall-client", "who"]),
    ("listen", &["rollcall-listen"]),
    ("doctor", &["rollcall-server", "doctor"]),
    ("enrol", &["rollcall-admin", "enrol"]),
    ("renew", &["rollcall-admin", "renew"]),
    ("renew-server", &["rollcall-admin", "renew"]),
    ("certs", &["rollcall-admin", "certs"]),
    ("revoke", &["rollcall-admin", "revoke"]),
    ("crl", &["rollcall-admin", "crl"]),
    ("ca", &["rollcall-admin", "ca", "replace"]),
    ("history", &["rollcall-admin", "history"]),
    ("invite", &["rollcall-admin", "invite"]),
    ("join", &["rollcall-admin", "join"]),
    ("keys", &["rollcall-admin", "keys"]),
    ("leave", &["rollcall-admin", "leave"]),
    ("user", &["rollcall-admin", "user", "list"]),
];

/// Bash, in which `just` builds nothing: the tests have built the programs.
const SHELL: &str =
    "just() { command just --no-deps \"$@\"; }; export PATH=$PWD/target/release:$PATH:/usr/sbin\n";

/// Makes a clone in this folder: the files that the documents' lines need, and the programs.
fn clone_into(folder: &Path) {
    fs::create_dir_all(folder.join("certs")).unwrap();
    let script = r#"cp -R "$0"/{justfile,stack,nginx,deploy} "$1" && cp "$0"/certs/ca "$1/certs" && mkdir "$1/target""#;
    let copied = Command::new("bash").args(["-ec", script, ROOT]).arg(folder).output().unwrap();
    assert!(copied.status.success(), "{}", text(&copied));
    symlink(binaries(), folder.join("target/release")).unwrap();
}

/// A clone with a stack of its own, of which nothing runs yet.
struct Clone {
    folder: PathBuf,
    stack: Stack,
}

impl Clone {
    fn new() -> Self {
        let mut stack = Builder::new().set("ROLLCALL_BOARD", "on").stopped();
        let folder = stack.state.clone();
        clone_into(&folder);
        stack.state = folder.join(".run");
        stack.certs = folder.join("certs");
        Self { folder, stack }
    }

    /// A shell in the clone. The folders are those that the scripts choose by themselves.
    fn shell(&self, script: &str) -> Command {
        let mut command = self.stack.command("bash");
        command.args(["-euo", "pipefail", "-c", &format!("{SHELL}{script}")]).current_dir(&self.folder);
        for variable in ["ROLLCALL_JUST", "ROLLCALL_STATE", "ROLLCALL_CERTS", "ROLLCALL_BIN"] {
            command.env_remove(variable);
        }
        command
    }

    #[track_caller]
    fn runs(&self, script: &str, exit: i32, said: &str) -> String {
        let output = self.shell(script).output().unwrap();
        let text = text(&output);
        assert_eq!(output.status.code(), Some(exit), "{script}: {text}");
        assert!(page::says(&text, said), "{script}: {text:?} does not say {said:?}");
        text
    }

    /// Types a line of a document as it stands there.
    #[track_caller]
    fn types(&self, line: &str, exit: i32, said: &str) -> String {
        page::documented(line);
        self.runs(line, exit, said)
    }

    /// Types a line whose capital letters and brackets stand for something.
    #[track_caller]
    fn types_as(&self, documented: &str, line: &str, exit: i32, said: &str) -> String {
        page::documented_as(documented, line);
        self.runs(line, exit, said)
    }

    /// A listener that goes on in another terminal.
    #[track_caller]
    fn listens_as(&self, documented: &str, line: &str) -> Running {
        page::documented_as(documented, line);
        bound(&self.stack, self.shell(line))
    }
}

impl Drop for Clone {
    fn drop(&mut self) {
        let _ = self.stack.script("stack/down");
        let _ = fs::remove_dir_all(&self.folder);
    }
}
