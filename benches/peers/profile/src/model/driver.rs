//! The way to a known peak and down again, and the comparison of the profile with the truth.

use std::sync::{Barrier, Mutex};

use plimsoll::heap::profile::{self, HeapProfile};
use serde_json::{Value, json};

use super::sites::{self, Held};
use super::{SITES, bytes_by_site, live_and_peak};
use crate::Random;

const MIB: usize = 1 << 20;
/// The live heap at the peak, by the sizes that are requested of the sites.
const PEAK: usize = 240 * MIB;
/// The sites that are compared: those with the most bytes.
const TOP: usize = 20;

/// Runs the threads to the peak and down, and compares the profile of the peak with the truth.
pub(super) fn measure(threads: usize, seed: u64) -> Result<Value, String> {
    let boxes: Vec<Mutex<Vec<Held>>> = (0..threads).map(|_| Mutex::default()).collect();
    let gate = Barrier::new(threads + 1);
    let mut truth = Vec::new();
    let mut held = (0, 0);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (boxes, gate) = (&boxes, &gate);
            let random = Random::new(seed * 1009 + thread as u64);
            scope.spawn(move || Crew { thread, threads, boxes, gate, random }.run());
        }
        // The threads free the blocks of their neighbours before the last rise.
        gate.wait();
        gate.wait();
        // All threads have stopped at the peak.
        gate.wait();
        truth = bytes_by_site();
        held = live_and_peak();
        gate.wait();
    });
    let (at_hold, at_end) = (held, live_and_peak());
    if at_hold.0 < at_end.1 / 1000 * 995 {
        return Err(format!("the known point has {} bytes and the peak {}", at_hold.0, at_end.1));
    }
    if at_end.0 > at_hold.0 / 2 {
        return Err(format!("{} of {} bytes are live after the peak", at_end.0, at_hold.0));
    }
    let peak = profile::peak().map_err(|error| error.to_string())?;
    let (estimate, none) = by_site(&peak)?;
    let mut random = Random::new(seed);
    let sites: Vec<_> = truth.iter().zip(&estimate).collect();
    Ok(json!({
        "explained_pct": explained_pct(&truth, &estimate),
        "control_pct": explained_pct(&truth, &at_random(&peak, &mut random)),
        "heap": peak.heap.as_u64(),
        "interval": peak.interval.as_u64(),
        "true_peak": at_hold.0,
        "not_of_sites": none,
        "sites": sites,
    }))
}

/// Returns the estimated bytes of each site, and those of no site.
///
/// It reads folded stacks, because the symbols of each site would load the symbol table once for each.
fn by_site(profile: &HeapProfile) -> Result<(Vec<u64>, u64), String> {
    let mut folded = Vec::new();
    profile.write_folded(&mut folded).map_err(|error| error.to_string())?;
    let folded = String::from_utf8(folded).map_err(|error| error.to_string())?;
    let mut bytes = vec![0; SITES];
    let mut none = 0;
    for (stack, sum) in folded.lines().filter_map(|line| line.rsplit_once(' ')) {
        let index = stack.rsplit(';').find_map(sites::index);
        let sum: u64 = sum.parse().map_err(|error| format!("{sum:?}: {error}"))?;
        *index.and_then(|index| bytes.get_mut(index)).unwrap_or(&mut none) += sum;
    }
    Ok((bytes, none))
}

/// Returns the estimated bytes with each sample at a random site.
fn at_random(profile: &HeapProfile, random: &mut Random) -> Vec<u64> {
    let interval = profile.interval.as_u64().max(1);
    let samples = profile.sites.iter().map(|site| site.bytes.as_u64()).sum::<u64>() / interval;
    let mut bytes = vec![0; SITES];
    for _ in 0..samples {
        if let Some(bytes) = bytes.get_mut(random.size(SITES) - 1) {
            *bytes += interval;
        }
    }
    bytes
}

/// Returns the share of the bytes of the largest sites that the estimate explains, in percent. A byte too much at one
/// site explains none of another.
fn explained_pct(truth: &[u64], estimate: &[u64]) -> f64 {
    let mut pairs: Vec<(u64, u64)> = truth.iter().copied().zip(estimate.iter().copied()).collect();
    pairs.sort_unstable_by(|a, b| b.cmp(a));
    pairs.truncate(TOP);
    let explained: u64 = pairs.iter().map(|(truth, estimate)| truth.min(estimate)).sum();
    100.0 * explained as f64 / pairs.iter().map(|(truth, _)| truth).sum::<u64>() as f64
}

