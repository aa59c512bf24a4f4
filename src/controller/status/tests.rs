use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use crate::api::{CatalogStatus, ReleasePart, ReleaseStatus, ResourceState, limits};
use crate::failure::{Failure, Reason as Cause, Side};
use crate::request::Fault;

use super::*;

const FIRST: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";
const SECOND: &str = "sha256:2222222222222222222222222222222222222222222222222222222222222222";

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).unwrap()
}

fn seen() -> Seen {
    Seen {
        generation: 1,
        uid: "4d9c6c38-3c5f-4c2b-9d33-0f7a9ac6b0aa".to_owned(),
        suspend: false,
        mode: Mode::Mirror,
        release_signatures: ReleaseSignatures::Required,
        interval: Some(Duration::from_hours(6)),
        progress_deadline: Duration::from_hours(2),
        request_token: None,
        key: "key-1".to_owned(),
        sync_gap: Duration::from_mins(1),
        watched_since: at(0),
        last_progress: None,
    }
}

fn planned(digest: &str) -> Planned {
    let by_origin = BTreeMap::from([("additional".to_owned(), 3)]);
    Planned { digest: digest.to_owned(), images: 3, added: 3, removed: 0, by_origin, ..Planned::default() }
}

fn progress(copied: u64, present: u64, failed: u64) -> Progress {
    Progress { total: 3, copied, present, failed, bytes_copied: copied * 1000, ..Progress::default() }
}

fn running(stage: Stage, started: i64, plan: Option<Planned>, progress: Progress) -> Observation {
    Observation::Running(Running { key: "key-1".to_owned(), started: at(started), stage, plan, progress })
}

fn item(stage: FailedStage, reason: Cause) -> FailedItem {
    let side = if stage == FailedStage::Resolve { Side::Source } else { Side::Target };
    FailedItem {
        image: "quay.io/org/app:v1".to_owned(),
        origin: "additional quay.io/org/app:v1".to_owned(),
        stage,
        failure: Failure { side: Some(side), ..Failure::transient(reason, "quay.io says no") },
    }
}

fn finished(key: &str, started: i64, ended: i64, result: SyncResult) -> Observation {
    let (started, ended) = (at(started), at(ended));
    Observation::Finished(Finished { key: key.to_owned(), started, ended, result, retry_after: None })
}

fn done(started: i64, ended: i64, digest: &str, progress: Progress, failures: Vec<FailedItem>) -> Observation {
    finished("key-1", started, ended, SyncResult::Done { plan: planned(digest), progress, failures })
}

fn aborted(started: i64, ended: i64, reason: AbortReason) -> Observation {
    let message = "registry.example.com:5000 does not answer".to_owned();
    finished("key-1", started, ended, SyncResult::Aborted { reason, message })
}

fn output(state: ResourceState) -> Applied {
    let good = matches!(state, ResourceState::Applied | ResourceState::Published);
    Applied {
        outputs: vec![Output {
            group: "config.openshift.io".to_owned(),
            kind: "ImageDigestMirrorSet".to_owned(),
            name: "ns-set-generic-0011aabb".to_owned(),
            state,
            hash: "abcdef0123456789".to_owned(),
            impact: (state == ResourceState::PendingDisruption).then(|| "drains 3 nodes".to_owned()),
            message: if good { String::new() } else { "somebody is in the way".to_owned() },
        }],
        notes: vec![],
        releases: Some(vec![]),
    }
}

/// Steps through observations, and checks that each shown twice changes nothing.
struct Story {
    seen: Seen,
    status: Option<ImageSetMirrorStatus>,
}

impl Story {
    fn new() -> Self {
        Self { seen: seen(), status: None }
    }

    /// A complete object.
    fn complete() -> Self {
        let mut story = Self::new();
        story.see(5, &Observation::Queued, None);
        let applied = output(ResourceState::Applied);
        story.see(60, &done(10, 60, FIRST, progress(3, 0, 0), vec![]), Some(&applied));
        story
    }

    fn see(&mut self, now: i64, observation: &Observation, applied: Option<&Applied>) -> &ImageSetMirrorStatus {
        let status = next(self.status.as_ref(), &self.seen, observation, applied, at(now));
        let again = next(Some(&status), &self.seen, observation, applied, at(now));
        let (first, second) = (brief(&status), brief(&again));
        assert!(status == again, "not idempotent: {observation:?}\n{first:?}\n{second:?}");
        check(&status, &self.seen);
        self.status.insert(status)
    }

    fn brief(&self) -> Vec<String> {
        brief(self.status.as_ref().unwrap())
    }

    #[track_caller]
    fn is(&self, wanted: &[&str]) {
        let brief = self.brief();
        for condition in wanted {
            assert!(brief.iter().any(|found| found == condition), "no {condition} in {brief:?}");
        }
    }

    #[track_caller]
    fn lacks(&self, types: &[&str]) {
        let brief = self.brief();
        for kind in types {
            assert!(!brief.iter().any(|found| found.starts_with(&format!("{kind}="))), "{kind} in {brief:?}");
        }
    }
}

fn brief(status: &ImageSetMirrorStatus) -> Vec<String> {
    status.conditions.iter().map(|found| format!("{}={}/{}", found.type_, found.status, found.reason)).collect()
}

