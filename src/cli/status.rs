//! `status`: what the objects of a cluster are doing, for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::IsTerminal as _;

use futures::TryStreamExt as _;
use indicatif::HumanBytes;
use jiff::{SpanRound, Timestamp, Unit};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::api::ListParams;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt as _};

use super::output::{counted, fail, print, refuse};
use super::{DONE, StatusArgs};
use crate::api::{FailedImage, ImageSetMirror, ResourceState, ResourceStatus};
use crate::clock::Clock;
use crate::failure::chain;

/// The stage of failures of what is in no plan.
const RESOLVE: &str = "Resolve";
/// Characters of a progress bar.
const BAR: usize = 24;
/// Clears a terminal and goes to its first line.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// Objects by namespace and name.
type Objects = BTreeMap<(String, String), ImageSetMirror>;

/// Runs the command.
pub(super) async fn run(args: StatusArgs) -> u8 {
    let config = match kube::Config::infer().await {
        Ok(config) => config,
        Err(error) => return fail(&format!("finding the API server (KUBECONFIG, or in a pod): {}", chain(&error))),
    };
    let namespace = args.namespace.unwrap_or_else(|| config.default_namespace.clone());
    let client = match Client::try_from(config) {
        Ok(client) => client,
        Err(error) => return fail(&format!("making a client for the API server: {}", chain(&error))),
    };
    let api: Api<ImageSetMirror> =
        if args.all_namespaces { Api::all(client) } else { Api::namespaced(client, &namespace) };
    if args.all_namespaces && args.name.is_some() {
        return refuse(&["--all-namespaces: give a NAME, or all namespaces".to_owned()]);
    }
    let place = if args.all_namespaces { "the cluster".to_owned() } else { format!("namespace `{namespace}`") };
    let only = args.name.map(|name| format!("metadata.name={name}"));
    let shown =
        if args.watch { follow(api, only.as_deref(), &place).await } else { once(api, only.as_deref(), &place).await };
    shown.unwrap_or_else(|error| fail(&format!("reading ImageSetMirrors: {}", chain(&error))))
}

async fn once(api: Api<ImageSetMirror>, only: Option<&str>, place: &str) -> Result<u8, kube::Error> {
    let params = only.map_or_else(ListParams::default, |only| ListParams::default().fields(only));
    let objects: Objects = api.list(&params).await?.into_iter().map(|object| (key(&object), object)).collect();
    if objects.is_empty() && only.is_some() {
        return Ok(fail(&absent(only, place)));
    }
    Ok(print(&all(&objects, only, place)))
}

/// Shows the objects again after each change, until the process is ended, or until the one that is asked for is Ready.
async fn follow(api: Api<ImageSetMirror>, only: Option<&str>, place: &str) -> Result<u8, kube::Error> {
    let config = only.map_or_else(watcher::Config::default, |only| watcher::Config::default().fields(only));
    let mut events = std::pin::pin!(watcher(api, config));
    let mut objects = Objects::new();
    let mut whole = false;
    loop {
        let event = tokio::select! {
            _ = tokio::signal::ctrl_c() => return Ok(DONE),
            // The watch is begun again by itself, with pauses that grow.
            event = events.try_next() => match event {
                Ok(Some(event)) => event,
                Ok(None) => return Ok(DONE),
                Err(error) => {
                    super::output::warn(&[format!("watching ImageSetMirrors: {}", chain(&error))]);
                    continue;
                }
            },
        };
        match event {
            Event::Init => objects.clear(),
            Event::InitDone => whole = true,
            Event::Apply(object) | Event::InitApply(object) => drop(objects.insert(key(&object), object)),
            Event::Delete(object) => drop(objects.remove(&key(&object))),
        }
        if whole {
            let before = if std::io::stdout().is_terminal() { CLEAR } else { "" };
            let text = format!("{before}{}", all(&objects, only, place));
            if print(&text) != DONE {
                return Ok(super::FAILED);
            }
            if only.is_some() && !objects.is_empty() && objects.values().all(is_ready) {
                return Ok(DONE);
            }
        }
    }
}

/// True if everything that the object asks for now is done.
fn is_ready(object: &ImageSetMirror) -> bool {
    object.status.as_ref().is_some_and(|status| {
        let ready = |condition: &Condition| condition.type_ == "Ready" && condition.status == "True";
        status.observed_generation == object.metadata.generation && status.conditions.iter().any(ready)
    })
}

