//! The validated request of `operators`: which catalogs, and what of them.

use std::collections::{BTreeMap, BTreeSet};

use super::build::Faults;
use super::content::{image, platforms};
use super::{ClusterOutputs, OutputPolicy};
use crate::api::{ClusterResources, content as api};
use crate::catalog::{Selection, SelectionError};
use crate::oci::{Digest, Platform, Reference, RepositoryPath, Tag};

/// Longest name of an object: that of a label, since OLM makes labels of it.
const MAX_OBJECT_NAME: usize = 63;

/// One entry of `operators`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogRequest {
    /// The catalog as written.
    pub written: String,
    /// The same without tag and digest: destinations are made from this.
    pub name: String,
    /// The catalog as container runtimes read it.
    pub named: Reference,
    /// What is kept of it.
    pub selection: Selection,
    /// Path in the target instead of the catalog's own.
    pub target_path: Option<RepositoryPath>,
    /// Tag in the target instead of the catalog's own.
    pub target_tag: Option<Tag>,
    /// Name of the `ConfigMap` with the template of its `CatalogSource`; in a file, the path of the template.
    pub template: Option<String>,
    /// Platforms to keep of the catalog and to copy of its images; empty for all.
    pub platforms: BTreeSet<Platform>,
}

/// Checks `operators`.
pub(super) fn read(
    operators: &[api::Operator],
    faults: &mut Faults,
    warnings: &mut Vec<String>,
) -> Vec<CatalogRequest> {
    let mut places: BTreeMap<(String, String), usize> = BTreeMap::new();
    let entries = operators.iter().enumerate();
    let catalogs = entries.filter_map(|(index, operator)| entry(index, operator, &mut places, faults)).collect();
    if operators.iter().any(|operator| operator.skip_dependencies) {
        warnings.push("`skipDependencies` has no effect: dependencies are not followed, as in oc-mirror".to_owned());
    }
    catalogs
}

fn entry(
    index: usize,
    operator: &api::Operator,
    places: &mut BTreeMap<(String, String), usize>,
    faults: &mut Faults,
) -> Option<CatalogRequest> {
    let field = format!("spec.mirror.operators[{index}]");
    let named = image(&format!("{field}.catalog"), &operator.catalog, faults);
    let path = operator.target_catalog.as_ref();
    let target_path = path.and_then(|path| faults.parse::<RepositoryPath>(&format!("{field}.targetCatalog"), path));
    let tag = operator.target_tag.as_ref();
    let target_tag = tag.and_then(|tag| faults.parse::<Tag>(&format!("{field}.targetTag"), tag));
    if let Some(template) = operator.target_catalog_source_template.as_ref().filter(|name| name.contains('/')) {
        faults.invalid(
            format!("{field}.targetCatalogSourceTemplate"),
            format!(
                "`{template}` is a path, and here the name of a ConfigMap is wanted: `kubectl create configmap NAME \
                 --from-file=catalogsource.yaml={template}`, and write NAME"
            ),
        );
    }
    let selection = Selection::new(operator);
    for error in selection.as_ref().err().into_iter().flatten() {
        match error {
            SelectionError::InvalidVersion { package, text } => {
                faults.invalid(place_of(&field, operator, package, text), error.to_string());
            }
            SelectionError::RangeAtPackageAndChannel { .. } => {
                faults.invalid(format!("{field}.packages"), error.to_string());
            }
            // The schema's own bounds tell these, each with its place.
            SelectionError::MissingPackageName { .. }
            | SelectionError::MissingChannelName { .. }
            | SelectionError::DuplicatePackage { .. }
            | SelectionError::DuplicateChannel { .. } => {}
        }
    }
    let named = named?;
    let (name, tag, digest) = Reference::split(&operator.catalog);
    let kept = name.split_once('/').map_or(name, |(_, path)| path);
    let place = (
        operator.target_catalog.as_deref().unwrap_or(kept).to_owned(),
        operator.target_tag.as_deref().or(tag).or(digest).unwrap_or_default().to_owned(),
    );
    let first = *places.entry(place).or_insert(index);
    if first != index {
        faults.invalid(
            &field,
            format!(
                "`{named}` and operators[{first}] are two catalogs that would land on one tag: give one of them a \
                 targetCatalog or targetTag"
            ),
        );
    }
    Some(CatalogRequest {
        written: operator.catalog.clone(),
        name: name.to_owned(),
        named,
        selection: selection.ok()?,
        target_path,
        target_tag,
        template: operator.target_catalog_source_template.clone(),
        platforms: platforms(&operator.platforms),
    })
}

