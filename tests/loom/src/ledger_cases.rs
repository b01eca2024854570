//! The heap's ledger: limit, live and peak under every interleaving of two or three threads.

use crate::heap::ledger::Ledger;
use crate::heap::slot::{STEP, Slot};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use loom::thread;

type Books = Ledger<2>;

/// What the allocator does around a request for memory that succeeds.
fn allocate(books: &Books, slot: Option<&Slot>, n: usize) -> bool {
    if slot.is_some_and(|slot| slot.take(n)) {
        return true;
    }
    let Ok(rise) = books.book(slot, n, books.limit()) else { return false };
    books.settle(rise);
    true
}

fn free(books: &Books, slot: Option<&Slot>, n: usize) {
    if !slot.is_some_and(|slot| slot.give(n)) {
        books.unbook(slot, n);
    }
}

/// Runs the case under every interleaving with at most this many preemptions; zero sets no bound.
fn model(preemptions: usize, case: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions).filter(|&bound| bound > 0);
    builder.check(case);
}

#[test]
fn two_threads_never_hold_more_than_the_limit() {
    model(3, || {
        let books = Arc::new(Books::new());
        let held = Arc::new(AtomicUsize::new(0));
        books.set_limit(100_000);
        let worker = |books: Arc<Books>, held: Arc<AtomicUsize>| {
            let slot = books.bind();
            for n in [60_000, 30_000] {
                if allocate(&books, slot, n) {
                    let now = held.fetch_add(n, SeqCst) + n;
                    assert!(now <= 100_000, "{now} bytes held");
                    held.fetch_sub(n, SeqCst);
                    free(&books, slot, n);
                }
            }
            slot.into_iter().for_each(|slot| books.release(slot));
        };
        let other = thread::spawn({
            let (books, held) = (Arc::clone(&books), Arc::clone(&held));
            move || worker(books, held)
        });
        worker(Arc::clone(&books), held);
        other.join().unwrap();
        assert_eq!(books.live(), 0);
    });
}

#[test]
fn one_that_has_a_slot_and_one_that_has_none_share_the_line() {
    model(0, || {
        let books = Arc::new(Books::new());
        books.set_limit(50_000);
        let other = thread::spawn({
            let books = Arc::clone(&books);
            move || {
                let held = allocate(&books, None, 30_000);
                if held {
                    free(&books, None, 10_000);
                }
                if held { 20_000 } else { 0 }
            }
        });
        let slot = books.bind();
        let mine = if allocate(&books, slot, 25_000) { 25_000 } else { 0 };
        let others = other.join().unwrap();
        assert!(mine + others > 0, "one of them had room");
        assert_eq!(books.live(), mine + others);
        assert_eq!(books.allocated(), mine as u64 + if others > 0 { 30_000 } else { 0 });
    });
}

#[test]
fn a_cancelled_booking_leaves_no_trace() {
    model(0, || {
        let books = Arc::new(Books::new());
        let other = thread::spawn({
            let books = Arc::clone(&books);
            move || {
                let slot = books.bind();
                books.book(slot, 70_000, books.limit()).unwrap();
                books.cancel(slot, 70_000);
                slot.into_iter().for_each(|slot| books.release(slot));
            }
        });
        let slot = books.bind();
        assert!(allocate(&books, slot, 40_000));
        other.join().unwrap();
        assert_eq!((books.live(), books.allocated()), (40_000, 40_000));
        free(&books, slot, 40_000);
        assert_eq!(books.live(), 0);
    });
}

#[test]
fn a_slot_is_never_bound_twice_and_comes_back() {
    model(3, || {
        let books = Arc::new(Books::new());
        let bind = |books: &Books| {
            let slot = books.bind().expect("two slots for two threads");
            assert!(allocate(books, Some(slot), 100));
            assert_eq!(slot.net(), 100, "nobody else writes here");
            free(books, Some(slot), 100);
            books.release(slot);
        };
        let other = thread::spawn({
            let books = Arc::clone(&books);
            move || bind(&books)
        });
        bind(&books);
        other.join().unwrap();
        assert_eq!(books.live(), 0);
        assert_eq!(books.allocated(), 200);
        assert!(books.bind().is_some() && books.bind().is_some() && books.bind().is_none());
    });
}

