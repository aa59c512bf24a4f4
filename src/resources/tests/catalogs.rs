//! What is written for catalogs of operators.

use serde_json::{Value, json};

use super::super::catalogs::template;
use super::*;

/// An object with one catalog, which is in the target or not.
struct Case {
    world: World,
    catalogs: Vec<Catalog>,
    there: bool,
    unwanted: bool,
    cluster: ExtraSnapshot,
}

fn catalog(path: &str, content: &str) -> Catalog {
    Catalog {
        source: format!("q.test/{path}:v4"),
        target: format!("m.lab:8443/ocp/{path}:v4").parse().unwrap(),
        digest: Digest::of(content.as_bytes()),
        published: true,
        template: Template::Plain,
    }
}

impl Case {
    fn new(policy: OutputPolicy) -> Self {
        let mut world = World::new(&[]);
        world.outputs.catalog_source.policy = policy;
        world.outputs.cluster_catalog.policy = policy;
        let cluster = ExtraSnapshot::default();
        Self { world, catalogs: vec![catalog("redhat/index", "one")], there: true, unwanted: false, cluster }
    }

    fn plan(&self) -> Plan {
        let item = |catalog: &Catalog| crate::plan::PlanItem {
            asked: Vec::new(),
            digest: catalog.digest.clone(),
            destination: catalog.target.clone(),
            platforms: BTreeSet::new(),
            after: Vec::new(),
            unmet: None,
        };
        Plan {
            version: Plan::VERSION,
            target: TargetId("t".to_owned()),
            items: self.catalogs.iter().map(item).collect(),
            blocked: Vec::new(),
            failures: Vec::new(),
            notes: Vec::new(),
            partial: false,
        }
    }

    fn decide(&self) -> Extras {
        let plan = self.plan();
        let verified = if self.there { (0..plan.items.len()).collect() } else { BTreeSet::new() };
        Extras::new(&ExtraInputs {
            identity: &self.world.identity,
            outputs: &self.world.outputs,
            mode: self.world.mode,
            releases: &Releases::default(),
            catalogs: if self.unwanted { &[] } else { &self.catalogs },
            plan: &plan,
            verified: &verified,
            cluster: &self.cluster,
            stored: &self.world.stored,
        })
    }

    /// Decides, and lets the cluster have it.
    fn apply(&mut self) -> Extras {
        let decided = self.decide();
        self.world.stored = Stored::read(&decided.manifests).unwrap();
        for (object, fate) in &decided.objects {
            match fate {
                Fate::Apply { changed: true, .. } => {
                    self.cluster
                        .catalogs
                        .retain(|known| known.kind() != object.kind() || known.name() != object.name());
                    self.cluster.catalogs.push(object.clone());
                }
                Fate::Remove => self.cluster.catalogs.retain(|known| known.name() != object.name()),
                _ => {}
            }
        }
        decided
    }
}

fn text(object: &Extra) -> Value {
    serde_json::to_value(object).unwrap()
}

#[test]
fn both_kinds_name_the_catalog_by_digest_and_nothing_is_written_twice() {
    let mut case = Case::new(OutputPolicy::Apply);
    let decided = case.apply();
    let image = format!("m.lab:8443/ocp/redhat/index@{}", Digest::of(b"one"));
    let [(source, _), (cluster, _)] = decided.objects.as_slice() else { panic!("{decided:?}") };
    let (source, cluster) = (text(source), text(cluster));
    assert_eq!(source["metadata"]["name"], "cs-index");
    assert_eq!(source["metadata"]["namespace"], "openshift-marketplace");
    assert_eq!(source["spec"], json!({"sourceType": "grpc", "image": image}));
    assert_eq!(cluster["metadata"]["name"], "cc-index");
    assert_eq!(cluster["spec"], json!({"source": {"type": "Image", "image": {"ref": image}}}));
    // What the API server fills in is no change.
    for object in &mut case.cluster.catalogs {
        if let Extra::ClusterCatalog(catalog) = object {
            catalog.spec.more.insert("availabilityMode".to_owned(), json!("Available"));
        }
    }
    let again = case.apply();
    assert!(again.objects.iter().all(|(_, fate)| *fate == Fate::Apply { changed: false, adopted: false }), "{again:?}");
    assert_eq!(again.manifests, decided.manifests);
}

#[test]
fn a_catalog_that_is_not_there_yet_leaves_what_there_is() {
    let mut case = Case::new(OutputPolicy::Apply);
    case.there = false;
    assert!(case.apply().objects.is_empty());
    case.there = true;
    let first = case.apply();
    case.catalogs = vec![catalog("redhat/index", "two")];
    case.there = false;
    let held = case.apply();
    assert_eq!(
        held.objects,
        first
            .objects
            .iter()
            .map(|(object, _)| { (object.clone(), Fate::Apply { changed: false, adopted: false }) })
            .collect::<Vec<_>>()
    );
    case.there = true;
    let second = case.apply();
    assert!(second.manifests["catalogsources.yaml"].contains(&Digest::of(b"two").to_string()));
}

#[test]
fn a_catalog_that_lists_what_is_not_there_is_not_shown_although_its_tag_is_right() {
    let mut case = Case::new(OutputPolicy::Apply);
    case.catalogs[0].published = false;
    assert!(case.decide().objects.is_empty());
}

