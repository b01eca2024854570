//! Simulated environments, with a leak and without, and the share that the verdict gets right.
#![expect(clippy::print_stdout, reason = "the shares are worth reading, with `--nocapture`")]

use super::super::Remedy;
use super::*;

const KIB: f64 = 1024.0;
const MIB: f64 = 1024.0 * KIB;

/// The capacity of a function of 128 MB, and the limit of the kernel.
const CAPACITY: f64 = 116.0 * MIB;
const LIMIT: f64 = 128.0 * MIB;

/// Finds nothing beyond the heap.
fn quiet() -> Retention {
    Retention::for_test(u64::MAX)
}

/// xorshift64*, and what follows from it.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        // Seeds that resemble each other start alike.
        (0..8).for_each(|_| assert!(random.unit() < 1.0));
        random
    }

    fn unit(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        bytes(self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) / bytes(1 << 53)
    }

    fn uniform(&mut self, from: f64, to: f64) -> f64 {
        from + (to - from) * self.unit()
    }

    /// As likely in each octave.
    fn octaves(&mut self, from: f64, to: f64) -> f64 {
        self.uniform(from.ln(), to.ln()).exp()
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(whole(self.unit() * real(bound))).unwrap()
    }

    fn normal(&mut self) -> f64 {
        let far = (-2.0 * self.unit().max(1e-300).ln()).sqrt();
        far * (std::f64::consts::TAU * self.unit()).cos()
    }
}

/// The live heap and its resident part, after a number of invocations.
type Shape = Box<dyn FnMut(f64) -> (f64, f64)>;

fn same(mut shape: impl FnMut(f64) -> f64 + 'static) -> Shape {
    Box::new(move |time| {
        let level = shape(time);
        (level, level)
    })
}

/// An environment: a shape, requests in flight that hold memory, and noise.
struct Environment {
    base: f64,
    in_flight: usize,
    /// The most bytes that a request holds while it is in flight.
    each: f64,
    noise: f64,
    random: Random,
}

/// The end of a simulated environment.
#[derive(Debug, Default)]
struct End {
    /// Invocations, up to the kill if there was one.
    invocations: u64,
    is_killed: bool,
    /// After which invocation it was first called growing.
    growing: Option<u64>,
    verdicts: Vec<LeakVerdict>,
}

impl End {
    /// Invocations from the verdict to the kill.
    fn warned(&self) -> Option<u64> {
        Some(self.invocations - self.growing?)
    }
}

impl Environment {
    /// Runs for `life` invocations or up to the kill. Requests end in the order of their starts.
    fn run(mut self, mut shape: Shape, life: u64) -> End {
        let mut watch = LeakWatch::new(true);
        let mut end = End::default();
        let mut held: Vec<f64> = Vec::new();
        let next = |random: &mut Random| self.each * random.unit();
        held.extend((0..self.in_flight - 1).map(|_| next(&mut self.random)));
        let mut floor = f64::INFINITY;
        for ended in 1..=life {
            let (held_for_good, resident) = shape(real(usize::try_from(ended).unwrap()));
            let noise = (self.noise * self.random.normal()).abs();
            let at_end = self.base + noise + held.iter().sum::<f64>();
            held.push(next(&mut self.random));
            let at_start = self.base + noise + held.iter().sum::<f64>();
            held.remove(0);
            floor = floor.min(at_end + held_for_good).min(at_start + held_for_good);
            let rss = at_start + resident + 4.0 * MIB;
            end.invocations = ended;
            if rss > LIMIT {
                end.is_killed = true;
                return end;
            }
            let rss = ByteSize::bytes(whole(rss));
            let left = Left {
                live: whole(at_end + held_for_good),
                floor: whole(if self.in_flight == 1 { at_end + held_for_good } else { floor }),
                explained: 0,
                rss: Some(os::Rss { total: rss, anonymous: rss.saturating_sub(ByteSize::mib(3)) }),
                peak_rss: rss.as_u64(),
                capacity: Some(whole(CAPACITY)),
                ended,
                in_flight: self.in_flight as u64,
                at: Duration::from_millis(10 * ended),
            };
            floor = f64::INFINITY;
            let verdict = watch.watch(&left, &quiet());
            end.verdicts.push(verdict);
            if is_growing(&verdict) && end.growing.is_none() {
                end.growing = Some(ended);
            }
        }
        end
    }
}

