//! The cores of the profile against models.

#![expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "a test stops at the first surprise")]

use std::collections::HashMap;

use proptest::prelude::*;

use super::filter::AddressFilter;
use super::sample::{BLOCK_UNIT, Sample};
use super::sampling::{Hits, Interval, ThreadSampling, next_point, points_in};
use super::table::{Displaced, Full, SampleTable};
use super::tree::{CallTree, NodeId};

const KIB: u64 = 1024;

/// All sampling points of the first `strata` strata, one after the other.
fn points(interval: Interval, seed: u64, strata: u64) -> Vec<u64> {
    let mut points = Vec::new();
    let mut position = 0;
    while position < strata * interval.bytes() {
        let point = next_point(position, interval, seed);
        points.push(point);
        position = point + 1;
    }
    points
}

#[test]
fn each_stratum_has_one_point() {
    for base in [32 * KIB, 512 * KIB, 100_000] {
        let interval = Interval { base, doublings: 1 };
        for (stratum, point) in (0..).zip(points(interval, 7, 1000)) {
            assert_eq!(point / interval.bytes(), stratum);
        }
    }
}

#[test]
fn points_are_spread_over_the_stratum() {
    let interval = Interval { base: 64 * KIB, doublings: 0 };
    let mut tenths = [0; 10];
    for point in points(interval, 1, 10_000) {
        tenths[(point % interval.base * 10 / interval.base) as usize] += 1;
    }
    assert!(tenths.iter().all(|count| (850..1150).contains(count)), "{tenths:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn a_thread_counts_each_point_once(sizes in proptest::collection::vec(1..32 * KIB, 1..300), seed in 0..200_u64) {
        let interval = Interval { base: 32 * KIB, doublings: 0 };
        let sampling = ThreadSampling::new();
        let (mut countdown, mut position, mut total) = (None, 0, 0);
        for size in sizes {
            let (hits, left) = sampling.pass(countdown, size, interval, seed);
            prop_assert_eq!(hits.count, points_in(position, size, interval, seed));
            // The fast path takes bytes off the countdown, as long as there are any.
            let fast = left / 3;
            position += size + fast;
            total += hits.count;
            countdown = Some(left - fast);
        }
        prop_assert_eq!(total, points_in(0, position, interval, seed));
    }

    #[test]
    fn a_sample_is_packed_without_loss(node in 0..16_384_usize, doublings in 0..25_u32, count in 1..3_u64, size in 1..1_u64 << 43) {
        let sample = Sample { node: NodeId::new(node), hits: Hits { count, doublings }, size };
        prop_assert_eq!(Sample::unpack(sample.pack()), Some(sample));
    }

    #[test]
    fn the_table_agrees_with_a_map(steps in proptest::collection::vec((0..40_usize, any::<bool>()), 1..400)) {
        let table = SampleTable::<64>::new();
        let mut model = HashMap::new();
        for (number, (block, is_insert)) in (1..).zip(steps) {
            let address = (block + 1) << 4;
            match model.get(&address).copied() {
                Some(sample) => {
                    prop_assert_eq!(table.remove(address), Some(sample));
                    model.remove(&address);
                }
                None if is_insert => {
                    if table.insert(address, number).is_ok() {
                        model.insert(address, number);
                    }
                }
                None => prop_assert_eq!(table.remove(address), None),
            }
        }
        for (address, sample) in model {
            prop_assert_eq!(table.remove(address), Some(sample));
        }
    }

    #[test]
    fn a_stack_is_found_again(stacks in proptest::collection::vec(proptest::collection::vec(1..50_usize, 1..32), 1..40)) {
        let tree = CallTree::<4096>::new();
        let nodes: Vec<_> = stacks.iter().map(|stack| tree.insert(stack)).collect();
        for (stack, node) in stacks.iter().zip(nodes) {
            let node = node.unwrap();
            prop_assert_eq!(tree.insert(stack), Some(node));
            prop_assert_eq!(tree.stack(node).collect::<Vec<_>>(), stack.clone());
        }
    }
}

