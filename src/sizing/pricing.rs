//! What an invocation costs: the price list as data, and sums in integers.

use std::fmt;
use std::time::Duration;

use crate::size::ByteSize;

/// Attodollars, 1e-18, of a dollar.
const DOLLAR: u128 = 1_000_000_000_000_000_000;

/// MB x ns of a GB-second. AWS's GB has 1,024 of its MB.
const PER_GB_SECOND: u128 = 1_024 * 1_000_000_000;

/// The memory size, in MB, at which a function has one whole vCPU.
///
/// Source: AWS Lambda Developer Guide, "Configure Lambda function memory".
pub const FULL_CPU_MB: u32 = 1_769;

/// The vCPUs that a memory size comes with: its MB / 1,769, linear over the whole range.
///
/// 128 MB have 0.072, 1,769 MB one, 3,008 MB 1.700, 10,240 MB 5.789. A single thread gains nothing above one. What is
/// *visible* as cores is another thing: ask [`std::thread::available_parallelism`].
///
/// ```
/// # use plimsoll::{ByteSize, sizing::cpu_share};
/// assert_eq!(format!("{:.3}", cpu_share(ByteSize::mib(128))), "0.072");
/// assert_eq!(format!("{:.3}", cpu_share(ByteSize::mib(3008))), "1.700");
/// ```
pub fn cpu_share(memory_size: ByteSize) -> f64 {
    memory_size.as_mib_f64() / f64::from(FULL_CPU_MB)
}

/// What is billed for a run with an init: the sum of both, rounded up to the millisecond.
///
/// Functions on custom runtimes, and so all Rust functions, always paid for their init; since 2025-08-01 all do. Real
/// lines differ from this by 1 ms now and then, and old timeouts were billed below their duration: where a line tells
/// the billed duration, take that.
///
/// ```
/// # use std::time::Duration;
/// # use plimsoll::sizing::billed_duration;
/// let billed = billed_duration(Duration::from_micros(1_220), Duration::from_micros(8_990));
/// assert_eq!(billed, Duration::from_millis(11));
/// ```
pub fn billed_duration(duration: Duration, init: Duration) -> Duration {
    let nanos = duration.as_nanos().saturating_add(init.as_nanos());
    Duration::from_millis(u64::try_from(nanos.div_ceil(1_000_000)).unwrap_or(u64::MAX))
}

/// The processor a function runs on.
///
/// # Examples
///
/// ```
/// use plimsoll::sizing::Architecture;
///
/// assert_eq!((Architecture::X86.as_str(), Architecture::Arm.as_str()), ("x86_64", "arm64"));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Architecture {
    /// `x86_64`, the default of Lambda.
    #[default]
    X86,
    /// `arm64`, Graviton: a fifth cheaper.
    Arm,
}

impl Architecture {
    /// The name that AWS uses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::X86 => "x86_64",
            Self::Arm => "arm64",
        }
    }
}

/// Memory held for a time: the unit of Lambda's bill, exact.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use plimsoll::{ByteSize, sizing::GbSeconds};
///
/// let run = GbSeconds::new(ByteSize::mib(512), Duration::from_millis(2_000));
/// assert!((run.as_f64() - 1.0).abs() < 1e-9);
/// let month = run.saturating_mul(1_000);
/// assert_eq!(month.mean(1_000), run);
/// assert_eq!(GbSeconds::ZERO.saturating_add(run), run);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct GbSeconds {
    /// Bytes x ns / 2^20, rounded up: whole MB, as Lambda's sizes are, make it exact.
    mb_nanos: u128,
}

impl GbSeconds {
    /// None.
    pub const ZERO: Self = Self { mb_nanos: 0 };

    /// So much memory for so long.
    pub const fn new(memory_size: ByteSize, duration: Duration) -> Self {
        let nanos = duration.as_nanos();
        // 2^64 bytes for 2^64 s are below 2^94 x 2^20 x 2^14: split before the product could pass 128 bits.
        let (mb, rest) = (memory_size.as_u64() >> 20, memory_size.as_u64() & ((1 << 20) - 1));
        let whole = nanos.saturating_mul(mb as u128);
        let part = nanos.saturating_mul(rest as u128).div_ceil(1 << 20);
        Self { mb_nanos: whole.saturating_add(part) }
    }

    /// The sum; the largest value where it does not fit.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self { mb_nanos: self.mb_nanos.saturating_add(other.mb_nanos) }
    }

    /// So many times this; the largest value where it does not fit.
    #[must_use]
    pub const fn saturating_mul(self, times: u64) -> Self {
        Self { mb_nanos: self.mb_nanos.saturating_mul(times as u128) }
    }

    /// The mean of `runs` that hold this together, rounded to the nearest MB x ns; zero for no runs.
    #[must_use]
    pub const fn mean(self, runs: u64) -> Self {
        match runs {
            0 => Self::ZERO,
            _ => Self { mb_nanos: self.mb_nanos.saturating_add(runs as u128 / 2) / runs as u128 },
        }
    }

    /// In GB-seconds, for a table.
    #[expect(clippy::cast_precision_loss, reason = "for people; the sums stay in integers")]
    pub const fn as_f64(self) -> f64 {
        self.mb_nanos as f64 / PER_GB_SECOND as f64
    }
}

