//! The parts themselves: what the scenarios build on does what it says.

use std::fs;
use std::path::PathBuf;
use std::pin::pin;

use e2e::cluster::{Cluster, OpenShiftKind, client_of};
use e2e::image::{Content, Flavour, ImageSpec, OCI_MANIFEST, Remote, signature_tag};
use e2e::process::{Process, Program, RunFolder, target_folder};
use e2e::proxy::Proxy;
use e2e::registry::{Implementation, Options};
use e2e::wait::{LONG, SHORT, eventually};
use e2e::{mirrorconf, rbac, tools};

#[tokio::test]
async fn a_cluster_serves_the_openshift_kinds_and_logs_every_request() {
    let mut cluster = Cluster::start().await.expect("the cluster starts");
    let kinds = cluster.kubectl(&["api-resources", "-o", "name"]).await.expect("kubectl").ok().expect("api-resources");
    assert!(kinds.contains("imagedigestmirrorsets.config.openshift.io"), "{kinds}");
    assert!(kinds.contains("imagetagmirrorsets.config.openshift.io"), "{kinds}");
    assert!(!kinds.contains("machineconfigpools"), "{kinds}");
    cluster.add_kinds(&[OpenShiftKind::MachineConfigPool]).await.expect("a kind added later");
    cluster.kubectl(&["get", "machineconfigpools"]).await.expect("kubectl").ok().expect("the new kind is served");
    let version = cluster.kubectl(&["version"]).await.expect("kubectl").ok().expect("version");
    assert!(version.contains("Server Version: v1.36.3"), "{version}");

    let kubeconfig = cluster.service_account_kubeconfig("default", "default").await.expect("a token");
    let mark = cluster.audit_mark().expect("audit");
    let config = kubeconfig.display().to_string();
    let refused = cluster.kubectl(&["--kubeconfig", &config, "get", "secrets"]).await.expect("kubectl");
    assert!(!refused.success());
    let events = cluster.audit_since(mark).expect("audit");
    let refused: Vec<_> =
        events.iter().filter(|event| event.is_by("default", "default") && event.is_refused()).collect();
    assert_eq!(refused.len(), 1, "{events:#?}");
    assert_eq!((refused[0].verb.as_str(), refused[0].resource.as_str(), refused[0].code), ("list", "secrets", 403));
    assert!(refused[0].user_agent.starts_with("kubectl"));

    cluster.stop_apiserver();
    assert!(!cluster.kubectl(&["version"]).await.expect("kubectl").success());
    cluster.start_apiserver().await.expect("it comes back on the same port");
    cluster.kubectl(&["get", "machineconfigpools"]).await.expect("kubectl").ok().expect("nothing is lost");
}

#[tokio::test]
async fn content_survives_a_round_trip_through_every_kind_of_registry() {
    let kinds = [
        Options::distribution("plain"),
        Options::distribution("basic").tls().basic("reader", "a secret: with colons"),
        Options::distribution("token").tls().token("reader", "another secret"),
        Options::olareg("olareg").tls(),
    ];
    let mut seen: Vec<Vec<Content>> = Vec::new();
    for options in kinds {
        let has_catalog = options.implementation == Implementation::Distribution;
        let registry = options.start().await.expect("the registry starts");
        let remote = registry.remote().expect("a client");
        seen.push(push_everything(&remote).await);
        if has_catalog {
            let repositories = remote.repositories().await.expect("a catalog");
            assert_eq!(repositories, ["a/index", "a/single", "artifact", "big"]);
        }
        assert_eq!(registry.requests().await.expect("the log"), [], "the harness's own requests do not count");
    }
    for content in &seen {
        assert_eq!(content, &seen[0], "equal seeds make equal content, whatever registry it went through");
    }
}

