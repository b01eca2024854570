//! Blocks and groups of blocks, which need no memory besides their own.

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, realloc};
use std::ptr::null_mut;

const PAGE: usize = 4096;

/// The contents of a slot.
#[derive(Debug)]
pub enum Held {
    Nothing,
    Block(Block),
    Groups(Vec<Group>),
    C(*mut u8),
}

// SAFETY: the memory is owned, and one thread at a time uses it.
unsafe impl Send for Held {}

/// A block of the global allocator.
#[derive(Debug)]
pub struct Block {
    pub start: *mut u8,
    pub bytes: usize,
}

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, 8).unwrap()
}

/// Writes to each page of a part of a block.
pub fn touch(start: *mut u8, from: usize, to: usize) {
    for offset in (from..to).step_by(PAGE).chain(to.checked_sub(1)) {
        let place = start.wrapping_add(offset);
        // SAFETY: the caller owns the block, and the offset is inside.
        unsafe { place.write_volatile(1) };
    }
}

impl Block {
    pub fn new(bytes: usize, zeroed: bool) -> Self {
        let layout = layout(bytes);
        // SAFETY: the size is not zero.
        let start = if zeroed { unsafe { alloc_zeroed(layout) } } else { unsafe { alloc(layout) } };
        assert!(!start.is_null(), "no memory");
        Self { start, bytes }
    }

    pub fn resize(&mut self, bytes: usize) {
        // SAFETY: the block has this layout, and the size is not zero.
        self.start = unsafe { realloc(self.start, layout(self.bytes), bytes) };
        assert!(!self.start.is_null(), "no memory");
        self.bytes = bytes;
    }

    pub fn free(self) {
        // SAFETY: the block has this layout.
        unsafe { dealloc(self.start, layout(self.bytes)) };
    }
}

/// Blocks of one size. The first word of each is the address of the next.
#[derive(Debug)]
pub struct Group {
    first: *mut u8,
    piece: usize,
    pub bytes: usize,
}

// SAFETY: the blocks are owned.
unsafe impl Send for Group {}

impl Group {
    pub const fn new(piece: usize) -> Self {
        Self { first: null_mut(), piece, bytes: 0 }
    }

    /// Adds a block to the group and touches it.
    pub fn add(&mut self) {
        let block = Block::new(self.piece, false);
        touch(block.start, 0, self.piece);
        self.push(block.start);
    }

    fn push(&mut self, block: *mut u8) {
        // SAFETY: a block is larger than an address, and aligned for one.
        unsafe { block.cast::<*mut u8>().write(self.first) };
        self.first = block;
        self.bytes += self.piece;
    }

    /// Calls `work` for each block and its number. `work` may free the block.
    fn each(&self, mut work: impl FnMut(usize, *mut u8)) {
        let (mut block, mut number) = (self.first, 0);
        while !block.is_null() {
            // SAFETY: each block of the group begins with the address of the next.
            let next = unsafe { block.cast::<*mut u8>().read() };
            work(number, block);
            number += 1;
            block = next;
        }
    }

    /// Frees the blocks except each `keep`-th, and returns the blocks that are left.
    pub fn free_except(self, keep: usize) -> Self {
        let mut kept = Self::new(self.piece);
        self.each(|number, block| {
            if number.is_multiple_of(keep) {
                kept.push(block);
            } else {
                Block { start: block, bytes: self.piece }.free();
            }
        });
        kept
    }

    /// Frees all blocks and returns their bytes.
    fn free(self) -> usize {
        self.each(|_, block| Block { start: block, bytes: self.piece }.free());
        self.bytes
    }
}

impl Held {
    /// Frees the memory and returns the bytes that the global allocator had given.
    pub fn free(self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Block(block) => {
                let bytes = block.bytes;
                block.free();
                bytes
            }
            Self::Groups(groups) => groups.into_iter().map(Group::free).sum(),
            Self::C(start) => {
                // SAFETY: the block came from `malloc`.
                unsafe { libc::free(start.cast()) };
                0
            }
        }
    }
}