/// What holds for every status.
fn check(status: &ImageSetMirrorStatus, seen: &Seen) {
    let find = |kind: &str| status.conditions.iter().find(|found| found.type_ == kind);
    let is = |kind: &str| find(kind).map_or("", |found| found.status.as_str());
    let ready = find("Ready").expect("Ready is always there");
    for kind in ["Reconciling", "Stalled", "Suspended"] {
        assert!(["", "True"].contains(&is(kind)), "{kind} is absent unless true");
    }
    assert!(!(is("Reconciling") == "True" && is("Stalled") == "True"), "never together");
    if ready.status == "True" {
        assert!(is("Reconciling").is_empty() && is("Stalled").is_empty(), "Ready excludes them");
        assert!(status.conditions.iter().all(|found| found.observed_generation == status.observed_generation));
    }
    if ready.status == "Unknown" {
        assert_eq!(is("Reconciling"), "True", "Unknown is accompanied by Reconciling");
    }
    assert!(status.observed_generation.unwrap() <= seen.generation);
    // kstatus: what is neither done nor failed for good must be in progress, unless suspended or being deleted.
    let current = is("Reconciling").is_empty() && is("Stalled").is_empty();
    if current && ready.status == "False" {
        assert!(["Suspended", "Deleting"].contains(&ready.reason.as_str()) || seen.suspend, "{}", ready.reason);
    }
    for condition in &status.conditions {
        assert!(Reason::parse(&condition.reason).is_some(), "{} is a known reason", condition.reason);
        assert!(condition.message.len() <= 1024);
        assert_eq!(condition.last_transition_time.0.subsec_nanosecond(), 0);
    }
    assert!(status.history.len() <= 5 && status.failures.len() <= 20);
}

macro_rules! row {
    ($name:expr, $story:expr) => {
        insta::assert_yaml_snapshot!($name, $story.status)
    };
}

#[test]
fn a_new_object_is_picked_up() {
    let mut story = Story::new();
    story.see(0, &Observation::Idle, None);
    story.is(&["Ready=Unknown/Progressing", "Reconciling=True/Resolving"]);
    row!("new", story);
}

#[test]
fn an_object_is_copied_step_by_step() {
    let mut story = Story::new();
    story.see(0, &Observation::Queued, None);
    story.is(&["Ready=Unknown/Progressing", "Reconciling=True/Queued"]);
    story.see(1, &running(Stage::Resolving, 1, None, Progress::default()), None);
    story.is(&["Reconciling=True/Resolving"]);
    story.see(2, &running(Stage::Planning, 1, None, Progress::default()), None);
    story.is(&["Reconciling=True/Planning", "Resolved=Unknown/Progressing"]);
    story.see(3, &running(Stage::Copying, 1, Some(planned(FIRST)), progress(1, 0, 0)), None);
    story.is(&["Ready=Unknown/Progressing", "Reconciling=True/Copying", "Resolved=True/Succeeded"]);
    row!("copying", story);
    story.see(9, &done(1, 9, FIRST, progress(3, 0, 0), vec![]), None);
    story.is(&["Ready=Unknown/Progressing", "Reconciling=True/Applying", "Mirrored=True/Succeeded"]);
    story.see(10, &done(1, 9, FIRST, progress(3, 0, 0), vec![]), Some(&output(ResourceState::Applied)));
    story.is(&["Ready=True/Succeeded", "UpToDate=True/NoNewContent", "ResourcesApplied=True/Applied"]);
    row!("done", story);
}

#[test]
fn a_failure_stays_the_same_while_it_is_tried_again() {
    let mut story = Story::new();
    let failures = vec![item(FailedStage::Copy, Cause::RegistryError)];
    story.see(9, &done(1, 9, FIRST, progress(1, 1, 1), failures.clone()), None);
    story.is(&["Ready=False/CopyFailed", "Reconciling=True/ProgressingWithRetry", "Mirrored=False/CopyFailed"]);
    row!("transient_failure", story);
    let before = story.status.clone().unwrap();
    story.see(20, &running(Stage::Copying, 15, Some(planned(FIRST)), progress(1, 1, 1)), None);
    assert_eq!(story.status.as_ref().unwrap().conditions, before.conditions, "a retry touches no condition");
    story.see(30, &done(15, 30, FIRST, progress(1, 1, 1), failures), None);
    let after = story.status.clone().unwrap();
    let expected = ImageSetMirrorStatus { sync: after.sync.clone(), history: after.history.clone(), ..before };
    assert_eq!(after, expected, "only sync and history tell the retry");
    assert_eq!(after.sync.unwrap().consecutive_failures, 2);
    assert_eq!((after.history.len(), after.history[0].count), (1, 2));
}

