//! As much of JSON Schema as the tests' schemas use. A keyword it does not know is a fault of its own.

#![allow(unreachable_pub, reason = "test binaries include this file")]
#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test may panic")]

use serde_json::Value;

/// What is wrong with `value`, which stands at `path`.
pub fn faults(schema: &Value, value: &Value, path: &str) -> Vec<String> {
    let mut all = Vec::new();
    for (keyword, rule) in schema.as_object().unwrap() {
        let limit = || rule.as_f64().unwrap();
        #[allow(clippy::cast_precision_loss, reason = "lengths are small")]
        let length = |length: Option<usize>| length.map(|length| length as f64);
        let letters = || length(value.as_str().map(|text| text.chars().count()));
        let items = || length(value.as_array().map(Vec::len));
        let holds = match keyword.as_str() {
            "$schema" | "title" | "properties" => true,
            "type" => match rule.as_str().unwrap() {
                "object" => value.is_object(),
                "array" => value.is_array(),
                "string" => value.is_string(),
                "boolean" => value.is_boolean(),
                "number" => value.is_number(),
                "integer" => value.is_u64() || value.is_i64(),
                _ => false,
            },
            "enum" => rule.as_array().unwrap().contains(value),
            "minimum" => value.as_f64().is_none_or(|number| number >= limit()),
            "minLength" => letters().is_none_or(|letters| letters >= limit()),
            "maxLength" => letters().is_none_or(|letters| letters <= limit()),
            "minItems" => items().is_none_or(|items| items >= limit()),
            "maxItems" => items().is_none_or(|items| items <= limit()),
            "required" => {
                let names = rule.as_array().unwrap();
                names.iter().all(|name| value.get(name.as_str().unwrap()).is_some())
            }
            "additionalProperties" => {
                let known = &schema["properties"];
                value.as_object().is_none_or(|members| members.keys().all(|name| known.get(name).is_some()))
            }
            "items" => {
                let items = value.as_array().into_iter().flatten().enumerate();
                all.extend(items.flat_map(|(index, item)| faults(rule, item, &format!("{path}[{index}]"))));
                true
            }
            _ => false,
        };
        if !holds {
            all.push(format!("{path}: {value} against {keyword} {rule}"));
        }
    }
    for (name, schema) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        if let Some(member) = value.get(name) {
            all.extend(faults(schema, member, &format!("{path}.{name}")));
        }
    }
    all
}
