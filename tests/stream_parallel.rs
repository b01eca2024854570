//! The same records worked on by several threads: what comes out, in which order, and where it stops.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::items_after_statements,
    reason = "a test stops at the first surprise"
)]

#[path = "support/stream.rs"]
mod support;

use std::io::{self, Read};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Barrier, Mutex};
use std::time::{Duration, SystemTime};

use plimsoll::clock::ManualClock;
use plimsoll::stream::{
    ChunkReader, Framing, LineReader, Oversize, ParallelError, ParallelReport, Record, RecordReader, StreamError,
};
use support::{Case, Pieces, Random, Said, bytes, cases, with_framing};

const CASES: u64 = 4_000;

type Nothing = std::convert::Infallible;
type Own = (u64, u64, Vec<u8>);

fn own(record: Record<&[u8]>) -> Own {
    (record.offset(), record.number(), record.to_vec())
}

/// A case in which nothing is said but records.
fn quiet(seed: u64) -> (Case, Vec<Own>) {
    let mut case = Case::random(seed);
    if case.oversize == Oversize::Error {
        case.oversize = Oversize::Skip;
    }
    let (said, _) = case.twin();
    let records = said.into_iter().filter_map(|said| match said {
        Said::Record { offset, number, bytes, .. } => Some((offset, number, bytes)),
        _ => None,
    });
    let records = records.collect();
    (case, records)
}

/// Where a map or a sink is to fail, by the number of the record or of the call.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fail {
    Never,
    Map(u64),
    MapPanic(u64),
    Sink(usize),
    SinkPanic(usize),
}

fn run<F: Framing>(
    framing: F,
    case: &Case,
    seed: u64,
    ordered: bool,
    fail: Fail,
) -> (Vec<Own>, Result<ParallelReport, ParallelError>) {
    let random = &mut Random::new(!seed);
    let builder = RecordReader::framed(framing, bytes(case.max)).oversize(case.oversize).chunk(bytes(case.chunk));
    let parallel = builder.build(&case.input[..]).unwrap().into_parallel(1 + random.below(4));
    let parallel = parallel.batch(bytes(random.below(60))).window(bytes([0, 200, 2000, 1 << 20][random.below(4)]));
    let map = parallel.map(|record: Record<&[u8]>| {
        assert!(fail != Fail::MapPanic(record.number()), "no way");
        if fail == Fail::Map(record.number()) { Err("no".to_owned()) } else { Ok(own(record)) }
    });
    let mut out = Vec::new();
    let sink = |result| {
        assert!(fail != Fail::SinkPanic(out.len()), "no way");
        if fail == Fail::Sink(out.len()) {
            return Err("no");
        }
        out.push(result);
        Ok(())
    };
    let report = if ordered { map.for_each_in_order(sink) } else { map.for_each_unordered(sink) };
    (out, report)
}

/// Panics that are meant say nothing.
fn hush() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let say = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if info.payload().downcast_ref() != Some(&"no way") && !info.payload().is::<Bomb>() {
                say(info);
            }
        }));
    });
}

#[test]
fn in_order_all_results_come_as_from_one_thread() {
    for seed in 0..cases(CASES) {
        let (case, records) = quiet(seed);
        let (out, report) = with_framing!(case, run, &case, seed, true, Fail::Never);
        assert!(out == records, "seed {seed}, {case:?}: {out:?}");
        match report {
            Ok(report) => {
                assert_eq!((report.records, report.offset), (records.len() as u64, case.input.len() as u64));
                assert_eq!(report.stats, case.twin().1);
            }
            Err(ParallelError::Read { source: StreamError::CutOff { .. }, .. }) => {}
            Err(error) => panic!("seed {seed}, {case:?}: {error}"),
        }
    }
}

#[test]
fn in_any_order_all_results_come_once() {
    for seed in 0..cases(CASES) {
        let (case, records) = quiet(seed);
        let (mut out, _) = with_framing!(case, run, &case, seed, false, Fail::Never);
        out.sort();
        assert!(out == records, "seed {seed}, {case:?}: {out:?}");
    }
}

