//! The alarm before a kill, and the abort report: their contents, when they are written, and how often.

#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    clippy::multiple_unsafe_ops_per_block,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "a test: it allocates by hand, counts in signed bytes and stops at the first surprise"
)]

mod support;

use std::os::fd::AsRawFd;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use plimsoll::heap::{AlarmThresholds, AlarmThresholdsError, highest_crossed_threshold, set_alarm_thresholds};
use plimsoll::monitor::ReportPolicy;
use plimsoll::{ByteSize, MemoryBudget, Monitor, TrackingAllocator, board, heap, os};
use support::{Block, Ended, in_child, lean};

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

const LINUX: bool = cfg!(all(target_os = "linux", not(miri)));

support::tests! {
    thresholds_not_rising_are_an_error,
    crossing_is_one_alarm_until_the_load_falls if lean(), else "needs fork and an rss of this program alone",
    reused_pages_are_no_alarm if lean(), else "needs fork and an rss of this program alone",
    large_start_up_is_no_alarm if lean(), else "needs fork and an rss of this program alone",
    c_memory_beside_an_untouched_pool_alarms if lean(), else "needs fork and an rss of this program alone",
    c_memory_after_a_fall_counts_at_the_next_mib if lean(), else "needs fork and an rss of this program alone",
    failed_request_leaves_no_flag if LINUX, else "needs fork and the rss",
    untouched_reservation_leaves_the_alarm_awake if lean(), else "needs fork and an rss of this program alone",
    flag_of_a_small_memory_size_falls_in_time if lean(), else "needs fork and an rss of this program alone",
    large_block_alarms_before_its_pages_are_touched if lean(), else "needs fork and an rss of this program alone",
    zeroed_block_beyond_the_capacity_alarms_first if lean(), else "needs fork and an rss of this program alone",
    moving_realloc_beyond_the_capacity_alarms_first if lean(), else "needs fork and an rss of this program alone",
    large_request_beside_a_churning_thread_is_checked if lean(), else "needs fork and an rss of this program alone",
    untouched_crossing_beside_a_churning_thread_alarms_once if lean(), else "needs fork and an rss of this program alone",
    zeroed_crossing_beside_a_churning_thread_alarms_once if lean(), else "needs fork and an rss of this program alone",
    slowly_filled_block_of_another_thread_counts if lean(), else "needs fork and an rss of this program alone",
    shrunk_block_of_another_thread_counts if lean(), else "needs fork and an rss of this program alone",
    early_alarm_is_not_repeated_for_each_request if lean(), else "needs fork and an rss of this program alone",
    slow_leak_in_small_pieces_alarms if LINUX, else "needs fork and the rss",
    eight_threads_crossing_at_once_alarm_once if LINUX, else "needs fork and the rss",
    fork_beside_a_checking_thread_leaves_the_child_awake if lean(), else "needs fork and an rss of this program alone",
    blocked_stderr_does_not_block_the_allocation if LINUX, else "needs fork and the rss",
    stderr_without_a_reader_is_no_sigpipe if LINUX, else "needs fork and the rss",
    errno_is_kept_by_a_free_that_checks if LINUX, else "needs fork and the rss",
    alarm_names_the_oldest_requests if LINUX, else "needs fork and the rss",
    gauges_do_not_exceed_the_heap if lean(), else "needs fork and an rss of this program alone",
    names_are_cut_and_numbered if LINUX, else "needs fork and the rss",
    an_abort_over_a_refused_allocation_says_why if cfg!(all(unix, not(miri))), else "needs fork and signals",
    abort_report_comes_with_a_backtrace_too if cfg!(all(unix, not(miri))), else "needs fork and signals",
    an_abort_without_a_refusal_says_nothing if cfg!(all(unix, not(miri))), else "needs fork and signals",
    a_signal_sent_kills_as_it_would_without_a_handler if cfg!(all(unix, not(miri))), else "needs fork and signals",
    the_handler_before_ours_is_called_and_errno_kept if cfg!(all(unix, not(miri))), else "needs fork and signals",
}

const MIB: usize = 1 << 20;

/// Thresholds of a process that has 100 MiB.
fn thresholds(percents: &[u8]) -> AlarmThresholds {
    of_size(ByteSize::mib(100), percents)
}

