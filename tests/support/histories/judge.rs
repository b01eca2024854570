//! The verdict on an alarm, from moments that the process measured itself.
//!
//! The danger of a moment is the rss and the untouched bytes of the block that an allocator has just returned, or the
//! peak of the rss within the step. A crossing lasts until the danger is a twentieth below the threshold.

use serde_json::{Value, json};

use super::MIB;

/// The measurements of one moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Moment {
    /// The rss when the step began.
    pub rss_before: usize,
    pub rss: usize,
    /// Untouched bytes of the block that was just returned.
    pub untouched: usize,
    /// Untouched bytes of the last large block of each thread, but for the one that was just returned.
    pub pending: usize,
    /// The peak of the rss since the step began.
    pub peak: usize,
    /// The bytes that were just allocated; `None` if no allocator was called.
    pub request: Option<usize>,
    /// `true` if the allocator touches pages itself, as `alloc_zeroed` and `realloc` may.
    pub inside: bool,
    /// `true` if the alarm must have read the rss here.
    pub obliged: bool,
    /// `true` if at least 1 MiB was just freed.
    pub freed: bool,
    /// Alarms that were written since the last moment.
    pub alarms: u64,
}

impl Moment {
    fn danger(&self) -> usize {
        self.rss + self.untouched
    }

    /// Returns the highest danger that can justify an alarm.
    pub fn highest(&self) -> usize {
        self.danger().max(self.peak)
    }
}

/// The threshold, and the distance that the danger must have from it for a verdict.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub threshold: usize,
    pub capacity: usize,
    pub band: usize,
}

impl Limits {
    fn falls_below(&self) -> usize {
        self.threshold - self.threshold / 20
    }
}

/// Counts of one history.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    pub alarms: u64,
    /// Alarms without danger.
    pub false_alarms: u64,
    /// Crossings without an alarm at the first moment that obliges to one.
    pub missed: u64,
    /// Those of them that came after an alarm and a fall.
    pub missed_again: u64,
    /// Crossings by pages that were touched without a call of the allocator.
    pub unseen: u64,
    /// Alarms before a call that touches pages itself: the rss and the whole request reached the capacity.
    pub early: u64,
    /// Alarms that only the last blocks of other threads justify, which may never be touched.
    pub pending: u64,
    /// Alarms after the first one of a crossing.
    pub repeated: u64,
}

/// Follows one alarm, the real one or a control.
#[derive(Debug)]
struct Judge {
    limits: Limits,
    count: Count,
    /// `true` if the danger was low since the last alarm.
    fell: bool,
    /// `true` if an alarm was written in this crossing.
    alarmed: bool,
    missing: bool,
    unseen: bool,
}

impl Judge {
    fn new(limits: Limits) -> Self {
        Self { limits, count: Count::default(), fell: true, alarmed: false, missing: false, unseen: false }
    }

    fn see(&mut self, moment: &Moment, alarms: u64) {
        let Limits { threshold, capacity, band } = self.limits;
        let (danger, highest) = (moment.danger(), moment.highest());
        for _ in 0..alarms {
            self.count.alarms += 1;
            if highest + band < threshold {
                let reaches = moment.rss_before + moment.request.unwrap_or(0) + MIB >= capacity;
                if moment.inside && reaches {
                    self.count.early += 1;
                } else if highest + moment.pending + band >= threshold {
                    self.count.pending += 1;
                } else {
                    self.count.false_alarms += 1;
                }
            } else if !self.fell {
                self.count.repeated += 1;
            }
            self.fell = false;
            self.alarmed = true;
        }
        if alarms == 0 {
            let low = self.limits.falls_below();
            self.fell |= danger < low + MIB;
            if (moment.obliged || moment.freed) && danger + moment.pending + MIB < low {
                (self.alarmed, self.missing, self.unseen) = (false, false, false);
            }
        }
        // A peak inside of `realloc` obliges at the capacity only.
        let inside = if moment.inside { moment.peak.saturating_sub(capacity - threshold) } else { 0 };
        if !self.alarmed && danger.max(inside) >= threshold + band {
            if moment.obliged {
                self.count.missed += u64::from(!self.missing);
                self.count.missed_again += u64::from(!self.missing && self.count.alarms > 0);
                self.missing = true;
            } else if !self.missing {
                self.count.unseen += u64::from(!self.unseen);
                self.unseen = true;
            }
        }
    }
}

