//! From the table of jobs to what the status is made from.

use std::collections::BTreeSet;
use std::time::Duration;

use super::access::ProblemReason;
use super::jobs::State;
use super::status::{
    AbortReason, FailedItem, FailedStage, Finished, Observation, Planned, Progress, Running, Stage, SyncResult,
    WaitReason,
};
use super::worker::{Deed, Done, Ended, Going, planned};
use crate::api::CatalogStatus;
use crate::copy::{Finding, Outcome, Report, Survey};
use crate::failure::{Failure, Reason};
use crate::plan::Plan;
use crate::sync::CatalogReport;

/// What the job table says about an object that asks for `wanted`.
pub(super) fn observation(state: &State<Ended, Going>, wanted: &str) -> Observation {
    let running = |started, stage, going: Option<&Going>, key: &str| {
        Observation::Running(Running {
            key: key.to_owned(),
            started,
            stage,
            plan: going.and_then(|going| going.plan.clone()),
            progress: going.map(|going| going.progress).unwrap_or_default(),
        })
    };
    match state {
        // Interrupted by suspension or deletion; the end of the process is told by whoever ends it.
        State::Idle | State::Interrupted => Observation::Idle,
        // What came of another spec says nothing about this one.
        State::Finished { key, .. } if key != wanted => Observation::Idle,
        State::Queued => Observation::Queued,
        State::Resolving { key, started } => running(*started, Stage::Resolving, None, key),
        State::Copying { key, started, progress, .. } => running(*started, Stage::Copying, Some(progress), key),
        State::Finished { outcome: Ended::Waiting(problem), .. } => {
            Observation::Waiting { reason: wait_reason(problem.reason), message: problem.message.clone() }
        }
        State::Finished { key, started, ended, outcome, .. } => {
            let result = ended_as(outcome);
            let retry_after = match (outcome, &result) {
                (Ended::Target(failure), _) => failure.retry_after,
                (_, SyncResult::Done { failures, .. }) => patience(failures),
                _ => None,
            };
            Observation::Finished(Finished { key: key.clone(), started: *started, ended: *ended, result, retry_after })
        }
    }
}

/// How long to leave everything alone: what can be tried sooner is not held up by a registry that asked for patience.
fn patience(failures: &[FailedItem]) -> Option<Duration> {
    failures.iter().filter(|item| item.failure.transient).map(|item| item.failure.retry_after).min().flatten()
}

fn ended_as(outcome: &Ended) -> SyncResult {
    match outcome {
        Ended::Waiting(problem) => aborted(AbortReason::Internal, &problem.message),
        Ended::Contradiction(error) => aborted(AbortReason::Collision, &error.messages().join("; ")),
        Ended::Conflict(message) => aborted(AbortReason::DestinationConflict, message),
        Ended::Target(failure) => aborted(abort_reason(failure), &failure.message),
        Ended::Panicked => aborted(AbortReason::Internal, "a defect of the operator ended the sync: its log says more"),
        Ended::Done(done) => result(done),
    }
}

fn aborted(reason: AbortReason, message: &str) -> SyncResult {
    SyncResult::Aborted { reason, message: message.to_owned() }
}

fn wait_reason(reason: ProblemReason) -> WaitReason {
    match reason {
        ProblemReason::SecretNotFound => WaitReason::SecretNotFound,
        ProblemReason::SecretInvalid => WaitReason::SecretInvalid,
        ProblemReason::ReferenceUnreadable => WaitReason::ReferenceUnreadable,
        ProblemReason::ConfigMapNotFound => WaitReason::ConfigMapNotFound,
        ProblemReason::TrustBundleInvalid => WaitReason::TrustBundleInvalid,
    }
}

fn abort_reason(failure: &Failure) -> AbortReason {
    match failure.reason {
        Reason::TargetAuth | Reason::SourceAuth => AbortReason::AuthenticationFailed,
        Reason::NetworkUnreachable => AbortReason::TargetUnreachable,
        Reason::TLSUntrusted => AbortReason::CertificateNotTrusted,
        Reason::RateLimited => AbortReason::RateLimited,
        _ => AbortReason::TargetFailed,
    }
}

fn result(done: &Done) -> SyncResult {
    let plan = &done.resolved.plan;
    let unresolved = plan.failures.iter().map(|(origin, failure)| FailedItem {
        image: origin.name.clone(),
        origin: origin.to_string(),
        stage: FailedStage::Resolve,
        failure: failure.clone(),
    });
    let mut failures: Vec<FailedItem> = unresolved.collect();
    match &done.result {
        Deed::Copied(report) => {
            let outcomes = report.items.iter().map(|item| match &item.outcome {
                Outcome::Failed(failure) => Some(failure),
                _ => None,
            });
            failures.extend(failed(plan, outcomes));
        }
        Deed::Surveyed(survey) => {
            let outcomes = survey.items.iter().map(|item| match &item.finding {
                Finding::Failed(failure) => Some(failure),
                Finding::Present | Finding::Missing => None,
            });
            failures.extend(failed(plan, outcomes));
        }
    }
    // Content is complete, but that it is could not be noted: tried again, and said.
    failures.extend(done.state_failure.iter().map(|failure| FailedItem {
        image: "imageset-mirror/state".to_owned(),
        origin: "the operator's own record in the target".to_owned(),
        stage: FailedStage::Copy,
        failure: failure.clone(),
    }));
    let catalogs = done.catalogs.iter().map(catalog).collect();
    let plan = Planned { catalogs, ..planned(&done.resolved, done.added, done.removed) };
    SyncResult::Done { plan, progress: progress(done), failures }
}

