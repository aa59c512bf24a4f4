//! Copies a plan from registry to registry, nothing on disk and no blob in memory.
//!
//! **Guarantees.** A tag appears only when everything it names is in the target and every item it has to follow is complete.
//! Content is verified by digest before its last byte is released. Of one digest at most one upload is under way at a
//! target, and repositories that want it too wait and mount it. One bad image never stops the others.
//!
//! **Order of commits.** Of an image: its blobs, then the manifest; of an index: its images, then the index by digest;
//! what refers to an image, then the lists of what refers to it; at last the tag, which is the put of the top manifest. A
//! manifest is put by whoever has seen all that it names. What comes after another item of the plan waits for its tag.
//!
//! **Order of transfers.** A blob that others wait to mount comes first, then in turn the longest one and one of the oldest
//! item. Mounts, small blobs and everything else do not wait behind bytes. Objects of one process get like shares of what
//! a host can do.
//!
//! **Memory.** One read buffer for each transfer under way, whatever its size, and hash states of 7 KiB; at most
//! 1 MiB of blobs up to 256 KiB that are held whole; manifests of at most 4 MiB each with the entries read from them: one for
//! each of the sixteen images under way, and for each of eight of its children or attachments one per level of nesting
//! (almost always one, never more than four). What a run knows of its target is about 60 bytes for each digest.
//!
//! **What may be lost.** A run may be dropped or killed at any instant: blobs and manifests that nothing names yet stay in
//! the target until its garbage collection, uploads under way end with the process, and no tag names anything incomplete.
//! A connection that breaks loses what the target had not taken yet: on targets that keep what has come, that is
//! nothing but what was in flight; on others, the blob is sent again.

mod attachments;
mod claims;
mod image;
mod index;
mod survey;
mod transfers;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::failure::{Failure, Reason};
use crate::gate::Gate;
use crate::oci::{Content, Digest, Reference, Repository, Tag};
use crate::plan::{Plan, PlanItem, TargetId};
use crate::registry::{Breaks, Client, Throttle, Transferred};

pub use claims::{Claim, Claims, Sharing, Turn};
pub use survey::{Finding, Survey, Surveyed};
use transfers::Transfers;

/// How one item ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// Something was written, and everything is in the target.
    Copied,
    /// Everything was in the target already.
    Present,
    /// Not complete in the target, and why.
    Failed(Failure),
    /// Stopped before it was done.
    Cancelled,
}

/// What happened to one item of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ItemReport {
    /// Where it went.
    pub destination: Reference,
    /// The digest that was wanted there.
    pub digest: Digest,
    /// How it ended.
    pub outcome: Outcome,
    /// Bytes sent to the target for this item.
    pub uploaded_bytes: u64,
    /// Bytes that the target took from another of its repositories.
    pub mounted_bytes: u64,
    /// Bytes that were there already, as far as that was looked at.
    pub present_bytes: u64,
    /// How often a transfer broke and went on where it had broken.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub resumed: u64,
    /// How often a transfer broke and began again.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retried: u64,
    /// An earlier sync had completed this, and it was gone.
    #[serde(default)]
    pub restored: bool,
    /// What a person should know although the item is complete.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Failure>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the shape that serde asks for")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What happened to a plan; `items` are in the plan's order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Format version, [`Report::VERSION`].
    pub version: u32,
    /// The target it is about.
    pub target: TargetId,
    /// One entry for each item of the plan.
    pub items: Vec<ItemReport>,
}

impl ItemReport {
    /// True if the item is in the target.
    pub fn complete(&self) -> bool {
        matches!(self.outcome, Outcome::Copied | Outcome::Present)
    }

    /// True if something that refers to the image is in the target and could not be listed there.
    pub fn has_unlisted(&self) -> bool {
        self.warnings.iter().any(|warning| warning.reason == Reason::ReferrersUnsupported)
    }
}

impl Report {
    /// The format written by this build.
    pub const VERSION: u32 = 1;

    /// True if every item is in the target.
    pub fn complete(&self) -> bool {
        self.items.iter().all(ItemReport::complete)
    }
}

/// Whether signatures and other things that refer to an image travel along.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Attachments {
    /// `sha256-<hex>.sig` tags and OCI referrers are copied.
    #[default]
    Copy,
    /// Only what was asked for is copied.
    Skip,
}

