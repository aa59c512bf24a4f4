//! What conditions say in words, and the one reason that stands for many failures.

use crate::api::ResourceState;
use crate::failure::{self, Side};
use crate::request::Fault;

use super::observation::{Applied, FailedItem, FailedStage, Output, Planned};
use super::reason::Reason;

/// What is said of a spec with faults.
pub(super) fn invalid(faults: &[Fault]) -> String {
    let list = faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    if faults.len() > 1 { format!("{} faults: {list}", faults.len()) } else { list }
}

/// What is being done.
pub(super) fn stage_message(stage: Reason) -> &'static str {
    match stage {
        Reason::Planning => "making the plan",
        Reason::Copying => "copying",
        Reason::Applying => "writing what the cluster needs to use the mirror",
        Reason::Queued => "waiting for the syncs of other objects",
        Reason::Interrupted => "the operator stopped in the middle; the next one goes on",
        _ => "finding out what is wanted",
    }
}

/// The one reason that tells most about these failures.
pub(super) fn reason_of(failures: &[FailedItem]) -> Reason {
    use failure::Reason as Cause;
    if failures.iter().any(|item| item.failure.reason == Cause::SignatureMissing) {
        return Reason::SignatureInvalid;
    }
    let consequences = [Cause::DependencyFailed, Cause::Cancelled];
    let causes: Vec<_> = failures.iter().filter(|item| !consequences.contains(&item.failure.reason)).collect();
    let all = |of: &[Cause]| !causes.is_empty() && causes.iter().all(|item| of.contains(&item.failure.reason));
    let resolving = failures.iter().all(|item| item.stage == FailedStage::Resolve);
    if all(&[Cause::SourceAuth, Cause::TargetAuth]) {
        Reason::AuthenticationFailed
    } else if all(&[Cause::RateLimited]) {
        Reason::RateLimited
    } else if all(&[Cause::TLSUntrusted]) {
        Reason::CertificateNotTrusted
    } else if all(&[Cause::NetworkUnreachable, Cause::TLSUntrusted]) && one_side(&causes).is_some() {
        if one_side(&causes) == Some(Side::Target) { Reason::TargetUnreachable } else { Reason::SourceUnreachable }
    } else if resolving {
        Reason::ResolveFailed
    } else {
        Reason::CopyFailed
    }
}

/// Whose registries failed, if only one side's did.
fn one_side(causes: &[&FailedItem]) -> Option<Side> {
    let first = causes.first()?.failure.side?;
    causes.iter().all(|item| item.failure.side == Some(first)).then_some(first)
}

/// `1 image`, `3 images`, `2 entries`.
pub(super) fn count(number: impl TryInto<u64>, noun: &str) -> String {
    let number = number.try_into().unwrap_or(u64::MAX);
    match noun.strip_suffix('y') {
        _ if number == 1 => format!("1 {noun}"),
        Some(stem) => format!("{number} {stem}ies"),
        None => format!("{number} {noun}s"),
    }
}

/// How much is missing, and the first of it.
pub(super) fn summary(plan: &Planned, failures: &[FailedItem]) -> String {
    let unresolved = failures.iter().filter(|item| item.stage == FailedStage::Resolve).count();
    let missing = failures.len() - unresolved;
    let mut parts = Vec::new();
    if missing > 0 {
        parts.push(format!("{missing} of {} missing in the target", count(plan.images, "image")));
    }
    if unresolved > 0 {
        parts.push(format!("{} not resolved", count(unresolved, "entry")));
    }
    let mut text = parts.join(", ");
    if let Some(first) = failures.first() {
        let lead = if failures.len() > 1 { "; first: " } else { ": " };
        let failure = &first.failure;
        text = format!("{text}{lead}{} ({}): {}", first.image, failure.reason, failure.message);
    }
    text
}

/// Stands between a verdict and what else there is to know.
const NOTES: &str = ". To know: ";

/// A verdict with what else there is to know; the verdict comes first, since a long message is cut.
pub(super) fn with_notes(verdict: &str, notes: &[String]) -> String {
    if notes.is_empty() { verdict.to_owned() } else { format!("{verdict}{NOTES}{}", notes.join("; ")) }
}

/// What else there is to know, of a message with a verdict.
pub(in crate::controller) fn notes(message: &str) -> Option<&str> {
    message.split_once(NOTES).map(|(_, notes)| notes)
}

/// The reason that decides, and a message that names the objects it is about.
pub(super) fn verdict(applied: &Applied) -> (Reason, String) {
    const WORST_FIRST: [(ResourceState, Reason); 7] = [
        (ResourceState::MirrorPolicyConflict, Reason::MirrorPolicyConflict),
        (ResourceState::Conflict, Reason::Conflict),
        (ResourceState::Failed, Reason::ApplyFailed),
        (ResourceState::AdmissionDenied, Reason::AdmissionDenied),
        (ResourceState::NamespaceNotAllowed, Reason::NamespaceNotAllowed),
        (ResourceState::KindNotServed, Reason::KindNotServed),
        (ResourceState::PendingDisruption, Reason::PendingDisruption),
    ];
    for (state, reason) in WORST_FIRST {
        let mut about = applied.outputs.iter().filter(|output| output.state == state).collect::<Vec<_>>();
        about.sort_by_key(|output| (&output.kind, &output.name));
        if !about.is_empty() {
            let text = |output: &&Output| format!("{} {}: {}", output.kind, output.name, output.message);
            return (reason, about.iter().map(text).collect::<Vec<_>>().join("; "));
        }
    }
    let number = |state| applied.outputs.iter().filter(|output| output.state == state).count();
    match (number(ResourceState::Applied), number(ResourceState::Published)) {
        (0, 0) => (Reason::Published, "nothing is to be written".to_owned()),
        (0, n) => (Reason::Published, format!("{} only published in ConfigMaps", count(n, "object"))),
        (n, _) => (Reason::Applied, format!("{} written to the cluster", count(n, "object"))),
    }
}
