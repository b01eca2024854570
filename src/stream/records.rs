//! The core: cuts an input that comes in pieces into records, and owns nothing but the record a cut went through.
//!
//! No I/O here. A face gives [`Records::step`] the current piece of the input until it asks for the next one with
//! [`Step::More`]; then [`Records::turn`] says that the piece is done with, or [`Records::end`] that there is none.
//!
//! Records that lie whole in a piece stay there, and stage one ([`Ends`]) finds them many at a time. What a piece leaves
//! open goes to the carry: *open* is the record that began in an earlier piece and whose end was not seen yet.

use std::ops::ControlFlow;

use crate::size::ByteSize;

use super::Oversize;
use super::charge::Charge;
use super::ends::Ends;
use super::error::{BuildError, StreamError};
use super::framing::{Close, Framing};
use super::record::Record;
use super::storage::Carry;

/// What comes next.
#[derive(Debug)]
pub(super) enum Step {
    /// A record.
    Record(Place),
    /// Nothing more in this piece.
    More,
    /// Nothing more at all.
    End,
}

/// Where a record lies, and which it is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place {
    /// In the carry, or else in the piece.
    pub(super) carried: bool,
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) offset: u64,
    pub(super) number: u64,
    pub(super) truncated: bool,
}

impl Place {
    /// The record whose bytes these are.
    #[inline]
    pub(super) fn of<B>(&self, bytes: B) -> Record<B> {
        Record::new(bytes, self.offset, self.number, self.truncated)
    }

    /// The record, which lies in `bytes`.
    #[inline]
    pub(super) fn record<'a>(&self, bytes: &'a [u8]) -> Record<&'a [u8]> {
        self.of(bytes.get(self.start..self.end).unwrap_or_default())
    }
}

/// What became of the open record's claim to be given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Not too long so far; all of its content is in the carry.
    Fits,
    /// Too long; the carry has its beginning if that is wanted.
    TooLong,
}

/// Counts of what was given out and what was not.
///
/// # Examples
///
/// ```
/// use plimsoll::{ByteSize, stream::{LineReader, Oversize}};
///
/// let input = &b"fits\nfar too long\n"[..];
/// let mut lines = LineReader::builder(ByteSize::bytes(4)).oversize(Oversize::Skip).build(input)?;
/// while lines.next_record()?.is_some() {}
/// let stats = lines.stats();
/// assert_eq!((stats.records, stats.skipped, stats.bytes_dropped), (1, 1, 12));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecordStats {
    /// Records given out, truncated ones included.
    pub records: u64,
    /// Records that were too long and given out in part.
    pub truncated: u64,
    /// Records that were too long, or cut off, and not given out: skipped, or answered with an error.
    pub skipped: u64,
    /// Bytes that stood before the ends of these records and were not given out, counted when the end is seen.
    pub bytes_dropped: u64,
    /// Whether the deadline had passed before the start, and was ignored.
    pub deadline_ignored: bool,
}

/// The state between two pieces, and inside one.
#[derive(Debug)]
pub(super) struct Records<F> {
    framing: F,
    oversize: Oversize,
    /// Most bytes of content.
    max: usize,
    /// Also where in the piece the next record begins, or the open one goes on.
    ends: Ends,
    carry: Carry,
    /// Bytes of the whole input before this piece.
    base: u64,
    /// How far into the piece stage one has looked; 0 also where the open record was not looked for yet.
    scanned: usize,
    /// Bytes of the open record in earlier pieces, its head included; 0 if none is open.
    open: u64,
    fate: Fate,
    /// Whether no piece will come.
    ended: bool,
    /// The number of the record before the first of `ends`.
    number: u64,
    truncated: u64,
    skipped: u64,
    bytes_dropped: u64,
}

impl<F: Framing> Records<F> {
    /// Whom the buffers are charged to.
    pub(super) fn charge(&self) -> Charge {
        self.carry.charge()
    }

