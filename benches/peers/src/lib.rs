//! The same work, done by this crate and by its peers: what the worker programs in `bin/` share.
//!
//! A global allocator is a static of the whole process, so each one gets a program of its own. The work itself is
//! compiled once, here: every worker runs the same machine code and differs in nothing but its allocator.

#[cfg(target_os = "linux")]
pub mod alarm;
pub mod budget;
pub mod cache;
pub mod heap;
#[cfg(target_os = "linux")]
pub mod histories;
pub mod http;
pub mod lazy;
#[cfg(target_os = "linux")]
pub mod leaks;
mod random;
#[cfg(target_os = "linux")]
pub mod remedies;
pub mod stream;
pub mod strings;
#[cfg(target_os = "linux")]
mod support;
#[cfg(target_os = "linux")]
pub mod survival;
pub mod traces;

pub use random::Random;

/// The median, of an even number the upper one; not a number where there is none.
pub fn median(figures: impl IntoIterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.into_iter().collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}
