//! Request traces: files that are measured, and are not part of this repository.
//!
//! A folder holds `*.ctr.zst` files: zstd around `CTR1`, a byte that is 1 if objects have sizes, three zero bytes, the
//! number of objects, their sizes if they have any, and the requested object numbers in four byte planes. Numbers are
//! little-endian words of 32 bits.

use std::error::Error;
use std::io::Read;
use std::path::Path;

/// The requests of a file.
#[derive(Debug)]
pub struct Trace {
    /// The name of the file.
    pub name: String,
    /// The number of objects.
    pub objects: usize,
    /// The size of each object in bytes, if objects have sizes.
    pub sizes: Option<Vec<u32>>,
    /// The requested objects, in their order.
    pub requests: Vec<u32>,
}

/// Reads the traces of a folder in the order of their names: those for which `accept` returns `true`, given whether their
/// objects have sizes.
///
/// # Errors
///
/// If the folder or a file cannot be read, or a file has another format.
pub fn read_all(folder: &Path, accept: impl Fn(bool) -> bool) -> Result<Vec<Trace>, Box<dyn Error>> {
    let mut files: Vec<_> =
        std::fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    files.retain(|file| file.to_string_lossy().ends_with(".ctr.zst"));
    files.sort();
    let mut traces = Vec::new();
    for file in files {
        let trace = read(&file)?;
        if accept(trace.sizes.is_some()) {
            traces.push(trace);
        }
    }
    Ok(traces)
}

fn read(file: &Path) -> Result<Trace, Box<dyn Error>> {
    let malformed = || format!("{} is not a trace", file.display());
    let mut bytes = Vec::new();
    ruzstd::decoding::StreamingDecoder::new(std::fs::File::open(file)?)?.read_to_end(&mut bytes)?;
    let (head, mut rest) = bytes.split_at_checked(12).ok_or_else(malformed)?;
    let [b'C', b'T', b'R', b'1', sized, _, _, _, objects @ ..] = head else { return Err(malformed().into()) };
    let objects = u32::from_le_bytes(objects.try_into()?) as usize;
    let mut sizes = None;
    if *sized != 0 {
        let (words, planes) = rest.split_at_checked(4 * objects).ok_or_else(malformed)?;
        let word = |word: &[u8]| word.try_into().map(u32::from_le_bytes);
        sizes = Some(words.chunks(4).map(word).collect::<Result<Vec<u32>, _>>()?);
        rest = planes;
    }
    let planes: Vec<&[u8]> = rest.chunks((rest.len() / 4).max(1)).collect();
    let [a, b, c, d] = planes.as_slice() else { return Err(malformed().into()) };
    let words = a.iter().zip(*b).zip(c.iter().zip(*d));
    let requests = words.map(|((&a, &b), (&c, &d))| u32::from_le_bytes([a, b, c, d])).collect();
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Trace { name, objects, sizes, requests })
}
