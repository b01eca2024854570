//! The loaded ELF objects, by which an address becomes a place in a file.
//!
//! The loader puts an object at another address in each process. The difference is its *bias*. An address less the bias
//! is the same in each process, and is the address that `addr2line -e FILE` takes. Two builds of a
//! file have different build ids.
//!
//! Mach-O and PE are not read: there the list is empty.
#![cfg_attr(
    all(target_os = "linux", not(miri)),
    expect(unsafe_code, reason = "`dl_iterate_phdr`, and the headers of loaded objects in memory")
)]

use std::array;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

#[cfg(all(target_os = "linux", not(miri)))]
use elf::{Object, each_object};

/// An executable segment of a loaded ELF object. Most objects have one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Module {
    /// The file, as the loader names it. The object of the kernel (`linux-vdso.so.1`) has none.
    pub(crate) path: String,
    /// The difference between an address in memory and that in the file's headers.
    pub(crate) bias: usize,
    /// The first address of the segment in memory.
    pub(crate) start: usize,
    /// The address after the segment in memory.
    pub(crate) end: usize,
    /// The offset of `start` in the file.
    pub(crate) file_offset: u64,
    /// The build id in hexadecimal, or for the executable as in [`executable_build_id`]; empty if there is none.
    pub(crate) build_id: String,
}

/// The place of the executable in memory, all zeros if it is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Executable {
    /// The difference between an address in memory and that in the file's headers.
    pub(crate) bias: usize,
    /// The first address of its code.
    pub(crate) start: usize,
    /// The address after its code.
    pub(crate) end: usize,
}

/// The build id of the executable.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct BuildId {
    /// The text, padded with zeros.
    text: [u8; BuildId::LEN],
}

impl BuildId {
    /// The most bytes of the text: a hash of 20 bytes in hexadecimal, as linkers write.
    const LEN: usize = 40;

    const EMPTY: Self = Self { text: [0; Self::LEN] };

    #[cfg_attr(not(all(target_os = "linux", not(miri))), expect(dead_code, reason = "nothing records one there"))]
    fn new(text: &str) -> Self {
        let mut padded = [0; Self::LEN];
        for (place, byte) in padded.iter_mut().zip(text.bytes()) {
            *place = byte;
        }
        Self { text: padded }
    }

    /// Returns the text, which is empty if there is no build id.
    pub(crate) fn as_str(&self) -> &str {
        let text = self.text.split(|&byte| byte == 0).next().unwrap_or_default();
        str::from_utf8(text).unwrap_or_default()
    }
}

impl fmt::Debug for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

/// The place that [`record_executable`] has recorded. `END` is stored last, and is 0 before.
static BIAS: AtomicUsize = AtomicUsize::new(0);
static START: AtomicUsize = AtomicUsize::new(0);
static END: AtomicUsize = AtomicUsize::new(0);
static BUILD_ID: [AtomicU64; BuildId::LEN / 8] = [const { AtomicU64::new(0) }; BuildId::LEN / 8];

/// Returns the place of the executable that [`record_executable`] has recorded; all zeros before.
///
/// Some loads, without a system call: the allocator calls it.
pub(crate) fn executable() -> Executable {
    let end = END.load(Ordering::Acquire);
    if end == 0 {
        return Executable::default();
    }
    Executable { bias: BIAS.load(Ordering::Relaxed), start: START.load(Ordering::Relaxed), end }
}

/// Returns the build id of the executable that [`record_executable`] has recorded; empty before.
///
/// It is the first 40 hexadecimal digits of the id that the linker wrote (`-C link-arg=-Wl,--build-id`). If there is none,
/// it is `text-` and 16 hexadecimal digits of a hash of the first executable segment, as it is in the file. The hash is
/// computed with 64-bit integers that wrap around. It begins with the number of bytes. For each 8 bytes, little-endian
/// and the last ones padded with zeros: `hash = (rotate_left(hash, 5) ^ word) * 0x517c_c1b7_2722_0a95`.
pub(crate) fn executable_build_id() -> BuildId {
    if END.load(Ordering::Acquire) == 0 {
        return BuildId::EMPTY;
    }
    let words: [[u8; 8]; BuildId::LEN / 8] =
        array::from_fn(|at| BUILD_ID.get(at).map_or(0, |word| word.load(Ordering::Relaxed)).to_ne_bytes());
    let mut text = [0; BuildId::LEN];
    for (place, byte) in text.iter_mut().zip(words.into_iter().flatten()) {
        *place = byte;
    }
    BuildId { text }
}

