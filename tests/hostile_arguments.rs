//! Arguments that nobody should give: zero, the largest there is, nothing, no number, names from hell. Each public part
//! either answers with an error or does what its documentation says of them; nothing panics, overflows or hangs.
//!
//! What caches and the readers of logs do with hostile input has tests of its own.
use std::convert::Infallible;
use std::ffi::OsString;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use plimsoll::budget::ReclaimPriority;
use plimsoll::stream::{BatchFailures, ChunkReader, Delimiter, LengthPrefix, LineReader, Oversize, RecordReader};
use plimsoll::{
    ByteDelta, ByteSize, Cache, Clock, HeapSize, LambdaEnv, LazyResource, ManualClock, MemoryBudget, Monitor,
    TrackingAllocator, board, heap, os,
};

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

/// The ends of the range, and what lies beside them.
const SIZES: [u64; 9] = [0, 1, 2, 1023, 1 << 31, i64::MAX as u64 - 1, i64::MAX as u64, i64::MAX as u64 + 1, u64::MAX];

const COUNTS: [usize; 5] = [0, 1, 2, usize::MAX - 1, usize::MAX];

const TIMES: [Duration; 4] = [Duration::ZERO, Duration::from_nanos(1), Duration::from_secs(1 << 40), Duration::MAX];

/// Names that end lines, forge them, need escapes, or are far too long.
fn names() -> impl Iterator<Item = &'static str> {
    let long: &'static str = "n\u{e4}me ".repeat(100_000).leak();
    ["", " ", "\n", "\"},{\"", "\\", "\u{0}", "\u{202e}\u{1f6a2}", "other", "-", long].into_iter()
}

fn sizes() -> impl Iterator<Item = ByteSize> {
    SIZES.into_iter().map(ByteSize::bytes)
}

#[test]
fn sizes_and_differences_stop_at_the_ends_of_their_range() {
    for a in sizes() {
        for b in sizes() {
            assert_eq!(a.checked_add(b).unwrap_or(ByteSize::MAX), a.saturating_add(b));
            assert_eq!(a.checked_sub(b).unwrap_or(ByteSize::ZERO), a.saturating_sub(b));
            assert_eq!(a.checked_mul(b.as_u64()).unwrap_or(ByteSize::MAX), a.saturating_mul(b.as_u64()));
            let delta = ByteDelta::between(a, b);
            assert!(delta.magnitude() <= ByteSize::bytes(1 << 63));
            assert!(!format!("{delta} {delta:?} {a:.40} {b:>60}").is_empty());
        }
        for percent in [0, 1, 100, 101, u32::MAX] {
            assert!(percent > 100 || a.percent(percent) <= a);
        }
        for make in [ByteSize::kib, ByteSize::mib, ByteSize::gib, ByteSize::kb, ByteSize::mb, ByteSize::gb] {
            assert!(make(a.as_u64()) >= a);
        }
        assert!(a.as_mib_f64().is_finite());
    }
    for n in [i64::MIN, i64::MIN + 1, -1, 0, 1, i64::MAX] {
        assert_eq!(ByteDelta::bytes(n).as_i64(), n);
        assert!(!ByteDelta::bytes(n).to_string().is_empty());
    }
}

#[test]
fn texts_that_are_no_sizes_are_errors_and_the_error_is_short() {
    let nines: &str = "9".repeat(100_000).leak();
    let zeros: &str = format!("0.{}1", "0".repeat(100_000)).leak();
    let texts =
        ["", " ", "-1", "+", ".", "e", "1e", "1e99999999999", "NaN", "inf", "0x10", "1 MiB MiB", "\u{ff11}", "1_000"];
    for text in texts.into_iter().chain([nines, zeros]).chain(names()) {
        match text.parse::<ByteSize>() {
            Ok(size) => assert!(size <= ByteSize::bytes(1), "{text:.20} is {size}"),
            Err(error) => assert!(error.to_string().len() < 300, "{error:.400}"),
        }
    }
}

