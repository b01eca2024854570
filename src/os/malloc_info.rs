//! The free chunks of glibc's allocator by size: the bytes that a trim can release.
#![cfg_attr(all(target_os = "linux", target_env = "gnu", not(miri)), expect(unsafe_code, reason = "functions of C"))]

/// Memory of glibc's allocator in bytes, over all arenas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MallocInfo {
    /// Allocated chunks of arenas, headers included. Chunks in the caches of threads count.
    pub(crate) in_use: u64,
    /// Blocks with a mapping of their own.
    pub(crate) mmapped: u64,
    /// Free chunks of arenas, of any size.
    pub(crate) free: u64,
    /// Whole pages in free chunks that `malloc_trim` reaches. Pages released earlier are among them.
    pub(crate) trimmable: u64,
    /// Free ends of all arenas but the first, which `malloc_trim` does not release.
    pub(crate) thread_tops: u64,
}

/// Bytes of a free chunk that a trim leaves on average.
///
/// `malloc_trim` keeps the header of 48 bytes, the rest of the first page and the part of the last one. A run of `n` bytes at
/// any offset of 16 has `n - 4080` bytes in whole pages on average, if `n` is at least that.
#[cfg(any(test, all(target_os = "linux", target_env = "gnu", not(miri))))]
const KEPT: u64 = 48 + 4080;

/// Reads the figures by `malloc_info`. Returns `None` if the C library is not glibc.
///
/// It allocates some KiB by `malloc`. Do not call it from a global allocator or a signal handler.
///
/// # Performance
///
/// It walks the free chunks of each arena with the arena locked, as [`malloc_stats`](super::malloc_stats()) does. It prints
/// after the lock is released.
#[cfg(all(target_os = "linux", target_env = "gnu", not(miri)))]
pub(crate) fn malloc_info() -> Option<MallocInfo> {
    let mut text: *mut libc::c_char = std::ptr::null_mut();
    let mut length: libc::size_t = 0;
    // SAFETY: both pointers are valid for writes until the stream is closed.
    let stream = unsafe { libc::open_memstream(&raw mut text, &raw mut length) };
    if stream.is_null() {
        return None;
    }
    // SAFETY: the stream is open for writing, and 0 is the only value of the options.
    let failed = unsafe { libc::malloc_info(0, stream) };
    // SAFETY: the stream is open, and nothing uses it afterwards.
    let unwritten = unsafe { libc::fclose(stream) };
    if text.is_null() {
        return None;
    }
    // SAFETY: `fclose` has stored a buffer of `length` initialised bytes, which nothing else refers to.
    let bytes = unsafe { std::slice::from_raw_parts(text.cast::<u8>(), length) };
    let info = std::str::from_utf8(bytes).ok().and_then(parse);
    // SAFETY: the caller of `open_memstream` owns the buffer, and `bytes` is not used afterwards.
    unsafe { libc::free(text.cast()) };
    info.filter(|_| failed == 0 && unwritten == 0)
}

#[cfg(not(all(target_os = "linux", target_env = "gnu", not(miri))))]
pub(crate) const fn malloc_info() -> Option<MallocInfo> {
    None
}

/// Sums up the arenas. `None` if the text has no total of all arenas.
///
/// ```text
/// <heap nr="0">                                            an arena
///   <size from="33" to="48" total="96" count="2"/>         free chunks of a class, fast ones first
///   <unsorted from="129" to="4097" total="4226" count="2"/>
///   <total type="fast" count="2" size="96"/>
///   <total type="rest" count="3" size="9000"/>             all others, and the free end of the arena
///   <system type="current" size="135168"/>                 the arena
/// </heap>
/// <total type="mmap" count="1" size="1052672"/>            after the last arena
/// ```
#[cfg(any(test, all(target_os = "linux", target_env = "gnu", not(miri))))]
fn parse(text: &str) -> Option<MallocInfo> {
    let mut info = MallocInfo::default();
    let (mut arena, mut arenas, mut mmapped) = (None::<Arena>, 0, None);
    for line in text.lines().map(str::trim_start) {
        let value = |name| attribute(line, name);
        if line.starts_with("<heap ") {
            arena = Some(Arena::default());
        } else if line.starts_with("</heap>") {
            arena.take()?.add_to(&mut info, arenas == 0);
            arenas += 1;
        } else if let Some(arena) = &mut arena {
            if line.starts_with("<size ") || line.starts_with("<unsorted ") {
                arena.class(value("to")?, value("total")?, value("count")?);
            } else if line.starts_with("<total type=\"fast\"") {
                arena.fast = value("size")?;
            } else if line.starts_with("<total type=\"rest\"") {
                arena.rest = value("size")?;
            } else if line.starts_with("<system type=\"current\"") {
                arena.system = value("size")?;
            }
        } else if line.starts_with("<total type=\"mmap\"") {
            mmapped = Some(value("size")?);
        }
    }
    Some(MallocInfo { mmapped: mmapped?, ..info })
}

