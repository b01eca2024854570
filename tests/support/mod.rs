//! What the allocator tests share: true sums kept beside the ledger, cheap randomness, and forked children.

#![allow(dead_code, unreachable_pub, reason = "each test binary includes this file and uses its own part")]
#![allow(clippy::multiple_unsafe_ops_per_block, clippy::print_stdout, reason = "it stands in for libtest")]

pub mod child;
mod random;

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, realloc};

pub use random::Random;

/// Runs the named functions one after the other on the main thread, printing what libtest would print.
///
/// libtest itself keeps a second thread, which allocates when it pleases; these tests count every byte. A name may
/// carry `if CONDITION else "why"`: then it counts as ignored where the condition does not hold.
macro_rules! tests {
    ($($name:ident $(if $condition:expr, else $why:literal)?),+ $(,)?) => {
        fn main() -> std::process::ExitCode {
            $crate::support::run(&[$((stringify!($name), $name as fn(), {
                let why: Option<&str> = None;
                $(let why = if $condition { why } else { Some($why) };)?
                why
            })),+])
        }
    };
}
pub(crate) use tests;

type Test = fn();

/// What `tests!` calls. Understands `--list`, `--ignored` and a filter, as test runners ask.
pub fn run(tests: &[(&str, Test, Option<&str>)]) -> std::process::ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| args.iter().any(|arg| arg == flag);
    let filter = args.iter().find(|arg| !arg.starts_with("--"));
    let chosen = |name: &str| filter.is_none_or(|f| if has("--exact") { name == f } else { name.contains(f.as_str()) });
    let chosen: Vec<_> =
        tests.iter().filter(|(name, _, why)| chosen(name) && (!has("--ignored") || why.is_some())).collect();
    if has("--list") {
        for (name, ..) in chosen {
            println!("{name}: test");
        }
        return std::process::ExitCode::SUCCESS;
    }
    // At once: other threads may wait for the one that panics, and the test would never end.
    let say = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        say(info);
        std::process::exit(101);
    }));
    println!("\nrunning {} tests", chosen.len());
    let mut ignored = 0;
    for (name, test, why) in &chosen {
        if let Some(why) = why {
            ignored += 1;
            println!("test {name} ... ignored, {why}");
            continue;
        }
        // Said ahead, as a panic ends the process.
        print!("test {name} ... ");
        std::io::Write::flush(&mut std::io::stdout()).unwrap();
        test();
        println!("ok");
    }
    println!("\ntest result: ok. {} passed; 0 failed; {ignored} ignored; 0 measured", chosen.len() - ignored);
    std::process::ExitCode::SUCCESS
}

/// Whether there is an rss, and nothing else in it: see [`alone`].
pub fn lean() -> bool {
    cfg!(all(target_os = "linux", not(miri))) && alone()
}

/// Whether no emulator or checker around this program is counted in its rss. Where the sandboxes must be, there must be
/// none.
pub fn alone() -> bool {
    let alone = plimsoll::os::rss().map_or(true, |rss| rss.total < plimsoll::ByteSize::mib(8));
    let required = std::env::var_os("PLIMSOLL_SANDBOX").is_some_and(|value| value == "required");
    assert!(alone || !required, "an rss of this program alone is required: {:?}", plimsoll::os::rss());
    alone
}

/// Does the work on as many threads at once, and waits until they are gone.
///
/// The end of a scope waits for the work alone: what a thread frees as it goes would still be missing in exact counts.
pub fn on_threads(count: usize, work: impl Fn(usize) + Sync) {
    let work = &work;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..count).map(|number| scope.spawn(move || work(number))).collect();
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

/// A block from the global allocator that knows its layout, so that a test knows the truth to the byte.
pub struct Block {
    start: *mut u8,
    layout: Layout,
}

// SAFETY: the block is owned, and nothing reads it from elsewhere.
unsafe impl Send for Block {}

impl Block {
    pub fn new(size: usize) -> Self {
        Self::with(size, 1, false).unwrap()
    }

    /// `None` where the allocator answers null.
    pub fn with(size: usize, align: usize, zeroed: bool) -> Option<Self> {
        assert!(size > 0);
        let layout = Layout::from_size_align(size, align).unwrap();
        // SAFETY: the size is not zero.
        let start = unsafe { if zeroed { alloc_zeroed(layout) } else { alloc(layout) } };
        (!std::hint::black_box(start).is_null()).then(|| Self { start, layout })
    }

    /// Whether the block could be resized; if not it is as before.
    pub fn resize(&mut self, size: usize) -> bool {
        assert!(size > 0);
        // SAFETY: the block came from the global allocator with this layout; the size is not zero.
        let moved = unsafe { realloc(self.start, self.layout, size) };
        if std::hint::black_box(moved).is_null() {
            return false;
        }
        self.start = moved;
        self.layout = Layout::from_size_align(size, self.layout.align()).unwrap();
        true
    }

    pub fn size(&self) -> usize {
        self.layout.size()
    }

    pub fn is_aligned(&self) -> bool {
        self.start.addr().is_multiple_of(self.layout.align())
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: the block came from the global allocator with this layout.
        unsafe { dealloc(self.start, self.layout) }
    }
}

/// A size as programs ask for them: mostly small, sometimes large, now and then far beyond a thread's credit.
pub fn some_size(random: &mut Random) -> usize {
    1 + match random.below(100) {
        0..80 => random.below(512),
        80..97 => random.below(20_000),
        _ => random.below(300_000),
    }
}

/// Live bytes as the ledger sees them.
pub fn live() -> i64 {
    i64::try_from(plimsoll::heap::stats().unwrap().live.as_u64()).unwrap()
}

/// How a forked child ended, and what it said.
#[cfg(unix)]
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub stderr: String,
}

/// Runs `work` in a forked child, which exits with 0 when it returns and with 101 when it panics.
#[cfg(unix)]
pub fn in_child(work: impl FnOnce()) -> Ended {
    use std::io::Read;
    use std::os::fd::AsRawFd;
    let (mut reader, writer) = std::io::pipe().unwrap();
    // SAFETY: the child calls only `dup2`, `work` and `_exit`; no lock of another thread is needed for these.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork failed");
    if pid == 0 {
        // SAFETY: both are open descriptors.
        unsafe { libc::dup2(writer.as_raw_fd(), 2) };
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        // SAFETY: ends this process, whatever it holds.
        unsafe { libc::_exit(if done.is_ok() { 0 } else { 101 }) };
    }
    drop(writer);
    let mut stderr = String::new();
    reader.read_to_string(&mut stderr).unwrap();
    let mut status = 0;
    // SAFETY: `pid` is our child, `status` is ours.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    Ended {
        code: libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)),
        signal: libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status)),
        stderr,
    }
}
