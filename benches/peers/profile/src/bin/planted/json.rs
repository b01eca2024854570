//! Leaks of parsed and written JSON.

use std::collections::HashMap;

use profile_workers::Leak;
use profile_workers::leaks::{document, retain};
use serde::Serialize;
use serde_json::{Deserializer, Value};

pub(super) const LEAKS: [Leak; 4] =
    profile_workers::leaks!("serde_json" in "json.rs": json_reader, json_stream, json_bytes, json_converted);

fn json_reader(bytes: usize) {
    let text = document(bytes / 3);
    let records: Result<Vec<HashMap<String, Value>>, _> = serde_json::from_reader(text.as_slice());
    retain(records.ok());
}

fn json_stream(bytes: usize) {
    let text = document(bytes / 3);
    let stream = Deserializer::from_slice(&text).into_iter::<Value>();
    retain(stream.flatten().collect::<Vec<_>>());
}

fn json_bytes(bytes: usize) {
    #[derive(Serialize)]
    struct Event {
        number: usize,
        text: &'static str,
    }
    let event = |number| serde_json::to_vec(&Event { number, text: "an event of this service" }).ok();
    retain((0..bytes / 152).map(event).collect::<Vec<_>>());
}

fn json_converted(bytes: usize) {
    let rows: Vec<[usize; 4]> = (0..bytes / 152).map(|number| [number; 4]).collect();
    retain(serde_json::to_value(rows).ok());
}
