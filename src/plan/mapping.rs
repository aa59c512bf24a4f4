//! Target paths: the one place that knows where an image goes.
//!
//! The rules are oc-mirror's, so that a mirror filled by one is recognised by the other. Of a name as written the first
//! component is dropped when there are two or more, always and without the reading of Docker Hub's short names:
//! `quay.io/a/b` and `library/nginx` become `a/b` and `nginx`, and `nginx` stays. The tag is the source's; what is named by
//! digest alone gets `sha256-<hex>`, which keeps the manifest alive for pulls by digest.
//!
//! Within one target the mapping is injective over (path below the root, tag), and never leaves the root.

use serde::{Deserialize, Serialize};

use crate::oci::{NameError, Reference, Registry, Repository, RepositoryPath, Tag};
use crate::resolve::{DestinationRule, Item, PathRule, Source, TagRule};

/// The place in the target registry below which everything goes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TargetRoot {
    /// The target registry.
    pub registry: Registry,
    /// The path below it; none for the registry's root.
    pub prefix: Option<RepositoryPath>,
}

/// Where an item goes: a repository below `root` and a tag.
///
/// # Errors
/// If the path, with the prefix, is not a repository path, above all if it is too long.
pub fn destination(item: &Item, root: &TargetRoot) -> Result<Reference, NameError> {
    let DestinationRule { path, tag } = &item.destination;
    let below = match path {
        PathRule::Keep { written } => without_host(written),
        PathRule::Replace(path) => path.as_str(),
    };
    let path: RepositoryPath = match &root.prefix {
        Some(prefix) => format!("{prefix}/{below}").parse()?,
        None => below.parse()?,
    };
    let tag = match tag {
        TagRule::Set(tag) => tag.clone(),
        TagRule::Keep => kept_tag(&item.source),
    };
    Ok(Repository::new(root.registry.clone(), path).tagged(tag))
}

/// The name without its first component, unless that is all there is.
fn without_host(written: &str) -> &str {
    written.split_once('/').map_or(written, |(_, rest)| rest)
}

fn kept_tag(source: &Source) -> Tag {
    let Source::Registry { named, digest } = source;
    named.tag().cloned().unwrap_or_else(|| Tag::of_digest(digest))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::oci::Digest;
    use crate::resolve::{Origin, OriginKind};

    const HEX: &str = "f30638f60452062aba36a26ee6c036feead2f03b28f2c47f2b0a991e41baebea";

    fn item(written: &str, repo: Option<&str>, tag: Option<&str>) -> Item {
        let named: Reference = written.parse().unwrap();
        let digest = named.digest().cloned().unwrap_or_else(|| Digest::of(b"x"));
        let name = Reference::split(written).0.to_owned();
        Item {
            origin: Origin { kind: OriginKind::Additional, name: written.to_owned() },
            source: Source::Registry { named, digest },
            destination: DestinationRule {
                path: repo.map_or(PathRule::Keep { written: name }, |path| PathRule::Replace(path.parse().unwrap())),
                tag: tag.map_or(TagRule::Keep, |tag| TagRule::Set(tag.parse().unwrap())),
            },
            platforms: BTreeSet::new(),
            after: BTreeSet::new(),
            rank: None,
            unmet: None,
        }
    }

    fn root(prefix: &str) -> TargetRoot {
        let prefix = (!prefix.is_empty()).then(|| prefix.parse().unwrap());
        TargetRoot { registry: "mirror.lab.example:8443".parse().unwrap(), prefix }
    }

    fn mapped(item: &Item, prefix: &str) -> String {
        destination(item, &root(prefix)).unwrap().to_string()
    }

    #[test]
    fn destinations_are_those_of_oc_mirror() {
        let digest = format!("@sha256:{HEX}");
        let kept = format!("sha256-{HEX}");
        let at = |name: &str| format!("{name}{digest}");
        for (written, repo, tag, expected) in [
            // E56 to E58.
            (at("registry.redhat.io/ubi8/ubi:latest"), None, None, "ubi8/ubi:latest".to_owned()),
            (at("sometest.registry.com/testns/test"), None, None, format!("testns/test:{kept}")),
            (at("sometest.registry.com/testns/test"), None, Some("v1.0"), "testns/test:v1.0".to_owned()),
            // A digest and a port: a colon more, and still no tag.
            (at("h:5000/p"), None, None, format!("p:{kept}")),
            (at("h:5000/a/p"), Some("r/s"), None, format!("r/s:{kept}")),
            ("h:5000/p:t".to_owned(), None, None, "p:t".to_owned()),
            // E62, E63, E65: names without a host keep what they have.
            ("ghcr.io/stefanprodan/podinfo:5.0.0".to_owned(), None, None, "stefanprodan/podinfo:5.0.0".to_owned()),
            (at("registry.k8s.io/ingress-nginx/controller:v1"), None, None, "ingress-nginx/controller:v1".to_owned()),
            ("nginx:1.16.0".to_owned(), None, None, "nginx:1.16.0".to_owned()),
            ("library/nginx:1".to_owned(), None, None, "nginx:1".to_owned()),
            ("docker.io/library/nginx:1".to_owned(), None, None, "library/nginx:1".to_owned()),
            ("registry.redhat.io/ubi9/ubi:latest".to_owned(), Some("team/base"), None, "team/base:latest".to_owned()),
            ("registry.redhat.io/ubi9/ubi:latest".to_owned(), None, Some("v9"), "ubi9/ubi:v9".to_owned()),
        ] {
            let item = item(&written, repo, tag);
            assert_eq!(mapped(&item, ""), format!("mirror.lab.example:8443/{expected}"), "{written}");
            assert_eq!(mapped(&item, "ocp"), format!("mirror.lab.example:8443/ocp/{expected}"), "{written}");
        }
    }

    #[test]
    fn a_path_that_grows_too_long_below_the_prefix_is_an_error_with_its_length() {
        let long = format!("quay.io/{}:1", "a".repeat(250));
        assert!(destination(&item(&long, None, None), &root("")).is_ok());
        let error = destination(&item(&long, None, None), &root("ocp/mirror")).unwrap_err().to_string();
        assert!(error.contains("261 characters; at most 255"), "{error}");
    }

    proptest::proptest! {
        #[test]
        fn nothing_leaves_the_prefix_and_different_places_stay_different(
            a in "[a-z]{1,3}(/[a-z]{1,3}){0,3}", b in "[a-z]{1,3}(/[a-z]{1,3}){0,3}",
            s in "[a-z0-9]{1,2}", t in "[a-z0-9]{1,2}", prefix in "([a-z]{1,3}(/[a-z]{1,3})?)?",
        ) {
            let first = mapped(&item(&format!("quay.io/{a}:{s}"), None, None), &prefix);
            let second = mapped(&item(&format!("ghcr.io/{b}:{t}"), None, None), &prefix);
            let below = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
            let start = format!("mirror.lab.example:8443/{below}");
            proptest::prop_assert!(first.starts_with(&start));
            proptest::prop_assert_eq!(first == second, (a, s) == (b, t));
            // What is in the target maps onto itself when it is mirrored into the same registry's root.
            proptest::prop_assert_eq!(mapped(&item(&first, None, None), ""), first);
        }
    }
}
