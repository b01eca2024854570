//! Leaks of blocking tasks.

use std::collections::BTreeMap;

use tokio::task::spawn_blocking;

use super::{retain, runtime};
use crate::Leak;

pub(super) const LEAKS: [Leak; 4] =
    crate::leaks!("spawn_blocking" in "blocking.rs": blocking_file, blocking_rows, blocking_tree, blocking_hashes);

fn blocking_file(bytes: usize) {
    let read = move || {
        let mut file = Vec::new();
        while file.len() < bytes {
            file.extend_from_slice(&[1; 4096]);
        }
        file
    };
    if let Ok(file) = runtime().block_on(async { spawn_blocking(read).await }) {
        retain(file);
    }
}

fn blocking_rows(bytes: usize) {
    let rows = move || retain((0..bytes / 200).map(|_| vec![1_u8; 200]).collect::<Vec<_>>());
    let _ = runtime().block_on(async { spawn_blocking(rows).await });
}

fn blocking_tree(bytes: usize) {
    let build = move || {
        let mut tree = BTreeMap::new();
        for number in 0..bytes / 48 {
            tree.insert(number, [number; 4]);
        }
        retain(tree);
    };
    let _ = runtime().block_on(async { spawn_blocking(build).await });
}

fn blocking_hashes(bytes: usize) {
    fn hash(number: usize) -> String {
        format!("{:064x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
    let hashes = move || retain((0..bytes / 96).map(hash).collect::<Vec<_>>());
    let _ = runtime().block_on(async { spawn_blocking(hashes).await });
}
