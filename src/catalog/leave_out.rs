//! Leaves bundles out of a catalog whose images cannot be had, so that what stays can be served and updates still lead past them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{BundleName, Catalog, Channel, Content, Entry, Fault, validate};

/// Why bundles cannot be left out of a catalog.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaveOutError {
    /// A package would lose its default channel, and has others.
    #[error("package `{package}`: without {} its default channel `{channel}` is empty", quoted(bundles))]
    EmptyDefaultChannel {
        /// The package.
        package: String,
        /// The channel.
        channel: String,
        /// What would be left out.
        bundles: Vec<String>,
    },
    /// What would stay cannot be served.
    #[error("without them {0}")]
    Invalid(Fault),
}

fn quoted(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// The catalog without these bundles.
///
/// What replaced one that is left out replaces what that had replaced, and skips it: the way in which a catalog itself takes a
/// version back. Channels and packages that become empty are left out too.
///
/// # Errors
/// The first package that could not be served that way.
pub fn leave_out(mut catalog: Catalog, bundles: &BTreeSet<BundleName>) -> Result<Catalog, LeaveOutError> {
    let mut by_package: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for name in bundles {
        by_package.entry(&name.package).or_default().insert(&name.bundle);
    }
    for (package, names) in by_package {
        let Some(content) = catalog.packages.get_mut(package) else { continue };
        content.bundles.retain(|bundle| !names.contains(bundle.blob.name.as_str()));
        if content.bundles.is_empty() {
            catalog.packages.remove(package);
            continue;
        }
        shorten(package, content, &names)?;
    }
    match validate(&catalog).into_iter().next() {
        Some(fault) => Err(LeaveOutError::Invalid(fault)),
        None => Ok(catalog),
    }
}

fn shorten(package: &str, content: &mut Content, names: &BTreeSet<&str>) -> Result<(), LeaveOutError> {
    for channel in &mut content.channels {
        for name in names {
            bypass(channel, name);
        }
    }
    let default = content.default_channel().to_owned();
    if content.channels.iter().any(|channel| channel.entries.is_empty() && channel.blob.name == default) {
        let bundles = names.iter().map(|name| (*name).to_owned()).collect();
        return Err(LeaveOutError::EmptyDefaultChannel { package: package.to_owned(), channel: default, bundles });
    }
    content.channels.retain(|channel| !channel.entries.is_empty());
    let channels: BTreeSet<&str> = content.channels.iter().map(|channel| channel.blob.name.as_str()).collect();
    let listed: BTreeSet<&str> =
        content.channels.iter().flat_map(|channel| &channel.entries).map(|entry| entry.name.as_str()).collect();
    content.bundles.retain(|bundle| listed.contains(bundle.blob.name.as_str()));
    let bundles: BTreeSet<&str> = content.bundles.iter().map(|bundle| bundle.blob.name.as_str()).collect();
    for deprecations in &mut content.deprecations {
        deprecations.keep(|schema, name| match schema {
            "olm.bundle" => bundles.contains(name),
            "olm.channel" => channels.contains(name),
            _ => true,
        });
    }
    Ok(())
}

/// Takes an entry out of a channel.
fn bypass(channel: &mut Channel, name: &str) {
    let Some(at) = channel.entries.iter().position(|entry| entry.name == name) else { return };
    let gone = channel.entries.remove(at);
    for entry in channel.entries.iter_mut().filter(|entry| entry.replaces == name) {
        entry.replaces.clone_from(&gone.replaces);
        let skips = std::iter::once(&gone.name).chain(&gone.skips);
        let new: Vec<_> =
            skips.filter(|skipped| !entry.skips.contains(skipped) && **skipped != entry.name).cloned().collect();
        entry.skips.extend(new);
    }
    let entries: BTreeMap<&str, &Entry> = channel.entries.iter().map(|entry| (entry.name.as_str(), entry)).collect();
    channel.blob.edit(|blob| {
        let Some(list) = blob.get_mut("entries").and_then(Value::as_array_mut) else { return };
        list.retain_mut(|value| {
            let named = value.get("name").and_then(Value::as_str).and_then(|name| entries.get(name));
            let (Some(entry), Some(value)) = (named, value.as_object_mut()) else { return false };
            if value.get("replaces").and_then(Value::as_str) == Some(name) {
                if entry.replaces.is_empty() {
                    value.remove("replaces");
                } else {
                    value.insert("replaces".to_owned(), json!(entry.replaces));
                }
                value.insert("skips".to_owned(), json!(entry.skips));
            }
            true
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Loader;

    fn catalog(channels: &[(&str, &[Value])], default: &str) -> Catalog {
        let mut loader = Loader::new(None);
        let mut documents = vec![json!({"schema": "olm.package", "name": "p", "defaultChannel": default})];
        let mut names = BTreeSet::new();
        for (channel, entries) in channels {
            documents.push(json!({"schema": "olm.channel", "package": "p", "name": channel, "entries": entries}));
            names.extend(entries.iter().filter_map(|entry| entry["name"].as_str()));
        }
        for name in names {
            let version = format!("1.{}.0", name.trim_start_matches(|c: char| !c.is_ascii_digit()));
            documents.push(
                json!({"schema": "olm.bundle", "package": "p", "name": name, "image": format!("q.test/{name}:1"),
                "properties": [{"type": "olm.package", "value": {"packageName": "p", "version": version}}]}),
            );
        }
        documents.push(json!({"schema": "olm.deprecations", "package": "p", "entries": [
            {"reference": {"schema": "olm.bundle", "name": "p2"}, "message": "old"}]}));
        for document in documents {
            loader.file("p/catalog.json", document.to_string().as_bytes());
        }
        loader.finish().unwrap().0
    }

    fn without(catalog: Catalog, names: &[&str]) -> Result<Catalog, LeaveOutError> {
        let name = |name: &&str| BundleName { package: "p".into(), bundle: (*name).into() };
        leave_out(catalog, &names.iter().map(name).collect())
    }

    fn chain() -> Vec<Value> {
        vec![
            json!({"name": "p3", "replaces": "p2", "skipRange": "<1.3.0"}),
            json!({"name": "p2", "replaces": "p1", "skips": ["p0"]}),
            json!({"name": "p1"}),
        ]
    }

    #[test]
    fn updates_lead_past_what_is_left_out() {
        let left = without(catalog(&[("a", &chain())], "a"), &["p2"]).unwrap();
        let content = &left.packages["p"];
        let [head, tail] = content.channels[0].entries.as_slice() else { panic!("{content:?}") };
        assert_eq!((head.replaces.as_str(), head.skips.as_slice()), ("p1", &["p2".to_owned(), "p0".to_owned()][..]));
        assert_eq!(tail.name, "p1");
        let written: Value = serde_json::from_str(&content.channels[0].blob.json.get()).unwrap();
        assert_eq!(
            written["entries"][0],
            json!({"name": "p3", "replaces": "p1", "skips": ["p2", "p0"], "skipRange": "<1.3.0"})
        );
        assert!(content.bundle("p2").is_none() && content.deprecations[0].entries.is_empty());
    }

    #[test]
    fn the_newest_and_the_oldest_can_be_left_out_too() {
        let left = without(catalog(&[("a", &chain())], "a"), &["p3"]).unwrap();
        assert_eq!(left.packages["p"].channels[0].entries[0].name, "p2");
        let left = without(catalog(&[("a", &chain())], "a"), &["p1", "p2"]).unwrap();
        let [only] = left.packages["p"].channels[0].entries.as_slice() else { panic!("{left:?}") };
        assert_eq!((only.name.as_str(), only.replaces.as_str()), ("p3", ""));
    }

    #[test]
    fn what_becomes_empty_goes_too_but_not_the_default_channel_alone() {
        let other = [json!({"name": "p9"})];
        let both = || catalog(&[("a", &chain()), ("b", &other)], "a");
        let left = without(both(), &["p9"]).unwrap();
        assert_eq!(left.packages["p"].channels.len(), 1);
        let error = without(both(), &["p1", "p2", "p3"]).unwrap_err();
        assert!(error.to_string().contains("its default channel `a` is empty"), "{error}");
        assert!(without(both(), &["p1", "p2", "p3", "p9"]).unwrap().packages.is_empty());
    }

    #[test]
    fn what_could_not_be_served_is_refused() {
        let entries = [json!({"name": "p3", "skips": ["p2", "p1"]}), json!({"name": "p2"}), json!({"name": "p1"})];
        let error = without(catalog(&[("a", &entries)], "a"), &["p3"]).unwrap_err();
        assert!(matches!(error, LeaveOutError::Invalid(_)), "{error}");
    }
}
