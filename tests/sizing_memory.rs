//! A log is read in fixed memory, however long it is.
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test with the shared support: it stops at the first surprise"
)]

mod support;

use std::io::{self, Read};

use plimsoll::sizing::{MAX_LINE, read_log};
use plimsoll::{ByteSize, TrackingAllocator, heap};

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

support::tests!(
    a_log_of_any_length_is_read_in_288_kib,
    a_long_line_is_held_once_and_twice_more_where_it_quotes_or_nests_json,
);

/// The same lines over and over, with a number in them.
struct Log {
    lines: [&'static str; 5],
    next: usize,
    left: usize,
    /// What is left of the line that was begun.
    line: [u8; 256],
    place: (usize, usize),
}

impl Log {
    fn new(left: usize) -> Self {
        let lines = [
            "START RequestId: ######## Version: 7",
            "REPORT RequestId: ########\tDuration: 3.27 ms\tBilled Duration: 4 ms\tMemory Size: 128 MB\tMax Memory Used: 61 MB\t",
            "RequestId: ######## Error: Runtime exited with error: signal: killed",
            "{",
            "  \"id\": \"########\",",
        ];
        Self { lines, next: 0, left, line: [0; 256], place: (0, 0) }
    }
}

impl Read for Log {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (from, to) = self.place;
        if from == to {
            if self.next == self.left {
                return Ok(0);
            }
            let line = self.lines.get(self.next % self.lines.len()).unwrap().as_bytes();
            let number: [u8; 8] = std::array::from_fn(|digit| b"01234567"[self.next >> (3 * digit) & 7]);
            let mut digits = number.iter();
            for (place, byte) in self.line.iter_mut().zip(line) {
                *place = if *byte == b'#' { *digits.next().unwrap() } else { *byte };
            }
            *self.line.get_mut(line.len()).unwrap() = b'\n';
            self.place = (0, line.len() + 1);
            self.next += 1;
            return self.read(buffer);
        }
        let len = buffer.len().min(to - from);
        buffer.get_mut(..len).unwrap().copy_from_slice(self.line.get(from..from + len).unwrap());
        self.place.0 += len;
        Ok(len)
    }
}

/// The most heap that `work` held above what was live before.
fn peak_of(work: impl FnOnce()) -> ByteSize {
    heap::reset_peak();
    let before = heap::stats().unwrap().live;
    work();
    heap::stats().unwrap().peak.at_most.saturating_sub(before)
}

fn a_log_of_any_length_is_read_in_288_kib() {
    for lines in [1_000, 200_000] {
        let peak = peak_of(|| {
            let counts = read_log(Log::new(lines), drop).unwrap();
            assert_eq!((counts.lines, counts.reports), (lines as u64, lines as u64 / 5));
        });
        assert!(peak <= ByteSize::kib(288), "{peak} for {lines} lines");
        assert!(peak >= ByteSize::kib(256), "{peak}: nothing was measured");
    }
}

fn a_long_line_is_held_once_and_twice_more_where_it_quotes_or_nests_json() {
    let quoted = "{\\\"type\\\":\\\"platform.report\\\",\\\"record\\\":{}} ".repeat(20_000);
    let nested = "{\"type\":\"platform.report\",\"record\":".to_owned() + &"[".repeat(MAX_LINE.as_usize());
    let quoted_and_nested = nested.replace('"', "\\\"");
    let bound = ByteSize::kib(288).saturating_add(MAX_LINE.saturating_mul(3));
    for line in [quoted, nested, quoted_and_nested] {
        let line = line.get(..MAX_LINE.as_usize()).unwrap_or(&line);
        let peak = peak_of(|| {
            let counts = read_log(line.as_bytes(), drop).unwrap();
            assert_eq!(counts.lines, 1);
        });
        assert!(peak <= bound && peak > MAX_LINE, "{peak} of {bound}: {}", line.get(..40).unwrap());
    }
}
