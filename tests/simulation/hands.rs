//! The hands of the two clocks, how a function's life turns them, and the time that a naive twin makes of them.

use std::time::Duration;

use plimsoll::{Clock, ManualClock};

use crate::support::Random;

/// Two hours, in milliseconds.
const TWO_HOURS: u64 = 2 * 3600 * 1000;

/// What may happen between two invocations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gap {
    /// Time passes, on both clocks.
    Passes,
    /// The monotonic clock stands still while the wall clock runs on.
    Frozen,
    /// The wall clock is set forward: to the process that looks like a freeze, but no time has passed.
    WallForward,
    WallBack,
    /// A snapshot was restored, on a host whose monotonic clock is younger, a while after it was taken.
    Restored,
}

/// The hands, and the truth beside them.
pub struct Hands {
    manual: ManualClock,
    clock: Clock,
    twin: Twin,
    /// What the clock told at first.
    start: u64,
    /// Milliseconds that really passed.
    passed: u64,
    /// By how much the wall clock was ever set back.
    set_back: u64,
}

/// `now = monotonic + the largest lead of the wall clock`, said in the fewest words.
struct Twin {
    monotonic: u64,
    wall: u64,
    first: i128,
    skew: u64,
    now: u64,
}

impl Twin {
    /// A [`ManualClock`] begins a day after its host, in 2023.
    fn new() -> Self {
        let (monotonic, wall) = (86_400_000, 1_700_000_000_000);
        Self { monotonic, wall, first: i128::from(wall) - i128::from(monotonic), skew: 0, now: monotonic }
    }

    fn look(&mut self) -> u64 {
        let lead = i128::from(self.wall) - i128::from(self.monotonic) - self.first;
        if lead >= 100 {
            self.skew = self.skew.max(u64::try_from(lead).unwrap());
        }
        self.now = self.now.max(self.monotonic + self.skew);
        self.now
    }
}

impl Hands {
    pub fn new() -> Self {
        let manual = ManualClock::new();
        let (clock, twin) = (manual.clock(), Twin::new());
        let start = clock.now();
        Self { manual, clock, twin, start, passed: 0, set_back: 0 }
    }

    pub fn clock(&self) -> Clock {
        self.clock.clone()
    }

    pub fn is_over(&self) -> bool {
        self.clock.now() - self.start >= TWO_HOURS
    }

    /// The wall clock, in milliseconds since 1970.
    pub fn wall(&self) -> u64 {
        self.twin.wall
    }

    /// Lets a gap between two invocations happen, and holds the clock against the twin: tells what it was, and the time.
    pub fn turn(&mut self, random: &mut Random) -> (Gap, u64) {
        let gap = match random.below(100) {
            0..4 => Gap::Frozen,
            4 => Gap::WallForward,
            5 => Gap::WallBack,
            6 => Gap::Restored,
            _ => Gap::Passes,
        };
        let by = match random.below(20) {
            // Milliseconds to two seconds, half a minute, five minutes.
            0..14 => 1 + (random.below(2048) >> random.below(11)),
            14..19 => random.below(30_000),
            _ => random.below(300_000),
        };
        self.go(gap, by as u64, random);
        (gap, self.look())
    }

    /// Turns a little while others work, by at most as much as the number returned says.
    pub fn nudge(&mut self, random: &mut Random) -> u64 {
        let gap = [Gap::Passes, Gap::Passes, Gap::Frozen, Gap::WallBack][random.below(4)];
        let by = random.below(20) as u64;
        self.go(gap, by, random);
        self.look();
        by
    }

    /// The most that [`nudge`](Self::nudge) moves the time: with the lead that was noise until then.
    pub const NUDGE: u64 = 20 + 100;

    fn go(&mut self, gap: Gap, by: u64, random: &mut Random) {
        let (twin, manual, time) = (&mut self.twin, &self.manual, Duration::from_millis(by));
        match gap {
            Gap::Passes => {
                manual.advance(time);
                twin.monotonic += by;
                twin.wall += by;
            }
            Gap::Frozen | Gap::WallForward => {
                manual.freeze(time);
                twin.wall += by;
            }
            Gap::WallBack => {
                manual.set_wall_back(time);
                twin.wall -= by;
                self.set_back += by;
            }
            Gap::Restored => {
                let younger = random.below(20_000_000) as u64;
                manual.set_monotonic_back(Duration::from_millis(younger));
                manual.freeze(time);
                twin.monotonic = twin.monotonic.saturating_sub(younger);
                twin.wall += by;
            }
        }
        if !matches!(gap, Gap::WallForward | Gap::WallBack) {
            self.passed += by;
        }
    }

    /// What every invocation's start does.
    fn look(&mut self) -> u64 {
        let now = self.clock.refresh();
        assert_eq!(now, self.twin.look(), "the clock and its twin");
        assert_eq!(now, self.clock.now(), "nothing moved");
        // A lead is lost only to noise, and to a wall clock set back.
        assert!(now - self.start + 100 + self.set_back > self.passed, "time was lost: {} passed", self.passed);
        now
    }
}
