//! A process that grows until the kernel kills it.

use std::hint::black_box;

use super::histories::{MIB, thresholds};

/// The ways to grow.
pub const WAYS: [&str; 5] = ["small", "large", "one", "zeroed", "doubling"];

/// Grows to twice `memory_size` and returns, if the kernel did not kill the process before.
///
/// Returns `false` if there is no such way.
pub(super) fn until_killed(way: &str, memory_size: usize, alarm: bool) -> bool {
    if alarm {
        thresholds::set(memory_size);
    }
    let most = 2 * memory_size;
    match way {
        "small" => fill(1000, most),
        "large" => fill(2 * MIB, most),
        "one" => {
            // The last block alone passes the limit.
            fill(MIB, memory_size - 30 * MIB);
            fill(40 * MIB, 40 * MIB);
        }
        "zeroed" => {
            for _ in 0..most / (4 * MIB) {
                let mut block = vec![0_u8; 4 * MIB];
                block.chunks_mut(4096).filter_map(<[u8]>::first_mut).for_each(|byte| *byte = 1);
                black_box(block).leak();
            }
        }
        "doubling" => {
            let mut bytes = Vec::new();
            while bytes.len() < most {
                bytes.push(black_box(1_u8));
            }
            black_box(bytes).leak();
        }
        _ => return false,
    }
    true
}

/// Leaks blocks of `piece` bytes, every byte written.
fn fill(piece: usize, most: usize) {
    for _ in 0..most / piece {
        let mut block = Vec::with_capacity(piece);
        block.resize(piece, black_box(1_u8));
        black_box(block).leak();
    }
}
