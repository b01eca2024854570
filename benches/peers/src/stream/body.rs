//! Lines of a body that comes as `Bytes` of 8 to 64 KiB, sliced from memory: no copy, no system call.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::executor::block_on;
use futures::{Stream, StreamExt};
use plimsoll::ByteSize;
use plimsoll::stream::LineReader;
use tokio::io::AsyncBufReadExt;
use tokio_util::codec::{FramedRead, LinesCodec};
use tokio_util::io::StreamReader;

use super::{Reader, Tally};
use crate::Random;

/// The longest line allowed, where it can be told.
const MAX: usize = 1 << 20;

type Read1 = Result<Tally, Box<dyn Error>>;

/// Ours.
pub const OURS: &str = "plimsoll";
/// What one would write by hand: memchr over the item, a vector for what is cut.
pub const CARRY: &str = "hand-written carry";
/// What the documentation of S3's client shows.
pub const LINES: &str = "StreamReader + lines";

/// All of them. Each reads the body so often.
pub const READERS: [Reader<(Bytes, usize)>; 5] = [
    Reader { name: CARRY, read: carry },
    Reader { name: OURS, read: ours },
    Reader { name: "plimsoll, owned", read: ours_owned },
    Reader { name: LINES, read: lines },
    Reader { name: "StreamReader + LinesCodec", read: codec },
];

/// The body, `times` over, in items of 8 to 64 KiB.
struct Body {
    whole: Bytes,
    rest: Bytes,
    times: usize,
    random: Random,
}

impl Body {
    fn new((whole, times): &(Bytes, usize)) -> Self {
        Self { whole: whole.clone(), rest: whole.clone(), times: *times, random: Random::new(5) }
    }
}

impl Stream for Body {
    type Item = std::io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.rest.is_empty() {
            self.times -= 1;
            if self.times == 0 {
                return Poll::Ready(None);
            }
            self.rest = self.whole.clone();
        }
        let len = (8 * 1024 + self.random.size(56 * 1024)).min(self.rest.len());
        Poll::Ready(Some(Ok(self.rest.split_to(len))))
    }
}

fn carry(input: &(Bytes, usize)) -> Read1 {
    let (mut body, mut carry, mut tally) = (Body::new(input), Vec::new(), Tally::default());
    block_on(async {
        while let Some(item) = body.next().await {
            let item = item?;
            let mut at = 0;
            for end in memchr::memchr_iter(b'\n', &item) {
                let line = item.get(at..end).unwrap_or_default();
                at = end + 1;
                if carry.is_empty() {
                    tally.add(line);
                } else {
                    carry.extend_from_slice(line);
                    tally.add(&carry);
                    carry.clear();
                }
            }
            let rest = item.get(at..).unwrap_or_default();
            if carry.len() + rest.len() > MAX {
                return Err("record too long".into());
            }
            carry.extend_from_slice(rest);
        }
        if !carry.is_empty() {
            tally.add(&carry);
        }
        Ok(tally)
    })
}

fn ours(input: &(Bytes, usize)) -> Read1 {
    let mut lines = LineReader::builder(ByteSize::bytes(MAX as u64)).build_stream(Body::new(input))?;
    let mut tally = Tally::default();
    block_on(async {
        while let Some(line) = lines.next_record().await? {
            tally.add(&line);
        }
        Ok(tally)
    })
}

fn ours_owned(input: &(Bytes, usize)) -> Read1 {
    let mut lines = LineReader::builder(ByteSize::bytes(MAX as u64)).build_stream(Body::new(input))?;
    let mut tally = Tally::default();
    block_on(async {
        while let Some(line) = lines.next_owned().await? {
            tally.add(&line);
        }
        Ok(tally)
    })
}

fn lines(input: &(Bytes, usize)) -> Read1 {
    let mut lines = StreamReader::new(Body::new(input)).lines();
    let mut tally = Tally::default();
    block_on(async {
        while let Some(line) = lines.next_line().await? {
            tally.add(line.as_bytes());
        }
        Ok(tally)
    })
}

fn codec(input: &(Bytes, usize)) -> Read1 {
    let mut lines = FramedRead::new(StreamReader::new(Body::new(input)), LinesCodec::new_with_max_length(MAX));
    let mut tally = Tally::default();
    block_on(async {
        while let Some(line) = lines.next().await {
            tally.add(line?.as_bytes());
        }
        Ok(tally)
    })
}