/// A spike that begins after the reset has returned, and one that is still held when it begins, are in the peak;
/// whatever the interleaving, the peak is not below what lives.
#[test]
fn a_reset_beside_an_allocation_never_under_reports() {
    model(3, || {
        let books = Arc::new(Books::new());
        let slot = books.bind();
        assert!(allocate(&books, slot, 1_000));
        let other = thread::spawn({
            let books = Arc::clone(&books);
            move || {
                let slot = books.bind();
                assert!(allocate(&books, slot, 100_000));
                // An allocation held over its own reset is in the peak that this thread then reads.
                books.reset_peak(slot);
                let peak = books.peak(slot);
                assert!(peak.at_most >= 101_000, "{peak:?}");
                free(&books, slot, 100_000);
                slot.into_iter().for_each(|slot| books.release(slot));
            }
        });
        books.reset_peak(slot);
        let before = books.live();
        let peak = books.peak(slot);
        assert!(peak.at_most + 4 * STEP >= before && peak.at_least <= peak.at_most, "{peak:?}");
        other.join().unwrap();
        let peak = books.peak(slot);
        assert!(peak.at_most >= 1_000 && peak.at_least <= 101_000, "{peak:?}");
    });
}

#[test]
fn a_spike_that_begins_after_the_reset_returned_is_in_the_peak_though_it_is_gone() {
    model(0, || {
        let books = Arc::new(Books::new());
        let reset_returned = Arc::new(AtomicUsize::new(0));
        let slot = books.bind();
        assert!(allocate(&books, slot, 1_000));
        let other = thread::spawn({
            let (books, reset_returned) = (Arc::clone(&books), Arc::clone(&reset_returned));
            move || {
                let slot = books.bind();
                let after = reset_returned.load(SeqCst) == 1;
                assert!(allocate(&books, slot, 100_000));
                free(&books, slot, 100_000);
                slot.into_iter().for_each(|slot| books.release(slot));
                after
            }
        });
        books.reset_peak(slot);
        reset_returned.store(1, SeqCst);
        let after = other.join().unwrap();
        let peak = books.peak(slot);
        assert!(!after || peak.at_most >= 101_000, "{peak:?}");
        assert!(peak.at_least <= 101_000, "{peak:?}");
        assert_eq!(books.live(), 1_000);
    });
}

#[test]
fn a_peak_called_exact_is_exact_whoever_else_came_and_went() {
    model(0, || {
        let books = Arc::new(Books::new());
        let slot = books.bind();
        assert!(allocate(&books, slot, 5_000));
        let other = thread::spawn({
            let books = Arc::clone(&books);
            move || {
                let slot = books.bind();
                assert!(allocate(&books, slot, 10));
                free(&books, slot, 10);
                slot.into_iter().for_each(|slot| books.release(slot));
            }
        });
        books.reset_peak(slot);
        assert!(allocate(&books, slot, 70_000));
        free(&books, slot, 70_000);
        other.join().unwrap();
        let peak = books.peak(slot);
        assert!(peak.at_most >= 75_000, "{peak:?}");
        assert!(peak.at_least <= 75_010, "{peak:?}");
        if peak.at_least == peak.at_most {
            assert!((75_000..=75_010).contains(&peak.at_most), "{peak:?}");
        }
    });
}

#[test]
fn a_rise_told_late_does_not_reach_into_the_next_era() {
    model(0, || {
        let books = Arc::new(Books::new());
        let slot = books.bind();
        let other = thread::spawn({
            let books = Arc::clone(&books);
            move || {
                // Its height may include the spike below, and be told after the reset.
                assert!(allocate(&books, None, 10));
            }
        });
        assert!(allocate(&books, slot, 100_000));
        free(&books, slot, 100_000);
        books.reset_peak(slot);
        other.join().unwrap();
        let peak = books.peak(slot);
        assert!(peak.at_least <= 10 && peak.at_most >= 10, "{peak:?}");
    });
}

#[test]
fn the_lower_bound_claims_no_more_than_lived() {
    model(0, || {
        let books = Arc::new(Books::new());
        let slot = books.bind();
        assert!(allocate(&books, slot, 5_000));
        let other = thread::spawn({
            let books = Arc::clone(&books);
            move || {
                let slot = books.bind();
                assert!(allocate(&books, slot, 10));
                free(&books, slot, 10);
                slot.into_iter().for_each(|slot| books.release(slot));
            }
        });
        books.reset_peak(slot);
        other.join().unwrap();
        let peak = books.peak(slot);
        assert!(peak.at_least <= 5_010 && peak.at_most >= 5_000, "{peak:?}");
    });
}