impl fmt::Display for GbSeconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = f.precision().unwrap_or(6);
        write!(f, "{:.places$} GB-s", self.as_f64())
    }
}

impl fmt::Debug for GbSeconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GbSeconds({} MB ns)", self.mb_nanos)
    }
}

/// An amount of US dollars, in integers of 1e-18.
///
/// `Display` prints cents from one dollar on, and four significant digits below; or as many places as asked for.
///
/// ```
/// # use plimsoll::sizing::Dollars;
/// assert_eq!(Dollars::from_trillionths(5_417_000).to_string(), "$0.000005417");
/// assert_eq!(Dollars::from_trillionths(12_345_600_000_000).to_string(), "$12.35");
/// ```
///
/// # Examples
///
/// ```
/// use plimsoll::sizing::Dollars;
///
/// let request = Dollars::from_trillionths(200_000);
/// assert_eq!(request.saturating_mul(5).saturating_add(Dollars::ZERO).to_string(), "$0.000001000");
/// assert!((request.as_f64() - 2e-7).abs() < 1e-12);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Dollars {
    atto: u128,
}

impl Dollars {
    /// Nothing.
    pub const ZERO: Self = Self { atto: 0 };

    /// So many trillionths, 1e-12, of a dollar: the finest in which AWS gives a price.
    pub const fn from_trillionths(n: u64) -> Self {
        Self { atto: n as u128 * 1_000_000 }
    }

    /// The sum; the largest amount where it does not fit.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self { atto: self.atto.saturating_add(other.atto) }
    }

    /// So many times this; the largest amount where it does not fit.
    #[must_use]
    pub const fn saturating_mul(self, times: u64) -> Self {
        Self { atto: self.atto.saturating_mul(times as u128) }
    }

    /// In dollars, for charts and ratios.
    #[expect(clippy::cast_precision_loss, reason = "for people and ratios; the sums stay in integers")]
    pub const fn as_f64(self) -> f64 {
        self.atto as f64 / DOLLAR as f64
    }
}

impl fmt::Display for Dollars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let zeros = if self.atto == 0 { 18 } else { 17_usize.saturating_sub(self.atto.ilog10() as usize) };
        let default = if self.atto >= DOLLAR || self.atto == 0 { 2 } else { zeros + 4 };
        let places = f.precision().unwrap_or(default).min(18);
        let unit = (places..18).fold(1_u128, |unit, _| unit * 10);
        let rounded = self.atto.saturating_add(unit / 2) / unit;
        let scale = DOLLAR / unit;
        let (whole, rest) = (rounded / scale, rounded % scale);
        let text = if places == 0 { format!("${whole}") } else { format!("${whole}.{rest:0places$}") };
        f.pad_integral(true, "", &text)
    }
}

impl fmt::Debug for Dollars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dollars({self})")
    }
}

/// A price list: what a GB-second costs, by how many were used in the month, and a request.
///
/// The list is data with its date. Prices differ by region and change: [`Pricing::flat`] takes yours.
///
/// Not in it: ephemeral storage over 512 MB, provisioned concurrency, data transfer, logs, and Managed Instances, which
/// are billed by the instance.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use plimsoll::ByteSize;
/// use plimsoll::sizing::{Architecture, GbSeconds, Pricing};
///
/// let x86 = Pricing::us_east_1(Architecture::X86);
/// let run = GbSeconds::new(ByteSize::mib(128), Duration::from_millis(2500));
/// assert_eq!(x86.run(run).to_string(), "$0.000005208");
/// assert_eq!(x86.month(1_000_000, run).total().to_string(), "$5.41");
/// assert_eq!(x86.with_free_tier().month(1_000_000, run).total().to_string(), "$0.00");
/// ```
///
/// # Examples
///
/// ```
/// use plimsoll::sizing::{Architecture, Dollars, Pricing};
///
/// let listed = Pricing::us_east_1(Architecture::Arm).with_free_tier();
/// println!("{} as of {}", listed.architecture().as_str(), listed.as_of());
///
/// // A price of one's own: dollars a GB-second, and a request.
/// let ours = Pricing::flat(Architecture::Arm, "2026-01", Dollars::from_trillionths(12_000_000),
///     Dollars::from_trillionths(200_000));
/// assert_eq!(ours.as_of(), "2026-01");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pricing {
    architecture: Architecture,
    as_of: &'static str,
    /// From how many GB-seconds a month on, a GB-second costs what. The first starts at 0, and they rise.
    tiers: Vec<(u64, Dollars)>,
    request: Dollars,
    free_gb_seconds: u64,
    free_requests: u64,
}