/// Whether a run relies on what it or an earlier one was told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// What was completed takes one look at its tag, and what a manifest in the target names is there.
    #[default]
    Remembered,
    /// Nothing is believed: manifests are read from the source and put again, and every blob and attachment is looked for.
    Nothing,
}

/// How one object wants its plan copied.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Bulk transfers at the same time, below the limits of the process per host.
    pub concurrency: NonZeroUsize,
    /// Whether attachments travel along.
    pub attachments: Attachments,
    /// Whether what is known of the target is believed.
    pub trust: Trust,
}

impl Default for Settings {
    /// 8 transfers: on loopback more were no faster, and at 20 ms of distance 16 took a tenth less time, and 3 MiB more.
    fn default() -> Self {
        Self {
            concurrency: NonZeroUsize::MIN.saturating_add(7),
            attachments: Attachments::Copy,
            trust: Trust::Remembered,
        }
    }
}

/// Two ways to end a run early.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// Nothing new is begun; transfers under way end.
    pub drain: CancellationToken,
    /// Everything ends at once.
    pub abort: CancellationToken,
}

impl Stop {
    /// True if either way was taken.
    pub fn begun(&self) -> bool {
        self.drain.is_cancelled() || self.abort.is_cancelled()
    }

    /// What comes of something that is dropped as soon as either way is taken; none if so.
    pub async fn unless_begun<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        self.abort.run_until_cancelled(self.drain.run_until_cancelled(future)).await.flatten()
    }
}

/// Sees a run as it goes; called from many tasks, must not block.
pub trait Observe: Send + Sync {
    /// Asked right before a manifest is put: false if somebody else may be in charge by now.
    fn may_commit(&self) -> bool {
        true
    }
    /// An item was begun.
    fn started(&self, _item: &PlanItem) {}
    /// An item that an earlier sync had completed is gone and will be copied again.
    fn missing(&self, _item: &PlanItem) {}
    /// A blob begins to be moved.
    fn blob_started(&self) {}
    /// A blob that was begun is moved, or given up, after this time.
    fn blob_ended(&self, _took: Duration) {}
    /// A blob is in the target, and how it came there.
    fn blob_settled(&self, _how: Transferred) {}
    /// Bytes went to the target.
    fn uploaded(&self, _bytes: u64) {}
    /// An item ended.
    fn finished(&self, _report: &ItemReport) {}
}

/// Tells whether a destination was completed with this digest, platforms and attachments by an earlier sync.
pub trait Known: Send + Sync {
    /// True if one look at the tag is enough.
    fn completed(&self, item: &PlanItem, attachments: Attachments) -> bool;
    /// True if the sync before this one left the item complete: then it is missed if it is not there. A tag that has
    /// named something else in between is not.
    fn left_there(&self, _item: &PlanItem) -> bool {
        true
    }
}

/// Items that are looked at together. Most of their time is spent waiting for one answer.
const ITEMS_AT_ONCE: usize = 16;

/// Bytes of blobs that are held whole at the same time.
const SMALL_BYTES: usize = 1 << 20;
/// As many of them at the same time as if each had at least this many bytes.
const LEAST_SMALL: u64 = 16 << 10;

/// Copies one plan; made anew for each sync.
pub struct Engine {
    source: Arc<Client>,
    target: Arc<Client>,
    settings: Settings,
    throttles: Vec<Arc<Throttle>>,
    bulk: Arc<Gate<Transfers>>,
    small: Semaphore,
    claims: Arc<Claims>,
    manifests: Claims,
    trees: image::Trees,
    attached: attachments::Attached,
    listings: attachments::Listings,
    made: Arc<Content>,
}

/// Counts of one item, filled from concurrent transfers.
#[derive(Default)]
struct Tally {
    uploaded: AtomicU64,
    mounted: AtomicU64,
    present: AtomicU64,
    wrote: AtomicBool,
    breaks: Breaks,
    restored: AtomicBool,
    warnings: std::sync::Mutex<Vec<Failure>>,
}

/// Whether the items that others follow have ended, and complete, by their number in the plan.
type Gates = BTreeMap<usize, watch::Sender<Option<bool>>>;

/// What one run shares between its items.
struct Run<'a> {
    plan: &'a Plan,
    planned_tags: BTreeSet<(&'a Repository, &'a Tag)>,
    known: &'a dyn Known,
    observe: &'a dyn Observe,
    stop: &'a Stop,
}

