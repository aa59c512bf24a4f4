//! YAML as a tree that keeps duplicate keys, and the places of its parts.
//!
//! The parser tells a position only with an error. So a place is found by reading the text once more, along the path to it, and
//! failing there.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::{Map, Number, Value};

use super::{Problem, problem};

/// A value of a YAML document.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    /// Nothing.
    Null,
    /// True or false.
    Bool(bool),
    /// A number.
    Number(Number),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// Keys and values, in their order.
    Map(Vec<(String, Node)>),
}

/// One step from a node to a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The key of an entry of a map, by number.
    Name(usize),
    /// The value of an entry of a map, by number.
    Value(usize),
    /// An entry of a list.
    Index(usize),
}

impl Node {
    /// The value of a key.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Map(entries) => entries.iter().find(|(name, _)| name == key).map(|(_, node)| node),
            _ => None,
        }
    }

    /// The value of a key, whatever its case.
    pub(super) fn entry(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Map(entries) => entries.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, node)| node),
            _ => None,
        }
    }

    /// What it is, for people.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "empty",
            Self::Bool(_) => "true or false",
            Self::Number(_) => "a number",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Map(_) => "a map of keys",
        }
    }

    /// As JSON; of keys that are there twice the last one wins.
    pub(super) fn json(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(value) => Value::Bool(*value),
            Self::Number(value) => Value::Number(value.clone()),
            Self::Text(value) => Value::String(value.clone()),
            Self::List(entries) => entries.iter().map(Self::json).collect(),
            Self::Map(map) => {
                let mut read = Map::new();
                for entry in entries(map) {
                    if entry.merged {
                        read.entry(entry.key).or_insert_with(|| entry.node.json());
                    } else {
                        read.insert(entry.key.to_owned(), entry.node.json());
                    }
                }
                Value::Object(read)
            }
        }
    }

    /// The way to a field such as `spec.mirror.additionalImages[3].name`, as far as it is there; ends at the name of the last
    /// key found, or at the entry of a list.
    pub(super) fn steps(&self, field: &str) -> Vec<Step> {
        let mut steps: Vec<Step> = Vec::new();
        let mut node = self;
        for part in field.split(['.', '[']).filter(|part| !part.is_empty()) {
            let found = match (node, part.strip_suffix(']').and_then(|index| index.parse::<usize>().ok())) {
                (Self::List(entries), Some(index)) => entries.get(index).map(|inner| (Step::Index(index), inner)),
                (Self::Map(entries), None) => entries
                    .iter()
                    .enumerate()
                    .find(|(_, (key, _))| key.eq_ignore_ascii_case(part))
                    .map(|(index, (_, inner))| (Step::Value(index), inner)),
                _ => None,
            };
            let Some((step, inner)) = found else { break };
            steps.push(step);
            node = inner;
        }
        if let Some(last) = steps.last_mut()
            && let Step::Value(index) = *last
        {
            *last = Step::Name(index);
        }
        steps
    }
}

/// An entry of a map.
pub(super) struct Entry<'a> {
    pub(super) key: &'a str,
    pub(super) node: &'a Node,
    /// The way from the map to the value.
    pub(super) steps: Vec<Step>,
    /// It comes from a merge key (`<<`), and what the map itself says counts instead.
    pub(super) merged: bool,
}

/// The entries of a map, and after them what its merge keys bring in; of those the first with a key counts.
pub(super) fn entries(map: &[(String, Node)]) -> impl Iterator<Item = Entry<'_>> {
    let mut own = Vec::new();
    let mut merged = Vec::new();
    for (index, (key, node)) in map.iter().enumerate() {
        let at = Step::Value(index);
        match node {
            Node::Map(inner) if key == "<<" => merged.extend(brought(inner, &[at])),
            Node::List(maps) if key == "<<" && maps.iter().all(|map| matches!(map, Node::Map(_))) => {
                for (index, inner) in maps.iter().enumerate() {
                    if let Node::Map(inner) = inner {
                        merged.extend(brought(inner, &[at, Step::Index(index)]));
                    }
                }
            }
            _ => own.push(Entry { key, node, steps: vec![at], merged: false }),
        }
    }
    own.into_iter().chain(merged)
}

