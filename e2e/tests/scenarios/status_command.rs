//! `imageset-mirror status`, against a real API server: what an object lacks and why, in words, until it lacks nothing.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use e2e::cluster::Cluster;
use e2e::image::ImageSpec;
use e2e::operator::binary;
use e2e::process::{Process, Program};
use e2e::wait::{LONG, condition, until};
use e2e::world::World;
use kube::api::{Patch, PatchParams};
use serde_json::json;

/// Exit code, standard output and standard error.
async fn status(cluster: &Cluster, args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(binary().expect("the binary"));
    command.arg("status").args(args).env_clear().env("KUBECONFIG", cluster.kubeconfig()).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("it runs").expect("it starts");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// The rest of the first line that has this name, and the lines below it up to the next name.
fn row<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let mut lines = text.lines().skip_while(|line| !line.starts_with(&format!("  {name} ")));
    let first = lines.next().map(|line| line[2 + name.len()..].trim());
    let below = lines.take_while(|line| line.starts_with("             ")).map(str::trim);
    first.into_iter().chain(below).collect()
}

#[tokio::test]
async fn what_is_missing_is_told_with_its_reason_until_nothing_is() {
    let world = World::start().await.expect("the world starts");
    let _operator = world.operator().await.expect("the operator starts");
    let (cluster, namespace) = (&world.cluster, world.namespace());
    let (code, out, err) = status(cluster, &["-n", namespace]).await;
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert_eq!(out, format!("there is no ImageSetMirror in namespace `{namespace}`\n"));
    let (code, out, err) = status(cluster, &["-n", namespace, "partly"]).await;
    assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
    assert!(err.contains("there is no ImageSetMirror `partly`"), "{err}");

    let source = world.source().expect("a client");
    source.push_image("there/app", "v1", ImageSpec::seeded(1)).await.expect("an image");
    let late = source.push_image("elsewhere/app", "v1", ImageSpec::seeded(2)).await.expect("an image").digest;
    let late = format!("gone/app@{late}");
    let object = world.image_set_mirror(namespace, "partly", &["there/app:v1", &late]);
    world.apply(&object).await.expect("the object is taken");
    let mirrors = world.mirrors(namespace).await.expect("a client");
    let failed = until(&mirrors, "partly", LONG, "failed", |object| {
        condition(object, "Ready").is_some_and(|ready| ready.status == "False")
            && object.data["status"]["failures"].as_array().is_some_and(|list| !list.is_empty())
    });
    let failed = failed.await.expect("a sync ends");
    let (code, out, err) = status(cluster, &["-n", namespace, "partly"]).await;
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(out.starts_with(&format!("{namespace}/partly → {}", world.target_host)), "{out}");
    let ready = condition(&failed, "Ready").expect("it is always there");
    assert_eq!(row(&out, "ready")[0], format!("no, {}: {}", ready.reason, ready.message), "{out}");
    assert!(row(&out, "images")[0].starts_with("[############............] 1/2, "), "{out}");
    let missing = row(&out, "missing");
    let image = format!("{}/{late}", world.source_host);
    assert!(missing[0].starts_with(&image) && missing[1].starts_with("SourceNotFound: "), "{out}");
    assert!(row(&out, "synced")[0].starts_with("never, ") && out.contains("failed since"), "{out}");

    // As a plugin of kubectl, which finds it by its name.
    let folder = cluster.run().folder("plugins").expect("a folder");
    let binary = binary().expect("the binary");
    symlink(&binary, folder.join("kubectl-imagesetmirror")).expect("a link");
    let script = format!("PATH={}:$PATH kubectl imagesetmirror status -n {namespace} partly", folder.display());
    let plugin = cluster.shell(&script, &folder).await.expect("a shell").ok().expect("kubectl finds it");
    assert_eq!(row(&plugin, "missing"), missing, "{plugin}");

    // Somebody who waits is told of each change, and has an end of it when it is Ready.
    let watch = Program::new("watch", &binary).args(["status", "--watch", "-n", namespace, "partly"]);
    let watch = watch.env("KUBECONFIG", &cluster.kubeconfig().display().to_string());
    let mut watch = Process::spawn(&watch, &folder).expect("it starts");
    let log = watch.stdout().to_owned();
    source.push_image("gone/app", "v1", ImageSpec::seeded(2)).await.expect("an image");
    let asked = json!({"metadata": {"annotations": {"mirror.openshift.io/requested-at": "now"}}});
    mirrors.patch("partly", &PatchParams::default(), &Patch::Merge(&asked)).await.expect("the annotation");
    let ended = watch.wait(LONG).await.expect("it ends by itself");
    assert!(ended.success(), "{ended}");
    let told = fs::read_to_string(log).expect("what it has told");
    let last = told.rfind(&format!("{namespace}/partly → ")).map(|start| &told[start..]).expect("the object");
    assert!(row(last, "ready")[0].starts_with("yes: "), "{last}");
    assert!(row(last, "images")[0].starts_with("[########################] 2/2, "), "{last}");
    assert_eq!(row(last, "missing"), [""; 0], "{last}");
    world.assert_nothing_refused();
}
