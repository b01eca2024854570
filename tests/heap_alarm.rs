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
use support::{Block, in_child};

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

support::tests! {
    load_lines_must_rise,
    crossing_the_top_line_alarms_once_and_again_only_after_a_fall if cfg!(all(target_os = "linux", not(miri))), else "needs fork and the rss",
    the_alarm_comes_before_the_pages_are_touched if cfg!(all(target_os = "linux", not(miri))), else "needs fork and the rss",
    a_slow_leak_in_small_pieces_alarms if cfg!(all(target_os = "linux", not(miri))), else "needs fork and the rss",
    eight_threads_crossing_at_once_alarm_once if cfg!(all(target_os = "linux", not(miri))), else "needs fork and the rss",
    an_abort_over_a_refused_allocation_says_why if cfg!(all(unix, not(miri))), else "needs fork and signals",
    last_words_come_with_a_backtrace_too if cfg!(all(unix, not(miri))), else "needs fork and signals",
    an_abort_without_a_refusal_says_nothing if cfg!(all(unix, not(miri))), else "needs fork and signals",
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
        set_load_lines(&lines(&[50, 90]));
        assert_eq!(crossed_load_line(), None);
        board::holder("sessions \"quoted\"").set(ByteSize::mib(60));
        board::holder("index").set(ByteSize::mib(20));
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
    assert!(alarm["heap"].as_u64().unwrap() >= 95 << 20);
    assert!(alarm["rss"].as_u64().unwrap() > 0);
    assert_eq!(alarm["holders"]["sessions ?quoted?"], 60 << 20);
    assert_eq!(alarm["holders"]["index"], 20 << 20);
    let unaccounted = alarm["unaccounted"].as_u64().unwrap();
    assert!((15 << 20..17 << 20).contains(&unaccounted), "{unaccounted}");
}

fn the_alarm_comes_before_the_pages_are_touched() {
    let ended = in_child(|| {
        set_load_lines(&lines(&[97]));
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
            set_load_lines(&lines(&[70, 97]));
            let mut leaked = Vec::with_capacity((99 << 20) / piece);
            while leaked.len() < leaked.capacity() {
                leaked.push(Block::new(piece));
            }
        });
        assert_eq!(alarms(&ended.stderr).len(), 1, "in pieces of {piece}: {}", ended.stderr);
    }
}

fn eight_threads_crossing_at_once_alarm_once() {
    let ended = in_child(|| {
        set_load_lines(&lines(&[97]));
        let all = std::sync::Barrier::new(8);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    all.wait();
                    let blocks: Vec<Block> = (0..130).map(|_| Block::new(100_000)).collect();
                    all.wait();
                    drop(blocks);
                });
            }
        });
    });
    assert_eq!(alarms(&ended.stderr).len(), 1, "{}", ended.stderr);
}

fn monitor() -> Monitor {
    let monitor = Monitor::builder().memory_size(ByteSize::mib(1024)).build().unwrap();
    monitor.install().unwrap();
    monitor
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
        heap::clear_limit();
        // SAFETY: this thread's errno.
        unsafe { *libc::__errno_location() = 77 };
        // SAFETY: raises a signal in this process.
        unsafe { libc::raise(libc::SIGABRT) };
    });
    let (words, before) =
        (ended.stderr.find("last words"), ended.stderr.find("earlier handler: signal 6 errno Some(77)"));
    assert!(words.is_some() && words < before, "{}", ended.stderr);
}
