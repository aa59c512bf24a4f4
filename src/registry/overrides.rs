//! Where a source is really read from: mirrors in front of, or instead of, the registry that a name says.
//!
//! The rule is that of `registries.conf`: whole path components, the longest match wins, its mirrors are tried in order,
//! and the original place only if it is listed itself.

use std::fmt;
use std::str::FromStr;

use crate::oci::{NameError, Registry, Repository, RepositoryPath};

/// A registry, or a registry and the beginning of a path: `quay.io` or `quay.io/acme`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    registry: Registry,
    path: Option<RepositoryPath>,
}

impl Prefix {
    /// The registry.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// What of `repository` follows this prefix; none if it is not below it.
    fn rest<'a>(&self, repository: &'a Repository) -> Option<&'a str> {
        if repository.registry() != &self.registry {
            return None;
        }
        let path = repository.path().as_str();
        match &self.path {
            None => Some(path),
            Some(prefix) => match path.strip_prefix(prefix.as_str())? {
                "" => Some(""),
                rest => rest.strip_prefix('/'),
            },
        }
    }

    fn join(&self, rest: &str) -> Result<Repository, NameError> {
        let path = match (&self.path, rest) {
            (None, rest) => rest.parse()?,
            (Some(path), "") => path.clone(),
            (Some(path), rest) => format!("{}/{rest}", path.as_str()).parse()?,
        };
        Ok(Repository::new(self.registry.clone(), path))
    }

    fn depth(&self) -> usize {
        self.path.as_ref().map_or(0, |path| path.components().count())
    }
}

impl FromStr for Prefix {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.split_once('/') {
            None => Ok(Self { registry: text.parse()?, path: None }),
            Some((registry, path)) => Ok(Self { registry: registry.parse()?, path: Some(path.parse()?) }),
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            None => write!(f, "{}", self.registry),
            Some(path) => write!(f, "{}/{path}", self.registry),
        }
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One rule: content named below `source` is read from `mirrors`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// What names begin with.
    pub source: Prefix,
    /// Where to read instead, in order. Empty means: from where the name says.
    pub mirrors: Vec<Prefix>,
}

/// The places to read `repository` from, in order; empty if a rule applies but none of its mirrors makes a name.
pub(super) fn places(overrides: &[Override], repository: &Repository) -> Vec<Repository> {
    let longest = overrides
        .iter()
        .filter_map(|rule| Some((rule, rule.source.rest(repository)?)))
        .filter(|(rule, _)| !rule.mirrors.is_empty())
        // Of equals the first wins.
        .reduce(|best, next| if next.0.source.depth() > best.0.source.depth() { next } else { best });
    let Some((rule, rest)) = longest else { return vec![repository.clone()] };
    // A mirror that names only a host, for a source that names a whole repository, has no path left.
    rule.mirrors.iter().filter_map(|mirror| mirror.join(rest).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(source: &str, mirrors: &[&str]) -> Override {
        Override {
            source: source.parse().unwrap(),
            mirrors: mirrors.iter().map(|mirror| mirror.parse().unwrap()).collect(),
        }
    }

    fn read(overrides: &[Override], repository: &str) -> Vec<String> {
        places(overrides, &repository.parse().unwrap()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn whole_components_match_the_longest_first_and_mirrors_keep_their_order() {
        let rules = [
            rule("quay.io", &["cache.example/quay"]),
            rule("quay.io/acme", &["a.example:5000", "b.example/x", "quay.io/acme"]),
            rule("quay.io/acme/tool", &["c.example/tool"]),
        ];
        assert_eq!(read(&rules, "quay.io/other/x"), ["cache.example/quay/other/x"]);
        assert_eq!(read(&rules, "quay.io/acmexx/x"), ["cache.example/quay/acmexx/x"]);
        assert_eq!(read(&rules, "quay.io/acme/x"), ["a.example:5000/x", "b.example/x/x", "quay.io/acme/x"]);
        assert_eq!(read(&rules, "quay.io/acme/tool"), ["c.example/tool"]);
        assert_eq!(read(&rules, "ghcr.io/acme/tool"), ["ghcr.io/acme/tool"]);
    }

    #[test]
    fn the_original_place_is_not_tried_unless_listed() {
        assert_eq!(read(&[rule("quay.io", &["m.example"])], "quay.io/a/b"), ["m.example/a/b"]);
        assert!(read(&[rule("quay.io/a/b", &["m.example"])], "quay.io/a/b").is_empty());
    }

    #[test]
    fn prefixes_are_read_and_printed() {
        for text in ["quay.io", "h:5000", "h:5000/a/b"] {
            assert_eq!(text.parse::<Prefix>().unwrap().to_string(), text);
        }
        for text in ["", "https://quay.io", "quay.io/", "quay.io/A", "quay.io/a:1"] {
            assert!(text.parse::<Prefix>().is_err(), "{text}");
        }
    }
}