fn is_growing(verdict: &LeakVerdict) -> bool {
    matches!(verdict, LeakVerdict::Growing { .. })
}

/// A table that doubles when it is full to 7/8, of items of a size. A map touches it all, a vector what is filled.
fn table(items: f64, size: f64, is_map: bool) -> (f64, f64) {
    if !is_map {
        return ((items * size).max(64.0).log2().ceil().exp2(), items * size);
    }
    let slots = (items * 8.0 / 7.0).max(4.0).log2().ceil().exp2();
    (slots * size, slots * size)
}

/// The number of runs of each shape: `usual`, or `PLIMSOLL_SEEDS`.
fn seeds(usual: u64) -> u64 {
    std::env::var("PLIMSOLL_SEEDS").map_or(usual, |seeds| seeds.parse().unwrap())
}

#[derive(Clone, Copy, Debug)]
enum Leak {
    EachCall,
    EveryFiftieth,
    Errors,
    BurstsOfErrors,
    Map,
    Vector,
    BesideSaw,
    Late,
}

const LEAKS: [Leak; 8] = [
    Leak::EachCall,
    Leak::EveryFiftieth,
    Leak::Errors,
    Leak::BurstsOfErrors,
    Leak::Map,
    Leak::Vector,
    Leak::BesideSaw,
    Leak::Late,
];

impl Leak {
    /// `step`: bytes per invocation, on average.
    fn shape(self, step: f64, seed: u64) -> Shape {
        let mut random = Random::new(seed);
        match self {
            Self::EachCall => same(move |time| time * step),
            Self::EveryFiftieth => same(move |time| (time / 50.0).floor() * 50.0 * step),
            Self::Errors => {
                let mut sum = 0.0;
                same(move |_| {
                    sum += if random.below(20) == 0 { 20.0 * step } else { 0.0 };
                    sum
                })
            }
            // Twenty in a row of 400.
            Self::BurstsOfErrors => {
                same(move |time| ((time / 400.0).floor() * 20.0 + (time % 400.0).min(20.0)) * 20.0 * step)
            }
            Self::Map => Box::new(move |time| table(time * step / 129.0, 129.0, true)),
            Self::Vector => Box::new(move |time| table(time * step / 24.0, 24.0, false)),
            Self::BesideSaw => {
                let (height, period) = (random.uniform(5.0, 30.0) * MIB, random.octaves(20.0, 1500.0));
                same(move |time| time * step + height * (time % period) / period)
            }
            Self::Late => {
                let start = random.uniform(50.0, 1500.0);
                same(move |time| (time - start).max(0.0) * step)
            }
        }
    }

    /// The highest pace: with a higher one, the kill comes before a verdict is possible.
    fn most(self) -> f64 {
        match self {
            Self::EveryFiftieth => 100.0 * KIB,
            Self::Errors => 400.0 * KIB,
            Self::BurstsOfErrors => 12.0 * KIB,
            Self::Map => 1.2 * MIB,
            _ => 2.0 * MIB,
        }
    }
}

