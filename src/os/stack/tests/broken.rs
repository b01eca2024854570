//! Walks of stacks that are not a thread's own, and of chains that are broken.

use std::arch::asm;
use std::hint::black_box;
use std::{ptr, thread};

use super::{ALL, FRAMES, Mapped, sources, walk};
use crate::os::stack::StackSource;
use crate::os::stack::frame_pointers::{Stack, follow};

/// The arguments of [`walk_from_c`], and the number of frames that it found.
#[repr(C)]
pub(super) struct Call {
    pub(super) source: StackSource,
    pub(super) found: usize,
}

/// Walks from a function that keeps the frame pointer register, or saves it as if it were one.
extern "C" fn walk_from_c(call: &mut Call) {
    let mut frames = [0; FRAMES];
    call.found = walk(call.source, &mut frames);
    assert!(frames[..call.found].iter().all(|&frame| frame >= 4096), "{frames:x?}");
}

/// Calls [`walk_from_c`] with a value in the frame pointer register.
#[cfg(target_arch = "x86_64")]
fn with_frame_pointer(value: usize, call: &mut Call) {
    // SAFETY: the stack pointer is aligned for a call, before it and after two words have been pushed. The register is
    // restored, and the function keeps to the ABI.
    unsafe {
        asm!("push rbp", "push rbp", "mov rbp, {value}", "call {walk}", "pop rbp", "pop rbp",
            value = in(reg) value, walk = sym walk_from_c, in("rdi") call, clobber_abi("C"));
    }
}

#[cfg(target_arch = "aarch64")]
fn with_frame_pointer(value: usize, call: &mut Call) {
    // SAFETY: the stack pointer stays aligned. The register is restored, and the function keeps to the ABI.
    unsafe {
        asm!("stp x29, x30, [sp, #-16]!", "mov x29, {value}", "bl {walk}", "ldp x29, x30, [sp], #16",
            value = in(reg) value, walk = sym walk_from_c, in("x0") call, clobber_abi("C"));
    }
}

/// Calls [`walk_from_c`] on another stack. Its last 1024 bytes are zeros.
#[cfg(target_arch = "x86_64")]
pub(super) fn on_stack(stack: &Mapped, call: &mut Call) {
    let top = stack.0.addr() + stack.1 - 1024;
    // SAFETY: `top` is aligned and has a mapping below that is large enough. The callee preserves r12, by which the stack
    // pointer is restored, and keeps to the ABI.
    unsafe {
        asm!("mov r12, rsp", "mov rsp, {top}", "call {walk}", "mov rsp, r12",
            top = in(reg) top, walk = sym walk_from_c, in("rdi") call, out("r12") _, clobber_abi("C"));
    }
}

#[cfg(target_arch = "aarch64")]
pub(super) fn on_stack(stack: &Mapped, call: &mut Call) {
    let top = stack.0.addr() + stack.1 - 1024;
    // SAFETY: `top` is aligned and has a mapping below that is large enough. The callee preserves x20, by which the stack
    // pointer is restored, and keeps to the ABI.
    unsafe {
        asm!("mov x20, sp", "mov sp, {top}", "bl {walk}", "mov sp, x20",
            top = in(reg) top, walk = sym walk_from_c, in("x0") call, out("x20") _, clobber_abi("C"));
    }
}

/// Values that are not the address of a frame record, and some that look like it. `near` is on the stack.
fn broken_frame_pointers(near: usize, words: &[usize; 64]) -> impl Iterator<Item = usize> {
    let words = ptr::from_ref(words).addr();
    let odd = [
        0,
        1,
        8,
        4096,
        usize::MAX,
        usize::MAX - 7,
        usize::MAX - 15,
        1 << 47,
        1 << 63,
        walk_from_c as *const () as usize,
    ];
    let around = (-2048..=2048_isize).map(move |distance| near.wrapping_add_signed(distance));
    let far = (0..47).map(move |bit| near.wrapping_add(1 << bit) & !7);
    odd.into_iter().chain(around).chain(far).chain((0..64).map(move |at| words + at * 8))
}

#[test]
fn walk_stack_broken_frame_pointer_survives() {
    // Records that refer to themselves, to each other, and to nothing.
    let mut words = [0; 64];
    let start = words.as_ptr().addr();
    for (at, word) in words.iter_mut().enumerate() {
        *word = start.wrapping_add_signed([0, 16, -16, 8, 1 << 40, -(1 << 40), 24, 32][at % 8]);
    }
    let mut call = Call { source: StackSource::FramePointers, found: 0 };
    let near = (&raw const call).addr();
    for value in broken_frame_pointers(near, black_box(&words)) {
        with_frame_pointer(value, &mut call);
    }
}

