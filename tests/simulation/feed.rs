//! Streams over input that is made as it is read, beside a twin that knows the length of every record.

use std::io::{self, Read};

use plimsoll::stream::{BuildError, LineReader, Oversize, RecordStats, StreamError};
use plimsoll::{Account, BudgetExceeded, ByteSize};

use crate::support::Random;

const MAX_RECORD: u64 = 4 << 10;
const CHUNK: u64 = 16 << 10;

/// What a reader charges at most, by the formula of its docs.
pub const MOST: u64 = CHUNK + MAX_RECORD + 2 + (4 << 10);

/// Lines, by their lengths; each ends with CRLF, but the last, which ends with the input.
#[derive(Clone)]
struct Feed {
    lengths: Vec<usize>,
    /// Which line is read, and how much of it was.
    line: usize,
    at: usize,
    random: Random,
}

impl Feed {
    /// Bytes of a line with its end.
    fn whole(&self, line: usize) -> usize {
        self.lengths[line] + if line + 1 == self.lengths.len() { 0 } else { 2 }
    }
}

fn letter(line: usize) -> u8 {
    b'a' + (line % 26) as u8
}

impl Read for Feed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.random.below(16) {
            0 => return Err(io::ErrorKind::Interrupted.into()),
            1 => return Err(io::ErrorKind::TimedOut.into()),
            _ => {}
        }
        let most = buffer.len().min(1 + self.random.below(30_000));
        let mut filled = 0;
        while filled < most && self.line < self.lengths.len() {
            let (content, whole) = (self.lengths[self.line], self.whole(self.line));
            let piece = &mut buffer[filled..most];
            let len = piece.len().min(whole - self.at);
            let (letters, end) = piece[..len].split_at_mut(content.saturating_sub(self.at).min(len));
            letters.fill(letter(self.line));
            let from = self.at.saturating_sub(content);
            end.copy_from_slice(&b"\r\n"[from..from + end.len()]);
            (filled, self.at) = (filled + len, self.at + len);
            if self.at == whole {
                (self.line, self.at) = (self.line + 1, 0);
            }
        }
        Ok(filled)
    }
}

/// What a call ended with.
#[derive(Debug, PartialEq, Eq)]
pub enum Came {
    Record,
    Oversize,
    Disturbed,
    /// The budget refused; to be asked again.
    Refused(BudgetExceeded),
    /// A new reader goes on where this one was told to stop.
    Deadline,
    End,
}

/// A stream and its twin.
pub struct Stream {
    reader: LineReader<Feed>,
    oversize: Oversize,
    /// The line that comes next, and where it begins.
    line: usize,
    offset: u64,
    /// The first line and byte of this reader.
    first: (usize, u64),
    counts: RecordStats,
    clock: plimsoll::Clock,
    deadline: Option<u64>,
    /// Whether the line that comes next was told to be too long.
    told: bool,
}

impl Stream {
    /// Begins one; `deadline` is the moment on the clock, and on the wall.
    pub fn begin(
        account: &Account,
        clock: plimsoll::Clock,
        deadline: Option<(u64, std::time::SystemTime)>,
        random: &mut Random,
    ) -> Result<Self, BudgetExceeded> {
        let length = |random: &mut Random| match random.below(40) {
            0 => random.below(1 << 17),
            1 => MAX_RECORD as usize - 2 + random.below(5),
            2 => 0,
            _ => random.below(700),
        };
        let mut lengths: Vec<usize> = (0..40 + random.below(200)).map(|_| length(random)).collect();
        // An empty one would be none, with no end of its own.
        *lengths.last_mut().unwrap() += 1;
        let feed = Feed { lengths, line: 0, at: 0, random: Random::new(random.below(1 << 30) as u64) };
        let oversize = [Oversize::Error, Oversize::Truncate, Oversize::Skip][random.below(3)];
        let mut builder = LineReader::builder(ByteSize::bytes(MAX_RECORD)).oversize(oversize).clock(clock.clone());
        if let Some((_, moment)) = deadline {
            builder = builder.deadline(moment);
        }
        let built = builder.chunk(ByteSize::bytes(CHUNK)).account(account.clone()).build(feed);
        let reader = built.map_err(refused)?;
        let (first, counts, deadline) = ((0, 0), RecordStats::default(), deadline.map(|(at, _)| at));
        Ok(Self { reader, oversize, line: 0, offset: 0, first, counts, clock, deadline, told: false })
    }

