//! Which events a change of status makes. Pure.
//!
//! Events tell transitions: a sync that finds nothing new makes none, nor does a failure that stays the same. kube's
//! recorder folds events of equal type, reason and action and repeats the first text, so the action carries the first digits
//! of a digest wherever a new text must be seen.

use std::collections::BTreeMap;

use crate::api::{ImageSetMirrorStatus, ResourceState, ResourceStatus};
use crate::failure::cut;
use crate::oci::Digest;

use super::status::{ConditionType, Reason, notes};

/// Longest note that the API takes.
const NOTE: usize = 1024;
/// Longest action that the API takes.
const ACTION: usize = 128;

/// Normal or warning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EventKind {
    /// As it should be.
    Normal,
    /// Somebody may want to look.
    Warning,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident: $kind:ident,)+) => {
        /// The closed list of reasons of events. Names are API.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum EventReason { $($(#[$doc])* $variant,)+ }

        impl EventReason {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name in the event.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant)),+ }
            }

            /// Normal or warning.
            pub fn kind(self) -> EventKind {
                match self { $(Self::$variant => EventKind::$kind),+ }
            }
        }
    };
}

reasons! {
    /// The first plan is made.
    ResolveSucceeded: Normal,
    /// The plan differs from the last.
    PlanChanged: Normal,
    /// Content is being copied.
    MirrorStarted: Normal,
    /// Everything is in the target that was not before.
    MirrorSucceeded: Normal,
    /// A cluster object was created or changed.
    ResourceApplied: Normal,
    /// A cluster object was removed.
    ResourceDeleted: Normal,
    /// A foreign cluster object was taken over.
    ResourceAdopted: Normal,
    /// Images that were gone from the target are back.
    DriftRepaired: Normal,
    /// The object is suspended.
    Suspended: Normal,
    /// The object is not suspended any more.
    Resumed: Normal,
    /// A sync that was asked for by annotation has started.
    SyncRequested: Normal,
    /// Not everything that is wanted could be found out.
    ResolveFailed: Warning,
    /// Not everything could be copied.
    CopyFailed: Warning,
    /// A required signature is missing or wrong.
    SignatureInvalid: Warning,
    /// A registry refuses the credentials.
    AuthenticationFailed: Warning,
    /// The target cannot be reached.
    TargetUnreachable: Warning,
    /// No source can be reached.
    SourceUnreachable: Warning,
    /// The certificate of a registry is not trusted.
    CertificateNotTrusted: Warning,
    /// A registry limits the rate of requests.
    RateLimited: Warning,
    /// A defect of the operator ended the sync.
    InternalError: Warning,
    /// Looking for newer content failed; what was there still is.
    RefreshFailed: Warning,
    /// A Secret or `ConfigMap` that the spec names is missing or cannot be used.
    ReferenceInvalid: Warning,
    /// The spec cannot be carried out as it is.
    InvalidSpec: Warning,
    /// Another object owns a place in the target.
    DestinationConflict: Warning,
    /// Nothing arrived in the target for too long.
    ProgressDeadlineExceeded: Warning,
    /// Images are gone from the target.
    ContentMissing: Warning,
    /// Nodes could not merge our mirror set with a foreign one.
    MirrorPolicyConflict: Warning,
    /// A cluster object of our name is somebody else's.
    ResourceConflict: Warning,
    /// The cluster refuses an object.
    AdmissionDenied: Warning,
    /// The namespace may not write to the cluster.
    NamespaceNotAllowed: Warning,
    /// The cluster does not have a kind.
    KindNotServed: Warning,
    /// The API server failed to take an object.
    ApplyFailed: Warning,
    /// Something to know about the cluster objects, such as rules of others that hide ours.
    ResourceNotice: Warning,
    /// A change is held back or about to be written that drains nodes.
    NodesWillDrain: Warning,
    /// The finalizer was dropped before everything was removed.
    CleanupAbandoned: Warning,
}

/// One event to be recorded on the object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventNote {
    /// Normal or warning.
    pub kind: EventKind,
    /// Why.
    pub reason: EventReason,
    /// What was done: a word, with the first digits of a digest where the text must be new.
    pub action: String,
    /// For people.
    pub note: String,
}

