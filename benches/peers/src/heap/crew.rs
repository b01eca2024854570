//! Threads that work in phases and stand still between them, without allocating anything of their own meanwhile.

use std::sync::Barrier;

use super::block::{Block, Truth};
use crate::Random;

/// Blocks that one thread can hold. The table lies on its stack: the harness must not disturb the count.
const HELD: usize = 256;

/// One thread's blocks and dice.
pub(super) struct Hand<'a> {
    pub(super) thread: usize,
    pub(super) random: Random,
    pub(super) truth: &'a Truth,
    held: [Option<Block>; HELD],
}

impl<'a> Hand<'a> {
    pub(super) fn new(thread: usize, truth: &'a Truth) -> Self {
        Self { thread, random: Random::new(thread as u64), truth, held: [const { None }; HELD] }
    }

    /// Puts a block of `size` bytes into the first free place; `false` if there is none or the allocator refuses.
    pub(super) fn take(&mut self, size: usize) -> bool {
        let Some(place) = self.held.iter_mut().find(|place| place.is_none()) else { return false };
        *place = Block::new(size, self.truth);
        place.is_some()
    }

    /// Takes blocks of 1 to `most` bytes until the table is full.
    pub(super) fn fill(&mut self, most: usize) {
        while let size = self.random.size(most)
            && self.take(size)
        {}
    }

    /// Doubles every `step`-th block it holds.
    pub(super) fn grow_every(&mut self, step: usize) {
        for block in self.held.iter_mut().step_by(step).flatten() {
            block.grow(block.size() * 2, self.truth);
        }
    }

    /// Frees every `step`-th block.
    pub(super) fn free_every(&mut self, step: usize) {
        for block in self.held.iter_mut().step_by(step).filter_map(Option::take) {
            block.free(self.truth);
        }
    }

    /// Hands out one of the blocks it holds.
    pub(super) fn give(&mut self) -> Option<Block> {
        self.held.iter_mut().find_map(Option::take)
    }
}

impl Drop for Hand<'_> {
    fn drop(&mut self) {
        self.free_every(1);
    }
}

/// When the caller of [`at_work`] is called back; all threads stand still meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    /// The threads are there and have done nothing yet.
    Before,
    /// They have done the phase of this number.
    After(usize),
}

/// Runs `phases` phases of `work` on `threads` threads and calls `rest` before the first and after each.
///
/// All threads have ended, their thread-locals destroyed and their blocks freed, when this returns.
pub(super) fn at_work(
    threads: usize,
    phases: usize,
    truth: &Truth,
    work: impl Fn(&mut Hand<'_>, usize) + Sync,
    mut rest: impl FnMut(Rest),
) {
    let gate = &Barrier::new(threads + 1);
    let work = &work;
    std::thread::scope(|scope| {
        let start = |thread| {
            scope.spawn(move || {
                let mut hand = Hand::new(thread, truth);
                gate.wait();
                for phase in 0..phases {
                    gate.wait();
                    work(&mut hand, phase);
                    gate.wait();
                }
                // Not before the caller has looked: a thread that ends frees what it was started with.
                gate.wait();
            })
        };
        let crew: Vec<_> = (0..threads).map(start).collect();
        gate.wait();
        rest(Rest::Before);
        for phase in 0..phases {
            gate.wait();
            gate.wait();
            rest(Rest::After(phase));
        }
        gate.wait();
        // A scope ends before its threads' thread-locals are destroyed; only a join waits for those.
        for thread in crew {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
}