/// One thread of the driver.
struct Crew<'a> {
    thread: usize,
    threads: usize,
    boxes: &'a [Mutex<Vec<Held>>],
    gate: &'a Barrier,
    random: Random,
}

/// The blocks that a thread holds, with their site and the requested bytes.
type Stock = Vec<(usize, usize, Held)>;

impl Crew<'_> {
    fn run(&mut self) {
        let mut stock = Stock::new();
        // A first and lower peak with the sites in the reverse order, of which nothing stays.
        self.build(&mut stock, &self.quotas(PEAK / 2, true), true);
        self.release(&mut stock, 0);
        // The way up, with temporary blocks and blocks that other threads free, and a last rise without them.
        self.build(&mut stock, &self.quotas(PEAK / 10 * 9, false), true);
        self.gate.wait();
        self.empty_box();
        self.gate.wait();
        self.build(&mut stock, &self.quotas(PEAK / 10, false), false);
        self.gate.wait();
        self.gate.wait();
        // The way down: a tenth stays, and other sites allocate.
        let rest = stock.len() / 10;
        self.release(&mut stock, rest);
        self.build(&mut stock, &self.quotas(PEAK / 5, true), true);
        self.empty_box();
    }

    /// Returns the bytes of each site for this thread: each site has nine tenths of the one before.
    fn quotas(&self, bytes: usize, reverse: bool) -> Vec<usize> {
        let share = |index: usize| 0.9_f64.powi(index as i32);
        let sum: f64 = (0..SITES).map(share).sum();
        let quota = |index| (bytes as f64 * share(index) / sum) as usize / self.threads;
        if reverse { (0..SITES).rev().map(quota).collect() } else { (0..SITES).map(quota).collect() }
    }

    /// Allocates the quotas in a random order. With `churn` some blocks are temporary, and others are freed and made
    /// again.
    fn build(&mut self, stock: &mut Stock, quotas: &[usize], churn: bool) {
        let mut left = quotas.to_vec();
        let mut sum: usize = left.iter().sum();
        while sum > 0 {
            let index = self.weighted(&left, sum);
            let Some(quota) = left.get_mut(index) else { return };
            let bytes = (*quota).min((8 << 10) + self.random.size(120 << 10));
            // The style of large blocks takes what is left at once.
            let bytes = if index % 10 == 5 { (*quota).min(2 * MIB) } else { bytes };
            *quota -= bytes;
            sum -= bytes;
            stock.push((index, bytes, self.allocate(index, bytes)));
            if churn {
                let dice = self.random.bits() >> 32;
                if dice.is_multiple_of(4) {
                    let other = self.random.size(SITES) - 1;
                    drop(self.allocate(other, 16 << 10));
                }
                if dice.is_multiple_of(8) {
                    let place = self.random.size(stock.len()) - 1;
                    let (index, bytes, held) = stock.swap_remove(place);
                    self.send(held);
                    if let Some(quota) = left.get_mut(index) {
                        *quota += bytes;
                        sum += bytes;
                    }
                }
                self.empty_box();
            }
        }
    }

    /// Returns an index, in proportion to what is left of the quotas.
    fn weighted(&mut self, left: &[usize], sum: usize) -> usize {
        let mut at = self.random.size(sum);
        let found = left.iter().position(|quota| {
            let is_here = at <= *quota;
            at = at.saturating_sub(*quota);
            is_here
        });
        found.unwrap_or(0)
    }

    fn allocate(&mut self, index: usize, bytes: usize) -> Held {
        match sites::ALL.get(index) {
            Some(site) => site(bytes, &mut self.random),
            None => Box::new(()),
        }
    }

    /// Frees blocks in a random order until `rest` are left: half of them here and half on the next thread.
    fn release(&mut self, stock: &mut Stock, rest: usize) {
        while stock.len() > rest {
            let place = self.random.size(stock.len()) - 1;
            let (_, _, held) = stock.swap_remove(place);
            if (self.random.bits() >> 32).is_multiple_of(2) {
                self.send(held);
            }
            self.empty_box();
        }
    }

    /// Sends blocks to the next thread, which frees them.
    fn send(&self, held: Held) {
        let next = self.boxes.get((self.thread + 1) % self.threads);
        if let Some(Ok(mut next)) = next.map(Mutex::lock) {
            next.push(held);
        }
    }

    /// Frees the blocks of the thread before.
    fn empty_box(&self) {
        let taken =
            self.boxes.get(self.thread).and_then(|own| own.lock().ok().map(|mut own| std::mem::take(&mut *own)));
        drop(taken);
    }
}
