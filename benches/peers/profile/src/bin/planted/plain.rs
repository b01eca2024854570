//! Leaks of plain functions.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use profile_workers::Leak;
use profile_workers::leaks::retain;

pub(super) const LEAKS: [Leak; 4] =
    profile_workers::leaks!("plain" in "plain.rs": plain_queue, plain_shared, plain_nested, plain_names);

fn plain_queue(bytes: usize) {
    let mut queue = VecDeque::new();
    for number in 0..bytes / 24 {
        queue.push_back([number; 3]);
    }
    retain(queue);
}

fn plain_shared(bytes: usize) {
    let shared: Vec<Arc<[u8]>> = (0..bytes / 512).map(|_| Arc::from([1_u8; 512].as_slice())).collect();
    retain(shared);
}

fn plain_nested(bytes: usize) {
    retain(vec![vec![vec![1_u8; 100]; 100]; bytes / 12_400]);
}

fn plain_names(bytes: usize) {
    let name = |number: usize| (number, "a name of a customer".repeat(3));
    retain((0..bytes / 100).map(name).collect::<BTreeMap<_, _>>());
}
