//! A report as the members of a JSON object: for report lines in JSON and for CloudWatch metrics.

use std::fmt::{self, Write as _};

use crate::board::{self, Clean};
use crate::clock::micros;
use crate::heap::{self, HeapSite, SiteJson};
use crate::log::{Head, Level};
use crate::size::{ByteDelta, ByteSize};

use super::window::Percentiles;
use super::{CacheCounts, InvocationHeap, InvocationReport, LabelStats, LeakVerdict, Trimmed};

/// A report as one JSON record: the members that all records have, then [`Members`].
pub(super) struct Record<'a>(pub(super) &'a InvocationReport);

impl fmt::Display for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let needs_attention = self.0.crossed.is_some() || self.0.alerts().next().is_some();
        let level = if needs_attention { Level::Warn } else { Level::Info };
        write!(f, "{}{}}}", Head::new("report", level), Members(self.0))
    }
}

/// The members of a report, each after a comma. Sizes are in bytes, except `total_memory` and `used_memory_max`, which are in MB.
pub(super) struct Members<'a>(pub(super) &'a InvocationReport);

impl fmt::Display for Members<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Metric { name, value, .. } in metrics(self.0) {
            write!(f, r#","{name}":{value}"#)?;
        }
        self.properties(f)
    }
}

/// One figure of a report that CloudWatch may aggregate.
pub(super) struct Metric {
    pub(super) name: &'static str,
    #[cfg_attr(not(feature = "emf"), expect(dead_code, reason = "only CloudWatch wants units"))]
    pub(super) unit: &'static str,
    value: Number,
}

enum Number {
    Whole(u64),
    /// In tenths.
    Tenths(u128),
}

impl Metric {
    const fn bytes(name: &'static str, size: ByteSize) -> Self {
        Self { name, unit: "Bytes", value: Number::Whole(size.as_u64()) }
    }

    const fn count(name: &'static str, count: u64) -> Self {
        Self { name, unit: "Count", value: Number::Whole(count) }
    }

    fn percent(name: &'static str, part: ByteSize, of: ByteSize) -> Self {
        let tenths = u128::from(part.as_u64()) * 1000 / u128::from(of.as_u64().max(1));
        Self { name, unit: "Percent", value: Number::Tenths(tenths) }
    }
}

/// Returns the figures of `report` that are metrics. A figure that is not known is left out.
pub(super) fn metrics(report: &InvocationReport) -> impl Iterator<Item = Metric> {
    let used = report.peak_rss.max(report.rss).map(|rss| rss.saturating_add(report.share));
    let watched = report.resources;
    let heap = |metric: fn(&InvocationHeap) -> Metric| report.heap.as_ref().map(metric);
    let metrics = [
        used.zip(report.thresholds)
            .map(|(used, thresholds)| Metric::percent("memory_utilization", used, thresholds.memory_size())),
        used.map(|used| Metric {
            name: "used_memory_max",
            unit: "Megabytes",
            value: Number::Whole(used.as_u64().div_ceil(1 << 20)),
        }),
        report
            .heap
            .zip(report.thresholds)
            .map(|(heap, thresholds)| Metric::percent("heap_utilization", heap.peak.at_most, thresholds.capacity())),
        heap(|heap| Metric::bytes("heap_peak", heap.peak.at_most)),
        heap(|heap| Metric::bytes("heap_live", heap.live)),
        report.heap.map(|_| Metric::count("allocations_refused", report.refused)),
        Some(Metric::count("alerts", report.alerts().count() as u64)),
        // Not known without room, and at most 100 if more is reserved than there is room for.
        report.reserved.filter(|reserved| reserved.capacity > ByteSize::ZERO).map(|reserved| {
            Metric::percent("budget_utilization", reserved.bytes.min(reserved.capacity), reserved.capacity)
        }),
        leak(report.verdict).map(|leak| Metric::bytes("leak_per_invocation", leak)),
        (!watched.is_empty()).then(|| Metric::count("resources_failed", watched.failed as u64)),
    ];
    metrics.into_iter().flatten()
}

/// Returns the bytes that each invocation leaves behind; `None` while they are not known.
const fn leak(verdict: LeakVerdict) -> Option<ByteSize> {
    match verdict {
        LeakVerdict::Unknown | LeakVerdict::Rising { .. } => None,
        LeakVerdict::Steady | LeakVerdict::Retaining { .. } | LeakVerdict::Outside { .. } => Some(ByteSize::ZERO),
        LeakVerdict::Growing { per_invocation, .. } => Some(per_invocation),
    }
}

