//! Counts the bytes, lines and words of anything that can be read, in memory that does not grow with the input.
//!
//! The bound: one chunk of 64 KiB and what a cut character leaves of one, at most [`MAX_DISTINCT`] distinct words of at
//! most [`MAX_WORD`] bytes each, the hash table over them. What does not fit is not counted by word, and `not_counted`
//! says how often that was so.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io::{self, Read};

use plimsoll::ByteSize;
use plimsoll::stream::{ChunkReader, StreamError};

/// Bytes read at a time.
const CHUNK: ByteSize = ByteSize::kib(64);
/// Distinct words kept; a word that is new after that is not counted.
pub(crate) const MAX_DISTINCT: usize = 50_000;
/// Longest word kept, in bytes of UTF-8; a longer one is a word, but is not counted under its name.
pub(crate) const MAX_WORD: usize = 64;

/// What one object holds.
#[derive(Debug, Default)]
pub(crate) struct Digest {
    pub(crate) bytes: u64,
    /// Line feeds, and one more if something stands behind the last of them.
    pub(crate) lines: u64,
    /// Runs of alphanumeric characters, whether counted by name or not.
    pub(crate) words: u64,
    pub(crate) counts: WordCounts,
}

/// How often each word occurred, for a bounded number of words.
#[derive(Debug)]
pub(crate) struct WordCounts {
    /// At most `room` entries. The seeded hasher of std: the words come from outside.
    words: HashMap<Box<str>, u64>,
    room: usize,
    /// Occurrences that are in no entry of `words`.
    not_counted: u64,
}

impl Default for WordCounts {
    fn default() -> Self {
        Self::with_room_for(MAX_DISTINCT)
    }
}

impl WordCounts {
    /// Keeps at most so many distinct words; nothing is set aside for them.
    pub(crate) fn with_room_for(distinct: usize) -> Self {
        Self { words: HashMap::new(), room: distinct, not_counted: 0 }
    }

    fn add(&mut self, word: &str, times: u64) {
        if let Some(count) = self.words.get_mut(word) {
            *count += times;
        } else if self.words.len() < self.room {
            self.words.insert(word.into(), times);
        } else {
            self.not_counted += times;
        }
    }

    /// Adds all of `other`, within the same bound.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (word, times) in &other.words {
            self.add(word, *times);
        }
        self.not_counted += other.not_counted;
    }

    /// How often `word` occurred.
    pub(crate) fn get(&self, word: &str) -> u64 {
        self.words.get(word).copied().unwrap_or(0)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.words.iter().map(|(word, count)| (&**word, *count))
    }

    pub(crate) fn distinct(&self) -> usize {
        self.words.len()
    }

    pub(crate) fn not_counted(&self) -> u64 {
        self.not_counted
    }

    /// The `n` most frequent words, the most frequent first; of equally frequent ones the alphabetically first.
    pub(crate) fn top(&self, n: usize) -> Vec<(String, u64)> {
        // A heap of `n`, not a sorted list of all: the answer is short, so its making may be too.
        let mut best = BinaryHeap::with_capacity(n + 1);
        for (word, count) in &self.words {
            best.push(Reverse((*count, Reverse(word))));
            if best.len() > n {
                best.pop();
            }
        }
        let sorted = best.into_sorted_vec();
        sorted.into_iter().map(|Reverse((count, Reverse(word)))| (word.to_string(), count)).collect()
    }
}

/// Reads `input` to its end, 64 KiB at a time.
///
/// Bytes that are not UTF-8 are counted as bytes and end a word, as if the replacement character stood there.
///
/// # Errors
///
/// Whatever `input` fails with, or that there is no memory for the chunk.
pub(crate) fn digest(input: impl Read) -> io::Result<Digest> {
    digest_into(WordCounts::default(), input)
}

/// The same, on top of what was counted before by word.
pub(crate) fn digest_into(counts: WordCounts, input: impl Read) -> io::Result<Digest> {
    let mut chunks = ChunkReader::builder(CHUNK).build(input).map_err(io::Error::other)?;
    let mut counter = Counter { digest: Digest { counts, ..Digest::default() }, ..Counter::default() };
    while let Some(chunk) = chunks.next_chunk().map_err(in_io)? {
        counter.take(&chunk);
    }
    Ok(counter.finish())
}

/// The input's own error, as the caller knows it from files; no deadline is set, so there is no other.
fn in_io(error: StreamError) -> io::Error {
    match error {
        StreamError::Read { source, .. } => source,
        other => io::Error::other(other),
    }
}

/// The state between two chunks.
#[derive(Debug, Default)]
struct Counter {
    digest: Digest,
    /// The word that the last chunk may have cut in two, in lower case; at most `MAX_WORD` bytes and one character.
    word: String,
    /// Whether `word` was longer than that, and has been thrown away.
    overlong: bool,
    /// Whether something stands behind the last line feed.
    open_line: bool,
    /// The bytes of a character that the last chunk cut in two; at most three.
    cut: Vec<u8>,
}

impl Counter {
    /// Counts a chunk, and keeps what it cuts off.
    fn take(&mut self, mut chunk: &[u8]) {
        // The character that was cut is put together byte by byte, until it is whole or none.
        while let (false, Some((byte, rest))) = (self.cut.is_empty(), chunk.split_first()) {
            self.cut.push(*byte);
            let bytes = std::mem::take(&mut self.cut);
            let used = self.feed(&bytes);
            self.cut.extend(bytes.iter().skip(used));
            chunk = rest;
        }
        let used = self.feed(chunk);
        self.cut.extend(chunk.iter().skip(used));
    }

    /// Counts `bytes` and returns how many it used: a character cut off at the end, at most three bytes, is left.
    fn feed(&mut self, bytes: &[u8]) -> usize {
        let mut used = 0;
        for piece in bytes.utf8_chunks() {
            self.text(piece.valid());
            used += piece.valid().len();
            let cut_off = str::from_utf8(piece.invalid()).is_err_and(|error| error.error_len().is_none());
            if cut_off && used + piece.invalid().len() == bytes.len() {
                break;
            }
            if !piece.invalid().is_empty() {
                self.end_word();
                self.open_line = true;
                used += piece.invalid().len();
            }
        }
        self.digest.bytes += used as u64;
        used
    }

    fn text(&mut self, text: &str) {
        self.digest.lines += text.bytes().filter(|byte| *byte == b'\n').count() as u64;
        if let Some(last) = text.as_bytes().last() {
            self.open_line = *last != b'\n';
        }
        for letter in text.chars() {
            if letter.is_ascii_alphanumeric() {
                self.word.push(letter.to_ascii_lowercase());
            } else if !letter.is_ascii() && letter.is_alphanumeric() {
                self.word.extend(letter.to_lowercase());
            } else {
                self.end_word();
                continue;
            }
            if self.word.len() > MAX_WORD {
                self.word.clear();
                self.overlong = true;
            }
        }
    }

    fn end_word(&mut self) {
        if self.overlong {
            self.digest.counts.not_counted += 1;
        } else if self.word.is_empty() {
            return;
        } else {
            self.digest.counts.add(&self.word, 1);
        }
        self.digest.words += 1;
        self.word.clear();
        self.overlong = false;
    }

    /// Ends the last word and line.
    fn finish(mut self) -> Digest {
        self.end_word();
        self.digest.bytes += self.cut.len() as u64;
        self.digest.lines += u64::from(self.open_line || !self.cut.is_empty());
        self.digest
    }
}
