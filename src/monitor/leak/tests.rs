//! Simulated environments, with a leak and without, and the share that the verdict gets right.
#![expect(clippy::print_stdout, reason = "the shares are worth reading, with `--nocapture`")]

use super::super::Remedy;
use super::*;

const KIB: f64 = 1024.0;
const MIB: f64 = 1024.0 * KIB;

/// What a function of 128 MB has.
const CAPACITY: f64 = 116.0 * MIB;

/// Invocations of an environment without a leak.
const LIFE: usize = 500;

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

    fn normal(&mut self) -> f64 {
        let far = (-2.0 * self.unit().max(1e-300).ln()).sqrt();
        far * (std::f64::consts::TAU * self.unit()).cos()
    }
}

/// What the `invocation`th leaves if nobody accounts for any of it.
fn leaves(level: f64) -> Left {
    Left { live: whole(level), explained: 0, rss: None, capacity: Some(whole(CAPACITY)), alone: true }
}

/// The verdict after every invocation.
fn verdicts(levels: impl IntoIterator<Item = f64>) -> Vec<LeakVerdict> {
    let mut watch = LeakWatch::new();
    levels.into_iter().map(|level| watch.watch(&leaves(level), &quiet())).collect()
}

fn is_rising(verdict: &LeakVerdict) -> bool {
    matches!(verdict, LeakVerdict::Rising { .. })
}

fn is_growing(verdict: &LeakVerdict) -> bool {
    matches!(verdict, LeakVerdict::Growing { .. })
}

/// The first invocation after which it grows, and by how much it is told to.
fn first_growing(verdicts: &[LeakVerdict]) -> Option<(usize, f64)> {
    verdicts.iter().enumerate().find_map(|(index, verdict)| match verdict {
        LeakVerdict::Growing { per_invocation, .. } => Some((index + 1, bytes(per_invocation.as_u64()))),
        _ => None,
    })
}

#[derive(Clone, Copy, Debug)]
enum Clean {
    /// One to five at any time, one in four downward.
    Steps,
    /// Filled with one item per invocation for 20 to 200 of them.
    VecDoubling,
    /// Of period 50.
    Saw,
    /// In a line or exponentially, for 20 to 200 invocations.
    WarmUp,
    /// First-order autoregressive, phi up to 0.9.
    Noise,
    /// A cache that warms up for 10 to 200 invocations, whose account is wrong by up to a tenth and wavers.
    AccountDrift,
}

const ALL: [Clean; 6] =
    [Clean::Steps, Clean::VecDoubling, Clean::Saw, Clean::WarmUp, Clean::Noise, Clean::AccountDrift];

impl Clean {
    /// What each of `LIFE` invocations leaves. All but `Noise` have white noise of up to 100 KiB on top.
    fn levels(self, random: &mut Random) -> Vec<f64> {
        let base = random.uniform(2.0, 20.0) * MIB;
        let white = random.uniform(0.0, 100.0) * KIB;
        let mut shape = self.shape(random);
        if !matches!(self, Self::Noise) {
            for level in &mut shape {
                *level += white * random.normal();
            }
        }
        shape.into_iter().map(|level| (base + level).max(0.0)).collect()
    }

