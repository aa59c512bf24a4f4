//! `mirror`: one sync without a cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use indicatif::HumanBytes;
use serde::Serialize;

use super::input::{Prepared, prepare};
use super::output::{counted, fail, json, print, refuse, warn};
use super::progress::Progress;
use super::{DONE, FAILED, MirrorArgs, MirrorOutput, kustomization};
use crate::api::Mode;
use crate::clock::Clock;
use crate::copy::{Outcome, Report, Stop, Trust};
use crate::failure::{Failure, Reason, chain};
use crate::plan::Plan;
use crate::request::PublishPolicy;
use crate::resolve::Origin;
use crate::resources::catalogs::template;
use crate::resources::containerd::{CA_KEY, HOSTS_FILE, folder_of, key_in, owner_of};
use crate::resources::{
    Access, Catalog, ClusterSnapshot, Desired, ExtraInputs, ExtraSnapshot, Extras, HostsInputs, Inputs, Releases,
    Stored, Template, containerd_hosts, manifest_keys,
};
use crate::sync::{CatalogReport, Copied};

/// Folder of files for containerd, named as it is on nodes.
const HOSTS: &str = "certs.d";

/// The result for machines, in the directory for cluster resources.
const REPORT: &str = "report.json";

/// The result for machines.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Machine<'a> {
    complete: bool,
    plan_digest: String,
    report: &'a Report,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    catalogs: &'a [CatalogReport],
    unresolved: Vec<Unresolved<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_failure: Option<&'a Failure>,
}

#[derive(Serialize)]
struct Unresolved<'a> {
    #[serde(flatten)]
    origin: &'a Origin,
    #[serde(flatten)]
    failure: &'a Failure,
}

/// Runs the command.
pub(super) async fn run(args: MirrorArgs) -> u8 {
    let prepared = match prepare(&args.file) {
        Ok(prepared) => prepared,
        Err(wrong) => return refuse(&wrong),
    };
    warn(&prepared.warnings);
    if prepared.request.mode == Mode::Plan {
        warn(&["spec.mode is Plan, which only the operator follows; `mirror` copies".to_owned()]);
    }
    // Before anything is copied, so that nothing is wasted on a directory that cannot be used.
    let before =
        args.out.as_deref().map_or_else(|| Ok(Before::default()), |out| Before::read(out, args.file.ca.as_deref()));
    let before = match before {
        Ok(before) => before,
        Err(text) => return refuse(&[text]),
    };
    // Boxed, because it is large and goes through several hands.
    let resolved = match Box::pin(prepared.resolve(Trust::Remembered)).await {
        Ok(resolved) => resolved,
        Err(error) => return refuse(&error.messages()),
    };
    let plan = &resolved.plan;
    let clock = Clock::system();
    let now = move || clock.now_in_seconds().to_string();
    let copy = prepared.copy(&resolved, &now);
    let stop = Stop::default();
    if args.fail_fast && plan.failures.iter().any(|(_, failure)| !failure.transient) {
        // It has failed before anything was begun.
        stop.drain.cancel();
    }
    let progress = Progress::new(plan.items.len(), args.fail_fast.then(|| stop.drain.clone()));
    let interrupted = tokio::signal::ctrl_c();
    let running = copy.run(plan, &progress, &stop);
    tokio::pin!(running);
    let copied = tokio::select! {
        copied = &mut running => copied,
        _ = interrupted => {
            // Transfers under way end, so that the next run finds them; a second signal ends the process.
            stop.drain.cancel();
            tokio::select! {
                copied = &mut running => copied,
                _ = tokio::signal::ctrl_c() => {
                    stop.abort.cancel();
                    running.await
                }
            }
        }
    };
    progress.finish();
    let copied = match copied {
        Ok(copied) => copied,
        Err(failure) => return fail(&failure.to_string()),
    };
    let plan = &copied.plan;
    let complete = copied.report.complete() && plan.failures.is_empty() && copied.state_failure.is_none();
    let printed = print(&match args.output {
        MirrorOutput::Json => machine(plan, &copied, complete),
        MirrorOutput::Text => people(plan, &copied),
    });
    let written = match &args.out {
        Some(directory) => {
            let releases = Releases::of(&resolved.wanted, plan);
            let catalogs = shown(&copied.catalogs, false);
            write_resources(directory, &prepared, plan, &releases, &catalogs, &copied.report, &before)
                .and_then(|()| write_report(directory, &machine(plan, &copied, complete)))
        }
        None => Ok(()),
    };
    if let Err(text) = written {
        return fail(&text);
    }
    if complete && printed == DONE { DONE } else { FAILED }
}

