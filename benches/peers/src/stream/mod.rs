//! Readers of records, bodies and parallel maps: how fast they go over the same input.

pub mod body;
pub mod input;
pub mod lines;
pub mod parallel;

use std::error::Error;
use std::time::Instant;

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

/// The median rate of each reader in GB/s, over rounds in which each has its turn, so that a slow minute meets all.
///
/// The one whose name is `floor` need not see what the others see.
pub fn rates<I: ?Sized>(
    readers: &[Reader<I>],
    input: &I,
    bytes: u64,
    rounds: usize,
) -> Result<Vec<(&'static str, f64)>, Box<dyn Error>> {
    let mut rates: Vec<Vec<f64>> = readers.iter().map(|_| Vec::new()).collect();
    let mut seen = None;
    // The first round warms up, and is where all must agree.
    for round in 0..=rounds {
        for (reader, rates) in readers.iter().zip(&mut rates) {
            let start = Instant::now();
            let tally = (reader.read)(input)?;
            let rate = bytes as f64 / start.elapsed().as_nanos() as f64;
            if round > 0 {
                rates.push(rate);
            } else if !reader.name.starts_with("floor") && *seen.get_or_insert(tally) != tally {
                return Err(format!("{} saw {tally:?}, others {seen:?}", reader.name).into());
            }
        }
    }
    let median = |mut rates: Vec<f64>| {
        rates.sort_by(f64::total_cmp);
        rates.get(rates.len() / 2).copied().unwrap_or(f64::NAN)
    };
    Ok(readers.iter().map(|reader| reader.name).zip(rates.into_iter().map(median)).collect())
}
