//! Records out of a `Read`, against a twin that sees the whole input; and what the reader says of itself.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test stops at the first surprise")]

#[path = "support/stream.rs"]
mod support;

use std::collections::VecDeque;
use std::io::{self, Cursor, Read};
use std::ops::ControlFlow::{Break, Continue};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use plimsoll::ByteSize;
use plimsoll::clock::{Clock, ManualClock};
use plimsoll::stream::{
    BuildError, Delimiter, Framing, LengthPrefix, LineReader, Oversize, RecordReader, RecordStats, StreamError,
};
use support::{Case, Pieces, Random, Said, all_said, assert_twin, bytes, cases, with_framing};

const CASES: u64 = 24_000;

fn read<F: Framing>(framing: F, case: &Case, seed: u64) -> (Vec<Said>, RecordStats) {
    let builder = RecordReader::framed(framing, bytes(case.max)).oversize(case.oversize).chunk(bytes(case.chunk));
    let mut reader = builder.build(Pieces::new(&case.input, seed)).unwrap();
    let said = all_said(|| {
        let before = reader.offset();
        let record = reader.next_record()?;
        assert!(record.is_none_or(|record| record.offset() >= before));
        Ok(record.map(Said::from))
    });
    assert_eq!(reader.offset(), case.input.len() as u64);
    (said, reader.stats())
}

/// All at once, but for breaks and single records in between.
fn for_each<F: Framing>(framing: F, case: &Case, seed: u64) -> (Vec<Said>, RecordStats) {
    let builder = RecordReader::framed(framing, bytes(case.max)).oversize(case.oversize).chunk(bytes(case.chunk));
    let mut reader = builder.build(Pieces::new(&case.input, seed)).unwrap();
    let (mut random, mut given, mut ended) = (Random::new(!seed), VecDeque::new(), Ok(Break(())));
    let said = all_said(|| {
        while given.is_empty() {
            if let Continue(()) = std::mem::replace(&mut ended, Ok(Break(())))? {
                return Ok(None);
            }
            if random.one_in(4) {
                return Ok(reader.next_record()?.map(Said::from));
            }
            let most = random.below(6);
            ended = reader.for_each_record(|record| {
                given.push_back(Said::from(record));
                if given.len() > most { Break(()) } else { Continue(()) }
            });
        }
        Ok(given.pop_front())
    });
    assert_eq!(reader.offset(), case.input.len() as u64);
    (said, reader.stats())
}

#[test]
fn for_each_says_what_the_twin_says() {
    for seed in 0..cases(CASES) {
        let case = Case::random(seed);
        assert_twin(seed, &case, &with_framing!(case, for_each, &case, seed));
    }
}

#[test]
fn for_each_goes_on_behind_the_record_that_a_panic_or_an_error_came_at() {
    let input = b"one\ntwo\nfar too long\nthree\nfour";
    let mut lines = LineReader::builder(bytes(5)).build(&input[..]).unwrap();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        lines.for_each_record(|line| {
            if line.number() == 1 { Continue::<()>(()) } else { std::panic::resume_unwind(Box::new(())) }
        })
    }));
    assert!(panicked.is_err());
    assert_eq!((lines.offset(), lines.stats().records), (8, 2), "the second was given");
    let mut given = Vec::new();
    let mut each = || {
        lines.for_each_record(|line| {
            given.push((line.offset(), line.to_vec()));
            Continue::<()>(())
        })
    };
    assert!(matches!(each(), Err(StreamError::Oversize { offset: 8, number: 3, .. })));
    assert_eq!(each().unwrap(), Continue(()));
    assert_eq!(given, [(21, b"three".to_vec()), (27, b"four".to_vec())]);
    assert_eq!(lines.next_record().unwrap(), None);
}

#[test]
fn the_deadline_stops_for_each_between_records() {
    let manual = ManualClock::new();
    let (clock, at) = deadline(&manual, Duration::from_mins(1));
    let input = b"x\n".repeat(1000);
    let mut lines = LineReader::builder(ByteSize::kib(1)).deadline(at).clock(clock).build(&input[..]).unwrap();
    let error = lines.for_each_record(|_| {
        manual.advance(Duration::from_secs(1));
        Continue::<()>(())
    });
    assert!(matches!(error, Err(StreamError::Deadline { resume_at: 120, number: 61, .. })), "{error:?}");
}

#[test]
fn every_framing_says_what_the_twin_says_whatever_the_pieces() {
    for seed in 0..cases(CASES) {
        let case = Case::random(seed);
        assert_twin(seed, &case, &with_framing!(case, read, &case, seed));
    }
}

/// Where a reader stands after `stop` answers, and what one from there says.
fn resumed<F: Framing + Clone>(framing: F, case: &Case, stop: usize) -> (u64, Vec<Said>) {
    let builder =
        |framing| RecordReader::framed(framing, bytes(case.max)).oversize(case.oversize).chunk(bytes(case.chunk));
    let mut reader = builder(framing.clone()).build(&case.input[..]).unwrap();
    (0..stop).for_each(|_| drop(reader.next_record()));
    let offset = reader.offset();
    let rest = &case.input[usize::try_from(offset).unwrap()..];
    let mut reader = builder(framing).resume_at(offset).build(rest).unwrap();
    (offset, all_said(|| Ok(reader.next_record()?.map(Said::from))))
}

