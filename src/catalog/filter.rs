//! Cuts a catalog down to a selection, by the rules of oc-mirror v2.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::channel::{Graph, GraphError};
use super::{
    Blob, Catalog, Channel, Content, Deprecations, Pick, Range, Selection, Text, VersionFault, nearest, version,
};

/// What is left of a catalog.
#[derive(Clone, Debug, Default)]
pub struct Filtered {
    /// The catalog.
    pub catalog: Catalog,
    /// What was asked for and is not there; it is left out.
    pub unknown: Vec<Unknown>,
}

/// A package or channel that the catalog does not have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unknown {
    /// The package.
    pub package: String,
    /// The channel, if it is only that.
    pub channel: Option<String>,
    /// Names that are like it.
    pub nearest: Vec<String>,
}

impl std::fmt::Display for Unknown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.channel {
            None => write!(f, "the catalog has no package `{}`", self.package)?,
            Some(channel) => write!(f, "package `{}` has no channel `{channel}`", self.package)?,
        }
        match self.nearest.as_slice() {
            [] => Ok(()),
            near => write!(f, "; there is {}", quoted(near)),
        }
    }
}

/// A selection that does not fit the catalog, or a catalog that cannot be filtered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// A bundle without a version.
    #[error("package `{package}`: bundle `{bundle}` has no property `olm.package`, so that its version is not known")]
    BundleWithoutVersion {
        /// The package.
        package: String,
        /// The bundle.
        bundle: String,
    },
    /// A bundle with a version that is none.
    #[error("package `{package}`: the version `{version}` of bundle `{bundle}` is not of the form 1.2.3")]
    BundleVersion {
        /// The package.
        package: String,
        /// The bundle.
        bundle: String,
        /// What it says.
        version: String,
    },
    /// The default channel is not kept.
    #[error(
        "package `{package}`: its default channel `{channel}` is not among those kept: name it too, or set `defaultChannel` to one \
         of {}",
        quoted(kept)
    )]
    DefaultChannelLeftOut {
        /// The package.
        package: String,
        /// The default channel.
        channel: String,
        /// What is kept.
        kept: Vec<String>,
    },
    /// The new default channel is not kept, or not there.
    #[error(
        "package `{package}`: `defaultChannel` is `{channel}`, which is not among the channels kept: {}",
        quoted(kept)
    )]
    DefaultChannelMissing {
        /// The package.
        package: String,
        /// The default channel.
        channel: String,
        /// What is kept.
        kept: Vec<String>,
    },
    /// Everything, and a range.
    #[error(
        "package `{package}`, channel `{channel}`: `full` and versions contradict each other: leave one of them out"
    )]
    FullWithRange {
        /// The package.
        package: String,
        /// The channel.
        channel: String,
    },
    /// A channel that is no graph of updates.
    #[error("package `{package}`, channel `{channel}` of the catalog is not valid: {error}")]
    Graph {
        /// The package.
        package: String,
        /// The channel.
        channel: String,
        /// Why.
        error: GraphError,
    },
    /// Nothing of the default channel is in range.
    #[error(
        "package `{package}`: its default channel `{channel}` has nothing in {range}{}; choose other versions, or name the channels \
         to keep and set `defaultChannel` to one of them", has(.versions.as_ref())
    )]
    EmptyDefaultChannel {
        /// The package.
        package: String,
        /// The default channel.
        channel: String,
        /// What was asked for.
        range: String,
        /// Lowest and highest version in it.
        versions: Option<(String, String)>,
    },
    /// A version that no bundle has.
    #[error("package `{package}`: no bundle has the version {version}; the nearest are {}", quoted(nearest))]
    PinnedVersionNotFound {
        /// The package.
        package: String,
        /// What was asked for.
        version: String,
        /// Versions around it.
        nearest: Vec<String>,
    },
}

