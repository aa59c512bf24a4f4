//! Files of oc-mirror against what becomes of them: where each image comes from and goes to, and that the converted object
//! says the same. Every line of a snapshot follows from oc-mirror's rules; where we differ, the file's comment says how.
//!
//! A kind of content that resolvers learn takes part as soon as [`World`] has documents for it and a file uses it.
#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use imageset_mirror::api::ImageSetMirror;
use imageset_mirror::api::crd::crd_yaml;
use imageset_mirror::build::{self, Base, BaseImage};
use imageset_mirror::catalog::{Loader, filter, related};
use imageset_mirror::failure::{Failure, Reason};
use imageset_mirror::file::{self, Destination, To};
use imageset_mirror::oci::{Digest, RawManifest, media_type};
use imageset_mirror::plan::Plan;
use imageset_mirror::request::{ReleaseSignatures, Request};
use imageset_mirror::resolve::graph::{Graph, GraphKey};
use imageset_mirror::resolve::operators::{CatalogKey, Needed, Selected};
use imageset_mirror::resolve::payload::{Component, Payload};
use imageset_mirror::resolve::{Document, DocumentKey, Fetch};
use imageset_mirror::sync::resolve_with;
use serde_json::{Value, json};

/// Where files without a first line `# --to HOST[/PATH]` are mirrored to.
const TO: &str = "mirror.lab.example:8443/ocp";

/// Kinds of content that resolvers do not know yet.
const WITHOUT_FILES: &[&str] = &["helm"];

/// A channel's name, its versions, and the upgrades between them by number.
type Channel<'a> = (&'a str, &'a [&'a str], &'a [(usize, usize)]);

/// What the update service knows.
const CHANNELS: &[Channel<'_>] = &[
    ("stable-4.17", &["4.17.1", "4.17.5", "4.17.9"], &[(0, 1), (1, 2)]),
    ("stable-4.18", &["4.17.9", "4.18.1", "4.18.2", "4.18.3", "4.18.4"], &[(0, 1), (1, 2), (2, 4), (1, 3)]),
    ("fast-4.18", &["4.17.9", "4.18.7"], &[(0, 1)]),
    ("stable-4.19", &["4.18.4", "4.19.0", "4.19.2"], &[(0, 1), (1, 2)]),
    ("4-stable", &["4.18.0-okd-scos.1", "4.18.0-okd-scos.2"], &[(0, 1)]),
];

/// Everything that could be fetched.
struct World;

impl Fetch for World {
    async fn fetch(&self, key: &DocumentKey) -> Result<Document, Failure> {
        Ok(match key {
            DocumentKey::TagDigest(image) if image.repository().path().as_str().starts_with("gone/") => {
                let message = format!("`{image}` is not in the source registry");
                return Err(Failure::permanent(Reason::SourceNotFound, message));
            }
            DocumentKey::TagDigest(image) => Document::Digest(Digest::of(image.to_string().as_bytes())),
            DocumentKey::Graph(key) => Document::Graph(Arc::new(graph(key))),
            DocumentKey::Payload(_) => Document::Payload(Arc::new(payload())),
            DocumentKey::GraphData => Document::GraphData(graph_data()),
            DocumentKey::Base(_) => Document::Base(Arc::new(base())),
            DocumentKey::Signatures(_) => Document::Signatures(Arc::new([])),
            DocumentKey::Charts(_) | DocumentKey::Tags(_) | DocumentKey::Chart(_) => {
                let message = "there is no chart repository here".to_owned();
                return Err(Failure::permanent(Reason::SourceNotFound, message));
            }
            DocumentKey::Catalog(key) => Document::Catalog(Arc::new(catalog(key))),
        })
    }
}

fn graph(key: &GraphKey) -> Graph {
    let found = CHANNELS.iter().find(|(name, ..)| *name == key.channel);
    let (versions, edges) = found.map_or((&[][..], &[][..]), |(_, versions, edges)| (*versions, *edges));
    let repository = if key.channel == "4-stable" { "okd/scos-release" } else { "openshift-release-dev/ocp-release" };
    let node = |version: &&str| {
        let digest = Digest::of(format!("{version} {}", key.architecture).as_bytes());
        json!({"version": version, "payload": format!("quay.io/{repository}@{digest}"), "metadata": {}})
    };
    let nodes: Vec<_> = versions.iter().map(node).collect();
    let answer = json!({"version": 1, "nodes": nodes, "edges": edges, "conditionalEdges": []});
    Graph::parse(answer.to_string().as_bytes()).unwrap()
}

