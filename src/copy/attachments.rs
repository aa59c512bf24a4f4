//! What refers to an image: signature tags of sigstore and OCI referrers.
//!
//! `sha256-<hex>.sig` is a tag beside the image it signs. Referrers are manifests whose `subject` is the image; a registry
//! lists them through its referrers API, or, where it has none, a client keeps the list as an index under the tag
//! `sha256-<hex>` (OCI distribution-spec, "Referrers Tag Schema"). That tag may also be an ordinary one, because images
//! that are pulled by digest get it; so it counts as a list only if its entries name the subject, and is written only
//! where no image owns it, be it of the plan or not. A list is written after what it names, and again by the next run if that was stopped
//! in between.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{Hash as _, Hasher as _};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::FutureExt as _;
use tokio::sync::OnceCell;

use super::Engine;
use super::image::{Image, Top, cancelled, invalid, together};
use super::index::{Key, key};
use crate::failure::{Failure, Reason};
use crate::oci::{Descriptor, Digest, Manifest, ManifestError, RawManifest, Repository, Tag, media_type};
use crate::registry::{By, Client};

/// Attachments of attachments that are followed: a signature of an SBOM of an image is two.
const MAX_DEPTH: usize = 3;
/// The most referrers that one image may have, with those of its referrers.
const MAX_REFERRERS: usize = 10_000;
/// Manifests whose attachments are looked up together.
const LOOKUPS_AT_ONCE: usize = 8;
/// How often a list is read again when somebody else changed it in between.
const LIST_ATTEMPTS: usize = 3;

/// Whose attachments a run has brought already: source, target, and what they are attached to, as one key.
#[derive(Default)]
pub(super) struct Attached(Mutex<HashSet<Key>>);

impl Attached {
    fn key(image: &Image<'_>, digest: &Digest) -> Key {
        key(&Digest::of(format!("{} {} {digest}", image.source, image.target).as_bytes()))
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<Key>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the tags of attachments begin with.
const OF_DIGEST: &str = "sha256-";

/// The tags of one source repository that may belong to attachments; none if they are not to be had at once.
type Listing = OnceCell<Option<BTreeSet<String>>>;

/// What a run knows of the tags at the source, by repository.
#[derive(Default)]
pub(super) struct Listings(Mutex<HashMap<Repository, Arc<Listing>>>);

impl Listings {
    fn of(&self, repository: &Repository) -> Arc<Listing> {
        let mut listings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(listings.entry(repository.clone()).or_default())
    }
}

/// Who changes a list holds one of these, by the list's name: syncs of the whole process may want to add to one list,
/// and a registry has no way to change a tag only if nobody else has. A lock, not knowledge: nothing is kept in it.
static LISTS: [tokio::sync::Mutex<()>; 16] = [const { tokio::sync::Mutex::const_new(()) }; 16];

async fn alone(repository: &Repository, tag: &Tag) -> Option<tokio::sync::MutexGuard<'static, ()>> {
    let mut hasher = std::hash::DefaultHasher::new();
    (repository, tag).hash(&mut hasher);
    let slot = usize::try_from(hasher.finish() % LISTS.len() as u64).unwrap_or_default();
    Some(LISTS.get(slot)?.lock().await)
}

impl Engine {
    /// Copies everything that refers to one of `digests`.
    pub(super) async fn attachments(&self, image: &Image<'_>, digests: &[Digest]) -> Result<(), Failure> {
        let parts = digests.iter().map(|digest| self.attached(image, digest).boxed());
        together(LOOKUPS_AT_ONCE, parts).await?;
        Ok(())
    }

    async fn attached(&self, image: &Image<'_>, digest: &Digest) -> Result<(), Failure> {
        let key = Attached::key(image, digest);
        if self.attached.lock().contains(&key) {
            return Ok(());
        }
        // The first to ask for referrers finds out whether there is a list of tags to be looked at.
        self.referrers(image, digest).await?;
        self.signature(image, digest).await?;
        self.attached.lock().insert(key);
        Ok(())
    }

