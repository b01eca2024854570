//! A stand-in for the library's board.

use std::ops::Deref;

use crate::sync::AtomicU64;

/// A counter of its own.
#[derive(Debug)]
pub(crate) struct Meter(Box<AtomicU64>);

impl Meter {
    pub(crate) fn new() -> Self {
        Self(Box::new(AtomicU64::new(0)))
    }
}

impl Deref for Meter {
    type Target = AtomicU64;

    fn deref(&self) -> &AtomicU64 {
        &self.0
    }
}
