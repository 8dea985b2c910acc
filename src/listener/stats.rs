//! `--stats-file FILE`: the counts of `--stats` for node_exporter's textfile collector.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use crate::files::{self, FileError, OwnFile};
use crate::lan::endpoints::Counts;
use crate::prometheus::Page;
use crate::protocol::judge::Counters;

use super::relay::Relay;

/// node_exporter is another user, whatever our umask says.
const MODE: u32 = 0o644;

/// All that a listener counts.
pub struct Counted<'a> {
    /// Where it listens: two listeners of one host are told apart by it.
    pub place: SocketAddr,
    pub judged: Counters,
    pub printed: u64,
    pub unprinted: u64,
    pub relay: Option<&'a Relay>,
    /// By the kernel; `None` where it does not tell.
    pub dropped: Option<u64>,
    /// Bytes of the receive buffer.
    pub buffer: usize,
}

pub fn save(path: &Path, counted: &Counted) -> Result<(), Error> {
    let error = |cause: io::Error| Error::of("the file of --stats-file", path)(OwnFile::Write(cause));
    files::replace_with_mode(path, counted.text().as_bytes(), MODE).map_err(error)
}

impl Counted<'_> {
    fn text(&self) -> String {
        let place = self.place.to_string();
        let listener = ("listener", place.as_str());
        let Counters {
            received: _,
            new,
            duplicate,
            replayed,
            too_old,
            ahead,
            other_kind,
            unsigned,
            unchecked,
            unknown_key,
            forged,
            foreign,
            missing,
        } = self.judged;
        let mut page = Page::default();
        let mut datagrams =
            page.counter("rollcall_listener_datagrams_total", "Datagrams that came, by their kind.");
        for (kind, count) in [
            ("new", new),
            ("duplicate", duplicate),
            ("replayed", replayed),
            ("too_old", too_old),
            ("ahead", ahead),
            ("other_kind", other_kind),
            ("unsigned", unsigned),
            ("unchecked", unchecked),
            ("unknown_key", unknown_key),
            ("forged", forged),
            ("foreign", foreign),
        ] {
            datagrams.with(&[listener, ("kind", kind)], count);
        }
        page.counter("rollcall_listener_missing_total", "Announcements that never came, by their numbers.")
            .with(&[listener], missing);
        page.counter("rollcall_listener_printed_total", "Statuses that were printed.")
            .with(&[listener], self.printed);
        if let Some(relay) = self.relay {
            page.counter(
                "rollcall_listener_unprinted_total",
                "Statuses that were not printed: nobody read the output of the relay in time.",
            )
            .with(&[listener], self.unprinted);
            let mut relayed = page.counter(
                "rollcall_listener_relayed_total",
                "Announcements that were passed on, and those held back: too many for --relay-rate.",
            );
            relayed.with(&[listener, ("result", "passed")], relay.passed);
            relayed.with(&[listener, ("result", "held_back")], relay.held_back);
            let help = "Datagrams of the relay, repetitions too, by interface, which is empty where the routing \
                        table chooses it.";
            let mut sent = page.counter("rollcall_listener_sent_total", help);
            for (interface, Counts { sent: left, failed }) in relay.counts() {
                sent.with(&[listener, ("interface", &interface), ("result", "sent")], left);
                sent.with(&[listener, ("interface", &interface), ("result", "failed")], failed);
            }
        }
        if let Some(dropped) = self.dropped {
            page.counter(
                "rollcall_listener_dropped_total",
                "Datagrams that the kernel dropped: they came faster than they were read.",
            )
            .with(&[listener], dropped);
        }
        page.gauge("rollcall_listener_receive_buffer_bytes", "The receive buffer that the kernel granted.")
            .with(&[listener], self.buffer);
        page.text()
    }
}

/// The file cannot be written.
pub type Error = FileError<OwnFile>;
