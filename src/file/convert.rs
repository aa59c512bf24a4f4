//! A file of oc-mirror as an object of ours.

use std::path::Path;

use serde_json::{Value, json};

use super::node::{self, Node};
use super::{Destination, Error, FileKind, Loaded, Problem, To, parse_as, problem};
use crate::api::ImageSetMirror;
use crate::request::Request;

/// Key of the `ConfigMap` with a template.
const TEMPLATE_KEY: &str = "catalogsource.yaml";

/// An object that does what a file did.
#[derive(Clone, Debug)]
pub struct Converted {
    /// The object.
    pub object: ImageSetMirror,
    /// What has another meaning or is not taken over, by its place in the file.
    pub notes: Vec<Problem>,
}

impl Converted {
    /// The manifest, with a comment line for each note.
    pub fn manifest(&self) -> String {
        let mut text: String = self.notes.iter().map(comment).collect();
        let mut object = json!(self.object);
        // It belongs to the namespace that it is applied in.
        for (part, key) in [("/metadata", "namespace"), ("", "status")] {
            if let Some(part) = object.pointer_mut(part).and_then(Value::as_object_mut) {
                part.remove(key);
            }
        }
        // An object of our own types can be written.
        text.push_str(&serde_yaml::to_string(&object).unwrap_or_default());
        text
    }
}

fn comment(note: &Problem) -> String {
    let place = if note.line > 0 { format!("line {}: ", note.line) } else { String::new() };
    let field = if note.field.is_empty() { String::new() } else { format!("{}: ", note.field) };
    // Nothing of the file may end the comment.
    let text: String = format!("{place}{field}{}", note.message).replace(['\n', '\r'], " ");
    format!("# {text}\n")
}

/// Turns an `ImageSetConfiguration` into an `ImageSetMirror` for `to`. Keys of version 1 are taken over as far as they have a
/// meaning.
///
/// # Errors
/// The file cannot be read, is an `ImageSetMirror` already, or says something that an object could not say.
pub fn convert(path: &Path, to: &Destination) -> Result<Converted, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    converted(&text, &stem, to).map_err(|problems| Error::Invalid { path: path.to_owned(), problems })
}

fn converted(text: &str, stem: &str, to: &Destination) -> Result<Converted, Vec<Problem>> {
    let mut loaded = parse_as(text, stem, To::Given(to), true)?;
    if loaded.kind == FileKind::ImageSetMirror {
        return Err(vec![problem(None, "kind", "is `ImageSetMirror`: there is nothing to convert".to_owned())]);
    }
    let mut notes = std::mem::take(&mut loaded.warnings);
    notes.extend(templates(&mut loaded));
    notes.extend(without_effect(&mut loaded));
    notes.extend(newest_below(&loaded));
    notes.sort();
    let faults = Request::of_file(&loaded.object).err().map(|invalid| invalid.faults).unwrap_or_default();
    let problems = loaded.problems(&faults);
    if problems.is_empty() { Ok(Converted { object: loaded.object, notes }) } else { Err(problems) }
}

fn note(loaded: &Loaded, field: &str, message: String) -> Problem {
    problem(node::locate(&loaded.text, &loaded.root.steps(field)), field, message)
}

/// A path in a file is the name of a `ConfigMap` in an object.
fn templates(loaded: &mut Loaded) -> Vec<Problem> {
    let name = loaded.object.metadata.name.clone().unwrap_or_default();
    let operators = match loaded.root.get("mirror") {
        Some(mirror) => mirror.entry("operators"),
        None => None,
    };
    let Some(Node::List(operators)) = operators else { return Vec::new() };
    let paths: Vec<_> =
        operators.iter().map(|operator| operator.entry("targetCatalogSourceTemplate").cloned()).collect();
    let mut notes = Vec::new();
    for (index, path) in paths.into_iter().enumerate() {
        let Some(Node::Text(path)) = path.filter(|path| *path != Node::Text(String::new())) else { continue };
        let map = format!("{name}-catalogsource-{index}");
        let message = format!(
            "is the name of a ConfigMap: create it with `kubectl create configmap {map} --from-file={TEMPLATE_KEY}={path}`"
        );
        notes.push(note(loaded, &format!("mirror.operators[{index}].targetCatalogSourceTemplate"), message));
        if let Some(operator) = loaded.object.spec.mirror.operators.get_mut(index) {
            operator.target_catalog_source_template = Some(map);
        }
    }
    notes
}

