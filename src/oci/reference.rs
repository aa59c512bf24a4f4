//! Names of registries, repositories and images.
//!
//! The grammar is that of the distribution project; a name without a registry is Docker Hub's, as every container
//! runtime reads it. Unlike there, upper case is refused in host names too: mirror sets and certificates compare them as
//! strings.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::digest::{Digest, DigestError};

/// Docker Hub's name in references.
const DOCKER_HUB: &str = "docker.io";
/// Longest repository path: the distribution project's bound of 255 for the whole name.
const MAX_PATH: usize = 255;
/// Longest tag.
const MAX_TAG: usize = 128;

/// Why a string is not a name, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing there.
    #[error("the image name is empty: write `host/path:tag` or `host/path@sha256:…`")]
    Empty,
    /// A transport or URL scheme.
    #[error("`{text}` starts with a scheme: write only `host/path:tag`, without `{scheme}://`")]
    Scheme {
        /// The input.
        text: String,
        /// What stands before `://`.
        scheme: String,
    },
    /// White space or control characters.
    #[error("`{text}` contains white space: remove it")]
    Space {
        /// The input.
        text: String,
    },
    /// A host outside the grammar.
    #[error("`{text}` is not a registry host: write `host` or `host:port` in lower case, without scheme and path")]
    Registry {
        /// The input.
        text: String,
    },
    /// A path outside the grammar.
    #[error(
        "`{text}` is not a repository path: components are lower-case letters and digits, joined by single `.` or `_`, \
         by `__` or by `-`, and separated by `/`"
    )]
    Path {
        /// The input.
        text: String,
    },
    /// A path that is too long.
    #[error("the repository path `{text}` has {length} characters; at most {MAX_PATH} are allowed", length = text.len())]
    PathTooLong {
        /// The input.
        text: String,
    },
    /// A tag outside the grammar.
    #[error(
        "`{text}` is not a tag: at most {MAX_TAG} letters, digits, `_`, `.` and `-`, starting with a letter, digit or `_`"
    )]
    Tag {
        /// The input.
        text: String,
    },
    /// A digest outside the grammar.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// Neither tag nor digest.
    #[error(
        "`{text}` has neither a tag nor a digest: write `{text}:TAG` or `{text}@sha256:…` (`latest` is not assumed)"
    )]
    Untagged {
        /// The input.
        text: String,
    },
}

/// A registry, `host` or `host:port`, lower case.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Registry(Arc<str>);

impl Registry {
    /// `host[:port]`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The host without the port.
    pub fn host(&self) -> &str {
        match self.0.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
            _ => &self.0,
        }
    }

    /// True for an IPv6 literal, which mirror sets cannot express.
    pub fn is_ipv6(&self) -> bool {
        self.0.starts_with('[')
    }
}

fn valid_host(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            (None, rest.strip_prefix(':').or_else(|| (!rest.is_empty()).then_some("bad")))
        }
        None => match text.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(text), None),
        },
    };
    let port_ok = port.is_none_or(|port| {
        (1..=5).contains(&port.len())
            && port.bytes().all(|b| b.is_ascii_digit())
            && port.parse::<u16>().is_ok_and(|port| port != 0)
    });
    let label_ok = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
    };
    port_ok && host.is_none_or(|host| host.len() <= 253 && host.split('.').all(label_ok))
}

impl FromStr for Registry {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if valid_host(text) { Ok(Self(text.into())) } else { Err(NameError::Registry { text: text.to_owned() }) }
    }
}

/// A repository path: one or more components.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepositoryPath(Arc<str>);

impl RepositoryPath {
    /// The path, components joined by `/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The components.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &str> + Clone {
        self.0.split('/')
    }
}

fn valid_component(text: &str) -> bool {
    let alphanumeric = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9');
    let bytes = text.as_bytes();
    let edge = |b: Option<&u8>| b.is_some_and(|b| alphanumeric(*b));
    edge(bytes.first())
        && edge(bytes.last())
        && bytes
            .split(|b| alphanumeric(*b))
            .all(|separator| matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-'))
}

impl FromStr for RepositoryPath {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.len() > MAX_PATH {
            return Err(NameError::PathTooLong { text: text.to_owned() });
        }
        if text.split('/').all(valid_component) {
            Ok(Self(text.into()))
        } else {
            Err(NameError::Path { text: text.to_owned() })
        }
    }
}

