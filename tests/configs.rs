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
use imageset_mirror::api::crd::crd_yaml;
use imageset_mirror::api::{Charts, ImageSetMirror};
use imageset_mirror::build::{self, Base, BaseImage};
use imageset_mirror::catalog::{Loader, filter, related};
use imageset_mirror::failure::{Failure, Reason};
use imageset_mirror::file::{self, Destination, To};
use imageset_mirror::oci::{Digest, RawManifest, Repository, media_type};
use imageset_mirror::plan::{Category, Plan, PlanItem};
use imageset_mirror::request::{ReleaseSignatures, Request};
use imageset_mirror::resolve::graph::{Graph, GraphKey};
use imageset_mirror::resolve::helm::index::{ChartIndex, IndexKey};
use imageset_mirror::resolve::helm::{Chart, ChartKey, images};
use imageset_mirror::resolve::operators::{CatalogKey, Needed, Selected};
use imageset_mirror::resolve::payload::{Component, Payload};
use imageset_mirror::resolve::{Document, DocumentKey, Fetch, OriginKind};
use imageset_mirror::sync::resolve_with;
use serde_json::{Value, json};

/// Where files without a first line `# --to HOST[/PATH]` are mirrored to.
const TO: &str = "mirror.lab.example:8443/ocp";

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
            DocumentKey::Charts(key) => Document::Charts(Arc::new(index(key)?)),
            DocumentKey::Tags(repository) => Document::Tags(Arc::new(tags(repository))),
            DocumentKey::Chart(key) => Document::Chart(Arc::new(chart(key))),
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

/// The repositories of charts: address, chart and versions.
const CHARTS: &[(&str, &str, &[&str])] = &[
    ("https://charts.acme.example/stable/", "web", &["1.2.0", "1.10.0+build.1", "2.0.0-rc.1"]),
    ("https://charts.acme.example/stable/", "worker", &["0.3.1"]),
    ("https://charts.acme.example/stable/", LIBRARY, &["1.0.0"]),
    ("https://charts.fork.example/", "fork", &["3.0.0"]),
    ("https://charts.fork.example/", "broken", &["1.0.0"]),
    ("https://stefanprodan.github.io/podinfo/", "podinfo", &["5.0.0", "6.0.0"]),
    ("https://kubernetes.github.io/ingress-nginx/", "ingress-nginx", &["4.12.1"]),
    ("https://test.example/charts/", "test-mirror-helm", &["0.3.0"]),
    ("oci://registry.acme.example/charts/", "web", &["1.0.0", "1.1.0", "1.2.0+b", "2.0.0-rc.1"]),
];

/// The chart that cannot be installed by itself.
const LIBRARY: &str = "common";

fn index(key: &IndexKey) -> Result<ChartIndex, Failure> {
    let there = || CHARTS.iter().filter(|(address, ..)| *address == key.folder.as_str());
    if there().next().is_none() {
        return Err(Failure::permanent(Reason::SourceNotFound, format!("there is no index below `{}`", key.folder)));
    }
    let entries = there().map(|(_, chart, versions)| {
        let kind = if *chart == LIBRARY { "library" } else { "application" };
        let one =
            |version: &&str| json!({"version": version, "type": kind, "urls": [format!("{chart}-{version}.tgz")]});
        (*chart, versions.iter().map(one).collect::<Vec<_>>())
    });
    let entries: BTreeMap<_, _> = entries.collect();
    Ok(ChartIndex::parse(json!({"apiVersion": "v1", "entries": entries}).to_string().as_bytes(), key).unwrap())
}

fn tags(repository: &Repository) -> BTreeSet<String> {
    let found = CHARTS.iter().find(|(address, chart, _)| format!("{address}{chart}") == format!("oci://{repository}"));
    let versions = found.into_iter().flat_map(|(.., versions)| *versions);
    versions.map(|version| version.replace('+', "_")).chain(["latest".to_owned()]).collect()
}

fn chart(key: &ChartKey) -> Chart {
    let rendered: Vec<_> = rendered(key).iter().map(ToString::to_string).collect();
    Chart {
        metadata: json!({"name": key.name, "version": key.version}),
        archive: key.archive.then(|| format!("{} {}", key.name, key.version).into()),
        found: images::find(&rendered.join("\n---\n"), &key.image_paths).unwrap(),
    }
}

