//! The recommended memory size.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::env::{self, ENVIRONMENT_SHARE};
use crate::size::ByteSize;

use super::leak::LeakVerdict;
use super::maintenance::Schedule;

/// The smallest memory size of a Lambda function, in MB.
const SMALLEST_MB: u64 = 128;

/// The highest anonymous memory of the cgroup, read at most once a second.
///
/// The rss is of this process alone, and children and extensions count against the same limit.
#[derive(Debug)]
pub(super) struct CgroupPeak {
    /// `None` if no memory limit is known.
    memory_size: Option<ByteSize>,
    schedule: Schedule,
    /// In bytes; 0 before the first reading.
    highest: AtomicU64,
}

impl CgroupPeak {
    /// Reads the cgroup for the first time, which allocates.
    pub(super) fn new(memory_size: Option<ByteSize>, now: u64) -> Self {
        let peak = Self { memory_size, schedule: Schedule::new(now), highest: AtomicU64::new(0) };
        peak.read();
        peak
    }

    /// Reads the cgroup if the last reading is a second ago. `now` is in milliseconds of the monitor's clock.
    pub(super) fn sample(&self, now: u64) {
        if self.schedule.claim(now) {
            self.read();
        }
    }

    /// Reads the cgroup.
    pub(super) fn read(&self) {
        if let Some(anonymous) = self.memory_size.and_then(env::cgroup_anonymous) {
            self.highest.fetch_max(anonymous.as_u64(), Relaxed);
        }
    }

    /// Returns the highest reading; `None` if no cgroup has the limit.
    pub(super) fn highest(&self) -> Option<ByteSize> {
        Some(ByteSize::bytes(self.highest.load(Relaxed))).filter(|highest| *highest > ByteSize::ZERO)
    }

    /// Starts again with a reading of now.
    pub(super) fn reset(&self) {
        self.highest.store(0, Relaxed);
        self.read();
    }
}

/// The share of the memory size that the environment's own processes take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct EnvironmentShare {
    /// The part that is not left to this process.
    pub(super) of_process: ByteSize,
    /// The part that is not left to the processes of the cgroup together. Extensions run in the cgroup, so it is at most the part
    /// of Lambda's own processes, and zero under the limit of a cgroup.
    pub(super) of_cgroup: ByteSize,
}

impl EnvironmentShare {
    /// Returns the shares if `of_process` is set. `default` is the share of the limit in force.
    pub(super) fn new(of_process: ByteSize, default: ByteSize) -> Self {
        Self { of_process, of_cgroup: of_process.min(default).min(ENVIRONMENT_SHARE) }
    }
}

/// The figures that a recommendation follows from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Needs {
    pub(super) highest_rss: ByteSize,
    pub(super) cgroup_anonymous: Option<ByteSize>,
    pub(super) share: EnvironmentShare,
    pub(super) verdict: LeakVerdict,
}

impl Needs {
    /// Returns the bytes that the process and the environment need.
    fn of_process(&self) -> ByteSize {
        self.highest_rss.saturating_add(self.share.of_process)
    }

    /// Returns the bytes that all processes of the cgroup and the environment need; zero if they are not known.
    fn of_cgroup(&self) -> ByteSize {
        self.cgroup_anonymous.map_or(ByteSize::ZERO, |anonymous| anonymous.saturating_add(self.share.of_cgroup))
    }

    /// Returns `true` if the cgroup needs more than the process.
    pub(super) fn is_cgroup_larger(&self) -> bool {
        self.of_cgroup() > self.of_process()
    }

    /// Returns the memory size in MB that leaves a fifth of itself free. `None` while the heap grows, because no size is
    /// sufficient for a leak, and if the rss is not known.
    pub(super) fn recommended_mb(&self) -> Option<u64> {
        let is_known = self.highest_rss > ByteSize::ZERO;
        let needed = self.of_process().max(self.of_cgroup()).percent(125);
        (is_known && !self.is_growing()).then(|| needed.as_u64().div_ceil(1 << 20).max(SMALLEST_MB))
    }

    pub(super) const fn is_growing(&self) -> bool {
        matches!(self.verdict, LeakVerdict::Growing { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(rss_mib: u64, cgroup_mib: Option<u64>, share: EnvironmentShare) -> Needs {
        let cgroup_anonymous = cgroup_mib.map(ByteSize::mib);
        Needs { highest_rss: ByteSize::mib(rss_mib), cgroup_anonymous, share, verdict: LeakVerdict::Steady }
    }

    fn share(of_process_mib: u64, default_mib: u64) -> EnvironmentShare {
        EnvironmentShare::new(ByteSize::mib(of_process_mib), ByteSize::mib(default_mib))
    }

    #[test]
    fn recommended_mb_is_of_the_larger_need() {
        let on_lambda = share(12, 12);
        for (rss, cgroup, recommended) in
            [(40, None, 128), (188, None, 250), (188, Some(180), 250), (188, Some(188), 250), (188, Some(388), 500)]
        {
            assert_eq!(needs(rss, cgroup, on_lambda).recommended_mb(), Some(recommended), "{rss} {cgroup:?}");
        }
        assert_eq!(needs(100, Some(388), share(72, 12)).recommended_mb(), Some(500), "Lambda's own part only");
        assert_eq!(needs(100, Some(400), share(60, 0)).recommended_mb(), Some(500), "all of it is in the cgroup");
    }

    #[test]
    fn recommended_mb_of_a_leak_or_without_an_rss_is_none() {
        let mut needs = needs(188, Some(400), share(12, 12));
        assert!(needs.recommended_mb().is_some() && needs.is_cgroup_larger());
        needs.verdict = LeakVerdict::growing_for_test();
        assert_eq!(needs.recommended_mb(), None);
        needs.verdict = LeakVerdict::Rising { per_invocation: ByteSize::mib(1), invocations_left: Some(0) };
        assert!(needs.recommended_mb().is_some());
        needs.highest_rss = ByteSize::ZERO;
        assert_eq!(needs.recommended_mb(), None);
        needs.highest_rss = ByteSize::MAX;
        assert!(needs.recommended_mb().is_some(), "no overflow");
    }

    #[test]
    fn cgroup_peak_without_a_memory_limit_reads_nothing() {
        let peak = CgroupPeak::new(None, 0);
        peak.sample(1_000_000);
        peak.reset();
        assert_eq!(peak.highest(), None);
    }
}