#[test]
fn leaks_of_any_shape_and_pace_are_growing_twenty_invocations_before_the_kill() {
    let mut missed = Vec::new();
    for kind in LEAKS {
        let (mut runs, mut fewest) = (0, u64::MAX);
        for in_flight in [1, 2, 8, 64] {
            for seed in 0..seeds(12) {
                let mut random = Random::new(seed * 31 + in_flight as u64);
                // Sixty-four that leak at once are killed before the first has ended.
                let most = if in_flight == 64 { kind.most().min(500.0 * KIB) } else { kind.most() };
                let step = random.octaves(10.0 * KIB, most);
                let environment = Environment {
                    base: random.uniform(1.0, 8.0) * MIB,
                    in_flight,
                    each: random.octaves(10.0 * KIB, 20.0 * MIB / real(in_flight)),
                    noise: random.octaves(KIB, 500.0 * KIB),
                    random,
                };
                let end = environment.run(kind.shape(step, seed), 50_000);
                assert!(end.is_killed, "{kind:?} {step}");
                runs += 1;
                fewest = fewest.min(end.warned().unwrap_or(0));
                if end.warned().is_none_or(|warned| warned < 20) {
                    missed.push((kind, in_flight, step / KIB, end.invocations, end.growing));
                }
            }
        }
        println!("{kind:?}: {runs} runs, called growing at least {fewest} invocations before the kill");
    }
    assert!(missed.is_empty(), "{} missed: {missed:#?}", missed.len());
}

#[derive(Clone, Copy, Debug)]
enum Clean {
    Line,
    Exponential,
    Zipf,
    Day,
    Saw,
    Sessions,
    Ring,
    Steps,
    VectorFills,
    Noise,
}

const CLEAN: [Clean; 10] = [
    Clean::Line,
    Clean::Exponential,
    Clean::Zipf,
    Clean::Day,
    Clean::Saw,
    Clean::Sessions,
    Clean::Ring,
    Clean::Steps,
    Clean::VectorFills,
    Clean::Noise,
];

impl Clean {
    /// At most `height`, which includes the base.
    fn shape(self, height: f64, seed: u64) -> Shape {
        let mut random = Random::new(seed ^ 0xC1EA);
        let warm_up = random.octaves(200.0, 2000.0);
        match self {
            Self::Line => same(move |time| height * (time / warm_up).min(1.0)),
            Self::Exponential => same(move |time| height * (1.0 - (-4.0 * time / warm_up).exp())),
            // The distinct keys of a Zipf distribution, roughly.
            Self::Zipf => same(move |time| height * (time / 4000.0).min(1.0).powf(random_power(seed))),
            Self::Day => same(move |time| height * (0.6 - 0.4 * (time / warm_up * std::f64::consts::TAU).cos())),
            Self::Saw => {
                let period = random.octaves(50.0, 3000.0);
                same(move |time| height * (0.2 + 0.8 * (time % period) / period))
            }
            // Sessions that live for a while.
            Self::Sessions => {
                let mut sessions = std::collections::VecDeque::new();
                let mut sum = 0.0;
                same(move |_| {
                    let size = random.octaves(0.2, 3.0) * height / warm_up / 1.6;
                    sum += size;
                    sessions.push_back(size);
                    if real(sessions.len()) > warm_up {
                        sum -= sessions.pop_front().unwrap();
                    }
                    sum.min(height)
                })
            }
            Self::Ring => same(move |time| height * ((time / 25.0).floor() * 25.0 / warm_up).min(1.0)),
            Self::Steps => {
                let steps: Vec<(f64, f64)> =
                    (0..=random.below(6)).map(|_| (random.octaves(10.0, 2000.0), random.uniform(0.2, 1.0))).collect();
                let sum: f64 = steps.iter().map(|(_, by)| by).sum();
                same(move |time| {
                    height / sum * steps.iter().filter(|(at, _)| *at <= time).map(|(_, by)| by).sum::<f64>()
                })
            }
            Self::VectorFills => {
                let items = (height / 24.0).log2().floor().exp2();
                Box::new(move |time| table(items * (time / warm_up).min(1.0), 24.0, false))
            }
            Self::Noise => same(move |_| height * random.uniform(0.7, 1.0)),
        }
    }
}

fn random_power(seed: u64) -> f64 {
    Random::new(seed).uniform(0.3, 0.8)
}