#[test]
fn failures_are_told_by_the_reason_they_share() {
    use FailedStage::{Copy, Resolve};
    for (items, reason) in [
        (vec![(Copy, Cause::TargetAuth)], "AuthenticationFailed"),
        (vec![(Resolve, Cause::SourceAuth), (Copy, Cause::DependencyFailed)], "AuthenticationFailed"),
        (vec![(Copy, Cause::RateLimited)], "RateLimited"),
        (vec![(Resolve, Cause::NetworkUnreachable)], "SourceUnreachable"),
        (vec![(Copy, Cause::NetworkUnreachable), (Copy, Cause::DependencyFailed)], "TargetUnreachable"),
        (vec![(Copy, Cause::NetworkUnreachable), (Resolve, Cause::NetworkUnreachable)], "CopyFailed"),
        (vec![(Resolve, Cause::TLSUntrusted), (Copy, Cause::DependencyFailed)], "CertificateNotTrusted"),
        (vec![(Resolve, Cause::SourceNotFound)], "ResolveFailed"),
        (vec![(Resolve, Cause::SourceNotFound), (Copy, Cause::RegistryError)], "CopyFailed"),
        (vec![(Copy, Cause::Cancelled)], "CopyFailed"),
    ] {
        let mut story = Story::new();
        let failures = items.into_iter().map(|(stage, cause)| item(stage, cause)).collect();
        story.see(9, &done(1, 9, FIRST, progress(1, 1, 1), failures), None);
        story.is(&[&format!("Ready=False/{reason}"), "Reconciling=True/ProgressingWithRetry"]);
    }
}

#[test]
fn what_needs_a_person_is_stalled() {
    for (reason, wanted) in [
        (AbortReason::SignatureInvalid, "SignatureInvalid"),
        (AbortReason::DestinationConflict, "DestinationConflict"),
        (AbortReason::Collision, "InvalidSpec"),
    ] {
        let mut story = Story::new();
        story.see(9, &aborted(1, 9, reason), None);
        let stalled = [format!("Ready=False/{wanted}"), format!("Stalled=True/{wanted}")];
        story.is(&[&stalled[0], &stalled[1]]);
        story.lacks(&["Reconciling"]);
        // A slow retry and a restart do not lift it.
        story.see(700, &running(Stage::Resolving, 700, None, Progress::default()), None);
        story.see(710, &Observation::Idle, None);
        story.is(&[&stalled[0], &stalled[1]]);
    }
    for (state, wanted) in
        [(ResourceState::Conflict, "Conflict"), (ResourceState::MirrorPolicyConflict, "MirrorPolicyConflict")]
    {
        let mut story = Story::complete();
        story.see(70, &Observation::Idle, Some(&output(state)));
        story.is(&[
            &format!("Ready=False/{wanted}"),
            &format!("Stalled=True/{wanted}"),
            &format!("ResourcesApplied=False/{wanted}"),
            "Mirrored=True/Succeeded",
        ]);
        row!(format!("resources_{wanted}"), story);
        story.see(80, &Observation::Idle, Some(&output(ResourceState::Applied)));
        story.is(&["Ready=True/Succeeded"]);
    }
}

#[test]
fn an_unreachable_target_is_tried_again() {
    let mut story = Story::new();
    story.see(9, &aborted(1, 9, AbortReason::TargetUnreachable), None);
    story.is(&[
        "Ready=False/TargetUnreachable",
        "Reconciling=True/ProgressingWithRetry",
        "Mirrored=Unknown/Progressing",
    ]);
    row!("target_unreachable", story);
}

#[test]
fn outputs_that_are_not_written_leave_ready_alone() {
    for (state, wanted) in [
        (ResourceState::NamespaceNotAllowed, "NamespaceNotAllowed"),
        (ResourceState::KindNotServed, "KindNotServed"),
        (ResourceState::AdmissionDenied, "AdmissionDenied"),
        (ResourceState::PendingDisruption, "PendingDisruption"),
    ] {
        let mut story = Story::complete();
        story.see(70, &Observation::Idle, Some(&output(state)));
        story.is(&["Ready=True/Succeeded", &format!("ResourcesApplied=False/{wanted}")]);
        row!(format!("resources_{wanted}"), story);
    }
    let mut story = Story::complete();
    story.see(70, &Observation::Idle, Some(&output(ResourceState::Failed)));
    story.is(&["Ready=False/ApplyFailed", "Reconciling=True/ProgressingWithRetry"]);
    story.see(80, &Observation::Idle, Some(&output(ResourceState::Published)));
    story.is(&["Ready=True/Succeeded", "ResourcesApplied=True/Published"]);
}

#[test]
fn nothing_arriving_for_too_long_is_stalled_until_something_does() {
    let mut story = Story::new();
    story.see(9, &aborted(1, 9, AbortReason::TargetUnreachable), None);
    story.see(7199, &Observation::Idle, None);
    story.is(&["Ready=False/TargetUnreachable"]);
    story.see(7200, &Observation::Idle, None);
    story.is(&["Ready=False/ProgressDeadlineExceeded", "Stalled=True/ProgressDeadlineExceeded"]);
    story.lacks(&["Reconciling"]);
    row!("progress_deadline", story);
    // A restart begins its own watch and does not lift the verdict; nor does a retry.
    story.seen.watched_since = at(8000);
    story.see(8001, &Observation::Idle, None);
    story.see(8002, &running(Stage::Copying, 8001, Some(planned(FIRST)), progress(0, 0, 0)), None);
    story.is(&["Stalled=True/ProgressDeadlineExceeded"]);
    story.seen.last_progress = Some(at(8003));
    story.see(8004, &running(Stage::Copying, 8001, Some(planned(FIRST)), progress(1, 0, 0)), None);
    story.is(&["Ready=Unknown/Progressing", "Reconciling=True/Copying"]);
    // Waiting for other objects is no fault of this one.
    let mut story = Story::new();
    story.see(0, &Observation::Queued, None);
    story.see(9000, &Observation::Queued, None);
    story.is(&["Reconciling=True/Queued"]);
}

