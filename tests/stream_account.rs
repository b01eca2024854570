//! The buffers of streams on an account: what is charged, what a refusal says, and what pressure does to a chunk.
#![allow(unsafe_code, reason = "blocks of known layout in the shared support")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests without libtest's attribute")]

mod support;

use std::convert::Infallible;
use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use plimsoll::budget::{BudgetExceeded, MemoryBudget, Pressure};
use plimsoll::stream::{BuildError, ChunkReader, LineReader, ParallelError, StreamError};
use plimsoll::{ByteSize, TrackingAllocator};

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

support::tests! {
    what_is_charged_is_what_the_heap_holds,
    a_chunk_that_is_not_granted_is_an_error_that_says_who_holds_the_rest,
    a_record_that_is_not_granted_can_be_asked_for_again,
    what_is_needed_is_granted_where_twice_as_much_is_not,
    a_reader_shows_lengths_and_no_content,
    under_pressure_a_chunk_is_a_quarter_and_grows_back_with_calm,
    under_pressure_records_are_the_same,
    workers_charge_their_batches_and_give_them_back,
    what_is_not_granted_costs_workers_or_the_start_and_never_the_middle,
}

/// Lines of every length up to `longest`, again and again.
fn lines(bytes: usize, longest: usize) -> Vec<u8> {
    let mut input = Vec::with_capacity(bytes + longest + 1);
    let mut length = 0;
    while input.len() < bytes {
        input.resize(input.len() + length, b'x');
        input.push(b'\n');
        length = (length + 37) % longest;
    }
    input
}

fn what_is_charged_is_what_the_heap_holds() {
    let input = lines(3_000_000, 20_000);
    let budget = MemoryBudget::new(ByteSize::mib(10));
    let account = budget.account("lines").unwrap();
    // The account's own bookkeeping is there before and after.
    let before = support::live();
    let mut reader = LineReader::builder(ByteSize::kib(32))
        .chunk(ByteSize::kib(64))
        .account(account.clone())
        .build(&*input)
        .unwrap();
    while reader.next_record().unwrap().is_some() {
        let held = i64::try_from(account.reserved().as_u64()).unwrap();
        // Beside the buffers, each reservation holds on to its account: some pointers.
        let heap = support::live() - before;
        assert!((heap - held).abs() < 512, "{heap} live, {held} charged");
    }
    assert!(account.peak() > ByteSize::kib(64 + 16), "the carry is charged as it grows: {}", account.peak());
    drop(reader);
    assert_eq!((account.reserved(), support::live()), (ByteSize::ZERO, before));
}

fn a_chunk_that_is_not_granted_is_an_error_that_says_who_holds_the_rest() {
    let budget = MemoryBudget::new(ByteSize::kib(512));
    let _cache = budget.account("orders").unwrap().try_reserve(ByteSize::kib(400)).unwrap();
    let account = budget.account("chunks").unwrap();
    for error in [
        ChunkReader::builder(ByteSize::kib(200)).account(account.clone()).build(&b""[..]).map(drop).unwrap_err(),
        LineReader::builder(ByteSize::kib(1)).account(account.clone()).build(&b""[..]).map(drop).unwrap_err(),
    ] {
        assert!(matches!(error, BuildError::Budget { .. }), "{error:?}");
        let source = error.source().and_then(|source| source.downcast_ref::<BudgetExceeded>()).unwrap();
        let said = source.to_string();
        assert!(said.contains("chunks") && said.contains("orders 400.0 KiB"), "{said}");
    }
    assert_eq!(account.reserved(), ByteSize::ZERO, "nothing stays of what was not built");
}

fn a_record_that_is_not_granted_can_be_asked_for_again() {
    let budget = MemoryBudget::new(ByteSize::kib(512));
    let account = budget.account("lines").unwrap();
    let long = [&b"first\n"[..], &vec![b'x'; 150_000], b"\nlast\n"].concat();
    let build =
        |account| LineReader::builder(ByteSize::kib(256)).chunk(ByteSize::kib(16)).account(account).build(&*long);
    let mut reader = build(account).unwrap();
    let cache = budget.account("orders").unwrap().try_reserve(ByteSize::kib(440)).unwrap();
    assert_eq!(reader.next_record().unwrap().as_deref(), Some(&b"first"[..]));
    let error = reader.next_record().unwrap_err();
    assert!(matches!(error, StreamError::Budget { offset: 6, number: 2, .. }), "{error:?}");
    assert!(
        matches!(reader.next_record(), Err(StreamError::Budget { offset: 6, number: 2, .. })),
        "nothing has changed"
    );
    drop(cache);
    assert_eq!(reader.next_record().unwrap().map(|record| (record.len(), record.number())), Some((150_000, 2)));
    assert_eq!(reader.next_record().unwrap().as_deref(), Some(&b"last"[..]));
}

