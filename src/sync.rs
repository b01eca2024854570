//! The atomics the cores are written against: std's here, loom's twins where `tests/loom` supplies its own `sync`.

pub(crate) use std::sync::atomic::{AtomicIsize, AtomicU64, AtomicUsize, Ordering};

/// Declares a `const fn` constructor; loom's atomics have none, so its `sync` declares a plain one.
macro_rules! constructor {
    ($(#[$meta:meta])* $vis:vis const fn $($rest:tt)*) => { $(#[$meta])* $vis const fn $($rest)* };
}

/// An array of `$n` values, each made by `$each`.
macro_rules! array {
    ($each:expr; $n:expr) => {
        [const { $each }; $n]
    };
}

pub(crate) use {array, constructor};