fn machine(plan: &Plan, copied: &Copied, complete: bool) -> String {
    let unresolved = plan.failures.iter();
    json(&Machine {
        complete,
        plan_digest: plan.digest().to_string(),
        report: &copied.report,
        catalogs: &copied.catalogs,
        unresolved: unresolved.map(|(origin, failure)| Unresolved { origin, failure }).collect(),
        state_failure: copied.state_failure.as_ref(),
    })
}

fn people(plan: &Plan, copied: &Copied) -> String {
    let items = &copied.report.items;
    let count = |wanted: fn(&Outcome) -> bool| items.iter().filter(|item| wanted(&item.outcome)).count();
    let failed = count(|outcome| matches!(outcome, Outcome::Failed(_))) + plan.failures.len();
    let stopped = count(|outcome| matches!(outcome, Outcome::Cancelled));
    let mut text = format!(
        "{}: {} copied, {} present, {failed} failed, {stopped} stopped, {} blocked; {} sent\n",
        counted(items.len() + plan.failures.len(), "image"),
        count(|outcome| matches!(outcome, Outcome::Copied)),
        count(|outcome| matches!(outcome, Outcome::Present)),
        plan.blocked.len(),
        HumanBytes(items.iter().map(|item| item.uploaded_bytes).sum()),
    );
    // Writing to a String cannot fail.
    let mut line = |name: String, failure: &Failure| writeln!(text, "  {name}\n    {failure}").ok();
    for (origin, failure) in &plan.failures {
        line(origin.to_string(), failure);
    }
    for item in items {
        if let Outcome::Failed(failure) = &item.outcome {
            line(item.destination.to_string(), failure);
        }
        for warning in &item.warnings {
            line(item.destination.to_string(), warning);
        }
    }
    for catalog in &copied.catalogs {
        for left in &catalog.left_out {
            let message = format!("without `{}`, since `{}` does not exist", left.bundle, left.image);
            line(format!("catalog {}", catalog.source), &Failure::permanent(Reason::SourceNotFound, message));
        }
    }
    if let Some(failure) = &copied.state_failure {
        line("record of what was mirrored".to_owned(), failure);
    }
    let failures = items.iter().filter_map(|item| match &item.outcome {
        Outcome::Failed(failure) => Some(failure),
        Outcome::Copied | Outcome::Present | Outcome::Cancelled => None,
    });
    let failures = plan.failures.iter().map(|(_, failure)| failure).chain(failures).chain(&copied.state_failure);
    text.push_str(&remedies(failures, stopped));
    text
}

/// What to do about each reason that occurred, outside a cluster, and whether the same command goes on.
fn remedies<'a>(failures: impl Iterator<Item = &'a Failure>, stopped: usize) -> String {
    let mut reasons: BTreeMap<Reason, usize> = BTreeMap::new();
    let mut transient = 0;
    for failure in failures {
        *reasons.entry(failure.reason).or_default() += 1;
        transient += usize::from(failure.transient);
    }
    let mut text = String::new();
    for (reason, count) in &reasons {
        if let Some(remedy) = remedy(*reason) {
            // Writing to a String cannot fail.
            writeln!(text, "{count} × {reason}: {remedy}").ok();
        }
    }
    if transient + stopped > 0 {
        text.push_str("the same command again goes on where this one has ended\n");
    }
    text
}

/// What a person at a command line can do; the messages have the rest.
fn remedy(reason: Reason) -> Option<&'static str> {
    Some(match reason {
        Reason::SourceAuth | Reason::TargetAuth => {
            "log in to the registry, or name a file with a login by `--authfile`"
        }
        Reason::TLSUntrusted => "give the authority's certificate with `--ca`",
        Reason::NetworkUnreachable => "check name, port and proxy variables; `--tls HOST=plain` if it has no TLS",
        Reason::SourceNotFound => "correct the name in the file, or leave the image out with `blockedImages`",
        Reason::SignatureMissing => {
            "name the signer's keys with `--signature-key` and its stores with `--signature-store`"
        }
        Reason::RateLimited => "wait, log in, or set `--concurrency` lower",
        Reason::DependencyFailed => "it follows as soon as what it needs is there",
        Reason::TargetRepoMissing => "create the repository in the target, or allow these credentials to",
        Reason::TargetQuota => "free space in the target, or raise its quota",
        Reason::ReferrersUnsupported => "leave signatures and referrers out with `--attachments skip`",
        _ => return None,
    })
}

