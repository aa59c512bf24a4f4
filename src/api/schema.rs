//! The bounds of the schema, checked without an API server.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use serde_json::Value;

/// The schema of the whole object.
pub(crate) static SCHEMA: LazyLock<Value> = LazyLock::new(super::crd::schema);

/// Whether lists may be longer than the API server allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lists {
    /// They may not.
    Capped,
    /// They may.
    Open,
}

/// Lists where `value` leaves the bounds of `schema`: lengths, numbers, patterns, and lists whose entries must differ. Types
/// and names of keys are not looked at.
pub(crate) fn bounds(schema: &Value, value: &Value, field: &str, lists: Lists, found: &mut Vec<(String, String)>) {
    let mut say = |message: String| found.push((field.to_owned(), message));
    let limit = |name: &str| schema.get(name).and_then(Value::as_f64);
    match value {
        Value::String(text) => {
            let length = count(text.chars().count());
            if limit("minLength").is_some_and(|min| length < min) {
                say("must not be empty".to_owned());
            } else if let Some(max) = limit("maxLength").filter(|max| length > *max) {
                say(format!("has {length} characters; at most {max} are allowed"));
            } else if let Some(pattern) = schema.get("pattern").and_then(Value::as_str)
                && !regex::Regex::new(pattern).is_ok_and(|regex| regex.is_match(text))
            {
                say(format!("`{text}` {}", pattern_advice(field)));
            }
        }
        Value::Number(number) => {
            let number = number.as_f64().unwrap_or_default();
            if let Some(min) = limit("minimum").filter(|min| number < *min) {
                say(format!("must be at least {min}"));
            }
            if let Some(max) = limit("maximum").filter(|max| number > *max) {
                say(format!("must be at most {max}"));
            }
        }
        Value::Array(entries) => {
            let cap = limit("maxItems").filter(|_| lists == Lists::Capped);
            if let Some(max) = cap.filter(|max| count(entries.len()) > *max) {
                say(format!("has {} entries; at most {max} are allowed", entries.len()));
            }
            if limit("minItems").is_some_and(|min| count(entries.len()) < min) {
                say("needs at least one entry".to_owned());
            }
            duplicates(schema, entries, field, found);
            if let Some(items) = schema.get("items") {
                for (index, entry) in entries.iter().enumerate() {
                    bounds(items, entry, &format!("{field}[{index}]"), lists, found);
                }
            }
        }
        Value::Object(entries) => {
            if let Some(Value::Object(properties)) = schema.get("properties") {
                for (key, schema) in properties {
                    if let Some(value) = entries.get(key) {
                        bounds(schema, value, &format!("{field}.{key}"), lists, found);
                    }
                }
            }
        }
        Value::Null | Value::Bool(_) => {}
    }
}

fn duplicates(schema: &Value, entries: &[Value], field: &str, found: &mut Vec<(String, String)>) {
    let keys: Vec<&str> = match schema.get("x-kubernetes-list-type").and_then(Value::as_str) {
        Some("map") => schema
            .get("x-kubernetes-list-map-keys")
            .and_then(Value::as_array)
            .map(|keys| keys.iter().filter_map(Value::as_str).collect())
            .unwrap_or_default(),
        Some("set") => Vec::new(),
        _ => return,
    };
    let mut seen = BTreeSet::new();
    for (index, entry) in entries.iter().enumerate() {
        let identity = if keys.is_empty() {
            entry.to_string()
        } else {
            keys.iter()
                .map(|key| entry.get(key).map(ToString::to_string).unwrap_or_default())
                .collect::<Vec<_>>()
                .join("/")
        };
        if !seen.insert(identity.clone()) {
            let key = keys.first().map(|key| format!(".{key}")).unwrap_or_default();
            let text = identity.trim_matches('"');
            found.push((
                format!("{field}[{index}]{key}"),
                format!("`{text}` is listed twice: remove or merge one entry"),
            ));
        }
    }
}

fn pattern_advice(field: &str) -> &'static str {
    match field.rsplit('.').next() {
        Some("minVersion" | "maxVersion") => {
            "is not a version: write MAJOR, MAJOR.MINOR or MAJOR.MINOR.PATCH, such as `4.18.10`"
        }
        Some("maxBytesPerSecond") => {
            "is not a number of bytes: write a number, or a number with k, M, G, T, Ki, Mi, Gi or Ti, such as `200Mi`"
        }
        _ => "does not have the form asked for",
    }
}

fn count(length: usize) -> f64 {
    u32::try_from(length).map_or(f64::INFINITY, f64::from)
}
