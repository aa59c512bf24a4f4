//! Holds a tree against the schema: names of keys, types, and keys that must be there. Bounds and rules are the request's.

use serde_json::{Map, Value, json};

use super::node::{self, Node, Step};
use crate::api::schema::SCHEMA;

/// Something found, and where.
pub(super) struct Found {
    pub(super) steps: Vec<Step>,
    pub(super) field: String,
    pub(super) message: String,
}

/// Reads a tree by the schema, noting everything that does not fit.
pub(super) struct Reader {
    pub(super) errors: Vec<Found>,
    pub(super) warnings: Vec<Found>,
    /// Keys match without regard to case.
    any_case: bool,
    /// Keys of older versions are translated, with a warning; otherwise they are errors.
    upgrade: bool,
}

/// The schema of the whole object; `aimed` if it has to say where to mirror to.
pub(super) fn root(aimed: bool) -> Value {
    let mut root = SCHEMA.clone();
    if !aimed {
        for (part, name) in [("/properties/spec", "target"), ("/properties/spec/properties/target", "registry")] {
            let required =
                root.pointer_mut(part).and_then(|part| part.get_mut("required")).and_then(Value::as_array_mut);
            if let Some(required) = required {
                required.retain(|known| known != name);
            }
        }
    }
    // Both are not ours to judge: one is Kubernetes' own, the other is what the operator wrote.
    for (part, required) in [("metadata", "spec"), ("status", "spec")] {
        if let Some(properties) = root.get_mut("properties").and_then(Value::as_object_mut) {
            properties.insert(part.to_owned(), anything());
        }
        if let Some(root) = root.as_object_mut() {
            root.insert("required".to_owned(), json!([required]));
        }
    }
    root
}

/// The schema of `spec.mirror`.
pub(super) fn mirror() -> Value {
    SCHEMA.pointer("/properties/spec/properties/mirror").cloned().unwrap_or_default()
}

