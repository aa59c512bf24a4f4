//! Catalogs of operators: cut down, copied with all that they list, and never published with anything missing.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};

use imageset_mirror::oci::Tag;
use serde_json::{Value, json};

use super::fake::error;
use super::whole::Object;
use super::*;

/// Where an object's state is.
const STATE: &str = "imageset-mirror/state";
const LABEL: &str = "operators.operatorframework.io.index.configs.v1";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

fn packed(files: &[(&str, String)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, content.as_bytes()).unwrap();
    }
    let mut encoder = builder.into_inner().unwrap();
    encoder.flush().unwrap();
    encoder.finish().unwrap()
}

/// The catalog's image for two platforms, whose lower layer has these files below `/configs`.
fn catalog(fake: &FakeRegistry, repository: &str, tag: &str, files: &[(&str, String)]) -> Digest {
    let files: Vec<_> = files.iter().map(|(name, text)| (format!("configs/{name}"), text.clone())).collect();
    let files: Vec<_> = files.iter().map(|(name, text)| (name.as_str(), text.clone())).collect();
    let layers = [packed(&files), packed(&[("bin/opm", "opm".to_owned())])];
    let children = ["amd64", "arm64"].map(|architecture| {
        let config = json!({
            "os": "linux", "architecture": architecture, "rootfs": {"type": "layers", "diff_ids": []},
            "config": {"Labels": {LABEL: "/configs"}, "Entrypoint": ["/bin/opm"], "Cmd": ["serve", "/configs", "--cache-dir=/tmp/cache"]},
        });
        let config = config.to_string();
        fake.put_blob(repository, config.clone());
        let layers: Vec<_> = layers
            .iter()
            .map(|layer| {
                fake.put_blob(repository, layer.clone());
                descriptor(LAYER, layer)
            })
            .collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_IMAGE, "layers": layers,
            "config": descriptor("application/vnd.oci.image.config.v1+json", config.as_bytes()),
        });
        put(fake, repository, "", media_type::OCI_IMAGE, manifest.to_string())
    });
    index(fake, repository, tag, &children.each_ref())
}

/// A package whose channel `stable` has these bundles, the newest first, each with one image of its own.
fn package(name: &str, bundles: &[(u64, &str)]) -> String {
    let entries: Vec<_> = bundles
        .iter()
        .zip(bundles.iter().skip(1).map(Some).chain([None]))
        .map(|((minor, _), before)| match before {
            Some((before, _)) => json!({"name": format!("{name}.v{minor}"), "replaces": format!("{name}.v{before}")}),
            None => json!({"name": format!("{name}.v{minor}")}),
        })
        .collect();
    let mut documents = vec![
        json!({"schema": "olm.package", "name": name, "defaultChannel": "stable"}),
        json!({"schema": "olm.channel", "package": name, "name": "stable", "entries": entries}),
    ];
    documents.extend(bundles.iter().map(|(minor, image)| {
        json!({"schema": "olm.bundle", "package": name, "name": format!("{name}.v{minor}"), "image": image,
            "properties": [{"type": "olm.package", "value": {"packageName": name, "version": format!("1.{minor}.0")}}],
            "relatedImages": [{"name": "", "image": image}]})
    }));
    documents.iter().map(|document| document.to_string() + "\n").collect()
}