async fn push_everything(remote: &Remote) -> Vec<Content> {
    let docker = ImageSpec::seeded(2).flavour(Flavour::Docker);
    let single = remote.push_image("a/single", "v1", ImageSpec::seeded(1)).await.expect("an image");
    remote.push_index("a/index", "v1", docker, &["amd64", "arm64"]).await.expect("an index");
    remote.push_artifact("artifact", "v1", 3).await.expect("an artifact");
    remote.push_image("big", "v1", ImageSpec::seeded(4).layers(1, 5_000_000)).await.expect("a big image");
    remote.push_signature("a/single", &single.digest, 5).await.expect("a signature");
    remote.push_referrer("a/single", &single, 6).await.expect("a referrer");
    let mut contents = Vec::new();
    for repository in ["a/single", "a/index", "artifact", "big"] {
        contents.push(remote.walk(repository, "v1").await.expect("everything is there"));
    }
    assert_eq!(contents[0].root, single.digest);
    // The image with config and layers; the signature with config and layer; the referrer with config and layer.
    assert_eq!(contents[0].items.len(), 5 + 3 + 3);
    assert!(contents[3].size() > 5_000_000);
    assert_eq!(remote.digest("a/single", "v2").await.expect("an answer"), None);
    let tags = remote.tags("a/single").await.expect("tags");
    assert!(tags.contains(&"v1".to_owned()) && tags.contains(&signature_tag(&single.digest)), "{tags:?}");
    assert_eq!(remote.tags("nowhere").await.expect("an answer"), Vec::<String>::new());
    contents
}

#[tokio::test]
async fn a_registry_keeps_its_data_but_not_its_password_or_ca() {
    let mut registry =
        Options::distribution("kept").tls().basic("u", "old").start().await.expect("the registry starts");
    let before = registry.remote().expect("a client");
    before.push_image("kept", "v1", ImageSpec::seeded(7)).await.expect("an image");
    let url = registry.url();

    registry.change_password("new").await.expect("it restarts");
    assert_eq!(before.ping().await.expect("an answer"), 401);
    registry.change_ca().await.expect("it restarts");
    assert!(before.ping().await.is_err(), "the old CA is worth nothing");
    assert_eq!(registry.url(), url);
    registry.remote().expect("a client").walk("kept", "v1").await.expect("everything is still there");

    registry.stop().await.expect("it stops");
    assert!(registry.remote().expect("a client").ping().await.is_err());
    registry.restart().await.expect("it starts again");
    assert_eq!(registry.remote().expect("a client").ping().await.expect("an answer"), 200);
}

#[tokio::test]
async fn access_logs_tell_who_asked_for_what() {
    for options in [Options::distribution("log").tls().basic("u", "p"), Options::olareg("log")] {
        let registry = options.start().await.expect("the registry starts");
        registry.remote().expect("a client").push_image("repo", "v1", ImageSpec::seeded(8)).await.expect("an image");
        let mut http = reqwest::Client::builder().no_proxy().user_agent("somebody/1");
        if let Some(pem) = registry.ca_pem() {
            http = http.tls_certs_only([reqwest::Certificate::from_pem(pem.as_bytes()).expect("a certificate")]);
        }
        let http = http.build().expect("a client");
        let get = |path: &str| {
            // Without an Accept header distribution denies that it has an OCI manifest.
            let request = http.get(format!("{}{path}", registry.url())).header("accept", OCI_MANIFEST);
            match registry.login() {
                Some(login) => request.basic_auth(&login.user, Some(&login.password)),
                None => request,
            }
        };
        get("/v2/").send().await.expect("an answer");
        let mark = registry.mark().await.expect("a mark");
        get("/v2/repo/manifests/v1").send().await.expect("an answer");
        get("/v2/repo/tags/list?n=5").send().await.expect("an answer");
        get("/v2/repo/manifests/v2").send().await.expect("an answer");
        let requests = registry.requests_since(mark).await.expect("the log");
        let found: Vec<_> = requests.iter().map(|r| (r.method.as_str(), r.path.as_str(), r.status)).collect();
        let expected = [
            ("GET", "/v2/repo/manifests/v1", 200),
            ("GET", "/v2/repo/tags/list?n=5", 200),
            ("GET", "/v2/repo/manifests/v2", 404),
        ];
        assert_eq!(found, expected);
        assert!(requests.iter().all(|request| request.user_agent == "somebody/1" && !request.is_write()));
    }
}

