//! The program itself between two registries on loopback: what its commands print, write and exit with.
#![cfg(test)]

#[path = "../support/registry.rs"]
#[expect(dead_code, reason = "the tests of the registry client use more of it")]
mod fake;

mod mirror;
mod plan;
mod terminal;

use std::path::PathBuf;
use std::process::{Command, Stdio};

use fake::FakeRegistry;
use imageset_mirror::oci::{Digest, media_type};
use tempfile::TempDir;

/// A source, a target and a folder.
struct Desk {
    source: FakeRegistry,
    target: FakeRegistry,
    folder: TempDir,
}

/// What a command did.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Desk {
    async fn new() -> Self {
        let (source, target) = (FakeRegistry::start().await, FakeRegistry::start().await);
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("auth.json"), "{}").unwrap();
        Self { source, target, folder }
    }

    /// Stores an image of one layer in the source.
    fn image(&self, repository: &str, tag: &str, layer: &str) -> Digest {
        let descriptor = |media_type: &str, bytes: &str| serde_json::json!({"mediaType": media_type, "digest": Digest::of(bytes.as_bytes()).to_string(), "size": bytes.len()});
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_IMAGE, "config": descriptor("a/config", "{}"),
            "layers": [descriptor("a/layer", layer)],
        });
        self.source.put_blob(repository, "{}");
        self.source.put_blob(repository, layer.to_owned());
        self.source.put_manifest(repository, tag, media_type::OCI_IMAGE, manifest.to_string())
    }

    /// Writes a file of oc-mirror; `SOURCE` is the source's host.
    fn file(&self, mirror: &str) {
        let head = "kind: ImageSetConfiguration\napiVersion: mirror.openshift.io/v2alpha1\nmirror:\n";
        let text = format!("{head}{mirror}").replace("SOURCE", &self.source.host());
        std::fs::write(self.path("set.yaml"), text).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// Runs a command on `set.yaml` with the target's root below `ocp`.
    async fn run(&self, args: &[&str]) -> Ran {
        let hosts = [&self.source, &self.target].map(|registry| format!("--tls={}=plain", registry.host()));
        let to = format!("--to={}/ocp", self.target.host());
        let common = ["-f", "set.yaml", "--authfile", "auth.json", &to, &hosts[0], &hosts[1]];
        run(Command::new(PROGRAM).args(args).args(common).current_dir(self.folder.path()), &[]).await
    }

    /// What was asked of the target, but for reads.
    fn writes(&self) -> Vec<String> {
        self.target.lines().into_iter().filter(|line| !line.starts_with("HEAD") && !line.starts_with("GET")).collect()
    }
}

const PROGRAM: &str = env!("CARGO_BIN_EXE_imageset-mirror");

/// Runs a program to its end, in an environment of nothing but these variables.
async fn run(command: &mut Command, variables: &[(&str, &str)]) -> Ran {
    let child = command
        .env_clear()
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let output = tokio::task::spawn_blocking(|| child.wait_with_output()).await.unwrap().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}
