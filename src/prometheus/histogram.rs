//! How often a value was how large. Plain atomics: an observation is two additions, and waits for nobody.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Page;

/// Values in a small unit, such as microseconds, that are told in a base unit.
pub struct Histogram {
    /// The highest value that a bucket takes, and how many it took. What is larger is in the last one.
    buckets: Box<[(u64, AtomicU64)]>,
    sum: AtomicU64,
    /// How many of the small unit are one of the base unit.
    scale: f64,
}

impl Histogram {
    pub fn new(bounds: &[u64], scale: u32) -> Self {
        debug_assert!(bounds.is_sorted());
        let bounds = bounds.iter().copied().chain([u64::MAX]);
        Self {
            buckets: bounds.map(|bound| (bound, AtomicU64::new(0))).collect(),
            sum: AtomicU64::new(0),
            scale: scale.into(),
        }
    }

    pub fn observe(&self, value: u64) {
        let at = self.buckets.partition_point(|(bound, _)| *bound < value);
        self.buckets[at].1.fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    pub fn write(&self, page: &mut Page, name: &'static str, help: &str) {
        let mut family = page.family(name, "histogram", help);
        let mut count = 0;
        for (bound, taken) in &self.buckets {
            count += taken.load(Ordering::Relaxed);
            let bound = match *bound {
                u64::MAX => "+Inf".to_owned(),
                bound => (bound as f64 / self.scale).to_string(),
            };
            family.sample("_bucket", &[("le", &bound)], count);
        }
        family.sample("_sum", &[], self.sum.load(Ordering::Relaxed) as f64 / self.scale);
        family.sample("_count", &[], count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_in_its_own_bucket() {
        let histogram = Histogram::new(&[500, 1000], 1000);
        for value in [0, 500, 501, 1000, 1001, 1_000_000] {
            histogram.observe(value);
        }
        let mut page = Page::default();
        histogram.write(&mut page, "x_seconds", "X.");
        assert_eq!(
            page.text(),
            "# HELP x_seconds X.\n# TYPE x_seconds histogram\nx_seconds_bucket{le=\"0.5\"} 2\n\
             x_seconds_bucket{le=\"1\"} 4\nx_seconds_bucket{le=\"+Inf\"} 6\nx_seconds_sum 1003.002\nx_seconds_count 6\n"
        );
    }
}