impl FilterError {
    /// A short name, of those that oc-mirror's own cases are listed with.
    pub fn code(&self) -> &'static str {
        match self {
            Self::BundleWithoutVersion { .. } => "bundle-without-package-property",
            Self::BundleVersion { .. } => "bundle-version-invalid",
            Self::DefaultChannelLeftOut { .. } => "default-channel-filtered-out",
            Self::DefaultChannelMissing { .. } => "default-channel-override-missing",
            Self::FullWithRange { .. } => "full-with-range",
            Self::EmptyDefaultChannel { .. } => "empty-default-channel",
            Self::PinnedVersionNotFound { .. } => "pinned-version-not-found",
            Self::Graph { error, .. } => match error {
                GraphError::Empty => "channel-without-entries",
                GraphError::Duplicate(_) => "duplicate-entry",
                GraphError::ReplacesItself(_) => "entry-replaces-itself",
                GraphError::SkipsItself(_) => "entry-skips-itself",
                GraphError::Cycle(_) => "graph-cycle",
                GraphError::NoHead => "no-channel-head",
                GraphError::Heads(_) => "multiple-channel-heads",
            },
        }
    }
}

fn quoted(names: &[String]) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

fn has(versions: Option<&(String, String)>) -> String {
    versions.map(|(low, high)| format!(" (it has {low} to {high})")).unwrap_or_default()
}

