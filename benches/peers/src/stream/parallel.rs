//! SHA-256 of each chunk of a file, on two threads, the sums in the order of the chunks.

use std::error::Error;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use pariter::IteratorExt;
use plimsoll::ByteSize;
use plimsoll::stream::ChunkReader;
use rayon::iter::{ParallelBridge, ParallelIterator};
use sha2::{Digest, Sha256};

use super::{Reader, Tally};

/// Threads that work.
const WORKERS: usize = 2;

type Read1 = Result<Tally, Box<dyn Error>>;

/// Ours.
pub const OURS: &str = "plimsoll";
/// The peer to beat.
pub const RAYON: &str = "rayon par_bridge + sort";

/// All of them, over a file in chunks of so many bytes.
pub const READERS: [Reader<(PathBuf, usize)>; 4] = [
    Reader { name: "one thread", read: alone },
    Reader { name: OURS, read: ours },
    Reader { name: RAYON, read: rayon },
    Reader { name: "pariter parallel_map", read: pariter },
];

type Sum = [u8; 32];

fn sha(chunk: &[u8]) -> Sum {
    Sha256::digest(chunk).into()
}

/// Depends on the order.
fn add(tally: &mut Tally, sum: &Sum) {
    tally.count += 1;
    let word = sum.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    tally.sum = tally.sum.rotate_left(1) ^ word;
}

fn alone((path, size): &(PathBuf, usize)) -> Read1 {
    let mut chunks = ChunkReader::builder(ByteSize::bytes(*size as u64)).build(File::open(path)?)?;
    let mut tally = Tally::default();
    while let Some(chunk) = chunks.next_chunk()? {
        add(&mut tally, &sha(&chunk));
    }
    Ok(tally)
}

fn ours((path, size): &(PathBuf, usize)) -> Read1 {
    let chunks = ChunkReader::builder(ByteSize::bytes(*size as u64)).build(File::open(path)?)?;
    let mut tally = Tally::default();
    chunks.into_parallel(WORKERS).map(|chunk| Ok::<_, std::io::Error>(sha(&chunk))).for_each_in_order(|sum| {
        add(&mut tally, &sum);
        Ok::<_, std::io::Error>(())
    })?;
    Ok(tally)
}

/// Chunks of their own, as an iterator has to give them. Errors end it: the file is there, or the counts differ.
fn owned(path: &Path, size: usize) -> std::io::Result<impl Iterator<Item = Vec<u8>> + Send + use<>> {
    let mut file = File::open(path)?;
    Ok(std::iter::from_fn(move || {
        let mut chunk = Vec::with_capacity(size);
        let read = (&mut file).take(size as u64).read_to_end(&mut chunk).ok()?;
        (read > 0).then_some(chunk)
    }))
}

fn rayon((path, size): &(PathBuf, usize)) -> Read1 {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(WORKERS).build()?;
    let chunks = owned(path, *size)?.enumerate();
    let mut sums: Vec<(usize, Sum)> =
        pool.install(|| chunks.par_bridge().map(|(index, chunk)| (index, sha(&chunk))).collect());
    sums.sort_unstable_by_key(|(index, _)| *index);
    let mut tally = Tally::default();
    sums.iter().for_each(|(_, sum)| add(&mut tally, sum));
    Ok(tally)
}

fn pariter((path, size): &(PathBuf, usize)) -> Read1 {
    let mut tally = Tally::default();
    let chunks = owned(path, *size)?;
    chunks
        .parallel_map_custom(|options| options.threads(WORKERS), |chunk: Vec<u8>| sha(&chunk))
        .for_each(|sum| add(&mut tally, &sum));
    Ok(tally)
}
