//! What the tests of streams share: a twin that has the whole input before it, and inputs that come in pieces.

#![allow(dead_code, unreachable_pub, reason = "each test binary includes this file and uses its own part")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test stops at the first surprise"
)]

mod cases;
mod random;

use std::io::{self, ErrorKind, Read};
use std::ops::Deref;

pub use cases::cases;
use plimsoll::ByteSize;
use plimsoll::stream::{Oversize, Record, RecordStats, StreamError};
pub use random::Random;

/// How the twin tells records apart.
#[derive(Clone, Debug)]
pub enum Cut {
    Lines,
    Delimiter(Vec<u8>),
    Length { big: bool },
}

/// What a reader says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    Record { offset: u64, number: u64, bytes: Vec<u8>, truncated: bool },
    Oversize { offset: u64, number: u64 },
    CutOff { offset: u64, number: u64, end: u64 },
}

impl<B: Deref<Target = [u8]>> From<Record<B>> for Said {
    fn from(record: Record<B>) -> Self {
        let (offset, number, truncated) = (record.offset(), record.number(), record.is_truncated());
        Self::Record { offset, number, bytes: record.to_vec(), truncated }
    }
}

/// An error that is part of the answer, or `None` for one that the input invented.
pub fn said(error: &StreamError) -> Option<Said> {
    match *error {
        StreamError::Oversize { offset, number, .. } => Some(Said::Oversize { offset, number }),
        StreamError::CutOff { offset, number, end, .. } => Some(Said::CutOff { offset, number, end }),
        StreamError::Read { .. } => {
            assert!(error.is_transient(), "{error}");
            None
        }
        _ => panic!("{error}"),
    }
}

/// A case: what is read, and how.
#[derive(Clone, Debug)]
pub struct Case {
    pub cut: Cut,
    pub input: Vec<u8>,
    pub max: usize,
    pub oversize: Oversize,
    pub chunk: usize,
}

impl Case {
    pub fn random(seed: u64) -> Self {
        let random = &mut Random::new(seed);
        let cut = match random.below(8) {
            0..3 => Cut::Lines,
            3 => Cut::Delimiter(vec![[0, b'\n', b'a', 0xff][random.below(4)]]),
            4 => Cut::Delimiter((0..2 + random.below(4)).map(|_| b'a' + random.below(2) as u8).collect()),
            5 => Cut::Delimiter(b"\r\n--a".repeat(1 + random.below(25))),
            other => Cut::Length { big: other == 6 },
        };
        let oversize = [Oversize::Error, Oversize::Truncate, Oversize::Skip][random.below(3)];
        // Some are longer than the windows of stage one, and hold more ends than it has room for.
        let len = if random.one_in(60) { random.below(60_000) } else { random.below(400) };
        let input = input(&cut, len, random);
        let max = if random.one_in(3) { 1000 } else { random.below(40) };
        let chunk = [1 + random.below(5), 1 + random.below(100), 70_000][random.below(3)];
        Self { cut, input, max, oversize, chunk }
    }

    /// All that a reader may say of the case, in order, and its counts at the end.
    pub fn twin(&self) -> (Vec<Said>, RecordStats) {
        let mut twin = Twin { max: self.max, oversize: self.oversize, said: Vec::new(), stats: RecordStats::default() };
        match &self.cut {
            Cut::Lines => twin.delimited(&self.input, b"\n", true),
            Cut::Delimiter(delimiter) => twin.delimited(&self.input, delimiter, false),
            Cut::Length { big } => twin.prefixed(&self.input, *big),
        }
        (twin.said, twin.stats)
    }
}

fn input(cut: &Cut, len: usize, random: &mut Random) -> Vec<u8> {
    let density = 1 + [2, 8, 40, 300][random.below(4)];
    let mut input = Vec::new();
    while input.len() < len {
        let rare = random.one_in(density);
        match cut {
            Cut::Lines if rare => input.extend([&b"\n"[..], b"\r\n", b"\r", b"\n\n"][random.below(4)]),
            Cut::Delimiter(delimiter) if rare => {
                // Often only a part of it, also right before it.
                let part = random.below(delimiter.len());
                if random.one_in(2) {
                    input.extend(&delimiter[..part]);
                } else {
                    input.extend(&delimiter[part..]);
                }
                if random.one_in(2) {
                    input.extend(delimiter);
                }
            }
            Cut::Length { big } => {
                let length = if random.one_in(30) { random.below(usize::MAX) } else { random.below(50) } as u32;
                input.extend(if *big { length.to_be_bytes() } else { length.to_le_bytes() });
                input.extend((0..length.min(200)).map(|_| random.below(256) as u8));
            }
            _ => input.push([b'a', b'b', 0, 0xff, b'x'][random.below(5)]),
        }
    }
    input.truncate(len);
    input
}

struct Twin {
    max: usize,
    oversize: Oversize,
    said: Vec<Said>,
    stats: RecordStats,
}

