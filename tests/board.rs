//! The board: names, sums, and more names than slots.

use plimsoll::{ByteSize, board};

/// One test: the board is one for the process.
#[test]
fn the_board_names_64_holders_and_the_rest_together() {
    assert_eq!(board::holders().count(), 0, "an empty board");
    let cache = board::holder("cache");
    cache.add(ByteSize::kib(5));
    board::holder("cache").add(ByteSize::kib(2));
    assert_eq!(cache.bytes(), ByteSize::kib(7), "the same name is the same holder");
    cache.sub(ByteSize::kib(8));
    assert_eq!(cache.bytes(), ByteSize::ZERO, "below zero reads as zero");
    cache.set(ByteSize::kib(3));
    assert_eq!(board::holders().collect::<Vec<_>>(), [("cache", ByteSize::kib(3))]);

    let names: Vec<&'static str> = (0..100).map(|i| &*Box::leak(format!("holder-{i}").into_boxed_str())).collect();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for name in &names {
                    board::holder(name).add(ByteSize::bytes(1));
                }
            });
        }
    });
    let all: Vec<_> = board::holders().collect();
    assert_eq!(all.len(), board::SLOTS + 1);
    let mut distinct: Vec<_> = all.iter().map(|(name, _)| name).collect();
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), all.len(), "no name came twice");
    assert_eq!(all.last().map(|(name, bytes)| (*name, bytes.as_u64())), Some(("other", 8 * 37)));
    assert_eq!(all.iter().map(|(_, bytes)| bytes.as_u64()).sum::<u64>(), 3 * 1024 + 800);
    assert_eq!(board::holder("one more").name(), "other");
}