#[test]
fn the_first_failure_in_the_input_stops_all_and_says_where_to_resume() {
    hush();
    for seed in 0..cases(CASES) {
        let (case, records) = quiet(seed);
        let Some(at) = Random::new(seed).below(records.len() + 1).checked_sub(1) else { continue };
        let (offset, number, _) = records[at];
        let fails = [Fail::Map(number), Fail::MapPanic(number), Fail::Sink(at), Fail::SinkPanic(at)];
        for fail in fails {
            let (out, report) = with_framing!(case, run, &case, seed, true, fail);
            assert!(out == records[..at], "{fail:?}, seed {seed}, {case:?}: {out:?}");
            let error = report.unwrap_err();
            let (at, said, committed) = match &error {
                ParallelError::Map { offset, number, committed, source, .. }
                | ParallelError::Sink { offset, number, committed, source, .. } => {
                    ((*offset, *number), source.to_string(), *committed)
                }
                ParallelError::Panic { offset, number, committed, message, .. } => {
                    ((*offset, *number), message.clone(), *committed)
                }
                error => panic!("{fail:?}, seed {seed}: {error}"),
            };
            assert_eq!((at, committed, error.committed()), ((offset, number), offset, offset), "{fail:?}, seed {seed}");
            assert!(said == "no" || said == "no way");
        }
    }
}

#[test]
fn in_any_order_a_failure_stops_all_and_what_is_committed_was_given() {
    hush();
    for seed in 0..cases(CASES) {
        let (case, records) = quiet(seed);
        let Some(at) = Random::new(seed).below(records.len() + 1).checked_sub(1) else { continue };
        for fail in [Fail::Map(records[at].1), Fail::Sink(at), Fail::SinkPanic(at)] {
            let (mut out, report) = with_framing!(case, run, &case, seed, false, fail);
            let committed = report.unwrap_err().committed();
            out.sort();
            let before = records.iter().filter(|record| record.0 < committed);
            assert!(before.clone().all(|record| out.binary_search(record).is_ok()), "{fail:?}, seed {seed}, {case:?}");
            assert!(out.windows(2).all(|pair| pair[0] < pair[1]), "given twice: {fail:?}, seed {seed}, {case:?}");
        }
    }
}

#[test]
fn chunks_come_in_order_and_whole() {
    for seed in 0..cases(CASES) {
        let random = &mut Random::new(seed);
        let input: Vec<u8> = (0..random.below(3000)).map(|_| random.below(256) as u8).collect();
        let size = 1 + random.below(400);
        let reader = ChunkReader::builder(bytes(size)).resume_at(1000).build(&input[..]).unwrap();
        let mut out = Vec::new();
        let report = reader
            .into_parallel(1 + random.below(4))
            .window(bytes(random.below(3000)))
            .map(|chunk| Ok::<_, Nothing>(own(chunk)));
        let report = report
            .for_each_in_order(|chunk| {
                out.push(chunk);
                Ok::<_, Nothing>(())
            })
            .unwrap();
        let expected: Vec<Own> =
            (0..).zip(input.chunks(size)).map(|(i, chunk)| (1000 + i * size as u64, i + 1, chunk.to_vec())).collect();
        assert!(out == expected, "seed {seed}");
        assert_eq!((report.records, report.offset), (expected.len() as u64, 1000 + input.len() as u64));
    }
}

