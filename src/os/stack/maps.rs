//! The mapping that contains an address, from `/proc/self/maps`. Nothing here allocates, locks, formats or panics.
#![expect(unsafe_code, reason = "`read` into a buffer on the stack, which std has only with more checks")]

use std::ops::ControlFlow;
use std::os::fd::AsRawFd;

use crate::os::kept_file::open;

/// Bytes that one call of `read` asks for. A signal handler may have no more than some KiB of stack.
const PIECE: usize = 1024;

/// The name of the main thread's stack. Names of files are absolute paths, so none can be the same.
const MAIN_STACK: &[u8] = b"[stack]";

/// A readable mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mapping {
    pub(super) start: usize,
    pub(super) end: usize,
    /// `true` if it is the stack on which `main` runs.
    pub(super) is_main_stack: bool,
}

/// Returns the readable mapping that contains `address`.
///
/// The file is read in pieces, up to the line of that mapping: the lines are sorted by address.
#[inline(never)] // so that its buffer is on the stack only while it runs
pub(super) fn find(address: usize) -> Option<Mapping> {
    let file = open(c"/proc/self/maps", libc::O_RDONLY).ok()?;
    let mut buffer = [0_u8; PIECE];
    let mut lines = Lines::new(address);
    loop {
        // SAFETY: `buffer` is valid for writing `buffer.len()` bytes.
        let read = unsafe { libc::read(file.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
        // The kernel prints from memory, so the call is not interrupted; 0 is the end of the file.
        let read = usize::try_from(read).ok().filter(|&read| read > 0)?;
        for &byte in buffer.iter().take(read) {
            if let ControlFlow::Break(found) = lines.push(byte) {
                return found;
            }
        }
    }
}

/// Reads lines byte by byte, up to the mapping that contains an address.
///
/// A line is `start-end rwxp offset device inode   name`, its numbers in hexadecimal.
struct Lines {
    address: usize,
    field: Field,
    number: usize,
    start: usize,
    end: usize,
    is_readable: bool,
    /// The bytes of the name that agree with [`MAIN_STACK`]; `None` if one does not.
    agreed: Option<usize>,
}

#[derive(Clone, Copy)]
enum Field {
    Start,
    End,
    Access,
    Offset,
    Device,
    Inode,
    Name,
}

impl Lines {
    const fn new(address: usize) -> Self {
        Self { address, field: Field::Start, number: 0, start: 0, end: 0, is_readable: false, agreed: Some(0) }
    }

    /// Takes the next byte. The walk through the file ends with the mapping, or with `None` if there is none.
    fn push(&mut self, byte: u8) -> ControlFlow<Option<Mapping>> {
        if byte == b'\n' {
            let line = std::mem::replace(self, Self::new(self.address));
            if line.start > self.address {
                return ControlFlow::Break(None);
            }
            return if line.end > self.address {
                ControlFlow::Break(line.mapping())
            } else {
                ControlFlow::Continue(())
            };
        }
        self.field = match (self.field, byte) {
            (Field::Start, b'-') => {
                self.start = std::mem::take(&mut self.number);
                Field::End
            }
            (Field::End, b' ') => {
                self.end = std::mem::take(&mut self.number);
                Field::Access
            }
            (Field::Start | Field::End, _) => {
                self.number = self.number << 4 | hex_digit(byte);
                self.field
            }
            (Field::Access, b' ') => Field::Offset,
            (Field::Access, _) => {
                self.is_readable |= byte == b'r';
                Field::Access
            }
            (Field::Offset, b' ') => Field::Device,
            (Field::Device, b' ') => Field::Inode,
            (Field::Inode, b' ') => Field::Name,
            (Field::Offset | Field::Device | Field::Inode, _) => self.field,
            (Field::Name, b' ') if self.agreed == Some(0) => Field::Name,
            (Field::Name, _) => {
                self.agreed = self.agreed.filter(|&at| MAIN_STACK.get(at) == Some(&byte)).map(|at| at + 1);
                Field::Name
            }
        };
        ControlFlow::Continue(())
    }

    /// Returns the mapping of the line, if it is readable.
    fn mapping(&self) -> Option<Mapping> {
        let is_main_stack = self.agreed == Some(MAIN_STACK.len());
        self.is_readable.then_some(Mapping { start: self.start, end: self.end, is_main_stack })
    }
}

/// Returns the value of a digit of the kernel, which prints lower case.
fn hex_digit(byte: u8) -> usize {
    let value = if byte.is_ascii_digit() { byte - b'0' } else { byte.wrapping_sub(b'a').wrapping_add(10) & 15 };
    usize::from(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
00400000-00452000 r-xp 00000000 08:02 173521      /usr/bin/a [stack]
00e03000-00e24000 rw-p 00000000 00:00 0           [heap]
00e24000-00e25000 ---p 00000000 00:00 0
7f0000000000-7f0000021000 rw-p 00000000 00:00 0 
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                          [stack]
7ffc00100000-7ffc00102000 r-xp 00000000 00:00 0                          [stack]x
";

    fn found(address: usize) -> Option<Mapping> {
        let mut lines = Lines::new(address);
        MAPS.bytes().find_map(|byte| lines.push(byte).break_value()).flatten()
    }

    fn mapping(start: usize, end: usize) -> Mapping {
        Mapping { start, end, is_main_stack: false }
    }

    #[test]
    fn lines_address_in_a_mapping_returns_its_bounds() {
        assert_eq!(found(0x40_0000), Some(mapping(0x40_0000, 0x45_2000)));
        assert_eq!(found(0x45_1fff), Some(mapping(0x40_0000, 0x45_2000)));
        assert_eq!(found(0xe2_3fff), Some(mapping(0xe0_3000, 0xe2_4000)));
        assert_eq!(found(0x7f00_0000_0001), Some(mapping(0x7f00_0000_0000, 0x7f00_0002_1000)));
        assert_eq!(found(0x7ffc_0010_0000), Some(mapping(0x7ffc_0010_0000, 0x7ffc_0010_2000)));
    }

    #[test]
    fn lines_main_stack_is_known_by_its_whole_name() {
        let (start, end) = (0x7ffc_0000_0000, 0x7ffc_0002_1000);
        assert_eq!(found(start), Some(Mapping { start, end, is_main_stack: true }));
    }

    #[test]
    fn lines_address_outside_or_not_readable_is_none() {
        for address in [0, 0x3f_ffff, 0x45_2000, 0xe2_4000, 0x7ffc_0010_2000, usize::MAX] {
            assert_eq!(found(address), None, "{address:#x}");
        }
    }

    #[test]
    fn lines_any_bytes_do_not_panic() {
        let mut lines = Lines::new(1);
        for byte in (0..=u8::MAX).cycle().take(2000) {
            let _: ControlFlow<_> = lines.push(byte);
        }
    }

    #[test]
    fn find_static_and_local_are_in_different_mappings() {
        static STATIC: u8 = 0;
        let local = 0_u8;
        let places = [(&raw const STATIC).addr(), (&raw const local).addr()];
        let [of_static, of_local] = places.map(|place| find(place).unwrap());
        for (place, mapping) in places.into_iter().zip([of_static, of_local]) {
            assert!((mapping.start..mapping.end).contains(&place), "{mapping:x?}");
        }
        assert_ne!(of_static, of_local);
        assert_eq!(find(8), None);
    }
}