fn of_size(size: ByteSize, percents: &[u8]) -> AlarmThresholds {
    AlarmThresholds::new(size).environment_share(ByteSize::ZERO).with_percents(percents).unwrap()
}

/// The alarms of a child that ended well.
fn alarms(ended: &Ended) -> Vec<serde_json::Value> {
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    ended.stderr.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

/// A block with all pages touched.
fn touched(bytes: usize) -> Vec<u8> {
    std::hint::black_box(vec![1; bytes])
}

/// A block with no page touched.
fn reserved(bytes: usize) -> Vec<u8> {
    std::hint::black_box(Vec::with_capacity(bytes))
}

/// Memory that the kernel counts and the ledger does not, as a C library's.
fn outside_the_heap(bytes: usize) {
    let layout = std::alloc::Layout::from_size_align(bytes, 4096).unwrap();
    // SAFETY: the size is not zero.
    let block = unsafe { std::alloc::GlobalAlloc::alloc(&std::alloc::System, layout) };
    // SAFETY: the block has `bytes` bytes, and is never freed.
    unsafe { block.write_bytes(1, bytes) };
}

/// Runs `work` next to a thread that allocates and frees blocks of 2 MiB, with `pause` between them.
fn beside_a_churning_thread<T>(pause: std::time::Duration, work: impl FnOnce() -> T) -> T {
    let (stop, churns) = (AtomicBool::new(false), Barrier::new(2));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            churns.wait();
            while !stop.load(Relaxed) {
                drop(reserved(2 * MIB));
                if !pause.is_zero() {
                    std::thread::sleep(pause);
                }
            }
        });
        churns.wait();
        let result = work();
        stop.store(true, Relaxed);
        result
    })
}

fn thresholds_not_rising_are_an_error() {
    let thresholds = AlarmThresholds::new(ByteSize::mib(128));
    assert_eq!(thresholds.percents().collect::<Vec<_>>(), [70, 90, 97]);
    assert_eq!(thresholds.capacity(), ByteSize::mib(116));
    assert!(matches!(thresholds.with_percents(&[]), Err(AlarmThresholdsError::Count { count: 0, .. })));
    assert!(matches!(thresholds.with_percents(&[1, 2, 3, 4, 5]), Err(AlarmThresholdsError::Count { count: 5, .. })));
    for bad in [[0, 50], [50, 50], [60, 50], [50, 101]] {
        assert!(matches!(thresholds.with_percents(&bad), Err(AlarmThresholdsError::NotRising { .. })), "{bad:?}");
    }
    assert_eq!(AlarmThresholds::new(ByteSize::mib(5)).capacity(), ByteSize::ZERO, "the environment has all of it");
}

fn crossing_is_one_alarm_until_the_load_falls() {
    let ended = in_child(|| {
        set_alarm_thresholds(&thresholds(&[50, 90])).unwrap();
        assert_eq!(highest_crossed_threshold(), None);
        board::holder("sessions \"quoted\"").set(ByteSize::mib(35));
        board::holder("index").set(ByteSize::mib(10));
        let account = MemoryBudget::new(ByteSize::mib(50)).account("thumbnails").unwrap();
        let _reservation = account.try_reserve(ByteSize::mib(4)).unwrap();
        let half = touched(60 * MIB);
        assert_eq!(highest_crossed_threshold(), Some(50));
        let rest = touched(35 * MIB);
        assert_eq!(highest_crossed_threshold(), Some(90));
        // Up and down near the threshold is no new crossing.
        for _ in 0..50 {
            drop(touched(3 * MIB));
        }
        drop(rest);
        assert_eq!(highest_crossed_threshold(), Some(50));
        let rest = touched(35 * MIB);
        drop((half, rest));
        assert_eq!(highest_crossed_threshold(), None);
    });
    let alarms = alarms(&ended);
    assert_eq!(alarms.len(), 2, "{}", ended.stderr);
    let alarm = &alarms[0];
    assert_eq!(alarm["plimsoll"], "alarm");
    assert_eq!(alarm["alarm_threshold"], 90);
    assert_eq!(alarm["memory_size"], 100 << 20);
    let heap = alarm["heap"].as_u64().unwrap();
    assert!(heap >> 20 == 95 && alarm["requested"] == 35 << 20, "{alarm}");
    let projected = alarm["rss"].as_u64().unwrap() + alarm["untouched"].as_u64().unwrap();
    assert!((95..100).contains(&(projected >> 20)), "{alarm}");
    assert_eq!(alarm["gauges"]["sessions ?quoted?"], 35 << 20);
    assert_eq!(alarm["gauges"]["index"], 10 << 20);
    assert_eq!(alarm["reserved"], serde_json::json!({ "thumbnails": 4 << 20 }));
    let unattributed = alarm["unattributed"].as_u64().unwrap();
    assert!((50 << 20..51 << 20).contains(&unattributed), "what an account has reserved is not allocated: {alarm}");
    assert_eq!(alarm["sums"], serde_json::json!({ "gauges": 45 << 20, "sites": 0, "reserved": 4 << 20 }));
    assert_eq!(heap, unattributed + (45 << 20));
    assert!(alarm.get("sites").is_none() && alarm.get("build_id").is_none(), "no profile runs: {alarm}");
}

