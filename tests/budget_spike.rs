//! A simulated function whose allocator keeps its pages: what a spike does to the cache beside it.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::{Arc, Mutex};

use plimsoll::budget::Rank;
use plimsoll::{ByteSize, MemoryBudget, Pressure, Reservation};

/// In MiB, as all sizes here.
const CACHE: u64 = 60;

/// By how much the overhead rises at most: the default of a budget of 100.
const STEP: u64 = 5;

/// A process with a cache that fills up to its bound, some heap that nobody reserves, and pages that never go back.
struct Process {
    budget: MemoryBudget,
    cache: Arc<Mutex<Reservation>>,
    _reclaimer: Arc<dyn Fn(ByteSize, Pressure) -> ByteSize + Send + Sync>,
    unreserved: u64,
    /// What of the rss is no heap.
    code: u64,
    pages: u64,
}

impl Process {
    fn new(unreserved: u64, code: u64) -> Self {
        let budget = MemoryBudget::new(ByteSize::mib(100));
        let account = budget.account("spiked cache");
        let cache = Arc::new(Mutex::new(account.try_reserve(ByteSize::ZERO).unwrap()));
        let shared = Arc::clone(&cache);
        let reclaimer = Arc::new(move |want: ByteSize, _: Pressure| shared.try_lock().unwrap().shrink(want));
        account.set_reclaimer(Rank::CACHE, Arc::downgrade(&reclaimer));
        Self { budget, cache, _reclaimer: reclaimer, unreserved, code, pages: 0 }
    }

    fn cached(&self) -> u64 {
        self.cache.lock().unwrap().size().as_u64() >> 20
    }

    /// One invocation: the monitor's part, the cache's, and a buffer for as long as it lasts. Tells what the cache has.
    fn invoke(&mut self, buffer: u64) -> u64 {
        self.budget.rebaseline(ByteSize::mib(self.cached() + self.unreserved));
        assert!(self.budget.relieve());
        {
            let mut cache = self.cache.lock().unwrap();
            while cache.size() < ByteSize::mib(CACHE) && cache.grow_if_free(ByteSize::mib(1)) {}
        }
        let reserved = self.budget.account("spike").try_reserve(ByteSize::mib(buffer)).unwrap();
        let heap = self.cached() + self.unreserved + buffer;
        assert!(heap <= 100, "{heap} MiB of heap");
        drop(reserved);
        self.pages = self.pages.max(heap);
        self.budget.observe_rss(ByteSize::mib(self.pages + self.code), ByteSize::mib(heap));
        self.cached()
    }
}

#[test]
fn a_spike_costs_the_cache_one_step_at_most_and_it_grows_back() {
    for (unreserved, code) in [(0, 0), (6, 2), (12, 2), (6, 8)] {
        let mut process = Process::new(unreserved, code);
        for _ in 0..20 {
            assert_eq!(process.invoke(0), CACHE);
        }
        let spiked = process.invoke(30);
        let needed = (CACHE + 30 + unreserved + code).saturating_sub(100);
        assert_eq!(spiked, CACHE - needed, "what was missing, and no more");
        let after: Vec<u64> = (0..100).map(|_| process.invoke(0)).collect();
        let least = after.iter().min().unwrap();
        assert!(spiked.min(*least) >= CACHE - STEP, "{unreserved} + {code}: {after:?}");
        assert_eq!(after.last(), Some(&CACHE), "{unreserved} + {code}: {after:?}");
    }
}
