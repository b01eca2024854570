//! Time that survives a freeze: milliseconds that never go back, and that go on when the machine stood still.
//!
//! Lambda freezes an environment between invocations, and what the clocks make of that depends on how:
//!
//! | What happens | monotonic clock | wall clock |
//! |---|---|---|
//! | on-demand environment frozen and thawed | runs on | runs on |
//! | guest paused or suspended (`MicroVM`s, a laptop) | **stands still** | runs on, or is set right soon after |
//! | `SnapStart` snapshot restored, perhaps on another host | **jumps ahead or back** | set right soon after |
//! | somebody sets the clock (NTP, an operator) | runs on | **jumps, also back** |
//!
//! (Thawed on-demand environments lost 0 to 1 ms of monotonic time over freezes of 3.5 to 181 s: aws-lambda-web-adapter
//! #830. What a restore does to it: aws-lambda-web-adapter #569, hyper #3810.)
//!
//! A time to live measured with `Instant` alone serves stale values after a pause; one measured with `SystemTime`
//! alone lives on for as long as a wall clock was set back. So [`Clock::now`] is
//!
//! ```text
//!   now = monotonic + skew       skew = the largest lead the wall clock ever had over the monotonic one
//! ```
//!
//! A *lead* is how much further the wall clock has come than the monotonic one since the clock was first read. A lead
//! under 100 ms is noise, and counts as none. What follows:
//!
//! - time that the monotonic clock lost shows as a lead, and `now` jumps over it;
//! - a wall clock set back extends nothing. But the lead lost that way has to be made up before another one counts:
//!   after a step back of an hour, a pause of 59 minutes goes unnoticed;
//! - a monotonic clock that jumps ahead, as after a restore on a host that runs for longer, moves `now` by the jump: stamps
//!   expire early. The lead of the wall clock shrinks by the jump, so later pauses go unnoticed until their sum exceeds it:
//!   after a jump of an hour, a pause of 59 minutes counts as no time;
//! - a wall clock set forward looks like a freeze: stamps expire early, never late;
//! - where the monotonic clock goes back and the wall clock does not run ahead of it by as much, `now` stands still
//!   until it has caught up.
//!
//! A stamp taken at `then` with a time to live of `ttl` milliseconds has expired when `now - then >= ttl`. With both
//! from the same clock and `then` read first, the subtraction cannot overflow.
//!
//! # Examples
//!
//! A time to live across a freeze in which the monotonic clock stood still:
//!
//! ```
//! use std::time::Duration;
//! use plimsoll::clock::ManualClock;
//!
//! let manual = ManualClock::new();
//! let clock = manual.clock();
//! let stamp = clock.now();
//!
//! manual.freeze(Duration::from_secs(3600));
//! clock.refresh(); // as at the start of every invocation
//! assert_eq!(clock.now() - stamp, 3_600_000);
//! ```

use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::os;

/// Tells how far apart two moments must be for [`Clock::now`] to tell them apart: 10 ms.
///
/// The clock moves at the kernel's tick, every 1, 4 or 10 ms by the kernel's configuration. A stamp may be that much
/// older than its moment, and an expiry that much early or late; times to live below it mean little.
///
/// # Examples
///
/// ```
/// use plimsoll::clock;
///
/// let ttl = std::time::Duration::from_millis(500);
/// assert!(ttl > 10 * clock::RESOLUTION, "else it says little");
/// ```
pub const RESOLUTION: Duration = Duration::from_millis(RESOLUTION_MS);

const RESOLUTION_MS: u64 = 10;

/// The least lead of the wall clock that counts, in milliseconds. Below it: ticks of two clocks, and small NTP steps.
const NOISE_MS: u64 = 100;

/// How often the two clocks are read for a first pair that belongs together.
const PAIR_TRIES: u32 = 8;

/// The clock of the process. One for all, so that stamps of any two [`Clock::system`] can be compared.
static SYSTEM: Core = Core::new();

/// Tells the time, in milliseconds that never go back and that count a freeze; good to [`RESOLUTION`].
///
/// See the [module](self) for what it is made of, and what it does not see. A clone reads the same clock; it costs
/// nothing, or one reference count for that of a [`ManualClock`].
///
/// # Examples
///
/// ```
/// use plimsoll::Clock;
///
/// let clock = Clock::system();
/// let stamp = clock.now();
/// assert!(clock.clone().now() >= stamp, "a clone reads the same clock");
/// ```
#[derive(Clone, Debug, Default)]
pub struct Clock(Face);

