//! The price of a reading.

use std::time::Instant;

use crate::median;

/// The median time of one `call` in nanoseconds, over `batches` batches of `calls`: a lone call is shorter than the
/// clock can see.
pub(super) fn median_ns(batches: usize, calls: u32, mut call: impl FnMut()) -> f64 {
    median((0..batches).map(|_| {
        let start = Instant::now();
        (0..calls).for_each(|_| call());
        start.elapsed().as_nanos() as f64 / f64::from(calls)
    }))
}
