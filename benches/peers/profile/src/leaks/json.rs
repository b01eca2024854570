//! Leaks of parsed and written JSON.

use serde::Deserialize;
use serde_json::Value;

use super::{document, retain};
use crate::Leak;

pub(super) const LEAKS: [Leak; 4] =
    crate::leaks!("serde_json" in "json.rs": json_value, json_records, json_text, json_literal);

fn json_value(bytes: usize) {
    let value: Result<Value, _> = serde_json::from_slice(&document(bytes / 3));
    retain(value.ok());
}

fn json_records(bytes: usize) {
    #[derive(Deserialize)]
    struct Record {
        #[serde(rename = "name")]
        _name: String,
        #[serde(rename = "tags")]
        _tags: Vec<String>,
    }
    let records: Result<Vec<Record>, _> = serde_json::from_slice(&document(bytes));
    retain(records.ok());
}

fn json_text(bytes: usize) {
    let numbers: Vec<u32> = (0..bytes as u32 / 7).collect();
    retain(serde_json::to_string(&numbers).ok());
}

fn json_literal(bytes: usize) {
    let value = |number| serde_json::json!({"number": number, "name": format!("number {number}"), "flag": true});
    retain((0..bytes / 600).map(value).collect::<Vec<_>>());
}