/// Writes the result for machines.
fn write_report(directory: &Path, text: &str) -> Result<(), String> {
    let path = directory.join(REPORT);
    std::fs::write(&path, text).map_err(|error| format!("writing {}: {error}", path.display()))
}

/// What is there before a run.
#[derive(Default)]
struct Before {
    stored: Stored,
    /// Files for containerd, by key.
    hosts: BTreeMap<String, String>,
    /// The certificates of `--ca`.
    trust_bundle: Option<String>,
}

impl Before {
    fn read(directory: &Path, ca: Option<&Path>) -> Result<Self, String> {
        let text = |path: &Path| {
            std::fs::read_to_string(path).map_err(|error| format!("--out: reading {}: {error}", path.display()))
        };
        kustomization::check(directory)?;
        let mut hosts = BTreeMap::new();
        for folder in std::fs::read_dir(directory.join(HOSTS)).into_iter().flatten().flatten() {
            let file = folder.path().join(HOSTS_FILE);
            if !file.exists() {
                continue;
            }
            let found = text(&file)?;
            if owner_of(&found).is_none() {
                return Err(format!("--out: {} was not written by an earlier run", file.display()));
            }
            hosts.insert(key_in(&folder.file_name().to_string_lossy()), found);
            let bundle = folder.path().join(CA_KEY);
            if bundle.exists() {
                hosts.insert(CA_KEY.to_owned(), text(&bundle)?);
            }
        }
        Ok(Self { stored: stored(directory)?, hosts, trust_bundle: ca.map(text).transpose()? })
    }
}

/// What an earlier run wrote into the directory.
fn stored(directory: &Path) -> Result<Stored, String> {
    let mut data = BTreeMap::new();
    for key in manifest_keys() {
        let path = directory.join(&key);
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                data.insert(key, text);
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("--out: reading {}: {error}", path.display())),
        }
    }
    Stored::read(&data).map_err(|error| {
        let directory = directory.display();
        format!("--out: {directory} holds something else than an earlier run wrote there: {}", chain(&error))
    })
}

/// Writes what a cluster needs to use the mirror, as far as its content is there. What an earlier run wrote stays part of it,
/// and its files go only if everything is there and they are not made any more.
fn write_resources(
    directory: &Path,
    prepared: &Prepared,
    plan: &Plan,
    releases: &Releases,
    catalogs: &[Catalog],
    report: &Report,
    before: &Before,
) -> Result<(), String> {
    let verified: BTreeSet<usize> =
        report.items.iter().enumerate().filter(|(_, item)| item.complete()).map(|(index, _)| index).collect();
    let desired = published(prepared, plan, releases, catalogs, &verified, &before.stored);
    let failed = |path: &Path, error: std::io::Error| format!("writing {}: {error}", path.display());
    std::fs::create_dir_all(directory).map_err(|error| failed(directory, error))?;
    for (name, text) in &desired.manifests {
        let path = directory.join(name);
        std::fs::write(&path, text).map_err(|error| failed(&path, error))?;
    }
    let gone = manifest_keys().filter(|key| plan.complete(&verified) && !desired.manifests.contains_key(key));
    for path in gone.map(|key| directory.join(key)).filter(|path| path.exists()) {
        std::fs::remove_file(&path).map_err(|error| format!("removing {}: {error}", path.display()))?;
    }
    kustomization::write(directory, &prepared.request.identity)?;
    warn(&desired.notes.iter().map(|note| note.message.clone()).collect::<Vec<_>>());
    if prepared.request.cluster.containerd_hosts == Some(PublishPolicy::Disabled) {
        return Ok(());
    }
    write_hosts(&directory.join(HOSTS), prepared, plan, &verified, before)
}

