//! How to use each part, in the order in which a service meets them: what to set, what to look at, and what goes wrong.
//!
//! The modules' own pages say what each item does; these pages say which one to take. All examples here are run as
//! tests.
//!
//! | page | answers |
//! |---|---|
//! | [`heap`] | how deep the process lies, a limit under which `try_reserve` fails instead of the process, whose bytes those are |
//! | [`monitor`] | one line of log for each invocation, alarms, leaks, CloudWatch |
//! | [`schema`] | all records: the report line, its JSON form, the alarm; each member with its unit |
//! | [`attribution`] | from `unattributed` in a log to the line of source that holds the memory |
//! | [`budget`] | one bound over caches, buffers and models, and who gives back |
//! | [`cache`] | a cache with a bound in bytes that expires across a freeze |
//! | [`stream`] | any input in fixed memory |
//! | [`lazy`] | what is heavy, loaded when asked for and unloaded under pressure |
//! | `sizing` (feature) | which memory size to choose, from a log |
//! | [`faq`] | glibc's arenas, mimalloc and jemalloc, extensions, children, Managed Instances, SnapStart, musl, macOS |

#[doc = include_str!("heap.md")]
pub mod heap {}

#[doc = include_str!("monitor.md")]
pub mod monitor {}

#[doc = include_str!("schema.md")]
pub mod schema {}

#[doc = include_str!("attribution.md")]
pub mod attribution {}

#[doc = include_str!("budget.md")]
pub mod budget {}

#[doc = include_str!("cache.md")]
pub mod cache {}

#[doc = include_str!("stream.md")]
pub mod stream {}

#[doc = include_str!("lazy.md")]
pub mod lazy {}

#[cfg(feature = "sizing")]
#[doc = include_str!("sizing.md")]
pub mod sizing {}

#[doc = include_str!("faq.md")]
pub mod faq {}
