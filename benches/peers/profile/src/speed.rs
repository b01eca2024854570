//! Nanoseconds of processor time on one thread.
//!
//! Work is timed in chunks, and the quickest chunk counts, since interference only adds. It has fewer samples than the
//! others, which hides little: of the 24 samples in 200,000 pairs of 64 bytes it may lack 12, that is 12 x 0.3 us /
//! 200,000 = 0.02 ns of a pair.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::hint::black_box;

use serde_json::{Value, json};

use crate::thread_time;

/// Measures pairs of 64 bytes and pairs of 64 KiB.
pub(crate) fn measure(chunks: usize) -> Value {
    const SMALL: u32 = 200_000;
    const LARGE: u32 = 20_000;

    let pair64 = quickest_of(chunks, || pairs(SMALL)) / f64::from(SMALL);
    // A block below the top of the heap: glibc returns memory at the top to the kernel with each pair.
    let first = black_box(Vec::<u8>::with_capacity(64 << 10));
    let last = black_box(Vec::<u8>::with_capacity(64 << 10));
    drop(first);
    let pair64k = quickest_of(chunks, || repeat::<{ 64 << 10 }>(LARGE)) / f64::from(LARGE);
    drop(last);
    json!({"pair64.ns": pair64, "pair64k.ns": pair64k})
}

/// Parses and drops a document of 1 MB for each line of the standard input, and prints the processor time of each.
///
/// The caller runs the steps of several workers in turn, because the speed of a machine changes from second to second.
pub(crate) fn step_documents() -> Result<(), String> {
    let document = document(1_000_000);
    let mut line = String::new();
    // The first document warms up the allocator. The block after it stays at the top of the heap: glibc would return
    // the memory below to the kernel with each document, and the time of the page faults would hide all else.
    let first = serde_json::from_slice::<Value>(&document);
    let last = black_box(Vec::<u8>::with_capacity(100 << 10));
    drop(first);
    while std::io::stdin().read_line(&mut line).map_err(|error| error.to_string())? > 0 {
        let before = thread_time();
        parse(&document);
        println!("{}", thread_time() - before);
        line.clear();
    }
    drop(last);
    Ok(())
}

/// Parses and drops a document of 1 MB, `count` times.
pub(crate) fn documents(count: u32) {
    let document = document(1_000_000);
    (0..count).for_each(|_| parse(&document));
}

fn parse(document: &[u8]) {
    drop(black_box(serde_json::from_slice::<Value>(document)));
}

/// Allocates and frees 64 bytes, `count` times.
pub(crate) fn pairs(count: u32) {
    repeat::<64>(count);
}

#[inline(never)]
fn repeat<const SIZE: usize>(count: u32) {
    let Ok(layout) = Layout::from_size_align(SIZE, 8) else { return };
    for _ in 0..count {
        // SAFETY: the size is not zero. The black box prevents the removal of the pair.
        let block = black_box(unsafe { alloc(layout) });
        if block.is_null() {
            handle_alloc_error(layout);
        }
        // SAFETY: the block was allocated above with this layout.
        unsafe { dealloc(block, layout) }
    }
}

/// Returns a document of about `bytes` bytes: records with strings, numbers, lists and an object.
pub(crate) fn document(bytes: usize) -> Vec<u8> {
    let mut text = String::from("[");
    let mut number = 0_u64;
    while text.len() < bytes {
        let separator = if number == 0 { "" } else { "," };
        let (price, stock) = (number % 997, number * 7 % 1013);
        text.push_str(&format!(
            r#"{separator}{{"id":{number},"name":"record number {number}","tags":["blue","large","in stock"],"price":{price}.25,"place":{{"shelf":"{price}-{stock}","row":{stock}}},"sold":false}}"#
        ));
        number += 1;
    }
    text.push(']');
    text.into_bytes()
}

/// Returns the processor time of the quickest chunk in nanoseconds.
fn quickest_of(chunks: usize, mut chunk: impl FnMut()) -> f64 {
    // The first chunk warms up the allocator.
    chunk();
    let time = |_| {
        let before = thread_time();
        chunk();
        thread_time() - before
    };
    (0..chunks).map(time).min().map_or(f64::NAN, |time| time as f64)
}