#[test]
fn a_quiet_sync_touches_only_its_times() {
    let mut story = Story::complete();
    let before = story.status.clone().unwrap();
    story.see(21_700, &Observation::Queued, None);
    assert_eq!(story.status.as_ref(), Some(&before));
    story.see(21_701, &running(Stage::Copying, 21_700, Some(planned(FIRST)), progress(0, 1, 0)), None);
    story.see(21_760, &done(21_700, 21_760, FIRST, progress(0, 3, 0), vec![]), Some(&output(ResourceState::Applied)));
    let after = story.status.clone().unwrap();
    assert_eq!(after, ImageSetMirrorStatus { sync: after.sync.clone(), history: after.history.clone(), ..before });
    assert_eq!(after.history[0].count, 2);
    row!("quiet_sync", story);
}

#[test]
fn new_content_does_not_flip_ready() {
    let mut story = Story::complete();
    let plan = Planned { added: 1, ..planned(SECOND) };
    story.see(100, &running(Stage::Copying, 90, Some(plan.clone()), progress(0, 2, 0)), None);
    story.is(&["Ready=True/Succeeded", "UpToDate=False/NewContent"]);
    story.lacks(&["Reconciling"]);
    row!("new_content", story);
    story.see(110, &done(90, 110, SECOND, progress(1, 2, 0), vec![]), Some(&output(ResourceState::Applied)));
    story.is(&["Ready=True/Succeeded", "UpToDate=True/NoNewContent"]);
    assert_eq!(story.status.as_ref().unwrap().mirrored.as_ref().unwrap().digest, SECOND);
}

#[test]
fn a_refresh_that_fails_leaves_ready() {
    let mut story = Story::complete();
    let failures = vec![item(FailedStage::Copy, Cause::RegistryError)];
    story.see(110, &done(90, 110, SECOND, progress(0, 2, 1), failures.clone()), None);
    story.is(&["Ready=True/Succeeded", "UpToDate=False/RefreshFailed", "Mirrored=True/Succeeded"]);
    assert_eq!(story.status.as_ref().unwrap().failures.len(), 1);
    row!("refresh_failed", story);
    let before = story.status.clone().unwrap();
    story.see(120, &running(Stage::Copying, 119, Some(planned(SECOND)), progress(0, 2, 1)), None);
    assert_eq!(story.status.as_ref().unwrap().conditions, before.conditions);
    story.see(130, &done(119, 130, FIRST, progress(0, 3, 0), vec![]), None);
    story.is(&["Ready=True/Succeeded", "UpToDate=True/NoNewContent"]);
    assert!(story.status.as_ref().unwrap().failures.is_empty());
    let secret = Observation::Waiting { reason: WaitReason::SecretNotFound, message: "no Secret `pull`".to_owned() };
    story.see(140, &secret, None);
    story.is(&["Ready=True/Succeeded", "UpToDate=False/RefreshFailed"]);
}

#[test]
fn images_that_are_gone_are_reported_until_they_are_back() {
    let mut story = Story::complete();
    let gone = Progress { missing: 1, ..progress(0, 2, 0) };
    story.see(100, &running(Stage::Copying, 90, Some(planned(FIRST)), gone), None);
    story.is(&["Ready=False/ContentMissing", "Reconciling=True/Copying", "Mirrored=False/ContentMissing"]);
    row!("content_missing", story);
    let failures = vec![item(FailedStage::Copy, Cause::RegistryError)];
    let gone = Progress { missing: 1, ..progress(0, 2, 1) };
    story.see(110, &done(90, 110, FIRST, gone, failures), None);
    story.is(&["Ready=False/ContentMissing", "Reconciling=True/ProgressingWithRetry"]);
    story.see(120, &done(115, 120, FIRST, progress(1, 2, 0), vec![]), None);
    story.is(&["Ready=True/Succeeded"]);
}

#[test]
fn plan_mode_ends_planned() {
    let mut story = Story::new();
    story.seen.mode = Mode::Plan;
    story.see(9, &done(1, 9, FIRST, progress(0, 1, 0), vec![]), Some(&output(ResourceState::Published)));
    story.is(&["Ready=True/Planned", "Mirrored=False/PlanOnly"]);
    row!("plan_mode", story);
    story.seen.mode = Mode::Mirror;
    story.seen.generation = 2;
    story.seen.key = "key-2".to_owned();
    story.see(10, &Observation::Queued, None);
    story.is(&["Ready=Unknown/Progressing", "Reconciling=True/Queued"]);
}