    /// For an input whose first byte is byte `base` of the whole.
    pub(super) fn new(
        framing: F,
        max: ByteSize,
        oversize: Oversize,
        base: u64,
        charge: &Charge,
    ) -> Result<Self, BuildError> {
        let max = max.as_usize();
        let ends = Ends::new(framing.tail(), charge)?;
        let carry = Carry::new(max.saturating_add(framing.slack()), charge)?;
        Ok(Self {
            framing,
            oversize,
            max,
            ends,
            carry,
            base,
            scanned: 0,
            open: 0,
            fate: Fate::Fits,
            ended: false,
            number: 0,
            truncated: 0,
            skipped: 0,
            bytes_dropped: 0,
        })
    }

    /// The next record, if stage one has found it and it may be given out: the short way of [`step`](Self::step), which
    /// goes on where this says `None`. It minds only what stage one found in the piece, so `piece` may have more behind.
    #[inline]
    pub(super) fn quick(&mut self, piece: &[u8]) -> Option<Place> {
        let span = self.ends.peek(self.framing.tail())?;
        let start = span.start + self.framing.head();
        let content = self.framing.trimmed(piece.get(start..span.end)?);
        if content.len() > self.max {
            return None;
        }
        let end = start + content.len();
        let (offset, number) = (self.base.saturating_add(span.start as u64), self.next_number());
        self.ends.pop();
        Some(Place { carried: false, start, end, offset, number, truncated: false })
    }

    /// Gives out the records that [`quick`](Self::quick) would, for as long as `goes_on` says so and `take` does not break.
    /// In one loop, which keeps in registers what `quick` has to load and store for each.
    #[inline]
    pub(super) fn each<B>(
        &mut self,
        piece: &[u8],
        mut goes_on: impl FnMut() -> bool,
        mut take: impl FnMut(Record<&[u8]>) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let (head, tail) = (self.framing.head(), self.framing.tail());
        let mut start = self.ends.at(tail);
        let mut ends = self.ends.drain();
        while let Some(end) = ends.peek() {
            let Some(content) = piece.get(start + head..end) else { break };
            let content = self.framing.trimmed(content);
            if content.len() > self.max || !goes_on() {
                break;
            }
            ends.pop();
            let (offset, number) = (self.base.saturating_add(start as u64), self.number + ends.popped());
            start = end + tail;
            take(Record::new(content, offset, number, false))?;
        }
        ControlFlow::Continue(())
    }

    /// The next record of `piece`, which is the same until [`turn`](Self::turn).
    pub(super) fn step(&mut self, piece: &[u8]) -> Result<Step, StreamError> {
        loop {
            if let Some(place) = self.quick(piece) {
                return Ok(Step::Record(place));
            }
            if let Some(span) = self.ends.peek(self.framing.tail()) {
                let (offset, start) = (self.offset(), span.start + self.framing.head());
                self.ends.pop();
                let mut place =
                    Place { carried: false, start, end: start, offset, number: self.number(), truncated: false };
                if self.too_long(&mut place, (span.end - start) as u64, Fate::Fits)? {
                    return Ok(Step::Record(place));
                }
            } else if let Some(step) = self.look(piece)? {
                return Ok(step);
            }
        }
    }

    /// The bytes of the record that was carried last.
    pub(super) fn carried(&self) -> &[u8] {
        self.carry.bytes()
    }

    /// Takes the room for a record of any length that is allowed, so that none is refused it later.
    pub(super) fn reserve(&mut self) -> Result<(), BuildError> {
        Ok(self.carry.reserve()?)
    }

    /// Says that the piece, all of it stepped through, gives way to the next.
    pub(super) fn turn(&mut self, piece: &[u8]) {
        debug_assert_eq!(self.ends.at(self.framing.tail()), piece.len(), "turned before `More`");
        self.base = self.base.saturating_add(piece.len() as u64);
        self.go_to(0);
    }

