//! The calls to the library's alarm, in one place.

use plimsoll::ByteSize;
use plimsoll::heap::{AlarmThresholds, highest_crossed_threshold, set_alarm_thresholds};

use super::PERCENT;

/// Sets the one threshold at [`PERCENT`] of `memory_size`.
pub fn set(memory_size: usize) {
    let thresholds = AlarmThresholds::new(ByteSize::bytes(memory_size as u64)).environment_share(ByteSize::ZERO);
    let thresholds = thresholds.with_percents(&[PERCENT]).unwrap();
    set_alarm_thresholds(&thresholds).expect("the tracking allocator is installed");
}

/// Returns the highest threshold that is crossed, in percent.
pub fn crossed() -> Option<u8> {
    highest_crossed_threshold()
}