#[test]
fn suspension_keeps_what_is_complete_and_names_what_is_not() {
    let mut story = Story::complete();
    story.seen.suspend = true;
    story.seen.generation = 2;
    story.see(70, &Observation::Idle, None);
    story.is(&["Ready=True/Succeeded", "Suspended=True/Suspended"]);
    assert_eq!(story.status.as_ref().unwrap().sync.as_ref().unwrap().next_time, None);
    row!("suspended_complete", story);
    story.seen.suspend = false;
    story.seen.generation = 3;
    story.see(80, &Observation::Idle, Some(&output(ResourceState::Applied)));
    story.lacks(&["Suspended"]);
    assert!(story.status.as_ref().unwrap().sync.as_ref().unwrap().next_time.is_some());
    story.seen.generation = 4;
    story.seen.suspend = true;
    story.seen.key = "key-2".to_owned();
    story.see(90, &Observation::Idle, None);
    story.is(&["Ready=False/Suspended", "Suspended=True/Suspended"]);
    story.lacks(&["Reconciling"]);
    row!("suspended_changed", story);
    story.seen.suspend = false;
    story.seen.generation = 5;
    story.see(100, &Observation::Queued, None);
    story.is(&["Ready=Unknown/Progressing", "Reconciling=True/Queued"]);

    let mut story = Story::new();
    story.see(9, &aborted(1, 9, AbortReason::SignatureInvalid), None);
    story.seen.suspend = true;
    story.see(10, &Observation::Idle, None);
    story.is(&["Ready=False/SignatureInvalid", "Stalled=True/SignatureInvalid", "Suspended=True/Suspended"]);
}

#[test]
fn deletion_is_told() {
    let mut story = Story::complete();
    story.see(70, &Observation::Deleting { message: "removing 2 mirror sets".to_owned() }, None);
    story.is(&["Ready=False/Deleting"]);
    story.lacks(&["Reconciling", "Stalled"]);
    row!("deleting", story);
}

#[test]
fn an_interrupted_sync_is_told_and_goes_on() {
    let mut story = Story::new();
    story.see(3, &running(Stage::Copying, 1, Some(planned(FIRST)), progress(1, 0, 0)), None);
    story.see(4, &Observation::Interrupted, None);
    story.is(&["Ready=Unknown/Progressing", "Reconciling=True/Interrupted"]);
    row!("interrupted", story);
    story.see(5, &Observation::Idle, None);
    story.is(&["Reconciling=True/Interrupted"]);
    story.see(6, &running(Stage::Resolving, 6, None, Progress::default()), None);
    story.is(&["Reconciling=True/Resolving"]);
    let mut story = Story::complete();
    let before = story.status.clone();
    story.see(70, &Observation::Interrupted, None);
    assert_eq!(story.status, before);
}

#[test]
fn every_fault_of_a_spec_is_in_the_message() {
    let fault = |field: &str| Fault { field: field.to_owned(), message: "not right".to_owned() };
    let mut story = Story::complete();
    story.seen.generation = 2;
    story.seen.key = String::new();
    let faults = vec![fault("spec.a"), fault("spec.b")];
    story.see(70, &Observation::Invalid(faults), None);
    story.is(&["Ready=False/InvalidSpec", "Stalled=True/InvalidSpec"]);
    row!("invalid_spec", story);
    // Put back as it was: complete at once.
    story.seen.generation = 3;
    story.seen.key = "key-1".to_owned();
    story.see(72, &Observation::Idle, Some(&output(ResourceState::Applied)));
    story.is(&["Ready=True/Succeeded"]);
    // A newer version of the operator can take what an older one did not.
    let mut story = Story::new();
    story.see(1, &Observation::Invalid(vec![fault("spec.b")]), None);
    story.see(2, &Observation::Idle, None);
    story.is(&["Ready=Unknown/Progressing", "Reconciling=True/Resolving"]);
}

#[test]
fn something_missing_is_waited_for() {
    let mut story = Story::new();
    let secret = Observation::Waiting { reason: WaitReason::SecretNotFound, message: "no Secret `push`".to_owned() };
    story.see(1, &secret, None);
    story.is(&["Ready=False/SecretNotFound", "Reconciling=True/ProgressingWithRetry"]);
    row!("secret_missing", story);
    // Looking again is no news, and nothing to write.
    let before = story.status.clone();
    for observation in [Observation::Queued, running(Stage::Resolving, 31, None, Progress::default()), secret] {
        let status = story.see(31, &observation, None).clone();
        assert!(!should_write(before.as_ref(), &status, Some(at(1)), at(31)), "{observation:?}");
        // What is not written is not what the next pass starts from.
        story.status.clone_from(&before);
    }
    story.see(40, &running(Stage::Copying, 39, Some(planned(FIRST)), progress(0, 0, 0)), None);
    story.is(&["Ready=Unknown/Progressing", "Reconciling=True/Copying"]);
}

#[test]
fn a_change_of_the_interval_alone_leaves_a_complete_object_ready() {
    let mut story = Story::complete();
    let before = story.status.clone().unwrap();
    story.seen.generation = 2;
    story.seen.interval = Some(Duration::from_hours(1));
    story.see(70, &Observation::Idle, Some(&output(ResourceState::Applied)));
    story.is(&["Ready=True/Succeeded"]);
    let next_time = |status: &ImageSetMirrorStatus| status.sync.clone().unwrap().next_time.unwrap().0;
    assert!(next_time(story.status.as_ref().unwrap()) < next_time(&before));
}

#[test]
fn a_complete_object_is_not_ready_for_a_generation_whose_cluster_objects_nobody_looked_at() {
    let mut story = Story::complete();
    story.seen.generation = 2;
    story.see(70, &Observation::Idle, None);
    story.is(&[
        "Ready=Unknown/Progressing",
        "Reconciling=True/Applying",
        "ResourcesApplied=Unknown/Progressing",
        "Mirrored=True/Succeeded",
    ]);
    assert!(outputs_are_open(story.status.as_ref().unwrap(), |_| false));
    story.see(71, &Observation::Idle, Some(&output(ResourceState::Applied)));
    story.is(&["Ready=True/Succeeded", "ResourcesApplied=True/Applied"]);
}

