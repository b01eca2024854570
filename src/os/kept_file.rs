//! Files of `/proc/self` that stay open between readings. Nothing here allocates, locks, formats or panics.
#![expect(unsafe_code, reason = "system calls that std does not have, or has only with allocations")]

use std::ffi::CStr;
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use super::OsError;
use super::threads::{count_forks, forks};

/// A file of `/proc/self` that stays open.
///
/// Such a descriptor shows the process that opened it, also in a forked child that inherited it. Besides, a program
/// that closes all descriptors, as daemons do, may open another file under the same number. Two checks precede each
/// reading, and if one fails the file is opened again:
///
/// - The kept values are in memory that the kernel clears in a forked child. Before Linux 4.14, which cannot do so,
///   the process id is compared instead. The id alone is not enough: the first process of a PID namespace has number
///   1, and so may its parent.
/// - The open file has the device and the inode of the file that was opened.
///
/// A kept descriptor is never closed: another thread may read it, and its number may belong to another file.
pub(super) struct KeptFile {
    path: &'static CStr,
    /// Null until the first reading.
    kept: AtomicPtr<Kept>,
}

/// The open file, in a mapping that lives as long as the process. All zeros: no file is open.
struct Kept {
    /// [`owner`](Self::owner) in the high half, descriptor in the low half. No owner has number 0.
    opened: AtomicU64,
    /// 1 if the kernel clears the mapping in a forked child.
    is_cleared: AtomicU64,
    device: AtomicU64,
    inode: AtomicU64,
}

impl KeptFile {
    pub(super) const fn new(path: &'static CStr) -> Self {
        Self { path, kept: AtomicPtr::new(ptr::null_mut()) }
    }

    /// Reads up to `N` bytes from the start of the file and passes them to `parse`.
    pub(super) fn read<const N: usize, T>(
        &self,
        what: &'static str,
        parse: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<T, OsError> {
        let failed = |source| OsError::Io { what, source };
        let mut buffer = [0; N];
        let mut attempt = |fd: RawFd| -> Result<T, OsError> {
            let text = read_start(fd, &mut buffer).map_err(failed)?;
            parse(text).ok_or(OsError::Malformed { what })
        };
        let kept = self.kept();
        let owner = kept.map_or(0, Kept::owner);
        let opened = kept.map_or(0, |kept| kept.opened.load(Ordering::Acquire));
        if let Some(kept) = kept
            && opened >> 32 == owner
            && kept.is_file_of(descriptor(opened))
            && let Ok(value) = attempt(descriptor(opened))
        {
            return Ok(value);
        }
        let fresh = beyond_standard(open(self.path, libc::O_RDONLY).map_err(failed)?);
        let value = attempt(fresh.as_raw_fd())?;
        let Some((kept, (device, inode))) = kept.zip(identity(fresh.as_raw_fd())) else { return Ok(value) };
        kept.device.store(device, Ordering::Relaxed);
        kept.inode.store(inode, Ordering::Relaxed);
        let packed = owner << 32 | u64::from(fresh.as_raw_fd().unsigned_abs());
        // A thread that loses the race closes its descriptor, when `fresh` is dropped.
        if kept.opened.compare_exchange(opened, packed, Ordering::Release, Ordering::Relaxed).is_ok() {
            let _kept: RawFd = fresh.into_raw_fd();
        }
        Ok(value)
    }

    /// Returns the values to keep; `None` if the kernel has no page for them.
    fn kept(&self) -> Option<&Kept> {
        let mut kept = self.kept.load(Ordering::Acquire);
        if kept.is_null() {
            count_forks();
            let (mapped, is_cleared) = map_cleared_at_fork(size_of::<Kept>())?;
            let mapped = mapped.cast::<Kept>();
            // SAFETY: the mapping is new, aligned to a page and large enough, and zeros are valid values of the
            // atomics.
            let fields = unsafe { &*mapped };
            fields.is_cleared.store(u64::from(is_cleared), Ordering::Relaxed);
            kept = match self.kept.compare_exchange(kept, mapped, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_null) => mapped,
                Err(earlier) => {
                    // SAFETY: this is the mapping that was made above, and no other thread has seen its address.
                    unsafe { libc::munmap(mapped.cast(), size_of::<Kept>()) };
                    earlier
                }
            };
        }
        // SAFETY: the pointer is the start of a mapping that is never unmapped, aligned to a page, and zeros or what
        // these atomics stored are valid values of them.
        unsafe { kept.as_ref() }
    }
}

