//! Whether a short series of levels rises, by how much, and whether it still does: statistics without I/O.
//!
//! A rise must pass four tests, each against another false friend:
//!
//! 1. *It is spread.* Every quarter lies over the one before it by a fifth of the mean step: one jump, however high,
//!    leaves quarters that do not. It ends most looks, as it costs least. A few jumps are told by the slopes from near to
//!    near, of which most are flat then.
//! 2. *It is there.* The sign statistic of Mann (1945) and Kendall (1948) over all pairs, which no outlier moves.
//! 3. *It is more than noise.* The slope of Theil (1950) and Sen (1968), the median of the slopes of pairs, against its
//!    standard error. The pairs are those a third of the way apart: they know nearly all that the others do, at half the
//!    cost. Neighbours that resemble each other make less of a sample, so the error is that of the
//!    effective sample size (Bayley and Hammersley 1946, used for trends by Hamed and Rao 1998), from the residuals'
//!    autocorrelations up to the first that is not positive (Geyer 1992).
//! 4. *It goes on.* The newest part does not lie under the line of all before it: what fills up and stops is no leak.
//!
//! The thresholds are far beyond those of a single test, as the question is put again at every invocation and the looks
//! overlap: they were set by simulation, on the corpus that the tests of this module repeat.

/// The most levels that are looked at together.
pub(super) const MOST: usize = 64;

/// The most pairs of levels that are a third of the way apart.
const PAIRS: usize = (MOST - MOST / 3) * (MOST - MOST / 3 + 1) / 2;

/// What a rise must reach to be one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bar {
    /// The sign statistic, in its standard deviations.
    pub(super) signs: f64,
    /// The slope, in its standard errors.
    pub(super) slope: f64,
    /// How far the newest part may lie under the line of those before, in standard errors.
    pub(super) deficit: f64,
}

/// The least step between neighbouring quarters, in mean steps.
const SPREAD: f64 = 0.2;

/// How much of the growth that the line foretells the newest part may lack, whatever the noise.
const SLOWER: f64 = 0.35;

/// The slope of a rise, in levels' unit per place; `None` where the levels do not rise so that the bar is passed.
///
/// Some 1,000 to 10,000 instructions where there is no rise, 120,000 where there is one.
pub(super) fn rise(levels: &[f64], bar: &Bar) -> Option<f64> {
    if !is_spread(levels) || signs(levels) < bar.signs {
        return None;
    }
    let scratch = &mut [0.0; PAIRS];
    let slope = theil_sen(levels, scratch)?;
    let start = intercept(levels, slope, scratch)?;
    let (error, sample) = residuals(levels, slope, start, scratch);
    let count = real(levels.len());
    let standard_error = error * (12.0 / (count * count * count) * sample).sqrt();
    let is_rise = slope > 0.0 && slope >= bar.slope * standard_error;
    (is_rise && is_everywhere(levels, slope, bar, scratch)? && goes_on(levels, bar, scratch)?).then_some(slope)
}

/// Mann's and Kendall's sum of signs over its standard deviation. Equal levels count as neither.
fn signs(levels: &[f64]) -> f64 {
    let mut sum = 0_i32;
    let mut rest = levels;
    while let Some((first, later)) = rest.split_first() {
        sum += later.iter().map(|level| i32::from(level > first) - i32::from(level < first)).sum::<i32>();
        rest = later;
    }
    let count = real(levels.len());
    f64::from(sum) / (count * (count - 1.0) * (2.0 * count + 5.0) / 18.0).sqrt().max(1.0)
}

/// Whether every quarter lies over the one before by a share of the mean step.
fn is_spread(levels: &[f64]) -> bool {
    let len = levels.len();
    let quarter = |index: usize| middle_mean(levels.get(index * len / 4..(index + 1) * len / 4).unwrap_or_default());
    let (oldest, newest) = (quarter(0), quarter(3));
    let step = SPREAD * (newest - oldest) / 3.0;
    // Most levels stay where they are.
    if step <= 0.0 {
        return false;
    }
    let (second, third) = (quarter(1), quarter(2));
    second - oldest >= step && third - second >= step && newest - third >= step
}

/// The mean of the middle half: nearly as exact as the mean, and no outlier moves it.
fn middle_mean(levels: &[f64]) -> f64 {
    let mut sorted = [0.0; MOST];
    let Some(sorted) = sorted.get_mut(..levels.len()) else { return 0.0 };
    sorted.copy_from_slice(levels);
    sorted.sort_unstable_by(f64::total_cmp);
    let cut = levels.len() / 4;
    let middle = sorted.get(cut..levels.len() - cut).unwrap_or_default();
    middle.iter().sum::<f64>() / real(middle.len()).max(1.0)
}

/// The median of the slopes of all pairs that are at least a third of the way apart.
fn theil_sen(levels: &[f64], scratch: &mut [f64]) -> Option<f64> {
    let mut filled = 0;
    for apart in (levels.len() / 3).max(1)..levels.len() {
        let pairs = levels.len() - apart;
        let per_place = 1.0 / real(apart);
        let slopes = scratch.get_mut(filled..filled + pairs)?;
        for (slope, (level, later)) in slopes.iter_mut().zip(levels.iter().zip(levels.get(apart..)?)) {
            *slope = (later - level) * per_place;
        }
        filled += pairs;
    }
    median(scratch.get_mut(..filled)?)
}