/// The rule of an alarm that is computed from the moments alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// By the danger, at the moments that oblige to an alarm. Must be right.
    Reference,
    /// By the rss at each allocation and no part of the request. Must miss.
    Nothing,
    /// By the rss at each allocation and all of the request. Must be false.
    Whole,
}

/// An alarm that follows a rule, and its judge.
#[derive(Debug)]
struct Control {
    rule: Rule,
    up: bool,
    judge: Judge,
}

impl Control {
    fn new(limits: Limits, rule: Rule) -> Self {
        Self { rule, up: false, judge: Judge::new(limits) }
    }

    fn see(&mut self, moment: &Moment) {
        let Limits { threshold, capacity, .. } = self.judge.limits;
        let request = moment.request.unwrap_or(0);
        let allocated = moment.request.is_some();
        let (load, looks) = match self.rule {
            Rule::Nothing => (moment.rss, allocated),
            Rule::Whole => (moment.rss + request, allocated),
            Rule::Reference => (moment.danger(), moment.obliged),
        };
        let before_call = self.rule == Rule::Reference && moment.inside && moment.rss_before + request >= capacity;
        let alarms = !self.up && (looks && load >= threshold || before_call);
        let falls = (self.rule != Rule::Reference || looks || moment.freed) && load < self.judge.limits.falls_below();
        self.up = alarms || self.up && !falls;
        self.judge.see(moment, u64::from(alarms));
    }
}

/// All that is found out about one history.
#[derive(Debug)]
pub struct Figures {
    alarm: Judge,
    controls: [Control; 3],
    highest: usize,
}

/// The result of a history, in the order of precedence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Ambiguous,
    False,
    Missed,
    Repeated,
    Unseen,
    Early,
    Pending,
    Right,
}

impl Verdict {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ambiguous => "ambiguous",
            Self::False => "false",
            Self::Missed => "missed",
            Self::Repeated => "repeated",
            Self::Unseen => "unseen",
            Self::Early => "early",
            Self::Pending => "pending",
            Self::Right => "right",
        }
    }
}

impl Figures {
    pub fn new(limits: Limits) -> Self {
        let controls = [Rule::Reference, Rule::Nothing, Rule::Whole].map(|rule| Control::new(limits, rule));
        Self { alarm: Judge::new(limits), controls, highest: 0 }
    }

    pub fn see(&mut self, moment: &Moment) {
        self.highest = self.highest.max(moment.highest());
        self.alarm.see(moment, moment.alarms);
        self.controls.iter_mut().for_each(|control| control.see(moment));
    }

    /// Returns the verdict on one alarm.
    fn verdict(&self, count: &Count) -> Verdict {
        let Limits { threshold, band, .. } = self.alarm.limits;
        if self.highest + band >= threshold && self.highest < threshold + band {
            return Verdict::Ambiguous;
        }
        let found = [
            (count.false_alarms, Verdict::False),
            (count.missed, Verdict::Missed),
            (count.repeated, Verdict::Repeated),
            (count.unseen, Verdict::Unseen),
            (count.early, Verdict::Early),
            (count.pending, Verdict::Pending),
        ];
        found.iter().find(|(count, _)| *count > 0).map_or(Verdict::Right, |found| found.1)
    }

    /// Returns the figures as an object of JSON.
    pub fn json(&self, seed: u64, kind: &str) -> Value {
        let count = &self.alarm.count;
        let [reference, nothing, whole] =
            self.controls.each_ref().map(|control| self.verdict(&control.judge.count).name());
        json!({
            "seed": seed,
            "kind": kind,
            "threshold": self.alarm.limits.threshold,
            "highest": self.highest,
            "danger": self.highest >= self.alarm.limits.threshold,
            "verdict": self.verdict(count).name(),
            "alarms": count.alarms,
            "false": count.false_alarms,
            "missed": count.missed,
            "missed_again": count.missed_again,
            "unseen": count.unseen,
            "early": count.early,
            "pending": count.pending,
            "repeated": count.repeated,
            "reference": reference,
            "control_nothing": nothing,
            "control_whole": whole,
        })
    }
}