#[test]
fn a_process_finds_what_an_earlier_one_left_open() {
    let open = |state, ended| {
        let mut story = Story::complete();
        story.see(70, &Observation::Idle, Some(&output(state)));
        outputs_are_open(story.status.as_ref().unwrap(), |found| ended && found.state == state)
    };
    for (state, is_open) in [
        (ResourceState::Applied, false),
        (ResourceState::PendingDisruption, false),
        (ResourceState::NamespaceNotAllowed, false),
        (ResourceState::KindNotServed, false),
        (ResourceState::Conflict, true),
        (ResourceState::MirrorPolicyConflict, true),
        (ResourceState::AdmissionDenied, true),
        (ResourceState::Failed, true),
    ] {
        assert_eq!(open(state, false), is_open, "{state:?}");
    }
    assert!(open(ResourceState::KindNotServed, true), "it is served by now");
    assert!(outputs_are_open(Story::new().see(0, &Observation::Idle, None), |_| false), "never looked at");
}

#[test]
fn what_is_to_know_follows_the_verdict() {
    let mut story = Story::complete();
    let applied = Applied { notes: vec!["a".to_owned(), "b".to_owned()], ..output(ResourceState::Applied) };
    let status = story.see(70, &Observation::Idle, Some(&applied));
    let found = status.conditions.iter().find(|found| found.type_ == "ResourcesApplied").unwrap();
    assert_eq!(found.message, "1 object written to the cluster. To know: a; b");
    story.is(&["Ready=True/Succeeded"]);
}

#[test]
fn a_request_is_echoed_when_its_sync_starts() {
    let mut story = Story::complete();
    story.seen.request_token = Some("now".to_owned());
    story.seen.key = "key-2".to_owned();
    story.see(70, &Observation::Queued, None);
    assert_eq!(story.status.as_ref().unwrap().last_handled_request, None);
    let job = Running {
        key: "key-2".to_owned(),
        started: at(71),
        stage: Stage::Resolving,
        plan: None,
        progress: Progress::default(),
    };
    story.see(71, &Observation::Running(job), None);
    assert_eq!(story.status.as_ref().unwrap().last_handled_request.as_deref(), Some("now"));
    story.is(&["Ready=True/Succeeded"]);
}

#[test]
fn a_status_with_every_cap_filled_stays_below_64_kib() {
    let hostile = |n: usize| "\"\\\u{1}é".repeat(n);
    let failures: Vec<_> = (0..30)
        .map(|_| FailedItem {
            image: hostile(200),
            origin: hostile(200),
            stage: FailedStage::Copy,
            failure: Failure::transient(Cause::UnsupportedMediaType, hostile(500)),
        })
        .collect();
    let outputs = (0..100)
        .map(|n| Output {
            group: "updateservice.operator.openshift.io".to_owned(),
            kind: "ImageDigestMirrorSet".to_owned(),
            name: format!("{}{n:03}", "n".repeat(250)),
            state: ResourceState::MirrorPolicyConflict,
            hash: "h".repeat(100),
            impact: Some(hostile(300)),
            message: hostile(600),
        })
        .collect();
    let release = ReleaseStatus {
        version: hostile(100),
        architecture: hostile(100),
        digest: format!("sha256:{}", "d".repeat(64)),
        ready_to_upgrade: false,
        missing: vec![ReleasePart::Payload, ReleasePart::Signatures, ReleasePart::Graph, ReleasePart::MirrorSet],
    };
    let applied = Applied { outputs, notes: vec![hostile(600)], releases: Some(vec![release; 80]) };
    let catalog = CatalogStatus {
        source: hostile(600),
        resolved: format!("sha256:{}", "d".repeat(64)),
        target: hostile(600),
        target_digest: format!("sha256:{}", "d".repeat(64)),
        message: hostile(600),
        ..CatalogStatus::default()
    };
    let plan = Planned {
        digest: "d".repeat(500),
        images: u64::MAX,
        added: u64::MAX,
        removed: u64::MAX,
        by_origin: (0..40).map(|n| (format!("{n}{}", hostile(40)), u64::MAX)).collect(),
        releases: u64::MAX,
        catalogs: vec![catalog; 20],
    };
    let all = Progress {
        total: u64::MAX,
        copied: u64::MAX,
        present: u64::MAX,
        failed: u64::MAX,
        missing: u64::MAX,
        bytes_copied: u64::MAX,
        bytes_mounted: u64::MAX,
        bytes_present: u64::MAX,
    };
    let mut seen = Seen { request_token: Some(hostile(300)), suspend: true, ..seen() };
    let mut status = None;
    for n in 0..8 {
        let plan = Planned { digest: format!("{n}{}", plan.digest), ..plan.clone() };
        let result = SyncResult::Done { plan, progress: all, failures: failures.clone() };
        seen.suspend = n % 2 == 0;
        let observation = finished("key-1", n * 10, n * 10 + 5, result);
        status = Some(next(status.as_ref(), &seen, &observation, Some(&applied), at(n * 10 + 6)));
    }
    let status = status.unwrap();
    assert_eq!(status.history.len(), 5);
    let size = serde_json::to_vec(&status).unwrap().len();
    assert!(size < 64 * 1024, "{size}");
    assert!(size > 50 * 1024, "the test fills it: {size}");
}

