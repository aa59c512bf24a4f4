use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::plan::{Plan, TargetId, TargetRoot};
use crate::request::Request;

fn request(helm: &Value) -> HelmRequest {
    let object = json!({
        "apiVersion": "mirror.openshift.io/v1alpha1", "kind": "ImageSetMirror", "metadata": {"name": "a"},
        "spec": {"mirror": {"helm": helm}, "target": {"registry": "m.io"}},
    });
    Request::try_new(&serde_json::from_value(object).unwrap()).unwrap().helm.unwrap()
}

fn http(charts: &Value) -> HelmRequest {
    request(&json!({"repositories": [{"name": "acme", "url": "https://charts.test/stable", "charts": charts}]}))
}

/// Documents that answer whatever is asked for.
struct World {
    index: &'static str,
    tags: Vec<&'static str>,
    /// The images of a chart, by name and version.
    images: fn(&str, &str) -> Result<Vec<&'static str>, Failure>,
}

const INDEX: &str = "entries:\n  web:\n  - version: 1.2.0\n    urls: [web-1.2.0.tgz]\n  - version: 1.10.0+b\n    urls: [web.tgz]\n  - version: \
     2.0.0-rc.1\n    urls: [rc.tgz]\n  base:\n  - version: 1.0.0\n    type: library\n    urls: [base.tgz]\n  other:\n  - version: 3.0.0\n    \
     urls: [\"oci://r.test/charts/other:3.0.0\"]\n";

impl Default for World {
    fn default() -> Self {
        Self {
            index: INDEX,
            tags: vec!["1.0.0", "1.1.0", "1.2.0_b", "2.0.0-rc.1", "latest"],
            images: |_, _| Ok(vec!["quay.io/a/web:1"]),
        }
    }
}

impl World {
    fn answer(&self, key: &DocumentKey) -> Result<Document, Failure> {
        match key {
            DocumentKey::Charts(key) => ChartIndex::parse(self.index.as_bytes(), key)
                .map(|index| Document::Charts(Arc::new(index)))
                .map_err(invalid),
            DocumentKey::Tags(_) => {
                Ok(Document::Tags(Arc::new(self.tags.iter().map(|tag| (*tag).to_owned()).collect())))
            }
            DocumentKey::TagDigest(image) if image.to_string().contains("gone") => Err(absent(format!("no `{image}`"))),
            DocumentKey::TagDigest(image) => Ok(Document::Digest(Digest::of(image.to_string().as_bytes()))),
            DocumentKey::Chart(key) => {
                let found = (self.images)(&key.name, &key.version)?;
                Ok(Document::Chart(Arc::new(Chart {
                    metadata: json!({"name": key.name, "version": key.version}),
                    archive: key.archive.then(|| Bytes::from(format!("{}{}", key.name, key.version))),
                    found: Found {
                        images: found.into_iter().map(str::to_owned).collect(),
                        more: BTreeSet::from(["debug".to_owned()]),
                    },
                })))
            }
            other => panic!("{other:?} is asked for"),
        }
    }

    fn resolve(&self, request: &HelmRequest, blocked: &[Pattern]) -> Wanted {
        let mut documents = Documents::new();
        for _ in 0..5 {
            match step(request, blocked, &documents) {
                Step::Done(wanted) => return wanted,
                Step::Need(keys) => documents.extend(keys.into_iter().map(|key| {
                    let answer = self.answer(&key);
                    (key, answer)
                })),
            }
        }
        panic!("it does not end")
    }
}

fn plan(wanted: &Wanted) -> Plan {
    let root = TargetRoot { registry: "m.io".parse().unwrap(), prefix: Some("ocp".parse().unwrap()) };
    Plan::new(wanted, &root, &[], TargetId(String::new())).unwrap()
}

fn destinations(wanted: &Wanted) -> Vec<String> {
    plan(wanted).items.iter().map(|item| item.destination.to_string()).collect()
}

#[test]
fn versions_are_chosen_as_helm_chooses_them() {
    for (charts, expected) in [
        (json!([{"name": "web"}]), "web:1.10.0_b"),
        (json!([{"name": "web", "version": "1.2.0"}]), "web:1.2.0"),
        (json!([{"name": "web", "version": "~1.2"}]), "web:1.2.0"),
        (json!([{"name": "web", "version": ">=2.0.0-0"}]), "web:2.0.0-rc.1"),
        (json!([{"name": "other"}]), "other:3.0.0"),
    ] {
        let wanted = World::default().resolve(&http(&charts), &[]);
        assert!(wanted.complete(), "{:?}", wanted.failures);
        assert_eq!(
            destinations(&wanted),
            ["m.io/ocp/a/web:1", &format!("m.io/ocp/charts/acme/{expected}")],
            "{charts}"
        );
    }
    let registry = |charts: Value| {
        request(&json!({"repositories": [{"name": "reg", "url": "oci://r.test/charts", "charts": charts}]}))
    };
    for (charts, expected) in [
        (json!([{"name": "web"}]), "web:1.2.0_b"),
        (json!([{"name": "web", "version": "^1.0 <1.2"}]), "web:1.1.0"),
        (json!([{"name": "web", "version": "9.9.9+x"}]), "web:9.9.9_x"),
    ] {
        let wanted = World::default().resolve(&registry(charts.clone()), &[]);
        assert_eq!(destinations(&wanted), ["m.io/ocp/a/web:1", &format!("m.io/ocp/charts/reg/{expected}")], "{charts}");
        assert!(wanted.made == crate::oci::Content::default(), "it is copied as it is");
    }
}

