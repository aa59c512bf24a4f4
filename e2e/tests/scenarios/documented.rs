//! What the documents say is so: the list of what administrators check names tests that exist, commands and examples work, and
//! what is said to stay after uninstalling is what stays.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use e2e::chart::{self, NAME, folder, helm, objects, template};
use e2e::cluster::Cluster;
use e2e::image::ImageSpec;
use e2e::operator::{Operator, Overrides, parse_deployment, repository};
use e2e::readme::Script;
use e2e::registry::Options;
use e2e::wait::{LONG, SHORT, eventually, image_set_mirrors, until_ready};
use e2e::world::Setup;
use serde_json::{Value, json};

const LIST: &str = "config/acceptance.md";
const OPERATING: &str = "docs/operating.md";
const GITOPS: &str = "docs/gitops.md";

fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The cells of the rows of the tables below a heading.
fn rows(text: &str, heading: &str) -> Vec<Vec<String>> {
    let lines = text.lines().skip_while(|line| *line != heading).skip(1).take_while(|line| !line.starts_with("## "));
    let rows = lines.filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let rows = rows.map(|row| row.split(" | ").map(|cell| cell.trim().to_owned()).collect::<Vec<_>>());
    // Below each head there is a line of dashes.
    rows.collect::<Vec<_>>().into_iter().skip(2).collect()
}

/// What is in backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Every test of the repository, by the name of its file or folder.
fn tests() -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    let mut open = ["src", "tests", "e2e/src", "e2e/tests"].map(|folder| repository().join(folder)).to_vec();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(&path).expect("a folder").flatten().map(|entry| entry.path()));
        } else if path.extension().is_some_and(|end| end == "rs") {
            let name = |path: &Path| path.file_stem().expect("a name").to_string_lossy().into_owned();
            let places = [name(&path), path.parent().map(name).expect("a folder")];
            let text = fs::read_to_string(&path).expect("a source file");
            for function in functions(&text) {
                found.extend(places.clone().map(|place| (place, function.clone())));
            }
        }
    }
    found
}

/// The functions below `#[test]` and `#[tokio::test]`.
fn functions(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut marked = false;
    for line in text.lines().map(str::trim) {
        marked |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
        let name =
            line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ").and_then(|rest| rest.split_once('('));
        if let (true, Some((name, _))) = (marked, name) {
            found.push(name.to_owned());
            marked = false;
        }
    }
    found
}

#[test]
fn the_list_of_what_administrators_check_names_tests_and_commands_that_there_are() {
    let (list, tests, makefile) = (read(LIST), tests(), read("Makefile"));
    assert!(tests.len() > 500, "{} tests", tests.len());
    let rows: Vec<Vec<String>> =
        list.lines().filter(|line| line.starts_with("## ")).flat_map(|heading| rows(&list, heading)).collect();
    let numbers: Vec<usize> = rows.iter().map(|row| row[0].parse().expect("a number")).collect();
    assert_eq!(numbers, (1..=60).collect::<Vec<_>>());
    for row in &rows {
        let [number, _, shown] = row.as_slice() else { panic!("{row:?}") };
        let mut proofs = 0;
        for word in quoted(shown) {
            if let Some((place, test)) = word.split_once("::") {
                assert!(tests.contains(&(place.to_owned(), test.to_owned())), "{number}: there is no test {word}");
                proofs += 1;
            } else if let Some(target) = word.strip_prefix("make ") {
                assert!(makefile.contains(&format!("\n{target}:")), "{number}: there is no target {word}");
                proofs += 1;
            } else if word.starts_with("cargo run") {
                proofs += 1;
            }
        }
        assert!(proofs > 0 || shown.starts_with("Not shown: "), "{number}: neither a test nor a reason");
    }
    assert!(read("config/README.md").contains("(acceptance.md)"));
}

#[test]
fn every_reason_of_a_failure_is_explained() {
    let (source, page) = (read("src/failure.rs"), read(OPERATING));
    let list = source.split("pub enum Reason {").nth(1).and_then(|rest| rest.split("\n}").next()).expect("the list");
    let names: Vec<&str> = list
        .lines()
        .filter_map(|line| line.trim().strip_suffix(','))
        .filter(|name| name.chars().all(char::is_alphanumeric))
        .collect();
    assert!(names.len() > 20, "{names:?}");
    for name in names {
        assert!(page.contains(&format!("\n| `{name}` | ")), "{OPERATING} has no row for {name}");
    }
}

#[test]
fn every_page_that_is_named_is_there() {
    for page in ["README.md", "config/README.md", "config/argocd/README.md", OPERATING, GITOPS, LIST, "e2e/README.md"] {
        let folder = repository().join(page).parent().expect("a folder").to_owned();
        for link in read(page).split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            if file.contains("://") {
                continue;
            }
            let path = if file.is_empty() { repository().join(page) } else { folder.join(file) };
            assert!(path.exists(), "{page}: {link}");
            let anchors = |text: &str| -> BTreeSet<String> {
                let headings = text.lines().filter(|line| line.starts_with('#'));
                let plain = |line: &str| line.trim_start_matches(['#', ' ']).to_lowercase().replace(' ', "-");
                headings.map(|line| plain(line).replace([',', '.', '`', '?'], "")).collect()
            };
            let found = heading.is_empty() || anchors(&fs::read_to_string(&path).expect("a page")).contains(heading);
            assert!(found, "{page}: {link}");
        }
    }
}