/// Records the executable for [`executable`] and [`executable_build_id`].
///
/// Call it once, outside of the allocator. It reads the executable's file if there is no build id: an estimated 1 ms for 5 MiB.
pub(crate) fn record_executable() {
    #[cfg(all(target_os = "linux", not(miri)))]
    each_object(|object| {
        let (mut start, mut end) = (usize::MAX, 0);
        for segment in object.executable_segments() {
            start = start.min(segment.start);
            end = end.max(segment.end);
        }
        let id = BuildId::new(&object.build_id().or_else(|| hash_of_text(object)).unwrap_or_default());
        for (word, bytes) in BUILD_ID.iter().zip(id.text.as_chunks::<8>().0) {
            word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
        }
        BIAS.store(object.bias, Ordering::Relaxed);
        START.store(start, Ordering::Relaxed);
        END.store(end, Ordering::Release);
        // The first object is the executable.
        false
    });
}

/// Returns the loaded objects, the executable first.
pub(crate) fn modules() -> Vec<Module> {
    #[cfg_attr(not(all(target_os = "linux", not(miri))), expect(unused_mut, reason = "nothing is added there"))]
    let mut modules = Vec::new();
    #[cfg(all(target_os = "linux", not(miri)))]
    each_object(|object| {
        let is_executable = modules.is_empty();
        let path = if is_executable {
            std::env::current_exe().unwrap_or_default().to_string_lossy().into_owned()
        } else {
            object.name.to_string_lossy().into_owned()
        };
        let mut build_id = object.build_id().unwrap_or_default();
        if is_executable && build_id.is_empty() {
            executable_build_id().as_str().clone_into(&mut build_id);
        }
        modules.extend(object.executable_segments().map(|segment| Module {
            path: path.clone(),
            bias: object.bias,
            start: segment.start,
            end: segment.end,
            file_offset: segment.file_offset,
            build_id: build_id.clone(),
        }));
        true
    });
    modules
}

/// Returns `true` if the object that contains `address` defines or imports `name`.
#[cfg(all(target_os = "linux", target_env = "gnu", not(miri)))]
pub(super) fn mentions(address: usize, name: &std::ffi::CStr) -> bool {
    let mut mentions = false;
    each_object(|object| {
        if !object.contains(address) {
            return true;
        }
        let names = object.dynamic_names().unwrap_or_default();
        // A name that is the end of a longer one shares its bytes.
        mentions = names.split(|&byte| byte == 0).any(|other| other.ends_with(name.to_bytes()));
        false
    });
    mentions
}

/// Returns the hash of the first executable segment, as [`executable_build_id`] defines it; `None` if the file cannot be
/// read.
///
/// The file is read, and not the memory, because reading the memory would make all of it resident.
#[cfg(all(target_os = "linux", not(miri)))]
fn hash_of_text(object: &Object<'_>) -> Option<String> {
    use std::os::unix::fs::FileExt;

    let text = object.executable_segments().next()?;
    let file = std::fs::File::open("/proc/self/exe").ok()?;
    let mut buffer = vec![0; 64 << 10];
    let (mut hash, mut at) = (u64::try_from(text.file_size).ok()?, 0);
    while at < text.file_size {
        let piece = buffer.get_mut(..(text.file_size - at).min(64 << 10))?;
        file.read_exact_at(piece, text.file_offset + u64::try_from(at).ok()?).ok()?;
        hash = hash_on(hash, piece);
        at += piece.len();
    }
    Some(format!("text-{hash:016x}"))
}

