//! The one loop behind all faces: records out of the core, pieces into it.

use std::io;
use std::ops::ControlFlow;
use std::task::{Context, Poll, ready};

use super::charge::Charge;
use super::error::{BuildError, StreamError};
use super::framing::Framing;
use super::record::{Cutter, Record};
use super::records::{Place, RecordStats, Step};
use super::watch::Deadline;

/// Where pieces come from.
pub(super) trait Input {
    /// Whether `Interrupted` says no more than that it is to be asked again.
    const ASKED_AGAIN: bool;

    /// The piece at hand. Behind it there may be more bytes, of no meaning, in [`all`](Self::all).
    fn piece(&self) -> &[u8];

    /// The buffer that the piece is the front of. Cheaper to ask for.
    #[inline]
    fn all(&self) -> &[u8] {
        self.piece()
    }

    /// Gives the piece up for the next, which is empty at the end of the input and after an error. An input that blocks
    /// is always ready.
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>>;
}

/// An input being cut.
#[derive(Debug)]
pub(super) struct Driver<I, F> {
    pub(super) input: I,
    cutter: Cutter<F>,
}

impl<I, F: Framing> Driver<I, F> {
    pub(super) const fn new(input: I, cutter: Cutter<F>) -> Self {
        Self { input, cutter }
    }

    pub(super) fn charge(&self) -> Charge {
        self.cutter.charge()
    }

    /// Takes the room that the longest record needs.
    pub(super) fn reserve(&mut self) -> Result<(), BuildError> {
        self.cutter.reserve()
    }

    pub(super) fn deadline(&self) -> Deadline {
        self.cutter.deadline()
    }

    pub(super) const fn max(&self) -> usize {
        self.cutter.max()
    }

    pub(super) fn offset(&self) -> u64 {
        self.cutter.offset()
    }

    pub(super) fn stats(&self) -> RecordStats {
        self.cutter.stats()
    }
}

impl<I: Input, F: Framing> Driver<I, F> {
    /// Where the next record lies, if that needs no more than a look; else [`poll`](Self::poll) is to be asked.
    #[inline]
    pub(super) fn quick(&mut self) -> Result<Option<Place>, StreamError> {
        self.cutter.check()?;
        Ok(self.cutter.quick(self.input.all()))
    }

    /// Gives out the records that need no more than a look.
    #[inline]
    pub(super) fn each<B>(&mut self, take: impl FnMut(Record<&[u8]>) -> ControlFlow<B>) -> ControlFlow<B> {
        let Self { input, cutter } = self;
        cutter.each(input.all(), take)
    }

    /// Where the next record lies, however many pieces that takes. Nothing is lost where the caller polls no more.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Place>, StreamError>> {
        loop {
            match self.cutter.step(self.input.piece())? {
                Step::Record(place) => return Poll::Ready(Ok(Some(place))),
                Step::End => return Poll::Ready(Ok(None)),
                Step::More => {}
            }
            // What is at hand is taken from the core's books before it goes, so that a call after an error, or after a
            // future that was dropped, finds an empty piece and asks again.
            self.cutter.turn(self.input.piece())?;
            let next = loop {
                match self.input.poll_next(context) {
                    // A look at the deadline in between: an input may go on like this for long.
                    Poll::Ready(Err(error)) if I::ASKED_AGAIN && error.kind() == io::ErrorKind::Interrupted => {
                        self.cutter.check()?;
                    }
                    next => break next,
                }
            };
            debug_assert!(next.is_ready() || self.input.piece().is_empty(), "a piece that was turned stayed");
            ready!(next).map_err(|source| self.cutter.failed(source))?;
            if self.input.piece().is_empty() {
                self.cutter.end();
            }
        }
    }

    /// The record of a place that `quick` told.
    #[inline]
    pub(super) fn here(&self, place: &Place) -> Record<&[u8]> {
        place.record(self.input.all())
    }

    /// The record of a place that `poll` told.
    pub(super) fn record(&self, place: &Place) -> Record<&[u8]> {
        place.record(if place.carried { self.cutter.carried() } else { self.input.piece() })
    }
}
