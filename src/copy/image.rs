//! One image: ask the target first, children and blobs before parents, the tag last.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use tokio::time::Instant;

use super::claims::Turn;
use super::transfers::Transfer;
use super::{Attachments, Engine, Gates, LEAST_SMALL, Observe, Run, Tally, Trust};
use crate::failure::{Failure, Reason};
use crate::oci::{Descriptor, Digest, Manifest, RawManifest, Reference, Repository};
use crate::plan::PlanItem;
use crate::registry::{self, By, Client, Offer, Progress, PutOutcome, SMALL_BLOB, Side, Transferred, UploadSession};
use crate::registry::{BlobSource, offer, send};

/// Indexes within indexes; real ones have one level.
const MAX_DEPTH: usize = 4;
/// Children and blobs of one image that are asked about together; transfers have their own, lower limit.
const PARTS_AT_ONCE: usize = 8;

/// One item on its way: where from, where to.
pub(super) struct Image<'a> {
    pub(super) run: &'a Run<'a>,
    /// Its place in the plan.
    pub(super) number: usize,
    pub(super) source: &'a Repository,
    pub(super) target: &'a Repository,
    /// Only some platforms of its index are copied.
    pub(super) filtered: bool,
    pub(super) tally: &'a Tally,
}

impl Image<'_> {
    /// Counts a blob that is in the target. The bytes of what was sent were counted as they went.
    fn settled(&self, blob: &Descriptor, how: Transferred) {
        match how {
            Transferred::Present => add(&self.tally.present, blob.size),
            Transferred::Mounted => add(&self.tally.mounted, blob.size),
            Transferred::Uploaded { .. } => {}
        }
        self.tally.wrote.fetch_or(how != Transferred::Present, Ordering::Relaxed);
        self.run.observe.blob_settled(how);
    }
}

/// Where the manifest of a tree is, as far as the caller knows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Top {
    /// In the target; its image blobs are there too, its children are to be looked at.
    Present,
    /// Not in the target.
    Absent,
}

pub(super) fn cancelled() -> Failure {
    Failure::transient(Reason::Cancelled, "stopped before it was done")
}

/// Why a manifest was not put.
enum Refused {
    Stopped,
    Registry(registry::Error),
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Stopped => cancelled(),
            Refused::Registry(error) => error.failure(),
        }
    }
}

impl Engine {
    /// Brings one item to the target, tag last.
    pub(super) async fn image(
        &self,
        run: &Run<'_>,
        item: &PlanItem,
        number: usize,
        gates: &Gates,
        tally: &Tally,
    ) -> Result<(), Failure> {
        let Some(asked) = item.asked.first() else {
            return Err(Failure::permanent(
                Reason::ManifestInvalid,
                format!("the plan names no source for `{}`", item.destination),
            ));
        };
        let image = Image {
            run,
            number,
            source: asked.named.repository(),
            target: item.destination.repository(),
            filtered: !item.platforms.is_empty(),
            tally,
        };
        let at = match item.destination.tag() {
            Some(tag) => By::Tag(tag),
            None => By::Digest(&item.digest),
        };
        let there = self.target.head_manifest(image.target, at).await.map_err(|error| error.failure())?;
        let same = there.as_ref() == Some(&item.digest);
        let top = self.top(same);
        // A tag that is right already need not move, and some registries would not let it.
        let at = if same { By::Digest(&item.digest) } else { at };
        if self.settings.trust == Trust::Remembered && run.known.completed(item, self.settings.attachments) {
            match top {
                Top::Present => return Ok(()),
                Top::Absent if run.known.left_there(item) => {
                    tally.restored.store(true, Ordering::Relaxed);
                    run.observe.missing(item);
                }
                Top::Absent => {}
            }
        }
        if let (Top::Absent, Some(unmet)) = (top, &item.unmet) {
            return Err(unmet.clone());
        }
        let made = self.made.get(&item.digest).is_some();
        // What is made here is made of what comes before it: if that does not come, something else may be made.
        if top == Top::Absent && made {
            follow(run, item, gates).await?;
        }
        let tree = self.tree(&image, &item.digest, Some(&item.platforms), top, 0).await?;
        // Nobody else knows what was made here.
        if self.settings.attachments == Attachments::Copy && !made {
            self.attachments(&image, &tree.digests).await?;
        }
        if top == Top::Absent && !made {
            follow(run, item, gates).await?;
        }
        self.commit(&image, at, &tree, Some(&item.platforms), top, 0).await
    }

