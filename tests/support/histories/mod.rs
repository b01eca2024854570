//! Histories of memory with fixed seeds: a process performs one and judges each alarm by its own readings of the kernel.
//!
//! A history runs twice. A forked child performs it without thresholds and reports its highest danger. The second run
//! has its threshold a few MiB above that place, or clearly below it, and is judged by what it measures itself.

#![allow(dead_code, unreachable_pub, reason = "each program includes this module and uses its own part")]
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    clippy::cast_ptr_alignment,
    clippy::struct_excessive_bools,
    clippy::missing_panics_doc,
    clippy::exhaustive_enums,
    missing_docs,
    reason = "a test program: it allocates by hand and stops at the first surprise"
)]

mod block;
mod judge;
mod plan;
#[path = "../random.rs"]
mod random;
mod readings;
mod run;
pub mod thresholds;

pub use judge::{Count, Figures, Verdict};
pub use plan::{History, KINDS};
pub use run::run;

pub const MIB: usize = 1 << 20;

/// The threshold in percent of the memory size.
pub const PERCENT: u8 = 97;
