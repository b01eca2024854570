//! The large picture: memory as bars under the capacity, holders, and the window's percentiles.

use std::fmt;

use crate::board::Clean;
use crate::budget::AccountUsage;
use crate::cache::CacheStats;
use crate::heap::{self, AlarmThresholds, Extent, HeapPeak, HeapSite, Holders};
use crate::lazy::ResourceStatus;
use crate::log::{self, Head, Level, LogFormat, MAX_RECORD};
use crate::os;
use crate::size::{ByteDelta, ByteSize};

use super::json::{LabelJson, known, percentiles, recommended};
use super::labels::LabelStats;
use super::leak::LeakVerdict;
use super::recommend::{EnvironmentShare, Needs};
use super::report::Reserved;
use super::window::Percentiles;
use super::{Shared, report};

/// Columns of a bar.
const WIDTH: u64 = 50;

/// Allocation sites in the table.
const SITES: usize = 10;

/// Labels in the table.
const LABELS: usize = 10;

/// Labels of a JSON record, of at most 300 bytes each.
const JSON_LABELS: usize = 4;

/// The entries of a JSON record.
const SHOWN: Extent = Extent { sites: SITES, frames: 8, named_frames: 0 };

/// The memory of the process at one moment. `Display` draws it.
///
/// # Examples
///
/// ```no_run
/// # let monitor = plimsoll::Monitor::install_from_env();
/// let snapshot = monitor.snapshot();
/// println!("{snapshot}");
/// if let Some(peaks) = snapshot.peaks {
///     println!("99 of 100 invocations had a peak of at most {}", peaks.p99);
/// }
/// # Ok::<(), plimsoll::monitor::BuildError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The live heap; `None` without the tracking allocator.
    pub live: Option<ByteSize>,
    /// The peak heap since the last invocation began; `None` without the tracking allocator.
    pub peak: Option<HeapPeak>,
    /// Resident set size.
    pub rss: Option<ByteSize>,
    /// The highest resident set size seen so far.
    pub highest_rss: ByteSize,
    /// The highest anonymous memory of the cgroup, as in
    /// [`InvocationReport::highest_cgroup_anonymous`](super::InvocationReport::highest_cgroup_anonymous).
    pub highest_cgroup_anonymous: Option<ByteSize>,
    /// The alarm thresholds; `None` if no memory limit is known.
    pub thresholds: Option<AlarmThresholds>,
    /// The gauges, accounts and allocation sites that hold the memory.
    pub holders: Holders,
    /// The budget and its accounts, if the monitor was given one.
    pub reserved: Option<(Reserved, Vec<AccountUsage>)>,
    /// The watched resources, in the order of their naming.
    pub resources: Vec<ResourceStatus>,
    /// The watched caches, in the order of their naming.
    pub caches: Vec<CacheStats>,
    /// Whether what invocations leave behind grows, as the last report told it.
    pub verdict: LeakVerdict,
    /// Invocations reported so far; the percentiles are of the last of them.
    pub invocations: u64,
    /// The peak heap of those reported invocations in the window that were alone; their peak rss without the tracking
    /// allocator. `None` if none was alone: see [`labels`](Self::labels).
    pub peaks: Option<Percentiles<ByteSize>>,
    /// The heap of the requests with each label, as [`Monitor::labels`](super::Monitor::labels) returns it.
    pub labels: Vec<LabelStats>,
    /// The share of the memory size that the environment's own processes take.
    share: EnvironmentShare,
}

impl Snapshot {
    pub(super) fn take(shared: &Shared) -> Self {
        // Before the lock is taken, because it can take milliseconds.
        let holders = Holders::read();
        let labels = shared.labels.stats();
        let books = heap::stats().ok();
        let rss = os::rss().ok().map(|rss| rss.total);
        shared.cgroup_peak.sample(shared.clock.now());
        let mut state = shared.state();
        Self {
            live: books.map(|books| books.live),
            peak: books.map(|books| books.peak),
            rss,
            highest_rss: os::peak_rss().ok().max(rss).unwrap_or_default().max(ByteSize::bytes(state.highest_rss)),
            highest_cgroup_anonymous: shared.cgroup_peak.highest(),
            thresholds: shared.thresholds,
            holders,
            reserved: shared.budget.as_ref().map(|budget| (Reserved::of(budget), budget.accounts())),
            resources: shared.resources.statuses().collect(),
            caches: shared.caches.stats().collect(),
            verdict: state.verdict,
            invocations: shared.activity.ended(),
            peaks: state.window.own_peaks().map(|peaks| peaks.map(ByteSize::bytes)),
            labels,
            share: shared.share,
        }
    }