/// The objects of a chart.
fn rendered(key: &ChartKey) -> Vec<Value> {
    let version = key.version.replace('+', "_");
    let by_digest = |name: &str, digit: &str| format!("{name}@sha256:{}", digit.repeat(64));
    let pod = |images: &[&str]| {
        let containers: Vec<_> = images.iter().map(|image| json!({"image": image})).collect();
        json!({"spec": {"containers": containers}})
    };
    let deployment = |images: &[&str]| json!({"kind": "Deployment", "spec": {"template": pod(images)}});
    match key.name.as_str() {
        "web" => {
            let mut web = deployment(&[&format!("quay.io/acme/web:{version}")]);
            web["spec"]["template"]["spec"]["initContainers"] = json!([{"image": by_digest("quay.io/acme/init", "1")}]);
            let sidecar = json!({"kind": "Web", "spec": {"sidecar": "ghcr.io/acme/sidecar:1", "level": "debug"}});
            let values: Value = serde_json::from_str(&key.values).unwrap();
            let cached = values["cache"]["enabled"] == json!(true);
            let cache = cached.then(|| deployment(&[&by_digest("docker.io/library/redis:7.2", "3")]));
            [web, sidecar].into_iter().chain(cache).collect()
        }
        "worker" => {
            let job = json!({"kind": "CronJob", "spec": {"jobTemplate": {"spec": {"template": pod(&["quay.io/acme/cron:1"])}}}});
            vec![job, deployment(&["nginx", "nginx:1.16.0"])]
        }
        "fork" => vec![deployment(&["ghcr.io/acme/web:1.10.0_build.1"])],
        "broken" => vec![deployment(&["quay.io/acme/app:1", "quay.io/gone/app:1"])],
        "podinfo" => vec![deployment(&[&format!("ghcr.io/stefanprodan/podinfo:{version}")])],
        "ingress-nginx" => {
            let digest = "sha256:d2fbc4ec70d8aa2050dd91a91506e998765e86c96f32cffb56c503c9c34eed5b";
            vec![deployment(&[&format!("registry.k8s.io/ingress-nginx/controller:v1.12.1@{digest}")])]
        }
        "test-mirror-helm" => {
            let images = ["quay.io/nginx/nginx-ingress:latest", "quay.io/prometheus/prometheus:latest"];
            let mut operator = deployment(&["quay.io/acme/operator:0.3.0"]);
            operator["spec"]["template"]["spec"]["containers"][0]["env"] =
                images.map(|image| json!({"value": image})).into();
            vec![operator]
        }
        name => panic!("what does `{name}` render to?"),
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

/// True for a chart itself, which is none of the images that oc-mirror mirrors.
fn is_chart(item: &PlanItem) -> bool {
    item.asked.iter().any(|asked| asked.origin.kind == OriginKind::Helm && asked.category == Category::Direct)
}

async fn plan(object: &ImageSetMirror) -> Plan {
    let mut request = Request::of_file(object).unwrap();
    // No signature in the world is about payloads that do not exist.
    request.release_signatures = ReleaseSignatures::Skip;
    let resolved = resolve_with(&request, None, World).await.unwrap();
    Arc::unwrap_or_clone(resolved.plan)
}

/// The lines of `-o mapping`, then the charts, the platforms of what is copied in part, what is left out and why, and what there
/// is to say.
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
    for item in &plan.items {
        if is_chart(item) {
            writeln!(text, "chart: {}", item.destination).unwrap();
        }
        if !item.platforms.is_empty() {
            let platforms: Vec<_> = item.platforms.iter().map(String::as_str).collect();
            writeln!(text, "only {}: {}", platforms.join(" "), item.destination).unwrap();
        }
    }
    for blocked in &plan.blocked {
        writeln!(text, "blocked by `{}`: {}", blocked.pattern, blocked.asked.named).unwrap();
    }
    for (origin, failure) in &plan.failures {
        writeln!(text, "failed: {origin}: {failure}").unwrap();
    }
    for note in &plan.notes {
        writeln!(text, "note: {note}").unwrap();
    }
    text
}

#[tokio::test]
async fn every_file_is_mapped_as_oc_mirror_maps_it() {
    let files = configs();
    assert!(files.len() >= 80, "{} files", files.len());
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

#[tokio::test]
async fn without_the_charts_everything_else_is_as_it_is_with_them() {
    let mut charts = 0;
    for path in configs() {
        let mut object = file::read(&path, To::Given(&target(&path))).unwrap().object;
        let with = plan(&object).await;
        object.spec.copy.charts = Charts::Skip;
        let without = plan(&object).await;
        let (left_out, kept): (Vec<_>, Vec<_>) = with.items.iter().partition(|item| is_chart(item));
        let places = |items: &[&PlanItem]| -> BTreeSet<_> {
            items.iter().map(|item| (item.destination.clone(), item.digest.clone(), item.platforms.clone())).collect()
        };
        assert_eq!(places(&without.items.iter().collect::<Vec<_>>()), places(&kept), "{}", path.display());
        assert_eq!(without.mapping(), with.mapping(), "{}", path.display());
        assert_eq!(without.failures, with.failures, "{}", path.display());
        charts += left_out.len();
    }
    assert!(charts >= 20, "{charts} charts");
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
            "chart-newest 10: mirror.helm.repositories[0].charts[0].path",
            "release-up-to 6: mirror.platform.channels[0].maxVersion",
            "samples 6: mirror.samples",
        ]
    );
}

/// The names of all properties below a schema.
fn properties(schema: &Value, found: &mut BTreeSet<String>) {
    for (name, below) in schema["properties"].as_object().into_iter().flatten() {
        found.insert(name.clone());
        properties(below, found);
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