impl EventNote {
    /// An event with texts within the API's bounds.
    pub fn new(reason: EventReason, action: &str, note: &str) -> Self {
        Self { kind: reason.kind(), reason, action: cut(action, ACTION), note: cut(note, NOTE) }
    }

    /// About one cluster object: for what the status does not tell, such as an adoption, or a drain about to happen.
    pub fn about(reason: EventReason, kind: &str, name: &str, hash: &str, note: &str) -> Self {
        Self::new(reason, &format!("Apply-{kind}-{}", short(&format!("{hash}-{name}"), 80)), note)
    }
}

/// The events between two statuses of one object, in the order in which things happened.
pub fn transitions(old: Option<&ImageSetMirrorStatus>, new: &ImageSetMirrorStatus) -> Vec<EventNote> {
    let nothing = ImageSetMirrorStatus::default();
    let change = Change { old: old.unwrap_or(&nothing), new };
    let mut notes = Vec::new();
    change.switches(&mut notes);
    change.plan(&mut notes);
    change.copying(&mut notes);
    change.failures(&mut notes);
    change.resources(&mut notes);
    notes
}

struct Change<'a> {
    old: &'a ImageSetMirrorStatus,
    new: &'a ImageSetMirrorStatus,
}

/// Status, reason and message of a condition.
type Verdict<'a> = (&'a str, Option<Reason>, &'a str);

fn condition(status: &ImageSetMirrorStatus, kind: ConditionType) -> Verdict<'_> {
    let found = status.conditions.iter().find(|found| found.type_ == kind.as_str());
    found.map_or(("", None, ""), |found| (found.status.as_str(), Reason::parse(&found.reason), found.message.as_str()))
}

/// The first 12 digits of a digest.
fn twelve(digest: &str) -> &str {
    let hex = digest.split_once(':').map_or(digest, |(_, hex)| hex);
    short(hex, 12)
}

fn short(text: &str, max: usize) -> &str {
    text.char_indices().nth(max).and_then(|(end, _)| text.get(..end)).unwrap_or(text)
}

