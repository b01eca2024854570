//! The same as JSON, for other programs. Durations in milliseconds, memory in AWS's MB, money in dollars.

use plimsoll::ByteSize;
use plimsoll::sizing::{Candidate, SizeProfile};
use serde_json::{Value, json};

use crate::Study;

pub(crate) fn text(study: &Study) -> String {
    let advice = &study.advice;
    let optional = |size: Option<ByteSize>| size.map(mb);
    let sizes: Vec<Value> =
        study.profile.sizes().zip(&advice.candidates).map(|(size, candidate)| row(study, size, candidate)).collect();
    let counts = &study.counts;
    let document = json!({
        "memorySizeMB": mb(advice.memory_size),
        "extrapolated": advice.extrapolated,
        "strategy": advice.strategy.to_string(),
        "selectedMB": optional(advice.selected),
        "plateauMB": optional(advice.plateau),
        "used": {"p95MB": mb(advice.p95), "p99MB": mb(advice.p99), "maxMB": mb(advice.peak)},
        "needed": {
            "fromMB": mb(advice.needed.0),
            "toMB": mb(advice.needed.1),
            "headroomPercent": [advice.headroom.start(), advice.headroom.end()],
        },
        "untried": advice.untried.map(|untried| json!({
            "memorySizeMB": mb(untried.memory_size),
            "durationMs": [untried.duration.0, untried.duration.1],
            "cost": [untried.cost.0.as_f64(), untried.cost.1.as_f64()],
        })),
        "caveats": advice.caveats.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "sizes": sizes,
        "prices": {"asOf": study.pricing.as_of(), "architecture": study.pricing.architecture().as_str()},
        "log": {
            "lines": counts.lines,
            "reports": counts.reports,
            "copies": counts.copies,
            "malformed": counts.malformed,
            "oversized": counts.oversized,
            "skipped": counts.skipped,
            "killedWithoutReport": counts.killed_without_report,
        },
    });
    format!("{document:#}\n")
}

fn row(study: &Study, size: &SizeProfile, candidate: &Candidate) -> Value {
    let used = |percent| size.used(percent).map(mb);
    json!({
        "memorySizeMB": mb(candidate.memory_size),
        "fit": candidate.fit.as_str(),
        "reports": size.reports(),
        "coldStarts": size.cold_starts(),
        "failed": size.failed(),
        "timedOut": size.timed_out(),
        "outOfMemory": size.out_of_memory(),
        "outOfMemorySuspected": size.suspected(),
        "atLimit": size.thrashing(),
        "usedMB": {"p95": used(95), "p99": used(99), "max": used(100)},
        "runs": candidate.runs,
        "sampled": size.sampled(),
        "durationMs": candidate.point.map(|point| point.duration),
        "durationP95Ms": size.duration(95),
        "cost": candidate.point.map(|point| point.cost),
        "value": candidate.value.map(|value| value.to_string()),
        "costPerMonth": study.monthly.map(|n| study.pricing.month(n, candidate.billed).total().as_f64()),
    })
}

fn mb(size: ByteSize) -> u64 {
    size.as_u64().div_ceil(1 << 20)
}
