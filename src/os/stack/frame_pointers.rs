//! Walks of stacks by frame pointers.
//!
//! A frame record is two words: the address of the caller's record and the return address. The frame pointer register
//! has the address of the innermost record.
//!
//! ```text
//! higher addresses   | return address into c | <- end of b's record
//!                    | record of c           | <- record of b
//!                    | locals of b           |
//!                    | return address into b |
//!                    | record of b           | <- record of a, in the register
//!                    | locals of a           | <- stack pointer
//! ```
//!
//! Code without frame pointers uses the register for something else, so any value may be in it and in a record. A record
//! is read only if its address is aligned and lies above the stack pointer and above the last record. Besides:
//!
//! - On the thread's own stack it must end below the end of that stack, so all its bytes are mapped. The bounds are kept
//!   for each thread. A thread that the C library started has its descriptor at the end of its stack. The main thread's
//!   stack is the mapping `[stack]`. The beginning of the mapping comes from `/proc/self/maps`.
//! - On any other stack (a fiber's, the alternate stack of a signal handler) `process_vm_readv` reads it. That call fails
//!   for an address that is not mapped, while a mapping read from `/proc/self/maps` may be gone a moment later. If a
//!   sandbox denies the call, the walk finds nothing.
//!
//! # Performance
//!
//! On the thread's own stack, two loads for each frame: about 0.1 us for 15 frames. On another stack, a system call for
//! some frames: about 5 us for 15 frames. A thread reads `/proc/self/maps` at its first walk, and at most once a second
//! while it is on another stack or while the main thread's stack grows. That takes about 15 us, and about 0.4 us more for
//! each mapping up to that of its stack.
#![expect(unsafe_code, reason = "reads the frame pointer register and the stacks of callers")]

use std::arch::asm;
#[cfg(target_os = "linux")]
use std::cell::Cell;
use std::ops::Range;
use std::ptr;

/// The bytes of a frame record.
const RECORD: usize = 2 * size_of::<usize>();

/// Return addresses are not below this address, because the first page is not mapped.
const FIRST_ADDRESS: usize = 4096;

/// The most frames of the allocator that are passed over. It has some 10.
const MAX_SKIPPED: u32 = 64;

/// The bits of a return address. The others may hold a signature of it (pointer authentication).
#[cfg(target_arch = "aarch64")]
const ADDRESS_BITS: usize = (1 << 48) - 1;
#[cfg(not(target_arch = "aarch64"))]
const ADDRESS_BITS: usize = usize::MAX;

/// Writes the return addresses of the frames above `above` into `frames`, innermost first, and returns their number.
pub(super) fn walk(above: usize, frames: &mut [usize]) -> usize {
    let sp = stack_pointer();
    let mut stack = Stack::around(sp);
    follow(frame_pointer(), &mut stack, sp, above, frames)
}

/// Follows the chain of records from `record` on.
pub(super) fn follow(mut record: usize, stack: &mut Stack, sp: usize, above: usize, frames: &mut [usize]) -> usize {
    let (mut count, mut skipped, mut lowest) = (0, 0, sp);
    while let Some(frame) = frames.get_mut(count)
        && record >= lowest
        && record.is_multiple_of(align_of::<usize>())
        && let Some([caller, address]) = stack.record(record)
    {
        if record > above {
            let address = address & ADDRESS_BITS;
            if address < FIRST_ADDRESS {
                break;
            }
            *frame = address;
            count += 1;
        } else if skipped < MAX_SKIPPED {
            skipped += 1;
        } else {
            break;
        }
        // Records do not overlap.
        lowest = record.saturating_add(RECORD);
        record = caller;
    }
    count
}

/// The words that one call of `process_vm_readv` asks for: some frames.
#[cfg(target_os = "linux")]
const WINDOW: usize = 64;

/// The stack that a walk is on.
#[expect(clippy::large_enum_variant, reason = "a walk does not allocate")]
pub(super) enum Stack {
    /// The thread's own: all addresses from the stack pointer to `end` are readable.
    Own { end: usize },
    /// Another one. Its bounds are not known.
    #[cfg(target_os = "linux")]
    Other(Window),
    #[cfg(not(target_os = "linux"))]
    Other,
}

impl Stack {
    /// Returns the stack that contains `sp`, the current stack pointer.
    fn around(sp: usize) -> Self {
        match own_stack(sp) {
            Some(own) => Self::Own { end: own.end },
            None => Self::other(),
        }
    }

