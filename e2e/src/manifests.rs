//! What is generated outside the operator's own crate. From the chart: manifests of `config/`, the table of values in the
//! chart's README, and `install.yaml`. From the Lua of `config/argocd`: Argo CD's settings ([`crate::argocd::settings`]).
//!
//! One source, so that people who install with kustomize or kubectl get the Deployment that people with helm get. The
//! text of helm is kept with its comments; only labels that speak of helm are changed.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::argocd::settings;
use crate::chart::{NAME, folder, template};
use crate::operator::repository;

/// What is switched on for `config/`; the default of everything else.
const VALUES: &[&str] = &[
    "--set=networkPolicy.enabled=true,admissionPolicy.enabled=true",
    "--set=serviceMonitor.enabled=true,serviceMonitor.renderMode=alwaysRender",
    "--set=prometheusRule.enabled=true,prometheusRule.renderMode=alwaysRender",
];

/// Files below `config/`, and the kind of the only object in each.
const FILES: [(&str, &str); 8] = [
    ("manager/deployment.yaml", "Deployment"),
    ("manager/pod_disruption_budget.yaml", "PodDisruptionBudget"),
    ("prometheus/service.yaml", "Service"),
    ("prometheus/service_monitor.yaml", "ServiceMonitor"),
    ("prometheus/prometheus_rule.yaml", "PrometheusRule"),
    ("network-policy/network_policy.yaml", "NetworkPolicy"),
    ("admission/policy.yaml", "ValidatingAdmissionPolicy"),
    ("admission/policy_binding.yaml", "ValidatingAdmissionPolicyBinding"),
];

const HEADER: &str = "# Generated from charts/imageset-mirror by `make manifests`; do not edit.\n";
const TABLE_BEGIN: &str = "<!-- values: generated from values.yaml by `make manifests` -->\n";
const TABLE_END: &str = "<!-- end of values -->\n";

/// Every generated file, and what has to be in it.
///
/// # Errors
/// When the chart does not render, or a value has no comment.
pub fn generate() -> Result<Vec<(PathBuf, String)>> {
    let rendered = template(NAME, &[VALUES, &["--no-hooks"]].concat())?.ok()?;
    let documents: Vec<&str> = rendered.split("---\n").collect();
    let mut files = Vec::new();
    for (file, kind) in FILES {
        let line = format!("\nkind: {kind}\n");
        let found: Vec<&&str> = documents.iter().filter(|text| text.contains(&line)).collect();
        let [document] = found.as_slice() else { bail!("the chart renders {} objects of kind {kind}", found.len()) };
        files
            .push((repository().join("config").join(file), format!("{HEADER}{}", without_helm(document, "kustomize"))));
    }
    let readme = folder().join("README.md");
    let text = read(&readme)?;
    let (before, rest) = text.split_once(TABLE_BEGIN).context("the chart's README has no place for the values")?;
    let (_, after) = rest.split_once(TABLE_END).context("the values in the chart's README have no end")?;
    files.extend(settings::files()?);
    files.push((readme, format!("{before}{TABLE_BEGIN}{}{TABLE_END}{after}", table()?)));
    Ok(files)
}

