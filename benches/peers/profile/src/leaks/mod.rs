//! Planted leaks in the library crate of the program, and what all leaks share.
//!
//! No two of them allocate with the same sizes and values, because the compiler merges functions with the same code.

mod blocking;
mod json;
mod plain;
mod rayons;
mod spawned;

use std::any::Any;
use std::sync::{Mutex, OnceLock};

use tokio::runtime::Runtime;

use crate::Leak;

static RETAINED: Mutex<Vec<Box<dyn Any + Send>>> = Mutex::new(Vec::new());

/// Names functions of this module as leaks. `$text` is the name of its file.
#[macro_export]
macro_rules! leaks {
    ($kind:literal in $text:literal: $($name:ident),*) => {
        [$($crate::Leak {
            name: stringify!($name),
            kind: $kind,
            plant: $name,
            file: file!(),
            source: include_str!($text),
        }),*]
    };
}

/// Stores a value that only [`forget_retained`] frees.
pub fn retain<T: Send + 'static>(value: T) {
    if let Ok(mut retained) = RETAINED.lock() {
        retained.push(Box::new(value));
    }
}

/// Frees all retained values.
#[cfg(feature = "profile")]
pub(crate) fn forget_retained() {
    let values = RETAINED.lock().map(|mut retained| std::mem::take(&mut *retained));
    drop(values);
}

/// Returns the runtime of the program, which has two threads.
///
/// # Panics
///
/// If it cannot be built.
pub fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| match tokio::runtime::Builder::new_multi_thread().worker_threads(2).build() {
        Ok(runtime) => runtime,
        Err(error) => panic!("no runtime: {error}"),
    })
}

/// Returns a document of JSON of about `bytes` bytes: a list of records.
pub fn document(bytes: usize) -> Vec<u8> {
    crate::speed::document(bytes)
}

/// The leaks of this crate: four of each kind.
#[cfg(feature = "profile")]
pub(crate) fn all() -> Vec<Leak> {
    [plain::LEAKS, spawned::LEAKS, blocking::LEAKS, rayons::LEAKS, json::LEAKS].concat()
}
