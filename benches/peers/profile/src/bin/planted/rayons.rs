//! Leaks of parallel work.

use profile_workers::Leak;
use profile_workers::leaks::retain;
use rayon::prelude::*;

pub(super) const LEAKS: [Leak; 4] =
    profile_workers::leaks!("rayon" in "rayons.rs": rayon_fold, rayon_chunks, rayon_filter, rayon_nested);

fn rayon_fold(bytes: usize) {
    let push = |mut lines: Vec<String>, number: usize| {
        lines.push(format!("{number:0120}"));
        lines
    };
    let append = |mut all: Vec<String>, mut more: Vec<String>| {
        all.append(&mut more);
        all
    };
    retain((0..bytes / 144).into_par_iter().fold(Vec::new, push).reduce(Vec::new, append));
}

fn rayon_chunks(bytes: usize) {
    let source = vec![1_u8; bytes];
    let copies: Vec<Vec<u8>> = source.par_chunks(4096).map(<[u8]>::to_vec).collect();
    retain(copies);
}

fn rayon_filter(bytes: usize) {
    let even = |number: u64| (number.is_multiple_of(2)).then(|| Box::new([number; 32]));
    let boxes: Vec<_> = (0..bytes as u64 / 128).into_par_iter().filter_map(even).collect();
    retain(boxes);
}

fn rayon_nested(bytes: usize) {
    let row = |row: usize| (0..16_usize).into_par_iter().map(|cell| vec![(row + cell) as u8; bytes / 1024]).collect();
    let rows: Vec<Vec<Vec<u8>>> = (0..64).into_par_iter().map(row).collect();
    retain(rows);
}
