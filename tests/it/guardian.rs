//! A process that outlives the tests: it names those that were skipped, and stops processes that the tests left behind, also
//! when they were killed.

use std::io::Write;
use std::panic::Location;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::thread;

/// Its input ends with the test process. A line is the folder of a stack, or a test that was skipped and why.
const SCRIPT: &str = r#"
folders=() skipped=
while IFS= read -r line; do
    if [[ $line = /* ]]; then folders=("$line" "${folders[@]}"); else skipped+=$line$'\n'; fi
done
skipped=$(sort -u <<<"$skipped" | sed '/^$/d')
[ -z "$skipped" ] || printf 'SKIPPED %s tests:\n%s\n\n' "$(wc -l <<<"$skipped")" "$skipped" >&2
for folder in "${folders[@]}"; do
    [ -d "$folder" ] || continue
    ROLLCALL_STATE=$folder "$0" >/dev/null
    # It may be a disk of its own.
    ! mountpoint -q "$folder" || umount -l "$folder"
    rm -rf "$folder"
done
"#;

fn tell(line: &str) {
    static GUARDIAN: OnceLock<Mutex<ChildStdin>> = OnceLock::new();
    let guardian = GUARDIAN.get_or_init(|| {
        // In a session of its own, no signal from the terminal reaches it.
        let mut command = Command::new("setsid");
        command.args(["bash", "-c", SCRIPT, concat!(env!("CARGO_MANIFEST_DIR"), "/stack/down")]);
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        Mutex::new(command.spawn().unwrap().stdin.take().unwrap())
    });
    writeln!(guardian.lock().unwrap(), "{line}").unwrap();
}

/// Stops the stack in this folder after the tests, and removes the folder, if it is still there.
pub fn watch(folder: &Path) {
    tell(folder.to_str().unwrap());
}

/// The test cannot run here. Its name comes after the results of the others; in CI it fails.
#[track_caller]
pub fn skip(reason: &str) {
    let place = Location::caller().to_string();
    let thread = thread::current();
    // libtest names the thread after the test, unless it runs them one after the other.
    let test = thread.name().filter(|name| *name != "main").unwrap_or(&place);
    assert!(std::env::var_os("CI").is_none(), "{test} cannot run here: {reason}");
    forbidden(&format!("{test}: {reason}"));
}

/// The same where nothing that could be installed would help.
pub fn forbidden(reason: &str) {
    tell(&reason.replace('\n', " "));
}