#[tokio::test]
async fn the_proxy_holds_throttles_cuts_and_refuses() {
    let registry = Options::distribution("behind").tls().start().await.expect("the registry starts");
    let direct = registry.remote().expect("a client");
    let digest = direct.push_random_blob("blob", 9, 3_000_000).await.expect("a blob");
    let proxy = Proxy::start(&registry.host()).expect("the proxy starts");
    let ca = registry.ca_pem();
    let remote = Remote::new(&format!("https://{}", proxy.host()), ca.as_deref(), None).expect("a client");
    remote.push_image("image", "v1", ImageSpec::seeded(10).layers(1, 2_000_000)).await.expect("it forwards");
    assert!(proxy.bytes_to_server() > 2_000_000);

    proxy.hold_after(100_000);
    {
        let mut walk = pin!(remote.walk("image", "v1"));
        tokio::select! {
            _ = &mut walk => panic!("the hold does not hold"),
            held = proxy.until_held(SHORT) => held.expect("the hold is reached"),
        }
        proxy.throttle(Some(1_000_000));
        proxy.release();
        proxy.throttle(None);
        walk.await.expect("it goes on where it stopped");
    }
    assert!(remote.blob_size("blob", &digest).await.expect("an answer").is_some());

    proxy.throttle(Some(50_000));
    {
        let mut walk = pin!(remote.walk("image", "v1"));
        let before = proxy.bytes_to_client();
        tokio::select! {
            _ = &mut walk => panic!("the limit does not limit"),
            moving = eventually(SHORT, "bytes to flow", || async { Ok((proxy.bytes_to_client() > before + 60_000).then_some(())) }) => moving.expect("it flows"),
        }
        proxy.cut();
        assert!(walk.await.is_err(), "a cut transfer fails");
    }
    proxy.throttle(None);
    proxy.refuse(true);
    assert!(remote.ping().await.is_err());
    proxy.refuse(false);
    assert_eq!(remote.ping().await.expect("an answer"), 200);
}

const GOOD: &str = "
apiVersion: config.openshift.io/v1
kind: ImageDigestMirrorSet
metadata: {name: good}
spec:
  imageDigestMirrors:
  - {source: quay.io/team/app, mirrors: [mirror.example.com:5000/x/team/app]}
---
apiVersion: config.openshift.io/v1
kind: ImageTagMirrorSet
metadata: {name: good}
spec:
  imageTagMirrors:
  - {source: docker.io/library, mirrors: [mirror.example.com:5000/x/library]}
";

const CONTRADICTING: &str = "
apiVersion: config.openshift.io/v1
kind: ImageDigestMirrorSet
metadata: {name: contradicting}
spec:
  imageDigestMirrors:
  - {source: quay.io/team/app, mirrors: [other.example.com/app], mirrorSourcePolicy: NeverContactSource}
";

#[tokio::test]
async fn the_judge_follows_good_mirror_sets_and_refuses_contradicting_ones() {
    let digest = format!("sha256:{}", "a".repeat(64));
    let by_digest = format!("quay.io/team/app@{digest}");
    let specs = [by_digest.as_str(), "quay.io/team/app:v1", "docker.io/library/busybox:1", "quay.io/else/where:v1"];
    let verdict = mirrorconf::judge(GOOD, &specs).await.expect("a verdict");
    assert_eq!(verdict.error, None);
    let mirrored = format!("mirror.example.com:5000/x/team/app@{digest}");
    assert_eq!(verdict.first(&by_digest), Some(mirrored.as_str()));
    assert_eq!(verdict.pulls[0].lookups, [mirrored.as_str(), by_digest.as_str()]);
    assert_eq!(verdict.first("quay.io/team/app:v1"), Some("quay.io/team/app:v1"), "no tag rule: not mirrored");
    assert_eq!(verdict.first("docker.io/library/busybox:1"), Some("mirror.example.com:5000/x/library/busybox:1"));
    assert_eq!(verdict.first("quay.io/else/where:v1"), Some("quay.io/else/where:v1"));

    let both = format!("{GOOD}---{CONTRADICTING}");
    let verdict = mirrorconf::judge(&both, &specs).await.expect("a verdict");
    let error = verdict.error.expect("an error");
    assert!(error.contains("contradicting") && error.contains("quay.io/team/app"), "{error}");
}