fn reused_pages_are_no_alarm() {
    let ended = in_child(|| {
        set_alarm_thresholds(&thresholds(&[97])).unwrap();
        // glibc keeps freed blocks of this size from now on, rather than to unmap them.
        drop(touched(30 * MIB));
        let model = touched(60 * MIB);
        let mut highest = ByteSize::ZERO;
        for _ in 0..20 {
            let mut body = reserved(25 * MIB);
            assert_eq!(highest_crossed_threshold(), None);
            body.resize(25 * MIB, 1);
            drop(body);
            let body = std::hint::black_box(vec![0_u8; 25 * MIB]);
            assert_eq!(highest_crossed_threshold(), None);
            highest = highest.max(os::rss().unwrap().total);
            drop(body);
        }
        assert!(
            highest < ByteSize::mib(95) && os::rss().unwrap().total > ByteSize::mib(80),
            "{highest}: pages are kept"
        );
        drop(model);
    });
    assert_eq!(alarms(&ended).len(), 0, "{}", ended.stderr);
}

/// Blocks of 1 KiB, `mib` MiB in all.
#[expect(clippy::vec_box, reason = "each has a place of its own in the heap")]
fn small_blocks(mib: usize) -> Vec<Box<[u8; 1024]>> {
    (0..mib * 1024).map(|_| Box::new([1; 1024])).collect()
}

fn large_start_up_is_no_alarm() {
    let ended = in_child(|| {
        let start_up = small_blocks(55);
        let kept = Box::new([1_u8; 1024]);
        drop(start_up);
        set_alarm_thresholds(&thresholds(&[70, 97])).unwrap();
        let work = small_blocks(55);
        assert_eq!(highest_crossed_threshold(), None);
        drop((work, kept));
    });
    assert_eq!(alarms(&ended).len(), 0, "{}", ended.stderr);
}

fn c_memory_beside_an_untouched_pool_alarms() {
    for pool_first in [true, false] {
        let ended = in_child(|| {
            outside_the_heap(30 * MIB);
            let pool = pool_first.then(|| reserved(35 * MIB));
            set_alarm_thresholds(&thresholds(&[97])).unwrap();
            let pool = pool.unwrap_or_else(|| reserved(35 * MIB));
            let first = touched(40 * MIB);
            assert_eq!(highest_crossed_threshold(), None);
            let last = reserved(30 * MIB);
            assert_eq!(highest_crossed_threshold(), Some(97), "30 + 40 + 30 of 100");
            drop((first, last, pool));
        });
        assert_eq!(alarms(&ended).len(), 1, "pool first {pool_first}: {}", ended.stderr);
    }
}

fn c_memory_after_a_fall_counts_at_the_next_mib() {
    let ended = in_child(|| {
        set_alarm_thresholds(&thresholds(&[97])).unwrap();
        drop(touched(80 * MIB));
        outside_the_heap(99 * MIB);
        assert_eq!(highest_crossed_threshold(), None, "no thread has checked");
        // Far below the total of before.
        let _more: Vec<Block> = (0..20).map(|_| Block::new(100_000)).collect();
        assert_eq!(highest_crossed_threshold(), Some(97));
    });
    assert_eq!(alarms(&ended).len(), 1, "{}", ended.stderr);
}

