//! The library's ledger, from the library's own files.

#[path = "../../../src/heap/ledger.rs"]
pub(crate) mod ledger;
#[path = "../../../src/heap/peak.rs"]
pub(crate) mod peak;
#[path = "../../../src/heap/slot.rs"]
pub(crate) mod slot;
