//! Readings of the kernel that share no code with the library: rss, its peak, resident pages, and alarms on stderr.

use std::cell::UnsafeCell;
use std::ffi::CStr;
use std::sync::Once;

fn page() -> usize {
    // SAFETY: plain C.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).expect("the kernel has pages")
}

/// Opens a file of the kernel, or returns a negative number.
fn open(path: &CStr, flags: libc::c_int) -> libc::c_int {
    // SAFETY: the path ends with a zero.
    unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC) }
}

fn read_at(file: libc::c_int, buffer: &mut [u8], offset: usize) -> usize {
    // SAFETY: the buffer is writable for its length.
    let read = unsafe { libc::pread(file, buffer.as_mut_ptr().cast(), buffer.len(), offset as libc::off_t) };
    usize::try_from(read).expect("a file of the kernel can be read")
}

fn number(text: &[u8]) -> usize {
    let digits = text.iter().skip_while(|byte| !byte.is_ascii_digit()).take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0'))
}

/// Files that stay open, so that a reading allocates nothing and does not depend on free descriptors.
#[derive(Debug)]
pub struct Readings {
    statm: libc::c_int,
    status: libc::c_int,
    clear_refs: libc::c_int,
    /// The file that takes what is written to stderr, and how far it was read.
    stderr: libc::c_int,
    read: usize,
}

impl Readings {
    /// Opens the files, and has stderr written to a file in memory.
    pub fn open() -> Self {
        // SAFETY: the name ends with a zero.
        let stderr = unsafe { libc::memfd_create(c"stderr".as_ptr(), libc::MFD_CLOEXEC) };
        assert!(stderr >= 0, "no file in memory");
        // SAFETY: plain descriptors of this process.
        let shown = unsafe { libc::dup(2) };
        // SAFETY: the same.
        unsafe { libc::dup2(stderr, 2) };
        panics_go_to(shown);
        Self {
            statm: open(c"/proc/self/statm", libc::O_RDONLY),
            status: open(c"/proc/self/status", libc::O_RDONLY),
            clear_refs: open(c"/proc/self/clear_refs", libc::O_WRONLY),
            stderr,
            read: 0,
        }
    }

    /// Returns the rss in bytes.
    pub fn rss(&self) -> usize {
        let mut text = [0; 128];
        let length = read_at(self.statm, &mut text, 0);
        let resident = text[..length].iter().position(|&byte| byte == b' ').expect("statm has fields");
        number(&text[resident..length]) * page()
    }

    /// Resets the peak of the rss to its value now.
    pub fn reset_peak(&self) {
        // SAFETY: the buffer has one byte.
        let written = unsafe { libc::write(self.clear_refs, b"5".as_ptr().cast(), 1) };
        assert_eq!(written, 1, "/proc/self/clear_refs is needed for the truth");
    }

    /// Returns the peak of the rss since it was reset.
    pub fn peak(&self) -> usize {
        let mut text = [0; 4096];
        let length = read_at(self.status, &mut text, 0);
        let place = text[..length].windows(6).position(|window| window == b"VmHWM:").expect("status has a peak");
        number(&text[place..length]) * 1024
    }

    /// Returns the number of alarms that were written since the last call.
    pub fn new_alarms(&mut self) -> u64 {
        let mut alarms = 0;
        let mut text = [0; 8192];
        loop {
            let length = read_at(self.stderr, &mut text, self.read);
            let word = br#"{"plimsoll":"alarm""#;
            alarms += text[..length].windows(word.len()).filter(|window| window == word).count() as u64;
            self.read += length;
            if length < text.len() {
                return alarms;
            }
        }
    }
}

/// Has panics written to the stderr that the process began with.
fn panics_go_to(shown: libc::c_int) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            // SAFETY: plain descriptors of this process.
            unsafe { libc::dup2(shown, 2) };
            print(info);
            std::process::exit(101);
        }));
    });
}

/// One byte for each page of the largest block.
struct Pages(UnsafeCell<[u8; 1 << 15]>);

// SAFETY: the history's lock is held by the thread that uses the buffer.
unsafe impl Sync for Pages {}

static PAGES: Pages = Pages(UnsafeCell::new([0; 1 << 15]));

/// Returns the bytes of the pages of a block that are not resident. The caller holds the history's lock.
pub fn untouched(start: *const u8, bytes: usize) -> usize {
    let page = page();
    let first = start.addr() / page * page;
    let pages = (start.addr() + bytes).div_ceil(page) - first / page;
    let buffer = PAGES.0.get().cast::<u8>();
    assert!(pages <= 1 << 15, "a block larger than the buffer");
    // SAFETY: the block's pages are mapped, and the buffer has a byte for each.
    let done = unsafe { libc::mincore(first as *mut _, pages * page, buffer.cast()) };
    assert_eq!(done, 0, "mincore failed");
    // SAFETY: the buffer is initialised, and no other thread uses it.
    let resident = unsafe { std::slice::from_raw_parts(buffer, pages) };
    resident.iter().filter(|&&state| state & 1 == 0).count() * page
}