/// A repository: a registry and a path, no tag.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Repository {
    registry: Registry,
    path: RepositoryPath,
}

impl Repository {
    /// Joins the two.
    pub fn new(registry: Registry, path: RepositoryPath) -> Self {
        Self { registry, path }
    }

    /// The registry.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The path below the registry.
    pub fn path(&self) -> &RepositoryPath {
        &self.path
    }

    /// This repository's content under `tag`.
    pub fn tagged(&self, tag: Tag) -> Reference {
        Reference { repository: self.clone(), tag: Some(tag), digest: None }
    }

    /// This repository's content of `digest`.
    pub fn at(&self, digest: Digest) -> Reference {
        Reference { repository: self.clone(), tag: None, digest: Some(digest) }
    }
}

impl FromStr for Repository {
    type Err = NameError;

    /// Reads a name without tag and digest as container runtimes do: the first component is the registry if it has a `.`
    /// or a `:` or is `localhost`, otherwise the registry is Docker Hub.
    fn from_str(text: &str) -> Result<Self, NameError> {
        let (registry, path) = match text.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => {
                (first.parse()?, rest.to_owned())
            }
            Some(_) => (Registry(DOCKER_HUB.into()), text.to_owned()),
            None => (Registry(DOCKER_HUB.into()), format!("library/{text}")),
        };
        let hub_short = registry.as_str() == DOCKER_HUB && !path.contains('/');
        let path = if hub_short { format!("library/{path}") } else { path };
        Ok(Self { registry, path: path.parse()? })
    }
}

/// A tag.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(Arc<str>);

impl Tag {
    /// The tag.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `sha256-<hex>`: the tag that keeps a manifest alive that is pulled by digest.
    pub fn of_digest(digest: &Digest) -> Self {
        // `sha512-` and 128 digits would be too long for a tag.
        let hex = digest.hex();
        let name = format!("{}-{}", digest.algorithm().as_str(), hex);
        Self(name.get(..MAX_TAG).unwrap_or(&name).into())
    }
}

impl FromStr for Tag {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
        let rest = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
        if first && rest && text.len() <= MAX_TAG {
            Ok(Self(text.into()))
        } else {
            Err(NameError::Tag { text: text.to_owned() })
        }
    }
}

/// An image: a repository with a tag, a digest or both.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    repository: Repository,
    tag: Option<Tag>,
    digest: Option<Digest>,
}

impl Reference {
    /// The repository.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// The tag, if one is named.
    pub fn tag(&self) -> Option<&Tag> {
        self.tag.as_ref()
    }

    /// The same name, with this digest.
    #[must_use]
    pub fn pinned(&self, digest: Digest) -> Self {
        Self { digest: Some(digest), ..self.clone() }
    }

    /// The digest, if one is named.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Splits a reference as written into its name, tag and digest, unchecked.
    ///
    /// The last `:` separates a tag if it comes after the first `/`, or if there is no `/`.
    pub fn split(text: &str) -> (&str, Option<&str>, Option<&str>) {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        match (rest.rfind(':'), rest.find('/')) {
            (Some(colon), Some(slash)) if colon > slash => {
                let (name, tag) = rest.split_at(colon);
                (name, tag.get(1..), digest)
            }
            (Some(colon), None) => {
                let (name, tag) = rest.split_at(colon);
                (name, tag.get(1..), digest)
            }
            _ => (rest, None, digest),
        }
    }
}

impl FromStr for Reference {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(NameError::Space { text: text.to_owned() });
        }
        if let Some((scheme, _)) = text.split_once("://") {
            return Err(NameError::Scheme { text: text.to_owned(), scheme: scheme.to_owned() });
        }
        let (name, tag, digest) = Self::split(text);
        let repository = name.parse()?;
        let tag = tag.map(Tag::from_str).transpose()?;
        let digest = digest.map(Digest::from_str).transpose()?;
        if tag.is_none() && digest.is_none() {
            return Err(NameError::Untagged { text: text.to_owned() });
        }
        Ok(Self { repository, tag, digest })
    }
}

