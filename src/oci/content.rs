//! Content that was made here instead of being read from a registry.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Digest, RawManifest};

/// Manifests, configs and layers by digest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content(BTreeMap<Digest, Bytes>);

impl Content {
    /// Takes `bytes` in; returns their digest.
    pub fn add(&mut self, bytes: Bytes) -> Digest {
        let digest = Digest::of(&bytes);
        self.0.insert(digest.clone(), bytes);
        digest
    }

    /// What has this digest.
    pub fn get(&self, digest: &Digest) -> Option<&Bytes> {
        self.0.get(digest)
    }

    /// The manifest of this digest, of the media type that it states.
    pub fn manifest(&self, digest: &Digest) -> Option<RawManifest> {
        Some(RawManifest::verified(self.get(digest)?.clone(), "", digest.clone()))
    }

    /// Takes in everything of `other`.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }
}
