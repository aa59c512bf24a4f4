//! What the payload of a release says: the images that the release consists of.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::oci::{Digest, Reference, Repository};

/// The folder of a payload that is read.
pub const FOLDER: &str = "release-manifests";
/// The file that lists the images; an image stream of OpenShift.
pub const IMAGES: &str = "image-references";
/// The file that names disk images.
pub const BOOT_IMAGES: &str = "0000_50_installer_coreos-bootimages.yaml";
/// The most images that a release may have; real ones have 200.
const MAX_COMPONENTS: usize = 5_000;

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
    /// The disk images for `KubeVirt`, by architecture as releases spell it; none if the payload has no list of them.
    pub boot_images: Option<BTreeMap<String, Reference>>,
}

/// Why a payload cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// It is no release.
    #[error("it has no `{FOLDER}/{IMAGES}`, so it is not the payload of a release")]
    NoImages,
    /// The list is none.
    #[error("its `{FOLDER}/{IMAGES}` cannot be read: {0}")]
    Images(#[source] serde_json::Error),
    /// The list has more than any real one.
    #[error("its `{FOLDER}/{IMAGES}` lists {0} images; at most {MAX_COMPONENTS} are read")]
    TooMany(usize),
    /// An image without a usable name.
    #[error("its component `{component}` is `{image}`, which is not an image with a tag or a digest")]
    Image {
        /// The component.
        component: String,
        /// What it names.
        image: String,
    },
    /// The list of disk images is none.
    #[error("its `{FOLDER}/{BOOT_IMAGES}` cannot be read: {0}")]
    BootImages(String),
}

#[derive(Deserialize)]
struct ImageStream {
    #[serde(default)]
    metadata: Metadata,
    spec: Spec,
}

#[derive(Default, Deserialize)]
struct Metadata {
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct Spec {
    #[serde(default)]
    tags: Vec<Tagged>,
}

#[derive(Deserialize)]
struct Tagged {
    name: String,
    from: From,
}

#[derive(Deserialize)]
struct From {
    name: String,
}

#[derive(Deserialize)]
struct ConfigMap {
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    stream: String,
}

#[derive(Deserialize)]
struct Stream {
    #[serde(default)]
    architectures: BTreeMap<String, Architecture>,
}

#[derive(Deserialize)]
struct Architecture {
    #[serde(default)]
    images: DiskImages,
}

#[derive(Default, Deserialize)]
struct DiskImages {
    kubevirt: Option<DiskImage>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct DiskImage {
    #[serde(default)]
    digest_ref: String,
}

impl Payload {
    /// Reads the files of [`FOLDER`]: `images`, and `boot_images` if that is there.
    ///
    /// # Errors
    /// One of them is not what it should be.
    pub fn parse(images: Option<&[u8]>, boot_images: Option<&[u8]>) -> Result<Self, PayloadError> {
        let stream: ImageStream =
            serde_json::from_slice(images.ok_or(PayloadError::NoImages)?).map_err(PayloadError::Images)?;
        if stream.spec.tags.len() > MAX_COMPONENTS {
            return Err(PayloadError::TooMany(stream.spec.tags.len()));
        }
        let components = stream.spec.tags.into_iter().map(|tag| {
            let wrong = || PayloadError::Image { component: tag.name.clone(), image: tag.from.name.clone() };
            let image = tag.from.name.parse::<Reference>().map_err(|_unusable| wrong())?;
            Ok(Component { name: tag.name, image })
        });
        let version = Some(stream.metadata.name).filter(|name| !name.is_empty());
        let boot_images = boot_images.map(disks).transpose()?;
        Ok(Self { version, components: components.collect::<Result<_, _>>()?, boot_images })
    }
}

fn disks(text: &[u8]) -> Result<BTreeMap<String, Reference>, PayloadError> {
    let wrong = |error: &dyn std::fmt::Display| PayloadError::BootImages(error.to_string());
    let map: ConfigMap = serde_yaml::from_slice(text).map_err(|error| wrong(&error))?;
    let stream: Stream = serde_json::from_str(&map.data.stream).map_err(|error| wrong(&error))?;
    let named = stream.architectures.into_iter().filter_map(|(name, architecture)| {
        let image = architecture.images.kubevirt?.digest_ref;
        // Architectures without such an image name none.
        (!image.is_empty()).then_some((name, image))
    });
    named
        .map(|(name, image)| match image.parse::<Reference>() {
            Ok(image) => Ok((name, image)),
            Err(_unusable) => Err(PayloadError::Image { component: format!("kubevirt of {name}"), image }),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn stream(image: &str) -> Vec<u8> {
        let tags = json!([{"name": "etcd", "annotations": {"x": "y"}, "from": {"kind": "DockerImage", "name": image}}]);
        json!({"kind": "ImageStream", "metadata": {"name": "4.18.10"}, "spec": {"lookupPolicy": {}, "tags": tags}})
            .to_string()
            .into_bytes()
    }

    fn image() -> String {
        format!("quay.io/o/art@{}", Digest::of(b"etcd"))
    }

    #[test]
    fn the_images_are_those_of_the_stream() {
        let payload = Payload::parse(Some(&stream(&image())), None).unwrap();
        assert_eq!(payload.version.as_deref(), Some("4.18.10"));
        assert_eq!((payload.components[0].name.as_str(), payload.components[0].image.to_string()), ("etcd", image()));
        assert_eq!(payload.boot_images, None);
    }

    #[test]
    fn disk_images_are_those_with_a_name() {
        let stream_of_disks = json!({"architectures": {
            "x86_64": {"images": {"kubevirt": {"release": "1", "digest-ref": image()}}},
            "s390x": {"images": {"kubevirt": {"digest-ref": ""}}},
            "aarch64": {"images": {}},
        }});
        let map = json!({"data": {"stream": stream_of_disks.to_string()}}).to_string();
        let payload = Payload::parse(Some(&stream(&image())), Some(map.as_bytes())).unwrap();
        assert_eq!(payload.boot_images.unwrap().keys().collect::<Vec<_>>(), ["x86_64"]);
    }

    #[test]
    fn what_is_no_payload_is_refused() {
        let good = stream(&image());
        for (images, disks, why) in [
            (None, None, "no `release-manifests/image-references`"),
            (Some(&b"<html>"[..]), None, "cannot be read"),
            (Some(&good[..]), Some(&b"data: {}"[..]), "coreos-bootimages"),
            (Some(&good[..]), Some(&b"data: {stream: x}"[..]), "coreos-bootimages"),
        ] {
            let error = Payload::parse(images, disks).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        let error = Payload::parse(Some(&stream("quay.io/o/art")), None).unwrap_err().to_string();
        assert!(error.contains("component `etcd`"), "{error}");
    }
}
