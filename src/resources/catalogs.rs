//! Catalogs of operators in the cluster: a `CatalogSource` and a `ClusterCatalog` for each, one for either OLM.
//!
//! They name the catalog by digest. A new one makes OLM start its server anew, at once and without polling; and what is served is
//! what was verified, whatever becomes of the tag.

use std::collections::BTreeSet;

use kube::ResourceExt as _;
use serde_json::{Map, Value, json};

use super::extras::{Extra, ExtraInputs};
use super::set::mark;
use crate::api::openshift::{CatalogSource, CatalogSourceSpec, ClusterCatalog, ClusterCatalogSpec};
use crate::oci::{Digest, Reference, Tag};
use crate::plan::PlanItem;
use crate::request::{CatalogOutput, ClusterOutputs, Identity};

/// Which kind of object shows a catalog to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CatalogKind {
    /// `CatalogSource`.
    Source,
    /// `ClusterCatalog`.
    Cluster,
}

impl CatalogKind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Source, Self::Cluster];

    /// The kind's name in the API.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Source => "CatalogSource",
            Self::Cluster => "ClusterCatalog",
        }
    }

    /// What happens to objects of the kind.
    pub fn output(self, outputs: &ClusterOutputs) -> &CatalogOutput {
        match self {
            Self::Source => &outputs.catalog_source,
            Self::Cluster => &outputs.cluster_catalog,
        }
    }

    /// Its API group.
    pub fn group(self) -> &'static str {
        match self {
            Self::Source => "operators.coreos.com",
            Self::Cluster => "olm.operatorframework.io",
        }
    }
}

/// A catalog that an object wants in the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Catalog {
    /// As the user names it.
    pub source: String,
    /// Where it is: a repository and a tag.
    pub target: Reference,
    /// What is there, or is to be.
    pub digest: Digest,
    /// True if it is there with every image that it lists.
    pub published: bool,
    /// What its `CatalogSource` is made from.
    pub template: Template,
}

impl Catalog {
    /// The name of its object of a kind.
    pub fn name(&self, outputs: &ClusterOutputs, kind: CatalogKind) -> String {
        let tag = self.target.tag().map(Tag::as_str).unwrap_or_default();
        kind.output(outputs).name(&self.source, self.target.repository().path().as_str(), tag)
    }
}

/// What a `CatalogSource` is made from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Template {
    /// Nothing but the catalog.
    #[default]
    Plain,
    /// The text of another one.
    Text(String),
    /// It cannot be read: what there is stays as it is.
    Unreadable,
}

/// The objects of one kind: for each catalog that is in the target, and for the others what there is in `before`; with `removing`
/// nothing else.
pub(super) fn objects(inputs: &ExtraInputs<'_>, kind: CatalogKind, before: &[&Extra], removing: bool) -> Vec<Extra> {
    let mut objects: Vec<Extra> = Vec::new();
    for catalog in inputs.catalogs {
        let name = catalog.name(inputs.outputs, kind);
        let known = || before.iter().find(|known| known.name() == name).map(|known| (*known).clone());
        let is = |item: &PlanItem| item.destination == catalog.target && item.digest == catalog.digest;
        let at = inputs.plan.items.iter().position(is);
        let there = catalog.published && at.is_some_and(|at| inputs.verified.contains(&at));
        let made = there.then(|| object(inputs.identity, inputs.outputs, kind, catalog, &name)).flatten();
        objects.extend(made.or_else(known).map(|object| again(object, inputs.identity, inputs.outputs)));
    }
    let names: BTreeSet<String> = objects.iter().map(Extra::name).collect();
    let mut left: Vec<Extra> = Vec::new();
    for known in before.iter().filter(|known| !removing && !names.contains(&known.name())) {
        // The first of two of one name is what the cluster has.
        if !left.iter().any(|left| left.name() == known.name()) {
            left.push(again((*known).clone(), inputs.identity, inputs.outputs));
        }
    }
    objects.extend(left);
    objects.sort_by_key(Extra::name);
    objects
}

