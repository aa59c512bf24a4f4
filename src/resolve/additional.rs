//! Additional images: what is named by digest is known; what is named by tag needs the digest that the tag names now.

use std::collections::BTreeSet;

use super::{
    DestinationRule, Document, DocumentKey, Documents, Item, LeftOut, Origin, OriginKind, PathRule, Source, Step,
    TagRule, Wanted,
};
use crate::oci::Digest;
use crate::request::AdditionalImage;

/// Turns entries into items, once the digests of all tags are known or known to be out of reach.
///
/// Each entry stands alone: a tag that cannot be resolved fails its own entry and no other. An image with tag and digest
/// is the one of the digest; its tag is only a name in the target. What is blocked is not looked up.
pub fn step(images: &[AdditionalImage], documents: &Documents) -> Step<Wanted> {
    let need: BTreeSet<_> = images.iter().filter_map(key).filter(|key| !documents.contains_key(key)).collect();
    if !need.is_empty() {
        return Step::Need(need);
    }
    let mut wanted = Wanted { items: Vec::with_capacity(images.len()), ..Wanted::default() };
    for image in images {
        let origin = Origin { kind: OriginKind::Additional, name: image.written.clone() };
        if let Some(pattern) = &image.blocked_by {
            wanted.left_out.push(LeftOut { origin, named: image.named.clone(), pattern: pattern.clone() });
            continue;
        }
        let digest = match (image.named.digest(), key(image).and_then(|key| documents.get(&key))) {
            (Some(digest), _) | (None, Some(Ok(Document::Digest(digest)))) => digest,
            (None, Some(Err(failure))) => {
                wanted.failures.push((origin, failure.clone()));
                continue;
            }
            // A name without digest has a key, all keys are there, and the answer is of the kind that was asked for.
            (None, _) => continue,
        };
        wanted.items.push(item(image, origin, digest));
    }
    Step::Done(wanted)
}

fn key(image: &AdditionalImage) -> Option<DocumentKey> {
    let wanted = image.blocked_by.is_none() && image.named.digest().is_none();
    wanted.then(|| DocumentKey::TagDigest(image.named.clone()))
}

fn item(image: &AdditionalImage, origin: Origin, digest: &Digest) -> Item {
    let path = match &image.target_repo {
        Some(path) => PathRule::Replace(path.clone()),
        None => PathRule::Keep { written: image.name.clone() },
    };
    Item {
        origin,
        source: Source::Registry { named: image.named.clone(), digest: digest.clone() },
        destination: DestinationRule { path, tag: image.target_tag.clone().map_or(TagRule::Keep, TagRule::Set) },
        platforms: image.platforms.clone(),
        after: BTreeSet::new(),
        rank: None,
        unmet: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{Failure, Reason};
    use crate::oci::Reference;
    use crate::plan::{Plan, TargetId, TargetRoot};

    const HEX: &str = "f30638f60452062aba36a26ee6c036feead2f03b28f2c47f2b0a991e41baebea";

    fn image(written: &str, repo: Option<&str>, tag: Option<&str>) -> AdditionalImage {
        AdditionalImage {
            written: written.to_owned(),
            name: Reference::split(written).0.to_owned(),
            named: written.parse().unwrap(),
            target_repo: repo.map(|repo| repo.parse().unwrap()),
            target_tag: tag.map(|tag| tag.parse().unwrap()),
            platforms: BTreeSet::new(),
            blocked_by: None,
        }
    }

    fn tag(name: &str) -> DocumentKey {
        DocumentKey::TagDigest(name.parse().unwrap())
    }

    fn done(step: Step<Wanted>) -> Wanted {
        match step {
            Step::Done(wanted) => wanted,
            Step::Need(keys) => panic!("needs {keys:?}"),
        }
    }

    #[test]
    fn only_names_without_a_digest_are_looked_up_and_each_once() {
        let digest = format!("quay.io/a/c:1@sha256:{HEX}");
        let images =
            [image("quay.io/a/b:1", None, None), image("quay.io/a/b:1", Some("x"), None), image(&digest, None, None)];
        assert_eq!(step(&images, &Documents::new()), Step::Need(BTreeSet::from([tag("quay.io/a/b:1")])));
    }

    #[test]
    fn entries_are_pulled_and_placed_as_oc_mirror_does() {
        let resolved = Digest::of(b"resolved");
        let named: Digest = format!("sha256:{HEX}").parse().unwrap();
        let at = |name: &str| format!("{name}@sha256:{HEX}");
        let kept = format!("p:sha256-{HEX}");
        for (written, repo, tag_name, digest, destination) in [
            ("h.io/p:t".to_owned(), None, None, &resolved, "p:t"),
            (at("h.io/p:t"), None, None, &named, "p:t"),
            (at("h.io/p"), None, None, &named, kept.as_str()),
            (at("h.io/p"), None, Some("v"), &named, "p:v"),
            (at("h.io/p:t"), None, Some("v"), &named, "p:v"),
            ("h.io/p:t".to_owned(), Some("r/s"), None, &resolved, "r/s:t"),
            (at("h:5000/p"), None, None, &named, kept.as_str()),
            (at("h:5000/p:t"), None, None, &named, "p:t"),
        ] {
            let documents = Documents::from([(tag("h.io/p:t"), Ok(Document::Digest(resolved.clone())))]);
            let wanted = done(step(&[image(&written, repo, tag_name)], &documents));
            let root = TargetRoot { registry: "m.io".parse().unwrap(), prefix: None };
            let plan = Plan::new(&wanted, &root, &[], TargetId(String::new())).unwrap();
            let item = &plan.items[0];
            assert_eq!(
                (&item.digest, item.destination.to_string()),
                (digest, format!("m.io/{destination}")),
                "{written}"
            );
        }
    }

    #[test]
    fn what_is_blocked_is_neither_looked_up_nor_forgotten() {
        let mut gone = image("quay.io/gone/a:1", None, None);
        gone.blocked_by = Some("gone".to_owned());
        let digest = format!("quay.io/ok/b@sha256:{HEX}");
        let wanted = done(step(&[gone, image(&digest, None, None)], &Documents::new()));
        assert!(wanted.complete());
        let root = TargetRoot { registry: "m.io".parse().unwrap(), prefix: None };
        let plan = Plan::new(&wanted, &root, &[], TargetId(String::new())).unwrap();
        let blocked: Vec<_> =
            plan.blocked.iter().map(|left| (left.asked.origin.name.as_str(), left.pattern.as_str())).collect();
        assert_eq!((plan.items.len(), blocked), (1, vec![("quay.io/gone/a:1", "gone")]));
    }

    #[test]
    fn a_tag_that_cannot_be_resolved_fails_its_own_entry_alone() {
        let failure = Failure::permanent(Reason::SourceNotFound, "no such tag");
        let documents = Documents::from([
            (tag("quay.io/a/b:1"), Err(failure.clone())),
            (tag("quay.io/a/b:2"), Ok(Document::Digest(Digest::of(b"2")))),
        ]);
        let images = [image("quay.io/a/b:1", None, None), image("quay.io/a/b:2", None, None)];
        let wanted = done(step(&images, &documents));
        assert!(!wanted.complete());
        assert_eq!(wanted.items.len(), 1);
        assert_eq!(wanted.failures[0].0.name, "quay.io/a/b:1");
        assert_eq!(wanted.failures[0].1, failure);
    }
}
