//! A plan of images that are all there, and commands that only print.

use anyhow::{Result, ensure};
use e2e::process::{RunFolder, tail};
use e2e::registry::Options;

use super::contender::{Contender, Route};
use super::measure::{self, Cost, Launch};
use super::{kinds, recheck, requests};

/// How often a command that only prints is run: the median counts.
const TIMES: usize = 21;

/// Mirrors this many images, then plans them again in every form, and prints what that costs.
pub(crate) async fn run(images: usize) -> Result<()> {
    let (source, target) = (Options::distribution("source"), Options::distribution("target"));
    let (source, target) = tokio::try_join!(source.start(), target.start())?;
    let items = recheck::fill(&source.remote()?, images).await?;
    let run = RunFolder::create("plan")?;
    let route = Route { source: source.host(), target: target.host(), ca: None };
    let launch = Contender::Ours.launch(&items, &route, &run)?;
    // Names and flags of the file are the same for each command that reads it.
    let form = |name: &[&str]| {
        let mut changed = launch.clone();
        for command in &mut changed.commands {
            command.splice(1..2, name.iter().map(|word| (*word).to_owned()));
        }
        changed
    };
    cost(&launch, &run).await?;
    for words in [&["plan"][..], &["plan", "--diff"], &["plan", "--resources"], &["plan", "-o", "mapping"]] {
        let marks = [source.mark().await?, target.mark().await?];
        let cost = cost(&form(words), &run).await?;
        let [at_source, at_target] = requests(&source, &target, marks).await?;
        crate::print(&format!(
            "{images} images, {}: {:.2} s, {:.2} CPU s, {} MiB; source {:?}; target {:?}",
            words.join(" "),
            cost.wall,
            cost.cpu,
            cost.bytes >> 20,
            kinds(&at_source),
            kinds(&at_target)
        ));
    }
    let program = e2e::operator::binary()?.display().to_string();
    run.write("small.yaml", "kind: ImageSetConfiguration\nmirror: {additionalImages: [{name: 'quay.io/a/b:1'}]}\n")?;
    let small = run.path().join("small.yaml").display().to_string();
    for words in [
        &["--help"][..],
        &["mirror", "--help"],
        &["completions", "bash"],
        &["man", "mirror"],
        &["convert", "-f", &small, "--to", "registry.example.com"],
    ] {
        let command = std::iter::once(program.clone()).chain(words.iter().map(|word| (*word).to_owned())).collect();
        let once = Launch { commands: vec![command], ..launch.clone() };
        let mut walls = Vec::new();
        for _ in 0..TIMES {
            walls.push(cost(&once, &run).await?.wall);
        }
        walls.sort_by(f64::total_cmp);
        let shown = words.join(" ").replace(&small, "FILE");
        crate::print(&format!("{shown}: {:.1} ms", walls.get(TIMES / 2).copied().unwrap_or_default() * 1000.0));
    }
    Ok(())
}

async fn cost(launch: &Launch, run: &RunFolder) -> Result<Cost> {
    let cost = measure::run(launch).await?;
    ensure!(cost.failed == 0, "{}", tail(&run.path().join("output")));
    Ok(cost)
}
