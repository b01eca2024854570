//! The calls to the library's alarm, in one place.

use plimsoll::ByteSize;
use plimsoll::heap::{LoadLines, crossed_load_line, set_load_lines};

use super::PERCENT;

/// Sets the one threshold at [`PERCENT`] of `memory_size`.
pub fn set(memory_size: usize) {
    let lines = LoadLines::new(ByteSize::bytes(memory_size as u64)).environment_share(ByteSize::ZERO);
    set_load_lines(&lines.percents(&[PERCENT]).unwrap()).expect("the tracking allocator is installed");
}

/// Returns the highest threshold that is crossed, in percent.
pub fn crossed() -> Option<u8> {
    crossed_load_line()
}
