//! The judge of mirror sets: OpenShift's merge and the container runtime's lookup, in a program of `e2e/tools/`.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::cluster::Cluster;
use crate::tools::{self, Tool};

/// What nodes would do with some mirror sets.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// Why the objects cannot be merged; no node would get an update then.
    #[serde(default)]
    pub error: Option<String>,
    /// The rendered `registries.conf`.
    #[serde(default)]
    pub registries_conf: String,
    /// One answer per pull spec, in the order asked.
    pub pulls: Vec<Pull>,
}

/// Where a node would look for one image.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pull {
    /// The pull spec.
    pub spec: String,
    /// References in the order in which they are tried; the last is the original place.
    pub lookups: Vec<String>,
    /// Whether the original place is never contacted.
    pub source_blocked: bool,
    /// Why there is no answer.
    #[serde(default)]
    pub error: Option<String>,
}

impl Verdict {
    /// Where a node looks first for this pull spec.
    pub fn first(&self, spec: &str) -> Option<&str> {
        let pull = self.pulls.iter().find(|pull| pull.spec == spec)?;
        pull.lookups.first().map(String::as_str)
    }
}

/// Judges objects given as YAML documents (other kinds among them are ignored).
///
/// # Errors
/// When the text is not YAML or the judge cannot be built.
pub async fn judge(objects: &str, specs: &[&str]) -> Result<Verdict> {
    let program = tokio::task::spawn_blocking(|| tools::ensure(Tool::Mirrorconf)).await??;
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), objects)?;
    let mut command = Command::new(program);
    command.arg("-f").arg(file.path()).args(specs).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await?.context("running mirrorconf")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    serde_json::from_slice(&output.stdout).context("reading what mirrorconf prints")
}

/// Judges the mirror sets that a cluster has now.
///
/// # Errors
/// When the cluster has no such kinds, or as [`judge`].
pub async fn judge_cluster(cluster: &Cluster, specs: &[&str]) -> Result<Verdict> {
    let kinds = cluster.kubectl(&["api-resources", "-o", "name"]).await?.ok()?;
    let ours = [
        "imagedigestmirrorsets.config.openshift.io",
        "imagetagmirrorsets.config.openshift.io",
        "imagecontentsourcepolicies.operator.openshift.io",
    ];
    let served: Vec<&str> = ours.into_iter().filter(|kind| kinds.lines().any(|line| line == *kind)).collect();
    let objects = cluster.kubectl(&["get", &served.join(","), "-o", "yaml"]).await?.ok()?;
    judge(&objects, specs).await
}
