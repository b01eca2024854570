//! The formulas of the documentation, held against every byte of heap: whatever the input, no reader takes more.

#![allow(unsafe_code, reason = "`support` allocates by hand")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test stops at the first surprise")]

mod support;

use std::io::{self, Read};

use plimsoll::stream::{
    ChunkReader, Delimiter, Framing, LengthPrefix, LineReader, Lines, Oversize, ParallelError, RecordReader,
    StreamError,
};
use plimsoll::{ByteSize, TrackingAllocator, heap};

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

support::tests! {
    records_take_no_more_than_the_formula_whatever_the_input,
    the_formula_is_no_excuse,
    chunks_take_one_chunk,
    records_worked_on_in_parallel_take_no_more_than_the_formula,
    results_put_aside_take_no_more_than_the_window,
    a_refused_buffer_is_an_error_and_reading_goes_on,
    short_of_memory_a_parallel_run_has_fewer_workers_or_does_not_start,
    gzip_takes_what_it_says if cfg!(feature = "gzip"), else "needs the feature `gzip`",
    a_stream_of_bytes_takes_the_carry_alone if cfg!(feature = "tokio"), else "needs the feature `tokio`",
}

/// What stands at a place.
type Byte = fn(usize) -> u8;

/// Some input that is made as it is read, so that it takes no heap.
struct Made {
    left: usize,
    at: usize,
    byte: Byte,
}

impl Read for Made {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // Never a whole chunk, so that records are cut everywhere.
        let len = buffer.len().min(self.left).min(1 + self.at % 70_001);
        for (i, place) in buffer[..len].iter_mut().enumerate() {
            *place = (self.byte)(self.at + i);
        }
        self.at += len;
        self.left -= len;
        Ok(len)
    }
}

fn scattered(at: usize) -> usize {
    at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40
}

/// Contents, hostile and friendly.
const INPUTS: [(&str, Byte); 6] = [
    ("one endless line", |_| b'x'),
    ("empty lines", |_| b'\n'),
    ("zeros", |_| 0),
    ("short lines", |at| if scattered(at).is_multiple_of(27) { b'\n' } else { b'x' }),
    ("long lines", |at| if scattered(at).is_multiple_of(50_000) { b'\n' } else { 0xff }),
    ("carriage returns", |at| if scattered(at).is_multiple_of(90_000) { b'\n' } else { b'\r' }),
];

/// How far the heap rose above what it was before.
fn peak<T>(work: impl FnOnce() -> T) -> u64 {
    let before = heap::stats().unwrap().live.as_u64();
    heap::reset_peak();
    drop(work());
    heap::stats().unwrap().peak.at_most.as_u64() - before
}

fn drain<F: Framing>(framing: F, chunk: u64, max: u64, oversize: Oversize, input: Made) {
    let builder = RecordReader::framed(framing, ByteSize::bytes(max)).chunk(ByteSize::bytes(chunk)).oversize(oversize);
    let mut reader = builder.build(input).unwrap();
    while !matches!(reader.next_record(), Ok(None)) {}
}

fn records_take_no_more_than_the_formula_whatever_the_input() {
    let len = if cfg!(miri) { 20_000 } else { 1_000_000 };
    for (name, byte) in INPUTS {
        for (chunk, max) in [(1 << 16, 1 << 10), (1 << 10, 1 << 16), (1, 77), (300_000, 0)] {
            let len = if chunk == 1 { len / 20 } else { len };
            for oversize in [Oversize::Error, Oversize::Truncate, Oversize::Skip] {
                let made = || Made { left: len, at: 0, byte };
                let taken = [
                    (1, peak(|| drain(Lines, chunk, max, oversize, made()))),
                    (1, peak(|| drain(Delimiter::byte(b'\n'), chunk, max, oversize, made()))),
                    (5, peak(|| drain(Delimiter::string(b"\n\n\n\n\n").unwrap(), chunk, max, oversize, made()))),
                    (0, peak(|| drain(LengthPrefix::big_endian(), chunk, max, oversize, made()))),
                ];
                for (delimiter, taken) in taken {
                    let formula = chunk + max + 2 * delimiter + 4096;
                    assert!(taken <= formula, "{name}, chunk {chunk}, max {max}: {taken} over {formula}");
                }
            }
        }
    }
}