#[test]
fn releases_are_verified_skipped_or_refused_and_absent_without_any() {
    let mut story = Story::complete();
    story.lacks(&["Verified"]);
    let with = |digest, failures| {
        let plan = Planned { releases: 2, ..planned(digest) };
        SyncResult::Done { plan, progress: progress(3, 0, 0), failures }
    };
    story.seen.generation = 2;
    story.seen.key = "key-2".to_owned();
    story.see(100, &finished("key-2", 90, 100, with(SECOND, vec![])), None);
    story.is(&["Verified=True/SignaturesValid"]);
    story.seen.generation = 3;
    story.seen.key = "key-3".to_owned();
    story.seen.release_signatures = ReleaseSignatures::Skip;
    story.see(105, &Observation::Queued, None);
    story.is(&["Verified=Unknown/Progressing"]);
    story.see(110, &finished("key-3", 105, 110, with(SECOND, vec![])), None);
    story.is(&["Verified=False/SignaturesSkipped"]);
    story.seen.generation = 4;
    story.seen.key = "key-4".to_owned();
    story.seen.release_signatures = ReleaseSignatures::Required;
    let unsigned = FailedItem {
        image: "quay.io/openshift-release-dev/ocp-release".to_owned(),
        origin: "release stable-4.18".to_owned(),
        stage: FailedStage::Resolve,
        failure: Failure::permanent(Cause::SignatureMissing, "signed by nobody we know"),
    };
    story.see(120, &finished("key-4", 115, 120, with(SECOND, vec![unsigned])), None);
    story.is(&["Verified=False/SignatureInvalid", "Stalled=True/SignatureInvalid", "Ready=False/SignatureInvalid"]);
    story.seen.generation = 5;
    story.seen.key = "key-5".to_owned();
    story.see(
        130,
        &finished(
            "key-5",
            125,
            130,
            SyncResult::Done { plan: planned(FIRST), progress: progress(3, 0, 0), failures: vec![] },
        ),
        None,
    );
    story.lacks(&["Verified"]);
}

#[test]
fn what_clusters_find_of_releases_is_told_with_the_cluster_objects() {
    let mut story = Story::complete();
    let release = ReleaseStatus {
        version: "4.18.2".to_owned(),
        architecture: "amd64".to_owned(),
        digest: FIRST.to_owned(),
        ready_to_upgrade: true,
        missing: vec![],
    };
    let applied = Applied { releases: Some(vec![release; 60]), ..output(ResourceState::Applied) };
    let told = |status: &ImageSetMirrorStatus| status.mirrored.as_ref().unwrap().releases.len();
    assert_eq!(told(story.see(61, &Observation::Idle, Some(&applied))), limits::RELEASES);
    assert_eq!(told(story.see(62, &Observation::Idle, None)), limits::RELEASES, "not looked at");
    let failed = Applied { releases: None, ..output(ResourceState::Failed) };
    assert_eq!(told(story.see(63, &Observation::Idle, Some(&failed))), limits::RELEASES, "could not be looked at");
    story.see(64, &Observation::Idle, Some(&applied));
    let again = done(70, 80, SECOND, progress(3, 0, 0), vec![]);
    assert_eq!(told(story.see(80, &again, None)), limits::RELEASES, "another plan, not looked at");
    assert_eq!(told(story.see(81, &Observation::Idle, Some(&output(ResourceState::Applied)))), 0);
}

#[test]
fn progress_is_written_in_steps() {
    let status = |copied| {
        let mut story = Story::new();
        let progress = Progress { total: 1000, ..progress(copied, 0, 0) };
        story.see(3, &running(Stage::Copying, 1, Some(planned(FIRST)), progress), None).clone()
    };
    let (zero, some, step) = (status(100), status(109), status(110));
    assert!(should_write(None, &zero, None, at(0)));
    assert!(!should_write(Some(&zero), &zero, None, at(0)));
    assert!(!should_write(Some(&zero), &step, Some(at(0)), at(9)), "too early");
    assert!(should_write(Some(&zero), &step, Some(at(0)), at(10)));
    let few = |mut status: ImageSetMirrorStatus| {
        status.progress.as_mut().unwrap().bytes = crate::api::BytesProgress::default();
        status
    };
    assert!(!should_write(Some(&few(zero.clone())), &few(some), Some(at(0)), at(10)), "too little");
    let mut story = Story::complete();
    let before = story.status.clone().unwrap();
    let quiet = story.see(100, &running(Stage::Resolving, 100, None, Progress::default()), None).clone();
    assert!(!should_write(Some(&before), &quiet, None, at(105)), "a short sync is told at its end");
    assert!(should_write(Some(&before), &quiet, None, at(110)));
    let ended = story.see(111, &done(100, 111, FIRST, progress(0, 3, 0), vec![]), None).clone();
    assert!(should_write(Some(&quiet), &ended, Some(at(110)), at(111)));
}

#[derive(Clone, Debug)]
enum Event {
    Observe(Box<Observation>, Option<Applied>),
    Spec { content: bool, suspend: bool, plan: bool },
    Request(bool),
    Arrive,
    Restart,
    Pass(i64),
}

fn stage() -> impl Strategy<Value = FailedStage> {
    prop_oneof![Just(FailedStage::Resolve), Just(FailedStage::Copy)]
}

