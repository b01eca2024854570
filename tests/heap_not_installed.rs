//! A forgotten `#[global_allocator]` is an error in words, never a report of zeros.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "a test: it allocates by hand, counts in signed bytes and stops at the first surprise"
)]

use plimsoll::{ByteSize, heap};

#[test]
fn a_forgotten_global_allocator_is_an_error_in_words() {
    assert!(!heap::is_installed());
    let error = heap::stats().unwrap_err();
    assert!(error.to_string().contains("not installed as `#[global_allocator]`"), "{error}");
    let (sum, delta) = heap::scope(|| vec![1u8; 100].len());
    assert_eq!((sum, delta), (100, None));
    assert_eq!(futures_output(heap::scope_async(async { 7 })), (7, None));
    heap::reset_peak();
    assert_eq!(heap::set_limit(ByteSize::kib(1)), Err(error));
    drop(vec![1u8; 1 << 20]);
    assert!(heap::stats().is_err(), "steering alone does not make books");
    std::panic::set_hook(Box::new(|_| {}));
    let failed = std::panic::catch_unwind(|| heap::assert_peak(ByteSize::MAX, || ()));
    drop(std::panic::take_hook());
    assert!(failed.is_err(), "an assertion that cannot measure fails");
}

fn futures_output<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}
