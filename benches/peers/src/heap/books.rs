//! The figures an allocator keeps, behind one face.

/// A peak that is known to lie between two figures, in bytes. An exact peak has both alike.
#[derive(Debug, Clone, Copy)]
pub struct Bracket {
    /// The peak was not lower.
    pub at_least: u64,
    /// The peak was not higher.
    pub at_most: u64,
}

/// What a tracking allocator can be asked. What a peer does not offer stays at its default.
pub trait Books: Sync {
    /// Bytes that are live now, read as its users read it.
    fn live(&self) -> u64;

    /// The peak since the last [`reset_peak`](Self::reset_peak), if there is one that can be reset.
    fn peak(&self) -> Option<Bracket> {
        None
    }

    /// Lowers the peak to what is live.
    fn reset_peak(&self) {}

    /// Refuses from here on what would bring the live bytes above `bytes`; `false` if it cannot.
    fn set_limit(&self, _bytes: u64) -> bool {
        false
    }

    /// Lifts the limit.
    fn clear_limit(&self) {}

    /// Reads the resident set size once; `false` if the crate offers no such reading.
    fn read_rss(&self) -> bool {
        false
    }
}
