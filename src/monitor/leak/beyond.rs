//! Figures of the memory beyond the live heap: read rarely, because a reading locks the allocator's arenas.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use crate::clock::{Stopwatch, micros};
use crate::env;
use crate::heap;
use crate::os;
use crate::size::ByteSize;

use super::retention::Retention;
use super::trims::Trims;

/// The figures of one reading, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::monitor) struct Figures {
    /// Anonymous rss and live heap at the reading.
    pub(super) anonymous: u64,
    pub(super) live: u64,
    /// glibc's allocator; `None` if the C library is another one.
    pub(super) malloc: Option<os::MallocInfo>,
    pub(super) allocator: Allocator,
    /// Threads of the process.
    pub(super) threads: u64,
    /// Anonymous memory of the other processes of the cgroup.
    pub(super) others: u64,
}

/// The global allocator, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Allocator {
    /// glibc's `malloc`, trimmed by `malloc_trim` or by a hook.
    Malloc { has_hook: bool },
    /// Another one with a hook that has registered statistics.
    Counted(os::AllocatorPages),
    /// Another one with a hook and without statistics.
    Hooked,
    /// Another one without a hook.
    Other,
    /// Any of these.
    #[default]
    Unknown,
}

/// Reads the figures, and keeps the last ones.
#[derive(Debug)]
pub(in crate::monitor) struct Beyond {
    /// See [`MonitorBuilder::retaining_over`](crate::monitor::MonitorBuilder::retaining_over).
    over: u64,
    /// Memory of other processes that the environment's share allows.
    share: u64,
    memory_size: Option<ByteSize>,
    /// `true` if `MALLOC_ARENA_MAX` is set.
    arenas_bound: bool,
    allocator: Gate,
    cgroup: Gate,
    last: Mutex<Figures>,
    last_others: AtomicU64,
}

impl Beyond {
    pub(in crate::monitor) fn new(over: ByteSize, share: ByteSize, memory_size: Option<ByteSize>) -> Self {
        let _not_certain = is_malloc();
        Self {
            over: over.as_u64(),
            share: share.as_u64(),
            memory_size,
            arenas_bound: std::env::var_os("MALLOC_ARENA_MAX").is_some(),
            allocator: Gate::new(),
            cgroup: Gate::new(),
            last: Mutex::new(Figures::default()),
            last_others: AtomicU64::new(0),
        }
    }

    /// Returns the figures as of the last second or longer. One thread reads them, and the others take the last result.
    ///
    /// The figures of the allocator are read only if the anonymous rss is as far beyond the heap as is worth a verdict: a reading
    /// walks all free chunks. Each of the two is read in at most a hundredth of the time, and at most once a second, but that of the
    /// allocator more often while the memory grows by a quarter of what is worth a verdict.
    pub(in crate::monitor) fn read(&self, rss: Option<os::Rss>, live: ByteSize) -> Figures {
        let Some(rss) = rss.filter(|_| self.over < u64::MAX) else { return Figures::default() };
        let of_cgroup = self.memory_size.and_then(|size| self.cgroup.pass(false, || env::cgroup_anonymous(size)));
        if let Some(of_cgroup) = of_cgroup {
            // A cgroup that cannot be read any more holds nothing that is known.
            let others = of_cgroup.map_or(0, |of_cgroup| of_cgroup.saturating_sub(rss.anonymous).as_u64());
            self.last_others.store(others, Relaxed);
        }
        let others = self.last_others.load(Relaxed);
        if rss.anonymous.saturating_sub(live).as_u64() < self.over.max(1) {
            return Figures { others, ..Figures::default() };
        }
        let beyond = rss.anonymous.saturating_sub(live).as_u64();
        let has_grown = {
            let last = self.last();
            beyond >= last.anonymous.saturating_sub(last.live).saturating_add(self.over / 4)
        };
        if let Some(figures) = self.allocator.pass(has_grown, || self.figures(rss.anonymous, live)) {
            *self.last() = figures.unwrap_or_default();
        }
        Figures { others, ..*self.last() }
    }