#[test]
fn variables_of_any_kind_are_read_or_named_in_the_error() {
    let mut values: Vec<OsString> = names().map(OsString::from).collect();
    values.extend(
        ["0", "127", "128", "32768", "32769", "99999999999999999999", "-1", "1e3", " 128", "128 "].map(OsString::from),
    );
    #[cfg(unix)]
    values.push(std::os::unix::ffi::OsStringExt::from_vec(vec![0xff, 0xfe, b'1']));
    let variables = [
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
        "AWS_LAMBDA_FUNCTION_NAME",
        "AWS_LAMBDA_FUNCTION_VERSION",
        "AWS_LAMBDA_INITIALIZATION_TYPE",
        "AWS_LAMBDA_MAX_CONCURRENCY",
    ];
    let mut wrong = 0;
    for variable in variables {
        for value in &values {
            let lookup = |name: &str| match name {
                _ if name == variable => Some(value.clone()),
                "AWS_LAMBDA_FUNCTION_MEMORY_SIZE" => Some("128".into()),
                _ => None,
            };
            if let Err(error) = LambdaEnv::from_lookup(lookup) {
                wrong += 1;
                let said = error.to_string();
                assert!(said.contains(variable) && said.len() < 400 && !said.contains('\n'), "{said:?}");
            }
        }
    }
    assert!(wrong > 20, "{wrong} of them were wrong");
}

#[test]
fn clocks_are_turned_to_the_ends_of_time() {
    for by in TIMES {
        let manual = ManualClock::new();
        let clock = manual.clock();
        let mut last = clock.now();
        for turn in
            [ManualClock::advance, ManualClock::freeze, ManualClock::set_wall_back, ManualClock::set_monotonic_back]
        {
            for _ in 0..3 {
                turn(&manual, by);
                assert!(clock.now() >= last, "time went back");
                last = clock.refresh();
            }
        }
    }
}

#[test]
fn the_board_takes_any_name_and_any_figure() {
    for name in names() {
        let holder = board::holder(name);
        for size in sizes() {
            holder.set(size);
            holder.add(size);
            holder.sub(size);
            holder.sub(size);
            assert!(holder.bytes() <= ByteSize::bytes(1 << 63));
        }
        holder.set(ByteSize::ZERO);
    }
    for n in 0..2 * board::SLOTS {
        board::holder(format!("hostile {n}").leak()).set(ByteSize::ZERO);
    }
    assert!(board::holders().count() <= board::SLOTS + 1);
}

#[test]
fn what_is_weighed_may_be_nothing_or_deep() {
    let mut deep: Box<Vec<Box<[String]>>> = Box::default();
    assert_eq!(deep.heap_size(), size_of::<Vec<Box<[String]>>>());
    deep.push(Box::from([]));
    assert!(deep.heap_size() >= size_of::<Box<[String]>>());
    assert_eq!(Duration::MAX.heap_size(), 0);
}

#[test]
fn alarm_thresholds_rise_or_are_an_error() {
    for size in sizes() {
        for share in sizes() {
            let lines = heap::AlarmThresholds::new(size).environment_share(share);
            assert!(lines.capacity() <= size);
            for percents in [&[][..], &[0], &[1], &[100], &[101], &[255], &[50, 50], &[90, 80], &[1, 2, 3, 4, 5]] {
                match lines.with_percents(percents) {
                    Ok(lines) => assert!(lines.percents().eq(percents.iter().copied())),
                    Err(error) => assert!(!error.to_string().is_empty()),
                }
            }
            (0..=255).for_each(|percent| assert!(percent > 100 || lines.threshold(percent) <= lines.capacity()));
        }
    }
}

#[test]
fn a_heap_limit_of_all_there_is_holds_nothing_back() {
    heap::set_limit(ByteSize::MAX).unwrap();
    assert_eq!(heap::stats().unwrap().limit, None);
    assert!(Vec::<u8>::new().try_reserve(usize::MAX).is_err());
    assert!(Vec::<u8>::new().try_reserve(isize::MAX as usize).is_err());
    heap::clear_limit();
    let ((), delta) = heap::scope(|| ());
    assert_eq!(delta.unwrap(), heap::scope(|| ()).1.unwrap());
    assert!(heap::highest_crossed_threshold().is_none_or(|percent| percent <= 100));
    assert!(os::trim().is_ok() || cfg!(not(target_env = "gnu")));
}

