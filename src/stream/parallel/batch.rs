//! What a worker takes at a time, in buffers that are its own and used again.

use std::io::Read;

use crate::size::ByteSize;

use super::super::charge::Held;
use super::super::chunks::ChunkReader;
use super::super::error::{BuildError, StreamError};
use super::super::framing::Framing;
use super::super::reader::RecordReader;
use super::super::record::Record;
use super::super::records::{Place, RecordStats};
use super::super::storage::{self, Carry, Chunk};
use super::super::watch::Deadline;

/// Records of a batch at most, which bounds the places.
pub(super) const RECORDS: usize = 512;

/// Records in a buffer: a chunk, or copies of as many as a batch takes.
#[derive(Debug)]
pub struct Batch {
    chunk: Chunk,
    copies: Carry,
    /// Bytes of records that are enough.
    enough: usize,
    places: Vec<Place>,
    /// For `places`.
    _held: Held,
    /// Where the record begins that comes behind them.
    pub(super) end: u64,
}

impl Batch {
    fn new(chunk: Chunk, copies: Carry, enough: usize, places: usize) -> Result<Self, BuildError> {
        let held = copies.charge().hold(ByteSize::bytes((places * size_of::<Place>()) as u64))?;
        let mut places = storage::fixed(places)?;
        places.clear();
        Ok(Self { chunk, copies, enough, places, _held: held, end: 0 })
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn records(&self) -> impl Iterator<Item = Record<&[u8]>> {
        self.places
            .iter()
            .map(|place| place.record(if place.carried { self.copies.bytes() } else { self.chunk.filled() }))
    }

    fn clear(&mut self) {
        self.chunk.clear();
        self.copies.clear();
        self.places.clear();
    }

    /// Takes a copy of a record.
    fn copy(&mut self, record: Record<&[u8]>) -> Result<(), StreamError> {
        let (offset, number, truncated) = (record.offset(), record.number(), record.is_truncated());
        let start = self.copies.bytes().len();
        self.copies.append(record.into_bytes()).map_err(|why| StreamError::no_room(offset, number, why))?;
        let end = self.copies.bytes().len();
        self.places.push(Place { carried: true, start, end, offset, number, truncated });
        Ok(())
    }

    fn wants_more(&self) -> bool {
        self.copies.bytes().len() < self.enough && self.places.len() < RECORDS
    }
}

/// A reader that workers take turns to pull from.
pub trait Pull: Send {
    /// Where the record begins that is pulled next.
    fn offset(&self) -> u64;

    /// A batch for one worker; the first may be made of the reader's own buffer.
    fn new_batch(&mut self, size: ByteSize, first: bool) -> Result<Batch, BuildError>;

    /// Fills the batch, which is empty at the end of the input. What came before an error is in it.
    fn pull(&mut self, batch: &mut Batch) -> Result<(), StreamError>;

    fn stats(&self) -> RecordStats;

    /// When to stop, also for what was pulled.
    fn deadline(&self) -> Deadline;
}

impl<R: Read + Send, F: Framing> Pull for RecordReader<R, F> {
    fn offset(&self) -> u64 {
        self.offset()
    }

    fn new_batch(&mut self, size: ByteSize, first: bool) -> Result<Batch, BuildError> {
        // All that will be needed is taken now: what is refused costs a worker, and not the run in its middle.
        if first {
            self.reserve()?;
        }
        let enough = size.as_usize().max(1);
        let mut copies = Carry::new(enough.saturating_add(self.max_record()), &self.charge())?;
        copies.reserve()?;
        Batch::new(Chunk::none(), copies, enough, RECORDS)
    }

    fn pull(&mut self, batch: &mut Batch) -> Result<(), StreamError> {
        batch.clear();
        batch.end = self.offset();
        while batch.wants_more() {
            let Some(record) = self.next_record()? else { break };
            batch.copy(record)?;
            batch.end = self.offset();
        }
        Ok(())
    }

    fn stats(&self) -> RecordStats {
        self.stats()
    }

    fn deadline(&self) -> Deadline {
        self.watch_deadline()
    }
}

impl<R: Read + Send> Pull for ChunkReader<R> {
    fn offset(&self) -> u64 {
        self.offset()
    }

    fn new_batch(&mut self, _size: ByteSize, first: bool) -> Result<Batch, BuildError> {
        let charge = self.source.charge.clone();
        // One that was begun before an error stays, for whoever pulls first.
        let first = first && !self.has_begun();
        let chunk = if first { self.take_chunk() } else { Chunk::new(self.source.size, &charge)? };
        Batch::new(chunk, Carry::new(0, &charge)?, 0, 1)
    }

    fn pull(&mut self, batch: &mut Batch) -> Result<(), StreamError> {
        batch.clear();
        batch.end = self.offset();
        if self.has_begun() {
            batch.chunk = self.take_chunk();
        }
        if let Some(place) = self.source.fill(&mut batch.chunk)? {
            batch.places.push(place);
            batch.end = self.offset();
        }
        Ok(())
    }

    fn deadline(&self) -> Deadline {
        self.source.deadline()
    }

    fn stats(&self) -> RecordStats {
        RecordStats {
            records: self.source.number(),
            deadline_ignored: self.deadline_ignored(),
            ..RecordStats::default()
        }
    }
}