    /// Returns the rules for the figures of a reading.
    pub(in crate::monitor) const fn retention(&self, figures: Figures, trims: Trims) -> Retention {
        let &Self { over, share, arenas_bound, .. } = self;
        Retention { over, share, arenas_bound, figures, trims }
    }

    /// Reads the figures of the allocator. `None` if the rss or the heap has changed much since: then the difference would
    /// be the memory of another request.
    fn figures(&self, anonymous: ByteSize, live: ByteSize) -> Option<Figures> {
        let read = figures(anonymous, live);
        let (rss, heap) = (os::rss().ok()?.anonymous, heap::stats().ok()?.live);
        let change = |before: ByteSize, after: ByteSize| before.as_u64().abs_diff(after.as_u64());
        let is_steady = change(anonymous, rss).max(change(live, heap)) <= self.over / 4;
        is_steady.then(|| Figures { anonymous: anonymous.min(rss).as_u64(), live: live.max(heap).as_u64(), ..read })
    }

    /// Forgets the last figures.
    pub(in crate::monitor) fn forget(&self) {
        *self.last() = Figures::default();
        self.last_others.store(0, Relaxed);
    }

    /// The last figures. Every write leaves them whole, so poison does no harm.
    fn last(&self) -> MutexGuard<'_, Figures> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn figures(anonymous: ByteSize, live: ByteSize) -> Figures {
    let malloc = os::malloc_info();
    let (has_hook, pages) = (os::has_trim_hook(), os::allocator_pages());
    let is_malloc = if malloc.is_some() { is_malloc() } else { Some(false) };
    let allocator = match (is_malloc, has_hook, pages) {
        (Some(true), ..) => Allocator::Malloc { has_hook },
        // An allocator that has less than the heap is not the one of the heap.
        (Some(false), true, Some(pages)) if pages.active >= live.percent(75).as_u64() => Allocator::Counted(pages),
        (Some(false), true, _) => Allocator::Hooked,
        (Some(false), false, _) => Allocator::Other,
        (None, ..) => Allocator::Unknown,
    };
    let threads = os::threads().unwrap_or(1);
    Figures { anonymous: anonymous.as_u64(), live: live.as_u64(), malloc, allocator, threads, others: 0 }
}

/// Lets one thread at a time pass, once a second or less often.
#[derive(Debug)]
struct Gate {
    /// In milliseconds of the coarse monotonic clock.
    next_ms: AtomicU64,
    /// The same, for what cannot wait.
    urgent_ms: AtomicU64,
}

impl Gate {
    /// The shortest time from one passage to the next, in milliseconds.
    const PAUSE_MS: u64 = 1000;

    /// The pause after a passage, as a multiple of its duration.
    const PAUSE_FACTOR: u64 = 100;

    const fn new() -> Self {
        Self { next_ms: AtomicU64::new(0), urgent_ms: AtomicU64::new(0) }
    }

    /// Calls `read` if it is due. The first call is.
    fn pass<T>(&self, is_urgent: bool, read: impl FnOnce() -> T) -> Option<T> {
        let now = os::coarse_monotonic_ms();
        let next = self.next_ms.load(Relaxed);
        let due = if is_urgent { self.urgent_ms.load(Relaxed) } else { next };
        // Another value each time, so that one thread passes.
        let later = now.saturating_add(Self::PAUSE_MS).max(next.saturating_add(1));
        if now < due || self.next_ms.compare_exchange(next, later, Relaxed, Relaxed).is_err() {
            return None;
        }
        let watch = Stopwatch::start();
        let result = read();
        let pause = micros(watch.elapsed()).saturating_mul(Self::PAUSE_FACTOR) / 1000;
        self.next_ms.store(now.saturating_add(pause.max(Self::PAUSE_MS)), Relaxed);
        self.urgent_ms.store(now.saturating_add(pause), Relaxed);
        Some(result)
    }
}

