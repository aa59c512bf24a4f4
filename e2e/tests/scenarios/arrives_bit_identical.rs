//! What arrives is what was there: every byte of every manifest, config, layer, signature and referrer.

use std::collections::BTreeMap;

use e2e::image::{Content, Flavour, ImageSpec, Manifest, OCI_INDEX, Remote, fallback_tag, signature_tag};
use e2e::operator::Operator;
use e2e::registry::Options;
use e2e::wait::{LONG, until_ready, until_reason};
use e2e::world::{Setup, World};
use serde_json::{Value, json};

/// Repository and tag of everything that [`push_everything`] pushes.
const IMAGES: [(&str, &str); 7] = [
    ("index/oci", "v1"),
    ("index/docker", "v1"),
    ("single/oci", "v1"),
    ("single/docker", "v1"),
    ("single/large", "v1"),
    ("artifact", "v1"),
    ("signed", "v1"),
];

async fn start(setup: Setup) -> (World, Operator) {
    let world = World::start_with(setup).await.expect("the world starts");
    let operator = world.operator().await.expect("the operator starts");
    (world, operator)
}

/// One image of each kind, some with signatures and referrers; those of the last have some of their own.
async fn push_everything(source: &Remote) {
    let platforms = ["amd64", "arm64", "s390x"];
    let docker = |seed| ImageSpec::seeded(seed).flavour(Flavour::Docker);
    let index = source.push_index("index/oci", "v1", ImageSpec::seeded(1), &platforms).await.expect("an index");
    source.push_index("index/docker", "v1", docker(2), &platforms).await.expect("a list");
    source.push_image("single/oci", "v1", ImageSpec::seeded(3)).await.expect("an image");
    source.push_image("single/docker", "v1", docker(4)).await.expect("an image");
    // Above and below the size up to which a blob is sent in one piece.
    source.push_image("single/large", "v1", ImageSpec::seeded(5).layers(2, 3_000_000)).await.expect("an image");
    source.push_artifact("artifact", "v1", 6).await.expect("an artifact");
    let signed = source.push_image("signed", "v1", ImageSpec::seeded(7)).await.expect("an image");

    source.push_signature("index/oci", &index.digest, 11).await.expect("a signature of the index");
    let children = index.json().expect("JSON");
    let child = children["manifests"][1]["digest"].as_str().expect("a digest");
    source.push_signature("index/oci", child, 12).await.expect("a signature of one platform");
    source.push_referrer("index/oci", &index, 13).await.expect("a referrer");
    source.push_signature("signed", &signed.digest, 14).await.expect("a signature");
    let first = source.push_referrer("signed", &signed, 15).await.expect("a referrer");
    source.push_referrer("signed", &signed, 16).await.expect("another one");
    source.push_referrer("signed", &first, 17).await.expect("one of a referrer");
}

async fn walk(remote: &Remote, repository: &str, tag: &str) -> Content {
    remote.walk(repository, tag).await.unwrap_or_else(|error| panic!("{repository}:{tag}: {error:#}"))
}

/// Mirrors everything and compares both sides; returns the world for more.
async fn mirror_and_compare(setup: Setup) -> (World, Operator) {
    let (world, operator) = start(setup).await;
    let source = world.source().expect("a client");
    push_everything(&source).await;
    let images: Vec<String> = IMAGES.iter().map(|(repository, tag)| format!("{repository}:{tag}")).collect();
    let images: Vec<&str> = images.iter().map(String::as_str).collect();
    let mut object = world.image_set_mirror(world.namespace(), "everything", &images);
    if let Some(server) = world.source.token_server() {
        // The harness's token servers speak plain HTTP, to which a registry with TLS may lead only if it is allowed.
        let realm = server.realm().trim_start_matches("http://").trim_end_matches("/token");
        object["spec"]["source"]["hosts"] = json!([{"host": realm, "tls": "Plain"}]);
    }
    apply_and_wait(&world, &object).await;
    let target = world.target().expect("a client");
    for (repository, tag) in IMAGES {
        let (sent, arrived) = (walk(&source, repository, tag).await, walk(&target, repository, tag).await);
        assert_eq!(sent, arrived, "{repository}:{tag}");
    }
    // The comparison is about what it should be about: signature (3), two referrers (2 × 2), one of a referrer (2); the
    // empty config is shared by all three.
    let signed = walk(&target, "signed", "v1").await;
    assert_eq!(signed.items.len(), 5 + 3 + 3 * 2 + 1, "{signed:#?}");
    (world, operator)
}