fn payload() -> Payload {
    let image = |digit: &str| {
        format!("quay.io/openshift-release-dev/ocp-v4.0-art-dev@sha256:{}", digit.repeat(64)).parse().unwrap()
    };
    let component = |name: &str, digit| Component { name: name.to_owned(), image: image(digit) };
    Payload {
        version: Some("4.18.2".to_owned()),
        components: vec![component("etcd", "e"), component("cli", "c")],
        boot_images: Some(BTreeMap::from([("x86_64".to_owned(), image("8")), ("s390x".to_owned(), image("9"))])),
    }
}

fn graph_data() -> Bytes {
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_size(0);
    archive.append_data(&mut header, "channels/stable-4.19.yaml", std::io::empty()).unwrap();
    archive.into_inner().unwrap().finish().unwrap().into()
}

fn base() -> Base {
    let labels = json!({"operators.operatorframework.io.index.configs.v1": "/configs"});
    let config = json!({"os": "linux", "architecture": "amd64", "config": {"Labels": labels}});
    let config = Bytes::from(config.to_string());
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_IMAGE, "layers": [],
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": Digest::of(&config), "size": config.len()},
    });
    let manifest = RawManifest::new(manifest.to_string().into(), media_type::OCI_IMAGE);
    Base { index: None, images: vec![BaseImage { manifest, config }] }
}

/// The bundles of the only catalog: package, version, and the digits that the digests of its images are made of.
const BUNDLES: &[(&str, &str, &str, &str)] = &[
    ("web-terminal", "1.0.0", "a", "5"),
    ("web-terminal", "1.1.0", "b", "6"),
    ("web-terminal", "1.2.0", "d", "7"),
    ("tools", "0.1.0", "2", "f"),
];

/// The channels of the only catalog: package, channel, and the versions, each of which replaces the one before.
const PACKAGE_CHANNELS: &[(&str, &str, &[&str])] = &[
    ("web-terminal", "fast", &["1.0.0", "1.1.0", "1.2.0"]),
    ("web-terminal", "slow", &["1.0.0"]),
    ("tools", "stable", &["0.1.0"]),
];

/// The files of the only catalog, and of them what is selected.
fn catalog(key: &CatalogKey) -> Selected {
    let mut documents = vec![
        json!({"schema": "olm.package", "name": "web-terminal", "defaultChannel": "fast"}),
        json!({"schema": "olm.package", "name": "tools", "defaultChannel": "stable"}),
    ];
    for (package, channel, versions) in PACKAGE_CHANNELS {
        let name = |version: &str| format!("{package}.v{version}");
        let mut entries: Vec<_> = versions.iter().map(|version| json!({"name": name(version)})).collect();
        for (entry, before) in entries.iter_mut().skip(1).zip(*versions) {
            entry["replaces"] = json!(name(before));
        }
        documents.push(json!({"schema": "olm.channel", "package": package, "name": channel, "entries": entries}));
    }
    for (package, version, bundle, image) in BUNDLES {
        let at = |repository: &str, digit: &str| format!("registry.redhat.io/{repository}@sha256:{}", digit.repeat(64));
        let images = [
            at(&format!("{package}/{package}-rhel9"), image),
            at("openshift4/ose-kube-rbac-proxy:v4.19", "4"),
            "quay.io/acme/helper:2".to_owned(),
        ];
        documents.push(json!({
            "schema": "olm.bundle", "package": package, "name": format!("{package}.v{version}"),
            "image": at(&format!("{package}/{package}-operator-bundle"), bundle),
            "properties": [{"type": "olm.package", "value": {"packageName": package, "version": version}}],
            "relatedImages": images.map(|image| json!({"name": "", "image": image})),
        }));
    }
    let text: String = documents.iter().map(ToString::to_string).collect();
    let mut loader = Loader::new(key.selection.named());
    loader.file("catalog.json", text.as_bytes());
    let (catalog, _) = loader.finish().unwrap();
    let catalog = filter(catalog, &key.selection).unwrap().catalog;
    let images = related(&catalog).unwrap().into_iter().map(|(written, related)| Needed {
        written,
        image: related.image,
        bundles: related.bundles,
        newest: related.newest,
    });
    let packed = || build::catalog::layer(&key.folder, &catalog.files()).unwrap();
    Selected {
        layer: (!key.selection.is_everything()).then(packed),
        images: images.collect(),
        packages: Vec::new(),
        notes: Vec::new(),
    }
}

fn configs() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/configs");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    files
}

fn name(path: &Path) -> String {
    path.file_stem().unwrap().to_str().unwrap().to_owned()
}

