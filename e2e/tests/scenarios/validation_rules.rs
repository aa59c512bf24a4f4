//! Every rule of the schema, asked of a real API server: what is right is taken, what is wrong is refused with a sentence.

use std::fs;

use e2e::cluster::Cluster;
use e2e::operator::repository;
use e2e::wait::image_set_mirrors;
use kube::api::{Api, DeleteParams, DynamicObject, PostParams};
use serde::Deserialize;
use serde_json::Value;

/// The format is that of `tests/fixtures/validation/README.md`.
#[derive(Deserialize)]
struct Table {
    base: Value,
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
struct Rule {
    name: String,
    accept: Value,
    refuse: Value,
    before: Option<Value>,
    message: String,
}

fn expand(value: &Value, n: Option<u64>) -> Value {
    match value {
        Value::Object(map) if map.len() == 1 && map.contains_key("$list") => {
            let list = &map["$list"];
            (0..list["count"].as_u64().expect("a count")).map(|n| expand(&list["of"], Some(n))).collect()
        }
        Value::Object(map) if map.len() == 1 && map.contains_key("$text") => {
            let text = &map["$text"];
            let part = |key: &str| text[key].as_str().unwrap_or_default();
            let count = usize::try_from(text["count"].as_u64().expect("a count")).expect("a small one");
            Value::String(format!("{}{}{}", part("before"), part("of").repeat(count), part("after")))
        }
        Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), expand(value, n))).collect(),
        Value::Array(list) => list.iter().map(|value| expand(value, n)).collect(),
        Value::String(text) => Value::String(n.map_or(text.clone(), |n| text.replace("{n}", &n.to_string()))),
        other => other.clone(),
    }
}

/// RFC 7386.
fn merge(base: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *base = patch.clone();
        return;
    };
    if !base.is_object() {
        *base = Value::Object(serde_json::Map::new());
    }
    for (key, value) in patch {
        if value.is_null() {
            base.as_object_mut().expect("an object").remove(key);
        } else {
            merge(&mut base[key], value);
        }
    }
}

fn patched(base: &Value, patch: &Value) -> DynamicObject {
    let mut object = base.clone();
    merge(&mut object, &expand(patch, None));
    serde_json::from_value(object).expect("it has metadata")
}

/// What the API server would say.
struct Examples {
    objects: Api<DynamicObject>,
    base: Value,
    dry_run: PostParams,
}

impl Examples {
    /// An example of a rule about values.
    async fn create(&self, patch: &Value) -> Result<(), String> {
        self.objects.create(&self.dry_run, &patched(&self.base, patch)).await.map(drop).map_err(said)
    }

    /// An example of a rule about changes.
    async fn update(&self, stored: &DynamicObject, patch: &Value) -> Result<(), String> {
        let mut next = patched(&self.base, patch);
        next.metadata.resource_version.clone_from(&stored.metadata.resource_version);
        let name = stored.metadata.name.as_deref().expect("a name");
        self.objects.replace(name, &self.dry_run, &next).await.map(drop).map_err(said)
    }
}

fn said(error: kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => panic!("no answer: {other}"),
    }
}

#[tokio::test]
async fn every_example_is_accepted_or_refused_with_its_sentence() {
    let cluster = Cluster::start_with(&[]).await.expect("the cluster starts");
    let file = |name: &str| fs::read_to_string(repository().join(name)).expect("a file of the repository");
    cluster.add_crd(&file("crds/mirror.openshift.io_imagesetmirrors.yaml")).await.expect("the CRD installs");
    let table: Table = serde_yaml::from_str(&file("tests/fixtures/validation/rules.yaml")).expect("examples");
    let objects = image_set_mirrors(cluster.client().await.expect("a client"), "default");
    let examples =
        Examples { objects, base: table.base, dry_run: PostParams { dry_run: true, ..PostParams::default() } };
    let mut wrong = Vec::new();
    for rule in &table.rules {
        let (accepted, refused) = match &rule.before {
            None => (examples.create(&rule.accept).await, examples.create(&rule.refuse).await),
            Some(before) => {
                let before = patched(&examples.base, before);
                let stored = examples.objects.create(&PostParams::default(), &before).await.expect("the stored object");
                let name = stored.metadata.name.as_deref().expect("a name");
                let answers =
                    (examples.update(&stored, &rule.accept).await, examples.update(&stored, &rule.refuse).await);
                examples.objects.delete(name, &DeleteParams::default()).await.expect("it goes");
                answers
            }
        };
        if let Err(message) = accepted {
            wrong.push(format!("{}: the right one is refused: {message}", rule.name));
        }
        match refused {
            Ok(()) => wrong.push(format!("{}: the wrong one is taken", rule.name)),
            Err(message) if message.contains(&rule.message) => {}
            Err(message) => wrong.push(format!("{}: refused with: {message}", rule.name)),
        }
    }
    assert!(table.rules.len() > 50, "the examples are there");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
