//! 100 MiB leaked by one function.

use serde_json::Value;

/// Leaks the blocks and asks the profile for their bytes.
#[cfg(feature = "profile")]
pub(crate) fn measure() -> Result<Value, String> {
    use crate::symbol::is_named;

    let kept = leak_pages();
    let profile = plimsoll::heap::profile::live().map_err(|error| error.to_string())?;
    let named =
        profile.sites.iter().filter(|site| site.own_function().is_some_and(|own| is_named(&own.function, NAME)));
    let bytes: u64 = named.map(|site| site.bytes.as_u64()).sum();
    let truth = kept.capacity() * size_of::<Vec<u8>>() + kept.iter().map(Vec::capacity).sum::<usize>();
    let largest = profile.sites.iter().max_by_key(|site| site.bytes);
    let found = largest.map(|site| site.symbols().into_iter().map(|symbol| symbol.function).collect::<Vec<_>>());
    drop(kept);
    Ok(serde_json::json!({"bytes": bytes, "truth": truth, "largest": found}))
}

#[cfg(not(feature = "profile"))]
pub(crate) fn measure() -> Result<Value, String> {
    Err("this worker has no profile".to_owned())
}

#[cfg(feature = "profile")]
const NAME: &str = "leak_pages";
#[cfg(feature = "profile")]
const BLOCKS: usize = 25_600;
#[cfg(feature = "profile")]
const BLOCK: usize = 4096;

/// Leaks 100 MiB.
#[cfg(feature = "profile")]
#[inline(never)]
fn leak_pages() -> Vec<Vec<u8>> {
    let mut pages = Vec::new();
    for _ in 0..BLOCKS {
        pages.push(std::hint::black_box(Vec::with_capacity(BLOCK)));
    }
    pages
}
