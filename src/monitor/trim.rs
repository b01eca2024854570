//! When pages are given back: decisions and books, without I/O.

use std::fmt;
use std::time::Duration;

use crate::clock::micros;
use crate::size::ByteSize;

/// When the monitor gives free pages back to the kernel, with [`os::trim`](crate::os::trim): at the end of an
/// invocation that leaves none in flight, or once a second while there is always one, after the hooks.
///
/// `true` is [`TrimPolicy::new`], `false` is [`TrimPolicy::off`]: see [`MonitorBuilder::trim`](super::MonitorBuilder::trim).
///
/// Two settings bound it. The anonymous rss must lie beyond the live heap by a share of the *capacity*, since that is
/// what the kernel kills at, and a share of a small heap would be nothing; what the trim before could not give back does
/// not count. And all trims together may take a share of the time that all invocations together took; over the lowest
/// alarm threshold the time is not asked. What a trim will take is reckoned from the pace of the one before, and at first from
/// 100 us for each MiB. The faults that bring pages back later, about as dear again, are not counted.
///
/// # Examples
///
/// ```
/// use plimsoll::monitor::TrimPolicy;
///
/// let eager = TrimPolicy::new().beyond_heap(5).share_of_time(10);
/// assert_eq!(TrimPolicy::from(true), TrimPolicy::new());
/// # let _ = eager;
/// ```
#[must_use = "a policy does nothing until a monitor is built with it"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrimPolicy(Option<Settings>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Settings {
    /// In percent of the capacity.
    beyond_heap: u32,
    /// In percent; `None`: all of it.
    share_of_time: Option<u32>,
}

impl TrimPolicy {
    /// Where the rss lies beyond the heap by a tenth of the capacity, in at most a hundredth of the time.
    pub const fn new() -> Self {
        Self(Some(Settings { beyond_heap: 10, share_of_time: Some(1) }))
    }

    /// Never.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::monitor::TrimPolicy;
    /// assert_eq!(TrimPolicy::from(false), TrimPolicy::off());
    /// ```
    pub const fn off() -> Self {
        Self(None)
    }

    /// Returns a policy that trims at each maintenance, however long it takes.
    pub const fn each() -> Self {
        Self(Some(Settings { beyond_heap: 0, share_of_time: None }))
    }

    /// Sets how far the anonymous rss must lie beyond the live heap, in percent of the capacity; 0: it need not. Turns
    /// a policy that is off on.
    pub const fn beyond_heap(self, percent: u32) -> Self {
        Self(Some(Settings { beyond_heap: percent, ..self.or_default() }))
    }

    /// Sets which share of the invocations' time it may take, in percent; 0: none, but above the lowest alarm threshold; 100
    /// and more: whatever it takes. Turns a policy that is off on.
    pub const fn share_of_time(self, percent: u32) -> Self {
        let share_of_time = if percent < 100 { Some(percent) } else { None };
        Self(Some(Settings { share_of_time, ..self.or_default() }))
    }

    const fn or_default(self) -> Settings {
        match (self.0, Self::new().0) {
            (Some(settings), _) | (None, Some(settings)) => settings,
            (None, None) => Settings { beyond_heap: 0, share_of_time: None },
        }
    }
}

impl Default for TrimPolicy {
    fn default() -> Self {
        Self::new()
    }
}

impl From<bool> for TrimPolicy {
    fn from(trims: bool) -> Self {
        if trims { Self::new() } else { Self::off() }
    }
}

/// What a trim gave back, and what it took.
///
/// In the report line as `trimmed 30.7 MiB in 2480 us`.
///
/// # Examples
///
/// ```no_run
/// # let monitor = plimsoll::Monitor::builder().trim(true).install()?;
/// if let Some(trimmed) = monitor.start("4f1c9a").finish().trimmed {
///     println!("{} in {:?}", trimmed.given_back, trimmed.duration);
/// }
/// # Ok::<(), plimsoll::monitor::BuildError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Trimmed {
    /// The rss that it fell by; zero where the platform does not tell, or where it rose.
    pub given_back: ByteSize,
    /// How long it took.
    pub duration: Duration,
}

impl Trimmed {
    pub(super) const fn new(given_back: ByteSize, duration: Duration) -> Self {
        Self { given_back, duration }
    }
}

impl fmt::Display for Trimmed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "trimmed {} in {} us", self.given_back, micros(self.duration))
    }
}

/// How things stand at the end of an invocation.
#[derive(Clone, Copy, Debug)]
pub(super) struct TrimInput {
    /// Anonymous rss less live heap, in bytes; `None` where it is not known.
    pub(super) beyond: Option<u64>,
    pub(super) capacity: ByteSize,
    /// `true` if the rss is above the lowest alarm threshold.
    pub(super) is_over: bool,
}

/// The books of the trims.
#[derive(Debug)]
pub(super) struct Trimmer {
    policy: TrimPolicy,
    /// Time of all invocations and of all trims, in microseconds. What ran at the same time counts once.
    worked: u64,
    spent: u64,
    /// What the last trim left beyond the heap, or less by now, in bytes.
    useless: u64,
    /// Microseconds that a MiB takes.
    pace: u64,
}

/// Before there is a measurement: glibc takes 80 to 130.
const PACE: u64 = 100;

impl Trimmer {
    pub(super) const fn new(policy: TrimPolicy) -> Self {
        Self { policy, worked: 0, spent: 0, useless: 0, pace: PACE }
    }

    pub(super) const fn is_off(&self) -> bool {
        self.policy.0.is_none()
    }

    /// Sets the time of all invocations so far.
    pub(super) fn set_worked(&mut self, worked: Duration) {
        self.worked = micros(worked);
    }

