//! Files of a catalog as typed documents. Only what the selection can match is kept.
//!
//! A file is any number of JSON objects one after the other, or of YAML documents. Format:
//! <https://olm.operatorframework.io/docs/reference/file-based-catalogs/>.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use semver::Version;
use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{Blob, Bundle, Catalog, Channel, Deprecation, Deprecations, Package, Text, VersionFault, or_default};

/// Why a file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {message}")]
pub struct ReadError {
    /// The file, below the root of the catalog.
    pub file: String,
    /// Line, from 1; that of the document's start if no better one is known.
    pub line: usize,
    /// What is wrong.
    pub message: String,
}

/// Takes in files one by one.
#[derive(Clone, Debug)]
pub struct Loader {
    /// The packages that are kept; all if there is none.
    wanted: Option<Arc<BTreeSet<String>>>,
    /// Whether the texts of documents are kept.
    texts: bool,
    catalog: Catalog,
    warnings: Vec<ReadError>,
    errors: Vec<ReadError>,
    /// Files that nothing is known of but their names.
    unread: Vec<ReadError>,
}

impl Loader {
    /// Keeps these packages, and what belongs to none; everything if there are none.
    pub fn new(wanted: Option<BTreeSet<String>>) -> Self {
        Self {
            wanted: wanted.map(Arc::new),
            texts: true,
            catalog: Catalog::default(),
            warnings: Vec::new(),
            errors: Vec::new(),
            unread: Vec::new(),
        }
    }

    /// Keeps what is read of each document, and not its text: for a catalog that is not written again.
    #[must_use]
    pub fn without_texts(self) -> Self {
        Self { texts: false, ..self }
    }

    /// An empty one that keeps the same.
    #[must_use]
    pub fn beside(&self) -> Self {
        Self { wanted: self.wanted.clone(), texts: self.texts, ..Self::new(None) }
    }

    /// Takes in what another one has.
    pub fn extend(&mut self, other: Self) {
        for (name, content) in other.catalog.packages {
            let into = self.catalog.packages.entry(name).or_default();
            into.packages.extend(content.packages);
            into.channels.extend(content.channels);
            into.bundles.extend(content.bundles);
            into.deprecations.extend(content.deprecations);
            into.others.extend(content.others);
        }
        self.catalog.others.extend(other.catalog.others);
        self.catalog.known.extend(other.catalog.known);
        self.unread.extend(other.unread);
        self.warnings.extend(other.warnings);
        self.errors.extend(other.errors);
    }

    /// Takes note of a file that could not be read at all. It is an error of the catalog unless it lies in the folder of a package
    /// that is not wanted.
    pub fn unreadable(&mut self, path: &str, why: &str) {
        self.unread.push(ReadError { file: path.to_owned(), line: 1, message: why.to_owned() });
    }

    /// Takes in one file; `path` is below the root of the catalog.
    ///
    /// A file that breaks is an error of the catalog if it may be about a package that is wanted, and a warning otherwise.
    pub fn file(&mut self, path: &str, bytes: &[u8]) {
        let mut seen = BTreeSet::new();
        let read = if is_json(bytes) { self.json(path, bytes, &mut seen) } else { self.yaml(path, bytes, &mut seen) };
        if let Err(error) = read {
            let list = if self.concerns(path, bytes, &seen) { &mut self.errors } else { &mut self.warnings };
            list.push(error);
        }
    }

    /// The catalog, and the files that were left out.
    ///
    /// # Errors
    /// All files that broke and matter.
    pub fn finish(mut self) -> Result<(Catalog, Vec<ReadError>), Vec<ReadError>> {
        for error in std::mem::take(&mut self.unread) {
            // Only the folder of a package that is not wanted is known not to matter.
            let folder = error.file.split_once('/').map(|(folder, _)| folder);
            let wanted = |name: &str| self.wanted.as_ref().is_none_or(|wanted| wanted.contains(name));
            let foreign = folder.is_some_and(|name| self.catalog.known.contains(name) && !wanted(name));
            if foreign { &mut self.warnings } else { &mut self.errors }.push(error);
        }
        if self.errors.is_empty() { Ok((self.catalog, self.warnings)) } else { Err(self.errors) }
    }