    /// Everything below `digest`, and its manifest; the manifest itself is not put.
    pub(super) async fn tree(
        &self,
        image: &Image<'_>,
        digest: &Digest,
        platforms: Option<&BTreeSet<String>>,
        top: Top,
        depth: usize,
    ) -> Result<Tree, Failure> {
        let manifest = match top {
            Top::Absent => self.read(&self.source, image.source, digest).await?,
            Top::Present => self.read(&self.target, image.target, digest).await?,
        };
        let digests = self.below(image, digest, &manifest, platforms, top, depth).await?;
        Ok(Tree { manifest, digests })
    }

    /// Brings everything below a manifest; the digests of all manifests below and including it.
    fn below<'a>(
        &'a self,
        image: &'a Image<'a>,
        digest: &'a Digest,
        manifest: &'a RawManifest,
        platforms: Option<&'a BTreeSet<String>>,
        top: Top,
        depth: usize,
    ) -> BoxFuture<'a, Result<Vec<Digest>, Failure>> {
        Box::pin(async move {
            let parsed = manifest.parse().map_err(|error| invalid(image.source, digest, &error))?;
            let mut digests = vec![digest.clone()];
            if let Manifest::Image { blobs, .. } = &parsed
                && blobs.iter().any(is_foreign)
            {
                warn_of_foreign_layers(image, digest);
            }
            match parsed {
                Manifest::Image { blobs, .. } if top == Top::Present => {
                    // The registry checked that they were there when it took the manifest.
                    let blobs = blobs.iter().filter(|blob| !is_foreign(blob)).map(|blob| &blob.digest);
                    self.claims.found(image.target, blobs);
                }
                Manifest::Image { blobs, .. } => self.blobs(image, &blobs).await?,
                Manifest::Index { children, .. } => {
                    check_depth(image.source, digest, depth)?;
                    let children = select(image.source, digest, children, platforms)?;
                    // Indexes within indexes are rare, and each level multiplies the manifests in memory.
                    let width = if depth == 0 { PARTS_AT_ONCE } else { 1 };
                    let parts = children.iter().map(|child| self.child(image, child, depth + 1).boxed());
                    digests.extend(together(width, parts).await?.into_iter().flatten());
                }
            }
            Ok(digests)
        })
    }

    /// One manifest that is put by digest; returns the digests of all manifests below and including it.
    pub(super) async fn child(
        &self,
        image: &Image<'_>,
        child: &Descriptor,
        depth: usize,
    ) -> Result<Vec<Digest>, Failure> {
        let digest = &child.digest;
        let claim = match self.manifests.turn(image.target, digest).await {
            // Whoever brought it may fail before its attachments: they are looked up for everybody.
            Turn::Present => return Ok(self.trees.get(image.target, digest)),
            Turn::Yours { claim, .. } => claim,
        };
        let at = By::Digest(digest);
        let there = self.target.head_manifest(image.target, at).await.map_err(|error| error.failure())?;
        let top = self.top(there.is_some());
        let tree = self.tree(image, digest, None, top, depth).await?;
        self.commit(image, at, &tree, None, top, depth).await?;
        self.trees.set(image.target, digest, &tree.digests);
        claim.done();
        Ok(tree.digests)
    }

    /// What is believed of a manifest that the target says it has.
    pub(super) fn top(&self, there: bool) -> Top {
        match self.settings.trust {
            Trust::Remembered if there => Top::Present,
            Trust::Remembered | Trust::Nothing => Top::Absent,
        }
    }

    pub(super) async fn read(
        &self,
        client: &Client,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<RawManifest, Failure> {
        if let Some(made) = self.made.manifest(digest) {
            return Ok(made);
        }
        let manifest = client.manifest(repository, By::Digest(digest)).await.map_err(|error| error.failure())?;
        manifest.ok_or_else(|| match client.side() {
            Side::Source => not_found(&repository.at(digest.clone())),
            Side::Target => vanished(&repository.at(digest.clone())),
        })
    }

    async fn blobs(&self, image: &Image<'_>, blobs: &[Descriptor]) -> Result<(), Failure> {
        let parts = blobs.iter().filter(|blob| !is_foreign(blob)).map(|blob| self.blob(image, blob).boxed());
        together(PARTS_AT_ONCE, parts).await?;
        Ok(())
    }

    async fn blob(&self, image: &Image<'_>, blob: &Descriptor) -> Result<(), Failure> {
        let (claim, home) = match self.claims.turn(image.target, &blob.digest).await {
            Turn::Present => {
                image.settled(blob, Transferred::Present);
                return Ok(());
            }
            Turn::Yours { claim, home } => (claim, home),
        };
        if image.run.stop.drain.is_cancelled() {
            return Err(cancelled());
        }
        // Most likely it takes one request, which does not wait behind bytes.
        let offered = match &home {
            Some(home) => self.offer(image, blob, home).await?,
            None => Offer::Wanted(None),
        };
        let how = match offered {
            Offer::Mounted => Transferred::Mounted,
            Offer::Present => Transferred::Present,
            Offer::Wanted(session) => self.move_blob(image, blob, session).await?,
        };
        image.settled(blob, how);
        claim.done();
        Ok(())
    }

    async fn offer(&self, image: &Image<'_>, blob: &Descriptor, home: &Repository) -> Result<Offer, Failure> {
        offer(&self.target, image.target, blob, home).await.map_err(|error| error.failure())
    }

    /// Sends a blob when its turn comes, unless its repository turns out to have it.
    async fn move_blob(
        &self,
        image: &Image<'_>,
        blob: &Descriptor,
        session: Option<Box<UploadSession>>,
    ) -> Result<Transferred, Failure> {
        // Small ones are requests like others, but are held whole.
        let (_held, _place) = if blob.size <= SMALL_BLOB {
            let bytes = u32::try_from(blob.size.max(LEAST_SMALL)).unwrap_or(u32::MAX);
            (self.small.acquire_many(bytes).await.ok(), None)
        } else {
            let turn = Transfer { digest: blob.digest.clone(), size: blob.size, item: image.number };
            (None, Some(self.bulk.enter(turn).await))
        };
        if image.run.stop.drain.is_cancelled() {
            return Err(cancelled());
        }
        let session = match session {
            Some(session) => Some(session),
            // One request instead of two for those that are not there, which are most.
            None if blob.size <= SMALL_BLOB && self.target.posts_whole(image.target) == Some(true) => None,
            // Mounting from the repository itself asks whether the blob is there and opens the upload if it is not.
            None => match self.offer(image, blob, image.target).await? {
                Offer::Wanted(session) => session,
                Offer::Present | Offer::Mounted => return Ok(Transferred::Present),
            },
        };
        let _moving = Moving::new(image.run.observe);
        let count = |bytes: u64| {
            add(&image.tally.uploaded, bytes);
            image.run.observe.uploaded(bytes);
        };
        let progress = Progress { on_bytes: &count, throttles: &self.throttles, breaks: Some(&image.tally.breaks) };
        let made = self.made.get(&blob.digest).map(BlobSource::Made);
        let from = made.unwrap_or(BlobSource::Registry(&self.source, image.source));
        let sent = send(from, &self.target, image.target, blob, session, progress).await;
        sent.map_err(|error| error.failure())
    }

    /// Puts a manifest whose content is complete, unless it is there, and lists it with what it refers to.
    ///
    /// A target that answers that it has lost some of the content is looked at again, once: nothing that is believed of
    /// that repository is believed any longer.
    pub(super) async fn commit(
        &self,
        image: &Image<'_>,
        at: By<'_>,
        tree: &Tree,
        platforms: Option<&BTreeSet<String>>,
        top: Top,
        depth: usize,
    ) -> Result<(), Failure> {
        let manifest = &tree.manifest;
        if top == Top::Present {
            // It may have been put by somebody who was stopped before the list was written.
            return self.list(image, manifest).await;
        }
        let put = match self.put(image, at, manifest).await {
            Err(Refused::Registry(error)) if error.lost_content() => {
                tracing::info!(
                    error = &error as &dyn std::error::Error,
                    "the target has lost content: bringing it again"
                );
                self.claims.forget(image.target);
                self.manifests.forget(image.target);
                self.below(image, manifest.digest(), manifest, platforms, Top::Absent, depth).await?;
                match self.put(image, at, manifest).await {
                    Err(Refused::Registry(error))
                        if image.filtered
                            && error.lost_content()
                            && matches!(manifest.parse(), Ok(Manifest::Index { .. })) =>
                    {
                        return Err(wants_all_platforms(image.target));
                    }
                    put => put?,
                }
            }
            put => put?,
        };
        if put.subject_processed { Ok(()) } else { self.list(image, manifest).await }
    }

    async fn put(&self, image: &Image<'_>, at: By<'_>, manifest: &RawManifest) -> Result<PutOutcome, Refused> {
        if image.run.stop.abort.is_cancelled() || !image.run.observe.may_commit() {
            return Err(Refused::Stopped);
        }
        let put = self.target.put_manifest(image.target, at, manifest).await.map_err(Refused::Registry)?;
        image.tally.wrote.store(true, Ordering::Relaxed);
        Ok(put)
    }
}