/// Where a bound of a package is written.
fn place_of(field: &str, operator: &api::Operator, package: &str, text: &str) -> String {
    let is = |bound: &Option<String>| bound.as_deref() == Some(text);
    let bound = |field: String, min: &Option<String>, max: &Option<String>| match (is(min), is(max)) {
        (true, _) => Some(format!("{field}.minVersion")),
        (false, true) => Some(format!("{field}.maxVersion")),
        (false, false) => None,
    };
    let mut places =
        operator.packages.iter().enumerate().filter(|(_, known)| known.name == package).flat_map(|(index, known)| {
            let field = format!("{field}.packages[{index}]");
            let own = bound(field.clone(), &known.min_version, &known.max_version);
            let channels = known.channels.iter().enumerate();
            let channels = channels.filter_map(move |(index, channel)| {
                bound(format!("{field}.channels[{index}]"), &channel.min_version, &channel.max_version)
            });
            own.into_iter().chain(channels)
        });
    places.next().unwrap_or_else(|| format!("{field}.packages"))
}

/// The default name of what shows a catalog to the cluster: the last component of its path, with what a label may not have
/// replaced. Without its version, so that subscriptions need not follow.
pub(super) fn object_name(prefix: &str, path: &str) -> String {
    let last = path.rsplit('/').next().unwrap_or(path).to_lowercase();
    let part: String = last.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    format!("{prefix}{}", part.trim_matches('-'))
}

/// A name that is told from others by a tag.
pub(super) fn with_tag(name: &str, tag: &str) -> String {
    let full = object_name(&format!("{name}-"), tag);
    if full.len() <= MAX_OBJECT_NAME {
        return full;
    }
    let hash = Digest::of(tag.as_bytes()).short().get(..8).unwrap_or_default().to_owned();
    let room = MAX_OBJECT_NAME - hash.len() - 1;
    let kept = full.get(..room).unwrap_or_default().trim_end_matches('-');
    format!("{kept}-{hash}")
}

impl CatalogRequest {
    /// Its path in the target, below the prefix.
    pub fn path(&self) -> &str {
        let kept = self.name.split_once('/').map_or(self.name.as_str(), |(_, path)| path);
        self.target_path.as_ref().map_or(kept, RepositoryPath::as_str)
    }

    /// Its tag in the target, as far as the entry says it; of one that is named by digest alone, one that nobody else has.
    fn tag(&self) -> String {
        let tag = self.target_tag.clone().or_else(|| self.named.tag().cloned());
        let tag = tag.or_else(|| self.named.digest().map(Tag::of_digest));
        tag.map(|tag| tag.to_string()).unwrap_or_default()
    }
}

