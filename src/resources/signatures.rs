//! Release signatures for the cluster: what its version operator checks a release with before an update.
//!
//! It looks at every `ConfigMap` in `openshift-config-managed` that carries [`LABEL`], for keys that begin with
//! `sha256-<hex>-`. So ours stand beside those of oc-mirror, and the number behind the digest only keeps keys apart.
//!
//! Signatures accumulate: what is there stays, whatever fails, and only `removal: Remove` takes away those of releases that
//! are not wanted any more. A signature stays in the `ConfigMap` that it is in, so that it is at no time in none.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt as _;

use super::manifests::CONFIG_MAP_LIMIT;
use super::releases::Release;
use super::set::{derived_name, mark};
use crate::api::openshift::CONFIG_MANAGED;
use crate::oci::Digest;
use crate::request::Identity;

/// The namespace that the version operator looks into.
pub const NAMESPACE: &str = CONFIG_MANAGED;
/// The label that it looks for.
pub const LABEL: &str = "release.openshift.io/verification-signatures";
/// Most `ConfigMap`s of one object: room for some thousand signatures. Of what is more the status says that it is missing.
pub const PARTS: usize = 4;

/// Signatures by key.
type Part = BTreeMap<String, ByteString>;

/// The names that `ConfigMap`s with the signatures of an object can have, in their order.
pub fn names(identity: &Identity) -> impl Iterator<Item = String> {
    let first = derived_name(identity, "signatures");
    (0..PARTS).map(move |part| if part == 0 { first.clone() } else { format!("{first}-{part}") })
}

/// The `ConfigMap`s that hold what `before` holds and the signatures of `releases`; with `removing` nothing else. Empty ones
/// are left out.
pub(super) fn maps<'a>(
    identity: &Identity,
    releases: impl Iterator<Item = &'a Release> + Clone,
    before: &[&ConfigMap],
    removing: bool,
) -> Vec<ConfigMap> {
    let wanted: BTreeSet<&Digest> = releases.clone().map(|release| &release.digest).collect();
    let stays = |key: &str| digest_of(key).is_some_and(|digest| !removing || wanted.contains(&digest));
    let names: Vec<String> = names(identity).collect();
    let mut parts: Vec<Part> = names
        .iter()
        .map(|name| {
            let same = before.iter().filter(|map| map.name_any() == *name).filter_map(|map| map.binary_data.as_ref());
            let entries = same.flatten().filter(|(key, _)| stays(key));
            // The first of two with one key is what the cluster has.
            entries.rev().map(|(key, value)| (key.clone(), value.clone())).collect()
        })
        .collect();
    let mut releases: Vec<_> = releases.collect();
    releases.sort_by(|a, b| a.digest.cmp(&b.digest));
    for release in releases {
        for signature in &release.signatures {
            add(&mut parts, &release.digest, signature);
        }
    }
    let filled = names.into_iter().zip(parts).filter(|(_, part)| !part.is_empty());
    filled.map(|(name, part)| config_map(identity, name, part)).collect()
}

/// The digest of which a signature is under a key.
pub(super) fn digest_of(key: &str) -> Option<Digest> {
    let (digest, number) = key.rsplit_once('-')?;
    number.parse::<u32>().ok()?;
    digest.strip_prefix("sha256-").and_then(|hex| format!("sha256:{hex}").parse().ok())
}

fn add(parts: &mut [Part], digest: &Digest, signature: &[u8]) {
    let prefix = format!("sha256-{}-", digest.hex());
    let of_digest = || parts.iter().flatten().filter(|(key, _)| key.starts_with(&prefix));
    if of_digest().any(|(_, known)| known.0 == signature) {
        return;
    }
    let taken: BTreeSet<&str> = of_digest().map(|(key, _)| key.as_str()).collect();
    let mut free = (1..=taken.len() + 1).map(|number| format!("{prefix}{number}"));
    let Some(key) = free.find(|key| !taken.contains(key.as_str())) else { return };
    let bytes = key.len() + signature.len();
    let size = |part: &Part| part.iter().map(|(key, value)| key.len() + value.0.len()).sum::<usize>();
    if let Some(part) = parts.iter_mut().find(|part| size(part) + bytes <= CONFIG_MAP_LIMIT) {
        part.insert(key, ByteString(signature.to_vec()));
    }
}

fn config_map(identity: &Identity, name: String, part: Part) -> ConfigMap {
    let mut map = ConfigMap { binary_data: Some(part), ..ConfigMap::default() };
    map.metadata.name = Some(name);
    map.metadata.namespace = Some(NAMESPACE.to_owned());
    mark(&mut map.metadata, identity);
    map.labels_mut().insert(LABEL.to_owned(), String::new());
    map
}