    async fn signature(&self, image: &Image<'_>, digest: &Digest) -> Result<(), Failure> {
        let Ok(tag) = format!("{}.sig", Tag::of_digest(digest)).parse::<Tag>() else { return Ok(()) };
        if image.run.planned_tags.contains(&(image.target, &tag)) {
            // Asked for by name: its item decides what is there.
            return Ok(());
        }
        if !self.may_be_tagged(image.source, &tag).await? {
            return Ok(());
        }
        let Some(signature) = head(&self.source, image.source, &tag).await? else { return Ok(()) };
        let same = head(&self.target, image.target, &tag).await?.as_ref() == Some(&signature);
        if self.top(same) == Top::Present {
            return Ok(());
        }
        let tree = self.tree(image, &signature, None, Top::Absent, 0).await?;
        self.commit(image, if same { By::Digest(&signature) } else { By::Tag(&tag) }, &tree, None, Top::Absent, 0).await
    }

    /// False if the source is known to have no such tag.
    ///
    /// A registry without a referrers API has to be asked for two tags for each image. One list of all tags of the
    /// repository answers for all its images, where it fits into one answer.
    async fn may_be_tagged(&self, source: &Repository, tag: &Tag) -> Result<bool, Failure> {
        if self.source.keeps_referrers(source) != Some(false) {
            return Ok(true);
        }
        let listing = self.listings.of(source);
        let list = async || self.source.tags(source, OF_DIGEST).await.map_err(|error| error.failure());
        let tags = listing.get_or_try_init(list).await?;
        Ok(tags.as_ref().is_none_or(|tags| tags.contains(tag.as_str())))
    }

    async fn referrers(&self, image: &Image<'_>, subject: &Digest) -> Result<(), Failure> {
        let mut seen = BTreeSet::from([subject.clone()]);
        let mut queue = vec![(subject.clone(), 0)];
        while let Some((subject, depth)) = queue.pop() {
            for referrer in self.source_referrers(image, &subject).await? {
                if !seen.insert(referrer.digest.clone()) {
                    continue;
                }
                if seen.len() > MAX_REFERRERS {
                    let message = format!(
                        "more than {MAX_REFERRERS} manifests refer to `{}@{subject}`: set `spec.copy.attachments` to `Skip`",
                        image.source
                    );
                    return Err(Failure::permanent(Reason::ManifestInvalid, message));
                }
                let below = self.referrer(image, &referrer).await?;
                if depth < MAX_DEPTH {
                    queue.extend(below.into_iter().map(|digest| (digest, depth + 1)));
                }
            }
        }
        Ok(())
    }

    async fn referrer(&self, image: &Image<'_>, referrer: &Descriptor) -> Result<Vec<Digest>, Failure> {
        let failure = match self.child(image, referrer, 0).await {
            Err(failure) if failure.reason == Reason::SourceNotFound => failure,
            result => return result,
        };
        let at = By::Digest(&referrer.digest);
        if self.source.head_manifest(image.source, at).await.map_err(|error| error.failure())?.is_some() {
            return Err(failure);
        }
        // A list may outlive what it names.
        tracing::debug!(repository = %image.source, digest = %referrer.digest, "a listed referrer does not exist");
        Ok(Vec::new())
    }

    async fn source_referrers(&self, image: &Image<'_>, subject: &Digest) -> Result<Vec<Descriptor>, Failure> {
        let listed = |list: &RawManifest| match list.parse() {
            Ok(Manifest::Index { children, .. }) => Ok(children),
            // Dropping what does not fit would look like success.
            Err(error @ ManifestError::TooManyEntries { .. }) => Err(invalid(image.source, subject, &error)),
            Ok(Manifest::Image { .. }) | Err(_) => Ok(Vec::new()),
        };
        if let Some(listed) = self.source.referrers(image.source, subject).await.map_err(|error| error.failure())? {
            return Ok(listed);
        }
        let tag = Tag::of_digest(subject);
        if !self.may_be_tagged(image.source, &tag).await? {
            return Ok(Vec::new());
        }
        let list = self.source.manifest(image.source, By::Tag(&tag)).await.map_err(|error| error.failure())?;
        // The image itself, because it is pulled by digest.
        let Some(list) = list.filter(|list| list.digest() != subject) else { return Ok(Vec::new()) };
        let mut referrers = Vec::new();
        for entry in listed(&list)? {
            let manifest =
                self.source.manifest(image.source, By::Digest(&entry.digest)).await.map_err(|error| error.failure())?;
            if manifest.is_some_and(|manifest| refers_to(&manifest, subject)) {
                referrers.push(entry);
            }
        }
        Ok(referrers)
    }

