//! A real containerd finds in the mirror what pods name as upstream has it, by the files that an object publishes.

use std::fs;
use std::time::Duration;

use anyhow::Result;
use e2e::node::Node;
use e2e::operator::repository;
use e2e::registry::{LogMark, LoggedRequest};
use e2e::tools::say;
use e2e::wait::{LONG, eventually, until_ready};
use e2e::world::{Setup, World, logins};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, PostParams};
use serde_json::{Value, json};

const SCENARIO: &str = "pods_start_from_the_mirror_under_upstream_names_when_upstream_is_gone";

/// The prefix of the target.
const PREFIX: &str = "site/a";

/// The Secret that pods pull with.
const PULL: &str = "pull";

/// The operator starts in a pod, and then what else takes its time.
const FIRST: Duration = Duration::from_mins(5);

/// A pod of one container.
async fn create(pods: &Api<Pod>, name: &str, image: &str) {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "waits", "image": image}], "imagePullSecrets": [{"name": PULL}]},
    });
    pods.create(&PostParams::default(), &serde_json::from_value(pod).expect("a pod")).await.expect("accepted");
}

/// Why the container of a pod does not start.
async fn waiting(pods: &Api<Pod>, name: &str) -> Result<Option<String>> {
    let status = pods.get(name).await?.status.unwrap_or_default();
    let container = status.container_statuses.unwrap_or_default().into_iter().next();
    Ok(container.and_then(|found| found.state?.waiting?.message))
}

/// Waits until a pull has asked upstream, which is gone, and nobody else.
async fn until_upstream_fails(pods: &Api<Pod>, name: &str, upstream: &str) {
    let asked = format!("\"https://{upstream}/v2/");
    let asked = asked.as_str();
    let message = eventually(LONG, "a pull from upstream to fail", || async move {
        Ok(waiting(pods, name).await?.filter(|message| message.contains(asked)))
    });
    say(&format!("{name}: {}", message.await.expect("it does not start")));
}

async fn until_running(pods: &Api<Pod>, name: &str) {
    eventually(LONG, "a pod to run", || async move {
        let phase = pods.get(name).await?.status.and_then(|status| status.phase);
        anyhow::ensure!(phase.as_deref() == Some("Running"), "{phase:?}: {:?}", waiting(pods, name).await?);
        Ok(Some(()))
    })
    .await
    .expect("it runs");
}

/// What containerd asked the mirror for since a mark, and got.
async fn pulls(world: &World, since: LogMark) -> Vec<LoggedRequest> {
    let mut requests = world.target.requests_since(since).await.expect("the access log");
    requests.retain(|request| request.user_agent.starts_with("containerd/") && request.status == 200);
    requests
}

/// The paths below the repository that were got.
fn got<'a>(requests: &'a [LoggedRequest], repository: &str) -> Vec<&'a str> {
    let below = format!("/v2/{PREFIX}/{repository}/");
    let gets = requests.iter().filter(|request| request.method == "GET");
    gets.filter_map(|request| request.path.strip_prefix(&below)).collect()
}

/// Runs the `DaemonSet` of `config/containerd` for an object; only folder, object and pace are the scenario's.
async fn follow(world: &World, object: &str, folder: &str) {
    let config = repository().join("config/containerd").display().to_string();
    let mut text = world.cluster.kubectl(&["kustomize", &config]).await.expect("kubectl").ok().expect("it renders");
    let image = format!("image: {}\n", world.deployment.image);
    assert!(text.contains(&image), "the operator has {image}, and this runs {text}");
    for (from, to) in [
        ("path: /etc/containerd/certs.d", format!("path: {folder}")),
        ("--object=additional-images", format!("--object={object}")),
        ("- additional-images-containerd-hosts", format!("- {object}-containerd-hosts")),
        ("--every=1m", "--every=1s".to_owned()),
    ] {
        assert_eq!(text.matches(from).count(), 1, "{from} in {text}");
        text = text.replace(from, &to);
    }
    world.cluster.apply(&text).await.expect("accepted");
}

