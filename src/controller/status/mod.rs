//! From the old status, what is observed and the time to the new status. Pure.
//!
//! The state table, in the words of the conditions:
//!
//! | situation | Ready | Reconciling | Stalled |
//! | --- | --- | --- | --- |
//! | new, or content changed | Unknown/Progressing | True/stage | – |
//! | failed, tried again | False/the failure's reason | True/ProgressingWithRetry | – |
//! | needs a person | False/reason | – | True/reason |
//! | nothing arrived for `progressDeadline` | False/ProgressDeadlineExceeded | – | True |
//! | complete and applied | True/Succeeded | – | – |
//! | complete, being looked at again | True, untouched | – | – |
//! | complete, newer content found | True; `UpToDate` False/NewContent | – | – |
//! | complete, looking again failed | True; `UpToDate` False/RefreshFailed | – | – |
//! | complete, but images are gone from the target | False/ContentMissing | True/Copying | – |
//! | plan mode, planned | True/Planned; `Mirrored` False/PlanOnly | – | – |
//! | suspended, complete | True; `Suspended` True | – | – |
//! | suspended, not complete | False/Suspended; `Suspended` True | – | unchanged |
//! | being deleted | False/Deleting | – | – |
//!
//! "Content changed" means that neither the key of the last complete sync nor the generation is the one seen before: a new
//! generation that changes only the interval leaves a complete object Ready once its cluster objects were looked at again. `Mirrored` is True exactly while everything
//! last found to be wanted by this spec is in the target, so a restarted operator finds its way by the status alone.
//!
//! `Conflict` and `MirrorPolicyConflict` among the cluster objects stall a complete object; `ApplyFailed` is tried again;
//! `NamespaceNotAllowed`, `KindNotServed`, `AdmissionDenied` and `PendingDisruption` show in `ResourcesApplied` only.
//!
//! [`next`] is idempotent: the same observation shown again changes nothing, so that a reconcile of an unchanged object
//! writes nothing.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::api::{HistoryOutcome, ImageSetMirrorStatus, Mode, ReleaseSignatures, ResourceStatus, SyncStatus, limits};
use crate::clock::whole_seconds;
use crate::failure;

use super::schedule;

mod conditions;
mod observation;
mod reason;
mod record;
mod words;
mod write;

#[cfg(test)]
mod tests;

pub use observation::{
    AbortReason, Applied, FailedItem, FailedStage, Finished, Observation, Output, Planned, Progress, Running, Seen,
    Stage, SyncResult, WaitReason,
};
pub use reason::{ConditionType, Reason};
pub(super) use words::notes;
pub use write::should_write;

use conditions::Conditions;

const TRUE: &str = "True";
const FALSE: &str = "False";
const UNKNOWN: &str = "Unknown";

const UNKNOWN_YET: &str = "not known yet for this spec";
const WILL_RETRY: &str = "something failed and will be tried again; see Ready";

/// True if the status says that its spec has been carried out: everything is in the target, or planned in plan mode.
pub(super) fn is_settled(status: &ImageSetMirrorStatus) -> bool {
    settled(&Conditions::of(&status.conditions)).is_some()
}

/// True if what the status says about the cluster objects is not the last word: they were not looked at for this spec, or
/// failed in a way that may have ended. `ended` tells that of one that is held back for what the cluster does not have or
/// does not allow.
pub(super) fn outputs_are_open(status: &ImageSetMirrorStatus, ended: impl Fn(&ResourceStatus) -> bool) -> bool {
    let conditions = Conditions::of(&status.conditions);
    let open = match conditions.reason(ConditionType::ResourcesApplied) {
        None | Some(Reason::Progressing) => true,
        Some(reason) => matches!(
            reason,
            Reason::ApplyFailed | Reason::Conflict | Reason::MirrorPolicyConflict | Reason::AdmissionDenied
        ),
    };
    open || status.resources.iter().any(ended)
}

/// `Some(planned only)` if carried out.
fn settled(conditions: &Conditions) -> Option<bool> {
    if conditions.is(ConditionType::Mirrored, TRUE) {
        return Some(false);
    }
    let planned = conditions.reason(ConditionType::Mirrored) == Some(Reason::PlanOnly);
    planned.then_some(true)
}

