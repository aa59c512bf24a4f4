//! What releases are made from: graphs, payloads, signatures.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use url::Url;

use super::Source;
use super::layers::{self, Entry, Found, Take, Wanted};
use crate::build::{Base, BaseImage};
use crate::failure::{Failure, Reason};
use crate::oci::{Descriptor, Manifest, RawManifest, Reference, Repository};
use crate::registry::By;
use crate::request::Product;
use crate::resolve::SignatureKey;
use crate::resolve::graph::{Graph, GraphKey};
use crate::resolve::payload::{BOOT_IMAGES, FOLDER, IMAGES, Payload, PayloadKey};

/// The longest graph that is read; that of the largest channel has 2 MiB.
const MAX_GRAPH: u64 = 48 << 20;
/// The longest data of the graph; the public one has 40 KiB.
const MAX_GRAPH_DATA: u64 = 16 << 20;
/// The data of the public graph.
const PUBLIC_GRAPH_DATA: &str = "https://api.openshift.com/api/upgrades_info/graph-data";
/// The longest signature; real ones have 1 KiB.
const MAX_SIGNATURE: u64 = 64 << 10;
/// The longest file of a payload; the list of images has 100 KiB.
const MAX_FILE: u64 = 8 << 20;
/// Signatures of one payload, as the cluster's own verifier counts them.
const SIGNATURES: std::ops::RangeInclusive<u32> = 1..=9;

/// Where the public services are.
fn public_graph(product: Product) -> &'static str {
    match product {
        Product::Ocp => "https://api.openshift.com/api/upgrades_info/v1/graph",
        Product::Okd => "https://origin-release.ci.openshift.org/graph",
    }
}

fn public_stores(product: Product) -> &'static [&'static str] {
    match product {
        Product::Ocp => &[
            "https://mirror.openshift.com/pub/openshift-v4/signatures/openshift/release",
            "https://storage.googleapis.com/openshift-release/official/signatures/openshift/release",
        ],
        Product::Okd => &["https://storage.googleapis.com/openshift-ci-release/releases/signatures/openshift/release"],
    }
}

fn address(text: &str) -> Result<Url, Failure> {
    let invalid = |error| Failure::permanent(Reason::GraphInvalid, format!("`{text}` is not an address: {error}"));
    text.parse().map_err(invalid)
}

impl Source {
    pub(super) async fn graph(&self, key: &GraphKey) -> Result<Graph, Failure> {
        let mut url = match &self.update_service {
            Some(url) => url.clone(),
            None => address(public_graph(key.product))?,
        };
        let GraphKey { architecture, channel, .. } = key;
        // The service names requests that belong together by an id.
        let id = Uuid(fastrand::u128(..));
        url.query_pairs_mut()
            .append_pair("arch", architecture)
            .append_pair("channel", channel)
            .append_pair("id", &id.to_string());
        let asked = format!("the update graph of channel `{channel}` for {architecture}");
        let found = self.client.document(&url, "application/json", MAX_GRAPH, &asked).await;
        let body = found?.ok_or_else(|| {
            let message = format!(
                "there is no update service at `{}`, which was asked for {asked}: check `source.updateService`",
                url.origin().ascii_serialization()
            );
            Failure::permanent(Reason::GraphInvalid, message)
        })?;
        Graph::parse(&body).map_err(|error| Failure::permanent(Reason::GraphInvalid, format!("{asked}: {error}")))
    }

    pub(super) async fn graph_data(&self) -> Result<Bytes, Failure> {
        let url = match &self.graph_data {
            Some(url) => url.clone(),
            None => address(PUBLIC_GRAPH_DATA)?,
        };
        let found = self.client.document(&url, "*/*", MAX_GRAPH_DATA, "the data of the update graph").await?;
        found.ok_or_else(|| {
            let message = format!("there is no data of the update graph at `{url}`: check `source.graphData`");
            Failure::permanent(Reason::GraphInvalid, message)
        })
    }

    /// An image to build on, named by digest: everything but its layers.
    pub(super) async fn base(&self, image: &Reference) -> Result<Base, Failure> {
        let (repository, named) = (image.repository(), image.to_string());
        let invalid = |why: String| Failure::permanent(Reason::ManifestInvalid, format!("base `{named}`: {why}"));
        let Some(digest) = image.digest() else { return Err(invalid("it is named without a digest".to_owned())) };
        let top = self.manifest(repository, By::Digest(digest), &named).await?;
        let parsed = top.parse().map_err(|error| invalid(error.to_string()))?;
        let Manifest::Index { children, .. } = parsed else {
            return Ok(Base { index: None, images: vec![self.base_image(repository, top, &named).await?] });
        };
        let mut images = Vec::new();
        for child in crate::build::images(children) {
            let named = repository.at(child.digest.clone()).to_string();
            let manifest = self.manifest(repository, By::Digest(&child.digest), &named).await?;
            images.push(self.base_image(repository, manifest, &named).await?);
        }
        Ok(Base { index: Some(top), images })
    }