impl Engine {
    /// `throttles` are taken in order before each chunk: the object's own and the process's.
    pub fn new(source: Arc<Client>, target: Arc<Client>, settings: Settings, throttles: Vec<Arc<Throttle>>) -> Self {
        let claims = Arc::new(Claims::new(Sharing::Mounts));
        let bulk = Gate::new(settings.concurrency.get(), Transfers::new(Arc::clone(&claims)));
        Self {
            source,
            target,
            settings,
            throttles,
            bulk,
            small: Semaphore::new(SMALL_BYTES),
            claims,
            manifests: Claims::new(Sharing::Apart),
            trees: image::Trees::default(),
            attached: attachments::Attached::default(),
            listings: attachments::Listings::default(),
            made: Arc::default(),
        }
    }

    /// Takes what is in `made` from there, whatever source an item names.
    #[must_use]
    pub fn with_made(self, made: Arc<Content>) -> Self {
        Self { made, ..self }
    }

    /// Brings every item of `plan` to the target and reports on each; never fails as a whole.
    pub async fn run(&self, plan: &Plan, known: &dyn Known, observe: &dyn Observe, stop: &Stop) -> Report {
        let followed = plan.items.iter().flat_map(|item| &item.after);
        let gates: Gates = followed.map(|index| (*index, watch::Sender::new(None))).collect();
        let planned_tags = plan
            .items
            .iter()
            .filter_map(|item| Some((item.destination.repository(), item.destination.tag()?)))
            .collect();
        let run = Run { plan, planned_tags, known, observe, stop };
        let (run, gates) = (&run, &gates);
        // By index, because a closure over borrowed items would tie the future to one lifetime.
        let mut running = futures::stream::iter(0..plan.items.len())
            .map(|index| self.numbered(run, plan, index, gates))
            .buffer_unordered(ITEMS_AT_ONCE);
        let mut reports: Vec<Option<ItemReport>> = plan.items.iter().map(|_| None).collect();
        while let Some(ended) = running.next().await {
            if let Some((index, report)) = ended
                && let Some(place) = reports.get_mut(index)
            {
                *place = Some(report);
            }
        }
        let items = reports.into_iter().flatten().collect();
        Report { version: Report::VERSION, target: plan.target.clone(), items }
    }

    async fn numbered(&self, run: &Run<'_>, plan: &Plan, index: usize, gates: &Gates) -> Option<(usize, ItemReport)> {
        let report = self.item(run, plan.items.get(index)?, index, gates).await;
        if let Some(gate) = gates.get(&index) {
            gate.send_replace(Some(report.complete()));
        }
        run.observe.finished(&report);
        Some((index, report))
    }

    async fn item(&self, run: &Run<'_>, item: &PlanItem, index: usize, gates: &Gates) -> ItemReport {
        let tally = Tally::default();
        let outcome = if run.stop.begun() {
            Outcome::Cancelled
        } else {
            run.observe.started(item);
            match run.stop.abort.run_until_cancelled(self.image(run, item, index, gates, &tally)).await {
                None => Outcome::Cancelled,
                Some(Ok(())) if tally.wrote.load(Ordering::Relaxed) => Outcome::Copied,
                Some(Ok(())) => Outcome::Present,
                Some(Err(failure)) if failure.reason == Reason::Cancelled => Outcome::Cancelled,
                Some(Err(failure)) => Outcome::Failed(failure),
            }
        };
        match &outcome {
            Outcome::Failed(failure) => {
                tracing::warn!(destination = %item.destination, digest = %item.digest, reason = %failure.reason,
                    error = failure.message, "image failed");
            }
            outcome => tracing::debug!(destination = %item.destination, digest = %item.digest, ?outcome, "image done"),
        }
        ItemReport {
            destination: item.destination.clone(),
            digest: item.digest.clone(),
            outcome,
            uploaded_bytes: tally.uploaded.into_inner(),
            mounted_bytes: tally.mounted.into_inner(),
            present_bytes: tally.present.into_inner(),
            resumed: tally.breaks.resumed.into_inner(),
            retried: tally.breaks.retried.into_inner(),
            restored: tally.restored.into_inner(),
            warnings: tally.warnings.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner),
        }
    }
}
