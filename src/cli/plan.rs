//! `plan`: what a sync would do; copies nothing.

use std::fmt::Write as _;

use indicatif::HumanBytes;
use serde::Serialize;

use super::input::{Prepared, prepare};
use super::mirror::{published, shown};
use super::output::{counted, fail, json, print, refuse, warn};
use super::{FAILED, PlanArgs, PlanOutput};
use crate::copy::{Finding, Stop, Survey, Trust};
use crate::failure::Failure;
use crate::plan::{Content, Diff, Plan};
use crate::resolve::operators::PackageSummary;
use crate::resources::{Desired, Releases, Stored};
use crate::sync::{CatalogReport, PlacedCatalog, Resolved, reports};

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
    #[serde(skip_serializing_if = "Vec::is_empty")]
    catalogs: Vec<MachineCatalog<'a>>,
}

/// A catalog, and what is selected of it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MachineCatalog<'a> {
    #[serde(flatten)]
    about: CatalogReport,
    content: &'a [PackageSummary],
}

/// What changes, for machines.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MachineDiff<'a> {
    plan_digest: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous_digest: Option<String>,
    #[serde(flatten)]
    diff: &'a Diff<'a>,
}

/// Runs the command.
pub(super) async fn run(args: PlanArgs) -> u8 {
    let prepared = match prepare(&args.file) {
        Ok(prepared) => prepared,
        Err(wrong) => return refuse(&wrong),
    };
    if args.diff && matches!(args.output, PlanOutput::Mapping | PlanOutput::Dot) {
        return refuse(&["--diff: is shown with `-o table` or `-o json`".to_owned()]);
    }
    warn(&prepared.warnings);
    // The others say what is wanted, also to somebody who cannot reach the target.
    let compared = args.diff || !args.resources && matches!(args.output, PlanOutput::Table | PlanOutput::Json);
    let trust = if compared { Trust::Remembered } else { Trust::Nothing };
    let resolved = match prepared.resolve(trust).await {
        Ok(resolved) => resolved,
        Err(error) => return refuse(&error.messages()),
    };
    let plan = &resolved.plan;
    for (origin, failure) in &plan.failures {
        warn(&[format!("{origin}: {failure}")]);
    }
    let shown = if args.resources {
        Ok((manifests(&prepared, &resolved), false))
    } else if args.diff {
        differences(&prepared, &resolved, args.output).await.map(|text| (text, false))
    } else {
        match args.output {
            PlanOutput::Mapping => Ok((plan.mapping().into_iter().map(|line| line + "\n").collect(), false)),
            PlanOutput::Dot => Ok((plan.dot(), false)),
            PlanOutput::Table | PlanOutput::Json => surveyed(&prepared, &resolved, args.output).await,
        }
    };
    let (text, failed) = match shown {
        Ok(shown) => shown,
        Err(failure) => return fail(&failure.to_string()),
    };
    let printed = print(&text);
    if failed || !plan.failures.is_empty() { FAILED } else { printed }
}

/// What is there and what is not, and whether something could not be found out.
async fn surveyed(prepared: &Prepared, resolved: &Resolved, output: PlanOutput) -> Result<(String, bool), Failure> {
    let plan = &resolved.plan;
    let copy = prepared.copy(resolved, &String::new);
    let (survey, added, removed) = copy.survey(plan, &Stop::default()).await?;
    let desired = everything(prepared, resolved);
    let failed = survey.items.iter().any(|item| matches!(item.finding, Finding::Failed(_)));
    let text = match output {
        PlanOutput::Json => json(&Machine {
            plan_digest: plan.digest().to_string(),
            plan,
            survey: &survey,
            added,
            removed,
            missing_bytes: survey.items.iter().map(|item| item.missing_bytes).sum(),
            present_bytes: survey.items.iter().map(|item| item.present_bytes).sum(),
            resources: &desired.manifests,
            catalogs: reports(&resolved.catalogs)
                .into_iter()
                .zip(resolved.catalogs.iter())
                .map(|(about, catalog)| MachineCatalog { about, content: &catalog.wanted.selected.packages })
                .collect(),
        }),
        PlanOutput::Table | PlanOutput::Mapping | PlanOutput::Dot => {
            table(plan, &survey, added, removed, &desired) + &trees(&resolved.catalogs)
        }
    };
    Ok((text, failed))
}

/// The cluster resources of a run in which everything arrives.
fn everything(prepared: &Prepared, resolved: &Resolved) -> Desired {
    let all = (0..resolved.plan.items.len()).collect();
    let releases = Releases::of(&resolved.wanted, &resolved.plan);
    let catalogs = shown(&reports(&resolved.catalogs), true);
    published(prepared, &resolved.plan, &releases, &catalogs, &all, &Stored::default())
}

fn manifests(prepared: &Prepared, resolved: &Resolved) -> String {
    let desired = everything(prepared, resolved);
    warn(&desired.notes.iter().map(|note| note.message.clone()).collect::<Vec<_>>());
    if desired.manifests.is_empty() {
        warn(&["nothing would be written to a cluster".to_owned()]);
    }
    desired.manifests.into_values().collect()
}

