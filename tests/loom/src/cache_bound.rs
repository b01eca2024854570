//! The bounds of a cache, from the library's own file: claims of several shards, and a bound that is lowered next to them.

#[path = "../../../src/cache/bound.rs"]
mod bound;

use loom::sync::Arc;
use loom::thread;

use bound::{Amount, Bound, Claim};

const MAX_BYTES: u64 = 10;

fn bytes(bytes: u64) -> Amount {
    Amount { bytes, entries: 0 }
}

#[test]
fn claims_of_two_shards_never_exceed_the_bounds() {
    loom::model(|| {
        let bound = Arc::new(Bound::new(MAX_BYTES, 1));
        let claim = |bound: Arc<Bound>| {
            move || {
                let claimed = bound.try_claim_bytes(6);
                let has_place = bound.try_claim_entry();
                assert!(bound.bytes() <= MAX_BYTES && bound.entries() <= 1);
                bound.release(Amount { bytes: if claimed { 6 } else { 0 }, entries: usize::from(has_place) });
            }
        };
        let other = thread::spawn(claim(Arc::clone(&bound)));
        claim(Arc::clone(&bound))();
        other.join().unwrap();
        assert_eq!((bound.bytes(), bound.entries()), (0, 0));
    });
}

#[test]
fn who_lowers_a_bound_sees_each_claim_that_stays() {
    loom::model(|| {
        let bound = Arc::new(Bound::new(MAX_BYTES, 1));
        let claim = {
            let bound = Arc::clone(&bound);
            thread::spawn(move || {
                bound.try_claim_bytes(6);
                bound.try_claim_entry();
            })
        };
        bound.set_max_bytes(4);
        bound.set_max_entries(0);
        let seen = bound.excess();
        claim.join().unwrap();
        assert!(bound.bytes() <= 4 || seen.bytes > 0, "a claim stays above the bound, and nobody evicts for it");
        assert!(bound.entries() == 0 || seen.entries > 0);
    });
}

#[test]
fn room_on_its_way_is_taken_by_no_other_shard() {
    loom::model(|| {
        let bound = Arc::new(Bound::new(MAX_BYTES, 1));
        assert!(bound.try_claim_bytes(6) && bound.try_claim_entry());
        let other = {
            let bound = Arc::clone(&bound);
            thread::spawn(move || assert!(!bound.try_claim_bytes(6) && !bound.try_claim_entry()))
        };
        // A shard evicts 6 bytes, which another shard gets.
        let mut claim = Claim::new(&bound);
        claim.add(Amount { bytes: 6, entries: 1 });
        let amount = claim.take();
        other.join().unwrap();
        assert_eq!((amount, bound.bytes()), (Amount { bytes: 6, entries: 1 }, 6));
        claim.add(bytes(6));
        drop(claim);
        assert_eq!(bound.bytes(), 0);
    });
}

#[test]
fn load_that_ends_hands_its_bytes_to_its_value() {
    loom::model(|| {
        let bound = Arc::new(Bound::new(MAX_BYTES, 1));
        let mut claim = Claim::new(&bound);
        claim.add(bound.claim_free_bytes(6));
        claim.into_load();
        let other = {
            let bound = Arc::clone(&bound);
            thread::spawn(move || {
                assert!(!bound.try_claim_bytes(6));
                assert!(bound.bytes() <= MAX_BYTES && bound.stored_bytes() <= 6);
            })
        };
        bound.load_to_claim(6);
        other.join().unwrap();
        assert_eq!((bound.stored_bytes(), bound.loading()), (6, 0));
        bound.release(bytes(6));
        assert_eq!(bound.bytes(), 0);
    });
}
