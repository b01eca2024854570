//! The random numbers of the workloads.

/// A xorshift64 generator: a few cycles, and the same sequence in every program.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Creates the `n`-th generator. Different `n` give different sequences.
    pub fn new(n: u64) -> Self {
        Self((n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// Returns the next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Returns a size in bytes from `1` to `most`.
    pub fn size(&mut self, most: usize) -> usize {
        (self.bits() >> 16) as usize % most + 1
    }
}
