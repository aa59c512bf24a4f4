//! Whether a new status is worth a write.

use jiff::{SignedDuration, Timestamp};

use crate::api::{ImageSetMirrorStatus, ProgressStatus, SyncStatus};

/// Least time between two writes that only tell progress.
const PROGRESS_PERIOD: SignedDuration = SignedDuration::from_secs(10);

/// Decides whether `next` is written over `previous`, the status in the cluster.
///
/// Equal: no. A change of anything but progress and the start of a sync: yes. Progress: only if 10 s have passed since
/// `last_progress_write` (the last write of any kind by this process) *and* it moved by 1 %. The start of a sync: when the
/// sync has been running for 10 s; a sync that is shorter costs one write, at its end.
pub fn should_write(
    previous: Option<&ImageSetMirrorStatus>,
    next: &ImageSetMirrorStatus,
    last_progress_write: Option<Timestamp>,
    now: Timestamp,
) -> bool {
    let Some(previous) = previous else { return true };
    if previous == next {
        return false;
    }
    let mut masked = next.clone();
    masked.progress.clone_from(&previous.progress);
    let start = |status: &ImageSetMirrorStatus| status.sync.as_ref().and_then(|sync| sync.start_time.clone());
    if let Some(sync) = &mut masked.sync {
        sync.start_time = start(previous);
    }
    masked.sync = masked.sync.filter(|sync| previous.sync.is_some() || *sync != SyncStatus::default());
    if masked != *previous {
        return true;
    }
    if last_progress_write.is_some_and(|last| now.duration_since(last).abs() < PROGRESS_PERIOD) {
        return false;
    }
    if start(previous) != start(next) {
        return start(next).is_none_or(|start| now.duration_since(start.0).abs() >= PROGRESS_PERIOD);
    }
    match (&previous.progress, &next.progress) {
        (Some(previous), Some(next)) => is_a_step(previous, next),
        _ => true,
    }
}

/// True if images moved by 1 % of all, or bytes by 1 % of those known.
fn is_a_step(previous: &ProgressStatus, next: &ProgressStatus) -> bool {
    let done = |progress: &ProgressStatus| {
        let images = &progress.images;
        images.copied.saturating_add(images.present).saturating_add(images.failed)
    };
    let bytes = |progress: &ProgressStatus| {
        let bytes = &progress.bytes;
        bytes.copied.saturating_add(bytes.mounted).saturating_add(bytes.present)
    };
    let moved = |from: i64, to: i64, of: i64| from != to && from.abs_diff(to).saturating_mul(100) >= of.unsigned_abs();
    previous.images.total != next.images.total
        || moved(done(previous), done(next), next.images.total)
        || moved(bytes(previous), bytes(next), bytes(previous))
}
