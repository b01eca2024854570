//! How frequent words are on this machine: tens of megabytes that only some events ask for.

use std::cmp::Reverse;
use std::fs::File;
use std::io;

use plimsoll::{ByteSize, LazyResource};

use crate::digest::{WordCounts, digest_into};
use crate::sources::Sources;

/// Sources that are read for it; what a first request waits for is the reading of so much.
const MAX_BYTES: ByteSize = ByteSize::mib(64);
/// Distinct words kept, at some 90 bytes each, and a table that is moved into one of twice its size.
const MAX_DISTINCT: usize = 400_000;

/// Loaded by the first event that asks for unusual words, unloaded when others need the memory or nobody asks any more.
///
/// What it is expected to take is reserved before the load begins, so that a function without room for it refuses the
/// event in place of dying in it.
pub(crate) static MODEL: LazyResource<Model, io::Error> =
    LazyResource::new("model", Model::load).expecting(ByteSize::mib(40)).idle_after(50);

/// Word frequencies.
#[derive(Debug)]
pub(crate) struct Model {
    counts: WordCounts,
    words: u64,
}

impl Model {
    /// Reads the sources on this machine.
    fn load() -> io::Result<Self> {
        let mut counts = WordCounts::with_room_for(MAX_DISTINCT);
        let mut words = 0;
        for (path, _) in Sources::find(MAX_BYTES).files {
            // A source that vanished meanwhile is one less; one that breaks off half way is an error.
            let Ok(file) = File::open(path) else { continue };
            let digest = digest_into(counts, file)?;
            words += digest.words;
            counts = digest.counts;
        }
        if words == 0 {
            return Err(io::Error::new(io::ErrorKind::NotFound, "there are no sources to read on this machine"));
        }
        Ok(Self { counts, words })
    }

    /// The `n` words of `counts` that are most out of proportion here, the first the most.
    ///
    /// By occurrences times the logarithm of how much more frequent a word is here than in the model: its part of the
    /// Kullback-Leibler divergence. A word the model does not know counts as once seen.
    pub(crate) fn unusual(&self, counts: &WordCounts, words: u64, n: usize) -> Vec<String> {
        let score = |word: &str, count: u64| {
            let here = approximate(count) / approximate(words);
            let there = approximate(self.counts.get(word) + 1) / approximate(self.words + 1);
            approximate(count) * (here / there).ln()
        };
        let mut best: Vec<(Reverse<Score>, &str)> = Vec::with_capacity(n + 1);
        for (word, count) in counts.iter() {
            let entry = (Reverse(Score(score(word, count))), word);
            let place = best.partition_point(|other| *other <= entry);
            if place < n {
                best.insert(place, entry);
                best.truncate(n);
            }
        }
        best.into_iter().map(|(_, word)| word.to_owned()).collect()
    }
}

/// Counts as what logarithms are taken of; past 2^53 the last digits do not matter.
#[expect(clippy::cast_precision_loss, reason = "a score, not a sum")]
fn approximate(count: u64) -> f64 {
    count as f64
}

/// A score that sorts.
#[derive(Debug, Clone, Copy)]
struct Score(f64);

impl Ord for Score {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl PartialOrd for Score {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Score {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Score {}
