//! Catalogs of operators, judged by the real `opm`, by OLM's questions over the wire, and by catalogd's way to read them.

use std::process::{Command, Stdio};

use e2e::catalog::{Catalog, HOST, LEFTOVER, Made, Package, Twist, WITHDRAWN, chain, entry};
use e2e::cluster::OpenShiftKind;
use e2e::gpg::Signer;
use e2e::image::{Flavour, Remote};
use e2e::interruption::{patch, walk_every_tag};
use e2e::operator::{binary, repository};
use e2e::opm::{self, Access, CatalogImage, Document};
use e2e::process::RunFolder;
use e2e::proxy::Proxy;
use e2e::registry::{LoggedRequest, Options, Registry};
use e2e::tools::say;
use e2e::upstream::Upstream;
use e2e::wait::{LONG, until_ready, until_reason};
use e2e::world::{Setup, World, config_map};
use serde_json::{Value, json};

const INDEX: &str = "redhat/redhat-operator-index";
const CERTIFIED: &str = "redhat/certified-operator-index";
/// The first in the target.
const MIRRORED: &str = "m/redhat/redhat-operator-index";

/// Two packages: several channels, skips, a range and deprecations; JSON and YAML.
fn packages() -> [Package; 2] {
    let candidate = [
        entry("1.0.0"),
        entry("1.1.0").replaces("1.0.0"),
        entry("1.1.1").replaces("1.0.0").skips("1.1.0").skip_range(">=1.0.0 <1.1.1"),
        entry("2.0.0").replaces("1.1.1"),
    ];
    [
        Package::new("web")
            .channel("stable", chain(&["1.0.0", "1.1.0", "1.2.0"]))
            .channel("fast", chain(&["1.2.0", "2.0.0"]))
            .deprecates_channel("fast", "use stable"),
        Package::new("data").yaml().channel("candidate", candidate).deprecates("1.0.0", "too old"),
    ]
}

const ENTRIES: [&str; 9] = [
    "data/candidate/data.v1.0.0",
    "data/candidate/data.v1.1.0",
    "data/candidate/data.v1.1.1",
    "data/candidate/data.v2.0.0",
    "web/fast/web.v1.2.0",
    "web/fast/web.v2.0.0",
    "web/stable/web.v1.0.0",
    "web/stable/web.v1.1.0",
    "web/stable/web.v1.2.0",
];

/// Whether images of catalogs can be run here; says so if not.
fn can_serve(scenario: &str) -> bool {
    opm::available().map_err(|why| say(&format!("SKIPPED: catalogs_are_served::{scenario}, since {why}"))).is_ok()
}

#[tokio::test]
async fn what_the_world_offers_is_served_and_read_as_it_was_meant() {
    if !can_serve("what_the_world_offers") {
        return;
    }
    let registry = Options::distribution("source").start().await.expect("a registry");
    let remote = registry.remote().expect("a client");
    let single = Catalog { architectures: vec!["amd64"], flavour: Flavour::Oci, ..Catalog::of(packages()) };
    let made = Catalog::of(packages()).push(&remote, INDEX, "v4.18").await.expect("an index");
    single.push(&remote, INDEX, "single").await.expect("an image");
    for (tag, architectures) in [("v4.18", ["amd64", "arm64", "s390x"].as_slice()), ("single", &["amd64"])] {
        for architecture in architectures {
            let image = CatalogImage::pull(&remote, INDEX, tag, architecture).await.expect("it is there");
            image.validate().await.expect("opm takes it");
            let documents = image.as_catalogd().await.expect("catalogd takes it");
            let hidden = [WITHDRAWN, LEFTOVER];
            assert!(documents.iter().all(|it| !hidden.contains(&it.name.as_str())), "{documents:?}");
            // Two packages, three channels, eight bundles, two deprecations, and a document of none.
            assert_eq!(documents.len(), 2 + 3 + 8 + 2 + 1, "{documents:#?}");
        }
        let image = CatalogImage::pull(&remote, INDEX, tag, "amd64").await.expect("it is there");
        let served = image.serve(Access::Writable).await.expect("it serves");
        assert_eq!(served.entries(), ENTRIES);
        // Its cache is hidden by the fresh /tmp, and nothing may take its place.
        let error = format!("{:#}", image.serve(Access::ReadOnly).await.expect_err("it does not serve"));
        assert!(error.contains("integrity check failed"), "{error}");
        assert_eq!(served.packages.keys().collect::<Vec<_>>(), ["data", "web"]);
        for bundle in &served.bundles {
            assert_eq!(bundle.image, made.bundles[&bundle.name][0]);
        }
    }
    // Every image that is listed is there.
    for image in made.bundles.values().flatten() {
        let (repository, reference) = split(image);
        remote.walk(repository, reference).await.expect("it is whole");
    }
}