/// A blob that is being moved, until dropped: transfers end early in more than one way.
struct Moving<'a> {
    observe: &'a dyn Observe,
    since: Instant,
}

impl<'a> Moving<'a> {
    fn new(observe: &'a dyn Observe) -> Self {
        observe.blob_started();
        Self { observe, since: Instant::now() }
    }
}

impl Drop for Moving<'_> {
    fn drop(&mut self) {
        self.observe.blob_ended(self.since.elapsed());
    }
}

/// Adds what may come from a registry, which can say anything about sizes.
fn add(sum: &AtomicU64, bytes: u64) {
    sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| Some(old.saturating_add(bytes))).ok();
}

/// The manifests below those that a run has brought by digest, where there are any.
#[derive(Default)]
pub(super) struct Trees(Mutex<BTreeMap<(Repository, Digest), Vec<Digest>>>);

impl Trees {
    fn set(&self, repository: &Repository, digest: &Digest, digests: &[Digest]) {
        if digests.len() > 1 {
            let mut trees = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            trees.insert((repository.clone(), digest.clone()), digests.to_vec());
        }
    }

    fn get(&self, repository: &Repository, digest: &Digest) -> Vec<Digest> {
        let trees = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        trees.get(&(repository.clone(), digest.clone())).cloned().unwrap_or_else(|| vec![digest.clone()])
    }
}

