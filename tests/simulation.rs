//! Two hours of a function's life in virtual time, with all that goes wrong in one: freezes, clocks that are set,
//! restores, loaders that fail, pressure, hostile records, and several threads; and what holds all the while.
//!
//! Each seed is run by one thread, twice, which must do the same to the byte, and then by four to eight in lock-step: time
//! moves while nobody works, but in phases of its own. `PLIMSOLL_SEED=7` runs that seed alone, `PLIMSOLL_SEEDS=200` as
//! many.
//!
//! What holds after each step is in `simulation/world.rs` (`check`), what holds of each answer in `simulation/truth.rs`,
//! `cached.rs`, `lazily.rs` and `feed.rs`.
#![allow(unsafe_code, reason = "blocks of known layout, and values that live as long as a test says")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    unreachable_pub,
    reason = "tests without libtest's attribute"
)]

#[path = "simulation/cached.rs"]
mod cached;
#[path = "simulation/feed.rs"]
mod feed;
#[path = "simulation/hands.rs"]
mod hands;
#[path = "simulation/lazily.rs"]
mod lazily;
#[path = "simulation/run.rs"]
mod run;
mod support;
#[path = "simulation/truth.rs"]
mod truth;
#[path = "simulation/worker.rs"]
mod worker;
#[path = "simulation/world.rs"]
mod world;

use std::sync::atomic::Ordering::SeqCst;

use plimsoll::TrackingAllocator;

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

support::tests! {
    two_hours_of_a_functions_life_keep_every_promise,
}

/// Which seeds to run.
fn seeds() -> std::ops::RangeInclusive<u64> {
    let number = |name| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    match (number("PLIMSOLL_SEED"), number("PLIMSOLL_SEEDS")) {
        (Some(seed), _) => seed..=seed,
        (None, count) => 1..=count.unwrap_or(3),
    }
}

fn two_hours_of_a_functions_life_keep_every_promise() {
    run::say_where();
    run::warm_up();
    println!();
    let (mut all, seeds) = (Vec::new(), seeds());
    for seed in seeds.clone() {
        truth::WHERE[0].store(seed, SeqCst);
        let (first, second) = (run::alone(seed), run::alone(seed));
        assert_eq!(first.digest, second.digest, "one thread did not do the same twice");
        let together = run::together(seed);
        println!("seed {seed}: {:016x} in {} steps alone, {} together", first.digest, first.steps, together.steps);
        all.resize(first.seen.len(), ("", 0));
        for (sum, (alone, together)) in all.iter_mut().zip(first.seen.iter().zip(together.seen)) {
            *sum = (alone.0, sum.1 + alone.1 + together.1);
        }
    }
    println!("{all:?}");
    // One seed alone may miss something.
    if seeds.count() >= 3 {
        for (what, times) in all {
            assert!(times > 0, "{what} never happened: nothing was shown of it");
        }
    }
}