    /// Makes sure that a manifest that is in the target is listed with what it refers to, if it refers to anything.
    pub(super) async fn list(&self, image: &Image<'_>, referrer: &RawManifest) -> Result<(), Failure> {
        let Some(subject) = referrer.parse().ok().and_then(|parsed| parsed.subject().cloned()) else { return Ok(()) };
        let subject = &subject.digest;
        if self.target.referrers(image.target, subject).await.map_err(|error| error.failure())?.is_some() {
            return Ok(());
        }
        let tag = Tag::of_digest(subject);
        if image.run.planned_tags.contains(&(image.target, &tag)) {
            warn(image, &tag, referrer);
            return Ok(());
        }
        let _alone = alone(image.target, &tag).await;
        for _ in 0..LIST_ATTEMPTS {
            let old = self.target.manifest(image.target, By::Tag(&tag)).await.map_err(|error| error.failure())?;
            let list = match with_entry(old.as_ref(), subject, referrer) {
                Listed::Already => return Ok(()),
                Listed::Taken => {
                    warn(image, &tag, referrer);
                    return Ok(());
                }
                Listed::New(list) => list,
            };
            if image.run.stop.abort.is_cancelled() || !image.run.observe.may_commit() {
                return Err(cancelled());
            }
            self.target.put_manifest(image.target, By::Tag(&tag), &list).await.map_err(|error| error.failure())?;
            image.tally.wrote.store(true, Ordering::Relaxed);
            if head(&self.target, image.target, &tag).await?.as_ref() == Some(list.digest()) {
                return Ok(());
            }
        }
        let message = format!("the list of referrers `{}:{tag}` kept changing while it was written", image.target);
        Err(Failure::transient(Reason::RegistryError, message))
    }
}

async fn head(client: &Client, repository: &Repository, tag: &Tag) -> Result<Option<Digest>, Failure> {
    client.head_manifest(repository, By::Tag(tag)).await.map_err(|error| error.failure())
}

fn warn(image: &Image<'_>, tag: &Tag, referrer: &RawManifest) {
    let warning = Failure::permanent(
        Reason::ReferrersUnsupported,
        format!(
            "the target has no referrers API and `{}:{tag}` is an image of its own, so `{}` cannot be listed as \
             referring to it; it is there by digest",
            image.target,
            referrer.digest()
        ),
    );
    let mut warnings = image.tally.warnings.lock().unwrap_or_else(PoisonError::into_inner);
    if !warnings.contains(&warning) {
        warnings.push(warning);
    }
}

fn refers_to(manifest: &RawManifest, subject: &Digest) -> bool {
    manifest.parse().is_ok_and(|parsed| parsed.subject().is_some_and(|found| found.digest == *subject))
}

/// A list with one more entry.
#[derive(Debug, PartialEq, Eq)]
enum Listed {
    /// It has the entry.
    Already,
    /// What is there is not a list, but an image that owns its tag.
    Taken,
    New(RawManifest),
}

/// The list of what refers to `subject` with `referrer` in it.
fn with_entry(old: Option<&RawManifest>, subject: &Digest, referrer: &RawManifest) -> Listed {
    let mut list = match old {
        None => serde_json::json!({}),
        Some(old) => {
            let mut list: serde_json::Value = serde_json::from_slice(old.bytes()).unwrap_or_default();
            // Some tools write an empty list as `null`.
            if let Some(none) = list.get_mut("manifests").filter(|manifests| manifests.is_null()) {
                *none = serde_json::json!([]);
            }
            let image = list.get("layers").or_else(|| list.get("config")).is_some();
            if image || list.get("manifests").is_none() || old.digest() == subject {
                return Listed::Taken;
            }
            list
        }
    };
    let digest = referrer.digest().to_string();
    let body: serde_json::Value = serde_json::from_slice(referrer.bytes()).unwrap_or_default();
    let mut entry = serde_json::json!({
        "mediaType": referrer.media_type(),
        "digest": digest,
        "size": referrer.bytes().len(),
    });
    // distribution-spec: the artifact type is the manifest's own, else its config's media type.
    let kind = body.get("artifactType").or_else(|| body.get("config").and_then(|config| config.get("mediaType")));
    for (key, value) in [("artifactType", kind), ("annotations", body.get("annotations"))] {
        if let (Some(value), Some(entry)) = (value, entry.as_object_mut()) {
            entry.insert(key.to_owned(), value.clone());
        }
    }
    let Some(fields) = list.as_object_mut() else { return Listed::Taken };
    fields.insert("schemaVersion".to_owned(), 2.into());
    fields.insert("mediaType".to_owned(), media_type::OCI_INDEX.into());
    let manifests = fields.entry("manifests").or_insert_with(|| serde_json::json!([]));
    let Some(manifests) = manifests.as_array_mut() else { return Listed::Taken };
    if manifests.iter().any(|entry| entry.get("digest").and_then(serde_json::Value::as_str) == Some(&digest)) {
        return Listed::Already;
    }
    manifests.push(entry);
    manifests.sort_by_cached_key(|entry| entry.get("digest").map(ToString::to_string));
    Listed::New(RawManifest::new(Bytes::from(list.to_string()), media_type::OCI_INDEX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(text: &str) -> RawManifest {
        RawManifest::new(Bytes::copy_from_slice(text.as_bytes()), media_type::OCI_IMAGE)
    }

    fn added(old: Option<&RawManifest>, referrer: &RawManifest) -> RawManifest {
        let Listed::New(list) = with_entry(old, &Digest::of(b"subject"), referrer) else { panic!("not added") };
        list
    }

    #[test]
    fn a_referrer_is_listed_once_with_its_artifact_type() {
        let referrer = manifest(r#"{"artifactType":"application/x","layers":[],"annotations":{"a":"b"}}"#);
        let list = added(None, &referrer);
        let json: serde_json::Value = serde_json::from_slice(list.bytes()).unwrap();
        assert_eq!(json["manifests"][0]["artifactType"], "application/x");
        assert_eq!(json["manifests"][0]["annotations"]["a"], "b");
        assert_eq!(with_entry(Some(&list), &Digest::of(b"subject"), &referrer), Listed::Already);
        let both = added(Some(&list), &manifest(r#"{"layers":[]}"#));
        assert!(matches!(both.parse().unwrap(), Manifest::Index { children, .. } if children.len() == 2));
    }

    #[test]
    fn what_others_wrote_into_a_list_stays() {
        let old = manifest(r#"{"schemaVersion":2,"manifests":[],"annotations":{"by":"cosign"}}"#);
        let list = added(Some(&old), &manifest(r#"{"layers":[]}"#));
        let json: serde_json::Value = serde_json::from_slice(list.bytes()).unwrap();
        assert_eq!(json["annotations"]["by"], "cosign");
    }

    #[test]
    fn an_image_under_the_tag_of_its_digest_is_never_overwritten_by_a_list() {
        let referrer = manifest(r#"{"artifactType":"application/x","layers":[]}"#);
        let index = manifest(r#"{"schemaVersion":2,"manifests":[]}"#);
        assert_eq!(with_entry(Some(&index), index.digest(), &referrer), Listed::Taken);
        let image = manifest(r#"{"schemaVersion":2,"layers":[]}"#);
        assert_eq!(with_entry(Some(&image), &Digest::of(b"other"), &referrer), Listed::Taken);
    }
}
