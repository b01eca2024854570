//! Records out of `AsyncRead` and out of streams of `Bytes`, against the twin; each future is dropped whenever it waits.

#![cfg(feature = "tokio")]
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

#[path = "support/stream.rs"]
mod support;

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_core::Stream;
use plimsoll::ByteSize;
use plimsoll::clock::ManualClock;
use plimsoll::stream::{Framing, LineReader, RecordReader, RecordStats, StreamError};
use support::{Case, Pieces, Said, all_said, assert_twin, bytes, cases, with_framing};
use tokio::io::{AsyncRead, ReadBuf};

const CASES: u64 = 24_000;

/// An input that is not always ready.
struct Waits<'a>(Pieces<'a>);

impl AsyncRead for Waits<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.0.random.one_in(3) {
            return Poll::Pending;
        }
        let piece = self.0.next(buffer.remaining())?;
        buffer.put_slice(piece);
        Poll::Ready(Ok(()))
    }
}

impl Stream for Waits<'_> {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.0.random.below(6) {
            0 => return Poll::Pending,
            1 => return Poll::Ready(Some(Ok(Bytes::new()))),
            _ => {}
        }
        Poll::Ready(match self.0.next(usize::MAX) {
            Ok([]) => None,
            Ok(piece) => Some(Ok(Bytes::copy_from_slice(piece))),
            // An error with nothing behind it would be a stream that broke off: that has a test of its own.
            Err(_) if self.0.rest.is_empty() => None,
            Err(error) => Some(Err(error)),
        })
    }
}

/// What the future answers at once; `None` if it would wait. Then it is dropped.
fn once<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => None,
    }
}

fn read<F: Framing>(framing: F, case: &Case, seed: u64) -> (Vec<Said>, RecordStats) {
    let builder = RecordReader::framed(framing, bytes(case.max)).oversize(case.oversize).chunk(bytes(case.chunk));
    let mut reader = builder.build_async(Waits(Pieces::new(&case.input, seed))).unwrap();
    let said = all_said(|| {
        loop {
            if let Some(record) = once(reader.next_record()) {
                return Ok(record?.map(Said::from));
            }
        }
    });
    assert_eq!(reader.offset(), case.input.len() as u64);
    (said, reader.stats())
}

fn stream<F: Framing>(framing: F, case: &Case, seed: u64) -> (Vec<Said>, RecordStats) {
    let builder = RecordReader::framed(framing, bytes(case.max)).oversize(case.oversize);
    let mut reader = builder.build_stream(Waits(Pieces::new(&case.input, seed))).unwrap();
    let mut count = 0;
    let said = all_said(|| {
        count += 1;
        loop {
            let said = if count % 2 == 0 {
                once(reader.next_record()).map(|record| record.map(|record| record.map(Said::from)))
            } else {
                once(reader.next_owned()).map(|record| record.map(|record| record.map(Said::from)))
            };
            if let Some(said) = said {
                return said;
            }
        }
    });
    assert_eq!(reader.offset(), case.input.len() as u64);
    (said, reader.stats())
}

#[test]
fn an_async_read_says_what_the_twin_says() {
    for seed in 0..cases(CASES) {
        let case = Case::random(seed);
        assert_twin(seed, &case, &with_framing!(case, read, &case, seed));
    }
}

#[test]
fn a_stream_of_bytes_says_what_the_twin_says() {
    for seed in 0..cases(CASES) {
        let case = Case::random(seed);
        assert_twin(seed, &case, &with_framing!(case, stream, &case, seed));
    }
}

/// A stream of what is given, then of nothing; polled again, it panics.
struct Items<E>(Vec<Option<Result<Bytes, E>>>);

impl<E: Unpin> Stream for Items<E> {
    type Item = Result<Bytes, E>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.0.remove(0))
    }
}

#[test]
fn whole_records_are_slices_of_their_item_and_others_are_copies() {
    let items = [Bytes::from("one\ntw"), Bytes::from("o\nthree\nfo"), Bytes::from("ur")];
    let stream = Items(items.iter().cloned().map(|item| Some(Ok::<_, io::Error>(item))).chain([None]).collect());
    let mut lines = LineReader::builder(ByteSize::kib(1)).build_stream(stream).unwrap();
    let kept: Vec<Bytes> = std::iter::from_fn(|| once(lines.next_owned()).unwrap().unwrap())
        .map(plimsoll::stream::Record::into_bytes)
        .collect();
    assert_eq!(kept, ["one", "two", "three", "four"]);
    let lies_in = |line: &Bytes| items.iter().any(|item| item.as_ptr_range().contains(&line.as_ptr()));
    assert_eq!(kept.iter().map(lies_in).collect::<Vec<_>>(), [true, false, true, false]);
    assert!(once(lines.next_record()).unwrap().unwrap().is_none(), "an ended stream is not polled");
}

#[test]
fn an_error_of_any_kind_is_kept_as_the_source() {
    #[derive(Debug, thiserror::Error)]
    #[error("the connection went away")]
    struct Gone;
    let stream = Items(vec![Some(Ok(Bytes::from("one\nt"))), Some(Err(Gone)), Some(Ok(Bytes::from("wo"))), None]);
    let mut lines = LineReader::builder(ByteSize::kib(1)).build_stream(stream).unwrap();
    let mut next = || once(lines.next_record()).unwrap().map(|line| line.map(|line| line.to_vec()));
    assert_eq!(next().unwrap().unwrap(), b"one");
    let StreamError::Read { offset: 5, number: 2, source, .. } = next().unwrap_err() else { panic!() };
    assert!(source.get_ref().unwrap().downcast_ref::<Gone>().is_some());
    assert_eq!(next().unwrap().unwrap(), b"two", "nothing that came before was lost");
    assert_eq!(next().unwrap(), None);
}

#[test]
fn a_stream_that_breaks_off_is_not_taken_for_whole() {
    for kind in [io::ErrorKind::Interrupted, io::ErrorKind::TimedOut, io::ErrorKind::ConnectionReset] {
        let items = vec![Some(Ok(Bytes::from("one\n{\"amount\": 12"))), Some(Err(io::Error::from(kind))), None];
        let mut lines = LineReader::builder(ByteSize::kib(1)).build_stream(Items(items)).unwrap();
        let mut next = || once(lines.next_record()).unwrap().map(|line| line.map(|line| line.to_vec()));
        assert_eq!(next().unwrap().unwrap(), b"one");
        let StreamError::Read { source, .. } = next().unwrap_err() else { panic!("{kind}") };
        assert_eq!(source.kind(), kind);
        for _ in 0..3 {
            let error = next().unwrap_err();
            let StreamError::Read { offset: 17, number: 2, ref source, .. } = error else { panic!("{kind}: {error}") };
            assert_eq!(source.kind(), io::ErrorKind::UnexpectedEof);
            assert!(!error.is_transient(), "who goes on after what passes must not go on after this");
        }
    }
}

#[test]
fn the_deadline_stops_an_async_read_that_is_interrupted_for_ever() {
    struct Interrupted(ManualClock);
    impl AsyncRead for Interrupted {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            self.0.advance(Duration::from_secs(1));
            Poll::Ready(Err(io::ErrorKind::Interrupted.into()))
        }
    }
    let manual = ManualClock::new();
    let deadline = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_060);
    let builder = LineReader::builder(ByteSize::kib(1)).deadline(deadline).clock(manual.clock());
    let mut lines = builder.build_async(Interrupted(manual)).unwrap();
    let error = once(lines.next_record()).unwrap().unwrap_err();
    assert!(matches!(error, StreamError::Deadline { resume_at: 0, number: 1, .. }), "{error}");
}