fn object(
    identity: &Identity,
    outputs: &ClusterOutputs,
    kind: CatalogKind,
    catalog: &Catalog,
    name: &str,
) -> Option<Extra> {
    let image = catalog.target.repository().at(catalog.digest.clone()).to_string();
    let mut object = match kind {
        CatalogKind::Source => {
            let more = match &catalog.template {
                Template::Plain => Map::new(),
                Template::Text(text) => template(text).ok()?,
                Template::Unreadable => return None,
            };
            let spec = CatalogSourceSpec { source_type: "grpc".to_owned(), image, more };
            Extra::CatalogSource(CatalogSource::new(name, spec))
        }
        CatalogKind::Cluster => {
            let source = json!({"type": "Image", "image": {"ref": image}});
            Extra::ClusterCatalog(ClusterCatalog::new(name, ClusterCatalogSpec { source, more: Map::new() }))
        }
    };
    place(&mut object, identity, outputs);
    Some(object)
}

/// An object that there is, with nothing of the cluster's own on it.
fn again(known: Extra, identity: &Identity, outputs: &ClusterOutputs) -> Extra {
    let mut object = match known {
        Extra::CatalogSource(known) => Extra::CatalogSource(CatalogSource::new(&known.name_any(), known.spec)),
        Extra::ClusterCatalog(known) => Extra::ClusterCatalog(ClusterCatalog::new(&known.name_any(), known.spec)),
        other => other,
    };
    place(&mut object, identity, outputs);
    object
}

fn place(object: &mut Extra, identity: &Identity, outputs: &ClusterOutputs) {
    match object {
        Extra::CatalogSource(source) => {
            source.metadata.namespace.clone_from(&outputs.catalog_source.namespace);
            mark(&mut source.metadata, identity);
        }
        Extra::ClusterCatalog(catalog) => mark(&mut catalog.metadata, identity),
        Extra::Signatures(_) | Extra::UpdateService(_) => {}
    }
}

/// What a template says beside the catalog.
///
/// # Errors
/// Why it cannot be used, in words.
pub fn template(text: &str) -> Result<Map<String, Value>, String> {
    let mut object: Value = serde_yaml::from_str(text).map_err(|error| format!("it is not YAML: {error}"))?;
    let is = |key: &str, wanted: &str| object.get(key).and_then(Value::as_str) == Some(wanted);
    if !is("apiVersion", "operators.coreos.com/v1alpha1") || !is("kind", "CatalogSource") {
        return Err("it is not a `CatalogSource` of `operators.coreos.com/v1alpha1`".to_owned());
    }
    let mut spec = match object.get_mut("spec").map(Value::take) {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(spec)) => spec,
        Some(_) => return Err("its `spec` is not an object".to_owned()),
    };
    match spec.get("sourceType").and_then(Value::as_str) {
        None | Some("" | "grpc") => {}
        Some(other) => return Err(format!("its `sourceType` is `{other}`, and a mirrored catalog is `grpc`")),
    }
    if spec.contains_key("configMap") {
        return Err("it has a `configMap`, which a mirrored catalog does not: leave it out".to_owned());
    }
    // The API server drops what is null, and would be asked for it again and again.
    drop_nulls(&mut spec);
    for own in ["sourceType", "image", "address"] {
        spec.remove(own);
    }
    // Nothing new is ever found under a digest.
    if let Some(strategy) = spec.get_mut("updateStrategy").and_then(Value::as_object_mut) {
        strategy.remove("registryPoll");
        if strategy.is_empty() {
            spec.remove("updateStrategy");
        }
    }
    Ok(spec)
}

fn drop_nulls(object: &mut Map<String, Value>) {
    object.retain(|_, value| !value.is_null());
    for value in object.values_mut() {
        if let Value::Object(inner) = value {
            drop_nulls(inner);
        }
    }
}
