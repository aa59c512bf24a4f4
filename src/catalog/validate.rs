//! What a catalog must be like for `opm serve` to start with it: one invalid package ends the whole server.
//!
//! The rules are those of its model: <https://github.com/operator-framework/operator-registry/blob/master/alpha/model/model.go>.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::channel::Graph;
use super::{Bundle, Catalog, Content, VersionFault};

/// Why a package cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// The package.
    pub package: String,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "package `{}`: {}", self.package, self.message)
    }
}

/// Everything that would keep the catalog from being served.
pub fn validate(catalog: &Catalog) -> Vec<Fault> {
    let of = |(name, content): (&String, &Content)| {
        let mut messages = Vec::new();
        package(name, content, &mut messages);
        messages.into_iter().map(|message| Fault { package: name.clone(), message }).collect::<Vec<_>>()
    };
    catalog.packages.iter().flat_map(of).collect()
}

fn package(name: &str, content: &Content, faults: &mut Vec<String>) {
    if !is_label(name) {
        faults.push("its name is not that of a DNS label".to_owned());
    }
    if content.packages.len() != 1 {
        faults.push(format!("there are {} documents `olm.package`; one is needed", content.packages.len()));
    }
    let channels: BTreeSet<&str> = content.channels.iter().map(|channel| channel.blob.name.as_str()).collect();
    if channels.is_empty() {
        faults.push("it has no channel".to_owned());
    }
    if channels.len() != content.channels.len() {
        faults.push("two channels have one name".to_owned());
    }
    match content.default_channel() {
        "" => faults.push("it has no default channel".to_owned()),
        channel if !channels.contains(channel) => faults.push(format!("its default channel `{channel}` is not there")),
        _ => {}
    }
    let mut listed: BTreeSet<&str> = BTreeSet::new();
    for channel in &content.channels {
        let title = format!("channel `{}`", channel.blob.name);
        if channel.blob.name.is_empty() {
            faults.push("a channel has no name".to_owned());
        }
        match Graph::new(&channel.entries) {
            Err(error) => faults.push(format!("{title}: {error}")),
            Ok(graph) => {
                faults.extend(
                    graph.stranded().iter().map(|entry| format!("{title}: no update leads to or from `{entry}`")),
                );
            }
        }
        for entry in &channel.entries {
            listed.insert(&entry.name);
            if content.bundle(&entry.name).is_none() {
                faults.push(format!("{title}: there is no bundle `{}`", entry.name));
            }
            if entry.skips.iter().any(String::is_empty) {
                faults.push(format!("{title}: `{}` skips something without a name", entry.name));
            }
            if !entry.skip_range.is_empty() && !is_range(&entry.skip_range) {
                faults.push(format!("{title}: the skipRange `{}` of `{}` is not one", entry.skip_range, entry.name));
            }
        }
    }
    let mut versions: BTreeMap<String, &str> = BTreeMap::new();
    let mut names = BTreeSet::new();
    for found in &content.bundles {
        let title = &found.blob.name;
        if !names.insert(title) {
            faults.push(format!("bundle `{title}` is there twice"));
        }
        if !listed.contains(title.as_str()) {
            faults.push(format!("bundle `{title}` is in no channel"));
        }
        if let Ok(version) = &found.version
            && let Some(other) = versions.insert(version.to_string(), title)
        {
            faults.push(format!("bundles `{other}` and `{title}` have one version, {version}"));
        }
        faults.extend(bundle(name, found).into_iter().map(|fault| format!("bundle `{title}`: {fault}")));
    }
    deprecations(content, &channels, &names, faults);
}

fn bundle(package: &str, bundle: &Bundle) -> Vec<String> {
    let mut faults = Vec::new();
    if bundle.stated != 1 {
        faults.push(format!("it has {} properties `olm.package`; one is needed", bundle.stated));
    }
    if bundle.stated > 0 && bundle.stated_package != package {
        faults.push(format!("its property `olm.package` is about `{}`", bundle.stated_package));
    }
    if let Err(VersionFault::Bad(version)) = &bundle.version {
        faults.push(format!("its version `{version}` is not of the form 1.2.3"));
    }
    if bundle.image.is_empty() && !bundle.has_objects {
        faults.push("it has no image".to_owned());
    }
    faults
}

fn deprecations(content: &Content, channels: &BTreeSet<&str>, bundles: &BTreeSet<&String>, faults: &mut Vec<String>) {
    if content.deprecations.len() > 1 {
        faults.push("there are several documents `olm.deprecations`".to_owned());
    }
    let mut seen = BTreeSet::new();
    for entry in content.deprecations.iter().flat_map(|deprecations| &deprecations.entries) {
        let (schema, name) = (entry.reference.schema.as_str(), &entry.reference.name);
        let there = match schema {
            "olm.package" => name.is_empty(),
            "olm.channel" => channels.contains(name.as_str()),
            "olm.bundle" => bundles.contains(name),
            _ => false,
        };
        if !there {
            faults.push(format!("its deprecations name {schema} `{name}`, which is not there"));
        }
        if !seen.insert(&entry.reference) {
            faults.push(format!("its deprecations name {schema} `{name}` twice"));
        }
        if entry.message.is_empty() {
            faults.push(format!("the deprecation of {schema} `{name}` has no message"));
        }
    }
}

fn is_label(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&name.len()) && name.bytes().all(inner) && !name.starts_with('-') && !name.ends_with('-')
}

/// Whether a text is a range as the Go library blang/semver reads it: comparisons side by side, alternatives apart by `||`.
fn is_range(text: &str) -> bool {
    let comparison = |text: &str| {
        let version = text.trim_start_matches(['<', '>', '=', '!']);
        let sign = text.get(..text.len() - version.len()).unwrap_or_default();
        let known = ["", "=", "==", "!=", "!", "<", "<=", ">", ">="].contains(&sign);
        let part = |part: &str| part.parse::<u64>().is_ok() || ["x", "X", "*"].contains(&part);
        let wild = version.split('.').all(part) && version.split('.').count() <= 3;
        known && (semver::Version::parse(version).is_ok() || wild)
    };
    // A sign may stand apart from its version.
    let joined = ["<=", ">=", "==", "!=", "<", ">", "="]
        .iter()
        .fold(text.to_owned(), |text, sign| text.replace(&format!("{sign} "), sign));
    joined.split("||").all(|part| !part.trim().is_empty() && part.split_whitespace().all(comparison))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_told_from_other_texts() {
        for good in [">=1.0.0 <2.0.0", "<1.2.3-4", ">= 1.0.0 <= 1.2.0", "1.x || >=2.0.0", "!=1.0.0"] {
            assert!(is_range(good), "{good}");
        }
        for bad in ["", "||", "one", ">=1.0.0 <", "^1.0.0", "1.2.3.4"] {
            assert!(!is_range(bad), "{bad}");
        }
    }
}
