//! The chart: duration and cost over the memory size, the load line, and the choice.

use std::error::Error;
use std::ops::Range;

use plimsoll::sizing::{Candidate, Fit, Point};
use plotters::chart::DualCoordChartContext;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::Study;

const SIZE: (u32, u32) = (960, 560);

const INK: RGBColor = RGBColor(38, 50, 56);
const FAINT: RGBColor = RGBColor(207, 214, 218);
const DURATION: RGBColor = RGBColor(21, 101, 192);
const COST: RGBColor = RGBColor(230, 119, 0);
const LOAD_LINE: RGBColor = RGBColor(198, 40, 40);
const CHOICE: RGBColor = RGBColor(46, 125, 50);

/// The least width of the axis of sizes, in doublings.
const WIDTH: f64 = 2.0;

/// The least distance of two labels on the axis of sizes, in doublings.
const APART: f64 = 0.22;

/// Draws the chart. What does not fit is drawn hollow, what was not measured as a range.
pub(crate) fn svg(study: &Study) -> Result<String, Box<dyn Error>> {
    let mut svg = String::new();
    draw(study, &SVGBackend::with_string(&mut svg, SIZE).into_drawing_area())?;
    Ok(svg)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn draw(study: &Study, root: &Area<'_>) -> Result<(), Box<dyn Error>> {
    let advice = &study.advice;
    let measured: Vec<(&Candidate, Point)> =
        advice.candidates.iter().filter_map(|candidate| Some((candidate, candidate.point?))).collect();
    root.fill(&WHITE)?;
    let sizes = measured.iter().map(|(_, point)| doublings(point.memory_size));
    let all = sizes.chain([doublings(advice.needed.0), doublings(advice.memory_size)]);
    let (low, high) = all.fold((f64::INFINITY, 0.0_f64), |(low, high), at| (low.min(at), high.max(at)));
    let aside = (WIDTH - (high - low)).max(0.5) / 2.0;
    let (low, high) = (low - aside, high + aside);
    let untried = advice.untried.as_ref();
    let untried_ms = untried.map_or(0.0, |untried| untried.duration.1);
    let untried_cost = untried.map_or(0.0, |untried| untried.cost.1.as_f64() * 1e6);
    let top =
        |of: fn(&Point) -> f64, least| measured.iter().map(|(_, point)| of(point)).fold(least, f64::max).max(1e-12);
    // Two heights, so that the curves of a single size do not cover each other.
    let (top_ms, top_cost) = (top(|point| point.duration, untried_ms) * 1.18, top(million, untried_cost) * 1.5);

    let mut labelled: Vec<f64> = measured.iter().map(|(_, point)| doublings(point.memory_size)).collect();
    labelled.extend(untried.map(|untried| doublings(untried.memory_size)));
    let mut chart = ChartBuilder::on(root)
        .margin(18)
        .margin_top(74)
        .x_label_area_size(52)
        .y_label_area_size(64)
        .right_y_label_area_size(64)
        .build_cartesian_2d(Sizes::new(low..high, &labelled), 0.0..top_ms)?
        .set_secondary_coord(Sizes::new(low..high, &labelled), 0.0..top_cost);

    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(FAINT)
        .axis_style(INK)
        .label_style(("sans-serif", 14).into_font().color(&INK))
        .axis_desc_style(("sans-serif", 15).into_font().color(&INK))
        .y_labels(7)
        .x_label_formatter(&|at| format!("{:.0}", at.exp2()))
        .y_label_formatter(&|ms| rounded(*ms, top_ms))
        .x_desc("memory size, MB")
        .y_desc("mean duration, ms")
        .draw()?;
    chart
        .configure_secondary_axes()
        .axis_style(INK)
        .label_style(("sans-serif", 14).into_font().color(&INK))
        .axis_desc_style(("sans-serif", 15).into_font().color(&INK))
        .y_labels(7)
        .y_label_formatter(&|cost| rounded(*cost, top_cost))
        .y_desc("dollars a million invocations")
        .draw()?;

    load_line(study, &mut chart, (low, high), top_ms)?;

    // What was not measured: a range for each curve, side by side.
    if let Some(untried) = untried {
        let (at, beside) = (doublings(untried.memory_size), 0.008 * (high - low));
        let (least, most) = untried.duration;
        chart.draw_series(range_mark(at - beside, (least, most), beside, DURATION))?;
        let (least, most) = (untried.cost.0.as_f64() * 1e6, untried.cost.1.as_f64() * 1e6);
        chart.draw_secondary_series(range_mark(at + beside, (least, most), beside, COST))?;
    }
    let choice = advice.choice().and_then(|choice| choice.point).map(|point| (point.memory_size, point.duration));
    if let Some((size, duration)) = choice.or(untried.map(|untried| (advice.memory_size, untried.duration.1))) {
        let at = doublings(size);
        chart.draw_series([PathElement::new([(at, 0.0), (at, duration)], CHOICE.stroke_width(2))])?;
        if !advice.extrapolated {
            chart.draw_series([Circle::new((at, duration), 11, CHOICE.stroke_width(3))])?;
        }
    }

    let line = |of: fn(&Point) -> f64| measured.iter().map(move |(_, point)| (doublings(point.memory_size), of(point)));
    chart.draw_series(LineSeries::new(line(|point| point.duration), DURATION.stroke_width(3)))?;
    chart.draw_secondary_series(LineSeries::new(line(million), COST.stroke_width(3)))?;
    chart.draw_series(marks(&measured, |point| point.duration, DURATION))?;
    chart.draw_secondary_series(marks(&measured, million, COST))?;
    headings(study, root)
}

type Chart<'a, 'b> = DualCoordChartContext<'a, SVGBackend<'b>, Plane, Plane>;
type Plane = Cartesian2d<Sizes, RangedCoordf64>;

/// What memory asks for: the load line, and the band of plenty behind it.
fn load_line(
    study: &Study,
    chart: &mut Chart<'_, '_>,
    (low, high): (f64, f64),
    top_ms: f64,
) -> Result<(), Box<dyn Error>> {
    let advice = &study.advice;
    let (from, to) = (doublings(advice.needed.0), doublings(advice.needed.1));
    chart.draw_series([Rectangle::new([(from, 0.0), (to, top_ms)], LOAD_LINE.mix(0.10).filled())])?;
    let dashes = (0..36).map(|n| f64::from(n) / 36.0 * top_ms);
    chart.draw_series(
        dashes.map(|at| PathElement::new([(from, at), (from, at + top_ms / 60.0)], LOAD_LINE.stroke_width(2))),
    )?;
    let is_right = from > low + 0.7 * (high - low);
    let (edge, anchor) = if is_right { (from - 0.02 * WIDTH, HPos::Right) } else { (to + 0.02 * WIDTH, HPos::Left) };
    let load_text = ("sans-serif", 14).into_font().color(&LOAD_LINE).pos(Pos::new(anchor, VPos::Top));
    let load_line = format!("load line {} MB", mb(advice.needed.0));
    chart.draw_series([Text::new(load_line, (edge, top_ms * 0.985), load_text)])?;
    Ok(())
}

/// A range between two ticks.
fn range_mark(at: f64, (least, most): (f64, f64), half: f64, color: RGBColor) -> [PathElement<(f64, f64)>; 3] {
    let line = |from, to| PathElement::new([from, to], color.stroke_width(2));
    let tick = |height| line((at - half * 0.7, height), (at + half * 0.7, height));
    [line((at, least), (at, most)), tick(least), tick(most)]
}

/// A dot for each size: full if it fits, hollow if not.
fn marks(
    measured: &[(&Candidate, Point)],
    of: fn(&Point) -> f64,
    color: RGBColor,
) -> impl Iterator<Item = Circle<(f64, f64), i32>> {
    let dots = move |(candidate, point): &(&Candidate, Point)| {
        let at = (doublings(point.memory_size), of(point));
        let rim = Circle::new(at, 5, color.filled());
        let hole = (candidate.fit != Fit::Fits).then(|| Circle::new(at, 3, WHITE.filled()));
        [Some(rim), hole]
    };
    measured.iter().flat_map(dots).flatten().collect::<Vec<_>>().into_iter()
}

/// Title and legend, above the plot.
fn headings(study: &Study, root: &Area<'_>) -> Result<(), Box<dyn Error>> {
    let advice = &study.advice;
    let by = if advice.extrapolated { "the memory used".to_owned() } else { advice.strategy.to_string() };
    let title = format!("{} MB by {by}", mb(advice.memory_size));
    let under = format!(
        "{} reports; peak {} MB, with {} % headroom {} MB; {}, {}",
        advice.reports,
        mb(advice.peak),
        span(*advice.headroom.start(), *advice.headroom.end()),
        span(mb(advice.needed.0), mb(advice.needed.1)),
        study.pricing.as_of(),
        study.pricing.architecture().as_str(),
    );
    root.draw(&Text::new(title, (82, 16), ("sans-serif", 24).into_font().color(&INK)))?;
    root.draw(&Text::new(under, (82, 46), ("sans-serif", 14).into_font().color(&INK)))?;
    if let Some(untried) = &advice.untried {
        let note = format!("bars at {} MB: not measured, but between these", mb(untried.memory_size));
        let at = Pos::new(HPos::Right, VPos::Top);
        let style = ("sans-serif", 13).into_font().color(&INK).pos(at);
        root.draw(&Text::new(note, (878, 528), style))?;
    }
    let legend = [("duration", DURATION), ("cost", COST), ("load line", LOAD_LINE), ("choice", CHOICE)];
    let mut x = 570;
    for (name, color) in legend {
        root.draw(&Circle::new((x, 27), 5, color.filled()))?;
        root.draw(&Text::new(name, (x + 11, 19), ("sans-serif", 15).into_font().color(&INK)))?;
        x += 40 + 7 * i32::try_from(name.len())?;
    }
    root.present()?;
    Ok(())
}

/// The axis of memory sizes, in doublings of a MB, with the measured sizes as its marks.
struct Sizes {
    range: Range<f64>,
    ticks: Vec<f64>,
}

impl Sizes {
    /// All sizes get a mark, the first of them first, unless they stand too close to one that has.
    fn new(range: Range<f64>, sizes: &[f64]) -> Self {
        let mut ticks: Vec<f64> = Vec::new();
        for at in sizes {
            if ticks.iter().all(|tick| (at - tick).abs() >= APART) {
                ticks.push(*at);
            }
        }
        Self { range, ticks }
    }
}

impl Ranged for Sizes {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        let share = (value - self.range.start) / (self.range.end - self.range.start);
        #[expect(clippy::cast_possible_truncation, reason = "pixels")]
        let along = (share * f64::from(to - from)).round() as i32;
        from + along
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

/// Sizes stand as far apart as they are doublings of each other.
fn doublings(size: plimsoll::ByteSize) -> f64 {
    size.as_mib_f64().log2()
}

/// `20-30`, or `25` where both ends are one.
fn span<T: Copy + PartialEq + std::fmt::Display>(low: T, high: T) -> String {
    if low == high { low.to_string() } else { format!("{low}-{high}") }
}

fn million(point: &Point) -> f64 {
    point.cost * 1e6
}

fn mb(size: plimsoll::ByteSize) -> u64 {
    size.as_u64().div_ceil(1 << 20)
}

/// A label with as many places as the axis is worth.
fn rounded(value: f64, top: f64) -> String {
    let places = if top >= 10.0 {
        0
    } else if top >= 1.0 {
        1
    } else {
        3
    };
    format!("{value:.places$}")
}
