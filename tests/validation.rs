//! The validation examples of `tests/fixtures/validation`, asked of `Request::try_new`; the end-to-end suite asks the same of a
//! real API server.
#![cfg(test)]

use imageset_mirror::api::{ImageSetMirror, crd};
use imageset_mirror::request::Request;
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Table {
    base: Value,
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    name: String,
    accept: Value,
    refuse: Value,
    before: Option<Value>,
    message: String,
    request: Option<String>,
}

fn table() -> Table {
    serde_yaml::from_str(include_str!("fixtures/validation/rules.yaml")).unwrap()
}

fn expand(value: &Value, n: Option<u64>) -> Value {
    match value {
        Value::Object(map) if map.len() == 1 && map.contains_key("$list") => {
            let count = map["$list"]["count"].as_u64().unwrap();
            (0..count).map(|n| expand(&map["$list"]["of"], Some(n))).collect()
        }
        Value::Object(map) if map.len() == 1 && map.contains_key("$text") => {
            let text = &map["$text"];
            let part = |key: &str| text[key].as_str().unwrap_or_default().to_owned();
            let count = usize::try_from(text["count"].as_u64().unwrap()).unwrap();
            Value::String(format!("{}{}{}", part("before"), part("of").repeat(count), part("after")))
        }
        Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), expand(value, n))).collect(),
        Value::Array(list) => list.iter().map(|value| expand(value, n)).collect(),
        Value::String(text) => Value::String(n.map_or(text.clone(), |n| text.replace("{n}", &n.to_string()))),
        other => other.clone(),
    }
}

fn merge(base: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *base = patch.clone();
        return;
    };
    if !base.is_object() {
        *base = Value::Object(serde_json::Map::new());
    }
    for (key, value) in patch {
        if value.is_null() {
            base.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut base[key], value);
        }
    }
}

fn object(base: &Value, patch: &Value) -> Result<ImageSetMirror, serde_json::Error> {
    let mut object = base.clone();
    merge(&mut object, &expand(patch, None));
    serde_json::from_value(object)
}

#[test]
fn the_examples_are_accepted_and_refused_without_an_api_server_too() {
    let table = table();
    for rule in &table.rules {
        let accepted = object(&table.base, &rule.accept).unwrap_or_else(|error| panic!("{}: {error}", rule.name));
        if let Err(invalid) = Request::try_new(&accepted) {
            panic!("{}: {invalid}", rule.name);
        }
        if let Ok(refused) = object(&table.base, &rule.refuse) {
            let mistakes = Request::try_new(&refused).err().map(|invalid| invalid.faults).unwrap_or_default();
            match &rule.request {
                None => assert!(rule.before.is_some() && mistakes.is_empty(), "{}: {mistakes:?}", rule.name),
                Some(part) => {
                    assert!(mistakes.iter().any(|fault| fault.message.contains(part)), "{}: {mistakes:?}", rule.name);
                    assert_eq!(mistakes.len(), 1, "{}: {mistakes:?}", rule.name);
                }
            }
        } else {
            assert!(rule.request.is_none(), "{} does not even have the right types", rule.name);
        }
    }
}

#[test]
fn every_rule_has_an_example() {
    let table = table();
    let crd = serde_json::to_value(crd::crd()).unwrap();
    let spec = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let mut missing = Vec::new();
    visit(spec, &mut |schema| {
        for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
            let message = rule["message"].as_str().expect("every rule has a sentence");
            if !table.rules.iter().any(|rule| message.contains(&rule.message)) {
                missing.push(message.to_owned());
            }
        }
    });
    assert_eq!(missing, Vec::<String>::new());
}

#[test]
fn every_list_and_text_of_the_spec_is_bounded() {
    let crd = serde_json::to_value(crd::crd()).unwrap();
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let mut unbounded = Vec::new();
    for part in ["spec", "status"] {
        visit(&schema["properties"][part], &mut |schema| {
            let bounded = match schema["type"].as_str() {
                Some("array") => schema["maxItems"].is_u64() && schema["x-kubernetes-list-type"].is_string(),
                Some("string") => {
                    schema["maxLength"].is_u64() || schema["enum"].is_array() || schema["format"] == "date-time"
                }
                _ => true,
            };
            if !bounded {
                unbounded.push(schema["description"].to_string());
            }
        });
    }
    assert_eq!(unbounded, Vec::<String>::new());
}

fn visit(schema: &Value, see: &mut impl FnMut(&Value)) {
    see(schema);
    for inner in schema["properties"].as_object().into_iter().flat_map(|properties| properties.values()) {
        visit(inner, see);
    }
    for key in ["items", "additionalProperties"] {
        if schema[key].is_object() {
            visit(&schema[key], see);
        }
    }
}
