//! Messages name the recipes of the justfile. A host that has none has the programs behind them.

use std::borrow::Cow;

/// A recipe that messages and documents name, and the command behind it. tests/it/documents/justless.rs
/// compares both with the justfile and docs/reference.md.
const PROGRAMS: [(&str, &str); 24] = [
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
    ("join", "rollcall-setup --join"),
    ("keys", "rollcall-admin keys"),
    ("leave", "rollcall-admin leave"),
    ("listen", "rollcall-listen"),
    ("logs", r#"journalctl -u "rollcall-*""#),
    ("renew", "rollcall-admin renew"),
    ("renew-server", "rollcall-admin renew --server"),
    ("revoke", "rollcall-admin revoke"),
    ("rotate-key", "/usr/share/rollcall/stack/rotate"),
    ("setup", "dpkg-reconfigure rollcall-server"),
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
        let recipe = &after[..if before.ends_with(char::is_alphanumeric) { 0 } else { end }];
        let program = PROGRAMS.iter().find(|(name, _)| *name == recipe).map(|(_, program)| *program);
        named = named + before + program.unwrap_or(JUST);
        rest = &after[program.map_or(0, |_| end)..];
    }
    if named.is_empty() { Cow::Borrowed(text) } else { Cow::Owned(named + rest) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_program_behind_a_recipe() {
        for (text, named) in [
            ("just up", "rollcall-setup"),
            (
                "run `just renew-server`, or just renew NAME.",
                "run `rollcall-admin renew --server`, or rollcall-admin renew NAME.",
            ),
            ("(just keys)", "(rollcall-admin keys)"),
            ("just just up", "just rollcall-setup"),
            // These are no recipes.
            ("it has just ended; adjust up; just", "it has just ended; adjust up; just"),
            ("just upwards, just-up, just  up", "just upwards, just-up, just  up"),
            ("\u{e9}just up \u{2026} just who\u{e9}", "\u{e9}just up \u{2026} rollcall-client who\u{e9}"),
        ] {
            assert_eq!(program_of(text), named);
        }
    }
}