#[tokio::test]
async fn the_judges_refuse_what_no_cluster_could_use() {
    let registry = Options::distribution("source").start().await.expect("a registry");
    let remote = registry.remote().expect("a client");
    for (twist, said) in [
        (Twist::NoLabel, "no label"),
        (Twist::Database, "no label"),
        (Twist::Unparsable("web"), "EOF"),
        (Twist::TwoHeads, "multiple channel heads"),
        (Twist::Cycle, "no channel head"),
        (Twist::Twice, "duplicate bundle"),
        (Twist::NoImage, "image"),
    ] {
        let catalog = Catalog { architectures: vec!["amd64"], ..Catalog::of(packages()).twisted(twist) };
        catalog.push(&remote, INDEX, "twisted").await.expect("an image");
        let image = CatalogImage::pull(&remote, INDEX, "twisted", "amd64").await.expect("it is there");
        let error = format!("{:#}", image.validate().await.expect_err("opm refuses it"));
        assert!(error.contains(said), "{twist:?}: {error}");
    }
}

/// Two registries and a command line between them.
struct Ways {
    source: Registry,
    target: Registry,
    run: RunFolder,
}

/// What a command did.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    /// What it tells machines.
    report: Value,
}

impl Ways {
    async fn start() -> Self {
        let (source, target) = (Options::distribution("source"), Options::distribution("target"));
        let (source, target) = tokio::try_join!(source.start(), target.start()).expect("the registries start");
        Self { source, target, run: RunFolder::create("catalogs").expect("a folder") }
    }

    fn remotes(&self) -> (Remote, Remote) {
        (self.source.remote().expect("a client"), self.target.remote().expect("a client"))
    }

    /// `mirror` of these entries from `source`, which stands for Red Hat's registry, to below `prefix`.
    fn command(&self, operators: &Value, source: &str, prefix: &str) -> Command {
        let content = json!({
            "apiVersion": "mirror.openshift.io/v2alpha1", "kind": "ImageSetConfiguration", "mirror": {"operators": operators},
        });
        let file = self.run.write("imageset.yaml", content.to_string()).expect("a file");
        let mut command = Command::new(binary().expect("the binary"));
        command.args(["mirror", "-f"]).arg(file).args(["--to", &format!("{}/{prefix}", self.target.host())]);
        command.args(["--override", &format!("{HOST}={source}")]);
        command.args([source, &self.target.host()].map(|host| format!("--tls={host}=plain")));
        command.env_clear().env("HOME", self.run.path()).stdin(Stdio::null());
        command
    }

    async fn mirror(&self, operators: &Value) -> Ran {
        let mut command = self.command(operators, &self.source.host(), "m");
        command.args(["--output", "json"]);
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("it runs").expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr);
        let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
        Ran { code: output.status.code(), report }
    }
}

/// The repository and the tag or digest of an image below [`HOST`].
fn split(image: &str) -> (&str, &str) {
    let name = image.strip_prefix(HOST).and_then(|rest| rest.strip_prefix('/')).expect("the host");
    name.split_once('@').or_else(|| name.split_once(':')).expect("a reference")
}

/// The tag of an image in the target.
fn tag_of(reference: &str) -> String {
    reference.replace("sha256:", "sha256-")
}

/// Some of both packages.
fn selection() -> Value {
    let web = json!({"name": "web", "channels": [{"name": "stable", "minVersion": "1.1.0"}]});
    json!([{"catalog": format!("{HOST}/{INDEX}:v4.18"), "packages": [web, {"name": "data"}]}])
}

/// What the target serves of it.
const SELECTED: [&str; 3] = ["data/candidate/data.v2.0.0", "web/stable/web.v1.1.0", "web/stable/web.v1.2.0"];