/// How the content stands; together with the cluster objects this makes `Ready`, `Reconciling` and `Stalled`.
#[derive(Clone, Debug, PartialEq)]
enum Content {
    /// Carried out.
    Settled { planned: bool, update: Update },
    /// On its way for the first time.
    Working { stage: Reason },
    /// Was complete; images are gone and are being copied again.
    Missing { message: String },
    /// Failed and tried again.
    Retrying { reason: Reason, message: String },
    /// Needs a person.
    Stalled { reason: Reason, message: String },
    /// Suspended before it was complete.
    Halted,
    /// Being deleted.
    Deleting { message: String },
}

/// What is known about newer content than that in the target.
#[derive(Clone, Debug, PartialEq)]
enum Update {
    /// What was known before.
    AsBefore,
    /// There is none.
    None,
    /// There is some.
    Found { message: String },
    /// Looking or copying failed.
    Failed { message: String },
}

/// The next status of an object. `applied` is given if the cluster objects were looked at in this reconcile; otherwise what
/// was known about them stays.
pub fn next(
    previous: Option<&ImageSetMirrorStatus>,
    seen: &Seen,
    observation: &Observation,
    applied: Option<&Applied>,
    now: Timestamp,
) -> ImageSetMirrorStatus {
    let mut status = previous.cloned().unwrap_or_default();
    let before = Conditions::of(&status.conditions);
    let mut machine =
        Machine { conditions: before.clone(), before, seen, now: whole_seconds(now), status: &mut status };
    machine.run(observation, applied);
    let conditions = machine.conditions.into_list(seen.generation);
    status.conditions = conditions;
    status.observed_generation = Some(seen.generation);
    if status.sync.as_ref() == Some(&SyncStatus::default()) {
        status.sync = None;
    }
    record::fit(&mut status);
    status
}

struct Machine<'a> {
    before: Conditions,
    conditions: Conditions,
    seen: &'a Seen,
    now: Timestamp,
    status: &'a mut ImageSetMirrorStatus,
}

