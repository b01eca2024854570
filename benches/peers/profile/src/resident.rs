//! The memory that a start of the profile maps.

use plimsoll::ByteSize;
use serde_json::{Value, json};

use crate::Start;

/// Measures the growth of the address space across a start.
pub(crate) fn measure(start: Start) -> Result<Value, String> {
    // The first reading loads what reading itself needs.
    let _ = mapped_pages();
    let before = mapped_pages();
    start(ByteSize::kib(512))?;
    let after = mapped_pages();
    // SAFETY: a call without pointers.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    Ok(json!({"mapped": after.saturating_sub(before) * page as u64}))
}

/// Reads the pages of the address space without an allocation.
fn mapped_pages() -> u64 {
    use std::io::Read;

    let mut text = [0; 64];
    let read = std::fs::File::open("/proc/self/statm").and_then(|mut file| file.read(&mut text));
    let digits = text.iter().take(read.unwrap_or(0)).take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
}
