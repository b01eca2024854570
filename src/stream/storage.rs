//! The buffers of a reader: every byte of heap that it holds is allocated here.

use std::fmt;
use std::io::{self, Read};

use crate::budget::Pressure;
use crate::size::ByteSize;

use super::charge::{Charge, Held, NoRoom};
use super::error::BuildError;

/// A buffer that never grows past its cap, and that says no instead of aborting where the allocator does.
pub(super) struct Carry {
    bytes: Vec<u8>,
    /// Most bytes it may hold.
    cap: usize,
    /// For its capacity.
    held: Held,
}

impl Carry {
    pub(super) fn new(cap: usize, charge: &Charge) -> Result<Self, NoRoom> {
        Ok(Self { bytes: Vec::new(), cap, held: charge.hold(ByteSize::ZERO)? })
    }

    /// Whom it is charged to.
    pub(super) fn charge(&self) -> Charge {
        self.held.charge()
    }

    #[inline]
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Appends `more`, of which as much is dropped as does not fit under the cap. Changes nothing when it fails.
    ///
    /// It grows to twice its size, so a record that comes byte by byte costs no more than a constant factor.
    pub(super) fn append(&mut self, more: &[u8]) -> Result<(), NoRoom> {
        let more = more.get(..self.cap.saturating_sub(self.bytes.len())).unwrap_or(more);
        let needed = self.bytes.len().saturating_add(more.len());
        if needed > self.bytes.capacity() {
            let twice = needed.max(self.bytes.capacity().saturating_mul(2)).min(self.cap);
            // Where there is no room for that much, what is needed now may do.
            self.grow_to(twice).or_else(|_| self.grow_to(needed))?;
        }
        self.bytes.extend_from_slice(more);
        Ok(())
    }

    /// Grows to its cap at once, so that nothing it takes is refused later.
    pub(super) fn reserve(&mut self) -> Result<(), NoRoom> {
        self.grow_to(self.cap)
    }

    fn grow_to(&mut self, capacity: usize) -> Result<(), NoRoom> {
        let grown = capacity.saturating_sub(self.bytes.capacity());
        self.held.try_grow(grown)?;
        reserve(&mut self.bytes, capacity).inspect_err(|_| self.held.shrink(grown))
    }

    pub(super) fn truncate(&mut self, len: usize) {
        self.bytes.truncate(len);
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
    }
}

/// Most bytes of a chunk: positions in it fit 32 bits.
pub(super) const MAX_CHUNK: ByteSize = ByteSize::gib(1);

/// Under pressure a chunk is this part of its size, but not below [`LEAST_CHUNK`].
const UNDER_PRESSURE: usize = 4;

const LEAST_CHUNK: usize = 4096;

/// A buffer of one size, filled from the front; smaller while the budget that it is charged to is under pressure.
pub(super) struct Chunk {
    bytes: Vec<u8>,
    filled: usize,
    /// The size where there is no pressure.
    size: usize,
    held: Held,
}

impl Chunk {
    pub(super) fn new(size: ByteSize, charge: &Charge) -> Result<Self, BuildError> {
        if size == ByteSize::ZERO {
            return Err(BuildError::EmptyChunk);
        }
        let size = size.min(MAX_CHUNK);
        let held = charge.hold(size)?;
        Ok(Self { bytes: fixed(size.as_usize())?, filled: 0, size: size.as_usize(), held })
    }

    /// No buffer.
    pub(super) fn none() -> Self {
        Self { bytes: Vec::new(), filled: 0, size: 0, held: Held::default() }
    }

    #[inline]
    pub(super) fn filled(&self) -> &[u8] {
        self.bytes.get(..self.filled).unwrap_or_default()
    }

    /// The whole buffer, whatever lies behind what is filled.
    #[inline]
    pub(super) fn all(&self) -> &[u8] {
        &self.bytes
    }

    /// Makes room for what is read next, as much as the budget's pressure lets it have.
    pub(super) fn clear(&mut self) {
        self.filled = 0;
        let wanted = match self.held.pressure() {
            Pressure::Normal => self.size,
            _ => (self.size / UNDER_PRESSURE).max(LEAST_CHUNK).min(self.size),
        };
        let now = self.bytes.len();
        if wanted < now {
            self.bytes.truncate(wanted);
            self.bytes.shrink_to_fit();
            self.held.shrink(now - wanted);
        } else if wanted > now && self.held.grows_calmly(wanted - now) {
            match reserve(&mut self.bytes, wanted) {
                Ok(()) => self.bytes.resize(wanted, 0),
                // What it has is enough to go on with.
                Err(_) => self.held.shrink(wanted - now),
            }
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.filled == self.bytes.len()
    }

    /// Reads once into the rest of the buffer, and tells how many bytes came: 0 at the end, or where it is full.
    pub(super) fn fill_once(&mut self, input: &mut impl Read) -> io::Result<usize> {
        let room = self.bytes.get_mut(self.filled..).unwrap_or_default();
        let most = room.len();
        let read = input.read(room)?;
        if read > most {
            return Err(io::Error::other("the input claims to have read more than there was room for"));
        }
        self.filled += read;
        Ok(read)
    }

    /// Has the empty buffer filled by one read that may have to be waited for.
    #[cfg(feature = "tokio")]
    pub(super) fn poll_fill(
        &mut self,
        input: std::pin::Pin<&mut impl tokio::io::AsyncRead>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        let mut buffer = tokio::io::ReadBuf::new(&mut self.bytes);
        let read = input.poll_read(context, &mut buffer);
        self.filled = if matches!(read, std::task::Poll::Ready(Ok(()))) { buffer.filled().len() } else { 0 };
        read
    }
}

/// Lengths alone: what is read belongs into no log.
impl fmt::Debug for Carry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Carry").field("len", &self.bytes.len()).field("cap", &self.cap).finish_non_exhaustive()
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chunk").field("filled", &self.filled).field("size", &self.size).finish_non_exhaustive()
    }
}

/// A buffer of a fixed size, zeroed.
pub(super) fn fixed<T: Clone + Default>(len: usize) -> Result<Vec<T>, NoRoom> {
    let mut buffer = Vec::new();
    reserve(&mut buffer, len)?;
    buffer.resize(len, T::default());
    Ok(buffer)
}

/// Room for `capacity` elements in all.
fn reserve<T>(buffer: &mut Vec<T>, capacity: usize) -> Result<(), NoRoom> {
    buffer.try_reserve_exact(capacity.saturating_sub(buffer.len())).map_err(|source| {
        let more = capacity.saturating_sub(buffer.capacity()) as u64;
        NoRoom::Memory { wanted: ByteSize::bytes(more.saturating_mul(size_of::<T>() as u64)), source }
    })
}