/// The figures of one arena.
#[cfg(any(test, all(target_os = "linux", target_env = "gnu", not(miri))))]
#[derive(Default)]
struct Arena {
    /// Bytes of all classes, and those of them in whole pages.
    listed: u64,
    pages: u64,
    fast: u64,
    rest: u64,
    system: u64,
}

#[cfg(any(test, all(target_os = "linux", target_env = "gnu", not(miri))))]
impl Arena {
    /// Adds a class of `count` chunks with `total` bytes, the largest of which has `to` bytes.
    ///
    /// The average is right for a class of chunks that are all larger than a page. The list of unsorted chunks has any sizes, so
    /// the largest chunk alone is the second lower bound.
    fn class(&mut self, to: u64, total: u64, count: u64) {
        self.listed = self.listed.saturating_add(total);
        let average = total.saturating_sub(count.saturating_mul(KEPT));
        self.pages = self.pages.saturating_add(average.max(to.min(total).saturating_sub(KEPT)));
    }

    fn add_to(self, info: &mut MallocInfo, is_main: bool) {
        let free = self.fast.saturating_add(self.rest);
        // Fast chunks are listed too.
        let top = free.saturating_sub(self.listed);
        let (trimmable, thread_top) = if is_main { (top, 0) } else { (0, top) };
        info.in_use = info.in_use.saturating_add(self.system.saturating_sub(free));
        info.free = info.free.saturating_add(free);
        info.trimmable = info.trimmable.saturating_add(self.pages).saturating_add(trimmable);
        info.thread_tops = info.thread_tops.saturating_add(thread_top);
    }
}

/// Returns the number of the attribute ` name="number"`.
#[cfg(any(test, all(target_os = "linux", target_env = "gnu", not(miri))))]
fn attribute(line: &str, name: &str) -> Option<u64> {
    let mut words = line.split(' ');
    let value = words.find_map(|word| word.strip_prefix(name)?.strip_prefix("=\""))?;
    value.split('"').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"<malloc version="1">
<heap nr="0">
<sizes>
  <size from="17" to="32" total="64" count="2"/>
  <size from="1009" to="1009" total="10090" count="10"/>
  <size from="8193" to="8209" total="81930" count="10"/>
  <unsorted from="129" to="65537" total="66566" count="9"/>
</sizes>
<total type="fast" count="2" size="64"/>
<total type="rest" count="30" size="200000"/>
<system type="current" size="500000"/>
<system type="max" size="900000"/>
</heap>
<heap nr="1">
<sizes>
</sizes>
<total type="fast" count="0" size="0"/>
<total type="rest" count="1" size="132912"/>
<system type="current" size="135168"/>
</heap>
<total type="fast" count="2" size="64"/>
<total type="rest" count="31" size="332912"/>
<total type="mmap" count="1" size="1052672"/>
<system type="current" size="635168"/>
</malloc>
"#;

    #[test]
    fn parse_two_arenas_returns_their_sums() {
        let top = 200_064 - (64 + 10_090 + 81_930 + 66_566);
        let pages = (81_930 - 10 * KEPT) + (65_537 - KEPT);
        let expected = MallocInfo {
            in_use: 500_000 - 200_064 + 135_168 - 132_912,
            mmapped: 1_052_672,
            free: 200_064 + 132_912,
            trimmable: top + pages,
            thread_tops: 132_912,
        };
        assert_eq!(parse(TEXT), Some(expected));
    }

    #[test]
    fn parse_cut_text_returns_none() {
        let end = TEXT.find("<total type=\"mmap\"").unwrap_or(0);
        assert_eq!(parse(&TEXT[..end]), None);
        assert_eq!(parse(""), None);
        assert_eq!(parse("</heap>"), None);
        assert_eq!(parse(&TEXT.replace("1052672", "x")), None);
    }

    proptest::proptest! {
        #[test]
        fn parse_any_text_does_not_panic(
            lines in "(<heap >|</heap>|<size to=\"[0-9]{1,20}\" total=\"[0-9]{1,20}\" count=\"[0-9]{1,20}\"/>\
                      |<total type=\"(fast|rest|mmap)\" size=\"[0-9]{1,20}\"/>|<system type=\"current\" size=\"9\"/>|\n){0,30}",
        ) {
            let _any = parse(&lines);
        }
    }

    #[cfg(all(target_os = "linux", target_env = "gnu", not(miri)))]
    #[test]
    fn malloc_info_agrees_with_mallinfo2() {
        // Other tests allocate at the same time.
        let Some(info) = malloc_info() else { panic!("glibc has it") };
        let Ok(stats) = crate::os::malloc_stats() else { return };
        let near = |own: u64, other: crate::size::ByteSize| own.abs_diff(other.as_u64()) < 64 << 20;
        assert!(near(info.in_use, stats.in_use) && near(info.mmapped, stats.mmapped), "{info:?} {stats:?}");
        assert!(info.trimmable + info.thread_tops <= info.free, "{info:?}");
    }
}