    fn shape(self, random: &mut Random) -> Vec<f64> {
        let times = (0..LIFE).map(real);
        match self {
            Self::Steps => {
                let steps: Vec<_> = (0..=random.below(5))
                    .map(|_| {
                        let sign = if random.below(4) == 0 { -1.0 } else { 1.0 };
                        (random.uniform(0.0, real(LIFE)), sign * random.octaves(50.0 * KIB, 20.0 * MIB))
                    })
                    .collect();
                let at = |time: f64| steps.iter().filter(|step| step.0 <= time).map(|step| step.1).sum();
                times.map(at).collect()
            }
            Self::VecDoubling => {
                let (item, items) = (random.octaves(100.0, 50.0 * KIB), random.uniform(20.0, 200.0));
                times.map(|time| item * (time + 1.0).min(items).max(4.0).log2().ceil().exp2()).collect()
            }
            Self::Saw => {
                let (height, phase) = (random.octaves(100.0 * KIB, 20.0 * MIB), random.below(50));
                (0..LIFE).map(|time| height * real((time + phase) % 50) / 50.0).collect()
            }
            Self::WarmUp => {
                let (height, end) = (random.octaves(100.0 * KIB, 30.0 * MIB), random.uniform(20.0, 200.0));
                let is_line = random.below(2) == 0;
                let share = |time: f64| if is_line { (time / end).min(1.0) } else { 1.0 - (-4.0 * time / end).exp() };
                times.map(|time| height * share(time)).collect()
            }
            Self::Noise => {
                let phi = random.uniform(0.0, 0.9);
                autoregressive(phi, 100.0 * KIB, random)
            }
            Self::AccountDrift => {
                let (bound, off) = (random.octaves(MIB, 40.0 * MIB), random.uniform(-0.1, 0.1));
                let (end, phi) = (random.uniform(10.0, 200.0), random.uniform(0.8, 0.95));
                let wavers = autoregressive(phi, random.uniform(0.0, 0.1) * (off * bound).abs(), random);
                times.zip(wavers).map(|(time, wavers)| off * bound * (time / end).min(1.0) + wavers).collect()
            }
        }
    }
}

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(whole(self.unit() * real(bound))).unwrap()
    }
}

/// Noise of that standard deviation, which forgets a share of 1 - phi each time.
fn autoregressive(phi: f64, deviation: f64, random: &mut Random) -> Vec<f64> {
    let mut level = deviation * random.normal();
    let mut next = || {
        let before = level;
        level = phi * level + deviation * (1.0 - phi * phi).sqrt() * random.normal();
        before
    };
    (0..LIFE).map(|_| next()).collect()
}

#[test]
fn of_six_thousand_environments_without_a_leak_not_one_in_a_hundred_is_called_growing() {
    let mut called = 0;
    for kind in ALL {
        let runs = (0..1000).filter(|seed| {
            let levels = kind.levels(&mut Random::new(1 + seed + 1_000_000 * kind as u64));
            verdicts(levels).iter().any(is_growing)
        });
        let runs = runs.count();
        println!("{kind:?}: {runs} of 1000 are called growing at any of {LIFE} looks");
        called += runs;
    }
    assert!(called <= 60, "{called} of 6000");
}

#[test]
fn a_kib_per_invocation_in_a_noise_of_100_is_seen_within_250() {
    type Noise = fn(&mut Random) -> f64;
    let noises: [(&str, Noise); 2] = [
        ("normal, deviation 100 KiB", |random| 100.0 * KIB * random.normal()),
        ("uniform, 100 KiB either way", |random| random.uniform(-100.0, 100.0) * KIB),
    ];
    for (name, noise) in noises {
        let right = (0..1000).filter(|seed| {
            let mut random = Random::new(777 + seed);
            let levels = (0..250).map(|time| 20.0 * MIB + real(time) * KIB + noise(&mut random));
            first_growing(&verdicts(levels)).is_some_and(|(_, slope)| (slope / KIB - 1.0).abs() <= 0.3)
        });
        let right = right.count();
        println!("{name}: {right} of 1000 are called growing within 250, by 1 KiB within 30 %");
        assert!(right >= 950, "{name}: {right} of 1000");
    }
}

/// A leak of `step` an invocation from 20 MiB up; how many are left at the kill when it is first seen.
fn left_when_seen(shape: impl Fn(f64) -> f64, resident: impl Fn(f64) -> f64) -> (usize, Option<usize>) {
    let mut random = Random::new(5);
    let mut watch = LeakWatch::new();
    let (mut time, mut seen) = (0, None);
    loop {
        let rss = whole(25.0 * MIB + resident(real(time)));
        if bytes(rss) > CAPACITY {
            return (time, seen.map(|seen| time - seen));
        }
        let rss = os::Rss { total: ByteSize::bytes(rss), anonymous: ByteSize::bytes(rss) };
        let level = 20.0 * MIB + shape(real(time)) + 10.0 * KIB * random.normal();
        let verdict = watch.watch(&Left { rss: Some(rss), ..leaves(level) }, &quiet());
        time += 1;
        if is_growing(&verdict) {
            seen = seen.or(Some(time));
        }
    }
}