#[test]
fn every_example_of_other_tools_is_yaml_and_names_what_there_is() {
    let text = read(GITOPS);
    let examples = text.split("```yaml\n").skip(1).map(|part| part.split("```").next().unwrap_or_default());
    let examples: Vec<Value> = examples.flat_map(|example| objects(example).expect("YAML")).collect();
    let kinds: Vec<&str> = examples.iter().filter_map(|object| object["kind"].as_str()).collect();
    assert_eq!(kinds, ["Kustomization", "Kustomization", "Policy"]);

    // The policy's template is filled in as its hub would do it.
    let policy = &examples[2]["spec"]["policy-templates"][0]["objectDefinition"];
    let raw = policy["spec"]["object-templates-raw"].as_str().expect("a text");
    let line = raw.lines().find(|line| line.contains("{{hub")).expect("a template");
    let words: Vec<&str> = line.split('"').skip(1).step_by(2).collect();
    let [namespace, map, key, cut, by] = words.as_slice() else { panic!("{line}") };
    let sample: Value = serde_yaml::from_str(&read("config/samples/additional-images.yaml")).expect("the sample");
    assert_eq!(*namespace, sample["metadata"]["namespace"]);
    assert_eq!(*map, format!("{}-manifests", sample["metadata"]["name"].as_str().expect("a name")));
    let snapshot = read("src/resources/tests/snapshots/imageset_mirror__resources__tests__decisions__manifests.snap");
    let published: Value = serde_yaml::from_str(snapshot.splitn(3, "---\n").nth(2).expect("a body")).expect("YAML");
    let published = published[*key].as_str().unwrap_or_else(|| panic!("no key {key}"));
    let indent = " ".repeat(line.len() - line.trim_start().len());
    let value = published.replace(&cut.replace("\\n", "\n"), by).replace('\n', &format!("\n{indent}"));
    let filled: Value = serde_yaml::from_str(&raw.replace(line.trim_start(), &value)).expect("YAML");
    assert_eq!(filled[0]["objectDefinition"]["kind"], "ImageDigestMirrorSet");
    assert!(filled[0]["objectDefinition"]["spec"]["imageDigestMirrors"][0]["source"].is_string());
}

#[test]
fn one_image_is_enough_and_one_value_moves_it() {
    let all = chart::value_sets().expect("value sets").into_iter().find(|(name, _)| name == "all").expect("all").1;
    let all = all.display().to_string();
    let moved = "--set=image.registry=mirror.example.com:5000";
    let text = template(NAME, &["--values", &all, moved]).expect("helm").ok().expect("it renders");
    let images: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.trim().trim_start_matches("- ").strip_prefix("image: "))
        .map(|image| image.trim_matches(['"', '\'']))
        .collect();
    assert_eq!(images.len(), 1, "{images:?}");
    assert!(images.iter().all(|image| image.starts_with("mirror.example.com:5000/")), "{images:?}");
}

#[test]
fn the_chart_renders_the_same_each_time_and_asks_no_cluster() {
    let render = || template(NAME, &[]).expect("helm").ok().expect("it renders");
    assert_eq!(render(), render());
    let folders = ["templates", "templates/tests"].map(|name| folder().join(name));
    let entries = folders.iter().flat_map(|folder| fs::read_dir(folder).expect("templates").flatten());
    for entry in entries.filter(|entry| entry.path().is_file()) {
        let text = fs::read_to_string(entry.path()).expect("a template");
        let actions = text.split("{{").skip(1).map(|part| part.split("}}").next().unwrap_or_default());
        for word in actions.flat_map(|action| action.split(|c: char| !c.is_alphanumeric())) {
            let changes = ["lookup", "now", "uuidv4", "genCA", "genPrivateKey", "genSelfSignedCert", "htpasswd"];
            assert!(!changes.contains(&word) && !word.starts_with("rand"), "{}: {word}", entry.path().display());
        }
    }
}

