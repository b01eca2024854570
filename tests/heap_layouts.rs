//! Layouts at the edges: no size, great alignment, sizes near the end of the address space.

#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "a test: it allocates by hand, counts in signed bytes and stops at the first surprise"
)]

mod support;

use plimsoll::{TrackingAllocator, heap};
use support::{Block, live};

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

support::tests! {
    nothing_is_booked_for_no_size,
    over_aligned_blocks_count_their_size_and_are_aligned,
    sizes_near_the_end_of_the_address_space_are_refused_whole if cfg!(not(miri)), else "Miri aborts where a system says no",
}

fn nothing_is_booked_for_no_size() {
    let before = heap::stats().unwrap();
    let (units, empty, boxed) = (vec![(); 1000], Vec::<u64>::with_capacity(0), Box::new(()));
    assert_eq!(heap::stats().unwrap(), before);
    drop((units, empty, boxed));
    assert_eq!(heap::stats().unwrap(), before);
}

fn over_aligned_blocks_count_their_size_and_are_aligned() {
    let base = live();
    for align in (0..=if cfg!(miri) { 8 } else { 16 }).map(|power| 1usize << power) {
        for size in [1, align - 1, align, align + 1, 3 * align, 100_000] {
            if size == 0 {
                continue;
            }
            for zeroed in [false, true] {
                let mut block = Block::with(size, align, zeroed).unwrap();
                assert!(block.is_aligned(), "{size} bytes aligned to {align}");
                assert_eq!(live() - base, size as i64);
                assert!(block.resize(2 * size + 5) && block.is_aligned());
                assert_eq!(live() - base, 2 * size as i64 + 5);
                assert!(block.resize(1) && block.is_aligned());
                assert_eq!(live() - base, 1);
            }
            assert_eq!(live(), base);
        }
    }
}

fn sizes_near_the_end_of_the_address_space_are_refused_whole() {
    let mut small = Block::new(10);
    let before = heap::stats().unwrap();
    let mut refused = 0;
    for below in [0, 1, 4096, 1 << 20] {
        let size = isize::MAX as usize - below;
        assert!(Block::with(size, 1, false).is_none());
        assert!(Block::with(size, 1, true).is_none());
        assert!(!small.resize(size));
        refused += 3;
    }
    let after = heap::stats().unwrap();
    assert_eq!(after.live, before.live);
    assert_eq!(after.peak, before.peak, "a failed request leaves no mark");
    assert_eq!(after.refused, before.refused + refused);
    assert_eq!(after.largest_refused.as_u64(), isize::MAX as u64);
    assert!(small.resize(20));
}
