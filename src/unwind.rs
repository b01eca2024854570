//! Panics of code that is not ours, where they must go no further than their message.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Calls code of the user's; `None` where it panics. What it broke is its own, so nothing of ours may be half done here.
pub(crate) fn contained<T>(call: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(value) => Some(value),
        Err(payload) => {
            let_go(payload);
            None
        }
    }
}

/// Drops what was thrown. A payload may panic when it is dropped; what that throws is leaked, as it may do so again.
pub(crate) fn let_go(payload: Box<dyn Any + Send>) {
    if let Err(again) = catch_unwind(AssertUnwindSafe(move || drop(payload))) {
        Box::leak(again);
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{panic_any, resume_unwind};

    use super::contained;

    /// Throws another of its kind when it is dropped.
    struct Again;

    impl Drop for Again {
        fn drop(&mut self) {
            resume_unwind(Box::new(Self));
        }
    }

    #[test]
    fn a_payload_that_panics_each_time_it_is_dropped_goes_no_further() {
        assert_eq!(contained(|| 7), Some(7));
        assert_eq!(contained(|| -> u8 { panic_any(Again) }), None);
    }
}