/// Keeps what `selection` names. A catalog that is kept as it is is not looked at.
///
/// # Errors
/// One for each package that cannot be cut that way, in the order of their names.
pub fn filter(catalog: Catalog, selection: &Selection) -> Result<Filtered, Vec<FilterError>> {
    if selection.is_everything() {
        return Ok(Filtered { catalog, unknown: Vec::new() });
    }
    let mut unknown = Vec::new();
    let mut errors = Vec::new();
    let picks: BTreeMap<&str, &Pick> = selection.packages.iter().map(|pick| (pick.name.as_str(), pick)).collect();
    for name in picks.keys().filter(|name| !catalog.packages.contains_key(**name)) {
        let nearest = nearest(name, catalog.known.iter().map(String::as_str)).into_iter().map(str::to_owned).collect();
        unknown.push(Unknown { package: (*name).to_owned(), channel: None, nearest });
    }
    let mut packages = BTreeMap::new();
    let every = Pick::default();
    let mut catalog = catalog;
    for (name, content) in std::mem::take(&mut catalog.packages) {
        let (pick, named) = match picks.get(name.as_str()) {
            Some(pick) => (*pick, true),
            None if picks.is_empty() => (&every, false),
            None => continue,
        };
        let cut = Cut { name: &name, content: &content, pick, named, full: selection.full };
        unknown.extend(cut.unknown());
        match cut.apply() {
            Ok(plan) => drop(packages.insert(name.clone(), plan.carry_out(content))),
            Err(error) => errors.push(error),
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    Ok(Filtered { catalog: Catalog { packages, ..catalog }, unknown })
}

/// One package that is to be cut.
struct Cut<'a> {
    name: &'a str,
    content: &'a Content,
    pick: &'a Pick,
    /// The selection names it.
    named: bool,
    full: bool,
}

/// What is kept of a package.
#[derive(Default)]
struct Plan {
    default_channel: Option<String>,
    /// Names of entries by channel.
    channels: BTreeMap<String, BTreeSet<String>>,
    /// The package has no channels, and stays as it is.
    untouched: bool,
}

impl Cut<'_> {
    /// The channels that are looked at.
    fn channels(&self) -> impl Iterator<Item = &Channel> {
        let picked = |channel: &&Channel| {
            self.pick.channels.is_empty() || self.pick.channels.iter().any(|pick| pick.name == channel.blob.name)
        };
        self.content.channels.iter().filter(picked)
    }

    fn unknown(&self) -> Vec<Unknown> {
        let has = |name: &str| self.content.channels.iter().any(|channel| channel.blob.name == name);
        let missing = self.pick.channels.iter().map(|pick| pick.name.as_str()).filter(|name| !has(name));
        let names = || self.content.channels.iter().map(|channel| channel.blob.name.as_str());
        missing
            .map(|name| Unknown {
                package: self.name.to_owned(),
                channel: Some(name.to_owned()),
                nearest: nearest(name, names()).into_iter().map(str::to_owned).collect(),
            })
            .collect()
    }

    fn apply(&self) -> Result<Plan, FilterError> {
        self.check_default()?;
        self.check_versions()?;
        let mut plan = Plan { default_channel: self.pick.default_channel.clone(), ..Plan::default() };
        plan.untouched = self.channels().next().is_none();
        for channel in self.channels() {
            let name = &channel.blob.name;
            let kept = self.keep(channel)?;
            let is_default = self.content.default_channel() == name || plan.default_channel.as_ref() == Some(name);
            if kept.is_empty() && !self.full {
                if is_default {
                    return Err(self.empty_default(channel));
                }
                continue;
            }
            plan.channels.entry(name.clone()).or_default().extend(kept);
        }
        Ok(plan)
    }

    /// The default channel has to stay, or to be replaced by one that does.
    fn check_default(&self) -> Result<(), FilterError> {
        let kept = || self.channels().map(|channel| channel.blob.name.clone()).collect::<Vec<_>>();
        let package = || self.name.to_owned();
        match &self.pick.default_channel {
            Some(channel) if !kept().contains(channel) => {
                Err(FilterError::DefaultChannelMissing { package: package(), channel: channel.clone(), kept: kept() })
            }
            Some(_) => Ok(()),
            None => {
                let channel = self.content.default_channel();
                if !self.named || channel.is_empty() || kept().iter().any(|name| name == channel) {
                    return Ok(());
                }
                let channel = channel.to_owned();
                Err(FilterError::DefaultChannelLeftOut { package: package(), channel, kept: kept() })
            }
        }
    }

    fn check_versions(&self) -> Result<(), FilterError> {
        for bundle in &self.content.bundles {
            let (package, name) = (self.name.to_owned(), bundle.blob.name.clone());
            match &bundle.version {
                Ok(_) => {}
                Err(VersionFault::Missing) => return Err(FilterError::BundleWithoutVersion { package, bundle: name }),
                Err(VersionFault::Bad(version)) => {
                    return Err(FilterError::BundleVersion { package, bundle: name, version: version.clone() });
                }
            }
        }
        Ok(())
    }

    /// What applies to a channel: its own range, or that of the package.
    fn range(&self, channel: &Channel) -> &Range {
        let own = self.pick.channels.iter().find(|pick| pick.name == channel.blob.name).map(|pick| &pick.range);
        own.filter(|range| !range.is_unbounded()).unwrap_or(&self.pick.range)
    }

    /// The names that are kept of a channel.
    fn keep(&self, channel: &Channel) -> Result<BTreeSet<String>, FilterError> {
        let range = self.range(channel);
        let (package, name) = (self.name.to_owned(), channel.blob.name.clone());
        if self.full {
            if !range.is_unbounded() {
                return Err(FilterError::FullWithRange { package, channel: name });
            }
            return Ok(channel.entries.iter().map(|entry| entry.name.clone()).collect());
        }
        let graph =
            Graph::new(&channel.entries).map_err(|error| FilterError::Graph { package, channel: name, error })?;
        if let Some(pin) = range.pin() {
            let versions = self
                .content
                .bundles
                .iter()
                .filter_map(|bundle| Some((bundle.blob.name.as_str(), bundle.version.as_ref().ok()?)));
            let Some(bundle) = version::best(pin, versions) else { return Err(self.not_found(range)) };
            let entries = channel.entries.iter().map(|entry| entry.name.clone());
            return Ok(entries.filter(|name| name == bundle).collect());
        }
        if range.is_unbounded() {
            return Ok(BTreeSet::from([graph.head().to_owned()]));
        }
        let versions: BTreeMap<&str, _> = self
            .content
            .bundles
            .iter()
            .filter_map(|bundle| Some((bundle.blob.name.as_str(), bundle.version.as_ref().ok()?)))
            .collect();
        let kept = graph.cut(|name| versions.get(name).is_some_and(|version| range.contains(version)));
        let entries = channel.entries.iter().map(|entry| entry.name.as_str());
        Ok(entries.filter(|name| kept.contains(name)).map(str::to_owned).collect())
    }

    fn empty_default(&self, channel: &Channel) -> FilterError {
        let names: BTreeSet<&str> = channel.entries.iter().map(|entry| entry.name.as_str()).collect();
        let versions = self.content.bundles.iter().filter(|bundle| names.contains(bundle.blob.name.as_str()));
        let mut versions: Vec<_> = versions.filter_map(|bundle| bundle.version.as_ref().ok()).collect();
        versions.sort();
        let ends = versions.first().zip(versions.last());
        FilterError::EmptyDefaultChannel {
            package: self.name.to_owned(),
            channel: channel.blob.name.clone(),
            range: self.range(channel).to_string(),
            versions: ends.map(|(low, high)| (low.to_string(), high.to_string())),
        }
    }

    fn not_found(&self, range: &Range) -> FilterError {
        let pin = range.pin().map(ToString::to_string).unwrap_or_default();
        let mut versions: Vec<_> = self
            .content
            .bundles
            .iter()
            .filter_map(|bundle| bundle.version.as_ref().ok())
            .map(ToString::to_string)
            .collect();
        versions.sort_by_cached_key(|version| strsim::damerau_levenshtein(version, &pin));
        versions.truncate(3);
        FilterError::PinnedVersionNotFound { package: self.name.to_owned(), version: pin, nearest: versions }
    }
}