/// It would hold of a formula that is too generous; this one is reached.
fn the_formula_is_no_excuse() {
    let byte = |at| if at % 1025 == 1024 { b'\n' } else { b'x' };
    let taken = peak(|| drain(Lines, 1000, 1024, Oversize::Error, Made { left: 100_000, at: 0, byte }));
    assert!((1000 + 1024 + 4096..=1000 + 1024 + 1 + 4096).contains(&taken), "{taken}");
}

fn chunks_take_one_chunk() {
    let taken = peak(|| {
        let mut chunks =
            ChunkReader::builder(ByteSize::kib(100)).build(Made { left: 1_000_000, at: 0, byte: |_| 0 }).unwrap();
        while chunks.next_chunk().unwrap().is_some() {}
    });
    assert_eq!(taken, 100 << 10);
}

fn records_worked_on_in_parallel_take_no_more_than_the_formula() {
    const WORKERS: u64 = 3;
    // Each thread has its own credit with the allocator, and std its books of it.
    const SLACK: u64 = WORKERS * (32 << 10) + (4 << 10);
    let len = if cfg!(miri) { 20_000 } else { 2_000_000 };
    for (name, byte) in INPUTS {
        let (chunk, max, batch, window) = (1 << 16, 1 << 14, 1 << 15, 1 << 18);
        let taken = peak(|| {
            let builder =
                LineReader::builder(ByteSize::bytes(max)).chunk(ByteSize::bytes(chunk)).oversize(Oversize::Skip);
            let parallel = builder.build(Made { left: len, at: 0, byte }).unwrap().into_parallel(3);
            let parallel = parallel.batch(ByteSize::bytes(batch)).window(ByteSize::bytes(window));
            let map = parallel.map(|record| Ok::<_, io::Error>(record.to_vec()));
            map.for_each_in_order(|_| Ok::<_, io::Error>(())).unwrap()
        });
        let formula = chunk + max + 1 + 4096 + WORKERS * (batch + max + (20 << 10)) + window + WORKERS * max;
        assert!(taken <= formula + SLACK, "{name}: {taken} over {formula}");
    }
}

fn results_put_aside_take_no_more_than_the_window() {
    const WORKERS: u64 = 3;
    const SLACK: u64 = WORKERS * (32 << 10) + (4 << 10);
    let chunks = if cfg!(miri) { 200 } else { 30_000 };
    for (window, ordered) in [(1 << 20, true), (1 << 17, true), (1 << 17, false), (0, false)] {
        let taken = peak(|| {
            let input = Made { left: 64 * chunks, at: 0, byte: |_| 1 };
            let reader = ChunkReader::builder(ByteSize::bytes(64)).build(input).unwrap();
            let done = std::sync::atomic::AtomicU64::new(0);
            let map = reader.into_parallel(3).window(ByteSize::bytes(window)).map(|chunk| {
                // The first takes until the others have done what they may, or all.
                let mut before = 0;
                while chunk.offset() == 0 && before != done.load(std::sync::atomic::Ordering::SeqCst) {
                    before = done.load(std::sync::atomic::Ordering::SeqCst);
                    (0..2000).for_each(|_| std::thread::yield_now());
                }
                done.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                Ok::<_, io::Error>(chunk.offset())
            });
            let sink = |_| Ok::<_, io::Error>(());
            if ordered { map.for_each_in_order(sink) } else { map.for_each_unordered(sink) }.unwrap()
        });
        let formula = WORKERS * 64 + window + WORKERS * 64;
        assert!(taken <= formula + SLACK, "window {window}, ordered {ordered}: {taken} over {formula}");
    }
}

