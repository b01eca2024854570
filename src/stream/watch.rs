//! What is looked at between records: the deadline, and who wants to hear of progress.

use std::fmt;
use std::time::SystemTime;

use crate::clock::{Clock, millis};
use crate::size::ByteSize;

/// How far a stream has come.
///
/// # Examples
///
/// ```
/// use plimsoll::stream::Progress;
///
/// fn log(progress: Progress) {
///     println!("at byte {}, before record {}", progress.offset, progress.next_number);
/// }
/// # let _ = log;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Where the record or chunk begins that comes next. All before it was given out, or dropped and counted.
    pub offset: u64,
    /// Its number.
    pub next_number: u64,
}

type Listener = Box<dyn FnMut(Progress) + Send>;

/// What a builder was told.
#[derive(Default)]
pub(super) struct WatchSettings {
    pub(super) clock: Clock,
    pub(super) deadline: Option<SystemTime>,
    pub(super) progress: Option<(ByteSize, Listener)>,
}

impl fmt::Debug for WatchSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let every = self.progress.as_ref().map(|(every, _)| every);
        f.debug_struct("WatchSettings").field("deadline", &self.deadline).field("every", &every).finish_non_exhaustive()
    }
}

/// A moment to stop at.
#[derive(Clone, Debug)]
pub struct Deadline {
    clock: Clock,
    /// On the clock, which counts through a freeze. `u64::MAX` if there is none.
    at: u64,
}

impl Deadline {
    /// Whether it has passed. Without one it costs a comparison, with one a reading of the coarse clock.
    #[inline]
    pub(super) fn expired(&self) -> bool {
        self.at != u64::MAX && self.clock.now() >= self.at
    }
}

/// Watches one stream.
pub(super) struct Watch {
    deadline: Deadline,
    ignored: bool,
    listener: Option<Listener>,
    every: u64,
    /// The offset at which the listener is called next; `u64::MAX` if there is none.
    mark: u64,
}

impl Watch {
    /// A deadline that has passed is ignored: local emulators of Lambda send the year 1970.
    pub(super) fn new(settings: WatchSettings, offset: u64) -> Self {
        let WatchSettings { clock, deadline, progress } = settings;
        let left = deadline.map(|deadline| clock.until(deadline));
        let ignored = left == Some(None);
        let left = left.flatten().map(millis);
        let at = left.map_or(u64::MAX, |left| clock.now().saturating_add(left));
        let deadline = Deadline { clock, at };
        let (every, listener) = progress.map_or((0, None), |(every, listener)| (every.as_u64().max(1), Some(listener)));
        let mark = if listener.is_some() { offset.saturating_add(every) } else { u64::MAX };
        Self { deadline, ignored, listener, every, mark }
    }

    #[inline]
    pub(super) fn expired(&self) -> bool {
        self.deadline.expired()
    }

    pub(super) fn deadline(&self) -> Deadline {
        self.deadline.clone()
    }

    /// Tells the listener, if it is time to.
    #[inline]
    pub(super) fn passed(&mut self, offset: u64, next_number: u64) {
        if offset >= self.mark {
            self.tell(Progress { offset, next_number });
        }
    }

    #[cold]
    fn tell(&mut self, progress: Progress) {
        let Some(listener) = &mut self.listener else { return };
        // The next multiple of the step: a long record makes one call, not one for each step.
        let steps = (progress.offset - self.mark) / self.every + 1;
        self.mark = self.mark.saturating_add(steps.saturating_mul(self.every));
        listener(progress);
    }

    pub(super) fn deadline_ignored(&self) -> bool {
        self.ignored
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("deadline", &self.deadline.at).field("mark", &self.mark).finish_non_exhaustive()
    }
}