fn anything() -> Value {
    json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// How a key of an older oc-mirror version is taken over.
enum Old {
    /// As this key.
    Renamed(&'static str),
    /// Not at all, since it had no effect, or has none any more.
    Dropped(&'static str),
    /// `false` is `full: true`, and `true` is what happens without it.
    HeadsOnly,
    /// The last part of the path in the target.
    TargetName,
}

impl Old {
    fn of(key: &str) -> Option<Self> {
        Some(match key {
            "targetName" => Self::TargetName,
            "skipDeps" => Self::Renamed("skipDependencies"),
            "repos" => Self::Renamed("repositories"),
            "imagepaths" => Self::Renamed("imagePaths"),
            "originalRef" => Self::Dropped("is left out: an image on disk keeps no other name"),
            "headsOnly" => Self::HeadsOnly,
            _ => return None,
        })
    }
}

/// Keys of older oc-mirror versions, and what to write today.
fn old_key(key: &str) -> Option<&'static str> {
    Some(match key {
        "targetName" => "is a key of oc-mirror v1: write `targetCatalog`, with the whole path in the target",
        "skipDeps" => "is a key of oc-mirror v1: write `skipDependencies`",
        "repos" => "is a key of oc-mirror v1: write `repositories`",
        "imagepaths" => "is a key of oc-mirror v1: write `imagePaths`",
        "originalRef" => "is a key of oc-mirror v1: leave it out",
        "headsOnly" => {
            "is a key of oc-mirror v1: leave it out for `headsOnly: true`, and write `full: true` for `headsOnly: false`"
        }
        _ => return None,
    })
}

impl Reader {
    pub(super) fn new(any_case: bool, upgrade: bool) -> Self {
        Self { errors: Vec::new(), warnings: Vec::new(), any_case, upgrade }
    }

    /// Whether keys of older versions are translated.
    pub(super) fn upgrades(&self) -> bool {
        self.upgrade
    }

    pub(super) fn fail(&mut self, steps: &[Step], field: &str, message: String) {
        self.errors.push(Found { steps: steps.to_vec(), field: field.to_owned(), message });
    }

    pub(super) fn warn(&mut self, steps: &[Step], field: &str, message: String) {
        self.warnings.push(Found { steps: steps.to_vec(), field: field.to_owned(), message });
    }

    /// Notes an error of a key at the top, whether it is there or not.
    pub(super) fn error(&mut self, entries: &[(String, Node)], key: &str, message: String) {
        let place = entries.iter().position(|(name, _)| name == key);
        let steps: Vec<Step> = place.map(Step::Value).into_iter().collect();
        self.fail(&steps, key, message);
    }

    /// Notes a key that is read although its case is another one.
    pub(super) fn other_case(&mut self, steps: &[Step], field: &str, key: &str, canonical: &str) {
        // What is written anew is written that way.
        if !self.upgrade {
            self.warn(steps, field, format!("`{key}` is read as `{canonical}`: write it that way"));
        }
    }

    /// Notes a key that does not exist.
    pub(super) fn unknown(&mut self, steps: &[Step], key: &str, field: &str, known: &[&str]) {
        let path = join(field, key);
        if let Some(advice) = old_key(key) {
            return self.fail(steps, &path, advice.to_owned());
        }
        if key == "<<" {
            return self.fail(steps, &path, "can bring in a map or a list of maps only, and not here".to_owned());
        }
        let nearest = known
            .iter()
            .map(|name| (strsim::levenshtein(&key.to_lowercase(), &name.to_lowercase()), *name))
            .filter(|(distance, name)| *distance <= (name.len() / 3).max(1))
            .min();
        let message = match nearest {
            Some((_, name)) => format!("there is no key `{key}` here: did you mean `{name}`?"),
            None => format!("there is no key `{key}` here: known are {}", known.join(", ")),
        };
        self.fail(steps, &path, message);
    }

    /// Reads a value; none if it does not fit.
    pub(super) fn value(&mut self, node: &Node, schema: &Value, steps: &[Step], field: &str) -> Option<Value> {
        let kind = schema.get("type").and_then(Value::as_str);
        let either = schema.get("x-kubernetes-int-or-string").is_some();
        match (node, kind) {
            (Node::Map(entries), Some("object")) => {
                if schema.get("x-kubernetes-preserve-unknown-fields").is_some() {
                    self.duplicates(node, steps, field);
                    return Some(node.json());
                }
                Some(Value::Object(self.object(entries, schema, steps, field)))
            }
            (Node::List(entries), Some("array")) => {
                let items = schema.get("items").cloned().unwrap_or_default();
                let read = |(index, entry): (usize, &Node)| {
                    self.value(entry, &items, &then(steps, Step::Index(index)), &format!("{field}[{index}]"))
                        .unwrap_or_else(|| default(&items))
                };
                Some(entries.iter().enumerate().map(read).collect())
            }
            (Node::Text(text), Some("string")) => {
                let allowed: Vec<&str> = allowed(schema).collect();
                if !allowed.is_empty() && !allowed.contains(&text.as_str()) {
                    let near = allowed.iter().find(|name| name.eq_ignore_ascii_case(text));
                    let advice = near.map_or_else(|| allowed.join(", "), |name| format!("`{name}`"));
                    self.fail(steps, field, format!("`{text}` is not possible here: write {advice}"));
                    return None;
                }
                Some(node.json())
            }
            (Node::Bool(_), Some("boolean")) => Some(node.json()),
            (Node::Text(text), Some("boolean")) if truth(text).is_some() => truth(text).map(Value::Bool),
            (Node::Number(number), Some("integer")) if number.is_i64() => Some(node.json()),
            (Node::Text(_), None) if either => Some(node.json()),
            (Node::Number(number), None) if either && number.is_i64() => Some(node.json()),
            _ => {
                let wanted = match kind {
                    Some("object") => "a map of keys",
                    Some("array") => "a list",
                    Some("string") => "a text",
                    Some("boolean") => "true or false",
                    _ => "a whole number",
                };
                let quotes = matches!((node, kind), (Node::Number(_) | Node::Bool(_), Some("string")));
                let advice = if quotes { ": put it into quotes" } else { "" };
                self.fail(steps, field, format!("must be {wanted}, and is {}{advice}", node.kind()));
                None
            }
        }
    }

    /// Reads the entries of a map. Keys without a value count as absent, as they do in Kubernetes; what is needed and cannot be
    /// read has a default.
    pub(super) fn object(
        &mut self,
        entries: &[(String, Node)],
        schema: &Value,
        steps: &[Step],
        field: &str,
    ) -> Map<String, Value> {
        let empty = Map::new();
        let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&empty);
        let required = schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        let required: Vec<&str> = required.collect();
        let mut known: Vec<&str> = properties.keys().map(String::as_str).collect();
        known.sort_unstable();
        let mut read = Map::new();
        let mut seen: Vec<&str> = Vec::new();
        let mut unread: Vec<&str> = Vec::new();
        for entry in node::entries(entries) {
            let (key, place) = (entry.key, [steps, entry.steps.as_slice()].concat());
            let name = named(&place);
            let exact = match Old::of(key).filter(|_| self.upgrade && !properties.contains_key(key)) {
                None => properties.get_key_value(key),
                Some(Old::Renamed(today)) => properties.get_key_value(today),
                Some(old) => {
                    self.old(&old, entry.node, &name, &join(field, key), &mut read);
                    continue;
                }
            };
            let other_case = || properties.iter().find(|(known, _)| self.any_case && known.eq_ignore_ascii_case(key));
            let Some((canonical, inner)) = exact.or_else(|| if old_key(key).is_some() { None } else { other_case() })
            else {
                self.unknown(&name, key, field, &known);
                continue;
            };
            let path = join(field, canonical);
            if seen.contains(&canonical.as_str()) {
                if !entry.merged {
                    self.fail(&name, &path, "is there twice: keep one of them".to_owned());
                }
                continue;
            }
            seen.push(canonical);
            if canonical != key {
                self.other_case(&name, &path, key, canonical);
            }
            let needed = required.contains(&canonical.as_str());
            // To oc-mirror an empty text is one that is not there.
            let empty = self.any_case && !needed && *entry.node == Node::Text(String::new());
            if *entry.node == Node::Null || empty {
                continue;
            }
            match self.value(entry.node, inner, &place, &path) {
                Some(value) => {
                    read.insert(canonical.clone(), value);
                }
                None => unread.push(canonical),
            }
        }
        for name in required.into_iter().filter(|name| !read.contains_key(*name)).collect::<Vec<_>>() {
            if !unread.contains(&name) {
                self.fail(steps, &join(field, name), "is missing".to_owned());
            }
            read.insert(name.to_owned(), properties.get(name).map(default).unwrap_or_default());
        }
        read
    }

    /// Takes over a key that has no counterpart today.
    fn old(&mut self, old: &Old, node: &Node, steps: &[Step], field: &str, read: &mut Map<String, Value>) {
        match (old, node) {
            (Old::Dropped(why), _) => self.warn(steps, field, (*why).to_owned()),
            (Old::HeadsOnly, Node::Bool(true)) => {
                self.warn(steps, field, "is left out: it is what happens without it".to_owned());
            }
            (Old::HeadsOnly, Node::Bool(false)) => {
                read.insert("full".to_owned(), json!(true));
                self.warn(steps, field, "has become `full: true`".to_owned());
            }
            (Old::TargetName, Node::Text(name)) => {
                read.insert("targetName".to_owned(), json!(name));
            }
            _ => self.fail(steps, field, format!("is not to be understood: it is {}", node.kind())),
        }
    }

    /// Notes keys that are there twice, where any key may be.
    fn duplicates(&mut self, node: &Node, steps: &[Step], field: &str) {
        match node {
            Node::Map(entries) => {
                for (index, (key, inner)) in entries.iter().enumerate() {
                    let path = join(field, key);
                    if entries.iter().take(index).any(|(before, _)| before == key) {
                        let name = then(steps, Step::Name(index));
                        self.fail(&name, &path, "is there twice: keep one of them".to_owned());
                    }
                    self.duplicates(inner, &then(steps, Step::Value(index)), &path);
                }
            }
            Node::List(entries) => {
                for (index, inner) in entries.iter().enumerate() {
                    self.duplicates(inner, &then(steps, Step::Index(index)), &format!("{field}[{index}]"));
                }
            }
            _ => {}
        }
    }
}

/// The values that a schema lists.
fn allowed(schema: &Value) -> impl Iterator<Item = &str> {
    schema.get("enum").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

/// A value of the right type.
fn default(schema: &Value) -> Value {
    match schema.get("type").and_then(Value::as_str) {
        Some("object") => {
            let required =
                schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
            let inner = |name: &str| schema.get("properties").and_then(|properties| properties.get(name)).map(default);
            Value::Object(required.map(|name| (name.to_owned(), inner(name).unwrap_or_default())).collect())
        }
        Some("array") => json!([]),
        Some("string") => json!(allowed(schema).next().unwrap_or_default()),
        Some("boolean") => json!(false),
        _ => json!(1),
    }
}

/// Truth as YAML 1.1 also writes it, which is what Kubernetes and oc-mirror read.
fn truth(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "y" | "yes" | "on" => Some(true),
        "n" | "no" | "off" => Some(false),
        _ => None,
    }
}

/// The way to the key of an entry, from the way to its value.
fn named(steps: &[Step]) -> Vec<Step> {
    let mut steps = steps.to_vec();
    if let Some(last) = steps.last_mut()
        && let Step::Value(index) = *last
    {
        *last = Step::Name(index);
    }
    steps
}

fn then(steps: &[Step], step: Step) -> Vec<Step> {
    steps.iter().copied().chain([step]).collect()
}

fn join(field: &str, key: &str) -> String {
    if field.is_empty() { key.to_owned() } else { format!("{field}.{key}") }
}
