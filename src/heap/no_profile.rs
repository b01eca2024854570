//! The profile of allocation sites without the feature `profile`: the allocator's calls, which do nothing.

use super::slot::Slot;

/// A sample. There are none.
pub(super) enum Sample {}

#[inline(always)]
#[expect(clippy::inline_always, reason = "folds to nothing")]
pub(super) const fn is_on(_slot: &Slot) -> bool {
    false
}

/// Returns `true`: a free that found no room for its credit goes straight to the slow path.
#[inline(always)]
#[expect(clippy::inline_always, reason = "folds to nothing")]
pub(super) const fn may_be_sample(_block: *const u8) -> bool {
    true
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "folds to nothing")]
pub(super) const fn before_free(_block: *const u8) -> Option<Sample> {
    None
}

pub(super) const fn after_alloc(_block: *const u8, _size: usize, _above: *const u8) {}

pub(super) const fn look_at_peak() {}

pub(super) const fn still_there(_block: *const u8, _sample: Option<Sample>) {}