#[test]
fn clean_environments_are_hardly_ever_called_growing() {
    let (mut called, mut runs) = (0, 0);
    for kind in CLEAN {
        let before = called;
        for seed in 0..seeds(20) {
            let mut random = Random::new(seed * 77 + kind as u64);
            let in_flight = [1, 1, 2, 8, 64][random.below(5)];
            let base = random.uniform(1.0, 8.0) * MIB;
            let each = random.octaves(10.0 * KIB, 8.0 * MIB / real(in_flight));
            let noise = random.octaves(KIB, MIB);
            let height = random.uniform(0.1, 0.7) * CAPACITY - base;
            let environment = Environment { base, in_flight, each, noise, random };
            let end = environment.run(kind.shape(height, seed), 4000);
            called += usize::from(end.growing.is_some());
            runs += 1;
        }
        println!("{kind:?}: {} of {} are called growing", called - before, seeds(20));
    }
    assert!(called * 100 <= runs, "{called} of {runs}");
}

/// The figures after an invocation that was alone, of which this is live and resident.
fn alone(level: f64, ended: u64) -> Left {
    let rss = ByteSize::bytes(whole(level));
    Left {
        live: whole(level),
        floor: whole(level),
        explained: 0,
        rss: Some(os::Rss { total: rss, anonymous: rss }),
        peak_rss: whole(level),
        capacity: Some(whole(CAPACITY)),
        ended,
        in_flight: 1,
        at: Duration::from_millis(10 * ended),
    }
}

/// The verdict after every invocation.
fn verdicts(figures: impl Fn(u64) -> Left, life: u64) -> Vec<LeakVerdict> {
    let mut watch = LeakWatch::new(true);
    (1..=life).map(|ended| watch.watch(&figures(ended), &quiet())).collect()
}

fn times(ended: u64) -> f64 {
    bytes(ended)
}

#[test]
fn slow_leak_is_rising_and_then_growing() {
    let told = verdicts(|ended| alone(10.0 * MIB + times(ended) * 100.0 * KIB, ended), 1000);
    assert!(told[..15].iter().all(|verdict| *verdict == LeakVerdict::Unknown) && told[15] == LeakVerdict::Steady);
    let rising = told.iter().position(|verdict| matches!(verdict, LeakVerdict::Rising { .. })).unwrap();
    let growing = told.iter().position(is_growing).unwrap();
    // Four marks of 1.8 MiB, and 71 MiB.
    assert!(rising < 90 && (727..760).contains(&growing), "{rising} {growing}");
    assert!(told[growing..].iter().all(is_growing), "it does not flicker");
    let LeakVerdict::Growing { per_invocation, invocations_left: Some(left) } = told[growing] else { panic!() };
    let (pace, exact) = (bytes(per_invocation.as_u64()) / (100.0 * KIB), 1085 - growing as u64);
    assert!((pace - 1.0).abs() < 0.1 && left.abs_diff(exact) < 40, "{} at {growing}", told[growing]);
}

#[test]
fn leak_that_is_mended_is_steady_again() {
    let ramp = |ended: u64| times(ended.min(780)) * 100.0 * KIB;
    let told = verdicts(|ended| alone(10.0 * MIB + ramp(ended), ended), 2000);
    assert!(is_growing(&told[770]));
    let cleared = told.iter().rposition(|verdict| *verdict != LeakVerdict::Steady).unwrap();
    assert!(cleared < 900, "{cleared}");
}

#[test]
fn what_an_account_explains_is_no_rise() {
    let figures = |ended: u64| {
        let cache = ended * 100_000;
        Left { explained: cache, ..alone(10.0 * MIB + bytes(cache), ended) }
    };
    assert!(verdicts(figures, 1000)[16..].iter().all(|verdict| *verdict == LeakVerdict::Steady));
}

#[test]
fn pages_that_were_never_touched_are_no_rise() {
    let figures = |ended: u64| Left { live: (20 + ended) << 20, floor: (20 + ended) << 20, ..alone(10.0 * MIB, ended) };
    assert!(verdicts(figures, 1000)[16..].iter().all(|verdict| *verdict == LeakVerdict::Steady));
}

