//! The releases of an object, and what a cluster finds of each.

use std::collections::{BTreeMap, BTreeSet};

use semver::Version;

use super::extras::{Extra, ExtraInputs, Extras};
use super::merge::within;
use super::set::Entries;
use super::signatures;
use crate::api::{OutputPolicy, ReleasePart, ReleaseStatus};
use crate::oci::{Digest, Reference};
use crate::plan::{Asked, Plan, PlanItem};
use crate::resolve::{self, Origin, OriginKind, Wanted};

/// A release that is wanted, with what proves that it is genuine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// Version.
    pub version: String,
    /// Architecture, or `multi`.
    pub architecture: String,
    /// Digest of its payload.
    pub digest: Digest,
    /// Where its payload is in the target: repository and tag.
    pub payload: Reference,
    /// The signature files, as found in the stores. None if nobody looked.
    pub signatures: Vec<Vec<u8>>,
}

/// All releases of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Releases {
    /// The releases.
    pub list: Vec<Release>,
    /// Whether a graph of updates is wanted.
    pub graph_wanted: bool,
    /// The graph image by digest.
    pub graph: Option<Reference>,
}

impl Releases {
    /// The releases of what was resolved, and where the plan has them; those that are blocked are nowhere.
    pub fn of(wanted: &Wanted, plan: &Plan) -> Self {
        let place = |release: &resolve::release::Release| {
            let payload = |asked: &Asked| asked.origin.kind == OriginKind::Release && asked.named.tag().is_some();
            let mut items = plan.items.iter().filter(|item| item.digest == release.digest);
            items.find(|item| item.asked.iter().any(payload)).map(|item| item.destination.clone())
        };
        let list = wanted.releases.iter().filter_map(|release| {
            Some(Release {
                version: release.version.clone(),
                architecture: release.architecture.clone(),
                digest: release.digest.clone(),
                payload: place(release)?,
                signatures: release.signatures.clone(),
            })
        });
        let graph = |origin: &Origin| origin.kind == OriginKind::Graph;
        let image = plan.items.iter().find(|item| item.asked.iter().any(|asked| graph(&asked.origin)));
        let wanted = image.is_some() || plan.failures.iter().any(|(origin, _)| graph(origin));
        let image = image.map(|item| item.destination.repository().at(item.digest.clone()));
        Self { list: list.collect(), graph_wanted: wanted, graph: image }
    }
}

impl Extras {
    /// What a cluster finds of each release, newest first. `rules` are the rules for pulls by digest where their policy wants
    /// them; `None` if the policy wants none.
    pub fn statuses(&self, inputs: &ExtraInputs<'_>, rules: Option<&Entries>) -> Vec<ReleaseStatus> {
        let mut list: Vec<_> = inputs.releases.list.iter().collect();
        list.sort_by_cached_key(|release| {
            let version = Version::parse(&release.version).ok();
            (std::cmp::Reverse(version), release.version.clone(), release.architecture.clone())
        });
        let status = |release: &&Release| {
            let missing = self.missing(inputs, release, rules);
            ReleaseStatus {
                version: release.version.clone(),
                architecture: release.architecture.clone(),
                digest: release.digest.to_string(),
                ready_to_upgrade: missing.is_empty(),
                missing: missing.into_iter().collect(),
            }
        };
        list.iter().map(status).collect()
    }

    fn missing(&self, inputs: &ExtraInputs<'_>, release: &Release, rules: Option<&Entries>) -> BTreeSet<ReleasePart> {
        let items = &inputs.plan.items;
        let payload = position(inputs.plan, release);
        let needed: Vec<usize> =
            payload.and_then(|at| items.get(at)).map(|item| item.after.clone()).unwrap_or_default();
        let images = needed.iter().copied().chain(payload).filter_map(|at| items.get(at));
        let graph = !inputs.releases.graph_wanted || {
            let policy = inputs.outputs.update_service.policy;
            inputs.graph().is_some() && (policy == OutputPolicy::Disabled || self.has_service())
        };
        [
            (ReleasePart::Payload, payload.is_some_and(|at| inputs.verified.contains(&at))),
            (ReleasePart::Components, payload.is_some() && needed.iter().all(|at| inputs.verified.contains(at))),
            (
                ReleasePart::Signatures,
                inputs.outputs.release_signatures == OutputPolicy::Disabled || self.has_signature(&release.digest),
            ),
            (ReleasePart::Graph, graph),
            (ReleasePart::MirrorSet, rules.is_none_or(|rules| images.clone().all(|item| is_covered(item, rules)))),
        ]
        .into_iter()
        .filter_map(|(part, there)| (!there).then_some(part))
        .collect()
    }

    fn has_signature(&self, digest: &Digest) -> bool {
        self.objects.iter().any(|(object, fate)| match object {
            Extra::Signatures(map) => {
                let mut keys = map.binary_data.iter().flat_map(BTreeMap::keys);
                fate.is_good() && keys.any(|key| signatures::digest_of(key).as_ref() == Some(digest))
            }
            _ => false,
        })
    }

    fn has_service(&self) -> bool {
        self.objects.iter().any(|(object, fate)| matches!(object, Extra::UpdateService(_)) && fate.is_good())
    }
}

/// The plan's item that is the payload of a release.
pub(super) fn position(plan: &Plan, release: &Release) -> Option<usize> {
    plan.items.iter().position(|item| item.destination == release.payload && item.digest == release.digest)
}

/// True if nodes that ask for the image look where it is.
fn is_covered(item: &PlanItem, rules: &Entries) -> bool {
    let place = item.destination.repository().to_string();
    item.asked.iter().all(|asked| {
        let source = asked.named.repository().to_string();
        let rule = rules.values().filter(|rule| within(&source, &rule.source)).max_by_key(|rule| rule.source.len());
        // What keeps its name needs no rule.
        source == place
            || rule.is_some_and(|rule| {
                let rest = source.strip_prefix(&rule.source).unwrap_or_default();
                rule.mirrors.iter().any(|mirror| place.strip_prefix(mirror.as_str()) == Some(rest))
            })
    })
}
