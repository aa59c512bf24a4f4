//! Content as it is met in the field, in the layouts that copy tools are measured with: many images that share layers.

use anyhow::Result;
use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};

use crate::image::{Flavour, Manifest, OCI_MANIFEST, Remote};

/// Where the images lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// A repository for each image, as operators and applications have it.
    Apart,
    /// One repository with a tag for each image, as a release has it.
    Together,
    /// A repository for each index of four platforms.
    Indexes,
}

/// The platforms of an index.
pub const ARCHITECTURES: [&str; 4] = ["amd64", "arm64", "ppc64le", "s390x"];

/// Layers of an image that no other has, and those that ten images of the same workload have.
const LAYERS: (usize, usize) = (2, 3);

/// A workload. The same numbers give the same bytes.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// How many images, or indexes.
    pub images: usize,
    /// Where they lie.
    pub layout: Layout,
    /// Bytes of the smallest and of the largest layer; their logarithms are spread evenly.
    pub sizes: (u64, u64),
    /// Decides every byte.
    pub seed: u64,
}

/// What was pushed.
#[derive(Clone, Debug)]
pub struct Pushed {
    /// Repository and manifest of each image, or index.
    pub images: Vec<(String, Manifest)>,
    /// Different blobs, configs included.
    pub blobs: usize,
    /// Blobs that images name, counted once for each repository.
    pub places: usize,
}

impl Workload {
    /// Five layers to an image, of which three are shared by ten images.
    pub fn new(images: usize, layout: Layout, sizes: (u64, u64)) -> Self {
        Self { images, layout, sizes, seed: 1 }
    }

    /// Image manifests: those of indexes have one for each platform.
    pub fn manifests(&self) -> usize {
        if self.layout == Layout::Indexes { self.images * ARCHITECTURES.len() } else { self.images }
    }

    /// The tag of an image, or index.
    pub fn tag(&self, image: usize) -> String {
        format!("v{}", if self.layout == Layout::Indexes { 1 } else { image })
    }

    fn repository(&self, image: usize) -> String {
        if self.layout == Layout::Together {
            "release/all".to_owned()
        } else {
            format!("team-{}/app-{image}", image % 10)
        }
    }

    /// The layers of an image manifest, by number: its own first.
    fn layers(&self, manifest: usize) -> Vec<usize> {
        let (own, shared) = LAYERS;
        let first_shared = self.manifests() * own;
        let pool = (self.manifests() * shared / 10).max(shared);
        let own_ones = (0..own).map(|layer| manifest * own + layer);
        own_ones.chain((0..shared).map(|layer| first_shared + (manifest * shared + layer) % pool)).collect()
    }

    fn size(&self, layer: usize) -> u64 {
        let (least, most) = self.sizes;
        let mut random = fastrand::Rng::with_seed(self.seed_of(layer));
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "sizes need not be exact"
        )]
        let size = (least as f64 * (most as f64 / least as f64).powf(random.f64())) as u64;
        size.clamp(least, most)
    }

    fn seed_of(&self, layer: usize) -> u64 {
        self.seed.wrapping_mul(1_000_003).wrapping_add(layer as u64)
    }

    /// Pushes everything.
    ///
    /// # Errors
    /// When the registry refuses something.
    pub async fn push(&self, registry: &Remote) -> Result<Pushed> {
        let images: Vec<(String, Manifest)> = futures::stream::iter(0..self.images)
            .map(|image| async move {
                let repository = self.repository(image);
                let manifest = if self.layout == Layout::Indexes {
                    self.push_index(registry, &repository, image).await?
                } else {
                    self.push_manifest(registry, &repository, &self.tag(image), image, "amd64").await?
                };
                anyhow::Ok((repository, manifest))
            })
            .buffered(8)
            .try_collect()
            .await?;
        let per_index = self.manifests() / self.images;
        let mut blobs = std::collections::BTreeSet::new();
        let mut places = std::collections::BTreeSet::new();
        for manifest in 0..self.manifests() {
            blobs.extend(self.layers(manifest));
            let repository = self.repository(manifest / per_index);
            places.extend(self.layers(manifest).into_iter().map(|layer| (repository.clone(), layer)));
        }
        // And a config for each.
        let (blobs, places) = (blobs.len() + self.manifests(), places.len() + self.manifests());
        Ok(Pushed { images, blobs, places })
    }

    async fn push_index(&self, registry: &Remote, repository: &str, index: usize) -> Result<Manifest> {
        let mut entries = Vec::new();
        for (number, architecture) in ARCHITECTURES.iter().enumerate() {
            let image = index * ARCHITECTURES.len() + number;
            let image = self.push_manifest(registry, repository, "", image, architecture).await?;
            let platform = json!({"os": "linux", "architecture": architecture});
            entries.push(json!({
                "mediaType": image.media_type, "digest": image.digest, "size": image.bytes.len(), "platform": platform,
            }));
        }
        let media_type = crate::image::OCI_INDEX;
        let list = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": entries});
        Ok(registry.put_manifest(repository, &self.tag(index), media_type, &list).await?.0)
    }

    async fn push_manifest(
        &self,
        registry: &Remote,
        repository: &str,
        tag: &str,
        image: usize,
        architecture: &str,
    ) -> Result<Manifest> {
        let mut layers = Vec::new();
        for layer in self.layers(image) {
            let size = self.size(layer);
            let digest = registry.push_random_blob(repository, self.seed_of(layer), size).await?;
            layers.push(json!({"mediaType": Flavour::Oci.layer(), "digest": digest, "size": size}));
        }
        let config = json!({"architecture": architecture, "os": "linux", "image": image, "seed": self.seed});
        let bytes = serde_json::to_vec(&config)?;
        let digest = registry.push_blob(repository, &bytes).await?;
        let config = json!({"mediaType": Flavour::Oci.config(), "digest": digest, "size": bytes.len()});
        let manifest: Value =
            json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers});
        Ok(registry.put_manifest(repository, tag, OCI_MANIFEST, &manifest).await?.0)
    }
}