fn failed_request_leaves_no_flag() {
    for (limit, align) in [(None, 1), (Some(ByteSize::mib(1 << 40)), 1), (None, 4096)] {
        let ended = in_child(|| {
            set_alarm_thresholds(&thresholds(&[97])).unwrap();
            if let Some(limit) = limit {
                heap::set_limit(limit).unwrap();
            }
            assert!(Block::with(1 << 46, align, true).is_none());
            assert_eq!(highest_crossed_threshold(), None);
            let _most = touched(98 * MIB);
            assert_eq!(highest_crossed_threshold(), Some(97));
        });
        // `System` writes the zeros of an over-aligned block, and the kernel may kill there: this alarm is early.
        assert_eq!(alarms(&ended).len(), 1 + usize::from(align > 1), "{limit:?}: {}", ended.stderr);
    }
}

fn untouched_reservation_leaves_the_alarm_awake() {
    let ended = in_child(|| {
        set_alarm_thresholds(&thresholds(&[97])).unwrap();
        let pool = reserved(1 << 30);
        assert_eq!(highest_crossed_threshold(), Some(97), "the pool would kill if it were touched");
        // It was not, for longer than the flag is held.
        std::thread::sleep(std::time::Duration::from_millis(150));
        let first = touched(2 * MIB);
        assert_eq!(highest_crossed_threshold(), None);
        let most = touched(97 * MIB);
        assert_eq!(highest_crossed_threshold(), Some(97));
        drop((pool, first, most));
    });
    assert_eq!(alarms(&ended).len(), 2, "{}", ended.stderr);
}

fn flag_of_a_small_memory_size_falls_in_time() {
    let ended = in_child(|| {
        // A twentieth of 90 % is less than the MiB after which the rss is read again.
        set_alarm_thresholds(&of_size(ByteSize::mib(16), &[90])).unwrap();
        let most = touched(8 * MIB);
        for _ in 0..3 {
            let over = touched(8 * MIB);
            assert_eq!(highest_crossed_threshold(), Some(90));
            drop(over);
            // Pages that the allocator keeps are resident.
            os::trim().unwrap();
            drop(reserved(MIB));
            assert_eq!(highest_crossed_threshold(), None);
        }
        drop(most);
    });
    assert_eq!(alarms(&ended).len(), 3, "{}", ended.stderr);
}

