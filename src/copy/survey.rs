//! The discovery of a copy with writes off: what is there, what is not, how many bytes.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use serde::{Deserialize, Serialize};

use super::image::{select, together};
use super::{Engine, ITEMS_AT_ONCE};
use crate::failure::{Failure, Reason};
use crate::oci::{Descriptor, Digest, Manifest, Repository};
use crate::plan::{Plan, PlanItem};
use crate::registry::By;

/// What a look at one item found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Finding {
    /// The destination has the wanted digest.
    Present,
    /// The destination does not exist or names something else.
    Missing,
    /// It could not be found out.
    Failed(Failure),
}

/// One item of a survey.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Surveyed {
    /// What was found at the destination.
    pub finding: Finding,
    /// Bytes that would be sent; a blob shared by several items counts at the first that is looked at.
    pub missing_bytes: u64,
    /// Bytes that are there.
    pub present_bytes: u64,
}

/// Everything found about a plan, in the plan's order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Survey {
    /// One entry for each item of the plan.
    pub items: Vec<Surveyed>,
}

struct Look<'a> {
    source: &'a Repository,
    target: &'a Repository,
    seen: &'a Mutex<BTreeSet<Digest>>,
    missing: AtomicU64,
    present: AtomicU64,
}

impl Engine {
    /// Looks at every item of `plan`; writes nothing anywhere.
    pub async fn survey(&self, plan: &Plan) -> Survey {
        let seen = Mutex::new(BTreeSet::new());
        let seen = &seen;
        let items = futures::stream::iter(0..plan.items.len())
            .map(|index| self.numbered_look(plan, index, seen))
            // In order, so that the survey lines up with the plan.
            .buffered(ITEMS_AT_ONCE)
            .filter_map(std::future::ready)
            .collect()
            .await;
        Survey { items }
    }

    async fn numbered_look(&self, plan: &Plan, index: usize, seen: &Mutex<BTreeSet<Digest>>) -> Option<Surveyed> {
        Some(self.look(plan.items.get(index)?, seen).await)
    }

    async fn look(&self, item: &PlanItem, seen: &Mutex<BTreeSet<Digest>>) -> Surveyed {
        let Some(asked) = item.asked.first() else {
            let message = format!("the plan names no source for `{}`", item.destination);
            let failure = Failure::permanent(Reason::ManifestInvalid, message);
            return Surveyed { finding: Finding::Failed(failure), missing_bytes: 0, present_bytes: 0 };
        };
        let look = Look {
            source: asked.named.repository(),
            target: item.destination.repository(),
            seen,
            missing: AtomicU64::new(0),
            present: AtomicU64::new(0),
        };
        let finding = match self.find(item, &look).await {
            Ok(finding) => finding,
            Err(failure) => Finding::Failed(failure),
        };
        Surveyed { finding, missing_bytes: look.missing.into_inner(), present_bytes: look.present.into_inner() }
    }

    async fn find(&self, item: &PlanItem, look: &Look<'_>) -> Result<Finding, Failure> {
        let at = item.destination.tag().map_or(By::Digest(&item.digest), By::Tag);
        let there = self.target.head_manifest(look.target, at).await.map_err(|error| error.failure())?;
        let present = there.as_ref() == Some(&item.digest);
        self.weigh(look, &item.digest, Some(&item.platforms), present, 0).await?;
        Ok(if present { Finding::Present } else { Finding::Missing })
    }

    fn weigh<'a>(
        &'a self,
        look: &'a Look<'a>,
        digest: &'a Digest,
        platforms: Option<&'a BTreeSet<String>>,
        present: bool,
        depth: usize,
    ) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let (client, repository) = if present { (&self.target, look.target) } else { (&self.source, look.source) };
            let manifest = self.read(client, repository, digest).await?;
            let parsed = manifest.parse().map_err(|error| super::image::invalid(repository, digest, &error))?;
            match parsed {
                Manifest::Image { blobs, .. } => {
                    let parts = blobs.iter().map(|blob| self.weigh_blob(look, blob, present).boxed());
                    together(ITEMS_AT_ONCE, parts).await?;
                    Ok(())
                }
                Manifest::Index { children, .. } => {
                    super::image::check_depth(repository, digest, depth)?;
                    for child in select(repository, digest, children, platforms)? {
                        let at = By::Digest(&child.digest);
                        let there =
                            self.target.head_manifest(look.target, at).await.map_err(|error| error.failure())?;
                        self.weigh(look, &child.digest, None, there.is_some(), depth + 1).await?;
                    }
                    Ok(())
                }
            }
        })
    }

    async fn weigh_blob(&self, look: &Look<'_>, blob: &Descriptor, present: bool) -> Result<(), Failure> {
        let first = look.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(blob.digest.clone());
        if !first || super::image::is_foreign(blob) {
            return Ok(());
        }
        let there =
            present || self.target.blob_exists(look.target, &blob.digest).await.map_err(|error| error.failure())?;
        let sum = if there { &look.present } else { &look.missing };
        sum.fetch_add(blob.size, Ordering::Relaxed);
        Ok(())
    }
}