/// Where the two readings come from.
#[derive(Clone, Default)]
enum Face {
    #[default]
    System,
    Manual(Arc<Manual>),
}

impl Clock {
    /// Reads the clocks of the operating system. All such clocks are one.
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::Clock;
    ///
    /// let (one, other) = (Clock::system(), Clock::default());
    /// assert!(other.now() >= one.now() - 1_000, "one clock, whoever asks");
    /// ```
    pub const fn system() -> Self {
        Self(Face::System)
    }

    /// Tells the time now: milliseconds since a moment without meaning, never less than any reading before.
    ///
    /// "Before" holds across threads: a reading handed to another thread is never above what that thread reads next.
    /// Two readings are comparable if both come from [`Clock::system`], or both from the same [`ManualClock`].
    ///
    /// Costs one reading of the coarse monotonic clock (on Linux no system call) and two loads, about 10 ns;
    /// two readings more once per kernel tick, when the wall clock is compared. Allocates nothing; takes no lock, but
    /// that of a [`ManualClock`].
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::clock::Clock;
    ///
    /// let clock = Clock::system();
    /// let stamp = clock.now();
    /// let ttl = 300_000;
    /// assert!(clock.now() - stamp < ttl);
    /// ```
    #[inline]
    pub fn now(&self) -> u64 {
        match &self.0 {
            Face::System => SYSTEM.now(&System),
            Face::Manual(manual) => manual.core.now(&manual.dial),
        }
    }

    /// How long it is until `moment` by the wall clock; `None` once it has come.
    pub(crate) fn until(&self, moment: SystemTime) -> Option<Duration> {
        let wall = match &self.0 {
            Face::System => System.wall(),
            Face::Manual(manual) => manual.dial.wall(),
        };
        let moment = moment.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        moment.checked_sub(Duration::from_millis(wall)).filter(|left| !left.is_zero())
    }

    /// Compares the wall clock now, and tells the time.
    ///
    /// [`now`](Self::now) does so only when the monotonic clock has moved since it last did. Within one tick after a
    /// pause it has not, and the time is still that of before the pause: so call this at an invocation's start and
    /// after a restore.
    ///
    /// Costs two readings of coarse clocks, about 15 ns. Allocates nothing; takes no lock, but that of a
    /// [`ManualClock`].
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use plimsoll::ManualClock;
    ///
    /// let manual = ManualClock::new();
    /// let clock = manual.clock();
    /// let before = clock.now();
    /// manual.freeze(Duration::from_secs(60));
    /// assert_eq!(clock.now(), before, "the monotonic clock has not moved yet");
    /// assert_eq!(clock.refresh(), before + 60_000);
    /// ```
    pub fn refresh(&self) -> u64 {
        match &self.0 {
            Face::System => SYSTEM.look(&System),
            Face::Manual(manual) => manual.core.look(&manual.dial),
        }
    }
}

impl fmt::Debug for Face {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System => f.write_str("System"),
            Self::Manual(manual) => manual.fmt(f),
        }
    }
}

