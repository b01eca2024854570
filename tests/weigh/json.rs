//! Values of `serde_json`. The tests hold with its features `preserve_order` and `arbitrary_precision` too.

use proptest::prelude::*;
use serde_json::{Map, Number, Value, json};

use super::{HeapSize, exact, held, ratios, shuffled};

/// Checks the size of a parsed text. Numbers that are texts (`arbitrary_precision`) may have unused capacity.
fn check(text: &str) {
    let (seen, told) = held(|| serde_json::from_str::<Value>(text).expect("is JSON"));
    assert!(told <= seen && (told == seen || Number::owns_heap()), "{told} of {seen}: {text}");
}

#[test]
fn value_parsed_with_small_objects_is_exact() {
    for text in [
        "null",
        r#"[true, 1, -2, 3.5, 18446744073709551615, "", "text", [], {}]"#,
        r#"{"b": {"c": [1, {"d": null}]}, "a": "first", "z": "", "k": 1}"#,
        r#"{"k":1,"j":2,"i":3,"h":4,"g":5,"f":6,"e":7,"d":8,"c":9,"b":10,"a":11}"#,
    ] {
        check(text);
    }
}

#[test]
fn value_of_a_real_document_is_within_the_documented_range() {
    let (seen, told) = held(|| serde_json::from_str::<Value>(include_str!("../emf.schema.json")).expect("is JSON"));
    assert!(told * 100 >= seen * 91 && told * 100 <= seen * 114, "{told} of {seen}");
}

#[test]
fn value_made_by_the_macro_is_exact() {
    exact(|| json!({ "id": 7, "lines": ["tea", "rope"], "at": null }));
    exact(|| Value::from("x".repeat(100)));
    exact(|| Value::Array(Vec::with_capacity(9)));
    exact(Map::<String, Value>::new);
}

/// An object of `n` members, parsed in the order of `keys`.
fn object(keys: impl Iterator<Item = u32>) -> Value {
    let members: Vec<_> = keys.map(|key| format!(r#""{key:010}":null"#)).collect();
    serde_json::from_str(&format!("{{{}}}", members.join(","))).expect("is JSON")
}

#[test]
fn object_parsed_in_any_order_is_within_the_documented_range() {
    (0..400).for_each(|n| exact(|| object(0..n)));
    (0..12).for_each(|n| exact(|| object(shuffled(n))));
    let (low, high) = ratios(|n| object(shuffled(n)));
    assert!(low >= 0.99 && high <= 1.4, "{low} {high}");
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1e9..1e9).prop_map(Value::from),
        "\\PC{0,20}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 64, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
            prop::collection::btree_map("\\PC{0,9}", inner, 0..8).prop_map(Value::from_iter),
        ]
    })
}

proptest! {
    #[test]
    fn value_parsed_from_any_text_is_exact(value in values()) {
        check(&value.to_string());
    }
}