#[test]
fn without_charts_every_version_is_wanted_but_of_libraries() {
    let wanted = World::default().resolve(&http(&json!([])), &[]);
    assert_eq!(
        destinations(&wanted),
        [
            "a/web:1",
            "charts/acme/other:3.0.0",
            "charts/acme/web:1.10.0_b",
            "charts/acme/web:1.2.0",
            "charts/acme/web:2.0.0-rc.1"
        ]
        .map(|path| format!("m.io/ocp/{path}"))
    );
}

#[test]
fn a_chart_follows_its_images_and_has_no_rule_of_its_own() {
    let plan = plan(&World::default().resolve(&http(&json!([{"name": "web"}])), &[]));
    let [image, chart] = plan.items.as_slice() else { panic!("{plan:?}") };
    assert_eq!(chart.after, [0]);
    let categories = [image, chart].map(|item| item.asked[0].category);
    assert_eq!(categories, [crate::plan::Category::Generic, crate::plan::Category::Direct]);
    assert_eq!(plan.mapping(), ["docker://quay.io/a/web:1=docker://m.io/ocp/a/web:1"]);
    assert_eq!(plan.by_origin(), BTreeMap::from([(OriginKind::Helm, 2)]));
    assert_eq!(image.asked[0].origin.to_string(), "helm acme/web 1.10.0+b");
}

#[test]
fn charts_are_left_out_if_only_images_are_wanted() {
    let mut request = http(&json!([{"name": "web"}]));
    request.charts = Charts::Skip;
    assert_eq!(destinations(&World::default().resolve(&request, &[])), ["m.io/ocp/a/web:1"]);
}

#[test]
fn what_fails_fails_alone() {
    let world = World {
        images: |name, _| match name {
            "web" => Err(invalid("it does not render".to_owned())),
            _ => Ok(vec!["quay.io/a/ok:1", "quay.io/a/gone:1"]),
        },
        ..World::default()
    };
    let charts = json!([{"name": "web"}, {"name": "other"}, {"name": "absent"}, {"name": "web", "version": "^7"}]);
    let wanted = world.resolve(&http(&charts), &[]);
    let failures: Vec<_> =
        wanted.failures.iter().map(|(origin, failure)| format!("{origin}: {}", failure.message)).collect();
    assert_eq!(
        failures,
        [
            "helm acme/absent: there is no chart `absent` in the index of `acme`",
            "helm acme/web: no version of the chart `web` is `^7`: the newest are 2.0.0-rc.1, 1.10.0+b, 1.2.0",
            "helm acme/web 1.10.0+b: it does not render",
            "helm acme/other 3.0.0: no `quay.io/a/gone:1`",
        ]
    );
    // What could be installed would not run.
    assert_eq!(destinations(&wanted), ["m.io/ocp/a/ok:1"]);

    let broken = World { index: "<html>", ..World::default() };
    let failures = broken.resolve(&http(&json!([{"name": "web"}, {"name": "other"}])), &[]).failures;
    assert_eq!(failures.len(), 1);
    assert_eq!(failures[0].0.to_string(), "helm acme");
    let none = World { index: "entries:\n  web:\n  - version: 1.0.0-rc.1\n", ..World::default() };
    let failures = none.resolve(&http(&json!([{"name": "web"}])), &[]).failures;
    assert!(failures[0].1.message.contains("is released: the newest are 1.0.0-rc.1; name one"), "{failures:?}");
}

#[test]
fn what_is_no_image_or_blocked_is_not_asked_for() {
    let world = World { images: |_, _| Ok(vec!["nginx", "quay.io/gone/a:1", "nginx:1.16"]), ..World::default() };
    let blocked = Pattern { text: "gone".to_owned(), regex: regex::Regex::new("gone").unwrap() };
    let wanted = world.resolve(&http(&json!([{"name": "web"}])), &[blocked]);
    assert!(wanted.complete());
    assert_eq!(destinations(&wanted), ["m.io/ocp/nginx:1.16", "m.io/ocp/charts/acme/web:1.10.0_b"]);
    assert_eq!(wanted.left_out.len(), 1);
    assert_eq!(
        wanted.notes,
        ["helm acme/web 1.10.0+b: `nginx` is left out, since it is not an image with a tag or a digest"]
    );
}

#[test]
fn of_images_that_contest_a_tag_the_highest_version_has_it() {
    let world = World {
        images: |_, version| Ok(if version == "1.2.0" { vec!["docker.io/a/web:1"] } else { vec!["quay.io/a/web:1"] }),
        ..World::default()
    };
    for charts in [
        json!([{"name": "web", "version": "1.2.0"}, {"name": "web"}]),
        json!([{"name": "web"}, {"name": "web", "version": "1.2.0"}]),
    ] {
        let mut request = http(&charts);
        request.charts = Charts::Skip;
        let wanted = world.resolve(&request, &[]);
        let old = Tag::of_digest(&Digest::of(b"docker.io/a/web:1"));
        let plan = plan(&wanted);
        let by_place: BTreeMap<_, _> =
            plan.items.iter().map(|item| (item.destination.to_string(), item.digest.clone())).collect();
        assert_eq!(
            by_place,
            BTreeMap::from([
                ("m.io/ocp/a/web:1".to_owned(), Digest::of(b"quay.io/a/web:1")),
                (format!("m.io/ocp/a/web:{old}"), Digest::of(b"docker.io/a/web:1")),
            ])
        );
        assert_eq!(plan.notes.len(), 1, "{:?}", plan.notes);
    }
}
