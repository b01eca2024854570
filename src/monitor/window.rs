//! Figures of the last invocations, in memory that is set aside once: percentiles and trends.

/// What one invocation left behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sample {
    /// Peak heap in bytes.
    pub(super) peak: u64,
    /// `false` if others were in flight: then it is the peak of all of them.
    pub(super) is_own_peak: bool,
    /// Duration in microseconds.
    pub(super) micros: u64,
}

/// The distribution of one figure over the window: nearest-rank percentiles. All are zero before the first invocation.
///
/// # Examples
///
/// ```no_run
/// # let monitor = plimsoll::Monitor::install_from_env();
/// let took = monitor.snapshot().durations;
/// println!("p50 {:?} p95 {:?} p99 {:?} max {:?}", took.p50, took.p95, took.p99, took.max);
/// # Ok::<(), plimsoll::monitor::BuildError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Percentiles<T> {
    /// The median.
    pub p50: T,
    /// At most this in 95 of 100 invocations.
    pub p95: T,
    /// At most this in 99 of 100 invocations.
    pub p99: T,
    /// The highest.
    pub max: T,
}

impl<T> Percentiles<T> {
    pub(super) fn map<U>(self, mut each: impl FnMut(T) -> U) -> Percentiles<U> {
        Percentiles { p50: each(self.p50), p95: each(self.p95), p99: each(self.p99), max: each(self.max) }
    }
}

/// The most samples there may be.
const MOST: usize = 1 << 16;

/// A ring of samples and room to sort one figure of them: 24 bytes for each.
#[derive(Debug)]
pub(super) struct Window {
    samples: Box<[Sample]>,
    scratch: Box<[u64]>,
    /// How many samples were ever put in; the next goes to this, modulo the length.
    count: u64,
}

impl Window {
    /// Room for `len` samples; one at least, and [`MOST`] at most.
    pub(super) fn new(len: usize) -> Self {
        let len = len.clamp(1, MOST);
        Self { samples: vec![Sample::default(); len].into(), scratch: vec![0; len].into(), count: 0 }
    }

    pub(super) fn push(&mut self, sample: Sample) {
        let next = self.next();
        if let Some(place) = self.samples.get_mut(next) {
            *place = sample;
        }
        self.count += 1;
    }

    /// How many samples were ever put in.
    pub(super) const fn count(&self) -> u64 {
        self.count
    }

    #[expect(clippy::cast_possible_truncation, reason = "below the length, which is a usize")]
    fn next(&self) -> usize {
        (self.count % self.samples.len() as u64) as usize
    }

    fn is_full(&self) -> bool {
        self.count >= self.samples.len() as u64
    }

    /// One figure's distribution over the samples that have it; zeros if there are none.
    pub(super) fn percentiles(&mut self, figure: impl Fn(&Sample) -> Option<u64>) -> Percentiles<u64> {
        let held = if self.is_full() { self.samples.len() } else { self.next() };
        let sorted = sort(&mut self.scratch, self.samples.iter().take(held).filter_map(figure));
        let rank = |percent: usize| {
            let rank = (sorted.len() * percent).div_ceil(100);
            sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0)
        };
        Percentiles { p50: rank(50), p95: rank(95), p99: rank(99), max: rank(100) }
    }

    /// Medians of the older and of the newer half of a full window.
    pub(super) fn halves(&mut self, figure: impl Fn(&Sample) -> u64) -> Option<(u64, u64)> {
        let half = self.samples.len() / 2;
        if !self.is_full() || half == 0 {
            return None;
        }
        let next = self.next();
        let mut median = |skip: usize| {
            let in_order = self.samples.iter().cycle().skip(next + skip).take(half);
            let sorted = sort(&mut self.scratch, in_order.map(&figure));
            sorted.get(half / 2).copied().unwrap_or(0)
        };
        Some((median(0), median(half)))
    }
}

fn sort(scratch: &mut [u64], figures: impl Iterator<Item = u64>) -> &[u64] {
    let mut len = 0;
    for (place, figure) in scratch.iter_mut().zip(figures) {
        *place = figure;
        len += 1;
    }
    let filled = scratch.get_mut(..len).unwrap_or_default();
    filled.sort_unstable();
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(peak: u64) -> Sample {
        Sample { peak, micros: 0, is_own_peak: !peak.is_multiple_of(3) }
    }

    /// The twin: keep all, cut to the last ones, sort.
    #[test]
    fn percentiles_and_halves_agree_with_a_twin_that_keeps_everything() {
        for len in [1, 2, 3, 10, 101] {
            let mut window = Window::new(len);
            let mut all = Vec::new();
            let mut next = 12345_u64;
            assert_eq!(window.percentiles(|sample| Some(sample.peak)), Percentiles::default());
            for step in 0..400_usize {
                next = next.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
                all.push(next >> 40);
                window.push(sample(next >> 40));
                let last = &all[all.len().saturating_sub(len)..];
                let mut sorted = last.to_vec();
                sorted.sort_unstable();
                let at = |percent: usize| sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1];
                let told = window.percentiles(|sample| Some(sample.peak));
                assert_eq!((told.p50, told.p95, told.max), (at(50), at(95), at(100)), "{len} at {step}");
                let median = |part: &[u64]| {
                    let mut part = part.to_vec();
                    part.sort_unstable();
                    part[part.len() / 2]
                };
                let halves = (all.len() >= len && len > 1).then(|| {
                    let half = len / 2;
                    (median(&last[..half]), median(&last[half..2 * half]))
                });
                sorted.retain(|peak| !peak.is_multiple_of(3));
                let highest = sorted.last().copied().unwrap_or(0);
                assert_eq!(window.percentiles(|sample| sample.is_own_peak.then_some(sample.peak)).max, highest);
                assert_eq!(window.halves(|sample| sample.peak), halves, "{len} at {step}");
            }
            assert_eq!(window.count(), 400);
        }
    }
}