#[test]
fn a_reset_by_a_thread_without_a_slot_is_no_lone_threads_reset() {
    model(0, || {
        let books = Arc::new(Books::new());
        let slot = books.bind();
        assert!(allocate(&books, slot, 10_000));
        // From credit, and back: only the low mark remembers these 20,000 bytes.
        assert!(allocate(&books, slot, 10_000));
        free(&books, slot, 10_000);
        let other = thread::spawn({
            let books = Arc::clone(&books);
            move || {
                assert!(allocate(&books, None, 30_000));
                books.reset_peak(None);
            }
        });
        books.close(slot.unwrap());
        let meanwhile = books.peak(slot);
        assert!(meanwhile.at_least <= 50_000 && meanwhile.at_most >= 10_000, "{meanwhile:?}");
        other.join().unwrap();
        let peak = books.peak(slot);
        assert!(peak.at_least <= 40_000 && peak.at_most >= 40_000, "{peak:?}");
    });
}

#[test]
fn a_free_without_a_slot_beside_a_reset_takes_nothing_from_the_peak() {
    model(0, || {
        let books = Arc::new(Books::new());
        let freed = Arc::new(AtomicUsize::new(0));
        let slot = books.bind();
        assert!(allocate(&books, None, 30_000));
        assert!(allocate(&books, slot, 10_000));
        let other = thread::spawn({
            let (books, freed) = (Arc::clone(&books), Arc::clone(&freed));
            move || {
                freed.store(1, SeqCst);
                free(&books, None, 30_000);
            }
        });
        books.reset_peak(slot);
        assert!(allocate(&books, slot, 5_000));
        let all_lived = freed.load(SeqCst) == 0;
        other.join().unwrap();
        let peak = books.peak(slot);
        assert!(peak.at_most >= if all_lived { 45_000 } else { 15_000 }, "{peak:?}");
        assert!(peak.at_least <= 45_000, "{peak:?}");
    });
}

#[test]
fn a_mark_from_before_a_reset_is_no_lower_bound_after_it() {
    model(0, || {
        let books = Arc::new(Books::new());
        let slot = books.bind();
        assert!(allocate(&books, slot, 10_000));
        assert!(allocate(&books, slot, 10_000));
        free(&books, slot, 10_000);
        let other = thread::spawn({
            let books = Arc::clone(&books);
            move || {
                let slot = books.bind();
                books.reset_peak(slot);
                slot.into_iter().for_each(|slot| books.release(slot));
            }
        });
        books.close(slot.unwrap());
        other.join().unwrap();
        let peak = books.peak(slot);
        assert!(peak.at_least <= 10_000 && peak.at_most >= 10_000, "{peak:?}");
    });
}

#[test]
fn what_is_held_after_a_cancelled_booking_is_in_the_peak() {
    model(0, || {
        let books = Books::new();
        let (main, other) = (books.bind(), books.bind());
        assert!(allocate(&books, main, 1_000));
        books.reset_peak(main);
        books.book(other, 70_000, books.limit()).unwrap();
        books.cancel(other, 70_000);
        // All of what credit there is, on both.
        assert!(allocate(&books, other, STEP));
        assert!(allocate(&books, main, STEP));
        let held = books.live();
        free(&books, main, STEP);
        free(&books, other, STEP);
        other.into_iter().for_each(|slot| books.release(slot));
        assert!(books.peak(main).at_most >= held, "{held} were held");
    });
}

#[test]
fn a_thread_that_ends_leaves_its_peak_and_its_sums() {
    model(0, || {
        let books = Books::new();
        let first = books.bind();
        for n in [1_000, 10_000] {
            assert!(allocate(&books, first, n));
        }
        for n in [10_000, 1_000] {
            free(&books, first, n);
        }
        first.into_iter().for_each(|slot| books.release(slot));
        assert_eq!(books.allocated(), 11_000);
        let peak = books.peak(books.bind());
        assert_eq!((peak.at_least, peak.at_most), (11_000, 11_000));
    });
}

#[test]
fn the_sum_of_what_was_allocated_never_falls_while_threads_end() {
    model(0, || {
        let books = Arc::new(Books::new());
        let other = thread::spawn({
            let books = Arc::clone(&books);
            move || {
                let slot = books.bind();
                assert!(allocate(&books, slot, 500));
                slot.into_iter().for_each(|slot| books.release(slot));
            }
        });
        let (first, second) = (books.allocated(), books.allocated());
        assert!(first <= second && second <= 500, "{first} then {second}");
        other.join().unwrap();
        assert_eq!(books.allocated(), 500);
    });
}