#[tokio::test]
async fn pods_start_from_the_mirror_under_upstream_names_when_upstream_is_gone() {
    if let Err(reason) = Node::available() {
        say(&format!("SKIPPED: nodes_pull_through_the_mirror::{SCENARIO}, since {reason}"));
        return;
    }
    let setup = Setup { node: true, kinds: Vec::new(), ..Setup::default() };
    let mut world = World::start_with(setup).await.expect("the world starts");
    let node = world.cluster.node().expect("a node");
    let upstream = world.source_host.clone();
    let source = world.source().expect("a client");
    // A layer that no other image has: each has to be fetched.
    let mut digests = Vec::new();
    for name in ["by-digest", "by-tag", "closed"] {
        let image = node.waiting_image(name).expect("an image");
        image.push(&source, &format!("apps/{name}"), "1").await.expect("pushed");
        digests.push(image.digest().to_owned());
    }
    let digest = &digests[0];
    // There is a folder for the host, so that what answers for all other names does not answer for this one.
    let folder = node.hosts();
    let own = folder.join(format!("{}_", upstream.replace(':', "_")));
    fs::create_dir(&own).expect("a folder");

    let namespace = world.namespace().to_owned();
    let named = format!("apps/by-digest@{digest}");
    let mut set = world.image_set_mirror(&namespace, "set", &[&named, "apps/by-tag:1", "apps/closed:1"]);
    set["spec"]["target"]["pathPrefix"] = json!(PREFIX);
    world.apply(&set).await.expect("accepted");
    let mirrors = world.mirrors(&namespace).await.expect("a client");
    let object = until_ready(&mirrors, "set", FIRST).await.expect("Ready");
    let resources = object.data.pointer("/status/resources").and_then(Value::as_array).cloned().unwrap_or_default();
    let listed = resources.iter().find(|found| found["name"] == "set-containerd-hosts");
    assert_eq!(listed.map(|found| &found["state"]), Some(&json!("Published")), "{resources:#?}");

    world.source.stop().await.expect("upstream ends");
    // kubelet chooses credentials by the name in the pod, and containerd gives them to whom it asks.
    let login = world.target.login().expect("a login");
    world.apply(&logins("default", PULL, &[(&upstream, login)])).await.expect("accepted");
    let pods: Api<Pod> = Api::namespaced(world.cluster.client().await.expect("a client"), "default");
    let mark = world.target.mark().await.expect("a mark");
    create(&pods, "by-digest", &format!("{upstream}/{named}")).await;
    until_upstream_fails(&pods, "by-digest", &upstream).await;
    assert_eq!(pulls(&world, mark).await, [], "nobody was sent to the mirror");

    follow(&world, "set", &folder.display().to_string()).await;
    until_running(&pods, "by-digest").await;
    let requests = pulls(&world, mark).await;
    let from = format!("?ns={}", upstream.replace(':', "%3A"));
    let paths = got(&requests, "apps/by-digest");
    assert!(paths.contains(&format!("manifests/{digest}{from}").as_str()), "{requests:#?}");
    // Configuration and at least the layer that is its own.
    assert!(paths.iter().filter(|path| path.starts_with("blobs/")).count() >= 2, "{requests:#?}");

    // Tags are asked of upstream until somebody says otherwise.
    create(&pods, "by-tag", &format!("{upstream}/apps/by-tag:1")).await;
    until_upstream_fails(&pods, "by-tag", &upstream).await;
    set["spec"]["clusterResources"] = json!({"imageTagMirrorSet": {"policy": "Apply"}});
    world.apply(&set).await.expect("accepted");
    until_running(&pods, "by-tag").await;
    let requests = pulls(&world, mark).await;
    let resolved = format!("/v2/{PREFIX}/apps/by-tag/manifests/1{from}");
    assert!(requests.iter().any(|request| request.path == resolved), "{requests:#?}");
    assert!(got(&requests, "apps/by-tag").iter().any(|path| path.starts_with("blobs/")), "{requests:#?}");

    // What may not be contacted is not, and its images still come.
    set["spec"]["clusterResources"]["imageDigestMirrorSet"] = json!({"mirrorSourcePolicy": "NeverContactSource"});
    world.apply(&set).await.expect("accepted");
    let file = &own.join("hosts.toml");
    eventually(LONG, "the node to know", || async move {
        Ok(fs::read_to_string(file)?.contains("\nserver = ").then_some(()))
    })
    .await
    .expect("it knows");
    create(&pods, "closed", &format!("{upstream}/apps/closed:1")).await;
    until_running(&pods, "closed").await;
    create(&pods, "unknown", &format!("{upstream}/apps/unknown:1")).await;
    let message = eventually(LONG, "a pull to fail", || async { waiting(&pods, "unknown").await }).await;
    let message = message.expect("it does not start");
    assert!(message.contains("not found") && !message.contains("https://"), "{message}");
}