    #[cfg(target_os = "linux")]
    pub(super) fn other() -> Self {
        Self::Other(Window { process: std::process::id().cast_signed(), words: [0; WINDOW], start: 0, len: 0 })
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn other() -> Self {
        Self::Other
    }

    /// Returns the record at `address`, which is aligned and not below the stack pointer; `None` if it is not readable.
    fn record(&mut self, address: usize) -> Option<[usize; 2]> {
        match self {
            Self::Own { end } => {
                end.checked_sub(RECORD).filter(|&last| address <= last)?;
                // SAFETY: the record is aligned and lies between the stack pointer and the end of this thread's stack.
                // All of that is mapped and initialized for reading, and stays so as long as the thread runs.
                Some(unsafe { ptr::with_exposed_provenance::<[usize; 2]>(address).read_volatile() })
            }
            #[cfg(target_os = "linux")]
            Self::Other(window) => window.record(address),
            #[cfg(not(target_os = "linux"))]
            Self::Other => None,
        }
    }
}

/// A copy of a part of a stack.
#[cfg(target_os = "linux")]
pub(super) struct Window {
    process: libc::pid_t,
    words: [usize; WINDOW],
    /// The address of the first word.
    start: usize,
    /// The words that were copied.
    len: usize,
}

#[cfg(target_os = "linux")]
impl Window {
    /// Returns the record at `address`, if it is mapped.
    fn record(&mut self, address: usize) -> Option<[usize; 2]> {
        if let Some(record) = self.copied(address) {
            return Some(record);
        }
        // Up to the end of a page, because the next one may not be mapped.
        let page = 4096;
        let bytes = (page - address % page).min(size_of_val(&self.words)).max(RECORD);
        let to = libc::iovec { iov_base: self.words.as_mut_ptr().cast(), iov_len: bytes };
        let from = libc::iovec { iov_base: ptr::without_provenance_mut(address), iov_len: bytes };
        // SAFETY: the call writes at most `bytes` bytes, for which `words` has room. It checks the other address itself.
        let copied = unsafe { libc::process_vm_readv(self.process, &raw const to, 1, &raw const from, 1, 0) };
        self.start = address;
        self.len = usize::try_from(copied).unwrap_or(0) / size_of::<usize>();
        self.copied(address)
    }

    /// Returns the record at `address`, if it was copied.
    fn copied(&self, address: usize) -> Option<[usize; 2]> {
        let at = address.checked_sub(self.start)? / size_of::<usize>();
        self.words.get(..self.len)?.get(at..)?.first_chunk().copied()
    }
}

#[cfg(target_os = "linux")]
thread_local! {
    /// The bounds of this thread's own stack, as far as they are known, and the time when they were read.
    static OWN: Cell<(usize, usize, u64)> = const { Cell::new((0, 0, 0)) };
}

/// A thread reads its bounds at most once in this time.
#[cfg(target_os = "linux")]
const READ_EVERY_MS: u64 = 1000;

/// Returns the bounds of the calling thread's own stack, if `sp` lies within.
#[cfg(target_os = "linux")]
fn own_stack(sp: usize) -> Option<Range<usize>> {
    let (start, end, read_ms) = OWN.get();
    if (start..end).contains(&sp) {
        return Some(start..end);
    }
    let now = crate::os::coarse_monotonic_ms();
    if read_ms != 0 && now.saturating_sub(read_ms) < READ_EVERY_MS {
        return None;
    }
    let found = read_own_stack(sp);
    // Bounds that are known stay known while the thread is on another stack.
    let (start, end) = found.as_ref().map_or((start, end), |found| (found.start, found.end));
    OWN.set((start, end, now.max(1)));
    found
}

/// Reads the bounds of the calling thread's own stack, if `sp` lies within.
///
/// The kernel joins neighbours of the same kind into one mapping, so the end of a mapping may belong to memory that is
/// unmapped at any time. What is between the stack pointer and the descriptor of the thread is the thread's own stack.
#[cfg(target_os = "linux")]
fn read_own_stack(sp: usize) -> Option<Range<usize>> {
    let mapping = super::maps::find(sp)?;
    if mapping.is_main_stack {
        return Some(mapping.start..mapping.end);
    }
    // SAFETY: `gettid` has no preconditions.
    let thread = unsafe { libc::gettid() };
    // The descriptor of the main thread is not on its stack. Neither is one that was the main thread at a fork.
    if thread.cast_unsigned() == std::process::id() {
        return None;
    }
    // SAFETY: `pthread_self` has no preconditions.
    let descriptor = unsafe { libc::pthread_self() };
    #[allow(clippy::cast_possible_truncation, reason = "a pointer or an integer of its size, by the C library")]
    let descriptor = descriptor as usize;
    (sp < descriptor && descriptor < mapping.end).then_some(mapping.start..descriptor)
}

/// Returns the bounds of the calling thread's own stack, if `sp` lies within. The C library knows them.
#[cfg(target_os = "macos")]
fn own_stack(sp: usize) -> Option<Range<usize>> {
    // SAFETY: `pthread_self` has no preconditions.
    let thread = unsafe { libc::pthread_self() };
    // SAFETY: `thread` is a running thread.
    let end = unsafe { libc::pthread_get_stackaddr_np(thread) }.addr();
    // SAFETY: `thread` is a running thread.
    let size = unsafe { libc::pthread_get_stacksize_np(thread) };
    let own = end.saturating_sub(size)..end;
    own.contains(&sp).then_some(own)
}

/// Returns the value of the frame pointer register.
#[inline(always)]
#[expect(clippy::inline_always, reason = "a function of its own would have its own frame")]
fn frame_pointer() -> usize {
    let value: usize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instruction copies a register into another one.
    unsafe {
        asm!("mov {}, rbp", out(reg) value, options(nomem, nostack, preserves_flags));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: the instruction copies a register into another one.
    unsafe {
        asm!("mov {}, x29", out(reg) value, options(nomem, nostack, preserves_flags));
    }
    value
}

/// Returns the value of the stack pointer.
#[inline(always)]
#[expect(clippy::inline_always, reason = "a function of its own would have its own frame")]
fn stack_pointer() -> usize {
    let value: usize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instruction copies a register into another one.
    unsafe {
        asm!("mov {}, rsp", out(reg) value, options(nomem, nostack, preserves_flags));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: the instruction copies a register into another one.
    unsafe {
        asm!("mov {}, sp", out(reg) value, options(nomem, nostack, preserves_flags));
    }
    value
}
