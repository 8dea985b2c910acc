//! Is the server ready? It says so itself, and the class of the reason if it is not.

use std::time::Duration;

use super::{Finding, Settings};
use crate::cli::printable;
use crate::stack::ask::{self, Readiness};

/// Longest wait for an answer. The name of an address may take as long.
const PATIENCE: Duration = Duration::from_secs(2);

pub fn check(settings: &Settings) -> Vec<Finding> {
    let server = format!("the server on {}", settings.listen);
    vec![match ask::readiness(settings, PATIENCE) {
        Ok(Readiness::Ready) => Finding::green(format!("{server} is ready")),
        Ok(Readiness::Lacks(detail)) => Finding::red(
            // Behind the reason it names the doctor.
            format!("{server} is not ready: {}", printable(detail.split("; ").next().unwrap_or_default())),
            "look at the lines of the database; just logs has the server's own words",
        ),
        Ok(Readiness::Silent(error)) => Finding::red(
            format!("{server} does not answer: {error}"),
            "just up; if it ends again, just logs says why",
        ),
        Ok(Readiness::Taken(holder)) => Finding::red(
            format!("{} is taken by {holder}, which does not have this stack's credential", settings.listen),
            "stop it, or set ROLLCALL_LISTEN to another address; then just up",
        ),
        Err(error) => {
            Finding::yellow(format!("{server} was not asked: {error}"), "just up makes the credential")
        }
    }]
}