#[test]
fn budgets_of_any_size_grant_no_more_than_they_have() {
    for limit in sizes() {
        for given in sizes() {
            let built = MemoryBudget::builder().limit(limit).environment_share(given).margin(given).build();
            let budget = built.unwrap();
            assert!(budget.available() <= limit);
            let account = budget.account("hostile").unwrap();
            assert_eq!(account.set_minimum(given).is_ok(), given <= limit && i64::try_from(given.as_u64()).is_ok());
            account.set_minimum(ByteSize::ZERO).unwrap();
            if let Ok(reserved) = account.try_reserve(given) {
                assert!(given <= limit || given == ByteSize::ZERO, "{given} of {limit}");
                drop(reserved);
            }
            let mut booked = account.reserve(given);
            booked.grow(given);
            assert!(i64::try_from(budget.reserved().as_u64()).is_ok());
            let _refused_or_not =
                (booked.try_grow(given), booked.try_resize(given), booked.try_grow_without_reclaim(given));
            assert!(booked.split(ByteSize::MAX).is_none() || booked.size() == ByteSize::ZERO);
            assert!(booked.shrink(ByteSize::MAX) <= ByteSize::MAX);
            assert_eq!(budget.reserved(), ByteSize::ZERO);
            assert_eq!(budget.reclaim(ReclaimPriority::new(255), ByteSize::MAX), ByteSize::ZERO);
            assert!(budget.reclaim_overdraft());
        }
    }
    for (high, critical) in [(0, 0), (0, 1), (1, 0), (50, 50), (99, 100), (100, 101), (255, 255)] {
        let built = MemoryBudget::builder().limit(ByteSize::mib(1)).pressure_thresholds(high, critical).build();
        assert_eq!(built.is_ok(), 0 < high && high < critical && critical <= 100, "{high} {critical}");
    }
    let budget = MemoryBudget::new(ByteSize::kib(1));
    for name in names() {
        let account = budget.account(name).unwrap();
        let refused = account.try_reserve(ByteSize::MAX).unwrap_err();
        assert_eq!(refused.requested(), ByteSize::MAX);
    }
}

#[test]
fn caches_of_any_bound_are_built_or_say_why_not() {
    for entries in COUNTS {
        for bytes in sizes() {
            for time in TIMES {
                let built = Cache::<String, String>::builder("hostile")
                    .max_entries(entries)
                    .max_bytes(bytes)
                    .reserve_per_load(bytes)
                    .time_to_live(time)
                    .time_to_idle(time)
                    .build();
                let Ok(cache) = built else {
                    assert!(time < plimsoll::clock::RESOLUTION);
                    continue;
                };
                for key in ["", "k"] {
                    let inserted = cache.insert(key.to_owned(), "v".repeat(100));
                    assert_eq!(inserted.is_ok(), cache.contains_key(key), "{entries} {bytes}");
                    let _in_or_not = cache.insert_with_ttl(key.to_owned(), String::new(), time);
                    let loaded = cache.try_get_or_load(key, |_| Ok::<_, Infallible>("loaded".to_owned()));
                    assert!(loaded.is_ok(), "{entries} {bytes}");
                }
                assert!(cache.len() <= entries && cache.stats().bytes <= bytes);
                cache.set_max_entries(usize::MAX);
                cache.set_max_bytes(ByteSize::MAX);
                cache.set_max_entries(0);
                cache.set_max_bytes(ByteSize::ZERO);
                assert!(cache.is_empty());
                assert_eq!((cache.remove_expired(0), cache.remove_expired(usize::MAX)), (0, 0));
                assert_eq!(cache.evict_to(ByteSize::MAX), ByteSize::ZERO);
            }
        }
    }
}

