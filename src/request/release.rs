//! The validated request of `platform`: which releases, for what.

use std::collections::BTreeSet;

use semver::Version;

use crate::api::content as api;
pub use crate::api::content::ReleaseKind as Product;
use crate::oci::{Platform, Reference};

use super::build::Faults;
use super::content::{image, platforms};

/// What the whole of `platform` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleaseRequest {
    /// Which releases.
    pub choice: ReleaseChoice,
    /// Architectures that the update service is asked for, in the user's order; `multi` alone if `platforms` are given.
    pub architectures: Vec<String>,
    /// Platforms to copy of multi-architecture releases; empty for all.
    pub platforms: BTreeSet<Platform>,
    /// The disk images for `KubeVirt` to mirror with each release; empty for none.
    pub boot_images: BTreeSet<BootImage>,
    /// Whether the image of the update graph is wanted.
    pub graph: bool,
}

/// How releases are chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReleaseChoice {
    /// From channels, in the user's order.
    Channels(Vec<ReleaseChannel>),
    /// One by its payload.
    Image {
        /// As written.
        written: String,
        /// The same.
        named: Reference,
    },
}

/// Versions of one channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleaseChannel {
    /// Name of the channel.
    pub name: String,
    /// Whose channel.
    pub product: Product,
    /// Which of its versions.
    pub versions: Versions,
}

/// Which versions of a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Versions {
    /// The newest alone.
    Newest {
        /// Not above this.
        max: Option<Version>,
    },
    /// All of a range.
    Range {
        /// From here; from the channel's lowest if not given.
        min: Option<Version>,
        /// To here; to the channel's highest if not given.
        max: Option<Version>,
    },
    /// Those of the shortest way.
    ShortestPath {
        /// From here.
        min: Version,
        /// To here.
        max: Version,
    },
}

/// A disk image for `KubeVirt`; releases have it for these two architectures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BootImage {
    /// amd64.
    X86_64,
    /// s390x.
    S390x,
}

impl BootImage {
    const ALL: [Self; 2] = [Self::X86_64, Self::S390x];

    /// The architecture as releases spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::S390x => "s390x",
        }
    }

    /// The one for an architecture in Go's spelling.
    fn of(architecture: &str) -> Option<Self> {
        match architecture {
            "amd64" => Some(Self::X86_64),
            "s390x" => Some(Self::S390x),
            _ => None,
        }
    }
}

/// The architecture whose releases list all platforms.
pub const MULTI: &str = "multi";

/// Checks `platform`; none if it asks for no release.
pub(super) fn read(platform: &api::PlatformContent, faults: &mut Faults) -> Option<ReleaseRequest> {
    let field = "spec.mirror.platform";
    if !platform.architectures.is_empty() && !platform.platforms.is_empty() {
        faults.invalid(field, "give architectures or platforms, not both");
    }
    let named =
        platform.release.as_ref().map(|written| (written, release(&format!("{field}.release"), written, faults)));
    let entries = platform.channels.iter().enumerate();
    let channels: Vec<_> =
        entries.filter_map(|(index, entry)| channel(&format!("{field}.channels[{index}]"), entry, faults)).collect();
    let choice = match named {
        Some((written, named)) => ReleaseChoice::Image { written: written.clone(), named: named? },
        None if channels.is_empty() => return None,
        None => ReleaseChoice::Channels(channels),
    };
    let architectures = if !platform.platforms.is_empty() {
        vec![MULTI.to_owned()]
    } else if platform.architectures.is_empty() {
        vec!["amd64".to_owned()]
    } else {
        platform.architectures.clone()
    };
    Some(ReleaseRequest {
        choice,
        architectures,
        platforms: platforms(&platform.platforms),
        boot_images: if platform.kube_virt_container { boot_images(platform) } else { BTreeSet::new() },
        graph: platform.graph,
    })
}

fn release(field: &str, written: &str, faults: &mut Faults) -> Option<Reference> {
    if written.starts_with(['/', '.']) {
        faults.invalid(
            field,
            format!(
                "`{written}` is a path on disk, which has no meaning here: write the image of a release payload, such as \
                 quay.io/openshift-release-dev/ocp-release:4.18.10-x86_64"
            ),
        );
        return None;
    }
    image(field, written, faults)
}