    /// Whether to give pages back now.
    pub(super) fn is_due(&mut self, input: &TrimInput) -> bool {
        let Some(settings) = self.policy.0 else { return false };
        if let Some(beyond) = input.beyond {
            self.useless = self.useless.min(beyond);
        }
        let over = input.capacity.percent(settings.beyond_heap).as_u64();
        let hope = input.beyond.map(|beyond| beyond - self.useless);
        if over > 0 && hope.is_none_or(|hope| hope < over) {
            return false;
        }
        let takes = (hope.unwrap_or(0) >> 20).saturating_mul(self.pace);
        let allowed = |percent: u32| u128::from(self.worked) * u128::from(percent) / 100;
        let has_time = |percent| u128::from(self.spent) + u128::from(takes) <= allowed(percent);
        settings.share_of_time.is_none_or(has_time) || (input.is_over && over > 0)
    }

    /// Books a trim: what lay beyond the heap before and after it, and what it took.
    pub(super) fn done(&mut self, before: Option<u64>, after: Option<u64>, trimmed: &Trimmed) {
        let takes = micros(trimmed.duration);
        self.spent = self.spent.saturating_add(takes);
        let (Some(before), Some(after)) = (before, after) else { return };
        self.useless = after;
        self.pace = (takes / (before.saturating_sub(after) >> 20).max(1)).max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn ended(beyond: u64) -> TrimInput {
        TrimInput { beyond: Some(beyond), capacity: ByteSize::mib(100), is_over: false }
    }

    /// Which of the invocations, that each leave so many MiB beyond the heap, trim; each trim takes `takes`.
    fn trims(policy: TrimPolicy, micros: u64, beyond: &[u64], left: u64, takes: u64) -> Vec<usize> {
        let (mut trimmer, mut worked) = (Trimmer::new(policy), Duration::ZERO);
        let due = |beyond: &u64| {
            worked += Duration::from_micros(micros);
            trimmer.set_worked(worked);
            let due = trimmer.is_due(&ended(beyond * MIB));
            if due {
                let given_back = ByteSize::mib(beyond.saturating_sub(left));
                trimmer.done(
                    Some(beyond * MIB),
                    Some(left * MIB),
                    &Trimmed::new(given_back, Duration::from_micros(takes)),
                );
            }
            due
        };
        let due: Vec<_> = beyond.iter().map(due).collect();
        (0..due.len()).filter(|index| due[*index]).collect()
    }

    #[test]
    fn only_what_lies_far_beyond_the_heap_is_given_back() {
        let long = 10_000_000;
        assert_eq!(trims(TrimPolicy::new(), long, &[3, 9, 10, 4, 13, 14], 4, 1000), [2, 5]);
        assert_eq!(trims(TrimPolicy::new().beyond_heap(3), long, &[2, 3, 4], 0, 1000), [1, 2]);
        assert_eq!(trims(TrimPolicy::each(), 0, &[0, 0], 0, 1_000_000), [0, 1]);
        assert!(trims(TrimPolicy::off(), long, &[90, 90], 0, 1).is_empty());
        assert!(trims(false.into(), long, &[90, 90], 0, 1).is_empty());
    }

    #[test]
    fn what_a_trim_could_not_give_back_does_not_ask_for_another() {
        assert_eq!(trims(TrimPolicy::new(), 10_000_000, &[30, 30, 35, 39, 40, 30], 30, 1000), [0, 4]);
        let mut trimmer = Trimmer::new(TrimPolicy::new());
        trimmer.done(Some(40 * MIB), Some(30 * MIB), &Trimmed::new(ByteSize::mib(10), Duration::from_millis(1)));
        assert!(!trimmer.is_due(&ended(39 * MIB)), "nine MiB are new");
        assert!(!trimmer.is_due(&ended(5 * MIB)), "and what is gone by itself is forgotten");
        assert_eq!(trimmer.useless, 5 * MIB);
    }

    #[test]
    fn all_trims_together_keep_to_their_share_of_the_time() {
        for (percent, takes) in [(1, 2_000), (1, 300), (10, 9_000), (50, 700)] {
            let (micros, mut spent) = (5_000, 0);
            let mut trimmer = Trimmer::new(TrimPolicy::new().share_of_time(percent));
            for number in 1..=5_000_u64 {
                trimmer.set_worked(Duration::from_micros(number * micros));
                if trimmer.is_due(&ended(30 * MIB)) {
                    trimmer.done(
                        Some(30 * MIB),
                        Some(0),
                        &Trimmed::new(ByteSize::mib(30), Duration::from_micros(takes)),
                    );
                    spent += takes;
                }
                // The first is reckoned at 100 us for each MiB.
                assert!(spent <= takes.max(number * micros * u64::from(percent) / 100), "{percent} % {takes} {number}");
            }
            let most = (5_000 * micros * u64::from(percent) / 100).min(5_000 * takes);
            assert!(spent >= most * 9 / 10, "and make use of it: {spent} of {most}");
        }
        assert!(trims(TrimPolicy::new().share_of_time(0), 1 << 40, &[90; 5], 0, 1).is_empty());
        assert_eq!(trims(TrimPolicy::off().share_of_time(1000), 0, &[90; 2], 0, 1_000_000), [0, 1]);
    }

    #[test]
    fn over_the_alarm_threshold_the_time_is_not_asked() {
        let mut trimmer = Trimmer::new(TrimPolicy::new().share_of_time(0));
        assert!(trimmer.is_due(&TrimInput { is_over: true, ..ended(30 * MIB) }));
        assert!(!trimmer.is_due(&TrimInput { is_over: true, ..ended(9 * MIB) }), "but there must be something to win");
        assert!(!trimmer.is_due(&TrimInput { beyond: None, ..ended(0) }));
    }
}
