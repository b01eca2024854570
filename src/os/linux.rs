//! The system calls on Linux. Nothing here allocates, locks, formats or panics.
#![expect(unsafe_code, reason = "system calls that std does not have, or has only with allocations")]

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::RawFd;

use super::errno::preserve_errno;
use super::kept_file::{KeptFile, open};
use super::{OsError, Rss};
use crate::size::ByteSize;

const RSS: &str = "the resident set size";
const PEAK_RSS: &str = "the peak resident set size";
const RESET_PEAK_RSS: &str = "resetting the peak resident set size";

/// `/proc/self/statm`: seven numbers of at most 20 digits.
static STATM: KeptFile = KeptFile::new(c"/proc/self/statm");

/// `/proc/self/status`: some pages of text, `VmHWM` on the first unless the process is in hundreds of groups.
static STATUS: KeptFile = KeptFile::new(c"/proc/self/status");

/// The number of free bytes at the top of an arena from which `free` releases them.
#[cfg(target_env = "gnu")]
const TRIM_THRESHOLD: libc::c_int = 1 << 20;

/// How often a descriptor may be full, or the write interrupted, before the rest of a line is given up.
const WRITE_TRIES: u32 = 16;

pub(super) fn rss() -> Result<Rss, OsError> {
    preserve_errno(|| STATM.read::<192, _>(RSS, |text| parse_statm(text, page_size())))
}

pub(super) fn peak_rss() -> Result<u64, OsError> {
    preserve_errno(|| STATUS.read::<4096, _>(PEAK_RSS, parse_high_water))
}

pub(super) fn threads() -> Option<u64> {
    preserve_errno(|| STATUS.read::<4096, _>("the number of threads", parse_threads)).ok()
}

pub(super) fn reset_peak_rss() -> Result<(), OsError> {
    let failed = |source| OsError::Io { what: RESET_PEAK_RSS, source };
    preserve_errno(|| {
        let mut file = File::from(open(c"/proc/self/clear_refs", libc::O_WRONLY).map_err(failed)?);
        file.write_all(b"5").map_err(failed)
    })
}

/// Has `free` release the top of an arena from a fixed size on.
///
/// `malloc_trim` leaves the top of all arenas but the first. `free` releases it from a threshold on, which rises with the largest
/// block that was freed, up to 64 MiB, unless it is set.
#[cfg(target_env = "gnu")]
pub(super) fn fix_trim_threshold() {
    // SAFETY: `mallopt` takes any values and is thread-safe.
    unsafe { libc::mallopt(libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD) };
}

#[cfg(not(target_env = "gnu"))]
pub(super) const fn fix_trim_threshold() {}

#[cfg(target_env = "gnu")]
pub(super) fn limit_arenas(count: u32) -> bool {
    let count = libc::c_int::try_from(count).unwrap_or(libc::c_int::MAX);
    // SAFETY: `mallopt` takes any values and is thread-safe.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, count) == 1 }
}

#[cfg(not(target_env = "gnu"))]
pub(super) const fn limit_arenas(_: u32) -> bool {
    false
}

#[cfg(target_env = "gnu")]
#[expect(clippy::unnecessary_wraps, reason = "the signature of all platforms")]
pub(super) fn trim() -> Result<(), OsError> {
    // Its answer is not used: 1 also means that it advised the kernel about pages that were released before.
    // SAFETY: glibc's `malloc_trim` takes any padding and is thread-safe.
    unsafe { libc::malloc_trim(0) };
    Ok(())
}

#[cfg(not(target_env = "gnu"))]
pub(super) const fn trim() -> Result<(), OsError> {
    Err(OsError::NotAvailable { what: "malloc_trim", here: "linux without glibc" })
}

pub(super) fn write_stderr(bytes: &[u8]) {
    preserve_errno(|| _ = write_to(libc::STDERR_FILENO, bytes));
}

/// Writes if standard error takes bytes now.
///
/// A pipe is writable if it has room for `PIPE_BUF` bytes, 4 KiB, in one piece: see pipe(7). So a record of at most
/// that length is written whole. Only another writer that fills the pipe between the two calls can make this one
/// wait.
pub(super) fn write_stderr_nonblocking(bytes: &[u8]) -> bool {
    let mut stderr = libc::pollfd { fd: libc::STDERR_FILENO, events: libc::POLLOUT, revents: 0 };
    // SAFETY: `stderr` is one valid `pollfd`, and a timeout of 0 does not wait.
    let ready = unsafe { libc::poll(&raw mut stderr, 1, 0) };
    if ready == 1 && stderr.revents & (libc::POLLERR | libc::POLLNVAL | libc::POLLHUP) != 0 {
        // A closed descriptor, or a pipe without a reader, never takes it: nothing is gained by a later try. Such a
        // pipe is reported as writable too, and the write would raise SIGPIPE.
        return true;
    }
    ready == 1 && stderr.revents & libc::POLLOUT != 0 && write_to(libc::STDERR_FILENO, bytes)
}

