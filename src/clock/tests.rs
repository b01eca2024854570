//! The clock beside its definition, at the ends of its range, and between threads.

use std::sync::Barrier;
use std::sync::atomic::AtomicBool;
use std::thread;

use proptest::prelude::*;

use super::*;

const HOUR: Duration = Duration::from_hours(1);
const HOUR_MS: u64 = 3_600_000;
const TICK: Duration = Duration::from_millis(4);

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// The time by definition: every pair of readings kept, every lead worked out anew.
#[derive(Default)]
struct Twin {
    readings: Vec<(i128, i128)>,
    told: i128,
}

impl Twin {
    fn now(&mut self, monotonic: i128, wall: i128, refresh: bool) -> i128 {
        if refresh || self.readings.last().is_none_or(|&(last, _)| last != monotonic) {
            self.readings.push((monotonic, wall));
            let (first_monotonic, first_wall) = self.readings[0];
            let leads = self.readings.iter().map(|(m, w)| (w - first_wall) - (m - first_monotonic));
            let largest = leads.max().unwrap();
            self.told = self.told.max(monotonic + if largest >= 100 { largest } else { 0 });
        }
        self.told
    }
}

#[derive(Clone, Debug)]
enum Op {
    Advance(u64),
    Freeze(u64),
    WallBack(u64),
    MonotonicBack(u64),
    Now,
    Refresh,
}

fn op() -> impl Strategy<Value = Op> {
    let by = prop_oneof![0..5_u64, 90..110_u64, 0..10_000_u64];
    prop_oneof![
        3 => by.clone().prop_map(Op::Advance),
        2 => by.clone().prop_map(Op::Freeze),
        1 => by.clone().prop_map(Op::WallBack),
        1 => by.prop_map(Op::MonotonicBack),
        4 => Just(Op::Now),
        2 => Just(Op::Refresh),
    ]
}

proptest! {
    #[test]
    fn the_clock_tells_what_its_definition_tells(ops in prop::collection::vec(op(), 1..200)) {
        let manual = ManualClock::new();
        let clock = manual.clock();
        let mut twin = Twin::default();
        let hands = || (i128::from(manual.0.dial.monotonic()), i128::from(manual.0.dial.wall()));
        twin.now(hands().0, hands().1, true);
        for op in ops {
            match op {
                Op::Advance(by) => manual.advance(ms(by)),
                Op::Freeze(by) => manual.freeze(ms(by)),
                Op::WallBack(by) => manual.set_wall_back(ms(by)),
                Op::MonotonicBack(by) => manual.set_monotonic_back(ms(by)),
                Op::Now => {
                    let (monotonic, wall) = hands();
                    prop_assert_eq!(i128::from(clock.now()), twin.now(monotonic, wall, false));
                }
                Op::Refresh => {
                    let (monotonic, wall) = hands();
                    prop_assert_eq!(i128::from(clock.refresh()), twin.now(monotonic, wall, true));
                }
            }
        }
    }

    #[test]
    fn readings_at_the_ends_of_u64_neither_panic_nor_go_back(
        readings in prop::collection::vec((end(), end(), any::<bool>()), 1..50),
    ) {
        let core = Core::new();
        let mut last = 0;
        for (monotonic, wall, refresh) in readings {
            let hands = Dial(Mutex::new(Hands { monotonic, wall }));
            let now = if refresh { core.look(&hands) } else { core.now(&hands) };
            prop_assert!(now >= last, "{} after {}", now, last);
            last = now;
        }
    }
}

fn end() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        Just(1),
        Just(i64::MAX.unsigned_abs()),
        Just(i64::MIN.unsigned_abs()),
        Just(u64::MAX - 1),
        Just(u64::MAX),
        any::<u64>(),
    ]
}

#[test]
fn time_that_passes_on_both_clocks_passes_once() {
    let manual = ManualClock::new();
    let start = manual.clock().now();
    manual.advance(HOUR);
    assert_eq!(manual.clock().now() - start, HOUR_MS);
    assert_eq!(manual.clock().refresh() - start, HOUR_MS);
}

#[test]
fn a_freeze_of_99_ms_is_noise_and_one_of_100_ms_is_counted() {
    for (freeze, counted) in [(99, 0), (100, 100)] {
        let manual = ManualClock::new();
        let start = manual.clock().now();
        manual.freeze(ms(freeze));
        assert_eq!(manual.clock().refresh() - start, counted, "after a freeze of {freeze} ms");
    }
}