#[test]
fn rise_without_a_limit_is_rising() {
    let told = verdicts(|ended| Left { capacity: None, ..alone(times(ended) * MIB, ended) }, 1000);
    let LeakVerdict::Rising { per_invocation, invocations_left: None } = told[999] else { panic!("{}", told[999]) };
    assert!(per_invocation.as_u64().abs_diff(1 << 20) < 1 << 17, "{per_invocation}");
}

#[test]
fn leak_that_outlives_its_environment_is_rising() {
    let pace = |at: Duration| verdicts(|ended| Left { at, ..alone(times(ended) * 100.0 * KIB, ended) }, 1000)[900];
    // 280 invocations are left, of 20 and of 400 seconds each.
    assert!(is_growing(&pace(Duration::from_hours(5))));
    assert!(matches!(pace(Duration::from_hours(100)), LeakVerdict::Rising { .. }));
}

#[test]
fn leak_below_high_peaks_is_growing_before_they_reach_the_capacity() {
    // Each invocation needs 40 MiB for a while.
    let figures = |ended: u64| {
        let level = 10.0 * MIB + times(ended) * MIB / 2.0;
        Left { peak_rss: whole(level + 40.0 * MIB), ..alone(level, ended) }
    };
    let growing = verdicts(figures, 132).iter().position(is_growing);
    assert!(growing.is_some_and(|at| at <= 132 - 20), "{growing:?}");
}

#[test]
fn slow_leak_beside_memory_that_is_not_heap_is_growing_before_the_kill() {
    for (beyond, peak) in [(64.0 * MIB, 0.0), (0.0, 60.0 * MIB)] {
        let figures = |ended: u64| {
            let level = 5.0 * MIB + (times(ended) / 50.0).floor() * MIB / 2.0;
            let rss = ByteSize::bytes(whole(level + beyond));
            let rss = os::Rss { total: rss, anonymous: rss };
            Left { rss: Some(rss), peak_rss: whole(level + beyond + peak), ..alone(level, ended) }
        };
        // At 128 MiB.
        let killed = whole((123.0 * MIB - beyond - peak) / (MIB / 2.0)) * 50;
        let growing = verdicts(figures, killed).iter().position(is_growing).unwrap() as u64;
        assert!(growing + 20 < killed, "{growing} of {killed}");
    }
}

#[test]
fn two_large_loads_are_no_doubling() {
    let level = |ended: u64| {
        if ended < 20 {
            6.0
        } else if ended < 40 {
            18.0
        } else {
            44.0
        }
    };
    assert!(!verdicts(|ended| alone(level(ended) * MIB, ended), 500).iter().any(is_growing));
}

#[test]
fn map_that_fills_and_stays_is_growing_at_most_once() {
    for seed in 0..50 {
        let mut random = Random::new(seed);
        let items = random.uniform(0.1, 0.9) * 40.0 * MIB / 129.0;
        let warm_up = random.octaves(200.0, 2000.0);
        let noise: Vec<f64> = (0..4000).map(|_| 6.0 * MIB * random.unit()).collect();
        let figures = |ended: u64| {
            let level = 5.0 * MIB + table(items * (times(ended) / warm_up).min(1.0), 129.0, true).0;
            let rss = ByteSize::bytes(whole(level + noise[usize::try_from(ended).unwrap() - 1]));
            Left { rss: Some(os::Rss { total: rss, anonymous: rss }), peak_rss: rss.as_u64(), ..alone(level, ended) }
        };
        let told = verdicts(figures, 4000);
        let alerts = told.windows(2).filter(|pair| !is_growing(&pair[0]) && is_growing(&pair[1])).count();
        assert!(alerts <= 1 && !is_growing(&told[3999]), "{seed}: {alerts}");
    }
}

#[test]
fn more_requests_in_flight_are_no_leak() {
    // One more with each end, of 3 MiB; and twice as many in each stage.
    let ramp = |ended: u64| ended.saturating_sub(50).clamp(1, 23);
    let stages = |ended: u64| 1 << (ended / 1000).min(5);
    for (each, in_flight) in [(3.0, &ramp as &dyn Fn(u64) -> u64), (1.2, &stages)] {
        let figures = |ended: u64| {
            let in_flight = in_flight(ended);
            Left { in_flight, ..alone((8.0 + times(in_flight) * each) * MIB, ended) }
        };
        assert!(!verdicts(figures, 8000).iter().any(is_growing), "{each}");
    }
}

