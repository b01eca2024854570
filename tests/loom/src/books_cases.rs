//! The budget's books: no reservation passes the room, and what accounts hold sums to what is used.

use crate::budget::books::{Line, Slot};
use crate::sync::AtomicU64;
use loom::sync::Arc;
use loom::thread;

struct Books {
    line: Line,
    slots: [Slot<Box<AtomicU64>>; 2],
}

impl Books {
    fn new(room: u64) -> Arc<Self> {
        Arc::new(Self { line: Line::new(room), slots: [(); 2].map(|()| Slot::new(Box::new(AtomicU64::new(0)))) })
    }

    fn held(&self) -> u64 {
        self.slots.iter().map(Slot::held).sum()
    }
}

#[test]
fn of_two_requests_of_which_one_fits_one_is_granted() {
    loom::model(|| {
        let books = Books::new(100);
        let other = thread::spawn({
            let books = Arc::clone(&books);
            move || books.line.take(&books.slots[1], 60)
        });
        let mine = books.line.take(&books.slots[0], 70);
        let others = other.join().unwrap();
        assert!(mine ^ others, "{mine} {others}");
        let held = if mine { 70 } else { 60 };
        assert_eq!((books.line.used(), books.held()), (held, held));
        assert_eq!(books.slots[0].peak(), if mine { 70 } else { 0 });
    });
}

#[test]
fn accounts_sum_to_what_is_used_however_taking_and_giving_mix() {
    loom::model(|| {
        let books = Books::new(100);
        let other = thread::spawn({
            let books = Arc::clone(&books);
            move || {
                let taken = books.line.take(&books.slots[1], 60);
                if taken {
                    books.line.give(&books.slots[1], 30);
                }
                if taken { 30 } else { 0 }
            }
        });
        assert!(books.line.take(&books.slots[0], 40));
        assert!(books.line.used() <= 100);
        books.line.give(&books.slots[0], 20);
        let others = other.join().unwrap();
        assert_eq!((books.line.used(), books.held(), books.slots[1].held()), (20 + others, 20 + others, others));
    });
}

#[test]
fn booking_past_the_room_lets_nothing_else_in() {
    loom::model(|| {
        let books = Books::new(100);
        let other = thread::spawn({
            let books = Arc::clone(&books);
            move || books.line.take(&books.slots[1], 10)
        });
        assert_eq!(books.line.book(&books.slots[0], 95), 95);
        let others = other.join().unwrap();
        let held = if others { 105 } else { 95 };
        assert_eq!((books.line.used(), books.held()), (held, held));
        assert!(!books.line.take(&books.slots[1], 6));
    });
}

#[test]
fn who_takes_what_another_gave_back_sees_what_he_did_before() {
    loom::model(|| {
        let books = Books::new(100);
        let memory = Arc::new(loom::cell::UnsafeCell::new(1));
        assert!(books.line.take(&books.slots[0], 100));
        let other = thread::spawn({
            let (books, memory) = (Arc::clone(&books), Arc::clone(&memory));
            move || {
                // Loom fails the case if this access and the other one are not ordered by the books.
                memory.with_mut(|_| ());
                books.line.give(&books.slots[0], 100);
            }
        });
        if books.line.take(&books.slots[1], 100) {
            memory.with_mut(|_| ());
        }
        other.join().unwrap();
    });
}
