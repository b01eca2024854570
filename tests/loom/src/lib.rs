//! Every interleaving of small cases, on the library's own source.
#![cfg(test)]
#![allow(dead_code, reason = "the cases use a part of what the library does")]

mod alarm_cases;
mod board;
mod budget;
mod budget_cases;
mod cache_bound;
mod cache_loads;
mod clock;
mod heap;
mod in_flight_cases;
mod ledger_cases;
mod profile;
mod profile_cases;
mod singleflight;
mod singleflight_cases;
mod sync;
#[path = "../../../src/unwind.rs"]
mod unwind;
