//! Leaks of plain functions.

use std::collections::HashMap;

use super::retain;
use crate::Leak;

pub(super) const LEAKS: [Leak; 4] =
    crate::leaks!("plain" in "plain.rs": plain_buffers, plain_numbers, plain_lines, plain_index);

fn plain_buffers(bytes: usize) {
    let buffers: Vec<Vec<u8>> = (0..bytes / 1000).map(|_| vec![1; 1000]).collect();
    retain(buffers);
}

fn plain_numbers(bytes: usize) {
    let mut numbers = Vec::new();
    for number in 0..bytes as u64 / 8 {
        numbers.push(number);
    }
    retain(numbers);
}

fn plain_lines(bytes: usize) {
    let lines: Vec<String> = (0..bytes / 64).map(|number| format!("line {number:050}")).collect();
    retain(lines);
}

fn plain_index(bytes: usize) {
    let mut index = HashMap::new();
    for number in 0..bytes / 64 {
        index.insert(number, [number; 4]);
    }
    retain(index);
}