    fn concerns(&self, path: &str, bytes: &[u8], seen: &BTreeSet<String>) -> bool {
        let Some(wanted) = &self.wanted else { return true };
        let folder = path.split_once('/').map(|(folder, _)| folder);
        let text = String::from_utf8_lossy(bytes);
        wanted.iter().any(|name| folder == Some(name) || seen.contains(name) || mentions(&text, name))
    }

    fn json(&mut self, path: &str, bytes: &[u8], seen: &mut BTreeSet<String>) -> Result<(), ReadError> {
        let mut documents = serde_json::Deserializer::from_slice(bytes).into_iter::<&RawValue>();
        loop {
            let start = documents.byte_offset();
            let line = || 1 + bytes.iter().take(start).filter(|byte| **byte == b'\n').count();
            let error = |line: usize, message: String| ReadError { file: path.to_owned(), line, message };
            match documents.next() {
                None => return Ok(()),
                Some(Err(broken)) => return Err(error(broken.line().max(1), broken.to_string())),
                Some(Ok(raw)) => {
                    self.document(raw.get(), seen).map_err(|message| error(line(), message))?;
                }
            }
        }
    }

    fn yaml(&mut self, path: &str, bytes: &[u8], seen: &mut BTreeSet<String>) -> Result<(), ReadError> {
        for document in serde_yaml::Deserializer::from_slice(bytes) {
            let value = serde_json::Value::deserialize(document).map_err(|error| ReadError {
                file: path.to_owned(),
                line: error.location().map_or(1, |place| place.line()),
                message: error.to_string(),
            })?;
            if !value.is_null() {
                let error = |message| ReadError { file: path.to_owned(), line: 1, message };
                self.document(&value.to_string(), seen).map_err(error)?;
            }
        }
        Ok(())
    }

    fn document(&mut self, raw: &str, seen: &mut BTreeSet<String>) -> Result<(), String> {
        let head: Head = serde_json::from_str(raw).map_err(|error| error.to_string())?;
        if head.schema.is_empty() {
            return Err("a document has no `schema`".to_owned());
        }
        let package = if head.schema == "olm.package" { &head.name } else { &head.package };
        seen.insert(package.clone());
        if head.schema == "olm.package" {
            self.catalog.known.insert(package.clone());
        }
        if !package.is_empty() && self.wanted.as_ref().is_some_and(|wanted| !wanted.contains(package)) {
            return Ok(());
        }
        let within = |error: serde_json::Error| format!("{} `{}`: {error}", head.schema, head.name);
        let json = match (self.texts, &self.wanted) {
            (false, _) => Text::from(String::new()),
            (true, Some(_)) => Text::from(compact(raw)),
            // Of everything there is, little is kept.
            (true, None) => Text::packed(compact(raw)),
        };
        let blob = Blob { schema: head.schema.clone(), name: head.name.clone(), json };
        if package.is_empty() {
            self.catalog.others.push(blob);
            return Ok(());
        }
        let content = self.catalog.packages.entry(package.clone()).or_default();
        match head.schema.as_str() {
            "olm.package" => {
                let shape: PackageShape = serde_json::from_str(raw).map_err(within)?;
                content.packages.push(Package { default_channel: shape.default_channel, blob });
            }
            "olm.channel" => {
                let shape: ChannelShape = serde_json::from_str(raw).map_err(within)?;
                content.channels.push(Channel { entries: shape.entries, blob });
            }
            "olm.bundle" => {
                let shape: BundleShape<'_> = serde_json::from_str(raw).map_err(within)?;
                content.bundles.push(bundle(&shape, blob).map_err(within)?);
            }
            "olm.deprecations" => {
                let shape: DeprecationsShape = serde_json::from_str(raw).map_err(within)?;
                content.deprecations.push(Deprecations { entries: shape.entries, blob });
            }
            _ => content.others.push(blob),
        }
        Ok(())
    }
}

