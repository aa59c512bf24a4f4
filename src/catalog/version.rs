//! Versions as users write them, and the ranges they stand for.
//!
//! oc-mirror reads bounds with the Go library Masterminds/semver, whose rules for pre-releases and for versions with fewer than
//! three numbers differ from those of Cargo and npm: <https://github.com/Masterminds/semver#checking-version-constraints>.

use std::cmp::Ordering;
use std::fmt;

use semver::{BuildMetadata, Prerelease, Version};
use serde::{Serialize, Serializer};

/// A version with one to three numbers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bound {
    text: String,
    version: Version,
    /// How many numbers were written.
    numbers: usize,
}

impl Bound {
    /// Reads `1`, `1.2`, `v1.2.3`, `01.2.3-rc.1+build`; none for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let bare = text.strip_prefix('v').unwrap_or(text);
        let (rest, build) = bare.split_once('+').map_or((bare, ""), |(rest, build)| (rest, build));
        let (numbers, pre) = rest.split_once('-').map_or((rest, ""), |(numbers, pre)| (numbers, pre));
        // A sign without anything behind it.
        if bare.ends_with(['+', '-']) || rest.ends_with('-') {
            return None;
        }
        let parts: Vec<u64> = numbers
            .split('.')
            .map(|part| part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse().ok()).flatten())
            .collect::<Option<_>>()?;
        let (major, minor, patch) = match parts.as_slice() {
            [major] => (*major, 0, 0),
            [major, minor] => (*major, *minor, 0),
            [major, minor, patch] => (*major, *minor, *patch),
            _ => return None,
        };
        let mut version = Version::new(major, minor, patch);
        version.pre = Prerelease::new(pre).ok()?;
        version.build = BuildMetadata::new(build).ok()?;
        Some(Self { text: text.to_owned(), version, numbers: parts.len() })
    }
}

impl Serialize for Bound {
    /// As it was written.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

/// From one version to another, both included.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Range {
    /// The lowest.
    pub min: Option<Bound>,
    /// The highest.
    pub max: Option<Bound>,
}

impl Range {
    /// True if it leaves nothing out.
    pub fn is_unbounded(&self) -> bool {
        self.min.is_none() && self.max.is_none()
    }

    /// The version, if exactly one is meant.
    pub fn pin(&self) -> Option<&Bound> {
        let (min, max) = (self.min.as_ref()?, self.max.as_ref()?);
        let whole = min.numbers == 3 && max.numbers == 3;
        (min.text == max.text || whole && min.version.cmp_precedence(&max.version) == Ordering::Equal).then_some(min)
    }

    /// Whether a version lies within. Build metadata does not count. Pre-releases lie in no range without a bound that is one.
    pub fn contains(&self, version: &Version) -> bool {
        let bounds = [&self.min, &self.max];
        let pre = bounds.iter().filter_map(|bound| bound.as_ref()).any(|bound| !bound.version.pre.is_empty());
        if !self.is_unbounded() && !version.pre.is_empty() && !pre {
            return false;
        }
        let above = self.min.as_ref().is_none_or(|min| version.cmp_precedence(&min.version) != Ordering::Less);
        let below = self.max.as_ref().is_none_or(|max| match max.numbers {
            // `<=1` is any 1.x, `<=1.2` any 1.2.x.
            1 => version.major <= max.version.major,
            2 => (version.major, version.minor) <= (max.version.major, max.version.minor),
            _ => version.cmp_precedence(&max.version) != Ordering::Greater,
        });
        above && below
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.min, &self.max) {
            (None, None) => f.write_str("any version"),
            (Some(min), None) => write!(f, "{} and above", min.text),
            (None, Some(max)) => write!(f, "up to {}", max.text),
            (Some(min), Some(max)) => write!(f, "{} to {}", min.text, max.text),
        }
    }
}

/// The best of several builds of a pinned version: the one that is written the same, else the one without metadata, else the
/// newest.
pub(super) fn best<'a, T>(pin: &Bound, builds: impl Iterator<Item = (T, &'a Version)>) -> Option<T> {
    let equal = builds.filter(|(_, version)| version.cmp_precedence(&pin.version) == Ordering::Equal);
    let rank = |version: &Version| {
        let same = !pin.version.build.is_empty() && version.build == pin.version.build;
        (same, version.build.is_empty(), version.build.clone())
    };
    equal.max_by_key(|(_, version)| rank(version)).map(|(build, _)| build)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(min: &str, max: &str) -> Range {
        let bound = |text: &str| (!text.is_empty()).then(|| Bound::parse(text).unwrap());
        Range { min: bound(min), max: bound(max) }
    }

    #[test]
    fn bounds_are_read_as_leniently_as_in_oc_mirror() {
        for good in ["1", "1.2", "v1.2.3", "01.2.3", "1.2.3-rc.1+b.2", "1.2-rc"] {
            assert!(Bound::parse(good).is_some(), "{good}");
        }
        for bad in [
            "",
            "v",
            "abc",
            "1.2.3.4",
            "1.2.x",
            "1.2.3-01",
            "1..2",
            "1.2.3-",
            "1.2.3+",
            "+1",
            "1.2.3-a+",
            "99999999999999999999",
        ] {
            assert!(Bound::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_range_holds_what_it_does_in_oc_mirror() {
        for (min, max, version, held) in [
            ("0.9.0", "", "0.9.0", true),
            ("0.9.0", "", "0.10.0-mas", false),
            ("0.9.0-a", "", "0.10.0-mas", true),
            ("0.9.0", "1.0.0-rc", "0.10.0-mas", true),
            ("", "0.8.3", "0.8.3+x", true),
            ("", "0.8.3+x", "0.8.3+y", true),
            ("", "1.2", "1.2.9", true),
            ("", "1.2", "1.3.0", false),
            ("", "1", "1.99.0", true),
            ("", "1", "2.0.0", false),
            ("", "1", "0.1.0", true),
            ("1.2", "", "1.2.0", true),
            ("1.2", "", "1.1.9", false),
            ("4.15.0", "", "4.15.2-rhodf", false),
            ("2.0.0", "1.0.0", "1.5.0", false),
        ] {
            assert_eq!(range(min, max).contains(&version.parse().unwrap()), held, "{min}..{max} {version}");
        }
        assert!(range("", "").contains(&"1.0.0-rc".parse().unwrap()));
    }

    #[test]
    fn a_pin_takes_the_build_that_is_written_then_the_plain_one_then_the_newest() {
        let pick = |pin: &str, builds: &[&str]| {
            let versions: Vec<Version> = builds.iter().map(|text| text.parse().unwrap()).collect();
            let range = range(pin, pin);
            best(range.pin().unwrap(), versions.iter().map(|version| (version.to_string(), version)))
        };
        assert_eq!(pick("1.0.0+b", &["1.0.0", "1.0.0+a", "1.0.0+b"]).as_deref(), Some("1.0.0+b"));
        assert_eq!(pick("1.0.0+c", &["1.0.0+a", "1.0.0", "1.0.0+b"]).as_deref(), Some("1.0.0"));
        assert_eq!(pick("1.0.0", &["1.0.0+0.9", "1.0.0+0.10"]).as_deref(), Some("1.0.0+0.10"));
        assert_eq!(pick("1.0.0", &["1.0.0-rc", "1.0.1"]), None);
        assert!(range("1.0.0", "1.0.1").pin().is_none() && range("1.0.0", "v1.0.0").pin().is_some());
    }
}
