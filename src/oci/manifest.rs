//! Manifests as received bytes plus a parsed view.

use bytes::Bytes;
use serde::Deserialize;

use super::digest::Digest;

/// Media types of manifests that we ask for and know.
pub mod media_type {
    /// Docker's list of manifests, one per platform.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker's image manifest.
    pub const DOCKER_IMAGE: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// OCI's index of manifests.
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// OCI's image manifest, also used by artifacts.
    pub const OCI_IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
    /// The artifact manifest of release candidates of OCI image-spec 1.1.
    pub const OCI_ARTIFACT: &str = "application/vnd.oci.artifact.manifest.v1+json";
    /// The empty descriptor's type: the two bytes `{}`.
    pub const OCI_EMPTY: &str = "application/vnd.oci.empty.v1+json";
    /// What a manifest request accepts, best known first; `*/*` so that unknown types are served as they are.
    pub const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, \
        application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json, \
        application/vnd.oci.artifact.manifest.v1+json, */*;q=0.5";
}

/// The platform an index entry is for.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
pub struct Platform {
    /// Operating system, such as `linux`.
    #[serde(default)]
    pub os: String,
    /// CPU architecture in Go's spelling, such as `amd64`.
    #[serde(default)]
    pub architecture: String,
}

/// A pointer to content: type, digest and size in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type of the content; empty where the manifest leaves it out.
    #[serde(default)]
    pub media_type: String,
    /// Digest of the content.
    pub digest: Digest,
    /// Length of the content in bytes.
    pub size: u64,
    /// Platform, in an index.
    #[serde(default)]
    pub platform: Option<Platform>,
    /// Where else the content is; used by layers that may not be distributed.
    #[serde(default)]
    pub urls: Vec<String>,
}

/// What a manifest points to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Manifest {
    /// A list of manifests.
    Index {
        /// The manifests, in order, duplicates removed; one that is listed for several platforms is there for each.
        children: Vec<Descriptor>,
        /// What this index refers to, as a referrer.
        subject: Option<Descriptor>,
    },
    /// A manifest that names blobs: an image or any other artifact.
    Image {
        /// Config first, then layers, duplicates removed.
        blobs: Vec<Descriptor>,
        /// What this manifest refers to, as a referrer.
        subject: Option<Descriptor>,
    },
}

impl Manifest {
    /// What this manifest refers to, as a referrer.
    pub fn subject(&self) -> Option<&Descriptor> {
        match self {
            Self::Index { subject, .. } | Self::Image { subject, .. } => subject.as_ref(),
        }
    }
}

/// Why bytes are not a manifest that can be copied.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON, or not of the shape of a manifest.
    #[error("the manifest is not valid JSON of its type")]
    Json(#[source] serde_json::Error),
    /// A manifest that names neither manifests nor blobs in a way we know.
    #[error(
        "media type `{media_type}` is not one whose content can be found: it has no `manifests`, `layers` or `blobs`"
    )]
    Unsupported {
        /// The media type as received.
        media_type: String,
    },
    /// A manifest that lists more than a sane number of parts.
    #[error("the manifest lists {count} entries; at most {max} are copied")]
    TooManyEntries {
        /// Entries found.
        count: usize,
        /// The bound.
        max: usize,
    },
    /// An entry that states an absurd size.
    #[error("the manifest lists content of {size} bytes")]
    TooLarge {
        /// The size stated.
        size: u64,
    },
}

/// The largest size an entry may state, 16 TiB: sums of sizes stay far below what a number can hold.
const MAX_SIZE: u64 = 1 << 44;
/// The most entries a manifest may list: far above any real image, far below what 4 MiB could hold.
const MAX_ENTRIES: usize = 10_000;

/// What servers that do not know manifests (files, caches) say about them; no registry would take them as such.
const ANY: &[&str] = &["", "application/json", "application/octet-stream", "text/plain"];

/// A manifest as it was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawManifest {
    bytes: Bytes,
    digest: Digest,
    media_type: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
    #[serde(default)]
    blobs: Option<Vec<Descriptor>>,
    #[serde(default)]
    subject: Option<Descriptor>,
}

impl RawManifest {
    /// Takes received bytes with the `Content-Type` they came with and computes their SHA-256 digest.
    pub fn new(bytes: Bytes, media_type: impl Into<String>) -> Self {
        let digest = Digest::of(&bytes);
        Self::verified(bytes, media_type, digest)
    }

    /// Takes received bytes whose digest the caller has verified.
    pub fn verified(bytes: Bytes, media_type: impl Into<String>, digest: Digest) -> Self {
        let mut media_type = media_type.into();
        if ANY.contains(&media_type.as_str()) {
            #[derive(Deserialize)]
            #[serde(rename_all = "camelCase")]
            struct Typed {
                media_type: String,
            }
            media_type = serde_json::from_slice(&bytes).map_or(media_type, |typed: Typed| typed.media_type);
        }
        Self { bytes, digest, media_type }
    }

    /// The bytes, exactly as received.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Digest of the bytes.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The `Content-Type` it was served with, without parameters; what it says itself, if that was none in particular.
    pub fn media_type(&self) -> &str {
        &self.media_type
    }

    /// Reads what the manifest points to. The shape decides, not the media type, so that types we have never heard of
    /// are copied too.
    ///
    /// # Errors
    /// Not a manifest, one of a shape that names no content (Docker schema 1), or one with absurdly many entries.
    pub fn parse(&self) -> Result<Manifest, ManifestError> {
        let shape: Shape = serde_json::from_slice(&self.bytes).map_err(ManifestError::Json)?;
        let unsupported = || ManifestError::Unsupported {
            media_type: shape.media_type.clone().unwrap_or_else(|| self.media_type.clone()),
        };
        let dedup = |entries: Vec<Descriptor>| {
            if entries.len() > MAX_ENTRIES {
                return Err(ManifestError::TooManyEntries { count: entries.len(), max: MAX_ENTRIES });
            }
            if let Some(entry) = entries.iter().find(|entry| entry.size > MAX_SIZE) {
                return Err(ManifestError::TooLarge { size: entry.size });
            }
            let mut seen = std::collections::BTreeSet::new();
            Ok(entries
                .into_iter()
                .filter(|entry| seen.insert((entry.digest.clone(), entry.platform.clone())))
                .collect::<Vec<_>>())
        };
        match (shape.manifests.clone(), &shape.layers, &shape.blobs) {
            // The one type that may consist of nothing but its subject.
            (None, None, None) if self.media_type == media_type::OCI_ARTIFACT => {
                Ok(Manifest::Image { blobs: Vec::new(), subject: shape.subject.clone() })
            }
            (Some(_), Some(_), _) | (Some(_), _, Some(_)) | (None, None, None) => Err(unsupported()),
            (Some(children), None, None) => {
                Ok(Manifest::Index { children: dedup(children)?, subject: shape.subject.clone() })
            }
            (None, layers, blobs) => {
                let entries = shape.config.iter().chain(layers.iter().flatten()).chain(blobs.iter().flatten());
                Ok(Manifest::Image { blobs: dedup(entries.cloned().collect())?, subject: shape.subject.clone() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Manifest, ManifestError> {
        RawManifest::new(Bytes::copy_from_slice(text.as_bytes()), "application/x").parse()
    }

    fn descriptor(seed: &str) -> String {
        format!(r#"{{"mediaType":"a/b","digest":"{}","size":3}}"#, Digest::of(seed.as_bytes()))
    }

    #[test]
    fn the_config_counts_as_a_blob_and_repeated_layers_count_once() {
        let (config, layer) = (descriptor("c"), descriptor("l"));
        let text = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layer},{layer}]}}"#);
        let Manifest::Image { blobs, .. } = parse(&text).unwrap() else { panic!("not an image") };
        assert_eq!(blobs.iter().map(|b| b.digest.clone()).collect::<Vec<_>>(), [Digest::of(b"c"), Digest::of(b"l")]);
    }

    #[test]
    fn an_unknown_media_type_is_read_by_its_shape() {
        let text = format!(r#"{{"mediaType":"application/vnd.acme+json","manifests":[{}]}}"#, descriptor("m"));
        assert!(matches!(parse(&text).unwrap(), Manifest::Index { children, .. } if children.len() == 1));
        let text = format!(r#"{{"mediaType":"application/vnd.acme+json","blobs":[{}]}}"#, descriptor("m"));
        assert!(matches!(parse(&text).unwrap(), Manifest::Image { blobs, .. } if blobs.len() == 1));
    }

    #[test]
    fn a_manifest_served_as_anything_is_of_the_type_it_states() {
        let stated = r#"{"mediaType":"application/vnd.acme+json"}"#;
        for (served, text, expected) in [
            ("application/json", stated, "application/vnd.acme+json"),
            ("", stated, "application/vnd.acme+json"),
            ("text/plain", "{}", "text/plain"),
            (media_type::OCI_IMAGE, stated, media_type::OCI_IMAGE),
        ] {
            assert_eq!(RawManifest::new(Bytes::from_static(text.as_bytes()), served).media_type(), expected);
        }
    }

    #[test]
    fn an_absurd_size_is_refused() {
        let (digest, text) =
            (Digest::of(b"x"), r#"{"layers":[{"mediaType":"a/b","digest":"D","size":18446744073709551615}]}"#);
        let error = parse(&text.replace('D', &digest.to_string())).unwrap_err();
        assert!(matches!(error, ManifestError::TooLarge { size: u64::MAX }), "{error}");
    }

    #[test]
    fn an_artifact_may_be_nothing_but_its_subject() {
        let text = format!(r#"{{"subject":{}}}"#, descriptor("s"));
        let raw = RawManifest::new(Bytes::from(text), media_type::OCI_ARTIFACT);
        assert!(raw.parse().unwrap().subject().is_some());
    }

    #[test]
    fn schema_1_both_shapes_at_once_and_rubbish_are_refused() {
        assert!(matches!(parse(r#"{"schemaVersion":1,"fsLayers":[]}"#), Err(ManifestError::Unsupported { .. })));
        assert!(matches!(parse(r#"{"manifests":[],"layers":[]}"#), Err(ManifestError::Unsupported { .. })));
        assert!(matches!(parse("<html>"), Err(ManifestError::Json(_))));
        assert!(matches!(parse(r#"{"layers":[{"digest":"../etc","size":1}]}"#), Err(ManifestError::Json(_))));
    }
}
