//! What the accuracy is measured on. Each pattern can be told apart from "nothing happened": it panics if it did not
//! do what its comment says.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use super::accuracy::Check;
use super::block::Block;
use super::books::Books;
use super::crew::{Hand, Rest, at_work};

const MIB: u64 = 1 << 20;

/// The patterns that any books can be held against.
pub(super) const ALL: [fn(&mut Check<'_>); 4] = [lone_thread, eight_threads, exited_threads, ring];

/// One thread, before there were others: takes, grows and frees about 1.5 MB, with a spike of 10 kB on the way.
fn lone_thread(check: &mut Check<'_>) {
    let mut hand = Hand::new(0, check.truth);
    check.begin();
    for _ in 0..200 {
        let size = hand.random.size(8 << 10);
        hand.take(size);
        check.at_rest();
    }
    hand.grow_every(2);
    check.at_rest();
    check.peak(1, true);
    hand.free_every(1);
    check.at_rest();
    assert!(check.truth.peak() > 1_000_000, "the lone thread held too little to tell");

    check.begin();
    hand.take(10_000);
    hand.free_every(1);
    check.at_rest();
    check.peak(1, true);
}

/// Eight threads take 1 MB each, free a part, grow another, free all.
fn eight_threads(check: &mut Check<'_>) {
    let work = |hand: &mut Hand<'_>, phase| match phase {
        0 => hand.fill(8 << 10),
        1 => hand.free_every(3),
        2 => hand.grow_every(2),
        _ => hand.free_every(1),
    };
    at_work(8, 4, check.truth, work, |rest| match rest {
        Rest::Before => check.begin(),
        Rest::After(phase) => {
            check.at_rest();
            // In the first phase nothing is freed, so the most that was held is what is held.
            check.peak(9, phase == 0);
        }
    });
    assert!(check.truth.peak() > 7_000_000, "the eight threads held too little to tell");
}

/// 200 threads, eight at a time, leave four blocks each and end: what a thread held must outlive it in the books.
fn exited_threads(check: &mut Check<'_>) {
    const LEFT: usize = 800;
    let left = Mutex::new(Vec::with_capacity(LEFT));
    check.begin();
    for _ in 0..25 {
        let leave = |hand: &mut Hand<'_>, _| {
            hand.fill(2 << 10);
            let blocks: [Option<Block>; 4] = std::array::from_fn(|_| hand.give());
            if let Ok(mut left) = left.lock() {
                left.extend(blocks.into_iter().flatten());
            }
        };
        at_work(8, 1, check.truth, leave, drop);
        check.at_rest();
    }
    let left = left.into_inner().unwrap_or_default();
    assert_eq!(left.len(), LEFT, "every thread leaves its blocks");
    for block in left {
        block.free(check.truth);
    }
}

/// Four threads pass 20,000 blocks round: each frees what its neighbour took.
fn ring(check: &mut Check<'_>) {
    const THREADS: usize = 4;
    const BLOCKS: u32 = 5_000;
    let links: [Link; THREADS] = std::array::from_fn(|_| Link::default());
    let passed = AtomicU32::new(0);
    let pass = |hand: &mut Hand<'_>, _| {
        let Some(to) = links.get(hand.thread) else { return };
        let Some(from) = links.get((hand.thread + 1) % THREADS) else { return };
        let (mut sent, mut got) = (0, 0);
        // The last few blocks stay under way, so that not all is zero when it is compared.
        while sent < BLOCKS || got + 8 < BLOCKS {
            let size = hand.random.size(8 << 10);
            if sent < BLOCKS && to.send(|| Block::new(size, hand.truth)) {
                sent += 1;
            }
            if got + 8 < BLOCKS
                && let Some(block) = from.receive()
            {
                block.free(hand.truth);
                got += 1;
            }
        }
        passed.fetch_add(got, SeqCst);
    };
    at_work(THREADS, 1, check.truth, pass, |rest| match rest {
        Rest::Before => check.begin(),
        Rest::After(_) => {
            check.at_rest();
            check.peak(THREADS as u64 + 1, false);
            for link in &links {
                while let Some(block) = link.receive() {
                    block.free(check.truth);
                }
            }
            check.at_rest();
        }
    });
    assert_eq!(passed.into_inner(), 4 * (BLOCKS - 8), "every block but the last few is passed on");
}

/// A few places through which blocks go from one thread to the next. It allocates nothing.
#[derive(Default)]
struct Link([Mutex<Option<Block>>; 16]);

impl Link {
    /// Puts a new block into a free place; `false` if there is none.
    fn send(&self, make: impl FnOnce() -> Option<Block>) -> bool {
        let free = self.0.iter().filter_map(|place| place.try_lock().ok()).find(|place| place.is_none());
        let Some(mut place) = free else { return false };
        *place = make();
        place.is_some()
    }

    fn receive(&self) -> Option<Block> {
        self.0.iter().filter_map(|place| place.try_lock().ok()).find_map(|mut place| place.take())
    }
}

/// Eight threads race for 16 MiB and want eight times as much; notes by how much they got too much.
pub(super) fn limit(books: &dyn Books, check: &mut Check<'_>) {
    const ROOM: u64 = 16 * MIB;
    let refused = AtomicU32::new(0);
    let race = |hand: &mut Hand<'_>, _| {
        for _ in 0..20_000 {
            let size = hand.random.size(64 << 10);
            if !hand.take(size) {
                refused.fetch_add(1, SeqCst);
                hand.free_every(2);
            }
        }
    };
    let mut limited = false;
    at_work(8, 1, check.truth, race, |rest| match rest {
        Rest::Before => {
            check.begin();
            limited = books.set_limit(check.base() + ROOM);
        }
        Rest::After(_) => books.clear_limit(),
    });
    if !limited {
        return;
    }
    let most = check.truth.peak() as u64;
    assert!(refused.into_inner() > 1000, "the limit was hardly ever met");
    assert!(most > ROOM - MIB, "the limit was never reached: {most} of {ROOM} bytes");
    check.found.passed = check.found.passed.max(Some(most.saturating_sub(ROOM)));
}