#[test]
fn a_chunk_begun_before_an_error_goes_to_the_workers() {
    let input = b"0123456789";
    for seed in 0..200 {
        let mut chunks = ChunkReader::builder(bytes(4)).build(Pieces::new(input, seed)).unwrap();
        while chunks.next_chunk().is_ok_and(|chunk| chunk.is_some()) {}
        let from = usize::try_from(chunks.offset()).unwrap();
        let mut out = Vec::new();
        let map = chunks.into_parallel(3).map(|chunk| Ok::<_, Nothing>(own(chunk)));
        let end = map.for_each_in_order(|(offset, _, chunk)| {
            assert_eq!(chunk, input[offset as usize..][..chunk.len()], "seed {seed}");
            out.extend(chunk);
            Ok::<_, Nothing>(())
        });
        let end = end.map_or_else(|error| error.committed(), |report| report.offset);
        assert_eq!(out, input[from..usize::try_from(end).unwrap()], "seed {seed}");
    }
}

#[test]
fn workers_without_number_are_as_many_as_count() {
    let reader = LineReader::builder(bytes(10)).build(&b"1\n2\n3"[..]).unwrap();
    let map = reader.into_parallel(usize::MAX).map(|_| Ok::<_, Nothing>(()));
    assert_eq!(map.for_each_in_order(|()| Ok::<_, Nothing>(())).unwrap().records, 3);
}

#[test]
fn no_number_of_workers_is_one_for_each_processor() {
    let processors = std::thread::available_parallelism().unwrap().get().min(256);
    let (meet, threads) = (Barrier::new(processors), Mutex::new(std::collections::HashSet::new()));
    let input = vec![b'x'; 3 * processors];
    // All have to be there for any to go on, three times.
    let map = ChunkReader::builder(bytes(1)).build(&input[..]).unwrap().into_parallel(0).map(|_| {
        threads.lock().unwrap().insert(std::thread::current().id());
        meet.wait();
        Ok::<_, Nothing>(())
    });
    assert_eq!(map.for_each_in_order(|()| Ok::<_, Nothing>(())).unwrap().records, 3 * processors as u64);
    assert_eq!(threads.into_inner().unwrap().len(), processors);
    // Of records too, whose input here has none.
    let none = LineReader::builder(bytes(1)).build(io::empty()).unwrap().into_parallel(0).map(|_| Ok::<_, Nothing>(()));
    assert_eq!(none.for_each_unordered(|()| Ok::<_, Nothing>(())).unwrap().records, 0);
}

#[test]
fn a_run_inside_of_a_panic_is_as_any_other() {
    hush();
    struct Runs<'a>(&'a mut u64);
    impl Drop for Runs<'_> {
        fn drop(&mut self) {
            let input = b"x\n".repeat(3000);
            let reader = LineReader::builder(bytes(10)).build(&input[..]).unwrap();
            let map = reader.into_parallel(3).batch(bytes(4)).map(|_| Ok::<_, Nothing>(()));
            *self.0 = map.for_each_in_order(|()| Ok::<_, Nothing>(())).unwrap().records;
        }
    }
    let mut records = 0;
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _runs = Runs(&mut records);
        panic!("no way");
    }));
    assert!(panicked.is_err());
    assert_eq!(records, 3000);
}

#[test]
fn workers_work_at_the_same_time() {
    let meet = Barrier::new(3);
    let reader = ChunkReader::builder(bytes(1)).build(&b"abc"[..]).unwrap();
    let map = reader.into_parallel(3).map(|_| {
        meet.wait();
        Ok::<_, Nothing>(0)
    });
    assert_eq!(map.for_each_in_order(|_| Ok::<_, Nothing>(())).unwrap().records, 3);
}

