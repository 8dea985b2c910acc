//! Is the server ready? It says so itself, and the class of the reason if it is not.

use std::time::Duration;

use super::{Finding, Settings};
use crate::stack::ask::{self, Lacking};

/// Longest wait for an answer. The name of an address may take as long.
const PATIENCE: Duration = Duration::from_secs(2);

pub fn check(settings: &Settings) -> Vec<Finding> {
    let listen = &settings.listen;
    vec![match ask::lacking(listen, PATIENCE) {
        None => Finding::green(format!("the server on {listen} is ready")),
        Some(Lacking::Reason(detail)) => Finding::red(
            // Behind the reason it names the doctor.
            format!("the server on {listen} is not ready: {}", detail.split("; ").next().unwrap_or_default()),
            "look at the lines of the database; just logs has the server's own words",
        ),
        Some(Lacking::Answer(error)) => Finding::red(
            format!("the server on {listen} does not answer: {error}"),
            "just up; if it ends again, just logs says why",
        ),
    }]
}
