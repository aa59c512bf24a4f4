//! Reads what `-f FILE` names: an `ImageSetMirror`, or an `ImageSetConfiguration` of oc-mirror.
//!
//! Files are read strictly: an unknown key, a key given twice and a value of the wrong type are errors, each with line, column
//! and field, and all of them at once. The keys of an `ImageSetConfiguration` match without regard to case, as they do in
//! oc-mirror, with a warning.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde_json::{Map, Value, json};

use crate::api::{self, ImageSetMirror};
use crate::oci::{NameError, Reference, Registry, RepositoryPath};
use crate::request::Fault;

mod convert;
mod node;
mod shape;

pub use convert::{Converted, convert};
use node::{Node, Step};
use shape::Reader;

/// The field of an object that holds what an `ImageSetConfiguration` holds.
const CONTENT: &str = "spec.mirror";

/// Something about one place of a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Line, from 1; 0 if it concerns no place.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
    /// Path of the field in the file; empty for the whole file.
    pub field: String,
    /// What is wrong and what to write instead.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "{}:{}: ", self.line, self.column)?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

/// Why a file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be read.
    #[error("reading `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is not what it should be; every problem stands on a line of its own, `FILE:LINE:COLUMN: FIELD: MESSAGE`.
    #[error("{}", lines(path, problems))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, in the order of the file; at least one.
        problems: Vec<Problem>,
    },
}

/// One line for each problem, with the file's name.
pub fn lines(path: &Path, problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("{}:{problem}", path.display())).collect::<Vec<_>>().join("\n")
}

/// A target given as `--to HOST[/PATH]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The registry.
    pub registry: Registry,
    /// The path below it.
    pub prefix: Option<RepositoryPath>,
}

/// Why a text is no target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DestinationError {
    /// It starts with a scheme.
    #[error("`{text}` has a scheme: write HOST[:PORT][/PATH], without a scheme")]
    Scheme {
        /// The input.
        text: String,
    },
    /// Its host is none.
    #[error("`{host}` is not the host of a registry: write HOST[:PORT][/PATH], in lower case")]
    Host {
        /// What stands before the path.
        host: String,
    },
    /// Its path is none.
    #[error(transparent)]
    Path(NameError),
}

impl FromStr for Destination {
    type Err = DestinationError;

    fn from_str(text: &str) -> Result<Self, DestinationError> {
        if text.contains("://") {
            return Err(DestinationError::Scheme { text: text.to_owned() });
        }
        let (host, path) = text.split_once('/').map_or((text, None), |(host, path)| (host, Some(path)));
        let registry: Option<Registry> = host.parse().ok();
        let registry = registry.ok_or_else(|| DestinationError::Host { host: host.to_owned() })?;
        Ok(Self { registry, prefix: path.map(str::parse).transpose().map_err(DestinationError::Path)? })
    }
}

/// What is known of the target beside the file.
#[derive(Clone, Copy, Debug)]
pub enum To<'a> {
    /// Nothing: `--to` was not given.
    Absent,
    /// It was given, and what is wrong with it has been said.
    Wrong,
    /// This, in place of what the file says.
    Given(&'a Destination),
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// An object of ours.
    ImageSetMirror,
    /// A file of oc-mirror.
    ImageSetConfiguration,
}

impl FileKind {
    /// A field of the file as it is called in the object.
    fn object_field(self, field: &str) -> String {
        match self {
            Self::ImageSetConfiguration if field.starts_with("mirror") => format!("spec.{field}"),
            _ => field.to_owned(),
        }
    }
}

/// A file that was read.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What it says, as an object; not yet validated. Where something could not be read it has a default.
    pub object: ImageSetMirror,
    /// What could not be read. The object may be checked all the same, and used only if there is nothing here.
    pub errors: Vec<Problem>,
    /// What it was.
    pub kind: FileKind,
    /// What is not an error, but worth saying.
    pub warnings: Vec<Problem>,
    text: String,
    root: Node,
    /// Fields of the object that have their default because of an error.
    said: Vec<String>,
}

impl Loaded {
    /// Everything that is wrong with the file, in its order: what could not be read, and the faults of the object, but for
    /// those that only follow from that.
    pub fn problems(&self, faults: &[Fault]) -> Vec<Problem> {
        let faults = faults.iter().filter(|fault| !self.follows(&fault.field)).map(|fault| {
            let field = self.field(&fault.field);
            let place = node::locate(&self.text, &self.root.steps(field));
            problem(place, field, fault.message.clone())
        });
        let mut problems: Vec<_> = self.errors.iter().cloned().chain(faults).collect();
        problems.sort();
        problems
    }