#[test]
fn a_block_longer_than_the_interval_of_its_thread_is_always_a_sample() {
    let sampling = ThreadSampling::new();
    let old = Interval { base: 64 * KIB, doublings: 0 };
    let (_hits, countdown) = sampling.pass(None, 1, old, 1);
    let doubled = Interval { doublings: 1, ..old };
    for size in [64 * KIB, 100 * KIB, 128 * KIB - 1] {
        let hits = Hits { count: 1, doublings: 0 };
        assert_eq!(sampling.pass(Some(countdown), size, doubled, 1), (hits, countdown));
    }
}

#[test]
fn insert_into_a_full_table_is_refused() {
    let table = SampleTable::<4>::new();
    for block in 1..=4 {
        assert_eq!(table.insert(block * 16, 1), Ok(Displaced { block: 0, sample: 0 }));
    }
    assert_eq!(table.insert(5 * 16, 1), Err(Full));
}

#[test]
fn an_entry_whose_sample_was_dropped_is_taken() {
    let table = SampleTable::<4>::new();
    for block in 1..=4 {
        table.insert(block * 16, block as u64).unwrap();
    }
    table.thin(|sample| if sample == 2 { 0 } else { sample * 10 }, |_| (), |_| ());
    assert_eq!(table.insert(5 * 16, 5), Ok(Displaced { block: 32, sample: 0 }));
    assert_eq!([1, 2, 3, 4, 5].map(|block| table.remove(block * 16)), [Some(10), None, Some(30), Some(40), Some(5)]);
}

#[test]
fn a_dropped_sample_leaves_an_empty_entry_to_its_block() {
    let table = SampleTable::<4>::new();
    table.insert(16, 1).unwrap();
    table.thin(|_| 0, |_| (), |_| ());
    assert_eq!((table.remove(16), table.remove(16)), (Some(0), None));
}

#[test]
fn a_full_tree_refuses_new_stacks_and_knows_the_old_ones() {
    let tree = CallTree::<16>::new();
    let nodes: Vec<_> = (1..=20).map(|address| tree.insert(&[address])).collect();
    assert_eq!(nodes.iter().flatten().count(), 12);
    assert!(nodes[..12].iter().zip(1..).all(|(node, address)| tree.insert(&[address]) == *node));
    assert_eq!(tree.insert(&[]), None);
}

#[test]
fn the_filter_knows_each_sample_until_it_is_removed() {
    let filter = AddressFilter::<64>::new();
    for _ in 0..3 {
        filter.insert(0x1230);
    }
    for _ in 0..3 {
        assert!(filter.may_contain(0x1230) && !filter.may_contain(0x1240));
        filter.remove(0x1230);
    }
    assert!(!filter.may_contain(0x1230));
    // A counter that was full stays in use: it does not know how many there were.
    for _ in 0..300 {
        filter.insert(0x1230);
    }
    for _ in 0..300 {
        filter.remove(0x1230);
    }
    assert!(filter.may_contain(0x1230));
}

#[test]
fn a_thinned_sample_stands_for_the_same_bytes_on_average() {
    let base = 32 * KIB;
    for (count, size) in [(1, 64), (2, 30 * KIB), (1, 40 * KIB), (1, 100 * KIB), (1, 5000 * KIB)] {
        let sample = Sample { node: NodeId::new(1), hits: Hits { count, doublings: 0 }, size };
        for doublings in [1, 2, 4] {
            let interval = Interval { base, doublings };
            let kept = (0..20_000).filter_map(|random| sample.thinned(interval, random));
            let average = kept.map(|kept| kept.bytes(base)).sum::<u64>() as f64 / 20_000.0;
            let error = average / sample.bytes(base) as f64 - 1.0;
            assert!(error.abs() < 0.05, "{count} x {size}, {doublings}: {average}");
        }
    }
}

#[test]
fn blocks_of_a_sample_are_its_bytes_over_its_size() {
    let sample = |size| Sample { node: NodeId::new(1), hits: Hits { count: 1, doublings: 0 }, size };
    assert_eq!(sample(64).blocks(64 * KIB), 1024 * BLOCK_UNIT);
    assert_eq!(sample(65 * KIB).blocks(64 * KIB), BLOCK_UNIT);
}
