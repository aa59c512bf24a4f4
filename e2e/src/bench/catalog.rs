//! A catalog of the size of Red Hat's, cut down to a few packages: what that costs, beside what `opm` needs to read it.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use e2e::process::{RunFolder, tail};
use e2e::tools::{self, Tool};
use serde_json::{Value, json};

use super::measure::{self, Cost, Launch};
use super::report::machine;

const PACKAGES: usize = 200;
const BUNDLES: usize = 30;
const BUNDLES_PER_FILE: usize = 5;
/// Bytes of the least and of the most that a bundle says of itself.
const TEXT: (usize, usize) = (15_000, 54_000);
/// Packages that are selected.
const SELECTED: usize = 10;

/// What ours may take: seconds of processors, MiB, and shares of the time and of the memory of `opm`.
const LIMITS: [(&str, f64); 4] =
    [("processor seconds", 3.0), ("MiB", 200.0), ("time ÷ opm", 0.25), ("memory ÷ opm", 0.25)];

/// Measures both in turn and prints medians.
pub(crate) async fn run(runs: usize) -> Result<()> {
    let opm = tokio::task::spawn_blocking(|| tools::ensure(Tool::Opm)).await??;
    let run = RunFolder::create("catalog")?;
    let folder = run.folder("configs")?;
    tools::say("writing a catalog");
    let (files, bytes) = write(&folder)?;
    let every = PACKAGES / SELECTED;
    let packages: Vec<_> = (0..PACKAGES).step_by(every).map(|number| json!({"name": package(number)})).collect();
    let content = json!({
        "apiVersion": "mirror.openshift.io/v2alpha1", "kind": "ImageSetConfiguration",
        "mirror": {"operators": [{"catalog": "registry.example.com/index:v1", "packages": packages}]},
    });
    let file = run.write("imageset.yaml", content.to_string())?;
    let words = |program: &Path, args: &[&str], last: [&Path; 1]| {
        let args = args.iter().map(|&arg| arg.to_owned());
        let all = std::iter::once(text(program)).chain(args).chain(last.map(text));
        all.collect::<Vec<_>>()
    };
    let commands = [
        words(&e2e::operator::binary()?, &["catalog", "filter", "-f", &text(&file)], [&folder]),
        words(&opm, &["render", "-o", "json"], [&folder]),
    ];
    let mut costs = [Vec::new(), Vec::new()];
    for number in 1..=runs {
        for (command, costs) in commands.iter().zip(&mut costs) {
            tools::say(&format!("{}, run {number}", command.join(" ")));
            let launch = Launch {
                folder: run.path().to_owned(),
                jobs: 1,
                commands: vec![command.clone()],
                env: vec![("HOME".to_owned(), text(run.path()))],
                stdin: None,
            };
            let cost = measure::run(&launch).await?;
            let output = run.path().join("output");
            ensure!(cost.failed == 0, "{}", tail(&output));
            // That of opm is as large as the catalog.
            fs::remove_file(output)?;
            costs.push(cost);
        }
    }
    let [ours, theirs] = costs.map(|costs| Median::of(&costs));
    let mut page = format!(
        "## A catalog of {files} files and {} MiB with {} bundles, cut down to {SELECTED} of {PACKAGES} packages\n\n{}Medians of {runs} \
         runs, in turn. `opm {}` renders all of it; ours is `catalog filter`, {}.\n\n| | wall s | CPU s | peak MiB |\n| --- | --- | \
         --- | --- |\n",
        bytes >> 20,
        PACKAGES * BUNDLES,
        machine(),
        Tool::Opm.version(),
        super::revision(),
    );
    for (name, median) in [("imageset-mirror", &ours), ("opm", &theirs)] {
        writeln!(page, "| {name} | {:.2} | {:.2} | {:.0} |", median.wall, median.cpu, median.mebibytes)?;
    }
    page.push_str("\n| goal | limit | measured | |\n| --- | --- | --- | --- |\n");
    let found = [ours.cpu, ours.mebibytes, ours.wall / theirs.wall, ours.mebibytes / theirs.mebibytes];
    for ((what, limit), found) in LIMITS.into_iter().zip(found) {
        let verdict = if found <= limit { "met" } else { "**missed**" };
        writeln!(page, "| {what} | {limit} | {found:.3} | {verdict} |")?;
    }
    crate::print(&page);
    Ok(())
}