fn what_is_needed_is_granted_where_twice_as_much_is_not() {
    let budget = MemoryBudget::new(ByteSize::kib(200));
    let long = [&vec![b'x'; 140_000][..], b"\n"].concat();
    let builder =
        LineReader::builder(ByteSize::kib(256)).chunk(ByteSize::kib(16)).account(budget.account("lines").unwrap());
    let mut reader = builder.build(&*long).unwrap();
    assert_eq!(reader.next_record().unwrap().map(|record| record.len()), Some(140_000));
}

fn a_reader_shows_lengths_and_no_content() {
    let mut lines = LineReader::builder(ByteSize::kib(64)).build(&b"secret\nsecret"[..]).unwrap();
    let _first = lines.next_record().unwrap();
    // The input is the caller's to show: this one is at its end.
    let shown = format!("{lines:?}");
    assert!(shown.len() < 1000 && !shown.contains("115"), "{shown}");
}

fn under_pressure_a_chunk_is_a_quarter_and_grows_back_with_calm() {
    let budget = MemoryBudget::new(ByteSize::kib(1000));
    let account = budget.account("chunks").unwrap();
    let input = vec![7; 10_000_000];
    let mut reader = ChunkReader::builder(ByteSize::kib(100)).account(account.clone()).build(&*input).unwrap();
    let mut next = || reader.next_chunk().unwrap().map(|chunk| chunk.len() / 1024);
    assert_eq!(next(), Some(100));
    let cache = budget.account("orders").unwrap().try_reserve(ByteSize::kib(750)).unwrap();
    assert_eq!(budget.pressure(), Pressure::High);
    assert_eq!((next(), account.reserved()), (Some(25), ByteSize::kib(25)));
    assert_eq!(next(), Some(25), "calm only since it shrank: it does not grow and shrink in turn");
    drop(cache);
    assert_eq!((next(), account.reserved()), (Some(100), ByteSize::kib(100)));
}

fn under_pressure_records_are_the_same() {
    let input = lines(2_000_000, 9_000);
    let read = |squeeze: bool| {
        let budget = MemoryBudget::new(ByteSize::kib(1000));
        let builder =
            LineReader::builder(ByteSize::kib(10)).chunk(ByteSize::kib(64)).account(budget.account("lines").unwrap());
        let mut reader = builder.build(&*input).unwrap();
        let (mut seen, mut cache) = (Vec::new(), None);
        while let Some(record) = reader.next_record().unwrap() {
            seen.push((record.offset(), record.number(), record.len()));
            if squeeze && seen.len() % 50 == 0 {
                cache = match cache {
                    None => Some(budget.account("orders").unwrap().try_reserve(ByteSize::kib(850)).unwrap()),
                    Some(_) => None,
                };
            }
        }
        seen
    };
    let plain = read(false);
    assert!(plain.len() > 400);
    assert_eq!(read(true), plain);
}

fn workers_charge_their_batches_and_give_them_back() {
    let input = lines(3_000_000, 5_000);
    let budget = MemoryBudget::new(ByteSize::mib(4));
    let account = budget.account("lines").unwrap();
    let reader = LineReader::builder(ByteSize::kib(8)).account(account.clone()).build(&*input).unwrap();
    let lone = account.reserved();
    let mut bytes = 0;
    let report = reader.into_parallel(2).map(|record| Ok::<_, Infallible>(record.len())).for_each_in_order(|length| {
        bytes += length;
        Ok::<_, Infallible>(())
    });
    assert_eq!(bytes + usize::try_from(report.unwrap().stats.records).unwrap(), input.len());
    assert!(account.peak() > lone.saturating_add(ByteSize::kib(64)), "{} and {lone}", account.peak());
    assert_eq!(account.reserved(), ByteSize::ZERO);
}

fn what_is_not_granted_costs_workers_or_the_start_and_never_the_middle() {
    let input = lines(300_000, 8_000);
    let mut held = Vec::new();
    for limit in (0..170).map(ByteSize::kib) {
        let account = MemoryBudget::new(limit).account("lines").unwrap();
        let builder = LineReader::builder(ByteSize::kib(8)).chunk(ByteSize::kib(4)).account(account.clone());
        let Ok(reader) = builder.build(&*input) else { continue };
        let most = AtomicU64::new(0);
        let map = reader.into_parallel(4).batch(ByteSize::kib(8)).map(|line| {
            most.fetch_max(account.reserved().as_u64(), Relaxed);
            Ok::<_, Infallible>(line.len())
        });
        let mut bytes = 0;
        let ended = map.for_each_in_order(|length| {
            bytes += length + 1;
            Ok::<_, Infallible>(())
        });
        match ended {
            Ok(_) => assert_eq!(bytes, input.len(), "under {limit}"),
            Err(error) => {
                assert!(matches!(error, ParallelError::Build { committed: 0, .. }), "under {limit}: {error:?}");
                assert_eq!(bytes, 0, "under {limit}");
                continue;
            }
        }
        held.push(most.into_inner() >> 10);
        assert_eq!(account.reserved(), ByteSize::ZERO, "under {limit}");
    }
    // A chunk, the ends, a record, and as many workers as there is room for: each with a batch, a record and the places.
    held.dedup();
    assert_eq!(held, [52, 88, 124, 160]);
}