fn result() -> impl Strategy<Value = SyncResult> {
    let cause = prop_oneof![
        Just(Cause::SourceAuth),
        Just(Cause::NetworkUnreachable),
        Just(Cause::SignatureMissing),
        Just(Cause::SourceNotFound),
    ];
    let digest = prop_oneof![Just(FIRST), Just(SECOND)];
    let reason = prop_oneof![
        Just(AbortReason::TargetUnreachable),
        Just(AbortReason::Collision),
        Just(AbortReason::DestinationConflict),
        Just(AbortReason::Internal),
    ];
    prop_oneof![
        3 => (digest, prop::collection::vec((stage(), cause), 0..3), 0..3u64, 0..2u64).prop_map(
            |(digest, failures, copied, missing)| SyncResult::Done {
                plan: planned(digest),
                progress: Progress { missing, ..progress(copied, 0, 0) },
                failures: failures.into_iter().map(|(stage, cause)| item(stage, cause)).collect(),
            }
        ),
        1 => reason.prop_map(|reason| SyncResult::Aborted { reason, message: "no".to_owned() }),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let fault = Fault { field: "spec".to_owned(), message: "no".to_owned() };
    let stages = prop_oneof![Just(Stage::Resolving), Just(Stage::Planning), Just(Stage::Copying)];
    let plan = prop::option::of(prop_oneof![Just(planned(FIRST)), Just(planned(SECOND))]);
    // The key is put in when the event happens.
    let job = (stages, plan, 0..2u64, 0..50i64).prop_map(|(stage, plan, missing, started)| {
        running(stage, started, plan, Progress { missing, ..progress(0, 1, 0) })
    });
    let ended = (result(), 0..50i64).prop_map(|(result, started)| finished("", started, started + 5, result));
    let waiting = Observation::Waiting { reason: WaitReason::SecretNotFound, message: "no".to_owned() };
    let observation = prop_oneof![
        1 => Just(Observation::Invalid(vec![fault])),
        1 => Just(waiting),
        2 => Just(Observation::Idle),
        2 => Just(Observation::Queued),
        4 => job,
        4 => ended,
        1 => Just(Observation::Interrupted),
        1 => Just(Observation::Deleting { message: String::new() }),
    ];
    let applied = prop::option::of(prop_oneof![
        Just(Applied::default()),
        Just(output(ResourceState::Applied)),
        Just(output(ResourceState::Conflict)),
        Just(output(ResourceState::Failed)),
        Just(output(ResourceState::PendingDisruption)),
    ]);
    prop_oneof![
        6 => (observation, applied).prop_map(|(observation, applied)| Event::Observe(Box::new(observation), applied)),
        2 => (any::<bool>(), any::<bool>(), any::<bool>())
            .prop_map(|(content, suspend, plan)| Event::Spec { content, suspend, plan }),
        1 => any::<bool>().prop_map(Event::Request),
        1 => Just(Event::Arrive),
        1 => Just(Event::Restart),
        2 => (1..10_000i64).prop_map(Event::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn invariants_hold_in_every_story(events in prop::collection::vec(event(), 1..40)) {
        let mut story = Story::new();
        let (mut now, mut content) = (100, 0);
        for event in events {
            match event {
                Event::Observe(mut observation, applied) => {
                    match observation.as_mut() {
                        Observation::Running(job) => {
                            job.key.clone_from(&story.seen.key);
                            job.started = at(now - 50 + job.started.as_second() % 50);
                        }
                        Observation::Finished(job) => {
                            job.key.clone_from(&story.seen.key);
                            job.started = at(now - 20);
                            job.ended = at(now);
                        }
                        _ => {}
                    }
                    let before = story.status.clone();
                    let after = story.see(now, &observation, applied.as_ref()).clone();
                    // Times of transition move exactly with the status.
                    for new in &after.conditions {
                        let old = before.iter().flat_map(|status| &status.conditions).find(|old| old.type_ == new.type_);
                        if let Some(old) = old {
                            let kept = old.last_transition_time == new.last_transition_time;
                            prop_assert!(kept || old.status != new.status, "{old:?} {new:?}");
                        }
                    }
                    // A quiet look at nothing new is no reason for an event or a write.
                    let again = next(Some(&after), &story.seen, &observation, applied.as_ref(), at(now));
                    prop_assert!(crate::controller::events::transitions(Some(&after), &again).is_empty());
                    prop_assert!(!should_write(Some(&after), &again, None, at(now)));
                }
                Event::Spec { content: changed, suspend, plan } => {
                    story.seen.generation += 1;
                    story.seen.suspend = suspend;
                    if changed {
                        content += 1;
                        story.seen.mode = if plan { Mode::Plan } else { Mode::Mirror };
                        story.seen.watched_since = at(now);
                        story.seen.last_progress = None;
                    }
                    story.seen.key = format!("key-{content}");
                }
                Event::Request(new) => {
                    story.seen.request_token = new.then(|| format!("token-{now}"));
                    if new {
                        content += 1;
                        story.seen.key = format!("key-{content}");
                    }
                }
                Event::Arrive => story.seen.last_progress = Some(at(now)),
                Event::Restart => {
                    story.seen.watched_since = at(now);
                    story.seen.last_progress = None;
                }
                Event::Pass(seconds) => now += seconds,
            }
        }
    }
}