impl Kept {
    /// Returns the number of the process for which the values are kept.
    fn owner(&self) -> u64 {
        // If the values are cleared in other processes, each process can have the same number. Emulators may accept the
        // request and not clear them, so forks are counted too.
        if self.is_cleared.load(Ordering::Relaxed) == 1 { 1 + forks() } else { u64::from(std::process::id()) }
    }

    /// Returns `true` if `fd` is the file that was opened, and not another file under its number.
    fn is_file_of(&self, fd: RawFd) -> bool {
        let kept = (self.device.load(Ordering::Relaxed), self.inode.load(Ordering::Relaxed));
        identity(fd) == Some(kept)
    }
}

/// Maps a page of zeros that is all zeros again in a forked child, if the kernel is Linux 4.14 or later.
/// Returns `false` with it if the kernel is older.
fn map_cleared_at_fork(bytes: usize) -> Option<(*mut libc::c_void, bool)> {
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new private mapping at an address that the kernel chooses does not touch existing memory.
    let start = unsafe { libc::mmap(ptr::null_mut(), bytes, access, kind, -1, 0) };
    if start == libc::MAP_FAILED {
        return None;
    }
    // SAFETY: the range is the mapping made above. Before Linux 4.14 the call fails and changes nothing.
    let is_cleared = unsafe { libc::madvise(start, bytes, libc::MADV_WIPEONFORK) } == 0;
    Some((start, is_cleared))
}