/// What a month costs.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use plimsoll::{ByteSize, sizing::{Architecture, GbSeconds, Pricing}};
///
/// let pricing = Pricing::us_east_1(Architecture::X86);
/// let run = GbSeconds::new(ByteSize::mib(256), Duration::from_millis(130));
/// let cost = pricing.month(1_000_000, run.saturating_mul(1_000_000));
/// assert_eq!(cost.requests.to_string(), "$0.2000");
/// println!("{} in all, {} of it compute", cost.total(), cost.compute);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MonthlyCost {
    /// GB-seconds.
    pub compute: Dollars,
    /// Requests.
    pub requests: Dollars,
}

impl MonthlyCost {
    /// Both.
    pub const fn total(&self) -> Dollars {
        self.compute.saturating_add(self.requests)
    }
}

impl Pricing {
    /// The list of the region us-east-1 as of 2026-11, without the free tier.
    ///
    /// x86: $0.0000166667 a GB-second, $0.000015 after 6 and $0.000013334 after 15 billion a month. arm: $0.0000133334,
    /// $0.0000120001 after 7.5 billion; a third step is not in it. A request: $0.20 a million.
    pub fn us_east_1(architecture: Architecture) -> Self {
        const BILLION: u64 = 1_000_000_000;
        let trillionths = Dollars::from_trillionths;
        let tiers = match architecture {
            Architecture::X86 => vec![
                (0, trillionths(16_666_700)),
                (6 * BILLION, trillionths(15_000_000)),
                (15 * BILLION, trillionths(13_334_000)),
            ],
            Architecture::Arm => {
                vec![(0, trillionths(13_333_400)), (15 * BILLION / 2, trillionths(12_000_100))]
            }
        };
        let request = trillionths(200_000);
        Self { architecture, as_of: "us-east-1, 2026-11", tiers, request, free_gb_seconds: 0, free_requests: 0 }
    }

    /// A list with one price for a GB-second and one for a request. `as_of` says where and when it holds.
    pub fn flat(architecture: Architecture, as_of: &'static str, gb_second: Dollars, request: Dollars) -> Self {
        let tiers = vec![(0, gb_second)];
        Self { architecture, as_of, tiers, request, free_gb_seconds: 0, free_requests: 0 }
    }

    /// The same list with a million requests and 400,000 GB-seconds a month free, whatever the memory size.
    ///
    /// The free tier is that of the whole account: it holds for a function that has the account for itself.
    #[must_use]
    pub fn with_free_tier(self) -> Self {
        Self { free_gb_seconds: 400_000, free_requests: 1_000_000, ..self }
    }

    /// Whose prices they are.
    pub const fn architecture(&self) -> Architecture {
        self.architecture
    }

    /// Where and when they hold.
    pub const fn as_of(&self) -> &'static str {
        self.as_of
    }

    /// What a request costs.
    pub const fn request(&self) -> Dollars {
        self.request
    }

    /// What so many GB-seconds cost at the first price, without the request. Rounded down to 1e-18 dollars.
    pub fn run(&self, used: GbSeconds) -> Dollars {
        self.tiers.first().map_or(Dollars::ZERO, |(_, price)| priced(used.mb_nanos, *price))
    }

    /// What a month with so many invocations costs, each of which takes `each`; the free tier is taken off, if it is
    /// in the list, and what lies above a step of the list has the lower price.
    pub fn month(&self, invocations: u64, each: GbSeconds) -> MonthlyCost {
        let free = u128::from(self.free_gb_seconds).saturating_mul(PER_GB_SECOND);
        let used = each.saturating_mul(invocations).mb_nanos.saturating_sub(free);
        let ends = self.tiers.iter().skip(1).map(|(from, _)| u128::from(*from).saturating_mul(PER_GB_SECOND));
        let ends = ends.chain([u128::MAX]);
        let mut compute = Dollars::ZERO;
        for ((from, price), end) in self.tiers.iter().zip(ends) {
            let from = u128::from(*from).saturating_mul(PER_GB_SECOND);
            compute = compute.saturating_add(priced(used.min(end).saturating_sub(from), *price));
        }
        let requests = self.request.saturating_mul(invocations.saturating_sub(self.free_requests));
        MonthlyCost { compute, requests }
    }
}

/// MB x ns at a price for the GB-second.
fn priced(mb_nanos: u128, gb_second: Dollars) -> Dollars {
    let (whole, rest) = (mb_nanos / PER_GB_SECOND, mb_nanos % PER_GB_SECOND);
    // The rest is below 2^40; a price of more than 2^88 attodollars, 300 million dollars, saturates.
    let part = rest.saturating_mul(gb_second.atto) / PER_GB_SECOND;
    Dollars { atto: whole.saturating_mul(gb_second.atto).saturating_add(part) }
}