#[test]
fn results_that_wait_stay_within_the_window() {
    /// How many results there are at a time, of 1000 bytes each.
    static LIVE: AtomicUsize = AtomicUsize::new(0);
    static MOST: AtomicUsize = AtomicUsize::new(0);
    struct Heavy;
    impl plimsoll::HeapSize for Heavy {
        fn heap_size(&self) -> usize {
            1000
        }
    }
    impl Drop for Heavy {
        fn drop(&mut self) {
            LIVE.fetch_sub(1, Relaxed);
        }
    }
    let input = b"x\n".repeat(20_000);
    let reader = LineReader::builder(bytes(10)).build(&input[..]).unwrap();
    let map = reader.into_parallel(4).batch(bytes(2)).window(bytes(20_000)).map(|line| {
        // The first is slow, so that the others pile up behind it.
        if line.number() == 1 {
            (0..1_000_000).take_while(|_| LIVE.load(Relaxed) < 12).for_each(|_| std::thread::yield_now());
        }
        MOST.fetch_max(1 + LIVE.fetch_add(1, Relaxed), Relaxed);
        Ok::<_, Nothing>(Heavy)
    });
    assert_eq!(map.for_each_in_order(|_| Ok::<_, Nothing>(())).unwrap().records, 20_000);
    let most = MOST.load(Relaxed);
    assert!((12..=20 + 4).contains(&most), "{most} results of 1000 bytes at a time under a window of 20,000");
}

#[test]
fn a_failing_input_and_a_panicking_one_end_the_run() {
    hush();
    struct Breaks(Option<io::Error>);
    impl Read for Breaks {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(self.0.take().unwrap_or_else(|| panic!("no way")))
        }
    }
    for error in [Some(io::ErrorKind::ConnectionReset.into()), None] {
        let panics = error.is_none();
        let input = (&b"one\ntwo\nthr"[..]).chain(Breaks(error));
        let reader = LineReader::builder(bytes(10)).build(input).unwrap();
        let out = Mutex::new(Vec::new());
        let map = reader.into_parallel(2).map(|line| Ok::<_, Nothing>(line.to_vec()));
        let error = map
            .for_each_in_order(|line| {
                out.lock().unwrap().push(line);
                Ok::<_, Nothing>(())
            })
            .unwrap_err();
        assert_eq!(out.into_inner().unwrap(), [b"one", b"two"]);
        assert_eq!(error.committed(), 8);
        match error {
            ParallelError::Read { source: StreamError::Read { offset: 11, number: 3, .. }, .. } if !panics => {}
            ParallelError::Panic { offset: 8, number: 3, .. } if panics => {}
            error => panic!("{error}"),
        }
    }
}

#[test]
fn the_deadline_stops_a_run_at_what_is_committed() {
    let manual = ManualClock::new();
    let deadline = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_060);
    let input = b"x\n".repeat(1000);
    let builder = LineReader::builder(bytes(10)).chunk(bytes(64)).deadline(deadline).clock(manual.clock());
    let map = builder.build(&input[..]).unwrap().into_parallel(2).batch(bytes(8)).map(|_| {
        manual.advance(Duration::from_secs(1));
        Ok::<_, Nothing>(())
    });
    let mut given = 0;
    let error = map
        .for_each_in_order(|()| {
            given += 1;
            Ok::<_, Nothing>(())
        })
        .unwrap_err();
    assert_eq!(error.committed(), 2 * given);
    assert!((40..=90).contains(&given), "{given}");
    let ParallelError::Read { source: StreamError::Deadline { resume_at, .. }, committed, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(resume_at, committed);
}

#[test]
fn the_deadline_stops_what_was_pulled_before_it() {
    for workers in [1, 2] {
        let manual = ManualClock::new();
        let deadline = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_060);
        let input = b"x\n".repeat(3000);
        let builder = LineReader::builder(bytes(10)).deadline(deadline).clock(manual.clock());
        let map = builder.build(&input[..]).unwrap().into_parallel(workers).map(|_| {
            manual.advance(Duration::from_secs(1));
            Ok::<_, Nothing>(())
        });
        let mut given = 0;
        let count = |()| {
            given += 1;
            Ok::<_, Nothing>(())
        };
        let error = map.for_each_in_order(count).unwrap_err();
        // Each worker may be at one record when it comes.
        assert!(given <= 60 + workers as u64, "{given}");
        assert_eq!(error.committed(), 2 * given);
        assert!(matches!(error, ParallelError::Read { source: StreamError::Deadline { .. }, .. }), "{error}");
    }
}