#[test]
fn what_somebody_changed_is_put_back_from_what_was_published() {
    let mut case = Case::new(OutputPolicy::Apply);
    case.apply();
    for object in &mut case.cluster.catalogs {
        if let Extra::CatalogSource(source) = object {
            source.spec.image = "elsewhere.test/x:1".to_owned();
        }
    }
    let (identity, outputs) = (&case.world.identity, &case.world.outputs);
    let repaired = extra_repair(identity, outputs, &case.world.stored, &case.cluster);
    let [Extra::CatalogSource(source)] = repaired.as_slice() else { panic!("{repaired:?}") };
    assert!(source.spec.image.starts_with("m.lab:8443/ocp/redhat/index@"));
}

#[test]
fn what_a_template_does_not_say_any_more_goes() {
    let mut case = Case::new(OutputPolicy::Apply);
    let head =
        "apiVersion: operators.coreos.com/v1alpha1\nkind: CatalogSource\nspec: {displayName: Ours, secrets: null";
    case.catalogs[0].template = Template::Text(format!("{head}, priority: -1}}"));
    case.apply();
    case.catalogs[0].template = Template::Text(format!("{head}}}"));
    let changed = |decided: &Extras| {
        decided.objects.iter().filter(|(_, fate)| matches!(fate, Fate::Apply { changed: true, .. })).count()
    };
    assert_eq!([changed(&case.apply()), changed(&case.apply())], [1, 0]);
}

#[test]
fn another_objects_catalog_is_never_taken() {
    for policy in [ConflictPolicy::Refuse, ConflictPolicy::Adopt] {
        let mut case = Case::new(OutputPolicy::Apply);
        case.apply();
        case.world.identity.name = "site-b".to_owned();
        case.world.stored = Stored::default();
        case.world.outputs.conflict_policy = policy;
        let decided = case.decide();
        assert!(decided.objects.iter().all(|(_, fate)| *fate == Fate::Conflict), "{decided:?}");
    }
}

#[test]
fn what_is_not_wanted_any_more_goes_only_if_that_was_asked_for() {
    for removal in [Removal::Retain, Removal::Remove] {
        let mut case = Case::new(OutputPolicy::Apply);
        case.apply();
        case.unwanted = true;
        case.world.outputs.removal = removal;
        case.apply();
        assert_eq!(case.cluster.catalogs.is_empty(), removal == Removal::Remove);
    }
}

#[test]
fn a_template_gives_everything_but_what_makes_the_catalog() {
    let spec = |text: &str| template(text).map(Value::Object);
    let head = "apiVersion: operators.coreos.com/v1alpha1\nkind: CatalogSource\n";
    let full = format!(
        "{head}metadata: {{name: x, labels: {{a: b}}}}\nspec:\n  sourceType: grpc\n  image: x\n  displayName: Ours\n  priority: -1\n  \
         updateStrategy: {{registryPoll: {{interval: 10m}}}}\n  grpcPodConfig: {{memoryTarget: 30Mi}}\n"
    );
    let kept = json!({"displayName": "Ours", "priority": -1, "grpcPodConfig": {"memoryTarget": "30Mi"}});
    assert_eq!(spec(&full), Ok(kept));
    assert_eq!(spec(head), Ok(json!({})));
    for (text, why) in [
        (": x", "not YAML"),
        ("kind: CatalogSource", "not a `CatalogSource`"),
        (&*format!("{head}spec: 1"), "not an object"),
        (&*format!("{head}spec: {{sourceType: configmap}}"), "`configmap`"),
        (&*format!("{head}spec: {{configMap: x}}"), "`configMap`"),
    ] {
        let found = spec(text).unwrap_err();
        assert!(found.contains(why), "{text}: {found}");
    }
}

#[test]
fn a_template_that_cannot_be_read_leaves_what_there_is() {
    let mut case = Case::new(OutputPolicy::Apply);
    case.catalogs[0].template = Template::Unreadable;
    let kinds = |decided: &Extras| decided.objects.iter().map(|(object, _)| object.kind()).collect::<Vec<_>>();
    assert_eq!(kinds(&case.decide()), ["ClusterCatalog"]);
    case.catalogs[0].template = Template::Plain;
    case.apply();
    let before = case.cluster.catalogs.clone();
    case.catalogs[0] = Catalog { template: Template::Unreadable, ..catalog("redhat/index", "two") };
    case.apply();
    let source = |list: &[Extra]| list.iter().find(|object| object.kind() == "CatalogSource").cloned();
    assert_eq!(source(&case.cluster.catalogs), source(&before));
}

#[test]
fn other_names_are_those_that_are_given() {
    let mut case = Case::new(OutputPolicy::Publish);
    let name = ("q.test/redhat/index:v4".to_owned(), "redhat-operators".to_owned());
    case.world.outputs.catalog_source.names = BTreeMap::from([name]);
    let decided = case.decide();
    let names: Vec<_> = decided.objects.iter().map(|(object, _)| object.name()).collect();
    assert_eq!(names, ["redhat-operators", "cc-index"]);
    assert!(decided.objects.iter().all(|(_, fate)| *fate == Fate::Published));
}