#[test]
fn short_freezes_count_once_they_add_up() {
    let manual = ManualClock::new();
    let start = manual.clock().now();
    manual.freeze(ms(60));
    assert_eq!(manual.clock().refresh() - start, 0);
    manual.freeze(ms(60));
    assert_eq!(manual.clock().refresh() - start, 120);
}

#[test]
fn a_freeze_is_noticed_at_the_next_tick_or_refresh() {
    let manual = ManualClock::new();
    let start = manual.clock().now();
    manual.freeze(HOUR);
    assert_eq!(manual.clock().now() - start, 0, "the tick is the same, so the wall is not read");
    manual.advance(TICK);
    assert_eq!(manual.clock().now() - start, HOUR_MS + 4);
    manual.freeze(HOUR);
    assert_eq!(manual.clock().refresh() - start, 2 * HOUR_MS + 4);
    assert_eq!(manual.clock().now() - start, 2 * HOUR_MS + 4, "what a refresh saw stays seen");
}

#[test]
fn a_wall_clock_set_back_an_hour_extends_nothing() {
    let manual = ManualClock::new();
    let start = manual.clock().now();
    manual.set_wall_back(HOUR);
    assert_eq!(manual.clock().refresh() - start, 0);
    manual.advance(ms(500));
    assert_eq!(manual.clock().now() - start, 500);
}

#[test]
fn after_a_step_back_the_lead_has_to_be_made_up_first() {
    let manual = ManualClock::new();
    let start = manual.clock().now();
    manual.set_wall_back(HOUR);
    manual.freeze(ms(HOUR_MS - 1));
    assert_eq!(manual.clock().refresh() - start, 0);
    manual.freeze(ms(101));
    assert_eq!(manual.clock().refresh() - start, 100);
}

#[test]
fn monotonic_jump_ahead_hides_pauses_up_to_its_length() {
    let manual = ManualClock::new();
    let start = manual.clock().now();
    // Ahead on the monotonic clock alone.
    manual.advance(HOUR);
    manual.set_wall_back(HOUR);
    assert_eq!(manual.clock().refresh() - start, HOUR_MS, "stamps expire early");
    manual.freeze(ms(HOUR_MS - 1));
    assert_eq!(manual.clock().refresh() - start, HOUR_MS);
    manual.freeze(ms(101));
    assert_eq!(manual.clock().refresh() - start, HOUR_MS + 100);
}

#[test]
fn a_snapshot_restored_on_a_younger_host_goes_on_from_the_time_it_had() {
    let manual = ManualClock::new();
    let start = manual.clock().now();
    manual.set_monotonic_back(HOUR);
    manual.freeze(ms(700));
    assert_eq!(manual.clock().refresh() - start, 700);
}

#[test]
fn time_stands_still_where_both_clocks_went_back() {
    let manual = ManualClock::new();
    let start = manual.clock().now();
    manual.set_monotonic_back(HOUR);
    manual.set_wall_back(HOUR);
    assert_eq!(manual.clock().refresh(), start);
    manual.advance(HOUR + ms(5));
    assert_eq!(manual.clock().now() - start, 5);
}

#[test]
fn the_hands_stop_at_the_ends() {
    let manual = ManualClock::new();
    manual.set_monotonic_back(Duration::MAX);
    manual.set_wall_back(Duration::MAX);
    assert_eq!((manual.0.dial.monotonic(), manual.0.dial.wall()), (0, 0));
    manual.advance(Duration::MAX);
    manual.advance(Duration::MAX);
    assert_eq!((manual.0.dial.monotonic(), manual.0.dial.wall()), (u64::MAX, u64::MAX));
    assert_eq!(manual.clock().now(), u64::MAX);
}