/// Returns `true` if the global allocator takes its blocks from glibc's `malloc`; `None` if that is not certain yet.
///
/// ```text
/// in use 3,000,016     allocate 65,552 bytes: a chunk of 65,568
/// in use 3,065,584     the difference is that chunk: it came from `malloc`
/// ```
///
/// Other threads change the figure at the same time, so three blocks of different sizes must agree. The answer is kept once
/// it is certain. [`Beyond::new`] asks first: at that time there are few chunks to walk, and few threads.
fn is_malloc() -> Option<bool> {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    /// Less than any threshold of `mmap`, and more than the caches of threads keep.
    const SMALLEST: usize = 65_552;
    const STEP: usize = 8_208;
    /// `malloc` may merge some free chunks at the same time.
    const NOISE: u64 = 2048;
    const AGREE: u32 = 3;

    // `mallinfo2` allocates nothing itself. glibc before 2.33 does not have it.
    let in_use = || match os::malloc_stats() {
        Ok(stats) => Some(stats.in_use.as_u64()),
        Err(_) => Some(os::malloc_info()?.in_use),
    };
    let (mut last, mut agree) = (None, 0);
    for size in (SMALLEST..).step_by(STEP).take(7) {
        if let Some(answer) = ANSWER.get() {
            return Some(*answer);
        }
        let before = in_use()?;
        let mut block = Vec::<u8>::new();
        // At a limit of the heap it is refused, and nothing is known.
        block.try_reserve_exact(size).ok()?;
        let during = in_use()?;
        drop(black_box(block));
        let difference = during.saturating_sub(before);
        let answer = if difference.abs_diff(size as u64 + 16) <= NOISE {
            Some(true)
        } else if during.abs_diff(before) <= NOISE {
            Some(false)
        } else {
            None
        };
        agree = if answer.is_some() && answer == last { agree + 1 } else { u32::from(answer.is_some()) };
        last = answer;
        if let Some(answer) = answer.filter(|_| agree == AGREE) {
            return Some(*ANSWER.get_or_init(|| answer));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gate_passes_once_a_second() {
        let gate = Gate::new();
        assert_eq!(gate.pass(false, || 1), Some(1));
        assert_eq!(gate.pass(false, || 2), None);
        gate.urgent_ms.store(0, Relaxed);
        assert_eq!(gate.pass(true, || 2), Some(2));
        gate.urgent_ms.store(u64::MAX, Relaxed);
        assert_eq!(gate.pass(true, || 2), None);
        gate.next_ms.store(0, Relaxed);
        assert_eq!(gate.pass(false, || 3), Some(3));
        assert!(gate.next_ms.load(Relaxed) >= os::coarse_monotonic_ms().saturating_add(500));
    }

    #[test]
    fn read_with_little_beyond_reads_no_allocator() {
        let beyond = Beyond::new(ByteSize::mib(16), ByteSize::ZERO, None);
        let rss = |mib| Some(os::Rss { total: ByteSize::mib(mib), anonymous: ByteSize::mib(mib) });
        assert!(beyond.read(rss(20), ByteSize::mib(5)).malloc.is_none());
        assert_eq!(beyond.allocator.next_ms.load(Relaxed), 0);
        // This process has neither this rss nor this heap, as if they had changed since.
        assert!(beyond.read(rss(30_000), ByteSize::mib(5)).malloc.is_none());
        assert!(beyond.allocator.next_ms.load(Relaxed) > 0);
    }

    #[test]
    fn figures_are_those_of_the_allocator() {
        let figures = figures(ByteSize::mib(30), ByteSize::mib(5));
        assert_eq!(figures.malloc.is_some(), os::malloc_info().is_some());
        assert_eq!((figures.anonymous, figures.live), (30 << 20, 5 << 20));
    }
}
