//! The library's flight, from the library's own files.

#[path = "../../../src/flight/attempt.rs"]
pub(crate) mod attempt;
#[path = "../../../src/flight/join.rs"]
pub(crate) mod join;
#[path = "../../../src/flight/state.rs"]
pub(crate) mod state;
