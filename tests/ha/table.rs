//! The table of docs/scale.md.

use std::fmt::Write;
use std::fs;
use std::time::Duration;

use crate::scene::Played;

/// A fault, and each time that it was played.
pub struct Row {
    name: &'static str,
    played: Vec<Played>,
}

const HEAD: &str = "\
| fault | times | without a 204, median (longest) | HAProxy leads there after | 204 after both | acknowledged | of them lost | \
announced, not kept | 503s (slowest) | looks, wrongly green | backends | an administrator waits |
|---|---|---|---|---|---|---|---|---|---|---|---|
";

impl Row {
    pub fn of(name: &'static str, played: Vec<Played>) -> Self {
        Self { name, played }
    }

    fn sum(&self, count: impl Fn(&Played) -> usize) -> usize {
        self.played.iter().map(count).sum()
    }

    fn most<T: Ord + Default>(&self, of: impl Fn(&Played) -> T) -> T {
        self.played.iter().map(of).max().unwrap_or_default()
    }

    /// And the longest.
    fn median(&self, of: impl Fn(&Played) -> Option<Duration>) -> String {
        let mut times: Vec<Duration> = self.played.iter().filter_map(of).collect();
        times.sort();
        match times.last() {
            Some(only) if times.len() == 1 => seconds(*only),
            Some(longest) => format!("{} ({})", seconds(times[times.len() / 2]), seconds(*longest)),
            None => "–".to_owned(),
        }
    }

    fn line(&self) -> String {
        format!(
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} ({}) | {}, {} | {} | {} |",
            self.name,
            self.played.len(),
            self.median(|one| Some(one.silence)),
            self.median(|one| one.shown_after),
            self.median(|one| one.after_both),
            self.sum(|one| one.acknowledged),
            self.sum(|one| one.lost.len()),
            self.sum(|one| one.announced_only.len()),
            self.sum(|one| one.refused),
            seconds(self.most(|one| one.slowest_refusal)),
            self.sum(|one| one.looks),
            self.sum(|one| one.wrongly_green.len()),
            self.most(|one| one.backends),
            seconds(self.most(|one| one.told_after)),
        )
    }

    /// The aims. Times are measured, and bounded generously: a slow machine breaks no promise.
    #[track_caller]
    pub fn assert(&self) {
        for one in &self.played {
            assert!(one.lost.is_empty(), "{}: acknowledged and lost: {:?}", self.name, one.lost);
            assert!(
                one.announced_only.is_empty(),
                "{}: announced, not kept: {:?}",
                self.name,
                one.announced_only
            );
            assert!(
                one.wrongly_green.is_empty(),
                "{}: nothing was committed: {:?}",
                self.name,
                one.wrongly_green
            );
            assert!(!one.told_wrongly, "{}: the administrator was told that it succeeded", self.name);
            assert!(one.backends <= 8, "{}: {} backends", self.name, one.backends);
            assert!(one.acknowledged > 100 && one.looks > 5, "{}: {one:?}", self.name);
            let late = one.after_both.unwrap_or_default();
            assert!(late < crate::PATIENCE, "{}: {late:?} after HAProxy showed a primary", self.name);
        }
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// Into target/ha/table.md, and to standard output.
pub fn write(rows: &[Row]) {
    let mut table = HEAD.to_owned();
    for row in rows {
        writeln!(table, "{}", row.line()).unwrap();
    }
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/target/ha");
    fs::create_dir_all(folder).unwrap();
    fs::write(format!("{folder}/table.md"), &table).unwrap();
    println!("{table}");
}