/// The catalog that the target serves: judged by all who read it, on all platforms, and every image of it is there.
async fn judged(target: &Remote, made: &Made, entries: &[&str]) {
    for architecture in ["amd64", "arm64", "s390x"] {
        let image = CatalogImage::pull(target, MIRRORED, "v4.18", architecture).await.expect("it is there");
        image.validate().await.expect("opm takes it");
        let documents = image.as_catalogd().await.expect("catalogd takes it");
        let mut bundles: Vec<_> =
            documents.iter().filter(|it| it.schema == "olm.bundle").map(|it| it.name.as_str()).collect();
        let mut expected: Vec<_> = entries.iter().filter_map(|entry| entry.rsplit('/').next()).collect();
        bundles.sort_unstable();
        expected.sort_unstable();
        assert_eq!(bundles, expected, "{architecture}");
        assert!(documents.iter().all(|it| ![WITHDRAWN, LEFTOVER].contains(&it.name.as_str())), "{documents:?}");
        if architecture != "amd64" || opm::available().is_err() {
            continue;
        }
        for access in [Access::Writable, Access::ReadOnly] {
            let served = image.serve(access).await.expect("it serves");
            assert_eq!(served.entries(), entries, "{access:?}");
            for bundle in &served.bundles {
                assert_eq!(bundle.image, made.bundles[&bundle.name][0]);
            }
        }
    }
    complete(target, "m/", made, entries).await;
}

/// Every image of these entries is in the target, whole.
async fn complete(target: &Remote, prefix: &str, made: &Made, entries: &[&str]) {
    for image in entries.iter().filter_map(|entry| entry.rsplit('/').next()).flat_map(|bundle| &made.bundles[bundle]) {
        let (repository, reference) = split(image);
        let (repository, tag) = (format!("{prefix}{repository}"), tag_of(reference));
        let found = target.walk(&repository, &tag).await.unwrap_or_else(|error| panic!("{image}: {error:#}"));
        assert!(!reference.starts_with("sha256:") || found.root == reference, "{image} is {}", found.root);
    }
}

/// Requests of a repository.
fn of_catalog(requests: Vec<LoggedRequest>, repository: &str) -> Vec<LoggedRequest> {
    let below = format!("/v2/{repository}/");
    requests.into_iter().filter(|request| request.path.starts_with(&below)).collect()
}

#[tokio::test]
async fn what_is_selected_is_served_on_every_platform_with_all_its_images_and_the_second_run_writes_nothing() {
    can_serve("what_is_selected");
    let ways = Ways::start().await;
    let (source, target) = ways.remotes();
    let made = Catalog::of(packages()).push(&source, INDEX, "v4.18").await.expect("a catalog");
    let ran = ways.mirror(&selection()).await;
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    let mut blobs: Vec<_> = of_catalog(ways.source.requests().await.expect("the log"), INDEX)
        .into_iter()
        .filter(|request| request.method == "GET" && request.path.contains("/blobs/"))
        .map(|request| request.path)
        .collect();
    blobs.sort();
    let often = blobs.chunk_by(|one, other| one == other).find(|reads| reads.len() > 2);
    assert_eq!(often, None, "once to look into it and once to copy it");
    judged(&target, &made, &SELECTED).await;
    let repositories = target.repositories().await.expect("a list");
    assert!(!repositories.iter().any(|name| name.contains("fast") || name.contains("leftover")), "{repositories:?}");
    assert_eq!(target.tags("m/operators/web-tools").await.expect("tags"), ["v1.1.0", "v1.2.0"]);
    walk_every_tag(&target).await.expect("every tag is whole");

    let digest = target.digest(MIRRORED, "v4.18").await.expect("an answer");
    let marks = (ways.source.mark().await.expect("the log"), ways.target.mark().await.expect("the log"));
    let ran = ways.mirror(&selection()).await;
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    let written = ways.target.requests_since(marks.1).await.expect("the log");
    assert!(written.iter().all(|request| !request.is_write()), "{written:#?}");
    assert_eq!(target.digest(MIRRORED, "v4.18").await.expect("an answer"), digest);
    let asked = of_catalog(written, MIRRORED);
    assert_eq!(asked.len(), 1, "{asked:#?}");
    let read = ways.source.requests_since(marks.0).await.expect("the log");
    let asked: Vec<_> = of_catalog(read, INDEX).into_iter().map(|it| format!("{} {}", it.method, it.path)).collect();
    assert_eq!(asked, [format!("HEAD /v2/{INDEX}/manifests/v4.18")], "another process has nothing to read");
}