#[test]
fn readers_of_any_limit_read_to_the_end_or_are_not_built() {
    let input: &[u8] = b"one\n\n\0\0\0\x03abc\xff\xff\xff\xffthe rest";
    for max in sizes() {
        for oversize in [Oversize::Error, Oversize::Truncate, Oversize::Skip] {
            for chunk in [0, 1, 7, 4096] {
                for resume in [0, 1, u64::MAX] {
                    let framings = (LineReader::builder(max), RecordReader::framed(LengthPrefix::big_endian(), max));
                    let delimited = RecordReader::framed(Delimiter::string(b"\n\n").unwrap(), max);
                    macro_rules! run {
                        ($builder:expr) => {
                            let built = $builder
                                .oversize(oversize)
                                .chunk(ByteSize::bytes(chunk))
                                .resume_at(resume)
                                .build(input);
                            assert_eq!(built.is_err(), chunk == 0);
                            if let Ok(mut records) = built {
                                let mut calls = 0;
                                while !matches!(records.next_record(), Ok(None)) {
                                    calls += 1;
                                    assert!(calls < 1_000, "no end");
                                }
                                assert!(records.stats().records <= 10);
                            }
                        };
                    }
                    run!(framings.0);
                    run!(framings.1);
                    run!(delimited);
                }
            }
        }
    }
    assert!(Delimiter::string(&[]).is_none() && Delimiter::string(&[0; Delimiter::MAX_LEN + 1]).is_none());
    assert!(ChunkReader::builder(ByteSize::ZERO).build(input).is_err());
    let mut chunks = ChunkReader::builder(ByteSize::bytes(1)).build(input).unwrap();
    let mut bytes = 0;
    while let Some(chunk) = chunks.next_chunk().unwrap() {
        bytes += chunk.len();
    }
    assert_eq!(bytes, input.len());
}

#[test]
fn deadlines_and_progress_of_any_kind_let_a_reader_go_on() {
    let epoch = SystemTime::UNIX_EPOCH;
    let far = epoch + Duration::from_secs(1 << 50);
    let before = epoch - Duration::from_secs(1 << 40);
    for deadline in [epoch, far, before] {
        for every in sizes() {
            let built = LineReader::builder(ByteSize::kib(1))
                .deadline(deadline)
                .on_progress(every, |progress| assert!(progress.next_number >= 1))
                .build(&b"a\nb\n"[..]);
            let mut lines = built.unwrap();
            while lines.next_record().unwrap().is_some() {}
            assert_eq!(lines.stats().records, 2);
        }
    }
}

#[test]
fn parallel_runs_of_any_number_of_workers_end() {
    for workers in COUNTS {
        let lines = LineReader::builder(ByteSize::kib(1)).build(&b"a\nb\n\n"[..]).unwrap();
        let mut sum = 0;
        let report =
            lines.into_parallel(workers).map(|line| Ok::<_, Infallible>(line.len())).for_each_in_order(|len| {
                sum += len;
                Ok::<(), Infallible>(())
            });
        assert_eq!((report.unwrap().records, sum), (3, 2), "{workers} workers");
    }
}

#[test]
fn batches_keep_their_bound_whatever_fails() {
    for bound in sizes() {
        let mut failures = BatchFailures::new(bound);
        for name in names() {
            failures.note(name, &Err::<(), _>(name));
        }
        assert_eq!(failures.len(), names().count() as u64);
        assert_eq!(failures.to_sqs().is_some(), failures.is_complete());
        assert!(!failures.to_string().contains('\n') || bound == ByteSize::ZERO || failures.is_complete());
    }
}

#[test]
fn resources_of_any_settings_load_or_say_why_not() {
    for time in TIMES {
        for size in sizes() {
            for idle in [0, 1, u64::MAX] {
                let manual = ManualClock::new();
                let resource = LazyResource::capturing("\n\"hostile\"", || Ok::<_, Infallible>(vec![0_u8; 10]))
                    .expecting(size)
                    .retry_after(time, Duration::ZERO)
                    .refresh_after(time)
                    .idle_after(idle)
                    .rank(ReclaimPriority::new(0))
                    .clock(manual.clock());
                assert_eq!(resource.unload(), None);
                assert!(resource.get().is_ok());
                manual.advance(time);
                assert!(resource.get().is_ok());
                assert!(resource.status().loads >= 1);
                assert!(!resource.status().to_string().is_empty());
            }
        }
    }
    let broken = LazyResource::capturing("broken", || Err::<u8, _>(io::Error::other("\n".repeat(10_000))))
        .retry_after(Duration::ZERO, Duration::MAX);
    for _ in 0..100 {
        assert!(broken.get().is_err());
    }
    assert_eq!(broken.status().failed_attempts, 100, "zero tries again at each call");
}