fn brought<'a>(map: &'a [(String, Node)], way: &[Step]) -> Vec<Entry<'a>> {
    let entries: Box<dyn Iterator<Item = Entry<'a>> + 'a> = Box::new(entries(map));
    entries.map(|entry| Entry { steps: [way, entry.steps.as_slice()].concat(), merged: true, ..entry }).collect()
}

/// Reads the only document of a file.
pub(super) fn parse(text: &str) -> Result<Node, Vec<Problem>> {
    let mut root = None;
    for (number, document) in serde_yaml::Deserializer::from_str(text).enumerate() {
        match Node::deserialize(document) {
            Ok(Node::Null) => {}
            Ok(_) if root.is_some() => {
                let message = "the file has more than one document: put each into a file of its own".to_owned();
                let again = serde_yaml::Deserializer::from_str(text).nth(number);
                let place = again.and_then(|document| Seek(&[]).deserialize(document).err()).as_ref().and_then(place);
                return Err(vec![problem(place, "", message)]);
            }
            Ok(node) => root = Some(node),
            Err(error) => {
                let place = place(&error);
                let message = error.to_string();
                let message = message.split(" at line ").next().unwrap_or_default();
                return Err(vec![problem(place, "", format!("not YAML that can be read: {message}"))]);
            }
        }
    }
    root.ok_or_else(|| vec![problem(None, "", "the file is empty".to_owned())])
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a plain value without a tag")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Number(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Node, E> {
        Number::from_f64(value).map(Node::Number).ok_or_else(|| E::custom("not a finite number"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_element()? {
            entries.push(entry);
        }
        Ok(Node::List(entries))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = access.next_key::<Node>()? {
            let key = match key {
                Node::Text(text) => text,
                Node::Number(number) => number.to_string(),
                Node::Bool(value) => value.to_string(),
                Node::Null => "null".to_owned(),
                Node::List(_) | Node::Map(_) => return Err(A::Error::custom("a key must be a plain text")),
            };
            entries.push((key, access.next_value()?));
        }
        Ok(Node::Map(entries))
    }
}

fn place(error: &serde_yaml::Error) -> Option<(usize, usize)> {
    error.location().map(|location| (location.line(), location.column()))
}

/// Line and column of a part of the text, both from 1.
pub(super) fn locate(text: &str, steps: &[Step]) -> Option<(usize, usize)> {
    for document in serde_yaml::Deserializer::from_str(text) {
        if let Err(error) = Seek(steps).deserialize(document) {
            return place(&error);
        }
    }
    None
}

/// Follows the steps and fails at their end.
struct Seek<'a>(&'a [Step]);

impl<'de> DeserializeSeed<'de> for Seek<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Seek<'_> {
    fn scalar<E: de::Error>(&self) -> Result<(), E> {
        if self.0.is_empty() { Err(E::custom("here")) } else { Ok(()) }
    }
}

impl<'de> Visitor<'de> for Seek<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        // An empty document before the one that is looked for has no place in it either.
        self.scalar()
    }

    fn visit_none<E: de::Error>(self) -> Result<(), E> {
        self.scalar()
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<(), E> {
        self.scalar()
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<(), E> {
        self.scalar()
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<(), E> {
        self.scalar()
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<(), E> {
        self.scalar()
    }

    fn visit_str<E: de::Error>(self, _: &str) -> Result<(), E> {
        self.scalar()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<(), A::Error> {
        let Some((first, rest)) = self.0.split_first() else { return Err(A::Error::custom("here")) };
        let mut index = 0;
        loop {
            let more = if *first == Step::Index(index) {
                access.next_element_seed(Seek(rest))?.is_some()
            } else {
                access.next_element::<IgnoredAny>()?.is_some()
            };
            if !more {
                return Ok(());
            }
            index += 1;
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<(), A::Error> {
        let Some((first, rest)) = self.0.split_first() else { return Err(A::Error::custom("here")) };
        let mut index = 0;
        loop {
            let more = if *first == Step::Name(index) {
                access.next_key_seed(Seek(&[]))?.is_some()
            } else {
                access.next_key::<IgnoredAny>()?.is_some()
            };
            if !more {
                return Ok(());
            }
            if *first == Step::Value(index) {
                access.next_value_seed(Seek(rest))?;
            } else {
                access.next_value::<IgnoredAny>()?;
            }
            index += 1;
        }
    }
}
