//! `plan`: what a sync would do; copies nothing.

use std::fmt::Write as _;
use std::sync::Arc;

use indicatif::HumanBytes;
use serde::Serialize;

use super::input::prepare;
use super::mirror::published;
use super::output::{counted, fail, json, print, refuse, warn};
use super::{FAILED, PlanArgs, PlanOutput};
use crate::copy::{Finding, Stop, Survey};
use crate::plan::Plan;
use crate::resources::{Desired, Releases, Stored};
use crate::state::Memory;
use crate::sync::resolve;

/// The result for machines.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Machine<'a> {
    plan_digest: String,
    plan: &'a Plan,
    survey: &'a Survey,
    added: usize,
    removed: usize,
    missing_bytes: u64,
    present_bytes: u64,
    resources: &'a std::collections::BTreeMap<String, String>,
}

/// Runs the command.
pub(super) async fn run(args: PlanArgs) -> u8 {
    let prepared = match prepare(&args.file) {
        Ok(prepared) => prepared,
        Err(wrong) => return refuse(&wrong),
    };
    warn(&prepared.warnings);
    let resolved = match resolve(&prepared.request, &prepared.sides, &Arc::default()).await {
        Ok(resolved) => resolved,
        Err(error) => return refuse(&error.messages()),
    };
    let plan = &resolved.plan;
    for (origin, failure) in &plan.failures {
        warn(&[format!("{origin}: {failure}")]);
    }
    let drawn = match args.output {
        PlanOutput::Mapping => Some(plan.mapping().into_iter().map(|line| line + "\n").collect()),
        PlanOutput::Dot => Some(plan.dot()),
        PlanOutput::Table | PlanOutput::Json => None,
    };
    if let Some(text) = drawn {
        let printed = print(&text);
        return if plan.failures.is_empty() { printed } else { FAILED };
    }
    let memory = Memory::default();
    let copy = prepared.copy(&resolved, &memory, &String::new);
    let (survey, added, removed) = match copy.survey(plan, &Stop::default()).await {
        Ok(survey) => survey,
        Err(failure) => return fail(&failure.to_string()),
    };
    let all = (0..plan.items.len()).collect();
    let releases = Releases::of(&resolved.wanted, &resolved.plan);
    let desired = published(&prepared, plan, &releases, &all, &Stored::default());
    let failed = survey.items.iter().any(|item| matches!(item.finding, Finding::Failed(_)));
    let text = match args.output {
        PlanOutput::Json => json(&Machine {
            plan_digest: plan.digest().to_string(),
            plan,
            survey: &survey,
            added,
            removed,
            missing_bytes: survey.items.iter().map(|item| item.missing_bytes).sum(),
            present_bytes: survey.items.iter().map(|item| item.present_bytes).sum(),
            resources: &desired.manifests,
        }),
        PlanOutput::Table | PlanOutput::Mapping | PlanOutput::Dot => table(plan, &survey, added, removed, &desired),
    };
    let printed = print(&text);
    if failed || !plan.failures.is_empty() { FAILED } else { printed }
}

fn table(plan: &Plan, survey: &Survey, added: usize, removed: usize, desired: &Desired) -> String {
    let mut rows = vec![["STATE".to_owned(), "TO COPY".to_owned(), "DESTINATION".to_owned(), "SOURCE".to_owned()]];
    for (item, found) in plan.items.iter().zip(&survey.items) {
        let state = match &found.finding {
            Finding::Present => "present".to_owned(),
            Finding::Missing => "missing".to_owned(),
            Finding::Failed(failure) => failure.reason.to_string(),
        };
        let source = item.pulled().map(|source| source.to_string()).unwrap_or_default();
        rows.push([state, HumanBytes(found.missing_bytes).to_string(), item.destination.to_string(), source]);
    }
    let mut text = aligned(&rows);
    let sum = |bytes: fn(&crate::copy::Surveyed) -> u64| HumanBytes(survey.items.iter().map(bytes).sum());
    // Writing to a String cannot fail.
    writeln!(
        text,
        "\n{}, {added} new and {removed} gone since the last sync, {} blocked, {} not resolved\n{} to copy, {} present",
        counted(plan.items.len(), "image"),
        plan.blocked.len(),
        plan.failures.len(),
        sum(|item| item.missing_bytes),
        sum(|item| item.present_bytes),
    )
    .ok();
    for item in plan.items.iter().zip(&survey.items) {
        if let Finding::Failed(failure) = &item.1.finding {
            writeln!(text, "{}: {failure}", item.0.destination).ok();
        }
    }
    // Just written by us, so it can be read.
    for set in Stored::read(&desired.manifests).unwrap_or_default().published {
        let rules = set.entries();
        writeln!(text, "\n{}: {}", set.kind().kind(), counted(rules.len(), "rule")).ok();
        for (source, entry) in rules {
            writeln!(text, "  {source} -> {}", entry.mirrors.join(", ")).ok();
        }
    }
    for note in &desired.notes {
        writeln!(text, "note: {}", note.message).ok();
    }
    text
}

/// Columns as wide as their widest cell, the last one as it is.
fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(widths).enumerate();
        let line: String = cells
            .map(|(index, (cell, width))| if index + 1 == N { cell.clone() } else { format!("{cell:<width$}  ") })
            .collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_do_not_end_in_spaces() {
        let cell = |text: &str| text.to_owned();
        let text = aligned(&[[cell("A"), cell("B")], [cell("long"), cell("")]]);
        assert_eq!(text, "A     B\nlong\n");
    }
}
