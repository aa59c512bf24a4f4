//! Releases of OpenShift and OKD: from channels to payloads, and from those to the images that they consist of.
//!
//! A release is wanted only if a trusted key has signed its payload, unless nobody is to look. Its components are copied by
//! digest, and its own tag appears after all of them: what can be pulled by its version is complete.

use std::collections::{BTreeMap, BTreeSet};

use semver::Version;

use super::graph::{Graph, GraphKey};
use super::payload::{Payload, PayloadKey};
use super::signature::{self, KeyRing};
use super::{
    DestinationRule, Document, DocumentKey, Documents, Item, ItemKey, Origin, OriginKind, PathRule, SignatureKey,
    Source, Step, TagRule, Wanted,
};
use crate::failure::{Failure, Reason};
use crate::oci::{Digest, Reference, RepositoryPath, Tag};
use crate::request::{BootImage, Product, ReleaseChoice, ReleaseRequest};

mod select;

use select::{Chosen, Graphs, More, Selected};

/// Where payloads go, below the target's root.
const PAYLOADS: &str = "openshift/release-images";
/// Where what they consist of goes.
const COMPONENTS: &str = "openshift/release";

/// Whose signatures count.
#[derive(Clone, Debug)]
pub enum Trust {
    /// These keys.
    Keys(KeyRing),
    /// Nobody looks.
    Skip,
}

/// A release that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// Its version; the name of its tag if it was named by its image.
    pub version: String,
    /// In Go's spelling, or `multi`; empty if it is not known.
    pub architecture: String,
    /// Its payload.
    pub digest: Digest,
    /// The item of its payload.
    pub payload: ItemKey,
    /// The files that prove that it is genuine; none if nobody looked.
    pub signatures: Vec<Vec<u8>>,
    /// The channels that it was found in, sorted.
    pub channels: Vec<String>,
}

impl Graphs for Documents {
    fn graph(&self, key: &GraphKey) -> Option<Result<&Graph, &Failure>> {
        match self.get(&DocumentKey::Graph(key.clone()))? {
            Ok(Document::Graph(graph)) => Some(Ok(graph)),
            Ok(_) => None,
            Err(failure) => Some(Err(failure)),
        }
    }
}

/// Turns a request into items, as soon as all documents are there.
///
/// A channel that gives nothing, a release that nobody trusted has signed and a payload that cannot be read are failures of
/// their own; the others go on.
pub fn step(request: &ReleaseRequest, trust: &Trust, documents: &Documents) -> Step<Wanted> {
    let mut wanted = Wanted::default();
    let candidates = match candidates(request, documents, &mut wanted) {
        Ok(candidates) => candidates,
        Err(need) => return Step::Need(need),
    };
    let mut need = BTreeSet::new();
    for candidate in &candidates {
        let (name, payload) = (candidate.origin(), &candidate.payload);
        let mut known = |key: DocumentKey| {
            let found = documents.get(&key);
            if found.is_none() {
                need.insert(key);
            }
            found
        };
        let signed = match trust {
            Trust::Skip => Some(Ok(None)),
            Trust::Keys(keys) => {
                let key = SignatureKey { product: candidate.product, digest: payload.digest.clone() };
                match known(DocumentKey::Signatures(key)) {
                    Some(Ok(Document::Signatures(files))) => Some(proof(files, &payload.digest, keys).map(Some)),
                    Some(Err(failure)) => Some(Err(failure.clone())),
                    _ => None,
                }
            }
        };
        let signed = match signed {
            None => continue,
            Some(Err(failure)) => {
                wanted.failures.push((name, failure));
                continue;
            }
            Some(Ok(signed)) => signed,
        };
        match known(DocumentKey::Payload(payload.clone())) {
            Some(Ok(Document::Payload(content))) => candidate.add(request, signed, content, &mut wanted),
            Some(Err(failure)) => wanted.failures.push((name, failure.clone())),
            _ => {}
        }
    }
    if need.is_empty() { Step::Done(wanted) } else { Step::Need(need) }
}

/// A release that may be wanted, if it is signed and can be read.
struct Candidate {
    version: Option<Version>,
    architecture: String,
    product: Product,
    /// As it is named: by the update service or by the user.
    named: Reference,
    payload: PayloadKey,
    channels: Vec<String>,
}