#[test]
fn a_sink_that_failed_is_not_called_again() {
    let input = b"x\n".repeat(400);
    for round in 0..500 {
        let reader = LineReader::builder(bytes(10)).build(&input[..]).unwrap();
        let map = reader.into_parallel(4).batch(bytes(1)).window(bytes(0)).map(|_| Ok::<_, Nothing>(()));
        let mut calls = 0;
        let once = |()| {
            calls += 1;
            if calls == 200 { Err("full") } else { Ok(()) }
        };
        assert!(matches!(map.for_each_unordered(once), Err(ParallelError::Sink { .. })));
        assert_eq!(calls, 200, "round {round}");
    }
}

#[test]
fn a_worker_lost_in_a_drop_leaves_nobody_waiting() {
    hush();
    struct Bomb(u64);
    impl plimsoll::HeapSize for Bomb {
        fn heap_size(&self) -> usize {
            0
        }
    }
    impl Drop for Bomb {
        fn drop(&mut self) {
            assert!(self.0 != 50 || std::thread::panicking(), "no way");
        }
    }
    let input = b"x\n".repeat(1000);
    let reader = LineReader::builder(bytes(10)).build(&input[..]).unwrap();
    let map = reader
        .into_parallel(3)
        .batch(bytes(4))
        .map(|line| if line.number() == 60 { Err("no") } else { Ok(Bomb(line.number())) });
    let run =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| map.for_each_in_order(|_bomb| Ok::<_, Nothing>(()))));
    // The sink drops it, so it is the sink's panic.
    assert!(matches!(run.unwrap(), Err(ParallelError::Panic { number: 50, .. })));
}

/// Panics as it is dropped, once.
struct Bomb(bool);

impl Drop for Bomb {
    fn drop(&mut self) {
        assert!(!std::mem::take(&mut self.0) || std::thread::panicking(), "no way");
    }
}

impl plimsoll::HeapSize for Bomb {
    fn heap_size(&self) -> usize {
        0
    }
}

#[test]
fn what_a_panic_throws_may_panic_too() {
    hush();
    let input = b"x\n".repeat(1000);
    for (worker, thrower) in (1..=4).flat_map(|workers| ["map", "sink", "input"].map(|thrower| (workers, thrower))) {
        let throw = |here: bool| {
            if here {
                std::panic::panic_any(Bomb(true));
            }
        };
        struct Throws(bool);
        impl Read for Throws {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                if self.0 { std::panic::panic_any(Bomb(true)) } else { Ok(0) }
            }
        }
        let reader = LineReader::builder(bytes(10)).build(input.chain(Throws(thrower == "input"))).unwrap();
        let map = reader.into_parallel(worker).batch(bytes(4)).map(|line| {
            throw(thrower == "map" && line.number() == 60);
            Ok::<_, Nothing>(line.number())
        });
        let error = map.for_each_in_order(|number| {
            throw(thrower == "sink" && number == 60);
            Ok::<_, Nothing>(())
        });
        let number = if thrower == "input" { 1001 } else { 60 };
        let ParallelError::Panic { offset, number: at, committed, message, .. } = error.unwrap_err() else { panic!() };
        assert_eq!((at, offset, committed), (number, 2 * (number - 1), offset), "{thrower}, {worker} workers");
        assert_eq!(message, "(no text)");
    }
}

#[test]
fn a_result_that_panics_as_it_is_thrown_away_is_the_callers_panic() {
    hush();
    // Without a window the second worker waits, a result in its hands, for the first, which fails.
    let meet = Barrier::new(2);
    let reader = LineReader::builder(bytes(10)).build(&b"1\n2\n"[..]).unwrap();
    let map = reader.into_parallel(2).batch(bytes(1)).window(bytes(0)).map(|line| {
        meet.wait();
        if line.number() == 1 { Err("no") } else { Ok(Bomb(true)) }
    });
    let run = std::panic::AssertUnwindSafe(|| map.for_each_in_order(|_| Ok::<_, Nothing>(())));
    assert!(std::panic::catch_unwind(run).is_err());
}