/// Processes that were started by the one with this id.
fn children(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").expect("processes").flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.filter(|id| status_of(*id).is_some_and(|(_, found)| found == parent)).collect()
}

fn is_alive(id: u32) -> bool {
    status_of(id).is_some_and(|(state, _)| state != "Z")
}

/// State and parent of a process, as `/proc/<id>/stat` has them after the name.
fn status_of(id: u32) -> Option<(String, u32)> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}

#[tokio::test]
async fn nothing_outlives_a_harness_that_is_killed() {
    let run = RunFolder::create("harness").expect("a folder");
    let target = target_folder();
    let program = Program::new("harness", env!("CARGO_BIN_EXE_e2e"))
        .arg("up")
        .env("CARGO_TARGET_DIR", &target.display().to_string())
        .env("IMAGESET_MIRROR_CACHE", &tools::cache().expect("a cache").display().to_string())
        .env("HOME", &run.path().display().to_string());
    let mut harness = Process::spawn(&program, &run.logs()).expect("it starts");
    let output = harness.stdout().to_owned();
    let kubeconfig = harness
        .ready(LONG, || async {
            let text = fs::read_to_string(&output)?;
            let line = text.lines().find_map(|line| line.strip_prefix("export KUBECONFIG="));
            Ok(line.map(PathBuf::from).filter(|_| text.contains("Ctrl-C")))
        })
        .await
        .expect("it comes up");
    let client = client_of(&kubeconfig).await.expect("a client");
    let server = fs::read_to_string(&kubeconfig).expect("a kubeconfig");
    let server = server.lines().find_map(|line| line.trim().strip_prefix("server: https://")).expect("a server");
    client.apiserver_version().await.expect("the cluster is there");

    // The servers are in process groups of their own: what ends them is the watchdog.
    let begun = children(harness.id());
    assert!(begun.len() >= 5, "etcd, two of Kubernetes, two registries: {begun:?}");
    harness.kill();
    let folder = kubeconfig.parent().expect("a folder");
    eventually(LONG, "the servers to be killed and their folder removed", || async {
        let refused = std::net::TcpStream::connect(server).is_err();
        let left: Vec<u32> = begun.iter().copied().filter(|id| is_alive(*id)).collect();
        anyhow::ensure!(left.is_empty(), "{left:?} run");
        Ok((refused && !folder.exists()).then_some(()))
    })
    .await
    .expect("nothing is left");
}

#[tokio::test]
async fn permissions_are_compared_with_what_was_asked() {
    let cluster = Cluster::start_with(&[]).await.expect("the cluster starts");
    let role = "
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader, namespace: default}
rules:
- {apiGroups: [''], resources: [configmaps, pods/log], verbs: [list, get]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reader, namespace: default}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects:
- {kind: ServiceAccount, name: default, namespace: default}
";
    cluster.apply(role).await.expect("a role");
    let config = cluster.service_account_kubeconfig("default", "default").await.expect("a token");
    let config = config.display().to_string();
    eventually(SHORT, "the role to count", || async {
        let asked = cluster.kubectl(&["--kubeconfig", &config, "get", "configmaps"]).await?;
        Ok(asked.success().then_some(()))
    })
    .await
    .expect("the account may list");
    let grants = rbac::grants(&cluster, "default", "default").await.expect("grants");
    assert_eq!(grants.len(), 4, "{grants:#?}");
    let events = cluster.audit().expect("audit");
    let events: Vec<_> = events.into_iter().filter(|event| event.is_by("default", "default")).collect();
    let unused: Vec<String> = rbac::unused(&grants, &events).into_iter().map(ToString::to_string).collect();
    let expected = ["get configmaps", "get pods/log", "list pods/log"];
    assert_eq!(unused, expected.map(|what| format!("{what} in default (role reader)")));
}
