//! The allocation sites without the feature `profile`: there are none.

use std::convert::Infallible;

use crate::size::ByteSize;

/// The live blocks of one stack. No value of it exists.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Site {
    pub(super) bytes: ByteSize,
    pub(super) blocks: u64,
    pub(super) share: f64,
    none: Infallible,
}

impl Site {
    /// Returns the return addresses of the stack.
    pub(super) fn addresses(&self) -> impl Iterator<Item = usize> {
        let none = self.none;
        std::iter::once_with(move || match none {})
    }
}

/// Returns `None`: no profile runs.
pub(super) const fn largest_sites<const N: usize>() -> Option<([Option<Site>; N], ByteSize)> {
    None
}

/// Returns zero.
pub(super) const fn attributed() -> ByteSize {
    ByteSize::ZERO
}

/// Does nothing.
pub(crate) const fn record_baseline() {}

/// Returns no site.
pub(super) const fn largest_growth<const N: usize>() -> [Option<Site>; N] {
    [None; N]
}
