//! The steps of a history, made from its seed.

use super::MIB;
use super::random::Random;

/// One step. A slot keeps a block or a group of blocks until it is freed.
#[derive(Debug, Clone, Copy)]
pub enum Op {
    /// Allocates a block and touches `touch` percent of it.
    Hold { slot: usize, bytes: usize, touch: usize },
    /// The same by `alloc_zeroed`.
    Zeroed { slot: usize, bytes: usize, touch: usize },
    /// Grows a vector to `bytes` by doubling, and touches each half as it comes.
    Double { slot: usize, bytes: usize },
    /// Grows the block of the slot by one `realloc` and touches all of it.
    Resize { slot: usize, bytes: usize },
    /// Touches the block of the slot. No allocator is called.
    Touch { slot: usize },
    /// Frees the slot.
    Free { slot: usize },
    /// Allocates and touches a group of blocks of `piece` bytes.
    Small { slot: usize, bytes: usize, piece: usize },
    /// Frees the blocks of a group except each `keep`-th.
    Holes { slot: usize, keep: usize },
    /// Allocates a block with C's `malloc` and touches it.
    C { slot: usize, bytes: usize },
    /// Allocates a group of blocks on `threads` threads at once, `bytes` on each.
    Race { slot: usize, threads: usize, bytes: usize, piece: usize },
    /// Calls `malloc_trim`.
    Trim,
    /// Sets the threshold.
    Set,
}

/// A step and the thread that performs it. Thread 0 is the main thread.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    pub thread: usize,
    pub op: Op,
}

/// The kinds of histories. A seed selects them in turn.
pub const KINDS: [&str; 15] = [
    "mixed",
    "reused_buffer",
    "start_up_spike",
    "reserved_before",
    "touched_later",
    "doubling",
    "zeroed",
    "holes",
    "c_blocks",
    "turns",
    "race",
    "trims",
    "leak",
    "resizes",
    "handed_over",
];

/// The steps, and on which side of the threshold their highest danger is to be.
#[derive(Debug)]
pub struct History {
    pub kind: &'static str,
    pub steps: Vec<Step>,
    /// `true` if the danger is to pass the threshold.
    pub crosses: bool,
    /// The distance from the highest danger to the threshold: bytes if it does not cross, else thousandths of the danger.
    distance: usize,
    pub slots: usize,
}

impl History {
    /// Creates the history of this seed.
    pub fn new(seed: u64) -> Self {
        let number = seed as usize;
        let kind = KINDS[number % KINDS.len()];
        let crosses = number / KINDS.len() % 2 == 1;
        let mut plan = Plan { random: Random::new(seed + 1), steps: Vec::new(), held: Vec::new(), slots: 0, thread: 0 };
        match kind {
            "mixed" => plan.mixed(),
            "reused_buffer" => plan.reused_buffer(false),
            "start_up_spike" => plan.start_up_spike(),
            "reserved_before" => plan.reserved_before(),
            "touched_later" => plan.touched_later(),
            "doubling" => plan.doubling(),
            "zeroed" => plan.zeroed(),
            "holes" => plan.holes(),
            "c_blocks" => plan.c_blocks(),
            "turns" => plan.turns(),
            "race" => plan.race(),
            "trims" => plan.reused_buffer(true),
            "leak" => plan.leak(),
            "resizes" => plan.resizes(),
            _ => plan.handed_over(),
        }
        let distance = if crosses { 40 + plan.random.below(200) } else { 3 * MIB + plan.random.below(9 * MIB) };
        Self { kind, steps: plan.steps, crosses, distance, slots: plan.slots }
    }

    /// Returns the threshold for a history that had `peak` as its highest danger in a run without thresholds.
    pub fn threshold(&self, peak: usize) -> usize {
        if self.crosses { peak - (peak / 1000 * self.distance).max(4 * MIB) } else { peak + self.distance }
    }
}

struct Plan {
    random: Random,
    steps: Vec<Step>,
    /// Slots in use, with the bytes planned for them.
    held: Vec<(usize, usize)>,
    slots: usize,
    thread: usize,
}

impl Plan {
    fn push(&mut self, op: Op) {
        self.steps.push(Step { thread: self.thread, op });
    }

    fn slot(&mut self, bytes: usize) -> usize {
        self.held.push((self.slots, bytes));
        self.slots += 1;
        self.slots - 1
    }

    /// A number of bytes between two numbers of MiB.
    fn mib(&mut self, least: usize, most: usize) -> usize {
        least * MIB + self.random.below((most - least) * MIB)
    }

