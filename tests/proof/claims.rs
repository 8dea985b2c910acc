//! The claims, in the words of README.md.

use std::fs;
use std::panic::{UnwindSafe, catch_unwind};

use crate::faults::Part;
use crate::{ROOT, loss, others, revocation};

pub struct Claim {
    pub name: &'static str,
    /// A sentence of README.md, or a part of one.
    pub says: &'static str,
    pub expected: &'static str,
    shown: Shown,
}

/// How it is shown.
enum Shown {
    /// A measurement of this program.
    Measured(fn() -> Came),
    /// Tests of tests/it: all with one of these in their names.
    Tests(&'static [&'static str]),
    /// `just bench --quick`
    Bench,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Held,
    Broken,
    NotMeasured,
}

pub type Came = (Verdict, String);

pub const CLAIMS: [Claim; 14] = [
    Claim {
        name: "names",
        says: "Nobody names themselves",
        expected: "each hostile subject, header and CA is refused, or is the one that was signed",
        shown: Shown::Tests(&["identity::", "identities::"]),
    },
    Claim {
        name: "loss-server",
        says: "A 204 means that PostgreSQL has committed the row to its disk.",
        expected: "kill -9 of the server, under load: 0 acknowledged lost",
        shown: Shown::Measured(|| loss::over(&[Part::Server])),
    },
    Claim {
        name: "loss-nginx",
        says: "A 204 means that PostgreSQL has committed the row to its disk.",
        expected: "kill -9 of nginx, under load: 0 acknowledged lost",
        shown: Shown::Measured(|| loss::over(&[Part::Nginx])),
    },
    Claim {
        name: "loss-postgresql",
        says: "A 204 means that PostgreSQL has committed the row to its disk.",
        expected: "kill -9 of PostgreSQL, under load: 0 acknowledged lost",
        shown: Shown::Measured(|| loss::over(&[Part::Postgres])),
    },
    Claim {
        name: "loss-all",
        says: "Only a committed row is announced.",
        expected: "kill -9 of all three at once, under load: 0 acknowledged lost, 0 announced without a row",
        shown: Shown::Measured(|| loss::over(&Part::ALL)),
    },
    Claim {
        name: "loss-disk",
        says: "A 204 means that PostgreSQL has committed the row to its disk.",
        expected: "a full disk, under load: 0 acknowledged lost",
        shown: Shown::Measured(loss::over_a_full_disk),
    },
    Claim {
        name: "revocation",
        says: "a revocation holds from the next request on",
        expected: "no 204 to a request a second after that, nor after just revoke has ended, on new, kept and resumed connections",
        shown: Shown::Measured(revocation::latency),
    },
    Claim {
        name: "forgeries",
        says: "a listener with the server's public key drops forgeries",
        expected: "nothing forged is printed, each is counted",
        shown: Shown::Tests(&["believed::only_verified", "lan::forger::a_forger_changes_nothing"]),
    },
    Claim {
        name: "replays",
        says: "drops forgeries and replays",
        expected: "nothing is printed twice, not over a restart of either",
        shown: Shown::Tests(&["believed::a_restart_forgets_nothing", "lan::forger::a_recording"]),
    },
    Claim {
        name: "missing",
        says: "counts missing ones",
        expected: "each announcement that never came is reported once",
        shown: Shown::Tests(&["lan::stopped::", "lan::lossy::"]),
    },
    Claim {
        name: "restart",
        says: "Nobody is called late for a silence of the server: then they are `unknown`.",
        expected: "a server or board that stops, or starts again, makes nobody late",
        shown: Shown::Tests(&[
            "presence::a_server_that_was_stopped",
            "presence::a_start_takes",
            "presence::without_nginx",
            "board::a_server_that_stands_still",
            "who::transitions_are_told_once",
        ]),
    },
    Claim {
        name: "least-right",
        says: "A 204 means that PostgreSQL has committed the row to its disk.",
        expected: "neither a role's settings nor its rights weaken it",
        shown: Shown::Tests(&["promises::a_commit_is_durable", "lifecycle::the_servers_database_role"]),
    },
    Claim {
        name: "documents",
        says: "The lines of these documents run in tests",
        expected: "each does what its document says",
        shown: Shown::Tests(&["documents::"]),
    },
    Claim {
        name: "peers",
        says: "the speed beside other servers",
        expected: "at 256 connections, each aim beside the peer axum",
        shown: Shown::Bench,
    },
];

impl Claim {
    pub fn settle(&self) -> Came {
        if !readme().contains(self.says) {
            return (Verdict::Broken, "README.md does not say this any more".to_owned());
        }
        match self.shown {
            Shown::Measured(measure) => or_panics(measure),
            Shown::Tests(names) => others::tests(names),
            Shown::Bench => others::bench(),
        }
    }

    /// The line that does it again.
    pub fn command(&self) -> String {
        match self.shown {
            Shown::Measured(_) => format!("just prove {}", self.name),
            Shown::Tests(names) => format!("just test --test it -- {}", names.join(" ")),
            Shown::Bench => "just bench --quick".to_owned(),
        }
    }
}

/// A sentence is one line.
fn readme() -> String {
    let text = fs::read_to_string(format!("{ROOT}/README.md")).unwrap();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A program that fails midway has shown nothing.
pub fn or_panics(measure: impl FnOnce() -> Came + UnwindSafe) -> Came {
    catch_unwind(measure).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked");
        (Verdict::Broken, text.lines().next().unwrap_or_default().to_owned())
    })
}

impl Verdict {
    pub fn of(held: bool) -> Self {
        if held { Verdict::Held } else { Verdict::Broken }
    }

    pub fn word(self) -> &'static str {
        match self {
            Verdict::Held => "held",
            Verdict::Broken => "BROKEN",
            Verdict::NotMeasured => "not measured",
        }
    }

    pub fn colour(self) -> &'static str {
        match self {
            Verdict::Held => "\x1b[32m",
            Verdict::Broken => "\x1b[31m",
            Verdict::NotMeasured => "\x1b[33m",
        }
    }
}