#[test]
fn reading_resumes_after_any_record_and_gives_the_rest() {
    let offset_of = |said: &Said| match *said {
        Said::Record { offset, .. } | Said::Oversize { offset, .. } | Said::CutOff { offset, .. } => offset,
    };
    for seed in 0..cases(CASES / 8) {
        let case = Case::random(seed);
        let (all, _) = with_framing!(case, read, &case, seed);
        for stop in 0..all.len().min(20) {
            let (offset, rest) = with_framing!(case, resumed, &case, stop);
            // A record that was too long before its end was seen is the one to go on with.
            let again = stop > 0 && matches!(all[stop - 1], Said::Oversize { offset: at, .. } if at == offset);
            let expected = all[stop - usize::from(again)..].iter().map(offset_of);
            assert!(
                rest.iter().map(offset_of).eq(expected),
                "seed {seed}, {case:?}, after {stop}, at {offset}: {rest:?}"
            );
        }
    }
}

#[test]
fn an_endless_line_is_told_of_before_it_ends() {
    let mut lines = LineReader::builder(ByteSize::kib(64)).chunk(ByteSize::kib(4)).build(io::repeat(b'x')).unwrap();
    let error = lines.next_record().unwrap_err();
    let StreamError::Oversize { offset: 0, number: 1, at_least, limit, .. } = error else { panic!("{error}") };
    assert!(limit == ByteSize::kib(64) && at_least > limit && at_least < ByteSize::kib(70), "{error}");
    assert_eq!(error.to_string(), "record 1, which begins at byte 0, is longer than 64.0 KiB: 68.0 KiB at least");
}

#[test]
fn a_limit_of_zero_lets_empty_records_pass() {
    let mut lines = LineReader::builder(ByteSize::ZERO).oversize(Oversize::Skip).build(&b"\n\r\na\n\n"[..]).unwrap();
    let mut offsets = Vec::new();
    while let Some(line) = lines.next_record().unwrap() {
        assert!(line.is_empty());
        offsets.push((line.number(), line.offset()));
    }
    assert_eq!(offsets, [(1, 0), (2, 1), (4, 5)]);
    assert_eq!(lines.stats().bytes_dropped, 1);
}

#[test]
fn bytes_are_not_text() {
    let input = b"\xff\xfe\0\0\xc3\r\xe2\x82\r\n\0\n";
    let mut lines = LineReader::builder(ByteSize::kib(1)).build(&input[..]).unwrap();
    assert_eq!(*lines.next_record().unwrap().unwrap(), input[..8]);
    assert_eq!(*lines.next_record().unwrap().unwrap(), [0]);
    assert_eq!(lines.next_record().unwrap(), None);
}

#[test]
fn settings_that_cannot_be_are_refused() {
    let builder = || LineReader::builder(ByteSize::kib(1));
    assert!(matches!(builder().chunk(ByteSize::ZERO).build(io::empty()), Err(BuildError::EmptyChunk)));
    assert!(Delimiter::string(b"").is_none());
    assert!(Delimiter::string(&[7; Delimiter::MAX_LEN]).is_some());
    assert!(Delimiter::string(&[7; Delimiter::MAX_LEN + 1]).is_none());
    // No limit but memory, and no arithmetic that minds.
    let mut lines = LineReader::builder(ByteSize::MAX).resume_at(u64::MAX - 100).build(&b"one\ntwo"[..]).unwrap();
    assert_eq!(lines.next_record().unwrap().unwrap().offset(), u64::MAX - 100);
    assert_eq!(lines.next_record().unwrap().unwrap().offset(), u64::MAX - 96);
    let mut records =
        RecordReader::framed(LengthPrefix::big_endian(), ByteSize::MAX).build(&b"\xff\xff\xff\xff"[..]).unwrap();
    assert!(matches!(records.next_record(), Err(StreamError::CutOff { offset: 0, number: 1, end: 4, .. })));
    assert!(records.next_record().unwrap().is_none());
}

#[test]
fn a_reader_that_claims_too_much_is_an_error() {
    struct Liar;
    impl Read for Liar {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            Ok(buffer.len() + 1)
        }
    }
    let mut lines = LineReader::builder(ByteSize::kib(1)).build(Liar).unwrap();
    assert!(matches!(lines.next_record(), Err(StreamError::Read { offset: 0, number: 1, .. })));
}

/// A clock with a deadline on its wall, which is the system's.
fn deadline(clock: &ManualClock, after: Duration) -> (Clock, SystemTime) {
    const WALL: Duration = Duration::from_secs(1_700_000_000);
    (clock.clock(), SystemTime::UNIX_EPOCH + WALL + after)
}