impl Machine<'_> {
    fn run(&mut self, observation: &Observation, applied: Option<&Applied>) {
        let about_spec_alone = matches!(observation, Observation::Invalid(_) | Observation::Deleting { .. });
        if !about_spec_alone && self.content_changed() {
            self.forget();
        }
        let mut content = self.content(observation);
        self.reschedule(observation);
        self.suspend(&mut content, observation);
        self.deadline(&mut content, observation);
        match applied {
            Some(applied) => self.resources(applied),
            None if about_spec_alone || self.seen.suspend || self.seen.mode == Mode::Plan => {}
            None => self.unlooked(),
        }
        self.conclude(content);
    }

    fn sync(&mut self) -> &mut SyncStatus {
        self.status.sync.get_or_insert_default()
    }

    fn failing(&self) -> bool {
        self.status.sync.as_ref().is_some_and(|sync| sync.consecutive_failures > 0)
    }

    /// True unless the status is about what the object asks for now.
    fn content_changed(&self) -> bool {
        let synced = self.status.sync.as_ref().and_then(|sync| sync.key.as_deref());
        if synced == Some(self.seen.key.as_str()) && self.status.observed_generation.is_some_and(|seen| seen >= 0) {
            return false;
        }
        // A verdict on the spec goes when the spec is found valid; one that came out of a sync has been counted.
        let verdict =
            self.before.reason(ConditionType::Ready).is_some_and(Reason::is_about_the_spec) && !self.failing();
        verdict || self.status.observed_generation != Some(self.seen.generation)
    }

    /// Drops what was known about other content. What is in the target and in the cluster stays known.
    fn forget(&mut self) {
        let sync = self.sync();
        sync.consecutive_failures = 0;
        sync.next_time = None;
        self.status.failures.clear();
        self.status.progress = None;
        let always = [ConditionType::Resolved, ConditionType::Mirrored];
        for kind in always.into_iter().chain([ConditionType::Verified, ConditionType::ResourcesApplied]) {
            if always.contains(&kind) || self.conditions.has(kind) {
                self.conditions.set(kind, UNKNOWN, Reason::Progressing, UNKNOWN_YET, self.now);
            }
        }
        for kind in [ConditionType::UpToDate, ConditionType::Reconciling, ConditionType::Stalled] {
            self.conditions.remove(kind);
        }
        self.conditions.remove(ConditionType::Ready);
    }

    /// How the content stood, from the conditions alone.
    fn recall(&self) -> Content {
        if let Some(planned) = settled(&self.conditions) {
            return Content::Settled { planned, update: Update::AsBefore };
        }
        let message = self.conditions.message(ConditionType::Ready);
        match self.conditions.reason(ConditionType::Ready) {
            Some(Reason::Suspended) => Content::Halted,
            Some(reason) if reason.needs_a_person() && self.failing() => Content::Stalled { reason, message },
            Some(Reason::ContentMissing) if !self.failing() => Content::Missing { message },
            Some(reason @ (Reason::ContentMissing | Reason::ProgressDeadlineExceeded)) => {
                Content::Retrying { reason, message }
            }
            Some(reason) if reason.is_sync_failure() || reason.is_waiting() => Content::Retrying { reason, message },
            _ => {
                let stage = self.conditions.reason(ConditionType::Reconciling);
                Content::Working { stage: stage.unwrap_or(Reason::Resolving) }
            }
        }
    }

    fn content(&mut self, observation: &Observation) -> Content {
        match observation {
            Observation::Deleting { message } => Content::Deleting { message: message.clone() },
            Observation::Invalid(faults) => {
                let sync = self.sync();
                sync.consecutive_failures = 0;
                sync.next_time = None;
                let (reason, message) = (Reason::InvalidSpec, words::invalid(faults));
                Content::Stalled { reason, message }
            }
            Observation::Waiting { reason, message } => match self.recall() {
                Content::Settled { planned, .. } => {
                    Content::Settled { planned, update: Update::Failed { message: message.clone() } }
                }
                _ => Content::Retrying { reason: reason.reason(), message: message.clone() },
            },
            Observation::Idle => match self.recall() {
                Content::Halted => Content::Working { stage: Reason::Resolving },
                content => content,
            },
            Observation::Queued => self.at_stage(Reason::Queued),
            Observation::Interrupted => self.at_stage(Reason::Interrupted),
            Observation::Running(running) if running.key == self.seen.key => self.running(running),
            Observation::Finished(finished) if finished.key == self.seen.key => self.finished(finished),
            Observation::Running(_) => self.at_stage(Reason::Resolving),
            Observation::Finished(_) => self.content(&Observation::Idle),
        }
    }

    /// What was, but for what was on its way: that is at `stage` now.
    fn at_stage(&self, stage: Reason) -> Content {
        match self.recall() {
            Content::Working { .. } | Content::Halted => Content::Working { stage },
            // Until then it is only looked whether what was waited for is there.
            Content::Retrying { reason, .. } if reason.is_waiting() && stage == Reason::Copying => {
                Content::Working { stage }
            }
            content => content,
        }
    }

    fn started(&mut self, started: Timestamp) {
        self.sync().start_time = Some(Time(whole_seconds(started)));
        if let Some(token) = &self.seen.request_token {
            self.status.last_handled_request = Some(record::clean(token, 256));
        }
    }

    fn running(&mut self, running: &Running) -> Content {
        // A start alone is not written before the sync has run for a while, so that looking whether something missing is
        // there costs no write.
        self.started(running.started);
        let content = self.at_stage(stage_of(running));
        let Some(plan) = &running.plan else { return content };
        let Content::Settled { planned, .. } = content else {
            self.planned(plan, &running.progress);
            self.resolved(true, "every image that is wanted is known by digest");
            return content;
        };
        if planned {
            return content;
        }
        if running.progress.missing > 0 {
            self.planned(plan, &running.progress);
            return self.missing();
        }
        if !self.is_news(plan, planned) {
            return content;
        }
        self.planned(plan, &running.progress);
        // While a refresh that failed is tried again, it has failed.
        if self.failing() {
            return content;
        }
        let message = format!("{} found that the target does not have yet", words::count(plan.added, "image"));
        Content::Settled { planned, update: Update::Found { message } }
    }

    /// Another interval, or the end of a suspension, moves the next sync.
    fn reschedule(&mut self, observation: &Observation) {
        let resting = matches!(observation, Observation::Idle | Observation::Finished(_));
        if resting && !self.failing() && settled(&self.conditions).is_some() {
            let seen = self.seen;
            let sync = self.sync();
            sync.next_time = schedule::after_success(sync, seen).map(Time);
        }
    }

    fn missing(&mut self) -> Content {
        let message = "images that were in the target are gone and are copied again".to_owned();
        self.conditions.set(ConditionType::Mirrored, FALSE, Reason::ContentMissing, &message, self.now);
        if self.failing() {
            return Content::Retrying { reason: Reason::ContentMissing, message };
        }
        Content::Missing { message }
    }

    /// True if `plan` differs from what has been carried out.
    fn is_news(&self, plan: &Planned, planned: bool) -> bool {
        let done = if planned {
            self.status.plan.as_ref().map(|plan| plan.digest.as_str())
        } else {
            self.status.mirrored.as_ref().map(|mirrored| mirrored.digest.as_str())
        };
        done != Some(plan.digest.as_str())
    }

    fn planned(&mut self, plan: &Planned, progress: &Progress) {
        self.status.plan = Some(record::plan(self.status.plan.as_ref(), plan));
        self.status.progress = Some(record::progress(progress));
        if !plan.catalogs.is_empty() || self.status.mirrored.is_some() {
            self.status.mirrored.get_or_insert_default().catalogs = record::catalogs(&plan.catalogs);
        }
    }

    /// Whether the releases that are wanted are genuine; nothing without any.
    fn verified(&mut self, plan: &Planned, failures: &[FailedItem]) {
        let unsigned = failures.iter().find(|item| item.failure.reason == failure::Reason::SignatureMissing);
        let (status, reason, message) = match (unsigned, self.seen.release_signatures) {
            (Some(first), _) => {
                (FALSE, Reason::SignatureInvalid, format!("{}: {}", first.image, first.failure.message))
            }
            (None, _) if plan.releases == 0 => return self.conditions.remove(ConditionType::Verified),
            (None, ReleaseSignatures::Required) => {
                let message = format!("{} signed by a trusted key", words::count(plan.releases, "release"));
                (TRUE, Reason::SignaturesValid, message)
            }
            (None, ReleaseSignatures::Skip) => {
                let message = "`verification.releaseSignatures` is `Skip`: nobody looked whether releases are genuine";
                (FALSE, Reason::SignaturesSkipped, message.to_owned())
            }
        };
        self.conditions.set(ConditionType::Verified, status, reason, &message, self.now);
    }

    fn resolved(&mut self, all: bool, message: &str) {
        let (status, reason) = if all { (TRUE, Reason::Succeeded) } else { (FALSE, Reason::ResolveFailed) };
        self.conditions.set(ConditionType::Resolved, status, reason, message, self.now);
    }

    fn finished(&mut self, finished: &Finished) -> Content {
        let (started, ended) = (whole_seconds(finished.started), whole_seconds(finished.ended));
        let sync = self.sync();
        if sync.last_attempt_time == Some(Time(ended)) && sync.start_time == Some(Time(started)) {
            // Counted already.
            return self.content(&Observation::Idle);
        }
        let before = self.at_stage(Reason::Copying);
        self.started(started);
        self.sync().last_attempt_time = Some(Time(ended));
        match &finished.result {
            SyncResult::Done { plan, progress, failures } if failures.is_empty() => {
                self.remember(HistoryOutcome::Succeeded, started, ended, Some((plan, progress)));
                self.complete(&before, plan, progress, ended)
            }
            SyncResult::Done { plan, progress, failures } => {
                self.remember(HistoryOutcome::Failed, started, ended, Some((plan, progress)));
                self.incomplete(&before, plan, progress, failures, finished)
            }
            SyncResult::Aborted { reason, message } => {
                self.remember(HistoryOutcome::Failed, started, ended, None);
                let reason = reason.reason();
                // The other object may leave at any time, which nobody tells us.
                let permanent = reason.needs_a_person() && reason != Reason::DestinationConflict;
                self.count_failure(finished, permanent);
                failed(&before, reason, message.clone())
            }
        }
    }

    fn remember(
        &mut self,
        outcome: HistoryOutcome,
        started: Timestamp,
        ended: Timestamp,
        done: Option<(&Planned, &Progress)>,
    ) {
        let digest = done.map_or("", |(plan, _)| plan.digest.as_str());
        let (images, bytes) = done.map_or((0, 0), |(plan, progress)| (plan.images, progress.bytes_copied));
        let entry = record::Entry { digest, outcome, started, ended, images, bytes };
        record::remember(&mut self.status.history, &entry);
    }

    fn complete(&mut self, before: &Content, plan: &Planned, progress: &Progress, ended: Timestamp) -> Content {
        let planned = self.seen.mode == Mode::Plan;
        let up_to_date = self.conditions.is(ConditionType::UpToDate, TRUE);
        let was = matches!(before, Content::Settled { planned: was, .. } if *was == planned);
        let quiet = was && up_to_date && progress.copied == 0 && !self.is_news(plan, planned);
        let seen = self.seen;
        let sync = self.sync();
        sync.last_success_time = Some(Time(ended));
        sync.consecutive_failures = 0;
        sync.key = Some(seen.key.clone());
        sync.next_time = schedule::after_success(sync, seen).map(Time);
        self.status.failures.clear();
        self.verified(plan, &[]);
        if quiet {
            return Content::Settled { planned, update: Update::AsBefore };
        }
        self.planned(plan, progress);
        self.resolved(true, "every image that is wanted is known by digest");
        if planned {
            let message = format!("{} planned; plan mode copies nothing", words::count(plan.images, "image"));
            self.conditions.set(ConditionType::Mirrored, FALSE, Reason::PlanOnly, &message, self.now);
        } else {
            // What clusters find of the releases is told with the cluster objects.
            self.status.mirrored.get_or_insert_default().digest = record::clean(&plan.digest, limits::DIGEST);
            let message = format!("{} in the target", words::count(plan.images, "image"));
            self.conditions.set(ConditionType::Mirrored, TRUE, Reason::Succeeded, &message, self.now);
        }
        Content::Settled { planned, update: Update::None }
    }

    fn incomplete(
        &mut self,
        before: &Content,
        plan: &Planned,
        progress: &Progress,
        failures: &[FailedItem],
        finished: &Finished,
    ) -> Content {
        let reason = words::reason_of(failures);
        let message = words::summary(plan, failures);
        self.count_failure(finished, reason.needs_a_person());
        self.status.failures = record::failures(failures);
        self.planned(plan, progress);
        let repairing = matches!(before, Content::Missing { .. })
            || matches!(before, Content::Retrying { reason: Reason::ContentMissing, .. })
            || matches!(before, Content::Settled { planned: false, .. }) && progress.missing > 0;
        if matches!(before, Content::Settled { .. }) && !repairing {
            return failed(before, reason, message);
        }
        self.verified(plan, failures);
        let unresolved = failures.iter().filter(|item| item.stage == FailedStage::Resolve).count();
        let text = match unresolved {
            0 => "every image that is wanted is known by digest".to_owned(),
            n => format!("{} not resolved; see failures", words::count(n, "entry")),
        };
        self.resolved(unresolved == 0, &text);
        let reason = if repairing && !reason.needs_a_person() { Reason::ContentMissing } else { reason };
        self.conditions.set(ConditionType::Mirrored, FALSE, reason, &message, self.now);
        failed(&Content::Working { stage: Reason::Copying }, reason, message)
    }

    fn count_failure(&mut self, finished: &Finished, permanent: bool) {
        let uid = self.seen.uid.clone();
        let ended = whole_seconds(finished.ended);
        let sync = self.sync();
        sync.consecutive_failures = sync.consecutive_failures.saturating_add(1);
        let failures = sync.consecutive_failures;
        sync.next_time = Some(Time(schedule::after_failure(ended, failures, &uid, permanent, finished.retry_after)));
    }

    fn suspend(&mut self, content: &mut Content, observation: &Observation) {
        if !self.seen.suspend {
            self.conditions.remove(ConditionType::Suspended);
            return;
        }
        let message = "spec.suspend is true: nothing is started";
        self.conditions.set(ConditionType::Suspended, TRUE, Reason::Suspended, message, self.now);
        if let Some(sync) = &mut self.status.sync {
            sync.next_time = None;
        }
        let stalled =
            self.conditions.is(ConditionType::Stalled, TRUE) || matches!(observation, Observation::Invalid(_));
        match content {
            Content::Settled { .. } | Content::Deleting { .. } | Content::Stalled { .. } => {}
            // The deadline is not judged while suspended; what was judged stays.
            Content::Retrying { reason: Reason::ProgressDeadlineExceeded, message } if stalled => {
                let message = std::mem::take(message);
                *content = Content::Stalled { reason: Reason::ProgressDeadlineExceeded, message };
            }
            _ => *content = Content::Halted,
        }
    }

    fn deadline(&mut self, content: &mut Content, observation: &Observation) {
        let (message, judged) = match content {
            Content::Working { stage: Reason::Queued } => return,
            Content::Working { .. } => (String::new(), false),
            Content::Missing { message } => (message.clone(), false),
            Content::Retrying { reason, message } => (message.clone(), *reason == Reason::ProgressDeadlineExceeded),
            _ => return,
        };
        let latest = self.seen.last_progress.map_or(self.seen.watched_since, |at| at.max(self.seen.watched_since));
        let limit = jiff::SignedDuration::try_from(self.seen.progress_deadline).unwrap_or(jiff::SignedDuration::MAX);
        let passed = self.now.duration_since(latest) >= limit;
        // Judged by an earlier process, or before the clock was started anew: it stays until something arrives.
        let since = self.conditions.since(ConditionType::Stalled).filter(|_| {
            self.before.reason(ConditionType::Ready) == Some(Reason::ProgressDeadlineExceeded)
                && self.conditions.is(ConditionType::Stalled, TRUE)
        });
        let arrived = |since: Timestamp| self.seen.last_progress.is_some_and(|at| at > since);
        if passed || since.is_some_and(|since| !arrived(since)) {
            let message = if judged || message.is_empty() && since.is_some() {
                self.before.message(ConditionType::Ready)
            } else {
                let waited = record::human(self.seen.progress_deadline);
                let separator = if message.is_empty() { "" } else { ": " };
                format!("no image and no byte arrived in the target for {waited}{separator}{message}")
            };
            *content = Content::Stalled { reason: Reason::ProgressDeadlineExceeded, message };
        } else if judged {
            let stage = match observation {
                Observation::Running(running) if running.key == self.seen.key => stage_of(running),
                Observation::Queued => Reason::Queued,
                Observation::Interrupted => Reason::Interrupted,
                _ => Reason::Resolving,
            };
            *content = Content::Working { stage };
        }
    }

    /// Another generation may want other cluster objects, which nobody has looked at yet.
    fn unlooked(&mut self) {
        let new = self.status.observed_generation != Some(self.seen.generation);
        if new && self.conditions.has(ConditionType::ResourcesApplied) {
            self.conditions.set(ConditionType::ResourcesApplied, UNKNOWN, Reason::Progressing, UNKNOWN_YET, self.now);
        }
    }

    fn resources(&mut self, applied: &Applied) {
        self.status.resources = record::resources(applied);
        let releases = applied.releases.as_deref().map(record::releases);
        if let Some(releases) = releases.filter(|found| !found.is_empty() || self.status.mirrored.is_some()) {
            self.status.mirrored.get_or_insert_default().releases = releases;
        }
        let (reason, verdict) = words::verdict(applied);
        let message = words::with_notes(&verdict, &applied.notes);
        let good = matches!(reason, Reason::Applied | Reason::Published);
        let status = if good { TRUE } else { FALSE };
        self.conditions.set(ConditionType::ResourcesApplied, status, reason, &message, self.now);
    }

    fn conclude(&mut self, content: Content) {
        let (mut reconciling, mut stalled) = (None, None);
        let (status, reason, message) = match content {
            Content::Settled { planned, update } => {
                self.up_to_date(update);
                let done = self.conditions.message(ConditionType::Mirrored);
                let resources = self.conditions.reason(ConditionType::ResourcesApplied);
                let why = self.conditions.message(ConditionType::ResourcesApplied);
                match resources {
                    _ if planned => (TRUE, Reason::Planned, done),
                    Some(reason @ (Reason::Conflict | Reason::MirrorPolicyConflict)) => {
                        stalled = Some((reason, why.clone()));
                        (FALSE, reason, why)
                    }
                    Some(Reason::ApplyFailed) => {
                        reconciling = Some((Reason::ProgressingWithRetry, WILL_RETRY.to_owned()));
                        (FALSE, Reason::ApplyFailed, why)
                    }
                    None | Some(Reason::Progressing) if self.seen.suspend => {
                        (FALSE, Reason::Suspended, "suspended before the cluster objects were written".to_owned())
                    }
                    None | Some(Reason::Progressing) => {
                        reconciling = Some((Reason::Applying, words::stage_message(Reason::Applying).to_owned()));
                        (UNKNOWN, Reason::Progressing, words::stage_message(Reason::Applying).to_owned())
                    }
                    Some(_) => (TRUE, Reason::Succeeded, done),
                }
            }
            Content::Working { stage } => {
                reconciling = Some((stage, words::stage_message(stage).to_owned()));
                (UNKNOWN, Reason::Progressing, words::stage_message(stage).to_owned())
            }
            Content::Missing { message } => {
                reconciling = Some((Reason::Copying, words::stage_message(Reason::Copying).to_owned()));
                (FALSE, Reason::ContentMissing, message)
            }
            Content::Retrying { reason, message } => {
                reconciling = Some((Reason::ProgressingWithRetry, WILL_RETRY.to_owned()));
                (FALSE, reason, message)
            }
            Content::Stalled { reason, message } => {
                stalled = Some((reason, message.clone()));
                (FALSE, reason, message)
            }
            Content::Halted => (FALSE, Reason::Suspended, "suspended before everything was in the target".to_owned()),
            Content::Deleting { message } => (FALSE, Reason::Deleting, message),
        };
        if self.seen.suspend && reconciling.take().is_some() && status != FALSE {
            // Nothing is being worked on; only what can be told without work is told.
            self.conditions.set(ConditionType::Ready, FALSE, Reason::Suspended, &message, self.now);
        } else {
            self.conditions.set(ConditionType::Ready, status, reason, &message, self.now);
        }
        for (kind, wanted) in [(ConditionType::Reconciling, reconciling), (ConditionType::Stalled, stalled)] {
            match wanted {
                Some((reason, message)) => self.conditions.set(kind, TRUE, reason, &message, self.now),
                None => self.conditions.remove(kind),
            }
        }
    }

    fn up_to_date(&mut self, update: Update) {
        let (status, reason, message) = match update {
            Update::AsBefore => return,
            Update::None => (TRUE, Reason::NoNewContent, "nothing newer is known".to_owned()),
            Update::Found { message } => (FALSE, Reason::NewContent, message),
            Update::Failed { message } => (FALSE, Reason::RefreshFailed, message),
        };
        self.conditions.set(ConditionType::UpToDate, status, reason, &message, self.now);
    }
}

fn stage_of(running: &Running) -> Reason {
    match running.stage {
        Stage::Resolving => Reason::Resolving,
        Stage::Planning => Reason::Planning,
        Stage::Copying => Reason::Copying,
    }
}

/// What a failure makes of what was: a complete object stays complete.
fn failed(before: &Content, reason: Reason, message: String) -> Content {
    match before {
        Content::Settled { planned, .. } => {
            Content::Settled { planned: *planned, update: Update::Failed { message: format!("{reason}: {message}") } }
        }
        _ if reason.needs_a_person() => Content::Stalled { reason, message },
        _ => Content::Retrying { reason, message },
    }
}