#[tokio::test]
async fn a_catalog_that_is_wanted_as_it_is_stays_as_it_is() {
    let ways = Ways::start().await;
    let (source, target) = ways.remotes();
    let made = Catalog::of(packages()).push(&source, INDEX, "v4.18").await.expect("a catalog");
    let whole = json!([{"catalog": format!("{HOST}/{INDEX}:v4.18"), "full": true}]);
    let ran = ways.mirror(&whole).await;
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    assert_eq!(target.digest(MIRRORED, "v4.18").await.expect("an answer"), Some(made.digest.clone()));
    complete(&target, "m/", &made, &ENTRIES).await;
}

#[tokio::test]
async fn a_bundle_without_its_image_is_left_out_as_long_as_nobody_was_promised_it() {
    can_serve("a_bundle_without_its_image");
    let ways = Ways::start().await;
    let (source, target) = ways.remotes();
    let made = Catalog::of(packages()).push(&source, INDEX, "v4.18").await.expect("a catalog");
    let (repository, digest) = split(&made.bundles["web.v1.2.0"][1]);
    let lost = source.manifest(repository, digest).await.expect("an answer").expect("it is there");
    let restore = || source.put_manifest_bytes(repository, "", &lost.media_type, lost.bytes.clone());

    source.delete_manifest(repository, digest).await.expect("it is gone");
    let ran = ways.mirror(&selection()).await;
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    let left_out = json!([{"bundle": "web/web.v1.2.0", "image": made.bundles["web.v1.2.0"][1]}]);
    assert_eq!(ran.report["catalogs"][0]["leftOut"], left_out, "{ran:#?}");
    assert_eq!(ran.report["catalogs"][0]["published"], true);
    judged(&target, &made, &SELECTED[..2]).await;

    restore().await.expect("it is back");
    let ran = ways.mirror(&selection()).await;
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    judged(&target, &made, &SELECTED).await;

    // Now it is served, and stays so.
    let served = target.digest(MIRRORED, "v4.18").await.expect("an answer");
    source.delete_manifest(repository, digest).await.expect("it is gone");
    target.delete_manifest(&format!("m/{repository}"), digest).await.expect("it is gone");
    let ran = ways.mirror(&selection()).await;
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    assert_eq!(target.digest(MIRRORED, "v4.18").await.expect("an answer"), served);
    restore().await.expect("it is back");
    let ran = ways.mirror(&selection()).await;
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    judged(&target, &made, &SELECTED).await;
}

#[tokio::test]
async fn a_catalog_that_is_not_right_never_takes_the_place_of_what_is_served() {
    let ways = Ways::start().await;
    let (source, target) = ways.remotes();
    let good = Catalog::of(packages());
    let made = good.push(&source, INDEX, "v4.18").await.expect("a catalog");
    let ran = ways.mirror(&selection()).await;
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    let served = target.digest(MIRRORED, "v4.18").await.expect("an answer");
    for (twist, said) in [
        (Twist::NoLabel, "no label"),
        (Twist::Database, "a database"),
        (Twist::Unparsable("web"), "web/more.json"),
        (Twist::TwoHeads, "web.v1."),
        (Twist::Cycle, "stable"),
        (Twist::Twice, "`web.v1.1.0` is there twice"),
        (Twist::NoImage, "web.v1.1.0"),
        (Twist::Link, "web/link.json"),
        (Twist::Traversal, "outside.json"),
    ] {
        good.clone().twisted(twist).push(&source, INDEX, "v4.18").await.expect("a catalog");
        let ran = ways.mirror(&selection()).await;
        assert_eq!(ran.code, Some(1), "{twist:?}: {ran:#?}");
        let unresolved = ran.report["unresolved"].to_string();
        assert!(unresolved.contains(said), "{twist:?}: {unresolved}");
        assert_eq!(target.digest(MIRRORED, "v4.18").await.expect("an answer"), served, "{twist:?}");
    }
    complete(&target, "m/", &made, &SELECTED).await;
}

