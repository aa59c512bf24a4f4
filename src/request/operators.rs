//! The validated request of `operators`: which catalogs, and what of them.

use std::collections::{BTreeMap, BTreeSet};

use super::build::Faults;
use super::content::{image, platforms};
use crate::api::content as api;
use crate::catalog::Selection;
use crate::oci::{Platform, Reference, RepositoryPath, Tag};

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
        faults.invalid(format!("{field}.packages"), error.to_string());
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
                json!([{"catalog": "q.test/i:1", "packages": [{"name": "p"}, {"name": "p"}]}]),
                "operators[0].packages: package `p` is named twice",
            ),
            (
                json!([{"catalog": "q.test/i:1", "packages": [{"name": "p", "minVersion": "1.x"}]}]),
                "operators[0].packages: package `p`: `1.x` is not a version",
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