/// Writes every generated file.
///
/// # Errors
/// As [`generate`], or when a file cannot be written.
pub fn write() -> Result<()> {
    for (path, text) in generate()? {
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// Makes sure that what is committed is what is generated.
///
/// # Errors
/// As [`generate`], or when a file differs.
pub fn check() -> Result<()> {
    let mut stale = generate()?;
    stale.retain(|(path, text)| fs::read_to_string(path).ok().as_ref() != Some(text));
    let root = repository();
    let name = |(path, _): &(PathBuf, String)| path.strip_prefix(&root).unwrap_or(path).display().to_string();
    let names: Vec<String> = stale.iter().map(name).collect();
    ensure!(names.is_empty(), "not what is generated: {}; run `make manifests`", names.join(", "));
    Ok(())
}

/// Everything that an installation needs, for `kubectl apply --server-side -f`.
///
/// # Errors
/// When the chart does not render.
pub fn install_yaml() -> Result<String> {
    let namespace = read(&repository().join("config/default/namespace.yaml"))?;
    let rendered = template(NAME, &["--no-hooks"])?.ok()?;
    Ok(format!("{namespace}{}", without_helm(&rendered, "kubectl")))
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

/// Rendered text as somebody else manages it.
fn without_helm(text: &str, manager: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let content = line.trim_start();
        if content.starts_with("helm.sh/chart:") || content.starts_with("# Source: ") {
            continue;
        }
        out += &line.replace("app.kubernetes.io/managed-by: Helm", &format!("app.kubernetes.io/managed-by: {manager}"));
        out.push('\n');
    }
    out
}

/// The table of values: each key of the schema, with its default and its comment.
fn table() -> Result<String> {
    let text = read(&folder().join("values.yaml"))?;
    let values: Value = serde_yaml::from_str(&text).context("reading values.yaml")?;
    let schema: Value =
        serde_json::from_str(&read(&folder().join("values.schema.json"))?).context("reading the schema")?;
    let comments = comments(&text);
    let mut table = "| key | default | what it is |\n| --- | --- | --- |\n".to_owned();
    rows(&schema, &values, "", &comments, &mut table)?;
    Ok(table)
}

fn rows(schema: &Value, values: &Value, path: &str, comments: &[(String, String)], table: &mut String) -> Result<()> {
    let properties = schema.get("properties").and_then(Value::as_object).context("the schema has no properties")?;
    // Helm gives every subchart a key `global`; here it has no meaning.
    let mut known: Vec<_> = properties.iter().filter(|(key, _)| !(path.is_empty() && *key == "global")).collect();
    // As values.yaml has them: what matters most comes first.
    known.sort_by_key(|(key, _)| comments.iter().position(|(commented, _)| *commented == format!("{path}{key}")));
    let values = values.as_object().with_context(|| format!("{path} is not a map in values.yaml"))?;
    if let Some(key) = values.keys().find(|key| !properties.contains_key(*key)) {
        bail!("{path}{key} of values.yaml is not in the schema");
    }
    for (key, inner) in known {
        let full = format!("{path}{key}");
        let value = values.get(key).with_context(|| format!("{full} of the schema is not in values.yaml"))?;
        let comment = comments.iter().find(|(path, _)| *path == full).map(|(_, comment)| comment.replace('|', "\\|"));
        let comment = comment.with_context(|| format!("{full} has no comment in values.yaml"))?;
        if inner.get("properties").is_some() {
            writeln!(table, "| **{full}** | | {comment} |")?;
            rows(inner, value, &format!("{full}."), comments, table)?;
        } else {
            writeln!(table, "| `{full}` | `{value}` | {comment} |")?;
        }
    }
    Ok(())
}

/// The comments right above keys, by the path of the key.
fn comments(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut path: Vec<(usize, &str)> = Vec::new();
    let mut comment: Vec<&str> = Vec::new();
    for line in text.lines() {
        let content = line.trim_start();
        if let Some(text) = content.strip_prefix("# ") {
            comment.push(text);
            continue;
        }
        if let Some((key, _)) = content.split_once(':') {
            let indent = line.len() - content.len();
            path.retain(|(outer, _)| *outer < indent);
            path.push((indent, key.trim_matches('"')));
            if !comment.is_empty() {
                let keys: Vec<&str> = path.iter().map(|(_, key)| *key).collect();
                found.push((keys.join("."), comment.join(" ")));
            }
        }
        comment.clear();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_belong_to_the_key_below_them() {
        let text = "# For the file.\n\n# One.\na:\n  # Two,\n  # in two lines.\n  b: 1\n  c: 2\n# Three.\n\"no\": []\n";
        let expected = [("a", "One."), ("a.b", "Two, in two lines."), ("no", "Three.")];
        assert_eq!(comments(text), expected.map(|(key, comment)| (key.to_owned(), comment.to_owned())));
    }

    #[test]
    fn labels_of_helm_are_changed_and_nothing_else() {
        let text = "# Source: a\nkind: A\nlabels:\n  helm.sh/chart: a-1\n  app.kubernetes.io/managed-by: Helm # why\n";
        assert_eq!(without_helm(text, "kubectl"), "kind: A\nlabels:\n  app.kubernetes.io/managed-by: kubectl # why\n");
    }

    #[test]
    fn a_value_without_a_comment_or_outside_the_schema_is_refused() {
        let schema = serde_json::json!({"properties": {"a": {"type": "string"}}});
        let (good, more) = (serde_json::json!({"a": "x"}), serde_json::json!({"a": "x", "b": 1}));
        let comments = [("a".to_owned(), "An a.".to_owned())];
        let mut table = String::new();
        rows(&schema, &good, "", &comments, &mut table).unwrap();
        assert_eq!(table, "| `a` | `\"x\"` | An a. |\n");
        let error = |values: &Value, comments| rows(&schema, values, "", comments, &mut String::new()).unwrap_err();
        assert_eq!(error(&good, &[]).to_string(), "a has no comment in values.yaml");
        assert_eq!(error(&more, &comments).to_string(), "b of values.yaml is not in the schema");
        assert_eq!(error(&serde_json::json!({}), &comments).to_string(), "a of the schema is not in values.yaml");
    }
}