fn large_block_alarms_before_its_pages_are_touched() {
    for (limit, zeroed) in [(None, false), (None, true), (Some(ByteSize::mib(200)), false)] {
        let ended = in_child(|| {
            set_alarm_thresholds(&thresholds(&[97])).unwrap();
            if let Some(limit) = limit {
                heap::set_limit(limit).unwrap();
            }
            let untouched = Block::with(98 * MIB, 1, zeroed).unwrap();
            eprintln!(r#"{{"after":"the request"}}"#);
            drop(untouched);
        });
        let written = alarms(&ended);
        assert_eq!(written.len(), 2, "{}", ended.stderr);
        assert_eq!(written[0]["plimsoll"], "alarm");
        assert!(written[0]["rss"].as_u64().unwrap() < 50 << 20, "the kernel has not counted it yet");
    }
}

fn zeroed_block_beyond_the_capacity_alarms_first() {
    // Over-aligned, so that `System` writes the zeros, and the kernel would kill inside of the allocator.
    for size in [90 * MIB, 150 * MIB] {
        let ended = in_child(|| {
            set_alarm_thresholds(&thresholds(&[97])).unwrap();
            let kept = touched(20 * MIB);
            drop((Block::with(size, 4096, true).unwrap(), kept));
        });
        let alarms = alarms(&ended);
        assert_eq!(alarms.len(), 1, "{}", ended.stderr);
        assert!(alarms[0]["rss"].as_u64().unwrap() < 30 << 20, "before the pages are touched: {}", alarms[0]);
    }
}

fn moving_realloc_beyond_the_capacity_alarms_first() {
    let ended = in_child(|| {
        set_alarm_thresholds(&thresholds(&[97])).unwrap();
        // Over-aligned, so that `System` copies.
        let mut block = Block::with(60 * MIB, 4096, true).unwrap();
        assert_eq!(highest_crossed_threshold(), None);
        assert!(block.resize(60 * MIB + 1));
    });
    let alarms = alarms(&ended);
    assert_eq!(alarms.len(), 1, "{}", ended.stderr);
    assert!(alarms[0]["rss"].as_u64().unwrap() < 70 << 20, "before the copy: {}", alarms[0]);
    let ended = in_child(|| {
        set_alarm_thresholds(&thresholds(&[97])).unwrap();
        let mut moved = Block::with(60 * MIB, 1, false).unwrap();
        assert!(moved.resize(80 * MIB), "glibc moves the pages of blocks of this size");
    });
    assert_eq!(self::alarms(&ended).len(), 0, "{}", ended.stderr);
}

fn large_request_beside_a_churning_thread_is_checked() {
    let ended = in_child(|| {
        set_alarm_thresholds(&of_size(ByteSize::mib(512), &[90, 100])).unwrap();
        let unchecked = beside_a_churning_thread(std::time::Duration::ZERO, || {
            (0..300)
                .filter(|_| {
                    let _large = reserved(480 * MIB);
                    highest_crossed_threshold() != Some(90)
                })
                .count()
        });
        assert_eq!(unchecked, 0, "requests were served before they were checked");
    });
    assert_eq!(alarms(&ended).len(), 0, "100 % was not reached: {}", ended.stderr);
}

const SOME_US: std::time::Duration = std::time::Duration::from_micros(300);

fn untouched_crossing_beside_a_churning_thread_alarms_once() {
    const CROSSINGS: usize = 20;
    let ended = in_child(|| {
        set_alarm_thresholds(&of_size(ByteSize::mib(300), &[90])).unwrap();
        beside_a_churning_thread(SOME_US, || {
            for _ in 0..CROSSINGS {
                let mut large = reserved(280 * MIB);
                std::thread::sleep(std::time::Duration::from_millis(5));
                large.resize(280 * MIB, 1);
                std::thread::sleep(std::time::Duration::from_millis(2));
                drop(large);
            }
        });
    });
    assert_eq!(alarms(&ended).len(), CROSSINGS, "{}", ended.stderr);
}

fn zeroed_crossing_beside_a_churning_thread_alarms_once() {
    const CROSSINGS: usize = 5;
    for size in [280, 310] {
        let ended = in_child(|| {
            set_alarm_thresholds(&of_size(ByteSize::mib(300), &[90])).unwrap();
            beside_a_churning_thread(SOME_US, || {
                for _ in 0..CROSSINGS {
                    // Over-aligned, so that `System` writes the zeros.
                    drop(Block::with(size * MIB, 4096, true).unwrap());
                    std::thread::sleep(std::time::Duration::from_millis(20));
                }
            });
        });
        assert_eq!(alarms(&ended).len(), CROSSINGS, "{size} MiB: {}", ended.stderr);
    }
}

fn slowly_filled_block_of_another_thread_counts() {
    let ended = in_child(|| {
        set_alarm_thresholds(&thresholds(&[97])).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut body = reserved(60 * MIB);
                while !stop.load(Relaxed) && body.len() < 50 * MIB {
                    body.resize(body.len() + 200_000, 1);
                    std::thread::sleep(std::time::Duration::from_millis(4));
                }
            });
            for _ in 0..150 {
                drop(reserved(2 * MIB));
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            assert_eq!(highest_crossed_threshold(), None);
            let other = reserved(45 * MIB);
            assert_eq!(highest_crossed_threshold(), Some(97), "both together do not fit");
            drop(other);
            stop.store(true, Relaxed);
        });
    });
    assert_eq!(alarms(&ended).len(), 1, "{}", ended.stderr);
}

fn shrunk_block_of_another_thread_counts() {
    for refused in [false, true] {
        let ended = in_child(|| {
            set_alarm_thresholds(&thresholds(&[97])).unwrap();
            heap::set_limit(ByteSize::mib(200)).unwrap();
            let (resized, done) = (Barrier::new(2), Barrier::new(2));
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let mut block = Block::new(60 * MIB);
                    assert_ne!(block.resize(if refused { 300 * MIB } else { 59 * MIB }), refused);
                    resized.wait();
                    done.wait();
                    drop(block);
                });
                resized.wait();
                let other = reserved(40 * MIB);
                assert_eq!(highest_crossed_threshold(), Some(97), "refused: {refused}");
                done.wait();
                drop(other);
            });
        });
        assert_eq!(alarms(&ended).len(), 1, "{}", ended.stderr);
    }
}