#[test]
fn the_deadline_stops_between_records_and_says_where_to_resume() {
    let manual = ManualClock::new();
    let (clock, at) = deadline(&manual, Duration::from_mins(1));
    let input = b"one\ntwo\nthree\n";
    let mut lines = LineReader::builder(ByteSize::kib(1)).deadline(at).clock(clock).build(&input[..]).unwrap();
    assert_eq!(*lines.next_record().unwrap().unwrap(), *b"one");
    manual.advance(Duration::from_millis(59_990));
    assert_eq!(*lines.next_record().unwrap().unwrap(), *b"two");
    manual.advance(Duration::from_millis(10));
    let error = lines.next_record().unwrap_err();
    assert!(matches!(error, StreamError::Deadline { resume_at: 8, number: 3, .. }), "{error}");
    assert!(lines.next_record().is_err(), "and again");
    assert!(!lines.stats().deadline_ignored);
    let mut rest = LineReader::builder(ByteSize::kib(1)).resume_at(8).build(&input[8..]).unwrap();
    let record = rest.next_record().unwrap().unwrap();
    assert_eq!((record.offset(), record.into_bytes()), (8, &b"three"[..]));
}

#[test]
fn the_deadline_stops_inside_a_record_that_is_passed_over() {
    struct Slow(ManualClock);
    impl Read for Slow {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.advance(Duration::from_secs(1));
            buffer.fill(b'x');
            Ok(buffer.len())
        }
    }
    let manual = ManualClock::new();
    let (clock, at) = deadline(&manual, Duration::from_mins(1));
    let builder = LineReader::builder(ByteSize::kib(1)).oversize(Oversize::Skip).deadline(at).clock(clock);
    let mut lines = builder.build(Slow(manual)).unwrap();
    assert!(matches!(lines.next_record(), Err(StreamError::Deadline { resume_at: 0, number: 1, .. })));
}

#[test]
fn a_deadline_in_the_past_is_ignored_and_said() {
    for at in [SystemTime::UNIX_EPOCH, deadline(&ManualClock::new(), Duration::ZERO).1] {
        let builder = LineReader::builder(ByteSize::kib(1)).deadline(at).clock(ManualClock::new().clock());
        let mut lines = builder.build(&b"one\n"[..]).unwrap();
        assert!(lines.next_record().unwrap().is_some());
        assert!(lines.stats().deadline_ignored);
    }
}

#[test]
fn a_deadline_that_passes_at_the_end_takes_nothing_away() {
    let manual = ManualClock::new();
    let (clock, at) = deadline(&manual, Duration::from_mins(1));
    let mut lines = LineReader::builder(ByteSize::kib(1)).deadline(at).clock(clock).build(&b"one\n"[..]).unwrap();
    assert!(lines.next_record().unwrap().is_some());
    assert!(lines.next_record().unwrap().is_none());
    manual.advance(Duration::from_hours(1));
    assert!(lines.next_record().unwrap().is_none());
}

#[test]
fn progress_is_told_once_for_each_step_and_chunk() {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let listener = Arc::clone(&heard);
    let builder = LineReader::builder(ByteSize::kib(1)).chunk(ByteSize::bytes(40)).resume_at(1000);
    let builder = builder.on_progress(ByteSize::bytes(100), move |progress| {
        listener.lock().unwrap().push((progress.offset, progress.next_number));
    });
    let mut lines = builder.build(Cursor::new(b"123456789\n".repeat(50))).unwrap();
    while lines.next_record().unwrap().is_some() {}
    assert_eq!(*heard.lock().unwrap(), [(1120, 13), (1200, 21), (1320, 33), (1400, 41), (1500, 51)]);
}

#[test]
fn a_chunk_that_is_begun_hears_of_the_deadline() {
    struct Slow(u8);
    impl Read for Slow {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0 += 1;
            if self.0 > 1 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            buffer[0] = 7;
            Ok(1)
        }
    }
    let manual = ManualClock::new();
    let deadline = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_060);
    let builder = plimsoll::stream::ChunkReader::builder(bytes(100)).deadline(deadline).clock(manual.clock());
    let mut chunks = builder.resume_at(u64::MAX).build(Slow(0)).unwrap();
    assert!(chunks.next_chunk().unwrap_err().is_transient());
    manual.advance(Duration::from_hours(1));
    assert!(matches!(chunks.next_chunk(), Err(StreamError::Deadline { resume_at: u64::MAX, number: 1, .. })));
}

#[test]
fn the_deadline_stops_an_input_that_is_interrupted_for_ever() {
    struct Interrupted<'a>(&'a ManualClock);
    impl Read for Interrupted<'_> {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            self.0.advance(Duration::from_secs(1));
            Err(io::ErrorKind::Interrupted.into())
        }
    }
    let manual = ManualClock::new();
    let (clock, at) = deadline(&manual, Duration::from_mins(1));
    let input = b"one\ntw".chain(Interrupted(&manual));
    let mut lines = LineReader::builder(ByteSize::kib(1)).deadline(at).clock(clock).build(input).unwrap();
    assert_eq!(lines.next_record().unwrap().as_deref(), Some(&b"one"[..]));
    let error = lines.next_record().unwrap_err();
    assert!(matches!(error, StreamError::Deadline { resume_at: 4, number: 2, .. }), "{error}");
}