#[test]
fn reservations_that_end_before_their_memory_are_no_leak() {
    let figures = |ended: u64| {
        let in_flight = 28_u64.saturating_sub(ended.saturating_sub(100)).max(1);
        let live = 20.0 * MIB + times(in_flight) * MIB / 5.0;
        Left { explained: in_flight * (7 << 19), in_flight, ..alone(live, ended) }
    };
    assert!(!verdicts(figures, 1000).iter().any(is_growing));
}

#[test]
fn large_start_hides_no_leak() {
    let level = |ended: u64| if ended <= 40 { 110.0 } else { 20.0 + times(ended - 40) / 2.0 };
    let killed = 40 + 2 * (128 - 20);
    let told = verdicts(|ended| alone(level(ended) * MIB, ended), killed);
    let growing = told.iter().skip(60).position(is_growing).unwrap() + 60;
    assert!(growing as u64 + 20 < killed, "{growing} of {killed}");
}

#[test]
fn capacity_of_nothing_is_no_limit() {
    let told = verdicts(|ended| Left { capacity: Some(0), ..alone(times(ended.min(100)) * 10.0 * KIB, ended) }, 500);
    assert!(!told.iter().any(is_growing));
}

#[test]
fn sampled_reports_tell_the_pace_of_all_invocations() {
    let figures = |ended: u64| alone(10.0 * MIB + times(ended * 50) * 10.0 * KIB, ended * 50);
    let told = verdicts(figures, 200);
    let LeakVerdict::Growing { per_invocation, .. } = told[190] else { panic!("{}", told[190]) };
    assert!(per_invocation.as_u64().abs_diff(10 << 10) < 1 << 10, "{per_invocation}");
}

#[test]
fn pages_beyond_the_heap_are_retained_unless_the_heap_grows() {
    let retention = Retention::keeping_for_test(16 << 20, 34 << 20);
    let last = |level: &dyn Fn(u64) -> f64, rss: u64| {
        let mut watch = LeakWatch::new(true);
        let rss = os::Rss { total: ByteSize::mib(rss + 3), anonymous: ByteSize::mib(rss) };
        let figures = |ended| Left { rss: Some(rss), ..alone(level(ended), ended) };
        (1..=1000).map(|ended| watch.watch(&figures(ended), &retention)).last().unwrap()
    };
    let (beyond_heap, remedy) = (ByteSize::mib(34), Remedy::AnotherAllocator);
    assert_eq!(last(&|_| MIB, 35), LeakVerdict::Retaining { beyond_heap, remedy });
    assert_eq!(last(&|_| MIB, 16), LeakVerdict::Steady, "15 MiB are not worth a word");
    assert_eq!(last(&|_| 40.0 * MIB, 70), LeakVerdict::Steady, "30 MiB beside 40 are not");
    assert!(is_growing(&last(&|ended| times(ended) * 100.0 * KIB, 110)));
}

#[test]
fn hostile_figures_are_no_trouble() {
    let mut random = Random::new(3);
    let mut watch = LeakWatch::new(true);
    for _ in 0..3000 {
        let mut any = || [0, 1, u64::MAX, u64::MAX / 2, 1 << 30][random.below(5)];
        let rss = os::Rss { total: ByteSize::bytes(any()), anonymous: ByteSize::bytes(any()) };
        let left = Left {
            live: any(),
            floor: any(),
            explained: any(),
            rss: Some(rss),
            peak_rss: any(),
            capacity: Some(any()),
            ended: any(),
            in_flight: any(),
            at: Duration::from_nanos(any()),
        };
        assert!(watch.watch(&left, &Retention { over: 0, ..quiet() }).to_string().len() < 100);
    }
}