    /// Returns the recommended memory size in MB, as
    /// [`InvocationReport::recommended_mb`](super::InvocationReport::recommended_mb) does.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # let monitor = plimsoll::Monitor::install_from_env();
    /// println!("recommended are {:?} MB", monitor.snapshot().recommended_mb());
    /// ```
    pub fn recommended_mb(&self) -> Option<u64> {
        self.needs().recommended_mb()
    }

    fn needs(&self) -> Needs {
        Needs {
            highest_rss: self.highest_rss,
            cgroup_anonymous: self.highest_cgroup_anonymous,
            share: self.share,
            verdict: self.verdict,
        }
    }

    /// Writes the picture to standard error with one system call. If the [log format](super::LogFormat) is JSON, writes a
    /// record with the sizes, percentiles, verdict and [`Holders`] instead. Entries that would make it longer than 4 KiB
    /// are left out.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # let monitor = plimsoll::Monitor::install_from_env();
    /// monitor.snapshot().print();
    /// # Ok::<(), plimsoll::monitor::BuildError>(())
    /// ```
    pub fn print(&self) {
        match log::format() {
            LogFormat::Text => os::write_stderr(self.to_string().as_bytes()),
            LogFormat::Json => {
                let mut line = os::Line::<MAX_RECORD>::new();
                // Some 20 numbers.
                let is_whole = line.put(format_args!("{}", Record(self)));
                debug_assert!(is_whole, "the start of a record has a bounded length");
                self.holders.put_json(&mut line, SHOWN);
                line.put(format_args!("}}"));
                line.write_stderr();
            }
        }
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fmt_bars(f)?;
        self.fmt_holders(f)?;
        if let Some((reserved, accounts)) = &self.reserved {
            write!(f, "  {reserved} MiB:")?;
            for AccountUsage { name, reserved, peak, .. } in accounts {
                write!(f, " {} {reserved} (peak {peak})", Clean(name))?;
            }
            writeln!(f)?;
        }
        for status in &self.resources {
            writeln!(f, "  resource {status}")?;
        }
        for stats in &self.caches {
            writeln!(f, "  cache {stats}")?;
        }
        if self.verdict != LeakVerdict::Unknown {
            writeln!(f, "  what invocations leave: {}", self.verdict)?;
        }
        write!(f, "  {} invocations", self.invocations)?;
        if let Some(Percentiles { p50, p95, p99, max }) = self.peaks {
            let what = if self.peak.is_some() { "heap" } else { "rss" };
            write!(f, ": peak {what} p50 {p50} p95 {p95} p99 {p99} max {max}")?;
        }
        writeln!(f)?;
        for label in self.measured_labels().take(LABELS) {
            writeln!(f, "  {label}")?;
        }
        self.fmt_recommended(f)
    }
}

impl Snapshot {
    /// Writes the recommended memory size with the figures that it follows from.
    fn fmt_recommended(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let needs = self.needs();
        let Some(recommended) = needs.recommended_mb() else {
            return if needs.is_growing() { writeln!(f, "  recommended none: the heap grows") } else { Ok(()) };
        };
        let (what, share) = if needs.is_cgroup_larger() {
            ("memory of the cgroup", self.share.of_cgroup)
        } else {
            ("rss", self.share.of_process)
        };
        write!(f, "  recommended {recommended} MB: highest {what}")?;
        if share > ByteSize::ZERO {
            write!(f, ", {share} for the environment")?;
        }
        writeln!(f, ", a quarter more, at least 128 MB")
    }

    /// Returns the labels with requests of which the heap is available.
    fn measured_labels(&self) -> impl Iterator<Item = &LabelStats> {
        self.labels.iter().filter(|label| label.requests > label.not_available)
    }

