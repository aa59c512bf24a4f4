//! What Argo CD is told about our kind: the Lua of `config/argocd/lua`, in the two forms that people can apply.
//!
//! The Lua and the list of exclusions exist once; both forms are generated from them.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::operator::repository;

/// The actions, each a script of that name.
pub const ACTIONS: [&str; 4] = ["sync-now", "force-verify", "suspend", "resume"];

const GROUP: &str = "mirror.openshift.io";
const KIND: &str = "ImageSetMirror";
const HEADER: &str = "# Generated from config/argocd/lua and exclusions.yaml by `make manifests`; do not edit.\n";

/// The folder `config/argocd`.
pub fn folder() -> PathBuf {
    repository().join("config/argocd")
}

/// A script of ours.
///
/// # Errors
/// When there is none of that name.
pub fn script(name: &str) -> Result<String> {
    read(&format!("lua/{name}.lua"))
}

/// Every generated file, and what has to be in it.
///
/// # Errors
/// When a script is missing.
pub fn files() -> Result<Vec<(PathBuf, String)>> {
    let files = [
        ("argocd-cm.yaml", config_map()?),
        ("argocd-cm-exclusions.yaml", config_map_exclusions()?),
        ("argocd.yaml", argocd_object()?),
        ("argocd-exclusions.yaml", argocd_object_exclusions()?),
    ];
    Ok(files.map(|(name, text)| (folder().join(name), format!("{HEADER}{text}"))).into())
}

fn read(name: &str) -> Result<String> {
    let path = folder().join(name);
    fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
}

/// Health and actions as keys of the `ConfigMap` `argocd-cm`.
fn config_map() -> Result<String> {
    let mut text = CONFIG_MAP.to_owned();
    for (what, value) in [("health", script("health")?), ("actions", actions()?)] {
        write!(text, "  resource.customizations.{what}.{GROUP}_{KIND}: |\n{}", indented(&value, 4))?;
    }
    Ok(text)
}

fn config_map_exclusions() -> Result<String> {
    Ok(format!("{CONFIG_MAP}  resource.exclusions: |\n{}", indented(&read("exclusions.yaml")?, 4)))
}

const CONFIG_MAP: &str = "\
apiVersion: v1
kind: ConfigMap
metadata:
  name: argocd-cm
  namespace: argocd
  labels:
    app.kubernetes.io/part-of: argocd
data:
";

/// Health and actions as fields of the `ArgoCD` object, whose operator owns `argocd-cm`.
fn argocd_object() -> Result<String> {
    let mut text = ARGOCD.to_owned();
    for (list, key, value) in
        [("resourceHealthChecks", "check", script("health")?), ("resourceActions", "action", actions()?)]
    {
        let value = indented(&value, 6);
        write!(text, "  {list}:\n  - group: {GROUP}\n    kind: {KIND}\n    {key}: |\n{value}")?;
    }
    Ok(text)
}

fn argocd_object_exclusions() -> Result<String> {
    Ok(format!("{ARGOCD}  resourceExclusions: |\n{}", indented(&read("exclusions.yaml")?, 4)))
}

const ARGOCD: &str = "\
apiVersion: argoproj.io/v1beta1
kind: ArgoCD
metadata:
  name: openshift-gitops
  namespace: openshift-gitops
spec:
";

/// Discovery and definitions, as both forms take them.
fn actions() -> Result<String> {
    let mut text = format!("discovery.lua: |\n{}definitions:\n", indented(&script("discovery")?, 2));
    for action in ACTIONS {
        write!(text, "- name: {action}\n  action.lua: |\n{}", indented(&script(action)?, 4))?;
    }
    Ok(text)
}

fn indented(text: &str, by: usize) -> String {
    let mut out = String::new();
    for line in text.lines() {
        if !line.is_empty() {
            out.extend(std::iter::repeat_n(' ', by));
            out += line;
        }
        out.push('\n');
    }
    out
}