/// Writes files for containerd as it expects them: the directory can be copied to a node.
fn write_hosts(
    directory: &Path,
    prepared: &Prepared,
    plan: &Plan,
    verified: &BTreeSet<usize>,
    before: &Before,
) -> Result<(), String> {
    let request = &prepared.request;
    let made = containerd_hosts(&HostsInputs {
        identity: &request.identity,
        target: &request.target,
        trust_bundle: before.trust_bundle.as_deref(),
        outputs: &request.cluster,
        plan,
        verified,
        before: &before.hosts,
    });
    let bundle = made.data.get(CA_KEY);
    for (folder, text) in made.data.iter().filter_map(|(key, text)| Some((folder_of(key)?, text))) {
        let folder = directory.join(folder);
        super::containerd_hosts::write(&folder, text, bundle.map(String::as_str))
            .map_err(|error| format!("writing {}: {error}", folder.display()))?;
    }
    let gone = before.hosts.keys().filter(|key| !made.data.contains_key(*key)).filter_map(|key| folder_of(key));
    for path in gone.map(|folder| directory.join(folder).join(HOSTS_FILE)) {
        std::fs::remove_file(&path).map_err(|error| format!("removing {}: {error}", path.display()))?;
    }
    warn(&made.notes.iter().map(|note| note.message.clone()).collect::<Vec<_>>());
    Ok(())
}

/// The catalogs for the cluster, with the templates that a file names by their paths; all of them count as there if that is
/// only planned.
pub(super) fn shown(reports: &[CatalogReport], planned: bool) -> Vec<Catalog> {
    let template_at = |path: &str| {
        let read = std::fs::read_to_string(path).map_err(|error| error.to_string());
        read.and_then(|text| template(&text).map(|_| Template::Text(text)))
    };
    let shown = |report: &CatalogReport| Catalog {
        source: report.source.clone(),
        target: report.target.clone(),
        digest: report.target_digest.clone(),
        published: report.published || planned,
        template: report.template.as_deref().map_or(Template::Plain, |path| {
            template_at(path).unwrap_or_else(|why| {
                warn(&[format!("`targetCatalogSourceTemplate: {path}` is left out: {why}")]);
                Template::Plain
            })
        }),
    };
    reports.iter().map(shown).collect()
}

