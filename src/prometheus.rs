//! The text that Prometheus scrapes, and that node_exporter reads from a file (exposition format, version 0.0.4).
//!
//! Written by hand: the crate prometheus-client writes OpenMetrics, in which `promtool check metrics` and node_exporter
//! find counters without a type, and its histograms have a lock.

use std::fmt::{Display, Write};

#[cfg(feature = "server")]
pub mod histogram;
#[cfg(feature = "server")]
pub mod process;

/// What an answer over HTTP says of it.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A name and its value, as they stand in braces.
pub type Label<'a> = (&'a str, &'a str);

/// Families of metrics, one below the other.
#[derive(Default)]
pub struct Page(String);

/// One name, under which samples follow. Their labels differ.
pub struct Family<'a> {
    page: &'a mut Page,
    name: &'static str,
}

impl Page {
    /// Only grows, and begins again with the process. The name ends in `_total`.
    pub fn counter(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, "counter", help)
    }

    /// Comes and goes.
    pub fn gauge(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, "gauge", help)
    }

    fn family(&mut self, name: &'static str, kind: &str, help: &str) -> Family<'_> {
        self.add(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        Family { page: self, name }
    }

    fn add(&mut self, text: impl Display) {
        write!(self.0, "{text}").expect("a String takes every write");
    }

    pub fn text(self) -> String {
        self.0
    }
}

impl Family<'_> {
    pub fn is(&mut self, value: impl Display) {
        self.with(&[], value);
    }

    pub fn with(&mut self, labels: &[Label<'_>], value: impl Display) {
        self.sample("", labels, value);
    }

    /// `suffix` is that of a histogram's parts.
    fn sample(&mut self, suffix: &str, labels: &[Label<'_>], value: impl Display) {
        self.page.add(format_args!("{}{suffix}", self.name));
        for (i, (label, text)) in labels.iter().enumerate() {
            let before = if i == 0 { '{' } else { ',' };
            self.page.add(format_args!("{before}{label}=\"{}\"", escaped(text)));
        }
        let end = if labels.is_empty() { "" } else { "}" };
        self.page.add(format_args!("{end} {value}\n"));
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_label_ends_its_line() {
        let mut page = Page::default();
        page.gauge("up", "Is it?").is(1);
        let mut sent = page.counter("sent_total", "Datagrams.");
        sent.with(&[("interface", "a\"} 1\nup 0\\"), ("result", "sent")], 0.5);
        sent.with(&[("interface", ""), ("result", "\u{1b}\u{e9}")], u64::MAX);
        assert_eq!(
            page.text(),
            "# HELP up Is it?\n# TYPE up gauge\nup 1\n# HELP sent_total Datagrams.\n# TYPE sent_total counter\n\
             sent_total{interface=\"a\\\"} 1\\nup 0\\\\\",result=\"sent\"} 0.5\n\
             sent_total{interface=\"\",result=\"\u{1b}\u{e9}\"} 18446744073709551615\n"
        );
    }
}
