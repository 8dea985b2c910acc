//! Which sequence numbers of one epoch have come: the last 4,096, and how many never did.

/// The count of remembered numbers. A number further behind the highest looks like a replay.
pub const WINDOW: u64 = 4096;
const WORDS: usize = WINDOW as usize / 64;

/// One bit per number, the bit of number `n` in place `n % 4096`.
pub type Bits = [u64; WORDS];

/// The numbers of one epoch. For any number, a step costs at most one walk over the window.
#[derive(Clone, Debug)]
pub struct Window {
    /// Numbers from here on count as missing while they have not come. Below it we did not listen.
    first: u64,
    highest: u64,
    seen: Bits,
    missing: u64,
    /// Numbers up to here have been reported if they are missing.
    settled: u64,
    /// Missing numbers after `settled`.
    unreported: u64,
}

/// The place of a sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    New,
    Duplicate,
    /// Further back than the window reaches.
    Behind,
}

impl Window {
    /// Expects `first` next; lower numbers may come, and are not missed.
    pub fn starting_at(first: u64) -> Self {
        let before = first.saturating_sub(1);
        Self { first, ..Self::resumed(before, [0; WORDS], before) }
    }

    /// Goes on where another process stopped, which has reported its gaps up to number `settled`.
    pub fn resumed(highest: u64, seen: Bits, settled: u64) -> Self {
        let first = settled.saturating_add(1);
        let mut window = Self { first, highest, seen, missing: 0, settled, unreported: 0 };
        window.unreported = window.open_from(settled.max(window.out_of_reach()));
        window.missing = window.unreported;
        window
    }

    pub fn highest(&self) -> u64 {
        self.highest
    }

    pub fn seen(&self) -> &Bits {
        &self.seen
    }

    /// How many numbers have not come so far.
    pub fn missing(&self) -> u64 {
        self.missing
    }

    pub fn unreported(&self) -> u64 {
        self.unreported
    }

    /// Up to which number everything has come or been reported, as [`Window::resumed`] wants it.
    pub fn settled(&self) -> u64 {
        match self.unreported {
            0 => self.highest,
            _ => self.settled.max(self.out_of_reach()),
        }
    }

    pub fn insert(&mut self, sequence: u64) -> Place {
        if sequence > self.highest {
            let jump = sequence - self.highest;
            if jump >= WINDOW {
                self.seen = [0; WORDS];
            } else {
                (self.highest + 1..sequence).for_each(|skipped| self.mark(skipped, false));
            }
            self.mark(sequence, true);
            self.highest = sequence;
            self.missing += jump - 1;
            self.unreported += jump - 1;
            Place::New
        } else if self.highest - sequence >= WINDOW {
            Place::Behind
        } else if self.has(sequence) {
            Place::Duplicate
        } else {
            self.mark(sequence, true);
            if sequence >= self.first {
                self.missing -= 1;
            }
            if sequence >= self.first && sequence > self.settled {
                self.unreported -= 1;
            }
            Place::New
        }
    }

    /// Gives up on missing numbers up to `until`, and on those that the window no longer holds. Returns
    /// how many that are; each number is in one answer only.
    pub fn settle(&mut self, until: u64) -> u64 {
        let until = until.min(self.highest).max(self.settled).max(self.out_of_reach());
        let open = self.open_from(until);
        let given_up = self.unreported - open;
        self.unreported = open;
        self.settled = until;
        given_up
    }

    /// The window no longer holds this number, nor any before it.
    fn out_of_reach(&self) -> u64 {
        self.highest.saturating_sub(WINDOW)
    }

    /// How many after number `before`, which is in reach, have not come.
    fn open_from(&self, before: u64) -> u64 {
        (before..self.highest).filter(|before| !self.has(before + 1)).count() as u64
    }

    /// Has this number, which is in reach, come?
    pub fn has(&self, sequence: u64) -> bool {
        let (word, bit) = place(sequence);
        self.seen[word] & bit != 0
    }

    fn mark(&mut self, sequence: u64, seen: bool) {
        let (word, bit) = place(sequence);
        match seen {
            true => self.seen[word] |= bit,
            false => self.seen[word] &= !bit,
        }
    }
}