    /// A size from 4 KiB to 40 MiB; each power of two is as likely as the next.
    fn size(&mut self) -> usize {
        let power = 4096 << self.random.below(14);
        (power + self.random.below(power)).min(40 * MIB)
    }

    fn piece(&mut self) -> usize {
        let power = 512 << self.random.below(7);
        power + self.random.below(power)
    }

    fn hold(&mut self, bytes: usize, touch: usize) -> usize {
        let slot = self.slot(bytes);
        self.push(Op::Hold { slot, bytes, touch });
        slot
    }

    fn small(&mut self, bytes: usize) -> usize {
        let (slot, piece) = (self.slot(bytes), self.piece());
        self.push(Op::Small { slot, bytes, piece });
        slot
    }

    fn c(&mut self, bytes: usize) -> usize {
        let slot = self.slot(bytes);
        self.push(Op::C { slot, bytes });
        slot
    }

    fn free(&mut self, slot: usize) {
        self.held.retain(|held| held.0 != slot);
        self.push(Op::Free { slot });
    }

    fn free_any(&mut self) {
        if !self.held.is_empty() {
            let slot = self.held[self.random.below(self.held.len())].0;
            self.free(slot);
        }
    }

    /// Blocks of 1 to 4 MiB that stay, as the state of a service.
    fn base(&mut self, bytes: usize) {
        let mut rest = bytes;
        while rest > 0 {
            let bytes = self.mib(1, 4).min(rest);
            self.hold(bytes, 100);
            rest -= bytes;
        }
    }

    fn any_op(&mut self, most: usize) {
        if self.held.iter().map(|held| held.1).sum::<usize>() > most {
            return self.free_any();
        }
        match self.random.below(12) {
            0..3 => {
                let bytes = self.size();
                self.hold(bytes, 100);
            }
            3 => {
                let (bytes, touch) = (self.size(), 1 + self.random.below(99));
                self.hold(bytes, touch);
            }
            4 => {
                let bytes = self.size();
                self.hold(bytes, 0);
            }
            5 => {
                let (bytes, touch) = (self.size(), self.random.below(101));
                let slot = self.slot(bytes);
                self.push(Op::Zeroed { slot, bytes, touch });
            }
            6 => {
                let bytes = self.mib(1, 30);
                let slot = self.slot(bytes);
                self.push(Op::Double { slot, bytes });
            }
            7 => {
                let bytes = self.mib(1, 12);
                let slot = self.small(bytes);
                if self.random.one_in(2) {
                    let keep = 2 + self.random.below(20);
                    self.push(Op::Holes { slot, keep });
                }
            }
            8 => {
                let bytes = self.size();
                self.c(bytes);
            }
            9 => self.push(Op::Trim),
            _ => self.free_any(),
        }
    }

    fn mixed(&mut self) {
        let most = self.mib(70, 200);
        let before = self.random.below(20);
        (0..before).for_each(|_| self.any_op(most));
        self.push(Op::Set);
        (0..60).for_each(|_| self.any_op(most));
    }

    fn reused_buffer(&mut self, trims: bool) {
        let base = self.mib(50, 110);
        self.base(base);
        self.push(Op::Set);
        let bytes = self.mib(14, 30);
        for _ in 0..8 {
            let slot = self.hold(bytes, 100);
            self.free(slot);
            if trims {
                self.push(Op::Trim);
            }
        }
    }

    fn start_up_spike(&mut self) {
        let spike = self.mib(70, 130);
        let mut slots = Vec::new();
        while self.held.iter().map(|held| held.1).sum::<usize>() < spike {
            let bytes = self.mib(1, 12);
            slots.push(if self.random.one_in(3) { self.hold(bytes, 100) } else { self.small(bytes) });
        }
        self.hold(4096, 100);
        for slot in slots {
            self.free(slot);
        }
        self.push(Op::Set);
        let work = spike - spike / 100 * self.random.below(40);
        let mut done = 0;
        while done < work {
            let bytes = self.mib(2, 20);
            if self.random.one_in(3) {
                self.hold(bytes, 100)
            } else {
                self.small(bytes)
            };
            done += bytes;
        }
    }

    fn reserved_before(&mut self) {
        let (beside, pool) = (self.mib(20, 40), self.mib(20, 40));
        self.c(beside);
        let slot = self.hold(pool, 0);
        self.push(Op::Set);
        for _ in 0..2 {
            let bytes = self.mib(25, 40);
            self.hold(bytes, 100);
        }
        if self.random.one_in(2) {
            self.push(Op::Touch { slot });
            let bytes = self.mib(2, 6);
            self.hold(bytes, 100);
        }
    }

