//! `HeapSize` for the values of `serde_json`.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
};

use serde_json::{Map, Number, Value};

use super::{HeapSize, b_tree, block, buckets, hash_table, owned_by_all};

impl HeapSize for Value {
    /// Returns the heap bytes of the value: exact for strings and arrays, an estimate for objects (see [`Map`]).
    fn heap_size(&self) -> usize {
        match self {
            Self::Null | Self::Bool(_) => 0,
            Self::Number(number) => number.heap_size(),
            Self::String(text) => text.heap_size(),
            Self::Array(values) => values.heap_size(),
            Self::Object(members) => members.heap_size(),
        }
    }
}

impl HeapSize for Map<String, Value> {
    /// Returns the heap bytes of the object: an estimate from its length for the table, and its keys and values.
    ///
    /// `serde_json` does not show the capacity. By default the map is a `BTreeMap`: the table is exact up to 11 members.
    /// With the feature `preserve_order` of `serde_json` it is an `IndexMap`: the table is exact if its members were
    /// parsed or inserted one by one. After a `collect` the table counts as up to three times its bytes. After removals
    /// it may count as any part of them.
    fn heap_size(&self) -> usize {
        // An `IndexMap` is larger than its `Vec` of entries alone, which has the size of a `BTreeMap`.
        let table = if size_of::<Self>() == size_of::<BTreeMap<String, Value>>() {
            b_tree::<String, Value>(self.len())
        } else {
            index_map(self.len())
        };
        table.saturating_add(owned_by_all(self.keys())).saturating_add(owned_by_all(self.values()))
    }
}

/// The two blocks of an `IndexMap` that grew to `len`: a hash table of positions, and as many entries as it has
/// capacity for.
fn index_map(len: usize) -> usize {
    type Entry = (usize, String, Value);

    let capacity = match buckets(len) {
        small @ ..=8 => small.saturating_sub(1),
        large => large / 8 * 7,
    };
    hash_table::<usize>(capacity).saturating_add(block::<Entry>(capacity))
}

impl HeapSize for Number {
    /// Returns zero. With the feature `arbitrary_precision` of `serde_json` a number is a text: then its length.
    fn heap_size(&self) -> usize {
        struct Length(usize);

        impl fmt::Write for Length {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                self.0 = self.0.saturating_add(text.len());
                Ok(())
            }
        }

        let mut length = Length(0);
        if Self::owns_heap() {
            // Writing to a count does not fail.
            _ = write!(length, "{self}");
        }
        length.0
    }

    fn owns_heap() -> bool {
        // A number that is a text has to be dropped, one that is 64 bits does not.
        std::mem::needs_drop::<Self>()
    }
}
