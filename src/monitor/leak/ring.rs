//! The newest figures of a series, in memory of a fixed size.
#![expect(clippy::indexing_slicing, reason = "of an index modulo the length")]

/// The newest figures, in a ring.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ring<const N: usize> {
    figures: [f64; N],
    /// The number of figures so far.
    pub(super) count: usize,
}

impl<const N: usize> Ring<N> {
    pub(super) const EMPTY: Self = Self { figures: [0.0; N], count: 0 };

    pub(super) fn push(&mut self, figure: f64) {
        self.figures[self.count % N] = figure;
        self.count += 1;
    }

    pub(super) fn len(&self) -> usize {
        self.count.min(N)
    }

    /// The figure `places` before the newest. The ring must hold it.
    pub(super) fn back(&self, places: usize) -> f64 {
        debug_assert!(places < self.len(), "of those that are kept");
        self.figures[(self.count - 1 - places) % N]
    }

    /// The newest figures, the newest first.
    pub(super) fn newest(&self) -> impl Iterator<Item = f64> + '_ {
        (1..=self.len()).map(|back| self.figures[(self.count - back) % N])
    }

    pub(super) fn lowest(&self) -> f64 {
        self.newest().fold(f64::INFINITY, f64::min)
    }
}
