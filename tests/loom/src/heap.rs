//! The library's ledger, alarm and table of requests in flight, from the library's own files.

#[path = "../../../src/heap/alarm_state.rs"]
pub(crate) mod alarm_state;
#[path = "../../../src/heap/gross.rs"]
pub(crate) mod gross;
#[path = "../../../src/heap/in_flight.rs"]
pub(crate) mod in_flight;
#[path = "../../../src/heap/ledger.rs"]
pub(crate) mod ledger;
#[path = "../../../src/heap/peak.rs"]
pub(crate) mod peak;
#[path = "../../../src/heap/slot.rs"]
pub(crate) mod slot;