/// Tells a [`Clock`] what time it is, so that a test turns time instead of sleeping.
///
/// It has two hands, as the operating system has: a monotonic clock and a wall clock, each of which stops at the ends
/// of `u64` milliseconds. Both start at a round moment, far from either end. Durations count in whole milliseconds;
/// what is left of one is dropped.
///
/// A clone turns the same hands.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use plimsoll::clock::ManualClock;
///
/// let manual = ManualClock::new();
/// let clock = manual.clock(); // give this one to what is tested
/// let stamp = clock.now();
/// manual.advance(Duration::from_secs(60));
/// assert_eq!(clock.now() - stamp, 60_000);
/// ```
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<Manual>);

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl ManualClock {
    /// Makes a clock that stands still until it is turned, with one allocation. What turns it counts from here on.
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::ManualClock;
    ///
    /// let clock = ManualClock::new().clock();
    /// assert_eq!(clock.now(), clock.now(), "it stands still");
    /// ```
    pub fn new() -> Self {
        let manual = Manual::default();
        manual.core.look(&manual.dial);
        Self(Arc::new(manual))
    }

    /// Gives the clock to hand to what is tested; all of them show the same time.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use plimsoll::ManualClock;
    ///
    /// let manual = ManualClock::new();
    /// let (one, other) = (manual.clock(), manual.clock());
    /// manual.advance(Duration::from_secs(1));
    /// assert_eq!(one.now(), other.now());
    /// ```
    pub fn clock(&self) -> Clock {
        Clock(Face::Manual(Arc::clone(&self.0)))
    }

    /// Lets time pass on both clocks.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use plimsoll::ManualClock;
    ///
    /// let manual = ManualClock::new();
    /// let clock = manual.clock();
    /// let before = clock.now();
    /// manual.advance(Duration::from_millis(1500));
    /// assert_eq!(clock.now() - before, 1500);
    /// ```
    pub fn advance(&self, by: Duration) {
        self.0.dial.turn(|hands| {
            hands.monotonic = hands.monotonic.saturating_add(millis(by));
            hands.wall = hands.wall.saturating_add(millis(by));
        });
    }

    /// Lets time pass on the wall clock alone: what a paused guest or a restored snapshot looks like from inside.
    ///
    /// As in life, [`Clock::now`] notices when the monotonic clock next moves, and [`Clock::refresh`] at once.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use plimsoll::ManualClock;
    ///
    /// let manual = ManualClock::new();
    /// let clock = manual.clock();
    /// let before = clock.now();
    /// manual.freeze(Duration::from_secs(3600)); // nothing ran meanwhile
    /// manual.advance(Duration::from_millis(10)); // the first tick after it
    /// assert_eq!(clock.now() - before, 3_600_010);
    /// ```
    pub fn freeze(&self, by: Duration) {
        self.0.dial.turn(|hands| hands.wall = hands.wall.saturating_add(millis(by)));
    }

    /// Sets the wall clock back, as NTP or an operator may do.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use plimsoll::ManualClock;
    ///
    /// let manual = ManualClock::new();
    /// let clock = manual.clock();
    /// let before = clock.now();
    /// manual.set_wall_back(Duration::from_secs(3600));
    /// manual.advance(Duration::from_secs(1));
    /// assert_eq!(clock.now() - before, 1000, "time never goes back, and goes on");
    /// ```
    pub fn set_wall_back(&self, by: Duration) {
        self.0.dial.turn(|hands| hands.wall = hands.wall.saturating_sub(millis(by)));
    }

    /// Sets the monotonic clock back, as a snapshot restored on a younger host may do.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use plimsoll::ManualClock;
    ///
    /// let manual = ManualClock::new();
    /// let clock = manual.clock();
    /// manual.advance(Duration::from_secs(60));
    /// let before = clock.now();
    /// manual.set_monotonic_back(Duration::from_secs(60));
    /// assert!(clock.now() >= before);
    /// ```
    pub fn set_monotonic_back(&self, by: Duration) {
        self.0.dial.turn(|hands| hands.monotonic = hands.monotonic.saturating_sub(millis(by)));
    }
}

/// A core and the dial it reads.
#[derive(Debug, Default)]
struct Manual {
    core: Core,
    dial: Dial,
}

/// Measures how long something takes, on the fine monotonic clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopwatch(std::time::Instant);

