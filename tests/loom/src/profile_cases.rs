//! The profile's table of samples and its tree of stacks: no sample is counted twice or left, and no stack twice.

use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering::SeqCst;

use loom::sync::Arc;
use loom::thread;

use crate::profile::table::SampleTable;
use crate::profile::tree::CallTree;

fn model(preemptions: usize, case: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(case);
}

/// A table, and the sum of its samples as the profile keeps it.
struct Profile<const N: usize> {
    table: SampleTable<N>,
    sum: AtomicI64,
}

impl<const N: usize> Profile<N> {
    fn new() -> Self {
        Self { table: SampleTable::new(), sum: AtomicI64::new(0) }
    }

    fn add(&self, sample: u64) {
        self.sum.fetch_add(sample as i64, SeqCst);
    }

    fn take(&self, sample: u64) {
        let before = self.sum.fetch_sub(sample as i64, SeqCst);
        assert!(before >= sample as i64, "a sum below zero");
    }

    /// Returns `false` if there was no room.
    fn insert(&self, block: usize, sample: u64) -> bool {
        self.add(sample);
        match self.table.insert(block, sample) {
            Ok(displaced) => self.take(displaced.sample),
            Err(_full) => self.take(sample),
        }
        self.sum.load(SeqCst) != 0
    }

    fn remove(&self, block: usize) {
        self.take(self.table.remove(block).unwrap_or(0));
    }

    fn thin(&self, thinned: impl FnMut(u64) -> u64) {
        self.table.thin(thinned, |new| self.add(new), |old| self.take(old));
    }
}

#[test]
fn a_block_that_moves_from_thread_to_thread_leaves_no_sample() {
    model(3, || {
        let profile = Arc::new(Profile::<2>::new());
        profile.insert(16, 10);
        let other = thread::spawn({
            let profile = Arc::clone(&profile);
            move || {
                profile.insert(32, 100);
                profile.remove(32);
            }
        });
        profile.remove(16);
        // The same address again, as an allocator hands it out.
        profile.insert(16, 20);
        other.join().unwrap();
        profile.remove(16);
        assert_eq!(profile.sum.load(SeqCst), 0);
    });
}

#[test]
fn thinning_beside_frees_counts_each_sample_once() {
    model(3, || {
        let profile = Arc::new(Profile::<2>::new());
        profile.insert(16, 10);
        profile.insert(32, 100);
        let thinner = thread::spawn({
            let profile = Arc::clone(&profile);
            move || profile.thin(|sample| if sample == 10 { 0 } else { 2 * sample })
        });
        profile.remove(16);
        profile.insert(48, 10);
        profile.remove(32);
        thinner.join().unwrap();
        profile.remove(48);
        assert_eq!(profile.sum.load(SeqCst), 0);
    });
}

#[test]
fn a_dropped_entry_is_taken_while_its_block_is_freed() {
    model(3, || {
        let profile = Arc::new(Profile::<1>::new());
        profile.insert(16, 10);
        profile.thin(|_| 0);
        let other = thread::spawn({
            let profile = Arc::clone(&profile);
            move || {
                let _room = profile.insert(32, 100);
                profile.remove(32);
            }
        });
        profile.remove(16);
        // The entry is free or was taken; what is entered now is either there or refused.
        profile.insert(16, 7);
        profile.remove(16);
        other.join().unwrap();
        assert_eq!(profile.sum.load(SeqCst), 0);
    });
}

#[test]
fn two_threads_that_enter_one_stack_get_one_node() {
    model(3, || {
        let tree = Arc::new(CallTree::<8>::new());
        let other = thread::spawn({
            let tree = Arc::clone(&tree);
            move || tree.insert(&[3, 2, 1])
        });
        let own = tree.insert(&[4, 2, 1]).unwrap();
        let other = other.join().unwrap().unwrap();
        assert_eq!(tree.stack(own).collect::<Vec<_>>(), [4, 2, 1]);
        assert_eq!(tree.stack(other).collect::<Vec<_>>(), [3, 2, 1]);
        assert_eq!(tree.insert(&[2, 1]).map(|node| tree.stack(node).count()), Some(2));
    });
}