/// Returns the hash after more bytes. All but the last ones are a multiple of 8.
#[cfg(all(target_os = "linux", not(miri)))]
fn hash_on(hash: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last.iter_mut().zip(rest).for_each(|(place, byte)| *place = *byte);
    let last = (!rest.is_empty()).then_some(&last);
    words
        .iter()
        .chain(last)
        .fold(hash, |hash, word| (hash.rotate_left(5) ^ u64::from_le_bytes(*word)).wrapping_mul(0x517c_c1b7_2722_0a95))
}

/// The headers of loaded objects.
#[cfg(all(target_os = "linux", not(miri)))]
mod elf {
    use std::ffi::{CStr, c_int, c_void};
    use std::slice;

    #[cfg(target_pointer_width = "32")]
    use libc::Elf32_Phdr as Header;
    #[cfg(target_pointer_width = "64")]
    use libc::Elf64_Phdr as Header;

    /// The type of a note that is a build id, of the owner `GNU`.
    const NT_GNU_BUILD_ID: u32 = 3;

    /// Tags of the dynamic section: the table of names and its size.
    #[cfg(target_env = "gnu")]
    const DT_STRTAB: usize = 5;
    #[cfg(target_env = "gnu")]
    const DT_STRSZ: usize = 10;

    /// A loaded object, during the call of the visitor.
    pub(super) struct Object<'a> {
        /// Empty for the executable.
        pub(super) name: &'a CStr,
        pub(super) bias: usize,
        headers: &'a [Header],
    }

    /// An executable segment.
    pub(super) struct Segment {
        pub(super) start: usize,
        pub(super) end: usize,
        pub(super) file_offset: u64,
        pub(super) file_size: usize,
    }

    /// Calls `visit` for each loaded object, the executable first, until it returns `false`.
    ///
    /// glibc holds the lock of the loader through it. A thread that has the lock may take it again.
    pub(super) fn each_object<F: FnMut(&Object<'_>) -> bool>(mut visit: F) {
        // SAFETY: `pass_on::<F>` takes the pointer as what it is, an `F` that nothing else uses until the call returns.
        unsafe { libc::dl_iterate_phdr(Some(pass_on::<F>), (&raw mut visit).cast()) };
    }

    unsafe extern "C" fn pass_on<F: FnMut(&Object<'_>) -> bool>(
        info: *mut libc::dl_phdr_info,
        _size: usize,
        visit: *mut c_void,
    ) -> c_int {
        // SAFETY: `dl_iterate_phdr` passes a valid structure, which nothing changes during this call.
        let info = unsafe { &*info };
        // SAFETY: the pointer is the `F` that was passed to `dl_iterate_phdr`, and nothing else uses it now.
        let visit = unsafe { &mut *visit.cast::<F>() };
        if info.dlpi_phdr.is_null() {
            return 0;
        }
        // SAFETY: the loader keeps that many headers of the object, at least until this function returns.
        let headers = unsafe { slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
        let name = if info.dlpi_name.is_null() {
            c""
        } else {
            // SAFETY: the loader keeps the name, which ends in a NUL, at least until this function returns.
            unsafe { CStr::from_ptr(info.dlpi_name) }
        };
        let bias = usize::try_from(info.dlpi_addr).unwrap_or_default();
        c_int::from(!visit(&Object { name, bias, headers }))
    }

    impl<'a> Object<'a> {
        /// Returns the executable segments.
        pub(super) fn executable_segments(&self) -> impl Iterator<Item = Segment> {
            let executable = self.headers.iter().filter(|header| {
                header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_X != 0 && header.p_memsz != 0
            });
            executable.map(|header| {
                let start = self.address(header);
                let size = usize::try_from(header.p_memsz).unwrap_or_default();
                Segment {
                    start,
                    end: start.saturating_add(size),
                    #[allow(clippy::useless_conversion, reason = "32 bits on some targets")]
                    file_offset: u64::from(header.p_offset),
                    file_size: usize::try_from(header.p_filesz).unwrap_or_default(),
                }
            })
        }

        /// Returns the build id in hexadecimal.
        pub(super) fn build_id(&self) -> Option<String> {
            let notes = self.headers.iter().filter(|header| header.p_type == libc::PT_NOTE);
            let mut ids = notes.filter_map(|header| {
                let notes = self.bytes(self.address(header), usize::try_from(header.p_filesz).ok()?)?;
                find_build_id(notes, if header.p_align == 8 { 8 } else { 4 })
            });
            let digits = b"0123456789abcdef";
            let digit = |value: u8| digits.get(usize::from(value & 15)).copied().map_or('0', char::from);
            Some(ids.next()?.iter().flat_map(|&byte| [digit(byte >> 4), digit(byte)]).collect())
        }

        /// Returns `true` if a segment contains `address`.
        #[cfg(target_env = "gnu")]
        pub(super) fn contains(&self, address: usize) -> bool {
            self.readable(address).is_some()
        }

        /// Returns the names of the symbols that the object defines or imports, each with a NUL at its end.
        #[cfg(target_env = "gnu")]
        pub(super) fn dynamic_names(&self) -> Option<&'a [u8]> {
            let header = self.headers.iter().find(|header| header.p_type == libc::PT_DYNAMIC)?;
            let entries = self.bytes(self.address(header), usize::try_from(header.p_memsz).ok()?)?;
            let word = |bytes: &[u8]| bytes.try_into().map_or(0, usize::from_ne_bytes);
            let value = |tag: usize| {
                let entries =
                    entries.chunks_exact(2 * size_of::<usize>()).map(|entry| entry.split_at(size_of::<usize>()));
                entries.map(|(tag, value)| (word(tag), word(value))).find(|entry| entry.0 == tag).map(|entry| entry.1)
            };
            let (table, size) = (value(DT_STRTAB)?, value(DT_STRSZ)?);
            // The loader has added the bias, unless the section is read-only.
            self.bytes(table, size).or_else(|| self.bytes(table.wrapping_add(self.bias), size))
        }

        fn address(&self, header: &Header) -> usize {
            self.bias.wrapping_add(usize::try_from(header.p_vaddr).unwrap_or_default())
        }

        /// Returns the bytes of the readable segment that contains `address`, from there on.
        fn readable(&self, address: usize) -> Option<usize> {
            let mut segments =
                self.headers.iter().filter(|header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_R != 0);
            segments.find_map(|header| {
                let offset = address.checked_sub(self.address(header))?;
                usize::try_from(header.p_memsz).ok()?.checked_sub(offset).filter(|&rest| rest > 0)
            })
        }

        /// Returns bytes of the object in memory, if a readable segment contains all of them.
        fn bytes(&self, address: usize, len: usize) -> Option<&'a [u8]> {
            self.readable(address).filter(|&rest| len <= rest)?;
            // SAFETY: a readable segment of the object contains these bytes, and the object stays loaded through the
            // call of the visitor. The loader has written to them before, if at all.
            Some(unsafe { slice::from_raw_parts(std::ptr::with_exposed_provenance(address), len) })
        }
    }

    /// Returns the build id among `notes`. A note is the lengths of its owner and of its content, its type, the owner and
    /// the content, both padded to `align`.
    pub(super) fn find_build_id(mut notes: &[u8], align: usize) -> Option<&[u8]> {
        loop {
            let (head, rest) = notes.split_first_chunk::<12>()?;
            let word = |at: usize| head.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
            let owner_len = usize::try_from(word(0)?).ok()?;
            let content_len = usize::try_from(word(4)?).ok()?;
            let content_start = (12 + owner_len).checked_next_multiple_of(align)?.checked_sub(12)?;
            let content = rest.get(content_start..)?.get(..content_len)?;
            if word(8)? == NT_GNU_BUILD_ID && rest.get(..owner_len)? == b"GNU\0" {
                return Some(content);
            }
            let end = (12 + content_start + content_len).checked_next_multiple_of(align)?;
            notes = notes.get(end..)?;
        }
    }
}