fn without_effect(loaded: &mut Loaded) -> Vec<Problem> {
    let mut notes = Vec::new();
    if !std::mem::take(&mut loaded.object.spec.mirror.samples).is_empty() {
        notes.push(note(loaded, "mirror.samples", "is left out: it never had an effect".to_owned()));
    }
    let operators = loaded.object.spec.mirror.operators.iter().enumerate();
    for (index, _) in operators.filter(|(_, operator)| operator.skip_dependencies) {
        // As it is called today, or as it was in version 1.
        let fields = ["skipDependencies", "skipDeps"].map(|key| format!("mirror.operators[{index}].{key}"));
        let written = fields.iter().max_by_key(|field| loaded.root.steps(field).len());
        let message = "has no effect: dependencies are never followed".to_owned();
        notes.extend(written.map(|field| note(loaded, field, message)));
    }
    let helm = loaded.object.spec.mirror.helm.iter_mut();
    let mut fields = Vec::new();
    for (repository, entry) in helm.flat_map(|helm| &mut helm.repositories).enumerate() {
        let paths = entry.charts.iter_mut().map(|chart| chart.path.take()).enumerate();
        let paths = paths.filter(|(_, path)| path.is_some());
        fields.extend(paths.map(|(chart, _)| format!("mirror.helm.repositories[{repository}].charts[{chart}].path")));
    }
    let message = "is left out: a chart comes from its repository";
    notes.extend(fields.iter().map(|field| note(loaded, field, message.to_owned())));
    notes
}