#[test]
fn leaks_of_every_speed_are_seen_in_time() {
    for step in [10.0 * KIB, 100.0 * KIB, 300.0 * KIB, MIB, 1.5 * MIB] {
        // In a vector of vectors, whose own memory doubles.
        let spine = |time: f64| 24.0 * (time + 1.0).max(4.0).log2().ceil().exp2();
        let (killed, left) = left_when_seen(|time| time * step + spine(time), |time| time * step + spine(time));
        assert!(left.is_some_and(|left| left >= 20), "{step} per invocation, killed after {killed}, {left:?} before");
    }
    let (killed, left) = left_when_seen(|time| time * 5.0 * MIB, |time| time * 5.0 * MIB);
    assert!(left.is_some_and(|left| left >= 1), "5 MiB, killed after {killed}: {left:?}");
}

/// One vector is extended: what is live doubles at once, and its pages are touched little by little.
#[test]
fn a_leak_in_steps_is_seen_by_the_pages_that_it_touches() {
    for step in [100.0 * KIB, MIB] {
        let live = |time: f64| (time.max(1.0) * step).log2().ceil().exp2();
        let (killed, left) = left_when_seen(live, |time| time * step);
        assert!(left.is_some_and(|left| left >= 20), "{step} per invocation, killed after {killed}, {left:?} before");
    }
}

#[test]
fn a_leak_that_is_mended_clears_and_one_that_starts_late_is_seen() {
    let mut random = Random::new(9);
    let ramp = |time: usize| real(time.saturating_sub(1000).min(600)) * 20.0 * KIB;
    let told = verdicts((0..3000).map(|time| 10.0 * MIB + ramp(time) + 20.0 * KIB * random.normal()));
    let (first, _) = first_growing(&told).unwrap();
    assert!((1100..1300).contains(&first), "{first}");
    assert!(told[first..1590].iter().all(is_growing), "it does not flicker");
    let cleared = told.iter().rposition(|verdict| *verdict != LeakVerdict::Steady).unwrap() + 1;
    println!("seen after {first}, over at 1600, cleared after {cleared}");
    assert!(cleared < 1600 + 300, "within little more than the shortest window");
}

#[test]
fn slow_leaks_are_seen_by_the_longer_windows() {
    let mut random = Random::new(10);
    let told = verdicts((0..6000).map(|time| 10.0 * MIB + real(time) * 50.0 + 20.0 * KIB * random.normal()));
    let (first, slope) = first_growing(&told).unwrap();
    assert!(first > 500 && (slope / 50.0 - 1.0).abs() < 0.3, "{slope} after {first}");
    // The longest windows ask often enough for noise to pass once, if it ever does.
    for seed in 0..20 {
        let mut random = Random::new(seed);
        let mut noise = 0.0;
        let levels = (0..20_000).map(|_| {
            noise = 0.9 * noise + 43.6 * KIB * random.normal();
            10.0 * MIB + noise
        });
        assert_eq!(first_growing(&verdicts(levels.collect::<Vec<_>>())), None, "{seed}");
    }
}

#[test]
fn what_an_account_explains_is_no_leak() {
    let mut watch = LeakWatch::new();
    for time in 0..600_u64 {
        let cache = time * 100_000;
        let left = Left { live: 10_000_000 + cache, explained: cache, ..leaves(0.0) };
        let verdict = watch.watch(&left, &quiet());
        assert!(!is_growing(&verdict) && !is_rising(&verdict), "{verdict} after {time}");
    }
}

#[test]
fn one_level_far_out_neither_feigns_nor_hides_a_leak() {
    let with_spike = |step: f64, spike: f64| {
        (0..250).map(move |time| 20.0 * MIB + real(time) * step + if time == 200 { spike } else { 0.0 })
    };
    assert_eq!(first_growing(&verdicts(with_spike(0.0, 60.0 * MIB))), None);
    for spike in [60.0 * MIB, -20.0 * MIB] {
        let (seen, slope) = first_growing(&verdicts(with_spike(2.0 * KIB, spike))).unwrap();
        assert!(seen <= 250 && (slope / (2.0 * KIB) - 1.0).abs() < 0.3, "{slope} after {seen}");
    }
}

