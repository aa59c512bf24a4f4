//! Helm charts: from repositories of both kinds to charts in the target that install, and the images that they need.

use std::path::Path;
use std::process::{Command, Stdio};

use e2e::chart::helm;
use e2e::chart_repository::{ChartRepository, ChartSpec, replace};
use e2e::image::{ImageSpec, docker_config};
use e2e::interruption::walk_every_tag;
use e2e::mirror_sets::{Kind, owned};
use e2e::operator::{Overrides, binary};
use e2e::process::RunFolder;
use e2e::registry::{Options, Registry, login};
use e2e::tools::{self, Tool};
use e2e::wait::{LONG, until, until_ready};
use e2e::world::World;
use flate2::Compression;
use flate2::write::GzEncoder;
use k8s_openapi::api::apps::v1::DaemonSet;
use kube::api::Api;
use serde_json::{Value, json};

/// A workload of a kind whose pods lie at this place.
fn workload(kind: &str, version: &str, image: &str) -> String {
    let pod = format!(
        "{{metadata: {{labels: {{app: a}}}}, spec: {{restartPolicy: Never, containers: [{{name: a, image: \"{image}\"}}]}}}}"
    );
    let spec = match kind {
        "CronJob" => format!("{{schedule: \"* * * * *\", jobTemplate: {{spec: {{template: {pod}}}}}}}"),
        "Job" => format!("{{template: {pod}}}"),
        _ => {
            format!("{{selector: {{matchLabels: {{app: a}}}}, template: {pod}}}").replace("restartPolicy: Never, ", "")
        }
    };
    format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: {}}}\nspec: {spec}\n", kind.to_lowercase())
}

/// A chart with two workloads, an image in a custom resource, and a subchart that its values switch on.
fn web(host: &str, version: &str) -> ChartSpec {
    ChartSpec::new("web", version)
        .with("dependencies:\n- {name: cache, version: 1.0.0, condition: cache.enabled}")
        .file("values.yaml", "cache: {enabled: false}\n")
        .file("charts/cache/Chart.yaml", "apiVersion: v2\nname: cache\nversion: 1.0.0\n")
        .file("charts/cache/templates/a.yaml", &workload("Deployment", "apps/v1", &format!("{host}/team/cache:1")))
        .template(
            "deployment.yaml",
            &workload(
                "DaemonSet",
                "apps/v1",
                &format!("{host}/team/web:{{{{ .Chart.Version | replace \"+\" \"_\" }}}}"),
            ),
        )
        .template("cron.yaml", &workload("CronJob", "batch/v1", &format!("{host}/team/cron:1")))
        .template(
            "hook.yaml",
            &workload("Job", "batch/v1", &format!("{host}/team/hook:1"))
                .replace("{name: job}", "{name: job, annotations: {helm.sh/hook: pre-install}}"),
        )
        .template(
            "config.yaml",
            &format!(
                "kind: ConfigMap\napiVersion: v1\nmetadata: {{name: c}}\ndata: {{sidecar: \"{host}/team/sidecar:1\"}}\n"
            ),
        )
}

const IMAGES: [&str; 5] = ["cache:1", "cron:1", "hook:1", "sidecar:1", "other:1"];

async fn fill(registry: &e2e::image::Remote, versions: &[&str]) {
    let tags = IMAGES.iter().map(|image| (*image).to_owned()).chain(versions.iter().map(|tag| format!("web:{tag}")));
    for (seed, image) in tags.enumerate() {
        let (name, tag) = image.split_once(':').expect("a tag");
        registry.push_image(&format!("team/{name}"), tag, ImageSpec::seeded(seed as u64)).await.expect("an image");
    }
}

fn helm_program() -> String {
    tokio::task::block_in_place(|| tools::ensure(Tool::Helm)).expect("helm").display().to_string()
}

/// What `mirror` did.
struct Ran {
    code: Option<i32>,
    said: String,
}

/// Two registries, a repository of charts and a folder.
struct Desk {
    source: Registry,
    target: Registry,
    charts: ChartRepository,
    run: RunFolder,
    auth: String,
}

impl Desk {
    async fn start() -> Self {
        let (source, target) = (Options::distribution("source"), Options::distribution("target"));
        let (source, target) = tokio::try_join!(source.start(), target.start()).expect("the registries start");
        let reader = login("reader", "charts-password");
        let charts = ChartRepository::start(Some(reader.clone())).expect("a repository");
        let run = RunFolder::create("charts").expect("a folder");
        let auth = run.write("auth.json", docker_config(&[(charts.host(), &reader)])).expect("a file");
        Self { source, target, charts, run, auth: auth.display().to_string() }
    }

