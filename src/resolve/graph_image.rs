//! The image with the update graph: made of its data and a base, so that its digest is known before anything is copied.

use std::collections::BTreeSet;

use super::{
    DestinationRule, Document, DocumentKey, Documents, Item, Origin, OriginKind, PathRule, Source, Step, TagRule,
    Wanted,
};
use crate::build::{self, Built};
use crate::failure::{Failure, Reason};
use crate::oci::{NameError, Reference, Tag};

/// Where it goes, below the target's root: where oc-mirror puts it.
const PATH: &str = "openshift/graph-image";
/// And under which tag.
const TAG: &str = "latest";

/// Makes the image, as soon as its parts are there. What cannot be had is its failure alone.
pub fn step(base: &Reference, documents: &Documents) -> Step<Wanted> {
    let mut wanted = Wanted::default();
    let origin = Origin { kind: OriginKind::Graph, name: "graph".to_owned() };
    let tag = DocumentKey::TagDigest(base.clone());
    let digest = match (base.digest(), documents.get(&tag)) {
        (Some(digest), _) | (None, Some(Ok(Document::Digest(digest)))) => digest.clone(),
        (None, Some(Err(failure))) => {
            wanted.failures.push((origin, failure.clone()));
            return Step::Done(wanted);
        }
        (None, _) => return Step::Need(BTreeSet::from([tag, DocumentKey::GraphData])),
    };
    let base = base.repository().at(digest);
    let keys = [DocumentKey::GraphData, DocumentKey::Base(base.clone())];
    let need: BTreeSet<_> = keys.iter().filter(|key| !documents.contains_key(*key)).cloned().collect();
    if !need.is_empty() {
        return Step::Need(need);
    }
    let built = match keys.each_ref().map(|key| documents.get(key)) {
        [Some(Ok(Document::GraphData(data))), Some(Ok(Document::Base(base)))] => build::graph::image(data, base),
        [Some(Err(failure)), _] | [_, Some(Err(failure))] => Err(failure.clone()),
        _ => Err(Failure::permanent(
            Reason::GraphInvalid,
            "the parts of the graph image are others; please report this defect",
        )),
    };
    match built.and_then(|built| item(&origin, &base, &built).map(|item| (item, built))) {
        Ok((item, built)) => {
            wanted.items.push(item);
            wanted.made = built.content;
        }
        Err(failure) => wanted.failures.push((origin, failure)),
    }
    Step::Done(wanted)
}

fn item(origin: &Origin, base: &Reference, built: &Built) -> Result<Item, Failure> {
    let invalid = |error: NameError| Failure::permanent(Reason::GraphInvalid, error.to_string());
    let path = PathRule::Replace(PATH.parse().map_err(invalid)?);
    let tag = TagRule::Set(TAG.parse::<Tag>().map_err(invalid)?);
    Ok(Item {
        origin: origin.clone(),
        // Its layers but one are those of the base.
        source: Source::Registry { named: base.repository().at(built.digest.clone()), digest: built.digest.clone() },
        destination: DestinationRule { path, tag },
        platforms: BTreeSet::new(),
        after: BTreeSet::new(),
        rank: None,
        unmet: None,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::build::Base;
    use crate::oci::Digest;

    fn base() -> Reference {
        "base.test/ubi:latest".parse().unwrap()
    }

    #[test]
    fn the_parts_are_asked_for_once_and_what_cannot_be_had_is_its_own_failure() {
        let digest = Digest::of(b"base");
        let tag = DocumentKey::TagDigest(base());
        assert_eq!(step(&base(), &Documents::new()), Step::Need(BTreeSet::from([tag.clone(), DocumentKey::GraphData])));
        let mut documents = Documents::from([(tag, Ok(Document::Digest(digest.clone())))]);
        documents.insert(DocumentKey::GraphData, Ok(Document::GraphData(Bytes::from_static(b"no archive"))));
        let pinned = DocumentKey::Base(base().repository().at(digest));
        assert_eq!(step(&base(), &documents), Step::Need(BTreeSet::from([pinned.clone()])));
        documents.insert(pinned, Ok(Document::Base(Arc::new(Base { index: None, images: Vec::new() }))));
        let Step::Done(wanted) = step(&base(), &documents) else { panic!("everything is there") };
        assert!(wanted.items.is_empty());
        assert!(wanted.failures[0].1.message.contains("graph data cannot be used"), "{:?}", wanted.failures);
        assert_eq!(wanted.failures[0].0.to_string(), "graph graph");
    }
}