#[test]
fn monitors_of_any_settings_are_built_or_say_why_not() {
    use plimsoll::monitor::{Remedy, ReportPolicy, RequestId, TrimPolicy};
    for size in sizes() {
        for window in COUNTS {
            let monitor = Monitor::builder()
                .memory_size(size)
                .environment_share(size)
                .retaining_over(size)
                .window(window)
                .trim(TrimPolicy::new().beyond_heap(u32::MAX).share_of_time(u32::MAX))
                .report(ReportPolicy::Off)
                .clock(Clock::system())
                .build()
                .unwrap();
            for name in names() {
                let report = monitor.start(name).finish();
                let line = report.to_string();
                assert!(line.len() < 1_000 && !line.contains('\n'), "{line:?}");
                assert!(report.recommended_mb().is_none_or(|mb| mb >= 128));
                let _shown = (report.percent(), report.drift());
            }
            let _dropped = monitor.start("unfinished");
            assert!(!monitor.snapshot().to_string().is_empty());
        }
    }
    assert!(Monitor::builder().memory_size(ByteSize::mib(128)).alarm_thresholds(&[]).build().is_err());
    assert!(Monitor::builder().memory_size(ByteSize::mib(128)).alarm_thresholds(&[200]).build().is_err());
    for text in
        ["", "every:", "every:-1", "every:99999999999999999999", "every(1)", "each,off"].into_iter().chain(names())
    {
        assert!(text.parse::<ReportPolicy>().is_err_and(|error| error.to_string().len() < 300), "{text:.30}");
    }
    for name in names() {
        assert!(RequestId::new(name).as_str().len() <= 64);
    }
    assert!(!Remedy::Trim.to_string().is_empty());
}

#[cfg(feature = "emf")]
#[test]
fn metrics_with_names_that_cloudwatch_would_drop_are_not_made() {
    use plimsoll::monitor::Emf;
    for name in names() {
        let made = Emf::new(name);
        assert_eq!(made.is_ok(), ["\"},{\"", "\\", "other", "-"].contains(&name), "{name:.30}");
        let spaced = Emf::new("f").unwrap().namespace(name);
        assert_eq!(spaced.is_ok(), ["\"},{\"", "\\", "other", "-"].contains(&name), "{name:.30}");
        if let Ok(emf) = made {
            let monitor = Monitor::builder()
                .memory_size(ByteSize::mib(128))
                .report(plimsoll::monitor::ReportPolicy::Off)
                .build()
                .unwrap();
            let report = monitor.start(name).finish();
            let line = emf.line(&report).to_string();
            assert!(serde_json::from_str::<serde_json::Value>(&line).is_ok(), "{line}");
        }
    }
}

#[cfg(feature = "tower")]
#[tokio::test]
async fn an_admission_of_any_floor_admits_or_answers() {
    use plimsoll::AdmissionLayer;
    use tower::{Layer, ServiceExt, service_fn};
    for limit in sizes() {
        for floor in sizes() {
            let budget = MemoryBudget::new(limit);
            let service =
                AdmissionLayer::new(&budget, floor).unwrap().layer(service_fn(async |n: u64| Ok::<_, Infallible>(n)));
            let answer = service.oneshot(7).await;
            assert_eq!(answer.is_ok(), floor <= limit && i64::try_from(floor.as_u64()).is_ok(), "{floor} of {limit}");
            assert_eq!(budget.reserved(), ByteSize::ZERO);
        }
    }
}

