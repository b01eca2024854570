//! How true an allocator's figures are, measured against an exact count of what the patterns hold.

use std::hint::black_box;

use serde_json::{Value, json};

use super::block::Truth;
use super::books::Books;
use super::crew::{Rest, at_work};
use super::pattern;
use super::timing::median_ns;

/// The worst errors seen, in bytes.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Live bytes at rest, told too high or too low.
    live: u64,
    /// A peak higher than the highest told.
    peak_under: u64,
    /// A peak lower than the lowest told.
    peak_over: u64,
    /// What the two ends of a peak lay apart, for each thread alive.
    bracket: u64,
    /// Live bytes above the limit; `None` where there is no limit to set.
    pub(super) passed: Option<u64>,
}

/// One pattern's view: the figures of the allocator less what stood in them before the pattern began.
pub(super) struct Check<'a> {
    books: &'a dyn Books,
    pub(super) truth: &'a Truth,
    base: u64,
    pub(super) found: &'a mut Found,
}

impl<'a> Check<'a> {
    pub(super) fn new(books: &'a dyn Books, truth: &'a Truth, found: &'a mut Found) -> Self {
        Self { books, truth, base: 0, found }
    }

    /// Starts from here: nothing but the pattern allocates until its last check.
    pub(super) fn begin(&mut self) {
        self.truth.reset_peak();
        self.base = self.books.live().wrapping_sub(self.truth.live() as u64);
        self.books.reset_peak();
    }

    /// What stood in the books before.
    pub(super) fn base(&self) -> u64 {
        self.base
    }

    /// Compares live bytes while no thread works.
    pub(super) fn at_rest(&mut self) {
        let told = self.books.live().wrapping_sub(self.base) as i64;
        self.found.live = self.found.live.max(told.abs_diff(self.truth.live()));
    }

    /// Compares the peak. `exact`: the count's peak is the true one, not just one that was reached at the least.
    pub(super) fn peak(&mut self, threads_alive: u64, exact: bool) {
        let Some(told) = self.books.peak() else { return };
        let true_peak = self.base.wrapping_add(self.truth.peak() as u64);
        self.found.peak_under = self.found.peak_under.max(true_peak.saturating_sub(told.at_most));
        self.found.bracket = self.found.bracket.max((told.at_most - told.at_least).div_ceil(threads_alive));
        if exact {
            self.found.peak_over = self.found.peak_over.max(told.at_least.saturating_sub(true_peak));
        }
    }
}

/// Runs every pattern and prices the readings. Figures that the allocator does not offer are `null`.
pub(super) fn measure(books: &dyn Books) -> Value {
    let truth = Truth::new();
    let mut found = Found::default();
    for pattern in pattern::ALL {
        pattern(&mut Check::new(books, &truth, &mut found));
    }
    // A race is not lost every time.
    for _ in 0..5 {
        pattern::limit(books, &mut Check::new(books, &truth, &mut found));
    }

    let reading = || {
        black_box(books.live());
    };
    let stats_alone = median_ns(1001, 64, reading);
    let mut stats = 0.0;
    // A reading may have to look at every thread's books, so it is priced with some threads about.
    at_work(
        8,
        1,
        &truth,
        |hand, _| hand.fill(64),
        |rest| {
            if rest == Rest::After(0) {
                stats = median_ns(1001, 64, reading);
            }
        },
    );
    let read = || {
        black_box(books.read_rss());
    };
    let rss = books.read_rss().then(|| median_ns(1001, 16, read) / 1000.0);
    let has_peak = books.peak().is_some();
    json!({
        "live.error_bytes": found.live,
        "peak.under_bytes": has_peak.then_some(found.peak_under),
        "peak.over_bytes": has_peak.then_some(found.peak_over),
        "peak.bracket_bytes_per_thread": has_peak.then_some(found.bracket),
        "limit.passed_bytes": found.passed,
        "stats.ns": stats,
        "stats_alone.ns": stats_alone,
        "rss_read.us": rss,
    })
}

#[cfg(test)]
mod tests {
    use super::super::block::Block;
    use super::super::books::Bracket;
    use super::*;

    /// Books that tell the same whatever happens.
    struct Fixed {
        live: u64,
        peak: Bracket,
    }

    impl Books for Fixed {
        fn live(&self) -> u64 {
            self.live
        }

        fn peak(&self) -> Option<Bracket> {
            Some(self.peak)
        }
    }

    /// What is found when books that began at zero tell `told` after one block of 100 bytes was taken.
    fn found(told: Fixed) -> Found {
        let (truth, mut found) = (Truth::new(), Found::default());
        let mut check = Check::new(&told, &truth, &mut found);
        let block = Block::new(100, &truth).expect("100 bytes");
        check.at_rest();
        check.peak(2, true);
        block.free(&truth);
        found
    }

    #[test]
    fn books_that_tell_the_truth_are_cleared() {
        let found = found(Fixed { live: 100, peak: Bracket { at_least: 100, at_most: 100 } });
        assert_eq!([found.live, found.peak_under, found.peak_over, found.bracket], [0; 4]);
    }

    #[test]
    fn books_that_tell_too_little_or_too_much_are_caught() {
        let low = found(Fixed { live: 93, peak: Bracket { at_least: 80, at_most: 90 } });
        assert_eq!([low.live, low.peak_under, low.peak_over, low.bracket], [7, 10, 0, 5]);
        let high = found(Fixed { live: 107, peak: Bracket { at_least: 120, at_most: 130 } });
        assert_eq!([high.live, high.peak_under, high.peak_over, high.bracket], [7, 0, 20, 5]);
    }
}