#[test]
fn a_thread_held_up_between_the_two_readings_makes_up_no_lead() {
    /// Loses an hour of both clocks between the reading of one and of the other, once.
    struct HeldUp {
        dial: Dial,
        armed: AtomicBool,
    }
    impl HeldUp {
        fn lose_an_hour_after(&self, reading: u64) -> u64 {
            if self.armed.swap(false, Ordering::Relaxed) {
                self.dial.turn(|hands| {
                    hands.monotonic += HOUR_MS;
                    hands.wall += HOUR_MS;
                });
            }
            reading
        }
    }
    impl Source for HeldUp {
        fn monotonic(&self) -> u64 {
            self.lose_an_hour_after(self.dial.monotonic())
        }
        fn wall(&self) -> u64 {
            self.lose_an_hour_after(self.dial.wall())
        }
    }
    for held_up_at_first in [false, true] {
        let source = HeldUp { dial: Dial::default(), armed: AtomicBool::new(held_up_at_first) };
        let core = Core::new();
        let start = core.look(&source);
        source.armed.store(!held_up_at_first, Ordering::Relaxed);
        let held_up = core.look(&source);
        let later = core.look(&source);
        assert_eq!(held_up - start, if held_up_at_first { 0 } else { HOUR_MS });
        assert_eq!(later, held_up, "no lead was made up");
        source.dial.turn(|hands| hands.wall += 100);
        assert_eq!(core.look(&source) - later, 100, "and the next true one is seen");
    }
}

#[test]
fn no_thread_ever_sees_time_go_back() {
    const READERS: usize = 8;
    const TURNS: u64 = 20_000;
    let manual = ManualClock::new();
    let start = manual.clock().now();
    let latest = AtomicU64::new(0);
    let moved = AtomicBool::new(false);
    let stop = AtomicBool::new(false);
    let ready = Barrier::new(READERS + 1);
    thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS)
            .map(|reader| {
                let (clock, latest, moved, stop, ready) = (manual.clock(), &latest, &moved, &stop, &ready);
                scope.spawn(move || {
                    ready.wait();
                    while !stop.load(Ordering::Relaxed) {
                        let told_before = latest.load(Ordering::Acquire);
                        let now = if reader == 0 { clock.refresh() } else { clock.now() };
                        assert!(now >= told_before, "{now} after {told_before}");
                        moved.fetch_or(now > told_before, Ordering::Relaxed);
                        latest.fetch_max(now, Ordering::Release);
                    }
                })
            })
            .collect();
        ready.wait();
        // On a busy machine the readers may not have run by then, and time goes on until they have.
        for turn in (0..1000 * TURNS).take_while(|&turn| turn < TURNS || !moved.load(Ordering::Relaxed)) {
            if turn >= TURNS {
                thread::yield_now();
            }
            match turn % 8 {
                0 => manual.freeze(ms(150)),
                3 => manual.set_wall_back(ms(120)),
                5 => manual.set_monotonic_back(ms(30)),
                _ => manual.advance(ms(turn % 300)),
            }
        }
        stop.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.join().unwrap();
        }
    });
    assert!(moved.into_inner(), "the readers never saw time move");
    assert!(manual.clock().refresh() > start);
}

#[test]
fn threads_that_read_while_time_passes_see_no_freeze() {
    const TURNS: u64 = 100_000;
    let manual = ManualClock::new();
    let start = manual.clock().now();
    let stop = AtomicBool::new(false);
    let looks = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..2 {
            let (clock, stop, looks) = (manual.clock(), &stop, &looks);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    clock.refresh();
                    looks.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let mut turns = 0;
        while turns < TURNS || looks.load(Ordering::Relaxed) < TURNS {
            manual.advance(ms(1_000));
            turns += 1;
        }
        stop.store(true, Ordering::Relaxed);
        assert_eq!(manual.clock().refresh() - start, turns * 1_000);
    });
}

#[test]
fn differences_are_kept_within_their_range_and_off_the_mark_for_none() {
    assert_eq!(difference(5, 3), 2);
    assert_eq!(difference(3, 5), -2);
    assert_eq!(difference(u64::MAX, 0), i64::MAX);
    assert_eq!(difference(0, u64::MAX), -i64::MAX);
    assert_eq!(difference(0, 1 << 63), -i64::MAX, "exactly the mark");
}

#[test]
fn the_system_clock_moves_and_is_one() {
    let before = Clock::system().now();
    while Clock::system().now() == before {
        thread::yield_now();
    }
    assert!(Clock::default().refresh() > before);
}

#[test]
fn clocks_can_be_shared_between_threads() {
    fn shared<T: Send + Sync + Clone + fmt::Debug>() {}
    shared::<Clock>();
    shared::<ManualClock>();
}