fn channel(field: &str, entry: &api::ReleaseChannel, faults: &mut Faults) -> Option<ReleaseChannel> {
    if entry.shortest_path && (entry.min_version.is_none() || entry.max_version.is_none()) {
        faults.invalid(field, "shortestPath needs minVersion and maxVersion");
    }
    if entry.shortest_path && entry.full {
        faults.invalid(field, "give full or shortestPath, not both");
    }
    let mut bound = |name: &str, text: &Option<String>| match text {
        None => Some(None),
        Some(text) => match version(text) {
            Some(version) => Some(Some(version)),
            None => {
                faults.invalid(
                    format!("{field}.{name}"),
                    format!("`{text}` is not a version: write numbers without leading zeros, such as 4.18.10"),
                );
                None
            }
        },
    };
    let (min, max) = (bound("minVersion", &entry.min_version), bound("maxVersion", &entry.max_version));
    let (min, max) = (min?, max?);
    if let (Some(low), Some(high)) = (&min, &max)
        && low.cmp_precedence(high).is_gt()
    {
        faults.invalid(field, format!("minVersion {low} is above maxVersion {high}: exchange them"));
    }
    let versions = match (min, max) {
        (Some(min), Some(max)) if entry.shortest_path => Versions::ShortestPath { min, max },
        (None, max) if !entry.full => Versions::Newest { max },
        (min, max) => Versions::Range { min, max },
    };
    Some(ReleaseChannel { name: entry.name.clone(), product: entry.kind, versions })
}

/// A version as people write it: a leading `v` is of no account, and numbers that are left out are zero.
fn version(text: &str) -> Option<Version> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let (numbers, rest) = text.split_at(text.find(['-', '+']).unwrap_or(text.len()));
    let missing = ".0".repeat(2_usize.saturating_sub(numbers.matches('.').count()));
    Version::parse(&format!("{numbers}{missing}{rest}")).ok()
}

