//! The bytes that one thread has allocated.
//!
//! With the feature `profile` the same word counts up to the thread's next sample, so that the fast path changes one word
//! and not two:
//!
//! ```text
//!   allocated = base + word        base moves on the slow path only; a sample is due when the word reaches 1 << 63
//! ```

#[cfg(not(feature = "profile"))]
mod counter {
    use crate::sync::{AtomicU64, Ordering::Relaxed, constructor};

    /// A sum that its owner alone changes.
    #[derive(Debug)]
    pub(crate) struct Gross(AtomicU64);

    impl Gross {
        constructor! {
            pub(crate) const fn new() -> Self {
                Self(AtomicU64::new(0))
            }
        }

        /// Adds `n` on the fast path. Always: no sample is ever due.
        #[inline(always)]
        #[expect(clippy::inline_always, reason = "the fast path of every allocation: a call would cost more than it")]
        pub(crate) fn try_add(&self, n: usize) -> bool {
            self.0.store(self.0.load(Relaxed).wrapping_add(n as u64), Relaxed);
            true
        }

        /// Adds `n`, which can be negative, on the slow path.
        pub(crate) fn add(&self, n: isize) {
            self.0.store(self.allocated().wrapping_add_signed(n as i64), Relaxed);
        }

        /// Returns the bytes allocated so far.
        pub(crate) fn allocated(&self) -> u64 {
            self.0.load(Relaxed)
        }
    }
}

#[cfg(feature = "profile")]
mod counter {
    use std::sync::atomic::fence;

    use crate::sync::{AtomicI64, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release, constructor};

    /// A sum and the distance to the next sample, which their owner alone changes.
    #[derive(Debug)]
    pub(crate) struct Gross {
        /// `i64::MAX` less the bytes before the next sampling point. Without samples what was allocated, from 0.
        word: AtomicI64,
        base: AtomicU64,
        /// Odd while `base` and `word` do not fit together.
        version: AtomicU64,
        /// The sum at that time.
        during_change: AtomicU64,
    }

    impl Gross {
        constructor! {
            pub(crate) const fn new() -> Self {
                Self {
                    word: AtomicI64::new(0),
                    base: AtomicU64::new(0),
                    version: AtomicU64::new(0),
                    during_change: AtomicU64::new(0),
                }
            }
        }

        /// Adds `n` on the fast path. Returns `false` if a sample is due; then nothing has changed.
        #[inline(always)]
        #[expect(clippy::inline_always, reason = "the fast path of every allocation: a call would cost more than it")]
        pub(crate) fn try_add(&self, n: usize) -> bool {
            if count_up(&self.word, n) {
                return true;
            }
            self.word.store(self.word.load(Relaxed).wrapping_sub_unsigned(n as u64), Relaxed);
            false
        }

        /// Adds `n`, which can be negative, on the slow path, and leaves the countdown.
        pub(crate) fn add(&self, n: isize) {
            self.base.store(self.base.load(Relaxed).wrapping_add_signed(n as i64), Relaxed);
        }

        /// Returns the bytes allocated so far.
        pub(crate) fn allocated(&self) -> u64 {
            // A change takes some stores, so a second look is enough unless the owner changes them all the time.
            for _ in 0..4 {
                let version = self.version.load(Acquire);
                if version % 2 == 1 {
                    return self.during_change.load(Acquire);
                }
                let sum = self.base.load(Relaxed).wrapping_add(self.word.load(Relaxed).cast_unsigned());
                fence(Acquire);
                if self.version.load(Relaxed) == version {
                    return sum;
                }
            }
            // The sum at a change a moment ago.
            self.during_change.load(Acquire)
        }

        /// Returns the bytes before the next sampling point.
        pub(crate) fn countdown(&self) -> u64 {
            (i64::MAX - self.word.load(Relaxed).max(0)).cast_unsigned()
        }

        /// Sets the bytes before the next sampling point. The sum does not change.
        pub(crate) fn set_countdown(&self, bytes: u64) {
            let word = i64::MAX - i64::try_from(bytes).unwrap_or(i64::MAX);
            self.change(self.allocated(), word);
        }

        /// Makes `base` and `word` fit together, if the owner was changing them when its process forked.
        pub(crate) fn repair_after_fork(&self) {
            if self.version.load(Acquire) % 2 == 1 {
                self.change(self.during_change.load(Relaxed), self.word.load(Relaxed));
            }
        }

        fn change(&self, allocated: u64, word: i64) {
            self.during_change.store(allocated, Relaxed);
            let version = self.version.load(Relaxed) | 1;
            // Release: a reader that sees the odd version sees the sum.
            self.version.store(version, Release);
            fence(Release);
            self.base.store(allocated.wrapping_sub(word.cast_unsigned()), Relaxed);
            self.word.store(word, Relaxed);
            self.version.store(version + 1, Release);
        }
    }

    /// Adds `n`, and returns `true` if the result is not below zero. Two instructions: the compiler takes four, because it does
    /// not use the flags of an addition in memory.
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "the fast path of every allocation: a call would cost more than it")]
    #[expect(unsafe_code, reason = "an instruction that the compiler does not choose")]
    fn count_up(word: &AtomicI64, n: usize) -> bool {
        // SAFETY: the word is valid and aligned, so that other threads read the old or the new value. Only the calling
        // thread writes it. The block leaves the function without a value in a register.
        unsafe {
            std::arch::asm!(
                "add qword ptr [{word}], {n}",
                "js {due}",
                word = in(reg) word.as_ptr(),
                n = in(reg) n,
                due = label { return false },
                options(nostack),
            );
        }
        true
    }

    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    #[inline]
    fn count_up(word: &AtomicI64, n: usize) -> bool {
        let sum = word.load(Relaxed).wrapping_add_unsigned(n as u64);
        word.store(sum, Relaxed);
        sum >= 0
    }
}

pub(crate) use counter::Gross;

#[cfg(all(test, feature = "profile"))]
mod tests {
    use super::Gross;

    #[test]
    fn try_add_counts_until_a_sample_is_due() {
        let gross = Gross::new();
        assert!(gross.try_add(1 << 40));
        gross.set_countdown(99);
        assert_eq!((gross.allocated(), gross.countdown()), (1 << 40, 99));
        assert!(gross.try_add(60) && gross.try_add(39));
        assert_eq!((gross.allocated(), gross.countdown()), ((1 << 40) + 99, 0));
        assert!(!gross.try_add(1), "the sampling point is in this block");
        assert_eq!((gross.allocated(), gross.countdown()), ((1 << 40) + 99, 0));
    }

    #[test]
    fn add_leaves_the_countdown() {
        let gross = Gross::new();
        gross.set_countdown(10);
        gross.add(1000);
        gross.add(-400);
        assert_eq!((gross.allocated(), gross.countdown()), (600, 10));
    }

    #[test]
    fn allocated_beside_a_change_is_exact() {
        let gross = Gross::new();
        assert!(gross.try_add(12_345));
        std::thread::scope(|scope| {
            let owner = scope.spawn(|| (0..20_000).for_each(|countdown| gross.set_countdown(countdown << 40)));
            while !owner.is_finished() {
                assert_eq!(gross.allocated(), 12_345);
            }
        });
    }
}
