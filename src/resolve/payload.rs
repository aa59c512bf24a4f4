//! What the payload of a release lists.

use std::collections::BTreeMap;

use crate::oci::{Digest, Reference, Repository};

/// Names a payload.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PayloadKey {
    /// Where it is.
    pub repository: Repository,
    /// Which it is.
    pub digest: Digest,
}

/// An image that a release consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Component {
    /// Its name within the release.
    pub name: String,
    /// The image.
    pub image: Reference,
}

/// The content of a payload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Payload {
    /// The release's own version.
    pub version: Option<String>,
    /// The images it consists of.
    pub components: Vec<Component>,
    /// The disk images for `KubeVirt`, by architecture as releases spell it.
    pub boot_images: BTreeMap<String, Reference>,
}
