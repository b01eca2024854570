//! The functions of allocation sites that were resolved, for readers that must not allocate or wait.
//!
//! A report resolves a site, which is slow. The alarm cannot, so it prints the names that are known already. An entry
//! is written once and never freed, so a reader needs one atomic load for each entry.

use std::sync::OnceLock;

/// Entries of the table. Sites beyond them keep their addresses.
const ENTRIES: usize = 256;

/// The longest function, in bytes.
const MAX_FUNCTION: usize = 120;

/// The longest file name, in bytes. A longer one loses its beginning.
const MAX_FILE: usize = 80;

/// The function that was found for a site; `None` if the stack has no function of the program's own.
#[derive(Debug)]
pub(crate) struct SiteName {
    key: u64,
    pub(super) function: Option<Box<str>>,
    pub(super) location: Option<Box<str>>,
}

static NAMES: [OnceLock<SiteName>; ENTRIES] = [const { OnceLock::new() }; ENTRIES];

/// Returns the entry of `key`, if there is one. Does not allocate, lock or block.
pub(super) fn find(key: u64) -> Option<&'static SiteName> {
    NAMES.iter().map_while(OnceLock::get).find(|name| name.key == key)
}

/// Records what was found for `key`. Returns the entry, or `None` if the table is full.
#[cfg_attr(not(any(test, feature = "symbols")), expect(dead_code, reason = "only symbols have names"))]
pub(super) fn record(
    key: u64,
    function: Option<&str>,
    file: Option<&str>,
    line: Option<u32>,
) -> Option<&'static SiteName> {
    let function = function.map(|function| clean(function.chars(), MAX_FUNCTION));
    let location = file.map(|file| {
        let from = file.len().saturating_sub(MAX_FILE);
        let tail = file.char_indices().filter(|(index, _)| *index >= from).map(|(_, letter)| letter);
        let file = clean(tail, MAX_FILE);
        line.map_or_else(|| file.clone(), |line| format!("{file}:{line}").into())
    });
    let mut unused = Some(SiteName { key, function, location });
    NAMES.iter().find_map(|entry| {
        if entry.get().is_none()
            && let Some(name) = unused.take()
        {
            // An error if another thread was first.
            unused = entry.set(name).err();
        }
        entry.get().filter(|entry| entry.key == key)
    })
}

/// Returns the first `most` bytes of the text, without characters that end a line or need an escape in JSON.
fn clean(text: impl Iterator<Item = char>, most: usize) -> Box<str> {
    let mut left = most;
    let fits = move |letter: &char| left.checked_sub(letter.len_utf8()).inspect(|rest| left = *rest).is_some();
    let clean = |letter: char| if letter.is_control() || matches!(letter, '"' | '\\') { '?' } else { letter };
    text.take_while(fits).map(clean).collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_twice_keeps_the_first_and_find_returns_it() {
        let key = 0xdead_beef;
        assert!(find(key).is_none());
        let long = "a".repeat(1000);
        let first = record(key, Some("app::\"leak\"\n"), Some(&format!("{long}/main.rs")), Some(12)).unwrap();
        assert_eq!(first.function.as_deref(), Some("app::?leak??"));
        let location = first.location.as_deref().unwrap();
        assert!(location.ends_with("aa/main.rs:12") && location.len() == MAX_FILE + 3, "{location}");
        let again = record(key, Some("other"), None, None).unwrap();
        assert!(std::ptr::eq(first, again) && std::ptr::eq(first, find(key).unwrap()));
    }

    #[test]
    fn record_by_many_threads_has_one_entry_for_each_key() {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for key in 1000..1050 {
                        assert_eq!(record(key, Some(&format!("f{key}")), None, None).unwrap().key, key);
                    }
                });
            }
        });
        let keys: Vec<_> = NAMES.iter().filter_map(OnceLock::get).map(|name| name.key).collect();
        assert!((1000..1050).all(|key| find(key).unwrap().function.as_deref() == Some(&*format!("f{key}"))));
        assert!((1000..1050).all(|key| keys.iter().filter(|other| **other == key).count() == 1), "{keys:?}");
    }
}
