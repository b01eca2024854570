//! Names and lines of functions.

#[cfg(feature = "service")]
use std::ops::Range;

/// Returns the lines of the function `name` of a formatted source file, the first line of which is 1.
#[cfg(feature = "service")]
pub(crate) fn lines_of(source: &str, name: &str) -> Option<Range<u32>> {
    let begins = format!("fn {name}(");
    let start = source.lines().position(|line| line.starts_with(&begins))?;
    let length = source.lines().skip(start).position(|line| line == "}")?;
    Some(start as u32 + 1..(start + length) as u32 + 2)
}

/// Returns `true` if `function` is the function `name`, or a closure or another item inside it.
pub(crate) fn is_named(function: &str, name: &str) -> bool {
    let is_part = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    let bytes = function.as_bytes();
    function.match_indices(name).any(|(start, _)| {
        let before = start.checked_sub(1).and_then(|index| bytes.get(index));
        !is_part(before) && !is_part(bytes.get(start + name.len()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_named_closure_of_function_returns_true() {
        assert!(is_named("own::leaks::spawn_rows", "spawn_rows"));
        assert!(is_named("own::leaks::spawn_rows::{{closure}}::{{closure}}", "spawn_rows"));
        assert!(is_named("<own::spawn_rows::Row as serde::Deserialize>::deserialize", "spawn_rows"));
    }

    #[test]
    fn is_named_other_function_returns_false() {
        assert!(!is_named("own::leaks::spawn_rows_twice", "spawn_rows"));
        assert!(!is_named("own::leaks::respawn_rows", "spawn_rows"));
        assert!(!is_named("alloc::vec::Vec<T>::with_capacity", "spawn_rows"));
    }

    #[cfg(feature = "service")]
    #[test]
    fn lines_of_function_returns_its_lines() {
        let source = "fn one() {}\n\nfn two(bytes: usize) {\n    {\n    }\n}\n\nfn three() {\n}\n";
        assert_eq!(lines_of(source, "two"), Some(3..7));
        assert_eq!(lines_of(source, "tw"), None);
    }
}
