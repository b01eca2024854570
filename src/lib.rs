//! The load line for your Lambda's memory: what the heap holds, a limit it cannot pass, and what the kernel counts.
//!
//! A function on AWS Lambda, or any service with a fixed memory size, dies by SIGKILL when it passes that size, without
//! a word. This crate knows the heap to the byte, keeps it under a line, and says how deep the process lies.
//!
//! | module | what it bounds or tells |
//! |---|---|
//! | [`heap`] | live and peak heap, a limit under which allocations fail instead of the process, per-scope sums |
//! | [`budget`] | what caches, buffers and models hold together, and who gives back when it is not enough |
//! | [`cache`] | values by key, bounded in entries and in true bytes, that expire though the environment was frozen |
//! | [`os`] | resident memory as the kernel counts it, its peak, and releasing free pages; hooks for jemalloc and mimalloc (features) |
//! | [`env`](mod@env) | the memory size, from Lambda's environment or the cgroup, and the counters of the cgroup |
//! | [`clock`] | milliseconds that never go back and that notice a frozen environment |
//! | [`weigh`] | the heap bytes that a value owns, also a JSON value (feature `serde_json`) |
//! | [`stream`] | any input in fixed memory: lines, records and chunks of a bounded length |
//! | `sizing` (feature) | the memory size that fits, and its cost, from the REPORT lines of a log |
//! | [`size`] | sizes that know MB from MiB |
//! | [`board`] | memory attribution: names and bytes that the alarm, the abort report and the reports show |
//! | [`lazy`] | values loaded when they are first asked for, which know what they cost, and unload |
//! | [`monitor`] | one report line per invocation, alerts, the alarm before a kill, the large picture; CloudWatch metrics (feature) |
//! | [`integration`] | one layer for axum, `lambda_http`, `lambda_runtime` and any tower service, events of `tracing`, admission by memory (features) |
//!
//! The [`guide`] has a page for each: which setting to take, what to look at, what goes wrong.
//!
//! Three words are never mixed: **heap** is what the program asked of the allocator, **reserved** is what a budget
//! granted, **rss** is what the kernel counts and Lambda kills on.
//!
//! ```
//! use plimsoll::{ByteSize, TrackingAllocator, heap, os};
//!
//! #[global_allocator]
//! static GLOBAL: TrackingAllocator = TrackingAllocator::new();
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     heap::set_limit(ByteSize::mib(100))?;
//!     heap::reset_peak();
//!     let stats = heap::stats()?;
//!     println!("heap {} peak {}", stats.live, stats.peak.at_most);
//!     # #[cfg(target_os = "linux")]
//!     println!("rss {}", os::rss()?.total);
//!     # #[cfg(not(target_os = "linux"))] { let _ = os::rss(); }
//!     Ok(())
//! }
//! ```

#[cfg(not(target_has_atomic = "64"))]
compile_error!("plimsoll keeps its books in 64-bit atomics, which this target does not have");

pub mod board;
pub mod budget;
pub mod cache;
pub mod clock;
pub mod env;
mod error_chain;
pub mod guide;
pub mod heap;
pub mod integration;
pub mod lazy;
mod log;
pub mod monitor;
pub mod os;
mod singleflight;
pub mod size;
#[cfg(feature = "sizing")]
pub mod sizing;
pub mod stream;
mod sync;
mod unwind;
pub mod weigh;

pub use budget::{Account, BudgetExceeded, MemoryBudget, Pressure, Reservation};
pub use cache::Cache;
pub use clock::{Clock, ManualClock};
pub use env::{EnvError, InitializationType, LambdaEnv, LimitSource, MemoryLimit};
pub use heap::TrackingAllocator;
#[cfg(feature = "http")]
pub use integration::{Admission, Estimate};
#[cfg(feature = "tower")]
pub use integration::{AdmissionLayer, HasRequestId, Overloaded, ReportLayer};
pub use lazy::{AsyncLazyResource, LazyError, LazyResource, Pinned};
pub use monitor::Monitor;
pub use size::{ByteDelta, ByteSize, ParseByteSizeError};
pub use weigh::HeapSize;

/// The README's examples, compiled as tests.
#[cfg(all(doctest, feature = "axum", feature = "lambda", feature = "sizing"))]
#[doc = include_str!("../README.md")]
pub struct Readme;