#[cfg(feature = "emf")]
pub(super) fn write_stdout(bytes: &[u8]) {
    preserve_errno(|| _ = write_to(libc::STDOUT_FILENO, bytes));
}

/// Milliseconds of `CLOCK_MONOTONIC_COARSE`: since boot, without suspensions, at the last kernel tick.
pub(super) fn coarse_monotonic_ms() -> u64 {
    clock_ms(libc::CLOCK_MONOTONIC_COARSE)
}

/// Milliseconds of `CLOCK_REALTIME_COARSE`: since 1970, 0 before then, at the last kernel tick.
pub(super) fn coarse_wall_ms() -> u64 {
    clock_ms(libc::CLOCK_REALTIME_COARSE)
}

fn clock_ms(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writing one `timespec`. It fails for unknown clocks alone, and these two are older
    // (2.6.32) than any kernel std runs on.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1000).saturating_add(nanos / 1_000_000)
}

/// Returns the size of a page in bytes.
pub(super) fn page_size() -> u64 {
    // SAFETY: `sysconf` has no preconditions, and POSIX lists it as safe in signal handlers.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(bytes).unwrap_or(4096)
}

/// Writes `bytes`. Returns `false` if nothing was written because `fd` was full.
fn write_to(fd: RawFd, mut bytes: &[u8]) -> bool {
    let (mut failures, whole) = (0, bytes.len());
    while !bytes.is_empty() && failures < WRITE_TRIES {
        // SAFETY: `bytes` is valid for reading `bytes.len()` bytes; a descriptor that is not open gives EBADF.
        let wrote = unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
        match usize::try_from(wrote) {
            Ok(0) => failures += 1,
            Ok(wrote) => bytes = bytes.get(wrote..).unwrap_or_default(),
            Err(_negative) => match io::Error::last_os_error().raw_os_error() {
                Some(libc::EINTR | libc::EAGAIN) => failures += 1,
                _ => return true,
            },
        }
    }
    bytes.len() < whole
}

/// `size resident shared ..`, in pages.
fn parse_statm(text: &[u8], page_size: u64) -> Option<Rss> {
    let mut fields = text.split(|&byte| byte == b' ');
    let _size = parse_number(fields.next()?)?;
    let resident = parse_number(fields.next()?)?.checked_mul(page_size)?;
    let shared = parse_number(fields.next()?)?.checked_mul(page_size)?;
    // After the main thread has ended, the file is all zeros.
    if resident == 0 {
        return None;
    }
    // The two counters are read one after the other, so the second may have overtaken the first.
    Some(Rss { total: ByteSize::bytes(resident), anonymous: ByteSize::bytes(resident.saturating_sub(shared)) })
}

/// The line `VmHWM:     1234 kB`, in bytes. The first line, the program's name, cannot feign it: it starts `Name:`.
fn parse_high_water(text: &[u8]) -> Option<u64> {
    let value = text.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(b"VmHWM:"))?;
    parse_number(value.trim_ascii().strip_suffix(b" kB")?)?.checked_mul(1024)
}

/// The line `Threads:` with its number.
fn parse_threads(text: &[u8]) -> Option<u64> {
    let value = text.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(b"Threads:"))?;
    parse_number(value.trim_ascii())
}

