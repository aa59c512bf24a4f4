//! What is written for releases, and what a cluster finds of them.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt as _;
use proptest::collection::vec;
use proptest::prelude::*;

use super::super::set::by_source;
use super::super::signatures::{self, LABEL, NAMESPACE};
use super::*;
use crate::api::ReleasePart;
use crate::api::openshift::UpdateService;

/// One test case: an object with releases, and the cluster that it is written to.
struct Case {
    world: World,
    releases: Releases,
    /// Images that are not in the target.
    missing: Vec<String>,
    /// Origins that could not be resolved.
    failed: bool,
    cluster: ExtraSnapshot,
}

fn payload(version: &str) -> String {
    format!("quay.io/openshift-release-dev/ocp-release:{version}-x86_64")
}

fn component(name: &str) -> String {
    format!("quay.io/openshift-release-dev/ocp-v4.0-art-dev@{}", Digest::of(name.as_bytes()))
}

fn release(version: &str, signatures: &[&[u8]]) -> Release {
    Release {
        version: version.to_owned(),
        architecture: "amd64".to_owned(),
        digest: Digest::of(payload(version).as_bytes()),
        payload: format!("m.lab:8443/ocp/openshift/release-images:{version}-x86_64").parse().unwrap(),
        signatures: signatures.iter().map(|bytes| bytes.to_vec()).collect(),
    }
}

impl Case {
    fn new(versions: &[&str]) -> Self {
        let list = versions.iter().map(|version| release(version, &[version.as_bytes()])).collect();
        Self {
            world: World::new(&[]),
            releases: Releases { list, ..Releases::default() },
            missing: Vec::new(),
            failed: false,
            cluster: ExtraSnapshot::default(),
        }
    }

    /// Each release has a component of its own, and all share one.
    fn plan(&self) -> (Plan, BTreeSet<usize>) {
        let mut wanted = Wanted::default();
        for release in &self.releases.list {
            let parts = ["shared", &release.version].map(|name| item(&component(name), Some("openshift/release")));
            let first = wanted.items.len();
            wanted.items.extend(parts);
            let mut payload = item(&payload(&release.version), Some("openshift/release-images"));
            payload.after = BTreeSet::from([first, first + 1]);
            wanted.items.push(payload);
        }
        if self.failed {
            let origin = Origin { kind: OriginKind::Additional, name: "stable-4.18".to_owned() };
            wanted.failures.push((origin, Failure::transient(Reason::NetworkUnreachable, "no answer")));
        }
        let target = &self.world.target;
        let root = TargetRoot { registry: target.registry.clone(), prefix: target.prefix.clone() };
        let plan = Plan::new(&wanted, &root, &[], TargetId("t".to_owned())).unwrap();
        let there =
            |index: &usize| plan.items[*index].asked.iter().all(|asked| !self.missing.contains(&asked.origin.name));
        let verified = (0..plan.items.len()).filter(there).collect();
        (plan, verified)
    }

