//! The module through its public door: plans and clusters in, decisions out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use regex::Regex;

use super::mirror_sets::{Scope, rules};
use super::*;
use crate::api::openshift::{
    ImageContentSourcePolicySpec, ImageDigestMirrorSetSpec, ImageMirrors, ImageSpec, ImageTagMirrorSetSpec,
    MachineConfigPoolSpec, MachineConfigPoolStatus,
};
use crate::api::{
    ConflictPolicy, Disruption, MirrorSourcePolicy, Mode, OWNER_REF_ANNOTATION, OutputPolicy, Removal, Tls,
};
use crate::failure::{Failure, Reason};
use crate::oci::{Digest, Reference};
use crate::plan::{Plan, TargetId, TargetRoot};
use crate::request::{CatalogOutput, ClusterOutputs, Identity, MirrorSetOutput, Pattern, Target, UpdateServiceOutput};
use crate::resolve::{DestinationRule, Item, Origin, OriginKind, PathRule, Source, TagRule, Wanted};

mod catalogs;
mod containerd_files;
mod decisions;
mod laws;
mod releases;
mod rule_tables;

const D: &str = "@sha256:f30638f60452062aba36a26ee6c036feead2f03b28f2c47f2b0a991e41baebea";
const ALLOW: MirrorSourcePolicy = MirrorSourcePolicy::AllowContactingSource;
const NEVER: MirrorSourcePolicy = MirrorSourcePolicy::NeverContactSource;

static BLOCKED: LazyLock<Regex> = LazyLock::new(|| Regex::new("blocked").unwrap());

/// One test case: everything `Desired` is made from, to be changed at will.
#[derive(Clone)]
struct World {
    identity: Identity,
    target: Target,
    outputs: ClusterOutputs,
    mode: Mode,
    /// Images as written, with ` > path` for a target path and ` !` for one that is not in the target.
    images: Vec<String>,
    /// Images whose tag cannot be resolved.
    failed: Vec<String>,
    cluster: ClusterSnapshot,
    stored: Stored,
}

impl World {
    fn new(images: &[&str]) -> Self {
        let output = MirrorSetOutput { policy: OutputPolicy::Apply, source_policy: ALLOW };
        Self {
            identity: Identity { namespace: "mirrors".to_owned(), name: "site-a".to_owned(), uid: "1".to_owned() },
            target: Target {
                registry: "m.lab:8443".parse().unwrap(),
                prefix: Some("ocp".parse().unwrap()),
                credentials: None,
                trust_bundle: None,
                tls: Tls::Verify,
            },
            outputs: ClusterOutputs {
                idms: output,
                itms: output,
                containerd_hosts: None,
                catalog_source: CatalogOutput {
                    policy: OutputPolicy::Publish,
                    namespace: Some("openshift-marketplace".to_owned()),
                    prefix: "cs-",
                    names: BTreeMap::new(),
                    contested: BTreeSet::new(),
                },
                cluster_catalog: CatalogOutput {
                    policy: OutputPolicy::Publish,
                    namespace: None,
                    prefix: "cc-",
                    names: BTreeMap::new(),
                    contested: BTreeSet::new(),
                },
                update_service: UpdateServiceOutput {
                    policy: OutputPolicy::Publish,
                    namespace: "openshift-update-service".to_owned(),
                    replicas: 2,
                },
                release_signatures: OutputPolicy::Apply,
                disruption: Disruption::AllowDrain,
                removal: Removal::Retain,
                conflict_policy: ConflictPolicy::Refuse,
            },
            mode: Mode::Mirror,
            images: images.iter().map(|image| (*image).to_owned()).collect(),
            failed: Vec::new(),
            cluster: ClusterSnapshot::default(),
            stored: Stored::default(),
        }
    }

    fn plan(&self) -> (Plan, BTreeSet<usize>) {
        let (mut wanted, mut missing) = (Wanted::default(), BTreeSet::new());
        for image in &self.images {
            let (image, lost) = image.strip_suffix(" !").map_or((image.as_str(), false), |image| (image, true));
            let (written, repo) = image.split_once(" > ").map_or((image, None), |(name, repo)| (name, Some(repo)));
            let item = item(written, repo);
            if lost {
                missing.insert(item.origin.clone());
            }
            wanted.items.push(item);
        }
        for image in &self.failed {
            let failure = Failure::transient(Reason::NetworkUnreachable, "no answer");
            wanted.failures.push((Origin { kind: OriginKind::Additional, name: image.clone() }, failure));
        }
        let root = TargetRoot { registry: self.target.registry.clone(), prefix: self.target.prefix.clone() };
        let blocked = Pattern { text: "blocked".to_owned(), regex: BLOCKED.clone() };
        let plan = Plan::new(&wanted, &root, &[blocked], TargetId("t".to_owned())).unwrap();
        let there = |index: &usize| plan.items[*index].asked.iter().all(|asked| !missing.contains(&asked.origin));
        let verified = (0..plan.items.len()).filter(there).collect();
        (plan, verified)
    }

