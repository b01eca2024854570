//! The statics of a program.

use std::error::Error;
use std::path::Path;

/// Returns the bytes that a program has writable from its start: the writable segments and the thread-locals.
///
/// The layout is that of a 64-bit little-endian [ELF header](https://man7.org/linux/man-pages/man5/elf.5.html).
pub(super) fn writable_bytes(program: &Path) -> Result<u64, Box<dyn Error>> {
    const LOAD: u64 = 1;
    const THREAD_LOCALS: u64 = 7;
    const WRITABLE: u64 = 2;

    let file = std::fs::read(program)?;
    let number = |start: usize, length: usize| {
        let bytes = file.get(start..start + length).ok_or("the program has no whole ELF header")?;
        Ok::<u64, Box<dyn Error>>(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    };
    let (start, size, count) = (number(32, 8)? as usize, number(54, 2)? as usize, number(56, 2)? as usize);
    let mut sum = 0;
    for header in (0..count).map(|index| start + index * size) {
        let (kind, flags) = (number(header, 4)?, number(header + 4, 4)?);
        if kind == LOAD && flags & WRITABLE != 0 || kind == THREAD_LOCALS {
            sum += number(header + 40, 8)?;
        }
    }
    Ok(sum)
}