fn boot_images(platform: &api::PlatformContent) -> BTreeSet<BootImage> {
    if platform.architectures.iter().any(|architecture| architecture == MULTI) {
        return BootImage::ALL.into();
    }
    let platforms = platform.platforms.iter().map(|platform| &platform.architecture);
    let named = platforms.chain(&platform.architectures);
    let found: BTreeSet<_> = named.filter_map(|architecture| BootImage::of(architecture)).collect();
    match (found.is_empty(), platform.platforms.is_empty()) {
        (false, _) => found,
        (true, true) => [BootImage::X86_64].into(),
        (true, false) => BootImage::ALL.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(platform: serde_json::Value) -> Result<ReleaseRequest, Vec<String>> {
        let mut faults = Faults::default();
        let found = super::read(&serde_json::from_value(platform).unwrap(), &mut faults);
        let messages: Vec<_> =
            faults.0.into_iter().map(|fault| format!("{}: {}", fault.field, fault.message)).collect();
        found.filter(|_| messages.is_empty()).ok_or(messages)
    }

    fn one(channel: &serde_json::Value) -> Result<Versions, Vec<String>> {
        let request = read(serde_json::json!({"channels": [channel]}))?;
        let ReleaseChoice::Channels(channels) = request.choice else { panic!("{:?}", request.choice) };
        Ok(channels.into_iter().next().unwrap().versions)
    }

    #[test]
    fn bounds_and_switches_mean_what_oc_mirror_means_but_for_a_lone_upper_bound() {
        use serde_json::json;
        let version = |text: &str| Version::parse(text).unwrap();
        let (low, high) = (version("4.18.1"), version("4.18.9"));
        let range =
            |min: Option<&Version>, max: Option<&Version>| Versions::Range { min: min.cloned(), max: max.cloned() };
        for (channel, expected) in [
            (json!({"name": "a"}), Versions::Newest { max: None }),
            (json!({"name": "a", "maxVersion": "4.18.9"}), Versions::Newest { max: Some(high.clone()) }),
            (json!({"name": "a", "full": true}), range(None, None)),
            (json!({"name": "a", "full": true, "maxVersion": "4.18.9"}), range(None, Some(&high))),
            (json!({"name": "a", "full": true, "minVersion": "4.18.1"}), range(Some(&low), None)),
            (json!({"name": "a", "minVersion": "4.18.1"}), range(Some(&low), None)),
            (json!({"name": "a", "minVersion": "v4.18.1", "maxVersion": "4.18.9"}), range(Some(&low), Some(&high))),
            (json!({"name": "a", "minVersion": "4.18"}), range(Some(&version("4.18.0")), None)),
            (json!({"name": "a", "minVersion": "4-rc.1"}), range(Some(&version("4.0.0-rc.1")), None)),
            (
                json!({"name": "a", "minVersion": "4.18.1", "maxVersion": "4.18.9", "shortestPath": true}),
                Versions::ShortestPath { min: low, max: high },
            ),
        ] {
            assert_eq!(one(&channel).unwrap(), expected, "{channel}");
        }
    }

    #[test]
    fn bounds_that_are_no_versions_or_exclude_everything_are_faults_of_their_fields() {
        use serde_json::json;
        for (channel, text) in [
            (json!({"name": "a", "minVersion": "4.018.1"}), "channels[0].minVersion: `4.018.1` is not a version"),
            (json!({"name": "a", "minVersion": "x", "maxVersion": "y"}), "channels[0].minVersion: `x`"),
            (json!({"name": "a", "minVersion": "4.18.2", "maxVersion": "4.18.1"}), "4.18.2 is above maxVersion 4.18.1"),
            (json!({"name": "a", "minVersion": "4.18.2", "shortestPath": true}), "shortestPath needs"),
        ] {
            let found = one(&channel).unwrap_err();
            assert!(found[0].contains(text), "{channel}: {found:?}");
        }
        assert_eq!(one(&json!({"name": "a", "minVersion": "x", "maxVersion": "y"})).unwrap_err().len(), 2);
    }

    #[test]
    fn architectures_have_a_default_and_platforms_mean_the_multi_architecture_release() {
        use serde_json::json;
        let channels = json!([{"name": "a"}]);
        let of = |extra: serde_json::Value| {
            let mut platform = extra;
            platform["channels"] = channels.clone();
            read(platform).unwrap()
        };
        assert_eq!(of(json!({})).architectures, ["amd64"]);
        assert_eq!(of(json!({"architectures": ["arm64", "amd64"]})).architectures, ["arm64", "amd64"]);
        let platforms = of(json!({"platforms": [{"os": "linux", "architecture": "arm64"}]}));
        assert_eq!((platforms.architectures, platforms.platforms.len()), (vec!["multi".to_owned()], 1));
    }

    #[test]
    fn boot_images_are_those_of_the_architectures_asked_for() {
        use serde_json::{Value, json};
        let on = |names: &[&str]| -> Vec<Value> {
            names.iter().map(|name| json!({"os": "linux", "architecture": name})).collect()
        };
        // E50 to E53.
        for (platforms, architectures, expected) in [
            (on(&[]), vec![], vec!["x86_64"]),
            (on(&["amd64", "s390x"]), vec![], vec!["x86_64", "s390x"]),
            (on(&["amd64", "arm64", "ppc64le", "s390x"]), vec![], vec!["x86_64", "s390x"]),
            (on(&["arm64"]), vec![], vec!["x86_64", "s390x"]),
            (on(&["s390x"]), vec![], vec!["s390x"]),
            (on(&[]), vec!["multi"], vec!["x86_64", "s390x"]),
            (on(&[]), vec!["s390x"], vec!["s390x"]),
            (on(&[]), vec!["arm64"], vec!["x86_64"]),
        ] {
            let platform = json!({"channels": [{"name": "a"}], "kubeVirtContainer": true, "platforms": platforms,
                "architectures": architectures});
            let found: Vec<_> = read(platform).unwrap().boot_images.into_iter().map(BootImage::as_str).collect();
            assert_eq!(found, expected, "{platforms:?} {architectures:?}");
        }
        assert!(read(json!({"channels": [{"name": "a"}]})).unwrap().boot_images.is_empty());
    }

    proptest::proptest! {
        #[test]
        fn reading_a_version_never_panics(text in ".*", near in "v?[0-9.]{0,9}[-+]?[a-z0-9.]{0,5}") {
            let _ = (version(&text), version(&near));
        }
    }
}