/// The bundles of the catalog that the target has under a tag, for every platform of it.
fn served(fake: &FakeRegistry, repository: &str, tag: &str) -> Option<Vec<String>> {
    let read = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
    let top = read(&fake.manifest(repository, tag)?);
    let lists: Vec<Vec<String>> = top["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|child| {
            let manifest = read(&fake.manifest(repository, child["digest"].as_str().unwrap()).unwrap());
            let mut files: BTreeMap<String, String> = BTreeMap::new();
            for layer in manifest["layers"].as_array().unwrap() {
                let blob = fake.blob(repository, &layer["digest"].as_str().unwrap().parse().unwrap()).unwrap();
                let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(&blob[..]));
                for entry in archive.entries().unwrap() {
                    let mut entry = entry.unwrap();
                    let path = entry.path().unwrap().display().to_string();
                    if path == "configs/.wh..wh..opq" {
                        files.clear();
                    } else if path.starts_with("configs/") && entry.header().entry_type().is_file() {
                        let mut text = String::new();
                        entry.read_to_string(&mut text).unwrap();
                        files.insert(path, text);
                    }
                }
            }
            let documents = files.values().flat_map(|text| text.lines()).map(|line| read(line.as_bytes()));
            let bundles = documents.filter(|document| document["schema"] == "olm.bundle");
            bundles.map(|bundle| bundle["name"].as_str().unwrap().to_owned()).collect()
        })
        .collect();
    assert!(lists.windows(2).all(|pair| pair[0] == pair[1]), "{lists:?}");
    lists.into_iter().next()
}

struct Operators {
    object: Object,
}

impl Operators {
    /// An object that wants everything of the package `p`.
    async fn new() -> Self {
        let world = World::new().await;
        let catalog = format!("{}/ops/index:v4", world.source.host());
        let packages = json!([{"name": "p", "minVersion": "1.0.0"}, {"name": "qq"}]);
        let mirror = json!({"operators": [{"catalog": catalog, "packages": packages}]});
        Self { object: Object::of(world, &mirror) }
    }

    fn source(&self) -> &FakeRegistry {
        &self.object.world.source
    }

    fn target(&self) -> &FakeRegistry {
        &self.object.world.target
    }

    /// Images `ops/p1`, `ops/p2`, …: those with an even number by digest, the others by tag.
    fn name(&self, minor: u64) -> String {
        let path = format!("ops/p{minor}");
        let layer = format!("layer {minor}");
        let digest = Digest::of(manifest(&[&layer], None).as_bytes());
        match minor % 2 {
            0 => self.source().repository(&path).at(digest).to_string(),
            _ => format!("{}/{path}:1.{minor}", self.source().host()),
        }
    }

    fn has_image(&self, minor: u64) {
        image(self.source(), &format!("ops/p{minor}"), &format!("1.{minor}"), &[&format!("layer {minor}")]);
    }

    /// The catalog has these bundles of `p`, and a package that nobody wants.
    fn has_catalog(&self, minors: &[u64]) {
        let images: Vec<_> = minors.iter().map(|minor| (*minor, self.name(*minor))).collect();
        let bundles: Vec<_> = images.iter().map(|(minor, image)| (*minor, image.as_str())).collect();
        let files =
            [("p/catalog.json", package("p", &bundles)), ("q/catalog.json", package("q", &[(1, "gone.test/q:1")]))];
        catalog(self.source(), "ops/index", "v4", &files);
    }

    fn served(&self) -> Option<Vec<String>> {
        served(self.target(), "ops/index", "v4")
    }
}

#[tokio::test]
async fn a_catalog_arrives_cut_down_after_all_that_it_lists_and_once() {
    let operators = Operators::new().await;
    operators.has_catalog(&[2, 1]);
    operators.has_image(1);
    operators.has_image(2);
    let copied = operators.object.sync().await;
    assert!(copied.report.complete() && copied.plan.failures.is_empty(), "{copied:?}");
    assert_eq!(operators.served().unwrap(), ["p.v1", "p.v2"]);
    let digest = Digest::of(manifest(&["layer 2"], None).as_bytes());
    let mut tags = operators.target().tags();
    tags.retain(|(repository, _)| repository.starts_with("ops/"));
    let own = Tag::of_digest(&digest).to_string();
    assert_eq!(
        tags,
        [("ops/index", "v4"), ("ops/p1", "1.1"), ("ops/p2", &own)].map(|(a, b)| (a.to_owned(), b.to_owned()))
    );
    let [about] = copied.catalogs.as_slice() else { panic!("{copied:?}") };
    assert_eq!((about.published, about.packages, about.bundles, about.images), (true, 1, 2, 2));
    assert!(about.notes[0].contains("no package `qq`; there is `q`"), "{about:?}");

    let before = operators.target().manifest("ops/index", "v4");
    operators.source().clear();
    operators.target().clear();
    let again = operators.object.sync().await;
    assert!(again.report.complete());
    assert_eq!(operators.object.world.writes(), Vec::<String>::new());
    assert_eq!(operators.target().manifest("ops/index", "v4"), before);
    let mut asked = operators.source().lines();
    asked.sort();
    assert_eq!(asked, ["HEAD /v2/ops/index/manifests/v4", "HEAD /v2/ops/p1/manifests/1.1"]);
    assert_eq!(operators.target().count("HEAD"), 3);
}

