//! What is wrong with one image is said about that image; the others arrive.

use std::collections::BTreeMap;
use std::convert::Infallible;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::response::Response;
use e2e::image::{ImageSpec, OCI_MANIFEST, sha256};
use e2e::wait::{LONG, condition, openshift_config, until, until_ready, until_reason};
use e2e::world::World;
use kube::api::{DynamicObject, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

/// `status.failures`: image to reason and message.
fn failures(object: &DynamicObject) -> BTreeMap<String, (String, String)> {
    let text = |entry: &Value, key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    let listed = object.data["status"]["failures"].as_array().into_iter().flatten();
    listed.map(|entry| (text(entry, "image"), (text(entry, "reason"), text(entry, "message")))).collect()
}

/// The `ConfigMap` with what the last sync did: its first line, and source to outcome.
async fn report(world: &World, name: &str) -> (Value, BTreeMap<String, Value>) {
    let map = format!("{name}-report-0");
    let args = ["get", "configmap", &map, "-n", world.namespace(), "-o", r"jsonpath={.data.report\.jsonl}"];
    let text = world.cluster.kubectl(&args).await.expect("kubectl").ok().expect("the ConfigMap is there");
    let mut lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let head = lines.next().expect("a first line");
    let outcomes = lines.map(|line| (line["source"].as_str().expect("a source").to_owned(), line["outcome"].clone()));
    (head, outcomes.collect())
}

/// Waits until a sync has ended without everything in the target.
async fn until_failed(world: &World, name: &str) -> DynamicObject {
    let mirrors = world.mirrors(world.namespace()).await.expect("a client");
    until(&mirrors, name, LONG, "failed", |object| {
        condition(object, "Ready").is_some_and(|ready| ready.status == "False") && !failures(object).is_empty()
    })
    .await
    .expect("a sync ends")
}

#[tokio::test]
async fn missing_images_are_named_and_the_rest_is_there_until_they_appear() {
    let world = World::start().await.expect("the world starts");
    let mut operator = world.operator().await.expect("the operator starts");
    let source = world.source().expect("a client");
    let first = source.push_image("there/first", "v1", ImageSpec::seeded(1)).await.expect("an image");
    let last = source.push_image("there/last", "v1", ImageSpec::seeded(2)).await.expect("an image");
    let late = source.push_image("elsewhere/late", "v1", ImageSpec::seeded(3)).await.expect("an image");
    let by_digest = format!("gone/by-digest@{}", late.digest);
    let at_digest = [format!("there/first@{}", first.digest), format!("there/last@{}", last.digest)];
    let images = [at_digest[0].as_str(), "gone/by-tag:v1", &by_digest, &at_digest[1], "there/first:v9"];
    let object = world.image_set_mirror(world.namespace(), "partly", &images);
    world.apply(&object).await.expect("the object is taken");

    let failed = until_failed(&world, "partly").await;
    let found = failures(&failed);
    let named = |image: &str| format!("{}/{image}", world.source_host);
    let expected = [named(&by_digest), named("gone/by-tag:v1"), named("there/first:v9")];
    assert_eq!(found.keys().cloned().collect::<Vec<_>>(), expected);
    for (image, (reason, message)) in &found {
        assert_eq!(reason, "SourceNotFound", "{image}: {message}");
        assert!(message.contains("source registry") && message.contains(&world.source_host), "{image}: {message}");
    }
    let ready = condition(&failed, "Ready").expect("it is always there");
    assert!(ready.message.contains('3'), "{ready:?}");
    let (head, outcomes) = report(&world, "partly").await;
    assert_eq!(head["plan"], failed.data["status"]["plan"]["digest"]);
    assert_eq!(outcomes.len(), images.len(), "{outcomes:#?}");
    for (image, outcome) in &outcomes {
        let missing = found.contains_key(image);
        assert_eq!(outcome["failed"]["reason"] == "SourceNotFound", missing, "{image}: {outcome}");
        assert_eq!(outcome == "copied", !missing, "{image}: {outcome}");
    }
    let target = world.target().expect("a client");
    let kept = |digest: &str| digest.replace(':', "-");
    for (repository, image) in [("there/first", &first), ("there/last", &last)] {
        let content = target.walk(repository, &kept(&image.digest)).await.expect("it is there, with all its parts");
        assert_eq!(content.root, image.digest);
    }
    assert_eq!(target.tags("gone/by-tag").await.expect("tags"), Vec::<String>::new());

    // The missing ones appear, and somebody who does not want to wait asks for a sync.
    source.push_image("gone/by-tag", "v1", ImageSpec::seeded(4)).await.expect("an image");
    source.push_image("gone/by-digest", "any", ImageSpec::seeded(3)).await.expect("an image");
    source.push_image("there/first", "v9", ImageSpec::seeded(5)).await.expect("an image");
    let asked = json!({"metadata": {"annotations": {"mirror.openshift.io/requested-at": "now"}}});
    let mirrors = world.mirrors(world.namespace()).await.expect("a client");
    mirrors.patch("partly", &PatchParams::default(), &Patch::Merge(&asked)).await.expect("the annotation");
    let ready = until_ready(&mirrors, "partly", LONG).await.expect("it becomes Ready");
    assert_eq!(failures(&ready), BTreeMap::new());
    assert_eq!(ready.data["status"]["progress"]["summary"], "5/5");
    let (head, outcomes) = report(&world, "partly").await;
    assert_eq!(head["plan"], ready.data["status"]["plan"]["digest"]);
    assert!(outcomes.len() == images.len() && outcomes.values().all(Value::is_string), "{outcomes:#?}");
    assert_eq!(target.digest("gone/by-digest", &kept(&late.digest)).await.expect("an answer"), Some(late.digest));
    assert_eq!(operator.process().try_wait().expect("its state"), None, "it is the same operator");
}

#[tokio::test]
async fn a_rule_waits_for_all_images_behind_it() {
    let world = World::start().await.expect("the world starts");
    let _operator = world.operator().await.expect("the operator starts");
    let source = world.source().expect("a client");
    let good = source.push_image("good/app", "v1", ImageSpec::seeded(1)).await.expect("an image").digest;
    let half = source.push_image("half/app", "v1", ImageSpec::seeded(2)).await.expect("an image").digest;
    let missing = sha256(b"nowhere");
    let (good, half, missing) =
        (format!("good/app@{good}"), format!("half/app@{half}"), format!("half/other@{missing}"));
    let object = world.image_set_mirror(world.namespace(), "rules", &[&good, &half, &missing]);
    world.apply(&object).await.expect("the object is taken");
    until_failed(&world, "rules").await;
    let client = world.cluster.client().await.expect("a client");
    let sets = openshift_config(client, "ImageDigestMirrorSet", "imagedigestmirrorsets");
    let list = sets.list(&ListParams::default()).await.expect("a list");
    let entries = list.items.iter().flat_map(|set| set.data["spec"]["imageDigestMirrors"].as_array().expect("entries"));
    let sources: Vec<_> = entries.map(|entry| entry["source"].as_str().expect("a source").to_owned()).collect();
    // `half` would lead nodes to an image that is not there.
    assert!(sources.iter().any(|source| source.ends_with("/good")), "{sources:?}");
    assert!(sources.iter().all(|source| !source.ends_with("/half") && !source.ends_with("/half/other")), "{sources:?}");
}

/// More than any manifest may have, and more than an operator needs.
const HUGE: u64 = 256 * 1024 * 1024;

/// Answers as no registry should, a different way in each repository.
async fn hostile(request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let repository = path.trim_start_matches("/v2/").split('/').next().unwrap_or_default().to_owned();
    let is_blob = path.contains("/blobs/");
    let manifest = |bytes: Vec<u8>, digest: &str| {
        let answer = Response::builder().header(header::CONTENT_TYPE, OCI_MANIFEST);
        answer.header("docker-content-digest", digest).body(Body::from(bytes)).expect("an answer")
    };
    match repository.as_str() {
        "html" => Response::builder()
            .header(header::CONTENT_TYPE, "text/html; charset=utf-8")
            .body(Body::from("<html><body>Please log in to the guest network</body></html>"))
            .expect("an answer"),
        "huge" => {
            const CHUNK: usize = 1 << 20;
            let chunks = (0..HUGE / CHUNK as u64).map(|_| Ok::<_, Infallible>(vec![b' '; CHUNK]));
            let answer = Response::builder().header(header::CONTENT_TYPE, OCI_MANIFEST);
            answer.body(Body::from_stream(futures::stream::iter(chunks))).expect("an answer")
        }
        "wrong" => manifest(cut_manifest(), &sha256(b"something else")),
        "garbage" => {
            let bytes = b"{\"schemaVersion\": 2, \"layers\": [".to_vec();
            let digest = sha256(&bytes);
            manifest(bytes, &digest)
        }
        "loop" => Response::builder()
            .status(StatusCode::TEMPORARY_REDIRECT)
            .header(header::LOCATION, path)
            .body(Body::empty())
            .expect("an answer"),
        "cut" if is_blob => {
            let first: Result<Vec<u8>, Infallible> = Ok(vec![b'x'; 1000]);
            let rest = Err(std::io::Error::other("the connection breaks"));
            let body = futures::stream::iter([first.map_err(|never| match never {}), rest]);
            Response::builder()
                .header(header::CONTENT_LENGTH, BLOB_SIZE)
                .body(Body::from_stream(body))
                .expect("an answer")
        }
        "short" if is_blob => Response::new(Body::from(vec![b'x'; 1000])),
        "cut" | "short" => manifest(cut_manifest(), &sha256(&cut_manifest())),
        _ => Response::builder().status(StatusCode::NOT_FOUND).body(Body::empty()).expect("an answer"),
    }
}

const BLOB_SIZE: usize = 500_000;

/// An image with one blob, which never comes as it says.
fn cut_manifest() -> Vec<u8> {
    let blob = json!({
        "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": sha256(&vec![b'x'; BLOB_SIZE]),
        "size": BLOB_SIZE,
    });
    let config =
        json!({"mediaType": "application/vnd.oci.image.config.v1+json", "digest": blob["digest"], "size": BLOB_SIZE});
    json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [blob]}).to_string().into_bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_answers_fail_their_own_image_alone() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let host = listener.local_addr().expect("an address").to_string();
    let mut server = tokio::task::JoinSet::new();
    server.spawn(async move { axum::serve(listener, Router::new().fallback(hostile)).await });

    let world = World::start().await.expect("the world starts");
    let mut operator = world.operator().await.expect("the operator starts");
    let source = world.source().expect("a client");
    let good = source.push_image("good", "v1", ImageSpec::seeded(1)).await.expect("an image");
    let bad = |name: &str| format!("{host}/{name}:v1");
    let by_digest = format!("{host}/wrong@{}", sha256(b"asked for"));
    let names = ["cut", "garbage", "html", "huge", "loop", "short", "wrong"];
    let mut images: Vec<String> = names.iter().map(|name| bad(name)).collect();
    images.extend([by_digest.clone(), "good:v1".to_owned()]);
    let images: Vec<&str> = images.iter().map(String::as_str).collect();
    let mut object = world.image_set_mirror(world.namespace(), "hostile", &images);
    object["spec"]["source"]["hosts"] = json!([{"host": host, "tls": "Plain"}]);
    world.apply(&object).await.expect("the object is taken");

    let failed = until_failed(&world, "hostile").await;
    let found = failures(&failed);
    let reasons: BTreeMap<String, &str> =
        found.iter().map(|(image, (reason, _))| (image.clone(), reason.as_str())).collect();
    let expected = [
        (bad("cut"), "NetworkUnreachable"),
        (bad("garbage"), "ManifestInvalid"),
        (bad("html"), "RegistryError"),
        (bad("huge"), "ManifestInvalid"),
        (bad("loop"), "RegistryError"),
        (bad("short"), "DigestMismatch"),
        (bad("wrong"), "DigestMismatch"),
        (by_digest, "DigestMismatch"),
    ];
    assert_eq!(reasons, BTreeMap::from(expected), "{found:#?}");
    for (image, (_, message)) in &found {
        assert!(message.contains(&host), "{image}: {message}");
    }
    let target = world.target().expect("a client");
    target.walk("good", "v1").await.expect("the good one is there");
    for name in names {
        assert_eq!(target.tags(name).await.expect("tags"), Vec::<String>::new(), "{name}");
    }
    assert_eq!(target.digest("good", "v1").await.expect("an answer"), Some(good.digest));

    // Nothing of this is a panic, and the next object is served.
    let fine = world.image_set_mirror(world.namespace(), "fine", &["good:v1"]);
    world.apply(&fine).await.expect("the object is taken");
    let mirrors = world.mirrors(world.namespace()).await.expect("a client");
    until_ready(&mirrors, "fine", LONG).await.expect("it becomes Ready");
    assert!(!operator.log().contains("panicked"), "{}", operator.log());
    assert_eq!(operator.process().try_wait().expect("its state"), None);
    // Of the endless answer not more was kept than a manifest may have.
    let memory = operator.process().peak_bytes().expect("its memory");
    assert!(memory < HUGE, "{memory} bytes");
    until_reason(&mirrors, "hostile", ("Reconciling", "True", "ProgressingWithRetry"), LONG)
        .await
        .expect("tried again");
    server.shutdown().await;
}