fn is_json(bytes: &[u8]) -> bool {
    bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{')
}

/// Whether a text has this name as a word.
fn mentions(text: &str, name: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || ['-', '_', '.'].contains(&c);
    text.match_indices(name).any(|(at, _)| {
        let before = text.get(..at).and_then(|text| text.chars().next_back());
        let after = text.get(at + name.len()..).and_then(|text| text.chars().next());
        !before.is_some_and(part) && !after.is_some_and(part)
    })
}

/// A JSON text without the space between its tokens.
fn compact(raw: &str) -> String {
    let mut text = String::with_capacity(raw.len());
    let (mut quoted, mut escaped) = (false, false);
    for c in raw.chars() {
        if !quoted && c.is_ascii_whitespace() {
            continue;
        }
        quoted ^= c == '"' && !escaped;
        escaped = quoted && c == '\\' && !escaped;
        text.push(c);
    }
    text.shrink_to_fit();
    text
}

/// What every document has; its keys are found whatever their case.
#[derive(Default)]
struct Head {
    schema: String,
    package: String,
    name: String,
}

impl<'de> Deserialize<'de> for Head {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Heads;

        impl<'de> Visitor<'de> for Heads {
            type Value = Head;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with a `schema`")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Head, A::Error> {
                let mut head = Head::default();
                let mut seen: Vec<&str> = Vec::new();
                while let Some(key) = map.next_key::<Cow<'_, str>>()? {
                    let known =
                        ["schema", "package", "name"].into_iter().find(|known| known.eq_ignore_ascii_case(&key));
                    let Some(known) = known else {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    };
                    if seen.contains(&known) {
                        return Err(A::Error::custom(format!("the key `{known}` is there twice")));
                    }
                    seen.push(known);
                    let value = map.next_value::<Option<String>>()?.unwrap_or_default();
                    match known {
                        "schema" => head.schema = value,
                        "package" => head.package = value,
                        _ => head.name = value,
                    }
                }
                Ok(head)
            }
        }

        deserializer.deserialize_map(Heads)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PackageShape {
    #[serde(default, deserialize_with = "or_default")]
    default_channel: String,
}

#[derive(Deserialize)]
struct ChannelShape {
    #[serde(default, deserialize_with = "or_default")]
    entries: Vec<super::Entry>,
}

#[derive(Deserialize)]
struct DeprecationsShape {
    #[serde(default, deserialize_with = "or_default")]
    entries: Vec<Deprecation>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BundleShape<'a> {
    #[serde(default, deserialize_with = "or_default")]
    image: String,
    #[serde(borrow, default, deserialize_with = "or_default")]
    properties: Vec<Property<'a>>,
    #[serde(default, deserialize_with = "or_default")]
    related_images: Vec<RelatedImage>,
}