/// Every object of the cluster that stays until somebody deletes it, as `kind/name`.
async fn everything(cluster: &Cluster) -> BTreeSet<String> {
    let run = async |args: &[&str]| cluster.kubectl(args).await.expect("kubectl").ok().expect("an answer");
    let kinds = run(&["api-resources", "--verbs=list,delete", "-o", "name"]).await;
    // Events go by themselves, slices of addresses are those of a Service, and what serves a kind is that of its CRD.
    let passing =
        ["events", "events.events.k8s.io", "endpointslices.discovery.k8s.io", "apiservices.apiregistration.k8s.io"];
    let kinds: Vec<&str> = kinds.lines().filter(|kind| !passing.contains(kind)).collect();
    let listed = run(&["get", &kinds.join(","), "-A", "-o", "json"]).await;
    let listed: Value = serde_json::from_str(&listed).expect("a list");
    let name = |object: &Value| {
        format!(
            "{}/{}",
            object["kind"].as_str().unwrap_or_default(),
            object["metadata"]["name"].as_str().unwrap_or_default()
        )
    };
    listed["items"].as_array().expect("items").iter().map(name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_to_stay_after_uninstalling_is_what_stays() {
    let setup =
        Setup { source: Options::distribution("source"), target: Options::distribution("target"), ..Setup::default() };
    let (cluster, source, target) = setup.start().await.expect("cluster and registries start");
    let before = everything(&cluster).await;
    let run = |args: &[&str]| {
        let args = [args, &["--namespace", NAME]].concat();
        tokio::task::block_in_place(|| helm(Some(&cluster), &args)).expect("helm").ok().expect("helm succeeds")
    };
    run(&["install", NAME, &folder().display().to_string(), "--create-namespace"]);
    let deployment = parse_deployment(&run(&["get", "manifest", NAME])).expect("a Deployment");
    let mut operator = Operator::start(&cluster, &deployment, &Overrides::default()).await.expect("it starts");
    operator.until_ready(LONG).await.expect("it is ready");
    let app = source.remote().expect("a client").push_image("app", "v1", ImageSpec::seeded(1)).await.expect("an image");
    let images = ["app:v1".to_owned(), format!("app@{}", app.digest)]
        .map(|image| json!({"name": format!("{}/{image}", source.host())}));
    let object = json!({
        "apiVersion": "mirror.openshift.io/v1alpha1", "kind": "ImageSetMirror",
        "metadata": {"name": "set", "namespace": NAME},
        "spec": {
            "mirror": {"additionalImages": images},
            "source": {"hosts": [{"host": source.host(), "tls": "Plain"}]},
            "target": {"registry": target.host(), "tls": "Plain"},
            "clusterResources": {"imageTagMirrorSet": {"policy": "Apply"}, "disruption": "AllowDrain"},
        },
    });
    cluster.apply_all(&[object]).await.expect("an object");
    let mirrors = image_set_mirrors(cluster.client().await.expect("a client"), NAME);
    until_ready(&mirrors, "set", LONG).await.expect("Ready");
    run(&["uninstall", NAME, "--wait"]);
    assert!(operator.terminate().await.expect("it ends").success());

    let table = rows(&read(OPERATING), "## What stays after uninstalling");
    let said: BTreeSet<String> = table.iter().flat_map(|row| quoted(&row[0])).map(ToOwned::to_owned).collect();
    let cluster = &cluster;
    let (before, said) = (&before, &said);
    let kinds = eventually(SHORT, "what is of no release to be gone", || async move {
        // Every namespace has these.
        let own = ["ServiceAccount/default", "ConfigMap/kube-root-ca.crt"];
        let mut left = everything(cluster).await;
        left.retain(|name| !before.contains(name) && !own.contains(&name.as_str()));
        let kinds = left.iter().filter_map(|name| name.split_once('/')).map(|(kind, _)| kind.to_owned());
        let kinds: BTreeSet<String> = kinds.collect();
        anyhow::ensure!(kinds.is_subset(said), "there is still {left:?}");
        Ok(Some(kinds))
    })
    .await
    .expect("nothing else stays");
    assert_eq!(&kinds, said, "what is said to stay stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_crd_can_be_installed_by_itself_and_every_field_is_explained() {
    let cluster = Cluster::start_with(&[]).await.expect("the cluster starts");
    let script = Script::on(OPERATING, "## The CRD by itself").expect("the commands");
    script.run(&cluster, &repository()).await.expect("a shell").ok().expect("every command succeeds");
    let crd = "imagesetmirrors.mirror.openshift.io";
    let manager = ["get", "crd", crd, "-o=jsonpath={.metadata.annotations.meta\\.helm\\.sh/release-name}"];
    let release = cluster.kubectl(&manager).await.expect("kubectl").ok().expect("the CRD");
    assert_eq!(release, "", "the CRD is not the release's");
    let deployment = ["get", "deployment", NAME, "--namespace", NAME, "-o", "name"];
    cluster.kubectl(&deployment).await.expect("kubectl").ok().expect("the operator is installed");

    for path in ["imagesetmirror.spec", "imset.spec.target", "imset.status", "imset.spec.clusterResources"] {
        let cluster = &cluster;
        let explained = eventually(SHORT, "the schema to be served", || async move {
            Ok(Some(cluster.kubectl(&["explain", path]).await?.ok()?))
        })
        .await
        .expect("it is explained");
        assert!(explained.contains("DESCRIPTION:") && !explained.contains("<empty>"), "{explained}");
        assert!(!explained.contains("<no description>"), "{explained}");
    }
}
