//! A small case of each core, for checkers that take a thousand times as long as the processor: Miri, above all.
//!
//! The models beside this file prove more; here each path is walked once or a few times.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use plimsoll::budget::{ReclaimPriority, reclaim_fn};
use plimsoll::cache::Eviction;
use plimsoll::stream::{
    ChunkReader, Delimiter, Framing, LengthPrefix, LineReader, Oversize, RecordReader, StreamBuilder, StreamError,
};
use plimsoll::{ByteSize, Cache, LazyResource, ManualClock, MemoryBudget, Pressure};

#[test]
fn a_cache_of_either_policy_evicts_expires_removes_and_is_emptied() {
    for eviction in [Eviction::S3Fifo, Eviction::Lru] {
        let manual = ManualClock::new();
        let cache: Cache<u32, Box<u32>> = Cache::builder("small")
            .max_entries(8)
            .max_bytes(ByteSize::kib(4))
            .time_to_live(Duration::from_secs(10))
            .eviction(eviction)
            .clock(manual.clock())
            .build()
            .unwrap();
        for key in 0..40 {
            cache.insert(key, Box::new(key)).unwrap();
            cache.insert(key / 2, Box::new(key)).unwrap();
            let _hit_or_miss = cache.get(&(key / 3));
            assert!(cache.len() <= 8);
        }
        assert_eq!(cache.get(&19), Some(Box::new(39)));
        assert_eq!(cache.remove(&19), Some(Box::new(39)));
        assert_eq!(cache.try_get_or_load(&77, |_| Ok::<_, Infallible>(Box::new(7))).unwrap(), Box::new(7));
        assert!(cache.try_get_or_load(&78, |_| Err::<Box<u32>, _>("no")).is_err());
        cache.retain(|key, _| key % 2 == 1);
        manual.advance(Duration::from_secs(11));
        assert_eq!(cache.get(&77), None);
        cache.remove_expired(100);
        cache.set_max_entries(2);
        cache.clear();
        assert!(cache.is_empty());
    }
}

/// The longest record.
const MAX: ByteSize = ByteSize::bytes(5);

/// What a reader gave out of an input, at offsets, and how many records were refused.
fn read<F: Framing>(
    builder: StreamBuilder<F>,
    oversize: Oversize,
    chunk: u64,
    input: &[u8],
) -> (Vec<(u64, Vec<u8>)>, u64) {
    let mut records = builder.oversize(oversize).chunk(ByteSize::bytes(chunk)).build(input).unwrap();
    let (mut given, mut refused) = (Vec::new(), 0);
    loop {
        match records.next_record() {
            Ok(Some(record)) => given.push((record.offset(), record.to_vec())),
            Ok(None) => return (given, refused),
            Err(StreamError::Oversize { .. } | StreamError::CutOff { .. }) => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn readers_of_each_framing_give_the_same_in_chunks_of_any_size() {
    let prefixed =
        [&[0, 0, 0, 2][..], b"ab", &[0, 0, 0, 9], b"too long!", &[0, 0, 0, 0], &[0, 0, 0, 5], b"cut"].concat();
    for oversize in [Oversize::Error, Oversize::Truncate, Oversize::Skip] {
        let lines = |chunk| read(LineReader::builder(MAX), oversize, chunk, b"a\r\n\nfar too long\nlast");
        let delimited = |chunk| {
            read(
                RecordReader::framed(Delimiter::string(b"--").unwrap(), MAX),
                oversize,
                chunk,
                b"a--b-c--far too long--",
            )
        };
        let prefix = |chunk| read(RecordReader::framed(LengthPrefix::big_endian(), MAX), oversize, chunk, &prefixed);
        for chunk in [1, 2, 3, 7] {
            assert_eq!(lines(chunk), lines(64));
            assert_eq!(delimited(chunk), delimited(64));
            assert_eq!(prefix(chunk), prefix(64));
        }
        assert_eq!(lines(64).0.first(), Some(&(0, b"a".to_vec())));
    }
    let mut chunks = ChunkReader::builder(ByteSize::bytes(4)).build(&b"0123456789"[..]).unwrap();
    let mut seen = Vec::new();
    while let Some(chunk) = chunks.next_chunk().unwrap() {
        seen.push(chunk.to_vec());
    }
    assert_eq!(seen, [b"0123".to_vec(), b"4567".to_vec(), b"89".to_vec()]);
}

#[test]
fn lines_are_read_by_several_threads_in_order() {
    let lines = LineReader::builder(ByteSize::bytes(64)).chunk(ByteSize::bytes(16)).build(&b"1\n22\n333\n4\n5\n"[..]);
    let mut lengths = Vec::new();
    let report = lines.unwrap().into_parallel(2).map(|line| Ok::<_, Infallible>(line.len())).for_each_in_order(|len| {
        lengths.push(len);
        Ok::<(), Infallible>(())
    });
    assert_eq!((report.unwrap().records, lengths), (5, vec![1, 2, 3, 1, 1]));
}

#[test]
fn a_budget_grants_reclaims_splits_merges_and_is_at_zero_in_the_end() {
    let budget = MemoryBudget::new(ByteSize::kib(100));
    let cache = budget.account("cache").unwrap();
    let held = Arc::new(Mutex::new(cache.try_reserve(ByteSize::kib(80)).unwrap()));
    let shared = Arc::clone(&held);
    let reclaimer = reclaim_fn(move |want: ByteSize, _: Pressure| {
        let _released = { shared.try_lock().map_or(ByteSize::ZERO, |mut held| held.shrink(want)) };
    });
    let registered = cache.register_reclaimer(ReclaimPriority::CACHE, reclaimer);
    let threads: Vec<_> = (0..2)
        .map(|_| {
            let buffers = budget.account("buffers").unwrap();
            thread::spawn(move || {
                let mut reserved = buffers.try_reserve(ByteSize::kib(20)).unwrap();
                let part = reserved.split(ByteSize::kib(5)).unwrap();
                reserved.merge(part).unwrap();
                reserved.try_resize(ByteSize::kib(10)).unwrap();
                reserved.grow(ByteSize::kib(1));
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert!(cache.reserved() <= ByteSize::kib(80));
    drop((registered, held));
    assert_eq!(budget.reserved(), ByteSize::ZERO);
}

#[test]
fn a_resource_is_loaded_pinned_refreshed_and_unloaded() {
    let manual = ManualClock::new();
    let resource = LazyResource::new("small", || Ok::<_, Infallible>(vec![7_u8; 3]))
        .refresh_after(Duration::from_secs(1))
        .clock(manual.clock());
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| assert_eq!(*resource.get().unwrap(), [7, 7, 7]));
        }
    });
    let old = resource.get().unwrap();
    manual.advance(Duration::from_secs(2));
    assert_eq!(*resource.get().unwrap(), *old);
    assert_eq!(resource.unload(), Some(0), "the new one has no pin, the old one has");
    assert_eq!((old.len(), resource.status().unloading_pins), (3, 1));
}