#[derive(Deserialize)]
struct Property<'a> {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(borrow, default)]
    value: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct RelatedImage {
    #[serde(default, deserialize_with = "or_default")]
    image: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PackageProperty {
    package_name: String,
    version: String,
}

fn bundle(shape: &BundleShape<'_>, blob: Blob) -> Result<Bundle, serde_json::Error> {
    let of = |kind: &str| shape.properties.iter().filter(move |property| property.kind == kind).collect::<Vec<_>>();
    let package = of("olm.package");
    let stated = match package.first().and_then(|property| property.value) {
        Some(value) => Some(serde_json::from_str::<PackageProperty>(value.get())?),
        None => None,
    };
    let version = match &stated {
        None => Err(VersionFault::Missing),
        Some(stated) => {
            Version::parse(&stated.version).map_err(|_not_strict| VersionFault::Bad(stated.version.clone()))
        }
    };
    Ok(Bundle {
        image: shape.image.clone(),
        version,
        stated: package.len(),
        stated_package: stated.map(|stated| stated.package_name).unwrap_or_default(),
        requires: of("olm.package.required")
            .into_iter()
            .filter_map(|property| serde_json::from_str::<PackageProperty>(property.value?.get()).ok())
            .map(|required| required.package_name)
            .collect(),
        has_objects: !of("olm.bundle.object").is_empty(),
        related: shape.related_images.iter().map(|related| related.image.clone()).collect(),
        blob,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(wanted: Option<&[&str]>, files: &[(&str, &str)]) -> Result<(Catalog, Vec<ReadError>), Vec<ReadError>> {
        let wanted = wanted.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
        let mut loader = Loader::new(wanted);
        for (path, text) in files {
            loader.file(path, text.as_bytes());
        }
        loader.finish()
    }

    #[test]
    fn json_and_yaml_say_the_same() {
        let json = r#"
            {"schema": "olm.package", "name": "a", "defaultChannel": "c"}
            {"schema": "olm.channel", "package": "a", "name": "c", "entries": [{"name": "a.v1", "skips": null}]}
        "#;
        let yaml = "---\nschema: olm.package\nname: a\ndefaultChannel: c\n---\n---\nschema: olm.channel\npackage: a\nname: c\nentries:\n- name: a.v1\n";
        let [json, yaml] = [json, yaml].map(|text| load(None, &[("a/catalog", text)]).unwrap().0);
        for catalog in [&json, &yaml] {
            let content = &catalog.packages["a"];
            assert_eq!(content.packages[0].default_channel, "c");
            assert_eq!(content.channels[0].entries[0].name, "a.v1");
        }
        assert_eq!(json.packages["a"].channels[0].entries, yaml.packages["a"].channels[0].entries);
    }

    #[test]
    fn nothing_inside_of_a_text_is_changed() {
        assert_eq!(
            compact("{ \"a b\" : \"x \\\" y\\\\\" ,\n \"c\": [ 1.0 , 2 ] }"),
            r#"{"a b":"x \" y\\","c":[1.0,2]}"#
        );
    }

    #[test]
    fn keys_of_any_case_are_found_and_two_of_one_name_are_not_taken() {
        let (catalog, _) = load(None, &[("f", r#"{"Schema": "x.y", "PACKAGE": "a", "Name": "n"}"#)]).unwrap();
        assert_eq!(catalog.packages["a"].others[0].name, "n");
        let error = load(None, &[("f", r#"{"schema": "x.y", "Schema": "z"}"#)]).unwrap_err();
        assert!(error[0].message.contains("twice"), "{error:?}");
    }

    #[test]
    fn a_file_that_breaks_is_an_error_where_it_may_matter_and_a_warning_elsewhere() {
        let broken = "{\"schema\": \"olm.package\", \"name\": \"a\"}\n{\"schema\": \n";
        let foreign = "{\"schema\": \"olm.package\", \"name\": \"other\"}\n\n\n{\"schema\": }";
        for (path, text, wanted, error) in [
            ("a/catalog.json", "{", Some(&["a"][..]), true),
            ("x/catalog.json", broken, Some(&["a"][..]), true),
            ("x/catalog.json", "{\"schema\": \"olm.bundle\", \"package\": \"a\", ]", Some(&["a"][..]), true),
            ("x/catalog.json", foreign, Some(&["a", "ther"][..]), false),
            ("x/catalog.json", foreign, None, true),
        ] {
            match load(wanted, &[(path, text)]) {
                Err(errors) => assert!(error && errors[0].file == path, "{errors:?}"),
                Ok((_, warnings)) => assert!(!error && warnings[0].line == 4, "{warnings:?}"),
            }
        }
    }

    #[test]
    fn a_file_of_which_only_the_name_is_known_matters_unless_its_folder_does_not() {
        let text = r#"{"schema": "olm.package", "name": "b"}{"schema": "olm.package", "name": "a"}"#;
        for (path, matters) in [("all.json", true), ("a/x", true), ("other/x", true), ("b/x", false)] {
            let mut loader = Loader::new(Some(BTreeSet::from(["a".to_owned()])));
            loader.unreadable(path, "too long");
            loader.file("f", text.as_bytes());
            assert_eq!(loader.finish().is_err(), matters, "{path}");
        }
    }

    #[test]
    fn a_document_without_a_schema_is_none() {
        let errors = load(None, &[("a/b.yaml", "name: x\n")]).unwrap_err();
        assert_eq!(errors[0].to_string(), "a/b.yaml:1: a document has no `schema`");
    }

    #[test]
    fn what_is_not_wanted_is_not_kept() {
        let text = r#"{"schema": "olm.package", "name": "a"}{"schema": "olm.package", "name": "b"}{"schema": "x", "name": "none"}"#;
        let (catalog, _) = load(Some(&["b"]), &[("f", text)]).unwrap();
        assert_eq!(catalog.packages.keys().collect::<Vec<_>>(), ["b"]);
        assert_eq!(catalog.others.len(), 1);
    }
}
