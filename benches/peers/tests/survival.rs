//! The short form of the survival matrix: each load and each allocator once, in a real memory cgroup. The control of each load is
//! the service without admission, which must be killed.
//!
//! The whole: `scorecard budget --full`.
#![cfg(target_os = "linux")]

use std::time::Duration;

use plimsoll_peers::survival::{Allocator, Cell, Load, cell};

#[test]
fn service_with_admission_survives_and_serves_all_at_rest() {
    let allocators = Allocator::all(
        env!("CARGO_BIN_EXE_survival_system").into(),
        env!("CARGO_BIN_EXE_survival_mimalloc").into(),
        env!("CARGO_BIN_EXE_survival_jemalloc").into(),
    );
    for (load, allocator) in Load::ALL.into_iter().zip(allocators.iter().cycle()) {
        let of = format!("{} over {}", load.name(), allocator.name);
        let cell = cell(allocator, load, "admission", Duration::from_secs(3));
        let Cell { is_killed, answers, refused_at_rest } = cell.expect("a memory cgroup, as root");
        assert!(!is_killed, "{of}: killed");
        assert_eq!(refused_at_rest, 0, "{of}: {answers:?}");
        assert!(answers.served > 0, "{of}: {answers:?}");
    }
}

#[test]
fn service_without_admission_is_killed_by_each_load() {
    let program = env!("CARGO_BIN_EXE_survival_system");
    let [allocator, ..] = Allocator::all(program.into(), program.into(), program.into());
    for load in Load::ALL {
        let cell = cell(&allocator, load, "none", Duration::from_secs(8)).expect("a memory cgroup, as root");
        assert!(cell.is_killed, "{}: {cell:?}", load.name());
    }
}