    fn object(&self, repositories: &Value) -> Value {
        json!({
            "apiVersion": "mirror.openshift.io/v1alpha1", "kind": "ImageSetMirror", "metadata": {"name": "charts"},
            "spec": {
                "mirror": {"helm": {"repositories": repositories}},
                "source": {"hosts": [{"host": self.source.host(), "tls": "Plain"}]},
                "target": {"registry": self.target.host(), "pathPrefix": "mirror", "tls": "Plain"},
            },
        })
    }

    async fn run(&self, object: &Value, args: &[&str]) -> Ran {
        let file = self.run.write("charts.yaml", object.to_string()).expect("a file").display().to_string();
        let mut command = Command::new(binary().expect("the binary"));
        command.arg(args[0]).args(["-f", &file, "--authfile", &self.auth]).args(&args[1..]);
        command.env_clear().env("HOME", self.run.path()).env("IMAGESET_MIRROR_HELM", helm_program());
        command.stdin(Stdio::null());
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("it runs").expect("it starts");
        let said = [output.stdout, output.stderr].concat();
        Ran { code: output.status.code(), said: String::from_utf8(said).expect("UTF-8") }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn charts_of_both_kinds_of_repositories_and_their_images_are_in_the_target_and_render_from_there() {
    let desk = Desk::start().await;
    let host = desk.source.host();
    fill(&desk.source.remote().expect("a client"), &["1.2.0", "1.10.0_build.1", "2.0.0-rc.1"]).await;
    tokio::task::block_in_place(|| {
        let versions = ["1.2.0", "1.10.0+build.1", "2.0.0-rc.1"].map(|version| web(&host, version));
        desk.charts.add("stable", &versions).expect("charts");
        let other = ChartSpec::new("other", "0.1.0")
            .template("a.yaml", &workload("Job", "batch/v1", &format!("{host}/team/other:1")));
        let archive = other.package(desk.run.path()).expect("a chart").display().to_string();
        helm(None, &["push", &archive, &format!("oci://{host}/charts"), "--plain-http"])
            .expect("helm")
            .ok()
            .expect("pushed");
    });
    let object = desk.object(&json!([
        {"name": "acme", "url": desk.charts.url("stable"), "charts": [
            {"name": "web", "values": {"cache": {"enabled": true}}, "imagePaths": ["{.data.sidecar}"]},
            {"name": "web", "version": "~1.2"},
        ]},
        {"name": "registry", "url": format!("oci://{host}/charts"), "charts": [{"name": "other", "version": ">=0.1"}]},
    ]));
    let ran = desk.run(&object, &["plan", "-o", "mapping"]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.said);
    let target = desk.target.remote().expect("a client");
    assert_eq!(target.repositories().await.expect("a list"), [""; 0]);

    let ran = desk.run(&object, &["mirror"]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.said);
    for (repository, tags) in [
        ("mirror/charts/acme/web", &["1.10.0_build.1", "1.2.0"][..]),
        ("mirror/charts/registry/other", &["0.1.0"]),
        ("mirror/team/web", &["1.10.0_build.1", "1.2.0"]),
        ("mirror/team/cache", &["1"]),
        ("mirror/team/cron", &["1"]),
        ("mirror/team/hook", &["1"]),
        ("mirror/team/sidecar", &["1"]),
        ("mirror/team/other", &["1"]),
    ] {
        assert_eq!(target.tags(repository).await.expect("tags"), tags, "{repository}");
    }
    walk_every_tag(&target).await.expect("every tag is whole");
    let source = desk.source.remote().expect("a client");
    assert_eq!(
        target.digest("mirror/charts/registry/other", "0.1.0").await.expect("it"),
        source.digest("charts/other", "0.1.0").await.expect("it"),
    );

    // Helm finds there what was in the repository, byte for byte.
    let chart = format!("oci://{}/mirror/charts/acme/web", desk.target.host());
    let pulled = desk.run.folder("pulled").expect("a folder");
    tokio::task::block_in_place(|| {
        let into = pulled.display().to_string();
        let pull = ["pull", &chart, "--version", "1.10.0+build.1", "--plain-http", "--destination", &into];
        helm(None, &pull).expect("helm").ok().expect("pulled");
        let template = ["template", "a", &chart, "--version", "~1.2", "--plain-http"];
        let rendered = helm(None, &template).expect("helm").ok().expect("rendered");
        assert!(rendered.contains(&format!("{host}/team/web:1.2.0")), "{rendered}");
    });
    let original = std::fs::read(desk.charts.folder("stable").expect("a folder").join("web-1.10.0+build.1.tgz"));
    let arrived = std::fs::read_dir(&pulled).expect("a folder").next().expect("an archive").expect("an entry").path();
    assert_eq!(std::fs::read(arrived).expect("an archive"), original.expect("an archive"));

    let mark = desk.target.mark().await.expect("the log");
    let ran = desk.run(&object, &["mirror"]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.said);
    let since = desk.target.requests_since(mark).await.expect("the log");
    assert!(since.iter().all(|request| !request.is_write()), "{since:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_with_charts_becomes_ready_and_they_install_from_the_target() {
    let world = World::start().await.expect("the world starts");
    fill(&world.source().expect("a client"), &["1.0.0"]).await;
    let charts = ChartRepository::start(None).expect("a repository");
    tokio::task::block_in_place(|| charts.add("stable", &[web(&world.source_host, "1.0.0")])).expect("charts");
    let _operator = world
        .operator_with(&Overrides::default().env("IMAGESET_MIRROR_HELM", &helm_program()))
        .await
        .expect("the operator starts");
    let mut object = world.image_set_mirror(world.namespace(), "charts", &[]);
    object["spec"]["mirror"] =
        json!({"helm": {"repositories": [{"name": "acme", "url": charts.url("stable"), "charts": [{"name": "web"}]}]}});
    object["spec"]["clusterResources"] = json!({"imageTagMirrorSet": {"policy": "Apply"}, "disruption": "AllowDrain"});
    world.apply(&object).await.expect("accepted");
    let api = world.mirrors(world.namespace()).await.expect("a client");
    let ready = until_ready(&api, "charts", LONG).await.expect("Ready");
    assert_eq!(ready.data.pointer("/status/plan/byOrigin/helm"), Some(&json!(4)), "{:#}", ready.data["status"]);
    let target = world.target().expect("a client");
    assert_eq!(target.tags("charts/acme/web").await.expect("tags"), ["1.0.0"]);
    walk_every_tag(&target).await.expect("every tag is whole");
    let rules = owned(&world.cluster, Kind::Tag, world.namespace(), "charts").await.expect("a list");
    let text = rules[0].data.to_string();
    assert!(text.contains(&format!("{}/team", world.source_host)) && !text.contains("/charts/acme"), "{text}");

    let ca = tempfile::tempdir().expect("a folder");
    let ca = ca.path().join("ca.pem");
    std::fs::create_dir_all(ca.parent().expect("a folder")).expect("a folder");
    std::fs::write(&ca, world.target.ca_pem().expect("a certificate")).expect("a file");
    let (chart, ca) = (format!("oci://{}/charts/acme/web", world.target_host), ca.display().to_string());
    let login = ["--username", "pusher", "--password", "target-password", "--ca-file", &ca];
    // Without a node the hook would never end.
    let install =
        [&["install", "web", &chart, "--version", "1.0.0", "--no-hooks", "--namespace", "default"][..], &login]
            .concat();
    let said =
        tokio::task::block_in_place(|| helm(Some(&world.cluster), &install)).expect("helm").ok().expect("installed");
    assert!(said.contains("STATUS: deployed"), "{said}");
    let client = world.cluster.client().await.expect("a client");
    let workload: Api<DaemonSet> = Api::namespaced(client, "default");
    let workload = workload.get("daemonset").await.expect("it is installed");
    let image = workload.spec.expect("a spec").template.spec.expect("pods").containers[0].image.clone();
    assert_eq!(image, Some(format!("{}/team/web:1.0.0", world.source_host)));

    // A chart that is gone takes nothing away, and says what is wrong.
    let index = charts.folder("stable").expect("a folder").join("index.yaml");
    replace(&index, "name: web\n", "name: web\n    deprecated: true\n").expect("an index");
    let version = json!({"spec": {"mirror": {"helm": {"repositories": [{"name": "acme", "url": charts.url("stable"),
        "charts": [{"name": "web"}, {"name": "web", "version": "^9"}]}]}}}});
    e2e::interruption::patch(&api, "charts", &version).await.expect("accepted");
    let object =
        until(&api, "charts", LONG, "failed", |object| object.data.pointer("/status/failures/0/message").is_some())
            .await
            .expect("failed");
    let failures = object.data["status"]["failures"].to_string();
    assert!(
        failures.contains("no version of the chart `web` is `^9`") && failures.contains("SourceNotFound"),
        "{failures}"
    );
    assert_eq!(target.tags("charts/acme/web").await.expect("tags"), ["1.0.0"]);
}

/// An archive with these entries: files, or links if there is a target.
fn archive(path: &Path, entries: &[(&str, &str, Option<&str>)]) {
    let encoder = GzEncoder::new(std::fs::File::create(path).expect("a file"), Compression::fast());
    let mut builder = tar::Builder::new(encoder);
    for (name, content, link) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        if let Some(link) = link {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            builder.append_link(&mut header, name, link).expect("a link");
        } else {
            header.set_size(content.len() as u64);
            builder.append_data(&mut header, name, content.as_bytes()).expect("a file");
        }
    }
    builder.into_inner().expect("an archive").finish().expect("an archive");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_chart_is_told_and_takes_nothing_else_away() {
    let desk = Desk::start().await;
    let host = desk.source.host();
    fill(&desk.source.remote().expect("a client"), &[]).await;
    let put = |folder: &str, name: &str, content: &[u8]| {
        std::fs::write(desk.charts.folder(folder).expect("a folder").join(name), content).expect("a file");
    };
    tokio::task::block_in_place(|| {
        let good = ChartSpec::new("good", "1.0.0")
            .template("a.yaml", &workload("Job", "batch/v1", &format!("{host}/team/other:1")));
        let folder = desk.charts.folder("charts").expect("a folder");
        let chart = "apiVersion: v2\nname: linked\nversion: 1.0.0\n";
        archive(
            &folder.join("linked-1.0.0.tgz"),
            &[("linked/Chart.yaml", chart, None), ("linked/values.yaml", "", Some("../../../etc/passwd"))],
        );
        let chart = "apiVersion: v2\nname: lonely\nversion: 1.0.0\ndependencies:\n- {name: friend, version: 1.0.0, repository: \"https://friends.test\"}\n";
        archive(&folder.join("lonely-1.0.0.tgz"), &[("lonely/Chart.yaml", chart, None)]);
        let charts = [
            good,
            ChartSpec::new("broken", "1.0.0").template("a.yaml", "a: {{ .Values.x | nosuchfunction }}\n"),
            ChartSpec::new("wanting", "1.0.0")
                .template("a.yaml", "a: {{ required \"a name is needed\" .Values.name }}\n"),
            ChartSpec::new("loud", "1.0.0")
                // Little more than may be, so that helm has no need of much memory for it.
                .template("a.yaml", "{{ range until 9 }}\n---\na: {{ repeat 2800000 \"x\" }}\n{{ end }}\n"),
            ChartSpec::new("hungry", "1.0.0").template("a.yaml", "{{ range until 100000000 }}{{ end }}\na: b\n"),
            ChartSpec::new("changed", "1.0.0"),
            ChartSpec::new("foreign", "1.0.0").template(
                "a.yaml",
                "apiVersion: elsewhere.test/v1\nkind: Thing\nmetadata: {name: a, annotations: {helm.sh/hook: test}}\n",
            ),
        ];
        desk.charts.add("charts", &charts).expect("charts");
    });
    put("charts", "changed-1.0.0.tgz", b"something else");
    put("page", "index.yaml", b"<!DOCTYPE html><html><body>Sign in</body></html>");
    put("torn", "index.yaml", b"apiVersion: v1\nentries:\n  web:\n  - version: [1\n");
    let names = ["good", "broken", "wanting", "loud", "hungry", "changed", "foreign", "linked", "lonely", "absent"];
    let charts: Vec<_> = names.iter().map(|name| json!({"name": name})).collect();
    let one = json!([{"name": "web"}]);
    let object = desk.object(&json!([
        {"name": "charts", "url": desk.charts.url("charts"), "charts": charts},
        {"name": "page", "url": desk.charts.url("page"), "charts": one},
        {"name": "torn", "url": desk.charts.url("torn"), "charts": one},
        {"name": "nowhere", "url": desk.charts.url("nowhere"), "charts": one},
        {"name": "image", "url": format!("oci://{host}/team"), "charts": [{"name": "other", "version": "1.0.0"}, {"name": "hook"}]},
    ]));
    let source = desk.source.remote().expect("a client");
    source.push_image("team/other", "1.0.0", ImageSpec::seeded(9)).await.expect("an image");
    let ran = desk.run(&object, &["mirror"]).await;
    assert_eq!(ran.code, Some(1), "{}", ran.said);
    for text in [
        "function \"nosuchfunction\" not defined",
        "a name is needed",
        "it renders to more than 24 MiB",
        "rendering it takes more than 320 MiB of memory",
        "it was changed after it was listed",
        "`linked/values.yaml` is a link to `../../../etc/passwd`, which lies outside of the chart",
        "missing in charts/ directory: friend",
        "there is no chart `absent` in the index of `charts`",
        "it is a page and not an index",
        "the index of `torn` cannot be read where it lists `web`",
        "there is no index of charts at",
        "it is an image; charts have a config of their own type",
    ] {
        assert!(ran.said.contains(text), "{text}: {}", ran.said);
    }
    let target = desk.target.remote().expect("a client");
    let mut repositories = target.repositories().await.expect("a list");
    repositories.retain(|name| !name.ends_with("/state"));
    assert_eq!(repositories, ["mirror/charts/charts/foreign", "mirror/charts/charts/good", "mirror/team/other"]);
}
