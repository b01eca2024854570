//! What the cores are written against: std's atomics and `parking_lot`'s locks here, loom's twins where
//! `tests/loom` supplies its own `sync`.

pub(crate) use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicU64, AtomicUsize, Ordering};
#[cfg(feature = "profile")]
pub(crate) use std::sync::atomic::{AtomicI64, AtomicU8};
pub(crate) use std::thread::ThreadId;

pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard};

/// Which thread this is. Asked of std once a thread, which hands it out by way of a reference count.
#[inline]
pub(crate) fn thread_id() -> ThreadId {
    thread_local!(static ID: ThreadId = std::thread::current().id());
    ID.with(|id| *id)
}

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