/// The cluster resources without a cluster: all of them published, none applied.
pub(super) fn published(
    prepared: &Prepared,
    plan: &Plan,
    releases: &Releases,
    catalogs: &[Catalog],
    verified: &BTreeSet<usize>,
    stored: &Stored,
) -> Desired {
    let cluster = ClusterSnapshot {
        idms_access: Access::NotServed,
        itms_access: Access::NotServed,
        ..ClusterSnapshot::default()
    };
    let request = &prepared.request;
    let mut desired = Desired::new(&Inputs {
        identity: &request.identity,
        target: &request.target,
        outputs: &request.cluster,
        mode: Mode::Mirror,
        plan,
        verified,
        cluster: &cluster,
        stored,
    });
    let extras = Extras::new(&ExtraInputs {
        identity: &request.identity,
        outputs: &request.cluster,
        mode: Mode::Mirror,
        releases,
        catalogs,
        plan,
        verified,
        cluster: &ExtraSnapshot {
            signatures_access: Access::NotServed,
            update_service_access: Access::NotServed,
            catalog_source_access: Access::NotServed,
            cluster_catalog_access: Access::NotServed,
            ..ExtraSnapshot::default()
        },
        stored,
    });
    desired.manifests.extend(extras.manifests);
    desired
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Args, Command};
    use crate::copy::ItemReport;
    use crate::oci::Digest;
    use crate::plan::{TargetId, TargetRoot};
    use crate::request::AdditionalImage;
    use crate::resolve::{Document, Documents, Step, Wanted, additional};
    use crate::resources::Release;

    fn prepared(dir: &Path, images: &str) -> Prepared {
        let (file, auth) = (dir.join("a.yaml"), dir.join("auth.json"));
        let head = "apiVersion: mirror.openshift.io/v1alpha1\nkind: ImageSetMirror\nmetadata: {name: a}\n";
        std::fs::write(&auth, "{}").unwrap();
        std::fs::write(
            &file,
            format!("{head}spec: {{mirror: {{additionalImages: [{images}]}}, target: {{registry: m.io}}}}\n"),
        )
        .unwrap();
        let line = ["imageset-mirror", "plan", "-f", file.to_str().unwrap(), "--authfile", auth.to_str().unwrap()];
        let Command::Plan(args) = Args::parse_from(line).command else { panic!() };
        prepare(&args.file).unwrap()
    }

    fn wanted(images: &[AdditionalImage]) -> Wanted {
        match additional::step(images, &Documents::new()) {
            Step::Done(wanted) => wanted,
            Step::Need(keys) => {
                let found = keys.into_iter().map(|key| (key, Ok(Document::Digest(Digest::of(b"x")))));
                let Step::Done(wanted) = additional::step(images, &found.collect()) else { panic!() };
                wanted
            }
        }
    }

    #[test]
    fn each_reason_is_told_once_with_what_to_do() {
        let failures = [
            Failure::permanent(Reason::SourceNotFound, "a"),
            Failure::permanent(Reason::SourceNotFound, "b"),
            Failure::transient(Reason::NetworkUnreachable, "c"),
        ];
        assert_eq!(
            remedies(failures.iter(), 0),
            "2 × SourceNotFound: correct the name in the file, or leave the image out with `blockedImages`\n1 × \
             NetworkUnreachable: check name, port and proxy variables; `--tls HOST=plain` if it has no TLS\nthe same command \
             again goes on where this one has ended\n"
        );
        assert!(!remedies(failures.iter().take(2), 0).contains("goes on"));
        assert!(remedies(std::iter::empty(), 3).contains("goes on"));
        assert_eq!(remedies(std::iter::empty(), 0), "");
    }

    #[test]
    fn a_run_that_fails_keeps_the_rules_of_an_earlier_one() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let prepared = prepared(dir.path(), "{name: 'quay.io/a/x:1'}, {name: 'quay.io/b/y:1'}");
        let root = TargetRoot { registry: prepared.request.target.registry.clone(), prefix: None };
        let plan = Plan::new(&wanted(&prepared.request.additional), &root, &[], TargetId("t".to_owned())).unwrap();
        let report = |outcomes: [Outcome; 2]| {
            let items = plan.items.iter().zip(outcomes).map(|(item, outcome)| ItemReport {
                destination: item.destination.clone(),
                digest: item.digest.clone(),
                outcome,
                uploaded_bytes: 0,
                mounted_bytes: 0,
                present_bytes: 0,
                resumed: 0,
                retried: 0,
                restored: false,
                warnings: Vec::new(),
            });
            Report { version: Report::VERSION, target: plan.target.clone(), items: items.collect() }
        };
        let release = Release {
            version: "4.18.1".to_owned(),
            architecture: "amd64".to_owned(),
            digest: plan.items[1].digest.clone(),
            payload: plan.items[1].destination.clone(),
            signatures: vec![b"signed".to_vec()],
        };
        let releases = Releases { list: vec![release], ..Releases::default() };
        let signatures = || std::fs::read_to_string(out.join("signatures.yaml")).ok();
        let run = |outcomes| {
            let before = Before::read(&out, None).unwrap();
            write_resources(&out, &prepared, &plan, &releases, &[], &report(outcomes), &before).unwrap();
            std::fs::read_to_string(out.join("itms.yaml")).unwrap()
        };
        std::fs::create_dir(&out).unwrap();
        for name in ["idms-pending.yaml", "mine.yaml"] {
            std::fs::write(out.join(name), "").unwrap();
        }
        run([Outcome::Present, Outcome::Cancelled]);
        assert_eq!(signatures(), None, "the payload is not there");
        let whole = run([Outcome::Present, Outcome::Copied]);
        assert!(signatures().unwrap().contains("openshift-config-managed"));
        assert!(whole.contains("quay.io/a") && whole.contains("quay.io/b"), "{whole}");
        assert_eq!(run([Outcome::Present, Outcome::Cancelled]), whole);
        assert!(signatures().is_some());
        let kustomization = std::fs::read_to_string(out.join(kustomization::FILE)).unwrap();
        assert!(kustomization.ends_with("resources:\n- itms.yaml\n- signatures.yaml\n"), "{kustomization}");
        assert!(!out.join("idms-pending.yaml").exists() && out.join("mine.yaml").exists());
        std::fs::write(out.join("itms.yaml"), "no: set\n").unwrap();
        assert!(stored(&out).unwrap_err().starts_with("--out: "));
        let hosts = out.join("certs.d/quay.io/hosts.toml");
        assert!(std::fs::read_to_string(&hosts).unwrap().contains("[host.\"https://m.io\"]"));
        std::fs::write(&hosts, "server = \"https://mine.io\"\n").unwrap();
        std::fs::remove_file(out.join("itms.yaml")).unwrap();
        assert!(Before::read(&out, None).err().unwrap().contains("was not written by an earlier run"));
    }
}