#[tokio::test]
async fn what_is_wrong_with_what_nobody_wants_does_no_harm() {
    let ways = Ways::start().await;
    let (source, target) = ways.remotes();
    let other = Package::new("other").channel("stable", chain(&["1.0.0"]));
    let good = Catalog::of(packages().into_iter().chain([other.clone()]));
    let made = good.clone().twisted(Twist::Unparsable("other")).push(&source, INDEX, "v4.18").await.expect("a catalog");
    let ran = ways.mirror(&selection()).await;
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    let notes = ran.report["catalogs"][0]["notes"].to_string();
    assert!(notes.contains("other/more.json"), "{ran:#?}");
    judged(&target, &made, &SELECTED).await;

    // The first package is the twisted one.
    let good = Catalog::of(std::iter::once(other).chain(packages()));
    for twist in [Twist::TwoHeads, Twist::Cycle, Twist::Twice, Twist::NoImage] {
        good.clone().twisted(twist).push(&source, INDEX, "v4.18").await.expect("a catalog");
        let ran = ways.mirror(&selection()).await;
        assert_eq!(ran.code, Some(0), "{twist:?}: {ran:#?}");
    }
    judged(&target, &made, &SELECTED).await;
}

#[tokio::test]
async fn a_platform_that_is_broken_keeps_the_others_as_they_are_served() {
    let ways = Ways::start().await;
    let (source, target) = ways.remotes();
    let four = Catalog { architectures: vec!["amd64", "arm64", "ppc64le", "s390x"], ..Catalog::of(packages()) };
    let made = four.push(&source, INDEX, "v4.18").await.expect("a catalog");
    let ran = ways.mirror(&selection()).await;
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    let served = target.digest(MIRRORED, "v4.18").await.expect("an answer");

    // The content of one that is read, then the image of one that is not.
    four.clone().twisted(Twist::BrokenPlatform("amd64")).push(&source, INDEX, "v4.18").await.expect("a catalog");
    let ran = ways.mirror(&selection()).await;
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    assert!(ran.report["unresolved"].to_string().contains("layer"), "{ran:#?}");
    assert_eq!(target.digest(MIRRORED, "v4.18").await.expect("an answer"), served);
    // Another index: of the first one all is known.
    let turned = Catalog { architectures: vec!["arm64", "amd64", "ppc64le", "s390x"], ..four };
    let turned = turned.push(&source, INDEX, "v4.18").await.expect("a catalog");
    let index = source.manifest(INDEX, &turned.digest).await.expect("an answer").expect("it is there");
    let listed = index.json().expect("an index");
    let last = listed["manifests"][3]["digest"].as_str().expect("a digest");
    source.delete_manifest(INDEX, last).await.expect("it is gone");
    let selection = json!([{"catalog": format!("{HOST}/{INDEX}:v4.18"), "packages": [{"name": "data"}]}]);
    let ran = ways.mirror(&selection).await;
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    assert!(ran.report["unresolved"].to_string().contains(last), "{last} of {}: {ran:#?}", turned.digest);
    assert_eq!(target.digest(MIRRORED, "v4.18").await.expect("an answer"), served);
    judged(&target, &made, &SELECTED).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_catalog_in_the_target_never_lists_what_is_missing_whenever_the_copy_is_killed() {
    const TURNS: u64 = 20;
    let ways = Ways::start().await;
    let (source, target) = ways.remotes();
    let made = Catalog::of(packages()).push(&source, INDEX, "v4.18").await.expect("a catalog");
    let proxy = Proxy::start(&ways.source.host()).expect("a proxy");
    let start = |prefix: &str| {
        let mut command = ways.command(&selection(), &proxy.host(), prefix);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts")
    };
    // Once to its end: what is read in all.
    let before = proxy.bytes_to_client();
    assert!(tokio::task::block_in_place(|| start("turn-0").wait()).expect("it ends").success());
    let all = proxy.bytes_to_client() - before;

    let mut torn = 0;
    for turn in 1..=TURNS {
        let prefix = format!("turn-{turn}");
        proxy.hold_after(all * turn / (TURNS + 1));
        let mut copy = start(&prefix);
        proxy.until_held(LONG).await.expect("it is caught");
        copy.kill().expect("it is killed");
        copy.wait().expect("it is gone");
        proxy.cut();
        proxy.release();
        walk_every_tag(&target).await.expect("every tag is whole");
        if target.digest(&format!("{prefix}/{INDEX}"), "v4.18").await.expect("an answer").is_some() {
            complete(&target, &format!("{prefix}/"), &made, &SELECTED).await;
        } else {
            torn += 1;
        }
    }
    assert!(torn > 0, "no turn was cut off before the end");
}

/// A world on OpenShift with both OLMs, whose operator may write everything, and with a template for a `CatalogSource`.
async fn world_with_outputs() -> World {
    let world = World::start_with(Setup { kinds: OpenShiftKind::ALL.to_vec(), ..Setup::default() }).await;
    let world = world.expect("the world starts");
    let namespaces = ["openshift-config-managed", "openshift-marketplace", "openshift-update-service"];
    let namespaces =
        namespaces.map(|name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}));
    world.cluster.apply_all(&namespaces).await.expect("namespaces");
    let roles = repository().join("config/openshift").display().to_string();
    world.cluster.kubectl(&["apply", "-k", &roles]).await.expect("kubectl").ok().expect("the roles");
    let template =
        "apiVersion: operators.coreos.com/v1alpha1\nkind: CatalogSource\nspec: {displayName: Ours, priority: -5}\n";
    let template = config_map(world.namespace(), "index-template", "catalogsource.yaml", template);
    world.cluster.apply_all(&[template]).await.expect("a ConfigMap");
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_its_graph_two_catalogs_and_an_image_become_ready_once_the_last_of_all_is_there() {
    if let Some(why) = Signer::unavailable() {
        return say(&format!("SKIPPED: catalogs_are_served::a_release_its_graph, since {why}"));
    }
    let world = world_with_outputs().await;
    let cluster = &world.cluster;
    let signer = tokio::task::block_in_place(|| Signer::new("releases <releases@example.com>")).expect("a key");
    let upstream = Upstream::start(signer).expect("the services start");
    let keys = config_map(world.namespace(), "release-keys", "keys.asc", &upstream.public_key().expect("a key"));
    world.cluster.apply_all(&[keys]).await.expect("a ConfigMap");
    let (source, target) = (world.source().expect("a client"), world.target().expect("a client"));
    let releases = [upstream.release(&source, "4.18.1", &["etcd"]).await.expect("a release")];
    upstream.channel("stable-4.18", &releases.iter().collect::<Vec<_>>());
    upstream.base(&source).await.expect("a base");
    let [web, data] = packages();
    let whole = Catalog::of([web]).push(&source, INDEX, "v4.18").await.expect("a catalog");
    let other = Catalog { architectures: vec!["amd64"], ..Catalog::of([data]) };
    let torn = other.push(&source, CERTIFIED, "v4.18").await.expect("a catalog");
    let (repository, digest) = split(&torn.bundles["data.v2.0.0"][1]);
    let lost = source.manifest(repository, digest).await.expect("an answer").expect("it is there");
    source.delete_manifest(repository, digest).await.expect("it is gone");

    let mut object = world.image_set_mirror(world.namespace(), "all", &[]);
    let range = json!({"name": "web", "channels": [{"name": "stable", "minVersion": "1.1.0"}]});
    let all = json!({"name": "data", "minVersion": "1.1.1"});
    object["spec"]["mirror"] = json!({
        "platform": {"channels": [{"name": "stable-4.18"}], "graph": true},
        "operators": [
            {"catalog": format!("{HOST}/{INDEX}:v4.18"), "packages": [range], "targetCatalogSourceTemplate": "index-template"},
            {"catalog": format!("{HOST}/{CERTIFIED}:v4.18"), "packages": [all]},
        ],
        "additionalImages": [{"name": "registry.access.redhat.com/ubi9/ubi:latest"}],
    });
    upstream.named_in(&mut object, &world.source_host).expect("a source");
    object["spec"]["source"]["signatureKeys"] = json!({"name": "release-keys"});
    let apply = json!({"policy": "Apply"});
    object["spec"]["clusterResources"] = json!({
        "releaseSignatures": apply, "updateService": apply, "catalogSource": apply, "clusterCatalog": apply,
    });
    world.apply(&object).await.expect("accepted");
    let _operator = world.operator().await.expect("the operator starts");
    let api = world.mirrors(world.namespace()).await.expect("a client");
    let failed = until_reason(&api, "all", ("Ready", "False", "CopyFailed"), LONG).await.expect("all but one image");
    let resources = failed.data["status"]["resources"].as_array().expect("a list");
    let states: Vec<_> = resources.iter().map(|found| (&found["kind"], &found["name"], &found["state"])).collect();
    let catalogs = states.iter().filter(|(kind, _, state)| **kind == "ClusterCatalog" && **state == "Applied");
    assert_eq!(catalogs.count(), 2, "{states:?}: {}", failed.data["status"]["conditions"]);
    let failures = failed.data["status"]["failures"].to_string();
    assert!(failures.contains("SourceNotFound") && failures.contains(digest), "{failures}");
    let entries = |documents: Vec<Document>| -> Vec<_> {
        documents.into_iter().filter(|it| it.schema == "olm.bundle").map(|it| it.name).collect()
    };
    let served = async |repository: &str| {
        let image = CatalogImage::pull(&target, repository, "v4.18", "amd64").await.expect("it is there");
        image.validate().await.expect("opm takes it");
        entries(image.as_catalogd().await.expect("catalogd takes it"))
    };
    assert_eq!(served(INDEX).await, ["web.v1.1.0", "web.v1.2.0"]);
    assert_eq!(served(CERTIFIED).await, ["data.v1.1.1"]);
    complete(&target, "", &whole, &SELECTED[1..]).await;
    let get = async |kind: &str, namespace: &str, name: &str| -> Value {
        let args = ["get", kind, name, "--namespace", namespace, "--output", "json"];
        let text = cluster.kubectl(&args).await.expect("kubectl").ok().expect("it is there");
        serde_json::from_str(&text).expect("JSON")
    };
    let marketplace = "openshift-marketplace";
    let image = async |repository: &str| {
        let digest = target.digest(repository, "v4.18").await.expect("an answer").expect("it is there");
        format!("{}/{repository}@{digest}", world.target_host)
    };
    let of_index = get("catalogsource", marketplace, "cs-redhat-operator-index").await;
    let expected = json!({"sourceType": "grpc", "image": image(INDEX).await, "displayName": "Ours", "priority": -5});
    assert_eq!(of_index["spec"], expected);
    let short = get("catalogsource", marketplace, "cs-certified-operator-index").await;
    assert_eq!(short["spec"]["image"], json!(image(CERTIFIED).await));
    let listed = get("clustercatalog", "", "cc-redhat-operator-index").await;
    assert_eq!(listed["spec"]["source"]["image"]["ref"], json!(image(INDEX).await));
    let told = &failed.data["status"]["mirrored"]["catalogs"];
    let of = |index: usize| [&told[index]["published"], &told[index]["leftOut"], &told[index]["bundles"]];
    assert_eq!(of(0), [&json!(true), &Value::Null, &json!(2)]);
    assert_eq!(of(1), [&json!(true), &json!(1), &json!(1)]);
    assert!(told[1]["message"].as_str().is_some_and(|text| text.contains("without data/data.v2.0.0")), "{told}");

    source.put_manifest_bytes(repository, "", &lost.media_type, lost.bytes).await.expect("it is back");
    let request = json!({"metadata": {"annotations": {"mirror.openshift.io/requested-at": "again"}}});
    patch(&api, "all", &request).await.expect("accepted");
    let ready = until_ready(&api, "all", LONG).await.expect("Ready");
    assert_eq!(served(CERTIFIED).await, ["data.v1.1.1", "data.v2.0.0"]);
    let full = get("catalogsource", marketplace, "cs-certified-operator-index").await;
    assert_eq!(full["spec"]["image"], json!(image(CERTIFIED).await));
    assert_ne!(full["spec"]["image"], short["spec"]["image"]);
    // Nothing of the other has changed, so nothing of it is written.
    let untouched = get("catalogsource", marketplace, "cs-redhat-operator-index").await;
    assert_eq!(untouched["metadata"]["resourceVersion"], of_index["metadata"]["resourceVersion"]);
    let told = &ready.data["status"]["mirrored"]["catalogs"][1];
    assert_eq!((&told["published"], &told["leftOut"]), (&json!(true), &Value::Null));
    let service = get("updateservice", "openshift-update-service", "all").await;
    assert!(service["spec"]["graphDataImage"].as_str().is_some_and(|image| image.contains("/openshift/graph-image@")));
    let selector = "--selector=release.openshift.io/verification-signatures";
    let args = ["get", "configmap", "--namespace", "openshift-config-managed", selector, "--output", "json"];
    let signatures = cluster.kubectl(&args).await.expect("kubectl").ok().expect("a list");
    assert!(signatures.contains(&releases[0].digest.replace(':', "-")), "{signatures}");
    complete(&target, "", &torn, &["data.v1.1.1", "data.v2.0.0"]).await;
    walk_every_tag(&target).await.expect("every tag is whole");
}