impl Change<'_> {
    fn both(&self, kind: ConditionType) -> (Verdict<'_>, Verdict<'_>) {
        (condition(self.old, kind), condition(self.new, kind))
    }

    fn switches(&self, notes: &mut Vec<EventNote>) {
        let (was, is) = self.both(ConditionType::Suspended);
        if is.0 == "True" && was.0 != "True" {
            notes.push(EventNote::new(EventReason::Suspended, "Suspend", "suspended: nothing is started"));
        }
        if was.0 == "True" && is.0 != "True" {
            notes.push(EventNote::new(EventReason::Resumed, "Resume", "not suspended any more"));
        }
        if let Some(token) = &self.new.last_handled_request
            && self.old.last_handled_request.as_ref() != Some(token)
        {
            let note = format!("a sync was asked for by annotation ({token})");
            notes.push(EventNote::new(EventReason::SyncRequested, &format!("Sync-{}", short(token, 40)), &note));
        }
    }

    fn plan(&self, notes: &mut Vec<EventNote>) {
        let Some(new) = &self.new.plan else { return };
        let action = format!("Plan-{}", twelve(&new.digest));
        match &self.old.plan {
            Some(old) if old.digest == new.digest => {}
            Some(old) if !old.digest.is_empty() => {
                let (from, to) = (twelve(&old.digest), twelve(&new.digest));
                let note = format!(
                    "plan {from} became {to}: {} images, {} added, {} removed",
                    new.images, new.added, new.removed
                );
                notes.push(EventNote::new(EventReason::PlanChanged, &action, &note));
            }
            _ => {
                let note = format!("{} images are wanted (plan {})", new.images, twelve(&new.digest));
                notes.push(EventNote::new(EventReason::ResolveSucceeded, &action, &note));
            }
        }
    }

    fn digest(&self) -> &str {
        self.new.plan.as_ref().map_or("", |plan| twelve(&plan.digest))
    }

    fn started(&self) -> EventNote {
        let total = self.new.progress.as_ref().map_or(0, |progress| progress.images.total);
        let note = format!("copying; {total} images are wanted in the target");
        EventNote::new(EventReason::MirrorStarted, &format!("Copy-{}", self.digest()), &note)
    }

    fn copying(&self, notes: &mut Vec<EventNote>) {
        let start = |status: &ImageSetMirrorStatus| status.sync.as_ref().and_then(|sync| sync.start_time.clone());
        let written = |status: &ImageSetMirrorStatus| {
            let progress = status.progress.clone().unwrap_or_default();
            progress.images.copied > 0 || progress.bytes.copied > 0
        };
        let running = condition(self.new, ConditionType::Reconciling).1 == Some(Reason::Copying)
            || condition(self.new, ConditionType::UpToDate).1 == Some(Reason::NewContent);
        if running && written(self.new) && (!written(self.old) || start(self.old) != start(self.new)) {
            notes.push(self.started());
        }
        let (was, is) = self.both(ConditionType::Mirrored);
        let (update_was, update_is) = self.both(ConditionType::UpToDate);
        let caught_up = update_was.0 == "False" && update_is.0 == "True" && is.0 == "True";
        let digest = |status: &ImageSetMirrorStatus| status.mirrored.as_ref().map(|mirrored| mirrored.digest.clone());
        if is.0 != "True" || (was.0 == "True" && !caught_up && digest(self.old) == digest(self.new)) {
            return;
        }
        let action = format!("Copy-{}", self.digest());
        let copied = self.new.progress.as_ref().is_some_and(|progress| progress.images.copied > 0);
        // A short sync is first seen at its end.
        if copied && (!written(self.old) || start(self.old) != start(self.new)) {
            notes.push(self.started());
        }
        if was.1 == Some(Reason::ContentMissing) {
            let note = "images that were gone from the target are back";
            notes.push(EventNote::new(EventReason::DriftRepaired, &action, note));
            return;
        }
        let progress = self.new.progress.clone().unwrap_or_default();
        let took = self.new.history.first().map_or("", |newest| newest.duration.as_str());
        let note = format!(
            "{} images are in the target: {} copied, {} were there, {} bytes sent in {took}",
            progress.images.total, progress.images.copied, progress.images.present, progress.bytes.copied
        );
        notes.push(EventNote::new(EventReason::MirrorSucceeded, &action, &note));
    }

    fn failures(&self, notes: &mut Vec<EventNote>) {
        let (was, is) = self.both(ConditionType::Ready);
        if is.0 == "False"
            && (was.0 != "False" || was.1 != is.1)
            && let Some(reason) = is.1.and_then(of_ready)
        {
            let action = if self.digest().is_empty() { "Sync".to_owned() } else { format!("Sync-{}", self.digest()) };
            notes.push(EventNote::new(reason, &action, is.2));
        }
        let (was, is) = self.both(ConditionType::UpToDate);
        if is.1 == Some(Reason::RefreshFailed) && was.1 != is.1 {
            notes.push(EventNote::new(EventReason::RefreshFailed, "Sync", is.2));
        }
    }

    fn resources(&self, notes: &mut Vec<EventNote>) {
        let known = |status: &'_ ImageSetMirrorStatus| -> BTreeMap<(String, String, String), ResourceStatus> {
            let key = |found: &ResourceStatus| (found.group.clone(), found.kind.clone(), found.name.clone());
            status.resources.iter().map(|found| (key(found), found.clone())).collect()
        };
        let (old, new) = (known(self.old), known(self.new));
        for (key, resource) in &new {
            let was = old.get(key);
            let same = was.is_some_and(|was| was.state == resource.state);
            let changed = resource.state == ResourceState::Applied && was.is_some_and(|was| was.hash != resource.hash);
            if same && !changed {
                continue;
            }
            let Some(reason) = of_resource(resource.state) else { continue };
            let impact = resource.impact.as_deref().map(|impact| format!(": {impact}")).unwrap_or_default();
            let (kind, name) = (&resource.kind, &resource.name);
            let note = match resource.state {
                ResourceState::Applied => format!("{kind} {name} is written"),
                ResourceState::PendingDisruption => {
                    format!("a change of {kind} {name} is held back, because it would drain nodes{impact}")
                }
                // The condition's message tells why; it names this object if several have the same trouble.
                _ => format!("{kind} {name}: {}", condition(self.new, ConditionType::ResourcesApplied).2),
            };
            notes.push(EventNote::about(reason, kind, name, twelve(&resource.hash), &note));
        }
        let (was, is) = self.both(ConditionType::ResourcesApplied);
        if let Some(text) = self::notes(is.2)
            && self::notes(was.2) != Some(text)
        {
            let action = format!("Notice-{}", Digest::of(text.as_bytes()).short());
            notes.push(EventNote::new(EventReason::ResourceNotice, &action, text));
        }
        for (key, resource) in &old {
            if resource.state == ResourceState::Applied && !new.contains_key(key) {
                let note = format!("{} {} is removed", resource.kind, resource.name);
                let hash = twelve(&resource.hash);
                let note = EventNote::about(EventReason::ResourceDeleted, &resource.kind, &resource.name, hash, &note);
                notes.push(note);
            }
        }
    }
}

