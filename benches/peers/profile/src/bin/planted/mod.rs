//! Planted leaks in the program's own crate: four of each kind.

mod blocking;
mod json;
mod plain;
mod rayons;
mod spawned;

use profile_workers::Leak;

const KINDS: [[Leak; 4]; 5] = [plain::LEAKS, spawned::LEAKS, blocking::LEAKS, rayons::LEAKS, json::LEAKS];

/// All of them.
pub static LEAKS: &[Leak] = KINDS.as_flattened();