    fn touched_later(&mut self) {
        let base = self.mib(60, 120);
        self.base(base);
        self.push(Op::Set);
        for _ in 0..4 {
            let bytes = self.mib(8, 25);
            let slot = self.hold(bytes, 0);
            if self.random.one_in(2) {
                self.hold(4096, 100);
            }
            self.push(Op::Touch { slot });
            if self.random.one_in(3) {
                let bytes = self.mib(1, 3);
                self.small(bytes);
            }
        }
    }

    fn doubling(&mut self) {
        let base = self.mib(40, 80);
        self.push(Op::Set);
        self.base(base);
        for _ in 0..4 {
            let bytes = self.mib(8, 60);
            let slot = self.slot(bytes);
            self.push(Op::Double { slot, bytes });
            if self.random.one_in(2) {
                self.free(slot);
            }
        }
    }

    fn zeroed(&mut self) {
        let base = self.mib(50, 100);
        self.base(base);
        self.push(Op::Set);
        for _ in 0..10 {
            let bytes = self.mib(1, 40);
            let (slot, touch) = (self.slot(bytes), [0, 100, 100][self.random.below(3)]);
            self.push(Op::Zeroed { slot, bytes, touch });
            if !self.random.one_in(4) {
                self.free(slot);
            }
        }
    }

    fn holes(&mut self) {
        let (bytes, keep) = (self.mib(50, 90), 8 + self.random.below(24));
        let slot = self.small(bytes);
        let early = self.random.one_in(2);
        if early {
            self.push(Op::Set);
        }
        self.push(Op::Holes { slot, keep });
        if !early {
            self.push(Op::Set);
        }
        for _ in 0..3 {
            let bytes = self.mib(5, 40);
            let slot = self.hold(bytes, 100);
            let bytes = self.mib(5, 20);
            self.small(bytes);
            if self.random.one_in(2) {
                self.free(slot);
            }
        }
    }

    fn c_blocks(&mut self) {
        let base = self.mib(30, 60);
        self.base(base);
        self.push(Op::Set);
        for _ in 0..5 {
            let bytes = self.mib(3, 20);
            let slot = self.c(bytes);
            let bytes = self.mib(2, 12);
            self.hold(bytes, 100);
            if self.random.one_in(4) {
                self.free(slot);
            }
        }
    }

    fn turns(&mut self) {
        let most = self.mib(80, 180);
        self.push(Op::Set);
        for _ in 0..70 {
            self.thread = 1 + self.random.below(3);
            self.any_op(most);
        }
    }

    /// One thread allocates, another one frees: the next block may have the same pages.
    fn handed_over(&mut self) {
        let base = self.mib(40, 80);
        self.base(base);
        self.push(Op::Set);
        for _ in 0..6 {
            self.thread = 1 + self.random.below(3);
            let bytes = self.mib(8, 30);
            let slot = self.hold(bytes, 100);
            self.thread = 1 + self.thread % 3;
            self.free(slot);
        }
    }

    fn race(&mut self) {
        let base = self.mib(40, 80);
        self.base(base);
        self.push(Op::Set);
        for _ in 0..3 {
            let (bytes, piece, threads) = (self.mib(4, 14), self.piece(), 2 + self.random.below(4));
            let slot = self.slot(bytes * threads);
            self.push(Op::Race { slot, threads, bytes, piece });
            if self.random.one_in(2) {
                self.free(slot);
            }
        }
    }

    fn leak(&mut self) {
        self.push(Op::Set);
        let most = self.mib(80, 150);
        let mut done = 0;
        while done < most {
            let bytes = self.random.below(2 * MIB) + 100_000;
            self.small(bytes);
            done += bytes;
            if self.random.one_in(4) {
                let bytes = self.size().min(MIB);
                let slot = self.hold(bytes, 100);
                self.free(slot);
            }
        }
    }

    fn resizes(&mut self) {
        let base = self.mib(40, 80);
        self.base(base);
        self.push(Op::Set);
        let mut sizes = [0, 1, 2].map(|_| self.mib(1, 6));
        let slots = sizes.map(|bytes| self.hold(bytes, 100));
        for _ in 0..9 {
            let which = self.random.below(3);
            sizes[which] += self.mib(1, 8);
            self.push(Op::Resize { slot: slots[which], bytes: sizes[which] });
        }
    }
}
