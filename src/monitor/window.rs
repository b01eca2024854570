//! Peaks of the last invocations, in memory that is allocated once: percentiles and trends.

/// What one invocation left behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sample {
    /// Peak heap in bytes.
    pub(super) peak: u64,
    /// `false` if others were in flight: then it is the peak of all of them.
    pub(super) is_own_peak: bool,
}

/// The distribution of a figure: nearest-rank percentiles.
///
/// # Examples
///
/// ```no_run
/// # let monitor = plimsoll::Monitor::install_from_env();
/// if let Some(peaks) = monitor.snapshot().peaks {
///     println!("p50 {} p95 {} p99 {} max {}", peaks.p50, peaks.p95, peaks.p99, peaks.max);
/// }
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

/// A ring of samples and memory to sort their peaks: 24 bytes for each.
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

    /// Returns the distribution of the peaks that are the invocation's own; `None` if there are none.
    pub(super) fn own_peaks(&mut self) -> Option<Percentiles<u64>> {
        let held = if self.is_full() { self.samples.len() } else { self.next() };
        let sorted = sort_own_peaks(&mut self.scratch, self.samples.iter().take(held));
        let rank = |percent: usize| sorted.get((sorted.len() * percent).div_ceil(100).saturating_sub(1)).copied();
        Some(Percentiles { p50: rank(50)?, p95: rank(95)?, p99: rank(99)?, max: rank(100)? })
    }

    /// Returns the medians of the own peaks in the older and in the newer half of a full window. `None` if less than half of
    /// a half has one.
    pub(super) fn halves(&mut self) -> Option<(u64, u64)> {
        let half = self.samples.len() / 2;
        if !self.is_full() || half == 0 {
            return None;
        }
        let next = self.next();
        let mut median = |skip: usize| {
            let in_order = self.samples.iter().cycle().skip(next + skip).take(half);
            let sorted = sort_own_peaks(&mut self.scratch, in_order);
            sorted.get(sorted.len() / 2).copied().filter(|_| sorted.len() * 2 >= half)
        };
        median(0).zip(median(half))
    }
}

/// Sorts the peaks of those of the samples that have their own.
fn sort_own_peaks<'a>(scratch: &'a mut [u64], samples: impl Iterator<Item = &'a Sample>) -> &'a [u64] {
    let mut len = 0;
    for (place, sample) in scratch.iter_mut().zip(samples.filter(|sample| sample.is_own_peak)) {
        *place = sample.peak;
        len += 1;
    }
    let filled = scratch.get_mut(..len).unwrap_or_default();
    filled.sort_unstable();
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two of three peaks are the invocation's own.
    fn sample(peak: u64) -> Sample {
        Sample { peak, is_own_peak: !peak.is_multiple_of(3) }
    }

    /// The model keeps all samples, takes the last ones and sorts them.
    #[test]
    fn own_peaks_and_halves_agree_with_a_model() {
        for len in [1, 2, 3, 10, 101] {
            let mut window = Window::new(len);
            let mut all = Vec::new();
            let mut next = 12345_u64;
            assert_eq!(window.own_peaks(), None);
            for step in 0..400_usize {
                next = next.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
                all.push(next >> 40);
                window.push(sample(next >> 40));
                let last = &all[all.len().saturating_sub(len)..];
                let own = |part: &[u64]| {
                    let mut own: Vec<u64> = part.iter().copied().filter(|peak| !peak.is_multiple_of(3)).collect();
                    own.sort_unstable();
                    own
                };
                let sorted = own(last);
                let at = |percent: usize| sorted[(sorted.len() * percent).div_ceil(100) - 1];
                let expected =
                    (!sorted.is_empty()).then(|| Percentiles { p50: at(50), p95: at(95), p99: at(99), max: at(100) });
                assert_eq!(window.own_peaks(), expected, "{len} at {step}");
                let median = |part: &[u64]| {
                    let own = own(part);
                    (own.len() * 2 >= part.len()).then(|| own[own.len() / 2])
                };
                let half = len / 2;
                let is_full = all.len() >= len && len > 1;
                let halves = is_full.then(|| median(&last[..half]).zip(median(&last[half..2 * half]))).flatten();
                assert_eq!(window.halves(), halves, "{len} at {step}");
            }
            assert_eq!(window.count(), 400);
        }
    }

    #[test]
    fn own_peaks_without_an_invocation_that_was_alone_are_none() {
        let mut window = Window::new(8);
        (0..20).for_each(|peak| window.push(Sample { peak, is_own_peak: false }));
        assert_eq!((window.own_peaks(), window.halves()), (None, None));
    }
}
