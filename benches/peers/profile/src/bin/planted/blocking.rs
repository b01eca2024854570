//! Leaks of blocking tasks.

use std::collections::HashMap;

use profile_workers::Leak;
use profile_workers::leaks::{retain, runtime};
use tokio::task::{block_in_place, spawn_blocking};

pub(super) const LEAKS: [Leak; 4] = profile_workers::leaks!("spawn_blocking" in "blocking.rs": blocking_images, blocking_words, blocking_in_place, blocking_copies);

fn blocking_images(bytes: usize) {
    let images = move || (0..8_u8).map(|image| vec![image; bytes / 8]).collect::<Vec<_>>();
    if let Ok(images) = runtime().block_on(async { spawn_blocking(images).await }) {
        retain(images);
    }
}

fn blocking_words(bytes: usize) {
    let count = move || {
        let mut words: HashMap<String, usize> = HashMap::new();
        for number in 0..bytes / 140 {
            *words.entry(format!("the word {number:050}")).or_default() += 1;
        }
        retain(words);
    };
    let _ = runtime().block_on(async { spawn_blocking(count).await });
}

fn blocking_in_place(bytes: usize) {
    let task =
        async move { block_in_place(|| retain((0..bytes / 400).map(|_| Box::new([1_u8; 400])).collect::<Vec<_>>())) };
    let _ = runtime().block_on(async { tokio::spawn(task).await });
}

fn blocking_copies(bytes: usize) {
    let original = vec![1_u8; 10_000];
    let copies = move || {
        for _ in 0..bytes / 10_000 {
            retain(original.clone());
        }
    };
    let _ = runtime().block_on(async { spawn_blocking(copies).await });
}
