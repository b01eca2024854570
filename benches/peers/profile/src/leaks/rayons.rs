//! Leaks of parallel work.

use rayon::prelude::*;

use super::retain;
use crate::Leak;

pub(super) const LEAKS: [Leak; 4] =
    crate::leaks!("rayon" in "rayons.rs": rayon_map, rayon_join, rayon_scope, rayon_each);

fn rayon_map(bytes: usize) {
    let blocks: Vec<Vec<u8>> = (0..bytes / 2000).into_par_iter().map(|_| vec![1; 2000]).collect();
    retain(blocks);
}

fn rayon_join(bytes: usize) {
    fn half(bytes: usize) -> Vec<Vec<u8>> {
        (0..bytes / 152).map(|_| [1; 128].to_vec()).collect()
    }
    retain(rayon::join(|| half(bytes / 2), || half(bytes / 2)));
}

fn rayon_scope(bytes: usize) {
    rayon::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(move |_| retain((0..bytes / 4 / 80).map(|number| format!("{number:080}")).collect::<Vec<_>>()));
        }
    });
}

fn rayon_each(bytes: usize) {
    (0..32_usize).into_par_iter().for_each(|_| retain(vec![1_u8; bytes / 32]));
}
