//! The ways in which sites allocate. Each is compiled into its sites.

#![expect(clippy::inline_always, reason = "a function of its own would be a site of its own")]

use std::collections::{BTreeMap, HashMap, LinkedList};
use std::hint::black_box;

use super::sites::{ALL, Held};
use crate::Random;

/// Allocates buffers of 64 bytes to 4 KiB, each with its capacity from the start.
#[inline(always)]
pub(crate) fn buffers(bytes: usize, random: &mut Random) -> Held {
    let mut buffers = Vec::new();
    let mut sum = 0;
    while sum < bytes {
        let size = 63 + random.size(4033);
        buffers.push(black_box(Vec::<u8>::with_capacity(size)));
        sum += size;
    }
    Box::new(buffers)
}

/// Allocates vectors that grow by `realloc`.
#[inline(always)]
pub(crate) fn pushed(bytes: usize, random: &mut Random) -> Held {
    let mut vectors = Vec::new();
    let mut left = bytes / size_of::<u64>();
    while left > 0 {
        let length = random.size(8 << 10).min(left);
        let mut vector = Vec::new();
        for number in 0..length {
            vector.push(number as u64);
        }
        left -= length;
        vectors.push(black_box(vector));
    }
    Box::new(vectors)
}

/// Allocates boxes of 320 bytes.
#[inline(always)]
pub(crate) fn boxes(bytes: usize, _: &mut Random) -> Held {
    let boxes: Vec<_> = (0..bytes / 320 + 1).map(|number| black_box(Box::new([number as u64; 40]))).collect();
    Box::new(boxes)
}

/// Allocates strings that are formatted, and one that grows.
#[inline(always)]
pub(crate) fn strings(bytes: usize, random: &mut Random) -> Held {
    let mut all = String::new();
    let mut strings = Vec::new();
    while all.len() < bytes / 4 {
        let line = format!("entry {} of {:032x}", strings.len(), random.bits());
        all.push_str(&line);
        strings.push(line.repeat(1 + random.size(4)));
    }
    Box::new((all, strings))
}

/// Allocates a hash map that grows.
#[inline(always)]
pub(crate) fn maps(bytes: usize, random: &mut Random) -> Held {
    let mut map = HashMap::new();
    while map.len() < bytes / 64 {
        map.insert(random.bits(), [0_u64; 4]);
    }
    Box::new(map)
}

/// Allocates blocks of more than 512 KiB, zeroed.
#[inline(always)]
pub(crate) fn large(bytes: usize, random: &mut Random) -> Held {
    Box::new(black_box(vec![0_u8; bytes.max(600 << 10) + random.size(4096)]))
}

/// Allocates a linked list of small nodes.
#[inline(always)]
pub(crate) fn nodes(bytes: usize, random: &mut Random) -> Held {
    let mut list = LinkedList::new();
    for _ in 0..bytes / 64 + 1 {
        list.push_back([random.bits(); 6]);
    }
    Box::new(list)
}

/// Allocates vectors of vectors of vectors.
#[inline(always)]
pub(crate) fn nested(bytes: usize, random: &mut Random) -> Held {
    let mut outer = Vec::new();
    let mut sum = 0;
    while sum < bytes {
        let (rows, columns) = (random.size(16), random.size(64));
        outer.push(vec![vec![1_u32; columns]; rows]);
        sum += rows * (columns * size_of::<u32>() + size_of::<Vec<u32>>());
    }
    Box::new(outer)
}

/// Grows buffers that another site allocated.
#[inline(always)]
pub(crate) fn regrown(bytes: usize, random: &mut Random) -> Held {
    let mut buffers = Vec::new();
    let mut sum = 0;
    while sum < bytes {
        let other = ALL.first().map(|site| site(4 << 10, random));
        let Some(Ok(mut begun)) = other.map(|other| other.downcast::<Vec<Vec<u8>>>()) else { break };
        for buffer in begun.iter_mut() {
            buffer.reserve_exact(8 << 10);
            sum += 8 << 10;
        }
        buffers.append(&mut begun);
    }
    Box::new(buffers)
}

/// Allocates a tree of strings.
#[inline(always)]
pub(crate) fn trees(bytes: usize, random: &mut Random) -> Held {
    let mut tree = BTreeMap::new();
    while tree.len() < bytes / 96 {
        tree.insert(random.bits(), "a value of this tree".repeat(1 + random.size(3)));
    }
    Box::new(tree)
}