    /// Asks for the next record, and holds what comes against the twin.
    pub fn next(&mut self, account: &Account) -> Result<Came, BudgetExceeded> {
        let at = self.reader.offset();
        let over = self.deadline.is_some_and(|deadline| self.clock.now() >= deadline);
        let came = match self.reader.next_record() {
            Ok(Some(record)) => {
                let (offset, len, truncated) = (record.offset(), record.len(), record.is_truncated());
                let (found, letters) = (record.number(), record.first().copied());
                assert!(record.iter().all(|byte| Some(*byte) == letters), "a torn record");
                assert!(offset >= at);
                self.pass_long();
                let length = self.reader.get_ref().lengths[self.line];
                let most = length.min(MAX_RECORD as usize);
                assert_eq!((offset, found), (self.offset, (self.line - self.first.0 + 1) as u64));
                assert_eq!((len, truncated), (most, most < length));
                assert!(letters.is_none_or(|letters| letters == letter(self.line)));
                self.pass(true);
                Came::Record
            }
            Ok(None) => {
                self.pass_long();
                assert_eq!(self.line, self.reader.get_ref().lengths.len(), "the end came early");
                assert_eq!(self.reader.stats(), self.counts, "the counts at the end");
                return Ok(Came::End);
            }
            Err(StreamError::Oversize { offset, number: found, .. }) => {
                // One that was told of before its end is passed over first.
                if self.told {
                    self.pass(false);
                    self.told = false;
                }
                let length = self.reader.get_ref().lengths[self.line];
                assert!(self.oversize == Oversize::Error && length > MAX_RECORD as usize);
                assert_eq!((offset, found), (self.offset, (self.line - self.first.0 + 1) as u64));
                self.told = true;
                Came::Oversize
            }
            Err(error) if error.is_transient() => Came::Disturbed,
            Err(StreamError::Budget { source, .. }) => Came::Refused(source),
            Err(StreamError::Deadline { resume_at, number: found, .. }) => {
                let passed = self.deadline.is_some_and(|deadline| self.clock.now() >= deadline);
                assert!(passed, "stopped before the deadline");
                let (line, feed) = (self.first.0 + found as usize - 1, self.reader.get_ref());
                assert!(line >= self.line && line < feed.lengths.len());
                let between: usize = (self.line..line).map(|line| feed.whole(line)).sum();
                assert_eq!(resume_at, self.offset + between as u64, "where to resume");
                self.resume(account, line, resume_at)?;
                return Ok(Came::Deadline);
            }
            Err(error) => panic!("{error:?}"),
        };
        assert!(!over, "the deadline has passed: {came:?}");
        Ok(came)
    }

    /// Passes those lines that the reader dropped without a word, or told of.
    fn pass_long(&mut self) {
        while let Some(&length) = self.reader.get_ref().lengths.get(self.line) {
            let silent = self.oversize == Oversize::Skip || self.told;
            if length <= MAX_RECORD as usize || !silent {
                return;
            }
            self.pass(false);
            self.told = false;
        }
    }

    /// Passes one line.
    fn pass(&mut self, given: bool) {
        let feed = self.reader.get_ref();
        let (length, whole) = (feed.lengths[self.line], feed.whole(self.line));
        // The CR counts as dropped where it stood before an end.
        let raw = (whole - usize::from(whole > length)) as u64;
        if given {
            self.counts.records += 1;
            if length as u64 > MAX_RECORD {
                self.counts.truncated += 1;
                self.counts.bytes_dropped += raw - MAX_RECORD;
            }
        } else {
            self.counts.skipped += 1;
            self.counts.bytes_dropped += raw;
        }
        (self.line, self.offset) = (self.line + 1, self.offset + whole as u64);
    }

    /// Goes on with a reader that begins there, as after a range request.
    fn resume(&mut self, account: &Account, line: usize, offset: u64) -> Result<(), BudgetExceeded> {
        let feed = Feed { line, at: 0, ..self.reader.get_ref().clone() };
        let builder = LineReader::builder(ByteSize::bytes(MAX_RECORD)).oversize(self.oversize).resume_at(offset);
        let built = builder.chunk(ByteSize::bytes(CHUNK)).account(account.clone()).build(feed);
        self.reader = built.map_err(refused)?;
        (self.line, self.offset, self.first, self.deadline) = (line, offset, (line, offset), None);
        (self.counts, self.told) = (RecordStats::default(), false);
        Ok(())
    }
}

fn refused(error: BuildError) -> BudgetExceeded {
    match error {
        BuildError::Budget { source, .. } => source,
        other => panic!("{other:?}"),
    }
}