#[cfg(test)]
#[cfg(all(target_os = "linux", not(miri)))]
mod tests {
    use super::elf::find_build_id;
    use super::*;

    fn note(kind: u32, owner: &[u8], content: &[u8]) -> Vec<u8> {
        let len = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap().to_ne_bytes();
        let mut note = [len(owner), len(content), kind.to_ne_bytes()].concat();
        for part in [owner, content] {
            note.extend(part);
            note.resize(note.len().next_multiple_of(4), 0);
        }
        note
    }

    #[test]
    fn find_build_id_among_other_notes_is_found() {
        let notes = [note(1, b"GNU\0", &[1; 16]), note(3, b"Go\0", b"x"), note(3, b"GNU\0", b"\x01\xab")].concat();
        assert_eq!(find_build_id(&notes, 4), Some(b"\x01\xab".as_slice()));
        for end in 0..notes.len() - 2 {
            assert_eq!(find_build_id(&notes[..end], 4), None, "{end}");
        }
        let huge = note(3, b"GNU\0", b"").iter().map(|_| 0xff).collect::<Vec<u8>>();
        assert_eq!(find_build_id(&huge, 8), None);
    }

    #[test]
    fn modules_executable_is_first_and_contains_this_function() {
        record_executable();
        let here = modules_executable_is_first_and_contains_this_function as *const () as usize;
        let modules = modules();
        let own = &modules[0];
        assert_eq!(own.path, std::env::current_exe().unwrap().to_str().unwrap());
        assert!((own.start..own.end).contains(&here));
        assert_eq!(Executable { bias: own.bias, start: own.start, end: own.end }, executable());
        assert!(own.build_id.starts_with(executable_build_id().as_str()) && !own.build_id.is_empty());
        for module in &modules {
            assert!(module.bias <= module.start && module.start < module.end, "{module:?}");
        }
    }