/// Checks that each object for a catalog has a name of its own, as far as they are made at all. Where they are only published,
/// default names that meet get the tag as well.
pub(super) fn check_names(
    catalogs: &[CatalogRequest],
    spec: &ClusterResources,
    outputs: &mut ClusterOutputs,
    faults: &mut Faults,
    warnings: &mut Vec<String>,
) {
    let kinds = [
        ("catalogSource", "CatalogSource", &mut outputs.catalog_source, &spec.catalog_source.names),
        ("clusterCatalog", "ClusterCatalog", &mut outputs.cluster_catalog, &spec.cluster_catalog.names),
    ];
    for (field, kind, output, given) in kinds {
        let list = format!("spec.clusterResources.{field}.names");
        for (index, entry) in given.iter().enumerate() {
            if catalogs.iter().all(|catalog| catalog.written != entry.catalog) {
                let message = format!("`{}` is no catalog of `operators`: write it as it is there", entry.catalog);
                faults.invalid(format!("{list}[{index}].catalog"), message);
            }
        }
        if output.policy == OutputPolicy::Disabled {
            continue;
        }
        let mut names: BTreeMap<String, &CatalogRequest> = BTreeMap::new();
        for (index, catalog) in catalogs.iter().enumerate() {
            let name = output.name(&catalog.written, catalog.path(), "");
            let entry = format!("spec.mirror.operators[{index}]");
            if name.len() > MAX_OBJECT_NAME {
                let length = name.len();
                let message = format!(
                    "the {kind} `{name}` would have {length} characters; at most {MAX_OBJECT_NAME} are allowed: give it a name \
                     in `{list}`"
                );
                faults.invalid(&entry, message);
            }
            let Some(first) = names.insert(name.clone(), catalog) else { continue };
            let both = format!("`{}` and `{}` would both be the {kind} `{name}`", first.written, catalog.written);
            let named = [first, catalog].iter().any(|catalog| output.names.contains_key(&catalog.written));
            if named || output.policy == OutputPolicy::Apply {
                faults.invalid(entry, format!("{both}: give one of them another name in `{list}`"));
            } else {
                warnings.push(format!("{both}: their tags become part of their names, unless `{list}` has others"));
                output.contested.insert(name);
            }
        }
        let mut names: BTreeMap<String, &CatalogRequest> = BTreeMap::new();
        for (index, catalog) in catalogs.iter().enumerate() {
            let tag = catalog.tag();
            let name = output.name(&catalog.written, catalog.path(), &tag);
            // Those that land on one tag are a fault of their own.
            let rival = |first: &&CatalogRequest| (first.path(), first.tag()) != (catalog.path(), tag.clone());
            let contested = output.contested.iter().any(|base| name.starts_with(base));
            if let Some(first) = names.insert(name.clone(), catalog).filter(rival).filter(|_| contested) {
                let message = format!(
                    "`{}` and `{}` would both be the {kind} `{name}`: give one of them another name in `{list}`, or another \
                     `targetCatalog`",
                    first.written, catalog.written
                );
                faults.invalid(format!("spec.mirror.operators[{index}]"), message);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(operators: &Value) -> Result<Vec<CatalogRequest>, Vec<String>> {
        let (mut faults, mut warnings) = (Faults::default(), Vec::new());
        let operators: Vec<api::Operator> = serde_json::from_value(operators.clone()).unwrap();
        let found = super::read(&operators, &mut faults, &mut warnings);
        let messages: Vec<_> =
            faults.0.into_iter().map(|fault| format!("{}: {}", fault.field, fault.message)).collect();
        if messages.is_empty() { Ok(found) } else { Err(messages) }
    }

    #[test]
    fn an_entry_says_what_and_where_to() {
        let found = read(&json!([{"catalog": "q.test:5000/a/index:v4", "targetCatalog": "x/y", "targetTag": "z",
            "packages": [{"name": "p", "minVersion": "1.2"}], "platforms": [{"os": "linux", "architecture": "arm64"}]}]))
        .unwrap();
        let [catalog] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((catalog.name.as_str(), catalog.selection.packages.len()), ("q.test:5000/a/index", 1));
        assert_eq!(catalog.target_path.as_ref().unwrap().as_str(), "x/y");
        assert_eq!(catalog.platforms.len(), 1);
    }

    #[test]
    fn names_of_objects_have_no_version_and_are_labels() {
        for (path, name) in [
            ("redhat/redhat-operator-index", "cs-redhat-operator-index"),
            ("a/My_Index.v2", "cs-my-index-v2"),
            ("index-", "cs-index"),
        ] {
            assert_eq!(object_name("cs-", path), name);
        }
        assert_eq!(with_tag("cs-index", "v4.18_X"), "cs-index-v4-18-x");
        let long = ["a", "b"].map(|end| with_tag("cs-index", &format!("sha256-{}{end}", "0".repeat(63))));
        assert!(long[0] != long[1] && long.iter().all(|name| name.len() == 63), "{long:?}");
    }

    #[test]
    fn catalogs_of_one_name_are_told_apart_unless_they_are_applied() {
        let operators = json!([{"catalog": "q.test/redhat/i:v4.17"}, {"catalog": "q.test/redhat/i:v4.18"}]);
        let request = |resources: &Value| {
            let object = json!({
                "apiVersion": "mirror.openshift.io/v1alpha1", "kind": "ImageSetMirror", "metadata": {"name": "a"},
                "spec": {"mirror": {"operators": operators}, "target": {"registry": "m.test"}, "clusterResources": resources},
            });
            crate::request::Request::try_new(&serde_json::from_value(object).unwrap())
        };
        let published = request(&json!({})).unwrap();
        let name = |tag: &str| published.cluster.catalog_source.name("", "ocp/redhat/i", tag);
        assert_eq!([name("v4.17"), name("v4.18")], ["cs-i-v4-17", "cs-i-v4-18"]);
        assert!(published.warnings[0].contains("would both be the CatalogSource `cs-i`"), "{:?}", published.warnings);
        let applied = json!({"catalogSource": {"policy": "Apply"}, "clusterCatalog": {"policy": "Disabled"}});
        let text = request(&applied).unwrap_err().to_string();
        assert!(
            text.contains("operators[1]: `q.test/redhat/i:v4.17` and `q.test/redhat/i:v4.18` would both be"),
            "{text}"
        );
        let twice = json!([{"catalog": "q.test/a/i:v4"}, {"catalog": "q.test/b/i:v4"}]);
        let object = json!({
            "apiVersion": "mirror.openshift.io/v1alpha1", "kind": "ImageSetMirror", "metadata": {"name": "a"},
            "spec": {"mirror": {"operators": twice}, "target": {"registry": "m.test"}},
        });
        let text = crate::request::Request::try_new(&serde_json::from_value(object).unwrap()).unwrap_err().to_string();
        assert!(text.contains("would both be the CatalogSource `cs-i-v4`"), "{text}");
        let mut named = applied;
        named["catalogSource"]["names"] = json!([{"catalog": "q.test/redhat/i:v4.17", "name": "old"}]);
        assert!(request(&named).is_ok());
        named["catalogSource"]["names"][0]["catalog"] = json!("q.test/redhat/i:v4.16");
        assert!(
            request(&named)
                .unwrap_err()
                .to_string()
                .contains("names[0].catalog: `q.test/redhat/i:v4.16` is no catalog")
        );
    }

    #[test]
    fn faults_name_the_entry() {
        for (operators, text) in [
            (json!([{"catalog": "q.test/index"}]), "operators[0].catalog: "),
            (json!([{"catalog": "q.test/index:1", "targetCatalog": "A"}]), "operators[0].targetCatalog: "),
            (json!([{"catalog": "q.test/index:1", "targetTag": "-"}]), "operators[0].targetTag: "),
            (
                json!([{"catalog": "q.test/i:1"}, {"catalog": "x.test/i:1"}]),
                "operators[1]: `x.test/i:1` and operators[0]",
            ),
            (
                json!([{"catalog": "q.test/i:1", "packages": [{"name": "p", "minVersion": "1.x"}]}]),
                "operators[0].packages[0].minVersion: package `p`: `1.x` is not a version",
            ),
            (
                json!([{"catalog": "q.test/i:1", "packages": [
                    {"name": "p", "minVersion": "1", "channels": [{"name": "c", "maxVersion": "2"}]}]}]),
                "give minVersion and maxVersion for the package or for its channels, not for both",
            ),
        ] {
            let found = read(&operators).unwrap_err();
            assert!(found[0].contains(text), "{operators}: {found:?}");
        }
    }
}
