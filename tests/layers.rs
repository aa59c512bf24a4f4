//! Holds the direction of modules: a module uses only those the table names, and pure modules do no I/O.
#![cfg(test)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Module, and the modules it may use.
const TABLE: &[(&str, &[&str])] = &[
    ("failure", &[]),
    ("clock", &[]),
    ("gate", &[]),
    ("oci", &[]),
    ("api", &["oci"]),
    ("catalog", &["api", "oci"]),
    ("request", &["api", "catalog", "oci", "failure"]),
    ("file", &["api", "request", "oci"]),
    ("build", &["oci", "failure"]),
    ("resolve", &["build", "catalog", "request", "oci", "failure"]),
    ("plan", &["request", "resolve", "oci", "failure"]),
    ("resources", &["api", "request", "resolve", "plan", "oci", "failure"]),
    ("registry", &["gate", "oci", "failure"]),
    ("fetch", &["build", "catalog", "request", "resolve", "registry", "oci", "failure"]),
    ("state", &["plan", "registry", "oci", "failure"]),
    ("copy", &["gate", "plan", "registry", "oci", "failure"]),
    (
        "sync",
        &["build", "catalog", "request", "resolve", "plan", "fetch", "copy", "state", "registry", "oci", "failure"],
    ),
    ("lease", &["clock", "failure"]),
    ("metrics", &["api", "registry"]),
    ("server", &["clock"]),
    ("telemetry", &["clock", "failure"]),
    ("check", &["api", "failure"]),
    (
        "cli",
        &[
            "catalog",
            "check",
            "sync",
            "resolve",
            "resources",
            "api",
            "request",
            "file",
            "plan",
            "copy",
            "registry",
            "state",
            "oci",
            "failure",
            "clock",
            "telemetry",
        ],
    ),
    (
        "controller",
        &[
            "api",
            "request",
            "resolve",
            "plan",
            "resources",
            "registry",
            "copy",
            "state",
            "sync",
            "lease",
            "metrics",
            "oci",
            "failure",
            "clock",
        ],
    ),
];

/// Modules that decide and do not act: no async (but for the one driver of resolvers), HTTP, clock or environment.
const PURE: &[&str] = &[
    "failure",
    "oci",
    "build",
    "api",
    "catalog",
    "request",
    "resolve",
    "plan",
    "resources",
    "controller/status",
    "controller/schedule",
    "controller/events",
];

fn sources(root: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// The code of each file by its path below `src/`, without comments and tests: a test may use what is above it as an oracle.
fn code() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let strip = |text: String| {
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
    };
    files
        .into_iter()
        .filter(|file| !file.components().any(|part| part.as_os_str().to_string_lossy().starts_with("tests")))
        .map(|file| {
            (file.strip_prefix(&root).unwrap().display().to_string(), strip(fs::read_to_string(&file).unwrap()))
        })
        .collect()
}

fn module(path: &str) -> &str {
    path.split(['/', '.']).next().unwrap()
}

#[test]
fn every_module_uses_only_those_below_it() {
    let mut wrong = Vec::new();
    for (path, text) in code() {
        let own = module(&path).to_owned();
        if ["main", "lib", "operator"].contains(&own.as_str()) {
            continue;
        }
        let Some((_, allowed)) = TABLE.iter().find(|(name, _)| *name == own) else {
            wrong.push(format!("{path}: `{own}` is not in the table"));
            continue;
        };
        for (start, _) in text.match_indices("crate::") {
            let rest = &text[start + "crate::".len()..];
            let names: Vec<String> = match rest.strip_prefix('{') {
                Some(group) => panic!("{path}: write one `use crate::module` a line, not `crate::{{{}`", &group[..20]),
                None => vec![rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()],
            };
            for name in names.into_iter().filter(|name| *name != own && !allowed.contains(&name.as_str())) {
                wrong.push(format!("{path} uses crate::{name}, which `{own}` may not"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn position(name: &str) -> usize {
    TABLE.iter().position(|(other, _)| *other == name).unwrap()
}

fn reaches(from: usize, to: usize, depth: usize) -> bool {
    depth < TABLE.len()
        && TABLE[from].1.iter().any(|name| position(name) == to || reaches(position(name), to, depth + 1))
}

#[test]
fn the_table_has_no_cycle() {
    for (index, (name, _)) in TABLE.iter().enumerate() {
        assert!(!reaches(index, index, 0), "`{name}` reaches itself");
    }
}

#[test]
fn pure_modules_do_no_io() {
    let mut wrong = Vec::new();
    for (path, text) in code() {
        let pure = PURE.iter().any(|module| path == format!("{module}.rs") || path.starts_with(&format!("{module}/")));
        if !pure {
            continue;
        }
        let own = text.split("#[cfg(test)]").next().unwrap();
        for word in [
            "reqwest",
            "tokio::",
            "SystemTime::now",
            "Timestamp::now",
            "Instant::now",
            "std::env",
            "std::fs",
            "std::net::Tcp",
        ] {
            if own.contains(word) {
                wrong.push(format!("{path} contains `{word}`"));
            }
        }
        if own.contains("async ") && path != "resolve/mod.rs" {
            wrong.push(format!("{path} contains `async`"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