#[cfg(feature = "gzip")]
#[test]
fn gzip_that_is_none_or_too_much_is_an_error() {
    use std::io::{Read, Write};
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(&vec![0; 1 << 20]).unwrap();
    let bomb = encoder.finish().unwrap();
    for bound in sizes() {
        for input in [&b""[..], &b"\x1f"[..], &b"\x1f\x8b\x08\x00"[..], &bomb[..100], &bomb] {
            let mut reader = plimsoll::stream::GzipReader::new(input, bound);
            let mut out = Vec::new();
            let read = reader.read_to_end(&mut out);
            assert!(out.len() as u64 <= bound.as_u64());
            assert!(read.is_err() || out.is_empty() || out.len() == 1 << 20);
        }
    }
}

#[cfg(feature = "sizing")]
#[test]
fn figures_that_are_no_numbers_choose_nothing() {
    use plimsoll::sizing::{
        Architecture, Dollars, GbSeconds, Point, Pricing, Profile, ReportLine, Sizing, Strategy, Value,
        billed_duration, cpu_share, plateau, select, trimmed_mean,
    };
    let odd = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 0.0, f64::MIN, f64::MAX, f64::MIN_POSITIVE, 1.0];
    let mut points = Vec::new();
    for cost in odd {
        for duration in odd {
            points.push(Point { memory_size: ByteSize::mib(128 + points.len() as u64), cost, duration });
        }
    }
    for weight in odd {
        for strategy in [Strategy::Cost, Strategy::Speed, Strategy::Balanced(weight)] {
            let chosen = select(&points, strategy).unwrap();
            assert!(chosen.cost.is_finite() && chosen.duration.is_finite() && chosen.duration > 0.0);
        }
        let mut values = odd;
        let _mean = trimmed_mean(&mut values, weight);
        assert_eq!(trimmed_mean(&mut [], weight), None);
    }
    assert!(select(&[], Strategy::Cost).is_none() && plateau(&[], 0).is_none());
    for gain in [0, 1, 100, u32::MAX] {
        assert!(plateau(&points, gain).is_some_and(|point| point.duration.is_finite()));
    }
    for pair in points.windows(2) {
        let _any = Value::of(&pair[0], &pair[1]);
    }
    for size in sizes() {
        for time in TIMES {
            let run = GbSeconds::new(size, time).saturating_mul(u64::MAX).saturating_add(GbSeconds::new(size, time));
            let pricing = Pricing::flat(Architecture::Arm, "", Dollars::from_trillionths(u64::MAX), Dollars::ZERO);
            let cost = pricing.with_free_tier().month(u64::MAX, run);
            assert!(!format!("{run} {} {}", cost.total(), run.mean(0)).is_empty());
            assert!(billed_duration(time, time) >= time.min(Duration::from_millis(u64::MAX)));
        }
        assert!(cpu_share(size) >= 0.0);
    }
    let sizing = Sizing::new(Pricing::us_east_1(Architecture::X86)).min_gain(u32::MAX);
    #[expect(clippy::reversed_empty_ranges, reason = "that is what is tested")]
    for headroom in [0..=0, 0..=u32::MAX, u32::MAX..=u32::MAX, 5..=1] {
        let mut profile = Profile::new();
        assert!(sizing.clone().headroom(headroom.clone()).recommend(&profile).is_err());
        let line = "REPORT RequestId: 1\tDuration: 1.00 ms\tMemory Size: 128 MB\tMax Memory Used: 128 MB";
        profile.add(&ReportLine::parse(line.as_bytes()).unwrap());
        let _any = sizing.clone().headroom(headroom).recommend(&profile).map(|advice| advice.to_string());
    }
    for line in [&b""[..], b"REPORT", b"REPORT RequestId:", &b"[".repeat(100_000), &[0xff; 1000]] {
        assert!(ReportLine::parse(line).is_none());
    }
}

#[test]
fn hostile_values_come_back_in_the_error() {
    let cache: Cache<Arc<str>, Vec<u8>> = Cache::builder("small").max_bytes(ByteSize::kib(4)).build().unwrap();
    let (key, value) = cache.insert("k".into(), vec![7; 1 << 20]).unwrap_err().into_entry();
    assert_eq!((&*key, value.len()), ("k", 1 << 20));
}