    /// True for a field that is as it is because something could not be read.
    fn follows(&self, field: &str) -> bool {
        self.said.iter().any(|said| {
            let below =
                field.strip_prefix(said.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
            // What is missing there may be what was written in a way that could not be read.
            below || field == CONTENT && said.starts_with(CONTENT)
        })
    }

    /// A field of the object as it is called in the file.
    fn field<'a>(&self, field: &'a str) -> &'a str {
        match self.kind {
            FileKind::ImageSetConfiguration if field.starts_with(CONTENT) => {
                field.strip_prefix("spec.").unwrap_or(field)
            }
            _ => field,
        }
    }
}

fn problem(place: Option<(usize, usize)>, field: &str, message: String) -> Problem {
    let (line, column) = place.unwrap_or_default();
    Problem { line, column, field: field.to_owned(), message }
}

/// Reads a file. `to` is the target: needed for an `ImageSetConfiguration`, and in place of its own for an `ImageSetMirror`.
///
/// # Errors
/// The file is not there, or is so far from what is read here that nothing more can be said about it.
pub fn read(path: &Path, to: To<'_>) -> Result<Loaded, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    parse(&text, &stem, to).map_err(|problems| Error::Invalid { path: path.to_owned(), problems })
}

/// Reads the text of a file; `stem` becomes the name of an object that has none.
///
/// # Errors
/// As those of [`read`].
pub fn parse(text: &str, stem: &str, to: To<'_>) -> Result<Loaded, Vec<Problem>> {
    parse_as(text, stem, to, false)
}

/// As [`parse`]; `upgrade` takes over what older versions of oc-mirror read, with a warning about each.
fn parse_as(text: &str, stem: &str, to: To<'_>, upgrade: bool) -> Result<Loaded, Vec<Problem>> {
    let root = node::parse(text)?;
    let Node::Map(entries) = &root else {
        let message = "the file is not a map of keys: it has to begin with `apiVersion:` and `kind:`".to_owned();
        return Err(vec![problem(Some((1, 1)), "", message)]);
    };
    let kind = match root.get("kind") {
        Some(Node::Text(kind)) if kind == api::KIND => FileKind::ImageSetMirror,
        Some(Node::Text(kind)) if kind == "ImageSetConfiguration" => FileKind::ImageSetConfiguration,
        found => {
            let message = match found {
                Some(Node::Text(kind)) if kind == "DeleteImageSetConfiguration" => {
                    "`DeleteImageSetConfiguration` is not read: nothing is deleted from a file".to_owned()
                }
                Some(Node::Text(kind)) => {
                    format!(
                        "`{kind}` is not a kind that is read here: write `ImageSetMirror` or `ImageSetConfiguration`"
                    )
                }
                _ => "is missing: write `kind: ImageSetMirror` or `kind: ImageSetConfiguration`".to_owned(),
            };
            return Err(vec![problem(node::locate(text, &root.steps("kind")), "kind", message)]);
        }
    };
    let mut reader = Reader::new(kind == FileKind::ImageSetConfiguration, upgrade);
    let object = match kind {
        FileKind::ImageSetMirror => own(entries, to, &mut reader),
        FileKind::ImageSetConfiguration => foreign(entries, stem, to, &mut reader),
    };
    let placed = |found: Vec<shape::Found>| {
        let mut problems: Vec<_> = found
            .into_iter()
            .map(|found| problem(node::locate(text, &found.steps), &found.field, found.message))
            .collect();
        problems.sort();
        problems
    };
    let mut said: Vec<_> = reader.errors.iter().map(|error| kind.object_field(&error.field)).collect();
    if kind == FileKind::ImageSetConfiguration && matches!(to, To::Absent) || matches!(to, To::Wrong) {
        said.push("spec.target".to_owned());
    }
    said.retain(|field| !field.is_empty());
    let mut errors = placed(reader.errors);
    let warnings = placed(reader.warnings);
    match serde_path_to_error::deserialize::<_, ImageSetMirror>(object) {
        Ok(object) => Ok(Loaded { object, errors, kind, warnings, text: text.to_owned(), root, said }),
        Err(error) => {
            let field = error.path().to_string();
            errors.push(problem(node::locate(text, &root.steps(&field)), &field, error.into_inner().to_string()));
            Err(errors)
        }
    }
}

/// An `ImageSetMirror`.
fn own(entries: &[(String, Node)], to: To<'_>, reader: &mut Reader) -> Value {
    let mut object = reader.object(entries, &shape::root(matches!(to, To::Absent)), &[], "");
    match object.get("apiVersion").and_then(Value::as_str) {
        Some(api::API_VERSION) => {}
        Some(other) => {
            let message = format!("`{other}` is not a version that is read here: write `{}`", api::API_VERSION);
            reader.error(entries, "apiVersion", message);
        }
        None => reader.error(entries, "apiVersion", format!("is missing: write `apiVersion: {}`", api::API_VERSION)),
    }
    object.insert("apiVersion".to_owned(), json!(api::API_VERSION));
    object.remove("status");
    object.entry("metadata").or_insert_with(|| json!({}));
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        let target = spec.entry("target").or_insert_with(|| json!({}));
        if let Some(target) = target.as_object_mut() {
            aim(target, to);
        }
    }
    Value::Object(object)
}

