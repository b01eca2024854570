//! Lines of a file in the page cache.

use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::ops::ControlFlow;
use std::path::Path;

use bstr::io::BufReadExt;
use futures::StreamExt;
use grep_matcher::{Match, Matcher, NoCaptures, NoError};
use grep_searcher::{Searcher, SearcherBuilder, Sink, SinkMatch};
use linereader::LineReader as Linereader;
use plimsoll::ByteSize;
use plimsoll::stream::LineReader;
use tokio_util::codec::{FramedRead, LinesCodec};

use super::{Reader, Tally};

/// What every reader reads at a time, where it can be told.
const CHUNK: usize = 256 * 1024;

/// The longest line allowed, where it can be told.
const MAX: u64 = 1 << 20;

type Read1 = Result<Tally, Box<dyn Error>>;

/// Ours.
pub const OURS: &str = "plimsoll";
/// Ours where the loop is the reader's, as it is with bstr and grep-searcher.
pub const OURS_EACH: &str = "plimsoll, for each";
/// Reading and counting, no more.
pub const FLOOR: &str = "floor: read, count newlines";

/// All of them.
pub const READERS: [Reader<Path>; 11] = [
    Reader { name: FLOOR, read: floor },
    Reader { name: OURS, read: ours },
    Reader { name: OURS_EACH, read: ours_each },
    Reader { name: "plimsoll, skip", read: ours_skip },
    Reader { name: "bstr for_byte_line", read: bstr },
    Reader { name: "linereader", read: linereader },
    Reader { name: "grep-searcher", read: grep },
    Reader { name: "std read_until, reused", read: std_read_until },
    Reader { name: "std lines", read: std_lines },
    Reader { name: "tokio-util LinesCodec", read: codec },
    Reader { name: "std split", read: std_split },
];

/// Whether it is neither ours nor the floor.
pub fn is_peer(name: &str) -> bool {
    !name.starts_with(OURS) && name != FLOOR
}

fn floor(path: &Path) -> Read1 {
    let (mut file, mut chunk, mut tally) = (File::open(path)?, vec![0; CHUNK], Tally::default());
    loop {
        let read = file.read(&mut chunk)?;
        let Some(filled) = chunk.get(..read).filter(|filled| !filled.is_empty()) else { return Ok(tally) };
        tally.count += memchr::memchr_iter(b'\n', filled).count() as u64;
    }
}

fn ours(path: &Path) -> Read1 {
    lines(path, plimsoll::stream::Oversize::Error)
}

fn ours_skip(path: &Path) -> Read1 {
    lines(path, plimsoll::stream::Oversize::Skip)
}

fn lines(path: &Path, oversize: plimsoll::stream::Oversize) -> Read1 {
    let builder = LineReader::builder(ByteSize::bytes(MAX)).chunk(ByteSize::bytes(CHUNK as u64)).oversize(oversize);
    let (mut lines, mut tally) = (builder.build(File::open(path)?)?, Tally::default());
    while let Some(line) = lines.next_record()? {
        tally.add(&line);
    }
    Ok(tally)
}

fn ours_each(path: &Path) -> Read1 {
    let builder = LineReader::builder(ByteSize::bytes(MAX)).chunk(ByteSize::bytes(CHUNK as u64));
    let (mut lines, mut tally) = (builder.build(File::open(path)?)?, Tally::default());
    let _ = lines.for_each_record(|line| {
        tally.add(&line);
        ControlFlow::<()>::Continue(())
    })?;
    Ok(tally)
}

fn bstr(path: &Path) -> Read1 {
    let mut tally = Tally::default();
    BufReader::with_capacity(CHUNK, File::open(path)?).for_byte_line(|line| {
        tally.add(line);
        Ok(true)
    })?;
    Ok(tally)
}

fn linereader(path: &Path) -> Read1 {
    let mut lines = Linereader::with_capacity(CHUNK, File::open(path)?);
    let mut tally = Tally::default();
    while let Some(line) = lines.next_line() {
        let line = line?;
        tally.add(line.strip_suffix(b"\n").unwrap_or(line));
    }
    Ok(tally)
}

/// Matches nothing; inverted, every line is given.
struct Never;

impl Matcher for Never {
    type Captures = NoCaptures;
    type Error = NoError;

    fn find_at(&self, _haystack: &[u8], _at: usize) -> Result<Option<Match>, NoError> {
        Ok(None)
    }

    fn new_captures(&self) -> Result<NoCaptures, NoError> {
        Ok(NoCaptures::new())
    }
}

struct Count(Tally);

impl Sink for Count {
    type Error = std::io::Error;

    fn matched(&mut self, _searcher: &Searcher, found: &SinkMatch<'_>) -> Result<bool, Self::Error> {
        let line = found.bytes();
        self.0.add(line.strip_suffix(b"\n").unwrap_or(line));
        Ok(true)
    }
}

fn grep(path: &Path) -> Read1 {
    let mut count = Count(Tally::default());
    let mut searcher =
        SearcherBuilder::new().invert_match(true).line_number(false).heap_limit(Some(MAX as usize)).build();
    searcher.search_reader(Never, File::open(path)?, &mut count)?;
    Ok(count.0)
}

fn std_read_until(path: &Path) -> Read1 {
    let mut input = BufReader::with_capacity(CHUNK, File::open(path)?);
    let (mut line, mut tally) = (Vec::new(), Tally::default());
    while input.read_until(b'\n', &mut line)? > 0 {
        tally.add(line.strip_suffix(b"\n").unwrap_or(&line));
        line.clear();
    }
    Ok(tally)
}

fn std_lines(path: &Path) -> Read1 {
    let mut tally = Tally::default();
    for line in BufReader::with_capacity(CHUNK, File::open(path)?).lines() {
        tally.add(line?.as_bytes());
    }
    Ok(tally)
}

fn std_split(path: &Path) -> Read1 {
    let mut tally = Tally::default();
    for line in BufReader::with_capacity(CHUNK, File::open(path)?).split(b'\n') {
        tally.add(&line?);
    }
    Ok(tally)
}

/// Over a reader that is always ready: tokio's own `File` goes through a thread pool, which is not what is compared.
fn codec(path: &Path) -> Read1 {
    let input = futures::io::AllowStdIo::new(File::open(path)?);
    let input = tokio_util::compat::FuturesAsyncReadCompatExt::compat(input);
    let codec = LinesCodec::new_with_max_length(MAX as usize);
    let mut lines = FramedRead::with_capacity(input, codec, CHUNK);
    let mut tally = Tally::default();
    futures::executor::block_on(async {
        while let Some(line) = lines.next().await {
            tally.add(line?.as_bytes());
        }
        Ok(tally)
    })
}
