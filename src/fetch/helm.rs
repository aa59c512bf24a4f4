//! What charts are made from: indexes, lists of tags, archives, and what those render to.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::Semaphore;
use url::Url;

use super::Source;
use crate::build::chart::{ARCHIVE, CONFIG};
use crate::failure::{Failure, Reason, chain};
use crate::oci::{Digest, Hasher, Manifest, Reference, Repository};
use crate::registry::By;
use crate::resolve::helm::index::{ChartIndex, IndexKey};
use crate::resolve::helm::{Chart, ChartKey, ChartSource, archive, images};

/// The longest index that is read; the largest public ones have 30 MiB.
const MAX_INDEX: u64 = 48 << 20;
/// The longest archive; Helm itself keeps charts in Secrets of 1 MiB.
const MAX_ARCHIVE: u64 = 20 << 20;
/// The longest archive that is remembered.
const MAX_REMEMBERED: usize = 128 << 10;
/// Archives that are held for the copy, in all.
const MAX_HELD: u64 = 64 << 20;

/// Indexes and charts that are read at the same time.
static LARGE: Semaphore = Semaphore::const_new(2);

impl Source {
    /// The index of a repository of charts.
    pub(super) async fn charts(&self, key: &IndexKey) -> Result<ChartIndex, Failure> {
        // Never closed.
        let _turn = LARGE.acquire().await.ok();
        let url = key.folder.join("index.yaml").map_err(|error| invalid(format!("`{}`: {error}", key.folder)))?;
        let asked = format!("the index of charts `{url}`");
        let found = self.client.private_document(&url, &key.folder, MAX_INDEX, &asked).await?;
        let bytes = found.ok_or_else(|| {
            absent(format!("there is no index of charts at `{url}`: check the `url` of the repository, which has index.yaml below it"))
        })?;
        let key = key.clone();
        let parsed = tokio::task::spawn_blocking(move || ChartIndex::parse(&bytes, &key)).await;
        let parsed = parsed.map_err(|error| defect(&error))?;
        parsed.map_err(|why| {
            invalid(format!("what is at `{url}` is not an index of charts: {why}; check the `url` of the repository"))
        })
    }

    /// All tags of a repository.
    pub(super) async fn tags(&self, repository: &Repository) -> Result<BTreeSet<String>, Failure> {
        let found = self.client.tags(repository, "").await.map_err(|error| error.failure())?;
        match found {
            Some(tags) if !tags.is_empty() => Ok(tags),
            Some(_) => Err(absent(format!(
                "there is no chart at `oci://{repository}`: check the `url` and the name of the chart"
            ))),
            None => Err(absent(format!(
                "the versions of the chart at `oci://{repository}` cannot be listed: write one in `version`"
            ))),
        }
    }

    /// A chart and what it renders to.
    pub(super) async fn chart(&self, key: &ChartKey) -> Result<Chart, Failure> {
        // Never closed.
        let _turn = LARGE.acquire().await.ok();
        let bytes = match &key.from {
            ChartSource::Http { url, folder, digest } => self.archive_at(key, url, folder, digest.as_ref()).await?,
            ChartSource::Oci(image) => self.archive_in(key, image).await?,
        };
        let about = |why: String| invalid(format!("chart `{}` {}: {why}", key.name, key.version));
        let (name, version, packed) = (key.name.clone(), key.version.clone(), bytes.clone());
        let looked = tokio::task::spawn_blocking(move || archive::inspect(&packed, &name, &version)).await;
        let metadata = looked.map_err(|error| defect(&error))?.map_err(about)?;
        let found = if metadata.get("type").and_then(Value::as_str) == Some("library") {
            // It has nothing that could be rendered by itself.
            images::Found::default()
        } else {
            let rendered = self.helm.render(&bytes, &key.values).await;
            let rendered = rendered.map_err(|error| Failure { transient: error.passes(), ..about(chain(&error)) })?;
            let paths = key.image_paths.clone();
            let looked = tokio::task::spawn_blocking(move || images::find(&rendered, &paths)).await;
            looked.map_err(|error| defect(&error))?.map_err(about)?
        };
        let archive = if key.archive { Some(self.hold(key, bytes)?) } else { None };
        Ok(Chart { metadata, archive, found })
    }

