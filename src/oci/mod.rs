//! Names, digests and manifests of the OCI distribution and image specifications, without I/O.
//!
//! Manifests are kept as the bytes that were received plus a parsed view; nothing that has a digest is ever serialised
//! again. Formats: <https://github.com/opencontainers/image-spec>, <https://github.com/opencontainers/distribution-spec>
//! and Docker's image manifest version 2, schema 2.

mod content;
mod digest;
mod manifest;
mod reference;

pub use content::Content;
pub use digest::{Algorithm, Digest, DigestError, Hasher};
pub use manifest::{Descriptor, Manifest, ManifestError, Platform, RawManifest, media_type};
pub use reference::{NameError, Reference, Registry, Repository, RepositoryPath, Tag};