impl Plan {
    fn carry_out(self, content: Content) -> Content {
        if self.untouched {
            return content;
        }
        let mut content = content;
        if let Some(channel) = self.default_channel {
            for package in &mut content.packages {
                package.blob.edit(|blob| {
                    if let Some(blob) = blob.as_object_mut() {
                        blob.insert("defaultChannel".to_owned(), json!(channel));
                    }
                });
                package.default_channel.clone_from(&channel);
            }
        }
        content.channels.retain_mut(|channel| {
            let Some(kept) = self.channels.get(&channel.blob.name) else { return false };
            let before = channel.entries.len();
            channel.entries.retain(|entry| kept.contains(&entry.name));
            if channel.entries.len() != before {
                channel.blob.edit(|blob| {
                    retain(blob, |entry| {
                        entry.get("name").and_then(Value::as_str).is_some_and(|name| kept.contains(name))
                    });
                });
            }
            true
        });
        let kept: BTreeSet<&String> = self.channels.values().flatten().collect();
        content.bundles.retain(|bundle| kept.contains(&bundle.blob.name));
        let bundles: BTreeSet<&str> = content.bundles.iter().map(|bundle| bundle.blob.name.as_str()).collect();
        for deprecations in &mut content.deprecations {
            deprecations.keep(|schema, name| match schema {
                "olm.bundle" => bundles.contains(name),
                "olm.channel" => self.channels.contains_key(name),
                _ => true,
            });
        }
        content
    }
}

/// Keeps some of the `entries`.
fn retain(blob: &mut Value, stays: impl Fn(&Value) -> bool) {
    if let Some(entries) = blob.get_mut("entries").and_then(Value::as_array_mut) {
        entries.retain(stays);
    }
}

impl Deprecations {
    /// Keeps the entries about what stays, which is told by schema and name.
    pub(super) fn keep(&mut self, stays: impl Fn(&str, &str) -> bool) {
        let before = self.entries.len();
        self.entries.retain(|entry| stays(&entry.reference.schema, &entry.reference.name));
        if self.entries.len() == before {
            return;
        }
        let text = |entry: &Value, key: &str| {
            let text = entry.get("reference").and_then(|reference| reference.get(key)).and_then(Value::as_str);
            text.unwrap_or_default().to_owned()
        };
        self.blob.edit(|blob| retain(blob, |entry| stays(&text(entry, "schema"), &text(entry, "name"))));
    }
}

impl Blob {
    /// Writes the document anew.
    pub(super) fn edit(&mut self, change: impl FnOnce(&mut Value)) {
        // It was read as JSON before.
        if let Ok(mut value) = serde_json::from_str(&self.json.get()) {
            change(&mut value);
            self.json = Text::from(value.to_string());
        }
    }
}

#[cfg(test)]
mod tests;