async fn differences(prepared: &Prepared, resolved: &Resolved, output: PlanOutput) -> Result<String, Failure> {
    let plan = &resolved.plan;
    let previous = prepared.copy(resolved, &String::new).last_plan().await?;
    if previous.is_none() {
        let name = &prepared.request.identity.name;
        warn(&[format!("no earlier `mirror` of `{name}` has left a plan in the target, so everything is new")]);
    }
    let diff = plan.diff(previous.as_ref());
    Ok(match output {
        PlanOutput::Json => json(&MachineDiff {
            plan_digest: plan.digest().to_string(),
            previous_digest: previous.as_ref().map(|previous| previous.digest().to_string()),
            diff: &diff,
        }),
        PlanOutput::Table | PlanOutput::Mapping | PlanOutput::Dot => diff_table(&diff),
    })
}

fn diff_table(diff: &Diff<'_>) -> String {
    let row = |what: &str, content: String, destination: &dyn std::fmt::Display, source: &str| {
        [what.to_owned(), content, destination.to_string(), source.to_owned()]
    };
    let mut rows = vec![["CHANGE", "CONTENT", "DESTINATION", "SOURCE"].map(str::to_owned)];
    rows.extend(diff.added.iter().map(|new| row("added", short(new.content), new.destination, &new.source)));
    rows.extend(diff.changed.iter().map(|change| {
        let content = format!("{} -> {}", short(change.before), short(change.after));
        row("changed", content, change.destination, &change.source)
    }));
    rows.extend(diff.removed.iter().map(|old| row("removed", short(old.content), old.destination, &old.source)));
    rows.extend(diff.undecided.iter().map(|old| row("undecided", short(old.content), old.destination, &old.source)));
    let mut text = if diff.is_empty() { String::new() } else { aligned(&rows) + "\n" };
    let counts = [
        (diff.added.len(), "added"),
        (diff.changed.len(), "changed"),
        (diff.removed.len(), "removed"),
        (diff.undecided.len(), "undecided, since this plan does not know of everything"),
    ];
    let counts = counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"));
    let counts = counts.collect::<Vec<_>>().join(", ");
    text.push_str(if counts.is_empty() { "nothing changes" } else { &counts });
    text.push('\n');
    text
}

/// Enough of a digest to tell two apart, and the platforms.
fn short(content: Content<'_>) -> String {
    let digest = content.digest.hex().get(..12).unwrap_or_default();
    if content.platforms.is_empty() {
        return digest.to_owned();
    }
    let platforms: Vec<_> = content.platforms.iter().map(String::as_str).collect();
    format!("{digest} ({})", platforms.join(", "))
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

/// What is selected of each catalog: its packages, their channels, and the versions in these.
fn trees(catalogs: &[PlacedCatalog]) -> String {
    let mut text = String::new();
    for (catalog, about) in catalogs.iter().zip(reports(catalogs)) {
        let (packages, bundles) = (counted(about.packages, "package"), counted(about.bundles, "bundle"));
        let images = counted(about.images, "image");
        // Writing to a String cannot fail.
        writeln!(text, "\n{} -> {}: {packages}, {bundles}, {images}", about.source, about.target).ok();
        for package in &catalog.wanted.selected.packages {
            writeln!(text, "  {}", package.name).ok();
            for channel in &package.channels {
                let default = if channel.name == package.default_channel { " (default)" } else { "" };
                writeln!(text, "    {}{default}: {}", channel.name, channel.versions.join(", ")).ok();
            }
        }
        for note in &about.notes {
            writeln!(text, "  note: {note}").ok();
        }
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
    use std::collections::BTreeSet;

    use super::*;
    use crate::oci::{Digest, Reference};
    use crate::plan::{Change, Entry};

    #[test]
    fn columns_line_up_and_lines_do_not_end_in_spaces() {
        let cell = |text: &str| text.to_owned();
        let text = aligned(&[[cell("A"), cell("B")], [cell("long"), cell("")]]);
        assert_eq!(text, "A     B\nlong\n");
    }

    #[test]
    fn a_difference_is_a_line_for_each_place_and_a_count() {
        let (old, new, platforms) =
            (Digest::of(b"old"), Digest::of(b"new"), BTreeSet::from(["linux/arm64".to_owned()]));
        let places = ["m.io/a:1", "m.io/b:1", "m.io/c:1"].map(|place| place.parse::<Reference>().unwrap());
        let [a, b, c] = &places;
        let none = BTreeSet::new();
        let of = |digest| Content { digest, platforms: &none };
        let source = || "q.io/x:1".to_owned();
        let diff = Diff {
            added: vec![Entry { destination: a, source: source(), content: of(&new) }],
            changed: vec![Change {
                destination: b,
                source: source(),
                before: of(&old),
                after: Content { digest: &new, platforms: &platforms },
            }],
            removed: vec![Entry { destination: c, source: source(), content: of(&old) }],
            undecided: Vec::new(),
        };
        insta::assert_snapshot!(diff_table(&diff), @r"
        CHANGE   CONTENT                                     DESTINATION  SOURCE
        added    11507a0e2f5e                                m.io/a:1     q.io/x:1
        changed  cba06b5736fa -> 11507a0e2f5e (linux/arm64)  m.io/b:1     q.io/x:1
        removed  cba06b5736fa                                m.io/c:1     q.io/x:1

        1 added, 1 changed, 1 removed
        ");
        assert_eq!(diff_table(&Diff::default()), "nothing changes\n");
    }
}