/// A manifest and the digests of all manifests below and including it.
pub(super) struct Tree {
    pub(super) manifest: RawManifest,
    pub(super) digests: Vec<Digest>,
}

/// Runs the parts of one image, a few at a time; each is made only when its turn comes.
///
/// After a failure nothing more is begun, but what is under way ends: bytes that were moved are not thrown away.
pub(super) async fn together<T, F>(width: usize, parts: impl Iterator<Item = F>) -> Result<Vec<T>, Failure>
where
    F: Future<Output = Result<T, Failure>>,
{
    let mut parts = parts.fuse();
    let mut running = FuturesUnordered::new();
    let (mut done, mut failed) = (Vec::new(), None);
    loop {
        while failed.is_none() && running.len() < width {
            let Some(part) = parts.next() else { break };
            running.push(part);
        }
        match running.next().await {
            None => return failed.map_or(Ok(done), Err),
            Some(Ok(value)) => done.push(value),
            Some(Err(failure)) => drop(failed.get_or_insert(failure)),
        }
    }
}

/// Waits for everything the item has to follow.
async fn follow(run: &Run<'_>, item: &PlanItem, gates: &Gates) -> Result<(), Failure> {
    for index in &item.after {
        let Some(gate) = gates.get(index) else { continue };
        let mut gate = gate.subscribe();
        let complete = gate.wait_for(Option::is_some).await.is_ok_and(|done| *done == Some(true));
        if complete {
            continue;
        }
        if run.stop.begun() {
            return Err(cancelled());
        }
        let earlier = run.plan.items.get(*index).map(|item| item.destination.to_string()).unwrap_or_default();
        let message = format!("`{}` has to follow `{earlier}`, which is not complete", item.destination);
        return Err(Failure::transient(Reason::DependencyFailed, message));
    }
    Ok(())
}