fn a_refused_buffer_is_an_error_and_reading_goes_on() {
    let input = [b"one\n".as_slice(), &b"x".repeat(100_000), b"\nthree\n"].concat();
    let mut lines = LineReader::builder(ByteSize::mib(64)).chunk(ByteSize::kib(1)).build(&input[..]).unwrap();
    assert_eq!(*lines.next_record().unwrap().unwrap(), *b"one");
    let live = heap::stats().unwrap().live;
    heap::set_limit(live.saturating_add(ByteSize::kib(90))).unwrap();
    let error = lines.next_record().unwrap_err();
    let StreamError::Memory { offset: 4, number: 2, .. } = error else { panic!("{error}") };
    assert!(lines.next_record().is_err(), "and again");
    heap::clear_limit();
    assert_eq!(lines.next_record().unwrap().unwrap().len(), 100_000, "nothing of it was lost");
    assert_eq!(*lines.next_record().unwrap().unwrap(), *b"three");
    heap::set_limit(heap::stats().unwrap().live.saturating_add(ByteSize::kib(90))).unwrap();
    let refused = LineReader::builder(ByteSize::kib(1)).chunk(ByteSize::mib(1)).build(io::empty());
    heap::clear_limit();
    assert_eq!(refused.unwrap_err().to_string(), "there is no memory for a buffer of 1.0 MiB");
}

fn short_of_memory_a_parallel_run_has_fewer_workers_or_does_not_start() {
    let byte = |at| if scattered(at).is_multiple_of(4000) { b'\n' } else { b'x' };
    let (mut started, mut refused) = (0, 0);
    for room in (20..200).map(ByteSize::kib) {
        let builder = LineReader::builder(ByteSize::kib(32)).chunk(ByteSize::kib(4)).oversize(Oversize::Skip);
        let reader = builder.build(Made { left: 200_000, at: 0, byte }).unwrap();
        let map = reader.into_parallel(4).batch(ByteSize::kib(8)).map(|line| Ok::<_, io::Error>(line.len()));
        heap::set_limit(heap::stats().unwrap().live.saturating_add(room)).unwrap();
        let ended = map.for_each_in_order(|_| Ok::<_, io::Error>(()));
        heap::clear_limit();
        match ended {
            Ok(report) => {
                assert_eq!(report.offset, 200_000, "with room for {room}");
                started += 1;
            }
            Err(ParallelError::Build { committed: 0, .. }) => refused += 1,
            Err(error) => panic!("with room for {room}: {error}"),
        }
    }
    assert!(started > 0 && refused > 0, "{started} started, {refused} refused");
}

#[cfg(not(feature = "gzip"))]
fn gzip_takes_what_it_says() {}

#[cfg(feature = "gzip")]
fn gzip_takes_what_it_says() {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    for piece in 0..if cfg!(miri) { 1_000_u32 } else { 100_000 } {
        writeln!(encoder, "{}, {piece} and text that is there again", scattered(piece as usize)).unwrap();
    }
    let input = encoder.finish().unwrap();
    let taken = peak(|| {
        let mut reader = plimsoll::stream::GzipReader::new(&input[..], ByteSize::gib(1));
        io::copy(&mut reader, &mut io::sink()).unwrap()
    });
    assert!((32 << 10..=(32 + 50) << 10).contains(&taken), "{taken}");
}

#[cfg(not(feature = "tokio"))]
fn a_stream_of_bytes_takes_the_carry_alone() {}

#[cfg(feature = "tokio")]
fn a_stream_of_bytes_takes_the_carry_alone() {
    use bytes::Bytes;
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    struct Items(usize);
    impl futures_core::Stream for Items {
        type Item = io::Result<Bytes>;

        fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            const ITEM: [u8; 5000] = {
                let mut item = [b'x'; 5000];
                item[1234] = b'\n';
                item
            };
            self.0 -= 1;
            Poll::Ready((self.0 > 0).then(|| Ok(Bytes::from_static(&ITEM))))
        }
    }
    let taken = peak(|| {
        let mut lines = LineReader::builder(ByteSize::bytes(6000)).build_stream(Items(1000)).unwrap();
        let mut all = pin!(async { while lines.next_record().await.unwrap().is_some() {} });
        assert!(all.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
    });
    assert!((4999 + 4096..=6001 + 4096).contains(&taken), "{taken}");
}