fn candidates(
    request: &ReleaseRequest,
    documents: &Documents,
    wanted: &mut Wanted,
) -> Result<Vec<Candidate>, BTreeSet<DocumentKey>> {
    match &request.choice {
        ReleaseChoice::Image { written, named } => {
            let key = DocumentKey::TagDigest(named.clone());
            let digest = match (named.digest(), documents.get(&key)) {
                (Some(digest), _) | (None, Some(Ok(Document::Digest(digest)))) => digest.clone(),
                (None, Some(Err(failure))) => {
                    wanted.failures.push((origin(written.clone()), failure.clone()));
                    return Ok(Vec::new());
                }
                (None, _) => return Err(BTreeSet::from([key])),
            };
            let payload = PayloadKey { repository: named.repository().clone(), digest };
            let (product, named) = (Product::Ocp, named.clone());
            let (version, architecture) = named.tag().map(read_tag).unwrap_or_default();
            Ok(vec![Candidate { version, architecture, product, named, payload, channels: Vec::new() }])
        }
        ReleaseChoice::Channels(channels) => {
            let mut need = BTreeSet::new();
            let mut all = Vec::new();
            for architecture in &request.architectures {
                match select::select(channels, architecture, documents) {
                    Ok(Selected { chosen, failures, notes }) => {
                        let several = request.architectures.len() > 1;
                        let name =
                            |channel: String| if several { format!("{channel} {architecture}") } else { channel };
                        wanted
                            .failures
                            .extend(failures.into_iter().map(|(channel, failure)| (origin(name(channel)), failure)));
                        wanted.notes.extend(notes);
                        all.extend(chosen.into_values());
                    }
                    Err(More(keys)) => need.extend(keys.into_iter().map(DocumentKey::Graph)),
                }
            }
            if !need.is_empty() {
                wanted.failures.clear();
                return Err(need);
            }
            all.sort_by(|a: &Chosen, b| {
                a.version.cmp_precedence(&b.version).then_with(|| a.architecture.cmp(&b.architecture))
            });
            Ok(all.into_iter().filter_map(|chosen| candidate(chosen, wanted)).collect())
        }
    }
}

fn candidate(chosen: Chosen, wanted: &mut Wanted) -> Option<Candidate> {
    let named = chosen.payload.parse::<Reference>().ok();
    let digest = named.as_ref().and_then(|named| named.digest().cloned());
    let (Some(named), Some(digest)) = (named, digest) else {
        let message = format!(
            "the update service names the payload of {} `{}`, which is not an image with a digest",
            chosen.version, chosen.payload
        );
        wanted.failures.push((origin(chosen.version.to_string()), Failure::permanent(Reason::GraphInvalid, message)));
        return None;
    };
    Some(Candidate {
        payload: PayloadKey { repository: named.repository().clone(), digest },
        version: Some(chosen.version),
        architecture: chosen.architecture,
        product: chosen.product,
        named,
        channels: chosen.channels.into_iter().collect(),
    })
}

/// What proves that a payload is genuine.
struct Proof {
    identity: String,
    files: Vec<Vec<u8>>,
}

/// The files among `files` that prove it.
fn proof(files: &[Vec<u8>], digest: &Digest, keys: &KeyRing) -> Result<Proof, Failure> {
    let mut identity = None;
    let mut good = Vec::new();
    let mut bad = Vec::new();
    for file in files {
        match signature::verify(file, digest, keys) {
            Ok(verified) => {
                identity.get_or_insert(verified.identity);
                good.push(file.clone());
            }
            Err(error) => bad.push(error.to_string()),
        }
    }
    match identity {
        Some(identity) => Ok(Proof { identity, files: good }),
        None => {
            bad.dedup();
            let message = if bad.is_empty() {
                format!(
                    "no signature store has a signature of `{digest}`: name one that does in `source.signatureStores`, or set \
                     `verification.releaseSignatures` to `Skip`"
                )
            } else {
                format!("no signature of `{digest}` proves anything: {}", bad.join("; "))
            };
            Err(Failure::permanent(Reason::SignatureMissing, message))
        }
    }
}

fn origin(name: String) -> Origin {
    Origin { kind: OriginKind::Release, name }
}

/// How releases spell an architecture.
fn spelt(architecture: &str) -> &str {
    match architecture {
        "amd64" => "x86_64",
        "arm64" => "aarch64",
        other => other,
    }
}

