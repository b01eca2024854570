//! What going over an input costs: lines short and long, other framings, oversize modes, chunks, and a body.
//!
//! The inputs lie in memory, so that this is the cost above that of reading. `benches/peers` reads files, beside the
//! peers.

use std::hint::black_box;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use plimsoll::ByteSize;
use plimsoll::stream::{ChunkReader, Delimiter, Framing, LengthPrefix, Lines, Oversize, RecordReader};

/// Bytes of each input.
const LEN: usize = 8 << 20;

fn main() {
    let settings = Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1200));
    let mut criterion = settings.configure_from_args();
    framings(&mut criterion);
    modes(&mut criterion);
    chunks(&mut criterion);
    #[cfg(feature = "tokio")]
    body(&mut criterion);
    criterion.final_summary();
}

/// Records of so many bytes in the mean, behind each the end.
fn input(mean: usize, end: &[u8]) -> Vec<u8> {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut input = Vec::with_capacity(LEN + 4 * mean);
    while input.len() < LEN {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let len = mean / 2 + usize::try_from(random >> 40).unwrap_or(0) % mean;
        input.extend(std::iter::repeat_n(b'x', len));
        input.extend_from_slice(end);
    }
    input
}

fn started<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Bytes(LEN as u64));
    group
}

/// Reads all records and returns their bytes.
fn read(framing: impl Framing, max: u64, oversize: Oversize, input: &[u8]) -> u64 {
    let builder = RecordReader::framed(framing, ByteSize::bytes(max)).oversize(oversize);
    let Ok(mut reader) = builder.build(input) else { return 0 };
    let mut bytes = 0;
    loop {
        match reader.next_record() {
            Ok(Some(record)) => bytes += record.len() as u64,
            Ok(None) => return bytes,
            Err(_) => {}
        }
    }
}

/// The same where the loop is the reader's.
fn read_each(input: &[u8]) -> u64 {
    let Ok(mut reader) = RecordReader::builder(ByteSize::mib(1)).build(input) else { return 0 };
    let mut bytes = 0;
    let ended = reader.for_each_record(|record| {
        bytes += record.len() as u64;
        ControlFlow::<()>::Continue(())
    });
    if ended.is_ok() { bytes } else { 0 }
}

fn framings(criterion: &mut Criterion) {
    for (name, mean) in [("short", 27), ("long", 834)] {
        let mut group = started(criterion, &format!("stream/records/{name}"));
        let lines = input(mean, b"\n");
        group.bench_function("lines", |b| b.iter(|| read(Lines, 1 << 20, Oversize::Error, black_box(&lines))));
        group.bench_function("lines, for each", |b| b.iter(|| read_each(black_box(&lines))));
        let zeros = input(mean, b"\0");
        let byte = || Delimiter::byte(0);
        group.bench_function("byte", |b| b.iter(|| read(byte(), 1 << 20, Oversize::Error, black_box(&zeros))));
        let strings = input(mean, b"\r\n--");
        group.bench_function("string", |b| {
            b.iter(|| Some(read(Delimiter::string(b"\r\n--")?, 1 << 20, Oversize::Error, black_box(&strings))));
        });
        let prefixed: Vec<u8> = lines
            .split(|byte| *byte == b'\n')
            .flat_map(|line| {
                u32::try_from(line.len()).unwrap_or(0).to_be_bytes().into_iter().chain(line.iter().copied())
            })
            .collect();
        group.bench_function("length prefix", |b| {
            b.iter(|| read(LengthPrefix::big_endian(), 1 << 20, Oversize::Error, black_box(&prefixed)));
        });
        group.finish();
    }
}

fn modes(criterion: &mut Criterion) {
    let mut group = started(criterion, "stream/oversize/half");
    let lines = input(800, b"\n");
    for oversize in [Oversize::Error, Oversize::Truncate, Oversize::Skip] {
        group.bench_function(format!("{oversize:?}"), |b| b.iter(|| read(Lines, 800, oversize, black_box(&lines))));
    }
    group.finish();
}

fn chunks(criterion: &mut Criterion) {
    let mut group = started(criterion, "stream/chunks/128K");
    let content = input(834, b"\n");
    group.bench_function("next_chunk", |b| {
        b.iter(|| {
            let mut chunks = ChunkReader::builder(ByteSize::kib(128)).build(black_box(&content[..])).ok()?;
            let mut bytes = 0;
            while let Ok(Some(chunk)) = chunks.next_chunk() {
                bytes += chunk.len();
            }
            Some(bytes)
        });
    });
    group.bench_function("read", |b| {
        b.iter(|| -> io::Result<usize> {
            let (mut input, mut chunk, mut bytes) = (black_box(&content[..]), vec![0; 128 << 10], 0);
            loop {
                match input.read(&mut chunk)? {
                    0 => return Ok(bytes),
                    read => bytes += black_box(&chunk[..]).len().min(read),
                }
            }
        });
    });
    group.finish();
}

#[cfg(feature = "tokio")]
fn body(criterion: &mut Criterion) {
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    use bytes::Bytes;
    use plimsoll::stream::LineReader;

    struct Body(Bytes);
    impl futures_core::Stream for Body {
        type Item = io::Result<Bytes>;

        fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            let len = self.0.len().min(32 << 10);
            Poll::Ready((len > 0).then(|| Ok(self.0.split_to(len))))
        }
    }

    let mut group = started(criterion, "stream/body/32K");
    let content = Bytes::from(input(834, b"\n"));
    for owned in [false, true] {
        group.bench_function(if owned { "next_owned" } else { "next_record" }, |b| {
            b.iter(|| {
                let mut lines = LineReader::builder(ByteSize::mib(1)).build_stream(Body(content.clone())).ok()?;
                let mut all = pin!(async {
                    let mut bytes = 0;
                    loop {
                        let read = if owned {
                            lines.next_owned().await.map(|line| line.map(|line| line.len()))
                        } else {
                            lines.next_record().await.map(|line| line.map(|line| line.len()))
                        };
                        let Ok(Some(len)) = read else { return bytes };
                        bytes += len;
                    }
                });
                match all.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready(bytes) => Some(bytes),
                    Poll::Pending => None,
                }
            });
        });
    }
    group.finish();
}
