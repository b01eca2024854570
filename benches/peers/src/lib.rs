//! The same work, done by this crate and by its peers: what the worker programs in `bin/` share.
//!
//! A global allocator is a static of the whole process, so each one gets a program of its own. The work itself is
//! compiled once, here: every worker runs the same machine code and differs in nothing but its allocator.

#[cfg(target_os = "linux")]
pub mod alarm;
pub mod budget;
pub mod cache;
pub mod heap;
pub mod lazy;
pub mod stream;

/// A xorshift64 generator: a few cycles, and the same sequence in every program.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The `n`-th generator. Different `n` give different sequences.
    pub fn new(n: u64) -> Self {
        Self((n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A size in bytes from `1` to `most`.
    pub fn size(&mut self, most: usize) -> usize {
        (self.bits() >> 16) as usize % most + 1
    }
}

/// The median, of an even number the upper one; not a number where there is none.
pub fn median(figures: impl IntoIterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.into_iter().collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}