/// The event for a reason of `Ready=False`; none for what another event tells.
fn of_ready(reason: Reason) -> Option<EventReason> {
    Some(match reason {
        Reason::ResolveFailed => EventReason::ResolveFailed,
        Reason::CopyFailed => EventReason::CopyFailed,
        Reason::AuthenticationFailed => EventReason::AuthenticationFailed,
        Reason::TargetUnreachable => EventReason::TargetUnreachable,
        Reason::SourceUnreachable => EventReason::SourceUnreachable,
        Reason::CertificateNotTrusted => EventReason::CertificateNotTrusted,
        Reason::RateLimited => EventReason::RateLimited,
        Reason::InternalError => EventReason::InternalError,
        Reason::SignatureInvalid => EventReason::SignatureInvalid,
        Reason::InvalidSpec => EventReason::InvalidSpec,
        Reason::DestinationConflict => EventReason::DestinationConflict,
        Reason::ProgressDeadlineExceeded => EventReason::ProgressDeadlineExceeded,
        Reason::ContentMissing => EventReason::ContentMissing,
        reason if reason.is_waiting() => EventReason::ReferenceInvalid,
        _ => return None,
    })
}

fn of_resource(state: ResourceState) -> Option<EventReason> {
    Some(match state {
        ResourceState::Applied => EventReason::ResourceApplied,
        ResourceState::PendingDisruption => EventReason::NodesWillDrain,
        ResourceState::NamespaceNotAllowed => EventReason::NamespaceNotAllowed,
        ResourceState::KindNotServed => EventReason::KindNotServed,
        ResourceState::AdmissionDenied => EventReason::AdmissionDenied,
        ResourceState::Conflict => EventReason::ResourceConflict,
        ResourceState::MirrorPolicyConflict => EventReason::MirrorPolicyConflict,
        ResourceState::Failed => EventReason::ApplyFailed,
        ResourceState::Published | ResourceState::Retained => return None,
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

    use crate::api::{ImageProgress, MirroredStatus, PlanStatus, ProgressStatus};

    use super::*;

    const FIRST: &str = "sha256:111111111111aaaa";
    const SECOND: &str = "sha256:222222222222bbbb";

    /// A status with these conditions, written `Type=Status/Reason`.
    fn status(conditions: &[&str], plan: &str, mirrored: &str) -> ImageSetMirrorStatus {
        let condition = |text: &&str| {
            let (kind, rest) = text.split_once('=').unwrap();
            let (status, reason) = rest.split_once('/').unwrap();
            Condition {
                type_: kind.to_owned(),
                status: status.to_owned(),
                reason: reason.to_owned(),
                message: format!("{reason} it is"),
                last_transition_time: Time(jiff::Timestamp::UNIX_EPOCH),
                observed_generation: Some(1),
            }
        };
        let plan = PlanStatus { digest: plan.to_owned(), images: 3, added: 2, removed: 1, ..PlanStatus::default() };
        ImageSetMirrorStatus {
            conditions: conditions.iter().map(condition).collect(),
            plan: (!plan.digest.is_empty()).then_some(plan),
            mirrored: (!mirrored.is_empty())
                .then(|| MirroredStatus { digest: mirrored.to_owned(), ..MirroredStatus::default() }),
            ..ImageSetMirrorStatus::default()
        }
    }

    fn resource(state: ResourceState, hash: &str) -> ResourceStatus {
        ResourceStatus {
            group: "config.openshift.io".to_owned(),
            kind: "ImageDigestMirrorSet".to_owned(),
            name: "ns-set-generic-0011aabb".to_owned(),
            state,
            hash: hash.to_owned(),
            impact: None,
        }
    }

    fn told(old: Option<&ImageSetMirrorStatus>, new: &ImageSetMirrorStatus) -> Vec<&'static str> {
        transitions(old, new).iter().map(|note| note.reason.as_str()).collect()
    }

    const READY: [&str; 3] = ["Ready=True/Succeeded", "Mirrored=True/Succeeded", "UpToDate=True/NoNewContent"];

    #[test]
    fn every_reason_is_documented() {
        let page = include_str!("../../docs/operating.md");
        for reason in EventReason::ALL {
            let row = format!("\n| `{}` | {:?} | ", reason.as_str(), reason.kind());
            assert!(page.contains(&row), "docs/operating.md has no row {row}");
        }
    }

    #[test]
    fn a_first_sync_tells_plan_start_and_end() {
        let resolving = status(&["Ready=Unknown/Progressing", "Reconciling=True/Resolving"], "", "");
        assert!(told(None, &resolving).is_empty());
        let mut copying = status(&["Ready=Unknown/Progressing", "Reconciling=True/Copying"], FIRST, "");
        assert_eq!(told(Some(&resolving), &copying), ["ResolveSucceeded"]);
        let planned = copying.clone();
        let images = ImageProgress { total: 3, copied: 1, ..ImageProgress::default() };
        copying.progress = Some(ProgressStatus { images, ..ProgressStatus::default() });
        assert_eq!(told(Some(&planned), &copying), ["MirrorStarted"]);
        let done = status(&READY, FIRST, FIRST);
        assert_eq!(told(Some(&copying), &done), ["MirrorSucceeded"]);
        let short = ImageSetMirrorStatus { progress: copying.progress, ..done };
        assert_eq!(
            told(Some(&planned), &short),
            ["MirrorStarted", "MirrorSucceeded"],
            "one too short to be seen under way"
        );
    }

    #[test]
    fn a_quiet_sync_tells_nothing() {
        let before = status(&READY, FIRST, FIRST);
        let mut after = before.clone();
        after.sync = Some(crate::api::SyncStatus { consecutive_failures: 0, ..Default::default() });
        assert!(told(Some(&before), &after).is_empty());
    }

    #[test]
    fn a_new_plan_has_an_action_of_its_own() {
        let before = status(&READY, FIRST, FIRST);
        let found = ["Ready=True/Succeeded", "Mirrored=True/Succeeded", "UpToDate=False/NewContent"];
        let notes = transitions(Some(&before), &status(&found, SECOND, FIRST));
        assert_eq!(notes.len(), 1);
        assert_eq!(notes[0].action, "Plan-222222222222");
        assert_eq!(notes[0].note, "plan 111111111111 became 222222222222: 3 images, 2 added, 1 removed");
        assert_eq!(told(Some(&status(&found, SECOND, FIRST)), &status(&READY, SECOND, SECOND)), ["MirrorSucceeded"]);
    }

    #[test]
    fn a_failure_is_told_once() {
        let failing = status(&["Ready=False/CopyFailed", "Reconciling=True/ProgressingWithRetry"], FIRST, "");
        let copying = status(&["Ready=Unknown/Progressing", "Reconciling=True/Copying"], FIRST, "");
        let notes = transitions(Some(&copying), &failing);
        assert_eq!((notes.len(), notes[0].kind, notes[0].note.as_str()), (1, EventKind::Warning, "CopyFailed it is"));
        assert!(told(Some(&failing), &failing).is_empty());
        let other = status(&["Ready=False/AuthenticationFailed", "Reconciling=True/ProgressingWithRetry"], FIRST, "");
        assert_eq!(told(Some(&failing), &other), ["AuthenticationFailed"]);
        for (reason, wanted) in [
            ("SecretNotFound", "ReferenceInvalid"),
            ("TrustBundleInvalid", "ReferenceInvalid"),
            ("InvalidSpec", "InvalidSpec"),
            ("ProgressDeadlineExceeded", "ProgressDeadlineExceeded"),
        ] {
            assert_eq!(told(Some(&copying), &status(&[&format!("Ready=False/{reason}")], FIRST, "")), [wanted]);
        }
        let ready = status(&READY, FIRST, FIRST);
        let stale = ["Ready=True/Succeeded", "Mirrored=True/Succeeded", "UpToDate=False/RefreshFailed"];
        assert_eq!(told(Some(&ready), &status(&stale, FIRST, FIRST)), ["RefreshFailed"]);
    }

    #[test]
    fn repaired_drift_is_told_as_such() {
        let ready = status(&READY, FIRST, FIRST);
        let gone = status(&["Ready=False/ContentMissing", "Mirrored=False/ContentMissing"], FIRST, FIRST);
        assert_eq!(told(Some(&ready), &gone), ["ContentMissing"]);
        assert_eq!(told(Some(&gone), &ready), ["DriftRepaired"]);
    }

    #[test]
    fn suspension_and_requests_are_told() {
        let ready = status(&READY, FIRST, FIRST);
        let mut suspended = ready.clone();
        suspended.conditions.extend(status(&["Suspended=True/Suspended"], "", "").conditions);
        assert_eq!(told(Some(&ready), &suspended), ["Suspended"]);
        assert_eq!(told(Some(&suspended), &ready), ["Resumed"]);
        let requested = ImageSetMirrorStatus { last_handled_request: Some("now".to_owned()), ..ready.clone() };
        assert_eq!(told(Some(&ready), &requested), ["SyncRequested"]);
    }

    #[test]
    fn cluster_objects_are_told_when_they_change() {
        let with = |resources| ImageSetMirrorStatus { resources, ..status(&READY, FIRST, FIRST) };
        let none = with(vec![]);
        let first = with(vec![resource(ResourceState::Applied, "aaaa")]);
        assert_eq!(told(Some(&none), &first), ["ResourceApplied"]);
        assert!(told(Some(&first), &first).is_empty());
        let second = with(vec![resource(ResourceState::Applied, "bbbb")]);
        let notes = transitions(Some(&first), &second);
        assert_eq!(notes[0].action, "Apply-ImageDigestMirrorSet-bbbb-ns-set-generic-0011aabb");
        assert_eq!(told(Some(&second), &none), ["ResourceDeleted"]);
        for (state, wanted) in [
            (ResourceState::Conflict, "ResourceConflict"),
            (ResourceState::MirrorPolicyConflict, "MirrorPolicyConflict"),
            (ResourceState::AdmissionDenied, "AdmissionDenied"),
            (ResourceState::NamespaceNotAllowed, "NamespaceNotAllowed"),
            (ResourceState::KindNotServed, "KindNotServed"),
            (ResourceState::PendingDisruption, "NodesWillDrain"),
            (ResourceState::Failed, "ApplyFailed"),
        ] {
            assert_eq!(told(Some(&first), &with(vec![resource(state, "aaaa")])), [wanted]);
        }
        assert!(told(Some(&none), &with(vec![resource(ResourceState::Published, "aaaa")])).is_empty());
    }

    #[test]
    fn what_is_to_know_about_cluster_objects_is_told_when_it_changes() {
        let with = |message: &str| {
            let mut status = status(&["ResourcesApplied=True/Applied"], FIRST, FIRST);
            status.conditions[0].message = message.to_owned();
            status
        };
        let (plain, noted) = (with("2 objects written"), with("2 objects written. To know: a rule is hidden"));
        assert!(told(Some(&plain), &with("3 objects written")).is_empty());
        let notes = transitions(Some(&plain), &noted);
        assert_eq!((notes.len(), notes[0].note.as_str()), (1, "a rule is hidden"));
        assert!(told(Some(&noted), &with("3 objects written. To know: a rule is hidden")).is_empty());
        assert_eq!(told(Some(&noted), &with("2 objects written. To know: two rules")), ["ResourceNotice"]);
        assert!(told(Some(&noted), &plain).is_empty());
    }

    #[test]
    fn texts_stay_within_the_api() {
        let note =
            EventNote::about(EventReason::ResourceApplied, &"K".repeat(63), &"n".repeat(253), "h", &"x".repeat(4000));
        assert!(note.action.len() <= 128 && note.note.len() <= 1024);
        assert!(EventReason::ALL.iter().all(|reason| reason.as_str().len() <= 128));
    }
}
