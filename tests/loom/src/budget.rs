//! The library's table of a budget and its lock, from the library's own files.

#[path = "../../../src/budget/shared.rs"]
pub(crate) mod shared;
#[path = "../../../src/budget/table.rs"]
pub(crate) mod table;

pub(crate) const MAX_ACCOUNTS: usize = 2;