fn aim(target: &mut Map<String, Value>, to: To<'_>) {
    let To::Given(to) = to else {
        target.entry("registry").or_insert_with(|| json!(""));
        return;
    };
    target.insert("registry".to_owned(), json!(to.registry));
    match &to.prefix {
        Some(prefix) => target.insert("pathPrefix".to_owned(), json!(prefix)),
        None => target.remove("pathPrefix"),
    };
}

/// An `ImageSetConfiguration`.
fn foreign(entries: &[(String, Node)], stem: &str, to: To<'_>, reader: &mut Reader) -> Value {
    let mut mirror = None;
    let mut version = None;
    let mut seen = Vec::new();
    for (index, (key, node)) in entries.iter().enumerate() {
        let name = [Step::Name(index)];
        // oc-mirror looks for `kind` and `mirror` itself, and in that case only.
        let other_case = ["apiVersion", "archiveSize"].into_iter().find(|known| known.eq_ignore_ascii_case(key));
        let canonical = other_case.unwrap_or(key);
        if seen.contains(&canonical) {
            reader.fail(&name, canonical, "is there twice: keep one of them".to_owned());
            continue;
        }
        seen.push(canonical);
        if canonical != key {
            reader.other_case(&name, canonical, key, canonical);
        }
        match canonical {
            "kind" => {}
            "apiVersion" => version = Some(node),
            "mirror" => mirror = Some((index, node)),
            "archiveSize" => reader.warn(&name, canonical, "has no effect: no archive is written".to_owned()),
            "storageConfig" if reader.upgrades() => {
                reader.warn(&name, key, "is left out: what was mirrored is seen in the target".to_owned());
            }
            "storageConfig" => reader.fail(
                &name,
                key,
                "is not read: nothing is stored on disk, and what was mirrored is seen in the target; remove the block"
                    .to_owned(),
            ),
            "delete" => reader.fail(&name, key, "is not read: nothing is deleted from a file; remove it".to_owned()),
            _ => reader.unknown(&name, key, "", &["apiVersion", "archiveSize", "kind", "mirror"]),
        }
    }
    match version {
        Some(Node::Text(version))
            if matches!(version.as_str(), "mirror.openshift.io/v2alpha1" | "mirror.openshift.io/v1alpha2") => {}
        Some(_) => reader.error(entries, "apiVersion", "is not read: write `mirror.openshift.io/v2alpha1`".to_owned()),
        None => reader.warn(&[], "apiVersion", "is missing and taken for `mirror.openshift.io/v2alpha1`".to_owned()),
    }
    let mut content = if let Some((index, node)) = mirror {
        reader.value(node, &shape::mirror(), &[Step::Value(index)], "mirror").unwrap_or_else(|| json!({}))
    } else {
        reader.fail(&[], "mirror", "is missing: it says what to mirror".to_owned());
        json!({})
    };
    // A path in such a file, and the name of a `ConfigMap` in an object.
    for operator in content.get_mut("operators").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(operator) = operator.as_object_mut() {
            operator.remove("targetCatalogSourceTemplate");
            target_name(operator);
        }
    }
    let mut target = Map::new();
    aim(&mut target, to);
    if matches!(to, To::Absent) {
        let message = "an ImageSetConfiguration does not say where to mirror to: give `--to HOST[/PATH]`";
        reader.fail(&[], "", message.to_owned());
    }
    json!({
        "apiVersion": api::API_VERSION,
        "kind": api::KIND,
        "metadata": {"name": object_name(stem), "namespace": "default"},
        "spec": {"mirror": content, "target": target},
    })
}

/// The last part of a catalog's path in the target, as oc-mirror v1 knew it, as the whole path.
fn target_name(operator: &mut Map<String, Value>) {
    let Some(Value::String(name)) = operator.remove("targetName") else { return };
    let catalog = operator.get("catalog").and_then(Value::as_str).unwrap_or_default();
    let path = Reference::split(catalog).0.split_once('/').map_or("", |(_, path)| path);
    let path = path.rsplit_once('/').map_or_else(|| name.clone(), |(above, _)| format!("{above}/{name}"));
    operator.entry("targetCatalog").or_insert(json!(path));
}

/// Makes the name of an object out of any text.
fn object_name(text: &str) -> String {
    let mapped: String = text
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' })
        .take(api::MAX_NAME)
        .collect();
    let name = mapped.trim_matches('-');
    if name.is_empty() { "imageset".to_owned() } else { name.to_owned() }
}

#[cfg(test)]
mod tests;