fn parse_number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, &digit| {
        let value = digit.wrapping_sub(b'0');
        if value > 9 { None } else { number.checked_mul(10)?.checked_add(u64::from(value)) }
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn rss_of(statm: &str) -> Option<(u64, u64)> {
        parse_statm(statm.as_bytes(), 4096).map(|rss| (rss.total.as_u64(), rss.anonymous.as_u64()))
    }

    #[test]
    fn statm_is_read_in_pages_and_told_in_bytes() {
        assert_eq!(rss_of("4620 1190 300 50 0 400 0\n"), Some((1190 * 4096, 890 * 4096)));
        assert_eq!(rss_of("0 0 0 0 0 0 0\n"), None, "the main thread has ended");
        assert_eq!(rss_of("9 1 2 0 0 0 0\n"), Some((4096, 0)), "counters read at two moments do not wrap");
    }

    #[test]
    fn a_statm_that_makes_no_sense_is_no_figure() {
        let most = u64::MAX.to_string();
        for text in [
            "",
            " ",
            "1",
            "1 2",
            "1 2 ",
            "1 -2 3 ",
            "a 2 3 ",
            "1  2 3",
            &format!("1 {most} 3 "),
            &format!("1 2 {most}9 "),
        ] {
            assert_eq!(rss_of(text), None, "{text:?}");
        }
    }

    #[test]
    fn the_high_water_mark_is_found_by_its_line() {
        let told = |text: &str| parse_high_water(text.as_bytes());
        assert_eq!(told("Name:\tVmHWM:\nVmPeak:\t    9 kB\nVmHWM:\t    1234 kB\nVmRSS:\t 7 kB\n"), Some(1234 * 1024));
        assert_eq!(told("Name:\tVmHWM: 5 kB\nVmRSS:\t 7 kB\n"), None, "a program cannot name itself so");
        for cut in ["VmHWM:", "VmHWM:\t  12", "VmHWM:\t  12 k", "VmHWM:\t x kB", "VmHWM:\t kB", ""] {
            assert_eq!(told(cut), None, "{cut:?}");
        }
        assert_eq!(told(&format!("VmHWM:\t{} kB", u64::MAX)), None);
    }

    /// The twins see text and take it apart with what std has.
    fn number(text: &str) -> Option<u64> {
        text.parse().ok().filter(|_| !text.starts_with('+'))
    }

    fn twin_rss(text: &str, page: u64) -> Option<(u64, u64)> {
        let fields: Vec<&str> = text.splitn(4, ' ').collect();
        let [size, resident, shared, ..] = fields.as_slice() else { return None };
        let (resident, shared) = number(size).and(number(resident)).zip(number(shared))?;
        if resident == 0 {
            return None;
        }
        let (resident, shared) = resident.checked_mul(page).zip(shared.checked_mul(page))?;
        Some((resident, resident - shared.min(resident)))
    }

    fn twin_line<'a>(text: &'a str, name: &str) -> Option<&'a str> {
        text.lines().find(|line| line.starts_with(name)).map(|line| line[name.len()..].trim())
    }

    proptest::proptest! {
        #[test]
        fn files_of_the_kernel_are_read_as_the_twins_read_them(
            statm in "([0-9+a-]{1,3}|[0-9]{18,21}| ){0,12}",
            status in "((VmHWM|Threads|VmRSS):[\t ]{0,2}([0-9]{1,3}|[0-9]{18,21}|[+x-]1)?( kB| k|kB)?\n){0,4}",
        ) {
            let told = parse_statm(statm.as_bytes(), 4096).map(|rss| (rss.total.as_u64(), rss.anonymous.as_u64()));
            proptest::prop_assert_eq!(told, twin_rss(&statm, 4096));
            let high = twin_line(&status, "VmHWM:").and_then(|value| number(value.strip_suffix(" kB")?));
            let high = high.and_then(|kib| kib.checked_mul(1024));
            proptest::prop_assert_eq!(parse_high_water(status.as_bytes()), high);
            proptest::prop_assert_eq!(parse_threads(status.as_bytes()), twin_line(&status, "Threads:").and_then(number));
        }

        #[test]
        fn no_bytes_in_a_file_of_the_kernel_panic(bytes: Vec<u8>, page: u64) {
            let figures = [b"1 2 ", b"VmHWM:".as_slice(), b"Threads:"].map(|start| [start, &bytes].concat());
            for text in figures.iter().chain([&bytes]) {
                let rss = parse_statm(text, page);
                proptest::prop_assert!(rss.is_none_or(|rss| rss.anonymous <= rss.total));
                let (_, _) = (parse_high_water(text), parse_threads(text));
            }
        }
    }

    #[test]
    fn a_line_is_written_whole() {
        let (writer, mut reader) = UnixStream::pair().unwrap();
        let line = vec![b'x'; 10_000];
        write_to(writer.as_raw_fd(), &line);
        drop(writer);
        let mut got = Vec::new();
        reader.read_to_end(&mut got).unwrap();
        assert_eq!(got, line);
    }

    #[test]
    fn a_reader_that_is_stuck_or_gone_does_not_hold_up_the_writer() {
        let (writer, reader) = UnixStream::pair().unwrap();
        writer.set_nonblocking(true).unwrap();
        let more_than_a_socket_holds = vec![b'x'; 16 << 20];
        write_to(writer.as_raw_fd(), &more_than_a_socket_holds);
        drop(reader);
        write_to(writer.as_raw_fd(), b"to nobody");
        write_to(RawFd::MAX, b"to nowhere");
    }
}
