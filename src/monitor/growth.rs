//! When the allocation sites are compared: what a leak has grown since a time before it began.

use super::leak::LeakVerdict;

/// Reports from one baseline to the next.
const EVERY: u32 = 64;

/// Reports from one reading of the growing sites to the next; while it only rises, twice as many each time.
const AGAIN: u32 = 16;

/// The profiler's work for one report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    /// The sites of this moment become the baseline.
    Baseline,
    /// The sites are compared with the baseline.
    GrowingSites,
}

/// Decides when the baseline of the allocation sites is replaced.
///
/// A slow leak is called one thousands of invocations after it began. If the baseline were replaced every 64 of them, it
/// would be a few invocations old when the verdict comes, and the growth since then would be noise. So it is replaced only after
/// 64 reports in which the lowest level of the heap did not rise, and not while the verdict is that it rises. Then the
/// sites are read, although it may be no leak: shortly before a kill there is no memory to resolve their names.
///
/// ```text
///   reports     1        64       128       192       256       320
///   lowest         2.0       2.0       2.0       2.4       2.9          a leak begins at 200
///   baseline    x                  x         x                 verdict: compared with 192
/// ```
#[derive(Debug)]
pub(super) struct Baseline {
    /// Reports since the last block of 64 ended; `None` before the first report.
    reports: Option<u32>,
    /// The lowest level of this block, and of the block before.
    lowest: u64,
    lowest_before: u64,
    /// Reports with a rising or growing verdict, without a pause.
    growing: u32,
    /// The verdict of the last report was growing.
    is_leak: bool,
}

impl Baseline {
    pub(super) const fn new() -> Self {
        Self { reports: None, lowest: u64::MAX, lowest_before: 0, growing: 0, is_leak: false }
    }

    /// Takes the level of the heap after a report, without gauges and accounts. Returns the work that is due.
    ///
    /// `is_rise`: the heap rises, although the verdict may be on other memory.
    pub(super) fn watch(&mut self, level: u64, is_rise: bool, verdict: LeakVerdict) -> Due {
        if is_rise {
            let is_leak = matches!(verdict, LeakVerdict::Growing { .. });
            if is_leak && !std::mem::replace(&mut self.is_leak, is_leak) {
                self.growing = 0;
            }
            // The longer it rises, the fewer readings.
            let is_due = self.growing.is_multiple_of(AGAIN)
                && (is_leak || self.growing == 0 || (self.growing / AGAIN).is_power_of_two());
            self.growing += 1;
            return if is_due { Due::GrowingSites } else { Due::Nothing };
        }
        self.is_leak = false;
        if std::mem::take(&mut self.growing) > 0 {
            // It has ended, so what grew is no leak any more.
            self.reports = None;
        }
        let Some(reports) = self.reports else {
            *self = Self { reports: Some(0), ..Self::new() };
            return Due::Baseline;
        };
        self.lowest = self.lowest.min(level);
        if reports + 1 < EVERY {
            self.reports = Some(reports + 1);
            return Due::Nothing;
        }
        let has_risen = self.lowest > self.lowest_before;
        (self.reports, self.lowest_before, self.lowest) = (Some(0), self.lowest, u64::MAX);
        if has_risen { Due::Nothing } else { Due::Baseline }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::size::ByteSize;

    const GROWING: LeakVerdict = LeakVerdict::growing_for_test();

    /// The numbers of the reports that had work, from 1.
    fn work(baseline: &mut Baseline, reports: impl Iterator<Item = (u64, LeakVerdict)>) -> Vec<(usize, Due)> {
        let due = reports.map(|(level, verdict)| baseline.watch(level, verdict.is_rise(), verdict));
        (1..).zip(due).filter(|(_, due)| *due != Due::Nothing).collect()
    }

    fn steady(level: u64, count: usize) -> impl Iterator<Item = (u64, LeakVerdict)> {
        std::iter::repeat_n((level, LeakVerdict::Steady), count)
    }

    #[test]
    fn watch_steady_heap_replaces_the_baseline_every_64_reports() {
        let done = work(&mut Baseline::new(), steady(1000, 260));
        assert_eq!(done, [1, 129, 193, 257].map(|number| (number, Due::Baseline)), "the first block only sets a level");
    }

    #[test]
    fn watch_leak_in_noise_keeps_the_baseline_from_before() {
        let mut baseline = Baseline::new();
        let noise = |report: u64| report * 7919 % 64;
        let before = (0..200).map(|report| (1000 + noise(report), LeakVerdict::Steady));
        assert_eq!(work(&mut baseline, before).last(), Some(&(193, Due::Baseline)));
        let leak = (0..240).map(|report| (1000 + report + noise(report), LeakVerdict::Steady));
        // The block in which it began is no higher than the one before.
        assert_eq!(work(&mut baseline, leak), [(57, Due::Baseline)]);
        let seen = (240..280).map(|report| (1000 + report, GROWING));
        assert_eq!(work(&mut baseline, seen), [1, 17, 33].map(|number| (number, Due::GrowingSites)));
    }

    #[test]
    fn watch_rise_with_long_plateaus_keeps_the_baseline_from_before() {
        let rising = LeakVerdict::Rising { per_invocation: ByteSize::ZERO, invocations_left: None };
        let mut baseline = Baseline::new();
        drop(work(&mut baseline, steady(1000, 129)));
        let done = work(&mut baseline, std::iter::repeat_n((2000, rising), 1000).chain([(2000, GROWING)]));
        assert!(done.iter().all(|(_, due)| *due == Due::GrowingSites) && done.len() == 8, "{done:?}");
    }

    #[test]
    fn watch_end_of_a_leak_begins_with_a_new_baseline() {
        let mut baseline = Baseline::new();
        drop(work(&mut baseline, steady(1000, 10).chain([(2000, GROWING)])));
        assert_eq!(work(&mut baseline, steady(2000, 10)), [(1, Due::Baseline)]);
    }

    #[test]
    fn watch_single_rise_keeps_the_baseline_for_one_block() {
        let mut baseline = Baseline::new();
        drop(work(&mut baseline, steady(1000, 193)));
        assert_eq!(work(&mut baseline, steady(5000, 200)), [(128, Due::Baseline), (192, Due::Baseline)]);
    }

    #[test]
    fn growing_for_test_is_growing() {
        assert!(matches!(GROWING, LeakVerdict::Growing { per_invocation: ByteSize::ZERO, .. }));
    }
}