    fn with<T>(&self, run: impl FnOnce(&ExtraInputs<'_>, Extras) -> T) -> T {
        let (plan, verified) = self.plan();
        let inputs = ExtraInputs {
            catalogs: &[],
            identity: &self.world.identity,
            outputs: &self.world.outputs,
            mode: self.world.mode,
            releases: &self.releases,
            plan: &plan,
            verified: &verified,
            cluster: &self.cluster,
            stored: &self.world.stored,
        };
        run(&inputs, Extras::new(&inputs))
    }

    fn decide(&self) -> Extras {
        self.with(|_, objects| objects)
    }

    /// Decides, and makes the cluster what was decided.
    fn apply(&mut self) -> Extras {
        let decided = self.decide();
        for (object, fate) in &decided.objects {
            match (object.clone(), fate) {
                (Extra::Signatures(map), Fate::Apply { .. }) => {
                    self.cluster.signatures.retain(|known| known.name_any() != map.name_any());
                    self.cluster.signatures.push(map);
                }
                (Extra::Signatures(map), Fate::Remove) => self.cluster.signatures.retain(|known| *known != map),
                (Extra::UpdateService(service), Fate::Apply { .. }) => {
                    self.cluster.update_service = Some(service);
                }
                (Extra::UpdateService(_), Fate::Remove) => self.cluster.update_service = None,
                _ => {}
            }
        }
        self.world.stored = Stored::read(&decided.manifests).unwrap();
        decided
    }

    /// The keys of the signatures in the cluster, shortened, by `ConfigMap`.
    fn keys(&self) -> Vec<Vec<String>> {
        let short = |key: &String| {
            let (digest, number) = key.rsplit_once('-').unwrap();
            let hex = digest.strip_prefix("sha256-").unwrap();
            let known = ["4.18.1", "4.18.2", "4.18.3"];
            let version = known.iter().find(|version| Digest::of(payload(version).as_bytes()).hex() == hex);
            format!("{} {number}", version.unwrap_or(&hex))
        };
        let of = |map: &ConfigMap| map.binary_data.iter().flatten().map(|(key, _)| short(key)).collect::<BTreeSet<_>>();
        self.cluster.signatures.iter().map(|map| of(map).into_iter().collect()).collect()
    }

    fn statuses(&self, rules: Option<&super::super::set::Entries>) -> Vec<(String, Vec<ReleasePart>)> {
        let statuses = self.with(|inputs, objects| objects.statuses(inputs, rules));
        assert!(statuses.iter().all(|status| status.ready_to_upgrade == status.missing.is_empty()));
        statuses.into_iter().map(|status| (status.version, status.missing)).collect()
    }
}

fn fates(objects: &Extras) -> Vec<(&'static str, Fate)> {
    objects.objects.iter().map(|(object, fate)| (object.kind(), fate.clone())).collect()
}

const NEW: Fate = Fate::Apply { changed: true, adopted: false };
const SAME: Fate = Fate::Apply { changed: false, adopted: false };

#[test]
fn signatures_and_update_service_look_as_the_cluster_wants_them() {
    let mut case = Case::new(&["4.18.1"]);
    case.releases.graph_wanted = true;
    case.releases.graph = Some(format!("m.lab:8443/ocp/openshift/graph-image{D}").parse().unwrap());
    case.world.outputs.update_service.policy = OutputPolicy::Apply;
    let decided = case.apply();
    insta::assert_yaml_snapshot!("release_manifests", decided.manifests);
    assert_eq!(fates(&decided), [("ConfigMap", NEW), ("UpdateService", NEW)]);
    let again = case.apply();
    assert_eq!(fates(&again), [("ConfigMap", SAME), ("UpdateService", SAME)]);
    assert_eq!(again.manifests, decided.manifests);
}

#[test]
fn signatures_of_one_release_are_numbered_and_each_is_there_once() {
    let mut case = Case::new(&[]);
    case.releases.list = vec![release("4.18.2", &[b"a", b"b", b"a"]), release("4.18.1", &[b"a"])];
    case.apply();
    assert_eq!(case.keys(), [["4.18.1 1", "4.18.2 1", "4.18.2 2"]]);
    case.releases.list = vec![release("4.18.2", &[b"c", b"b"])];
    case.apply();
    assert_eq!(case.keys(), [["4.18.1 1", "4.18.2 1", "4.18.2 2", "4.18.2 3"]]);
}

#[test]
fn a_signature_comes_with_its_payload_and_is_not_taken_away_by_a_failure() {
    let mut case = Case::new(&["4.18.1", "4.18.2"]);
    case.world.outputs.removal = Removal::Remove;
    case.missing = vec![payload("4.18.2")];
    case.apply();
    assert_eq!(case.keys(), [["4.18.1 1"]]);
    case.missing.clear();
    case.apply();
    assert_eq!(case.keys(), [["4.18.1 1", "4.18.2 1"]]);
    case.releases.list.clear();
    case.failed = true;
    let decided = case.apply();
    assert_eq!(fates(&decided), [("ConfigMap", SAME)]);
    case.cluster.signatures.clear();
    case.apply();
    assert_eq!(case.keys(), [["4.18.1 1", "4.18.2 1"]], "from what was published");
}

#[test]
fn only_a_complete_plan_and_remove_take_signatures_away() {
    let mut case = Case::new(&["4.18.1", "4.18.2"]);
    case.apply();
    case.releases.list.truncate(1);
    case.apply();
    assert_eq!(case.keys(), [["4.18.1 1", "4.18.2 1"]], "retained");
    case.world.outputs.removal = Removal::Remove;
    case.missing = vec![component("shared")];
    case.apply();
    assert_eq!(case.keys(), [["4.18.1 1", "4.18.2 1"]], "not complete");
    case.missing.clear();
    case.apply();
    assert_eq!(case.keys(), [["4.18.1 1"]]);
    case.releases.list.clear();
    let decided = case.apply();
    assert_eq!(fates(&decided), [("ConfigMap", Fate::Remove)]);
    assert!(decided.manifests.is_empty() && case.cluster.signatures.is_empty());
}

#[test]
fn what_is_too_much_for_one_config_map_goes_into_another_and_stays_there() {
    let mut case = Case::new(&[]);
    let large = vec![7; CONFIG_MAP_LIMIT / 2];
    let (first, second) = (release("4.18.2", &[&large]), release("4.18.3", &[&large]));
    case.releases.list = vec![first.clone(), second];
    case.apply();
    assert_eq!(case.cluster.signatures.len(), 2);
    let before = case.keys();
    case.releases.list.push(release("4.18.1", &[b"small"]));
    case.apply();
    let after = case.keys();
    for (before, after) in before.iter().zip(&after) {
        assert!(before.iter().all(|key| after.contains(key)), "{before:?} became {after:?}");
    }
    for map in &case.cluster.signatures {
        let bytes: usize = map.binary_data.iter().flatten().map(|(key, value)| key.len() + value.0.len()).sum();
        assert!(bytes <= CONFIG_MAP_LIMIT, "{bytes}");
    }
    case.world.outputs.removal = Removal::Remove;
    case.releases.list = vec![first];
    let decided = case.apply();
    assert!(fates(&decided).contains(&("ConfigMap", Fate::Remove)), "{:?}", fates(&decided));
    assert_eq!(case.keys(), [["4.18.2 1"]]);
    let names: Vec<_> = signatures::names(&case.world.identity).take(2).collect();
    assert_eq!(names, ["mirrors-site-a-signatures-8a0458b7", "mirrors-site-a-signatures-8a0458b7-1"]);
}

#[test]
fn policies_decide_what_is_written() {
    let mut case = Case::new(&["4.18.1"]);
    let fate = |case: &Case| {
        let decided = case.decide();
        (fates(&decided).into_iter().map(|(_, fate)| fate).next(), decided.manifests.len())
    };
    assert_eq!(fate(&case), (Some(NEW), 1));
    case.world.outputs.release_signatures = OutputPolicy::Publish;
    assert_eq!(fate(&case), (Some(Fate::Published), 1));
    case.world.outputs.release_signatures = OutputPolicy::Disabled;
    assert_eq!(fate(&case), (None, 0));
    case.world.outputs.release_signatures = OutputPolicy::Apply;
    for (access, reason) in [
        (Access::NotServed, HeldReason::KindNotServed),
        (Access::NamespaceNotAllowed, HeldReason::NamespaceNotAllowed),
        (Access::AdmissionDenied, HeldReason::AdmissionDenied),
    ] {
        case.cluster.signatures_access = access;
        let (held, published) = fate(&case);
        assert!(matches!(held, Some(Fate::Held { reason: found, .. }) if found == reason), "{held:?}");
        assert_eq!(published, 1);
    }
    case.cluster.signatures_access = Access::Writable;
    case.world.mode = Mode::Plan;
    assert_eq!(fate(&case), (Some(Fate::Published), 1));
    case.world.mode = Mode::Mirror;
    case.apply();
    case.world.outputs.release_signatures = OutputPolicy::Disabled;
    assert_eq!(fate(&case), (Some(Fate::Retained), 0));
    case.world.outputs.removal = Removal::Remove;
    assert_eq!(fate(&case), (Some(Fate::Remove), 0));
}

#[test]
fn objects_of_others_stay_unless_they_may_be_taken_over() {
    let mut case = Case::new(&["4.18.1"]);
    let mut map = ConfigMap {
        binary_data: Some(BTreeMap::from([("mine".to_owned(), ByteString::default())])),
        ..ConfigMap::default()
    };
    map.metadata.name = signatures::names(&case.world.identity).next();
    map.metadata.namespace = Some(NAMESPACE.to_owned());
    case.cluster.signatures = vec![map];
    assert_eq!(fates(&case.decide()), [("ConfigMap", Fate::Conflict)]);
    case.world.outputs.conflict_policy = ConflictPolicy::Adopt;
    assert_eq!(fates(&case.apply()), [("ConfigMap", Fate::Apply { changed: true, adopted: true })]);
    assert_eq!(case.keys(), [["4.18.1 1"]], "what is no signature goes");
    assert!(case.cluster.signatures[0].labels().contains_key(LABEL));
}

#[test]
fn an_update_service_waits_for_graph_and_release_and_survives_both() {
    let mut case = Case::new(&["4.18.1"]);
    case.world.outputs.update_service.policy = OutputPolicy::Apply;
    case.world.outputs.removal = Removal::Remove;
    case.releases.graph_wanted = true;
    let service = |case: &mut Case| -> Option<UpdateService> {
        case.apply();
        case.cluster.update_service.clone()
    };
    assert_eq!(service(&mut case), None);
    case.releases.graph = Some(format!("m.lab:8443/ocp/openshift/graph-image{D}").parse().unwrap());
    case.missing = vec![payload("4.18.1")];
    assert_eq!(service(&mut case), None);
    case.missing.clear();
    let first = service(&mut case).unwrap();
    assert_eq!(first.spec.releases, "m.lab:8443/ocp/openshift/release-images");
    case.releases.graph = None;
    assert_eq!(service(&mut case), Some(first), "the graph fails once");
    case.world.outputs.update_service.replicas = 3;
    assert_eq!(service(&mut case).unwrap().spec.replicas, 3);
    case.releases.graph_wanted = false;
    case.world.outputs.removal = Removal::Retain;
    assert!(service(&mut case).is_some());
    case.world.outputs.removal = Removal::Remove;
    assert_eq!(service(&mut case), None);
}

#[test]
fn what_the_cluster_lost_or_somebody_changed_is_written_again_from_what_was_published() {
    let mut case = Case::new(&["4.18.1"]);
    case.world.outputs.removal = Removal::Remove;
    case.apply();
    let repair = |case: &Case| {
        let world = &case.world;
        extra_repair(&world.identity, &world.outputs, &world.stored, &case.cluster)
    };
    assert_eq!(repair(&case), []);
    let whole = case.cluster.signatures.clone();
    case.cluster.signatures[0].binary_data = None;
    assert_eq!(repair(&case), [Extra::Signatures(whole[0].clone())]);
    case.cluster.signatures.clear();
    assert_eq!(repair(&case).len(), 1);
    case.cluster.signatures_access = Access::NotServed;
    assert_eq!(repair(&case), []);
}

#[test]
fn a_release_is_ready_when_all_that_the_object_asks_for_is_there() {
    let mut case = Case::new(&["4.18.2", "4.18.10", "4.18.1"]);
    case.releases.graph_wanted = true;
    let rule = |source: &str, mirror: &str| Entry {
        source: source.to_owned(),
        mirrors: vec![mirror.to_owned()],
        policy: ALLOW,
    };
    let base = "quay.io/openshift-release-dev";
    let mut rules = by_source([
        rule(&format!("{base}/ocp-release"), "m.lab:8443/ocp/openshift/release-images"),
        rule(&format!("{base}/ocp-v4.0-art-dev"), "m.lab:8443/ocp/openshift/release"),
    ]);
    let graph = vec![ReleasePart::Graph];
    let all =
        |missing: &[ReleasePart]| ["4.18.10", "4.18.2", "4.18.1"].map(|version| (version.to_owned(), missing.to_vec()));
    assert_eq!(case.statuses(Some(&rules)), all(&graph));
    case.releases.graph = Some(format!("m.lab:8443/ocp/openshift/graph-image{D}").parse().unwrap());
    assert_eq!(case.statuses(Some(&rules)), all(&[]));

    case.missing = vec![payload("4.18.2"), component("4.18.1")];
    let missing: Vec<_> = case.statuses(Some(&rules)).into_iter().map(|(_, missing)| missing).collect();
    let two = vec![ReleasePart::Payload, ReleasePart::Signatures];
    assert_eq!(missing, [vec![], two, vec![ReleasePart::Components]]);
    case.missing.clear();

    rules.remove(&format!("{base}/ocp-release"));
    assert_eq!(case.statuses(Some(&rules)), all(&[ReleasePart::MirrorSet]));
    assert_eq!(case.statuses(None), all(&[]), "nobody asks for mirror sets");
    rules.extend(by_source([rule(base, "m.lab:8443/ocp/elsewhere")]));
    assert_eq!(case.statuses(Some(&rules)), all(&[ReleasePart::MirrorSet]), "it leads to another place");

    case.cluster.signatures_access = Access::NotServed;
    assert_eq!(case.statuses(None), all(&[ReleasePart::Signatures]));
    case.world.outputs.release_signatures = OutputPolicy::Disabled;
    assert_eq!(case.statuses(None), all(&[]));
}

/// A change of the world between two syncs.
#[derive(Clone, Debug)]
enum Event {
    /// These releases are wanted, each with a signature of its own and one of some three.
    Want(Vec<(usize, u8)>),
    /// A payload is not in the target.
    Miss(usize),
    /// Something cannot be resolved, or can again.
    Resolve(bool),
    /// What was published is lost.
    LoseManifests,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        vec((0..4_usize, 0..3_u8), 0..5).prop_map(Event::Want),
        (0..4_usize).prop_map(Event::Miss),
        any::<bool>().prop_map(Event::Resolve),
        Just(Event::LoseManifests),
    ]
}