async fn apply_and_wait(world: &World, object: &Value) {
    world.apply(object).await.expect("the object is taken");
    let mirrors = world.mirrors(world.namespace()).await.expect("a client");
    let name = object["metadata"]["name"].as_str().expect("a name");
    until_ready(&mirrors, name, LONG).await.expect("it becomes Ready");
}

#[tokio::test]
async fn everything_arrives_at_a_registry_without_a_referrers_api() {
    let (world, _operator) = mirror_and_compare(Setup::default()).await;
    let (source, target) = (world.source().expect("a client"), world.target().expect("a client"));
    let signed = target.digest("signed", "v1").await.expect("an answer").expect("it is there");
    let list = |remote: Remote| {
        let tag = fallback_tag(&signed);
        async move { remote.manifest("signed", &tag).await.expect("an answer").expect("a list of referrers") }
    };
    let (sent, arrived): (Manifest, Manifest) = (list(source).await, list(target.clone()).await);
    assert_eq!(arrived.media_type, OCI_INDEX);
    let entries = |list: &Manifest| {
        let list = list.json().expect("JSON");
        let entries = list["manifests"].as_array().expect("entries").iter();
        entries
            .map(|entry| (entry["digest"].to_string(), entry["artifactType"].to_string()))
            .collect::<BTreeMap<_, _>>()
    };
    assert_eq!(entries(&sent), entries(&arrived));
    let tags = target.tags("signed").await.expect("tags");
    assert!(tags.contains(&signature_tag(&signed)), "{tags:?}");
}

#[tokio::test]
async fn everything_arrives_at_a_registry_with_a_referrers_api() {
    let setup = Setup { target: Options::olareg("target").tls(), ..Setup::default() };
    let (world, _operator) = mirror_and_compare(setup).await;
    let target = world.target().expect("a client");
    let signed = target.digest("signed", "v1").await.expect("an answer").expect("it is there");
    assert_eq!(target.referrers("signed", &signed).await.expect("a list").len(), 2);
    let tags = target.tags("signed").await.expect("tags");
    assert!(!tags.contains(&fallback_tag(&signed)), "the registry keeps the list itself: {tags:?}");
}

#[tokio::test]
async fn everything_arrives_from_a_registry_with_a_referrers_api() {
    let setup = Setup { source: Options::olareg("source").tls(), ..Setup::default() };
    mirror_and_compare(setup).await;
}

#[tokio::test]
async fn everything_arrives_through_token_services() {
    let setup = Setup {
        source: Options::distribution("source").tls().token("puller", "source-password"),
        target: Options::distribution("target").token("pusher", "target-password"),
        ..Setup::default()
    };
    let (world, _operator) = mirror_and_compare(setup).await;
    for registry in [&world.source, &world.target] {
        assert!(registry.token_server().expect("there is one").issued() > 0);
    }
}

#[tokio::test]
async fn attachments_stay_behind_if_the_object_says_so() {
    let (world, _operator) = start(Setup::default()).await;
    let source = world.source().expect("a client");
    push_everything(&source).await;
    let mut object = world.image_set_mirror(world.namespace(), "bare", &["signed:v1"]);
    object["spec"]["copy"] = json!({"attachments": "Skip"});
    apply_and_wait(&world, &object).await;
    let target = world.target().expect("a client");
    assert_eq!(walk(&target, "signed", "v1").await.items.len(), 5);
    assert_eq!(target.tags("signed").await.expect("tags"), ["v1"]);
}

/// Pushes an index and returns an object that wants two of its platforms.
async fn filtered(world: &World) -> (Manifest, Value) {
    let platforms = ["amd64", "arm64", "s390x"];
    let source = world.source().expect("a client");
    let index = source.push_index("index", "v1", ImageSpec::seeded(1), &platforms).await.expect("an index");
    let mut object = world.image_set_mirror(world.namespace(), "filtered", &["index:v1"]);
    let wanted = json!([{"os": "linux", "architecture": "amd64"}, {"os": "linux", "architecture": "s390x"}]);
    object["spec"]["mirror"]["additionalImages"][0]["platforms"] = wanted;
    (index, object)
}

