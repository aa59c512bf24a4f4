//! The operator's image holds what it needs: its programs start in it, as its user and with nothing else there.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use e2e::container;
use e2e::image::docker_config;
use e2e::layout::{self, Place};
use e2e::process::RunFolder;
use e2e::registry::{self, Options};
use e2e::tools;

/// Why it cannot be tried here, if so.
fn missing() -> Option<&'static str> {
    let there = |program| Command::new(program).arg("--version").stdout(Stdio::null()).status().is_ok();
    if !rustix::process::geteuid().is_root() {
        return Some("chroot wants root");
    }
    (!there("apt-get") || !there("dpkg-deb")).then_some("its packages come from Debian's apt-get and dpkg-deb")
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_pushed_with_the_operator_itself_under_the_name_that_is_given() {
    let login = registry::login("pusher", "target-password");
    let target = Options::distribution("target").tls().basic(&login.user, &login.password).start().await;
    let target = target.expect("a registry");
    let run = RunFolder::create("push").expect("a folder");
    let mut tree = container::Tree::default();
    tree.folder("usr/bin", 0o755);
    tree.file(container::BINARY, 0o755, *b"a program");
    let image = container::assemble(&[("binary", tree)], 0, "test").expect("an image");
    let folder = run.path().join("image");
    image.write(&folder).expect("a layout");
    let auth = run.write("auth.json", docker_config(&[(&target.host(), &login)])).expect("a file");
    let ca = run.write("ca.pem", target.ca_pem().expect("a CA")).expect("a file");
    let flags = ["--authfile", &auth.display().to_string(), "--ca", &ca.display().to_string()].map(ToOwned::to_owned);
    let push = |name: &str, flags: &[String]| {
        let place: Place = format!("{}/{name}", target.host()).parse().expect("a place");
        tokio::task::block_in_place(|| layout::push(&folder, &place, flags))
    };
    for (repository, tag) in [("platform/ops/operator", "1.0"), ("operator", "0.1.0")] {
        let pushed = push(&format!("{repository}:{tag}"), &flags).expect("it is pushed");
        assert_eq!(pushed, image.digest());
        let arrived = target.remote().expect("a client").walk(repository, tag).await.expect("all of it is there");
        assert_eq!(arrived.root, image.digest());
    }
    let error = push("operator:refused", &flags[2..]).expect_err("it has no password").to_string();
    assert!(error.contains("has not pushed the image"), "{error}");
    assert_eq!(target.remote().expect("a client").digest("operator", "refused").await.expect("an answer"), None);
}

fn inside(root: &Path, args: &[&str]) -> Output {
    let mut command = Command::new("chroot");
    command.arg("--userspec=65532:65532").arg(root).args(args).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.output().expect("chroot starts")
}

#[test]
fn its_programs_start_in_it_without_root() {
    if let Some(reason) = missing() {
        tools::say(&format!("SKIPPED: its_programs_start_in_it_without_root: {reason}"));
        return;
    }
    // Debian serves a version until there is a newer one, and only to those who have its lists.
    if let Err(error) = container::debian::fetch() {
        tools::say(&format!("SKIPPED: its_programs_start_in_it_without_root: {error:#}"));
        return;
    }
    let image = container::operator_image(0, "test").expect("an image");
    let run = RunFolder::create("image").expect("a folder");
    let root = run.folder("root").expect("a folder");
    for (_, layer) in &image.layers {
        let plain = flate2::read::GzDecoder::new(layer.bytes.as_slice());
        tar::Archive::new(plain).unpack(&root).expect("it unpacks");
    }
    for (args, expected) in [
        (["/usr/bin/imageset-mirror", "--version"], "imageset-mirror "),
        (["/usr/bin/imageset-mirror", "crd"], "imagesetmirrors.mirror.openshift.io"),
        (["/usr/bin/helm", "version"], "v3.22.0"),
    ] {
        let output = inside(&root, &args);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains(expected), "{args:?}: {output:?}");
    }
    assert!(!inside(&root, &["/bin/sh", "-c", "true"]).status.success(), "there is no shell");
    let bundle = std::fs::read_to_string(root.join("etc/ssl/certs/ca-certificates.crt")).expect("certificates");
    assert!(bundle.matches("BEGIN CERTIFICATE").count() > 100);
    assert!(root.join("usr/share/zoneinfo/Europe/Berlin").exists());
}