/// Returns the device and the inode of an open file; `None` if `fd` is not open.
fn identity(fd: RawFd) -> Option<(u64, u64)> {
    let mut stat = MaybeUninit::<libc::stat64>::zeroed();
    // SAFETY: `stat` has room for the structure; a descriptor that is not open gives EBADF.
    if unsafe { libc::fstat64(fd, stat.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: all zeros are a valid value, and `fstat64` has filled it.
    let stat = unsafe { stat.assume_init() };
    Some((stat.st_dev, stat.st_ino))
}

/// Returns the descriptor in the low half of a packed word. Descriptors are not negative.
#[expect(clippy::cast_possible_truncation, reason = "the low half is what is asked for")]
const fn descriptor(packed: u64) -> RawFd {
    (packed as u32).cast_signed()
}

/// Opens `path`; a program that is started does not inherit the descriptor.
pub(super) fn open(path: &CStr, access: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: `path` ends in a NUL and lives through the call; without O_CREAT there is no third argument.
    let fd = unsafe { libc::open(path.as_ptr(), access | libc::O_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `open` has just returned `fd`, so it is open and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Moves a kept descriptor away from 0, 1 and 2, which are free if the program has closed them.
fn beyond_standard(fd: OwnedFd) -> OwnedFd {
    if fd.as_raw_fd() > libc::STDERR_FILENO {
        return fd;
    }
    // SAFETY: `fd` is open.
    let moved = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, libc::STDERR_FILENO + 1) };
    if moved < 0 {
        return fd;
    }
    // SAFETY: `fcntl` has just returned `moved`, so it is open and has no other owner.
    unsafe { OwnedFd::from_raw_fd(moved) }
}

/// Fills `buffer` from the start of the file, with one `pread`.
fn read_start(fd: RawFd, buffer: &mut [u8]) -> io::Result<&[u8]> {
    // SAFETY: `buffer` is valid for writing `buffer.len()` bytes; a descriptor that is not open gives EBADF.
    let read = unsafe { libc::pread(fd, buffer.as_mut_ptr().cast(), buffer.len(), 0) };
    let read = usize::try_from(read).map_err(|_negative| io::Error::last_os_error())?;
    Ok(buffer.get(..read).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;

    const WHAT: &str = "the process id";

    fn stat() -> KeptFile {
        KeptFile::new(c"/proc/self/stat")
    }

    /// The process id, which is the first number of `/proc/self/stat`.
    fn process(file: &KeptFile) -> Result<u32, OsError> {
        file.read::<64, _>(WHAT, |text| std::str::from_utf8(text).ok()?.split(' ').next()?.parse().ok())
    }

    fn opened(file: &KeptFile) -> u64 {
        file.kept().unwrap().opened.load(Ordering::Relaxed)
    }

    fn owner(file: &KeptFile) -> u64 {
        file.kept().unwrap().owner()
    }

    /// Makes `file` believe that `owner` opened it as `fd`.
    fn give_number(file: &KeptFile, owner: u64, fd: u32) -> u64 {
        let packed = owner << 32 | u64::from(fd);
        file.kept().unwrap().opened.store(packed, Ordering::Relaxed);
        packed
    }

    #[test]
    fn read_twice_opens_the_file_once() {
        let file = stat();
        assert_eq!(process(&file).unwrap(), std::process::id());
        let first = opened(&file);
        assert_eq!(first >> 32, owner(&file));
        assert_eq!(process(&file).unwrap(), std::process::id());
        assert_eq!(opened(&file), first);
    }

    #[test]
    fn read_number_of_another_file_opens_again() {
        let path = std::env::temp_dir().join(format!("plimsoll-kept-file-{}", std::process::id()));
        File::create(&path).unwrap().write_all(b"4711 a file of numbers\n").unwrap();
        let (numbers, null) = (File::open(&path).unwrap(), File::open("/dev/null").unwrap());
        let (socket, _other_end) = UnixStream::pair().unwrap();
        std::fs::remove_file(path).unwrap();
        for taken in [numbers.as_raw_fd(), null.as_raw_fd(), socket.as_raw_fd(), RawFd::MAX] {
            let file = stat();
            process(&file).unwrap();
            let packed = give_number(&file, owner(&file), taken.unsigned_abs());
            assert_eq!(process(&file).unwrap(), std::process::id());
            assert_ne!(opened(&file), packed);
        }
        assert!(numbers.metadata().is_ok() && null.metadata().is_ok(), "the other files stay open");
        assert!(socket.local_addr().is_ok(), "the other files stay open");
    }

    #[test]
    fn read_file_of_another_process_opens_again() {
        let inherited = File::open("/proc/1/stat").unwrap();
        let file = stat();
        let (device, inode) = identity(inherited.as_raw_fd()).unwrap();
        file.kept().unwrap().device.store(device, Ordering::Relaxed);
        file.kept().unwrap().inode.store(inode, Ordering::Relaxed);
        give_number(&file, owner(&file) + 1, inherited.as_raw_fd().unsigned_abs());
        assert_eq!(process(&file).unwrap(), std::process::id());
    }

    #[test]
    fn read_missing_or_unknown_text_is_an_error_and_keeps_nothing() {
        let missing = KeptFile::new(c"/proc/self/no-such-file");
        let error = missing.read::<64, ()>(WHAT, |_| None).unwrap_err();
        assert!(matches!(&error, OsError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound), "{error:?}");
        assert_eq!(error.to_string(), "the process id could not be had from the operating system");
        let odd = stat();
        let error = odd.read::<64, ()>(WHAT, |_| None).unwrap_err();
        assert!(matches!(error, OsError::Malformed { .. }), "{error:?}");
        assert_eq!(opened(&missing) | opened(&odd), 0);
    }
}
