//! The distribution of sizes: counts in buckets of at most a sixteenth of their size.

use super::window::Percentiles;

/// Buckets for each power of two.
const PER_POWER: usize = 16;
const PER_POWER_BITS: u32 = PER_POWER.trailing_zeros();

/// Larger sizes count as this one: a tebibyte.
const MAX_BITS: u32 = 40;

/// At this count of a bucket, all are halved. So four histograms can be merged.
const MAX_COUNT: u32 = 1 << 30;

const BUCKETS: usize = PER_POWER * (MAX_BITS - PER_POWER_BITS + 1) as usize;

/// The distribution of sizes, in 2.4 KiB. A percentile is at most a sixteenth too high.
#[derive(Debug)]
pub(super) struct Histogram {
    buckets: [u32; BUCKETS],
    max: u64,
}

impl Histogram {
    pub(super) const fn new() -> Self {
        Self { buckets: [0; BUCKETS], max: 0 }
    }

    pub(super) fn record(&mut self, size: u64) {
        self.max = self.max.max(size);
        // `bucket` is below the number of buckets.
        let Some(count) = self.buckets.get_mut(bucket(size)) else { return };
        *count += 1;
        if *count == MAX_COUNT {
            // From now on the older half counts half.
            self.buckets.iter_mut().for_each(|count| *count /= 2);
        }
    }

    /// Adds the sizes of another.
    pub(super) fn merge(&mut self, other: &Self) {
        for (count, more) in self.buckets.iter_mut().zip(other.buckets.iter()) {
            *count = count.saturating_add(*more);
        }
        self.max = self.max.max(other.max);
    }

    /// Returns nearest-rank percentiles; `None` without a size.
    pub(super) fn percentiles(&self) -> Option<Percentiles<u64>> {
        let all: u64 = self.buckets.iter().map(|count| u64::from(*count)).sum();
        if all == 0 {
            return None;
        }
        let ranks = [50, 95, 99].map(|percent: u64| (all * percent).div_ceil(100));
        let mut found = [self.max; 3];
        let mut seen = 0;
        let mut next = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += u64::from(*count);
            while let (Some(rank), Some(place)) = (ranks.get(next), found.get_mut(next))
                && seen >= *rank
            {
                // Of the last bucket, which has all larger sizes, only the highest is known.
                *place = if index + 1 == BUCKETS { self.max } else { highest(index).min(self.max) };
                next += 1;
            }
        }
        let [p50, p95, p99] = found;
        Some(Percentiles { p50, p95, p99, max: self.max })
    }
}

/// The bucket of a size: its highest bits.
fn bucket(size: u64) -> usize {
    let size = size.min((1 << MAX_BITS) - 1);
    if size < PER_POWER as u64 {
        return index(size);
    }
    let shift = size.ilog2() - PER_POWER_BITS;
    // The highest five bits, of which the first is one.
    index((size >> shift) + u64::from(shift) * PER_POWER as u64)
}

/// The largest size of a bucket.
fn highest(bucket: usize) -> u64 {
    let (power, place) = (bucket / PER_POWER, bucket % PER_POWER);
    if power == 0 {
        return place as u64;
    }
    (((PER_POWER + place + 1) as u64) << (power - 1)) - 1
}

#[expect(clippy::cast_possible_truncation, reason = "below the number of buckets")]
const fn index(bucket: u64) -> usize {
    bucket as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_size_is_in_the_bucket_of_its_bounds() {
        for size in (0..5000).chain((12..40).flat_map(|bits| [(1 << bits) - 1, 1 << bits, (1 << bits) + 1])) {
            let (bucket, low) = (bucket(size), bucket(size).checked_sub(1).map_or(0, |below| highest(below) + 1));
            assert!(bucket < BUCKETS && low <= size && size <= highest(bucket), "{size}: {bucket}");
            assert!(highest(bucket) - low <= size / 16, "{size}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_percentile_is_the_sorted_one_or_a_sixteenth_above(mut sizes in proptest::collection::vec(0..1_u64 << 30, 1..300)) {
            let mut histogram = Histogram::new();
            for size in &sizes {
                histogram.record(*size);
            }
            sizes.sort_unstable();
            let Percentiles { p50, p95, p99, max } = histogram.percentiles().unwrap();
            for (percent, found) in [(50, p50), (95, p95), (99, p99)] {
                let exact = sizes[(sizes.len() * percent).div_ceil(100) - 1];
                prop_assert!(exact <= found && found <= exact + exact / 16, "p{percent}: {found} for {exact}");
            }
            prop_assert_eq!(Some(&max), sizes.last());
        }
    }

    #[test]
    fn percentiles_stay_right_if_a_bucket_is_full() {
        let mut histogram = Histogram::new();
        histogram.buckets[bucket(1000)] = MAX_COUNT - 5;
        histogram.buckets[bucket(50)] = MAX_COUNT / 10;
        (0..20).for_each(|_| histogram.record(1000));
        let mut all = Histogram::new();
        (0..4).for_each(|_| all.merge(&histogram));
        let Percentiles { p50, p95, p99, .. } = all.percentiles().unwrap();
        assert_eq!([p50, p95, p99], [1000; 3]);
        assert!(histogram.buckets[bucket(1000)] < MAX_COUNT);
    }

    #[test]
    fn percentiles_without_a_size_are_none() {
        assert_eq!(Histogram::new().percentiles(), None);
    }
}