#[test]
fn follow_broken_record_on_any_stack_survives() {
    let words = [0; 64];
    let sp = (&raw const words).addr();
    for value in broken_frame_pointers(sp, black_box(&words)) {
        for mut stack in [Stack::Own { end: sp + size_of_val(&words) }, Stack::other()] {
            for above in [0, sp, sp + 256, usize::MAX] {
                let count = follow(value, &mut stack, sp, above, &mut [0; FRAMES]);
                assert!(count <= FRAMES);
            }
        }
    }
}

#[test]
fn follow_rising_chain_returns_its_addresses() {
    let mut words = [0_usize; 16];
    let start = words.as_ptr().addr();
    for (at, (next, address)) in [(2, 0x5001), (6, 0x5002), (12, 0x5003), (0, 0x5004)].into_iter().enumerate() {
        let place = [0, 2, 6, 12][at];
        words[place] = start + next * 8;
        words[place + 1] = address;
    }
    black_box(&mut words);
    let end = start + size_of_val(&words);
    let by = |mut stack: Stack, sp: usize, above: usize| {
        let mut frames = [0; FRAMES];
        let count = follow(start, &mut stack, sp, above, &mut frames);
        frames[..count].to_vec()
    };
    let follow = |end: usize, sp: usize, above: usize| by(Stack::Own { end }, sp, above);
    assert_eq!(follow(end, start, 0), [0x5001, 0x5002, 0x5003, 0x5004], "the last record refers to the first");
    assert_eq!(follow(end, start, start), [0x5002, 0x5003, 0x5004], "the first record is not above");
    assert_eq!(follow(end, start, start + 47), [0x5003, 0x5004]);
    assert_eq!(follow(start + 13 * 8, start, 0), [0x5001, 0x5002, 0x5003], "the stack ends in the last record");
    assert_eq!(follow(end, start + 1, 0), [0; 0], "the first record is below the stack pointer");
    // An emulator may not have the call that reads other stacks.
    if std::env::var_os("PLIMSOLL_RUNNER").is_none() {
        assert_eq!(by(Stack::other(), start, 0), [0x5001, 0x5002, 0x5003, 0x5004]);
    }
}

#[test]
fn walk_stack_takes_the_stated_bytes_of_stack() {
    let by_tables = if cfg!(target_arch = "aarch64") { 7 << 10 } else { 4 << 10 };
    // The first walk of a thread also reads the bounds of its stack.
    thread::spawn(move || {
        for (source, most) in [(StackSource::FramePointers, 3 << 10), (StackSource::UnwindTables, by_tables)] {
            let stack = Mapped::new(64 << 10);
            on_stack(&stack, &mut Call { source, found: 0 });
            // SAFETY: the mapping is readable, and nothing writes to it now.
            let bytes = unsafe { std::slice::from_raw_parts(stack.0, stack.1) };
            let untouched = bytes.iter().take_while(|&&byte| byte == 0).count();
            let used = stack.1 - 1024 - untouched;
            assert!(used <= most, "{source}: {used} bytes");
        }
    })
    .join()
    .unwrap();
}

#[test]
fn walk_stack_on_a_foreign_stack_survives() {
    let stack = Mapped::new(64 << 10);
    for source in ALL {
        let mut call = Call { source, found: 0 };
        on_stack(&stack, &mut call);
        on_stack(&stack, &mut call);
        assert!(call.found <= FRAMES);
    }
    for source in sources() {
        assert!(walk(source, &mut [0; FRAMES]) >= 3, "{source}: the bounds of the own stack are still known");
    }
}

#[test]
fn walk_stack_preserves_errno() {
    let errno = || std::io::Error::last_os_error().raw_os_error();
    thread::spawn(move || {
        let stack = Mapped::new(64 << 10);
        for source in ALL {
            // SAFETY: closing a descriptor that does not exist only sets `errno`.
            unsafe { libc::close(-1) };
            let mut call = Call { source, found: 0 };
            on_stack(&stack, &mut call);
            with_frame_pointer(8, &mut Call { source: StackSource::FramePointers, found: 0 });
            assert_eq!(errno(), Some(libc::EBADF));
        }
    })
    .join()
    .unwrap();
}
