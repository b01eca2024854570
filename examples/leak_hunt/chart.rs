//! The chart: the heap over the invocations, under the load line, and where the leak was seen.

use std::error::Error;

use plimsoll::ByteSize;
use plimsoll::monitor::LeakVerdict;
use plotters::chart::ChartContext;
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::{Hunt, Point};

const SIZE: (u32, u32) = (960, 560);

const INK: RGBColor = RGBColor(38, 50, 56);
const FAINT: RGBColor = RGBColor(207, 214, 218);
const HEAP: RGBColor = RGBColor(21, 101, 192);
const UNATTRIBUTED: RGBColor = RGBColor(230, 119, 0);
const LOAD_LINE: RGBColor = RGBColor(198, 40, 40);
const VERDICT: RGBColor = RGBColor(106, 27, 154);

/// The most points of a curve: more than there are columns show nothing.
const POINTS: usize = 2_000;

type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

pub(crate) fn svg(hunt: &Hunt) -> Result<String, Box<dyn Error>> {
    let mut svg = String::new();
    draw(hunt, &SVGBackend::with_string(&mut svg, SIZE).into_drawing_area())?;
    Ok(svg)
}

fn draw(hunt: &Hunt, root: &DrawingArea<SVGBackend<'_>, Shift>) -> Result<(), Box<dyn Error>> {
    root.fill(&WHITE)?;
    let right = of(hunt.points.len().max(2));
    let most = hunt.points.iter().map(|point| point.live).fold(hunt.capacity, ByteSize::max);
    let top = (most.as_mib_f64() * 1.08).max(1.0);
    let mut chart = ChartBuilder::on(root)
        .margin(18)
        .margin_top(74)
        .x_label_area_size(52)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..right, 0.0..top)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(FAINT)
        .axis_style(INK)
        .label_style(("sans-serif", 14).into_font().color(&INK))
        .axis_desc_style(("sans-serif", 15).into_font().color(&INK))
        .x_label_formatter(&|at| format!("{at:.0}"))
        .y_label_formatter(&|mib| format!("{mib:.0}"))
        .x_desc("invocations")
        .y_desc("heap after each, MiB")
        .draw()?;
    load_line(hunt, &mut chart, right)?;
    for (figure, color) in [(live as fn(&Point) -> f64, HEAP), (unattributed, UNATTRIBUTED)] {
        let every = hunt.points.len().div_ceil(POINTS).max(1);
        let curve = hunt.points.iter().enumerate().step_by(every).map(|(index, point)| (of(index + 1), figure(point)));
        chart.draw_series(LineSeries::new(curve, color.stroke_width(2)))?;
    }
    let seen = seen(hunt, &mut chart, right, top)?;
    headings(&seen, root)
}

fn live(point: &Point) -> f64 {
    point.live.as_mib_f64()
}

fn unattributed(point: &Point) -> f64 {
    point.unattributed.as_mib_f64()
}

/// What the memory size leaves the process, in dashes.
fn load_line(hunt: &Hunt, chart: &mut Chart<'_, '_>, right: f64) -> Result<(), Box<dyn Error>> {
    let height = hunt.capacity.as_mib_f64();
    let dashes = (0..60).map(|dash| f64::from(dash) / 60.0 * right);
    chart
        .draw_series(dashes.map(|from| {
            PathElement::new([(from, height), (from + right / 100.0, height)], LOAD_LINE.stroke_width(2))
        }))?;
    let style = ("sans-serif", 14).into_font().color(&LOAD_LINE).pos(Pos::new(HPos::Left, VPos::Bottom));
    chart.draw_series([Text::new(format!("load line {}", hunt.capacity), (right * 0.01, height * 1.005), style)])?;
    Ok(())
}

/// A line where the leak was seen, and in words what was seen at the end.
fn seen(hunt: &Hunt, chart: &mut Chart<'_, '_>, right: f64, top: f64) -> Result<String, Box<dyn Error>> {
    let Some(at) = hunt.seen() else {
        let last = hunt.points.last().map_or(LeakVerdict::Unknown, |point| point.verdict);
        return Ok(format!("{last} after {} invocations", hunt.points.len()));
    };
    let verdict = hunt.points.get(at - 1).map_or(LeakVerdict::Unknown, |point| point.verdict);
    let is_right = of(at) > right / 2.0;
    let (anchor, aside) = if is_right { (HPos::Right, -0.01) } else { (HPos::Left, 0.01) };
    let style = ("sans-serif", 14).into_font().color(&VERDICT).pos(Pos::new(anchor, VPos::Top));
    chart.draw_series([PathElement::new([(of(at), 0.0), (of(at), top * 0.9)], VERDICT.stroke_width(2))])?;
    chart.draw_series([Text::new(format!("seen after {at}"), (of(at) + aside * right, top * 0.88), style)])?;
    Ok(format!("{verdict}: seen after {at} invocations"))
}

/// Title and legend, above the plot.
fn headings(title: &str, root: &DrawingArea<SVGBackend<'_>, Shift>) -> Result<(), Box<dyn Error>> {
    root.draw(&Text::new(title.to_owned(), (82, 16), ("sans-serif", 22).into_font().color(&INK)))?;
    let legend = [("heap", HEAP), ("unattributed", UNATTRIBUTED), ("load line", LOAD_LINE), ("verdict", VERDICT)];
    let mut x = 88;
    for (name, color) in legend {
        root.draw(&Circle::new((x, 55), 5, color.filled()))?;
        root.draw(&Text::new(name, (x + 11, 47), ("sans-serif", 15).into_font().color(&INK)))?;
        x += 40 + 7 * i32::try_from(name.len())?;
    }
    root.present()?;
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "at most a million")]
const fn of(count: usize) -> f64 {
    count as f64
}
