//! The parts of a status that are not conditions: plan, progress, failures, resources, history; each within its bounds.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::api::{
    BytesProgress, CatalogStatus, FailedImage, HistoryEntry, HistoryOutcome, ImageProgress, ImageSetMirrorStatus,
    PlanStatus, ProgressStatus, ReleaseStatus, ResourceStatus, limits,
};
use crate::failure::cut;

use super::observation::{Applied, FailedItem, Planned, Progress};

/// Most bytes of a status as JSON. A request of 1.5 MiB is the hard limit; every write goes to every watcher.
const MAX_BYTES: usize = 60 * 1024;

/// `text` without control characters, which JSON would blow up, cut to `max` bytes.
pub(super) fn clean(text: &str, max: usize) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    cut(text.trim(), max)
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(super) fn plan(previous: Option<&PlanStatus>, plan: &Planned) -> PlanStatus {
    // A second look at the same plan finds nothing added to it; what is shown is what it changed when it was new.
    let same = previous.filter(|previous| previous.digest == plan.digest);
    PlanStatus {
        digest: clean(&plan.digest, limits::DIGEST),
        images: number(plan.images),
        added: same.map_or(number(plan.added), |same| same.added),
        removed: same.map_or(number(plan.removed), |same| same.removed),
        by_origin: plan.by_origin.iter().take(8).map(|(kind, n)| (clean(kind, 64), number(*n))).collect(),
    }
}

pub(super) fn progress(progress: &Progress) -> ProgressStatus {
    let done = progress.copied.saturating_add(progress.present);
    ProgressStatus {
        summary: format!("{done}/{}", progress.total),
        images: ImageProgress {
            total: number(progress.total),
            copied: number(progress.copied),
            present: number(progress.present),
            failed: number(progress.failed),
        },
        bytes: BytesProgress {
            copied: number(progress.bytes_copied),
            mounted: number(progress.bytes_mounted),
            present: number(progress.bytes_present),
        },
    }
}

pub(super) fn failures(items: &[FailedItem]) -> Vec<FailedImage> {
    let failed = |item: &FailedItem| FailedImage {
        image: clean(&item.image, limits::TEXT),
        origin: clean(&item.origin, limits::TEXT),
        stage: item.stage.as_str().to_owned(),
        reason: item.failure.reason.to_string(),
        message: clean(&item.failure.message, limits::TEXT),
    };
    items.iter().take(limits::FAILURES).map(failed).collect()
}

pub(super) fn resources(applied: &Applied) -> Vec<ResourceStatus> {
    // Sorted, and each object once: the list is a map in the API server.
    let mut resources = BTreeMap::new();
    for output in &applied.outputs {
        let resource = ResourceStatus {
            group: output.group.clone(),
            kind: output.kind.clone(),
            name: output.name.clone(),
            state: output.state,
            hash: clean(&output.hash, 16),
            impact: output.impact.as_deref().map(|impact| clean(impact, limits::TEXT)),
        };
        resources.insert((output.group.clone(), output.kind.clone(), output.name.clone()), resource);
    }
    resources.into_values().take(limits::RESOURCES).collect()
}

/// The newest releases.
pub(super) fn releases(releases: &[ReleaseStatus]) -> Vec<ReleaseStatus> {
    let bounded = |release: &ReleaseStatus| ReleaseStatus {
        version: clean(&release.version, 48),
        architecture: clean(&release.architecture, 16),
        ..release.clone()
    };
    releases.iter().take(limits::RELEASES).map(bounded).collect()
}

/// The first catalogs.
pub(super) fn catalogs(catalogs: &[CatalogStatus]) -> Vec<CatalogStatus> {
    let text = |text: &String| clean(text, limits::CATALOG_TEXT);
    let bounded = |catalog: &CatalogStatus| CatalogStatus {
        source: text(&catalog.source),
        target: text(&catalog.target),
        message: text(&catalog.message),
        ..catalog.clone()
    };
    catalogs.iter().take(limits::CATALOGS).map(bounded).collect()
}

/// A sync that has ended, as the history tells it.
pub(super) struct Entry<'a> {
    pub(super) digest: &'a str,
    pub(super) outcome: HistoryOutcome,
    pub(super) started: Timestamp,
    pub(super) ended: Timestamp,
    pub(super) images: u64,
    pub(super) bytes: u64,
}

/// Adds a sync in front, or counts it into the newest entry if that is equal.
pub(super) fn remember(history: &mut Vec<HistoryEntry>, entry: &Entry<'_>) {
    let took = Duration::try_from(entry.ended.duration_since(entry.started)).unwrap_or_default();
    let mut entry = HistoryEntry {
        digest: clean(entry.digest, limits::DIGEST),
        outcome: entry.outcome,
        first_time: Time(entry.ended),
        last_time: Time(entry.ended),
        duration: human(took),
        count: 1,
        images: number(entry.images),
        bytes: number(entry.bytes),
    };
    let same = |newest: &&HistoryEntry| newest.digest == entry.digest && newest.outcome == entry.outcome;
    if let Some(newest) = history.first().filter(same) {
        entry.first_time = newest.first_time.clone();
        entry.count = newest.count.saturating_add(1);
        history.remove(0);
    }
    history.insert(0, entry);
    history.truncate(limits::HISTORY);
}

/// `1h30m`, `38m12s`, `0s`: the largest two units that matter.
pub(super) fn human(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes, seconds) {
        (0, 0, s) => format!("{s}s"),
        (0, m, 0) => format!("{m}m"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, 0, _) => format!("{h}h"),
        (h, m, _) => format!("{h}h{m}m"),
    }
}

/// Shortens what is least needed until the whole status fits: impacts first, then failures from the end, then the oldest
/// releases.
pub(super) fn fit(status: &mut ImageSetMirrorStatus) {
    let size = |status: &ImageSetMirrorStatus| serde_json::to_vec(status).map_or(0, |json| json.len());
    if size(status) <= MAX_BYTES {
        return;
    }
    for resource in &mut status.resources {
        resource.impact = resource.impact.take().map(|impact| cut(&impact, 64));
    }
    while size(status) > MAX_BYTES && status.failures.pop().is_some() {}
    while size(status) > MAX_BYTES && status.mirrored.as_mut().and_then(|mirrored| mirrored.releases.pop()).is_some() {}
    while size(status) > MAX_BYTES && status.resources.pop().is_some() {}
}