    #[test]
    fn modules_file_has_the_code_at_its_offset() {
        let here = modules_file_has_the_code_at_its_offset as *const () as usize;
        let own = &modules()[0];
        let offset = usize::try_from(own.file_offset).unwrap() + (here - own.start);
        let file = std::fs::read(&own.path).unwrap();
        // SAFETY: the code of a function is readable, and this one is longer than 16 bytes.
        let code = unsafe { std::slice::from_raw_parts(std::ptr::with_exposed_provenance::<u8>(here), 16) };
        assert_eq!(&file[offset..offset + 16], code);
    }

    #[test]
    fn hash_on_in_pieces_is_the_hash_of_the_whole() {
        let bytes: Vec<u8> = (0..=99).collect();
        let whole = hash_on(100, &bytes);
        assert_eq!(hash_on(hash_on(100, &bytes[..64]), &bytes[64..]), whole);
        assert_ne!(hash_on(100, &bytes[..99]), whole);
        assert_eq!(hash_on(0, &[1, 0, 0, 0, 0, 0, 0, 0, 2]), {
            let first = 0x517c_c1b7_2722_0a95_u64;
            (first.rotate_left(5) ^ 2).wrapping_mul(0x517c_c1b7_2722_0a95)
        });
    }

    #[test]
    fn build_id_longer_than_its_text_is_cut() {
        assert_eq!(BuildId::new("").as_str(), "");
        assert_eq!(BuildId::new("text-0123").as_str(), "text-0123");
        assert_eq!(BuildId::new(&"a".repeat(64)).as_str(), "a".repeat(40));
    }

    #[cfg(target_env = "gnu")]
    #[test]
    fn mentions_imported_function_is_true() {
        let in_libc = libc::getpid as *const () as usize;
        assert!(mentions(in_libc, c"getpid") && !mentions(in_libc, c"no_such_name") && !mentions(1, c"getpid"));
    }
}