    /// Keeps an archive for the copy, as long as there is room.
    fn hold(&self, key: &ChartKey, bytes: Bytes) -> Result<Bytes, Failure> {
        let length = bytes.len() as u64;
        if self.held.fetch_add(length, Ordering::Relaxed) + length > MAX_HELD {
            return Err(invalid(format!(
                "chart `{}` {}: the charts of one object are held in memory until they are copied, and these have more than {} \
                 MiB: name fewer, spread them over several objects, or set `copy.charts` to `Skip`",
                key.name,
                key.version,
                MAX_HELD >> 20
            )));
        }
        Ok(bytes)
    }

    async fn archive_at(
        &self,
        key: &ChartKey,
        url: &Url,
        folder: &Url,
        digest: Option<&Digest>,
    ) -> Result<Bytes, Failure> {
        let asked = format!("chart `{}` {} at `{url}`", key.name, key.version);
        let found = self.client.private_document(url, folder, MAX_ARCHIVE, &asked).await?;
        let bytes = found.ok_or_else(|| {
            absent(format!(
                "{asked}, which the index of `{folder}` names, is not there: the index is older than the repository"
            ))
        })?;
        if let Some(expected) = digest {
            let mut hasher = Hasher::new(expected.algorithm());
            hasher.update(&bytes);
            let actual = hasher.finish();
            if actual != *expected {
                let message = format!(
                    "{asked}: its index says {expected}, and it is {actual}; it was changed after it was listed"
                );
                return Err(Failure::permanent(Reason::DigestMismatch, message));
            }
        }
        Ok(bytes)
    }

    async fn archive_in(&self, key: &ChartKey, image: &Reference) -> Result<Bytes, Failure> {
        let repository = image.repository();
        let no_chart = |why: String| invalid(format!("`oci://{image}` is not the chart `{}`: {why}", key.name));
        let digest = image.digest().ok_or_else(|| no_chart("it is named without a digest".to_owned()))?;
        let manifest = self.manifest(repository, By::Digest(digest), &image.to_string()).await?;
        let blobs = match manifest.parse().map_err(|error| no_chart(error.to_string()))? {
            Manifest::Image { blobs, .. } => blobs,
            Manifest::Index { .. } => return Err(no_chart("it is an index of images".to_owned())),
        };
        if blobs.first().is_none_or(|config| config.media_type != CONFIG) {
            return Err(no_chart("it is an image; charts have a config of their own type".to_owned()));
        }
        let layer = blobs.iter().find(|blob| blob.media_type == ARCHIVE);
        let layer = layer.ok_or_else(|| no_chart(format!("it has no layer `{ARCHIVE}`")))?;
        if layer.size > MAX_ARCHIVE {
            return Err(no_chart(format!("its archive has more than {} MiB", MAX_ARCHIVE >> 20)));
        }
        let mut reader = self.client.open_blob(repository, layer).await.map_err(|error| error.failure())?;
        let mut bytes = Vec::new();
        while let Some(chunk) = reader.next().await {
            bytes.extend_from_slice(&chunk.map_err(|error| error.failure())?);
        }
        Ok(bytes.into())
    }
}

fn invalid(message: String) -> Failure {
    Failure::permanent(Reason::ManifestInvalid, message)
}

fn absent(message: String) -> Failure {
    Failure::permanent(Reason::SourceNotFound, message)
}

fn defect(error: &tokio::task::JoinError) -> Failure {
    invalid(format!("reading a chart panicked: {error}; please report this defect"))
}

/// What a chart is may be remembered if it was named by its digest and is small.
pub(super) fn lasting(key: &ChartKey, chart: &Chart) -> bool {
    let pinned = match &key.from {
        ChartSource::Http { digest, .. } => digest.is_some(),
        ChartSource::Oci(image) => image.digest().is_some(),
    };
    pinned && chart.archive.as_ref().is_none_or(|bytes| bytes.len() <= MAX_REMEMBERED)
}
