//! The alarm before a kill, and the last words of an abort: what is said, when, and how often.

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

use plimsoll::heap::{LoadLines, LoadLinesError, crossed_load_line, set_load_lines};
use plimsoll::{ByteSize, Monitor, TrackingAllocator, board, heap};
use support::{Block, in_child, lean};

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

support::tests! {
    load_lines_must_rise,
    crossing_the_top_line_alarms_once_and_again_only_after_a_fall if lean(), else "needs fork and an rss that is this program's own",
    memory_that_the_heap_kept_after_a_fall_counts_from_the_next_mib_on if lean(), else "needs fork and an rss that is this program's own",
    what_the_rss_has_beside_the_heap_counts_for_what_is_not_touched_yet if lean(), else "needs fork and an rss that is this program's own",
    a_request_that_comes_to_nothing_leaves_no_flag_and_no_deaf_alarm if cfg!(all(target_os = "linux", not(miri))), else "needs fork and the rss",
    a_flag_of_a_small_function_falls_in_time if lean(), else "needs fork and an rss that is this program's own",
    names_are_cut_and_keep_their_letters if cfg!(all(target_os = "linux", not(miri))), else "needs fork and the rss",
    the_alarm_comes_before_the_pages_are_touched if lean(), else "needs fork and an rss that is this program's own",
    a_slow_leak_in_small_pieces_alarms if cfg!(all(target_os = "linux", not(miri))), else "needs fork and the rss",
    eight_threads_crossing_at_once_alarm_once if cfg!(all(target_os = "linux", not(miri))), else "needs fork and the rss",
    an_abort_over_a_refused_allocation_says_why if cfg!(all(unix, not(miri))), else "needs fork and signals",
    last_words_come_with_a_backtrace_too if cfg!(all(unix, not(miri))), else "needs fork and signals",
    an_abort_without_a_refusal_says_nothing if cfg!(all(unix, not(miri))), else "needs fork and signals",
    a_signal_sent_kills_as_it_would_without_a_handler if cfg!(all(unix, not(miri))), else "needs fork and signals",
    the_handler_before_ours_is_called_and_errno_kept if cfg!(all(unix, not(miri))), else "needs fork and signals",
}

fn lines(percents: &[u8]) -> LoadLines {
    LoadLines::new(ByteSize::mib(100)).environment_share(ByteSize::ZERO).percents(percents).unwrap()
}

