//! `mirror`: one sync without a cluster.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use indicatif::HumanBytes;
use serde::Serialize;

use super::input::{Prepared, prepare};
use super::output::{counted, fail, json, print, refuse, warn};
use super::progress::Progress;
use super::{DONE, FAILED, MirrorArgs, MirrorOutput};
use crate::api::Mode;
use crate::clock::Clock;
use crate::copy::{Outcome, Report, Stop, Trust};
use crate::failure::Failure;
use crate::plan::Plan;
use crate::resolve::Origin;
use crate::resources::{Access, ClusterSnapshot, Desired, Inputs, Stored};
use crate::state::Memory;
use crate::sync::{Copied, Copy, resolve};

/// The result for machines.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Machine<'a> {
    complete: bool,
    plan_digest: String,
    report: &'a Report,
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
    let resolved = match resolve(&prepared.request, &prepared.sides.source).await {
        Ok(resolved) => resolved,
        Err(error) => return refuse(&error.messages()),
    };
    let plan = &resolved.plan;
    let memory = Memory::default();
    let clock = Clock::system();
    let now = move || clock.now_in_seconds().to_string();
    let copy = Copy {
        request: &prepared.request,
        sides: &prepared.sides,
        throttle: prepared.throttle.clone(),
        place: &prepared.place,
        memory: &memory,
        trust: Trust::Remembered,
        now: &now,
    };
    let progress = Progress::new(plan.items.len());
    let stop = Stop::default();
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
    let complete = copied.report.complete() && plan.failures.is_empty() && copied.state_failure.is_none();
    let text = match args.output {
        MirrorOutput::Json => machine(plan, &copied, complete),
        MirrorOutput::Text => people(plan, &copied),
    };
    let printed = print(&text);
    let written = match &args.out {
        Some(directory) => write_resources(directory, &prepared, plan, &copied.report),
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
    if let Some(failure) = &copied.state_failure {
        line("record of what was mirrored".to_owned(), failure);
    }
    text
}

/// Writes what a cluster needs to use the mirror, as far as its content is there.
fn write_resources(directory: &Path, prepared: &Prepared, plan: &Plan, report: &Report) -> Result<(), String> {
    let verified: BTreeSet<usize> =
        report.items.iter().enumerate().filter(|(_, item)| item.complete()).map(|(index, _)| index).collect();
    let desired = published(prepared, plan, &verified);
    let failed = |path: &Path, error: std::io::Error| format!("writing {}: {error}", path.display());
    std::fs::create_dir_all(directory).map_err(|error| failed(directory, error))?;
    for (name, text) in &desired.manifests {
        let path = directory.join(name);
        std::fs::write(&path, text).map_err(|error| failed(&path, error))?;
    }
    warn(&desired.notes.iter().map(|note| note.message.clone()).collect::<Vec<_>>());
    Ok(())
}

/// The cluster resources without a cluster: all of them published, none applied.
pub(super) fn published(prepared: &Prepared, plan: &Plan, verified: &BTreeSet<usize>) -> Desired {
    let cluster = ClusterSnapshot {
        idms_access: Access::NotServed,
        itms_access: Access::NotServed,
        ..ClusterSnapshot::default()
    };
    Desired::new(&Inputs {
        identity: &prepared.request.identity,
        target: &prepared.request.target,
        outputs: &prepared.request.cluster,
        mode: crate::api::Mode::Mirror,
        plan,
        verified,
        cluster: &cluster,
        stored: &Stored::default(),
    })
}
