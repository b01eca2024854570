//! Loom's twins of the library's `sync`.
//!
//! Loom takes a `SeqCst` access for an `AcqRel` one; only its fences are sequentially consistent. So each access here
//! that asks for `SeqCst` stands between two such fences, which is what makes it one.

pub(crate) use loom::sync::atomic::Ordering;
use loom::sync::atomic::fence;

fn fenced<T>(order: Ordering, access: impl FnOnce() -> T) -> T {
    if order != Ordering::SeqCst {
        return access();
    }
    fence(Ordering::SeqCst);
    let result = access();
    fence(Ordering::SeqCst);
    result
}

macro_rules! twin {
    ($name:ident, $value:ty) => {
        #[derive(Debug)]
        pub(crate) struct $name(loom::sync::atomic::$name);

        impl $name {
            pub(crate) fn new(value: $value) -> Self {
                Self(loom::sync::atomic::$name::new(value))
            }
            pub(crate) fn load(&self, order: Ordering) -> $value {
                fenced(order, || self.0.load(order))
            }
            pub(crate) fn store(&self, value: $value, order: Ordering) {
                fenced(order, || self.0.store(value, order));
            }
            pub(crate) fn fetch_add(&self, value: $value, order: Ordering) -> $value {
                fenced(order, || self.0.fetch_add(value, order))
            }
            pub(crate) fn fetch_sub(&self, value: $value, order: Ordering) -> $value {
                fenced(order, || self.0.fetch_sub(value, order))
            }
            pub(crate) fn fetch_max(&self, value: $value, order: Ordering) -> $value {
                fenced(order, || self.0.fetch_max(value, order))
            }
            pub(crate) fn fetch_min(&self, value: $value, order: Ordering) -> $value {
                fenced(order, || self.0.fetch_min(value, order))
            }
            pub(crate) fn swap(&self, value: $value, order: Ordering) -> $value {
                fenced(order, || self.0.swap(value, order))
            }
            pub(crate) fn compare_exchange(
                &self,
                old: $value,
                new: $value,
                ok: Ordering,
                failed: Ordering,
            ) -> Result<$value, $value> {
                fenced(ok, || self.0.compare_exchange(old, new, ok, failed))
            }
            pub(crate) fn fetch_or(&self, value: $value, order: Ordering) -> $value {
                fenced(order, || self.0.fetch_or(value, order))
            }
            pub(crate) fn fetch_and(&self, value: $value, order: Ordering) -> $value {
                fenced(order, || self.0.fetch_and(value, order))
            }
            pub(crate) fn fetch_update(
                &self,
                ok: Ordering,
                failed: Ordering,
                next: impl FnMut($value) -> Option<$value>,
            ) -> Result<$value, $value> {
                fenced(ok, || self.0.fetch_update(ok, failed, next))
            }
            pub(crate) fn compare_exchange_weak(
                &self,
                old: $value,
                new: $value,
                ok: Ordering,
                failed: Ordering,
            ) -> Result<$value, $value> {
                fenced(ok, || self.0.compare_exchange_weak(old, new, ok, failed))
            }
        }
    };
}

twin!(AtomicIsize, isize);
twin!(AtomicU64, u64);
twin!(AtomicUsize, usize);

pub(crate) use loom::thread::ThreadId;

pub(crate) fn thread_id() -> ThreadId {
    loom::thread::current().id()
}

#[derive(Debug)]
pub(crate) struct AtomicBool(loom::sync::atomic::AtomicBool);

impl AtomicBool {
    pub(crate) fn new(value: bool) -> Self {
        Self(loom::sync::atomic::AtomicBool::new(value))
    }
    pub(crate) fn load(&self, order: Ordering) -> bool {
        self.0.load(order)
    }
    pub(crate) fn store(&self, value: bool, order: Ordering) {
        self.0.store(value, order);
    }
    pub(crate) fn swap(&self, value: bool, order: Ordering) -> bool {
        self.0.swap(value, order)
    }
}

/// A lock that nobody poisons. The guard is there but while its owner waits on a `Condvar`.
#[derive(Debug)]
pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

pub(crate) struct MutexGuard<'a, T>(Option<loom::sync::MutexGuard<'a, T>>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(loom::sync::Mutex::new(value))
    }
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard(Some(self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)))
    }
}

impl<T> std::ops::Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.0.as_ref().unwrap()
    }
}

impl<T> std::ops::DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().unwrap()
    }
}

#[derive(Debug)]
pub(crate) struct Condvar(loom::sync::Condvar);

impl Condvar {
    pub(crate) fn new() -> Self {
        Self(loom::sync::Condvar::new())
    }
    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let waiting = guard.0.take().unwrap();
        guard.0 = Some(self.0.wait(waiting).unwrap_or_else(std::sync::PoisonError::into_inner));
    }
    /// No time passes in a model: a wait without a notification is a deadlock.
    pub(crate) fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, _timeout: std::time::Duration) -> Notified {
        self.wait(guard);
        Notified
    }
    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }
    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// The result of a wait with a timeout.
pub(crate) struct Notified;

impl Notified {
    pub(crate) fn timed_out(&self) -> bool {
        false
    }
}

macro_rules! constructor {
    ($(#[$meta:meta])* $vis:vis const fn $($rest:tt)*) => { $(#[$meta])* $vis fn $($rest)* };
}

macro_rules! array {
    ($each:expr; $n:expr) => {
        std::array::from_fn(|_| $each)
    };
}

pub(crate) use {array, constructor};