fn key(object: &ImageSetMirror) -> (String, String) {
    (object.namespace().unwrap_or_default(), object.name_any())
}

fn absent(only: Option<&str>, place: &str) -> String {
    match only.and_then(|only| only.strip_prefix("metadata.name=")) {
        Some(name) => format!("there is no ImageSetMirror `{name}` in {place}"),
        None => format!("there is no ImageSetMirror in {place}"),
    }
}

fn all(objects: &Objects, only: Option<&str>, place: &str) -> String {
    if objects.is_empty() {
        return format!("{}\n", absent(only, place));
    }
    let now = Clock::system().now_in_seconds();
    objects.values().map(|object| one(object, now)).collect::<Vec<_>>().join("\n")
}

/// Everything about one object.
fn one(object: &ImageSetMirror, now: Timestamp) -> String {
    let mut text = String::new();
    let mut row = |name: &str, value: &str| {
        for (index, line) in value.lines().enumerate() {
            // Writing to a String cannot fail.
            writeln!(text, "  {:<10} {line}", if index == 0 { name } else { "" }).ok();
        }
    };
    let Some(status) = &object.status else {
        row("ready", "not known yet: no operator has looked at it");
        return format!("{}\n{text}", title(object));
    };
    let conditions = || status.conditions.iter();
    let of = |kind: &str| conditions().find(|condition| condition.type_ == kind);
    if status.observed_generation != object.metadata.generation {
        row("changed", "the spec has changed since; what follows is about the one before");
    }
    match of("Ready") {
        Some(ready) => row("ready", &spoken(ready)),
        None => row("ready", "not known yet: no operator has looked at it"),
    }
    for (kind, name) in [("Reconciling", "working"), ("Stalled", "stalled"), ("Suspended", "suspended")] {
        if let Some(condition) = of(kind).filter(|condition| condition.status == "True") {
            row(name, &format!("{}: {}", condition.reason, condition.message));
        }
    }
    // What is as it should be needs no line.
    let usual = ["Ready", "Reconciling", "Stalled", "Suspended"];
    let others =
        conditions().filter(|condition| condition.status != "True" && !usual.contains(&condition.type_.as_str()));
    for condition in others {
        row("but", &format!("{}: {}", condition.type_, spoken(condition)));
    }
    if let Some(progress) = &status.progress {
        let images = &progress.images;
        let there = images.copied.saturating_add(images.present);
        let unresolved = status.failures.iter().filter(|failure| failure.stage == RESOLVE).count();
        let bar = bar(there, images.total, unresolved > 0);
        let mut parts = vec![format!("{bar} {there}/{}", images.total)];
        let counts = [(images.copied, "copied"), (images.present, "present"), (images.failed, "missing")];
        parts.extend(counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")));
        if unresolved > 0 {
            parts.push(format!("not resolved: {unresolved}"));
        }
        row("images", &parts.join(", "));
        let bytes =
            [(progress.bytes.copied, "sent"), (progress.bytes.mounted, "mounted"), (progress.bytes.present, "present")];
        let bytes: Vec<_> = bytes
            .iter()
            .filter_map(|(count, what)| Some((u64::try_from(*count).ok().filter(|count| *count > 0)?, what)))
            .map(|(count, what)| format!("{} {what}", HumanBytes(count)))
            .collect();
        row("bytes", &bytes.join(", "));
    }
    if let Some(plan) = &status.plan {
        let mut parts: Vec<_> = plan.by_origin.iter().map(|(origin, images)| format!("{images} {origin}")).collect();
        let changes = [(plan.added, '+'), (plan.removed, '-')];
        parts.extend(changes.iter().filter(|(count, _)| *count > 0).map(|(count, sign)| format!("{sign}{count}")));
        let images = usize::try_from(plan.images).unwrap_or_default();
        let more = if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) };
        row("plan", &format!("{}{more}", counted(images, "image")));
    }
    if let Some(sync) = &status.sync {
        row("synced", &times(sync.last_success_time.as_ref(), sync.next_time.as_ref(), sync.consecutive_failures, now));
    }
    row("missing", &missing(&status.failures, status.progress.as_ref().map_or(0, |progress| progress.images.failed)));
    row("cluster", &written(&status.resources));
    format!("{}\n{text}", title(object))
}