#[test]
fn beside_others_nothing_can_be_told() {
    let mut watch = LeakWatch::new();
    let crowded = |time: u64| Left { alone: false, ..leaves(bytes(time) * MIB) };
    for time in 0..100 {
        assert_eq!(watch.watch(&crowded(time), &quiet()), LeakVerdict::Unknown);
    }
    for time in 0..16 {
        let expected = if time < 15 { LeakVerdict::Unknown } else { LeakVerdict::Steady };
        assert_eq!(watch.watch(&leaves(MIB), &quiet()), expected);
    }
    for time in 0..100 {
        let expected = if time < 63 { LeakVerdict::Steady } else { LeakVerdict::Unknown };
        assert_eq!(watch.watch(&crowded(time), &quiet()), expected, "what was known holds for a while");
    }
    // Every third is alone; the leak is that of all.
    let mut watch = LeakWatch::new();
    let mixed = (0..1500).map(|time| Left { alone: time % 3 == 0, ..leaves(MIB + real(time) * 10.0 * KIB) });
    let told: Vec<_> = mixed.map(|left| watch.watch(&left, &quiet())).collect();
    let (seen, slope) = first_growing(&told).unwrap();
    assert!((slope / (10.0 * KIB) - 1.0).abs() < 0.1, "{slope} after {seen}");
}

#[test]
fn early_rises_are_warming_and_the_capacity_is_what_is_left() {
    let told = verdicts((0..300).map(|time| 10.0 * MIB + real(time) * 10.0 * KIB));
    assert_eq!(told[14], LeakVerdict::Unknown);
    assert!(told[15..239].iter().all(is_rising), "{told:?}");
    let LeakVerdict::Growing { per_invocation, invocations_left } = told[299] else { panic!("{}", told[299]) };
    assert_eq!(per_invocation, ByteSize::kib(10));
    assert_eq!(invocations_left, Some(106 * 1024 / 10 - 299), "of 106 MiB");
    assert_eq!(told[299].to_string(), "growing 10.0 KiB per invocation, 10555 left");
}

#[test]
fn pages_beyond_the_heap_are_retained_unless_the_heap_grows() {
    let retention = Retention::keeping_for_test(16 << 20, 34 << 20);
    let left = |live: f64, rss: u64| {
        let rss = os::Rss { total: ByteSize::mib(rss + 3), anonymous: ByteSize::mib(rss) };
        Left { rss: Some(rss), ..leaves(live) }
    };
    let last = |level: &dyn Fn(usize) -> f64, rss: u64| {
        let mut watch = LeakWatch::new();
        (0..300).map(|time| watch.watch(&left(level(time), rss), &retention)).last().unwrap()
    };
    let (beyond_heap, remedy) = (ByteSize::mib(34), Remedy::AnotherAllocator);
    assert_eq!(last(&|_| MIB, 35), LeakVerdict::Retaining { beyond_heap, remedy });
    assert_eq!(last(&|_| MIB, 16), LeakVerdict::Steady, "15 MiB are not worth a word");
    assert_eq!(last(&|_| 40.0 * MIB, 70), LeakVerdict::Steady, "30 MiB beside 40 are not");
    assert!(is_growing(&last(&|time| real(time) * 10.0 * KIB, 35)));
}

#[test]
fn hostile_figures_are_no_trouble() {
    let mut random = Random::new(3);
    let mut watch = LeakWatch::new();
    for _ in 0..3000 {
        let mut any = || [0, 1, u64::MAX, u64::MAX / 2, 1 << 30][random.below(5)];
        let rss = os::Rss { total: ByteSize::bytes(any()), anonymous: ByteSize::bytes(any()) };
        let left = Left { live: any(), explained: any(), rss: Some(rss), capacity: Some(any()), alone: true };
        assert!(watch.watch(&left, &Retention { over: 0, ..quiet() }).to_string().len() < 100);
    }
}