    /// Says that there is no next piece.
    pub(super) fn end(&mut self) {
        self.ended = true;
    }

    /// Most bytes of a record.
    pub(super) const fn max(&self) -> usize {
        self.max
    }

    /// Whether all was given out.
    pub(super) fn is_done(&self) -> bool {
        self.ended && self.open == 0 && self.ends.peek(self.framing.tail()).is_none()
    }

    /// Where the record begins that comes next. All before it was given out, or dropped and counted.
    #[inline]
    pub(super) fn offset(&self) -> u64 {
        self.base.saturating_add(self.ends.at(self.framing.tail()) as u64) - self.open
    }

    /// The last record's number, given out or not.
    #[inline]
    fn number(&self) -> u64 {
        self.number + self.ends.popped()
    }

    /// The number of the record that comes next.
    #[inline]
    pub(super) fn next_number(&self) -> u64 {
        self.number() + 1
    }

    /// Bytes of the whole input up to where the next piece begins, once this one is done with.
    pub(super) fn taken(&self) -> u64 {
        self.base.saturating_add(self.ends.at(self.framing.tail()) as u64)
    }

    pub(super) fn stats(&self) -> RecordStats {
        let Self { truncated, skipped, bytes_dropped, .. } = *self;
        RecordStats { records: self.number() - skipped, truncated, skipped, bytes_dropped, deadline_ignored: false }
    }

    /// Stage one, and whatever has to do with an open record. `None` says that there are ends to hand out.
    #[inline(never)]
    fn look(&mut self, piece: &[u8]) -> Result<Option<Step>, StreamError> {
        loop {
            if self.open > 0 && self.scanned == 0 {
                match self.framing.close(piece, self.open) {
                    Some(close) => match self.complete(piece, &close)? {
                        Some(place) => return Ok(Some(Step::Record(place))),
                        None => continue,
                    },
                    None => return self.absorb(piece),
                }
            }
            let from = self.scanned;
            self.number = self.number();
            self.scanned = self.framing.find(piece, from, &mut self.ends);
            if self.ends.peek(self.framing.tail()).is_some() {
                return Ok(None);
            }
            if self.scanned == from || self.scanned == piece.len() {
                return self.absorb(piece);
            }
        }
    }

    /// Takes the rest of the piece, which does not end the record, into the carry.
    fn absorb(&mut self, piece: &[u8]) -> Result<Option<Step>, StreamError> {
        let rest = piece.get(self.ends.at(self.framing.tail())..).unwrap_or_default();
        if rest.is_empty() {
            return if self.ended { self.last().map(Some) } else { Ok(Some(Step::More)) };
        }
        self.keep(rest)?;
        let offset = self.offset();
        self.framing.note(rest);
        self.open += rest.len() as u64;
        self.go_to(piece.len());

        let least = self.content().saturating_sub(self.framing.slack() as u64);
        let least = least.max(self.framing.declared().unwrap_or(0));
        if self.fate == Fate::TooLong || least <= self.max as u64 {
            return Ok(Some(Step::More));
        }
        self.fate = Fate::TooLong;
        match self.oversize {
            Oversize::Truncate => self.carry.truncate(self.max),
            Oversize::Skip => self.carry.clear(),
            Oversize::Error => {
                self.carry.clear();
                return Err(self.oversized(offset, self.next_number(), least));
            }
        }
        Ok(Some(Step::More))
    }

    /// Ends the open record, whose end was found in `piece`. `None` if it is not given out.
    fn complete(&mut self, piece: &[u8], close: &Close) -> Result<Option<Place>, StreamError> {
        self.keep(piece.get(..close.end).unwrap_or_default())?;
        let (offset, fate) = (self.offset(), self.fate);
        let content = (self.open + close.end as u64).saturating_sub((self.framing.head() + close.back) as u64);
        self.go_to(close.next);
        self.close(content, offset, fate, true)
    }