fn target(path: &Path) -> Destination {
    let text = fs::read_to_string(path).unwrap();
    let given = text.lines().next().and_then(|line| line.strip_prefix("# --to "));
    given.unwrap_or(TO).parse().unwrap()
}

async fn plan(object: &ImageSetMirror) -> Plan {
    let mut request = Request::of_file(object).unwrap();
    // No signature in the world is about payloads that do not exist.
    request.release_signatures = ReleaseSignatures::Skip;
    let resolved = resolve_with(&request, None, World).await.unwrap();
    Arc::unwrap_or_clone(resolved.plan)
}

/// The lines of `-o mapping`, then what is left out and why.
fn shown(plan: &Plan) -> String {
    let mut text = String::new();
    for line in plan.mapping() {
        // What is made here has a digest that compression has a part in.
        let made = line.ends_with("/openshift/graph-image:latest").then(|| line.split_once("@sha256:")).flatten();
        match made {
            Some((name, rest)) => {
                writeln!(text, "{name}@sha256:MADE{}", rest.trim_start_matches(|c| c != '=')).unwrap();
            }
            None => writeln!(text, "{line}").unwrap(),
        }
    }
    for blocked in &plan.blocked {
        writeln!(text, "blocked by `{}`: {}", blocked.pattern, blocked.asked.named).unwrap();
    }
    for (origin, failure) in &plan.failures {
        writeln!(text, "failed: {origin}: {failure}").unwrap();
    }
    text
}

#[tokio::test]
async fn every_file_is_mapped_as_oc_mirror_maps_it() {
    let files = configs();
    assert!(files.len() >= 34, "{} files", files.len());
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("fixtures/configs");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    for path in files {
        let loaded = file::read(&path, To::Given(&target(&path))).unwrap();
        assert_eq!(loaded.errors, [], "{}", path.display());
        let plan = plan(&loaded.object).await;
        settings.bind(|| insta::assert_snapshot!(name(&path), shown(&plan)));
    }
}

#[tokio::test]
async fn the_converted_object_plans_what_the_file_plans() {
    for path in configs() {
        let to = target(&path);
        let direct = file::read(&path, To::Given(&to)).unwrap();
        let converted = file::convert(&path, &to).unwrap();
        let back = file::parse(&converted.manifest(), "another-name", To::Absent).unwrap();
        assert_eq!(back.errors, [], "{}", converted.manifest());
        assert_eq!(back.warnings, [], "{}", converted.manifest());
        assert_eq!(plan(&back.object).await, plan(&direct.object).await, "{}", path.display());
    }
}

#[test]
fn what_conversion_changes_is_said_and_nothing_else() {
    let mut found = Vec::new();
    for path in configs() {
        for note in file::convert(&path, &target(&path)).unwrap().notes {
            found.push(format!("{} {}: {}", name(&path), note.line, note.field));
        }
    }
    assert_eq!(
        found,
        [
            "archive-size 3: archiveSize",
            "catalog-target 9: mirror.operators[0].skipDependencies",
            "catalog-target 10: mirror.operators[0].targetCatalogSourceTemplate",
            "release-up-to 6: mirror.platform.channels[0].maxVersion",
            "samples 6: mirror.samples",
        ]
    );
}

/// The names of all properties below a schema, but for kinds of content that have no files here.
fn properties(schema: &Value, found: &mut BTreeSet<String>) {
    for (name, below) in schema["properties"].as_object().into_iter().flatten() {
        if !WITHOUT_FILES.contains(&name.as_str()) {
            found.insert(name.clone());
            properties(below, found);
        }
    }
    if let Some(items) = schema.get("items") {
        properties(items, found);
    }
}

/// The names of all keys in a file.
fn keys(value: &Value, found: &mut BTreeSet<String>) {
    for (key, below) in value.as_object().into_iter().flatten() {
        found.insert(key.clone());
        keys(below, found);
    }
    for below in value.as_array().into_iter().flatten() {
        keys(below, found);
    }
}

#[test]
fn every_key_is_in_one_of_the_files() {
    let crd: Value = serde_yaml::from_str(&crd_yaml()).unwrap();
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let (mut wanted, mut found) = (BTreeSet::new(), BTreeSet::new());
    properties(&schema["properties"]["spec"]["properties"]["mirror"], &mut wanted);
    for path in configs() {
        keys(&serde_yaml::from_str(&fs::read_to_string(path).unwrap()).unwrap(), &mut found);
    }
    let missing: Vec<_> = wanted.difference(&found).collect();
    assert!(wanted.contains("shortestPath") && missing.is_empty(), "{missing:?}");
}
