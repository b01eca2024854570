//! The buffers of a reader: every byte of heap that a stream holds is allocated here.

use std::collections::TryReserveError;
use std::io::{self, Read};

use crate::size::ByteSize;

use super::error::BuildError;

/// A buffer that never grows past its cap, and that says no instead of aborting where the allocator does.
#[derive(Debug)]
pub(super) struct Carry {
    bytes: Vec<u8>,
    /// Most bytes it may hold.
    cap: usize,
}

impl Carry {
    pub(super) const fn new(cap: usize) -> Self {
        Self { bytes: Vec::new(), cap }
    }

    #[inline]
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Appends `more`, of which as much is dropped as does not fit under the cap. Changes nothing when it fails; the error
    /// is by how many bytes it was to grow, and why it could not.
    ///
    /// It grows to twice its size, so a record that comes byte by byte costs no more than a constant factor.
    pub(super) fn append(&mut self, more: &[u8]) -> Result<(), (usize, TryReserveError)> {
        let more = more.get(..self.cap.saturating_sub(self.bytes.len())).unwrap_or(more);
        let needed = self.bytes.len().saturating_add(more.len());
        if needed > self.bytes.capacity() {
            let target = needed.max(self.bytes.capacity().saturating_mul(2)).min(self.cap);
            let wanted = target.saturating_sub(self.bytes.len());
            self.bytes.try_reserve_exact(wanted).map_err(|source| (wanted, source))?;
        }
        self.bytes.extend_from_slice(more);
        Ok(())
    }

    pub(super) fn truncate(&mut self, len: usize) {
        self.bytes.truncate(len);
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
    }
}

/// A buffer of one size, filled from the front.
#[derive(Debug)]
pub(super) struct Chunk {
    bytes: Vec<u8>,
    filled: usize,
}

impl Chunk {
    pub(super) fn new(size: ByteSize) -> Result<Self, BuildError> {
        if size == ByteSize::ZERO {
            return Err(BuildError::EmptyChunk);
        }
        Ok(Self { bytes: fixed(size.as_usize())?, filled: 0 })
    }

    #[inline]
    pub(super) fn filled(&self) -> &[u8] {
        self.bytes.get(..self.filled).unwrap_or_default()
    }

    pub(super) fn clear(&mut self) {
        self.filled = 0;
    }

    /// Reads once into the rest of the buffer, and tells how many bytes came: 0 at the end, or where it is full.
    pub(super) fn fill_once(&mut self, input: &mut impl Read) -> io::Result<usize> {
        let room = self.bytes.get_mut(self.filled..).unwrap_or_default();
        let most = room.len();
        let read = loop {
            match input.read(room) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        if read > most {
            return Err(io::Error::other("the input claims to have read more than there was room for"));
        }
        self.filled += read;
        Ok(read)
    }
}

/// A buffer of a fixed size, zeroed.
pub(super) fn fixed<T: Clone + Default>(len: usize) -> Result<Vec<T>, BuildError> {
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(len).map_err(|source| {
        let bytes = (len as u64).saturating_mul(size_of::<T>() as u64);
        BuildError::Memory { wanted: ByteSize::bytes(bytes), source }
    })?;
    buffer.resize(len, T::default());
    Ok(buffer)
}