    pub(super) async fn base_image(
        &self,
        repository: &Repository,
        manifest: RawManifest,
        named: &str,
    ) -> Result<BaseImage, Failure> {
        let invalid = |why: String| Failure::permanent(Reason::ManifestInvalid, format!("base `{named}`: {why}"));
        let config = match manifest.parse().map_err(|error| invalid(error.to_string()))? {
            Manifest::Image { blobs, .. } => blobs.into_iter().next(),
            Manifest::Index { .. } => None,
        };
        let config = config.ok_or_else(|| invalid("it is no image".to_owned()))?;
        let config = self.client.blob_bytes(repository, &config).await.map_err(|error| error.failure())?;
        Ok(BaseImage { manifest, config })
    }

    pub(super) async fn signatures(&self, key: &SignatureKey) -> Result<Vec<Vec<u8>>, Failure> {
        let public = || public_stores(key.product).iter().map(|store| address(store)).collect::<Result<Vec<_>, _>>();
        let stores = if self.signature_stores.is_empty() { public()? } else { self.signature_stores.clone() };
        let mut files = Vec::new();
        let mut failure = None;
        for store in stores {
            for number in SIGNATURES {
                let mut url = store.clone();
                let path =
                    format!("{}/sha256={}/signature-{number}", store.path().trim_end_matches('/'), key.digest.hex());
                url.set_path(&path);
                let asked = format!("signature {number} of `{}`", key.digest);
                match self.client.document(&url, "*/*", MAX_SIGNATURE, &asked).await {
                    Ok(Some(file)) => files.push(file.to_vec()),
                    Ok(None) => break,
                    Err(error) => {
                        failure.get_or_insert(error);
                        break;
                    }
                }
            }
            // The others have the same.
            if !files.is_empty() {
                break;
            }
        }
        match failure {
            // A store that is down may have had them.
            Some(failure) if files.is_empty() => Err(failure),
            _ => Ok(files),
        }
    }

    pub(super) async fn payload(&self, key: &PayloadKey) -> Result<Payload, Failure> {
        let PayloadKey { repository, digest } = key;
        let named = repository.at(digest.clone());
        let invalid = |why: String| Failure::permanent(Reason::PayloadInvalid, format!("payload `{named}`: {why}"));
        let mut manifest = self.manifest(repository, By::Digest(digest), &named.to_string()).await?;
        if let Manifest::Index { children, .. } = manifest.parse().map_err(|error| invalid(error.to_string()))? {
            // All of them have the same files; the first is as good as any.
            let child = children.first().ok_or_else(|| invalid("its index is empty".to_owned()))?;
            manifest = self.manifest(repository, By::Digest(&child.digest), &named.to_string()).await?;
        }
        let Manifest::Image { blobs, .. } = manifest.parse().map_err(|error| invalid(error.to_string()))? else {
            return Err(invalid("it is an index of indexes".to_owned()));
        };
        // The config comes first.
        let layers: Vec<Descriptor> = blobs.into_iter().skip(1).collect();
        let take: Take<Bytes> = Box::new(|name, entry| match entry {
            Entry::File(_, size) if is_wanted(name) && size > MAX_FILE => {
                Err(io::Error::other(format!("`{FOLDER}/{name}` is longer than {MAX_FILE} bytes")))
            }
            Entry::File(file, _) if is_wanted(name) => {
                let mut content = Vec::new();
                file.read_to_end(&mut content)?;
                Ok(Some(Bytes::from(content)))
            }
            _ => Ok(None),
        });
        let wanted = Arc::new(Wanted { folder: FOLDER.to_owned(), take, reason: Reason::PayloadInvalid });
        let has = |found: &[Found<Bytes>], name: &str| found.iter().any(|(path, _)| path == name);
        // Whatever else the folder has is in the same layer.
        let enough = |found: &[Found<Bytes>]| has(found, IMAGES);
        let found = layers::read(&self.client, repository, &layers, &wanted, &self.cache.barren, enough).await?;
        let file = |name: &str| found.iter().find(|(path, _)| path == name).map(|(_, content)| &content[..]);
        Payload::parse(file(IMAGES), file(BOOT_IMAGES)).map_err(|error| invalid(error.to_string()))
    }

    pub(super) async fn manifest(
        &self,
        repository: &Repository,
        by: By<'_>,
        named: &str,
    ) -> Result<RawManifest, Failure> {
        let found = self.client.manifest(repository, by).await.map_err(|error| error.failure())?;
        found.ok_or_else(|| {
            Failure::permanent(Reason::SourceNotFound, format!("`{named}` is not in the source registry"))
        })
    }
}

/// Whether a payload's file is read.
fn is_wanted(name: &str) -> bool {
    name == IMAGES || name == BOOT_IMAGES
}

/// A random UUID, of version 4.
struct Uuid(u128);

impl std::fmt::Display for Uuid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bits = self.0 & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
        let hex = format!("{bits:032x}");
        let part = |range: std::ops::Range<usize>| hex.get(range).unwrap_or_default();
        write!(f, "{}-{}-{}-{}-{}", part(0..8), part(8..12), part(12..16), part(16..20), part(20..32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_the_form_of_a_random_uuid() {
        assert_eq!(Uuid(0).to_string(), "00000000-0000-4000-8000-000000000000");
        assert_eq!(Uuid(u128::MAX).to_string(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }
}