impl Stopwatch {
    #[expect(clippy::disallowed_methods, reason = "this is where time comes from")]
    pub(crate) fn start() -> Self {
        Self(std::time::Instant::now())
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// A duration in microseconds, as lines and sums have it.
pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// A duration in nanoseconds.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The two clocks of a [`ManualClock`], in milliseconds.
#[derive(Clone, Copy, Debug)]
struct Hands {
    monotonic: u64,
    wall: u64,
}

/// Hands under a lock, so that time passes on both at once.
#[derive(Debug)]
struct Dial(Mutex<Hands>);

impl Default for Dial {
    fn default() -> Self {
        // A host up for a day, in 2023: both far from 0, so that either can be set back.
        Self(Mutex::new(Hands { monotonic: 86_400_000, wall: 1_700_000_000_000 }))
    }
}

impl Dial {
    fn turn<T>(&self, turn: impl FnOnce(&mut Hands) -> T) -> T {
        // Nothing that runs under this lock panics.
        turn(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Whole milliseconds, the largest number if they are more.
#[expect(clippy::cast_possible_truncation, reason = "tested right before")]
pub(crate) const fn millis(duration: Duration) -> u64 {
    let millis = duration.as_millis();
    if millis > u64::MAX as u128 { u64::MAX } else { millis as u64 }
}

/// Two clocks to read, in milliseconds.
trait Source {
    fn monotonic(&self) -> u64;
    fn wall(&self) -> u64;
}

/// The operating system's.
struct System;

impl Source for System {
    #[inline]
    fn monotonic(&self) -> u64 {
        os::coarse_monotonic_ms()
    }

    fn wall(&self) -> u64 {
        os::coarse_wall_ms()
    }
}

impl Source for Dial {
    fn monotonic(&self) -> u64 {
        self.turn(|hands| hands.monotonic)
    }

    fn wall(&self) -> u64 {
        self.turn(|hands| hands.wall)
    }
}

/// The one state behind both faces. Every field but `tick` is set once or only rises, so threads need little order.
#[derive(Debug)]
struct Core {
    /// Wall less monotonic clock at the first look, from which leads are measured; [`UNSET`] before it.
    start: AtomicI64,
    /// The largest lead so far; 0 while that is noise.
    skew: AtomicU64,
    /// The latest time told. Every time told is read or raised here, hence never less than one told before.
    now: AtomicU64,
    /// The monotonic reading of the last look, stored after `now` was raised by it. A late thread may store an old
    /// one; the next call then looks once more than needed. `u64::MAX` at first, which no running clock shows.
    tick: AtomicU64,
}

/// A `start` not taken yet; no difference is given this value.
const UNSET: i64 = i64::MIN;

impl Default for Core {
    fn default() -> Self {
        Self::new()
    }
}

impl Core {
    const fn new() -> Self {
        Self {
            start: AtomicI64::new(UNSET),
            skew: AtomicU64::new(0),
            now: AtomicU64::new(0),
            tick: AtomicU64::new(u64::MAX),
        }
    }

    #[inline]
    fn now(&self, source: &impl Source) -> u64 {
        let monotonic = source.monotonic();
        // Acquire: with the tick comes the `now` that was raised by it.
        if monotonic == self.tick.load(Ordering::Acquire) {
            self.now.load(Ordering::Relaxed)
        } else {
            self.look(source)
        }
    }

    /// Compares the two clocks and tells the time.
    #[inline(never)]
    fn look(&self, source: &impl Source) -> u64 {
        let start = self.start(source);
        // The wall clock first. A thread held up in between then sees a lead too small, which the next look mends;
        // the other way round an hour's freeze in between would stay in `skew` as a lead that never was.
        let wall = source.wall();
        let monotonic = source.monotonic();
        let lead = u64::try_from(difference(wall, monotonic).saturating_sub(start)).unwrap_or(0);
        let skew = if lead < NOISE_MS {
            self.skew.load(Ordering::Relaxed)
        } else {
            self.skew.fetch_max(lead, Ordering::Relaxed).max(lead)
        };
        let then = monotonic.saturating_add(skew);
        let now = self.now.fetch_max(then, Ordering::Relaxed).max(then);
        self.tick.store(monotonic, Ordering::Release);
        now
    }

    #[inline]
    fn start(&self, source: &impl Source) -> i64 {
        match self.start.load(Ordering::Relaxed) {
            UNSET => self.take_start(source),
            start => start,
        }
    }

    /// Takes the first pair of readings. Here the lead must not come out too small, or all later ones are too large:
    /// so the monotonic clock is read first, and again after, to see that the pair belongs together.
    #[cold]
    fn take_start(&self, source: &impl Source) -> i64 {
        let mut before = source.monotonic();
        let mut wall = source.wall();
        for _ in 1..PAIR_TRIES {
            let after = source.monotonic();
            if after.wrapping_sub(before) < RESOLUTION_MS {
                break;
            }
            before = after;
            wall = source.wall();
        }
        let start = difference(wall, before);
        match self.start.compare_exchange(UNSET, start, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_unset) => start,
            Err(earlier) => earlier,
        }
    }
}

/// `wall - monotonic`, kept within what differences may be.
fn difference(wall: u64, monotonic: u64) -> i64 {
    let exact = i128::from(wall) - i128::from(monotonic);
    i64::try_from(exact).map_or(if exact < 0 { UNSET + 1 } else { i64::MAX }, |fits| fits.max(UNSET + 1))
}

#[cfg(test)]
mod tests;