/// Where the line of this slope starts: the median of what it leaves.
fn intercept(levels: &[f64], slope: f64, scratch: &mut [f64]) -> Option<f64> {
    let rests = scratch.get_mut(..levels.len())?;
    for (at, (rest, level)) in rests.iter_mut().zip(levels).enumerate() {
        *rest = level - slope * real(at);
    }
    median(rests)
}

fn median(figures: &mut [f64]) -> Option<f64> {
    let middle = figures.len() / 2;
    (!figures.is_empty()).then(|| *figures.select_nth_unstable_by(middle, f64::total_cmp).1)
}

/// The standard deviation of what a line leaves, and how many levels count as one independent of the others.
fn residuals(levels: &[f64], slope: f64, start: f64, scratch: &mut [f64]) -> (f64, f64) {
    let Some(rests) = scratch.get_mut(..levels.len()) else { return (f64::INFINITY, 1.0) };
    for (at, (rest, level)) in rests.iter_mut().zip(levels).enumerate() {
        *rest = level - slope * real(at) - start;
    }
    let count = real(rests.len());
    clip(rests);
    let mean = rests.iter().sum::<f64>() / count;
    for rest in &mut *rests {
        *rest -= mean;
    }
    let square = rests.iter().map(|rest| rest * rest).sum::<f64>();
    if square <= 0.0 {
        return (0.0, 1.0);
    }
    let mut sample = 1.0;
    for lag in 1..rests.len() / 3 {
        let product = rests.iter().zip(rests.iter().skip(lag)).map(|(one, later)| one * later).sum::<f64>();
        if product <= 0.0 {
            break;
        }
        sample += 2.0 * product / square;
    }
    // Two degrees of freedom went into the line.
    ((square / (count - 2.0).max(1.0)).sqrt(), sample)
}

/// Cuts what is more than four standard deviations from zero, as the median deviation tells them: one level far out
/// would otherwise hide a rise for as long as it is looked at.
fn clip(rests: &mut [f64]) {
    let mut sizes = [0.0; MOST];
    let Some(sizes) = sizes.get_mut(..rests.len()) else { return };
    sizes.iter_mut().zip(&*rests).for_each(|(size, rest)| *size = rest.abs());
    let far = 4.0 * 1.48 * median(sizes).unwrap_or(0.0);
    for rest in rests {
        *rest = rest.clamp(-far, far);
    }
}

/// Whether the levels rise from near to near too: a staircase of few steps is flat nearly everywhere.
///
/// The median of the slopes over an eighth of the way against the slope over all, and their median deviation.
fn is_everywhere(levels: &[f64], slope: f64, bar: &Bar, scratch: &mut [f64]) -> Option<bool> {
    let apart = (levels.len() / 8).max(1);
    let near = scratch.get_mut(..levels.len().checked_sub(apart)?)?;
    for (place, (level, later)) in near.iter_mut().zip(levels.iter().zip(levels.iter().skip(apart))) {
        *place = (later - level) / real(apart);
    }
    let typical = median(near)?;
    for slope in &mut *near {
        *slope = (*slope - typical).abs();
    }
    // The standard deviation is 1.48 of the median one; the median's error is 1.25 of that over the root of the count.
    let standard_error = 1.86 * median(near)? / real(near.len()).sqrt();
    let lacking = slope - typical;
    Some(lacking <= SLOWER * slope || lacking <= bar.deficit * standard_error)
}

/// Whether the newest sixth still lies where the line of the levels before it leads.
fn goes_on(levels: &[f64], bar: &Bar, scratch: &mut [f64]) -> Option<bool> {
    let newest = (levels.len() / 6).max(2);
    let (before, newest) = levels.split_at_checked(levels.len().checked_sub(newest)?)?;
    let slope = theil_sen(before, scratch)?;
    let start = intercept(before, slope, scratch)?;
    let (error, sample) = residuals(before, slope, start, scratch);
    let (few, many) = (real(newest.len()), real(before.len()));
    let foretold = |at: usize| start + slope * (many + real(at));
    let lacking = newest.iter().enumerate().map(|(at, level)| foretold(at) - level).sum::<f64>() / few;
    let apart = f64::midpoint(few, many);
    let standard_error =
        error * (sample * (1.0 / few + 1.0 / many + 12.0 * apart * apart / (many * many * many))).sqrt();
    Some(lacking <= SLOWER * slope * f64::midpoint(few, 1.0) || lacking <= bar.deficit * standard_error)
}

#[expect(clippy::cast_precision_loss, reason = "a number of levels")]
pub(super) const fn real(count: usize) -> f64 {
    count as f64
}

#[expect(clippy::cast_precision_loss, reason = "sizes below 8 PiB")]
pub(super) const fn bytes(count: u64) -> f64 {
    count as f64
}

/// The whole part of a figure, at least 0.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the cast saturates")]
pub(super) const fn count(figure: f64) -> usize {
    figure as usize
}
