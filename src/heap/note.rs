//! Lines that must be written when nothing may be allocated: in the allocator, and in a signal handler.

use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};

use crate::board::Clean;
use crate::os;
use crate::size::ByteSize;

/// The longest request id that is kept, in bytes.
pub(crate) const CONTEXT_LEN: usize = 64;

/// Room for a line: a request id, a dozen figures and the names of a few holders.
const LINE_LEN: usize = 1024;

/// A line built on the stack; what does not fit is left out.
pub(super) type Line = os::Line<LINE_LEN>;

/// What the process is working on, for lines written in its name: one buffer is read while the other is filled.
struct Context {
    buffers: [[AtomicU8; CONTEXT_LEN]; 2],
    /// Twice the length of the text in use, and in the lowest bit which buffer it is in.
    current: AtomicUsize,
}

static CONTEXT: Context =
    Context { buffers: [const { [const { AtomicU8::new(0) }; CONTEXT_LEN] }; 2], current: AtomicUsize::new(0) };

/// Sets the request id that the next alarm names; it must be clean ASCII, and its first 64 bytes are kept. One thread
/// at a time: two at once may mix their ids.
pub(crate) fn set_context(id: &str) {
    let next = 1 - (CONTEXT.current.load(SeqCst) & 1);
    if let Some(buffer) = CONTEXT.buffers.get(next) {
        for (place, byte) in buffer.iter().zip(id.bytes()) {
            place.store(byte, Relaxed);
        }
    }
    CONTEXT.current.store(id.len().min(CONTEXT_LEN) * 2 + next, SeqCst);
}

/// Returns `true` if a request id is set.
pub(super) fn has_context() -> bool {
    CONTEXT.current.load(SeqCst) > 1
}

/// Adds the request id to the line.
pub(super) fn put_context(line: &mut Line) {
    let current = CONTEXT.current.load(SeqCst);
    for place in CONTEXT.buffers.get(current & 1).into_iter().flatten().take(current / 2) {
        line.put_bytes(&[place.load(Relaxed)]);
    }
}

/// The most that the live heap grew in any one invocation, in bytes.
static LARGEST_GROWTH: AtomicUsize = AtomicUsize::new(0);

/// Remembers how much the live heap grew in an invocation, for the alarm to name the largest.
pub(crate) fn note_growth(grown: ByteSize) {
    LARGEST_GROWTH.fetch_max(grown.as_usize(), Relaxed);
}

/// The largest growth noted.
pub(super) fn largest_growth() -> usize {
    LARGEST_GROWTH.load(Relaxed)
}

/// The largest holders of the board, each handed to `each`, and what of `live` they do not account for.
pub(super) fn for_top_holders(live: ByteSize, mut each: impl FnMut(Clean, ByteSize)) -> ByteSize {
    let (top, held) = crate::board::largest::<5>();
    for (name, bytes) in top.into_iter().flatten() {
        each(Clean(name), bytes);
    }
    live.saturating_sub(held)
}

/// Writes the JSON members `holders`, the largest of the board, and `unaccounted`, each after a comma. Sizes are in bytes.
pub(super) fn put_holders(line: &mut Line, heap: ByteSize) {
    line.put(format_args!(r#","holders":{{"#));
    let mut comma = "";
    let unaccounted = for_top_holders(heap, |name, bytes| {
        line.put(format_args!(r#"{comma}"{name}":{}"#, bytes.as_u64()));
        comma = ",";
    });
    line.put(format_args!(r#"}},"unaccounted":{}"#, unaccounted.as_u64()));
}