fn early_alarm_is_not_repeated_for_each_request() {
    let ended = in_child(|| {
        set_alarm_thresholds(&thresholds(&[97])).unwrap();
        drop(touched(30 * MIB));
        let model = touched(56 * MIB);
        for _ in 0..20 {
            // Over-aligned, so that `System` copies; the pages are those of the round before.
            let mut block = Block::with(20 * MIB, 4096, true).unwrap();
            assert!(block.resize(20 * MIB + 1));
        }
        drop(model);
    });
    let alarms = alarms(&ended).len();
    assert!(alarms <= 1, "{alarms} lines for requests that did no harm: {}", ended.stderr);
}

fn slow_leak_in_small_pieces_alarms() {
    for piece in [100, 5_000, 200_000] {
        let ended = in_child(|| {
            set_alarm_thresholds(&thresholds(&[70, 97])).unwrap();
            let mut leaked = Vec::with_capacity(100 * MIB / piece);
            while leaked.len() < leaked.capacity() {
                leaked.push(touched(piece));
            }
        });
        assert_eq!(alarms(&ended).len(), 1, "in pieces of {piece}: {}", ended.stderr);
    }
}

fn eight_threads_crossing_at_once_alarm_once() {
    for (count, size) in [(130, 100_000), (2, 7 * MIB)].into_iter().cycle().take(20) {
        let ended = in_child(|| {
            set_alarm_thresholds(&thresholds(&[97])).unwrap();
            let all = Barrier::new(8);
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| {
                        all.wait();
                        let blocks: Vec<_> = (0..count).map(|_| touched(size)).collect();
                        all.wait();
                        drop(blocks);
                    });
                }
            });
        });
        assert_eq!(alarms(&ended).len(), 1, "{count} of {size}: {}", ended.stderr);
    }
}

fn fork_beside_a_checking_thread_leaves_the_child_awake() {
    let ended = in_child(|| {
        set_alarm_thresholds(&of_size(ByteSize::mib(512), &[50, 90, 100])).unwrap();
        // The parent's flags are not the child's.
        let large = reserved(300 * MIB);
        let unnoticed = beside_a_churning_thread(std::time::Duration::ZERO, || {
            (0..300)
                .filter(|_| {
                    let child = in_child(|| {
                        let _larger = reserved(480 * MIB);
                        assert_eq!(highest_crossed_threshold(), Some(90));
                    });
                    child.code != Some(0)
                })
                .count()
        });
        drop(large);
        assert_eq!(unnoticed, 0, "children crossed a threshold unnoticed");
    });
    assert_eq!(alarms(&ended).len(), 0, "{}", ended.stderr);
}

/// Fills a socket as a reader that has stopped does, and makes it standard error.
fn block_stderr() -> std::os::unix::net::UnixStream {
    use std::io::Write;
    let (reader, mut writer) = std::os::unix::net::UnixStream::pair().unwrap();
    writer.set_nonblocking(true).unwrap();
    while writer.write(&[b'x'; 4096]).is_ok() {}
    while writer.write(b"x").is_ok() {}
    writer.set_nonblocking(false).unwrap();
    // SAFETY: both are open descriptors.
    unsafe { libc::dup2(writer.as_raw_fd(), 2) };
    reader
}