fn title(object: &ImageSetMirror) -> String {
    let target = &object.spec.target;
    let path = target.path_prefix.as_deref().map(|path| format!("/{path}")).unwrap_or_default();
    format!("{}/{} → {}{path}", object.namespace().unwrap_or_default(), object.name_any(), target.registry)
}

/// A condition in words.
fn spoken(condition: &Condition) -> String {
    let Condition { reason, message, .. } = condition;
    match condition.status.as_str() {
        "True" => format!("yes: {message}"),
        "False" => format!("no, {reason}: {message}"),
        _ => format!("not known, {reason}: {message}"),
    }
}

fn bar(done: i64, total: i64, more: bool) -> String {
    let done = usize::try_from(done).unwrap_or_default();
    let total = usize::try_from(total).unwrap_or_default();
    // Full only when nothing is missing.
    let total = if more { total.max(done) + 1 } else { total };
    let filled = if done >= total { BAR } else { done.saturating_mul(BAR) / total };
    format!("[{}{}]", "#".repeat(filled), ".".repeat(BAR - filled))
}

fn times(last: Option<&Time>, next: Option<&Time>, failures: i64, now: Timestamp) -> String {
    let mut parts = vec![last.map_or_else(|| "never".to_owned(), |time| format!("{} ago", span(time.0, now)))];
    parts.extend(
        next.map(|time| if time.0 > now { format!("next in {}", span(now, time.0)) } else { "next is due".to_owned() }),
    );
    if failures > 0 {
        parts.push(format!("{} failed since", counted(usize::try_from(failures).unwrap_or_default(), "sync")));
    }
    parts.join(", ")
}

/// A time span, without what nobody asks for.
fn span(from: Timestamp, to: Timestamp) -> String {
    let seconds = to.as_second().saturating_sub(from.as_second());
    let smallest = if seconds < 120 { Unit::Second } else { Unit::Minute };
    let round = SpanRound::new().largest(Unit::Hour).smallest(smallest);
    let rounded = to.since(from).and_then(|span| span.round(round));
    rounded.map_or_else(|_| format!("{seconds}s"), |span| format!("{span:#}"))
}

fn missing(failures: &[FailedImage], count: i64) -> String {
    let mut lines: Vec<_> = failures
        .iter()
        .map(|failure| {
            let origin = if failure.origin.is_empty() { String::new() } else { format!(" ({})", failure.origin) };
            format!("{}{origin}\n  {}: {}", failure.image, failure.reason, failure.message)
        })
        .collect();
    let rest = usize::try_from(count).unwrap_or_default().saturating_sub(failures.len());
    if rest > 0 {
        lines.push(format!("and {rest} more"));
    }
    lines.join("\n")
}