proptest! {
    #[test]
    fn no_signature_is_lost_or_moved_unless_removal_was_asked_for_and_all_is_there(
        events in vec(event(), 1..8), remove: bool
    ) {
        let mut case = Case::new(&[]);
        case.world.outputs.removal = if remove { Removal::Remove } else { Removal::Retain };
        for event in events {
            case.missing.clear();
            match event {
                Event::Want(list) => {
                    let wanted: BTreeMap<_, _> = list.into_iter().collect();
                    let release = |(n, signature): (usize, u8)| {
                        let version = format!("4.18.{n}");
                        release(&version, &[version.as_bytes(), &[signature]])
                    };
                    case.releases.list = wanted.into_iter().map(release).collect();
                }
                Event::Miss(n) => case.missing = vec![payload(&format!("4.18.{n}"))],
                Event::Resolve(works) => case.failed = !works,
                Event::LoseManifests => case.world.stored = Stored::default(),
            }
            let before = case.cluster.signatures.clone();
            let (plan, verified) = case.plan();
            case.apply();
            let keys = |maps: &[ConfigMap]| -> BTreeSet<(String, String, Vec<u8>)> {
                let of = |map: &ConfigMap| {
                    let (name, data) = (map.name_any(), map.binary_data.clone().unwrap_or_default());
                    data.into_iter().map(move |(key, value)| (name.clone(), key, value.0)).collect::<Vec<_>>()
                };
                maps.iter().flat_map(of).collect()
            };
            let (old, new) = (keys(&before), keys(&case.cluster.signatures));
            if !(remove && plan.complete(&verified)) {
                prop_assert!(old.is_subset(&new), "{old:?} became {new:?}");
            }
            for release in case.releases.list.iter().filter(|release| !case.missing.contains(&payload(&release.version))) {
                for signature in &release.signatures {
                    let hex = release.digest.hex();
                    let there = new.iter().filter(|(_, key, value)| key.contains(hex) && value == signature).count();
                    prop_assert_eq!(there, 1);
                }
            }
            let settled = case.decide();
            prop_assert!(settled.objects.iter().all(|(_, fate)| *fate == SAME), "{:?}", fates(&settled));
        }
    }
}
