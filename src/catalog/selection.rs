//! What is to be kept of a catalog.

use std::collections::BTreeSet;

use serde::Serialize;

use super::{Bound, Range};
use crate::api::content::Operator;

/// What is kept of a catalog.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Selection {
    /// Every entry of the channels, not only heads.
    pub full: bool,
    /// The packages; all if none is named.
    pub packages: Vec<Pick>,
}

/// What is kept of a package.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Pick {
    /// Its name.
    pub name: String,
    /// What is to be its default channel.
    pub default_channel: Option<String>,
    /// Versions, in channels that have no range of their own.
    pub range: Range,
    /// The channels; all if none is named.
    pub channels: Vec<PickedChannel>,
}

/// What is kept of a channel.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct PickedChannel {
    /// Its name.
    pub name: String,
    /// Versions.
    pub range: Range,
}

/// A selection that contradicts itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectionError {
    /// A package without a name.
    #[error("packages[{index}] has no name")]
    MissingPackageName {
        /// Its place.
        index: usize,
    },
    /// A channel without a name.
    #[error("package `{package}`: channels[{index}] has no name")]
    MissingChannelName {
        /// The package.
        package: String,
        /// Its place.
        index: usize,
    },
    /// A package that is named twice.
    #[error("package `{package}` is named twice: keep one of the two")]
    DuplicatePackage {
        /// Its name.
        package: String,
    },
    /// A channel that is named twice.
    #[error("package `{package}`: channel `{channel}` is named twice: keep one of the two")]
    DuplicateChannel {
        /// The package.
        package: String,
        /// Its name.
        channel: String,
    },
    /// Something that is not a version.
    #[error("package `{package}`: `{text}` is not a version: write up to three numbers, such as 4.18.1")]
    InvalidVersion {
        /// The package.
        package: String,
        /// What was written.
        text: String,
    },
    /// A range for the package and for a channel of it.
    #[error(
        "package `{package}`, channel `{channel}`: give minVersion and maxVersion for the package or for its channels, not for both"
    )]
    RangeAtPackageAndChannel {
        /// The package.
        package: String,
        /// The channel.
        channel: String,
    },
}

impl SelectionError {
    /// A short name, of those that oc-mirror's own cases are listed with.
    pub fn code(&self) -> &'static str {
        match self {
            Self::MissingPackageName { .. } => "missing-package-name",
            Self::MissingChannelName { .. } => "missing-channel-name",
            Self::DuplicatePackage { .. } => "duplicate-package",
            Self::DuplicateChannel { .. } => "duplicate-channel",
            Self::InvalidVersion { .. } => "invalid-version",
            Self::RangeAtPackageAndChannel { .. } => "range-at-package-and-channel",
        }
    }
}

impl Selection {
    /// Reads an entry of `operators`.
    ///
    /// # Errors
    /// Everything in which it contradicts itself.
    pub fn new(operator: &Operator) -> Result<Self, Vec<SelectionError>> {
        let mut errors = Vec::new();
        let mut packages: Vec<Pick> = Vec::new();
        let mut names = BTreeSet::new();
        for (index, package) in operator.packages.iter().enumerate() {
            let name = &package.name;
            if name.is_empty() {
                errors.push(SelectionError::MissingPackageName { index });
            } else if !names.insert(name) {
                errors.push(SelectionError::DuplicatePackage { package: name.clone() });
            }
            let range = range(name, package.min_version.as_deref(), package.max_version.as_deref(), &mut errors);
            let bounded = package.min_version.is_some() || package.max_version.is_some();
            let mut channels: Vec<PickedChannel> = Vec::new();
            for (index, channel) in package.channels.iter().enumerate() {
                if channel.name.is_empty() {
                    errors.push(SelectionError::MissingChannelName { package: name.clone(), index });
                } else if channels.iter().any(|known| known.name == channel.name) {
                    let (package, channel) = (name.clone(), channel.name.clone());
                    errors.push(SelectionError::DuplicateChannel { package, channel });
                }
                let (min, max) = (channel.min_version.as_deref(), channel.max_version.as_deref());
                if bounded && (min.is_some() || max.is_some()) {
                    let (package, channel) = (name.clone(), channel.name.clone());
                    errors.push(SelectionError::RangeAtPackageAndChannel { package, channel });
                }
                let range = self::range(name, min, max, &mut errors);
                channels.push(PickedChannel { name: channel.name.clone(), range });
            }
            let default_channel = package.default_channel.clone().filter(|name| !name.is_empty());
            packages.push(Pick { name: name.clone(), default_channel, range, channels });
        }
        if errors.is_empty() { Ok(Self { full: operator.full, packages }) } else { Err(errors) }
    }

    /// True if the catalog is kept as it is.
    pub fn is_everything(&self) -> bool {
        self.full && self.packages.is_empty()
    }

    /// The packages that are named; none if all are meant.
    pub fn named(&self) -> Option<BTreeSet<String>> {
        let names = self.packages.iter().map(|pick| pick.name.clone());
        (!self.packages.is_empty()).then(|| names.collect())
    }
}

fn range(package: &str, min: Option<&str>, max: Option<&str>, errors: &mut Vec<SelectionError>) -> Range {
    let mut bound = |text: Option<&str>| {
        let text = text.filter(|text| !text.is_empty())?;
        let bound = Bound::parse(text);
        if bound.is_none() {
            errors.push(SelectionError::InvalidVersion { package: package.to_owned(), text: text.to_owned() });
        }
        bound
    };
    Range { min: bound(min), max: bound(max) }
}