fn alarms(stderr: &str) -> Vec<serde_json::Value> {
    stderr.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

fn load_lines_must_rise() {
    let lines = LoadLines::new(ByteSize::mib(128));
    assert_eq!(lines.levels().collect::<Vec<_>>(), [70, 90, 97]);
    assert_eq!(lines.capacity(), ByteSize::mib(116));
    assert!(matches!(lines.percents(&[]), Err(LoadLinesError::Count { count: 0, .. })));
    assert!(matches!(lines.percents(&[1, 2, 3, 4, 5]), Err(LoadLinesError::Count { count: 5, .. })));
    for bad in [[0, 50], [50, 50], [60, 50], [50, 101]] {
        assert!(matches!(lines.percents(&bad), Err(LoadLinesError::NotRising { .. })), "{bad:?}");
    }
    assert_eq!(LoadLines::new(ByteSize::mib(5)).capacity(), ByteSize::ZERO, "no room beside the environment");
}

fn crossing_the_top_line_alarms_once_and_again_only_after_a_fall() {
    let ended = in_child(|| {
        set_load_lines(&lines(&[50, 90])).unwrap();
        assert_eq!(crossed_load_line(), None);
        board::holder("sessions \"quoted\"").set(ByteSize::mib(35));
        board::holder("index").set(ByteSize::mib(10));
        let half = Block::new(60 << 20);
        assert_eq!(crossed_load_line(), Some(50));
        let rest = Block::new(35 << 20);
        assert_eq!(crossed_load_line(), Some(90));
        // About the line, up and down: no new crossing.
        for _ in 0..50 {
            drop(Block::new(3 << 20));
        }
        drop(rest);
        assert_eq!(crossed_load_line(), Some(50));
        let rest = Block::new(35 << 20);
        drop((half, rest));
        assert_eq!(crossed_load_line(), None);
    });
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let alarms = alarms(&ended.stderr);
    assert_eq!(alarms.len(), 2, "{}", ended.stderr);
    let alarm = &alarms[0];
    assert_eq!(alarm["plimsoll"], "alarm");
    assert_eq!(alarm["load_line_percent"], 90);
    assert_eq!(alarm["memory_size"], 100 << 20);
    let (heap, requested) = (alarm["heap"].as_u64().unwrap(), alarm["requested"].as_u64().unwrap());
    assert!(heap >> 20 == 60 && requested == 35 << 20, "before the request is served: {alarm}");
    assert!(alarm["rss"].as_u64().unwrap() > 0);
    assert_eq!(alarm["holders"]["sessions ?quoted?"], 35 << 20);
    assert_eq!(alarm["holders"]["index"], 10 << 20);
    let unaccounted = alarm["unaccounted"].as_u64().unwrap();
    assert!((15 << 20..17 << 20).contains(&unaccounted), "{unaccounted}");
}

/// Memory that the kernel counts and the ledger does not, as a C library's.
fn beside_the_heap(bytes: usize) {
    let layout = std::alloc::Layout::from_size_align(bytes, 4096).unwrap();
    // SAFETY: the size is not zero.
    let block = unsafe { std::alloc::GlobalAlloc::alloc(&std::alloc::System, layout) };
    // SAFETY: the block has so many bytes, and is never freed.
    unsafe { block.write_bytes(1, bytes) };
}

fn memory_that_the_heap_kept_after_a_fall_counts_from_the_next_mib_on() {
    let ended = in_child(|| {
        set_load_lines(&lines(&[97])).unwrap();
        drop(Block::new(80 << 20));
        beside_the_heap(99 << 20);
        assert_eq!(crossed_load_line(), None, "nobody looked");
        // Far below the line of before: the next MiB or two see it.
        let _more: Vec<Block> = (0..20).map(|_| Block::new(100_000)).collect();
        assert_eq!(crossed_load_line(), Some(97));
    });
    assert_eq!((ended.code, alarms(&ended.stderr).len()), (Some(0), 1), "{}", ended.stderr);
}

fn what_the_rss_has_beside_the_heap_counts_for_what_is_not_touched_yet() {
    let ended = in_child(|| {
        beside_the_heap(30 << 20);
        set_load_lines(&lines(&[97])).unwrap();
        let first = Block::with(45 << 20, 1, true);
        assert_eq!(crossed_load_line(), None);
        let second = Block::with(45 << 20, 1, true);
        assert_eq!(crossed_load_line(), Some(97), "30 + 45 + 45 of 100");
        drop((first, second));
    });
    assert_eq!((ended.code, alarms(&ended.stderr).len()), (Some(0), 1), "{}", ended.stderr);
}

fn a_request_that_comes_to_nothing_leaves_no_flag_and_no_deaf_alarm() {
    for limit in [None, Some(ByteSize::mib(1 << 40))] {
        let ended = in_child(|| {
            set_load_lines(&lines(&[97])).unwrap();
            if let Some(limit) = limit {
                heap::set_limit(limit).unwrap();
            }
            assert!(Vec::<u8>::new().try_reserve(1 << 47).is_err());
            assert_eq!(crossed_load_line(), None);
            let _most = Block::new(98 << 20);
            assert_eq!(crossed_load_line(), Some(97));
        });
        assert_eq!((ended.code, alarms(&ended.stderr).len()), (Some(0), 1), "{limit:?}: {}", ended.stderr);
    }
}

fn a_flag_of_a_small_function_falls_in_time() {
    let ended = in_child(|| {
        // A twentieth of 90 % is less than the MiB after which the rss is read anew.
        let lines = LoadLines::new(ByteSize::mib(16)).environment_share(ByteSize::ZERO).percents(&[90]).unwrap();
        set_load_lines(&lines).unwrap();
        let most = Block::new(12 << 20);
        for _ in 0..3 {
            let over = Block::new(4 << 20);
            assert_eq!(crossed_load_line(), Some(90));
            drop(over);
            assert_eq!(crossed_load_line(), None);
        }
        drop(most);
    });
    assert_eq!((ended.code, alarms(&ended.stderr).len()), (Some(0), 3), "{}", ended.stderr);
}

fn names_are_cut_and_keep_their_letters() {
    let ended = in_child(|| {
        set_load_lines(&lines(&[97])).unwrap();
        board::holder("кэш").set(ByteSize::mib(3));
        board::holder("лог\n{}").set(ByteSize::mib(2));
        board::holder("a name of more than forty-eight bytes, which is far too long").set(ByteSize::mib(1));
        board::holder("other").set(ByteSize::mib(4));
        drop(Block::new(98 << 20));
    });
    let said = alarms(&ended.stderr);
    let holders = said[0]["holders"].as_object().unwrap();
    let mut names: Vec<_> = holders.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["a name of more than forty-eight bytes, which is ", "other", "кэш", "лог?{}"]);
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

fn the_alarm_comes_before_the_pages_are_touched() {
    let ended = in_child(|| {
        set_load_lines(&lines(&[97])).unwrap();
        let untouched = Block::with(98 << 20, 1, true).unwrap();
        eprintln!(r#"{{"after":"the request"}}"#);
        drop(untouched);
    });
    let said = alarms(&ended.stderr);
    assert_eq!(said.len(), 2, "{}", ended.stderr);
    assert_eq!(said[0]["plimsoll"], "alarm");
    assert!(said[0]["rss"].as_u64().unwrap() < 50 << 20, "the kernel has not counted it yet");
}

fn a_slow_leak_in_small_pieces_alarms() {
    for piece in [100, 5_000, 200_000] {
        let ended = in_child(|| {
            set_load_lines(&lines(&[70, 97])).unwrap();
            let mut leaked = Vec::with_capacity((99 << 20) / piece);
            while leaked.len() < leaked.capacity() {
                leaked.push(Block::new(piece));
            }
        });
        assert_eq!(alarms(&ended.stderr).len(), 1, "in pieces of {piece}: {}", ended.stderr);
    }
}

fn eight_threads_crossing_at_once_alarm_once() {
    for (count, size) in [(130, 100_000), (2, 7 << 20)].into_iter().cycle().take(20) {
        let ended = in_child(|| {
            set_load_lines(&lines(&[97])).unwrap();
            let all = std::sync::Barrier::new(8);
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| {
                        all.wait();
                        let blocks: Vec<Block> = (0..count).map(|_| Block::new(size)).collect();
                        all.wait();
                        drop(blocks);
                    });
                }
            });
        });
        assert_eq!(alarms(&ended.stderr).len(), 1, "{count} of {size}: {}", ended.stderr);
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
    let words = ended.stderr.lines().find(|line| line.starts_with("plimsoll last words:")).expect(&ended.stderr);
    for part in ["req-1forged 2 refused, the largest 20.0 MiB", "limit 8.0 MiB |", " orders 3.0 MiB unaccounted 3."] {
        assert!(words.contains(part), "{part:?} in {words:?}");
    }
    assert_eq!(ended.stderr.matches("last words").count(), 1, "said once");
}

fn last_words_come_with_a_backtrace_too() {
    let ended = in_child(|| die_over_a_refusal("1"));
    assert_eq!(ended.signal, Some(libc::SIGABRT), "{}", ended.stderr);
    assert!(ended.stderr.contains("the largest 20.0 MiB"), "{}", ended.stderr);
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
        (ended.stderr.find("last words"), ended.stderr.find("earlier handler: signal 6 errno Some(77)"));
    assert!(words.is_some() && words < before, "{}", ended.stderr);
    assert!(ended.stderr.contains("survived under Some(ByteSize(1048576 B"), "the limit is back: {}", ended.stderr);
}
