//! Messages name the recipes of the justfile. A host that has none has the programs behind them.

use std::borrow::Cow;

/// A recipe that messages and documents name, and the command behind it. tests/it/manuals.rs compares both with the
/// justfile.
const PROGRAMS: [(&str, &str); 23] = [
    ("board", "rollcall-board link"),
    ("ca", "rollcall-admin ca"),
    ("certs", "rollcall-admin certs"),
    ("client", "rollcall-client"),
    ("crl", "rollcall-admin crl"),
    ("doctor", "rollcall-server doctor"),
    ("down", r#"systemctl stop "rollcall-*""#),
    ("enrol", "rollcall-admin enrol"),
    ("history", "rollcall-admin history"),
    ("invite", "rollcall-admin invite"),
    ("join", "rollcall-admin join"),
    ("keys", "rollcall-admin keys"),
    ("leave", "rollcall-admin leave"),
    ("listen", "rollcall-listen"),
    ("logs", r#"journalctl -u "rollcall-*""#),
    ("renew", "rollcall-admin renew"),
    ("renew-server", "rollcall-admin renew --server"),
    ("revoke", "rollcall-admin revoke"),
    ("rotate-key", "rollcall-setup rotate-key"),
    ("status", r#"systemctl status "rollcall-*""#),
    ("up", "rollcall-setup"),
    ("user", "rollcall-admin user"),
    ("who", "rollcall-client who"),
];

/// The text as it holds on this host: `stack/env` says that there is a justfile.
pub fn here(text: &str) -> Cow<'_, str> {
    match std::env::var_os("ROLLCALL_JUST") {
        Some(_) => Cow::Borrowed(text),
        None => program_of(text),
    }
}

/// Names the program in the place of each `just RECIPE`.
pub fn program_of(text: &str) -> Cow<'_, str> {
    const JUST: &str = "just ";
    let mut named = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(JUST) {
        let (before, after) = (&rest[..at], &rest[at + JUST.len()..]);
        let end = after.find(|c: char| !c.is_ascii_lowercase() && c != '-').unwrap_or(after.len());
        let is_word = !before.ends_with(|c: char| c.is_alphanumeric());
        let program = PROGRAMS.iter().find(|(recipe, _)| is_word && *recipe == &after[..end]);
        let said = program.map_or(&rest[at..at + JUST.len() + end], |(_, program)| program);
        named = named + before + said;
        rest = &after[end..];
    }
    if named.is_empty() { Cow::Borrowed(text) } else { Cow::Owned(named + rest) }
}