struct Median {
    wall: f64,
    cpu: f64,
    mebibytes: f64,
}

impl Median {
    #[expect(clippy::cast_precision_loss, reason = "shown without digits")]
    fn of(costs: &[Cost]) -> Self {
        let middle = |of: fn(&Cost) -> f64| {
            let mut numbers: Vec<f64> = costs.iter().map(of).collect();
            numbers.sort_by(f64::total_cmp);
            numbers.get(numbers.len() / 2).copied().unwrap_or_default()
        };
        Self {
            wall: middle(|cost| cost.wall),
            cpu: middle(|cost| cost.cpu),
            mebibytes: middle(|cost| cost.bytes as f64 / f64::from(1 << 20)),
        }
    }
}

/// Writes the catalog; tells how many files it has, and bytes.
fn write(folder: &Path) -> Result<(usize, usize)> {
    let mut random = fastrand::Rng::with_seed(1);
    let (mut files, mut bytes) = (0, 0);
    for number in 0..PACKAGES {
        let name = package(number);
        let own = folder.join(&name);
        fs::create_dir(&own)?;
        let entries: Vec<_> = (0..BUNDLES)
            .map(|version| match version.checked_sub(1) {
                Some(older) => json!({"name": bundle(&name, version), "replaces": bundle(&name, older)}),
                None => json!({"name": bundle(&name, version)}),
            })
            .collect();
        let mut parts = vec![
            vec![json!({"schema": "olm.package", "name": name, "defaultChannel": "stable"})],
            vec![json!({"schema": "olm.channel", "package": name, "name": "stable", "entries": entries})],
        ];
        let bundles: Vec<_> = (0..BUNDLES).map(|version| document(&name, version, &mut random)).collect();
        parts.extend(bundles.chunks(BUNDLES_PER_FILE).map(<[Value]>::to_vec));
        for (part, documents) in parts.iter().enumerate() {
            let texts: Vec<_> = documents.iter().map(serde_json::to_string_pretty).collect::<Result<_, _>>()?;
            let text = texts.join("\n");
            files += 1;
            bytes += text.len();
            fs::write(own.join(format!("{part}.json")), text)?;
        }
    }
    Ok((files, bytes))
}

fn package(number: usize) -> String {
    format!("operator-{number:03}")
}

fn bundle(package: &str, version: usize) -> String {
    format!("{package}.v1.{version}.0")
}

fn document(package: &str, version: usize, random: &mut fastrand::Rng) -> Value {
    let image = |part: &str| format!("registry.example.com/{package}/{part}@sha256:{:064x}", version + part.len());
    let related: Vec<_> =
        ["bundle", "operator", "operand"].map(|part| json!({"name": part, "image": image(part)})).into();
    let (least, most) = TEXT;
    let length = random.usize(least..most);
    // Examples are JSON in a string: text full of escapes.
    let examples = prose(random, length / 2).replace(' ', "\": \"\n");
    json!({
        "schema": "olm.bundle", "package": package, "name": bundle(package, version), "image": image("bundle"),
        "properties": [
            {"type": "olm.package", "value": {"packageName": package, "version": format!("1.{version}.0")}},
            {"type": "olm.gvk", "value": {"group": format!("{package}.example.com"), "kind": "Thing", "version": "v1"}},
            {"type": "olm.csv.metadata", "value": {
                "annotations": {"alm-examples": examples},
                "description": prose(random, length / 2),
            }},
        ],
        "relatedImages": related,
    })
}

fn prose(random: &mut fastrand::Rng, length: usize) -> String {
    std::iter::repeat_with(|| if random.usize(0..7) == 0 { ' ' } else { random.lowercase() }).take(length).collect()
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