fn catalog(report: &CatalogReport) -> CatalogStatus {
    let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let left_out: BTreeSet<&str> = report.left_out.iter().map(|left| left.bundle.as_str()).collect();
    CatalogStatus {
        source: report.source.clone(),
        resolved: report.source_digest.to_string(),
        target: report.target.to_string(),
        target_digest: report.target_digest.to_string(),
        published: report.published,
        packages: number(report.packages),
        bundles: number(report.bundles),
        images: number(report.images),
        left_out: number(left_out.len()),
        message: report
            .left_out
            .first()
            .map(|left| format!("without {}: no {}", left.bundle, left.image))
            .or_else(|| report.notes.first().cloned())
            .unwrap_or_default(),
    }
}

fn failed<'a>(
    plan: &'a Plan,
    outcomes: impl Iterator<Item = Option<&'a Failure>> + 'a,
) -> impl Iterator<Item = FailedItem> + 'a {
    plan.items.iter().zip(outcomes).filter_map(|(item, failure)| {
        let asked = item.asked.first();
        Some(FailedItem {
            image: asked.map(|asked| asked.named.to_string()).unwrap_or_default(),
            origin: asked.map(|asked| asked.origin.to_string()).unwrap_or_default(),
            stage: FailedStage::Copy,
            failure: failure?.clone(),
        })
    })
}

/// What a sync did, in numbers.
pub(super) fn progress(done: &Done) -> Progress {
    match &done.result {
        Deed::Copied(report) => copied(report),
        Deed::Surveyed(survey) => surveyed(survey),
    }
}

fn copied(report: &Report) -> Progress {
    let count = |wanted: fn(&Outcome) -> bool| report.items.iter().filter(|item| wanted(&item.outcome)).count() as u64;
    Progress {
        total: report.items.len() as u64,
        copied: count(|outcome| matches!(outcome, Outcome::Copied)),
        present: count(|outcome| matches!(outcome, Outcome::Present)),
        failed: count(|outcome| matches!(outcome, Outcome::Failed(_) | Outcome::Cancelled)),
        missing: report.items.iter().filter(|item| item.restored).count() as u64,
        bytes_copied: report.items.iter().map(|item| item.uploaded_bytes).sum(),
        bytes_mounted: report.items.iter().map(|item| item.mounted_bytes).sum(),
        bytes_present: report.items.iter().map(|item| item.present_bytes).sum(),
    }
}

fn surveyed(survey: &Survey) -> Progress {
    let count = |wanted: fn(&Finding) -> bool| survey.items.iter().filter(|item| wanted(&item.finding)).count() as u64;
    Progress {
        total: survey.items.len() as u64,
        present: count(|finding| matches!(finding, Finding::Present)),
        failed: count(|finding| matches!(finding, Finding::Failed(_))),
        bytes_present: survey.items.iter().map(|item| item.present_bytes).sum(),
        ..Progress::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::access::Problem;
    use super::*;

    #[test]
    fn what_came_of_another_spec_is_not_looked_at() {
        let time = jiff::Timestamp::UNIX_EPOCH;
        let problem = Problem { reason: ProblemReason::ReferenceUnreadable, message: "no".to_owned() };
        for outcome in [Ended::Panicked, Ended::Waiting(problem)] {
            let state = State::Finished { key: "old".to_owned(), started: time, ended: time, number: 1, outcome };
            assert_eq!(observation(&state, "new"), Observation::Idle);
            assert_ne!(observation(&state, "old"), Observation::Idle);
        }
    }

    fn failed(transient: bool, seconds: Option<u64>) -> FailedItem {
        let retry_after = seconds.map(Duration::from_secs);
        let failure = Failure { transient, retry_after, ..Failure::permanent(Reason::RateLimited, "") };
        FailedItem { image: String::new(), origin: String::new(), stage: FailedStage::Copy, failure }
    }

    #[test]
    fn patience_is_had_only_as_long_as_nothing_can_be_tried_sooner() {
        let for_long = Some(Duration::from_mins(1));
        assert_eq!(patience(&[failed(true, Some(600)), failed(true, Some(60)), failed(false, None)]), for_long);
        assert_eq!(patience(&[failed(true, Some(600)), failed(true, None)]), None);
        assert_eq!(patience(&[failed(false, None)]), None);
    }
}
