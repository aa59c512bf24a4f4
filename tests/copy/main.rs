//! The copy engine and its memory between two registries on loopback: one promise each.
#![cfg(test)]

#[path = "../support/registry.rs"]
#[expect(dead_code, reason = "the tests of the registry client use more of it")]
mod fake;

mod attachments;
mod catalogs;
mod faults;
mod interrupted;
mod made;
mod order;
mod state;
mod whole;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use fake::FakeRegistry;
use imageset_mirror::copy::{
    Attachments, Engine, Known, Observe, Outcome, Report, Settings as CopySettings, Stop, Trust,
};
use imageset_mirror::failure::Reason;
use imageset_mirror::oci::{Digest, Reference, media_type};
use imageset_mirror::plan::{Asked, Category, Plan, PlanItem, TargetId};
use imageset_mirror::registry::{Client, Limits, Settings, Side, Timing, Tls};
use imageset_mirror::resolve::{Origin, OriginKind};

/// A source, a target that takes only complete manifests, and a plan between the two.
struct World {
    source: FakeRegistry,
    target: FakeRegistry,
    items: Vec<PlanItem>,
}

/// An earlier sync completed everything.
struct Everything;

impl Known for Everything {
    fn completed(&self, _item: &PlanItem, _attachments: Attachments) -> bool {
        true
    }
}

/// Nothing is remembered.
struct Nothing;

impl Known for Nothing {
    fn completed(&self, _item: &PlanItem, _attachments: Attachments) -> bool {
        false
    }
}

struct Unobserved;

impl Observe for Unobserved {}

fn client(side: Side, fake: &FakeRegistry) -> Arc<Client> {
    let timing =
        Timing { backoff: Duration::from_millis(1), max_backoff: Duration::from_millis(2), ..Timing::default() };
    let settings = Settings { tls: [(fake.registry(), Tls::Plain)].into(), timing, ..Settings::new(side) };
    Arc::new(Client::new(settings, Arc::new(Limits::default())).unwrap())
}

fn descriptor(media_type: &str, bytes: &[u8]) -> serde_json::Value {
    serde_json::json!({"mediaType": media_type, "digest": Digest::of(bytes).to_string(), "size": bytes.len()})
}

/// An image manifest of a config and these layers; `subject` makes it a referrer.
fn manifest(layers: &[&str], subject: Option<&Digest>) -> String {
    let layers: Vec<_> = layers.iter().map(|text| descriptor("a/layer", text.as_bytes())).collect();
    let mut json = serde_json::json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_IMAGE, "config": descriptor("a/config", b"{}"), "layers": layers,
    });
    if let Some(subject) = subject {
        json["subject"] =
            serde_json::json!({"mediaType": media_type::OCI_IMAGE, "digest": subject.to_string(), "size": 9});
    }
    json.to_string()
}

/// Stores an image; `name` is a tag, or empty for one that has none.
fn image(fake: &FakeRegistry, repository: &str, name: &str, layers: &[&str]) -> Digest {
    store(fake, repository, name, layers, manifest(layers, None))
}

fn referrer(fake: &FakeRegistry, repository: &str, layers: &[&str], subject: &Digest) -> Digest {
    store(fake, repository, "", layers, manifest(layers, Some(subject)))
}

fn store(fake: &FakeRegistry, repository: &str, name: &str, layers: &[&str], text: String) -> Digest {
    fake.put_blob(repository, "{}");
    for layer in layers {
        fake.put_blob(repository, (*layer).to_owned());
    }
    put(fake, repository, name, media_type::OCI_IMAGE, text)
}

fn put(fake: &FakeRegistry, repository: &str, name: &str, kind: &str, text: String) -> Digest {
    let digest = Digest::of(text.as_bytes()).to_string();
    fake.put_manifest(repository, if name.is_empty() { &digest } else { name }, kind, text)
}

