//! Readers of records, bodies and parallel maps: how fast they go over the same input.

pub mod body;
pub mod input;
pub mod lines;
pub mod parallel;

use std::error::Error;
use std::time::Instant;

use crate::median;

/// Something that reads an input in its own way.
pub struct Reader<I: ?Sized + 'static> {
    /// Its name in the table.
    pub name: &'static str,
    /// Reads all of it.
    pub read: fn(&I) -> Result<Tally, Box<dyn Error>>,
}

/// What a reader saw, which must be what all others saw.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Records, or chunks.
    pub count: u64,
    /// Bytes in them, or a checksum.
    pub sum: u64,
}

impl Tally {
    /// Counts a record.
    #[inline]
    pub fn add(&mut self, record: &[u8]) {
        self.count += 1;
        self.sum += record.len() as u64;
    }
}

/// The rates of readers in GB/s, round by round: in each round all have their turn, one right after the other.
#[derive(Debug)]
pub struct Rates {
    readers: Vec<(&'static str, Vec<f64>)>,
}

impl Rates {
    /// Reads an input of `bytes` in so many rounds, after one in which all that are not the floor must see the same.
    pub fn measure<I: ?Sized>(
        readers: &[Reader<I>],
        input: &I,
        bytes: u64,
        rounds: usize,
    ) -> Result<Self, Box<dyn Error>> {
        let mut rates: Vec<_> = readers.iter().map(|reader| (reader.name, Vec::new())).collect();
        let mut seen = None;
        for round in 0..=rounds {
            for (reader, (name, rates)) in readers.iter().zip(&mut rates) {
                let start = Instant::now();
                let tally = (reader.read)(input)?;
                let rate = bytes as f64 / start.elapsed().as_nanos() as f64;
                if round > 0 {
                    rates.push(rate);
                } else if !name.starts_with("floor") && *seen.get_or_insert(tally) != tally {
                    return Err(format!("{name} saw {tally:?}, others {seen:?}").into());
                }
            }
        }
        Ok(Self { readers: rates })
    }

    /// The median rate of each reader, in the order given.
    pub fn medians(&self) -> Vec<(&'static str, f64)> {
        self.readers.iter().map(|(name, rates)| (*name, median(rates.iter().copied()))).collect()
    }

    /// How many times quicker one is than another: the median over the rounds, so that what slows a whole round down
    /// does not count.
    pub fn over(&self, one: &str, other: &str) -> f64 {
        let of = |wanted| self.readers.iter().find(|(name, _)| *name == wanted).map(|(_, rates)| rates);
        let (Some(one), Some(other)) = (of(one), of(other)) else { return f64::NAN };
        median(one.iter().zip(other).map(|(one, other)| one / other))
    }
}
