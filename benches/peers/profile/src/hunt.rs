//! Each planted leak by itself: is the largest growing site the function that leaks?

use std::collections::{BTreeMap, HashMap, VecDeque};

use plimsoll::heap::profile::{self, HeapProfile, Site, Symbol};
use serde_json::{Value, json};

use crate::Leak;
use crate::leaks::{all, document, forget_retained};
use crate::symbol::{is_named, lines_of};

const ROUNDS: usize = 8;
const BYTES: usize = 3 << 20;

/// The counts of one kind of leaks.
#[derive(Default)]
struct Named {
    by_own_function: u32,
    by_innermost_frame: u32,
    leaks: u32,
}

/// Leaks 24 MiB through each function, next to requests that leak nothing, and counts the functions that are named.
/// `names` are the program's own crates, separated by commas; none leaves the search to the profile.
pub(crate) fn measure(planted: &[Leak], names: &str) -> Result<Value, String> {
    if !names.is_empty() {
        profile::set_own_crates(names.split(','));
    }
    let mut kinds: BTreeMap<&str, Named> = BTreeMap::new();
    let mut missed = Vec::new();
    let mut cache = VecDeque::new();
    for leak in all().iter().chain(planted) {
        requests(&mut cache);
        let before = live()?;
        for _ in 0..ROUNDS {
            requests(&mut cache);
            (leak.plant)(BYTES);
        }
        let after = live()?;
        let kind = kinds.entry(leak.kind).or_default();
        kind.leaks += 1;
        let (own, stack) = match largest_growth(&before, &after) {
            Some(site) => (site.own_function(), site.symbols()),
            None => (None, Vec::new()),
        };
        kind.by_innermost_frame += u32::from(stack.first().is_some_and(|symbol| is_in(symbol, leak)));
        if own.as_ref().is_some_and(|own| is_in(own, leak)) {
            kind.by_own_function += 1;
        } else {
            let stack: Vec<_> = stack.iter().map(Symbol::to_string).collect();
            missed.push(json!({"leak": leak.name, "named": own.map(|own| own.to_string()), "stack": stack}));
        }
        forget_retained();
    }
    let sum = |count: fn(&Named) -> u32| kinds.values().map(count).sum::<u32>();
    let by_kind: HashMap<_, _> = kinds.iter().map(|(kind, named)| (kind, named.by_own_function)).collect();
    Ok(json!({
        "leaks": sum(|named| named.leaks),
        "named": sum(|named| named.by_own_function),
        "control": sum(|named| named.by_innermost_frame),
        "by_kind": by_kind,
        "missed": missed,
    }))
}

fn live() -> Result<HeapProfile, String> {
    profile::live().map_err(|error| error.to_string())
}

/// Returns `true` if a symbol names the function that leaks, or a line of it. With line tables the name of an inlined
/// closure is only `{closure#0}`, so its line identifies it.
fn is_in(symbol: &Symbol, leak: &Leak) -> bool {
    let is_file = symbol.file.as_ref().is_some_and(|file| file.ends_with(leak.file));
    let lines = lines_of(leak.source, leak.name);
    let is_line = symbol.line.is_some_and(|line| lines.is_some_and(|lines| lines.contains(&line)));
    is_named(&symbol.function, leak.name) || (is_file && is_line)
}

/// Returns the site with the largest growth between two profiles.
fn largest_growth<'a>(before: &HeapProfile, after: &'a HeapProfile) -> Option<&'a Site> {
    let stack = |site: &Site| site.addresses().collect::<Vec<usize>>();
    let before: HashMap<_, _> = before.sites.iter().map(|site| (stack(site), site.bytes.as_u64())).collect();
    let growth = |site: &&Site| {
        let earlier = before.get(&stack(site)).copied().unwrap_or(0);
        site.bytes.as_u64().saturating_sub(earlier)
    };
    after.sites.iter().max_by_key(growth)
}

/// Serves requests: temporary documents, and a cache of 256 KiB that is replaced.
fn requests(cache: &mut VecDeque<Vec<u8>>) {
    let text = document(20_000);
    for number in 0..64 {
        drop(serde_json::from_slice::<Value>(&text));
        cache.push_back(vec![number; 4 << 10]);
        if cache.len() > 64 {
            cache.pop_front();
        }
    }
}