fn place(sequence: u64) -> (usize, u64) {
    let at = sequence % WINDOW;
    ((at / 64) as usize, 1 << (at % 64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn in_order_nothing_is_missing() {
        let mut window = Window::starting_at(1);
        for sequence in 1..=10_000 {
            assert_eq!(window.insert(sequence), Place::New);
            assert_eq!(window.insert(sequence), Place::Duplicate);
        }
        assert_eq!((window.missing(), window.settle(u64::MAX)), (0, 0));
        assert_eq!(window.insert(10_000 - 4095), Place::Duplicate);
        assert_eq!(window.insert(10_000 - 4096), Place::Behind);
    }

    #[test]
    fn a_late_arrival_is_new_and_no_longer_missing() {
        let mut window = Window::starting_at(1);
        window.insert(5);
        assert_eq!(window.missing(), 4);
        assert_eq!(window.insert(2), Place::New);
        assert_eq!(window.insert(2), Place::Duplicate);
        assert_eq!(window.missing(), 3);
        assert_eq!(window.settle(3), 2);
        assert_eq!(window.settle(3), 0);
        // Number 1 has been reported; it came after all, and number 4 is still to be reported.
        assert_eq!(window.insert(1), Place::New);
        assert_eq!((window.missing(), window.settle(u64::MAX)), (2, 1));
    }

    #[test]
    fn numbers_before_us_are_new_but_not_missed() {
        let mut window = Window::starting_at(100);
        assert_eq!(window.insert(100), Place::New);
        assert_eq!(window.insert(98), Place::New);
        assert_eq!(window.insert(98), Place::Duplicate);
        assert_eq!((window.missing(), window.settle(u64::MAX)), (0, 0));
    }

    #[test]
    fn a_huge_number_costs_nothing() {
        let mut window = Window::starting_at(1);
        window.insert(1);
        assert_eq!(window.insert(u64::MAX), Place::New);
        assert_eq!(window.insert(u64::MAX), Place::Duplicate);
        assert_eq!(window.insert(2), Place::Behind);
        assert_eq!(window.insert(u64::MAX - 4095), Place::New);
        assert_eq!(window.missing(), u64::MAX - 3);
        assert_eq!(window.settle(u64::MAX), u64::MAX - 3);
        assert_eq!(window.settle(u64::MAX), 0);
        let mut resumed = Window::resumed(u64::MAX, *window.seen(), u64::MAX);
        assert_eq!(resumed.insert(u64::MAX), Place::Duplicate);
    }

    #[test]
    fn a_resumed_window_knows_the_past_and_misses_only_later_numbers() {
        let mut window = Window::starting_at(1);
        for sequence in [1, 2, 4] {
            window.insert(sequence);
        }
        let resume = |window: &Window| Window::resumed(window.highest(), *window.seen(), window.settled());
        // Killed before it had reported number 3.
        assert_eq!((resume(&window).missing(), resume(&window).settle(u64::MAX)), (1, 1));
        assert_eq!(window.settle(u64::MAX), 1);
        let mut resumed = resume(&window);
        assert_eq!((resumed.missing(), resumed.settle(u64::MAX)), (0, 0));
        assert_eq!(resumed.insert(2), Place::Duplicate);
        assert_eq!(resumed.insert(3), Place::New);
        assert_eq!(resumed.missing(), 0);
        assert_eq!(resumed.insert(3005), Place::New);
        assert_eq!((resumed.missing(), resumed.settle(u64::MAX)), (3000, 3000));
        // Nobody reports a number that is out of reach when the window is saved.
        let mut window = Window::starting_at(1);
        for sequence in [2, 5000, 5002] {
            window.insert(sequence);
        }
        assert_eq!(resume(&window).missing(), 4096 - 2);
    }

    /// The same numbers into a set that forgets nothing: both say the same about each of them.
    #[test]
    fn agrees_with_a_set() {
        let mut seed = 1_u64;
        let mut next = move || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            seed >> 33
        };
        let (mut window, mut set, mut reported) = (Window::starting_at(1), BTreeSet::new(), 0);
        let mut middle = 1;
        for step in 0..60_000_u64 {
            middle += next() % 3;
            if next() % 500 == 0 {
                middle += next() % 6000;
            }
            let sequence = (middle + next() % 40).saturating_sub(next() % 5000).max(1);
            let highest = set.last().copied().unwrap_or(0);
            let expected = match sequence {
                _ if sequence + WINDOW <= highest => Place::Behind,
                _ if set.contains(&sequence) => Place::Duplicate,
                _ => Place::New,
            };
            assert_eq!(window.insert(sequence), expected, "step {step}");
            if expected == Place::New {
                set.insert(sequence);
            }
            let highest = set.last().copied().unwrap_or(0);
            assert_eq!(window.missing(), highest - set.len() as u64, "step {step}");
            if step % 97 == 0 {
                reported += window.settle(highest.saturating_sub(next() % 100));
                assert!(window.unreported() <= window.missing());
            }
        }
        reported += window.settle(u64::MAX);
        assert!(reported >= window.missing() && window.missing() > 1000, "{reported} {}", window.missing());
    }
}