    /// Ends the input, and with it the open record.
    fn last(&mut self) -> Result<Step, StreamError> {
        if self.open == 0 {
            return Ok(Step::End);
        }
        let (offset, content, fate) = (self.offset(), self.content(), self.fate);
        if !self.framing.ends_with_input() {
            self.shut();
            self.number += 1;
            self.skipped += 1;
            self.bytes_dropped += content;
            return Err(StreamError::CutOff { offset, number: self.number, end: self.taken() });
        }
        Ok(self.close(content, offset, fate, false)?.map_or(Step::End, Step::Record))
    }

    /// Gives out the open record, of so many bytes, if it may be.
    fn close(&mut self, content: u64, offset: u64, fate: Fate, trim: bool) -> Result<Option<Place>, StreamError> {
        self.shut();
        self.number += 1;
        let mut place = Place { carried: true, start: 0, end: 0, offset, number: self.number, truncated: false };
        if fate == Fate::Fits && content <= (self.max as u64).saturating_add(self.framing.slack() as u64) {
            // Part of a delimiter may lie behind the content.
            self.carry.truncate(usize::try_from(content).unwrap_or(usize::MAX));
            let content = self.carry.bytes();
            place.end = if trim { self.framing.trimmed(content).len() } else { content.len() };
            if place.end <= self.max {
                return Ok(Some(place));
            }
        }
        Ok(self.too_long(&mut place, content, fate)?.then_some(place))
    }

    /// Goes on at a place of the piece, of which no end is known.
    fn go_to(&mut self, at: usize) {
        self.number = self.number();
        self.ends.restart(at, self.framing.tail());
        self.scanned = at;
    }

    /// No record is open any more. What the carry holds stays until the next piece.
    fn shut(&mut self) {
        (self.open, self.fate) = (0, Fate::Fits);
        self.framing.forget();
    }

    /// Appends what is content of `more`, the next bytes of the open record, to the carry.
    fn keep(&mut self, more: &[u8]) -> Result<(), StreamError> {
        if self.open == 0 {
            self.carry.clear();
        }
        let head = (self.framing.head() as u64).saturating_sub(self.open);
        let content = usize::try_from(head).ok().and_then(|head| more.get(head..)).unwrap_or_default();
        // A length in front tells that the record is too long before its beginning, which may be wanted, is there.
        let wanted = self.fate == Fate::Fits || self.oversize == Oversize::Truncate;
        if content.is_empty() || !wanted {
            return Ok(());
        }
        let appended = self.carry.append(content);
        let appended = appended.map_err(|why| StreamError::no_room(self.offset(), self.next_number(), why));
        if self.fate == Fate::TooLong {
            self.carry.truncate(self.max);
        }
        appended
    }

    /// Bytes of content of the open record in the pieces done with; of its delimiter too, while it is not known as one.
    fn content(&self) -> u64 {
        self.open.saturating_sub(self.framing.head() as u64)
    }

    /// Does with a record of `content` bytes what is to be done when it is too long; tells whether it is given out.
    #[cold]
    fn too_long(&mut self, place: &mut Place, content: u64, fate: Fate) -> Result<bool, StreamError> {
        if self.oversize == Oversize::Truncate {
            place.end = place.start + self.max;
            place.truncated = true;
            self.truncated += 1;
            self.bytes_dropped += content - self.max as u64;
            return Ok(true);
        }
        self.skipped += 1;
        self.bytes_dropped += content;
        // An open record's error was given when it became too long.
        match (self.oversize, fate) {
            (Oversize::Error, Fate::Fits) => Err(self.oversized(place.offset, place.number, content)),
            _ => Ok(false),
        }
    }

    fn oversized(&self, offset: u64, number: u64, at_least: u64) -> StreamError {
        let (at_least, limit) = (ByteSize::bytes(at_least), ByteSize::bytes(self.max as u64));
        StreamError::Oversize { offset, number, at_least, limit }
    }
}