/// Version and architecture of a tag such as `4.18.10-x86_64`.
fn read_tag(tag: &Tag) -> (Option<Version>, String) {
    let Some((version, architecture)) = tag.as_str().rsplit_once('-') else {
        return (Version::parse(tag.as_str()).ok(), String::new());
    };
    let architecture = match architecture {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    (Version::parse(version).ok(), architecture.to_owned())
}

impl Candidate {
    fn origin(&self) -> Origin {
        origin(match (&self.version, self.architecture.as_str()) {
            (Some(version), "") => version.to_string(),
            (Some(version), architecture) => format!("{version} {architecture}"),
            (None, _) => self.named.to_string(),
        })
    }

    /// The tag of the payload in the target: the one that its signer knows it by, else the one that it was named by, else what
    /// the signer would have called it.
    fn tag(&self, identity: Option<&Reference>) -> Tag {
        let signed = identity.and_then(Reference::tag);
        let stated = self.version.as_ref().map(|version| {
            let name = format!("{version}-{}", spelt(&self.architecture));
            // Tags have no `+`.
            name.trim_end_matches('-').replace('+', "_")
        });
        let stated = stated.and_then(|name| name.parse().ok());
        let bare = || self.payload.digest.hex().parse().unwrap_or_else(|_| Tag::of_digest(&self.payload.digest));
        signed.or(self.named.tag()).cloned().or(stated).unwrap_or_else(bare)
    }

    /// The items of the release, the payload last.
    fn add(&self, request: &ReleaseRequest, proof: Option<Proof>, content: &Payload, wanted: &mut Wanted) {
        let identity = proof.as_ref().and_then(|proof| proof.identity.parse::<Reference>().ok());
        let tag = self.tag(identity.as_ref());
        let origin = origin(tag.to_string());
        let mut parts: BTreeMap<String, Reference> = BTreeMap::new();
        for component in &content.components {
            parts.insert(component.name.clone(), component.image.clone());
        }
        for image in boot_images(request, content, &self.origin(), wanted) {
            parts.insert(image.0, image.1);
        }
        let mut after = BTreeSet::new();
        for (name, image) in parts {
            match part(&origin, &tag, &name, &image) {
                Ok(item) => {
                    after.insert(wanted.items.len());
                    wanted.items.push(Item { platforms: request.platforms.clone(), ..item });
                }
                Err(failure) => wanted.failures.push((self.origin(), failure)),
            }
        }
        // By the name that nodes ask for: that of the signer, with the tag that the installer knows.
        let repository = identity.as_ref().unwrap_or(&self.named).repository();
        let named = repository.tagged(tag.clone()).pinned(self.payload.digest.clone());
        let payload = wanted.items.len();
        wanted.items.push(Item {
            origin,
            source: Source::Registry { named, digest: self.payload.digest.clone() },
            destination: place(PAYLOADS, tag.clone()),
            platforms: request.platforms.clone(),
            after,
            rank: None,
            unmet: None,
        });
        wanted.releases.push(Release {
            version: self
                .version
                .as_ref()
                .map_or_else(|| content.version.clone().unwrap_or_else(|| tag.to_string()), ToString::to_string),
            architecture: self.architecture.clone(),
            digest: self.payload.digest.clone(),
            payload,
            signatures: proof.map(|proof| proof.files).unwrap_or_default(),
            channels: self.channels.clone(),
        });
    }
}

fn place(path: &str, tag: Tag) -> DestinationRule {
    let path = match path.parse::<RepositoryPath>() {
        Ok(path) => PathRule::Replace(path),
        // Not reached: both paths are valid.
        Err(_) => PathRule::Keep { written: path.to_owned() },
    };
    DestinationRule { path, tag: TagRule::Set(tag) }
}

/// One component.
fn part(origin: &Origin, tag: &Tag, name: &str, image: &Reference) -> Result<Item, Failure> {
    let invalid = |message: String| Failure::permanent(Reason::PayloadInvalid, message);
    let digest = image.digest().ok_or_else(|| {
        invalid(format!("its component `{name}` is `{image}`, which is named without a digest: it could be anything"))
    })?;
    let tag = format!("{tag}-{name}");
    let tag = tag
        .parse()
        .map_err(|_no_tag| invalid(format!("its component `{name}` would need the tag `{tag}`, which is none")))?;
    let named = image.repository().at(digest.clone());
    Ok(Item {
        origin: origin.clone(),
        source: Source::Registry { named, digest: digest.clone() },
        destination: place(COMPONENTS, tag),
        platforms: BTreeSet::new(),
        after: BTreeSet::new(),
        rank: None,
        unmet: None,
    })
}

/// The disk images that are wanted, by their names as components.
fn boot_images(
    request: &ReleaseRequest,
    content: &Payload,
    origin: &Origin,
    wanted: &mut Wanted,
) -> Vec<(String, Reference)> {
    if request.boot_images.is_empty() {
        return Vec::new();
    }
    let single = request.boot_images.len() == 1;
    let name = |image: &BootImage| {
        if single { "kube-virt-container".to_owned() } else { format!("kube-virt-container-{}", image.as_str()) }
    };
    let listed = content.boot_images.as_ref();
    let found: Vec<_> = request
        .boot_images
        .iter()
        .filter_map(|image| Some((name(image), listed?.get(image.as_str())?.clone())))
        .collect();
    if found.is_empty() {
        let message = "the release has no disk image for KubeVirt: leave `kubeVirtContainer` out".to_owned();
        wanted.failures.push((origin.clone(), Failure::permanent(Reason::PayloadInvalid, message)));
    }
    found
}

#[cfg(test)]
mod tests;