fn written(resources: &[ResourceStatus]) -> String {
    let line = |resource: &ResourceStatus| {
        let what = match resource.state {
            ResourceState::Applied => "written",
            ResourceState::Published => "published only",
            ResourceState::Retained => "not wanted any more, left in place",
            ResourceState::PendingDisruption => "held back, since it would disturb nodes",
            ResourceState::NamespaceNotAllowed => "not written: this namespace may not write to the cluster",
            ResourceState::KindNotServed => "not written: the cluster has no such kind",
            ResourceState::AdmissionDenied => "not written: the cluster refuses it",
            ResourceState::Conflict => "not written: an object of this name is somebody else's",
            ResourceState::MirrorPolicyConflict => "not written: it contradicts somebody else's",
            ResourceState::Failed => "not written: the API server failed",
        };
        let impact = resource.impact.as_deref().map(|impact| format!(" ({impact})")).unwrap_or_default();
        format!("{} {}: {what}{impact}", resource.kind, resource.name)
    };
    resources.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn object(status: &Value) -> ImageSetMirror {
        serde_json::from_value(json!({
            "apiVersion": "mirror.openshift.io/v1alpha1", "kind": "ImageSetMirror",
            "metadata": {"name": "set", "namespace": "ns", "generation": 2},
            "spec": {"mirror": {}, "target": {"registry": "mirror.test:5000", "pathPrefix": "ocp"}},
            "status": status,
        }))
        .unwrap()
    }

    fn condition(kind: &str, status: &str, reason: &str, message: &str) -> Value {
        json!({"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": "2026-01-02T03:04:05Z"})
    }

    fn shown(status: &Value) -> String {
        one(&object(status), "2026-01-02T04:00:00Z".parse().unwrap())
    }

    #[test]
    fn what_is_well_takes_few_lines() {
        let text = shown(&json!({
            "observedGeneration": 2,
            "conditions": [
                condition("Ready", "True", "Succeeded", "2 images"), condition("Resolved", "True", "Succeeded", "x"),
            ],
            "sync": {"lastSuccessTime": "2026-01-02T03:59:48Z", "nextTime": "2026-01-02T09:59:00Z"},
            "progress": {"images": {"total": 2, "copied": 0, "present": 2}},
            "plan": {"images": 2, "byOrigin": {"additional": 2}},
            "resources": [{"group": "config.openshift.io", "kind": "ImageDigestMirrorSet", "name": "a", "state": "Applied"}],
        }));
        insta::assert_snapshot!(text, @r"
        ns/set → mirror.test:5000/ocp
          ready      yes: 2 images
          images     [########################] 2/2, 2 present
          plan       2 images (2 additional)
          synced     12s ago, next in 5h 59m
          cluster    ImageDigestMirrorSet a: written
        ");
    }

    #[test]
    fn what_is_not_says_why_and_what_to_do() {
        let failure = json!({"image": "quay.io/a/b:1", "origin": "additional quay.io/a/b:1", "stage": "Copy", "reason": "SourceNotFound", "message": "check the name"});
        let text = shown(&json!({
            "observedGeneration": 1,
            "conditions": [
                condition("Ready", "False", "ImagesMissing", "2 of 1000 images are missing"),
                condition("Reconciling", "True", "Copying", "copies"),
                condition("ResourcesApplied", "False", "PendingDisruption", "a drain is held back"),
            ],
            "sync": {"consecutiveFailures": 1, "nextTime": "2026-01-02T03:00:00Z"},
            "progress": {"images": {"total": 1000, "copied": 998, "failed": 2}, "bytes": {"copied": 2048}},
            "plan": {"images": 1000, "added": 3, "removed": 1},
            "failures": [failure],
            "resources": [{"group": "", "kind": "ImageTagMirrorSet", "name": "b", "state": "PendingDisruption", "impact": "drains 3 nodes"}],
        }));
        insta::assert_snapshot!(text, @r"
        ns/set → mirror.test:5000/ocp
          changed    the spec has changed since; what follows is about the one before
          ready      no, ImagesMissing: 2 of 1000 images are missing
          working    Copying: copies
          but        ResourcesApplied: no, PendingDisruption: a drain is held back
          images     [#######################.] 998/1000, 998 copied, 2 missing
          bytes      2.00 KiB sent
          plan       1000 images (+3, -1)
          synced     never, next is due, 1 sync failed since
          missing    quay.io/a/b:1 (additional quay.io/a/b:1)
                       SourceNotFound: check the name
                     and 1 more
          cluster    ImageTagMirrorSet b: held back, since it would disturb nodes (drains 3 nodes)
        ");
    }

    #[test]
    fn ready_is_what_is_ready_as_it_is_asked_for_now() {
        let with = |generation: i64, state: &str| {
            object(&json!({"observedGeneration": generation, "conditions": [condition("Ready", state, "Any", "any")]}))
        };
        assert!(is_ready(&with(2, "True")));
        assert!(!is_ready(&with(1, "True")), "the spec has changed since");
        assert!(!is_ready(&with(2, "False")));
        assert!(!is_ready(&object(&Value::Null)));
    }

    #[test]
    fn what_could_not_be_resolved_leaves_room_in_the_bar() {
        let failure = json!({"image": "quay.io/a/b:1", "stage": "Resolve", "reason": "SourceNotFound"});
        let text = shown(&json!({
            "observedGeneration": 2, "progress": {"images": {"total": 11, "present": 11}}, "failures": [failure],
        }));
        assert!(text.contains("[######################..] 11/11, 11 present, not resolved: 1"), "{text}");
    }

    #[test]
    fn an_object_that_nobody_has_looked_at_says_so() {
        let text = shown(&Value::Null);
        assert!(text.contains("no operator has looked at it"), "{text}");
    }
}