impl Members<'_> {
    /// Writes the members that are not metrics, each after a comma.
    fn properties(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = self.0;
        write!(f, r#","request_id":"{}","outcome":"{}""#, report.id.as_str(), report.outcome)?;
        if !report.label.is_empty() {
            write!(f, r#","label":"{}""#, report.label)?;
        }
        write!(f, r#","cold_start":{},"concurrent":{}"#, report.invocations == 1, report.concurrent)?;
        write!(f, r#","invocations":{}"#, report.invocations)?;
        let micros = micros(report.duration);
        write!(f, r#","duration":{}.{:03}"#, micros / 1000, micros % 1000)?;
        if let Some(own) = report.own {
            property(f, "own_allocated", own.allocated.as_u64())?;
            property(f, "own_net", own.net.as_i64())?;
            property(f, "own_peak", own.peak.as_u64())?;
        }
        if report.of_label.requests > report.of_label.not_available {
            write!(f, r#","of_label":{}"#, LabelJson(&report.of_label))?;
        }
        known(f, "total_memory", report.thresholds.map(|thresholds| thresholds.memory_size().as_u64() >> 20))?;
        known(f, "heap_growth", report.heap.map(|heap| heap.growth.as_i64()))?;
        known(f, "heap_unattributed", report.heap.map(|heap| heap.unattributed.as_u64()))?;
        known(f, "rss", report.rss.map(ByteSize::as_u64))?;
        known(f, "rss_peak", report.peak_rss.map(ByteSize::as_u64))?;
        property(f, "rss_highest", report.highest_rss.as_u64())?;
        known(f, "fits_mb", report.fits_mb())?;
        known(f, "alarm_threshold", report.crossed)?;
        self.verdict(f)?;
        if report.caches != CacheCounts::default() {
            let CacheCounts { hits, misses, evictions_by_size, expirations, evictions_by_pressure } = report.caches;
            property(f, "cache_hits", hits)?;
            property(f, "cache_misses", misses)?;
            property(f, "evicted_size", evictions_by_size)?;
            property(f, "evicted_expired", expirations)?;
            property(f, "evicted_pressure", evictions_by_pressure)?;
        }
        if let Some(reserved) = report.reserved {
            property(f, "budget_reserved", reserved.bytes.as_u64())?;
            property(f, "budget_room", reserved.capacity.as_u64())?;
            write!(f, r#","budget_pressure":"{}""#, reserved.pressure)?;
        }
        known(f, "budget_drift", report.drift().map(ByteDelta::as_i64))?;
        if !report.resources.is_empty() {
            property(f, "resources_loaded", report.resources.loaded)?;
            property(f, "resources_unloaded", report.resources.unloaded)?;
            property(f, "resources_never_used", report.resources.never_used)?;
        }
        if let Some(name) = report.resources.first_never_used {
            write!(f, r#","first_never_used":"{}""#, Clean(name))?;
        }
        f.write_str(r#","alert_names":["#)?;
        for (index, alert) in report.alerts().enumerate() {
            write!(f, r#"{}"{alert}""#, comma(index))?;
        }
        f.write_char(']')?;
        for (name, held) in [("gauges", report.gauges), ("reserved", report.accounts)] {
            write!(f, r#","{name}":{{"#)?;
            for (index, (name, bytes)) in board::numbered(held).iter().flatten().enumerate() {
                write!(f, r#"{}"{name}":{}"#, comma(index), bytes.as_u64())?;
            }
            f.write_char('}')?;
        }
        Ok(())
    }
}

/// The sums of a label as a JSON object, in at most 300 bytes.
pub(super) struct LabelJson<'a>(pub(super) &'a LabelStats);

impl fmt::Display for LabelJson<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LabelStats { label, requests, refused, not_available, allocated, net, peak } = self.0;
        write!(f, r#"{{"label":"{label}","requests":{requests},"refused":{refused},"not_available":{not_available}"#)?;
        write!(f, r#","allocated":{},"net":{}"#, allocated.as_u64(), net.as_i64())?;
        let Percentiles { p50, p95, p99, max } = peak.map(ByteSize::as_u64);
        write!(f, r#","peak":{{"p50":{p50},"p95":{p95},"p99":{p99},"max":{max}}}}}"#)
    }
}

impl Members<'_> {
    fn verdict(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.0.verdict {
            LeakVerdict::Unknown => "unknown",
            LeakVerdict::Rising { .. } => "rising",
            LeakVerdict::Steady => "steady",
            LeakVerdict::Growing { .. } => "growing",
            LeakVerdict::Retaining { .. } => "retaining",
            LeakVerdict::Outside { .. } => "outside",
        };
        write!(f, r#","verdict":"{word}""#)?;
        match self.0.verdict {
            LeakVerdict::Growing { invocations_left, .. } => {
                known(f, "invocations_left", invocations_left)?;
                self.growing_sites(f)?;
            }
            LeakVerdict::Retaining { beyond_heap, remedy } => {
                property(f, "retained", beyond_heap.as_u64())?;
                write!(f, r#","remedy":"{remedy}""#)?;
            }
            LeakVerdict::Outside { bytes, remedy } => {
                property(f, "outside", bytes.as_u64())?;
                write!(f, r#","remedy":"{remedy}""#)?;
            }
            _ => (),
        }
        let Some(Trimmed { given_back, duration, .. }) = self.0.trimmed else { return Ok(()) };
        property(f, "trimmed", given_back.as_u64())?;
        property(f, "trimmed_us", micros(duration))
    }
}

impl Members<'_> {
    /// Writes the sites that grew, or nothing if none is known.
    fn growing_sites(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sites = self.0.growing_sites.iter().flatten();
        if sites.clone().next().is_none() {
            return Ok(());
        }
        f.write_str(r#","growing_sites":["#)?;
        for (index, site) in sites.enumerate() {
            let frames = if site.function.is_some() { 0 } else { HeapSite::PRINTED_FRAMES };
            write!(f, "{}{}", comma(index), SiteJson { site, frames })?;
        }
        f.write_char(']')?;
        heap::build_id().map_or(Ok(()), |id| write!(f, r#","build_id":"{id}""#))
    }
}

const fn comma(index: usize) -> &'static str {
    if index == 0 { "" } else { "," }
}

fn property(f: &mut fmt::Formatter<'_>, name: &str, value: impl fmt::Display) -> fmt::Result {
    write!(f, r#","{name}":{value}"#)
}

pub(super) fn known(f: &mut fmt::Formatter<'_>, name: &str, value: Option<impl fmt::Display>) -> fmt::Result {
    value.map_or(Ok(()), |value| property(f, name, value))
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(whole) => write!(f, "{whole}"),
            Self::Tenths(tenths) => write!(f, "{}.{}", tenths / 10, tenths % 10),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::budget::Pressure;
    use crate::heap::{AlarmThresholds, HeapPeak};
    use crate::log::MAX_RECORD;
    use crate::monitor::alert::Alerts;
    use crate::monitor::report::Reserved;
    use crate::monitor::{Alert, Label, Outcome, Remedy, RequestId, ResourceCounts};

    const ALERTS: [Alert; 5] =
        [Alert::NearLimit, Alert::RisingMemory, Alert::SlowerInvocations, Alert::Refused, Alert::GrowingHeap];

    fn figure() -> impl Strategy<Value = u64> {
        prop_oneof![Just(0), Just(u64::MAX), any::<u64>(), 0..1_u64 << 40]
    }

    fn size() -> impl Strategy<Value = ByteSize> {
        figure().prop_map(ByteSize::bytes)
    }

    fn name() -> impl Strategy<Value = &'static str> {
        prop_oneof!["(\\PC|[\u{0}-\u{7f}]|[\"\\\\]){0,80}", Just("\u{1d4d0}".repeat(99)), Just("\"".repeat(99))]
            .prop_map(|name| &*name.leak())
    }

    fn verdict() -> impl Strategy<Value = LeakVerdict> {
        prop_oneof![
            (size(), option::of(figure())).prop_map(|(per_invocation, invocations_left)| LeakVerdict::Growing {
                per_invocation,
                invocations_left
            }),
            size().prop_map(|beyond_heap| LeakVerdict::Retaining { beyond_heap, remedy: Remedy::AnotherAllocator }),
            size().prop_map(|bytes| LeakVerdict::Outside { bytes, remedy: Remedy::CLibrary }),
        ]
    }

    fn heap() -> impl Strategy<Value = InvocationHeap> {
        (size(), size(), size(), any::<i64>()).prop_map(|(live, peak, unattributed, growth)| InvocationHeap {
            live_before: ByteSize::ZERO,
            live,
            peak: HeapPeak { at_least: ByteSize::ZERO, at_most: peak },
            growth: ByteDelta::bytes(growth),
            unattributed,
        })
    }

    prop_compose! {
        fn any_report()(
            (id, label) in (name(), name()),
            heap in option::of(heap()),
            lines in option::of((size(), size())),
            sizes in vec(option::of(size()), 5),
            [hits, misses, evictions_by_size, expirations, evictions_by_pressure, invocations, micros, refused] in
                [figure(), figure(), figure(), figure(), figure(), figure(), figure(), figure()],
            crossed in option::of(1..=100_u8),
            gauges in [option::of((name(), size())), option::of((name(), size())), option::of((name(), size()))],
            accounts in [option::of((name(), size())), option::of((name(), size())), option::of((name(), size()))],
            resources in [any::<u32>(), any::<u32>(), any::<u32>(), any::<u32>()],
            first_never_used in option::of(name()),
            verdict in verdict(),
            alerts in any::<[bool; 5]>(),
            flags in any::<[bool; 2]>(),
        ) -> InvocationReport {
            let mut report = InvocationReport::for_test(None);
            (report.id, report.label) = (RequestId::new(id), Label::new(label));
            report.outcome = if flags[0] { Outcome::Finished } else { Outcome::Unfinished };
            report.heap = heap;
            report.thresholds = lines.map(|(size, share)| AlarmThresholds::new(size).environment_share(share));
            (report.rss, report.peak_rss) = (sizes[0], sizes[1]);
            report.highest_rss = sizes[2].unwrap_or_default();
            report.reserved =
                sizes[3].map(|bytes| Reserved { bytes, capacity: report.highest_rss, pressure: Pressure::Critical });
            report.trimmed = sizes[4].map(|size| Trimmed::new(size, Duration::from_micros(micros)));
            report.caches = CacheCounts { hits, misses, evictions_by_size, expirations, evictions_by_pressure };
            report.duration = Duration::from_micros(micros);
            (report.invocations, report.refused, report.crossed) = (invocations, refused, crossed);
            (report.gauges, report.accounts) = (gauges, accounts);
            (report.concurrent, report.verdict) = (flags[1], verdict);
            let [loaded, unloaded, failed, never_used] = resources.map(|count| count as usize);
            report.resources = ResourceCounts { loaded, unloaded, failed, never_used, first_never_used };
            report.alerts = ALERTS.into_iter().zip(alerts).fold(Alerts::default(), |all, (alert, is_shown)| {
                all.with(alert, is_shown)
            });
            report
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

        #[test]
        fn record_of_any_report_is_one_object_in_one_line(report in any_report()) {
            let line = Record(&report).to_string();
            prop_assert!(line.len() < MAX_RECORD && !line.contains('\n'), "{} bytes: {line}", line.len());
            let record: Value = serde_json::from_str(&line).map_err(|error| {
                TestCaseError::fail(format!("{error}: {line}"))
            })?;
            prop_assert_eq!(&record["plimsoll"], "report");
            prop_assert_eq!(&record["v"], 1);
            prop_assert_eq!(record["request_id"].as_str(), Some(report.id.as_str()));
            prop_assert_eq!(record["label"].as_str().unwrap_or_default(), report.label.as_str());
            prop_assert_eq!(record["heap_live"].as_u64(), report.heap.map(|heap| heap.live.as_u64()));
            for (name, held) in [("gauges", report.gauges), ("reserved", report.accounts)] {
                let members = record[name].as_object().map(serde_json::Map::len);
                prop_assert_eq!(members, Some(held.iter().flatten().count()));
            }
        }

        #[test]
        fn record_level_is_warn_if_a_line_is_crossed_or_an_alert_shown(report in any_report()) {
            let record: Value = serde_json::from_str(&Record(&report).to_string()).unwrap();
            let is_quiet = report.crossed.is_none() && record["alert_names"].as_array().unwrap().is_empty();
            prop_assert_eq!(&record["level"], if is_quiet { "INFO" } else { "WARN" });
        }
    }

    #[test]
    fn record_level_without_a_finding_is_info() {
        let mut report = InvocationReport::for_test(None);
        let level = |report: &InvocationReport| {
            serde_json::from_str::<Value>(&Record(report).to_string()).unwrap()["level"].clone()
        };
        assert_eq!(level(&report), "INFO");
        report.crossed = Some(70);
        assert_eq!(level(&report), "WARN");
        (report.crossed, report.alerts) = (None, Alerts::default().with(Alert::Refused, true));
        assert_eq!(level(&report), "WARN");
    }
}