/// An index of `amd64`, `arm64`, … in this order.
fn index(fake: &FakeRegistry, repository: &str, name: &str, children: &[&Digest]) -> Digest {
    let platforms = ["amd64", "arm64", "s390x"];
    let entry = |(child, architecture): (&&Digest, &str)| {
        let size = fake.manifest(repository, &child.to_string()).unwrap().len();
        serde_json::json!({
            "mediaType": media_type::OCI_IMAGE, "digest": child.to_string(), "size": size,
            "platform": {"os": "linux", "architecture": architecture},
        })
    };
    let entries: Vec<_> = children.iter().zip(platforms).map(entry).collect();
    let text = serde_json::json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": entries});
    put(fake, repository, name, media_type::OCI_INDEX, text.to_string())
}

impl World {
    async fn new() -> Self {
        let (source, target) = (FakeRegistry::start().await, FakeRegistry::start().await);
        target.strict();
        Self { source, target, items: Vec::new() }
    }

    /// Plans to copy what `from` has at `digest` to `to`, a path and a tag; returns its place in the plan.
    fn wants(&mut self, from: &str, digest: &Digest, to: &str) -> usize {
        let named = self.source.repository(from).at(digest.clone());
        let origin = Origin { kind: OriginKind::Additional, name: named.to_string() };
        let destination: Reference = format!("{}/{to}", self.target.host()).parse().unwrap();
        self.items.push(PlanItem {
            asked: vec![Asked { origin, named, spelled: None, category: Category::Generic }],
            digest: digest.clone(),
            destination,
            platforms: BTreeSet::new(),
            after: Vec::new(),
            unmet: None,
        });
        self.items.len() - 1
    }

    fn plan(&self) -> Plan {
        let target = TargetId("default".to_owned());
        Plan {
            version: Plan::VERSION,
            target,
            items: self.items.clone(),
            blocked: Vec::new(),
            failures: Vec::new(),
            notes: Vec::new(),
            partial: false,
        }
    }

    fn engine(&self, attachments: Attachments) -> Engine {
        self.engine_with(client(Side::Target, &self.target), attachments)
    }

    fn engine_with(&self, target: Arc<Client>, attachments: Attachments) -> Engine {
        let settings = CopySettings { attachments, ..CopySettings::default() };
        Engine::new(client(Side::Source, &self.source), target, settings, Vec::new())
    }

    async fn run(&self, known: &dyn Known, attachments: Attachments) -> Report {
        self.engine(attachments).run(&self.plan(), known, &Unobserved, &Stop::default()).await
    }

    /// Copies everything but attachments.
    async fn copy(&self) -> Report {
        self.run(&Nothing, Attachments::Skip).await
    }

    /// The same by a client of the target that may know something of it.
    async fn copy_with(&self, target: Arc<Client>) -> Report {
        let engine = self.engine_with(target, Attachments::Skip);
        engine.run(&self.plan(), &Nothing, &Unobserved, &Stop::default()).await
    }

    /// Copies everything.
    async fn copy_all(&self) -> Report {
        self.run(&Nothing, Attachments::Copy).await
    }

    /// Where in the target's log this request is, counted from the end of it if there are several.
    fn at(&self, line: &str) -> usize {
        let lines = self.target.lines();
        lines.iter().rposition(|seen| seen.starts_with(line)).unwrap_or_else(|| panic!("no {line} in {lines:#?}"))
    }

    /// Where in the target's log these bytes were sent.
    fn sent(&self, text: &str) -> Vec<usize> {
        let digest = Digest::of(text.as_bytes()).to_string();
        let is =
            |seen: &fake::Seen| seen.method == "PUT" && seen.query.get("digest").is_some_and(|it| *it == [&*digest]);
        let seen = self.target.seen();
        seen.iter().enumerate().filter(|(_, seen)| is(seen)).map(|(at, _)| at).collect()
    }

    fn writes(&self) -> Vec<String> {
        self.target.lines().into_iter().filter(|line| !line.starts_with("HEAD") && !line.starts_with("GET")).collect()
    }
}

fn outcomes(report: &Report) -> Vec<&Outcome> {
    report.items.iter().map(|item| &item.outcome).collect()
}

fn reason(report: &Report, index: usize) -> Reason {
    match &report.items[index].outcome {
        Outcome::Failed(failure) => failure.reason,
        other => panic!("did not fail but: {other:?}"),
    }
}
