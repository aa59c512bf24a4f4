//! Checks of `spec.mirror`.

use std::collections::{BTreeMap, BTreeSet};

use super::build::Faults;
use super::{
    AdditionalImage, CatalogRequest, HelmRequest, Pattern, ReleaseRequest, Target, helm, operators, pattern, release,
};
use crate::api::Charts;
use crate::api::content::{self as api, Content};
use crate::oci::{Digest, Platform, Reference, RepositoryPath, Tag};

/// Longest repository path of a target.
const MAX_PATH: usize = 255;
/// Where every object keeps records of what was mirrored, below its prefix.
const RECORDS: &str = "/imageset-mirror/state/";

/// What `spec.mirror` asks for.
pub(super) struct Read {
    pub(super) releases: Option<ReleaseRequest>,
    pub(super) catalogs: Vec<CatalogRequest>,
    pub(super) helm: Option<HelmRequest>,
    pub(super) additional: Vec<AdditionalImage>,
    pub(super) blocked: Vec<Pattern>,
}

pub(super) fn read(
    spec: &Content,
    copied: Charts,
    target: Option<&Target>,
    faults: &mut Faults,
    warnings: &mut Vec<String>,
) -> Read {
    let releases = spec.platform.as_ref().and_then(|platform| release::read(platform, faults));
    let helm = spec.helm.as_ref();
    let platform = spec.platform.as_ref();
    let platform = platform.is_some_and(|platform| !platform.channels.is_empty() || platform.release.is_some());
    let charts = helm.is_some_and(|helm| !helm.repositories.is_empty() || !helm.local.is_empty());
    if !platform && !charts && spec.operators.is_empty() && spec.additional_images.is_empty() {
        faults.invalid(
            "spec.mirror",
            "nothing to mirror: give at least one of platform.channels, platform.release, operators, additionalImages or \
             helm.repositories",
        );
    }
    let catalogs = operators::read(&spec.operators, faults, warnings);
    let helm = helm.and_then(|helm| helm::read(helm, copied, faults, warnings));
    if !spec.samples.is_empty() {
        warnings.push("spec.mirror.samples has no effect, as in oc-mirror: it can be left out".to_owned());
    }
    let compiled: Vec<_> = spec.blocked_images.iter().map(|entry| pattern::compile(&entry.name)).collect();
    let blocked: Vec<Pattern> = compiled.iter().flatten().cloned().collect();
    let additional = additional(&spec.additional_images, target, &blocked, faults);
    for (index, message) in compiled.into_iter().enumerate().filter_map(|(index, found)| Some((index, found.err()?))) {
        faults.invalid(format!("spec.mirror.blockedImages[{index}].name"), message);
    }
    Read { releases, catalogs, helm, additional, blocked }
}

fn additional(
    entries: &[api::AdditionalImage],
    target: Option<&Target>,
    blocked: &[Pattern],
    faults: &mut Faults,
) -> Vec<AdditionalImage> {
    let mut images = Vec::with_capacity(entries.len());
    let mut places: BTreeMap<(String, String), (usize, Digest)> = BTreeMap::new();
    for (index, entry) in entries.iter().enumerate() {
        let field = format!("spec.mirror.additionalImages[{index}]");
        let named = image(&format!("{field}.name"), &entry.name, faults);
        let repo_field = format!("{field}.targetRepo");
        let target_repo = entry.target_repo.as_ref().and_then(|text| faults.parse::<RepositoryPath>(&repo_field, text));
        let tag_field = format!("{field}.targetTag");
        let target_tag = entry.target_tag.as_ref().and_then(|text| faults.parse::<Tag>(&tag_field, text));
        let Some(named) = named else { continue };
        let mut image = AdditionalImage {
            written: entry.name.clone(),
            name: Reference::split(&entry.name).0.to_owned(),
            named,
            target_repo,
            target_tag,
            platforms: platforms(&entry.platforms),
            blocked_by: None,
        };
        let (path, tag) = place(&image);
        let full = match target.and_then(|target| target.prefix.as_ref()) {
            Some(prefix) => format!("{prefix}/{path}"),
            None => path.clone(),
        };
        let destination = target.map(|target| format!("{}/{full}:{tag}", target.registry));
        image.blocked_by = Pattern::blocking(blocked, &image.written, destination.as_deref()).map(str::to_owned);
        if image.blocked_by.is_some() {
            images.push(image);
            continue;
        }
        if holds_records(&full) {
            let wrong = if image.target_repo.is_some() { &repo_field } else { &format!("{field}.name") };
            faults.invalid(
                wrong,
                format!(
                    "`{full}` in the target is where records of what was mirrored are kept: set another `targetRepo`"
                ),
            );
        }
        let length = full.len();
        if length > MAX_PATH {
            faults.invalid(
                format!("{field}.name"),
                format!("its path in the target would have {length} characters; at most {MAX_PATH} are allowed: set a `targetRepo`"),
            );
        }
        if let Some(digest) = image.named.digest() {
            let (first, known) = places.entry((path.clone(), tag.clone())).or_insert_with(|| (index, digest.clone()));
            if known != digest {
                let other = entries.get(*first).map(|entry| entry.name.as_str()).unwrap_or_default();
                faults.invalid(
                    field,
                    format!(
                        "`{}` and `{other}` (additionalImages[{first}]) are different images that would both become \
                         `{path}:{tag}`: give one of them a `targetRepo` or `targetTag`",
                        entry.name
                    ),
                );
            }
        }
        images.push(image);
    }
    images
}

/// True for a path that is, or lies below, the place of the records of some object; its prefix may be any.
pub(super) fn holds_records(path: &str) -> bool {
    format!("/{path}/").contains(RECORDS)
}

/// Where an image would go below the prefix, as far as the entry alone says it.
fn place(image: &AdditionalImage) -> (String, String) {
    let kept = image.name.split_once('/').map_or(image.name.as_str(), |(_, path)| path);
    let path = image.target_repo.as_ref().map_or(kept, RepositoryPath::as_str);
    let tag = match (&image.target_tag, image.named.tag(), image.named.digest()) {
        (Some(tag), _, _) | (None, Some(tag), _) => tag.as_str().to_owned(),
        (None, None, Some(digest)) => Tag::of_digest(digest).as_str().to_owned(),
        (None, None, None) => String::new(),
    };
    (path.to_owned(), tag)
}

/// Reads an image that has to be in a registry.
pub(super) fn image(field: &str, text: &str, faults: &mut Faults) -> Option<Reference> {
    if text.starts_with("oci://") {
        faults.invalid(
            field,
            format!(
                "`{text}` is on a disk, which is not there for the operator: push it to a registry and name it there"
            ),
        );
        return None;
    }
    let reference: Reference = faults.parse(field, text)?;
    if reference.repository().registry().is_ipv6() {
        faults.invalid(
            field,
            format!("the host of `{text}` is an IPv6 address, which mirror sets cannot express: use a host name"),
        );
        return None;
    }
    Some(reference)
}

pub(super) fn platforms(entries: &[api::PlatformFilter]) -> BTreeSet<Platform> {
    entries.iter().map(|entry| Platform { os: entry.os.clone(), architecture: entry.architecture.clone() }).collect()
}