/// An object whose catalog is in the target, and what is asked when nothing has changed.
async fn mirrored() -> (Operators, [&'static str; 2]) {
    let operators = Operators::new().await;
    operators.has_catalog(&[2, 1]);
    operators.has_image(1);
    operators.has_image(2);
    assert!(operators.object.sync().await.report.complete());
    operators.source().clear();
    operators.target().clear();
    (operators, ["HEAD /v2/ops/index/manifests/v4", "HEAD /v2/ops/p1/manifests/1.1"])
}

/// What the next process asks of the source.
async fn asked_by_the_next(operators: &mut Operators) -> Vec<String> {
    operators.object.begin_anew();
    operators.source().clear();
    assert!(operators.object.sync().await.report.complete());
    let mut asked = operators.source().lines();
    asked.sort();
    asked
}

#[tokio::test]
async fn the_next_process_reads_nothing_of_a_catalog_that_has_not_changed() {
    let (mut operators, tags) = mirrored().await;
    let before = operators.target().manifest("ops/index", "v4");
    assert_eq!(asked_by_the_next(&mut operators).await, tags);
    assert_eq!(operators.object.world.writes(), Vec::<String>::new());
    // What was made of it is at hand where the target has lost it.
    operators.target().lose_manifest("ops/index", "v4");
    let asked = asked_by_the_next(&mut operators).await;
    assert!(asked.iter().all(|line| !line.contains("/blobs/")), "{asked:#?}");
    assert_eq!(operators.target().manifest("ops/index", "v4"), before);
    assert_eq!(operators.served().unwrap(), ["p.v1", "p.v2"]);
}

#[tokio::test]
async fn a_catalog_that_has_changed_is_read_and_kept_by_the_next_process() {
    let (mut operators, tags) = mirrored().await;
    operators.has_catalog(&[4, 2, 1]);
    operators.has_image(4);
    let asked = asked_by_the_next(&mut operators).await;
    assert!(asked.iter().any(|line| line.contains("GET /v2/ops/index/blobs/")), "{asked:#?}");
    assert_eq!(operators.served().unwrap(), ["p.v1", "p.v2", "p.v4"]);
    assert_eq!(asked_by_the_next(&mut operators).await, tags);
}

#[tokio::test]
async fn what_was_read_of_a_catalog_outlives_a_process_that_could_not_ask_for_it() {
    let (mut operators, tags) = mirrored().await;
    operators.object.begin_anew();
    operators.source().times(1, ("HEAD", "/v2/ops/index/manifests/v4"), || error(404, "MANIFEST_UNKNOWN", "gone"));
    assert_eq!(operators.object.sync().await.plan.failures.len(), 1);
    assert_eq!(asked_by_the_next(&mut operators).await, tags);
}

#[tokio::test]
async fn documents_that_are_lost_or_none_are_read_and_kept_again() {
    for harm in 0..3 {
        let (mut operators, tags) = mirrored().await;
        let target = operators.target();
        let tag = target.tags().into_iter().map(|(_, tag)| tag).find(|tag| tag.ends_with("-documents")).unwrap();
        let text = target.manifest(STATE, &tag).unwrap();
        let kept: Value = serde_json::from_slice(&text).unwrap();
        let layers = kept["layers"].as_array().unwrap();
        assert_eq!(layers.len(), 2, "lines, and the layer of the catalog: {kept:#}");
        match harm {
            0 | 1 => target.lose_blob(STATE, &layers[harm]["digest"].as_str().unwrap().parse().unwrap()),
            _ => drop(target.put_manifest(STATE, &tag, media_type::OCI_INDEX, r#"{"manifests":[]}"#)),
        }
        let asked = asked_by_the_next(&mut operators).await;
        assert!(asked.iter().any(|line| line.contains("GET /v2/ops/index/blobs/")), "{asked:#?}");
        assert_eq!(operators.target().manifest(STATE, &tag), Some(text));
        assert_eq!(asked_by_the_next(&mut operators).await, tags);
    }
}

#[tokio::test]
async fn a_sync_that_trusts_nothing_reads_the_catalog_and_keeps_it_again() {
    let (mut operators, tags) = mirrored().await;
    assert_eq!(asked_by_the_next(&mut operators).await, tags);
    let target = operators.target();
    let tag = target.tags().into_iter().map(|(_, tag)| tag).find(|tag| tag.ends_with("-documents")).unwrap();
    let text = target.manifest(STATE, &tag);
    target.put_manifest(STATE, &tag, media_type::OCI_INDEX, r#"{"manifests":[]}"#);
    assert!(operators.object.sync_with(Trust::Nothing).await.report.complete());
    assert!(operators.source().lines().iter().any(|line| line.contains("GET /v2/ops/index/blobs/")));
    assert_eq!(operators.target().manifest(STATE, &tag), text);
    // What was just written is not read.
    operators.target().clear();
    operators.object.sync().await;
    assert_eq!(operators.target().count("-documents"), 0);
}

#[tokio::test]
async fn documents_of_what_is_not_wanted_any_more_go_although_something_else_fails() {
    let (mut operators, _) = mirrored().await;
    operators.has_catalog(&[4, 2, 1]);
    for _ in 0..2 {
        // Its image exists nowhere.
        operators.object.begin_anew();
        assert!(!operators.object.sync().await.report.complete());
    }
    let target = operators.target();
    let tag = target.tags().into_iter().map(|(_, tag)| tag).find(|tag| tag.ends_with("-documents")).unwrap();
    let kept: Value = serde_json::from_slice(&target.manifest(STATE, &tag).unwrap()).unwrap();
    assert_eq!(kept["layers"].as_array().unwrap().len(), 2, "one catalog: {kept:#}");
}

#[tokio::test]
async fn who_may_not_write_documents_mirrors_nevertheless() {
    let operators = Operators::new().await;
    operators.has_catalog(&[2, 1]);
    operators.has_image(1);
    operators.has_image(2);
    operators.target().rule(|seen| {
        let documents = seen.method == "PUT" && seen.path.ends_with("-documents");
        documents.then(|| error(403, "DENIED", "no"))
    });
    assert!(operators.object.sync().await.report.complete());
    assert_eq!(operators.served().unwrap(), ["p.v1", "p.v2"]);
}

#[tokio::test]
async fn a_bundle_whose_image_does_not_exist_is_left_out_until_it_does() {
    for missing in [1, 2] {
        let operators = Operators::new().await;
        operators.has_catalog(&[3, 2, 1]);
        for minor in (1..=3).filter(|minor| *minor != missing) {
            operators.has_image(minor);
        }
        let copied = operators.object.sync().await;
        let left: Vec<_> = (1..=3).filter(|minor| *minor != missing).map(|minor| format!("p.v{minor}")).collect();
        assert_eq!(operators.served().unwrap(), left);
        let [about] = copied.catalogs.as_slice() else { panic!("{copied:?}") };
        assert_eq!(about.left_out.len(), 1);
        assert_eq!(about.left_out[0].bundle, format!("p/p.v{missing}"));
        assert!(about.published && about.left_out[0].image.contains(&format!("ops/p{missing}")));
        let whole = copied.report.complete() && copied.plan.failures.is_empty();
        assert!(!whole, "an image is missing");
        // Nothing new, nothing written.
        operators.target().clear();
        operators.object.sync().await;
        assert_eq!(operators.object.world.writes(), Vec::<String>::new());

        operators.has_image(missing);
        let copied = operators.object.sync().await;
        assert!(copied.report.complete() && copied.catalogs[0].left_out.is_empty());
        assert_eq!(operators.served().unwrap().len(), 3);
    }
}

#[tokio::test]
async fn what_is_served_is_not_taken_back() {
    let operators = Operators::new().await;
    operators.has_catalog(&[2, 1]);
    operators.has_image(1);
    operators.has_image(2);
    assert!(operators.object.sync().await.report.complete());
    // The image is lost on both sides, and the catalog goes on.
    let digest = Digest::of(manifest(&["layer 2"], None).as_bytes());
    operators.target().lose_manifest("ops/p2", Tag::of_digest(&digest).as_str());
    operators.source().lose_manifest("ops/p2", &digest.to_string());
    operators.has_catalog(&[4, 2, 1]);
    operators.has_image(4);
    let copied = operators.object.sync().await;
    assert_eq!(operators.served().unwrap(), ["p.v1", "p.v2"]);
    let failed = copied.report.items.iter().filter_map(|item| match &item.outcome {
        Outcome::Failed(failure) => Some(failure.message.as_str()),
        _ => None,
    });
    let messages: Vec<_> = failed.collect();
    assert!(messages.iter().any(|message| message.contains("the catalog in the target has `p/p.v2`")), "{messages:?}");
    assert!(!copied.catalogs[0].published);
}

#[tokio::test]
async fn a_package_that_is_served_does_not_go_for_want_of_an_image() {
    let world = World::new().await;
    let catalog = format!("{}/ops/index:v4", world.source.host());
    // The newest of each channel of each package.
    let operators = Operators { object: Object::of(world, &json!({"operators": [{"catalog": catalog}]})) };
    let offer = |newest: u64| {
        let image = |minor: u64| (minor, operators.name(minor));
        let of = |name: &str, minors: &[u64]| {
            let images: Vec<_> = minors.iter().map(|minor| image(*minor)).collect();
            package(name, &images.iter().map(|(minor, image)| (*minor, image.as_str())).collect::<Vec<_>>())
        };
        let files = [("p/catalog.json", of("p", &[newest, 2])), ("q/catalog.json", of("q", &[3]))];
        self::catalog(operators.source(), "ops/index", "v4", &files);
    };
    operators.has_image(3);
    operators.has_image(4);
    offer(4);
    assert!(operators.object.sync().await.report.complete());
    assert_eq!(operators.served().unwrap(), ["p.v4", "q.v3"]);
    // There is a newer one, whose image is not there: without it, nothing of the package would be left.
    offer(6);
    let copied = operators.object.sync().await;
    assert_eq!(operators.served().unwrap(), ["p.v4", "q.v3"]);
    assert!(!copied.catalogs[0].published);
    operators.has_image(6);
    assert!(operators.object.sync().await.report.complete());
    assert_eq!(operators.served().unwrap(), ["p.v6", "q.v3"]);
}

#[tokio::test]
async fn trouble_that_may_pass_leaves_nothing_out() {
    for status in [403, 500] {
        let operators = Operators::new().await;
        operators.has_catalog(&[2, 1]);
        operators.has_image(1);
        operators.has_image(2);
        let digest = Digest::of(manifest(&["layer 2"], None).as_bytes());
        let line = format!("GET /v2/ops/p2/manifests/{digest}");
        operators.source().rule(move |seen| (seen.line() == line).then(|| error(status, "DENIED", "")));
        let copied = operators.object.sync().await;
        assert_eq!(operators.served(), None);
        assert!(!copied.catalogs[0].published && copied.catalogs[0].left_out.is_empty());
    }
}

#[tokio::test]
async fn a_catalog_that_is_none_is_a_failure_of_its_own() {
    let operators = Operators::new().await;
    image(operators.source(), "ops/index", "v4", &["one"]);
    let copied = operators.object.sync().await;
    let [(origin, failure)] = copied.plan.failures.as_slice() else { panic!("{copied:?}") };
    assert_eq!((origin.kind, failure.reason), (OriginKind::Catalog, Reason::CatalogInvalid));
    assert!(failure.message.contains("not the image of a catalog"), "{failure}");
}