/// The children to copy: all, or those of the platforms asked for.
pub(super) fn select(
    source: &Repository,
    digest: &Digest,
    children: Vec<Descriptor>,
    platforms: Option<&BTreeSet<String>>,
) -> Result<Vec<Descriptor>, Failure> {
    let Some(platforms) = platforms.filter(|platforms| !platforms.is_empty()) else {
        return Ok(once_each(children.into_iter()));
    };
    let name = |child: &Descriptor| {
        child.platform.as_ref().map(|platform| format!("{}/{}", platform.os, platform.architecture)).unwrap_or_default()
    };
    let have: BTreeSet<String> = children.iter().map(name).collect();
    if let Some(missing) = platforms.iter().find(|platform| !have.contains(*platform)) {
        let have: Vec<&str> = have.iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
        let message = format!("`{source}@{digest}` has no `{missing}`; it has {}", have.join(", "));
        return Err(Failure::permanent(Reason::PlatformMissing, message));
    }
    Ok(once_each(children.into_iter().filter(|child| platforms.contains(&name(child)))))
}

/// One manifest may be listed for several platforms.
fn once_each(children: impl Iterator<Item = Descriptor>) -> Vec<Descriptor> {
    let mut seen = BTreeSet::new();
    children.filter(|child| seen.insert(child.digest.clone())).collect()
}

pub(super) fn check_depth(source: &Repository, digest: &Digest, depth: usize) -> Result<(), Failure> {
    if depth < MAX_DEPTH {
        return Ok(());
    }
    let message = format!("`{source}@{digest}` nests indexes more than {MAX_DEPTH} deep");
    Err(Failure::permanent(Reason::ManifestInvalid, message))
}

/// Layers that registries may leave out: their content is only to be had at the URLs they name.
pub(super) fn is_foreign(blob: &Descriptor) -> bool {
    !blob.urls.is_empty() && (blob.media_type.contains("foreign") || blob.media_type.contains("nondistributable"))
}

/// Says, once for each item, that content is left where it is.
fn warn_of_foreign_layers(image: &Image<'_>, digest: &Digest) {
    let mut warnings = image.tally.warnings.lock().unwrap_or_else(PoisonError::into_inner);
    if warnings.iter().any(|warning| warning.reason == Reason::ForeignLayer) {
        return;
    }
    let message = format!(
        "`{}@{digest}` has layers that may not be distributed, so they are not copied: nodes that run it fetch them from the \
         URLs that the manifest names and must be able to reach these",
        image.source
    );
    warnings.push(Failure::permanent(Reason::ForeignLayer, message));
}

/// What the source does not have.
pub(super) fn not_found(reference: &Reference) -> Failure {
    let message =
        format!("`{reference}` is not in the source registry: check the name, and that it still exists there");
    Failure::permanent(Reason::SourceNotFound, message)
}

/// Many registries take an index only when all that it lists is there.
fn wants_all_platforms(target: &Repository) -> Failure {
    let message = format!(
        "`{target}` takes no index of which only some platforms are there: leave out `platforms`, or let the target registry \
         accept such indexes"
    );
    Failure::permanent(Reason::ManifestInvalid, message)
}

/// What the target said it has, and then did not give.
pub(super) fn vanished(reference: &Reference) -> Failure {
    let message = format!("`{reference}` was in the target registry a moment ago and is not there any more");
    Failure::transient(Reason::RegistryError, message)
}

pub(super) fn invalid(source: &Repository, digest: &Digest, error: &crate::oci::ManifestError) -> Failure {
    let reason = match error {
        crate::oci::ManifestError::Unsupported { .. } => Reason::UnsupportedMediaType,
        _ => Reason::ManifestInvalid,
    };
    let message = format!("`{source}@{digest}`: {}", crate::failure::chain(error));
    Failure::permanent(reason, message)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn after_a_failure_what_is_under_way_ends_and_nothing_more_is_made() {
        let (made, ended) = (Cell::new(0), Cell::new(false));
        let (release, held) = tokio::sync::oneshot::channel::<()>();
        let mut held = Some(held);
        let parts = (0..100).map(|number| {
            made.set(made.get() + 1);
            let (held, ended) = (held.take(), &ended);
            async move {
                match held {
                    Some(held) => {
                        held.await.ok();
                        ended.set(true);
                        Ok(number)
                    }
                    None => Err(cancelled()),
                }
            }
        });
        let mut all = Box::pin(together(2, parts));
        assert!(futures::poll!(all.as_mut()).is_pending());
        assert_eq!(made.get(), 2);
        release.send(()).unwrap();
        assert_eq!(all.await, Err(cancelled()));
        assert!(ended.get());
        assert_eq!(made.get(), 2);
    }
}