    /// Writes a bar for each size, against the memory size; without a memory limit, the sizes alone.
    fn fmt_bars(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = [
            ("heap now", self.live),
            ("heap peak", self.peak.map(|peak| peak.at_most)),
            ("rss now", self.rss),
            ("rss peak", Some(self.highest_rss).filter(|rss| *rss > ByteSize::ZERO)),
        ];
        let Some(thresholds) = &self.thresholds else {
            writeln!(f, "plimsoll: memory, no limit known")?;
            return rows.into_iter().try_for_each(|(name, size)| match size {
                Some(size) => writeln!(f, "  {name:<9} {size:>10}"),
                None => writeln!(f, "  {name:<9} not known here"),
            });
        };
        let scale = thresholds.memory_size();
        let columns = |size: ByteSize| (size.saturating_mul(WIDTH).as_u64() / scale.as_u64().max(1)).min(WIDTH);
        let capacity = columns(thresholds.capacity()).min(WIDTH - 1);
        writeln!(f, "plimsoll: memory against {scale}, of which {} are this process's", thresholds.capacity())?;
        for (name, size) in rows {
            write!(f, "  {name:<9} |")?;
            let filled = size.map_or(0, |size| columns(size).max(1));
            for column in 0..WIDTH {
                f.write_str(match (column == capacity, column < filled) {
                    (true, _) => "!",
                    (false, true) => "#",
                    (false, false) => " ",
                })?;
            }
            match size {
                Some(size) => writeln!(f, "| {size:>10} {:>3} %", report::percent_of(size, scale))?,
                None => writeln!(f, "| not known here")?,
            }
        }
        Ok(())
    }
}

impl Snapshot {
    /// Writes the equations, the gauges and the table of allocation sites.
    ///
    /// ```text
    ///   heap 32.0 MiB = gauges 7.0 MiB + sites 20.0 MiB + unattributed 5.0 MiB
    ///   rss 39.9 MiB = heap 32.0 MiB + kept 2.0 MiB + rest +5.9 MiB
    ///   atlas: 7.0 MiB
    ///        bytes  share   blocks  allocation site
    ///     12.4 MiB 38.8 %      168  app::remember (src/main.rs:12)
    /// ```
    fn fmt_holders(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let holders = &self.holders;
        let Holders { heap, gauges, sites, unattributed, rss, kept, rest, .. } = holders;
        if let Some((heap, unattributed)) = heap.zip(*unattributed) {
            writeln!(f, "  heap {heap} = gauges {gauges} + sites {sites} + unattributed {unattributed}")?;
            if let (Some(rss), Some(kept), Some(rest)) = (rss, kept, rest) {
                writeln!(f, "  rss {rss} = heap {heap} + kept {kept} + rest {rest}")?;
            }
        }
        for (name, bytes) in holders.largest_gauges() {
            writeln!(f, "  {}: {bytes}", Clean(name))?;
        }
        if holders.is_profiled {
            writeln!(f, "  {:>10} {:>7} {:>8}  allocation site", "bytes", "share", "blocks")?;
        }
        for site in holders.largest_sites().take(SITES) {
            let HeapSite { bytes, blocks, .. } = site;
            let tenths = site.share_in_tenths();
            writeln!(f, "  {bytes:>10} {:>3}.{} % {blocks:>8}  {site}", tenths / 10, tenths % 10)?;
        }
        if self.reserved.is_none() {
            for (name, bytes) in holders.largest_accounts() {
                writeln!(f, "  reserved {}: {bytes}", Clean(name))?;
            }
        }
        Ok(())
    }
}

/// The start of a snapshot as one JSON record, without holders. Sizes are in bytes.
pub(super) struct Record<'a>(pub(super) &'a Snapshot);

impl fmt::Display for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let snapshot = self.0;
        let bytes = |size: Option<ByteSize>| size.map(ByteSize::as_u64);
        write!(f, "{}", Head::new("snapshot", Level::Info))?;
        known(f, "memory_size", bytes(snapshot.thresholds.map(|thresholds| thresholds.memory_size())))?;
        known(f, "heap_live", bytes(snapshot.live))?;
        known(f, "heap_peak", bytes(snapshot.peak.map(|peak| peak.at_most)))?;
        known(f, "rss", bytes(snapshot.rss))?;
        known(f, "kept", bytes(snapshot.holders.kept))?;
        known(f, "rest", snapshot.holders.rest.map(ByteDelta::as_i64))?;
        known(f, "rss_highest", bytes(Some(snapshot.highest_rss)))?;
        known(f, "cgroup_anonymous_highest", bytes(snapshot.highest_cgroup_anonymous))?;
        recommended(f, snapshot.recommended_mb(), snapshot.verdict)?;
        known(f, "invocations", Some(snapshot.invocations))?;
        write!(f, r#","verdict":"{}""#, snapshot.verdict)?;
        percentiles(f, "peak", snapshot.peaks)?;
        f.write_str(r#","labels":["#)?;
        for (index, label) in snapshot.measured_labels().take(JSON_LABELS).enumerate() {
            write!(f, "{}{}", if index == 0 { "" } else { "," }, LabelJson(label))?;
        }
        f.write_str("]")
    }
}