impl fmt::Display for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for RepositoryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.path)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// Debug, serialisation and reading through `Display` and `FromStr`.
macro_rules! as_text {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
as_text!(Registry, RepositoryPath, Repository, Tag, Reference);

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "f30638f60452062aba36a26ee6c036feead2f03b28f2c47f2b0a991e41baebea";

    #[test]
    fn names_are_read_as_container_runtimes_read_them() {
        for (text, expected) in [
            ("quay.io/a/b:1", "quay.io/a/b:1".to_owned()),
            ("nginx:1.16.0", "docker.io/library/nginx:1.16.0".to_owned()),
            ("library/nginx:1", "docker.io/library/nginx:1".to_owned()),
            ("docker.io/nginx:1", "docker.io/library/nginx:1".to_owned()),
            ("acme/tool:1", "docker.io/acme/tool:1".to_owned()),
            ("localhost/a:1", "localhost/a:1".to_owned()),
            ("h:5000/p:1", "h:5000/p:1".to_owned()),
            (&format!("h:5000/p@sha256:{HEX}"), format!("h:5000/p@sha256:{HEX}")),
            (&format!("h.io/p:t@sha256:{HEX}"), format!("h.io/p:t@sha256:{HEX}")),
            ("[::1]:5000/a/b:1", "[::1]:5000/a/b:1".to_owned()),
        ] {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_what_to_write_instead() {
        let long = format!("quay.io/a:{}", "x".repeat(129));
        for (text, part) in [
            ("", "empty"),
            ("quay.io/a", "neither a tag nor a digest"),
            ("h:5000/a", "neither a tag nor a digest"),
            ("docker://quay.io/a:1", "without `docker://`"),
            ("https://quay.io/a:1", "without `https://`"),
            ("quay.io/A:1", "not a repository path"),
            ("Quay.io/a:1", "lower case"),
            ("quay.io/a b:1", "white space"),
            ("quay.io/../a:1", "not a repository path"),
            ("quay.io/a..b:1", "not a repository path"),
            ("quay.io/a___b:1", "not a repository path"),
            ("quay.io//a:1", "not a repository path"),
            (&long, "not a tag"),
            ("quay.io/a:-1", "not a tag"),
            ("quay.io/a:", "not a tag"),
            ("quay.io/a@sha256:12", "not a digest"),
            ("quay.io:99999/a:1", "not a registry host"),
        ] {
            let error = text.parse::<Reference>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn a_digest_tag_is_a_tag() {
        let digest: Digest = format!("sha256:{HEX}").parse().unwrap();
        assert_eq!(Tag::of_digest(&digest).as_str(), format!("sha256-{HEX}"));
        let long: Digest = format!("sha512:{}", "a".repeat(128)).parse().unwrap();
        assert!(Tag::of_digest(&long).as_str().parse::<Tag>().is_ok());
    }

    proptest::proptest! {
        #[test]
        fn what_is_printed_is_read_back(
            host in "[a-z][a-z0-9]{0,8}\\.[a-z]{2,4}(:[1-9][0-9]{1,3})?",
            path in "[a-z0-9]{1,5}((\\.|_|__|-{1,3})[a-z0-9]{1,4}){0,2}(/[a-z0-9]{1,5}){0,3}",
            tag in proptest::option::of("[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}"),
        ) {
            let text = match tag {
                Some(tag) => format!("{host}/{path}:{tag}"),
                None => format!("{host}/{path}@sha256:{HEX}"),
            };
            let reference: Reference = text.parse().unwrap();
            proptest::prop_assert_eq!(reference.to_string().parse::<Reference>().unwrap(), reference);
        }

        #[test]
        fn parsing_never_panics(text in ".*") {
            text.parse::<Reference>().ok();
        }
    }
}