impl Twin {
    fn delimited(&mut self, input: &[u8], delimiter: &[u8], lines: bool) {
        let mut at = 0;
        while at < input.len() {
            let rest = &input[at..];
            let end = rest.windows(delimiter.len()).position(|window| window == delimiter);
            let raw = &rest[..end.unwrap_or(rest.len())];
            let trimmed = if lines && end.is_some() { raw.strip_suffix(b"\r").unwrap_or(raw) } else { raw };
            self.record(at as u64, raw.len(), trimmed);
            at += raw.len() + end.map_or(0, |_| delimiter.len());
        }
    }

    fn prefixed(&mut self, input: &[u8], big: bool) {
        let mut at = 0;
        while at < input.len() {
            let (offset, end) = (at as u64, input.len() as u64);
            let head: Option<[u8; 4]> = input[at..].first_chunk().copied();
            let length =
                head.map(|head| if big { u32::from_be_bytes(head) } else { u32::from_le_bytes(head) } as usize);
            let number = self.number() + 1;
            if let Some(content) = length.and_then(|length| input.get(at + 4..at + 4 + length)) {
                self.record(offset, content.len(), content);
                at += 4 + content.len();
                continue;
            }
            if length.is_some_and(|length| length > self.max) && self.oversize == Oversize::Error {
                self.said.push(Said::Oversize { offset, number });
            }
            self.said.push(Said::CutOff { offset, number, end });
            self.stats.skipped += 1;
            self.stats.bytes_dropped += (input.len() - at).saturating_sub(4) as u64;
            at = input.len();
        }
    }

    fn number(&self) -> u64 {
        self.stats.records + self.stats.skipped
    }

    fn record(&mut self, offset: u64, raw: usize, content: &[u8]) {
        let number = self.number() + 1;
        let mut record = |bytes: &[u8], truncated| {
            self.said.push(Said::Record { offset, number, bytes: bytes.to_vec(), truncated });
            self.stats.records += 1;
        };
        if content.len() <= self.max {
            return record(content, false);
        }
        if self.oversize == Oversize::Truncate {
            record(&content[..self.max], true);
            self.stats.truncated += 1;
            self.stats.bytes_dropped += (raw - self.max) as u64;
            return;
        }
        if self.oversize == Oversize::Error {
            self.said.push(Said::Oversize { offset, number });
        }
        self.stats.skipped += 1;
        self.stats.bytes_dropped += raw as u64;
    }
}

/// Gives its bytes in pieces of random length, and now and then an error that costs nothing.
pub struct Pieces<'a> {
    pub rest: &'a [u8],
    pub random: Random,
    /// The longest piece.
    pub most: usize,
}

impl<'a> Pieces<'a> {
    pub fn new(input: &'a [u8], seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x5eed);
        let most = [1, 10, 100, 100_000][random.below(4)];
        Self { rest: input, random, most }
    }

    /// The next piece, of at most `room` bytes; empty at the end.
    pub fn next(&mut self, room: usize) -> io::Result<&'a [u8]> {
        match self.random.below(12) {
            0 => return Err(ErrorKind::Interrupted.into()),
            1 => return Err(ErrorKind::WouldBlock.into()),
            2 => return Err(ErrorKind::TimedOut.into()),
            _ => {}
        }
        let len = (1 + self.random.below(self.most)).min(room).min(self.rest.len());
        let (piece, rest) = self.rest.split_at(len);
        self.rest = rest;
        Ok(piece)
    }
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let piece = self.next(buffer.len())?;
        buffer[..piece.len()].copy_from_slice(piece);
        Ok(piece.len())
    }
}

/// What one reader said of a case. `next` answers `None` at the end; its errors are the input's, or part of the answer.
pub fn all_said(mut next: impl FnMut() -> Result<Option<Said>, StreamError>) -> Vec<Said> {
    let mut all = Vec::new();
    loop {
        match next() {
            Ok(Some(record)) => all.push(record),
            Ok(None) => break,
            Err(error) => all.extend(said(&error)),
        }
    }
    assert_eq!(next().unwrap(), None, "the end stays the end");
    all
}

/// Runs one face, given as a generic function, with the framing of the case.
#[allow(unused_macros, reason = "each test binary uses its own part")]
macro_rules! with_framing {
    ($case:expr, $face:ident $(, $argument:expr)*) => {
        match &$case.cut {
            $crate::support::Cut::Lines => $face(plimsoll::stream::Lines $(, $argument)*),
            $crate::support::Cut::Delimiter(delimiter) => {
                $face(plimsoll::stream::Delimiter::string(delimiter).unwrap() $(, $argument)*)
            }
            $crate::support::Cut::Length { big: true } => {
                $face(plimsoll::stream::LengthPrefix::big_endian() $(, $argument)*)
            }
            $crate::support::Cut::Length { big: false } => {
                $face(plimsoll::stream::LengthPrefix::little_endian() $(, $argument)*)
            }
        }
    };
}
#[allow(unused_imports, reason = "each test binary uses its own part")]
pub(crate) use with_framing;

/// Holds what a face said against what the twin says.
#[track_caller]
pub fn assert_twin(seed: u64, case: &Case, found: &(Vec<Said>, RecordStats)) {
    let twin = case.twin();
    assert!(*found == twin, "seed {seed}, {case:?}\nfound {found:?}\ntwin {twin:?}");
}

pub fn bytes(n: usize) -> ByteSize {
    ByteSize::bytes(n as u64)
}