/// Where oc-mirror begins with the oldest release of a channel.
fn newest_below(loaded: &Loaded) -> Vec<Problem> {
    let channels = loaded.object.spec.mirror.platform.iter().flat_map(|platform| &platform.channels).enumerate();
    let only_max =
        channels.filter(|(_, channel)| channel.max_version.is_some() && channel.min_version.is_none() && !channel.full);
    let message = "without minVersion is the newest release not above it; oc-mirror takes all from the oldest of the channel \
                   on: add `full: true` for those";
    only_max
        .map(|(index, _)| note(loaded, &format!("mirror.platform.channels[{index}].maxVersion"), message.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to() -> Destination {
        "mirror.test:5000/ocp".parse().unwrap()
    }

    fn config(mirror: &str) -> String {
        format!("kind: ImageSetConfiguration\napiVersion: mirror.openshift.io/v2alpha1\nmirror:\n{mirror}")
    }

    fn notes(converted: &Converted) -> Vec<String> {
        converted.notes.iter().map(|note| format!("{}: {}", note.line, note.field)).collect()
    }

    #[test]
    fn a_file_of_today_is_taken_over_as_it_is_and_plans_the_same() {
        let text = config(
            "  additionalImages:\n  - {name: quay.io/a/b:1, targetRepo: x/y}\n  blockedImages:\n  - name: ^quay\\.io/legacy\n",
        );
        let converted = converted(&text, "My set", &to()).unwrap();
        assert_eq!(notes(&converted), [""; 0]);
        let manifest = converted.manifest();
        let back = super::super::parse(&manifest, "x", To::Absent).unwrap();
        assert_eq!((back.kind, back.errors.len()), (FileKind::ImageSetMirror, 0), "{manifest}");
        assert_eq!(back.object.metadata.name.as_deref(), Some("my-set"));
        let direct = super::super::parse(&text, "My set", To::Given(&to())).unwrap();
        assert_eq!(back.object.spec, direct.object.spec);
    }

    #[test]
    fn keys_of_version_1_are_taken_over_with_a_word_about_each() {
        let text = config(
            "  operators:\n  - catalog: r.io/redhat/index:v4\n    targetName: mine\n    headsOnly: false\n    skipDeps: true\n  \
             - catalog: r.io/redhat/other:v4\n    headsOnly: true\n    originalRef: x\n  helm:\n    repositories:\n    - name: a\n      \
             url: https://a.test\n      charts:\n      - name: c\n        imagepaths: ['{.x}']\nstorageConfig:\n  local: {path: /x}\n\
             archiveSize: 4\n",
        );
        let converted = converted(&text, "set", &to()).unwrap();
        let [first, second] = converted.object.spec.mirror.operators.as_slice() else { panic!("two") };
        assert_eq!(first.target_catalog.as_deref(), Some("redhat/mine"));
        assert_eq!((first.full, first.skip_dependencies, second.full), (true, true, false));
        let helm = converted.object.spec.mirror.helm.as_ref().unwrap();
        assert_eq!(helm.repositories[0].charts[0].image_paths, ["{.x}"]);
        assert_eq!(
            notes(&converted),
            [
                "7: mirror.operators[0].headsOnly",
                "8: mirror.operators[0].skipDeps",
                "10: mirror.operators[1].headsOnly",
                "11: mirror.operators[1].originalRef",
                "19: storageConfig",
                "21: archiveSize",
            ]
        );
        assert!(converted.manifest().starts_with("# line 7: mirror.operators[0].headsOnly: "));
    }

    #[test]
    fn a_template_becomes_the_name_of_a_config_map_that_is_still_to_be_made() {
        let text = config("  operators:\n  - catalog: r.io/index:v4\n    targetCatalogSourceTemplate: /etc/cs.yaml\n");
        let converted = converted(&text, "set", &to()).unwrap();
        let name = converted.object.spec.mirror.operators[0].target_catalog_source_template.clone().unwrap();
        assert_eq!(name, "set-catalogsource-0");
        let command = format!("kubectl create configmap {name} --from-file=catalogsource.yaml=/etc/cs.yaml");
        assert!(converted.notes[0].message.contains(&command), "{:?}", converted.notes);
    }

    #[test]
    fn another_meaning_is_said() {
        let text = config(
            "  platform:\n    channels:\n    - {name: stable-4.18, maxVersion: 4.18.3}\n  samples:\n  - name: x\n",
        );
        let converted = converted(&text, "set", &to()).unwrap();
        assert_eq!(notes(&converted), ["6: mirror.platform.channels[0].maxVersion", "7: mirror.samples"]);
        assert!(converted.object.spec.mirror.samples.is_empty());
    }

    #[test]
    fn what_an_object_cannot_say_is_an_error_at_its_place() {
        for (mirror, field) in [
            ("  operators:\n  - catalog: oci:///srv/catalog\n", "mirror.operators[0].catalog"),
            ("  helm:\n    local:\n    - {name: a, path: /srv/a}\n", "mirror.helm.local"),
            ("  additionalImages:\n  - name: quay.io/a/b\n", "mirror.additionalImages[0].name"),
            ("  operators:\n  - {catalog: 'a.io/b:1', nonsense: 1}\n", "mirror.operators[0].nonsense"),
        ] {
            let problems = converted(&config(mirror), "set", &to()).unwrap_err();
            assert!(problems.iter().any(|problem| problem.field == field && problem.line > 0), "{problems:?}");
        }
        let own = "apiVersion: mirror.openshift.io/v1alpha1\nkind: ImageSetMirror\nspec: {mirror: {}}\n";
        assert!(converted(own, "set", &to()).unwrap_err()[0].message.contains("nothing to convert"));
    }

    #[test]
    fn nothing_of_the_file_gets_out_of_a_comment() {
        let text =
            config("  operators:\n  - catalog: r.io/index:v4\n    targetCatalogSourceTemplate: \"a\\nspec: {}\"\n");
        let manifest = converted(&text, "set", &to()).unwrap().manifest();
        assert!(super::super::parse(&manifest, "x", To::Absent).unwrap().errors.is_empty(), "{manifest}");
    }
}
