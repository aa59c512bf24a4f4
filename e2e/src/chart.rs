//! The chart, rendered and installed by the real helm.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde::Deserialize as _;
use serde_json::Value;

use crate::cluster::{Cluster, Output};
use crate::operator::repository;
use crate::tools::{self, Tool};

/// Release and namespace of whoever installs it as the README says.
pub const NAME: &str = "imageset-mirror";

/// The folder of the chart.
pub fn folder() -> PathBuf {
    repository().join("charts").join(NAME)
}

/// The value sets of `ci/`: name and path, sorted.
///
/// # Errors
/// When the folder cannot be read.
pub fn value_sets() -> Result<Vec<(String, PathBuf)>> {
    let mut sets = Vec::new();
    for entry in std::fs::read_dir(folder().join("ci"))? {
        let path = entry?.path();
        if let Some(name) = path.file_stem() {
            sets.push((name.to_string_lossy().into_owned(), path.clone()));
        }
    }
    sets.sort();
    Ok(sets)
}

/// Runs helm 3, against `cluster` or none, with nothing of the user's own settings.
///
/// # Errors
/// When it cannot be built or started; a refused command is an [`Output`] like any other.
pub fn helm(cluster: Option<&Cluster>, args: &[&str]) -> Result<Output> {
    helm_of(Tool::Helm, cluster, args)
}

/// The same with [`Tool::Helm`] or [`Tool::Helm4`].
///
/// # Errors
/// As [`helm`].
pub fn helm_of(helm: Tool, cluster: Option<&Cluster>, args: &[&str]) -> Result<Output> {
    let home = tempfile::tempdir()?;
    let mut command = Command::new(tools::ensure(helm)?);
    command.args(args).env_clear().env("HOME", home.path()).stdin(Stdio::null());
    // Without a kubeconfig helm would try whatever listens on localhost.
    let kubeconfig = cluster.map_or_else(|| home.path().join("none"), |cluster| cluster.kubeconfig().to_owned());
    let output = command.env("KUBECONFIG", kubeconfig).output().context("running helm")?;
    Ok(Output::of(&format!("helm {}", args.join(" ")), &output))
}

/// `helm template` of the chart in the namespace [`NAME`], with more arguments.
///
/// # Errors
/// As [`helm`].
pub fn template(release: &str, more: &[&str]) -> Result<Output> {
    let folder = folder().display().to_string();
    helm(None, &[&["template", release, folder.as_str(), "--namespace", NAME], more].concat())
}

/// The objects of a YAML text.
///
/// # Errors
/// When it is not YAML.
pub fn objects(text: &str) -> Result<Vec<Value>> {
    let documents = serde_yaml::Deserializer::from_str(text).map(Value::deserialize);
    let objects: Vec<Value> = documents.collect::<Result<_, _>>().context("reading rendered objects")?;
    Ok(objects.into_iter().filter(|object| !object.is_null()).collect())
}

/// The objects of one kind.
pub fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object.get("kind").and_then(Value::as_str) == Some(kind)).collect()
}

/// The objects of `helm test` of a release.
///
/// # Errors
/// As [`helm`], or when there is no such release.
pub fn hooks(cluster: &Cluster, release: &str, namespace: &str) -> Result<Vec<Value>> {
    objects(&helm(Some(cluster), &["get", "hooks", release, "--namespace", namespace])?.ok()?)
}