#[tokio::test]
async fn a_filtered_index_is_the_same_index_with_only_the_platforms_asked_for() {
    let target = Options::distribution("target").tls().basic("pusher", "target-password").sparse_indexes();
    let (world, _operator) = start(Setup { target, ..Setup::default() }).await;
    let (index, object) = filtered(&world).await;
    apply_and_wait(&world, &object).await;
    let (source, target) = (world.source().expect("a client"), world.target().expect("a client"));
    let arrived = target.manifest("index", "v1").await.expect("an answer").expect("it is there");
    assert_eq!(arrived, index);
    let mut there = Vec::new();
    for child in index.json().expect("JSON")["manifests"].as_array().expect("entries") {
        let digest = child["digest"].as_str().expect("a digest");
        if let Some(manifest) = target.manifest("index", digest).await.expect("an answer") {
            assert_eq!(Some(manifest), source.manifest("index", digest).await.expect("an answer"));
            there.push(child["platform"]["architecture"].as_str().expect("an architecture").to_owned());
        }
    }
    assert_eq!(there, ["amd64", "s390x"]);
}

#[tokio::test]
async fn a_registry_that_wants_all_platforms_of_an_index_is_named_with_the_way_out() {
    let (world, _operator) = start(Setup::default()).await;
    let (_, mut object) = filtered(&world).await;
    world.apply(&object).await.expect("the object is taken");
    let mirrors = world.mirrors(world.namespace()).await.expect("a client");
    let failed = until_reason(&mirrors, "filtered", ("Ready", "False", "CopyFailed"), LONG).await.expect("it fails");
    let failures = &failed.data["status"]["failures"];
    assert_eq!(failures[0]["reason"], "ManifestInvalid", "{failures}");
    let message = failures[0]["message"].as_str().expect("a text");
    assert!(message.contains("leave out `platforms`"), "{message}");
    // Who follows the advice is helped.
    object["spec"]["mirror"]["additionalImages"][0].as_object_mut().expect("an entry").remove("platforms");
    apply_and_wait(&world, &object).await;
}

#[tokio::test]
async fn a_shared_layer_is_uploaded_once_and_mounted_elsewhere() {
    let (world, _operator) = start(Setup::default()).await;
    let source = world.source().expect("a client");
    let repositories = ["shared/one", "shared/two", "shared/three", "other/four"];
    let spec = ImageSpec::seeded(1).layers(4, 400_000);
    let mut layers = Vec::new();
    for (repository, architecture) in repositories.into_iter().zip(["amd64", "arm64", "s390x", "ppc64le"]) {
        let image = ImageSpec { architecture, ..spec };
        let manifest = source.push_image(repository, "v1", image).await.expect("an image").json().expect("JSON");
        let digests = manifest["layers"].as_array().expect("layers").iter();
        layers = digests.map(|layer| layer["digest"].as_str().expect("a digest").to_owned()).collect();
    }
    let images = repositories.map(|repository| format!("{repository}:v1"));
    let images: Vec<&str> = images.iter().map(String::as_str).collect();
    let (from, to) = (world.source.mark().await.expect("the log"), world.target.mark().await.expect("the log"));
    apply_and_wait(&world, &world.image_set_mirror(world.namespace(), "shared", &images)).await;
    let written = world.target.requests_since(to).await.expect("the log");
    let read = world.source.requests_since(from).await.expect("the log");
    let hex = |digest: &str| digest.trim_start_matches("sha256:").to_owned();
    for layer in &layers {
        let about = |method: &str, path: &str, part: &str| {
            let named = path.contains(&hex(layer)) && path.contains(part);
            named && method != "HEAD"
        };
        let uploads = written.iter().filter(|r| r.method == "PUT" && about(&r.method, &r.path, "digest=")).count();
        assert_eq!(uploads, 1, "{layer} is uploaded once: {written:#?}");
        let mounts = written.iter().filter(|r| r.status == 201 && about(&r.method, &r.path, "mount=")).count();
        assert_eq!(mounts, 3, "{layer} is mounted where it was not uploaded: {written:#?}");
        let downloads = read.iter().filter(|r| r.status == 200 && about(&r.method, &r.path, "/blobs/")).count();
        assert_eq!(downloads, 1, "{layer} is read once: {read:#?}");
    }
    let target = world.target().expect("a client");
    for repository in repositories {
        assert_eq!(walk(&target, repository, "v1").await, walk(&source, repository, "v1").await);
    }
}
