//! The pages of a block that the kernel has not yet given to the process.
#![expect(unsafe_code, reason = "`mincore` is a system call that std does not have")]

/// Pages that one call of `mincore` describes, one byte each.
const PAGES: usize = 2048;

/// Returns the bytes of `block` that are not resident, rounded to pages, or `enough` if there are at least as many.
///
/// Allocates nothing and takes 2 KiB of stack. The walk ends as soon as `enough` is reached, so a large reservation
/// costs no more than the distance to the limit does. If the kernel does not answer (a sandbox without `mincore`), the
/// rest counts as resident. gVisor reports every page as resident.
///
/// Costs about 0.5 us for each MiB that is walked.
pub(crate) fn untouched(block: *const u8, size: usize, enough: usize) -> usize {
    let page = page_size();
    let start = block.addr() & !(page - 1);
    let end = block.addr().saturating_add(size);
    let mut state = [0_u8; PAGES];
    let (mut from, mut absent) = (start, 0_usize);
    while from < end && absent < enough {
        let pages = (end - from).div_ceil(page).min(PAGES);
        // SAFETY: `mincore` writes one byte for each page of the range into `state`, which has room for `PAGES`; it
        // only reads page tables, and reports ENOMEM for addresses that are not mapped.
        let failed =
            unsafe { libc::mincore(block.with_addr(from).cast_mut().cast(), pages * page, state.as_mut_ptr()) };
        if failed != 0 {
            break;
        }
        let resident = state.iter().take(pages).filter(|&&page| page & 1 != 0).count();
        absent += (pages - resident) * page;
        from += pages * page;
    }
    absent.min(size).min(enough)
}

fn page_size() -> usize {
    usize::try_from(super::linux::page_size()).ok().filter(|bytes| bytes.is_power_of_two()).unwrap_or(4096)
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn untouched_fresh_block_counts_pages_until_they_are_touched() {
        // More than glibc serves from its heap, so it is mapped for this block.
        let mut block = Vec::<u8>::with_capacity(80 * MIB);
        let fresh = untouched(block.as_ptr(), block.capacity(), usize::MAX);
        assert!((80 * MIB - 2 * page_size()..=80 * MIB).contains(&fresh), "{fresh}");
        block.resize(30 * MIB, 1);
        let rest = untouched(block.as_ptr(), block.capacity(), usize::MAX);
        assert!((48 * MIB..=50 * MIB).contains(&rest), "{rest}");
    }

    #[test]
    fn untouched_reaches_enough_and_stops() {
        let block = Vec::<u8>::with_capacity(80 * MIB);
        assert_eq!(untouched(block.as_ptr(), block.capacity(), 3 * MIB), 3 * MIB);
        assert_eq!(untouched(block.as_ptr(), block.capacity(), 0), 0);
    }

    #[test]
    fn untouched_small_resident_block_is_zero() {
        let block = [1_u8; 100];
        assert_eq!(untouched(block.as_ptr(), 100, usize::MAX), 0);
        assert_eq!(untouched(block.as_ptr(), 0, usize::MAX), 0);
    }
}