fn blocked_stderr_does_not_block_the_allocation() {
    let ended = in_child(|| {
        use std::io::Read;
        let mut reader = block_stderr();
        set_alarm_thresholds(&thresholds(&[50, 90])).unwrap();
        let large = reserved(95 * MIB);
        assert_eq!(highest_crossed_threshold(), Some(90));
        // The reader goes on, and the next check writes the alarm.
        reader.set_nonblocking(true).unwrap();
        let mut text = Vec::new();
        assert!(reader.read_to_end(&mut text).is_err(), "the other end is open");
        assert!(!text.ends_with(b"\n"), "the alarm found no room");
        text.clear();
        drop(reserved(2 * MIB));
        assert!(reader.read_to_end(&mut text).is_err(), "the other end is open");
        let line: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(line["alarm_threshold"], 90);
        drop(large);
    });
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

fn stderr_without_a_reader_is_no_sigpipe() {
    let ended = in_child(|| {
        // SAFETY: sets the default action, as a host in C has it.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
        let (reader, writer) = std::io::pipe().unwrap();
        // SAFETY: both are open descriptors.
        unsafe { libc::dup2(writer.as_raw_fd(), 2) };
        drop(reader);
        set_alarm_thresholds(&thresholds(&[97])).unwrap();
        let large = reserved(98 * MIB);
        assert_eq!(highest_crossed_threshold(), Some(97));
        drop(large);
    });
    assert_eq!((ended.code, ended.signal), (Some(0), None), "{}", ended.stderr);
}

fn errno_is_kept_by_a_free_that_checks() {
    let ended = in_child(|| {
        set_alarm_thresholds(&of_size(ByteSize::mib(512), &[1, 90])).unwrap();
        let large = touched(300 * MIB);
        // SAFETY: closes all that this child does not need.
        unsafe { libc::close_range(3, u32::MAX, 0) };
        let none = libc::rlimit { rlim_cur: 3, rlim_max: 3 };
        // SAFETY: `none` is a limit.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const none) };
        // SAFETY: this thread's errno.
        unsafe { *libc::__errno_location() = libc::ENOENT };
        drop(large);
        // SAFETY: this thread's errno.
        let errno = unsafe { *libc::__errno_location() };
        assert_eq!(errno, libc::ENOENT);
    });
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

fn alarm_names_the_oldest_requests() {
    let ended = in_child(|| {
        let monitor = Monitor::builder().memory_size(ByteSize::mib(100)).environment_share(ByteSize::ZERO);
        let monitor = monitor.alarm_thresholds(&[97]).report(ReportPolicy::Off).install().unwrap();
        let alone = monitor.start("alone").with_label("/upload");
        let peak = touched(10 * MIB);
        drop(peak);
        drop(reserved(98 * MIB));
        drop(alone);
        let mut many: Vec<_> = (0..130).map(|number| monitor.start(format!("r{number}").as_str())).collect();
        drop(many.drain(1..3));
        drop(reserved(98 * MIB));
    });
    let alarms = alarms(&ended);
    assert_eq!(alarms.len(), 2, "{}", ended.stderr);
    let alone = &alarms[0]["requests"][0];
    assert_eq!((&alone["request_id"], &alone["label"]), (&"alone".into(), &"/upload".into()), "{alone}");
    assert!(alone["peak"].as_u64().is_some_and(|peak| peak >= 10 << 20) && alone["age_ms"].is_u64(), "{alone}");
    assert_eq!(alarms[0]["requests_in_flight"], 1);
    let ids: Vec<_> = alarms[1]["requests"].as_array().unwrap().iter().map(|request| &request["request_id"]).collect();
    assert_eq!(ids, ["r0", "r3", "r4", "r5"]);
    assert_eq!(alarms[1]["requests_in_flight"], 128);
}

fn gauges_do_not_exceed_the_heap() {
    let ended = in_child(|| {
        set_alarm_thresholds(&thresholds(&[97])).unwrap();
        board::holder("mapped").set(ByteSize::mib(80));
        board::holder("sessions").set(ByteSize::mib(30));
        outside_the_heap(30 * MIB);
        drop(touched(68 * MIB));
    });
    let alarms = alarms(&ended);
    assert_eq!(alarms.len(), 1, "{}", ended.stderr);
    let (heap, gauges) = (alarms[0]["heap"].as_u64().unwrap(), &alarms[0]["gauges"]);
    assert_eq!((gauges["mapped"].as_u64(), gauges["sessions"].as_u64()), (Some(heap), Some(0)), "{}", alarms[0]);
    assert_eq!(alarms[0]["unattributed"], 0);
}

fn names_are_cut_and_numbered() {
    let ended = in_child(|| {
        set_alarm_thresholds(&thresholds(&[97])).unwrap();
        board::holder("кэш").set(ByteSize::mib(3));
        board::holder("a\"b").set(ByteSize::mib(5));
        board::holder("a\\b").set(ByteSize::mib(2));
        board::holder("a name of more than forty-eight bytes, which is far too long").set(ByteSize::mib(1));
        board::holder("other").set(ByteSize::mib(4));
        drop(reserved(98 * MIB));
    });
    let alarms = alarms(&ended);
    let gauges = alarms[0]["gauges"].as_object().unwrap();
    let mut names: Vec<_> = gauges.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["a name of more than forty-eight bytes, which is ", "a?b", "a?b~2", "other", "кэш"]);
    assert_eq!((&gauges["a?b"], &gauges["a?b~2"]), (&(5 << 20).into(), &(2 << 20).into()));
}

fn a_signal_sent_kills_as_it_would_without_a_handler() {
    for refused in [false, true] {
        let ended = in_child(|| {
            monitor();
            if refused {
                heap::set_limit(ByteSize::mib(8)).unwrap();
                assert!(Vec::<u8>::new().try_reserve(20 << 20).is_err());
            }
            // SAFETY: sends a signal to this process.
            unsafe { libc::kill(libc::getpid(), libc::SIGABRT) };
            eprintln!("still alive");
        });
        assert_eq!(ended.signal, Some(libc::SIGABRT), "{}", ended.stderr);
        assert!(!ended.stderr.contains("still alive"));
    }
}

fn monitor() -> Monitor {
    Monitor::builder().memory_size(ByteSize::mib(1024)).install().unwrap()
}

fn die_over_a_refusal(backtrace: &str) {
    // SAFETY: the forked child has one thread.
    unsafe { std::env::set_var("RUST_BACKTRACE", backtrace) };
    let monitor = monitor();
    let _invocation = monitor.start("req-1\n\"forged\"");
    board::holder("orders").set(ByteSize::mib(3));
    let held = vec![1u8; 6 << 20];
    heap::set_limit(ByteSize::mib(8)).unwrap();
    assert!(Vec::<u8>::new().try_reserve(20 << 20).is_err(), "coped with, in silence");
    let refused = vec![0u8; std::hint::black_box(16 << 20)];
    drop((held, refused));
}

fn an_abort_over_a_refused_allocation_says_why() {
    let ended = in_child(|| die_over_a_refusal("0"));
    assert_eq!(ended.signal, Some(libc::SIGABRT), "{}", ended.stderr);
    let words = ended.stderr.lines().find(|line| line.starts_with("plimsoll abort report:")).expect(&ended.stderr);
    for part in [
        "failed allocations 2, largest 20.0 MiB",
        " limit 8.0 MiB | requests req-1forged | ",
        " gauges orders 3.0 MiB | unattributed 3.",
    ] {
        assert!(words.contains(part), "{part:?} in {words:?}");
    }
    assert_eq!(ended.stderr.matches("abort report").count(), 1, "said once");
}

fn abort_report_comes_with_a_backtrace_too() {
    let ended = in_child(|| die_over_a_refusal("1"));
    assert_eq!(ended.signal, Some(libc::SIGABRT), "{}", ended.stderr);
    assert!(ended.stderr.contains(", largest 20.0 MiB"), "{}", ended.stderr);
}

fn an_abort_without_a_refusal_says_nothing() {
    let ended = in_child(|| {
        monitor();
        std::process::abort();
    });
    assert_eq!(ended.signal, Some(libc::SIGABRT));
    // An emulator has a word of its own.
    let said: Vec<_> = ended.stderr.lines().filter(|line| !line.starts_with("qemu:")).collect();
    assert!(said.is_empty(), "{said:?}");
}

extern "C" fn earlier(signal: libc::c_int) {
    let errno = std::io::Error::last_os_error().raw_os_error();
    eprintln!("earlier handler: signal {signal} errno {errno:?}");
}

fn the_handler_before_ours_is_called_and_errno_kept() {
    let ended = in_child(|| {
        let handler: extern "C" fn(libc::c_int) = earlier;
        // SAFETY: the handler has the signature of one, and this child does nothing else with the signal.
        unsafe { libc::signal(libc::SIGABRT, handler as libc::sighandler_t) };
        monitor();
        monitor();
        heap::set_limit(ByteSize::mib(1)).unwrap();
        assert!(Vec::<u8>::new().try_reserve(20 << 20).is_err());
        // SAFETY: this thread's errno.
        unsafe { *libc::__errno_location() = 77 };
        // SAFETY: raises a signal in this process.
        unsafe { libc::raise(libc::SIGABRT) };
        eprintln!("survived under {:?}", heap::stats().unwrap().limit);
    });
    let (words, before) =
        (ended.stderr.find("abort report"), ended.stderr.find("earlier handler: signal 6 errno Some(77)"));
    assert!(words.is_some() && words < before, "{}", ended.stderr);
    assert!(ended.stderr.contains("survived under Some(ByteSize(1048576 B"), "the limit is back: {}", ended.stderr);
}