    fn decide(&self) -> Desired {
        let (plan, verified) = self.plan();
        Desired::new(&Inputs {
            identity: &self.identity,
            target: &self.target,
            outputs: &self.outputs,
            mode: self.mode,
            plan: &plan,
            verified: &verified,
            cluster: &self.cluster,
            stored: &self.stored,
        })
    }

    /// Decides, and makes the cluster what was decided.
    fn apply(&mut self) -> Desired {
        let desired = self.decide();
        for apply in &desired.apply {
            self.put(apply.object.clone());
        }
        for object in &desired.remove {
            self.drop(object);
        }
        self.stored = Stored::read(&desired.manifests).unwrap();
        desired
    }

    fn put(&mut self, set: MirrorSet) {
        self.drop(&ObjectName { kind: set.kind(), name: set.name() });
        match set {
            MirrorSet::Digest(set) => self.cluster.idms.push(set),
            MirrorSet::Tag(set) => self.cluster.itms.push(set),
        }
    }

    fn drop(&mut self, object: &ObjectName) {
        match object.kind {
            MirrorKind::Digest => self.cluster.idms.retain(|set| set.metadata.name.as_ref() != Some(&object.name)),
            MirrorKind::Tag => self.cluster.itms.retain(|set| set.metadata.name.as_ref() != Some(&object.name)),
        }
    }

    fn foreign_idms(&mut self, name: &str, entries: &[(&str, &str, Option<MirrorSourcePolicy>)]) {
        let spec = ImageDigestMirrorSetSpec { image_digest_mirrors: mirrors(entries) };
        self.cluster.idms.push(ImageDigestMirrorSet::new(name, spec));
    }

    fn foreign_itms(&mut self, name: &str, entries: &[(&str, &str, Option<MirrorSourcePolicy>)]) {
        let spec = ImageTagMirrorSetSpec { image_tag_mirrors: mirrors(entries) };
        self.cluster.itms.push(ImageTagMirrorSet::new(name, spec));
    }
}

fn item(written: &str, repo: Option<&str>) -> Item {
    let named: Reference = written.parse().unwrap();
    let digest = named.digest().cloned().unwrap_or_else(|| Digest::of(written.as_bytes()));
    let name = Reference::split(written).0.to_owned();
    Item {
        origin: Origin { kind: OriginKind::Additional, name: written.to_owned() },
        source: Source::Registry { named, digest },
        destination: DestinationRule {
            path: repo.map_or(PathRule::Keep { written: name }, |repo| PathRule::Replace(repo.parse().unwrap())),
            tag: TagRule::Keep,
        },
        platforms: BTreeSet::new(),
        after: BTreeSet::new(),
        rank: None,
        unmet: None,
    }
}

fn mirrors(entries: &[(&str, &str, Option<MirrorSourcePolicy>)]) -> Vec<ImageMirrors> {
    let entry = |(source, mirror, policy): &(&str, &str, Option<MirrorSourcePolicy>)| ImageMirrors {
        source: (*source).to_owned(),
        mirrors: vec![(*mirror).to_owned()],
        mirror_source_policy: *policy,
    };
    entries.iter().map(entry).collect()
}

fn shown(entry: &Entry) -> String {
    let never = if entry.never() { " never" } else { "" };
    format!("{} > {}{never}", entry.source, entry.mirrors.join(", "))
}

/// The rules that a decision writes, as text.
fn written(desired: &Desired, kind: MirrorKind) -> Vec<String> {
    let sets = desired.apply.iter().filter(|apply| apply.object.kind() == kind);
    sets.flat_map(|apply| apply.object.entries().values().map(shown).collect::<Vec<_>>()).collect()
}

fn reasons(desired: &Desired) -> Vec<NoteReason> {
    desired.notes.iter().map(|note| note.reason).collect()
}
